// What operations cost: processor time, and time of the calling thread.

import {
  attention,
  factorizeBias,
  hipPlan,
  KvCache,
  KvIndex,
  pagePlan,
  pooledPlan,
  simulateNeighborhood,
  Tensor,
  window,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { tensorOf } from './support/library';
import { normal, uniform } from './support/numbers';

it('simulateNeighborhood takes time by what differs, not by the extent', () => {
  const before = process.cpuUsage();
  const tiles = { queryTile: [128], keyTile: [128] };
  for (const more of [{}, { causal: true }, { wrap: true }]) {
    const { speedup } = simulateNeighborhood({ shape: [2 ** 30], window: 4096, stride: 64, ...tiles, ...more });
    expect(speedup.worstTile).toBe(2 ** 30 / (33 * 128));
    if ('wrap' in more) expect(speedup).toMatchObject({ flops: 2 ** 18, sum: speedup.worstTile });
  }
  const spent = process.cpuUsage(before).user / 1e6;
  expect(spent).toBeLessThan(1); // seconds: to look at each query takes several
});

describe('hipPlan takes', () => {
  const sizes = [4096, 8192, 16384, 32768, 65536];
  /** The slope of the logarithms: the power of the size that costs grow with. */
  const exponent = (costs: number[]) => {
    const points = sizes.map((size, i) => [Math.log(size), Math.log(costs[i]!)] as const);
    const mid = (axis: 0 | 1) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;
    const [x, y] = [mid(0), mid(1)];
    const over = points.reduce((sum, [a, b]) => sum + (a - x) * (b - y), 0);
    return over / points.reduce((sum, [a]) => sum + (a - x) ** 2, 0);
  };

  it('memory in proportion to the tokens', () => {
    const bytes = sizes.map((tokens) => {
      using q = Tensor.zeros([1, tokens, 1, 1]);
      using plan = hipPlan(q, q, { budget: 256, causal: true });
      return plan.bytes;
    });
    expect(exponent(bytes)).toBeGreaterThan(0.98);
    expect(exponent(bytes)).toBeLessThan(1.05); // the first rows have less to see, and are fewer the longer the text
  });

  it('time of T log T for the tree over all keys', async () => {
    const times: number[] = [];
    for (const tokens of sizes) {
      using q = Tensor.randn([1, tokens, 1, 8], { seed: 1 });
      const own: number[] = [];
      for (let run = 0; run < 3; run++) {
        const from = process.cpuUsage();
        using plan = hipPlan(q, q, { budget: 64, causal: true, variant: 'hip1', queryTile: 128 });
        using report = attention(q, q, q, { mask: [plan, window({ left: 0, right: 0 })] }).lse;
        await report.read();
        const { user, system } = process.cpuUsage(from);
        own.push(user + system);
      }
      times.push(Math.min(...own));
    }
    // T log T has 1.1 over these sizes, T squared 2.
    expect(exponent(times)).toBeLessThan(1.4);
  });
});

it('selection from a cache is much cheaper than from tensors', async () => {
  const tokens = 65536;
  using cache = new KvCache({ batch: 1, kvHeads: 2, headDim: 64, capacity: tokens + 100, dtype: 'bfloat16' });
  using k = Tensor.randn([1, tokens, 2, 64], { seed: 1, dtype: 'bfloat16' });
  using q = Tensor.randn([1, 1, 8, 64], { seed: 2, dtype: 'bfloat16' });
  using one = Tensor.randn([1, 1, 2, 64], { seed: 3, dtype: 'bfloat16' });
  cache.append(k, k);
  for (const make of [pagePlan, pooledPlan]) {
    /** Processor time of three selections, the least of some. */
    const cost = async (of: Tensor | KvCache) => {
      let least = Number.POSITIVE_INFINITY;
      for (let run = 0; run < 4; run++) {
        const from = process.cpuUsage();
        for (let step = 0; step < 3; step++) {
          if (of === cache) cache.append(one, one);
          using plan = make(q, of, { budget: 1000, causal: true });
          await plan.density();
        }
        const { user, system } = process.cpuUsage(from);
        least = Math.min(least, user + system);
      }
      return least;
    };
    expect(await cost(cache)).toBeLessThan((await cost(k)) / 3);
  }
});

it('timers come while a bias is factorized', async () => {
  const dense = Tensor.randn([400, 400], { seed: 1 });
  let turns = 0;
  const timer = setInterval(() => turns++, 5);
  const start = performance.now();
  await factorizeBias(dense, { rank: 60 });
  clearInterval(timer);
  expect(turns).toBeGreaterThan((performance.now() - start) / 5 / 4);
});

it('a graph of keys is made beside the calling thread', async () => {
  const k = tensorOf(normal(uniform(2), 'float32', [1, 20000, 1, 64]));
  using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 64, capacity: 20000 });
  cache.append(k, k);
  const queries = tensorOf(normal(uniform(3), 'float32', [1, 2000, 1, 64]));
  const q = Tensor.zeros([1, 1, 1, 64]);
  await attention(q, cache).out.read();
  const start = performance.now();
  using index = new KvIndex(cache, { method: 'graph', queries });
  const { ids } = index.search(q, 10);
  const called = performance.now() - start;
  let [ticks, done] = [0, false];
  const read = ids.read().finally(() => {
    done = true;
  });
  while (!done) {
    await new Promise((resolve) => setTimeout(resolve, 2));
    ticks++;
  }
  await read;
  const whole = performance.now() - start;
  expect(ticks).toBeGreaterThan(5);
  expect(called).toBeLessThan(whole / 4);
});
