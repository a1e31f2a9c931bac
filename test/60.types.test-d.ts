// The types of the public contract: what callers may write, and what the compiler refuses.

import {
  AttentionError,
  alibi,
  attention,
  type Bias,
  type BiasExplanation,
  bucketBias,
  causal,
  type DenseBiasOptions,
  type Device,
  type DType,
  denseBias,
  devices,
  dilatedPlan,
  distanceBias,
  type ErrorCode,
  type Event,
  type Factorization,
  type FittedBias,
  factorizeBias,
  fitBias,
  fromBfloat16,
  fromFloat16,
  type Graph,
  gridPlan,
  HipState,
  hipPlan,
  KvCache,
  KvIndex,
  type KvIndexMethod,
  keyBias,
  type LowRankOptions,
  lowRankBias,
  type Mask,
  memoryStats,
  merge,
  neighborhood,
  pagePlan,
  permuteTokens,
  pooledPlan,
  type ResidentOptions,
  radialPlan,
  relativePositionBias,
  restoreTokens,
  type Simulation,
  SparsePlan,
  Stream,
  simulateNeighborhood,
  sphereBias,
  streamingPlan,
  Tensor,
  type ToOptions,
  type TypedArray,
  toBfloat16,
  toFloat16,
  verticalSlashPlan,
  window,
} from 'node-attention';
import { describe, expectTypeOf, it } from 'vitest';

const t = Tensor.zeros([1, 2, 3, 4]);

describe('tensors', () => {
  it('name every element type and device', () => {
    expectTypeOf<DType>().toEqualTypeOf<'float32' | 'float16' | 'bfloat16' | 'int32' | 'uint8' | 'int64'>();
    expectTypeOf<Device>().toEqualTypeOf<'cpu' | 'cuda' | `cuda:${number}`>();
  });

  it('carry their element type into the arrays they give', () => {
    expectTypeOf(Tensor.empty([1], { dtype: 'int64' }).data).toEqualTypeOf<BigInt64Array>();
    expectTypeOf(Tensor.empty([1], { dtype: 'bfloat16' }).read()).resolves.toEqualTypeOf<Uint16Array>();
    expectTypeOf(Tensor.zeros([1])).toEqualTypeOf<Tensor<'float32'>>();
    expectTypeOf(Tensor.randn([1], { seed: 1 })).toEqualTypeOf<Tensor<'float32'>>();
    expectTypeOf(Tensor.from(new Float32Array(1), [1], { dtype: 'float16' })).toEqualTypeOf<Tensor<'float16'>>();
    expectTypeOf(Tensor.from(new Float32Array(1), [1])).toEqualTypeOf<Tensor<'float32'>>();
    expectTypeOf(Tensor.from(new Int32Array(1), [1], { device: 'cpu' })).toEqualTypeOf<Tensor<'int32'>>();
    expectTypeOf(Tensor.from(new BigInt64Array(1), [1])).toEqualTypeOf<Tensor<'int64'>>();
    expectTypeOf(Tensor.wrap(new Uint8Array(new SharedArrayBuffer(1)), [1])).toEqualTypeOf<Tensor<'uint8'>>();
    const bits = new Uint16Array(new SharedArrayBuffer(2));
    expectTypeOf(Tensor.wrap(bits, [1], { dtype: 'bfloat16' })).toEqualTypeOf<Tensor<'bfloat16'>>();
    expectTypeOf(Tensor.from(bits as TypedArray, [1])).toEqualTypeOf<Tensor>();
    expectTypeOf(Tensor.from<'float32'>(new Float32Array(1), [1])).toEqualTypeOf<Tensor<'float32'>>();
    expectTypeOf(Tensor.wrap<'uint8'>(bits as TypedArray, [1])).toEqualTypeOf<Tensor<'uint8'>>();
    const given: { dtype?: DType; device?: Device } | undefined = undefined as { dtype?: DType } | undefined;
    expectTypeOf(Tensor.from(bits as TypedArray, [1], given)).toEqualTypeOf<Tensor>();
    expectTypeOf(t.to('uint8').dtype).toEqualTypeOf<'uint8'>();
    expectTypeOf(t.to('cuda:1')).toEqualTypeOf<Tensor<'float32'>>();
    expectTypeOf(t.to({ device: 'cpu', stream: new Stream() })).toEqualTypeOf<Tensor<'float32'>>();
    expectTypeOf(t.to({ dtype: 'uint8', device: 'cpu' })).toEqualTypeOf<Tensor<'uint8'>>();
    expectTypeOf(t.to({} as ToOptions)).toEqualTypeOf<Tensor>();
    expectTypeOf(t.to('cpu' as Device | DType | ToOptions)).toEqualTypeOf<Tensor>();
  });

  it('keep it in views', () => {
    expectTypeOf(t.reshape([24]).permute(0).slice([0, 1])).toEqualTypeOf<Tensor<'float32'>>();
  });

  it('have read-only properties', () => {
    expectTypeOf(t).toExtend<{
      readonly shape: readonly number[];
      readonly strides: readonly number[];
      readonly device: Device;
      readonly byteLength: number;
      readonly disposed: boolean;
    }>();
    expectTypeOf(t).toExtend<Disposable>();
    // @ts-expect-error: a shape is changed by reshape
    t.shape = [24];
    // @ts-expect-error: nor in place
    t.shape[0] = 24;
  });

  it('are made by functions that check their options', () => {
    // @ts-expect-error: the dtype of memory without contents must be given
    Tensor.empty([1], {});
    // @ts-expect-error: random numbers need a seed
    Tensor.randn([1]);
    // @ts-expect-error: no such element type
    Tensor.zeros([1], { dtype: 'float64' });
    // @ts-expect-error: no tensor of a plain array
    Tensor.from([1, 2], [2]);
    // @ts-expect-error: no such option
    Tensor.zeros([1], { type: 'int32' });
  });
});

describe('attention', () => {
  it('gives out and lse', () => {
    expectTypeOf(attention(t, t, t)).toExtend<{ out: Tensor; lse: Tensor }>();
    expectTypeOf(merge([attention(t, t, t)])).toExtend<{ out: Tensor; lse: Tensor }>();
  });

  it('gives arrays of the element type of q, and lse in float32', () => {
    const half = Tensor.zeros([1, 1, 1, 8], { dtype: 'bfloat16' });
    const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 8, capacity: 8, dtype: 'bfloat16' });
    const found = new KvIndex(cache).search(half, 1);
    for (const { out, lse } of [
      attention(half, half, half),
      attention(half, cache),
      merge([attention(half, half, half)]),
      new KvIndex(cache).attend(half, { topK: 1 }),
    ]) {
      expectTypeOf(out.read()).resolves.toEqualTypeOf<Uint16Array>();
      expectTypeOf(lse.read()).resolves.toEqualTypeOf<Float32Array>();
    }
    expectTypeOf(found.ids.read()).resolves.toEqualTypeOf<Int32Array>();
    expectTypeOf(found.scores.read()).resolves.toEqualTypeOf<Float32Array>();
    expectTypeOf(attention(t as Tensor, t, t).out).toEqualTypeOf<Tensor>();
  });

  it('takes masks and biases, one or several, and every option', () => {
    expectTypeOf([causal(), window({ left: 1, right: -1 }), neighborhood({ window: 3 })]).toEqualTypeOf<Mask[]>();
    expectTypeOf([keyBias(t), denseBias(t)]).toEqualTypeOf<Bias[]>();
    attention(t, t, t, {
      mask: [
        causal(),
        neighborhood([{ window: [3, -1], stride: 1, dilation: [1, 2], causal: [true, false], wrap: false }]),
      ],
      bias: keyBias(t),
      scale: 1,
      softcap: 30,
      sinks: t,
      extra: { k: t, v: t },
      cuSeqlens: { q: t, k: t },
      precision: 'tf32',
      out: t,
      stream: new Stream('cpu'),
    });
  });

  it('refuses what it does not know', () => {
    // @ts-expect-error: no such option
    attention(t, t, t, { masks: causal() });
    // @ts-expect-error: a mask is made by a function
    attention(t, t, t, { mask: 'causal' });
    // @ts-expect-error: a bias is not a tensor
    attention(t, t, t, { bias: t });
    // @ts-expect-error: keys and values come together
    attention(t, t, t, { extra: { k: t } });
    // @ts-expect-error: both sides of a window are given
    window({ left: 1 });
    // @ts-expect-error: a neighborhood has a window
    neighborhood({ stride: 1 });
  });
});

describe('neighborhoods', () => {
  it('are simulated without tensors', () => {
    const video = { shape: [30, 48, 80], window: [18, 24, 24], stride: 1, causal: [true, false, false] };
    expectTypeOf(simulateNeighborhood(video)).toEqualTypeOf<Simulation>();
    expectTypeOf<Simulation>().toExtend<{
      tiles: { visited: number; full: number; partial: number; total: number };
      speedup: { flops: number; worstTile: number; sum: number };
    }>();
    simulateNeighborhood({ ...video, dilation: 1, wrap: false, queryTile: [4, 4, 8], keyTile: [2, 8, 8] });
    // @ts-expect-error: the extents of the axes
    simulateNeighborhood({ window: 3 });
    // @ts-expect-error: a tile has a length for each axis
    simulateNeighborhood({ ...video, queryTile: 64 });
  });
});

describe('sparse plans', () => {
  it('are made by selectors and rules, and are masks', () => {
    const state = new HipState({ refresh: [16, 8, 4] });
    const plans = [
      hipPlan(t, t, { budget: 64, causal: true, state, always: { sink: 4, window: 64 } }),
      radialPlan({ frames: 4, tokensPerFrame: 64, firstFrame: false, device: 'cuda' }),
      streamingPlan({ queries: 64, keys: 128, sink: 4, window: 64, causal: true, estimate: true }),
      dilatedPlan({ queries: 64, keys: 128, window: 64, batch: 2, heads: 4 }),
      gridPlan({ shape: [4, 8, 8], box: [2, 8, 8], reach: [1, 0, 0], keyBlock: 16, stream: new Stream() }),
      verticalSlashPlan({ queries: 64, keys: 128, heads: 2, vertical: [0, 5], slash: [[0], [1, 64]], queryTile: 16 }),
    ];
    const own = SparsePlan.fromBlocks([[0, 1]], { queries: 64, keys: 128, levels: [[0, 5]] });
    expectTypeOf(own.levels).toEqualTypeOf<readonly number[]>();
    pooledPlan(t, t, { budget: 64, levels: [64, 0, 128] });
    expectTypeOf(plans).toEqualTypeOf<SparsePlan[]>();
    expectTypeOf(plans).toExtend<Mask[]>();
    expectTypeOf(new HipState()).toExtend<Disposable>();
    expectTypeOf(state.runs).toEqualTypeOf<number[]>();
    // @ts-expect-error: calls for each stage
    new HipState({ refresh: 16 });
    // @ts-expect-error: only hipPlan has a state
    pagePlan(t, t, { budget: 64, state });
    // @ts-expect-error: only pooledPlan has levels
    pagePlan(t, t, { budget: 64, levels: [64] });
    // @ts-expect-error: a level for each block
    SparsePlan.fromBlocks([[0]], { queries: 64, keys: 128, levels: [1] });
    // @ts-expect-error: a window is needed
    streamingPlan({ queries: 64, keys: 128 });
    // @ts-expect-error: the keys follow from the grid
    gridPlan({ shape: [4], box: [2], keys: 4 });
    // @ts-expect-error: lines are numbers
    verticalSlashPlan({ queries: 64, keys: 128, vertical: ['all'], slash: [] });
    // @ts-expect-error: a video has frames
    radialPlan({ tokensPerFrame: 64 });
  });

  it('are shown', () => {
    const plan = radialPlan({ frames: 4, tokensPerFrame: 64 });
    expectTypeOf(plan.toDense()).toEqualTypeOf<Tensor<'uint8'>>();
    expectTypeOf(plan.toDense({ stream: new Stream() })).toEqualTypeOf<Tensor<'uint8'>>();
    expectTypeOf(plan.density()).toEqualTypeOf<Promise<number>>();
    expectTypeOf(plan.validate()).toEqualTypeOf<Promise<void>>();
  });
});

describe('tokens of a grid', () => {
  it('keep their element type in another order', () => {
    const half = Tensor.zeros([1, 2, 3, 4], { dtype: 'float16' });
    const there = permuteTokens(half, { order: [1, 0], box: [1, 1], stream: new Stream() });
    expectTypeOf(there).toEqualTypeOf<Tensor<'float16'>>();
    expectTypeOf(restoreTokens(there, { shape: [2, 3], order: [1, 0] })).toEqualTypeOf<Tensor<'float16'>>();
    // @ts-expect-error: the extents of the axes
    restoreTokens(there, { order: [1, 0] });
  });
});

describe('halves', () => {
  it('are bits in arrays', () => {
    expectTypeOf(toFloat16(new Float32Array(1))).toEqualTypeOf<Uint16Array>();
    expectTypeOf(toBfloat16(new Float32Array(1))).toEqualTypeOf<Uint16Array>();
    expectTypeOf(fromFloat16(new Uint16Array(1))).toEqualTypeOf<Float32Array>();
    expectTypeOf(fromBfloat16(new Uint16Array(1))).toEqualTypeOf<Float32Array>();
    // @ts-expect-error: bits are no floats
    fromBfloat16(new Float32Array(1));
  });
});

describe('KvIndex', () => {
  it('is made on a cache', () => {
    const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 10 });
    const index = new KvIndex(cache, { method: 'pages', probe: 0.1 });
    expectTypeOf(index.search(t, 5)).toEqualTypeOf<{ ids: Tensor<'int32'>; scores: Tensor<'float32'> }>();
    expectTypeOf(index.attend(t, { topK: 5 }).touched).toEqualTypeOf<Promise<number>>();
    expectTypeOf(index.attend(t, { topK: 5, sink: 1, window: 2 })).toExtend<{ out: Tensor; lse: Tensor }>();
    expectTypeOf(index.attend(t, { topK: 5, estimate: true }).touched).toEqualTypeOf<Promise<number>>();
    expectTypeOf(new KvIndex(cache, { method: 'clusters', clusterSize: 8 }).method).toEqualTypeOf<KvIndexMethod>();
    // @ts-expect-error: topK is needed
    index.attend(t, { sink: 4 });
    expectTypeOf(new KvIndex(cache, { method: 'graph', queries: t, degree: 16, effort: 100 })).toEqualTypeOf<KvIndex>();
    // @ts-expect-error: no such method
    new KvIndex(cache, { method: 'flat' });
  });
});

describe('biases', () => {
  it('are made by functions of one type', () => {
    expectTypeOf(keyBias).toEqualTypeOf<(tensor: Tensor) => Bias>();
    expectTypeOf(denseBias).toEqualTypeOf<(tensor: Tensor, opts?: DenseBiasOptions) => Bias>();
    expectTypeOf<DenseBiasOptions>().toEqualTypeOf<{ heads?: readonly number[] }>();
    expectTypeOf(lowRankBias).toEqualTypeOf<(phiQ: Tensor, phiK: Tensor, opts?: LowRankOptions) => Bias>();
    expectTypeOf<LowRankOptions>().toEqualTypeOf<{ path?: 'auto' | 'matrix' | 'vector' }>();
    expectTypeOf([alibi(), alibi(t), relativePositionBias(t), bucketBias(t)]).toEqualTypeOf<Bias[]>();
    expectTypeOf(distanceBias({ q: t, k: t })).toEqualTypeOf<Bias>();
    distanceBias({ q: t, k: t, weight: 0.5 });
    distanceBias({ q: t, k: t, weight: t });
    relativePositionBias(t, { dilation: [1, 2] });
    bucketBias(t, { maxDistance: 64, bidirectional: false });
    expectTypeOf(sphereBias({ latitudes: 3, longitudes: 4, grid: 'gauss' })).toEqualTypeOf<Bias>();
    expectTypeOf(alibi().explain()).toEqualTypeOf<BiasExplanation>();
    expectTypeOf(alibi().explain().path).toEqualTypeOf<'stored' | 'low rank' | 'closed form'>();
    expectTypeOf(alibi().explain().forced).toEqualTypeOf<'matrix' | 'vector' | null>();
    attention(t, t, t, { bias: [alibi(), keyBias(t)] });
  });

  it('are factorized to what lowRankBias takes', () => {
    expectTypeOf(factorizeBias(t, { rank: 4 })).resolves.toEqualTypeOf<Factorization>();
    expectTypeOf<Factorization>().toExtend<{
      phiQ: Tensor;
      phiK: Tensor;
      rank: number;
      ranks: number[];
      relativeError: number;
      bias: Bias[];
      denseHeads: number[];
    }>();
    factorizeBias(t, { energy: 0.99, maxRank: 64 });
  });

  it('are fitted to tensors and functions', () => {
    expectTypeOf(fitBias(t, { q: t, k: t, rank: 4 })).resolves.toEqualTypeOf<FittedBias>();
    fitBias((x, y, head) => x[0]! * y[0]! + head, {
      q: t,
      k: t,
      rank: 4,
      heads: 2,
      hidden: [16],
      progress: ({ step, steps, error }) => expectTypeOf([step, steps, error]).toEqualTypeOf<number[]>(),
    });
    expectTypeOf<ReturnType<FittedBias['factors']>>().resolves.toExtend<{ phiQ: Tensor; phiK: Tensor }>();
    // @ts-expect-error: a bias is a number
    fitBias(() => 'much', { q: t, k: t, rank: 4 });
    // @ts-expect-error: features of keys too
    fitBias(t, { q: t, rank: 4 });
  });

  it('refuse what they do not know', () => {
    // @ts-expect-error: both factors
    lowRankBias(t);
    // @ts-expect-error: no such path
    lowRankBias(t, t, { path: 'dense' });
    // @ts-expect-error: slopes are a tensor
    alibi([1, 2]);
    // @ts-expect-error: points of the keys too
    distanceBias({ q: t });
    // @ts-expect-error: weights are a number or a tensor
    distanceBias({ q: t, k: t, weight: [1] });
    // @ts-expect-error: no such grid
    sphereBias({ latitudes: 3, longitudes: 4, grid: 'healpix' });
    // @ts-expect-error: no such option
    relativePositionBias(t, { step: 2 });
    // @ts-expect-error: a bias is made by a function
    attention(t, t, t, { bias: {} });
    // @ts-expect-error: a rank is a number
    factorizeBias(t, { rank: 'all' });
  });
});

describe('KvCache', () => {
  it('takes the place of k and v', () => {
    const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 10, rope: { interleaved: true } });
    expectTypeOf(attention(t, cache, { mask: causal() })).toExtend<{ out: Tensor; lse: Tensor }>();
    expectTypeOf(cache.fork()).toEqualTypeOf<KvCache>();
    const resident = { sink: 4, window: 64 };
    const apart = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 10, device: 'cuda', resident });
    expectTypeOf(apart.resident).toEqualTypeOf<Readonly<Required<ResidentOptions>> | undefined>();
    expectTypeOf(apart.deviceBytes).toEqualTypeOf<number>();
    // @ts-expect-error it needs a window
    new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 10, resident: { sink: 4 } });
    const plans = [hipPlan, pagePlan, pooledPlan].map((select) => select(t, cache, { budget: 64, causal: true }));
    expectTypeOf(plans).toEqualTypeOf<SparsePlan[]>();
    pooledPlan(t, t, { topP: 0.9, scale: 0.1, pooled: { queries: 64, keys: 640 } });
    // @ts-expect-error of how many keys
    pooledPlan(t, t, { budget: 8, pooled: { queries: 64 } });
    attention(t, cache, { mask: plans[0]! });
    expectTypeOf(cache.lengths).toEqualTypeOf<number[]>();
    cache.append(t, t, { lengths: [1], stream: new Stream() });
    cache.truncate(3);
    cache.truncate([3]);
    expectTypeOf(
      new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 10, storage: 'int8' }).storage,
    ).toEqualTypeOf<'float32' | 'float16' | 'bfloat16' | 'int8'>();
    expectTypeOf(cache.save('file')).toEqualTypeOf<Promise<void>>();
    expectTypeOf(KvCache.load('file', { capacity: 20, pageSize: 8, device: 'cpu' })).toEqualTypeOf<Promise<KvCache>>();
    // @ts-expect-error: the file says so
    KvCache.load('file', { dtype: 'float32' });
    // @ts-expect-error: capacity must be given
    new KvCache({ batch: 1, kvHeads: 1, headDim: 64 });
    // @ts-expect-error: no such element type
    new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 10, dtype: 'int32' });
    // @ts-expect-error: a cache has lengths of its own
    attention(t, cache, { cuSeqlens: { q: t, k: t } });
    // @ts-expect-error: lengths are counted, not set
    cache.length = 3;
  });
});

describe('streams', () => {
  it('wait by promises, never by blocking', () => {
    const stream = new Stream();
    expectTypeOf(stream.synchronize()).toEqualTypeOf<Promise<void>>();
    expectTypeOf(stream.record()).toEqualTypeOf<Event>();
    expectTypeOf(stream.record().done()).toEqualTypeOf<Promise<void>>();
    expectTypeOf(stream.record().elapsedMs(stream.record())).toEqualTypeOf<Promise<number>>();
    expectTypeOf(stream.capture(() => {})).toEqualTypeOf<Graph>();
    expectTypeOf<Graph['launch']>().toEqualTypeOf<(stream?: Stream) => void>();
    expectTypeOf(stream.dispose()).toBeVoid();
  });
});

describe('devices, memory, errors', () => {
  it('say what is there', () => {
    expectTypeOf(devices()[0]!.usable).toEqualTypeOf<boolean>();
    expectTypeOf(memoryStats('cpu')).toEqualTypeOf<{
      live: number;
      bytes: number;
      peakBytes: number;
      pooledBytes: number;
    }>();
  });

  it('carry a code', () => {
    expectTypeOf<AttentionError>().toExtend<Error>();
    expectTypeOf(new AttentionError('ERR_SHAPE', '').code).toEqualTypeOf<ErrorCode>();
    expectTypeOf<ErrorCode>().toEqualTypeOf<
      | 'ERR_SHAPE'
      | 'ERR_DTYPE'
      | 'ERR_DEVICE'
      | 'ERR_OPTION'
      | 'ERR_DISPOSED'
      | 'ERR_PENDING'
      | 'ERR_OUT_OF_MEMORY'
      | 'ERR_BACKEND'
      | 'ERR_CUDA'
    >();
  });
});
