// Sparse plans as tests describe them: lists of blocks, and perhaps holes in them.

import fc from 'fast-check';
import { type Device, type Mask, type PlanGeometry, type PlanOptions, SparsePlan, Tensor } from 'node-attention';
import { attentionCase, type Case, decodeCase, problemOf } from './cases';
import { count, type Float, normal, round, uniform, type Values } from './numbers';
import { levelInPlan, type PlanSpec, type Problem, seesInPlan } from './oracle';

export function planOf({ lists, holes, unread, ...geometry }: PlanSpec, device?: Device): SparsePlan & Mask {
  if (!holes && unread && !geometry.levels) return unreadPlan(lists, { ...geometry, device });
  if (!holes) return SparsePlan.fromBlocks(lists, { ...geometry, device });
  const whole = { lists, holes, ...geometry };
  return SparsePlan.fromPredicate((i, j, head, batch) => seesInPlan(whole, batch, head, geometry.heads, i, j), {
    ...geometry,
    device,
  });
}

/** The plan of lists that are tensors: nobody knows what it lists. */
export function unreadPlan(lists: readonly number[][], options: PlanGeometry & PlanOptions): SparsePlan {
  const words = (values: number[]) => Tensor.from(Int32Array.from(values), [values.length]);
  let end = 0;
  using offsets = words([0, ...lists.map((list) => (end += list.length))]);
  using blocks = words(lists.flat());
  return SparsePlan.fromBlocks({ offsets, blocks }, options);
}

/** Random lists; `share` of the blocks are in them, and some rows are empty. Every other seed has them {@link PlanSpec.unread}. */
export function randomPlan(
  seed: number,
  geometry: Required<Omit<PlanGeometry, 'estimate'>>,
  share: number,
  holes: PlanSpec['holes'] = false,
): PlanSpec {
  const random = uniform(seed);
  const blocks = Math.ceil(geometry.keys / geometry.keyBlock);
  const rows = geometry.batch * geometry.heads * Math.ceil(geometry.queries / geometry.queryTile);
  const lists = Array.from({ length: rows }, () => {
    const own = share < 1 && random() < 0.1 ? 0 : share;
    return Array.from({ length: blocks }, (_, block) => block).filter(() => random() < own);
  });
  return { ...geometry, lists, holes, unread: seed % 2 === 1 };
}

/** Whether all queries of the tile that begins with query `first` may see all keys of a block. */
const isWhole = ({ causal, queries, keys, keyBlock }: PlanSpec, first: number, block: number) =>
  !causal || Math.min((block + 1) * keyBlock, keys) - 1 <= first + keys - queries;

/** The plan with random levels, where the causal border does not cut a block. */
export function withLevels(seed: number, plan: PlanSpec): PlanSpec {
  const random = uniform(seed);
  const count = Math.log2(plan.keyBlock); // with 0
  const tiles = Math.ceil(plan.queries / plan.queryTile);
  const levels = plan.lists.map((list, row) =>
    list.map((block) => (isWhole(plan, (row % tiles) * plan.queryTile, block) ? Math.floor(random() * count) : 0)),
  );
  return { ...plan, levels };
}

const choices = fc.record({
  queryTile: fc.constantFrom(16, 32, 64, 128),
  keyBlock: fc.constantFrom(2, 8, 16, 32, 64, 128),
  patterns: fc.constantFrom('one', 'kvHeads', 'heads'),
  batched: fc.boolean(),
  causal: fc.boolean(),
  share: fc.constantFrom(0.05, 0.3, 0.7, 0.95, 1),
  holes: fc.constantFrom<PlanSpec['holes']>(false, false, true, 'blocks', 'most blocks'),
});

/** Random problems of the other tests, with a plan among the masks. */
export const planCase = fc
  .oneof({ weight: 3, arbitrary: attentionCase as fc.Arbitrary<Case> }, { weight: 1, arbitrary: decodeCase })
  .filter((c) => c.cuSeqlens === undefined)
  .chain((c) => choices.map((plan) => ({ ...c, plan })));

export function planProblem(c: typeof planCase extends fc.Arbitrary<infer T> ? T : never): Problem {
  const problem = problemOf(c);
  const { patterns, batched, share, holes, ...rest } = c.plan;
  const heads = { one: 1, kvHeads: c.kvHeads, heads: c.kvHeads * c.group }[patterns]!;
  const geometry = {
    ...rest,
    heads,
    batch: batched ? c.batch : 1,
    queries: count(c.layout.qAxes),
    keys: count(c.layout.kAxes),
  };
  const plan = randomPlan(c.seed, geometry, share, holes);
  return { ...problem, masks: [...(problem.masks ?? []), { plan }] };
}

/** Random problems with a plan that estimates what it does not list; tokens evenly spaced. */
export const estimateCase = fc.record({
  seed: fc.nat(),
  dtype: fc.constantFrom<Float>('float32', 'float16', 'bfloat16'),
  batch: fc.constantFrom(1, 2),
  kvHeads: fc.constantFrom(1, 3),
  group: fc.constantFrom(1, 2),
  queries: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 140 })),
  keys: fc.oneof(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 100, max: 500 })),
  dim: fc.constantFrom(1, 8, 33),
  valueDim: fc.constantFrom(5, 16),
  sinks: fc.boolean(),
  extra: fc.boolean(),
  plan: choices,
});

export function estimateProblem(c: typeof estimateCase extends fc.Arbitrary<infer T> ? T : never): Problem {
  const random = uniform(c.seed);
  const tensor = (...shape: number[]) => normal(random, c.dtype, [c.batch, ...shape]);
  const { patterns, batched, share, holes, ...rest } = c.plan;
  const heads = c.kvHeads * c.group;
  const geometry = {
    ...rest,
    heads: { one: 1, kvHeads: c.kvHeads, heads }[patterns]!,
    batch: batched ? c.batch : 1,
    queries: c.queries,
    keys: c.keys,
  };
  const problem: Problem = {
    q: tensor(c.queries, heads, c.dim),
    k: tensor(c.keys, c.kvHeads, c.dim),
    v: tensor(c.keys, c.kvHeads, c.valueDim),
    masks: [{ plan: { ...randomPlan(c.seed, geometry, share, holes), estimate: true } }],
  };
  if (c.extra) problem.extra = { k: tensor(3, c.kvHeads, c.dim), v: tensor(3, c.kvHeads, c.valueDim) };
  if (c.sinks) problem.sinks = normal(random, 'float32', [heads]);
  return problem;
}

/** The same with levels of what is listed; what is not may be estimated. */
export const levelsCase = fc.record({ estimate: fc.boolean(), rest: estimateCase });

export function levelsProblem({
  estimate,
  rest,
}: typeof levelsCase extends fc.Arbitrary<infer T> ? T : never): Problem {
  const problem = estimateProblem({ ...rest, plan: { ...rest.plan, holes: false } });
  const { plan } = problem.masks![0] as { plan: PlanSpec };
  return { ...problem, masks: [{ plan: { ...withLevels(rest.seed + 1, plan), estimate } }] };
}

/**
 * The problem of a plan with levels, or one that estimates, without it: the means of blocks, and of the keys that
 * levels put together, are further keys, and a bias says who sees what, and that a mean counts as often as it has keys.
 */
export function withMeans(problem: Problem, dtype: Float): Problem {
  const { masks, ...rest } = problem;
  const { plan } = masks![0] as { plan: PlanSpec };
  const [batch, queries, heads] = problem.q.shape as [number, number, number];
  const { keys, keyBlock, queryTile } = plan;
  const blocks = Math.ceil(keys / keyBlock);
  const sizes = new Set(plan.levels?.flat().map((level) => 2 ** level));
  sizes.delete(1);
  if (plan.estimate) sizes.add(keyBlock);
  /** Keys that have a mean, [first, end), and how many have one where the keys do not end. */
  const runs = [...sizes].flatMap((size) =>
    Array.from({ length: Math.ceil(keys / size) }, (_, n) => ({
      ...{ size, first: n * size, end: Math.min((n + 1) * size, keys) },
    })),
  );
  const all = keys + runs.length;
  function extended({ data, shape }: Values): Values {
    const row = shape[2]! * shape[3]!;
    const made = new Float64Array(batch * all * row);
    for (let b = 0; b < batch; b++) {
      made.set(data.subarray(b * keys * row, (b + 1) * keys * row), b * all * row);
      for (const [n, { first, end }] of runs.entries()) {
        for (let d = 0; d < row; d++) {
          let sum = 0;
          for (let key = first; key < end; key++) sum += data[(b * keys + key) * row + d]!;
          made[(b * all + keys + n) * row + d] = round(dtype, sum / (end - first));
        }
      }
    }
    return { data: made, shape: [batch, all, ...shape.slice(2)] };
  }
  const bias = new Float64Array(batch * heads * queries * all).fill(Number.NEGATIVE_INFINITY);
  const sees = (b: number, h: number, i: number, key: number) => seesInPlan(plan, b, h, heads, i, key);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let tile = 0; tile < queries; tile += queryTile) {
        const row = Array.from({ length: Math.min(queryTile, queries - tile) }, (_, i) => tile + i);
        for (let block = 0; block < blocks; block++) {
          const first = block * keyBlock;
          const own = Array.from({ length: Math.min(keyBlock, keys - first) }, (_, i) => first + i);
          const level = levelInPlan(plan, b, h, heads, tile, block);
          for (const i of row) {
            const seen = own.some((key) => sees(b, h, i, key));
            const size = level ? 2 ** level : plan.estimate && !seen ? keyBlock : 0;
            const at = ((b * heads + h) * queries + i) * all;
            for (const key of own) if (sees(b, h, i, key)) bias[at + key] = 0;
            if (!isWhole(plan, tile, block)) continue;
            for (const [n, run] of runs.entries()) {
              const mine = run.size === size && run.first >= first && run.first < first + keyBlock;
              if (mine) bias[at + keys + n] = Math.log(run.end - run.first);
            }
          }
        }
      }
    }
  }
  return {
    ...rest,
    k: extended(problem.k),
    v: extended(problem.v),
    denseBias: { data: bias, shape: [batch, heads, queries, all] },
  };
}
