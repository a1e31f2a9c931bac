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
import type { Pattern, PatternCall, Range } from '../masks/patterns';
import { type Contestant, inTurn } from '../measure';

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
  const { layers = 1, pattern } = test;
  const parts = inputs.sets * layers;
  const stream = keep(new Stream());
  const shared = pattern?.calls.map((call) => sharedOf(pattern, call, count(test.queries), keep));
  const out: Tensor[] = [];
  const sets: Call[][] = Array.from({ length: inputs.sets }, () => []);
  for (let part = 0; part < parts; part++) {
    const calls = sets[Math.floor(part / layers)]!;
    const tensor = (all: Float32Array, tokens: number[]) => {
      const shape = [1, ...tokens, HEADS, test.headDim];
      const values = all.subarray((part * all.length) / parts, ((part + 1) * all.length) / parts);
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
    if (pattern) calls.push(...callsOf(pattern, shared!, { q, k, v }, whole, stream, keep));
    else calls.push({ q, k, v, options: { mask: test.mask && maskOf(test.mask), out: whole, stream } });
  }
  return {
    name,
    test,
    run: inTurn(inputs.sets, async (set) => {
      const sums = sets[set]!.map(({ q, k, v, options }) => attention(q, k, v, options).lse);
      await stream.synchronize();
      for (const lse of sums) lse.dispose();
    }),
    output: () => joined(out),
    async close() {
      for (const resource of resources) resource.dispose();
    },
  };
}

/** Float32 of tensors of one shape, one after the other. */
async function joined(tensors: readonly Tensor[]): Promise<Float32Array> {
  const parts = await Promise.all(tensors.map((tensor) => tensor.read()));
  const values = new Float32Array(parts.length * parts[0]!.length);
  parts.forEach((part, n) => {
    const floats = tensors[n]!.dtype === 'float32' ? (part as Float32Array) : fromBfloat16(part as Uint16Array);
    values.set(floats, n * floats.length);
  });
  return values;
}

/** The same over the pages of a KvCache for each set; of one layer that is dense, causal or decodes. */
export function paged(test: Case, inputs: Inputs): Contestant {
  const { dtype, headDim } = test;
  const { sets } = inputs;
  const stream = new Stream();
  const tensor = (all: Float32Array, set: number) => {
    const values = all.subarray((set * all.length) / sets, ((set + 1) * all.length) / sets);
    const shape = [1, values.length / HEADS / headDim, HEADS, headDim];
    return dtype === 'float32' ? Tensor.from(values, shape) : Tensor.from(toBfloat16(values), shape, { dtype });
  };
  const mask = test.mask && maskOf(test.mask);
  const calls = Array.from({ length: sets }, (_, set) => {
    const cache = new KvCache({ batch: 1, kvHeads: HEADS, headDim, capacity: count(test.keys), dtype });
    const q = tensor(inputs.q, set);
    using k = tensor(inputs.k, set);
    using v = tensor(inputs.v, set);
    cache.append(k, v, { stream });
    const out = Tensor.empty(q.shape, { dtype });
    return { q, cache, out, options: { mask, out, stream } };
  });
  return {
    name: 'kv-cache',
    test,
    run: inTurn(sets, async (set) => {
      const { q, cache, options } = calls[set]!;
      const { lse } = attention(q, cache, options);
      await stream.synchronize();
      lse.dispose();
    }),
    output: () => joined(calls.map(({ out }) => out)),
    async close() {
      for (const { q, cache, out } of calls) for (const resource of [q, cache, out]) resource.dispose();
      stream.dispose();
    },
  };
}

/** What a call of a pattern needs beside tensors, the same for every set. */
interface Shared {
  mask: Mask | undefined;
  offsets: Tensor | undefined;
}

function sharedOf(
  pattern: Pattern,
  { mask, lengths, plan }: PatternCall,
  tokens: number,
  keep: <R extends { dispose(): void }>(resource: R) => R,
): Shared {
  return {
    mask: plan ? keep(planOf(pattern, tokens)) : mask && maskOf(mask),
    offsets: lengths && keep(Tensor.from(Int32Array.from(lengths), [lengths.length])),
  };
}

/** The calls of a pattern, each on slices of the tensors along the token axis. */
function callsOf(
  pattern: Pattern,
  shared: readonly Shared[],
  { q, k, v }: { q: Tensor; k: Tensor; v: Tensor },
  out: Tensor,
  stream: Stream,
  keep: <R extends { dispose(): void }>(resource: R) => R,
): Call[] {
  const part = (tensor: Tensor, range: Range) => keep(tensor.slice([0, 1], range));
  return pattern.calls.map(({ queries, keys, extra }, n) => {
    const { mask, offsets } = shared[n]!;
    return {
      q: part(q, queries),
      k: part(k, keys),
      v: part(v, keys),
      options: {
        mask,
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
