// Static rules: sparse plans that depend on positions alone.

import { AttentionError } from './errors';
import { boolean, integer, integers, isArray, options, show } from './options';
import {
  fromRows,
  type Layout,
  layoutOf,
  mostTokens,
  type PlanGeometry,
  type PlanOptions,
  planNames,
  type Rows,
  type SparsePlan,
} from './sparse_plan';

/** Positions of the queries of a row: its first and its last one. */
interface Row {
  head: number;
  first: number;
  last: number;
}

type Show = (from: number, to: number) => void;

/** Ranges that all rows of a plan may be shown, which take time even where they list the same blocks: a few seconds. */
const mostShown = 2 ** 28;

/**
 * The plan in which a row lists the blocks that hold any of the keys [from, to) that `rule` shows it. The rule is asked
 * for as many heads as differ.
 */
function planOf(call: string, layout: Layout, rule: (row: Row, show: Show) => void, differing = 1): SparsePlan {
  const { keys, keyBlock, queryTile, tiles, queries } = layout;
  const shown = new Ranges();
  let spent = 0;
  const rows: Rows = (row, list) => {
    const [tile, head] = [row % tiles, Math.floor(row / tiles)];
    const first = tile * queryTile + keys - queries;
    const last = Math.min((tile + 1) * queryTile, queries) - 1 + keys - queries;
    shown.clear();
    if (row === 0) spent = 0; // rows are asked for twice
    rule({ head, first, last }, (from, to) => {
      if (++spent > mostShown) {
        throw new AttentionError(
          'ERR_OPTION',
          `${call}: the rows see more than ${mostShown} ranges of keys; use a larger queryTile, or show fewer keys, or ` +
            'the same ones to more heads',
        );
      }
      const begin = Math.max(0, from);
      const end = Math.min(keys, layout.causal ? Math.min(to, last + 1) : to);
      if (begin < end) shown.add(Math.floor(begin / keyBlock), Math.ceil(end / keyBlock));
    });
    shown.merge();
    shown.each(list);
  };
  return fromRows(call, layout, rows, differing * tiles);
}

/** A range [begin, end) of blocks is one number here, so that ranges are sorted as numbers are; there are 2^24 blocks. */
const shift = 2 ** 25;

/** Ranges of blocks in any order, outside of V8's heap: no more of them than twice those that are left once merged. */
class Ranges {
  #ranges = new Float64Array(256);
  #count = 0;
  // The last one, and whether all begin where the one before them does, or behind it.
  #begin = 0;
  #end = -1;
  #ascending = true;

  clear(): void {
    this.#count = 0;
    this.#begin = 0;
    this.#end = -1;
    this.#ascending = true;
  }

  add(begin: number, end: number): void {
    if (begin >= this.#begin && begin <= this.#end) {
      this.#end = Math.max(this.#end, end); // most of what rules show meets what they have shown before
    } else {
      if (this.#count === this.#ranges.length) this.#makeRoom();
      this.#count++;
      this.#ascending &&= begin >= this.#begin;
      this.#begin = begin;
      this.#end = end;
    }
    this.#ranges[this.#count - 1] = this.#begin * shift + this.#end;
  }

  #makeRoom(): void {
    this.merge();
    if (2 * this.#count <= this.#ranges.length) return;
    const ranges = new Float64Array(2 * this.#ranges.length);
    ranges.set(this.#ranges);
    this.#ranges = ranges;
  }

  /** Makes them ascend, and one of those that meet. */
  merge(): void {
    if (this.#ascending) return;
    const sorted = this.#ranges.subarray(0, this.#count).sort();
    this.clear();
    for (const range of sorted) {
      const begin = Math.floor(range / shift);
      this.add(begin, range - begin * shift);
    }
  }

  each(use: (begin: number, end: number) => void): void {
    for (let n = 0; n < this.#count; n++) {
      const begin = Math.floor(this.#ranges[n]! / shift);
      use(begin, this.#ranges[n]! - begin * shift);
    }
  }
}

type RuleOptions = PlanGeometry & PlanOptions;

/** The layout of a plan of tokens that see each other, and are those of `what`. */
function layoutOfTokens(call: string, what: string, tokens: number, given: Parameters<typeof layoutOf>[1]): Layout {
  if (tokens <= mostTokens) return layoutOf(call, { ...given, queries: tokens, keys: tokens });
  throw new AttentionError('ERR_OPTION', `${call}: ${what} makes ${tokens} tokens; at most ${mostTokens} are possible`);
}

/** Keys that every row of a rule sees besides, as `always` of {@link SelectorOptions} has them. */
export interface RuleAlways {
  /** How many keys from the first on; default 0. */
  sink?: number;
  /** How many keys up to each query's own, that one included, and as many on its other side when not causal; default 0. */
  window?: number;
}

/** Shows a row the first keys, and the last ones up to each query's own. */
function showEnds({ first, last }: Row, show: Show, sink: number, window: number): void {
  show(0, sink);
  if (window > 0) show(first - window + 1, last + window);
}

/** The rule, and what every row sees besides. */
function besides(call: string, always: unknown, rule: (row: Row, show: Show) => void): typeof rule {
  const given = options(`${call}: always`, always, ['sink', 'window']);
  const sink = integer(call, 'always.sink', given.sink ?? 0, 0);
  const window = integer(call, 'always.window', given.window ?? 0, 0);
  return (row, show) => {
    if (sink > 0 || window > 0) showEnds(row, show, sink, window);
    rule(row, show);
  };
}

/** Options of {@link streamingPlan}. */
export interface StreamingOptions extends RuleOptions {
  /** How many keys from the first on every query sees: one number, or one for each of `heads`; default 0. */
  sink?: number | readonly number[];
  /**
   * How many keys up to a query's own it sees, that one included; as many on its other side when not causal: one number,
   * or one for each of `heads`.
   */
  window: number | readonly number[];
}

/** One number for all heads, or one for each. */
function numbersPerHead(call: string, name: string, value: unknown, heads: number): number[] {
  if (!isArray(value)) return [integer(call, name, value, 0)];
  if (value.length !== heads) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: ${name} has ${value.length} numbers; give one, or one per head: ${heads}`,
    );
  }
  return integers(call, name, value, 0, 'ERR_OPTION');
}

/**
 * The first keys and the last ones before each query, rounded up to blocks: the pattern of StreamingLLM.
 *
 * @throws AttentionError as {@link SparsePlan.fromBlocks} for a geometry, a number of blocks, a device or a stream;
 * ERR_OPTION for a `sink` or `window` that is no integer of at least 0, or a list of these for another number of heads.
 * @see Xiao et al. 2023 (StreamingLLM).
 */
export function streamingPlan(opts: StreamingOptions): SparsePlan {
  const call = 'streamingPlan';
  const given = options(call, opts, [...planNames, 'sink', 'window']);
  const layout = layoutOf(call, given);
  const sinks = numbersPerHead(call, 'sink', given.sink ?? 0, layout.heads);
  const windows = numbersPerHead(call, 'window', given.window, layout.heads);
  const rule = (row: Row, show: Show) =>
    showEnds(row, show, sinks[row.head % sinks.length]!, windows[row.head % windows.length]!);
  return planOf(call, layout, rule, Math.max(sinks.length, windows.length));
}

/** Options of {@link dilatedPlan}. */
export interface DilatedOptions extends RuleOptions {
  /** How many keys from the first on every query sees; default 0. */
  sink?: number;
  /** How many keys up to a query's own it sees, that one included; as many on its other side when not causal. */
  window: number;
}

/**
 * Blocks at distances of 1, 2, 4, 8 ... blocks beside a sink and a window: what a query sees through several layers
 * grows exponentially with their number.
 *
 * @throws AttentionError as {@link SparsePlan.fromBlocks} for a geometry, a number of blocks, a device or a stream;
 * ERR_OPTION for a `sink` or `window` that is no integer of at least 0, and for more than 2^28 ranges of keys that all rows see.
 * @see Chen et al. 2025 (PowerAttention).
 */
export function dilatedPlan(opts: DilatedOptions): SparsePlan {
  const call = 'dilatedPlan';
  const given = options(call, opts, [...planNames, 'sink', 'window']);
  const layout = layoutOf(call, given);
  const sink = integer(call, 'sink', given.sink ?? 0, 0);
  const window = integer(call, 'window', given.window, 0);
  const { keyBlock, blocks } = layout;
  return planOf(call, layout, (row, show) => {
    const { first, last } = row;
    showEnds(row, show, sink, window);
    const [begin, end] = [Math.floor(first / keyBlock), Math.floor(last / keyBlock)];
    for (let distance = 1; distance < blocks; distance *= 2) {
      show((begin - distance) * keyBlock, (end - distance + 1) * keyBlock);
      show((begin + distance) * keyBlock, (end + distance + 1) * keyBlock);
    }
  });
}

/** Options of {@link verticalSlashPlan}. */
export interface VerticalSlashOptions extends RuleOptions {
  /**
   * Keys that every query sees, counted from 0, in any order: one list, or one for each of `heads`. Keys beyond the last
   * are passed over.
   */
  vertical: readonly number[] | readonly (readonly number[])[];
  /**
   * Distances in keys back from a query's position to what it sees, 0 being its own, in any order: one list, or one for
   * each of `heads`.
   */
  slash: readonly number[] | readonly (readonly number[])[];
  /** Keys that every query sees besides; none unless given. */
  always?: RuleAlways;
}

/** One list for all heads, or one for each. */
function perHead(call: string, name: string, value: unknown, heads: number): number[][] {
  if (!isArray(value)) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: ${name} is ${show(value)}; it must be a list of integers, or one for each of heads`,
    );
  }
  const nested = value.length > 0 && isArray(value[0]);
  if (!nested) {
    return [integers(call, name, value, 0, 'ERR_OPTION')];
  }
  if (value.length !== heads) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: ${name} has ${value.length} lists; give one, or one per head: ${heads}`,
    );
  }
  return value.map((list, head) => integers(call, `${name}[${head}]`, list, 0, 'ERR_OPTION'));
}

/**
 * Ranges [from, to) that hold the integers of a list, ascending; those that follow each other are one, and so are those of
 * which `alike` says, of the last integer of one and the first of the next, that they list the same blocks as one.
 */
function runsOf(
  list: readonly number[],
  alike: (value: number, next: number) => boolean,
): (readonly [number, number])[] {
  const runs: [number, number][] = [];
  for (const value of [...list].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && (value <= last[1] || alike(last[1] - 1, value))) last[1] = value + 1;
    else runs.push([value, value + 1]);
  }
  return runs;
}

/**
 * Vertical and slash lines, rounded up to blocks: some keys for all queries, and the keys at some distances from each.
 *
 * @throws AttentionError as {@link SparsePlan.fromBlocks} for a geometry, a number of blocks, a device or a stream;
 * ERR_OPTION for lists of anything but integers of at least 0, of more than 65536 of them, for another number of heads, for
 * an `always` of anything but integers of at least 0, or for more than 2^28 lines that all rows see, those in one block counted as one.
 * @see Jiang et al. 2024 (MInference).
 */
export function verticalSlashPlan(opts: VerticalSlashOptions): SparsePlan {
  const call = 'verticalSlashPlan';
  const given = options(call, opts, [...planNames, 'vertical', 'slash', 'always']);
  const layout = layoutOf(call, given);
  const { keyBlock, heads } = layout;
  const block = (key: number) => Math.floor(key / keyBlock);
  const vertical = perHead(call, 'vertical', given.vertical, heads).map((list) =>
    runsOf(list, (key, next) => block(key) === block(next)),
  );
  // Less than a block lies between such distances, and so no whole one. The farthest comes first: keys ascend.
  const slash = perHead(call, 'slash', given.slash, heads).map((list) =>
    runsOf(list, (distance, next) => next - distance <= keyBlock).reverse(),
  );
  const rule = besides(call, given.always, ({ head, first, last }, show) => {
    for (const [from, to] of vertical[head % vertical.length]!) show(from, to);
    for (const [from, to] of slash[head % slash.length]!) show(first - to + 1, last - from + 1);
  });
  return planOf(call, layout, rule, Math.max(vertical.length, slash.length));
}

/** Options of {@link radialPlan}: `queries` and `keys` follow from the video. */
export interface RadialOptions extends Omit<RuleOptions, 'queries' | 'keys'> {
  /** Frames of the video. */
  frames: number;
  /** Tokens of each frame. */
  tokensPerFrame: number;
  /** Whether every query sees the first frame; default true. */
  firstFrame?: boolean;
  /** Keys that every query sees besides; none unless given. */
  always?: RuleAlways;
}

/**
 * Attention to a video that decays with distance in time: a query sees the tokens of a frame that are near its own
 * place, half as many with each doubling of the distance between the frames, and once there is less than one, its own
 * place in every second, fourth ... frame. Rounded up to blocks.
 *
 * @throws AttentionError as {@link SparsePlan.fromBlocks} for a geometry, a number of blocks, a device or a stream;
 * ERR_OPTION for `frames` or `tokensPerFrame` that are no integers of at least 1, or make more than 2^30 tokens, for an
 * `always` of anything but integers of at least 0, and for more than 2^28 ranges of keys that all rows see.
 * @see Li et al. 2025 (Radial Attention).
 */
export function radialPlan(opts: RadialOptions): SparsePlan {
  const call = 'radialPlan';
  const { frames, tokensPerFrame, firstFrame, always, ...rest } = options(call, opts, [
    ...planNames.filter((name) => name !== 'queries' && name !== 'keys'),
    'frames',
    'tokensPerFrame',
    'firstFrame',
    'always',
  ]);
  const count = integer(call, 'frames', frames, 1);
  const size = integer(call, 'tokensPerFrame', tokensPerFrame, 1);
  const toFirst = boolean(call, 'firstFrame', firstFrame ?? true);
  const layout = layoutOfTokens(call, `frames ${count} x tokensPerFrame ${size}`, count * size, rest);
  const rule = besides(call, always, ({ first, last }, show) => {
    if (toFirst) show(0, size);
    for (let frame = Math.floor(first / size); frame * size <= last; frame++) {
      const [from, to] = [Math.max(first - frame * size, 0), Math.min(last - frame * size, size - 1)];
      const farthest = Math.max(frame, count - 1 - frame);
      // By distances from halved to twice that, of which only those that are seen are looked at.
      for (let halved = 1; halved <= Math.max(farthest, 1); halved *= 2) {
        const reach = Math.max(Math.floor(size / halved) - 1, 0);
        const step = Math.ceil(halved / size);
        const nearest = halved === 1 ? 0 : Math.ceil(halved / step) * step;
        for (let distance = nearest; distance < Math.min(2 * halved, farthest + 1); distance += step) {
          for (const other of distance === 0 ? [frame] : [frame - distance, frame + distance]) {
            if (other < 0 || other >= count) continue;
            show(other * size + Math.max(from - reach, 0), other * size + Math.min(to + reach + 1, size));
          }
        }
      }
    }
  });
  return planOf(call, layout, rule);
}

/** Options of {@link gridPlan}: `queries` and `keys` follow from the grid. */
export interface GridOptions extends Omit<RuleOptions, 'queries' | 'keys'> {
  /** The extents of the token axes, one to three. */
  shape: readonly number[];
  /** The extents of a box of tokens along each axis; where the grid ends, boxes are cut off. */
  box: readonly number[];
  /** How many boxes before and after its own a token sees along each axis; default 0, its own box alone. */
  reach?: readonly number[];
  /** Keys that every query sees besides, as flat tokens; none unless given. */
  always?: RuleAlways;
}

/**
 * Boxes in space and time: the grid is cut into boxes, and a token sees those around its own. Keys are rounded up to
 * blocks of flat tokens, and so are best where a box's innermost extent is the grid's.
 *
 * @throws AttentionError as {@link SparsePlan.fromBlocks} for a geometry, a number of blocks, a device or a stream;
 * ERR_OPTION for lists of different lengths, extents that are no integers of at least 1, a grid of more than 2^30 tokens, an
 * `always` of anything but integers of at least 0, or more than 2^28 ranges of keys that all rows see.
 */
export function gridPlan(opts: GridOptions): SparsePlan {
  const call = 'gridPlan';
  const { shape, box, reach, always, ...rest } = options(call, opts, [
    ...planNames.filter((name) => name !== 'queries' && name !== 'keys'),
    'shape',
    'box',
    'reach',
    'always',
  ]);
  const extents = integers(call, 'shape', shape, 1, 'ERR_OPTION');
  const boxes = integers(call, 'box', box, 1, 'ERR_OPTION');
  const steps = integers(call, 'reach', reach ?? extents.map(() => 0), 0, 'ERR_OPTION');
  if (extents.length < 1 || extents.length > 3 || boxes.length !== extents.length || steps.length !== extents.length) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: shape has ${extents.length} axes, box ${boxes.length} and reach ${steps.length}; ` +
        'give one to three of each',
    );
  }
  const tokens = extents.reduce((product, extent) => product * extent, 1);
  const layout = layoutOfTokens(call, `shape ${show(extents)}`, tokens, rest);
  // As three axes, of which the first may be 1 long.
  const pad = (list: number[], value: number) =>
    [...Array(3 - list.length).fill(value), ...list] as [number, number, number];
  const [e, b, r] = [pad(extents, 1), pad(boxes, 1), pad(steps, 0)];
  /** What the tokens at `count` places of an axis from `at` on see of it together. */
  const range = (axis: 0 | 1 | 2, at: number, count: number) => {
    const [before, behind] = [Math.floor(at / b[axis]) - r[axis], Math.floor((at + count - 1) / b[axis]) + r[axis] + 1];
    return [Math.max(0, before * b[axis]), Math.min(e[axis], behind * b[axis])] as const;
  };
  const rule = besides(call, always, ({ first, last }, show) => {
    // A row is some boxes of tokens: the rest of a line, lines, planes, lines, the beginning of a line.
    for (let token = first; token <= last; ) {
      const line = Math.floor(token / e[2]);
      const [t, y, x] = [Math.floor(line / e[1]), line % e[1], token % e[2]];
      const left = last + 1 - token;
      const lines = x === 0 ? Math.floor(left / e[2]) : 0;
      const planes = y === 0 ? Math.floor(lines / e[1]) : 0;
      const size: [number, number, number] = [1, 1, Math.min(left, e[2] - x)];
      if (lines > 0) size[1] = Math.min(lines, e[1] - y);
      if (planes > 0) size[0] = planes;
      token += size[0] * size[1] * size[2];
      const [t0, t1] = range(0, t, size[0]);
      const [y0, y1] = range(1, y, size[1]);
      const [x0, x1] = range(2, x, size[2]);
      const flat = (t: number, y: number, x: number) => (t * e[1] + y) * e[2] + x;
      // Whole lines follow each other, and so do whole planes.
      if (x0 > 0 || x1 < e[2]) {
        for (let t = t0; t < t1; t++) for (let y = y0; y < y1; y++) show(flat(t, y, x0), flat(t, y, x1));
      } else if (y0 > 0 || y1 < e[1]) {
        for (let t = t0; t < t1; t++) show(flat(t, y0, 0), flat(t, y1, 0));
      } else {
        show(flat(t0, 0, 0), flat(t1, 0, 0));
      }
    }
  });
  return planOf(call, layout, rule);
}
