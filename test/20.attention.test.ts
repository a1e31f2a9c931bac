// attention() against the float64 oracle: random shapes, types, masks, biases and strides, on every instruction set
// that this machine has.

import { Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { instructionSets, itAgrees } from './support/instruction-sets';
import { check, run } from './support/library';
import { decode, type Float, fromBits, normal, round, uniform } from './support/numbers';
import { type Arithmetic, attend, mergeParts, type Problem, type Result } from './support/oracle';
import { program } from './support/program';
import { expected, lowPrecision } from './support/tolerance';

const runs = Number(process.env.NODE_ATTENTION_TEST_RUNS ?? 300);

const values = (shape: number[], data: number[]) => ({ shape, data: Float64Array.from(data) });

describe('the oracle itself', () => {
  it('gives values computed by hand', () => {
    // Two keys with scores 0 and ln 3 (scale 1): probabilities 1/4 and 3/4.
    const problem: Problem = {
      q: values([1, 1, 1, 1], [1]),
      k: values([1, 2, 1, 1], [0, Math.log(3)]),
      v: values([1, 2, 1, 2], [4, 0, 8, 1]),
      scale: 1,
    };
    const plain = attend(problem);
    expect(plain.out[0]).toBeCloseTo(7, 12);
    expect(plain.out[1]).toBeCloseTo(0.75, 12);
    expect(plain.lse[0]).toBeCloseTo(Math.log(4), 12);
    // A sink of ln 4 takes half; a bias of ln 3 on the first key evens the two.
    const sunk = attend({ ...problem, sinks: values([1], [Math.log(4)]) });
    expect(sunk.out[0]).toBeCloseTo(3.5, 12);
    expect(sunk.lse[0]).toBeCloseTo(Math.log(8), 12);
    const biased = attend({ ...problem, keyBias: values([2], [Math.log(3), 0]) });
    expect(biased.out[0]).toBeCloseTo(6, 12);
    // softcap 1: the scores become tanh(0) and tanh(ln 3) = 4/5.
    const capped = attend({ ...problem, softcap: 1 });
    expect(capped.lse[0]).toBeCloseTo(Math.log(1 + Math.exp(0.8)), 12);
    // An extra key with score 0 and value (0, 8).
    const extra = { k: values([1, 1, 1, 1], [0]), v: values([1, 1, 1, 2], [0, 8]) };
    expect([...attend({ ...problem, extra }).out].map((x) => x.toFixed(12))).toEqual([
      '5.600000000000',
      '2.200000000000',
    ]);
    // Bottom-right: the only query stands at the last key, and sees just that.
    const own = attend({ ...problem, masks: [{ left: 0, right: 0 }] });
    expect(own.lse[0]).toBeCloseTo(Math.log(3), 12);
    expect(own.out[0]).toBeCloseTo(8, 12);
  });

  it('merges the parts of a split into the whole', () => {
    const random = uniform(1);
    const [q, k, v] = [2, 3, 3].map((n) => normal(random, 'float32', [1, n, 1, 4])) as [
      Problem['q'],
      Problem['k'],
      Problem['v'],
    ];
    const cut = (x: Problem['k'], from: number, to: number) =>
      values([1, to - from, 1, 4], [...x.data.subarray(4 * from, 4 * to)]);
    const parts = [
      [0, 1],
      [1, 3],
      [3, 3],
    ].map(([from, to]) => attend({ q, k: cut(k, from!, to!), v: cut(v, from!, to!) }));
    const [whole, merged] = [attend({ q, k, v }), mergeParts(parts)];
    whole.out.forEach((x, i) => {
      expect(merged.out[i]).toBeCloseTo(x, 12);
    });
    whole.lse.forEach((x, i) => {
      expect(merged.lse[i]).toBeCloseTo(x, 12);
    });
  });

  it('in low precision errs, but little', () => {
    const random = uniform(2);
    const problem = {
      q: normal(random, 'bfloat16', [1, 8, 1, 32]),
      k: normal(random, 'bfloat16', [1, 50, 1, 32]),
      v: normal(random, 'bfloat16', [1, 50, 1, 32]),
    };
    const exact = attend(problem);
    for (const [dtype, least, most] of [
      ['float32', 1e-9, 1e-5],
      ['float16', 1e-5, 2e-3],
      ['bfloat16', 1e-4, 2e-2],
    ] as const) {
      const plain = attend(problem, lowPrecision(dtype));
      const error = Math.max(...plain.out.map((x, i) => Math.abs(x - exact.out[i]!)));
      expect(error).toBeGreaterThan(least);
      expect(error).toBeLessThan(most);
    }
  });

  it('comes with tolerances that refuse less than float32 sums', () => {
    const random = uniform(6);
    const problem: Problem = {
      q: normal(random, 'bfloat16', [1, 8, 1, 64]),
      k: normal(random, 'bfloat16', [1, 400, 1, 64]),
      v: normal(random, 'bfloat16', [1, 400, 1, 64]),
    };
    const fails = (other: Result, dtype: Float) => {
      const { out, lse, tolerance } = expected(problem, dtype);
      const over = (a: Float64Array, b: Float64Array, most: number) => a.some((x, i) => Math.abs(x - b[i]!) > most);
      return [over(other.out, out, tolerance.out), over(other.lse, lse, tolerance.lse)];
    };
    for (const dtype of ['float32', 'float16', 'bfloat16'] as const) {
      const precise = lowPrecision(dtype);
      expect(fails(attend(problem, precise), dtype)).toEqual([false, false]);
      // Output summed, or scores kept, in a half type; for float32, scores from operands of 8 bits.
      const short = dtype === 'float32' ? 'bfloat16' : dtype;
      const narrow = (x: number) => round(short, x);
      const accumulate: Arithmetic['accumulate'] = (sums, p, v, j) => {
        for (let c = 0; c < sums.length; c++) sums[c] = narrow(sums[c]! + p * v[j + c]!);
      };
      expect(fails(attend(problem, { ...precise, accumulate }), dtype)).toEqual([true, false]);
      const dot: Arithmetic['dot'] = (...args) => narrow(precise.dot(...args));
      expect(fails(attend(problem, { ...precise, dot }), dtype)[1]).toBe(true);
      // One key of 400 left out.
      const cut = ({ data }: Problem['k']) => values([1, 399, 1, 64], [...data.subarray(64)]);
      expect(fails(attend({ ...problem, k: cut(problem.k), v: cut(problem.v) }), dtype)).toEqual([true, true]);
    }
  });

  it('rounds to the formats as their definitions say', () => {
    expect(round('bfloat16', 1 + 2 ** -8)).toBe(1); // tie to even
    expect(round('bfloat16', 1 + 3 * 2 ** -8)).toBe(1 + 2 ** -6);
    expect(round('float16', 65519)).toBe(65504);
    expect(round('float16', -65520)).toBe(Number.NEGATIVE_INFINITY);
    expect(round('float16', 2 ** -25)).toBe(0);
    expect(round('float32', 0.1)).toBe(Math.fround(0.1));
    expect(fromBits('float16', 0x3555)).toBe(0.333251953125);
    expect(fromBits('bfloat16', 0xc0a0)).toBe(-5);
  });
});

describe('attention', () => {
  itAgrees('equals the oracle on random problems', 'any', runs, 20250);

  it.each(instructionSets)(
    'is right for infinities, tiny and huge numbers with %s',
    async (isa) => {
      expect(await program('extremes.ts', [], { NODE_ATTENTION_CPU: isa })).toBe(`${isa}: 60 problems agree`);
    },
    60_000,
  );

  it('takes every headDim from 1 to 512', async () => {
    const random = uniform(3);
    for (const dtype of ['float32', 'bfloat16'] as const) {
      for (let dim = 1; dim <= 512; dim += dim < 140 ? 1 : 31) {
        const k = normal(random, dtype, [1, 19, 1, dim]);
        await check({ q: normal(random, dtype, [1, 3, 1, dim]), k, v: k }, dtype, dim);
        const v = normal(random, dtype, [1, 3, 1, dim]);
        await check({ q: normal(random, dtype, [1, 2, 2, 7]), k: normal(random, dtype, [1, 3, 1, 7]), v }, dtype, dim);
      }
    }
    const k = normal(random, 'float32', [1, 5, 1, 512]);
    await check({ q: normal(random, 'float32', [1, 2, 1, 512]), k, v: k });
  });

  it('keeps scores of any magnitude', async () => {
    const random = uniform(4);
    const problem = (scale: number) => ({
      q: normal(random, 'float32', [1, 20, 1, 16]),
      k: normal(random, 'float32', [1, 90, 1, 16]),
      v: normal(random, 'float32', [1, 90, 1, 16]),
      scale,
    });
    for (const scale of [100, -100, 1e4, 1e-20]) await check(problem(scale));
  });

  it('gives 0 and -Infinity without keys, and nothing without queries', async () => {
    const empty = values([1, 0, 1, 4], []);
    const q = normal(uniform(5), 'float32', [1, 3, 1, 4]);
    const none = await run({ q, k: empty, v: empty }, 'float32', 1);
    expect([...none.out]).toEqual(new Array(12).fill(0));
    expect([...none.lse]).toEqual(new Array(3).fill(Number.NEGATIVE_INFINITY));
    const nobody = await run({ q: empty, k: q, v: q }, 'float32');
    expect([nobody.out.length, nobody.lse.length]).toEqual([0, 0]);
  });

  it('names its results by the contract', async () => {
    const q = Tensor.randn([2, 3, 4, 6, 8], { seed: 1, dtype: 'float16' });
    const k = Tensor.randn([2, 3, 4, 2, 8], { seed: 2, dtype: 'float16' });
    const v = Tensor.randn([2, 3, 4, 2, 5], { seed: 3, dtype: 'float16' });
    const { attention } = await import('node-attention');
    const { out, lse } = attention(q, k, v);
    expect([out.shape, out.dtype, out.device]).toEqual([[2, 3, 4, 6, 5], 'float16', 'cpu']);
    expect([lse.shape, lse.dtype, lse.device]).toEqual([[2, 3, 4, 6], 'float32', 'cpu']);
    expect(decode('float16', await out.read()).every(Number.isFinite)).toBe(true);
  });
});
