// Masks, key by key. With q = 0 every visible key has the same weight, so lse is the logarithm of their number; with
// one-hot values the output says which they are.

import { attention, causal, neighborhood, Tensor, window } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { check, maskOf, tensorOf } from './support/library';
import { count, decode, type Float, normal, uniform } from './support/numbers';
import { type Axis, type MaskSpec, seesAlong, seesOnGrid } from './support/oracle';

type Sees = (i: number, j: number, head: number) => boolean;

/** The visible keys of every query and head as the library has them: rows of '1' and '.'. */
async function visible(
  mask: Parameters<typeof attention>[3] & object,
  qAxes: number[],
  kAxes: number[],
  heads = 1,
  dtype: Float = 'float32',
): Promise<string[]> {
  const [Lq, Lk] = [count(qAxes), count(kAxes)];
  const oneHot = Float32Array.from({ length: Lk * Lk }, (_, n) => (n % (Lk + 1) === 0 ? 1 : 0));
  const q = Tensor.zeros([1, ...qAxes, heads, 4], { dtype });
  const k = Tensor.randn([1, ...kAxes, 1, 4], { seed: 1, dtype });
  const v = Tensor.from(oneHot, [1, ...kAxes, 1, Lk], { dtype });
  const result = attention(q, k, v, mask);
  const out = decode(dtype, await result.out.read());
  const lse = decode('float32', await result.lse.read());
  for (const tensor of [q, k, v, result.out, result.lse]) tensor.dispose();
  return Array.from({ length: Lq * heads }, (_, row) => {
    const keys = out.subarray(row * Lk, (row + 1) * Lk);
    const seen = keys.reduce((n, x) => n + (x > 0 ? 1 : 0), 0);
    if (Math.round(Math.exp(lse[row]!)) !== seen) {
      throw new Error(`row ${row}: lse ${lse[row]} counts ${Math.exp(lse[row]!)} keys, the output ${seen}`);
    }
    return Array.from(keys, (x) => (x > 0 ? '1' : '.')).join('');
  });
}

function rows(Lq: number, Lk: number, sees: Sees, heads = 1): string[] {
  const row = (n: number) => {
    const [i, head] = [Math.floor(n / heads), n % heads];
    return Array.from({ length: Lk }, (_, j) => (sees(i, j, head) ? '1' : '.')).join('');
  };
  return Array.from({ length: Lq * heads }, (_, n) => row(n));
}

const kinds = [
  { causal: false, wrap: false },
  { causal: true, wrap: false },
  { causal: false, wrap: true },
];

/** Every legal setting of an axis. */
function* settings(extent: number): Generator<Axis> {
  for (let dilation = 1; dilation <= extent; dilation++) {
    for (let window = 1; window * dilation <= extent; window++) {
      for (let stride = 1; stride <= window; stride++) {
        for (const kind of kinds) {
          if (kind.wrap && (extent % dilation !== 0 || (extent / dilation) % stride !== 0)) continue;
          yield { window, stride, dilation, ...kind };
        }
      }
    }
  }
}

describe('the predicate of the oracle', () => {
  it('equals the window of the reference implementation without dilation', () => {
    // The other known form: a leader, how far its window reaches, and a correction at the right border.
    for (let L = 1; L <= 25; L++) {
      for (const axis of settings(L)) {
        const { window: w, stride: s } = axis;
        if (axis.dilation !== 1 || axis.wrap) continue;
        const [left, right] = [Math.floor(w / 2), Math.floor(w / 2) + (w % 2) - 1];
        for (let i = 0; i < L; i++) {
          const middle = Math.min(i - (i % s) + Math.floor(s / 2), L - 1);
          const shift = middle + right >= L ? L - right - middle - 1 : 0;
          const last = Math.min(i - (i % s) + s - 1, L - 1);
          const start = axis.causal ? Math.max(last - w + 1, 0) : Math.max(middle - left, 0) + shift;
          const end = axis.causal ? i + 1 : start + w;
          const got = Array.from({ length: L }, (_, j) => seesAlong(i, j, L, axis));
          const agree = got.every((seen, j) => seen === (j >= start && j < end));
          if (!agree || !got[i]) throw new Error(`length ${L}, query ${i}, ${JSON.stringify(axis)}: ${got}`);
        }
      }
    }
  });

  it('keeps dilation groups apart, and a wrapping axis the same everywhere', () => {
    for (const axis of settings(12)) {
      for (let i = 0; i < 12; i++) {
        for (let j = 0; j < 12; j++) {
          if (i % axis.dilation !== j % axis.dilation) expect(seesAlong(i, j, 12, axis)).toBe(false);
          const step = axis.stride * axis.dilation;
          if (axis.wrap) {
            expect(seesAlong((i + step) % 12, (j + step) % 12, 12, axis)).toBe(seesAlong(i, j, 12, axis));
          }
        }
      }
    }
  });
});

describe('neighborhood', () => {
  it.each(['float32', 'bfloat16'] as const)(
    'shows what the definition says, all of length up to 12, %s',
    async (dtype) => {
      for (let L = 1; L <= 12; L++) {
        for (const axis of settings(L)) {
          const got = await visible({ mask: maskOf({ heads: [[axis]] }) }, [L], [L], 1, dtype);
          const want = rows(L, L, (i, j) => seesAlong(i, j, L, axis));
          if (got.join() !== want.join()) expect(got, `length ${L}, ${JSON.stringify(axis)}`).toEqual(want);
        }
      }
    },
  );

  it('takes one value for all axes, or one per axis, and -1 for the extent', async () => {
    const grid = [5, 6];
    const axis = (window: number, stride: number, dilation: number, causal: boolean, wrap: boolean) =>
      ({ window, stride, dilation, causal, wrap }) satisfies Axis;
    const cases = [
      { options: { window: 3 }, axes: [axis(3, 1, 1, false, false), axis(3, 1, 1, false, false)] },
      {
        options: { window: [3, 2], dilation: [1, 3] },
        axes: [axis(3, 1, 1, false, false), axis(2, 1, 3, false, false)],
      },
      {
        options: { window: -1, causal: [true, false] },
        axes: [axis(5, 1, 1, true, false), axis(6, 1, 1, false, false)],
      },
      {
        options: { window: [-1, 4], stride: [5, 2] },
        axes: [axis(5, 5, 1, false, false), axis(4, 2, 1, false, false)],
      },
      { options: { window: 2, stride: 1, wrap: true }, axes: [axis(2, 1, 1, false, true), axis(2, 1, 1, false, true)] },
      { options: { window: 1, causal: true }, axes: [axis(1, 1, 1, true, false), axis(1, 1, 1, true, false)] },
    ];
    for (const { options, axes } of cases) {
      const got = await visible({ mask: neighborhood(options) }, grid, grid);
      expect(got, JSON.stringify(options)).toEqual(rows(30, 30, (i, j) => seesOnGrid(i, j, grid, axes)));
    }
  });

  it('takes one setting per query head', async () => {
    const heads = [2, 3, 5].map((window): Axis[] => [
      { window, stride: window - 1, dilation: 2, causal: window === 3, wrap: false },
    ]);
    const got = await visible({ mask: maskOf({ heads }) }, [11], [11], 3);
    expect(got).toEqual(rows(11, 11, (i, j, head) => seesAlong(i, j, 11, heads[head]![0]!), 3));
  });

  const plain = (window: number[], stride: number[], dilation: number[]) => ({ window, stride, dilation });
  const edges: [number[], { window: number[]; stride: number[]; dilation: number[] }][] = [
    [[17], plain([12], [1], [1])],
    [[67], plain([8], [1], [1])],
    [[125], plain([3], [1], [1])],
    [[128], plain([3], [2], [10])],
    [[256], plain([136], [136], [1])],
    [[256], plain([128], [127], [1])],
    [[5, 25], plain([5, 16], [1, 16], [1, 1])],
    [[84, 69], plain([7, 20], [1, 6], [5, 1])],
    [[67, 80], plain([12, 7], [8, 4], [5, 11])],
    [[13, 11, 9], plain([3, 4, 3], [2, 3, 3], [3, 2, 2])],
    [[30, 48, 18], plain([3, 2, 8], [1, 1, 1], [8, 18, 2])],
    [[30, 48, 18], plain([3, 2, 8], [2, 1, 5], [8, 18, 2])],
    // Short axes, and strides that no block of queries divides: tiles go on along further axes.
    [[16, 9, 14], plain([16, 3, 5], [1, 3, 2], [1, 1, 1])],
    [[12, 22, 20], plain([12, 2, 4], [1, 1, 1], [1, 11, 5])],
    [[45, 44], plain([21, 21], [21, 21], [1, 1])],
  ];

  /** Equal scores, so that a row of the output is the mean of the values seen. */
  async function expectMeans(dtype: 'float32' | 'bfloat16', grid: number[], axes: Axis[]): Promise<void> {
    const L = count(grid);
    const dim = 3;
    const v = normal(uniform(L), dtype, [1, ...grid, 1, dim]);
    const largest = v.data.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
    const q = Tensor.zeros([1, ...grid, 1, 2], { dtype });
    const values = tensorOf(v, dtype);
    const { out, lse } = attention(q, q, values, { mask: maskOf({ heads: [axes] }) });
    const mean = decode(dtype, await out.read());
    const logs = (await lse.read()) as Float32Array;
    // Along each axis, the coordinates seen from each coordinate; their product is what a query sees.
    const along = grid.map((extent, a) => {
      const all = Array.from({ length: extent }, (_, j) => j);
      return all.map((i) => all.filter((j) => seesAlong(i, j, extent, axes[a]!)));
    });
    for (let i = 0; i < L; i++) {
      let keys = [0];
      let rest = L;
      grid.forEach((extent, a) => {
        rest /= extent;
        const seen = along[a]![Math.floor(i / rest) % extent]!;
        keys = keys.flatMap((key) => seen.map((j) => key * extent + j));
      });
      if (Math.round(Math.exp(logs[i]!)) !== keys.length) {
        throw new Error(`query ${i}: lse ${logs[i]} counts ${Math.exp(logs[i]!)}, not ${keys.length}`);
      }
      for (let c = 0; c < dim; c++) {
        let sum = 0;
        for (const key of keys) sum += v.data[key * dim + c]!;
        const want = sum / keys.length;
        const error = Math.abs(mean[i * dim + c]! - want);
        // The textbook bound of a float32 sum of n terms in any order, and as much for weights and the division; half a
        // unit in the last place for the rounding of the result.
        const rounding = dtype === 'bfloat16' ? 2 ** -8 * Math.abs(want) : 0;
        if (!(error <= (keys.length + 8) * 2 ** -24 * largest + rounding)) {
          throw new Error(`query ${i}: ${mean[i * dim + c]} is not the mean ${want}`);
        }
      }
    }
    for (const tensor of [q, values, out, lse]) tensor.dispose();
  }

  it.each(edges)('grid %j, %j: every combination of causal axes', async (grid, { window, stride, dilation }) => {
    for (let bits = 0; bits < 2 ** grid.length; bits++) {
      const axes = grid.map((_, a) => ({
        window: window[a]!,
        stride: stride[a]!,
        dilation: dilation[a]!,
        causal: ((bits >> a) & 1) === 1,
        wrap: false,
      }));
      for (const dtype of ['float32', 'bfloat16'] as const) await expectMeans(dtype, grid, axes);
    }
  });

  const rings: [number[], { window: number[]; stride: number[]; dilation: number[] }][] = [
    [[256], plain([40], [1], [1])],
    [[300], plain([290], [1], [1])],
    [[1100], plain([65], [1], [1])],
    [[1200], plain([30], [6], [2])],
    [[50, 26], plain([9, 11], [1, 1], [1, 1])],
    [[64, 24], plain([20, 7], [4, 3], [2, 1])],
    [[12, 14, 10], plain([5, 6, 3], [3, 1, 2], [1, 2, 1])],
  ];

  it.each(rings)('grid %j, %j: every combination of wrapping axes', async (grid, { window, stride, dilation }) => {
    for (let bits = 1; bits < 2 ** grid.length; bits++) {
      const axes = grid.map((_, a) => ({
        window: window[a]!,
        stride: stride[a]!,
        dilation: dilation[a]!,
        causal: false,
        wrap: ((bits >> a) & 1) === 1,
      }));
      for (const dtype of ['float32', 'bfloat16'] as const) await expectMeans(dtype, grid, axes);
    }
  });
});

describe('causal and window', () => {
  it('are aligned bottom-right', async () => {
    expect(await visible({ mask: causal() }, [3], [5])).toEqual(['111..', '1111.', '11111']);
    expect(await visible({ mask: causal() }, [5], [3])).toEqual(['...', '...', '1..', '11.', '111']);
    expect(await visible({ mask: window({ left: 1, right: 0 }) }, [2], [4])).toEqual(['.11.', '..11']);
    expect(await visible({ mask: window({ left: 0, right: 2 }) }, [4], [2])).toEqual(['1.', '11', '11', '.1']);
  });

  it('show what the definition says, every small size', async () => {
    for (const Lq of [1, 2, 5, 6]) {
      for (const Lk of [1, 3, 6]) {
        for (let left = -1; left <= 6; left++) {
          for (let right = -1; right <= 6; right++) {
            const want = rows(Lq, Lk, (i, j) => {
              const p = i + Lk - Lq;
              return (left === -1 || j >= p - left) && (right === -1 || j <= p + right);
            });
            const got = await visible({ mask: window({ left, right }) }, [Lq], [Lk]);
            expect(got, JSON.stringify({ Lq, Lk, left, right })).toEqual(want);
          }
        }
      }
    }
  });

  it('reach across tiles', async () => {
    for (const [left, right] of [
      [100, 0],
      [0, 100],
      [63, 64],
      [-1, 130],
      [200, -1],
      [5, 5],
      [2 ** 40, 2 ** 40],
    ] as const) {
      for (const [Lq, Lk] of [
        [300, 300],
        [70, 333],
        [333, 70],
      ] as const) {
        const want = rows(Lq, Lk, (i, j) => {
          const p = i + Lk - Lq;
          return (left === -1 || j >= p - left) && (right === -1 || j <= p + right);
        });
        expect(await visible({ mask: window({ left, right }) }, [Lq], [Lk])).toEqual(want);
      }
    }
  });

  it.each(['float32', 'bfloat16'] as const)('end anywhere within tiles, %s', async (dtype) => {
    const heads = 8; // enough rows for tiles of several blocks
    for (let left = 0; left < 80; left++) {
      // Borders at every distance from a multiple of 32, on both sides.
      const [Lq, offset] = [150, (left + 1) % 9];
      for (const right of [left % 4, 30 - offset]) {
        const sees = (i: number, j: number) => j >= i + offset - left && j <= i + offset + right;
        const want = rows(Lq, Lq + offset, sees, heads);
        const got = await visible({ mask: window({ left, right }) }, [Lq], [Lq + offset], heads, dtype);
        if (got.join() !== want.join()) expect(got, `left ${left}, right ${right}, ${offset}`).toEqual(want);
      }
    }
  });

  it('count the tokens of a grid in order', async () => {
    expect(await visible({ mask: causal() }, [2, 3], [2, 3])).toEqual(rows(6, 6, (i, j) => j <= i));
  });

  it.each(['float32', 'bfloat16'] as const)(
    'see parts of rows of a grid that are apart in memory, %s',
    async (dtype) => {
      const random = uniform(6);
      for (const queries of [2, 40]) {
        const q = normal(random, dtype, [1, 1, queries, 1, 8]);
        const [k, v] = [normal(random, dtype, [1, 3, 400, 1, 8]), normal(random, dtype, [1, 3, 400, 1, 8])];
        await check({ q, k, v, masks: [{ left: 99, right: 0 }] }, dtype, 3);
        await check({ q, k, v, masks: [{ left: 450, right: 0 }] }, dtype, 4);
      }
    },
  );
});

describe('lists', () => {
  it('are intersected', async () => {
    const grid = [6, 7];
    const axes: Axis[] = [
      { window: 3, stride: 2, dilation: 2, causal: false, wrap: false },
      { window: 4, stride: 1, dilation: 1, causal: true, wrap: false },
    ];
    const other: Axis[] = [
      { window: 5, stride: 3, dilation: 1, causal: false, wrap: false },
      { window: 3, stride: 1, dilation: 1, causal: false, wrap: false },
    ];
    const specs: MaskSpec[] = [{ heads: [axes] }, { heads: [other] }, { left: 20, right: 0 }];
    const want = rows(42, 42, (i, j) => {
      const banded = j <= i && j >= i - 20;
      return banded && seesOnGrid(i, j, grid, axes) && seesOnGrid(i, j, grid, other);
    });
    for (const order of [specs, [...specs].reverse()]) {
      expect(await visible({ mask: order.map((mask) => maskOf(mask)) }, grid, grid)).toEqual(want);
    }
  });

  it('may be empty, and may leave a query nothing', async () => {
    expect(await visible({ mask: [] }, [2], [3])).toEqual(['111', '111']);
    const left = neighborhood({ window: 2, stride: 2 }); // keys 0 1 for queries 0 1, and so on
    const behind = window({ left: -1, right: 0 });
    expect(await visible({ mask: [left, behind, window({ left: 0, right: 1 })] }, [4], [4])).toEqual([
      '1...',
      '.1..',
      '..1.',
      '...1',
    ]);
    const apart = neighborhood({ window: 1, dilation: 2 });
    expect(await visible({ mask: [apart, causal()] }, [3], [3])).toEqual(['1..', '.1.', '..1']);
  });
});
