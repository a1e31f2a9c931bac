// How far a result may lie from the oracle. No number here is tuned; a bound has three parts, all taken from the inputs:
//
// 1. Twice the largest error of a plain evaluation of the same problem in low precision: every step in float32 and, for
//    half types, the probabilities and the output rounded to the type, as a program without fused kernels does it. Twice,
//    because the library may round in other places (blocks, rescaling, exp2) as often again.
// 2. One unit in the last place of the output's type at the magnitude of the largest output: a correct result may be
//    rounded to the wrong neighbour, and on tiny problems the plain evaluation may have no error at all by luck.
// 3. What luck may spare the plain evaluation in its scores, as a relative error of the probabilities: a score is a sum
//    of headDim terms and takes some three more steps (scale, cap or bias, exponent), and n random roundings grow as √n.
//    Each is one unit in the last place of float32 at the largest score, not half of one, since an evaluation in units
//    of log 2 has scores in the next binade.

import type { Float } from './numbers';
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

export interface Expected extends Result {
  tolerance: { out: number; lse: number };
}

/** The oracle's result and what may be allowed around it. */
export function expected(problem: Problem, dtype: Float): Expected {
  const exact = attend(problem);
  const plain = attend(problem, lowPrecision(dtype));
  const scores = ulp('float32', exact.score) * Math.sqrt(problem.q.shape.at(-1)! + 3);
  const values = Math.max(largest(problem.v.data), problem.extra ? largest(problem.extra.v.data) : 0);
  return {
    ...exact,
    tolerance: {
      out: 2 * largestError(plain.out, exact.out) + ulp(dtype, largest(exact.out)) + scores * values,
      lse: 2 * largestError(plain.lse, exact.lse) + ulp('float32', largest(exact.lse)) + scores,
    },
  };
}
