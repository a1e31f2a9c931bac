// Selectors: the plans that they make, against their definitions in test/support/selection.ts, and what they find.

import fc from 'fast-check';
import {
  attention,
  causal,
  HipState,
  hipPlan,
  KvCache,
  pagePlan,
  pooledPlan,
  SparsePlan,
  Stream,
  streamingPlan,
  Tensor,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { instructionSets, itAgrees } from './support/instruction-sets';
import { uniform } from './support/numbers';
import { cases, checkSelector, listsOf, selectors, sizes } from './support/selectors';

describe('equals its definition', () => {
  describe.each(cases)('%s', (...given) => {
    it.each(sizes)('%j', (size) => checkSelector(given, size));
  });
  itAgrees('everywhere', 'select', 1, 1, instructionSets.slice(0, -1)); // with the best one above
});

describe.each(selectors)('%s', (_, make) => {
  it.each(['float32', 'float16', 'bfloat16'] as const)('is dense when the budget is all keys, %s', async (dtype) => {
    for (const [queries, keys] of [
      [300, 300],
      [1, 777],
      [100, 500],
    ] as const) {
      using q = Tensor.randn([1, queries, 4, 24], { seed: 1, dtype });
      using k = Tensor.randn([1, keys, 2, 24], { seed: 2, dtype });
      for (const isCausal of [false, true]) {
        using plan = make(q, k, { budget: keys, causal: isCausal });
        await plan.validate();
        expect(await plan.density()).toBe(1);
        const mask = isCausal ? causal() : [];
        const [a, b] = await Promise.all(
          [attention(q, k, k, { mask: plan }), attention(q, k, k, { mask })].map(({ out, lse }) =>
            Promise.all([out.read(), lse.read()]),
          ),
        );
        expect(a).toEqual(b);
      }
    }
  });

  it('gives every pattern of heads its own budget', async () => {
    using q = Tensor.randn([1, 64, 2, 16], { seed: 1 });
    using k = Tensor.randn([1, 2048, 2, 16], { seed: 2 });
    using plan = make(q, k, { budget: [0, 128], always: { sink: 0, window: 0 }, keyBlock: 16 });
    expect((await listsOf(plan)).map((list) => list.length)).toEqual([0, 8]);
  });

  it('selects for more than 32768 rows', async () => {
    // A row for each of 257 tiles of queries and 128 heads, for which one of two blocks is nearer than the other.
    const [queries, heads] = [257 * 16, 128];
    const near = (row: number) => Number((row * 7919) % 11 < 5);
    using q = Tensor.from(
      Float32Array.from({ length: queries * heads }, (_, n) =>
        near((n % heads) * 257 + Math.floor(n / heads / 16)) ? 1 : -1,
      ),
      [1, queries, heads, 1],
    );
    using k = Tensor.from(
      Float32Array.from({ length: 8 * heads }, (_, n) => (n < 4 * heads ? -1 : 1)),
      [1, 8, heads, 1],
    );
    using plan = make(q, k, { budget: 4, keyBlock: 4, queryTile: 16, always: { sink: 0, window: 0 } });
    const lists = await listsOf(plan);
    expect(lists).toHaveLength(257 * heads);
    expect(lists.findIndex((list, row) => list.length !== 1 || list[0] !== near(row))).toBe(-1);
  });

  it('follows its inputs in a graph', async () => {
    using stream = new Stream();
    using q = Tensor.randn([1, 64, 2, 16], { seed: 1 });
    using k = Tensor.zeros([1, 3000, 2, 16]);
    const options = { budget: 200, causal: true, always: { sink: 0, window: 1 } };
    const run = () => attention(q, k, k, { mask: make(q, k, { ...options, stream }), stream });
    let result = run();
    using graph = stream.capture(() => {
      result = run();
    });
    await stream.synchronize();
    for (const seed of [5, 6]) {
      using other = Tensor.randn([1, 3000, 2, 16], { seed });
      k.data.set(other.data);
      graph.launch();
      expect(await result.out.read()).toEqual(
        await attention(q, other, other, { mask: make(q, other, options) }).out.read(),
      );
    }
  });

  it('survives numbers that are none', async () => {
    const keys = new Float32Array(3000 * 4).map((_, i) => (i % 7 === 0 ? Number.NaN : i % 5 === 0 ? Infinity : 1));
    using q = Tensor.randn([1, 100, 1, 4], { seed: 1 });
    using k = Tensor.from(keys, [1, 3000, 1, 4]);
    using plan = make(q, k, { budget: 200 });
    await plan.validate();
  });
});

describe('the stages of hipPlan in long contexts', () => {
  const published = [{ chunk: 256 }, { chunk: 32 }, { chunk: 8 }];
  const [budget, capacity] = [80, 330000]; // 512 times which are 40960, and 8 times those 327680
  const q = Tensor.randn([1, 1, 2, 4], { seed: 1 });
  const all = Tensor.randn([1, capacity, 1, 4], { seed: 2 });
  const keysOf = (length: number) => all.slice([0, 1], [0, length], [0, 1], [0, 4]);
  const lists = async (k: Tensor, more: object = {}) => {
    using plan = hipPlan(q, k, { budget, causal: true, ...more });
    return await listsOf(plan);
  };
  const above = (n: number) =>
    [
      { chunk: 16384, keep: 327680 },
      { chunk: 2048, keep: 40960 },
    ].slice(2 - n);

  it.each([
    [40960, 0],
    [40961, 1], // that keeps all there is
    [100000, 1],
    [327680, 1],
    [327681, 2],
  ])('of %i keys are the published ones behind %i others', async (length, count) => {
    const found = await lists(keysOf(length));
    expect(found).toEqual(await lists(keysOf(length), { stages: [...above(count), ...published] }));
    if (length > 50000) expect(found).not.toEqual(await lists(keysOf(length), { stages: published }));
  });

  it('keep 16 and 4 times the budget but for the last', async () => {
    const k = keysOf(20000);
    using four = Tensor.randn([1, 200, 2, 4], { seed: 5 });
    const rows = async (times: readonly number[]) => {
      const stages = published.map((stage, i) => (i < 2 ? { ...stage, keep: times[i]! * budget } : stage));
      using plan = hipPlan(four, k, { budget, causal: true, stages });
      return await listsOf(plan);
    };
    using plan = hipPlan(four, k, { budget, causal: true });
    const found = await listsOf(plan);
    expect(found).toEqual(await rows([16, 4]));
    for (const other of [
      [12, 4],
      [20, 4],
      [16, 2],
      [16, 8],
    ]) {
      expect(found).not.toEqual(await rows(other));
    }
  });

  it('are those of the largest of several budgets, and of no less than 64 keys', async () => {
    const budgets = { budget: [0, 80], share: 'none' };
    const stages = [...above(1), ...published];
    expect(await lists(keysOf(100000), budgets)).toEqual(await lists(keysOf(100000), { ...budgets, stages }));
    const [few, none] = [{ budget: 8 }, { budget: 0 }];
    expect(await lists(keysOf(32768), few)).toEqual(await lists(keysOf(32768), { ...few, stages: published }));
    const first = { chunk: 2048, keep: 32768 };
    const longer = { ...few, stages: [first, ...published] };
    expect(await lists(keysOf(32769), few)).toEqual(await lists(keysOf(32769), longer));
    expect((await lists(keysOf(capacity), none))[0]).toHaveLength((64 + 256) / 8); // sink and window alone
  });

  it('with a state are the published ones', async () => {
    using state = new HipState();
    const given = await lists(keysOf(100000), { state });
    expect(given).toEqual(await lists(keysOf(100000), { stages: published }));
  });

  it('select from each sequence of a cache as if it were alone', async () => {
    const lengths = [330000, 50000, 30000];
    using queries = Tensor.randn([3, 1, 2, 4], { seed: 3 });
    const attend = async (cache: KvCache, q: Tensor) => {
      using plan = hipPlan(q, cache, { budget, causal: true });
      return await attention(q, cache, { mask: plan }).out.read();
    };
    const cacheOf = (members: readonly number[]) => {
      const most = Math.max(...members.map((member) => lengths[member]!));
      const cache = new KvCache({ batch: members.length, kvHeads: 1, headDim: 4, capacity: most });
      using k = Tensor.randn([members.length, most, 1, 4], { seed: 4 });
      for (let i = 0; i < members.length; i++) {
        using own = Tensor.randn([1, most, 1, 4], { seed: 10 + members[i]! });
        (k.data as Float32Array).set(own.data as Float32Array, i * most * 4);
      }
      cache.append(k, k, { lengths: members.map((member) => lengths[member]!) });
      return cache;
    };
    using together = cacheOf([0, 1, 2]);
    const all = await attend(together, queries);
    for (const member of [0, 1, 2]) {
      using alone = cacheOf([member]);
      using own = queries.slice([member, member + 1], [0, 1], [0, 2], [0, 4]);
      expect(await attend(alone, own)).toEqual(all.slice(member * 8, member * 8 + 8));
    }
  });

  it('find a smooth hump wherever it is', async () => {
    const random = uniform(3);
    using one = Tensor.from(new Float32Array([4, 0, 0, 0]), [1, 1, 1, 4]);
    for (let trial = 0; trial < 6; trial++) {
      const position = Math.floor(random() * (capacity - 1000)) + 500;
      const keys = Float32Array.from({ length: capacity * 4 }, () => 0.4 * (random() - 0.5));
      for (let t = position - 256; t < position + 256; t++) keys[t * 4]! += 2 ** -(((t - position) / 64) ** 2);
      using k = Tensor.from(keys, [1, capacity, 1, 4]);
      using plan = hipPlan(one, k, { budget: 512, causal: true });
      using dense = plan.toDense();
      expect((await dense.read())[position], `at ${position}`).toBe(1);
    }
  });
});

describe('the best of many blocks, ties to the lower,', () => {
  const random = uniform(31);
  it.each<[string, (block: number) => number]>([
    ['of random scores', () => random()],
    ['of few scores', () => Math.floor(3 * random())],
    ['that ascend', (block) => block],
    ['that descend', (block) => -block],
    ['that are equal', () => 1],
    ['that are high where a sample looks', (block) => (block % 16 === 0 ? 1 : Math.floor(8 * random()) / 16)],
    ['that are low where a sample looks', (block) => (block % 16 === 0 ? -1 : Math.floor(8 * random()) / 16)],
  ])('%s', async (_, scoreOf) => {
    const [blocks, keyBlock] = [1000, 16];
    const scores = Float32Array.from({ length: blocks }, (_, block) => scoreOf(block));
    using q = Tensor.from(new Float32Array([1]), [1, 1, 1, 1]);
    using k = Tensor.from(
      Float32Array.from({ length: blocks * keyBlock }, (_, key) => scores[Math.floor(key / keyBlock)]!),
      [1, blocks * keyBlock, 1, 1],
    );
    for (const count of [1, 7, 100, 500, 999]) {
      using plan = pagePlan(q, k, { budget: count * keyBlock, keyBlock, always: { sink: 0, window: 0 } });
      const best = [...scores.keys()].sort((a, b) => scores[b]! - scores[a]! || a - b).slice(0, count);
      expect(await listsOf(plan)).toEqual([best.sort((a, b) => a - b)]);
    }
  });
});

it('pagePlan bounds a page by no less than the score of any of its keys', async () => {
  const cases = fc.record({
    seed: fc.nat(),
    dtype: fc.constantFrom('float32' as const, 'float16' as const, 'bfloat16' as const),
    dim: fc.integer({ min: 1, max: 20 }),
    keyBlock: fc.constantFrom(2, 4, 16, 128),
    pages: fc.integer({ min: 2, max: 6 }),
    queries: fc.integer({ min: 1, max: 3 }),
    size: fc.constantFrom(0.01, 1, 30),
  });
  let judged = 0;
  const check = fc.asyncProperty(cases, async ({ seed, dtype, dim, keyBlock, pages, queries, size }) => {
    const random = uniform(seed);
    const drawn = (count: number) => Float32Array.from({ length: count * dim }, () => size * (random() - 0.5));
    /** As the type has them, wide. */
    const rounded = async (values: Float32Array) => {
      using narrow = Tensor.from(values, [values.length], { dtype });
      using wide = narrow.to('float32');
      return (await wide.read()) as Float32Array;
    };
    const [qs, own] = [await rounded(drawn(queries)), await rounded(drawn(keyBlock))];
    const products = (i: number, keys: Float32Array) =>
      Array.from({ length: keys.length / dim }, (_, row) => {
        let [sum, sizes] = [0, 0];
        for (let d = 0; d < dim; d++) {
          const product = qs[i * dim + d]! * keys[row * dim + d]!;
          [sum, sizes] = [sum + product, sizes + Math.abs(product)];
        }
        return { sum, sizes };
      });
    const scores = Array.from({ length: queries }, (_, i) => products(i, own).map(({ sum }) => sum));
    const best = Math.max(...scores.flat());
    const asker = scores.findIndex((each) => each.includes(best));
    // All other pages have a key alone, along the query: its score lies a little below the best.
    const along = qs.slice(asker * dim, (asker + 1) * dim);
    const square = along.reduce((sum, x) => sum + x * x, 0);
    const other = await rounded(along.map((x) => (x * 0.98 * best) / square));
    const others = Array.from({ length: queries }, (_, i) => products(i, other)[0]!);
    const most = Math.max(...others.map(({ sum }) => sum));
    const rounding = Math.max(...others.map(({ sizes }) => sizes));
    if (!(best > 0 && most + dim * 2 ** -22 * (rounding + best) < best)) return;
    judged++;
    const place = Math.floor(random() * pages);
    const keys = new Float32Array(pages * keyBlock * dim);
    for (let row = 0; row < pages * keyBlock; row++) keys.set(other, row * dim);
    keys.set(own, place * keyBlock * dim);
    using q = Tensor.from(qs, [1, queries, 1, dim], { dtype });
    using k = Tensor.from(keys, [1, pages * keyBlock, 1, dim], { dtype });
    using plan = pagePlan(q, k, { budget: keyBlock, keyBlock, always: { sink: 0, window: 0 } });
    expect(await listsOf(plan)).toEqual([[place]]);
  });
  await fc.assert(check, { numRuns: 300 });
  expect(judged).toBeGreaterThan(100);
});

describe('a needle in 64K keys', () => {
  const [tokens, dim] = [65536, 16];
  /** Keys of noise, and a hump along the query of so many tokens at half its height. */
  function hump(position: number, width: number) {
    const random = uniform(position + width);
    const keys = Float32Array.from({ length: tokens * dim }, () => 0.4 * (random() - 0.5));
    for (let t = Math.max(0, position - 2 * width); t < Math.min(tokens, position + 2 * width); t++) {
      keys[t * dim]! += 2 ** -(((2 * (t - position)) / width) ** 2);
    }
    return Tensor.from(keys, [1, tokens, 1, dim]);
  }
  const q = Tensor.from(
    Float32Array.from({ length: dim }, (_, d) => (d === 0 ? 4 : 0)),
    [1, 1, 1, dim],
  );

  const random = uniform(1);
  const positions = [0, 100, 30000, 65200, ...Array.from({ length: 12 }, () => Math.floor(random() * 64000))];
  it.each([128, 256, 1024])('is found wherever it is by hipPlan, and not by a window: %s keys', async (width) => {
    const always = { sink: 64, window: 256 };
    using local = streamingPlan({ queries: 1, keys: tokens, causal: true, ...always, keyBlock: 8 });
    using seen = local.toDense();
    const near = await seen.read();
    for (const position of positions) {
      using k = hump(position, width);
      using plan = hipPlan(q, k, { budget: 1024, causal: true, always });
      using dense = plan.toDense();
      expect((await dense.read())[position], `at ${position}`).toBe(1);
      if (position >= 64 && position < tokens - 256) expect(near[position]).toBe(0);
    }
  });

  it('brings more of the softmax with a larger budget', async () => {
    using k = hump(20000, 400);
    const whole = Number((await attention(q, k, k).lse.read())[0]);
    for (const [, make] of selectors) {
      let before = 0;
      for (const budget of [128, 512, 2048, 8192, 65536]) {
        using plan = make(q, k, { budget, always: { sink: 0, window: 0 } });
        const mass = Math.exp(Number((await attention(q, k, k, { mask: plan }).lse.read())[0]) - whole);
        expect(mass).toBeGreaterThan(before);
        before = mass;
      }
      expect(before).toBeCloseTo(1, 4);
    }
  });
});

describe('the dense mask of a selection', () => {
  it.each([
    ['group', 4],
    ['all', 1],
    ['none', 4],
  ] as const)('has a head for each of the queries, sharing by %s', async (share, heads) => {
    const [q, k] = [Tensor.randn([2, 33, 4, 8], { seed: 1 }), Tensor.randn([2, 90, 2, 8], { seed: 2 })];
    using plan = pagePlan(q, k, { budget: 16, queryTile: 16, keyBlock: 8, share, always: { sink: 0, window: 0 } });
    using dense = plan.toDense();
    expect(dense.shape).toEqual([2, heads, 33, 90]);
    using both = plan.union(plan);
    using again = both.toDense();
    expect([again.shape, await again.read()]).toEqual([dense.shape, await dense.read()]);
    const shown = (await dense.read()) as Uint8Array;
    // A head sees what attention lets it see: softmax of no scores weighs all keys alike.
    using none = Tensor.zeros([2, 33, 4, 8]);
    using places = Tensor.from(
      Float32Array.from({ length: 2 * 90 * 2 * 90 }, (_, n) => Number(n % 90 === Math.floor(n / 180) % 90)),
      [2, 90, 2, 90],
    );
    const { out } = attention(none, k, places, { mask: plan });
    (await out.read()).forEach((weight, n) => {
      const [key, head, query, batch] = [
        n % 90,
        Math.floor(n / 90) % 4,
        Math.floor(n / 360) % 33,
        Math.floor(n / 11880),
      ];
      const seen = shown[((batch * heads + (heads === 1 ? 0 : head)) * 33 + query) * 90 + key];
      if (seen !== Number(Number(weight) > 0)) expect([batch, query, head, key, weight]).toBe(seen);
    });
  });
});

describe('pooledPlan', () => {
  it('keeps the blocks that make up a share of the softmax, or whose own share is large', async () => {
    // Block n has the score n: shares of the softmax are powers of e.
    const keys = Float32Array.from({ length: 8 * 16 }, (_, t) => t >> 4);
    using k = Tensor.from(keys, [1, 128, 1, 1]);
    using q = Tensor.from(new Float32Array([1]), [1, 1, 1, 1]);
    const weights = Array.from({ length: 8 }, (_, n) => Math.exp(n));
    const total = weights.reduce((a, b) => a + b);
    const always = { sink: 0, window: 0 };
    for (const [topP, kept] of [
      [0.5, 1],
      [0.64, 2],
      [0.9, 3],
      [0.999, 7],
      [1, 8],
    ] as const) {
      const list = [0, 1, 2, 3, 4, 5, 6, 7].slice(8 - kept);
      const sum = (of: number[]) => of.reduce((all, n) => all + weights[n]! / total, 0);
      if (topP < 1) expect(sum(list) >= topP && sum(list.slice(1)) < topP, `the test's own ${topP}`).toBe(true);
      using plan = pooledPlan(q, k, { topP, keyBlock: 16, always });
      expect(await listsOf(plan)).toEqual([list]);
    }
    using plan = pooledPlan(q, k, { threshold: 0.05, keyBlock: 16, always });
    expect(await listsOf(plan)).toEqual([[5, 6, 7]]);
    using few = pooledPlan(q, k, { topP: 0.999, budget: 32, keyBlock: 16, always });
    expect(await listsOf(few)).toEqual([[6, 7]]);
  });
});

describe('even rows, of decoding', () => {
  const [keys, keyBlock] = [2048, 16];
  const always = { sink: 16, window: 16 };
  // Head h has so steep a softmax that shares of it are few blocks, or nearly all.
  const q = Tensor.from(
    Float32Array.from({ length: 2 * 3 * 8 }, (_, n) => (n % 8 === 0 ? [0.01, 3, 30][Math.floor(n / 8) % 3]! : 0)),
    [2, 1, 3, 8],
  );
  const k = Tensor.randn([2, keys, 3, 8], { seed: 3 });

  it('list as many blocks as they have, or fewer, and go with other plans', async () => {
    using full = pagePlan(q, k, { budget: 160, causal: true, keyBlock, always });
    // Two blocks always, and ten of the budget; a word each, for six rows.
    expect([(await full.statistics()).heads.map((head) => head.fewest), full.bytes]).toEqual([
      [12, 12, 12],
      4 * 6 * 12,
    ]);
    using plan = pooledPlan(q, k, { topP: 0.5, causal: true, keyBlock, always, scale: 1 });
    expect(plan.bytes).toBe((4 * 6 * keys) / keyBlock);
    const lists = await listsOf(plan);
    const { blocks, heads } = await plan.statistics();
    expect(blocks).toBe(lists.flat().length);
    for (const [head, { fewest, most }] of heads.entries()) {
      const lengths = [lists[head]!.length, lists[head + 3]!.length];
      expect([fewest, most]).toEqual([Math.min(...lengths), Math.max(...lengths)]);
    }
    expect(heads[0]!.fewest).toBeGreaterThan(30);
    expect(heads[2]!.most).toBeLessThan(6);
    using rules = streamingPlan({
      ...{ batch: 2, heads: 3, queries: 1, keys, causal: true, keyBlock },
      ...{ sink: 64, window: 100 },
    });
    const local = await listsOf(rules);
    using either = plan.union(rules);
    using both = rules.intersect(plan);
    using copy = plan.to('cpu');
    const sorted = (list: number[]) => [...new Set(list)].sort((a, b) => a - b);
    expect(await listsOf(either)).toEqual(lists.map((list, row) => sorted([...list, ...local[row]!])));
    expect(await listsOf(both)).toEqual(lists.map((list, row) => list.filter((block) => local[row]!.includes(block))));
    expect([await listsOf(copy), copy.bytes]).toEqual([lists, plan.bytes]);
    expect(await copy.toSvg()).toBe(await plan.toSvg());
    using given = SparsePlan.fromBlocks(lists, { batch: 2, heads: 3, queries: 1, keys, causal: true, keyBlock });
    const [a, b] = [plan, given].map((mask) => attention(q, k, k, { mask }));
    expect(await a!.out.read()).toEqual(await b!.out.read());
    expect(await a!.lse.read()).toEqual(await b!.lse.read());
  });

  it('are divided among threads by what they list, not by their room', async () => {
    const [keys, keyBlock] = [131072, 32];
    using q = Tensor.randn([1, 1, 1, 64], { seed: 1 });
    using k = Tensor.randn([1, keys, 1, 64], { seed: 2 });
    using plan = pooledPlan(q, k, { topP: 0.2, causal: true, keyBlock, always, scale: 0.25 });
    const lists = await listsOf(plan);
    expect([lists[0]!.length > 200, lists[0]!.length < 500, plan.bytes]).toEqual([true, true, (4 * keys) / keyBlock]);
    using given = SparsePlan.fromBlocks(lists, { batch: 1, heads: 1, queries: 1, keys, causal: true, keyBlock });
    // The same parts are added in the same order, so that there are the same bits.
    const [a, b] = [plan, given].map((mask) => attention(q, k, k, { mask }));
    expect(await a!.out.read()).toEqual(await b!.out.read());
    expect(await a!.lse.read()).toEqual(await b!.lse.read());
  });
});

const q = Tensor.zeros([1, 10, 4, 8]);
const k = Tensor.zeros([1, 20, 2, 8]);
it.each<[string, string, RegExp, () => unknown]>([
  ['no budget', 'ERR_OPTION', /hipPlan: budget is undefined/, () => hipPlan(q, k, {} as never)],
  ['a negative budget', 'ERR_OPTION', /pagePlan: budget is -1/, () => pagePlan(q, k, { budget: -1 })],
  [
    'budgets for other heads',
    'ERR_OPTION',
    /budget has 3 numbers.*2 patterns/,
    () => hipPlan(q, k, { budget: [1, 2, 3] }),
  ],
  ['nothing to select by', 'ERR_OPTION', /budget is undefined.*topP/, () => pooledPlan(q, k, {})],
  ['a share above 1', 'ERR_OPTION', /topP is 1.5/, () => pooledPlan(q, k, { topP: 1.5 })],
  [
    'ascending chunks',
    'ERR_OPTION',
    /chunk 64 of stage 1/,
    () => hipPlan(q, k, { budget: 8, stages: [{ chunk: 32 }, { chunk: 64 }] }),
  ],
  [
    'a last chunk that is no block',
    'ERR_OPTION',
    /16 keys.*keyBlock, 8/,
    () => hipPlan(q, k, { budget: 8, stages: [{ chunk: 16 }] }),
  ],
  [
    'a budget twice',
    'ERR_OPTION',
    /last stage keeps the budget/,
    () => hipPlan(q, k, { budget: 8, stages: [{ chunk: 8, keep: 3 }] }),
  ],
  [
    'stages of another variant',
    'ERR_OPTION',
    /stages are of variant/,
    () => hipPlan(q, k, { budget: 8, variant: 'hip1', stages: [] }),
  ],
  [
    'a misspelled always',
    'ERR_OPTION',
    /option 'sinks'/,
    () => hipPlan(q, k, { budget: 8, always: { sinks: 3 } as never }),
  ],
  ['keyBlock', 'ERR_OPTION', /keyBlock is 24/, () => pagePlan(q, k, { budget: 8, keyBlock: 24 })],
  ['heads', 'ERR_SHAPE', /heads a multiple/, () => hipPlan(Tensor.zeros([1, 10, 3, 8]), k, { budget: 8 })],
  ['dtype', 'ERR_DTYPE', /k is float32 but q is bfloat16/, () => hipPlan(q.to('bfloat16'), k, { budget: 8 })],
  ['no tokens', 'ERR_SHAPE', /k has shape \[1, 0, 2, 8\]/, () => hipPlan(q, Tensor.zeros([1, 0, 2, 8]), { budget: 8 })],
  [
    'strides',
    'ERR_SHAPE',
    /stride 2 on its last axis/,
    () => hipPlan(Tensor.zeros([1, 10, 8, 2]).permute(0, 1, 3, 2), k, { budget: 8 }),
  ],
  [
    'disposed',
    'ERR_DISPOSED',
    /k.* was disposed/,
    () => {
      const gone = Tensor.zeros([1, 20, 2, 8]);
      gone.dispose();
      return hipPlan(q, gone, { budget: 8 });
    },
  ],
])('refuses %s', (_, code, message, call) => {
  expect(call).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
});
