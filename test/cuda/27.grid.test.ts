// The geometry of neighborhoods, kernels/tile/grid.h, on the host: what a kernel's loops would visit and hide.
// not on a device: no kernel runs
import './support/device'; // before node-attention
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import koffi from 'koffi';
import { simulateNeighborhood } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { axisSetting } from '../support/cases';
import { count } from '../support/numbers';
import { type Axis, seesAlong, seesOnGrid } from '../support/oracle';

const file = join(__dirname, '../../build/ptx/libgrid_geometry.so');
const missing = !existsSync(file);
const library = missing ? undefined : koffi.load(file);
const bind = (signature: string) => library?.func(signature) as (...args: unknown[]) => unknown;
const walk = bind('const char *geometry_walk(const int32_t *numbers, _Out_ uint8_t *seen, _Out_ int32_t *counts)');
const row = bind(
  'int64_t geometry_row(const int32_t *numbers, int32_t i, int64_t stride, _Out_ int64_t *from, _Out_ int64_t *to)',
);
const tile = bind(
  'int32_t geometry_tile(const int32_t *numbers, int32_t n, _Out_ int32_t *group, _Out_ int32_t *first)',
);
const choose = bind('double geometry_choose(const int32_t *numbers, int32_t rows, int32_t keys, _Out_ int32_t *boxes)');

const PLAIN: Axis = { window: 1, stride: 1, dilation: 1, causal: false, wrap: false };

/** What the functions take; tiles are exponents of two. */
function numbersOf(
  grid: readonly number[],
  axes: readonly Axis[],
  queryTile: readonly number[],
  keyTile: readonly number[],
): Int32Array {
  const missing = 3 - grid.length;
  const numbers = Array.from({ length: 3 }, (_, a) => {
    const from = a - missing;
    if (from < 0) return [1, 1, 1, 1, 0, 0, 0, 0];
    const { window, stride, dilation, causal, wrap } = axes[from]!;
    const resolved = window === -1 ? Math.floor(grid[from]! / dilation) : window;
    return [grid[from]!, resolved, stride, dilation, +causal, +wrap, queryTile[from]!, keyTile[from]!];
  });
  return Int32Array.from(numbers.flat());
}

interface Walk {
  visited: number;
  full: number;
  /** Visits of each query tile, in the order in which they are worked at. */
  visits: number[];
}

/** Walks a grid as a kernel does, and compares what each query meets with the definition. */
function walked(
  grid: readonly number[],
  axes: readonly Axis[],
  queryTile: readonly number[],
  keyTile: readonly number[],
): Walk {
  const tokens = count(grid);
  const seen = new Uint8Array(tokens * tokens);
  const counts = new Int32Array(2 + tokens);
  const wrong = walk(numbersOf(grid, axes, queryTile, keyTile), seen, counts);
  if (wrong) throw new Error(String(wrong));
  for (let i = 0; i < tokens; i++) {
    for (let j = 0; j < tokens; j++) {
      const want = seesOnGrid(i, j, [...grid], [...axes]) ? 1 : 0;
      if (seen[i * tokens + j] !== want) throw new Error(`query ${i} meets key ${j} ${seen[i * tokens + j]} times`);
    }
  }
  return { visited: counts[0]!, full: counts[1]!, visits: [...counts.subarray(2)].filter((n) => n > 0) };
}

const simulated = (
  grid: readonly number[],
  axes: readonly Axis[],
  queryTile: readonly number[],
  keyTile: readonly number[],
) =>
  simulateNeighborhood({
    shape: [...grid],
    queryTile: queryTile.map((side) => 2 ** side),
    keyTile: keyTile.map((side) => 2 ** side),
    window: axes.map(({ window }) => window),
    stride: axes.map(({ stride }) => stride),
    dilation: axes.map(({ dilation }) => dilation),
    causal: axes.map(({ causal }) => causal),
    wrap: axes.map(({ wrap }) => wrap),
  }).tiles;

const along = (extent: number, most: number) => fc.integer({ min: 0, max: extent === 1 ? 0 : most });
const problems = fc
  .oneof(
    fc.tuple(fc.integer({ min: 1, max: 150 })),
    fc.tuple(fc.integer({ min: 1, max: 18 }), fc.integer({ min: 1, max: 18 })),
    fc.tuple(fc.integer({ min: 1, max: 7 }), fc.integer({ min: 1, max: 7 }), fc.integer({ min: 1, max: 7 })),
  )
  .chain((grid) =>
    fc.record({
      grid: fc.constant([...grid]),
      axes: fc.tuple(...grid.map(axisSetting)),
      queryTile: fc.tuple(...grid.map((extent) => along(extent, grid.length === 1 ? 6 : 3))),
      keyTile: fc.tuple(...grid.map((extent) => along(extent, grid.length === 1 ? 6 : 3))),
    }),
  );

describe.skipIf(missing)('the geometry of neighborhoods', () => {
  it('every query meets every key that it sees once, and no other, in as few tiles as can be', () => {
    fc.assert(
      fc.property(problems, ({ grid, axes, queryTile, keyTile }) => {
        const { visited, full } = walked(grid, axes, queryTile, keyTile);
        const want = simulated(grid, axes, queryTile, keyTile);
        expect(visited).toBe(want.visited);
        // On a ring, full tiles may come in several runs, of which one is walked without a mask.
        if (axes.some(({ wrap }) => wrap)) expect(full).toBeLessThanOrEqual(want.full);
        else expect(full).toBe(want.full);
      }),
      { numRuns: 200, seed: 27 },
    );
  });

  it('tiles that are aligned with the blocks need no mask', () => {
    const settings: [number[], Partial<Axis>[], number[], number[]][] = [
      [[256], [{ window: 64, stride: 64 }], [6], [5]],
      [
        [32, 32],
        [
          { window: 16, stride: 16 },
          { window: 8, stride: 8 },
        ],
        [4, 3],
        [3, 3],
      ],
      // Windows of FLUX and HunyuanVideo, made smaller.
      [
        [48, 48],
        [
          { window: 16, stride: 16 },
          { window: 16, stride: 16 },
        ],
        [4, 3],
        [4, 3],
      ],
      [
        [4, 16, 16],
        [
          { window: 4, stride: 4 },
          { window: 8, stride: 8 },
          { window: 8, stride: 8 },
        ],
        [1, 3, 3],
        [2, 2, 3],
      ],
      [[64], [{ window: 32, stride: 16, wrap: true }], [4], [3]],
    ];
    for (const [grid, axes, queryTile, keyTile] of settings) {
      const { visited, full } = walked(
        grid,
        axes.map((axis) => ({ ...PLAIN, ...axis })),
        queryTile,
        keyTile,
      );
      expect(full).toBe(visited);
    }
  });

  it('chooses boxes with which no more tiles are visited than with those of the published figures', () => {
    // FLUX, HunyuanVideo and Cosmos at stride 1 and at strides that are aligned with tiles, and the speed-up by the sum of
    // visited tiles with the tiles of the reference library, (16, 16) and (16, 8), (4, 8, 8) and (2, 8, 8), (8, 4, 8) and
    // (4, 4, 8).
    const settings: [number[], number[], number[], number][] = [
      [[256, 256], [80, 80], [1, 1], 7.061],
      [[256, 256], [80, 80], [16, 16], 10.24],
      [[30, 48, 80], [18, 24, 24], [1, 1, 1], 5.245],
      [[30, 48, 80], [18, 24, 24], [16, 8, 8], 11.11],
      [[16, 44, 80], [16, 24, 16], [1, 1, 1], 6.087],
      [[16, 44, 80], [16, 24, 16], [1, 8, 16], 9.16],
    ];
    for (const [grid, window, stride, published] of settings) {
      const axes = grid.map((_, a) => ({ ...PLAIN, window: window[a]!, stride: stride[a]! }));
      const zeros = grid.map(() => 0);
      for (const [rows, keys] of [
        [128, 128],
        [128, 64],
        [64, 32],
      ] as const) {
        const boxes = new Int32Array(6);
        const visited = choose(numbersOf(grid, axes, zeros, zeros), rows, keys, boxes) as number;
        const [queryTile, keyTile] = [boxes.subarray(3 - grid.length, 3), boxes.subarray(6 - grid.length)];
        expect(boxes.subarray(0, 3).reduce((a, b) => a + b)).toBe(Math.log2(rows));
        expect(boxes.subarray(3).reduce((a, b) => a + b)).toBe(Math.log2(keys));
        const { tiles, speedup } = simulateNeighborhood({
          shape: grid,
          queryTile: [...queryTile].map((side) => 2 ** side),
          keyTile: [...keyTile].map((side) => 2 ** side),
          window,
          stride,
        });
        // Estimated from 32 tiles of an axis that has more.
        expect(Math.abs(visited / tiles.visited - 1)).toBeLessThan(1 / 32);
        expect(speedup.sum).toBeGreaterThanOrEqual(published);
      }
    }
  });

  it('begins with the query tiles that have most to do', () => {
    const settings: [number[], Partial<Axis>[]][] = [
      [[200], [{ window: 60 }]],
      [[200], [{ window: 100, causal: true }]],
      [[200], [{ window: 40, dilation: 3 }]],
    ];
    for (const [grid, axes] of settings) {
      const { visits } = walked(
        grid,
        axes.map((axis) => ({ ...PLAIN, ...axis })),
        [3],
        [3],
      );
      // By no more than the fraction of a tile by which windows are out of step with tiles.
      visits.forEach((n, i) => {
        if (i > 0) expect(n).toBeLessThanOrEqual(Math.min(...visits.slice(0, i)) + 1);
      });
    }
  });

  it('long axes: positions and offsets beyond 2^31', () => {
    const extent = 2 ** 29;
    const stride = 3 * 2 ** 20; // elements between tokens
    const cases: Partial<Axis>[] = [
      { window: 100, wrap: true },
      { window: 301, stride: 7 },
      { window: 200, dilation: 4096 },
      { window: 200, stride: 64, dilation: 32, wrap: true },
      { window: 70, stride: 3, causal: true },
    ];
    for (const some of cases) {
      const axis = { ...PLAIN, ...some };
      const numbers = numbersOf([extent], [axis], [7], [6]);
      for (const i of [0, 77, 2 ** 28 + 5, extent - 130, extent - 1]) {
        const [from, to] = [[0n], [0n]];
        const seen = row(numbers, i, stride, from, to);
        const near: number[] = [];
        // All that it can see lies around it, or around it on the ring.
        const reach = 2 * axis.dilation * (axis.window + axis.stride);
        for (let j = i - reach; j <= i + reach; j++) {
          const key = axis.wrap ? (j + extent) % extent : j;
          if (key >= 0 && key < extent && seesAlong(i, key, extent, axis)) near.push(key);
        }
        expect(seen).toBe(near.length);
        expect(Number(from[0])).toBe(Math.min(...near) * stride);
        expect(Number(to[0])).toBe(Math.max(...near) * stride);
      }
      const [group, first] = [[0], [0]];
      const tiles = tile(numbers, 0, group, first) as number;
      expect(tiles).toBe(extent / 128);
      for (const n of [0, 1, tiles - 1]) {
        tile(numbers, n, group, first);
        expect(first[0]! % 128).toBe(0);
        expect(group[0]! + axis.dilation * first[0]!).toBeLessThan(extent);
      }
    }
  });
});
