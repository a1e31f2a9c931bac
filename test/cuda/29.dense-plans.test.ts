// Plans of which is known, before they are made, that they list all that queries may see: the kernels of dense attention
// run in place of those that walk a plan, and give the same.
import './support/device'; // before node-attention
import {
  type AttentionOptions,
  alibi,
  attention,
  causal,
  HipState,
  hipPlan,
  KvCache,
  keyBias,
  type Mask,
  neighborhood,
  pagePlan,
  pooledPlan,
  SparsePlan,
  Stream,
  streamingPlan,
  Tensor,
  window,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { check, expectedOn, expectResult, run } from '../support/library';
import type { Problem } from '../support/oracle';
import { unreadPlan } from '../support/plans';
import { interpreted, lastKernel, launches, missing, schedule, schedules, title } from './support/device';
import { CAUSAL, problemOf, type Spec } from './support/problems';

let turn = 0;
const next = () => schedule(schedules[turn++ % schedules.length]!);

/** Whether what is called attends by walking a plan; never on a real device. */
async function walksPlan(call: () => { out: Tensor } | Promise<void>): Promise<boolean> {
  const before = launches('unfold_plan_kernel');
  const made = call();
  await ('out' in made ? made.out.read() : made);
  return launches('unfold_plan_kernel') > before;
}

/** Checks that attention over a plan, and beside `others`, is that of the dense kernels, bit for bit. */
async function expectDense(
  q: Tensor,
  k: Tensor | KvCache,
  plan: SparsePlan,
  others: Mask[] = [],
  options: AttentionOptions = {},
): Promise<void> {
  const attend = (...mask: Mask[]) =>
    k instanceof KvCache ? attention(q, k, { ...options, mask }) : attention(q, k, k, { ...options, mask });
  const made = attend(plan, ...others);
  const want = attend(...(plan.causal ? [causal()] : []), ...others);
  expect(await made.lse.read()).toEqual(await want.lse.read());
  expect(await made.out.read()).toEqual(await want.out.read());
  const walked = await walksPlan(() => attend(plan, ...others));
  expect(walked).toBe(false);
}

const tensor = (seed: number, tokens: number, heads: number, dtype: 'float16' | 'float32' = 'float16') =>
  Tensor.randn([1, tokens, heads, 32], { seed, dtype, device: 'cuda' });

/** All blocks for each row. */
const allBlocks = (rows: number, blocks: number) =>
  Array.from({ length: rows }, () => Array.from({ length: blocks }, (_, block) => block));

describe.skipIf(missing)(title('plans that are known to be dense'), () => {
  it('are attended over as the oracle says, causal or not, more queries than keys or fewer', async () => {
    for (const isCausal of [false, true]) {
      for (const [queries, keys] of [
        [70, 140],
        [1, 200],
        [130, 60],
      ] as const) {
        next();
        const spec: Spec = {
          dtype: 'float16',
          kvHeads: 2,
          group: 2,
          queries,
          keys,
          headDim: 32,
          sinks: true,
          extra: 5,
        };
        const g = { batch: 1, heads: 2, queries, keys, queryTile: 32, keyBlock: 16, causal: isCausal, holes: false };
        const lists = allBlocks(2 * Math.ceil(queries / 32), Math.ceil(keys / 16));
        const dense: Problem = { ...problemOf(spec), masks: isCausal ? [CAUSAL] : [] };
        const problem: Problem = { ...dense, masks: [{ plan: { ...g, lists } }] };
        const want = expectedOn('cuda', dense, spec.dtype);
        const walked = await walksPlan(async () => {
          expectResult(await run(problem, spec.dtype, 3, 'cuda'), want);
        });
        expect(walked).toBe(false);
        // Of lists in tensors nobody knows.
        const unread = { ...dense, masks: [{ plan: { ...g, lists, unread: true } }] };
        if (interpreted) expect(await walksPlan(() => check(unread, spec.dtype, undefined, 'cuda'))).toBe(true);
      }
    }
  });

  it('run on Hopper by its own kernel', async () => {
    const x = Tensor.randn([1, 128, 2, 64], { seed: 1, dtype: 'bfloat16', device: 'cuda' });
    const g = { queries: 128, keys: 128, device: 'cuda', causal: true } as const;
    for (const [plan, kernel] of [
      [SparsePlan.fromBlocks([[0], [0, 1]], g), 'sm90'],
      [SparsePlan.fromBlocks([[0], [1]], g), 'sm80'],
      [pagePlan(x, x, { budget: 128, causal: true }), 'sm90'],
      [pagePlan(x, x, { budget: 0, causal: true, always: { sink: 0, window: 8 } }), 'sm80'],
    ] as const) {
      next();
      await attention(x, x, x, { mask: plan }).out.read();
      if (interpreted) expect(lastKernel()).toContain(`attention_${kernel}_kernel`);
    }
  });

  it('of lists, predicates and rules, moved from the CPU and back', async () => {
    const [q, k] = [tensor(1, 40, 2), tensor(2, 72, 2)];
    const one = { queries: 40, keys: 72, queryTile: 16, keyBlock: 8, causal: true };
    const g = { ...one, heads: 2 };
    const lists = allBlocks(6, 9);
    const some = lists.map((list, row) => (row === 4 ? list.slice(1) : list));
    const levels = lists.map((list, row) => list.map((_, i) => (row === 5 && i === 0 ? 1 : 0)));
    for (const [make, dense] of [
      [() => SparsePlan.fromBlocks(lists, { ...g, device: 'cuda' }), true],
      [() => SparsePlan.fromBlocks(lists, g).to('cuda').to('cpu').to('cuda'), true],
      [() => SparsePlan.fromBlocks(lists, { ...g, estimate: true, device: 'cuda' }), true],
      [() => SparsePlan.fromPredicate(() => true, { ...g, device: 'cuda' }), true],
      [() => SparsePlan.fromPredicate((i, j) => j <= i + 32, { ...g, causal: false, device: 'cuda' }), false],
      [() => streamingPlan({ ...one, sink: 8, window: 72, device: 'cuda' }), true],
      [() => SparsePlan.fromBlocks(some, { ...g, device: 'cuda' }), false],
      [() => SparsePlan.fromBlocks(lists, { ...g, levels, device: 'cuda' }), false],
      [() => unreadPlan(lists, { ...g, device: 'cuda' }), false],
    ] as const) {
      next();
      using plan = make();
      if (dense) await expectDense(q, k, plan);
      else if (interpreted) expect(await walksPlan(() => attention(q, k, k, { mask: plan }))).toBe(true);
      const text = await plan.explain();
      if (dense) expect(text).toMatch(/That is every block: attention is dense$/);
      else expect(text).not.toMatch(/attention is dense/);
    }
  });

  it('beside other masks, biases, sinks and caps, and neighborhoods that differ from head to head', async () => {
    const [q, k] = [tensor(1, 70, 2), tensor(2, 70, 2)];
    for (const isCausal of [false, true]) {
      using plan = hipPlan(q, k, { budget: 70, causal: isCausal, queryTile: 16, keyBlock: 16 });
      const sinks = Tensor.from(new Float32Array([0.5, -1]), [2], { device: 'cuda' });
      const bias = keyBias(Tensor.randn([70], { seed: 5, device: 'cuda' }));
      for (const [others, options] of [
        [[window({ left: 20, right: 9 })], { sinks }],
        [[causal()], { softcap: 3, bias }],
        [[], { bias: alibi() }],
        [[neighborhood({ window: 9 })], {}],
        [[neighborhood([{ window: 9 }, { window: 20, stride: 2 }])], {}],
      ] as [Mask[], AttentionOptions][]) {
        next();
        await expectDense(q, k, plan, others, options);
      }
    }
  });

  it('of selectors whose budgets are all keys: of each head, with levels, estimates and queries of their own', async () => {
    const [q, k] = [tensor(1, 40, 4), tensor(2, 100, 2)];
    const common = { queryTile: 16, keyBlock: 16, always: { sink: 0, window: 0 } };
    for (const isCausal of [false, true]) {
      const o = { ...common, causal: isCausal };
      for (const [make, dense] of [
        [() => hipPlan(q, k, { ...o, budget: 100 }), true],
        [() => hipPlan(q, k, { ...o, budget: 100, variant: 'hip1' }), true],
        [() => hipPlan(q, k, { ...o, budget: 100, stages: [{ chunk: 32, keep: 32 }, { chunk: 16 }] }), true],
        [() => pagePlan(q, k, { ...o, budget: [100, 97] }), true], // seven blocks
        [() => pagePlan(q, k, { ...o, budget: [100, 96] }), false],
        [() => pagePlan(q, k, { ...o, budget: 100, estimate: true }), true],
        // The budget and what is there always: of 112 keys in blocks 32 are chosen.
        [() => pagePlan(q, k, { ...o, budget: 32, always: { sink: 80, window: 0 } }), true],
        [() => pagePlan(q, k, { ...o, budget: 16, always: { sink: 80, window: 0 } }), false],
        [() => pooledPlan(q, k, { ...o, budget: 100, levels: [16] }), true],
        [() => pooledPlan(q, k, { ...o, budget: 80, levels: [32] }), false],
        [() => pooledPlan(q, k, { ...o, budget: 100, queries: 'own' }), true],
        [() => pooledPlan(q, k, { ...o, budget: 96, queries: 'own' }), false],
        [() => pooledPlan(q, k, { ...o, budget: 100, topP: 0.9999 }), false],
        [() => pooledPlan(q, k, { ...o, budget: 100, threshold: 1e-9 }), false],
      ] as const) {
        next();
        using plan = make();
        if (dense) {
          await expectDense(q, k, plan);
          expect(await plan.density()).toBe(1);
          expect(await plan.explain()).toMatch(/attention is dense$/);
        } else {
          if (interpreted) expect(await walksPlan(() => attention(q, k, k, { mask: plan }))).toBe(true);
          expect(await plan.explain()).not.toMatch(/attention is dense/);
        }
      }
    }
  });

  it('over a cache whose sequences are of one length; others have rows of their own', async () => {
    for (const storage of [undefined, 'int8'] as const) {
      const shape = { batch: 2, kvHeads: 1, headDim: 32, capacity: 100, pageSize: 16, dtype: 'float16' } as const;
      using cache = new KvCache({ ...shape, storage, device: 'cuda' });
      const of = (tokens: number, seed: number) =>
        Tensor.randn([2, tokens, 1, 32], { seed, dtype: 'float16', device: 'cuda' });
      cache.append(of(70, 1), of(70, 2));
      const q = Tensor.randn([2, 3, 2, 32], { seed: 3, dtype: 'float16', device: 'cuda' });
      const options = { budget: 70, causal: true, keyBlock: 16 } as const;
      next();
      using equal = pagePlan(q, cache, options);
      await expectDense(q, cache, equal);
      cache.truncate([70, 40]);
      next();
      // Each sequence sees what it has of all that is listed.
      await expectDense(q, cache, equal);
      using ragged = pagePlan(q, cache, options);
      if (interpreted) expect(await walksPlan(() => attention(q, cache, { mask: ragged }))).toBe(true);
      expect(await ragged.explain()).not.toMatch(/attention is dense/);
      // Which were chosen when there were 40 keys.
      const before = attention(q, cache, { mask: ragged }).lse;
      cache.append(of(30, 4), of(30, 5), { lengths: [0, 30] });
      const after = attention(q, cache, { mask: ragged }).lse;
      expect((await after.read()).slice(0, 6)).toEqual((await before.read()).slice(0, 6));
    }
  });

  it('of a HipState, whose window takes in what was appended', async () => {
    using state = new HipState({ refresh: [4, 2, 1] });
    const select = (length: number, given: { state?: HipState }) => {
      const [q, k] = [tensor(length, 1, 2), tensor(9, length, 2)];
      const options = { budget: 64, causal: true, keyBlock: 16, always: { sink: 0, window: 0 } };
      return { q, k, plan: hipPlan(q, k, { ...options, ...given }) };
    };
    // The fifth of the blocks is in the window.
    for (const length of [60, 64, 65, 70]) {
      next();
      const { q, k, plan } = select(length, { state });
      await expectDense(q, k, plan);
      plan.dispose();
    }
    const { q, k, plan } = select(70, {});
    if (interpreted) expect(await walksPlan(() => attention(q, k, k, { mask: plan }))).toBe(true);
  });

  it('in graphs, which follow their inputs', async () => {
    using stream = new Stream('cuda');
    const q = Tensor.randn([1, 64, 2, 32], { seed: 1, device: 'cuda' });
    const given = Tensor.empty([1, 64, 2, 32], { dtype: 'float32', pinned: true });
    let made: ReturnType<typeof attention> | undefined;
    using graph = stream.capture(() => {
      const k = given.to({ device: 'cuda', stream });
      using plan = pagePlan(q, k, { budget: 64, causal: true, stream });
      made = attention(q, k, k, { mask: plan, stream });
    });
    for (const seed of [2, 3]) {
      next();
      const k = Tensor.randn([1, 64, 2, 32], { seed });
      given.data.set(k.data);
      const walked = await walksPlan(async () => {
        graph.launch(stream);
        await stream.synchronize();
      });
      expect(walked).toBe(false);
      const there = k.to('cuda');
      const want = attention(q, there, there, { mask: causal() });
      expect(await made!.out.read()).toEqual(await want.out.read());
      expect(await made!.lse.read()).toEqual(await want.lse.read());
    }
  });
});
