// What biases of low rank and in closed form must do on a CUDA device, whichever kernels run them.
import { alibi, attention, bucketBias, keyBias, relativePositionBias, sphereBias, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { check } from '../../support/library';
import { count, type Float, normal, uniform } from '../../support/numbers';
import type { MaskSpec, Problem } from '../../support/oracle';
import { missing, schedule, schedules, title } from './device';
import { CAUSAL } from './problems';

const normals = (seed: number, ...shape: number[]) => normal(uniform(seed), 'float32', shape);

interface Sizes {
  dtype: Float;
  qAxes: number[];
  kAxes: number[];
  dim?: number;
  batch?: number;
  group?: number;
}

function problem({ dtype, qAxes, kAxes, dim = 64, batch = 1, group = 2 }: Sizes, more: Partial<Problem>): Problem {
  const random = uniform(3);
  return {
    q: normal(random, dtype, [batch, ...qAxes, group, dim]),
    k: normal(random, dtype, [batch, ...kAxes, 1, dim]),
    v: normal(random, dtype, [batch, ...kAxes, 1, dim]),
    ...more,
  };
}

let turn = 0;

/** Compares with the oracle, every second time with views of tensors full of NaN. */
async function compare(sizes: Sizes, more: Partial<Problem>): Promise<void> {
  schedule(schedules[++turn % schedules.length]!);
  await check(problem(sizes, more), sizes.dtype, turn % 2 ? turn : undefined, 'cuda');
}

/** Every bias with every mask of a sequence, whole and packed, for many and few queries. */
export function testBiases(name: string, dtypes: Float[]): void {
  describe.skipIf(missing)(title(name), () => {
    describe.each(dtypes)('%s', (dtype) => {
      const cases: [string, (Lq: number, Lk: number) => Partial<Problem>][] = [
        ['lowRank', (Lq, Lk) => ({ lowRank: { q: normals(1, 1, Lq, 2, 5), k: normals(2, 1, Lk, 1, 5) } })],
        ['lowRank by head', (Lq, Lk) => ({ lowRank: { q: normals(1, 1, Lq, 1, 17), k: normals(2, 1, Lk, 2, 17) } })],
        ['alibi', () => ({ alibi: {} })],
        ['alibi with slopes', () => ({ alibi: { slopes: normals(3, 2) } })],
        ['distance', (Lq, Lk) => ({ distance: { q: normals(4, Lq, 3), k: normals(5, Lk, 3) } })],
        [
          'distance with weights',
          (Lq, Lk) => ({ distance: { q: normals(4, 1, Lq, 2), k: normals(5, Lk, 2), weight: normals(6, 1, Lq, 2) } }),
        ],
        ['relative', () => ({ relative: { table: normals(7, 2, 31), dilation: [1] } })],
        ['relative in steps', () => ({ relative: { table: normals(8, 1, 301), dilation: [3] } })],
      ];
      it.each(cases)('%s', async (_, make) => {
        const band: MaskSpec = { left: 40, right: 9 };
        await compare({ dtype, qAxes: [70], kAxes: [151] }, { ...make(70, 151), masks: [CAUSAL] });
        await compare({ dtype, qAxes: [90], kAxes: [70], dim: 40 }, { ...make(90, 70), masks: [band], softcap: 3 });
        await compare({ dtype, qAxes: [1], kAxes: [533] }, { ...make(1, 533), scale: -0.3 });
        const cuSeqlens = { q: [0, 65, 65, 100], k: [0, 40, 61, 139] };
        await compare({ dtype, qAxes: [101], kAxes: [140] }, { ...make(101, 140), cuSeqlens, masks: [CAUSAL] });
      });

      it('by batch entry', async () => {
        const lowRank = { q: normals(1, 2, 66, 1, 3), k: normals(2, 2, 71, 2, 3) };
        const distance = { q: normals(3, 66, 4), k: normals(4, 2, 71, 4), weight: normals(5, 2, 66, 1) };
        await compare({ dtype, batch: 2, qAxes: [66], kAxes: [71] }, { lowRank, distance });
      });

      it('several, with sinks and extra keys', async () => {
        const random = uniform(1);
        await compare(
          { dtype, qAxes: [70], kAxes: [90] },
          {
            masks: [CAUSAL],
            keyBias: normals(1, 90),
            lowRank: { q: normals(2, 1, 70, 2, 9), k: normals(3, 1, 90, 2, 9) },
            alibi: {},
            relative: { table: normals(4, 2, 7), dilation: [2] },
            sinks: normals(5, 2),
            extra: { k: normal(random, dtype, [1, 5, 1, 64]), v: normal(random, dtype, [1, 5, 1, 64]) },
          },
        );
      });

      it('tables of relative positions on two and three axes', async () => {
        for (const [axes, extents, dilation] of [
          [
            [9, 11],
            [17, 21],
            [1, 1],
          ],
          [
            [9, 11],
            [5, 7],
            [2, 1],
          ],
          [
            [3, 5, 7],
            [5, 3, 13],
            [1, 3, 1],
          ],
        ] as const) {
          const relative = { table: normals(count(extents), 2, ...extents), dilation: [...dilation] };
          await compare({ dtype, qAxes: [...axes], kAxes: [...axes] }, { relative });
        }
      });
    });

    it('made on the device', async () => {
      schedule(schedules[0]!);
      const [q, v] = [Tensor.zeros([1, 8, 5, 2, 8]), Tensor.randn([1, 8, 5, 2, 8], { seed: 1 })];
      const grid = { latitudes: 8, longitudes: 5, grid: 'gauss' } as const;
      const table = Tensor.randn([8, 2], { seed: 2 });
      const flat = (x: Tensor) => x.reshape([1, 40, 2, 8]);
      const want = [
        attention(q, q, v, { bias: sphereBias(grid) }),
        attention(flat(q), flat(q), flat(v), { bias: bucketBias(table, { maxDistance: 30 }) }),
      ];
      const [there, values] = [q.to('cuda'), v.to('cuda')];
      const got = [
        attention(there, there, values, { bias: sphereBias({ ...grid, device: 'cuda' }) }),
        attention(flat(there), flat(there), flat(values), {
          bias: bucketBias(table, { maxDistance: 30, device: 'cuda' }),
        }),
      ];
      for (const [n, { lse }] of got.entries()) {
        const expected = await want[n]!.lse.read();
        (await lse.read()).forEach((x, at) => {
          expect(Number(x)).toBeCloseTo(Number(expected[at]), 5);
        });
      }
    });

    it('alibi with slope 1 is off by at most 0.01 at 65,536 tokens', async () => {
      schedule(schedules[0]!);
      const Lk = 65536;
      const zeros = (tokens: number) => Tensor.zeros([1, tokens, 1, 8], { dtype: 'float16', device: 'cuda' });
      const slopes = Tensor.from(Float32Array.of(1), [1], { device: 'cuda' });
      const hide = new Float32Array(Lk).fill(Number.NEGATIVE_INFINITY);
      hide[0] = 0;
      const bias = [alibi(slopes), keyBias(Tensor.from(hide, [Lk], { device: 'cuda' }))];
      const { lse } = attention(zeros(1), zeros(Lk), zeros(Lk), { bias });
      expect(Math.abs(Number((await lse.read())[0]) + 65535)).toBeLessThan(0.01);
    });

    it('a table on another device is refused', () => {
      const q = Tensor.zeros([1, 8, 1, 8], { device: 'cuda' });
      expect(() => attention(q, q, q, { bias: relativePositionBias(Tensor.zeros([1, 3])) })).toThrow(/cpu.*move it/);
    });
  });
}
