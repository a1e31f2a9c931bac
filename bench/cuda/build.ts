// Builds what the GPU benchmark loads: the driver, the kernel of the matrix peak and the cuDNN baseline. None of it is
// part of the package, and none of it needs a GPU.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { findCudnnHeaders } from '../cudnn/headers';

const root = join(__dirname, '../..');
export const buildFolder = join(root, 'build/bench');

export interface Built {
  driver: string;
  peak: string;
  /** Absent when it could not be built; `missing` then says why. */
  baseline?: string;
  missing?: string;
}

/** Throws a sentence when the driver itself cannot be built. */
export function buildCudaBench(): Built {
  const driver = buildDriver();
  const peak = buildPeakKernel();
  const headers = findCudnnHeaders(buildFolder);
  if (typeof headers === 'string') return { driver, peak, missing: headers };
  cmake(join(__dirname, '../cudnn'), join(buildFolder, 'cudnn'), { INCLUDES: [cudaInclude(), ...headers].join(';') });
  return { driver, peak, baseline: join(buildFolder, 'cudnn/libcudnn_baseline.so') };
}

export function buildDriver(): string {
  cmake(__dirname, join(buildFolder, 'cuda'), { CUDA_INCLUDE: cudaInclude() });
  return join(buildFolder, 'cuda/libcuda_bench.so');
}

/** The folder with cuda_runtime_api.h that nvcc itself uses. */
function cudaInclude(): string {
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
  const settings = Object.entries(variables).map(([name, value]) => `-D${name}=${value}`);
  run('cmake', ['-S', source, '-B', build, '-DCMAKE_BUILD_TYPE=Release', ...settings]);
  run('cmake', ['--build', build, '--parallel', '2']);
}

function run(command: string, args: string[]): void {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (status === 0) return;
  throw new Error(`${command} failed: ${error?.message ?? `${stdout}${stderr}`}`);
}

/** What was built elsewhere and carried here (scripts/gpu-pack), in one folder. */
export function carriedCudaBench(folder: string): Built {
  const file = (name: string) => (existsSync(join(folder, name)) ? join(folder, name) : undefined);
  const baseline = file('libcudnn_baseline.so');
  return {
    driver: join(folder, 'libcuda_bench.so'),
    peak: join(folder, 'peak.fatbin'),
    baseline,
    missing: baseline ? undefined : 'it was not packed',
  };
}
