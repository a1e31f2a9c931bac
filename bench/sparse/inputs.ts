// What selectors have to choose from: heads with structure, the demo's codes of real text, noise without any, and
// questions whose answers stand in one place each.

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { CONTEXT_DIM, contextCodes, gather, randomBits, randomCodes, VALUE_DIM } from '../../examples/text/codes';
import { tokenize } from '../../examples/text/tokenize';
import { uniform } from '../../test/support/numbers';
import { filled, HEAD_DIM, HEAD_KINDS, noiseFrom, normals, structuredHead } from './heads';

export const KINDS = ['smooth', 'spiky', 'text', 'noise', 'MQAR'] as const;
export type Kind = (typeof KINDS)[number];

/** One token at a time, each query with a choice of its own; or a tile of the last queries that share one. */
export type Phase = 'decode' | 'prefill';

export interface Inputs {
  phase: Phase;
  keys: number;
  headDim: number;
  valueDim: number;
  /** [queries][headDim]. Decoding: each stands behind all keys; prefill: at the last keys. */
  q: Float32Array;
  /** [keys][headDim] */
  k: Float32Array;
  /** [keys][valueDim] */
  v: Float32Array;
  /** As many queries that came before, for selectors that learn from them. */
  earlier: Float32Array;
  /** The right answer of each query, and the codes [answers][valueDim] among which the output is looked up. */
  answers?: { right: Int32Array; codes: Float32Array };
}

/** Queries of a phase: separate ones, and those of one tile. */
export const QUERIES = { decode: 32, prefill: 64 } as const;

/** Neighbouring queries of a text look for neighbouring keys, so many at a time. */
const RUN = 8;

export const ABOUT_KINDS: { [kind in Kind]: string } = {
  smooth: 'structured head, neighbouring keys alike over 50 tokens',
  spiky: 'structured head, neighbouring keys alike over 3 tokens',
  text: "the demo's codes of the TypeScript compiler's text",
  noise: 'Gaussian keys and queries: nothing to find',
  MQAR: 'multi-query associative recall: half of the tokens are pairs of a key and a value, in any places',
};

export function inputsOf(kind: Kind, phase: Phase, keys: number): Inputs {
  if (kind === 'text') return textInputs(phase, keys);
  if (kind === 'MQAR') return recallInputs(phase, keys);
  const queries = QUERIES[phase];
  const seed = 1 + KINDS.indexOf(kind);
  const random = uniform(seed + 100);
  const noise = noiseFrom(random);
  const v = filled(keys * HEAD_DIM, noise);
  const common = { phase, keys, headDim: HEAD_DIM, valueDim: HEAD_DIM, v };
  if (kind === 'noise') {
    const next = normals(random);
    const k = filled(keys * HEAD_DIM, next);
    const rows = () => filled(queries * HEAD_DIM, next);
    return { ...common, k, q: rows(), earlier: rows() };
  }
  const { k, q } = structuredHead(HEAD_KINDS[kind], keys, 2 * queries, phase === 'decode' ? 1 : RUN, seed);
  return { ...common, k, q: q.slice(queries * HEAD_DIM), earlier: q.slice(0, queries * HEAD_DIM) };
}

/** Sharpness of the demo's memory; scores are divided by the root of the dimension, which is made up for here. */
const SHARPNESS = 25;
/** While decoding, so many tokens lie between one query that is looked at and the next: tables of numbers are long. */
const APART = 512;

let text: string | undefined;

/** As much text as a million tokens need. */
function readText(): string {
  const folder = join(dirname(require.resolve('typescript/package.json')), 'lib');
  text ??= ['lib.dom.d.ts', 'typescript.js'].map((name) => readFileSync(join(folder, name), 'utf8')).join('\n');
  return text;
}

/** Key j codes the tokens before j, its value is the token j; the query at i codes the tokens up to i (examples/text). */
function textInputs(phase: Phase, keys: number): Inputs {
  const queries = QUERIES[phase];
  const more = phase === 'decode' ? (2 * queries + 1) * APART : 0;
  const { ids, vocabulary } = tokenize(readText(), keys + more);
  if (ids.length < keys + more) throw new Error(`the text has ${ids.length} tokens; ${keys + more} are needed`);
  const bits = randomBits(1);
  const contexts = contextCodes(bits, ids, vocabulary.length);
  const codes = randomCodes(bits, vocabulary.length, VALUE_DIM);
  const rows = (positions: number[]) => {
    const taken = new Float32Array(positions.length * CONTEXT_DIM);
    positions.forEach((position, n) => {
      const row = contexts.subarray((position + 1) * CONTEXT_DIM, (position + 2) * CONTEXT_DIM);
      taken.set(
        row.map((x) => x * SHARPNESS * Math.sqrt(CONTEXT_DIM)),
        n * CONTEXT_DIM,
      );
    });
    return taken;
  };
  // Decoding goes on behind the keys, whose own last tokens the window would hold.
  const at = (n: number) => (phase === 'decode' ? keys + APART * (n + queries) : keys - queries + n);
  const places = (first: number) => Array.from({ length: queries }, (_, n) => at(first + n));
  return {
    phase,
    keys,
    headDim: CONTEXT_DIM,
    valueDim: VALUE_DIM,
    q: rows(places(0)),
    k: contexts.subarray(0, keys * CONTEXT_DIM),
    v: gather(codes, ids.subarray(0, keys), VALUE_DIM),
    earlier: rows(places(-queries)),
  };
}

/** Different answers. */
const ANSWERS = 256;
const ANSWER_DIM = 64;

/**
 * Arora et al. 2023 (Zoology, arXiv:2312.04927), with weights written down instead of trained: the key of a token codes
 * the token before it, its value the token itself, and a query codes the token whose successor is asked for. Every
 * second pair of places holds a key and its value, others hold tokens that nobody asks for.
 */
function recallInputs(phase: Phase, keys: number): Inputs {
  const queries = QUERIES[phase];
  const random = uniform(3);
  const bits = randomBits(4);
  const k = randomCodes(bits, keys, HEAD_DIM); // row j: the code of token j - 1, all of them different
  const codes = randomCodes(bits, ANSWERS, ANSWER_DIM);
  const values = Int32Array.from({ length: keys }, () => Math.floor(random() * ANSWERS));
  const v = gather(codes, values, ANSWER_DIM);
  // The value of pair n stands at 2 n + 1.
  const pairs = Array.from({ length: Math.floor((keys - queries) / 2) }, (_, n) => n).filter(() => random() < 0.5);
  const ask = () => {
    const q = new Float32Array(queries * HEAD_DIM);
    const right = new Int32Array(queries);
    for (let n = 0; n < queries; n++) {
      const place = 2 * pairs[Math.floor(random() * pairs.length)]! + 1;
      const code = k.subarray(place * HEAD_DIM, (place + 1) * HEAD_DIM);
      q.set(
        code.map((x) => x * SHARPNESS * Math.sqrt(HEAD_DIM)),
        n * HEAD_DIM,
      );
      right[n] = values[place]!;
    }
    return { q, right };
  };
  const [earlier, { q, right }] = [ask().q, ask()];
  return { phase, keys, headDim: HEAD_DIM, valueDim: ANSWER_DIM, q, k, v, earlier, answers: { right, codes } };
}
