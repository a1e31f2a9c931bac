// A run that goes on from an earlier one: machines with a GPU are lent for minutes.

import { existsSync, readFileSync } from 'node:fs';
import { commit } from '../commit';
import { parseResults, type Row, type SuiteResult } from '../format';
import { allCudaCases, type CudaCase } from './cases';
import { judgeCuda, publishedFindings } from './report';

/**
 * What a file has of this suite, if it is of this commit, by this command and, unless that is not known, of this device;
 * undefined: there is nothing to go on from. Which changes a changed tree had, nobody knows.
 */
export function earlierResult(path: string | undefined, command: string, device?: string): SuiteResult | undefined {
  if (path === undefined || !existsSync(path) || commit()?.endsWith('+') !== false) return undefined;
  const file = parseResults(readFileSync(path, 'utf8'), path);
  const suite = file.suites.find(({ suite }) => suite === 'cuda');
  if (!suite || suite.rows.length === 0 || file.commit !== commit() || suite.command !== command) return undefined;
  return suite.device?.startsWith(device ?? '') ? suite : undefined;
}

/** Those without a row, the ones that ended a measurement last. */
export function casesLeft(cases: readonly CudaCase[], earlier: SuiteResult | undefined): CudaCase[] {
  const done = new Set(earlier?.rows.map(({ name }) => name));
  const failed = new Set(earlier?.notMeasured.map(({ what }) => what));
  const left = cases.filter(({ name }) => !done.has(name));
  return [...left.filter(({ name }) => !failed.has(name)), ...left.filter(({ name }) => failed.has(name))];
}

/** The last of each name, where the first stood. */
const lastOf = <T>(items: readonly T[], name: (item: T) => string): T[] => [
  ...new Map(items.map((item) => [name(item), item])).values(),
];

/** Rows in the order of the cases, not in that of being measured. */
function inOrder(rows: readonly Row[]): Row[] {
  const order = new Map(allCudaCases(false).map(({ name }, i) => [name, i]));
  return [...rows].sort((a, b) => order.get(a.name)! - order.get(b.name)!);
}

/** One result of two on one device about different cases. */
export function joined(earlier: SuiteResult | undefined, now: SuiteResult): SuiteResult {
  if (!earlier) return { ...now, rows: inOrder(now.rows) };
  const rows = inOrder([...earlier.rows, ...now.rows]);
  const measured = new Set(rows.map(({ name }) => name));
  const rateOf = ({ peaks }: SuiteResult, wanted: string) => peaks.find(({ name }) => name === wanted)?.rate ?? 0;
  return {
    ...now,
    versions: { ...earlier.versions, ...now.versions },
    rows,
    // Of several measurements of a peak, the best.
    peaks: lastOf([...earlier.peaks, ...now.peaks], ({ name }) => name).map((peak) => ({
      ...peak,
      rate: Math.max(rateOf(earlier, peak.name), rateOf(now, peak.name)),
    })),
    targets: judgeCuda(rows),
    findings: lastOf(
      [...(earlier.findings ?? []), ...(now.findings ?? []), ...publishedFindings(rows)],
      ({ name }) => name,
    ),
    notMeasured: lastOf([...earlier.notMeasured, ...now.notMeasured], ({ what }) => what).filter(
      ({ what }) => !measured.has(what),
    ),
  };
}
