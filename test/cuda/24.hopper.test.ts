// The wgmma executor: every kernel that is instantiated, and what its tensor copies, rings, turns and cleaners could get
// wrong. Head dimensions are multiples of 8 here and queries many, which is what it takes.
import './support/device'; // before node-attention
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { check, expectedOn, expectResult, run } from '../support/library';
import type { Float } from '../support/numbers';
import type { Problem } from '../support/oracle';
import { missing, schedule, schedules, title } from './support/device';
import { CAUSAL, poison, problemOf, type Spec } from './support/problems';

const HALVES: Float[] = ['float16', 'bfloat16'];
const DIMENSIONS: [number, number][] = [
  [64, 64],
  [96, 96],
  [128, 128],
  [192, 128],
  [192, 192],
  [256, 256],
];

/** Compares with the oracle under some of the schedules. */
async function compare(spec: Spec, turns: number[], change: (problem: Problem) => void = () => {}): Promise<void> {
  const problem = problemOf(spec);
  change(problem);
  const want = expectedOn('cuda', problem, spec.dtype);
  for (const turn of turns) {
    schedule(schedules[turn % schedules.length]!);
    // With a seed, tensors are views of others that are full of NaN.
    expectResult(await run(problem, spec.dtype, turn % 2 ? turn : undefined, 'cuda'), want);
  }
}

describe.skipIf(missing)(title('attention on Hopper'), () => {
  describe.each(HALVES)('%s', (dtype) => {
    it.each(DIMENSIONS)('headDim %i, value headDim %i: plain and modified scores, whole and ragged', async (d, v) => {
      const base: Spec = { dtype, headDim: d, valueDim: v, kvHeads: 1, group: 2, queries: 203, keys: 405 };
      await compare(base, [d % 9]);
      await compare({ ...base, queries: 130, keys: 301, softcap: 4, mask: CAUSAL }, [(d + 1) % 9]);
      // Sequence 1 has no queries, so nobody may notice that its keys are not numbers.
      const cuSeqlens = { q: [0, 100, 100, 190], k: [0, 130, 230, 305] };
      for (const more of [{ mask: CAUSAL }, { softcap: 4 }]) {
        await compare({ ...base, ...more, queries: 203, keys: 310, cuSeqlens }, [(d + v) % 9], (problem) => {
          poison(problem, 130, 230);
          poison(problem, 305, 310);
        });
      }
    });
  });

  it('gives the same result under every schedule', async () => {
    const every = schedules.map((_, turn) => turn);
    const base: Spec = { dtype: 'bfloat16', headDim: 64, group: 2, queries: 203, keys: 530 };
    await compare({ ...base, mask: CAUSAL }, every);
    await compare({ ...base, headDim: 128, queries: 140, mask: { left: 150, right: 60 } }, every);
    const cuSeqlens = { q: [0, 70, 71, 190], k: [10, 10, 211, 500] };
    await compare({ ...base, headDim: 192, valueDim: 128, queries: 190, cuSeqlens }, every, (problem) => {
      poison(problem, 0, 10);
      poison(problem, 500, 530);
    });
  });

  it('several items of work for each block, one after the other', async () => {
    const many: Spec = { dtype: 'float16', headDim: 64, kvHeads: 10, group: 15, queries: 200, keys: 70 };
    await compare({ ...many, mask: CAUSAL }, [8]);
    // Outputs in the place of queries.
    await compare({ ...many, headDim: 192, valueDim: 128, kvHeads: 1, group: 150, queries: 130 }, [7]);
  });

  it('keys that no query of a tile sees have no influence, even NaN', async () => {
    const base: Spec = { dtype: 'bfloat16', headDim: 128, queries: 150, keys: 400 };
    await compare({ ...base, mask: { left: 20, right: 0 } }, [0, 4], (problem) => poison(problem, 0, 230));
    // The last key is seen by the last query alone, and lies in a tile that others visit as well.
    const spec: Spec = { ...base, queries: 140, keys: 152, mask: CAUSAL };
    const want = expectedOn('cuda', problemOf(spec), spec.dtype);
    const problem = problemOf(spec);
    poison(problem, 145, 152);
    for (const turn of [0, 5, 7]) {
      schedule(schedules[turn % schedules.length]!);
      const { out, lse } = await run(problem, spec.dtype, undefined, 'cuda');
      // Of the second tile of 128 queries, positions 140 up, some see such keys.
      const first = 128;
      expect(Array.from(lse.slice(0, first)).every(Number.isFinite)).toBe(true);
      for (let i = 0; i < first * 128; i++) {
        expect(Math.abs(out[i]! - want.out[i]!)).toBeLessThanOrEqual(want.tolerance.out);
      }
    }
  });

  it('biases, sinks, scales and groups', async () => {
    const base: Spec = { dtype: 'bfloat16', headDim: 64, kvHeads: 2, group: 3, batch: 2, queries: 77, keys: 150 };
    await compare({ ...base, sinks: true, mask: CAUSAL }, [1]);
    await compare({ ...base, denseBias: 15, mask: CAUSAL }, [2]);
    await compare({ ...base, denseBias: 3, keyBias: 2, softcap: 2 }, [4]);
    for (const scale of [0, -0.2]) await compare({ ...base, scale }, [6]);
    await compare({ ...base, queries: 150, keys: 70, mask: CAUSAL, sinks: true }, [8]);
    await compare({ ...base, extra: 9, mask: CAUSAL }, [3]);
  });

  it('random problems', async () => {
    const dimension = fc.integer({ min: 1, max: 32 }).map((n) => 8 * n);
    const reach = fc.oneof(fc.constant(-1), fc.integer({ min: 0, max: 200 }));
    const specs = fc
      .record({
        dtype: fc.constantFrom<Float>(...HALVES),
        batch: fc.constantFrom(1, 2),
        kvHeads: fc.constantFrom(1, 2),
        group: fc.constantFrom(1, 2, 3),
        queries: fc.integer({ min: 65, max: 300 }),
        keys: fc.integer({ min: 1, max: 500 }),
        headDim: dimension,
        valueDim: dimension,
        mask: fc.oneof(fc.constant(undefined), fc.constant(CAUSAL), fc.record({ left: reach, right: reach })),
        softcap: fc.constantFrom(undefined, undefined, 3),
        sinks: fc.boolean(),
        seed: fc.nat(),
      })
      .filter(({ batch, kvHeads, group, queries, keys, headDim, valueDim }) => {
        return batch * kvHeads * group * queries * keys * (headDim + valueDim) < 2e7;
      });
    await fc.assert(
      fc.asyncProperty(specs, async (spec) => {
        schedule(schedules[spec.seed % schedules.length]!);
        await check(problemOf(spec), spec.dtype, spec.seed % 2 ? spec.seed : undefined, 'cuda');
      }),
      { numRuns: 12, seed: 24 },
    );
  });
});
