// What fails on a device: a kernel, and with it the device for good; a launch, and with it its stream; memory that runs
// out. All else goes on. In processes of their own, since a device does not recover, nor a stream.
// not on a device: the stand-in is told to fail

import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, describe, expect, test } from 'vitest';
import { interpreted, missing, standInEnvironment, title } from './support/device';

const root = join(__dirname, '../..');

/**
 * What a program prints, as JSON; it has `fail`, which makes the next kernel fault, `lastKernel`, `launches`, and
 * `leaveError`, which makes a call of CUDA that fails, as any code of the process may.
 */
async function run(body: string, more: Record<string, string> = {}): Promise<unknown> {
  const program = `
    const { attention, KvCache, KvIndex, memoryStats, merge, pagePlan, Stream, streamingPlan, Tensor } =
      require('node-attention');
    const driver = require('koffi').load(${JSON.stringify(join(root, 'build/ptx/libcuda.so.1'))});
    const fail = driver.func('void standin_fail_next()');
    const lastKernel = driver.func('const char *standin_last_kernel()');
    const launches = driver.func('uint64_t standin_launches(const char *part)');
    const eventQuery = driver.func('int cudaEventQuery(void *event)');
    const leaveError = () => eventQuery(null);
    const device = 'cuda:0';
    const outcome = async (action) => {
      try {
        await action();
        return 'fine';
      } catch (error) {
        return { code: error.code, message: error.message };
      }
    };
    (async () => { ${body} })().then((result) => console.log(JSON.stringify(result)));`;
  const env = { ...process.env, ...standInEnvironment, NODE_ATTENTION_STANDIN_DEVICES: '2', ...more };
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', '-e', program], {
    cwd: root,
    env,
    timeout: 300_000,
  });
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

describe.skipIf(missing || !interpreted)(title('a launch that fails'), () => {
  const folders: string[] = [];
  afterAll(() => {
    for (const folder of folders) rmSync(folder, { recursive: true });
  });

  /** Under which the kernels of some sources cannot be launched. */
  function without(...sources: string[]): Record<string, string> {
    const products = standInEnvironment.NODE_ATTENTION_STANDIN_PTX!;
    const folder = mkdtempSync(join(tmpdir(), 'node-attention-'));
    folders.push(folder);
    for (const architecture of ['compute_80', 'compute_90a']) {
      mkdirSync(join(folder, architecture));
      for (const file of readdirSync(join(products, architecture))) {
        if (sources.some((source) => file === `${source}.ptx`)) continue;
        symlinkSync(join(products, architecture, file), join(folder, architecture, file));
      }
    }
    return { NODE_ATTENTION_STANDIN_PTX: folder };
  }

  test('keeps what follows from going where a list of pages would lead it, on its stream and on others', async () => {
    const got = await run(
      `
      const x = Tensor.randn([1, 4, 1, 64], { seed: 1, device });
      const long = Tensor.randn([1, 200, 2, 64], { seed: 2, device });
      await Promise.all([x.read(), long.read()]);
      const empty = () => new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 64, device });
      const [stream, a, b] = [new Stream(device), new Stream(device), new Stream(device)];
      const [cache, other] = [empty(), empty()];
      // First, so that the failure behind it is not known yet when the next calls are made.
      for (const each of [stream, a]) attention(long, long, long, { stream: each });
      cache.append(x, x, { stream });
      const { out } = attention(x, cache, { stream });
      other.append(x, x, { stream: a });
      const across = attention(x, other, { stream: b }).out;
      // Held back until the CPU is done, when the backend has nothing left to wait for.
      const third = empty();
      const [c, d] = [new Stream(device), new Stream(device)];
      third.append(x, x, { stream: c });
      const onCpu = Tensor.randn([1, 3000, 4, 64], { seed: 3 });
      attention(onCpu, onCpu, onCpu).out.to({ device, stream: d });
      const held = attention(x, third, { stream: d }).out;
      const outcomes = {
        failed: {
          out: await outcome(() => out.read()),
          across: await outcome(() => across.read()),
          stream: await outcome(() => stream.synchronize()),
          later: await outcome(() => cache.append(x, x, { stream })),
        },
        input: await outcome(() => x.read()),
        device: await outcome(() => attention(x, x, x).out.read()),
      };
      outcomes.failed.held = await outcome(() => held.read());
      await outcome(() => d.synchronize());
      return { ...outcomes, last: lastKernel() };`,
      without('kernels.kv.put'),
    );
    const error = {
      code: 'ERR_CUDA',
      message: expect.stringMatching(/list of pages on cuda:0: no kernel image .*cudaErrorNoKernelImageForDevice/),
    };
    expect(got).toEqual({
      failed: { out: error, across: error, stream: error, later: error, held: error },
      input: 'fine',
      device: 'fine',
      last: expect.not.stringContaining('PagedTile'),
    });
  });

  test('is the error of what another stream makes of its result, whichever ends first', async () => {
    const got = await run(
      `
      const x = Tensor.randn([1, 4, 1, 64], { seed: 1, device });
      const part = attention(x, x, x);
      await part.out.read();
      const reads = [];
      for (let round = 0; round < 30; round++) {
        const [a, b] = [new Stream(device), new Stream(device)];
        attention(x, x, x, { stream: a }); // so that both have an end to wait for
        const { out } = merge([part, part], { stream: a });
        const half = out.to({ dtype: 'float16', stream: b });
        reads.push(await outcome(() => half.read()));
      }
      return reads;`,
      without('kernels.merge.merge'),
    );
    const error = { code: 'ERR_CUDA', message: expect.stringMatching(/merge on cuda:0: no kernel image/) };
    expect(got).toEqual(new Array(30).fill(error));
  });

  test.each([
    ['a selector', '(k, stream) => pagePlan(x, k, { budget: 64, causal: true, stream }).to("cpu").toDense()'],
    [
      'an estimate',
      '(k, stream) => (k === keys ? attention(x, k, k, { mask }) : attention(x, k, { mask, stream })).out',
    ],
  ])('takes with it what a cache was to keep for %s, which later calls make anew', async (_, made) => {
    const got = await run(
      `
      const x = Tensor.randn([1, 4, 1, 16], { seed: 1, device });
      const part = attention(x, x, x);
      const keys = Tensor.randn([1, 600, 1, 16], { seed: 2, device });
      const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 16, capacity: 1000, device });
      cache.append(keys, keys);
      const mask = streamingPlan({ queries: 4, keys: 600, window: 9, causal: true, estimate: true, device });
      const make = ${made};
      const read = async (k) => Array.from(await make(k).read());
      const want = await read(keys);
      await part.out.read();
      const fork = cache.fork();
      const [stream, other] = [new Stream(device), new Stream(device)];
      // First, so that the failure behind it is not known yet when the next calls are made.
      attention(keys, keys, keys, { stream });
      merge([part, part], { stream });
      const [first, across] = [
        outcome(() => make(cache, stream).read()),
        outcome(() => make(fork, other).read()),
      ];
      const failed = [await first];
      await across;
      const same = [];
      for (const of of [cache, fork, cache]) same.push(String(await read(of)) === String(want));
      return { failed, same };`,
      without('kernels.merge.merge'),
    );
    const error = { code: 'ERR_CUDA', message: expect.stringMatching(/merge on cuda:0: no kernel image/) };
    expect(got).toEqual({ failed: [error], same: [true, true, true] });
  });

  test('of a search leaves the index to later ones, and to those that are queued', async () => {
    const got = await run(
      `
      const part = attention(...Array(3).fill(Tensor.randn([1, 1, 4, 64], { seed: 1, device })));
      await part.out.read();
      const keys = Tensor.randn([1, 1500, 1, 64], { seed: 2, device });
      const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 2000, device, resident: { window: 64 } });
      cache.append(keys, keys);
      const index = new KvIndex(cache, { method: 'pages' });
      const q = Tensor.randn([1, 1, 4, 64], { seed: 3, device });
      // Copied to the host by a kernel, which is not there.
      const strided = Tensor.randn([1, 4, 2, 64], { seed: 4, device }).permute(0, 2, 1, 3).slice([0, 1], [0, 1]);
      const want = String(await new KvIndex(cache, { method: 'pages' }).search(q, 5).ids.read());
      const good = async (stream) => {
        const found = index.search(q, 5, { stream }).ids.read();
        const { out, touched } = index.attend(q, { topK: 5, window: 0, stream });
        return [String(await found) === want, await outcome(() => out.read()), await touched];
      };
      const bad = [];
      const later = [];
      const queued = [];
      for (const call of [
        (stream) => index.search(strided, 5, { stream }).ids,
        (stream) => index.attend(strided, { topK: 5, stream }).out,
        (stream) => index.search(merge([part, part], { stream: new Stream(device) }).out, 5, { stream }).ids,
      ]) {
        const [a, b] = [new Stream(device), new Stream(device)];
        const failing = call(a);
        queued.push(good(b));
        bad.push(await outcome(() => failing.read()));
        later.push(await good(b));
      }
      return { bad, later, queued: await Promise.all(queued) };`,
      { ...without('kernels.copy.copy', 'kernels.merge.merge') },
    );
    const error = (what: RegExp) => ({ code: 'ERR_CUDA', message: expect.stringMatching(what) });
    const [copy, merge] = [error(/copy on cuda:0: no kernel image/), error(/merge on cuda:0: no kernel image/)];
    const fine = new Array(3).fill([true, 'fine', expect.any(Number)]);
    expect(got).toEqual({ bad: [copy, copy, merge], later: fine, queued: fine });
  });

  test('is not one that a call before has left', async () => {
    const got = await run(`
      const x = Tensor.randn([2, 4, 1, 64], { seed: 1, device });
      const part = attention(x, x, x);
      await part.out.read();
      const cache = new KvCache({ batch: 2, kvHeads: 1, headDim: 64, capacity: 16, rope: {}, device });
      const calls = {
        copy: () => x.permute(1, 0, 2, 3).to({ dtype: 'float16' }),
        merge: () => merge([part, part]).out,
        rotate: () => {
          cache.append(x, x);
          return attention(x, cache).out;
        },
        put: () => attention(x, cache.fork()).out,
      };
      const results = {};
      for (const [name, call] of Object.entries(calls)) {
        leaveError();
        results[name] = await outcome(() => call().read());
      }
      return results;`);
    expect(got).toEqual({ copy: 'fine', merge: 'fine', rotate: 'fine', put: 'fine' });
  });
});

describe.skipIf(missing || !interpreted)(title('a device that is nearly full'), () => {
  const memory = { NODE_ATTENTION_STANDIN_MEMORY: String(2 ** 26) };
  // Takes memory by tensors of that size until there is none for another.
  const fill = `
    const fillers = [];
    const fill = (size) => {
      try {
        for (;;) fillers.push(Tensor.empty([size], { dtype: 'uint8', device }));
      } catch {}
    };`;

  test('an append that is refused has enqueued nothing and changed nothing, rotary embedding included', async () => {
    const got = await run(
      `${fill}
      const batch = 64;
      const empty = () =>
        new KvCache({ batch, kvHeads: 1, headDim: 8, pageSize: 1, capacity: 64, rope: {}, device });
      const stream = new Stream(device);
      const [many, one] = [16, 1].map((n) => Tensor.randn([batch, n, 1, 8], { seed: n, device }));
      const toFirst = (n) => ({ stream, lengths: [n, ...new Array(batch - 1).fill(0)] });
      const cache = empty();
      const begin = (each) => {
        for (let i = 0; i < 2; i++) each.append(many, many, toFirst(16));
      };
      begin(cache);
      await stream.synchronize();
      // There is room for rotated keys, but not for a list of 33 pages and more.
      fill(2 ** 20);
      fill(2 ** 13);
      fillers.pop().dispose();
      const refused = await outcome(() => cache.append(one, one, toFirst(1)));
      await stream.synchronize();
      const last = lastKernel();
      const length = cache.length;
      for (const filler of fillers) filler.dispose();
      const twin = empty();
      begin(twin);
      for (const each of [cache, twin]) each.append(one, one, toFirst(1));
      const results = [cache, twin].map((each) => attention(one, each, { stream }).out.read());
      const [made, wanted] = await Promise.all(results);
      return { refused, last, length, same: made.every((x, i) => x === wanted[i]) };`,
      memory,
    );
    expect(got).toEqual({
      refused: { code: 'ERR_OUT_OF_MEMORY', message: expect.stringContaining('cannot allocate') },
      last: expect.stringContaining('append_kernel'), // of what was there before
      length: 32,
      same: true,
    });
  });

  test('an attention over a cache that is refused has enqueued nothing', async () => {
    const got = await run(
      `${fill}
      const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 2048, rope: {}, device });
      const keys = Tensor.randn([1, 1500, 1, 64], { seed: 1, device });
      const q = Tensor.randn([1, 1, 8, 64], { seed: 2, device });
      cache.append(keys, keys);
      const wanted = await attention(q, cache).out.read();
      const fork = cache.fork(); // whose pages are listed by its first call
      const stream = new Stream(device);
      await Promise.all([q.read(), Tensor.zeros([1, 4, 1, 64], { device }).permute(0, 2, 1, 3).to('float16').read()]);
      const before = lastKernel();
      // There is room for results, rotated queries and a list of pages, but not for what the parts of the keys leave.
      fill(2 ** 20);
      fill(2 ** 10);
      for (let i = 0; i < 8; i++) fillers.pop().dispose();
      const refused = await outcome(() => attention(q, fork, { stream }));
      await stream.synchronize();
      const last = lastKernel();
      for (const filler of fillers) filler.dispose();
      const made = await attention(q, fork, { stream }).out.read();
      return { refused, same: last === before, before, right: made.every((x, i) => x === wanted[i]) };`,
      memory,
    );
    expect(got).toEqual({
      refused: { code: 'ERR_OUT_OF_MEMORY', message: expect.stringContaining('cannot allocate') },
      same: true,
      before: expect.stringContaining('copy_kernel'),
      right: true,
    });
  });

  test.each([
    ['attend', 'index.attend(q, { topK: 10, stream })'],
    ['attend without a window', 'index.attend(q, { topK: 10, window: 0, stream })'],
    ['search', 'index.search(q, 500, { stream })'],
  ])('%s of an index is enqueued as a whole or not at all, however much memory there is', async (_, call) => {
    const got = await run(
      `${fill}
      const resident = { window: 64 };
      const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 2048, rope: {}, device, resident });
      const keys = Tensor.randn([1, 1500, 1, 64], { seed: 1, device });
      const q = Tensor.randn([1, 1, 8, 64], { seed: 2, device });
      cache.append(keys, keys);
      const stream = new Stream(device);
      const index = new KvIndex(cache);
      const call = () => ${call};
      const read = async ({ out, lse, ids, scores, touched }) => {
        const made = [out ?? ids, lse ?? scores];
        const values = String(await Promise.all([...made.map((tensor) => tensor.read()), touched]));
        for (const tensor of made) tensor.dispose(); // so that none goes while they are counted
        return values;
      };
      const wanted = await read(call());
      gc();
      fill(2 ** 20);
      fill(2 ** 11);
      const rows = fillers.length;
      fill(2 ** 6);
      for (const filler of fillers.splice(rows)) filler.dispose(); // what rows of one number need, and less than 2 KiB
      await stream.synchronize();
      const state = () => [memoryStats(device).live, memoryStats('cpu').live, Number(launches(''))].join();
      const refusals = [];
      for (;;) {
        const before = state();
        let result;
        const refusal = await outcome(() => { result = call(); });
        if (result) return { refusals, right: (await read(result)) === wanted };
        await stream.synchronize();
        refusals.push([refusal.code, state() === before]);
        fillers.pop().dispose();
      }`,
      memory,
    );
    const { refusals, right } = got as { refusals: unknown[]; right: boolean };
    expect(right).toBe(true);
    expect(refusals.length).toBeGreaterThan(0);
    expect(refusals).toEqual(refusals.map(() => ['ERR_OUT_OF_MEMORY', true]));
  });

  test('an estimate that is refused room for means has enqueued nothing', async () => {
    const got = await run(
      `${fill}
      const cache = new KvCache({ batch: 1, kvHeads: 4, headDim: 16, capacity: 4096, device });
      const keys = Tensor.randn([1, 600, 4, 16], { seed: 1, device });
      const q = Tensor.randn([1, 1, 4, 16], { seed: 2, device });
      const mask = streamingPlan({ queries: 1, keys: 600, window: 9, keyBlock: 16, estimate: true, device });
      const [estimate, want] = [() => attention(q, cache, { mask }), await attention(q, keys, keys, { mask }).out.read()];
      cache.append(keys, keys);
      await attention(q, cache).out.read();
      const before = lastKernel();
      fill(2 ** 20);
      fill(2 ** 11); // less than a segment takes
      const [codes, held] = [new Set(), new Set()];
      let made;
      while (!made) {
        try {
          made = estimate();
        } catch (error) {
          codes.add(lastKernel() === before ? error.code : 'enqueued');
          held.add(cache.bytes);
          fillers.pop().dispose();
        }
      }
      const got = await made.out.read();
      // Room was refused for mean keys, and for mean values once there were these.
      return { codes: [...codes], held: held.size > 1, right: got.every((x, i) => x === want[i]) };`,
      memory,
    );
    expect(got).toEqual({ codes: ['ERR_OUT_OF_MEMORY'], held: true, right: true });
  });

  /** A cache has used all of its first slab, and the device has next to nothing left. */
  const filledSlab = `${fill}
    const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, pageSize: 64, capacity: 2 ** 16, device });
    const stream = new Stream(device);
    const [slab, page] = [32, 1].map((pages) => Tensor.zeros([1, pages * 64, 1, 64], { device }));
    cache.append(slab, slab, { stream }); // all that a first slab of 1 MiB has
    await stream.synchronize();
    fill(80 * 2 ** 10);`;

  test('a cache that was refused more pages than it needs does not ask for them with each append', async () => {
    // What is kept for reuse is given up where memory runs out, which waits for the device: so it tells.
    const got = await run(
      `${filledSlab}
      const kept = [];
      for (let round = 0; round < 6; round++) {
        for (let i = 0; i < (round === 0 ? 8 : 1); i++) fillers.pop().dispose(); // never 1 MiB in all
        const before = memoryStats(device).pooledBytes;
        cache.append(page, page, { stream });
        kept.push(memoryStats(device).pooledBytes >= before);
      }
      await stream.synchronize();
      return { kept, length: cache.length, slab: slab.byteLength };`,
      memory,
    );
    expect(got).toEqual({ kept: [false, true, true, true, true, true], length: 38 * 64, slab: 2 ** 19 });
  });

  test('a cache that was refused more pages than it needs asks for them once as much has become free', async () => {
    const got = await run(
      `${filledSlab}
      const grown = [];
      const append = async () => {
        const before = cache.bytes;
        cache.append(page, page, { stream });
        await stream.synchronize();
        grown.push((cache.bytes - before) / (page.byteLength * 2));
      };
      const free = (count) => {
        for (let i = 0; i < count; i++) fillers.pop().dispose();
      };
      free(8);
      await append(); // refused more
      free(12);
      await append(); // 992 KiB less than when it was refused, and 32 more for this page
      free(2);
      await append();
      await append();
      return grown;`,
      memory,
    );
    expect(got).toEqual([1, 1, 32, 0]);
  });
});
