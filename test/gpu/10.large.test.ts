// Offsets that need more than 32 bits, in elements and in bytes: tensors of more than 2^31 elements, strides of more than
// 4 GiB. Every result is checked on sampled rows, whose few keys are read back for the oracle. Elsewhere the same with small
// tensors.

import { attention, causal, denseBias, Tensor, window } from 'node-attention';
import { afterEach, describe, expect, it } from 'vitest';
import { decode } from '../support/numbers';
import type { Problem } from '../support/oracle';
import { expected } from '../support/tolerance';
import { device, sized } from './device';

const made: Tensor[] = [];
const keep = <T extends Tensor>(tensor: T): T => {
  made.push(tensor);
  return tensor;
};
afterEach(() => {
  for (const tensor of made.splice(0)) tensor.dispose();
});

const BLOCK = sized(2 ** 25, 2 ** 10);

/**
 * A bfloat16 tensor [tokens, heads, dim] of random numbers: one block of tokens, repeated by results of attention that are
 * written into slices, since the library fills no part of a tensor otherwise. (Attention with a window of the own key
 * gives the values.)
 */
function large(tokens: number, heads: number, dim: number, seed: number): Tensor<'bfloat16'> {
  const whole = keep(Tensor.empty([1, tokens, heads, dim], { dtype: 'bfloat16', device }));
  const step = Math.max(1, Math.floor(BLOCK / (heads * dim)));
  const random = Tensor.randn([1, Math.min(step, tokens), heads, dim], { seed, dtype: 'bfloat16', device });
  for (let at = 0; at < tokens; at += step) {
    const length = Math.min(step, tokens - at);
    const from = rowsOf(random, 0, length);
    const out = rowsOf(whole, at, at + length);
    attention(from, from, from, { mask: window({ left: 0, right: 0 }), out }).lse.dispose();
    for (const view of [from, out]) view.dispose();
  }
  random.dispose();
  return whole;
}

/** Tokens [start, stop) of [1, tokens, heads, dim]. */
function rowsOf(tensor: Tensor<'bfloat16'>, start: number, stop: number): Tensor<'bfloat16'> {
  const [batch, , heads, dim] = tensor.shape as [number, number, number, number];
  return tensor.slice([0, batch], [start, stop], [0, heads], [0, dim]);
}

async function valuesOf(tensor: Tensor): Promise<{ shape: number[]; data: Float64Array }> {
  const data = decode(tensor.dtype as 'bfloat16', await tensor.read());
  const shape = [...tensor.shape];
  tensor.dispose();
  return { shape, data };
}

/** Compares a sampled piece of a result with the oracle's on the same piece of the problem. */
async function compare(problem: Problem, out: Tensor, lse: Tensor): Promise<void> {
  const want = expected(problem, 'bfloat16');
  const got = { out: await valuesOf(out), lse: await valuesOf(lse) };
  const worst = (a: Float64Array, b: Float64Array) =>
    a.reduce((most, x, i) => Math.max(most, x === b[i] ? 0 : Math.abs(x - b[i]!)), 0);
  expect(got.out.data.length).toBe(want.out.length);
  expect(worst(got.out.data, want.out)).toBeLessThanOrEqual(want.tolerance.out);
  expect(worst(got.lse.data, want.lse)).toBeLessThanOrEqual(want.tolerance.lse);
}

const head4 = (tensor: Tensor, start: number, stop: number): Tensor => {
  const [batch, , heads, dim] = tensor.shape as [number, number, number, number];
  return tensor.slice([0, batch], [start, stop], [0, heads], [0, dim]);
};

describe('tensors of more than 2^31 elements', () => {
  const LEFT = 40;
  const masks = [{ left: LEFT, right: 0 }];

  it('keys and values: the last rows of 2^24 + 77 keys', async () => {
    const keys = sized(2 ** 24 + 77, 2 ** 10 + 77);
    const [k, v] = [large(keys, 1, 128, 1), large(keys, 1, 128, 2)];
    const q = keep(Tensor.randn([1, 33, 4, 128], { seed: 3, dtype: 'bfloat16', device }));
    const { out, lse } = attention(q, k, v, { mask: window({ left: LEFT, right: 0 }) });
    const first = keys - 33 - LEFT;
    const problem = {
      q: await valuesOf(head4(q, 0, 33)),
      k: await valuesOf(head4(k, first, keys)),
      v: await valuesOf(head4(v, first, keys)),
      masks,
    };
    await compare(problem, keep(out), keep(lse));
  });

  it('queries and output: 2^24 + 100 rows, sampled', async () => {
    const tokens = sized(2 ** 24 + 100, 2 ** 10 + 100);
    const [q, k] = [large(tokens, 1, 128, 4), large(tokens, 1, 128, 5)];
    const { out, lse } = attention(q, k, k, { mask: window({ left: LEFT, right: 0 }) });
    for (const at of [0, Math.floor(tokens / 2), tokens - 64]) {
      const first = Math.max(0, at - LEFT);
      const keys = await valuesOf(head4(k, first, at + 64));
      const problem = { q: await valuesOf(head4(q, at, at + 64)), k: keys, v: keys, masks };
      await compare(problem, head4(out, at, at + 64), lse.slice([0, 1], [at, at + 64], [0, 1]));
    }
    for (const tensor of [out, lse]) tensor.dispose();
  });

  // More are refused.
  it('lse: nearly 2^31 rows of one element', async () => {
    const tokens = sized(2 ** 27 - 5, 2 ** 10 - 5);
    const [q, k] = [large(tokens, 16, 1, 6), large(tokens, 1, 1, 7)];
    const { out, lse } = attention(q, k, k, { mask: window({ left: 3, right: 0 }) });
    const at = tokens - 20;
    const keys = await valuesOf(head4(k, at - 3, tokens));
    const problem = { q: await valuesOf(head4(q, at, tokens)), k: keys, v: keys, masks: [{ left: 3, right: 0 }] };
    await compare(problem, head4(out, at, tokens), lse.slice([0, 1], [at, tokens], [0, 16]));
    for (const tensor of [out, lse]) tensor.dispose();
  });
});

describe('strides of more than 4 GiB', () => {
  it('between the heads, and between the batch entries', async () => {
    const tokens = sized(2 ** 24 + 16, 2 ** 9 + 16);
    // In memory [3, tokens, 128]; a head, or a batch entry, then is 4 GiB and more from the next one.
    const whole = large(3 * tokens, 1, 128, 8).reshape([3, tokens, 1, 128]);
    const perHead = whole.permute(2, 1, 0, 3);
    const few = sized(200, 60);
    const cut = (tensor: Tensor, batch: number, heads: number) =>
      tensor.slice([0, batch], [tokens - few, tokens], [0, heads], [0, 128]);
    for (const [batch, heads, of] of [
      [3, 1, whole],
      [1, 3, perHead],
    ] as const) {
      const view = cut(of, batch, heads);
      const { out, lse } = attention(view, view, view, { mask: causal() });
      const values = await valuesOf(view);
      await compare({ q: values, k: values, v: values, masks: [{ left: -1, right: 0 }] }, out, lse);
    }
    for (const tensor of [whole, perHead]) tensor.dispose();
  });

  it('between the rows of a dense bias', async () => {
    const rows = 6;
    // One row of the bias is far from the next: [queries, 1, keys] out of [queries, gap, keys].
    const gap = sized(2 ** 21, 8);
    const keys = 512 + 3;
    const biasTensor = keep(Tensor.zeros([1, rows, gap, keys], { device }));
    const bias = biasTensor.slice([0, 1], [0, rows], [gap - 1, gap], [0, keys]).permute(0, 2, 1, 3);
    const make = (tokens: number, seed: number) =>
      keep(Tensor.randn([1, tokens, 1, 64], { seed, dtype: 'bfloat16', device }));
    const [q, k, v] = [make(rows, 9), make(keys, 10), make(keys, 11)];
    const { out, lse } = attention(q, k, v, { bias: denseBias(bias) });
    const problem = {
      q: await valuesOf(head4(q, 0, rows)),
      k: await valuesOf(head4(k, 0, keys)),
      v: await valuesOf(head4(v, 0, keys)),
      denseBias: await valuesOf(bias),
    };
    await compare(problem, out, lse);
  });
});
