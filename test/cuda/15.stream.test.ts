// Streams and events of the device: order, overlap, marks, thousands of operations.
import './support/device'; // before node-attention
import { attention, Stream, Tensor } from 'node-attention';
import { describe, expect, test } from 'vitest';
import { uniform } from '../support/numbers';
import { interpreted, missing, title } from './support/device';
import { work } from './support/work';

const ramp = (count: number, first = 0) => Float32Array.from({ length: count }, (_, i) => first + i);
const large = 3 * 2 ** 18; // elements: a copy of several pieces

describe.skipIf(missing)(title('streams'), () => {
  test('what another stream writes is waited for, large copies of pageable memory included', async () => {
    const [a, b] = [new Stream('cuda'), new Stream('cuda')];
    for (let round = 0; round < 5; round++) {
      const host = Tensor.from(ramp(large, round), [large]);
      const there = host.to({ device: 'cuda', stream: a });
      const again = there.to({ device: 'cuda', stream: b });
      there.dispose();
      const back = again.to({ device: 'cpu', stream: a });
      again.dispose();
      expect(
        Buffer.compare(
          Buffer.from(ramp(large, round).buffer),
          Buffer.from(((await back.read()) as Float32Array).buffer),
        ),
      ).toBe(0);
    }
  });

  test('a writer waits for readers on other streams', async () => {
    const [a, b] = [new Stream('cuda'), new Stream('cuda')];
    const x = Tensor.from(new Float32Array(64).fill(1), [1, 1, 1, 64], { device: 'cuda' });
    const y = Tensor.from(new Float32Array(64).fill(2), [1, 1, 1, 64], { device: 'cuda' });
    const out = Tensor.zeros([1, 1, 1, 64], { device: 'cuda' });
    for (let round = 0; round < 20; round++) {
      attention(x, x, x, { out, stream: a });
      const copy = out.to({ device: 'cpu', stream: a });
      attention(y, y, y, { out, stream: b });
      expect(new Set((await copy.read()) as Float32Array)).toEqual(new Set([1]));
    }
  });

  test('events: order between streams, and times that go forward', async () => {
    const [a, b] = [new Stream('cuda'), new Stream('cuda')];
    const start = a.record();
    const there = Tensor.from(ramp(large), [large]).to({ device: 'cuda', stream: a });
    const end = a.record();
    b.wait(end);
    const after = b.record();
    await after.done();
    await end.done();
    expect(await start.elapsedMs(end)).toBeGreaterThan(0);
    expect(await end.elapsedMs(after)).toBeGreaterThanOrEqual(0);
    expect(await start.elapsedMs(after)).toBeCloseTo((await start.elapsedMs(end)) + (await end.elapsedMs(after)), 3);
    there.dispose();
  });

  test('promises of one stream resolve in order', async () => {
    const stream = new Stream('cuda');
    const order: number[] = [];
    const host = Tensor.from(ramp(5000), [5000]);
    await Promise.all(
      Array.from({ length: 40 }, (_, i) => {
        if (i % 3 === 0) host.to({ device: 'cuda', stream }).dispose();
        return stream.synchronize().then(() => order.push(i));
      }),
    );
    expect(order).toEqual(order.map((_, i) => i));
  });

  test('thousands of operations, none lost', async () => {
    const stream = new Stream('cuda');
    let at = Tensor.from(ramp(8), [8], { device: 'cuda' });
    const operations = interpreted ? 3000 : 20_000;
    for (let i = 0; i < operations; i++) {
      const next = at.to({ device: 'cuda', stream });
      at.dispose();
      at = next;
    }
    expect(await at.read()).toEqual(ramp(8));
  });

  test('thousands of operations on streams that wait for each other', async () => {
    const streams = Array.from({ length: 3 }, () => new Stream('cuda'));
    const random = uniform(7);
    const pick = () => streams[Math.floor(random() * streams.length)]!;
    let at = Tensor.from(ramp(8), [8], { device: 'cuda' });
    for (let i = 0; i < 3000; i++) {
      const next = at.to({ device: 'cuda', stream: pick() });
      if (i % 50 === 0) pick().wait(pick().record());
      at.dispose();
      at = next;
    }
    expect(await at.read()).toEqual(ramp(8));
  });

  test('the event loop goes on while the device works and copies', async () => {
    const stream = new Stream('cuda');
    let turns = 0;
    const count = setInterval(() => turns++, 1);
    const host = Tensor.from(ramp(8 * large), [8 * large]);
    const begun = performance.now();
    // A quarter of a second of copies, whatever the device, so that a turn is not left out by chance.
    while (performance.now() - begun < 250) {
      for (let i = 0; i < 8; i++) host.to({ device: 'cuda', stream }).dispose();
      await stream.synchronize();
    }
    clearInterval(count);
    expect(turns).toBeGreaterThan(1);
  });

  test('the event loop goes on however much is queued behind an operation', async () => {
    // CUDA holds about a thousand launches for a stream that is at work, and makes the next one wait.
    const stream = new Stream('cuda');
    const small = Tensor.from(ramp(8), [8], { device: 'cuda' });
    const begun = performance.now();
    const working = work(stream);
    for (let i = 0; i < 3000; i++) small.to({ device: 'cuda', stream }).dispose();
    const enqueued = performance.now() - begun;
    await working;
    expect(enqueued).toBeLessThan((performance.now() - begun) / 2);
    expect(await small.to({ device: 'cuda', stream }).read()).toEqual(ramp(8));
  });

  test('dispose ends nothing that is queued', async () => {
    const stream = new Stream('cuda');
    const there = Tensor.from(ramp(large), [large]).to({ device: 'cuda', stream });
    stream.dispose();
    expect(((await there.read()) as Float32Array)[large - 1]).toBe(large - 1);
  });
});
