// The suites that compare attention on the CPU: `cpu` and `masks`. They measure nothing themselves: suite.ts does, in a
// process for each number of threads.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { bytesOf, type Case, comparisonsOf, count, flopsOf, pairsOf, setsOf } from './cases';
import { addThreadsOption } from './command';
import { casesOf, type Family } from './families';
import { floorOf } from './floor';
import { makeRow, OWN, type Peak, type Row, type SuiteResult } from './format';
import { cabName, efficiencyLengths } from './masks/efficiency';
import type { Plan } from './measure';
import { exponentialRate, peaksOf } from './peak';
import type { Progress, Suite, SuiteOptions } from './session';
import { medianRatio } from './statistics';
import type { Message, Outcome, Task } from './suite';
import { judge, OVER_TILES } from './targets';

/** ONNX Runtime's threads spin for 25 ms after their last task, unless told not to. The next contestant waits that out. */
const SETTLE_MS = 40;
const FULL: Plan = { rounds: 7, batchMs: 50, settleMs: SETTLE_MS };
const QUICK: Plan = { rounds: 3, batchMs: 20, settleMs: SETTLE_MS, patience: 1 };

export const cpu = suiteOf(
  'cpu',
  'Attention on the CPU against ONNX Runtime and (--torch) PyTorch: batch 1, 8 heads, dense, causal, windows, ' +
    'neighborhoods, and decoding one token in one layer or in 32 layers at once.',
  (rows) => ({ targets: judge(rows) }),
);

export const masks = suiteOf(
  'masks',
  'Patterns of the Long-Context Attention Benchmark by length, and windows against dense attention in the four ' +
    'patterns of the Comprehensive Attention Benchmark; (--torch) flex_attention of PyTorch beside them.',
  (rows) => ({
    findings: efficiencyLengths(rows, cabName),
    notMeasured: rows.some(({ memory }) => memory?.dense !== undefined)
      ? []
      : [{ what: 'efficiency length in memory', why: 'left out of --quick: a process for each length and contestant' }],
  }),
);

function suiteOf(
  family: Family,
  about: string,
  conclude: (rows: Row[]) => Partial<Pick<SuiteResult, 'findings' | 'targets' | 'notMeasured'>>,
): Suite {
  const chosen = ({ quick, filter }: SuiteOptions) =>
    casesOf[family](quick).filter(({ name }) => name.includes(filter));
  return {
    name: family,
    about,
    extend(command) {
      addThreadsOption(command);
    },
    caseNames: () => casesOf[family](false).map(({ name }) => name),
    obstacle: () => undefined,
    steps: (options) =>
      options.threads.flatMap((threads) =>
        chosen(options).map((test) => ({ name: stepName(test.name, threads), seconds: secondsOf(test, options) })),
      ),
    async run(options, progress) {
      const { quick, torch } = options;
      const peaks: Peak[] = [];
      const outcomes: Outcome[] = [];
      let failure: string | undefined;
      for (const threads of options.threads) {
        if (failure !== undefined) break; // what has been measured until then is reported all the same
        peaksOf(threads, quick);
        const cases = chosen(options).map(({ name }) => name);
        const task: Task = { family, threads, quick, cases, plan: quick ? QUICK : FULL, torch: torch?.python };
        failure = await runChild(task, progress, outcomes);
        peaks.push(...peaksOf(threads, quick));
      }
      const rows = outcomes.map((outcome) => rowOf(outcome, peaks));
      const torchMissing = torch ? [] : [{ what: 'PyTorch', why: 'not asked for, or not found (--torch)' }];
      const { targets = [], notMeasured = [], findings } = conclude(rows);
      const memory = { what: 'memory', why: MEMORY_NOTE };
      return {
        suite: family,
        about,
        command: `npm run bench -- ${family}${torch ? ' --torch' : ''}`,
        versions: {
          'onnxruntime-node': require('onnxruntime-node/package.json').version,
          ...(torch ? { pytorch: torch.version } : {}),
        },
        peaks,
        rows,
        targets,
        findings,
        notMeasured: [...torchMissing, memory, ...notMeasured],
        failure,
      };
    },
  };
}

const MEMORY_NOTE =
  'only of float32 cases of 4096 keys with headDim 64 and of windows by length (none of --quick), in a process for ' +
  'each; PyTorch is left out, since its process keeps what it has freed';

const stepName = (name: string, threads: number) => `${name}, ${threads} thr.`;

/** About how long a case takes: a fixed part, and one that grows with the work. */
function secondsOf(test: Case, { quick, torch }: SuiteOptions): number {
  const once = flopsOf({ ...test, mask: undefined, pattern: undefined }, { visible: 1, tiles: 1 }) / 2e11;
  const made = ((setsOf(test) * bytesOf(test)) / 1e9) * 4;
  const contestants = 2 + Object.keys(comparisonsOf(test)).length / 2 + (torch && !quick ? 1 : 0);
  return contestants * ((quick ? 3 : 7) * (0.08 + Math.max(2 * once, quick ? 0.02 : 0.05)) + 0.2 + 8 * once) + made;
}

/** A row of an outcome, by the peaks of its number of threads. */
export function rowOf(outcome: Outcome, peaks: readonly Peak[]): Row {
  const { test, threads, contestants, samples, flops, sets, share, instructionSet } = outcome;
  const { name, dtype, headDim, keys, kind } = test;
  const [own, dense] = [OWN, 'dense'].map((contestant) => samples[contestants.indexOf(contestant)]);
  const [bytes, exponentials] = [bytesOf(test), pairsOf(test, share)];
  const figures: { [heading: string]: number } = {};
  if (own && dense && !test.dense) {
    figures.tiles = share.tiles;
    figures[OVER_TILES] = medianRatio(own, dense) / share.tiles;
  }
  const rate = exponentialRate(peaks, instructionSet, threads);
  if (rate) figures['exp ms'] = (1e3 * exponentials) / rate;
  return makeRow({
    name,
    case: { mask: kind, dtype, tokens: count(keys), headDim, threads },
    samples: Object.fromEntries(contestants.map((contestant, i) => [contestant, samples[i]!])),
    disturbed: outcome.disturbed,
    repeated: outcome.repeated,
    sets,
    flops,
    bytes,
    floor: floorOf({ flops, dtype, exponentials, bytes, footprint: sets * bytes }, { peaks, instructionSet, threads }),
    errors: outcome.errors,
    tolerance: outcome.tolerance,
    memory: outcome.memory,
    faults: outcome.faults,
    absent: outcome.absent,
    figures,
  });
}

/** Adds what was measured to `outcomes`. Returns why it ended early, if it did. The first ^C ends the measurement only. */
async function runChild(task: Task, progress: Progress, outcomes: Outcome[]): Promise<string | undefined> {
  const child = fork(join(__dirname, 'suite.ts'), {
    env: { ...process.env, NODE_ATTENTION_THREADS: String(task.threads) },
  });
  const interrupt = () => child.kill('SIGINT');
  process.once('SIGINT', interrupt);
  child.on('message', (message: Message) => {
    if ('begins' in message) progress.begin(stepName(message.begins, task.threads));
    else outcomes.push(message.outcome);
  });
  child.send(task);
  const [code, signal] = await once(child, 'exit');
  process.off('SIGINT', interrupt);
  if (code === 0) return undefined;
  return `with ${task.threads} threads (${signal ?? `status ${code}`}): later cases are missing`;
}
