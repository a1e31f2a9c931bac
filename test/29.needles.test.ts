// Keys that are to be found wherever they lie, by each method at its default settings; and caches of so many keys that
// neither their elements nor the bytes of a page can be counted by 32 bits.

import { devices, KvCache, KvIndex, Tensor } from 'node-attention';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Addon } from '../lib/native';
import { expectResult } from './support/library';
import { count, decode, normal, uniform, type Values } from './support/numbers';
import { sanitized } from './support/sanitizer';
import { expected } from './support/tolerance';

const D = 32;
const SEGMENT = 1024;
/** Tokens that are appended at once. */
const CHUNK = 1 << 16;
/** Sanitizers make everything slow: the same among fewer keys. */
const MANY = sanitized ? 1 << 15 : 1 << 20;
const IN_GRAPH = sanitized ? 1 << 13 : 1 << 17;

/** Where a sequence and its first segment begin and end, and any others. */
function placesIn(random: () => number, length: number): number[] {
  const any = Array.from({ length: 12 }, () => Math.floor(random() * length));
  return [...new Set([0, SEGMENT - 1, SEGMENT, length - 1, ...any])];
}

/** Vectors of any directions, all of one length. */
function vectorsOf(random: () => number, howMany: number, length: number): Float32Array[] {
  return Array.from({ length: howMany }, () => {
    const { data } = normal(random, 'float32', [D]);
    const own = Math.sqrt(data.reduce((sum, x) => sum + x * x, 0));
    return Float32Array.from(data, (x) => (length * x) / own);
  });
}

/** Gaussian keys, whose length is about √D, with the value 0; but for needle n, with the value n + 1. */
function plant(length: number, places: readonly number[], needles: readonly Float32Array[]): KvCache {
  const dtype = 'bfloat16';
  const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, valueDim: 1, capacity: length, dtype });
  const fill = (end: number) => {
    while (cache.length < end) {
      const tokens = Math.min(CHUNK, end - cache.length);
      using k = Tensor.randn([1, tokens, 1, D], { seed: cache.length, dtype });
      using v = Tensor.zeros([1, tokens, 1, 1], { dtype });
      cache.append(k, v);
    }
  };
  for (const place of [...places].sort((a, b) => a - b)) {
    fill(place);
    const n = places.indexOf(place);
    using k = Tensor.from(needles[n]!, [1, 1, 1, D], { dtype });
    using v = Tensor.from(Float32Array.of(n + 1), [1, 1, 1, 1], { dtype });
    cache.append(k, v);
  }
  fill(length);
  return cache;
}

/** That query n finds needle n before all others, and that attention returns its value; the most that one touched. */
async function expectFound(index: KvIndex, places: readonly number[], queries: readonly Float32Array[]) {
  let most = 0;
  for (const [n, query] of queries.entries()) {
    using q = Tensor.from(query, [1, 1, 1, D], { dtype: 'bfloat16' });
    const { ids, scores } = index.search(q, 5);
    expect(((await ids.read()) as Int32Array)[0], `needle ${n}`).toBe(places[n]);
    const { out, lse, touched } = index.attend(q, { topK: 5 });
    // The weights of all others together are less than half a unit in the last place of bfloat16.
    expect(decode('bfloat16', await out.read())[0]).toBe(n + 1);
    most = Math.max(most, await touched);
    for (const made of [ids, scores, out, lse]) made.dispose();
  }
  return most;
}

describe(`a needle anywhere in ${MANY} keys`, () => {
  const random = uniform(47);
  const places = placesIn(random, MANY);
  // The mean of a page of 8 keys has an eighth of it, and of 7 others so much that this is still 4.8 times the deviation
  // above what the pages that are looked into have at least.
  const needles = vectorsOf(random, places.length, 3 * Math.sqrt(D));
  let cache: KvCache;
  beforeAll(() => {
    cache = plant(MANY, places, needles);
  }, 60_000);
  afterAll(() => cache.dispose());

  it.each(['scan', 'pages', 'clusters'] as const)('is found by %s', async (method) => {
    using index = new KvIndex(cache, { method });
    await expectFound(index, places, needles);
  });
});

describe(`a needle anywhere in ${IN_GRAPH} keys, by the graph,`, () => {
  const SAMPLES = IN_GRAPH / 64;
  /** A walk that looks at half of the keys finds all of 16 needles by chance once in 2^16. Few keys it sees all. */
  const MOST = sanitized ? 1 : 0.5;

  // Searches begin at the keys that are among the best of most sample queries. One that is three times as long as
  // others is among the best of a sixth of all Gaussian queries, so that no sample has to ask for it.
  it('is found if it stands out, whatever the samples ask for', async () => {
    const random = uniform(48);
    const places = placesIn(random, IN_GRAPH);
    const needles = vectorsOf(random, places.length, 3 * Math.sqrt(D));
    using cache = plant(IN_GRAPH, places, needles);
    using queries = Tensor.randn([1, SAMPLES, 1, D], { seed: 2 ** 40, dtype: 'bfloat16' });
    using index = new KvIndex(cache, { method: 'graph', queries });
    expect(await expectFound(index, places, needles)).toBeLessThanOrEqual(MOST);
  });

  // One that is no longer than the longest of the others is linked from the other keys that the same samples look for.
  it('is found if samples ask for it', async () => {
    const random = uniform(49);
    const places = placesIn(random, IN_GRAPH);
    const needles = vectorsOf(random, places.length, Math.sqrt(2 * D));
    using cache = plant(IN_GRAPH, places, needles);
    const asking = 4 * needles.length;
    const { data } = normal(random, 'float32', [SAMPLES + asking, D]);
    for (let n = 0; n < asking; n++) {
      const needle = needles[n % needles.length]!;
      for (let d = 0; d < D; d++) data[n * D + d]! += 1.5 * needle[d]!;
    }
    using queries = Tensor.from(Float32Array.from(data), [1, SAMPLES + asking, 1, D], { dtype: 'bfloat16' });
    using index = new KvIndex(cache, { method: 'graph', queries });
    const asked = needles.map((needle) => needle.map((x) => 3 * x));
    expect(await expectFound(index, places, asked)).toBeLessThanOrEqual(MOST);
  });
});

// A cache is given a length without writing its rows, as loading one does first. The system promises their memory, and
// has none in it but where somebody writes.
describe('rows beyond 2^31 elements', () => {
  const library = require('node-attention') as typeof import('node-attention');
  const { cacheHandle } = require('../dist/cache.js') as typeof import('../lib/cache');
  const { native } = require('../dist/native.js') as { native: Addon };
  const COLUMNS = 128;
  const { memoryBytes = 0 } = devices().find(({ device }) => device === 'cpu')!;
  // 2.7 GB are promised, and no more than there is can be.
  const skipped = sanitized || memoryBytes < 6 * 2 ** 30;
  const WHY = '(needs 6 GiB, and no sanitizer, which would write of all that is read)';

  /** Whole numbers up to 127 in magnitude, which one element of each row has: int8 holds them as they are. */
  function wholes(random: () => number, shape: number[]): Values {
    const columns = shape.at(-1)!;
    const element = (i: number) =>
      i % columns === 0 ? (random() < 0.5 ? -127 : 127) : Math.round((2 * random() - 1) * 100);
    return { shape, data: Float64Array.from({ length: count(shape) }, (_, i) => element(i)) };
  }

  /** A cache of `length` tokens of which nothing is known but for `appended` ones at the end. */
  function far(sizes: { kvHeads: number; valueDim: number; pageSize: number }, length: number, appended: number) {
    const random = uniform(50);
    const dtype = 'bfloat16';
    const cache = new library.KvCache({
      batch: 1,
      headDim: COLUMNS,
      capacity: length,
      dtype,
      storage: 'int8',
      ...sizes,
    });
    native.kvCacheRestore(cacheHandle(cache)!, [length]);
    cache.truncate(length - appended); // pages that are taken again, from the end of the same memory
    const k = wholes(random, [1, appended, sizes.kvHeads, COLUMNS]);
    const v = wholes(random, [1, appended, sizes.kvHeads, sizes.valueDim]);
    const tensor = ({ data, shape }: Values) => library.Tensor.from(Float32Array.from(data), shape, { dtype });
    using keys = tensor(k);
    using values = tensor(v);
    cache.append(keys, values);
    return { cache, k, v, tensor, random };
  }

  /** That the last query sees the `seen` last tokens as they were appended. */
  async function expectSeen({ cache, k, v, tensor, random }: ReturnType<typeof far>, seen: number) {
    const scale = 2 ** -8;
    const q = normal(random, 'bfloat16', [1, 1, 2 * cache.kvHeads, COLUMNS]);
    using query = tensor(q);
    const mask = library.window({ left: seen - 1, right: 0 });
    const { out, lse } = library.attention(query, cache, { mask, scale });
    const got = { out: decode('bfloat16', await out.read()), lse: decode('float32', await lse.read()) };
    const last = ({ shape, data }: Values): Values => ({
      shape: [1, seen, ...shape.slice(2)],
      data: data.slice(-seen * count(shape.slice(2))),
    });
    expectResult(got, expected({ q, k: last(k), v: last(v), scale }, 'bfloat16'));
  }

  it.skipIf(skipped)(`are seen at 16M keys, and none of the others is held ${WHY}`, async () => {
    const before = process.memoryUsage.rss();
    const made = far({ kvHeads: 1, valueDim: 8, pageSize: 64 }, 2 ** 24 + 200, 300);
    using cache = made.cache;
    expect(cache.bytes).toBeGreaterThan(2 ** 31);
    await expectSeen(made, 250);
    cache.truncate(2 ** 24 + 100); // and of those that stay
    const shorter = (values: Values): Values => {
      const tokens = values.shape[1]! - 100;
      const data = values.data.slice(0, tokens * values.shape[3]!);
      return { shape: [1, tokens, 1, values.shape[3]!], data };
    };
    await expectSeen({ ...made, k: shorter(made.k), v: shorter(made.v) }, 150);
    expect(process.memoryUsage.rss() - before).toBeLessThan(2 ** 28);
  });

  it.skipIf(skipped)(`are found at 16M keys ${WHY}`, async () => {
    const length = 2 ** 24 + 200;
    const made = far({ kvHeads: 1, valueDim: 8, pageSize: 64 }, length, 300);
    using cache = made.cache;
    // Rows that nobody wrote are zeros, as memory comes from the system: the bounds of their pages are 0, and pages of
    // the keys that are asked for have larger ones.
    using index = new library.KvIndex(cache, { method: 'pages', pageSize: 64, summary: 'bounds' });
    const places = [length - 300, 2 ** 24 - 1, 2 ** 24, length - 1];
    const rows = places.map((place) => {
      const at = (place - (length - 300)) * COLUMNS;
      return [...made.k.data.subarray(at, at + COLUMNS)];
    });
    const q = made.tensor({ shape: [1, 1, places.length, COLUMNS], data: Float64Array.from(rows.flat()) });
    const { ids } = index.search(q, 1);
    expect([...((await ids.read()) as Int32Array)]).toEqual(places);
  });

  it.skipIf(skipped)(`are seen in one page of a million tokens ${WHY}`, async () => {
    // Keys of 2.2 GiB, and behind them the values.
    const made = far({ kvHeads: 17, valueDim: 1, pageSize: 2 ** 20 }, 2 ** 20 - 30, 80);
    using _cache = made.cache;
    await expectSeen(made, 70);
  });
});
