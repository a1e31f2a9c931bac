// The command `bias` of npm run bench.

import { closeSync, openSync, writeFileSync } from 'node:fs';
import { Command } from 'commander';
import { devices } from 'node-attention';
import { watchLoad } from '../load';
import { interleave, type Plan } from '../measure';
import { medianRatio, summarize } from '../statistics';
import { type BiasCase, biasCases, denseBytes } from './cases';
import { type Contestant, inputsOf, library, onnxruntime } from './contestants';

/** ONNX Runtime's threads spin for 25 ms after their last task. */
const FULL: Plan = { rounds: 5, batchMs: 50, settleMs: 40 };
const QUICK: Plan = { rounds: 3, batchMs: 20, settleMs: 40 };

interface Options {
  json?: string;
  quick: boolean;
  filter: string;
}

interface Row {
  form: string;
  samples: number[];
  /** Times as long as without a bias, and as with the dense one. */
  overNone: number;
  overDense: number | undefined;
  /** What the arithmetic alone would take, times that without a bias. */
  floor: number | undefined;
  biasBytes: number;
  callBytes: number;
  /** The largest difference from the result with the dense bias, where that is the same bias. */
  error: number | undefined;
}

export const bias = new Command('bias')
  .description(
    'Attention on the CPU with biases of low rank, in closed form and dense, against none and against ONNX Runtime with the ' +
      'dense one: time, memory and error. Contestants take turns in one process.',
  )
  .option('--json <file>', 'also write everything, with all samples, to a file')
  .option('--quick', 'a handful of cases', false)
  .option('--filter <text>', 'only cases whose name contains this', '')
  .addHelpText(
    'after',
    () =>
      `\nCases:\n  ${biasCases(false)
        .map(({ name }) => name)
        .join('\n  ')}`,
  )
  .action((options: Options) => bench(options).catch((error: Error) => bias.error(`error: ${error.message}`)));

async function bench({ json, quick, filter }: Options): Promise<void> {
  const chosen = biasCases(quick).filter(({ name }) => name.includes(filter));
  if (chosen.length === 0) throw new Error(`--filter: no case contains '${filter}'; --help lists them`);
  const file = json === undefined ? undefined : openSync(json, 'w'); // now, not after all the work
  const cpu = devices().find(({ device }) => device === 'cpu')!;
  console.log(`${cpu.name}, ${cpu.instructionSet}, ${cpu.threads} threads`);
  const results = [];
  for (const test of chosen) {
    const { rows, disturbed } = await measure(test, quick ? QUICK : FULL, cpu.threads!);
    console.log(`\n${test.name}${disturbed ? ` (${disturbed} rounds beside work of others)` : ''}\n${table(rows)}`);
    if (!test.forms.includes('dense')) console.log(`a dense bias would take ${bytes(denseBytes(test))}: left out`);
    for (const line of verdicts(test, rows)) console.log(line);
    results.push({ ...test, rows, disturbed });
  }
  if (file === undefined) return;
  writeFileSync(file, `${JSON.stringify({ date: new Date().toISOString(), device: cpu, results }, null, 1)}\n`);
  closeSync(file);
}

async function measure(test: BiasCase, plan: Plan, threads: number): Promise<{ rows: Row[]; disturbed: number }> {
  const inputs = inputsOf(test);
  const contestants: Contestant[] = test.forms.map((form) => library(form, test, inputs));
  if (test.onnxruntime && inputs.dense) contestants.push(await onnxruntime(test, inputs, threads));
  const { samples, disturbed } = await interleave(contestants, plan, watchLoad());
  const at = (name: string) => contestants.findIndex((contestant) => contestant.name === name);
  const [none, dense] = [at('none'), at('dense')];
  const reference = dense < 0 ? undefined : await contestants[dense]!.output();
  const rows: Row[] = [];
  for (const [n, contestant] of contestants.entries()) {
    const { name, biasBytes, callBytes } = contestant;
    const comparable = reference && (name === test.dense || name.startsWith('dense ('));
    rows.push({
      form: name,
      samples: samples[n]!,
      overNone: medianRatio(samples[n]!, samples[none]!),
      overDense: dense < 0 ? undefined : medianRatio(samples[n]!, samples[dense]!),
      floor: name.startsWith('rank') ? 1 + Number(name.slice(5)) / (2 * test.headDim) : undefined,
      biasBytes,
      callBytes,
      error: comparable ? largestDifference(await contestant.output(), reference) : undefined,
    });
  }
  for (const contestant of contestants) await contestant.close();
  return { rows, disturbed };
}

const largestDifference = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, x, n) => Math.max(most, Math.abs(x - b[n]!)), 0);

function bytes(count: number): string {
  if (Number.isNaN(count)) return '';
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  const power = Math.min(3, Math.floor(Math.log2(Math.max(count, 1)) / 10));
  return `${(count / 1024 ** power).toFixed(power && count / 1024 ** power < 10 ? 1 : 0)} ${units[power]}`;
}

function table(rows: Row[]): string {
  const ratio = (value: number | undefined) => (value === undefined ? '' : `${value.toFixed(2)}x`);
  const cells = rows.map((row) => [
    row.form,
    `${summarize(row.samples).median.toPrecision(3)} ms`,
    ratio(row.overNone),
    ratio(row.floor),
    ratio(row.overDense),
    bytes(row.biasBytes),
    bytes(row.callBytes),
    row.error === undefined ? '' : row.error.toExponential(1),
  ]);
  const head = ['bias', 'time', 'over none', 'flops', 'over dense', 'bias bytes', 'call bytes', 'error'];
  const widths = head.map((title, c) => Math.max(title.length, ...cells.map((row) => row[c]!.length)));
  const line = (row: string[]) =>
    row.map((cell, c) => (c ? cell.padStart(widths[c]!) : cell.padEnd(widths[c]!))).join('  ');
  return [head, ...cells].map(line).join('\n');
}

/** What was to be reached, and was or was not. */
function verdicts(test: BiasCase, rows: Row[]): string[] {
  const lines: string[] = [];
  const size = test.tokens.reduce((a, b) => a * b);
  const say = (what: string, value: number, most: number) =>
    lines.push(
      `${value <= most ? 'reached' : 'MISSED '}  ${what}: ${value.toFixed(2)}x, to be at most ${most.toFixed(2)}x`,
    );
  for (const { form, overNone, overDense } of rows) {
    if (form === 'none' || form.startsWith('dense')) continue;
    if (test.headDim === 128 && form === 'alibi') say(`${form} over no bias`, overNone, 1.1);
    if (form === 'rank 16' && test.headDim >= 64)
      say(`${form} over no bias`, overNone, test.headDim === 128 ? 1.12 : 1.2);
    if (overDense === undefined || size < 1024) continue;
    if (form === 'alibi' && size >= 4096) say(`${form} over the dense bias`, overDense, 0.5);
    else if (form !== 'rank 64' && form !== 'rank 256') say(`${form} over the dense bias`, overDense, 1);
  }
  return lines;
}
