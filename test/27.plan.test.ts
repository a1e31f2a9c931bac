// Sparse plans: what they show, how attention walks them, and what is refused. What pairs of query and key a plan shows
// is said anew here and in the oracle, pair by pair.

import { attention, causal, merge, type PlanGeometry, SparsePlan, Stream, Tensor, window } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { itAgrees } from './support/instruction-sets';
import { check } from './support/library';
import { normal, uniform } from './support/numbers';
import { type PlanSpec, seesInPlan } from './support/oracle';
import { planOf, randomPlan, unreadPlan } from './support/plans';

const runs = 60;

const geometryOf = (given: Partial<PlanSpec> = {}) => ({
  batch: 1,
  heads: 1,
  queries: 100,
  keys: 130,
  queryTile: 32,
  keyBlock: 16,
  causal: false,
  ...given,
});

/** What the dense mask has to be. */
function denseOf(plan: PlanSpec): Uint8Array {
  const { batch, heads, queries, keys } = plan;
  return Uint8Array.from({ length: batch * heads * queries * keys }, (_, n) => {
    const [j, i] = [n % keys, Math.floor(n / keys) % queries];
    const head = Math.floor(n / keys / queries) % heads;
    return Number(seesInPlan(plan, Math.floor(n / keys / queries / heads), head, heads, i, j));
  });
}

async function dense(plan: SparsePlan): Promise<Uint8Array> {
  using tensor = plan.toDense();
  expect(tensor.shape).toEqual([plan.batch, plan.heads, plan.queries, plan.keys]);
  return (await tensor.read()) as Uint8Array;
}

const shareOf = (plan: PlanSpec) => {
  const { queries, keys } = plan;
  let [seen, possible] = [0, 0];
  denseOf(plan).forEach((shown, n) => {
    const [j, i] = [n % keys, Math.floor(n / keys) % queries];
    if (plan.causal && j > i + keys - queries) return;
    possible++;
    seen += shown;
  });
  return seen / possible;
};

const all = (g: ReturnType<typeof geometryOf>) =>
  Array.from({ length: g.batch * g.heads * Math.ceil(g.queries / g.queryTile) }, () =>
    Array.from({ length: Math.ceil(g.keys / g.keyBlock) }, (_, block) => block),
  );

const variants = [
  {},
  { causal: true },
  { causal: true, queries: 130, keys: 100 },
  { batch: 2, heads: 3, queries: 1, keys: 77, keyBlock: 2 },
  { queries: 257, keys: 300, queryTile: 128, keyBlock: 128, causal: true },
  { queryTile: 16, keyBlock: 8, heads: 2 },
];

describe('a plan', () => {
  it.each(variants)('shows the blocks that it lists, %j', async (given) => {
    for (const holes of [false, true]) {
      const spec = randomPlan(7, geometryOf(given), 0.4, holes);
      using plan = planOf(spec);
      await plan.validate();
      expect(await dense(plan)).toEqual(denseOf(spec));
      expect(await plan.density()).toBeCloseTo(shareOf(spec), 12);
    }
  });

  it.each(variants)('unites and intersects with another, %j', async (given) => {
    const g = geometryOf(given);
    for (const [holesA, holesB] of [
      [false, false],
      [true, false],
      [true, true],
    ]) {
      const [a, b] = [randomPlan(1, g, 0.5, holesA), randomPlan(2, { ...g, heads: 1, batch: 1 }, 0.5, holesB)];
      using left = planOf(a);
      using right = planOf(b);
      using both = left.intersect(right);
      using either = right.union(left);
      await both.validate();
      await either.validate();
      const spread = { ...b, heads: g.heads, batch: g.batch };
      spread.lists = Array.from({ length: g.batch * g.heads }, () => b.lists).flat();
      // A head of the broadcast plan has the holes of head 0.
      using alone = SparsePlan.fromPredicate((i, j) => seesInPlan(b, 0, 0, 1, i, j), { ...g, stream: undefined });
      const [x, y] = [denseOf(a), holesB ? await dense(alone) : denseOf(spread)];
      expect(await dense(both)).toEqual(x.map((seen, n) => seen & y[n]!));
      expect(await dense(either)).toEqual(x.map((seen, n) => seen | y[n]!));
    }
  });

  it('takes no more memory than its words', () => {
    const g = geometryOf({ queries: 10_000, keys: 10_000, queryTile: 64, keyBlock: 64, causal: true });
    const lists = Array.from({ length: 157 }, (_, tile) => [0, tile].slice(tile ? 0 : 1));
    expect(SparsePlan.fromBlocks(lists, g).bytes).toBe(4 * (158 + 2 * 157 - 1));
  });

  it('draws every head', async () => {
    using plan = planOf(randomPlan(3, geometryOf({ heads: 3 }), 0.5, true));
    const svg = await plan.toSvg();
    expect(svg).toMatch(/^<svg .*<\/svg>\n$/s);
    expect(svg.match(/<title>head \d: 100 queries, 130 keys<\/title>/g)).toHaveLength(3);
    const cells = svg.match(/opacity=/g)!.length;
    const listed = (await dense(plan)).reduce((set, shown, n) => {
      const [j, row] = [n % 130, Math.floor(n / 130)];
      return shown ? set.add(`${Math.floor(row / 100)} ${(row % 100) >> 5} ${j >> 4}`) : set;
    }, new Set<string>());
    expect(cells).toBe(listed.size);
  });

  it('draws the batch entry that is asked for', async () => {
    const g = { queries: 32, keys: 32, batch: 2, queryTile: 16, keyBlock: 16 };
    using plan = SparsePlan.fromBlocks([[0], [1], [0, 1], [1]], g);
    const cells = async (batch?: number) => (await plan.toSvg({ batch })).match(/opacity=/g)!.length;
    expect([await cells(), await cells(0), await cells(1)]).toEqual([2, 2, 3]);
    await expect(plan.toSvg({ batch: 2 })).rejects.toMatchObject({
      code: 'ERR_OPTION',
      message: expect.stringMatching(/batch is 2; it must be in 0 ... 1/),
    });
  });

  it.each([
    [false, false],
    [true, true],
  ])('counts what it lists, for each pattern: causal %s, holes %s', async (isCausal, holes) => {
    const g = geometryOf({ batch: 2, heads: 3, keys: 160, causal: isCausal });
    const spec = randomPlan(isCausal ? 4 : 5, g, 0.4, holes);
    using plan = planOf(spec);
    const pairs = await dense(plan);
    const [tiles, blocks] = [4, 10]; // of 32 queries, of 16 keys
    const rows = Array.from({ length: 2 * 3 * tiles }, () => Array.from({ length: blocks }, () => 0));
    let [shown, possible] = [0, 0];
    const visible = new Set<string>();
    pairs.forEach((one, n) => {
      const [j, i, pattern] = [n % 160, Math.floor(n / 160) % 100, Math.floor(n / 160 / 100)];
      const row = pattern * tiles + (i >> 5);
      rows[row]![j >> 4]! += one;
      shown += one;
      if (isCausal && j > i + 60) return;
      possible++;
      visible.add(`${row} ${j >> 4}`);
    });
    const counts = rows.map((row) => row.filter((seen) => seen > 0).length);
    const sum = (list: readonly number[]) => list.reduce((a, b) => a + b, 0);
    const heads = [0, 1, 2].map((h) => {
      const own = counts.filter((_, row) => Math.floor(row / tiles) % 3 === h);
      return {
        blocks: sum(own),
        emptyRows: own.filter((count) => count === 0).length,
        fewest: Math.min(...own),
        most: Math.max(...own),
      };
    });
    const got = await plan.statistics();
    expect(got).toMatchObject({ rows: 24, blocks: sum(counts), possibleBlocks: visible.size, heads });
    expect(got.density).toBeCloseTo(shown / possible, 12);
    expect(got.density).toBe(await plan.density());
    expect(got.bitmaps > 0).toBe(holes);
    expect(new Set(heads.map(({ emptyRows }) => emptyRows > 0))).toContain(true);
  });

  it('says how attention walks it', async () => {
    using half = planOf(randomPlan(1, geometryOf(), 0.5));
    expect(await half.explain()).toMatch(/row by row/);
    const whole = '36 of 36 blocks of 16 keys: 100 % of the scores. ';
    using known = SparsePlan.fromBlocks(all(geometryOf()), geometryOf());
    expect(await known.explain()).toContain(`${whole}That is every block: attention is dense`);
    // Of what tensors list, and of what two plans list together, nobody knows.
    using unread = unreadPlan(all(geometryOf()), geometryOf());
    using both = known.union(known);
    for (const plan of [unread, both]) {
      expect(await plan.explain()).toContain(`${whole}That is 0.8 of the blocks or more`);
    }
    using most = planOf(randomPlan(1, geometryOf({ keys: 130 }), 1, true));
    expect(await most.explain()).toMatch(/in the tiles of a dense one/);
  });
});

describe('attention over a plan', () => {
  itAgrees('equals the oracle on random problems', 'plan', runs, 20252);

  it.each(['float32', 'bfloat16'] as const)('of all blocks is dense attention, %s', async (dtype) => {
    for (const [queries, keys] of [
      [300, 300],
      [1, 1000],
      [130, 700],
    ] as const) {
      for (const keyBlock of [2, 16, 128]) {
        for (const isCausal of [false, true]) {
          const g = geometryOf({ queries, keys, keyBlock, causal: isCausal, queryTile: 64 });
          using plan = SparsePlan.fromBlocks(all(g), g);
          using q = Tensor.randn([1, queries, 4, 32], { seed: 1, dtype });
          using k = Tensor.randn([1, keys, 2, 32], { seed: 2, dtype });
          const results = [plan, ...(isCausal ? [causal()] : [window({ left: -1, right: -1 })])].map((mask) =>
            attention(q, k, k, { mask }),
          );
          const [sparse, whole] = await Promise.all(results.map(({ lse }) => lse.read()));
          const worst = Math.max(...Array.from(sparse as Float32Array, (x, i) => Math.abs(x - Number(whole![i]))));
          expect(worst).toBeLessThan(4e-6);
        }
      }
    }
  });

  it('gives the empty result where a row is empty, or the sink', async () => {
    using q = Tensor.randn([1, 64, 2, 8], { seed: 1 });
    using plan = SparsePlan.fromBlocks([[], [0]], { queries: 64, keys: 64, queryTile: 32 });
    const bare = attention(q, q, q, { mask: plan });
    const lse = (await bare.lse.read()) as Float32Array;
    expect(Array.from(lse.subarray(0, 64))).toEqual(Array(64).fill(-Infinity));
    expect(Array.from(((await bare.out.read()) as Float32Array).subarray(0, 32 * 2 * 8))).toEqual(Array(512).fill(0));
    expect(Number.isFinite(Number(lse[64]))).toBe(true);
    const sunk = attention(q, q, q, { mask: plan, sinks: Tensor.from(new Float32Array([1, 2]), [2]) });
    expect(Array.from(((await sunk.lse.read()) as Float32Array).subarray(0, 4))).toEqual([1, 2, 1, 2]);
  });

  it('walks more than 32768 rows', async () => {
    // With q = 0 the lse counts the keys that are seen.
    const [heads, queries, keys] = [66, 8000, 40];
    const tiles = queries / 16;
    const lists = Array.from({ length: heads * tiles }, (_, row) => [row % 5]);
    using plan = SparsePlan.fromBlocks(lists, { heads, queries, keys, queryTile: 16, keyBlock: 8 });
    expect(lists.length).toBeGreaterThan(32768);
    using q = Tensor.zeros([1, queries, heads, 1]);
    using k = Tensor.zeros([1, keys, 1, 1]);
    using v = Tensor.from(
      Float32Array.from({ length: keys }, (_, key) => key >> 3),
      [1, keys, 1, 1],
    );
    const out = await attention(q, k, v, { mask: plan }).out.read();
    for (let i = 0; i < queries; i++) {
      for (let head = 0; head < heads; head++) {
        const want = (head * tiles + (i >> 4)) % 5;
        if (out[i * heads + head] !== want) expect(out[i * heads + head], `query ${i}, head ${head}`).toBe(want);
      }
    }
  });

  it('decodes: one query, long rows cut into parts', async () => {
    const keys = 9000;
    const random = uniform(5);
    const shape = (heads: number, tokens: number) => normal(random, 'bfloat16', [1, tokens, heads, 32]);
    for (const heads of [1, 2, 8]) {
      const g = geometryOf({ queries: 1, keys, heads, keyBlock: 16, queryTile: 16, causal: true });
      await check(
        { q: shape(8, 1), k: shape(2, keys), v: shape(2, keys), masks: [{ plan: randomPlan(heads, g, 0.3) }] },
        'bfloat16',
        heads,
      );
    }
  });

  it('merges with what another plan shows', async () => {
    const g = geometryOf({ queries: 90, keys: 90, queryTile: 16 });
    const one = randomPlan(4, g, 0.5);
    const rest = { ...one, lists: all(g).map((list, row) => list.filter((block) => !one.lists[row]!.includes(block))) };
    using q = Tensor.randn([1, 90, 2, 16], { seed: 1 });
    const parts = [one, rest].map((spec) => attention(q, q, q, { mask: planOf(spec) }));
    const [a, b] = await Promise.all([merge(parts).out.read(), attention(q, q, q).out.read()]);
    expect(Math.max(...Array.from(a as Float32Array, (x, i) => Math.abs(x - Number(b[i]))))).toBeLessThan(2e-6);
  });

  it('may be built, used and disposed of without a pause, on several streams and in graphs', async () => {
    using first = new Stream();
    using second = new Stream();
    using q = Tensor.randn([1, 200, 2, 16], { seed: 1 });
    const g = geometryOf({ queries: 200, keys: 200 });
    const [a, b] = [randomPlan(1, g, 0.3), randomPlan(2, g, 0.3)];
    const wanted = await attention(q, q, q, { mask: planOf(a).union(planOf(b)) }).out.read();
    const run = (stream: Stream, other: Stream) => {
      using x = SparsePlan.fromBlocks(a.lists, { ...g, stream });
      using y = SparsePlan.fromBlocks(b.lists, { ...g, stream: other });
      using both = x.union(y, { stream });
      return attention(q, q, q, { mask: both, stream: other });
    };
    for (let i = 0; i < 5; i++) expect(await run(first, second).out.read()).toEqual(wanted);
    let inGraph = run(first, first);
    using graph = first.capture(() => {
      inGraph = run(first, first);
    });
    graph.launch();
    graph.launch();
    expect(await inGraph.out.read()).toEqual(wanted);
  });
});

describe('refused', () => {
  const g = geometryOf();
  const lists = (row: number, list: unknown) => all(g).map((whole, i) => (i === row ? list : whole)) as number[][];
  const unasked = () => {
    throw new Error('the predicate was asked');
  };
  const geometry = (given: object) => () => SparsePlan.fromBlocks(all(g), { ...g, ...given } as PlanGeometry);
  it.each<[string, string, RegExp, () => unknown]>([
    ['too few rows', 'ERR_SHAPE', /3 rows; batch 1 x heads 1 x 4/, () => SparsePlan.fromBlocks(all(g).slice(1), g)],
    [
      'twice a block',
      'ERR_OPTION',
      /row 2 .*queries 64 to 95.*block 5 .*twice/,
      () => SparsePlan.fromBlocks(lists(2, [1, 5, 5]), g),
    ],
    ['descending', 'ERR_OPTION', /row 3 .*block 4 comes after 6/, () => SparsePlan.fromBlocks(lists(3, [6, 4]), g)],
    ['beyond', 'ERR_OPTION', /row 0 .*block 9 .*0 \.\.\. 8/, () => SparsePlan.fromBlocks(lists(0, [9]), g)],
    ['negative', 'ERR_OPTION', /block -1/, () => SparsePlan.fromBlocks(lists(0, [-1]), g)],
    ['a fraction', 'ERR_OPTION', /block 1.5 is no block/, () => SparsePlan.fromBlocks(lists(0, [1.5]), g)],
    ['a hole', 'ERR_OPTION', /row 1 .*undefined is no block/, () => SparsePlan.fromBlocks(lists(1, new Array(3)), g)],
    [
      'four billion holes',
      'ERR_OPTION',
      /undefined is no block/,
      () => SparsePlan.fromBlocks(lists(1, new Array(2 ** 32 - 1)), g),
    ],
    [
      'no lists',
      'ERR_OPTION',
      /blocks is 3; .* list of blocks for each row/,
      () => SparsePlan.fromBlocks(3 as never, g),
    ],
    ['rows left out', 'ERR_OPTION', /row 0 .*undefined/, () => SparsePlan.fromBlocks(new Array(4), g)],
    ['no list', 'ERR_OPTION', /row 1 .*'x'/, () => SparsePlan.fromBlocks(lists(1, 'x'), g)],
    ['a stream that is none', 'ERR_OPTION', /stream is 5; it must be a Stream/, geometry({ stream: 5 })],
    ['a device that is none', 'ERR_DEVICE', /SparsePlan.fromBlocks: device is 5/, geometry({ device: 5 })],
    [
      'a stream that is none, before the predicate is asked',
      'ERR_OPTION',
      /stream is 5; it must be a Stream/,
      () => SparsePlan.fromPredicate(unasked, { ...g, stream: 5 as never }),
    ],
    [
      'too many blocks, before the predicate is asked',
      'ERR_OPTION',
      /33554434 keys are 16777217 blocks of 2, more than 16777216; use a larger keyBlock/,
      () => SparsePlan.fromPredicate(unasked, { queries: 16, keys: 2 ** 25 + 2, keyBlock: 2 }),
    ],
    [
      'too large a batch, before the predicate is asked',
      'ERR_OPTION',
      /batch is 1048577; it must be at most 1048576/,
      () => SparsePlan.fromPredicate(unasked, { queries: 1, keys: 2, batch: 2 ** 20 + 1 }),
    ],
    ['no predicate', 'ERR_OPTION', /predicate/, () => SparsePlan.fromPredicate(3 as never, g)],
    ['queryTile', 'ERR_OPTION', /queryTile is 48/, geometry({ queryTile: 48 })],
    ['a small queryTile', 'ERR_OPTION', /queryTile is 8/, geometry({ queryTile: 8 })],
    ['keyBlock', 'ERR_OPTION', /keyBlock is 256/, geometry({ keyBlock: 256 })],
    ['no queries', 'ERR_OPTION', /queries is 0/, geometry({ queries: 0 })],
    ['too many keys', 'ERR_OPTION', /keys is 1e\+30|keys is/, geometry({ keys: 2 ** 31 })],
    ['an unknown option', 'ERR_OPTION', /keyblock.*keyBlock/, geometry({ keyblock: 16 })],
  ])('%s', (_, code, message, call) => {
    expect(call).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
  });

  const q = Tensor.zeros([2, 100, 4, 8]);
  const k = Tensor.zeros([2, 130, 2, 8]);
  const one = SparsePlan.fromBlocks(all(g), g);
  const of = (given: Partial<PlanSpec>) => planOf(randomPlan(1, geometryOf(given), 0.5));
  const gone = of({});
  gone.dispose();
  gone.dispose();
  it.each<[string, string, RegExp, () => unknown]>([
    ['two plans', 'ERR_OPTION', /more than one.*intersect/, () => attention(q, k, k, { mask: [one, one] })],
    [
      'other keys',
      'ERR_SHAPE',
      /100 queries and 131 keys.*100 and 130/,
      () => attention(q, k, k, { mask: of({ keys: 131 }) }),
    ],
    ['another batch', 'ERR_SHAPE', /batch of 3/, () => attention(q, k, k, { mask: of({ batch: 3 }) })],
    ['heads', 'ERR_SHAPE', /3 patterns .* 4 heads and 2 kvHeads/, () => attention(q, k, k, { mask: of({ heads: 3 }) })],
    [
      'disposed',
      'ERR_DISPOSED',
      /^mask, a SparsePlan for 100 queries and 130 keys on cpu, was disposed of; make a new one$/,
      () => attention(q, k, k, { mask: gone }),
    ],
    ['no plan', 'ERR_OPTION', /SparsePlan/, () => one.union({} as SparsePlan)],
    ['another geometry', 'ERR_OPTION', /keyBlock .*16.*32/, () => one.union(of({ keyBlock: 32 }))],
    ['another causality', 'ERR_OPTION', /causal/, () => one.intersect(of({ causal: true }))],
    [
      'patterns that do not fit',
      'ERR_OPTION',
      /2 patterns.*3|2 and 3|patterns/,
      () => of({ heads: 2 }).union(of({ heads: 3 })),
    ],
  ])('%s', (_, code, message, call) => {
    expect(call).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
  });

  it('sequences of a ragged batch', () => {
    const cu = Tensor.from(new Int32Array([0, 130]), [2]);
    using packed = Tensor.zeros([1, 130, 2, 8]);
    const call = () => attention(packed, packed, packed, { mask: of({ queries: 130 }), cuSeqlens: { q: cu, k: cu } });
    expect(call).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringMatching(/cuSeqlens/) }));
  });

  it('what tensors hold, by validate(), and attention over it touches nothing else', async () => {
    const cases: [RegExp, number[], number[]][] = [
      [/row 1 .*offsets/, [0, 3, 2, 4, 4], [0, 1, 2, 3]],
      [/row 0 .*offsets/, [-5, 3, 3, 4, 4], [0, 1, 2, 3]],
      [/row 3 .*offsets/, [0, 3, 3, 4, 2 ** 31 - 1], [0, 1, 2, 3]],
      [/row 0 .*not there/, [0, 2, 2, 2, 2], [1, 9]],
      [/row 2 .*not there/, [0, 0, 0, 2, 2], [1, -7]],
      [/row 0 .*block 1 .*out of order/, [0, 2, 2, 2, 2], [4, 1]],
      [/row 0 .*block 4 .*twice/, [0, 2, 2, 2, 2], [4, 4]],
      [/row 0 .*block 8 .*twice/, [0, 2, 2, 2, 2], [8, 8]],
    ];
    for (const [message, offsets, blocks] of cases) {
      const [a, b] = [offsets, blocks].map((list) => Tensor.from(Int32Array.from(list), [list.length]));
      using plan = SparsePlan.fromBlocks({ offsets: a!, blocks: b! }, g);
      await expect(plan.validate()).rejects.toMatchObject({
        code: 'ERR_OPTION',
        message: expect.stringMatching(message),
      });
      const { out } = attention(q, k, k, { mask: plan });
      expect((await out.read()).every((x) => Number(x) === 0)).toBe(true);
    }
  });
});
