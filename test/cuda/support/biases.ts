// What biases of low rank and by formula must do on a CUDA device, whichever kernels run them.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { attentionCase, type Case, decodeCase, problemOf } from '../../support/cases';
import { check, expectedOn, expectResult, run } from '../../support/library';
import { count, type Float, normal, uniform, type Values } from '../../support/numbers';
import type { MaskSpec, Problem } from '../../support/oracle';
import { missing, schedule, schedules, title } from './device';

const TYPES: Float[] = ['float16', 'bfloat16', 'float32'];
export const normals = (seed: number, shape: number[]): Values => normal(uniform(seed), 'float32', shape);

/** A problem without biases on any axes. */
export function plainProblem(dtype: Float, qAxes: number[], kAxes: number[], seed = 1, dim = 24, vDim = 32): Problem {
  const random = uniform(seed);
  return {
    q: normal(random, dtype, [2, ...qAxes, 4, dim]),
    k: normal(random, dtype, [2, ...kAxes, 2, dim]),
    v: normal(random, dtype, [2, ...kAxes, 2, vDim]),
  };
}

const KINDS = ['lowRank', 'alibi', 'distance', 'relative'] as const;

/** Cases of a type and a kind of bias, where its axes allow for that. */
function cases(all: fc.Arbitrary<Case>, dtype: Float, kind: (typeof KINDS)[number]): fc.Arbitrary<Case> {
  return all
    .map((c) => ({ ...c, dtype, formula: { ...c.formula!, kind } }))
    .filter((c) => {
      const pairs = c.batch * c.kvHeads * c.group * count(c.layout.qAxes) * (count(c.layout.kAxes) + c.extra);
      return Math.max(c.dim, c.vDim) <= 256 && pairs * (c.dim + c.vDim) < 1e6 && kind in problemOf(c);
    });
}

/** phiQ phiK^T of [1, L, heads or 1, R], as a dense bias [4, Lq, Lk]. */
function product({ q, k }: { q: Values; k: Values }): Values {
  const [Lq, Lk, rank] = [q.shape[1]!, k.shape[1]!, q.shape[3]!];
  const data = new Float64Array(4 * Lq * Lk);
  for (let at = 0; at < data.length; at++) {
    const [h, i, j] = [Math.floor(at / (Lq * Lk)), Math.floor(at / Lk) % Lq, at % Lk];
    const [x, y] = [[q, i] as const, [k, j] as const].map(
      ([{ shape }, row]) => (row * shape[2]! + (h % shape[2]!)) * rank,
    );
    for (let r = 0; r < rank; r++) data[at]! += q.data[x! + r]! * k.data[y! + r]!;
  }
  return { shape: [4, Lq, Lk], data };
}

/** `runs` random problems of each type and kind of bias, for many and for few queries. */
export function testBiases(name: string, runs: number): void {
  describe.skipIf(missing)(title(name), () => {
    describe.each(TYPES)('%s', (dtype) => {
      it.each(KINDS)('%s: random problems', async (kind) => {
        let turn = 0;
        for (const all of [attentionCase as fc.Arbitrary<Case>, decodeCase]) {
          await fc.assert(
            fc.asyncProperty(cases(all, dtype, kind), async (c) => {
              schedule(schedules[turn++ % schedules.length]!);
              await check(problemOf(c), c.dtype, c.seed % 3 === 0 ? undefined : c.seed, 'cuda');
            }),
            { numRuns: runs, seed: 29 },
          );
        }
      });

      const axis = { window: 5, stride: 2, dilation: 1, causal: false, wrap: false };
      it.each<[string, number[], MaskSpec[], number[], number[]]>([
        ['no mask', [1, 16, 33], [], [70], [85]],
        ['causal, few queries', [2, 19, 256], [{ left: -1, right: 0 }], [3], [141]],
        ['window', [7, 31, 128], [{ left: 20, right: 3 }], [75], [75]],
        ['neighborhood', [8, 65], [{ heads: [[axis, { ...axis, dilation: 2 }]] }], [9, 11], [9, 11]],
      ])('a low rank equals the dense product of its factors: %s', async (_, ranks, masks, qAxes, kAxes) => {
        const p: Problem = { ...plainProblem(dtype, qAxes, kAxes), masks };
        for (const [turn, rank] of ranks.entries()) {
          schedule(schedules[turn % schedules.length]!);
          const [a, b] = [turn % 2 ? 4 : 1, turn % 3 ? 4 : 1]; // factors of each head, or of all
          const lowRank = {
            q: normals(rank, [1, count(qAxes), a, rank]),
            k: normals(rank + 1, [1, count(kAxes), b, rank]),
          };
          const dense = expectedOn('cuda', { ...p, denseBias: product(lowRank) }, dtype);
          const { tolerance } = expectedOn('cuda', { ...p, lowRank }, dtype);
          const embedded = turn === 1 ? turn : undefined; // rows that are aligned, and rows that are not
          expectResult(await run({ ...p, lowRank }, dtype, embedded, 'cuda'), { ...dense, tolerance });
        }
      });
    });

    it('a dense bias of some heads: the others get and read nothing', async () => {
      const axis = { window: 5, stride: 2, dilation: 1, causal: false, wrap: false };
      const windows = [3, 5, 7, 9].map((window) => [{ ...axis, window }]);
      const nothing = (values: Values): Values => ({ ...values, data: values.data.map(() => Number.NaN) });
      for (const [turn, [queries, keys, more]] of (
        [
          [135, 150, { masks: [{ left: -1, right: 0 }] }],
          [3, 150, { softcap: 2 }],
          [1, 700, {}],
          [37, 85, { cuSeqlens: { q: [0, 9, 37], k: [0, 30, 85] } }],
          [75, 75, { masks: [{ heads: [[axis]] }] }],
          [75, 75, { masks: [{ heads: windows }] }],
        ] as [number, number, Partial<Problem>][]
      ).entries()) {
        for (const [n, dtype] of TYPES.entries()) {
          schedule(schedules[(turn + n) % schedules.length]!);
          const whole = plainProblem(dtype, [queries], [keys], turn, 64, 64);
          const first = ({ data, shape }: Values) => ({
            shape: [1, ...shape.slice(1)],
            data: data.slice(0, data.length / 2),
          });
          const p = more.cuSeqlens ? { q: first(whole.q), k: first(whole.k), v: first(whole.v) } : whole;
          const batch = (turn + n) % 2 ? p.q.shape[0]! : 1;
          const two = normals(turn, [batch, 2, queries, keys]);
          await check({ ...p, ...more, denseBias: { ...two, heads: [3, 1] } }, dtype, n, 'cuda');
          const one = { ...nothing(normals(turn, [1, 1, queries, keys])), heads: [2] };
          const got = await run({ ...p, ...more, denseBias: one }, dtype, n, 'cuda');
          const want = expectedOn('cuda', { ...p, ...more }, dtype);
          got.lse.forEach((x, at) => {
            if (at % 4 !== 2) expect(Math.abs(x - want.lse[at]!)).toBeLessThanOrEqual(want.tolerance.lse);
            else if (want.lse[at]! > Number.NEGATIVE_INFINITY) expect(x).toBeNaN();
          });
        }
      }
    });

    it('a path that is forced: matrix units, since there is no other', async () => {
      const p = { ...plainProblem('bfloat16', [40], [50]), softcap: 2 };
      const lowRank = { q: normals(1, [1, 40, 4, 9]), k: normals(2, [2, 50, 1, 9]) };
      await check({ ...p, lowRank: { ...lowRank, path: 'matrix' } }, 'bfloat16', 1, 'cuda');
      await expect(run({ ...p, lowRank: { ...lowRank, path: 'vector' } }, 'bfloat16', 1, 'cuda')).rejects.toMatchObject(
        {
          code: 'ERR_OPTION',
          message: expect.stringMatching(/bias 0: lowRankBias: path is 'vector'.*'matrix' or 'auto'.*device 'cpu'/),
        },
      );
    });

    it('factors may be infinite, huge, tiny, and masks of the lowest float', async () => {
      const p = plainProblem('bfloat16', [70], [150]);
      const factors = (seed: number, length: number, of: (x: number, at: number) => number): Values => {
        const { shape, data } = normals(seed, [1, length, 1, 5]);
        return { shape, data: data.map((x, at) => Math.fround(of(x, at))) };
      };
      const lowest = -3.4028234663852886e38;
      const hidden = (at: number) => at % 5 === 2 && Math.floor(at / 5) % 3 === 0;
      const few = (x: number, at: number) => (at % 5 === 2 ? 1 + Math.abs(x) : x);
      const pairs: [(x: number, at: number) => number, (x: number, at: number) => number][] = [
        [(x, at) => x * 2 ** ((at % 5) * 30 - 60), (x) => x * 2 ** -60],
        [few, (x, at) => (hidden(at) ? Number.NEGATIVE_INFINITY : x)],
        [few, (x, at) => (hidden(at) ? lowest : x)],
        // A factor of 0 makes nothing of the lowest float.
        [(x, at) => (at % 5 === 2 ? 0 : x), (x, at) => (hidden(at) ? lowest : x)],
      ];
      for (const [turn, [q, k]] of pairs.entries()) {
        schedule(schedules[turn]!);
        const lowRank = { q: factors(1, 70, q), k: factors(2, 150, k) };
        await check(
          { ...p, lowRank, masks: [{ left: -1, right: 0 }], softcap: turn % 2 ? 3 : undefined },
          'bfloat16',
          turn,
          'cuda',
        );
      }
    });

    it('all of them at once, with every option', async () => {
      for (const [turn, dtype] of TYPES.entries()) {
        schedule(schedules[turn]!);
        const p: Problem = {
          ...plainProblem(dtype, [75], [90], 7),
          masks: [{ left: -1, right: 0 }],
          softcap: 2,
          sinks: normals(1, [4]),
          lowRank: { q: normals(4, [2, 75, 1, 3]), k: normals(5, [1, 90, 4, 3]) },
          alibi: {},
          distance: { q: normals(6, [75, 3]), k: normals(7, [90, 3]), weight: normals(8, [2, 75, 4]) },
          relative: { table: normals(9, [4, 9]), dilation: [3] },
        };
        const extra = plainProblem(dtype, [1], [5], 8);
        await check({ ...p, extra: { k: extra.k, v: extra.v } }, dtype, turn, 'cuda');
      }
    });

    it('tables of relative positions in steps of several tokens', async () => {
      const p = plainProblem('float16', [3, 4, 9], [3, 4, 9], 3);
      await check({ ...p, relative: { table: normals(1, [4, 3, 3, 5]), dilation: [1, 3, 4] } }, 'float16', 1, 'cuda');
      // More queries than keys: the first ones stand before the first key.
      const q = plainProblem('float32', [150], [70], 4);
      await check({ ...q, relative: { table: normals(2, [1, 31]), dilation: [7] } }, 'float32', 2, 'cuda');
      await check({ ...q, relative: { table: normals(2, [1, 3]), dilation: [2 ** 40] } }, 'float32', 3, 'cuda');
    });

    it('rows whose biases are all -Infinity are empty', async () => {
      const nothing = Number.NEGATIVE_INFINITY;
      for (const queries of [3, 90]) {
        const p = plainProblem('float16', [queries], [70]);
        const ones = { shape: [1, queries, 1, 1], data: new Float64Array(queries).map((_, i) => (i % 2 ? 1 : 2)) };
        const none = { shape: [1, 70, 1, 1], data: new Float64Array(70).fill(nothing) };
        const got = await run({ ...p, lowRank: { q: ones, k: none } }, 'float16', undefined, 'cuda');
        expect(got.lse.every((x) => x === nothing)).toBe(true);
        expect(got.out.every((x) => x === 0)).toBe(true);
        const table = { shape: [1, 5], data: Float64Array.of(0, 1, 2, nothing, nothing) };
        // Queries see the keys behind them, two or more steps of 20 before.
        await check({ ...p, alibi: {}, relative: { table, dilation: [20] } }, 'float16', 1, 'cuda');
      }
    });
  });
}
