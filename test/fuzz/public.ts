// The public interface, called with what fits and with what does not.

import { types } from 'node:util';
import fc from 'fast-check';
import * as api from 'node-attention';
import { type Call, invoke, invokeWith, method, nested, nothing } from './call';
import {
  type Any,
  arrays,
  hostile,
  list,
  mostly,
  oneOf,
  type Pool,
  picked,
  record,
  shape,
  type Value,
  value,
} from './value';

const { Event, Graph, HipState, KvCache, KvIndex, SparsePlan, Stream, Tensor } = api;
type Device = api.Device;
const maybe = (fitting: fc.Arbitrary<Value>) => fc.oneof(nothing, mostly(fitting));
const optional = (entries: Record<string, fc.Arbitrary<Value>>, required: string[] = []) => {
  const misspelled = { ...entries, Dtype: oneOf(1), [Symbol('s') as Any]: oneOf(1) };
  return fc.oneof(
    { weight: 12, arbitrary: record(entries, required) },
    { weight: 1, arbitrary: record(misspelled, required) },
    { weight: 1, arbitrary: hostile },
    { weight: 2, arbitrary: nothing },
  );
};

const dtype = mostly(oneOf('float32', 'float16', 'bfloat16', 'int32', 'uint8', 'int64'));
const data = mostly(fc.constantFrom(...arrays), 20);
const tensor = mostly(picked('tensor'), 20);
const stream = mostly(picked('stream'), 20);
const self = (kind: string) => mostly(picked(kind), 30);
const small = mostly(oneOf(-1, 0, 1, 2, 3, 4, 5, 7, 8));
const perAxis = (one: fc.Arbitrary<Value>) => fc.oneof(one, list(fc.array(one, { maxLength: 4 })));
const setting = {
  window: perAxis(small),
  stride: perAxis(mostly(oneOf(1, 1, 1, 2, 3))),
  dilation: perAxis(mostly(oneOf(1, 1, 1, 2))),
  causal: perAxis(mostly(oneOf(true, false))),
  wrap: perAxis(mostly(oneOf(true, false))),
};
const keyBlock = mostly(oneOf(2, 4));
const geometry = { queries: small, keys: small, queryTile: mostly(oneOf(16)), keyBlock };
const lines = mostly(list(fc.array(small, { maxLength: 3 })));
/** Of a grid, in likely orders. */
const axes = mostly(oneOf([0], [0, 1], [1, 0], [2, 0, 1], [1], [2, 2], [4, 4], [1, 2, 2], [8]), 20);
const tokens = mostly(picked('grid', 'q', 'tensor'), 20);
const several = (one: fc.Arbitrary<Value>) => mostly(fc.oneof(one, list(fc.array(one, { maxLength: 3 }))));

export function publicCalls(devices: string[]): fc.Arbitrary<Call> {
  const device = mostly(oneOf(...devices));
  const attentionOptions = optional({
    mask: several(picked('mask')),
    bias: several(picked('bias')),
    scale: mostly(oneOf(0, 0.5, -0.25, 1e39)),
    softcap: mostly(oneOf(1, 30, 0, 1e-50)),
    sinks: mostly(picked('sinks', 'tensor')),
    extra: optional({ k: picked('k', 'tensor'), v: picked('v', 'tensor') }),
    cuSeqlens: optional({ q: picked('offsets', 'tensor'), k: picked('offsets', 'tensor') }),
    precision: mostly(oneOf('float32', 'tf32')),
    out: picked('out', 'tensor'),
    stream,
  });
  const same = (kind: string) => fc.tuple(picked(kind)).map(([one]) => [one, one, one] as const);
  const qkv = fc.oneof(
    { weight: 4, arbitrary: fc.tuple(picked('q'), picked('k'), picked('v')) },
    { weight: 4, arbitrary: same('grid') },
    { weight: 2, arbitrary: same('tensor') },
    { weight: 2, arbitrary: fc.tuple(tensor, tensor, tensor) },
    { weight: 2, arbitrary: fc.tuple(picked('q'), picked('cache')) },
  );
  const attend = invokeWith(
    'attention',
    api.attention,
    fc.tuple(qkv, attentionOptions).map(([given, options]) => [...given, options]),
  );
  const part = fc.oneof(picked('part'), record({ out: tensor, lse: tensor }), hostile);

  // Of so many options few may be odd, or none of the calls would get as far as selecting.
  const likely = (fitting: fc.Arbitrary<Value>) => mostly(fitting, 40);
  const few = likely(oneOf(0, 1, 2, 3, 5, 7, 8));
  const selectorOptions = {
    budget: fc.oneof(few, list(fc.tuple(few, few))), // two key heads
    causal: likely(oneOf(true, false)),
    always: optional({ sink: few, window: few }),
    queryTile: likely(oneOf(16, 64)),
    keyBlock: likely(oneOf(2, 16)),
    estimate: likely(oneOf(true, false)),
    stream: likely(stream),
  };
  const share = likely(oneOf('group', 'group', 'all', 'none'));
  const stages = fc.array(record({ chunk: few, keep: few }, ['chunk']), { maxLength: 3 });
  const hipOptions = {
    variant: likely(oneOf('infinite', 'hip1')),
    representative: likely(oneOf('center', 'first')),
    stages: fc.oneof(nothing, likely(oneOf([{ chunk: 4, keep: 4 }, { chunk: 2 }])), list(stages)),
  };
  const cutOptions = {
    scale: likely(oneOf(0.5, 1, 3)),
    topP: likely(oneOf(0, 0.3, 0.9, 1)),
    threshold: likely(oneOf(0, 0.1, 1)),
  };
  const pooledOptions = {
    pooling: likely(oneOf('mean', 'max', 'min')),
    queries: likely(oneOf('each', 'mean', 'own')),
    ...cutOptions,
  };
  /** What is pooled already, and says so. */
  const rowOptions = {
    pooled: optional({ queries: likely(oneOf(5, 16)), keys: likely(oneOf(7, 8)) }, ['queries', 'keys']),
    queryTile: likely(oneOf(16)),
    keyBlock: likely(oneOf(2)),
  };
  /** Of one type, as they are added to the pool together. */
  const pair = (q: string, k: string) =>
    fc.nat({ max: 40 }).map((n) => [q, k].map((kind) => value(`${kind}#${n}`, (pool) => pool.pick(kind, n))));
  const selecting = (
    name: string,
    select: (...args: Any[]) => Any,
    options: Record<string, fc.Arbitrary<Value>>,
    required: string[] = [],
    rows = pair('q', 'k'),
  ): [number, fc.Arbitrary<Call>] => {
    const inputs = fc.oneof(
      { weight: 8, arbitrary: rows },
      { weight: 2, arbitrary: fc.tuple(picked('q'), picked('cache')) },
      { weight: 1, arbitrary: fc.tuple(tensor, tensor) },
    );
    const given = fc.tuple(inputs, optional(options, required));
    return [
      1,
      invokeWith(
        name,
        select,
        given.map(([qk, own]) => [...qk, own]),
      ),
    ];
  };
  const topK = mostly(fc.oneof(oneOf(0, 1, 5), fc.constant(value('Infinity', () => Number.POSITIVE_INFINITY))));

  const work: [number, fc.Arbitrary<Call>][] = [
    [10, attend],
    [3, invoke('merge', api.merge, mostly(list(fc.array(part, { maxLength: 4 }))), optional({ out: tensor, stream }))],
    [
      4,
      method(
        self('tensor'),
        Tensor,
        'to',
        fc.oneof(dtype, device, optional({ device, dtype, stream }), mostly(oneOf('cpu', 'float32'))),
      ),
    ],
  ];
  const calls: [number, fc.Arbitrary<Call>][] = [
    ...work,
    [3, invoke('Tensor.from', Tensor.from, data, shape, optional({ dtype, device }))],
    [2, invoke('Tensor.wrap', Tensor.wrap, data, shape, optional({ dtype, device }))],
    [
      2,
      invoke(
        'Tensor.empty',
        Tensor.empty,
        shape,
        optional({ dtype, device, pinned: mostly(oneOf(true, false)) }, ['dtype']),
      ),
    ],
    [2, invoke('Tensor.zeros', Tensor.zeros, shape, optional({ dtype, device }))],
    [2, invoke('Tensor.randn', Tensor.randn, shape, optional({ seed: small, dtype, device }, ['seed']))],
    [1, invoke('new Tensor', (a, b) => new (Tensor as Any)(a, b), hostile, hostile)],
    [2, method(self('tensor'), Tensor, 'reshape', shape)],
    [2, method(self('tensor'), Tensor, 'permute', ...Array(5).fill(fc.oneof(nothing, small)))],
    [2, method(self('tensor'), Tensor, 'slice', ...Array(3).fill(maybe(list(fc.array(small, { maxLength: 3 })))))],
    [3, method(self('tensor'), Tensor, 'data')],
    [3, method(self('tensor'), Tensor, 'read')],
    [1, method(self('tensor'), Tensor, 'byteLength')],
    [1, method(self('tensor'), Tensor, 'disposed')],
    [2, method(self('tensor'), Tensor, 'dispose')],
    [1, method(self('tensor'), Tensor, Symbol.dispose)],
    [1, invoke('assign to', assign, self('tensor'), oneOf('shape', 'strides', 'dtype', 'device'), hostile)],
    [
      1,
      invoke('give away the memory of', giveAway, self('tensor'), oneOf('transfer', 'transferToFixedLength', 'clone')),
    ],

    [1, invoke('new Stream', (name) => new Stream(name), device)],
    [1, method(self('stream'), Stream, 'device')],
    [1, method(self('stream'), Stream, 'synchronize')],
    [2, method(self('stream'), Stream, 'record')],
    [2, method(self('stream'), Stream, 'wait', mostly(picked('event')))],
    [
      2,
      nested(
        self('stream'),
        Stream,
        'capture',
        fc.array(weighted(work), { maxLength: 4 }),
        fc.oneof(nothing, nothing, hostile),
      ),
    ],
    [1, method(self('stream'), Stream, 'capture', noFunction)],
    [1, method(self('stream'), Stream, 'dispose')],
    [1, method(self('stream'), Stream, Symbol.dispose)],
    [1, invoke('new Event', (handle) => new (Event as Any)(handle), hostile)],
    [1, method(self('event'), Event, 'done')],
    [1, method(self('event'), Event, 'elapsedMs', mostly(picked('event')))],
    [1, invoke('new Graph', (handle, on) => new (Graph as Any)(handle, on), hostile, hostile)],
    [2, method(self('graph'), Graph, 'launch', fc.oneof(nothing, stream))],
    [1, method(self('graph'), Graph, 'dispose')],
    [1, method(self('graph'), Graph, Symbol.dispose)],

    [1, invoke('new HipState', (given) => new HipState(given), optional({ refresh: perAxis(small) }))],
    [1, method(self('hipState'), HipState, 'runs')],
    [1, method(self('hipState'), HipState, 'dispose')],
    [1, method(self('hipState'), HipState, Symbol.dispose)],
    [
      1,
      invoke(
        'hipPlan with a state',
        api.hipPlan,
        mostly(picked('q')),
        mostly(picked('k', 'cache')),
        optional(
          {
            budget: mostly(oneOf(2, 3)),
            state: mostly(picked('hipState')),
            keyBlock: mostly(oneOf(2)),
            stages: mostly(oneOf([{ chunk: 8 }, { chunk: 4 }, { chunk: 2 }])),
            always: mostly(oneOf({ sink: 0, window: 0 })),
          },
          ['budget', 'state', 'keyBlock', 'stages', 'always'],
        ),
      ),
    ],
    [
      1,
      invoke(
        'new KvCache',
        (given) => new KvCache(given),
        optional(
          {
            batch: mostly(oneOf(2, 1)),
            kvHeads: mostly(oneOf(2, 1)),
            headDim: mostly(oneOf(8, 3)),
            valueDim: mostly(oneOf(6, 8)),
            pageSize: small,
            capacity: mostly(oneOf(3, 9, 100)),
            dtype,
            storage: fc.oneof(nothing, oneOf('int8')),
            device,
            rope: optional({ theta: small, dim: small, interleaved: mostly(oneOf(true, false)) }),
            resident: fc.oneof(
              { weight: 9, arbitrary: nothing },
              optional({ sink: small, window: small, pages: small }),
            ),
          },
          ['batch', 'kvHeads', 'headDim', 'capacity'],
        ),
      ),
    ],
    [
      4,
      method(
        self('cache'),
        KvCache,
        'append',
        mostly(picked('k')),
        mostly(picked('v')),
        optional({ lengths: mostly(list(fc.array(small, { maxLength: 3 }))), stream }),
      ),
    ],
    [1, method(self('cache'), KvCache, 'truncate', perAxis(small))],
    [1, method(self('cache'), KvCache, 'fork')],
    [1, method(self('cache'), KvCache, 'length')],
    [1, method(self('cache'), KvCache, 'lengths')],
    [1, method(self('cache'), KvCache, 'disposed')],
    [1, method(self('cache'), KvCache, 'bytes')],
    [1, method(self('cache'), KvCache, 'deviceBytes')],
    [1, method(self('cache'), KvCache, 'save', path)],
    [
      1,
      invoke(
        'KvCache.load',
        (from, given) => KvCache.load(from, given).then((cache) => cache.dispose()), // nobody else would, soon
        path,
        optional({ capacity: mostly(oneOf(3, 40)), pageSize: mostly(oneOf(1, 5)), device, resident: nothing }),
      ),
    ],
    [1, method(self('cache'), KvCache, 'dispose')],
    [1, method(self('cache'), KvCache, Symbol.dispose)],
    [
      1,
      invoke(
        'new KvIndex',
        (cache, given) => new KvIndex(cache, given),
        mostly(picked('cache')),
        fc.oneof(
          optional({
            method: mostly(oneOf('scan', 'pages', 'clusters')),
            pageSize: mostly(oneOf(4, 8)),
            clusterSize: mostly(oneOf(4, 16)),
            probe: mostly(oneOf(0.06, 0.5, 1, 0)),
            summary: mostly(oneOf('mean', 'bounds')),
          }),
          optional({ method: mostly(oneOf('graph')), queries: mostly(picked('token')), degree: small, effort: small }, [
            'method',
            'queries',
          ]),
        ),
      ),
    ],
    [
      2,
      method(
        self('index'),
        KvIndex,
        'search',
        mostly(picked('token')),
        mostly(oneOf(1, 5)),
        optional({ scale: small, stream }),
      ),
    ],
    [
      2,
      method(
        self('index'),
        KvIndex,
        'attend',
        mostly(picked('token')),
        optional(
          {
            topK: fc.oneof(several(topK), list(fc.tuple(topK, topK))), // two key heads
            sink: small,
            window: small,
            estimate: mostly(oneOf(true, false)),
            scale: small,
            stream,
          },
          ['topK'],
        ),
      ),
    ],
    [1, method(self('index'), KvIndex, 'bytes')],
    [1, method(self('index'), KvIndex, 'disposed')],
    [1, method(self('index'), KvIndex, 'dispose')],
    [1, method(self('index'), KvIndex, Symbol.dispose)],
    selecting('hipPlan', api.hipPlan, { ...selectorOptions, share, ...hipOptions }, ['budget']),
    selecting('pagePlan', api.pagePlan, { ...selectorOptions, share }, ['budget']),
    selecting('pooledPlan', api.pooledPlan, { ...selectorOptions, share, ...pooledOptions }),
    selecting(
      'pooledPlan by levels',
      api.pooledPlan,
      {
        ...selectorOptions,
        share,
        pooling: pooledOptions.pooling,
        levels: likely(oneOf([16], [0, 8, 100], [1, 1], [])),
      },
      ['budget', 'levels'],
    ),
    selecting(
      'pooledPlan of pooled rows',
      api.pooledPlan,
      { ...selectorOptions, ...cutOptions, ...rowOptions },
      Object.keys(rowOptions),
      pair('pooledQ', 'pooledK'),
    ),
    [
      1,
      invoke(
        'streamingPlan',
        api.streamingPlan,
        optional(
          {
            queries: small,
            keys: small,
            heads: few,
            sink: selectorOptions.budget,
            window: selectorOptions.budget,
            device,
          },
          ['queries', 'keys', 'sink', 'window'],
        ),
      ),
    ],
    [
      1,
      invoke(
        'SparsePlan.fromBlocks',
        SparsePlan.fromBlocks,
        mostly(list(fc.array(list(fc.array(small, { maxLength: 3 })), { maxLength: 2 }))),
        optional(
          {
            queries: small,
            keys: small,
            queryTile: oneOf(16),
            keyBlock: mostly(oneOf(2, 4)),
            estimate: mostly(oneOf(true, false)),
          },
          ['queries', 'keys'],
        ),
      ),
    ],
    [
      1,
      invoke(
        'SparsePlan.fromBlocks with levels',
        SparsePlan.fromBlocks,
        mostly(oneOf([[0, 1]])),
        optional(
          {
            queries: mostly(oneOf(1, 5)),
            keys: mostly(oneOf(7, 8)),
            queryTile: oneOf(16),
            keyBlock: mostly(oneOf(4, 4, 4, 2)),
            causal: mostly(oneOf(true, false)),
            levels: mostly(list(fc.tuple(mostly(list(fc.tuple(mostly(oneOf(0, 1)), mostly(oneOf(0, 1, 2)))))))),
          },
          ['queries', 'keys', 'keyBlock', 'levels'],
        ),
      ),
    ],
    [1, invoke('new SparsePlan', (plan) => new (SparsePlan as Any)(plan), hostile)],
    [1, method(self('plan'), SparsePlan, 'union', mostly(picked('plan')))],
    [1, method(self('plan'), SparsePlan, 'intersect', mostly(picked('plan')))],
    [1, method(self('plan'), SparsePlan, 'to', device, optional({ stream }))],
    [1, method(self('plan'), SparsePlan, 'density')],
    [1, method(self('plan'), SparsePlan, 'validate')],
    [1, method(self('plan'), SparsePlan, 'toDense')],
    [1, method(self('plan'), SparsePlan, 'statistics')],
    [1, method(self('plan'), SparsePlan, 'explain')],
    [1, method(self('plan'), SparsePlan, 'toSvg', optional({ batch: small }))],
    [1, method(self('plan'), SparsePlan, 'dispose')],
    [1, method(self('plan'), SparsePlan, Symbol.dispose)],

    [
      1,
      invoke(
        'SparsePlan.fromPredicate',
        SparsePlan.fromPredicate,
        noFunction,
        optional({ queries: small, keys: small }, ['queries', 'keys']),
      ),
    ],
    [
      1,
      invoke(
        'dilatedPlan',
        api.dilatedPlan,
        optional({ ...geometry, sink: small, window: small, device }, ['queries', 'keys', 'window']),
      ),
    ],
    [
      1,
      invoke(
        'verticalSlashPlan',
        api.verticalSlashPlan,
        optional({ ...geometry, heads: small, vertical: lines, slash: lines, always: selectorOptions.always }, [
          'queries',
          'keys',
          'vertical',
          'slash',
        ]),
      ),
    ],
    [
      1,
      invoke(
        'radialPlan',
        api.radialPlan,
        optional(
          {
            frames: small,
            tokensPerFrame: small,
            firstFrame: mostly(oneOf(true, false)),
            keyBlock,
            always: selectorOptions.always,
          },
          ['frames', 'tokensPerFrame'],
        ),
      ),
    ],
    [
      1,
      invoke(
        'gridPlan',
        api.gridPlan,
        optional({ shape: axes, box: axes, reach: axes, keyBlock, always: selectorOptions.always, stream }, [
          'shape',
          'box',
        ]),
      ),
    ],
    [1, invoke('permuteTokens', api.permuteTokens, tokens, optional({ order: axes, box: axes, stream }))],
    [
      1,
      invoke(
        'restoreTokens',
        api.restoreTokens,
        tokens,
        optional({ shape: mostly(oneOf([2, 4], [4, 4], [8], [2, 3, 4])), order: axes, box: axes, stream }, ['shape']),
      ),
    ],

    [
      1,
      invoke(
        'bucketBias',
        api.bucketBias,
        mostly(picked('table', 'tensor')),
        optional({ maxDistance: mostly(oneOf(2, 20, 128)), bidirectional: mostly(oneOf(true, false)), device }),
      ),
    ],
    [
      1,
      invoke(
        'sphereBias',
        api.sphereBias,
        optional(
          { latitudes: small, longitudes: small, grid: mostly(oneOf('cells', 'equiangular', 'gauss')), device },
          ['latitudes', 'longitudes'],
        ),
      ),
    ],
    [
      1,
      invoke(
        'factorizeBias',
        api.factorizeBias,
        tensor,
        fc.oneof(
          optional({ rank: small }, ['rank']),
          optional({ energy: mostly(oneOf(0.5, 1)), maxRank: small }, ['energy']),
        ),
      ),
    ],
    [1, invoke('alibi', api.alibi, fc.oneof(nothing, tensor))],
    [1, invoke('lowRankBias', api.lowRankBias, tensor, tensor, optional({ path: oneOf('matrix', 'vector') }))],
    [1, invoke('distanceBias', api.distanceBias, optional({ q: tensor, k: tensor, weight: tensor }, ['q', 'k']))],
    [1, invoke('relativePositionBias', api.relativePositionBias, tensor)],
    [
      1,
      invoke(
        'fitBias',
        api.fitBias,
        tensor,
        optional({ q: tensor, k: tensor, rank: small, steps: oneOf(1) }, ['q', 'k', 'rank', 'steps']),
      ),
    ],
    [1, invoke('keyBias', api.keyBias, tensor)],
    [1, invoke('denseBias', api.denseBias, tensor, optional({ heads: several(small) }))],
    [1, invoke('causal', api.causal, hostile)],
    [1, invoke('window', api.window, optional({ left: small, right: small }, ['left', 'right']))],
    [3, invoke('neighborhood', api.neighborhood, several(optional(setting, ['window'])))],
    [
      2,
      invoke(
        'simulateNeighborhood',
        api.simulateNeighborhood,
        optional({ ...setting, shape: extents, queryTile: extents, keyTile: extents }, ['shape', 'window']),
      ),
    ],
    [1, invoke('devices', api.devices, hostile)],
    [1, invoke('memoryStats', api.memoryStats, device)],
    [1, invoke('toFloat16', api.toFloat16, data)],
    [1, invoke('fromFloat16', api.fromFloat16, data)],
    [1, invoke('toBfloat16', api.toBfloat16, data)],
    [1, invoke('fromBfloat16', api.fromBfloat16, data)],
  ];
  return weighted(calls);
}

/** Names of files: of one that may be there, of one that cannot be, and seldom, since each takes a thread. */
const path = fc.oneof(
  { weight: 1, arbitrary: oneOf(`${process.argv[5]}.cache`, '/dev/null/cache') },
  {
    weight: 4,
    arbitrary: hostile.map(({ text, make }) =>
      value(text, (pool) => {
        const made = make(pool);
        return typeof made === 'string' ? '' : made; // what is no path
      }),
    ),
  },
);

/** What a program's own function throws is its own affair. */
const noFunction = hostile.map(({ text, make }) =>
  value(text, (pool) => {
    const made = make(pool);
    return typeof made === 'function' ? undefined : made;
  }),
);

const extents = mostly(list(fc.array(mostly(oneOf(1, 2, 5, 8, 16, 30), 30), { maxLength: 4 })));

const weighted = (calls: [number, fc.Arbitrary<Call>][]) =>
  fc.oneof(...calls.map(([weight, arbitrary]) => ({ weight, arbitrary })));

const isTensor = (value: Any) =>
  Object(value) === value && !types.isProxy(value) && Object.getPrototypeOf(value) === Tensor.prototype;

/** Properties that are read-only may refuse, as JavaScript does. */
function assign(tensor: Any, name: string, given: Any): void {
  if (!types.isProxy(tensor)) Reflect.set(Object(tensor), name, given);
}

/** Ways in which a program can take the memory that `data` shows away. */
function giveAway(tensor: Any, way: string): void {
  if (!isTensor(tensor)) return;
  const { buffer } = tensor.data as Any;
  if (way !== 'clone') {
    buffer[way]?.();
    return;
  }
  try {
    structuredClone(buffer, { transfer: [buffer] });
  } catch {
    // Node does not let go of it
  }
}

/** Objects that every sequence of calls begins with. */
export function publicPool(pool: Pool, devices: string[]): void {
  for (const device of devices as Device[]) {
    const make = (dtype: Any, ...lengths: number[]) => collect(pool, Tensor.randn(lengths, { seed: 1, dtype, device }));
    for (const dtype of ['float32', 'bfloat16']) {
      pool.add('q', make(dtype, 2, 5, 4, 8));
      pool.add('k', make(dtype, 2, 7, 2, 8));
      pool.add('v', make(dtype, 2, 7, 2, 6));
      pool.add('out', make(dtype, 2, 5, 4, 6));
      pool.add('pooledQ', make(dtype, 2, 1, 4, 3));
      pool.add('pooledK', make(dtype, 2, 4, 2, 3));
    }
    pool.add('grid', make('float32', 1, 4, 4, 2, 8));
    pool.add('grid', make('float16', 1, 8, 1, 8));
    pool.add('grid', make('float32', 1, 2, 3, 4, 2, 8).permute(0, 2, 1, 3, 4, 5));
    pool.add('grid', make('float32', 1, 12, 2, 8).slice([0, 1], [3, 11]));
    pool.add('sinks', make('float32', 4));
    pool.add('table', make('float32', 8, 2));
    pool.add('offsets', Tensor.from(Int32Array.of(0, 3, 5), [3], { device }));
    pool.add('offsets', Tensor.from(Int32Array.of(-9, 2 ** 30, 4), [3], { device }));
    make('float32', 0, 3);
    make('float32');
    make('float32', 1, 0, 2, 8);
    for (const bias of [make('float32', 7), make('float32', 8)]) collect(pool, api.keyBias(bias));
    for (const bias of [make('float32', 5, 7), make('float32', 8, 8)]) collect(pool, api.denseBias(bias));
    collect(pool, new Stream(device));
    if (device !== 'cpu') continue;
    const cache = new KvCache({ batch: 2, kvHeads: 2, headDim: 8, valueDim: 6, pageSize: 3, capacity: 40 });
    collect(pool, cache);
    for (const method of ['scan', 'pages', 'clusters'] as const) collect(pool, new KvIndex(cache, { method }));
    const token = make('float32', 2, 1, 4, 8);
    pool.add('token', token);
    collect(pool, new KvIndex(cache, { method: 'graph', queries: token }));
    collect(pool, api.streamingPlan({ queries: 5, keys: 7, sink: 1, window: 2, keyBlock: 2 } as Any));
    collect(pool, api.alibi());
    collect(pool, new HipState({ refresh: [4, 2, 1] }));
  }
  for (const mask of [api.causal(), api.window({ left: 2, right: 1 }), api.neighborhood({ window: 3 })]) {
    collect(pool, mask);
  }
  for (const foreign of [...(pool.made.get('offsets') ?? []), ...(pool.made.get('grid') ?? [])]) collect(pool, foreign);
  pool.add('foreign', api.AttentionError);
}

/** Keeps what a call has made; the calls that follow may use it. */
export function collect(pool: Pool, made: Any): Any {
  if (made instanceof Tensor) pool.add('tensor', made);
  else if (made instanceof Stream) pool.add('stream', made);
  else if (made instanceof KvCache) pool.add('cache', made);
  else if (made instanceof KvIndex) pool.add('index', made);
  else if (made instanceof HipState) pool.add('hipState', made);
  else if (made instanceof SparsePlan) {
    pool.add('plan', made);
    pool.add('mask', made);
  } else if (made instanceof Event) pool.add('event', made);
  else if (made instanceof Graph) pool.add('graph', made);
  else if (made?.constructor?.name === 'Mask') pool.add('mask', made);
  else if (made?.constructor?.name === 'Bias') pool.add('bias', made);
  else if (made?.lse instanceof Tensor) {
    pool.add('part', made);
    pool.add('tensor', made.out);
    pool.add('tensor', made.lse);
  } else if (made?.ids instanceof Tensor) {
    pool.add('tensor', made.ids);
    pool.add('tensor', made.scores);
  }
  return made;
}

export function disposePool(pool: Pool): void {
  const kinds = [
    'q',
    'k',
    'v',
    'out',
    'sinks',
    'grid',
    'offsets',
    'tensor',
    'stream',
    'graph',
    'index',
    'cache',
    'plan',
    'hipState',
  ];
  for (const kind of kinds) {
    for (const object of pool.made.get(kind) ?? []) {
      try {
        object.dispose();
      } catch (error) {
        if (!(object instanceof Graph && error instanceof api.AttentionError)) throw error; // made of something else
      }
    }
  }
  pool.made.clear(); // biases with tensors of their own are to be collected
}
