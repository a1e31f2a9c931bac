// A KvCache and the plain arrays that it must hold, under the same appends, truncations and forks.

import fc from 'fast-check';
import { type Device, KvCache, type KvCacheOptions, type Stream } from 'node-attention';
import { tensorOf } from './library';
import { count, type Float, normal, round, type Values } from './numbers';

export interface Sizes {
  storage?: 'int8' | undefined;
  batch: number;
  kvHeads: number;
  group: number;
  headDim: number;
  valueDim: number;
  pageSize: number;
  dtype: Float;
}

/** A cache and what it must hold: keys and values of each sequence, `[1, tokens, kvHeads, columns]`. */
export interface Twin {
  cache: KvCache;
  sequences: { k: Values; v: Values }[];
}

/** Rows [from, to) along the tokens of one batch entry. */
export function rowsOf({ shape, data }: Values, batch: number, from: number, to: number): Values {
  const row = count(shape.slice(2));
  const start = (batch * shape[1]! + from) * row;
  return { shape: [1, to - from, ...shape.slice(2)], data: data.slice(start, start + (to - from) * row) };
}

/** The rows of both, along the tokens. */
export function join(a: Values, b: Values): Values {
  const data = new Float64Array(a.data.length + b.data.length);
  data.set(a.data);
  data.set(b.data, a.data.length);
  return { shape: [1, a.shape[1]! + b.shape[1]!, ...a.shape.slice(2)], data };
}

/** What int8 storage makes of rows, from its definition. */
function quantised({ shape, data }: Values, dtype: Float): Values {
  const columns = shape.at(-1)!;
  const held = data.slice();
  const even = (x: number) =>
    Math.round(x) - x === 0.5 && Math.round(x) % 2 !== 0 ? Math.round(x) - 1 : Math.round(x);
  for (let row = 0; row < data.length; row += columns) {
    const elements = data.subarray(row, row + columns);
    const unit = Math.fround(elements.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127);
    elements.forEach((x, d) => {
      held[row + d] = unit === 0 ? 0 : round(dtype, Math.fround(unit * even(Math.fround(x / unit))));
    });
  }
  return { shape, data: held };
}

/** What a cache holds of appended rows. */
export const heldOf = ({ dtype, storage }: Pick<Sizes, 'dtype' | 'storage'>, values: Values): Values =>
  storage ? quantised(values, dtype) : values;

/** Of a cache with rows of these sizes. */
export const optionsOf = ({ group, ...sizes }: Sizes) => sizes;

/** Random sizes that an interpreter of kernels is fast at. */
export const smallSizes = (pageSizes: readonly number[], dtypes: readonly Float[]) =>
  fc.record({
    batch: fc.integer({ min: 1, max: 3 }),
    kvHeads: fc.integer({ min: 1, max: 2 }),
    group: fc.integer({ min: 1, max: 3 }),
    headDim: fc.integer({ min: 1, max: 40 }),
    valueDim: fc.integer({ min: 1, max: 40 }),
    pageSize: fc.constantFrom(...pageSizes),
    dtype: fc.constantFrom(...dtypes),
    storage: fc.constantFrom(undefined, 'int8' as const),
  });

export function emptyTwin(
  sizes: Sizes,
  capacity: number,
  device: Device = 'cpu',
  more: Partial<KvCacheOptions> = {},
): Twin {
  const { batch, kvHeads, headDim, valueDim } = sizes;
  const none = (columns: number): Values => ({ shape: [1, 0, kvHeads, columns], data: new Float64Array(0) });
  return {
    cache: new KvCache({ ...optionsOf(sizes), capacity, device, ...more }),
    sequences: Array.from({ length: batch }, () => ({ k: none(headDim), v: none(valueDim) })),
  };
}

/** Keys and values of random tokens, as many as the longest gets; those that a sequence does not get are NaN. */
export function randomTokens(
  { batch, kvHeads, headDim, valueDim, dtype }: Pick<Sizes, 'batch' | 'kvHeads' | 'headDim' | 'valueDim' | 'dtype'>,
  lengths: number[],
  random: () => number,
): [k: Values, v: Values] {
  const n = Math.max(...lengths);
  return [headDim, valueDim].map((columns) => {
    const values = normal(random, dtype, [batch, n, kvHeads, columns]);
    const row = kvHeads * columns;
    lengths.forEach((length, b) => {
      values.data.fill(Number.NaN, (b * n + length) * row, (b + 1) * n * row);
    });
    return values;
  }) as [Values, Values];
}

/** Appends random tokens. */
export function append(twin: Twin, sizes: Sizes, lengths: number[], random: () => number, stream?: Stream): void {
  const held = (values: Values) => heldOf(sizes, values);
  const [k, v] = randomTokens(sizes, lengths, random);
  const { device, dtype } = twin.cache;
  const tensors = [tensorOf(k, dtype, device), tensorOf(v, dtype, device)] as const;
  twin.cache.append(...tensors, { lengths, stream });
  for (const tensor of tensors) tensor.dispose();
  twin.sequences = twin.sequences.map((old, b) => ({
    k: join(old.k, held(rowsOf(k, b, 0, lengths[b]!))),
    v: join(old.v, held(rowsOf(v, b, 0, lengths[b]!))),
  }));
}

export function truncate(twin: Twin, lengths: number[]): void {
  twin.cache.truncate(lengths);
  twin.sequences = twin.sequences.map(({ k, v }, b) => ({
    k: rowsOf(k, 0, 0, lengths[b]!),
    v: rowsOf(v, 0, 0, lengths[b]!),
  }));
}

export const lengthsOf = (twin: Twin): number[] => twin.sequences.map(({ k }) => k.shape[1]!);

export interface Changing {
  sizes: Sizes;
  capacity: number;
  /** There are at most so many twins. */
  forks: number;
  /** Tokens that a sequence with so much room gets by an append. */
  appended(room: number): number;
  random(): number;
  stream?: Stream | undefined;
}

/** Appends tokens or one to each sequence, truncates or forks one of the twins; false for any other step. */
export function change(twins: Twin[], twin: Twin, step: string, by: Changing): boolean {
  const { sizes, capacity, random, stream } = by;
  const lengths = lengthsOf(twin);
  if (step === 'append' || step === 'token') {
    const appended = step === 'append' ? by.appended : (room: number) => Math.min(1, room);
    const more = lengths.map((length) => appended(capacity - length));
    append(twin, sizes, more, random, stream);
  } else if (step === 'truncate') {
    const kept = lengths.map((length) => Math.floor(random() * (length + 1)));
    truncate(twin, kept);
  } else if (step === 'fork' && twins.length < by.forks) {
    twins.push({ cache: twin.cache.fork(), sequences: twin.sequences });
  } else {
    return false;
  }
  return true;
}
