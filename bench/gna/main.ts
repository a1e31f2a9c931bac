// The command `gna` of npm run bench.

import { closeSync, openSync, writeFileSync } from 'node:fs';
import { Presets, SingleBar } from 'cli-progress';
import { Command } from 'commander';
import { type Device, devices } from 'node-attention';
import { about } from '../about';
import type { Peak } from '../format';
import type { Plan } from '../measure';
import { peaksOf, rateOf } from '../peak';
import { verdictLine } from '../report';
import { buildBaselines } from './baselines';
import { GNA_NOTES, gnaFaults, printed, summarizeGna } from './report';
import { type Job, jobs, type Results } from './suite';

interface Options {
  json?: string;
  quick: boolean;
  filter?: string;
  device?: string;
}

// The baselines' threads and the library's both end with their work: nobody's turn needs to wait for another's threads.
const FULL: Plan = { rounds: 5, batchMs: 50, settleMs: 0, warmRuns: 1, patience: 2 };
const QUICK: Plan = { rounds: 3, batchMs: 10, settleMs: 0, warmRuns: 1, patience: 1 };

export const gna = new Command('gna')
  .description(
    'Neighborhood attention with the windows of published models against our own dense attention and the bounds of the ' +
      'simulator; against kernels without fusion; blocked against sliding windows; over tokens; its memory. On a GPU in ' +
      'full, on a CPU with one head, and with a part of the queries for dense attention. Every output is checked first.',
  )
  .option('--json <file>', 'also write everything, with all samples, to a file')
  .option('--quick', 'a handful of cases, within a minute', false)
  .option('--filter <text>', 'only measurements whose name contains this, such as "FLUX" or "baselines"')
  .option('--device <device>', 'where to measure (default: a GPU if one can be used, else the CPU)')
  .addHelpText('after', () => `\nMeasurements on a CPU:\n  ${namesOf('cpu').join('\n  ')}`)
  .action((options: Options) => bench(options).catch((error: Error) => gna.error(`error: ${error.message}`)));

const namesOf = (device: Device) => jobs({ device, quick: false, plan: FULL, threads: 1 }).map(({ name }) => name);

function chooseDevice(wanted: string | undefined) {
  const all = devices();
  if (wanted === undefined)
    return all.find(({ device, usable }) => device !== 'cpu' && usable) ?? all.find(({ device }) => device === 'cpu')!;
  const found = all.find(({ device, backend }) => device === wanted || backend === wanted);
  if (found?.usable) return found;
  throw new Error(
    `--device: '${wanted}' cannot be used (${found?.message ?? 'nobody knows it'}); try npx node-attention doctor`,
  );
}

async function bench({ json, quick, filter = '', device: wanted }: Options): Promise<void> {
  const info = chooseDevice(wanted);
  const onCpu = info.device === 'cpu';
  const task = { device: info.device, quick, plan: quick ? QUICK : FULL, threads: info.threads! };
  const chosen = jobs(task).filter(({ name }) => name.includes(filter));
  if (chosen.length === 0) throw new Error(`--filter: no measurement contains '${filter}'; --help lists them`);
  const file = json === undefined ? undefined : openSync(json, 'w'); // now, not after all the work
  const machine = { ...about(), device: info };
  const units = onCpu ? 'threads' : 'multiprocessors';
  console.log(
    `${info.name ?? info.message}, ${info.instructionSet}, ${info.threads} ${units}; ${Object.entries(machine.versions).flat().join(' ')}`,
  );

  const results: Results = { turns: [], memory: [] };
  if (chosen.some(({ name }) => name.startsWith('baselines'))) buildBaselines();
  if (onCpu) peaksOf(task.threads, quick);
  const failure = await runAll(chosen, results);
  const peaks = onCpu ? peaksOf(task.threads, quick) : [];

  const summary = summarizeGna(results, onCpu ? 'cpu' : 'cuda', (dtype) =>
    onCpu ? peakFor(peaks, info.instructionSet!, dtype, task.threads) : undefined,
  );
  console.log(
    `\n${printed(results, summary)}\n\n${GNA_NOTES}\n\nTargets\n${summary.targets.map(verdictLine).join('\n')}`,
  );
  if (file !== undefined) {
    writeFileSync(
      file,
      `${JSON.stringify({ ...machine, peaks, ...summary, memory: results.memory, failure }, null, 1)}\n`,
    );
    closeSync(file);
  }
  const wrong = gnaFaults(results);
  for (const line of wrong) console.error(line);
  if (failure !== undefined) console.error(failure);
  if (wrong.length > 0 || failure !== undefined) process.exitCode = 1;
}

/** GFLOP/s. On AMX a product of float32 is six of bfloat16 parts. */
function peakFor(peaks: readonly Peak[], instructionSet: string, dtype: string, threads: number): number {
  if (instructionSet !== 'amx') return rateOf(peaks, `float32 ${instructionSet}`, threads) / 1e9;
  return rateOf(peaks, 'bfloat16 amx', threads) / 1e9 / (dtype === 'float32' ? 6 : 1);
}

/** Returns why it ended early, if it did. ^C ends the measurement after the case at hand; a second one ends all. */
async function runAll(chosen: readonly Job[], results: Results): Promise<string | undefined> {
  let stopped = false;
  process.once('SIGINT', () => {
    stopped = true;
  });
  const bar = process.stderr.isTTY
    ? new SingleBar({ format: '{bar} {value}/{total}  {name}', hideCursor: true }, Presets.shades_classic)
    : undefined;
  bar?.start(chosen.length, 0, { name: '' });
  try {
    for (const [n, { name, run }] of chosen.entries()) {
      if (stopped) return 'error: ended early (SIGINT): later cases are missing';
      if (bar) bar.update(n, { name });
      else process.stderr.write(`${n + 1}/${chosen.length} ${name}\n`);
      await run(results);
    }
    bar?.update(chosen.length, { name: '' });
  } catch (error) {
    return `error: ended early (${(error as Error).message}): later cases are missing`;
  } finally {
    bar?.stop();
  }
  return undefined;
}
