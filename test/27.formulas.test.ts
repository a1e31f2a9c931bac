// Biases of low rank and in closed form: against their definitions, against the dense bias they stand for, and what is
// built on them.

import {
  type AttentionOptions,
  alibi,
  attention,
  bucketBias,
  causal,
  denseBias,
  devices,
  distanceBias,
  keyBias,
  lowRankBias,
  neighborhood,
  relativePositionBias,
  Stream,
  sphereBias,
  Tensor,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { dtypes } from './support/cases';
import { check, expectResult, run, tensorOf } from './support/library';
import { type Float, normal, uniform, type Values } from './support/numbers';
import type { MaskSpec, Problem } from './support/oracle';
import { refused } from './support/refusal';
import { expected } from './support/tolerance';

const nothing = Number.NEGATIVE_INFINITY;
const normals = (seed: number, shape: number[]) => normal(uniform(seed), 'float32', shape);
const causalMask: MaskSpec = { left: -1, right: 0 };

function problem(dtype: Float, axes: [number[], number[]], seed = 1, [batch, kvHeads, heads, dim] = [2, 2, 4, 24]) {
  const random = uniform(seed);
  return {
    q: normal(random, dtype, [batch!, ...axes[0], heads!, dim!]),
    k: normal(random, dtype, [batch!, ...axes[1], kvHeads!, dim!]),
    v: normal(random, dtype, [batch!, ...axes[1], kvHeads!, dim! + 3]),
  };
}

/** The float32 logarithm of the sum of exponentials of biases alone. */
async function lseOf(heads: number, Lq: number, Lk: number, options: AttentionOptions): Promise<number[]> {
  const q = Tensor.zeros([1, Lq, heads, 1]);
  const k = Tensor.zeros([1, Lk, heads, 1]);
  return Array.from(await attention(q, k, k, { scale: 0, ...options }).lse.read(), Number);
}

describe.each(dtypes)('low rank beside %s', (dtype) => {
  const axis = { window: 5, stride: 2, dilation: 1, causal: false, wrap: false };
  const masks: [string, MaskSpec[], number[], number[]][] = [
    ['no mask', [], [37], [85]],
    ['causal', [causalMask], [70], [91]],
    ['window', [{ left: 20, right: 3 }], [85], [85]],
    ['neighborhood', [{ heads: [[axis, { ...axis, dilation: 2 }]] }], [9, 11], [9, 11]],
  ];
  it.each(masks)('equals the dense product of its factors: %s', async (_, mask, qAxes, kAxes) => {
    const p = { ...problem(dtype, [qAxes, kAxes], 1, [1, 2, 4, 24]), masks: mask };
    const [Lq, Lk] = [qAxes.reduce((a, b) => a * b), kAxes.reduce((a, b) => a * b)];
    for (const [turn, rank] of [1, 2, 7, 16, 19, 33, 128, 256].entries()) {
      const [a, b] = [turn % 2 ? 4 : 1, turn % 3 ? 4 : 1];
      const lowRank = { q: normals(rank, [1, Lq, a, rank]), k: normals(rank + 1, [1, Lk, b, rank]) };
      const product = new Float64Array(4 * Lq * Lk);
      for (let h = 0; h < 4; h++) {
        for (let i = 0; i < Lq; i++) {
          for (let j = 0; j < Lk; j++) {
            const [x, y] = [(i * a + (h % a)) * rank, (j * b + (h % b)) * rank];
            let sum = 0;
            for (let r = 0; r < rank; r++) sum += lowRank.q.data[x + r]! * lowRank.k.data[y + r]!;
            product[(h * Lq + i) * Lk + j] = sum;
          }
        }
      }
      const dense = expected({ ...p, denseBias: { shape: [4, Lq, Lk], data: product } }, dtype);
      const { tolerance } = expected({ ...p, lowRank }, dtype);
      expectResult(await run({ ...p, lowRank }, dtype, turn), { ...dense, tolerance });
    }
  });
});

describe.each(dtypes)('factors of a low rank beside %s', (dtype) => {
  const p = problem(dtype, [[70], [150]], 3, [1, 1, 2, 40]);
  const factors = (seed: number, length: number, rank: number, of: (x: number, at: number) => number): Values => {
    const { shape, data } = normals(seed, [1, length, 2, rank]);
    return { shape, data: data.map((x, at) => Math.fround(of(x, at))) };
  };

  it.each([
    ['large and small ones', (x: number, at: number) => x * 2 ** ((at % 5) * 30 - 60), (x: number) => x * 2 ** -60],
    [
      'some that are too large to be taken apart',
      (x, at) => (at % 11 ? x * 2 ** -90 : x * 2 ** 60),
      (x) => x * 2 ** -60,
    ],
    ['some too small', (x, at) => (at % 3 ? x : x * 2 ** -130), (x, at) => (at % 4 ? x : 0)],
    ['keys that are hidden', (x) => Math.abs(x), (x, at) => (Math.floor(at / 14) % 3 ? x : nothing)],
    ['masks of the lowest float', (x) => 1 + 0 * x, (x, at) => (Math.floor(at / 14) % 2 ? x : -3.4028234663852886e38)],
  ] as [string, (x: number, at: number) => number, (x: number, at: number) => number][])(
    'may be %s',
    async (_, q, k) => {
      const rank = _.startsWith('masks') ? 1 : 7;
      const lowRank = { q: factors(1, 70, rank, q), k: factors(2, 150, rank, k) };
      for (const scale of [undefined, -0.5, 1e-30, 0]) await check({ ...p, scale, lowRank }, dtype, 3);
      await check({ ...p, lowRank, masks: [causalMask], softcap: 3 }, dtype, 4);
    },
  );

  it('are those of one bias of several, beside others', async () => {
    const extra = { k: normals(5, [1, 9, 1, 40]), v: normals(6, [1, 9, 1, 43]) };
    const rounded = Object.fromEntries(
      Object.entries(extra).map(([name, { shape, data }]) => [
        name,
        { shape, data: data.map((x) => Math.round(x * 8) / 8) },
      ]),
    ) as typeof extra;
    for (const ranks of [
      [3, 16],
      [21, 2],
      [1, 1],
      [40, 60],
    ]) {
      const parts = ranks.map((rank, n) => ({
        q: factors(n, 70, rank, (x) => x),
        k: factors(n + 7, 150, rank, (x) => x),
      }));
      const joined = (side: 'q' | 'k', length: number): Values => {
        const rank = ranks[0]! + ranks[1]!;
        const data = Array.from({ length: length * 2 }, (_, row) =>
          parts.flatMap((part, n) => [...part[side].data.slice(row * ranks[n]!, (row + 1) * ranks[n]!)]),
        ).flat();
        return { shape: [1, length, 2, rank], data: Float64Array.from(data) };
      };
      const whole: Problem = {
        ...p,
        alibi: {},
        keyBias: normals(9, [150]),
        extra: rounded,
        masks: [causalMask],
        lowRank: { q: joined('q', 70), k: joined('k', 150) },
      };
      const [q, k, v, extraK, extraV] = [p.q, p.k, p.v, rounded.k, rounded.v].map((x) => tensorOf(x, dtype));
      const { out, lse } = attention(q!, k!, v!, {
        bias: [
          lowRankBias(tensorOf(parts[0]!.q), tensorOf(parts[0]!.k)),
          alibi(),
          keyBias(tensorOf(whole.keyBias!)),
          lowRankBias(tensorOf(parts[1]!.q), tensorOf(parts[1]!.k)),
        ],
        extra: { k: extraK!, v: extraV! },
        mask: causal(),
      });
      const want = expected(whole, dtype);
      const got = await run(whole, dtype);
      expectResult(got, want);
      const values = await lse.read();
      values.forEach((x, n) => {
        expect(Math.abs(Number(x) - Number(want.lse[n]))).toBeLessThanOrEqual(want.tolerance.lse);
      });
      expect(out.shape).toEqual([1, 70, 2, 43]);
    }
  });
});

describe('a path of a low rank that is forced', () => {
  const hasAmx = devices().find(({ device }) => device === 'cpu')?.instructionSet === 'amx';
  const lowRank = (Lq: number, Lk: number, rank: number) => ({
    q: normals(rank, [1, Lq, 4, rank]),
    k: normals(rank + 1, [2, Lk, 1, rank]),
  });
  const more: Partial<Problem>[] = [{}, { scale: -0.5, masks: [causalMask], keyBias: normals(1, [85]), alibi: {} }];

  it.each(dtypes)('vectors beside %s', async (dtype) => {
    for (const [turn, rank] of [1, 19, 70].entries()) {
      for (const Lq of [1, 37]) {
        const p = {
          ...problem(dtype, [[Lq], [85]], turn),
          lowRank: { ...lowRank(Lq, 85, rank), path: 'vector' as const },
        };
        for (const rest of [...more, { softcap: 2 }, { scale: 0 }]) await check({ ...p, ...rest }, dtype, turn);
      }
    }
  });

  it.runIf(hasAmx).each(dtypes)('matrix units beside %s', async (dtype) => {
    for (const [turn, rank] of [1, 19, 64].entries()) {
      for (const Lq of [1, 37]) {
        const p = {
          ...problem(dtype, [[Lq], [85]], turn),
          lowRank: { ...lowRank(Lq, 85, rank), path: 'matrix' as const },
        };
        for (const rest of more) await check({ ...p, ...rest }, dtype, turn);
      }
    }
  });

  it('is refused before anything is done where it cannot be gone', () => {
    const { q, k, v } = problem('float32', [[37], [85]]);
    const tensors = [q, k, v].map((values) => tensorOf(values)) as [Tensor, Tensor, Tensor];
    const bias = (path: 'matrix' | 'vector' | 'auto', rank = 3) => {
      const factors = lowRank(37, 85, rank);
      return lowRankBias(tensorOf(factors.q), tensorOf(factors.k), { path });
    };
    const out = Tensor.zeros([2, 37, 4, 27]);
    const wrong = (options: AttentionOptions) => refused(() => attention(...tensors, { out, ...options }));
    const named = (position: number, reason: string) =>
      new RegExp(`^ERR_OPTION bias ${position}: lowRankBias: path 'matrix' ${reason}.*; give path 'vector' or 'auto'$`);
    expect(wrong({ bias: [bias('vector'), bias('auto'), bias('matrix')] })).toMatch(named(2, 'is that of all'));
    if (!hasAmx) {
      expect(wrong({ bias: [alibi(), bias('matrix')] })).toMatch(named(1, 'needs the AMX instructions'));
    } else {
      expect(wrong({ bias: bias('matrix'), softcap: 2 })).toMatch(named(0, '.* softcap'));
      expect(wrong({ bias: bias('matrix'), scale: 0 })).toMatch(named(0, '.* scale'));
      expect(wrong({ bias: bias('matrix', 65) })).toMatch(named(0, 'takes a rank of 64 at most'));
      expect(wrong({ bias: [bias('matrix', 60), bias('auto', 5)] })).toMatch(named(0, 'takes a rank of 64 at most'));
    }
    expect((out.data as Float32Array).every((x) => x === 0)).toBe(true); // nor is anything about to write it
    const factors = Tensor.zeros([1, 6, 2, 4]);
    const other = (options: object) => refused(() => lowRankBias(factors, factors, options));
    expect(other({ path: 'dense' })).toBe(
      "ERR_OPTION lowRankBias: path is 'dense'; use 'auto' or 'matrix' or 'vector'",
    );
    expect(other({ Path: 'vector' })).toMatch(/^ERR_OPTION lowRankBias: .*'Path'.*'path'/);
  });

  it('is told', () => {
    const factors = Tensor.zeros([1, 6, 2, 4]);
    expect(lowRankBias(factors, factors).explain()).toMatchObject({
      forced: null,
      text: expect.stringMatching(/4 products.* Chosen for each call/),
    });
    for (const [path, text] of [
      ['vector', /4 products.* Forced onto vectors\./],
      ['matrix', /4 products.* Forced onto matrix units;/],
    ] as const) {
      expect(lowRankBias(factors, factors, { path }).explain()).toMatchObject({
        path: 'low rank',
        forced: path,
        text: expect.stringMatching(text),
      });
    }
    expect([alibi(), keyBias(Tensor.zeros([7]))].map((bias) => bias.explain().forced)).toEqual([null, null]);
  });
});

describe('alibi', () => {
  it('is right wherever the keys lie, among many', async () => {
    // Scores grow by several powers of two from one tile of keys to the next, and fall behind the query.
    for (const dtype of dtypes) {
      const p = problem(dtype, [[150], [600]], 4, [1, 1, 2, 16]);
      const slopes = { shape: [2], data: Float64Array.of(0.5, -0.25) };
      await check({ ...p, alibi: { slopes } }, dtype, 5);
      const axis = { window: 90, stride: 1, dilation: 5, causal: false, wrap: true };
      const q = { ...p.q, shape: [1, 150, 2, 16] };
      const wrapped = {
        q,
        k: problem(dtype, [[150], [150]], 6, [1, 1, 2, 16]).k,
        v: problem(dtype, [[150], [150]], 7, [1, 1, 2, 16]).v,
      };
      await check({ ...wrapped, alibi: { slopes }, masks: [{ heads: [[{ ...axis, window: 30 }]] }] }, dtype, 6);
    }
  });

  it('has the slopes of the paper and hides what is far', async () => {
    // Two keys, one of them hidden: lse is the bias of the other.
    for (let heads = 1; heads <= 33; heads++) {
      const hidden = keyBias(Tensor.from(Float32Array.of(0, nothing), [2]));
      const slopes = (await lseOf(heads, 1, 2, { bias: [alibi(), hidden] })).map((x) => -x);
      const below = 2 ** Math.floor(Math.log2(heads));
      const published = Array.from({ length: heads }, (_, h) =>
        h < below ? 2 ** ((-8 * (h + 1)) / below) : 2 ** ((-4 * (2 * (h - below) + 1)) / below),
      );
      slopes.forEach((slope, h) => {
        expect(Math.abs(slope / published[h]! - 1)).toBeLessThan(2 ** -21);
      });
    }
    expect(await lseOf(8, 1, 1, { bias: alibi() })).toEqual(new Array(8).fill(0));
  });

  it('counts positions in each sequence, from the last key', async () => {
    const p = problem('bfloat16', [[60], [75]], 3, [1, 1, 2, 16]);
    for (const masks of [[], [causalMask]]) {
      await check({ ...p, alibi: {}, masks }, 'bfloat16', 1);
      await check({ ...p, alibi: {}, masks, cuSeqlens: { q: [0, 7, 31, 60], k: [0, 20, 22, 75] } }, 'bfloat16', 2);
      await check({ ...p, alibi: { slopes: normals(1, [2]) }, masks, softcap: 2, scale: -3 }, 'bfloat16', 3);
    }
  });

  it('is off by at most 0.01 at 65,536 tokens with slope 1', async () => {
    const Lk = 65536;
    const slopes = Tensor.from(Float32Array.of(1), [1]);
    for (const [Lq, scale] of [
      [1, 0],
      [100, 0],
      [100, 0.3],
    ] as const) {
      for (const [from, seen] of [
        [0, 1],
        [0, 7],
        [12345, 2],
        [30001, 1],
      ] as const) {
        const hide = new Float32Array(Lk).fill(nothing);
        hide.fill(0, from, from + seen);
        const lse = await lseOf(1, Lq, Lk, { scale, bias: [alibi(slopes), keyBias(Tensor.from(hide, [Lk]))] });
        lse.forEach((got, i) => {
          const p = i + Lk - Lq;
          let sum = 0;
          for (let j = from; j < from + seen; j++) sum += Math.exp(-(from + seen - 1 - j));
          expect(Math.abs(got - (Math.log(sum) - (p - (from + seen - 1))))).toBeLessThan(0.01);
        });
      }
    }
  });
});

describe('distance', () => {
  it('equals the dense bias, far from the origin too', async () => {
    for (let n = 1; n <= 4; n++) {
      const p = problem('float32', [[33], [70]], n);
      const far = ({ shape, data }: Values) => ({ shape, data: data.map((x) => Math.fround(x + 3e4)) });
      const distance = { q: far(normals(n, [33, n])), k: far(normals(n + 9, [2, 70, n])) };
      const dense = new Float64Array(2 * 33 * 70);
      for (let at = 0; at < dense.length; at++) {
        const [b, i, j] = [Math.floor(at / 2310), Math.floor(at / 70) % 33, at % 70];
        for (let c = 0; c < n; c++) {
          dense[at]! -= (distance.q.data[i * n + c]! - distance.k.data[(b * 70 + j) * n + c]!) ** 2;
        }
      }
      const want = expected({ ...p, denseBias: { shape: [2, 1, 33, 70], data: dense } }, 'float32');
      const { tolerance } = expected({ ...p, distance }, 'float32');
      expectResult(await run({ ...p, distance }, 'float32', n), { ...want, tolerance });
    }
  });

  it('takes a number as its weight', async () => {
    const points = { q: tensorOf(normals(1, [5, 2])), k: tensorOf(normals(2, [9, 2])) };
    const number = await lseOf(2, 5, 9, { bias: distanceBias({ ...points, weight: 0.25 }) });
    const weight = Tensor.from(Float32Array.of(0.25, 0.25), [2]);
    expect(number).toEqual(await lseOf(2, 5, 9, { bias: distanceBias({ ...points, weight }) }));
  });
});

it('keyBias of log n is n copies of a key', async () => {
  const copies = Array.from({ length: 40 }, (_, j) => (j % 7) + 1);
  for (const dtype of dtypes) {
    const p = problem(dtype, [[19], [40]], 5);
    const repeat = ({ shape: [b, , ...rest], data }: Values): Values => {
      const row = rest.reduce((x, y) => x * y);
      const total = copies.reduce((x, y) => x + y);
      const all = Array.from({ length: b! }, (_, n) =>
        copies.flatMap((times, j) =>
          new Array<number[]>(times).fill([...data.slice((n * 40 + j) * row, (n * 40 + j + 1) * row)]),
        ),
      );
      return { shape: [b!, total, ...rest], data: Float64Array.from(all.flat(2)) };
    };
    const bias = { shape: [40], data: Float64Array.from(copies, (n) => Math.fround(Math.log(n))) };
    expectResult(await run({ ...p, keyBias: bias }, dtype), expected({ ...p, k: repeat(p.k), v: repeat(p.v) }, dtype));
  }
});

describe('relative positions', () => {
  const swin = (w: number, heads: number) => {
    const table = normals(w, [(2 * w - 1) ** 2, heads]); // as a checkpoint has it
    return tensorOf(table)
      .reshape([2 * w - 1, 2 * w - 1, heads])
      .permute(2, 0, 1);
  };

  it('a Swin table is that of its windows', async () => {
    const w = 7;
    const windows = problem(
      'float32',
      [
        [w, w],
        [w, w],
      ],
      1,
      [3, 3, 3, 8],
    );
    const [q, k, v] = [windows.q, windows.k, windows.v].map((x) => tensorOf(x)) as [Tensor, Tensor, Tensor];
    const table = swin(w, 3);
    const entries = await table.read();
    const dense = new Float32Array(3 * w ** 4);
    for (let at = 0; at < dense.length; at++) {
      const [h, i, j] = [Math.floor(at / w ** 4), Math.floor(at / w ** 2) % w ** 2, at % w ** 2];
      const dy = Math.floor(i / w) - Math.floor(j / w) + w - 1;
      const dx = (i % w) - (j % w) + w - 1;
      dense[at] = Number(entries[(h * (2 * w - 1) + dy) * (2 * w - 1) + dx]);
    }
    const got = attention(q, k, v, { bias: relativePositionBias(table) });
    const want = attention(q, k, v, { bias: denseBias(Tensor.from(dense, [3, w * w, w * w])) });
    expect(await got.lse.read()).toEqual(await want.lse.read());
    expect(await got.out.read()).toEqual(await want.out.read());
  });

  it('serves a neighborhood, dilated ones by its dilation', async () => {
    const axis = { window: 5, stride: 1, dilation: 1, causal: false, wrap: false };
    for (const dilation of [1, 2, 3]) {
      const p: Problem = problem(
        'float16',
        [
          [16, 15],
          [16, 15],
        ],
        dilation,
        [1, 1, 2, 16],
      );
      p.masks = [
        {
          heads: [
            [
              { ...axis, dilation },
              { ...axis, window: 3, stride: 2 },
            ],
          ],
        },
      ];
      p.relative = { table: normals(dilation, [2, 9, 5]), dilation: [dilation, 1] };
      await check(p, 'float16', dilation);
      // A larger table with the same middle says the same: nothing that is seen lies beyond the edge.
      const larger = normals(9, [2, 31, 31]);
      p.relative.table.data.forEach((x, n) => {
        const [h, y, x0] = [Math.floor(n / 45), Math.floor(n / 5) % 9, n % 5];
        larger.data[(h * 31 + y + 11) * 31 + x0 + 13] = x;
      });
      expect(await run(p, 'float16')).toEqual(
        await run({ ...p, relative: { ...p.relative, table: larger } }, 'float16'),
      );
    }
  });

  it('T5 buckets begin where the model has them', async () => {
    // 32 buckets up to distance 128: eight of one token, then steps of a factor of √2.
    const starts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
    const bucketAt = (distance: number) => starts.filter((start) => start <= distance).length - 1;
    const embedding = Float32Array.from({ length: 64 }, (_, n) => (n % 2 ? -1 : 1) * Math.floor(n / 2));
    const bias = bucketBias(Tensor.from(embedding, [32, 2]));
    const decoder = bucketBias(Tensor.from(embedding.subarray(0, 32), [16, 2]), { bidirectional: false });
    const rows = 200;
    // Each query sees one key by a mask; lse is the bias. Keys before the query, then keys behind it.
    const before = await lseOf(2, rows, rows, { bias: [bias, only(rows, 0)] });
    const behind = await lseOf(2, rows, rows, { bias: [bias, only(rows, rows - 1)] });
    const masked = await lseOf(2, rows, rows, { bias: [decoder, only(rows, 0)] });
    const last = await lseOf(2, rows, rows, { bias: [decoder, only(rows, rows - 1)] });
    for (let i = 0; i < rows; i++) {
      expect(before[2 * i]).toBeCloseTo(bucketAt(i), 4);
      const distance = rows - 1 - i;
      expect(behind[2 * i + 1]).toBeCloseTo(-(distance === 0 ? 0 : 16 + bucketAt(distance)), 4);
      // Of 16 buckets in one direction eight are of one token too.
      expect(masked[2 * i]).toBeCloseTo(bucketAt(i), 4);
      expect(last[2 * i]).toBeCloseTo(0, 4);
    }
  });

  /** Hides all keys but one. */
  function only(keys: number, seen: number) {
    return keyBias(
      Tensor.from(
        Float32Array.from({ length: keys }, (_, j) => (j === seen ? 0 : nothing)),
        [keys],
      ),
    );
  }
});

describe('sphere', () => {
  it.each(['cells', 'equiangular', 'gauss'] as const)('%s weighs areas', async (grid) => {
    for (const latitudes of [2, 3, 8, 33]) {
      const lse = await lseOf(1, 1, latitudes * 5, { bias: sphereBias({ latitudes, longitudes: 5, grid }) });
      expect(lse[0]).toBeCloseTo(Math.log(4 * Math.PI), 5);
    }
  });

  it('integrates polynomials of the latitude', async () => {
    // The mean of cos² θ over the sphere is 1/3, as the mean of values under weights of the bias.
    for (const grid of ['equiangular', 'gauss'] as const) {
      const n = 9;
      const roots = [0, 0.324253423403809, 0.61337143270059, 0.836031107326636, 0.968160239507626];
      const gauss = [
        ...roots
          .slice(1)
          .map((x) => -x)
          .reverse(),
        ...roots,
      ].reverse();
      const nodes = grid === 'gauss' ? gauss : Array.from({ length: n }, (_, j) => Math.cos((j * Math.PI) / (n - 1)));
      const v = Tensor.from(Float32Array.from(nodes.flatMap((x) => [x * x, x * x])), [1, n, 2, 1, 1]);
      const zero = Tensor.zeros([1, 1, 1, 1]);
      const bias = sphereBias({ latitudes: n, longitudes: 2, grid });
      const { out } = attention(zero, Tensor.zeros([1, n, 2, 1, 1]), v, { bias });
      expect((await out.read())[0]).toBeCloseTo(1 / 3, 6);
    }
  });
});

it('a row whose biases are all -Infinity is empty', async () => {
  for (const Lq of [3, 90]) {
    const q = Tensor.randn([1, Lq, 2, 16], { seed: 1 });
    const k = Tensor.randn([1, 70, 2, 16], { seed: 2 });
    const phiQ = Tensor.from(new Float32Array(Lq).fill(1), [1, Lq, 1, 1]);
    const phiK = Tensor.from(new Float32Array(70).fill(nothing), [1, 70, 1, 1]);
    const rows = Float32Array.from({ length: Lq }, (_, i) => (i % 2 ? 0 : nothing));
    const some = attention(q, k, k, { bias: [alibi(), denseBias(Tensor.from(rows, [Lq, 1]))], sinks: undefined });
    const none = attention(q, k, k, { bias: lowRankBias(phiQ, phiK) });
    (await some.lse.read()).forEach((x, at) => {
      expect(x === nothing).toBe(Math.floor(at / 2) % 2 === 0);
    });
    expect((await none.lse.read()).every((x) => x === nothing)).toBe(true);
    expect((await none.out.read()).every((x) => x === 0)).toBe(true);
  }
});

it('biases add up, with every option', async () => {
  for (const dtype of dtypes) {
    const random = uniform(8);
    const p: Problem = {
      ...problem(dtype, [[50], [64]], 7),
      masks: [causalMask],
      softcap: 2,
      sinks: normals(1, [4]),
      extra: { k: normal(random, dtype, [2, 5, 2, 24]), v: normal(random, dtype, [2, 5, 2, 27]) },
      keyBias: normals(2, [64]),
      denseBias: normals(3, [4, 50, 64]),
      lowRank: { q: normals(4, [2, 50, 1, 3]), k: normals(5, [1, 64, 4, 3]) },
      alibi: {},
      distance: { q: normals(6, [50, 3]), k: normals(7, [64, 3]), weight: normals(8, [2, 50, 4]) },
      relative: { table: normals(9, [4, 9]), dilation: [3] },
    };
    await check(p, dtype, 1);
  }
});

it('a graph reads biases anew', async () => {
  const q = Tensor.randn([1, 40, 2, 16], { seed: 1 });
  const [phiQ, phiK] = [Tensor.zeros([1, 40, 1, 3]), Tensor.randn([1, 40, 2, 3], { seed: 3 })];
  using stream = new Stream();
  let lse: Tensor = q;
  const options = () => ({ bias: [lowRankBias(phiQ, phiK), alibi()], mask: [causal(), neighborhood({ window: 9 })] });
  using graph = stream.capture(() => {
    lse = attention(q, q, q, { ...options(), stream }).lse;
  });
  for (const seed of [4, 5]) {
    phiQ.data.set(Tensor.randn([1, 40, 1, 3], { seed }).data);
    graph.launch();
    const [got, want] = [await lse.read(), await attention(q, q, q, options()).lse.read()];
    expect(got).toEqual(want);
  }
});

it('explains itself', () => {
  const q = tensorOf(normals(1, [5, 2]));
  expect(alibi().explain()).toMatchObject({ name: 'alibi', path: 'closed form', elements: 0 });
  expect(distanceBias({ q, k: q }).explain()).toMatchObject({
    name: 'distanceBias',
    path: 'closed form',
    elements: 20,
  });
  expect(keyBias(Tensor.zeros([7])).explain()).toMatchObject({ name: 'keyBias', path: 'stored', elements: 7 });
  const factors = Tensor.zeros([1, 6, 2, 4]);
  const low = lowRankBias(factors, factors).explain();
  expect(low).toMatchObject({ name: 'lowRankBias', path: 'low rank', elements: 96 });
  expect(low.text).toContain('4 products');
});
