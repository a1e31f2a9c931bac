// A few queries against many keys: several key heads share a tile, and the keys are split into parts whose sums are
// merged. With the sizes here there are at least four parts.

import { attention, keyBias, merge, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { itAgrees } from './support/instruction-sets';
import { check, expectResult, run, tensorOf } from './support/library';
import { decode, type Float, normal, uniform, type Values } from './support/numbers';
import type { Problem } from './support/oracle';
import { expected } from './support/tolerance';

const runs = Math.ceil(Number(process.env.NODE_ATTENTION_TEST_RUNS ?? 300) / 3);

interface Sizes {
  batch?: number;
  lq?: number;
  lk?: number;
  heads?: number;
  kvHeads?: number;
  seed?: number;
}

const [dim, vDim] = [64, 40];

function problem(dtype: Float, sizes: Sizes = {}): Problem {
  const { batch = 1, lq = 1, lk = 2100, kvHeads = 4, heads = kvHeads, seed = 1 } = sizes;
  const random = uniform(seed);
  return {
    q: normal(random, dtype, [batch, lq, heads, dim]),
    k: normal(random, dtype, [batch, lk, kvHeads, dim]),
    v: normal(random, dtype, [batch, lk, kvHeads, vDim]),
  };
}

const filled = (shape: number[], value: (i: number) => number): Values => {
  const data = Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => value(i));
  return { shape, data };
};

itAgrees('equals the oracle on random problems', 'decode', runs, 20251);

describe.each(['float32', 'float16', 'bfloat16'] as const)('%s', (dtype) => {
  it.each([
    { kvHeads: 1 },
    { kvHeads: 4 },
    { kvHeads: 3, heads: 6 },
    { kvHeads: 2, heads: 6 },
    { kvHeads: 2, heads: 16 },
    { kvHeads: 35, lk: 300 },
    { batch: 3, kvHeads: 2 },
    { lq: 2, kvHeads: 2 },
    { lq: 3, kvHeads: 2, heads: 4 },
  ])('equals the oracle with %o, in whichever order memory lies', async (sizes) => {
    const p = problem(dtype, sizes);
    await check(p, dtype);
    for (const seed of [1, 2, 3]) await check(p, dtype, seed);
  });

  it('with windows that begin, end and lie anywhere', async () => {
    for (const left of [-1, 0, 1, 63, 500, 1600]) {
      for (const lq of [1, 2]) await check({ ...problem(dtype, { lq }), masks: [{ left, right: 0 }] }, dtype, left + 2);
    }
    await check(
      {
        ...problem(dtype, { lq: 2 }),
        masks: [
          { left: 1900, right: -1 },
          { left: -1, right: 0 },
        ],
      },
      dtype,
    );
  });

  it('counts sinks and extra keys once', async () => {
    const p = problem(dtype, { kvHeads: 2, heads: 4 });
    const sinks = filled([4], (i) => 3 * i);
    const { k, v } = problem(dtype, { lk: 70, kvHeads: 2, seed: 2 });
    for (const seed of [undefined, 4, 5]) {
      await check({ ...p, sinks, extra: { k, v } }, dtype, seed);
      await check({ ...p, sinks, extra: { k, v }, masks: [{ left: 900, right: 0 }] }, dtype, seed);
    }
  });

  it('with biases and a cap', async () => {
    const p = problem(dtype, { kvHeads: 2, heads: 4 });
    const random = uniform(3);
    const bias = normal(random, 'float32', [1, 4, 1, 2100]);
    await check({ ...p, keyBias: normal(random, 'float32', [2100]), denseBias: bias, softcap: 2 }, dtype, 6);
  });

  it('with sequences of very different lengths', async () => {
    const lengths = [3, 0, 1500, 2, 2200, 64];
    const ends = lengths.map((_, i) => lengths.slice(0, i + 1).reduce((a, b) => a + b, 0));
    const k = [0, ...ends];
    for (const [kvHeads, heads] of [
      [4, 4],
      [2, 6],
    ]) {
      const p = problem(dtype, { lq: lengths.length, lk: k.at(-1)!, kvHeads, heads });
      for (const q of [
        [0, 1, 2, 3, 4, 5, 6],
        [0, 1, 1, 2, 2, 4, 5],
      ]) {
        await check({ ...p, cuSeqlens: { q, k } }, dtype, 7);
        await check({ ...p, cuSeqlens: { q, k }, masks: [{ left: 1000, right: 0 }] }, dtype, 8);
      }
    }
  });

  it('keeps scores of any magnitude', async () => {
    for (const scale of [10, -10, 1e4, 1e-20]) await check({ ...problem(dtype, { kvHeads: 2 }), scale }, dtype);
  });

  it('keys cut anywhere by the caller merge to the whole', async () => {
    const p = problem(dtype, { kvHeads: 2, heads: 4 });
    const [q, k, v] = [p.q, p.k, p.v].map((x) => tensorOf(x, dtype)) as [Tensor, Tensor, Tensor];
    const cuts = [0, 1, 700, 700, 2099, 2100];
    const parts = cuts.slice(1).map((to, n) => {
      const ranges = [[0, 1] as const, [cuts[n]!, to] as const];
      return attention(q, k.slice(...ranges), v.slice(...ranges));
    });
    const { out, lse } = merge(parts);
    const got = { out: decode(dtype, await out.read()), lse: decode('float32', await lse.read()) };
    // The parts were rounded too, each within its own tolerance, and the weights sum to 1.
    const want = expected(p, dtype);
    expectResult(got, { ...want, tolerance: { out: 2 * want.tolerance.out, lse: 2 * want.tolerance.lse } });
  });

  it('is the same bit for bit, however threads take turns', async () => {
    const p = problem(dtype, { lk: 5000 });
    const [q, k, v] = [p.q, p.k, p.v].map((x) => tensorOf(x, dtype)) as [Tensor, Tensor, Tensor];
    const bias = keyBias(Tensor.zeros([5000]));
    const all = Array.from({ length: 100 }, () => attention(q, k, v, { bias }));
    const [outs, lses] = [[], []] as [unknown[], unknown[]];
    for (const { out, lse } of all) {
      outs.push(await out.read());
      lses.push(await lse.read());
    }
    for (const out of outs) expect(out).toEqual(outs[0]);
    for (const lse of lses) expect(lse).toEqual(lses[0]);
  });

  it('ignores parts in which no key counts', async () => {
    const p = problem(dtype);
    for (const [from, to] of [
      [0, 0],
      [5, 6],
      [1200, 1203],
      [2099, 2100],
    ] as const) {
      const bias = filled([2100], (i) => (i >= from && i < to ? 0 : Number.NEGATIVE_INFINITY));
      await check({ ...p, keyBias: bias }, dtype, 9);
    }
  });
});

it('a score far above the others wins, whichever part has it', async () => {
  for (const at of [0, 700, 1400, 2099]) {
    const p = problem('float32');
    const bias = filled([2100], (i) => (i === at ? 1e30 : 0));
    const { out } = await run({ ...p, keyBias: bias }, 'float32');
    expect([...out]).toEqual([...p.v.data.subarray(at * 4 * vDim, (at + 1) * 4 * vDim)]);
  }
});

it('NaN and Infinity of a key reach the heads that see it, and no other', async () => {
  for (const at of [0, 1000, 2099]) {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const p = problem('float32');
      p.k.data[(at * 4 + 2) * dim] = bad;
      p.v.data[(at * 4 + 1) * vDim + 3] = bad;
      const { out, lse } = await run(p, 'float32');
      const wrong = [...out.keys()].filter((i) => !Number.isFinite(out[i]));
      const minus = bad * p.q.data[2 * dim]! === Number.NEGATIVE_INFINITY; // no weight at all
      expect(wrong).toEqual([vDim + 3, ...(minus ? [] : Array.from({ length: vDim }, (_, i) => 2 * vDim + i))]);
      expect(Number.isFinite(lse[1])).toBe(true);
    }
  }
});
