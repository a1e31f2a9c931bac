// pooledPlan with queries that select for themselves: what each sees, against the definition of selection.ts with tiles of
// one query; MoBA's gate; attention over such plans.

import {
  attention,
  causal,
  KvCache,
  type PooledOptions,
  pooledPlan,
  type SparsePlan,
  Stream,
  Tensor,
} from 'node-attention';
import { describe, expect, it, vi } from 'vitest';
import { uniform } from './support/numbers';
import { code } from './support/refusal';
import { pooled, type Rows, select } from './support/selection';

const rowsOf = (tensor: Tensor, data: Float32Array, batch: number, head: number) => {
  const [, tokens, heads, dim] = tensor.shape as [number, number, number, number];
  return Array.from({ length: tokens }, (_, token) => {
    const at = ((batch * tokens + token) * heads + head) * dim;
    return Array.from(data.subarray(at, at + dim));
  });
};

/** Small integers: products are exact, and so are ties. */
async function integers(seed: number, shape: number[], dtype: 'float32' | 'bfloat16' | 'float16' = 'float32') {
  const random = uniform(seed);
  const size = shape.reduce((a, b) => a * b, 1);
  const data = Float32Array.from({ length: size }, () => Math.floor(random() * 9) - 4);
  return { data, tensor: Tensor.from(data, shape, { dtype }) };
}

/** Of each query, which keys it sees: '0' or '1' each; [batch][pattern][query]. */
async function seenBy(plan: SparsePlan) {
  await plan.validate();
  using dense = plan.toDense();
  const all = (await dense.read()) as Uint8Array;
  const repeats = dense.shape[1]! / plan.heads;
  return Array.from({ length: plan.batch * plan.heads * plan.queries }, (_, row) => {
    const [pattern, query] = [Math.floor(row / plan.queries), row % plan.queries];
    const at = (pattern * repeats * plan.queries + query) * plan.keys;
    return all.subarray(at, at + plan.keys).join('');
  });
}

const poolings = ['mean', 'max', 'min'] as const;

describe.each([
  { queries: 100, keys: 500, heads: 4, kvHeads: 2, dim: 16, queryTile: 64, keyBlock: 8 },
  { queries: 147, keys: 147, heads: 2, kvHeads: 2, dim: 5, queryTile: 16, keyBlock: 32 },
  { queries: 260, keys: 200, heads: 3, kvHeads: 1, dim: 7, queryTile: 128, keyBlock: 4 },
  { queries: 1, keys: 333, heads: 3, kvHeads: 1, dim: 40, queryTile: 32, keyBlock: 16 },
])('%j', (size) => {
  const { queries, keys, heads, kvHeads, dim, queryTile, keyBlock } = size;
  it.each([
    ['group', true, 'float32', 'mean'],
    ['none', false, 'float16', 'max'],
    ['all', true, 'bfloat16', 'min'],
  ] as const)(
    'each query has its own selection, shared by %s, causal %s, %s, %s',
    async (share, isCausal, dtype, pooling) => {
      const q = await integers(1, [2, queries, heads, dim], dtype);
      const k = await integers(2, [2, keys, kvHeads, dim], dtype);
      const count = { all: 1, group: kvHeads, none: heads }[share];
      for (const [sink, window, blocks] of [
        [0, 1, 3],
        [10, 33, 2],
        [0, 0, 1],
      ] as const) {
        using plan = pooledPlan(q.tensor, k.tensor, {
          queries: 'own',
          pooling,
          share,
          causal: isCausal,
          queryTile,
          keyBlock,
          always: { sink, window },
          budget: blocks * keyBlock,
        });
        const want: string[] = [];
        for (let batch = 0; batch < 2; batch++) {
          for (let pattern = 0; pattern < count; pattern++) {
            const own = Array.from({ length: heads / count }, (_, i): Rows => {
              const head = (pattern * heads) / count + i;
              return {
                q: rowsOf(q.tensor, q.data, batch, head),
                k: rowsOf(k.tensor, k.data, batch, Math.floor(head / (heads / kvHeads))),
              };
            });
            const s = { queryTile: 1, keyBlock, budget: blocks, causal: isCausal, sink, window };
            select(own, s, pooled(pooling)).forEach((list, query) => {
              const listed = new Set(list);
              const last = isCausal ? query + keys - queries : keys;
              const sees = (key: number) => key <= last && listed.has(Math.floor(key / keyBlock));
              want.push(Array.from({ length: keys }, (_, key) => Number(sees(key))).join(''));
            });
          }
        }
        const got = await seenBy(plan);
        expect(got.length).toBe(want.length);
        const wrong = want.findIndex((row, i) => row !== got[i]);
        if (wrong >= 0) expect(got[wrong], `row ${wrong}`).toBe(want[wrong]);
      }
    },
  );
});

describe('attention', () => {
  /** Softmax over what each query sees, in float64. */
  function expected(q: number[][], k: number[][], v: number[][], seen: string[]) {
    return q.map((query, i) => {
      const scores = k.map((key) => key.reduce((sum, x, d) => sum + x * query[d]!, 0) / Math.sqrt(query.length));
      const weights = scores.map((score, j) => (seen[i]![j] === '1' ? Math.exp(score) : 0));
      const total = weights.reduce((a, b) => a + b, 0);
      return v[0]!.map((_, d) => (total === 0 ? 0 : weights.reduce((sum, w, j) => sum + w * v[j]![d]!, 0) / total));
    });
  }

  it.each([16, 64])('over a plan with tiles of %i queries is that over what each query sees', async (queryTile) => {
    const [tokens, dim] = [230, 12];
    const [q, k, v] = [1, 2, 3].map((seed) => Tensor.randn([1, tokens, 2, dim], { seed })) as [Tensor, Tensor, Tensor];
    const options = { budget: 24, causal: true, keyBlock: 8, always: { sink: 0, window: 1 }, share: 'none' } as const;
    using plan = pooledPlan(q, k, { ...options, queries: 'own', queryTile });
    const seen = await seenBy(plan);
    const [out, data] = [
      (await attention(q, k, v, { mask: plan }).out.read()) as Float32Array,
      await Promise.all([q, k, v].map((each) => each.read() as Promise<Float32Array>)),
    ];
    for (let head = 0; head < 2; head++) {
      const [qs, ks, vs] = [q, k, v].map((tensor, i) => rowsOf(tensor, data[i]!, 0, head)) as [
        number[][],
        number[][],
        number[][],
      ];
      expected(qs, ks, vs, seen.slice(head * tokens, (head + 1) * tokens)).forEach((row, query) => {
        row.forEach((want, d) => {
          // Rounding of scores below 20 whose 12 terms are summed in float32, in the exponent; twice that.
          expect(Math.abs(out[(query * 2 + head) * dim + d]! - want)).toBeLessThan(2 * 20 * (dim + 2) * 2 ** -24 * 5);
        });
      });
    }
  });

  it.each([
    ['float32', 1e-5, false],
    ['bfloat16', 2 ** -7, false],
    ['float32', 1e-5, true],
    ['bfloat16', 2 ** -7, true],
  ] as const)('in several runs of queries is that of tiles that select alike, %s', async (dtype, allowed, estimate) => {
    // Queries 16 by 16 are alike, so that those of a tile of 16 have one selection, which any tile of 64 cuts by bitmaps.
    const [tokens, heads, keyBlock] = [1400, 4, 32];
    using first = Tensor.randn([1, Math.ceil(tokens / 16), heads, 24], { seed: 1 });
    const few = (await first.read()) as Float32Array;
    const row = heads * 24;
    const data = Float32Array.from(
      { length: tokens * row },
      (_, n) => few[Math.floor(n / row / 16) * row + (n % row)]!,
    );
    using q = Tensor.from(data, [1, tokens, heads, 24], { dtype });
    using k = Tensor.randn([1, tokens, 2, 24], { seed: 2, dtype });
    using sinks = Tensor.randn([heads], { seed: 3 });
    using extra = Tensor.randn([1, 5, 2, 24], { seed: 4, dtype });
    const options: PooledOptions = { budget: 96, keyBlock, always: { sink: 0, window: 0 }, estimate };
    using own = pooledPlan(q, k, { ...options, queries: 'own', queryTile: 64 });
    using tile = pooledPlan(q, k, { ...options, queryTile: 16 });
    const [seen, shown] = await Promise.all([own, tile].map((each) => each.toDense().read()));
    expect(Buffer.compare(seen as Uint8Array, shown as Uint8Array)).toBe(0);
    expect((await own.statistics()).bitmaps).toBeGreaterThan(100);
    const [got, want] = [own, tile].map((mask) => attention(q, k, k, { mask, sinks, extra: { k: extra, v: extra } }));
    // Sums of 140 terms in another order, of values below 5.
    for (const name of ['lse', 'out'] as const) {
      const [a, b] = (await Promise.all([got!, want!].map((each) => each[name].to('float32').read()))) as [
        Float32Array,
        Float32Array,
      ];
      expect(a.length).toBe(b.length);
      const off = a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
      expect(off).toBeLessThan(name === 'lse' ? 1e-5 : 5 * allowed);
    }
  });

  it('of one query is what its tile selects, without bitmaps', async () => {
    const [q, k] = [Tensor.randn([1, 1, 2, 12], { seed: 1 }), Tensor.randn([1, 230, 2, 12], { seed: 2 })];
    const options = { budget: 24, causal: true, keyBlock: 8, share: 'none' } as const;
    using own = pooledPlan(q, k, { ...options, queries: 'own' });
    using tile = pooledPlan(q, k, options);
    expect(own.bytes).toBe(tile.bytes);
    expect(await own.toDense().read()).toEqual(await tile.toDense().read());
  });

  it("is MoBA's: the own block and the best of those before it, by the query's product with their means", async () => {
    const [tokens, dim, keyBlock, topK] = [160, 8, 16, 3];
    const { data, tensor } = await integers(7, [1, tokens, 1, dim]);
    const keys = rowsOf(tensor, data, 0, 0);
    using plan = pooledPlan(tensor, tensor, {
      queries: 'own',
      causal: true,
      keyBlock,
      queryTile: 64,
      always: { sink: 0, window: 1 },
      budget: (topK - 1) * keyBlock,
    });
    const seen = await seenBy(plan);
    keys.forEach((query, position) => {
      const own = Math.floor(position / keyBlock);
      const gates = Array.from({ length: own }, (_, block) => {
        const members = keys.slice(block * keyBlock, (block + 1) * keyBlock);
        return members.reduce((sum, key) => sum + key.reduce((dot, x, d) => dot + x * query[d]!, 0), 0);
      });
      const best = gates.map((_, i) => i).sort((a, b) => gates[b]! - gates[a]! || a - b);
      const blocks = new Set([own, ...best.slice(0, topK - 1)]);
      const want = keys.map((_, key) => Number(key <= position && blocks.has(Math.floor(key / keyBlock)))).join('');
      expect(seen[position], `query ${position}`).toBe(want);
    });
  });

  it.each([true, false])('is dense when the budget is all keys, causal %s', async (isCausal) => {
    using q = Tensor.randn([1, 150, 4, 24], { seed: 1 });
    using k = Tensor.randn([1, 310, 2, 24], { seed: 2 });
    using plan = pooledPlan(q, k, { queries: 'own', budget: 310, causal: isCausal });
    expect(await plan.density()).toBe(1);
    const mask = isCausal ? causal() : [];
    const results = [plan, mask].map((of) => attention(q, k, k, { mask: of }));
    const [a, b] = results.map(({ out, lse }) => Promise.all([out.read(), lse.read()]));
    expect(await a).toEqual(await b);
  });
});

it.each([true, false])(
  'counts what a query has not selected by means, causal %s, if all of its tile may see it',
  async (isCausal) => {
    const [queries, keys, keyBlock, queryTile, dim] = [150, 470, 16, 32, 8];
    const [q, k] = [await integers(3, [1, queries, 2, dim]), await integers(4, [1, keys, 1, dim])];
    using v = Tensor.randn([1, keys, 1, dim], { seed: 5 });
    const options: PooledOptions = {
      queries: 'own',
      budget: 48,
      keyBlock,
      queryTile,
      causal: isCausal,
      estimate: true,
    };
    using plan = pooledPlan(q.tensor, k.tensor, { ...options, always: { sink: 3, window: 2 } });
    const seen = await seenBy(plan);
    const qs = [0, 1].map((head) => rowsOf(q.tensor, q.data, 0, head));
    const ks = rowsOf(k.tensor, k.data, 0, 0);
    const vs = rowsOf(v, (await v.read()) as Float32Array, 0, 0);
    const { out, lse } = attention(q.tensor, k.tensor, v, { mask: plan, scale: 0.1 });
    const [gotOut, gotLse] = (await Promise.all([out.read(), lse.read()])) as [Float32Array, Float32Array];
    const mean = (rows: number[][], d: number) => rows.reduce((sum, row) => sum + row[d]!, 0) / rows.length;
    for (let head = 0; head < 2; head++) {
      for (let i = 0; i < queries; i++) {
        const border = isCausal ? i - (i % queryTile) + keys - queries + 1 : keys;
        const sums = new Float64Array(dim + 1);
        const add = (first: number, end: number) => {
          const [keyRows, valueRows] = [ks, vs].map((rows) => rows.slice(first, end)) as [number[][], number[][]];
          const dot = qs[head]![i]!.reduce((sum, x, d) => sum + x * mean(keyRows, d), 0);
          const weight = (end - first) * Math.exp(0.1 * dot);
          for (let d = 0; d < dim; d++) sums[d]! += weight * mean(valueRows, d);
          sums[dim]! += weight;
        };
        for (let first = 0; first < keys; first += keyBlock) {
          const end = Math.min(first + keyBlock, keys);
          const own = seen[i]!.slice(first, end);
          if (own.includes('1')) {
            for (let j = first; j < end; j++) if (own[j - first] === '1') add(j, j + 1);
          } else if (end <= border) add(first, end);
        }
        const at = i * 2 + head;
        // Twice the rounding of scores of 8 terms below 13 together, in the exponent, of values below 5.
        const off = 2 * 10 * 13 * 2 ** -24 * 5;
        expect(Math.abs(gotLse[at]! - Math.log(sums[dim]!))).toBeLessThan(off);
        for (let d = 0; d < dim; d++) {
          expect(Math.abs(gotOut[at * dim + d]! - sums[d]! / sums[dim]!)).toBeLessThan(off);
        }
      }
    }
  },
);

it.each(poolings)('by shares of the softmax, and over a cache, as tiles of one query would: %s', async (pooling) => {
  const lengths = [300, 120];
  const [q, k] = [Tensor.randn([2, 20, 4, 16], { seed: 3 }), Tensor.randn([2, 300, 2, 16], { seed: 4 })];
  const options: PooledOptions = { queries: 'own', pooling, topP: 0.6, causal: true, keyBlock: 8, queryTile: 16 };
  const always = { sink: 4, window: 6 };
  using cache = new KvCache({ batch: 2, kvHeads: 2, headDim: 16, capacity: 300 });
  cache.append(k, k, { lengths });
  using all = pooledPlan(q, cache, { ...options, always });
  const got = await attention(q, cache, { mask: all }).out.read();
  for (const [batch, length] of lengths.entries()) {
    const own = k.slice([batch, batch + 1], [0, length], [0, 2], [0, 16]);
    for (let token = 0; token < 20; token++) {
      // One query, at its position: its plan is a row of its own.
      const one = q.slice([batch, batch + 1], [token, token + 1], [0, 4], [0, 16]);
      const before = own.slice([0, 1], [0, length - 19 + token], [0, 2], [0, 16]);
      using plan = pooledPlan(one, before, { ...options, queries: 'each', always });
      const want = (await attention(one, before, before, { mask: plan }).out.read()) as Float32Array;
      const at = (batch * 20 + token) * 64;
      // Twice the rounding of scores whose 16 terms are below 10 together, in the exponent, of values below 5.
      const off = 2 * 18 * 10 * 2 ** -24 * 5;
      for (const [i, value] of want.entries()) expect(Math.abs(Number(got[at + i]) - value)).toBeLessThan(off);
    }
  }
});

it('follows its inputs in a graph, and joins other plans', async () => {
  using stream = new Stream();
  using q = Tensor.randn([1, 70, 2, 16], { seed: 1 });
  using k = Tensor.zeros([1, 400, 2, 16]);
  const options: PooledOptions = {
    queries: 'own',
    budget: 64,
    causal: true,
    keyBlock: 16,
    always: { sink: 0, window: 1 },
  };
  let out: Tensor | undefined;
  using graph = stream.capture(() => {
    out = attention(q, k, k, { mask: pooledPlan(q, k, { ...options, stream }), stream }).out;
  });
  for (const seed of [5, 6]) {
    using other = Tensor.randn([1, 400, 2, 16], { seed });
    k.data.set(other.data);
    graph.launch();
    using plan = pooledPlan(q, other, options);
    expect(await out!.read()).toEqual(await attention(q, other, other, { mask: plan }).out.read());
    using tile = pooledPlan(q, other, { ...options, queries: 'each' });
    using both = plan.union(tile);
    const [own, shared, seen] = await Promise.all([plan, tile, both].map(seenBy));
    const join = (a: string, b: string) => [...a].map((x, i) => (x === '1' || b[i] === '1' ? '1' : '0')).join('');
    expect(seen).toEqual(own!.map((row, i) => join(row, shared![i]!)));
  }
});

it('says how attention walks it without a look at its bitmaps', async () => {
  using q = Tensor.randn([1, 256, 1, 16], { seed: 1 });
  using plan = pooledPlan(q, q, { queries: 'own', budget: 64, causal: true, always: { sink: 0, window: 1 } });
  const read = vi.spyOn(Tensor.prototype, 'read');
  const text = await plan.explain();
  const arrays = await Promise.all(read.mock.results.map(({ value }) => value as Promise<Float32Array>));
  read.mockRestore();
  expect(text).toMatch(/^4 rows of 64 queries list \d+ of 10 blocks of 64 keys, causal: [\d.]+ % of the scores\. /);
  expect(arrays.length).toBeGreaterThan(0);
  // For each block two words and a bitmap of 128 words.
  expect(arrays.reduce((sum, { byteLength }) => sum + byteLength, 0)).toBeLessThan(plan.bytes / 10);
  // Room for bitmaps is no bitmap.
  using whole = pooledPlan(q, q, { queries: 'own', budget: 256, causal: true });
  expect(await whole.explain()).toMatch(/list 10 of 10 blocks .* That is every block: attention is dense$/);
});

it('has room for what its queries may select, each of them', () => {
  const tokens = 4096;
  using q = Tensor.zeros([1, tokens, 1, 1]);
  // How many blocks of 16 keys a window touches at most.
  for (const [window, blocks] of [
    [1, 1],
    [16, 2],
    [17, 2],
    [18, 3],
  ] as const) {
    const always = { sink: 20, window };
    const options = { queries: 'own', budget: 17, causal: true, keyBlock: 16, queryTile: 16, always } as const;
    using plan = pooledPlan(q, q, options);
    // Two blocks of the sink, two of the budget, those of the window; no more than there are.
    let room = 0;
    for (let visible = 1; visible <= tokens / 16; visible++) room += Math.min(visible, 16 * (2 + 2 + blocks));
    expect(plan.bytes).toBe(4 * (tokens / 16 + 1 + 2 * room + 16 * room));
  }
});

it('is refused where there is none such', () => {
  using k = Tensor.randn([1, 30, 2, 8], { seed: 1 });
  expect(code(() => pooledPlan(k, k, { queries: 'any' as never, budget: 8 }))).toBe('ERR_OPTION');
});
