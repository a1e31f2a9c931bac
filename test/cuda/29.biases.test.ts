// Biases of low rank and by formula on Hopper, on wgmma where there are queries enough.
import './support/device'; // before node-attention
import {
  alibi,
  attention,
  type Bias,
  denseBias,
  factorizeBias,
  KvCache,
  keyBias,
  lowRankBias,
  SparsePlan,
  Stream,
  Tensor,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { check, expectedOn, expectResult, run, tensorOf } from '../support/library';
import type { Float, Values } from '../support/numbers';
import { normals, plainProblem, testBiases } from './support/biases';
import { interpreted, lastKernel, missing, schedule, schedules, title } from './support/device';

testBiases('biases on Hopper', 2);

describe.skipIf(missing)(title('biases'), () => {
  it.each([64, 96, 128, 192, 256])('headDim %i on wgmma', async (dim) => {
    for (const [turn, dtype] of (['float16', 'bfloat16'] as Float[]).entries()) {
      schedule(schedules[(dim + turn) % schedules.length]!);
      const p = { ...plainProblem(dtype, [135], [150], dim, dim, dim), masks: [{ left: -1, right: 0 }] };
      const lowRank = { q: normals(1, [2, 135, 4, 19]), k: normals(2, [1, 150, 4, 19]) };
      const relative = { table: normals(3, [4, 41]), dilation: [2] };
      const distance = { q: normals(4, [135, 2]), k: normals(5, [150, 2]) };
      await check(turn ? { ...p, lowRank, alibi: {} } : { ...p, relative, distance }, dtype, undefined, 'cuda');
      if (interpreted) expect(lastKernel()).toContain('attention_sm90_kernel');
    }
  });

  it('has the slopes of the paper', async () => {
    // Two keys, one of them hidden: lse is the bias of the other.
    const hidden = keyBias(Tensor.from(Float32Array.of(0, Number.NEGATIVE_INFINITY), [2], { device: 'cuda' }));
    for (const heads of [1, 3, 8, 12, 33, 64]) {
      const [q, k] = [1, 2].map((tokens) => Tensor.zeros([1, tokens, heads, 8], { device: 'cuda' })) as [
        Tensor,
        Tensor,
      ];
      const slopes = await attention(q, k, k, { bias: [alibi(), hidden] }).lse.read();
      const below = 2 ** Math.floor(Math.log2(heads));
      slopes.forEach((x, h) => {
        const want = h < below ? 2 ** ((-8 * (h + 1)) / below) : 2 ** ((-4 * (2 * (h - below) + 1)) / below);
        expect(Math.abs(-Number(x) / want - 1)).toBeLessThan(2 ** -20);
      });
    }
  });

  it('a factorized bias has dense heads beside those of low rank', async () => {
    schedule(schedules[1]!);
    const [queries, keys] = [20, 33];
    // Heads 0 and 2 are products of one column each, head 1 is anything.
    const [left, right, noise] = [normals(1, [3, queries]), normals(2, [3, keys]), normals(3, [3, queries * keys])];
    const data = noise.data.map((x, n) => {
      const [h, i, j] = [Math.floor(n / queries / keys), Math.floor(n / keys) % queries, n % keys];
      return Math.fround(h === 1 ? x : left.data[h * queries + i]! * right.data[h * keys + j]!);
    });
    const dense = Tensor.from(Float32Array.from(data), [3, queries, keys], { device: 'cuda' });
    const { bias, denseHeads } = await factorizeBias(dense, { energy: 1 - 1e-10, maxRank: 2 });
    expect(denseHeads).toEqual([1]);
    expect(bias.map((one) => one.explain().name)).toEqual(['lowRankBias', 'denseBias']);
    const p = { q: normals(4, [1, queries, 3, 16]), k: normals(5, [1, keys, 3, 16]), v: normals(6, [1, keys, 3, 16]) };
    const [q, k, v] = [p.q, p.k, p.v].map((values) => tensorOf(values, 'float32', 'cuda')) as [Tensor, Tensor, Tensor];
    const { out, lse } = attention(q, k, v, { bias });
    const want = expectedOn('cuda', { ...p, denseBias: { shape: [3, queries, keys], data } }, 'float32');
    // What remains of the products: factors are rounded to float32.
    const lowRank = { q: { ...left, shape: [1, queries, 3, 1] }, k: { ...right, shape: [1, keys, 3, 1] } };
    const { tolerance } = expectedOn('cuda', { ...p, lowRank }, 'float32');
    const values = async (tensor: Tensor) => Float64Array.from((await tensor.read()) as Float32Array);
    expectResult({ out: await values(out), lse: await values(lse) }, { ...want, tolerance });
  });

  it('a denseBias of some heads gives the bits of one with zeros for the others: over a cache, a plan and in a graph', async () => {
    const [heads, keys] = [400, 70]; // places of heads take more than one launch
    const make = (shape: number[], seed: number) => Tensor.randn(shape, { seed, device: 'cuda' });
    const own = Array.from({ length: heads }, (_, h) => h).filter((h) => (h * h) % 7 === 2);
    for (const queries of [1, 40]) {
      const [q, k, v] = [make([1, queries, heads, 8], 1), make([1, keys, 2, 8], 2), make([1, keys, 2, 8], 3)];
      using cache = new KvCache({ batch: 1, kvHeads: 2, headDim: 8, capacity: keys, device: 'cuda' });
      cache.append(k, v);
      const some = make([1, own.length, queries, keys], 4);
      const data = (await some.read()) as Float32Array;
      const all = new Float32Array(heads * queries * keys);
      for (const [at, h] of own.entries()) {
        const size = queries * keys;
        all.set(data.subarray(at * size, (at + 1) * size), h * size);
      }
      const filled = denseBias(Tensor.from(all, [1, heads, queries, keys], { device: 'cuda' }));
      const placed = denseBias(some, { heads: own });
      using mask = SparsePlan.fromBlocks([[0, 2, 3]], { queries, keys, keyBlock: 16, device: 'cuda' });
      const calls: ((bias: Bias) => ReturnType<typeof attention>)[] = [
        (bias) => attention(q, k, v, { bias }),
        (bias) => attention(q, cache, { bias }),
        (bias) => attention(q, k, v, { bias, mask }),
      ];
      for (const call of calls) {
        const [got, want] = await Promise.all([placed, filled].map(async (bias) => call(bias).out.read()));
        expect(got).toEqual(want);
      }
      using stream = new Stream('cuda');
      let result: ReturnType<typeof attention> | undefined;
      using graph = stream.capture(() => {
        result = attention(q, k, v, { bias: placed, stream });
      });
      graph.launch();
      expect(await result!.out.read()).toEqual(await attention(q, k, v, { bias: filled }).out.read());
    }
  });

  it('alibi is off by at most 0.01 at 65,536 tokens with slope 1', async () => {
    // Few queries on mma.sync; many, on wgmma, are an eighth as far away with a slope of 8.
    for (const [queries, slope, from, seen] of [
      [1, 1, 0, 1],
      [1, 1, 0, 7],
      [1, 1, 12345, 2],
      [70, 8, 0, 1],
      [70, 8, 3001, 2],
    ] as const) {
      const keys = 65536 / slope;
      const hide = new Float32Array(keys).fill(Number.NEGATIVE_INFINITY).fill(0, from, from + seen);
      const hidden = keyBias(Tensor.from(hide, [keys], { device: 'cuda' }));
      const slopes = Tensor.from(Float32Array.of(slope), [1], { device: 'cuda' });
      const [q, k] = [queries, keys].map((tokens) =>
        Tensor.zeros([1, tokens, 1, 8], { dtype: 'float16', device: 'cuda' }),
      ) as [Tensor, Tensor];
      const lse = await attention(q, k, k, { bias: [alibi(slopes), hidden] }).lse.read();
      lse.forEach((got, i) => {
        let sum = 0;
        for (let n = 0; n < seen; n++) sum += Math.exp(-slope * n);
        const nearest = i + keys - queries - (from + seen - 1);
        expect(Math.abs(Number(got) - (Math.log(sum) - slope * nearest))).toBeLessThan(0.01);
      });
    }
  });

  describe.each(['float16', 'bfloat16', 'float32'] as Float[])('%s: factors of the lowest float', (dtype) => {
    const lowest = -(2 - 2 ** -23) * 2 ** 127;
    const keys = dtype === 'float32' ? 90 : 150; // not shared out among blocks
    // On wgmma if they are halves, and on mma.sync: rows that are not aligned, and few.
    const calls: [number, number, string][] = [
      [135, 64, 'sm90'],
      [70, 20, 'sm80'],
      [3, 64, 'sm80'],
    ];
    const factors = (rows: number, columns: number, of: (row: number, column: number) => number): Values => ({
      shape: [1, rows, 1, columns],
      data: Float64Array.from({ length: rows * columns }, (_, at) => of(Math.floor(at / columns), at % columns)),
    });
    const expectKernel = (kernel: string) => {
      const own = dtype === 'float32' ? 'sm80' : kernel;
      if (interpreted) expect(lastKernel()).toContain(`attention_${own}_kernel`);
    };

    it.each(calls)('%i queries, headDim %i: products that overflow hide keys', async (queries, dim, kernel) => {
      const p = plainProblem(dtype, [queries], [keys], 1, dim);
      const [ownQ, ownK] = [normals(1, [queries]), normals(2, [keys])];
      const hidden = (key: number) => key % 3 === 0;
      // TF32 rounds it up, so that the product of what is left overflows to infinity of the other sign.
      const great = 2 ** 30 * (1 + 2 ** -10 - 2 ** -13);
      for (const [turn, sign] of [1, -1].entries()) {
        schedule(schedules[(queries + turn) % schedules.length]!);
        const biased = (q: number, k: number) => ({
          q: factors(queries, 2, (i, column) => (column ? ownQ.data[i]! : q)),
          k: factors(keys, 2, (j, column) => (column ? ownK.data[j]! : hidden(j) ? k : 0)),
        });
        const lowRank = biased(sign * great, sign * lowest);
        const none = Float64Array.from({ length: keys }, (_, j) => (hidden(j) ? Number.NEGATIVE_INFINITY : 0));
        const finite = { ...p, lowRank: biased(0, 0), keyBias: { shape: [keys], data: none } };
        const want = expectedOn('cuda', finite, dtype);
        expectResult(await run({ ...p, lowRank }, dtype, undefined, 'cuda'), want);
        expectKernel(kernel);
      }
    });

    it.each(calls)('%i queries, headDim %i: a query may see no other keys', async (queries, dim, kernel) => {
      schedule(schedules[queries % schedules.length]!);
      const p = plainProblem(dtype, [queries], [keys], 1, dim);
      for (const factor of [lowest, -(2 - 2 ** -11) * 2 ** 127]) {
        // the latter is the first that TF32 has no number for
        const lowRank = { q: factors(queries, 1, (i) => i % 2), k: factors(keys, 1, () => factor) };
        const got = await run({ ...p, lowRank }, dtype, undefined, 'cuda');
        expectKernel(kernel);
        // Beside such a bias all scores are the same.
        const q = { ...p.q, data: p.q.data.slice() };
        const rows = [...got.lse.keys()].filter((row) => (Math.floor(row / 4) % queries) % 2 === 1); // of 4 heads
        for (const row of rows) q.data.fill(0, row * dim, (row + 1) * dim);
        const want = expectedOn('cuda', { ...p, q }, dtype);
        for (const row of rows) {
          // TF32 has 11 bits.
          expect(Math.abs(got.lse[row]! / factor - 1)).toBeLessThan(2 ** -11);
          want.lse[row] = got.lse[row]!;
        }
        expectResult(got, want);
      }
    });
  });

  it('refuses ranks beyond 65536', () => {
    const [q, phi] = [8, 65537].map((columns) => Tensor.zeros([1, 4, 1, columns], { device: 'cuda' })) as [
      Tensor,
      Tensor,
    ];
    expect(() => attention(q, q, q, { bias: lowRankBias(phi, phi) })).toThrow(/bias 0.*rank 65537.*65536.*denseBias/);
  });
});
