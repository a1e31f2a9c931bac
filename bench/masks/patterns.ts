// The mask patterns of the Long-Context Attention Benchmark (Bu et al. 2025, arXiv:2510.17896), and the calls of
// attention() that express them.

import { uniform } from '../../test/support/numbers';
import type { MaskSpec } from '../../test/support/oracle';

/** From, to (exclusive), in tokens. */
export type Range = [number, number];

/** A call on parts of q, k, v and the output. */
export interface PatternCall {
  queries: Range;
  keys: Range;
  mask?: MaskSpec;
  /** Keys that all queries of the call see besides. */
  extra?: Range;
  /** Where the sequences of a ragged batch begin, and their end, from the first token of the call on. */
  lengths?: number[];
  /** Instead of a mask: a sparse plan of what the pattern shows. Of calls on all tokens. */
  plan?: boolean;
}

export interface Pattern {
  name: string;
  /** The keys that query i sees: ranges that do not overlap. Known to the oracle and to other contestants. */
  ranges(i: number): Range[];
  /** What this library is called with. */
  calls: PatternCall[];
  /** A causal mask shows all of it, and more. */
  causal?: boolean;
}

const CAUSAL: MaskSpec = { left: -1, right: 0 };
/** Keys that a window reaches to, and tokens that all see. */
const REACH = 128;
const GLOBAL = 64;
/** Tokens of a block that sees itself whole, and of blocks that are all alike. */
const BLOCK = 128;
/** Blocks of random extents are multiples of this, up to so many of them. */
const GRAIN = 16;
const MOST_GRAINS = 12;
/** Of the blocks besides its own, what a block sees. */
const SHOWN = 1 / 4;
/** Where documents end, in shares of all tokens; a multiple of 64 tokens from 2048 on, not so below. */
const ENDS = [3 / 32, 11 / 32, 1 / 2, 27 / 32, 1];

/** Which blocks see which, at random, and each itself: what a query of a token sees. `starts` ends with the tokens. */
function blocksOf(starts: readonly number[]): (i: number) => Range[] {
  const random = uniform(11);
  const rows = starts.slice(1).map((_, row) => {
    const ranges: Range[] = [];
    for (let column = 0; column + 1 < starts.length; column++) {
      const shown = random() < SHOWN;
      if (!shown && column !== row) continue;
      const [from, to] = [starts[column]!, starts[column + 1]!];
      if (ranges.at(-1)?.[1] === from) ranges.at(-1)![1] = to;
      else ranges.push([from, to]);
    }
    return ranges;
  });
  return (i) => rows[starts.findIndex((start) => start > i) - 1]!;
}

function evenStarts(tokens: number): number[] {
  const starts = Array.from({ length: Math.ceil(tokens / BLOCK) }, (_, n) => n * BLOCK);
  return [...starts, tokens];
}

function unevenStarts(tokens: number): number[] {
  const random = uniform(12);
  const starts = [0];
  while (starts.at(-1)! < tokens) starts.push(starts.at(-1)! + GRAIN * (1 + Math.floor(random() * MOST_GRAINS)));
  return [...starts.slice(0, -1), tokens];
}

/** All of them, for so many tokens. */
export function patterns(tokens: number): Pattern[] {
  const whole: Range = [0, tokens];
  const clip = (from: number, to: number): Range => [Math.max(0, from), Math.min(tokens, to)];
  const starts = [0, ...ENDS.map((end) => Math.round(end * tokens))];
  const documentOf = (i: number): Range => {
    const n = starts.findIndex((start) => start > i);
    return [starts[n - 1]!, starts[n]!];
  };
  const documents = starts.slice(1).map((end, n): Range => [starts[n]!, end]);
  const last = documents.at(-1)!;
  const prefix = Math.round(tokens / 4);
  const question = Math.round(tokens / 4);
  const answers = [0, 1, 2, 3].map((n) => Math.round((n * (tokens - question)) / 3));
  const answerOf = (i: number) => question + answers[answers.findIndex((start) => question + start > i) - 1]!;
  const prefixOf = ([from, to]: Range): Range => [from, from + Math.round((to - from) / 4)];
  return [
    { name: 'full', ranges: () => [whole], calls: [{ queries: whole, keys: whole }] },
    { name: 'causal', ranges: (i) => [[0, i + 1]], calls: [{ queries: whole, keys: whole, mask: CAUSAL }] },
    {
      name: 'full sliding window',
      ranges: (i) => [clip(i - REACH, i + REACH + 1)],
      calls: [{ queries: whole, keys: whole, mask: { left: REACH, right: REACH } }],
    },
    {
      name: 'causal sliding window',
      causal: true,
      ranges: (i) => [clip(i - 2 * REACH, i + 1)],
      calls: [{ queries: whole, keys: whole, mask: { left: 2 * REACH, right: 0 } }],
    },
    {
      name: 'full document',
      ranges: (i) => [documentOf(i)],
      calls: [{ queries: whole, keys: whole, lengths: starts }],
    },
    {
      name: 'causal document',
      causal: true,
      ranges: (i) => [[documentOf(i)[0], i + 1]],
      calls: [{ queries: whole, keys: whole, lengths: starts, mask: CAUSAL }],
    },
    {
      // Several answers see one question, and each itself.
      name: 'share question',
      causal: true,
      ranges: (i) =>
        i < question
          ? [[0, i + 1]]
          : [
              [0, question],
              [answerOf(i), i + 1],
            ],
      calls: [
        { queries: [0, question], keys: [0, question], mask: CAUSAL },
        {
          queries: [question, tokens],
          keys: [question, tokens],
          lengths: answers,
          mask: CAUSAL,
          extra: [0, question],
        },
      ],
    },
    {
      // The first tokens see all and are seen by all.
      name: 'global sliding window',
      ranges: (i) =>
        i < GLOBAL
          ? [whole]
          : [
              [0, GLOBAL],
              [Math.max(GLOBAL, i - REACH), Math.min(tokens, i + REACH + 1)],
            ],
      calls: [
        { queries: [0, GLOBAL], keys: whole },
        {
          queries: [GLOBAL, tokens],
          keys: [GLOBAL, tokens],
          mask: { left: REACH, right: REACH },
          extra: [0, GLOBAL],
        },
      ],
    },
    {
      // Documents see themselves; the last one sees all before it.
      name: 'causal blockwise',
      causal: true,
      ranges: (i) => [[i < last[0] ? documentOf(i)[0] : 0, i + 1]],
      calls: [
        { queries: [0, last[0]], keys: [0, last[0]], lengths: starts.slice(0, -1), mask: CAUSAL },
        { queries: last, keys: whole, mask: CAUSAL },
      ],
    },
    {
      // Query i stands at i - prefix among the keys that are not `extra`.
      name: 'prefix LM causal',
      ranges: (i) => [[0, Math.max(prefix, i + 1)]],
      calls: [{ queries: whole, keys: [prefix, tokens], mask: CAUSAL, extra: [0, prefix] }],
    },
    {
      name: 'prefix LM document',
      ranges: (i) => [[documentOf(i)[0], Math.max(prefixOf(documentOf(i))[1], i + 1)]],
      calls: documents.map((document) => ({
        queries: document,
        keys: [prefixOf(document)[1], document[1]],
        mask: CAUSAL,
        extra: prefixOf(document),
      })),
    },
    {
      // Blocks of a document see themselves and those before them.
      name: 'block causal document',
      ranges: (i) => {
        const [from, to] = documentOf(i);
        return [[from, Math.min(to, from + (Math.floor((i - from) / BLOCK) + 1) * BLOCK)]];
      },
      calls: [{ queries: whole, keys: whole, plan: true }],
    },
    {
      name: 'uniform block sparse',
      ranges: blocksOf(evenStarts(tokens)),
      calls: [{ queries: whole, keys: whole, plan: true }],
    },
    {
      name: 'variable block sparse',
      ranges: blocksOf(unevenStarts(tokens)),
      calls: [{ queries: whole, keys: whole, plan: true }],
    },
  ];
}
