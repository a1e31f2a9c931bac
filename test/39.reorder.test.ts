// Tokens of a grid in another order: which token comes where, that restoring undoes it, and that plans for the new order
// are the patterns in space that they should be.

import fc from 'fast-check';
import {
  attention,
  neighborhood,
  type PermuteOptions,
  permuteTokens,
  pooledPlan,
  restoreTokens,
  SparsePlan,
  Stream,
  Tensor,
} from 'node-attention';
import { describe, expect, it } from 'vitest';
import { uniform } from './support/numbers';
import { code } from './support/refusal';
import { pooled, select } from './support/selection';

/** The flat token that comes n-th, by walking boxes and then the tokens inside each. */
function walked(shape: number[], order: number[], box: number[]): number[] {
  const flat: number[] = [];
  const visit = (axes: number[], at: number[], step: (at: number[]) => void, extents: number[]) => {
    const [axis, ...rest] = axes;
    if (axis === undefined) return step(at);
    for (let i = 0; i < extents[axis]!; i++) visit(rest, Object.assign([...at], { [axis]: i }), step, extents);
  };
  const start = shape.map(() => 0);
  const boxes = shape.map((extent, axis) => extent / box[axis]!);
  visit(
    order,
    start,
    (corner) => {
      visit(
        order,
        start,
        (inside) => {
          flat.push(shape.reduce((sum, extent, axis) => sum * extent + corner[axis]! * box[axis]! + inside[axis]!, 0));
        },
        box,
      );
    },
    boxes,
  );
  return flat;
}

const walks = fc
  .array(fc.tuple(fc.nat(3), fc.integer({ min: 1, max: 3 })), { minLength: 1, maxLength: 3 })
  .chain((axes) =>
    fc.record({
      box: fc.constant(axes.map(([, extent]) => extent)),
      shape: fc.constant(axes.map(([boxes, extent]) => boxes * extent)),
      order: fc.shuffledSubarray(
        axes.map((_, axis) => axis),
        { minLength: axes.length },
      ),
      batch: fc.integer({ min: 1, max: 2 }),
    }),
  );

describe('permuteTokens', () => {
  it('walks boxes in the order of the axes, and the tokens inside each, also of views; restoreTokens undoes it', async () => {
    await fc.assert(
      fc.asyncProperty(walks, fc.boolean(), async ({ shape, order, box, batch }, strided) => {
        const [heads, dim] = [2, 3];
        const count = shape.reduce((all, extent) => all * extent, 1);
        const numbers = Float32Array.from({ length: batch * count * heads * dim }, (_, i) => i);
        // Heads in front of the tokens in memory: the view's last axes do not lie side by side.
        const tensor = strided
          ? Tensor.from(numbers, [heads, batch, ...shape, dim]).permute(
              ...[...shape.map((_, axis) => axis), shape.length].map((axis) => axis + 1),
              0,
              shape.length + 2,
            )
          : Tensor.from(numbers, [batch, ...shape, heads, dim]);
        const permuted = permuteTokens(tensor, { order, box });
        expect(permuted.shape).toEqual([batch, count, heads, dim]);
        const [before, after] = [[...(await tensor.read())], await permuted.read()];
        const size = heads * dim;
        const want = Array.from({ length: batch }, (_, b) =>
          walked(shape, order, box).map((token) => b * count + token),
        )
          .flat()
          .flatMap((token) => before.slice(token * size, (token + 1) * size));
        expect([...after]).toEqual(want);
        expect([...(await restoreTokens(permuted, { shape, order, box }).read())]).toEqual(before);
        const lse = permuted.slice([0, batch], [0, count], [0, heads], [1, 2]).reshape([batch, count, heads]);
        const restored = restoreTokens(lse, { shape, order, box });
        expect(restored.shape).toEqual([batch, ...shape, heads]);
        expect([...(await restored.read())]).toEqual(before.filter((_, i) => i % dim === 1));
      }),
    );
  });

  it('keeps the type', async () => {
    const tensor = Tensor.randn([1, 4, 6, 2, 8], { seed: 1, dtype: 'bfloat16' });
    const permuted = permuteTokens(tensor, { order: [1, 0] });
    expect(permuted.dtype).toBe('bfloat16');
    expect(await restoreTokens(permuted, { shape: [4, 6], order: [1, 0] }).read()).toEqual(await tensor.read());
  });

  it('is recorded on the stream that is given, of strided tensors too', async () => {
    using stream = new Stream();
    const numbers = new Float32Array(new SharedArrayBuffer(4 * 24 * 2 * 3));
    // Heads in front of the tokens.
    const tensor = Tensor.wrap(numbers, [2, 1, 4, 6, 3]).permute(1, 2, 3, 0, 4);
    const [order, shape] = [
      [1, 0],
      [4, 6],
    ];
    let [permuted, restored] = [tensor, tensor];
    using graph = stream.capture(() => {
      permuted = permuteTokens(tensor, { order, stream });
      restored = restoreTokens(permuted, { shape, order, stream });
    });
    for (const scale of [1, -2]) {
      for (let i = 0; i < numbers.length; i++) numbers[i] = scale * i;
      graph.launch();
      const before = [...(await tensor.read())];
      expect([...(await restored.read())]).toEqual(before);
      const want = walked(shape, order, [1, 1]).flatMap((token) => before.slice(6 * token, 6 * (token + 1)));
      expect([...(await permuted.read())]).toEqual(want);
    }
  });

  it.each<[string, number[], PermuteOptions, string, RegExp]>([
    [
      'an axis named twice',
      [1, 4, 6, 2, 8],
      { order: [0, 0] },
      'ERR_OPTION',
      /order is \[0, 0\]; name each of the axes \[0, 1\] once/,
    ],
    ['an axis too few', [1, 4, 6, 2, 8], { order: [0] }, 'ERR_OPTION', /order is \[0\]/],
    [
      'a box of another rank',
      [1, 4, 6, 2, 8],
      { box: [2] },
      'ERR_OPTION',
      /box has 1 extents; give one for each of the 2/,
    ],
    ['an empty box', [1, 4, 6, 2, 8], { box: [2, 0] }, 'ERR_OPTION', /box\[1\] is 0/],
    [
      'a box that does not divide',
      [1, 4, 6, 2, 8],
      { box: [2, 4] },
      'ERR_SHAPE',
      /box\[1\] is 4, which does not divide the 6 tokens of axis 1/,
    ],
    ['no token axis', [4, 6, 8], {}, 'ERR_SHAPE', /\[4, 6, 8\]; it must be \[batch, tokens\.\.\., heads, headDim\]/],
    ['four token axes', [1, 1, 1, 1, 1, 1, 1], {}, 'ERR_SHAPE', /one to three token axes/],
    ['an unknown option', [1, 4, 6, 2, 8], { boxes: [1, 1] } as PermuteOptions, 'ERR_OPTION', /'boxes' is not known/],
    ['no stream', [1, 4, 6, 2, 8], { stream: 5 as never }, 'ERR_OPTION', /stream is 5/],
  ])('refuses %s', (_, shape, opts, expected, message) => {
    const run = () => permuteTokens(Tensor.zeros(shape), opts);
    expect(code(run)).toBe(expected);
    expect(run).toThrow(message);
  });

  it('refuses to restore what has another number of tokens', () => {
    const run = () => restoreTokens(Tensor.zeros([1, 24, 2, 8]), { shape: [4, 5] });
    expect(code(run)).toBe('ERR_SHAPE');
    expect(run).toThrow(/shape is \[4, 5\] and tensor has shape \[1, 24, 2, 8\]/);
    expect(code(() => restoreTokens(Tensor.zeros([1, 24, 2, 3, 4]), { shape: [4, 6] }))).toBe('ERR_SHAPE');
    expect(code(() => permuteTokens(5 as never, {}))).toBe('ERR_OPTION');
  });
});

describe('plans of tokens in another order', () => {
  const shape = [4, 6, 8];
  const [q, k, v] = [1, 2, 3].map((seed) => Tensor.randn([1, ...shape, 2, 16], { seed })) as [Tensor, Tensor, Tensor];

  it('boxes that see themselves are blocked attention in space and time', async () => {
    const box = [2, 2, 4];
    const [pq, pk, pv] = [q, k, v].map((each) => permuteTokens(each, { box })) as [Tensor, Tensor, Tensor];
    const plan = SparsePlan.fromBlocks(
      Array.from({ length: 12 }, (_, i) => [i]),
      { queries: 192, keys: 192, queryTile: 16, keyBlock: 16 },
    );
    const { out, lse } = attention(pq, pk, pv, { mask: plan });
    const blocked = attention(q, k, v, { mask: neighborhood({ window: box, stride: box }) });
    for (const [got, want] of [
      [restoreTokens(out, { shape, box }), blocked.out],
      [restoreTokens(lse, { shape, box }), blocked.lse],
    ] as const) {
      expect(got.shape).toEqual(want.shape);
      const [a, b] = [(await got.read()) as Float32Array, (await want.read()) as Float32Array];
      // Rounding of scores below 8 whose 16 terms are summed in float32, in the exponent, of values below 5; on both sides.
      a.forEach((x, i) => {
        expect(Math.abs(x - b[i]!)).toBeLessThan(2 * 8 * (16 + 2) * 2 ** -24 * 5);
      });
    }
  });

  it.each(['a tile', 'each query'])('the boxes that %s selects are those whose mean keys are best', async (whose) => {
    const [box, order, keyBlock] = [[2, 2, 4], [2, 0, 1], 16];
    const whole = uniform(7);
    const small = (tokens: number) => Float32Array.from({ length: tokens * 8 }, () => Math.floor(whole() * 9) - 4);
    const [qs, ks] = [small(192), small(192)];
    const [own, tile] = whose === 'each query' ? [{ queries: 'own' as const }, 1] : [{}, 16];
    const permuted = [qs, ks].map((values) => permuteTokens(Tensor.from(values, [1, ...shape, 1, 8]), { box, order }));
    const always = { sink: 0, window: 0 };
    const plan = pooledPlan(permuted[0]!, permuted[1]!, {
      budget: 2 * keyBlock,
      queryTile: 16,
      keyBlock,
      always,
      ...own,
    });
    const tokens = walked(shape, order, box);
    const rows = (values: Float32Array) => tokens.map((token) => [...values.subarray(8 * token, 8 * token + 8)]);
    const want = select(
      [{ q: rows(qs), k: rows(ks) }],
      { queryTile: tile, keyBlock, budget: 2, causal: false, sink: 0, window: 0 },
      pooled('mean'),
    );
    const seen = await plan.toDense().read();
    for (let query = 0; query < 192; query++) {
      const blocks = Array.from({ length: 12 }, (_, block) => block).filter((block) =>
        seen.subarray(192 * query + 16 * block, 192 * query + 16 * (block + 1)).every((one) => one === 1),
      );
      expect(blocks).toEqual(want[Math.floor(query / tile)]);
    }
    // A box is the tokens that lie together in space and time, wherever they are in the walk.
    const first = want[0]![0]!;
    const inside = tokens.slice(16 * first, 16 * (first + 1)).map((token) => [token % 8, Math.floor(token / 8) % 6]);
    expect(new Set(inside.map(([column, row]) => `${column! >> 2} ${row! >> 1}`)).size).toBe(1);
  });

  it('selecting every box is dense attention', async () => {
    const [box, order] = [
      [2, 2, 4],
      [2, 0, 1],
    ];
    const [pq, pk, pv] = [q, k, v].map((each) => permuteTokens(each, { box, order })) as [Tensor, Tensor, Tensor];
    const plan = pooledPlan(pq, pk, { budget: 192, queryTile: 16, keyBlock: 16 });
    const got = (await restoreTokens(attention(pq, pk, pv, { mask: plan }).out, {
      shape,
      box,
      order,
    }).read()) as Float32Array;
    const want = (await attention(q, k, v).out.read()) as Float32Array;
    got.forEach((x, i) => {
      expect(Math.abs(x - want[i]!)).toBeLessThan(2 * 8 * (16 + 2) * 2 ** -24 * 5);
    });
  });
});
