// What selecting and attending take: 8 query heads on 2 key heads, bfloat16; while decoding, over a KvCache.

import {
  attention,
  causal,
  fromBfloat16,
  KvCache,
  type Mask,
  type SparsePlan,
  Stream,
  Tensor,
  toBfloat16,
} from 'node-attention';
import { expected } from '../../test/support/tolerance';
import { faultOfRow } from '../check';
import { floorOf } from '../floor';
import { type Fault, makeRow, OWN, type Peak, type Row } from '../format';
import { watchLoad } from '../load';
import { interleave, type Measurement, type Plan, type Timed, timeRuns } from '../measure';
import { medianRatio } from '../statistics';
import { budgetOf, densityText, type GrowthCase, phaseName, type TimeCase } from './cases';
import { HEAD_DIM, HEAD_KINDS, structuredHead } from './heads';
import { type Choice, selectorOf } from './selectors';

const HEADS = 8;
const KV_HEADS = 2;
const GROUP = HEADS / KV_HEADS;
const RUN = 8;
const TILE = 64;

/** Those that choose by themselves; the window stands beside them. */
const TIMED_SELECTORS = ['hip', 'pages', 'pooled 64'];

interface Data {
  q: Tensor;
  k: Tensor;
  v: Tensor;
}

/** Smooth structured heads, as the quality of selectors is measured with; branches of a search go as they would. */
function makeData(queries: number, keys: number): Data {
  const [q, k] = [new Float32Array(queries * HEADS * HEAD_DIM), new Float32Array(keys * KV_HEADS * HEAD_DIM)];
  for (let kvHead = 0; kvHead < KV_HEADS; kvHead++) {
    const head = structuredHead(HEAD_KINDS.smooth, keys, GROUP * queries, RUN, 50 + kvHead);
    const place = (from: Float32Array, row: number, into: Float32Array, at: number) =>
      into.set(from.subarray(row * HEAD_DIM, (row + 1) * HEAD_DIM), at * HEAD_DIM);
    for (let t = 0; t < keys; t++) place(head.k, t, k, t * KV_HEADS + kvHead);
    for (let member = 0; member < GROUP; member++) {
      for (let i = 0; i < queries; i++) place(head.q, member * queries + i, q, i * HEADS + kvHead * GROUP + member);
    }
  }
  const tensor = (values: Float32Array, tokens: number, heads: number) =>
    Tensor.from(toBfloat16(values), [1, tokens, heads, HEAD_DIM], { dtype: 'bfloat16' });
  return {
    q: tensor(q, queries, HEADS),
    k: tensor(k, keys, KV_HEADS),
    v: Tensor.randn([1, keys, KV_HEADS, HEAD_DIM], { seed: 9, dtype: 'bfloat16' }),
  };
}

/** A selector and a density, and its contestants. */
interface Entry {
  selector: string;
  density: number;
  plan: SparsePlan;
  /** What its plan shows, of the pairs that causality leaves. */
  shown: number;
  fault?: string;
}

export interface TimeOutcome extends Measurement {
  test: TimeCase;
  /** In the order of `samples`. */
  contestants: string[];
  entries: Entry[];
  denseFault?: string;
}

const named = (part: string, { selector, density }: Pick<Entry, 'selector' | 'density'>) =>
  `${part} ${selector} ${densityText(density)}`;

/** What a model decodes from. */
function cacheOf({ k, v }: Data): KvCache {
  const capacity = k.shape[1]!;
  const cache = new KvCache({ batch: 1, kvHeads: KV_HEADS, headDim: HEAD_DIM, capacity, dtype: 'bfloat16' });
  cache.append(k, v);
  return cache;
}

export async function measureTimes(test: TimeCase, plan: Plan): Promise<TimeOutcome> {
  const { phase, queries, keys, densities } = test;
  using stream = new Stream();
  const data = makeData(queries, keys);
  const { q, k, v } = data;
  const cache = phase === 'decode' ? cacheOf(data) : undefined;
  using out = Tensor.empty(q.shape, { dtype: 'bfloat16' });
  const entries: Entry[] = [];
  const contestants: [string, Timed][] = [];
  const timed = (step: () => { dispose(): void }[]): Timed => ({
    run: (times) =>
      timeRuns(times, async () => {
        const made = step();
        await stream.synchronize();
        for (const each of made) each.dispose();
      }),
  });
  const attend = ({ mask }: { mask: Mask }) => {
    const options = { mask, out, stream };
    return (cache ? attention(q, cache, options) : attention(q, k, v, options)).lse;
  };
  const dense = timed(() => [attend({ mask: causal() })]);
  await dense.run(1);
  const denseFault = await faultOfLastRow(data, out, undefined);
  if (denseFault === undefined) contestants.push(['dense', dense]);
  for (const density of densities) {
    const choice: Choice = { q, k, cache, keys, queries, budget: budgetOf(keys, density), share: 'group', stream };
    for (const name of ['streaming', ...TIMED_SELECTORS]) {
      const selector = selectorOf(name);
      const made = selector.plan(choice);
      const entry: Entry = { selector: name, density, plan: made, shown: await made.density() };
      entries.push(entry);
      attend({ mask: made }).dispose();
      // The last tile of queries by itself has the last row of the plan, and its picture fits into memory.
      const first = Math.floor((queries - 1) / TILE) * TILE;
      using tail = q.slice([0, 1], [first, queries]);
      using lastPlan = selector.plan({ ...choice, q: tail, queries: queries - first });
      entry.fault = await faultOfLastRow(data, out, lastPlan);
      if (entry.fault !== undefined) continue;
      contestants.push([named('attention', entry), timed(() => [attend({ mask: made })])]);
      if (name === 'streaming') continue; // a rule does not look at keys
      contestants.push([named('selection', entry), timed(() => [selector.plan(choice)])]);
      const both = () => {
        const own = selector.plan(choice);
        return [own, attend({ mask: own })];
      };
      contestants.push([named('both', entry), timed(both)]);
    }
  }
  const measurement = await interleave(
    contestants.map(([, contestant]) => contestant),
    plan,
    watchLoad(),
  );
  for (const { plan } of entries) plan.dispose();
  for (const made of [q, k, v, cache]) made?.dispose();
  return { test, contestants: contestants.map(([name]) => name), entries, denseFault, ...measurement };
}

/** Of the last query, whose position is the last key: what is wrong with one of its heads. */
async function faultOfLastRow(
  { q, k, v }: Data,
  out: Tensor,
  plan: SparsePlan | undefined,
): Promise<string | undefined> {
  const [queries, keys] = [q.shape[1]!, k.shape[1]!];
  const head = HEADS - 1;
  const kvHead = Math.floor(head / GROUP);
  const rows = async (tensor: Tensor, of: number, from: number, to: number) => {
    using part = tensor.slice([0, 1], [from, to], [of, of + 1]);
    return fromBfloat16((await part.read()) as Uint16Array);
  };
  let places = Array.from({ length: keys }, (_, j) => j);
  if (plan) {
    using dense = plan.toDense();
    const seen = await dense.read();
    const pattern = Math.floor(head / (HEADS / dense.shape[1]!));
    const first = ((pattern + 1) * plan.queries - 1) * keys;
    places = places.filter((j) => seen[first + j]);
  }
  const pick = (values: Float32Array) => {
    const data = new Float64Array(places.length * HEAD_DIM);
    places.forEach((place, n) => {
      data.set(values.subarray(place * HEAD_DIM, (place + 1) * HEAD_DIM), n * HEAD_DIM);
    });
    return { shape: [1, places.length, 1, HEAD_DIM], data };
  };
  const query = await rows(q, head, queries - 1, queries);
  const want = expected(
    {
      q: { shape: [1, 1, 1, HEAD_DIM], data: Float64Array.from(query) },
      k: pick(await rows(k, kvHead, 0, keys)),
      v: pick(await rows(v, kvHead, 0, keys)),
    },
    'bfloat16',
  );
  const fault = faultOfRow(await rows(out, head, queries - 1, queries), 0, want.out, want.tolerance.out);
  return fault && `query ${queries - 1}, head ${head}, ${fault}`;
}

/** How many times as long dense attention takes as attention over a plan that is there already. */
export const DENSE_OVER_ATTENTION = 'dense over attention';

/** A row for each selector and density: selecting and attending, beside either alone, dense attention and a window. */
export function timeRows(outcome: TimeOutcome, peaks: readonly Peak[], set: string, threads: number): Row[] {
  const { test, contestants, samples, entries, denseFault, disturbed, repeated } = outcome;
  const { phase, queries, keys } = test;
  const samplesOf = (name: string): number[] | undefined => samples[contestants.indexOf(name)];
  const dense = samplesOf('dense');
  return entries
    .filter(({ selector }) => selector !== 'streaming')
    .map((entry, n) => {
      const { selector, density, shown, fault, plan } = entry;
      const [both, alone, selecting] = ['both', 'attention', 'selection'].map((part) => samplesOf(named(part, entry)));
      const local = entries.find((each) => each.selector === 'streaming' && each.density === density)!;
      const window = samplesOf(named('attention', local));
      const pairs = shown * HEADS * (queries * keys - (queries * (queries - 1)) / 2);
      const flops = 4 * HEAD_DIM * pairs;
      const bytes = 2 * HEAD_DIM * 2 * (queries * HEADS + keys * KV_HEADS * (phase === 'decode' ? shown : 1));
      const faults: Fault[] = [
        ...(fault === undefined ? [] : [{ contestant: OWN, fault }]),
        // Once, with the first row.
        ...(denseFault === undefined || n > 0 ? [] : [{ contestant: 'dense', fault: denseFault }]),
        ...(local.fault === undefined || n > 0 ? [] : [{ contestant: 'window', fault: local.fault }]),
      ];
      const others = { attention: alone, selection: selecting, dense, window };
      return makeRow({
        name: `${test.name} ${selector} ${densityText(density)}`,
        case: {
          mask: `${selector} ${densityText(density)}`,
          dtype: 'bfloat16',
          tokens: keys,
          headDim: HEAD_DIM,
          threads,
          data: phaseName(phase),
        },
        samples: {
          ...(both ? { [OWN]: both } : {}),
          ...Object.fromEntries(Object.entries(others).filter((entry): entry is [string, number[]] => !!entry[1])),
        },
        disturbed,
        repeated,
        flops,
        bytes,
        // Of attention alone: what selecting has to read depends on the selector.
        floor: floorOf(
          { flops, dtype: 'bfloat16', exponentials: pairs, bytes },
          { peaks, instructionSet: set, threads },
        ),
        memory: { [OWN]: plan.bytes },
        faults,
        figures: {
          density: shown,
          ...(alone && dense ? { [DENSE_OVER_ATTENTION]: medianRatio(dense, alone) } : {}),
        },
      });
    });
}

export interface GrowthOutcome extends Measurement {
  test: GrowthCase;
  bytes: { [selector: string]: number };
}

export const GROWING = ['hip', 'hip1'];
/** Small, so that every stage has something to leave out at every length. */
const GROWTH_BUDGET = 64;

/** Selecting for as many queries as there are keys. */
export async function measureGrowth({ name, tokens }: GrowthCase, plan: Plan): Promise<GrowthOutcome> {
  using stream = new Stream();
  using q = Tensor.randn([1, tokens, 1, HEAD_DIM], { seed: 1, dtype: 'bfloat16' });
  using k = Tensor.randn([1, tokens, 1, HEAD_DIM], { seed: 2, dtype: 'bfloat16' });
  const choice: Choice = { q, k, keys: tokens, queries: tokens, budget: GROWTH_BUDGET, share: 'none', stream };
  const bytes: GrowthOutcome['bytes'] = {};
  const contestants = GROWING.map((selector): Timed => {
    const make = () => selectorOf(selector).plan(choice);
    using made = make();
    bytes[selector] = made.bytes;
    return {
      run: (times) =>
        timeRuns(times, async () => {
          using made = make();
          await stream.synchronize();
          return void made;
        }),
    };
  });
  return { test: { name, tokens }, bytes, ...(await interleave(contestants, plan, watchLoad())) };
}

export function growthRows({ test, bytes, samples, disturbed, repeated }: GrowthOutcome, threads: number): Row[] {
  return GROWING.map((selector, n) =>
    makeRow({
      name: `${test.name} ${selector}`,
      case: { mask: selector, dtype: 'bfloat16', tokens: test.tokens, headDim: HEAD_DIM, threads, data: 'growth' },
      samples: { [OWN]: samples[n]! },
      disturbed,
      repeated,
      memory: { [OWN]: bytes[selector]! },
    }),
  );
}
