// KvCache: a model of plain arrays beside it, under random appends, truncations, forks and attention.
import fc from 'fast-check';
import {
  type AttentionResult,
  alibi,
  attention,
  causal,
  KvCache,
  keyBias,
  memoryStats,
  neighborhood,
  Stream,
  Tensor,
  window,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { dtypes } from './support/cases';
import { expectResult, tensorOf } from './support/library';
import { decode, normal, round, roundoff, uniform, type Values } from './support/numbers';
import type { MaskSpec, Problem } from './support/oracle';
import { code } from './support/refusal';
import { rotate } from './support/rotary';
import { expected } from './support/tolerance';
import { append, change, emptyTwin, join, lengthsOf, rowsOf, type Sizes, type Twin } from './support/twin';

async function compare(
  twin: Twin,
  sizes: Sizes,
  queries: number,
  masks: MaskSpec[],
  random: () => number,
  stream?: Stream,
): Promise<void> {
  const { batch, kvHeads, group, headDim, dtype } = sizes;
  const q = normal(random, dtype, [batch, queries, kvHeads * group, headDim]);
  const tensor = tensorOf(q, dtype);
  const mask = masks.map((m) => window(m as { left: number; right: number }));
  const { out, lse } = attention(tensor, twin.cache, { mask, stream });
  const sequences = twin.sequences; // as they are now, whatever comes before the result
  const got = { out: decode(dtype, await out.read()), lse: decode('float32', await lse.read()) };
  for (let b = 0; b < batch; b++) {
    const problem: Problem = { q: rowsOf(q, b, 0, queries), ...sequences[b]!, masks };
    const part = (all: Float64Array) => all.slice((all.length / batch) * b, (all.length / batch) * (b + 1));
    expectResult({ out: part(got.out), lse: part(got.lse) }, expected(problem, dtype));
  }
  for (const used of [tensor, out, lse]) used.dispose();
}

const sizesOf = fc.record({
  batch: fc.integer({ min: 1, max: 3 }),
  kvHeads: fc.integer({ min: 1, max: 3 }),
  group: fc.integer({ min: 1, max: 3 }),
  headDim: fc.integer({ min: 1, max: 40 }),
  valueDim: fc.integer({ min: 1, max: 40 }),
  pageSize: fc.constantFrom(1, 3, 8, 16, 64),
  dtype: fc.constantFrom(...dtypes),
  storage: fc.constantFrom(undefined, 'int8' as const),
});

const MASKS: MaskSpec[][] = [[], [{ left: -1, right: 0 }], [{ left: 9, right: 0 }], [{ left: 20, right: 3 }]];
const CAPACITY = 90;

describe('KvCache', () => {
  it('holds what a plain array would, whatever is appended, truncated and forked', async () => {
    await fc.assert(
      fc.asyncProperty(
        sizesOf,
        fc.integer(),
        fc.array(
          fc.tuple(fc.constantFrom('append', 'append', 'token', 'truncate', 'fork', 'attend', 'drop'), fc.nat()),
          {
            minLength: 4,
            maxLength: 24,
          },
        ),
        async (sizes, seed, steps) => {
          const random = uniform(seed);
          const streams = [undefined, new Stream(), new Stream()];
          let twins = [emptyTwin(sizes, CAPACITY)];
          for (const [step, pick] of steps) {
            const twin = twins[pick % twins.length]!;
            const stream = streams[pick % streams.length];
            const lengths = lengthsOf(twin);
            expect(twin.cache.lengths).toEqual(lengths);
            expect(twin.cache.length).toBe(Math.max(...lengths));
            const upTo = (most: number) => Math.floor(random() * (most + 1));
            const appended = (room: number) => upTo(Math.min(30, room));
            if (change(twins, twin, step, { sizes, capacity: CAPACITY, forks: 4, appended, random, stream })) continue;
            if (step === 'drop' && twins.length > 1) {
              twin.cache.dispose();
              twins = twins.filter((other) => other !== twin);
            } else {
              await compare(twin, sizes, 1 + upTo(4), MASKS[pick % MASKS.length]!, random, stream);
            }
          }
          for (const twin of twins) {
            await compare(twin, sizes, 2, [], random);
            twin.cache.dispose();
          }
          for (const stream of streams) stream?.dispose();
        },
      ),
      { numRuns: 60, seed: 29 },
    );
  });

  const STORED = dtypes.flatMap((dtype) => [undefined, 'int8' as const].map((storage) => ({ dtype, storage })));
  it.each(STORED)('$dtype as $storage: prefill in chunks and token by token is attention over all', async (stored) => {
    const sizes: Sizes = { batch: 2, kvHeads: 2, group: 4, headDim: 64, valueDim: 48, pageSize: 32, ...stored };
    const random = uniform(7);
    const twin = emptyTwin(sizes, 600);
    for (const n of [90, 71, 32, 1, 1, 1]) {
      append(twin, sizes, [n, n], random);
      await compare(twin, sizes, n, [{ left: -1, right: 0 }], random);
    }
    twin.cache.dispose();
  });

  it('is empty at first, and gives the empty result', async () => {
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 4, capacity: 8 });
    expect([cache.length, cache.lengths, cache.bytes]).toEqual([0, [0], 0]);
    const { out, lse } = attention(Tensor.zeros([1, 3, 2, 4]), cache);
    expect([...(await out.read())]).toEqual(new Array(24).fill(0));
    expect([...(await lse.read())]).toEqual(new Array(6).fill(-Infinity));
  });

  it('ignores what truncated tokens and the rest of a page hold', async () => {
    const sizes: Sizes = { batch: 1, kvHeads: 1, group: 1, headDim: 16, valueDim: 16, pageSize: 16, dtype: 'float32' };
    const random = uniform(3);
    const twin = emptyTwin(sizes, 64);
    append(twin, sizes, [5], random);
    const poison = Tensor.from(new Float32Array(40 * 16).fill(Number.NaN), [1, 40, 1, 16]);
    twin.cache.append(poison, poison);
    twin.cache.truncate(5);
    await compare(twin, sizes, 3, [], random);
    append(twin, sizes, [2], random);
    await compare(twin, sizes, 1, [], random);
  });

  it('a fork shares memory until it is written to', async () => {
    const sizes: Sizes = { batch: 1, kvHeads: 2, group: 1, headDim: 8, valueDim: 8, pageSize: 64, dtype: 'float32' };
    const page = 2 * 64 * 8 * 4 * 2;
    const random = uniform(5);
    const twin = emptyTwin(sizes, 1 << 20);
    append(twin, sizes, [64 * 200 + 10], random);
    const { bytes } = twin.cache;
    expect(bytes).toBeGreaterThanOrEqual(201 * page);
    await compare(twin, sizes, 1, [], random); // what was appended is then written, and its tensors are gone
    const before = memoryStats('cpu').bytes;
    const forks = Array.from({ length: 50 }, () => ({ ...twin, cache: twin.cache.fork() }));
    expect(twin.cache.bytes).toBe(bytes);
    expect(memoryStats('cpu').bytes).toBe(before);
    for (const fork of forks) append(fork, sizes, [1], random); // one page each, which all of them shared
    expect(twin.cache.bytes).toBeLessThanOrEqual(Math.max(1.3 * (bytes + 50 * page), bytes + 2 ** 20));
    await compare(twin, sizes, 1, [], random);
    await compare(forks[49]!, sizes, 1, [], random);
    for (const { cache } of [twin, ...forks]) cache.dispose();
  });

  it('reuses pages, and gives memory back', async () => {
    const [before, alive] = [memoryStats('cpu').bytes, memoryStats('cpu').live];
    const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 4096 });
    const tokens = Tensor.zeros([1, 3000, 1, 64]);
    cache.append(tokens, tokens);
    const { bytes } = cache;
    for (let i = 0; i < 50; i++) {
      cache.truncate(0);
      cache.append(tokens, tokens);
    }
    expect(cache.bytes).toBe(bytes);
    cache.dispose();
    tokens.dispose();
    const stream = new Stream();
    await stream.synchronize();
    await attention(Tensor.zeros([1, 1, 1, 1]), Tensor.zeros([1, 1, 1, 1]), Tensor.zeros([1, 1, 1, 1])).lse.read();
    expect(memoryStats('cpu').bytes).toBeLessThan(before + 4096);
    expect(memoryStats('cpu').live).toBeLessThan(alive + 8);
  });

  it('takes views, and copies them at the time of the stream', async () => {
    const sizes: Sizes = { batch: 2, kvHeads: 3, group: 1, headDim: 8, valueDim: 8, pageSize: 4, dtype: 'float32' };
    const random = uniform(11);
    const values = normal(random, 'float32', [3, 2, 20, 8]); // [heads, batch, tokens, columns]
    const view = tensorOf(values).permute(1, 2, 0, 3);
    const twin = emptyTwin(sizes, 64);
    twin.cache.append(view, view);
    const dense = decode('float32', await view.read());
    const all = { shape: [2, 20, 3, 8], data: dense };
    twin.sequences = [0, 1].map((b) => ({ k: rowsOf(all, b, 0, 20), v: rowsOf(all, b, 0, 20) }));
    await compare(twin, sizes, 2, [], random);
  });

  it('takes biases, sinks, softcap, extra keys and a tensor for the result', async () => {
    const random = uniform(13);
    const [q, k, v] = [
      [1, 2, 4, 16],
      [1, 30, 2, 16],
      [1, 30, 2, 16],
    ].map((shape) => normal(random, 'float32', shape));
    const bias = normal(random, 'float32', [30]);
    const sinks = normal(random, 'float32', [4]);
    const extra = normal(random, 'float32', [1, 3, 2, 16]);
    const problem: Problem = { q: q!, k: k!, v: v!, keyBias: bias, sinks, softcap: 3, extra: { k: extra, v: extra } };
    using cache = new KvCache({ batch: 1, kvHeads: 2, headDim: 16, capacity: 30, pageSize: 7 });
    cache.append(tensorOf(k!), tensorOf(v!));
    const given = Tensor.empty([1, 2, 4, 16], { dtype: 'float32' });
    const { out, lse } = attention(tensorOf(q!), cache, {
      bias: keyBias(tensorOf(bias)),
      sinks: tensorOf(sinks),
      softcap: 3,
      extra: { k: tensorOf(extra), v: tensorOf(extra) },
      out: given,
    });
    expect(out).toBe(given);
    const got = { out: decode('float32', await out.read()), lse: decode('float32', await lse.read()) };
    expectResult(got, expected(problem, 'float32'));
  });

  it('int8 is as far from exact as its steps allow, and no further', async () => {
    const random = uniform(23);
    const [tokens, headDim] = [700, 64];
    const sizes = { batch: 1, kvHeads: 1, headDim };
    const [k, v] = [0, 1].map(() => normal(random, 'float32', [1, tokens, 1, headDim])) as [Values, Values];
    const q = normal(random, 'float32', [1, 1, 2, headDim]);
    using cache = new KvCache({ ...sizes, capacity: tokens, storage: 'int8' });
    cache.append(tensorOf(k), tensorOf(v));
    const { out, lse } = attention(tensorOf(q), cache);
    const exact = attention(tensorOf(q), tensorOf(k), tensorOf(v));
    const [got, want] = [await out.read(), await exact.out.read()];
    const [gotLse, wantLse] = [await lse.read(), await exact.lse.read()];
    // An element is off by half a step, a score by so much for each column, and a weight by the exponential of twice that.
    const largest = (values: Values) => values.data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    const step = (values: Values) => largest(values) / 254;
    for (const head of [0, 1]) {
      const columns = q.data.slice(head * headDim, (head + 1) * headDim);
      const score = (columns.reduce((sum, x) => sum + Math.abs(x), 0) * step(k)) / Math.sqrt(headDim);
      expect(Math.abs(Number(gotLse[head]) - Number(wantLse[head]))).toBeLessThan(score + 1e-5);
      expect(gotLse[head]).not.toBe(wantLse[head]);
      const bound = Math.expm1(2 * score) * largest(v) + step(v) + 1e-5;
      for (let d = 0; d < 64; d++) {
        const at = head * 64 + d;
        expect(Math.abs(Number(got[at]) - Number(want[at]))).toBeLessThan(bound);
      }
    }
    const one = normal(random, 'float32', [1, 1, 1, headDim]); // with a single key its value comes out
    cache.truncate(0);
    cache.append(tensorOf(one), tensorOf(one));
    const only = await attention(tensorOf(q), cache).out.read();
    for (let d = 0; d < headDim; d++) expect(Math.abs(Number(only[d]) - one.data[d]!)).toBeLessThan(step(one) * 1.0001);
  });

  it('int8 takes a byte for an element and four for a row', () => {
    const sizes = { batch: 1, kvHeads: 2, headDim: 60, capacity: 1 << 20, pageSize: 1 << 14 };
    using cache = new KvCache({ ...sizes, storage: 'int8' });
    expect([cache.storage, cache.dtype]).toEqual(['int8', 'float32']);
    const one = Tensor.zeros([1, 1, 2, 60]);
    cache.append(one, one);
    expect(cache.bytes).toBe(2 * 2 * (60 + 4) * 2 ** 14);
    using exact = new KvCache(sizes);
    expect([exact.storage, exact.dtype]).toEqual(['float32', 'float32']);
  });

  it('int8 keeps zeros and the largest numbers, and shows what is not finite', async () => {
    const values = [
      [0, 0],
      [3e38, -3e38],
      [3.4028234663852886e38, -3.4028234663852886e38],
      [1e-40, 0],
      [1, Number.NaN],
      [Number.POSITIVE_INFINITY, 1],
    ];
    for (const row of values) {
      using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 2, capacity: 1, storage: 'int8' });
      cache.append(Tensor.zeros([1, 1, 1, 2]), Tensor.from(Float32Array.from(row), [1, 1, 1, 2]));
      const got = [...(await attention(Tensor.zeros([1, 1, 1, 2]), cache).out.read())].map(Number);
      if (row.every(Number.isFinite)) {
        row.forEach((x, d) => void expect(Math.abs(got[d]! - x)).toBeLessThanOrEqual(Math.abs(x) * 1e-6 + 1e-38));
      } else {
        expect(got).toEqual([Number.NaN, Number.NaN]);
      }
    }
  });

  it('outlives dispose while work reads it', async () => {
    const sizes: Sizes = { batch: 1, kvHeads: 4, group: 2, headDim: 64, valueDim: 64, pageSize: 16, dtype: 'float32' };
    const random = uniform(17);
    const twin = emptyTwin(sizes, 4096);
    append(twin, sizes, [1024], random);
    const done = compare(twin, sizes, 64, [], random);
    twin.cache.dispose();
    twin.cache.dispose();
    expect(twin.cache.disposed).toBe(true);
    await done;
    const q = Tensor.zeros([1, 1, 4, 64]);
    for (const use of [() => attention(q, twin.cache), () => twin.cache.append(q, q), () => twin.cache.length]) {
      expect(code(use)).toBe('ERR_DISPOSED');
    }
  });
});

describe('rotary embedding', () => {
  it.each([
    { dtype: 'float32', rope: {}, theta: 10000, dim: 16, interleaved: false },
    { dtype: 'float32', rope: { theta: 5e5, interleaved: true }, theta: 5e5, dim: 16, interleaved: true },
    { dtype: 'bfloat16', rope: { dim: 6 }, theta: 10000, dim: 6, interleaved: false },
    { dtype: 'float16', rope: { dim: 2, interleaved: true }, theta: 10000, dim: 2, interleaved: true },
  ] as const)('$dtype $rope', async ({ dtype, rope, theta, dim, interleaved }) => {
    const random = uniform(19);
    using cache = new KvCache({ batch: 2, kvHeads: 2, headDim: 16, capacity: 64, pageSize: 5, dtype, rope });
    const rounded = (values: Values) => ({ ...values, data: values.data.map((x) => round(dtype, x)) });
    const held: { k: Values; v: Values }[] = [];
    const chunks = [
      [7, 3],
      [4, 9],
      [1, 1],
    ];
    const begun = [0, 0];
    for (const lengths of chunks) {
      const n = Math.max(...lengths);
      const [k, v] = [0, 1].map(() => normal(random, dtype, [2, n, 2, 16])) as [Values, Values];
      cache.append(tensorOf(k, dtype), tensorOf(v, dtype), { lengths });
      const turned = rounded(rotate(k, begun, theta, dim, interleaved));
      for (const b of [0, 1]) {
        const part = { k: rowsOf(turned, b, 0, lengths[b]!), v: rowsOf(v, b, 0, lengths[b]!) };
        held[b] = held[b] ? { k: join(held[b].k, part.k), v: join(held[b].v, part.v) } : part;
        begun[b]! += lengths[b]!;
      }
    }
    const q = normal(random, dtype, [2, 3, 4, 16]);
    const turned = rounded(
      rotate(
        q,
        begun.map((length) => length - 3),
        theta,
        dim,
        interleaved,
      ),
    );
    const { out, lse } = attention(tensorOf(q, dtype), cache, { mask: causal() });
    const got = { out: decode(dtype, await out.read()), lse: decode('float32', await lse.read()) };
    for (const b of [0, 1]) {
      const problem: Problem = { q: rowsOf(turned, b, 0, 3), ...held[b]!, masks: [{ left: -1, right: 0 }] };
      const part = (all: Float64Array) => all.slice((all.length / 2) * b, (all.length / 2) * (b + 1));
      const want = expected(problem, dtype);
      // A rotated element may be rounded the other way than here, which scores see twice.
      const once = roundoff(dtype) * 2 * 16 * 9;
      want.tolerance.lse += once;
      want.tolerance.out += once * 4;
      expectResult({ out: part(got.out), lse: part(got.lse) }, want);
    }
  });

  it('turns far positions as exactly as near ones', async () => {
    const far = 1_040_003;
    const sizes = { batch: 1, kvHeads: 1, headDim: 4, capacity: far + 1, pageSize: 4096 };
    using cache = new KvCache({ ...sizes, rope: { theta: 100 } });
    const one = Tensor.from(Float32Array.of(0, 1, 0, 0), [1, 1, 1, 4]);
    cache.append(one, one);
    const filler = Tensor.zeros([1, far, 1, 4]);
    cache.append(filler, filler);
    // Columns 1 and 3 turn by 0.1 a position; the score of the first key is the cosine of the way, others are 0.
    const cosine = Math.cos(far * 0.1);
    const scale = 20 / cosine;
    const { lse } = attention(one, cache, { scale });
    expect((await lse.read())[0]).toBeCloseTo(Math.log(far + Math.exp(20)), 3);
  });
});

describe('errors of KvCache', () => {
  const sound = { batch: 2, kvHeads: 2, headDim: 8, capacity: 10, pageSize: 4 };
  const tokens = (n: number, shape = [2, n, 2, 8]) => Tensor.zeros(shape);

  it.each([
    [{ batch: 0 }, 'ERR_OPTION', 'batch is 0'],
    [{ batch: 1025 }, 'ERR_OPTION', 'batch is 1025'],
    [{ kvHeads: 1.5 }, 'ERR_OPTION', 'kvHeads is 1.5'],
    [{ headDim: 513 }, 'ERR_OPTION', 'headDim is 513'],
    [{ valueDim: -1 }, 'ERR_OPTION', 'valueDim is -1'],
    [{ pageSize: 0 }, 'ERR_OPTION', 'pageSize is 0'],
    [{ capacity: 2 ** 31 }, 'ERR_OPTION', 'capacity is 2147483648'],
    [{ capacity: undefined }, 'ERR_OPTION', 'capacity is undefined'],
    [{ dtype: 'int32' }, 'ERR_DTYPE', "dtype is 'int32'"],
    [{ dtype: 'int8' }, 'ERR_DTYPE', "dtype is 'int8'"],
    [{ storage: 'int4' }, 'ERR_OPTION', "storage is 'int4'"],
    [{ device: 'cuda:99' }, 'ERR_DEVICE', 'cuda:99'],
    [{ device: 7 }, 'ERR_DEVICE', 'device is 7'],
    [{ rope: { theta: 0 } }, 'ERR_OPTION', 'theta is 0'],
    [{ rope: { dim: 7 } }, 'ERR_OPTION', 'dim is 7'],
    [{ rope: { dim: 10 } }, 'ERR_OPTION', 'dim is 10'],
    [{ rope: { base: 1 } }, 'ERR_OPTION', "option 'base'"],
    [{ pagesize: 3 }, 'ERR_OPTION', "did you mean 'pageSize'?"],
  ])('%o', (change, wanted, text) => {
    const make = () => new KvCache({ ...sound, ...change } as never);
    expect(make).toThrow(text);
    expect(code(make)).toBe(wanted);
  });

  it('refuses appends that do not fit, and stays as it was', async () => {
    const cache = new KvCache(sound);
    const k = tokens(4);
    const half = Tensor.zeros([2, 4, 2, 8], { dtype: 'float16' });
    cache.append(k, k);
    const refused: [string, () => void][] = [
      ['ERR_SHAPE', () => cache.append(tokens(4, [1, 4, 2, 8]), k)],
      ['ERR_SHAPE', () => cache.append(tokens(4, [2, 4, 1, 8]), k)],
      ['ERR_SHAPE', () => cache.append(tokens(4, [2, 4, 2, 7]), k)],
      ['ERR_SHAPE', () => cache.append(tokens(4, [2, 4, 16]), k)],
      ['ERR_SHAPE', () => cache.append(k, tokens(3))],
      ['ERR_SHAPE', () => cache.append(tokens(4, [2, 4, 8, 2]).permute(0, 1, 3, 2), k)],
      ['ERR_DTYPE', () => cache.append(half, k)],
      ['ERR_OPTION', () => cache.append(k, k, { lengths: [1] })],
      ['ERR_OPTION', () => cache.append(k, k, { lengths: [1, 5] })],
      ['ERR_OPTION', () => cache.append(k, k, { lengths: [1, -1] })],
      ['ERR_OPTION', () => cache.append(k, 3 as never)],
      ['ERR_OUT_OF_MEMORY', () => cache.append(tokens(7), tokens(7))],
      ['ERR_OUT_OF_MEMORY', () => cache.append(tokens(7), tokens(7), { lengths: [0, 7] })],
      ['ERR_OPTION', () => cache.truncate([1])],
      ['ERR_OPTION', () => cache.truncate([1, 5])],
      ['ERR_OPTION', () => cache.truncate(-1)],
    ];
    for (const [wanted, run] of refused) expect([wanted, code(run)]).toEqual([wanted, wanted]);
    expect(cache.lengths).toEqual([4, 4]);
    cache.append(tokens(6), tokens(6), { lengths: [6, 2] });
    expect(cache.lengths).toEqual([10, 6]);
    cache.truncate(8);
    expect(cache.lengths).toEqual([8, 6]);
    cache.dispose();
  });

  it('stays as it was when there is no memory', () => {
    const cache = new KvCache({ batch: 1024, kvHeads: 65536, headDim: 512, capacity: 2 ** 30, pageSize: 2 ** 20 });
    const wide = Tensor.zeros([1, 1, 1, 512]);
    expect(code(() => cache.append(wide, wide))).toBe('ERR_SHAPE');
    const large = new KvCache({ batch: 1, kvHeads: 1, headDim: 512, capacity: 2 ** 30, pageSize: 2 ** 20, rope: {} });
    const huge = new KvCache({ batch: 1, kvHeads: 65536, headDim: 512, capacity: 2 ** 30, pageSize: 2 ** 20 });
    large.append(wide, wide);
    expect(large.length).toBe(1);
    const row = Tensor.zeros([1, 1, 65536, 512]);
    expect(code(() => huge.append(row, row))).toBe('ERR_OUT_OF_MEMORY'); // a page of 256 TiB
    expect([huge.length, huge.bytes]).toEqual([0, 0]);
    for (const made of [cache, large, huge, row]) made.dispose();
  });

  it('refuses calls of attention that a cache cannot serve', async () => {
    using cache = new KvCache(sound);
    cache.append(tokens(4), tokens(4));
    const q = Tensor.zeros([2, 1, 4, 8]);
    const offsets = Tensor.from(Int32Array.of(0, 1), [2]);
    using stream = new Stream();
    const refused: [string, () => unknown][] = [
      ['ERR_SHAPE', () => attention(Tensor.zeros([2, 1, 1, 4, 8]), cache)],
      ['ERR_SHAPE', () => attention(Tensor.zeros([1, 1, 4, 8]), cache)],
      ['ERR_SHAPE', () => attention(Tensor.zeros([2, 1, 3, 8]), cache)],
      ['ERR_SHAPE', () => attention(Tensor.zeros([2, 1, 4, 9]), cache)],
      ['ERR_DTYPE', () => attention(q.to('bfloat16'), cache)],
      ['ERR_OPTION', () => attention(q, cache, { mask: neighborhood({ window: 1 }) })],
      ['ERR_OPTION', () => attention(q, cache, { cuSeqlens: { q: offsets, k: offsets } } as never)],
      ['ERR_OPTION', () => attention(q, cache, { masks: causal() } as never)],
      ['ERR_OPTION', () => attention(q, cache as never, undefined as never, { mask: causal() })],
      [
        'ERR_OPTION',
        () => stream.capture(() => void attention(q, cache, { stream, bias: keyBias(Tensor.zeros([4])) })),
      ],
      ['ERR_SHAPE', () => stream.capture(() => void attention(Tensor.zeros([2, 1, 4, 9]), cache, { stream }))],
      ['ERR_SHAPE', () => stream.capture(() => cache.append(tokens(1), Tensor.zeros([2, 2, 2, 8]), { stream }))],
      ['ERR_OPTION', () => stream.capture(() => cache.append(tokens(1), tokens(1), { stream, lengths: [1, 2] }))],
    ];
    for (const [wanted, run] of refused) expect([wanted, code(run)]).toEqual([wanted, wanted]);
    expect(cache.lengths).toEqual([4, 4]);
  });
});

describe('a recorded step of decoding', () => {
  const size = { batch: 2, kvHeads: 2, headDim: 16, pageSize: 4, capacity: 40, rope: {} };
  const make = (seed: number, heads = 2) => Tensor.randn([2, 1, heads, 16], { seed });
  const options = () => ({ mask: window({ left: 9, right: 0 }), bias: alibi(), sinks: Tensor.zeros([4]) });

  it.each([undefined, 'int8'] as const)('appends and attends anew with each launch, storage %s', async (storage) => {
    using plain = new KvCache({ ...size, storage });
    using cache = new KvCache({ ...size, storage });
    for (const each of [plain, cache]) each.append(make(1), make(2), { lengths: [1, 0] });
    const [k, v, q] = [Tensor.zeros([2, 1, 2, 16]), Tensor.zeros([2, 1, 2, 16]), Tensor.zeros([2, 1, 4, 16])];
    using stream = new Stream();
    let result: AttentionResult | undefined;
    using graph = stream.capture(() => {
      cache.append(k, v, { stream });
      result = attention(q, cache, { ...options(), stream });
    });
    expect(cache.lengths).toEqual([1, 0]);
    for (let step = 0; step < 30; step++) {
      const [own, ownV, ownQ] = [make(10 + step), make(100 + step), make(1000 + step, 4)];
      plain.append(own, ownV);
      const wanted = attention(ownQ, plain, options());
      await stream.synchronize();
      for (const [to, from] of [
        [k, own],
        [v, ownV],
        [q, ownQ],
      ] as const)
        to.data.set(from.data);
      graph.launch();
      expect(cache.lengths).toEqual(plain.lengths);
      expect(await result!.out.read()).toEqual(await wanted.out.read());
      expect(await result!.lse.read()).toEqual(await wanted.lse.read());
      if (step % 8 === 5) for (const each of [plain, cache]) each.truncate(each.lengths.map((n) => n - 3));
    }
    // A fork goes on without what the graph appends.
    using branch = cache.fork();
    graph.launch();
    expect(cache.lengths.map((length, b) => length - branch.lengths[b]!)).toEqual([1, 1]);
  });

  it('is refused as a whole when it does not fit', async () => {
    const cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 4, capacity: 5 });
    const k = Tensor.zeros([1, 2, 1, 4]);
    k.data.fill(1);
    using stream = new Stream();
    let out: Tensor | undefined;
    using graph = stream.capture(() => {
      cache.append(k, k, { stream });
      out = attention(k, cache, { stream }).out;
      cache.append(k, k, { stream });
    });
    graph.launch();
    expect(cache.length).toBe(4);
    expect([...(await out!.read())]).toEqual(Array(8).fill(1));
    k.data.fill(2);
    expect(code(() => graph.launch())).toBe('ERR_OUT_OF_MEMORY');
    expect(cache.length).toBe(4);
    expect([...(await out!.read())]).toEqual(Array(8).fill(1));
    cache.truncate(0);
    cache.dispose(); // the graph has it still
    graph.launch();
    expect([...(await out!.read())]).toEqual(Array(8).fill(2));
    using other = new Stream();
    expect(code(() => graph.launch(other))).toBe('ERR_OUT_OF_MEMORY');
  });
});
