// KvIndex: clusters, and estimates of what is not retrieved, against their definition in float64 on keys whose clusters
// are known; what must hold of any keys; and memory that is not there.
import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { attention, KvCache, KvIndex, type KvIndexOptions, Stream, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { expectResult, tensorOf } from './support/library';
import { decode, type Float, normal, uniform, type Values } from './support/numbers';
import { sanitized } from './support/sanitizer';
import { expectExact, scoresOf, structured } from './support/searches';
import { expected } from './support/tolerance';

const SEGMENT = 1024;
const FLOATS: Float[] = ['float32', 'float16', 'bfloat16'];

const rowsOf = ({ data, shape }: Values, rows: readonly number[]): Values => ({
  shape: [1, rows.length, 1, shape[3]!],
  data: Float64Array.from(rows.flatMap((row) => [...data.subarray(row * shape[3]!, (row + 1) * shape[3]!)])),
});

/**
 * Whole numbers up to 127 in magnitude, which one element of each row has: so all dtypes hold them, int8 too. Tokens of a
 * segment belong to `clusters` directions, in random order but for those that k-means starts from, each with as many
 * others around it that are `spread` steps away at most.
 */
function planted(random: () => number, segments: number, clusters: number, D: number, spread: number) {
  const size = SEGMENT / clusters;
  const length = segments * SEGMENT;
  const k: Values = { shape: [1, length, 1, D], data: new Float64Array(length * D) };
  const groups: number[][] = [];
  for (let s = 0; s < segments; s++) {
    const own = Array.from({ length: clusters }, (_, c) => [Math.floor(((2 * c + 1) * size) / 2)]);
    const rest = Array.from({ length: SEGMENT }, (_, t) => t).filter((t) => !own.some(([first]) => first === t));
    for (let i = rest.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [rest[i], rest[j]] = [rest[j]!, rest[i]!];
    }
    for (const [i, t] of rest.entries()) own[i % clusters]!.push(t);
    for (const tokens of own) {
      const direction = normal(random, 'float32', [D]).data;
      const most = direction.reduce((top, x, d) => (Math.abs(x) > Math.abs(direction[top]!) ? d : top), 0);
      for (const t of tokens) {
        for (let d = 0; d < D; d++) {
          const about = (direction[d]! * 127) / Math.abs(direction[most]!) + (2 * random() - 1) * spread;
          const near = Math.max(-126, Math.min(126, Math.round(about)));
          k.data[(s * SEGMENT + t) * D + d] = d === most ? 127 * Math.sign(direction[d]!) : near;
        }
      }
      groups.push(tokens.map((t) => s * SEGMENT + t));
    }
  }
  return { k, groups };
}

/** Whole numbers that all dtypes hold, int8 too. */
function wholes(random: () => number, length: number, D: number): Values {
  const values: Values = { shape: [1, length, 1, D], data: new Float64Array(length * D) };
  for (let i = 0; i < values.data.length; i++) {
    values.data[i] = i % D === 0 ? 127 * Math.sign(random() - 0.5) : Math.round((2 * random() - 1) * 100);
  }
  return values;
}

const concat = (...all: Values[]): Values => ({
  shape: [1, all.reduce((sum, { shape }) => sum + shape[1]!, 0), 1, all[0]!.shape[3]!],
  data: Float64Array.from(all.flatMap(({ data }) => [...data])),
});

interface Wanted {
  topK: number;
  sink: number;
  window: number;
}

/** By definition: what a query attends to, groups of which it sees no key as their mean. */
function estimated(q: Values, k: Values, v: Values, groups: number[][], { topK, sink, window }: Wanted, scale: number) {
  const length = k.shape[1]!;
  const D = k.shape[3]!;
  const scores = Array.from({ length }, (_, key) => {
    let sum = 0;
    for (let d = 0; d < D; d++) sum += q.data[d]! * k.data[key * D + d]!;
    return sum;
  });
  const keys = scores.map((_, key) => key);
  const others = keys.filter((key) => key >= sink && key < length - window);
  const chosen = others.sort((a, b) => scores[b]! - scores[a]! || a - b).slice(0, topK);
  const seen = new Set([...keys.filter((key) => key < sink || key >= length - window), ...chosen]);
  const left = groups.filter((group) => !group.some((key) => seen.has(key)));
  const hidden = new Set(left.flat());
  const all = keys.filter((key) => !hidden.has(key));
  const mean = (of: Values): Values => {
    const columns = of.shape[3]!;
    const means = left.map((group) =>
      Array.from({ length: columns }, (_, d) =>
        Math.fround(group.reduce((sum, key) => sum + of.data[key * columns + d]!, 0) / group.length),
      ),
    );
    return { shape: [1, left.length, 1, columns], data: Float64Array.from(means.flat()) };
  };
  const keyBias: Values = {
    shape: [all.length + left.length],
    data: Float64Array.from([...all.map(() => 0), ...left.map((group) => Math.log(group.length))]),
  };
  const problem = { q, k: concat(rowsOf(k, all), mean(k)), v: concat(rowsOf(v, all), mean(v)), keyBias, scale };
  return { problem, left: left.length };
}

const headOf = (q: Values, head: number): Values => {
  const D = q.shape[3]!;
  return { shape: [1, 1, 1, D], data: q.data.slice(head * D, (head + 1) * D) };
};

/** Of each head. */
async function results({ out, lse }: { out: Tensor; lse: Tensor }, dtype: Float) {
  const [outs, lses] = [decode(dtype, await out.read()), decode('float32', await lse.read())];
  const columns = outs.length / lses.length;
  return Array.from(lses, (_, head) => ({
    out: outs.slice(head * columns, (head + 1) * columns),
    lse: lses.slice(head, head + 1),
  }));
}

const pagesOf = (covered: number, size: number): number[][] =>
  Array.from({ length: covered / size }, (_, page) => Array.from({ length: size }, (_, i) => page * size + i));

describe('KvIndex: estimates', () => {
  const settings: Wanted[] = [
    { topK: 1, sink: 0, window: 0 },
    { topK: 20, sink: 5, window: 0 },
    { topK: 3, sink: 1030, window: 0 },
  ];
  const windows: Wanted[] = [
    { topK: 7, sink: 4, window: 64 },
    { topK: 2, sink: 3, window: 700 },
    { topK: 5, sink: 1500, window: 900 },
    { topK: 5, sink: 0, window: 3000 },
  ];

  it.each(
    FLOATS.flatMap((dtype) => [undefined, 'int8' as const].map((storage) => ({ dtype, storage }))).flatMap((held) => [
      { ...held, options: { method: 'pages', pageSize: 8 } as KvIndexOptions },
      { ...held, options: { method: 'pages', pageSize: 64, summary: 'bounds' } as KvIndexOptions },
      { ...held, options: { method: 'clusters', clusterSize: 16 } as KvIndexOptions },
      { ...held, options: { method: 'clusters', clusterSize: 64 } as KvIndexOptions },
    ]),
  )('$dtype as $storage by $options: what is not seen counts by its means, and all once', async (one) => {
    const { dtype, storage, options } = one;
    const random = uniform(71);
    const [D, valueDim, scale, heads] = [24, 9, 2 ** -10, 3];
    const clusters = SEGMENT / (options.clusterSize ?? 64);
    const { k: covered, groups } = planted(random, 2, clusters, D, 4);
    const rest = wholes(random, 300, D);
    const k = concat(covered, rest);
    const length = k.shape[1]!;
    const v = wholes(random, length, valueDim);
    const q = normal(random, 'float32', [1, 1, heads, D]);
    q.data.forEach((x, i) => {
      q.data[i] = Math.round(6 * x);
    });
    const sizes = { batch: 1, kvHeads: 1, headDim: D, valueDim, capacity: 4000, dtype, pageSize: 48 };
    using cache = new KvCache({ ...sizes, ...(storage && { storage }) });
    cache.append(tensorOf(k, dtype), tensorOf(v, dtype));
    using index = new KvIndex(cache, { ...options, probe: 1 });
    const rows = options.method === 'pages' ? pagesOf(2 * SEGMENT, options.pageSize!) : groups;
    // Parts are rounded to half types before they are merged, which the oracle does not do.
    for (const wanted of dtype === 'float32' ? [...settings, ...windows] : settings) {
      const got = await results(index.attend(tensorOf(q, dtype), { ...wanted, scale, estimate: true }), dtype);
      for (let head = 0; head < heads; head++) {
        const { problem, left } = estimated(headOf(q, head), k, v, rows, wanted, scale);
        expect(left > 0).toBe(wanted.sink + wanted.window < 2000);
        expectResult(got[head]!, expected(problem, dtype));
      }
    }
  });

  it('finds clusters that are there: of equal keys an estimate is exact', async () => {
    const random = uniform(72);
    for (const [clusterSize, storage, dtype] of [
      [16, undefined, 'float32'],
      [4, undefined, 'bfloat16'],
      [64, 'int8', 'float16'],
    ] as const) {
      const { k } = planted(random, 2, SEGMENT / clusterSize, 32, 0);
      const v = wholes(random, k.shape[1]!, 5);
      const q = normal(random, dtype, [1, 1, 4, 32]);
      const sizes = { batch: 1, kvHeads: 1, headDim: 32, valueDim: 5, capacity: 4000, dtype };
      using cache = new KvCache({ ...sizes, ...(storage && { storage }) });
      cache.append(tensorOf(k, dtype), tensorOf(v, dtype));
      using index = new KvIndex(cache, { method: 'clusters', clusterSize, probe: 0.01 });
      const scale = 2 ** -7;
      const result = index.attend(tensorOf(q, dtype), { topK: 3, sink: 2, window: 0, scale, estimate: true });
      const got = await results(result, dtype);
      for (const [head, one] of got.entries()) {
        expectResult(one, expected({ q: headOf(q, head), k, v, scale }, dtype));
      }
      expect(await result.touched).toBeLessThan(0.4);
    }
  });

  it('never says more than there is, nor less than what is retrieved', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          length: fc.integer({ min: 1, max: 4000 }),
          D: fc.integer({ min: 1, max: 40 }),
          options: fc.constantFrom<KvIndexOptions>(
            { method: 'pages' },
            { method: 'pages', pageSize: 2, probe: 0.5 },
            { method: 'pages', summary: 'bounds', pageSize: 32 },
            { method: 'clusters' },
            { method: 'clusters', clusterSize: 4, probe: 0.01 },
            { method: 'clusters', clusterSize: 64 },
          ),
          topK: fc.integer({ min: 1, max: 200 }),
          sink: fc.integer({ min: 0, max: 100 }),
          window: fc.integer({ min: 0, max: 1200 }),
          size: fc.constantFrom(0, 0.01, 1, 4),
          seed: fc.nat(),
        }),
        async ({ length, D, options, topK, sink, window, size, seed }) => {
          const random = uniform(seed);
          const k = normal(random, 'float32', [1, length, 1, D]);
          const v = normal(random, 'float32', [1, length, 1, 3]);
          const q = normal(random, 'float32', [1, 1, 2, D]);
          q.data.forEach((x, i) => {
            q.data[i] = Math.fround(size * x);
          });
          using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, valueDim: 3, capacity: 4000 });
          cache.append(tensorOf(k), tensorOf(v));
          using index = new KvIndex(cache, options);
          const [few, most] = await Promise.all(
            [false, true].map((estimate) =>
              results(index.attend(tensorOf(q), { topK, sink, window, estimate }), 'float32'),
            ),
          );
          for (const head of [0, 1]) {
            const want = expected({ q: headOf(q, head), k, v }, 'float32');
            const slack = want.tolerance.lse + scoresOf(q, k, 0, head, length).off;
            expect(most![head]!.lse[0]).toBeLessThanOrEqual(want.lse[0]! + slack);
            expect(most![head]!.lse[0]).toBeGreaterThanOrEqual(few![head]!.lse[0]! - slack);
            // All keys count, so that none has more than its weight and the size of scores allows.
            if (size === 0) expectResult(most![head]!, want);
          }
        },
      ),
      { numRuns: sanitized ? 10 : 60, seed: 11 },
    );
  });

  it('is nearer to attention over all keys than what is retrieved alone', async () => {
    const { q, k } = structured(uniform(25), 8000, 8, 1);
    const v = normal(uniform(26), 'float32', [1, 8000, 1, 16]);
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, valueDim: 16, capacity: 8000 });
    cache.append(tensorOf(k), tensorOf(v));
    const query = tensorOf(q);
    const all = await results(attention(query, cache), 'float32');
    for (const method of ['pages', 'clusters'] as const) {
      using index = new KvIndex(cache, { method });
      const errors = await Promise.all(
        [false, true].map(async (estimate) => {
          const some = await results(index.attend(query, { topK: 64, estimate }), 'float32');
          let apart = 0;
          for (const [head, { out }] of some.entries()) {
            for (const [d, x] of out.entries()) apart += (x - all[head]!.out[d]!) ** 2;
          }
          return Math.sqrt(apart);
        }),
      );
      expect(errors[1]).toBeLessThan(errors[0]!);
    }
  });

  it('takes memory once it is asked for, and works while things are disposed of', async () => {
    const random = uniform(28);
    const cache = new KvCache({ batch: 1, kvHeads: 2, headDim: 16, valueDim: 8, capacity: 1 << 20 });
    const k = normal(random, 'float32', [1, 5000, 2, 16]);
    const v = normal(random, 'float32', [1, 5000, 2, 8]);
    cache.append(tensorOf(k), tensorOf(v));
    const q = tensorOf(normal(random, 'float32', [1, 1, 4, 16]));
    using stream = new Stream();
    const index = new KvIndex(cache, { method: 'clusters' });
    const first = index.attend(q, { topK: 10 });
    const { bytes } = index;
    const second = index.attend(q, { topK: 10, estimate: true, stream });
    // Of each cluster of 8 a float32 key and value, in slabs of at least a MiB
    const segment = 128 * 24 * 4 * 2;
    expect(index.bytes - bytes).toBe(Math.floor(2 ** 20 / segment) * segment);
    const third = index.attend(q, { topK: 5000, estimate: true, stream });
    const dense = attention(q, cache);
    index.dispose();
    cache.dispose();
    const [want, got] = [await results(dense, 'float32'), await results(third, 'float32')];
    for (const [head, { lse }] of got.entries()) expect(Math.abs(lse[0]! - want[head]!.lse[0]!)).toBeLessThan(1e-5);
    expect((await results(second, 'float32')).every(({ lse }, head) => lse[0]! < want[head]!.lse[0]! + 1e-5)).toBe(
      true,
    );
    expect(await first.touched).toBeLessThan(1);
  });
});

const sizesOf = fc.record({
  batch: fc.integer({ min: 1, max: 2 }),
  kvHeads: fc.integer({ min: 1, max: 2 }),
  group: fc.integer({ min: 1, max: 5 }),
  headDim: fc.integer({ min: 1, max: 70 }),
  pageSize: fc.constantFrom(3, 16, 1000),
  dtype: fc.constantFrom(...FLOATS),
  storage: fc.constantFrom(undefined, 'int8' as const),
  clusterSize: fc.constantFrom(4, 8, 16, 32, 64),
});

describe('KvIndex: clusters', () => {
  it('finds the best keys of those it looks at, and all are all of them', async () => {
    const random = uniform(22);
    const { q, k } = structured(random, 8000, 4, 1);
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 8000 });
    cache.append(tensorOf(k), tensorOf(k));
    using all = new KvIndex(cache, { method: 'clusters', probe: 1 });
    await expectExact(all, q, k, [8000], 50);
    using index = new KvIndex(cache, { method: 'clusters' });
    const tensor = tensorOf(q);
    const [some, exact] = [index, all].map((one) => one.search(tensor, 50).ids.read() as Promise<Int32Array>);
    const wanted = new Set((await exact!).map((key, i) => key + 8000 * Math.floor(i / 50)));
    const found = (await some!).filter((key, i) => wanted.has(key + 8000 * Math.floor(i / 50))).length;
    expect(found / 200).toBeGreaterThan(0.5); // no random 6 %
  });

  it('follows what is appended, truncated and forked: like an index made afterwards', async () => {
    await fc.assert(
      fc.asyncProperty(
        sizesOf,
        fc.nat(),
        fc.array(fc.tuple(fc.constantFrom('append', 'append', 'truncate', 'fork', 'ask'), fc.nat()), { maxLength: 8 }),
        async ({ batch, kvHeads, group, headDim, pageSize, dtype, storage, clusterSize }, seed, steps) => {
          const random = uniform(seed);
          const capacity = 4000;
          const sizes = { batch, kvHeads, headDim, valueDim: 2, pageSize, capacity, dtype };
          const options = { method: 'clusters', clusterSize, probe: 0.1 } as const;
          let cache = new KvCache({ ...sizes, ...(storage && { storage }) });
          let index = new KvIndex(cache, options);
          const streams = [undefined, new Stream(), new Stream()];
          for (const [step, pick] of [...steps, ['ask', 0], ['ask', 1]] as const) {
            const on = streams[pick % streams.length];
            const stream = on && { stream: on };
            if (step === 'append') {
              const lengths = cache.lengths.map((length) => Math.floor(random() * Math.min(1800, capacity - length)));
              const n = Math.max(...lengths);
              const k = tensorOf(normal(random, dtype, [batch, n, kvHeads, headDim]), dtype);
              const v = tensorOf(normal(random, dtype, [batch, n, kvHeads, 2]), dtype);
              cache.append(k, v, { lengths, ...stream });
            } else if (step === 'truncate') {
              cache.truncate(cache.lengths.map((length) => Math.floor(random() * (length + 1))));
            } else if (step === 'fork') {
              const fork = cache.fork();
              // Either goes on.
              if (pick % 2 === 0) {
                fork.dispose();
              } else {
                index.dispose();
                cache.dispose();
                cache = fork;
                index = new KvIndex(cache, options);
              }
            } else {
              using fresh = new KvIndex(cache, options);
              const q = tensorOf(normal(random, dtype, [batch, 1, kvHeads * group, headDim]), dtype);
              const ask = async (one: KvIndex) => {
                const { ids, scores } = one.search(q, 1 + (pick % 50), { ...stream });
                const attend = { topK: 5, sink: pick % 9, window: 0, estimate: pick % 2 === 0 };
                const { out, lse, touched } = one.attend(q, { ...attend, ...stream });
                const tensors = await Promise.all([ids, scores, out, lse].map((tensor) => tensor.read()));
                return [...tensors.map((array) => [...(array as Float32Array)]), await touched];
              };
              expect(await ask(index)).toEqual(await ask(fresh));
            }
          }
          for (const each of [index, cache, ...streams]) each?.dispose();
        },
      ),
      { numRuns: sanitized ? 6 : 40, seed: 9 },
    );
  });

  it('moves centroids until clusters are those that there are, where single keys are far from their middle', async () => {
    // Keys of a cluster have a cosine of 1 / 5.8 with each other, but 1 / 2.4 with their middle; others are random, of 1 / 16.
    const [random, D, clusters] = [uniform(33), 256, 16];
    const directions = normal(random, 'float32', [clusters, D]).data;
    const noise = normal(random, 'float32', [SEGMENT, D]).data;
    const groups: number[][] = Array.from({ length: clusters }, () => []);
    const k: Values = { shape: [1, SEGMENT, 1, D], data: new Float64Array(SEGMENT * D) };
    for (let t = 0; t < SEGMENT; t++) {
      const group = t % 64 === 32 ? (t - 32) / 64 : Math.floor(random() * clusters);
      groups[group]!.push(t);
      for (let d = 0; d < D; d++) {
        k.data[t * D + d] = Math.fround(directions[group * D + d]! + 2.2 * noise[t * D + d]!);
      }
    }
    const v = normal(random, 'float32', [1, SEGMENT, 1, 4]);
    const q = normal(random, 'float32', [1, 1, 2, D]);
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, valueDim: 4, capacity: SEGMENT });
    cache.append(tensorOf(k), tensorOf(v));
    using index = new KvIndex(cache, { method: 'clusters', clusterSize: 64, probe: 1 });
    const wanted = { topK: 2, sink: 0, window: 0 };
    const got = await results(index.attend(tensorOf(q), { ...wanted, estimate: true }), 'float32');
    for (const head of [0, 1]) {
      const { problem, left } = estimated(headOf(q, head), k, v, groups, wanted, 1 / 16);
      expect(left).toBeGreaterThan(10);
      expectResult(got[head]!, expected(problem, 'float32'));
    }
  });

  it('says exactly what it touches', async () => {
    const { k } = planted(uniform(30), 4, 64, 32, 0);
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 32, capacity: 5000 });
    cache.append(tensorOf(k), tensorOf(k));
    const q = tensorOf(normal(uniform(31), 'float32', [1, 1, 1, 32]));
    using index = new KvIndex(cache, { method: 'clusters', clusterSize: 16, probe: 0.25 });
    expect(await index.attend(q, { topK: 1, sink: 0, window: 0 }).touched).toBe(0.25); // 64 of 256 clusters of 16
    expect(await index.attend(q, { topK: 4096, sink: 0, window: 0 }).touched).toBe(1);
    // Clusters that are too small for as many keys as are wanted are looked into all the same.
    using few = new KvIndex(cache, { method: 'clusters', clusterSize: 16, probe: 1 / 256 });
    expect(await few.attend(q, { topK: 40, sink: 0, window: 0 }).touched).toBe(48 / 4096);
  });

  it('finds as many keys as are wanted, of equal keys and where sink and window leave little', async () => {
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 4, capacity: 3000 });
    for (const equal of [true, false]) {
      cache.truncate(0);
      const data = equal ? new Float32Array(3000 * 4) : Float32Array.from(normal(uniform(1), 'float32', [12000]).data);
      const tokens = Tensor.from(data, [1, 3000, 1, 4]);
      cache.append(tokens, tokens);
      using index = new KvIndex(cache, { method: 'clusters', clusterSize: 4, probe: 1e-9 });
      const q = Tensor.zeros([1, 1, 1, 4]);
      for (const [topK, sink, window] of [
        [8, 7, 0],
        [200, 7, 1001],
        [9, 1023, 5],
        [2900, 15, 8],
      ] as const) {
        const { ids } = index.search(q, topK);
        const found = (await ids.read()) as Int32Array;
        expect(new Set(found).size).toBe(topK);
        expect(found.every((id) => id >= 0 && id < 3000)).toBe(true);
        // All weights are 1.
        const { lse } = index.attend(q, { topK, sink, window });
        expect(Math.round(Math.exp(Number((await lse.read())[0])))).toBe(topK + sink + window);
        const all = index.attend(q, { topK, sink, window, estimate: true });
        expect(Math.round(Math.exp(Number((await all.lse.read())[0])))).toBe(3000);
      }
    }
  });

  it('looks at clusters of which it cannot say what they hold, and stands keys of any size', async () => {
    const k = normal(uniform(13), 'float32', [1, 2048, 1, 4]);
    k.data[4 * 1500] = Number.POSITIVE_INFINITY;
    k.data[4 * 700 + 1] = Number.NaN;
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 4, capacity: 2048 });
    cache.append(tensorOf(k), tensorOf(k));
    using index = new KvIndex(cache, { method: 'clusters', probe: 0.02 });
    const q = Tensor.from(Float32Array.of(1, 0, 0, 0), [1, 1, 1, 4]);
    const { ids } = index.search(q, 1);
    expect([...(await ids.read())]).toEqual([1500]);
    const { out, lse } = index.attend(q, { topK: 1, sink: 0, window: 0, estimate: true });
    expect((await out.read()).length + (await lse.read()).length).toBe(5);
    for (const [size, own] of [
      [3e38, 0.5],
      [1e-38, 1e37],
      [1e-44, 1e38],
    ] as const) {
      cache.truncate(0);
      const keys = normal(uniform(14), 'float32', [1, 2048, 1, 4]);
      keys.data.forEach((x, i) => {
        keys.data[i] = Math.fround(size * Math.max(-1, Math.min(1, x)));
      });
      cache.append(tensorOf(keys), tensorOf(keys));
      using all = new KvIndex(cache, { method: 'clusters', probe: 1 });
      const query = Float64Array.of(1, -1, 0.5, 0.25).map((x) => Math.fround(own * x));
      await expectExact(all, { shape: [1, 1, 1, 4], data: query }, keys, [2048], 1000);
    }
  });

  it('finds needles wherever they lie among a million keys', { timeout: 120_000 }, async () => {
    const D = 32;
    const length = sanitized ? 1 << 15 : 1 << 20;
    const random = uniform(43);
    const places = Array.from({ length: 16 }, () => Math.floor(random() * length)).concat(0, length - 1, SEGMENT - 1);
    const needles = normal(random, 'float32', [places.length, D]).data.map((x) => Math.fround(3 * x));
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, valueDim: 1, capacity: length });
    let seed = 0;
    while (cache.length < length) {
      const at = places.indexOf(cache.length);
      const next = Math.min(length, ...places.filter((place) => place > cache.length));
      const n = at >= 0 ? 1 : Math.min(next - cache.length, 1 << 16);
      const own = Float32Array.from(needles.subarray(at * D, (at + 1) * D));
      using k = at >= 0 ? Tensor.from(own, [1, 1, 1, D]) : Tensor.randn([1, n, 1, D], { seed: seed++ });
      using v = Tensor.zeros([1, n, 1, 1]);
      cache.append(k, v);
    }
    using index = new KvIndex(cache, { method: 'clusters' });
    const q = Tensor.from(Float32Array.from(needles), [1, 1, places.length, D]);
    const found = (await index.search(q, 5).ids.read()) as Int32Array;
    expect(places.map((_, head) => found[head * 5])).toEqual(places);
  });
});

it('ends with a worker, at any moment of its work', async () => {
  for (let round = 0; round < 3; round++) {
    const workers = [0, 1].map(
      () => new Worker(path.join(__dirname, 'fixtures', 'worker.cjs'), { workerData: { mode: 'retrieve' } }),
    );
    await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))));
    await new Promise((resolve) => setTimeout(resolve, 60 * round));
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
  using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 4, capacity: 10 });
  const tokens = Tensor.zeros([1, 10, 1, 4]);
  cache.append(tokens, tokens);
  using index = new KvIndex(cache, { method: 'clusters' });
  expect((await index.search(Tensor.zeros([1, 1, 1, 4]), 1).ids.read())[0]).toBe(0); // the pool still serves
});

describe('memory', () => {
  it('of what is found is refused when it is not there, and of searching follows from the keys', async () => {
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 8, capacity: 5000 });
    const tokens = tensorOf(normal(uniform(3), 'float32', [1, 5000, 1, 8]));
    cache.append(tokens, tokens);
    for (const method of ['scan', 'pages', 'clusters'] as const) {
      using index = new KvIndex(cache, { method });
      const many = Tensor.zeros([1, 1, 4096, 8]);
      const huge = () => index.search(many, 2 ** 30); // 16 TiB of ids
      expect(huge).toThrow(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }));
      const q = Tensor.zeros([1, 1, 1, 8]);
      const { ids, scores } = index.search(q, 2 ** 20);
      const found = (await ids.read()) as Int32Array;
      expect(found.subarray(0, 5000)).toEqual(Int32Array.from({ length: 5000 }, (_, i) => i));
      expect(found.subarray(5000).every((id) => id === -1)).toBe(true);
      expect(((await scores.read()) as Float32Array).subarray(5000).every((score) => score === -Infinity)).toBe(true);
      // Attention to as many keys takes nothing of that size.
      expect(await index.attend(q, { topK: 2 ** 30 }).touched).toBe(1);
    }
  });

  it('of a search is refused by the call, and nothing is lost', async () => {
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 20_000 });
    const tokens = tensorOf(normal(uniform(3), 'float32', [1, 20_000, 1, 64]));
    cache.append(tokens, tokens);
    const heads = 1021;
    const q = tensorOf(normal(uniform(4), 'float32', [1, 1, heads, 64]));
    for (const method of ['scan', 'pages', 'clusters'] as const) {
      using index = new KvIndex(cache, { method });
      await index.search(Tensor.zeros([1, 1, 1, 64]), 1).ids.read(); // makes the index
      // All memory is promised, though not touched, but for what ids, scores and what is touched take.
      const spare = [heads * 100, heads * 100, 2].map((words) => Tensor.zeros([words], { dtype: 'int32' }));
      const held: Tensor[] = [];
      for (let size = 2 ** 44; size >= 2 ** 16; ) {
        try {
          held.push(Tensor.zeros([size], { dtype: 'uint8' }));
        } catch {
          size -= 2 ** (Math.ceil(Math.log2(size)) - 3); // the next of the pool's sizes, four to a doubling
        }
      }
      for (const tensor of spare) tensor.dispose();
      const refused = () => index.search(q, 100);
      expect(refused).toThrow(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }));
      expect(refused).toThrow(/cannot allocate .* MiB/); // more than a result
      for (const tensor of held) tensor.dispose();
      const [few, many] = await Promise.all([1, 100].map((topK) => index.search(q, topK).ids.read()));
      for (let head = 0; head < heads; head++) expect(many![head * 100]).toBe(few![head]);
    }
  });
});
