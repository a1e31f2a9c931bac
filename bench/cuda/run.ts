// One case: all contestants compute it, are checked, and take turns.

import { type Fault, OWN } from '../format';
import { interleave, type Measurement, type Plan, type Timed } from '../measure';
import { type CudaCase, cudaBytes, cudaFlops, setsOf } from './cases';
import { expectedRows, faultOf, largestDifference, largestError, type Results } from './check';
import { DRIVER_CONTESTANTS, type Driver, type DriverContestant } from './driver';
import type { Block } from './inputs';
import type { TorchCuda } from './torch';

export interface Outcome extends Measurement {
  test: CudaCase;
  flops: number;
  bytes: number;
  /** Sets of tensors that were used in turn, and runs in a pass over them. */
  sets: number;
  runs: number;
  /** In the order of `samples`. */
  contestants: string[];
  /** Those whose output was wrong and which were therefore not timed. */
  faults: Fault[];
  /** Those that do not take the case, and why. */
  absent: Fault[];
  /** The largest difference between an element of ours and of each peer. */
  differences: { [peer: string]: number };
  /** Of those that are right, the largest difference from float64 in the sampled rows; and the largest allowed there. */
  errors: { [contestant: string]: number };
  tolerance?: number;
  /** Of the keys, what plans show, where there are plans. */
  shown?: number;
}

/** A pass lasts at least so long, so that what lies between two passes does not count. */
const PASS_MS = 2;
const MOST_RUNS = 512;

const quiet = { start() {}, stop: () => 0 };
export const sentence = (error: unknown): string => (error as Error).message.trim();

/** What the device can do at most, in bytes and in operations per second. */
export interface Rates {
  copyRate: number;
  matrixRate?: number;
}

/** Runs in a pass over the sets: whole rounds of them, and long enough by the floor of the case. */
function runsOf(test: CudaCase, sets: number, { copyRate, matrixRate = 1e15 }: Rates): number {
  const floorMs = 1e3 * Math.max(cudaBytes(test) / copyRate, cudaFlops(test) / matrixRate);
  return sets * Math.ceil(Math.min(MOST_RUNS, Math.max(1, PASS_MS / floorMs)) / sets);
}

/** A contestant on the tensors of the current case. */
export interface Entrant extends Timed {
  name: string;
  /** lse is [batch, heads, queries]. */
  headsFirst: boolean;
  results(set: number): Promise<Results>;
}

/** Throws a sentence when the contestant does not take the problem. */
function driverEntrant(driver: Driver, name: DriverContestant, test: CudaCase, runs: number): Entrant {
  driver.prepare(name);
  return {
    name,
    headsFirst: name !== OWN,
    run: async (times) => driver.run(name, Math.ceil(times / runs)),
    results: async (set) => driver.results(test, set),
  };
}

export interface Setting {
  driver: Driver;
  block: Block;
  rotateBytes: number;
  plan: Plan;
  rates: Rates;
  torch?: TorchCuda;
}

export async function runCase(
  test: CudaCase,
  { driver, block, rotateBytes, plan, rates, torch }: Setting,
): Promise<Outcome> {
  const sets = setsOf(test, rotateBytes);
  const runs = runsOf(test, sets, rates);
  const entrants: Entrant[] = [];
  const absent: Fault[] = [];
  const enter = async (name: string, make: () => Entrant | Promise<Entrant>) => {
    try {
      entrants.push(await make());
    } catch (error) {
      absent.push({ contestant: name, fault: sentence(error) });
    }
  };
  let present = false;
  try {
    driver.problem(test, block.bits, sets, runs);
    present = true;
  } catch (error) {
    for (const contestant of DRIVER_CONTESTANTS) absent.push({ contestant, fault: sentence(error) });
  }
  for (const name of present ? DRIVER_CONTESTANTS : []) {
    await enter(name, () => driverEntrant(driver, name, test, runs));
  }
  for (const name of torch?.contestants ?? []) {
    await enter(name, () => torch!.entrant(name, test, block, sets, runs));
  }

  const right: Entrant[] = [];
  const faults: Fault[] = [];
  const differences: Outcome['differences'] = {};
  const errors: Outcome['errors'] = {};
  const checked = [...new Set([0, sets - 1])];
  const rows = entrants.length > 0 ? checked.map((set) => expectedRows(test, block, set)) : [];
  let own: Uint16Array | undefined;
  for (const entrant of entrants) {
    driver.poison(); // so that nothing that another contestant wrote counts as computed
    await entrant.run(1);
    let fault: string | undefined;
    let error = 0;
    for (const [i, set] of checked.entries()) {
      const results = await entrant.results(set);
      fault ??= faultOf(results, rows[i]!, test, entrant.headsFirst);
      error = Math.max(error, largestError(results, rows[i]!, test));
      if (set !== 0) continue;
      if (entrant.name === OWN) own = results.out;
      else if (own) differences[entrant.name] = largestDifference(own, results.out);
    }
    if (fault === undefined) {
      right.push(entrant);
      errors[entrant.name] = error;
    } else faults.push({ contestant: entrant.name, fault });
  }
  const measurement = await interleave(right, plan, quiet);
  driver.release();
  return {
    test,
    flops: cudaFlops(test),
    bytes: cudaBytes(test),
    sets,
    runs,
    contestants: right.map(({ name }) => name),
    faults,
    absent,
    differences,
    errors,
    tolerance: Math.max(0, ...rows.flat().map(({ tolerance }) => tolerance.out)),
    ...measurement,
  };
}
