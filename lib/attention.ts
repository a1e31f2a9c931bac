import { type Bias, nativeBias } from './biases';
import { cacheHandle, type KvCache } from './cache';
import type { DType } from './dtype';
import { AttentionError } from './errors';
import { type Mask, nativeMask } from './masks';
import { type NativeResult, type NativeTensor, native } from './native';
import { entries, finite, isArray, isObject, oneOf, options, show } from './options';
import { optionalStream, type Stream } from './stream';
import { makeTensor, type Tensor, tensorHandle } from './tensor';

/** Options of {@link attention}. */
export interface AttentionOptions {
  /** Which keys a query sees; masks of a list are intersected. Default: all. */
  mask?: Mask | readonly Mask[];
  /** Added to the scaled, capped scores; biases of a list are summed. */
  bias?: Bias | readonly Bias[];
  /** Factor of the scores; default 1/√headDim. */
  scale?: number;
  /** c > 0: a scaled score x becomes c·tanh(x/c), before any bias. */
  softcap?: number;
  /** float32 `[heads]`: one more logit in every softmax of a head, without a value; counted in `lse`. */
  sinks?: Tensor;
  /** Keys and values `[batch, n, kvHeads, headDim]` that every query sees, in the same softmax, whatever the mask. */
  extra?: {
    /** `[batch, n, kvHeads, headDim]` */
    k: Tensor;
    /** `[batch, n, kvHeads, headDim of v]` */
    v: Tensor;
  };
  /** int32 `[sequences + 1]`: where packed sequences of a batch of 1 begin and end along the token axis. */
  cuSeqlens?: {
    /** Where the queries of each sequence begin and end. */
    q: Tensor;
    /** Where its keys and values do; as many entries as `q`. */
    k: Tensor;
  };
  /**
   * On CUDA, float32 is three products of TF32; 'tf32' opts into one. Neighborhoods, sparse plans, a {@link KvCache} and
   * biases that are computed, all but {@link keyBias} and {@link denseBias}, take three whatever it says; beside them it is
   * for the keys of `extra` alone. The CPU always computes in float32.
   */
  precision?: 'float32' | 'tf32';
  /** Where to write the output, instead of a new tensor. */
  out?: Tensor;
  /** The stream to enqueue on; the default stream of the device unless given. */
  stream?: Stream;
}

/** What {@link attention} and {@link merge} return. */
export interface AttentionResult<D extends DType = DType> {
  /** `[batch, tokens…, heads, headDim of v]`, in the element type of q. */
  out: Tensor<D>;
  /** float32 `[batch, tokens…, heads]`: natural logarithm of the sum of exponentials of the scores. */
  lse: Tensor<'float32'>;
}

/** What `each` makes of an option that is absent, a value or a list of them. */
function several<T>(name: string, value: unknown, each: (value: unknown, name: string) => T): T[] {
  if (value === undefined) return [];
  return entries('attention', name, isArray(value) ? value : [value], (entry) => each(entry, name));
}

function optionalTensor(value: unknown, name: string): NativeTensor | undefined {
  return value === undefined ? undefined : tensorHandle(value, name);
}

function pair<K extends string>(value: unknown, name: string, keys: readonly [K, K]): { [key in K]?: NativeTensor } {
  if (value === undefined) return {};
  const given = options(name, value, keys);
  const result: { [key in K]?: NativeTensor } = {};
  for (const key of keys) result[key] = tensorHandle(given[key], `${name}.${key}`);
  return result;
}

function result<D extends DType>(made: NativeResult, out: unknown): AttentionResult<D> {
  const lse = makeTensor(made.lse) as Tensor<'float32'>;
  return { out: (made.out ? makeTensor(made.out) : out) as Tensor<D>, lse };
}

/**
 * Attention of q `[batch, n, heads, headDim]` over the tokens of a {@link KvCache}, for decoding and for prefill in
 * chunks. Query i of a sequence stands at position i + length - n, so that the queries of the last n tokens that were
 * appended stand where these do. No mask unless given: a chunk of a prefill needs `causal()`. A cache with `rope`
 * rotates the queries by their positions. Biases see the longest sequence as Lk, and so do sparse plans, whose `keys` are
 * `cache.length`: of a shorter sequence its queries see what is listed of the keys that it has, causally as they stand.
 * Inside `capture` each launch sees what the cache then holds.
 *
 * @throws AttentionError before anything is enqueued, with the codes of attention over tensors; ERR_OPTION for `cuSeqlens`
 * and neighborhood masks, and inside `capture` for sparse plans and for biases other than {@link alibi}; on CUDA, biases
 * other than {@link keyBias} and {@link denseBias}.
 */
export function attention<D extends DType>(
  q: Tensor<D>,
  cache: KvCache,
  opts?: Omit<AttentionOptions, 'cuSeqlens'>,
): AttentionResult<D>;
/**
 * Scaled dot-product attention: out = softmax(mask(softcap(scale · q kᵀ) + bias)) v, one pass, without a score matrix.
 *
 * q is `[batch, tokens…, heads, headDim]`, k and v are `[batch, tokens…, kvHeads, headDim]` with one to three token
 * axes; heads is a multiple of kvHeads. Sums are float32 whatever the inputs. A query that sees no key gives 0 and
 * lse -Infinity. Enqueues and returns at once.
 *
 * @throws AttentionError before anything is enqueued: ERR_OPTION for an option that nobody knows or that is out of range,
 * those of masks and biases too; ERR_SHAPE, ERR_DTYPE and ERR_DEVICE for tensors that do not fit each other, the stream or
 * the device; ERR_DISPOSED; ERR_OUT_OF_MEMORY when there is no memory for it, or the queue is full; ERR_CUDA on a
 * device that has failed.
 * @see Milakov and Gimelshein 2018 (online softmax); Dao 2023 (FlashAttention-2); Hassani et al. 2025 (GNA); Xiao et al.
 * 2023 (sinks); Gemma Team 2024, Gemma 2 (softcap).
 */
export function attention<D extends DType>(
  q: Tensor<D>,
  k: Tensor,
  v: Tensor,
  opts?: AttentionOptions,
): AttentionResult<D>;
export function attention<D extends DType>(
  q: Tensor<D>,
  keys: Tensor | KvCache,
  third?: Tensor | AttentionOptions,
  fourth?: AttentionOptions,
): AttentionResult<D> {
  const cache = cacheHandle(keys);
  if (cache && fourth !== undefined) {
    throw new AttentionError(
      'ERR_OPTION',
      'attention: with a KvCache the options come third: attention(q, cache, options)',
    );
  }
  const opts = cache ? third : fourth;
  const names = [
    'mask',
    'bias',
    'scale',
    'softcap',
    'sinks',
    'extra',
    'cuSeqlens',
    'precision',
    'out',
    'stream',
  ] as const;
  const given = options('attention', opts, names);
  const extra = pair(given.extra, 'extra', ['k', 'v']);
  const cuSeqlens = pair(given.cuSeqlens, 'cuSeqlens', ['q', 'k']);
  const precision = oneOf('attention', 'precision', given.precision ?? 'float32', ['float32', 'tf32']);
  const made = native.attention(
    tensorHandle(q, 'q'),
    cache ? undefined : tensorHandle(keys, 'k'),
    cache ? undefined : tensorHandle(third, 'v'),
    cache,
    optionalTensor(given.sinks, 'sinks'),
    extra.k,
    extra.v,
    cuSeqlens.q,
    cuSeqlens.k,
    optionalTensor(given.out, 'out'),
    several('mask', given.mask, nativeMask),
    several('bias', given.bias, nativeBias),
    given.scale === undefined ? undefined : finite('attention', 'scale', given.scale),
    given.softcap === undefined ? undefined : finite('attention', 'softcap', given.softcap),
    precision === 'tf32',
    optionalStream(given.stream),
  );
  return result(made, given.out);
}

/** One result of {@link attention}, over some of the keys. */
export interface Part<D extends DType = DType> {
  /** The output of {@link attention}. */
  out: Tensor<D>;
  /** Its float32 `lse`. */
  lse: Tensor;
}

/**
 * The result of attention over the union of disjoint sets of keys, from the results over each. Exact up to rounding.
 * Merging only empty parts gives 0 and -Infinity. Sinks must have been given to one part only.
 *
 * @throws AttentionError before anything is enqueued: ERR_OPTION for what is no list of parts, an option that nobody knows,
 * or `out` over the memory of a part; ERR_SHAPE, ERR_DTYPE and ERR_DEVICE for tensors that do not fit each other or the
 * stream; ERR_DISPOSED; ERR_OUT_OF_MEMORY when there is no memory for it, or the queue is full; ERR_CUDA on a device
 * that has failed.
 * @see Milakov and Gimelshein 2018 (online softmax), whose parallel form this is.
 */
export function merge<D extends DType>(
  parts: readonly Part<D>[],
  opts?: { out?: Tensor; stream?: Stream },
): AttentionResult<D> {
  const given = options('merge', opts, ['out', 'stream']);
  if (!isArray(parts) || parts.length === 0) {
    throw new AttentionError('ERR_OPTION', `merge: parts is ${show(parts)}; it must be a list of { out, lse }`);
  }
  const handles = entries('merge', 'parts', parts, (part, i) => {
    const { out, lse } = (isObject(part) ? part : {}) as Partial<Part>;
    return { out: tensorHandle(out, `parts[${i}].out`), lse: tensorHandle(lse, `parts[${i}].lse`) };
  });
  return result(native.merge(handles, optionalTensor(given.out, 'out'), optionalStream(given.stream)), given.out);
}
