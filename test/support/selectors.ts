// The selectors of the library against their definitions of selection.ts, on small integers in all types: products are
// exact, and so are ties.

import { hipPlan, pagePlan, pooledPlan, type SelectorOptions, type SparsePlan, Tensor } from 'node-attention';
import { uniform } from './numbers';
import { bisection, hip, pooled, type Rows, select, selectMeans } from './selection';
import { meansOf } from './words';

export type Select = (q: Tensor, k: Tensor, options: SelectorOptions) => SparsePlan;

export const selectors: [string, Select][] = [
  ['hipPlan', hipPlan],
  ['hipPlan, first', (q, k, o) => hipPlan(q, k, { ...o, representative: 'first' })],
  ['hipPlan, hip1', (q, k, o) => hipPlan(q, k, { ...o, variant: 'hip1' })],
  ['pagePlan', pagePlan],
  ['pooledPlan', pooledPlan],
  ['pooledPlan, max', (q, k, o) => pooledPlan(q, k, { ...o, pooling: 'max', queries: 'mean' })],
  ['pooledPlan, min', (q, k, o) => pooledPlan(q, k, { ...o, pooling: 'min' })],
];

/** The blocks of each row that hold a key that any query of it sees. */
export async function listsOf(plan: SparsePlan): Promise<number[][]> {
  await plan.validate();
  using dense = plan.toDense();
  const shown = await dense.read();
  const { queries, keys, queryTile, keyBlock, heads, batch } = plan;
  const lists: number[][] = [];
  const repeats = dense.shape[1]! / heads; // heads of each pattern
  for (let pattern = 0; pattern < batch * heads; pattern++) {
    for (let first = 0; first < queries; first += queryTile) {
      const last = Math.min(first + queryTile, queries) - 1;
      const list: number[] = [];
      for (let block = 0; block * keyBlock < keys; block++) {
        if (shown[(pattern * repeats * queries + last) * keys + block * keyBlock]) list.push(block);
      }
      lists.push(list);
    }
  }
  return lists;
}

export const sizes = [
  { queries: 200, keys: 1000, heads: 4, kvHeads: 2, dim: 16 },
  { queries: 700, keys: 700, heads: 2, kvHeads: 2, dim: 5 },
  { queries: 1, keys: 2111, heads: 3, kvHeads: 1, dim: 40 },
];

const stages = [
  { chunk: 128, keep: 400 },
  { chunk: 32, keep: 200 },
  { chunk: 8, keep: 0 },
];
const given = stages.map(({ chunk, keep }) => (keep ? { chunk, keep } : { chunk }));

type Case = [name: string, choose: Parameters<typeof select>[2], keyBlock: number, make: Select];

export const cases: Case[] = [
  ['hipPlan', hip(stages, false), 8, (q, k, o) => hipPlan(q, k, { ...o, stages: given })],
  [
    'hipPlan, first',
    hip(stages, true),
    8,
    (q, k, o) => hipPlan(q, k, { ...o, stages: given, representative: 'first' }),
  ],
  ['hip1', bisection(false), 8, (q, k, o) => hipPlan(q, k, { ...o, variant: 'hip1' })],
  ['hip1, first', bisection(true), 4, (q, k, o) => hipPlan(q, k, { ...o, variant: 'hip1', representative: 'first' })],
  ['pagePlan', pooled('bounds'), 16, pagePlan],
  ['pooledPlan, mean', pooled('mean'), 32, pooledPlan],
  ['pooledPlan, max', pooled('max'), 16, (q, k, o) => pooledPlan(q, k, { ...o, pooling: 'max' })],
  [
    'pooledPlan, min',
    pooled('min', 'mean'),
    16,
    (q, k, o) => pooledPlan(q, k, { ...o, pooling: 'min', queries: 'mean' }),
  ],
  ['pooledPlan, largest queries', pooled('mean', 'max'), 32, (q, k, o) => pooledPlan(q, k, { ...o, queries: 'max' })],
  [
    'pooledPlan, least queries',
    pooled('max', 'min'),
    16,
    (q, k, o) => pooledPlan(q, k, { ...o, pooling: 'max', queries: 'min' }),
  ],
];

/** Two batch entries of small integers, and the rows of each pattern of heads. */
function integersOf({ queries, keys, heads, kvHeads, dim }: (typeof sizes)[number]) {
  const random = uniform(queries + dim);
  const whole = (tokens: number, of: number) =>
    Float32Array.from({ length: 2 * tokens * of * dim }, () => Math.floor(random() * 9) - 4);
  const [qs, ks] = [whole(queries, heads), whole(keys, kvHeads)];
  const rows = (data: Float32Array, batch: number, tokens: number, of: number, head: number) =>
    Array.from({ length: tokens }, (_, token) => {
      const at = ((batch * tokens + token) * of + head) * dim;
      return Array.from(data.subarray(at, at + dim));
    });
  return {
    qs,
    ks,
    /** Of the heads that have a pattern in common, given how many patterns there are. */
    rowsOf: (batch: number, pattern: number, count: number) =>
      Array.from({ length: heads / count }, (_, i): Rows => {
        const head = (pattern * heads) / count + i;
        const kvHead = Math.floor(head / (heads / kvHeads));
        return { q: rows(qs, batch, queries, heads, head), k: rows(ks, batch, keys, kvHeads, kvHead) };
      }),
  };
}

/** Throws if the library's plan is not that of the definition. */
export async function checkSelector([name, choose, keyBlock, make]: Case, size: (typeof sizes)[number]): Promise<void> {
  const { queries, keys, heads, kvHeads, dim } = size;
  const { qs, ks, rowsOf } = integersOf(size);
  for (const [isCausal, share, type] of [
    [true, 'group', 'bfloat16'],
    [false, 'none', 'float16'],
    [true, 'all', 'float32'],
  ] as const) {
    // The mean of a tile's queries is rounded to their type.
    const dtype = name === 'pooledPlan, min' ? 'float32' : type;
    using q = Tensor.from(qs, [2, queries, heads, dim], { dtype });
    using k = Tensor.from(ks, [2, keys, kvHeads, dim], { dtype });
    const common = { keyBlock, causal: isCausal, queryTile: 64 };
    const always = { sink: 10, window: 33 };
    using plan = make(q, k, { ...common, budget: 5 * keyBlock - 1, share, always });
    const want: number[][] = [];
    const count = { all: 1, group: kvHeads, none: heads }[share];
    for (let batch = 0; batch < 2; batch++) {
      for (let pattern = 0; pattern < count; pattern++) {
        want.push(...select(rowsOf(batch, pattern, count), { ...common, ...always, budget: 5 }, choose));
      }
    }
    const got = await listsOf(plan);
    const wrong = want.findIndex((list, row) => list.join() !== got[row]?.join());
    if (wrong < 0 && got.length === want.length) continue;
    throw new Error(`${name}, ${dtype}, ${JSON.stringify(size)}: row ${wrong} is ${got[wrong]}, not ${want[wrong]}`);
  }
}

/** Throws if blocks beyond a budget have other levels than by the definition. */
export async function checkLevels(size: (typeof sizes)[number]): Promise<void> {
  const { queries, keys, heads, kvHeads, dim } = size;
  const { qs, ks, rowsOf } = integersOf(size);
  const keyBlock = 16;
  for (const [isCausal, share, dtype, window] of [
    [true, 'group', 'bfloat16', 33],
    [false, 'none', 'float16', 20],
    [true, 'all', 'float32', 0], // blocks on the border are not always listed
  ] as const) {
    using q = Tensor.from(qs, [2, queries, heads, dim], { dtype });
    using k = Tensor.from(ks, [2, keys, kvHeads, dim], { dtype });
    const always = { sink: 10, window };
    const common = { keyBlock, causal: isCausal, queryTile: 64 };
    const count = { all: 1, group: kvHeads, none: heads }[share];
    const budgets = [2, 0, 5, 3].slice(0, count); // blocks
    for (const blocks of [
      [2, 0, 5],
      [1, 1, 1000],
    ]) {
      const levels = blocks.map((of) => Math.max(0, of * keyBlock - 1)); // keys, rounded up
      const budget = budgets.map((of) => of * keyBlock);
      using plan = pooledPlan(q, k, { ...common, budget, levels, share, always, estimate: isCausal });
      const [lists, means]: [number[][], [number, number][][]] = [[], []];
      for (let batch = 0; batch < 2; batch++) {
        for (let pattern = 0; pattern < count; pattern++) {
          const [own, given] = [rowsOf(batch, pattern, count), { ...common, ...always, budget: budgets[pattern]! }];
          lists.push(...select(own, given, pooled('mean')));
          means.push(...selectMeans(own, given, blocks));
        }
      }
      const got = await meansOf(plan);
      const wrong = means.findIndex((row, i) => row.join() !== got[i]?.join());
      const what = `levels ${blocks}, ${dtype}, ${JSON.stringify(size)}: row ${wrong}`;
      if (wrong >= 0) throw new Error(`${what} is ${got[wrong]?.join(' ')}, not ${means[wrong]!.join(' ')}`);
      const shown = await listsOf(plan);
      if (lists.some((list, row) => list.join() !== shown[row]!.join())) throw new Error(`${what}: others are in full`);
    }
  }
}
