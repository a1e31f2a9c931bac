// npm run bench: see --help.

import { readFileSync, writeFileSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import {
  addCommonOptions,
  addThreadsOption,
  type CommonOptions,
  commandOf,
  measure,
  threadsOf,
  torchOf,
} from './command';
import { compare, comparisonText, told } from './compare';
import { parseResults } from './format';
import { page } from './html/page';
import type { SuiteOptions } from './session';
import { suites } from './suites';

interface Options extends CommonOptions {
  compare?: string[];
  limit: number;
}

const read = (path: string) => parseResults(readFileSync(path, 'utf8'), path);

const program = new Command('npm run bench --')
  .enablePositionalOptions() // what stands behind a suite is for the suite
  .description(
    'Measures this library against others. Without a suite: every suite that this machine can run. Outputs are checked ' +
      'against a float64 reference before anything is timed; contestants take turns on the same data; rounds in which ' +
      'others use the machine are repeated.',
  )
  .option(
    '--compare <files...>',
    'compare two result files instead, the older one first; status 1 on a regression, 2 where no time could be compared',
  )
  .option('--limit <percent>', 'how much slower counts as a regression', percent, 10);
addThreadsOption(addCommonOptions(program, page))
  .addHelpText('after', '\nWithout --json and --html, a run of every suite writes bench.json and bench.html.')
  .action((options: Options) => guarded(() => (options.compare ? compareFiles(options) : measureAll(options))));

for (const suite of suites) program.addCommand(commandOf(suite, page));
program
  .command('report <files...>')
  .description('Makes the report of result files, such as one of a CPU and one of a GPU.')
  .requiredOption('--html <file>', 'where to write it')
  .action((files: string[], { html }: { html: string }) =>
    guarded(() => {
      const [first, ...others] = files.map(read);
      const suites = others.flatMap(({ suites, ...origin }) => suites.map((suite) => ({ ...suite, origin })));
      writeFileSync(html, page({ ...first!, suites: [...first!.suites, ...suites] }));
    }),
  );
program.parse();

function percent(text: string): number {
  const value = Number(text);
  if (!(value >= 0)) throw new InvalidArgumentError('Give a number that is not negative, such as 10.');
  return value;
}

async function guarded(work: () => void | Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    program.error(`error: ${(error as Error).message}`);
  }
}

function compareFiles({ compare: files = [], limit }: Options): void {
  if (files.length !== 2) throw new Error('--compare: give two files, such as --compare old.json new.json');
  const [before, after] = files.map(read);
  const comparison = compare(before!, after!, limit / 100);
  console.log(comparisonText(comparison, limit / 100));
  if (comparison.regressions.length + comparison.broken.length > 0) process.exitCode = 1;
  else if (told(comparison) === 0) process.exitCode = 2;
}

async function measureAll(options: Options): Promise<void> {
  const { json = 'bench.json', html = 'bench.html', quick, torch } = options;
  const threads = threadsOf(options);
  const found = torch === undefined && !quick ? torchIfFound() : torchOf(torch);
  const plans = suites.map((suite) => {
    // The defaults of the options that only this suite has.
    const own = commandOf(suite, page).opts();
    const chosen: SuiteOptions = { ...own, quick, threads, filter: '', torch: found };
    return { suite, options: chosen };
  });
  await measure(plans, { json, html }, page, process.argv.slice(2));
  console.log(`\n${html} is the report, ${json} has all samples.`);
}

function torchIfFound(): SuiteOptions['torch'] {
  try {
    return torchOf(true);
  } catch {
    return undefined;
  }
}
