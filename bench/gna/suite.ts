// The measurements, each of them a job with a name; report.ts makes tables of what they give.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { Device } from 'node-attention';
import { OWN } from '../format';
import { watchLoad } from '../load';
import { interleave, type Measurement, type Plan, type Timed } from '../measure';
import { tellsPeak } from '../resident';
import { type BaselineRun, baseline } from './baselines';
import { type DType, type GnaCase, makeCase, namedCases, type Place, sweepCases } from './cases';
import type { MemoryAnswer, MemoryTask } from './memory';
import { dense, disposeTensors, type Judged, judge, makeTensors, sparse } from './tensors';

/** Contestants that took turns on one case. */
export interface Turns extends Measurement {
  section: 'named' | 'sweep' | 'baselines' | 'blocked' | 'tokens';
  test: GnaCase;
  /** In the order of `samples`. */
  contestants: string[];
  /** Sets of inputs that take turns. */
  sets: number;
  /** Queries that the dense contestant computed; its times are in proportion for all. */
  denseQueries?: number;
  /** What was wrong with the output of contestants that were therefore not timed. */
  faults: { contestant: string; fault: string }[];
  /** Of each, the largest difference from float64 in the sampled rows; and the largest allowed, of the first. */
  errors: { [contestant: string]: number };
  tolerance: number;
  /** Bytes that a run takes beyond its inputs, where that was measured or is known. */
  memory: { [contestant: string]: number };
}

/** The most bytes that a process with one attention takes. */
export interface Memory {
  test: GnaCase;
  /** With inputs, and beyond them; absent where the system does not tell. */
  bytes?: number;
  beyond?: number;
}

export interface Results {
  turns: Turns[];
  memory: Memory[];
}

export interface Job {
  name: string;
  run(results: Results): Promise<void>;
}

export interface Task {
  device: Device;
  quick: boolean;
  plan: Plan;
  /** Threads of the baselines: those of the library. */
  threads: number;
}

const placeOf = (device: Device): Place => (device === 'cpu' ? 'cpu' : 'cuda');

/** Who takes part in a case, once the output was looked at. */
class Field {
  readonly #admitted: [string, Timed][] = [];
  readonly #rest: Pick<Turns, 'faults' | 'errors' | 'tolerance'> = { faults: [], errors: {}, tolerance: 0 };

  /** The first one's tolerance counts. */
  admit(contestant: string, timed: Timed, { fault, error, tolerance }: Judged): void {
    this.#rest.tolerance ||= tolerance;
    if (fault !== undefined) {
      this.#rest.faults.push({ contestant, fault });
      return;
    }
    this.#admitted.push([contestant, timed]);
    this.#rest.errors[contestant] = error;
  }

  async measure(plan: Plan): Promise<Omit<Turns, 'section' | 'test' | 'sets' | 'memory'>> {
    const contestants = this.#admitted.map(([name]) => name);
    const timed = this.#admitted.map(([, each]) => each);
    return { contestants, ...this.#rest, ...(await interleave(timed, plan, watchLoad())) };
  }
}

/** Neighborhood attention against dense attention, or alone. */
async function timeCase(section: Turns['section'], test: GnaCase, task: Task, alone = false): Promise<Turns> {
  const tensors = makeTensors(test, task.device);
  const whole = alone ? undefined : dense(test, tensors);
  try {
    const field = new Field();
    const own = sparse(test, tensors);
    await own.run(tensors.sets);
    field.admit(OWN, own, await judge(test, tensors));
    if (whole) {
      await whole.run(tensors.sets);
      field.admit('dense', whole, await whole.judge());
    }
    const measured = await field.measure(task.plan);
    const { beyond } = section === 'named' ? await measureMemory(test, task) : { beyond: undefined };
    return {
      section,
      test,
      sets: tensors.sets,
      denseQueries: whole?.queries,
      ...measured,
      memory: beyond === undefined ? {} : { [OWN]: beyond },
    };
  } finally {
    whole?.dispose();
    disposeTensors(tensors);
  }
}

/** Neighborhood attention against the ways without fusion. */
async function timeBaselines(test: GnaCase, task: Task): Promise<Turns> {
  const tensors = makeTensors(test, task.device);
  try {
    const field = new Field();
    const memory: Turns['memory'] = {};
    const admit = async (contestant: string, timed: Timed & Partial<BaselineRun>) => {
      await timed.run(tensors.sets);
      await timed.publish?.();
      field.admit(contestant, timed, await judge(test, tensors));
      if (timed.bytes !== undefined) memory[contestant] = timed.bytes;
    };
    await admit(OWN, sparse(test, tensors));
    for (const kind of ['naive', 'unfused'] as const) {
      await admit(kind, await baseline(kind, test, tensors, task.threads));
    }
    return { section: 'baselines', test, sets: tensors.sets, ...(await field.measure(task.plan)), memory };
  } finally {
    disposeTensors(tensors);
  }
}

/** Blocks (stride = window) and sliding windows of the same size, in turns. */
async function timeBlocked(test: GnaCase, task: Task): Promise<Turns> {
  const tensors = makeTensors(test, task.device);
  try {
    const field = new Field();
    const memory: Turns['memory'] = {};
    for (const [contestant, stride] of [
      ['blocked', test.window],
      ['sliding', test.window.map(() => 1)],
    ] as const) {
      const each = { ...test, stride: [...stride] };
      const timed = sparse(each, tensors);
      await timed.run(tensors.sets);
      field.admit(contestant, timed, await judge(each, tensors));
      const { beyond } = await measureMemory(each, task);
      if (beyond !== undefined) memory[contestant] = beyond;
    }
    return { section: 'blocked', test, sets: tensors.sets, ...(await field.measure(task.plan)), memory };
  } finally {
    disposeTensors(tensors);
  }
}

/** In a process of its own, since a process remembers what it once needed. */
async function measureMemory(test: GnaCase, { device }: Task): Promise<Memory> {
  if (device === 'cpu' && !tellsPeak()) return { test };
  const child = fork(join(__dirname, 'memory.ts'));
  let answer: MemoryAnswer | undefined;
  child.on('message', (message: MemoryAnswer) => {
    answer = message;
  });
  child.send({ test, device } satisfies MemoryTask);
  const [code, signal] = await once(child, 'exit');
  if (answer === undefined) throw new Error(`the measurement of memory ended early (${signal ?? `status ${code}`})`);
  return { test, ...answer };
}

function baselineCases(quick: boolean): GnaCase[] {
  const dtypes: DType[] = quick ? ['float32'] : ['float32', 'bfloat16'];
  const settings: [string, number[], number[][]][] = [
    ['1-D', [16384], quick ? [[63]] : [[31], [127], [511]]],
    [
      '2-D',
      [128, 128],
      quick
        ? [[7, 7]]
        : [
            [7, 7],
            [13, 13],
            [25, 25],
          ],
    ],
  ];
  const rest = { batch: 1, heads: 2, headDim: 64 };
  return dtypes.flatMap((dtype) =>
    settings.flatMap(([label, shape, windows]) =>
      windows.map((window) => makeCase(label, { shape, window }, { dtype, ...rest })),
    ),
  );
}

function blockedCases(place: Place, quick: boolean): GnaCase[] {
  const rest = { dtype: 'bfloat16', batch: place === 'cpu' ? 1 : 64, heads: 4, headDim: 32 } as const;
  const settings = [
    { shape: [56, 56], window: [7, 7] },
    { shape: [112, 112], window: [14, 14] },
    { shape: [128, 128], window: [32, 32] },
  ];
  return settings.slice(0, quick ? 1 : 3).map((setting) => makeCase('windows', setting, rest));
}

function tokenCases(place: Place, quick: boolean): GnaCase[] {
  const most = place === 'cpu' ? 17 : 20;
  const powers = quick ? [12, 13, 14] : Array.from({ length: most - 11 }, (_, n) => n + 12);
  const rest = { dtype: 'bfloat16', batch: 1, heads: place === 'cpu' ? 1 : 16, headDim: 64 } as const;
  return powers.map((power) => makeCase('tokens', { shape: [2 ** power], window: [256] }, rest));
}

function memoryCases(quick: boolean): GnaCase[] {
  const windows = quick ? [64, 16384] : [16, 64, 256, 1024, 4096, 16384];
  const rest = { dtype: 'bfloat16', batch: 1, heads: 1, headDim: 64 } as const;
  return windows.map((window) => makeCase('memory', { shape: [65536], window: [window] }, rest));
}

/** All of them, in the order of the report. The baselines run on the CPU only. */
export function jobs(task: Task): Job[] {
  const { device, quick } = task;
  const place = placeOf(device);
  const turns = (section: string, tests: GnaCase[], measure: (test: GnaCase) => Promise<Turns>): Job[] =>
    tests.map((test) => ({
      name: section === 'named' ? test.name : `${section}: ${test.name}`,
      run: async (results) => {
        results.turns.push(await measure(test));
      },
    }));
  const memory = memoryCases(quick).map(
    (test): Job => ({
      name: `memory: ${test.name}`,
      run: async (results) => {
        results.memory.push(await measureMemory(test, task));
      },
    }),
  );
  return [
    ...turns('named', namedCases(place, quick), (test) => timeCase('named', test, task)),
    ...turns('sweep', sweepCases(place, quick), (test) => timeCase('sweep', test, task)),
    ...(place === 'cpu' ? turns('baselines', baselineCases(quick), (test) => timeBaselines(test, task)) : []),
    ...turns('blocked', blockedCases(place, quick), (test) => timeBlocked(test, task)),
    ...turns('tokens', tokenCases(place, quick), (test) => timeCase('tokens', test, task, true)),
    ...memory,
  ];
}
