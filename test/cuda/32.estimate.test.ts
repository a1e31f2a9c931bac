// Plans that estimate what they do not list, on a CUDA device: against the float64 oracle, dense attention and the CPU. The
// device is a small one, so that rows are made in several goes, and long ones in parts.
import './support/small'; // before ./support/device
import './support/device'; // before node-attention
import fc from 'fast-check';
import {
  attention,
  causal,
  hipPlan,
  KvCache,
  keyBias,
  pagePlan,
  pooledPlan,
  SparsePlan,
  streamingPlan,
  Tensor,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { checkAttention, checkBehindEnd } from '../support/cached';
import { expectedOn, expectResult, run, tensorOf } from '../support/library';
import { decode, type Float, normal, uniform, type Values } from '../support/numbers';
import type { PlanSpec, Problem } from '../support/oracle';
import { estimateCase, estimateProblem, planOf, randomPlan, withMeans } from '../support/plans';
import { refused } from '../support/refusal';
import { append, emptyTwin, lengthsOf, type Sizes, smallSizes, type Twin } from '../support/twin';
import { interpreted, launches, missing, schedule, schedules, title } from './support/device';
import { checkKept } from './support/overwrite';
import { CAUSAL, problemOf, type Spec } from './support/problems';
import { checkGraphs, checkSchedules, checkUnseen, read } from './support/repeated';
import { drawQueries, walkCaches } from './support/walked-caches';

type Pattern = Partial<Omit<PlanSpec, 'lists'>> & { share?: number };

const TYPES: Float[] = ['float16', 'bfloat16', 'float32'];

let turn = 0;
const next = () => schedule(schedules[turn++ % schedules.length]!);

/** A problem and a random plan that estimates. */
function estimating(spec: Spec, { share = 0.4, holes = false, ...pattern }: Pattern): Problem {
  const { queries, keys, seed = 1 } = spec;
  const geometry = { batch: 1, heads: 1, queryTile: 64, keyBlock: 16, causal: false, ...pattern, queries, keys };
  return { ...problemOf(spec), masks: [{ plan: { ...randomPlan(seed, geometry, share, holes), estimate: true } }] };
}

const compareWith = async (problem: Problem, dtype: Float, embedSeed?: number) => {
  next();
  const want = expectedOn('cuda', withMeans(problem, dtype), dtype);
  expectResult(await run(problem, dtype, embedSeed, 'cuda'), want);
};
const compare = (spec: Spec, pattern: Pattern, embedSeed?: number) =>
  compareWith(estimating(spec, pattern), spec.dtype, embedSeed);

describe.skipIf(missing)(title('plans that estimate'), () => {
  it('are one key for each block that is not listed, by the oracle, on random problems', async () => {
    const cases = estimateCase.filter((c) => c.batch * c.kvHeads * c.group * c.queries * c.keys * c.dim < 1e6);
    await fc.assert(
      fc.asyncProperty(cases, (one) =>
        compareWith(estimateProblem(one), one.dtype, one.seed % 2 ? one.seed : undefined),
      ),
      { numRuns: 20, seed: 32 },
    );
  });

  describe.each(TYPES)('%s', (dtype) => {
    it.each([64, 128, 256])('headDim %i: aligned or not, heads of a group, patterns of their own', async (headDim) => {
      const spec: Spec = { dtype, headDim, queries: 37, keys: 147, kvHeads: 2, group: 2 };
      await compare(spec, { keyBlock: 4, queryTile: 16, heads: 2, causal: true });
      const narrow: Spec = { ...spec, headDim: headDim - 3, valueDim: headDim - 7, queries: 21, batch: 2, sinks: true };
      await compare({ ...narrow, extra: 5, scale: -0.2 }, { keyBlock: 8, heads: 4, batch: 2 }, 3);
    });
  });

  it.each([2, 16, 128])(
    'with blocks of %i of which any number is listed, in rows and at causal borders',
    async (keyBlock) => {
      for (const share of [0, 0.1, 0.9]) {
        const spec: Spec = { dtype: 'float32', headDim: 8, queries: 100, keys: 333, group: 2, seed: keyBlock };
        await compare(spec, { keyBlock, share, queryTile: 32, causal: true });
        await compare({ ...spec, queries: 1, batch: 2 }, { keyBlock, share, batch: 2 });
        await compare({ ...spec, queries: 150, keys: 60 }, { keyBlock, share, queryTile: 16, causal: true });
      }
    },
  );

  it('that list all blocks are dense attention', async () => {
    for (const isCausal of [false, true]) {
      for (const queries of [1, 70]) {
        next();
        const spec: Spec = { dtype: 'bfloat16', kvHeads: 2, group: 2, queries, keys: 200, headDim: 32 };
        const dense = { ...problemOf(spec), masks: isCausal ? [CAUSAL] : [] };
        const problem = estimating(spec, { share: 1, causal: isCausal });
        expectResult(await run(problem, spec.dtype, undefined, 'cuda'), expectedOn('cuda', dense, spec.dtype));
      }
    }
  });

  it.each([2, 16, 128])('with blocks of %i that some queries of a row see, and others in no part', async (keyBlock) => {
    for (const queryTile of [16, 32, 64, 128]) {
      const spec: Spec = {
        dtype: 'float32',
        headDim: 8,
        queries: 137,
        keys: 333,
        group: 2,
        seed: keyBlock + queryTile,
      };
      for (const holes of [true, 'blocks', 'most blocks'] as const) {
        await compare(spec, { keyBlock, queryTile, share: 0.6, holes, causal: true });
        await compare({ ...spec, queries: 1, batch: 2 }, { keyBlock, queryTile, share: 0.8, holes, batch: 2 });
      }
      // An odd number of blocks, of which the last is seen in part.
      const keys = 4 * keyBlock + 1;
      await compare({ ...spec, keys }, { keyBlock, queryTile, share: 1, holes: 'most blocks' });
    }
  });

  it('with more rows than are made at once', async () => {
    const before = launches('list_unlisted_kernel');
    const spec: Spec = { dtype: 'float16', kvHeads: 3, group: 3, queries: 260, keys: 150, headDim: 8 };
    await compare(spec, { heads: 9, queryTile: 16, keyBlock: 4, causal: true });
    if (interpreted) expect(launches('list_unlisted_kernel') - before).toBe(2);
    // Of rows that are longer than a tile of the kernel.
    await compare({ ...spec, queries: 150 }, { heads: 9, queryTile: 128, keyBlock: 2 });
    await compare(spec, { heads: 9, queryTile: 16, keyBlock: 4, causal: true, holes: 'blocks' });
  });

  it('with rows longer than a warp marks at once, in parts', async () => {
    const [keys, keyBlock] = [40_000, 2];
    const blocks = keys / keyBlock;
    const spec: Spec = { dtype: 'float16', queries: 1, keys, headDim: 8 };
    const problem = problemOf(spec);
    // All but some far from each other: the oracle has one mean for each block.
    const missed = [0, 1, 7, 8191, 8192, 16_383, 16_384, 16_385, blocks - 1];
    const lists = [Array.from({ length: blocks }, (_, i) => i).filter((i) => !missed.includes(i))];
    const plan = { batch: 1, heads: 1, queries: 1, keys, queryTile: 16, keyBlock, causal: true, holes: false, lists };
    await compareWith({ ...problem, masks: [{ plan: { ...plan, estimate: true } }] }, spec.dtype);
    await compareWith({ ...problem, masks: [{ plan: { ...plan, lists: [missed], estimate: true } }] }, spec.dtype);
    const all = Array.from({ length: blocks }, (_, i) => i);
    const holes = 'most blocks';
    await compareWith({ ...problem, masks: [{ plan: { ...plan, lists: [all], holes, estimate: true } }] }, spec.dtype);
  });

  it('never count too much, and come nearer to dense', async () => {
    const random = uniform(6);
    const smooth = (tokens: number, heads: number): Values => {
      const values = normal(random, 'float32', [1, tokens, heads, 16]);
      for (let i = heads * 16; i < values.data.length; i++)
        values.data[i] = Math.fround(0.98 * values.data[i - heads * 16]! + 0.4 * values.data[i]!);
      return values;
    };
    const [q, k, v] = [smooth(70, 4), smooth(600, 2), smooth(600, 2)];
    const [qd, kd, vd] = [q, k, v].map((values) => tensorOf(values, 'float32', 'cuda'));
    for (const isCausal of [false, true]) {
      const dense: Problem = { q, k, v, masks: isCausal ? [CAUSAL] : [] };
      const exact = expectedOn('cuda', dense, 'float32');
      for (const make of [hipPlan, pagePlan, pooledPlan]) {
        for (const budget of [0, 64]) {
          next();
          const options = { budget, causal: isCausal, always: { sink: 16, window: 32 }, keyBlock: 16 };
          const lses = [false, true].map(async (estimate) => {
            using mask = make(qd!, kd!, { ...options, estimate });
            return (await attention(qd!, kd!, vd!, { mask }).lse.read()) as Float32Array;
          });
          const [bare, near] = [(await lses[0])!, (await lses[1])!];
          // By the inequality of Jensen; means are off by less than products are.
          const allowed = 2 * exact.tolerance.lse;
          let [missed, estimated] = [0, 0];
          exact.lse.forEach((lse, i) => {
            expect(near[i]!).toBeLessThanOrEqual(lse + allowed);
            expect(near[i]!).toBeGreaterThanOrEqual(bare[i]! - allowed);
            missed += lse - bare[i]!;
            estimated += lse - near[i]!;
          });
          expect(estimated).toBeLessThan(missed / 2);
        }
      }
    }
  });

  it('have nothing to do with values beside a first block that is alone', async () => {
    // The second block of 24 keys is cut by the causal border of 8 queries, and not listed: nobody sees it.
    using mask = SparsePlan.fromBlocks([[]], {
      ...{ queries: 8, keys: 24, keyBlock: 16, causal: true, estimate: true, device: 'cuda' },
    });
    for (const dtype of TYPES) {
      next();
      await checkUnseen(mask, 24, 20, dtype);
    }
  });

  it('read keys and values of any strides', async () => {
    next();
    const grid = [1, 6, 4, 5, 2, 8];
    using mask = streamingPlan({ queries: 120, keys: 120, window: 9, keyBlock: 16, estimate: true, device: 'cuda' });
    using q = Tensor.randn(grid, { seed: 1, device: 'cuda' });
    const parts = [2, 3].map((seed) =>
      Tensor.randn([1, 7, 9, 6, 2, 8], { seed, device: 'cuda' }).slice([0, 1], [1, 7], [2, 6], [0, 5], [0, 2], [0, 8]),
    );
    const [k, v] = parts as [Tensor, Tensor];
    const copies = await Promise.all(
      parts.map(async (part) => Tensor.from(await part.read(), grid, { device: 'cuda' })),
    );
    expect(await read(attention(q, k, v, { mask }))).toEqual(
      await read(attention(q, copies[0]!, copies[1]!, { mask })),
    );
  });

  it('are the same bit for bit under every schedule, and in graphs', async () => {
    const spec: Spec = { dtype: 'float16', queries: 70, keys: 200, headDim: 64, group: 2 };
    const problem = estimating(spec, { keyBlock: 4, holes: 'blocks', causal: true });
    await checkSchedules(problem, spec.dtype);
    const { plan } = problem.masks![0] as { plan: PlanSpec };
    using mask = planOf({ ...plan, holes: false }, 'cuda');
    await checkGraphs(problem, mask);
  });

  it('are refused with what has no meaning for a mean, and when there are too many', () => {
    const x = Tensor.zeros([1, 64, 2, 8], { device: 'cuda' });
    const mask = streamingPlan({ queries: 64, keys: 64, window: 5, estimate: true, device: 'cuda' });
    const bias = keyBias(Tensor.zeros([64], { device: 'cuda' }));
    expect(refused(() => attention(x, x, x, { mask: [mask, causal()] }))).toMatch(/^ERR_OPTION .*a further mask/);
    expect(refused(() => attention(x, x, x, { mask, bias }))).toMatch(/^ERR_OPTION .*bias/);
    expect(refused(() => attention(x, x, x, { mask, softcap: 3 }))).toMatch(/^ERR_OPTION .*softcap/);
    const keys = 2 ** 25;
    using many = SparsePlan.fromBlocks(
      Array.from({ length: 256 }, () => []),
      { queries: 1, keys, heads: 256, keyBlock: 2, estimate: true, device: 'cuda' },
    );
    const q = Tensor.zeros([1, 1, 256, 1], { dtype: 'float16', device: 'cuda' });
    const k = Tensor.zeros([1, keys, 1, 1], { dtype: 'float16', device: 'cuda' });
    expect(refused(() => attention(q, k, k, { mask: many }))).toMatch(/^ERR_SHAPE .*16777216 blocks/);
  });
});

const sizesOf = smallSizes([1, 3, 16, 64, 300], TYPES);

describe.skipIf(missing)(title('plans over a cache that estimate'), () => {
  it('are those of the oracle, whatever was appended, truncated and forked', async () => {
    const walk = { sizes: sizesOf, capacity: 800, most: 400, steps: [3, 8], numRuns: 10, seed: 32 } as const;
    await walkCaches(walk, async (visit) => {
      next();
      const { twin, sizes, stream, upTo, pickOf } = visit;
      const { q, geometry } = drawQueries(visit, [2, 8, 32, 128]);
      const holes = pickOf([false, true, 'blocks', 'most blocks'] as const);
      const plan = { ...randomPlan(upTo(1e6), geometry, pickOf([0.1, 0.5, 1]), holes), estimate: true };
      await checkAttention(twin, q, sizes.dtype, plan, undefined, stream);
    });
  });

  it('see nothing of what was truncated, nor the means of blocks without keys', async () => {
    const random = uniform(5);
    for (const dtype of TYPES) {
      const sizes: Sizes = { batch: 3, kvHeads: 1, group: 2, headDim: 16, valueDim: 16, pageSize: 48, dtype };
      const twin = emptyTwin(sizes, 300, 'cuda');
      const lengths = [200, 32, 41];
      append(twin, sizes, lengths, random);
      const poison = Tensor.from(new Float32Array(3 * 90 * 16).fill(Number.NaN), [3, 90, 1, 16], {
        dtype,
        device: 'cuda',
      });
      twin.cache.append(poison, poison);
      twin.cache.truncate(lengths);
      for (const isCausal of [true, false]) {
        for (const share of [0, 0.5]) {
          next();
          const geometry = { batch: 1, heads: 1, queries: 5, keys: 200, queryTile: 16, keyBlock: 32, causal: isCausal };
          const q = normal(random, dtype, [3, 5, 2, 16]);
          await checkAttention(twin, q, dtype, { ...randomPlan(1, geometry, share), estimate: true });
        }
      }
      twin.cache.dispose();
    }
  });

  it('count a block for a query to which only keys behind the end of the sequence would be shown', async () => {
    next();
    await checkBehindEnd('cuda');
  });

  it.each(TYPES)('of one block of few columns, %s', async (dtype) => {
    const random = uniform(6);
    for (const [headDim, valueDim] of [
      [3, 5],
      [6, 4],
    ] as const) {
      next();
      const sizes: Sizes = { batch: 3, kvHeads: 1, group: 2, headDim, valueDim, pageSize: 16, dtype };
      const twin = emptyTwin(sizes, 300, 'cuda');
      append(twin, sizes, [5, 1, 7], random);
      const geometry = { batch: 1, heads: 1, queries: 1, keys: 7, queryTile: 16, keyBlock: 128, causal: true };
      const q = normal(random, dtype, [3, 1, 2, headDim]);
      await checkAttention(twin, q, dtype, { ...randomPlan(1, geometry, 0), estimate: true });
      twin.cache.dispose();
    }
  });

  it.each([
    ['hipPlan', hipPlan],
    ['pagePlan', pagePlan],
    ['pooledPlan', pooledPlan],
    ['pooledPlan of each query', (q, k, options) => pooledPlan(q, k, { ...options, queries: 'own' })],
  ] as [string, typeof pagePlan][])('of %s are what they are on the CPU', async (_, make) => {
    const random = uniform(8);
    const whole = (shape: number[]): Values => {
      const values = normal(random, 'float32', shape);
      return { shape, data: values.data.map((x) => Math.round(2 * x)) };
    };
    const [tokens, queries] = [whole([2, 320, 2, 16]), whole([2, 3, 4, 16])];
    const results = (['cpu', 'cuda'] as const).map(async (device) => {
      next();
      using cache = new KvCache({ batch: 2, kvHeads: 2, headDim: 16, capacity: 400, pageSize: 24, device });
      const [k, q] = [tensorOf(tokens, 'float32', device), tensorOf(queries, 'float32', device)];
      cache.append(k, k, { lengths: [320, 144] });
      const options = { budget: 32, causal: true, keyBlock: 16, always: { sink: 4, window: 8 }, estimate: true };
      using mask = make(q, cache, options);
      using bare = make(q, cache, { ...options, estimate: false });
      const [near, missed] = await Promise.all([mask, bare].map((one) => read(attention(q, cache, { mask: one }))));
      expect(near).not.toEqual(missed);
      return near!.map((values) => decode('float32', values));
    });
    const [here, there] = await Promise.all(results);
    there!.forEach((values, n) => {
      values.forEach((x, i) => {
        expect(Math.abs(x - here![n]![i]!)).toBeLessThan(1e-4);
      });
    });
  });
});

describe.skipIf(missing)(title('means that a cache keeps'), () => {
  it.each(TYPES)('%s: only what is new is pooled', async (dtype) => {
    const random = uniform(11);
    const sizes: Sizes = { batch: 2, kvHeads: 1, group: 2, headDim: 6, valueDim: 5, pageSize: 24, dtype };
    // Lists nothing of what is overwritten.
    const check = async (of: Twin, keyBlock: number) => {
      next();
      const keys = Math.max(...lengthsOf(of));
      const geometry = { batch: 1, heads: 1, queries: 2, keys, queryTile: 16, keyBlock, causal: true };
      const plan = randomPlan(3, geometry, 0.5);
      const lists = plan.lists.map((list) => list.filter((block) => block * keyBlock >= 512));
      const q = normal(random, dtype, [2, 2, 2, 6]);
      await checkAttention(of, q, dtype, { ...plan, lists, estimate: true });
    };
    await checkKept(sizes, random, check);
  });

  it('are counted, with the lists of them, and shared by forks and with selectors', () => {
    const size = { batch: 1, kvHeads: 2, headDim: 16, valueDim: 8, capacity: 4096, device: 'cuda' } as const;
    using cache = new KvCache(size);
    const [k, v] = [16, 8].map((columns) => Tensor.randn([1, 2000, 2, columns], { seed: columns, device: 'cuda' }));
    const q = Tensor.randn([1, 1, 4, 16], { seed: 2, device: 'cuda' });
    cache.append(k!, v!);
    const pages = cache.bytes;
    const estimate = (of: KvCache, keyBlock: number) => {
      next();
      const geometry = { queries: 1, keys: of.length, window: 9, keyBlock, estimate: true, device: 'cuda' } as const;
      using mask = streamingPlan(geometry);
      for (const tensor of Object.values(attention(q, of, { mask }))) tensor.dispose();
    };
    // A pool of few bytes has all segments that the cache may have; a list tells of 16, and of how many there are.
    const segments = (keyBlock: number, columns: number) => 16 * ((256 / keyBlock) * 2 * columns * 4) + 17 * 8;
    estimate(cache, 16);
    let bytes = pages + segments(16, 16) + segments(16, 8);
    expect(cache.bytes).toBe(bytes);
    using fork = cache.fork();
    for (const each of [cache, fork]) estimate(each, 16);
    for (const each of [cache, fork]) expect(each.bytes).toBe(bytes);
    // The mean keys of a selector are those of an estimate, if they have the same type.
    pooledPlan(q, cache, { budget: 100, causal: true, keyBlock: 64 }).dispose();
    bytes += segments(64, 16);
    expect(cache.bytes).toBe(bytes);
    estimate(cache, 64);
    bytes += segments(64, 8);
    expect(cache.bytes).toBe(bytes);
  });
});
