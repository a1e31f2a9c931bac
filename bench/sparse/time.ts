// What selecting and attending take.

import { join } from 'node:path';
import { attention, causal, type Mask, type SparsePlan, Stream, Tensor } from 'node-attention';
import { floorOf } from '../floor';
import { type Fault, makeRow, OWN, type Peak, type Row } from '../format';
import { watchLoad } from '../load';
import { inTurn, interleave, type Measurement, type Plan, type Timed, timeRuns } from '../measure';
import { bytesInChild, GIVES_BACK } from '../resident';
import { medianRatio } from '../statistics';
import { budgetOf, densityText, type GrowthCase, phaseName, type TimeCase } from './cases';
import { type Data, disposeData, faultOfLastRow, HEADS, KV_HEADS, makeData } from './data';
import { SHOWN } from './headings';
import { HEAD_DIM } from './heads';
import type { MemoryTask, SelectionTask } from './memory';
import { type Choice, selectorOf } from './selectors';

const TILE = 64;

/** A selector and a density, and its contestants. */
interface Entry {
  selector: string;
  density: number;
  /** Bytes of one plan. */
  planBytes: number;
  /** What its plans show, of the pairs that causality leaves. */
  shown: number;
  fault?: string;
  /** Bytes that selecting and attending take beyond their inputs, where that was measured. */
  memory?: number;
}

export interface TimeOutcome extends Measurement {
  test: TimeCase;
  sets: number;
  /** In the order of `samples`. */
  contestants: string[];
  entries: Entry[];
  denseFault?: string;
  denseMemory?: number;
}

const named = (part: string, { selector, density }: Pick<Entry, 'selector' | 'density'>) =>
  `${part} ${selector} ${densityText(density)}`;

const MEMORY = join(__dirname, 'memory.ts');

/** With `memory`, that too, in a process for each contestant. */
export async function measureTimes(test: TimeCase, plan: Plan, memory = false): Promise<TimeOutcome> {
  const { phase, queries, keys, densities, selectors } = test;
  using stream = new Stream();
  const data = await makeData(phase, queries, keys, Math.min(...densities));
  const { sets, q, out, held, choices } = data;
  const entries: Entry[] = [];
  const plans: SparsePlan[] = [];
  const contestants: [string, Timed][] = [];
  const timed = (step: (set: number) => { dispose(): void }[]): Timed => ({
    run: inTurn(sets, async (set) => {
      const made = step(set);
      await stream.synchronize();
      for (const each of made) each.dispose();
    }),
  });
  const attend = (set: number, mask: Mask) => {
    const options = { mask, out: out[set]!, stream };
    const { cache, k, v } = held[set % held.length]!;
    return (cache ? attention(q[set]!, cache, options) : attention(q[set]!, k, v, options)).lse;
  };
  const bytesOf = (selector: string, density: number) =>
    memory
      ? bytesInChild(MEMORY, {
          name: `${test.name} ${selector}`,
          phase,
          queries,
          keys,
          selector,
          density,
        } satisfies MemoryTask)
      : undefined;
  const dense = timed((set) => [attend(set, causal())]);
  await dense.run(sets);
  const denseFault = await firstFault(held.length, (set) => faultOfLastRow(q[set]!, out[set]!, data.judged, undefined));
  if (denseFault === undefined) contestants.push(['dense', dense]);
  for (const density of densities) {
    const budget = budgetOf(keys, density);
    const choiceOf = (set: number): Choice => {
      const { k, cache } = held[set % held.length]!;
      return { q: q[set]!, k, cache, keys, queries, budget, share: 'group', stream };
    };
    for (const name of ['streaming', ...selectors]) {
      const selector = selectorOf(name);
      const own = Array.from({ length: choices }, (_, set) => selector.plan(choiceOf(set)));
      plans.push(...own);
      const planOf = (set: number) => own[set % choices]!;
      const shown = await Promise.all(own.map((each) => each.density()));
      const entry: Entry = {
        selector: name,
        density,
        planBytes: own[0]!.bytes,
        shown: shown.reduce((sum, share) => sum + share, 0) / choices,
      };
      entries.push(entry);
      const alone = timed((set) => [attend(set, planOf(set))]);
      await alone.run(sets);
      entry.fault = await firstFault(sets, (set) => faultOf(data, set, (choice) => selector.plan(choice), choiceOf));
      if (entry.fault !== undefined) continue;
      contestants.push([named('attention', entry), alone]);
      if (name === 'streaming') continue; // a rule does not look at keys
      contestants.push([named('selection', entry), timed((set) => [selector.plan(choiceOf(set))])]);
      const both = (set: number) => {
        const own = selector.plan(choiceOf(set));
        return [own, attend(set, own)];
      };
      contestants.push([named('both', entry), timed(both)]);
      entry.memory = await bytesOf(name, density);
    }
  }
  const measurement = await interleave(
    contestants.map(([, contestant]) => contestant),
    plan,
    watchLoad(),
  );
  for (const each of plans) each.dispose();
  disposeData(data);
  return {
    test,
    sets,
    contestants: contestants.map(([name]) => name),
    entries,
    denseFault,
    denseMemory: await bytesOf('dense', 0),
    ...measurement,
  };
}

async function firstFault(sets: number, faultOf: (set: number) => Promise<string | undefined>) {
  for (let set = 0; set < sets; set++) {
    const fault = await faultOf(set);
    if (fault !== undefined) return fault;
  }
  return undefined;
}

/** The last tile of queries by itself has the last row of the plan, and its picture fits into memory. */
async function faultOf(
  { q, out, queries, judged }: Data,
  set: number,
  plan: (choice: Choice) => SparsePlan,
  choiceOf: (set: number) => Choice,
): Promise<string | undefined> {
  const first = Math.floor((queries - 1) / TILE) * TILE;
  using tail = q[set]!.slice([0, 1], [first, queries]);
  using last = plan({ ...choiceOf(set), q: tail, queries: queries - first });
  return faultOfLastRow(q[set]!, out[set]!, judged, last);
}

const PLAN_KIB = 'plan KiB';

/** How many times as long dense attention takes as attention over a plan that is there already. */
export const DENSE_OVER_ATTENTION = 'dense over attention';

/** A row for each selector and density: selecting and attending, beside either alone, dense attention and a window. */
export function timeRows(outcome: TimeOutcome, peaks: readonly Peak[], set: string, threads: number): Row[] {
  const { test, sets, contestants, samples, entries, denseFault, denseMemory, disturbed, repeated } = outcome;
  const { phase, queries, keys } = test;
  const samplesOf = (name: string): number[] | undefined => samples[contestants.indexOf(name)];
  const dense = samplesOf('dense');
  return entries
    .filter(({ selector }) => selector !== 'streaming')
    .map((entry, n) => {
      const { selector, density, shown, fault, planBytes, memory } = entry;
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
        sets,
        flops,
        bytes,
        // Of attention alone: what selecting has to read depends on the selector.
        floor: floorOf(
          { flops, dtype: 'bfloat16', exponentials: pairs, bytes, footprint: sets * bytes },
          { peaks, instructionSet: set, threads },
        ),
        memory: {
          ...(memory === undefined ? {} : { [OWN]: memory }),
          ...(denseMemory === undefined ? {} : { dense: denseMemory }),
        },
        faults,
        figures: {
          [SHOWN]: shown,
          [PLAN_KIB]: planBytes / 2 ** 10,
          ...(alone && dense ? { [DENSE_OVER_ATTENTION]: medianRatio(dense, alone) } : {}),
        },
      });
    });
}

export interface GrowthOutcome extends Measurement {
  test: GrowthCase;
  /** Of each selector. */
  planBytes: { [selector: string]: number };
  /** Bytes that selecting takes beyond its inputs, the plan being one part, where that was measured. */
  memory: { [selector: string]: number };
}

export const GROWING = ['hip', 'hip1'];
/** Small, so that every stage has something to leave out at every length. */
export const GROWTH_BUDGET = 64;

/** Selecting for as many queries as there are keys. With `memory`, that too, in a process for each selector. */
export async function measureGrowth({ name, tokens }: GrowthCase, plan: Plan, memory = false): Promise<GrowthOutcome> {
  using stream = new Stream();
  using q = Tensor.randn([1, tokens, 1, HEAD_DIM], { seed: 1, dtype: 'bfloat16' });
  using k = Tensor.randn([1, tokens, 1, HEAD_DIM], { seed: 2, dtype: 'bfloat16' });
  const choice: Choice = { q, k, keys: tokens, queries: tokens, budget: GROWTH_BUDGET, share: 'none', stream };
  const outcome: Pick<GrowthOutcome, 'planBytes' | 'memory'> = { planBytes: {}, memory: {} };
  const contestants: Timed[] = [];
  for (const selector of GROWING) {
    const make = () => selectorOf(selector).plan(choice);
    using made = make();
    outcome.planBytes[selector] = made.bytes;
    if (memory) {
      const task: SelectionTask = { name: `${name} ${selector}`, tokens, selector, budget: GROWTH_BUDGET };
      const bytes = await bytesInChild(MEMORY, task, GIVES_BACK);
      if (bytes !== undefined) outcome.memory[selector] = bytes;
    }
    const run = async () => {
      using made = make();
      await stream.synchronize();
      return void made;
    };
    contestants.push({ run: (times) => timeRuns(times, run) });
  }
  return { test: { name, tokens }, ...outcome, ...(await interleave(contestants, plan, watchLoad())) };
}

export function growthRows(outcome: GrowthOutcome, threads: number): Row[] {
  const { test, planBytes, memory, samples, disturbed, repeated } = outcome;
  return GROWING.map((selector, n) =>
    makeRow({
      name: `${test.name} ${selector}`,
      case: { mask: selector, dtype: 'bfloat16', tokens: test.tokens, headDim: HEAD_DIM, threads, data: 'growth' },
      samples: { [OWN]: samples[n]! },
      disturbed,
      repeated,
      memory: memory[selector] === undefined ? {} : { [OWN]: memory[selector] },
      figures: { [PLAN_KIB]: planBytes[selector]! / 2 ** 10 },
    }),
  );
}
