// A run of suites: what a suite is, and how its results come into one file.

import { cpus, release, totalmem, type } from 'node:os';
import { performance } from 'node:perf_hooks';
import { Presets, SingleBar } from 'cli-progress';
import type { Command } from 'commander';
import { devices } from 'node-attention';
import { commit } from './commit';
import { FORMAT, type ResultFile, type SuiteResult } from './format';

export interface SuiteOptions {
  /** A handful of cases, with few rounds. */
  quick: boolean;
  /** Only cases whose name contains this. */
  filter: string;
  /** The Python to run PyTorch with, if it is a contestant, and the version of its PyTorch. */
  torch?: { python: string; version: string };
  /** Numbers of threads to measure with. */
  threads: number[];
}

/** A case as the progress bar sees it, and about how many seconds it takes. */
export interface Step {
  name: string;
  seconds: number;
}

/** A family of measurements, `npm run bench -- NAME`. */
export interface Suite<Options extends SuiteOptions = SuiteOptions> {
  name: string;
  /** One sentence: what is compared with what. */
  about: string;
  /** Adds options of its own to its command. */
  extend?(command: Command): void;
  /** Names of all cases, for --help. */
  caseNames(): string[];
  /** Why this machine cannot run it, in a sentence; undefined when it can. */
  obstacle(options: Options): string | undefined;
  /** What `run` will go through; empty when the filter leaves nothing. */
  steps(options: Options): Step[];
  /**
   * Measures. Calls `progress.begin` before each step, in their order. What is wrong with a contestant is in its row
   * (`faults`), what ended the suite early in `failure`; throws only when nothing could be measured.
   */
  run(options: Options, progress: Progress): Promise<SuiteResult>;
}

export interface Progress {
  /** The step of this name begins, and the one before it has ended. */
  begin(name: string): void;
  /** The result as it is so far, for suites of which nothing is to be lost when something ends the process. */
  found(result: SuiteResult): void;
}

/**
 * Runs the steps of a suite in this process. Returns why it ended early, if it did; then `failure` says so. ^C ends the
 * measurement after the step at hand; a second one ends all.
 */
export async function runSteps(
  steps: readonly { name: string; run(): Promise<void> }[],
  progress: Pick<Progress, 'begin'>,
): Promise<string | undefined> {
  let stopped = false;
  const stop = () => {
    stopped = true;
  };
  process.once('SIGINT', stop);
  try {
    for (const { name, run } of steps) {
      if (stopped) return '(SIGINT): later cases are missing';
      progress.begin(name);
      await run();
    }
  } catch (error) {
    return `(${(error as Error).message}): later cases are missing`;
  } finally {
    process.off('SIGINT', stop);
  }
  return undefined;
}

/** Thrown by `run` where it turns out that nothing can be measured here; not a failure. */
export class NothingToMeasure extends Error {}

/** What `notMeasured` says of a suite that this machine cannot run. */
export const WHOLE_SUITE = 'the whole suite';

/**
 * Runs suites one after the other, and hands over the file as it is after each, and whenever one has found more. One that cannot run is in the file with the
 * reason; so are those that ^C kept from beginning.
 */
export async function runSuites(
  suites: readonly { suite: Suite; options: SuiteOptions }[],
  command: string,
  onSuite: (file: ResultFile) => void = () => {},
): Promise<ResultFile> {
  const plans = suites.map(({ suite, options }) => {
    const obstacle = suite.obstacle(options);
    return { suite, options, obstacle, steps: obstacle === undefined ? suite.steps(options) : [] };
  });
  const progress = startProgress(
    plans.flatMap(({ suite, steps }) => steps.map((step) => ({ ...step, suite: suite.name }))),
  );
  let stopped = false;
  const stop = () => {
    stopped = true;
  };
  process.once('SIGINT', stop);
  const file: ResultFile = { ...FORMAT, ...describe(command), suites: [] };
  for (const { suite, options, obstacle, steps } of plans) {
    const empty: SuiteResult = {
      suite: suite.name,
      about: suite.about,
      command: `npm run bench -- ${suite.name}`,
      peaks: [],
      rows: [],
      targets: [],
      notMeasured: [],
    };
    const nothing = (why: string) => ({ ...empty, notMeasured: [{ what: WHOLE_SUITE, why }] });
    if (obstacle !== undefined) file.suites.push(nothing(obstacle));
    else if (stopped && steps.length > 0) file.suites.push({ ...empty, failure: '(SIGINT): it did not begin' });
    else if (steps.length > 0) {
      try {
        const found = (result: SuiteResult) => onSuite({ ...file, suites: [...file.suites, result] });
        file.suites.push(await suite.run(options, { begin: (name) => progress.begin(suite.name, name), found }));
      } catch (error) {
        const { message } = error as Error;
        file.suites.push(error instanceof NothingToMeasure ? nothing(message) : { ...empty, failure: message });
      }
    }
    onSuite(file);
  }
  process.off('SIGINT', stop);
  progress.stop();
  return file;
}

function describe(command: string) {
  const processors = cpus();
  const { version } = require('node-attention/package.json') as { version: string };
  return {
    date: new Date().toISOString(),
    command,
    commit: commit(),
    machine: {
      cpu: processors[0]?.model ?? 'unknown',
      processors: processors.length,
      instructionSet: devices().find(({ device }) => device === 'cpu')?.instructionSet,
      memoryBytes: totalmem(),
      system: `${type()} ${release()}`,
    },
    versions: { node: process.version, 'node-attention': version },
  };
}

/** The first estimate counts as much as so many seconds of experience. */
const ESTIMATE_S = 15;

/** A bar with the remaining time on a terminal, one plain line for each step elsewhere. */
function startProgress(steps: readonly (Step & { suite: string })[]) {
  const total = steps.reduce((sum, { seconds }) => sum + seconds, 0);
  let start: number | undefined;
  const bar = process.stderr.isTTY
    ? new SingleBar({ format: '{bar} {left}  {name}', hideCursor: true }, Presets.shades_classic)
    : undefined;
  bar?.start(total, 0, { name: '', left: '' });
  let next = 0;
  let done = 0;
  return {
    begin(suite: string, name: string) {
      // Steps that were left out, because their suite ended early, count as done.
      let at = next;
      while (at < steps.length && (steps[at]!.suite !== suite || steps[at]!.name !== name)) at++;
      if (at === steps.length) throw new Error(`${suite}: '${name}' is not one of the steps left`);
      done = steps.slice(0, at).reduce((sum, { seconds }) => sum + seconds, 0);
      next = at + 1;
      start ??= performance.now();
      const elapsed = (performance.now() - start) / 1e3;
      // At first as estimated, later as it goes.
      const left = Math.ceil(((total - done) * (elapsed + ESTIMATE_S)) / (done + ESTIMATE_S));
      bar?.update(done, { name: `${suite}: ${name}`, left: `${left} s left` });
      if (!bar) process.stderr.write(`${next}/${steps.length} ${suite}: ${name}, about ${left} s left\n`);
    },
    stop() {
      bar?.update(total, { name: '', left: '' });
      bar?.stop();
    },
  };
}
