// Steps of decoding over a KvCache, to which each appends its token: with what hipPlan keeps from step to step, and without.

import { attention, HipState, hipPlan, type SparsePlan, Stream, Tensor } from 'node-attention';
import { type Fault, makeRow, OWN, type Row } from '../format';
import { watchLoad } from '../load';
import { interleave, type Measurement, type Plan, type Timed, timeRuns } from '../measure';
import { budgetOf, densityText, type StepCase } from './cases';
import { disposeData, faultOfLastRow, faultsOfRow, KV_HEADS, makeData } from './data';
import { HEAD_DIM } from './heads';
import { ALWAYS, type Choice, selectorOf } from './selectors';

/** A run: the first search of each is anew at every stage, and a state searches so once in as many by default. */
export const STEPS = 16;

const CONTESTANTS = ['dense', 'hip', 'hip + state', 'pages', 'pooled 64'];

export interface StepOutcome extends Measurement {
  test: StepCase;
  sets: number;
  /** In the order of `samples`. */
  contestants: string[];
  faults: Fault[];
}

export async function measureSteps(test: StepCase, plan: Plan): Promise<StepOutcome> {
  const { keys, density } = test;
  using stream = new Stream();
  using state = new HipState();
  const data = await makeData('decode', 1, keys, density, STEPS);
  const { q, out, held } = data;
  const tokens = (seed: number) => Tensor.randn([1, STEPS, KV_HEADS, HEAD_DIM], { seed, dtype: 'bfloat16' });
  const [ks, vs] = [tokens(21), tokens(22)];
  const judged = { k: await extended(data.judged.k, ks), v: await extended(data.judged.v, vs) };
  const token = (all: Tensor, step: number) => all.slice([0, 1], [step, step + 1]);
  const news = Array.from({ length: STEPS }, (_, step) => [token(ks, step), token(vs, step)] as const);
  const result = out[0]!;
  const planFor = (name: string, choice: Choice): SparsePlan | undefined => {
    if (name === 'dense') return undefined;
    if (name !== 'hip + state') return selectorOf(name).plan(choice);
    const { q, cache, budget, share } = choice;
    return hipPlan(q, cache!, { budget, causal: true, always: ALWAYS, share, stream, state });
  };
  let [turn, steps] = [0, 0];
  let last: SparsePlan | undefined;
  let query = q[0]!;
  /** All steps with the next of the queries on the next of the caches, which forgets them first. */
  const run = async (name: string) => {
    const cache = held[turn++ % held.length]!.cache!;
    cache.truncate(keys);
    const made: { dispose(): void }[] = [];
    for (let step = 0; step < STEPS; step++) {
      cache.append(...news[step]!, { stream });
      query = q[steps++ % q.length]!;
      const budget = budgetOf(keys, density);
      last = planFor(name, { q: query, k: ks, cache, keys: cache.length, queries: 1, budget, share: 'group', stream });
      made.push(attention(query, cache, { mask: last, out: result, stream }).lse);
      if (last && step < STEPS - 1) made.push(last);
    }
    await stream.synchronize();
    for (const each of made) each.dispose();
  };
  const contestants: [string, Timed][] = [];
  const faults: Fault[] = [];
  for (const name of CONTESTANTS) {
    let fault: string | undefined;
    for (let set = 0; set < held.length; set++) {
      await run(name);
      fault ??= await faultOfLastRow(query, result, judged, last);
      last?.dispose();
    }
    if (fault !== undefined) faults.push({ contestant: name, fault });
    else {
      const timed = async () => {
        await run(name);
        last?.dispose();
      };
      contestants.push([name, { run: (times) => timeRuns(times, timed) }]);
    }
  }
  const measurement = await interleave(
    contestants.map(([, contestant]) => contestant),
    plan,
    watchLoad(),
  );
  for (const each of [...news.flat(), ks, vs]) each.dispose();
  disposeData(data);
  const sets = Math.max(held.length, Math.floor(q.length / STEPS));
  return { test, sets, contestants: contestants.map(([name]) => name), faults, ...measurement };
}

/** Numbers of the last head, and those of the tokens behind them. */
async function extended(numbers: Float32Array, tokens: Tensor): Promise<Float32Array> {
  using own = tokens.slice([0, 1], [0, STEPS], [KV_HEADS - 1, KV_HEADS]).to('float32');
  const values = new Float32Array(numbers.length + STEPS * HEAD_DIM);
  values.set(numbers);
  values.set((await own.read()) as Float32Array, numbers.length);
  return values;
}

/** A row for each selector: all steps, beside as many of dense attention and of hipPlan without a state. */
export function stepRows(outcome: StepOutcome, threads: number): Row[] {
  const { test, sets, contestants, samples, faults, disturbed, repeated } = outcome;
  const samplesOf = (name: string): number[] | undefined => samples[contestants.indexOf(name)];
  return CONTESTANTS.filter((name) => name !== 'dense').map((name, n) => {
    const others = {
      dense: samplesOf('dense'),
      'without state': name === 'hip + state' ? samplesOf('hip') : undefined,
    };
    const own = samplesOf(name);
    const density = densityText(test.density);
    return makeRow({
      name: `${test.name} ${name} ${density}`,
      case: {
        mask: `${name} ${density}`,
        dtype: 'bfloat16',
        tokens: test.keys,
        headDim: HEAD_DIM,
        threads,
        data: `${STEPS} steps of decoding`,
      },
      samples: {
        ...(own ? { [OWN]: own } : {}),
        ...Object.fromEntries(Object.entries(others).filter((each): each is [string, number[]] => !!each[1])),
      },
      disturbed,
      repeated,
      sets,
      faults: faultsOfRow(faults, name, n === 0),
    });
  });
}
