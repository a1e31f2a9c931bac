// The thread that factorizeBias() works on: takes the matrices of a bias, one after the other, and answers with factors.

import { parentPort } from 'node:worker_threads';
import { type Factors, factorize, type Target } from './svd';
import type { Message } from './thread';

/** What the thread is asked to do: `count` matrices, one after the other in `data`. */
export interface Request {
  data: Float32Array;
  count: number;
  rows: number;
  columns: number;
  target: Target;
}

/** What it answers: factors of each matrix, and the matrices given back. */
export interface Answer {
  made: Factors[];
  data: Float32Array;
}

parentPort?.once('message', ({ data, count, rows, columns, target }: Request) => {
  const size = rows * columns;
  const made: Factors[] = [];
  for (let n = 0; n < count; n++) {
    made.push(factorize({ data: data.subarray(n * size, (n + 1) * size), rows, columns }, target));
  }
  const message: Message<Answer> = { answer: { made, data } };
  parentPort?.postMessage(message, [data.buffer as ArrayBuffer]);
});
