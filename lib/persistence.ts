// Saving caches to files and loading them. Pieces of a cache go through memory that three threads share: the native ones
// copy rows, that of the file writes or reads them, and this one only says what is next.

import * as path from 'node:path';
import type { KvCacheOptions, RopeOptions } from './cache';
import { dtypeIndex, elementBytes } from './dtype';
import { AttentionError } from './errors';
import type { FileQuestion, Opened } from './file-worker';
import { type NativeCache, type NativeRows, type NativeStream, type NativeTensor, native } from './native';
import { show } from './options';
import { checkTensors, type Entry, MOST_HEAD, makeHead, type Refuse, readHead } from './safetensors';
import { Thread } from './thread';

/** What a file says of its cache beside the rows. */
export interface Saved {
  batch: number;
  kvHeads: number;
  headDim: number;
  valueDim: number;
  pageSize: number;
  capacity: number;
  dtype: NonNullable<KvCacheOptions['dtype']>;
  storage: 'float32' | 'float16' | 'bfloat16' | 'int8';
  rope: Required<RopeOptions> | undefined;
  lengths: number[];
}

/** Of this layout of tensors and metadata. */
const VERSION = '1';
/** The most sequences of a cache. */
const MOST_BATCH = 1024;
/** Bytes of a piece; two of them are on their way at once. */
const PIECE = 4 << 20;
/** Pages of a piece, each of which the operation that copies it is told. */
const MOST_PAGES = 4096;

const TYPES = { float32: 'F32', float16: 'F16', bfloat16: 'BF16' } as const;

/** The absolute path of a file. */
export function filePath(call: string, given: unknown): string {
  if (typeof given === 'string' && given !== '' && !given.includes('\0')) return path.resolve(given);
  throw new AttentionError('ERR_OPTION', `${call}: path is ${show(given)}; it must be the path of a file`);
}

/** A tensor of the file, and the rows of the cache that it holds. */
interface Part extends Entry {
  rows: Pick<NativeRows, 'sequence' | 'values' | 'units'>;
  /** Bytes of a row. */
  each: number;
}

/** The tensors of a cache's file, in their order: those of larger elements first, so that all are aligned. */
function partsOf({ batch, kvHeads, headDim, valueDim, storage, lengths }: Saved): Part[] {
  const parts: Part[] = [];
  const add = (units: boolean) => {
    for (let sequence = 0; sequence < batch; sequence++) {
      for (const values of [false, true]) {
        const [tokens, columns] = [lengths[sequence]!, values ? valueDim : headDim];
        const name = `${values ? 'v' : 'k'}.${sequence}${units ? '.scale' : ''}`;
        const dtype = units ? 'F32' : storage === 'int8' ? 'I8' : TYPES[storage];
        const each = units ? 4 : columns * (storage === 'int8' ? 1 : elementBytes[storage]);
        const shape = units ? [tokens, kvHeads] : [tokens, kvHeads, columns];
        parts.push({ name, dtype, shape, bytes: tokens * kvHeads * each, rows: { sequence, values, units }, each });
      }
    }
  };
  if (storage === 'int8') add(true);
  add(false);
  return parts;
}

/** Metadata of safetensors are strings. */
function metadataOf({ lengths, rope, ...rest }: Saved): Record<string, string> {
  const plain = Object.entries(rest).map(([name, value]) => [name, String(value)]);
  const nested = { lengths: JSON.stringify(lengths), ...(rope && { rope: JSON.stringify(rope) }) };
  return { kv_cache: VERSION, ...Object.fromEntries(plain), ...nested };
}

function savedOf(metadata: Record<string, string>, refuse: Refuse): Saved {
  const text = (name: string) =>
    Object.hasOwn(metadata, name) ? metadata[name]! : refuse(`${name} in its metadata`, 'none');
  const wrong = (name: string, expected: string) => refuse(`${expected} as ${name}`, show(metadata[name]));
  const integer = (name: string, value: unknown = Number(text(name)), least = 1) =>
    Number.isSafeInteger(value) && (value as number) >= least ? (value as number) : wrong(name, 'an integer');
  const oneOf = <T extends string>(name: string, choices: readonly T[]) =>
    choices.find((choice) => choice === text(name)) ?? wrong(name, choices.join(' or '));
  const parsed = (name: string): unknown => {
    try {
      return JSON.parse(text(name));
    } catch {
      return wrong(name, 'JSON');
    }
  };
  if (text('kv_cache') !== VERSION) wrong('kv_cache', `'${VERSION}', the only layout that is known,`);
  const batch = integer('batch');
  if (batch > MOST_BATCH) wrong('batch', `at most ${MOST_BATCH}`);
  const lengths = parsed('lengths');
  if (!Array.isArray(lengths) || lengths.length !== batch) wrong('lengths', `a list of ${batch}`);
  const dtype = oneOf('dtype', ['float32', 'float16', 'bfloat16']);
  return {
    batch,
    kvHeads: integer('kvHeads'),
    headDim: integer('headDim'),
    valueDim: integer('valueDim'),
    pageSize: integer('pageSize'),
    capacity: integer('capacity'),
    dtype,
    storage: oneOf('storage', [dtype, 'int8']),
    rope: Object.hasOwn(metadata, 'rope') ? (parsed('rope') as Required<RopeOptions>) : undefined,
    lengths: (lengths as unknown[]).map((length) => integer('lengths', length, 0)),
  };
}

/** Rows that go through the shared memory at once. */
interface Piece {
  rows: NativeRows;
  bytes: number;
  /** In the file. */
  position: number;
}

function* piecesOf(parts: Part[], begin: number, pageRows: number): Generator<Piece> {
  let position = begin;
  for (const { rows, each, bytes } of parts) {
    const most = Math.min(Math.floor(PIECE / each), MOST_PAGES * pageRows);
    for (let first = 0; first < bytes / each; first += most) {
      const count = Math.min(most, bytes / each - first);
      yield { rows: { ...rows, first, count }, bytes: count * each, position };
      position += count * each;
    }
  }
}

/** Memory of two pieces, a stream of the cache's device that copies to and from it, and the thread of a file. */
class Transfer {
  readonly thread: Thread<FileQuestion>;
  readonly stream: NativeStream;
  readonly slots: { memory: SharedArrayBuffer; tensor: NativeTensor; free: Promise<unknown> }[];
  #turn = 0;

  constructor(call: string, largest: number, device: string) {
    this.stream = native.streamCreate(device);
    this.slots = [0, 1].map(() => {
      const memory = new SharedArrayBuffer(Math.min(PIECE, Math.max(1, largest)));
      const tensor = native.tensorWrap(new Uint8Array(memory), [memory.byteLength], dtypeIndex('uint8'));
      return { memory, tensor, free: Promise.resolve() };
    });
    this.thread = new Thread(call, 'file-worker.js');
  }

  /** The memory whose turn it is, once it is free. */
  async next() {
    const slot = this.slots[this.#turn++ % 2]!;
    await slot.free;
    return slot;
  }

  /** When all pieces have arrived. */
  async arrived(): Promise<void> {
    await Promise.all(this.slots.map(({ free }) => free));
  }

  /** Lets go of everything, also in the middle: what has failed then is what the caller is to hear of. */
  async end(): Promise<void> {
    await this.thread.ask({ do: 'close' }).catch(() => {});
    await this.thread.end();
    await native.streamSynchronize(this.stream).catch(() => {});
    for (const { tensor } of this.slots) native.tensorDispose(tensor);
    native.streamDispose(this.stream);
  }
}

/** A promise that is awaited later; until then its failure is nobody's. */
function later<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/** Writes a cache, which nobody else may have, and disposes of it. */
export async function saveCache(
  call: string,
  file: string,
  cache: NativeCache,
  saved: Saved,
  device: string,
): Promise<void> {
  let transfer: Transfer | undefined;
  try {
    const parts = partsOf(saved);
    const metadata = metadataOf(saved);
    transfer = new Transfer(call, Math.max(...parts.map(({ bytes }) => bytes)), device);
    const { thread, stream } = transfer;
    await thread.ask({ do: 'create', path: file });
    const begin = makeHead(parts, metadata).length;
    for (const { rows, bytes, position } of piecesOf(parts, begin, saved.pageSize * saved.kvHeads)) {
      const slot = await transfer.next();
      native.kvCacheCopyRows(cache, rows, false, slot.tensor, stream);
      await native.tensorWritten(slot.tensor);
      slot.free = later(thread.ask({ do: 'write', memory: slot.memory, bytes, position }));
    }
    await transfer.arrived();
    const digest = await thread.ask<string>({ do: 'digest' });
    await thread.ask({ do: 'commit', head: makeHead(parts, metadata, digest) });
  } finally {
    await transfer?.end();
    native.kvCacheDispose(cache);
  }
}

/** An empty cache made for what a file says. */
export interface Made<Cache> {
  cache: Cache;
  handle: NativeCache;
}

/** The cache of a file, with the rows of the file in what `make` makes. */
export async function loadCache<Cache extends { readonly pageSize: number; dispose(): void }>(
  call: string,
  file: string,
  device: string,
  make: (saved: Saved) => Made<Cache>,
): Promise<Cache> {
  const clipped = (text: string) => (text.length > 200 ? `${text.slice(0, 200)}...` : text);
  const refuse: Refuse = (expected, found) => {
    const what = `expected ${clipped(expected)}, found ${clipped(found)}`;
    throw new AttentionError('ERR_OPTION', `${call}: ${file} is not the whole file of a KvCache: ${what}`);
  };
  let made: Made<Cache> | undefined;
  let transfer: Transfer | undefined;
  try {
    transfer = new Transfer(call, PIECE, device);
    const { thread, stream } = transfer;
    const opened = await thread.ask<Opened>({ do: 'open', path: file, head: MOST_HEAD });
    if (!opened.regular) refuse('a file', 'something else');
    const head = readHead(opened.head, opened.size, refuse);
    const saved = savedOf(head.metadata, refuse);
    const parts = partsOf(saved);
    checkTensors(head.tensors, parts, refuse);
    const size = parts.reduce((sum, { bytes }) => sum + bytes, head.length);
    if (opened.size !== size) refuse(`${size} bytes`, `${opened.size}`);
    try {
      made = make(saved);
      native.kvCacheRestore(made.handle, saved.lengths);
    } catch (error) {
      if (!(error instanceof AttentionError)) throw error;
      throw new AttentionError(error.code, `${call}: ${file}: ${error.message}`, { cause: error });
    }

    const { cache, handle } = made;
    for (const { rows, bytes, position } of piecesOf(parts, head.length, cache.pageSize * saved.kvHeads)) {
      const slot = await transfer.next();
      const count = await thread.ask<number>({ do: 'read', memory: slot.memory, bytes, position });
      if (count !== bytes) refuse(`${bytes} bytes at ${position}`, `${count}`);
      native.kvCacheCopyRows(handle, rows, true, slot.tensor, stream);
      slot.free = later(native.streamSynchronize(stream));
    }
    const digest = await thread.ask<string>({ do: 'digest' });
    if (digest !== head.dataDigest) refuse(`data of SHA-256 ${head.dataDigest}`, digest);
    await transfer.arrived();
    return cache;
  } catch (error) {
    made?.cache.dispose();
    throw error;
  } finally {
    await transfer?.end();
  }
}
