// The command `cuda` of npm run bench.

import { execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, writeFileSync } from 'node:fs';
import { release, type } from 'node:os';
import { dirname, join } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { devices } from 'node-attention';
import { commit } from '../commit';
import type { Plan } from '../measure';
import { torchVersion } from '../peers/torch';
import { verdictLine } from '../report';
import { type Built, buildCudaBench, carriedCudaBench } from './build';
import { allCudaCases, partOf } from './cases';
import type { JavaScriptPath } from './javascript';
import { findLibraries } from './libraries';
import { CUDA_NOTES, cudaFaults, cudaTable, deviceLines, javascriptLines, judgeCuda, rowOf } from './report';
import type { Outcome } from './run';
import type { DeviceReport, Message, Task } from './suite';

interface Options {
  json?: string;
  quick: boolean;
  torch?: string | true;
  filter?: string;
  part: { part: number; parts: number };
  javascript: boolean;
  backend?: string;
  carried?: string;
}

/** The exit status where there is no GPU to measure. */
export const NO_DEVICE = 3;

const FULL: Plan = { rounds: 9, batchMs: 40, settleMs: 0 };
const QUICK: Plan = { rounds: 3, batchMs: 10, settleMs: 0 };

export const cuda = new Command('cuda')
  .description(
    'Attention on a GPU against cuDNN and (--torch) PyTorch: bfloat16, prefill and decode. Contestants take turns on the ' +
      'same tensors, rotated through more memory than the caches hold, timed by CUDA events on the device. Every output is ' +
      `checked against a float64 reference first. Ends with status ${NO_DEVICE} where there is no GPU.`,
  )
  .option('--json <file>', 'also write everything, with all samples, to a file')
  .option('--quick', 'a handful of cases, within a minute', false)
  .option('--torch [python]', 'also measure PyTorch, with this Python (default: python3)')
  .option('--filter <text>', 'only cases whose name contains this, such as "causal S=4096 D=64"')
  .option('--part <i/n>', 'only the i-th of n parts of about equal work', parsePart, { part: 1, parts: 1 })
  .option('--no-javascript', 'leave out the calls from JavaScript')
  .option('--backend <file>', 'the backend library (default: the one beside the addon)')
  .option('--carried <folder>', "what scripts/gpu-pack built, instead of building the benchmark's own libraries here")
  .addHelpText(
    'after',
    () =>
      `\nCases:\n  ${allCudaCases(false)
        .map(({ name }) => name)
        .join('\n  ')}`,
  )
  .action((options: Options) => bench(options).catch((error: Error) => cuda.error(`error: ${error.message}`)));

function parsePart(text: string): { part: number; parts: number } {
  const [, part, parts] = (/^(\d+)\/(\d+)$/.exec(text) ?? []).map(Number);
  if (!part || !parts || part > parts)
    throw new InvalidArgumentError('Give a part and the number of parts, such as 1/3.');
  return { part, parts };
}

function noDevice(sentence: string): void {
  console.log(`npm run bench -- cuda: nothing to measure: ${sentence}`);
  process.exitCode = NO_DEVICE;
}

async function bench(options: Options): Promise<void> {
  const { json, quick, torch, filter = '', part, javascript, backend, carried } = options;
  const matching = allCudaCases(quick).filter(({ name }) => name.includes(filter));
  if (matching.length === 0) throw new Error(`--filter: no case contains '${filter}'; --help lists them`);
  const cases = partOf(matching, part.part, part.parts);
  if (backend !== undefined && !existsSync(backend)) throw new Error(`--backend: there is no file ${backend}`);
  const gpu = devices().find((device) => device.backend === 'cuda');
  if (backend === undefined && !gpu?.usable) return noDevice(gpu?.message ?? 'there is no CUDA backend');

  const file = json === undefined ? undefined : openSync(json, 'w'); // now, not after all the work
  const python = torch === true ? 'python3' : torch;
  if (python !== undefined) torchVersion(python);
  const built = carried === undefined ? buildCudaBench() : carriedCudaBench(carried);
  const libraries = findLibraries();
  const task: Task = {
    quick,
    cases: cases.map(({ name }) => name),
    plan: quick ? QUICK : FULL,
    ...built,
    backend: backend ?? ownBackend(),
    cudart: libraries.cudart,
    cudnn: baselineOf(built, libraries.cudnn),
    torch: python,
    // Only through the addon's own backend, and in one part.
    javascript: javascript && backend === undefined && part.part === 1 ? 'cuda' : undefined,
  };
  const clocks = [readClocks()];
  const done = await runSuite(task, libraries.environment);
  clocks.push(readClocks());
  if (done.unusable !== undefined) return noDevice(done.unusable);
  const { device } = done;
  if (!device) throw new Error(done.failure ?? 'the measuring process said nothing');

  const rows = done.outcomes.map((outcome) => rowOf(outcome, device));
  const targets = judgeCuda(rows);
  const wrong = cudaFaults(rows);
  console.log(`\n${deviceLines(device).join('\n')}\n\n${cudaTable(rows)}\n`);
  if (done.javascript) console.log(`${javascriptLines(done.javascript).join('\n')}\n`);
  console.log(`${CUDA_NOTES}\n\nTargets\n${targets.map(verdictLine).join('\n')}`);
  if (file !== undefined) {
    const about = {
      date: new Date().toISOString(),
      command: ['npm run bench --', ...process.argv.slice(2)].join(' '),
      commit: commit(),
      node: process.version,
      system: `${type()} ${release()}`,
      clocks,
    };
    writeFileSync(
      file,
      `${JSON.stringify({ ...about, device, rows, javascript: done.javascript, targets }, null, 1)}\n`,
    );
    closeSync(file);
  }
  for (const line of wrong) console.error(line);
  if (done.failure !== undefined) console.error(done.failure);
  if (wrong.length > 0 || done.failure !== undefined) process.exitCode = 1;
}

/** The library that the addon opens: beside itself. */
function ownBackend(): string {
  const root = process.env.NODE_ATTENTION_PREBUILD ?? dirname(dirname(require.resolve('node-attention')));
  const nodeGypBuild = require('node-gyp-build') as { resolve(folder: string): string };
  return join(dirname(nodeGypBuild.resolve(root)), 'libnode_attention_cuda.so');
}

function baselineOf({ baseline, missing }: Built, library: string): Task['cudnn'] {
  return baseline === undefined ? `${missing}` : { baseline, library };
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
async function runSuite(task: Task, environment: NodeJS.ProcessEnv): Promise<Done> {
  // Beside this file: as TypeScript in a checkout, bundled where it was carried.
  const suite = ['suite.ts', 'suite.cjs'].map((name) => join(__dirname, name)).find((path) => existsSync(path))!;
  const child = fork(suite, { env: { ...process.env, ...environment } });
  process.once('SIGINT', () => child.kill('SIGINT'));
  const done: Done = { outcomes: [] };
  let begun = 0;
  child.on('message', (message: Message) => {
    if ('begins' in message) process.stderr.write(`${++begun}/${task.cases.length} ${message.begins}\n`);
    else if ('outcome' in message) done.outcomes.push(message.outcome);
    else Object.assign(done, message);
  });
  child.send(task);
  const [code, signal] = await once(child, 'exit');
  if (code !== 0) done.failure = `error: ended early (${signal ?? `status ${code}`}): later cases are missing`;
  return done;
}
