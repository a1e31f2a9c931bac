// What chooses keys, each given the same budget beyond the same keys that all of them always show.

import {
  dilatedPlan,
  hipPlan,
  type KvCache,
  pagePlan,
  pooledPlan,
  type SelectorOptions,
  type SparsePlan,
  type Stream,
  streamingPlan,
  type Tensor,
  verticalSlashPlan,
} from 'node-attention';

/** Keys in every plan: the first ones, and the last ones up to each query. */
export const ALWAYS = { sink: 64, window: 256 } as const;

/** Queries and keys, and what a rule needs besides. */
export interface Choice {
  q: Tensor;
  k: Tensor;
  /** Where the keys are read instead. */
  cache?: KvCache | undefined;
  keys: number;
  queries: number;
  /** Keys to choose beyond `ALWAYS`. */
  budget: number;
  share: SelectorOptions['share'];
  stream?: Stream;
  /** The weights that earlier queries gave to each key, summed. */
  earlier?: Float64Array;
}

export interface Selector {
  name: string;
  plan(choice: Choice): SparsePlan;
  /** Vectors whose scores are computed to select, of so many keys: by the definition of the selector. */
  scored(keys: number, budget: number): number;
}

type Make = (q: Tensor, k: Tensor | KvCache, options: SelectorOptions) => SparsePlan;

const chooses =
  (make: Make, estimate = false): Selector['plan'] =>
  ({ q, k, cache, budget, share, stream }) =>
    make(q, cache ?? k, { budget, causal: true, always: ALWAYS, share, stream, estimate });

const open = (keys: number) => keys - ALWAYS.sink - ALWAYS.window;

/** Chunks of the stages of hipPlan, the blocks being those of the last. */
const STAGES = [256, 32, 8] as const;

/** What each stage of hipPlan goes through, and how many keys it keeps. */
function stagesOf(keys: number, budget: number): { chunk: number; keep: number }[] {
  const stages: { chunk: number; keep: number }[] = STAGES.map((chunk, stage) => ({
    chunk,
    keep: budget * 4 ** (STAGES.length - 1 - stage),
  }));
  for (let keep = Math.max(32768, 512 * budget); keep < keys; keep *= 8) {
    stages.unshift({ chunk: 8 * stages[0]!.chunk, keep });
  }
  return stages;
}

/** Each chunk is bisected down to one key, and both halves of every step are scored. */
function scoredByStages(keys: number, budget: number): number {
  let left = open(keys);
  let scored = 0;
  for (const { chunk, keep } of stagesOf(keys, budget)) {
    const [parts, kept] = [Math.ceil(left / chunk), Math.ceil(keep / chunk)];
    if (parts <= kept) continue;
    scored += parts * 2 * Math.log2(chunk);
    left = kept * chunk;
  }
  return scored;
}

const HIP1_BLOCK = 8;

/** All nodes are halved until each is a block, and both halves of every node are scored. */
function scoredByTree(keys: number, budget: number): number {
  const [blocks, nodes] = [Math.ceil(open(keys) / HIP1_BLOCK), Math.ceil(budget / HIP1_BLOCK)];
  return blocks <= nodes ? 0 : 2 * nodes * Math.ceil(Math.log2(blocks / nodes));
}

/** The largest and the smallest elements of each page of 16 keys. */
const scoredPages = (keys: number) => (2 * open(keys)) / 16;

/** Blocks of the rules. */
const RULE_BLOCK = 16;
const nothing = () => 0;
const rule = ({ queries, keys, stream }: Choice) => ({ queries, keys, causal: true, keyBlock: RULE_BLOCK, stream });

const streaming = (choice: Choice): SparsePlan =>
  streamingPlan({ ...rule(choice), ...ALWAYS, window: ALWAYS.window + choice.budget });

/** Blocks at distances of powers of two take a part of the budget, the window the rest. */
function dilated(choice: Choice): SparsePlan {
  const far = RULE_BLOCK * Math.log2(choice.keys / RULE_BLOCK);
  return dilatedPlan({
    ...rule(choice),
    sink: ALWAYS.sink,
    window: Math.max(ALWAYS.window, ALWAYS.window + choice.budget - Math.ceil(far)),
  });
}

/** The lines that earlier queries looked at most, and the diagonals of the window. */
function verticalSlash(choice: Choice): SparsePlan {
  const weights = choice.earlier!;
  const blocks = Array.from({ length: Math.floor(choice.keys / RULE_BLOCK) }, (_, block) => ({
    block,
    weight: weights.subarray(block * RULE_BLOCK, (block + 1) * RULE_BLOCK).reduce((sum, weight) => sum + weight, 0),
  })).filter(({ block }) => block * RULE_BLOCK >= ALWAYS.sink);
  blocks.sort((a, b) => b.weight - a.weight || a.block - b.block);
  const best = blocks.slice(0, Math.ceil(choice.budget / RULE_BLOCK)).map(({ block }) => block * RULE_BLOCK);
  const sink = Array.from({ length: ALWAYS.sink / RULE_BLOCK }, (_, block) => block * RULE_BLOCK);
  const slash = Array.from({ length: ALWAYS.window / RULE_BLOCK }, (_, n) => n * RULE_BLOCK);
  return verticalSlashPlan({ ...rule(choice), vertical: [...sink, ...best], slash });
}

export const SELECTORS: readonly Selector[] = [
  { name: 'hip', plan: chooses(hipPlan), scored: scoredByStages },
  { name: 'hip1', plan: chooses((q, k, o) => hipPlan(q, k, { ...o, variant: 'hip1' })), scored: scoredByTree },
  { name: 'pages', plan: chooses(pagePlan), scored: scoredPages },
  {
    name: 'pooled 16',
    plan: chooses((q, k, o) => pooledPlan(q, k, { ...o, keyBlock: 16 })),
    scored: (keys) => open(keys) / 16,
  },
  { name: 'pooled 64', plan: chooses(pooledPlan), scored: (keys) => open(keys) / 64 },
  // What is not listed counts by the means of its blocks.
  { name: 'pages + estimate', plan: chooses(pagePlan, true), scored: scoredPages },
  { name: 'pooled 64 + estimate', plan: chooses(pooledPlan, true), scored: (keys) => open(keys) / 64 },
  { name: 'streaming', plan: streaming, scored: nothing },
  { name: 'dilated', plan: dilated, scored: nothing },
  { name: 'vertical-slash', plan: verticalSlash, scored: nothing },
];

export const selectorOf = (name: string): Selector => SELECTORS.find((selector) => selector.name === name)!;
