// Work on a thread of its own, for what takes JavaScript long.

import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import { AttentionError } from './errors';

/** What such a thread says: its answer, once, or how far it is. */
export type Message<Answer, Progress = never> = { answer: Answer } | { progress: Progress };

/** Runs the file of this folder with a request, and ends it after its answer. What `heard` throws is the end of it too. */
export function inThread<Answer, Progress = never>(
  call: string,
  file: string,
  request: unknown,
  transfer: ArrayBuffer[],
  heard?: (progress: Progress) => void,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(path.join(__dirname, file));
    const fail = (cause: unknown) => {
      const text = cause instanceof Error ? cause.message : String(cause);
      reject(new AttentionError('ERR_BACKEND', `${call}: its thread failed: ${text}`, { cause }));
    };
    worker.on('message', (message: Message<Answer, Progress>) => {
      if ('progress' in message) {
        try {
          heard?.(message.progress);
          return;
        } catch (cause) {
          reject(cause);
        }
      } else {
        resolve(message.answer);
      }
      void worker.terminate();
    });
    worker.once('error', fail);
    worker.once('exit', (code) => fail(`it ended with code ${code}`)); // after an answer this changes nothing
    worker.postMessage(request, transfer);
  });
}

/** What went wrong in a thread: an error of the system has a code, and says which call it was. */
export interface Failure {
  message: string;
  code?: string;
  errno?: number;
  syscall?: string;
  path?: string;
  dest?: string;
}

/** What a thread that is asked says to each question, in their order. */
export type Reply = { answer: unknown } | { failure: Failure };

/** The reply that a thread makes of what `answer` returns or throws. */
export function reply(answer: () => unknown): Reply {
  try {
    return { answer: answer() };
  } catch (error) {
    const thrown = error as Failure;
    const system = (['code', 'errno', 'syscall', 'path', 'dest'] as const).filter((name) => thrown[name] !== undefined);
    return { failure: { message: thrown.message, ...Object.fromEntries(system.map((name) => [name, thrown[name]])) } };
  }
}

/** A thread that answers questions, one after the other, until it is ended. */
export class Thread<Question> {
  readonly #call: string;
  readonly #worker: Worker;
  readonly #asked: { resolve(answer: unknown): void; reject(cause: unknown): void }[] = [];
  #ended: AttentionError | undefined;

  constructor(call: string, file: string) {
    this.#call = call;
    this.#worker = new Worker(path.join(__dirname, file));
    this.#worker.on('message', (message: Reply) => {
      const { resolve, reject } = this.#asked.shift()!;
      if ('answer' in message) resolve(message.answer);
      else reject(this.#error(message.failure));
    });
    const end = (cause: unknown) => {
      const text = cause instanceof Error ? cause.message : String(cause);
      this.#ended ??= new AttentionError('ERR_BACKEND', `${call}: its thread failed: ${text}`, { cause });
      for (const { reject } of this.#asked.splice(0)) reject(this.#ended);
    };
    this.#worker.once('error', end);
    this.#worker.once('exit', (code) => end(`it ended with code ${code}`));
  }

  #error({ message, ...system }: Failure): Error {
    if (system.syscall === undefined) {
      return new AttentionError('ERR_BACKEND', `${this.#call}: its thread failed: ${message}`);
    }
    return Object.assign(new Error(`${this.#call}: ${message}`), system);
  }

  /** Its answer. Rejects with an error of the system as that is, but for the call that it names in front. */
  ask<Answer = void>(question: Question): Promise<Answer> {
    return new Promise<Answer>((resolve, reject) => {
      if (this.#ended) {
        reject(this.#ended);
        return;
      }
      this.#asked.push({ resolve: resolve as (answer: unknown) => void, reject });
      this.#worker.postMessage(question);
    });
  }

  /** Ends the thread, whatever it does. */
  async end(): Promise<void> {
    await this.#worker.terminate();
  }
}
