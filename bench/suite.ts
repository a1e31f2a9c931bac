// Child process of cpu.ts, one for each thread count since the library reads NODE_ATTENTION_THREADS when it is loaded.
// Within it this library and ONNX Runtime take turns, with PyTorch in a child process of its own.

import { join } from 'node:path';
import { devices } from 'node-attention';
import { type Case, comparisonsOf, count, flopsOf, type Share, setsOf, shareOf } from './cases';
import { type Examined, examine } from './check';
import { casesOf, type Family } from './families';
import { type Fault, OWN } from './format';
import { type Inputs, makeInputs } from './inputs';
import { watchLoad } from './load';
import { type Contestant, interleave, type Measurement, type Plan } from './measure';
import type { MemoryTask } from './memory';
import { library, paged } from './peers/library';
import { onnxruntime } from './peers/onnxruntime';
import { TorchPeer } from './peers/torch';
import { bytesInChild } from './resident';

export interface Task {
  family: Family;
  threads: number;
  quick: boolean;
  /** Names of the cases to run. */
  cases: string[];
  plan: Plan;
  /** The Python to run PyTorch with, if it is a contestant. */
  torch?: string;
}

export interface Outcome extends Measurement, Omit<Examined, 'right'> {
  test: Case;
  threads: number;
  /** What the library chose. */
  instructionSet: string;
  share: Share;
  flops: number;
  /** Sets of inputs that take turns. */
  sets: number;
  /** In the order of `samples`. */
  contestants: string[];
  /** Those that do not take the case, and why. */
  absent: Fault[];
  /** Bytes that a run takes beyond its inputs, where that was measured. */
  memory: { [contestant: string]: number };
}

export type Message = { begins: string } | { outcome: Outcome };

/** Who takes part, this library first; and who does not, and why. */
async function contestantsOf(test: Case, inputs: Inputs, { threads, quick }: Task, torch: TorchPeer | undefined) {
  const contestants: Contestant[] = [library(OWN, test, inputs)];
  const absent: Fault[] = [];
  if (!test.pattern && (test.kind === 'decode' || test.kind === 'causal')) contestants.push(paged(test, inputs));
  const comparisons = Object.entries(comparisonsOf(test));
  const masked = comparisons.length > 0;
  for (const [name, other] of comparisons) contestants.push(library(name, other, inputs));
  if (!masked && test.dtype === 'float32') contestants.push(await onnxruntime(test, inputs, threads));
  if (torch && masked && quick) {
    absent.push({ contestant: 'pytorch-flex', fault: 'left out of --quick: compiling takes longer than measuring' });
  } else if (torch) {
    try {
      contestants.push(await torch.contestant(test, inputs));
    } catch (error) {
      absent.push({ contestant: 'pytorch-flex', fault: (error as Error).message });
    }
  }
  return { contestants, absent };
}

/**
 * Each takes a process of its own and so a second or two: only float32 cases with this many keys, and those that differ by
 * length alone, to see from which one on a window takes less than dense attention; and not those of PyTorch.
 */
const MEMORY_TOKENS = 4096;
const MEMORY_HEAD_DIM = 64;
const MEMORY_CONTESTANTS = [OWN, 'onnxruntime', 'dense'];

async function memories(test: Case, right: readonly Contestant[], { family, quick, threads }: Task) {
  const memory: Outcome['memory'] = {};
  const wanted = test.byLength || (count(test.keys) === MEMORY_TOKENS && test.headDim === MEMORY_HEAD_DIM);
  if (quick || !wanted || test.dtype !== 'float32') return memory;
  for (const { name } of right.filter(({ name }) => MEMORY_CONTESTANTS.includes(name))) {
    const task: MemoryTask = { family, quick, name: test.name, contestant: name, threads };
    const bytes = await bytesInChild(join(__dirname, 'memory.ts'), task);
    if (bytes !== undefined) memory[name] = bytes;
  }
  return memory;
}

async function runCase(test: Case, task: Task, torch: TorchPeer | undefined): Promise<Outcome> {
  const sets = setsOf(test);
  const inputs = makeInputs(test, sets);
  const { contestants, absent } = await contestantsOf(test, inputs, task, torch);
  const { right, ...examined } = await examine(contestants, inputs);
  const measurement = await interleave(right, task.plan, watchLoad(torch?.pid));
  for (const contestant of contestants) await contestant.close();
  const share = shareOf(test);
  const { instructionSet } = devices().find(({ device }) => device === 'cpu')!;
  return {
    test,
    threads: task.threads,
    instructionSet: instructionSet!,
    share,
    flops: flopsOf(test, share),
    sets,
    contestants: right.map(({ name }) => name),
    absent,
    memory: await memories(test, right, task),
    ...examined,
    ...measurement,
  };
}

async function main(task: Task): Promise<void> {
  const send = (message: Message) => new Promise((sent) => process.send!(message, sent));
  const torch = task.torch === undefined ? undefined : new TorchPeer(task.torch, task.threads);
  try {
    for (const test of casesOf[task.family](task.quick)) {
      if (!task.cases.includes(test.name)) continue;
      await send({ begins: test.name });
      await send({ outcome: await runCase(test, task, torch) });
    }
  } finally {
    await torch?.close();
  }
  process.disconnect();
}

process.once('SIGINT', () => process.exit(1)); // cpu.ts reports what there is
process.once('message', (task: Task) => {
  main(task).catch((error: Error) => {
    console.error(error);
    process.exit(1);
  });
});
