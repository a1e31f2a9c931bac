// Decoding on a CUDA device: few queries, heads of a group in one tile, keys split into parts that are combined.
import { describe, expect, it } from 'vitest';
import { check, expectedOn, run } from '../support/library';
import { mergeParts, type Problem } from '../support/oracle';
import { missing, schedule, schedules, title } from './support/device';
import { CAUSAL, problemOf, type Spec } from './support/problems';
import { checkSchedules } from './support/repeated';

async function compare(spec: Spec, turn: number): Promise<void> {
  schedule(schedules[turn % schedules.length]!);
  await check(problemOf(spec), spec.dtype, undefined, 'cuda', spec.precision);
}

describe.skipIf(missing)(title('decoding'), () => {
  const types = ['float16', 'bfloat16', 'float32'] as const;

  it.each(types)('%s: one query and many keys, which are split', async (dtype) => {
    let turn = 0;
    for (const keys of [700, 2500]) {
      for (const more of [{}, { sinks: true, softcap: 3 }, { mask: { left: 1000, right: 0 } }, { denseBias: 1 }]) {
        await compare({ dtype, queries: 1, keys, headDim: 64, group: 4, ...more }, turn++);
      }
    }
  });

  it.each(types)('%s: groups of every size', async (dtype) => {
    // 16 rows hold up to 16 heads; larger groups need several tiles or larger ones.
    for (const group of [1, 2, 3, 5, 7, 8, 15, 16, 17, 33, 71]) {
      await compare({ dtype, queries: 1, keys: 300, headDim: 32, group, kvHeads: 2 }, group);
    }
    for (const [queries, group] of [
      [2, 8],
      [3, 5],
      [4, 3],
      [16, 1],
      [5, 4],
      [17, 1],
      [40, 8],
    ] as const) {
      await compare({ dtype, queries, keys: 300, headDim: 32, group, mask: CAUSAL }, queries);
    }
  });

  it.each(types)('%s: several sequences of different lengths', async (dtype) => {
    const k = [0, 900, 901, 901, 1500];
    await compare({ dtype, queries: 4, keys: 1500, headDim: 64, group: 4, cuSeqlens: { q: [0, 1, 2, 3, 4], k } }, 1);
    const q = [0, 3, 4, 6, 7];
    await compare({ dtype, queries: 7, keys: 1500, headDim: 64, group: 2, cuSeqlens: { q, k }, mask: CAUSAL }, 4);
  });

  it.each(types)('%s: queries before the first key see nothing in any part', async (dtype) => {
    await compare({ dtype, queries: 600, keys: 500, headDim: 16, mask: CAUSAL, sinks: true }, 1);
  });

  it('results over parts of the keys make the whole', async () => {
    const problem = problemOf({ dtype: 'float32', queries: 2, keys: 1800, headDim: 64, group: 4 });
    const cut = (from: number, to: number): Problem => {
      const row = problem.k.shape[3]!;
      const part = ({ data }: { data: Float64Array }) => ({
        shape: [1, to - from, 1, row],
        data: data.slice(from * row, to * row),
      });
      return { ...problem, k: part(problem.k), v: part(problem.v) };
    };
    const parts = [];
    for (const [from, to] of [
      [0, 700],
      [700, 701],
      [701, 1800],
    ] as const) {
      parts.push(await run(cut(from, to), 'float32', undefined, 'cuda'));
    }
    const merged = mergeParts(parts);
    const { out, lse, tolerance } = expectedOn('cuda', problem, 'float32');
    out.forEach((x, i) => {
      expect(Math.abs(x - merged.out[i]!)).toBeLessThanOrEqual(tolerance.out);
    });
    lse.forEach((x, i) => {
      expect(Math.abs(x - merged.lse[i]!)).toBeLessThanOrEqual(tolerance.lse);
    });
  });

  it('is the same bit for bit every time', async () => {
    const problem = problemOf({ dtype: 'bfloat16', queries: 1, keys: 1500, headDim: 128, group: 8 });
    await checkSchedules(problem, 'bfloat16');
  });
});
