// What a tiling makes of a neighborhood: exact counts, from the definition of GNA (Hassani et al. 2025, arXiv:2504.16922).

import { AttentionError } from './errors';
import { type NeighborhoodOptions, neighborhoodSetting } from './masks';
import type { NativeNeighborhood } from './native';
import { integers, options } from './options';

/** A neighborhood on a grid of tokens, and the boxes of tokens that an executor takes at once. */
export interface SimulationOptions extends NeighborhoodOptions {
  /** Extent of each token axis, one to three. */
  shape: readonly number[];
  /** Queries of a tile along each axis; chosen for the largest `speedup.sum` unless given. */
  queryTile?: readonly number[];
  /** Keys of a tile along each axis; chosen likewise. */
  keyTile?: readonly number[];
}

/** Speed-ups are over attention of every query to every key. */
export interface Simulation {
  /** Queries of a tile along each axis: what was given, or chosen. */
  queryTile: number[];
  /** Keys of a tile along each axis: what was given, or chosen. */
  keyTile: number[];
  /**
   * Pairs of a query tile and a key tile of one batch entry and head. A visited pair holds a query that sees a key. It is
   * full when every query of it sees every key, so that it needs no mask, and partial otherwise, as are visited tiles
   * that reach over the border of the grid. With dilation, a tile holds tokens of one dilation group.
   */
  tiles: {
    /** Pairs with work to do. */
    visited: number;
    /** Visited pairs without a mask. */
    full: number;
    /** Visited pairs with a mask. */
    partial: number;
    /** All pairs, as in dense attention. */
    total: number;
  };
  /** What the neighborhood saves, as factors of dense attention. */
  speedup: {
    /** All pairs of a query and a key over the visible ones. */
    flops: number;
    /** The bound when every query tile costs as much as the worst one: all tokens over those of its key tiles. */
    worstTile: number;
    /** The bound when the cost follows the visited tiles: all tokens over those of a query tile's key tiles in the mean. */
    sum: number;
  };
}

interface AxisSetting {
  extent: number;
  window: number;
  stride: number;
  dilation: number;
  causal: boolean;
  wrap: boolean;
}

/** Of one axis; all but `worst` are sums over its query tiles or queries. */
interface AxisCounts {
  visible: number;
  visited: number;
  full: number;
  worst: number;
  queryTiles: number;
  keyTiles: number;
}

const mostTokens = 2 ** 30;

/** Boxes of 128 tokens, and of 64, by the number of axes: what the registers of a block of threads hold. */
const candidateTiles: Record<number, { queryTile: number[]; keyTile: number[] }[]> = {
  1: [
    { queryTile: [128], keyTile: [128] },
    { queryTile: [64], keyTile: [128] },
  ],
  2: [
    { queryTile: [16, 8], keyTile: [16, 8] },
    { queryTile: [8, 16], keyTile: [8, 16] },
    { queryTile: [8, 8], keyTile: [16, 8] },
    { queryTile: [8, 8], keyTile: [8, 16] },
  ],
  3: [
    { queryTile: [4, 4, 8], keyTile: [4, 4, 8] },
    { queryTile: [2, 8, 8], keyTile: [2, 8, 8] },
    { queryTile: [4, 4, 4], keyTile: [4, 4, 8] },
    { queryTile: [4, 4, 4], keyTile: [2, 8, 8] },
  ],
};

/** The keys [start, end) that a query of a dilation group of some length sees; a wrapping window may begin below 0. */
function windowOf(i: number, length: number, { window: w, stride: s, causal, wrap }: AxisSetting): [number, number] {
  const first = i - (i % s);
  if (causal) return [Math.max(Math.min(first + s - 1, length - 1) - w + 1, 0), i + 1];
  const start = Math.min(first + Math.floor(s / 2), length - 1) - Math.floor(w / 2);
  const clamped = wrap ? start : Math.min(Math.max(start, 0), length - w);
  return [clamped, clamped + w];
}

/** Tiles of `tile` tokens that [start, end) touches on an axis of some length; on a ring it may lie outside [0, length). */
function touched(start: number, end: number, length: number, tile: number): number {
  const tiles = Math.ceil(length / tile);
  if (end <= start) return 0;
  if (end - start >= length) return tiles;
  const from = ((start % length) + length) % length;
  const to = from + end - start;
  if (to <= length) return Math.ceil(to / tile) - Math.floor(from / tile);
  return Math.min(tiles, tiles - Math.floor(from / tile) + Math.ceil((to - length) / tile));
}

/** Whole tiles within [start, end) on an axis of some length; on a ring it may lie outside [0, length). */
function within(start: number, end: number, length: number, tile: number): number {
  const whole = (from: number, to: number) => Math.max(0, Math.floor(to / tile) - Math.ceil(from / tile));
  if (end <= start) return 0;
  if (end - start >= length) return whole(0, length);
  const from = ((start % length) + length) % length;
  const to = from + end - start;
  return to <= length ? whole(from, to) : whole(from, length) + whole(0, to - length);
}

/** Whole tiles that every one of the queries [first, last] sees. */
function covered(first: number, last: number, length: number, tile: number, setting: AxisSetting): number {
  const { window, stride, wrap } = setting;
  const [begin, end] = windowOf(first, length, setting);
  const [start] = windowOf(last, length, setting);
  if (wrap && window === length) return within(0, length, length, tile);
  let full = within(start, end, length, tile);
  // What a window leaves out of a ring may end before the next one begins to leave out: both share that gap.
  const gap = stride + window - length;
  if (!wrap || gap < tile) return full;
  for (let at = begin; at < start; at += stride) full += within(at + length, at + length + gap, length, tile);
  return full;
}

/** Pairs of a query and a key that it sees. */
function visiblePairs(length: number, { window, stride, causal }: AxisSetting): number {
  if (!causal) return length * window;
  // Of all keys up to the query itself those before the window, which is that of the last query of the stride group.
  const groups = Math.floor(length / stride);
  const none = Math.min(Math.ceil(window / stride) - 1, groups); // groups without any before
  const before =
    stride * ((groups - none) * (stride - window) + (stride * ((groups - none) * (none + groups - 1))) / 2);
  return (length * (length + 1)) / 2 - before - (length % stride) * (length - window);
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** Tiles that may be looked at one by one: about a second. */
const mostSteps = 2 ** 24;

/** How many of them are left. */
export interface Budget {
  steps: number;
}

export const wholeBudget = (): Budget => ({ steps: mostSteps });

function countGroup(
  length: number,
  setting: AxisSetting,
  queryTile: number,
  keyTile: number,
  budget: Budget,
): AxisCounts {
  const { window, stride, wrap } = setting;
  const queryTiles = Math.ceil(length / queryTile);
  const counts = { visible: visiblePairs(length, setting), visited: 0, full: 0, worst: 0, queryTiles, keyTiles: 0 };
  counts.keyTiles = Math.ceil(length / keyTile);
  // Away from both ends windows only move on, and so all is the same again after a common multiple of stride and tiles:
  // there the tiles up to it stand for the others.
  const lcm = (a: number, b: number) => (a / gcd(a, b)) * b;
  const period = lcm(lcm(stride, keyTile), queryTile) / queryTile;
  const inner = Math.ceil((window + stride) / queryTile);
  const periods = Math.max(1, Math.floor((Math.floor((length - window - stride) / queryTile) - inner) / period));
  const gaps = wrap && stride + window - length >= keyTile ? length / stride : 0;
  const steps = queryTiles - (periods - 1) * period + gaps;
  if (steps > budget.steps) {
    throw new AttentionError(
      'ERR_OPTION',
      `simulateNeighborhood: of tiles of ${queryTile} queries and ${keyTile} keys, with window ${window} and stride ` +
        `${stride} on ${length} tokens, ${steps} may differ, but at most ${mostSteps} of all tiles are looked at; ` +
        'give larger tiles, or a shorter window',
    );
  }
  budget.steps -= steps;
  for (let tile = 0; tile < queryTiles; tile++) {
    const first = tile * queryTile;
    const last = Math.min(first + queryTile, length) - 1;
    // Windows move on with their queries and leave no gap between them.
    const [start] = windowOf(first, length, setting);
    const [, end] = windowOf(last, length, setting);
    const visited = touched(start, end, length, keyTile);
    const alike = tile >= inner && tile < inner + period ? periods : 1;
    counts.visited += alike * visited;
    counts.full += alike * covered(first, last, length, keyTile, setting);
    counts.worst = Math.max(counts.worst, visited);
    if (tile === inner + period - 1) tile += (periods - 1) * period;
  }
  return counts;
}

function countAxis(setting: AxisSetting, queryTile: number, keyTile: number, budget: Budget): AxisCounts {
  const { extent, dilation } = setting;
  const long = extent % dilation; // so many groups have one token more
  const total: AxisCounts = { visible: 0, visited: 0, full: 0, worst: 0, queryTiles: 0, keyTiles: 0 };
  for (const [groups, length] of [
    [long, Math.floor(extent / dilation) + 1],
    [dilation - long, Math.floor(extent / dilation)],
  ] as const) {
    if (groups === 0) continue;
    const one = countGroup(length, setting, queryTile, keyTile, budget);
    for (const name of ['visible', 'visited', 'full', 'queryTiles', 'keyTiles'] as const) {
      total[name] += groups * one[name];
    }
    total.worst = Math.max(total.worst, one.worst);
  }
  return total;
}

/** Of no values 1. */
export const product = (values: readonly number[]) => values.reduce((a, b) => a * b, 1);

function count(settings: AxisSetting[], queryTile: number[], keyTile: number[], budget: Budget): Simulation {
  const axes = settings.map((setting, a) => countAxis(setting, queryTile[a]!, keyTile[a]!, budget));
  const all = (name: keyof AxisCounts) => product(axes.map((axis) => axis[name]));
  const tokens = product(settings.map(({ extent }) => extent));
  const [visited, full, queryTiles, perTile] = [all('visited'), all('full'), all('queryTiles'), product(keyTile)];
  return {
    queryTile,
    keyTile,
    tiles: { visited, full, partial: visited - full, total: queryTiles * all('keyTiles') },
    speedup: {
      flops: (tokens * tokens) / all('visible'),
      worstTile: tokens / (all('worst') * perTile),
      sum: (tokens * queryTiles) / (visited * perTile),
    },
  };
}

function settingOf(native: NativeNeighborhood, axis: number, extent: number): AxisSetting {
  const at = (values: number[]) => (values.length === 1 ? values[0]! : values[axis]!);
  const [dilation, stride, wrap] = [at(native.dilation), at(native.stride), at(native.wrap) === 1];
  const most = Math.floor(extent / dilation);
  const window = at(native.window) === -1 ? most : at(native.window);
  const refuse = (problem: string) => new AttentionError('ERR_OPTION', `simulateNeighborhood: ${problem}`);
  if (most < 1) throw refuse(`dilation ${dilation} of axis ${axis} is not in 1 ... ${extent}, the extent`);
  if (window > most) {
    throw refuse(
      `window ${window} times dilation ${dilation} of axis ${axis} exceeds its extent ${extent}: the window is at most ` +
        `${most}, or -1 for all`,
    );
  }
  if (stride > window) {
    throw refuse(`stride ${stride} of axis ${axis} exceeds its window ${window}; it must be in 1 ... ${window}`);
  }
  if (wrap && (extent % dilation !== 0 || most % stride !== 0)) {
    throw refuse(
      `axis ${axis} wraps, so its extent ${extent} must be divisible by dilation ${dilation} and what remains by stride ${stride}`,
    );
  }
  return { extent, window, stride, dilation, causal: at(native.causal) === 1, wrap };
}

/**
 * {@link simulateNeighborhood} for each pair of tiles to choose from, as far as the budget goes; errors are of those that
 * it does not suffice for.
 */
export function simulateEach(
  opts: SimulationOptions,
  budget: Budget,
): { counted: Simulation[]; refused: AttentionError[] } {
  const call = 'simulateNeighborhood';
  const names = ['shape', 'queryTile', 'keyTile', 'window', 'stride', 'dilation', 'causal', 'wrap'] as const;
  const { shape, queryTile, keyTile, ...rest } = options(call, opts, names);
  const extents = integers(call, 'shape', shape, 1, 'ERR_SHAPE');
  if (extents.length < 1 || extents.length > 3 || product(extents) > mostTokens) {
    const found = `shape has ${extents.length} axes and ${product(extents)} tokens`;
    throw new AttentionError('ERR_SHAPE', `${call}: ${found}; give one to three token axes and at most 2^30 tokens`);
  }
  const native = neighborhoodSetting(call, rest);
  for (const [name, values] of Object.entries(native) as [string, number[]][]) {
    if (values.length === 1 || values.length === extents.length) continue;
    const found = `${name} has ${values.length} values for ${extents.length} token axes`;
    throw new AttentionError('ERR_OPTION', `${call}: ${found}; give one value or one per axis`);
  }
  const settings = extents.map((extent, axis) => settingOf(native, axis, extent));
  const given = (name: string, value: unknown) => {
    if (value === undefined) return undefined;
    const tile = integers(call, name, value, 1, 'ERR_SHAPE');
    if (tile.length === extents.length) return tile;
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: ${name} has ${tile.length} axes but shape has ${extents.length}; give one length per axis`,
    );
  };
  const [queries, keys] = [given('queryTile', queryTile), given('keyTile', keyTile)];
  const pairs = candidateTiles[extents.length]!.map(
    (tiles) => [queries ?? tiles.queryTile, keys ?? tiles.keyTile] as const,
  );
  const counted: Simulation[] = [];
  const refused: AttentionError[] = [];
  for (const pair of new Map(pairs.map((one) => [one.join('/'), one])).values()) {
    try {
      counted.push(count(settings, ...pair, budget));
    } catch (error) {
      if (!(error instanceof AttentionError)) throw error;
      refused.push(error);
    }
  }
  return { counted, refused };
}

/**
 * Counts the tiles that an executor visits for a neighborhood, without any tensor, and says how much faster than dense
 * attention it can be at best. Pure arithmetic, exact for up to 2^30 tokens but for what float64 rounds, above 2^53.
 *
 * It takes time for each tile of queries along an axis that may differ from all others: those as near to an end as a window
 * and a stride are long, and those within one common multiple of stride and tiles.
 *
 * @throws AttentionError ERR_OPTION for settings that do not fit the shape, or by which more than 2^24 tiles
 * may differ, of all axes and candidates; ERR_SHAPE for a shape or tiles that are none.
 */
export function simulateNeighborhood(opts: SimulationOptions): Simulation {
  const { counted, refused } = simulateEach(opts, wholeBudget());
  if (refused[0]) throw refused[0];
  return counted.reduce((best, one) => (one.speedup.sum > best.speedup.sum ? one : best));
}
