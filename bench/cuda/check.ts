// Whether a contestant computed attention: sampled rows against the float64 oracle of the tests, and no element anywhere
// that is not a number.

import { uniform } from '../../test/support/numbers';
import { expected } from '../../test/support/tolerance';
import { faultOfRow } from '../check';
import type { CudaCase } from './cases';
import { phaseOf } from './driver';
import type { Block } from './inputs';

/** Pairs of a query and a key that the oracle is asked about, all samples together. */
const WORK = 400_000;
const MOST_SAMPLES = 12;
const LEAST_SAMPLES = 3;

export interface SampledRow {
  batch: number;
  query: number;
  head: number;
  out: Float64Array;
  lse: number;
  tolerance: { out: number; lse: number };
}

/** What sampled rows of a set should be, and how far from it a bfloat16 evaluation may be. */
export function expectedRows(test: CudaCase, block: Block, set: number): SampledRow[] {
  const { batch, heads, kvHeads, queries, keys, headDim, kind } = test;
  const random = uniform(1);
  const phases = [0, 1, 2].map((tensor) => phaseOf(set, tensor, block.bits.length));
  const samples = Math.min(MOST_SAMPLES, Math.max(LEAST_SAMPLES, Math.floor(WORK / keys)));
  return Array.from({ length: samples }, (_, n) => {
    // The first row of all and the last one, and others.
    const [first, last] = [n === 0, n === 1];
    const pick = (extent: number) => (first ? 0 : last ? extent - 1 : Math.floor(random() * extent));
    const [b, query, head] = [pick(batch), pick(queries), pick(heads)];
    const kvHead = Math.floor(head / (heads / kvHeads));
    const seen = kind === 'causal' ? query + keys - queries + 1 : keys;
    const rows = (tensor: number, tokens: number, from: (token: number) => number) => {
      const data = new Float64Array(tokens * headDim);
      for (let token = 0; token < tokens; token++) {
        const start = from(token) * headDim;
        for (let c = 0; c < headDim; c++) data[token * headDim + c] = block.at(phases[tensor]!, start + c);
      }
      return { shape: [1, tokens, 1, headDim], data };
    };
    const key = (token: number) => (b * keys + token) * kvHeads + kvHead;
    const q = rows(0, 1, () => (b * queries + query) * heads + head);
    const { out, lse, tolerance } = expected({ q, k: rows(1, seen, key), v: rows(2, seen, key) }, 'bfloat16');
    return { batch: b, query, head, out, lse: lse[0]!, tolerance };
  });
}

export interface Results {
  /** bfloat16 [batch, queries, heads, headDim] */
  out: Uint16Array;
  /** Absent where the contestant does not tell. */
  lse?: Float32Array;
}

/** What is wrong with the results of a set; undefined if nothing is. `headsFirst`: lse is [batch, heads, queries]. */
export function faultOf(
  { out, lse }: Results,
  rows: readonly SampledRow[],
  { queries, heads, headDim }: CudaCase,
  headsFirst: boolean,
): string | undefined {
  const odd = out.findIndex((bits) => (bits & 0x7f80) === 0x7f80);
  if (odd !== -1) return `element ${odd} of all is infinite or not a number`;
  const word = new Uint32Array(headDim);
  const values = new Float32Array(word.buffer);
  for (const { batch, query, head, out: wanted, lse: wantedLse, tolerance } of rows) {
    const row = (batch * queries + query) * heads + head;
    for (let c = 0; c < headDim; c++) word[c] = out[row * headDim + c]! << 16;
    const place = headsFirst ? (batch * heads + head) * queries + query : row;
    const fault =
      faultOfRow(values, 0, wanted, tolerance.out) ??
      (lse && faultOfRow(lse, place, [wantedLse], tolerance.lse)?.replace('element 0', 'lse'));
    if (fault !== undefined) return `batch ${batch}, query ${query}, head ${head}, ${fault}`;
  }
  return undefined;
}

/** The largest difference from what the sampled rows should be. */
export function largestError(
  { out }: Results,
  rows: readonly SampledRow[],
  { queries, heads, headDim }: CudaCase,
): number {
  const word = new Uint32Array(1);
  const value = new Float32Array(word.buffer);
  let most = 0;
  for (const { batch, query, head, out: wanted } of rows) {
    const row = (batch * queries + query) * heads + head;
    for (let c = 0; c < headDim; c++) {
      word[0] = out[row * headDim + c]! << 16;
      most = Math.max(most, Math.abs(value[0]! - wanted[c]!));
    }
  }
  return most;
}

/** The largest difference between two outputs. */
export function largestDifference(a: Uint16Array, b: Uint16Array): number {
  const words = new Uint32Array(2);
  const values = new Float32Array(words.buffer);
  let most = 0;
  for (let i = 0; i < a.length; i++) {
    if (a[i] === b[i]) continue;
    words[0] = a[i]! << 16;
    words[1] = b[i]! << 16;
    most = Math.max(most, Math.abs(values[0]! - values[1]!));
  }
  return most;
}
