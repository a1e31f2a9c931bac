// Keys and queries like those of a trained head, made from random numbers: what a selector has to find. The sizes are
// calibrated on what RetrievalAttention (Liu et al. 2024, arXiv:2409.10516) reports of real heads: the best hundredth of
// the keys has most of the softmax, the first keys much of it, and queries lie far from where keys do.

import { uniform } from '../../test/support/numbers';

export const HEAD_DIM = 128;

export interface HeadKind {
  /** Tokens over which the fast part of the keys stays alike: 3 is spiky, 50 smooth. */
  tauFast: number;
  /** How peaked the scores are. */
  sharpness: number;
  /** The score of the first keys over the mean of the best others. */
  sinkLogit: number;
}

export const HEAD_KINDS = {
  smooth: { tauFast: 50, sharpness: 6.4, sinkLogit: 1.2 },
  spiky: { tauFast: 3, sharpness: 6.4, sinkLogit: 1.2 },
} as const satisfies { [name: string]: HeadKind };

export interface Head {
  /** [tokens][HEAD_DIM] */
  k: Float32Array;
  /** The key that each query looks for. */
  targets: Int32Array;
  /** [queries][HEAD_DIM] */
  q: Float32Array;
  /** [samples][HEAD_DIM]: further queries, which look for other keys. */
  samples: Float32Array;
}

/** Extents of the subspaces: of slow and of fast content. Two more directions are the mean of all keys and the sinks'. */
const SLOW = 20;
const FAST = 28;
const SINKS = 4;
const TAU_SLOW = 400;
/** Queries that are looked at to find the strength of the sinks. */
const PROBES = 8;

export const normals = (random: () => number) => (): number =>
  Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());

/** So many different normal deviates are enough for what is noise; prime, so that they never fall on the same places. */
const DIFFERENT = 1048573;

/** Noise of any length that takes no time to make. */
export function noiseFrom(random: () => number): (index: number) => number {
  const drawn = filled(DIFFERENT, normals(random));
  return (index) => drawn[index % DIFFERENT]!;
}

/** Float32Array.from, for arrays that are too long for it. */
export function filled(length: number, value: (index: number) => number): Float32Array {
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) values[i] = value(i);
  return values;
}

/** Rows of an orthonormal basis of R^dim, by Gram and Schmidt. */
export function basis(next: () => number, dim: number): Float64Array[] {
  const rows: Float64Array[] = [];
  while (rows.length < dim) {
    const row = Float64Array.from({ length: dim }, next);
    for (let pass = 0; pass < 2; pass++) {
      for (const other of rows) {
        const along = dot(row, other);
        for (let c = 0; c < dim; c++) row[c]! -= along * other[c]!;
      }
    }
    const norm = Math.sqrt(dot(row, row));
    rows.push(row.map((x) => x / norm));
  }
  return rows;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let c = 0; c < a.length; c++) sum += a[c]! * b[c]!;
  return sum;
}

/**
 * A head of so many keys and queries. The queries come in runs of `run` that look for neighbouring keys, as those of one
 * text do; runs look anywhere, and so does each of the samples. Keys and queries do not depend on the number of these.
 */
export function structuredHead(
  kind: HeadKind,
  tokens: number,
  queries: number,
  run: number,
  seed: number,
  samples = 0,
): Head {
  const random = uniform(seed);
  const next = normals(random);
  const noise = noiseFrom(random);
  const rows = basis(next, HEAD_DIM);
  const [slow, fast] = [rows.slice(0, SLOW), rows.slice(SLOW, SLOW + FAST)];
  const [mean, sink] = [rows[SLOW + FAST]!, rows[SLOW + FAST + 1]!];
  const rest = rows.slice(SLOW + FAST + 2);
  const spectrum = Float64Array.from({ length: FAST }, (_, i) => (i + 1) ** -0.35);
  const length = Math.sqrt(dot(spectrum, spectrum) / FAST);
  for (let i = 0; i < FAST; i++) spectrum[i]! /= length;

  const runs = Math.ceil(queries / run);
  const least = Math.floor(tokens / 64);
  const starts = Array.from(
    { length: runs },
    () => least + Math.floor(random() * Math.max(1, tokens - least - run - queries)),
  );
  const targets = Int32Array.from({ length: queries }, (_, i) => starts[Math.floor(i / run)]! + (i % run));
  const other = uniform(~seed);
  const others = Int32Array.from({ length: samples }, () => least + Math.floor(other() * (tokens - least)));
  const wanted = new Map<number, Float64Array>();
  for (const target of [...targets, ...others]) wanted.set(target, new Float64Array(FAST));

  const k = new Float32Array(tokens * HEAD_DIM);
  const [zSlow, zFast] = [Float64Array.from({ length: SLOW }, next), Float64Array.from({ length: FAST }, next)];
  const [keepSlow, keepFast] = [Math.exp(-1 / TAU_SLOW), Math.exp(-1 / kind.tauFast)];
  const [newSlow, newFast] = [Math.sqrt(1 - keepSlow ** 2), Math.sqrt(1 - keepFast ** 2)];
  const row = new Float64Array(HEAD_DIM);
  const add = (weight: number, direction: Float64Array) => {
    for (let c = 0; c < HEAD_DIM; c++) row[c]! += weight * direction[c]!;
  };
  for (let t = 0; t < tokens; t++) {
    for (let i = 0; i < SLOW; i++) zSlow[i] = keepSlow * zSlow[i]! + newSlow * next();
    for (let i = 0; i < FAST; i++) zFast[i] = keepFast * zFast[i]! + newFast * next();
    wanted.get(t)?.set(zFast);
    row.fill(0);
    if (t < SINKS) {
      add(-1, mean);
      add(5, sink);
    } else {
      add(4, mean);
      for (const [i, direction] of slow.entries()) add(3 * zSlow[i]!, direction);
      for (const [i, direction] of fast.entries()) add(spectrum[i]! * zFast[i]!, direction);
    }
    const loud = t < SINKS ? 0.3 : 0.35;
    for (let c = 0; c < HEAD_DIM; c++) k[t * HEAD_DIM + c] = row[c]! + loud * noise(t * HEAD_DIM + c);
  }

  const queriesFor = (keys: Int32Array, draw: () => number) => {
    const made = new Float32Array(keys.length * HEAD_DIM);
    keys.forEach((target, i) => {
      row.fill(0);
      add(-5, mean);
      const content = wanted.get(target)!;
      for (const [c, direction] of fast.entries())
        add(kind.sharpness * (0.65 * content[c]! + 0.35 * draw()), direction);
      for (const direction of slow) add(0.5 * draw(), direction);
      for (const direction of rest) add(1.2 * draw(), direction);
      made.set(row, i * HEAD_DIM);
    });
    return made;
  };
  const q = queriesFor(targets, next);
  const sampled = queriesFor(others, normals(other));

  // The sinks' direction: their mean score is to be that share of the mean of the best other scores.
  const probes = Math.min(PROBES, queries);
  let [best, sinks] = [0, 0];
  for (let i = 0; i < probes; i++) {
    let most = Number.NEGATIVE_INFINITY;
    for (let t = 0; t < tokens; t++) {
      let score = 0;
      for (let c = 0; c < HEAD_DIM; c++) score += q[i * HEAD_DIM + c]! * k[t * HEAD_DIM + c]!;
      if (t < SINKS) sinks += score / SINKS / probes;
      else most = Math.max(most, score);
    }
    best += most / probes;
  }
  const strength = (kind.sinkLogit * best - sinks) / 5; // sinks have 5 along this direction
  for (const made of [q, sampled]) {
    for (let i = 0; i < made.length; i++) made[i]! += strength * sink[i % HEAD_DIM]!;
  }
  return { k, q, samples: sampled, targets };
}
