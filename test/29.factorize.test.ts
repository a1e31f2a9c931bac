// factorizeBias(): matrices made of known singular values, so that the best possible error is known too.

import { attention, denseBias, factorizeBias, keyBias, lowRankBias, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { expectResult } from './support/library';
import { uniform } from './support/numbers';
import { expected } from './support/tolerance';

/** `count` orthonormal vectors of a length, by Gram and Schmidt's method, twice. */
function orthonormal(random: () => number, count: number, length: number): Float64Array[] {
  const vectors: Float64Array[] = [];
  for (let n = 0; n < count; n++) {
    const x = Float64Array.from({ length }, () => random() - 0.5);
    for (let turn = 0; turn < 2; turn++) {
      for (const y of vectors) {
        const product = x.reduce((sum, a, i) => sum + a * y[i]!, 0);
        for (let i = 0; i < length; i++) x[i]! -= product * y[i]!;
      }
    }
    const norm = Math.sqrt(x.reduce((sum, a) => sum + a * a, 0));
    vectors.push(x.map((a) => a / norm));
  }
  return vectors;
}

function matrixOf(seed: number, rows: number, columns: number, singular: number[]): Float32Array {
  const random = uniform(seed);
  const left = orthonormal(random, singular.length, rows);
  const right = orthonormal(random, singular.length, columns);
  const sums = new Float64Array(rows * columns);
  singular.forEach((s, n) => {
    for (let i = 0; i < rows; i++) {
      const own = s * left[n]![i]!;
      for (let j = 0; j < columns; j++) sums[i * columns + j]! += own * right[n]![j]!;
    }
  });
  return Float32Array.from(sums);
}

const squares = (values: number[]) => values.reduce((sum, x) => sum + x * x, 0);
const decaying = (count: number, ratio: number) => Array.from({ length: count }, (_, n) => 5 * ratio ** n);

describe('factorizeBias', () => {
  it.each([
    [40, 90],
    [128, 33],
    [150, 300],
    [301, 200],
  ])('of a matrix of %i x %i lacks the tail of the singular values', async (rows, columns) => {
    const singular = decaying(25, 0.8);
    const dense = Tensor.from(matrixOf(rows, rows, columns, singular), [rows, columns]);
    for (const rank of [1, 7, 25]) {
      const best = Math.sqrt(squares(singular.slice(rank)) / squares(singular));
      const { phiQ, phiK, relativeError, ...made } = await factorizeBias(dense, { rank });
      expect(made).toMatchObject({ rank, ranks: [rank] });
      expect(phiQ.shape).toEqual([1, rows, 1, rank]);
      expect(phiK.shape).toEqual([1, columns, 1, rank]);
      // The matrix and its factors are rounded to float32, which is what remains where the tail is empty.
      expect(Math.abs(relativeError - best)).toBeLessThan(1e-6 + 1e-4 * best);
      // The error told is that of the factors given.
      const [a, b] = [phiQ.data, phiK.data];
      const values = dense.data as Float32Array;
      let lacking = 0;
      values.forEach((value, at) => {
        const [i, j] = [Math.floor(at / columns), at % columns];
        let sum = 0;
        for (let r = 0; r < rank; r++) sum += a[i * rank + r]! * b[j * rank + r]!;
        lacking += (value - sum) ** 2;
      });
      expect(relativeError).toBeCloseTo(Math.sqrt(lacking / squares([...values])), 9);
    }
  });

  it('finds the least rank of each head that reaches an energy', async () => {
    const [rows, columns] = [150, 140];
    const ratios = [0.5, 0.9, 0.7, 0.3];
    const data = new Float32Array(4 * rows * columns);
    for (const [n, ratio] of ratios.entries()) {
      data.set(matrixOf(n, rows, columns, decaying(60, ratio)), n * rows * columns);
    }
    const dense = Tensor.from(data, [2, 2, rows, columns]);
    const leastFor = (ratio: number, energy: number) => {
      const all = decaying(60, ratio);
      return all.findIndex((_, n) => squares(all.slice(0, n + 1)) >= energy * squares(all)) + 1;
    };
    const { phiQ, rank, ranks, relativeErrors } = await factorizeBias(dense, { energy: 0.995 });
    expect(ranks).toEqual(ratios.map((ratio) => leastFor(ratio, 0.995)));
    expect(rank).toBe(Math.max(...ranks));
    expect(phiQ.shape).toEqual([2, rows, 2, rank]);
    for (const error of relativeErrors) expect(error).toBeLessThanOrEqual(Math.sqrt(0.005) + 1e-6);
    // As many as it takes, where there is no end of them.
    const noise = Tensor.randn([300, 310], { seed: 5 });
    const whole = await factorizeBias(noise, { energy: 0.9999 });
    expect(whole.relativeError).toBeLessThanOrEqual(0.01);
    expect(whole.rank).toBeGreaterThan(256);
    // With too few columns allowed, a head keeps those and tells what is lacking.
    const few = await factorizeBias(dense, { energy: 0.995, maxRank: 3 });
    expect(few.ranks).toEqual(ratios.map((ratio) => Math.min(leastFor(ratio, 0.995), 3)));
    const all = decaying(60, 0.9);
    expect(few.relativeErrors[1]).toBeCloseTo(Math.sqrt(squares(all.slice(3)) / squares(all)), 4);
  });

  it('gives what lowRankBias takes', async () => {
    const [heads, rows, columns] = [3, 40, 70];
    const data = new Float32Array(heads * rows * columns);
    for (let h = 0; h < heads; h++) {
      data.set(matrixOf(h, rows, columns, decaying(h + 2, 0.9)), h * rows * columns);
    }
    const dense = Tensor.from(data, [heads, rows, columns]);
    const { phiQ, phiK, rank } = await factorizeBias(dense, { energy: 1 - 1e-9 });
    expect(rank).toBe(4);
    const q = Tensor.randn([1, rows, heads, 16], { seed: 1 });
    const k = Tensor.randn([1, columns, heads, 16], { seed: 2 });
    const [want, got] = [denseBias(dense), lowRankBias(phiQ, phiK)].map((bias) => attention(q, k, k, { bias }).lse);
    const expected = await want!.read();
    (await got!.read()).forEach((x, n) => {
      expect(Number(x)).toBeCloseTo(Number(expected[n]), 4);
    });
  });

  describe('heads that need more columns than maxRank', () => {
    const [rows, columns, energy, maxRank] = [45, 70, 0.995, 8];
    /** A bias [batch, heads, rows, columns] whose singular values decay by the ratios given. */
    const biasOf = (ratios: number[][]): Tensor<'float32'> => {
      const heads = ratios[0]!.length;
      const data = new Float32Array(ratios.length * heads * rows * columns);
      for (const [n, ratio] of ratios.flat().entries()) {
        data.set(matrixOf(n, rows, columns, decaying(30, ratio)), n * rows * columns);
      }
      return Tensor.from(data, [ratios.length, heads, rows, columns]);
    };
    const zeros = (batch: number, tokens: number, heads: number) => Tensor.zeros([batch, tokens, heads, 8]);

    it('stay dense, alone', async () => {
      const dense = biasOf([[0.5, 0.95, 0.6, 0.9]]);
      const made = await factorizeBias(dense, { energy, maxRank });
      expect(made).toMatchObject({ denseHeads: [1, 3], rank: maxRank });
      expect(made.bias.map((bias) => bias.explain())).toMatchObject([
        { name: 'lowRankBias', elements: 4 * (rows + columns) * Math.max(made.ranks[0]!, made.ranks[2]!) },
        { name: 'denseBias', elements: 2 * rows * columns, text: expect.stringContaining('of heads 1, 3.') },
      ]);
      const [q, k] = [Tensor.randn([1, rows, 4, 16], { seed: 1 }), Tensor.randn([1, columns, 4, 16], { seed: 2 })];
      const got = attention(q, k, k, { bias: made.bias });
      const whole = attention(q, k, k, { bias: denseBias(dense) });
      for (const key of ['out', 'lse'] as const) {
        const [x, y] = await Promise.all([got[key].read(), whole[key].read()]);
        const ofHead = (values: typeof x, h: number) =>
          [...(values as Float32Array)].filter((_, n) => Math.floor(n / (x.length / rows / 4)) % 4 === h);
        for (const h of [1, 3]) expect(ofHead(x, h)).toEqual(ofHead(y, h));
        for (const h of [0, 2]) expect(ofHead(x, h)).not.toEqual(ofHead(y, h));
      }
      // The same as float64 makes of the factors and of the dense heads.
      const kept = ({ data, shape }: Tensor<'float32'>) => ({
        shape: [...shape],
        data: Float64Array.from(data, (x, n) => ((Math.floor(n / maxRank) % 4) % 2 ? 0 : x)),
      });
      const values = (tensor: Tensor) => ({
        shape: [...tensor.shape],
        data: Float64Array.from(tensor.data as Float32Array),
      });
      const size = rows * columns;
      const kinds = [1, 3].flatMap((h) => [...dense.data.subarray(h * size, (h + 1) * size)]);
      const want = expected(
        {
          q: values(q),
          k: values(k),
          v: values(k),
          lowRank: { q: kept(made.phiQ), k: kept(made.phiK) },
          denseBias: { shape: [2, rows, columns], data: Float64Array.from(kinds), heads: [1, 3] },
        },
        'float32',
      );
      expectResult(
        {
          out: Float64Array.from((await got.out.read()) as Float32Array),
          lse: Float64Array.from((await got.lse.read()) as Float32Array),
        },
        want,
      );
    });

    it('reach the energy like all others, for every entry of a batch', async () => {
      // Head 2 needs too many columns in the second entry alone, and is dense in both.
      const dense = biasOf([
        [0.5, 0.95, 0.6],
        [0.6, 0.5, 0.9],
      ]);
      const { bias, denseHeads } = await factorizeBias(dense, { energy, maxRank });
      expect(denseHeads).toEqual([1, 2]);
      const lacking = new Float64Array(6);
      const norms = new Float64Array(6);
      for (let j = 0; j < columns; j++) {
        // With one key that is not hidden, and scores of 0, lse is the bias.
        const hide = keyBias(
          Tensor.from(new Float32Array(columns).fill(Number.NEGATIVE_INFINITY).fill(0, j, j + 1), [columns]),
        );
        const { lse } = attention(zeros(2, rows, 3), zeros(2, columns, 3), zeros(2, columns, 3), {
          bias: [...bias, hide],
        });
        (await lse.read()).forEach((x, n) => {
          const [b, i, h] = [Math.floor(n / 3 / rows), Math.floor(n / 3) % rows, n % 3];
          const value = dense.data[((b * 3 + h) * rows + i) * columns + j]!;
          // In units of log 2 and back: three roundings.
          if (h > 0) expect(Math.abs(Number(x) - value)).toBeLessThanOrEqual(4 * 2 ** -24 * Math.abs(value));
          lacking[b * 3 + h]! += (Number(x) - value) ** 2;
          norms[b * 3 + h]! += value ** 2;
        });
      }
      lacking.forEach((x, n) => {
        expect(1 - x / norms[n]!).toBeGreaterThanOrEqual(energy - 1e-6); // the factors are rounded to float32
      });
    });

    it('may be all, or none', async () => {
      const all = await factorizeBias(biasOf([[0.9, 0.95]]), { energy, maxRank });
      expect(all.denseHeads).toEqual([0, 1]);
      expect(all.bias.map((bias) => bias.explain().name)).toEqual(['denseBias']);
      for (const options of [{ energy }, { rank: 5 }, { energy, maxRank: 45 }, { energy: 1 }]) {
        const none = await factorizeBias(biasOf([[0.9, 0.95]]), options);
        expect(none.denseHeads).toEqual([]);
        expect(none.bias.map((bias) => bias.explain().name)).toEqual(['lowRankBias']);
      }
    });
  });

  it('takes a bias of zeros, and one of one number', async () => {
    const zeros = await factorizeBias(Tensor.zeros([5, 300]), { energy: 0.9 });
    expect(zeros).toMatchObject({ rank: 1, relativeError: 0 });
    const one = await factorizeBias(Tensor.from(Float32Array.of(3), [1, 1]), { rank: 1 });
    expect(one.relativeError).toBeLessThan(1e-6);
  });

  it('refuses what cannot be factorized', async () => {
    const dense = Tensor.zeros([20, 30]);
    const wrong = (tensor: unknown, options: unknown) => () =>
      factorizeBias(tensor as Tensor, options as { rank: number });
    expect(wrong(dense, {})).toThrow(/rank and energy, not none/);
    for (const rank of [0, 3]) expect(wrong(dense, { rank, energy: 0.9 })).toThrow(/rank and energy, not both/);
    expect(wrong(dense, { rank: 21 })).toThrow(/rank is 21.*20/);
    expect(wrong(dense, { rank: 0 })).toThrow(/rank is 0/);
    expect(wrong(dense, { rank: 2, maxRank: 3 })).toThrow(/maxRank is 3/);
    expect(wrong(dense, { energy: 1.1 })).toThrow(/energy is 1.1/);
    expect(wrong(Tensor.zeros([20]), { rank: 1 })).toThrow(/\[20\].*\[Lq, Lk\]/);
    expect(wrong(dense.to('float16'), { rank: 1 })).toThrow(/float16.*float32/);
    const hidden = Tensor.from(Float32Array.of(0, Number.NEGATIVE_INFINITY), [1, 2]);
    await expect(factorizeBias(hidden, { rank: 1 })).rejects.toMatchObject({ code: 'ERR_OPTION' });
  });
});
