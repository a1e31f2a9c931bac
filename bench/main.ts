// npm run bench: see --help. Measures nothing itself: suite.ts does, in a process for each number of threads.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem, type } from 'node:os';
import { join } from 'node:path';
import { Presets, SingleBar } from 'cli-progress';
import { Command, InvalidArgumentError } from 'commander';
import { bias } from './bias/main';
import { allCases, type Case, flopsOf, shareOf } from './cases';
import { commit } from './commit';
import { cuda } from './cuda/main';
import type { Plan } from './measure';
import { buildPeak, measurePeaks, type Peaks } from './peak';
import { torchVersion } from './peers/torch';
import { faults, NOTES, rowOf, table, verdictLine } from './report';
import type { Message, Outcome, Task } from './suite';
import { judge } from './targets';

interface Options {
  json?: string;
  quick: boolean;
  torch?: string | true;
  threads: number[];
  filter?: string;
}

/** ONNX Runtime's threads spin for 25 ms after their last task, unless told not to. The next contestant waits that out. */
const SETTLE_MS = 40;
const FULL: Plan = { rounds: 7, batchMs: 50, settleMs: SETTLE_MS };
const QUICK: Plan = { rounds: 3, batchMs: 20, settleMs: SETTLE_MS };

const program = new Command('npm run bench --').description('Measures this library against others.');

program
  .command('cpu')
  .description(
    'Attention on the CPU against ONNX Runtime and (--torch) PyTorch: batch 1, 8 heads. Every output is checked against ' +
      'a float64 reference before it is timed. Contestants take turns; rounds in which others use the machine are repeated.',
  )
  .option('--json <file>', 'also write everything, with all samples, to a file')
  .option('--quick', 'a handful of cases, within a minute', false)
  .option('--torch [python]', 'also measure PyTorch, with this Python (default: python3)')
  .option('--threads <list>', 'numbers of threads', threadCounts, availableParallelism() > 1 ? [1, 2] : [1])
  .option('--filter <text>', 'only cases whose name contains this, such as "float32 dense" or "S=4096 D=64"')
  .addHelpText(
    'after',
    () =>
      `\nCases:\n  ${allCases(false)
        .map(({ name }) => name)
        .join('\n  ')}`,
  )
  .action((options: Options) => cpu(options).catch((error: Error) => program.error(`error: ${error.message}`)));

program.addCommand(cuda);
program.addCommand(bias);
program.parse();

function threadCounts(text: string): number[] {
  const counts = text.split(',').map(Number);
  if (!counts.every((count) => Number.isSafeInteger(count) && count >= 1)) {
    throw new InvalidArgumentError('Give whole numbers of at least 1, such as 1,2.');
  }
  return [...new Set(counts)];
}

async function cpu({ json, quick, torch, threads, filter = '' }: Options): Promise<void> {
  const cases = allCases(quick).filter(({ name }) => name.includes(filter));
  if (cases.length === 0) throw new Error(`--filter: no case contains '${filter}'; --help lists them`);
  const file = json === undefined ? undefined : openSync(json, 'w'); // now, not after all the work
  const python = torch === true ? 'python3' : torch;
  const about = describe(python && torchVersion(python));
  console.log(`${about.cpu}, ${about.processors} processors; ${Object.entries(about.versions).flat().join(' ')}`);

  buildPeak();
  const peaks: { [threads: number]: Peaks } = {};
  const outcomes: Outcome[] = [];
  const progress = startProgress(cases, threads);
  let failure: string | undefined;
  for (const count of threads) {
    if (failure !== undefined) break; // what has been measured until then is reported all the same
    const before = measurePeaks(count);
    const task: Task = {
      threads: count,
      quick,
      cases: cases.map(({ name }) => name),
      plan: quick ? QUICK : FULL,
      torch: python,
    };
    failure = await runSuite(task, progress, outcomes);
    const after = measurePeaks(count);
    peaks[count] = Object.fromEntries(Object.keys(before).map((set) => [set, Math.max(before[set]!, after[set]!)]));
  }
  progress.stop();

  const rows = outcomes.map((outcome) => rowOf(outcome, peaks[outcome.threads]!));
  const targets = judge(rows);
  const wrong = faults(rows);
  for (const count of threads.filter((count) => peaks[count])) {
    const rates = Object.entries(peaks[count]!).map(([set, rate]) => `${set} ${rate.toFixed(0)}`);
    console.log(`\nThreads: ${count}. Peak, GFLOP/s: ${rates.join(', ')} (float32, amx: bfloat16)\n`);
    console.log(table(rows.filter((row) => row.threads === count)));
  }
  console.log(`\n${NOTES}\n\nTargets\n${targets.map(verdictLine).join('\n')}`);
  if (file !== undefined) {
    writeFileSync(file, `${JSON.stringify({ ...about, peaks, rows, targets }, null, 1)}\n`);
    closeSync(file);
  }
  for (const line of wrong) console.error(line);
  if (failure !== undefined) console.error(failure);
  if (wrong.length > 0 || failure !== undefined) process.exitCode = 1;
}

function describe(torch: string | undefined) {
  const version = (name: string): string => require(`${name}/package.json`).version;
  return {
    date: new Date().toISOString(),
    command: ['npm run bench --', ...process.argv.slice(2)].join(' '),
    commit: commit(),
    cpu: cpus()[0]?.model ?? 'unknown',
    processors: cpus().length,
    memoryBytes: totalmem(),
    system: `${type()} ${release()}`,
    versions: {
      node: process.version,
      'node-attention': version('node-attention'),
      'onnxruntime-node': version('onnxruntime-node'),
      ...(torch === undefined ? {} : { pytorch: torch }),
    },
  };
}

/** Adds what was measured to `outcomes`. Returns why it ended early, if it did. The first ^C ends the measurement only. */
async function runSuite(task: Task, progress: Progress, outcomes: Outcome[]): Promise<string | undefined> {
  const child = fork(join(__dirname, 'suite.ts'), {
    env: { ...process.env, NODE_ATTENTION_THREADS: String(task.threads) },
  });
  process.once('SIGINT', () => child.kill('SIGINT'));
  child.on('message', (message: Message) => {
    if ('begins' in message) return progress.begin(message.begins, task.threads);
    outcomes.push(message.outcome);
    progress.end(message.outcome.test);
  });
  child.send(task);
  const [code, signal] = await once(child, 'exit');
  if (code === 0) return undefined;
  return `error: ended early, with ${task.threads} threads (${signal ?? `status ${code}`}): later cases are missing`;
}

interface Progress {
  begin(name: string, threads: number): void;
  end(test: Case): void;
  stop(): void;
}

/** A bar with the remaining time on a terminal, one plain line for each case elsewhere. */
function startProgress(cases: readonly Case[], threads: readonly number[]): Progress {
  if (!process.stderr.isTTY) {
    let done = 0;
    const all = cases.length * threads.length;
    return {
      begin: (name, count) => process.stderr.write(`${++done}/${all} ${name}, threads: ${count}\n`),
      end() {},
      stop() {},
    };
  }
  // Cases take very different times: a fixed part, and one that grows with the work.
  const cost = (test: Case) => 1 + flopsOf(test, shareOf(test)) / 1e10;
  const total = threads.length * cases.reduce((sum, test) => sum + cost(test), 0);
  const start = performance.now();
  let done = 0;
  const left = () => `${Math.ceil(((performance.now() - start) / 1000) * (total / done - 1))} s left`;
  const bar = new SingleBar({ format: '{bar} {left}  {name}', hideCursor: true }, Presets.shades_classic);
  bar.start(total, 0, { name: '', left: '' });
  return {
    begin: (name, count) => bar.update({ name: `${name}, threads: ${count}` }),
    end(test) {
      done += cost(test);
      bar.update(done, { left: left() });
    },
    stop: () => bar.stop(),
  };
}
