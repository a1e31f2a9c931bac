// The whole GPU benchmark in parts, each with a file of its own: what ends a part early takes no other part along, and a
// second run makes only the parts that are missing.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { typed } from '../command';
import { commit } from '../commit';
import { parseResults, type ResultFile, type SuiteResult } from '../format';
import { faultLines } from '../report';
import { judgeCuda } from './report';

/** Of about equal work. */
export const PARTS = 4;

/** What a call may take: machines with a GPU are lent for minutes. The rest is for what begins and ends it. */
const BUDGET_S = 8 * 60 - 20;

/**
 * Measures a part with these arguments, which name the file to write, and gives the exit status. After so many seconds it
 * is ended, as by ^C.
 */
export type RunPart = (args: string[], seconds: number) => number;

/** The file of a part that is complete, of this commit and by these arguments; undefined: it has to be made. */
function made(path: string, args: readonly string[]): ResultFile | undefined {
  if (!existsSync(path)) return undefined;
  try {
    const file = parseResults(readFileSync(path, 'utf8'), path);
    const complete = file.suites.length > 0 && file.suites.every(({ failure }) => failure === undefined);
    return complete && file.commit === commit() && file.command === typed(args) ? file : undefined;
  } catch {
    return undefined; // it ended before it wrote
  }
}

/**
 * Makes the parts that are missing in a folder, as far as there is time, then bench.json of all. Gives the exit status of
 * the first part that ended early, 1 when an output was wrong or time was up. `clock`: seconds.
 */
export function runParts(
  folder: string,
  options: readonly string[],
  run: RunPart,
  say: (line: string) => void,
  clock = () => performance.now() / 1e3,
): number {
  const end = clock() + BUDGET_S;
  mkdirSync(folder, { recursive: true });
  const files: ResultFile[] = [];
  let failed: number | undefined;
  for (let i = 1; i <= PARTS; i++) {
    const path = join(folder, `bench-${i}.json`);
    const args = ['cuda', ...options, '--part', `${i}/${PARTS}`, '--json', path];
    // Which changes a changed tree had, nobody knows.
    const known = commit()?.endsWith('+') === false;
    let file = known ? made(path, args) : undefined;
    if (file) say(`part ${i} of ${PARTS}: there already`);
    else if (clock() >= end) {
      say(`part ${i} of ${PARTS}: no time is left of ${BUDGET_S} s`);
      failed ??= 1;
    } else {
      say(`part ${i} of ${PARTS}`);
      const status = run(args, end - clock());
      file = made(path, args);
      if (!file) failed ??= status || 1;
    }
    if (file) files.push(file);
  }
  if (failed !== undefined) {
    say(`${PARTS - files.length} of ${PARTS} parts are missing: the same command makes them`);
    return failed;
  }
  const whole = join(folder, 'bench.json');
  writeFileSync(whole, `${JSON.stringify(merged(files), null, 1)}\n`);
  say(`all parts: ${whole}`);
  const wrong = files.flatMap(({ suites }) => suites.flatMap(({ rows }) => faultLines(rows)));
  for (const line of wrong) say(line);
  return wrong.length > 0 ? 1 : 0;
}

/** One file of several about different cases of a suite on one device. */
export function merged(files: readonly ResultFile[]): ResultFile {
  const [first] = files;
  const suites = files.map(({ suites }) => suites[0]!);
  const rows = suites.flatMap((suite) => suite.rows);
  const once = <T>(items: readonly T[]): T[] => [
    ...new Map(items.map((item) => [JSON.stringify(item), item])).values(),
  ];
  const suite: SuiteResult = {
    ...suites[0]!,
    rows,
    // Of several measurements of a peak, the best.
    peaks: suites[0]!.peaks.map((peak) => ({
      ...peak,
      rate: Math.max(
        ...suites.flatMap(({ peaks }) => peaks.filter(({ name }) => name === peak.name)).map(({ rate }) => rate),
      ),
    })),
    targets: judgeCuda(rows),
    findings: once(suites.flatMap(({ findings = [] }) => findings)),
    notMeasured: once(suites.flatMap(({ notMeasured }) => notMeasured)),
  };
  return { ...first!, command: 'scripts/gpu-bench', suites: [suite] };
}
