// How the time of a search grows with the keys: by queries of attention, on a smooth head.

import { makeRow, OWN, type Row } from '../format';
import type { Plan, Timed } from '../measure';
import { HEAD_DIM } from '../sparse/heads';
import { growth, growthLengths, median } from '../statistics';
import { dataOf, QUICK_FEWER, type RetrievalOptions, SAMPLES } from './cases';
import { cacheOf, dense, indexed, METHODS, methodsFor, type Turns, takeTurns, usearchExact } from './contestants';
import { judgeFinder } from './judge';

export interface GrowthCase {
  name: string;
  keys: number;
  /** Sample queries of each query head, other than SAMPLES. */
  samples?: number;
}

export function growthCases(options: RetrievalOptions): GrowthCase[] {
  const fewer = options.quick && { samples: SAMPLES / QUICK_FEWER };
  return growthLengths(options, 20).map((keys) => ({ name: `growth: T=${keys}`, keys, ...fewer }));
}

/** What this library's methods stand beside. */
const OTHERS = ['usearch exact', 'dense'] as const;

interface Made {
  name: keyof typeof METHODS;
  buildMs: number;
  bytes: number;
  /** What is wrong with what it finds; then it has no time. */
  fault?: string;
}

export interface GrowthOutcome extends Turns {
  test: GrowthCase;
  made: Made[];
}

export async function measureGrowth(test: GrowthCase, plan: Plan, threads: number): Promise<GrowthOutcome> {
  const { keys, samples } = test;
  const data = dataOf({ kind: 'smooth', by: 'queries', keys, ...(samples && { samples }) });
  const cached = cacheOf(data);
  const contestants: [string, Timed & { close(): void }][] = [['dense', dense(cached)]];
  const exact = usearchExact(data, threads);
  if ((await judgeFinder(exact, data)).fault === undefined) contestants.push(['usearch exact', exact]);
  else exact.close();
  const made: Made[] = [];
  for (const name of methodsFor(test.keys)) {
    const finder = await indexed(cached, METHODS[name]);
    const { fault } = await judgeFinder(finder, data);
    made.push({ name, buildMs: finder.buildMs!, bytes: finder.bytes!, ...(fault !== undefined && { fault }) });
    if (fault === undefined) contestants.push([name, finder]);
    else finder.close();
  }
  const measurement = await takeTurns(contestants, plan);
  for (const [, contestant] of contestants) contestant.close();
  cached.close();
  return { test, made, ...measurement };
}

const samplesOf = ({ contestants, samples }: GrowthOutcome, name: string) => samples[contestants.indexOf(name)];

/** A row for each method, beside looking at all keys and attention over all of them. */
export function growthRows(outcome: GrowthOutcome, threads: number): Row[] {
  const { test, made, disturbed, repeated } = outcome;
  return made.map(({ name, buildMs, bytes, fault }) =>
    makeRow({
      name: `${test.name}: ${name}`,
      case: { mask: name, dtype: 'float32', tokens: test.keys, headDim: HEAD_DIM, threads, data: 'growth' },
      samples: Object.fromEntries(
        [[OWN, name] as const, ...OTHERS.map((other) => [other, other] as const)].flatMap(([as, contestant]) => {
          const samples = samplesOf(outcome, contestant);
          return samples ? [[as, samples]] : [];
        }),
      ),
      ...(fault !== undefined && { faults: [{ contestant: OWN, fault }] }),
      disturbed,
      repeated,
      memory: { [OWN]: bytes },
      figures: { 'build ms': buildMs },
    }),
  );
}

/** Fewer lengths tell no exponent. */
const LENGTHS = 5;

/** Exponents of the powers of the number of keys that fit best. */
export function growthFindings(outcomes: readonly GrowthOutcome[]): { name: string; text: string }[] {
  return [...(Object.keys(METHODS) as (keyof typeof METHODS)[]), ...OTHERS].flatMap((name) => {
    const points = outcomes.flatMap((outcome) => {
      const samples = samplesOf(outcome, name);
      const index = outcome.made.find((each) => each.name === name);
      return samples ? [{ keys: outcome.test.keys, ms: median(samples), index }] : [];
    });
    if (points.length < LENGTHS) return [];
    const time = growth(points.map(({ keys, ms }) => [keys, ms]));
    const parts = [`time with keys to the power of ${time.toFixed(2)} over ${points.length} lengths`];
    const made = points.flatMap(({ keys, index }) => (index ? [{ keys, ...index }] : []));
    if (made.length > 0) {
      parts.push(`making the index of ${growth(made.map(({ keys, buildMs }) => [keys, buildMs])).toFixed(2)}`);
      parts.push(`its bytes of ${growth(made.map(({ keys, bytes }) => [keys, bytes])).toFixed(2)}`);
    }
    return [{ name: `growth of ${name}`, text: parts.join(', ') }];
  });
}
