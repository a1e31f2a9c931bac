// Selectors: sparse plans made from queries and keys.

import { cacheHandle, type KvCache } from './cache';
import { AttentionError } from './errors';
import { type NativeHipState, type NativeSelect, native } from './native';
import { boolean, entries, finite, integer, integers, isArray, isObject, oneOf, options, show } from './options';
import { makePlan, type PlanGeometry, type SparsePlan } from './sparse_plan';
import { optionalStream, type Stream } from './stream';
import { type Tensor, tensorHandle } from './tensor';

/** What all selectors take. On a GPU, headDim is 256 at most. */
export interface SelectorOptions {
  /**
   * How many keys the queries of a tile may select beyond `always`, rounded up to blocks: one number, or one for each
   * pattern of heads. From Lk on the plan is complete.
   */
  budget: number | readonly number[];
  /** Whether queries see no key behind their own position; query i stands at i + Lk - Lq. Default false. */
  causal?: boolean;
  /**
   * Keys that are in the plan whatever their scores: the first `sink` ones, default 64, and the last `window` up to each
   * query's own, default 256 (without causality as many on its other side). Rounded up to blocks.
   */
  always?: {
    /** How many keys from the first on; default 64. */
    sink?: number;
    /** How many keys up to each query's own; default 256. */
    window?: number;
  };
  /** Which heads share a pattern: those of one key head, all, or none; the highest score counts. Default 'group'. */
  share?: 'group' | 'all' | 'none';
  /** Queries that share a row: a power of two from 16 to 128; default 64. */
  queryTile?: number;
  /** Keys in a block: a power of two from 2 to 128. */
  keyBlock?: number;
  /**
   * Whether blocks that are not selected still count, each by the mean of its keys and of its values:
   * {@link PlanGeometry.estimate}. Costs once to three times 1/keyBlock of dense attention and a pass
   * over k and v, of which a cache keeps the means instead. Default false.
   *
   * @see Chen et al. 2025 (RetroInfer).
   */
  estimate?: boolean;
  /** The stream to enqueue on; the default stream of the device unless given. */
  stream?: Stream;
}

const commonNames = ['budget', 'causal', 'always', 'share', 'queryTile', 'keyBlock', 'estimate', 'stream'] as const;

const selectors = { hip: 0, hip1: 1, pooled: 2 };
const poolings = { mean: 0, max: 1, min: 2, bounds: 3 };

type Common = { [name in (typeof commonNames)[number]]?: unknown };

const budgetsOf = (call: string, { budget }: Common): number[] =>
  isArray(budget) ? integers(call, 'budget', budget, 0, 'ERR_OPTION') : [integer(call, 'budget', budget, 0)];

function select(
  call: string,
  q: Tensor,
  k: Tensor | KvCache,
  given: Common,
  keyBlock: number,
  { tokens = { queries: 1, keys: 1 }, ...rest }: Partial<NativeSelect> & { tokens?: { queries: number; keys: number } },
): SparsePlan {
  const [qHandle, cache] = [tensorHandle(q, 'q'), cacheHandle(k)];
  const kHandle = cache ? undefined : tensorHandle(k, 'k');
  const kvHeads = cache ? (k as KvCache).kvHeads : ((k as Tensor).shape.at(-2) ?? 1);
  const always = options(`${call}: always`, given.always, ['sink', 'window']);
  const share = oneOf(call, 'share', given.share ?? 'group', ['group', 'all', 'none']);
  const queryHeads = q.shape.at(-2) ?? 1;
  const heads = { all: 1, group: kvHeads, none: queryHeads }[share];
  const keys = (name: string, value: unknown, most: number) => Math.min(integer(call, name, value, 0), most);
  return makePlan(
    native.select({
      q: qHandle,
      k: kHandle,
      cache,
      selector: selectors.pooled,
      geometry: [
        1,
        heads,
        tokens.queries,
        tokens.keys,
        integer(call, 'queryTile', given.queryTile ?? 64, 1),
        keyBlock,
        Number(boolean(call, 'causal', given.causal ?? false)),
        Number(boolean(call, 'estimate', given.estimate ?? false)),
        0,
        0,
      ],
      sink: keys('always.sink', always.sink ?? 64, 2 ** 30),
      window: keys('always.window', always.window ?? 256, 2 ** 31),
      budgets: budgetsOf(call, given),
      levels: [],
      chunk: [],
      keep: [],
      first: false,
      pooling: poolings.mean,
      queryPooling: -1,
      perQuery: false,
      pooled: false,
      scale: 1 / Math.sqrt(q.shape.at(-1) ?? 1),
      topP: 1,
      threshold: 0,
      state: undefined,
      stream: optionalStream(given.stream),
      ...rest,
    }),
    queryHeads,
  );
}

/** The addon's state behind a HipState. */
let stateHandle: (value: unknown) => NativeHipState;

/**
 * What the stages of {@link hipPlan} have kept, so that decoding need not search all keys for each token: pass the same
 * state in every step, with q of the newest tokens and k of all so far, or the cache that they are in. Stage i searches
 * anew in every `refresh[i]`-th call and whenever an earlier stage does, and otherwise its chunks stay. The window of
 * `always` then reaches back as far as when all stages last searched, so no appended key is missed; of sequences of a
 * cache the one that grew most says how far. All stages search anew when keys have become fewer, a cache was truncated
 * since the last call, or another cache, other shapes or other options are given.
 *
 * @see Lee et al. 2025 (InfiniteHiP, arXiv:2502.08910), algorithm 4.
 */
export class HipState {
  static {
    stateHandle = (value) => {
      if (isObject(value) && #native in value) return value.#native;
      throw new AttentionError('ERR_OPTION', `hipPlan: state is ${show(value)}; it must be a HipState`);
    };
  }

  readonly #native: NativeHipState;

  /**
   * `refresh`: calls after which each stage searches anew, default 16, 8 and 4.
   *
   * @throws AttentionError ERR_OPTION for what is no list of 1 to 8 integers of at least 1, or an unknown option.
   */
  constructor(opts?: { refresh?: readonly number[] }) {
    const { refresh } = options('HipState', opts, ['refresh']);
    this.#native = native.hipStateCreate(integers('HipState', 'refresh', refresh ?? [16, 8, 4], 1, 'ERR_OPTION'));
  }

  /** How often each stage has searched so far. */
  get runs(): number[] {
    return native.hipStateRuns(this.#native);
  }

  /** Frees what is kept as soon as no queued work reads it. Calling it again does nothing. */
  dispose(): void {
    native.hipStateDispose(this.#native);
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Options of {@link hipPlan}; `keyBlock` is 8 unless given. */
export interface HipOptions extends SelectorOptions {
  /** 'hip1' is the original: one tree over all keys, whose nodes are bisected and kept together. Default 'infinite'. */
  variant?: 'infinite' | 'hip1';
  /** Which key of a range stands for it; default 'center'. */
  representative?: 'center' | 'first';
  /**
   * Chunks of keys in each stage, powers of two that descend to `keyBlock`, and how many keys a stage keeps; the last
   * one keeps the budget, those before it 4, 16 ... times the budget unless given. Default: chunks of 256, 32 and keyBlock,
   * those above keyBlock. Among more than 512 times the budget of keys (32768 at least), and without a state, stages of 8, 64
   * ... times the first of these chunks come before, and leave it no more than that to choose from.
   */
  stages?: readonly {
    /** Keys in a chunk. */
    chunk: number;
    /** Keys that the stage keeps. */
    keep?: number;
  }[];
  /** What earlier calls have found, for decoding; of variant 'infinite'. Not within `capture`. */
  state?: HipState;
}

/**
 * How much longer than a budget of keys a context may be for the first stage to go through all its chunks, as in the paper,
 * whose budget of 2048 keys is for a million; and the least that it goes through.
 */
const [MOST_BUDGETS, LEAST_KEYS] = [512, 32768];
/** Of chunks, those of the next stage. */
const COARSER = 8;
/** NA_MAX_STAGES in csrc/core/backend.h. */
const MOST_STAGES = 8;

/**
 * The stages of InfiniteHiP, and before them those that leave the first one of these as many keys as it goes through at
 * most: each goes through a number of chunks that no longer grows with the keys. Where all keys are no more than a stage
 * keeps it keeps all, so a shorter sequence of a cache is selected from as if it were alone.
 */
function defaultStages(keyBlock: number, keys: number, budgets: readonly number[]): { chunk: number; keep?: number }[] {
  const stages: { chunk: number; keep?: number }[] = [256, 32, keyBlock]
    .filter((chunk, i) => i === 2 || chunk > keyBlock)
    .map((chunk) => ({ chunk }));
  let keep = Math.max(LEAST_KEYS, MOST_BUDGETS * Math.max(...budgets));
  for (let { chunk } = stages[0]!; keep < keys && stages.length < MOST_STAGES; keep *= COARSER) {
    chunk *= COARSER;
    stages.unshift({ chunk, keep });
  }
  return stages;
}

function tokensOf(k: Tensor | KvCache): number {
  if (cacheHandle(k)) return (k as KvCache).length;
  tensorHandle(k, 'k');
  return (k as Tensor).shape.slice(1, -2).reduce((product, axis) => product * axis, 1);
}

/**
 * The tree search of HiP and InfiniteHiP: a chunk of keys is judged by a few of its keys, each the better of two halves'
 * representatives, and the best chunks of a stage are cut into those of the next. This finds keys whose neighbours have like
 * scores; what stands alone it may miss. For T queries and keys a plan takes O(T) memory, and O(T log T) time as 'hip1'.
 * Otherwise a chunk of c keys takes log c steps, and the stages go through so many of them that time is O(T log² T), but
 * with `stages` or a state O(T²), if by a small part of dense attention's.
 *
 * @param k `[batch, tokens…, kvHeads, headDim]`, or a {@link KvCache}. The headDim elements of q and k lie side by side; token
 * axes without one common stride cost a copy first. From a cache the plan is for `cache.length` keys, the
 * queries stand where those of {@link attention} do and are rotated likewise, and each sequence is selected from as if it
 * were alone. `density()` and the like show the longest one.
 * @throws AttentionError before anything is enqueued; ERR_OPTION for a cache inside `capture`.
 * @see Lee et al. 2024 (HiP, arXiv:2406.09827); Lee et al. 2025 (InfiniteHiP, arXiv:2502.08910).
 */
export function hipPlan(q: Tensor, k: Tensor | KvCache, opts: HipOptions): SparsePlan {
  const call = 'hipPlan';
  const given = options(call, opts, [...commonNames, 'variant', 'representative', 'stages', 'state']);
  const variant = oneOf(call, 'variant', given.variant ?? 'infinite', ['infinite', 'hip1']);
  const representative = oneOf(call, 'representative', given.representative ?? 'center', ['center', 'first']);
  const keyBlock = integer(call, 'keyBlock', given.keyBlock ?? 8, 2);
  if (variant === 'hip1' && given.stages !== undefined) {
    throw new AttentionError('ERR_OPTION', `${call}: stages are of variant 'infinite', not of 'hip1'`);
  }
  if (variant === 'hip1' && given.state !== undefined) {
    throw new AttentionError('ERR_OPTION', `${call}: state is of variant 'infinite', not of 'hip1'`);
  }
  const searched = given.state === undefined ? tokensOf(k) : 0;
  const stages = given.stages ?? defaultStages(keyBlock, searched, budgetsOf(call, given));
  if (!isArray(stages)) {
    throw new AttentionError('ERR_OPTION', `${call}: stages is ${show(stages)}; it must be a list of { chunk, keep }`);
  }
  const list = entries(call, 'stages', stages, (stage, i) => {
    const { chunk, keep } = options(`${call}: stages[${i}]`, stage, ['chunk', 'keep']);
    if (keep !== undefined && i + 1 === stages.length) {
      throw new AttentionError('ERR_OPTION', `${call}: the last stage keeps the budget; leave its keep out`);
    }
    return {
      chunk: integer(call, `stages[${i}].chunk`, chunk, 2),
      keep: keep === undefined ? 0 : integer(call, `stages[${i}].keep`, keep, 1),
    };
  });
  return select(call, q, k, given, keyBlock, {
    selector: variant === 'hip1' ? selectors.hip1 : selectors.hip,
    chunk: variant === 'hip1' ? [] : list.map(({ chunk }) => chunk),
    keep: variant === 'hip1' ? [] : list.map(({ keep }) => keep),
    first: representative === 'first',
    state: given.state === undefined ? undefined : stateHandle(given.state),
  });
}

/** Options of {@link pagePlan}; `keyBlock`, the page, is 16 unless given. */
export interface PageOptions extends SelectorOptions {}

/**
 * The pages whose keys may have the highest scores: for each element the largest and the smallest of a page's keys bound
 * what any of them can contribute, so no key has a higher score than its page.
 *
 * A cache keeps the largest and smallest elements of its pages from the first call on, in segments of 256 tokens: 2/keyBlock
 * of the elements of its keys, in its dtype, counted by `cache.bytes`. A call then makes those of what was appended since.
 *
 * @param k as for {@link hipPlan}.
 * @throws AttentionError before anything is enqueued; ERR_OPTION for a cache inside `capture`.
 * @see Tang et al. 2024 (Quest).
 */
export function pagePlan(q: Tensor, k: Tensor | KvCache, opts: PageOptions): SparsePlan {
  const call = 'pagePlan';
  const given = options(call, opts, commonNames);
  const keyBlock = integer(call, 'keyBlock', given.keyBlock ?? 16, 2);
  return select(call, q, k, given, keyBlock, { pooling: poolings.bounds });
}

/** Options of {@link pooledPlan}; `keyBlock` is 64 unless given. */
export interface PooledOptions extends Omit<SelectorOptions, 'budget'> {
  /** As for all selectors; may be left out with `topP` or `threshold`. */
  budget?: number | readonly number[];
  /**
   * How many keys beyond the budget count by means, of all patterns alike: `[k1, k2, ...]`, each rounded up to blocks.
   * After the best blocks, which the budget shows in full, those of the next k1 keys count by the means of 2 keys that
   * follow each other, of the next k2 by those of 4, and so on; at most keyBlock/2, and a 0 passes one over. Such a mean is
   * one key, whose weight is multiplied by the number of its keys, with the mean of their values. Blocks that the causal
   * border cuts get none, and are seen within the budget or not at all. Costs a pass over k and v for each number that is
   * not 0, of which a cache keeps the means instead: 2^-l of the elements of its keys and values for means of 2^l keys.
   * Such a plan has to be the only mask, without bias and softcap. Not with `topP`, `threshold` or queries 'own'. Default
   * none.
   *
   * @see Li et al. 2025 (Pyramid Sparse Attention, arXiv:2512.04025).
   */
  levels?: readonly number[];
  /** What becomes of the keys of a block; default 'mean'. */
  pooling?: 'mean' | 'max' | 'min';
  /**
   * Whether each query of a tile counts, the highest score deciding, or one in their place, their mean or what is largest
   * or least in each column; or whether each query selects its `own` blocks: budget and `always` are then those of a
   * query, as if `queryTile` were 1. Attention multiplies a block by the queries that see it, or where that is cheaper by
   * whole tiles, and the plan holds room for 4 bytes for each key of the blocks that any query of a tile has selected and
   * every 32 queries. With `estimate` what counts by means is what the query has not selected. Default 'each'.
   */
  queries?: 'each' | 'mean' | 'max' | 'min' | 'own';
  /**
   * Says that q and k are pooled already, as by a learned gate, for so many queries and keys: q is one row for each tile,
   * `[batch, tiles, heads, n]`, k one for each block, `[batch, blocks, kvHeads, n]`. Without `pooling` and `queries`.
   */
  pooled?: {
    /** Queries that the plan is for. */
    queries: number;
    /** Keys that the plan is for. */
    keys: number;
  };
  /** What scores are multiplied by for `topP` and `threshold`: more than 0, default 1/√headDim, of pooled rows 1/√n. */
  scale?: number;
  /** The fewest blocks that have this share of the softmax over blocks, in 0 to 1. */
  topP?: number;
  /** Blocks of at least this share of the softmax over blocks. */
  threshold?: number;
}

/**
 * The blocks whose pooled keys have the highest scores, as in SeerAttention, and MoBA: means, `queries: 'own'` and
 * `always: { sink: 0, window: 1 }`, by which a query sees its own block. A cache keeps pooled keys as it
 * does for {@link pagePlan}, 1/keyBlock of as many elements as its keys have, means in float32.
 *
 * @param k as for {@link hipPlan}.
 * @throws AttentionError before anything is enqueued; ERR_OPTION for a cache inside `capture`.
 * @see Lu et al. 2025 (MoBA, arXiv:2502.13189); Gao et al. 2024 (SeerAttention, arXiv:2410.13276); for `levels` Li et al.
 * 2025 (Pyramid Sparse Attention, arXiv:2512.04025).
 */
export function pooledPlan(q: Tensor, k: Tensor | KvCache, opts: PooledOptions): SparsePlan {
  const call = 'pooledPlan';
  const given = options(call, opts, [
    ...commonNames,
    'levels',
    'pooling',
    'queries',
    'pooled',
    'scale',
    'topP',
    'threshold',
  ]);
  const pooled = given.pooled === undefined ? undefined : options(`${call}: pooled`, given.pooled, ['queries', 'keys']);
  if (pooled && (given.pooling !== undefined || given.queries !== undefined)) {
    const name = given.pooling === undefined ? 'queries' : 'pooling';
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: ${name} says how to pool, which pooled says is done; leave one out`,
    );
  }
  const pooling = oneOf(call, 'pooling', given.pooling ?? 'mean', ['mean', 'max', 'min']);
  const queries = oneOf(call, 'queries', given.queries ?? 'each', ['each', 'mean', 'max', 'min', 'own']);
  const share = (name: 'topP' | 'threshold', otherwise: number) => {
    const value = finite(call, name, given[name] ?? otherwise);
    if (value >= 0 && value <= 1) return value;
    throw new AttentionError('ERR_OPTION', `${call}: ${name} is ${value}; it must be in 0 ... 1`);
  };
  if (given.budget === undefined && given.topP === undefined && given.threshold === undefined) {
    throw new AttentionError('ERR_OPTION', `${call}: budget is undefined; give it, or topP, or threshold`);
  }
  const keyBlock = integer(call, 'keyBlock', given.keyBlock ?? 64, 2);
  const scale = given.scale === undefined ? undefined : finite(call, 'scale', given.scale);
  if (scale !== undefined && !(Math.fround(scale) > 0 && Math.fround(scale) < Number.POSITIVE_INFINITY)) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: scale is ${scale}; it must be more than 0, and a number in float32`,
    );
  }
  return select(call, q, k, { ...given, budget: given.budget ?? Number.MAX_SAFE_INTEGER }, keyBlock, {
    ...(scale === undefined ? {} : { scale }),
    ...(pooled && {
      pooled: true,
      tokens: {
        queries: integer(call, 'pooled.queries', pooled.queries, 1),
        keys: integer(call, 'pooled.keys', pooled.keys, 1),
      },
    }),
    levels: given.levels === undefined ? [] : integers(call, 'levels', given.levels, 0, 'ERR_OPTION'),
    pooling: poolings[pooling],
    queryPooling: queries === 'each' || queries === 'own' ? -1 : poolings[queries],
    perQuery: queries === 'own',
    topP: share('topP', 1),
    threshold: share('threshold', 0),
  });
}
