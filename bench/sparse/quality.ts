// How near attention over what a selector chooses is to dense attention: against float64.

import { attention, type SparsePlan, Tensor } from 'node-attention';
import { round } from '../../test/support/numbers';
import { expected } from '../../test/support/tolerance';
import { faultOfRow } from '../check';
import type { Inputs } from './inputs';
import type { Choice, Selector } from './selectors';

/** Recall is of so many keys with the largest weights. */
export const TOP = 100;

/** Every second query of a tile stands for it. */
const STEP = { decode: 1, prefill: 2 } as const;

/** Dense attention of some queries, from its definition. */
export interface Exact {
  /** The queries that were looked at. */
  rows: number[];
  /** How many keys, from the first on, each of them may see. */
  visible: number[];
  /** Of each row, its weights [keys]. */
  weights: Float64Array[];
  /** The keys of each row with the largest weights. */
  top: Int32Array[];
  /** [valueDim] of each row. */
  out: Float64Array[];
}

/** The softmax of one query over the keys that it may see. */
function softmaxOf(q: Float32Array, k: Float32Array, headDim: number, visible: number): Float64Array {
  const weights = new Float64Array(visible);
  let most = Number.NEGATIVE_INFINITY;
  const scale = 1 / Math.sqrt(headDim);
  for (let j = 0; j < visible; j++) {
    let score = 0;
    for (let c = 0; c < headDim; c++) score += q[c]! * k[j * headDim + c]!;
    weights[j] = score * scale;
    most = Math.max(most, weights[j]!);
  }
  let sum = 0;
  for (let j = 0; j < visible; j++) sum += weights[j] = Math.exp(weights[j]! - most);
  for (let j = 0; j < visible; j++) weights[j]! /= sum;
  return weights;
}

export function exactOf(inputs: Inputs): Exact {
  const { phase, keys, headDim, valueDim, q, k, v } = inputs;
  const queries = q.length / headDim;
  const exact: Exact = { rows: [], visible: [], weights: [], top: [], out: [] };
  for (let n = 0; n < queries; n += STEP[phase]) {
    const visible = phase === 'decode' ? keys : keys - queries + n + 1;
    const weights = softmaxOf(q.subarray(n * headDim, (n + 1) * headDim), k, headDim, visible);
    const out = new Float64Array(valueDim);
    for (let j = 0; j < visible; j++) {
      if (weights[j]! < 1e-18) continue;
      for (let c = 0; c < valueDim; c++) out[c]! += weights[j]! * v[j * valueDim + c]!;
    }
    const least = Float64Array.from(weights).sort()[Math.max(0, visible - TOP)]!;
    const top: number[] = [];
    for (let j = 0; j < visible && top.length < TOP; j++) if (weights[j]! >= least) top.push(j);
    exact.rows.push(n);
    exact.visible.push(visible);
    exact.weights.push(weights);
    exact.top.push(Int32Array.from(top));
    exact.out.push(out);
  }
  return exact;
}

/** What the earlier queries looked at, summed over them. */
export function earlierWeights({ keys, headDim, k, earlier }: Inputs): Float64Array {
  const sums = new Float64Array(keys);
  for (let at = 0; at < earlier.length; at += headDim) {
    const weights = softmaxOf(earlier.subarray(at, at + headDim), k, headDim, keys);
    for (let j = 0; j < keys; j++) sums[j]! += weights[j]!;
  }
  return sums;
}

/** Tensors of inputs. While decoding, queries are heads: each has a row of its own in the plan. */
export interface Tensors {
  q: Tensor;
  k: Tensor;
  v: Tensor;
}

export function tensorsOf({ phase, keys, headDim, valueDim, q, k, v }: Inputs): Tensors {
  const queries = q.length / headDim;
  return {
    q: Tensor.from(q, phase === 'decode' ? [1, 1, queries, headDim] : [1, queries, 1, headDim]),
    k: Tensor.from(k, [1, keys, 1, headDim]),
    v: Tensor.from(v, [1, keys, 1, valueDim]),
  };
}

export const choiceOf = (inputs: Inputs, { q, k }: Tensors, budget: number, earlier: Float64Array): Choice => ({
  q,
  k,
  keys: inputs.keys,
  queries: q.shape[1]!,
  budget,
  share: 'none',
  earlier,
});

/** Means over the queries, none of them over kinds of input. */
export interface Quality {
  /** Of the pairs that causality leaves, those that the plan shows. */
  density: number;
  /** Softmax of dense attention that falls on keys that are seen. */
  mass: number;
  /** Of the keys with the largest weights, those that are seen. */
  recall: number;
  /** Length of the difference from the dense output over the length of that. */
  error: number;
  /** Answers that are right; where there are questions. */
  accuracy?: number;
  /** What is wrong with attention over the plan, by a float64 evaluation of a row of it. */
  fault?: string;
}

export async function qualityOf(
  selector: Selector,
  choice: Choice,
  tensors: Tensors,
  inputs: Inputs,
  exact: Exact,
): Promise<Quality> {
  using plan = selector.plan(choice);
  using dense = plan.toDense();
  const { out, lse } = attention(tensors.q, tensors.k, tensors.v, { mask: plan });
  const [seen, values] = await Promise.all([dense.read() as Promise<Uint8Array>, out.read() as Promise<Float32Array>]);
  out.dispose();
  lse.dispose();
  const { keys, valueDim, answers } = inputs;
  const patterns = seen.length / keys; // a rule has one for all heads
  let [shown, possible, mass, found, sought, differences, lengths, right] = [0, 0, 0, 0, 0, 0, 0, 0];
  exact.rows.forEach((n, i) => {
    const own = seen.subarray((n % patterns) * keys, ((n % patterns) + 1) * keys);
    const [weights, visible] = [exact.weights[i]!, exact.visible[i]!];
    for (let j = 0; j < visible; j++) {
      if (!own[j]) continue;
      shown++;
      mass += weights[j]!;
    }
    possible += visible;
    for (const j of exact.top[i]!) found += own[j]!;
    sought += exact.top[i]!.length;
    const result = values.subarray(n * valueDim, (n + 1) * valueDim);
    exact.out[i]!.forEach((value, c) => {
      differences += (result[c]! - value) ** 2;
      lengths += value ** 2;
    });
    if (answers && nearest(result, answers.codes) === answers.right[n]) right++;
  });
  const { length } = exact.rows;
  const row = exact.rows[length - 1]!;
  return {
    density: shown / possible,
    mass: mass / length,
    recall: found / sought,
    error: Math.sqrt(differences / lengths),
    accuracy: answers && right / length,
    fault: faultOfPlan(
      inputs,
      plan,
      seen.subarray((row % patterns) * keys, ((row % patterns) + 1) * keys),
      values,
      row,
    ),
  };
}

/** The number of the code that the output is most like. */
function nearest(output: Float32Array, codes: Float32Array): number {
  const dim = output.length;
  let [best, most] = [-1, Number.NEGATIVE_INFINITY];
  for (let n = 0; n * dim < codes.length; n++) {
    let product = 0;
    for (let c = 0; c < dim; c++) product += output[c]! * codes[n * dim + c]!;
    if (product > most) [best, most] = [n, product];
  }
  return best;
}

/** Looks at one row. */
function faultOfPlan(
  { headDim, valueDim, q, k, v }: Inputs,
  plan: SparsePlan,
  seen: Uint8Array,
  values: Float32Array,
  row: number,
): string | undefined {
  const query = q.subarray(row * headDim, (row + 1) * headDim);
  const { out, tolerance } = expectedOverPlan({ q: query, k, v, headDim, valueDim }, plan, seen, 'float32');
  const fault = faultOfRow(values, row * valueDim, out, tolerance.out);
  return fault && `query ${row}, ${fault}`;
}

/**
 * What attention of one head and one query gives that sees these keys; where the plan estimates, each block of which none is
 * seen is one more key, as often as it has keys.
 */
export function expectedOverPlan(
  { q, k, v, headDim, valueDim }: Pick<Inputs, 'q' | 'k' | 'v' | 'headDim' | 'valueDim'>,
  { estimate, keyBlock, queries }: Pick<SparsePlan, 'estimate' | 'keyBlock' | 'queries'>,
  seen: Uint8Array,
  dtype: 'float32' | 'bfloat16',
): ReturnType<typeof expected> {
  const keys = seen.length;
  const places: number[] = [];
  for (let j = 0; j < keys; j++) if (seen[j]) places.push(j);
  const means: number[][] = []; // the keys of each
  const first = keys - queries; // of the tile; blocks that its border cuts are left out
  for (let from = 0; estimate && from < keys; from += keyBlock) {
    const block = Array.from({ length: Math.min(keyBlock, keys - from) }, (_, n) => from + n);
    if (block.at(-1)! <= first && !block.some((j) => seen[j])) means.push(block);
  }
  const gather = (from: Float32Array, dim: number) => {
    const data = new Float64Array((places.length + means.length) * dim);
    places.forEach((place, n) => {
      data.set(from.subarray(place * dim, (place + 1) * dim), n * dim);
    });
    means.forEach((block, n) => {
      for (let c = 0; c < dim; c++) {
        const sum = block.reduce((all, place) => all + from[place * dim + c]!, 0);
        data[(places.length + n) * dim + c] = round(dtype, sum / block.length);
      }
    });
    return { shape: [1, places.length + means.length, 1, dim], data };
  };
  const counts = [...places.map(() => 0), ...means.map(({ length }) => Math.log(length))];
  return expected(
    {
      q: { shape: [1, 1, 1, headDim], data: Float64Array.from(q) },
      k: gather(k, headDim),
      v: gather(v, valueDim),
      keyBias: means.length === 0 ? undefined : { shape: [counts.length], data: Float64Array.from(counts) },
    },
    dtype,
  );
}
