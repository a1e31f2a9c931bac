// Selectors take any strides but for the last axis: token axes that were permuted or cut out of larger ones give the plan
// of copies that lie side by side.

import { createHash } from 'node:crypto';
import { attention, HipState, hipPlan, memoryStats, type SparsePlan, Stream, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { selectors } from './support/selectors';

/** Views of shape [2, ...tokens, heads, dim] whose tokens have no common stride, by name; NaN lies between them. */
const views: [string, (seed: number, tokens: number[], heads: number, dim: number) => Tensor][] = [
  [
    'cut out of larger axes',
    (seed, tokens, heads, dim) => {
      const values = Tensor.randn([2, ...tokens, heads, dim], { seed });
      const wide = [2, ...tokens.map((extent) => extent + 3), heads + 1, dim];
      const all = Tensor.zeros(wide);
      all.data.fill(Number.NaN);
      const strides = wide.map((_, axis) => wide.slice(axis + 1).reduce((a, b) => a * b, 1));
      const shape = values.shape;
      values.data.forEach((value, flat) => {
        let at = 0;
        for (let axis = shape.length - 1, rest = flat; axis >= 0; axis--) {
          const first = axis > 0 && axis < shape.length - 2 ? 1 : 0;
          at += ((rest % shape[axis]!) + first) * strides[axis]!;
          rest = Math.floor(rest / shape[axis]!);
        }
        all.data[at] = value;
      });
      return all.slice([0, 2], ...tokens.map((n): [number, number] => [1, n + 1]), [0, heads], [0, dim]);
    },
  ],
  [
    'in the reverse order',
    (seed, tokens, heads, dim) => {
      const axes = tokens.map((_, i) => tokens.length - i);
      const reverse = Tensor.randn([2, ...[...tokens].reverse(), heads, dim], { seed });
      return reverse.permute(0, ...axes, tokens.length + 1, tokens.length + 2);
    },
  ],
  [
    'in the middle of the heads',
    (seed, tokens, heads, dim) => {
      const apart = Tensor.randn([tokens[0]!, heads, 2, ...tokens.slice(1), dim], { seed });
      const rest = tokens.slice(1).map((_, i) => i + 3);
      return apart.permute(2, 0, ...rest, 1, tokens.length + 2);
    },
  ],
];

const packed = async (view: Tensor) => Tensor.from((await view.read()) as Float32Array, view.shape);

/** A digest of which keys each query sees. */
async function shown(plan: SparsePlan) {
  await plan.validate();
  using seen = plan.toDense();
  return createHash('sha256')
    .update((await seen.read()) as Uint8Array)
    .digest('hex');
}

describe.each(views)('token axes %s', (_, make) => {
  it.each(selectors)('%s gives the plan of copies', async (__, select) => {
    for (const [queries, keys, causal] of [
      [[5, 31], [12, 67], true],
      [[3, 5, 9], [7, 10, 11], false],
      [[1, 40], [600, 2], true],
      [[4, 1, 33], [2, 300, 1], false],
    ] as const) {
      using q = make(1, [...queries], 4, 12);
      using k = make(2, [...keys], 2, 12);
      const options = { budget: 100, causal, keyBlock: 16, queryTile: 32, always: { sink: 5, window: 20 } };
      const plan = select(q, k, options);
      using wanted = select(await packed(q), await packed(k), options);
      expect(await plan.density()).toBeLessThan(0.8);
      expect(await shown(plan)).toEqual(await shown(wanted));
    }
  });

  it('in a graph, in a state, and of another type', async () => {
    using stream = new Stream();
    using q = make(1, [2, 8], 2, 16);
    using k = make(2, [50, 30], 2, 16);
    using v = await packed(k);
    const options = { budget: 64, causal: true, always: { sink: 0, window: 1 } };
    using wanted = attention(await packed(q), v, v, { mask: hipPlan(await packed(q), v, options) }).out;
    let out: Tensor | undefined;
    using graph = stream.capture(() => {
      out = attention(q, k, v, { mask: hipPlan(q, k, { ...options, stream }), stream }).out;
    });
    for (let i = 0; i < 2; i++) {
      graph.launch();
      expect(await out!.read()).toEqual(await wanted.read());
    }
    using state = new HipState({ refresh: [4, 2, 1] });
    using plain = new HipState({ refresh: [4, 2, 1] });
    for (let step = 0; step < 5; step++) {
      using a = hipPlan(q, k, { ...options, state });
      using b = hipPlan(await packed(q), v, { ...options, state: plain });
      expect(await shown(a)).toEqual(await shown(b));
    }
    expect(state.runs).toEqual(plain.runs);
  });
});

it('is freed with its copies, disposed of at once', async () => {
  const whole = [Tensor.randn([2, 5, 3, 1, 8], { seed: 1 }), Tensor.randn([2, 30, 50, 1, 8], { seed: 2 })] as const;
  const [q, k] = [whole[0].permute(0, 2, 1, 3, 4), whole[1].permute(0, 2, 1, 3, 4)];
  using q2 = await packed(q);
  using k2 = await packed(k);
  using wanted = hipPlan(q2, k2, { budget: 40 });
  const seen = await shown(wanted);
  // What earlier tests left behind goes first.
  for (let i = 0; i < 5; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const { live } = memoryStats('cpu');
  const plan = hipPlan(q, k, { budget: 40 });
  for (const each of [q, k, ...whole]) each.dispose();
  expect(await shown(plan)).toEqual(seen);
  plan.dispose();
  expect(memoryStats('cpu').live).toBeLessThanOrEqual(live - whole.length);
});

it('is refused where a head does not lie side by side', () => {
  using k = Tensor.randn([1, 30, 2, 8], { seed: 1 });
  using apart = Tensor.randn([1, 30, 8, 2], { seed: 2 });
  for (const [, select] of selectors) {
    for (const [q, keys, name] of [
      [apart.permute(0, 1, 3, 2), k, 'q'],
      [k, apart.permute(0, 1, 3, 2), 'k'],
    ] as const) {
      expect(() => select(q, keys, { budget: 8 })).toThrow(
        expect.objectContaining({
          code: 'ERR_SHAPE',
          message: `${name} has stride 2 on its last axis; it must be 1: copy it with to()`,
        }),
      );
    }
  }
});
