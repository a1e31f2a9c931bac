// The data of all tensors: one block of random numbers that each of them repeats from a phase of its own. The host so
// knows every element without a copy of what may be tens of gigabytes.

import { toBfloat16 } from 'node-attention';
import { uniform } from '../../test/support/numbers';

/** 32 MiB, prime, so that no repetition falls on the same place of a row or of a tile. */
const BLOCK = 16777213;

export interface Block {
  /** bfloat16 */
  bits: Uint16Array;
  /** The element i of all that repeats the block from `phase` on. */
  at(phase: number, i: number): number;
}

/** Normal deviates. */
export function makeBlock(count = BLOCK): Block {
  const random = uniform(11);
  // Two of each pair of uniform numbers: there are many.
  const values = new Float32Array(count + 1);
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    const angle = 2 * Math.PI * random();
    values[i] = radius * Math.cos(angle);
    values[i + 1] = radius * Math.sin(angle);
  }
  const bits = toBfloat16(values.subarray(0, count));
  const word = new Uint32Array(1);
  const float = new Float32Array(word.buffer);
  return {
    bits,
    at(phase, i) {
      word[0] = bits[(phase + i) % count]! << 16;
      return float[0]!;
    },
  };
}
