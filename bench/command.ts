// The command of a suite, `npm run bench -- NAME`, and what all of them share: reading options, writing files, the status.

import { closeSync, openSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, isAbsolute } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import type { ResultFile } from './format';
import { torchVersion } from './peers/torch';
import { faultLines, NOTES, suiteText } from './report';
import { runSuites, type Suite, type SuiteOptions, WHOLE_SUITE } from './session';

/** The exit status where this machine has nothing that the suite measures. */
export const NO_DEVICE = 3;

export interface CommonOptions {
  json?: string;
  html?: string;
  quick: boolean;
  torch?: string | true;
  threads?: number[];
}

export function threadsOf({ threads, quick }: CommonOptions): number[] {
  if (threads) return threads;
  if (availableParallelism() === 1) return [1];
  return quick ? [2] : [1, 2];
}

/** Makes the report of results, where it can be made. */
export type PageMaker = (file: ResultFile) => string;

/** Adds the options that every run has. Without a maker of pages there is no --html. */
export function addCommonOptions(command: Command, page: PageMaker | undefined): Command {
  command
    .option('--json <file>', 'write everything, with all samples, to a file')
    .option('--quick', 'a handful of cases, with few rounds, none of them repeated', false)
    .option('--torch [python]', 'also measure PyTorch, with this Python (default: python3)');
  if (page) command.option('--html <file>', 'write the report, one page that needs no network, to a file');
  return command;
}

/** For suites that have a process for each number of threads. The others use as many as the library does. */
export function addThreadsOption(command: Command): Command {
  return command.option('--threads <list>', 'numbers of threads (default: 1 and 2, with --quick only 2)', threadCounts);
}

export function commandOf<Options extends SuiteOptions>(
  suite: Suite<Options>,
  page?: PageMaker,
  argv = process.argv.slice(2),
): Command {
  const command = new Command(suite.name)
    .description(`${suite.about} Ends with status ${NO_DEVICE} where there is nothing to measure.`)
    .option('--filter <text>', 'only cases whose name contains this', '')
    .addHelpText('after', () => `\nCases:\n  ${suite.caseNames().join('\n  ')}`);
  addCommonOptions(command, page);
  suite.extend?.(command);
  return command.action(async (given: CommonOptions & Omit<Options, 'torch'>) => {
    try {
      const options = { ...given, threads: threadsOf(given), torch: torchOf(given.torch) } as unknown as Options;
      if (suite.steps(options).length === 0) {
        throw new Error(`--filter: no case contains '${options.filter}'; --help lists them`);
      }
      await measure([{ suite: suite as Suite<SuiteOptions>, options }], given, page, argv);
    } catch (error) {
      command.error(`error: ${(error as Error).message}`);
    }
  });
}

export function torchOf(torch: string | true | undefined): SuiteOptions['torch'] {
  if (torch === undefined) return undefined;
  const python = torch === true ? 'python3' : torch;
  return { python, version: torchVersion(python) };
}

/** The command as it was typed. Where things lie on this machine is nobody's concern. */
export const typed = (argv: readonly string[]): string =>
  ['npm run bench --', ...argv.map((each) => (isAbsolute(each) ? basename(each) : each))].join(' ');

/** Runs suites, prints what they found, writes what was asked for after each of them, and sets the exit status. */
export async function measure(
  suites: readonly { suite: Suite; options: SuiteOptions }[],
  { json, html }: { json?: string; html?: string },
  page: PageMaker | undefined,
  argv: readonly string[],
): Promise<void> {
  const outputs = [
    { path: json, text: (file: ResultFile) => `${JSON.stringify(file, null, 1)}\n` },
    { path: html, text: (file: ResultFile) => page!(file) },
  ].flatMap(({ path, text }) => (path === undefined ? [] : [{ path, text }]));
  // Whether they can be written is known now, not after all the work; what is there stays until there is something new.
  for (const { path } of outputs) closeSync(openSync(path, 'a'));
  const file = await runSuites(suites, typed(argv), (soFar) => {
    for (const { path, text } of outputs) writeFileSync(path, text(soFar));
  });
  const measured = file.suites.filter(({ notMeasured }) => !notMeasured.some(({ what }) => what === WHOLE_SUITE));
  for (const { suite, notMeasured } of file.suites.filter((each) => !measured.includes(each))) {
    console.log(`npm run bench -- ${suite}: nothing to measure: ${notMeasured[0]!.why}`);
  }
  for (const each of measured) console.log(`\n${suiteText(each)}`);
  if (measured.some(({ rows }) => rows.length > 0)) console.log(`\n${NOTES}`);
  const wrong = measured.flatMap(({ rows }) => faultLines(rows));
  const early = measured.flatMap(({ suite, failure }) =>
    failure === undefined ? [] : [`error: ${suite} ended early, ${failure}`],
  );
  for (const line of [...wrong, ...early]) console.error(line);
  if (wrong.length + early.length > 0) process.exitCode = 1;
  else if (measured.length === 0) process.exitCode = NO_DEVICE;
}

function threadCounts(text: string): number[] {
  const counts = text.split(',').map(Number);
  if (!counts.every((count) => Number.isSafeInteger(count) && count >= 1)) {
    throw new InvalidArgumentError('Give whole numbers of at least 1, such as 1,2.');
  }
  return [...new Set(counts)];
}
