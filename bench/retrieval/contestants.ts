// Who finds keys: indexes of this library on a cache, and usearch, by looking at all of them and by its graph.

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type AttentionResult, attention, KvCache, KvIndex, type KvIndexOptions, Stream, Tensor } from 'node-attention';
import { exactSearch, Index, MetricKind, ScalarKind } from 'usearch';
import { watchLoad } from '../load';
import { inTurn, interleave, type Measurement, type Plan, type Timed } from '../measure';
import { HEAD_DIM } from '../sparse/heads';
import { GROUP, type Head, SEARCHES, TOP } from './cases';

export interface Finder extends Timed {
  name: string;
  /** The keys that search n finds, for each query head. */
  find(n: number): Promise<number[][]>;
  /** Whether it says that it misses none. */
  exact: boolean;
  /** Milliseconds that making the index took, and the bytes that it holds beside keys and values; where there is one. */
  buildMs?: number;
  bytes?: number;
  /** The share of the keys that search n, or the first one, looks at, where it is told. */
  touched?(n?: number): Promise<number>;
  close(): void;
}

/** The methods of this library, by the names of their finders. */
export const METHODS = {
  scan: { method: 'scan' },
  'pages mean': { method: 'pages', summary: 'mean' },
  'pages bounds': { method: 'pages', summary: 'bounds' },
  clusters: { method: 'clusters' },
  graph: { method: 'graph' },
} as const satisfies { [name: string]: KvIndexOptions };

/** A graph, usearch's too, is for so many keys at most: making it takes minutes beyond. */
export const MOST_GRAPH = 131072;

/** The methods for so many keys. */
export const methodsFor = (keys: number) =>
  (Object.keys(METHODS) as (keyof typeof METHODS)[]).filter((name) => name !== 'graph' || keys <= MOST_GRAPH);

/** Those whose attention may estimate what they do not find. */
export const ESTIMATES = ['pages mean', 'clusters'] as const satisfies (keyof typeof METHODS)[];

/** The queries of each search, [GROUP][HEAD_DIM]: arrays of their own, since usearch reads a view from its buffer's start. */
const queriesOf = ({ q }: Pick<Head, 'q'>) =>
  Array.from({ length: SEARCHES }, (_, n) => q.slice(n * GROUP * HEAD_DIM, (n + 1) * GROUP * HEAD_DIM));

const split = (all: ArrayLike<number | bigint>, heads: number): number[][] =>
  Array.from({ length: heads }, (_, h) => Array.from({ length: TOP }, (_, n) => Number(all[h * TOP + n])));

/** A cache of the keys, and the queries of every search, [1, 1, query heads, HEAD_DIM]. */
export interface Cached {
  cache: KvCache;
  queries: Tensor[];
  /** [1, sample queries, query heads, HEAD_DIM] */
  samples: Tensor;
  stream: Stream;
  close(): void;
}

export function cacheOf(data: Head): Cached {
  const keys = data.k.length / HEAD_DIM;
  const valueDim = data.v.length / keys;
  const stream = new Stream();
  const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: HEAD_DIM, valueDim, capacity: keys });
  using k = Tensor.from(data.k, [1, keys, 1, HEAD_DIM]);
  using v = Tensor.from(data.v, [1, keys, 1, valueDim]);
  cache.append(k, v, { stream });
  const queries = queriesOf(data).map((own) => Tensor.from(own, [1, 1, GROUP, HEAD_DIM]));
  const samples = samplesOf(data, GROUP);
  const close = () => {
    for (const resource of [...queries, samples, cache, stream]) resource.dispose();
  };
  return { cache, queries, samples, stream, close };
}

export const samplesOf = (
  { samples }: Pick<Head, 'samples'>,
  heads: number,
  dtype: 'float32' | 'bfloat16' = 'float32',
) => Tensor.from(samples, [1, samples.length / heads / HEAD_DIM, heads, HEAD_DIM], { dtype });

const indexOn = ({ cache, samples }: Cached, options: KvIndexOptions) =>
  new KvIndex(cache, { ...options, ...(options.method === 'graph' && { queries: samples }) });

/** With `estimate`, what that takes is made too. */
export async function indexed(cached: Cached, options: KvIndexOptions, estimate = false): Promise<Finder> {
  const { queries, stream } = cached;
  const start = performance.now();
  const index = indexOn(cached, options);
  const touched = (n = 0) => {
    const result = index.attend(queries[n]!, { topK: TOP, estimate, stream });
    result.out.dispose();
    result.lse.dispose();
    return result.touched;
  };
  const search = (n: number) => index.search(queries[n]!, TOP, { stream });
  const drop = ({ ids, scores }: ReturnType<typeof search>) => {
    ids.dispose();
    scores.dispose();
  };
  if (estimate) touched();
  drop(search(0)); // makes what the index holds
  await stream.synchronize();
  return {
    name: `${options.method}${options.summary === undefined ? '' : ` ${options.summary}`}`,
    exact: options.method === 'scan',
    buildMs: performance.now() - start,
    bytes: index.bytes,
    run: inTurn(queries.length, async (n) => {
      const found = search(n);
      await stream.synchronize();
      drop(found);
    }),
    async find(n) {
      const found = search(n);
      const ids = (await found.ids.read()) as Int32Array;
      drop(found);
      return split(ids, ids.length / TOP);
    },
    touched,
    close: () => index.dispose(),
  };
}

/** Takes turns in attending by the queries of each search. */
export interface Attending extends Timed {
  attend(n: number): AttentionResult;
  close(): void;
}

function attendingBy({ queries, stream }: Cached, attend: Attending['attend'], close: () => void): Attending {
  const run = inTurn(queries.length, async (n) => {
    const { out, lse } = attend(n);
    await stream.synchronize();
    out.dispose();
    lse.dispose();
  });
  return { run, attend, close };
}

/** Attention over all keys, which finds nothing but needs no search. */
export function dense(cached: Cached): Attending {
  const { cache, queries, stream } = cached;
  return attendingBy(
    cached,
    (n) => attention(queries[n]!, cache, { stream }),
    () => {},
  );
}

/** Attention over the keys that an index finds, and the first and last ones; with `estimate` the others count too. */
export function attending(cached: Cached, options: KvIndexOptions, estimate = false): Attending {
  const { queries, stream } = cached;
  const index = indexOn(cached, options);
  return attendingBy(
    cached,
    (n) => index.attend(queries[n]!, { topK: TOP, estimate, stream }),
    () => index.dispose(),
  );
}

/** Its package.json is not among what the package exports. */
export function usearchVersion(): string {
  const folder = join(dirname(require.resolve('usearch')), '..', '..', '..');
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).version;
}

/** usearch's scan of all keys. */
export function usearchExact(data: Pick<Head, 'k' | 'q'>, threads: number): Finder {
  const queries = queriesOf(data);
  const search = (n: number) => exactSearch(data.k, queries[n]!, HEAD_DIM, TOP, MetricKind.IP, threads);
  return {
    name: 'usearch exact',
    exact: true,
    run: inTurn(SEARCHES, async (n) => void search(n)),
    find: async (n) => split(search(n).keys, GROUP),
    close() {},
  };
}

/** Candidates of a search in the graph: with fewer it finds next to nothing of what queries of attention look for. */
const WIDTH = 512;

/** usearch's graph (HNSW). */
export function usearchGraph(data: Pick<Head, 'k' | 'q'>, threads: number): Finder {
  const index = new Index({
    dimensions: HEAD_DIM,
    metric: MetricKind.IP,
    quantization: ScalarKind.F32,
    connectivity: 16,
    expansion_add: 128,
    expansion_search: WIDTH,
    multi: false,
  });
  const start = performance.now();
  index.add(
    BigUint64Array.from({ length: data.k.length / HEAD_DIM }, (_, n) => BigInt(n)),
    data.k,
    threads,
  );
  const buildMs = performance.now() - start;
  const queries = queriesOf(data);
  const search = (n: number) => index.search(queries[n]!, TOP, threads);
  return {
    name: `usearch HNSW ${WIDTH}`,
    exact: false,
    buildMs,
    run: inTurn(SEARCHES, async (n) => void search(n)),
    find: async (n) => split(search(n).keys, GROUP),
    close() {},
  };
}

export interface Turns extends Measurement {
  /** Their names, in the order of `samples`. */
  contestants: string[];
}

/** Measures contestants that have names. */
export async function takeTurns(contestants: readonly [name: string, Timed][], plan: Plan): Promise<Turns> {
  const measurement = await interleave(
    contestants.map(([, contestant]) => contestant),
    plan,
    watchLoad(),
  );
  return { ...measurement, contestants: contestants.map(([name]) => name) };
}
