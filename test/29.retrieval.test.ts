// KvIndex: what is found against a plain sort of float64 scores, under appends, truncations and hostile values.
import fc from 'fast-check';
import { attention, KvCache, KvIndex, type KvIndexOptions, Stream, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { itAgrees } from './support/instruction-sets';
import { expectResult, tensorOf } from './support/library';
import { decode, type Float, normal, roundoff, uniform, type Values } from './support/numbers';
import { code } from './support/refusal';
import { expectBest, expectExact, heldKeys, scoresOf, structured } from './support/searches';
import { expected } from './support/tolerance';
import { change, emptyTwin, join, rowsOf, type Twin } from './support/twin';

const FLOATS: Float[] = ['float32', 'float16', 'bfloat16'];
type Storage = 'int8' | undefined;

const largest = ({ data }: Values) => data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);

itAgrees('finds the best keys, and attends to them and to int8 pages, by the oracle', 'retrieve', 8, 7);

const sizesOf = fc.record({
  batch: fc.integer({ min: 1, max: 2 }),
  kvHeads: fc.integer({ min: 1, max: 2 }),
  group: fc.integer({ min: 1, max: 6 }),
  headDim: fc.integer({ min: 1, max: 70 }),
  pageSize: fc.constantFrom(3, 16, 64, 1000),
  dtype: fc.constantFrom(...FLOATS),
  storage: fc.constantFrom<Storage>(undefined, 'int8'),
});

describe('KvIndex: scan', () => {
  it('finds the best keys, whatever is appended and truncated', async () => {
    await fc.assert(
      fc.asyncProperty(
        sizesOf,
        fc.integer(),
        fc.array(fc.tuple(fc.constantFrom('append', 'append', 'truncate', 'search'), fc.nat()), { maxLength: 7 }),
        async ({ batch, kvHeads, group, headDim, pageSize, dtype, storage }, seed, steps) => {
          const random = uniform(seed);
          const capacity = 4000;
          using cache = new KvCache({
            batch,
            kvHeads,
            headDim,
            valueDim: 1,
            pageSize,
            capacity,
            dtype,
            ...(storage && { storage }),
          });
          using index = new KvIndex(cache);
          const streams = [undefined, new Stream(), new Stream()];
          for (const [step, pick] of [...steps, ['search', 0] as const]) {
            const stream = streams[pick % streams.length];
            if (step === 'append') {
              const lengths = cache.lengths.map((length) => Math.floor(random() * Math.min(1800, capacity - length)));
              const n = Math.max(...lengths);
              const k = tensorOf(normal(random, dtype, [batch, n, kvHeads, headDim]), dtype);
              const v = Tensor.zeros([batch, n, kvHeads, 1], { dtype });
              cache.append(k, v, { lengths, ...(stream && { stream }) });
            } else if (step === 'truncate') {
              cache.truncate(cache.lengths.map((length) => Math.floor(random() * (length + 1))));
            } else {
              const q = normal(random, dtype, [batch, 1, kvHeads * group, headDim]);
              const all = index.search(tensorOf(q, dtype), Math.max(1, cache.length), { ...(stream && { stream }) });
              const few = index.search(tensorOf(q, dtype), 1 + (pick % 50), { ...(stream && { stream }) });
              const [ids, scores] = [(await all.ids.read()) as Int32Array, (await all.scores.read()) as Float32Array];
              const [some, best] = [(await few.ids.read()) as Int32Array, (await few.scores.read()) as Float32Array];
              const [long, short] = [all.ids.shape[2]!, few.ids.shape[2]!];
              for (let row = 0; row < batch * kvHeads * group; row++) {
                // With as many as there are, all keys are scored themselves.
                const length = cache.lengths[Math.floor(row / (kvHeads * group))]!;
                const of = ids.subarray(row * long, row * long + length);
                expect([...of].sort((a, b) => a - b)).toEqual(Array.from({ length }, (_, i) => i));
                for (let i = 0; i < short; i++) {
                  const there = i < length;
                  expect(some[row * short + i]).toBe(there ? ids[row * long + i] : -1);
                  expect(best[row * short + i]).toBe(there ? scores[row * long + i] : -Infinity);
                }
              }
            }
          }
          for (const stream of streams) stream?.dispose();
        },
      ),
      { numRuns: 40, seed: 8 },
    );
  });

  it.each(FLOATS.flatMap((dtype) => [undefined, 'int8' as const].map((storage) => ({ dtype, storage }))))(
    '$dtype as $storage: scores are those of the definition',
    async ({ dtype, storage }) => {
      const random = uniform(31);
      const [length, sizes] = [2100, { batch: 1, kvHeads: 2, headDim: 19, capacity: 3000 }];
      using cache = new KvCache({ ...sizes, dtype, ...(storage && { storage }) });
      const k = normal(random, dtype, [1, length, 2, 19]);
      cache.append(tensorOf(k, dtype), tensorOf(k, dtype));
      using index = new KvIndex(cache);
      const held = await heldKeys(cache);
      if (!storage) expect(held.data).toEqual(k.data);
      const q = normal(random, dtype, [1, 1, 6, 19]);
      await expectExact(index, q, held, [length], 100);
    },
  );

  it('misses none where several tasks look through the keys of a head, and raise one threshold', async () => {
    const random = uniform(32);
    const [length, D] = [6244, 512]; // of which each segment of 1024 is a task
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, capacity: length });
    const k = normal(random, 'float32', [1, length, 1, D]);
    cache.append(tensorOf(k), tensorOf(k));
    using index = new KvIndex(cache);
    const q = normal(random, 'float32', [1, 1, 5, D]);
    for (const topK of [50, 300]) await expectExact(index, q, k, [length], topK);
  });

  it('misses none of structured keys either, nor of keys far from zero', async () => {
    const random = uniform(5);
    for (const far of [0, 1000]) {
      const { q, k } = structured(random, 6000, 4, 1);
      const moved = { ...k, data: k.data.map((x) => Math.fround(x + far)) };
      using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 6000 });
      cache.append(tensorOf(moved), tensorOf(moved));
      using index = new KvIndex(cache);
      await expectExact(index, q, moved, [6000], 100);
      expect(index.bytes).toBeLessThan(0.35 * cache.bytes); // a byte for each element of keys, and a slab in reserve
    }
  });

  it('finds what was appended at once, and forgets what was truncated', async () => {
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 8, capacity: 5000, pageSize: 16 });
    using index = new KvIndex(cache);
    const q = Tensor.from(new Float32Array(8).fill(1), [1, 1, 1, 8]);
    const best = async () => [...((await index.search(q, 1).ids.read()) as Int32Array)];
    const put = (size: number, n = 1) => {
      const tokens = Tensor.from(new Float32Array(8 * n).fill(size), [1, n, 1, 8]);
      cache.append(tokens, tokens);
    };
    expect(await best()).toEqual([-1]);
    put(1, 2500);
    expect(await best()).toEqual([0]); // ties go to the lower key
    put(2);
    expect(await best()).toEqual([2500]);
    put(3);
    expect(await best()).toEqual([2501]);
    cache.truncate(2501);
    expect(await best()).toEqual([2500]);
    cache.truncate(700); // before the end of a segment that was made
    put(2, 300);
    put(1, 1000);
    expect(await best()).toEqual([700]);
    cache.truncate(10);
    put(4, 2000);
    expect(await best()).toEqual([10]);
    using fork = cache.fork();
    using other = new KvIndex(fork);
    fork.truncate(5);
    expect([...((await other.search(q, 2).ids.read()) as Int32Array)]).toEqual([0, 1]);
    expect(await best()).toEqual([10]);
  });

  it.each(['scan', 'pages', 'clusters'] as const)('%s: a needle is found wherever it lies', async (method) => {
    const random = uniform(41);
    const length = 9000;
    const k = normal(random, 'float32', [1, length, 1, 32]);
    const needle = normal(random, 'float32', [32]).data.map((x) => Math.fround(3 * x));
    const q = Tensor.from(Float32Array.from([...needle, ...needle]), [1, 1, 2, 32]);
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 32, capacity: length });
    for (let i = 0; i < 24; i++) {
      const at = i === 0 ? 0 : i === 1 ? length - 1 : i === 2 ? 1023 : Math.floor(random() * length);
      const data = Float32Array.from(k.data);
      data.set(needle, at * 32);
      const tokens = Tensor.from(data, [1, length, 1, 32]);
      cache.truncate(0);
      cache.append(tokens, tokens);
      using index = new KvIndex(cache, { method });
      const found = (await index.search(q, 5).ids.read()) as Int32Array;
      expect([found[0], found[5]]).toEqual([at, at]);
    }
  });

  it('looks at what is no number, and at all that may be more than numbers can say', async () => {
    const random = uniform(3);
    const k = normal(random, 'float32', [1, 3000, 1, 4]);
    k.data[4 * 7] = Number.NaN;
    k.data[4 * 900 + 1] = Number.POSITIVE_INFINITY;
    k.data[4 * 2000 + 1] = -3e38;
    k.data[4 * 2001 + 1] = 3e38;
    k.data.fill(0, 4 * 1500, 4 * 1510);
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 4, capacity: 3000 });
    cache.append(tensorOf(k), tensorOf(k));
    using index = new KvIndex(cache);
    const search = async (...q: number[]) => {
      const { ids, scores } = index.search(Tensor.from(Float32Array.from(q), [1, 1, 1, 4]), 3, { scale: 1 });
      return { ids: [...((await ids.read()) as Int32Array)], scores: [...((await scores.read()) as Float32Array)] };
    };
    expect((await search(0, 1, 0, 0)).ids.slice(0, 2)).toEqual([900, 2001]);
    expect((await search(0, -1, 0, 0)).ids[0]).toBe(2000);
    expect((await search(0, 1e10, 0, 0)).scores.slice(0, 2)).toEqual([Infinity, Infinity]);
    expect((await search(Number.NaN, 0, 0, 0)).ids).toEqual([0, 1, 2]); // no score is a number: ties
    expect((await search(0, 0, 0, 0)).ids).toEqual([0, 1, 2]); // NaN and 0 times infinity come last
    const tiny = await search(1e-38, 0, 0, 0);
    expect(tiny.scores[0]).toBeGreaterThan(1e-38);
  });

  it.each([
    { size: 2e34, far: 5, topK: 700 }, // products with whole steps exceed float32 where scores do not
    { size: 1e-37, far: 0, topK: 100 }, // steps of 8 bits are below the least normal number
  ])('misses none of keys of the size of $size', async ({ size, far, topK }) => {
    const random = uniform(88);
    const shape = (values: Values, by: number): Values => ({
      ...values,
      data: values.data.map((x) => Math.fround(by * x)),
    });
    const [length, D] = [3 * 1024, 16];
    const k = normal(random, 'float32', [1, length, 1, D]);
    for (let t = 0; t < length; t++) k.data[t * D]! += t < 1024 ? far : -far;
    const keys = shape(k, size);
    const q = shape(normal(random, 'float32', [1, 1, 4, D]), 4 / size);
    for (let head = 0; head < 4; head++) q.data[head * D] = Math.fround((16 * Math.sign(random() - 0.5)) / size);
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, capacity: length });
    cache.append(tensorOf(keys), tensorOf(keys));
    using index = new KvIndex(cache);
    await expectExact(index, q, keys, [length], topK);
  });

  it.each([
    { unit: 1e-36, steps: 63, D: 64 }, // high bytes say nothing of 63 steps
    { unit: 1, steps: 63, D: 64 },
    { unit: 2e34, steps: 16256, D: 4 }, // steps times unit exceed float32 where scores do not
  ])('misses none by a query of $steps steps of $unit', async ({ unit, steps, D }) => {
    const random = uniform(90);
    const length = 4 * 1024;
    const k = normal(random, 'float32', [1, length, 1, D]);
    for (let t = 0; t < length; t++) {
      // The last segment lies so far ahead that even what is below its mean is among the best.
      k.data[t * D] = t < length - 1024 ? 0 : (5 * steps * Math.sqrt(D - 1)) / 16256;
      for (let d = 0; d < D; d++) k.data[t * D + d] = Math.fround(k.data[t * D + d]! / unit);
    }
    const q = normal(random, 'float32', [1, 1, 4, D]);
    q.data.forEach((x, i) => {
      q.data[i] = Math.fround(unit * (i % D === 0 ? 16256 : steps * Math.sign(x)));
    });
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, capacity: length });
    cache.append(tensorOf(k), tensorOf(k));
    using index = new KvIndex(cache);
    for (const topK of [100, 700]) await expectExact(index, q, k, [length], topK);
  });

  it('misses none that rounding makes look worse than others, which it makes look better', async () => {
    const random = uniform(92);
    const [segments, D] = [4, 65];
    const signs = Array.from({ length: D }, (_, d) => (d === 0 ? 0 : random() < 0.5 ? -1 : 1));
    const k = { shape: [1, segments * 1024, 1, D], data: new Float64Array(segments * 1024 * D) };
    for (let t = 0; t < segments * 1024; t += 2) {
      const special = t % 64 === 0; // 16 in each segment, in the last the best ones
      for (let d = 0; d < D; d++) {
        // Of a pair the mean is 0, and a unit is 1, since the first element is 127. Rounding takes 0.49 from all of those
        // that are best, and gives 0.49 to three of four elements of the others.
        const best = t >= (segments - 1) * 1024 ? 2.49 : d % 4 === 0 ? 2 : 2.51;
        const x = d === 0 ? 127 : Math.fround((special ? best : 1) * signs[d]!);
        k.data[t * D + d] = x;
        k.data[(t + 1) * D + d] = -x;
      }
    }
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, capacity: segments * 1024 });
    cache.append(tensorOf(k), tensorOf(k));
    using index = new KvIndex(cache);
    const q = { shape: [1, 1, 4, D], data: Float64Array.from({ length: 4 * D }, (_, i) => signs[i % D]!) };
    await expectExact(index, q, k, [segments * 1024], 16);
  });

  it('misses none of many that are as good as each other, among others that are better', async () => {
    const random = uniform(91);
    const [length, D] = [9 * 1024, 8];
    const k = normal(random, 'float32', [1, length, 1, D]);
    for (let t = 0; t < length; t++) {
      const row = t % 3 === 0 ? t : 2; // a third differ, the rest are all the same
      for (let d = 0; d < D; d++) k.data[t * D + d] = k.data[row * D + d]!;
    }
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, capacity: length });
    cache.append(tensorOf(k), tensorOf(k));
    using index = new KvIndex(cache);
    const q = normal(random, 'float32', [1, 1, 8, D]);
    for (const topK of [1, 40, 700]) {
      await expectExact(index, q, k, [length], topK);
      const { ids, scores } = index.search(tensorOf(q), topK);
      const [found, best] = [(await ids.read()) as Int32Array, (await scores.read()) as Float32Array];
      for (let i = 0; i < found.length; i++) {
        if (i % topK > 0 && best[i] === best[i - 1]) expect(found[i]).toBeGreaterThan(found[i - 1]!);
      }
    }
  });

  it('serves streams side by side', async () => {
    const random = uniform(77);
    const { q, k } = structured(random, 5000, 4, 2);
    using cache = new KvCache({ batch: 1, kvHeads: 2, headDim: 64, capacity: 5000 });
    using index = new KvIndex(cache);
    const streams = Array.from({ length: 4 }, () => new Stream());
    const tensor = tensorOf(k);
    const done: Promise<void>[] = [];
    for (let at = 0; at < 5000; at += 500) {
      const part = tensor.slice([0, 1], [at, at + 500], [0, 2], [0, 64]);
      cache.append(part, part, { stream: streams[(at / 500) % 4]! });
      done.push(expectExact(index, q, k, [at + 500], 20, streams[(at / 500 + 1) % 4]));
      if (at === 3000) cache.truncate(2900);
      if (at === 3000) {
        const again = tensor.slice([0, 1], [2900, 3500], [0, 2], [0, 64]);
        cache.append(again, again, { stream: streams[3]! });
      }
    }
    await Promise.all(done);
    for (const stream of streams) stream.dispose();
  });
});

describe('KvIndex: attend', () => {
  it.each([
    { method: 'scan', dtype: 'float32', storage: undefined },
    { method: 'scan', dtype: 'bfloat16', storage: 'int8' },
    { method: 'pages', dtype: 'float16', storage: undefined },
    { method: 'clusters', dtype: 'bfloat16', storage: undefined },
    { method: 'clusters', dtype: 'float16', storage: 'int8' },
  ] as const)('$method, $dtype as $storage: a topK of the length is attention over all', async (given) => {
    const { method, dtype, storage } = given;
    const random = uniform(9);
    const lengths = [2300, 40];
    using cache = new KvCache({
      batch: 2,
      kvHeads: 2,
      headDim: 20,
      valueDim: 13,
      capacity: 2300,
      dtype,
      ...(storage && { storage }),
    });
    const [k, v] = [20, 13].map((columns) => normal(random, dtype, [2, 2300, 2, columns])) as [Values, Values];
    cache.append(tensorOf(k, dtype), tensorOf(v, dtype), { lengths });
    using index = new KvIndex(cache, { method });
    const queries = normal(random, dtype, [2, 1, 6, 20]);
    const q = tensorOf(queries, dtype);
    const dense = attention(q, cache);
    const [want, wantLse] = [decode(dtype, await dense.out.read()), (await dense.lse.read()) as Float32Array];
    const estimates = method === 'scan' ? [{}] : [{}, { estimate: true }];
    const wide = [{ topK: 2300 }, { topK: 2300, window: 0, sink: 0 }, { topK: 2100, window: 200 }];
    for (const options of wide.flatMap((one) => estimates.map((estimate) => ({ ...one, ...estimate })))) {
      const result = index.attend(q, options);
      const [got, gotLse] = [decode(dtype, await result.out.read()), (await result.lse.read()) as Float32Array];
      // Parts are rounded to the dtype before they are merged, and so is the result. Of int8, attention over all rounds
      // keys and values to the dtype once more, which moves scores, and weights by the exponential of twice that.
      const half = roundoff(dtype);
      const [most, all] = [largest(v), queries.data.reduce((sum, x) => Math.max(sum, Math.abs(x)), 0) * 20];
      const score = (storage ? (half * all * largest(k)) / Math.sqrt(20) : 0) + 1e-5;
      const bound = (Math.expm1(2 * score) + 4 * half) * most;
      got.forEach((x, i) => void expect(Math.abs(x - want[i]!)).toBeLessThanOrEqual(bound));
      gotLse.forEach((x, i) => void expect(Math.abs(x - wantLse[i]!)).toBeLessThanOrEqual(score));
      expect(await result.touched).toBe(1);
    }
  });

  it('attends to the first, the last and the best of the others', async () => {
    const random = uniform(15);
    for (const [topK, sink, window] of [
      [10, 4, 64],
      [100, 0, 0],
      [1, 1500, 3],
      [30, 7, 1100],
      [5, 3000, 3000],
    ] as const) {
      const length = 2600;
      const [k, v] = [0, 1].map(() => normal(random, 'float32', [1, length, 1, 16])) as [Values, Values];
      const q = normal(random, 'float32', [1, 1, 2, 16]);
      using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 16, capacity: length, pageSize: 48 });
      cache.append(tensorOf(k), tensorOf(v));
      using index = new KvIndex(cache);
      const result = index.attend(tensorOf(q), { topK, sink, window });
      const got = { out: decode('float32', await result.out.read()), lse: decode('float32', await result.lse.read()) };
      for (const head of [0, 1]) {
        const { scores } = scoresOf(q, k, 0, head, length);
        const others = Array.from({ length }, (_, key) => key).filter((key) => key >= sink && key < length - window);
        const best = new Set(others.sort((a, b) => scores[b]! - scores[a]!).slice(0, topK));
        const seen = Array.from({ length }, (_, key) => key).filter(
          (key) => key < sink || key >= length - window || best.has(key),
        );
        const rows = ({ data }: Values): Values => ({
          shape: [1, seen.length, 1, 16],
          data: Float64Array.from(seen.flatMap((key) => [...data.subarray(key * 16, key * 16 + 16)])),
        });
        const one: Values = { shape: [1, 1, 1, 16], data: q.data.slice(head * 16, head * 16 + 16) };
        const problem = { q: one, k: rows(k), v: rows(v) };
        const part = { out: got.out.slice(head * 16, head * 16 + 16), lse: got.lse.slice(head, head + 1) };
        expectResult(part, expected(problem, 'float32'));
      }
      expect(await result.touched).toBe(1);
    }
  });

  it('sums many weights as exactly as few', async () => {
    // Of 60 thousand equal weights every one is rounded the same way when they are added one by one.
    const length = 60_000;
    const k = new Float32Array(length).fill(-0.1);
    k[0] = 0;
    const v = new Float32Array(length).fill(1 / 3);
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 1, capacity: length });
    cache.append(Tensor.from(k, [1, length, 1, 1]), Tensor.from(v, [1, length, 1, 1]));
    using index = new KvIndex(cache);
    const { out, lse } = index.attend(Tensor.from(Float32Array.of(1), [1, 1, 1, 1]), {
      topK: length,
      sink: 0,
      window: 0,
    });
    const want = Math.log(1 + (length - 1) * Math.exp(Math.fround(-0.1)));
    expect(Math.abs(Number((await lse.read())[0]) - want)).toBeLessThan(2 ** -19); // an ulp is 2^-20
    expect(Math.abs(Number((await out.read())[0]) - 1 / 3)).toBeLessThan((256 / 3) * 2 ** -24); // sums of 256
  });

  it('gives the empty result of an empty cache, and rotates queries', async () => {
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 4, capacity: 100, rope: { theta: 100 } });
    using index = new KvIndex(cache);
    const q = Tensor.from(Float32Array.of(1, 2, 3, 4), [1, 1, 1, 4]);
    const nothing = index.attend(q, { topK: 3 });
    expect([...(await nothing.out.read())]).toEqual([0, 0, 0, 0]);
    expect([...(await nothing.lse.read())]).toEqual([-Infinity]);
    expect(await nothing.touched).toBe(0);
    const tokens = tensorOf(normal(uniform(1), 'float32', [1, 90, 1, 4]));
    cache.append(tokens, tokens);
    const [dense, found] = [attention(q, cache), index.attend(q, { topK: 90, window: 10 })];
    const [want, got] = [await dense.out.read(), await found.out.read()];
    for (let d = 0; d < 4; d++) expect(Math.abs(Number(got[d]) - Number(want[d]))).toBeLessThan(1e-6);
  });
});

describe('KvIndex: pages', () => {
  it.each(['mean', 'bounds'] as const)(
    '%s: all pages are all keys, few pages most of what matters',
    async (summary) => {
      const random = uniform(21);
      const { q, k } = structured(random, 8000, 4, 1);
      using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 8000 });
      cache.append(tensorOf(k), tensorOf(k));
      using all = new KvIndex(cache, { method: 'pages', summary, probe: 1 });
      await expectExact(all, q, k, [8000], 50);
      using index = new KvIndex(cache, { method: 'pages', summary });
      const result = index.attend(tensorOf(q), { topK: 64 });
      const touched = await result.touched;
      // 7 of 8 segments of summaries, 0.06 of whose pages may be others for each head; the rest is scored key by key.
      const rest = (8000 - 7 * 1024) / 8000;
      expect(touched).toBeGreaterThan(rest);
      expect(touched).toBeLessThan(rest + 4 * 0.065);
      const tensor = tensorOf(q);
      const [some, exact] = [index, all].map((one) => one.search(tensor, 50).ids.read() as Promise<Int32Array>);
      const wanted = new Set((await exact!).map((key, i) => key + 8000 * Math.floor(i / 50)));
      const found = (await some!).filter((key, i) => wanted.has(key + 8000 * Math.floor(i / 50))).length;
      expect(found / 200).toBeGreaterThan(0.5); // no random 6 %
    },
  );

  it('finds as many keys as are wanted, also where sink and window leave little of a page', async () => {
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 4, capacity: 1024 });
    const tokens = Tensor.zeros([1, 1024, 1, 4]);
    cache.append(tokens, tokens);
    using index = new KvIndex(cache, { method: 'pages', probe: 1 / 1024 });
    const q = Tensor.zeros([1, 1, 1, 4]);
    for (const [topK, sink, window] of [
      [8, 7, 0],
      [16, 7, 1001],
      [9, 3, 5],
      [1000, 15, 8],
    ] as const) {
      // All weights are 1.
      const { lse } = index.attend(q, { topK, sink, window });
      expect(Math.round(Math.exp(Number((await lse.read())[0])))).toBeGreaterThanOrEqual(topK + sink + window);
    }
  });

  it('looks at pages of which it cannot say what they hold', async () => {
    const k = normal(uniform(13), 'float32', [1, 2048, 1, 4]);
    k.data[4 * 1500] = Number.POSITIVE_INFINITY;
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 4, capacity: 2048 });
    cache.append(tensorOf(k), tensorOf(k));
    using index = new KvIndex(cache, { method: 'pages', probe: 0.01 });
    const { ids } = index.search(Tensor.from(Float32Array.of(1, 0, 0, 0), [1, 1, 1, 4]), 1);
    expect([...(await ids.read())]).toEqual([1500]);
  });

  it('bounds are never below the best key of a page', async () => {
    // A single page is probed for the best key: that its bound is the highest is certain where other pages are constant.
    const random = uniform(2);
    for (let round = 0; round < 10; round++) {
      const data = new Float32Array(1024 * 8);
      const at = Math.floor(random() * 1024);
      const q = normal(random, 'float32', [1, 1, 1, 8]);
      const key = normal(random, 'float32', [8]).data;
      const sign = key.reduce((sum, x, d) => sum + x * q.data[d]!, 0) < 0 ? -1 : 1;
      data.set(
        Float32Array.from(key, (x) => sign * x),
        at * 8,
      );
      for (let other = 0; other < 7; other++)
        data.set(
          Float32Array.from(key, (x) => -sign * x),
          ((at & ~7) + ((at + 1 + other) & 7)) * 8,
        );
      using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 8, capacity: 1024 });
      const tokens = Tensor.from(data, [1, 1024, 1, 8]);
      cache.append(tokens, tokens);
      using index = new KvIndex(cache, { method: 'pages', summary: 'bounds', probe: 1 / 128 });
      expect([...((await index.search(tensorOf(q), 1).ids.read()) as Int32Array)]).toEqual([at]);
    }
  });

  it('says exactly what it holds and what it touches', async () => {
    const sizes = { batch: 1, kvHeads: 2, headDim: 30, capacity: 1 << 20, pageSize: 1024 };
    using cache = new KvCache(sizes);
    using index = new KvIndex(cache, { method: 'pages', pageSize: 16, probe: 0.25 });
    const q = Tensor.zeros([1, 1, 2, 30]);
    expect(index.bytes).toBe(0);
    const tokens = tensorOf(normal(uniform(4), 'float32', [1, 4096, 2, 30]));
    cache.append(tokens, tokens);
    // 64 rows of 32 bytes and a unit, a centre and its reach in whole lines; slabs of at least a MiB
    const segment = 2 * (192 + 64 * 4 + 64 * 32);
    const result = index.attend(q, { topK: 1, sink: 16, window: 1024 });
    expect(await result.touched).toBe((16 + 1024 + Math.ceil(0.25 * 191) * 16) / 4096);
    expect(index.bytes).toBe(Math.floor(2 ** 20 / segment) * segment);
    index.dispose();
  });
});

describe('KvIndex: calls in flight', () => {
  // What looks at all keys, so that all methods find the same; sequences with none, and fewer than are wanted, included.
  const exact: KvIndexOptions[] = [
    { method: 'scan' },
    { method: 'pages', pageSize: 4, probe: 1 },
    { method: 'clusters', probe: 1 },
    { method: 'graph', effort: 1 << 20 },
  ];

  it('find what the cache held at the call, whatever is appended, truncated, forked and disposed of since', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          batch: fc.integer({ min: 1, max: 3 }),
          kvHeads: fc.integer({ min: 1, max: 2 }),
          group: fc.integer({ min: 1, max: 3 }),
          headDim: fc.integer({ min: 1, max: 20 }),
          valueDim: fc.integer({ min: 1, max: 20 }),
          pageSize: fc.constantFrom(3, 64, 1000),
          dtype: fc.constantFrom(...FLOATS),
        }),
        fc.constantFrom(...exact),
        fc.integer(),
        fc.array(
          fc.tuple(
            fc.constantFrom('append', 'append', 'token', 'truncate', 'fork', 'search', 'attend', 'index', 'drop'),
            fc.nat(),
          ),
          { minLength: 4, maxLength: 16 },
        ),
        async (sizes, how, seed, steps) => {
          const { batch, kvHeads, group, headDim, dtype } = sizes;
          const random = uniform(seed);
          const streams = [undefined, new Stream(), new Stream()];
          const checks: Promise<void>[] = [];
          const twins = [emptyTwin(sizes, 2600)];
          const indexes = new Map<Twin, KvIndex>();
          const indexOf = (twin: Twin) => {
            const queries = how.method === 'graph' && tensorOf(normal(random, dtype, [1, 3, kvHeads, headDim]), dtype);
            const index = indexes.get(twin) ?? new KvIndex(twin.cache, { ...how, ...(queries && { queries }) });
            indexes.set(twin, index);
            return index;
          };
          const appended = (room: number) => (random() < 0.3 ? 0 : Math.floor(random() * Math.min(1300, room)));
          for (const [step, pick] of steps) {
            const twin = twins[pick % twins.length]!;
            const stream = streams[pick % streams.length];
            if (change(twins, twin, step, { sizes, capacity: 2600, forks: 3, appended, random, stream })) continue;
            const { sequences } = twin;
            const q = normal(random, dtype, [batch, 1, kvHeads * group, headDim]);
            const query = tensorOf(q, dtype);
            const topK = 1 + (pick % 90);
            if (step === 'search') {
              const { ids, scores } = indexOf(twin).search(query, topK, { ...(stream && { stream }) });
              checks.push(
                Promise.all([ids.read(), scores.read()]).then(([id, score]) => {
                  sequences.forEach(({ k }, b) => {
                    for (let head = 0; head < kvHeads * group; head++) {
                      const at = (b * kvHeads * group + head) * topK;
                      const own = rowsOf(q, b, 0, 1);
                      const { scores: want, off } = scoresOf(own, k, 0, head, k.shape[1]!);
                      const found = (id as Int32Array).subarray(at, at + topK);
                      expectBest(found, (score as Float32Array).subarray(at, at + topK), want, off);
                    }
                  });
                }),
              );
              for (const tensor of [ids, scores]) tensor.dispose();
            } else if (step === 'attend') {
              // All keys, or the first and the last: what else there is does not hang on a tie.
              const [sink, last] = [pick % 7, pick % 40];
              const all = pick % 2 === 0;
              const options = { topK: all ? 2600 : 0, sink, window: last, ...(stream && { stream }) };
              const { out, lse, touched } = indexOf(twin).attend(query, options);
              checks.push(
                Promise.all([out.read(), lse.read(), touched]).then(([outs, lses, share]) => {
                  const got = { out: decode(dtype, outs), lse: decode('float32', lses) };
                  const tokens = sequences.reduce((sum, { k }) => sum + k.shape[1]!, 0);
                  if (all) expect(share).toBe(tokens === 0 ? 0 : 1);
                  sequences.forEach(({ k, v }, b) => {
                    const length = k.shape[1]!;
                    const from = Math.max(sink, length - last);
                    const seen = (x: Values) =>
                      all || from <= sink ? x : join(rowsOf(x, 0, 0, sink), rowsOf(x, 0, from, length));
                    const want = expected({ q: rowsOf(q, b, 0, 1), k: seen(k), v: seen(v) }, dtype);
                    const half = roundoff(dtype);
                    want.tolerance.out += 4 * half * largest(v); // parts are rounded before they are merged
                    const part = (x: Float64Array) =>
                      x.slice((x.length / batch) * b, (x.length / batch) * (b + 1)) as Float64Array;
                    expectResult({ out: part(got.out), lse: part(got.lse) }, want);
                  });
                }),
              );
              for (const tensor of [out, lse]) tensor.dispose();
            } else if (step === 'index') {
              indexes.get(twin)?.dispose();
              indexes.delete(twin);
            } else if (step === 'drop' && twins.length > 1) {
              twins.splice(twins.indexOf(twin), 1);
              twin.cache.dispose(); // the index need not go first
              indexes.get(twin)?.dispose();
            }
            query.dispose();
          }
          for (const twin of twins) twin.cache.dispose();
          for (const index of indexes.values()) index.dispose();
          await Promise.all(checks);
          for (const stream of streams) stream?.dispose();
        },
      ),
      { numRuns: 60, seed: 31 },
    );
  });
});

describe('errors of KvIndex', () => {
  const cache = new KvCache({ batch: 2, kvHeads: 2, headDim: 8, capacity: 10 });
  const q = Tensor.zeros([2, 1, 4, 8]);

  it.each([
    [{ method: 'trees' }, "method is 'trees'"],
    [{ method: 'scan', probe: 0.5 }, "probe is an option of 'pages' and 'clusters', not of 'scan'"],
    [{ method: 'clusters', pageSize: 8 }, "pageSize is an option of 'pages', not of 'clusters'"],
    [{ method: 'clusters', summary: 'mean' }, "summary is an option of 'pages', not of 'clusters'"],
    [{ method: 'pages', clusterSize: 8 }, "clusterSize is an option of 'clusters', not of 'pages'"],
    [{ method: 'clusters', clusterSize: 2 }, 'clusterSize is 2'],
    [{ method: 'clusters', clusterSize: 24 }, 'clusterSize is 24'],
    [{ method: 'clusters', clusterSize: 128 }, 'clusterSize is 128'],
    [{ method: 'clusters', probe: 0 }, 'probe is 0'],
    [{ method: 'pages', probe: 0 }, 'probe is 0'],
    [{ method: 'pages', probe: 1.5 }, 'probe is 1.5'],
    [{ method: 'pages', probe: Number.NaN }, 'probe is NaN'],
    [{ method: 'pages', pageSize: 1 }, 'pageSize is 1'],
    [{ method: 'pages', pageSize: 12 }, 'pageSize is 12'],
    [{ method: 'pages', pageSize: 2 ** 40 }, 'pageSize is'],
    [{ method: 'pages', summary: 'median' }, "summary is 'median'"],
    [{ queries: 5 }, 'queries is 5'],
    [{ query: q }, "option 'query' is not known"],
  ])('%o', (options, text) => {
    const make = () => new KvIndex(cache, options as never);
    expect(make).toThrow(text);
    expect(code(make)).toBe('ERR_OPTION');
  });

  it('takes sample queries by any method', () => {
    for (const method of ['scan', 'pages', 'clusters'] as const) new KvIndex(cache, { method, queries: q }).dispose();
  });

  it('refuses calls that it cannot serve', () => {
    const index = new KvIndex(cache);
    const refused: [string, () => unknown][] = [
      ['ERR_OPTION', () => new KvIndex(q as never)],
      ['ERR_OPTION', () => index.search(q, 0)],
      ['ERR_OPTION', () => index.search(q, 2 ** 31)],
      ['ERR_OPTION', () => index.search(q, undefined as never)],
      ['ERR_OPTION', () => index.search(q, { topK: 3 } as never)],
      ['ERR_OPTION', () => index.search(q, 3, { scale: Infinity })],
      ['ERR_OPTION', () => index.search(q, 3, { scale: 1e300 })],
      ['ERR_OPTION', () => index.search(cache as never, 3)],
      ['ERR_OPTION', () => index.attend(q, {} as never)],
      ['ERR_OPTION', () => index.attend(q, { topK: 3, estimate: true })],
      ['ERR_OPTION', () => index.attend(q, { topK: 3, estimate: 1 } as never)],
      ['ERR_OPTION', () => index.search(q, 3, { estimate: true } as never)],
      ['ERR_OPTION', () => index.attend(q, { topK: 3, sink: -1 })],
      ['ERR_OPTION', () => index.attend(q, { topK: 3, window: 2 ** 40 })],
      ['ERR_SHAPE', () => index.search(Tensor.zeros([2, 2, 4, 8]), 3)],
      ['ERR_SHAPE', () => index.search(Tensor.zeros([1, 1, 4, 8]), 3)],
      ['ERR_SHAPE', () => index.search(Tensor.zeros([2, 1, 3, 8]), 3)],
      ['ERR_SHAPE', () => index.search(Tensor.zeros([2, 1, 0, 8]), 3)],
      ['ERR_SHAPE', () => index.search(Tensor.zeros([2, 1, 4, 9]), 3)],
      ['ERR_SHAPE', () => index.search(Tensor.zeros([2, 1, 8, 4]).permute(0, 1, 3, 2), 3)],
      ['ERR_DTYPE', () => index.search(q.to('float16'), 3)],
    ];
    for (const [wanted, run] of refused) expect([wanted, code(run)]).toEqual([wanted, wanted]);
    expect(() => new KvIndex(q as never)).toThrow('cache is a Tensor; it must be a KvCache');
    index.dispose();
    index.dispose();
    expect(index.disposed).toBe(true);
    for (const use of [() => index.search(q, 3), () => index.attend(q, { topK: 3 }), () => index.bytes]) {
      expect(code(use)).toBe('ERR_DISPOSED');
    }
    const gone = new KvCache({ batch: 1, kvHeads: 1, headDim: 8, capacity: 10 });
    const left = new KvIndex(gone);
    gone.dispose();
    expect(code(() => left.search(q, 3))).toBe('ERR_DISPOSED');
    expect(code(() => new KvIndex(gone))).toBe('ERR_DISPOSED');
    left.dispose();
  });

  it('outlives dispose while work reads it', async () => {
    const random = uniform(6);
    const { q: query, k } = structured(random, 4000, 4, 1);
    const held = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 4000 });
    held.append(tensorOf(k), tensorOf(k));
    const index = new KvIndex(held);
    const done = expectExact(index, query, k, [4000], 30);
    index.dispose();
    held.dispose();
    await done;
  });
});
