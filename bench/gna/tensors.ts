// The tensors of a case and what computes attention on them: this library on either device, with the mask and without.

import { attention, type Device, fromBfloat16, neighborhood, Stream, Tensor } from 'node-attention';
import { expected } from '../../test/support/tolerance';
import { count, setsOfBytes } from '../cases';
import { faultOfRow } from '../check';
import { ROTATE_BYTES } from '../cuda/cases';
import type { Timed } from '../measure';
import { bytesOf, type DType, type GnaCase, keysOf, type Setting } from './cases';

/** Sets of inputs that take turns, one behind the other along the batch axis. */
export interface Tensors {
  sets: number;
  q: Tensor;
  k: Tensor;
  v: Tensor;
  out: Tensor;
  stream: Stream;
}

/** How many sets of a case take turns, so that none is found in the caches near a processor. */
const setsFor = (test: GnaCase, device: Device): number =>
  device === 'cpu' ? setsOfBytes(bytesOf(test)) : Math.ceil(ROTATE_BYTES / bytesOf(test));

export function makeTensors(test: GnaCase, device: Device, sets = setsFor(test, device)): Tensors {
  const { shape, batch, heads, headDim, dtype } = test;
  const make = (seed: number) => Tensor.randn([sets * batch, ...shape, heads, headDim], { seed, dtype, device });
  const q = make(1);
  return { sets, q, k: make(2), v: make(3), out: Tensor.empty(q.shape, { dtype, device }), stream: new Stream(device) };
}

export function disposeTensors({ q, k, v, out, stream }: Tensors): void {
  for (const resource of [q, k, v, out, stream]) resource.dispose();
}

/** The part of a tensor that belongs to each set. */
export const partsOf = (tensor: Tensor, sets: number): Tensor[] => {
  const batch = tensor.shape[0]! / sets;
  return Array.from({ length: sets }, (_, set) => tensor.slice([set * batch, (set + 1) * batch]));
};

export const maskOf = ({ window, stride, dilation }: Setting) => neighborhood({ window, stride, dilation });

/**
 * Runs that take the sets in turn, timed by the device's own clock, from the first to the last of those that are asked
 * for.
 */
function turnsOnStream(stream: Stream, sets: number, step: (set: number) => void): Timed['run'] {
  let next = 0;
  return async (times) => {
    const start = stream.record();
    for (let i = 0; i < times; i++) step(next++ % sets);
    const end = stream.record();
    return [(await start.elapsedMs(end)) / times];
  };
}

/** Neighborhood attention into `out`. */
export function sparse(test: GnaCase, { q, k, v, out, stream, sets }: Tensors): Timed {
  const [queries, keys, values, outs] = [q, k, v, out].map((tensor) => partsOf(tensor, sets)) as [
    Tensor[],
    Tensor[],
    Tensor[],
    Tensor[],
  ];
  const mask = maskOf(test);
  return {
    run: turnsOnStream(stream, sets, (set) => {
      attention(queries[set]!, keys[set]!, values[set]!, { mask, out: outs[set]!, stream }).lse.dispose();
    }),
  };
}

/** On a CPU, so many queries stand for all: enough for its threads to share, and every one of them costs the same. */
const SAMPLED = 8192;

export interface Dense extends Timed {
  /** Queries that are computed; the times are those of all, in proportion. */
  queries: number;
  judge(): Promise<Judged>;
  dispose(): void;
}

/** Dense attention, on a CPU of the first queries only where there are many. */
export function dense(test: GnaCase, tensors: Tensors): Dense {
  const { shape, batch, heads, headDim, dtype } = test;
  const { q, k, v, stream, sets } = tensors;
  const tokens = count(shape);
  const queries = q.device === 'cpu' && tokens >= 2 * SAMPLED ? SAMPLED : tokens;
  const flat = (tensor: Tensor) => tensor.reshape([sets * batch, tokens, heads, headDim]);
  const out = Tensor.empty([sets * batch, queries, heads, headDim], { dtype, device: q.device });
  const [keys, values, outs] = [partsOf(flat(k), sets), partsOf(flat(v), sets), partsOf(out, sets)];
  const queried = partsOf(flat(q), sets).map((part) => part.slice([0, batch], [0, queries]));
  const run = turnsOnStream(stream, sets, (set) => {
    attention(queried[set]!, keys[set]!, values[set]!, { out: outs[set]!, stream }).lse.dispose();
  });
  return {
    queries,
    run: async (times) => (await run(times)).map((ms) => (ms * tokens) / queries),
    judge() {
      const all = Array.from({ length: tokens }, (_, j) => j);
      // Each row is one of all keys: the first and the last one tell a mask and an end that is left out.
      return judgeRows(test, tensors, out, [0, queries - 1], () => all);
    },
    dispose: () => out.dispose(),
  };
}

const SAMPLES = 6;

export interface Judged {
  fault?: string;
  /** The largest difference from float64 in the sampled rows, and the largest that is allowed there. */
  error: number;
  tolerance: number;
}

/** Numbers of what `read()` gives. */
export const numbersOf = (dtype: DType, values: unknown): Float32Array =>
  dtype === 'float32' ? (values as Float32Array) : fromBfloat16(values as Uint16Array);

/** Looks at the `out` of neighborhood attention: the corners of the grid, and others. */
export function judge(test: GnaCase, tensors: Tensors): Promise<Judged> {
  const tokens = count(test.shape);
  const queries = Array.from({ length: SAMPLES }, (_, n) =>
    n === 0 ? 0 : n === 1 ? tokens - 1 : Math.floor((tokens * n) / SAMPLES + n),
  );
  return judgeRows(test, tensors, tensors.out, queries, (query) => keysOf(test, query));
}

/**
 * Rows of `out` against the float64 oracle of the tests, which is told the keys that a query sees, ascending: these queries
 * of the first set or of several, and one of every other set.
 */
async function judgeRows(
  { batch, heads, headDim, dtype }: GnaCase,
  { q, k, v, sets }: Tensors,
  out: Tensor,
  queries: readonly number[],
  seenBy: (query: number) => number[],
): Promise<Judged> {
  const rows = async (tensor: Tensor, entry: number, head: number, wanted: number[]) => {
    const first = wanted[0]!; // they ascend
    const entries = tensor.shape[0]!;
    const flat = tensor.reshape([entries, count(tensor.shape) / entries / heads / headDim, heads, headDim]);
    const part = flat.slice([entry, entry + 1], [first, wanted.at(-1)! + 1], [head, head + 1]);
    const values = numbersOf(dtype, await part.read());
    const data = new Float64Array(wanted.length * headDim);
    wanted.forEach((n, i) => {
      data.set(values.subarray((n - first) * headDim, (n - first + 1) * headDim), i * headDim);
    });
    return { shape: [1, wanted.length, 1, headDim], data };
  };
  const judged: Judged = { error: 0, tolerance: 0 };
  const seen = new Map(queries.map((query) => [query, seenBy(query)]));
  for (let n = 0; n < Math.max(queries.length, sets); n++) {
    const query = queries[n % queries.length]!;
    const [entry, head] = [(n % sets) * batch + (n % batch), n % heads];
    const keys = seen.get(query)!;
    const problem = {
      q: await rows(q, entry, head, [query]),
      k: await rows(k, entry, head, keys),
      v: await rows(v, entry, head, keys),
    };
    const products = q.device === 'cpu' || dtype !== 'float32' ? 'exact' : '3xtf32';
    const right = expected(problem, dtype, products, q.device !== 'cpu');
    const found = await rows(out, entry, head, [query]);
    found.data.forEach((value, c) => {
      judged.error = Math.max(judged.error, Math.abs(value - right.out[c]!));
    });
    judged.tolerance = Math.max(judged.tolerance, right.tolerance.out);
    const fault = faultOfRow(found.data, 0, right.out, right.tolerance.out);
    judged.fault ??= fault && `batch ${entry}, query ${query}, head ${head}, ${fault}`;
  }
  return judged;
}
