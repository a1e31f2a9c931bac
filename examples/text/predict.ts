// Predicts every next token of a text by one causal attention over all that was read before.
//
// The key at position j codes the tokens before j, and its value is the token at j. The query at position i codes the
// tokens up to and including i, and so matches the keys of earlier places with the same context: their values are the
// tokens that came next there. Keys and queries are two views of one tensor, one row apart. Causal attention lets query
// i see the keys up to i, whose values are the tokens up to i, so nothing of the answer, token i + 1, is seen.

import {
  attention,
  type Bias,
  causal,
  type DType,
  hipPlan,
  type Mask,
  pagePlan,
  pooledPlan,
  SparsePlan,
  Tensor,
  window,
} from 'node-attention';
import { CONTEXT_DIM, contextCodes, gather, randomBits, randomCodes, VALUE_DIM } from './codes';
import type { Tokens } from './tokenize';

/** Sharpness of the memory: a context that matches in full outweighs chance matches by e to this power. */
export const SHARPNESS = 25;
/** Sharpness of the final lookup, which is to find the single nearest code. */
const NEAREST = 1e6;
/** Queries of one operation. */
const CHUNK = 2048;

/** Who says which tokens are seen: the last ones, or a selector. */
export const SELECTORS = ['window', 'hip', 'pages', 'pooled'] as const;
export type Selector = (typeof SELECTORS)[number];

export interface Memory {
  /** Number of predictions: one less than the tokens of the text. */
  length: number;
  keys: Tensor;
  queries: Tensor;
  values: Tensor;
  /** Value code of every vocabulary entry, and its number, as keys and values of the final lookup. */
  codes: Tensor;
  numbers: Tensor;
}

export function createMemory({ ids, vocabulary }: Tokens, seed: number, dtype: DType): Memory {
  const bits = randomBits(seed);
  const size = vocabulary.length;
  const known = ids.subarray(0, -1); // the last token is only ever predicted
  const { length } = known;
  const contexts = Tensor.from(contextCodes(bits, known, size), [1, length + 1, 1, CONTEXT_DIM], { dtype });
  const codes = randomCodes(bits, size, VALUE_DIM);
  return {
    length,
    keys: positions(contexts, 0, length),
    queries: positions(contexts, 1, length + 1),
    values: Tensor.from(gather(codes, known, VALUE_DIM), [1, length, 1, VALUE_DIM], { dtype }),
    codes: Tensor.from(codes, [1, size, 1, VALUE_DIM]),
    numbers: Tensor.from(
      Float32Array.from({ length: size }, (_, id) => id),
      [1, size, 1, 1],
    ),
  };
}

/** What the queries see of the keys: as many as `width`, of which a selector has a quarter for the last ones. */
function maskOf(selector: Selector, width: number, q: Tensor, k: Tensor): Mask {
  if (selector === 'window') return window({ left: width - 1, right: 0 });
  const last = Math.ceil(width / 4);
  const make = { hip: hipPlan, pages: pagePlan, pooled: pooledPlan }[selector];
  // Neighbouring queries have little in common: few of them share what is selected.
  return make(q, k, {
    budget: width - last,
    causal: true,
    always: { sink: 0, window: last },
    queryTile: 16,
    keyBlock: 8,
  });
}

export interface Prediction {
  /** Of each token but the first. */
  predicted: Int32Array;
  seconds: number;
  /** Keys that a query saw, the mean over all queries. */
  seen: number;
}

/**
 * Predicts tokens 1 ... length from those before them, seeing all of them or `width` of them: the last ones, or those
 * that a selector chooses for 16 queries at a time. All chunks are queued at once and end in order; `progress` hears how
 * many predictions are done. A `bias` is added to the scores of keys.
 */
export async function predict(
  memory: Memory,
  width: number | undefined,
  progress: (done: number) => void = () => {},
  selector: Selector = 'window',
  bias?: Bias,
): Promise<Prediction> {
  const began = performance.now();
  const { length, keys, queries, values } = memory;
  const answers: Promise<Float32Array>[] = [];
  const masks: Mask[] = [];
  for (let start = 0; start < length; start += CHUNK) {
    // The last query of the chunk stands at the last key: attention aligns them at the end by itself.
    const end = Math.min(start + CHUNK, length);
    const [q, k] = [positions(queries, start, end), positions(keys, 0, end)];
    const mask = width === undefined ? causal() : maskOf(selector, width, q, k);
    masks.push(mask);
    using remembered = attention(q, k, positions(values, 0, end), { mask, bias, scale: SHARPNESS }).out;
    answers.push(lookUp(memory, remembered));
  }
  const predicted = new Int32Array(length);
  for (const [chunk, answer] of answers.entries()) {
    const found = await answer;
    predicted.set(found, chunk * CHUNK);
    progress(chunk * CHUNK + found.length);
  }
  const seconds = (performance.now() - began) / 1000;
  return { predicted, seconds, seen: await keysSeen(length, width, masks) };
}

/** Of each chunk of queries its mask; those that are no plans show the last `width` keys. Disposes of plans. */
async function keysSeen(length: number, width: number | undefined, masks: readonly Mask[]): Promise<number> {
  let pairs = 0;
  for (const [chunk, mask] of masks.entries()) {
    const [start, end] = [chunk * CHUNK, Math.min((chunk + 1) * CHUNK, length)];
    let [visible, last] = [0, 0];
    for (let query = start; query < end; query++) {
      visible += query + 1;
      last += Math.min(query + 1, width ?? length);
    }
    if (mask instanceof SparsePlan) {
      pairs += visible * (await mask.density());
      mask.dispose();
    } else pairs += last;
  }
  return pairs / length;
}

/**
 * The tokens whose value codes are nearest to mixtures of them, [1, n, 1, headDim]. Which code is nearest? That is an
 * attention too, over the vocabulary, so sharp that one entry takes all.
 */
export async function lookUp({ codes, numbers }: Memory, mixtures: Tensor): Promise<Float32Array> {
  using mixed = mixtures.to('float32');
  using nearest = attention(mixed, codes, numbers, { scale: NEAREST }).out;
  return ((await nearest.read()) as Float32Array).map(Math.round);
}

/** A view of some positions of a [1, tokens, 1, headDim] tensor. */
export function positions(tensor: Tensor, start: number, stop: number): Tensor {
  return tensor.slice([0, 1], [start, stop]);
}
