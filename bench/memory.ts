// How many bytes a run takes beyond its inputs (output and workspace), in a process of its own: what a contestant keeps
// from a run before would hide what it needs. Called as a program it is a child process that gives one answer and ends.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { type Case, comparisonsOf } from './cases';
import { casesOf, type Family } from './families';
import { makeInputs } from './inputs';
import { library } from './peers/library';
import { onnxruntime } from './peers/onnxruntime';

export interface MemoryTask {
  family: Family;
  quick: boolean;
  /** The name of the case. */
  test: string;
  contestant: string;
  threads: number;
}

const RESET_PEAK = '5';

/** Resident bytes now, and at most since the peak was reset. */
function resident(): { now: number; peak: number } {
  const status = readFileSync('/proc/self/status', 'utf8');
  const field = (name: string) => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)![1]);
  return { now: field('VmRSS'), peak: field('VmHWM') };
}

/** A case of the same kind that needs next to no memory: after it, threads and code are there. */
const tiny = (test: Case): Case => ({
  ...test,
  queries: test.queries.map((extent) => Math.min(extent, 16)),
  keys: test.keys.map(() => 16),
  mask: undefined,
  pattern: undefined,
});

async function main({ family, quick, test: name, contestant, threads }: MemoryTask): Promise<void> {
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
  const { now } = resident();
  writeFileSync('/proc/self/clear_refs', RESET_PEAK);
  await measured.run(1);
  const { peak } = resident();
  await measured.close();
  await new Promise((sent) => process.send!(Math.max(0, peak - now), sent));
  process.disconnect();
}

/** The bytes; undefined where the system does not tell, or the contestant took none that can be seen. */
export async function memoryOf(task: MemoryTask): Promise<number | undefined> {
  if (!existsSync('/proc/self/clear_refs')) return undefined;
  const child = fork(__filename, { cwd: __dirname, execArgv: ['--import', 'tsx'] });
  const answer = once(child, 'message', { signal: AbortSignal.timeout(TIMEOUT_MS) });
  child.once('exit', (code) => code !== 0 && child.emit('error', new Error(`memory of ${task.test}: status ${code}`)));
  child.send(task);
  const [bytes] = (await answer) as [number];
  return bytes > 0 ? bytes : undefined;
}

const TIMEOUT_MS = 60_000;

if (require.main === module) {
  process.once('message', (task: MemoryTask) => {
    main(task).catch((error: Error) => {
      console.error(error);
      process.exit(1);
    });
  });
}
