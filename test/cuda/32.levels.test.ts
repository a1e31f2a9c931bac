// Plans some of whose blocks count by means of a few keys, on a CUDA device: against the float64 oracle and the CPU. The
// device is a small one, so that long rows are made in parts.
import './support/small'; // before ./support/device
import './support/device'; // before node-attention
import fc from 'fast-check';
import { Tensor } from 'node-attention';
import { describe, it } from 'vitest';
import { checkAttention } from '../support/cached';
import { expectedOn, expectResult, run } from '../support/library';
import { type Float, normal, uniform } from '../support/numbers';
import type { PlanSpec, Problem } from '../support/oracle';
import { levelsCase, levelsProblem, planOf, randomPlan, withLevels, withMeans } from '../support/plans';
import { append, emptyTwin, type Sizes, smallSizes } from '../support/twin';
import { planOfWords } from '../support/words';
import { missing, schedule, schedules, title } from './support/device';
import { problemOf, type Spec } from './support/problems';
import { checkGraphs, checkSchedules, checkUnseen } from './support/repeated';
import { drawQueries, walkCaches } from './support/walked-caches';

type Pattern = Partial<Omit<PlanSpec, 'lists' | 'levels'>> & { share?: number; only?: number[] };

const TYPES: Float[] = ['float16', 'bfloat16', 'float32'];

let turn = 0;
const next = () => schedule(schedules[turn++ % schedules.length]!);

/** A problem and a random plan with levels, of which `only` may leave some alone. */
function levelled(spec: Spec, { share = 0.6, only, estimate = false, ...pattern }: Pattern): Problem {
  const { queries, keys, seed = 1 } = spec;
  const geometry = { batch: 1, heads: 1, queryTile: 64, keyBlock: 16, causal: false, ...pattern, queries, keys };
  const plan = withLevels(seed + 1, randomPlan(seed, geometry, share));
  const levels = plan.levels!.map((list) => list.map((level) => (level && only ? only[level % only.length]! : level)));
  return { ...problemOf(spec), masks: [{ plan: { ...plan, levels, estimate } }] };
}

async function compareWith(problem: Problem, dtype: Float, embedSeed?: number): Promise<void> {
  next();
  const want = expectedOn('cuda', withMeans(problem, dtype), dtype);
  expectResult(await run(problem, dtype, embedSeed, 'cuda'), want);
}
const compare = (spec: Spec, pattern: Pattern, embedSeed?: number) =>
  compareWith(levelled(spec, pattern), spec.dtype, embedSeed);

describe.skipIf(missing)(title('plans with levels'), () => {
  it('are one key for each mean, by the oracle, on random problems', async () => {
    const cases = levelsCase.filter(({ rest: c }) => c.batch * c.kvHeads * c.group * c.queries * c.keys * c.dim < 1e6);
    await fc.assert(
      fc.asyncProperty(cases, (one) => {
        const { dtype, seed } = one.rest;
        return compareWith(levelsProblem(one), dtype, seed % 2 ? seed : undefined);
      }),
      { numRuns: 15, seed: 32 },
    );
  });

  describe.each(TYPES)('%s', (dtype) => {
    it.each([64, 128, 256])('headDim %i: aligned or not, heads of a group, patterns of their own', async (headDim) => {
      const spec: Spec = { dtype, headDim, queries: 37, keys: 147, kvHeads: 2, group: 2 };
      await compare(spec, { keyBlock: 8, queryTile: 16, heads: 2, causal: true, only: [2] });
      const narrow: Spec = { ...spec, headDim: headDim - 3, valueDim: headDim - 7, queries: 21, batch: 2, sinks: true };
      await compare({ ...narrow, extra: 5, scale: -0.2 }, { heads: 4, batch: 2, only: [1], estimate: true }, 3);
    });
  });

  it.each([
    [4, [1]],
    [32, [4]],
    [128, [1, 2, 3, 4, 5, 6]],
  ])(
    'with blocks of %i, of levels %j beside others in full, and any number of them, in rows and at causal borders',
    async (keyBlock, only) => {
      for (const share of [0.1, 0.9, 1]) {
        const spec: Spec = { dtype: 'float32', headDim: 8, queries: 100, keys: 333, group: 2, seed: keyBlock };
        await compare(spec, { keyBlock, only, share, queryTile: 32, causal: true });
        await compare({ ...spec, queries: 1, batch: 2 }, { keyBlock, only, share, batch: 2 });
        await compare({ ...spec, queries: 150, keys: 60 }, { keyBlock, only, share, queryTile: 16, causal: true });
      }
    },
  );

  it('have means of fewer keys at the end', async () => {
    for (const keys of [129, 130, 131, 133, 143]) {
      for (const estimate of [false, true]) {
        const spec: Spec = { dtype: 'float16', headDim: 16, queries: 20, keys, seed: keys };
        await compare(spec, { share: 1, only: [3], estimate });
        await compare({ ...spec, queries: 1 }, { share: 1, only: [1, 2], causal: true, estimate }, 5);
      }
    }
  });

  it('with long rows, in parts', async () => {
    const spec: Spec = { dtype: 'float16', queries: 2, keys: 3001, headDim: 8, group: 2 };
    await compare(spec, { keyBlock: 8, queryTile: 16, share: 0.9 });
    await compare(spec, { keyBlock: 8, queryTile: 16, share: 0.9, estimate: true, causal: true });
  });

  it('have nothing to do with values of blocks that queries may not see whole', async () => {
    // The third block of 16 keys is cut by the causal borders of 8 queries: its entry is passed over.
    const geometry = { queries: 8, keys: 40, queryTile: 16, keyBlock: 16, causal: true, levels: 6 };
    const [FULL, TAIL] = [0, 3];
    for (const kind of [FULL, TAIL]) {
      using here = planOfWords([0, 2], [0 | (2 << 24), 2 | (1 << 24) | (kind << 27)], geometry);
      using mask = here.to('cuda');
      for (const dtype of TYPES) {
        next();
        await checkUnseen(mask, 40, 32, dtype);
      }
    }
  });

  it('are the same bit for bit under every schedule, and in graphs', async () => {
    const spec: Spec = { dtype: 'float16', queries: 70, keys: 200, headDim: 64, group: 2 };
    const problem = levelled(spec, { causal: true, only: [1, 3], estimate: true });
    await checkSchedules(problem, spec.dtype);
    using mask = planOf((problem.masks![0] as { plan: PlanSpec }).plan, 'cuda');
    await checkGraphs(problem, mask);
  });
});

describe.skipIf(missing)(title('plans with levels over a cache'), () => {
  it('are those of the oracle, whatever was appended, truncated and forked', async () => {
    const sizes = smallSizes([1, 3, 16, 64, 300], TYPES);
    const walk = { sizes, capacity: 800, most: 400, steps: [3, 8], numRuns: 8, seed: 32 } as const;
    await walkCaches(walk, async (visit) => {
      next();
      const { twin, sizes, stream, upTo, pickOf } = visit;
      const { q, geometry } = drawQueries(visit, [4, 8, 32, 128]);
      const listed = randomPlan(upTo(1e6), geometry, pickOf([0.3, 0.7, 1]));
      const plan = { ...withLevels(upTo(1e6), listed), estimate: pickOf([true, false]) };
      await checkAttention(twin, q, sizes.dtype, plan, undefined, stream);
    });
  });

  it('see nothing of what was truncated, nor means without keys', async () => {
    const random = uniform(5);
    for (const dtype of TYPES) {
      const sizes: Sizes = { batch: 4, kvHeads: 1, group: 2, headDim: 16, valueDim: 16, pageSize: 48, dtype };
      const twin = emptyTwin(sizes, 400, 'cuda');
      const lengths = [300, 32, 41, 261];
      append(twin, sizes, lengths, random);
      const poison = Tensor.from(new Float32Array(4 * 90 * 16).fill(Number.NaN), [4, 90, 1, 16], {
        dtype,
        device: 'cuda',
      });
      twin.cache.append(poison, poison);
      twin.cache.truncate(lengths);
      for (const causal of [true, false]) {
        for (const queries of [1, 5]) {
          next();
          const geometry = { batch: 1, heads: 1, queries, keys: 300, queryTile: 16, keyBlock: 32, causal };
          const q = normal(random, dtype, [4, queries, 2, 16]);
          const plan = withLevels(queries, randomPlan(queries, geometry, 0.8));
          await checkAttention(twin, q, dtype, { ...plan, estimate: causal });
        }
      }
      twin.cache.dispose();
    }
  });
});
