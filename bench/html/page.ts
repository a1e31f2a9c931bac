// The report: one page of HTML that needs nothing else.

import { fullName, type ResultFile, type SuiteResult } from '../format';
import { absentLines, type Column, columnsOf, faultLines, NOTES, rateText } from '../report';
import { chartsOf } from './charts';
import { plain } from './markup';

const STYLE = `
body { font: 14px/1.5 system-ui, sans-serif; max-width: 1440px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; margin: 1em 0 }
td, th { padding: 2px 8px; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
td:first-child, th:first-child, .text td { text-align: left }
.text td { white-space: normal }
thead th { position: sticky; top: 0; background: #fff }
.charts { display: flex; flex-wrap: wrap; gap: 1em }
.wide { overflow-x: auto }
.fault { color: #b00020; font-weight: 600 }
svg { max-width: 100%; height: auto }
`;

export function page(file: ResultFile): string {
  const { date, suites } = file;
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>node-attention: benchmark, ${plain(date.slice(0, 10))}</title>
<style>${STYLE}</style>
<h1>node-attention: benchmark</h1>
${pairs(originLines(file))}
<p>${suites.map(({ suite }) => `<a href="#${plain(suite)}">${plain(suite)}</a>`).join(' · ')}</p>
<p>${plain(NOTES)}</p>
${suites.map(section).join('\n')}
</html>
`;
}

/** When, with what and on what it was measured. */
function originLines({ date, command, commit, machine, versions }: Omit<ResultFile, 'suites'>): [string, string][] {
  const { cpu, processors, instructionSet, memoryBytes, system } = machine;
  const memory = `${(memoryBytes / 2 ** 30).toFixed(1)} GiB`;
  return [
    ['date', date],
    ['command', command],
    ['commit', commit ?? 'unknown'],
    ['processor', [cpu, `${processors} processors`, ...(instructionSet ? [instructionSet] : []), memory].join(', ')],
    ['system', system],
    ...Object.entries(versions),
  ];
}

function section(result: SuiteResult): string {
  const {
    suite,
    about,
    command,
    device,
    versions = {},
    peaks,
    rows,
    targets,
    text,
    findings = [],
    notMeasured,
    failure,
    origin,
  } = result;
  const others: [string, string][] = [
    ...(origin ? originLines(origin) : []),
    ['repeated by', command],
    ...(device === undefined ? [] : ([['device', device]] as [string, string][])),
    ...Object.entries(versions),
    ...peaks.map(({ name, threads, rate, unit }): [string, string] => [
      `peak: ${name}${threads === undefined ? '' : `, ${threads} thr.`}`,
      rateText(rate, unit),
    ]),
  ];
  const missing: [string, string][] = [
    ...notMeasured.map(({ what, why }): [string, string] => [what, why]),
    ...absentLines(rows).map((line): [string, string] => ['some cases', line]),
  ];
  const parts = [
    `<h2 id="${plain(suite)}">${plain(suite)}</h2>`,
    `<p>${plain(about)}</p>`,
    failure === undefined ? '' : `<p class="fault">Ended early, ${plain(failure)}</p>`,
    ...faultLines(rows).map((line) => `<p class="fault">${plain(line)}</p>`),
    pairs(others),
    `<div class="charts">${chartsOf(result)
      .map(({ svg }) => svg)
      .join('\n')}</div>`,
    rows.length > 0 ? `<h3>Cases</h3><div class="wide">${table(columnsOf(rows), rows)}</div>` : '',
    text === undefined ? '' : `<pre class="wide">${plain(text)}</pre>`,
    memoryTable(result),
    findings.length > 0
      ? `<h3>Findings</h3>${pairs(findings.map(({ name, text }): [string, string] => [name, text]))}`
      : '',
    targets.length > 0
      ? `<h3>Targets</h3>${table(
          [
            ['target', ({ text }) => text],
            ['', ({ verdict }) => verdict],
            ['rows that reach it', ({ rows, reached }) => (rows > 0 ? `${reached} of ${rows}` : undefined)],
            ['worst', ({ worst }) => worst && `${worst.figure.toFixed(2)} (${worst.row})`],
            ['disturbed', ({ disturbed }) => (disturbed > 0 ? String(disturbed) : undefined)],
          ],
          targets,
        )}`
      : '',
    missing.length > 0 ? `<h3>Not measured</h3>${pairs(missing)}` : '',
  ];
  return parts.filter((part) => part !== '').join('\n');
}

/** Memory and errors of every contestant, which the table of cases has for this library alone. */
function memoryTable({ rows }: SuiteResult): string {
  const known = rows.flatMap((row) =>
    Object.keys({ ...row.errors, ...row.memory }).map((contestant) => ({ row, contestant })),
  );
  if (known.length === 0) return '';
  const columns: Column<(typeof known)[0]>[] = [
    ['case', ({ row }) => fullName(row)],
    ['contestant', ({ contestant }) => contestant],
    ['error', ({ row, contestant }) => row.errors?.[contestant]?.toExponential(2)],
    ['memory beyond inputs', ({ row, contestant }) => bytes(row.memory?.[contestant])],
  ];
  return `<details><summary>Errors and memory of every contestant</summary>${table(columns, known)}</details>`;
}

const bytes = (value: number | undefined) => (value === undefined ? undefined : `${(value / 2 ** 20).toFixed(1)} MiB`);

function table<R>(columns: readonly Column<R>[], rows: readonly R[]): string {
  const filled = columns.filter(([, cell]) => rows.some((row) => cell(row)));
  const line = (tag: string, cells: string[]) =>
    `<tr>${cells.map((cell) => `<${tag}>${plain(cell)}</${tag}>`).join('')}</tr>`;
  const head = line(
    'th',
    filled.map(([heading]) => heading),
  );
  const body = rows.map((row) =>
    line(
      'td',
      filled.map(([, cell]) => cell(row) ?? ''),
    ),
  );
  return `<table><thead>${head}</thead>\n<tbody>${body.join('\n')}</tbody></table>`;
}

const pairs = (rows: readonly [string, string][]): string =>
  `<table class="text">${rows.map(([name, text]) => `<tr><td>${plain(name)}</td><td>${plain(text)}</td></tr>`).join('\n')}</table>`;
