// Streams, events and graphs.

import { AttentionError, type AttentionResult, attention, merge, Stream, Tensor } from 'node-attention';
import { describe, expect, test } from 'vitest';
import { allocated } from './support/allocated.cjs';
import { sanitized } from './support/sanitizer';

const code = (fn: () => unknown): string | undefined => {
  try {
    fn();
  } catch (error) {
    expect(error).toBeInstanceOf(AttentionError);
    return (error as AttentionError).code;
  }
};

const input = (seed: number, tokens = 512) => Tensor.randn([1, tokens, 2, 64], { seed });

describe('order', () => {
  test('a chain of operations on one stream is ordered without waiting', async () => {
    const x = input(1);
    let chained: AttentionResult = attention(x, x, x);
    const steps = [await attention(x, x, x).out.read()];
    for (let i = 0; i < 3; i++) {
      chained = attention(chained.out, x, x);
      const last = Tensor.from(steps[i]!, [1, 512, 2, 64]);
      steps.push(await attention(last, x, x).out.read());
    }
    expect(await chained.out.read()).toEqual(steps[3]);
  });

  test('a tensor pending on one stream is waited for on another', async () => {
    const [a, b] = [new Stream(), new Stream()];
    const x = input(2, 1024);
    const alone = await attention(x, x, x).out.read();
    const expected = await attention(Tensor.from(alone, [1, 1024, 2, 64]), x, x).out.read();
    for (let i = 0; i < 5; i++) {
      const first = attention(x, x, x, { stream: a });
      const second = attention(first.out, x, x, { stream: b });
      first.out.dispose();
      expect(await second.out.read()).toEqual(expected);
    }
  });

  test('a writer waits for readers on other streams', async () => {
    const [a, b] = [new Stream(), new Stream()];
    const x = input(3, 1024);
    const y = input(4, 1024);
    const out = Tensor.zeros([1, 1024, 2, 64]);
    const expected = await attention(x, x, x).out.read();
    for (let i = 0; i < 5; i++) {
      attention(x, x, x, { out, stream: a });
      const copy = out.to({ device: 'cpu', stream: a });
      attention(y, y, y, { out, stream: b }); // must not overtake the copy
      expect(await copy.read()).toEqual(expected);
    }
  });

  test('whoever learns that an operation has ended finds what it waited for ended too', async () => {
    const [a, b] = [new Stream(), new Stream()];
    const x = input(8, 16);
    for (let i = 0; i < 2000; i++) {
      const first = attention(x, x, x, { stream: a });
      const second = attention(x, x, x, { stream: a });
      const third = attention(second.out, x, x, { stream: b });
      await (i % 2 ? third.out.read() : b.synchronize());
      for (const { out } of [first, second, third]) expect(out.data.length).toBe(2048); // ERR_PENDING if not
      for (const { out, lse } of [first, second, third]) for (const tensor of [out, lse]) tensor.dispose();
    }
  });

  test('two streams run concurrently', async () => {
    // The short operation is enqueued last and, were there one queue, would end last.
    const [long, short] = [new Stream(), new Stream()];
    const x = input(5, 4096);
    const y = input(6, 16);
    const ended: string[] = [];
    for (let i = 0; i < 4; i++) attention(x, x, x, { stream: long });
    attention(y, y, y, { stream: short });
    await Promise.all([
      long.synchronize().then(() => ended.push('long')),
      short.synchronize().then(() => ended.push('short')),
    ]);
    expect(ended).toEqual(['short', 'long']);
  });

  test('promises of one stream resolve in order', async () => {
    const stream = new Stream();
    const x = input(7, 64);
    const order: number[] = [];
    const waits = Array.from({ length: 50 }, (_, i) => {
      attention(x, x, x, { stream });
      return stream
        .record()
        .done()
        .then(() => order.push(i));
    });
    await Promise.all(waits);
    expect(order).toEqual(Array.from({ length: 50 }, (_, i) => i));
  });
});

describe('events', () => {
  test('elapsedMs is the time of the work between, by the device', async () => {
    const stream = new Stream();
    const x = input(8, 2048);
    const begin = stream.record();
    attention(x, x, x, { stream });
    const middle = stream.record();
    attention(x, x, x, { stream });
    const end = stream.record();
    const [first, second, both] = await Promise.all([
      begin.elapsedMs(middle),
      middle.elapsedMs(end),
      begin.elapsedMs(end),
    ]);
    expect(first).toBeGreaterThan(0);
    expect(second).toBeGreaterThan(0);
    expect(first + second).toBeCloseTo(both, 6);
    expect(await end.elapsedMs(begin)).toBeCloseTo(-both, 6);
  });

  test('wait orders one stream after a point of another', async () => {
    const [a, b] = [new Stream(), new Stream()];
    const x = input(9, 2048);
    attention(x, x, x, { stream: a });
    const reached = a.record();
    b.wait(reached);
    const after = b.record();
    expect(await reached.elapsedMs(after)).toBeGreaterThanOrEqual(0);
  });
});

describe('graphs', () => {
  test('capture records, launch runs, outputs are overwritten by each launch', async () => {
    const stream = new Stream();
    const x = Tensor.zeros([1, 8, 1, 4]);
    let out: Tensor<'float32'> | undefined;
    const graph = stream.capture(() => {
      const once = attention(x, x, x, { stream });
      const twice = attention(once.out, x, x, { stream });
      out = merge([once, twice], { stream }).out as Tensor<'float32'>;
    });
    for (const value of [1, 2, 3]) {
      x.data.fill(value);
      graph.launch();
      expect([...(await out!.read())]).toEqual(Array(32).fill(value)); // every average of equal values
    }
    const other = new Stream();
    x.data.fill(4);
    graph.launch(other);
    await other.synchronize();
    expect(out!.data[0]).toBe(4);
    graph.dispose();
    graph.dispose();
    expect(code(() => graph.launch())).toBe('ERR_DISPOSED');
    expect(() => graph.launch()).toThrow(/^this Graph was disposed of; capture a new one$/);
  });

  test('thousands of launches', async () => {
    const stream = new Stream();
    const x = input(10, 4);
    const graph = stream.capture(() => void attention(x, x, x, { stream }));
    for (let i = 0; i < 5000; i++) graph.launch();
    await stream.synchronize();
  });

  test('a graph keeps what it reads', async () => {
    const stream = new Stream();
    const x = Tensor.from(new Float32Array(32).fill(2), [1, 8, 1, 4]);
    let out: Tensor | undefined;
    const graph = stream.capture(() => {
      out = attention(x, x, x, { stream }).out;
    });
    x.dispose();
    Tensor.empty([1, 8, 1, 4], { dtype: 'float32' }).data.fill(Number.NaN);
    graph.launch();
    expect((await out!.read())[0]).toBe(2);
  });

  test('a failing capture leaves the stream as it was', async () => {
    const stream = new Stream();
    const x = input(11, 8);
    expect(() =>
      stream.capture(() => {
        attention(x, x, x, { stream });
        throw new Error('mine');
      }),
    ).toThrow('mine');
    expect(code(() => stream.capture(async () => {}))).toBe('ERR_OPTION');
    await attention(x, x, x, { stream }).out.read();
  });

  test('dispose, record, wait, launch and a second capture are refused inside', () => {
    const stream = new Stream();
    const event = stream.record();
    const graph = stream.capture(() => {});
    for (const fn of [
      () => stream.dispose(),
      () => stream.record(),
      () => stream.wait(event),
      () => graph.launch(),
      () => stream.capture(() => {}),
    ]) {
      stream.capture(() => expect(code(fn)).toBe('ERR_OPTION'));
    }
  });
});

describe('limits', () => {
  test.skipIf(sanitized)(
    'a million no-ops awaited every thousand use constant memory (not under sanitizers)',
    async () => {
      const stream = new Stream();
      const event = stream.record();
      const run = async (count: number) => {
        for (let i = 0; i < count; i++) {
          stream.wait(event);
          if (i % 1000 === 999) await stream.synchronize();
        }
      };
      await run(100_000);
      globalThis.gc?.();
      const before = allocated();
      await run(1_000_000);
      globalThis.gc?.();
      expect(allocated() - before).toBeLessThan(2 ** 20); // a byte for each
    },
  );

  test.skipIf(sanitized)(
    'a queued operation costs at most 256 bytes, past the limit calls fail (not under sanitizers)',
    async () => {
      const stream = new Stream();
      const event = stream.record();
      await stream.synchronize();
      const x = input(12, 4096);
      for (let i = 0; i < 16; i++) attention(x, x, x, { stream }); // keeps the stream busy
      const before = allocated();
      let queued = 0;
      let error: AttentionError | undefined;
      while (!error && queued <= 2 ** 18) {
        try {
          stream.wait(event);
          queued++;
        } catch (caught) {
          error = caught as AttentionError;
        }
      }
      const bytes = (allocated() - before) / queued;
      expect(error?.code).toBe('ERR_OUT_OF_MEMORY');
      expect(error?.message).toMatch(/262144.*synchronize/);
      expect(queued).toBeGreaterThan(262_000);
      expect(bytes).toBeLessThan(256);
      await stream.synchronize();
      stream.wait(event); // there is room again
      await stream.synchronize();
    },
  );

  test('errors', () => {
    const stream = new Stream();
    const x = input(13, 4);
    stream.dispose();
    stream.dispose();
    expect(code(() => stream.synchronize())).toBe('ERR_DISPOSED');
    expect(code(() => attention(x, x, x, { stream }))).toBe('ERR_DISPOSED');
    expect(() => attention(x, x, x, { stream })).toThrow(/^stream, a Stream on cpu, was disposed of/);
    expect(code(() => attention(x, x, x, { stream: {} as never }))).toBe('ERR_OPTION');
    expect(code(() => new Stream('cuda:99'))).toBe('ERR_DEVICE');
    expect(code(() => new Stream(1 as never))).toBe('ERR_DEVICE');
    expect(code(() => new Stream().wait({} as never))).toBe('ERR_OPTION');
    expect(code(() => new Stream().capture(1 as never))).toBe('ERR_OPTION');
  });

  test('a stream disposed of while busy finishes its work', async () => {
    const stream = new Stream();
    const x = input(14, 2048);
    const { out } = attention(x, x, x, { stream });
    stream.dispose();
    expect((await out.read()).some(Number.isNaN)).toBe(false);
  });
});
