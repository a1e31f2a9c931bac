// Attention over sparse plans on a CUDA device, against the float64 oracle, dense attention and the CPU.
import './support/device'; // before node-attention
import fc from 'fast-check';
import {
  type AttentionOptions,
  alibi,
  attention,
  causal,
  dilatedPlan,
  gridPlan,
  memoryStats,
  neighborhood,
  radialPlan,
  SparsePlan,
  Stream,
  streamingPlan,
  Tensor,
  verticalSlashPlan,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { check, expectedOn, expectResult, run } from '../support/library';
import type { Float } from '../support/numbers';
import type { MaskSpec, PlanSpec } from '../support/oracle';
import { planCase, planOf, planProblem, randomPlan, unreadPlan } from '../support/plans';
import { refused } from '../support/refusal';
import { interpreted, missing, schedule, schedules, title } from './support/device';
import { CAUSAL, poison, problemOf, type Spec } from './support/problems';
import { checkSchedules } from './support/repeated';

type Pattern = Partial<Omit<PlanSpec, 'lists'>> & { share?: number };

const TYPES: Float[] = ['float16', 'bfloat16', 'float32'];

function planFor(spec: Spec, { share = 0.4, holes = false, ...pattern }: Pattern): PlanSpec {
  const { queries, keys, seed = 1 } = spec;
  const geometry = { batch: 1, heads: 1, queryTile: 64, keyBlock: 64, causal: false, ...pattern, queries, keys };
  return randomPlan(seed, geometry, share, holes);
}

let turn = 0;
const next = () => schedule(schedules[turn++ % schedules.length]!);

/** A problem with a random plan among the masks against the oracle; with a seed, all tensors are views of others full of NaN. */
async function compare(spec: Spec, pattern: Pattern, embedSeed?: number, more: MaskSpec[] = []): Promise<void> {
  next();
  const problem = problemOf(spec);
  problem.masks = [...problem.masks!, ...more, { plan: planFor(spec, pattern) }];
  await check(problem, spec.dtype, embedSeed, 'cuda');
}

describe.skipIf(missing)(title('attention over sparse plans'), () => {
  describe.each(TYPES)('%s', (dtype) => {
    it.each([64, 128, 256])(
      'headDim %i: blocks of all sizes, causal or not, with holes or without',
      async (headDim) => {
        const spec: Spec = { dtype, headDim, queries: 83, keys: 141 };
        await compare(spec, { keyBlock: 16, queryTile: 32 });
        await compare(spec, { keyBlock: 128, queryTile: 128, causal: true, share: 0.7 });
        await compare(spec, { keyBlock: 2, queryTile: 16, causal: true, holes: true, share: 0.6 });
        // Not aligned, not as wide as the kernel is, and scores that are changed.
        const narrow: Spec = {
          ...spec,
          queries: 40,
          headDim: headDim - 3,
          valueDim: headDim - 7,
          softcap: 3,
          denseBias: 15,
        };
        await compare(narrow, { keyBlock: 32, holes: true }, 3);
      },
    );
  });

  it.each([16, 32, 64, 128])('of all blocks is dense attention, blocks of %i', async (keyBlock) => {
    for (const isCausal of [false, true]) {
      for (const [queries, keys] of [
        [70, 140],
        [1, 200],
      ] as const) {
        next();
        const spec: Spec = { dtype: 'float16', kvHeads: 2, group: 2, queries, keys, headDim: 32 };
        const problem = { ...problemOf(spec), masks: isCausal ? [CAUSAL] : [] };
        const want = expectedOn('cuda', problem, spec.dtype);
        const plan = planFor(spec, { keyBlock, causal: isCausal, share: 1 });
        expectResult(await run({ ...problem, masks: [{ plan }] }, spec.dtype, undefined, 'cuda'), want);
      }
    }
  });

  it('patterns of heads and batches, grouped heads that share a tile', async () => {
    const base: Spec = { dtype: 'float16', batch: 2, kvHeads: 2, group: 3, queries: 37, keys: 90, headDim: 24 };
    for (const heads of [1, 2, 6]) {
      for (const queryTile of [16, 64]) {
        await compare(base, { heads, queryTile, keyBlock: 8, batch: heads === 2 ? 1 : 2, causal: heads === 6 });
      }
    }
    // One query: heads of a group fill the rows.
    for (const heads of [1, 2, 6])
      await compare({ ...base, queries: 1, keys: 400 }, { heads, keyBlock: 16, causal: true });
  });

  it('long rows in parts, sinks and extra keys', async () => {
    const base: Spec = { dtype: 'float16', kvHeads: 2, group: 2, queries: 1, keys: 3000, headDim: 32, sinks: true };
    await compare(base, { heads: 2, keyBlock: 16, causal: true });
    await compare({ ...base, extra: 40, queries: 20, keys: 500 }, { keyBlock: 32, queryTile: 16 }, 5);
  });

  it('windows, biases, scales and caps beside a plan', async () => {
    const base: Spec = { dtype: 'float16', kvHeads: 1, group: 2, batch: 2, queries: 77, keys: 150, headDim: 40 };
    await compare({ ...base, mask: CAUSAL }, { keyBlock: 16 });
    // Full blocks enough for whole tiles, which windows cut.
    await compare({ ...base, mask: CAUSAL }, { keyBlock: 16, share: 1 });
    await compare({ ...base, mask: { left: 100, right: -1 } }, { keyBlock: 32, share: 1, causal: true });
    await compare({ ...base, mask: CAUSAL }, { keyBlock: 16, causal: true, share: 1 });
    await compare({ ...base, mask: { left: 30, right: 5 } }, { keyBlock: 32, causal: true, holes: true });
    await compare({ ...base, mask: { left: 1000, right: 1000 }, keyBias: 3 }, { keyBlock: 64 }, 2, [CAUSAL]);
    await compare(
      { ...base, keyBias: 1, denseBias: 7, scale: -0.2, softcap: 2, sinks: true },
      { keyBlock: 8, queryTile: 16 },
      4,
    );
    await compare({ ...base, scale: 0 }, { keyBlock: 4 });
  });

  it.skipIf(interpreted)('more than 32768 rows (minutes, if interpreted)', async () => {
    // With q = 0 the result is the mean of what is seen: the number of the one block.
    const [batch, heads, keys] = [33, 1000, 12];
    const lists = Array.from({ length: batch * heads }, (_, row) => [((row * 7919) % 11) % 3]);
    using plan = SparsePlan.fromBlocks(lists, { batch, heads, queries: 1, keys, keyBlock: 4, device: 'cuda' });
    const q = Tensor.zeros([batch, 1, heads, 1], { device: 'cuda' });
    const k = Tensor.zeros([batch, keys, 1, 1], { device: 'cuda' });
    const numbers = Float32Array.from({ length: batch * keys }, (_, n) => (n % keys) >> 2);
    const v = Tensor.from(numbers, [batch, keys, 1, 1], { device: 'cuda' });
    const out = await attention(q, k, v, { mask: plan }).out.read();
    expect(out.findIndex((value, row) => value !== lists[row]![0])).toBe(-1);
  });

  it('more queries than keys, and rows that list nothing', async () => {
    const base: Spec = { dtype: 'float32', queries: 130, keys: 60, headDim: 16, group: 2 };
    await compare(base, { causal: true, keyBlock: 16, queryTile: 32, share: 0.8 });
    await compare({ ...base, sinks: true }, { keyBlock: 16, queryTile: 16, share: 0 });
    await compare({ ...base, queries: 60 }, { keyBlock: 2, queryTile: 16, share: 0.02 });
  });

  it('a causal border one key before the end of a block, and at it', async () => {
    for (const keys of [125, 126, 127, 128]) {
      const spec: Spec = { dtype: 'float16', queries: 64, keys, headDim: 16 };
      await compare(spec, { keyBlock: 64, queryTile: 32, causal: true, share: 1 });
    }
  });

  it('several token axes', async () => {
    next();
    const flat = problemOf({ dtype: 'float16', queries: 24, keys: 24, headDim: 16, batch: 2 });
    const plan = planFor({ dtype: 'float16', queries: 24, keys: 24, headDim: 16 }, { queryTile: 16, keyBlock: 4 });
    for (const values of [flat.q, flat.k, flat.v]) values.shape = [2, 2, 3, 4, 1, 16];
    await check({ ...flat, masks: [{ plan }] }, 'float16', 7, 'cuda');
  });

  it('keys of no listed block, and those behind the causal border, have no influence, even NaN', async () => {
    const spec: Spec = { dtype: 'float16', queries: 60, keys: 160, headDim: 64 };
    const geometry = { batch: 1, heads: 1, queries: 60, keys: 160, queryTile: 32, keyBlock: 16, holes: false };
    for (const isCausal of [true, false]) {
      const plan: PlanSpec = {
        ...geometry,
        causal: isCausal,
        lists: [
          [0, 1, 4, 5, 7],
          [0, 7, 8],
        ],
      };
      for (let n = 0; n < 3; n++) {
        next();
        const problem = { ...problemOf(spec), masks: [{ plan }] };
        poison(problem, 32, 64);
        poison(problem, 96, 112);
        poison(problem, 144, 160);
        await check(problem, spec.dtype, n, 'cuda');
      }
    }
    // Queries 0 to 31 stand at 100 to 131: what is behind them is in a block that they list.
    next();
    const plan: PlanSpec = { ...geometry, queries: 32, keys: 132, causal: true, keyBlock: 64, lists: [[0, 2]] };
    const problem = { ...problemOf({ ...spec, queries: 32, keys: 132 }), masks: [{ plan }, { left: 40, right: -1 }] };
    poison(problem, 0, 60);
    await check(problem, spec.dtype, undefined, 'cuda');
  });

  it('random problems', async () => {
    const dimension = fc.integer({ min: 1, max: 140 });
    const cases = fc
      .record({
        dtype: fc.constantFrom<Float>(...TYPES),
        batch: fc.constantFrom(1, 2),
        kvHeads: fc.constantFrom(1, 2, 3),
        group: fc.constantFrom(1, 2, 5),
        queries: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 200 })),
        keys: fc.integer({ min: 1, max: 300 }),
        headDim: dimension,
        valueDim: dimension,
        sinks: fc.boolean(),
        seed: fc.nat(),
        queryTile: fc.constantFrom(16, 32, 64, 128),
        keyBlock: fc.constantFrom(2, 4, 16, 32, 64, 128),
        causal: fc.boolean(),
        patterns: fc.constantFrom('one', 'kvHeads', 'heads'),
        batched: fc.boolean(),
        share: fc.constantFrom(0.05, 0.3, 0.8, 1),
        holes: fc.constantFrom(false, false, true),
      })
      .filter((c) => c.batch * c.kvHeads * c.group * c.queries * c.keys * (c.headDim + c.valueDim) < 1.5e6);
    await fc.assert(
      fc.asyncProperty(cases, ({ queryTile, keyBlock, causal: isCausal, patterns, batched, share, holes, ...spec }) => {
        const heads = { one: 1, kvHeads: spec.kvHeads, heads: spec.kvHeads * spec.group }[patterns]!;
        const pattern = { queryTile, keyBlock, causal: isCausal, heads, batch: batched ? spec.batch : 1, share, holes };
        return compare(spec, pattern, spec.seed % 2 ? spec.seed : undefined);
      }),
      { numRuns: 20, seed: 29 },
    );
  });

  it('is the same bit for bit under every schedule', async () => {
    const spec: Spec = { dtype: 'float16', queries: 70, keys: 200, headDim: 64, group: 2 };
    const problem = {
      ...problemOf(spec),
      masks: [{ plan: planFor(spec, { keyBlock: 8, holes: true, causal: true }) }],
    };
    await checkSchedules(problem, spec.dtype);
  });
});

const close = (a: ArrayLike<unknown>, b: ArrayLike<unknown>) => {
  expect(a.length).toBe(b.length);
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [Number(a[i]), Number(b[i])];
    if (!Object.is(x, y)) expect(Math.abs(x - y)).toBeLessThan(1e-4);
  }
};

describe.skipIf(missing)(title('plans on a device'), () => {
  const words = { queries: 100, keys: 130, queryTile: 32, keyBlock: 16, heads: 2 };
  const spec = (given: Partial<PlanSpec> = {}, seed = 1) =>
    randomPlan(seed, { ...words, batch: 1, causal: false, ...given }, 0.4, given.holes);

  it.each([{}, { causal: true }, { holes: true }])(
    'are made, shown, combined and moved as on the CPU, %j',
    async (given) => {
      const [a, b] = [spec(given), spec(given, 2)];
      using left = planOf(a, 'cuda');
      using right = planOf(b, 'cuda');
      using x = planOf(a);
      using y = planOf(b);
      expect(left.device).toBe('cuda:0');
      await left.validate();
      expect(await left.density()).toBe(await x.density());
      // Only the CPU looks into bitmaps for which way to walk.
      const blockwise = given.holes ? ', or block by block where few queries of a row see each' : '';
      expect(await x.explain()).toBe(`${await left.explain()}${blockwise}`);
      using back = left.to('cpu');
      for (const [there, here] of [
        [left, x],
        [back, x],
        [left.union(right), x.union(y)],
        [left.intersect(right), x.intersect(y)],
      ]) {
        using shown = there!.toDense();
        using want = here!.toDense();
        expect(shown.device).toBe(there!.device);
        expect(shown.shape).toEqual(want.shape);
        expect(await shown.read()).toEqual(await want.read());
      }
    },
  );

  it('of rules give the same as on the CPU', async () => {
    const size = { queries: 64, keys: 96, queryTile: 32, keyBlock: 16, causal: true };
    const token = { queryTile: 16, keyBlock: 16 };
    const grid = [2, 4, 8] as const;
    for (const [tokens, make] of [
      [[64, 96], (device) => streamingPlan({ ...size, sink: 8, window: 24, device })],
      [[64, 96], (device) => dilatedPlan({ ...size, window: 16, device })],
      [[64, 96], (device) => verticalSlashPlan({ ...size, vertical: [[3, 40]], slash: [[0, 33]], device })],
      [[64, 64], (device) => radialPlan({ ...token, frames: 4, tokensPerFrame: 16, device })],
      [[64, 64], (device) => gridPlan({ ...token, shape: [...grid], box: [1, 4, 4], reach: [1, 0, 0], device })],
    ] as [number[], (device: 'cpu' | 'cuda') => SparsePlan][]) {
      next();
      const [queries, keys] = tokens as [number, number];
      const [q, k] = [queries, keys].map((n, seed) => Tensor.randn([1, n, 2, 16], { seed }));
      using own = make('cpu');
      using other = make('cuda');
      expect(other.device).toBe('cuda:0');
      expect(await other.toDense().read()).toEqual(await own.toDense().read());
      const here = attention(q!, k!, k!, { mask: own });
      const [qd, kd] = [q!.to('cuda'), k!.to('cuda')];
      const there = attention(qd, kd, kd, { mask: other });
      close(await there.out.read(), await here.out.read());
      close(await there.lse.read(), await here.lse.read());
    }
  });

  it('whose tensors hold what no plan can: as on the CPU', async () => {
    const g = { queries: 100, keys: 130, queryTile: 32, keyBlock: 16 };
    const q = Tensor.randn([1, 100, 2, 16], { seed: 1 });
    const k = Tensor.randn([1, 130, 2, 16], { seed: 2 });
    for (const [offsets, blocks] of [
      [
        [0, 3, 2, 4, 4],
        [0, 1, 2, 3],
      ],
      [
        [-5, 3, 3, 4, 4],
        [0, 1, 2, 3],
      ],
      [
        [0, 3, 3, 4, 2 ** 31 - 1],
        [0, 1, 2, 3],
      ],
      [
        [0, 2, 2, 2, 2],
        [1, 9],
      ],
      [
        [0, 0, 0, 2, 2],
        [1, -7],
      ],
      [
        [0, 2, 2, 2, 2],
        [4, 1],
      ],
    ] as const) {
      next();
      const [a, b] = [offsets, blocks].map((list) => Tensor.from(Int32Array.from(list), [list.length]));
      using plan = SparsePlan.fromBlocks({ offsets: a!, blocks: b! }, g);
      using moved = plan.to('cuda');
      const here = attention(q, k, k, { mask: plan });
      const there = attention(q.to('cuda'), k.to('cuda'), k.to('cuda'), { mask: moved });
      close(await there.lse.read(), await here.lse.read());
      close(await there.out.read(), await here.out.read());
    }
  });

  it('may be made, used and disposed of without a pause, on several streams and in graphs', async () => {
    using first = new Stream('cuda');
    using second = new Stream('cuda');
    const q = Tensor.randn([1, 100, 2, 16], { seed: 1, device: 'cuda' });
    const k = Tensor.randn([1, 130, 2, 16], { seed: 2, device: 'cuda' });
    const own = spec();
    const wanted = await attention(q, k, k, { mask: planOf(own, 'cuda') }).out.read();
    for (const [made, used] of [
      [first, second],
      [second, second],
    ] as const) {
      using plan = SparsePlan.fromBlocks(own.lists, { ...words, device: 'cuda', stream: made });
      const { out } = attention(q, k, k, { mask: plan, stream: used });
      plan.dispose();
      expect(await out.read()).toEqual(wanted);
    }
    using plan = planOf(own, 'cuda');
    let result = attention(q, k, k, { mask: plan, stream: first });
    using graph = first.capture(() => {
      result = attention(q, k, k, { mask: plan, stream: first });
    });
    plan.dispose();
    graph.launch(first);
    graph.launch(first);
    expect(await result.out.read()).toEqual(wanted);
  });

  it('of lists in tensors is where it is wanted', () => {
    const [offsets, blocks] = [Int32Array.of(0, 1), Int32Array.of(0)].map((list) => Tensor.from(list, [list.length]));
    const g = {
      queries: 16,
      keys: 16,
      queryTile: 16,
      keyBlock: 16,
      device: 'cuda',
      stream: new Stream('cuda'),
    } as const;
    expect(SparsePlan.fromBlocks({ offsets: offsets!, blocks: blocks! }, g).device).toBe('cuda:0');
  });

  it('of a predicate are made by the stream that is given', async () => {
    const sees = (query: number, key: number) => (query + key) % 3 > 0;
    using stream = new Stream('cuda');
    using made = SparsePlan.fromPredicate(sees, { ...words, device: 'cuda', stream });
    using wanted = SparsePlan.fromPredicate(sees, words);
    using shown = made.toDense();
    using want = wanted.toDense();
    expect(await shown.read()).toEqual(await want.read());
    // Only the stream that captures refuses what cannot be captured.
    const make = () => {
      SparsePlan.fromPredicate(sees, { ...words, device: 'cuda', stream });
    };
    expect(refused(() => stream.capture(make))).toMatch(/^ERR_OPTION capture: .*pageable/);
    using other = new Stream();
    expect(refused(() => SparsePlan.fromPredicate(sees, { ...words, device: 'cuda', stream: other }))).toBe(
      'ERR_DEVICE SparsePlan.fromPredicate: stream is on cpu but the plan is to be on cuda:0; give a stream of that device',
    );
  });

  it('that do not go together are refused before anything is enqueued', async () => {
    using stream = new Stream('cuda');
    using a = planOf(spec(), 'cuda');
    using b = planOf(spec({ keyBlock: 32 }), 'cuda');
    using gone = planOf(spec(), 'cuda');
    await Promise.all([a, b, gone].map((plan) => plan.validate())); // their own work is done
    gone.dispose();
    const captured = () => {
      // What is enqueued here is recorded, and keeps its memory.
      const before = memoryStats('cpu').live;
      expect(refused(() => a.union(b, { stream }))).toMatch(/^ERR_OPTION union: keyBlock of one plan is 16.* 32/);
      expect(refused(() => a.intersect(gone, { stream }))).toMatch(/^ERR_DISPOSED/);
      expect(refused(() => a.union(a, { stream }))).toMatch(/^ERR_OPTION capture: union .*outside of capture/);
      expect(memoryStats('cpu').live).toBeLessThanOrEqual(before);
      throw new Error('no graph is wanted');
    };
    expect(() => stream.capture(captured)).toThrow('no graph is wanted');
    using both = a.union(a, { stream });
    using shown = both.toDense();
    using want = a.toDense();
    expect(await shown.read()).toEqual(await want.read());
  });

  it('beside a neighborhood that hides nothing are as without it', async () => {
    const x = Tensor.randn([1, 70, 2, 16], { seed: 1, device: 'cuda' });
    using plan = planOf(spec({ queries: 70, keys: 70 }), 'cuda');
    const [one, two] = [plan, [plan, neighborhood({ window: 70 })]].map((mask) => attention(x, x, x, { mask }));
    expect(await two!.out.read()).toEqual(await one!.out.read());
    expect(await two!.lse.read()).toEqual(await one!.lse.read());
    const hides = neighborhood([{ window: -1 }, { window: 69 }]);
    expect(refused(() => attention(x, x, x, { mask: [plan, hides] }))).toMatch(/^ERR_OPTION .*from head to head/);
  });

  it('beside neighborhoods show what both do', async () => {
    const cases = planCase.filter(({ layout, formula, dim, vDim }) => {
      const settings = layout.masks.flatMap((mask) => ('heads' in mask ? [mask.heads.length] : []));
      return settings.length > 0 && settings.every((n) => n === 1) && !formula?.kind && Math.max(dim, vDim) <= 256;
    });
    await fc.assert(
      fc.asyncProperty(cases, fc.option(fc.nat(), { nil: undefined }), async (c, embedSeed) => {
        next();
        await check(planProblem(c), c.dtype, embedSeed, 'cuda');
      }),
      { numRuns: 15, seed: 29 },
    );
  });

  it('beside neighborhoods follow their inputs in a graph', async () => {
    const [q, k] = [1, 2].map((seed) => Tensor.randn([1, 6, 8, 2, 16], { seed, device: 'cuda' })) as [Tensor, Tensor];
    const given = Tensor.empty([1, 6, 8, 2, 16], { dtype: 'float32', pinned: true });
    const geometry = { queries: 48, keys: 48, queryTile: 16, keyBlock: 8, device: 'cuda' } as const;
    using plan = SparsePlan.fromBlocks([[0, 2, 3], [1, 2, 5], [4]], geometry);
    const mask = [plan, neighborhood({ window: [3, 4], dilation: [1, 2] })];
    using stream = new Stream('cuda');
    let out: Tensor | undefined;
    using graph = stream.capture(() => {
      out = attention(q, k, given.to({ device: 'cuda', stream }), { mask, stream }).out;
    });
    for (const seed of [3, 4]) {
      next();
      const v = Tensor.randn([1, 6, 8, 2, 16], { seed });
      given.data.set(v.data);
      graph.launch();
      const want = attention(q, k, v.to('cuda'), { mask });
      expect(await out!.read()).toEqual(await want.out.read());
    }
  });

  it('what does not run is refused', () => {
    const g = { queries: 16, keys: 16, queryTile: 16, keyBlock: 16 };
    const x = Tensor.zeros([1, 16, 2, 8], { device: 'cuda' });
    const plan = unreadPlan([[0]], { ...g, device: 'cuda' });
    const attend = (options: AttentionOptions) => refused(() => attention(x, x, x, options));
    expect(attend({ mask: [plan, neighborhood([{ window: 3 }, { window: 5 }])] })).toMatch(
      /^ERR_OPTION .*from head to head/,
    );
    expect(attend({ mask: plan, bias: alibi() })).toMatch(/^ERR_OPTION .*keyBias/);
    expect(attend({ mask: [plan, plan] })).toMatch(/^ERR_OPTION .*more than one/);
    expect(attend({ mask: plan.to('cpu') })).toMatch(/^ERR_DEVICE .*plan is on cpu but q is on cuda:0/);
    const [offsets, blocks] = [[0, 1], [0]].map((list) =>
      Tensor.from(Int32Array.from(list), [list.length], { device: 'cuda' }),
    );
    expect(refused(() => SparsePlan.fromBlocks({ offsets: offsets!, blocks: blocks! }, g))).toMatch(
      /^ERR_OPTION .*CPU/,
    );
    expect(refused(() => plan.to('cuda:9'))).toMatch(/^ERR_DEVICE/);
    expect(refused(() => plan.to('cuda', { stream: new Stream() }))).toMatch(/^ERR_DEVICE/);
    expect(refused(() => plan.to('gpu' as 'cuda'))).toMatch(/^ERR_DEVICE/);
    expect(refused(() => plan.union(plan.to('cpu')))).toMatch(/^ERR_DEVICE/);
    plan.dispose();
    expect(refused(() => plan.to('cpu'))).toMatch(/^ERR_DISPOSED/);
    expect(attend({ mask: [plan, causal()] })).toMatch(/^ERR_DISPOSED/);
  });
});

describe.skipIf(missing)(title('a neighborhood that hides nothing'), () => {
  it('is as none beside biases by formula, of every headDim', async () => {
    const x = Tensor.randn([1, 20, 2, 72], { seed: 1, device: 'cuda' });
    const bias = alibi();
    const [one, two] = [[], neighborhood({ window: 20 })].map((mask) => attention(x, x, x, { mask, bias }));
    expect(await two!.out.read()).toEqual(await one!.out.read());
    expect(await two!.lse.read()).toEqual(await one!.lse.read());
    const hides = neighborhood([{ window: -1 }, { window: 19 }]);
    expect(refused(() => attention(x, x, x, { mask: hides, bias }))).toMatch(/^ERR_OPTION bias: beside a neighborhood/);
  });
});
