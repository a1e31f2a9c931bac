// Child process of main.ts: what measures, so that a device that fails or a library that crashes takes no results along.

import type { Device } from 'node-attention';
import type { Plan } from '../measure';
import type { Built } from './build';
import { allCudaCases, type CudaCase, ROTATE_BYTES } from './cases';
import { BASELINES, Driver } from './driver';
import { makeBlock } from './inputs';
import { type JavaScriptPath, measureJavaScript } from './javascript';
import { measurePlans, withoutAddon } from './plans';
import { type Outcome, runCase, sentence } from './run';
import { TorchCuda } from './torch';

export interface Task extends Built {
  quick: boolean;
  /** Names of the cases to run, in this order. */
  cases: string[];
  plan: Plan;
  backend: string;
  cudart: string;
  cudnn: string;
  /** The Python to run PyTorch with, if it is a contestant. */
  torch?: string;
  /** The device of the addon that plans are measured on; unless given they are not. */
  addon?: Device;
  /** After the cases: measures calls from JavaScript, on this device of the addon. */
  javascript?: string;
}

/** What is absent could not be measured; `notes` says why. */
export interface DeviceReport {
  name: string;
  instructionSet: string;
  memoryBytes: number;
  /** Of each peer that is present. */
  versions: { [peer: string]: string };
  /** Bytes read and written per second by copies on the device, timed by the backend's clock and by CUDA events. */
  copyRate: number;
  copyRateByEvents?: number;
  /** bfloat16 operations per second: of a kernel that does nothing else, and of PyTorch's matrix product. */
  matrixRate?: number;
  torchMatrixRate?: number;
  notes: string[];
}

export type Message =
  | { device: DeviceReport }
  | { begins: string }
  | { outcome: Outcome }
  | { javascript: JavaScriptPath }
  | { unusable: string }
  /** What it ends with. */
  | { fails: string };

const COPY_BYTES = 2 ** 31;
const ALIVE_BYTES = 2 ** 12;
const NAMES = { cudnn: 'cuDNN', cutlass: "CUTLASS's example" };

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
  const versions: DeviceReport['versions'] = {};
  for (const name of BASELINES) {
    attempt(NAMES[name], () => {
      const built = task.baselines[name];
      if ('missing' in built) throw new Error(built.missing);
      if (!runtime) throw new Error('needs the CUDA runtime');
      versions[name] = String(driver.openBaseline(name, built.file, name === 'cudnn' ? task.cudnn : undefined));
    });
  }
  if (!torch) notes.push('PyTorch and flash_attn: not asked for (--torch)');
  else {
    Object.assign(versions, torch.versions);
    if (!torch.contestants.includes('flash-attn')) notes.push(`flash_attn: ${torch.without}`);
  }
  // A sixteenth of the memory, where it is small.
  const bytes = Math.min(COPY_BYTES, 2 ** Math.floor(Math.log2(device.memoryBytes / 16)));
  const copy = driver.copy(bytes, 20);
  const matrixRate = runtime && attempt('matrix peak', () => driver.matrix(task.peak));
  return {
    ...device,
    versions,
    copyRate: (2 * bytes) / copy.backend,
    copyRateByEvents: Number.isNaN(copy.events) ? undefined : (2 * bytes) / copy.events,
    matrixRate: matrixRate || undefined,
    notes,
  };
}

const send = (message: Message) => new Promise((sent) => process.send!(message, sent));

const runPlans = async (test: CudaCase, { addon, plan }: Task) =>
  addon === undefined ? withoutAddon(test) : measurePlans(test, addon, plan);

async function main(task: Task): Promise<void> {
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
    const setting = { driver, block: makeBlock(), rotateBytes: ROTATE_BYTES, plan: task.plan, rates: device };
    const cases = new Map(allCudaCases(task.quick).map((test) => [test.name, test]));
    for (const name of task.cases) {
      await send({ begins: name });
      const test = cases.get(name)!;
      const outcome = await (test.selector === undefined ? runCase(test, { ...setting, torch }) : runPlans(test, task));
      driver.copy(ALIVE_BYTES, 1); // throws when a contestant took the context of all along
      await send({ outcome });
    }
    if (task.javascript !== undefined) await send({ javascript: await measureJavaScript(task.javascript, task.quick) });
  } finally {
    await torch?.close();
  }
  process.disconnect();
}

process.once('SIGINT', () => process.exit(1)); // process.ts reports what there is
process.once('message', (task: Task) => {
  main(task).catch(async (error: Error) => {
    console.error(error);
    await send({ fails: sentence(error) });
    process.exit(1);
  });
});
