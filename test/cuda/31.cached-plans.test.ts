// Sparse plans over a KvCache on a CUDA device, against the oracle and against the same over tensors.
import './support/device'; // before node-attention
import fc from 'fast-check';
import { attention, causal, KvCache, keyBias, SparsePlan, Stream, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { checkAttention } from '../support/cached';
import { tensorOf } from '../support/library';
import { type Float, normal, uniform } from '../support/numbers';
import { randomPlan } from '../support/plans';
import { append, emptyTwin, lengthsOf, rowsOf, type Sizes, type Twin, truncate } from '../support/twin';
import { missing, schedule, schedules, title } from './support/device';

const TYPES: Float[] = ['float32', 'float16', 'bfloat16'];

let turn = 0;
const next = () => schedule(schedules[turn++ % schedules.length]!);

const sizesOf = fc.record({
  batch: fc.integer({ min: 1, max: 3 }),
  kvHeads: fc.integer({ min: 1, max: 3 }),
  group: fc.integer({ min: 1, max: 3 }),
  headDim: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(64, 128, 136, 256)),
  valueDim: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(64, 128)),
  pageSize: fc.constantFrom(1, 3, 16, 64, 300),
  dtype: fc.constantFrom(...TYPES),
});

const CAPACITY = 300;

describe.skipIf(missing)(title('attention over a cache and a plan'), () => {
  it('is that of the oracle, whatever was appended, truncated and forked', async () => {
    const step = fc.tuple(fc.constantFrom('append', 'token', 'truncate', 'fork', 'attend', 'attend'), fc.nat());
    await fc.assert(
      fc.asyncProperty(
        sizesOf,
        fc.integer(),
        fc.array(step, { minLength: 4, maxLength: 10 }),
        async (sizes, seed, steps) => {
          const random = uniform(seed);
          const upTo = (most: number) => Math.floor(random() * (most + 1));
          const pickOf = <T>(of: readonly T[]): T => of[upTo(of.length - 1)]!;
          const streams = [undefined, new Stream('cuda')];
          const twins = [emptyTwin(sizes, CAPACITY, 'cuda')];
          const attend = async (twin: Twin, stream?: Stream) => {
            next();
            const longest = Math.max(...lengthsOf(twin));
            if (longest === 0) return;
            const queries = pickOf([1, 1, 3, 20]);
            const heads = sizes.kvHeads * sizes.group;
            const q = normal(random, sizes.dtype, [sizes.batch, queries, heads, sizes.headDim]);
            const geometry = {
              batch: pickOf([1, sizes.batch]),
              heads: pickOf([1, sizes.kvHeads, heads]),
              queries,
              keys: longest,
              queryTile: pickOf([16, 64]),
              keyBlock: pickOf([2, 8, 32, 128]),
              causal: pickOf([true, false]),
            };
            const spec = randomPlan(upTo(1e6), geometry, pickOf([0.1, 0.5, 1]), upTo(2) === 0);
            const band = upTo(2) ? undefined : { left: upTo(100), right: 0 };
            await checkAttention(twin, q, sizes.dtype, spec, band, stream);
          };
          for (const [what, pick] of [['append', 0] as const, ...steps]) {
            const twin = twins[pick % twins.length]!;
            const lengths = lengthsOf(twin);
            const stream = streams[pick % 2];
            if (what === 'append') {
              const more = lengths.map((length) => upTo(Math.min(120, CAPACITY - length)));
              append(twin, sizes, more, random, stream);
            } else if (what === 'token') {
              append(
                twin,
                sizes,
                lengths.map((length) => Math.min(1, CAPACITY - length)),
                random,
                stream,
              );
            } else if (what === 'truncate') {
              truncate(twin, lengths.map(upTo));
            } else if (what === 'fork' && twins.length < 3) {
              twins.push({ cache: twin.cache.fork(), sequences: twin.sequences });
            } else {
              await attend(twin, stream);
            }
          }
          for (const twin of twins) {
            await attend(twin);
            twin.cache.dispose();
          }
          for (const stream of streams) stream?.dispose();
        },
      ),
      { numRuns: 10, seed: 31 },
    );
  });

  it.each(TYPES)('%s: every kernel, aligned or not, many and few queries, holes', async (dtype) => {
    const random = uniform(3);
    for (const [headDim, pageSize] of [
      [64, 16],
      [61, 5],
      [128, 7],
      [126, 300],
      [256, 32],
    ] as const) {
      const sizes: Sizes = { batch: 3, kvHeads: 2, group: 2, headDim, valueDim: headDim - 2, pageSize, dtype };
      const twin = emptyTwin(sizes, 300, 'cuda');
      append(twin, sizes, [141, 0, 67], random);
      for (const queries of [1, 37]) {
        next();
        const q = normal(random, dtype, [3, queries, 4, headDim]);
        const geometry = { batch: 1, heads: 2, queries, keys: 141, queryTile: 32, keyBlock: 16, causal: true };
        await checkAttention(twin, q, dtype, randomPlan(headDim + queries, geometry, 0.6, queries > 1));
      }
      twin.cache.dispose();
    }
  });

  it('sees nothing of what was truncated, nor of the rest of a page, even NaN', async () => {
    const random = uniform(5);
    for (const dtype of TYPES) {
      const sizes: Sizes = { batch: 2, kvHeads: 1, group: 2, headDim: 16, valueDim: 16, pageSize: 48, dtype };
      const twin = emptyTwin(sizes, 300, 'cuda');
      append(twin, sizes, [100, 41], random);
      const poison = Tensor.from(new Float32Array(2 * 90 * 16).fill(Number.NaN), [2, 90, 1, 16], {
        dtype,
        device: 'cuda',
      });
      twin.cache.append(poison, poison);
      twin.cache.truncate([100, 41]);
      for (const isCausal of [true, false]) {
        next();
        const geometry = { batch: 1, heads: 1, queries: 5, keys: 100, queryTile: 16, keyBlock: 32, causal: isCausal };
        const q = normal(random, dtype, [2, 5, 2, 16]);
        await checkAttention(twin, q, dtype, randomPlan(1, geometry, 1));
      }
      twin.cache.dispose();
    }
  });

  it('is the same bit for bit as over tensors: parts, sinks, extra keys, biases and caps', async () => {
    const random = uniform(7);
    for (const dtype of TYPES) {
      const sizes: Sizes = { batch: 1, kvHeads: 2, group: 2, headDim: 24, valueDim: 16, pageSize: 48, dtype };
      const twin = emptyTwin(sizes, 2000, 'cuda');
      append(twin, sizes, [1500], random);
      const on = (values: ReturnType<typeof normal>, type = dtype) => tensorOf(values, type, 'cuda');
      const { k, v } = twin.sequences[0]!;
      const [kd, vd] = [on(rowsOf(k, 0, 0, 1500)), on(rowsOf(v, 0, 0, 1500))];
      const extra = { k: on(normal(random, dtype, [1, 9, 2, 24])), v: on(normal(random, dtype, [1, 9, 2, 16])) };
      const sinks = on(normal(random, 'float32', [4]), 'float32');
      const bias = keyBias(on(normal(random, 'float32', [1500]), 'float32'));
      for (const queries of [1, 20]) {
        const q = on(normal(random, dtype, [1, queries, 4, 24]));
        const blocks = Array.from({ length: 94 }, (_, i) => i).filter((i) => i % 3 > 0);
        const geometry = { queries, keys: 1500, queryTile: 64, keyBlock: 16, causal: true, device: 'cuda' } as const;
        using plan = SparsePlan.fromBlocks([blocks], geometry);
        for (const more of [{}, { sinks, extra }, { bias, softcap: 3, scale: -0.2 }, { mask: [plan, causal()] }]) {
          next();
          const results = [
            attention(q, twin.cache, { mask: plan, ...more }),
            attention(q, kd, vd, { mask: plan, ...more }),
          ];
          const [a, b] = await Promise.all(results.map(async ({ out, lse }) => [await out.read(), await lse.read()]));
          expect(a).toEqual(b);
        }
      }
      twin.cache.dispose();
    }
  });

  it('follows what a graph has appended', async () => {
    const size = { batch: 2, kvHeads: 1, headDim: 16, pageSize: 4, capacity: 60, device: 'cuda' } as const;
    const make = (seed: number, n: number) => Tensor.randn([2, n, 1, 16], { seed, device: 'cuda' });
    const [plain, cache] = [new KvCache(size), new KvCache(size)];
    for (const each of [plain, cache]) each.append(make(1, 30), make(2, 30), { lengths: [30, 17] });
    const [k, v, q] = [make(3, 1), make(4, 1), make(5, 1)];
    using stream = new Stream('cuda');
    using graph = stream.capture(() => cache.append(k, v, { stream }));
    for (let step = 0; step < 6; step++) {
      next();
      plain.append(k, v);
      graph.launch();
      const keys = plain.length;
      using plan = SparsePlan.fromBlocks([[0, Math.floor((keys - 1) / 8)]], {
        ...{ queries: 1, keys, keyBlock: 8, causal: true, device: 'cuda' },
      });
      const [a, b] = [plain, cache].map((of) => attention(q, of, { mask: plan }));
      expect(await b!.out.read()).toEqual(await a!.out.read());
      expect(await b!.lse.read()).toEqual(await a!.lse.read());
    }
    for (const each of [plain, cache]) each.dispose();
  });
});
