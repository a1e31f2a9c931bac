// The suite that compares attention on a GPU.

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { devices } from 'node-attention';
import type { SuiteResult } from '../format';
import type { Plan } from '../measure';
import { NothingToMeasure, type Suite, type SuiteOptions } from '../session';
import { buildCudaBench, carriedCudaBench } from './build';
import { allCudaCases, byWant } from './cases';
import { BASELINES, type BaselineName } from './driver';
import { findLibraries } from './libraries';
import { type Done, LIMITS, measureInProcess } from './process';
import { FROM_JAVASCRIPT, suiteResult } from './report';
import { casesLeft, earlierResult, joined } from './resume';
import type { Task } from './suite';

interface CudaOptions extends SuiteOptions {
  javascript: boolean;
  backend?: string;
  carried?: string;
  without: BaselineName[];
  resume?: string;
  seconds?: number;
}

const FULL: Plan = { rounds: 9, batchMs: 40, settleMs: 0 };
const QUICK: Plan = { rounds: 3, batchMs: 10, settleMs: 0 };

const chosen = ({ quick, filter }: CudaOptions) =>
  byWant(allCudaCases(quick).filter(({ name }) => name.includes(filter)));

const gpu = () => devices().find((device) => device.backend === 'cuda');

/** What repeats the measurement of a row. */
const commandOf = ({ quick, torch, backend }: CudaOptions) =>
  [
    'npm run bench -- cuda',
    ...(quick ? ['--quick'] : []),
    ...(torch ? ['--torch'] : []),
    ...(backend === undefined ? [] : ['--backend', basename(backend)]),
  ].join(' ');

const ABOUT =
  "Attention on a GPU against cuDNN, CUTLASS's example and (--torch) the flash attention of PyTorch and of flash_attn: " +
  'bfloat16, prefill and decode. Contestants take turns on the same tensors, rotated through more memory than the ' +
  'caches hold, timed by CUDA events on the device. Decoding with keys that a selector chooses, through the addon, beside ' +
  'selecting, attention and dense attention alone.';

export const cuda: Suite<CudaOptions> = {
  name: 'cuda',
  about: ABOUT,
  extend(command) {
    command
      .option('--seconds <n>', 'end after so many seconds; what was measured until then counts', parseSeconds)
      .option('--resume <file>', 'go on from the results in this file, if it is of this commit and by these options')
      .option('--without <name>', `leave out ${BASELINES.join(' or ')}; several times`, parseBaseline, [])
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
    if (backend !== undefined || gpu()?.usable) return undefined;
    return gpu()?.message ?? 'there is no CUDA backend';
  },
  steps: (options) => chosen(options).map(({ name }) => ({ name, seconds: options.quick ? 2 : 4 })),
  async run(options, progress) {
    const { quick, torch, javascript, backend, carried, without, resume, seconds } = options;
    const command = commandOf(options);
    const earlier = earlierResult(resume, command, backend === undefined ? gpu()?.name : undefined);
    const built = carried === undefined ? buildCudaBench(without) : carriedCudaBench(carried, without);
    const libraries = findLibraries();
    const wanted = chosen(options);
    const told = earlier?.findings?.some(({ name }) => FROM_JAVASCRIPT.includes(name)) ?? false;
    const task: Task = {
      quick,
      cases: casesLeft(wanted, earlier).map(({ name }) => name),
      plan: quick ? QUICK : FULL,
      ...built,
      backend: backend ?? ownBackend(),
      cudart: libraries.cudart,
      cudnn: libraries.cudnn,
      torch: torch?.python,
      // Only through the addon's own backend, and calls once.
      addon: backend === undefined ? 'cuda' : undefined,
      javascript: javascript && backend === undefined && !told ? 'cuda' : undefined,
    };
    const clocks = [readClocks()];
    /** All that there is, if there is anything. */
    const resultOf = (done: Done): SuiteResult | undefined => {
      if (!done.device) return earlier;
      const { device, outcomes, failed } = done;
      const result = suiteResult(device, outcomes, done.javascript, clocks);
      const now = { ...result, about: ABOUT, command, notMeasured: [...result.notMeasured, ...failed] };
      return joined(earlier, now);
    };
    if (earlier && task.cases.length === 0 && task.javascript === undefined) return { ...earlier, failure: undefined };
    const done = await measureInProcess(
      task,
      libraries.environment,
      {
        begin: (name) => progress.begin(name),
        found: (done) => {
          const result = resultOf(done);
          if (result) progress.found(result);
        },
      },
      { ...LIMITS, all: seconds },
    );
    clocks.push(readClocks());
    if (done.unusable !== undefined && !done.device) throw new NothingToMeasure(done.unusable);
    const result = resultOf(done);
    if (!result) throw new Error(done.ended ?? 'the measuring process said nothing');
    return {
      ...result,
      failure: failureOf(
        done,
        casesLeft(wanted, result).map(({ name }) => name),
      ),
    };
  },
};

/** Why a measurement ended early, and what is missing for that; undefined when it did not. */
function failureOf({ ended, unusable, failed }: Done, missing: readonly string[]): string | undefined {
  const why = [ended, unusable, ...failed.map(({ what, why }) => `${what}: ${why}`)].filter(Boolean);
  if (why.length === 0) return undefined;
  const rest = missing.length === 0 ? '' : `: ${missing.length} cases are missing: ${missing.join(', ')}`;
  return `(${why.join('; ')})${rest}`;
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (!(seconds > 0)) throw new InvalidArgumentError('Give a number of seconds, such as 460.');
  return seconds;
}

function parseBaseline(text: string, others: BaselineName[]): BaselineName[] {
  const name = BASELINES.find((each) => each === text);
  if (!name) throw new InvalidArgumentError(`Give ${BASELINES.join(' or ')}.`);
  return [...others, name];
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
