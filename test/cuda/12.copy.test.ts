// Copies to, from and on the device: shapes, strides, dtypes and places against what the CPU makes of them.
import './support/device'; // before node-attention
import fc from 'fast-check';
import {
  AttentionError,
  type DType,
  memoryStats,
  permuteTokens,
  restoreTokens,
  Tensor,
  type TypedArray,
} from 'node-attention';
import { describe, expect, test } from 'vitest';
import { interpreted, missing, title } from './support/device';

const dtypes: DType[] = ['float32', 'float16', 'bfloat16', 'int32', 'uint8', 'int64'];

// Numbers at which conversions round, saturate or have no value.
const special = [
  0,
  -0,
  1,
  -1,
  0.5,
  1.5,
  2.5,
  -2.5,
  254.5,
  255,
  256,
  300,
  -300,
  1e-8,
  6e-8,
  65504,
  65519,
  65520,
  1e10,
  -1e10,
  3e38,
  -3e38,
  2147483647,
  2147483648,
  -2147483649,
  9.3e18,
  -9.3e18,
  Number.NaN,
  Infinity,
  -Infinity,
];

/** A tensor of that dtype on the CPU, from float32 numbers. */
function numbers(shape: number[], dtype: DType, seed: number): Tensor {
  const count = shape.reduce((a, b) => a * b, 1);
  const data = Float32Array.from({ length: count }, (_, i) => {
    const at = (i * 7 + seed) % (2 * special.length);
    return at < special.length ? special[at]! : ((i * 2654435761 + seed * 97) % 4001) / 8 - 250;
  });
  return Tensor.from(data, shape).to(dtype);
}

/** The bits of what a tensor holds. */
async function bits(tensor: Tensor): Promise<Uint8Array> {
  const data: TypedArray = await tensor.read();
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** How a view is cut out of a tensor. */
interface Cut {
  shape: number[];
  starts: number[];
  stops: number[];
  order: number[];
}

const cuts: fc.Arbitrary<Cut> = fc.integer({ min: 1, max: 5 }).chain((rank) =>
  fc
    .record({
      lengths: fc.array(fc.record({ before: fc.nat(2), length: fc.nat(9), behind: fc.nat(2) }), {
        minLength: rank,
        maxLength: rank,
      }),
      order: fc.shuffledSubarray([...Array(rank).keys()], { minLength: rank }),
    })
    .map(({ lengths, order }) => ({
      shape: lengths.map((axis) => axis.before + axis.length + axis.behind),
      starts: lengths.map((axis) => axis.before),
      stops: lengths.map((axis) => axis.before + axis.length),
      order,
    })),
);

const cut = (whole: Tensor, { starts, stops, order }: Cut): Tensor =>
  whole.slice(...starts.map((start, i) => [start, stops[i]!] as const)).permute(...order);

const runs = { numRuns: interpreted ? 60 : 400 };

describe.skipIf(missing)(title('copies'), () => {
  const pairs = dtypes.flatMap((from) => dtypes.map((to) => [from, to] as const));

  test.each(pairs)('%s to %s: on the way there, back, and on the device', async (from, to) => {
    const source = numbers([3, 5, 8], from, 3);
    const want = await bits(source.to(to));
    const there = source.to('cuda');
    expect(await bits(source.to({ device: 'cuda', dtype: to }))).toEqual(want);
    expect(await bits(there.to({ device: 'cpu', dtype: to }))).toEqual(want);
    expect(await bits(there.to(to))).toEqual(want);
    const view = (tensor: Tensor) => tensor.slice([0, 3], [1, 4], [3, 8]).permute(2, 0, 1); // one by one
    const viewed = await bits(view(source).to(to));
    expect(await bits(view(there).to(to))).toEqual(viewed);
    expect(await bits(view(there).to({ device: 'cpu', dtype: to }))).toEqual(viewed);
  });

  test('any view, any way', async () => {
    await fc.assert(
      fc.asyncProperty(
        cuts,
        fc.constantFrom(...dtypes),
        fc.constantFrom(...dtypes),
        fc.nat(50),
        async (of, from, to, seed) => {
          const source = numbers(of.shape, from, seed);
          const want = await bits(cut(source, of).to(to));
          const there = cut(source.to('cuda'), of);
          expect(await bits(cut(source, of).to({ device: 'cuda', dtype: to }))).toEqual(want);
          expect(await bits(there.to(to))).toEqual(want);
          expect(await bits(there.to({ device: 'cpu', dtype: to }))).toEqual(want);
        },
      ),
      runs,
    );
  });

  test('pinned memory that was freed is given back before other blocks are asked for, when there is much of it', () => {
    const make = (mib: number) => Tensor.empty([mib * 2 ** 18], { dtype: 'float32', pinned: true });
    const few = [make(40), make(41)];
    for (const each of few) each.dispose();
    const { pooledBytes } = memoryStats('cuda');
    make(12).dispose(); // less is kept
    expect(memoryStats('cuda').pooledBytes).toBeGreaterThan(pooledBytes);
    const many = Array.from({ length: 5 }, () => make(56));
    for (const each of many) each.dispose();
    make(24).dispose();
    expect(memoryStats('cuda').pooledBytes).toBeLessThan(pooledBytes);
  });

  test('views of pinned memory', async () => {
    await fc.assert(
      fc.asyncProperty(cuts, fc.constantFrom('float32', 'bfloat16', 'uint8'), fc.nat(50), async (of, to, seed) => {
        const pinned = Tensor.empty(of.shape, { dtype: 'float32', pinned: true });
        pinned.data.set((await numbers(of.shape, 'float32', seed).read()) as Float32Array);
        const want = await bits(cut(pinned, of).to(to));
        expect(await bits(cut(pinned, of).to({ device: 'cuda', dtype: to }))).toEqual(want);
      }),
      { numRuns: interpreted ? 20 : 200 },
    );
  });

  // Longer than several pieces of staging memory.
  const long = 3 * 2 ** 20 + 12345;

  test('large copies from and to pageable memory, in order with what follows', async () => {
    const bytes = Uint8Array.from({ length: long }, (_, i) => (i * 31 + (i >> 9)) & 255);
    const tensor = Tensor.from(bytes, [long], { device: 'cuda' });
    const back = tensor.read();
    const again = tensor.to('cuda').read();
    expect(Buffer.compare((await back) as Uint8Array, bytes)).toBe(0);
    expect(Buffer.compare((await again) as Uint8Array, bytes)).toBe(0);
  });

  test('large views, converted, in pieces through a workspace', async () => {
    const host = Tensor.from(
      Int32Array.from({ length: 90 * 1504 }, (_, i) => i * 31337),
      [90, 1504],
    );
    const view = (tensor: Tensor) => tensor.slice([0, 90], [2, 1502]);
    const there = host.to({ device: 'cuda', dtype: 'int64' });
    const want = await bits(view(host));
    expect(Buffer.compare(await bits(view(there).to({ device: 'cpu', dtype: 'int32' })), want)).toBe(0);
  }, 120_000);

  test('tokens in another order, and back', async () => {
    const extents = fc.array(fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 4 })), {
      minLength: 1,
      maxLength: 3,
    });
    const orders = extents.chain((axes) =>
      fc.record({
        shape: fc.constant(axes.map(([boxes, each]) => boxes * each)),
        box: fc.constant(axes.map(([, each]) => each)),
        order: fc.shuffledSubarray([...axes.keys()], { minLength: axes.length }),
      }),
    );
    await fc.assert(
      fc.asyncProperty(orders, fc.constantFrom(...dtypes), async ({ shape, ...order }, dtype) => {
        const host = numbers([2, ...shape, 3, 5], dtype, shape.length);
        const permuted = permuteTokens(host.to('cuda'), order);
        expect([permuted.device, await bits(permuted)]).toEqual(['cuda:0', await bits(permuteTokens(host, order))]);
        const restored = restoreTokens(permuted, { ...order, shape });
        expect([restored.shape, await bits(restored)]).toEqual([host.shape, await bits(host)]);
      }),
      { numRuns: interpreted ? 30 : 200 },
    );
  });

  test('nothing at all', async () => {
    for (const shape of [[0], [3, 0, 2], [0, 4]]) {
      const there = Tensor.zeros(shape, { device: 'cuda' });
      expect((await there.read()).length).toBe(0);
      expect((await there.to('uint8').to('cpu').read()).length).toBe(0);
    }
  });

  test('a copy of host memory is that of the call', async () => {
    const host = Tensor.from(new Float32Array(1000).fill(1), [1000]);
    const there = host.to('cuda');
    await there.read();
    (host.data as Float32Array).fill(2);
    expect(new Set((await there.read()) as Float32Array)).toEqual(new Set([1]));
    expect(new Set((await host.to('cuda').read()) as Float32Array)).toEqual(new Set([2]));
  });

  test('a device that is not there', () => {
    expect(() => Tensor.zeros([1]).to('cuda:7' as 'cuda')).toThrow(AttentionError);
  });
});
