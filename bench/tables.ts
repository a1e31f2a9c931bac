// npm run bench:tables: writes the tables of README.md, docs/performance.md and docs/results.md from the files in
// bench/results; with --check it only says whether they agree.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { TARGETS as BIAS } from './bias/main';
import { fullName, OWN, parseResults, type ResultFile, type Row, type SuiteResult, type Verdict } from './format';
import { efficiencyLengths } from './masks/efficiency';
import { type Column, columnsOf, factor, optional, percent } from './report';
import { TARGETS as RETRIEVAL } from './retrieval/main';
import { efficiencyName, TARGETS as SPARSE, untimedText } from './sparse/report';
import { judge, judgeBy, OVER_TILES, type Target } from './targets';

const root = join(__dirname, '..');

/** A row and the file that it is from. */
interface Source {
  row: Row;
  file: ResultFile;
  suite: SuiteResult;
}

/** All result files, the oldest first. */
export function readResults(folder = join(__dirname, 'results')): ResultFile[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.json'))
    .map((name) => parseResults(readFileSync(join(folder, name), 'utf8'), name))
    .sort((a, b) => a.date.localeCompare(b.date));
}

/**
 * The newest measurement of each row of a suite, in the order of the first file that has it, for each machine: a table is
 * about one. Machines differ by processors and instruction set, or by GPU; the one that was measured last comes first.
 * --quick ones do not count. `files`: the oldest first.
 */
export function newest(files: readonly ResultFile[], name: string): Source[][] {
  const machines = new Map<string, Map<string, Source>>();
  for (const file of files.filter(({ command }) => !command.split(' ').includes('--quick'))) {
    for (const suite of file.suites.filter(({ suite }) => suite === name)) {
      const { cpu, processors, instructionSet } = file.machine;
      const machine = suite.device ?? `${cpu} ${processors} ${instructionSet}`;
      const found = machines.get(machine) ?? new Map<string, Source>();
      for (const row of suite.rows) found.set(fullName(row), { row, file, suite });
      machines.delete(machine); // to be the last again
      machines.set(machine, found);
    }
  }
  return [...machines.values()].map((found) => [...found.values()]).reverse();
}

/** The targets of suites that are judged by the rows of a table, whichever runs these are from: all that these have. */
const TARGETS: { [suite: string]: readonly Target<Row>[] } = { bias: BIAS, sparse: SPARSE, retrieval: RETRIEVAL };

const MISSING = 'not measured';
const ms = optional((value) => String(+value.toPrecision(3)));

/** Every block of generated text, by file and by the name in its markers. */
export function blocks(files: readonly ResultFile[]): { [path: string]: { [marker: string]: string } } {
  const cpu = newest(files, 'cpu');
  const cuda = newest(files, 'cuda');
  const names = [...new Set(files.flatMap(({ suites }) => suites.map(({ suite }) => suite)))];
  const others = names.filter((name) => name !== 'cpu' && name !== 'cuda');
  return {
    'README.md': { benchmark: cpu.map(readmeBlock).join('\n\n') || MISSING, gpu: gpuSummary(cuda[0] ?? []) },
    'docs/performance.md': {
      results: cpu.map(cpuBlock).join('\n\n') || MISSING,
      targets: cpu.map(targetBlock).join('\n\n') || MISSING,
      gpu: cuda.length > 0 ? suiteBlock('cuda', cuda) : GPU_MISSING,
    },
    'docs/results.md': { results: others.map((name) => suiteBlock(name, newest(files, name))).join('\n\n') },
  };
}

/** How instruction sets are written. */
const SETS: { [name: string]: string } = { amx: 'AMX', avx512: 'AVX-512', avx2: 'AVX2', generic: 'generic code' };

/** The runs that rows are from, the oldest first: several rows may be from one, which is then there once. */
function runsOf(sources: readonly Source[]): Source[] {
  const runs = new Map(sources.map((source) => [source.suite, source]));
  return [...runs.values()].sort((a, b) => a.file.date.localeCompare(b.file.date));
}

/** What the rows were measured on and with, from the files that they are from. */
function origin(sources: readonly Source[]): string {
  const runs = runsOf(sources);
  const { file: latest, suite } = runs.at(-1)!;
  const { cpu, processors, instructionSet } = latest.machine;
  const versions = { ...latest.versions, ...suite.versions };
  const commits = new Set(runs.map(({ file: { commit, date } }) => `${shortCommit(commit)} (${date.slice(0, 10)})`));
  return (
    `${suite.device ?? `${cpu}${instructionSet === undefined ? '' : ` with ${SETS[instructionSet]}`}, ${processors} processors`}; ` +
    `${Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')}; commit ${[...commits].join(' and ')}.`
  );
}

/** With the sign that files differed from it. */
const shortCommit = (commit = 'unknown') => commit.slice(0, 7) + (commit.endsWith('+') ? ' with changes' : '');

/** A Markdown table that is not aligned: its source is not to be read. */
function markdown<R>(columns: readonly Column<R>[], rows: readonly R[]): string {
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`;
  const rule = `|${columns.map((_, i) => (i === 0 ? '---' : '--:')).join('|')}|`;
  const head = line(columns.map(([heading]) => heading));
  return [head, rule, ...rows.map((row) => line(columns.map(([, cell]) => cell(row) ?? '')))].join('\n');
}

const filled = <R>(columns: readonly Column<R>[], rows: readonly R[]) =>
  columns.filter(([, cell]) => rows.some((row) => cell(row)));

const README_SIZES = { tokens: 4096, headDim: 128 };
const README_KINDS = ['dense', 'causal', 'decode', 'decode layers'];

/** One row for each kind and data type, with all threads; the sentences on peers are about all rows of the suite. */
function readmeBlock(sources: readonly Source[]): string {
  const all = sources.map(({ row }) => row);
  const most = Math.max(...all.map(({ case: { threads } }) => threads ?? 0));
  const rows = all
    .filter(({ case: { mask, tokens, headDim, threads = 0 } }) => {
      const size = tokens === README_SIZES.tokens && headDim === README_SIZES.headDim;
      return README_KINDS.includes(mask) && size && threads === most;
    })
    .sort(byName);
  const columns: Column<Row>[] = [
    ['B=1, H=8', ({ name }) => name.replace(' decode x32', ' one query, 32 layers').replace(' decode', ' one query')],
    ['threads', ({ case: { threads } }) => String(threads)],
    ['ms', ({ times }) => ms(times[OWN]?.median) ?? MISSING],
    ['GFLOP/s', ({ flopsPerSecond }) => optional((rate) => (rate / 1e9).toFixed(0))(flopsPerSecond)],
    ['ONNX Runtime takes', ({ ratios }) => factor(ratios.onnxruntime?.median)],
    ['PyTorch takes', ({ ratios }) => factor(ratios.pytorch?.median)],
  ];
  const peers = [slowerSentence(sources, 'onnxruntime', 'ONNX Runtime'), slowerSentence(sources, 'pytorch', 'PyTorch')];
  return `${origin(sources)}
Medians of rounds interleaved in one process, by \`${sources[0]!.suite.command}\`; the peer's time over ours: above 1,
node-attention is faster. Peers: ONNX Runtime's \`MultiHeadAttention\`, PyTorch's \`scaled_dot_product_attention\`.
${peers.join(' ')}

${markdown(columns, rows)}`;
}

/** float32 first, then kinds. */
function byName(a: Row, b: Row): number {
  const key = ({ case: { dtype, mask } }: Row) => [dtype === 'float32' ? 0 : 1, README_KINDS.indexOf(mask)] as const;
  const [x, y] = [key(a), key(b)];
  return x.map((value, i) => value - y[i]!).find((difference) => difference !== 0) ?? 0;
}

/** In which of all rows a peer is faster. */
function slowerSentence(sources: readonly Source[], peer: string, name: string): string {
  const compared = sources.map(({ row }) => row).filter(({ ratios }) => ratios[peer]);
  if (compared.length === 0) return `${name}: ${MISSING}.`;
  const slower = compared.filter(({ ratios }) => ratios[peer]!.median < 1);
  if (slower.length === 0) return `${name} is faster in none of ${compared.length} rows.`;
  const kinds = [...new Set(slower.map(({ case: { mask } }) => mask))];
  const worst = Math.min(...slower.map(({ ratios }) => ratios[peer]!.median));
  return `${name} is faster in ${slower.length} of ${compared.length} rows (${kinds.join(', ')}; worst: ${worst.toFixed(2)}x).`;
}

function cpuBlock(sources: readonly Source[]): string {
  const rows = sources.map(({ row }) => row);
  const columns: Column<Row>[] = [
    ['case', ({ name }) => name],
    ['threads', ({ case: { threads } }) => String(threads)],
    ['ms', ({ times }) => ms(times[OWN]?.median) ?? MISSING],
    ['GFLOP/s', ({ flopsPerSecond }) => optional((rate) => (rate / 1e9).toFixed(0))(flopsPerSecond)],
    ['of floor', ({ ofFloor }) => percent(0)(ofFloor)],
    ['vs ONNX Runtime', ({ ratios }) => optional((ratio) => ratio.toFixed(2))(ratios.onnxruntime?.median)],
    ['vs PyTorch', ({ ratios }) => optional((ratio) => ratio.toFixed(2))(ratios.pytorch?.median)],
    ['vs flex_attention', ({ ratios }) => optional((ratio) => ratio.toFixed(2))(ratios['pytorch-flex']?.median)],
    [OVER_TILES, ({ figures }) => optional((value) => value.toFixed(2))(figures?.[OVER_TILES])],
  ];
  return `${origin(sources)} Ratios are the peer's time over ours.\n\n${markdown(filled(columns, rows), rows)}`;
}

/** What was to be reached, for one machine. */
const targetBlock = (sources: readonly Source[]) =>
  `${origin(sources)}\n\n${targetTable(judge(sources.map(({ row }) => row)))}`;

/**
 * All of a suite: its targets, what follows from its rows, tables of its own, and the rows that have a time, for each
 * machine.
 */
function suiteBlock(name: string, machines: readonly (readonly Source[])[]): string {
  const blocks = machines.map((sources) => {
    const rows = sources.map(({ row }) => row).filter(({ times }) => Object.keys(times).length > 0);
    // A run may be of some of the cases only: what it does not say, an older one does.
    const runs = runsOf(sources).map(({ suite }) => suite);
    const { about = '', command } = runs.at(-1)!;
    const known = TARGETS[name];
    const targets = lastOf(
      [
        ...runs
          .flatMap(({ targets = [] }) => targets)
          .filter(({ text }) => known?.some((one) => one.text === text) ?? true),
        ...judgeBy(known ?? [], rows, (row) => row.name),
      ],
      ({ text, verdict }) => [text, verdict !== MISSING],
    );
    const findings = lastOf(
      [
        ...runs.flatMap(({ findings = [] }) => findings),
        ...(name === 'sparse' ? efficiencyLengths(rows, efficiencyName) : []),
      ],
      ({ name }) => [name, true],
    );
    const text = name === 'sparse' ? sparseText(sources, runs) : largestText(runs);
    return [
      `${about} By \`${command}\`.`,
      origin(sources),
      targets.length > 0 ? targetTable(targets) : '',
      findings.map(({ name, text }) => `- ${name}: ${text}`).join('\n'),
      text === undefined ? '' : `\`\`\`text\n${text}\n\`\`\``,
      markdown(filled(columnsOf(rows), rows), rows),
    ];
  });
  return [`## ${name}`, ...blocks.flat()].filter((part) => part !== '').join('\n\n');
}

/** A run of a few cases has a text of these alone: that of the largest. */
const largestText = (runs: readonly SuiteResult[]): string | undefined =>
  runs.reduce(
    (most, run) => (run.text && run.rows.length >= (most?.rows.length ?? 0) ? run : most),
    undefined as SuiteResult | undefined,
  )?.text;

/** Tables of all rows without times, whichever runs these are from, and what the last run says behind its tables. */
function sparseText(sources: readonly Source[], runs: readonly SuiteResult[]): string | undefined {
  const tables = untimedText(sources.map(({ row }) => row));
  const notes = runs
    .flatMap(({ text }) => text || [])
    .at(-1)
    ?.split('\n\n')
    .at(-1);
  return [tables, notes].filter(Boolean).join('\n\n') || undefined;
}

/** Of all with the same name the last one, if there is one, that says something; in the order of names. */
function lastOf<T>(all: readonly T[], of: (each: T) => [name: string, says: boolean]): T[] {
  const found = new Map<string, T>();
  for (const each of all) {
    const [name, says] = of(each);
    if (says || !found.has(name)) found.set(name, each);
  }
  return [...found.values()];
}

function targetTable(verdicts: readonly Verdict[]): string {
  return markdown(
    [
      ['target', ({ text }: Verdict) => text],
      ['', ({ verdict }) => verdict],
      ['rows that reach it', ({ rows, reached }) => (rows > 0 ? `${reached} of ${rows}` : '')],
      ['worst', ({ worst }) => worst && `${worst.figure.toFixed(2)} (${worst.row})`],
    ],
    verdicts,
  );
}

const GPU_MISSING = `| case | time | TFLOP/s | of the matrix peak | GB/s | of the copy rate | vs cuDNN | vs CUTLASS | vs PyTorch | vs flash_attn |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
| bfloat16 dense and causal, S = 512 to 32768, D = 64, 128, 256, heads · D = 2048 | not measured | | | | | | | | |
| the same with D = 128 and 64 query heads on 8 key heads | not measured | | | | | | | | |
| decode, batch 1, 8, 64, 8192 to 131072 keys, D = 128, 64 heads on 8 | not measured | | | | | | | | |
| the same with batch 1, 131072 and 1048576 keys, 2 % of them chosen by hipPlan, with HipState and without, and by pagePlan | not measured | | | | | | | | |`;

/** Ranges over the lengths. */
function gpuSummary(sources: readonly Source[]): string {
  const rows = sources.map(({ row }) => row);
  const range = (values: (number | undefined)[], text: (value: number) => string) => {
    const known = values.filter((value) => value !== undefined);
    if (known.length === 0) return MISSING;
    const [least, most] = [text(Math.min(...known)), text(Math.max(...known))];
    return least === most ? least : `${least} to ${most}`;
  };
  const groups: { name: string; pattern: RegExp; decode?: boolean }[] = [
    ...['dense', 'causal'].map((kind) => ({
      name: `forward, ${kind}, headDim 64, 128, 256`,
      pattern: new RegExp(` ${kind} `),
    })),
    { name: 'decoding, batch 1, 8, 64', pattern: / decode /, decode: true },
  ];
  const cell = (value: (rows: Row[], decode: boolean) => string) => (group: (typeof groups)[0]) =>
    value(
      rows.filter(({ name }) => group.pattern.test(name)),
      group.decode ?? false,
    );
  const table = markdown(
    [
      [sources.at(-1)?.suite.device ?? 'on an H200, bfloat16', ({ name }) => name],
      [
        'TFLOP/s or GB/s',
        cell((rows, decode) =>
          decode
            ? range(
                rows.map(({ figures }) => figures?.['GB/s']),
                (rate) => `${rate.toFixed(0)} GB/s`,
              )
            : range(
                rows.map(({ flopsPerSecond }) => flopsPerSecond && flopsPerSecond / 1e12),
                (rate) => rate.toFixed(0),
              ),
        ),
      ],
      [
        'compared with cuDNN',
        cell((rows) =>
          range(
            rows.map(({ ratios }) => ratios.cudnn?.median),
            (ratio) => `${ratio.toFixed(2)}x`,
          ),
        ),
      ],
    ],
    groups,
  );
  return sources.length > 0 ? `${origin(sources)}\n\n${table}` : table;
}

/** A text with its blocks replaced. Throws when a marker is missing. */
export function withBlocks(text: string, path: string, contents: { [marker: string]: string }): string {
  for (const [marker, content] of Object.entries(contents)) {
    const [begin, end] = [`<!-- ${marker}:begin -->`, `<!-- ${marker}:end -->`];
    const [from, to] = [text.indexOf(begin), text.indexOf(end)];
    if (from === -1 || to < from) throw new Error(`${path} has no ${begin} ... ${end}`);
    text = `${text.slice(0, from + begin.length)}\n${content}\n${text.slice(to)}`;
  }
  return text;
}

/** The paths of the files that differ from what the results say; writes them unless `check`. */
export function update(check: boolean): string[] {
  const stale: string[] = [];
  for (const [path, contents] of Object.entries(blocks(readResults()))) {
    const before = readFileSync(join(root, path), 'utf8');
    const after = withBlocks(before, path, contents);
    if (after === before) continue;
    stale.push(path);
    if (!check) writeFileSync(join(root, path), after);
  }
  return stale;
}

if (require.main === module) {
  new Command('npm run bench:tables --')
    .description('Writes the tables of README.md, docs/performance.md and docs/results.md from bench/results.')
    .option('--check', 'only say whether they agree; status 1 when not', false)
    .action(({ check }: { check: boolean }) => {
      const stale = update(check);
      if (!check) console.log(stale.length > 0 ? `written: ${stale.join(', ')}` : 'nothing to write');
      else if (stale.length > 0) {
        console.error(`not what bench/results says: ${stale.join(', ')}; npm run bench:tables writes them`);
        process.exitCode = 1;
      }
    })
    .parse();
}
