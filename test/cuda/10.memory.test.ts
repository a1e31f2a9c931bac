// Memory of the device: zeros, pools, running out of it, pinned memory of the host.
import './support/little-memory';
import './support/device'; // before node-attention
import { totalmem } from 'node:os';
import { AttentionError, memoryStats, Tensor } from 'node-attention';
import { describe, expect, test } from 'vitest';
import { interpreted, missing, title } from './support/device';

const caught = (fn: () => unknown): AttentionError => {
  try {
    fn();
  } catch (error) {
    return error as AttentionError;
  }
  throw new Error('nothing was thrown');
};

describe.skipIf(missing)(title('memory of the device'), () => {
  test('is counted, freed when its work is done, and kept for reuse', async () => {
    const before = memoryStats('cuda');
    const tensor = Tensor.zeros([1000, 1000], { device: 'cuda' });
    expect(memoryStats('cuda')).toMatchObject({ live: before.live + 1, bytes: before.bytes + 4e6 });
    tensor.dispose();
    await Tensor.zeros([1], { device: 'cuda' }).read(); // whatever was queued before it is done
    const { live, pooledBytes } = memoryStats('cuda');
    expect(live).toBeLessThanOrEqual(before.live + 1);
    expect(pooledBytes).toBeGreaterThanOrEqual(4e6);
    Tensor.empty([1000, 1000], { device: 'cuda', dtype: 'float32' }).dispose();
    expect(memoryStats('cuda').pooledBytes).toBe(pooledBytes); // the same block again
  });

  test('zeros are zero in memory that was used before', async () => {
    for (let round = 0; round < 5; round++) {
      const used = Tensor.from(new Float32Array(777).fill(Number.NaN), [777], { device: 'cuda' });
      used.dispose();
      const zeros = Tensor.zeros([777], { device: 'cuda' });
      expect(new Set((await zeros.read()) as Float32Array)).toEqual(new Set([0]));
      zeros.dispose();
    }
  });

  test('more than there is', () => {
    const error = caught(() => Tensor.empty([2 ** 42], { dtype: 'float32', device: 'cuda' }));
    expect(error).toBeInstanceOf(AttentionError);
    expect(error).toMatchObject({
      code: 'ERR_OUT_OF_MEMORY',
      message: expect.stringMatching(/16\.0 TiB on cuda:0: it has .* free of .*dispose\(\)/),
    });
  });

  test.runIf(interpreted)('what the pool keeps is given up when memory runs out', async () => {
    const half = 40 * 2 ** 20; // more than half of what the stand-in has
    Tensor.empty([half], { dtype: 'uint8', device: 'cuda' }).dispose();
    expect(memoryStats('cuda').pooledBytes).toBeGreaterThanOrEqual(half);
    const other = Tensor.empty([half + 2 ** 23], { dtype: 'uint8', device: 'cuda' });
    expect(memoryStats('cuda').pooledBytes).toBeLessThan(half);
    expect(caught(() => Tensor.empty([half], { dtype: 'uint8', device: 'cuda' }))).toMatchObject({
      code: 'ERR_OUT_OF_MEMORY',
    });
    other.dispose();
  });

  test('pinned memory is a view, copied both ways', async () => {
    const pinned = Tensor.empty([64, 64], { dtype: 'float32', pinned: true });
    expect(pinned.device).toBe('cpu');
    pinned.data.set(Float32Array.from({ length: 4096 }, (_, i) => i));
    const there = pinned.to('cuda');
    expect(((await there.permute(1, 0).read()) as Float32Array)[1]).toBe(64);
    expect(await there.read()).toEqual(await pinned.read());
  });

  test('pinned memory that the host does not have is refused before the host is asked', () => {
    const before = memoryStats('cpu');
    const error = caught(() => Tensor.empty([totalmem()], { dtype: 'uint8', pinned: true }));
    expect(error).toBeInstanceOf(AttentionError);
    expect(error).toMatchObject({
      code: 'ERR_OUT_OF_MEMORY',
      message: expect.stringMatching(
        /allocate [\d.]+ GiB of host memory pinned for cuda:0: of the [\d.]+ [KMGT]iB that the machine or the control group has, [\d.]+ [KMGT]?i?B can be pinned now: ask for less, .*dispose\(\)/,
      ),
    });
    const { live, bytes } = memoryStats('cpu');
    expect({ live, bytes }).toEqual({ live: before.live, bytes: before.bytes });
  });

  test('there is no pinned memory of the device', () => {
    const make = () => Tensor.empty([4], { dtype: 'float32', device: 'cuda', pinned: true });
    expect(caught(make).code).toBe('ERR_OPTION');
  });
});
