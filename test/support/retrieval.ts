// Random searches and attention by an index, on whole numbers, of which float32 sums are exact and int8 storage too: what
// is found is one list, whatever the instruction set.

import fc from 'fast-check';
import { attention, KvCache, KvIndex, Tensor } from 'node-attention';
import { expectResult, tensorOf } from './library';
import { decode, type Float, uniform, type Values } from './numbers';
import { expected } from './tolerance';

export const retrievalCase = fc.record({
  length: fc.integer({ min: 1024, max: 1600 }),
  kvHeads: fc.integer({ min: 1, max: 2 }),
  group: fc.integer({ min: 1, max: 6 }),
  headDim: fc.integer({ min: 1, max: 70 }),
  valueDim: fc.integer({ min: 1, max: 70 }),
  dtype: fc.constantFrom<Float>('float32', 'float16', 'bfloat16'),
  storage: fc.constantFrom(undefined, 'int8' as const),
  topK: fc.integer({ min: 1, max: 300 }),
  sink: fc.integer({ min: 0, max: 20 }),
  seed: fc.nat(),
});

export async function checkRetrieval(
  one: typeof retrievalCase extends fc.Arbitrary<infer T> ? T : never,
): Promise<void> {
  const { length, kvHeads, group, headDim, valueDim, dtype, storage, topK, sink } = one;
  const [random, heads, scale] = [uniform(one.seed), kvHeads * group, 2 ** -10];
  const whole = (most: number, shape: number[]): Values => ({
    shape,
    data: Float64Array.from({ length: shape.reduce((a, b) => a * b) }, () => Math.round((2 * random() - 1) * most)),
  });
  const [k, v] = [headDim, valueDim].map((columns) => {
    const rows = whole(127, [1, length, kvHeads, columns]);
    for (let row = 0; row < length * kvHeads; row++) {
      rows.data[row * columns + Math.floor(random() * columns)] = random() < 0.5 ? -127 : 127;
    }
    return rows;
  }) as [Values, Values];
  const q = whole(8, [1, 1, heads, headDim]);
  using cache = new KvCache({
    batch: 1,
    kvHeads,
    headDim,
    valueDim,
    capacity: length,
    dtype,
    ...(storage && { storage }),
  });
  cache.append(tensorOf(k, dtype), tensorOf(v, dtype));
  using index = new KvIndex(cache);
  const query = tensorOf(q, dtype);
  const found = index.search(query, topK, { scale });
  const [ids, best] = [await found.ids.read(), await found.scores.read()];
  // Of clusters all of which are looked into, it is the same.
  using clusters = new KvIndex(cache, { method: 'clusters', clusterSize: 4, probe: 1 });
  const same = clusters.search(query, topK, { scale });
  for (const [got, want] of [
    [await same.ids.read(), ids],
    [await same.scores.read(), best],
  ]) {
    got!.forEach((x: unknown, i: number) => {
      if (x !== want![i]) throw new Error(`clusters: ${i} is ${x}, not ${want![i]}`);
    });
  }
  const some = index.attend(query, { topK, sink, window: 0, scale });
  const got = { out: decode(dtype, await some.out.read()), lse: decode('float32', await some.lse.read()) };
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor(head / group);
    const row = (of: Values, columns: number, key: number) => {
      const at = (key * kvHeads + kvHead) * columns;
      return of.data.subarray(at, at + columns);
    };
    const own = q.data.slice(head * headDim, (head + 1) * headDim);
    const scores = Array.from({ length }, (_, key) =>
      row(k, headDim, key).reduce((sum, x, d) => sum + x * own[d]! * scale, 0),
    );
    const order = (keys: number[]) => keys.sort((a, b) => scores[b]! - scores[a]! || a - b).slice(0, topK);
    order(scores.map((_, key) => key)).forEach((key, i) => {
      const [id, score] = [ids[head * topK + i], best[head * topK + i]];
      if (id === key && score === scores[key]) return;
      throw new Error(`head ${head}: key ${i} is ${id} of score ${score}; it must be ${key} of ${scores[key]}`);
    });
    const seen = order(scores.map((_, key) => key).slice(sink)).concat(scores.map((_, key) => key).slice(0, sink));
    const list = (of: Values, columns: number): Values => ({
      shape: [1, seen.length, 1, columns],
      data: Float64Array.from(seen.flatMap((key) => [...row(of, columns, key)])),
    });
    const problem = { q: { shape: [1, 1, 1, headDim], data: own }, k: list(k, headDim), v: list(v, valueDim), scale };
    const part = {
      out: got.out.slice(head * valueDim, (head + 1) * valueDim),
      lse: got.lse.slice(head, head + 1),
    };
    expectResult(part, expected(problem, dtype));
  }
  const all = attention(query, cache, { scale });
  expectResult(
    { out: decode(dtype, await all.out.read()), lse: decode('float32', await all.lse.read()) },
    expected({ q, k, v, scale }, dtype),
  );
}

/** That a key is found which only the rounding of scores, in vectors of 4, puts first. */
export async function checkRounding(): Promise<void> {
  // Every term behind the first is about half of the last digit of the sum: a little less is lost, a little more counts
  // twice.
  const [length, D] = [1024, 512];
  const k = new Float32Array(length * D);
  const q = new Float32Array(D).fill(2 ** -24, 16);
  q[0] = 1;
  for (let key = 0; key < length; key++) {
    const first = key === 700;
    k.fill(first ? 1 + 2 ** -22 : 1 - 2 ** -22, key * D, key * D + D);
    k[key * D] = first ? 1 : 1 + 50 * 2 ** -22;
  }
  using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, capacity: length });
  const tokens = Tensor.from(k, [1, length, 1, D]);
  cache.append(tokens, tokens);
  using index = new KvIndex(cache);
  const query = Tensor.from(q, [1, 1, 1, D]);
  const [few, all] = [1, length].map((topK) => index.search(query, topK, { scale: 1 }).ids.read());
  const [one, best] = [(await few)![0], (await all)![0]];
  if (one !== best) throw new Error(`key ${one} is found first, not ${best}`);
}

/** That clusters are found which are there, of equal keys: then an estimate is exact. */
export async function checkClusters(): Promise<void> {
  const [length, D, count] = [1024, 37, 64];
  const random = uniform(5);
  const directions = Array.from({ length: count }, () => Array.from({ length: D }, () => 2 * random() - 1));
  const k = Float64Array.from({ length: length * D }, (_, i) => {
    const token = Math.floor(i / D);
    // The keys that k-means starts from are one of each; the others go round.
    const cluster = token % 16 === 8 ? (token - 8) / 16 : (token * 7) % count;
    return Math.fround(directions[cluster]![i % D]!);
  });
  const v = Float64Array.from({ length: length * 3 }, () => Math.fround(random()));
  const q = Float64Array.from({ length: 2 * D }, () => Math.fround(2 * random() - 1));
  const problem = {
    q: { shape: [1, 1, 2, D], data: q },
    k: { shape: [1, length, 1, D], data: k },
    v: { shape: [1, length, 1, 3], data: v },
    scale: 1,
  };
  using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, valueDim: 3, capacity: length });
  cache.append(tensorOf(problem.k), tensorOf(problem.v));
  using index = new KvIndex(cache, { method: 'clusters', clusterSize: 16 });
  const { out, lse, touched } = index.attend(tensorOf(problem.q), {
    topK: 2,
    sink: 0,
    window: 0,
    scale: 1,
    estimate: true,
  });
  const got = { out: decode('float32', await out.read()), lse: decode('float32', await lse.read()) };
  expectResult(got, expected(problem, 'float32'));
  if ((await touched) > 0.25) throw new Error('most keys are looked at');
}
