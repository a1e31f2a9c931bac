// Caches whose keys and values are in pinned memory of the host, with a part of them on the GPU, and indexes over them:
// beside them a cache that is wholly on the GPU, one on the CPU, and the oracle.
import './support/little-memory';
import './support/device'; // before node-attention
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import * as path from 'node:path';
import fc from 'fast-check';
import {
  attention,
  KvCache,
  type KvCacheOptions,
  KvIndex,
  type KvIndexOptions,
  memoryStats,
  pagePlan,
  type ResidentOptions,
  type RetrievalOptions,
  SparsePlan,
  Stream,
  Tensor,
  window,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { expectedOn, expectResult, tensorOf } from '../support/library';
import { decode, type Float, normal, roundoff, uniform, type Values } from '../support/numbers';
import { code, refused } from '../support/refusal';
import { scoresOf } from '../support/searches';
import {
  append,
  emptyTwin,
  heldOf,
  lengthsOf,
  optionsOf,
  randomTokens,
  rowsOf,
  type Sizes,
  smallSizes,
  type Twin,
  truncate,
} from '../support/twin';
import { interpreted, launches, missing, poisonPinned, schedule, schedules, title } from './support/device';

const FLOATS: Float[] = ['float32', 'float16', 'bfloat16'];
const CAPACITY = 120;
const MASKS = [undefined, { left: -1, right: 0 }, { left: 9, right: 0 }, { left: 30, right: 2 }];

/** The same tokens in a cache with a resident part and in one that is wholly on the GPU. */
interface Pair {
  resident: Twin;
  plain: KvCache;
}

const sizesOf = smallSizes([1, 3, 8, 13, 64], FLOATS);
const residentOf = fc.record({
  sink: fc.integer({ min: 0, max: 20 }),
  window: fc.integer({ min: 1, max: 50 }),
  pages: fc.integer({ min: 0, max: 6 }),
});

function emptyPair(sizes: Sizes, resident: ResidentOptions, more: Partial<KvCacheOptions> = {}): Pair {
  return {
    resident: emptyTwin(sizes, CAPACITY, 'cuda', { ...more, resident }),
    plain: new KvCache({ ...optionsOf(sizes), capacity: CAPACITY, device: 'cuda', ...more }),
  };
}

/** Bytes of a page, whose keys and values begin at multiples of 64. */
function pageBytes({ pageSize, kvHeads, headDim, valueDim, dtype, storage }: Sizes): number {
  const row = (columns: number) => (storage ? columns + 4 : columns * (dtype === 'float32' ? 4 : 2));
  const aligned = (columns: number) => Math.ceil((pageSize * kvHeads * row(columns)) / 64) * 64;
  return aligned(headDim) + aligned(valueDim);
}

/** Appends the same random tokens to both. */
function grow(pair: Pair, sizes: Sizes, lengths: number[], seed: number, stream?: Stream): void {
  append(pair.resident, sizes, lengths, uniform(seed), stream);
  const [k, v] = randomTokens(sizes, lengths, uniform(seed)).map((x) => tensorOf(x, sizes.dtype, 'cuda'));
  pair.plain.append(k!, v!, { lengths });
  for (const tensor of [k!, v!]) tensor.dispose();
}

async function bits({ out, lse }: { out: Tensor; lse: Tensor }): Promise<unknown[]> {
  const read = [await out.read(), await lse.read()];
  for (const tensor of [out, lse]) tensor.dispose();
  return read;
}

/** That both give the same bits; with `oracle`, what they are. */
async function expectSame(
  pair: Pair,
  sizes: Sizes,
  queries: number,
  random: () => number,
  pick: number,
  oracle = false,
) {
  const { batch, kvHeads, group, headDim, dtype } = sizes;
  const values = normal(random, dtype, [batch, queries, kvHeads * group, headDim]);
  const q = tensorOf(values, dtype, 'cuda');
  const mask = MASKS[pick % MASKS.length];
  const options = mask && { mask: window(mask) };
  const { cache, sequences } = pair.resident;
  expect(cache.lengths).toEqual(pair.plain.lengths);
  const [got, want] = await Promise.all([cache, pair.plain].map((each) => bits(attention(q, each, options))));
  q.dispose();
  expect(got).toEqual(want);
  if (!oracle) return;
  const [out, lse] = [decode(dtype, got![0] as never), decode('float32', got![1] as never)];
  const part = (all: Float64Array, b: number) => all.slice((all.length / batch) * b, (all.length / batch) * (b + 1));
  sequences.forEach((sequence, b) => {
    const problem = { q: rowsOf(values, b, 0, queries), ...sequence, masks: mask ? [mask] : [] };
    expectResult({ out: part(out, b), lse: part(lse, b) }, expectedOn('cuda', problem, dtype));
  });
}

/** Attention of one query of each sequence to the blocks of 8 keys that are given, the same for all. */
async function attendedTo(cache: KvCache, heads: number, blocks: number[]): Promise<unknown[]> {
  const { batch, headDim, dtype, length: keys } = cache;
  using q = Tensor.randn([batch, 1, heads, headDim], { seed: 7, dtype, device: 'cuda' });
  using mask = SparsePlan.fromBlocks([blocks], { queries: 1, keys, keyBlock: 8, device: 'cuda' });
  return bits(attention(q, cache, { mask }));
}

/** That both give the same bits for blocks that are chosen at random. */
async function expectSamePlanned(pair: Pair, { kvHeads, group }: Sizes, random: () => number): Promise<void> {
  const { cache } = pair.resident;
  if (cache.length === 0) return;
  const blocks = Array.from({ length: Math.ceil(cache.length / 8) }, (_, block) => block);
  const some = blocks.filter(() => random() < 0.3);
  const results = [cache, pair.plain].map((each) => attendedTo(each, kvHeads * group, some));
  const [got, want] = await Promise.all(results);
  expect(got).toEqual(want);
}

const disposed = ({ resident, plain }: Pair) => {
  resident.cache.dispose();
  plain.dispose();
};

describe.skipIf(missing)(title('KvCache with a resident part'), () => {
  // First, while no other test has left tensors to be collected.
  it.each([undefined, 'int8'] as const)(
    'memory of the GPU does not grow with the context, but for 8 bytes a page, storage %s',
    async (storage) => {
      const [before, host] = [memoryStats('cuda').bytes, memoryStats('cpu').bytes];
      const sizes: Sizes = {
        ...{ batch: 2, kvHeads: 2, group: 1, headDim: 16, valueDim: 8, pageSize: 16 },
        dtype: 'float16',
        storage,
      };
      const [sink, last, pages] = [20, 100, 5];
      const cache = new KvCache({
        ...optionsOf(sizes),
        capacity: 8192,
        device: 'cuda',
        resident: { sink, window: last, pages },
      });
      const copies = 2 * (Math.ceil(sink / 16) + Math.ceil((last - 1) / 16) + 1 + pages) * pageBytes(sizes);
      const random = uniform(1);
      const twin: Twin = { cache, sequences: [] };
      let most = 0;
      for (const lengths of [
        [1, 0],
        [300, 40],
        [1, 1],
        [2000, 1],
        [0, 700],
        ...new Array(40).fill([7, 9]),
        [3000, 5000],
      ]) {
        append(twin, sizes, lengths, random);
        most = Math.max(most, cache.length);
        // Room for twice the pages that there are, or 16, and the length.
        const list = 2 * 8 * (1 + Math.max(16, 2 * Math.ceil(most / 16)));
        expect(cache.deviceBytes).toBeGreaterThanOrEqual(copies);
        expect(cache.deviceBytes).toBeLessThanOrEqual(copies + list);
        expect(cache.bytes - cache.deviceBytes).toBeGreaterThanOrEqual(
          cache.lengths.reduce((sum, length) => sum + Math.ceil(length / 16), 0) * pageBytes(sizes),
        );
      }
      await attendedTo(cache, 2, [1, 3, 50]); // what was appended is then written, and its tensors are gone
      expect(memoryStats('cuda').bytes - before).toBe(cache.deviceBytes);
      expect(memoryStats('cpu').bytes - host).toBe(cache.bytes - cache.deviceBytes);
      cache.dispose();
      expect([memoryStats('cuda').bytes, memoryStats('cpu').bytes]).toEqual([before, host]);
    },
  );

  it('gives what a cache on the GPU gives, bit by bit, whatever is appended, truncated and forked', async () => {
    const step = fc.tuple(
      fc.constantFrom('append', 'append', 'token', 'token', 'truncate', 'fork', 'attend', 'plan', 'plan', 'drop'),
      fc.nat(),
    );
    await fc.assert(
      fc.asyncProperty(
        sizesOf,
        residentOf,
        fc.integer(),
        fc.array(step, { minLength: 4, maxLength: 20 }),
        async (sizes, resident, seed, steps) => {
          const random = uniform(seed);
          const streams = [undefined, new Stream('cuda')];
          let pairs = [emptyPair(sizes, resident)];
          const unawaited: Promise<void>[] = [];
          for (const [what, pick] of steps) {
            schedule(schedules[pick % schedules.length]!);
            const pair = pairs[pick % pairs.length]!;
            const stream = streams[pick % 2];
            const upTo = (most: number) => Math.floor(random() * (most + 1));
            const rooms = pair.plain.lengths.map((length) => CAPACITY - length);
            if (what === 'append') {
              grow(
                pair,
                sizes,
                rooms.map((room) => upTo(Math.min(60, room))),
                pick,
                stream,
              );
            } else if (what === 'token') {
              grow(
                pair,
                sizes,
                rooms.map((room) => Math.min(1, room)),
                pick,
                stream,
              );
            } else if (what === 'truncate') {
              const lengths = lengthsOf(pair.resident).map(upTo);
              truncate(pair.resident, lengths);
              pair.plain.truncate(lengths);
            } else if (what === 'fork' && pairs.length < 4) {
              const { cache, sequences } = pair.resident;
              pairs.push({ resident: { cache: cache.fork(), sequences }, plain: pair.plain.fork() });
            } else if (what === 'drop' && pairs.length > 1) {
              disposed(pair);
              pairs = pairs.filter((other) => other !== pair);
            } else if (what === 'plan') {
              const planned = expectSamePlanned(pair, sizes, random);
              if (pick % 4 > 0) await planned;
              else unawaited.push(planned);
            } else {
              await expectSame(pair, sizes, 1 + upTo(5), random, pick);
            }
          }
          await Promise.all(unawaited);
          for (const pair of pairs) {
            await expectSame(pair, sizes, 2, random, seed >>> 0, true);
            disposed(pair);
          }
          for (const stream of streams) stream?.dispose();
        },
      ),
      { numRuns: 24, seed: 24 },
    );
  });

  /** Which pages before the window of 8 tokens the GPU holds: those that it reads when the host's are NaN. */
  async function heldPages(pair: Pair): Promise<number[]> {
    const { cache } = pair.resident;
    const held: number[] = [];
    poisonPinned();
    for (let page = 0; (page + 1) * cache.pageSize <= cache.length - 8; page++) {
      const block = (page * cache.pageSize) / 8;
      const [got, want] = await Promise.all([cache, pair.plain].map((each) => attendedTo(each, 2, [block])));
      if (decode(cache.dtype, got![0] as never).some(Number.isNaN)) continue;
      expect(got).toEqual(want);
      held.push(page);
    }
    return held;
  }

  describe.runIf(interpreted)('resident.pages', () => {
    const sizes: Sizes = { batch: 1, kvHeads: 2, group: 1, headDim: 16, valueDim: 16, pageSize: 8, dtype: 'float32' };
    const LONG = { capacity: 200 };
    const token = (pair: Pair, seed: number) => grow(pair, sizes, [1], seed);
    /** A cache of 20 pages, the last of which are in the window, whose calls list the given pages one after the other. */
    async function listing(pages: number, calls: number[][], more: Partial<Sizes> = {}): Promise<Pair> {
      const own = { ...sizes, ...more };
      const pair = emptyPair(own, { window: 8, pages }, LONG);
      grow(pair, own, [160], 1);
      for (const [i, blocks] of calls.entries()) {
        await attendedTo(pair.resident.cache, 2, blocks);
        grow(pair, own, [1], 2 + i);
      }
      return pair;
    }

    it('holds what plans listed last, in place of what they listed longest ago', async () => {
      for (const [pages, calls, held] of [
        [4, [], []],
        [0, [[3, 5]], []],
        [4, [[3, 5]], [3, 5]],
        [4, [[3, 5], [9]], [3, 5, 9]],
        [3, [[3], [5], [9], [12]], [5, 9, 12]],
        [3, [[3], [5], [9], [3], [12]], [3, 9, 12]],
        [2, [[3, 5], []], [3, 5]],
        [1, [[3], [5], [3]], [3]],
        [30, [[...Array(18).keys()]], [...Array(18).keys()]],
      ] as const) {
        const pair = await listing(
          pages,
          calls.map((blocks) => [...blocks]),
        );
        expect([pages, calls, await heldPages(pair)]).toEqual([pages, calls, held]);
        disposed(pair);
      }
      for (const more of [{ storage: 'int8' }, { dtype: 'float16' }, { headDim: 5, valueDim: 3 }] as const) {
        const pair = await listing(4, [[3, 5], [9]], more);
        expect([more, await heldPages(pair)]).toEqual([more, [3, 5, 9]]);
        disposed(pair);
      }
    });

    it('keeps to the same pages where plans list more than fit', async () => {
      const listed = [2, 4, 6, 8, 10];
      const after = async (calls: number) => {
        const pair = await listing(2, new Array<number[]>(calls).fill(listed));
        const held = await heldPages(pair);
        disposed(pair);
        return held;
      };
      const once = await after(1);
      expect(once).toHaveLength(2);
      expect(await after(4)).toEqual(once);
      // Nothing is copied again.
      const pair = await listing(2, [listed]);
      const before = launches('copy_pages');
      for (let n = 0; n < 3; n++) {
        await attendedTo(pair.resident.cache, 2, listed);
        token(pair, 10 + n);
      }
      await attendedTo(pair.resident.cache, 2, listed);
      expect(launches('copy_pages') - before).toBe(0);
      disposed(pair);
    });

    it('what leaves the window stays while there is room', async () => {
      const pair = emptyPair(sizes, { window: 8, pages: 3 }, LONG);
      for (let n = 0; n < 70; n++) token(pair, n);
      expect(await heldPages(pair)).toEqual([4, 5, 6]);
      disposed(pair);
    });

    it('a call that has not ended when tokens are appended is heard of later', async () => {
      const pair = emptyPair(sizes, { window: 8, pages: 3 }, LONG);
      grow(pair, sizes, [160], 1);
      const calls = [3, 5, 9].map((page, i) => {
        const call = attendedTo(pair.resident.cache, 2, [page]);
        token(pair, 2 + i);
        return call;
      });
      await Promise.all(calls);
      token(pair, 9);
      // At least the first was noted, and whatever was is a page of one of them.
      const held = await heldPages(pair);
      expect(held.length).toBeGreaterThan(0);
      expect([3, 5, 9]).toEqual(expect.arrayContaining(held));
      disposed(pair);
    });

    it('where the GPU has no memory for more, append makes do with what is there', async () => {
      const large = { ...sizes, kvHeads: 1, group: 2, headDim: 256, valueDim: 256, pageSize: 64 }; // 128 KiB a page
      const after = async (steps: (number[] | 'fill' | 'free')[]) => {
        const pair = emptyPair(large, { window: 8, pages: 40 }, { capacity: 800 });
        grow(pair, large, [780], 1);
        const fillers: Tensor[] = [];
        for (const [i, step] of steps.entries()) {
          if (step === 'free') {
            for (const filler of fillers.splice(0)) filler.dispose();
          } else if (step === 'fill') {
            const filler = (size: number) => Tensor.empty([size], { dtype: 'uint8', device: 'cuda' });
            const spare = filler(2 ** 18); // for calls; five pages need more
            for (const size of [2 ** 20, 2 ** 16]) {
              const forever = () => {
                for (;;) fillers.push(filler(size));
              };
              expect(refused(forever)).toMatch(/^ERR_OUT_OF_MEMORY/);
            }
            spare.dispose();
          } else {
            const blocks = step.map((page) => page * 8);
            await attendedTo(pair.resident.cache, 2, blocks);
            grow(pair, large, [1], 2 + i);
          }
        }
        const held = await heldPages(pair);
        for (const filler of fillers) filler.dispose();
        disposed(pair);
        return held;
      };
      const [few, many] = [
        [1, 3],
        [0, 2, 4, 5, 6, 7, 8, 9, 10],
      ];
      const all = [...few, ...many].sort((x, y) => x - y);
      expect(await after([few, many])).toEqual(all);
      expect(await after([few, 'fill', many])).toEqual(few);
      expect(await after([few, 'fill', many, [5]])).toEqual([3, 5]);
      expect(await after([few, 'fill', many, 'free', many])).toEqual(all);
    });

    it('each sequence has its own; a fork those of its origin; what is truncated is forgotten', async () => {
      const two = { ...sizes, batch: 2 };
      const pair = emptyPair(two, { window: 8, pages: 2 }, LONG);
      grow(pair, two, [160, 160], 1);
      const { cache } = pair.resident;
      const listed = async (lists: number[][]) => {
        const shape = { queries: 1, keys: cache.length, keyBlock: 8, batch: 2, device: 'cuda' as const };
        using mask = SparsePlan.fromBlocks(lists, shape);
        using q = Tensor.randn([2, 1, 2, 16], { seed: 3, device: 'cuda' });
        await bits(attention(q, cache, { mask }));
      };
      await listed([
        [3, 5],
        [6, 7],
      ]);
      grow(pair, two, [1, 0], 2);
      await listed([[], [9, 10]]);
      grow(pair, two, [0, 1], 3);
      const fork: Pair = { resident: { ...pair.resident, cache: cache.fork() }, plain: pair.plain.fork() };
      grow(fork, two, [1, 1], 4);
      const of = async (each: Pair): Promise<number[][]> => {
        const held: number[][] = [[], []];
        poisonPinned();
        for (let page = 0; page < 19; page++) {
          const [out] = await attendedTo(each.resident.cache, 2, [page]);
          for (const [b, length] of each.plain.lengths.entries()) {
            if ((page + 1) * 8 > length - 8) continue; // in the window
            const own = (out as Float32Array).subarray(b * 32, b * 32 + 32);
            if (own.every((x) => !Number.isNaN(x))) held[b]!.push(page);
          }
        }
        return held;
      };
      expect(await of(fork)).toEqual([
        [3, 5],
        [9, 10],
      ]);
      disposed(fork);
      for (const each of [cache, pair.plain]) each.truncate([40, 160]);
      grow(pair, two, [100, 1], 5);
      expect(await of(pair)).toEqual([[3], [9, 10]]);
      disposed(pair);
    });
  });

  it.runIf(interpreted)('reads memory of the GPU alone where the mask stays within the resident part', async () => {
    const sizes: Sizes = { batch: 2, kvHeads: 2, group: 2, headDim: 24, valueDim: 16, pageSize: 8, dtype: 'float32' };
    const attended = async (cache: KvCache, left: number) =>
      bits(
        attention(Tensor.randn([2, 1, 4, 24], { seed: 3, device: 'cuda' }), cache, {
          mask: window({ left, right: 0 }),
        }),
      );
    // As tokens come one by one, all at once, after a truncation, and to a fork.
    const ways: ((pair: Pair) => Pair)[] = [
      (pair) => {
        for (let n = 0; n < 60; n++) grow(pair, sizes, [1, n % 2], n);
        return pair;
      },
      (pair) => {
        grow(pair, sizes, [110, 77], 1);
        return pair;
      },
      (pair) => {
        grow(pair, sizes, [110, 77], 1);
        for (const cache of [pair.resident.cache, pair.plain]) cache.truncate([50, 70]);
        grow(pair, sizes, [1, 1], 2);
        return pair;
      },
      (pair) => {
        grow(pair, sizes, [101, 77], 1);
        const fork = { resident: { ...pair.resident, cache: pair.resident.cache.fork() }, plain: pair.plain.fork() };
        grow(fork, sizes, [2, 1], 2);
        return fork;
      },
    ];
    for (const way of ways) {
      const { resident, plain } = way(emptyPair(sizes, { sink: 8, window: 21 }));
      const want = await attended(plain, 20);
      await attended(resident.cache, -1);
      poisonPinned();
      expect(await attended(resident.cache, 20)).toEqual(want);
      expect((await attended(resident.cache, -1))[0]).not.toEqual((await attended(plain, -1))[0]);
    }
  });

  it('a long prompt beside a short one is written once: what is resident of it is copied from its pages', async () => {
    const sizes: Sizes = { batch: 3, kvHeads: 1, group: 1, headDim: 16, valueDim: 16, pageSize: 8, dtype: 'float16' };
    for (const [lengths, copied] of [
      [[110, 110, 0], 0], // as many before each window
      [[110, 96, 110], 0], // nearly so: some are written twice
      [[110, 1, 0], 1],
      [[40, 9, 110], 1],
    ] as const) {
      const pair = emptyPair(sizes, { window: 20 });
      const before = launches('copy_pages');
      grow(pair, sizes, [...lengths], 1);
      await expectSame(pair, sizes, 3, uniform(2), 0, true);
      if (interpreted) expect([lengths, launches('copy_pages') - before]).toEqual([lengths, copied]);
      grow(pair, sizes, [1, 0, 1], 3);
      await expectSame(pair, sizes, 1, uniform(4), 2, true);
      disposed(pair);
    }
  });

  it.each([undefined, 'int8'] as const)('is saved and loaded, and selected from, storage %s', async (storage) => {
    const folder = mkdtempSync(path.join(tmpdir(), 'node-attention-'));
    const sizes: Sizes = {
      ...{ batch: 2, kvHeads: 1, group: 2, headDim: 5, valueDim: 7, pageSize: 3 },
      dtype: 'float16',
      storage,
    };
    const resident = { sink: 4, window: 10 };
    const pair = emptyPair(sizes, resident);
    grow(pair, sizes, [70, 31], 1);
    const files = ['resident', 'plain', 'again'].map((name) => path.join(folder, name)) as [string, string, string];
    await pair.resident.cache.save(files[0]);
    await pair.plain.save(files[1]);
    expect(readFileSync(files[0]).equals(readFileSync(files[1]))).toBe(true);
    const loaded = await KvCache.load(files[1], { device: 'cuda', resident });
    expect(loaded.resident).toEqual({ ...resident, pages: 0 });
    await loaded.save(files[2]);
    expect(readFileSync(files[2]).equals(readFileSync(files[1]))).toBe(true);
    const back: Pair = { resident: { cache: loaded, sequences: pair.resident.sequences }, plain: pair.plain };
    await expectSame(back, sizes, 3, uniform(2), 0, true);
    grow(back, sizes, [1, 2], 3);
    await expectSame(back, sizes, 3, uniform(4), 2, true);
    const q = Tensor.randn([2, 1, 2, 5], { seed: 1, dtype: 'float16', device: 'cuda' });
    const planned = (cache: KvCache) => attention(q, cache, { mask: pagePlan(q, cache, { budget: 16, causal: true }) });
    expect(await bits(planned(loaded))).toEqual(await bits(planned(pair.plain)));
    for (const each of [pair, back]) disposed(each);
    rmSync(folder, { recursive: true });
  });

  it('a recorded step of decoding appends and attends anew with each launch', async () => {
    const sizes: Sizes = { batch: 2, kvHeads: 2, group: 2, headDim: 16, valueDim: 16, pageSize: 4, dtype: 'float32' };
    const pair = emptyPair(sizes, { sink: 3, window: 9 }, { rope: {} });
    const make = (seed: number, heads = 2) => Tensor.randn([2, 1, heads, 16], { seed, device: 'cuda' });
    const [k, v, q] = [make(3), make(4), make(5, 4)];
    using stream = new Stream('cuda');
    const { cache } = pair.resident;
    let result: ReturnType<typeof attention> | undefined;
    using graph = stream.capture(() => {
      cache.append(k, v, { stream });
      result = attention(q, cache, { stream });
    });
    for (let n = 0; n < 30; n++) {
      pair.plain.append(k, v);
      graph.launch();
      const want = await bits(attention(q, pair.plain));
      expect([await result!.out.read(), await result!.lse.read()]).toEqual(want);
      if (n % 8 === 5) for (const each of [cache, pair.plain]) each.truncate(each.lengths.map((length) => length - 3));
    }
    disposed(pair);
  });

  it('what is no resident part is refused, and memory that runs out leaves the cache as it was', async () => {
    const base: KvCacheOptions = { batch: 1, kvHeads: 1, headDim: 64, capacity: 1 << 20, device: 'cuda' };
    const made = (more: object) => refused(() => new KvCache({ ...base, ...more }));
    expect(made({ device: 'cpu', resident: { window: 8 } })).toMatch(
      /^ERR_OPTION .*leave it out, or use device 'cuda'/,
    );
    const wrong = [{ window: 0 }, { window: 1.5 }, { sink: -1, window: 1 }, { pages: 2 }, { window: 8, keys: 2 }];
    for (const pages of [-1, 0.5, '2', 2 ** 40]) wrong.push({ window: 8, pages } as never);
    for (const resident of [{}, 8, ...wrong]) {
      expect(made({ resident })).toMatch(/^ERR_OPTION KvCache: resident/);
    }
    using cache = new KvCache({ ...base, resident: { sink: 64, window: 256 } });
    expect(cache.resident).toEqual({ sink: 64, window: 256, pages: 0 });
    const tokens = Tensor.randn([1, 9000, 1, 64], { seed: 1, device: 'cuda' });
    cache.append(tokens, tokens);
    const q = tokens.slice([0, 1], [0, 3]);
    const before = [cache.bytes, cache.deviceBytes, ...(await bits(attention(q, cache)))];
    using more = Tensor.zeros([1, 130_000, 1, 64], { device: 'cuda', dtype: 'float32' });
    if (interpreted) {
      // 64 MiB may be pinned.
      expect(refused(() => cache.append(more, more))).toMatch(/^ERR_OUT_OF_MEMORY .*pinned/);
    }
    expect(cache.length).toBe(9000);
    expect([cache.bytes, cache.deviceBytes, ...(await bits(attention(q, cache)))]).toEqual(before);
    cache.append(tokens, tokens, { lengths: [1] });
    expect(cache.length).toBe(9001);
  });
});

/** The same tokens in a cache on the CPU and in one of a GPU with a resident part. */
class Searched {
  constructor(
    readonly cpu: KvCache,
    readonly cuda: KvCache,
    readonly indexes: [cpu: KvIndex, cuda: KvIndex],
  ) {}

  static of(options: Omit<KvCacheOptions, 'device'>, resident: ResidentOptions, how: KvIndexOptions = {}): Searched {
    const [cpu, cuda] = [new KvCache(options), new KvCache({ ...options, device: 'cuda', resident })];
    const { queries, ...rest } = how;
    const index = (cache: KvCache) =>
      new KvIndex(cache, { ...rest, ...(queries && { queries: queries.to(cache.device) }) });
    return new Searched(cpu, cuda, [index(cpu), index(cuda)]);
  }

  append(k: Values, v: Values, lengths?: number[], stream?: Stream): void {
    const { dtype } = this.cpu;
    for (const [cache, on] of [
      [this.cpu, undefined],
      [this.cuda, stream],
    ] as const) {
      const [keys, values] = [k, v].map((x) => tensorOf(x, dtype, cache.device)) as [Tensor, Tensor];
      cache.append(keys, values, { ...(lengths && { lengths }), ...(on && { stream: on }) });
      keys.dispose();
      values.dispose();
    }
  }

  truncate(lengths: number[]): void {
    for (const cache of [this.cpu, this.cuda]) cache.truncate(lengths);
  }

  /** That both find the same, to the last bit: the same thread code has looked at the same keys. */
  async expectFound(q: Values, topK: number, stream?: Stream): Promise<Int32Array> {
    const [want, got] = await Promise.all(
      this.indexes.map(async (index, i) => {
        const query = tensorOf(q, this.cpu.dtype, index.cache.device);
        const { ids, scores } = index.search(query, topK, { ...(i === 1 && stream && { stream }) });
        expect(ids.device).toBe(index.cache.device);
        const read = [await ids.read(), await scores.read()];
        for (const tensor of [query, ids, scores]) tensor.dispose();
        return read;
      }),
    );
    expect(got).toEqual(want);
    return want![0] as Int32Array;
  }

  /** That both attend alike, to the last bit: without a window the same thread code does it. */
  async expectAttendedAlike(q: Values, options: Omit<RetrievalOptions, 'window'>, stream?: Stream): Promise<void> {
    const [want, got] = await Promise.all(
      this.indexes.map(async (index, i) => {
        const query = tensorOf(q, this.cpu.dtype, index.cache.device);
        const on = i === 1 && stream && { stream };
        const { out, lse, touched } = index.attend(query, { ...options, window: 0, ...on });
        query.dispose();
        return [...(await bits({ out, lse })), await touched];
      }),
    );
    expect(got).toEqual(want);
  }

  /** Of the same tokens, with indexes of its own. */
  fork(): Searched {
    const [cpu, cuda] = [this.cpu.fork(), this.cuda.fork()];
    return new Searched(cpu, cuda, [new KvIndex(cpu), new KvIndex(cuda)]);
  }

  dispose(): void {
    for (const each of [...this.indexes, this.cpu, this.cuda]) each.dispose();
  }
}

describe.skipIf(missing)(title('KvIndex over a cache with a resident part'), () => {
  it('finds what the index of a cache on the CPU finds, whatever is appended, truncated and forked', async () => {
    const step = fc.constantFrom('append', 'append', 'truncate', 'fork', 'search', 'attend');
    await fc.assert(
      fc.asyncProperty(
        sizesOf,
        residentOf,
        fc.integer(),
        fc.array(fc.tuple(step, fc.nat()), { maxLength: 8 }),
        async (sizes, resident, seed, steps) => {
          const random = uniform(seed);
          const capacity = 2500;
          let both = Searched.of({ ...optionsOf(sizes), capacity }, resident);
          const streams = [undefined, new Stream('cuda')];
          const checks: Promise<unknown>[] = [];
          for (const [step, pick] of [...steps, ['search', 0] as const]) {
            schedule(schedules[pick % schedules.length]!);
            const stream = streams[pick % 2];
            const q = normal(random, sizes.dtype, [sizes.batch, 1, sizes.kvHeads * sizes.group, sizes.headDim]);
            if (step === 'append') {
              const lengths = both.cpu.lengths.map((length) =>
                random() < 0.3 ? 0 : Math.floor(random() * Math.min(1300, capacity - length)),
              );
              both.append(...randomTokens(sizes, lengths, random), lengths, stream);
            } else if (step === 'truncate') {
              both.truncate(both.cpu.lengths.map((length) => Math.floor(random() * (length + 1))));
            } else if (step === 'fork') {
              const fork = both.fork();
              both.dispose(); // with calls that are queued
              both = fork;
            } else if (step === 'search') {
              checks.push(both.expectFound(q, 1 + (pick % 60), stream));
            } else {
              const topK = pick % 3 === 0 ? Number.POSITIVE_INFINITY : pick % 40;
              checks.push(both.expectAttendedAlike(q, { topK, sink: pick % 9 }, stream));
            }
          }
          both.dispose();
          await Promise.all(checks);
          for (const stream of streams) stream?.dispose();
        },
      ),
      { numRuns: 12, seed: 25 },
    );
  });

  it.each([{ method: 'pages', pageSize: 4 }, { method: 'clusters' }, { method: 'graph', effort: 60 }] as const)(
    '$method finds the same',
    async (how) => {
      const random = uniform(6);
      const sizes = { batch: 2, kvHeads: 2, headDim: 12, dtype: 'float16' as const, pageSize: 16 };
      const samples = tensorOf(normal(random, 'float16', [2, 200, 4, 12]), 'float16');
      const both = Searched.of(
        { ...sizes, capacity: 5000 },
        { window: 64 },
        {
          ...how,
          ...(how.method === 'graph' && { queries: samples }),
        },
      );
      for (const lengths of [
        [2600, 900],
        [1, 1],
        [1200, 1500],
      ]) {
        both.append(...randomTokens({ ...sizes, valueDim: 12 }, lengths, random), lengths);
        await both.expectFound(normal(random, 'float16', [2, 1, 4, 12]), 20);
      }
      both.dispose();
    },
  );

  /** attend() against the oracle over the keys that are to be seen, by the ids that were found. */
  async function expectAttended(both: Searched, k: Values, v: Values, options: RetrievalOptions, seed: number) {
    const { batch, kvHeads, headDim, dtype } = both.cuda;
    const heads = 2 * kvHeads;
    const q = normal(uniform(seed), dtype, [batch, 1, heads, headDim]);
    const [result, onCpu] = [...both.indexes]
      .reverse()
      .map((index) => index.attend(tensorOf(q, dtype, index.cache.device), options));
    const { out, lse } = result!;
    expect([out.device, lse.device]).toEqual(['cuda:0', 'cuda:0']);
    expect(await result!.touched).toBe(await onCpu!.touched);
    const [got, gotLse] = [decode(dtype, await out.read()), decode('float32', await lse.read())];
    const columns = v.shape[3]!;
    const { sink = 4, window: last = 64 } = options;
    both.cuda.lengths.forEach((length, b) => {
      for (let head = 0; head < heads; head++) {
        const kvHead = head >> 1;
        const topK = typeof options.topK === 'number' ? options.topK : options.topK[kvHead]!;
        const { scores } = scoresOf(q, k, b, head, length);
        const others = Array.from({ length }, (_, key) => key).filter((key) => key >= sink && key < length - last);
        const best = others.sort((x, y) => scores[y]! - scores[x]!).slice(0, topK);
        const seen = [
          ...Array.from({ length }, (_, key) => key).filter((key) => key < sink || key >= length - last),
          ...best,
        ];
        const rows = ({ data, shape }: Values): Values => {
          const width = shape[3]!;
          const at = (key: number) => ((b * shape[1]! + key) * kvHeads + kvHead) * width;
          const kept = Float64Array.from(seen.flatMap((key) => [...data.subarray(at(key), at(key) + width)]));
          return { shape: [1, seen.length, 1, width], data: kept };
        };
        const at = (b * heads + head) * headDim;
        const one: Values = { shape: [1, 1, 1, headDim], data: q.data.slice(at, at + headDim) };
        const want = expectedOn('cuda', { q: one, k: rows(k), v: rows(v) }, dtype);
        // Parts are rounded to the type before they are merged, and so is the result.
        const half = roundoff(dtype);
        want.tolerance.out += 4 * half * v.data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
        const row = (b * heads + head) * columns;
        expectResult(
          { out: got.slice(row, row + columns), lse: gotLse.slice(b * heads + head, b * heads + head + 1) },
          want,
        );
      }
    });
    for (const each of [result!, onCpu!]) for (const tensor of [each.out, each.lse]) tensor.dispose();
  }

  it.each<Pick<Sizes, 'dtype' | 'storage'>>([
    ...FLOATS.map((dtype) => ({ dtype })),
    { dtype: 'float32', storage: 'int8' },
  ])(
    '$dtype as $storage: attends to the first, the last and the best of the others; all of them are all keys',
    async (stored) => {
      const { dtype } = stored;
      const random = uniform(8);
      const lengths = [1500, 70];
      const both = Searched.of(
        { batch: 2, kvHeads: 2, headDim: 16, valueDim: 9, capacity: 1500, pageSize: 48, ...stored },
        { sink: 4, window: 64 },
      );
      const [k, v] = [16, 9].map((columns) => normal(random, dtype, [2, 1500, 2, columns])) as [Values, Values];
      both.append(k, v, lengths);
      for (const [i, options] of [
        { topK: 10 },
        { topK: 40, sink: 0, window: 0 },
        { topK: 3, sink: 200, window: 300 },
        { topK: [Number.POSITIVE_INFINITY, 5] },
        { topK: [0, 20] },
        { topK: 1500 },
        { topK: Number.POSITIVE_INFINITY, window: 0, sink: 0 },
      ].entries()) {
        schedule(schedules[i % schedules.length]!);
        await expectAttended(both, heldOf(stored, k), heldOf(stored, v), options, i);
      }
      both.dispose();
    },
  );

  it('attends to what there is of sequences that are empty, or shorter than the window', async () => {
    const random = uniform(14);
    const lengths = [0, 30, 66];
    const both = Searched.of({ batch: 3, kvHeads: 1, headDim: 16, capacity: 100 }, { window: 8 });
    const [k, v] = [0, 1].map(() => normal(random, 'float32', [3, 66, 1, 16])) as [Values, Values];
    both.append(k, v, lengths);
    for (const [i, options] of [{ topK: 10 }, { topK: 200 }, { topK: 1, sink: 0, window: 65 }].entries()) {
      await expectAttended(both, k, v, options, i);
    }
    both.dispose();
  });

  it('estimates as an index of a cache on the CPU does', async () => {
    const random = uniform(9);
    const both = Searched.of(
      { batch: 1, kvHeads: 2, headDim: 16, capacity: 3000 },
      { window: 64 },
      { method: 'clusters' },
    );
    const [k, v] = [0, 1].map(() => normal(random, 'float32', [1, 2500, 2, 16])) as [Values, Values];
    both.append(k, v);
    const q = normal(random, 'float32', [1, 1, 4, 16]);
    const [want, got] = await Promise.all(
      both.indexes.map(async (index) => {
        const { out, lse } = index.attend(tensorOf(q, 'float32', index.cache.device), { topK: 20, estimate: true });
        return { out: decode('float32', await out.read()), lse: decode('float32', await lse.read()) };
      }),
    );
    // Nothing but the window is not the same bits: it lies as far from the CPU's as from the exact one.
    const { tolerance } = expectedOn(
      'cuda',
      { q, k: rowsOf(k, 0, 2436, 2500), v: rowsOf(v, 0, 2436, 2500) },
      'float32',
    );
    for (const name of ['out', 'lse'] as const) {
      // Both merges round once more, by less than 2^-22 of numbers below 8.
      const bound = 2 * tolerance[name] + 2 ** -18;
      got![name].forEach((x, i) => void expect(Math.abs(x - want![name][i]!)).toBeLessThanOrEqual(bound));
    }
    both.dispose();
  });

  it('rotates queries, and finds a needle anywhere', async () => {
    const [length, D] = [4000, 32];
    const random = uniform(10);
    const size = { batch: 1, kvHeads: 1, headDim: D, capacity: length + 1, dtype: 'bfloat16' as const };
    for (const place of [0, 1023, 1024, 2777, length - 1]) {
      using cache = new KvCache({ ...size, device: 'cuda', resident: { sink: 4, window: 128 } });
      const k = normal(random, 'bfloat16', [1, length, 1, D]);
      for (let d = 0; d < D; d++) k.data[place * D + d]! *= 4;
      const needle = k.data.slice(place * D, (place + 1) * D);
      const keys = tensorOf(k, 'bfloat16', 'cuda');
      cache.append(keys, keys);
      using index = new KvIndex(cache);
      const q = tensorOf({ shape: [1, 1, 1, D], data: needle }, 'bfloat16', 'cuda');
      expect((await index.search(q, 1).ids.read())[0]).toBe(place);
    }
    using cache = new KvCache({
      batch: 1,
      kvHeads: 1,
      headDim: 4,
      capacity: 100,
      rope: { theta: 100 },
      device: 'cuda',
      resident: { window: 10 },
    });
    using index = new KvIndex(cache);
    const q = Tensor.from(Float32Array.of(1, 2, 3, 4), [1, 1, 1, 4], { device: 'cuda' });
    const nothing = index.attend(q, { topK: 3 });
    expect([...(await nothing.out.read())]).toEqual([0, 0, 0, 0]);
    expect(await nothing.touched).toBe(0);
    const tokens = tensorOf(normal(uniform(1), 'float32', [1, 90, 1, 4]), 'float32', 'cuda');
    cache.append(tokens, tokens);
    const [want, got] = [
      await attention(q, cache).out.read(),
      await index.attend(q, { topK: 90, window: 10 }).out.read(),
    ];
    // float32 against three products of TF32: scores below 32 are off by less than 2^-14.
    for (let d = 0; d < 4; d++) expect(Math.abs(Number(got[d]) - Number(want[d]))).toBeLessThan(2 ** -11);
  });

  it('calls follow each other by what they read and write, however many are queued', async () => {
    const sizes = { batch: 1, kvHeads: 2, headDim: 8, valueDim: 8, dtype: 'float32' as const };
    const random = uniform(12);
    for (const each of schedules.slice(0, 4)) {
      schedule(each);
      const both = Searched.of({ ...sizes, capacity: 2000, pageSize: 16 }, { sink: 4, window: 32 });
      const streams = [undefined, new Stream('cuda'), new Stream('cuda')];
      const results: Promise<unknown[]>[][] = [[], []];
      for (let n = 0; n < 40; n++) {
        const stream = streams[n % 3];
        const lengths = [n === 0 ? 1020 : 1];
        both.append(...randomTokens(sizes, lengths, random), lengths, stream);
        if (n % 10 === 9) both.truncate([both.cpu.length - 4]);
        const q = normal(random, 'float32', [1, 1, 4, 8]);
        both.indexes.forEach((index, i) => {
          const query = tensorOf(q, 'float32', index.cache.device);
          const { ids, scores } = index.search(query, 12, { ...(i === 1 && stream && { stream }) });
          results[i]!.push(Promise.all([ids.read(), scores.read()]));
          query.dispose();
        });
      }
      both.dispose(); // with all of it queued
      expect(await Promise.all(results[1]!)).toEqual(await Promise.all(results[0]!));
      for (const stream of streams) stream?.dispose();
    }
  });

  it.runIf(interpreted)('the GPU attends to the window while the CPU searches, and nobody waits for them', async () => {
    const random = uniform(13);
    const cache = new KvCache({
      batch: 1,
      kvHeads: 1,
      headDim: 64,
      capacity: 6000,
      device: 'cuda',
      resident: { window: 64 },
    });
    const [k, samples, query] = [
      [1, 6000, 1, 64],
      [1, 3000, 1, 64],
      [1, 1, 1, 64],
    ].map((shape) => tensorOf(normal(random, 'float32', shape), 'float32', 'cuda')) as [Tensor, Tensor, Tensor];
    cache.append(k, k);
    // The first call makes the graph, which takes the CPU far longer than the GPU needs for 64 keys.
    const index = new KvIndex(cache, { method: 'graph', queries: samples });
    await attention(query, cache, { mask: window({ left: 63, right: 0 }) }).out.read();
    const before = launches('attention');
    const begun = performance.now();
    const since = () => performance.now() - begun;
    const { out, touched } = index.attend(query, { topK: 50, window: 64 });
    const [called, searched] = [since(), touched.then(since)];
    while (launches('attention') === before) await new Promise((resolve) => setTimeout(resolve, 1));
    const attended = since();
    await out.read();
    expect(called).toBeLessThan((await searched) / 2);
    expect(attended).toBeLessThan((await searched) / 2);
    index.dispose();
    cache.dispose();
  });

  it('says what it does not take, before anything is enqueued', async () => {
    const base = { batch: 1, kvHeads: 1, headDim: 8, capacity: 100, device: 'cuda' as const };
    using plain = new KvCache(base);
    expect(refused(() => new KvIndex(plain))).toMatch(/^ERR_OPTION KvIndex: .*resident: { window }/);
    using cache = new KvCache({ ...base, resident: { window: 8 } });
    const tokens = Tensor.randn([1, 30, 1, 8], { seed: 1, device: 'cuda' });
    cache.append(tokens, tokens);
    using index = new KvIndex(cache);
    const q = tokens.slice([0, 1], [0, 1]);
    const onCpu = q.to('cpu');
    using stream = new Stream('cuda');
    const [cpuStream, before] = [new Stream('cpu'), memoryStats('cuda').live];
    const cases: [string, () => unknown][] = [
      ['ERR_DEVICE', () => index.search(onCpu, 3)],
      ['ERR_DEVICE', () => index.attend(onCpu, { topK: 3 })],
      ['ERR_DEVICE', () => index.search(q, 3, { stream: cpuStream })],
      ['ERR_DEVICE', () => index.attend(q, { topK: 3, stream: cpuStream })],
      ['ERR_DEVICE', () => new KvIndex(cache, { method: 'graph', queries: onCpu })],
      ['ERR_SHAPE', () => index.search(tokens, 3)],
      ['ERR_DTYPE', () => index.search(q.to('float16'), 3)],
      ['ERR_OPTION', () => index.search(q, 0)],
      ['ERR_OPTION', () => index.attend(q, { topK: [1, 2] })],
      ['ERR_OPTION', () => index.attend(q, { topK: 1, estimate: true })],
      ['ERR_OPTION', () => stream.capture(() => void index.search(q, 3, { stream }))],
      ['ERR_OPTION', () => stream.capture(() => void index.attend(q, { topK: 3, stream }))],
    ];
    for (const [wanted, run] of cases) expect([wanted, code(run)]).toEqual([wanted, wanted]);
    expect(memoryStats('cuda').live).toBeLessThanOrEqual(before + 1); // q as float16
    expect([...(await index.search(q, 30).ids.read())].map(Number).sort((a, b) => a - b)).toEqual([
      ...Array(30).keys(),
    ]);
  });
});
