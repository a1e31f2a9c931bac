// The suite of sparse plans and the selectors that make them.

import { devices } from 'node-attention';
import type { SuiteResult } from '../format';
import { efficiencyLengths } from '../masks/efficiency';
import { type Plan, roundsOf } from '../measure';
import { peaksOf } from '../peak';
import { type Progress, runSteps, type Suite } from '../session';
import { judgeBy } from '../targets';
import {
  budgetOf,
  type GrowthCase,
  growthCases,
  type ListedCase,
  listedCases,
  type NeedleCase,
  needleCases,
  type QualityCase,
  qualityCases,
  type SparseOptions,
  type StepCase,
  stepCases,
  type TimeCase,
  timeCases,
} from './cases';
import { inputsOf } from './inputs';
import { type Judged, qualityRow } from './judged';
import { listedContestants, listedRows, measureListed } from './listed';
import { type Found, findNeedles, HEIGHT, needleRow } from './needles';
import { choiceOf, earlierWeights, exactOf, qualityOf, tensorsOf } from './quality';
import { efficiencyName, findingsOf, printed, TARGETS } from './report';
import { SELECTORS } from './selectors';
import { measureSteps, STEPS, stepRows } from './steps';
import { GROWING, growthRows, measureGrowth, measureTimes, timeRows } from './time';

const FULL: Plan = { rounds: 6, batchMs: 30, settleMs: 0, warmRuns: 1, patience: 2, mostMs: 20 * 60_000 };
const QUICK: Plan = { rounds: 3, batchMs: 5, settleMs: 0, warmRuns: 1, patience: 1 };

const ABOUT =
  'Selectors and rules of sparse plans against dense attention: how much of the softmax they find, on heads with ' +
  'structure, real text, noise and questions with one answer each; how often they find needles, smooth humps of 1 to ' +
  `256 keys (between half heights) along the direction of a query, ${HEIGHT} standard deviations of other keys' scores ` +
  'high; and what selecting and attending take.';

export const sparse: Suite<SparseOptions> = {
  name: 'sparse',
  about: ABOUT,
  extend(command) {
    command.option('--full', 'up to a million keys, and chunks of 32768 queries: hours, and 16 GiB', false);
  },
  caseNames: () => namesOf({ quick: false, full: true, filter: '', threads: [] }),
  obstacle: () => undefined,
  steps: (options) => [
    ...chosen(qualityCases(options), options).map((test) => ({ name: test.name, seconds: qualitySeconds(test) })),
    ...chosen(needleCases(options), options).map((test) => ({ name: test.name, seconds: needleSeconds(test) })),
    ...chosen(timeCases(options), options).map((test) => ({ name: test.name, seconds: timeSeconds(test, options) })),
    ...chosen(stepCases(options), options).map((test) => ({ name: test.name, seconds: stepSeconds(test, options) })),
    ...chosen(listedCases(options), options).map((test) => ({
      name: test.name,
      seconds: listedSeconds(test, options),
    })),
    ...chosen(growthCases(options), options).map((test) => ({
      name: test.name,
      seconds: growthSeconds(test, options),
    })),
  ],
  run: bench,
};

const chosen = <Case extends { name: string }>(cases: readonly Case[], { filter }: SparseOptions) =>
  cases.filter(({ name }) => name.includes(filter));

const namesOf = (options: SparseOptions) =>
  [
    ...qualityCases(options),
    ...needleCases(options),
    ...timeCases(options),
    ...stepCases(options),
    ...listedCases(options),
    ...growthCases(options),
  ].map(({ name }) => name);

const qualitySeconds = ({ keys, densities }: QualityCase) => (keys / 16384) * (0.6 + 0.1 * densities.length);

const needleSeconds = ({ keys }: NeedleCase) => 0.3 + keys / 65536;

/** Of a process that tells its memory. */
const CHILD_SECONDS = 2;

/**
 * Of dense attention, at what bfloat16 reaches without AMX, and all selectors, each of which takes 0.6 times as long; and
 * of memory.
 */
const timeSeconds = ({ queries, keys, densities, selectors }: TimeCase, { quick }: SparseOptions) => {
  const round = 0.3 + ((1 + 0.6 * selectors.length) * 2 * 4 * 8 * 128 * queries * keys) / 1e12;
  const children = quick ? 0 : 1 + selectors.length * densities.length;
  const rounds = 1 + roundsOf(quick ? QUICK : FULL, 1000 * round);
  return (keys / 131072) * 4 + rounds * round + children * CHILD_SECONDS;
};

const stepSeconds = ({ keys }: StepCase, { quick }: SparseOptions) =>
  (keys / 131072) * 4 + (quick ? 4 : 6) * STEPS * (0.01 + keys / 1e7);

const listedSeconds = (test: ListedCase, { quick }: SparseOptions) => {
  const { queries, keys } = test;
  const run = 0.05 + (4 * 8 * 128 * queries * keys) / 1e12;
  return 1 + (keys / 131072) * 4 + (quick ? 4 : 6) * listedContestants(test) * run;
};

/** Memory is that of many heads. */
const growthSeconds = ({ tokens }: GrowthCase, { quick }: SparseOptions) =>
  (tokens / 40000) ** 2 + 0.1 + (quick ? 0 : GROWING.length * (CHILD_SECONDS + tokens / 5000));

async function bench(options: SparseOptions, progress: Progress): Promise<SuiteResult> {
  const { threads, instructionSet } = devices().find(({ device }) => device === 'cpu')!;
  const plan = options.quick ? QUICK : FULL;
  const judged: Judged[] = [];
  const found: Found[] = [];
  const times: Awaited<ReturnType<typeof measureTimes>>[] = [];
  const stepped: Awaited<ReturnType<typeof measureSteps>>[] = [];
  const listed: Awaited<ReturnType<typeof measureListed>>[] = [];
  const growths: Awaited<ReturnType<typeof measureGrowth>>[] = [];
  peaksOf(threads!, options.quick);
  const steps = [
    ...chosen(qualityCases(options), options).map((test) => ({
      name: test.name,
      run: async () => void judged.push(...(await judge(test))),
    })),
    ...chosen(needleCases(options), options).map((test) => ({
      name: test.name,
      run: async () => void found.push(...(await findNeedles(test))),
    })),
    ...chosen(timeCases(options), options).map((test) => ({
      name: test.name,
      run: async () => void times.push(await measureTimes(test, plan, !options.quick)),
    })),
    ...chosen(stepCases(options), options).map((test) => ({
      name: test.name,
      run: async () => void stepped.push(await measureSteps(test, plan)),
    })),
    ...chosen(listedCases(options), options).map((test) => ({
      name: test.name,
      run: async () => void listed.push(await measureListed(test, plan)),
    })),
    ...chosen(growthCases(options), options).map((test) => ({
      name: test.name,
      run: async () => void growths.push(await measureGrowth(test, plan, !options.quick)),
    })),
  ];
  const failure = await runSteps(steps, progress);
  const peaks = peaksOf(threads!, options.quick);
  const timed = [
    ...times.flatMap((outcome) => timeRows(outcome, peaks, instructionSet!, threads!)),
    ...stepped.flatMap((outcome) => stepRows(outcome, threads!)),
    ...listed.flatMap((outcome) => listedRows(outcome, peaks, instructionSet!, threads!)),
  ];
  const grown = growths.flatMap((outcome) => growthRows(outcome, threads!));
  const rows = [...judged.map(qualityRow), ...found.map(needleRow), ...timed, ...grown];
  return {
    suite: 'sparse',
    about: ABOUT,
    command: `npm run bench -- sparse${options.full ? ' --full' : ''}`,
    peaks,
    rows,
    targets: judgeBy(TARGETS, rows, ({ name }) => name),
    text: printed(judged, timed, grown, found),
    findings: [...efficiencyLengths(timed, efficiencyName), ...findingsOf(judged, growths)],
    notMeasured: [
      ...(options.quick
        ? [
            {
              what: 'efficiency length in memory, growth of memory',
              why: 'left out of --quick: a process for each length and contestant',
            },
          ]
        : []),
      {
        what: 'published times of HiP and InfiniteHiP',
        why: 'they are of a GPU: npm run bench -- cuda --filter decode has them beside its own',
      },
      ...(options.full ? [] : [{ what: 'more than 131072 keys', why: 'not asked for (--full)' }]),
    ],
    failure,
  };
}

/** All selectors on the same inputs. */
export async function judge({ kind, phase, keys, densities }: Omit<QualityCase, 'name'>): Promise<Judged[]> {
  const inputs = inputsOf(kind, phase, keys);
  const [exact, earlier, tensors] = [exactOf(inputs), earlierWeights(inputs), tensorsOf(inputs)];
  const judged: Judged[] = [];
  for (const density of densities) {
    const choice = choiceOf(inputs, tensors, budgetOf(keys, density), earlier);
    for (const selector of SELECTORS) {
      const quality = await qualityOf(selector, choice, tensors, inputs, exact);
      const scored = selector.scored(keys, choice.budget) / keys;
      const { headDim } = inputs;
      judged.push({ kind, phase, keys, headDim, selector: selector.name, density, scored, quality });
    }
  }
  for (const tensor of Object.values(tensors)) tensor.dispose();
  return judged;
}
