// What the suite of retrieval goes through, and what is held against each other.

import { attention, KvCache, KvIndex, Tensor } from 'node-attention';
import { watchLoad } from '../load';
import { interleave, type Measurement, type Plan, type Timed, timeRuns } from '../measure';
import { type Data, type Head, makeHead, scoreOf } from './heads';

export interface RetrievalCase {
  name: string;
  data: Data;
  tokens: number;
}

export const HEADS = 32;
export const KV_HEADS = 8;
export const HEAD_DIM = 128;
export const TOP = 100;
const CHUNK = 4096;
const METHODS = ['scan', 'pages'] as const;

export function casesOf(quick: boolean): RetrievalCase[] {
  const lengths = quick ? [16384] : [16384, 65536, 131072];
  return (['structured', 'noise'] as const).flatMap((data) =>
    lengths.map((tokens) => ({ name: `${data} T=${tokens}`, data, tokens })),
  );
}

/** Of one method. */
export interface Quality {
  /** Share of the exact best keys that were found. */
  recall: number;
  /** Of the output of `attend`, against attention over all keys: the norm of the difference over the norm. */
  error: number;
  touched: number;
  buildSeconds: number;
  bytes: number;
}

export interface Outcome extends Measurement {
  test: RetrievalCase;
  contestants: string[];
  quality: { [method in (typeof METHODS)[number]]: Quality };
  /** Milliseconds to append a token. */
  appendMs: number;
}

/** All key heads have the same keys, which costs the same time as others; query heads differ. */
function fill(cache: KvCache, { keys }: Head, tokens: number): Promise<unknown> {
  for (let at = 0; at < tokens; at += CHUNK) {
    const rows = new Float32Array(CHUNK * KV_HEADS * HEAD_DIM);
    for (let t = 0; t < CHUNK * KV_HEADS; t++) {
      const key = at + Math.floor(t / KV_HEADS);
      rows.set(keys.subarray(key * HEAD_DIM, (key + 1) * HEAD_DIM), t * HEAD_DIM);
    }
    using k = Tensor.from(rows, [1, CHUNK, KV_HEADS, HEAD_DIM]).to('bfloat16');
    using v = Tensor.randn([1, CHUNK, KV_HEADS, HEAD_DIM], { seed: at + 1, dtype: 'bfloat16' });
    cache.append(k, v);
  }
  return attention(Tensor.zeros([1, 1, HEADS, HEAD_DIM], { dtype: 'bfloat16' }), cache).lse.read();
}

/** Numbers as bfloat16 has them. */
async function rounded(data: Float32Array): Promise<Float32Array> {
  using narrow = Tensor.from(data, [data.length]).to('bfloat16');
  return (await narrow.to('float32').read()) as Float32Array;
}

/** The best keys of some of the heads, from the definition. */
function exactBest(head: Head, tokens: number): Map<number, Set<number>> {
  const best = new Map<number, Set<number>>();
  for (let query = 0; query < HEADS; query += 4) {
    const scores = Float64Array.from({ length: tokens }, (_, key) => scoreOf(head, query, key));
    const order = Uint32Array.from(scores, (_, key) => key).sort((a, b) => scores[b]! - scores[a]! || a - b);
    best.set(query, new Set(order.subarray(0, TOP)));
  }
  return best;
}

const timed = (run: () => Promise<unknown>): Timed => ({
  run: (times) =>
    timeRuns(times, async () => {
      await run();
    }),
});

async function qualityOf(method: (typeof METHODS)[number], cache: KvCache, q: Tensor, best: Map<number, Set<number>>) {
  const index = new KvIndex(cache, { method });
  const start = performance.now();
  await index.search(q, 1).ids.read();
  const buildSeconds = (performance.now() - start) / 1e3;
  const ids = (await index.search(q, TOP).ids.read()) as Int32Array;
  let found = 0;
  for (const [query, wanted] of best) {
    for (const key of ids.subarray(query * TOP, (query + 1) * TOP)) found += wanted.has(key) ? 1 : 0;
  }
  const some = index.attend(q, { topK: TOP });
  const [got, want] = await Promise.all(
    [some.out, attention(q, cache).out].map(async (out) => (await out.to('float32').read()) as Float32Array),
  );
  const norm = (of: (i: number) => number) => Math.sqrt(want!.reduce((sum, _, i) => sum + of(i) ** 2, 0));
  const error = norm((i) => got![i]! - want![i]!) / norm((i) => want![i]!);
  const touched = await some.touched;
  return { index, quality: { recall: found / (best.size * TOP), error, touched, buildSeconds, bytes: index.bytes } };
}

export async function runCase(test: RetrievalCase, plan: Plan): Promise<Outcome> {
  const made = makeHead(test.data, test.tokens, HEADS, 7);
  const head = { ...made, keys: await rounded(made.keys), queries: await rounded(made.queries) };
  const sizes = { batch: 1, kvHeads: KV_HEADS, headDim: HEAD_DIM, capacity: test.tokens + 64 };
  using cache = new KvCache({ ...sizes, dtype: 'bfloat16' });
  await fill(cache, head, test.tokens);
  using q = Tensor.from(head.queries, [1, 1, HEADS, HEAD_DIM]).to('bfloat16');
  const best = exactBest(head, test.tokens);
  const scan = await qualityOf('scan', cache, q, best);
  const pages = await qualityOf('pages', cache, q, best);
  const measured = await interleave(
    [
      timed(() => scan.index.attend(q, { topK: TOP }).lse.read()),
      timed(() => pages.index.attend(q, { topK: TOP }).lse.read()),
      timed(() => attention(q, cache).lse.read()),
    ],
    plan,
    watchLoad(),
  );
  const token = Tensor.randn([1, 1, KV_HEADS, HEAD_DIM], { seed: 1, dtype: 'bfloat16' });
  const start = performance.now();
  for (let i = 0; i < 64; i++) cache.append(token, token);
  await scan.index.search(q, 1).ids.read();
  const appendMs = (performance.now() - start) / 64;
  scan.index.dispose();
  pages.index.dispose();
  return {
    test,
    contestants: ['node-attention', 'pages', 'dense'],
    quality: { scan: scan.quality, pages: pages.quality },
    appendMs,
    ...measured,
  };
}
