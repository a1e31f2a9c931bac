import { fromBfloat16, toBfloat16 } from 'node-attention';
import { uniform } from '../test/support/numbers';
import { type Case, count, HEADS } from './cases';

/**
 * q, k and v as [layers, tokens, heads, headDim], layers being 1 for most: what all contestants of a case are given, each
 * in the layout it likes best.
 */
export interface Inputs {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
}

/** So many different numbers are enough; prime, so that no repetition falls on the same place of a row or a layer. */
const DIFFERENT = 4194301;

/** Normal deviates; numbers of the element type of the case. */
export function makeInputs({ queries, keys, headDim, dtype, layers = 1 }: Case): Inputs {
  const random = uniform(7);
  const next = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const make = (tokens: number) => {
    const length = layers * tokens * HEADS * headDim;
    const drawn = Float32Array.from({ length: Math.min(length, DIFFERENT) }, next);
    const values = new Float32Array(length);
    for (let at = 0; at < length; at += drawn.length) values.set(drawn.subarray(0, length - at), at);
    return dtype === 'bfloat16' ? fromBfloat16(toBfloat16(values)) : values;
  };
  return { q: make(count(queries)), k: make(count(keys)), v: make(count(keys)) };
}
