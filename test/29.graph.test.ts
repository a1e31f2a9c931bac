// KvIndex by a graph: what is found against float64 scores, that every key can be reached, and that a graph that has
// followed appends and truncations is that of the keys that there are.

import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { attention, KvCache, KvIndex, Stream, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { HEAD_DIM, HEAD_KINDS, structuredHead } from '../bench/sparse/heads';
import { tensorOf } from './support/library';
import { decode, type Float, normal, uniform, type Values } from './support/numbers';
import { program } from './support/program';
import { code } from './support/refusal';
import { sanitized } from './support/sanitizer';

const FLOATS: Float[] = ['float32', 'float16', 'bfloat16'];

/** Ids and scores of a search, [row][topK]. */
async function search(index: KvIndex, q: Tensor, topK: number, stream?: Stream) {
  const { ids, scores } = index.search(q, topK, { ...(stream && { stream }) });
  const [id, score] = [(await ids.read()) as Int32Array, (await scores.read()) as Float32Array];
  const rows = id.length / topK;
  const cut = <T extends Int32Array | Float32Array>(all: T) =>
    Array.from({ length: rows }, (_, row) => [...all.subarray(row * topK, (row + 1) * topK)]);
  return { ids: cut(id), scores: cut(score) };
}

/** Of a query head and a key, in float64; and how far a float32 evaluation may be from it. */
function scoreOf(q: Values, k: Values, row: number, b: number, key: number, kvHead: number) {
  const [, tokens, kvHeads, D] = k.shape as [number, number, number, number];
  let [sum, size] = [0, 0];
  for (let d = 0; d < D; d++) {
    const term = q.data[row * D + d]! * k.data[((b * tokens + key) * kvHeads + kvHead) * D + d]!;
    sum += term;
    size += Math.abs(term);
  }
  return { score: sum / Math.sqrt(D), off: ((size * (D + 2)) / Math.sqrt(D)) * 2 ** -24 };
}

/** That the keys found are the best of their sequence, but for what rounding may exchange. */
function expectBest(
  found: Awaited<ReturnType<typeof search>>,
  q: Values,
  k: Values,
  lengths: number[],
  slack = 0, // of an element of k
) {
  const [heads, kvHeads, D] = [q.shape[2]!, k.shape[2]!, k.shape[3]!];
  lengths.forEach((length, b) => {
    for (let head = 0; head < heads; head++) {
      const row = b * heads + head;
      const kvHead = Math.floor(head / (heads / kvHeads));
      const exact = Array.from({ length }, (_, key) => scoreOf(q, k, row, b, key, kvHead));
      const off = Math.max(0, ...exact.map((one) => one.off)) + normOf(q, row, D) * slack;
      const sorted = exact.map(({ score }) => score).sort((x, y) => y - x);
      const [ids, scores] = [found.ids[row]!, found.scores[row]!];
      const there = Math.min(ids.length, length);
      expect(new Set(ids.slice(0, there)).size).toBe(there);
      ids.forEach((id, i) => {
        if (i >= there) {
          expect([id, scores[i]]).toEqual([-1, -Infinity]);
          return;
        }
        expect(id).toBeLessThan(length);
        expect(Math.abs(scores[i]! - exact[id]!.score)).toBeLessThanOrEqual(off);
        expect(exact[id]!.score).toBeGreaterThanOrEqual(sorted[i]! - 2 * off);
      });
    }
  });
}

/** The sum of a query's magnitudes over the root of its columns: what an error of all elements of a key may add to a score. */
const normOf = (q: Values, row: number, D: number) =>
  q.data.subarray(row * D, (row + 1) * D).reduce((sum, x) => sum + Math.abs(x), 0) / Math.sqrt(D);

function cacheOf(k: Values, options: { dtype?: Float; storage?: 'int8'; capacity?: number; pageSize?: number } = {}) {
  const [batch, tokens, kvHeads, headDim] = k.shape as [number, number, number, number];
  const { dtype = 'float32', ...others } = options;
  const cache = new KvCache({ batch, kvHeads, headDim, valueDim: 1, capacity: tokens, dtype, ...others });
  const v = Tensor.zeros([batch, tokens, kvHeads, 1], { dtype });
  cache.append(tensorOf(k, dtype), v);
  return cache;
}

const touchedOf = (index: KvIndex, q: Tensor, topK = 1) => index.attend(q, { topK, sink: 0, window: 0 }).touched;

describe('every key can be reached', () => {
  it.each(FLOATS.flatMap((dtype) => [undefined, 'int8' as const].map((storage) => ({ dtype, storage }))))(
    '$dtype as $storage: a walk that keeps all keys but one in view finds the best of all',
    async ({ dtype, storage }) => {
      const random = uniform(31);
      const [length, D] = [1500, 19];
      const k = normal(random, dtype, [1, length, 2, D]);
      using cache = cacheOf(k, { dtype, ...(storage && { storage }) });
      const samples = tensorOf(normal(random, dtype, [1, 5, 4, D]), dtype);
      const q = normal(random, dtype, [1, 1, 6, D]);
      for (const degree of [1, 8]) {
        using index = new KvIndex(cache, { method: 'graph', queries: samples, degree, effort: length - 1 });
        // Elements of int8 are off by half a unit, which is the largest of a row / 127.
        const slack = storage ? k.data.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 254 : 0;
        expectBest(await search(index, tensorOf(q, dtype), 40), q, k, [length], slack);
        expect(await touchedOf(index, tensorOf(q, dtype))).toBe(1);
      }
    },
  );

  it('also of sequences of different lengths, and after truncation', async () => {
    const random = uniform(7);
    const [lengths, D] = [[2300, 1100, 40], 12];
    using cache = new KvCache({ batch: 3, kvHeads: 1, headDim: D, valueDim: 1, capacity: 2300, pageSize: 48 });
    const k = normal(random, 'float32', [3, 2300, 1, D]);
    cache.append(tensorOf(k), Tensor.zeros([3, 2300, 1, 1]), { lengths });
    for (const batch of [1, 3]) {
      const samples = tensorOf(normal(random, 'float32', [batch, 30, 2, D]));
      using index = new KvIndex(cache, { method: 'graph', queries: samples, degree: 2, effort: 1099 });
      const q = normal(random, 'float32', [3, 1, 2, D]);
      // Two of three sequences have their own size of effort.
      const found = await search(index, tensorOf(q), 30);
      const short = { ids: found.ids.slice(2), scores: found.scores.slice(2) };
      const rest = (values: Values): Values => ({
        shape: [2, ...values.shape.slice(1)],
        data: values.data.slice(values.data.length / 3),
      });
      expectBest(short, rest(q), rest(k), lengths.slice(1));
      for (const row of found.ids.slice(0, 2)) expect(new Set(row.filter((id) => id >= 0 && id < 2300)).size).toBe(30);
    }
    const samples = tensorOf(normal(random, 'float32', [1, 30, 1, D]));
    using index = new KvIndex(cache, { method: 'graph', queries: samples, effort: 1099 });
    const q = normal(random, 'float32', [3, 1, 1, D]);
    await search(index, tensorOf(q), 1);
    cache.truncate([1100, 1000, 0]);
    expectBest(await search(index, tensorOf(q), 30), q, k, [1100, 1000, 0]);
    expect(await touchedOf(index, tensorOf(q))).toBe(1);
  });

  it('whatever is no number', async () => {
    const random = uniform(3);
    const k = normal(random, 'float32', [1, 1800, 1, 4]);
    for (let i = 0; i < 40; i++) k.data[Math.floor(random() * k.data.length)] = [NaN, Infinity, -Infinity][i % 3]!;
    k.data.fill(Number.NaN, 4 * 300, 4 * 900);
    using cache = cacheOf(k);
    const queries = normal(random, 'float32', [1, 64, 1, 4]);
    for (let i = 0; i < 20; i++) queries.data[Math.floor(random() * 256)] = [NaN, Infinity, 3e38][i % 3]!;
    using index = new KvIndex(cache, { method: 'graph', queries: tensorOf(queries), effort: 1799, degree: 3 });
    using scan = new KvIndex(cache);
    for (const data of [
      [1, -2, 0.5, 0],
      [0, 0, 0, 0],
      [NaN, 1, 1, 1],
      [1e38, 1e38, 0, 1],
    ]) {
      const q = Tensor.from(Float32Array.from(data), [1, 1, 1, 4]);
      expect(await search(index, q, 1800)).toEqual(await search(scan, q, 1800));
      expect(await search(index, q, 50)).toEqual(await search(scan, q, 50));
      expect(await touchedOf(index, q)).toBe(1);
    }
    // All sample queries, too, and keys that they cannot tell apart.
    using nothing = new KvIndex(cache, {
      method: 'graph',
      queries: Tensor.from(new Float32Array(8).fill(NaN), [1, 2, 1, 4]),
      effort: 1799,
    });
    const q = Tensor.from(Float32Array.of(1, 2, 3, 4), [1, 1, 1, 4]);
    expect(await search(nothing, q, 50)).toEqual(await search(scan, q, 50));
  });
});

describe('ties', () => {
  it('go to the lower key', async () => {
    using cache = cacheOf({ shape: [1, 3000, 1, 4], data: new Float64Array(12000) });
    using index = new KvIndex(cache, { method: 'graph', queries: Tensor.zeros([1, 9, 1, 4]), effort: 20 });
    const { ids } = await search(index, Tensor.zeros([1, 1, 2, 4]), 7);
    expect(ids).toEqual([
      [0, 1, 2, 3, 4, 5, 6],
      [0, 1, 2, 3, 4, 5, 6],
    ]);
  });
});

describe('what a cache goes through', () => {
  it('leaves a graph as if it were made at once, whatever is appended and truncated', async () => {
    let compared = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          batch: fc.integer({ min: 1, max: 2 }),
          kvHeads: fc.integer({ min: 1, max: 2 }),
          group: fc.integer({ min: 1, max: 3 }),
          headDim: fc.integer({ min: 1, max: 40 }),
          pageSize: fc.constantFrom(3, 64, 1000),
          dtype: fc.constantFrom(...FLOATS),
          storage: fc.constantFrom(undefined, 'int8' as const),
          samples: fc.integer({ min: 1, max: 70 }),
          degree: fc.integer({ min: 1, max: 9 }),
          effort: fc.integer({ min: 1, max: 200 }),
        }),
        fc.integer(),
        fc.array(fc.tuple(fc.constantFrom('append', 'append', 'truncate', 'search'), fc.nat()), { maxLength: 9 }),
        async ({ batch, kvHeads, group, headDim, pageSize, dtype, storage, samples, degree, effort }, seed, steps) => {
          const random = uniform(seed);
          const capacity = 4000;
          const sizes = { batch, kvHeads, headDim, valueDim: 1, pageSize, capacity, dtype };
          using cache = new KvCache({ ...sizes, ...(storage && { storage }) });
          const queries = tensorOf(normal(random, dtype, [1, samples, kvHeads * group, headDim]), dtype);
          const options = { method: 'graph', queries, degree, effort } as const;
          using index = new KvIndex(cache, options);
          const streams = [undefined, new Stream(), new Stream()];
          // How many keys the graph has of each sequence, how many of these are still there, and how many it was made of.
          let [graph, stayed, made] = [0, 0, 0].map(() => cache.lengths.map(() => 0)) as [number[], number[], number[]];
          for (const [step, pick] of [...steps, ['append', 1], ['search', 0]] as const) {
            const stream = streams[pick % streams.length];
            const on = stream && { stream };
            if (step === 'append') {
              const lengths = cache.lengths.map((length) => Math.floor(random() * Math.min(2500, capacity - length)));
              const n = Math.max(...lengths);
              const k = tensorOf(normal(random, dtype, [batch, n, kvHeads, headDim]), dtype);
              cache.append(k, Tensor.zeros([batch, n, kvHeads, 1], { dtype }), { lengths, ...on });
              continue;
            }
            if (step === 'truncate') {
              // Mostly a few tokens, as after a draft.
              const part = pick % 3 === 0 ? 1 : 0.02;
              cache.truncate(cache.lengths.map((length) => Math.floor(length * (1 - part * random()))));
              stayed = stayed.map((count, b) => Math.min(count, cache.lengths[b]!));
              continue;
            }
            const { lengths } = cache;
            graph = graph.map((count, b) => Math.min(count, stayed[b]!));
            const grown = graph.map((count, b) => lengths[b]! - count > Math.max(1024, Math.floor(count / 16)));
            graph = graph.map((count, b) => (grown[b] ? lengths[b]! : count));
            made = made.map((count, b) => (grown[b] ? lengths[b]! : count));
            stayed = [...graph];
            const q = tensorOf(normal(random, dtype, [batch, 1, kvHeads * group, headDim]), dtype);
            const topK = 1 + (pick % 30);
            const found = await search(index, q, topK, stream);
            const all = Math.max(1, cache.length);
            using whole = new KvIndex(cache);
            const exact = await search(whole, q, all, stream);
            found.ids.forEach((ids, row) => {
              const b = Math.floor(row / (kvHeads * group));
              const score = new Map(exact.ids[row]!.map((id, i) => [id, exact.scores[row]![i]!]));
              const there = Math.min(topK, lengths[b]!);
              expect(new Set(ids.slice(0, there)).size).toBe(there);
              // Scores are those of the keys, the best first, and keys behind the graph's are never missed.
              ids.forEach((id, i) => {
                const own = i < there ? score.get(id) : -Infinity;
                expect(found.scores[row]![i]).toBe(own);
                if (i > 0 && i < there) expect(own! <= found.scores[row]![i - 1]!).toBe(true);
                expect(id >= 0 && id < lengths[b]!).toBe(i < there);
              });
              const last = there > 0 ? found.scores[row]![there - 1]! : 0;
              exact.ids[row]!.forEach((id, i) => {
                if (id >= graph[b]! && exact.scores[row]![i]! > last) expect(ids).toContain(id);
              });
            });
            const { touched } = index.attend(q, { topK, sink: 0, window: 0, ...on });
            const behind = lengths.reduce((sum, length, b) => sum + length - graph[b]!, 0);
            const keys = lengths.reduce((sum, length) => sum + length, 0);
            if (keys > 0) expect(await touched).toBeGreaterThanOrEqual(behind / keys - 1e-12);
            if (graph.every((count, b) => count === lengths[b] && count === made[b])) {
              compared++;
              using fresh = new KvIndex(cache, options);
              expect(await search(fresh, q, topK, stream)).toEqual(found);
              const again = fresh.attend(q, { topK, sink: 0, window: 0, ...on });
              expect(await again.touched).toBe(await touched);
            }
          }
          for (const stream of streams) stream?.dispose();
        },
      ),
      { numRuns: sanitized ? 10 : 40, seed: 12 },
    );
    expect(compared).toBeGreaterThan(sanitized ? 2 : 10); // graphs that were made in steps among them
  });

  it('grows by appends alone into the graph of all', async () => {
    const random = uniform(14);
    const [D, length] = [16, 6000];
    const k = normal(random, 'float32', [1, length, 1, D]);
    const samples = tensorOf(normal(random, 'float32', [1, 100, 2, D]));
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, valueDim: 1, capacity: length });
    const options = { method: 'graph', queries: samples, effort: 30 } as const;
    using index = new KvIndex(cache, options);
    const q = tensorOf(normal(random, 'float32', [1, 1, 2, D]));
    const tokens = tensorOf(k);
    const put = (from: number, to: number) =>
      cache.append(tokens.slice([0, 1], [from, to], [0, 1], [0, D]), Tensor.zeros([1, to - from, 1, 1]));
    let made = 0;
    for (let at = 0; at < length; at += 250) {
      put(at, at + 250);
      if (at + 250 - made > 1024) made = at + 250;
      const share = await touchedOf(index, q, 10);
      if (made === 0) expect(share).toBe(1);
      if (made !== at + 250 || made < 2000) continue;
      using fresh = new KvIndex(cache, options);
      expect(share).toBeLessThan(1);
      expect(share).toBe(await touchedOf(fresh, q, 10));
      expect(await search(index, q, 30)).toEqual(await search(fresh, q, 30));
    }
    // A key that stands in for one that was truncated is found at once, in the graph and behind it.
    const loud = tensorOf({
      shape: [1, 1, 1, D],
      data: decode('float32', await q.read())
        .slice(0, D)
        .map((x) => 50 * x),
    });
    for (const at of [5400, 3000, 100]) {
      cache.truncate(at);
      cache.append(loud, Tensor.zeros([1, 1, 1, 1]));
      expect((await search(index, q, 3)).ids[0]![0]).toBe(at);
      cache.truncate(at);
      put(at, at + 500);
      for (const ids of (await search(index, q, 30)).ids) expect(Math.max(...ids)).toBeLessThan(at + 500);
    }
    // A fork goes its own way.
    using fork = cache.fork();
    fork.append(loud, Tensor.zeros([1, 1, 1, 1]));
    using other = new KvIndex(fork, options);
    expect((await search(other, q, 1)).ids[0]).toEqual([600]);
    expect((await search(index, q, 1)).ids[0]![0]).toBeLessThan(600);
  });
});

describe('what is found', () => {
  const [tokens, samples] = [8192, 4096];
  const head = structuredHead(HEAD_KINDS.smooth, tokens, 16, 1, 5, samples);
  const values = (data: Float32Array, shape: number[]): Values => ({ shape, data: Float64Array.from(data) });

  it('is most of what queries unlike all keys look for, of a part of the keys', async () => {
    const k = values(head.k, [1, tokens, 1, HEAD_DIM]);
    using cache = cacheOf(k);
    using queries = Tensor.from(head.samples, [1, samples, 1, HEAD_DIM]);
    using index = new KvIndex(cache, { method: 'graph', queries });
    const topK = 100;
    let [found, looked] = [0, 0];
    for (let n = 0; n < 16; n++) {
      const data = head.q.slice(n * HEAD_DIM, (n + 1) * HEAD_DIM);
      const q = Tensor.from(data, [1, 1, 1, HEAD_DIM]);
      const own = values(data, [1, 1, 1, HEAD_DIM]);
      const scores = Array.from({ length: tokens }, (_, key) => scoreOf(own, k, 0, 0, key, 0).score);
      const best = new Set([...scores.keys()].sort((a, b) => scores[b]! - scores[a]!).slice(0, topK));
      found += (await search(index, q, topK)).ids[0]!.filter((id) => best.has(id)).length / topK / 16;
      looked += (await touchedOf(index, q, topK)) / 16;
    }
    console.log(`recall ${found.toFixed(3)}, touched ${looked.toFixed(3)}`);
    expect(found).toBeGreaterThan(0.95); // what RetrievalAttention asks of a search
    expect(looked).toBeLessThan(0.5); // which finds that share by chance
  });

  it('is a needle, wherever it lies', async () => {
    // What a text says in some place: the keys around it are like it, the less the further. No sample query asks for it.
    const random = uniform(41);
    const [length, D] = [16384, 32];
    const keys = normal(random, 'float32', [1, length, 1, D]);
    const needle = normal(random, 'float32', [D]).data;
    const size = Math.sqrt(needle.reduce((sum, x) => sum + x * x, 0));
    const queries = tensorOf(normal(random, 'float32', [1, 256, 1, D]));
    const q = Tensor.from(Float32Array.from(needle), [1, 1, 1, D]);
    const rounds = sanitized ? 4 : 16;
    for (let i = 0; i < rounds; i++) {
      const at = i === 0 ? 0 : i === 1 ? length - 1 : Math.floor(random() * length);
      const data = keys.data.map((x, n) => {
        const far = Math.abs(Math.floor(n / D) - at);
        return Math.fround(x + ((12 * needle[n % D]!) / size) * Math.exp(-far / 50));
      });
      using cache = cacheOf({ shape: keys.shape, data });
      using index = new KvIndex(cache, { method: 'graph', queries });
      // The best key by definition is the needle or, by the noise, one beside it.
      const scores = Array.from({ length }, (_, key) => needle.reduce((sum, x, d) => sum + x * data[key * D + d]!, 0));
      const best = scores.indexOf(Math.max(...scores.slice(Math.max(0, at - 200), at + 200)));
      const found = await search(index, q, 5);
      expect(found.ids[0]![0]).toBe(best);
      expect(Math.abs(best - at)).toBeLessThan(50);
      expect(await touchedOf(index, q, 5)).toBeLessThan(0.6);
    }
  }, 120_000);

  it('is the same from call to call, on streams side by side', async () => {
    const k = values(head.k, [1, tokens, 1, HEAD_DIM]);
    using cache = cacheOf(k);
    using queries = Tensor.from(head.samples.slice(0, 1024 * HEAD_DIM), [1, 256, 4, HEAD_DIM]);
    const q = Tensor.from(head.q.slice(0, 4 * HEAD_DIM), [1, 1, 4, HEAD_DIM]);
    const streams = Array.from({ length: 3 }, () => new Stream());
    const indexes = streams.map(() => new KvIndex(cache, { method: 'graph', queries }));
    const found = await Promise.all(indexes.flatMap((index) => streams.map((stream) => search(index, q, 50, stream))));
    for (const one of found) expect(one).toEqual(found[0]);
    const rest = new Set(await Promise.all(indexes.map((index) => touchedOf(index, q, 50))));
    expect(rest.size).toBe(1);
    for (const each of [...indexes, ...streams]) each.dispose();
  });
});

describe('attention', () => {
  it.each(FLOATS)(
    '%s: over as many as there are is attention over all, else over first, last and best',
    async (dtype) => {
      const random = uniform(9);
      const [length, D] = [2600, 16];
      using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, capacity: 4000, dtype, rope: { theta: 1e4 } });
      const [k, v] = [0, 1].map(() => tensorOf(normal(random, dtype, [1, length, 1, D]), dtype)) as [Tensor, Tensor];
      cache.append(k, v);
      const queries = tensorOf(normal(random, dtype, [1, 40, 2, D]), dtype);
      const q = tensorOf(normal(random, dtype, [1, 1, 2, D]), dtype);
      using index = new KvIndex(cache, { method: 'graph', queries, effort: 60 });
      using exact = new KvIndex(cache);
      using far = new KvIndex(cache, { method: 'graph', queries, effort: length - 70 });
      const read = async (result: { out: Tensor; lse: Tensor }) =>
        [await result.out.read(), await result.lse.read()].map((part) => [...part].map(Number));
      // Both are dense, by the same sums.
      const options = { topK: length, sink: 3, window: 10 };
      expect(await read(index.attend(q, options))).toEqual(await read(exact.attend(q, options)));
      const dense = attention(q, cache);
      const [got, want] = [index.attend(q, options), dense].map((one) => one.lse.read());
      expect(Number((await got!)[0])).toBeCloseTo(Number((await want!)[0]), 4);
      // All that may be chosen is walked, but for one key in view, and the rest chosen alike.
      for (const [sink, window] of [
        [5, 64],
        [0, 69],
        [69, 0],
      ] as const) {
        const some = { topK: 20, sink, window };
        const [mine, theirs] = [far.attend(q, some), exact.attend(q, some)];
        expect(await read(mine)).toEqual(await read(theirs));
        expect(await mine.touched).toBe(1);
      }
      const few = index.attend(q, { topK: 20, sink: 4, window: 64 });
      expect(await few.touched).toBeLessThan(1);
      expect(await few.touched).toBeGreaterThan(88 / length);
    },
  );

  it('of an empty cache is empty, and of a short one exact', async () => {
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 4, valueDim: 1, capacity: 100 });
    using index = new KvIndex(cache, { method: 'graph', queries: Tensor.zeros([1, 3, 2, 4]), effort: 1 });
    const q = Tensor.from(Float32Array.of(1, 2, 3, 4), [1, 1, 1, 4]);
    const nothing = index.attend(q, { topK: 3 });
    expect([...(await nothing.lse.read())]).toEqual([-Infinity]);
    expect(await nothing.touched).toBe(0);
    expect((await search(index, q, 2)).ids).toEqual([[-1, -1]]);
    const k = normal(uniform(1), 'float32', [1, 90, 1, 4]);
    cache.append(tensorOf(k), Tensor.zeros([1, 90, 1, 1]));
    const values: Values = { shape: [1, 1, 1, 4], data: Float64Array.of(1, 2, 3, 4) };
    expectBest(await search(index, q, 10), values, k, [90]);
  });
});

describe('sample queries', () => {
  it('are copied, rotated as the cache has it, and serve the heads of their key head', async () => {
    const random = uniform(19);
    const [length, D] = [3000, 8];
    const k = normal(random, 'float32', [1, length, 2, D]);
    using cache = cacheOf(k);
    const [few, many] = [2, 6].map((heads) => normal(random, 'float32', [1, 30, heads, D])) as [Values, Values];
    const q = tensorOf(normal(random, 'float32', [1, 1, 4, D]));
    const options = { method: 'graph', effort: 25, degree: 4 } as const;
    // Three heads of a key head, or three tokens of one: the same queries in the same order.
    const halves = { shape: [1, 90, 2, D], data: new Float64Array(90 * 2 * D) };
    for (let n = 0; n < 30; n++) {
      for (let member = 0; member < 3; member++) {
        for (let kvHead = 0; kvHead < 2; kvHead++) {
          const row = many.data.subarray((n * 6 + kvHead * 3 + member) * D, (n * 6 + kvHead * 3 + member + 1) * D);
          halves.data.set(row, ((n * 3 + member) * 2 + kvHead) * D);
        }
      }
    }
    using a = new KvIndex(cache, { ...options, queries: tensorOf(many) });
    using b = new KvIndex(cache, { ...options, queries: tensorOf(halves) });
    const found = await search(a, q, 25);
    expect(await search(b, q, 25)).toEqual(found);
    using other = new KvIndex(cache, { ...options, queries: tensorOf(few) });
    expect(await search(other, q, 25)).not.toEqual(found);
    // Strided, and gone or overwritten before the graph is made.
    const wide = new Float32Array(new SharedArrayBuffer(4 * 30 * 6 * 2 * D));
    for (let row = 0; row < 180; row++) wide.set(many.data.subarray(row * D, (row + 1) * D), row * 2 * D + D);
    const view = Tensor.wrap(wide, [1, 30, 6, 2 * D]).slice([0, 1], [0, 30], [0, 6], [D, 2 * D]);
    using c = new KvIndex(cache, { ...options, queries: view });
    await search(other, q, 1); // the copy is made before that
    wide.fill(Number.NaN);
    view.dispose();
    expect(await search(c, q, 25)).toEqual(found);
  });

  it('turn with the positions of the last tokens', async () => {
    const random = uniform(23);
    const [length, D, n] = [2000, 8, 50];
    const k = normal(random, 'float32', [2, length, 1, D]);
    const samples = normal(random, 'float32', [1, n, 1, D]);
    const rope = { theta: 50 };
    const lengths = [2000, 1500];
    const turned = (values: Values, first: number[]): Values => {
      const batch = first.length;
      const [, tokens] = values.shape as [number, number, number, number];
      const data = new Float64Array(batch * tokens * D);
      for (let b = 0; b < batch; b++) {
        for (let t = 0; t < tokens; t++) {
          const from = ((values.shape[0] === 1 ? 0 : b) * tokens + t) * D;
          for (let j = 0; j < D / 2; j++) {
            const angle = (first[b]! + t) * rope.theta ** ((-2 * j) / D);
            const [x, y] = [values.data[from + j]!, values.data[from + j + D / 2]!];
            const to = (b * tokens + t) * D + j;
            data[to] = Math.fround(x * Math.fround(Math.cos(angle)) - y * Math.fround(Math.sin(angle)));
            data[to + D / 2] = Math.fround(x * Math.fround(Math.sin(angle)) + y * Math.fround(Math.cos(angle)));
          }
        }
      }
      return { shape: [batch, tokens, 1, D], data };
    };
    const sizes = { batch: 2, kvHeads: 1, headDim: D, valueDim: 1, capacity: length };
    using spun = new KvCache({ ...sizes, rope });
    using plain = new KvCache(sizes);
    const v = Tensor.zeros([2, length, 1, 1]);
    spun.append(tensorOf(k), v, { lengths });
    plain.append(tensorOf(turned(k, [0, 0])), v, { lengths });
    const options = { method: 'graph', effort: 20, degree: 4 } as const;
    using a = new KvIndex(spun, { ...options, queries: tensorOf(samples) });
    using b = new KvIndex(plain, {
      ...options,
      queries: tensorOf(
        turned(
          samples,
          lengths.map((all) => all - n),
        ),
      ),
    });
    const q = normal(random, 'float32', [2, 1, 1, D]);
    const last = turned(
      q,
      lengths.map((all) => all - 1),
    );
    const [one, two] = [await search(a, tensorOf(q), 20), await search(b, tensorOf(last), 20)];
    // Rounding may exchange single keys of lists, but not change what is found altogether.
    one.ids.forEach((ids, row) => {
      expect(ids.filter((id) => two.ids[row]!.includes(id)).length).toBeGreaterThanOrEqual(18);
    });
  });
});

it('the graph is the same for any number of threads', async () => {
  const said = [];
  for (const threads of [1, 2, 3]) said.push(await program('walks.ts', [], { NODE_ATTENTION_THREADS: `${threads}` }));
  const [one, ...others] = said.map((line) => line.split(' '));
  expect(one).toEqual(['1', expect.stringMatching(/^[0-9a-f]{64}$/)]);
  expect(others).toEqual([
    ['2', one![1]],
    ['3', one![1]],
  ]);
});

describe('memory', () => {
  it('is told exactly', async () => {
    using cache = new KvCache({ batch: 2, kvHeads: 2, headDim: 8, valueDim: 1, capacity: 5000, dtype: 'bfloat16' });
    const queries = tensorOf(normal(uniform(4), 'bfloat16', [1, 10, 6, 8]), 'bfloat16');
    using index = new KvIndex(cache, { method: 'graph', queries, degree: 7 });
    const samples = 10 * 6 * 8 * 2;
    expect(index.bytes).toBe(samples);
    const k = tensorOf(normal(uniform(5), 'bfloat16', [2, 3000, 2, 8]), 'bfloat16');
    cache.append(k, Tensor.zeros([2, 3000, 2, 1], { dtype: 'bfloat16' }), { lengths: [3000, 900] });
    const q = Tensor.zeros([2, 1, 6, 8], { dtype: 'bfloat16' });
    await search(index, q, 3);
    const lists = 2 * 2 * (10 * 3) * 200 * 8;
    expect(index.bytes).toBe(samples + lists + 2 * 3001 * 7 * 4);
  });
});

describe('ends', () => {
  const large = async () => {
    const k = tensorOf(normal(uniform(2), 'float32', [1, 12000, 1, 64]));
    const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 12000 });
    cache.append(k, k);
    const queries = tensorOf(normal(uniform(3), 'float32', [1, 1000, 1, 64]));
    const q = tensorOf(normal(uniform(4), 'float32', [1, 1, 2, 64]));
    return { k, cache, queries, q };
  };

  it('outlives dispose while it is made', async () => {
    const { k, cache, queries, q } = await large();
    using kept = new KvIndex(cache, { method: 'graph', queries });
    const want = await search(kept, q, 20);
    const index = new KvIndex(cache, { method: 'graph', queries });
    const done = search(index, q, 20);
    index.dispose();
    for (const each of [k, queries, cache]) each.dispose();
    expect(await done).toEqual(want);
    expect(code(() => index.search(q, 3))).toBe('ERR_DISPOSED');
    expect(code(() => index.bytes)).toBe('ERR_DISPOSED');
  });

  it('ends with its worker while it is made', async () => {
    const worker = new Worker(path.join(__dirname, 'fixtures', 'worker.cjs'), { workerData: { mode: 'graph' } });
    await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    await new Promise((resolve) => setTimeout(resolve, 200));
    const begun = performance.now();
    await worker.terminate();
    // It is cancelled within a tile of work; the whole would take minutes.
    expect(performance.now() - begun).toBeLessThan(5000);
    const { q, queries, cache } = await large();
    using index = new KvIndex(cache, { method: 'graph', queries });
    expect((await search(index, q, 5)).ids[0]).toHaveLength(5); // the pool still serves
    cache.dispose();
  }, 120_000);
});

describe('errors', () => {
  const cache = new KvCache({ batch: 2, kvHeads: 2, headDim: 8, capacity: 10 });
  const queries = Tensor.zeros([2, 5, 4, 8]);
  const gone = Tensor.zeros([1, 5, 4, 8]);
  gone.dispose();

  it.each([
    ['ERR_OPTION', {}, 'needs sample queries'],
    ['ERR_OPTION', { queries: 5 }, 'queries'],
    ['ERR_OPTION', { queries: [queries] }, 'queries'],
    ['ERR_OPTION', { queries: null }, 'queries'],
    ['ERR_DISPOSED', { queries: gone }, 'queries'],
    ['ERR_SHAPE', { queries: Tensor.zeros([3, 5, 4, 8]) }, 'queries has shape [3, 5, 4, 8]'],
    ['ERR_SHAPE', { queries: Tensor.zeros([2, 0, 4, 8]) }, 'queries has shape [2, 0, 4, 8]'],
    ['ERR_SHAPE', { queries: Tensor.zeros([2, 5, 3, 8]) }, 'a multiple of 2'],
    ['ERR_SHAPE', { queries: Tensor.zeros([2, 5, 0, 8]) }, 'a multiple of 2'],
    ['ERR_SHAPE', { queries: Tensor.zeros([2, 5, 4, 9]) }, '[2 or 1, n, heads, 8]'],
    ['ERR_SHAPE', { queries: Tensor.zeros([5, 4, 8]) }, 'queries has shape [5, 4, 8]'],
    ['ERR_DTYPE', { queries: queries.to('float16') }, 'queries is float16'],
    ['ERR_DTYPE', { queries: Tensor.zeros([2, 5, 4, 8], { dtype: 'int32' }) }, 'queries is int32'],
    ['ERR_OPTION', { queries, degree: 0 }, 'degree is 0'],
    ['ERR_OPTION', { queries, degree: 257 }, 'degree is 257'],
    ['ERR_OPTION', { queries, degree: 2.5 }, 'degree is 2.5'],
    ['ERR_OPTION', { queries, effort: 0 }, 'effort is 0'],
    ['ERR_OPTION', { queries, effort: 2 ** 40 }, 'effort is'],
    ['ERR_OPTION', { queries, effort: '5' }, "effort is '5'"],
    ['ERR_OPTION', { queries, probe: 0.5 }, "probe is an option of 'pages' and 'clusters', not of 'graph'"],
    ['ERR_OPTION', { queries, pageSize: 8 }, "pageSize is an option of 'pages', not of 'graph'"],
    ['ERR_OPTION', { method: 'scan', effort: 5 }, "effort is an option of 'graph', not of 'scan'"],
    ['ERR_OPTION', { degree: 5, method: undefined }, "degree is an option of 'graph', not of 'scan'"],
  ])('%s: %o', (wanted, options, text) => {
    const make = () => new KvIndex(cache, { method: 'graph', ...options } as never);
    expect(make).toThrow(text);
    expect(code(make)).toBe(wanted);
  });

  it('is out of memory before anything is enqueued', async () => {
    // Lists of the best keys of each sample query and sequence: 3 TB.
    const many = Tensor.zeros([1, 4_000_000, 1, 1]);
    using wide = new KvCache({ batch: 1024, kvHeads: 1, headDim: 1, capacity: 1100, pageSize: 16 });
    const lengths = Array.from({ length: 1024 }, (_, b) => (b === 5 ? 1100 : 1));
    const k = tensorOf(normal(uniform(1), 'float32', [1024, 1100, 1, 1]));
    wide.append(k, k, { lengths });
    const q = tensorOf(normal(uniform(2), 'float32', [1024, 1, 1, 1]));
    using index = new KvIndex(wide, { method: 'graph', queries: many });
    const held = index.bytes;
    for (let i = 0; i < 3; i++) expect(code(() => index.search(q, 2))).toBe('ERR_OUT_OF_MEMORY');
    expect(index.bytes).toBe(held);
    using scan = new KvIndex(wide);
    using small = new KvIndex(wide, { method: 'graph', queries: Tensor.zeros([1, 1, 1, 1]), effort: 1099 });
    expect(await search(small, q, 2)).toEqual(await search(scan, q, 2));
  });

  it('refuses calls that it cannot serve', () => {
    using index = new KvIndex(cache, { method: 'graph', queries });
    const q = Tensor.zeros([2, 1, 4, 8]);
    const refused: [string, () => unknown][] = [
      ['ERR_OPTION', () => index.search(q, 0)],
      ['ERR_SHAPE', () => index.search(Tensor.zeros([2, 2, 4, 8]), 3)],
      ['ERR_DTYPE', () => index.search(q.to('float16'), 3)],
      ['ERR_OPTION', () => index.attend(q, { topK: 3, estimate: true })],
    ];
    for (const [wanted, run] of refused) expect([wanted, code(run)]).toEqual([wanted, wanted]);
  });
});
