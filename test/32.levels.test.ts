// Blocks of a plan that count by means of 2, 4, 8 ... of their keys, and pooledPlan, which says which do.

import {
  attention,
  causal,
  denseBias,
  hipPlan,
  KvCache,
  keyBias,
  pagePlan,
  pooledPlan,
  SparsePlan,
  Stream,
  Tensor,
  window,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { checkAttention, checkSelection, makeWithLevels } from './support/cached';
import { itAgrees } from './support/instruction-sets';
import { expectedOn, expectResult, run } from './support/library';
import { normal, uniform, type Values } from './support/numbers';
import type { PlanSpec, Problem } from './support/oracle';
import { randomPlan, withLevels } from './support/plans';
import { checkLevels, sizes } from './support/selectors';
import { append, emptyTwin, type Sizes } from './support/twin';
import { meansOf, planOfWords } from './support/words';

const runs = 20;

itAgrees('is one key for each mean, by the oracle, on random problems', 'levels', runs, 5);

const geometry = { queries: 70, keys: 500, queryTile: 32, keyBlock: 64, causal: false };
const blocks = Math.ceil(geometry.keys / geometry.keyBlock);

/** Every block for every row, at one level where the causal border cuts none. */
function all(level: number, g = geometry): { lists: number[][]; levels: number[][] } {
  const lists = Array.from({ length: 3 }, () => Array.from({ length: blocks }, (_, block) => block));
  const last = (row: number) => (g.causal ? 32 * row + g.keys - g.queries : g.keys);
  const levels = lists.map((list, row) =>
    list.map((block) => (Math.min(64 * (block + 1), g.keys) - 1 <= last(row) ? level : 0)),
  );
  return { lists, levels };
}

const lseOf = async (mask: SparsePlan, q: Tensor, k: Tensor) =>
  (await attention(q, k, k, { mask }).lse.read()) as Float32Array;

// Sums of exponentials of the same scores in another order: a unit in the last place of some sums.
const rounding = (lse: number) => 4 * 2 ** -23 * Math.max(1, Math.abs(lse));

describe('attention', () => {
  it.each(['float32', 'float16', 'bfloat16'] as const)(
    'is exact where the keys of a mean are equal, %s',
    async (dtype) => {
      const random = uniform(3);
      for (const level of [1, 3, 5]) {
        for (const isCausal of [false, true]) {
          const repeated = (columns: number): Values => {
            const few = normal(random, dtype, [1, Math.ceil(500 / 2 ** level), 2, columns]);
            const data = Float64Array.from(
              { length: 500 * 2 * columns },
              (_, i) => few.data[(Math.floor(i / (2 * columns)) >> level) * 2 * columns + (i % (2 * columns))]!,
            );
            return { shape: [1, 500, 2, columns], data };
          };
          const plan: PlanSpec = { ...geometry, ...all(level), batch: 1, heads: 1, causal: isCausal, holes: false };
          plan.levels = all(level, { ...geometry, causal: isCausal }).levels;
          const problem: Problem = {
            ...{ q: normal(random, dtype, [1, 70, 4, 16]), k: repeated(16), v: repeated(8) },
            masks: [{ plan }],
          };
          const { levels, ...keys } = plan;
          const want = expectedOn('cpu', { ...problem, masks: [{ plan: keys }] }, dtype);
          expect(levels.flat()).toContain(level);
          expectResult(await run(problem, dtype, level), want);
        }
      }
    },
  );

  it.each([false, true])('counts less the more keys a mean has, and never too much, causal %s', async (isCausal) => {
    const g = { ...geometry, causal: isCausal };
    using q = Tensor.randn([1, 70, 4, 16], { seed: 1 });
    using k = Tensor.randn([1, 500, 2, 16], { seed: 2 });
    let before: Float32Array | undefined;
    for (let level = 0; level <= 5; level++) {
      const { lists, levels } = all(level, g);
      using plan = SparsePlan.fromBlocks(lists, { ...g, levels });
      const lse = await lseOf(plan, q, k);
      // By the inequality of Jensen, since each mean of 2^l keys is one of two means of 2^(l - 1).
      before?.forEach((finer, i) => {
        expect(lse[i]!).toBeLessThanOrEqual(finer + rounding(finer));
      });
      if (before) expect(Math.min(...lse.map((x, i) => x - before![i]!))).toBeLessThan(-0.01);
      before = lse;
    }
    // The means of all keys of a block are fewer still.
    using none = SparsePlan.fromBlocks([[], [], []], { ...g, estimate: true });
    if (!isCausal) {
      (await lseOf(none, q, k)).forEach((x, i) => {
        expect(x).toBeLessThanOrEqual(before![i]! + rounding(x));
      });
    }
  });

  it('is that of the same plan whatever of its blocks have no level', async () => {
    const { lists } = all(0);
    const levels = lists.map((list) => list.map(() => 0));
    using bare = SparsePlan.fromBlocks(lists, geometry);
    using plan = SparsePlan.fromBlocks(lists, { ...geometry, levels });
    using q = Tensor.randn([1, 70, 4, 16], { seed: 1 });
    using k = Tensor.randn([1, 500, 2, 16], { seed: 2 });
    expect(plan.levels).toEqual([]);
    expect(await lseOf(plan, q, k)).toEqual(await lseOf(bare, q, k));
  });

  it('follows its inputs in a graph', async () => {
    using stream = new Stream();
    using q = Tensor.randn([1, 70, 2, 16], { seed: 1 });
    using k = Tensor.zeros([1, 500, 2, 16]);
    const given = { budget: 64, levels: [100, 0, 200], always: { sink: 0, window: 0 } };
    const both = (of: Tensor, on?: Stream) =>
      attention(q, of, of, { mask: pooledPlan(q, of, { ...given, stream: on }), stream: on });
    let result = both(k, stream);
    using graph = stream.capture(() => {
      result = both(k, stream);
    });
    for (const seed of [5, 6]) {
      await stream.synchronize();
      using other = Tensor.randn([1, 500, 2, 16], { seed });
      k.data.set(other.data);
      graph.launch();
      expect(await result.out.read()).toEqual(await both(other).out.read());
    }
  });

  it('reads keys and values of any strides', async () => {
    const grid = [1, 5, 10, 10, 2, 8];
    const { lists } = all(0);
    using mask = SparsePlan.fromBlocks(lists, {
      ...geometry,
      levels: lists.map((list) => list.map((block) => block % 5)),
    });
    using q = Tensor.randn([1, 70, 1, 1, 2, 8], { seed: 1 });
    const parts = [2, 3].map((seed) =>
      Tensor.randn([1, 7, 12, 11, 2, 8], { seed }).slice([0, 1], [1, 6], [2, 12], [0, 10], [0, 2], [0, 8]),
    );
    const [k, v] = parts as [Tensor, Tensor];
    const copies = await Promise.all(parts.map(async (part) => Tensor.from(await part.read(), grid)));
    const [near, want] = [attention(q, k, v, { mask }), attention(q, copies[0]!, copies[1]!, { mask })];
    expect(await near.out.read()).toEqual(await want.out.read());
    expect(await near.lse.read()).toEqual(await want.lse.read());
  });
});

describe('a plan with levels', () => {
  const g = { queries: 64, keys: 250, queryTile: 32, keyBlock: 32 };
  const lists = [
    [0, 3, 7],
    [1, 2],
  ];
  const levels = [
    [1, 0, 3],
    [0, 4],
  ];

  it('says what it lists', async () => {
    using plan = SparsePlan.fromBlocks(lists, { ...g, levels });
    await plan.validate();
    expect(plan.levels).toEqual([1, 3, 4]);
    expect(await meansOf(plan)).toEqual([
      [
        [0, 1],
        [7, 3],
      ],
      [[2, 4]],
    ]);
    // Of the rows' 250 keys those of blocks 3 and 1 are seen themselves.
    const density = (32 + 32) / (2 * 250);
    expect(await plan.statistics()).toEqual({
      ...{ rows: 2, blocks: 5, possibleBlocks: 16, bitmaps: 0, means: 3, density },
      heads: [{ blocks: 5, emptyRows: 0, fewest: 2, most: 3 }],
    });
    expect(await plan.density()).toBe(density);
    expect(await plan.explain()).toMatch(/list 5 of 16 .*12\.8 %.* row by row, 3 of them by means of 2, 8, 16 keys$/);
    using bare = SparsePlan.fromBlocks([[3], [1]], g);
    const [shown, wanted] = [await plan.toDense().read(), await bare.toDense().read()];
    expect(Buffer.compare(shown as Uint8Array, wanted as Uint8Array)).toBe(0);
  });

  it('of all blocks is not dense', async () => {
    const every = [0, 1].map(() => [0, 1, 2, 3, 4, 5, 6, 7]);
    using plan = SparsePlan.fromBlocks(every, { ...g, levels: every.map((list) => list.map((_, i) => +(i === 7))) });
    expect(await plan.explain()).toMatch(/16 of 16 blocks .* row by row, 2 of them by means of 2 keys$/);
    using near = SparsePlan.fromBlocks([[0], []], { ...g, estimate: true, levels: [[2], []] });
    expect(await near.explain()).toMatch(/row by row, 1 of them by means of 4 keys, and the means of the others$/);
  });

  it('is lighter in a picture the more keys a mean has', async () => {
    using plan = SparsePlan.fromBlocks(lists, { ...g, levels: [levels[0]!, [0, 2]] });
    const opacity = (svg: string) =>
      [...svg.matchAll(/x="(\d)" y="(\d)" .*?opacity="([\d.]+)"/g)].map(([, ...of]) => of);
    expect(opacity(await plan.toSvg())).toEqual([
      ['0', '0', '0.50'],
      ['3', '0', '1.00'],
      ['7', '0', '0.15'], // the lightest that can be seen
      ['1', '1', '1.00'],
      ['2', '1', '0.25'],
    ]);
  });

  it('keeps them in a copy', async () => {
    using plan = SparsePlan.fromBlocks(lists, { ...g, levels });
    using copy = plan.to('cpu');
    expect(copy.levels).toEqual([1, 3, 4]);
    expect(await meansOf(copy)).toEqual(await meansOf(plan));
    using q = Tensor.randn([1, 64, 2, 8], { seed: 1 });
    using k = Tensor.randn([1, 250, 2, 8], { seed: 2 });
    expect(await lseOf(copy, q, k)).toEqual(await lseOf(plan, q, k));
  });

  it('leaves out what causality hides, levels too', async () => {
    // Queries 0 to 31 stand at keys 186 to 217: block 5 ends at 191, 6 at 223, 7 at 255.
    using plan = SparsePlan.fromBlocks(
      [
        [4, 6, 7],
        [5, 7],
      ],
      {
        ...{ ...g, causal: true },
        levels: [
          [2, 0, 4],
          [1, 0],
        ],
      },
    );
    await plan.validate();
    expect(plan.levels).toEqual([1, 2]);
    expect(await meansOf(plan)).toEqual([[[4, 2]], [[5, 1]]]);
    expect((await plan.statistics()).blocks).toBe(4);
  });
});

describe('words of a plan', () => {
  const g = { queries: 32, keys: 100, queryTile: 32, keyBlock: 16, causal: true, levels: 2 };
  const [predicate, tail] = [1 << 27, 3 << 27];
  // The first query stands at key 68: blocks 0 to 3 are whole, 4 to 6 cut.
  const first = 1 << 24;
  const second = 2 << 24;
  const q = Tensor.randn([1, 32, 2, 8], { seed: 1 });
  const k = Tensor.randn([1, 100, 2, 8], { seed: 2 });
  it.each<[string, RegExp, number[], number[]]>([
    ['of a level that it has not', /block 1 is not of the kind/, [0, second | 1], [0]],
    ['of a block that the border cuts, as full', /block 4 is not of the kind/, [0, first | 4], [0]],
    ['of a block that the border cuts, as cut', /block 4 is not of the kind/, [0, first | predicate | 4], [0]],
    ['of the last block, as the tail', /block 6 is not of the kind/, [0, first | tail | 6], [0]],
    ['before others', /block 1 is out of order/, [first, 1], [1, first]],
    ['that descend', /block 1 is out of order/, [first | 2, first | 1], [first | 1, first | 2]],
    ['of a block twice', /block 2 .*twice/, [2, first | 2], []],
    ['of a bitmap that is not there', /block 1 .*bitmap/, [0, (2 << 27) | 1, 0], [0]],
    ['of a bitmap whose number is missing', /block 1 .*bitmap/, [0, (2 << 27) | 1], [0]],
  ])('%s', async (_, message, entries, same) => {
    using plan = planOfWords([0, entries.length], entries, g);
    await expect(plan.validate()).rejects.toMatchObject({
      code: 'ERR_OPTION',
      message: expect.stringMatching(message),
    });
    const lse = await lseOf(plan, q, k);
    if (same.length === 0) return;
    using want = planOfWords([0, same.length], same, g);
    await want.validate();
    (await lseOf(want, q, k)).forEach((x, i) => {
      expect(Math.abs(lse[i]! - x)).toBeLessThanOrEqual(rounding(x));
    });
  });
});

describe('pooledPlan', () => {
  it.each(sizes)('gives levels by their definition, %j', (size) => checkLevels(size));

  it.each(['float32', 'bfloat16'] as const)(
    'is dense when the budget is all keys, whatever the levels, %s',
    async (dtype) => {
      for (const [queries, keys] of [
        [300, 300],
        [1, 777],
        [100, 500],
      ] as const) {
        using q = Tensor.randn([1, queries, 4, 24], { seed: 1, dtype });
        using k = Tensor.randn([1, keys, 2, 24], { seed: 2, dtype });
        for (const isCausal of [false, true]) {
          using plan = pooledPlan(q, k, { budget: keys, causal: isCausal, levels: [64, 64, 1000] });
          await plan.validate();
          expect(plan.levels).toEqual([1, 2, 3]);
          expect((await meansOf(plan)).flat()).toEqual([]);
          expect(await plan.density()).toBe(1);
          const mask = isCausal ? causal() : [];
          const [a, b] = await Promise.all([plan, mask].map((of) => attention(q, k, k, { mask: of }).lse.read()));
          const worst = Math.max(...Array.from(a as Float32Array, (x, i) => Math.abs(x - Number(b![i]))));
          expect(worst).toBeLessThan(4e-6);
        }
      }
    },
  );

  it('comes nearer to dense by levels than by what it leaves out, and counts no more', async () => {
    const random = uniform(4);
    // Keys that change slowly, as those of a text do.
    const data = new Float32Array(2000 * 16);
    data.forEach((_, i) => {
      data[i] = 0.98 * (i < 16 ? 0 : data[i - 16]!) + 0.4 * (random() + random() - 1);
    });
    using k = Tensor.from(data, [1, 2000, 1, 16]);
    using q = Tensor.randn([1, 64, 2, 16], { seed: 9 });
    const exact = (await attention(q, k, k).lse.read()) as Float32Array;
    const miss = async (levels: number[]) => {
      using plan = pooledPlan(q, k, { budget: 256, levels, always: { sink: 0, window: 0 } });
      const lse = await lseOf(plan, q, k);
      lse.forEach((x, i) => {
        expect(x).toBeLessThanOrEqual(exact[i]! + rounding(exact[i]!));
      });
      return lse.reduce((sum, x, i) => sum + exact[i]! - x, 0);
    };
    const [none, some, more] = [await miss([]), await miss([0, 256, 512]), await miss([256, 512, 2000])];
    expect(some).toBeLessThan(none);
    expect(more).toBeLessThan(some);
  });

  it('passes over the level of a 0, and takes none at all', async () => {
    using q = Tensor.randn([1, 16, 1, 8], { seed: 1 });
    using k = Tensor.randn([1, 640, 1, 8], { seed: 2 });
    const given = { budget: 64, always: { sink: 0, window: 0 } };
    const of = async (levels: number[]) => {
      using plan = pooledPlan(q, k, { ...given, levels });
      const list = (await meansOf(plan)).flat().map(([, level]) => level);
      return [plan.levels, list.sort()] as const;
    };
    expect(await of([0, 65, 0, 1])).toEqual([
      [2, 4],
      [2, 2, 4],
    ]);
    expect(await of([0, 0])).toEqual([[], []]);
    expect(await of([])).toEqual([[], []]);
    expect(await of([2 ** 50])).toEqual([[1], Array(9).fill(1)]);
  });

  it('selects by rows that are pooled already', async () => {
    using q = Tensor.from(new Float32Array([1]), [1, 1, 1, 1]);
    using k = Tensor.from(new Float32Array([3, 1, 4, 1, 5, 9, 2, 6]), [1, 8, 1, 1]);
    using plan = pooledPlan(q, k, {
      ...{ budget: 32, levels: [32, 16], keyBlock: 16, always: { sink: 0, window: 0 } },
      pooled: { queries: 16, keys: 128 },
    });
    expect(await meansOf(plan)).toEqual([
      [
        [0, 2],
        [2, 1],
        [4, 1],
      ],
    ]);
  });
});

describe('over a cache', () => {
  const shape: Sizes = {
    ...{ batch: 3, kvHeads: 2, group: 2, headDim: 24, valueDim: 16, pageSize: 48, dtype: 'float16' },
  };

  it.each([undefined, 'int8' as const])(
    'is what it is over tensors of each sequence, stored as %s',
    async (storage) => {
      const sizes = { ...shape, storage };
      for (const lengths of [
        [520, 520, 520],
        [520, 300, 0],
        [257, 3, 255],
      ]) {
        const random = uniform(8);
        const twin = emptyTwin(sizes, 1024);
        append(twin, sizes, lengths, random);
        for (const [queries, isCausal] of [
          [1, true],
          [40, true],
          [40, false],
        ] as const) {
          const q = normal(random, 'float16', [3, queries, 4, 24]);
          const keys = Math.max(...lengths);
          const g = { batch: 3, heads: 2, queries, keys, queryTile: 16, keyBlock: 32, causal: isCausal };
          const spec = withLevels(queries, randomPlan(3, g, 0.7));
          expect(new Set(spec.levels!.flat()).size).toBe(5);
          await checkAttention(twin, q, 'float16', spec);
          await checkAttention(twin, q, 'float16', { ...spec, estimate: true });
          const given = { budget: 64, causal: isCausal, keyBlock: 16, always: { sink: 5, window: 9 } };
          (await checkSelection(twin, q, 'float16', makeWithLevels[1], given)).dispose();
        }
        twin.cache.dispose();
      }
    },
  );

  it('keeps the means of each level beside itself', async () => {
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 16, capacity: 1024 });
    using k = Tensor.randn([1, 1024, 1, 16], { seed: 1 });
    cache.append(k, k);
    using q = Tensor.randn([1, 1, 1, 16], { seed: 2 });
    const g = { queries: 1, keys: 1024, keyBlock: 64 };
    const grown = async (level: number) => {
      const before = cache.bytes;
      using mask = SparsePlan.fromBlocks([[3]], { ...g, levels: [[level]] });
      await attention(q, cache, { mask }).lse.read();
      return cache.bytes - before;
    };
    const elements = 2 * 1024 * 16 * 4;
    expect([await grown(1), await grown(3), await grown(1)]).toEqual([elements / 2, elements / 8, 0]);
  });
});

describe('refused', () => {
  const g = { queries: 64, keys: 250, queryTile: 32, keyBlock: 32 };
  const lists = [[0, 3, 7], [1]];
  const plan = (levels: unknown, more: object = {}) => SparsePlan.fromBlocks(lists, { ...g, levels, ...more } as never);
  const words = (list: number[]) => Tensor.from(Int32Array.from(list), [list.length]);
  const mask = plan([[1, 0, 0], [0]]);
  const q = Tensor.zeros([1, 64, 2, 8]);
  const k = Tensor.zeros([1, 250, 2, 8]);
  const few = { budget: 8, keyBlock: 16 };
  it.each<[string, string, RegExp, () => unknown]>([
    ['no list', 'ERR_OPTION', /levels is 3; it must be a list for each row/, () => plan(3)],
    ['a list too few', 'ERR_SHAPE', /levels has 1 lists for 2 rows; give one for each/, () => plan([[1, 0, 0]])],
    [
      'a row that is no list',
      'ERR_OPTION',
      /levels of row 1 \(.*queries 32 to 63\): 5 is no list/,
      () => plan([[0, 0, 0], 5]),
    ],
    ['a level too few', 'ERR_SHAPE', /row 0 .*2 levels for 3 blocks; give one for each/, () => plan([[0, 0], [0]])],
    [
      'a level too many',
      'ERR_SHAPE',
      /row 1 .*2 levels for 1 blocks/,
      () =>
        plan([
          [0, 0, 0],
          [0, 1],
        ]),
    ],
    ['a fraction', 'ERR_OPTION', /row 0 .*block 3 has 0.5; .*integers in 0 \.\.\. 4/, () => plan([[0, 0.5, 0], [0]])],
    ['a negative level', 'ERR_OPTION', /row 1 .*block 1 has -1/, () => plan([[0, 0, 0], [-1]])],
    ['a hole', 'ERR_OPTION', /row 0 .*block 0 has undefined/, () => plan([new Array(3), [0]])],
    [
      'a mean of the whole block',
      'ERR_OPTION',
      /row 0 .*block 7 has 5; with keyBlock 32 .*0 \.\.\. 4/,
      () => plan([[0, 0, 5], [0]]),
    ],
    [
      'means of blocks of 2',
      'ERR_OPTION',
      /block 0 has 1; with keyBlock 2 .*0 \.\.\. 0/,
      () => plan([[1, 0, 0], [0]], { keyBlock: 2 }),
    ],
    [
      'a block that the causal border cuts',
      'ERR_OPTION',
      /levels of row 1 .*block 7 has 2, but the causal border cuts it.*give it 0/,
      () => SparsePlan.fromBlocks([[0], [1, 7]], { ...g, causal: true, levels: [[0], [0, 2]] }),
    ],
    [
      'blocks in tensors',
      'ERR_OPTION',
      /levels are for lists of JavaScript.*leave levels out/,
      () => SparsePlan.fromBlocks({ offsets: words([0, 1, 1]), blocks: words([0]) }, { ...g, levels: [[1], []] }),
    ],
    [
      'predicates',
      'ERR_OPTION',
      /option 'levels'/,
      () => SparsePlan.fromPredicate(() => true, { ...g, levels: [] } as never),
    ],
    ['a union', 'ERR_OPTION', /union: .*means.*cannot be combined/, () => mask.union(SparsePlan.fromBlocks(lists, g))],
    [
      'an intersection',
      'ERR_OPTION',
      /intersect: .*means.*cannot/,
      () => SparsePlan.fromBlocks(lists, g).intersect(mask),
    ],
    [
      'another mask',
      'ERR_OPTION',
      /a further mask.*without estimate and levels/,
      () => attention(q, k, k, { mask: [mask, window({ left: 9, right: 0 })] }),
    ],
    [
      'a bias',
      'ERR_OPTION',
      /cannot be used with bias/,
      () => attention(q, k, k, { mask, bias: keyBias(Tensor.zeros([250])) }),
    ],
    [
      'a dense bias',
      'ERR_OPTION',
      /with bias/,
      () => attention(q, k, k, { mask, bias: denseBias(Tensor.zeros([64, 250])) }),
    ],
    ['a softcap', 'ERR_OPTION', /with softcap/, () => attention(q, k, k, { mask, softcap: 3 })],
    ['hipPlan', 'ERR_OPTION', /hipPlan: option 'levels'/, () => hipPlan(q, k, { budget: 8, levels: [8] } as never)],
    ['pagePlan', 'ERR_OPTION', /pagePlan: option 'levels'/, () => pagePlan(q, k, { budget: 8, levels: [8] } as never)],
    [
      'no list of keys',
      'ERR_OPTION',
      /pooledPlan: levels is 64; .*array/,
      () => pooledPlan(q, k, { ...few, levels: 64 as never }),
    ],
    [
      'a negative number of keys',
      'ERR_OPTION',
      /levels\[1\] is -4/,
      () => pooledPlan(q, k, { ...few, levels: [8, -4] }),
    ],
    ['a fraction of a key', 'ERR_OPTION', /levels\[0\] is 1.5/, () => pooledPlan(q, k, { ...few, levels: [1.5] })],
    [
      'a level too coarse',
      'ERR_OPTION',
      /levels has 4 numbers.*blocks of 16.* 8/,
      () => pooledPlan(q, k, { ...few, levels: [8, 8, 8, 8] }),
    ],
    [
      "queries 'own'",
      'ERR_OPTION',
      /levels.*'own'.*leave/,
      () => pooledPlan(q, k, { ...few, levels: [8], queries: 'own' }),
    ],
    ['topP', 'ERR_OPTION', /levels.*topP.*leave/, () => pooledPlan(q, k, { topP: 0.5, levels: [8] })],
    [
      'a threshold',
      'ERR_OPTION',
      /levels.*threshold.*leave/,
      () => pooledPlan(q, k, { threshold: 0.1, budget: 8, levels: [8] }),
    ],
    ['no budget', 'ERR_OPTION', /budget is undefined/, () => pooledPlan(q, k, { levels: [8] })],
  ])('%s', (_, code, message, call) => {
    expect(call).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
  });
});
