// The suite of neighborhoods.

import { type Device, devices } from 'node-attention';
import { type Floor, makeRow, OWN, type Row, type SuiteResult } from '../format';
import type { Plan } from '../measure';
import { arithmeticRate, peaksOf } from '../peak';
import { type Progress, runSteps, type Suite, type SuiteOptions } from '../session';
import { buildBaselines } from './baselines';
import { describeSetting, gnaFlops } from './cases';
import { GNA_NOTES, type Row as GnaRow, printed, summarizeGna } from './report';
import { jobs, type Results } from './suite';

interface GnaOptions extends SuiteOptions {
  device?: string;
}

// The baselines' threads and the library's both end with their work: nobody's turn needs to wait for another's threads.
const FULL: Plan = { rounds: 5, batchMs: 50, settleMs: 0, warmRuns: 1, patience: 2 };
const QUICK: Plan = { rounds: 3, batchMs: 10, settleMs: 0, warmRuns: 1, patience: 1 };

const ABOUT =
  'Neighborhood attention with the windows of published models against our own dense attention and the bounds of the ' +
  'simulator; against kernels without fusion; blocked against sliding windows; over tokens; its memory. On a GPU in ' +
  'full, on a CPU with one head, and with a part of the queries for dense attention.';

export const gna: Suite<GnaOptions> = {
  name: 'gna',
  about: ABOUT,
  extend(command) {
    command.option('--device <device>', 'where to measure (default: a GPU if one can be used, else the CPU)');
  },
  caseNames: () => namesOf('cpu'),
  obstacle: () => undefined,
  steps: (options) => chosen(options).map(({ name }) => ({ name, seconds: options.quick ? 1 : 8 })),
  run: bench,
};

const namesOf = (device: Device) => jobs({ device, quick: false, plan: FULL, threads: 1 }).map(({ name }) => name);

function taskOf({ device, quick }: GnaOptions) {
  const info = chooseDevice(device);
  return { info, task: { device: info.device, quick, plan: quick ? QUICK : FULL, threads: info.threads! } };
}

const chosen = (options: GnaOptions) => jobs(taskOf(options).task).filter(({ name }) => name.includes(options.filter));

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

async function bench(options: GnaOptions, progress: Progress): Promise<SuiteResult> {
  const { info, task } = taskOf(options);
  const onCpu = info.device === 'cpu';
  const picked = chosen(options);
  const results: Results = { turns: [], memory: [] };
  if (picked.some(({ name }) => name.startsWith('baselines'))) buildBaselines();
  if (onCpu) peaksOf(task.threads, task.quick);
  const failure = await runSteps(
    picked.map(({ name, run }) => ({ name, run: () => run(results) })),
    progress,
  );
  const peaks = onCpu ? peaksOf(task.threads, task.quick) : [];
  const rate = (dtype: string) => arithmeticRate(peaks, info.instructionSet!, dtype, task.threads);
  const summary = summarizeGna(results, onCpu ? 'cpu' : 'cuda', (dtype) => {
    const peak = rate(dtype);
    return peak && peak / 1e9;
  });
  const { exponent, memorySpread } = summary;
  return {
    suite: 'gna',
    about: ABOUT,
    command: 'npm run bench -- gna',
    device: onCpu ? undefined : `${info.name ?? info.message}, ${info.instructionSet}`,
    peaks,
    rows: summary.rows.map((row) => commonRow(row, onCpu ? task.threads : undefined, rate(row.test.dtype))),
    targets: summary.targets,
    text: `${printed(results, summary)}\n\n${GNA_NOTES}`,
    findings: [
      ...(exponent === undefined ? [] : [{ name: 'time over tokens', text: `to the power of ${exponent.toFixed(3)}` }]),
      ...(memorySpread === undefined
        ? []
        : [{ name: 'memory over windows', text: `most over least: ${memorySpread.toFixed(2)}` }]),
    ],
    notMeasured: [],
    failure,
  };
}

/** A row in the common form. Of blocked and sliding windows, the sliding ones are ours, and blocks what they compare with. */
export function commonRow(row: GnaRow, threads: number | undefined, peak: number | undefined): Row {
  const { section, test, contestants, samples, faults, disturbed, repeated, speedup, bound } = row;
  const flops = gnaFlops(test);
  const floor: Floor | undefined = peak === undefined ? undefined : { ms: (1e3 * flops) / peak, bound: 'arithmetic' };
  const named = (contestant: string) => (contestant === 'sliding' ? OWN : contestant);
  return makeRow({
    name: section === 'named' ? test.name : `${section}: ${test.name}`,
    case: {
      mask: section === 'tokens' ? `window ${test.window}` : describeSetting(test),
      dtype: test.dtype,
      tokens: test.shape.reduce((product, extent) => product * extent, 1),
      headDim: test.headDim,
      threads,
    },
    samples: Object.fromEntries(contestants.map((contestant, i) => [named(contestant), samples[i]!])),
    disturbed,
    repeated,
    flops,
    floor,
    faults: faults.map(({ contestant, fault }) => ({ contestant: named(contestant), fault })),
    simulated: speedup === undefined ? undefined : { bound: bound.sum, reached: speedup },
    figures: speedup === undefined ? undefined : { 'bound, worst tile': bound.worstTile, 'by flops': bound.flops },
  });
}
