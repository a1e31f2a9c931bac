// Identities that hold whatever the numbers are.

import { attention, causal, merge, neighborhood, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { instructionSets } from './support/instruction-sets';
import { check, expectResult, run, tensorOf } from './support/library';
import { decode, type Float, normal, uniform, type Values } from './support/numbers';
import { type Axis, attend, mergeParts, type Problem, type Result } from './support/oracle';
import { program } from './support/program';
import { expected } from './support/tolerance';

const dtypes: Float[] = ['float32', 'float16', 'bfloat16'];

interface Sizes {
  batch?: number;
  q?: number[];
  k?: number[];
  heads?: number;
  kvHeads?: number;
  vDim?: number;
  seed?: number;
}

function problem(dtype: Float, sizes: Sizes): Problem {
  const { batch = 1, q = [40], k = q, heads = 2, kvHeads = heads, vDim = 16, seed = 1 } = sizes;
  const dim = 16;
  const random = uniform(seed);
  return {
    q: normal(random, dtype, [batch, ...q, heads, dim]),
    k: normal(random, dtype, [batch, ...k, kvHeads, dim]),
    v: normal(random, dtype, [batch, ...k, kvHeads, vDim]),
  };
}

/** Rows [from, to) of the axis `axis`. */
function cut({ shape, data }: Values, axis: number, from: number, to: number): Values {
  const inner = shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  const length = shape[axis]!;
  const kept = data.filter((_, n) => {
    const at = Math.floor(n / inner) % length;
    return at >= from && at < to;
  });
  return { shape: shape.map((extent, a) => (a === axis ? to - from : extent)), data: kept };
}

const one: Axis = { window: 1, stride: 1, dilation: 1, causal: false, wrap: false };
const whole: Axis = { ...one, window: -1 };

describe.each(dtypes)('%s', (dtype) => {
  it('a window of 1 in every axis gives v', async () => {
    for (const q of [[70], [7, 9], [4, 5, 6]]) {
      const p = problem(dtype, { q });
      const axes = q.map((_, a) => ({ ...one, causal: a === 0 }));
      expect((await run({ ...p, masks: [{ heads: [axes] }] }, dtype, 5)).out).toEqual(p.v.data);
      expect((await run({ ...p, masks: [{ left: 0, right: 0 }] }, dtype, 5)).out).toEqual(p.v.data);
    }
  });

  it('the whole window equals dense attention', async () => {
    for (const q of [[70], [7, 9], [4, 5, 6]]) {
      const p = problem(dtype, { q });
      const want = expected(p, dtype);
      expectResult(await run({ ...p, masks: [{ heads: [q.map(() => whole)] }] }, dtype), want);
      expectResult(await run({ ...p, masks: [{ left: -1, right: -1 }] }, dtype), want);
      expectResult(await run(p, dtype), want);
    }
  });

  it('a stride as long as the window is blocked attention', async () => {
    const p = problem(dtype, { q: [48] });
    const got = await run({ ...p, masks: [{ heads: [[{ ...one, window: 8, stride: 8 }]] }] }, dtype);
    const size = 8 * 2 * 16;
    for (let block = 0; block < 6; block++) {
      const part = (x: Values) => cut(x, 1, 8 * block, 8 * block + 8);
      const want = expected({ q: part(p.q), k: part(p.k), v: part(p.v) }, dtype);
      const out = got.out.slice(block * size, (block + 1) * size);
      expectResult({ out, lse: got.lse.slice(block * 16, block * 16 + 16) }, want);
    }
  });

  it('grouped heads equal repeated heads', async () => {
    const p = problem(dtype, { heads: 6, kvHeads: 2, q: [9], k: [33] });
    const repeat = ({ shape: [b, n, h, d], data }: Values): Values => ({
      shape: [b!, n!, 3 * h!, d!],
      data: Float64Array.from({ length: 3 * data.length }, (_, at) => {
        const [c, head, row] = [at % d!, Math.floor(at / d!) % (3 * h!), Math.floor(at / (3 * h! * d!))];
        return data[(row * h! + Math.floor(head / 3)) * d! + c]!;
      }),
    });
    const want = expected(p, dtype);
    expectResult(await run(p, dtype), want);
    expectResult(await run({ ...p, k: repeat(p.k), v: repeat(p.v) }, dtype), want);
  });

  it('entries of a batch do not mix', async () => {
    const p = problem(dtype, { batch: 3, q: [37], k: [50] });
    const got = await run(p, dtype);
    const order = [2, 0, 1];
    const permuted = ({ shape, data }: Values): Values => {
      const size = data.length / 3;
      return {
        shape,
        data: Float64Array.from(data, (_, n) => data[order[Math.floor(n / size)]! * size + (n % size)]!),
      };
    };
    const again = await run({ q: permuted(p.q), k: permuted(p.k), v: permuted(p.v) }, dtype);
    expect(again.out).toEqual(permuted({ shape: [], data: got.out }).data);
    expect(again.lse).toEqual(permuted({ shape: [], data: got.lse }).data);
  });

  it('is the same everywhere in the middle of an axis', async () => {
    // Tokens repeat with period 12, so away from the borders, which reach 8 tokens in, the results do too.
    const p = problem(dtype, { q: [12] });
    const tile = ({ shape, data }: Values): Values => ({
      shape: [1, 96, shape[2]!, shape[3]!],
      data: Float64Array.from({ length: 8 * data.length }, (_, n) => data[n % data.length]!),
    });
    const long = { q: tile(p.q), k: tile(p.k), v: tile(p.v) };
    const axis = { ...one, window: 9, stride: 3, dilation: 2 };
    const masked: Problem = { ...long, masks: [{ heads: [[axis]] }] };
    const want = expected(masked, dtype);
    const got = await run(masked, dtype);
    const period = 12 * 2 * 16;
    for (let n = 2 * period; n < 6 * period; n++) {
      expect(want.out[n]).toBeCloseTo(want.out[n - period]!, 12); // the identity itself
      expect(Math.abs(got.out[n]! - got.out[n - period]!)).toBeLessThanOrEqual(2 * want.tolerance.out);
    }
    expectResult(got, want);
  });

  it('the same twice, bit for bit', async () => {
    const p = { ...problem(dtype, { batch: 2, q: [130], k: [300], heads: 3 }), masks: [{ left: 90, right: 3 }] };
    const [first, second] = [await run(p, dtype), await run(p, dtype)];
    expect(second).toEqual(first);
  });

  it('the same whatever ran before', async () => {
    // Tiles that are not full leave lanes without a query, whose scratch memory holds what another run left there.
    const axis = { ...one, window: 31, stride: 4, dilation: 3 };
    const masks: Problem['masks'][] = [[{ heads: [[axis]] }], [{ left: 40, right: 0 }], [{ left: -1, right: 0 }], []];
    const partial = masks.map((mask, n) => ({ ...problem(dtype, { batch: 2, q: [333 - n], heads: 4 }), masks: mask }));
    const full = masks.map((mask) => ({ ...problem(dtype, { batch: 2, q: [512], heads: 8, seed: 2 }), masks: mask }));
    const first = [];
    for (const p of partial) first.push(await run(p, dtype));
    for (const other of full) {
      for (const [n, p] of partial.entries()) {
        await run({ ...other, scale: 50 }, dtype);
        expect(await run(p, dtype)).toEqual(first[n]);
      }
    }
  });

  it('split keys merge to the whole', async () => {
    const p = problem(dtype, { batch: 2, q: [13], k: [100], heads: 4, kvHeads: 2, vDim: 7 });
    const cuts = [0, 1, 33, 33, 96, 100];
    const [parts, exactParts]: [{ out: Tensor; lse: Tensor }[], Result[]] = [[], []];
    const q = tensorOf(p.q, dtype);
    for (let n = 1; n < cuts.length; n++) {
      const part = (x: Values) => cut(x, 1, cuts[n - 1]!, cuts[n]!);
      const { out, lse } = attention(q, tensorOf(part(p.k), dtype), tensorOf(part(p.v), dtype));
      parts.push({ out, lse });
      exactParts.push({ out: decode(dtype, await out.read()), lse: decode('float32', await lse.read()) });
    }
    const merged = merge(parts);
    expect(merged.out.shape).toEqual([2, 13, 4, 7]);
    const got = { out: decode(dtype, await merged.out.read()), lse: decode('float32', await merged.lse.read()) };
    // Against the merge of the very parts: only the last rounding is the library's. Against the whole: the parts were
    // rounded too, each within its own tolerance, and the weights sum to 1.
    const want = expected(p, dtype);
    const { out: outTolerance, lse: lseTolerance } = want.tolerance;
    const exact = mergeParts(exactParts);
    expectResult(got, { ...exact, tolerance: want.tolerance });
    const tolerance = { out: 2 * outTolerance, lse: 2 * lseTolerance };
    expectResult(got, { ...want, tolerance });
  });
});

describe('merge', () => {
  const part = (out: number[], lse: number[], dtype: Float = 'float32') => ({
    out: Tensor.from(Float32Array.from(out), [1, lse.length, 1, out.length / lse.length], { dtype }),
    lse: Tensor.from(Float32Array.from(lse), [1, lse.length, 1]),
  });

  it('of empty parts is empty, and an empty part changes nothing', async () => {
    const nothing = Number.NEGATIVE_INFINITY;
    const empty = () => part([0, 0, 0, 0], [nothing, nothing]);
    const none = merge([empty(), empty()]);
    expect([...(await none.out.read())]).toEqual([0, 0, 0, 0]);
    expect([...(await none.lse.read())]).toEqual([nothing, nothing]);
    for (const parts of [
      [empty(), part([1, 2, 3, 4], [5, -90])],
      [part([1, 2, 3, 4], [5, -90]), empty(), empty()],
    ]) {
      const { out, lse } = merge(parts);
      expect([...(await out.read())]).toEqual([1, 2, 3, 4]);
      expect([...(await lse.read())]).toEqual([5, -90]);
    }
  });

  it('counts sinks that were given to one part', async () => {
    const sinks = normal(uniform(3), 'float32', [2]);
    const p = problem('float32', { q: [9], k: [40] });
    const want = expected({ ...p, sinks }, 'float32');
    const q = tensorOf(p.q);
    const over = (from: number, to: number, options?: { sinks: Tensor }) =>
      attention(q, tensorOf(cut(p.k, 1, from, to)), tensorOf(cut(p.v, 1, from, to)), options);
    const { out, lse } = merge([over(0, 15), over(15, 40, { sinks: tensorOf(sinks) }), over(40, 40)]);
    const tolerance = { out: 2 * want.tolerance.out, lse: 2 * want.tolerance.lse };
    const got = { out: decode('float32', await out.read()), lse: decode('float32', await lse.read()) };
    expectResult(got, { ...want, tolerance });
  });

  it('ignores what an empty part holds', async () => {
    const { out, lse } = merge([part([Number.NaN], [Number.NEGATIVE_INFINITY]), part([3], [1])]);
    expect([(await out.read())[0], (await lse.read())[0]]).toEqual([3, 1]);
  });

  it('weighs by exp(lse), whatever the magnitude', async () => {
    for (const shift of [0, 1000, -1000]) {
      const { out, lse } = merge([part([4], [shift]), part([8], [shift + Math.fround(Math.log(3))])]);
      expect((await out.read())[0]).toBeCloseTo(7, shift ? 3 : 5);
      expect((await lse.read())[0]).toBeCloseTo(shift + Math.log(4), shift ? 3 : 5);
    }
  });

  it('writes to out when given, through any strides', async () => {
    const target = Tensor.from(new Float32Array(12).fill(Number.NaN), [2, 3, 2]);
    const view = target.slice([0, 2], [1, 2], [0, 1]).permute(1, 0, 2).reshape([1, 2, 1, 1]);
    const { out } = merge([part([1, 2], [0, 0]), part([3, 4], [0, 0])], { out: view });
    expect(out).toBe(view);
    const [a, b] = [2, 3]; // means
    const nan = Number.NaN;
    expect([...(await target.read())]).toEqual([nan, nan, a, nan, nan, nan, nan, nan, b, nan, nan, nan]);
  });

  it('merges an extra run over other keys with a masked one', async () => {
    // The union of what the window shows and of what extra shows, computed apart and together.
    const p = { ...problem('float32', { q: [20], k: [20] }), masks: [{ left: 3, right: 0 }] };
    const more = problem('float32', { q: [20], k: [6], seed: 9 });
    const want = expected({ ...p, extra: { k: more.k, v: more.v } }, 'float32');
    const q = tensorOf(p.q);
    const near = attention(q, tensorOf(p.k), tensorOf(p.v), { mask: neighborhood({ window: 4, causal: true }) });
    const far = attention(q, tensorOf(more.k), tensorOf(more.v));
    const { out, lse } = merge([near, far]);
    const tolerance = { out: 2 * want.tolerance.out, lse: 2 * want.tolerance.lse };
    const got = { out: decode('float32', await out.read()), lse: decode('float32', await lse.read()) };
    expectResult(got, { ...want, tolerance });
  });
});

it('one query equals the last row of causal attention', async () => {
  const p = problem('float32', { q: [65], heads: 4, kvHeads: 1 });
  const all = expected({ ...p, masks: [{ left: -1, right: 0 }] }, 'float32');
  const last = await run({ ...p, q: cut(p.q, 1, 64, 65), masks: [{ left: -1, right: 0 }] }, 'float32');
  const rows = { out: all.out.slice(-4 * 16), lse: all.lse.slice(-4), tolerance: all.tolerance };
  expectResult(last, rows);
  await check({ ...p, masks: [{ left: -1, right: 0 }] });
  expect(attend(p).lse.length).toBe(65 * 4);
});

// Subnormal weights would be summed up many times slower than others, and biases like ALiBi make them without end.
it.each(instructionSets)('weights below 2^-126 of the largest are 0 with %s', async (isa) => {
  expect(await program('faint.ts', [], { NODE_ATTENTION_CPU: isa })).toBe(`${isa}: 0 0 0`);
});

it('is the same in every run; without masks, for any number of threads', async () => {
  const unmasked = new Set<string>();
  for (const threads of ['1', '2', '5']) {
    const env = { NODE_ATTENTION_THREADS: threads };
    const said = [await program('digest.ts', [], env), await program('digest.ts', [], env)];
    expect(said[1]).toBe(said[0]);
    const [used, plain, masked] = said[0]!.trim().split(' ') as [string, string, string];
    expect(used, said[0]).toBe(threads);
    expect([plain, masked]).toEqual([expect.stringMatching(/^[0-9a-f]{64}$/), expect.stringMatching(/^[0-9a-f]{64}$/)]);
    unmasked.add(plain);
  }
  expect(unmasked.size).toBe(1);
});

it('a causal mask is a window without left limit', async () => {
  const p = problem('float32', { q: [50], k: [80] });
  const [q, k, v] = [p.q, p.k, p.v].map((x) => tensorOf(x)) as [Tensor, Tensor, Tensor];
  const a = attention(q, k, v, { mask: causal() });
  const b = attention(q, k, v, { mask: [causal(), causal()] });
  expect(await b.out.read()).toEqual(await a.out.read());
});
