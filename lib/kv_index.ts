import type { AttentionResult } from './attention';
import { cacheHandle, type KvCache } from './cache';
import type { DType } from './dtype';
import { AttentionError } from './errors';
import { type NativeIndex, type NativeIndexOptions, native } from './native';
import { boolean, entries, finite, integer, isArray, oneOf, options, show } from './options';
import { optionalStream, Stream, streamHandle } from './stream';
import { makeTensor, type Tensor, tensorHandle } from './tensor';

/** How a {@link KvIndex} finds keys. */
export type KvIndexMethod = 'scan' | 'pages' | 'clusters' | 'graph';

const METHODS: readonly KvIndexMethod[] = ['scan', 'pages', 'clusters', 'graph'];

/** The methods that each option belongs to. */
const METHODS_OF = {
  pageSize: ['pages'],
  summary: ['pages'],
  clusterSize: ['clusters'],
  probe: ['pages', 'clusters'],
  queries: METHODS, // 'graph' alone needs them
  degree: ['graph'],
  effort: ['graph'],
} as const satisfies { [option: string]: readonly KvIndexMethod[] };

/** Options of {@link KvIndex}. */
export interface KvIndexOptions {
  /**
   * How keys are found. 'scan' scores 8-bit copies of all keys, one pass for all query heads of a key head, and then
   * exactly those that may be among the best by the bounds of what rounding can do: it misses none. 'pages' scores a
   * summary of each page of keys, and exactly the keys of the best pages. 'clusters' does the same with the means of
   * clusters, which spherical k-means makes of the keys of each 1024 tokens (Chen et al. 2025, RetroInfer). 'graph'
   * scores the keys that it comes to by walking a graph, which links keys that the same sample queries look for. Default
   * 'scan'.
   */
  method?: KvIndexMethod;
  /** 'pages': keys of a page, a power of two from 2 to 64; default 8. */
  pageSize?: number;
  /**
   * 'pages': 'mean' scores a page by the mean of its keys, 'bounds' by what no key of it exceeds (Tang et al. 2024,
   * Quest). Default 'mean'.
   */
  summary?: 'mean' | 'bounds';
  /** 'clusters': keys of a cluster on average, a power of two from 4 to 64; default 8. */
  clusterSize?: number;
  /** 'pages' and 'clusters': share of them whose keys are scored for a query head; default 0.06. */
  probe?: number;
  /**
   * Needed by 'graph' alone: sample queries `[batch or 1, n, heads, headDim]`, of the cache's type, as the index will be
   * asked: those of the prompt, some thousands for each key head. They are copied. A cache with `rope` rotates them, as
   * those of the last n tokens when the graph is first made.
   */
  queries?: Tensor;
  /** 'graph': links of a key, from 1 to 256; default 32. */
  degree?: number;
  /**
   * 'graph': keys that a search keeps in view for each query head, at least `topK`: more find more and take longer. With
   * as many as there are keys, all are scored. Default 400.
   */
  effort?: number;
}

/** Options of {@link KvIndex.search} beside topK. */
export interface SearchOptions {
  /** Factor of the scores; default 1/√headDim. */
  scale?: number;
  /** The stream to enqueue on; the default stream of the device unless given. */
  stream?: Stream;
}

/** Options of {@link KvIndex.attend}. */
export interface RetrievalOptions extends SearchOptions {
  /**
   * Keys that are retrieved for each query head, beside `sink` and `window`; Infinity, or the length and more, are all
   * of them. A list has an entry for each key head of the cache (`kvHeads`), which holds for all query heads that share
   * it: so some heads may see the whole context, and others what is retrieved. Nothing is searched for heads that see all
   * keys, nor for those of 0, which see `sink` and `window` alone.
   */
  topK: number | readonly number[];
  /** The first keys, which all queries see; default 4. */
  sink?: number;
  /** The last keys, which all queries see; default 64. */
  window?: number;
  /**
   * 'pages' and 'clusters': whether the others count too. A page or cluster of n keys, none of which is among those
   * above, counts as n times its mean key, with its mean value; all keys of the other ones count themselves, and so do
   * those that are in none. So every key counts once, and lse is a lower bound of that over all keys. Default false.
   */
  estimate?: boolean;
}

/** What {@link KvIndex.search} returns. */
export interface SearchResult {
  /** int32 `[batch, heads, topK]`: positions of keys in their sequence, the best first; -1 where there are no more. */
  ids: Tensor<'int32'>;
  /** float32 `[batch, heads, topK]`: their scaled scores; -Infinity where there are no more. */
  scores: Tensor<'float32'>;
}

/** What {@link KvIndex.attend} returns. */
export interface RetrievalResult<D extends DType = DType> extends AttentionResult<D> {
  /**
   * The share of cached keys whose own vector or 8-bit copy was scored; 0 when there are none. Inside `capture` each
   * access asks anew, about the last launch before it; 0 before the first.
   */
  readonly touched: Promise<number>;
}

/**
 * Finds the keys of a {@link KvCache} that matter to a query, and attends to these: decoding then reads a part of a long
 * context.
 *
 * An index belongs to one cache and follows its appends and truncations: what was appended is found by the next call. A
 * fork of the cache needs an index of its own. Ties go to the lower position. Inside `capture` calls are recorded; each launch
 * follows the cache as it is by then, and holds cache and index.
 *
 * But for 'graph' the index holds copies or summaries of keys by segments of 1024 tokens, which are made by the first
 * call that searches after a segment is complete; further tokens are scored themselves. What estimates need is made by
 * the first call that asks for one.
 *
 * 'graph' has its links made by the first call that searches, on its stream and before the search, from the exact best
 * keys of every sample query: the work is the number of sample queries times that of keys. Further keys are scored
 * themselves until they are more than 1024 and more than a sixteenth of the others; the next such call then compares the
 * sample queries with the new keys, and makes the links anew, as they would be if all keys had been there at first. Every
 * key can be reached, since each is linked to those before and behind it as well.
 *
 * The CPU searches, so keys must be where it reaches them: in a cache on the CPU, or in one on CUDA with
 * {@link KvCacheOptions.resident}. Calls of the latter take q on the GPU and give results there. q goes to the host, the
 * CPU looks for keys and attends to them on a stream of the index's own, and what it has found goes up, while the GPU
 * attends to the window; nobody waits but the streams. They are refused inside `capture`. `queries` are on the GPU, too.
 *
 * @see Liu et al. 2024 (RetrievalAttention) and Chen et al. 2025 (RetroInfer) on attention by retrieval; Tang et al. 2024
 * (Quest); Chen et al. 2024 (RoarGraph).
 */
export class KvIndex {
  /** The cache whose keys are found. */
  readonly cache: KvCache;
  /** How keys are found. */
  readonly method: KvIndexMethod;
  #handle: NativeIndex | undefined;
  /** Where the CPU searches the host memory of a cache on a GPU. */
  readonly #search: Stream | undefined;

  /**
   * An index on a cache.
   *
   * @throws AttentionError ERR_OPTION for options out of range, or for something that is not a cache, or one on CUDA
   * without `resident`; of 'graph' also
   * ERR_SHAPE, ERR_DTYPE, ERR_DEVICE and ERR_DISPOSED for what `queries` must be, and ERR_OUT_OF_MEMORY for their copy.
   */
  constructor(cache: KvCache, opts?: KvIndexOptions) {
    const handle = cacheHandle(cache);
    if (!handle) throw new AttentionError('ERR_OPTION', `KvIndex: cache is ${show(cache)}; it must be a KvCache`);
    const names = Object.keys(METHODS_OF) as (keyof typeof METHODS_OF)[];
    const given = options('KvIndex', opts, ['method', ...names]);
    this.cache = cache;
    this.method = oneOf('KvIndex', 'method', given.method ?? 'scan', METHODS);
    for (const [name, methods] of Object.entries(METHODS_OF) as [keyof typeof METHODS_OF, readonly KvIndexMethod[]][]) {
      if (methods.includes(this.method) || given[name] === undefined) continue;
      const of = methods.map((method) => `'${method}'`).join(' and ');
      throw new AttentionError('ERR_OPTION', `KvIndex: ${name} is an option of ${of}, not of '${this.method}'`);
    }
    if (given.queries !== undefined) tensorHandle(given.queries, 'queries');
    this.#handle = native.kvIndexCreate(
      handle,
      this.method === 'graph' ? graphOf(given) : mirrorOf(this.method, given),
    );
    this.#search = cache.resident && new Stream('cpu');
  }

  #use(): NativeIndex {
    if (this.#handle) return this.#handle;
    throw new AttentionError('ERR_DISPOSED', 'this KvIndex was disposed of; make a new one');
  }

  #retrieve(
    call: string,
    q: unknown,
    counts: { top: number | number[]; sink: number; window: number },
    given: SearchGiven,
  ) {
    return native.kvIndexRetrieve(this.#use(), cacheHandle(this.cache)!, {
      q: tensorHandle(q, 'q'),
      ...counts,
      scale: given.scale === undefined ? undefined : finite(call, 'scale', given.scale),
      attend: call === 'attend',
      estimate: given.estimate === undefined ? false : boolean(call, 'estimate', given.estimate),
      stream: optionalStream(given.stream),
      search: this.#search && streamHandle(this.#search, 'search'),
    });
  }

  /**
   * The topK keys of the highest scores of each query head; q is `[batch, 1, heads, headDim]`, of the cache's type.
   *
   * @throws AttentionError before anything is enqueued, but for what the index takes up of the cache.
   */
  search(q: Tensor, topK: number, opts?: SearchOptions): SearchResult {
    const given = options('search', opts, ['scale', 'stream']);
    const counts = { top: integer('search', 'topK', topK, 1), sink: 0, window: 0 };
    const made = this.#retrieve('search', q, counts, given);
    native.tensorDispose(made.touched);
    return { ids: makeTensor(made.ids!), scores: makeTensor(made.scores!) } as SearchResult;
  }

  /**
   * Attention of q `[batch, 1, heads, headDim]`, which stands at the end of its sequence, over the first `sink` and the
   * last `window` keys and the `topK` others of the highest scores of each query head, and with `estimate` over all
   * others as well as their means tell. A topK of Infinity, or of the length or more, gives attention over all keys.
   *
   * @throws AttentionError before anything is enqueued, but for what the index takes up of the cache; ERR_OPTION for
   * `estimate` with 'scan' and 'graph'.
   */
  attend<D extends DType>(q: Tensor<D>, opts: RetrievalOptions): RetrievalResult<D> {
    const given = options('attend', opts, ['topK', 'sink', 'window', 'estimate', 'scale', 'stream']);
    const counts = {
      top: isArray(given.topK)
        ? entries('attend', 'topK', given.topK, (entry, i) => wanted(`topK[${i}]`, entry))
        : wanted('topK', given.topK),
      sink: integer('attend', 'sink', given.sink ?? 4, 0),
      window: integer('attend', 'window', given.window ?? 64, 0),
    };
    const keys = this.cache.lengths.reduce((sum, length) => sum + length, 0) * this.cache.kvHeads;
    const made = this.#retrieve('attend', q, counts, given);
    const result = { out: makeTensor(made.out!), lse: makeTensor(made.lse!) } as AttentionResult<D>;
    const touched = makeTensor(made.touched);
    if (!made.keys) {
      const share = shareOf(touched, keys);
      touched.dispose(); // nobody else need do so: it is being read
      return { ...result, touched: share };
    }
    const launched = makeTensor(made.keys);
    return {
      ...result,
      get touched() {
        return shareOf(touched, launched);
      },
    };
  }

  /** Bytes that the index holds beside the cache. */
  get bytes(): number {
    return native.kvIndexBytes(this.#use());
  }

  /** Whether this index was disposed of. */
  get disposed(): boolean {
    return this.#handle === undefined;
  }

  /** Lets go of what the index holds, which is freed once no queued work uses it; the cache stays. Idempotent. */
  dispose(): void {
    if (this.#handle) native.kvIndexDispose(this.#handle);
    this.#handle = undefined;
    this.#search?.dispose();
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

type Given = { [name in keyof KvIndexOptions]?: unknown };

function mirrorOf(method: Exclude<KvIndexMethod, 'graph'>, given: Given): NativeIndexOptions {
  const summary = oneOf('KvIndex', 'summary', given.summary ?? 'mean', ['mean', 'bounds']);
  const block = {
    scan: () => 1,
    pages: () => integer('KvIndex', 'pageSize', given.pageSize ?? 8, 2),
    clusters: () => integer('KvIndex', 'clusterSize', given.clusterSize ?? 8, 4),
  };
  return {
    block: block[method](),
    bounds: summary === 'bounds',
    clusters: method === 'clusters',
    probe: finite('KvIndex', 'probe', given.probe ?? 0.06),
  };
}

function graphOf({ queries, degree, effort }: Given): NativeIndexOptions {
  if (queries === undefined) {
    throw new AttentionError(
      'ERR_OPTION',
      "KvIndex: 'graph' needs sample queries: give those of the prompt as queries",
    );
  }
  return {
    queries: tensorHandle(queries, 'queries'),
    degree: integer('KvIndex', 'degree', degree ?? 32, 1),
    effort: integer('KvIndex', 'effort', effort ?? 400, 1),
  };
}

/** Of keys that a sequence may have. */
const MOST = 2 ** 30;

/** How many keys are to be attended to; Infinity is as many as there may be. */
function wanted(name: string, value: unknown): number {
  const whole = value === Number.POSITIVE_INFINITY || Number.isSafeInteger(value);
  if (whole && (value as number) >= 0) return Math.min(value as number, MOST);
  throw new AttentionError(
    'ERR_OPTION',
    `attend: ${name} is ${show(value)}; it must be an integer of at least 0, or Infinity for all keys`,
  );
}

interface SearchGiven {
  scale?: unknown;
  estimate?: unknown;
  stream?: unknown;
}

/**
 * The share of `keys`, a number or a tensor with it, that the counts, of each key head of each sequence, make up. They are
 * read at once; who does not ask does not learn that the work has failed.
 */
function shareOf(counts: Tensor, keys: number | Tensor): Promise<number> {
  const all = typeof keys === 'number' ? keys : keys.read().then((read) => Number(read[0]));
  const share = Promise.all([counts.read(), all]).then(([touched, of]) => {
    const sum = (touched as BigInt64Array).reduce((total, count) => total + count, 0n);
    return of === 0 ? 0 : Number(sum) / of;
  });
  share.catch(() => {});
  return share;
}
