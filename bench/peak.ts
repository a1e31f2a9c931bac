// The machine's peak, measured by a small program of its own (peak/peak.cc).

import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** GFLOP/s for each instruction set: float32, and for 'amx' bfloat16 with float32 sums. */
export type Peaks = Record<string, number>;

const root = dirname(__dirname);
const program = join(root, 'build', 'bench', 'peak');

export function buildPeak(): void {
  mkdirSync(dirname(program), { recursive: true });
  const compiler = process.env.CXX ?? 'c++';
  const source = join(__dirname, 'peak', 'peak.cc');
  run(compiler, ['-O3', '-std=c++17', '-pthread', source, '-o', program]);
}

/** The peaks of so many threads at once. */
export function measurePeaks(threads: number): Peaks {
  const lines = run(program, [String(threads)])
    .trim()
    .split('\n');
  return Object.fromEntries(lines.map((line) => line.split(' ')).map(([name, rate]) => [name, Number(rate)]));
}

function run(command: string, args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} failed: ${error?.message ?? stderr}`);
  return stdout;
}
