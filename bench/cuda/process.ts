// The process that measures (suite.ts), from outside: it is begun again behind a case that took it along, and ended when
// time is over.

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { NotMeasured } from '../format';
import type { JavaScriptPath } from './javascript';
import type { Outcome } from './run';
import type { DeviceReport, Message, Task } from './suite';

export interface Done {
  device?: DeviceReport;
  outcomes: Outcome[];
  javascript?: JavaScriptPath;
  unusable?: string;
  /** Cases that took the process along, and how. */
  failed: NotMeasured[];
  /** Why it ended early, if it did. */
  ended?: string;
}

export interface Watch {
  begin(name: string): void;
  /** Something was added to what there is. */
  found(done: Done): void;
}

/** In seconds. */
export interface Limits {
  /** For all of it; unless given there is no end. */
  all?: number;
  /** From one message of the process to the next: for a case, or for what precedes the first. */
  step: number;
  /** From SIGINT to SIGKILL, since a call of the driver does not return when the device hangs. */
  kill: number;
}

export const LIMITS: Limits = { step: 120, kill: 10 };

/** Beside this file: as TypeScript in a checkout, bundled where it was carried. */
const suiteFile = () =>
  ['suite.ts', 'suite.cjs'].map((name) => join(__dirname, name)).find((path) => existsSync(path))!;

/** The first ^C ends the measurement only. */
export async function measureInProcess(
  task: Task,
  environment: NodeJS.ProcessEnv,
  { begin, found }: Watch,
  limits: Limits,
  suite = suiteFile(),
): Promise<Done> {
  const done: Done = { outcomes: [], failed: [] };
  let child: ChildProcess | undefined;
  let killing: NodeJS.Timeout | undefined;
  const stop = (why: string) => {
    done.ended ??= why;
    child?.kill('SIGINT');
    killing ??= setTimeout(() => child?.kill('SIGKILL'), 1e3 * limits.kill);
  };
  const interrupt = () => stop('SIGINT');
  process.once('SIGINT', interrupt);
  const ending =
    limits.all === undefined ? undefined : setTimeout(() => stop(`${limits.all} s are over`), 1e3 * limits.all);

  /** The case that took the process along, and how; undefined when there is nothing to go on with. */
  const run = async (cases: readonly string[]): Promise<NotMeasured | undefined> => {
    let what: string | undefined;
    let why: string | undefined;
    let late: NodeJS.Timeout | undefined;
    const wait = () => {
      clearTimeout(late);
      late = setTimeout(() => {
        why = `not done after ${limits.step} s`;
        child!.kill('SIGKILL');
      }, 1e3 * limits.step);
    };
    child = fork(suite, { env: { ...process.env, ...environment } });
    child.on('message', (message: Message) => {
      wait();
      if ('begins' in message) {
        what = message.begins;
        begin(what);
      } else if ('fails' in message) why = message.fails;
      else {
        if ('outcome' in message) {
          done.outcomes.push(message.outcome);
          what = undefined;
        } else Object.assign(done, message);
        found(done);
      }
    });
    wait();
    child.send({ ...task, cases });
    const [code, signal] = (await once(child, 'close')) as [number | null, string | null]; // not 'exit': messages may follow that
    clearTimeout(late);
    if (code === 0 || done.ended !== undefined) return undefined;
    const reason: string = why ?? signal ?? `status ${code}`;
    if (what !== undefined) return { what, why: reason };
    done.ended = reason;
    return undefined;
  };

  for (let cases = task.cases; ; ) {
    const failed = await run(cases);
    if (!failed) break;
    done.failed.push(failed);
    cases = cases.slice(cases.indexOf(failed.what) + 1);
    if (cases.length === 0 && task.javascript === undefined) break;
  }
  clearTimeout(ending);
  clearTimeout(killing);
  process.off('SIGINT', interrupt);
  return done;
}
