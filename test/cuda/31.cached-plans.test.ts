// Sparse plans and selectors over a KvCache on a CUDA device: against the oracle, against the same over tensors, and against
// a cache on the CPU.
import './support/device'; // before node-attention
import fc from 'fast-check';
import {
  attention,
  causal,
  HipState,
  hipPlan,
  KvCache,
  keyBias,
  pagePlan,
  pooledPlan,
  SparsePlan,
  Stream,
  Tensor,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { checkAttention, checkSelection, makes, makeWithLevels } from '../support/cached';
import { tensorOf } from '../support/library';
import { type Float, normal, uniform, type Values } from '../support/numbers';
import { randomPlan } from '../support/plans';
import { append, emptyTwin, lengthsOf, rowsOf, type Sizes, type Twin } from '../support/twin';
import { missing, schedule, schedules, title } from './support/device';
import { checkKept } from './support/overwrite';
import { drawQueries, walkCaches } from './support/walked-caches';

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
  storage: fc.constantFrom(undefined, 'int8' as const),
});

describe.skipIf(missing)(title('attention over a cache and a plan'), () => {
  it('is that of the oracle, whatever was appended, truncated and forked', async () => {
    const walk = { sizes: sizesOf, capacity: 300, most: 120, steps: [4, 10], numRuns: 10, seed: 31 } as const;
    await walkCaches(walk, async (visit) => {
      next();
      const { twin, sizes, stream, upTo, pickOf } = visit;
      const { q, geometry } = drawQueries(visit, [2, 8, 32, 128]);
      const spec = randomPlan(upTo(1e6), geometry, pickOf([0.1, 0.5, 1]), upTo(2) === 0);
      const band = upTo(2) ? undefined : { left: upTo(100), right: 0 };
      await checkAttention(twin, q, sizes.dtype, spec, band, stream);
    });
  });

  it.each(TYPES.flatMap((dtype) => [undefined, 'int8' as const].map((storage) => ({ dtype, storage }))))(
    '$dtype as $storage: every kernel, aligned or not, many and few queries, holes',
    async (stored) => {
      const { dtype } = stored;
      const random = uniform(3);
      for (const [headDim, pageSize] of [
        [64, 16],
        [61, 5],
        [128, 7],
        [126, 300],
        [256, 32],
      ] as const) {
        const sizes: Sizes = { batch: 3, kvHeads: 2, group: 2, headDim, valueDim: headDim - 2, pageSize, ...stored };
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
    },
  );

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
      append(twin, sizes, [760], random);
      const on = (values: ReturnType<typeof normal>, type = dtype) => tensorOf(values, type, 'cuda');
      const { k, v } = twin.sequences[0]!;
      const [kd, vd] = [on(rowsOf(k, 0, 0, 760)), on(rowsOf(v, 0, 0, 760))];
      const extra = { k: on(normal(random, dtype, [1, 9, 2, 24])), v: on(normal(random, dtype, [1, 9, 2, 16])) };
      const sinks = on(normal(random, 'float32', [4]), 'float32');
      const bias = keyBias(on(normal(random, 'float32', [760]), 'float32'));
      for (const queries of [1, 20]) {
        const q = on(normal(random, dtype, [1, queries, 4, 24]));
        const blocks = Array.from({ length: 48 }, (_, i) => i).filter((i) => i % 3 > 0);
        const geometry = { queries, keys: 760, queryTile: 64, keyBlock: 16, causal: true, device: 'cuda' } as const;
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

/** Integers from -4 to 4, whose products are exact on either device. */
function integers(random: () => number, shape: number[]): Values {
  const data = new Float64Array(shape.reduce((a, b) => a * b, 1));
  return { shape, data: data.map(() => Math.floor(random() * 9) - 4) };
}

async function shown(plan: SparsePlan): Promise<Uint8Array> {
  await plan.validate();
  using dense = plan.toDense();
  return (await dense.read()) as Uint8Array;
}

/** Caches on both devices with the same integers, and how to append more. */
function pair(dtype: Float, seed: number) {
  const random = uniform(seed);
  const size = { batch: 2, kvHeads: 2, headDim: 20, pageSize: 24, capacity: 2000, dtype };
  const caches = (['cpu', 'cuda'] as const).map((device) => new KvCache({ ...size, device }));
  return {
    caches,
    append(lengths: number[]) {
      const values = integers(random, [2, Math.max(...lengths), 2, 20]);
      for (const cache of caches) {
        using tokens = tensorOf(values, dtype, cache.device);
        cache.append(tokens, tokens, { lengths });
      }
    },
    /** Throws unless both make the same plan of random queries. */
    async compare(queries: number, make: (q: Tensor, cache: KvCache) => SparsePlan) {
      next();
      const values = integers(random, [2, queries, 4, 20]);
      const plans = caches.map((cache) => {
        using q = tensorOf(values, dtype, cache.device);
        return make(q, cache);
      });
      expect(plans[1]!.device).toBe('cuda:0');
      const [want, got] = [await shown(plans[0]!), await shown(plans[1]!)];
      expect(Buffer.compare(got, want)).toBe(0);
      for (const plan of plans) plan.dispose();
    },
  };
}

describe.skipIf(missing)(title('selectors over a cache'), () => {
  describe.each([...makes, makeWithLevels])('%s', (name, make) => {
    it('plan what they plan for tensors, whatever was appended, truncated and forked', async () => {
      const sizes = sizesOf.filter(({ kvHeads, group, headDim }) => kvHeads * group * headDim < 300);
      const walk = { sizes, capacity: 400, most: 400, steps: [3, 5], numRuns: 4, seed: name.length } as const;
      await walkCaches(walk, async ({ twin, sizes, stream, random, upTo, pickOf }) => {
        next();
        const heads = sizes.kvHeads * sizes.group;
        const q = normal(random, sizes.dtype, [sizes.batch, pickOf([1, 1, 5, 18]), heads, sizes.headDim]);
        const options = {
          budget: upTo(200),
          keyBlock: pickOf([2, 8, 16, 64]),
          causal: pickOf([true, true, false]),
          always: { sink: upTo(20), window: upTo(40) },
          share: pickOf(['group', 'all', 'none'] as const),
          queryTile: 16,
          stream,
        };
        (await checkSelection(twin, q, sizes.dtype, make, options)).dispose();
      });
    });

    it('plan what the CPU plans', async () => {
      for (const dtype of TYPES) {
        const both = pair(dtype, 3);
        // Means of keys are exact in blocks that are full, or of a power of two.
        for (const lengths of [
          [272, 64],
          [16, 208],
        ]) {
          both.append(lengths);
          for (const count of [1, 16]) {
            for (const causal of [true, false]) {
              const options = { budget: 64, keyBlock: 16, causal, always: { sink: 10, window: 20 }, queryTile: 16 };
              await both.compare(count, (q, cache) => make(q, cache, options));
            }
          }
        }
        for (const cache of both.caches) cache.dispose();
      }
    });

    it('see nothing of what was truncated, nor of the rest of a page', async () => {
      const random = uniform(9);
      const sizes: Sizes = {
        ...{ batch: 2, kvHeads: 1, group: 2, headDim: 16, valueDim: 16, pageSize: 48 },
        dtype: 'bfloat16',
      };
      const twin = emptyTwin(sizes, 600, 'cuda');
      append(twin, sizes, [300, 170], random);
      // Extremes pass over NaN, and would show the others.
      for (const bad of [Number.NaN, 1e4, -1e4]) {
        const poison = Tensor.from(new Float32Array(2 * 200 * 16).fill(bad), [2, 200, 1, 16], {
          dtype: sizes.dtype,
          device: 'cuda',
        });
        twin.cache.append(poison, poison);
        twin.cache.truncate([300, 170]);
        next();
        const q = normal(random, sizes.dtype, [2, 3, 2, 16]);
        const options = { budget: 64, causal: true, always: { sink: 10, window: 20 } };
        (await checkSelection(twin, q, sizes.dtype, make, options)).dispose();
      }
      twin.cache.dispose();
    });

    it('turn queries as keys were turned when they were appended', async () => {
      const random = uniform(10);
      const [k, q] = [normal(random, 'float32', [1, 300, 2, 16]), normal(random, 'float32', [1, 5, 4, 16])];
      const plans = [];
      for (const rope of [{}, undefined]) {
        for (const device of ['cpu', 'cuda'] as const) {
          next();
          using cache = new KvCache({
            batch: 1,
            kvHeads: 2,
            headDim: 16,
            capacity: 300,
            device,
            ...(rope && { rope }),
          });
          using tokens = tensorOf(k, 'float32', device);
          cache.append(tokens, tokens);
          using queries = tensorOf(q, 'float32', device);
          using plan = make(queries, cache, { budget: 48, keyBlock: 8, causal: true, always: { sink: 0, window: 8 } });
          using there = plan.to('cpu');
          plans.push(await shown(there));
        }
      }
      expect(plans[1]).toEqual(plans[0]);
      expect(plans[2]).not.toEqual(plans[0]);
    });
  });

  it('and what they plan is attended over, step by step, also after a graph has appended', async () => {
    const both = pair('float32', 5);
    both.append([200, 90]);
    const [here, there] = both.caches as [KvCache, KvCache];
    const tokens = integers(uniform(6), [2, 1, 2, 20]);
    const [own, its] = [tensorOf(tokens), tensorOf(tokens, 'float32', 'cuda')];
    using stream = new Stream('cuda');
    using graph = stream.capture(() => there.append(its, its, { stream }));
    for (let step = 0; step < 3; step++) {
      graph.launch();
      here.append(own, own);
      const options = { budget: 32, keyBlock: 8, causal: true, always: { sink: 4, window: 8 } };
      await both.compare(1, (q, cache) => hipPlan(q, cache, options));
      const values = integers(uniform(step), [2, 1, 4, 20]);
      const [a, b] = await Promise.all(
        [here, there].map(async (cache) => {
          using q = tensorOf(values, 'float32', cache.device);
          const { out, lse } = attention(q, cache, { mask: hipPlan(q, cache, options) });
          return [...(await out.read()), ...(await lse.read())].map(Number);
        }),
      );
      b!.forEach((x, i) => {
        expect(Math.abs(x - a![i]!)).toBeLessThan(1e-4);
      });
    }
    for (const cache of both.caches) cache.dispose();
  });

  it('with a HipState search and refresh as on the CPU', async () => {
    const both = pair('float16', 7);
    both.append([700, 400]);
    using here = new HipState({ refresh: [4, 2, 1] });
    using there = new HipState({ refresh: [4, 2, 1] });
    const options = { budget: 64, causal: true, always: { sink: 16, window: 32 } };
    for (let step = 0; step < 6; step++) {
      both.append(step === 3 ? [1, 40] : [1, 1]);
      await both.compare(1, (q, cache) =>
        hipPlan(q, cache, { ...options, state: cache.device === 'cpu' ? here : there }),
      );
    }
    for (const cache of both.caches) cache.truncate([500, 300]);
    await both.compare(1, (q, cache) =>
      hipPlan(q, cache, { ...options, state: cache.device === 'cpu' ? here : there }),
    );
    for (const cache of both.caches) cache.dispose();
  });
});

describe.skipIf(missing)(title('what a cache keeps of its keys'), () => {
  const pooling = makes.filter(([name]) => !name.startsWith('hipPlan'));

  it.each(pooling.map(([name, make], i) => [name, TYPES[i % TYPES.length]!, make] as const))(
    '%s, %s: only what is new is pooled',
    async (_, dtype, make) => {
      const random = uniform(11);
      const sizes: Sizes = { batch: 2, kvHeads: 1, group: 2, headDim: 6, valueDim: 1, pageSize: 24, dtype };
      const check = async (of: Twin, keyBlock: number) => {
        next();
        const q = normal(random, dtype, [2, 2, 2, 6]);
        const options = { budget: 96, keyBlock, causal: true, always: { sink: 0, window: 8 }, queryTile: 16 };
        (await checkSelection(of, q, dtype, make, options)).dispose();
      };
      await checkKept(sizes, random, check, / row |other keys/);
    },
  );

  it('is counted, with the list of it, and shared by forks', () => {
    const size = { batch: 1, kvHeads: 2, headDim: 16, capacity: 4096, dtype: 'float16', device: 'cuda' } as const;
    using cache = new KvCache(size);
    const tokens = Tensor.randn([1, 2000, 2, 16], { seed: 1, dtype: 'float16', device: 'cuda' });
    const q = Tensor.randn([1, 1, 4, 16], { seed: 2, dtype: 'float16', device: 'cuda' });
    const select = (of: KvCache, make: typeof pagePlan | typeof pooledPlan) => {
      next();
      make(q, of, { budget: 100, causal: true }).dispose();
    };
    cache.append(tokens, tokens);
    const pages = cache.bytes;
    // A pool of few bytes has all segments that the cache may have; a list tells of 16, and of how many there are.
    const [bounds, means, list] = [16 * (16 * 2 * 32 * 2), 16 * (4 * 2 * 16 * 4), 17 * 8];
    select(cache, pagePlan);
    expect(cache.bytes - pages).toBe(bounds + list);
    select(cache, pooledPlan);
    const both = cache.bytes;
    expect(both - pages).toBe(bounds + means + 2 * list);
    select(cache, pagePlan);
    expect(cache.bytes).toBe(both);
    using fork = cache.fork();
    for (const make of [pagePlan, pooledPlan]) select(fork, make);
    expect(fork.bytes).toBe(both);
    expect(cache.bytes).toBe(both);
  });

  it('is of more sequences than a launch takes', async () => {
    const random = uniform(13);
    const shape = { batch: 67, kvHeads: 1, headDim: 3, valueDim: 1 };
    const sizes: Sizes = { ...shape, group: 1, pageSize: 16, dtype: 'float32' };
    const twin = emptyTwin(sizes, 20, 'cuda');
    append(
      twin,
      sizes,
      Array.from({ length: 67 }, (_, b) => (b > 61 ? b - 54 : 1)),
      random,
    );
    next();
    const values = normal(random, 'float32', [67, 1, 1, 3]);
    using q = tensorOf(values, 'float32', 'cuda');
    const options = { budget: 4, keyBlock: 2, causal: true, always: { sink: 0, window: 1 } };
    using plan = pagePlan(q, twin.cache, options);
    const all = await shown(plan);
    for (let b = 62; b < 67; b++) {
      using one = tensorOf(rowsOf(values, b, 0, 1), 'float32', 'cuda');
      using k = tensorOf(twin.sequences[b]!.k, 'float32', 'cuda');
      using want = pagePlan(one, k, options);
      const from = b * plan.keys;
      expect(all.slice(from, from + lengthsOf(twin)[b]!)).toEqual(await shown(want));
    }
    twin.cache.dispose();
  });
});
