// npx node-attention simulate

import { writeFileSync } from 'node:fs';
import { type Command, InvalidArgumentError } from 'commander';
import { AttentionError } from '../errors';
import { product, type Simulation, simulateEach, wholeBudget } from '../simulate';
import { speedupChart } from './chart';

/** A comma-separated list of whole numbers. */
function list(text: string): number[] {
  const entries = text.split(',');
  const values = entries.map(Number);
  if (entries.every((entry) => entry.trim() !== '') && values.every(Number.isInteger)) return values;
  throw new InvalidArgumentError('give whole numbers, one for each token axis, like 30,48,80.');
}

/** A whole number of at least 1. */
function count(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1) return value;
  throw new InvalidArgumentError('give a whole number of at least 1.');
}

/** 1 or 0 for each axis. */
function flags(text: string): boolean[] {
  const values = list(text);
  if (values.every((value) => value === 0 || value === 1)) return values.map(Boolean);
  throw new InvalidArgumentError('give 1 or 0 for each token axis, like 1,0,0.');
}

interface SimulateOptions {
  shape: number[];
  window: number[];
  stride?: number[];
  dilation?: number[];
  causal?: true | boolean[];
  wrap?: true | boolean[];
  queryTile?: number[];
  keyTile?: number[];
  rows: number;
  svg?: string;
}

interface Candidate extends Simulation {
  stride: number[];
}

/** Refuses lists of other lengths before strides are made of them, which nobody gave. */
function checkLengths({ shape, queryTile, keyTile, window, stride, dilation, causal, wrap }: SimulateOptions): void {
  const oneForAll = { window, stride, dilation, causal, wrap };
  for (const [name, values] of Object.entries({ ...oneForAll, 'query-tile': queryTile, 'key-tile': keyTile })) {
    if (!Array.isArray(values) || values.length === shape.length) continue;
    if (name in oneForAll && values.length === 1) continue;
    const found = `--${name} has ${values.length} values for ${shape.length} token axes`;
    const fix = name in oneForAll ? 'one value or one per axis' : 'one per axis';
    throw new AttentionError('ERR_OPTION', `simulate: ${found}; give ${fix}`);
  }
}

const box = (lengths: readonly number[]) => lengths.join('x');

/**
 * On each axis 1, the powers of two below the window, and the window itself, and where it wraps those of them that divide
 * it; every combination.
 */
function candidateStrides({ shape, window, stride, dilation = [1], wrap = [false] }: SimulateOptions): number[][] {
  const at = <T>(values: T[], axis: number) => (values.length === 1 ? values[0]! : values[axis]!);
  const choices = shape.map((extent, axis) => {
    if (stride) return [at(stride, axis)];
    const keys = at(window, axis);
    if (keys === -1) return [1]; // every query sees the whole axis
    const strides = [...Array.from({ length: 31 }, (_, n) => 2 ** n).filter((power) => power < keys), keys];
    if (wrap !== true && !at(wrap, axis)) return strides;
    const group = Math.floor(extent / at(dilation, axis));
    return strides.filter((one) => !(group % one > 0)); // keeps what is no stride, to be refused as such
  });
  return choices.reduce<number[][]>((all, axis) => all.flatMap((head) => axis.map((value) => [...head, value])), [[]]);
}

/** Each stride with each pair of tiles, the best first, and how many more there are, which would take too long to count. */
function candidates(options: SimulateOptions): { sorted: Candidate[]; omitted: number } {
  checkLengths(options);
  const { shape, window, dilation, causal, wrap, queryTile, keyTile } = options;
  const budget = wholeBudget();
  const sorted: Candidate[] = [];
  const refusals: AttentionError[] = [];
  for (const stride of candidateStrides(options)) {
    const setting = { shape, window, stride, dilation, causal, wrap, queryTile, keyTile };
    const { counted, refused } = simulateEach(setting, budget);
    for (const one of counted) sorted.push({ stride, ...one });
    refusals.push(...refused);
  }
  if (sorted.length === 0) throw refusals[0];
  sorted.sort((a, b) => b.speedup.sum - a.speedup.sum || product(a.stride) - product(b.stride));
  return { sorted, omitted: refusals.length };
}

/** A larger stride makes attention coarser: the smallest that comes within 5 % of the best. */
function recommended(sorted: readonly Candidate[]): Candidate {
  const good = sorted.filter(({ speedup }) => speedup.sum >= 0.95 * sorted[0]!.speedup.sum);
  return good.reduce((a, b) => (product(b.stride) < product(a.stride) ? b : a));
}

function table(shown: readonly Candidate[]): string {
  const cells = shown.map(({ stride, queryTile, keyTile, tiles, speedup }) => [
    box(stride),
    `${box(queryTile)} / ${box(keyTile)}`,
    `${((100 * tiles.visited) / tiles.total).toFixed(1)} %`,
    `${((100 * tiles.full) / tiles.visited).toFixed(0)} %`,
    speedup.flops.toFixed(2),
    speedup.sum.toFixed(2),
    speedup.worstTile.toFixed(2),
  ]);
  const heading = [
    'stride',
    'query / key tile',
    'visited',
    'of these full',
    'by flops',
    'by the sum',
    'by the worst tile',
  ];
  const rows = [heading, ...cells];
  const widths = heading.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function chart(sorted: readonly Candidate[], choice: Candidate, { shape, window, dilation }: SimulateOptions): string {
  // The best tiles of each stride; the list is sorted.
  const best = new Map<string, Candidate>();
  for (const one of sorted) if (!best.has(box(one.stride))) best.set(box(one.stride), one);
  const point = ({ stride, speedup }: Candidate) => ({ stride, ...speedup });
  const spread = dilation ? `, dilation ${box(dilation)}` : '';
  return speedupChart([...best.values()].map(point), point(choice), {
    title: `Neighborhood of ${box(window)} in ${box(shape)} tokens${spread}`,
    subtitle:
      'Points: each stride with its best tiles, by their sum. Lines: the best that so many sharing queries or fewer reach',
  });
}

function simulate(options: SimulateOptions): void {
  const { rows, svg } = options;
  let all: ReturnType<typeof candidates>;
  try {
    all = candidates(options);
  } catch (error) {
    if ((error as { code?: string }).code === undefined) throw error;
    console.error((error as Error).message);
    process.exitCode = 1;
    return;
  }
  const { sorted, omitted } = all;
  const shown = sorted.slice(0, rows);
  const sliding = sorted.find((one) => product(one.stride) === 1);
  if (sliding && !shown.includes(sliding)) shown.push(sliding);
  console.log(`Visited tiles, and how much faster than dense attention it can be:\n${table(shown)}`);
  if (omitted > 0) {
    console.log(
      `\nLeft out: ${omitted} of ${sorted.length + omitted} settings, with too many tiles to count beside those of the ` +
        'others; give --stride, --query-tile or --key-tile.',
    );
  }
  const choice = recommended(sorted);
  console.log(
    `\nRecommended: stride ${box(choice.stride)} with tiles of ${box(choice.queryTile)} queries and ${box(choice.keyTile)} keys: ` +
      `at most ${choice.speedup.sum.toFixed(2)} times as fast as dense attention.`,
  );
  if (svg === undefined) return;
  try {
    writeFileSync(svg, chart(sorted, choice, options));
  } catch (error) {
    console.error(
      `error: option '--svg <file>' argument '${svg}' cannot be written (${(error as { code?: string }).code}). Give a file to write.`,
    );
    process.exitCode = 1;
  }
}

export function addSimulate(program: Command): void {
  program
    .command('simulate')
    .description('count the tiles that a neighborhood visits for several strides and tiles, and recommend one')
    .requiredOption('--shape <lengths>', 'extent of each token axis, like 30,48,80', list)
    .requiredOption(
      '--window <lengths>',
      'keys in a window along each axis, or one value for all; -1 is the extent',
      list,
    )
    .option('--stride <lengths>', 'only this stride', list)
    .option('--dilation <lengths>', 'distance between neighbouring keys of a window', list)
    .option('--causal [axes]', 'causal along every axis, or along those with a 1 in a list like 1,0,0', flags)
    .option('--wrap [axes]', 'closed to a ring along every axis, or along those with a 1 in a list like 0,1', flags)
    .option('--query-tile <lengths>', 'queries of a tile along each axis (default: several)', list)
    .option('--key-tile <lengths>', 'keys of a tile along each axis (default: several)', list)
    .option('--rows <n>', 'lines to print', count, 12)
    .option('--svg <file>', 'also draw speed-up over stride')
    .action(simulate);
}
