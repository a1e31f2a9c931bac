// What is printed of results.

import { type Fault, fullName, OWN, type Row, type SuiteResult, type Verdict } from './format';
import { type Interval, tells } from './statistics';

export const optional = (format: (value: number) => string) => (value: number | undefined) =>
  value === undefined ? undefined : format(value);
export const ms = optional((value) => value.toPrecision(value < 1000 ? 3 : 4));
export const factor = optional((value) => `${value.toFixed(2)}x`);
export const percent = (digits: number) => optional((value) => `${(100 * value).toFixed(digits)} %`);
const short = optional((value) => value.toPrecision(3));
const mebibytes = optional((value) => `${(value / 2 ** 20).toPrecision(3)} MiB`);

/** Of too few rounds for what the heading says: what it is instead. */
const intervalText = ([from, to]: Interval, rounds: number, text: (value: number) => string | undefined): string =>
  `${text(from)} - ${text(to)}${tells(rounds) ? '' : ' (min-max)'}`;

export type Column<R> = [heading: string, cell: (row: R) => string | undefined];

/** The columns of rows: those that every suite has, one or two for each other contestant, and the suite's own figures. */
export function columnsOf(rows: readonly Row[]): Column<Row>[] {
  const others = [...new Set(rows.flatMap(({ samples }) => Object.keys(samples)))].filter((name) => name !== OWN);
  const figures = [...new Set(rows.flatMap(({ figures = {} }) => Object.keys(figures)))];
  const measures = [...new Set(rows.flatMap(({ quality = {} }) => Object.keys(quality)))];
  return [
    ['case', ({ name }) => name],
    ['thr.', ({ case: { threads } }) => threads?.toString()],
    ['ms', ({ times }) => ms(times[OWN]?.median)],
    ['95 %', ({ times: { [OWN]: own } }) => own && intervalText(own.interval, own.count, ms)],
    ['quartiles', ({ times: { [OWN]: own } }) => own && `${ms(own.q1)} - ${ms(own.q3)}`],
    ['n', ({ times }) => times[OWN]?.count.toString()],
    ['sets', ({ sets }) => sets?.toString()],
    ['GFLOP/s', ({ flopsPerSecond }) => optional((rate) => (rate / 1e9).toFixed(0))(flopsPerSecond)],
    ['floor ms', ({ floor }) => floor && `${ms(floor.ms)} (${floor.bound})`],
    ['of floor', ({ ofFloor }) => percent(0)(ofFloor)],
    ...others.flatMap((name): Column<Row>[] => [
      [`${name} ms`, ({ times }) => ms(times[name]?.median)],
      ['faster', ({ ratios }) => factor(ratios[name]?.median)],
      [
        '95 %',
        ({ ratios: { [name]: ratio }, times }) =>
          ratio && intervalText(ratio.interval, times[name]!.count, (each) => each.toFixed(2)),
      ],
    ]),
    ['error', ({ errors }) => optional((error) => error.toExponential(1))(errors?.[OWN])],
    ['allowed', ({ tolerance }) => optional((error) => error.toExponential(1))(tolerance)],
    ['memory', ({ memory }) => mebibytes(memory?.[OWN])],
    ...figures.map((name): Column<Row> => [name, ({ figures }) => short(figures?.[name])]),
    ...measures.map((name): Column<Row> => [name, ({ quality }) => short(quality?.[name])]),
    ['bound', ({ simulated }) => factor(simulated?.bound)],
    ['reached', ({ simulated }) => factor(simulated?.reached)],
    ['', ({ disturbed }) => (disturbed > 0 ? `${disturbed} disturbed` : '')],
  ];
}

/** A Markdown table, aligned. Columns that no row fills are left out. */
export function tableOf<R>(columns: readonly Column<R>[], rows: readonly R[]): string {
  const filled = columns.filter(([, cell]) => rows.some((row) => cell(row)));
  const cells = [filled.map(([heading]) => heading), ...rows.map((row) => filled.map(([, cell]) => cell(row) ?? ''))];
  const widths = filled.map((_, column) => Math.max(...cells.map((line) => line[column]!.length)));
  const pad = (text: string, column: number) =>
    column === 0 ? text.padEnd(widths[0]!) : text.padStart(widths[column]!);
  const lines = cells.map((line) => `| ${line.map(pad).join(' | ')} |`);
  const rule = `|${widths.map((width, column) => (column === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`;
  return [lines[0], rule, ...lines.slice(1)].join('\n');
}

export function faultLines(rows: readonly Row[]): string[] {
  return rows.flatMap((row) =>
    (row.faults ?? []).map(({ contestant, fault }) => `WRONG OUTPUT: ${contestant}, ${fullName(row)}: ${fault}`),
  );
}

/** Each contestant that does not take some cases, and why, once. */
export function absentLines(rows: readonly Row[]): string[] {
  const sentence = ({ contestant, fault }: Fault) => `${contestant}: ${fault}`;
  return [...new Set(rows.flatMap(({ absent = [] }) => absent.map(sentence)))];
}

function verdictLine({ text, verdict, rows, reached, disturbed, worst }: Verdict): string {
  const figures = worst ? `: ${reached} of ${rows}, worst ${worst.figure.toFixed(2)} (${worst.row})` : '';
  const doubt = disturbed > 0 ? `; ${disturbed} of them disturbed` : '';
  return `${verdict.padEnd(12)}  ${text}${figures}${doubt}`;
}

const SCALES = { T: 1e12, G: 1e9, M: 1e6 } as const;

/** A rate with three digits, such as 3.53 TFLOP/s. */
export function rateText(rate: number, unit: string): string {
  const [prefix, scale] = Object.entries(SCALES).find(([, scale]) => rate >= scale) ?? ['', 1];
  return `${(rate / scale).toPrecision(3)} ${prefix}${unit}`;
}

/** All of a suite, for a terminal. */
export function suiteText({
  suite,
  about,
  peaks,
  rows,
  targets,
  text,
  findings = [],
  notMeasured,
  failure,
}: SuiteResult): string {
  const peakLines = [...new Set(peaks.map(({ threads }) => threads))].map((threads) => {
    const rates = peaks
      .filter((peak) => peak.threads === threads)
      .map(({ name, rate, unit }) => `${name} ${rateText(rate, unit)}`);
    return `Peaks${threads === undefined ? '' : ` (${threads} thr.)`}: ${rates.join(', ')}`;
  });
  const parts = [
    `${suite}: ${about}`,
    peakLines.join('\n'),
    text ?? (rows.length > 0 ? tableOf(columnsOf(rows), rows) : ''),
    findings.map(({ name, text }) => `${name}: ${text}`).join('\n'),
    targets.length > 0 ? `Targets\n${targets.map(verdictLine).join('\n')}` : '',
    [...absentLines(rows), ...notMeasured.map(({ what, why }) => `${what}: ${why}`)]
      .map((line) => `not measured: ${line}`)
      .join('\n'),
    failure === undefined ? '' : `ended early: ${failure}`,
  ];
  return parts.filter((part) => part !== '').join('\n\n');
}

export const NOTES = `\
ms: median of the rounds from call to result available, with the 95 % interval of that median from the order of the rounds
(of fewer than six: the least and the most, min-max), quartiles and the number of rounds. sets: of inputs that take turns,
beyond the caches of a processor; 1: the same ones each time, or as large. faster: how many times as long the other takes,
the median of the ratios within rounds. GFLOP/s counts 4 D operations for each visible pair of a query and a key. floor: the
longest of the times that the multiplications (arithmetic), the exponentials (exp) and reading so many bytes (memory) would
take alone at the peaks measured here; of floor: floor over time. error: the largest difference from float64 in sampled
rows. tiles: share of pairs of a query tile and a key tile (64 tokens, or 8x8) with a visible pair; over tiles: time over
(time without the mask x tiles). exp ms: the time that the exponentials alone would take at the measured rate. disturbed:
rounds that count although others used more than 6 % of a processor, for want of quieter ones.`;
