// The thread that fitBias() works on: fits two networks, or computes the factors that fitted ones give.

import { parentPort } from 'node:worker_threads';
import {
  Adam,
  choose,
  createNetwork,
  type Features,
  forward,
  gradient,
  lacking,
  type Network,
  randomNumbers,
  rowsOf,
} from './mlp';
import type { Message } from './thread';

/** Both networks; outputs of the first are to be multiplied by `size`. */
export interface Fitted {
  q: Network;
  k: Network;
  size: number;
}

/** What is to be fitted: sampled rows, the last of which are held out. */
export interface FitRequest {
  q: Features;
  k: Features;
  /** [head][query][key] */
  bias: Float32Array;
  heads: number;
  rank: number;
  hidden: number[];
  steps: number;
  batch: number;
  learningRate: number;
  seed: number;
  heldOut: { queries: number; keys: number };
}

/** What comes of it; errors as shares of the norm of the bias. */
export interface FitAnswer {
  fitted: Fitted;
  relativeError: number;
  trainingError: number;
}

/** How far a fit is. */
export interface FitProgress {
  /** Steps done. */
  step: number;
  /** Steps in all. */
  steps: number;
  /** The error of the rows of this step, as a share of the root mean square of the bias. */
  error: number;
}

/** Factors that are asked for. */
export interface FactorsRequest {
  fitted: Fitted;
  q: Features;
  k: Features;
}

function fit(request: FitRequest, heard: (progress: FitProgress) => void): FitAnswer {
  const { q, k, bias, heads, rank, hidden, steps, batch, learningRate, heldOut } = request;
  const [queries, keys] = [q.data.length / q.width, k.data.length / k.width];
  const [ownQueries, ownKeys] = [queries - heldOut.queries, keys - heldOut.keys];
  const random = randomNumbers(request.seed);
  const range = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => from + n);
  const biasOf = (which: number[], others: number[]) =>
    Float64Array.from({ length: heads * which.length * others.length }, (_, n) => {
      const [h, i] = [Math.floor(n / (which.length * others.length)), Math.floor(n / others.length) % which.length];
      return (
        (bias[(h * queries + (which[i] as number)) * keys + (others[n % others.length] as number)] as number) / size
      );
    });
  let size = 1;
  const own = biasOf(range(0, ownQueries), range(0, ownKeys));
  size = Math.sqrt(own.reduce((sum, x) => sum + x * x, 0) / own.length) || 1;

  const networkOf = (of: Features, rows: number) =>
    createNetwork([of.width, ...hidden, heads * rank], of.data.subarray(0, rows * of.width), random);
  const [left, right] = [networkOf(q, ownQueries), networkOf(k, ownKeys)];
  const [adamLeft, adamRight] = [new Adam(left.parameters), new Adam(right.parameters)];
  const every = Math.max(1, Math.floor(steps / 100));
  for (let step = 0; step < steps; step++) {
    const [some, others] = [choose(batch, ownQueries, random), choose(batch, ownKeys, random)];
    const [layersQ, layersK] = [forward(left, rowsOf(q, some)), forward(right, rowsOf(k, others))];
    const wanted = biasOf(some, others);
    const [phiQ, phiK] = [layersQ.at(-1) as Float64Array, layersK.at(-1) as Float64Array];
    const found = lacking({ heads, rank, q: phiQ, k: phiK, bias: wanted });
    const rate = (learningRate * (1 + Math.cos((Math.PI * step) / steps))) / 2;
    const mean = (x: number) => x / wanted.length;
    adamLeft.step(gradient(left, layersQ, found.q.map(mean)), rate);
    adamRight.step(gradient(right, layersK, found.k.map(mean)), rate);
    if ((step + 1) % every === 0 || step + 1 === steps) {
      heard({ step: step + 1, steps, error: Math.sqrt((2 * found.loss) / wanted.length) });
    }
  }

  const fitted = { q: left, k: right, size };
  const errorOf = (some: number[], others: number[]) => {
    const [phiQ, phiK] = [factors(left, rowsOf(q, some), size), factors(right, rowsOf(k, others), 1)];
    const wanted = biasOf(some, others).map((x) => x * size);
    const { loss } = lacking({ heads, rank, q: Float64Array.from(phiQ), k: Float64Array.from(phiK), bias: wanted });
    const norm = wanted.reduce((sum, x) => sum + x * x, 0);
    return loss === 0 ? 0 : Math.sqrt((2 * loss) / norm);
  };
  return {
    fitted,
    relativeError: errorOf(range(ownQueries, queries), range(ownKeys, keys)),
    trainingError: errorOf(range(0, ownQueries), range(0, ownKeys)),
  };
}

const factors = (network: Network, rows: Float32Array, size: number): Float32Array =>
  Float32Array.from(forward(network, rows).at(-1) as Float64Array, (x) => x * size);

const post = (message: Message<unknown, FitProgress>) => parentPort?.postMessage(message);

parentPort?.once('message', (request: FitRequest | FactorsRequest) => {
  if ('fitted' in request) {
    const { fitted, q, k } = request;
    post({ answer: { q: factors(fitted.q, q.data, fitted.size), k: factors(fitted.k, k.data, 1) } });
  } else {
    post({ answer: fit(request, (progress) => post({ progress })) });
  }
});
