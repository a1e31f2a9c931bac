// From samples to what is printed.

import { count } from '../cases';
import type { Verdict } from '../format';
import { type Column, factor, ms, optional, percent, tableOf } from '../report';
import { growth, median, medianRatio } from '../statistics';
import { judgeBy, type Target } from '../targets';
import { describeSetting, gnaFlops, simulationOf } from './cases';
import type { Memory, Results, Turns } from './suite';

/** Neighborhood against dense attention. Absent figures: not measured. */
export interface Row extends Turns {
  ms?: number;
  denseMs?: number;
  /** Over our own dense attention. */
  speedup?: number;
  bound: { flops: number; sum: number; worstTile: number };
  /** No visited tile needs a mask. */
  aligned: boolean;
  /** Shares of the bounds that are reached. */
  ofSum?: number;
  ofWorst?: number;
  /** Of the visible pairs alone, per second; and as a share of the measured peak. */
  gflops?: number;
  ofPeak?: number;
}

const samplesOf = ({ contestants, samples }: Turns, name: string) => samples[contestants.indexOf(name)];

export function rowOf(turns: Turns, peak: number | undefined): Row {
  const { tiles, speedup: bound } = simulationOf(turns.test);
  const [own, whole] = [samplesOf(turns, 'node-attention'), samplesOf(turns, 'dense')];
  const speedup = own && whole && medianRatio(whole, own);
  const gflops = own && gnaFlops(turns.test) / median(own) / 1e6;
  return {
    ...turns,
    ms: own && median(own),
    denseMs: whole && median(whole),
    speedup,
    bound,
    aligned: tiles.partial === 0,
    ofSum: speedup && speedup / bound.sum,
    ofWorst: speedup && speedup / bound.worstTile,
    gflops,
    ofPeak: gflops && peak && gflops / peak,
  };
}

const sampled = ({ test, denseQueries = 0 }: Row) => denseQueries < count(test.shape);

const columns: Column<Row>[] = [
  ['case', ({ test }) => test.name],
  ['ms', (row) => ms(row.ms)],
  ['dense ms', (row) => optional((value) => `${sampled(row) ? '~' : ''}${ms(value)}`)(row.denseMs)],
  ['speed-up', ({ speedup }) => factor(speedup)],
  ['by flops', ({ bound }) => factor(bound.flops)],
  ['bound, sum', ({ bound }) => factor(bound.sum)],
  ['of it', ({ ofSum }) => percent(0)(ofSum)],
  ['bound, worst', ({ bound }) => factor(bound.worstTile)],
  ['of it', ({ ofWorst }) => percent(0)(ofWorst)],
  ['masks', ({ aligned }) => (aligned ? 'none' : undefined)],
  ['GFLOP/s', ({ gflops }) => gflops?.toFixed(0)],
  ['of peak', ({ ofPeak }) => percent(0)(ofPeak)],
  ['', ({ disturbed }) => (disturbed > 0 ? `${disturbed} disturbed` : '')],
];

const baselineColumns: Column<Turns>[] = [
  ['case', ({ test }) => test.name],
  ['naive ms', (turns) => ms(medianOf(turns, 'naive'))],
  ['unfused ms', (turns) => ms(medianOf(turns, 'unfused'))],
  ['ms', (turns) => ms(medianOf(turns, 'node-attention'))],
  ['unfused over naive', (turns) => gain(ratio(turns, 'naive', 'unfused'))],
  ['fused over naive', (turns) => gain(ratio(turns, 'naive', 'node-attention'))],
  ['', ({ disturbed }) => (disturbed > 0 ? `${disturbed} disturbed` : '')],
];

function medianOf(turns: Turns, name: string): number | undefined {
  const own = samplesOf(turns, name);
  return own && median(own);
}

/** How many times as long the first takes. */
function ratio(turns: Turns, name: string, of: string): number | undefined {
  const [times, others] = [samplesOf(turns, name), samplesOf(turns, of)];
  return times && others && medianRatio(times, others);
}

/** As the papers say it: twice as fast is 100 %. */
const gain = optional((speedup) => `${(100 * (speedup - 1)).toFixed(0)} %`);

const geometricMean = (values: readonly number[]) =>
  Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);

/** The mean gains over naive for each element type and number of axes. */
export function baselineMeans(turns: readonly Turns[]): string[] {
  const kinds = [...new Set(turns.map(({ test }) => `${test.dtype}, ${test.shape.length}-D`))];
  return kinds.map((kind) => {
    const own = turns.filter(({ test }) => `${test.dtype}, ${test.shape.length}-D` === kind);
    const mean = (name: string) => {
      const ratios = own.map((one) => ratio(one, 'naive', name)).filter((one) => one !== undefined);
      return ratios.length === 0 ? 'not measured' : gain(geometricMean(ratios));
    };
    return `${kind}: unfused ${mean('unfused')}, fused ${mean('node-attention')} over naive (geometric means)`;
  });
}

const mebibytes = (bytes: number | undefined) => (bytes === undefined ? 'not measured' : (bytes / 2 ** 20).toFixed(1));

function blockedTable({ turns }: Results): string {
  const columns: Column<Turns>[] = [
    ['case', ({ test }) => test.name],
    ['blocked ms', (one) => ms(medianOf(one, 'blocked'))],
    ['sliding ms', (one) => ms(medianOf(one, 'sliding'))],
    ['sliding takes', (one) => factor(ratio(one, 'sliding', 'blocked'))],
    ['blocked MiB', ({ memory }) => mebibytes(memory.blocked)],
    ['sliding MiB', ({ memory }) => mebibytes(memory.sliding)],
    ['', ({ disturbed }) => (disturbed > 0 ? `${disturbed} disturbed` : '')],
  ];
  return tableOf(
    columns,
    turns.filter(({ section }) => section === 'blocked'),
  );
}

/** What follows from all results. */
export interface Summary {
  rows: Row[];
  /** The exponent of time over tokens; two sizes or more are needed. */
  exponent?: number;
  /** The most memory of any window over the least. */
  memorySpread?: number;
  /** Settings that are slower than dense attention. */
  slower: { name: string; speedup: number }[];
  targets: Verdict[];
}

const LONG_MS = 1;

function targetsFor(place: 'cpu' | 'cuda'): Target<Row>[] {
  const isNamed = ({ section }: Row) => section === 'named';
  if (place === 'cpu') {
    return [
      {
        text: 'block-aligned: 90 % of the bound by the sum',
        figure: (row) => (isNamed(row) && row.aligned ? row.ofSum : undefined),
        atLeast: 0.9,
      },
      {
        text: 'with masks: 80 % of the bound by the sum',
        figure: (row) => (isNamed(row) && !row.aligned ? row.ofSum : undefined),
        atLeast: 0.8,
      },
    ];
  }
  const long = (row: Row) => row.ms !== undefined && row.ms >= LONG_MS;
  return [true, false].flatMap((aligned) =>
    [true, false].map((isLong) => {
      const atLeast = aligned ? (isLong ? 0.95 : 0.85) : isLong ? 0.85 : 0.75;
      return {
        text: `${aligned ? 'block-aligned' : 'with masks'}, ${isLong ? 'a millisecond and more' : 'shorter'}: ${100 * atLeast} % of the bound by the sum`,
        figure: (row: Row) => (isNamed(row) && row.aligned === aligned && long(row) === isLong ? row.ofSum : undefined),
        atLeast,
      };
    }),
  );
}

export function summarizeGna(
  results: Results,
  place: 'cpu' | 'cuda',
  peakOf: (dtype: string) => number | undefined,
): Summary {
  const rows = results.turns.map((turns) => rowOf(turns, peakOf(turns.test.dtype)));
  const tokens = rows.filter(({ section, ms }) => section === 'tokens' && ms !== undefined);
  const bytes = results.memory.flatMap(({ bytes }) => (bytes === undefined ? [] : [bytes]));
  return {
    rows,
    exponent: tokens.length > 1 ? growth(tokens.map((row) => [count(row.test.shape), row.ms!])) : undefined,
    memorySpread: bytes.length > 1 ? Math.max(...bytes) / Math.min(...bytes) : undefined,
    slower: rows.flatMap(({ test, speedup }) =>
      speedup !== undefined && speedup < 1 ? [{ name: test.name, speedup }] : [],
    ),
    targets: judgeBy(targetsFor(place), rows, ({ test }) => test.name),
  };
}

/** Linear, when time grows with a power of tokens no further from 1 than this. */
const NEAR_LINEAR = 0.1;
/** Flat, when no window takes more than so many times the memory of another. */
const FLAT = 1.1;

export function printed(results: Results, { rows, exponent, memorySpread, slower }: Summary): string {
  const parts: string[] = [];
  const add = (title: string, ...lines: string[]) => parts.push(`${title}\n\n${lines.join('\n')}`);
  const of = (section: Turns['section']) => rows.filter((row) => row.section === section);
  if (of('named').length > 0) add('Named cases', tableOf(columns, of('named')));
  if (of('sweep').length > 0) add('Windows of 1/4, 1/2, 3/4 and 7/8 of each axis', tableOf(columns, of('sweep')));
  const baselines = results.turns.filter(({ section }) => section === 'baselines');
  if (baselines.length > 0)
    add('Over the ways without fusion', tableOf(baselineColumns, baselines), '', ...baselineMeans(baselines));
  if (of('blocked').length > 0) add('Blocked (Swin) and sliding windows of equal size', blockedTable(results));
  if (of('tokens').length > 0) {
    const verdict =
      exponent === undefined
        ? ''
        : `Time grows with tokens to the power of ${exponent.toFixed(3)}: ${Math.abs(exponent - 1) <= NEAR_LINEAR ? 'linear' : 'NOT LINEAR'}`;
    const cells: Column<Row>[] = [
      ['tokens', ({ test }) => String(count(test.shape))],
      ['ms', (row) => ms(row.ms)],
      ['ns per token', ({ test, ms }) => optional((value) => ((1e6 * value) / count(test.shape)).toFixed(0))(ms)],
      ['', ({ disturbed }) => (disturbed > 0 ? `${disturbed} disturbed` : '')],
    ];
    add(`Tokens, at a window of ${of('tokens')[0]!.test.window}`, tableOf(cells, of('tokens')), '', verdict);
  }
  const windows = results.memory;
  if (windows.length > 0) {
    const cells: Column<Memory>[] = [
      ['case', ({ test }) => describeSetting(test)],
      ['peak, MiB', ({ bytes }) => mebibytes(bytes)],
    ];
    const verdict =
      memorySpread === undefined
        ? ''
        : `Most over least: ${memorySpread.toFixed(2)}, ${memorySpread <= FLAT ? 'flat' : 'NOT FLAT'}`;
    add('Peak memory of a process over the window, with all inputs', tableOf(cells, windows), '', verdict);
  }
  const list = slower.map(({ name, speedup }) => `${factor(speedup)}  ${name}`);
  add('Slower than dense attention', ...(list.length > 0 ? list : ['none of those measured']));
  return parts.join('\n\n');
}

export const GNA_NOTES = `\
ms: median of the rounds; dense ms with ~: of the first queries only, in proportion for all. speed-up: median over the
rounds of the ratio within each round. by flops: all pairs over visible ones; bounds: simulateNeighborhood() with the tiles
it chooses, were every visited tile as fast as one of dense attention. masks none: every visited tile is full. GFLOP/s counts
visible pairs alone; of peak: of the rate measured on registers here. MiB of windows: beyond inputs.
Baselines keep all weights in memory (naive, unfused).`;
