// Memory of a process, as Linux tells it.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

/** Whether this system tells, and forgets when asked to, how much memory a process had at most. */
export const tellsPeak = (): boolean => existsSync('/proc/self/clear_refs');

const RESET_PEAK = '5';

/** Resident bytes now, or at most since `forgetPeak`, or those now that are of no file. */
export function resident(field: 'VmRSS' | 'VmHWM' | 'RssAnon'): number {
  const status = readFileSync('/proc/self/status', 'utf8');
  return 1024 * Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)![1]);
}

export const forgetPeak = (): void => writeFileSync('/proc/self/clear_refs', RESET_PEAK);

/** The most bytes that this process has at once while something runs, beyond those that it had before. */
export async function bytesBeyond(run: () => Promise<unknown>): Promise<number> {
  // What V8 frees meanwhile, such as arrays that inputs were made of, would hide as much.
  globalThis.gc?.();
  const [before, own] = [resident('VmRSS'), resident('RssAnon')];
  forgetPeak();
  await run();
  // A system that is short of memory takes back pages of files meanwhile, such as code, by which the peak is too low.
  return Math.max(0, resident('VmHWM') - before, resident('RssAnon') - own);
}

const TIMEOUT_MS = 60_000;

/** For `bytesInChild`: what glibc gets back it gives back, so that none of it is had again for a plan of some KiB. */
export const GIVES_BACK: NodeJS.ProcessEnv = { MALLOC_MMAP_THRESHOLD_: '32768', MALLOC_TRIM_THRESHOLD_: '65536' };

/**
 * What a fresh process of a program with `answerBytes` says; undefined where the system does not tell, it saw none, or it
 * took over a minute. `env`: beside that of this process.
 */
export async function bytesInChild<Task extends { name: string }>(
  file: string,
  task: Task,
  env: NodeJS.ProcessEnv = {},
): Promise<number | undefined> {
  if (!tellsPeak()) return undefined;
  // Which ends it, too.
  const child = fork(file, {
    cwd: __dirname,
    env: { ...process.env, ...env },
    // A thread of V8 that compiles or sweeps would free what it has meanwhile, which hides as much.
    execArgv: ['--expose-gc', '--single-threaded', '--import', 'tsx'],
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const answer = once(child, 'message') as Promise<[number]>;
  child.on('error', () => {}); // after the answer nobody else listens
  child.once('exit', (code) => code !== 0 && child.emit('error', new Error(`memory of ${task.name}: status ${code}`)));
  child.send(task);
  try {
    const [bytes] = await answer;
    return bytes > 0 ? bytes : undefined;
  } catch (error) {
    if ((error as Error).name === 'AbortError') return undefined; // the time that was measured before is not lost
    throw error;
  }
}

/** In a child process: measures what the first message asks for, says so, and ends. */
export function answerBytes<Task>(measure: (task: Task) => Promise<number>): void {
  process.once('message', (task: Task) => {
    measure(task).then(
      (bytes) => process.send!(bytes, () => process.disconnect()),
      (error: Error) => {
        console.error(error);
        process.exit(1);
      },
    );
  });
}
