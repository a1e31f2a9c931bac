// Caches on a CUDA device that random steps append to, truncate and fork, on its default stream and on one of their own.
import fc from 'fast-check';
import { Stream } from 'node-attention';
import { normal, uniform } from '../../support/numbers';
import { change, emptyTwin, lengthsOf, type Sizes, type Twin } from '../../support/twin';

export interface Visit {
  twin: Twin;
  sizes: Sizes;
  /** Of the longest sequence; there is one key at least. */
  keys: number;
  stream: Stream | undefined;
  random(): number;
  /** An integer from 0 to this one. */
  upTo(most: number): number;
  pickOf<T>(of: readonly T[]): T;
}

/** Queries, and what a plan for them and all heads may be over the cache that is visited. */
export function drawQueries({ sizes, keys, random, pickOf }: Visit, keyBlocks: readonly number[]) {
  const queries = pickOf([1, 1, 3, 20]);
  const heads = sizes.kvHeads * sizes.group;
  const geometry = {
    batch: pickOf([1, sizes.batch]),
    heads: pickOf([1, sizes.kvHeads, heads]),
    queries,
    keys,
    queryTile: pickOf([16, 64]),
    keyBlock: pickOf(keyBlocks),
    causal: pickOf([true, false]),
  };
  return { q: normal(random, sizes.dtype, [sizes.batch, queries, heads, sizes.headDim]), geometry };
}

export interface Walk {
  sizes: fc.Arbitrary<Sizes>;
  capacity: number;
  /** Tokens that an append adds to a sequence at most. */
  most: number;
  /** How many steps there are, the fewest and the most. */
  steps: readonly [number, number];
  numRuns: number;
  seed: number;
}

/** Calls `visit` at random moments of random walks, and at the end of each for all caches. */
export async function walkCaches(
  { sizes: of, capacity, most, steps: [minLength, maxLength], numRuns, seed }: Walk,
  visit: (visit: Visit) => Promise<void>,
): Promise<void> {
  const step = fc.tuple(fc.constantFrom('append', 'token', 'truncate', 'fork', 'visit', 'visit'), fc.nat());
  const walk = async (sizes: Sizes, own: number, steps: [string, number][]) => {
    const random = uniform(own);
    const upTo = (end: number) => Math.floor(random() * (end + 1));
    const pickOf = <T>(of: readonly T[]): T => of[upTo(of.length - 1)]!;
    const appended = (room: number) => upTo(Math.min(most, room));
    const streams = [undefined, new Stream('cuda')];
    const twins = [emptyTwin(sizes, capacity, 'cuda')];
    const visitOne = async (twin: Twin, stream?: Stream) => {
      const keys = Math.max(...lengthsOf(twin));
      if (keys > 0) await visit({ twin, sizes, keys, stream, random, upTo, pickOf });
    };
    for (const [what, pick] of [['append', 0] as const, ...steps]) {
      const twin = twins[pick % twins.length]!;
      const stream = streams[pick % 2];
      if (!change(twins, twin, what, { sizes, capacity, forks: 3, appended, random, stream })) {
        await visitOne(twin, stream);
      }
    }
    for (const twin of twins) {
      await visitOne(twin);
      twin.cache.dispose();
    }
    for (const stream of streams) stream?.dispose();
  };
  const property = fc.asyncProperty(of, fc.integer(), fc.array(step, { minLength, maxLength }), walk);
  await fc.assert(property, { numRuns, seed });
}
