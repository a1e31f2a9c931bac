// Neighborhoods on the wgmma executor: every kernel that is instantiated, and what its boxes could get wrong.
import './support/small';
import './support/device'; // before node-attention
import { describe, expect, it } from 'vitest';
import { problemOf } from '../support/cases';
import { expectedOn, expectResult, run } from '../support/library';
import type { Float } from '../support/numbers';
import { interpreted, lastKernel, missing, schedule, schedules, title } from './support/device';
import { caseOf, type Options, type Setting, testNeighborhoods } from './support/neighborhood';

const HALVES: Float[] = ['float16', 'bfloat16'];
const DIMENSIONS: [number, number][] = [
  [64, 64],
  [128, 128],
  [256, 256],
  // Padded.
  [96, 40],
  [192, 128],
];

async function compare(grid: number[], setting: Setting, options: Options, turns: number[]): Promise<void> {
  const one = caseOf(grid, setting, options);
  const problem = problemOf(one);
  const want = expectedOn('cuda', problem, one.dtype);
  for (const turn of turns) {
    schedule(schedules[turn % schedules.length]!);
    // With a seed, tensors are views of others that are full of NaN.
    expectResult(await run(problem, one.dtype, turn % 2 ? turn : undefined, 'cuda'), want);
  }
}

testNeighborhoods('neighborhoods on Hopper', { dtypes: HALVES, dims: [64, 40], modified: false, runs: 4 });

describe.skipIf(missing)(title('boxes on Hopper'), () => {
  it.each(DIMENSIONS)('headDim %i, value headDim %i', async (dim, vDim) => {
    for (const [turn, dtype] of HALVES.entries()) {
      const [grid, setting]: [number[], Setting] =
        turn === 0 ? [[8, 17], { window: [7, 11], stride: [1, 2] }] : [[80], { window: 67, causal: true }];
      await compare(grid, setting, { dtype, dim, vDim }, [dim + turn]);
    }
  });

  it('steps of up to 8 tokens in one copy', async () => {
    await compare([8 * 64 - 1], { window: 31, dilation: 8 }, { dtype: 'bfloat16' }, [8]);
    await compare([16, 34], { window: [3, 7], dilation: [2, 4] }, { dtype: 'float16', batch: 2 }, [3]);
    await compare([9, 14, 5], { window: 3, dilation: [1, 2, 1], causal: [true, false, false] }, {}, [6]);
  });

  it('extents smaller than a box, and boxes that are cut along every axis', async () => {
    await compare([2, 3, 50], { window: [1, 3, 9] }, { batch: 2, dim: 64 }, [0, 5]);
    await compare([70, 1], { window: [9, 1] }, { batch: 2, dim: 64 }, [1]);
    await compare([5, 5, 11], { window: [3, 5, 7], stride: [3, 2, 1] }, { batch: 2, dim: 64 }, [7]);
  });

  it('block-aligned windows, which need no mask', async () => {
    await compare([256], { window: 128, stride: 128 }, { dim: 64 }, [2]);
    await compare([8, 8, 8], { window: [4, 8, 8], stride: [4, 8, 8] }, { dim: 64 }, [8]);
  });

  it('keys in parts', async () => {
    await compare([320], { window: 289, stride: 3 }, { dim: 136, vDim: 64, sinks: true }, [4]);
    if (interpreted) expect(lastKernel()).toContain('combine_kernel');
  });

  it('several items of work for each block, one after the other', async () => {
    // One query tile for each head.
    await compare([8, 8], { window: [3, 7] }, { dim: 64, kvHeads: 3, group: 6 }, [8]);
    // Outputs in the place of queries.
    await compare([8, 8], { window: [3, 7] }, { dim: 192, kvHeads: 1, group: 17 }, [7]);
  });

  it('entries of a batch that do not follow each other', async () => {
    // Views of the middle of larger tensors: batch strides are not the product of the extents.
    await compare([7, 6, 5], { window: 3 }, { dim: 64, batch: 2 }, [1, 3]);
  });

  it('NaN at keys that no query of a tile sees', async () => {
    // Too narrow for boxes other than 32 x 4.
    const one = caseOf([64, 4], { window: [3, 3] }, { dim: 64 });
    const problem = problemOf(one);
    const want = expectedOn('cuda', problem, one.dtype);
    // Rows 0 ... 31 of the grid see rows 0 ... 32, the last of which is the first of another tile.
    for (const { data } of [problem.k, problem.v]) data.fill(Number.NaN, 33 * 4 * 64);
    for (const turn of [0, 4]) {
      schedule(schedules[turn % schedules.length]!);
      const got = await run(problem, one.dtype, undefined, 'cuda');
      const first = { out: got.out.slice(0, 128 * 64), lse: got.lse.slice(0, 128) };
      expectResult(first, { ...want, out: want.out.slice(0, 128 * 64), lse: want.lse.slice(0, 128) } as typeof want);
      expect(first.lse.every(Number.isFinite)).toBe(true);
    }
  });
});
