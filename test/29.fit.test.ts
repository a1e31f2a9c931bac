// fitBias(): its gradients against differences, biases whose rank is known, and the error that it tells.

import { AttentionError, attention, type FitOptions, fitBias, lowRankBias, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { createNetwork, forward, gradient, lacking, randomNumbers } from '../lib/mlp';
import { uniform } from './support/numbers';

function features(seed: number, rows: number, width: number): Float32Array {
  const random = uniform(seed);
  return Float32Array.from({ length: rows * width }, () => 2 * random() - 1);
}

const tensorOf = (data: Float32Array, width: number) => Tensor.from(data, [data.length / width, width]);

describe('networks', () => {
  it('have the gradients that differences show', () => {
    const random = randomNumbers(3);
    const [heads, rank] = [2, 3];
    const rows = [features(1, 5, 2), features(2, 4, 3)] as const;
    const [left, right] = [
      createNetwork([2, 4, 5, heads * rank], rows[0], random),
      createNetwork([3, 6, heads * rank], rows[1], random),
    ];
    const bias = Float64Array.from({ length: heads * 5 * 4 }, () => random());
    const lossOf = () => {
      const [q, k] = [forward(left, rows[0]).at(-1)!, forward(right, rows[1]).at(-1)!];
      return lacking({ heads, rank, q, k, bias });
    };
    const found = lossOf();
    for (const [network, own, slopes] of [
      [left, rows[0], found.q],
      [right, rows[1], found.k],
    ] as const) {
      const told = gradient(network, forward(network, own), slopes);
      const step = 1e-5;
      told.forEach((slope, n) => {
        const before = network.parameters[n]!;
        network.parameters[n] = before + step;
        const above = lossOf().loss;
        network.parameters[n] = before - step;
        const below = lossOf().loss;
        network.parameters[n] = before;
        // The central difference is off by step² times the third derivative, and by rounding of the loss over the step.
        expect(Math.abs(slope - (above - below) / (2 * step))).toBeLessThan(1e-7 * (1 + found.loss));
      });
    }
  });
});

const quick = { hidden: [16, 16], steps: 800, batch: 32, seed: 1 };
const norm = (values: number[]) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));

describe('fitBias', () => {
  it('fits a bias of known rank, and tells the error of the rows it held out', async () => {
    const [Lq, Lk, heads] = [70, 60, 2];
    const [x, y] = [features(1, Lq, 2), features(2, Lk, 1)];
    // Of rank 2 for each head.
    const at = (h: number, i: number, j: number) =>
      (h + 1) * (x[2 * i]! * y[j]! + Math.sin(2 * x[2 * i + 1]!) * (y[j]! ** 2 - 0.5));
    const dense = Float32Array.from({ length: heads * Lq * Lk }, (_, n) =>
      at(Math.floor(n / (Lq * Lk)), Math.floor(n / Lk) % Lq, n % Lk),
    );
    const bias = Tensor.from(dense, [heads, Lq, Lk]);
    const heard: number[] = [];
    const options: FitOptions = { q: tensorOf(x, 2), k: tensorOf(y, 1), rank: 2, ...quick };
    const fitted = await fitBias(bias, { ...options, progress: ({ step, steps }) => heard.push(step / steps) });
    expect(fitted.phiQ.shape).toEqual([1, Lq, heads, 2]);
    expect(fitted.phiK.shape).toEqual([1, Lk, heads, 2]);
    // A rank too low would lack a third or more; sums of squares of both parts are alike.
    expect(fitted.relativeError).toBeLessThan(0.15);
    expect(fitted.trainingError).toBeLessThan(0.1);
    expect(heard.at(-1)).toBe(1);
    expect(heard).toHaveLength(100);

    // The errors told are those of the factors given.
    const [a, b] = [fitted.phiQ.data, fitted.phiK.data] as [Float32Array, Float32Array];
    const { queries, keys } = fitted.heldOut;
    expect([queries.length, keys.length]).toEqual([7, 6]);
    const errorOf = (some: (i: number, j: number) => boolean) => {
      const [off, all]: [number[], number[]] = [[], []];
      for (let n = 0; n < dense.length; n++) {
        const [h, i, j] = [Math.floor(n / (Lq * Lk)), Math.floor(n / Lk) % Lq, n % Lk];
        if (!some(i, j)) continue;
        const [own, other] = [(i * heads + h) * 2, (j * heads + h) * 2];
        off.push(dense[n]! - a[own]! * b[other]! - a[own + 1]! * b[other + 1]!);
        all.push(dense[n]!);
      }
      return norm(off) / norm(all);
    };
    expect(fitted.relativeError).toBeCloseTo(
      errorOf((i, j) => queries.includes(i) && keys.includes(j)),
      5,
    );
    expect(fitted.trainingError).toBeCloseTo(
      errorOf((i, j) => !queries.includes(i) && !keys.includes(j)),
      5,
    );

    // The same seed gives the same factors, another one others.
    const again = await fitBias(bias, options);
    expect(again.phiQ.data).toEqual(fitted.phiQ.data);
    expect(again.relativeError).toBe(fitted.relativeError);
    const other = await fitBias(bias, { ...options, seed: 2, steps: 10 });
    expect(other.phiQ.data).not.toEqual(fitted.phiQ.data);
  });

  it('fits a distance, given as a function, and serves points that come later', async () => {
    const points = features(3, 150, 2);
    const distance = (x: Float32Array, y: Float32Array) => -((x[0]! - y[0]!) ** 2 + (x[1]! - y[1]!) ** 2);
    const places = tensorOf(points, 2);
    const fitted = await fitBias(distance, { q: places, k: places, rank: 5, samples: 100, ...quick, steps: 1200 });
    expect(fitted.relativeError).toBeLessThan(0.1);
    const later = features(9, 33, 2);
    const { phiQ, phiK } = await fitted.factors({ q: tensorOf(later, 2), k: places });
    expect(phiK.data).toEqual(fitted.phiK.data);
    expect(phiQ.shape).toEqual([1, 33, 1, 5]);
    // As a bias: scores are nothing else, and each query sees one key.
    const q = Tensor.zeros([33, 1, 1, 1]);
    const { lse } = attention(q, q, q, {
      bias: lowRankBias(phiQ.permute(1, 0, 2, 3), phiK.slice([0, 1], [0, 33]).permute(1, 0, 2, 3)),
    });
    const [off, all]: [number[], number[]] = [[], []];
    (await lse.read()).forEach((x, i) => {
      const want = distance(later.subarray(2 * i, 2 * i + 2), points.subarray(2 * i, 2 * i + 2));
      off.push(Number(x) - want);
      all.push(want);
    });
    expect(norm(off) / norm(all)).toBeLessThan(0.2);
  });

  it('takes two rows of each, and a bias of zeros', async () => {
    const two = Tensor.from(Float32Array.of(1, 2), [2, 1]);
    const zeros = await fitBias(Tensor.zeros([2, 2]), { q: two, k: two, rank: 1, steps: 2 });
    expect(zeros.heldOut.queries).toHaveLength(1);
    expect(Number.isNaN(zeros.relativeError)).toBe(false);
    const same = await fitBias(() => 3, { q: two, k: two, rank: 1, steps: 300, hidden: [] });
    expect(same.trainingError).toBeLessThan(0.05);
  });

  it('refuses what cannot be fitted', async () => {
    const [q, k] = [Tensor.zeros([6, 2]), Tensor.zeros([5, 3])];
    const dense = Tensor.zeros([6, 5]);
    const wrong = (target: unknown, more: object, remove?: string) => () => {
      const options: Record<string, unknown> = { q, k, rank: 1, ...more };
      if (remove) delete options[remove];
      return fitBias(target as Tensor, options as unknown as FitOptions);
    };
    expect(wrong(dense, {}, 'rank')).toThrow(/rank is undefined/);
    expect(wrong(dense, {}, 'q')).toThrow(/fitBias: q/);
    expect(wrong(dense, { rnak: 1 })).toThrow(/'rnak' is not known/);
    expect(wrong(dense, { rank: 1.5 })).toThrow(/rank is 1.5/);
    expect(wrong(dense, { heads: 2 })).toThrow(/heads is 2; the bias has 1/);
    expect(wrong(Tensor.zeros([5, 6]), {})).toThrow(/\[5, 6\].*\[6, 5\] or \[heads, 6, 5\]/);
    expect(wrong(dense.to('float16'), {})).toThrow(/the bias is float16/);
    expect(wrong('cosine', {})).toThrow(AttentionError);
    expect(wrong(dense, { q: Tensor.zeros([6]) })).toThrow(/q has shape \[6\]; it must be \[tokens, features\]/);
    expect(wrong(dense, { k: k.to('bfloat16') })).toThrow(/k is bfloat16/);
    expect(wrong(() => 1, { q: Tensor.zeros([1, 2]) })).toThrow(/q has one row/);
    for (const [name, value] of Object.entries({
      hidden: 8,
      steps: 0,
      batch: -1,
      learningRate: 0,
      samples: 1,
      heldOut: 1,
      seed: -1,
      progress: 'often',
    })) {
      expect(wrong(dense, { [name]: value })).toThrow(new RegExp(`${name} is '?${value}`));
    }
    expect(wrong(dense, { hidden: [4, 0] })).toThrow(/hidden\[1\] is 0/);
    expect(wrong(dense, { hidden: [1e6, 1e6] })).toThrow(/parameters are more than 4194304/);
    expect(wrong(() => 1, { heads: 1e9 })).toThrow(/more than/);
    await expect(wrong(() => Number.NaN, {})()).rejects.toMatchObject({ code: 'ERR_OPTION' });
    await expect(wrong(() => 'much', {})()).rejects.toThrow(/the function gave 'much'/);
    const broken = Tensor.from(new Float32Array(12).fill(Number.NaN), [6, 2]);
    await expect(wrong(dense, { q: broken })()).rejects.toThrow(/q has values that are not finite/);
    const own = new Error('enough');
    const stop = () => {
      throw own;
    };
    await expect(wrong(stop, {})()).rejects.toBe(own);
    await expect(wrong(dense, { steps: 50, progress: stop })()).rejects.toBe(own);
    const [goneQ, goneK] = [Tensor.randn([6, 2], { seed: 1 }), Tensor.randn([5, 3], { seed: 2 })];
    const fitting = wrong(() => 1, { q: goneQ, k: goneK, steps: 1 })();
    for (const tensor of [goneQ, goneK]) tensor.dispose(); // they were read at the call
    expect((await fitting).phiK.shape.slice(0, 2)).toEqual([1, 5]);
    const { factors } = await wrong(dense, { steps: 1 })();
    expect(() => factors({ q: k, k })).toThrow(/factors: q has shape \[5, 3\]; it must be \[tokens, 2\]/);
  });
});
