// Codes: vectors of unit length whose signs are random, so that two different ones are almost orthogonal. A sum of
// codes is a set that can still be compared: the product of two sums is large when they share members.

/** How many of the preceding tokens a context holds. */
export const CONTEXT = 8;
/** How much less each further token counts: the squared weights fall by this factor. */
const DECAY = 0.8;
/** Length of the context codes. Chance products of two contexts are about 1/sqrt of it. */
export const CONTEXT_DIM = 128;
/** Length of the value codes. */
export const VALUE_DIM = 64;

/** Random bits from a seed (mulberry32), 32 at a time. */
export function randomBits(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = state;
    x = Math.imul(x ^ (x >>> 15), x | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return (x ^ (x >>> 14)) >>> 0;
  };
}

/** `count` codes of length `dim`, one after the other. */
export function randomCodes(bits: () => number, count: number, dim: number): Float32Array {
  const codes = new Float32Array(count * dim);
  const unit = 1 / Math.sqrt(dim);
  let word = 0;
  for (let i = 0; i < codes.length; i++) {
    if (i % 32 === 0) word = bits();
    codes[i] = word & 1 ? unit : -unit;
    word >>>= 1;
  }
  return codes;
}

/**
 * Row p of the result codes the tokens before position p: a weighted sum of one code for each (token, distance).
 * There are ids.length + 1 rows, the last one being the context of the token that comes after the text.
 */
export function contextCodes(bits: () => number, ids: Int32Array, vocabularySize: number): Float32Array {
  const rows = new Float32Array((ids.length + 1) * CONTEXT_DIM);
  const total = (1 - DECAY ** CONTEXT) / (1 - DECAY);
  for (let distance = 1; distance <= CONTEXT; distance++) {
    const weight = Math.sqrt(DECAY ** (distance - 1) / total);
    const codes = randomCodes(bits, vocabularySize, CONTEXT_DIM);
    for (let p = distance; p <= ids.length; p++) {
      const code = ids[p - distance]! * CONTEXT_DIM;
      const row = p * CONTEXT_DIM;
      for (let d = 0; d < CONTEXT_DIM; d++) rows[row + d]! += weight * codes[code + d]!;
    }
  }
  return rows;
}

/** The rows of `codes` that `ids` names. */
export function gather(codes: Float32Array, ids: Int32Array, dim: number): Float32Array {
  const rows = new Float32Array(ids.length * dim);
  ids.forEach((id, i) => {
    rows.set(codes.subarray(id * dim, (id + 1) * dim), i * dim);
  });
  return rows;
}
