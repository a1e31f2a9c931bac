// Random problems (fast-check arbitraries).

import fc from 'fast-check';
import { count, type Float, normal, uniform } from './numbers';
import type { Axis, MaskSpec, Problem } from './oracle';

export const dtypes: readonly Float[] = ['float32', 'float16', 'bfloat16'];

/** Legal settings of one token axis. */
export function axisSetting(extent: number): fc.Arbitrary<Axis> {
  return fc
    .oneof({ weight: 3, arbitrary: fc.constant(1) }, { weight: 1, arbitrary: fc.integer({ min: 1, max: extent }) })
    .chain((dilation) => {
      const most = Math.floor(extent / dilation);
      return fc.integer({ min: 1, max: most }).chain((window) =>
        fc.record({
          window: extent % dilation === 0 && window === most ? fc.constantFrom(window, -1) : fc.constant(window),
          stride: fc.oneof(fc.constant(1), fc.constant(window), fc.integer({ min: 1, max: window })),
          dilation: fc.constant(dilation),
          kind: fc.constantFrom('plain', 'causal', 'wrap'),
        }),
      );
    })
    .map(({ kind, ...axis }) => ({
      ...axis,
      causal: kind === 'causal',
      wrap: kind === 'wrap' && extent % axis.dilation === 0 && (extent / axis.dilation) % axis.stride === 0,
    }));
}

const reach = fc.oneof(fc.constant(-1), fc.integer({ min: 0, max: 40 }));
const bands: fc.Arbitrary<MaskSpec> = fc.oneof(
  fc.constant<MaskSpec>({ left: -1, right: 0 }),
  fc.record({ left: reach, right: reach }),
);

/** Lengths on both sides of the tiles' edges, and anything else. */
const length = fc.oneof(
  { weight: 1, arbitrary: fc.constant(1) },
  { weight: 4, arbitrary: fc.integer({ min: 1, max: 40 }) },
  { weight: 2, arbitrary: fc.integer({ min: 1, max: 300 }) },
  { weight: 1, arbitrary: fc.integer({ min: 300, max: 1300 }) },
  { weight: 2, arbitrary: fc.constantFrom(15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257) },
);

const headDim = fc.oneof(
  { weight: 5, arbitrary: fc.integer({ min: 1, max: 72 }) },
  { weight: 3, arbitrary: fc.constantFrom(8, 16, 31, 32, 33, 48, 63, 64, 65, 80, 96, 128) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 512 }) },
  { weight: 1, arbitrary: fc.constantFrom(255, 256, 257, 511, 512) },
);

const grids: fc.Arbitrary<number[]> = fc.oneof(
  length.map((tokens) => [tokens]),
  fc.array(fc.integer({ min: 1, max: 16 }), { minLength: 2, maxLength: 2 }),
  fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 3, maxLength: 3 }),
);

/** Token axes of q and k and the masks over them. */
const layout: fc.Arbitrary<{ qAxes: number[]; kAxes: number[]; masks: MaskSpec[]; groups: number[] }> = fc.oneof(
  // one axis, any lengths
  fc
    .record({ lq: length, lk: length, same: fc.boolean(), masks: fc.array(bands, { maxLength: 2 }) })
    .map(({ lq, lk, same, masks }) => ({ qAxes: [lq], kAxes: [same ? lq : lk], masks, groups: [1, 2, 3] })),
  // queries and keys on grids of their own
  fc
    .record({ q: grids, k: grids, masks: fc.array(bands, { maxLength: 2 }) })
    .map(({ q, k, masks }) => ({ qAxes: q, kAxes: k, masks, groups: [1, 4] })),
  // a grid of one to three axes, with neighborhoods, one setting per head among them, and bands over the flat tokens
  grids
    .chain((grid) => {
      const axes = fc.tuple(...grid.map(axisSetting)) as fc.Arbitrary<Axis[]>;
      return fc.record({
        grid: fc.constant(grid),
        first: axes,
        second: axes,
        perHead: fc.boolean(),
        more: fc.array(
          fc.oneof(
            bands,
            axes.map((one): MaskSpec => ({ heads: [one] })),
          ),
          { maxLength: 1 },
        ),
      });
    })
    .map(({ grid, first, second, perHead, more }) => ({
      qAxes: [...grid],
      kAxes: [...grid],
      masks: [{ heads: perHead ? [first, second] : [first] }, ...more],
      groups: perHead ? [2] : [1, 2],
    })),
);

/** A bias of low rank or a closed form; the numbers say which of its axes are broadcast, and how large it is. */
const formula = fc.record({
  kind: fc.constantFrom('', '', '', 'lowRank', 'lowRank', 'alibi', 'distance', 'relative'),
  form: fc.nat({ max: 15 }),
  size: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(31, 32, 33, 64, 70)),
});

/** A case: everything but the random data, which follows from the seed. */
export const attentionCase = fc
  .record({
    dtype: fc.constantFrom(...dtypes),
    layout,
    batch: fc.constantFrom(1, 1, 2, 3),
    kvHeads: fc.constantFrom(1, 1, 2),
    group: fc.nat({ max: 2 }),
    dim: headDim,
    vDim: fc.option(headDim),
    scale: fc.constantFrom(undefined, undefined, 0, 0.3, -0.2),
    softcap: fc.constantFrom(undefined, undefined, undefined, 0.5, 30),
    sinks: fc.constantFrom(false, false, true),
    extra: fc.constantFrom(0, 0, 0, 1, 5, 40),
    keyBias: fc.constantFrom(0, 0, 0, 1, 2, 3),
    denseBias: fc.constantFrom(-1, -1, -1, 0, 5, 10, 15),
    formula,
    seed: fc.nat(),
  })
  .map((c) => {
    const perHead = c.layout.masks.some((mask) => 'heads' in mask && mask.heads.length > 1);
    const group = c.layout.groups[c.group % c.layout.groups.length]!;
    return { ...c, vDim: c.vDim ?? c.dim, group, kvHeads: perHead ? 1 : c.kvHeads };
  })
  // The oracle's work, so that thousands of cases take seconds.
  .filter((c) => {
    const pairs = count(c.layout.qAxes) * (count(c.layout.kAxes) + c.extra);
    return c.batch * c.kvHeads * c.group * pairs * (c.dim + c.vDim + c.formula.size) < 3e6;
  });

type AnyCase = typeof attentionCase extends fc.Arbitrary<infer T> ? T : never;
export type Case = Omit<AnyCase, 'batch' | 'kvHeads' | 'extra' | 'scale' | 'softcap' | 'formula'> & {
  batch: number;
  kvHeads: number;
  extra: number;
  scale?: number;
  softcap?: number;
  formula?: AnyCase['formula'];
  cuSeqlens?: { q: number[]; k: number[] };
};

/** Offsets of packed sequences that share so many tokens: cuts anywhere, in any number. */
const offsets = (tokens: number, cuts: number[]) => [
  0,
  ...cuts.map((cut) => Math.floor((cut * (tokens + 1)) / 1000)).sort((a, b) => a - b),
  tokens,
];

const sequences = (n: number) => fc.array(fc.nat({ max: 999 }), { minLength: n, maxLength: n });

/** Few queries and so many keys that they are split; sometimes packed sequences of each. */
export const decodeCase: fc.Arbitrary<Case> = fc
  .record({
    dtype: fc.constantFrom(...dtypes),
    lq: fc.constantFrom(1, 1, 1, 2, 3, 8),
    lk: fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 300, max: 1000 })),
    cuts: fc.option(
      fc.integer({ min: 1, max: 6 }).chain((n) => fc.tuple(sequences(n), sequences(n))),
      { freq: 3 },
    ),
    left: fc.constantFrom(-1, -1, 0, 1, 40, 700, 3000),
    right: fc.constantFrom(-1, 0, 0, 1, 500),
    masks: fc.integer({ min: 0, max: 2 }),
    batch: fc.constantFrom(1, 1, 1, 2, 3),
    kvHeads: fc.constantFrom(1, 2, 3, 4, 8, 9, 33),
    group: fc.constantFrom(1, 1, 2, 3, 4, 8),
    dim: headDim,
    vDim: fc.option(headDim),
    scale: fc.constantFrom(undefined, undefined, 0, 0.3, -0.2),
    softcap: fc.constantFrom(undefined, undefined, undefined, 0.5, 30),
    sinks: fc.constantFrom(false, false, true),
    extra: fc.constantFrom(0, 0, 0, 1, 5, 300),
    keyBias: fc.constantFrom(0, 0, 0, 1, 2, 3),
    denseBias: fc.constantFrom(-1, -1, -1, 0, 5, 10, 15),
    formula,
    seed: fc.nat(),
  })
  .map(({ lq, lk, cuts, left, right, masks, ...c }) => {
    const all: MaskSpec[] = [
      { left, right },
      { left: -1, right: 0 },
    ];
    const layout = { qAxes: [lq], kAxes: [lk], masks: all.slice(0, masks), groups: [] };
    const packed = cuts && { batch: 1, cuSeqlens: { q: offsets(lq, cuts[0]), k: offsets(lk, cuts[1]) } };
    return { ...c, layout, vDim: c.vDim ?? c.dim, ...packed };
  })
  .filter((c) => {
    const elements = c.batch * c.kvHeads * c.layout.kAxes[0]! * (c.dim + c.vDim);
    return elements < 8e5 && elements * c.group * c.layout.qAxes[0]! < 3e6;
  });

/** The bias that a formula stands for, where it fits the axes of the problem. */
function formulaOf(c: Case, random: () => number): Partial<Problem> {
  if (!c.formula) return {};
  const { kind, form, size } = c.formula;
  const { qAxes, kAxes } = c.layout;
  const heads = c.kvHeads * c.group;
  const bit = (n: number, yes: number) => ((form >> n) & 1 ? yes : 1);
  const numbers = (...shape: number[]) => normal(random, 'float32', shape);
  if (kind === 'lowRank') {
    const q = numbers(bit(0, c.batch), count(qAxes), bit(1, heads), size);
    return { lowRank: { q, k: numbers(bit(2, c.batch), count(kAxes), bit(3, heads), size) } };
  }
  if (kind === 'alibi' && qAxes.length === 1 && kAxes.length === 1) {
    return { alibi: form % 2 ? { slopes: numbers(heads) } : {} };
  }
  if (kind === 'distance') {
    const n = (size % 4) + 1;
    const at = (axes: number[], batched: number) =>
      batched ? numbers(bit(3, c.batch), count(axes), n) : numbers(count(axes), n);
    const weight = form & 4 ? numbers(heads) : numbers(bit(0, c.batch), count(qAxes), bit(1, heads));
    const points = { q: at(qAxes, form & 1), k: at(kAxes, form & 2) };
    return { distance: form % 3 ? { ...points, weight } : points };
  }
  const same = qAxes.length === kAxes.length && (qAxes.length === 1 || qAxes.every((n, a) => n === kAxes[a]));
  if (kind === 'relative' && same) {
    const extents = qAxes.map((_, a) => 2 * ((size + 3 * a) % 24) + 1);
    const dilation = qAxes.map((_, a) => ((form + a) % 3 === 0 ? 2 : 1));
    return { relative: { table: numbers(bit(0, heads), ...extents), dilation } };
  }
  return {};
}

/** The problem of a case. `denseBias` says by its bits which of [batch, heads, Lq, Lk] are not broadcast. */
export function problemOf(c: Case): Problem {
  const random = uniform(c.seed);
  const { qAxes, kAxes, masks } = c.layout;
  const heads = c.kvHeads * c.group;
  const [Lq, Lk] = [count(qAxes), count(kAxes)];
  const problem: Problem = {
    q: normal(random, c.dtype, [c.batch, ...qAxes, heads, c.dim]),
    k: normal(random, c.dtype, [c.batch, ...kAxes, c.kvHeads, c.dim]),
    v: normal(random, c.dtype, [c.batch, ...kAxes, c.kvHeads, c.vDim]),
    masks,
    scale: c.scale,
    softcap: c.softcap,
  };
  if (c.cuSeqlens) problem.cuSeqlens = c.cuSeqlens;
  if (c.sinks) problem.sinks = normal(random, 'float32', [heads]);
  if (c.extra) {
    problem.extra = {
      k: normal(random, c.dtype, [c.batch, c.extra, c.kvHeads, c.dim]),
      v: normal(random, c.dtype, [c.batch, c.extra, c.kvHeads, c.vDim]),
    };
  }
  const keyShape = [[], [Lk], [c.batch, Lk], [c.batch, heads, Lk]][c.keyBias]!;
  if (c.keyBias) problem.keyBias = normal(random, 'float32', keyShape);
  if (c.denseBias >= 0) {
    const shape = [c.batch, heads, Lq, Lk].map((extent, axis) => ((c.denseBias >> (3 - axis)) & 1 ? extent : 1));
    problem.denseBias = normal(random, 'float32', shape);
  }
  return { ...problem, ...formulaOf(c, random) };
}
