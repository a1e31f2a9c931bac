// KvIndex inside capture: each launch is the call made at its time, whatever was appended and truncated since.

import { attention, KvCache, KvIndex, type KvIndexOptions, type RetrievalResult, Stream, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { code } from './support/refusal';

const [batch, kvHeads, headDim] = [2, 2, 16];
const tokens = (n: number, seed: number, heads = kvHeads) => Tensor.randn([batch, n, heads, headDim], { seed });
const cacheOf = (more: object = {}) => new KvCache({ batch, kvHeads, headDim, capacity: 8000, ...more });

const methods: [string, () => KvIndexOptions][] = [
  ['scan', () => ({ method: 'scan' })],
  ['pages', () => ({ method: 'pages', pageSize: 4, probe: 0.1 })],
  ['clusters', () => ({ method: 'clusters', probe: 0.1 })],
  ['graph', () => ({ method: 'graph', queries: tokens(40, 9, 4), effort: 30 })],
];

/** Arrays of all tensors of a result. */
const all = (tensors: Tensor[]) => Promise.all(tensors.map((tensor) => tensor.read()));

describe.each(methods)('%s', (name, options) => {
  const estimates = name === 'pages' || name === 'clusters' ? [false, true] : [false];
  it.each(estimates)('follows the cache from launch to launch, estimate %s', async (estimate) => {
    const setup = name === 'scan' ? { rope: {} } : {};
    const [cache, plain] = [cacheOf(setup), cacheOf(setup)];
    const [index, other] = [cache, plain].map((each) => new KvIndex(each, options())) as [KvIndex, KvIndex];
    using stream = new Stream();
    const [k, q] = [Tensor.zeros([batch, 1, kvHeads, headDim]), Tensor.zeros([batch, 1, 4, headDim])];
    const few = { topK: 20, sink: 2, window: 5, ...(estimate && { estimate }) };
    let found: ReturnType<KvIndex['search']> | undefined;
    let seen: RetrievalResult | undefined;
    using graph = stream.capture(() => {
      cache.append(k, k, { stream });
      found = index.search(q, 7, { stream });
      seen = index.attend(q, { ...few, stream });
      cache.append(k, k, { stream });
    });
    expect(cache.length).toBe(0);
    expect(await seen!.touched).toBe(0);
    // Across the borders of segments of 1024 tokens, to and fro.
    const steps = [
      { append: 700 },
      { append: 1300 },
      { append: 60 },
      { truncate: 1100 },
      { truncate: 900 },
      { append: 1500 },
      { append: 0 },
      { truncate: 0 },
      { append: 2100 },
    ];
    for (const [i, step] of steps.entries()) {
      const more = step.append ? tokens(step.append, 100 + i) : undefined;
      for (const each of [cache, plain]) {
        if (more) each.append(more, more, { lengths: [step.append!, Math.floor(step.append! / 2)] });
        if (step.truncate !== undefined) each.truncate(each.lengths.map((n) => Math.min(n, step.truncate!)));
      }
      const [nextK, nextQ] = [tokens(1, 200 + i), tokens(1, 300 + i, 4)];
      await stream.synchronize();
      k.data.set(nextK.data);
      q.data.set(nextQ.data);
      graph.launch();
      plain.append(nextK, nextK);
      const wanted = [other.search(nextQ, 7), other.attend(nextQ, few)] as const;
      plain.append(nextK, nextK);
      expect(cache.lengths).toEqual(plain.lengths);
      expect(await all([found!.ids, found!.scores])).toEqual(await all([wanted[0].ids, wanted[0].scores]));
      expect(await all([seen!.out, seen!.lse])).toEqual(await all([wanted[1].out, wanted[1].lse]));
      expect(await seen!.touched).toBe(await wanted[1].touched);
    }
    expect(index.bytes).toBe(other.bytes);
  });
});

it('queued launches follow each other, on any stream', async () => {
  const cache = cacheOf();
  const index = new KvIndex(cache);
  const [k, q] = [tokens(1, 1), tokens(1, 2, 4)];
  using stream = new Stream();
  using other = new Stream();
  let seen: RetrievalResult | undefined;
  using graph = stream.capture(() => {
    cache.append(k, k, { stream });
    seen = index.attend(q, { topK: 5000, stream });
  });
  const shares: Promise<number>[] = [];
  for (let i = 0; i < 1500; i++) {
    graph.launch(i % 2 === 0 ? stream : other);
    if (i % 100 === 0) shares.push(seen!.touched);
  }
  const dense = attention(q, cache);
  expect(cache.length).toBe(1500);
  const [got, want] = await Promise.all([seen!.lse.read(), dense.lse.read()]);
  // Twice what rounding does to a score whose terms sum to 10 in magnitude, which these do not.
  const off = 2 * (headDim + 2) * 10 * 2 ** -24;
  for (const [i, lse] of got.entries()) expect(Math.abs(Number(lse) - Number(want[i]))).toBeLessThan(off);
  expect((await Promise.all(shares)).every((share) => share > 0 && share <= 1)).toBe(true);
});

it('a graph holds cache and index', async () => {
  const q = tokens(1, 2, 4);
  using stream = new Stream();
  const cache = cacheOf();
  const keys = tokens(1500, 5);
  cache.append(keys, keys);
  const index = new KvIndex(cache);
  const wanted = await all(Object.values(index.search(q, 9)));
  let found: ReturnType<KvIndex['search']> | undefined;
  using graph = stream.capture(() => {
    found = index.search(q, 9, { stream });
  });
  for (const each of [cache, index, keys]) each.dispose();
  for (let i = 0; i < 2; i++) {
    graph.launch();
    expect(await all([found!.ids, found!.scores])).toEqual(wanted);
  }
  expect(code(() => index.search(q, 9))).toBe('ERR_DISPOSED');
});

it('refuses within capture what it refuses outside', () => {
  const index = new KvIndex(cacheOf());
  using stream = new Stream();
  const q = tokens(1, 1, 4);
  for (const [refusal, call] of [
    ['ERR_OPTION', () => index.search(q, 0, { stream })],
    ['ERR_SHAPE', () => index.search(tokens(2, 1, 4), 1, { stream })],
    ['ERR_OPTION', () => index.attend(q, { topK: 3, estimate: true, stream })],
    ['ERR_OUT_OF_MEMORY', () => index.search(tokens(1, 1, 2048), 2 ** 30, { stream })],
  ] as const) {
    expect(code(() => stream.capture(() => void call()))).toBe(refusal);
  }
});
