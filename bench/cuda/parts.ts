// The whole GPU benchmark in parts, each with a file of its own: what ends a part early takes no other part along, and a
// second run makes only the parts that are missing.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { commit } from '../commit';
import { parseResults, type ResultFile, type SuiteResult } from '../format';
import { judgeCuda } from './report';

/** Of about equal work. */
export const PARTS = 4;

/** Measures a part, writes its file and gives the exit status. */
export type RunPart = (part: string, json: string) => number;

/** The file of a part that is complete, of this commit; undefined: it has to be made. */
function made(path: string): ResultFile | undefined {
  if (!existsSync(path)) return undefined;
  try {
    const file = parseResults(readFileSync(path, 'utf8'), path);
    const complete = file.suites.length > 0 && file.suites.every(({ failure }) => failure === undefined);
    return complete && file.commit === commit() ? file : undefined;
  } catch {
    return undefined; // it ended before it wrote
  }
}

/** Makes the parts that are missing in a folder, then bench.json of all. Gives the exit status of what failed first. */
export function runParts(folder: string, run: RunPart, say: (line: string) => void): number {
  mkdirSync(folder, { recursive: true });
  const files: ResultFile[] = [];
  for (let i = 1; i <= PARTS; i++) {
    const path = join(folder, `bench-${i}.json`);
    if (made(path)) say(`part ${i} of ${PARTS}: there already`);
    else {
      say(`part ${i} of ${PARTS}`);
      const status = run(`${i}/${PARTS}`, path);
      if (status !== 0) return status;
    }
    files.push(made(path)!);
  }
  const whole = join(folder, 'bench.json');
  writeFileSync(whole, `${JSON.stringify(merged(files), null, 1)}\n`);
  say(`all parts: ${whole}`);
  return 0;
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
