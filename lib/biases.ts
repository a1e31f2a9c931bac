// Biases: what is added to the scaled, capped scores. Values to pass to attention().

import { AttentionError } from './errors';
import type { NativeBias } from './native';
import { finite, integer, integers, isArray, isObject, oneOf, options, show } from './options';
import { checkFloat32, Tensor, tensorHandle } from './tensor';

/** The addon's form of a bias. */
export let nativeBias: (value: unknown, name: string) => NativeBias;

/** How a bias is computed, see {@link Bias.explain}. */
export interface BiasExplanation {
  /** The function that made the bias. */
  readonly name: string;
  /** `stored`: read from memory; `low rank`: a sum of products for each score; `closed form`: a formula. */
  readonly path: 'stored' | 'low rank' | 'closed form';
  /** What a low rank was told to be multiplied by; null where each call chooses, or where there is no choice. */
  readonly forced: 'matrix' | 'vector' | null;
  /** Numbers that describe the bias altogether; of a stored one those of its tensor. */
  readonly elements: number;
  /** Why this path, in which arithmetic, and how far it may be off. */
  readonly text: string;
}

interface Description {
  kind: NativeBias['kind'];
  tensor?: Tensor;
  query?: Tensor;
  key?: Tensor;
  step?: number[];
  path?: NativeBias['path'];
  heads?: number[];
  explanation: Omit<BiasExplanation, 'forced'>;
}

let makeBias: (description: Description) => Bias;

/**
 * What is added to the scores; made by {@link keyBias}, {@link denseBias}, {@link lowRankBias}, {@link alibi},
 * {@link distanceBias}, {@link relativePositionBias}, and what is built on them: {@link bucketBias} and {@link sphereBias}.
 */
export class Bias {
  static {
    nativeBias = (value, name) => {
      if (!isObject(value) || !(#description in value)) {
        const makers =
          'keyBias(), denseBias(), lowRankBias(), alibi(), distanceBias(), relativePositionBias(), bucketBias() or ' +
          'sphereBias()';
        throw new AttentionError('ERR_OPTION', `${name} is ${show(value)}; it must be a bias: ${makers}`);
      }
      const { kind, tensor, query, key, step, path = 'auto', heads } = value.#description;
      const handle = (of: Tensor | undefined) => of && tensorHandle(of, name);
      return { kind, tensor: handle(tensor), query: handle(query), key: handle(key), step, path, heads };
    };
    makeBias = (description) => new Bias(description);
  }

  readonly #description: Description;

  private constructor(description: Description) {
    this.#description = description;
  }

  /** How this bias is computed, and why. */
  explain(): BiasExplanation {
    const { path = 'auto', explanation } = this.#description;
    return { ...explanation, forced: path === 'auto' ? null : path };
  }
}

/** A float32 tensor of so many axes. */
function checkTensor(call: string, name: string, given: unknown, ranks: readonly number[]): Tensor {
  const tensor = checkFloat32(`${call}: ${name}`, given);
  if (!ranks.includes(tensor.shape.length)) {
    const wanted = ranks.length > 2 ? `${ranks[0]} to ${ranks.at(-1)}` : ranks.join(' or ');
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: ${name} has shape [${tensor.shape.join(', ')}]; it must have ${wanted} axes`,
    );
  }
  return tensor;
}

function sameLast(call: string, what: string, [a, first]: [string, Tensor], [b, second]: [string, Tensor]): number {
  const [m, n] = [first.shape.at(-1), second.shape.at(-1)];
  if (m !== n || m === undefined) {
    throw new AttentionError('ERR_SHAPE', `${call}: ${a} has ${what} ${m} but ${b} has ${n}; they must be equal`);
  }
  return m;
}

const elementsOf = (...tensors: (Tensor | undefined)[]) =>
  tensors.reduce((sum, tensor) => sum + (tensor ? tensor.shape.reduce((product, n) => product * n, 1) : 0), 0);

const atEnds = 'It is added in float32 to the accumulator of a tile.';

/**
 * Adds a float32 value per key: `[Lk]`, `[batch, Lk]` or `[batch, heads, Lk]`.
 *
 * @throws AttentionError ERR_OPTION for what is no tensor, ERR_DTYPE for one that is not float32, ERR_SHAPE for one of more
 * than three axes, and of other lengths when `attention` is called; ERR_DISPOSED.
 */
export function keyBias(tensor: Tensor): Bias {
  checkTensor('keyBias', 'the tensor', tensor, [1, 2, 3]);
  const text = `One value for each key is read and serves all its queries. ${atEnds}`;
  const explanation = { name: 'keyBias', path: 'stored', elements: elementsOf(tensor), text } as const;
  return makeBias({ kind: 'key', tensor, explanation });
}

/** Options of {@link denseBias}. */
export interface DenseBiasOptions {
  /**
   * The heads of q that the heads axis of the tensor is for, in its order. To the others nothing is added, and nothing is
   * read for them. Every head unless given.
   */
  heads?: readonly number[];
}

function headsOf(call: string, tensor: Tensor, given: unknown): number[] | undefined {
  if (given === undefined) return undefined;
  const heads = integers(call, 'heads', given, 0, 'ERR_OPTION');
  if (heads.length === 0 || new Set(heads).size < heads.length) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: heads is ${show(heads)}; it must be one head or several different ones`,
    );
  }
  const axis = tensor.shape.at(-3) ?? 1;
  if (axis !== 1 && axis !== heads.length) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: the tensor has shape [${tensor.shape.join(', ')}], with ${axis} on its heads axis, but heads names ` +
        `${heads.length}; they must be as many, or 1 on the axis`,
    );
  }
  return heads;
}

/**
 * Adds a float32 value per query and key, broadcast to `[batch, heads, Lq, Lk]`. Axes of length 1, and views that repeat
 * memory, cost no memory: the pair bias of AlphaFold's triangle attention, `[heads, n, n]` for n rows of queries, is
 * `denseBias(pair.reshape([1, heads, n, n]))` beside a batch of n rows.
 *
 * @throws AttentionError ERR_OPTION for what is no tensor, ERR_DTYPE for one that is not float32, ERR_SHAPE for one of more
 * than four axes or of another number of heads than `heads`, and of other lengths when `attention` is called; ERR_OPTION for
 * heads that are no list of different ones, and when `attention` is called for those that q does not have; ERR_DISPOSED.
 */
export function denseBias(tensor: Tensor, opts?: DenseBiasOptions): Bias {
  const given = options('denseBias', opts, ['heads']);
  checkTensor('denseBias', 'the tensor', tensor, [1, 2, 3, 4]);
  const heads = headsOf('denseBias', tensor, given.heads);
  const which = heads ? ` of ${heads.length === 1 ? 'head' : 'heads'} ${heads.join(', ')}` : '';
  const text =
    `One value is read for each score${which}. ${atEnds} What has a formula or a low rank is cheaper: see alibi(), ` +
    'distanceBias(), relativePositionBias() and factorizeBias().';
  const explanation = { name: 'denseBias', path: 'stored', elements: elementsOf(tensor), text } as const;
  return makeBias({ kind: 'dense', tensor, heads, explanation });
}

/** Options of {@link lowRankBias}. */
export interface LowRankOptions {
  /**
   * What multiplies the factors. `matrix`: the units that multiply q and k, tensor cores on CUDA and AMX on the CPU.
   * `vector`: float32 instructions, on the CPU. `auto`, unless given: `matrix` wherever the call allows for it, but with
   * few queries on the CPU. One path serves all biases of a call.
   */
  path?: 'auto' | 'matrix' | 'vector';
}

const lowRankPaths = {
  auto:
    'Chosen for each call: matrix units on CUDA, and on a CPU with AMX; vectors on other CPUs, with softcap or scale 0, ' +
    'above rank 64 of all biases together, and for few queries.',
  matrix:
    'Forced onto matrix units; on AMX factors that are no sum of three bfloat16 are multiplied by vectors even so.',
  vector: 'Forced onto vectors.',
};

/**
 * Adds the product of two factors, neither scaled nor capped: for query i, key j and head h the sum over r of
 * `phiQ[b, i, h, r] * phiK[b, j, h, r]`. phiQ is float32 `[batch or 1, Lq, heads or 1, R]`, phiK
 * `[batch or 1, Lk, heads or 1, R]`; heads are those of q. Sums are float32 whatever the element type of q, so that the
 * error is that of R products in float32; on CUDA each product may be off by 3 * 2^-22 of its magnitude. Memory and
 * traffic grow with R (Lq + Lk), not with Lq Lk.
 *
 * @throws AttentionError ERR_SHAPE for factors of another rank, also when only the call of `attention` knows; ERR_OPTION for
 * an unknown option or path, and when `attention` is called for a path that it cannot go: `vector` on CUDA; on the CPU
 * `matrix` without AMX, with softcap or scale 0, above rank 64 of all biases together, or beside `vector`.
 * @see Wu et al. 2025, FlashBias: Fast Computation of Attention with Bias.
 */
export function lowRankBias(phiQ: Tensor, phiK: Tensor, opts?: LowRankOptions): Bias {
  const given = options('lowRankBias', opts, ['path']);
  const path = oneOf('lowRankBias', 'path', given.path ?? 'auto', ['auto', 'matrix', 'vector']);
  checkTensor('lowRankBias', 'phiQ', phiQ, [4]);
  checkTensor('lowRankBias', 'phiK', phiK, [4]);
  const rank = sameLast('lowRankBias', 'rank', ['phiQ', phiQ], ['phiK', phiK]);
  const text =
    `${rank} products for each score, made and summed as float32 beside the product of q and k (on matrix units of bfloat16 ` +
    `as the sum of six products of parts): off by at most ${rank + 4} * 2^-24 of the sum of their magnitudes, and by one ` +
    `rounding of the score. CUDA makes each of three products of TF32, off by 3 * 2^-22 of its magnitude. ${lowRankPaths[path]}`;
  const explanation = { name: 'lowRankBias', path: 'low rank', elements: elementsOf(phiQ, phiK), text } as const;
  return makeBias({ kind: 'lowRank', query: phiQ, key: phiK, path, explanation });
}

/**
 * Attention with linear biases: adds `-slope * |p - j|` for the query at position p = i + Lk - Lq and key j, of the
 * sequence where sequences are packed; one token axis. `slopes` are float32 `[heads]`; those of the paper unless given,
 * 2^(-8 (h + 1) / heads) for a power of two of heads, else those of the next lower power of two followed by every second
 * one of the next higher.
 *
 * @throws AttentionError ERR_OPTION for slopes that are no tensor, ERR_DTYPE for others than float32, ERR_SHAPE for more axes
 * than one, and for other heads or several token axes when `attention` is called; ERR_DISPOSED.
 * @see Press, Smith and Lewis 2022, Train Short, Test Long: Attention with Linear Biases.
 */
export function alibi(slopes?: Tensor): Bias {
  if (slopes !== undefined) checkTensor('alibi', 'slopes', slopes, [1]);
  const text =
    'The distance of two positions is exact; its product with the slope and the sum with the score are float32, on the CPU ' +
    'in units of log 2. With slope 1 it is off by at most 0.01 at 65,536 tokens; factors in float16 would be by several.';
  const explanation = { name: 'alibi', path: 'closed form', elements: elementsOf(slopes), text } as const;
  return makeBias({ kind: 'alibi', tensor: slopes, explanation });
}

/** What {@link distanceBias} measures. */
export interface DistanceOptions {
  /** Coordinates of the queries, float32 `[Lq, n]` or `[batch, Lq, n]` with n from 1 to 4. */
  q: Tensor;
  /** Coordinates of the keys, `[Lk, n]` or `[batch, Lk, n]`. */
  k: Tensor;
  /** 1 unless given; else a number, or float32 `[heads]` or `[batch, Lq, heads]` (of which batch and heads may be 1). */
  weight?: number | Tensor;
}

/**
 * Adds `-weight * |xq - xk|²` for points xq and xk of queries and keys in one to four dimensions. Differences are made
 * before they are squared, in float32: nothing cancels, however far from the origin the points lie.
 *
 * @throws AttentionError ERR_OPTION for an option that nobody knows, points that are no tensor or a weight that is neither
 * that nor a finite number, ERR_DTYPE for tensors that are not float32, ERR_SHAPE for tensors of other axes or dimensions,
 * and of other lengths when `attention` is called; ERR_DISPOSED.
 */
export function distanceBias(opts: DistanceOptions): Bias {
  const { q, k, weight } = options('distanceBias', opts, ['q', 'k', 'weight']);
  const query = checkTensor('distanceBias', 'q', q, [2, 3]);
  const key = checkTensor('distanceBias', 'k', k, [2, 3]);
  const n = sameLast('distanceBias', 'coordinates', ['q', query], ['k', key]);
  if (n < 1 || n > 4) {
    throw new AttentionError('ERR_SHAPE', `distanceBias: q has ${n} coordinates to a token; 1 to 4 are supported`);
  }
  let tensor: Tensor | undefined;
  if (typeof weight === 'number') {
    tensor = Tensor.from(Float32Array.of(finite('distanceBias', 'weight', weight)), [1], { device: query.device });
  } else if (weight !== undefined) {
    tensor = checkTensor('distanceBias', 'weight', weight, [1, 3]);
  }
  const text = `${n} differences are squared and summed for each score in float32, off by about ${n + 3} * 2^-24 of the bias.`;
  const elements = elementsOf(query, key, tensor);
  const explanation = { name: 'distanceBias', path: 'closed form', elements, text } as const;
  return makeBias({ kind: 'distance', tensor, query, key, explanation });
}

/** Options of {@link relativePositionBias}. */
export interface RelativePositionOptions {
  /** Tokens to one step of the table, for all token axes or for each; default 1. */
  dilation?: number | readonly number[];
}

/**
 * Adds an entry of a table for the difference of two positions, x of the query less y of the key, along each token axis.
 * The table is float32 `[heads or 1, 2 r + 1, ...]` with one odd extent for each token axis; its middle is difference 0,
 * and a difference beyond it has the nearest entry. On one axis x is `i + Lk - Lq`; on several, q and k have the same.
 *
 * The table of a Swin window of w x w tokens is `[(2 w - 1) * (2 w - 1), heads]` there, so
 * `table.reshape([2 * w - 1, 2 * w - 1, heads]).permute(2, 0, 1)` here. Inside a {@link neighborhood} of window w the same
 * table serves all of a map; where that is dilated, `dilation` makes the table count neighbours of a dilation group:
 * differences are then those of `floor(x / dilation)`.
 *
 * @throws AttentionError ERR_OPTION for a dilation that is no integer of at least 1, or for a table that is no tensor,
 * ERR_DTYPE for one that is not float32, ERR_SHAPE for an extent that is even, and for other heads and token axes when
 * `attention` is called; ERR_DISPOSED.
 * @see Liu et al. 2021, Swin Transformer; Shaw et al. 2018 (differences cut off at the ends).
 */
export function relativePositionBias(table: Tensor, opts?: RelativePositionOptions): Bias {
  const call = 'relativePositionBias';
  const { dilation = 1 } = options(call, opts, ['dilation']);
  checkTensor(call, 'table', table, [2, 3, 4]);
  const even = table.shape.findIndex((extent, axis) => axis > 0 && extent % 2 === 0);
  if (even > 0) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: table has shape [${table.shape.join(', ')}]; axis ${even} must be odd, 2 r + 1 for differences up to r`,
    );
  }
  const given = isArray(dilation) ? dilation : [dilation];
  if (given.length !== 1 && given.length !== table.shape.length - 1) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: dilation is ${show(dilation)}; give one value, or one for each of the ${table.shape.length - 1} axes`,
    );
  }
  const step = Array.from(given, (value: unknown, axis) => integer(call, `dilation[${axis}]`, value, 1));
  const text = `One entry of the table is looked up for each score. ${atEnds}`;
  const explanation = { name: call, path: 'closed form', elements: elementsOf(table), text } as const;
  return makeBias({ kind: 'relative', tensor: table, step, explanation });
}
