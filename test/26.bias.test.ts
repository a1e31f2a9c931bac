// What is added to or joins the softmax: biases, sinks, extra keys, softcap, scale; and packed sequences.

import fc from 'fast-check';
import { attention, causal, denseBias, keyBias, memoryStats, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { dtypes } from './support/cases';
import { check, embed, expectResult, run, tensorOf } from './support/library';
import { type Float, normal, uniform, type Values } from './support/numbers';
import type { MaskSpec, Problem } from './support/oracle';
import { refused } from './support/refusal';
import { expected } from './support/tolerance';

const nothing = Number.NEGATIVE_INFINITY;
const values = (shape: number[], data: number[]): Values => ({ shape, data: Float64Array.from(data) });

function problem(
  dtype: Float,
  Lq: number,
  Lk: number,
  seed = 1,
  [batch, kvHeads, heads, dim] = [2, 2, 4, 24],
): Problem {
  const random = uniform(seed);
  return {
    q: normal(random, dtype, [batch!, Lq, heads!, dim!]),
    k: normal(random, dtype, [batch!, Lk, kvHeads!, dim!]),
    v: normal(random, dtype, [batch!, Lk, kvHeads!, dim! + 3]),
  };
}

const normals = (seed: number, shape: number[]) => normal(uniform(seed), 'float32', shape);
const causalMask: MaskSpec = { left: -1, right: 0 };

describe.each(dtypes)('%s', (dtype) => {
  const p = problem(dtype, 37, 85);

  it('keyBias in every form', async () => {
    for (const shape of [[85], [2, 85], [2, 4, 85]]) {
      await check({ ...p, keyBias: normals(2, shape) }, dtype, 7);
      await check({ ...p, keyBias: normals(2, shape), masks: [causalMask] }, dtype);
    }
  });

  it('denseBias broadcast in every form', async () => {
    for (let bits = 0; bits < 16; bits++) {
      const shape = [2, 4, 37, 85].map((extent, axis) => ((bits >> axis) & 1 ? extent : 1));
      await check({ ...p, denseBias: normals(3, shape) }, dtype, bits);
    }
    for (const shape of [[85], [37, 85], [37, 1], [4, 1, 85]])
      await check({ ...p, denseBias: normals(4, shape) }, dtype);
  });

  it('denseBias for some of the heads', async () => {
    const few = problem(dtype, 1, 85); // all heads of a key head in one tile
    const cases: [number[], number[]][] = [
      [[1], [1, 37, 85]],
      [
        [3, 0],
        [2, 2, 37, 85],
      ],
      [
        [2, 1, 3],
        [1, 3, 37, 1],
      ],
      [
        [0, 3],
        [1, 85],
      ],
      [
        [3, 2, 1, 0],
        [2, 4, 1, 85],
      ],
    ];
    for (const [turn, [heads, shape]] of cases.entries()) {
      const dense = { ...normals(turn, shape), heads };
      await check({ ...p, denseBias: dense }, dtype, turn);
      const more = { masks: [causalMask], scale: -0.5, alibi: {}, keyBias: normals(turn, [85]) };
      await check({ ...p, ...more, denseBias: dense, softcap: turn % 2 ? 2 : undefined }, dtype, turn);
      const lowRank = { q: normals(turn, [1, 37, 4, 5]), k: normals(turn + 1, [1, 85, 1, 5]) };
      await check({ ...p, lowRank, denseBias: dense }, dtype, turn);
      const one = {
        ...normals(
          turn,
          shape.map((extent) => (extent === 37 ? 1 : extent)),
        ),
        heads,
      };
      await check({ ...few, denseBias: one }, dtype, turn);
      await check({ ...few, ...more, denseBias: one }, dtype, turn);
    }
    const axis = { window: 5, stride: 2, dilation: 1, causal: false, wrap: false };
    const ownWindows: MaskSpec = { heads: [3, 5, 7, 9].map((window) => [{ ...axis, window }]) };
    const square = problem(dtype, 37, 37);
    const dense = { ...normals(9, [2, 2, 37, 37]), heads: [2, 1] };
    await check({ ...square, masks: [ownWindows], denseBias: dense }, dtype, 9);
    const ragged = { ...problem(dtype, 37, 85, 1, [1, 2, 4, 24]), cuSeqlens: { q: [0, 9, 37], k: [0, 30, 85] } };
    await check({ ...ragged, denseBias: { ...normals(8, [2, 37, 85]), heads: [0, 2] } }, dtype, 8);
  });

  it('biases add up', async () => {
    const [key, dense] = [normals(5, [85]), normals(6, [37, 85])];
    await check({ ...p, keyBias: key, denseBias: dense, softcap: 2 }, dtype, 3);
    const sum = values(
      [37, 85],
      [...dense.data].map((x, n) => Math.fround(x + key.data[n % 85]!)),
    );
    await check({ ...p, denseBias: sum, softcap: 2 }, dtype, 3);
  });

  it('softcap, small and large', async () => {
    for (const softcap of [0.01, 1, 50, 1e6]) {
      await check({ ...p, softcap }, dtype, 8);
      await check({ ...p, softcap, masks: [{ left: 20, right: 5 }], scale: 3, sinks: normals(7, [4]) }, dtype);
    }
  });

  it('scale 0, negative and large', async () => {
    for (const scale of [0, -0.7, 5]) await check({ ...p, scale, masks: [causalMask] }, dtype, 9);
    const flat = await run({ ...p, scale: 0 }, dtype);
    flat.lse.forEach((x) => {
      expect(x).toBeCloseTo(Math.log(85), 5);
    });
  });

  it('sinks', async () => {
    await check({ ...p, sinks: normals(8, [4]) }, dtype, 10);
    await check({ ...p, sinks: values([4], [30, -30, nothing, 0]), masks: [causalMask] }, dtype, 11);
    const none = await run({ ...p, sinks: values([4], [nothing, nothing, nothing, nothing]) }, dtype);
    expect(none).toEqual(await run(p, dtype));
  });

  it('sinks are not scaled, capped or biased', async () => {
    const one = { ...problem(dtype, 1, 1), sinks: values([4], [1, 2, 3, 4]) };
    const { lse } = await run({ ...one, scale: 0, softcap: 0.5, keyBias: values([1], [nothing]) }, dtype);
    expect([...lse]).toEqual([1, 2, 3, 4, 1, 2, 3, 4]);
  });

  it('extra keys and values', async () => {
    for (const n of [1, 7, 70]) {
      const random = uniform(n);
      const extra = { k: normal(random, dtype, [2, n, 2, 24]), v: normal(random, dtype, [2, n, 2, 27]) };
      await check({ ...p, extra }, dtype, 12);
      await check({ ...p, extra, masks: [{ left: 0, right: 0 }], softcap: 1, sinks: normals(9, [4]) }, dtype, 13);
      await check({ ...p, extra, keyBias: normals(10, [85]), masks: [causalMask] }, dtype, 14);
      // Queries 0 ... 47 of 85 stand before the first of 37 keys and see the extra ones alone.
      const early = problem(dtype, 85, 37);
      await check({ ...early, extra, masks: [causalMask] }, dtype, 15);
    }
  });

  it('extra keys of length 0 change nothing', async () => {
    const extra = { k: values([2, 0, 2, 24], []), v: values([2, 0, 2, 27], []) };
    expect(await run({ ...p, extra }, dtype)).toEqual(await run(p, dtype));
  });

  it('packed sequences of random lengths', async () => {
    const lengths = fc.array(
      fc.tuple(
        fc.oneof(fc.constantFrom(0, 1), fc.nat({ max: 90 })),
        fc.oneof(fc.constantFrom(0, 1), fc.nat({ max: 90 })),
      ),
      { minLength: 1, maxLength: 6 },
    );
    const masks = fc.constantFrom<MaskSpec[]>(
      [],
      [causalMask],
      [{ left: 11, right: 4 }],
      [causalMask, { left: 30, right: 9 }],
    );
    const more = fc.constantFrom('', 'sinks', 'extra', 'keyBias', 'denseBias', 'softcap');
    await fc.assert(
      fc.asyncProperty(
        lengths,
        masks,
        more,
        fc.constantFrom(1, 2),
        fc.nat(),
        async (lens, mask, what, kvHeads, seed) => {
          const offsets = (at: 0 | 1) => {
            let sum = 0;
            return [0, ...lens.map((pair) => (sum += pair[at]))];
          };
          const cuSeqlens = { q: offsets(0), k: offsets(1) };
          const [Lq, Lk] = [cuSeqlens.q.at(-1)!, cuSeqlens.k.at(-1)!];
          const ragged: Problem = { ...problem(dtype, Lq, Lk, seed, [1, kvHeads, 2, 16]), masks: mask, cuSeqlens };
          if (what === 'sinks') ragged.sinks = normals(seed, [2]);
          if (what === 'softcap') ragged.softcap = 1.5;
          if (what === 'keyBias') ragged.keyBias = normals(seed, [1, 2, Lk]);
          if (what === 'denseBias') ragged.denseBias = normals(seed, [2, Lq, Lk]);
          if (what === 'extra') {
            const random = uniform(seed);
            ragged.extra = {
              k: normal(random, dtype, [1, 3, kvHeads, 16]),
              v: normal(random, dtype, [1, 3, kvHeads, 19]),
            };
          }
          await check(ragged, dtype, seed);
        },
      ),
      { numRuns: 40, seed: 77 },
    );
  });
});

it('heads that a denseBias is not for read nothing of it', async () => {
  for (const queries of [1, 37]) {
    const own = problem('float32', queries, 85);
    const { lse, tolerance } = expected(own, 'float32');
    const nan = { shape: [1, queries, 85], data: new Float64Array(queries * 85).fill(Number.NaN), heads: [2] };
    const got = await run({ ...own, denseBias: nan }, 'float32');
    got.lse.forEach((x, n) => {
      if (n % 4 === 2) expect(x).toBeNaN();
      else expect(Math.abs(x - lse[n]!)).toBeLessThanOrEqual(tolerance.lse);
    });
  }
});

it('heads of a denseBias are checked', () => {
  const q = Tensor.zeros([1, 5, 4, 8]);
  const dense = Tensor.zeros([1, 2, 5, 5]);
  const made = (tensor: Tensor, heads: unknown) => refused(() => denseBias(tensor, { heads: heads as number[] }));
  expect(made(dense, [])).toMatch(/^ERR_OPTION denseBias: heads is \[\]/);
  expect(made(dense, [1, 1])).toMatch(/^ERR_OPTION denseBias: heads is \[1, 1\].*different/);
  expect(made(dense, [0, -1])).toMatch(/^ERR_OPTION denseBias: heads\[1\] is -1/);
  expect(made(dense, 3)).toMatch(/^ERR_OPTION denseBias: heads is 3/);
  expect(made(dense, [0, 1, 2])).toMatch(/^ERR_SHAPE denseBias: .*\[1, 2, 5, 5\].* 2 .*3/);
  expect(refused(() => denseBias(dense, { head: [1] } as object))).toMatch(/^ERR_OPTION denseBias: option 'head'/);
  const far = denseBias(dense, { heads: [1, 4] });
  expect(refused(() => attention(q, q, q, { bias: [keyBias(Tensor.zeros([5])), far] }))).toBe(
    'ERR_OPTION bias 1: denseBias: heads[1] is 4; q has heads 0 to 3',
  );
  expect(denseBias(dense, { heads: [1, 3] }).explain().text).toContain('each score of heads 1, 3.');
});

it('a bias of -Infinity hides keys, up to all of them', async () => {
  const p = problem('float32', 3, 70);
  const some = values(
    [70],
    Array.from({ length: 70 }, (_, j) => (j % 3 ? nothing : j / 9)),
  );
  await check({ ...p, keyBias: some }, 'float32', 1);
  const all = { ...p, keyBias: values([70], new Array(70).fill(nothing)) };
  await check(all, 'float32', 2);
  await check({ ...all, sinks: normals(1, [4]) }, 'float32', 3);
  const tail = values(
    [70],
    Array.from({ length: 70 }, (_, j) => (j < 66 ? nothing : 0)),
  );
  await check({ ...p, keyBias: tail, masks: [{ left: -1, right: 1 }] }, 'float32', 4);
});

it('a pair bias serves all rows of a batch without copies, also through a view', async () => {
  // Triangle attention: rows are the batch, and the bias of a pair of columns is that of every row.
  const [n, heads] = [70, 3];
  const p = problem('float32', n, n, 4, [5, heads, heads, 8]); // five of n rows
  const pair = normals(5, [n, n, heads]); // as a projection of the pair representation leaves it
  const view = tensorOf(pair).permute(2, 0, 1);
  const [q, k, v] = [p.q, p.k, p.v].map((x) => tensorOf(x, 'float32')) as [Tensor, Tensor, Tensor];
  const before = memoryStats('cpu').bytes;
  const { out, lse } = attention(q, k, v, { bias: denseBias(view) });
  // Only the results are allocated, rounded up to size classes of which there are four to each doubling.
  expect(memoryStats('cpu').bytes - before).toBeLessThan(1.25 * (out.byteLength + lse.byteLength) + 4096);
  const moved = values(
    [1, heads, n, n],
    Array.from({ length: heads * n * n }, (_, at) => pair.data[(at % (n * n)) * heads + Math.floor(at / (n * n))]!),
  );
  const want = expected({ ...p, denseBias: moved }, 'float32');
  expectResult(
    {
      out: Float64Array.from((await out.read()) as Float32Array),
      lse: Float64Array.from((await lse.read()) as Float32Array),
    },
    want,
  );
});

it('a row without keys gives 0 and -Infinity, or the sink', async () => {
  const p = { ...problem('float32', 90, 10), masks: [causalMask] };
  const alone = await run(p, 'float32', 1);
  const sunk = await run({ ...p, sinks: values([4], [1, -2, nothing, 88]) }, 'float32', 2);
  for (let b = 0; b < 2; b++) {
    for (let i = 0; i < 80; i++) {
      const row = (b * 90 + i) * 4;
      expect([...alone.lse.slice(row, row + 4)]).toEqual([nothing, nothing, nothing, nothing]);
      expect([...sunk.lse.slice(row, row + 4)]).toEqual([1, -2, nothing, 88]);
      for (const { out } of [alone, sunk]) expect(out.slice(row * 27, (row + 4) * 27).every((x) => x === 0)).toBe(true);
    }
  }
});

it('another entry of the batch has no influence, NaN and infinities included', async () => {
  const axis = { window: 7, stride: 3, dilation: 2, causal: false, wrap: false };
  for (const dtype of dtypes) {
    for (const masks of [[], [causalMask], [{ left: 5, right: 9 }], [{ heads: [[axis]] }]] as MaskSpec[][]) {
      const p: Problem = { ...problem(dtype, 70, 70, 3, [3, 1, 1, 32]), masks };
      const extra = { k: normal(uniform(1), dtype, [3, 5, 1, 32]), v: normal(uniform(2), dtype, [3, 5, 1, 35]) };
      const spoilt = ({ shape, data }: Values, by: number) => {
        const size = data.length / 3;
        return { shape, data: data.map((x, n) => (Math.floor(n / size) === 1 ? x : by)) };
      };
      const want = await run({ ...p, extra }, dtype);
      const got = await run(
        {
          q: spoilt(p.q, Number.NaN),
          k: spoilt(p.k, Number.NaN),
          v: spoilt(p.v, Number.POSITIVE_INFINITY),
          extra: { k: spoilt(extra.k, Number.POSITIVE_INFINITY), v: spoilt(extra.v, Number.NaN) },
          masks,
        },
        dtype,
      );
      expect(got.lse.slice(70, 140)).toEqual(want.lse.slice(70, 140));
      expect(got.out.slice(70 * 35, 140 * 35)).toEqual(want.out.slice(70 * 35, 140 * 35));
      expect(got.lse.slice(0, 70).every(Number.isNaN)).toBe(true); // NaN in, NaN out
    }
  }
});

describe('packed sequences', () => {
  it('rows outside of every sequence see nothing', async () => {
    const p = problem('float32', 20, 20, 1, [1, 1, 2, 8]);
    const { out, lse } = await run({ ...p, cuSeqlens: { q: [3, 10, 15], k: [3, 10, 15] } }, 'float32', 4);
    for (const i of [0, 1, 2, 15, 19]) {
      expect([...lse.slice(2 * i, 2 * i + 2)]).toEqual([nothing, nothing]);
      expect(out.slice(22 * i, 22 * i + 22).every((x) => x === 0)).toBe(true);
    }
    await check({ ...p, cuSeqlens: { q: [0, 10, 20], k: [2, 9, 18] } }, 'float32', 5);
  });

  it('tokens of other sequences have no influence', async () => {
    const p = problem('float32', 70, 70, 2, [1, 1, 1, 16]);
    const cuSeqlens = { q: [0, 33, 70], k: [0, 33, 70] };
    const want = await run({ ...p, cuSeqlens }, 'float32');
    const broken = { ...p, k: { ...p.k, data: p.k.data.slice() }, v: { ...p.v, data: p.v.data.slice() } };
    broken.k.data.fill(Number.NaN, 33 * 16);
    broken.v.data.fill(Number.NaN, 33 * 19);
    const got = await run({ ...broken, cuSeqlens }, 'float32');
    expect(got.out.slice(0, 33 * 19)).toEqual(want.out.slice(0, 33 * 19));
    expect(got.lse.slice(0, 33)).toEqual(want.lse.slice(0, 33));
  });

  it('offsets of any value touch nothing outside', async () => {
    const big = 2 ** 31 - 1;
    const offset = fc.oneof(fc.integer({ min: -big - 1, max: big }), fc.integer({ min: -5, max: 45 }));
    const offsets = fc.integer({ min: 1, max: 6 }).chain((n) => {
      const list = fc.array(offset, { minLength: n, maxLength: n });
      return fc.tuple(list, list);
    });
    const p = problem('float32', 40, 40, 1, [1, 1, 1, 8]);
    await fc.assert(
      fc.asyncProperty(
        offsets,
        fc.constantFrom<MaskSpec[]>([], [causalMask], [{ left: 3, right: 3 }]),
        fc.nat(),
        async ([q, k], masks, seed) => {
          // What surrounds q, k, v is NaN, and so is every row of out at first: each row must be written, from inside.
          const { out, lse } = await run({ ...p, masks, cuSeqlens: { q, k } }, 'float32', seed);
          expect(out.every(Number.isFinite)).toBe(true);
          expect(lse.some(Number.isNaN)).toBe(false);
        },
      ),
      { numRuns: 300, seed: 78 },
    );
  });
});

describe('out', () => {
  it('is written through its strides and returned', async () => {
    const p = problem('bfloat16', 9, 30);
    const shape = [2, 9, 4, 27];
    const unset = { shape, data: new Float64Array(2 * 9 * 4 * 27).fill(Number.NaN) };
    const target = embed(uniform(1), unset, 'bfloat16', 64);
    const [q, k, v] = [p.q, p.k, p.v].map((x) => tensorOf(x, 'bfloat16')) as [Tensor, Tensor, Tensor];
    const given = attention(q, k, v, { out: target.view });
    const fresh = attention(q, k, v);
    expect(given.out).toBe(target.view);
    expect(await given.out.read()).toEqual(await fresh.out.read());
    expect(await given.lse.read()).toEqual(await fresh.lse.read());
  });

  it('takes several options at once', async () => {
    const q = Tensor.randn([1, 5, 2, 8], { seed: 1 });
    const out = Tensor.empty([1, 5, 2, 8], { dtype: 'float32' });
    const bias = [keyBias(Tensor.zeros([5])), denseBias(Tensor.zeros([1, 1, 1, 1])), keyBias(Tensor.zeros([1, 5]))];
    const all = attention(q, q, q, { out, bias, mask: [causal()], precision: 'tf32', scale: 1 });
    const few = attention(q, q, q, { mask: causal(), scale: 1 });
    expect(await all.out.read()).toEqual(await few.out.read());
  });
});
