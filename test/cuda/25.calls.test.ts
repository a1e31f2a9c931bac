// What the host makes of a call of attention() on the device: axes, parts, extra keys, empty axes, refusals.
import './support/device'; // before node-attention
import {
  type AttentionOptions,
  attention,
  causal,
  denseBias,
  keyBias,
  neighborhood,
  Tensor,
  window,
} from 'node-attention';
import { describe, expect, test } from 'vitest';
import { check } from '../support/library';
import { normal, uniform, type Values } from '../support/numbers';
import type { Problem } from '../support/oracle';
import { refusal } from '../support/refusal';
import { missing, schedule, schedules, title } from './support/device';

interface Sizes {
  batch?: number;
  queries: number[];
  keys: number[];
  heads?: number;
  kvHeads?: number;
  headDim?: number;
  extra?: number;
}

function problem(
  { batch = 1, queries, keys, heads = 2, kvHeads = heads, headDim = 32, extra }: Sizes,
  seed = 1,
): Problem {
  const random = uniform(seed);
  const make = (...shape: number[]): Values => normal(random, 'float16', shape);
  const made: Problem = {
    q: make(batch, ...queries, heads, headDim),
    k: make(batch, ...keys, kvHeads, headDim),
    v: make(batch, ...keys, kvHeads, headDim),
  };
  if (extra !== undefined) {
    made.extra = { k: make(batch, extra, kvHeads, headDim), v: make(batch, extra, kvHeads, headDim) };
  }
  return made;
}

const sinks = (heads: number): Values => ({
  shape: [heads],
  data: Float64Array.from({ length: heads }, (_, i) => i - 1),
});

describe.skipIf(missing)(title('calls of attention'), () => {
  test.each<[string, Problem]>([
    ['two token axes', problem({ queries: [3, 5], keys: [4, 7] })],
    ['three token axes', problem({ batch: 2, queries: [2, 3, 2], keys: [2, 3, 4], heads: 4, kvHeads: 2 })],
    ['axes of length 1', problem({ queries: [1, 5, 1], keys: [1, 6, 1] })],
    ['extra keys', problem({ queries: [5], keys: [9], extra: 3 })],
    [
      'extra keys alone count for masked rows',
      { ...problem({ queries: [7], keys: [3], extra: 2 }), masks: [{ left: 0, right: 0 }] },
    ],
    ['extra keys and sinks', { ...problem({ queries: [5], keys: [9], extra: 3 }), sinks: sinks(2) }],
    ['no keys but extra ones', problem({ queries: [4], keys: [0], extra: 5 })],
    ['no extra keys', problem({ queries: [4], keys: [5], extra: 0 })],
    ['no keys', problem({ queries: [4], keys: [0] })],
    ['no keys but a sink', { ...problem({ queries: [4], keys: [0] }), sinks: sinks(2) }],
    ['no queries', problem({ queries: [0], keys: [5] })],
    ['no batch', problem({ batch: 0, queries: [2], keys: [5] })],
    [
      'masks that are intersected',
      {
        ...problem({ queries: [20], keys: [30] }),
        masks: [
          { left: 5, right: 3 },
          { left: -1, right: 0 },
          { left: 9, right: -1 },
        ],
      },
    ],
    [
      'a window that reaches farther than 32 bits',
      { ...problem({ queries: [4], keys: [6] }), masks: [{ left: 2 ** 40, right: 1 }] },
    ],
    ['one query and many keys, in parts', problem({ queries: [1], keys: [3000], heads: 4, kvHeads: 1 })],
    [
      'one query and many keys, in parts, with a window',
      { ...problem({ queries: [1], keys: [3000] }), masks: [{ left: 700, right: 0 }] },
    ],
    ['one query, many keys and extra ones', problem({ queries: [1], keys: [2000], extra: 40 })],
  ])('%s', async (_, of) => {
    for (const [turn, one] of schedules.slice(0, 3).entries()) {
      schedule(one);
      // Views of larger tensors with axes in any order, too: then token axes have no common stride.
      await check(of, 'float16', turn === 0 ? undefined : turn, 'cuda');
    }
  });

  const tensor = (...shape: number[]) => Tensor.zeros(shape, { device: 'cuda' });
  const refused = (options: AttentionOptions, headDim = 8, valueDim = headDim) => {
    const [q, k, v] = [tensor(1, 4, 2, headDim), tensor(1, 4, 2, headDim), tensor(1, 4, 2, valueDim)];
    return refusal(() => attention(q, k, v, options));
  };

  test('what CUDA does not run is refused', () => {
    expect(refused({}, 257)).toMatchObject({
      code: 'ERR_SHAPE',
      message: expect.stringMatching(/headDim of q is 257.*256/),
    });
    expect(refused({}, 8, 300)).toMatchObject({
      code: 'ERR_SHAPE',
      message: expect.stringMatching(/headDim of v is 300/),
    });
    const mask = [causal(), ...[1, 2, 3, 4, 3].map((size) => neighborhood({ window: size }))];
    expect(refused({ mask })).toMatchObject({
      code: 'ERR_OPTION',
      message: expect.stringMatching(/5 neighborhoods.*4.*device 'cpu'/),
    });
    const bias = Array.from({ length: 5 }, () => keyBias(tensor(4)));
    expect(refused({ bias })).toMatchObject({ code: 'ERR_OPTION', message: expect.stringMatching(/5 biases.*4/) });
  });

  test('four biases are added', async () => {
    // Scores of 0 and whole numbers: every sum is exact, in any order.
    const q = tensor(1, 6, 2, 16);
    const k = Tensor.randn([1, 6, 2, 16], { seed: 2 }).to('cuda');
    const whole = (seed: number) => Float32Array.from({ length: 72 }, (_, i) => ((i * 7 + seed * 13) % 9) - 4);
    const bias = (data: Float32Array) => denseBias(Tensor.from(data, [1, 2, 6, 6], { device: 'cuda' }));
    const mask = window({ left: 2, right: 2 });
    const all = [3, 4, 5, 6].map(whole);
    const sum = whole(3).map((_, i) => all.reduce((total, one) => total + one[i]!, 0));
    const want = attention(q, k, k, { mask, bias: bias(sum) });
    const got = attention(q, k, k, { mask, bias: all.map(bias) });
    expect(await got.out.read()).toEqual(await want.out.read());
    expect(await got.lse.read()).toEqual(await want.lse.read());
  });
});
