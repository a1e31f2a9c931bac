// What attention on a CUDA device must do, whichever kernels run it.
import fc from 'fast-check';
import { describe, it } from 'vitest';
import { check, expectedOn, expectResult, run } from '../../support/library';
import type { Float } from '../../support/numbers';
import type { Problem } from '../../support/oracle';
import { missing, schedule, schedules, title } from './device';
import { CAUSAL, KERNELS, poison, problemOf, type Spec, specs } from './problems';
import { checkSchedules } from './repeated';

/** Compares a problem with the oracle under one schedule; with a seed, all tensors are views of others full of NaN. */
async function compare(problem: Problem, { dtype, precision }: Spec, turn: number, embedSeed?: number): Promise<void> {
  schedule(schedules[turn % schedules.length]!);
  await check(problem, dtype, embedSeed, 'cuda', precision);
}

/** A problem under several schedules, aligned and in views. */
async function compareAll(spec: Spec, change: (problem: Problem) => void = () => {}): Promise<void> {
  const { dtype, precision } = spec;
  const problem = problemOf(spec);
  change(problem);
  const want = expectedOn('cuda', problem, dtype, precision);
  for (const [turn, embedSeed] of [[0], [1], [7], [8, 1]]) {
    schedule(schedules[turn! % schedules.length]!);
    expectResult(await run(problem, dtype, embedSeed, 'cuda', precision), want);
  }
}

const HALVES: Float[] = ['float16', 'bfloat16'];
const TYPES: Float[] = [...HALVES, 'float32'];

/** `runs` random problems besides. */
export function testAttention(name: string, runs: number): void {
  describe.skipIf(missing)(title(name), () => {
    for (const { dtype, precision, dimensions } of KERNELS) {
      for (const [headDim, valueDim] of dimensions) {
        it(`${precision ?? dtype}, headDim ${headDim}, value headDim ${valueDim}: many and few rows, plain and modified scores`, async () => {
          const base = { dtype, precision, headDim, valueDim, kvHeads: 2 };
          const many: Spec = { ...base, queries: 141, keys: 173 };
          const few: Spec = { ...base, group: 3, batch: 2, queries: 2, keys: 333 };
          let turn = headDim;
          for (const spec of [many, few, { ...many, mask: CAUSAL, softcap: 5 }, { ...few, keyBias: 2 }]) {
            await compare(problemOf(spec), spec, turn++);
          }
          // Not aligned, and not as wide as the kernel is.
          const narrow: Spec = { ...many, queries: 50, headDim: headDim - 3, valueDim: valueDim - 7, mask: CAUSAL };
          await compare(problemOf(narrow), narrow, turn, 2);
        });
      }
    }

    it.each(TYPES)('%s: random problems', async (dtype) => {
      let turn = 0;
      await fc.assert(
        fc.asyncProperty(specs, (random) => {
          const spec = { ...random, dtype };
          return compare(problemOf(spec), spec, turn++, random.seed! % 3 === 0 ? undefined : random.seed);
        }),
        { numRuns: runs, seed: 20 },
      );
    });

    describe.each(TYPES)('%s', (dtype) => {
      const base = { dtype, kvHeads: 1, group: 2, headDim: 40 };

      it('keys outside the window of every query have no influence, even NaN', async () => {
        const mask = { left: 20, right: 5 };
        await compareAll({ ...base, queries: 90, keys: 333, mask }, (problem) => poison(problem, 0, 222));
        await compareAll({ ...base, queries: 1, keys: 333, mask }, (problem) => poison(problem, 0, 312));
      });

      it('tokens outside a packed sequence have no influence, even NaN, and queries of none get 0', async () => {
        const cuSeqlens = { q: [7, 40, 40, 61, 130], k: [30, 77, 140, 140, 300] };
        for (const mask of [undefined, CAUSAL]) {
          await compareAll({ ...base, queries: 150, keys: 333, cuSeqlens, mask, sinks: true }, (problem) => {
            poison(problem, 0, 30);
            poison(problem, 300, 333);
          });
        }
        await compareAll({ ...base, queries: 20, keys: 333, cuSeqlens: { q: [3, 20], k: [100, 108] } }, (problem) => {
          poison(problem, 0, 100);
          poison(problem, 108, 333);
        });
      });

      it('one query of each packed sequence', async () => {
        const cuSeqlens = { q: [0, 1, 2, 3, 4], k: [10, 77, 140, 140, 300] };
        await compareAll({ ...base, queries: 4, keys: 300, cuSeqlens, mask: CAUSAL }, (problem) => {
          poison(problem, 0, 10);
        });
      });

      it('scores of minus infinity, from biases and from keys', async () => {
        const spec: Spec = { ...base, queries: 30, keys: 150 };
        for (const denseBias of [1, 2, 3]) {
          await compareAll({ ...spec, denseBias }, ({ denseBias: bias }) => {
            for (let i = 0; i < bias!.data.length; i += 2) bias!.data[i] = Number.NEGATIVE_INFINITY;
          });
        }
        for (const hidden of [70, 150]) {
          await compareAll(spec, ({ q, k }) => {
            for (let row = 0; row < q.data.length; row += 40) q.data[row] = 1 + Math.abs(q.data[row]!);
            for (let key = 0; key < hidden; key++) k.data[key * 40] = Number.NEGATIVE_INFINITY;
          });
        }
      });

      it('infinite values', async () => {
        await compareAll({ ...base, queries: 30, keys: 150 }, ({ v }) => {
          v.data[5] = Number.POSITIVE_INFINITY;
          v.data[47] = Number.NEGATIVE_INFINITY;
        });
      });

      it('scores so large that one key takes all', async () => {
        await compareAll({ ...base, queries: 30, keys: 150, scale: 3e9 });
        await compareAll({ ...base, queries: 1, keys: 150, scale: 3e9 });
      });

      it('nothing to see: 0 and minus infinity, or the sink', async () => {
        for (const sinks of [false, true]) {
          await compareAll({ ...base, queries: 90, keys: 33, mask: CAUSAL, sinks });
          await compareAll({ ...base, queries: 5, keys: 0, sinks });
        }
      });

      it('is the same bit for bit under every schedule', async () => {
        const problem = problemOf({ ...base, queries: 100, keys: 200, mask: CAUSAL });
        await checkSchedules(problem, dtype);
      });
    });
  });
}
