// The cases of suite masks: patterns by length, and windows by length against dense attention in the four patterns of the
// Comprehensive Attention Benchmark (Zhang et al. 2023, arXiv:2210.07661).

import type { Case } from '../cases';
import { patterns } from './patterns';

const LENGTHS = [512, 1024, 2048, 4096];
const HEAD_DIM = 64;
const DTYPES = ['float32', 'bfloat16'] as const;

/** Keys that a window reaches to on one side (causal), or on both together. */
const WINDOW = 256;
/** Cross attention has so many times as many keys as queries. */
const CROSS = 4;

export const CAB_PATTERNS = ['noncausal self', 'causal self', 'noncausal cross', 'causal cross'] as const;
export type CabPattern = (typeof CAB_PATTERNS)[number];

/** The shortest lengths are where dense attention wins. */
const CAB_LENGTHS = [128, 256, 512, 1024, 2048, 4096];

export function patternCase(pattern: ReturnType<typeof patterns>[0], dtype: Case['dtype'], tokens: number): Case {
  const name = `${dtype} pattern ${pattern.name} S=${tokens} D=${HEAD_DIM}`;
  return { name, kind: pattern.name, dtype, queries: [tokens], keys: [tokens], headDim: HEAD_DIM, pattern };
}

export function cabCase(pattern: CabPattern, dtype: Case['dtype'], tokens: number): Case {
  const causal = pattern.startsWith('causal');
  const queries = [pattern.endsWith('cross') ? tokens / CROSS : tokens];
  return {
    name: `${dtype} CAB ${pattern} window S=${tokens} D=${HEAD_DIM}`,
    kind: `CAB ${pattern} window`,
    dtype,
    queries,
    keys: [tokens],
    headDim: HEAD_DIM,
    mask: causal ? { left: WINDOW - 1, right: 0 } : { left: WINDOW / 2, right: WINDOW / 2 - 1 },
    dense: causal ? 'causal' : undefined,
    byLength: true,
  };
}

/** Every case, or (`quick`) each pattern once and two lengths of one pattern of CAB. */
export function maskCases(quick: boolean): Case[] {
  if (quick) {
    return [
      ...patterns(1024).map((pattern) => patternCase(pattern, 'float32', 1024)),
      ...[256, 1024].map((tokens) => cabCase('causal self', 'float32', tokens)),
    ];
  }
  const cases: Case[] = [];
  for (const dtype of DTYPES) {
    for (const tokens of LENGTHS) for (const each of patterns(tokens)) cases.push(patternCase(each, dtype, tokens));
    for (const pattern of CAB_PATTERNS) {
      for (const tokens of CAB_LENGTHS) cases.push(cabCase(pattern, dtype, tokens));
    }
  }
  return cases;
}
