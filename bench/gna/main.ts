// The suite of neighborhoods.

import { AttentionError, attention, type Device, type DeviceInfo, devices, neighborhood, Tensor } from 'node-attention';
import { count } from '../cases';
import { floorOf, type Place } from '../floor';
import { makeRow, OWN, type Row, type SuiteResult } from '../format';
import type { Plan } from '../measure';
import { arithmeticRate, peaksOf } from '../peak';
import { type Progress, runSteps, type Suite, type SuiteOptions } from '../session';
import { buildBaselines } from './baselines';
import { bytesOf, describeSetting, gnaFlops } from './cases';
import { GNA_NOTES, type Row as GnaRow, printed, summarizeGna } from './report';
import { jobs, type Results } from './suite';

interface GnaOptions extends SuiteOptions {
  device?: string;
}

// The baselines' threads and the library's both end with their work: nobody's turn needs to wait for another's threads.
const FULL: Plan = { rounds: 6, batchMs: 50, settleMs: 0, warmRuns: 1, patience: 2 };
const QUICK: Plan = { rounds: 3, batchMs: 10, settleMs: 0, warmRuns: 1, patience: 1 };

const ABOUT =
  'Neighborhood attention with the windows of published models against our own dense attention and the bounds of the ' +
  'simulator; against kernels without fusion; blocked against sliding windows; over tokens; its memory. On a GPU in ' +
  'full, on a CPU with one head, and with a part of the queries for dense attention.';

export const gna: Suite<GnaOptions> = {
  name: 'gna',
  about: ABOUT,
  extend(command) {
    command.option(
      '--device <device>',
      'where to measure (default: a GPU if one can be used and takes neighborhoods, else the CPU)',
    );
  },
  caseNames: () => namesOf('cpu'),
  obstacle: () => undefined,
  steps: (options) => chosen(options).map(({ name }) => ({ name, seconds: options.quick ? 1 : 8 })),
  run: bench,
};

const namesOf = (device: Device) => jobs({ device, quick: false, plan: FULL, threads: 1 }).map(({ name }) => name);

function taskOf({ device, quick }: GnaOptions) {
  const { info, refused } = chooseDevice(device);
  return { info, refused, task: { device: info.device, quick, plan: quick ? QUICK : FULL, threads: info.threads! } };
}

const chosen = (options: GnaOptions) => jobs(taskOf(options).task).filter(({ name }) => name.includes(options.filter));

/** Why a device computes no neighborhoods, in its own words; undefined where it does. */
export function refusalOf(device: Device): string | undefined {
  using tensor = Tensor.zeros([1, 4, 1, 16], { dtype: 'bfloat16', device });
  try {
    const { out, lse } = attention(tensor, tensor, tensor, { mask: neighborhood({ window: [2] }) });
    out.dispose();
    lse.dispose();
    return undefined;
  } catch (error) {
    if (error instanceof AttentionError && error.code === 'ERR_OPTION') return error.message;
    throw error;
  }
}

/** The device that is asked for; else a GPU, if it can be used and takes neighborhoods, else the CPU, and why. */
export function chooseDevice(
  wanted: string | undefined,
  all: readonly DeviceInfo[] = devices(),
  refusal: (device: Device) => string | undefined = refusalOf,
): { info: DeviceInfo; refused?: string } {
  if (wanted !== undefined) {
    const found = all.find(({ device, backend }) => device === wanted || backend === wanted);
    const why = found?.usable ? refusal(found.device) : (found?.message ?? 'nobody knows it');
    if (found && why === undefined) return { info: found };
    throw new Error(`--device: '${wanted}' cannot be used (${why}); try npx node-attention doctor`);
  }
  const cpu = all.find(({ device }) => device === 'cpu')!;
  const gpu = all.find(({ device, usable }) => device !== 'cpu' && usable);
  if (!gpu) return { info: cpu };
  const refused = refusal(gpu.device);
  return refused === undefined ? { info: gpu } : { info: cpu, refused };
}

async function bench(options: GnaOptions, progress: Progress): Promise<SuiteResult> {
  const { info, refused, task } = taskOf(options);
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
  const place = onCpu ? { peaks, instructionSet: info.instructionSet!, threads: task.threads } : undefined;
  return {
    suite: 'gna',
    about: ABOUT,
    command: 'npm run bench -- gna',
    device: onCpu ? undefined : `${info.name ?? info.message}, ${info.instructionSet}`,
    peaks,
    rows: summary.rows.map((row) => commonRow(row, place)),
    targets: summary.targets,
    text: `${printed(results, summary)}\n\n${GNA_NOTES}`,
    findings: [
      ...(exponent === undefined ? [] : [{ name: 'time over tokens', text: `to the power of ${exponent.toFixed(3)}` }]),
      ...(memorySpread === undefined
        ? []
        : [{ name: 'memory over windows', text: `most over least: ${memorySpread.toFixed(2)}` }]),
    ],
    notMeasured: refused === undefined ? [] : [{ what: 'a GPU, which there is', why: refused }],
    failure,
  };
}

/** A row in the common form. Of blocked and sliding windows, the sliding ones are ours, and blocks what they compare with. */
export function commonRow(row: GnaRow, place: Place | undefined): Row {
  const {
    section,
    test,
    sets,
    contestants,
    samples,
    faults,
    errors,
    tolerance,
    memory,
    disturbed,
    repeated,
    speedup,
    bound,
  } = row;
  const { dtype, headDim } = test;
  const tokens = count(test.shape);
  const flops = gnaFlops(test);
  const bytes = bytesOf(test);
  const named = (contestant: string) => (contestant === 'sliding' ? OWN : contestant);
  const renamed = (figures: { [contestant: string]: number }) =>
    Object.fromEntries(Object.entries(figures).map(([contestant, figure]) => [named(contestant), figure]));
  return makeRow({
    name: section === 'named' ? test.name : `${section}: ${test.name}`,
    case: {
      mask: section === 'tokens' ? `window ${test.window}` : describeSetting(test),
      dtype,
      tokens,
      headDim,
      threads: place?.threads,
      data: section,
    },
    samples: Object.fromEntries(contestants.map((contestant, i) => [named(contestant), samples[i]!])),
    disturbed,
    repeated,
    sets,
    flops,
    bytes,
    floor:
      place && floorOf({ flops, dtype, exponentials: flops / (4 * headDim), bytes, footprint: sets * bytes }, place),
    errors: renamed(errors),
    tolerance,
    memory: renamed(memory),
    faults: faults.map(({ contestant, fault }) => ({ contestant: named(contestant), fault })),
    simulated: speedup === undefined ? undefined : { bound: bound.sum, reached: speedup },
    figures: speedup === undefined ? undefined : { 'bound, worst tile': bound.worstTile, 'by flops': bound.flops },
  });
}
