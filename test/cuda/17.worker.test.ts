// Workers that use the device, and end with work in flight.
import './support/device'; // before node-attention
import { Worker } from 'node:worker_threads';
import { Tensor } from 'node-attention';
import { describe, expect, test } from 'vitest';
import { missing, title } from './support/device';

const start = (body: string) =>
  new Worker(
    `const { parentPort } = require('node:worker_threads');
     const { KvCache, KvIndex, Stream, Tensor } = require('node-attention');
     const streams = [new Stream('cuda'), new Stream('cuda')];
     const host = Tensor.from(new Float32Array(3 << 18).fill(0.5), [3 << 18]);
     ${body}`,
    { eval: true },
  );
const message = (worker: Worker) =>
  new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));

describe.skipIf(missing)(title('workers'), () => {
  test('several at once', async () => {
    const workers = Array.from({ length: 4 }, () =>
      start(`host.to('cuda').read().then((data) => parentPort.postMessage(data[data.length - 1]));`),
    );
    expect(await Promise.all(workers.map(message))).toEqual([0.5, 0.5, 0.5, 0.5]);
    await Promise.all(workers.map((worker) => worker.terminate()));
  });

  test.each([
    [
      'copies of pageable memory',
      `host.to({ device: 'cuda', stream: streams[i % 2] }).to({ device: 'cpu', stream: streams[(i + 1) % 2] });`,
    ],
    ['waits of two streams for each other', `streams[i % 2].wait(streams[(i + 1) % 2].record());`],
    [
      'searches that wait for the device, and the device for them',
      `if (i % 10 === 0) host.to({ device: 'cuda', stream: streams[i % 2] });
       index.attend(q, { topK: 20, stream: streams[i % 2] });
       if (i === 50) index.dispose();
       if (i >= 50) index = new KvIndex(cache, { method: 'graph', queries: keys });`,
      `const size = { batch: 1, kvHeads: 1, headDim: 16, capacity: 3000 };
       const cache = new KvCache({ ...size, device: 'cuda', resident: { window: 64 } });
       const keys = Tensor.randn([1, 3000, 1, 16], { seed: 1, device: 'cuda' });
       cache.append(keys, keys);
       const q = keys.slice([0, 1], [0, 1]);
       let index = new KvIndex(cache, { method: 'graph', queries: keys });`,
    ],
  ])('terminated with a queue of %s', async (_, operation, setup = '') => {
    for (let round = 0; round < 3; round++) {
      const worker = start(`
        ${setup}
        for (let i = 0; i < 100; i++) { ${operation} }
        parentPort.postMessage('queued');
        setInterval(() => {}, 1000);`);
      await message(worker);
      await worker.terminate();
    }
    expect(await Tensor.from(new Float32Array([1, 2]), [2], { device: 'cuda' }).read()).toEqual(
      new Float32Array([1, 2]),
    );
  });
});
