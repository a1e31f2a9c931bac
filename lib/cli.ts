#!/usr/bin/env node
// npx node-attention <command>

import { Command, InvalidArgumentError } from 'commander';

/** A comma-separated list of whole numbers. */
function list(text: string): number[] {
  const values = text.split(',').map(Number);
  if (values.every(Number.isInteger)) return values;
  throw new InvalidArgumentError('give whole numbers, one for each token axis, like 30,48,80.');
}

interface SimulateOptions {
  shape: number[];
  window: number[];
  stride?: number[];
  dilation?: number[];
  queryTile?: number[];
  keyTile?: number[];
  causal?: boolean;
  rows: number;
}

/** Prints the bounds of candidate strides, best first, and recommends one. */
function simulate({ rows, stride, ...options }: SimulateOptions): void {
  const { simulateNeighborhood } = require('./simulate') as typeof import('./simulate');
  const at = (values: number[], axis: number) => (values.length === 1 ? values[0]! : values[axis]!);
  // Of each axis: 1, powers of two below the window, and the window itself.
  const candidates = options.shape.map((extent, axis) => {
    if (stride) return [at(stride, axis)];
    const window = at(options.window, axis);
    const most = window === -1 ? Math.floor(extent / at(options.dilation ?? [1], axis)) : window;
    const powers = Array.from({ length: 31 }, (_, n) => 2 ** n).filter((power) => power < most);
    return window === -1 ? [1] : [...powers, most];
  });
  const strides = candidates.reduce<number[][]>(
    (all, axis) => all.flatMap((head) => axis.map((value) => [...head, value])),
    [[]],
  );
  const product = (values: number[]) => values.reduce((a, b) => a * b, 1);
  let results: { stride: number[]; simulation: ReturnType<typeof simulateNeighborhood> }[];
  try {
    results = strides.map((one) => ({ stride: one, simulation: simulateNeighborhood({ ...options, stride: one }) }));
  } catch (error) {
    if ((error as { code?: string }).code === undefined) throw error;
    console.error((error as Error).message);
    process.exitCode = 1;
    return;
  }
  results.sort((a, b) => b.simulation.speedup.sum - a.simulation.speedup.sum || product(a.stride) - product(b.stride));
  const shown = results.slice(0, rows);
  const sliding = results.find((one) => product(one.stride) === 1);
  if (sliding && !shown.includes(sliding)) shown.push(sliding);
  const cells = shown.map(({ stride: own, simulation: { queryTile, keyTile, tiles, speedup } }) => [
    own.join('x'),
    `${queryTile.join('x')} / ${keyTile.join('x')}`,
    `${((100 * tiles.visited) / tiles.total).toFixed(1)} %`,
    `${((100 * tiles.full) / tiles.visited).toFixed(0)} %`,
    speedup.flops.toFixed(2),
    speedup.sum.toFixed(2),
    speedup.worstTile.toFixed(2),
  ]);
  const table = [
    ['stride', 'query / key tile', 'visited', 'of these full', 'by flops', 'by the sum', 'by the worst tile'],
    ...cells,
  ];
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)));
  console.log('Visited tiles, and how much faster than dense attention it can be:');
  for (const row of table)
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    );
  // A larger stride makes attention coarser: the smallest that comes within 5 % of the best.
  const best = results[0]!.simulation.speedup.sum;
  const good = results.filter(({ simulation }) => simulation.speedup.sum >= 0.95 * best);
  const choice = good.reduce((a, b) => (product(b.stride) < product(a.stride) ? b : a));
  const { queryTile, keyTile, speedup } = choice.simulation;
  console.log(
    `\nRecommended: stride ${choice.stride.join('x')} with tiles of ${queryTile.join('x')} queries and ${keyTile.join('x')} keys: ` +
      `at most ${speedup.sum.toFixed(2)} times as fast as dense attention.`,
  );
}

const program = new Command('node-attention').description('Attention kernels for Node.js');
program
  .command('doctor')
  .description('say which devices can be used, why others cannot, and how addon and backends were found')
  .option('--verify', 'compare the prebuilt binaries with prebuilds/manifest.json')
  .action(({ verify }: { verify?: boolean }) => {
    const { doctor } = require('./doctor') as typeof import('./doctor');
    if (!doctor({ verify: verify ?? false })) process.exitCode = 1;
  });
program
  .command('simulate')
  .description('count the tiles that a neighborhood visits for several strides, and recommend one')
  .requiredOption('--shape <lengths>', 'extent of each token axis, like 30,48,80', list)
  .requiredOption(
    '--window <lengths>',
    'keys in a window along each axis, or one value for all; -1 is the extent',
    list,
  )
  .option('--stride <lengths>', 'only this stride', list)
  .option('--dilation <lengths>', 'distance between neighbouring keys of a window', list)
  .option('--causal', 'causal along every axis')
  .option('--query-tile <lengths>', 'queries of a tile along each axis (default: chosen)', list)
  .option('--key-tile <lengths>', 'keys of a tile along each axis (default: chosen)', list)
  .option('--rows <n>', 'lines to print', (text) => Math.max(1, list(text)[0]!), 12)
  .action(simulate);
program.parse();
