// The suite of retrieval: decoding one token with keys that are found in a long context.

import { devices } from 'node-attention';
import { type Floor, fullName, makeRow, type Peak, type Row, type SuiteResult } from '../format';
import type { Plan } from '../measure';
import { peaksOf, rateOf } from '../peak';
import type { Progress, Suite, SuiteOptions } from '../session';
import { judgeBy, type Target } from '../targets';
import { casesOf, HEAD_DIM, HEADS, KV_HEADS, type Outcome, runCase, TOP } from './cases';

const FULL: Plan = { rounds: 7, batchMs: 100, settleMs: 0 };
const QUICK: Plan = { rounds: 3, batchMs: 20, settleMs: 0, patience: 1 };

const ABOUT =
  `Decoding with the best ${TOP} keys of each of ${HEADS} query heads, found by a scan of 8-bit copies or by pages, ` +
  `against attention over all keys: ${KV_HEADS} key heads, headDim ${HEAD_DIM}, bfloat16, on keys and queries that are ` +
  'distributed as published for language models and on noise. The floor is the time to read the copies.';

const at128K = ({ case: { tokens } }: Row) => tokens === 131072;
const isStructured = ({ name }: Row) => name.startsWith('structured');

const targets: Target<Row>[] = [
  {
    text: 'scan: within 25 % of the time to read the copies, at 128K keys',
    figure: (row) => (at128K(row) ? row.ofFloor : undefined),
    atLeast: 0.8,
  },
  { text: 'scan: holds all of the best keys', figure: (row) => row.figures?.['recall, scan'], atLeast: 1 },
  {
    text: 'pages: recall of 0.97 at 128K structured keys',
    figure: (row) => (at128K(row) && isStructured(row) ? row.figures?.['recall, pages'] : undefined),
    atLeast: 0.97,
  },
  {
    text: 'pages: touch at most 25 % of 128K structured keys',
    figure: (row) => (at128K(row) && isStructured(row) ? row.figures?.['touched, pages'] : undefined),
    atMost: 0.25,
  },
];

const chosen = ({ quick, filter }: SuiteOptions) => casesOf(quick).filter(({ name }) => name.includes(filter));

export const retrieval: Suite = {
  name: 'retrieval',
  about: ABOUT,
  caseNames: () => casesOf(false).map(({ name }) => name),
  obstacle: () => undefined,
  steps: (options) => chosen(options).map(({ name, tokens }) => ({ name, seconds: 2 + tokens / 4000 })),
  run: bench,
};

async function bench(options: SuiteOptions, progress: Progress): Promise<SuiteResult> {
  const { quick } = options;
  const threads = devices().find(({ device }) => device === 'cpu')!.threads!;
  peaksOf(threads, quick);
  const outcomes: Outcome[] = [];
  let failure: string | undefined;
  try {
    for (const test of chosen(options)) {
      progress.begin(test.name);
      outcomes.push(await runCase(test, quick ? QUICK : FULL));
    }
  } catch (error) {
    failure = `(${(error as Error).message}): later cases are missing`;
  }
  const peaks = peaksOf(threads, quick);
  const rows = outcomes.map((outcome) => rowOf(outcome, peaks, threads));
  return {
    suite: 'retrieval',
    about: ABOUT,
    command: 'npm run bench -- retrieval',
    peaks,
    rows,
    targets: judgeBy(targets, rows, fullName),
    notMeasured: [
      { what: 'usearch', why: 'no suite has it yet' },
      { what: 'real text', why: 'no suite has it yet' },
    ],
    failure,
  };
}

function rowOf(
  { test, contestants, samples, quality, appendMs, ...rest }: Outcome,
  peaks: readonly Peak[],
  threads: number,
) {
  const { scan, pages } = quality;
  const floor: Floor = { ms: (1e3 * scan.bytes) / rateOf(peaks, 'read', threads), bound: 'memory' };
  return makeRow({
    name: test.name,
    case: { mask: test.data, dtype: 'bfloat16', tokens: test.tokens, headDim: HEAD_DIM, threads },
    samples: Object.fromEntries(contestants.map((contestant, i) => [contestant, samples[i]!])),
    disturbed: rest.disturbed,
    repeated: rest.repeated,
    bytes: scan.bytes,
    floor,
    figures: {
      'recall, scan': scan.recall,
      'recall, pages': pages.recall,
      'touched, pages': pages.touched,
      'error, scan': scan.error,
      'error, pages': pages.error,
      'build s, scan': scan.buildSeconds,
      'build s, pages': pages.buildSeconds,
      'MB, scan': scan.bytes / 1e6,
      'MB, pages': pages.bytes / 1e6,
      'append ms': appendMs,
    },
  });
}
