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
