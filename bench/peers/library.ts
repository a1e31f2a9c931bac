// This library.

import {
  attention,
  causal,
  fromBfloat16,
  type Mask,
  neighborhood,
  Stream,
  Tensor,
  toBfloat16,
  window,
} from 'node-attention';
import type { MaskSpec } from '../../test/support/oracle';
import { type Case, HEADS } from '../cases';
import type { Inputs } from '../inputs';
import { type Contestant, timeRuns } from '../measure';

export function library(name: string, test: Case, inputs: Inputs): Contestant {
  const tensor = (values: Float32Array, tokens: number[]) => {
    const shape = [1, ...tokens, HEADS, test.headDim];
    return test.dtype === 'float32'
      ? Tensor.from(values, shape)
      : Tensor.from(toBfloat16(values), shape, { dtype: test.dtype });
  };
  const q = tensor(inputs.q, test.queries);
  const k = tensor(inputs.k, test.keys);
  const v = tensor(inputs.v, test.keys);
  const out = Tensor.empty(q.shape, { dtype: test.dtype });
  const stream = new Stream();
  const options = { mask: test.mask && maskOf(test.mask), out, stream };
  return {
    name,
    test,
    run: (times) =>
      timeRuns(times, async () => {
        const { lse } = attention(q, k, v, options);
        await stream.synchronize();
        lse.dispose();
      }),
    async output() {
      const values = await out.read();
      return test.dtype === 'float32' ? (values as Float32Array) : fromBfloat16(values as Uint16Array);
    },
    async close() {
      for (const resource of [q, k, v, out, stream]) resource.dispose();
    },
  };
}

function maskOf(spec: MaskSpec): Mask {
  if (!('heads' in spec)) return spec.left === -1 && spec.right === 0 ? causal() : window(spec);
  const axes = spec.heads[0]!;
  return neighborhood({ window: axes.map((axis) => axis.window), stride: axes.map((axis) => axis.stride) });
}
