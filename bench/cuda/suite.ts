// Child process of main.ts: what measures, so that a device that fails or a library that crashes takes no results along.

import { interleave, type Measurement, type Plan, type Timed } from '../measure';
import { allCudaCases, type CudaCase, cudaBytes, cudaFlops, setsOf } from './cases';
import { expectedRows, faultOf, largestDifference, type Results } from './check';
import { DRIVER_CONTESTANTS, Driver, type DriverContestant } from './driver';
import { type Block, makeBlock } from './inputs';
import { type JavaScriptPath, measureJavaScript } from './javascript';
import { TorchCuda } from './torch';

export interface Task {
  quick: boolean;
  /** Names of the cases to run. */
  cases: string[];
  plan: Plan;
  driver: string;
  backend: string;
  cudart: string;
  /** The kernel of the matrix peak. */
  peak: string;
  /** The baseline library and cuDNN; or why there is none. */
  cudnn: { baseline: string; library: string } | string;
  /** The Python to run PyTorch with, if it is a contestant. */
  torch?: string;
  /** Instead of the cases: measures calls from JavaScript, on this device of the addon. */
  javascript?: string;
}

/** What is absent could not be measured; `notes` says why. */
export interface DeviceReport {
  name: string;
  instructionSet: string;
  memoryBytes: number;
  cudnnVersion?: number;
  torchVersion?: string;
  /** Bytes read and written per second by copies on the device, timed by the backend's clock and by CUDA events. */
  copyRate: number;
  copyRateByEvents?: number;
  /** bfloat16 operations per second: of a kernel that does nothing else, and of PyTorch's matrix product. */
  matrixRate?: number;
  torchMatrixRate?: number;
  notes: string[];
}

export interface Fault {
  contestant: string;
  fault: string;
}

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
}

export type Message =
  | { device: DeviceReport }
  | { begins: string }
  | { outcome: Outcome }
  | { javascript: JavaScriptPath }
  | { unusable: string };

/** A pass lasts at least so long, so that what lies between two passes does not count. */
const PASS_MS = 2;
const MOST_RUNS = 512;
const COPY_BYTES = 2 ** 31;

const quiet = { start() {}, stop: () => 0 };
const sentence = (error: unknown) => (error as Error).message.trim();

function report(driver: Driver, task: Task, torch: TorchCuda | undefined): DeviceReport {
  const notes: string[] = [];
  const attempt = <T>(what: string, measure: () => T): T | undefined => {
    try {
      return measure();
    } catch (error) {
      notes.push(`${what}: ${sentence(error)}`);
      return undefined;
    }
  };
  const device = driver.device();
  const runtime = attempt('CUDA runtime', () => driver.openRuntime(task.cudart) ?? true);
  const cudnnVersion = attempt('cuDNN', () => {
    if (typeof task.cudnn === 'string') throw new Error(task.cudnn);
    if (!runtime) throw new Error('needs the CUDA runtime');
    return driver.openCudnn(task.cudnn.baseline, task.cudnn.library);
  });
  if (task.torch === undefined) notes.push('PyTorch: not asked for (--torch)');
  notes.push('CUTLASS: its example times itself alone, on tensors of its own; it cannot take turns and is left out');
  // A sixteenth of the memory, where it is small.
  const bytes = Math.min(COPY_BYTES, 2 ** Math.floor(Math.log2(device.memoryBytes / 16)));
  const copy = driver.copy(bytes, 20);
  const matrixRate = runtime && attempt('matrix peak', () => driver.matrix(task.peak));
  return {
    ...device,
    cudnnVersion,
    torchVersion: torch?.version,
    copyRate: (2 * bytes) / copy.backend,
    copyRateByEvents: Number.isNaN(copy.events) ? undefined : (2 * bytes) / copy.events,
    matrixRate: matrixRate || undefined,
    notes,
  };
}

/** Runs in a pass over the sets: whole rounds of them, and long enough by the floor of the case. */
function runsOf(test: CudaCase, sets: number, { copyRate, matrixRate = 1e15 }: DeviceReport): number {
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

function driverEntrant(driver: Driver, name: DriverContestant, test: CudaCase, runs: number): Entrant {
  return {
    name,
    headsFirst: name === 'cudnn',
    run: async (times) => driver.run(name, Math.ceil(times / runs)),
    results: async (set) => driver.results(test, set),
  };
}

async function runCase(
  test: CudaCase,
  task: Task,
  driver: Driver,
  device: DeviceReport,
  block: Block,
  torch: TorchCuda | undefined,
): Promise<Outcome> {
  const sets = setsOf(test);
  const runs = runsOf(test, sets, device);
  driver.problem(test, block.bits, sets, runs);
  const entrants: Entrant[] = [];
  const absent: Fault[] = [];
  for (const name of DRIVER_CONTESTANTS) {
    try {
      driver.prepare(name);
      entrants.push(driverEntrant(driver, name, test, runs));
    } catch (error) {
      absent.push({ contestant: name, fault: sentence(error) });
    }
  }
  if (torch) {
    try {
      entrants.push(await torch.entrant(test, block, sets, runs));
    } catch (error) {
      absent.push({ contestant: 'pytorch', fault: sentence(error) });
    }
  }

  const right: Entrant[] = [];
  const faults: Fault[] = [];
  const differences: Outcome['differences'] = {};
  const checked = [...new Set([0, sets - 1])];
  const rows = checked.map((set) => expectedRows(test, block, set));
  let own: Uint16Array | undefined;
  for (const entrant of entrants) {
    driver.poison(); // so that nothing that another contestant wrote counts as computed
    await entrant.run(1);
    let fault: string | undefined;
    for (const [i, set] of checked.entries()) {
      const results = await entrant.results(set);
      fault ??= faultOf(results, rows[i]!, test, entrant.headsFirst);
      if (set !== 0) continue;
      if (entrant.name === 'node-attention') own = results.out;
      else if (own) differences[entrant.name] = largestDifference(own, results.out);
    }
    if (fault === undefined) right.push(entrant);
    else faults.push({ contestant: entrant.name, fault });
  }
  const measurement = await interleave(right, task.plan, quiet);
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
    ...measurement,
  };
}

async function main(task: Task): Promise<void> {
  const send = (message: Message) => new Promise((sent) => process.send!(message, sent));
  const driver = new Driver(task.driver);
  try {
    driver.open(task.backend);
  } catch (error) {
    await send({ unusable: sentence(error) });
    return process.disconnect();
  }
  const torch = task.torch === undefined ? undefined : await TorchCuda.start(task.torch);
  try {
    const device = report(driver, task, torch);
    if (torch) device.torchMatrixRate = await torch.matrixRate();
    await send({ device });
    if (task.javascript !== undefined) await send({ javascript: await measureJavaScript(task.javascript, task.quick) });
    const block = makeBlock();
    for (const test of allCudaCases(task.quick)) {
      if (!task.cases.includes(test.name)) continue;
      await send({ begins: test.name });
      await send({ outcome: await runCase(test, task, driver, device, block, torch) });
    }
  } finally {
    await torch?.close();
  }
  process.disconnect();
}

process.once('SIGINT', () => process.exit(1)); // main.ts reports what there is
process.once('message', (task: Task) => {
  main(task).catch((error: Error) => {
    console.error(error);
    process.exit(1);
  });
});
