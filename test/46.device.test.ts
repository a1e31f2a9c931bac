// A second backend beside the CPU: order between the two, memory, graphs, failures and ends. What stands for its devices
// is fixtures/device.c; the programs, each in a process of its own, are in fixtures/device.cjs.

import { execFile } from 'node:child_process';
import * as path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { sanitized } from './support/sanitizer';
import { StandIn } from './support/stand-in';

const standIn = new StandIn();
standIn.install('device.c');
afterAll(() => standIn.remove());

interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

function start(args: string[], env: Record<string, string> = {}): Promise<Ended> {
  const file = path.join(__dirname, 'fixtures', 'device.cjs');
  const all = { ...process.env, ...standIn.env, LD_LIBRARY_PATH: standIn.folder, FAKE_DEVICES: '2', ...env };
  return new Promise((resolve) => {
    const command = ['--expose-gc', file, ...args];
    execFile(process.execPath, command, { env: all, timeout: 300_000 }, (error, stdout, stderr) => {
      resolve({ code: error ? ((error.code as unknown as number) ?? -1) : 0, stdout, stderr });
    });
  });
}

/** What the program found out, when it has left nothing behind. */
async function program(name: string, env: Record<string, string> = {}, ...args: string[]) {
  const { code, stdout, stderr } = await start([name, ...args], { FAKE_REPORT: '1', ...env });
  expect({ code, stderr }).toEqual({ code: 0, stderr: 'left: 0 streams, 0 graphs, 0 blocks\n' });
  return JSON.parse(stdout);
}

const failed = (code: string, message: RegExp) => [code, expect.stringMatching(message)];

describe('order', () => {
  test('results go from the CPU to the device and back, enqueued at once', async () => {
    expect(await program('order')).toEqual(Array(4).fill([5, 'cuda:0']).flat());
  });

  test('writers wait for readers of the other backend', async () => {
    expect(await program('writers')).toEqual([2, 7, 1]);
  });

  test('what is enqueued behind a held operation stays behind it, other streams go on', async () => {
    const { early, ended, value, ms } = await program('fifo');
    expect(early).toEqual(['free']);
    expect(ended).toEqual(['cpu', 'first', 'second', 'all']);
    expect(value).toBe(2);
    expect(ms).toBeGreaterThan(0);
  });

  test('a stream waits for events of other devices and backends', async () => {
    expect(await program('wait for an event of another backend')).toEqual([
      ['a', 'b', 'c', 'd'],
      failed('ERR_DEVICE', /no common clock/),
    ]);
  });

  test('two streams that wait for each other 20,000 times', async () => {
    expect(await program('chain')).toBe('done');
  });

  test.skipIf(sanitized)('held operations count as queued (not under sanitizers)', async () => {
    const { held, error } = await program('limit', { FAKE_DELAY: '1000000' });
    expect(held).toBeGreaterThan(262_000);
    expect(error).toEqual(failed('ERR_OUT_OF_MEMORY', /262144.*synchronize/));
  });

  test.each([1, 2, 3])('random work on streams of both, seed %i', async (seed) => {
    expect(await program('stress', { FAKE_DELAY: '500' }, String(seed))).toBe('equal');
  });
});

describe('memory', () => {
  test('pinned memory is the CPU’s, from the device’s backend', async () => {
    expect(await program('pinned')).toEqual({
      device: 'cpu',
      bytes: 256,
      out: 6,
      value: 5,
      refused: failed('ERR_OPTION', /pinned/),
    });
  });

  test('tensors are made, copied and refused on the device', async () => {
    expect(await program('constructors')).toEqual({
      zeros: 0,
      empty: true,
      from: 4,
      none: 0,
      randn: true,
      sliced: [1, 3, 2, 4],
      second: 2,
      tf32: 1,
      refused: {
        data: failed('ERR_DEVICE', /read\(\)/),
        headDim: failed('ERR_SHAPE', /256/),
        merge: failed('ERR_OPTION', /does not merge/),
        convert: failed('ERR_DTYPE', /convert/),
        mixed: failed('ERR_DEVICE', /k is on cpu but q is on cuda:0/),
        up: failed('ERR_DEVICE', /stream is on cpu but a copy from cpu to cuda:0 needs one on cuda:0/),
        down: failed('ERR_DEVICE', /needs one on cuda:0/),
        stream: failed('ERR_DEVICE', /stream is on cuda:0 but q is on cpu; make one there with new Stream\('cpu'\)/),
        mergeStream: failed('ERR_DEVICE', /stream is on cuda:0 but parts\[0\]\.out is on cpu; make one there/),
        indexStream: failed('ERR_DEVICE', /stream is on cuda:0 but the cache is on cpu; make one there/),
      },
    });
  });

  test('what is disposed of while held is freed at the end', async () => {
    expect(await program('dispose')).toEqual({ value: 3, left: [0, 0] });
  });
});

describe('graphs of the backend', () => {
  test('are launched, on any stream of the device, and outlive their disposal', async () => {
    expect(await program('graph')).toEqual({
      results: [3, 4, 5, 6, 6],
      pending: failed('ERR_PENDING', /still writes/),
      wrong: failed('ERR_DEVICE', /stream is on cuda:1 but the graph is on cuda:0; make one there/),
    });
  });

  test('refuse what cannot be recorded, and leave nothing behind', async () => {
    expect(await program('graph refused')).toEqual({
      refused: [
        failed('ERR_OPTION', /pageable memory.*pinned: true/),
        failed('ERR_CUDA', /cannot be captured/),
        'Error: mine',
      ],
      value: 2,
      live: 0,
    });
  });

  test('10,000 launches make no JavaScript objects', async () => {
    const { heap, value } = await program('launches', { FAKE_DELAY: '0' });
    expect(heap).toBeLessThan(12); // an object has at least 24 bytes
    expect(value).toBe(2);
  });
});

describe('failures', () => {
  test('a device that failed says so in every call; everything else goes on', async () => {
    const { rejected, errors, works } = await program('failed');
    const dead = failed('ERR_CUDA', /illegal memory access/);
    expect(rejected).toEqual([dead, dead, dead, dead]);
    for (const name in errors) expect([name, errors[name]]).toEqual([name, dead]);
    expect(works).toEqual({ cpu: 3, second: 4, pinned: 4, devices: 3 });
  });

  test('the failure of an operation goes to whoever asks for its results', async () => {
    const once = failed('ERR_BACKEND', /this attention failed/);
    expect(await program('failed once')).toMatchObject({ rejected: [once, once], late: once, merged: once, other: 2 });
  });
});

describe('ends', () => {
  test('workers that are terminated with held operations', async () => {
    const { slowest, value } = await program('workers', { FAKE_DELAY: '20000' });
    expect(slowest).toBeLessThan(sanitized ? 5000 : 1000);
    expect(value.slice(0, 2)).toEqual([5, 'cuda:0']);
  });

  test('a worker ends soon with held operations, however busy this thread keeps the CPU', async () => {
    expect(await program('busy workers')).toBeLessThan(sanitized ? 5000 : 500);
  });

  test.each(['exit', 'fall'])('%s with held operations', async (way) => {
    expect(await start([way])).toEqual({ code: 3, stdout: '', stderr: '' });
  });
});
