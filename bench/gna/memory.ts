// Child process: the most memory that it takes to do one neighborhood attention, in bytes: inputs and all, and beyond what
// there is before.

import { attention, type Device, memoryStats } from 'node-attention';
import { forgetPeak, resident } from '../resident';
import type { GnaCase } from './cases';
import { disposeTensors, makeTensors, maskOf } from './tensors';

export interface MemoryTask {
  test: GnaCase;
  device: Device;
}

export interface MemoryAnswer {
  /** The most bytes, with inputs, output and all that a process has anyway. */
  bytes: number;
  /** Beyond those that there were right before: the output and workspace, some of which the threads keep for later. */
  beyond: number;
}

/** Forgets the most memory that this process has had, so that `most` below is the most from now on. */
function forget(device: Device): void {
  if (device === 'cpu') forgetPeak();
}

/** The most bytes that the process has had in memory; of a GPU, that tensors and workspaces have held. */
function most(device: Device): number {
  return device === 'cpu' ? resident('VmHWM') : memoryStats(device).peakBytes;
}

const now = (device: Device): number => (device === 'cpu' ? resident('VmRSS') : memoryStats(device).bytes);

async function main({ test, device }: MemoryTask): Promise<MemoryAnswer> {
  const tensors = makeTensors(test, device, 1);
  const { q, k, v, out, stream } = tensors;
  await Promise.all([q, k, v].map((tensor) => tensor.slice([0, 1], [0, 1]).read())); // they are filled by now
  forget(device);
  // The memory of a CPU's output is not there yet.
  const before = now(device) - (device === 'cpu' ? 0 : out.byteLength);
  const { lse } = attention(q, k, v, { mask: maskOf(test), out, stream });
  await stream.synchronize();
  const bytes = most(device);
  lse.dispose();
  disposeTensors(tensors);
  return { bytes, beyond: Math.max(0, bytes - before) };
}

process.once('message', (task: MemoryTask) => {
  main(task).then(
    (answer) => process.send!(answer, () => process.disconnect()),
    (error: Error) => {
      console.error(error);
      process.exit(1);
    },
  );
});
