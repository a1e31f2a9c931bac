// The joint layer of text and image of docs/guide/attention.md, as it stands there, against the oracle.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Mask, neighborhood, type Tensor } from 'node-attention';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { tensorOf } from './support/library';
import { count, decode, type Float, normal, uniform, type Values } from './support/numbers';
import type { Axis } from './support/oracle';
import { type Expected, expected } from './support/tolerance';

type Tokens<T> = { q: T; k: T; v: T };
type Joint = (text: Tokens<Tensor>, image: Tokens<Tensor>, mask: Mask) => { text: Tensor; image: Tensor };

/** The function of the guide's example. */
function guideFunction(): Joint {
  const guide = readFileSync(join(__dirname, '../docs/guide/attention.md'), 'utf8');
  const section = guide.slice(guide.indexOf('## Joint layers of text and image'));
  const [, code] = /^```ts\n(.*?)^const make = /ms.exec(section)!;
  const { outputText } = ts.transpileModule(`${code}\nexport { jointAttention };`, {
    compilerOptions: { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2022 },
  });
  const exported: { jointAttention?: Joint } = {};
  new Function('require', 'exports', outputText)(require, exported);
  return exported.jointAttention!;
}

/** Tokens of all, one after the other on a single axis. */
function joined(parts: Values[]): Values {
  const [batch, heads, dim] = [parts[0]!.shape[0]!, parts[0]!.shape.at(-2)!, parts[0]!.shape.at(-1)!];
  const data = Array.from({ length: batch }, (_, b) =>
    parts.flatMap((part) => {
      const length = part.data.length / batch;
      return [...part.data.subarray(b * length, (b + 1) * length)];
    }),
  );
  const tokens = parts.reduce((sum, { shape }) => sum + count(shape.slice(1, -2)), 0);
  return { shape: [batch, tokens, heads, dim], data: Float64Array.from(data.flat()) };
}

async function expectNear(tensor: Tensor, { out }: Expected, dtype: Float, tolerance: number): Promise<void> {
  const got = decode(dtype, (await tensor.read()) as ArrayLike<number>);
  expect(got).toHaveLength(out.length);
  const far = got.findIndex((value, i) => !(Math.abs(value - out[i]!) <= tolerance));
  expect(far, `element ${far} is ${got[far]} instead of ${out[far]}, tolerance ${tolerance}`).toBe(-1);
}

describe.each<Float>(['float32', 'float16', 'bfloat16'])('joint layer of text and image, %s', (dtype) => {
  const axis = (window: number, stride: number): Axis => ({ window, stride, dilation: 1, causal: false, wrap: false });

  it.each([
    [19, [11, 14], [5, 6], [1, 1]],
    [7, [24, 20], [8, 12], [4, 12]],
    [130, [9, 5], [9, 1], [9, 1]], // more text than a tile; a whole axis
  ])('%i words, image %j, window %j, stride %j', async (words, grid, window, stride) => {
    const random = uniform(words);
    const make = (tokens: number[]) => {
      const values = () => normal(random, dtype, [2, ...tokens, 3, 24]);
      return { q: values(), k: values(), v: values() };
    };
    const [text, image] = [make([words]), make(grid)];
    const tensors = ({ q, k, v }: Tokens<Values>) => ({
      q: tensorOf(q, dtype),
      k: tensorOf(k, dtype),
      v: tensorOf(v, dtype),
    });
    const made = guideFunction()(tensors(text), tensors(image), neighborhood({ window, stride }));

    // Image queries: their window of the image and all of the text, in one softmax.
    const masks = [{ heads: [window.map((w, a) => axis(w, stride[a]!))] }];
    const near = expected({ ...image, masks, extra: { k: text.k, v: text.v } }, dtype);
    await expectNear(made.image, near, dtype, near.tolerance.out);

    // Text queries: everything. A merged result is a mean of the parts, each of which may be off by its own tolerance.
    const [k, v] = [joined([text.k, image.k]), joined([text.v, image.v])];
    const all = expected({ q: text.q, k, v }, dtype);
    const parts = [text, image].map((one) => expected({ q: text.q, k: joined([one.k]), v: joined([one.v]) }, dtype));
    const tolerance = all.tolerance.out + Math.max(...parts.map((part) => part.tolerance.out));
    await expectNear(made.text, all, dtype, tolerance);
  });
});
