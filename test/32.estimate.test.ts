// What a plan does not list, estimated by the means of blocks.

import {
  attention,
  causal,
  denseBias,
  hipPlan,
  keyBias,
  pagePlan,
  pooledPlan,
  type SelectorOptions,
  SparsePlan,
  streamingPlan,
  Tensor,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { checkBehindEnd } from './support/cached';
import { itAgrees } from './support/instruction-sets';
import { uniform } from './support/numbers';

const runs = 10;

itAgrees('is one key for each block, by the oracle, on random problems', 'estimate', runs, 7);

/** Keys that change slowly, as those of a text do: each is mostly the one before. */
function smooth(seed: number, tokens: number, heads: number, dim: number): Tensor {
  const random = uniform(seed);
  const normal = () => random() + random() + random() + random() - 2;
  const data = new Float32Array(tokens * heads * dim);
  const keep = Math.exp(-1 / 50);
  for (let i = 0; i < data.length; i++) {
    const before = i < heads * dim ? 0 : data[i - heads * dim]!;
    data[i] = keep * before + Math.sqrt(1 - keep * keep) * 2 * normal();
  }
  return Tensor.from(data, [1, tokens, heads, dim]);
}

const selectors: [string, (q: Tensor, k: Tensor, options: SelectorOptions) => SparsePlan][] = [
  ['hipPlan', hipPlan],
  ['pagePlan', pagePlan],
  ['pooledPlan', pooledPlan],
  ['pooledPlan of each query', (q, k, options) => pooledPlan(q, k, { ...options, queries: 'own' })],
];

describe.each(selectors)('%s', (_, make) => {
  const [queries, keys] = [130, 1500];
  const q = smooth(1, queries, 4, 16);
  const k = smooth(2, keys, 2, 16);
  const v = smooth(3, keys, 2, 16);
  const values = async ({ out, lse }: ReturnType<typeof attention>) =>
    [(await out.read()) as Float32Array, (await lse.read()) as Float32Array] as const;
  const distance = (a: Float32Array, b: Float32Array) =>
    Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0) / b.reduce((sum, x) => sum + x * x, 0));

  it.each([false, true])('comes nearer to dense, and never counts too much, causal %s', async (isCausal) => {
    const mask = isCausal ? causal() : [];
    const [out, lse] = await values(attention(q, k, v, { mask }));
    for (const budget of [0, 64, 256]) {
      const options = { budget, causal: isCausal, always: { sink: 16, window: 32 } };
      using bare = make(q, k, options);
      using estimating = make(q, k, { ...options, estimate: true });
      const [bareOut, bareLse] = await values(attention(q, k, v, { mask: bare }));
      const [nearOut, nearLse] = await values(attention(q, k, v, { mask: estimating }));
      // By the inequality of Jensen, but for rounding: a unit in the last place of each of some sums.
      lse.forEach((exact, i) => {
        expect(nearLse[i]!).toBeLessThanOrEqual(exact + 4 * 2 ** -23 * Math.max(1, Math.abs(exact)));
        expect(nearLse[i]!).toBeGreaterThanOrEqual(bareLse[i]! - 4 * 2 ** -23 * Math.max(1, Math.abs(exact)));
      });
      const [bareError, nearError] = [distance(bareOut, out), distance(nearOut, out)];
      expect(nearError).toBeLessThan(bareError / 2);
      const [bareMiss, nearMiss] = [bareLse, nearLse].map((of) => of!.reduce((sum, x, i) => sum + lse[i]! - x, 0));
      expect(nearMiss!).toBeLessThan(bareMiss! / 2);
    }
  });

  it('is dense when the budget is all keys', async () => {
    for (const isCausal of [false, true]) {
      using plan = make(q, k, { budget: keys, causal: isCausal, estimate: true });
      expect(await values(attention(q, k, v, { mask: plan }))).toEqual(
        await values(attention(q, k, v, { mask: isCausal ? causal() : [] })),
      );
    }
  });

  it('lists what it lists without', async () => {
    const options = { budget: 100, causal: true };
    using bare = make(q, k, options);
    using plan = make(q, k, { ...options, estimate: true });
    expect([bare.estimate, plan.estimate]).toEqual([false, true]);
    await plan.validate();
    expect(await plan.density()).toBe(await bare.density());
    expect(plan.bytes).toBe(bare.bytes);
    const [shown, wanted] = [await plan.toDense().read(), await bare.toDense().read()];
    expect(Buffer.compare(shown as Uint8Array, wanted as Uint8Array)).toBe(0);
    expect(await plan.explain()).toMatch(/the means of the others$/);
  });
});

it('is exact where the keys of a block are equal', async () => {
  const random = uniform(4);
  const rows = Float32Array.from({ length: 40 * 8 }, () => random() - 0.5);
  const repeated = Float32Array.from({ length: 640 * 8 }, (_, i) => rows[(i >> 7) * 8 + (i & 7)]!);
  using q = Tensor.randn([1, 33, 1, 8], { seed: 1 });
  using k = Tensor.from(repeated, [1, 640, 1, 8]);
  using plan = streamingPlan({ queries: 33, keys: 640, window: 5, keyBlock: 16, estimate: true });
  expect(await plan.density()).toBeLessThan(0.15);
  const [near, dense] = await Promise.all([plan, []].map((mask) => attention(q, k, k, { mask }).lse.read()));
  const worst = Math.max(...Array.from(near as Float32Array, (x, i) => Math.abs(x - Number(dense![i]))));
  expect(worst).toBeLessThan(8 * 2 ** -23 * Math.log(640));
});

it('counts a block for the queries that see none of it, whatever others of their tile see', async () => {
  const [queries, keys, keyBlock] = [200, 500, 32];
  const [q, k, v] = [1, 2, 3].map((seed) => Tensor.randn([1, seed === 1 ? queries : keys, 1, 8], { seed }));
  // Each query sees one block in full, and half of the next.
  const sees = (i: number, j: number) => Math.floor((j + keyBlock / 2) / keyBlock) === i % 13;
  const [qs, ks, vs] = (await Promise.all([q, k, v].map((each) => each!.read()))) as Float32Array[];
  for (const queryTile of [16, 64, 128]) {
    using plan = SparsePlan.fromPredicate(sees, { queries, keys, queryTile, keyBlock, estimate: true });
    const got = (await attention(q!, k!, v!, { mask: plan }).out.read()) as Float32Array;
    for (let i = 0; i < queries; i++) {
      const sum = new Float64Array(9);
      const add = (first: number, end: number) => {
        const mean = (of: Float32Array, d: number) => {
          let total = 0;
          for (let j = first; j < end; j++) total += of[j * 8 + d]!;
          return total / (end - first);
        };
        let score = 0;
        for (let d = 0; d < 8; d++) score += qs![i * 8 + d]! * mean(ks!, d);
        const weight = (end - first) * Math.exp(score / Math.sqrt(8));
        for (let d = 0; d < 8; d++) sum[d]! += weight * mean(vs!, d);
        sum[8]! += weight;
      };
      for (let first = 0; first < keys; first += keyBlock) {
        const end = Math.min(first + keyBlock, keys);
        const own = Array.from({ length: end - first }, (_, n) => first + n).filter((j) => sees(i, j));
        if (own.length === 0) add(first, end);
        for (const j of own) add(j, j + 1);
      }
      // Rounding of scores below 20 whose 8 terms are summed in float32, in the exponent, of values below 5; twice that.
      for (let d = 0; d < 8; d++)
        expect(Math.abs(got[i * 8 + d]! - sum[d]! / sum[8]!)).toBeLessThan(2 * 20 * 10 * 2 ** -24 * 5);
    }
  }
});

it('stays in unions and intersections, and meets only its like', async () => {
  const g = { queries: 64, keys: 256, queryTile: 32, keyBlock: 16, estimate: true };
  using a = SparsePlan.fromBlocks([[0, 3], [2]], g);
  using b = SparsePlan.fromBlocks([[3, 7], [1]], g);
  using q = Tensor.randn([1, 64, 2, 8], { seed: 1 });
  using k = Tensor.randn([1, 256, 2, 8], { seed: 2 });
  for (const [made, lists] of [
    [
      a.union(b),
      [
        [0, 3, 7],
        [1, 2],
      ],
    ],
    [a.intersect(b), [[3], []]],
  ] as const) {
    expect(made.estimate).toBe(true);
    using same = SparsePlan.fromBlocks(lists, g);
    const [x, y] = await Promise.all([made, same].map((mask) => attention(q, k, k, { mask }).out.read()));
    expect(x).toEqual(y);
  }
  using bare = SparsePlan.fromBlocks([[0], [1]], { ...g, estimate: false });
  expect(() => a.union(bare)).toThrow(
    expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringMatching(/estimate of one plan is 1/) }),
  );
});

it('makes means of numbers whose sum is beyond float32', async () => {
  const random = uniform(5);
  const values = Float32Array.from({ length: 70 * 8 }, () => 1 + random() / 8);
  const [q, k] = [Tensor.randn([1, 16, 1, 8], { seed: 1 }), Tensor.randn([1, 70, 1, 8], { seed: 2 })];
  using mask = SparsePlan.fromBlocks([[]], { queries: 16, keys: 70, keyBlock: 64, estimate: true });
  const times = async (factor: number) => {
    using v = Tensor.from(
      values.map((x) => x * factor),
      [1, 70, 1, 8],
    );
    return ((await attention(q, k, v, { mask }).out.read()) as Float32Array).map((x) => x / factor);
  };
  // Of positive numbers: a product, a sum and a quotient, each rounded, on both sides.
  const [large, plain] = [await times(2 ** 122), await times(1)];
  expect(Math.max(...large.map((x, i) => Math.abs(x / plain[i]! - 1)))).toBeLessThan(6 * 2 ** -24);
});

it('reads keys and values of any strides', async () => {
  const grid = [1, 6, 4, 5, 2, 8];
  const mask = streamingPlan({ queries: 120, keys: 120, window: 9, keyBlock: 16, estimate: true });
  using q = Tensor.randn(grid, { seed: 1 });
  const parts = [2, 3].map((seed) =>
    Tensor.randn([1, 7, 9, 6, 2, 8], { seed }).slice([0, 1], [1, 7], [2, 6], [0, 5], [0, 2], [0, 8]),
  );
  const [k, v] = parts as [Tensor, Tensor];
  const copies = await Promise.all(parts.map(async (part) => Tensor.from(await part.read(), grid)));
  const [near, want] = [attention(q, k, v, { mask }), attention(q, copies[0]!, copies[1]!, { mask })];
  expect(await near.out.read()).toEqual(await want.out.read());
  expect(await near.lse.read()).toEqual(await want.lse.read());
});

it('counts a block for a query to which only keys behind the end of the sequence would be shown', () =>
  checkBehindEnd('cpu'));

it('takes a batch of none', async () => {
  const mask = streamingPlan({ queries: 64, keys: 64, window: 5, estimate: true });
  const none = Tensor.zeros([0, 64, 2, 8]);
  const { out, lse } = attention(none, none, none, { mask });
  expect([out.shape, lse.shape]).toEqual([
    [0, 64, 2, 8],
    [0, 64, 2],
  ]);
  expect((await out.read()).length).toBe(0);
});

describe('is refused', () => {
  const q = Tensor.zeros([1, 64, 2, 8]);
  const mask = streamingPlan({ queries: 64, keys: 64, window: 5, estimate: true });
  it.each<[string, string, RegExp, () => unknown]>([
    ['another mask', 'ERR_OPTION', /a further mask/, () => attention(q, q, q, { mask: [mask, causal()] })],
    ['a bias', 'ERR_OPTION', /bias/, () => attention(q, q, q, { mask, bias: keyBias(Tensor.zeros([64])) })],
    ['a dense bias', 'ERR_OPTION', /bias/, () => attention(q, q, q, { mask, bias: denseBias(Tensor.zeros([64, 64])) })],
    ['a softcap', 'ERR_OPTION', /softcap/, () => attention(q, q, q, { mask, softcap: 3 })],
    ['no flag', 'ERR_OPTION', /estimate is 1/, () => hipPlan(q, q, { budget: 8, estimate: 1 as never })],
  ])('with %s', (_, code, message, call) => {
    expect(call).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
  });
});
