// Builds what the GPU benchmark loads: the driver, the kernel of the matrix peak and the baselines. None of it is part of
// the package, and none of it needs a GPU.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { findCudnnHeaders } from '../cudnn/headers';
import type { BaselineName } from './driver';

const root = join(__dirname, '../..');
export const buildFolder = join(root, 'build/bench');

/** The library of a baseline, or why there is none. */
export type BuiltBaseline = { file: string } | { missing: string };

export interface Built {
  driver: string;
  peak: string;
  baselines: { [name in BaselineName]: BuiltBaseline };
}

/** Throws a sentence when the driver itself cannot be built. */
export function buildCudaBench(without: readonly BaselineName[]): Built {
  const baseline = (name: BaselineName, build: () => BuiltBaseline) => (without.includes(name) ? LEFT_OUT : build());
  return {
    driver: buildDriver(),
    peak: buildPeakKernel(),
    baselines: { cudnn: baseline('cudnn', buildCudnn), cutlass: baseline('cutlass', buildCutlass) },
  };
}

const LEFT_OUT = { missing: 'left out (--without)' };

function buildCudnn(): BuiltBaseline {
  const headers = findCudnnHeaders(buildFolder);
  if (typeof headers === 'string') return { missing: headers };
  cmake(join(__dirname, '../cudnn'), join(buildFolder, 'cudnn'), { INCLUDES: [cudaInclude(), ...headers].join(';') });
  return { file: join(buildFolder, 'cudnn/libcudnn_baseline.so') };
}

/** Of a CUTLASS that may be any: its example need not be what the baseline was written for. */
export function buildCutlass(build = join(buildFolder, 'cutlass')): BuiltBaseline {
  const file = join(build, 'libcutlass_baseline.so');
  try {
    configure(join(__dirname, '../cutlass'), build, {});
    const missing = readFileSync(join(build, 'missing.txt'), 'utf8');
    if (missing !== '') return { missing };
    if (!existsSync(file)) console.error("compiling CUTLASS's example: minutes, the first time");
    compile(build);
    return { file };
  } catch (error) {
    const [line] = /^.*\berror\b.*$/im.exec((error as Error).message) ?? [(error as Error).message];
    // Where things lie on this machine is nobody's concern.
    return { missing: `its example cannot be compiled: ${line.trim().replace(/(^|[\s'"])\/\S*\//g, '$1')}` };
  }
}

export function buildDriver(): string {
  cmake(__dirname, join(buildFolder, 'cuda'), { CUDA_INCLUDE: cudaInclude() });
  return join(buildFolder, 'cuda/libcuda_bench.so');
}

/** The folder with cuda_runtime_api.h that nvcc itself uses. */
export function cudaInclude(): string {
  const { stderr, error } = spawnSync('nvcc', ['--dryrun', '-x', 'cu', '/dev/null'], { encoding: 'utf8' });
  if (error) throw new Error('nvcc is missing: install the CUDA toolkit, 12.8 or newer, and put its bin on the PATH');
  const [, folder] = /INCLUDES="-I([^"]+)"/.exec(stderr) ?? [];
  if (folder === undefined) throw new Error('nvcc does not say where its headers are');
  return folder;
}

function buildPeakKernel(): string {
  const peak = join(buildFolder, 'cuda/peak.fatbin');
  mkdirSync(join(buildFolder, 'cuda'), { recursive: true });
  const targets = ['arch=compute_90a,code=sm_90a', 'arch=compute_80,code=compute_80'];
  const flags = ['-std=c++17', '-O3', '--fatbin', ...targets.flatMap((target) => ['-gencode', target])];
  run('nvcc', [...flags, join(__dirname, 'peak.cu'), '-o', peak]);
  return peak;
}

function cmake(source: string, build: string, variables: { [name: string]: string }): void {
  configure(source, build, variables);
  compile(build);
}

function configure(source: string, build: string, variables: { [name: string]: string }): void {
  const settings = Object.entries(variables).map(([name, value]) => `-D${name}=${value}`);
  run('cmake', ['-S', source, '-B', build, '-DCMAKE_BUILD_TYPE=Release', ...settings]);
}

const compile = (build: string): void => run('cmake', ['--build', build, '--parallel', '2']);

function run(command: string, args: string[]): void {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (status === 0) return;
  throw new Error(`${command} failed: ${error?.message ?? `${stdout}${stderr}`}`);
}

/** A sentence for each baseline that could not be built, although it was not to be left out. */
export function lacking({ baselines }: Built, without: readonly BaselineName[]): string[] {
  return Object.entries(baselines).flatMap(([name, built]) =>
    'file' in built || without.includes(name as BaselineName) ? [] : [`without the baseline ${name}: ${built.missing}`],
  );
}

/** What was built elsewhere and carried here (scripts/gpu-pack), in one folder. */
export function carriedCudaBench(folder: string, without: readonly BaselineName[]): Built {
  const baseline = (name: BaselineName): BuiltBaseline => {
    if (without.includes(name)) return LEFT_OUT;
    const file = join(folder, `lib${name}_baseline.so`);
    return existsSync(file) ? { file } : { missing: 'it was not packed' };
  };
  return {
    driver: join(folder, 'libcuda_bench.so'),
    peak: join(folder, 'peak.fatbin'),
    baselines: { cudnn: baseline('cudnn'), cutlass: baseline('cutlass') },
  };
}
