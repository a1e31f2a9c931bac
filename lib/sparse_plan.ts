// Sparse plans: which blocks of keys each tile of queries sees. Masks that are data.

import { AttentionError } from './errors';
import { Mask } from './masks';
import { type NativePlan, type NativePlanWords, native } from './native';
import { boolean, integer, isArray, isObject, options, show } from './options';
import { optionalStream, type Stream } from './stream';
import { drawPlan } from './svg';
import { checkDevice, type Device, makeTensor, Tensor, tensorHandle } from './tensor';

/** What a plan is for. Token axes are counted flat. */
export interface PlanGeometry {
  /** Queries (Lq) of each batch entry, 1 to 2^30. */
  queries: number;
  /** Keys (Lk) of each batch entry, 1 to 2^30; for a cache those of its longest sequence. */
  keys: number;
  /** 1, for all entries of a batch alike, or the batch; default 1. */
  batch?: number;
  /** Patterns of heads: 1 for all, one per key head, or one per query head; default 1. */
  heads?: number;
  /** Queries that share a row: a power of two from 16 to 128; default 64. */
  queryTile?: number;
  /** Keys in a block: a power of two from 2 to 128; default 64. */
  keyBlock?: number;
  /** Whether queries see no key behind their own position; query i stands at i + Lk - Lq. Default false. */
  causal?: boolean;
  /**
   * Whether the blocks of which a query sees nothing still count, by estimate: each as one key, the mean of its keys, whose
   * weight is multiplied by their number, with the mean of its values. Those that lie across the causal border of any query
   * of the row do not. The lse is then between that of the listed blocks and that of all, but for rounding: means have the
   * dtype of the keys. Default false.
   */
  estimate?: boolean;
}

/** Where and how a plan is made. */
export interface PlanOptions {
  /** Where the plan is to be, as {@link SparsePlan.to} brings it there; default 'cpu'. */
  device?: Device;
  /**
   * The stream to enqueue on; the default stream of the device unless given. For a GPU it has to be one of its own. On the
   * CPU nothing is enqueued for rules and for lists of JavaScript: these plans are there when the call returns.
   */
  stream?: Stream;
}

/** What {@link SparsePlan.fromBlocks} makes of lists of blocks. */
export interface BlockOptions extends PlanGeometry, PlanOptions {
  /**
   * How the keys of each listed block count: a list for each row, as long as that of its blocks. 0 is for the keys
   * themselves, l for the means of 2^l keys that follow each other, 2^l being at most keyBlock/2: each such mean is one
   * key, whose weight is multiplied by the number of its keys, with the mean of their values. Where the keys end, a mean is
   * of those that are left. Only blocks that all queries of their row see whole have a level; in a sequence of a cache that
   * has fewer keys than the plan, one that its own border cuts is not seen. Not with {@link PlanLists}. Default 0 for all.
   *
   * @see Li et al. 2025 (Pyramid Sparse Attention, arXiv:2512.04025).
   */
  levels?: readonly (readonly number[])[];
}

/** Lists of blocks in tensors: int32; the blocks of row r are those from offsets[r] to offsets[r + 1]. */
export interface PlanLists {
  /** `[rows + 1]`, the first 0, ascending. */
  offsets: Tensor;
  /** `[n]`: indices of blocks, those of each row ascending. */
  blocks: Tensor;
}

/** Of the queries of a plan, and of its keys. */
export const mostTokens = 2 ** 30;
const mostRows = 2 ** 26;
const mostPatterns = 2 ** 20;
const mostBlocks = 2 ** 24;
/** Blocks that all rows of a plan can list: 32-bit offsets count them, and where they are in tensors, one word more. */
const mostListed = 2 ** 31 - 3;

const geometryNames = ['queries', 'keys', 'batch', 'heads', 'queryTile', 'keyBlock', 'causal', 'estimate'] as const;
export const planNames = [...geometryNames, 'device', 'stream'] as const;

/** A geometry with nothing left out, checked, and where its plan is to be made. */
export interface Layout extends Required<PlanGeometry> {
  tiles: number;
  blocks: number;
  rows: number;
  /** Of means that entries may have, ascending. */
  levels: readonly number[];
  /** By its full name. */
  device: Device;
  /** One of that device. */
  stream: Stream | undefined;
}

/** What a {@link SparsePlan} lists, counted. */
export interface PlanStatistics {
  /** Rows of `queryTile` queries, of all batch entries and patterns of heads. */
  rows: number;
  /** Blocks of `keyBlock` keys that they list. */
  blocks: number;
  /** Blocks that causality leaves to list. */
  possibleBlocks: number;
  /** Of the listed blocks, those of which a bitmap says who sees which key. */
  bitmaps: number;
  /** Of the listed blocks, those with a level, whose keys count by means. */
  means: number;
  /** See {@link SparsePlan.density}. */
  density: number;
  /** Of each pattern of heads, in all batch entries. */
  heads: {
    /** Blocks that its rows list. */
    blocks: number;
    /** Rows that list nothing, whose queries see no key. */
    emptyRows: number;
    /** Blocks of the row that lists fewest. */
    fewest: number;
    /** Blocks of the row that lists most. */
    most: number;
  }[];
}

/** The layout among the options of a call. */
export function layoutOf(call: string, given: { [name in (typeof planNames)[number]]?: unknown }): Layout {
  const count = (name: 'queries' | 'keys' | 'batch' | 'heads') => integer(call, name, given[name] ?? 1, 1);
  const size = (name: 'queryTile' | 'keyBlock', least: number) => {
    const value = integer(call, name, given[name] ?? 64, least);
    if (value <= 128 && (value & (value - 1)) === 0) return value;
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: ${name} is ${value}; it must be a power of two from ${least} to 128`,
    );
  };
  for (const name of ['queries', 'keys'] as const) integer(call, name, given[name], 1);
  const layout = {
    queries: count('queries'),
    keys: count('keys'),
    batch: count('batch'),
    heads: count('heads'),
    queryTile: size('queryTile', 16),
    keyBlock: size('keyBlock', 2),
    causal: boolean(call, 'causal', given.causal ?? false),
    estimate: boolean(call, 'estimate', given.estimate ?? false),
  };
  for (const name of ['queries', 'keys'] as const) {
    if (layout[name] <= mostTokens) continue;
    throw new AttentionError('ERR_OPTION', `${call}: ${name} is ${layout[name]}; it must be at most ${mostTokens}`);
  }
  for (const name of ['batch', 'heads'] as const) {
    if (layout[name] <= mostPatterns) continue;
    throw new AttentionError('ERR_OPTION', `${call}: ${name} is ${layout[name]}; it must be at most ${mostPatterns}`);
  }
  const blocks = Math.ceil(layout.keys / layout.keyBlock);
  if (blocks > mostBlocks) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: ${layout.keys} keys are ${blocks} blocks of ${layout.keyBlock}, more than ${mostBlocks}; ` +
        'use a larger keyBlock',
    );
  }
  const tiles = Math.ceil(layout.queries / layout.queryTile);
  if (layout.batch * layout.heads * tiles > mostRows) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: batch ${layout.batch} x heads ${layout.heads} x ${tiles} query tiles are more than ${mostRows} rows; ` +
        'use a larger queryTile, or fewer patterns of heads',
    );
  }
  return {
    ...layout,
    tiles,
    blocks,
    rows: layout.batch * layout.heads * tiles,
    levels: [],
    ...placeOf(call, given),
  };
}

function placeOf(call: string, given: { device?: unknown; stream?: unknown }): Pick<Layout, 'device' | 'stream'> {
  const device = checkDevice(call, given.device ?? 'cpu');
  optionalStream(given.stream); // throws for what is none
  const stream = given.stream as Stream | undefined;
  if (stream === undefined || stream.device === device) return { device, stream };
  throw new AttentionError(
    'ERR_DEVICE',
    `${call}: stream is on ${stream.device} but the plan is to be on ${device}; give a stream of that device`,
  );
}

/** `complete`: each row lists all blocks that it may see, with neither bitmap nor level, so that attention is dense. */
const numbersOf = (l: Required<PlanGeometry> & Pick<Layout, 'levels'>, complete: boolean) => [
  l.batch,
  l.heads,
  l.queries,
  l.keys,
  l.queryTile,
  l.keyBlock,
  Number(l.causal),
  Number(l.estimate),
  l.levels.reduce((bits, level) => bits | (1 << level), 0),
  Number(complete),
];

const wordsOf = (values: ArrayLike<number>) => Tensor.from(new Int32Array(values), [values.length]);

/** Words outside of V8's heap, freed at the end of a block: V8 would wait with that for threads that others hold up. */
class Words {
  readonly all: Int32Array;

  constructor(call: string, count: number) {
    try {
      this.all = new Int32Array(count);
    } catch (cause) {
      const fix = 'use a larger keyBlock or queryTile, or show fewer keys';
      const message = `${call}: no memory for ${count} words of a plan; ${fix}`;
      throw new AttentionError('ERR_OUT_OF_MEMORY', message, { cause });
    }
  }

  [Symbol.dispose](): void {
    native.arrayDetach(this.all);
  }
}

const describe = (l: Layout, row: number) => {
  const tile = row % l.tiles;
  const head = Math.floor(row / l.tiles) % l.heads;
  const first = tile * l.queryTile;
  const last = Math.min(first + l.queryTile, l.queries) - 1;
  return `row ${row} (batch ${Math.floor(row / l.tiles / l.heads)}, head ${head}, queries ${first} to ${last})`;
};

/** How many keys, from the first on, a query may see. */
const visibleKeys = (l: Layout, query: number) =>
  l.causal ? Math.max(0, Math.min(l.keys, query + l.keys - l.queries + 1)) : l.keys;

const kinds = { full: 0, predicate: 1, bitmap: 2, tail: 3 };
/** NA_NO_WORD, as an int32. */
const noWord = -3;

/** The words of even rows, without those behind the last entry of a row. */
function closedUp(words: Int32Array, rows: number): { offsets: Int32Array; entries: Int32Array } {
  const each = words.length / rows;
  const offsets = new Int32Array(rows + 1);
  for (let row = 0; row < rows; row++) {
    const end = words.subarray(0, (row + 1) * each).indexOf(noWord, row * each);
    offsets[row + 1] = offsets[row]! + (end < 0 ? each : end - row * each);
  }
  return { offsets, entries: words.filter((word) => word !== noWord) };
}

/**
 * Of the blocks of a row, how many from the first on all its queries see whole, how many any of them sees, and the kind of
 * those between: cut by the causal border, or by the end of the keys.
 */
function limitsOf(l: Layout, row: number): { whole: number; visible: number; kind: number } {
  const first = (row % l.tiles) * l.queryTile;
  const [least, most] = [first, Math.min(first + l.queryTile, l.queries) - 1].map((query) => visibleKeys(l, query));
  return {
    whole: Math.floor(least! / l.keyBlock),
    visible: Math.ceil(most! / l.keyBlock),
    kind: least! < l.keys ? kinds.predicate : kinds.tail,
  };
}

/** Of means, ascending: those that visible blocks have, of as many lists of levels as there are rows. */
function levelsOf(call: string, layout: Layout, blocks: readonly (readonly number[])[], levels: unknown): number[] {
  if (!isArray(levels)) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: levels is ${show(levels)}; it must be a list for each row, with a level for each of its blocks`,
    );
  }
  if (levels.length !== layout.rows) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: levels has ${levels.length} lists for ${layout.rows} rows; give one for each row`,
    );
  }
  const most = Math.log2(layout.keyBlock) - 1;
  const used = new Set<number>();
  for (let row = 0; row < layout.rows; row++) {
    const list: unknown = levels[row];
    const own = blocks[row]!;
    const refuse = (code: 'ERR_OPTION' | 'ERR_SHAPE', what: string) => {
      throw new AttentionError(code, `${call}: levels of ${describe(layout, row)}: ${what}`);
    };
    if (!isArray(list)) return refuse('ERR_OPTION', `${show(list)} is no list; give a level for each of its blocks`);
    if (list.length !== own.length) {
      refuse(
        'ERR_SHAPE',
        `${list.length} levels for ${own.length} blocks; give one for each, 0 for the keys themselves`,
      );
    }
    const { whole, visible, kind } = limitsOf(layout, row);
    for (let i = 0; i < own.length; i++) {
      const [block, level] = [own[i]!, list[i] as number];
      if (!Number.isInteger(level) || level < 0 || level > most) {
        refuse(
          'ERR_OPTION',
          `block ${block} has ${show(level)}; with keyBlock ${layout.keyBlock} levels are integers in 0 ... ${most}`,
        );
      }
      if (level === 0 || block >= visible) continue;
      if (block >= whole && kind === kinds.predicate) {
        refuse(
          'ERR_OPTION',
          `block ${block} has ${level}, but the causal border cuts it, so that not all these queries see it whole; give it 0`,
        );
      }
      used.add(level);
    }
  }
  return [...used].sort((a, b) => a - b);
}

/** The SparsePlan of a plan of the addon, for queries of so many heads. */
export let makePlan: (plan: NativePlan, queryHeads: number) => SparsePlan;

/**
 * Tells `list` which blocks a row lists, as ranges [begin, end) that ascend and do not meet; those with a level, of which
 * the causal border cuts none, after those without.
 */
export type Rows = (row: number, list: (begin: number, end: number, level?: number) => void) => void;

/**
 * The plan of rows that are known to be right; those from `distinct` on repeat the ones before. Rows are asked for twice:
 * they are counted first, so that a plan that cannot be is refused before there is any memory for it. It is there at
 * once: made by an operation, plans in a loop would gather memory until threads of the library have time.
 */
export let fromRows: (call: string, layout: Layout, rows: Rows, distinct?: number) => SparsePlan;

/** kBreakEven of csrc/cpu/attention.cc. */
const breakEven = 0.8;

/**
 * Which keys each query sees, as lists of blocks of keys for tiles of queries: a mask to pass to `attention`, alone or
 * in a list with others. What a selector makes, and what {@link SparsePlan.fromBlocks} and
 * {@link SparsePlan.fromPredicate} make of a pattern of your own. Immutable.
 *
 * Time and memory of attention are in proportion to the blocks that the plan lists. A row without blocks sees nothing:
 * its result is 0, its lse -Infinity. With `estimate` the other blocks count by their means, and those with a level by
 * means of 2, 4, 8 ... of their keys. Means are made anew in each call unless a cache keeps them, and each of them costs
 * as much as one key; with any the plan has to be the only mask, and there is neither bias nor softcap.
 *
 * Plans are made, combined and looked at by the CPU. On a GPU they are attended over, and made by selectors: what else is
 * asked of such a plan is done with a copy on the CPU, and what comes of it goes back.
 */
export class SparsePlan extends Mask {
  /** Queries of each batch entry. */
  readonly queries: number;
  /** Keys of each batch entry. */
  readonly keys: number;
  /** 1, for all entries of a batch alike, or the batch. */
  readonly batch: number;
  /** Patterns of heads. */
  readonly heads: number;
  /** Queries that share a row. */
  readonly queryTile: number;
  /** Keys in a block. */
  readonly keyBlock: number;
  /** Whether queries see no key behind their own position. */
  readonly causal: boolean;
  /** Whether blocks that a row does not list count by their means. */
  readonly estimate: boolean;
  /** Of means that listed blocks may count by, ascending: l for those of 2^l keys. Empty where all keys count themselves. */
  readonly levels: readonly number[];
  /** Where the plan is. */
  readonly device: Device;
  /** Memory that the plan takes, which is what it was allowed to become. */
  readonly bytes: number;

  readonly #native: NativePlan;
  readonly #queryHeads: number;
  /** Whether it is known, whatever the plan's words say, that each row lists all that it may see. */
  readonly #complete: boolean;

  private constructor(plan: NativePlan, queryHeads?: number) {
    super({ plan });
    const { geometry, bytes, device } = native.planInfo(plan);
    const [batch, heads, queries, keys, queryTile, keyBlock, causal, estimate, levels, complete] = geometry as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    this.queries = queries;
    this.keys = keys;
    this.batch = batch;
    this.heads = heads;
    this.queryTile = queryTile;
    this.keyBlock = keyBlock;
    this.causal = causal !== 0;
    this.estimate = estimate !== 0;
    this.levels = [1, 2, 3, 4, 5, 6].filter((level) => (levels >> level) & 1);
    this.device = device as Device;
    this.bytes = bytes;
    this.#native = plan;
    this.#complete = complete !== 0;
    this.#queryHeads = queryHeads !== undefined && queryHeads % heads === 0 ? queryHeads : heads;
  }

  /**
   * The plan that lists the given blocks: block n is keys n·keyBlock up to, not including, (n + 1)·keyBlock. A row is a
   * tile of queries, and rows come in the order of batch, head and tile, batch·heads·ceil(queries / queryTile) in all.
   * Give a list of ascending integers for each, or {@link PlanLists} on the CPU, whose values are not read now:
   * {@link validate} checks them. Blocks that causality hides are left out. With `levels` blocks count by means of some
   * of their keys.
   *
   * @throws AttentionError ERR_OPTION for a geometry that cannot be, and naming the row of a list that is not ascending
   * or names a block that there is not, or of a level that its block cannot have; for `levels` beside tensors; for more than
   * 2^31 - 3 blocks in all; ERR_SHAPE for another number of rows, or of levels in one; ERR_DTYPE for tensors that are not
   * int32; ERR_DEVICE for a device that is not there or a stream of another one; ERR_OUT_OF_MEMORY.
   */
  static fromBlocks(blocks: readonly (readonly number[])[] | PlanLists, opts: BlockOptions): SparsePlan {
    const call = 'SparsePlan.fromBlocks';
    const { levels, ...geometry } = options(call, opts, [...planNames, 'levels']);
    const layout = layoutOf(call, geometry);
    if (!isObject(blocks)) {
      throw new AttentionError(
        'ERR_OPTION',
        `${call}: blocks is ${show(blocks)}; it must be a list of blocks for each row, or { offsets, blocks }`,
      );
    }
    if (!isArray(blocks)) {
      if (levels !== undefined) {
        throw new AttentionError(
          'ERR_OPTION',
          `${call}: levels are for lists of JavaScript, and blocks are tensors, whose values are not read; give lists ` +
            'of blocks, or leave levels out',
        );
      }
      const lists = options(call, blocks, ['offsets', 'blocks']);
      const offsets = tensorHandle(lists.offsets, `${call}: offsets`);
      return SparsePlan.#build(layout, offsets, tensorHandle(lists.blocks, `${call}: blocks`));
    }
    if (blocks.length !== layout.rows) {
      throw new AttentionError(
        'ERR_SHAPE',
        `${call}: ${blocks.length} rows; batch ${layout.batch} x heads ${layout.heads} x ${layout.tiles} query tiles ` +
          `are ${layout.rows}; give a list for each, which may be empty`,
      );
    }
    // Counted, since forEach passes over what a list lacks.
    for (let row = 0; row < layout.rows; row++) {
      const list: unknown = blocks[row];
      if (!isArray(list)) {
        throw new AttentionError('ERR_OPTION', `${call}: ${describe(layout, row)} is ${show(list)}; it must be a list`);
      }
      for (let i = 0; i < list.length; i++) {
        const block = list[i] as number;
        const before = list[i - 1] as number;
        const fault = !Number.isInteger(block)
          ? 'is no block; blocks are integers'
          : block < 0 || block >= layout.blocks
            ? `is not in 0 ... ${layout.blocks - 1}`
            : i > 0 && block === before
              ? 'is there twice; leave one out'
              : i > 0 && block < before
                ? `comes after ${before}; blocks must ascend`
                : '';
        if (!fault) continue;
        throw new AttentionError('ERR_OPTION', `${call}: ${describe(layout, row)}: block ${show(block)} ${fault}`);
      }
    }
    if (levels === undefined) {
      return fromRows(call, layout, (row, list) => {
        for (const block of blocks[row] as number[]) list(block, block + 1);
      });
    }
    const used = levelsOf(call, layout, blocks as number[][], levels);
    return fromRows(call, { ...layout, levels: used }, (row, list) => {
      const own = levels as number[][];
      const each = (of: (level: number) => boolean) =>
        (blocks[row] as number[]).forEach((block, i) => {
          const level = own[row]![i]!;
          if (of(level)) list(block, block + 1, level);
        });
      each((level) => level === 0);
      each((level) => level > 0);
    });
  }

  /** Made where the lists are, which is on the CPU. */
  static #build(layout: Layout, offsets: Parameters<typeof native.planBuild>[1], blocks: typeof offsets): SparsePlan {
    const stream = layout.device === 'cpu' ? optionalStream(layout.stream) : undefined;
    return SparsePlan.#placed(layout, native.planBuild(numbersOf(layout, false), offsets, blocks, stream));
  }

  /** The SparsePlan of a plan on the CPU, moved to where it is wanted. */
  static #placed({ device, stream }: Layout, plan: NativePlan): SparsePlan {
    const made = new SparsePlan(plan);
    if (device === 'cpu') return made;
    try {
      return made.to(device, { stream });
    } finally {
      made.dispose();
    }
  }

  /**
   * The plan of a function that says whether a query sees a key, both counted from 0 in their batch entry, for a
   * pattern of heads and a batch entry. It is called at once, and once for each pair that causality leaves, so this is
   * for patterns of small size or to be kept. Blocks that are seen in part become bitmaps; those that no query of a row
   * sees are not listed.
   *
   * @throws AttentionError before the function is called: ERR_OPTION for a geometry that cannot be, ERR_DEVICE for a
   * device that is not there or a stream of another one. Then ERR_OUT_OF_MEMORY, and what the function throws.
   */
  static fromPredicate(
    sees: (query: number, key: number, head: number, batch: number) => boolean,
    geometry: PlanGeometry & PlanOptions,
  ): SparsePlan {
    const call = 'SparsePlan.fromPredicate';
    const layout = layoutOf(call, options(call, geometry, planNames));
    if (typeof sees !== 'function') {
      throw new AttentionError('ERR_OPTION', `${call}: the predicate is ${show(sees)}; it must be a function`);
    }
    const { queryTile, keyBlock, tiles, heads } = layout;
    const words = Math.ceil(queryTile / 32);
    const offsets = [0];
    const entries: number[] = [];
    const bitmaps: Int32Array[] = [];
    const known = new Map<string, number>();
    let complete = true;
    for (let row = 0; row < layout.rows; row++) {
      const [tile, head, batch] = [row % tiles, Math.floor(row / tiles) % heads, Math.floor(row / tiles / heads)];
      const first = tile * queryTile;
      const end = Math.min(first + queryTile, layout.queries);
      const { whole, visible, kind } = limitsOf(layout, row);
      const rest: number[] = [];
      for (let block = 0; block < visible; block++) {
        const from = block * keyBlock;
        const bits = new Int32Array(keyBlock * words);
        let [seen, possible] = [0, 0];
        for (let query = first; query < end; query++) {
          const to = Math.min(from + keyBlock, visibleKeys(layout, query));
          const bit = query - first;
          for (let key = from; key < to; key++) {
            possible++;
            if (!sees(query, key, head, batch)) continue;
            seen++;
            bits[(key - from) * words + (bit >> 5)]! |= 1 << (bit & 31);
          }
        }
        if (seen < possible) complete = false;
        if (seen === 0) continue;
        if (seen < possible) {
          const name = bits.join();
          const index = known.get(name) ?? bitmaps.length;
          if (index === bitmaps.length) bitmaps.push(bits);
          known.set(name, index);
          rest.push(block | (kinds.bitmap << 27), index);
        } else if (block < whole) {
          entries.push(block);
        } else {
          rest.push(block | (kind << 27));
        }
      }
      for (const word of rest) entries.push(word);
      offsets.push(entries.length);
    }
    using all = wordsOf(offsets);
    using list = wordsOf(entries);
    const handles: NativePlanWords = { offsets: tensorHandle(all, call), entries: tensorHandle(list, call) };
    const numbers = numbersOf(layout, complete);
    if (bitmaps.length === 0) return SparsePlan.#placed(layout, native.planOver(numbers, handles));
    const flat = new Int32Array(bitmaps.length * keyBlock * words);
    bitmaps.forEach((bits, i) => {
      flat.set(bits, i * bits.length);
    });
    using table = Tensor.from(flat, [bitmaps.length, keyBlock, words]);
    handles.bitmaps = tensorHandle(table, call);
    return SparsePlan.#placed(layout, native.planOver(numbers, handles));
  }

  static {
    makePlan = (plan, queryHeads) => new SparsePlan(plan, queryHeads);
    fromRows = (call, layout, rows, distinct = layout.rows) => {
      const copies = layout.rows / distinct;
      let listed = 0;
      let complete = true;
      for (let row = 0; row < distinct; row++) {
        const { visible } = limitsOf(layout, row);
        let own = 0;
        let means = false;
        rows(row, (begin, end, level = 0) => {
          own += Math.max(0, Math.min(end, visible) - begin);
          means ||= level > 0;
        });
        listed += copies * own;
        complete &&= own === visible && !means;
        if (listed <= mostListed) continue;
        throw new AttentionError(
          'ERR_OPTION',
          `${call}: the rows list more than ${mostListed} blocks; use a larger keyBlock or queryTile, or show fewer keys`,
        );
      }
      using offsetWords = new Words(call, layout.rows + 1);
      using entryWords = new Words(call, listed);
      const [offsets, entries] = [offsetWords.all, entryWords.all];
      let at = 0;
      for (let row = 0; row < distinct; row++) {
        const { whole, visible, kind } = limitsOf(layout, row);
        rows(row, (begin, end, level = 0) => {
          const [full, all] = [Math.min(end, whole), Math.min(end, visible)];
          let block = begin;
          while (block < full) entries[at++] = block++ | (level << 24);
          while (block < all) entries[at++] = block++ | (level << 24) | (kind << 27);
        });
        offsets[row + 1] = at;
      }
      for (let row = distinct; row < layout.rows; row++) offsets[row + 1] = offsets[row + 1 - distinct]! + at;
      for (let copy = 1; copy < copies; copy++) entries.copyWithin(copy * at, 0, at);
      using first = Tensor.from(offsets, [offsets.length]);
      using rest = Tensor.from(entries, [entries.length]);
      const handles = { offsets: tensorHandle(first, call), entries: tensorHandle(rest, call) };
      return SparsePlan.#placed(layout, native.planOver(numbersOf(layout, complete), handles));
    };
  }

  /**
   * The plan on a device: always a new one, which waits for the work that makes this one. Between the CPU and a GPU only
   * a stream of the GPU can copy.
   *
   * @throws AttentionError ERR_DEVICE for a device that is not there or a stream that cannot copy, ERR_OUT_OF_MEMORY.
   */
  to(device: Device, opts?: { stream?: Stream }): SparsePlan {
    const { stream } = options('to', opts, ['stream']);
    const target = { device: checkDevice('to', device), stream: stream as Stream | undefined };
    const words = native.planWords(this.#native);
    const held: Tensor[] = [];
    const hold = (tensor: Tensor) => {
      held.push(tensor);
      return tensor;
    };
    const copy = (of: NativePlanWords['entries']) => tensorHandle(hold(hold(makeTensor(of)).to(target)), 'to');
    try {
      const copies: NativePlanWords = { entries: copy(words.entries) };
      if (words.offsets) copies.offsets = copy(words.offsets);
      if (words.bitmaps) copies.bitmaps = copy(words.bitmaps);
      return new SparsePlan(native.planOver(numbersOf(this.#geometry(), this.#complete), copies), this.#queryHeads);
    } finally {
      for (const tensor of held) tensor.dispose();
    }
  }

  /** What `use` makes of this plan, or of a copy on the CPU. */
  #onCpu<T>(use: (plan: NativePlan) => T, opts?: { stream?: Stream }): T {
    if (this.device === 'cpu') return use(this.#native);
    using copy = this.to('cpu', opts);
    return use(copy.#native);
  }

  #combine(call: string, other: SparsePlan, union: boolean, opts: { stream?: Stream } | undefined): SparsePlan {
    const { stream } = options(call, opts, ['stream']);
    if (!isObject(other) || !(#native in other)) {
      throw new AttentionError('ERR_OPTION', `${call}: the other plan is ${show(other)}; it must be a SparsePlan`);
    }
    const combined = native.planCombine(this.#native, other.#native, union, optionalStream(stream));
    return new SparsePlan(combined, Math.max(this.#queryHeads, other.#queryHeads));
  }

  /**
   * The plan of what this one or the other lists, on their device. Both are of the same geometry, but that one may have
   * one batch entry for all of the other, and heads that the other's are a multiple of. Neither has `levels`.
   *
   * @throws AttentionError before anything is enqueued: ERR_OPTION for plans that do not go together, and for plans on
   * a GPU inside `capture`; ERR_DEVICE for plans or a stream on different devices; ERR_DISPOSED, ERR_OUT_OF_MEMORY.
   */
  union(other: SparsePlan, opts?: { stream?: Stream }): SparsePlan {
    return this.#combine('union', other, true, opts);
  }

  /** The plan of what both this one and the other list; they go together, and throw, as for {@link union}. */
  intersect(other: SparsePlan, opts?: { stream?: Stream }): SparsePlan {
    return this.#combine('intersect', other, false, opts);
  }

  /** Fault, row, block, pairs of query and key shown and possible, blocks possible. */
  async #report(): Promise<number[]> {
    using report = makeTensor(this.#onCpu((plan) => native.planReport(plan, undefined)));
    return Array.from((await report.read()) as BigInt64Array, Number);
  }

  /**
   * The share, 0 to 1, of pairs of query and key that the plan lists, of those that causality leaves; what counts by
   * estimate is not listed, and what counts by means of a level is not among these.
   */
  async density(): Promise<number> {
    const [, , , shown, possible] = (await this.#report()) as [number, number, number, number, number];
    return possible === 0 ? 0 : shown / possible;
  }

  /**
   * Rejects with ERR_OPTION if what the plan holds is not what a plan has to be, naming the first row that is wrong.
   * Attention over such a plan touches nothing outside of its tensors, but its result means nothing.
   */
  async validate(): Promise<void> {
    const [fault, row, block] = (await this.#report()) as [number, number, number];
    if (fault === 0) return;
    const what = [
      'its offsets descend or lie outside of the entries',
      `block ${block} is not there, or behind the causal border`,
      `block ${block} is out of order, or there twice`,
      `block ${block} is not of the kind that it must be`,
      `block ${block} names a bitmap that is not there`,
    ][fault - 1];
    const layout = layoutOf('validate', { ...this.#geometry() });
    throw new AttentionError('ERR_OPTION', `sparse plan: ${describe(layout, row)}: ${what}`);
  }

  /**
   * uint8 `[batch, heads, Lq, Lk]`, 1 where the key is seen itself. The batch is the plan's; heads are those of the queries
   * that a selector chose for, unless all of them have one pattern, and the plan's patterns otherwise. It is where the
   * plan is. Keys that count by means are 0.
   *
   * @throws AttentionError ERR_DEVICE for a stream of another device, ERR_DISPOSED, ERR_OUT_OF_MEMORY.
   */
  toDense(opts?: { stream?: Stream }): Tensor<'uint8'> {
    const { stream } = options('toDense', opts, ['stream']);
    const heads = this.heads === 1 ? 1 : this.#queryHeads;
    if (this.device === 'cpu') {
      return makeTensor(native.planDense(this.#native, heads, optionalStream(stream))) as Tensor<'uint8'>;
    }
    using dense = makeTensor(this.#onCpu((plan) => native.planDense(plan, heads, undefined), opts));
    return dense.to({ device: this.device, stream: opts?.stream }) as Tensor<'uint8'>;
  }

  #geometry(): Required<PlanGeometry> & Pick<Layout, 'levels'> {
    const { queries, keys, batch, heads, queryTile, keyBlock, causal, estimate, levels } = this;
    return { queries, keys, batch, heads, queryTile, keyBlock, causal, estimate, levels };
  }

  /** What the plan holds: bitmaps, which can be a hundred times as much as the rest, only where they are wanted. */
  async #words(withBitmaps: boolean): Promise<{ offsets: Int32Array; entries: Int32Array; bitmaps?: Int32Array }> {
    const words = native.planWords(this.#native);
    using offsets = words.offsets && makeTensor(words.offsets);
    using entries = makeTensor(words.entries);
    using bitmaps = words.bitmaps && makeTensor(words.bitmaps);
    const read = async (tensor: Tensor) => (await tensor.read()) as Int32Array;
    const wanted = withBitmaps ? bitmaps : undefined;
    const [all, list, table] = await Promise.all([offsets && read(offsets), read(entries), wanted && read(wanted)]);
    if (all) return { offsets: all, entries: list, bitmaps: table };
    return closedUp(list, this.batch * this.heads * Math.ceil(this.queries / this.queryTile));
  }

  /** What the plan lists, counted; its bitmaps are not looked into. It waits for the plan to be made. */
  async statistics(): Promise<PlanStatistics> {
    const [report, { offsets, entries }] = await Promise.all([this.#report(), this.#words(false)]);
    const [, , , shown, possible, possibleBlocks] = report as [number, number, number, number, number, number];
    const rows = offsets.length - 1;
    const tiles = rows / this.batch / this.heads;
    const heads = Array.from({ length: this.heads }, () => ({
      ...{ blocks: 0, emptyRows: 0, fewest: Number.POSITIVE_INFINITY, most: 0 },
    }));
    let bitmaps = 0;
    let means = 0;
    for (let row = 0; row < rows; row++) {
      let listed = 0;
      for (let at = offsets[row]!; at < offsets[row + 1]!; at++) {
        listed++;
        if ((entries[at]! >> 24) & 7) means++;
        if (((entries[at]! >> 27) & 3) !== kinds.bitmap) continue;
        bitmaps++;
        at++; // the index of the bitmap
      }
      const head = heads[Math.floor(row / tiles) % this.heads]!;
      head.blocks += listed;
      head.emptyRows += listed === 0 ? 1 : 0;
      head.fewest = Math.min(head.fewest, listed);
      head.most = Math.max(head.most, listed);
    }
    const blocks = heads.reduce((sum, head) => sum + head.blocks, 0);
    return { rows, blocks, possibleBlocks, bitmaps, means, density: possible === 0 ? 0 : shown / possible, heads };
  }

  /**
   * A sentence or two on how attention walks the plan, with how many blocks it lists and what share of the scores. It is
   * dense only where that was known when the plan was made: of lists in tensors, unions and intersections it is not.
   */
  async explain(): Promise<string> {
    const { rows, blocks: listed, possibleBlocks: blocks, bitmaps, means, density } = await this.statistics();
    const what =
      `${rows} rows of ${this.queryTile} queries list ${listed} of ${blocks} blocks of ${this.keyBlock} ` +
      `keys${this.causal ? ', causal' : ''}: ${(100 * density).toPrecision(3)} % of the scores`;
    if (this.#complete) return `${what}. That is every block: attention is dense`;
    const sizes = this.levels.map((level) => 2 ** level).join(', ');
    const some = means === 0 ? '' : `, ${means} of them by means of ${sizes} keys`;
    // Which of the two is seen from bitmaps, and these are not read.
    const blockwise = this.device === 'cpu' && bitmaps > 0 && means === 0 && this.queries > this.queryTile;
    const or = blockwise ? ', or block by block where few queries of a row see each' : '';
    if (this.estimate) {
      return `${what}. Attention visits the listed blocks, row by row${some}${or}, and the means of the others`;
    }
    if (means > 0) return `${what}. Attention visits the listed blocks, row by row${some}`;
    if (this.device === 'cpu' && listed >= breakEven * blocks && this.queries > this.queryTile) {
      return `${what}. That is ${breakEven} of the blocks or more: attention walks them in the tiles of a dense one${or}`;
    }
    return `${what}. Attention visits the listed blocks, row by row${or}`;
  }

  /**
   * A picture of each pattern of heads, as the text of an SVG file; queries go down, keys to the right. It is of the
   * first batch entry unless `batch` is given. Rejects with ERR_OPTION for a batch entry that there is not.
   */
  async toSvg(opts?: { batch?: number }): Promise<string> {
    const { batch = 0 } = options('toSvg', opts, ['batch']);
    const entry = integer('toSvg', 'batch', batch, 0);
    if (entry >= this.batch) {
      throw new AttentionError('ERR_OPTION', `toSvg: batch is ${entry}; it must be in 0 ... ${this.batch - 1}`);
    }
    return drawPlan(this.#geometry(), await this.#words(true), entry);
  }

  /** Frees the plan as soon as no queued work reads it. Calling it again does nothing. */
  dispose(): void {
    native.planDispose(this.#native);
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
