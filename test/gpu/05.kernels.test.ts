// One small problem for each kernel: what compute-sanitizer watches. Tensors that are views of larger ones are aligned to
// nothing, and so take the kernels that need no alignment.

import {
  attention,
  causal,
  hipPlan,
  KvCache,
  merge,
  pagePlan,
  pooledPlan,
  type SparsePlan,
  streamingPlan,
  Tensor,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { check, tensorOf } from '../support/library';
import { decode, type Float, normal, uniform } from '../support/numbers';
import type { Problem } from '../support/oracle';
import { device } from './device';

interface Sizes {
  batch?: number;
  heads?: number;
  kvHeads?: number;
  queries?: number;
  keys?: number;
  dim?: number;
  vDim?: number;
}

function problemOf(dtype: Float, sizes: Sizes, more: Omit<Problem, 'q' | 'k' | 'v'> = {}): Problem {
  const { batch = 1, heads = 1, kvHeads = 1, queries = 130, keys = 200, dim = 64, vDim = dim } = sizes;
  const random = uniform(dim);
  return {
    q: normal(random, dtype, [batch, queries, heads, dim]),
    k: normal(random, dtype, [batch, keys, kvHeads, dim]),
    v: normal(random, dtype, [batch, keys, kvHeads, vDim]),
    ...more,
  };
}

const halves = ['bfloat16', 'float16'] as const;
const dims = [{ dim: 64 }, { dim: 96 }, { dim: 128 }, { dim: 192 }, { dim: 256 }, { dim: 192, vDim: 128 }, { dim: 40 }];
const causalMask = [{ left: -1, right: 0 }];

describe('attention, every head dimension', () => {
  for (const dtype of halves) {
    for (const size of dims) {
      const name = `${dtype} ${size.dim}${size.vDim ? `/${size.vDim}` : ''}`;
      it(`${name}, causal`, () => check(problemOf(dtype, size, { masks: causalMask }), dtype, undefined, device));
      it(`${name}, of any alignment`, () => check(problemOf(dtype, size), dtype, 7, device));
    }
  }
  for (const { dim } of dims.slice(0, 5)) {
    it(`float32 ${dim}`, () =>
      check(problemOf('float32', { dim }, { masks: causalMask }), 'float32', undefined, device));
  }
  it('float32 as tf32', async () => {
    const { q, k, v } = problemOf('float32', {});
    const tensors = [q, k, v].map((values) => tensorOf(values, 'float32', device)) as [Tensor, Tensor, Tensor];
    const { out } = attention(...tensors, { precision: 'tf32' });
    expect((await out.read()).every(Number.isFinite)).toBe(true);
  });
});

describe('neighborhoods, every kernel', () => {
  const axis = { window: 5, stride: 2, dilation: 1, causal: false, wrap: false };
  const masks = [{ heads: [[axis, { ...axis, dilation: 2, wrap: true }]] }];
  for (const dtype of ['bfloat16', 'float16', 'float32'] as const) {
    for (const dim of [64, 128, 256]) {
      const random = uniform(dim);
      const [q, k, v] = [2, 1, 1].map((heads) => normal(random, dtype, [1, 11, 12, heads, dim]));
      const problem: Problem = { q: q!, k: k!, v: v!, masks };
      it(`${dtype} ${dim}`, () => check(problem, dtype, undefined, device));
      it(`${dtype} ${dim}, of any alignment`, () => check(problem, dtype, 7, device));
      it(`${dtype} ${dim}, softcap`, () => check({ ...problem, softcap: 2 }, dtype, undefined, device));
    }
  }
});

describe('attention, every feature', () => {
  const random = uniform(3);
  const values = (...shape: number[]) => normal(random, 'float32', shape);
  const sizes = { batch: 2, heads: 4, kvHeads: 2, queries: 70, keys: 150 };
  const problems: { [name: string]: Problem } = {
    'one query of a group, keys split': problemOf('bfloat16', { heads: 8, queries: 1, keys: 3000, dim: 128 }),
    'few queries, keys split': problemOf('bfloat16', { heads: 8, queries: 5, keys: 3000 }, { masks: causalMask }),
    window: problemOf('bfloat16', sizes, { masks: [{ left: 33, right: 5 }] }),
    'softcap and scale': problemOf('bfloat16', sizes, { softcap: 2, scale: 0.5 }),
    sinks: problemOf('bfloat16', sizes, { sinks: values(4) }),
    'key bias': problemOf('bfloat16', sizes, { keyBias: values(2, 150) }),
    'dense bias': problemOf('bfloat16', sizes, { denseBias: values(1, 4, 70, 150) }),
    'extra keys': problemOf('bfloat16', sizes, {
      extra: { k: normal(random, 'bfloat16', [2, 9, 2, 64]), v: normal(random, 'bfloat16', [2, 9, 2, 64]) },
    }),
    'packed sequences': problemOf(
      'bfloat16',
      { heads: 4, kvHeads: 2, queries: 150, keys: 200 },
      { masks: causalMask, cuSeqlens: { q: [0, 1, 1, 80, 150], k: [0, 60, 70, 71, 200] } },
    ),
  };
  for (const [name, problem] of Object.entries(problems)) {
    it(name, () => check(problem, 'bfloat16', undefined, device));
    if (!problem.cuSeqlens) it(`${name}, of any alignment`, () => check(problem, 'bfloat16', 11, device));
  }
});

describe('caches, plans and selectors', () => {
  const keys = 600;
  const plans: { [name: string]: (q: Tensor, cache: KvCache) => SparsePlan | undefined } = {
    'all keys': () => undefined,
    'a plan that estimates': (q) =>
      streamingPlan({ queries: q.shape[1]!, keys, sink: 20, window: 99, keyBlock: 16, estimate: true, device }),
    hipPlan: (q, cache) => hipPlan(q, cache, { budget: 128 }),
    pagePlan: (q, cache) => pagePlan(q, cache, { budget: 128 }),
    'pooledPlan that estimates': (q, cache) => pooledPlan(q, cache, { budget: 128, estimate: true }),
  };
  for (const dtype of ['bfloat16', 'float16', 'float32'] as const) {
    for (const storage of [undefined, 'int8'] as const) {
      for (const [name, planOf] of Object.entries(plans)) {
        it(`${dtype} ${storage ? `as ${storage} ` : ''}${name}`, async () => {
          for (const [queries, headDim] of [
            [1, 61],
            [130, 64],
          ] as const) {
            const make = (where: typeof device) => {
              const random = (seed: number, tokens: number, heads: number) =>
                Tensor.randn([1, tokens, heads, headDim], { seed, dtype, device: where });
              const cache = new KvCache({
                ...{ batch: 1, kvHeads: 2, headDim, capacity: keys, dtype, device: where },
                ...(storage && { storage }),
              });
              cache.append(random(1, keys, 2), random(2, keys, 2));
              return { q: random(3, queries, 4), cache };
            };
            const [here, there] = [make('cpu'), make(device)];
            const plan = planOf(there.q, there.cache);
            const got = attention(there.q, there.cache, { ...(plan && { mask: plan }) });
            const want = attention(here.q, here.cache, { ...(plan && { mask: plan.to('cpu') }) });
            const [x, y] = await Promise.all([got, want].map(async ({ out }) => decode(dtype, await out.read())));
            // Both round an average of numbers, of which hardly any is beyond 5, to the type.
            const bound = { float32: 1e-5, float16: 5 * 2 ** -10, bfloat16: 5 * 2 ** -7 }[dtype];
            expect(Math.max(...x!.map((value, i) => Math.abs(value - y![i]!)))).toBeLessThan(bound);
            for (const { cache } of [here, there]) cache.dispose();
          }
        });
      }
    }
  }
});

describe('other kernels', () => {
  it('merge', async () => {
    const make = (tokens: number, seed: number) => Tensor.randn([1, tokens, 2, 64], { seed, device });
    const [q, k, v] = [make(30, 1), make(90, 2), make(90, 3)];
    const whole = attention(q, k, v);
    const part = (of: Tensor, start: number, stop: number) => of.slice([0, 1], [start, stop], [0, 2], [0, 64]);
    const parts = [0, 40].map((start, i) => {
      const stop = [40, 90][i]!;
      return attention(q, part(k, start, stop), part(v, start, stop));
    });
    const merged = merge(parts);
    const got = decode('float32', await merged.out.read());
    const want = decode('float32', await whole.out.read());
    expect(Math.max(...want.map((x, i) => Math.abs(x - got[i]!)))).toBeLessThan(1e-5);
  });

  it('copies of views, and conversions', async () => {
    const whole = Tensor.randn([7, 33, 5, 9], { seed: 4 });
    const view = whole.permute(2, 0, 1, 3).slice([1, 4], [0, 7], [3, 30], [2, 9]);
    const want = await view.read();
    const there = whole.to(device).permute(2, 0, 1, 3).slice([1, 4], [0, 7], [3, 30], [2, 9]);
    expect(await there.to('cpu').read()).toEqual(want);
    for (const dtype of ['float16', 'bfloat16'] as const) {
      expect(await there.to(dtype).read()).toEqual(await view.to(dtype).read());
    }
  });

  it('zeros', async () => {
    const zeros = Tensor.zeros([3, 1001], { device });
    expect((await zeros.read()).every((x) => x === 0)).toBe(true);
  });

  it('causal attention without any key', async () => {
    const make = (tokens: number) => Tensor.randn([1, tokens, 1, 64], { seed: 5, dtype: 'bfloat16', device });
    const { out, lse } = attention(make(90), make(20), make(20), { mask: causal() });
    expect((await lse.read())[0]).toBe(Number.NEGATIVE_INFINITY);
    expect((await out.read()).subarray(0, 64).every((bits) => bits === 0)).toBe(true);
  });
});
