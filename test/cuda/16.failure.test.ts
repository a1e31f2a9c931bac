// A device that fails for good: every later call on it says why, all else goes on. In processes of their own, since a
// device does not recover.
// not on a device: the stand-in is told to fail

import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { interpreted, missing, standInEnvironment, title } from './support/device';

const root = join(__dirname, '../..');

/** What a program prints, as JSON; it has `fail`, which makes the next kernel fault. */
async function run(body: string): Promise<unknown> {
  const program = `
    const { attention, merge, memoryStats, Stream, Tensor } = require('node-attention');
    const driver = require('koffi').load(${JSON.stringify(join(root, 'build/ptx/libcuda.so.1'))});
    const fail = driver.func('void standin_fail_next()');
    const outcome = async (action) => {
      try {
        await action();
        return 'fine';
      } catch (error) {
        return { code: error.code, message: error.message };
      }
    };
    (async () => { ${body} })().then((result) => console.log(JSON.stringify(result)));`;
  const env = { ...process.env, ...standInEnvironment, NODE_ATTENTION_STANDIN_DEVICES: '2' };
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', program], { cwd: root, env, timeout: 60_000 });
  return JSON.parse(stdout);
}

const first = {
  code: 'ERR_CUDA',
  message: expect.stringMatching(/an illegal memory access .*cudaErrorIllegalAddress.*, reported after .* on cuda:0/),
};

describe.skipIf(missing || !interpreted)(title('a fault of a kernel'), () => {
  test('is the error of all that follows on the device; the CPU and other devices go on', async () => {
    const got = (await run(`
      const host = Tensor.randn([1, 4, 1, 64], { seed: 1 });
      const [x, other] = [host.to('cuda:0'), host.to('cuda:1')];
      const [a, b] = [new Stream('cuda:0'), new Stream('cuda:0')];
      const before = await x.read();
      fail();
      const { out } = attention(x, x, x, { stream: a });
      return {
        read: await outcome(() => out.read()),
        queued: await outcome(() => out.to({ device: 'cpu', stream: b }).read()),
        later: await outcome(() => attention(x, x, x, { stream: b })),
        allocation: await outcome(() => Tensor.zeros([4], { device: 'cuda:0' })),
        stream: await outcome(() => new Stream('cuda:0')),
        upload: await outcome(() => host.to('cuda:0')),
        cpu: await outcome(() => attention(host, host, host).out.read()),
        other: await outcome(() => attention(other, other, other).out.read()),
        disposed: await outcome(() => { a.dispose(); b.dispose(); x.dispose(); out.dispose(); }),
        live: memoryStats('cuda:0').live >= 0,
        first: before.length,
      };`)) as Record<string, { message: string }>;
    for (const name of ['read', 'queued', 'later', 'allocation', 'stream', 'upload']) {
      expect(got[name], name).toEqual(first);
    }
    // The first cause, in the same words for all.
    expect(new Set(['later', 'allocation', 'stream'].map((name) => got[name]!.message)).size).toBe(1);
    expect(got).toMatchObject({ cpu: 'fine', other: 'fine', disposed: 'fine', live: true, first: 256 });
  });

  test('ends copies of pageable memory that are under way', async () => {
    const got = await run(`
      const large = Tensor.from(new Float32Array(3 << 20), [3 << 20]);
      const stream = new Stream('cuda:0');
      const x = Tensor.zeros([1, 4, 1, 64], { device: 'cuda:0' });
      await x.read();
      fail();
      attention(x, x, x, { stream });
      const copies = Array.from({ length: 4 }, () => outcome(() => large.to({ device: 'cuda:0', stream }).read()));
      return Promise.all(copies);`);
    for (const one of got as unknown[]) expect(one).toEqual(first);
  });

  test('lets the process end', async () => {
    expect(
      await run(`
        const x = Tensor.zeros([1, 4, 1, 64], { device: 'cuda:0' });
        fail();
        outcome(() => attention(x, x, x).out.read());
        return 'over';`),
    ).toBe('over');
  });
});
