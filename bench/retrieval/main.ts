// The suite of retrieval: keys of a cache found by indexes, and decoding with what they find, by layers and by whole models.

import { devices } from 'node-attention';
import { floorOf } from '../floor';
import { type Fault, makeRow, OWN, type Peak, type Row, type SuiteResult } from '../format';
import type { Plan, Timed } from '../measure';
import { peaksOf } from '../peak';
import { type Progress, runSteps, type Suite } from '../session';
import { HEAD_DIM } from '../sparse/heads';
import { medianRatio } from '../statistics';
import { judgeBy, type Target } from '../targets';
import {
  type Data,
  dataOf,
  GROUP,
  type RetrievalCase,
  type RetrievalOptions,
  retrievalCases,
  searchedBy,
  TOP,
} from './cases';
import {
  attending,
  type Cached,
  cacheOf,
  dense,
  type Finder,
  indexed,
  METHODS,
  MOST_GRAPH,
  methodsFor,
  type Turns,
  takeTurns,
  usearchExact,
  usearchGraph,
  usearchVersion,
} from './contestants';
import {
  DECODE_TARGETS,
  type DecodeOutcome,
  decodeCases,
  decodeObstacle,
  decodeRows,
  HEADS,
  KV_HEADS,
  measureDecode,
} from './decode';
import { type GrowthOutcome, growthCases, growthFindings, growthRows, measureGrowth } from './growth';
import { judgeFinder } from './judge';
import { type ModelOutcome, measureModel, modelCases, modelObstacle, modelRow } from './model';

const FULL: Plan = { rounds: 6, batchMs: 30, settleMs: 0, warmRuns: 1, patience: 2 };
const QUICK: Plan = { rounds: 3, batchMs: 5, settleMs: 0, warmRuns: 1, patience: 1 };

const ABOUT =
  `The ${TOP} best of the keys of a cache for ${GROUP} query heads: indexes of this library against usearch, by looking at ` +
  'all keys and by its graph, with recall, time, what is looked at, and attention over what is found against dense attention. ' +
  `Then decoding steps, with ${HEADS} query heads, ${KV_HEADS} key heads and bfloat16: attention over what is found, the search ` +
  'included, against that over all keys; with an estimate the means of what is not found count too. The floor of the scan ' +
  'is the time to read its 8-bit copies. Last, how time grows with the keys, and steps of a whole model by the scan.';

const chosen = <Case extends { name: string }>(cases: readonly Case[], { filter }: RetrievalOptions) =>
  cases.filter(({ name }) => name.includes(filter));

const EVERYTHING: RetrievalOptions = { quick: false, full: true, filter: '', threads: [] };

const allCases = (options: RetrievalOptions) => [
  ...retrievalCases(options),
  ...decodeCases(options),
  ...growthCases(options),
  ...modelCases(options),
];

export const retrieval: Suite<RetrievalOptions> = {
  name: 'retrieval',
  about: ABOUT,
  extend(command) {
    command.option('--full', 'up to a million keys, and steps of a whole model: 17 GiB', false);
  },
  caseNames: () => allCases(EVERYTHING).map(({ name }) => name),
  obstacle: () => undefined,
  steps: (options) => [
    // Of noise usearch's graph takes longest.
    ...chosen(retrievalCases(options), options).map(({ name, kind, keys }) => ({
      name,
      seconds: 1 + keys / (kind === 'noise' ? 1024 : 4096),
    })),
    ...chosen(decodeCases(options), options).map(({ name, keys }) => ({ name, seconds: 1 + keys / 4096 })),
    ...chosen(growthCases(options), options).map(({ name, keys }) => ({ name, seconds: 1 + keys / 8192 })),
    ...chosen(modelCases(options), options).map(({ name, layers, keys }) => ({
      name,
      seconds: 1 + (layers * keys) / 32768,
    })),
  ],
  run: bench,
};

export interface Outcome extends Turns {
  test: RetrievalCase;
  finders: (Pick<Finder, 'name' | 'buildMs' | 'bytes'> & Found & { alone?: Found })[];
}

/** What a finder finds and looks at; `alone`: asked for one query head at a time. */
interface Found {
  recall: number;
  touched?: number;
  fault?: string;
}

async function bench(options: RetrievalOptions, progress: Progress): Promise<SuiteResult> {
  const { threads } = devices().find(({ device }) => device === 'cpu')!;
  const plan = options.quick ? QUICK : FULL;
  const searched: Outcome[] = [];
  const decoded: DecodeOutcome[] = [];
  const growths: GrowthOutcome[] = [];
  const models: ModelOutcome[] = [];
  const notMeasured: SuiteResult['notMeasured'] = [];
  /** Measures what nothing stands in the way of. */
  const unless = async (why: string | undefined, what: string, measure: () => Promise<void>) => {
    if (why === undefined) await measure();
    else notMeasured.push({ what, why });
  };
  peaksOf(threads!, options.quick);
  const steps = [
    ...chosen(retrievalCases(options), options).map((test) => ({
      name: test.name,
      run: async () => void searched.push(await measureCase(test, plan, threads!)),
    })),
    ...chosen(decodeCases(options), options).map((test) => ({
      name: test.name,
      run: () =>
        unless(decodeObstacle(test), test.name, async () => void decoded.push(await measureDecode(test, plan))),
    })),
    ...chosen(growthCases(options), options).map((test) => ({
      name: test.name,
      run: async () => void growths.push(await measureGrowth(test, plan, threads!)),
    })),
    ...chosen(modelCases(options), options).map((test) => ({
      name: test.name,
      run: () => unless(modelObstacle(test), test.name, async () => void models.push(await measureModel(test, plan))),
    })),
  ];
  const failure = await runSteps(steps, progress);
  const peaks = peaksOf(threads!, options.quick);
  const rows = [
    ...searched.flatMap((outcome) => rowsOf(outcome, threads!, peaks)),
    ...decoded.flatMap((outcome) => decodeRows(outcome, peaks, threads!)),
    ...growths.flatMap((outcome) => growthRows(outcome, threads!)),
    ...models.map((outcome) => modelRow(outcome, peaks, threads!)),
  ];
  return {
    suite: 'retrieval',
    about: ABOUT,
    command: `npm run bench -- retrieval${options.full ? ' --full' : ''}`,
    versions: { usearch: usearchVersion() },
    peaks,
    rows,
    targets: judgeBy(TARGETS, rows, ({ name }) => name),
    findings: growthFindings(growths),
    notMeasured: [
      ...notMeasured,
      options.full
        ? { what: `graphs of more than ${MOST_GRAPH} keys, of usearch too`, why: 'making one takes minutes' }
        : { what: 'more than 131072 keys, and steps of a whole model', why: 'not asked for (--full)' },
    ],
    failure,
  };
}

export async function measureCase(test: RetrievalCase, plan: Plan, threads: number): Promise<Outcome> {
  const data = dataOf(test);
  const cached = cacheOf(data);
  const made: Finder[] = [];
  const methods = methodsFor(test.keys);
  for (const name of methods) made.push(await indexed(cached, METHODS[name]));
  made.push(usearchExact(data, threads));
  if (test.keys <= MOST_GRAPH) made.push(usearchGraph(data, threads));
  const finders: Outcome['finders'] = [];
  const contestants: [string, Timed][] = [['dense', dense(cached)]];
  for (const finder of made) {
    const { name, buildMs, bytes } = finder;
    const judged = await judgeFinder(finder, data);
    const alone = name === 'graph' && test.keys === MOST_GRAPH ? await graphAlone(cached, data) : undefined;
    finders.push({ name, buildMs, bytes, ...judged, touched: await finder.touched?.(), alone });
    if (judged.fault === undefined) contestants.push([name, finder]);
  }
  const attends = methods.map((name) => [name, attending(cached, METHODS[name])] as const);
  for (const [name, attend] of attends) {
    await attend.run(1); // makes what the index holds, which is no part of a run
    contestants.push([`attend ${name}`, attend]);
  }
  const measurement = await takeTurns(contestants, plan);
  for (const each of [...made, ...attends.map(([, attend]) => attend)]) each.close();
  cached.close();
  return { test, finders, ...measurement };
}

/** How many times as long dense attention takes as attention over what is found, the search included. */
const DENSE_OVER_ATTEND = 'dense over attend';

/** Of the graph, asked for one query head at a time. */
const RECALL_ALONE = `recall@${TOP} of one head`;
const TOUCHED_ALONE = 'touched by one head';

/** Candidates of the graph's search for a single query head, which no other heads help to find keys. */
const ALONE_EFFORT = 500;

/** The graph asked for one query head at a time, which is what RetrievalAttention's share of keys is about. */
async function graphAlone(cached: Cached, data: Data): Promise<Found> {
  const heads = Array.from({ length: GROUP }, (_, head) => head);
  const queries = cached.queries.flatMap((q) => heads.map((head) => q.slice([0, 1], [0, 1], [head, head + 1])));
  const finder = await indexed({ ...cached, queries }, { ...METHODS.graph, effort: ALONE_EFFORT });
  const find = async (n: number) => (await Promise.all(heads.map((head) => finder.find(n * GROUP + head)))).flat();
  const judged = await judgeFinder({ find, exact: false }, data);
  const shares = await Promise.all(queries.map((_, n) => finder.touched!(n)));
  finder.close();
  for (const query of queries) query.dispose();
  return { ...judged, touched: shares.reduce((sum, share) => sum + share, 0) / shares.length };
}

/**
 * A row for each method of this library, beside all others; and one for each other, that has its recall. The scan cannot
 * do with less than reading its 8-bit copies, and a product of each of them with each of the queries.
 */
export function rowsOf(
  { test, finders, contestants, samples, disturbed, repeated }: Outcome,
  threads: number,
  peaks: readonly Peak[] = [],
): Row[] {
  const samplesOf = (name: string): number[] | undefined => samples[contestants.indexOf(name)];
  const own = (name: string) => name in METHODS;
  return finders.map(({ name, buildMs, bytes, recall, touched, fault, alone }) => {
    const [mine, attend, whole] = [name, `attend ${name}`, 'dense'].map(samplesOf);
    const faults: Fault[] = [fault, alone?.fault].flatMap((fault) =>
      fault === undefined ? [] : [{ contestant: own(name) ? OWN : name, fault }],
    );
    const others = own(name) ? finders.filter((each) => !own(each.name)).map((each) => each.name) : [];
    const beside: [string, number[] | undefined][] = others.map((other) => [other, samplesOf(other)]);
    if (own(name)) beside.push(['attend', attend], ['dense', whole]);
    return makeRow({
      name: `${test.name}: ${name}`,
      case: {
        mask: name,
        dtype: 'float32',
        tokens: test.keys,
        headDim: HEAD_DIM,
        threads,
        data: searchedBy(test),
      },
      samples: Object.fromEntries(
        [[own(name) ? OWN : name, mine] as const, ...beside].filter((entry): entry is [string, number[]] => !!entry[1]),
      ),
      disturbed,
      repeated,
      ...(name === 'scan'
        ? { flops: 2 * HEAD_DIM * test.keys * GROUP, bytes, floor: floorOf({ bytes }, { peaks, threads }) }
        : {}),
      memory: bytes === undefined ? undefined : { [OWN]: bytes },
      faults,
      figures: {
        ...(fault === undefined ? { [`recall@${TOP}`]: recall } : {}),
        ...(touched === undefined ? {} : { touched }),
        ...(alone === undefined || alone.fault !== undefined
          ? {}
          : { [RECALL_ALONE]: alone.recall, [TOUCHED_ALONE]: alone.touched! }),
        ...(buildMs === undefined ? {} : { 'build ms': buildMs }),
        ...(attend && whole ? { [DENSE_OVER_ATTEND]: medianRatio(whole, attend) } : {}),
      },
    });
  });
}

const byGraph = ({ name, case: { mask, tokens } }: Row) =>
  mask === 'graph' && tokens >= 131072 && name.startsWith('smooth head, queries');

export const TARGETS: Target<Row>[] = [
  {
    text: 'the scan: no slower than the exact search of usearch',
    figure: (row) => (row.case.mask === 'scan' ? row.ratios['usearch exact']?.median : undefined),
    atLeast: 1,
  },
  {
    text: 'attention over what pages find: no slower than dense attention',
    figure: (row) => (row.case.mask.startsWith('pages') ? row.figures?.[DENSE_OVER_ATTEND] : undefined),
    atLeast: 1,
  },
  {
    text: 'the graph: recall of 0.95 by queries of smooth heads from 128K keys',
    figure: (row) => (byGraph(row) ? row.figures?.[`recall@${TOP}`] : undefined),
    atLeast: 0.95,
  },
  {
    text: `the graph: touch at most 5 % for ${GROUP} query heads of smooth heads from 128K keys`,
    figure: (row) => (byGraph(row) ? row.figures?.touched : undefined),
    atMost: 0.05,
  },
  {
    text: `the graph asked for one query head at a time, effort ${ALONE_EFFORT}: recall of 0.95, as above`,
    figure: (row) => (byGraph(row) ? row.figures?.[RECALL_ALONE] : undefined),
    atLeast: 0.95,
  },
  {
    text: `the graph asked for one query head at a time, effort ${ALONE_EFFORT}: touch at most 5 %`,
    figure: (row) => (byGraph(row) ? row.figures?.[TOUCHED_ALONE] : undefined),
    atMost: 0.05,
  },
  ...DECODE_TARGETS,
];
