// This library.

import {
  attention,
  causal,
  fromBfloat16,
  KvCache,
  type Mask,
  neighborhood,
  SparsePlan,
  Stream,
  Tensor,
  toBfloat16,
  window,
} from 'node-attention';
import type { MaskSpec } from '../../test/support/oracle';
import { type Case, count, HEADS } from '../cases';
import type { Inputs } from '../inputs';
import type { Pattern, Range } from '../masks/patterns';
import { type Contestant, timeRuns } from '../measure';

interface Call {
  q: Tensor;
  k: Tensor;
  v: Tensor;
  options: Parameters<typeof attention>[3];
}

export function library(name: string, test: Case, inputs: Inputs): Contestant {
  const resources: { dispose(): void }[] = [];
  const keep = <R extends { dispose(): void }>(resource: R): R => {
    resources.push(resource);
    return resource;
  };
  const { layers = 1 } = test;
  const stream = keep(new Stream());
  const out: Tensor[] = [];
  const calls: Call[] = [];
  for (let layer = 0; layer < layers; layer++) {
    const tensor = (all: Float32Array, tokens: number[]) => {
      const shape = [1, ...tokens, HEADS, test.headDim];
      const values = all.subarray((layer * all.length) / layers, ((layer + 1) * all.length) / layers);
      return keep(
        test.dtype === 'float32'
          ? Tensor.from(values, shape)
          : Tensor.from(toBfloat16(values), shape, { dtype: test.dtype }),
      );
    };
    const q = tensor(inputs.q, test.queries);
    const k = tensor(inputs.k, test.keys);
    const v = tensor(inputs.v, test.keys);
    const whole = keep(Tensor.empty(q.shape, { dtype: test.dtype }));
    out.push(whole);
    if (test.pattern) calls.push(...callsOf(test.pattern, { q, k, v }, whole, stream, keep));
    else calls.push({ q, k, v, options: { mask: test.mask && maskOf(test.mask), out: whole, stream } });
  }
  return {
    name,
    test,
    run: (times) =>
      timeRuns(times, async () => {
        const sums = calls.map(({ q, k, v, options }) => attention(q, k, v, options).lse);
        await stream.synchronize();
        for (const lse of sums) lse.dispose();
      }),
    async output() {
      const parts = await Promise.all(out.map((each) => each.read()));
      const values = new Float32Array(parts.length * parts[0]!.length);
      parts.forEach((part, layer) => {
        const floats = test.dtype === 'float32' ? (part as Float32Array) : fromBfloat16(part as Uint16Array);
        values.set(floats, layer * floats.length);
      });
      return values;
    },
    async close() {
      for (const resource of resources) resource.dispose();
    },
  };
}

/** The same over the pages of a KvCache; of one layer that is dense, causal or decodes. */
export function paged(test: Case, inputs: Inputs): Contestant {
  const { dtype, headDim } = test;
  const stream = new Stream();
  const tensor = (values: Float32Array) => {
    const shape = [1, values.length / HEADS / headDim, HEADS, headDim];
    return dtype === 'float32' ? Tensor.from(values, shape) : Tensor.from(toBfloat16(values), shape, { dtype });
  };
  const cache = new KvCache({ batch: 1, kvHeads: HEADS, headDim, capacity: count(test.keys), dtype });
  const [q, k, v] = [tensor(inputs.q), tensor(inputs.k), tensor(inputs.v)];
  cache.append(k, v, { stream });
  const out = Tensor.empty(q.shape, { dtype });
  const options = { mask: test.mask && maskOf(test.mask), out, stream };
  return {
    name: 'kv-cache',
    test,
    run: (times) =>
      timeRuns(times, async () => {
        const { lse } = attention(q, cache, options);
        await stream.synchronize();
        lse.dispose();
      }),
    async output() {
      const values = await out.read();
      return dtype === 'float32' ? (values as Float32Array) : fromBfloat16(values as Uint16Array);
    },
    async close() {
      for (const resource of [q, k, v, out, cache, stream]) resource.dispose();
    },
  };
}

/** The calls of a pattern, each on slices of the tensors along the token axis. */
function callsOf(
  pattern: Pattern,
  { q, k, v }: { q: Tensor; k: Tensor; v: Tensor },
  out: Tensor,
  stream: Stream,
  keep: <R extends { dispose(): void }>(resource: R) => R,
): Call[] {
  const part = (tensor: Tensor, range: Range) => keep(tensor.slice([0, 1], range));
  return pattern.calls.map(({ queries, keys, mask, extra, lengths, plan }) => {
    const offsets = lengths && keep(Tensor.from(Int32Array.from(lengths), [lengths.length]));
    return {
      q: part(q, queries),
      k: part(k, keys),
      v: part(v, keys),
      options: {
        mask: plan ? keep(planOf(pattern, q.shape[1]!)) : mask && maskOf(mask),
        extra: extra && { k: part(k, extra), v: part(v, extra) },
        cuSeqlens: offsets && { q: offsets, k: offsets },
        out: part(out, queries),
        stream,
      },
    };
  });
}

function planOf({ ranges }: Pattern, tokens: number): SparsePlan {
  const seen = Array.from({ length: tokens }, (_, i) => ranges(i));
  return SparsePlan.fromPredicate((i, j) => seen[i]!.some(([from, to]) => j >= from && j < to), {
    queries: tokens,
    keys: tokens,
  });
}

function maskOf(spec: MaskSpec): Mask {
  if (!('heads' in spec)) return spec.left === -1 && spec.right === 0 ? causal() : window(spec);
  const axes = spec.heads[0]!;
  return neighborhood({ window: axes.map((axis) => axis.window), stride: axes.map((axis) => axis.stride) });
}
