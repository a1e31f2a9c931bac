// What searches find, against a plain sort of float64 scores; and keys to search.

import { type KvCache, KvIndex, type Stream } from 'node-attention';
import { expect } from 'vitest';
import { tensorOf } from './library';
import type { Values } from './numbers';

/** Keys as a cache gives them back: scores against unit vectors, which are its elements. */
export async function heldKeys(cache: KvCache): Promise<Values> {
  const { batch, kvHeads, headDim, length } = cache;
  const data = new Float64Array(batch * length * kvHeads * headDim);
  using index = new KvIndex(cache);
  for (let d = 0; d < headDim; d++) {
    const unit: Values = { shape: [batch, 1, kvHeads, headDim], data: new Float64Array(batch * kvHeads * headDim) };
    for (let row = 0; row < batch * kvHeads; row++) unit.data[row * headDim + d] = 1;
    const { ids, scores } = index.search(tensorOf(unit, cache.dtype), Math.max(1, length), { scale: 1 });
    const [id, score] = [(await ids.read()) as Int32Array, (await scores.read()) as Float32Array];
    id.forEach((key, i) => {
      const row = Math.floor(i / length);
      const [b, head] = [Math.floor(row / kvHeads), row % kvHeads];
      if (key >= 0) data[((b * length + key) * kvHeads + head) * headDim + d] = score[i]!;
    });
  }
  return { shape: [batch, length, kvHeads, headDim], data };
}

/** Scores of all keys of a sequence with a query head, and how far a float32 evaluation may be from them. */
export function scoresOf(q: Values, k: Values, b: number, head: number, length: number) {
  const [, tokens, kvHeads, headDim] = k.shape as [number, number, number, number];
  const heads = q.shape[2]!;
  const kvHead = Math.floor(head / (heads / kvHeads));
  let off = 0;
  const scores = Float64Array.from({ length }, (_, key) => {
    let [sum, size] = [0, 0];
    for (let d = 0; d < headDim; d++) {
      const term =
        q.data[(b * heads + head) * headDim + d]! * k.data[((b * tokens + key) * kvHeads + kvHead) * headDim + d]!;
      sum += term;
      size += Math.abs(term);
    }
    off = Math.max(off, ((size * (headDim + 2)) / Math.sqrt(headDim)) * 2 ** -24);
    return sum / Math.sqrt(headDim);
  });
  return { scores, off };
}

/** That `ids` are the best of the keys, in order, but for what rounding may exchange. */
export function expectBest(ids: Int32Array, got: Float32Array, scores: Float64Array, off: number): void {
  const there = Math.min(ids.length, scores.length);
  expect(new Set(ids.subarray(0, there)).size).toBe(there);
  const sorted = scores.slice().sort((a, b) => b - a);
  for (let i = 0; i < ids.length; i++) {
    if (i >= there) {
      expect([ids[i], got[i]]).toEqual([-1, -Infinity]);
      continue;
    }
    expect(ids[i]).toBeGreaterThanOrEqual(0);
    expect(Math.abs(got[i]! - scores[ids[i]!]!)).toBeLessThanOrEqual(off);
    expect(scores[ids[i]!]!).toBeGreaterThanOrEqual(sorted[i]! - 2 * off);
    if (i > 0) expect(got[i]!).toBeLessThanOrEqual(got[i - 1]!);
  }
}

/** That a search finds the best keys, but for what rounding may exchange. */
export async function expectExact(
  index: KvIndex,
  q: Values,
  k: Values,
  lengths: number[],
  topK: number,
  stream?: Stream,
) {
  const { dtype } = index.cache;
  const { ids, scores } = index.search(tensorOf(q, dtype), topK, { ...(stream && { stream }) });
  const [allIds, allScores] = [(await ids.read()) as Int32Array, (await scores.read()) as Float32Array];
  const heads = q.shape[2]!;
  lengths.forEach((length, b) => {
    for (let head = 0; head < heads; head++) {
      const at = (b * heads + head) * topK;
      const { scores: exact, off } = scoresOf(q, k, b, head, length);
      expectBest(allIds.subarray(at, at + topK), allScores.subarray(at, at + topK), exact, off);
    }
  });
}

/**
 * Keys and queries as models have them: keys have a large mean and follow slow and fast walks, and queries are far from
 * all keys but look for what is like one of them.
 */
export function structured(random: () => number, tokens: number, heads: number, kvHeads: number) {
  const D = 64;
  const noise = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const k: Values = { shape: [1, tokens, kvHeads, D], data: new Float64Array(tokens * kvHeads * D) };
  const q: Values = { shape: [1, 1, heads, D], data: new Float64Array(heads * D) };
  const walks: Float64Array[] = [];
  for (let h = 0; h < kvHeads; h++) {
    const slow = Float64Array.from({ length: 16 }, noise);
    const fast = Float64Array.from({ length: 16 }, noise);
    const all = new Float64Array(tokens * 16);
    for (let t = 0; t < tokens; t++) {
      for (let i = 0; i < 16; i++) {
        slow[i] = slow[i]! * Math.exp(-1 / 400) + noise() * Math.sqrt(1 - Math.exp(-2 / 400));
        fast[i] = fast[i]! * Math.exp(-1 / 12) + noise() * Math.sqrt(1 - Math.exp(-2 / 12));
        all[t * 16 + i] = fast[i]!;
        const at = (t * kvHeads + h) * D;
        k.data[at + 1 + i] = 3 * slow[i]!;
        k.data[at + 17 + i] = 1.5 * fast[i]!;
        k.data[at + 33 + i] = 0.35 * noise();
      }
      k.data[(t * kvHeads + h) * D] = 40;
    }
    walks.push(all);
  }
  for (let head = 0; head < heads; head++) {
    const target = Math.floor(random() * tokens);
    q.data[head * D] = -5;
    for (let i = 0; i < 16; i++) {
      q.data[head * D + 17 + i] =
        6 * (0.65 * walks[Math.floor((head * kvHeads) / heads)]![target * 16 + i]! + 0.35 * noise());
      q.data[head * D + 1 + i] = 0.5 * noise();
      q.data[head * D + 33 + i] = 1.2 * noise();
    }
  }
  const rounded = (values: Values) => ({ ...values, data: values.data.map(Math.fround) });
  return { q: rounded(q), k: rounded(k) };
}
