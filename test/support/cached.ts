// Plans and selectors over a KvCache against the same over plain tensors of each sequence, and against the oracle, under
// random appends, truncations and forks.

import fc from 'fast-check';
import {
  attention,
  hipPlan,
  KvCache,
  type PooledOptions,
  pagePlan,
  pooledPlan,
  type SelectorOptions,
  SparsePlan,
  Stream,
  Tensor,
  window,
} from 'node-attention';
import { dtypes } from './cases';
import { expectedOn, expectResult, tensorOf } from './library';
import { decode, type Float, normal, uniform, type Values } from './numbers';
import type { PlanSpec, Problem } from './oracle';
import { planOf, randomPlan, withLevels, withMeans } from './plans';
import { listsOf } from './selectors';
import { change, emptyTwin, lengthsOf, rowsOf, type Twin } from './twin';
import { meansOf } from './words';

export type Make = (q: Tensor, k: Tensor | KvCache, options: SelectorOptions) => SparsePlan;

const pooled =
  (more: Partial<PooledOptions>): Make =>
  (q, k, options) =>
    pooledPlan(q, k, { ...options, ...more });

export const makes: [name: string, make: Make][] = [
  ['hipPlan', hipPlan],
  ['hipPlan, hip1', (q, k, options) => hipPlan(q, k, { ...options, variant: 'hip1' })],
  ['pagePlan', pagePlan],
  ['pooledPlan', pooledPlan],
  ['pooledPlan, max', pooled({ pooling: 'max' })],
  ['pooledPlan, min', pooled({ pooling: 'min', queries: 'mean' })],
  ['pooledPlan, max of queries', pooled({ queries: 'max' })],
  ['pooledPlan, topP', pooled({ topP: 0.6 })],
  ['pooledPlan, own', pooled({ queries: 'own' })],
];

/** Some of all levels that blocks can have. */
export const makeWithLevels: [name: string, make: Make] = [
  'pooledPlan, levels',
  (q, k, options) => {
    const sizes = [40, 0, 70, 30, 30, 30].slice(0, Math.log2(options.keyBlock ?? 64) - 1);
    return pooledPlan(q, k, { ...options, levels: sizes });
  },
];

/**
 * Throws unless a selector makes of the cache what it makes of a tensor with the keys of each sequence alone. Returns the
 * plan.
 */
export async function checkSelection(
  twin: Twin,
  q: Values,
  dtype: Float,
  make: Make,
  options: SelectorOptions,
  held = twin.sequences,
  turned = q,
): Promise<SparsePlan> {
  const lengths = held.map(({ k }) => k.shape[1]!);
  const longest = Math.max(...lengths);
  const { device } = twin.cache;
  using given = tensorOf(q, dtype, device);
  const plan = make(given, twin.cache, options);
  if (plan.keys !== longest || plan.batch !== lengths.length) {
    throw new Error(`the plan is for ${plan.batch} x ${plan.keys} keys, not ${lengths.length} x ${longest}`);
  }
  const [lists, shown, means] = [await listsOf(plan), await bytesOf(plan), await meansOf(plan)];
  const rows = lists.length / lengths.length;
  for (const [b, { k }] of held.entries()) {
    const own = lists.slice(b * rows, (b + 1) * rows);
    if (lengths[b] === 0) {
      if (own.some((list) => list.length > 0)) throw new Error(`sequence ${b} is empty but has blocks`);
      continue;
    }
    using alone = tensorOf(rowsOf(turned, b, 0, turned.shape[1]!), dtype, device);
    using keys = tensorOf(k, dtype, device);
    using want = make(alone, keys, options);
    const wanted = await listsOf(want);
    const wrong = wanted.findIndex((list, row) => list.join() !== own[row]!.join());
    if (wrong >= 0) throw new Error(`sequence ${b} of ${lengths}: row ${wrong} is ${own[wrong]}, not ${wanted[wrong]}`);
    const ofMeans = means.slice(b * rows, (b + 1) * rows);
    const expected = await meansOf(want);
    const other = expected.findIndex((of, row) => of.join() !== ofMeans[row]!.join());
    if (other >= 0)
      throw new Error(`sequence ${b}: means of row ${other} are ${ofMeans[other]}, not ${expected[other]}`);
    const part = shown.subarray((shown.length / lengths.length) * b, (shown.length / lengths.length) * (b + 1));
    const seen = seenIn(part, plan, lengths[b]!);
    if (Buffer.compare(seen, await bytesOf(want)) !== 0) throw new Error(`sequence ${b}: other keys are seen`);
  }
  return plan;
}

/** Of what a plan shows of a sequence, what is there of so many keys, up to each query's own border. */
function seenIn(shown: Uint8Array, { queries, keys, causal }: SparsePlan, own: number): Uint8Array {
  const rows = shown.length / keys;
  return Uint8Array.from({ length: rows * own }, (_, i) => {
    const [row, key] = [Math.floor(i / own), i % own];
    const last = causal ? (row % queries) + own - queries : own;
    return key <= last ? shown[row * keys + key]! : 0;
  });
}

async function bytesOf(plan: SparsePlan): Promise<Uint8Array> {
  using dense = plan.toDense();
  return (await dense.read()) as Uint8Array;
}

/** What of a plan for the longest sequence is there for one of so many keys. */
function planFor(spec: PlanSpec, batch: number, keys: number): PlanSpec {
  const rows = spec.lists.length / spec.batch;
  const first = spec.batch === 1 ? 0 : batch * rows;
  const [own, levels] = [spec.lists, spec.levels].map((of) => of?.slice(first, first + rows));
  const there = (block: number) => block * spec.keyBlock < keys;
  const lists = own!.map((list) => list.filter(there));
  // Blocks ascend, so that the first levels are theirs.
  return { ...spec, batch: 1, keys, lists, levels: levels?.map((list, row) => list.slice(0, lists[row]!.length)) };
}

/** Throws unless attention over the cache and a plan, perhaps beside a window, is that of the oracle on each sequence. */
export async function checkAttention(
  twin: Twin,
  q: Values,
  dtype: Float,
  spec: PlanSpec,
  band?: { left: number; right: number },
  stream?: Stream,
): Promise<void> {
  const { device } = twin.cache;
  using plan = planOf(spec, device);
  using given = tensorOf(q, dtype, device);
  const { out, lse } = attention(given, twin.cache, { mask: band ? [plan, window(band)] : plan, stream });
  const sequences = twin.sequences; // as they are now, whatever comes before the result
  const got = { out: decode(dtype, await out.read()), lse: decode('float32', await lse.read()) };
  for (const tensor of [out, lse]) tensor.dispose();
  for (const [b, { k, v }] of sequences.entries()) {
    const part = (all: Float64Array) =>
      all.slice((all.length / sequences.length) * b, (all.length / sequences.length) * (b + 1));
    const own = { out: part(got.out), lse: part(got.lse) };
    const keys = k.shape[1]!;
    if (keys === 0) {
      if (own.out.some((x) => x !== 0) || own.lse.some((x) => x !== Number.NEGATIVE_INFINITY)) {
        throw new Error(`sequence ${b} is empty but has a result`);
      }
      continue;
    }
    const masks: NonNullable<Problem['masks']> = [{ plan: planFor(spec, b, keys) }, ...(band ? [band] : [])];
    const problem: Problem = { q: rowsOf(q, b, 0, q.shape[1]!), k, v, masks };
    const byMeans = spec.estimate || spec.levels;
    expectResult(own, expectedOn(device, byMeans ? withMeans(problem, dtype) : problem, dtype));
  }
}

/** Throws unless a query to which a plan shows of a block only what its own sequence does not have counts its mean. */
export async function checkBehindEnd(device: 'cpu' | 'cuda'): Promise<void> {
  const lengths = [200, 41];
  const shape = (keys: number) => ({ queries: 20, keys, queryTile: 16, keyBlock: 32, estimate: true, device });
  const [q, k] = [20, 200].map((tokens) => Tensor.randn([2, tokens, 1, 8], { seed: tokens, device }));
  using cache = new KvCache({ batch: 2, kvHeads: 1, headDim: 8, capacity: 300, device });
  cache.append(k!, k!, { lengths });
  // Some queries of a row see key 40, and the others only what the second sequence does not have.
  const sees = (i: number, j: number) => (i % 3 === 0 ? j === 40 : j === 45 || j === 199);
  using plan = SparsePlan.fromPredicate(sees, shape(200));
  const got = (await attention(q!, cache, { mask: plan }).out.read()) as Float32Array;
  for (const [batch, keys] of lengths.entries()) {
    const rows = (of: Tensor, tokens: number) => of.slice([batch, batch + 1], [0, tokens], [0, 1], [0, 8]);
    using own = SparsePlan.fromPredicate(sees, shape(keys));
    const mine = rows(k!, keys);
    const want = (await attention(rows(q!, 20), mine, mine, { mask: own }).out.read()) as Float32Array;
    const off = want.reduce((most, x, i) => Math.max(most, Math.abs(x - got[batch * want.length + i]!)), 0);
    // Sums of at most 200 terms in another order, of values below 5.
    if (off > 1e-5) throw new Error(`sequence of ${keys} keys: off by ${off}`);
  }
}

const CAPACITY = 700;

export const cachedCase = fc.record({
  seed: fc.integer(),
  sizes: fc.record({
    batch: fc.integer({ min: 1, max: 3 }),
    kvHeads: fc.integer({ min: 1, max: 3 }),
    group: fc.integer({ min: 1, max: 3 }),
    headDim: fc.integer({ min: 1, max: 40 }),
    valueDim: fc.integer({ min: 1, max: 20 }),
    pageSize: fc.constantFrom(1, 3, 16, 64, 300),
    dtype: fc.constantFrom(...dtypes),
    storage: fc.constantFrom(undefined, 'int8' as const),
  }),
  // The first step fills the cache.
  steps: fc.array(
    fc.tuple(
      fc.constantFrom('append', 'append', 'token', 'truncate', 'fork', 'select', 'select', 'attend', 'means', 'means'),
      fc.nat(),
    ),
    { minLength: 6, maxLength: 20 },
  ),
});

export async function checkCached(c: typeof cachedCase extends fc.Arbitrary<infer T> ? T : never): Promise<void> {
  const { sizes, seed, steps } = c;
  const random = uniform(seed);
  const upTo = (most: number) => Math.floor(random() * (most + 1));
  const pickOf = <T>(of: readonly T[]): T => of[upTo(of.length - 1)]!;
  const streams = [undefined, new Stream(), new Stream()];
  const twins = [emptyTwin(sizes, CAPACITY)];
  const heads = sizes.kvHeads * sizes.group;
  // Few kinds of selections, so that what one has left behind meets the next.
  const keyBlock = pickOf([2, 8, 16, 32, 64, 128]);
  const own = [pickOf(makes), pickOf([...makes, makeWithLevels])];
  const all = [['append', 0] as const, ...steps, ['select', 2] as const, ['attend', 0] as const];
  for (const [step, pick] of all) {
    const twin = twins[pick % twins.length]!;
    const stream = pickOf(streams);
    const lengths = lengthsOf(twin);
    const longest = Math.max(...lengths);
    const queries = pickOf([1, 1, 2, 5, 33]);
    const q = normal(random, sizes.dtype, [sizes.batch, queries, heads, sizes.headDim]);
    const causal = pickOf([true, true, false]);
    const together = step === 'append' && pickOf([true, false]) ? upTo(400) : undefined;
    const appended = (room: number) => Math.min(room, together ?? upTo(400));
    if (change(twins, twin, step, { sizes, capacity: CAPACITY, forks: 3, appended, random, stream })) continue;
    if (longest === 0) continue; // nothing to select from
    if (step === 'select') {
      const budget = upTo(200);
      const options = {
        budget,
        keyBlock,
        causal,
        always: { sink: upTo(20), window: upTo(40) },
        share: pickOf(['group', 'all', 'none'] as const),
        queryTile: 16,
        stream,
      };
      (await checkSelection(twin, q, sizes.dtype, pickOf(own)[1], options)).dispose();
    } else {
      const means = step === 'means';
      const geometry = {
        batch: pickOf([1, sizes.batch]),
        heads: pickOf([1, sizes.kvHeads, heads]),
        queries,
        keys: longest,
        queryTile: pickOf([16, 64]),
        keyBlock,
        causal,
      };
      const spec = randomPlan(upTo(1e6), geometry, pickOf([0.1, 0.5, 0.9, 1]), !means && upTo(2) === 0);
      const band = !means && upTo(1) ? { left: upTo(100), right: 0 } : undefined;
      const leveled = means && upTo(1) ? withLevels(upTo(1e6), spec) : spec;
      const estimate = means && (leveled === spec || upTo(1) === 1);
      await checkAttention(twin, q, sizes.dtype, { ...leveled, ...(estimate && { estimate }) }, band, stream);
    }
  }
  for (const { cache } of twins) cache.dispose();
  for (const stream of streams) stream?.dispose();
}
