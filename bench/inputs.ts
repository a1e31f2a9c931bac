import { fromBfloat16, toBfloat16 } from 'node-attention';
import { uniform } from '../test/support/numbers';
import { type Case, count, HEADS } from './cases';

/** q, k and v as [tokens, heads, headDim]: what all contestants of a case are given, each in the layout it likes best. */
export interface Inputs {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
}

/** Normal deviates; numbers of the element type of the case. */
export function makeInputs({ queries, keys, headDim, dtype }: Case): Inputs {
  const random = uniform(7);
  const next = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const make = (tokens: number) => {
    const values = Float32Array.from({ length: tokens * HEADS * headDim }, next);
    return dtype === 'bfloat16' ? fromBfloat16(toBfloat16(values)) : values;
  };
  return { q: make(count(queries)), k: make(count(keys)), v: make(count(keys)) };
}
