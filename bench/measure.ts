// Contestants take turns: in each round every one of them runs a batch, in a rotating order, so that whatever changes
// about the machine from minute to minute changes for all of them.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Case } from './cases';
import type { LoadWatch } from './load';
import { median } from './statistics';

/** What takes turns. */
export interface Timed {
  /** Runs so many times or more, one after the other; the milliseconds of each run, or of a run in each part of them. */
  run(times: number): Promise<number[]>;
}

/** Something that computes attention on the CPU; its times are those from call to result. */
export interface Contestant extends Timed {
  name: string;
  /** What it computes. */
  test: Case;
  /** The result of the latest run, [tokens, heads, headDim] in the order of the inputs. */
  output(): Promise<ArrayLike<number>>;
  close(): Promise<void>;
}

export interface Plan {
  rounds: number;
  /** How long a batch lasts at least. */
  batchMs: number;
  /** How long each contestant waits before its turn. */
  settleMs: number;
  /** Runs of each contestant that tell how long one takes; 3 unless given. */
  warmRuns?: number;
  /** Rounds are repeated at most until this many times the wanted number have run; 3 unless given. */
  patience?: number;
}

export interface Measurement {
  /** For each contestant, the median milliseconds of a run in each round. */
  samples: number[][];
  /** Rounds that were kept although others used the machine, for want of quiet ones. */
  disturbed: number;
  /** Rounds that were thrown away. */
  repeated: number;
}

/** Others may use this much of one processor in a round. */
const MOST_LOAD = 0.06;

/** Runs `times` runs in this process. */
export async function timeRuns(times: number, run: () => Promise<void>): Promise<number[]> {
  const elapsed: number[] = [];
  for (let i = 0; i < times; i++) {
    const start = performance.now();
    await run();
    elapsed.push(performance.now() - start);
  }
  return elapsed;
}

export async function interleave(
  contestants: readonly Timed[],
  { rounds, batchMs, settleMs, warmRuns = 3, patience = 3 }: Plan,
  load: LoadWatch,
): Promise<Measurement> {
  const runs: number[] = [];
  for (const contestant of contestants) {
    const warm = median(await contestant.run(warmRuns));
    runs.push(Math.ceil(Math.min(1000, Math.max(1, batchMs / warm))));
  }
  const all: Round[] = [];
  while (all.length < patience * rounds && all.filter(isQuiet).length < rounds) {
    const times = new Array<number>(contestants.length);
    load.start();
    for (let turn = 0; turn < contestants.length; turn++) {
      const i = (turn + all.length) % contestants.length;
      await sleep(settleMs);
      if (runs[i]! > 1) await contestants[i]!.run(1); // the caches hold what the one before it used
      times[i] = median(await contestants[i]!.run(runs[i]!));
    }
    all.push({ times, load: load.stop() });
  }
  const kept = quietest(all, rounds);
  return {
    samples: contestants.map((_, i) => kept.map(({ times }) => times[i]!)),
    disturbed: kept.filter((round) => !isQuiet(round)).length,
    repeated: all.length - kept.length,
  };
}

export interface Round {
  times: number[];
  load: number;
}

const isQuiet = ({ load }: Round) => load <= MOST_LOAD;

/** As many rounds as wanted, the ones with the least load, in the order they ran. Never chosen by their times. */
export function quietest(rounds: readonly Round[], wanted: number): Round[] {
  const chosen = new Set([...rounds].sort((a, b) => a.load - b.load).slice(0, wanted));
  return rounds.filter((round) => chosen.has(round));
}
