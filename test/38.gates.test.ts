// Queries and keys that come pooled already, as from a learned gate: what is selected is what pooledPlan selects when it
// pools for itself, and nothing else than the rows given counts.

import { type PooledOptions, pooledPlan, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { uniform } from './support/numbers';
import { code } from './support/refusal';
import { listsOf } from './support/selectors';

const integers = (length: number, seed: number) => {
  const random = uniform(seed);
  return Float32Array.from({ length }, () => Math.round(8 * random() - 4));
};

/** Means of every `each` tokens: exact for integers where the last ones are as many as a power of two. */
function means(
  values: Float32Array,
  [batch, tokens, heads, dim]: readonly [number, number, number, number],
  each: number,
) {
  const count = Math.ceil(tokens / each);
  const result = new Float32Array(batch * count * heads * dim);
  for (let b = 0; b < batch; b++) {
    for (let n = 0; n < tokens; n++) {
      const of = Math.min(each, tokens - Math.floor(n / each) * each);
      for (let c = 0; c < heads * dim; c++) {
        const at = (b * count + Math.floor(n / each)) * heads * dim + c;
        result[at]! += values[(b * tokens + n) * heads * dim + c]! / of;
      }
    }
  }
  return Tensor.from(result, [batch, count, heads, dim]);
}

const [batch, queries, keys, heads, kvHeads, dim] = [2, 296, 1000, 4, 2, 16] as const;
const qs = integers(batch * queries * heads * dim, 1);
const ks = integers(batch * keys * kvHeads * dim, 2);
const [q, k] = [Tensor.from(qs, [batch, queries, heads, dim]), Tensor.from(ks, [batch, keys, kvHeads, dim])];
const gateQ = means(qs, [batch, queries, heads, dim], 16);
const gateK = means(ks, [batch, keys, kvHeads, dim], 8);
const shape = { queryTile: 16, keyBlock: 8, always: { sink: 8, window: 16 } };
const pooled = { queries, keys };

describe('pooled', () => {
  it.each<[string, PooledOptions]>([
    ['a budget', { budget: 128 }],
    ['causal', { budget: 128, causal: true }],
    ['budgets of each head', { budget: [0, 64, 128, 1000], share: 'none', causal: true }],
    ['one pattern', { budget: 128, share: 'all' }],
    ['topP', { topP: 0.5, scale: 0.05 }],
    ['threshold', { threshold: 0.01, scale: 0.05 }],
  ])('selects what it selects from means, by %s', async (_, options) => {
    const want = await listsOf(pooledPlan(q, k, { ...shape, ...options, queries: 'mean' }));
    expect(await listsOf(pooledPlan(gateQ, gateK, { ...shape, ...options, pooled }))).toEqual(want);
    expect(new Set(want.map(String)).size).toBeGreaterThan(10);
  });

  it('selects chunks longer than a block, as LongHeads has them, when their keys are given for each block', async () => {
    const [chunk, keyBlock, budget] = [256, 128, 3];
    using asked = Tensor.randn([1, 4, 2, 8], { seed: 1 }); // of 4 tiles
    using chunks = Tensor.randn([1, 10, 2, 8], { seed: 2 });
    const [a, b] = [asked.data as Float32Array, chunks.data as Float32Array];
    const twice = Float32Array.from({ length: 2 * b.length }, (_, i) => b[Math.floor(i / 32) * 16 + (i % 16)]!);
    using blocks = Tensor.from(twice, [1, 20, 2, 8]);
    using plan = pooledPlan(asked, blocks, {
      budget: budget * chunk,
      keyBlock,
      share: 'none',
      always: { sink: 0, window: 0 },
      pooled: { queries: 256, keys: 2560 },
    });
    const want = [0, 1].flatMap((head) =>
      [0, 1, 2, 3].map((tile) => {
        const score = (row: number) =>
          Array.from({ length: 8 }, (_, d) => a[(tile * 2 + head) * 8 + d]! * b[(row * 2 + head) * 8 + d]!).reduce(
            (sum, x) => sum + x,
          );
        const best = Array.from({ length: 10 }, (_, row) => row).sort((x, y) => score(y) - score(x));
        return best
          .slice(0, budget)
          .sort((x, y) => x - y)
          .flatMap((row) => [2 * row, 2 * row + 1]);
      }),
    );
    expect(await listsOf(plan)).toEqual(want);
  });

  it('takes views, and other types', async () => {
    const options = { ...shape, budget: 128, pooled };
    const want = await listsOf(pooledPlan(gateQ.to('bfloat16'), gateK.to('bfloat16'), options));
    const apart = gateK.permute(0, 2, 1, 3).to('bfloat16').permute(0, 2, 1, 3);
    expect(await listsOf(pooledPlan(gateQ.to('bfloat16'), apart, options))).toEqual(want);
  });

  it('weighs by scale: the larger, the fewer blocks have a share of the softmax', async () => {
    const blocks = async (scale?: number) =>
      (await listsOf(pooledPlan(q, k, { ...shape, topP: 0.5, ...(scale && { scale }) }))).flat().length;
    const [little, usual, much] = [await blocks(0.01), await blocks(), await blocks(1)];
    expect(little).toBeGreaterThan(usual);
    expect(usual).toBeGreaterThan(much);
    expect(await blocks(1 / Math.sqrt(dim))).toBe(usual);
  });

  it.each([1, 2, 3])('has %i blocks of infinite score share everything', async (infinite) => {
    const one = Tensor.from(new Float32Array(16 * 4).fill(1), [1, 16, 1, 4]);
    const data = new Float32Array(256 * 4);
    for (let block = 0; block < infinite; block++) data[4 * (64 * block + 3)] = Number.POSITIVE_INFINITY;
    const keys = Tensor.from(data, [1, 256, 1, 4]);
    const options = { queryTile: 16, keyBlock: 16, pooling: 'max', always: { sink: 0, window: 0 } } as const;
    const want = [Array.from({ length: infinite }, (_, block) => 4 * block)];
    expect(await listsOf(pooledPlan(one, keys, { ...options, threshold: 0.01 }))).toEqual(want);
    expect(await listsOf(pooledPlan(one, keys, { ...options, topP: 0.99 }))).toEqual(want);
  });

  it.each<[string, () => unknown, string, RegExp]>([
    [
      'queries that are not one for each tile',
      () => pooledPlan(q, gateK, { ...shape, budget: 8, pooled }),
      'ERR_SHAPE',
      /q has shape \[2, 296, 4, 16\]; with pooled it is \[batch, 19, heads, features\]: a row for each 16 of 296 queries/,
    ],
    [
      'keys that are not one for each block',
      () => pooledPlan(gateQ, k, { ...shape, budget: 8, pooled }),
      'ERR_SHAPE',
      /k has shape \[2, 1000, 2, 16\]; with pooled it is \[batch, 125, heads, features\]: a row for each 8 of 1000 keys/,
    ],
    [
      'a way to pool',
      () => pooledPlan(gateQ, gateK, { budget: 8, pooled, pooling: 'max' }),
      'ERR_OPTION',
      /pooling says how to pool/,
    ],
    [
      'queries of their own',
      () => pooledPlan(gateQ, gateK, { budget: 8, pooled, queries: 'own' }),
      'ERR_OPTION',
      /queries says how to pool/,
    ],
    [
      'no number of keys',
      () => pooledPlan(gateQ, gateK, { budget: 8, pooled: { queries } as never }),
      'ERR_OPTION',
      /pooled\.keys is undefined/,
    ],
    [
      'what is no option',
      () => pooledPlan(gateQ, gateK, { budget: 8, pooled: 5 as never }),
      'ERR_OPTION',
      /pooled: options must be a plain object, not 5/,
    ],
    [
      'a scale of nothing',
      () => pooledPlan(q, k, { budget: 8, scale: 0 }),
      'ERR_OPTION',
      /scale is 0; it must be more than 0, and a number in float32/,
    ],
    [
      'a scale that float32 has not',
      () => pooledPlan(q, k, { budget: 8, scale: 1e300 }),
      'ERR_OPTION',
      /scale is 1e\+300; it must be more than 0, and a number in float32/,
    ],
    [
      'a scale that float32 takes for 0',
      () => pooledPlan(q, k, { budget: 8, scale: 1e-60 }),
      'ERR_OPTION',
      /scale is 1e-60; it must be more than 0, and a number in float32/,
    ],
    [
      'a scale that is no number',
      () => pooledPlan(q, k, { budget: 8, scale: Number.NaN }),
      'ERR_OPTION',
      /scale is NaN/,
    ],
  ])('refuses %s', (_, run, expected, message) => {
    expect(code(run)).toBe(expected);
    expect(run).toThrow(message);
  });
});
