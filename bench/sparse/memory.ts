// Child process: how many bytes selecting and attending take beyond their inputs, or dense attention, or selecting alone
// (bench/resident.ts). Over a cache that is what a first step makes of all keys, too.

import { attention, causal, Stream, Tensor } from 'node-attention';
import { answerBytes, bytesBeyond } from '../resident';
import { median } from '../statistics';
import { budgetOf } from './cases';
import { cacheOf, HEADS, KV_HEADS } from './data';
import { HEAD_DIM } from './heads';
import type { Phase } from './inputs';
import { selectorOf } from './selectors';

export interface MemoryTask {
  name: string;
  phase: Phase;
  queries: number;
  keys: number;
  /** Or 'dense'. */
  selector: string;
  density: number;
}

/** Selecting alone, for as many queries as keys: bytes of one head. */
export interface SelectionTask {
  name: string;
  tokens: number;
  selector: string;
  budget: number;
}

/** Any numbers do. */
async function makeStep({ phase, selector, density }: MemoryTask, queries: number, keys: number) {
  const make = (seed: number, tokens: number, heads: number) =>
    Tensor.randn([1, tokens, heads, HEAD_DIM], { seed, dtype: 'bfloat16' });
  const [q, k, v] = [make(1, queries, HEADS), make(2, keys, KV_HEADS), make(3, keys, KV_HEADS)];
  const stream = new Stream();
  const cache = phase === 'decode' ? cacheOf({ k, v }, 0, stream) : undefined;
  await Promise.all([q, k, v].map((tensor) => tensor.slice([0, 1], [0, 1]).read())); // they are filled by now
  await stream.synchronize();
  const choice = { q, k, cache, keys, queries, budget: budgetOf(keys, density), share: 'group', stream } as const;
  return async () => {
    const mask = selector === 'dense' ? causal() : selectorOf(selector).plan(choice);
    const { out } = cache ? attention(q, cache, { mask, stream }) : attention(q, k, v, { mask, stream });
    await stream.synchronize();
    return [out, k, v]; // memory that was freed before could be had again
  };
}

/**
 * Selecting takes little: of so many heads, what threads and heap happen to take is little beside it. Fewer of longer
 * sequences do, for which there would be no answer in time.
 */
const headsOf = (tokens: number) => Math.max(1, Math.min(16, Math.floor(2 ** 21 / tokens)));

async function makeSelection({ tokens, selector, budget }: SelectionTask) {
  const make = (seed: number, heads: number) => Tensor.randn([1, tokens, heads, HEAD_DIM], { seed, dtype: 'bfloat16' });
  const [q, k] = [make(1, headsOf(tokens)), make(2, 1)];
  const stream = new Stream();
  await Promise.all([q, k].map((tensor) => tensor.slice([0, 1], [0, 1]).read())); // they are filled by now
  return async () => {
    const plan = selectorOf(selector).plan({ q, k, keys: tokens, queries: tokens, budget, share: 'none', stream });
    await stream.synchronize();
    return [plan, q, k];
  };
}

/** After so few, threads and code are there. */
const TINY = 16;
/** After so few, with which there is something to leave out, those of selecting are. */
const SMALL = 1024;

async function stepBytes(task: MemoryTask): Promise<number> {
  const first = await makeStep({ ...task, selector: 'dense' }, Math.min(TINY, task.queries), TINY);
  await first();
  return bytesBeyond(await makeStep(task, task.queries, task.keys));
}

/** Of one head, the median of three runs: the process takes and gives back other memory, too, but not in each. */
async function selectionBytes(task: SelectionTask): Promise<number> {
  const first = await makeSelection({ ...task, tokens: SMALL });
  const held = [await first()];
  const run = await makeSelection(task);
  const measure = () => bytesBeyond(async () => held.push(await run()));
  const bytes = [await measure(), await measure(), await measure()];
  for (const each of held.flat()) each.dispose(); // not before: its memory could be had again
  return median(bytes) / headsOf(task.tokens);
}

answerBytes((task: MemoryTask | SelectionTask) => ('tokens' in task ? selectionBytes(task) : stepBytes(task)));
