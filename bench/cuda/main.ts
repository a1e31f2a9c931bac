// The suite that compares attention on a GPU.

import { execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { devices } from 'node-attention';
import type { Plan } from '../measure';
import { NothingToMeasure, type Progress, type Suite, type SuiteOptions } from '../session';
import { buildCudaBench, carriedCudaBench } from './build';
import { allCudaCases, partOf } from './cases';
import type { JavaScriptPath } from './javascript';
import { findLibraries } from './libraries';
import { suiteResult } from './report';
import type { Outcome } from './run';
import type { DeviceReport, Message, Task } from './suite';

interface CudaOptions extends SuiteOptions {
  part: { part: number; parts: number };
  javascript: boolean;
  backend?: string;
  carried?: string;
}

const FULL: Plan = { rounds: 9, batchMs: 40, settleMs: 0 };
const QUICK: Plan = { rounds: 3, batchMs: 10, settleMs: 0 };

const chosen = ({ quick, filter, part }: CudaOptions) =>
  partOf(
    allCudaCases(quick).filter(({ name }) => name.includes(filter)),
    part.part,
    part.parts,
  );

const ABOUT =
  "Attention on a GPU against cuDNN, CUTLASS's example and (--torch) the flash attention of PyTorch and of flash_attn: " +
  'bfloat16, prefill and decode. Contestants take turns on the same tensors, rotated through more memory than the ' +
  'caches hold, timed by CUDA events on the device.';

export const cuda: Suite<CudaOptions> = {
  name: 'cuda',
  about: ABOUT,
  extend(command) {
    command
      .option('--part <i/n>', 'only the i-th of n parts of about equal work', parsePart, { part: 1, parts: 1 })
      .option('--no-javascript', 'leave out the calls from JavaScript')
      .option('--backend <file>', 'the backend library (default: the one beside the addon)')
      .option(
        '--carried <folder>',
        "what scripts/gpu-pack built, instead of building the benchmark's own libraries here",
      );
  },
  caseNames: () => allCudaCases(false).map(({ name }) => name),
  obstacle({ backend }) {
    if (backend !== undefined && !existsSync(backend)) throw new Error(`--backend: there is no file ${backend}`);
    const gpu = devices().find((device) => device.backend === 'cuda');
    if (backend !== undefined || gpu?.usable) return undefined;
    return gpu?.message ?? 'there is no CUDA backend';
  },
  steps: (options) => chosen(options).map(({ name }) => ({ name, seconds: options.quick ? 2 : 4 })),
  async run(options, progress) {
    const { quick, torch, part, javascript, backend, carried } = options;
    const built = carried === undefined ? buildCudaBench([]) : carriedCudaBench(carried, []);
    const libraries = findLibraries();
    const task: Task = {
      quick,
      cases: chosen(options).map(({ name }) => name),
      plan: quick ? QUICK : FULL,
      ...built,
      backend: backend ?? ownBackend(),
      cudart: libraries.cudart,
      cudnn: libraries.cudnn,
      torch: torch?.python,
      // Only through the addon's own backend, and in one part.
      javascript: javascript && backend === undefined && part.part === 1 ? 'cuda' : undefined,
    };
    const clocks = [readClocks()];
    const done = await runSuite(task, libraries.environment, progress);
    clocks.push(readClocks());
    if (done.unusable !== undefined) throw new NothingToMeasure(done.unusable);
    if (!done.device) throw new Error(done.failure ?? 'the measuring process said nothing');
    return {
      ...suiteResult(done.device, done.outcomes, done.javascript, clocks),
      about: ABOUT,
      command: `npm run bench -- cuda${torch ? ' --torch' : ''}`,
      failure: done.failure,
    };
  },
};

function parsePart(text: string): { part: number; parts: number } {
  const [, part, parts] = (/^(\d+)\/(\d+)$/.exec(text) ?? []).map(Number);
  if (!part || !parts || part > parts)
    throw new InvalidArgumentError('Give a part and the number of parts, such as 1/3.');
  return { part, parts };
}

/** The library that the addon opens: beside itself. */
function ownBackend(): string {
  const root = process.env.NODE_ATTENTION_PREBUILD ?? dirname(dirname(require.resolve('node-attention')));
  const nodeGypBuild = require('node-gyp-build') as { resolve(folder: string): string };
  return join(dirname(nodeGypBuild.resolve(root)), 'libnode_attention_cuda.so');
}

/** What nvidia-smi says of driver, clocks and temperature, or why it says nothing. */
function readClocks(): string {
  const fields = 'name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu';
  try {
    return execFileSync('nvidia-smi', [`--query-gpu=${fields}`, '--format=csv'], {
      encoding: 'utf8',
      stdio: 'pipe',
    }).trim();
  } catch (error) {
    return `not known: ${(error as Error).message.split('\n')[0]}`;
  }
}

interface Done {
  device?: DeviceReport;
  outcomes: Outcome[];
  javascript?: JavaScriptPath;
  unusable?: string;
  /** Why it ended early, if it did. */
  failure?: string;
}

/** The first ^C ends the measurement only. */
async function runSuite(task: Task, environment: NodeJS.ProcessEnv, progress: Progress): Promise<Done> {
  // Beside this file: as TypeScript in a checkout, bundled where it was carried.
  const suite = ['suite.ts', 'suite.cjs'].map((name) => join(__dirname, name)).find((path) => existsSync(path))!;
  const child = fork(suite, { env: { ...process.env, ...environment } });
  const interrupt = () => child.kill('SIGINT');
  process.once('SIGINT', interrupt);
  const done: Done = { outcomes: [] };
  child.on('message', (message: Message) => {
    if ('begins' in message) progress.begin(message.begins);
    else if ('outcome' in message) done.outcomes.push(message.outcome);
    else Object.assign(done, message);
  });
  child.send(task);
  const [code, signal] = await once(child, 'exit');
  process.off('SIGINT', interrupt);
  if (code !== 0) done.failure = `(${signal ?? `status ${code}`}): later cases are missing`;
  return done;
}
