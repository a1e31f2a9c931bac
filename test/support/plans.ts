// Sparse plans as tests describe them: lists of blocks, and perhaps holes in them.

import fc from 'fast-check';
import { type Mask, type PlanGeometry, SparsePlan } from 'node-attention';
import { attentionCase, type Case, decodeCase, problemOf } from './cases';
import { count, uniform } from './numbers';
import { type PlanSpec, type Problem, seesInPlan } from './oracle';

export function planOf({ lists, holes, ...geometry }: PlanSpec): SparsePlan & Mask {
  if (!holes) return SparsePlan.fromBlocks(lists, geometry);
  const whole = { lists, holes, ...geometry };
  return SparsePlan.fromPredicate(
    (i, j, head, batch) => seesInPlan(whole, batch, head, geometry.heads, i, j),
    geometry,
  );
}

/** Random lists; `share` of the blocks are in them, and some rows are empty. */
export function randomPlan(seed: number, geometry: Required<PlanGeometry>, share: number, holes = false): PlanSpec {
  const random = uniform(seed);
  const blocks = Math.ceil(geometry.keys / geometry.keyBlock);
  const rows = geometry.batch * geometry.heads * Math.ceil(geometry.queries / geometry.queryTile);
  const lists = Array.from({ length: rows }, () => {
    const own = share < 1 && random() < 0.1 ? 0 : share;
    return Array.from({ length: blocks }, (_, block) => block).filter(() => random() < own);
  });
  return { ...geometry, lists, holes };
}

const choices = fc.record({
  queryTile: fc.constantFrom(16, 32, 64, 128),
  keyBlock: fc.constantFrom(2, 8, 16, 32, 64, 128),
  patterns: fc.constantFrom('one', 'kvHeads', 'heads'),
  batched: fc.boolean(),
  causal: fc.boolean(),
  share: fc.constantFrom(0.05, 0.3, 0.7, 0.95, 1),
  holes: fc.constantFrom(false, false, true),
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
