// Two small multilayer perceptrons whose outputs are the factors of a bias, for the worker of fitBias(): what they give, how
// that follows their parameters, and Adam's method to find these. In float64.

/** A perceptron: affine layers with tanh between them, of inputs less their mean over their deviation. */
export interface Network {
  /** Numbers in each layer, inputs first, outputs last. */
  sizes: number[];
  /** Layer by layer weights [output][input], then what is added to each output. */
  parameters: Float64Array;
  mean: Float64Array;
  deviation: Float64Array;
}

/** Uniform numbers in [0, 1) from a seed (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `count` of the numbers below `limit`, or all of them, each once and in random order. */
export function choose(count: number, limit: number, random: () => number): number[] {
  const all = Array.from({ length: limit }, (_, n) => n);
  const taken = Math.min(count, limit);
  for (let n = 0; n < taken; n++) {
    const other = n + Math.floor(random() * (limit - n));
    [all[n], all[other]] = [all[other] as number, all[n] as number];
  }
  return all.slice(0, taken);
}

/** Features of tokens, row by row. */
export interface Features {
  data: Float32Array;
  width: number;
}

/** Some of them. */
export function rowsOf({ data, width }: Features, which: number[]): Float32Array {
  const rows = new Float32Array(which.length * width);
  which.forEach((row, n) => {
    rows.set(data.subarray(row * width, (row + 1) * width), n * width);
  });
  return rows;
}

/** A perceptron of random weights, as large as keeps the spread of numbers through the layers (Glorot and Bengio 2010). */
export function createNetwork(sizes: number[], rows: Float32Array, random: () => number): Network {
  const [inputs] = sizes as [number];
  const count = rows.length / inputs;
  const mean = new Float64Array(inputs);
  const deviation = new Float64Array(inputs);
  rows.forEach((x, n) => {
    (mean[n % inputs] as number) += x / count;
  });
  rows.forEach((x, n) => {
    (deviation[n % inputs] as number) += (x - (mean[n % inputs] as number)) ** 2 / count;
  });
  const parameters: number[] = [];
  for (let layer = 1; layer < sizes.length; layer++) {
    const [from, to] = [sizes[layer - 1] as number, sizes[layer] as number];
    const most = Math.sqrt(6 / (from + to));
    // What is added is random too: if both networks gave 0, neither would know where to go.
    for (let n = 0; n < (from + 1) * to; n++) parameters.push(most * (2 * random() - 1));
  }
  return { sizes, parameters: Float64Array.from(parameters), mean, deviation: deviation.map((x) => Math.sqrt(x) || 1) };
}

/** The numbers of every layer for some rows of inputs; the last are the outputs. */
export function forward({ sizes, parameters, mean, deviation }: Network, rows: Float32Array): Float64Array[] {
  const [inputs] = sizes as [number];
  const count = rows.length / inputs;
  let below = Float64Array.from(rows, (x, n) => (x - (mean[n % inputs] as number)) / (deviation[n % inputs] as number));
  const layers = [below];
  let at = 0;
  for (let layer = 1; layer < sizes.length; layer++) {
    const [from, to] = [sizes[layer - 1] as number, sizes[layer] as number];
    const above = new Float64Array(count * to);
    for (let i = 0; i < count; i++) {
      for (let o = 0; o < to; o++) {
        let sum = parameters[at + from * to + o] as number;
        for (let c = 0; c < from; c++)
          sum += (parameters[at + o * from + c] as number) * (below[i * from + c] as number);
        above[i * to + o] = layer + 1 < sizes.length ? Math.tanh(sum) : sum;
      }
    }
    at += (from + 1) * to;
    layers.push(above);
    below = above;
  }
  return layers;
}

/** How a sum over rows grows with each parameter, from how it grows with the outputs. */
export function gradient({ sizes, parameters }: Network, layers: Float64Array[], outputs: Float64Array): Float64Array {
  const result = new Float64Array(parameters.length);
  let at = parameters.length;
  let above = outputs;
  for (let layer = sizes.length - 1; layer > 0; layer--) {
    const [from, to] = [sizes[layer - 1] as number, sizes[layer] as number];
    const below = layers[layer - 1] as Float64Array;
    const next = new Float64Array(below.length);
    at -= (from + 1) * to;
    for (let i = 0; i < above.length / to; i++) {
      for (let o = 0; o < to; o++) {
        const slope = above[i * to + o] as number;
        (result[at + from * to + o] as number) += slope;
        for (let c = 0; c < from; c++) {
          (result[at + o * from + c] as number) += slope * (below[i * from + c] as number);
          (next[i * from + c] as number) += slope * (parameters[at + o * from + c] as number);
        }
      }
    }
    above = next.map((slope, n) => slope * (1 - (below[n] as number) ** 2)); // of tanh; unused for the inputs
  }
  return result;
}

/** Kingma and Ba 2015. */
export class Adam {
  readonly #parameters: Float64Array;
  readonly #first: Float64Array;
  readonly #second: Float64Array;
  #steps = 0;

  constructor(parameters: Float64Array) {
    this.#parameters = parameters;
    this.#first = new Float64Array(parameters.length);
    this.#second = new Float64Array(parameters.length);
  }

  step(gradient: Float64Array, rate: number): void {
    const [beta1, beta2, least] = [0.9, 0.999, 1e-8];
    this.#steps++;
    const [unbias1, unbias2] = [1 - beta1 ** this.#steps, 1 - beta2 ** this.#steps];
    gradient.forEach((slope, n) => {
      const first = beta1 * (this.#first[n] as number) + (1 - beta1) * slope;
      const second = beta2 * (this.#second[n] as number) + (1 - beta2) * slope * slope;
      this.#first[n] = first;
      this.#second[n] = second;
      (this.#parameters[n] as number) -= (rate * (first / unbias1)) / (Math.sqrt(second / unbias2) + least);
    });
  }
}

/** Factors of some queries and keys, [token][head][rank], and the bias they are to give, [head][query][key]. */
export interface Pairs {
  heads: number;
  rank: number;
  q: Float64Array;
  k: Float64Array;
  bias: Float64Array;
}

/** Half the sum of squares of what the products of factors lack, and how it grows with the factors. */
export function lacking({ heads, rank, q, k, bias }: Pairs): { loss: number; q: Float64Array; k: Float64Array } {
  const width = heads * rank;
  const [queries, keys] = [q.length / width, k.length / width];
  const result = { loss: 0, q: new Float64Array(q.length), k: new Float64Array(k.length) };
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < queries; i++) {
      const own = i * width + h * rank;
      for (let j = 0; j < keys; j++) {
        const other = j * width + h * rank;
        let off = -(bias[(h * queries + i) * keys + j] as number);
        for (let r = 0; r < rank; r++) off += (q[own + r] as number) * (k[other + r] as number);
        result.loss += (off * off) / 2;
        for (let r = 0; r < rank; r++) {
          (result.q[own + r] as number) += off * (k[other + r] as number);
          (result.k[other + r] as number) += off * (q[own + r] as number);
        }
      }
    }
  }
  return result;
}
