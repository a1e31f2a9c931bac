// What neighborhoods on a CUDA device must do, whichever kernels run them.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { axisSetting, type Case, problemOf } from '../../support/cases';
import { check, expectedOn, expectResult, run } from '../../support/library';
import { count, type Float } from '../../support/numbers';
import type { Axis, MaskSpec, Problem } from '../../support/oracle';
import { interpreted, lastKernel, missing, schedule, schedules, title } from './device';
import { checkSchedules } from './repeated';

/** Per axis; one number is that of all axes. */
export interface Setting {
  window: number | number[];
  stride?: number | number[];
  dilation?: number | number[];
  causal?: boolean | boolean[];
  wrap?: boolean | boolean[];
}

function axesOf(rank: number, { window, stride = 1, dilation = 1, causal = false, wrap = false }: Setting): Axis[] {
  const at = <T>(values: T | T[], axis: number) => (Array.isArray(values) ? values[axis]! : values);
  return Array.from({ length: rank }, (_, a) => ({
    window: at(window, a),
    stride: at(stride, a),
    dilation: at(dilation, a),
    causal: at(causal, a),
    wrap: at(wrap, a),
  }));
}

export interface Options extends Partial<Omit<Case, 'layout'>> {
  /** Beside the neighborhood. */
  more?: MaskSpec[];
}

/** A problem without its numbers; several settings are those of the heads, one after the other. */
export function caseOf(grid: number[], settings: Setting | Setting[], { more = [], ...options }: Options = {}): Case {
  const heads = [settings].flat().map((setting) => axesOf(grid.length, setting));
  return {
    dtype: 'float16',
    batch: 1,
    kvHeads: 1,
    group: heads.length,
    dim: 32,
    vDim: options.dim ?? 32,
    scale: undefined,
    softcap: undefined,
    sinks: false,
    extra: 0,
    keyBias: 0,
    denseBias: -1,
    seed: 1,
    ...options,
    layout: { qAxes: grid, kAxes: grid, masks: [{ heads }, ...more], groups: [] },
  };
}

/** Compares with the oracle under one schedule; with a seed, all tensors are views of others full of NaN. */
async function compare(one: Case, turn: number, embedSeed?: number): Promise<void> {
  schedule(schedules[turn % schedules.length]!);
  await check(problemOf(one), one.dtype, embedSeed, 'cuda');
}

const flags = (rank: number) =>
  Array.from({ length: 2 ** rank }, (_, bits) => Array.from({ length: rank }, (_, a) => ((bits >> a) & 1) === 1));

/** The shapes at whose edges the reference library is tested, those of two and three axes made smaller. */
const EDGES: [number[], Setting][] = [
  [[17], { window: 12 }],
  [[67], { window: 8 }],
  [[125], { window: 3 }],
  [[64], { window: 3, stride: 2, dilation: 10 }],
  [[136], { window: 72, stride: 72 }],
  [[130], { window: 65, stride: 64 }],
  [[130], { window: 5, dilation: 16 }],
  [[5, 25], { window: [5, 16], stride: [1, 16] }],
  [[17, 13], { window: [3, 10], stride: [1, 6], dilation: [5, 1] }],
  [[10, 11], { window: [3, 2], stride: [2, 2], dilation: [3, 5] }],
  [[7, 5, 4], { window: [2, 2, 2], stride: [2, 1, 2], dilation: [3, 2, 2] }],
  [[7, 6, 9], { window: [3, 3, 2], stride: [3, 1, 2], dilation: [2, 1, 4] }],
  [[2, 3, 5], { window: [1, 1, 2], dilation: [2, 3, 2] }],
];

interface Kernels {
  dtypes: readonly Float[];
  /** Head dimensions to take turns with. */
  dims: readonly number[];
  /** Whether scores are changed one by one, too. */
  modified: boolean;
  /** The number of random problems. */
  runs: number;
}

/** Any settings on one to three axes, in all the company that there is. */
const randomCase = ({ dtypes, dims, modified }: Kernels): fc.Arbitrary<Case> => {
  const grids = fc.oneof(
    fc.integer({ min: 1, max: 300 }).map((tokens) => [tokens]),
    fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 2, maxLength: 2 }),
    fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 3, maxLength: 3 }),
  );
  const reach = fc.oneof(fc.constant(-1), fc.integer({ min: 0, max: 200 }));
  const all = grids.chain((grid) => {
    const axes = fc.tuple(...grid.map(axisSetting)) as fc.Arbitrary<Axis[]>;
    const more: fc.Arbitrary<MaskSpec> = fc.oneof(
      fc.record({ left: reach, right: reach }),
      axes.map((one) => ({ heads: [one] })),
    );
    return fc
      .record({
        dtype: fc.constantFrom(...dtypes),
        batch: fc.constantFrom(1, 1, 2),
        kvHeads: fc.constantFrom(1, 1, 2),
        group: fc.constantFrom(1, 2, 3),
        settings: fc.array(axes, { minLength: 1, maxLength: 2 }),
        more: fc.array(more, { maxLength: 2 }),
        dim: fc.constantFrom(...dims),
        vDim: fc.constantFrom(...dims),
        scale: modified ? fc.constantFrom(undefined, undefined, 0, -0.2) : fc.constant(undefined),
        softcap: modified ? fc.constantFrom(undefined, undefined, undefined, 3) : fc.constant(undefined),
        sinks: fc.boolean(),
        extra: fc.constantFrom(0, 0, 0, 7),
        keyBias: modified ? fc.constantFrom(0, 0, 0, 1, 2, 3) : fc.constant(0),
        denseBias: modified ? fc.constantFrom(-1, -1, -1, 5, 15) : fc.constant(-1),
        seed: fc.nat(),
        further: fc.integer({ min: modified ? 0 : 1, max: 2 }),
      })
      .map(({ settings, more, further, ...rest }): Case => {
        const heads = rest.kvHeads * rest.group;
        const perHead =
          settings.length === 1 ? settings : Array.from({ length: heads }, (_, h) => settings[(h % 3) & 1]!);
        // Every third problem has several masks.
        const masks: MaskSpec[] = [{ heads: perHead }, ...(further === 0 ? more : [])];
        return { ...rest, layout: { qAxes: [...grid], kAxes: [...grid], masks, groups: [] } };
      });
  });
  // The oracle's work.
  return all.filter((c) => c.batch * c.kvHeads * c.group * count(c.layout.qAxes) ** 2 * (c.dim + c.vDim) < 2e6);
};

export function testNeighborhoods(name: string, { dtypes, dims, modified, runs }: Kernels): void {
  let turn = 0;
  /** Kernels that do less get every second problem, since geometry is the same for all. */
  const some = <T>(all: T[]) => all.filter((_, n) => modified || n % 2 === 0);
  const next = () => ({ dtype: dtypes[turn % dtypes.length]!, dim: dims[turn++ % dims.length]! });
  /** Under the schedules in turns, in tensors and in views. */
  const compareNext = (one: Case) => compare(one, turn, turn % 3 ? turn : undefined);

  describe.skipIf(missing)(title(name), () => {
    it.each(dtypes.flatMap((dtype) => dims.map((dim) => [dtype, dim] as const)))(
      '%s, headDim %i',
      async (dtype, dim) => {
        const grid = [7, 11];
        const window = [5, 7];
        await compare(caseOf(grid, { window }, { dtype, dim }), turn++);
        const more = modified ? { softcap: 4 } : {};
        await compare(caseOf(grid, { window, causal: [true, false] }, { dtype, dim, ...more }), turn++, 5);
      },
    );

    it.each(some(EDGES))('extents %j, %j', async (grid, setting) => {
      await compareNext(caseOf(grid, setting, next()));
    });

    it.each(some(flags(1).concat(flags(2), flags(3))))('causality along axes: %j %j %j', async (...causal) => {
      const own = causal.filter((flag) => flag !== undefined);
      const [grid, window, stride] = {
        1: [[100], [30], [6]],
        2: [
          [9, 14],
          [4, 5],
          [1, 4],
        ],
        3: [
          [4, 6, 7],
          [2, 3, 3],
          [2, 1, 3],
        ],
      }[own.length as 1 | 2 | 3] as [number[], number[], number[]];
      const dilation = own.map((_, a) => 1 + ((a + turn) % 2));
      await compare(caseOf(grid, { window, stride, causal: own, dilation }, next()), turn);
    });

    it.each<[number[], Setting]>([
      [[90], { window: 20, wrap: true }],
      [[66], { window: 60, stride: 3, wrap: true }],
      [[64], { window: 60, stride: 4, wrap: true }],
      [[140], { window: 110, stride: 70, wrap: true }],
      [[70], { window: 70, wrap: true }],
      [[90], { window: 20, stride: 5, dilation: 3, wrap: true }],
      [[5, 20], { window: [3, 7], wrap: [false, true] }],
      [[12, 10], { window: [9, 7], stride: [4, 2], wrap: true }],
      [[3, 5, 6], { window: [2, 3, 5], wrap: [false, true, true] }],
    ])('rings: extents %j, %j', async (grid, setting) => {
      await compareNext(caseOf(grid, setting, next()));
    });

    it('stride equal to the window is attention within blocks', async () => {
      for (const dtype of dtypes) {
        const problem = problemOf(caseOf([48], { window: 8, stride: 8 }, { dtype, dim: dims[0] }));
        const blocks = (values: Problem['q']) => ({ ...values, shape: [6, 8, ...values.shape.slice(2)] });
        const want = { ...problem, masks: [], q: blocks(problem.q), k: blocks(problem.k), v: blocks(problem.v) };
        expectResult(await run(problem, dtype, undefined, 'cuda'), expectedOn('cuda', want, dtype));
      }
    });

    it('a window of one token gives v', async () => {
      for (const dtype of dtypes) {
        const problem = problemOf(caseOf([7, 11], { window: 1 }, { dtype, dim: dims[0] }));
        const got = await run(problem, dtype, undefined, 'cuda');
        expectResult(got, expectedOn('cuda', problem, dtype));
        // Three products of TF32 keep all but the last bits of a float32.
        if (dtype !== 'float32') expect(got.out).toEqual(problem.v.data);
      }
    });

    it('a window of everything is attention without a mask, also for one head alone', async () => {
      for (const dtype of dtypes) {
        const full = problemOf(caseOf([9, 9], [{ window: -1 }, { window: -1 }], { dtype, dim: dims[0] }));
        const dense = { ...full, masks: [] };
        const want = expectedOn('cuda', dense, dtype);
        expectResult(await run(full, dtype, undefined, 'cuda'), want);
        await compareNext(caseOf([9, 9], [{ window: -1 }, { window: [3, 2] }], { dtype, dim: dims[0] }));
      }
    });

    it('settings of their own for heads, in runs and in groups', async () => {
      const [a, b]: Setting[] = [{ window: [3, 5] }, { window: [5, 3], stride: [2, 1], causal: [true, false] }];
      const c: Setting = { window: 2, dilation: [1, 2] };
      await compareNext(caseOf([8, 9], [a!, a!, b!, b!, c, a!], { ...next(), kvHeads: 2, group: 3 }));
    });

    if (modified) {
      it('keys in parts', async () => {
        await compare(caseOf([300], { window: 269, stride: 3 }, { dtype: dtypes[0], dim: dims[0], sinks: true }), turn);
        if (interpreted) expect(lastKernel()).toContain('combine_kernel');
      });

      it('lists of masks', async () => {
        const more = (setting: Setting, rank: number): MaskSpec => ({ heads: [axesOf(rank, setting)] });
        await compareNext(caseOf([100], { window: 50 }, { ...next(), more: [{ left: 20, right: 10 }] }));
        await compareNext(caseOf([9, 10], { window: 7 }, { ...next(), more: [{ left: -1, right: 0 }] }));
        await compareNext(
          caseOf([9, 10], { window: [9, 5] }, { ...next(), more: [more({ window: [2, 4], dilation: [3, 2] }, 2)] }),
        );
        await compareNext(
          caseOf(
            [8, 9],
            { window: [7, 5], stride: 2 },
            {
              ...next(),
              more: [more({ window: [3, 6], wrap: true }, 2), { left: 100, right: 60 }, more({ window: -1 }, 2)],
            },
          ),
        );
        // A window that reaches over everything hides nothing.
        await compareNext(caseOf([9, 9], { window: 4 }, { ...next(), more: [{ left: 1000, right: -1 }] }));
      });

      it('extra keys, sinks, biases, caps and scales', async () => {
        const grid = [6, 7];
        const setting = { window: [5, 6], stride: [1, 3] };
        for (const options of [
          { extra: 40, keyBias: 3, batch: 2 },
          { denseBias: 15, kvHeads: 2, group: 1 },
          { denseBias: 5, keyBias: 1, softcap: 2, sinks: true },
          { scale: 0 },
          { scale: -0.3, extra: 1 },
        ] satisfies Options[]) {
          await compare(caseOf(grid, setting, { group: 2, ...next(), ...options }), turn, turn % 2 ? turn : undefined);
        }
        await compareNext(caseOf([75], { window: 31, wrap: true, stride: 3 }, { ...next(), denseBias: 15, dim: 40 }));
      });
    }

    it('extra keys and sinks', async () => {
      await compareNext(caseOf([8, 9], { window: [7, 5] }, { ...next(), extra: 5, sinks: true, batch: 2 }));
    });

    it('another batch entry has no influence, even NaN', async () => {
      for (const [grid, setting] of [
        [[131], { window: 20 }],
        [[9, 13], { window: 4 }],
        [[5, 7, 6], { window: 3 }],
        [[35], { window: 30, wrap: true }],
      ] as [number[], Setting][]) {
        const one = { ...caseOf(grid, setting, next()), batch: 3 };
        const problem = problemOf(one);
        const entry = (values: Problem['q']) => {
          const size = values.data.length / 3;
          const middle = { shape: [1, ...values.shape.slice(1)], data: values.data.slice(size, 2 * size) };
          values.data.fill(Number.NaN, 0, size).fill(Number.NaN, 2 * size);
          return middle;
        };
        const want = { ...problem, q: entry(problem.q), k: entry(problem.k), v: entry(problem.v) };
        const got = await run(problem, one.dtype, undefined, 'cuda');
        const middle = (data: Float64Array) => data.slice(data.length / 3, (2 * data.length) / 3);
        expectResult({ out: middle(got.out), lse: middle(got.lse) }, expectedOn('cuda', want, one.dtype));
      }
    });

    it('keys that no query of a tile sees have no influence, even NaN', async () => {
      const one = caseOf([200], { window: 17 }, next());
      const problem = problemOf(one);
      const want = expectedOn('cuda', problem, one.dtype);
      for (const { data } of [problem.k, problem.v]) data.fill(Number.NaN, 136 * one.dim);
      // Of the first tile, or two tiles, of 128 queries the last one sees keys 119 ... 135.
      const got = await run(problem, one.dtype, undefined, 'cuda');
      const first = { out: got.out.slice(0, 128 * one.dim), lse: got.lse.slice(0, 128) };
      const { out, lse, tolerance } = want;
      expectResult(first, { out: out.slice(0, 128 * one.dim), lse: lse.slice(0, 128), tolerance } as typeof want);
    });

    it('is the same bit for bit under every schedule', async () => {
      const { dtype, dim } = next();
      const problem = problemOf(caseOf([8, 16], { window: [5, 8], wrap: [false, true] }, { dtype, dim }));
      const some = schedules.filter((_, n) => n % 3 === 0);
      await checkSchedules(problem, dtype, some);
    });

    it('random problems', async () => {
      await fc.assert(
        fc.asyncProperty(randomCase({ dtypes, dims, modified, runs }), (one) =>
          compare(one, turn++, one.seed % 2 ? one.seed : undefined),
        ),
        { numRuns: runs, seed: 26 },
      );
    });
  });
}
