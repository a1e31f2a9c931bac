// Child process of main.ts, one for each thread count since the library reads NODE_ATTENTION_THREADS when it is loaded.
// Within it this library and ONNX Runtime take turns, with PyTorch in a child process of its own.

import { devices } from 'node-attention';
import { allCases, type Case, flopsOf, type Share, shareOf } from './cases';
import { examine, type Fault } from './check';
import { makeInputs } from './inputs';
import { watchLoad } from './load';
import { interleave, type Measurement, type Plan } from './measure';
import { library } from './peers/library';
import { onnxruntime } from './peers/onnxruntime';
import { TorchPeer } from './peers/torch';

export interface Task {
  threads: number;
  quick: boolean;
  /** Names of the cases to run. */
  cases: string[];
  plan: Plan;
  /** The Python to run PyTorch with, if it is a contestant. */
  torch?: string;
}

export interface Outcome extends Measurement {
  test: Case;
  threads: number;
  /** What the library chose. */
  instructionSet: string;
  share: Share;
  flops: number;
  /** In the order of `samples`. */
  contestants: string[];
  /** What was wrong with the output of those that were therefore not timed. */
  faults: Fault[];
}

export type Message = { begins: string } | { outcome: Outcome };

async function runCase(test: Case, { threads, plan }: Task, torch: TorchPeer | undefined): Promise<Outcome> {
  const inputs = makeInputs(test);
  const contestants = [library('node-attention', test, inputs)];
  if (test.kind === 'dense' || test.kind === 'causal' || test.kind === 'decode') {
    if (test.dtype === 'float32') contestants.push(await onnxruntime(test, inputs, threads));
    if (torch) contestants.push(await torch.contestant(test, inputs));
  } else {
    contestants.push(library('unmasked', { ...test, mask: undefined }, inputs));
  }
  const { right, faults } = await examine(contestants, inputs);
  const measurement = await interleave(right, plan, watchLoad(torch?.pid));
  for (const contestant of contestants) await contestant.close();
  const share = shareOf(test);
  const { instructionSet } = devices().find(({ device }) => device === 'cpu')!;
  return {
    test,
    threads,
    instructionSet: instructionSet!,
    share,
    flops: flopsOf(test, share),
    contestants: right.map(({ name }) => name),
    faults,
    ...measurement,
  };
}

async function main(task: Task): Promise<void> {
  const send = (message: Message) => new Promise((sent) => process.send!(message, sent));
  const torch = task.torch === undefined ? undefined : new TorchPeer(task.torch, task.threads);
  try {
    for (const test of allCases(task.quick)) {
      if (!task.cases.includes(test.name)) continue;
      await send({ begins: test.name });
      await send({ outcome: await runCase(test, task, torch) });
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
