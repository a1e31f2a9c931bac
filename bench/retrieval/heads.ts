// Keys and queries of attention heads, from a seed.

/** Uniform numbers in [0, 1). */
function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Normal deviates, two from each pair of uniform numbers. */
function gauss(seed: number): () => number {
  const random = uniform(seed);
  let kept: number | undefined;
  return () => {
    if (kept !== undefined) {
      const other = kept;
      kept = undefined;
      return other;
    }
    const size = Math.sqrt(-2 * Math.log(1 - random()));
    const angle = 2 * Math.PI * random();
    kept = size * Math.sin(angle);
    return size * Math.cos(angle);
  };
}

export type Data = 'structured' | 'noise';

export interface Head {
  headDim: number;
  /** [tokens, headDim] */
  keys: Float32Array;
  /** [queries, headDim] */
  queries: Float32Array;
}

export const scoreOf = ({ headDim, keys, queries }: Head, query: number, key: number): number => {
  let sum = 0;
  for (let d = 0; d < headDim; d++) sum += queries[query * headDim + d]! * keys[key * headDim + d]!;
  return sum;
};

const HEAD_DIM = 128;
const SLOW = 20;
const FAST = 28;
const SINKS = 4;

/**
 * A key head and queries of it. 'noise' is independent normal numbers. 'structured' follows what is published of heads of
 * language models: keys have a mean, a part that changes slowly with the position and one that changes fast; queries lie
 * far from all keys and look for the fast part of one of them; the first keys attract every query.
 */
export function makeHead(data: Data, tokens: number, queries: number, seed: number): Head {
  const next = gauss(seed);
  const head = {
    headDim: HEAD_DIM,
    keys: new Float32Array(tokens * HEAD_DIM),
    queries: new Float32Array(queries * HEAD_DIM),
  };
  if (data === 'noise') {
    for (const all of [head.keys, head.queries]) for (let i = 0; i < all.length; i++) all[i] = next();
    return head;
  }
  // Columns 0 and 1 are the mean and the direction of sinks, then come the slow and the fast part, then nothing but noise.
  const slow = Float64Array.from({ length: SLOW }, next);
  const fast = Float64Array.from({ length: FAST }, next);
  const raw = Float64Array.from({ length: FAST }, (_, i) => (i + 1) ** -0.35);
  const norm = Math.sqrt(FAST / raw.reduce((sum, x) => sum + x * x, 0));
  const spectrum = raw.map((x) => x * norm);
  const walk = new Float32Array(tokens * FAST);
  const step = (state: Float64Array, tau: number) => {
    const keep = Math.exp(-1 / tau);
    const fresh = Math.sqrt(1 - keep * keep);
    for (let i = 0; i < state.length; i++) state[i] = keep * state[i]! + fresh * next();
  };
  for (let t = 0; t < tokens; t++) {
    step(slow, 400);
    step(fast, 12);
    walk.set(fast, t * FAST);
    const key = head.keys.subarray(t * HEAD_DIM, (t + 1) * HEAD_DIM);
    const sink = t < SINKS;
    for (let d = 0; d < HEAD_DIM; d++) key[d] = (sink ? 0.3 : 0.35) * next();
    key[0]! += sink ? -1 : 4;
    if (sink) key[1]! += 5;
    for (let i = 0; i < SLOW && !sink; i++) key[2 + i]! += 3 * slow[i]!;
    for (let i = 0; i < FAST && !sink; i++) key[2 + SLOW + i]! += spectrum[i]! * fast[i]!;
  }
  const random = uniform(seed + 1);
  let best = 0;
  for (let q = 0; q < queries; q++) {
    const target = Math.floor(tokens / 64 + random() * (tokens - tokens / 64));
    const query = head.queries.subarray(q * HEAD_DIM, (q + 1) * HEAD_DIM);
    query[0] = -5;
    for (let i = 0; i < SLOW; i++) query[2 + i] = 0.5 * next();
    for (let i = 0; i < FAST; i++) query[2 + SLOW + i] = 6.4 * (0.65 * walk[target * FAST + i]! + 0.35 * next());
    for (let d = 2 + SLOW + FAST; d < HEAD_DIM; d++) query[d] = 1.2 * next();
    let most = Number.NEGATIVE_INFINITY;
    for (let t = SINKS; t < tokens; t += 7) most = Math.max(most, scoreOf(head, q, t)); // about the best is enough
    best += most / queries;
  }
  for (let q = 0; q < queries; q++) head.queries[q * HEAD_DIM + 1] = (1.2 * best - 5) / 5;
  for (let reflection = 0; reflection < 2; reflection++) {
    const axis = Float64Array.from({ length: HEAD_DIM }, next);
    for (const rows of [head.keys, head.queries]) reflect(rows, axis);
  }
  return head;
}

/** Mirrors rows at the plane across an axis: products of rows stay, and columns are mixed. */
function reflect(rows: Float32Array, axis: Float64Array): void {
  const square = axis.reduce((sum, x) => sum + x * x, 0);
  for (let at = 0; at < rows.length; at += axis.length) {
    let product = 0;
    for (let d = 0; d < axis.length; d++) product += rows[at + d]! * axis[d]!;
    const factor = (2 * product) / square;
    for (let d = 0; d < axis.length; d++) rows[at + d]! -= factor * axis[d]!;
  }
}
