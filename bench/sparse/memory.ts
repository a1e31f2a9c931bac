// Child process: how many bytes selecting and attending take beyond their inputs, or dense attention (bench/resident.ts).
// Over a cache that is what a first step makes of all keys, too.

import { attention, causal, Stream, Tensor } from 'node-attention';
import { answerBytes, bytesBeyond } from '../resident';
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

/** After so few, threads and code are there. */
const TINY = 16;

answerBytes(async (task: MemoryTask) => {
  const first = await makeStep({ ...task, selector: 'dense' }, Math.min(TINY, task.queries), TINY);
  await first();
  return bytesBeyond(await makeStep(task, task.queries, task.keys));
});
