// The least time that a piece of work takes, by the rates that were measured in the same run.

import type { Floor, Peak } from './format';
import { arithmeticRate, exponentialRate, readRate } from './peak';

/** What has to be done, whoever does it. */
export interface Work {
  /** Floating-point operations, and the type of what is multiplied. */
  flops?: number;
  dtype?: string;
  exponentials?: number;
  /** Bytes to be moved. */
  bytes?: number;
  /** Bytes that pass until one is needed again: `bytes` unless given, more where inputs take turns. */
  footprint?: number;
}

/** Where it is done. */
export interface Place {
  peaks: readonly Peak[];
  /** Not needed where nothing is computed. */
  instructionSet?: string;
  threads: number;
}

/**
 * The longest of the times that arithmetic, exponentials and reading would take if each were all there is to do.
 * Undefined where none of the rates was measured.
 */
export function floorOf(work: Work, { peaks, instructionSet = '', threads }: Place): Floor | undefined {
  const { flops = 0, dtype = 'float32', exponentials = 0, bytes = 0, footprint = bytes } = work;
  const bounds = [
    ['arithmetic', flops, arithmeticRate(peaks, instructionSet, dtype, threads)],
    ['exp', exponentials, exponentialRate(peaks, instructionSet, threads)],
    ['memory', bytes, readRate(peaks, footprint, threads)],
  ] as const;
  let floor: Floor | undefined;
  for (const [bound, amount, rate] of bounds) {
    if (amount === 0 || rate === undefined) continue;
    const ms = (1e3 * amount) / rate;
    if (!floor || ms > floor.ms) floor = { ms, bound };
  }
  return floor;
}
