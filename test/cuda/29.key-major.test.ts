// Attention over plans whose queries see blocks of their own, which a CUDA device walks by blocks of keys.
import './support/single'; // so that keys have no parts, and a block of threads several runs
import './support/device'; // before node-attention
import { attention, type Mask, pooledPlan, type SparsePlan, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { checkAttention } from '../support/cached';
import { check, expectedOn, expectResult, run, tensorOf } from '../support/library';
import { decode, type Float, normal, uniform } from '../support/numbers';
import { type MaskSpec, type PlanSpec, type Problem, seesInPlan } from '../support/oracle';
import { planOf, withMeans } from '../support/plans';
import { append, emptyTwin, type Sizes } from '../support/twin';
import { interpreted, missing, schedule, schedules, title } from './support/device';
import { CAUSAL, poison, problemOf, type Spec } from './support/problems';
import { checkSchedules } from './support/repeated';

const TYPES: Float[] = ['float16', 'bfloat16', 'float32'];

let turn = 0;
const next = () => schedule(schedules[turn++ % schedules.length]!);

type Pattern = Partial<Omit<PlanSpec, 'lists' | 'queries' | 'keys'>>;

/** Rows list all blocks; each query sees two of 19 pairs of them. */
function planFor({ queries, keys }: Pick<Spec, 'queries' | 'keys'>, pattern: Pattern): PlanSpec {
  const geometry = { batch: 1, heads: 1, queryTile: 32, keyBlock: 64, causal: false, queries, keys, ...pattern };
  const rows = geometry.batch * geometry.heads * Math.ceil(queries / geometry.queryTile);
  const all = Array.from({ length: Math.ceil(keys / geometry.keyBlock) }, (_, block) => block);
  return { holes: 'most blocks', ...geometry, lists: Array.from({ length: rows }, () => all) };
}

/**
 * Throws unless a plan is walked by keys: by rows, all queries of a tile multiply the values of a block that any of them
 * sees, if by weights of 0.
 */
async function expectByKeys(problem: Problem, plan: PlanSpec, dtype: Float): Promise<void> {
  const [batch, queries, heads] = problem.q.shape as [number, number, number];
  const first = 2 * Math.floor(plan.keys / plan.keyBlock / 4) * plan.keyBlock;
  poison(problem, first, first + plan.keyBlock);
  const { out } = await run(problem, dtype, undefined, 'cuda');
  const columns = out.length / (batch * queries * heads);
  const bare = { ...plan, causal: false };
  let [met, seeing] = [0, 0];
  for (let row = 0; row < batch * queries * heads; row++) {
    if (!Number.isNaN(out[row * columns])) continue;
    const [b, i, h] = [Math.floor(row / heads / queries), Math.floor(row / heads) % queries, row % heads];
    met++;
    seeing += Number(seesInPlan(bare, b, h, heads, i, first));
  }
  // By rows 2 of 19; the last run, of few tiles, may go so.
  expect(seeing / met).toBeGreaterThan(0.3);
}

/**
 * Against the oracle; with a seed, all tensors are views of others full of NaN. Throws unless it is walked by keys: of a
 * device that is larger than the stand-in, small problems are not.
 */
async function compare(
  spec: Spec,
  pattern: Pattern,
  embedSeed?: number,
  more: MaskSpec[] = [],
  byKeys = interpreted,
): Promise<void> {
  next();
  const problem = problemOf(spec);
  const plan = planFor(spec, pattern);
  problem.masks = [...problem.masks!, ...more, { plan }];
  await check(problem, spec.dtype, embedSeed, 'cuda');
  if (byKeys) await expectByKeys(problem, plan, spec.dtype);
}

/** Which queries of one head are NaN where the values of one block are, and which of them see that block. */
async function touched(spec: Spec, pattern: Pattern): Promise<{ got: number[]; seeing: number[] }> {
  const { queries, keys, headDim, dtype } = spec;
  const own = planFor(spec, pattern);
  const block = 2;
  const values = Float32Array.from({ length: keys * headDim }, (_, i) => {
    return Math.floor(i / headDim / own.keyBlock) === block ? Number.NaN : 1;
  });
  const randn = (seed: number, tokens: number) =>
    Tensor.randn([1, tokens, 1, headDim], { seed, dtype, device: 'cuda' });
  const v = Tensor.from(values, [1, keys, 1, headDim], { dtype, device: 'cuda' });
  using plan = planOf(own, 'cuda');
  const { out } = attention(randn(1, queries), randn(2, keys), v, { mask: plan });
  const rows = decode(dtype, await out.read());
  const all = Array.from({ length: queries }, (_, i) => i);
  return {
    got: all.filter((i) => Number.isNaN(rows[i * headDim])),
    seeing: all.filter((i) => seesInPlan(own, 0, 0, 1, i, block * own.keyBlock)),
  };
}

describe.skipIf(missing)(title('plans by blocks of keys'), () => {
  it.runIf(interpreted)('are walked so where queries see few of the blocks that their row lists', async () => {
    const spec: Spec = { dtype: 'float16', queries: 1024, keys: 512, headDim: 32 };
    const { got, seeing } = await touched(spec, {});
    expect(seeing.length).toBeGreaterThan(50);
    expect(got).toEqual(seeing); // by rows, other queries multiply those values by weights of 0
    // Not where they see many, nor in blocks too small to be gathered for, nor some keys of a block and not the others.
    for (const other of [{ holes: 'blocks', queryTile: 64 }, { keyBlock: 4 }, { holes: true }] as const) {
      const { got, seeing } = await touched(spec, other);
      expect(got.length).toBeGreaterThan(seeing.length);
    }
    for (const mask of [undefined, CAUSAL, { left: 30, right: 5 }]) {
      await expect(compare({ ...spec, mask }, { keyBlock: 4 })).rejects.toThrow(/greater than 0\.3/);
    }
  });

  describe.each(TYPES)('%s', (dtype) => {
    it.each([64, 128, 256])('headDim %i: tiles and blocks of all sizes, causal or not', async (headDim) => {
      const spec: Spec = { dtype, headDim, queries: 1037, keys: 490 };
      await compare(spec, { queryTile: 16 });
      await compare({ ...spec, mask: CAUSAL }, { queryTile: 128, keyBlock: 128 });
      await compare({ ...spec, mask: CAUSAL }, { queryTile: 64, keyBlock: 32 });
      // Not aligned, not as wide as the kernel is, and scores that are changed.
      const narrow = { ...spec, headDim: headDim - 3, valueDim: headDim - 7, softcap: 3, denseBias: 15 };
      await compare(narrow, {}, 3);
    });
  });

  it('runs of as many tiles as there may be, and more of them than are walked at a time', async () => {
    const base: Spec = { dtype: 'float16', kvHeads: 2, queries: 1100, keys: 300, headDim: 16 };
    await compare({ ...base, batch: 2, group: 2 }, { heads: 4, queryTile: 16 });
    await compare({ ...base, group: 3, mask: CAUSAL }, { heads: 6, queryTile: 32 });
  });

  it('patterns of heads and batches, grouped heads that share a tile', async () => {
    const base: Spec = { dtype: 'float16', batch: 2, kvHeads: 2, group: 3, queries: 600, keys: 290, headDim: 24 };
    for (const heads of [1, 2, 6]) {
      for (const queryTile of [16, 64]) {
        const mask = heads === 6 ? { mask: CAUSAL } : {};
        await compare({ ...base, ...mask }, { heads, queryTile, batch: heads === 2 ? 1 : 2 });
      }
    }
    await compare({ ...base, batch: 1, kvHeads: 1, group: 37 }, { queryTile: 16 }); // more heads than share a tile
  });

  it('sinks, extra keys, windows, biases, scales and caps', async () => {
    const base: Spec = { dtype: 'float16', kvHeads: 1, group: 2, batch: 2, queries: 577, keys: 350, headDim: 40 };
    await compare({ ...base, sinks: true }, {});
    await compare({ ...base, sinks: true, extra: 40 }, {}, 5);
    await compare({ ...base, mask: CAUSAL }, {});
    await compare({ ...base, mask: { left: 100, right: -1 } }, {}, undefined, [CAUSAL]);
    await compare({ ...base, mask: { left: 30, right: 5 } }, {}, 2, [CAUSAL]);
    await compare({ ...base, keyBias: 1, denseBias: 7, scale: -0.2, softcap: 2, sinks: true }, {}, 4);
    await compare({ ...base, scale: 0 }, {});
  });

  it('more queries than keys, and rows that list nothing', async () => {
    const base: Spec = { dtype: 'float32', queries: 1130, keys: 460, headDim: 16, group: 2 };
    await compare({ ...base, mask: CAUSAL }, {});
    const pattern = planFor(base, { queryTile: 16 });
    const lists = pattern.lists.map((list, row) => (row % 3 === 1 ? [] : list));
    const problem = problemOf(base);
    await check({ ...problem, masks: [{ plan: { ...pattern, lists } }] }, base.dtype, undefined, 'cuda');
  });

  it.runIf(interpreted)('beside runs that are walked by rows, in one call', async () => {
    const { dtype, ...rest }: Spec = { dtype: 'float16', queries: 1024, keys: 512, headDim: 16, group: 2 };
    const spec = { dtype, ...rest };
    const few = planFor(spec, { queryTile: 32 });
    const makes = (from: number, to: number) => (_: number[], row: number) =>
      row >= from && row < to ? few.lists[row]! : [];
    next();
    using some = planOf({ ...few, lists: few.lists.map(makes(0, 16)) }, 'cuda');
    using whole = planOf({ ...few, holes: false, lists: few.lists.map(makes(16, 32)) }, 'cuda');
    using both = some.union(whole);
    const tensor = (seed: number, tokens: number, heads: number) =>
      Tensor.randn([1, tokens, heads, 16], { seed, dtype, device: 'cuda' });
    const [q, k, v] = [tensor(1, 1024, 2), tensor(2, 512, 1), tensor(3, 512, 1)];
    const read = async (mask: SparsePlan & Mask) => (await attention(q, k, v, { mask }).out.read()) as Uint16Array;
    const [got, first, last] = [await read(both), await read(some), await read(whole)];
    const half = got.length / 2;
    expect(got.subarray(0, half)).toEqual(first.subarray(0, half));
    expect(got.subarray(half)).toEqual(last.subarray(half));
  });

  it('beside means of what a query sees nothing of', async () => {
    const estimate = async (spec: Spec, pattern: Pattern) => {
      next();
      const problem = problemOf(spec);
      const mask = { plan: { ...planFor(spec, pattern), estimate: true } };
      const want = expectedOn('cuda', withMeans({ ...problem, masks: [mask] }, spec.dtype), spec.dtype);
      expectResult(await run({ ...problem, masks: [mask] }, spec.dtype, 7, 'cuda'), want);
    };
    const base: Spec = { dtype: 'float16', kvHeads: 2, group: 2, queries: 577, keys: 350, headDim: 40, sinks: true };
    await estimate(base, { heads: 4, queryTile: 16 });
    await estimate({ ...base, batch: 2, extra: 5 }, { batch: 2, keyBlock: 32, causal: true });
    await estimate({ ...base, dtype: 'float32', keys: 490 }, { queryTile: 128, keyBlock: 128, causal: true });
  });

  it('are the same bit for bit, however threads take turns', async () => {
    const spec: Spec = { dtype: 'float16', kvHeads: 2, group: 2, queries: 1100, keys: 300, headDim: 16 };
    const masks = [{ plan: planFor(spec, { heads: 4, queryTile: 16 }) }];
    await checkSchedules({ ...problemOf(spec), masks }, spec.dtype);
  });

  it('over a cache whose sequences have lengths of their own', async () => {
    const random = uniform(3);
    for (const [dtype, storage] of [
      ['float16', undefined],
      ['float32', undefined],
      ['float16', 'int8'],
    ] as const) {
      const sizes: Sizes = { batch: 3, kvHeads: 2, group: 2, headDim: 61, valueDim: 30, pageSize: 7, dtype, storage };
      const twin = emptyTwin(sizes, 400, 'cuda');
      append(twin, sizes, [290, 0, 167], random);
      const q = normal(random, dtype, [3, 577, 4, 61]);
      next();
      for (const estimate of [false, true]) {
        const plan = { ...planFor({ queries: 577, keys: 290 }, { heads: 2 }), estimate };
        await checkAttention(twin, q, dtype, plan);
      }
      twin.cache.dispose();
    }
  });

  it('with the causal border that pooledPlan keeps beside what each query selects', async () => {
    const spec: Spec = { dtype: 'float16', queries: 2048, keys: 2060, headDim: 16, kvHeads: 1, group: 2 };
    const problem = problemOf(spec);
    const [q, k, v] = [problem.q, problem.k, problem.v].map((values) => tensorOf(values, spec.dtype, 'cuda'));
    const options = { queries: 'own', budget: 128, keyBlock: 128, queryTile: 64, causal: true } as const;
    for (const always of [{ sink: 0, window: 1 }, undefined]) {
      next();
      using plan = pooledPlan(q!, k!, { ...options, always });
      using seen = plan.toDense();
      const bias = Float64Array.from(await seen.read(), (sees) => (sees ? 0 : Number.NEGATIVE_INFINITY));
      const { out, lse } = attention(q!, k!, v!, { mask: plan });
      const got = { out: decode(spec.dtype, await out.read()), lse: decode('float32', await lse.read()) };
      const shape = [1, 1, spec.queries, spec.keys];
      expectResult(got, expectedOn('cuda', { ...problem, denseBias: { data: bias, shape } }, spec.dtype));
    }
  });

  it.skipIf(interpreted)('on a whole device', async () => {
    const spec: Spec = { dtype: 'bfloat16', kvHeads: 8, queries: 8192, keys: 1030, headDim: 16 };
    await compare(spec, { heads: 8, queryTile: 64, keyBlock: 128 }, undefined, [], true);
  });
});
