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

parentPort?.once('message', ({ data, count, rows, columns, target }: Request) => {
  const size = rows * columns;
  const answer: Factors[] = [];
  for (let n = 0; n < count; n++) {
    answer.push(factorize({ data: data.subarray(n * size, (n + 1) * size), rows, columns }, target));
  }
  const message: Message<Factors[]> = { answer };
  parentPort?.postMessage(message);
});
