// fitBias(): two networks whose products of outputs are a bias, for biases that depend on data.

import { AttentionError } from './errors';
import type { FactorsRequest, FitAnswer, FitProgress, FitRequest, Fitted } from './fit-worker';
import { choose, type Features, randomNumbers, rowsOf } from './mlp';
import { entries, integer, isArray, options, show } from './options';
import { checkFloat32, type Device, Tensor, tensorHandle } from './tensor';
import { inThread } from './thread';

/** The bias of one query and one key, from their features; the arrays are views that are valid during the call alone. */
export type BiasFunction = (query: Float32Array, key: Float32Array, head: number) => number;

/** What {@link fitBias} fits, and how. */
export interface FitOptions {
  /** Features of the queries that the bias follows from (positions, say), float32 `[Lq, n]`. */
  q: Tensor;
  /** Features of the keys, float32 `[Lk, m]`. */
  k: Tensor;
  /** Columns of the factors. */
  rank: number;
  /** Heads of a bias that is a function; default 1. A tensor has its own. */
  heads?: number;
  /** Numbers in the hidden layers of both networks; default `[32, 32]`. */
  hidden?: readonly number[];
  /** Steps of Adam's method; default 3000. */
  steps?: number;
  /** Queries, and keys, of each step; default 64. */
  batch?: number;
  /** Rate of the first step; it falls to 0 along half a cosine. Default 0.01. */
  learningRate?: number;
  /** Queries, and keys, that are taken from all of them, at random; default 512. */
  samples?: number;
  /** The share of them that is held out to tell the error; default 0.1. */
  heldOut?: number;
  /** Of all that is random; the same seed gives the same result. Default 0. */
  seed?: number;
  /** Hears how far the work is, a hundred times at most. What it throws rejects the promise. */
  progress?: (state: FitProgress) => void;
}

/** What {@link fitBias} gives. */
export interface FittedBias {
  /** float32 `[1, Lq, heads, rank]`; with `phiK` for `lowRankBias`. */
  phiQ: Tensor<'float32'>;
  /** float32 `[1, Lk, heads, rank]`. */
  phiK: Tensor<'float32'>;
  /** Columns of the factors. */
  rank: number;
  /** The norm of what the factors lack of queries and keys that were held out, as a share of the norm of their bias. */
  relativeError: number;
  /** The same of those that were not. */
  trainingError: number;
  /** The queries and the keys that were held out. */
  heldOut: {
    /** Rows of `q`. */
    queries: number[];
    /** Rows of `k`. */
    keys: number[];
  };
  /** Factors of other queries and keys from their features, `[L, n]` and `[L, m]`, on their devices. */
  factors(features: { q: Tensor; k: Tensor }): Promise<Pick<FittedBias, 'phiQ' | 'phiK'>>;
}

const call = 'fitBias';
// What fits into the memory of a thread, several times.
const mostParameters = 2 ** 22;
const mostValues = 2 ** 26;

function checkFeatures(of: string, name: string, given: unknown, width?: number): Tensor<'float32'> {
  const tensor = checkFloat32(`${of}: ${name}`, given);
  const { shape } = tensor;
  if (shape.length !== 2 || shape.includes(0) || (width !== undefined && shape[1] !== width)) {
    const wanted = `[tokens, ${width ?? 'features'}]`;
    throw new AttentionError('ERR_SHAPE', `${of}: ${name} has shape [${shape.join(', ')}]; it must be ${wanted}`);
  }
  return tensor;
}

function between(name: string, value: unknown, most: number): number {
  if (typeof value !== 'number' || !(value > 0 && value < most)) {
    const end = most === Number.POSITIVE_INFINITY ? 'finite' : `below ${most}`;
    throw new AttentionError('ERR_OPTION', `${call}: ${name} is ${show(value)}; it must be above 0 and ${end}`);
  }
  return value;
}

/** Heads of the bias: of a tensor [Lq, Lk] or [heads, Lq, Lk], or those given beside a function. */
function headsOf(target: unknown, given: unknown, queries: number, keys: number): number {
  if (typeof target === 'function') return integer(call, 'heads', given ?? 1, 1);
  tensorHandle(target, `${call}: the bias, which is no function either,`);
  const { shape } = checkFloat32(`${call}: the bias`, target);
  const [heads = 1, rows, columns] = shape.length === 2 ? [1, ...shape] : shape;
  if (shape.length < 2 || shape.length > 3 || heads === 0 || rows !== queries || columns !== keys) {
    const wanted = `[${queries}, ${keys}] or [heads, ${queries}, ${keys}], as there are rows of q and k`;
    throw new AttentionError('ERR_SHAPE', `${call}: the bias has shape [${shape.join(', ')}]; it must be ${wanted}`);
  }
  if (given !== undefined && given !== heads) {
    throw new AttentionError('ERR_OPTION', `${call}: heads is ${show(given)}; the bias has ${heads}: leave it out`);
  }
  return heads;
}

/** Values of a function, [head][query][key]; it lets other work of the thread pass now and then. */
async function evaluate(f: BiasFunction, heads: number, q: Features, k: Features): Promise<Float32Array> {
  const [queries, keys] = [q.data.length / q.width, k.data.length / k.width];
  const values = new Float32Array(heads * queries * keys);
  for (let row = 0; row < heads * queries; row++) {
    const own = q.data.subarray((row % queries) * q.width, ((row % queries) + 1) * q.width);
    for (let j = 0; j < keys; j++) {
      const value: unknown = f(own, k.data.subarray(j * k.width, (j + 1) * k.width), Math.floor(row / queries));
      if (typeof value !== 'number') {
        throw new AttentionError('ERR_OPTION', `${call}: the function gave ${show(value)}; it must give a number`);
      }
      values[row * keys + j] = value;
    }
    if (row % 16 === 15) await new Promise((resolve) => setImmediate(resolve));
  }
  return values;
}

const finite = (values: Float32Array) => values.every(Number.isFinite);

/** Values that were read, and where the tensor is, which may have been disposed of since. */
interface ReadFeatures extends Features {
  device: Device;
}

const readFeatures = async (tensor: Tensor<'float32'>): Promise<ReadFeatures> => ({
  data: await tensor.read(),
  width: tensor.shape[1] as number,
  device: tensor.device,
});

/** The factors of features, made on a thread, which takes their memory. */
async function factorsOf(fitted: Fitted, heads: number, rank: number, q: ReadFeatures, k: ReadFeatures) {
  const [tokensQ, tokensK] = [q, k].map(({ data, width }) => data.length / width) as [number, number];
  const request: FactorsRequest = { fitted, q: { data: q.data, width: q.width }, k: { data: k.data, width: k.width } };
  const transfer = [q.data.buffer as ArrayBuffer, k.data.buffer as ArrayBuffer];
  const made = await inThread<{ q: Float32Array; k: Float32Array }>(call, 'fit-worker.js', request, transfer);
  const tensor = (values: Float32Array, tokens: number, device: Device) =>
    Tensor.from(values, [1, tokens, heads, rank], { dtype: 'float32', device });
  return { phiQ: tensor(made.q, tokensQ, q.device), phiK: tensor(made.k, tokensK, k.device) };
}

/**
 * Fits two small multilayer perceptrons, one of features of queries and one of features of keys, so that the products of
 * their outputs are a bias: float32 `[Lq, Lk]` or `[heads, Lq, Lk]`, or a function of both features. That gives factors
 * for {@link lowRankBias} also where the bias depends on data, and for queries and keys that come later. Where a bias is the same for
 * all inputs, {@link factorizeBias} is better: it is exact but for the rank.
 *
 * Sampled rows are fitted by Adam's method in float64 on a thread of its own; a function is called on the calling thread,
 * for the sampled rows alone, with pauses.
 *
 * @returns a promise, which is rejected with ERR_OPTION where features or bias are not finite.
 * @throws AttentionError for options and tensors that cannot be right, at once.
 * @see Wu et al. 2025, FlashBias; Kingma and Ba 2015, Adam.
 */
export function fitBias(target: Tensor | BiasFunction, opts: FitOptions): Promise<FittedBias> {
  const given = options(call, opts, [
    'q',
    'k',
    'rank',
    'heads',
    'hidden',
    'steps',
    'batch',
    'learningRate',
    'samples',
    'heldOut',
    'seed',
    'progress',
  ]);
  const [q, k] = [checkFeatures(call, 'q', given.q), checkFeatures(call, 'k', given.k)];
  const [[queries, widthQ], [keys, widthK]] = [q.shape, k.shape] as [[number, number], [number, number]];
  if (queries < 2 || keys < 2) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: ${queries < 2 ? 'q' : 'k'} has one row; give two or more: one is fitted, one held out`,
    );
  }
  const heads = headsOf(target, given.heads, queries, keys);
  const rank = integer(call, 'rank', given.rank, 1);
  const { hidden = [32, 32], progress } = given;
  if (!isArray(hidden)) {
    throw new AttentionError('ERR_OPTION', `${call}: hidden is ${show(hidden)}; it must be a list of integers`);
  }
  const layers = entries(call, 'hidden', hidden, (size, n) => integer(call, `hidden[${n}]`, size, 1));
  const steps = integer(call, 'steps', given.steps ?? 3000, 1);
  const batch = integer(call, 'batch', given.batch ?? 64, 1);
  const learningRate = between('learningRate', given.learningRate ?? 0.01, Number.POSITIVE_INFINITY);
  const samples = integer(call, 'samples', given.samples ?? 512, 2);
  const share = between('heldOut', given.heldOut ?? 0.1, 1);
  const seed = integer(call, 'seed', given.seed ?? 0, 0);
  if (progress !== undefined && typeof progress !== 'function') {
    throw new AttentionError('ERR_OPTION', `${call}: progress is ${show(progress)}; it must be a function`);
  }

  const parameters = [widthQ, widthK].reduce(
    (sum, width) => sum + [...layers, heads * rank].reduce((n, to, at) => n + to * ((layers[at - 1] ?? width) + 1), 0),
    0,
  );
  const values = heads * Math.min(samples, queries) * Math.min(samples, keys);
  if (parameters > mostParameters || values > mostValues) {
    const [what, most] = parameters > mostParameters ? ['parameters', mostParameters] : ['sampled values', mostValues];
    const fix = parameters > mostParameters ? 'hidden or rank' : 'samples';
    const found = parameters > mostParameters ? parameters : values;
    throw new AttentionError('ERR_OPTION', `${call}: ${found} ${what} are more than ${most}; give less as ${fix}`);
  }

  const random = randomNumbers(seed);
  const [ownQ, ownK] = [choose(samples, queries, random), choose(samples, keys, random)];
  const held = (rows: number[]) => Math.min(rows.length - 1, Math.ceil(share * rows.length));
  const heldOut = { queries: held(ownQ), keys: held(ownK) };
  const reading = [readFeatures(q), readFeatures(k), typeof target === 'function' ? undefined : target.read()] as const;
  return Promise.all(reading).then(async ([allQ, allK, dense]) => {
    if (!finite(allQ.data) || !finite(allK.data)) {
      throw new AttentionError(
        'ERR_OPTION',
        `${call}: ${finite(allQ.data) ? 'k' : 'q'} has values that are not finite; give features that all are`,
      );
    }
    const rowsQ = { data: rowsOf(allQ, ownQ), width: widthQ };
    const rowsK = { data: rowsOf(allK, ownK), width: widthK };
    const bias =
      typeof target === 'function'
        ? await evaluate(target, heads, rowsQ, rowsK)
        : Float32Array.from({ length: heads * ownQ.length * ownK.length }, (_, n) => {
            const row = Math.floor(n / ownK.length);
            const from = Math.floor(row / ownQ.length) * queries + (ownQ[row % ownQ.length] as number);
            return (dense as Float32Array)[from * keys + (ownK[n % ownK.length] as number)] as number;
          });
    if (!finite(bias)) {
      throw new AttentionError(
        'ERR_OPTION',
        `${call}: the bias has values that are not finite; hide keys by a mask instead`,
      );
    }
    const plan = { heads, rank, hidden: layers, steps, batch, learningRate, seed, heldOut };
    const request: FitRequest = { q: rowsQ, k: rowsK, bias, ...plan };
    const transfer = [rowsQ.data, rowsK.data, bias].map(({ buffer }) => buffer as ArrayBuffer);
    const heard = progress as FitOptions['progress'];
    const answer = await inThread<FitAnswer, FitProgress>(call, 'fit-worker.js', request, transfer, heard);
    const { fitted, relativeError, trainingError } = answer;
    return {
      ...(await factorsOf(fitted, heads, rank, allQ, allK)),
      rank,
      relativeError,
      trainingError,
      heldOut: {
        queries: ownQ.slice(ownQ.length - heldOut.queries),
        keys: ownK.slice(ownK.length - heldOut.keys),
      },
      factors(features) {
        const { q: newQ, k: newK } = options('factors', features, ['q', 'k']);
        const next = [
          checkFeatures('factors', 'q', newQ, widthQ),
          checkFeatures('factors', 'k', newK, widthK),
        ] as const;
        return Promise.all([readFeatures(next[0]), readFeatures(next[1])]).then(([nextQ, nextK]) =>
          factorsOf(fitted, heads, rank, nextQ, nextK),
        );
      },
    };
  });
}
