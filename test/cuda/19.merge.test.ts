// merge() on the device against the CPU's.
import './support/device'; // before node-attention
import fc from 'fast-check';
import { merge, Tensor } from 'node-attention';
import { describe, expect, test } from 'vitest';
import { roundoff } from '../support/numbers';
import { interpreted, missing, schedule, schedules, title } from './support/device';

const floats = ['float32', 'float16', 'bfloat16'] as const;

interface Part {
  out: Tensor;
  lse: Tensor;
}

const part = (shape: number[], dtype: (typeof floats)[number], seed: number, lse?: number): Part => ({
  out: Tensor.randn(shape, { seed, dtype }),
  lse:
    lse === undefined
      ? Tensor.randn(shape.slice(0, -1), { seed: seed + 1000 })
      : Tensor.from(new Float32Array(shape.slice(0, -1).reduce((a, b) => a * b, 1)).fill(lse), shape.slice(0, -1)),
});

const there = ({ out, lse }: Part): Part => ({ out: out.to('cuda'), lse: lse.to('cuda') });

const floatsOf = async (tensor: Tensor) => (await tensor.to('float32').to('cpu').read()) as Float32Array;

// Sums of a few hundred weights that add up to one: float32 rounding of each, then one of the dtype.
async function expectAlike(got: Part, want: Part, parts: number, dtype: (typeof floats)[number]): Promise<void> {
  const unit = roundoff(dtype);
  const [out, wanted] = [await floatsOf(got.out), await floatsOf(want.out)];
  const [lse, wantedLse] = [await floatsOf(got.lse), await floatsOf(want.lse)];
  const largest = 6; // of normal numbers
  out.forEach((x, i) => {
    if (Object.is(x, wanted[i])) return;
    expect(Math.abs(x - wanted[i]!)).toBeLessThanOrEqual(largest * (2 * unit + (parts + 8) * 2 ** -23));
  });
  lse.forEach((x, i) => {
    if (Object.is(x, wantedLse[i])) return;
    expect(Math.abs(x - wantedLse[i]!)).toBeLessThanOrEqual((parts + 8) * 2 ** -23 * Math.max(1, Math.abs(x)));
  });
}

describe.skipIf(missing)(title('merge'), () => {
  test('any number of parts, any shape, any dtype', async () => {
    const shapes = fc.tuple(
      fc.integer({ min: 1, max: 2 }),
      fc.nat(5),
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 1, max: 140 }),
    );
    await fc.assert(
      fc.asyncProperty(
        shapes,
        fc.constantFrom(...floats),
        fc.integer({ min: 1, max: 40 }),
        fc.nat(1000),
        async (shape, dtype, count, seed) => {
          schedule(schedules[seed % schedules.length]!);
          const parts = Array.from({ length: count }, (_, i) => part(shape, dtype, seed + i));
          await expectAlike(merge(parts.map(there)), merge(parts), count, dtype);
        },
      ),
      { numRuns: interpreted ? 25 : 200 },
    );
  });

  test('views, and out given', async () => {
    const wide = part([2, 6, 3, 50], 'float32', 1);
    const cut = ({ out, lse }: Part): Part => ({
      out: out.slice([0, 2], [1, 5], [0, 3], [3, 40]).permute(0, 1, 2, 3),
      lse: lse.slice([0, 2], [1, 5], [0, 3]),
    });
    const other = part([2, 4, 3, 37], 'float32', 5);
    const want = merge([cut(wide), other]);
    const whole = Tensor.zeros([2, 4, 3, 64], { device: 'cuda' });
    const out = whole.slice([0, 2], [0, 4], [0, 3], [2, 39]);
    const got = merge([cut(there(wide)), there(other)], { out });
    expect(got.out).toBe(out);
    await expectAlike(got, want, 2, 'float32');
    expect((await floatsOf(whole)).filter((x) => x !== 0).length).toBe(2 * 4 * 3 * 37);
  });

  test.each([2, 17, 33])('%d empty parts give 0 and -Infinity, whatever they hold', async (count) => {
    const shape = [1, 3, 2, 8];
    const empty = {
      out: Tensor.from(new Float32Array(48).fill(Number.NaN), shape),
      lse: part(shape, 'float32', 1, -Infinity).lse,
    };
    const { out, lse } = merge(Array.from({ length: count }, () => there(empty)));
    expect(new Set(await floatsOf(out))).toEqual(new Set([0]));
    expect(new Set(await floatsOf(lse))).toEqual(new Set([-Infinity]));
    const full = part(shape, 'float32', 2);
    const mixed = merge([...Array.from({ length: count }, () => there(empty)), there(full)]);
    expect(await floatsOf(mixed.out)).toEqual(await floatsOf(full.out));
    expect(await floatsOf(mixed.lse)).toEqual(await floatsOf(full.lse));
  });

  test('the same bits from run to run', async () => {
    const parts = Array.from({ length: 20 }, (_, i) => there(part([1, 5, 2, 64], 'float16', i)));
    const first = merge(parts);
    for (const one of schedules.slice(0, 3)) {
      schedule(one);
      expect(await floatsOf(merge(parts).out)).toEqual(await floatsOf(first.out));
    }
  });
});
