// What selecting and attending are timed on: 8 query heads on 2 key heads, bfloat16; while decoding, over a KvCache. Sets of
// it take turns.

import { fromBfloat16, KvCache, type SparsePlan, type Stream, Tensor, toBfloat16 } from 'node-attention';
import { setsOfBytes } from '../cases';
import { faultOfRow } from '../check';
import { type Fault, OWN } from '../format';
import { HEAD_DIM, HEAD_KINDS, structuredHead } from './heads';
import type { Phase } from './inputs';
import { expectedOverPlan } from './quality';

export const HEADS = 8;
export const KV_HEADS = 2;
const GROUP = HEADS / KV_HEADS;
/** Neighbouring queries look for neighbouring keys, so many at a time. */
const RUN = 8;

/** Of keys and values. */
export const keyBytes = (keys: number): number => 2 * 2 * KV_HEADS * HEAD_DIM * keys;

export interface Keys {
  k: Tensor;
  v: Tensor;
  /** While decoding, what they are read from. */
  cache?: KvCache | undefined;
}

export interface Data {
  phase: Phase;
  queries: number;
  keys: number;
  /** Sets that take turns. Set n has query and output n, and the keys of n modulo how many there are. */
  sets: number;
  q: Tensor[];
  out: Tensor[];
  /** The same numbers, each in memory of its own. */
  held: Keys[];
  /** The first so many queries look for keys of their own; those behind them are the same ones again. */
  choices: number;
  /** Numbers of the last head, which is looked at. */
  judged: { k: Float32Array; v: Float32Array };
}

/**
 * Smooth structured heads, as the quality of selectors is measured with; branches of a search go as they would. There are so
 * many sets that even what is seen at `density` leaves the caches before it is read again: while decoding, further
 * queries, each of which sees other keys; else copies. Caches have room for `more` tokens.
 */
export async function makeData(phase: Phase, queries: number, keys: number, density: number, more = 0): Promise<Data> {
  const copies = setsOfBytes(keyBytes(keys) + 2 * 2 * queries * HEADS * HEAD_DIM);
  const choices = phase === 'decode' ? Math.max(copies, setsOfBytes(density * keyBytes(keys))) : 1;
  const [q, k] = [new Float32Array(choices * queries * HEADS * HEAD_DIM), new Float32Array(keys * KV_HEADS * HEAD_DIM)];
  const run = phase === 'decode' ? GROUP : RUN;
  for (let kvHead = 0; kvHead < KV_HEADS; kvHead++) {
    const head = structuredHead(HEAD_KINDS.smooth, keys, GROUP * choices * queries, run, 50 + kvHead);
    const place = (from: Float32Array, row: number, into: Float32Array, at: number) =>
      into.set(from.subarray(row * HEAD_DIM, (row + 1) * HEAD_DIM), at * HEAD_DIM);
    for (let t = 0; t < keys; t++) place(head.k, t, k, t * KV_HEADS + kvHead);
    for (let set = 0; set < choices; set++) {
      for (let member = 0; member < GROUP; member++) {
        for (let i = 0; i < queries; i++) {
          const at = (set * queries + i) * HEADS + kvHead * GROUP + member;
          place(head.q, (set * GROUP + member) * queries + i, q, at);
        }
      }
    }
  }
  const sets = Math.max(copies, choices);
  const tensor = (values: Float32Array, tokens: number, heads: number) =>
    Tensor.from(toBfloat16(values), [1, tokens, heads, HEAD_DIM], { dtype: 'bfloat16' });
  const size = q.length / choices;
  const held = Array.from({ length: copies }, () => {
    const own: Keys = {
      k: tensor(k, keys, KV_HEADS),
      v: Tensor.randn([1, keys, KV_HEADS, HEAD_DIM], { seed: 9, dtype: 'bfloat16' }),
    };
    if (phase === 'decode') own.cache = cacheOf(own, more);
    return own;
  });
  const numbers = async (all: Tensor) => {
    using last = all.slice([0, 1], [0, keys], [KV_HEADS - 1, KV_HEADS]);
    return fromBfloat16((await last.read()) as Uint16Array);
  };
  const data: Data = {
    phase,
    queries,
    keys,
    sets,
    q: Array.from({ length: sets }, (_, set) =>
      tensor(q.subarray((set % choices) * size, ((set % choices) + 1) * size), queries, HEADS),
    ),
    out: Array.from({ length: sets }, () => Tensor.empty([1, queries, HEADS, HEAD_DIM], { dtype: 'bfloat16' })),
    held,
    choices,
    judged: { k: await numbers(held[0]!.k), v: await numbers(held[0]!.v) },
  };
  // What is in a cache is not needed twice.
  if (phase === 'decode') for (const { k, v } of held) for (const each of [k, v]) each.dispose();
  return data;
}

/** What a model decodes from, with room for more tokens. */
export function cacheOf({ k, v }: Keys, more: number, stream?: Stream): KvCache {
  const capacity = k.shape[1]! + more;
  const cache = new KvCache({ batch: 1, kvHeads: KV_HEADS, headDim: HEAD_DIM, capacity, dtype: 'bfloat16' });
  cache.append(k, v, { stream });
  return cache;
}

export function disposeData({ q, out, held }: Data): void {
  for (const tensor of [...q, ...out]) tensor.dispose();
  for (const { k, v, cache } of held) for (const each of [k, v, cache]) each?.dispose();
}

/** The faults that the row of a contestant tells: its own, and with the first row those of dense attention. */
export function faultsOfRow(faults: readonly Fault[], name: string, isFirst: boolean): Fault[] {
  return faults
    .filter(({ contestant }) => contestant === name || (contestant === 'dense' && isFirst))
    .map(({ contestant, fault }) => ({ contestant: contestant === name ? OWN : contestant, fault }));
}

/** Of the last query of an output, whose position is the last key: what is wrong with its last head. Without a plan: dense. */
export async function faultOfLastRow(
  q: Tensor,
  out: Tensor,
  { k, v }: Data['judged'],
  plan: SparsePlan | undefined,
): Promise<string | undefined> {
  const [queries, head] = [q.shape[1]!, q.shape[2]! - 1];
  const keys = k.length / HEAD_DIM;
  const row = async (tensor: Tensor) => {
    using part = tensor.slice([0, 1], [queries - 1, queries], [head, head + 1]);
    return fromBfloat16((await part.read()) as Uint16Array);
  };
  let seen = new Uint8Array(keys).fill(1);
  if (plan) {
    using dense = plan.toDense();
    using last = dense.slice(...dense.shape.slice(0, 3).map((extent): [number, number] => [extent - 1, extent]));
    seen = (await last.read()) as Uint8Array<ArrayBuffer>;
  }
  const geometry = plan ?? { estimate: false, keyBlock: 1, queries };
  const values = { q: await row(q), k, v, headDim: HEAD_DIM, valueDim: HEAD_DIM };
  const want = expectedOverPlan(values, geometry, seen, 'bfloat16');
  const fault = faultOfRow(await row(out), 0, want.out, want.tolerance.out);
  return fault && `query ${queries - 1}, head ${head}, ${fault}`;
}
