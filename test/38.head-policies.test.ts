// KvIndex.attend with a topK for each key head: some heads see all keys, some what is retrieved, some sink and window.

import { attention, KvCache, KvIndex, type KvIndexOptions, memoryStats, Stream, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { allocated } from './support/allocated.cjs';
import { expectResult, tensorOf } from './support/library';
import { decode, type Float, normal, uniform, type Values } from './support/numbers';
import { code } from './support/refusal';
import { sanitized } from './support/sanitizer';
import { expected } from './support/tolerance';

type Method = NonNullable<KvIndexOptions['method']>;
const METHODS: Method[] = ['scan', 'pages', 'clusters', 'graph'];
const STORED: { dtype: Float; storage?: 'int8' }[] = [
  { dtype: 'float32' },
  { dtype: 'float16' },
  { dtype: 'bfloat16', storage: 'int8' },
];

const random = (seed: number, dtype: Float, shape: number[]) => tensorOf(normal(uniform(seed), dtype, shape), dtype);

/** Few pages and clusters are looked into, and few keys kept in view. */
function indexOf(cache: KvCache, method: Method): KvIndex {
  if (method === 'scan') return new KvIndex(cache);
  if (method !== 'graph') return new KvIndex(cache, { method, probe: 0.05 });
  const queries = random(99, cache.dtype, [1, 40, cache.kvHeads, cache.headDim]);
  return new KvIndex(cache, { method, queries, effort: 30 });
}

/** Bits of each query head, [batch][head], of out and lse. */
async function rowsOf({ out, lse }: { out: Tensor; lse: Tensor }) {
  const [outs, lses] = [await out.read(), await lse.read()];
  const [batch, , heads, columns] = out.shape as [number, number, number, number];
  return Array.from({ length: batch }, (_, b) =>
    Array.from({ length: heads }, (_, head) => {
      const row = b * heads + head;
      return { out: outs.slice(row * columns, (row + 1) * columns), lse: lses[row] };
    }),
  );
}

describe.each(METHODS)('%s', (method) => {
  it.each(STORED)('each key head is as if all had its topK: %o', async ({ dtype, storage }) => {
    const [kvHeads, group] = [5, 3];
    const sizes = { batch: 3, kvHeads, headDim: 20, valueDim: 13, capacity: 2700, pageSize: 48 };
    using cache = new KvCache({ ...sizes, dtype, ...(storage && { storage }) });
    const [k, v] = [20, 13].map((columns, i) => random(i, dtype, [3, 2700, kvHeads, columns])) as [Tensor, Tensor];
    cache.append(k, v, { lengths: [2700, 300, 0] }); // more than any topK, fewer than some, none
    using index = indexOf(cache, method);
    const q = random(5, dtype, [3, 1, kvHeads * group, 20]);
    const topK = [25, Infinity, 0, 500, 2650];
    const estimates = method === 'pages' || method === 'clusters' ? [false, true] : [false];
    for (const estimate of estimates) {
      for (const others of [
        { sink: 3, window: 40 },
        { sink: 0, window: 0 },
        { sink: 1100, window: 900 },
      ]) {
        const options = { ...others, ...(estimate && { estimate }) };
        const got = await rowsOf(index.attend(q, { topK, ...options }));
        for (const [kvHead, count] of topK.entries()) {
          const want = await rowsOf(index.attend(q, { topK: count, ...options }));
          for (const [b, heads] of want.entries()) {
            const own = (all: typeof heads) => all.slice(kvHead * group, (kvHead + 1) * group);
            expect(own(got[b]!), `sequence ${b}, topK ${count}`).toEqual(own(heads));
          }
        }
      }
    }
  });

  it('follows the cache from launch to launch', async () => {
    const [batch, kvHeads, headDim] = [2, 3, 16];
    const sizes = { batch, kvHeads, headDim, capacity: 6000 };
    const [cache, plain] = [new KvCache(sizes), new KvCache(sizes)];
    const [index, other] = [indexOf(cache, method), indexOf(plain, method)];
    const tokens = (n: number, seed: number, heads = kvHeads) => Tensor.randn([batch, n, heads, headDim], { seed });
    const q = tokens(1, 1, 6);
    using stream = new Stream();
    const topK = [Infinity, 40, 0];
    const options = { topK, sink: 2, window: 5 };
    let seen: ReturnType<KvIndex['attend']> | undefined;
    using graph = stream.capture(() => {
      seen = index.attend(q, { ...options, topK: [...topK], stream });
    });
    for (const [i, step] of [0, 30, 1500, -100, 2000, -1400, 1].entries()) {
      for (const each of [cache, plain]) {
        if (step < 0) each.truncate(each.lengths.map((n) => Math.max(0, n + step)));
        if (step <= 0) continue;
        const more = tokens(step, 10 + i);
        each.append(more, more, { lengths: [step, Math.floor(step / 3)] });
      }
      graph.launch();
      const wanted = other.attend(q, options);
      expect(await rowsOf(seen!)).toEqual(await rowsOf(wanted));
      expect(await seen!.touched).toBe(await wanted.touched);
    }
  });

  it('searches nothing for heads that see all keys, nor for those of 0', async () => {
    const lengths = [2500, 1100];
    using cache = new KvCache({ batch: 2, kvHeads: 2, headDim: 8, capacity: 2500 });
    const tokens = random(1, 'float32', [2, 2500, 2, 8]);
    cache.append(tokens, tokens, { lengths });
    using index = indexOf(cache, method);
    const { bytes } = index;
    const q = random(2, 'float32', [2, 1, 4, 8]);
    const all = 2 * (2500 + 1100);
    const touched = (topK: number | number[], sink = 6, window = 20) => index.attend(q, { topK, sink, window }).touched;
    expect(await touched([Infinity, 0])).toBe((2500 + 1100 + 2 * 26) / all);
    expect(await touched([0, 2474])).toBe((2 * 26 + 2500 + 1100) / all); // all between sink and window
    expect(await touched(0)).toBe((2 * 2 * 26) / all);
    expect(await touched(0, 0, 0)).toBe(0);
    expect(await touched(0, 2000, 0)).toBe((2 * (2000 + 1100)) / all);
    expect(await touched(Infinity)).toBe(1);
    expect(await touched([2 ** 40, 0])).toBe((2500 + 1100 + 2 * 26) / all);
    expect(await touched(Number.MAX_SAFE_INTEGER)).toBe(1);
    if (method === 'pages' || method === 'clusters') {
      expect(await index.attend(q, { topK: Infinity, estimate: true }).touched).toBe(1);
    }
    expect(index.bytes).toBe(bytes); // no mirror, no links
    expect(await touched([3, 0])).toBeLessThan(0.51); // now there is one
    expect(index.bytes).toBeGreaterThan(bytes);
    expect(await touched([Infinity, 0])).toBe((2500 + 1100 + 2 * 26) / all);
    cache.truncate(500); // of which the mirror does not know yet
    expect(await touched([Infinity, 0])).toBe((2 * 500 + 2 * 26) / (4 * 500));
  });

  it('a topK that some sequences exceed and others do not is searched for in those alone', async () => {
    using cache = new KvCache({ batch: 2, kvHeads: 1, headDim: 8, capacity: 2500 });
    const tokens = random(1, 'float32', [2, 2500, 1, 8]);
    cache.append(tokens, tokens, { lengths: [2500, 300] });
    using index = indexOf(cache, method);
    const q = random(2, 'float32', [2, 1, 2, 8]);
    const some = await rowsOf(index.attend(q, { topK: [300], sink: 0, window: 0 }));
    const all = await rowsOf(index.attend(q, { topK: Infinity, sink: 0, window: 0 }));
    expect(some[1]).toEqual(all[1]);
    expect(some[0]).not.toEqual(all[0]);
  });
});

it('touched counts a head that is searched, one that sees all and one that sees sink and window', async () => {
  using cache = new KvCache({ batch: 1, kvHeads: 3, headDim: 30, capacity: 4096 });
  using index = new KvIndex(cache, { method: 'pages', pageSize: 16, probe: 0.25 });
  const tokens = random(4, 'float32', [1, 4096, 3, 30]);
  cache.append(tokens, tokens);
  const q = Tensor.zeros([1, 1, 3, 30]);
  const attend = (estimate: boolean) =>
    index.attend(q, { topK: [1, Infinity, 0], sink: 16, window: 1024, estimate }).touched;
  const searched = 16 + 1024 + Math.ceil(0.25 * 191) * 16;
  expect(await attend(false)).toBe((searched + 4096 + 16 + 1024) / (3 * 4096));
  // Sink and window are whole pages.
  expect(await attend(true)).toBe((searched + 4096 + 16 + 1024) / (3 * 4096));
});

describe('what a head sees', () => {
  /** Of a query head and the key head that it shares, with some of the keys. */
  function problemOf(q: Values, k: Values, v: Values, head: number, kvHead: number, keys: number[]) {
    const row = ({ data, shape }: Values, key: number) => {
      const at = (key * shape[2]! + kvHead) * shape[3]!;
      return [...data.subarray(at, at + shape[3]!)];
    };
    const list = (of: Values): Values => ({
      shape: [1, keys.length, 1, of.shape[3]!],
      data: Float64Array.from(keys.flatMap((key) => row(of, key))),
    });
    const D = q.shape[3]!;
    const own: Values = { shape: [1, 1, 1, D], data: q.data.slice(head * D, (head + 1) * D) };
    return { q: own, k: list(k), v: list(v) };
  }

  // Rows of so many columns that keys are summed in several tasks: 2 MiB of them in each.
  it.each([
    { dtype: 'float32', D: 512, length: 2300 },
    { dtype: 'bfloat16', D: 512, length: 2300 },
    { dtype: 'float32', D: 24, length: 1500 },
  ] as const)('is all keys, what is retrieved, or sink and window: %o', async ({ dtype, D, length }) => {
    const [k, v] = [1, 2].map((seed) => normal(uniform(seed), dtype, [1, length, 3, D])) as [Values, Values];
    const q = normal(uniform(3), dtype, [1, 1, 6, D]);
    using cache = new KvCache({ batch: 1, kvHeads: 3, headDim: D, capacity: length, dtype });
    cache.append(tensorOf(k, dtype), tensorOf(v, dtype));
    using index = new KvIndex(cache);
    const query = tensorOf(q, dtype);
    const sink = 1200; // several tasks too
    const topK = [Infinity, 0, 7];
    // Without a window there is one rounding to the dtype.
    const { out, lse } = index.attend(query, { topK, sink, window: 0 });
    const best = (await index.search(query, length).ids.read()) as Int32Array;
    const [outs, lses] = [decode(dtype, await out.read()), decode('float32', await lse.read())];
    for (let head = 0; head < 6; head++) {
      const kvHead = Math.floor(head / 2);
      const every = Array.from({ length }, (_, key) => key);
      const found = [...best.subarray(head * length, (head + 1) * length)].filter((key) => key >= sink).slice(0, 7);
      const keys = [every, every.slice(0, sink), [...every.slice(0, sink), ...found]][kvHead]!;
      const own = { out: outs.slice(head * D, (head + 1) * D), lse: lses.slice(head, head + 1) };
      expectResult(own, expected(problemOf(q, k, v, head, kvHead, keys), dtype));
    }
  });

  it('is what attention over the cache sees, for heads that see all', async () => {
    const [D, length] = [16, 3000];
    const values = (seed: number, shape: number[]) => normal(uniform(seed), 'float32', shape);
    const [q, k, v] = [values(1, [1, 1, 4, D]), values(2, [1, length, 2, D]), values(3, [1, length, 2, D])];
    using cache = new KvCache({ batch: 1, kvHeads: 2, headDim: D, capacity: length, rope: { theta: 1e4 } });
    cache.append(tensorOf(k), tensorOf(v));
    using index = new KvIndex(cache);
    const query = tensorOf(q);
    const dense = attention(query, cache);
    // The magnitudes of a score's terms sum to at most the product of the norms, which rotation does not change: of that a
    // float32 evaluation may be off by D + 2 roundings, and two of them by twice as many.
    const norm = ({ data }: Values) =>
      Math.sqrt(Math.max(...Array.from({ length: data.length / D }, (_, row) => square(data, row))));
    const square = (data: Float64Array, row: number) =>
      data.subarray(row * D, (row + 1) * D).reduce((sum, x) => sum + x * x, 0);
    const score = (2 * (D + 2) * norm(q) * norm(k) * 2 ** -24) / Math.sqrt(D);
    const most = v.data.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0);
    for (const window of [0, 64]) {
      const { out, lse } = index.attend(query, { topK: [Infinity, 9], window });
      const sum = length * 2 ** -24; // a rounding for each key
      for (const [got, want, bound] of [
        [await out.read(), await dense.out.read(), (Math.expm1(2 * score) + 2 * sum) * most],
        [await lse.read(), await dense.lse.read(), score + sum],
      ] as const) {
        for (let i = 0; i < got.length / 2; i++) {
          expect(Math.abs(Number(got[i]) - Number(want[i]))).toBeLessThanOrEqual(bound);
        }
      }
    }
  });
});

it.skipIf(sanitized)('memory of heads that see all keys does not grow with these (not under sanitizers)', async () => {
  const busy = Tensor.randn([1, 1024, 8, 64], { seed: 1 });
  using stream = new Stream();
  const q = Tensor.randn([1, 1, 4, 1], { seed: 2 });
  const taken = async (length: number) => {
    using cache = new KvCache({ batch: 1, kvHeads: 2, headDim: 1, capacity: length, pageSize: 1024 });
    const tokens = Tensor.randn([1, length, 2, 1], { seed: 3 });
    cache.append(tokens, tokens);
    using index = new KvIndex(cache);
    await index.search(q, 5).ids.read(); // makes the index
    await attention(busy, busy, busy, { stream }).out.read();
    for (let i = 0; i < 4; i++) attention(busy, busy, busy, { stream }); // what comes next waits, and holds its memory
    const before = memoryStats('cpu').bytes + allocated();
    const { out } = index.attend(q, { topK: [Infinity, 5], sink: 0, window: 0, stream });
    const bytes = memoryStats('cpu').bytes + allocated() - before;
    await out.read();
    return bytes;
  };
  const few = await taken(2048);
  expect((await taken(2 ** 20)) - few).toBeLessThan(2 ** 20); // a byte for each key
});

describe('errors', () => {
  const cache = new KvCache({ batch: 1, kvHeads: 2, headDim: 8, capacity: 10 });
  const index = new KvIndex(cache);
  const q = Tensor.zeros([1, 1, 4, 8]);
  const fix = 'it must be an integer of at least 0, or Infinity for all keys';
  it.each<[unknown, string]>([
    [[], 'attend: topK has 0 entries; the cache has 2 key heads: give one number for each'],
    [[5], 'attend: topK has 1 entries; the cache has 2 key heads: give one number for each'],
    [[5, 5, 5, 5], 'attend: topK has 4 entries; the cache has 2 key heads: give one number for each'],
    [[5, -1], `attend: topK[1] is -1; ${fix}`],
    [[Number.NaN, 5], `attend: topK[0] is NaN; ${fix}`],
    [[2.5, 5], `attend: topK[0] is 2.5; ${fix}`],
    [[5, -Infinity], `attend: topK[1] is -Infinity; ${fix}`],
    [[5, '5'], `attend: topK[1] is '5'; ${fix}`],
    [[5, undefined], `attend: topK[1] is undefined; ${fix}`],
    [[5, [5]], `attend: topK[1] is [5]; ${fix}`],
    [-1, `attend: topK is -1; ${fix}`],
    [Number.NaN, `attend: topK is NaN; ${fix}`],
    [1.5, `attend: topK is 1.5; ${fix}`],
    [Int32Array.of(5, 5), `attend: topK is an Int32Array; ${fix}`],
  ])('topK: %o', (topK, text) => {
    const call = () => index.attend(q, { topK } as never);
    expect(call).toThrow(text);
    expect(code(call)).toBe('ERR_OPTION');
    using stream = new Stream();
    expect(code(() => stream.capture(() => void index.attend(q, { topK, stream } as never)))).toBe('ERR_OPTION');
  });

  it('a search has one topK', () => {
    for (const topK of [[5, 5], Infinity, 0]) {
      expect(() => index.search(q, topK as never)).toThrow('it must be an integer of at least 1');
    }
  });
});
