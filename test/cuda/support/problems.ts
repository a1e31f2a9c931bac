// Problems for the tests of CUDA kernels.
import fc from 'fast-check';
import { count, type Float, normal, uniform, type Values } from '../../support/numbers';
import type { MaskSpec, Problem } from '../../support/oracle';

export type Precision = 'float32' | 'tf32';

/** A problem without its numbers, which follow from the seed. */
export interface Spec {
  dtype: Float;
  precision?: Precision;
  batch?: number;
  kvHeads?: number;
  /** Query heads for each head of keys. */
  group?: number;
  queries: number;
  keys: number;
  headDim: number;
  valueDim?: number;
  mask?: MaskSpec;
  scale?: number;
  softcap?: number;
  sinks?: boolean;
  /** Which axes of [batch, heads, Lq, Lk] are not broadcast, as bits; -1 for no bias. */
  denseBias?: number;
  /** Rank of the key bias; 0 for none. */
  keyBias?: number;
  extra?: number;
  cuSeqlens?: { q: number[]; k: number[] };
  seed?: number;
}

export const CAUSAL: MaskSpec = { left: -1, right: 0 };

export function problemOf(spec: Spec): Problem {
  const { dtype, batch = 1, kvHeads = 1, group = 1, queries, keys, headDim, valueDim = headDim } = spec;
  const random = uniform(spec.seed ?? 1);
  const heads = kvHeads * group;
  const make = (...shape: number[]): Values => normal(random, dtype, shape);
  const float32 = (...shape: number[]): Values => normal(random, 'float32', shape);
  const problem: Problem = {
    q: make(batch, queries, heads, headDim),
    k: make(batch, keys, kvHeads, headDim),
    v: make(batch, keys, kvHeads, valueDim),
    masks: spec.mask ? [spec.mask] : [],
    scale: spec.scale,
    softcap: spec.softcap,
    cuSeqlens: spec.cuSeqlens,
  };
  if (spec.sinks) problem.sinks = float32(heads);
  if (spec.extra) {
    problem.extra = {
      k: make(batch, spec.extra, kvHeads, headDim),
      v: make(batch, spec.extra, kvHeads, valueDim),
    };
  }
  if (spec.keyBias) problem.keyBias = float32(...[[keys], [batch, keys], [batch, heads, keys]][spec.keyBias - 1]!);
  const bits = spec.denseBias ?? -1;
  if (bits >= 0) {
    const shape = [batch, heads, queries, keys].map((extent, axis) => ((bits >> (3 - axis)) & 1 ? extent : 1));
    problem.denseBias = float32(...shape);
  }
  return problem;
}

/** Tokens [from, to) of keys and values become NaN. */
export function poison({ k, v }: Problem, from: number, to: number): void {
  for (const { data, shape } of [k, v]) {
    const [batch, tokens] = shape as [number, number];
    const token = count(shape.slice(2));
    for (let b = 0; b < batch; b++) data.fill(Number.NaN, (b * tokens + from) * token, (b * tokens + to) * token);
  }
}

/** Every pair of padded dimensions that kernels of mma.sync are made for. */
const halves: [number, number][] = [64, 96, 128, 192, 256].map((dim) => [dim, dim]);
const floats: [number, number][] = [64, 128, 256].map((dim) => [dim, dim]);
export const KERNELS: { dtype: Float; precision?: Precision; dimensions: [number, number][] }[] = [
  { dtype: 'float16', dimensions: [...halves, [192, 128]] },
  { dtype: 'bfloat16', dimensions: [...halves, [192, 128]] },
  { dtype: 'float32', dimensions: floats },
  { dtype: 'float32', precision: 'tf32', dimensions: floats },
];

const length = fc.oneof(
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 40 }) },
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 200 }) },
  { weight: 1, arbitrary: fc.constantFrom(15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129) },
);
const dimension = fc.oneof(
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 128 }) },
  { weight: 1, arbitrary: fc.integer({ min: 129, max: 256 }) },
  { weight: 2, arbitrary: fc.constantFrom(8, 64, 80, 96, 128, 192, 256) },
);
const reach = fc.oneof(fc.constant(-1), fc.integer({ min: 0, max: 70 }));

/** Ascending offsets, some of whose sequences are empty, from the first token or a later one on. */
const offsets = (tokens: number, sequences: number) =>
  fc
    .array(fc.integer({ min: 0, max: tokens }), { minLength: sequences + 1, maxLength: sequences + 1 })
    .map((list) => list.sort((a, b) => a - b));

export const specs: fc.Arbitrary<Spec> = fc
  .record({
    dtype: fc.constantFrom<Float>('float16', 'bfloat16', 'float32'),
    precision: fc.constantFrom<Precision>('float32', 'float32', 'tf32'),
    batch: fc.constantFrom(1, 1, 2),
    kvHeads: fc.constantFrom(1, 1, 2),
    group: fc.constantFrom(1, 1, 2, 3, 4, 8, 17),
    queries: fc.oneof({ weight: 1, arbitrary: fc.integer({ min: 1, max: 4 }) }, { weight: 2, arbitrary: length }),
    keys: fc.oneof({ weight: 20, arbitrary: length }, { weight: 4, arbitrary: fc.integer({ min: 200, max: 600 }) }),
    headDim: dimension,
    valueDim: fc.option(dimension, { nil: undefined }),
    mask: fc.oneof(fc.constant(undefined), fc.constant(CAUSAL), fc.record({ left: reach, right: reach })),
    scale: fc.constantFrom(undefined, undefined, undefined, 0, 0.3, -0.2),
    softcap: fc.constantFrom(undefined, undefined, undefined, 0.5, 30),
    sinks: fc.constantFrom(false, false, true),
    denseBias: fc.oneof({ weight: 3, arbitrary: fc.constant(-1) }, { weight: 1, arbitrary: fc.nat({ max: 15 }) }),
    keyBias: fc.constantFrom(0, 0, 0, 0, 1, 2, 3),
    extra: fc.constantFrom(0, 0, 0, 0, 1, 40),
    sequences: fc.constantFrom(0, 0, 0, 1, 2, 5),
    seed: fc.nat(),
  })
  .chain(({ sequences, ...spec }) => {
    if (sequences === 0) return fc.constant<Spec>(spec);
    return fc
      .record({ q: offsets(spec.queries, sequences), k: offsets(spec.keys, sequences) })
      .map((cuSeqlens): Spec => ({ ...spec, batch: 1, extra: 0, cuSeqlens }));
  })
  // The oracle's and the interpreter's work.
  .filter(({ batch = 1, kvHeads = 1, group = 1, queries, keys, extra = 0, headDim, valueDim = headDim }) => {
    return batch * kvHeads * group * queries * (keys + extra) * (headDim + valueDim) < 4e6;
  });
