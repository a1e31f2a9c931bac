// Child process: the most memory that it takes to do one neighborhood attention, inputs and all, in bytes.

import { readFileSync, writeFileSync } from 'node:fs';
import { attention, type Device, memoryStats } from 'node-attention';
import type { GnaCase } from './cases';
import { disposeTensors, makeTensors, maskOf } from './tensors';

export interface MemoryTask {
  test: GnaCase;
  device: Device;
}

/** Forgets the most memory that this process has had, so that `most` below is the most from now on. */
function forget(device: Device): void {
  if (device === 'cpu') writeFileSync('/proc/self/clear_refs', '5');
}

/** The most bytes that the process has had in memory; of a GPU, that tensors and workspaces have held. */
function most(device: Device): number {
  if (device !== 'cpu') return memoryStats(device).peakBytes;
  const [, kibibytes] = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))!;
  return 1024 * Number(kibibytes);
}

async function main({ test, device }: MemoryTask): Promise<number> {
  const tensors = makeTensors(test, device);
  const { q, k, v, out, stream } = tensors;
  await Promise.all([q, k, v].map((tensor) => tensor.slice([0, 1], [0, 1]).read())); // they are filled by now
  forget(device);
  const { lse } = attention(q, k, v, { mask: maskOf(test), out, stream });
  await stream.synchronize();
  const bytes = most(device);
  lse.dispose();
  disposeTensors(tensors);
  return bytes;
}

process.once('message', (task: MemoryTask) => {
  main(task).then(
    (bytes) => process.send!(bytes, () => process.disconnect()),
    (error: Error) => {
      console.error(error);
      process.exit(1);
    },
  );
});
