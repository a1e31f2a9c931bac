// How many bytes a run takes beyond its inputs (output and workspace), in a process of its own: what a contestant keeps
// from a run before would hide what it needs. The child process of bytesInChild (resident.ts).

import { type Case, comparisonsOf } from './cases';
import { casesOf, type Family } from './families';
import { makeInputs } from './inputs';
import { library } from './peers/library';
import { onnxruntime } from './peers/onnxruntime';
import { answerBytes, bytesBeyond } from './resident';

export interface MemoryTask {
  family: Family;
  quick: boolean;
  /** Of the case. */
  name: string;
  contestant: string;
  threads: number;
}

/** A case of the same kind that needs next to no memory: after it, threads and code are there. */
const tiny = (test: Case): Case => ({
  ...test,
  queries: test.queries.map((extent) => Math.min(extent, 16)),
  keys: test.keys.map(() => 16),
  mask: undefined,
  pattern: undefined,
});

answerBytes(async ({ family, quick, name, contestant, threads }: MemoryTask) => {
  const whole = casesOf[family](quick).find((each) => each.name === name)!;
  const test = comparisonsOf(whole)[contestant] ?? whole;
  const make = (each: Case) =>
    contestant === 'onnxruntime'
      ? onnxruntime(each, makeInputs(each), threads)
      : Promise.resolve(library(contestant, each, makeInputs(each)));
  const first = await make(tiny(test));
  await first.run(1);
  await first.close();
  const measured = await make(test);
  const bytes = await bytesBeyond(() => measured.run(1));
  await measured.close();
  return bytes;
});
