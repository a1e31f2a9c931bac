// Contestants take turns: in each round every one of them runs a batch, in a balanced order, so that whatever changes
// about the machine from minute to minute changes for all of them, and none has always the same one before it.

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
  /** The results of the latest runs, [sets x layers, tokens, heads, headDim] in the order of the inputs. */
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
  /** Where all rounds together would take longer there are fewer of them, but two at least. */
  mostMs?: number;
}

export interface Measurement {
  /** For each contestant, the median milliseconds of a run in each round. */
  samples: number[][];
  /** Rounds that were kept although others used the machine, for want of quiet ones. */
  disturbed: number;
  /** Rounds that were thrown away. */
  repeated: number;
}

const LEAST_ROUNDS = 2;

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

/**
 * Runs that take so many sets of inputs in turn, so that none finds its own in the caches near a processor. For as many
 * runs as there are sets, each set is used.
 */
export function inTurn(sets: number, step: (set: number) => Promise<void>): Timed['run'] {
  let next = 0;
  return (times) => timeRuns(times, () => step(next++ % sets));
}

/**
 * The order of so many contestants in a round: a row of Williams' Latin square (1949). In as many rounds as there are
 * contestants (twice as many, if their number is odd) each stands in every place equally often, and equally often right
 * behind every other.
 */
export function orderOf(contestants: number, round: number): number[] {
  const odd = contestants % 2 === 1;
  const shift = odd ? Math.floor(round / 2) : round;
  const order = Array.from({ length: contestants }, (_, place) => {
    const zigzag = place % 2 === 1 ? (place + 1) / 2 : contestants - place / 2; // 0, 1, -1, 2, -2 ...
    return (zigzag + shift) % contestants;
  });
  return odd && round % 2 === 1 ? order.reverse() : order;
}

/** How many rounds a plan has of contestants that together take so long. */
export const roundsOf = ({ rounds, mostMs = Number.POSITIVE_INFINITY }: Plan, roundMs: number): number =>
  Math.min(rounds, Math.max(LEAST_ROUNDS, Math.floor(mostMs / roundMs)));

/**
 * Has contestants run in rounds, as many as wanted or, since load is judged over stretches of rounds that are long enough
 * to tell it, some more. A stretch in which others used the machine does not count, and is made up for as long as patience
 * lasts.
 */
export async function interleave(contestants: readonly Timed[], plan: Plan, load: LoadWatch): Promise<Measurement> {
  const { batchMs, settleMs, warmRuns = 3, patience = 3 } = plan;
  const runs: number[] = [];
  let roundMs = 0;
  for (const contestant of contestants) {
    const warm = median(await contestant.run(warmRuns));
    const count = Math.ceil(Math.min(1000, Math.max(1, batchMs / warm)));
    runs.push(count);
    roundMs += settleMs + warm * (count > 1 ? count + 1 : 1);
  }
  const rounds = roundsOf(plan, roundMs);
  const all: Round[] = [];
  const most = patience * rounds;
  while (all.length < most && all.filter(isQuiet).length < rounds) {
    const stretch: number[][] = [];
    const wanted = rounds - all.filter(isQuiet).length;
    const start = performance.now();
    load.start();
    do {
      const times = new Array<number>(contestants.length);
      for (const i of orderOf(contestants.length, all.length + stretch.length)) {
        await sleep(settleMs);
        if (runs[i]! > 1) await contestants[i]!.run(1); // the caches hold what the one before it used
        times[i] = median(await contestants[i]!.run(runs[i]!));
      }
      stretch.push(times);
    } while (all.length + stretch.length < most && goesOn(performance.now() - start, stretch.length, wanted, load));
    const used = load.stop();
    all.push(...stretch.map((times) => ({ times, load: used })));
  }
  const kept = quietest(all, rounds);
  return {
    samples: contestants.map((_, i) => kept.map(({ times }) => times[i]!)),
    disturbed: kept.filter((round) => !isQuiet(round)).length,
    repeated: all.length - kept.length,
  };
}

/** Whether a stretch is too short to tell the load, or what would be left of the wanted rounds is. */
function goesOn(elapsed: number, done: number, wanted: number, { tellsAfterMs = 0 }: LoadWatch): boolean {
  const left = wanted - done;
  return elapsed < tellsAfterMs || (left > 0 && (left * elapsed) / done < tellsAfterMs);
}

export interface Round {
  times: number[];
  /** Of the stretch that it is part of. */
  load: number;
}

const isQuiet = ({ load }: Round) => load <= MOST_LOAD;

/**
 * All quiet rounds, or, of fewer than wanted, as many as wanted with the least load; in the order they ran. Never chosen
 * by their times.
 */
export function quietest(rounds: readonly Round[], wanted: number): Round[] {
  const quiet = rounds.filter(isQuiet);
  if (quiet.length >= wanted) return quiet;
  const chosen = new Set([...rounds].sort((a, b) => a.load - b.load).slice(0, wanted));
  return rounds.filter((round) => chosen.has(round));
}
