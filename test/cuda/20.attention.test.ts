// attention() on a CUDA device against the float64 oracle.
import { describe, expect, it } from 'vitest';
import { expectedOn, expectResult, run } from '../support/library';
import type { Float, Values } from '../support/numbers';
import type { PlanSpec, Problem } from '../support/oracle';
import type { Expected } from '../support/tolerance';
import { testAttention } from './support/attention';
import { interpreted, lastKernel, missing, schedule, schedules, title } from './support/device';
import { CAUSAL, problemOf } from './support/problems';

testAttention('attention', 30);

const TYPES: Float[] = ['float16', 'bfloat16', 'float32'];

/** Calls for every executor of sequences, and the kernel that half types run on. */
const CALLS: [string, { queries: number; headDim: number }, string][] = [
  ['many queries', { queries: 80, headDim: 64 }, 'sm90'],
  ['rows that are not aligned', { queries: 70, headDim: 36 }, 'sm80'],
  ['few queries', { queries: 2, headDim: 64 }, 'sm80'],
];

/**
 * Several tiles of keys, but so few that they are not shared out among blocks: parts meet by their lse, in which a sum
 * is nothing beside the greatest float.
 */
const keysOf = (dtype: Float) => (dtype === 'float32' ? 90 : 173);

const GREATEST = (2 - 2 ** -23) * 2 ** 127; // of float32
const NOTHING = Number.NEGATIVE_INFINITY;

/** A dense bias for all batch entries and heads. */
const dense = (queries: number, keys: number, of: (i: number, j: number) => number): Values => ({
  shape: [1, 1, queries, keys],
  data: Float64Array.from({ length: queries * keys }, (_, at) => of(Math.floor(at / keys), at % keys)),
});

const keyBiasOf = (keys: number, value: number): Values => ({
  shape: [keys],
  data: new Float64Array(keys).fill(value),
});

const ordinary = (i: number, j: number) => ((3 * i + j) % 5) / 2;

/**
 * What a problem with scores of the greatest magnitude gives, whose own tolerance would be of that magnitude, too:
 * `problem` has ordinary scores and the same weights. To the queries chosen by `alike` all keys that they see are the
 * same there, and their lse is `lse`, beside which the logarithm of a sum is nothing.
 */
function expectedAlike(problem: Problem, dtype: Float, alike: (i: number) => boolean, lse: number): Expected {
  const [, queries, heads, dim] = problem.q.shape as [number, number, number, number];
  const q = { ...problem.q, data: problem.q.data.slice() };
  const chosen = Array.from({ length: queries }, (_, i) => i).filter(alike);
  for (const i of chosen) q.data.fill(0, i * heads * dim, (i + 1) * heads * dim);
  const want = expectedOn('cuda', { ...problem, q }, dtype);
  for (const i of chosen) want.lse.fill(lse, i * heads, (i + 1) * heads);
  return want;
}

let turn = 0;
async function expectRun(problem: Problem, dtype: Float, kernel: string, want: Expected): Promise<void> {
  schedule(schedules[turn++ % schedules.length]!);
  expectResult(await run(problem, dtype, undefined, 'cuda'), want);
  if (interpreted) expect(lastKernel()).toContain(`attention_${dtype === 'float32' ? 'sm80' : kernel}_kernel`);
}

/** Every third query has biases of the lowest float alone, the others at every second key. */
const lowest = (queries: number, keys: number, alone: number, beside: number): Values =>
  dense(queries, keys, (i, j) => (i % 3 === 0 ? alone : j % 2 ? beside : ordinary(i, j)));

describe.skipIf(missing)(title('extreme scores'), () => {
  describe.each(TYPES)('%s', (dtype) => {
    const keys = keysOf(dtype);

    it.each(CALLS)('%s: masks of the lowest float', async (_, call, kernel) => {
      const { queries } = call;
      for (const more of [{}, { softcap: 3 }, { mask: CAUSAL, scale: -0.2 }]) {
        const problem = problemOf({ dtype, group: 2, keys, ...call, ...more });
        const finite = { ...problem, denseBias: lowest(queries, keys, 0, NOTHING) };
        const want = expectedAlike(finite, dtype, (i) => i % 3 === 0, -GREATEST);
        const given = { ...problem, denseBias: lowest(queries, keys, -GREATEST, -GREATEST) };
        await expectRun(given, dtype, kernel, want);
      }
      const problem = problemOf({ dtype, group: 2, keys, ...call });
      const want = expectedAlike(problem, dtype, () => true, -GREATEST);
      await expectRun({ ...problem, keyBias: keyBiasOf(keys, -GREATEST) }, dtype, kernel, want);
    });

    it.each(CALLS)('%s: keys of the greatest float take all', async (_, call, kernel) => {
      const { queries } = call;
      const problem = problemOf({ dtype, group: 2, keys, ...call });
      const bias = (greatest: number, other: (i: number, j: number) => number) =>
        dense(queries, keys, (i, j) => (j % 50 === 7 ? greatest : other(i, j)));
      const finite = { ...problem, denseBias: bias(0, () => NOTHING) };
      const want = expectedAlike(finite, dtype, () => true, GREATEST);
      const denseBias = bias(GREATEST, (i, j) => (j % 3 ? ordinary(i, j) : -GREATEST));
      await expectRun({ ...problem, denseBias }, dtype, kernel, want);
    });

    it.each(CALLS)('%s: a scale so large that one key takes all', async (_, call, kernel) => {
      const { queries, headDim } = call;
      for (const scale of [3e9, -3e9]) {
        const problem = problemOf({ dtype, group: 2, keys, ...call, scale });
        const { q, k } = problem;
        const product = (row: number, j: number) => {
          let sum = 0;
          for (let c = 0; c < headDim; c++) sum += q.data[row * headDim + c]! * k.data[j * headDim + c]!;
          return sum * scale;
        };
        const denseBias: Values = {
          shape: [1, 2, queries, keys],
          data: new Float64Array(2 * queries * keys).fill(NOTHING),
        };
        for (let row = 0; row < 2 * queries; row++) {
          let most = 0;
          for (let j = 1; j < keys; j++) if (product(row, j) > product(row, most)) most = j;
          denseBias.data[((row % 2) * queries + Math.floor(row / 2)) * keys + most] = 0;
        }
        const { lse, tolerance } = expectedOn('cuda', problem, dtype);
        const one = expectedOn('cuda', { ...problem, scale: 1, denseBias }, dtype);
        const want = { ...one, lse, tolerance: { out: one.tolerance.out, lse: tolerance.lse } };
        await expectRun(problem, dtype, kernel, want);
      }
    });

    it.each(CALLS)('%s: sinks of the lowest and the greatest float', async (_, call, kernel) => {
      const problem = problemOf({ dtype, group: 2, keys, ...call });
      const sinks = (...data: number[]): Values => ({ shape: [2], data: Float64Array.from(data) });
      const alone = { ...problem, keyBias: keyBiasOf(keys, NOTHING), sinks: sinks(-GREATEST, GREATEST) };
      await expectRun(alone, dtype, kernel, expectedOn('cuda', alone, dtype));
      const want = expectedAlike({ ...problem, sinks: sinks(0, 0) }, dtype, () => true, -GREATEST);
      const beside = { ...problem, keyBias: keyBiasOf(keys, -GREATEST), sinks: sinks(-GREATEST, -GREATEST) };
      await expectRun(beside, dtype, kernel, want);
    });

    it('on grids and in sparse plans', async () => {
      const tokens = 96;
      const axis = { window: 9, stride: 1, dilation: 1, causal: false, wrap: false };
      const plan: PlanSpec = {
        batch: 1,
        heads: 1,
        queries: tokens,
        keys: tokens,
        queryTile: 32,
        keyBlock: 16,
        causal: false,
        lists: [[0, 1, 3], [2, 4], [5]],
        holes: false,
      };
      const masks: NonNullable<Problem['masks']> = [{ heads: [[axis]] }, { plan }];
      for (const mask of masks) {
        const problem: Problem = {
          ...problemOf({ dtype, group: 2, queries: tokens, keys: tokens, headDim: 40 }),
          masks: [mask],
        };
        const finite = { ...problem, denseBias: lowest(tokens, tokens, 0, NOTHING) };
        const want = expectedAlike(finite, dtype, (i) => i % 3 === 0, -GREATEST);
        const given = { ...problem, denseBias: lowest(tokens, tokens, -GREATEST, -GREATEST) };
        await expectRun(given, dtype, 'sm80', want);
      }
    });

    it.each(CALLS)('%s: a query that is not a number gives none', async (_, call, kernel) => {
      const { headDim } = call;
      for (const more of [{}, { softcap: 3 }]) {
        const problem = problemOf({ dtype, group: 2, keys, ...call, ...more });
        const want = expectedOn('cuda', problem, dtype);
        const row = 2; // query 1 of head 0
        problem.q.data[row * headDim + 5] = Number.NaN;
        want.out.fill(Number.NaN, row * headDim, (row + 1) * headDim);
        want.lse[row] = Number.NaN;
        await expectRun(problem, dtype, kernel, want);
      }
    });
  });
});
