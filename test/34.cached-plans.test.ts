// Sparse plans and selectors over a KvCache: the same as over tensors with the keys of each sequence.

import {
  attention,
  causal,
  HipState,
  hipPlan,
  KvCache,
  memoryStats,
  neighborhood,
  pagePlan,
  pooledPlan,
  SparsePlan,
  Stream,
  streamingPlan,
  Tensor,
  window,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { checkAttention, checkSelection, makes, makeWithLevels } from './support/cached';
import { itAgrees } from './support/instruction-sets';
import { tensorOf } from './support/library';
import { normal, uniform, type Values } from './support/numbers';
import { randomPlan } from './support/plans';
import { listsOf } from './support/selectors';
import { append, emptyTwin, lengthsOf, rowsOf, type Sizes, type Twin, truncate } from './support/twin';

const runs = 25;

itAgrees('whatever is appended, truncated and forked,', 'cached', runs, 34);

const sizes: Sizes = {
  batch: 2,
  kvHeads: 2,
  group: 3,
  headDim: 24,
  valueDim: 16,
  pageSize: 48,
  dtype: 'bfloat16',
};
const heads = sizes.kvHeads * sizes.group;

function filled(lengths: number[], more: Partial<Sizes> = {}, seed = 1): { twin: Twin; random: () => number } {
  const random = uniform(seed);
  const twin = emptyTwin({ ...sizes, ...more }, 4096);
  append(twin, { ...sizes, ...more }, lengths, random);
  return { twin, random };
}

/** Both sequences of a twin as one tensor; they are equally long. */
function whole(twin: Twin, of: 'k' | 'v'): Tensor {
  const parts = twin.sequences.map((sequence) => sequence[of]);
  const data = new Float64Array(parts.length * parts[0]!.data.length);
  parts.forEach((part, b) => {
    data.set(part.data, b * part.data.length);
  });
  return tensorOf({ shape: [parts.length, ...parts[0]!.shape.slice(1)], data }, sizes.dtype);
}

const queriesOf = (random: () => number, count: number): Values =>
  normal(random, sizes.dtype, [sizes.batch, count, heads, sizes.headDim]);

const options = { budget: 100, causal: true, always: { sink: 10, window: 20 } };

describe.each([...makes, makeWithLevels])('%s', (name, make) => {
  it.each([
    [undefined, 1],
    ['int8', 1],
    [undefined, 70],
  ] as const)('plans what it plans for tensors, stored as %s, of %i queries', async (storage, count) => {
    for (const lengths of [
      [1300, 1300],
      [1300, 700],
      [255, 257],
      [600, 3],
    ]) {
      const { twin, random } = filled(lengths, { storage });
      const q = queriesOf(random, count);
      for (const share of ['group', 'all', 'none'] as const) {
        (await checkSelection(twin, q, sizes.dtype, make, { ...options, share })).dispose();
        (await checkSelection(twin, q, sizes.dtype, make, { ...options, causal: false, share })).dispose();
      }
      twin.cache.dispose();
    }
  });

  it('follows what is appended and truncated, token by token', async () => {
    const { twin, random } = filled([500, 300]);
    const check = async () => (await checkSelection(twin, queriesOf(random, 1), sizes.dtype, make, options)).dispose();
    await check();
    for (let step = 0; step < 30; step++) {
      append(twin, sizes, [1, 1], random);
      if (step % 5 === 0) await check();
    }
    for (const lengths of [
      [511, 330],
      [256, 330],
      [255, 100],
    ]) {
      truncate(twin, lengths);
      append(twin, sizes, [400, 400], random);
      await check();
    }
    truncate(twin, [0, 0]);
    append(twin, sizes, [300, 0], random);
    await check();
    twin.cache.dispose();
  });

  it('goes the ways of forks', async () => {
    const { twin, random } = filled([800, 600]);
    const check = async (of: Twin) =>
      (await checkSelection(of, queriesOf(random, 1), sizes.dtype, make, options)).dispose();
    await check(twin);
    const forks = [0, 1].map((): Twin => ({ cache: twin.cache.fork(), sequences: twin.sequences }));
    for (const [n, one] of [twin, ...forks].entries()) {
      if (n > 0) truncate(one, [600, 300]);
      append(one, sizes, [500, 500], random);
    }
    for (const one of [...forks, twin, ...forks]) await check(one);
    twin.cache.dispose();
    for (const one of forks) {
      await check(one);
      one.cache.dispose();
    }
  });

  it('sees nothing of what was truncated, nor of the rest of a page', async () => {
    const { twin, random } = filled([300, 290]);
    const poison = (n: number) => {
      const one = (columns: number) =>
        Tensor.from(new Float32Array(2 * n * 2 * columns).fill(Number.NaN), [2, n, 2, columns]);
      const tensors = [one(sizes.headDim), one(sizes.valueDim)].map((tensor) => tensor.to(sizes.dtype));
      twin.cache.append(tensors[0]!, tensors[1]!);
    };
    poison(600);
    const q = queriesOf(random, 1);
    make(tensorOf(q, sizes.dtype), twin.cache, options).dispose(); // what is kept has NaN too
    twin.cache.truncate([300, 290]);
    const plan = await checkSelection(twin, q, sizes.dtype, make, options);
    const geometry = { batch: 1, heads: 1, queries: 1, keys: 300, queryTile: 64, keyBlock: 16, causal: true };
    const spec = randomPlan(1, geometry, 0.6);
    await checkAttention(twin, q, sizes.dtype, spec);
    await checkAttention(twin, q, sizes.dtype, { ...spec, estimate: true });
    plan.dispose();
    append(twin, sizes, [30, 300], random);
    (await checkSelection(twin, q, sizes.dtype, make, options)).dispose();
    twin.cache.dispose();
  });

  it('sees the cache as it is at the call, whatever follows on other streams', async () => {
    using first = new Stream();
    using second = new Stream();
    const { twin, random } = filled([3000, 3000]);
    const q = queriesOf(random, 1);
    using given = tensorOf(q, sizes.dtype);
    const rounds: { plans: SparsePlan[]; k: Tensor }[] = [];
    for (const [n, length] of [1000, 300, 0].entries()) {
      const plans = [first, second].map((stream) => make(given, twin.cache, { ...options, stream }));
      rounds.push({ plans, k: whole(twin, 'k') });
      truncate(twin, [length, length]);
      append(twin, sizes, [2000, 2000], random, n % 2 ? first : second);
    }
    for (const { plans, k } of rounds) {
      using want = make(given, k, options);
      const wanted = await listsOf(want);
      for (const plan of plans) {
        expect(await listsOf(plan)).toEqual(wanted);
        plan.dispose();
      }
      k.dispose();
    }
    twin.cache.dispose();
  });

  it('is the same, bit for bit, for attention over the cache', async () => {
    const { twin, random } = filled([1500, 1500]);
    const [k, v] = [whole(twin, 'k'), whole(twin, 'v')];
    for (const [count, estimate] of [
      [1, false],
      [1, true],
      [130, false],
      [130, true],
    ] as const) {
      if (estimate && name.endsWith('own')) continue; // is refused
      using q = tensorOf(queriesOf(random, count), sizes.dtype);
      const given = { ...options, estimate };
      const results = [
        attention(q, twin.cache, { mask: make(q, twin.cache, given) }),
        attention(q, k, v, { mask: make(q, k, given) }),
        attention(q, twin.cache, { mask: make(q, k, given) }),
      ];
      const [a, b, c] = await Promise.all(results.map(async ({ out, lse }) => [await out.read(), await lse.read()]));
      expect(a).toEqual(b);
      expect(c).toEqual(b);
    }
    twin.cache.dispose();
  });

  it.skipIf(name.endsWith('topP'))('is dense attention when the budget is all keys', async () => {
    const { twin, random } = filled([700, 500]);
    using q = tensorOf(queriesOf(random, 40), sizes.dtype);
    using plan = make(q, twin.cache, { budget: 700, causal: true });
    const [a, b] = [plan, causal()].map((mask) => attention(q, twin.cache, { mask }).lse.read());
    const [near, dense] = [(await a) as Float32Array, (await b) as Float32Array];
    const worst = Math.max(...near.map((x, i) => Math.abs(x - dense[i]!)));
    expect(worst).toBeLessThan(1e-5);
    twin.cache.dispose();
  });
});

it('stands its queries where the rotary embedding does', async () => {
  const random = uniform(5);
  const [dim, theta] = [16, 500];
  const rope = { theta, dim: 12 };
  using cache = new KvCache({ batch: 2, kvHeads: 2, headDim: dim, capacity: 2000, pageSize: 32, rope });
  const turn = ({ shape, data }: Values, first: number[]): Values => {
    const [, tokens, of] = shape as [number, number, number];
    const turned = data.slice();
    for (let row = 0; row < data.length / dim; row++) {
      const position = first[Math.floor(row / of / tokens)]! + (Math.floor(row / of) % tokens);
      for (let j = 0; j < 6; j++) {
        const angle = position * theta ** (-j / 6);
        const [x, y] = [data[row * dim + j]!, data[row * dim + j + 6]!];
        turned[row * dim + j] = Math.fround(x * Math.cos(angle) - y * Math.sin(angle));
        turned[row * dim + j + 6] = Math.fround(x * Math.sin(angle) + y * Math.cos(angle));
      }
    }
    return { shape, data: turned };
  };
  const lengths = [1500, 900];
  const [k, v] = [0, 1].map(() => normal(random, 'float32', [2, 1500, 2, dim])) as [Values, Values];
  cache.append(tensorOf(k), tensorOf(v), { lengths });
  const keys = turn(k, [0, 0]);
  const held = lengths.map((length, b) => ({ k: rowsOf(keys, b, 0, length), v: rowsOf(v, b, 0, length) }));
  const twin: Twin = { cache, sequences: held };
  const q = normal(random, 'float32', [2, 3, 4, dim]);
  const turned = turn(
    q,
    lengths.map((length) => length - 3),
  );
  for (const [name, make] of makes) {
    const plan = await checkSelection(twin, q, 'float32', make, options, held, turned);
    // Without the rotation other keys would be found, so that the test can fail.
    if (name === 'pagePlan') await expect(checkSelection(twin, q, 'float32', make, options)).rejects.toThrow(/row/);
    plan.dispose();
  }
});

describe('attention over a plan', () => {
  it('sees of a shorter sequence what is listed of its keys', async () => {
    // With q = 0 the lse counts the keys that are seen.
    using cache = new KvCache({ batch: 3, kvHeads: 1, headDim: 1, capacity: 100 });
    const zeros = Tensor.zeros([3, 70, 1, 1]);
    cache.append(zeros, zeros, { lengths: [70, 37, 0] });
    const counts = async (plan: SparsePlan, queries: number) => {
      const { lse } = attention(Tensor.zeros([3, queries, 1, 1]), cache, { mask: plan });
      return Array.from((await lse.read()) as Float32Array, (x) => Math.round(Math.exp(x)));
    };
    const g = { queries: 2, keys: 70, keyBlock: 16 };
    expect(await counts(SparsePlan.fromBlocks([[0, 2, 4]], g), 2)).toEqual([38, 38, 21, 21, 0, 0]);
    expect(await counts(SparsePlan.fromBlocks([[0, 2, 4]], { ...g, causal: true }), 2)).toEqual([37, 38, 20, 21, 0, 0]);
    expect(await counts(SparsePlan.fromBlocks([[3, 4]], g), 2)).toEqual([22, 22, 0, 0, 0, 0]);
    const all = SparsePlan.fromBlocks([[0, 1, 2, 3, 4]], { ...g, causal: true });
    expect(await counts(all, 2)).toEqual([69, 70, 36, 37, 0, 0]);
    const own = SparsePlan.fromBlocks([[0], [1], [2]], { ...g, batch: 3 });
    expect(await counts(own, 2)).toEqual([16, 16, 16, 16, 0, 0]);
  });

  it('of bitmaps, beside a window, of many rows', async () => {
    const { twin, random } = filled([333, 100]);
    const q = queriesOf(random, 90);
    for (const share of [0.4, 0.9, 1]) {
      const geometry = { batch: 2, heads: 2, queries: 90, keys: 333, queryTile: 16, keyBlock: 16, causal: true };
      for (const holes of [false, true]) {
        const spec = randomPlan(3, geometry, share, holes);
        await checkAttention(twin, q, sizes.dtype, spec, { left: 50, right: 0 });
        await checkAttention(twin, q, sizes.dtype, spec);
      }
    }
    twin.cache.dispose();
  });
});

describe('HipState', () => {
  const always = { sink: 16, window: 64 };
  const hip = { budget: 256, causal: true, always };

  it('refreshed in every call is none', async () => {
    const { twin, random } = filled([3000, 2500]);
    using state = new HipState({ refresh: [1, 1, 1] });
    for (let step = 0; step < 4; step++) {
      append(twin, sizes, [1, 1], random);
      using q = tensorOf(queriesOf(random, 1), sizes.dtype);
      using a = hipPlan(q, twin.cache, { ...hip, state });
      using b = hipPlan(q, twin.cache, hip);
      expect(await listsOf(a)).toEqual(await listsOf(b));
    }
    twin.cache.dispose();
  });

  it('shows between searches what was chosen, and what each sequence got since', async () => {
    const { twin, random } = filled([3000, 1000]);
    using state = new HipState({ refresh: [9, 9, 9] });
    const seen = async () => {
      using q = tensorOf(queriesOf(random, 1), sizes.dtype);
      using plan = hipPlan(q, twin.cache, { ...hip, state });
      await plan.validate();
      using dense = plan.toDense();
      const shown = await dense.read();
      const each = dense.shape[1]! * plan.keys; // of the batch entry; the first head's
      return [0, 1].map((b) => Array.from(shown.subarray(b * each, b * each + plan.keys), Number));
    };
    const chosen = await seen();
    for (const lengths of [
      [1, 1],
      [1, 200], // the shorter one grows more
      [3, 0],
    ]) {
      append(twin, sizes, lengths, random);
      const now = await seen();
      for (const [b, length] of lengthsOf(twin).entries()) {
        const first = [3000, 1000][b]!;
        for (let key = 0; key < length; key++) {
          const want = key < first ? chosen[b]![key] : 1;
          if (want === 1 && now[b]![key] !== 1) expect(now[b]![key], `sequence ${b}, key ${key}`).toBe(1);
        }
        const more = now[b]!.slice(0, length).reduce((sum, shown) => sum + shown, 0);
        expect(more).toBeLessThan(length);
      }
    }
    expect(state.runs).toEqual([1, 1, 1]);
    twin.cache.dispose();
  });

  it('starts anew with a truncated cache, with another one, and with tensors', () => {
    const { twin, random } = filled([3000, 1000]);
    using state = new HipState({ refresh: [99, 99, 99] });
    using q = tensorOf(queriesOf(random, 1), sizes.dtype);
    const run = (k: Tensor | KvCache) => {
      hipPlan(q, k, { ...hip, state }).dispose();
      return state.runs[0];
    };
    expect([run(twin.cache), run(twin.cache)]).toEqual([1, 1]);
    append(twin, sizes, [5, 5], random);
    expect(run(twin.cache)).toBe(1);
    // Truncated and appended to again: the lengths are what they were, the keys are not.
    truncate(twin, [3005, 1004]);
    append(twin, sizes, [0, 1], random);
    expect([run(twin.cache), run(twin.cache)]).toEqual([2, 2]);
    const fork = twin.cache.fork();
    expect([run(fork), run(fork)]).toEqual([3, 3]);
    fork.dispose();
    const tensor = Tensor.zeros([2, 4000, 2, sizes.headDim], { dtype: sizes.dtype });
    expect([run(tensor), run(tensor)]).toEqual([4, 4]);
    expect([run(twin.cache), run(twin.cache)]).toEqual([5, 5]);
    twin.cache.dispose();
    expect([run(tensor), run(tensor)]).toEqual([6, 6]);
  });
});

describe('what is kept', () => {
  const flush = async () => {
    using stream = new Stream();
    await stream.synchronize();
    await attention(Tensor.zeros([1, 1, 1, 1]), Tensor.zeros([1, 1, 1, 1]), Tensor.zeros([1, 1, 1, 1])).lse.read();
  };

  it('is counted, shared by forks, reused and given back', async () => {
    const shape = { batch: 1, kvHeads: 2, headDim: 64, capacity: 65536, dtype: 'bfloat16' } as const;
    const cache = new KvCache(shape);
    const tokens = Tensor.randn([1, 50_000, 2, 64], { seed: 1, dtype: 'bfloat16' });
    const q = Tensor.randn([1, 1, 4, 64], { seed: 2, dtype: 'bfloat16' });
    cache.append(tokens, tokens);
    await flush();
    const pages = cache.bytes;
    const others = memoryStats('cpu').bytes - pages;
    const select = async (of: KvCache) => {
      for (const make of [pagePlan, pooledPlan]) {
        using plan = make(q, of, { budget: 500, causal: true });
        await plan.density();
      }
      await flush();
      return of.bytes - pages;
    };
    // Largest and smallest elements of 16 keys, and the float32 means of 64, of 195 segments of 256; some in reserve.
    const segment = 2 * 64 * (2 * 16 * 2 + 4 * 4);
    const kept = await select(cache);
    expect(kept).toBeGreaterThanOrEqual(195 * segment);
    expect(kept).toBeLessThan(1.3 * 195 * segment + 2 * 2 ** 20);
    // Tensors of earlier tests may be collected meanwhile.
    expect(memoryStats('cpu').bytes - others - cache.bytes).toBeLessThan(4096);
    expect(await select(cache)).toBe(kept);
    const fork = cache.fork();
    expect([fork.bytes, cache.bytes]).toEqual([pages + kept, pages + kept]);
    expect(await select(fork)).toBe(kept);
    fork.truncate(30_000);
    expect(await select(fork)).toBe(kept);
    cache.truncate(0);
    cache.append(tokens, tokens);
    await select(cache);
    const again = cache.bytes;
    cache.truncate(10_000);
    await select(cache);
    expect(cache.bytes).toBe(again);
    const early = new KvCache(shape);
    const twin = early.fork();
    early.append(tokens, tokens);
    await select(early);
    expect(twin.bytes).toBe(early.bytes); // what they hold together
    for (const one of [cache, fork, early, twin]) one.dispose();
    await flush();
    expect(memoryStats('cpu').bytes - others).toBeLessThan(4096);
    for (const tensor of [tokens, q]) tensor.dispose();
  });
});

describe('refused', () => {
  const shape = { batch: 2, kvHeads: 2, headDim: 8, capacity: 100 };
  const cache = new KvCache(shape);
  cache.append(Tensor.zeros([2, 40, 2, 8]), Tensor.zeros([2, 40, 2, 8]), { lengths: [40, 20] });
  const q = Tensor.zeros([2, 1, 4, 8]);
  const empty = new KvCache(shape);
  const gone = new KvCache(shape);
  gone.dispose();
  const plan = (keys: number, queries = 1) => streamingPlan({ queries, keys, window: 8 });
  it.each<[string, string, RegExp, () => unknown]>([
    ['a plan of other keys', 'ERR_SHAPE', /39 keys.*40/, () => attention(q, cache, { mask: plan(39) })],
    ['a plan of other queries', 'ERR_SHAPE', /2 queries/, () => attention(q, cache, { mask: plan(40, 2) })],
    ['a plan over no keys', 'ERR_SHAPE', /8 keys.* 0/, () => attention(q, empty, { mask: plan(8) })],
    ['two plans', 'ERR_OPTION', /more than one/, () => attention(q, cache, { mask: [plan(40), plan(40)] })],
    [
      'a neighborhood beside it',
      'ERR_OPTION',
      /neighborhood/,
      () => attention(q, cache, { mask: [plan(40), neighborhood({ window: 1 })] }),
    ],
    [
      'an estimate beside a window',
      'ERR_OPTION',
      /a further mask/,
      () =>
        attention(q, cache, {
          mask: [hipPlan(q, cache, { budget: 8, estimate: true }), window({ left: 3, right: 0 })],
        }),
    ],
    ['an empty cache', 'ERR_SHAPE', /the cache has shape \[2, 0, 2, 8\]/, () => pagePlan(q, empty, { budget: 8 })],
    ['a disposed cache', 'ERR_DISPOSED', /KvCache.*disposed/, () => pagePlan(q, gone, { budget: 8 })],
    [
      'another type',
      'ERR_DTYPE',
      /q is bfloat16 but the cache is float32; convert q with to\('float32'\)/,
      () => hipPlan(q.to('bfloat16'), cache, { budget: 8 }),
    ],
    [
      'another batch',
      'ERR_SHAPE',
      /the cache \[2, 40/,
      () => pooledPlan(Tensor.zeros([1, 1, 4, 8]), cache, { budget: 8 }),
    ],
    ['heads', 'ERR_SHAPE', /multiple of kvHeads/, () => pagePlan(Tensor.zeros([2, 1, 3, 8]), cache, { budget: 8 })],
    ['a grid', 'ERR_SHAPE', /with a KvCache/, () => pagePlan(Tensor.zeros([2, 1, 1, 4, 8]), cache, { budget: 8 })],
    ['what is neither', 'ERR_OPTION', /k is 5/, () => pagePlan(q, 5 as never, { budget: 8 })],
    [
      'selection in capture',
      'ERR_OPTION',
      /capture: a plan over/,
      () => {
        using stream = new Stream();
        stream.capture(() => void pagePlan(q, cache, { budget: 8, stream }));
      },
    ],
    [
      'a plan in capture',
      'ERR_OPTION',
      /capture: a sparse plan/,
      () => {
        using stream = new Stream();
        stream.capture(() => void attention(q, cache, { mask: plan(40), stream }));
      },
    ],
  ])('%s', (_, code, message, call) => {
    expect(call).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
    expect(cache.lengths).toEqual([40, 20]);
  });
});
