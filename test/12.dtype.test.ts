// Conversions between element types, and views, against arithmetic done here.

import fc from 'fast-check';
import { fromBfloat16, fromFloat16, Tensor, toBfloat16, toFloat16 } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { count, decode, formats, fromBits, round } from './support/numbers';

const halves = [
  { dtype: 'float16', to: toFloat16, from: fromFloat16, infinity: 0x7c00 },
  { dtype: 'bfloat16', to: toBfloat16, from: fromBfloat16, infinity: 0x7f80 },
] as const;

describe.each(halves)('$dtype', ({ dtype, to, from, infinity }) => {
  const every = Uint16Array.from({ length: 65536 }, (_, bits) => bits);
  const isNaNBits = (bits: number) => (bits & 0x7fff) > infinity;

  it('gives the value of all bits', () => {
    from(every).forEach((value, bits) => {
      if (!Object.is(value, fromBits(dtype, bits))) throw new Error(`${bits.toString(16)} gave ${value}`);
    });
  });

  it('comes back from float32 unchanged, NaN as NaN', () => {
    to(from(every)).forEach((again, bits) => {
      if (isNaNBits(bits) ? !isNaNBits(again) : again !== bits) throw new Error(`${bits} came back as ${again}`);
    });
  });

  it('rounds to nearest, ties to even', () => {
    const samples: number[] = [];
    const bits = new DataView(new ArrayBuffer(4));
    // Every number of the type, the middle to the next, and the float32 neighbours of that middle.
    for (let half = 0; half < infinity; half++) {
      const low = fromBits(dtype, half);
      const high = half + 1 === infinity ? 2 ** (formats[dtype].greatest + 1) : fromBits(dtype, half + 1);
      const middle = (low + high) / 2;
      bits.setFloat32(0, middle);
      for (const step of [-1, 0, 1]) {
        const near = new DataView(new ArrayBuffer(4));
        near.setUint32(0, Math.max(bits.getUint32(0) + step, 0));
        samples.push(near.getFloat32(0), -near.getFloat32(0));
      }
    }
    const rounded = to(Float32Array.from(samples));
    samples.forEach((x, n) => {
      const want = round(dtype, x);
      const got = fromBits(dtype, rounded[n]!);
      if (got !== want) throw new Error(`${x} became ${got}, not ${want}`);
    });
  });

  it('keeps NaN, infinities and signed zeros', () => {
    const given = Float32Array.of(
      Number.NaN,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      0,
      -0,
      3.5e38,
      -1e-46,
    );
    const [nan, ...others] = to(given);
    expect(isNaNBits(nan!)).toBe(true);
    expect(others).toEqual([infinity, infinity | 0x8000, 0, 0x8000, infinity, 0x8000]);
  });

  it('is what tensors convert with, both ways', async () => {
    const random = fc.sample(fc.float({ noNaN: true }), { numRuns: 5000, seed: 1 });
    const data = Float32Array.from(random);
    const made = Tensor.from(data, [data.length], { dtype });
    const moved = Tensor.from(data, [data.length]).to(dtype);
    const want = Float64Array.from(data, (x) => round(dtype, x));
    expect(decode(dtype, made.data)).toEqual(want);
    expect(decode(dtype, await moved.read())).toEqual(want);
    expect(Float64Array.from(await moved.to('float32').read())).toEqual(want);
    const bits = Tensor.from(to(data), [data.length], { dtype });
    expect(decode(dtype, bits.data)).toEqual(want);
  });
});

describe('element types', () => {
  it('follow the array', () => {
    const made = (data: Parameters<typeof Tensor.from>[0]) => Tensor.from(data, [data.length]).dtype;
    expect(made(new Float32Array(2))).toBe('float32');
    expect(made(new Int32Array(2))).toBe('int32');
    expect(made(new Uint8Array(2))).toBe('uint8');
    expect(made(new BigInt64Array(2))).toBe('int64');
    expect(Tensor.from(Uint16Array.of(0x3f80), [1], { dtype: 'bfloat16' }).dtype).toBe('bfloat16');
  });

  it('a Uint16Array needs to be told which half type it holds', () => {
    const data = new Uint16Array(2);
    expect(() => Tensor.from(data, [2])).toThrow(expect.objectContaining({ code: 'ERR_DTYPE' }));
    expect(() => Tensor.from(data, [2])).toThrow(/Uint16Array.*bfloat16/);
    expect(() => Tensor.from(data, [2], { dtype: 'float32' })).toThrow(expect.objectContaining({ code: 'ERR_DTYPE' }));
  });

  it('have their sizes', () => {
    const bytes = { float32: 4, float16: 2, bfloat16: 2, int32: 4, uint8: 1, int64: 8 } as const;
    for (const [dtype, size] of Object.entries(bytes)) {
      const tensor = Tensor.zeros([3, 5], { dtype: dtype as keyof typeof bytes });
      expect([tensor.dtype, tensor.byteLength, tensor.data.byteLength]).toEqual([dtype, 15 * size, 15 * size]);
    }
  });
});

describe('views', () => {
  /** A view as this test computes it: where each element lies. */
  interface Model {
    shape: number[];
    strides: number[];
    offset: number;
  }

  const contiguous = (shape: number[]): Model => {
    const strides = shape.map((_, axis) => count(shape.slice(axis + 1)));
    return { shape, strides, offset: 0 };
  };

  function elements({ shape, strides, offset }: Model): number[] {
    return Array.from({ length: count(shape) }, (_, n) => {
      let at = offset;
      for (let axis = shape.length - 1; axis >= 0; axis--) {
        at += (n % shape[axis]!) * strides[axis]!;
        n = Math.floor(n / shape[axis]!);
      }
      return at;
    });
  }

  const shapes = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 });
  const steps = fc.array(fc.tuple(fc.constantFrom('slice', 'permute', 'reshape'), fc.nat()), { maxLength: 5 });

  it('hold the elements that index arithmetic gives', async () => {
    await fc.assert(
      fc.asyncProperty(shapes, steps, async (shape, list) => {
        const base = Tensor.from(
          Int32Array.from({ length: count(shape) }, (_, n) => n),
          shape,
        );
        let view: Tensor = base;
        let model = contiguous(shape);
        for (const [kind, seed] of list) {
          if (kind === 'slice') {
            const ranges = model.shape.map((extent, axis) => {
              const start = Math.floor(seed / 3 ** axis) % (extent + 1);
              return [start, start + (Math.floor(seed / 5 ** axis) % (extent - start + 1))] as const;
            });
            view = view.slice(...ranges);
            model = {
              shape: ranges.map(([start, stop]) => stop - start),
              strides: model.strides,
              offset: ranges.reduce((sum, [start], axis) => sum + start * model.strides[axis]!, model.offset),
            };
          } else if (kind === 'permute') {
            const axes = model.shape
              .map((_, axis) => axis)
              .sort((a, b) => ((seed >> a) % 7) - ((seed >> b) % 7) || a - b);
            view = view.permute(...axes);
            model = {
              shape: axes.map((axis) => model.shape[axis]!),
              strides: axes.map((axis) => model.strides[axis]!),
              offset: model.offset,
            };
          } else {
            // Flat, or with an axis of length 1 more; refused when the elements are not evenly spaced.
            const target = seed % 2 ? [count(model.shape)] : [...model.shape.slice(0, 1), 1, ...model.shape.slice(1)];
            const order = elements(model);
            const gap = order.length > 1 ? order[1]! - order[0]! : 1;
            const even = order.every((at, n) => at === order[0]! + n * gap);
            if (seed % 2 && !even) {
              expect(() => view.reshape(target)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
              continue;
            }
            view = view.reshape(target);
            model =
              seed % 2
                ? { shape: target, strides: [gap], offset: order[0] ?? 0 }
                : {
                    shape: target,
                    strides: [model.strides[0]!, 0, ...model.strides.slice(1)],
                    offset: model.offset,
                  };
          }
          expect(view.shape).toEqual(model.shape);
          expect([...(await view.read())]).toEqual(elements(model));
          expect([...(await view.to('cpu').read())]).toEqual(elements(model));
        }
      }),
      { numRuns: 200, seed: 12 },
    );
  });

  it('split and join axes without a copy where strides allow', async () => {
    const base = Tensor.from(
      Int32Array.from({ length: 24 }, (_, n) => n),
      [4, 6],
    );
    const part = base.slice([1, 3], [0, 6]); // rows 1 and 2, side by side
    expect([...part.reshape([2, 2, 3]).data]).toEqual([...part.data]);
    const turned = base.permute(1, 0); // [6, 4], strides [1, 6]
    expect(turned.strides).toEqual([1, 6]);
    const split = turned.reshape([2, 3, 2, 2]);
    expect(split.strides).toEqual([3, 1, 12, 6]);
    expect([...(await split.read())]).toEqual([...(await turned.read())]);
    expect(() => turned.reshape([24])).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
    expect(() => base.slice([0, 4], [0, 5]).reshape([20])).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
    expect(() => base.reshape([5, 5])).toThrow(/reshape.*\[5, 5\]/);
  });

  it('share memory with their tensor', () => {
    const base = Tensor.zeros([3, 4]);
    base.data[6] = 5;
    expect([...base.slice([1, 2]).data]).toEqual([0, 0, 5, 0]);
    base.slice([2, 3]).data[0] = 7;
    expect(base.data[8]).toBe(7);
    expect([base.byteLength, base.slice([1, 2]).byteLength]).toEqual([48, 16]);
  });

  it('refuse what they cannot be', () => {
    const base = Tensor.zeros([3, 4]);
    for (const wrong of [
      () => base.slice([0, 4]),
      () => base.slice([2, 1]),
      () => base.slice([-1, 2]),
      () => base.slice([0, 1], [0, 1], [0, 1]),
      () => base.permute(0),
      () => base.permute(0, 0),
      () => base.permute(0, 2),
      () => base.reshape([7]),
      () => base.permute(1, 0).data,
    ]) {
      expect(wrong).toThrow(expect.objectContaining({ code: 'ERR_SHAPE', name: 'AttentionError' }));
    }
  });
});
