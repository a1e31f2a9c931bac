// From samples to what is printed.

import type { Peaks } from './peak';
import { medianRatio, type Summary, summarize } from './statistics';
import type { Outcome } from './suite';
import type { Verdict } from './targets';

/** An outcome with all that follows from it. Absent figures: the contestant did not take part, or its output was wrong. */
export interface Row extends Outcome {
  /** Milliseconds of each contestant. */
  times: { [contestant: string]: Summary };
  gflops?: number;
  /** The peak that applies, GFLOP/s, and the milliseconds that the work would take at that rate. */
  peak: number;
  floorMs: number;
  /** For each peer, how many times as long it takes. */
  faster: { [contestant: string]: number | undefined };
  /** Time over (time without the mask x share of tiles with a visible pair), and the same with the share of pairs. */
  overTiles?: number;
  overVisible?: number;
}

export function rowOf(outcome: Outcome, peaks: Peaks): Row {
  const { contestants, samples, flops, share, instructionSet, test } = outcome;
  const times = Object.fromEntries(contestants.map((name, i) => [name, summarize(samples[i]!)]));
  const of = (name: string) => samples[contestants.indexOf(name)];
  const own = of('node-attention');
  // On AMX a product of float32 is six of bfloat16 parts.
  const products = instructionSet === 'amx' && test.dtype === 'float32' ? 6 : 1;
  const rate = peaks[instructionSet];
  if (rate === undefined) throw new Error(`the peak of '${instructionSet}' was not measured`);
  const peak = rate / products;
  const ratio = (peer: string) => (own && of(peer) ? medianRatio(of(peer)!, own) : undefined);
  const masked = ratio('unmasked');
  return {
    ...outcome,
    times,
    gflops: times['node-attention'] && flops / times['node-attention'].median / 1e6,
    peak,
    floorMs: flops / peak / 1e6,
    faster: { onnxruntime: ratio('onnxruntime'), pytorch: ratio('pytorch') },
    overTiles: masked && 1 / masked / share.tiles,
    overVisible: masked && 1 / masked / share.visible,
  };
}

export const optional = (format: (value: number) => string) => (value: number | undefined) =>
  value === undefined ? undefined : format(value);
export const ms = optional((value) => value.toPrecision(value < 1000 ? 3 : 4));
export const factor = optional((value) => `${value.toFixed(2)}x`);
export const percent = (digits: number) => optional((value) => `${(100 * value).toFixed(digits)} %`);

export type Column<R> = [heading: string, cell: (row: R) => string | undefined];

const columns: Column<Row>[] = [
  ['case', ({ test }) => test.name],
  ['thr.', ({ threads }) => String(threads)],
  ['ms', ({ times }) => ms(times['node-attention']?.median)],
  ['quartiles', ({ times: { 'node-attention': own } }) => own && `${ms(own.q1)} - ${ms(own.q3)}`],
  ['n', ({ samples: [own] }) => String(own?.length ?? 0)],
  ['GFLOP/s', ({ gflops }) => gflops?.toFixed(0)],
  ['of peak', ({ gflops, peak }) => percent(0)(gflops && gflops / peak)],
  ['floor ms', ({ floorMs }) => ms(floorMs)],
  ['ONNX Runtime ms', ({ times }) => ms(times.onnxruntime?.median)],
  ['faster', ({ faster }) => factor(faster.onnxruntime)],
  ['PyTorch ms', ({ times }) => ms(times.pytorch?.median)],
  ['faster', ({ faster }) => factor(faster.pytorch)],
  ['unmasked ms', ({ times }) => ms(times.unmasked?.median)],
  ['tiles', ({ test, share }) => (test.kind === 'causal' ? undefined : test.mask && percent(1)(share.tiles))],
  ['over tiles', ({ overTiles }) => factor(overTiles)],
  ['', ({ disturbed }) => (disturbed > 0 ? `${disturbed} disturbed` : '')],
];

export const table = (rows: readonly Row[]): string => tableOf(columns, rows);

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

export function faults(rows: readonly Row[]): string[] {
  return rows.flatMap(({ test, threads, faults }) =>
    faults.map(({ contestant, fault }) => `WRONG OUTPUT: ${contestant}, ${test.name}, ${threads} thr.: ${fault}`),
  );
}

export function verdictLine({ text, verdict, rows, reached, disturbed, worst }: Verdict): string {
  const figures = worst ? `: ${reached} of ${rows}, worst ${worst.figure.toFixed(2)} (${worst.row})` : '';
  const doubt = disturbed > 0 ? `; ${disturbed} of them disturbed` : '';
  return `${verdict.padEnd(12)}  ${text}${figures}${doubt}`;
}

export const NOTES = `\
ms: median of the rounds from call to result available; n: rounds. faster: median over the rounds of the ratio within
each round. GFLOP/s counts 4 D operations for each visible pair of a query and a key. of peak: of the rate measured
here on registers alone; floor: the time at that rate (decode waits for memory instead). tiles: share of pairs of a
query tile and a key tile (64 tokens, or 8x8) with a visible pair; over tiles: time over (time without the mask x tiles).
disturbed: rounds that count although others used more than 6 % of a processor, since no quieter ones could be had.`;
