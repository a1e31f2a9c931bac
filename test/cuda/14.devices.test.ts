// Two devices: copies between them, order across them, and calls that mix them.
// not on a device: machines differ
import './support/two-devices';
import './support/device'; // before node-attention
import { AttentionError, attention, devices, Stream, Tensor } from 'node-attention';
import { describe, expect, test } from 'vitest';
import { interpreted, missing, title } from './support/device';

const ramp = (count: number, first = 0) => Float32Array.from({ length: count }, (_, i) => first + i);

describe.skipIf(missing || !interpreted)(title('two devices'), () => {
  test('are listed', () => {
    expect(
      devices()
        .filter((one) => one.backend === 'cuda')
        .map((one) => one.device),
    ).toEqual(['cuda:0', 'cuda:1']);
  });

  test('copies between them: dense, strided, converted', async () => {
    const host = Tensor.from(ramp(6 * 7 * 8), [6, 7, 8]);
    const view = (tensor: Tensor) => tensor.permute(1, 2, 0).slice([1, 6], [0, 8], [2, 5]);
    for (const [from, to] of [
      ['cuda:0', 'cuda:1'],
      ['cuda:1', 'cuda:0'],
    ] as const) {
      const there = host.to(from);
      expect(await there.to(to).read()).toEqual(await host.read());
      expect(await view(there).to(to).read()).toEqual(await view(host).read());
      const want = await view(host).to('int64').read();
      expect(await view(there).to({ device: to, dtype: 'int64' }).read()).toEqual(want);
      for (const worker of [from, to]) {
        const stream = new Stream(worker);
        expect(await view(there).to({ device: to, dtype: 'int64', stream }).read()).toEqual(want);
      }
    }
  });

  test('work on one waits for work on the other', async () => {
    for (let round = 0; round < 10; round++) {
      const one = Tensor.from(ramp(3 << 18, round), [3 << 18], { device: 'cuda:0' });
      const two = one.to('cuda:1');
      one.dispose();
      const back = two.to('cuda:0');
      two.dispose();
      expect(((await back.read()) as Float32Array)[99_999]).toBe(round + 99_999);
      back.dispose();
    }
  });

  test('a call that mixes them is refused', () => {
    const [q, k] = (['cuda:0', 'cuda:1'] as const).map((device) => Tensor.zeros([1, 4, 1, 64], { device }));
    for (const call of [() => attention(q!, k!, k!), () => attention(q!, q!, q!, { stream: new Stream('cuda:1') })]) {
      expect(call).toThrow(AttentionError);
    }
  });
});
