// Workers, exit and collection with work in flight: nothing crashes, hangs or reads memory that is gone.

import { execFile } from 'node:child_process';
import * as path from 'node:path';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { attention, memoryStats, Stream, Tensor } from 'node-attention';
import { describe, expect, test } from 'vitest';
import { sanitized } from './support/sanitizer';

const run = promisify(execFile);
const fixture = (name: string) => path.join(__dirname, 'fixtures', name);
const workers = Number(process.env.NODE_ATTENTION_TEST_WORKERS ?? 12);

const start = (mode: string) => new Worker(fixture('worker.cjs'), { workerData: { mode } });
const message = (worker: Worker) =>
  new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });

describe('workers', () => {
  test('several workers compute at once, each in an environment of its own', async () => {
    const all = Array.from({ length: 6 }, () => start('finish'));
    expect(await Promise.all(all.map(message))).toEqual(Array(6).fill(0.5));
    await Promise.all(all.map((worker) => worker.terminate()));
  });

  test(`${workers} workers terminated with work in flight`, async () => {
    for (let round = 0; round < workers / 4; round++) {
      const batch = Array.from({ length: 4 }, () => start('flood'));
      await Promise.all(batch.map(message));
      const begun = performance.now();
      await Promise.all(batch.map((worker) => worker.terminate()));
      // Cancelled within 100 ms; the rest is for Node to end four workers on a busy machine.
      expect(performance.now() - begun).toBeLessThan(5000);
    }
    const x = Tensor.from(new Float32Array(64).fill(2), [1, 16, 1, 4]);
    expect((await attention(x, x, x).out.read())[0]).toBe(2); // the pool still serves
  });

  test.each(['queue', 'chain'])(
    'a worker with a long %s ends soon, however busy this thread keeps the pool',
    async (mode) => {
      const x = Tensor.randn([1, 4096, 4, 64], { seed: 2 });
      const streams = Array.from({ length: 6 }, () => new Stream());
      const started = async () => {
        const worker = start(mode);
        await message(worker);
        return worker;
      };
      const since = (begun: number) => performance.now() - begun;
      const idle = await started();
      let begun = performance.now();
      await idle.terminate(); // 200,000 operations end one by one
      const alone = since(begun);
      const worker = await started();
      begun = performance.now();
      const calls = sanitized ? 6 : 18;
      const work = Array.from({ length: calls }, (_, i) => attention(x, x, x, { stream: streams[i % 6] }).out);
      await worker.terminate();
      const ended = since(begun);
      await Promise.all(work.map((out) => out.read()));
      // Who waits for a turn in the pool waits for nearly all of this thread's work.
      expect(ended).toBeLessThan(Math.max(4 * alone, since(begun) / 2));
    },
  );

  test.skipIf(!('transfer' in ArrayBuffer.prototype))(
    'memory moved to this thread survives the worker (needs ArrayBuffer.prototype.transfer, Node 22)',
    async () => {
      const worker = start('move');
      const ended = new Promise((resolve) => worker.once('exit', resolve));
      const moved = new Float32Array((await message(worker)) as ArrayBuffer);
      await ended;
      const others = Array.from({ length: 4 }, () => Tensor.from(new Float32Array(1 << 20).fill(99), [1 << 20]));
      expect(moved.every((value) => value === 7)).toBe(true);
      for (const other of others) other.dispose();
    },
  );

  test('work of this thread goes on while workers come and go', async () => {
    const x = Tensor.randn([1, 512, 2, 64], { seed: 1 });
    const expected = await attention(x, x, x).out.read();
    const worker = start('flood');
    await message(worker);
    const during = attention(x, x, x).out.read();
    await worker.terminate();
    expect(await during).toEqual(expected);
  });
});

describe('exit', () => {
  const end = (way: string) =>
    run(process.execPath, [fixture('exit.cjs'), way], { timeout: 30_000 }).then(
      ({ stdout, stderr }) => ({ code: 0, signal: null, stdout, stderr }),
      (error) => error as { code: number; signal: string | null; stdout: string; stderr: string },
    );

  test.each(['exit', 'exit-while-awaiting', 'fall'])('%s: at once, with its own code', async (way) => {
    expect(await end(way)).toMatchObject({ code: 3, signal: null, stdout: '', stderr: '' });
  });

  test('an uncaught error ends the process with code 1, not a crash', async () => {
    const ended = await end('throw');
    expect(ended).toMatchObject({ code: 1, signal: null, stdout: 'exit\n' });
    expect(ended.stderr).toContain('deliberate');
  });

  test('the process stays alive for a promise that somebody awaits', async () => {
    expect(await end('await')).toMatchObject({ code: 3, signal: null, stdout: 'awaited\n' });
  });
});

describe('collection', () => {
  test.skipIf(!globalThis.gc)(
    'tensors, streams and events may be collected while queued (needs --expose-gc)',
    async () => {
      const expected = await attention(...inputs()).out.read();
      const results: Tensor<'float32'>[] = [];
      for (let i = 0; i < 20; i++) {
        const stream = new Stream();
        stream.record();
        results.push(attention(...inputs(), { stream }).out as Tensor<'float32'>);
        globalThis.gc?.();
        await null;
      }
      for (const out of results) expect(await out.read()).toEqual(expected);
    },
  );

  const inputs = () => {
    const x = Tensor.wrap(new Float32Array(new SharedArrayBuffer(4 * 256 * 64)).fill(0.25), [1, 256, 1, 64]);
    return [x, x, x] as const;
  };

  test('churn keeps memory flat', async () => {
    const round = async () => {
      for (let i = 0; i < 200; i++) {
        const x = Tensor.randn([1, 32, 2, 16], { seed: i });
        const { out, lse } = attention(x, x, x);
        for (const tensor of [x, out, lse]) tensor.dispose();
        if (i % 50 === 49) await new Stream().synchronize();
      }
      await attention(...inputs()).out.read();
    };
    await round();
    const before = memoryStats().bytes;
    for (let i = 0; i < 5; i++) await round();
    expect(memoryStats().bytes - before).toBeLessThan(2 ** 20);
  });
});
