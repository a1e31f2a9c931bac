import { fromBfloat16, toBfloat16 } from 'node-attention';
import { uniform } from '../test/support/numbers';
import { type Case, count, HEADS } from './cases';

/**
 * q, k and v as [sets x layers, tokens, heads, headDim], layers being 1 for most: what all contestants of a case are given,
 * each in the layout it likes best. A run is on one of the sets, and the next run on the next.
 */
export interface Inputs {
  sets: number;
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
}

/** So many different numbers are enough; prime, so that no repetition falls on the same place of a row or a layer. */
export const DIFFERENT = 4194301;

const blocks = new Map<Case['dtype'], Float32Array>();

/** Normal deviates, so many of them or more; numbers of the element type. */
export function blockOf(dtype: Case['dtype'], length: number): Float32Array {
  const known = blocks.get(dtype);
  if (known && known.length >= length) return known;
  const random = uniform(7);
  const next = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const drawn = Float32Array.from({ length }, next);
  const block = dtype === 'bfloat16' ? fromBfloat16(toBfloat16(drawn)) : drawn;
  blocks.set(dtype, block);
  return block;
}

/** Arrays of a block's numbers, one behind the other and from the first again when there are no more. */
export function takingFrom(block: Float32Array): (length: number) => Float32Array {
  let at = 0;
  return (length) => {
    const values = new Float32Array(length);
    for (let done = 0; done < length; ) {
      const part = block.subarray(at, at + length - done);
      values.set(part, done);
      done += part.length;
      at = (at + part.length) % block.length;
    }
    return values;
  };
}

/** Normal deviates. */
export function makeInputs({ queries, keys, headDim, dtype, layers = 1 }: Case, sets = 1): Inputs {
  const row = sets * layers * HEADS * headDim;
  const [length, others] = [row * count(queries), row * count(keys)];
  const make = takingFrom(blockOf(dtype, Math.min(DIFFERENT, length + 2 * others)));
  return { sets, q: make(length), k: make(others), v: make(others) };
}
