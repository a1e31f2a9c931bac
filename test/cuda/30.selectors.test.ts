// Selectors on a CUDA device make the plans that they make on the CPU: of small integers, whose products are exact, and so
// are ties. A valid plan is known by what it shows, and by its levels: its entries have one order and one kind each.
import './support/device'; // before node-attention
import fc from 'fast-check';
import {
  attention,
  HipState,
  hipPlan,
  pagePlan,
  pooledPlan,
  type SelectorOptions,
  type SparsePlan,
  Stream,
  Tensor,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { makeWithLevels } from '../support/cached';
import { type Float, uniform } from '../support/numbers';
import { refused } from '../support/refusal';
import { meansOf } from '../support/words';
import { interpreted, launches, missing, schedule, schedules, title } from './support/device';

type Select = (q: Tensor, k: Tensor, options: SelectorOptions) => SparsePlan;
type Options = SelectorOptions & { keyBlock: number };

const TYPES: Float[] = ['float32', 'float16', 'bfloat16'];

let turn = 0;
const next = () => schedule(schedules[turn++ % schedules.length]!);

/** Integers from -4 to 4. */
function integers(seed: number, size: number): Float32Array {
  const random = uniform(seed);
  return Float32Array.from({ length: size }, () => Math.floor(random() * 9) - 4);
}

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

const packed = (seed: number, shape: number[], dtype: Float) =>
  Tensor.from(integers(seed, sizeOf(shape)), shape, { dtype });

/** The same, [batch, ...tokens, heads, dim], with heads before the tokens and the tokens in reverse, amid NaN. */
function apart(seed: number, shape: number[], dtype: Float, device: 'cpu' | 'cuda'): Tensor {
  const last = shape.length - 1;
  const wide = shape.map((n, axis) => (axis === 0 || axis === last ? n : n + 2));
  const tokens = Array.from({ length: last - 2 }, (_, i) => last - 2 - i);
  const order = [0, last - 1, ...tokens, last];
  const all = Tensor.zeros(order.map((axis) => wide[axis]!));
  all.data.fill(Number.NaN);
  const view = (of: Tensor) =>
    of
      .permute(...order.map((_, axis) => order.indexOf(axis)))
      .slice(...shape.map((n, axis): [number, number] => (wide[axis] === n ? [0, n] : [1, n + 1])));
  const { strides } = view(all);
  const first = shape.reduce((at, n, axis) => at + (wide[axis] === n ? 0 : strides[axis]!), 0);
  integers(seed, sizeOf(shape)).forEach((value, n) => {
    let at = first;
    for (let axis = last, rest = n; axis >= 0; axis--) {
      at += (rest % shape[axis]!) * strides[axis]!;
      rest = Math.floor(rest / shape[axis]!);
    }
    all.data[at] = value;
  });
  return view(all.to({ dtype, device }));
}

async function shown(plan: SparsePlan): Promise<Uint8Array> {
  await plan.validate();
  using copy = plan.to('cpu');
  using dense = copy.toDense();
  return (await dense.read()) as Uint8Array;
}

type Inputs = [q: Tensor, k: Tensor];

/** The plans of the CPU and of the device. */
async function compare(make: Select, here: Inputs, there: Inputs, options: SelectorOptions): Promise<void> {
  next();
  using expected = make(...here, options);
  using plan = make(...there, options);
  expect(plan.device).toBe('cuda:0');
  const [got, want] = [await shown(plan), await shown(expected)];
  const wrong = Buffer.compare(got, want) === 0 ? -1 : got.findIndex((value, i) => value !== want[i]);
  expect(wrong, `the first pair that one of them alone shows, of ${plan.queries} x ${plan.keys}`).toBe(-1);
  using back = plan.to('cpu');
  expect(await back.explain()).toBe(await expected.explain());
  expect(await meansOf(back)).toEqual(await meansOf(expected));
}

const toDevice = ([q, k]: Inputs): Inputs => [q.to('cuda'), k.to('cuda')];

/**
 * [name, selector, whether means of keys, or of the queries of a tile, have to be exact, and how many rows at most choose:
 * the interpreter takes its time for a block of threads]
 */
const selectors: [string, Select, 'keys' | 'queries' | '', number?][] = [
  ['hipPlan', hipPlan, ''],
  ['hipPlan, first', (q, k, o) => hipPlan(q, k, { ...o, representative: 'first' }), ''],
  [
    'hipPlan, stages',
    (q, k, o) => hipPlan(q, k, { ...o, stages: [{ chunk: 256, keep: 300 }, { chunk: 128 }, { chunk: o.keyBlock! }] }),
    '',
  ],
  [
    'hipPlan, eight stages',
    (q, k, o) => {
      const above = [7, 6, 5, 4, 3, 2, 1].map((n) => ({ chunk: o.keyBlock! << n, keep: 100 << n }));
      return hipPlan(q, k, { ...o, stages: [...above, { chunk: o.keyBlock! }] });
    },
    '',
  ],
  ['hipPlan, one stage', (q, k, o) => hipPlan(q, k, { ...o, stages: [{ chunk: o.keyBlock! }] }), ''],
  ['hipPlan, hip1', (q, k, o) => hipPlan(q, k, { ...o, variant: 'hip1' }), ''],
  ['hipPlan, hip1, first', (q, k, o) => hipPlan(q, k, { ...o, variant: 'hip1', representative: 'first' }), ''],
  ['pagePlan', pagePlan, ''],
  ['pooledPlan', pooledPlan, 'keys'],
  ['pooledPlan, max', (q, k, o) => pooledPlan(q, k, { ...o, pooling: 'max' }), ''],
  ['pooledPlan, min, mean', (q, k, o) => pooledPlan(q, k, { ...o, pooling: 'min', queries: 'mean' }), 'queries'],
  ['pooledPlan, max, max', (q, k, o) => pooledPlan(q, k, { ...o, pooling: 'max', queries: 'max' }), ''],
  ['pooledPlan, least queries', (q, k, o) => pooledPlan(q, k, { ...o, queries: 'min' }), 'keys'],
  ['pooledPlan, topP', (q, k, o) => pooledPlan(q, k, { ...o, budget: undefined, topP: 0.8 }), 'keys'],
  ['pooledPlan, threshold', (q, k, o) => pooledPlan(q, k, { ...o, pooling: 'max', threshold: 0.02 }), ''],
  [
    'pooledPlan, topP and threshold',
    (q, k, o) => pooledPlan(q, k, { ...o, pooling: 'max', topP: 0.9, threshold: 0.01 }),
    '',
  ],
  [...makeWithLevels, 'keys'],
  ['pooledPlan, own', (q, k, o) => pooledPlan(q, k, { ...o, queries: 'own' }), 'keys', 300],
  [
    'pooledPlan, own, topP and threshold',
    (q, k, o) => pooledPlan(q, k, { ...o, queries: 'own', pooling: 'min', topP: 0.9, threshold: 0.01 }),
    '',
    300,
  ],
];

const power = (n: number) => (n & (n - 1)) === 0; // 0 too

const shapes = fc
  .record({
    seed: fc.nat(),
    dtype: fc.constantFrom(...TYPES),
    batch: fc.constantFrom(1, 2),
    kvHeads: fc.constantFrom(1, 2, 3),
    group: fc.constantFrom(1, 2, 4),
    queries: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 200 })),
    keys: fc.oneof(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 100, max: 1200 })),
    dim: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(64, 70, 128)),
    budget: fc.integer({ min: 0, max: 200 }),
    own: fc.boolean(),
    causal: fc.boolean(),
    share: fc.constantFrom('group' as const, 'all' as const, 'none' as const),
    sink: fc.constantFrom(0, 10, 64),
    window: fc.constantFrom(0, 1, 33, 256),
    queryTile: fc.constantFrom(16, 32, 64, 128),
    keyBlock: fc.constantFrom(2, 4, 8, 16, 32, 64),
  })
  .filter((s) => s.batch * s.kvHeads * s.group * s.queries * s.dim * (s.keys / s.keyBlock) < 4e6)
  // Means of fours are exact.
  .filter((s) => (s.queries % s.queryTile) % 4 !== 3);

type Shape = typeof shapes extends fc.Arbitrary<infer T> ? T : never;

const patternsOf = (s: Shape) => ({ all: 1, group: s.kvHeads, none: s.kvHeads * s.group })[s.share];

function optionsOf(s: Shape): Options {
  const patterns = patternsOf(s);
  return {
    budget: s.own ? Array.from({ length: patterns }, (_, i) => (s.budget * i) % 130) : s.budget,
    causal: s.causal,
    share: s.share,
    always: { sink: s.sink, window: s.window },
    queryTile: s.queryTile,
    keyBlock: s.keyBlock,
  };
}

const inputsOf = (s: Shape): Inputs => [
  packed(s.seed, [s.batch, s.queries, s.kvHeads * s.group, s.dim], s.dtype),
  packed(s.seed + 1, [s.batch, s.keys, s.kvHeads, s.dim], s.dtype),
];

describe.skipIf(missing)(title('selectors on a device'), () => {
  describe.each(selectors)('%s', (_, make, exact, most = Number.POSITIVE_INFINITY) => {
    it('makes the plan of the CPU', async () => {
      await fc.assert(
        fc.asyncProperty(
          shapes.filter(
            (s) =>
              s.batch * patternsOf(s) * s.queries <= most &&
              (exact !== 'keys' || power(s.keys % s.keyBlock)) &&
              (exact !== 'queries' || power(s.queries % s.queryTile)),
          ),
          (s) => {
            const inputs = inputsOf(s);
            return compare(make, inputs, toDevice(inputs), optionsOf(s));
          },
        ),
        { numRuns: 25, seed: 30 },
      );
    });

    it('takes any strides and several token axes', async () => {
      for (const [tokens, dtype] of [
        [[64], 'float32'],
        [[4, 16], 'bfloat16'],
        [[2, 4, 8], 'float16'],
      ] as [number[], Float][]) {
        const options = { budget: 8, causal: true, queryTile: 16, keyBlock: 4, always: { sink: 1, window: 5 } };
        const views = (device: 'cpu' | 'cuda'): Inputs => [
          apart(3, [2, ...tokens, 4, 12], dtype, device),
          apart(4, [2, ...tokens, 2, 12], dtype, device),
        ];
        await compare(make, views('cpu'), views('cuda'), options);
      }
    });

    it('survives numbers that are none', async () => {
      next();
      const data = new Float32Array(500 * 4).map((_, i) => (i % 7 === 0 ? Number.NaN : i % 5 === 0 ? Infinity : 1));
      const inputs: Inputs = [packed(1, [1, 20, 1, 4], 'float32'), Tensor.from(data, [1, 500, 1, 4])];
      await compare(make, inputs, toDevice(inputs), { budget: 40, keyBlock: 8, always: { sink: 0, window: 8 } });
    });

    it('follows its inputs in a graph, and is the same under every schedule', async () => {
      using stream = new Stream('cuda');
      const options = { budget: 40, causal: true, keyBlock: 8, queryTile: 16, always: { sink: 0, window: 8 } };
      const shape = [1, 300, 2, 16];
      const q = packed(1, [1, 20, 2, 16], 'float16');
      const v = Tensor.randn(shape, { seed: 5, dtype: 'float16', device: 'cuda' });
      const given = Tensor.empty(shape, { dtype: 'float16', pinned: true });
      const qd = q.to('cuda');
      let lse: Tensor | undefined;
      using graph = stream.capture(() => {
        const k = given.to({ device: 'cuda', stream });
        lse = attention(qd, k, v, { mask: make(qd, k, { ...options, stream }), stream }).lse;
      });
      for (const [n, one] of schedules.entries()) {
        schedule(one);
        const k = packed(10 + (n % 2), shape, 'float16');
        (given.data as Uint16Array).set((await k.read()) as Uint16Array);
        graph.launch(stream);
        using plan = make(q, k, options);
        const want = attention(qd, k.to('cuda'), v, { mask: plan.to('cuda') });
        expect(await lse!.read()).toEqual(await want.lse.read());
      }
    });
  });

  it.each([{}, { topP: 0.7, scale: 0.1 }])('takes rows that are pooled already, %j', async (more) => {
    const [queries, keys, queryTile, keyBlock] = [150, 333, 32, 8];
    const rows = (tokens: number, each: number) => Math.ceil(tokens / each);
    for (const dtype of TYPES) {
      const inputs: Inputs = [
        packed(1, [2, rows(queries, queryTile), 4, 12], dtype),
        packed(2, [2, rows(keys, keyBlock), 2, 12], dtype),
      ];
      const select: Select = (q, k, o) => pooledPlan(q, k, { ...o, ...more, pooled: { queries, keys } });
      const options = { budget: 80, causal: true, queryTile, keyBlock, always: { sink: 8, window: 16 } };
      await compare(select, inputs, toDevice(inputs), options);
    }
  });

  it.each(selectors)('%s: a budget of nothing', async (_, make) => {
    const inputs: Inputs = [packed(1, [1, 40, 2, 8], 'float32'), packed(2, [1, 70, 2, 8], 'float32')];
    for (const causal of [true, false]) {
      const options = { budget: 0, causal, queryTile: 16, keyBlock: 8, always: { sink: 0, window: 0 } };
      await compare(make, inputs, toDevice(inputs), options);
    }
  });

  it('gives no level to blocks that the causal border cuts', async () => {
    const inputs: Inputs = [packed(1, [1, 120, 2, 6], 'float32'), packed(2, [1, 160, 2, 6], 'float32')];
    for (const budget of [0, 16, 64]) {
      const options = { budget, causal: true, queryTile: 32, keyBlock: 16, always: { sink: 0, window: 0 } };
      const make: Select = (q, k, o) => pooledPlan(q, k, { ...o, pooling: 'max', levels: [32, 16, 160] });
      await compare(make, inputs, toDevice(inputs), options);
    }
  });

  it('gives each of more than a thousand patterns its own budget', async () => {
    const inputs: Inputs = [packed(1, [1, 1, 1100, 3], 'float32'), packed(2, [1, 40, 1100, 3], 'float32')];
    const budget = Array.from({ length: 1100 }, (_, head) => head % 50);
    const select: Select = (q, k, o) => hipPlan(q, k, { ...o, stages: [{ chunk: 4 }] });
    await compare(select, inputs, toDevice(inputs), { budget, keyBlock: 4, always: { sink: 0, window: 5 } });
  });

  it('selects for more rows than have memory at once', async () => {
    const inputs: Inputs = [
      Tensor.randn([34, 128, 8, 256], { seed: 1, dtype: 'float16' }),
      Tensor.randn([34, 48, 1, 256], { seed: 2, dtype: 'float16' }),
    ];
    const options = { budget: 16, queryTile: 128, always: { sink: 0, window: 0 } };
    await compare(pagePlan, inputs, toDevice(inputs), options);
  });

  it('forgets what queries of other rows have selected, where not all have memory at once', async () => {
    const inputs: Inputs = [
      Tensor.zeros([1, 640, 128, 256], { dtype: 'float16' }),
      Tensor.zeros([1, 64, 2, 256], { dtype: 'float16' }),
    ];
    const select: Select = (q, k, o) => pooledPlan(q, k, { ...o, queries: 'own' });
    // Rows of the one pattern list all blocks, and then give their memory to those of the other.
    const options = { budget: [64, 0], queryTile: 128, keyBlock: 4, always: { sink: 0, window: 9 } };
    await compare(select, inputs, toDevice(inputs), options);
  });

  it.each(selectors.slice(0, 16))('%s: decoding needs no kernel that finds where rows begin', async (_, make) => {
    // Shares of the softmax leave some rows with fewer blocks than others.
    const inputs: Inputs = [packed(1, [2, 1, 4, 12], 'float16'), packed(2, [2, 900, 2, 12], 'float16')];
    const options = { budget: 100, causal: true, keyBlock: 4, always: { sink: 8, window: 16 } };
    const before = ['places_kernel', 'close_up_kernel', 'choose_kernel'].map(launches);
    await compare(make, inputs, toDevice(inputs), options);
    if (!interpreted) return;
    const [places, closed, chosen] = ['places_kernel', 'close_up_kernel', 'choose_kernel'].map(launches);
    expect([places! - before[0]!, closed! - before[1]!]).toEqual([0, 0]);
    expect(chosen).toBeGreaterThan(before[2]!);
  });

  it.skipIf(interpreted)('selects for more than 32768 rows (minutes, if interpreted)', async () => {
    const inputs: Inputs = [packed(1, [33, 1, 1000, 2], 'float16'), packed(2, [33, 12, 1000, 2], 'float16')];
    const options = { budget: 4, keyBlock: 4, queryTile: 16, always: { sink: 0, window: 0 } };
    await compare(pagePlan, inputs, toDevice(inputs), options);
  });

  it('follows a HipState as on the CPU', async () => {
    const [heads, kvHeads, dim, capacity] = [4, 2, 16, 900];
    const tokens = packed(1, [1, capacity, kvHeads, dim], 'float16');
    const queries = packed(2, [1, capacity, heads, dim], 'float16');
    const keys = (length: number) => tokens.slice([0, 1], [0, length], [0, kvHeads], [0, dim]);
    const newest = (length: number) => queries.slice([0, 1], [length - 1, length], [0, heads], [0, dim]);
    const options = { budget: 64, causal: true, always: { sink: 8, window: 16 } };
    for (const refresh of [
      [4, 2, 1],
      [5, 5, 5],
      [6, 3, 2],
    ]) {
      using here = new HipState({ refresh });
      using there = new HipState({ refresh });
      for (let length = 700; length < 713; length++) {
        const select: Select = (q, k, o) => hipPlan(q, k, { ...o, state: q.device === 'cpu' ? here : there });
        const inputs: Inputs = [newest(length), keys(length)];
        await compare(select, inputs, toDevice(inputs), options);
      }
      expect(there.runs).toEqual(here.runs);
    }
  });

  it('refuses what it does not run, before anything is enqueued', () => {
    const tensor = (dim: number) => Tensor.zeros([1, 64, 2, dim], { device: 'cuda' });
    expect(refused(() => hipPlan(tensor(257), tensor(257), { budget: 16 }))).toMatch(/^ERR_SHAPE headDim of q is 257/);
  });
});
