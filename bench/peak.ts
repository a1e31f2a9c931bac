// The machine's peaks, measured by a small program of its own (peak/peak.cc).

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Peak } from './format';

const root = dirname(__dirname);
const program = join(root, 'build', 'bench', 'peak');

function buildPeak(): void {
  mkdirSync(dirname(program), { recursive: true });
  const compiler = process.env.CXX ?? 'c++';
  const source = join(__dirname, 'peak', 'peak.cc');
  run(compiler, ['-O3', '-std=c++17', '-pthread', source, '-o', program]);
}

const known = new Map<number, Peak[]>();

/**
 * The peaks of so many threads at once: 'float32 SET' for each instruction set and 'bfloat16 amx' (FLOP/s), 'exp SET',
 * 'read' and 'copy' (bytes per second, those written counted too). Each call measures anew and gives the best so far,
 * since a peak loses to the work of others; with `quick` only the first does.
 */
export function peaksOf(threads: number, quick: boolean): Peak[] {
  const before = known.get(threads);
  if (before && quick) return before;
  if (known.size === 0) buildPeak();
  const now = measurePeaks(threads);
  const best = before?.map((peak, i) => ({ ...peak, rate: Math.max(peak.rate, now[i]!.rate) })) ?? now;
  known.set(threads, best);
  return best;
}

function measurePeaks(threads: number): Peak[] {
  const lines = run(program, [String(threads)])
    .trim()
    .split('\n');
  return lines.map((line) => {
    const [, unit, rate, name] = /^(\S+) (\S+) (.+)$/.exec(line)!;
    return { name: name!, threads, rate: Number(rate), unit: unit as Peak['unit'] };
  });
}

/** Throws when it was not measured. */
export function rateOf(peaks: readonly Peak[], name: string, threads: number): number {
  const peak = peaks.find((peak) => peak.name === name && peak.threads === threads);
  if (!peak) throw new Error(`the peak '${name}' was not measured with ${threads} threads`);
  return peak.rate;
}

/**
 * FLOP/s that attention could reach at most: products of registers of the instruction set. On AMX a product of float32 is
 * six of bfloat16 parts. Undefined where that peak was not measured.
 */
export function arithmeticRate(
  peaks: readonly Peak[],
  instructionSet: string,
  dtype: string,
  threads: number,
): number | undefined {
  const amx = instructionSet === 'amx';
  const name = amx ? 'bfloat16 amx' : `float32 ${instructionSet}`;
  const rate = peaks.find((peak) => peak.name === name && peak.threads === threads)?.rate;
  return rate && rate / (amx && dtype === 'float32' ? 6 : 1);
}

const UNITS: { [unit: string]: number } = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** Bytes of the largest cache, or of more than most have where the system does not tell. */
export function cacheBytes(): number {
  const folder = '/sys/devices/system/cpu/cpu0/cache';
  const sizes = existsSync(folder)
    ? readdirSync(folder)
        .filter((name) => name.startsWith('index'))
        .map((name) => readFileSync(join(folder, name, 'size'), 'utf8').trim())
        .map((text) => Number.parseInt(text, 10) * (UNITS[text.at(-1)!] ?? 1))
    : [];
  return Math.max(...sizes, sizes.length > 0 ? 0 : 2 ** 29);
}

function run(command: string, args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} failed: ${error?.message ?? stderr}`);
  return stdout;
}
