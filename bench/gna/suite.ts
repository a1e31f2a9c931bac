// The measurements, each of them a job with a name; report.ts makes tables of what they give.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Device } from 'node-attention';
import { watchLoad } from '../load';
import { interleave, type Measurement, type Plan, type Timed } from '../measure';
import { type BaselineRun, baseline } from './baselines';
import { type DType, type GnaCase, makeCase, namedCases, type Place, sweepCases } from './cases';
import type { MemoryTask } from './memory';
import { dense, disposeTensors, faultOf, makeTensors, sparse } from './tensors';

/** Contestants that took turns on one case. */
export interface Turns extends Measurement {
  section: 'named' | 'sweep' | 'baselines' | 'blocked' | 'tokens';
  test: GnaCase;
  /** In the order of `samples`. */
  contestants: string[];
  /** Queries that the dense contestant computed; its times are in proportion for all. */
  denseQueries?: number;
  /** What was wrong with the output of contestants that were therefore not timed. */
  faults: { contestant: string; fault: string }[];
}

/** The most bytes that a process with one attention takes. */
export interface Memory {
  section: 'memory' | 'blocked';
  test: GnaCase;
  /** Absent where the system does not tell. */
  bytes?: number;
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

/** Neighborhood attention against dense attention, or alone. */
async function timeCase(section: Turns['section'], test: GnaCase, task: Task, alone = false): Promise<Turns> {
  const tensors = makeTensors(test, task.device);
  try {
    const own = sparse(test, tensors);
    await own.run(1);
    const fault = await faultOf(test, tensors);
    const whole = dense(test, tensors);
    const contestants: [string, Timed][] = [];
    if (fault === undefined) contestants.push(['node-attention', own]);
    if (!alone) contestants.push(['dense', whole]);
    return {
      section,
      test,
      contestants: contestants.map(([name]) => name),
      denseQueries: whole.queries,
      faults: fault === undefined ? [] : [{ contestant: 'node-attention', fault }],
      ...(await interleave(
        contestants.map(([, timed]) => timed),
        task.plan,
        watchLoad(),
      )),
    };
  } finally {
    disposeTensors(tensors);
  }
}

/** Neighborhood attention against the ways without fusion. */
async function timeBaselines(test: GnaCase, task: Task): Promise<Turns> {
  const tensors = makeTensors(test, task.device);
  try {
    const contestants: [string, Timed][] = [];
    const faults: Turns['faults'] = [];
    const admit = async (contestant: string, timed: Timed & Partial<BaselineRun>) => {
      await timed.run(1);
      await timed.publish?.();
      const fault = await faultOf(test, tensors);
      if (fault === undefined) contestants.push([contestant, timed]);
      else faults.push({ contestant, fault });
    };
    await admit('node-attention', sparse(test, tensors));
    for (const kind of ['naive', 'unfused'] as const) {
      await admit(kind, await baseline(kind, test, tensors, task.threads));
    }
    const measured = await interleave(
      contestants.map(([, timed]) => timed),
      task.plan,
      watchLoad(),
    );
    return { section: 'baselines', test, contestants: contestants.map(([name]) => name), faults, ...measured };
  } finally {
    disposeTensors(tensors);
  }
}

/** Blocks (stride = window) and sliding windows of the same size, in turns. */
async function timeBlocked(test: GnaCase, task: Task): Promise<Turns> {
  const tensors = makeTensors(test, task.device);
  try {
    const contestants: [string, Timed][] = [];
    const faults: Turns['faults'] = [];
    for (const [contestant, stride] of [
      ['blocked', test.window],
      ['sliding', test.window.map(() => 1)],
    ] as const) {
      const each = { ...test, stride: [...stride] };
      const timed = sparse(each, tensors);
      await timed.run(1);
      const fault = await faultOf(each, tensors);
      if (fault === undefined) contestants.push([contestant, timed]);
      else faults.push({ contestant, fault });
    }
    const measured = await interleave(
      contestants.map(([, timed]) => timed),
      task.plan,
      watchLoad(),
    );
    return { section: 'blocked', test, contestants: contestants.map(([name]) => name), faults, ...measured };
  } finally {
    disposeTensors(tensors);
  }
}

/** In a process of its own, since a process remembers what it once needed. */
async function measureMemory(section: Memory['section'], test: GnaCase, { device }: Task): Promise<Memory> {
  if (device === 'cpu' && !existsSync('/proc/self/clear_refs')) return { section, test };
  const child = fork(join(__dirname, 'memory.ts'));
  let bytes: number | undefined;
  child.on('message', (message: number) => {
    bytes = message;
  });
  child.send({ test, device } satisfies MemoryTask);
  const [code, signal] = await once(child, 'exit');
  if (bytes === undefined) throw new Error(`the measurement of memory ended early (${signal ?? `status ${code}`})`);
  return { section, test, bytes };
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
  const remember = (section: Memory['section'], tests: GnaCase[]): Job[] =>
    tests.map((test) => ({
      name: `${section}: memory of ${test.name}`,
      run: async (results) => {
        results.memory.push(await measureMemory(section, test, task));
      },
    }));
  const blocked = blockedCases(place, quick);
  return [
    ...turns('named', namedCases(place, quick), (test) => timeCase('named', test, task)),
    ...turns('sweep', sweepCases(place, quick), (test) => timeCase('sweep', test, task)),
    ...(place === 'cpu' ? turns('baselines', baselineCases(quick), (test) => timeBaselines(test, task)) : []),
    ...turns('blocked', blocked, (test) => timeBlocked(test, task)),
    ...remember(
      'blocked',
      blocked.flatMap((test) => [{ ...test, stride: test.window }, test]),
    ),
    ...turns('tokens', tokenCases(place, quick), (test) => timeCase('tokens', test, task, true)),
    ...remember('memory', memoryCases(quick)),
  ];
}
