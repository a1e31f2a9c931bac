// What the suite goes through: lengths, and densities that selectors are given a budget for.

import type { SuiteOptions } from '../session';
import { growthLengths } from '../statistics';
import { KINDS, type Kind, type Phase } from './inputs';
import { ALWAYS } from './selectors';

export interface SparseOptions extends SuiteOptions {
  /** Up to a million keys, and chunks of 32K queries. */
  full: boolean;
}

export const PHASES = ['decode', 'prefill'] as const;

export const phaseName = (phase: Phase): string => (phase === 'decode' ? 'decoding' : 'prefill');

/** Keys, of the longest of which there are curves. */
export function lengthsOf({ quick, full }: SparseOptions): number[] {
  const all = [8192, 32768, 131072, 524288, 1048576];
  return all.slice(0, quick ? 1 : full ? 5 : 3);
}

/** Of the keys, what a query sees: that of one length, and those of curves. */
const DENSITY = 0.1;
const CURVE = [0.02, 0.05, 0.1, 0.2];
const TIMED = [0.02, 0.1];

/** What is left of a density for a selector to choose. */
export const budgetOf = (keys: number, density: number): number =>
  Math.round(keys * density) - ALWAYS.sink - ALWAYS.window;

const possible = (keys: number, densities: readonly number[]) =>
  densities.filter((density) => budgetOf(keys, density) > 0);

export const densityText = (density: number): string => `${+(100 * density).toPrecision(2)} %`;

export interface QualityCase {
  name: string;
  kind: Kind;
  phase: Phase;
  keys: number;
  densities: number[];
}

export function qualityCases(options: SparseOptions): QualityCase[] {
  const lengths = lengthsOf(options);
  return lengths.flatMap((keys) =>
    PHASES.flatMap((phase) =>
      KINDS.map((kind) => ({
        name: `quality: ${phaseName(phase)} ${kind} T=${keys}`,
        kind,
        phase,
        keys,
        densities: possible(keys, keys === lengths.at(-1) ? CURVE : [DENSITY]),
      })),
    ),
  );
}

export interface NeedleCase {
  name: string;
  keys: number;
  density: number;
  /** Tokens from where the needle has half its height to where it has that again. */
  width: number;
}

/** One width each, all in the same context. */
export function needleCases({ quick }: SparseOptions): NeedleCase[] {
  const keys = quick ? 8192 : 65536;
  const widths = quick ? [8, 128] : [1, 2, 4, 8, 16, 32, 64, 128, 256];
  return widths.map((width) => ({
    name: `needles: ${phaseName('decode')} T=${keys} width ${width}`,
    keys,
    density: leastOf(keys),
    width,
  }));
}

export interface TimeCase {
  name: string;
  phase: Phase;
  queries: number;
  keys: number;
  densities: number[];
  /** Those that choose by themselves; the window stands beside them. */
  selectors: string[];
}

const TIMED_SELECTORS = ['hip', 'hip1', 'pages', 'pooled 16', 'pooled 64', 'pages + estimate', 'pooled 64 + estimate'];
/** Selectors of which --quick times another form. */
const NOT_QUICK = ['hip1', 'pooled 16'];

/** Of this context there are curves of time over density, unless the chunk is a long one: that takes hours. */
const CURVED = { keys: 131072, queries: 2048 };
/** The most pairs of tokens of a chunk that are measured at several densities: the next length takes minutes for each run. */
const MOST_PAIRS = 32768 * 524288;

function timedDensities(queries: number, keys: number): number[] {
  const densities = possible(keys, keys === CURVED.keys && queries <= CURVED.queries ? [0.01, ...CURVE] : TIMED);
  return queries * keys > MOST_PAIRS ? densities.slice(0, 1) : densities;
}

/** One token, or a chunk of the last ones: 32K tokens are what InfiniteHiP is measured with. */
export function timeCases(options: SparseOptions): TimeCase[] {
  const chunk = options.full ? 32768 : options.quick ? 512 : 2048;
  const selectors = TIMED_SELECTORS.filter((name) => !options.quick || !NOT_QUICK.includes(name));
  return PHASES.flatMap((phase) =>
    lengthsOf(options).map((keys) => {
      const queries = phase === 'decode' ? 1 : Math.min(chunk, keys);
      return {
        name: `time: ${phaseName(phase)} T=${keys}`,
        phase,
        queries,
        keys,
        densities: timedDensities(queries, keys),
        selectors,
      };
    }),
  );
}

/** The least density that leaves something to choose, of one length. */
const leastOf = (keys: number) => possible(keys, TIMED)[0]!;

export interface StepCase {
  name: string;
  keys: number;
  density: number;
}

/** Steps of decoding, each of which appends a token. */
export function stepCases(options: SparseOptions): StepCase[] {
  return lengthsOf(options).map((keys) => ({
    name: `time: steps of decoding T=${keys}`,
    keys,
    density: leastOf(keys),
  }));
}

export interface ListedCase {
  name: string;
  phase: Phase;
  queries: number;
  keys: number;
}

/** Plans by the share of the blocks that they list: of as many queries as keys, and of one query over many keys. */
export function listedCases({ quick }: SparseOptions): ListedCase[] {
  const tokens = quick ? [1024] : [1024, 4096];
  const keys = quick ? 8192 : 131072;
  return [
    ...tokens.map(
      (length): ListedCase => ({
        name: `time: blocks listed T=${length}`,
        phase: 'prefill',
        queries: length,
        keys: length,
      }),
    ),
    { name: `time: blocks listed, ${phaseName('decode')} T=${keys}`, phase: 'decode', queries: 1, keys },
  ];
}

export interface GrowthCase {
  name: string;
  tokens: number;
}

/** As many queries as keys, causal. */
export function growthCases(options: SparseOptions): GrowthCase[] {
  return growthLengths(options, 20).map((tokens) => ({ name: `growth: T=${tokens}`, tokens }));
}
