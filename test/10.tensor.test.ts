// Construction, views, memory and disposal of tensors.

import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import {
  type AttentionError,
  attention,
  type DType,
  memoryStats,
  type Tensor as T,
  Tensor,
  type TypedArray,
  toBfloat16,
} from 'node-attention';
import { describe, expect, test } from 'vitest';
import { refusal } from './support/refusal';
import { sanitized } from './support/sanitizer';

/** Work on the CPU that takes a while: its output is pending after the call, even if the system lets others run first. */
const slow = () => {
  const q = Tensor.randn([1, 1024, 4, 64], { seed: 1 });
  const k = Tensor.randn([1, 8192, 4, 64], { seed: 2 });
  const { out, lse } = attention(q, k, k);
  return { q, out, lse };
};

describe('construction', () => {
  test('arrays of another realm are arrays', () => {
    const foreign = runInNewContext('Float32Array.of(1, 2, 3)');
    expect(foreign).not.toBeInstanceOf(Float32Array);
    expect([...Tensor.from(foreign, [3]).data]).toEqual([1, 2, 3]);
    expect([...toBfloat16(foreign)]).toEqual([0x3f80, 0x4000, 0x4040]);
    for (const none of [runInNewContext('new DataView(new ArrayBuffer(4))'), runInNewContext('[1]'), {}, 1, null]) {
      expect(refusal(() => Tensor.from(none, [1])).code).toBe('ERR_DTYPE');
    }
  });

  test('from copies at call time and follows the array', () => {
    const data = Float32Array.of(1, 2, 3, 4, 5, 6);
    const tensor = Tensor.from(data, [2, 3]);
    data.fill(0);
    expect(tensor.dtype).toBe('float32');
    expect(tensor.shape).toEqual([2, 3]);
    expect(tensor.strides).toEqual([3, 1]);
    expect(tensor.device).toBe('cpu');
    expect(tensor.byteLength).toBe(24);
    expect([...(tensor as T<'float32'>).data]).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test.each<[DType, TypedArray]>([
    ['int32', Int32Array.of(-1, 2)],
    ['uint8', Uint8Array.of(1, 255)],
    ['int64', BigInt64Array.of(-1n, 2n)],
    ['bfloat16', Uint16Array.of(0x3f80, 0xffff)],
  ])('%s survives a round trip bit by bit', async (dtype, data) => {
    const tensor = Tensor.from(data, [2], { dtype });
    expect(tensor.dtype).toBe(dtype);
    expect(await tensor.read()).toEqual(data);
  });

  test('views of partly used buffers are copied from their own offset', () => {
    const whole = Float32Array.of(9, 1, 2, 9);
    expect([...Tensor.from(whole.subarray(1, 3), [2]).data]).toEqual([1, 2]);
  });

  test('zeros are zero, also in memory that was used before', () => {
    for (const length of [1, 100, 1 << 20]) {
      const dirty = Tensor.empty([length], { dtype: 'float32' });
      dirty.data.fill(7);
      dirty.dispose();
      globalThis.gc?.();
      expect(Tensor.zeros([length]).data.every((value) => value === 0)).toBe(true);
    }
  });

  test('empty memory is 64-byte aligned as seen by typed arrays of any type', () => {
    for (let bytes = 1; bytes < 5000; bytes += 377) {
      expect(Tensor.empty([bytes], { dtype: 'uint8' }).data.byteOffset).toBe(0);
    }
  });

  test('randn depends on the seed alone, and is standard normal', () => {
    const a = Tensor.randn([1001], { seed: 5 }).data;
    expect(Tensor.randn([7, 143], { seed: 5 }).data).toEqual(a);
    expect(Tensor.randn([1001], { seed: 6 }).data).not.toEqual(a);
    const many = Tensor.randn([200_000], { seed: 1 }).data;
    const moment = (power: number) => many.reduce((sum, x) => sum + x ** power, 0) / many.length;
    // Four standard errors of the sample moments of a standard normal distribution.
    expect(Math.abs(moment(1))).toBeLessThan(4 * Math.sqrt(1 / many.length));
    expect(Math.abs(moment(2) - 1)).toBeLessThan(4 * Math.sqrt(2 / many.length));
    expect(Math.abs(moment(4) - 3)).toBeLessThan(4 * Math.sqrt(96 / many.length));
  });

  test('a zero-length axis makes an empty tensor', async () => {
    const tensor = Tensor.zeros([2, 0, 3]);
    expect(tensor.byteLength).toBe(0);
    expect((await tensor.read()).length).toBe(0);
    expect(tensor.reshape([0]).data.length).toBe(0);
  });

  test.each<[string, () => unknown, string, RegExp]>([
    ['too few elements', () => Tensor.from(new Float32Array(5), [2, 3]), 'ERR_SHAPE', /5 elements.*\[2, 3\]/],
    ['negative length', () => Tensor.zeros([-1]), 'ERR_SHAPE', /shape\[0\].*-1/],
    ['fractional length', () => Tensor.zeros([1.5]), 'ERR_SHAPE', /shape\[0\].*1\.5/],
    ['shape is no array', () => Tensor.zeros(3 as never), 'ERR_SHAPE', /shape.*3/],
    ['count overflows', () => Tensor.zeros([2 ** 30, 2 ** 30]), 'ERR_SHAPE', /1073741824/],
    ['count overflows behind 0', () => Tensor.zeros([0, 2 ** 40, 2 ** 40]), 'ERR_SHAPE', /more .* than can be counted/],
    ['too many axes', () => Tensor.zeros(Array(9).fill(1)), 'ERR_SHAPE', /9 axes/],
    [
      'more than the machine has',
      () => Tensor.zeros([2 ** 44]),
      'ERR_OUT_OF_MEMORY',
      /TiB.*tensors are alive.*dispose/,
    ],
    ['bits without a type', () => Tensor.from(new Uint16Array(2), [2]), 'ERR_DTYPE', /Uint16Array.*dtype/],
    ['unknown array', () => Tensor.from(new Float64Array(2) as never, [2]), 'ERR_DTYPE', /Float64Array/],
    ['unknown dtype', () => Tensor.zeros([2], { dtype: 'float64' as never }), 'ERR_DTYPE', /'float64'/],
    ['no conversion', () => Tensor.from(new Int32Array(2), [2], { dtype: 'float32' }), 'ERR_DTYPE', /int32.*float32/],
    ['unknown device', () => Tensor.zeros([2], { device: 'gpu' as never }), 'ERR_DEVICE', /'gpu'.*'cpu'/],
    ['absent device', () => Tensor.zeros([2], { device: 'cuda:7' }), 'ERR_DEVICE', /'cuda:7'/],
    ['misspelled option', () => Tensor.zeros([2], { dType: 'int32' } as never), 'ERR_OPTION', /dType.*'dtype'/],
    ['no seed', () => Tensor.randn([2], {} as never), 'ERR_OPTION', /seed/],
    ['wrap of an ArrayBuffer', () => Tensor.wrap(new Float32Array(2), [2]), 'ERR_OPTION', /SharedArrayBuffer/],
  ])('%s', (_, fn, code, message) => {
    const live = memoryStats().live;
    const error = refusal(fn);
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(memoryStats().live).toBe(live);
  });
});

describe('views', () => {
  const shape = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 4 });

  /** The elements of a tensor by index arithmetic on its strides, from the elements of its allocation. */
  const elements = (view: T, base: Float32Array, offset = 0): number[] => {
    const result: number[] = [];
    const walk = (axis: number, at: number) => {
      if (axis === view.shape.length) result.push(base[at]!);
      else for (let i = 0; i < view.shape[axis]!; i++) walk(axis + 1, at + i * view.strides[axis]!);
    };
    walk(0, offset);
    return result;
  };

  test('permute, slice and reshape agree with index arithmetic and share memory', async () => {
    await fc.assert(
      fc.asyncProperty(shape, fc.infiniteStream(fc.nat(1000)), async (lengths, numbers) => {
        const next = (limit: number) => numbers.next().value! % limit;
        const count = lengths.reduce((a, b) => a * b, 1);
        const base = Float32Array.from({ length: count }, (_, i) => i);
        const tensor = Tensor.from(base, lengths);
        const order = lengths.map((_, i) => i).sort(() => next(3) - 1);
        const permuted = tensor.permute(...order);
        expect([...(await permuted.read())]).toEqual(elements(permuted, base));
        const ranges = permuted.shape.map((length) => {
          const start = next(length + 1);
          return [start, start + next(length - start + 1)] as const;
        });
        const sliced = permuted.slice(...ranges);
        const offset = ranges.reduce((sum, [start], axis) => sum + start * permuted.strides[axis]!, 0);
        expect([...(await sliced.read())]).toEqual(elements(sliced, base, offset));
        // A reshape either gives the same elements in the same order, or refuses.
        const splits = permuted.shape.flatMap((length) => (length === 4 ? [2, 2] : [length]));
        const split = permuted.reshape(splits); // splitting an axis never needs a copy
        expect([...(await split.read())]).toEqual(elements(permuted, base));
        try {
          expect([...(await permuted.reshape([count]).read())]).toEqual(elements(permuted, base));
        } catch (error) {
          expect((error as AttentionError).code).toBe('ERR_SHAPE');
          expect(elements(permuted, base)).not.toEqual([...base]);
        }
      }),
      { numRuns: 200 },
    );
  });

  test('empty views have any shape that is empty, and data', () => {
    const empty = Tensor.zeros([3, 4]).permute(1, 0).slice([0, 0]);
    expect(empty.reshape([0]).data.length).toBe(0);
    expect(empty.reshape([5, 0, 2]).data.length).toBe(0);
    expect(Tensor.zeros([0, 3, 4]).permute(0, 2, 1).data.length).toBe(0);
  });

  test('axes that are evenly spaced as one are cut anew without a copy', async () => {
    const even = Tensor.from(
      Float32Array.from({ length: 48 }, (_, i) => i),
      [4, 6, 2],
    ).slice([0, 4], [0, 6], [0, 1]);
    expect([...(await even.reshape([6, 4]).read())]).toEqual(Array.from({ length: 24 }, (_, i) => 2 * i));
  });

  test('views see writes through data', () => {
    const tensor = Tensor.zeros([4, 2]);
    const row = tensor.slice([2, 3]);
    row.data[1] = 5;
    expect(tensor.data[5]).toBe(5);
    expect(row.data.buffer).toBe(tensor.data.buffer); // one ArrayBuffer for each allocation
  });

  test('data of a view that is not contiguous is refused', () => {
    const error = refusal(() => Tensor.zeros([2, 3]).permute(1, 0).data);
    expect([error.code, error.message]).toEqual(['ERR_SHAPE', expect.stringContaining('strides [1, 3]')]);
  });

  test.each<[string, (t: T) => unknown, RegExp]>([
    ['reshape to another count', (t) => t.reshape([5]), /6 elements are not 5/],
    ['permute twice the same', (t) => t.permute(0, 0), /\[0, 0\]/],
    ['permute too few', (t) => t.permute(0), /\[0\]/],
    ['slice past the end', (t) => t.slice([0, 3]), /\[0, 3\].*axis 0/],
    ['slice backwards', (t) => t.slice([1, 0]), /\[1, 0\]/],
    ['slice too many axes', (t) => t.slice([0, 1], [0, 1], [0, 1]), /3 ranges/],
    ['slice by a number', (t) => t.slice(1 as never), /range of axis 0/],
  ])('%s', (_, fn, message) => {
    const error = refusal(() => fn(Tensor.zeros([2, 3])));
    expect([error.code, error.message]).toEqual(['ERR_SHAPE', expect.stringMatching(message)]);
  });
});

describe('to and read', () => {
  test('to always makes a new tensor', async () => {
    const tensor = Tensor.from(Float32Array.of(1.5, -2.5, Number.NaN, 1e10), [4]);
    const same = tensor.to('cpu');
    tensor.dispose();
    expect([...(await same.read())]).toEqual([1.5, -2.5, Number.NaN, 1e10]);
    expect([...(await same.to('int32').read())]).toEqual([1, -2, 0, 2147483647]);
    expect([...(await same.to({ dtype: 'uint8' }).read())]).toEqual([1, 0, 0, 255]);
  });

  test('read returns a copy that nothing overwrites', async () => {
    const tensor = Tensor.zeros([2]);
    const copy = await tensor.read();
    tensor.data[0] = 1;
    expect([...copy]).toEqual([0, 0]);
    tensor.dispose();
    copy[1] = 3;
    expect([...copy]).toEqual([0, 3]);
  });

  test('what a program gives an array as properties is not believed', async () => {
    const false1 = Object.defineProperty(new Float32Array(4).fill(1), 'byteLength', { value: 4000 });
    expect([...(await Tensor.from(false1, [4]).read())]).toEqual([1, 1, 1, 1]);
    const bytes = Object.setPrototypeOf(new Uint8Array(16), Float32Array.prototype) as Float32Array;
    Object.defineProperty(bytes, 'byteLength', { value: 64 });
    expect(Tensor.from(bytes, [16]).dtype).toBe('uint8');
    const detachable = Object.defineProperty(new Float32Array(4), 'buffer', { value: new SharedArrayBuffer(16) });
    expect(refusal(() => Tensor.wrap(detachable, [4])).code).toBe('ERR_OPTION');
    for (const fake of [new Proxy(Tensor.zeros([1]), {}), Object.create(Tensor.prototype)]) {
      expect(refusal(() => attention(fake, fake, fake)).code).toBe('ERR_OPTION');
    }
  });

  test('large strided copies are right (several tasks)', async () => {
    const [rows, columns] = [700, 333];
    const base = Float32Array.from({ length: rows * columns }, (_, i) => i);
    const flipped = await Tensor.from(base, [rows, columns]).permute(1, 0).read();
    for (let i = 0; i < columns; i += 17) {
      for (let j = 0; j < rows; j += 13) expect(flipped[i * rows + j]).toBe(base[j * columns + i]);
    }
  });
});

describe('memory', () => {
  test('pinned memory is memory of the CPU, with or without a GPU', async () => {
    const before = memoryStats().bytes;
    const x = Tensor.empty([1, 8, 1, 4], { dtype: 'float32', pinned: true });
    expect([x.device, memoryStats().bytes - before]).toEqual(['cpu', 128]);
    x.data.fill(3);
    expect((await attention(x, x, x).out.read())[0]).toBe(3);
    expect(refusal(() => Tensor.empty([1], { dtype: 'float32', pinned: 1 as never })).code).toBe('ERR_OPTION');
  });

  test('data is ERR_PENDING while work writes it, and readable afterwards', async () => {
    const { out } = slow();
    expect(refusal(() => out.data).code).toBe('ERR_PENDING');
    const copy = await out.read();
    expect(out.data).toEqual(copy);
  });

  test('use after dispose names the tensor; dispose is idempotent', () => {
    const tensor = Tensor.zeros([2, 3], { dtype: 'int32' });
    const view = tensor.reshape([6]);
    tensor.dispose();
    tensor.dispose();
    expect(tensor.disposed).toBe(true);
    for (const use of [() => tensor.data, () => tensor.read(), () => tensor.reshape([6]), () => tensor.to('int64')]) {
      const error = refusal(use);
      expect([error.code, error.message]).toEqual(['ERR_DISPOSED', expect.stringContaining('int32 Tensor [2, 3]')]);
    }
    expect(refusal(() => attention(tensor, view, view)).code).toBe('ERR_DISPOSED');
    expect(view.data.length).toBe(6); // views keep the memory
    tensor[Symbol.dispose]();
  });

  test('statistics follow what is alive', async () => {
    // What earlier tests left behind is collected first.
    for (let i = 0; i < 5; i++) {
      globalThis.gc?.();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    const before = memoryStats();
    const tensor = Tensor.zeros([1000]);
    const view = tensor.slice([0, 10]);
    expect(memoryStats().live).toBe(before.live + 1);
    expect(memoryStats().bytes).toBe(before.bytes + 4000);
    tensor.dispose();
    expect(memoryStats().live).toBe(before.live + 1);
    await view.read();
    view.dispose();
    expect(memoryStats()).toMatchObject({ live: before.live, bytes: before.bytes });
    expect(memoryStats().peakBytes).toBeGreaterThanOrEqual(before.bytes + 4000);
    // Whoever has read a tensor finds nothing left of the reading, whichever thread ends first.
    const other = Tensor.zeros([16]);
    for (let i = 0; i < 2000; i++) {
      await other.read();
      expect(memoryStats().live).toBe(before.live + 1);
    }
    other.dispose();
  });

  test.skipIf(!globalThis.gc || sanitized)(
    'disposed handles hold no memory, even when data was used (needs --expose-gc, and no sanitizer)',
    async () => {
      const handles: Tensor[] = [];
      const before = process.memoryUsage().rss;
      for (let i = 0; i < 40; i++) {
        const tensor = Tensor.empty([2 ** 22], { dtype: 'float32' });
        tensor.data.fill(i);
        tensor.dispose();
        handles.push(tensor);
        globalThis.gc?.();
        await new Promise((resolve) => setImmediate(resolve));
      }
      // 40 times 16 MiB, of which the pool may keep 256 MiB.
      expect(process.memoryUsage().rss - before).toBeLessThan(400 * 2 ** 20);
      expect(handles.every((tensor) => tensor.disposed)).toBe(true);
    },
  );

  test('inputs may be disposed of while work reads them', async () => {
    const q = Tensor.randn([1, 700, 2, 64], { seed: 3 });
    const expected = await attention(q, q, q).out.read();
    const { out } = attention(q, q, q);
    q.dispose();
    const noise = Tensor.empty([1, 700, 2, 64], { dtype: 'float32' }); // would land in the memory of q
    noise.data.fill(Number.NaN);
    expect(await out.read()).toEqual(expected);
  });

  test('wrap looks at the array itself, not at what a program has put in front of it', () => {
    const shared = new Float32Array(new SharedArrayBuffer(32), 8, 4).fill(3);
    Object.defineProperties(shared, { buffer: { value: new ArrayBuffer(4) }, byteOffset: { value: 2 ** 40 } });
    expect([...Tensor.wrap(shared, [4]).data]).toEqual([3, 3, 3, 3]);
  });

  test('what a tensor says of itself cannot be changed', () => {
    const tensor = Tensor.zeros([4]);
    for (const name of ['shape', 'strides', 'dtype', 'device'] as const) {
      expect(Reflect.set(tensor, name, [1e9]), name).toBe(false);
    }
    expect(Object.isFrozen(tensor.shape)).toBe(true);
    tensor.dispose();
    expect(tensor.disposed).toBe(true);
  });

  test('wrap shares memory both ways', async () => {
    const shared = new Float32Array(new SharedArrayBuffer(64), 16, 8);
    const tensor = Tensor.wrap(shared, [2, 4]);
    shared[3] = 7;
    expect(tensor.data[3]).toBe(7);
    expect(tensor.slice([1, 2]).data.byteOffset).toBe(32);
    expect((await tensor.read())[3]).toBe(7);
    const copy = tensor.to('cpu');
    tensor.dispose();
    expect((await copy.read())[3]).toBe(7);
  });

  test('what wraps one buffer waits for each other, and is no output of its own input', async () => {
    const shape = [1, 700, 1, 64];
    const array = new Float32Array(new SharedArrayBuffer(4 * 700 * 64 + 8), 8).fill(1);
    const [first, second] = [Tensor.wrap(array, shape), Tensor.wrap(array, shape)];
    const [input, many] = [Tensor.zeros(shape), Tensor.zeros([1, 65536, 1, 64])];
    for (const tensor of [input, many]) tensor.data.fill(7);
    attention(input, many, many, { out: first }); // takes a while
    expect(refusal(() => second.data).code).toBe('ERR_PENDING');
    first.dispose();
    expect(refusal(() => Tensor.wrap(array.subarray(64, 65), [1]).data).code).toBe('ERR_PENDING');
    for (const value of await second.read()) if (Math.abs(Number(value) - 7) > 1e-5) expect(value).toBeCloseTo(7, 5);
    expect(refusal(() => attention(second, input, input, { out: Tensor.wrap(array, shape) }))).toMatchObject({
      code: 'ERR_OPTION',
      message: expect.stringMatching(/out shares memory/),
    });
    // Halves that do not meet may be input and output of a call.
    const [from, to] = [
      Tensor.wrap(array.subarray(0, 64), [1, 1, 1, 64]),
      Tensor.wrap(array.subarray(64, 128), [1, 1, 1, 64]),
    ];
    attention(from, from, from, { out: to });
    expect((await to.read())[0]).toBeCloseTo(7, 5);
  });

  test.skipIf(!globalThis.gc)(
    'a wrapped buffer is let go of with the last that uses it (needs --expose-gc)',
    async () => {
      const before = memoryStats().live;
      const gone = await (async () => {
        const array = new Float32Array(new SharedArrayBuffer(4096));
        const [first, second] = [Tensor.wrap(array, [1024]), Tensor.wrap(array.subarray(512), [512])];
        expect(memoryStats().live).toBe(before + 1);
        first.dispose();
        expect(memoryStats().live).toBe(before + 1);
        await second.to('bfloat16').read();
        second.dispose();
        return new WeakRef(array.buffer);
      })();
      // deref() keeps what it gives alive until the turn ends, so it is never in that of gc().
      const turn = () => new Promise((resolve) => setTimeout(resolve, 5));
      let there = true;
      for (let i = 0; i < 20 && there; i++) {
        await turn();
        globalThis.gc?.();
        await turn();
        there = gone.deref() !== undefined;
      }
      expect(there).toBe(false);
    },
  );

  test.skipIf(!('transfer' in ArrayBuffer.prototype))(
    'a transferred buffer is refused by data, not by read (needs ArrayBuffer.prototype.transfer, Node 22)',
    async () => {
      const tensor = Tensor.zeros([4]);
      tensor.data[1] = 2;
      const moved = (tensor.data.buffer as ArrayBuffer & { transfer(): ArrayBuffer }).transfer();
      const error = refusal(() => tensor.data);
      expect([error.code, error.message]).toEqual(['ERR_DISPOSED', expect.stringContaining('detached')]);
      expect([...(await tensor.read())]).toEqual([0, 2, 0, 0]);
      tensor.dispose();
      expect(new Float32Array(moved)[1]).toBe(2);
    },
  );

  test.skipIf(!globalThis.gc)('collected tensors give their memory back (needs --expose-gc)', async () => {
    const before = memoryStats().live;
    for (let i = 0; i < 200; i++) {
      Tensor.zeros([100]);
      if (i % 50 === 0) Tensor.empty([100], { dtype: 'float32' }).data.fill(1);
    }
    for (let i = 0; i < 20 && memoryStats().live > before; i++) {
      globalThis.gc?.();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(memoryStats().live).toBeLessThanOrEqual(before);
  });
});
