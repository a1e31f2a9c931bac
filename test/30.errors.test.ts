// Every refusal: its code, that its message names the argument and the offending value, and that nothing was enqueued,
// written or kept.

import {
  AttentionError,
  alibi,
  attention,
  bucketBias,
  causal,
  denseBias,
  devices,
  distanceBias,
  type ErrorCode,
  factorizeBias,
  fitBias,
  fromFloat16,
  keyBias,
  lowRankBias,
  memoryStats,
  merge,
  neighborhood,
  relativePositionBias,
  Stream,
  sphereBias,
  Tensor,
  toBfloat16,
  window,
} from 'node-attention';
import { afterAll, describe, expect, it } from 'vitest';

// biome-ignore lint/suspicious/noExplicitAny: the calls here are wrong on purpose
type Wrong = any;

/** What is wrong, how it is said (every pattern must match the message), and the call. */
type Row = [name: string, code: ErrorCode, patterns: (string | RegExp)[], call: () => unknown];

const f = (...shape: number[]) => Tensor.zeros(shape);
const half = (...shape: number[]) => Tensor.zeros(shape, { dtype: 'bfloat16' });
const ints = (...data: number[]) => Tensor.from(Int32Array.from(data), [data.length]);
const disposed = (tensor: Tensor) => {
  tensor.dispose();
  return tensor;
};

const stream = new Stream();
const gone = new Stream();
gone.dispose();
afterAll(() => stream.dispose());

const holes = new Array(2 ** 32 - 1);
const revoked = (target: object): Wrong => {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
};

/** One correct call, in which each row changes one thing. */
const q = f(2, 5, 4, 8);
const k = f(2, 7, 2, 8);
const v = f(2, 7, 2, 6);
const withOptions = (options: Wrong) => () => attention(q, k, v, options);
const withQkv =
  (...[a, b, c]: Wrong[]) =>
  () =>
    attention(a ?? q, b ?? k, c ?? v);
const grid = f(1, 6, 4, 2, 8);
const withGrid = (options: Wrong) => () => attention(grid, grid, grid, options);
const onGrid = (mask: Wrong) => () => attention(grid, grid, grid, { mask });

/** What reads like an element type, and is none. */
const noTypes = ['float64', 'fp16', 'bf16', 'F32', 'int8', 'uint16'];

const tensors: Row[] = [
  ['data too short', 'ERR_SHAPE', ['data', '5', '[2, 3]'], () => Tensor.from(new Float32Array(5), [2, 3])],
  ['data too long', 'ERR_SHAPE', ['data', '7', '[2, 3]'], () => Tensor.from(new Float32Array(7), [2, 3])],
  ['a count that overflows', 'ERR_SHAPE', ['shape', '2097152'], () => Tensor.zeros([2 ** 21, 2 ** 21, 2 ** 21])],
  ['an overflow beside a zero', 'ERR_SHAPE', ['shape', '2097152'], () => Tensor.zeros([0, 2 ** 21, 2 ** 21, 2 ** 21])],
  ['a negative length', 'ERR_SHAPE', ['shape[1]', '-2'], () => Tensor.zeros([3, -2])],
  ['a fraction of a length', 'ERR_SHAPE', ['shape[0]', '1.5'], () => Tensor.zeros([1.5])],
  ['NaN as length', 'ERR_SHAPE', ['shape[0]', 'NaN'], () => Tensor.zeros([Number.NaN])],
  ['a length beyond exact numbers', 'ERR_SHAPE', ['shape[0]'], () => Tensor.zeros([2 ** 53])],
  ['no shape', 'ERR_SHAPE', ['shape', 'undefined'], () => Tensor.zeros(undefined as Wrong)],
  ['text as length', 'ERR_SHAPE', ['shape[0]', "'4'"], () => Tensor.zeros(['4'] as Wrong)],
  ['too many axes', 'ERR_SHAPE', ['shape', '9'], () => Tensor.zeros([1, 1, 1, 1, 1, 1, 1, 1, 1])],
  [
    'an unknown dtype',
    'ERR_DTYPE',
    ['dtype', 'float99', 'bfloat16'],
    () => Tensor.zeros([1], { dtype: 'float99' as Wrong }),
  ],
  ['no dtype for empty', 'ERR_DTYPE', ['dtype', 'undefined'], () => Tensor.empty([1], {} as Wrong)],
  ['plain array as data', 'ERR_DTYPE', ['data', /Float32Array/], () => Tensor.from([1, 2] as Wrong, [2])],
  ['float64 as data', 'ERR_DTYPE', ['data', 'Float64Array'], () => Tensor.from(new Float64Array(2) as Wrong, [2])],
  [
    'integers as floats',
    'ERR_DTYPE',
    ['int32', 'float32'],
    () => Tensor.from(new Int32Array(2), [2], { dtype: 'float32' }),
  ],
  ['bits without a type', 'ERR_DTYPE', ['Uint16Array', "dtype: 'float16'"], () => Tensor.from(new Uint16Array(2), [2])],
  ['an unknown option', 'ERR_OPTION', ['dtpye', "'dtype'"], () => Tensor.zeros([1], { dtpye: 'float32' } as Wrong)],
  [
    'an option in other letters',
    'ERR_OPTION',
    ['Dtype', "did you mean 'dtype'"],
    () => Tensor.zeros([1], { Dtype: 1 } as Wrong),
  ],
  ['a stream as options', 'ERR_OPTION', ['plain object', 'Stream'], () => q.to(stream as Wrong)],
  ['a revoked proxy as options', 'ERR_OPTION', ['options', 'cannot be read'], () => Tensor.zeros([1], revoked({}))],
  ['a revoked proxy as shape', 'ERR_SHAPE', ['shape', 'cannot be read'], () => Tensor.zeros(revoked([]))],
  ['a shape of holes', 'ERR_SHAPE', ['shape', '4294967295', '65536'], () => Tensor.zeros(holes)],
  ['an endless device', 'ERR_DEVICE', ['device', /'x{80}\.\.\.'/], () => q.to({ device: ['x'.repeat(1e6)] as Wrong })],
  [
    'an array without a name',
    'ERR_SHAPE',
    ['shape', 'an object'],
    () => Tensor.zeros({ constructor: { name: 5 } } as Wrong),
  ],
  ['a list to round', 'ERR_DTYPE', ['toBfloat16', 'Float32Array'], () => toBfloat16([1.5] as Wrong)],
  ['floats as bits', 'ERR_DTYPE', ['fromFloat16', 'Uint16Array'], () => fromFloat16(new Float32Array(1) as Wrong)],
  ['options that are none', 'ERR_OPTION', ['options', '5'], () => Tensor.zeros([1], 5 as Wrong)],
  ['a seed that is none', 'ERR_OPTION', ['seed', 'undefined'], () => Tensor.randn([1], {} as Wrong)],
  ['random integers', 'ERR_DTYPE', ['dtype', 'int32'], () => Tensor.randn([1], { seed: 1, dtype: 'int32' as Wrong })],
  ['an unknown device', 'ERR_DEVICE', ['device', 'tpu'], () => Tensor.zeros([1], { device: 'tpu' as Wrong })],
  ['a device out of range', 'ERR_DEVICE', ['device', 'cuda:99'], () => Tensor.zeros([1], { device: 'cuda:99' })],
  ['a device of another type', 'ERR_DEVICE', ['device', '3'], () => Tensor.zeros([1], { device: 3 as Wrong })],
  [
    'wrapping what is not shared',
    'ERR_OPTION',
    ['wrap', 'SharedArrayBuffer'],
    () => Tensor.wrap(new Float32Array(4), [4]),
  ],
  [
    'wrapping too little',
    'ERR_SHAPE',
    ['data', '4', '[5]'],
    () => Tensor.wrap(new Float32Array(new SharedArrayBuffer(16)), [5]),
  ],
  ['to an unknown place', 'ERR_DEVICE', ['device', 'mars', "'float16'", "'cuda:N'"], () => q.to('mars' as Wrong)],
  ['to a device without a colon', 'ERR_DEVICE', ["'cuda0'", "'cuda:N'"], () => q.to('cuda0' as Wrong)],
  ['to a device out of range', 'ERR_DEVICE', ['device', 'cuda:99'], () => q.to('cuda:99')],
  ...noTypes.map((name): Row => [`to ${name}`, 'ERR_DTYPE', [name, 'float32', 'cuda:N'], () => q.to(name as Wrong)]),
  ['to with an unknown option', 'ERR_OPTION', ['type'], () => q.to({ type: 'float16' } as Wrong)],
  ['memory of an unknown device', 'ERR_DEVICE', ['device', 'cuda:99'], () => memoryStats('cuda:99')],
  ['a stream on an unknown device', 'ERR_DEVICE', ['device', 'cuda:99'], () => new Stream('cuda:99')],
];

const kinds: Row[] = [
  ['q that is no tensor', 'ERR_OPTION', ['q', '5', 'Tensor'], withQkv(5)],
  ['k that is an array', 'ERR_OPTION', ['k', 'Float32Array', 'Tensor'], withQkv(q, new Float32Array(3))],
  ['v missing', 'ERR_OPTION', ['v', 'undefined', 'Tensor'], () => attention(q, k, undefined as Wrong)],
  ['a posted q', 'ERR_OPTION', ['q is an Object', 'made in this thread'], withQkv(structuredClone(q) as Wrong)],
  ['integer q', 'ERR_DTYPE', ['q', 'int32', 'float32'], withQkv(Tensor.zeros([2, 5, 4, 8], { dtype: 'int32' }))],
  ['k of another type', 'ERR_DTYPE', ['k', 'bfloat16', 'float32', 'to('], withQkv(q, half(2, 7, 2, 8))],
  ['v of another type', 'ERR_DTYPE', ['v', 'bfloat16', 'float32', 'to('], withQkv(q, k, half(2, 7, 2, 6))],
  ['q of rank 3', 'ERR_SHAPE', ['q', '[5, 4, 8]', 'headDim'], withQkv(f(5, 4, 8))],
  ['q of rank 7', 'ERR_SHAPE', ['q', '[1, 1, 1, 1, 1, 1, 1]'], withQkv(f(1, 1, 1, 1, 1, 1, 1))],
  ['k of rank 2', 'ERR_SHAPE', ['k', '[7, 8]'], withQkv(q, f(7, 8))],
  ['batches that differ', 'ERR_SHAPE', ['batch', 'k', '3', '2'], withQkv(q, f(3, 7, 2, 8))],
  ['batch of v', 'ERR_SHAPE', ['batch', 'v', '1', '2'], withQkv(q, k, f(1, 7, 2, 6))],
  ['headDim of k', 'ERR_SHAPE', ['headDim', 'k', '9', '8'], withQkv(q, f(2, 7, 2, 9))],
  ['tokens of v', 'ERR_SHAPE', ['v', '6', '7'], withQkv(q, k, f(2, 6, 2, 6))],
  ['heads of v', 'ERR_SHAPE', ['kvHeads', 'v', '1', '2'], withQkv(q, k, f(2, 7, 1, 6))],
  [
    'heads no multiple of kvHeads',
    'ERR_SHAPE',
    ['heads', '4', '3', 'multiple'],
    withQkv(q, f(2, 7, 3, 8), f(2, 7, 3, 6)),
  ],
  ['fewer heads than kvHeads', 'ERR_SHAPE', ['heads', '4', '8', 'multiple'], withQkv(q, f(2, 7, 8, 8), f(2, 7, 8, 6))],
  ['no query heads', 'ERR_SHAPE', ['heads', '0'], withQkv(f(2, 5, 0, 8))],
  ['no key heads', 'ERR_SHAPE', ['heads', '0'], withQkv(q, f(2, 7, 0, 8), f(2, 7, 0, 6))],
  ['headDim 513', 'ERR_SHAPE', ['headDim', 'q', '513', '512'], withQkv(f(2, 5, 4, 513), f(2, 7, 2, 513))],
  ['headDim 0', 'ERR_SHAPE', ['headDim', 'q', '0'], withQkv(f(2, 5, 4, 0), f(2, 7, 2, 0))],
  ['headDim 513 of v', 'ERR_SHAPE', ['headDim', 'v', '513'], withQkv(q, k, f(2, 7, 2, 513))],
  [
    'q with a strided last axis',
    'ERR_SHAPE',
    ['q', 'stride', 'last axis', 'to('],
    withQkv(f(2, 5, 8, 4).permute(0, 1, 3, 2)),
  ],
  [
    'v with a strided last axis',
    'ERR_SHAPE',
    ['v', 'stride', 'last axis'],
    withQkv(q, k, f(2, 7, 6, 2).permute(0, 1, 3, 2)),
  ],
  ['q disposed of', 'ERR_DISPOSED', ['q', '[2, 5, 4, 8]', 'last use'], withQkv(disposed(f(2, 5, 4, 8)))],
  ['v disposed of', 'ERR_DISPOSED', ['v', '[2, 7, 2, 6]', 'disposed'], withQkv(q, k, disposed(f(2, 7, 2, 6)))],
];

const choices: Row[] = [
  ['an unknown option', 'ERR_OPTION', ['dropout', 'softcap'], withOptions({ dropout: 0.1 })],
  ['an option in other letters', 'ERR_OPTION', ['softCap', "did you mean 'softcap'"], withOptions({ softCap: 1 })],
  ['options that are none', 'ERR_OPTION', ['options', 'object', '[]'], withOptions([])],
  ['a scale that is none', 'ERR_OPTION', ['scale', "'1'"], withOptions({ scale: '1' })],
  ['an infinite scale', 'ERR_OPTION', ['scale', 'Infinity'], withOptions({ scale: Number.POSITIVE_INFINITY })],
  ['NaN as scale', 'ERR_OPTION', ['scale', 'NaN'], withOptions({ scale: Number.NaN })],
  ['a scale beyond float32', 'ERR_OPTION', ['scale', '1e+39'], withOptions({ scale: 1e39 })],
  ['a softcap beyond float32', 'ERR_OPTION', ['softcap', '1e+39'], withOptions({ softcap: 1e39 })],
  ['a softcap below float32', 'ERR_OPTION', ['softcap', '1e-50'], withOptions({ softcap: 1e-50 })],
  ['softcap 0', 'ERR_OPTION', ['softcap', '0'], withOptions({ softcap: 0 })],
  ['a negative softcap', 'ERR_OPTION', ['softcap', '-1'], withOptions({ softcap: -1 })],
  ['NaN as softcap', 'ERR_OPTION', ['softcap', 'NaN'], withOptions({ softcap: Number.NaN })],
  ['a precision nobody knows', 'ERR_OPTION', ['precision', 'fp8', 'tf32'], withOptions({ precision: 'fp8' })],
  ['a mask that is none', 'ERR_OPTION', ['mask', "'causal'", 'causal()'], withOptions({ mask: 'causal' })],
  ['a mask function not called', 'ERR_OPTION', ['mask', 'function', 'causal()'], withOptions({ mask: causal })],
  ['a list of masks without any', 'ERR_OPTION', ['mask', '4294967295'], withOptions({ mask: holes })],
  ['a tensor as mask', 'ERR_OPTION', ['mask', 'Tensor'], withOptions({ mask: [q] })],
  [
    'a bias that is none',
    'ERR_OPTION',
    ['bias', 'Tensor', 'keyBias()', 'bucketBias() or sphereBias()'],
    withOptions({ bias: f(7) }),
  ],
  ['a stream that is none', 'ERR_OPTION', ['stream', '1'], withOptions({ stream: 1 })],
  ['a stream disposed of', 'ERR_DISPOSED', ['Stream', 'disposed'], withOptions({ stream: gone })],
  ['sinks of another length', 'ERR_SHAPE', ['sinks', '[2]', '[4]'], withOptions({ sinks: f(2) })],
  ['sinks of two axes', 'ERR_SHAPE', ['sinks', '[2, 4]', '[4]'], withOptions({ sinks: f(2, 4) })],
  ['half sinks', 'ERR_DTYPE', ['sinks', 'bfloat16', 'float32'], withOptions({ sinks: half(4) })],
  ['sinks that are an array', 'ERR_OPTION', ['sinks', 'Tensor'], withOptions({ sinks: [1, 2, 3, 4] })],
  ['sinks disposed of', 'ERR_DISPOSED', ['sinks', '[4]'], withOptions({ sinks: disposed(f(4)) })],
  ['extra without v', 'ERR_OPTION', ['extra.v'], withOptions({ extra: { k: f(2, 3, 2, 8) } })],
  [
    'extra with more',
    'ERR_OPTION',
    ['extra', 'mask'],
    withOptions({ extra: { k: f(2, 3, 2, 8), v: f(2, 3, 2, 6), mask: 1 } }),
  ],
  [
    'headDim of extra',
    'ERR_SHAPE',
    ['extra.k', 'headDim', '7', '8'],
    withOptions({ extra: { k: f(2, 3, 2, 7), v: f(2, 3, 2, 6) } }),
  ],
  [
    'headDim of the values of extra',
    'ERR_SHAPE',
    ['extra.v', '5', '6'],
    withOptions({ extra: { k: f(2, 3, 2, 8), v: f(2, 3, 2, 5) } }),
  ],
  [
    'batch of extra',
    'ERR_SHAPE',
    ['extra.k', 'batch', '1'],
    withOptions({ extra: { k: f(1, 3, 2, 8), v: f(1, 3, 2, 6) } }),
  ],
  [
    'kvHeads of extra',
    'ERR_SHAPE',
    ['extra.k', 'kvHeads', '4', '2'],
    withOptions({ extra: { k: f(2, 3, 4, 8), v: f(2, 3, 4, 6) } }),
  ],
  [
    'lengths of extra',
    'ERR_SHAPE',
    ['extra', '3', '4'],
    withOptions({ extra: { k: f(2, 3, 2, 8), v: f(2, 4, 2, 6) } }),
  ],
  [
    'rank of extra',
    'ERR_SHAPE',
    ['extra.k', '[2, 3, 1, 2, 8]'],
    withOptions({ extra: { k: f(2, 3, 1, 2, 8), v: f(2, 3, 1, 2, 6) } }),
  ],
  [
    'dtype of extra',
    'ERR_DTYPE',
    ['extra.k', 'bfloat16'],
    withOptions({ extra: { k: half(2, 3, 2, 8), v: half(2, 3, 2, 6) } }),
  ],
  ['out of another shape', 'ERR_SHAPE', ['out', '[2, 5, 4, 8]', '[2, 5, 4, 6]'], withOptions({ out: f(2, 5, 4, 8) })],
  ['out of another type', 'ERR_DTYPE', ['out', 'bfloat16', 'float32'], withOptions({ out: half(2, 5, 4, 6) })],
  [
    'out with a strided last axis',
    'ERR_SHAPE',
    ['out', 'stride'],
    withOptions({ out: f(2, 5, 6, 4).permute(0, 1, 3, 2) }),
  ],
  ['out disposed of', 'ERR_DISPOSED', ['out', 'disposed'], withOptions({ out: disposed(f(2, 5, 4, 6)) })],
  ['out over an input', 'ERR_OPTION', ['out', 'input'], () => attention(grid, grid, grid, { out: grid })],
];

const packed = f(1, 5, 4, 8);
const ragged = (a: Wrong, b: Wrong, ...[qq, kk, vv]: Wrong[]) => {
  const options = { cuSeqlens: { q: a, k: b } };
  return () => attention(qq ?? packed, kk ?? f(1, 7, 2, 8), vv ?? f(1, 7, 2, 6), options);
};
const sequences: Row[] = [
  ['cuSeqlens without k', 'ERR_OPTION', ['cuSeqlens.k'], withOptions({ cuSeqlens: { q: ints(0, 5) } })],
  ['cuSeqlens that is a tensor', 'ERR_OPTION', ['cuSeqlens'], withOptions({ cuSeqlens: ints(0, 5) })],
  ['cuSeqlens of floats', 'ERR_DTYPE', ['cuSeqlens.q', 'float32', 'int32'], ragged(f(2), ints(0, 7))],
  ['cuSeqlens of other lengths', 'ERR_SHAPE', ['cuSeqlens.k', '[3]', '[2]'], ragged(ints(0, 5), ints(0, 3, 7))],
  ['cuSeqlens of two axes', 'ERR_SHAPE', ['cuSeqlens.q', '[1, 2]'], ragged(ints(0, 5).reshape([1, 2]), ints(0, 7))],
  ['empty cuSeqlens', 'ERR_SHAPE', ['cuSeqlens.q', '[0]'], ragged(ints(), ints())],
  ['cuSeqlens and a batch', 'ERR_SHAPE', ['cuSeqlens', 'q', 'batch 1'], ragged(ints(0, 5), ints(0, 7), q, k, v)],
  [
    'cuSeqlens and a grid',
    'ERR_SHAPE',
    ['cuSeqlens', 'q', '[1, 6, 4, 2, 8]'],
    ragged(ints(0, 24), ints(0, 24), grid, grid, grid),
  ],
  [
    'cuSeqlens and a neighborhood',
    'ERR_OPTION',
    ['neighborhood', 'cuSeqlens'],
    () =>
      attention(packed, packed, packed, {
        cuSeqlens: { q: ints(0, 5), k: ints(0, 5) },
        mask: neighborhood({ window: 3 }),
      }),
  ],
];

const masks: Row[] = [
  ['window without right', 'ERR_OPTION', ['right', 'undefined'], () => window({ left: 1 } as Wrong)],
  ['a window of -2', 'ERR_OPTION', ['left', '-2', '-1'], () => window({ left: -2, right: 0 })],
  ['a fraction of a window', 'ERR_OPTION', ['right', '0.5'], () => window({ left: 1, right: 0.5 })],
  ['window with an unknown option', 'ERR_OPTION', ['centre', "'left'"], () => window({ centre: 1 } as Wrong)],
  ['no neighborhood window', 'ERR_OPTION', ['window', 'undefined'], () => neighborhood({} as Wrong)],
  ['a neighborhood window of 0', 'ERR_OPTION', ['window', '0'], () => neighborhood({ window: 0 })],
  ['a neighborhood window of -2', 'ERR_OPTION', ['window[1]', '-2'], () => neighborhood({ window: [3, -2] })],
  ['a stride beyond the window', 'ERR_OPTION', ['stride 4', '1 ... 3'], () => neighborhood({ window: 3, stride: 4 })],
  ['a stride of 0', 'ERR_OPTION', ['stride', '0'], () => neighborhood({ window: 3, stride: 0 })],
  ['a dilation of 0', 'ERR_OPTION', ['dilation', '0'], () => neighborhood({ window: 3, dilation: 0 })],
  [
    'causal and wrapping',
    'ERR_OPTION',
    ['wrap', 'causal', 'leave one of them out'],
    () => neighborhood({ window: 3, causal: true, wrap: true }),
  ],
  ['causal that is a number', 'ERR_OPTION', ['causal', '1'], () => neighborhood({ window: 3, causal: 1 as Wrong })],
  ['an unknown option', 'ERR_OPTION', ['kernel_size', "'window'"], () => neighborhood({ kernel_size: 3 } as Wrong)],
  ['values for four axes', 'ERR_OPTION', ['window', '[1, 2, 3, 4]'], () => neighborhood({ window: [1, 2, 3, 4] })],
  [
    'lists of two lengths',
    'ERR_OPTION',
    ['window', '2', '3'],
    () => neighborhood({ window: [3, 3], stride: [1, 1, 1] }),
  ],
  ['no settings', 'ERR_OPTION', ['neighborhood', 'empty'], () => neighborhood([])],
  ['a window beyond its axis', 'ERR_OPTION', ['window', '5', '4', 'axis 1'], onGrid(neighborhood({ window: 5 }))],
  [
    'window and dilation beyond',
    'ERR_OPTION',
    ['window', '3', 'dilation', '2'],
    onGrid(neighborhood({ window: 3, dilation: 2 })),
  ],
  [
    'dilation beyond its axis',
    'ERR_OPTION',
    ['dilation', '5', '4'],
    onGrid(neighborhood({ window: -1, dilation: [1, 5] })),
  ],
  ['three values for two axes', 'ERR_OPTION', ['window', '3', '2'], onGrid(neighborhood({ window: [2, 2, 2] }))],
  ['a stride beyond the extent', 'ERR_OPTION', ['stride', '5', '4'], onGrid(neighborhood({ window: -1, stride: 5 }))],
  [
    'wrapping what does not divide',
    'ERR_OPTION',
    ['wrap', '4', '3'],
    onGrid(neighborhood({ window: 3, stride: 3, wrap: true })),
  ],
  [
    'three settings for two heads',
    'ERR_OPTION',
    ['3', '2', 'head'],
    onGrid(neighborhood(new Array(3).fill({ window: 2 }))),
  ],
  [
    'a neighborhood across lengths',
    'ERR_SHAPE',
    ['neighborhood', '[5]', '[7]'],
    withOptions({ mask: neighborhood({ window: 3 }) }),
  ],
];

const biases: Row[] = [
  ['keyBias of no tensor', 'ERR_OPTION', ['keyBias', 'Tensor'], () => keyBias([1] as Wrong)],
  ['denseBias of no tensor', 'ERR_OPTION', ['denseBias', 'Tensor'], () => denseBias(undefined as Wrong)],
  ['a half keyBias', 'ERR_DTYPE', ['keyBias', 'bfloat16', 'float32'], () => keyBias(half(7))],
  ['an integer denseBias', 'ERR_DTYPE', ['denseBias', 'int32', 'float32'], () => denseBias(ints(1))],
  ['keyBias of rank 4', 'ERR_SHAPE', ['keyBias', '[1, 1, 1, 7]'], () => keyBias(f(1, 1, 1, 7))],
  ['denseBias of rank 5', 'ERR_SHAPE', ['denseBias', '[1, 1, 1, 1, 7]'], () => denseBias(f(1, 1, 1, 1, 7))],
  ['keyBias of another length', 'ERR_SHAPE', ['keyBias', '[5]', '[Lk]'], withOptions({ bias: keyBias(f(5)) })],
  ['keyBias of length 1', 'ERR_SHAPE', ['keyBias', '[1]', '[Lk]'], withOptions({ bias: keyBias(f(1)) })],
  ['keyBias of another batch', 'ERR_SHAPE', ['keyBias', '[3, 7]'], withOptions({ bias: keyBias(f(3, 7)) })],
  ['keyBias by kvHeads', 'ERR_SHAPE', ['keyBias', '[2, 2, 7]'], withOptions({ bias: keyBias(f(2, 2, 7)) })],
  [
    'denseBias turned round',
    'ERR_SHAPE',
    ['denseBias', '[7, 5]', '[2, 4, 5, 7]'],
    withOptions({ bias: denseBias(f(7, 5)) }),
  ],
  ['the second of two', 'ERR_SHAPE', ['bias', '1', '[6]'], withOptions({ bias: [keyBias(f(7)), denseBias(f(6))] })],
  ['slopes for other heads', 'ERR_SHAPE', ['slopes', '[3]', '[4]'], withOptions({ bias: alibi(f(3)) })],
  ['slopes of rank 2', 'ERR_SHAPE', ['alibi', 'slopes', '[1, 4]'], () => alibi(f(1, 4))],
  [
    'a half bias to factorize',
    'ERR_DTYPE',
    ['factorizeBias: dense is bfloat16', "to('float32')"],
    () => factorizeBias(half(4, 4), { rank: 1 }),
  ],
  [
    'half features to fit',
    'ERR_DTYPE',
    ['fitBias: q is bfloat16', "to('float32')"],
    () => fitBias(() => 1, { q: half(4, 2), k: f(4, 2), rank: 1 }),
  ],
  [
    'a half bias to fit',
    'ERR_DTYPE',
    ['fitBias: the bias is bfloat16', "to('float32')"],
    () => fitBias(half(4, 4), { q: f(4, 2), k: f(4, 2), rank: 1 }),
  ],
  [
    'one row to fit',
    'ERR_SHAPE',
    ['fitBias: k has one row', 'two or more'],
    () => fitBias(() => 1, { q: f(4, 2), k: f(1, 2), rank: 1 }),
  ],
  ['half slopes', 'ERR_DTYPE', ['alibi', 'slopes', 'bfloat16', 'float32'], () => alibi(half(4))],
  ['alibi on a grid', 'ERR_SHAPE', ['alibi', '[6, 4]', 'distanceBias()'], withGrid({ bias: alibi() })],
  [
    'factors of rank 3',
    'ERR_SHAPE',
    ['lowRankBias', 'phiQ', '[5, 4, 2]'],
    () => lowRankBias(f(5, 4, 2), f(1, 7, 4, 2)),
  ],
  [
    'no second factor',
    'ERR_OPTION',
    ['lowRankBias', 'phiK', 'undefined'],
    () => lowRankBias(f(1, 5, 4, 2), undefined as Wrong),
  ],
  ['factors of two ranks', 'ERR_SHAPE', ['phiQ', '2', 'phiK', '3'], () => lowRankBias(f(1, 5, 4, 2), f(1, 7, 4, 3))],
  ['half factors', 'ERR_DTYPE', ['phiK', 'bfloat16'], () => lowRankBias(f(1, 5, 4, 2), half(1, 7, 4, 2))],
  ['rank 0', 'ERR_SHAPE', ['phiQ', 'rank 0'], withOptions({ bias: lowRankBias(f(1, 5, 4, 0), f(1, 7, 4, 0)) })],
  [
    'factors by kvHeads',
    'ERR_SHAPE',
    ['phiK', '[1, 7, 2, 3]', '[2, 4, 7, 3]'],
    withOptions({ bias: lowRankBias(f(1, 5, 4, 3), f(1, 7, 2, 3)) }),
  ],
  [
    'factors of other queries',
    'ERR_SHAPE',
    ['phiQ', '[1, 7, 1, 3]', 'Lq'],
    withOptions({ bias: lowRankBias(f(1, 7, 1, 3), f(1, 7, 1, 3)) }),
  ],
  [
    'factors with a stride',
    'ERR_SHAPE',
    ['phiQ', 'stride 5', 'to()'],
    withOptions({ bias: lowRankBias(f(1, 3, 1, 5).permute(0, 3, 2, 1), f(1, 7, 1, 3)) }),
  ],
  ['no coordinates', 'ERR_OPTION', ['distanceBias', 'k', 'undefined'], () => distanceBias({ q: f(5, 2) } as Wrong)],
  ['five dimensions', 'ERR_SHAPE', ['distanceBias', '5', '1 to 4'], () => distanceBias({ q: f(5, 5), k: f(7, 5) })],
  ['two dimensions and three', 'ERR_SHAPE', ['q', '2', 'k', '3'], () => distanceBias({ q: f(5, 2), k: f(7, 3) })],
  [
    'an unknown distance',
    'ERR_OPTION',
    ['weights', "'weight'"],
    () => distanceBias({ q: f(5, 2), k: f(7, 2), weights: 1 } as Wrong),
  ],
  ['weight NaN', 'ERR_OPTION', ['weight', 'NaN'], () => distanceBias({ q: f(5, 2), k: f(7, 2), weight: Number.NaN })],
  [
    'points of other keys',
    'ERR_SHAPE',
    ['k of distanceBias', '[6, 2]', '[2, 7, 2]'],
    withOptions({ bias: distanceBias({ q: f(5, 2), k: f(6, 2) }) }),
  ],
  [
    'weights of other heads',
    'ERR_SHAPE',
    ['weight', '[2, 5, 2]', '[2, 4, 5]'],
    withOptions({ bias: distanceBias({ q: f(5, 2), k: f(7, 2), weight: f(2, 5, 2) }) }),
  ],
  ['an even table', 'ERR_SHAPE', ['relativePositionBias', '[4, 6]', 'odd'], () => relativePositionBias(f(4, 6))],
  ['no dilation', 'ERR_OPTION', ['dilation', '0'], () => relativePositionBias(f(4, 5), { dilation: 0 })],
  [
    'two dilations of one axis',
    'ERR_OPTION',
    ['dilation', '[1, 2]'],
    () => relativePositionBias(f(4, 5), { dilation: [1, 2] }),
  ],
  [
    'a table of other heads',
    'ERR_SHAPE',
    ['table', '[3, 5]', '[4, 5]'],
    withOptions({ bias: relativePositionBias(f(3, 5)) }),
  ],
  [
    'a table of one axis on a grid',
    'ERR_SHAPE',
    ['table', '[2, 5]', '2 token axes'],
    withGrid({ bias: relativePositionBias(f(2, 5)) }),
  ],
  ['buckets of rank 1', 'ERR_SHAPE', ['bucketBias', '[32]', '[buckets, heads]'], () => bucketBias(f(32))],
  [
    'buckets too near',
    'ERR_OPTION',
    ['bucketBias', 'maxDistance', '8'],
    () => bucketBias(f(32, 4), { maxDistance: 8 }),
  ],
  [
    'buckets too far',
    'ERR_OPTION',
    ['bucketBias', 'maxDistance is 1099511627776', 'for 4 heads it is at most 8388607'],
    () => bucketBias(f(32, 4), { maxDistance: 2 ** 40 }),
  ],
  [
    'buckets of too many heads',
    'ERR_SHAPE',
    ['bucketBias', `[2, ${2 ** 24}]`, `${2 ** 24} heads times the 5 positions`, 'use fewer heads or buckets'],
    () => bucketBias(Tensor.empty([2, 2 ** 24], { dtype: 'float32' }), { bidirectional: false, maxDistance: 2 }),
  ],
  ['half buckets', 'ERR_DTYPE', ['bucketBias: table is bfloat16', "to('float32')"], () => bucketBias(half(32, 4))],
  [
    'buckets that do not lie side by side',
    'ERR_SHAPE',
    ['bucketBias: ', 'table', '[1, 32]', "copy it with to('float32')"],
    () => bucketBias(f(4, 32).permute(1, 0)),
  ],
  [
    'buckets that are still being written',
    'ERR_PENDING',
    ['bucketBias: work still writes table', 'read()'],
    () => {
      const big = Tensor.zeros([1, 4000, 8, 64]);
      const outs = [1, 2, 3].map(() => attention(big, big, big).out); // one after the other
      bucketBias(outs[2]!.reshape([4000 * 8, 64]), { maxDistance: 10000 });
    },
  ],
  [
    'latitudes without end',
    'ERR_OPTION',
    ['sphereBias', 'latitudes is 1099511627776', "67108864 for 'cells'"],
    () => sphereBias({ latitudes: 2 ** 40, longitudes: 4 }),
  ],
  ...(['gauss', 'equiangular'] as const).map(
    (of): Row => [
      `latitudes that take too long: ${of}`,
      'ERR_OPTION',
      ['sphereBias', `latitudes is 1000000; it must be at most 4096 for '${of}'`],
      () => sphereBias({ latitudes: 1e6, longitudes: 4, grid: of }),
    ],
  ),
  [
    'longitudes without end',
    'ERR_OPTION',
    ['sphereBias', '4 latitudes x 1099511627776 longitudes', '67108864'],
    () => sphereBias({ latitudes: 4, longitudes: 2 ** 40 }),
  ],
  ['one latitude', 'ERR_OPTION', ['sphereBias', 'latitudes', '1'], () => sphereBias({ latitudes: 1, longitudes: 4 })],
  [
    'an unknown grid',
    'ERR_OPTION',
    ['sphereBias', "'hex'", "'gauss'"],
    () => sphereBias({ latitudes: 4, longitudes: 4, grid: 'hex' as Wrong }),
  ],
  [
    'a bias disposed of',
    'ERR_DISPOSED',
    ['bias', '[7]'],
    () => {
      const tensor = f(7);
      const bias = keyBias(tensor);
      tensor.dispose();
      attention(q, k, v, { bias });
    },
  ],
];

const part = () => ({ out: f(2, 5, 4, 6), lse: f(2, 5, 4) });
const merges: Row[] = [
  ['parts without any', 'ERR_OPTION', ['parts', '4294967295'], () => merge(holes)],
  ['no parts', 'ERR_OPTION', ['parts'], () => merge([])],
  ['parts that are no list', 'ERR_OPTION', ['parts', 'Object'], () => merge(part() as Wrong)],
  [
    'a part without lse',
    'ERR_OPTION',
    ['parts[1].lse', 'Tensor'],
    () => merge([part(), { out: f(2, 5, 4, 6) } as Wrong]),
  ],
  [
    'shapes that differ',
    'ERR_SHAPE',
    ['parts[1]', '[2, 5, 4, 7]'],
    () => merge([part(), { out: f(2, 5, 4, 7), lse: f(2, 5, 4) }]),
  ],
  [
    'lse of another shape',
    'ERR_SHAPE',
    ['parts[0]', '[2, 5, 1]'],
    () => merge([{ out: f(2, 5, 4, 6), lse: f(2, 5, 1) }]),
  ],
  [
    'types that differ',
    'ERR_DTYPE',
    ['parts[1].out', 'bfloat16', 'float32', 'to()'],
    () => merge([part(), { out: half(2, 5, 4, 6), lse: f(2, 5, 4) }]),
  ],
  [
    'a half lse',
    'ERR_DTYPE',
    ['parts[0].lse', 'bfloat16', 'float32'],
    () => merge([{ out: f(2, 5, 4, 6), lse: half(2, 5, 4) }]),
  ],
  [
    'integers',
    'ERR_DTYPE',
    ['parts[0].out', 'int32'],
    () => merge([{ out: ints(1, 2).reshape([1, 1, 1, 2]), lse: f(1, 1, 1) }]),
  ],
  ['out of another shape', 'ERR_SHAPE', ['out', '[2, 5, 4, 5]'], () => merge([part()], { out: f(2, 5, 4, 5) })],
  ['an unknown option', 'ERR_OPTION', ['weights', "'out'"], () => merge([part()], { weights: [1] } as Wrong)],
  ['a part disposed of', 'ERR_DISPOSED', ['parts[0].out'], () => merge([{ ...part(), out: disposed(f(2, 5, 4, 6)) }])],
];

const groups = { tensors, 'q, k and v': kinds, options: choices, cuSeqlens: sequences, masks, biases, merge: merges };

describe.each(Object.entries(groups))('%s', (_, table) => {
  it.each(table)('%s', (_name, code, patterns, call) => {
    let error: unknown;
    try {
      call();
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(AttentionError);
    const { code: got, message, name } = error as AttentionError;
    expect(name).toBe('AttentionError');
    expect(got, message).toBe(code);
    for (const pattern of patterns) {
      if (typeof pattern === 'string') expect(message).toContain(pattern);
      else expect(message).toMatch(pattern);
    }
    expect(message.length).toBeLessThan(500);
  });
});

describe('devices', () => {
  const unusable = devices().filter(({ usable }) => !usable);

  it.runIf(unusable.length > 0)('that cannot be used say why', () => {
    for (const { device, reason, message } of unusable) {
      expect(reason).not.toBe('ok');
      expect(message.length).toBeGreaterThan(10);
      expect(() => Tensor.zeros([1], { device })).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }));
      expect(() => Tensor.zeros([1], { device })).toThrow(reason);
      expect(() => q.to(device)).toThrow(expect.objectContaining({ code: 'ERR_DEVICE' }));
    }
  });
});

describe('a refused call', () => {
  const refuse = (out: Tensor, more: object) => {
    expect(() => attention(q, k, v, { out, stream, sinks: f(4), ...more })).toThrow(AttentionError);
  };

  it('writes nothing, enqueues nothing and keeps nothing', async () => {
    const out = Tensor.from(new Float32Array(2 * 5 * 4 * 6).fill(7), [2, 5, 4, 6]);
    await stream.synchronize();
    const wrong = [
      { scale: Number.NaN },
      { mask: neighborhood({ window: 3 }) },
      { bias: keyBias(f(6)) },
      { sinks: f(3) },
    ];
    const { live, bytes } = memoryStats();
    const before = { live, bytes };
    for (let round = 0; round < 50; round++) {
      for (const more of wrong) {
        const sinks = f(4);
        expect(() => attention(q, k, v, { out, stream, sinks, ...more })).toThrow(AttentionError);
        sinks.dispose();
      }
    }
    const after = memoryStats();
    expect({ live: after.live, bytes: after.bytes }).toEqual(before);
    expect([...out.data]).toEqual(new Array(240).fill(7)); // readable at once: nothing is pending
  });

  it('leaves the stream usable', async () => {
    const out = Tensor.empty([2, 5, 4, 6], { dtype: 'float32' });
    refuse(out, { softcap: -1 });
    attention(q, k, v, { out, stream });
    await stream.synchronize();
    expect([...out.data]).toEqual(new Array(240).fill(0));
  });
});

describe('what is in use', () => {
  it('data of a tensor still being written is ERR_PENDING', async () => {
    const big = Tensor.randn([1, 4000, 8, 64], { seed: 1 });
    const { out } = attention(big, big, big);
    expect(() => out.data).toThrow(expect.objectContaining({ code: 'ERR_PENDING' }));
    expect(() => out.data).toThrow(/read\(\)/);
    await out.read();
    expect(out.data.length).toBe(4000 * 8 * 64);
  });

  it('everything of a tensor disposed of is ERR_DISPOSED and names it', () => {
    const tensor = f(3, 4);
    tensor.dispose();
    tensor.dispose();
    expect(tensor.disposed).toBe(true);
    for (const use of [
      () => tensor.data,
      () => tensor.read(),
      () => tensor.to('float16'),
      () => tensor.reshape([12]),
      () => tensor.permute(1, 0),
      () => tensor.slice([0, 1]),
    ]) {
      expect(use).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
      expect(use).toThrow('float32 Tensor [3, 4]');
    }
  });

  it('memory that is not there is ERR_OUT_OF_MEMORY and says what is held', () => {
    const ask = () => Tensor.zeros([2 ** 22, 2 ** 22], { dtype: 'float32' }); // 64 TiB
    expect(ask).toThrow(expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }));
    expect(ask).toThrow(/tensors.*alive.*hold/);
  });
});

describe('an error that the addon has made', () => {
  it('is an AttentionError like those of TypeScript, and says where the call is', () => {
    let thrown: Wrong;
    try {
      attention(q, k, f(1, 1, 1, 1));
    } catch (error) {
      thrown = error;
    }
    const own = new AttentionError(thrown.code, thrown.message);
    expect(thrown).toBeInstanceOf(AttentionError);
    expect(Object.getOwnPropertyNames(thrown).sort()).toEqual(Object.getOwnPropertyNames(own).sort());
    expect(String(thrown)).toBe(String(own));
    expect(thrown.stack.startsWith(`AttentionError: ${thrown.message}\n`)).toBe(true);
    expect(thrown.stack).toContain(__filename);
  });
});
