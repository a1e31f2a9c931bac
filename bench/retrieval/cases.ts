// What is searched: the keys of heads with structure, by queries that lie elsewhere than keys do, as those of attention,
// and by keys, which is what indexes are made for; the codes of real text; and noise, in which no key tells of another.

import { uniform } from '../../test/support/numbers';
import type { SuiteOptions } from '../session';
import { filled, HEAD_DIM, HEAD_KINDS, noiseFrom, normals, structuredHead } from '../sparse/heads';
import { inputsOf } from '../sparse/inputs';

export interface RetrievalOptions extends SuiteOptions {
  /** Up to a million keys, and steps of a whole model. */
  full: boolean;
}

/** Query heads that share the keys; each search is for all of them. */
export const GROUP = 4;
/** Searches that recall is the mean of. */
export const SEARCHES = 16;
/** Sample queries of each query head, by which a graph is made; in --quick so many times fewer. */
export const SAMPLES = 2048;
export const QUICK_FEWER = 8;
/** How many keys are looked for, as RetrievalAttention does. */
export const TOP = 100;

export interface RetrievalCase {
  name: string;
  kind: keyof typeof HEAD_KINDS | 'noise' | 'text';
  /** Whether the queries are those of attention, or keys with some noise. */
  by: 'queries' | 'keys';
  keys: number;
  /** Other than SAMPLES. */
  samples?: number;
}

/** What is searched, whatever the length. */
export const searchedBy = ({ kind, by }: Pick<RetrievalCase, 'kind' | 'by'>): string =>
  `${kind in HEAD_KINDS ? `${kind} head` : kind === 'text' ? 'text codes' : kind}, ${by} look for keys`;

export function retrievalCases({ quick, full }: RetrievalOptions): RetrievalCase[] {
  const settings = [
    { kind: 'smooth', by: 'queries' },
    { kind: 'spiky', by: 'queries' },
    { kind: 'smooth', by: 'keys' },
    { kind: 'text', by: 'queries' },
    { kind: 'noise', by: 'queries' },
  ] as const;
  return (quick ? [4096] : [16384, 131072, ...(full ? [1048576] : [])]).flatMap((keys) =>
    settings.map((setting) => ({
      ...setting,
      name: `${searchedBy(setting)}, T=${keys}`,
      keys,
      ...(quick && { samples: SAMPLES / QUICK_FEWER }),
    })),
  );
}

/** Keys and values, and queries that look for some. */
export interface Head {
  /** [keys][HEAD_DIM] */
  k: Float32Array;
  /** [keys][columns of a value] */
  v: Float32Array;
  /** [searches][query heads of a search][HEAD_DIM] */
  q: Float32Array;
  /** [sample queries][query heads][HEAD_DIM]: queries of attention, none of those above. */
  samples: Float32Array;
}

export interface Data extends Head {
  /** The keys of the largest products with each of the queries. */
  top: Set<number>[];
  /** The least of these products, and how far below it a key may lie that float32 takes for a better one. */
  least: { product: number; slack: number }[];
}

export function dataOf(test: Omit<RetrievalCase, 'name'>): Data {
  const head = headOf(test);
  return { ...head, ...bestOf(head.q, head.k) };
}

export function headOf({ kind, by, keys, samples: each = SAMPLES }: Omit<RetrievalCase, 'name'>): Head {
  if (kind === 'text') return textHead(keys, each * GROUP);
  const queries = SEARCHES * GROUP;
  const noise = noiseFrom(uniform(78));
  if (kind === 'noise') return { ...noiseHead(keys, queries, each * GROUP), v: filled(keys * HEAD_DIM, noise) };
  const { k, q: asked, samples, targets } = structuredHead(HEAD_KINDS[kind], keys, queries, 1, 77, each * GROUP);
  const v = k.map((_, i) => noise(i));
  const q = asked.slice();
  if (by === 'keys') {
    for (const [n, target] of targets.entries()) {
      for (let c = 0; c < HEAD_DIM; c++) {
        q[n * HEAD_DIM + c] = k[target * HEAD_DIM + c]! + 0.35 * noise(n * HEAD_DIM + c);
      }
    }
  }
  return { k, v, q, samples };
}

/**
 * The demo's codes: 64 queries from behind the keys. Within the text a query is the key that comes next, but for a factor
 * that leads to the same best keys; so sample queries are keys.
 */
export function textHead(keys: number, samples: number): Head {
  const { k, v, q, earlier } = inputsOf('text', 'decode', keys);
  const asked = new Float32Array(earlier.length + q.length);
  asked.set(earlier);
  asked.set(q, earlier.length);
  const sampled = new Float32Array(samples * HEAD_DIM);
  for (let n = 0; n < samples; n++) {
    const key = Math.floor((n * keys) / samples);
    sampled.set(k.subarray(key * HEAD_DIM, (key + 1) * HEAD_DIM), n * HEAD_DIM);
  }
  return { k: k.slice(), v, q: asked, samples: sampled };
}

/** Normal numbers, independent of each other. */
export function noiseHead(keys: number, queries: number, samples: number): Omit<Head, 'v'> {
  const next = normals(uniform(79));
  return {
    k: filled(keys * HEAD_DIM, next),
    q: filled(queries * HEAD_DIM, next),
    samples: filled(samples * HEAD_DIM, noiseFrom(uniform(81))),
  };
}

/** What each of the queries looks for. */
export function bestOf(q: Float32Array, k: Float32Array): Pick<Data, 'top' | 'least'> {
  const rows = Array.from({ length: q.length / HEAD_DIM }, (_, n) =>
    topOf(q.subarray(n * HEAD_DIM, (n + 1) * HEAD_DIM), k),
  );
  return { top: rows.map(({ top }) => top), least: rows.map(({ least }) => least) };
}

/** By definition, in float64. */
function topOf(q: Float32Array, k: Float32Array): { top: Set<number>; least: Data['least'][number] } {
  const products = Float64Array.from({ length: k.length / HEAD_DIM }, (_, key) => productOf(q, k, key));
  const sorted = products.slice().sort();
  const product = sorted[Math.max(0, sorted.length - TOP)]!;
  const top = new Set<number>();
  // Of keys as good as the last of the best, which text has many of, the first ones.
  for (const tied of [false, true]) {
    products.forEach((each, key) => {
      if ((tied ? each === product : each > product) && top.size < TOP) top.add(key);
    });
  }
  // Each of the sums of HEAD_DIM terms is rounded, and two of them are compared.
  let norm = 0;
  for (let c = 0; c < HEAD_DIM; c++) norm += q[c]! ** 2;
  let longest = 0;
  for (const key of top) {
    let length = 0;
    for (let c = 0; c < HEAD_DIM; c++) length += k[key * HEAD_DIM + c]! ** 2;
    longest = Math.max(longest, length);
  }
  return { top, least: { product, slack: 2 * HEAD_DIM * 2 ** -24 * Math.sqrt(norm * longest) } };
}

export function productOf(q: Float32Array, k: Float32Array, key: number): number {
  let sum = 0;
  for (let c = 0; c < HEAD_DIM; c++) sum += q[c]! * k[key * HEAD_DIM + c]!;
  return sum;
}
