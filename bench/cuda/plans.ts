// Keys that a selector chooses, through the addon, while decoding over a KvCache or for the queries of a chunk: selection and
// attention together and each alone, beside dense attention over the same keys, timed by events on the device.

import {
  attention,
  causal,
  type Device,
  fromBfloat16,
  HipState,
  hipPlan,
  KvCache,
  type Mask,
  pagePlan,
  pooledPlan,
  type ResidentOptions,
  type SparsePlan,
  Stream,
  Tensor,
} from 'node-attention';
import { type Fault, OWN } from '../format';
import { interleave, type Plan, type Timed } from '../measure';
import { budgetOf } from '../sparse/cases';
import { faultOfLastRow } from '../sparse/data';
import { ALWAYS } from '../sparse/selectors';
import { type CudaCase, cudaFlops, keyBytes, OF_CHUNKS, resultBytes } from './cases';
import type { Outcome } from './run';

/** Of the keys, what a query sees. */
export const DENSITY = 0.02;

/** Steps of a run of decoding, each with a query of its own: what one sees is not in the caches any more at its next turn. */
const STEPS = 16;

const stepsOf = ({ selector }: CudaCase): number => (selector === OF_CHUNKS ? 1 : STEPS);

/** What a query of a chunk chooses from beyond its own block; what is always seen is less than that by far. */
const OWN_BLOCKS = { keyBlock: 128, queryTile: 64, always: { sink: 0, window: 1 } } as const;

/** The last tokens of a cache in host memory that the GPU has, and how many pages are in a cache. */
const WINDOW = 1024;
const pagesOf = ({ keys }: CudaCase): number => Math.ceil(keys / 64);

const residentOf = (test: CudaCase): ResidentOptions | undefined => {
  if (test.selector === 'pages, host') return { window: WINDOW };
  return test.selector === 'pages, resident' ? { window: WINDOW, pages: pagesOf(test) } : undefined;
};

const quiet = { start() {}, stop: () => 0 };

/** What is not timed, and why: the other cases need the backend alone. */
export const withoutAddon = (test: CudaCase): Outcome =>
  outcomeOf(test, undefined, {
    absent: [{ contestant: OWN, fault: "plans are measured with the addon's own backend" }],
  });

/** On any device. Keys do not grow from step to step, so that all contestants see the same ones. Chunks are of tensors. */
export async function measurePlans(test: CudaCase, device: Device, plan: Plan): Promise<Outcome> {
  const { heads, kvHeads, queries: tokens, keys, headDim, selector } = test;
  const steps = stepsOf(test);
  const place = { dtype: 'bfloat16', device } as const;
  using stream = new Stream(device);
  using state = new HipState();
  const make = (tokens: number, count: number, seed: number) =>
    Tensor.randn([1, tokens, count, headDim], { ...place, seed });
  using k = make(keys, kvHeads, 1);
  using v = make(keys, kvHeads, 2);
  using out = Tensor.empty([1, tokens, heads, headDim], place);
  const queries = Array.from({ length: steps }, (_, step) => make(tokens, heads, 3 + step));
  const resident = residentOf(test);
  const cache = new KvCache({ batch: 1, kvHeads, headDim, capacity: keys + 1, ...place, resident });
  if (selector !== OF_CHUNKS) cache.append(k, v, { stream });
  const select = (step: number): SparsePlan => {
    const options = { budget: budgetOf(keys, DENSITY), causal: true, always: ALWAYS, share: 'group', stream } as const;
    const q = queries[step]!;
    if (selector === OF_CHUNKS) return pooledPlan(q, k, { ...options, queries: 'own', ...OWN_BLOCKS });
    if (selector?.startsWith('pages')) return pagePlan(q, cache, options);
    return hipPlan(q, cache, { ...options, state: selector === 'hip + state' ? state : undefined });
  };
  const attend = (step: number, mask?: Mask): Tensor => {
    const q = queries[step]!;
    if (selector === OF_CHUNKS) return attention(q, k, v, { mask: mask ?? causal(), out, stream }).lse;
    return attention(q, cache, { mask, out, stream }).lse;
  };
  const timed = (work: (step: number) => { dispose(): void }[]): Timed => ({
    async run(times) {
      const elapsed: number[] = [];
      for (let n = 0; n < times; n++) {
        const before = stream.record();
        const made = queries.flatMap((_, step) => work(step));
        const after = stream.record();
        elapsed.push((await before.elapsedMs(after)) / steps);
        for (const each of made) each.dispose();
      }
      return elapsed;
    },
  });

  // What a call listed is there from the next append on.
  if (resident?.pages !== undefined) {
    using token = make(1, kvHeads, 3 + steps);
    for (const [step] of queries.entries()) {
      using listed = select(step);
      attend(step, listed).dispose();
      await stream.synchronize();
      cache.append(token, token, { stream });
      cache.truncate(keys);
    }
  }

  // The state has plans of its own; any selector that chooses does for attention alone.
  const plans = queries.map((_, step) => select(step));
  const contestants: [string, Timed][] = [
    [
      OWN,
      timed((step) => {
        const own = select(step);
        return [own, attend(step, own)];
      }),
    ],
    ['selection', timed((step) => [select(step)])],
    ['attention', timed((step) => [attend(step, plans[step]!)])],
    ['dense', timed((step) => [attend(step)])],
  ];
  const judged = { k: await lastHead(k), v: await lastHead(v) };
  const faults: Fault[] = [];
  const last = steps - 1;
  for (const [contestant, mask] of [
    [OWN, plans[last]],
    ['dense', undefined],
  ] as const) {
    attend(last, mask).dispose();
    const fault = await faultOfLastRow(queries[last]!, out, judged, mask);
    if (fault !== undefined) faults.push({ contestant, fault });
  }
  const wrong = (name: string) => faults.some(({ contestant }) => contestant === (name === 'dense' ? name : OWN));
  const right = contestants.filter(([name]) => !wrong(name));
  const shares = await Promise.all(plans.map((each) => each.density()));
  const measurement = await interleave(
    right.map(([, contestant]) => contestant),
    plan,
    quiet,
  );
  for (const each of [...plans, ...queries, cache]) each.dispose();
  const shown = shares.reduce((sum, share) => sum + share, 0) / steps;
  return outcomeOf(test, shown, { ...measurement, contestants: right.map(([name]) => name), faults });
}

/** The last head of keys or values, as the oracle takes it. */
async function lastHead(all: Tensor): Promise<Float32Array> {
  const [, tokens, heads] = all.shape as [number, number, number];
  using last = all.slice([0, 1], [0, tokens], [heads - 1, heads]);
  return fromBfloat16((await last.read()) as Uint16Array);
}

/** Operations and bytes are those of attention to what is seen: what selecting needs depends on the selector. */
function outcomeOf(test: CudaCase, shown: number | undefined, measured: Partial<Outcome>): Outcome {
  return {
    test,
    flops: (shown ?? 1) * cudaFlops(test),
    bytes: (shown ?? 1) * keyBytes(test) + resultBytes(test),
    sets: stepsOf(test),
    runs: stepsOf(test),
    contestants: [],
    samples: [],
    faults: [],
    absent: [],
    differences: {},
    errors: {},
    disturbed: 0,
    repeated: 0,
    shown,
    ...measured,
  };
}
