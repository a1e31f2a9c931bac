// The functions of the addon itself, below the TypeScript layer, which never passes most of what they get here.

import fc from 'fast-check';
import type { Addon } from '../../lib/native';
import { type Call, invoke, nothing } from './call';
import { type Any, arrays, hostile, list, mostly, oneOf, type Pool, picked, record, shape, type Value } from './value';

/** The addon that node-attention has loaded, with its errors. */
export const { native } = require('../../dist/native.js') as { native: Addon };

const dtypeIndex = mostly(oneOf(0, 1, 2, 3, 4, 5, 6, -1));
const data = mostly(fc.constantFrom(...arrays), 20);
const tensor = mostly(picked('tensor'), 20);
const stream = mostly(picked('stream'), 20);
const defaultable = (one: fc.Arbitrary<Value>) => fc.oneof(nothing, one);
const flag = mostly(oneOf(true, false));
const small = mostly(oneOf(-1, 0, 1, 2, 3, 4, 5, 7, 8));
const integers = mostly(list(fc.array(small, { maxLength: 9 })));
const several = (one: fc.Arbitrary<Value>) => mostly(list(fc.array(mostly(one), { maxLength: 3 })), 20);

/** A class that errors cannot be made of; one refusal with it, then the real class again. */
function refuseWith(errorClass: Any): Any {
  const real = (require('../../dist/errors.js') as Any).AttentionError;
  native.setErrorClass(errorClass);
  try {
    native.resolveDevice('nowhere');
  } catch {
    return; // whatever the class has made of it
  } finally {
    native.setErrorClass(real);
  }
  throw new Error('was not refused');
}

export function addonCalls(devices: string[]): fc.Arbitrary<Call> {
  const device = mostly(oneOf(...devices));
  const axes = mostly(list(fc.array(small, { minLength: 1, maxLength: 3 })), 20);
  const neighborhood = record({ window: axes, stride: axes, dilation: axes, causal: axes, wrap: axes }, [
    'window',
    'stride',
    'dilation',
    'causal',
    'wrap',
  ]);
  const mask = fc.oneof(
    record({ left: small, right: small }, ['left', 'right']),
    record({ settings: several(neighborhood) }, ['settings']),
    record({ plan: mostly(picked('plan')) }, ['plan']),
  );
  const qkv = fc.oneof(
    fc.record({ q: picked('q'), k: picked('k'), v: picked('v') }),
    picked('grid').map((one) => ({ q: one, k: one, v: one })),
    fc.record({ q: picked('q'), cache: mostly(picked('cache')) }),
    fc.record({ q: tensor, k: tensor, v: tensor }),
  );
  const options = fc.record(
    {
      sinks: mostly(picked('sinks')),
      extraK: tensor,
      extraV: tensor,
      cuQ: mostly(picked('offsets')),
      cuK: mostly(picked('offsets')),
      out: mostly(picked('out')),
      masks: several(mask),
      biases: several(
        record(
          {
            kind: mostly(oneOf('key', 'dense', 'lowRank', 'alibi', 'distance', 'relative')),
            tensor: defaultable(mostly(picked('bias'))),
            query: tensor,
            key: tensor,
            step: integers,
            path: mostly(oneOf('auto', 'matrix', 'vector')),
            heads: defaultable(integers),
          },
          ['kind'],
        ),
      ),
      scale: small,
      softcap: small,
      tf32: flag,
      stream: defaultable(stream),
    },
    { requiredKeys: ['masks', 'biases'] },
  );
  const callOrder = 'q k v cache sinks extraK extraV cuQ cuK out masks biases scale softcap tf32 stream'.split(' ');
  const attention = fc.tuple(qkv, options).chain(([given, rest]) => {
    const values: { [name: string]: Value } = { ...given, ...rest };
    return invoke(
      'attention',
      native.attention,
      ...callOrder.map((name) => (values[name] ? fc.constant(values[name]) : nothing)),
    );
  });
  const part = mostly(record({ out: mostly(picked('grid')), lse: mostly(picked('lse')) }, ['out', 'lse']));

  const cache = mostly(picked('cache'));
  const index = mostly(picked('index'));
  const plan = mostly(picked('plan'));
  const cacheOptions = record(
    {
      batch: small,
      kvHeads: small,
      headDim: small,
      valueDim: small,
      pageSize: small,
      capacity: mostly(oneOf(3, 9, 100)),
      dtype: dtypeIndex,
      int8: flag,
      device,
      theta: mostly(oneOf(0, 0, 10000)),
      columns: mostly(oneOf(0, 2, 4)),
      interleaved: flag,
      sink: mostly(oneOf(0, 0, 0, 0, 0, 3)),
      window: mostly(oneOf(0, 0, 0, 0, 0, 5)),
      pages: mostly(oneOf(0, 0, 0, 0, 0, 2)),
    },
    [
      ...['batch', 'kvHeads', 'headDim', 'valueDim', 'pageSize', 'capacity', 'dtype', 'device', 'theta', 'columns'],
      ...['sink', 'window', 'pages'],
    ],
  );
  const fitting = {
    ...{ batch: 2, kvHeads: 2, headDim: 8, valueDim: 6, pageSize: 3, capacity: 40, dtype: 0, device: 'cpu' },
    ...{ theta: 0, columns: 0, sink: 0, window: 0, pages: 0 },
  };
  const geometry = mostly(
    oneOf(
      [1, 1, 16, 16, 16, 16, 0, 0, 0, 0],
      [1, 1, 16, 16, 16, 8, 0, 0, 6, 0],
      [1, 1, 5, 7, 16, 2, 1, 0, 0, 1],
      [2, 2, 40, 9, 16, 4, 1, 1, 2, 0],
      [1, 2, 1, 1, 64, 0, 0, 0, 0, 0],
      [1, 2 ** 40, 1, 1, 16, 16, 0, 0, 1, 0],
    ),
  );
  const words = record({ offsets: mostly(picked('offsets')), entries: tensor, bitmaps: tensor }, ['entries']);
  const select = record(
    {
      q: mostly(picked('q')),
      k: mostly(picked('k')),
      cache: fc.oneof(nothing, nothing, cache),
      selector: mostly(oneOf(0, 1, 2)),
      geometry,
      sink: small,
      window: small,
      budgets: integers,
      levels: integers,
      chunk: integers,
      keep: integers,
      first: flag,
      pooling: mostly(oneOf(0, 1, 2, 3)),
      queryPooling: mostly(oneOf(-1, 0, 1, 2)),
      perQuery: flag,
      pooled: flag,
      scale: small,
      topP: small,
      threshold: small,
      state: defaultable(mostly(picked('hipState'))),
      stream: defaultable(stream),
    },
    [
      'q',
      'k',
      'selector',
      'geometry',
      'sink',
      'window',
      'budgets',
      'levels',
      'chunk',
      'keep',
      'pooling',
      'queryPooling',
      'scale',
      'topP',
      'threshold',
    ],
  );

  const calls: [number, fc.Arbitrary<Call>][] = [
    [1, invoke('cudaSearch', native.cudaSearch, hostile)],
    [1, invoke('kvCacheCreate', native.kvCacheCreate, mostly(fc.oneof(cacheOptions, oneOf(fitting)), 20))],
    [
      4,
      invoke(
        'kvCacheAppend',
        native.kvCacheAppend,
        cache,
        mostly(picked('k')),
        mostly(picked('v')),
        defaultable(integers),
        defaultable(stream),
      ),
    ],
    [2, invoke('kvCacheTruncate', native.kvCacheTruncate, cache, integers)],
    [1, invoke('kvCacheRestore', native.kvCacheRestore, cache, integers)],
    [
      4,
      invoke(
        'kvCacheCopyRows',
        native.kvCacheCopyRows,
        cache,
        mostly(
          record({ sequence: mostly(oneOf(0, 1)), first: small, count: small, values: flag, units: flag }, [
            'sequence',
            'first',
            'count',
          ]),
          20,
        ),
        flag,
        mostly(picked('bytes')),
        stream,
      ),
    ],
    [1, invoke('kvCacheFork', native.kvCacheFork, cache)],
    [1, invoke('kvCacheLengths', native.kvCacheLengths, cache)],
    [1, invoke('kvCacheBytes', native.kvCacheBytes, cache)],
    [1, invoke('kvCacheDeviceBytes', native.kvCacheDeviceBytes, cache)],
    [1, invoke('kvCacheDispose', native.kvCacheDispose, cache)],
    [
      1,
      invoke(
        'kvIndexCreate',
        native.kvIndexCreate,
        cache,
        mostly(
          fc.oneof(
            record({ block: mostly(oneOf(1, 4, 64)), bounds: flag, clusters: flag, probe: mostly(oneOf(0.1, 1)) }, [
              'block',
              'probe',
            ]),
            record({ queries: mostly(picked('token')), degree: mostly(oneOf(1, 4)), effort: mostly(oneOf(1, 20)) }, [
              'queries',
              'degree',
              'effort',
            ]),
          ),
        ),
      ),
    ],
    [
      4,
      invoke(
        'kvIndexRetrieve',
        native.kvIndexRetrieve,
        index,
        cache,
        mostly(
          record(
            {
              q: mostly(picked('token')),
              top: mostly(oneOf(1, 3, 50)),
              sink: small,
              window: small,
              scale: small,
              attend: flag,
              estimate: flag,
              stream: defaultable(stream),
              search: defaultable(stream),
            },
            ['q', 'top', 'sink', 'window'],
          ),
          20,
        ),
      ),
    ],
    [1, invoke('kvIndexBytes', native.kvIndexBytes, index)],
    [1, invoke('kvIndexDispose', native.kvIndexDispose, index)],
    [3, invoke('select', native.select, mostly(select, 20))],
    [1, invoke('hipStateCreate', native.hipStateCreate, integers)],
    [1, invoke('hipStateRuns', native.hipStateRuns, mostly(picked('hipState')))],
    [1, invoke('hipStateDispose', native.hipStateDispose, mostly(picked('hipState')))],
    [
      3,
      invoke(
        'planBuild',
        native.planBuild,
        geometry,
        mostly(picked('offsets')),
        mostly(picked('offsets')),
        defaultable(stream),
      ),
    ],
    [2, invoke('planOver', native.planOver, geometry, mostly(words))],
    [2, invoke('planCombine', native.planCombine, plan, plan, flag, defaultable(stream))],
    [2, invoke('planReport', native.planReport, plan, defaultable(stream))],
    [2, invoke('planDense', native.planDense, plan, small, defaultable(stream))],
    [1, invoke('planWords', native.planWords, plan)],
    [1, invoke('planInfo', native.planInfo, plan)],
    [1, invoke('planDispose', native.planDispose, plan)],
    [
      1,
      invoke(
        'setErrorClass',
        native.setErrorClass,
        hostile.filter(({ text }) => !/=>|class|#/.test(text)),
      ),
    ],
    [1, invoke('refuse with', refuseWith, hostile)],
    [1, invoke('devices', native.devices, hostile)],
    [1, invoke('resolveDevice', native.resolveDevice, device)],
    [1, invoke('memoryStats', native.memoryStats, device)],
    [
      3,
      invoke('tensorCreate', native.tensorCreate, shape, dtypeIndex, device, mostly(oneOf(true, false, false)), flag),
    ],
    [3, invoke('tensorFrom', native.tensorFrom, data, dtypeIndex, shape, dtypeIndex)],
    [1, invoke('arrayDetach', native.arrayDetach, data)],
    [2, invoke('tensorWrap', native.tensorWrap, data, shape, dtypeIndex)],
    [2, invoke('tensorRandn', native.tensorRandn, shape, small, dtypeIndex)],
    [2, invoke('tensorReshape', native.tensorReshape, tensor, shape)],
    [2, invoke('tensorPermute', native.tensorPermute, tensor, integers)],
    [2, invoke('tensorSlice', native.tensorSlice, tensor, integers, integers)],
    [1, invoke('tensorInfo', native.tensorInfo, tensor)],
    [2, invoke('tensorMemory', native.tensorMemory, tensor)],
    [1, invoke('tensorByteOffset', native.tensorByteOffset, tensor)],
    [1, invoke('tensorPending', native.tensorPending, tensor)],
    [2, invoke('tensorWritten', native.tensorWritten, tensor)],
    [3, invoke('tensorTo', native.tensorTo, tensor, dtypeIndex, device, defaultable(stream))],
    [2, invoke('tensorReadBack', native.tensorReadBack, tensor)],
    [2, invoke('tensorDispose', native.tensorDispose, tensor)],
    [1, invoke('exposureMoved', native.exposureMoved, mostly(picked('exposure')))],
    [1, invoke('streamCreate', native.streamCreate, device)],
    [1, invoke('streamSynchronize', native.streamSynchronize, stream)],
    [2, invoke('streamRecord', native.streamRecord, stream)],
    [2, invoke('streamWait', native.streamWait, stream, mostly(picked('event')))],
    [2, invoke('streamBeginCapture', native.streamBeginCapture, stream)],
    [3, invoke('streamEndCapture', native.streamEndCapture, stream)],
    [1, invoke('streamAbandonCapture', native.streamAbandonCapture, stream)],
    [1, invoke('streamDispose', native.streamDispose, stream)],
    [1, invoke('eventDone', native.eventDone, mostly(picked('event')))],
    [1, invoke('eventElapsedMs', native.eventElapsedMs, mostly(picked('event')), mostly(picked('event')))],
    [2, invoke('graphLaunch', native.graphLaunch, mostly(picked('graph')), stream)],
    [1, invoke('graphDispose', native.graphDispose, mostly(picked('graph')))],
    [10, attention],
    [4, invoke('merge', native.merge, several(part), defaultable(tensor), defaultable(stream))],
  ];
  const covered = new Set(calls.map(([, one]) => fc.sample(one, 1)[0]!.text.split('(')[0]));
  const missing = Object.keys(native).filter((name) => !['version', 'build'].includes(name) && !covered.has(name));
  if (missing.length > 0) throw new Error(`functions of the addon that are not fuzzed: ${missing.join(', ')}`);
  return fc.oneof(...calls.map(([weight, arbitrary]) => ({ weight, arbitrary })));
}

export function addonPool(pool: Pool, devices: string[]): void {
  for (const device of devices) {
    const make = (dtype: number, ...lengths: number[]) => {
      const made = native.tensorCreate(lengths, dtype, device, false, true);
      pool.add('tensor', made);
      return made;
    };
    for (const dtype of [0, 2]) {
      pool.add('q', make(dtype, 2, 5, 4, 8));
      pool.add('k', make(dtype, 2, 7, 2, 8));
      pool.add('v', make(dtype, 2, 7, 2, 6));
      pool.add('out', make(dtype, 2, 5, 4, 6));
    }
    pool.add('grid', make(0, 1, 4, 4, 2, 8));
    pool.add('lse', make(0, 1, 4, 4, 2));
    pool.add('grid', make(1, 1, 8, 1, 8));
    pool.add('lse', make(0, 1, 8, 1));
    pool.add('sinks', make(0, 4));
    pool.add('offsets', make(3, 3));
    for (const lengths of [[7], [8], [5, 7], [8, 8]]) pool.add('bias', make(0, ...lengths));
    pool.add('stream', native.streamCreate(device));
    pool.add('foreign', native);
    const offsets = native.tensorFrom(Int32Array.of(0, 1, 1), 3, [3], 3);
    pool.add('tensor', offsets);
    if (device !== 'cpu') continue;
    pool.add('offsets', offsets);
    const sizes = { batch: 2, kvHeads: 2, headDim: 8, valueDim: 6, pageSize: 3, capacity: 40, dtype: 0, int8: false };
    const cache = native.kvCacheCreate({
      ...{ ...sizes, device, theta: 0, columns: 0, interleaved: false },
      ...{ sink: 0, window: 0, pages: 0 },
    });
    pool.add('cache', cache);
    const token = make(0, 2, 1, 4, 8);
    pool.add('token', token);
    pool.add('index', native.kvIndexCreate(cache, { queries: token, degree: 4, effort: 8 }));
    pool.add('bytes', make(4, 400));
    for (const [block, clusters] of [
      [1, false],
      [8, false],
      [8, true],
    ] as const) {
      pool.add('index', native.kvIndexCreate(cache, { block, bounds: false, clusters, probe: 0.5 }));
    }
  }
}

export function collectHandles(pool: Pool, made: Any, text: string): void {
  if (made === null || typeof made !== 'object') return;
  if (made.lse) {
    for (const one of [made.out, made.lse, made.touched, made.keys]) if (one) pool.add('tensor', one);
  } else if (made.tensor) {
    pool.add('tensor', made.tensor);
  } else if (made.buffer) {
    if (made.exposure) pool.add('exposure', made.exposure);
  } else if (text.startsWith('kvIndexRetrieve')) {
    for (const one of Object.values(made)) pool.add('tensor', one);
  } else if (text.startsWith('kvIndexCreate')) {
    pool.add('index', made);
  } else if (/^kvCache(Create|Fork)/.test(text)) {
    pool.add('cache', made);
  } else if (text.startsWith('hipStateCreate')) {
    pool.add('hipState', made);
  } else if (/^(select|plan(Build|Over|Combine))/.test(text)) {
    pool.add('plan', made);
  } else if (text.startsWith('planWords')) {
    for (const one of Object.values(made)) pool.add('tensor', one);
  } else if (text.startsWith('streamRecord')) {
    pool.add('event', made);
  } else if (text.startsWith('streamEndCapture')) {
    pool.add('graph', made);
  } else if (text.startsWith('streamCreate')) {
    pool.add('stream', made);
  } else if (/^tensor(Create|From|Wrap|Randn|Reshape|Permute|Slice|To)|^plan(Report|Dense)/.test(text)) {
    pool.add('tensor', made);
  }
}

export function disposeHandles(pool: Pool): void {
  for (const stream of pool.made.get('stream') ?? []) {
    ignoreDisposed(() => native.streamAbandonCapture(stream));
    native.streamDispose(stream);
  }
  for (const graph of pool.made.get('graph') ?? []) native.graphDispose(graph);
  for (const index of pool.made.get('index') ?? []) native.kvIndexDispose(index);
  for (const cache of pool.made.get('cache') ?? []) native.kvCacheDispose(cache);
  for (const plan of pool.made.get('plan') ?? []) native.planDispose(plan);
  for (const state of pool.made.get('hipState') ?? []) native.hipStateDispose(state);
  for (const tensor of pool.made.get('tensor') ?? []) native.tensorDispose(tensor);
}

function ignoreDisposed(fn: () => void): void {
  try {
    fn();
  } catch (error) {
    if ((error as Any).code !== 'ERR_DISPOSED') throw error;
  }
}
