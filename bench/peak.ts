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

const KIB = 2 ** 10;
const MIB = 2 ** 20;

/** Bytes that are read over and over to know how fast that is: from what fits beside a core to what fits nowhere. */
const FOOTPRINTS = [256 * KIB, 1 * MIB, 2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB, 64 * MIB, 512 * MIB];

const footprintText = (bytes: number) => (bytes < MIB ? `${bytes / KIB} KiB` : `${bytes / MIB} MiB`);

const known = new Map<number, Peak[]>();

/**
 * The peaks of so many threads at once: 'float32 SET' for each instruction set and 'bfloat16 amx' (FLOP/s), 'exp SET',
 * 'read SIZE' for each footprint of all threads together and 'copy' (bytes per second, those written counted too). Each
 * call measures anew and gives the best so far, since a peak loses to the work of others; with `quick` only the first
 * does.
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
  const lines = run(program, [threads, ...FOOTPRINTS].map(String))
    .trim()
    .split('\n');
  return lines.map((line): Peak => {
    const [, unit, rate, name] = /^(\S+) (\S+) (.+)$/.exec(line)!;
    const common = { threads, rate: Number(rate), unit: unit as Peak['unit'] };
    const read = /^read (\d+)$/.exec(name!);
    if (!read) return { name: name!, ...common };
    const footprint = Number(read[1]);
    return { name: `read ${footprintText(footprint)}`, ...common, footprint };
  });
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

/**
 * Exponentials per second, of float32's precision, in registers of the instruction set; AMX has none of its own.
 * Undefined where they were not measured.
 */
export function exponentialRate(peaks: readonly Peak[], instructionSet: string, threads: number): number | undefined {
  const name = `exp ${instructionSet === 'amx' ? 'avx512' : instructionSet}`;
  return peaks.find((peak) => peak.name === name && peak.threads === threads)?.rate;
}

/**
 * Bytes per second that can be read at most where so many bytes pass until one is read again: the rate of the largest
 * footprint measured that is not larger, or of a larger one, should that have been read faster, so that no figure that
 * others disturbed becomes a bound. Undefined where none was measured.
 */
export function readRate(peaks: readonly Peak[], footprint: number, threads: number): number | undefined {
  const reads = peaks.filter((peak) => peak.footprint !== undefined && peak.threads === threads);
  const smaller = reads.map((peak) => peak.footprint!).filter((bytes) => bytes <= footprint);
  const from = Math.max(0, ...smaller);
  const rates = reads.filter((peak) => peak.footprint! >= from).map(({ rate }) => rate);
  return rates.length === 0 ? undefined : Math.max(...rates);
}

const UNITS: { [unit: string]: number } = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** Bytes of the second-level cache of a processor; 0 where the system does not tell. */
export function secondCacheBytes(): number {
  const folder = '/sys/devices/system/cpu/cpu0/cache';
  if (!existsSync(folder)) return 0;
  const read = (cache: string, name: string) => readFileSync(join(folder, cache, name), 'utf8').trim();
  const sizes = readdirSync(folder)
    .filter((name) => name.startsWith('index'))
    .filter((name) => read(name, 'level') === '2')
    .map((name) => read(name, 'size'))
    .map((text) => Number.parseInt(text, 10) * (UNITS[text.at(-1)!] ?? 1));
  return Math.max(0, ...sizes);
}

function run(command: string, args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} failed: ${error?.message ?? stderr}`);
  return stdout;
}
