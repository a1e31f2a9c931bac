// The CUDA device that the tests of this folder run on: the stand-in, which interprets the kernels' PTX, or a real one
// when NODE_ATTENTION_TEST_DEVICE=real. To be imported before node-attention, which looks for its backends when it is
// loaded.

import { copyFileSync, existsSync, mkdirSync, symlinkSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { asynchronyNumber, SCHEDULES, type Schedule } from '../../ptx/support/schedules';

const root = join(__dirname, '../../..');
const build = join(root, 'build/ptx');
const library = join(build, 'cuda/libnode_attention_cuda.so');

/** Whether kernels are interpreted here, under a schedule, and their faults reported. */
export const interpreted = process.env.NODE_ATTENTION_TEST_DEVICE !== 'real';

/** Why there is no device for these tests, if so. */
export const missing =
  interpreted && !existsSync(library) ? 'nvcc is missing, which compiles the CUDA backend' : undefined;

/** The title of a group of tests, with the reason when it is skipped. */
export const title = (name: string): string => (missing ? `${name} (skipped: ${missing})` : name);

/** The schedules to run each case under: one where they mean nothing. */
export const schedules: Schedule[] = interpreted ? SCHEDULES : SCHEDULES.slice(0, 1);

let standin: ReturnType<typeof import('koffi').load> | undefined;

function loadStandIn(): void {
  const koffi = require('koffi') as typeof import('koffi');
  // The loader looks for the backend beside the addon, and finds a driver by its name once one is loaded.
  const folder = join(build, 'cuda/package');
  const release = join(folder, 'build/Release');
  mkdirSync(release, { recursive: true });
  place(join(root, 'build/Release/node_attention.node'), join(release, 'node_attention.node'), copyFileSync);
  place(library, join(release, 'libnode_attention_cuda.so'), symlinkSync);
  process.env.NODE_ATTENTION_PREBUILD = folder;
  process.env.NODE_ATTENTION_STANDIN_PTX ??= join(build, 'cuda/products');
  standin = koffi.load(join(build, 'libcuda.so.1')); // driver and runtime
}

function place(from: string, to: string, how: (from: string, to: string) => void): void {
  try {
    unlinkSync(to);
  } catch {
    // was not there
  }
  how(from, to);
}

if (interpreted && !missing) loadStandIn();

function control<T extends (...args: never[]) => unknown>(prototype: string): T {
  if (!standin) throw new Error('there is no stand-in device here');
  return standin.func(prototype) as unknown as T;
}

/** Sets the schedule of later launches; does nothing on a real device. */
export function schedule({ seed, asynchrony }: Schedule): void {
  if (!interpreted) return;
  const set = control<(seed: number, asynchrony: number) => void>('void standin_schedule(uint64_t, int)');
  set(seed, asynchronyNumber(asynchrony));
}

/** What the interpreter said of the first fault; empty without one. */
export const lastReport = (): string => control<() => string>('const char *standin_last_report()')();

/** Forgets a sticky error of the stand-in. */
export const reset = (): void => control<() => void>('void standin_reset()')();
