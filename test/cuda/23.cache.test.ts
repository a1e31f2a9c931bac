// KvCache on a CUDA device: beside it a model of plain arrays, and a cache on the CPU that is told the same.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import fc from 'fast-check';
import {
  type AttentionOptions,
  alibi,
  attention,
  causal,
  KvCache,
  type KvCacheOptions,
  KvIndex,
  keyBias,
  memoryStats,
  Stream,
  streamingPlan,
  Tensor,
  window,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { expectedOn, expectResult, tensorOf } from '../support/library';
import { decode, type Float, normal, round, roundoff, uniform, type Values } from '../support/numbers';
import type { MaskSpec, Problem } from '../support/oracle';
import { code } from '../support/refusal';
import { rotate } from '../support/rotary';
import { heldOf, join, optionsOf, randomTokens, rowsOf, type Sizes } from '../support/twin';
import { interpreted, launches, missing, schedule, schedules, title } from './support/device';

const FLOATS: Float[] = ['float32', 'float16', 'bfloat16'];
const CAUSAL: MaskSpec = { left: -1, right: 0 };
const STORED = FLOATS.flatMap((dtype) => [undefined, 'int8' as const].map((storage) => ({ dtype, storage })));

/** A cache on the device, one on the CPU, and what both must hold. */
class Twin {
  constructor(
    readonly sizes: Sizes,
    readonly cuda: KvCache,
    readonly cpu: KvCache,
    public sequences: { k: Values; v: Values }[],
  ) {}

  static empty(sizes: Sizes, capacity: number): Twin {
    const make = (device: 'cuda' | 'cpu') => new KvCache({ ...optionsOf(sizes), capacity, device });
    const none = (columns: number): Values => ({ shape: [1, 0, sizes.kvHeads, columns], data: new Float64Array(0) });
    const sequences = Array.from({ length: sizes.batch }, () => ({ k: none(sizes.headDim), v: none(sizes.valueDim) }));
    return new Twin(sizes, make('cuda'), make('cpu'), sequences);
  }

  get lengths(): number[] {
    return this.sequences.map(({ k }) => k.shape[1]!);
  }

  /** Random tokens. */
  append(lengths: number[], random: () => number, stream?: Stream): void {
    const { dtype } = this.sizes;
    const [k, v] = randomTokens(this.sizes, lengths, random);
    for (const [cache, on] of [
      [this.cuda, stream],
      [this.cpu, undefined],
    ] as const) {
      const tensors = [k, v].map((values) => tensorOf(values, dtype, cache.device)) as [Tensor, Tensor];
      cache.append(...tensors, { lengths, stream: on });
      for (const tensor of tensors) tensor.dispose();
    }
    this.sequences = this.sequences.map((old, b) => ({
      k: join(old.k, heldOf(this.sizes, rowsOf(k, b, 0, lengths[b]!))),
      v: join(old.v, heldOf(this.sizes, rowsOf(v, b, 0, lengths[b]!))),
    }));
  }

  truncate(lengths: number[]): void {
    for (const cache of [this.cuda, this.cpu]) cache.truncate(lengths);
    this.sequences = this.sequences.map(({ k, v }, b) => ({
      k: rowsOf(k, 0, 0, lengths[b]!),
      v: rowsOf(v, 0, 0, lengths[b]!),
    }));
  }

  fork(): Twin {
    return new Twin(this.sizes, this.cuda.fork(), this.cpu.fork(), this.sequences);
  }

  /** Attention on the device against the oracle, sequence by sequence. */
  async check(queries: number, random: () => number, more: Partial<Problem> = {}, stream?: Stream): Promise<void> {
    const { batch, kvHeads, group, headDim, dtype } = this.sizes;
    expect(this.cuda.lengths).toEqual(this.lengths);
    expect(this.cpu.lengths).toEqual(this.lengths);
    const made: Tensor[] = [];
    const onDevice = (values: Values, type: Float = dtype) => {
      made.push(tensorOf(values, type, 'cuda'));
      return made.at(-1)!;
    };
    const q = normal(random, dtype, [batch, queries, kvHeads * group, headDim]);
    const { masks = [], keyBias: bias, sinks, softcap, scale, extra } = more;
    const options: AttentionOptions = {
      mask: masks.map((mask) => window(mask as { left: number; right: number })),
      ...(bias && { bias: keyBias(onDevice(bias, 'float32')) }),
      ...(sinks && { sinks: onDevice(sinks, 'float32') }),
      ...(extra && { extra: { k: onDevice(extra.k), v: onDevice(extra.v) } }),
      softcap,
      scale,
      stream,
    };
    const { sequences } = this; // as they are now, whatever comes before the result
    const { out, lse } = attention(onDevice(q), this.cuda, options);
    made.push(out, lse);
    const got = { out: decode(dtype, await out.read()), lse: decode('float32', await lse.read()) };
    const part = (all: Float64Array, b: number) => all.slice((all.length / batch) * b, (all.length / batch) * (b + 1));
    for (let b = 0; b < batch; b++) {
      const own = <T extends Values>(values: T) => rowsOf(values, b, 0, values.shape[1]!);
      const problem: Problem = {
        ...more,
        q: own(q),
        ...sequences[b]!,
        masks,
        ...(bias && { keyBias: { shape: [this.lengths[b]!], data: bias.data.slice(0, this.lengths[b]!) } }),
        ...(extra && { extra: { k: own(extra.k), v: own(extra.v) } }),
      };
      expectResult({ out: part(got.out, b), lse: part(got.lse, b) }, expectedOn('cuda', problem, dtype));
    }
    for (const tensor of made) tensor.dispose();
  }

  dispose(): void {
    for (const cache of [this.cuda, this.cpu]) cache.dispose();
  }
}

const sizesOf = fc.record({
  batch: fc.integer({ min: 1, max: 3 }),
  kvHeads: fc.integer({ min: 1, max: 2 }),
  group: fc.integer({ min: 1, max: 3 }),
  headDim: fc.integer({ min: 1, max: 70 }),
  valueDim: fc.integer({ min: 1, max: 70 }),
  pageSize: fc.constantFrom(1, 3, 8, 13, 64),
  dtype: fc.constantFrom(...FLOATS),
  storage: fc.constantFrom(undefined, 'int8' as const),
});

const MASKS: MaskSpec[][] = [[], [CAUSAL], [{ left: 9, right: 0 }], [{ left: 20, right: 3 }]];
const CAPACITY = 90;

describe.skipIf(missing)(title('KvCache'), () => {
  // First, while no other test has left tensors to be collected.
  it('a fork shares memory until it is written to, and all of it is counted', async () => {
    const random = uniform(9);
    const before = memoryStats('cuda').bytes;
    const sizes: Sizes = { batch: 1, kvHeads: 2, group: 1, headDim: 8, valueDim: 8, pageSize: 64, dtype: 'float16' };
    const page = 2 * 64 * 8 * 2 * 2;
    const twin = Twin.empty(sizes, 1 << 20);
    twin.append([64 * 5 + 10], random);
    await twin.check(1, random); // what was appended is then written, and its tensors are gone
    expect(memoryStats('cuda').bytes - before).toBe(twin.cuda.bytes);
    const forks = Array.from({ length: 5 }, () => twin.fork());
    expect(memoryStats('cuda').bytes - before).toBe(twin.cuda.bytes);
    const { bytes } = twin.cuda;
    for (const fork of forks) fork.append([1], random); // one page each, which all of them shared
    expect(twin.cuda.bytes).toBeLessThanOrEqual(bytes + 2 ** 20 + 5 * page);
    for (const each of [twin, ...forks]) await each.check(1, random);
    for (const each of [twin, ...forks]) each.dispose();
    await new Stream('cuda').synchronize();
    expect(memoryStats('cuda').bytes).toBe(before);
  });

  it('holds what plain arrays would, whatever is appended, truncated and forked', async () => {
    const step = fc.tuple(fc.constantFrom('append', 'append', 'token', 'truncate', 'fork', 'attend', 'drop'), fc.nat());
    await fc.assert(
      fc.asyncProperty(
        sizesOf,
        fc.integer(),
        fc.array(step, { minLength: 4, maxLength: 16 }),
        async (sizes, seed, steps) => {
          const random = uniform(seed);
          const streams = [undefined, new Stream('cuda')];
          let twins = [Twin.empty(sizes, CAPACITY)];
          for (const [what, pick] of steps) {
            schedule(schedules[pick % schedules.length]!);
            const twin = twins[pick % twins.length]!;
            const stream = streams[pick % 2];
            const upTo = (most: number) => Math.floor(random() * (most + 1));
            if (what === 'append') {
              twin.append(
                twin.lengths.map((length) => upTo(Math.min(40, CAPACITY - length))),
                random,
                stream,
              );
            } else if (what === 'token') {
              twin.append(
                twin.lengths.map((length) => Math.min(1, CAPACITY - length)),
                random,
                stream,
              );
            } else if (what === 'truncate') {
              twin.truncate(twin.lengths.map(upTo));
            } else if (what === 'fork' && twins.length < 4) {
              twins.push(twin.fork());
            } else if (what === 'drop' && twins.length > 1) {
              twin.dispose();
              twins = twins.filter((other) => other !== twin);
            } else {
              await twin.check(1 + upTo(7), random, { masks: MASKS[pick % MASKS.length]! }, stream);
            }
          }
          for (const twin of twins) {
            await twin.check(2, random);
            twin.dispose();
          }
          for (const stream of streams) stream?.dispose();
        },
      ),
      { numRuns: 12, seed: 23 },
    );
  });

  it.each(STORED.flatMap((stored) => [100, 128, 256].map((headDim) => ({ ...stored, headDim }))))(
    '$dtype as $storage, headDim $headDim: many and few rows, plain and modified scores, unaligned rows',
    async ({ headDim, ...stored }) => {
      const random = uniform(headDim);
      for (const [less, pageSize] of [
        [0, 16],
        [3, 7],
      ] as const) {
        const sizes: Sizes = {
          batch: 3,
          kvHeads: 2,
          group: 2,
          headDim: headDim - less,
          valueDim: headDim - 2 * less,
          pageSize,
          ...stored,
        };
        const twin = Twin.empty(sizes, 200);
        twin.append([70, 0, 33], random);
        schedule(schedules[(headDim + less) % schedules.length]!);
        const sinks = normal(random, 'float32', [4]);
        for (const queries of [1, 19]) {
          await twin.check(queries, random, { masks: [CAUSAL], sinks });
          await twin.check(queries, random, { softcap: 3, keyBias: normal(random, 'float32', [70]), scale: -0.1 });
        }
        twin.dispose();
      }
    },
  );

  it.each(FLOATS)('%s: keys are split, and extra keys are one part more', async (dtype) => {
    const random = uniform(5);
    const sizes: Sizes = { batch: 2, kvHeads: 1, group: 4, headDim: 32, valueDim: 24, pageSize: 64, dtype };
    const twin = Twin.empty(sizes, 3000);
    twin.append([1500, 300], random);
    const extra = { k: normal(random, dtype, [2, 9, 1, 32]), v: normal(random, dtype, [2, 9, 1, 24]) };
    for (const more of [{}, { masks: [{ left: 600, right: 0 }] }, { extra, sinks: normal(random, 'float32', [4]) }]) {
      await twin.check(1, random, more);
    }
    twin.dispose();
  });

  it.each(STORED)('$dtype as $storage: prefill in chunks and token by token is attention over all', async (stored) => {
    const random = uniform(7);
    const sizes: Sizes = { batch: 2, kvHeads: 2, group: 4, headDim: 64, valueDim: 48, pageSize: 32, ...stored };
    const twin = Twin.empty(sizes, 600);
    for (const n of [70, 31, 1, 1]) {
      twin.append([n, n], random);
      await twin.check(n, random, { masks: [CAUSAL] });
    }
    twin.dispose();
  });

  it('is empty at first, and gives the empty result', async () => {
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 4, capacity: 8, device: 'cuda' });
    expect([cache.length, cache.lengths, cache.bytes, cache.device]).toEqual([0, [0], 0, 'cuda:0']);
    const { out, lse } = attention(Tensor.zeros([1, 3, 2, 4], { device: 'cuda' }), cache);
    expect([...(await out.read())]).toEqual(new Array(24).fill(0));
    expect([...(await lse.read())]).toEqual(new Array(6).fill(Number.NEGATIVE_INFINITY));
  });

  it('ignores what truncated tokens and the rest of a page hold', async () => {
    const random = uniform(3);
    for (const stored of STORED) {
      const { dtype } = stored;
      const sizes: Sizes = { batch: 1, kvHeads: 1, group: 1, headDim: 16, valueDim: 16, pageSize: 16, ...stored };
      const twin = Twin.empty(sizes, 64);
      twin.append([5], random);
      const poison = Tensor.from(new Float32Array(40 * 16).fill(Number.NaN), [1, 40, 1, 16], { dtype, device: 'cuda' });
      twin.cuda.append(poison, poison);
      twin.cuda.truncate(5);
      await twin.check(3, random);
      twin.append([2], random);
      await twin.check(1, random);
      twin.dispose();
    }
  });

  it('takes views, and many sequences', async () => {
    const [batch, n] = [300, 3];
    const random = uniform(11);
    const values = normal(random, 'float16', [2, batch, n, 8]); // [heads, batch, tokens, columns]
    const view = tensorOf(values, 'float16', 'cuda').permute(1, 2, 0, 3);
    using cache = new KvCache({
      batch,
      kvHeads: 2,
      headDim: 8,
      pageSize: 2,
      capacity: 8,
      dtype: 'float16',
      device: 'cuda',
    });
    const lengths = Array.from({ length: batch }, (_, b) => (b * 7) % (n + 1));
    cache.append(view, view, { lengths });
    const all = { shape: [batch, n, 2, 8], data: decode('float16', await view.read()) };
    const q = normal(random, 'float16', [batch, 1, 2, 8]);
    const { out, lse } = attention(tensorOf(q, 'float16', 'cuda'), cache);
    const got = { out: decode('float16', await out.read()), lse: decode('float32', await lse.read()) };
    lengths.forEach((length, b) => {
      const k = rowsOf(all, b, 0, length);
      const want = expectedOn('cuda', { q: rowsOf(q, b, 0, 1), k, v: k }, 'float16');
      expectResult({ out: got.out.slice(b * 16, b * 16 + 16), lse: got.lse.slice(b * 2, b * 2 + 2) }, want);
    });
  });

  it('a fork of many sequences copies the page of each that it writes to, and lists its own', async () => {
    const random = uniform(15);
    const sizes: Sizes = { batch: 300, kvHeads: 1, group: 1, headDim: 8, valueDim: 5, pageSize: 4, dtype: 'float16' };
    const twin = Twin.empty(sizes, 12);
    const upTo = (most: number) => Array.from({ length: sizes.batch }, (_, b) => 1 + (b % most));
    twin.append(upTo(3), random);
    const fork = twin.fork();
    for (const each of [fork, twin]) each.append(upTo(5), random);
    for (const each of [twin, fork]) {
      await each.check(1, random);
      each.dispose();
    }
  });

  it('what does not fit is refused as a whole', async () => {
    const random = uniform(4);
    const twin = Twin.empty(
      { batch: 2, kvHeads: 1, group: 1, headDim: 8, valueDim: 8, pageSize: 4, dtype: 'float32' },
      9,
    );
    twin.append([9, 3], random);
    const more = Tensor.zeros([2, 1, 1, 8], { device: 'cuda' });
    expect(code(() => twin.cuda.append(more, more))).toBe('ERR_OUT_OF_MEMORY');
    await twin.check(1, random);
    twin.dispose();
  });

  it('biases that are computed are refused over pages', () => {
    using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 8, capacity: 8, device: 'cuda' });
    const row = Tensor.zeros([1, 1, 1, 8], { device: 'cuda' });
    cache.append(row, row);
    expect(code(() => attention(row, cache, { bias: alibi() }))).toBe('ERR_OPTION');
  });

  it.each(STORED)('$dtype as $storage: is saved and loaded bit by bit, on either device', async (stored) => {
    const folder = mkdtempSync(path.join(tmpdir(), 'node-attention-'));
    const random = uniform(17);
    const sizes: Sizes = { batch: 3, kvHeads: 2, group: 1, headDim: 5, valueDim: 7, pageSize: 3, ...stored };
    const twin = Twin.empty(sizes, 64);
    twin.append([40, 0, 17], random);
    twin.truncate([11, 0, 17]);
    twin.append([9, 2, 0], random);
    const [fromCpu, fromCuda, again] = ['cpu', 'cuda', 'again'].map((name) => path.join(folder, name)) as [
      string,
      string,
      string,
    ];
    await twin.cpu.save(fromCpu);
    await twin.cuda.save(fromCuda);
    expect(readFileSync(fromCuda).equals(readFileSync(fromCpu))).toBe(true);
    const loaded = await KvCache.load(fromCpu, { device: 'cuda' });
    await loaded.save(again);
    expect(readFileSync(again).equals(readFileSync(fromCpu))).toBe(true);
    const back = new Twin(sizes, loaded, twin.cpu.fork(), twin.sequences);
    back.append([1, 0, 2], random);
    await back.check(2, random);
    for (const each of [twin, back]) each.dispose();
    rmSync(folder, { recursive: true });
  });

  it.each(FLOATS)(
    '%s as int8: the same bytes as on the CPU, of zeros, ties, the largest numbers and none',
    async (dtype) => {
      const largest = { float32: 3.4028234663852886e38, float16: 65504, bfloat16: 3.3895313892515355e38 }[dtype];
      const [D, rows] = [37, 40];
      const random = uniform(21);
      const values = normal(random, dtype, [1, rows, 2, D]);
      const row = (n: number, fill: (d: number, x: number) => number) => {
        for (let d = 0; d < D; d++) values.data[n * D + d] = round(dtype, fill(d, values.data[n * D + d]!));
      };
      row(0, () => 0);
      row(1, (d) => (d === 30 ? -largest : (largest / 37) * d));
      row(2, (d) => (d === 0 ? 127 : d - 18.5)); // a unit of 1: halves of a step
      row(3, (d) => (d === 36 ? -63.5 : (d - 18) / 4)); // of 1/2
      row(4, (d) => (d + 1) * 2 ** -140);
      row(5, (d) => (d + 1) * 2 ** -122);
      row(6, (d, x) => (d === 33 ? Number.NaN : x));
      row(7, (d, x) => (d === 5 ? Number.POSITIVE_INFINITY : x));
      row(8, (d) => (d === 36 ? Number.NEGATIVE_INFINITY : d === 0 ? Number.NaN : 0));
      row(9, (_, x) => x * 2 ** -12);
      const folder = mkdtempSync(path.join(tmpdir(), 'node-attention-'));
      const size = { batch: 1, kvHeads: 2, headDim: D, capacity: rows, pageSize: 7, dtype, storage: 'int8' as const };
      const files: Buffer[] = [];
      for (const device of ['cpu', 'cuda'] as const) {
        using cache = new KvCache({ ...size, device });
        using tokens = tensorOf(values, dtype, device);
        cache.append(tokens, tokens);
        await cache.save(path.join(folder, device));
        files.push(readFileSync(path.join(folder, device)));
      }
      expect(files[1]!.equals(files[0]!)).toBe(true);
      rmSync(folder, { recursive: true });
    },
  );

  it('int8: what lies behind the columns of a row has no influence', async () => {
    // The first byte of this row's unit, 0x7c000080, would be 128 steps of it: more than a float32 holds.
    const [D, rows] = [37, 20];
    const k = new Float32Array(rows * D);
    for (let row = 0; row < rows; row++) k[row * D] = 127 * 2 ** 121 * (1 + 2 ** -16);
    const q = new Float32Array(D).fill(1, 1);
    for (const queries of [1, 40]) {
      using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: D, capacity: rows, device: 'cuda', storage: 'int8' });
      const tensor = (values: Float32Array, tokens: number) =>
        Tensor.from(values, [1, tokens, 1, D], { device: 'cuda' });
      cache.append(tensor(k, rows), Tensor.randn([1, rows, 1, D], { seed: 1, device: 'cuda' }));
      const repeated = new Float32Array(queries * D).map((_, i) => q[i % D]!);
      for (const mask of [undefined, streamingPlan({ queries, keys: rows, window: rows, device: 'cuda' })]) {
        const { lse } = attention(tensor(repeated, queries), cache, { ...(mask && { mask }) });
        for (const each of await lse.read()) expect(each).toBeCloseTo(Math.log(rows), 5);
      }
    }
  });

  it('int8 takes a byte for an element and four for a row', () => {
    const size = { batch: 1, kvHeads: 2, headDim: 60, capacity: 1 << 20, pageSize: 1 << 14, device: 'cuda' as const };
    const [int8, exact] = [{ storage: 'int8' as const }, {}].map((stored) => {
      using cache = new KvCache({ ...size, ...stored });
      using one = Tensor.zeros([1, 1, 2, 60], { device: 'cuda' });
      cache.append(one, one);
      return cache.bytes;
    });
    // Beside one page each has the same list of pages.
    expect(exact! - int8!).toBe(2 * 2 * (60 * 4 - (60 + 4)) * 2 ** 14);
  });

  it('is saved and loaded by few kernels, however its pages lie', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'node-attention-'));
    const random = uniform(18);
    for (const [headDim, valueDim, dtype] of [
      [8, 8, 'float16'],
      [5, 6, 'float32'],
      [3, 7, 'bfloat16'],
    ] as const) {
      const sizes: Sizes = { batch: 2, kvHeads: 1, group: 1, headDim, valueDim, pageSize: 2, dtype };
      const twin = Twin.empty(sizes, 1024);
      // Pages of the sequences take turns, and then those that are given back are taken again.
      for (let step = 0; step < 12; step++) twin.append([1 + (step % 5), 3], random);
      twin.truncate([3, 30]);
      twin.append([600, 1], random);
      const [fromCpu, fromCuda, again] = ['cpu', 'cuda', 'again'].map((name) => path.join(folder, name)) as [
        string,
        string,
        string,
      ];
      await twin.cpu.save(fromCpu);
      const before = launches('copy_rows_kernel');
      await twin.cuda.save(fromCuda);
      // More than 300 pages of keys of the first sequence take two, others one.
      if (interpreted) expect(launches('copy_rows_kernel') - before).toBe(6);
      expect(readFileSync(fromCuda).equals(readFileSync(fromCpu))).toBe(true);
      const loaded = await KvCache.load(fromCpu, { device: 'cuda' });
      if (interpreted) expect(launches('copy_rows_kernel') - before).toBe(12);
      await loaded.save(again);
      expect(readFileSync(again).equals(readFileSync(fromCpu))).toBe(true);
      for (const each of [twin, loaded]) each.dispose();
    }
    rmSync(folder, { recursive: true });
  });

  it.each([{}, { storage: 'int8' as const }])(
    'a recorded step of decoding appends and attends anew with each launch: %o',
    async (stored) => {
      const base = { batch: 2, kvHeads: 2, headDim: 16, pageSize: 4, capacity: 40, rope: {} };
      const size = { ...base, ...stored, device: 'cuda' as const };
      const make = (seed: number, heads = 2) => Tensor.randn([2, 1, heads, 16], { seed, device: 'cuda' });
      const [plain, cache] = [new KvCache(size), new KvCache(size)];
      for (const each of [plain, cache]) each.append(make(1), make(2), { lengths: [1, 0] });
      const [k, v, q] = [make(3), make(4), make(5, 4)];
      const options = { mask: causal(), sinks: Tensor.zeros([4], { device: 'cuda' }) };
      using stream = new Stream('cuda');
      let result: ReturnType<typeof attention> | undefined;
      using graph = stream.capture(() => {
        cache.append(k, v, { stream });
        result = attention(q, cache, { ...options, stream });
      });
      expect(cache.lengths).toEqual([1, 0]);
      for (let step = 0; step < 12; step++) {
        plain.append(k, v);
        const wanted = attention(q, plain, options);
        graph.launch();
        expect(cache.lengths).toEqual(plain.lengths);
        expect(await result!.out.read()).toEqual(await wanted.out.read());
        expect(await result!.lse.read()).toEqual(await wanted.lse.read());
        if (step % 8 === 5) for (const each of [plain, cache]) each.truncate(each.lengths.map((n) => n - 3));
      }
      for (const each of [plain, cache]) each.dispose();
    },
  );

  it('says what does not run on CUDA', async () => {
    const base: KvCacheOptions = { batch: 1, kvHeads: 1, headDim: 16, capacity: 64, device: 'cuda' };
    using cache = new KvCache(base);
    const tokens = Tensor.randn([1, 8, 1, 16], { device: 'cuda', seed: 1 });
    cache.append(tokens, tokens);
    const cases: [string, () => unknown][] = [
      ['ERR_SHAPE', () => new KvCache({ ...base, headDim: 257 })],
      ['ERR_SHAPE', () => new KvCache({ ...base, valueDim: 257 })],
      ['ERR_OPTION', () => new KvIndex(cache, { method: 'scan' })],
      ['ERR_OPTION', () => new KvIndex(cache, { method: 'graph', queries: tokens })],
      ['ERR_DEVICE', () => cache.append(Tensor.zeros([1, 1, 1, 16]), Tensor.zeros([1, 1, 1, 16]))],
      ['ERR_DEVICE', () => attention(Tensor.zeros([1, 1, 1, 16]), cache)],
    ];
    // Whatever is refused gives back what it held, and nothing else: again and again the cache is what it was.
    const attended = async () => {
      const { out, lse } = attention(tokens, cache);
      return [await out.read(), await lse.read()];
    };
    const before = await attended();
    for (let round = 0; round < 3; round++) {
      for (const [wanted, run] of cases) expect([wanted, code(run)]).toEqual([wanted, wanted]);
    }
    expect(cache.lengths).toEqual([8]);
    expect(await attended()).toEqual(before);
  });
});

describe.skipIf(missing)(title('rotary embedding'), () => {
  it('more sequences than a kernel takes at once', async () => {
    const batch = 800;
    const random = uniform(20);
    const size = { batch, kvHeads: 1, headDim: 4, capacity: 8, pageSize: 4, rope: {} };
    const [cpu, cuda] = (['cpu', 'cuda'] as const).map((device) => new KvCache({ ...size, device })) as [
      KvCache,
      KvCache,
    ];
    const before = ['rotate_kernel', 'append_kernel'].map(launches);
    for (let step = 0; step < 2; step++) {
      const lengths = Array.from({ length: batch }, (_, b) => (b + step) % 3);
      const [k, v] = [0, 1].map(() => normal(random, 'float32', [batch, 2, 1, 4])) as [Values, Values];
      for (const cache of [cpu, cuda]) {
        cache.append(tensorOf(k, 'float32', cache.device), tensorOf(v, 'float32', cache.device), { lengths });
      }
    }
    const q = normal(random, 'float32', [batch, 1, 1, 4]);
    const [wanted, got] = await Promise.all(
      [cpu, cuda].map(async (cache) => {
        const { out, lse } = attention(tensorOf(q, 'float32', cache.device), cache);
        return { out: decode('float32', await out.read()), lse: decode('float32', await lse.read()) };
      }),
    );
    // Both are about as far from the exact result.
    for (const name of ['out', 'lse'] as const) {
      wanted![name].forEach((x, i) => {
        const y = got![name][i]!;
        expect(x === y || Math.abs(x - y) < 1e-5, `${name} ${i}: ${y} instead of ${x}`).toBe(true);
      });
    }
    if (interpreted) {
      const launched = ['rotate_kernel', 'append_kernel'].map((name, i) => launches(name) - before[i]!);
      expect(launched).toEqual([3 * 3, 2 * 2 * 2]); // 372 and 500 sequences at once
    }
    for (const cache of [cpu, cuda]) cache.dispose();
  });

  it.each([
    { dtype: 'float32', rope: {}, theta: 10000, dim: 16, interleaved: false },
    { dtype: 'float32', rope: { theta: 5e5, interleaved: true }, theta: 5e5, dim: 16, interleaved: true },
    { dtype: 'bfloat16', rope: { dim: 6 }, theta: 10000, dim: 6, interleaved: false },
    { dtype: 'float16', rope: { dim: 2, interleaved: true }, theta: 10000, dim: 2, interleaved: true },
  ] as const)('$dtype $rope', async ({ dtype, rope, theta, dim, interleaved }) => {
    const random = uniform(19);
    const device = 'cuda';
    using cache = new KvCache({ batch: 2, kvHeads: 2, headDim: 16, capacity: 64, pageSize: 5, dtype, rope, device });
    const turn = (values: Values, first: number[]) => {
      const turned = rotate(values, first, theta, dim, interleaved);
      return { ...turned, data: turned.data.map((x) => round(dtype, x)) };
    };
    const held: { k: Values; v: Values }[] = [];
    const begun = [0, 0];
    for (const lengths of [
      [7, 3],
      [4, 9],
      [1, 1],
    ]) {
      const n = Math.max(...lengths);
      const [k, v] = [0, 1].map(() => normal(random, dtype, [2, n, 2, 16])) as [Values, Values];
      cache.append(tensorOf(k, dtype, device), tensorOf(v, dtype, device), { lengths });
      const turned = turn(k, begun);
      for (const b of [0, 1]) {
        const part = { k: rowsOf(turned, b, 0, lengths[b]!), v: rowsOf(v, b, 0, lengths[b]!) };
        held[b] = held[b] ? { k: join(held[b].k, part.k), v: join(held[b].v, part.v) } : part;
        begun[b]! += lengths[b]!;
      }
    }
    const q = normal(random, dtype, [2, 3, 4, 16]);
    const turned = turn(
      q,
      begun.map((length) => length - 3),
    );
    const { out, lse } = attention(tensorOf(q, dtype, device), cache, { mask: causal() });
    const got = { out: decode(dtype, await out.read()), lse: decode('float32', await lse.read()) };
    for (const b of [0, 1]) {
      const part = (all: Float64Array) => all.slice((all.length / 2) * b, (all.length / 2) * (b + 1));
      const want = expectedOn(device, { q: rowsOf(turned, b, 0, 3), ...held[b]!, masks: [CAUSAL] }, dtype);
      // A rotated element may be rounded the other way than here, which scores see twice.
      const once = roundoff(dtype) * 2 * 16 * 9;
      want.tolerance.lse += once;
      want.tolerance.out += once * 4;
      expectResult({ out: part(got.out), lse: part(got.lse) }, want);
    }
  });
});
