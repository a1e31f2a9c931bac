// Biases of low rank and by formula on Hopper, on wgmma where there are queries enough.
import './support/device'; // before node-attention
import { alibi, attention, keyBias, lowRankBias, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { check } from '../support/library';
import type { Float } from '../support/numbers';
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

  it('refuses ranks beyond 65536', () => {
    const [q, phi] = [8, 65537].map((columns) => Tensor.zeros([1, 4, 1, columns], { device: 'cuda' })) as [
      Tensor,
      Tensor,
    ];
    expect(() => attention(q, q, q, { bias: lowRankBias(phi, phi) })).toThrow(/bias 0.*rank 65537.*65536.*denseBias/);
  });
});
