// How far a result may lie from the oracle. No number here is tuned; a bound has four parts, all taken from the inputs:
//
// 1. Twice the largest error of a plain evaluation of the same problem in low precision: every step in float32 and, for
//    half types, the probabilities and the output rounded to the type, as a program without fused kernels does it. Twice,
//    because the library may round in other places (blocks, rescaling, exp2) as often again.
// 2. One unit in the last place of the output's type at the magnitude of the largest output: a correct result may be
//    rounded to the wrong neighbour, and on tiny problems the plain evaluation may have no error at all by luck.
// 3. What luck may spare the plain evaluation in its scores, as a relative error of the probabilities: a score is a sum
//    of headDim terms and takes some three more steps (scale, cap or bias, exponent), those of a bias of low rank or a
//    closed form come on top, and n random roundings grow as √n.
//    Each is one unit in the last place of float32 at the largest score, not half of one, since an evaluation in units
//    of log 2 has scores in the next binade.
// 4. Where float32 is multiplied as TF32 (CUDA), what the products lack. TF32 has 11 bits, so its nearest number is off by
//    at most 2^-11 of what it stands for: one product of two by 2^-10 + 2^-22. Two parts, the second of what the first
//    lacks, are off by 2^-22, and three products leave out that of the second parts, 2^-22 again: 3 x 2^-22 in all. The
//    error of a score is that of its products, whose sum of magnitudes is at most the product of the norms; a score off
//    by d changes weights by a factor of up to e^2d (numerator and denominator). Matrix units of devices also truncate
//    each sum of eight products to 24 bits, which adds up since it always goes the same way. Biases of low rank are three
//    products of TF32 on CUDA whatever the inputs are, summed up on top of the score.

import type { Float, Values } from './numbers';
import { round, ulp } from './numbers';
import { type Arithmetic, attend, type Problem, type Result } from './oracle';

export function lowPrecision(dtype: Float): Arithmetic {
  const narrow = dtype === 'float32' ? Math.fround : (x: number) => round(dtype, x);
  return {
    dot(a, i, b, j, length) {
      let sum = 0;
      for (let c = 0; c < length; c++) sum = Math.fround(sum + Math.fround(a[i + c]! * b[j + c]!));
      return sum;
    },
    accumulate(sums, p, v, j) {
      for (let c = 0; c < sums.length; c++) sums[c] = Math.fround(sums[c]! + Math.fround(p * v[j + c]!));
    },
    step: Math.fround,
    probability: narrow,
    output: narrow,
  };
}

const largest = (values: Float64Array) =>
  values.reduce((max, x) => (Number.isFinite(x) ? Math.max(max, Math.abs(x)) : max), 0);

function largestError(a: Float64Array, b: Float64Array): number {
  let max = 0;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) max = Math.max(max, Math.abs(a[i]! - b[i]!));
  return max;
}

/** What products are made of. */
export type Products = 'exact' | '3xtf32' | 'tf32';

const largestNorm = ({ data, shape }: Values) => {
  const dim = shape.at(-1)!;
  let most = 0;
  for (let i = 0; i < data.length; i += dim) {
    let sum = 0;
    for (let c = 0; c < dim; c++) sum += data[i + c]! ** 2;
    if (Number.isFinite(sum)) most = Math.max(most, sum);
  }
  return Math.sqrt(most);
};

/** What a product of TF32, or three, is off by, and what sums of them are if they are truncated. */
const tf32Errors = (products: Products, truncates: boolean) => ({
  each: products === 'tf32' ? 2 ** -10 + 2 ** -22 : 3 * 2 ** -22,
  sums: (length: number) => (truncates ? Math.ceil(length / 8) * (products === 'tf32' ? 1 : 3) * 2 ** -23 : 0),
});

/** Errors of scores and, as shares of the largest value, of outputs, that the products bring. */
function productErrors({ q, k, extra, scale }: Problem, keys: number, products: Products, truncates: boolean) {
  if (products === 'exact') return { scores: 0, outputs: 0 };
  const dim = q.shape.at(-1)!;
  const { each, sums } = tf32Errors(products, truncates);
  const norm = largestNorm(q) * Math.max(largestNorm(k), extra ? largestNorm(extra.k) : 0);
  const scores = (each + sums(dim)) * norm * Math.abs(scale ?? 1 / Math.sqrt(dim));
  return { scores, outputs: Math.expm1(2 * scores) + each + sums(keys) };
}

/** Errors of scores of up to `score` that a bias of low rank brings. */
function factorErrors({ lowRank }: Problem, score: number, products: Products, truncates: boolean): number {
  if (products === 'exact' || !lowRank) return 0;
  const { each, sums } = tf32Errors(products, truncates);
  const norm = largestNorm(lowRank.q) * largestNorm(lowRank.k),
    rank = lowRank.q.shape.at(-1)!;
  return (each + sums(rank)) * norm + sums(rank) * score;
}

export interface Expected extends Result {
  tolerance: { out: number; lse: number };
}

/**
 * The oracle's result and what may be allowed around it. `truncates` says that sums are made by the matrix units of a
 * device, `factors` how biases of low rank are multiplied.
 */
export function expected(
  problem: Problem,
  dtype: Float,
  products: Products = 'exact',
  truncates = process.env.NODE_ATTENTION_TEST_DEVICE === 'real',
  factors: Products = 'exact',
): Expected {
  const exact = attend(problem);
  const plain = attend(problem, lowPrecision(dtype));
  const keys = problem.k.data.length / problem.k.shape.at(-1)!;
  const multiplied = productErrors(problem, keys, products, truncates);
  const factored = factorErrors(problem, exact.score, factors, truncates);
  const scores = ulp('float32', exact.score) * Math.sqrt(exact.steps) + factored;
  const values = Math.max(largest(problem.v.data), problem.extra ? largest(problem.extra.v.data) : 0);
  return {
    ...exact,
    tolerance: {
      out:
        2 * largestError(plain.out, exact.out) +
        ulp(dtype, largest(exact.out)) +
        (scores + Math.expm1(2 * factored) + multiplied.outputs) * values,
      lse: 2 * largestError(plain.lse, exact.lse) + ulp('float32', largest(exact.lse)) + scores + multiplied.scores,
    },
  };
}
