import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import * as library from 'node-attention';
import attend from './attend.js';

if (isMainThread) {
  const worker = new Worker(new URL(import.meta.url));
  worker.once('message', async (result) => console.log(result && (await attend(library))));
} else {
  parentPort.postMessage(await attend(library));
}
