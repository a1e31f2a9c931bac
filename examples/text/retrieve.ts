// Predicts next tokens one by one, as a model decodes: what was read lies in a KvCache, and each query reads all of it, its
// last tokens, or what an index retrieves. See predict.ts for what keys, queries and values are.

import { attention, KvCache, KvIndex, type KvIndexMethod, Tensor, window } from 'node-attention';
import { CONTEXT_DIM, randomBits, VALUE_DIM } from './codes';
import { lookUp, type Memory, positions, SHARPNESS } from './predict';

/** How an index finds keys. */
export const METHODS = ['scan', 'pages', 'clusters', 'graph'] as const satisfies readonly KvIndexMethod[];
export type Method = (typeof METHODS)[number];

/** Which of the tokens read so far a query sees: all unless `width` is given, then as many as that. */
export interface Reader {
  width?: number;
  /** Who chooses three quarters of them; the others are the last ones. Unless given, all are the last ones. */
  method?: Method;
}

/** Tokens that are decoded one after the other. */
const STRETCH = 32;
/** How many such stretches there are at most. */
const STRETCHES = 64;

/** Queries of the first half that a graph is made by, at most: evenly spaced ones. */
const SAMPLES = 4096;

async function sampled(queries: Tensor, end: number): Promise<Tensor> {
  const count = Math.max(1, Math.min(SAMPLES, end));
  using all = positions(queries, 0, Math.max(1, end));
  const values = (await all.read()) as Float32Array;
  const data = new (values.constructor as Float32ArrayConstructor)(count * CONTEXT_DIM);
  for (let n = 0; n < count; n++) {
    const from = Math.floor((n * end) / count) * CONTEXT_DIM;
    data.set(values.subarray(from, from + CONTEXT_DIM), n * CONTEXT_DIM);
  }
  return Tensor.from(data, [1, count, 1, CONTEXT_DIM], { dtype: queries.dtype });
}

/** Where stretches of the second half of a text begin: those that a seed draws, in their order. */
export function drawStretches(length: number, seed: number): { starts: number[]; size: number } {
  const half = Math.floor(length / 2);
  const size = Math.min(STRETCH, length - half);
  const places = Array.from({ length: Math.floor((length - half) / size) }, (_, n) => half + n * size);
  const bits = randomBits(seed);
  const starts = Array.from({ length: Math.min(STRETCHES, places.length) }, () => {
    const [start] = places.splice(bits() % places.length, 1);
    return start!;
  });
  return { starts: starts.sort((a, b) => a - b), size };
}

export interface Decoded {
  /** Prediction i is for token i + 1; -1 outside the stretches. */
  predicted: Int32Array;
  /** Predictions that were made. */
  count: number;
  /** For these, without what came between the stretches. */
  seconds: number;
  /** The share of keys that were read, of those that were there, in the mean. */
  read: number;
}

/**
 * Decodes stretches of a text. What lies between them is appended, and followed by an index, without being measured;
 * within them each token is appended and asked about. `progress` hears how many predictions are done.
 */
export async function decode(
  memory: Memory,
  { starts, size }: ReturnType<typeof drawStretches>,
  reader: Reader,
  progress: (done: number) => void = () => {},
): Promise<Decoded> {
  const { length, keys, values, queries } = memory;
  using cache = new KvCache({
    batch: 1,
    kvHeads: 1,
    headDim: CONTEXT_DIM,
    valueDim: VALUE_DIM,
    capacity: length,
    dtype: keys.dtype as KvCache['dtype'],
  });
  using samples = await sampled(queries, starts[0] ?? 0);
  using index = reader.method && new KvIndex(cache, { method: reader.method, queries: samples });
  const result = { predicted: new Int32Array(length).fill(-1), count: 0, seconds: 0, read: 0 };
  const append = (end: number) => {
    using k = positions(keys, cache.length, end);
    using v = positions(values, cache.length, end);
    cache.append(k, v);
  };
  const ask = (position: number): { out: Promise<Float32Array>; read: number | Promise<number> } => {
    using q = positions(queries, position, position + 1);
    const { out, lse, read } = see(q, cache, index, reader.width);
    using floats = out.to('float32');
    for (const tensor of [out, lse]) tensor.dispose();
    return { out: floats.read() as Promise<Float32Array>, read };
  };
  for (const start of starts) {
    if (start > cache.length) append(start);
    if (start > 0) await ask(start - 1).out; // what was appended is written, and the index has followed
    const begun = performance.now();
    const asked = Array.from({ length: size }, (_, n) => {
      append(start + n + 1);
      return ask(start + n);
    });
    const mixtures = new Float32Array(size * VALUE_DIM);
    for (const [n, { out }] of asked.entries()) mixtures.set(await out, n * VALUE_DIM);
    result.seconds += (performance.now() - begun) / 1000;
    using mixed = Tensor.from(mixtures, [1, size, 1, VALUE_DIM]);
    result.predicted.set(await lookUp(memory, mixed), start);
    for (const { read } of asked) result.read += await read;
    result.count += size;
    progress(result.count);
  }
  result.read /= result.count;
  return result;
}

function see(q: Tensor, cache: KvCache, index: KvIndex | undefined, width: number | undefined) {
  if (width === undefined) return { ...attention(q, cache, { scale: SHARPNESS }), read: 1 };
  if (index === undefined) {
    const read = Math.min(1, width / cache.length);
    return { ...attention(q, cache, { mask: window({ left: width - 1, right: 0 }), scale: SHARPNESS }), read };
  }
  const last = Math.ceil(width / 4);
  const { out, lse, touched } = index.attend(q, { topK: width - last, sink: 0, window: last, scale: SHARPNESS });
  return { out, lse, read: touched };
}
