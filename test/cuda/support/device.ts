// The CUDA device that the tests of this folder run on: the stand-in, which interprets the kernels' PTX, or a real one
// when NODE_ATTENTION_TEST_DEVICE=real. To be imported before node-attention, which looks for its backends when it is
// loaded.

import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { asynchronyNumber, SCHEDULES, type Schedule } from '../../ptx/support/schedules';

const root = join(__dirname, '../../..');
const build = join(root, 'build/ptx');
const library = join(build, 'cuda/libnode_attention_cuda.so');

/** A package folder with the addon and the stand-in backend, and what a process needs in its environment to use them. */
const standInPackage = join(build, 'cuda/package');
export const standInEnvironment: Record<string, string> = {
  NODE_ATTENTION_PREBUILD: standInPackage,
  NODE_ATTENTION_STANDIN_PTX: join(build, 'cuda/products'),
  LD_LIBRARY_PATH: build, // of libcuda.so.1
};

/** Whether kernels are interpreted here, under a schedule, and their faults reported. */
export const interpreted = process.env.NODE_ATTENTION_TEST_DEVICE !== 'real';

/** Why there is no device for these tests, if so. */
export const missing = interpreted && !existsSync(library) ? whyMissing() : undefined;

function whyMissing(): string {
  const file = join(build, 'missing.txt'); // what CMake says
  return (existsSync(file) && readFileSync(file, 'utf8')) || 'the CUDA backend is not built';
}

/** The title of a group of tests, with the reason when it is skipped. */
export const title = (name: string): string => (missing ? `${name} (skipped: ${missing})` : name);

/** The schedules to run each case under: one where they mean nothing. */
export const schedules: Schedule[] = interpreted ? SCHEDULES : SCHEDULES.slice(0, 1);

/** The stand-in's functions beside those of CUDA, see test/ptx/runtime/standin.h. */
interface StandIn {
  schedule(seed: number, asynchrony: number): void;
  report(): string;
  kernel(): string;
  launches(part: string): number;
  longestQueue(): number;
  poisonPinned(): void;
  reset(): void;
}

// The loader looks for the backend beside the addon, and finds a driver by its name once one is loaded.
function loadStandIn(): StandIn {
  const koffi = require('koffi') as typeof import('koffi');
  const release = join(standInPackage, 'build/Release');
  mkdirSync(release, { recursive: true });
  place(join(root, 'build/Release/node_attention.node'), join(release, 'node_attention.node'), copyFileSync);
  place(library, join(release, 'libnode_attention_cuda.so'), symlinkSync);
  process.env.NODE_ATTENTION_PREBUILD = standInPackage;
  process.env.NODE_ATTENTION_STANDIN_PTX ??= standInEnvironment.NODE_ATTENTION_STANDIN_PTX;
  const driver = koffi.load(join(build, 'libcuda.so.1'));
  return {
    schedule: driver.func('void standin_schedule(uint64_t seed, int asynchrony)'),
    report: driver.func('const char *standin_last_report()'),
    kernel: driver.func('const char *standin_last_kernel()'),
    launches: driver.func('uint64_t standin_launches(const char *part)'),
    longestQueue: driver.func('uint64_t standin_longest_queue()'),
    poisonPinned: driver.func('void standin_poison_pinned()'),
    reset: driver.func('void standin_reset()'),
  };
}

// Renamed into place: another process may be loading what is there.
function place(from: string, to: string, how: (from: string, to: string) => void): void {
  const made = `${to}-${process.pid}`;
  how(from, made);
  renameSync(made, to);
}

const standin = interpreted && !missing ? loadStandIn() : undefined;

/** Sets the schedule of later launches; does nothing on a real device. */
export function schedule({ seed, asynchrony }: Schedule): void {
  standin?.schedule(seed, asynchronyNumber(asynchrony));
}

/** What the interpreter said of the first fault; empty without one. */
export const lastReport = (): string => standin?.report() ?? '';

/** The kernel that ran last. */
export const lastKernel = (): string => standin?.kernel() ?? '';

/** How many kernels with this in their names have begun so far; 0 on a real device. */
export const launches = (part: string): number => standin?.launches(part) ?? 0;

/** The most launches that waited in a stream when this thread had added one, since the last call; 0 on a real device. */
export const longestQueue = (): number => standin?.longestQueue() ?? 0;

/** Makes NaN of all pinned memory; does nothing on a real device. */
export const poisonPinned = (): void => standin?.poisonPinned();

/** Forgets the sticky errors of the stand-in's devices. */
export const reset = (): void => standin?.reset();
