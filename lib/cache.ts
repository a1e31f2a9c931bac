import type { DType } from './dtype';
import { checkFloat, dtypeIndex } from './dtype';
import { AttentionError } from './errors';
import { type NativeCache, native } from './native';
import { boolean, finite, integer, integers, isArray, isObject, oneOf, options } from './options';
import { filePath, loadCache, saveCache } from './persistence';
import { optionalStream, type Stream } from './stream';
import { checkDevice, type Device, type Tensor, tensorHandle } from './tensor';

/** Rotary position embedding (Su et al. 2021), as a {@link KvCache} applies it. */
export interface RopeOptions {
  /** Base of the angles: columns j of a pair turn by position · theta^(-2j / dim). Default 10000. */
  theta?: number;
  /** How many columns of a head are rotated, an even number; the further ones stay as they are. Default: headDim. */
  dim?: number;
  /** Pairs are columns 2j and 2j + 1; otherwise j and j + dim / 2, as in LLaMA and GPT-NeoX. Default false. */
  interleaved?: boolean;
}

/** What of a {@link KvCache} a GPU holds while all of it is in host memory. */
export interface ResidentOptions {
  /** The first tokens of each sequence; default 0. */
  sink?: number;
  /** The last tokens of each sequence, at least 1. */
  window: number;
  /**
   * At most so many pages of each sequence in between: those that sparse plans listed last. While it attends by a plan
   * the GPU notes its pages; an append has those copied that are missing, as far as the call has ended by then, and what
   * was not listed for longest makes room. Pages that leave the window count as listed. Where a plan lists more than
   * fit, those stay that are there; so they do where the GPU has no memory for more. Default 0.
   */
  pages?: number;
}

/** Options of {@link KvCache}. */
export interface KvCacheOptions {
  /** Sequences, 1 to 1024. */
  batch: number;
  /** Heads of keys and values. */
  kvHeads: number;
  /** Elements of a key, 1 to 512. */
  headDim: number;
  /** headDim of the values; default headDim. */
  valueDim?: number;
  /** Tokens in a page of memory; default 64. */
  pageSize?: number;
  /** The most tokens of a sequence. */
  capacity: number;
  /** Type of appended tensors and of queries, and of what is stored unless `storage` says otherwise; default 'float32'. */
  dtype?: 'float32' | 'float16' | 'bfloat16';
  /**
   * 'int8': of each token and head, keys and values are rounded to 255 steps between plus and minus their largest
   * element. An element is then at most 1/254 of that element off, before {@link attention} rounds it to `dtype`, and
   * takes one byte; a row takes 4 bytes more. A row with an element that is not finite becomes NaN, and one without any
   * above 1.5e-36 zero. Default: as `dtype`, exactly.
   */
  storage?: 'int8';
  /** 'cpu' unless given. On CUDA `headDim` and `valueDim` are 256 at most. */
  device?: Device;
  /** Rotates keys when they are appended, and the queries of {@link attention}, by their positions. Default: not. */
  rope?: RopeOptions;
  /**
   * On CUDA: keeps all keys and values in pinned memory of the host, and copies of the pages with these tokens on the GPU,
   * so that memory of the GPU does not grow with the context, but for 8 bytes a page and what selectors and estimates
   * keep. Results are the same. The GPU reads what is resident from its own memory, and all else over the bus: so attend
   * with masks that stay within it, by plans that mostly list the same pages from step to step (`resident.pages`), or by
   * a {@link KvIndex}. After `truncate` and {@link KvCache.load} the next append
   * brings what is missing of it. Default: all is on the GPU.
   */
  resident?: ResidentOptions;
}

/** Options of {@link KvCache.load}. */
export interface LoadOptions {
  /** The most tokens of a sequence, at least as many as there are; unless given that of the cache that was saved. */
  capacity?: number;
  /** Tokens in a page of memory; unless given as in the cache that was saved. */
  pageSize?: number;
  /** 'cpu' unless given. */
  device?: Device;
  /** As for {@link KvCacheOptions.resident}. */
  resident?: ResidentOptions;
}

/** The addon's cache behind a KvCache, or undefined for anything else; ERR_DISPOSED after dispose. */
export let cacheHandle: (value: unknown) => NativeCache | undefined;

/**
 * Keys and values of a batch of sequences, to which tokens are appended: for decoding token by token and for prefill in
 * chunks, by `attention(q, cache, options)`.
 *
 * Memory is taken in pages of `pageSize` tokens as sequences grow, and is reused when they are truncated. A fork shares
 * its pages with the cache it was made from until one of them writes to a page, which is then copied. Calls return at
 * once: lengths count what was appended, whether or not its data has been written yet; whatever reads the cache waits
 * for that. The memory of a cache and its forks is one whole to streams: appending to one fork waits for work that
 * reads another.
 *
 * @see Kwon et al. 2023 (PagedAttention) on pages.
 */
export class KvCache {
  static {
    cacheHandle = (value) => (isObject(value) && #handle in value ? value.#use() : undefined);
  }

  /** Sequences. */
  readonly batch: number;
  /** Heads of keys and values. */
  readonly kvHeads: number;
  /** Elements of a key. */
  readonly headDim: number;
  /** Elements of a value. */
  readonly valueDim: number;
  /** Tokens in a page. */
  readonly pageSize: number;
  /** The most tokens of a sequence. */
  readonly capacity: number;
  /** Element type of appended keys and values, and of queries. */
  readonly dtype: 'float32' | 'float16' | 'bfloat16';
  /** Element type of what is stored: `dtype`, or 'int8'. */
  readonly storage: 'float32' | 'float16' | 'bfloat16' | 'int8';
  /** Whose streams append and attend; with `resident` keys and values are in host memory, else there. */
  readonly device: Device;
  /** The rotary position embedding that is applied, if any. */
  readonly rope: Readonly<Required<RopeOptions>> | undefined;
  /** What the GPU holds while all is in host memory, if that is so. */
  readonly resident: Readonly<Required<ResidentOptions>> | undefined;
  #handle: NativeCache | undefined;

  /**
   * An empty cache.
   *
   * @throws AttentionError ERR_OPTION for a size out of range, ERR_DEVICE for a device that is not there.
   */
  constructor(opts: KvCacheOptions) {
    if (Forked.is(opts)) {
      const { of, handle } = opts;
      this.batch = of.batch;
      this.kvHeads = of.kvHeads;
      this.headDim = of.headDim;
      this.valueDim = of.valueDim;
      this.pageSize = of.pageSize;
      this.capacity = of.capacity;
      this.dtype = of.dtype;
      this.storage = of.storage;
      this.device = of.device;
      this.rope = of.rope;
      this.resident = of.resident;
      this.#handle = handle;
      return;
    }
    const names = [
      'batch',
      'kvHeads',
      'headDim',
      'valueDim',
      'pageSize',
      'capacity',
      'dtype',
      'storage',
      'device',
      'rope',
      'resident',
    ] as const;
    const given = options('KvCache', opts, names);
    const size = (name: 'batch' | 'kvHeads' | 'headDim' | 'valueDim' | 'pageSize' | 'capacity', fallback?: number) =>
      integer('KvCache', name, given[name] ?? fallback, 1);
    this.batch = size('batch');
    this.kvHeads = size('kvHeads');
    this.headDim = size('headDim');
    this.valueDim = size('valueDim', this.headDim);
    this.pageSize = size('pageSize', 64);
    this.capacity = size('capacity');
    this.dtype = checkFloat('KvCache', given.dtype ?? 'float32');
    this.storage = given.storage === undefined ? this.dtype : oneOf('KvCache', 'storage', given.storage, ['int8']);
    this.device = checkDevice('KvCache', given.device ?? 'cpu');
    this.rope = given.rope === undefined ? undefined : rotary(options('KvCache: rope', given.rope, ROPE), this.headDim);
    this.resident =
      given.resident === undefined ? undefined : residentOf(options('KvCache: resident', given.resident, RESIDENT));
    this.#handle = native.kvCacheCreate({
      batch: this.batch,
      kvHeads: this.kvHeads,
      headDim: this.headDim,
      valueDim: this.valueDim,
      pageSize: this.pageSize,
      capacity: this.capacity,
      dtype: dtypeIndex(this.dtype as DType),
      int8: this.storage === 'int8',
      device: this.device,
      theta: this.rope?.theta ?? 0,
      columns: this.rope?.dim ?? 0,
      interleaved: this.rope?.interleaved ?? false,
      sink: this.resident?.sink ?? 0,
      window: this.resident?.window ?? 0,
      pages: this.resident?.pages ?? 0,
    });
  }

  #use(): NativeCache {
    if (this.#handle) return this.#handle;
    throw new AttentionError(
      'ERR_DISPOSED',
      `this KvCache of ${this.batch} x ${this.kvHeads} heads x ${this.headDim} was disposed of; make a new one`,
    );
  }

  /** Tokens of the longest sequence. */
  get length(): number {
    return Math.max(...this.lengths);
  }

  /** Tokens of each sequence. */
  get lengths(): number[] {
    return native.kvCacheLengths(this.#use());
  }

  /**
   * Bytes of the pages that this cache and its forks hold together, in use or kept for reuse, and of what {@link pagePlan},
   * {@link pooledPlan} and estimates keep of them. On CUDA also those of this cache's lists of either.
   */
  get bytes(): number {
    return native.kvCacheBytes(this.#use());
  }

  /**
   * Of `bytes`, those in memory of the GPU: with `resident` the copies, what selectors and estimates keep, and the lists;
   * 0 on the CPU.
   */
  get deviceBytes(): number {
    return native.kvCacheDeviceBytes(this.#use());
  }

  /**
   * Appends the tokens of k `[batch, n, kvHeads, headDim]` and v `[batch, n, kvHeads, valueDim]`, tensors of the
   * cache's type and device, to the sequences. Inside `capture` each launch does that, and nothing is appended before.
   *
   * @param opts.lengths how many of the n tokens, the first ones, each sequence gets; all unless given.
   * @param opts.stream the stream to enqueue on; the default stream of the device unless given.
   * @throws AttentionError before anything is written; ERR_OUT_OF_MEMORY when a sequence would exceed `capacity`, or
   * when there is no memory for its pages: the cache is then as it was.
   */
  append(k: Tensor, v: Tensor, opts?: { lengths?: readonly number[]; stream?: Stream }): void {
    const handle = this.#use();
    const given = options('append', opts, ['lengths', 'stream']);
    const lengths =
      given.lengths === undefined ? undefined : integers('append', 'lengths', given.lengths, 0, 'ERR_OPTION');
    native.kvCacheAppend(handle, tensorHandle(k, 'k'), tensorHandle(v, 'v'), lengths, optionalStream(given.stream));
  }

  /**
   * Forgets all tokens from position n on: of every sequence that is longer or, with a list, of each its own. Work that
   * was enqueued before still sees them.
   *
   * @throws AttentionError ERR_OPTION for what is no integer of at least 0, or a list that has not one entry for each
   * sequence or an entry beyond its length; ERR_DISPOSED.
   */
  truncate(n: number | readonly number[]): void {
    const handle = this.#use();
    const lengths = isArray(n)
      ? integers('truncate', 'n', n, 0, 'ERR_OPTION')
      : this.lengths.map((length) => Math.min(length, integer('truncate', 'n', n, 0)));
    native.kvCacheTruncate(handle, lengths);
  }

  /**
   * A cache with the same tokens. Pages are shared, and copied when one of the two writes to them.
   *
   * @throws AttentionError ERR_DISPOSED.
   */
  fork(): KvCache {
    return new KvCache(new Forked(this, native.kvCacheFork(this.#use())) as unknown as KvCacheOptions);
  }

  /**
   * Writes the cache as it is at this call to a file, whatever is appended or truncated meanwhile.
   *
   * The file has the safetensors format. Of sequence b it holds `k.b` `[tokens, kvHeads, headDim]` and `v.b`, as they are
   * stored: with `rope`, keys are rotated. With `storage: 'int8'` these are the steps, and the size of a step is in
   * `k.b.scale` and `v.b.scale` `[tokens, kvHeads]`. Settings and checksums are in its metadata. It is written beside
   * `path`, as `.node-attention-*.tmp`, brought to the disk, and then takes the place of what was there, at once: if saving
   * fails, or the process ends, the old file is still whole. A few MiB are on their way at any moment, and a thread of its
   * own does what takes time. A cache on a GPU is copied together in 4 MiB of the GPU's memory, and rejects with
   * ERR_OUT_OF_MEMORY where there are none. A failure of the file system rejects with its own `code`.
   *
   * @throws AttentionError ERR_OPTION for what is no path, ERR_DISPOSED.
   */
  save(path: string): Promise<void> {
    const call = 'KvCache.save';
    const file = filePath(call, path);
    const { batch, kvHeads, headDim, valueDim, pageSize, capacity, dtype, storage, rope, lengths } = this;
    const saved = { batch, kvHeads, headDim, valueDim, pageSize, capacity, dtype, storage, rope, lengths };
    return saveCache(call, file, native.kvCacheFork(this.#use()), saved, this.device);
  }

  /**
   * The cache that a file of {@link KvCache.save} holds, bit by bit. Rejects with ERR_OPTION, and what was expected and
   * found, when any byte of the file is not what was saved or is missing, or `capacity` is less than its tokens; with
   * ERR_OUT_OF_MEMORY when there is no memory for its pages, and on a GPU 4 MiB more; with the file system's own `code` when it cannot be read.
   *
   * @throws AttentionError ERR_OPTION for what is no path or an option out of range, ERR_DEVICE for a device that is not
   * there, at once.
   */
  static load(path: string, opts?: LoadOptions): Promise<KvCache> {
    const call = 'KvCache.load';
    const file = filePath(call, path);
    const given = options(call, opts, ['capacity', 'pageSize', 'device', 'resident']);
    const size = (name: 'capacity' | 'pageSize') =>
      given[name] === undefined ? undefined : integer(call, name, given[name], 1);
    const [capacity, pageSize] = [size('capacity'), size('pageSize')];
    const device = checkDevice(call, given.device ?? 'cpu');
    const resident =
      given.resident === undefined ? undefined : residentOf(options(`${call}: resident`, given.resident, RESIDENT));
    return loadCache(call, file, device, ({ lengths, storage, ...saved }) => {
      const longest = Math.max(...lengths);
      if (capacity !== undefined && capacity < longest) {
        throw new AttentionError('ERR_OPTION', `capacity is ${capacity}; its longest sequence has ${longest} tokens`);
      }
      const cache = new KvCache({
        ...saved,
        ...(storage === 'int8' && { storage }),
        capacity: capacity ?? saved.capacity,
        pageSize: pageSize ?? saved.pageSize,
        device,
        ...(resident && { resident }),
      });
      return { cache, handle: cache.#use() };
    });
  }

  /** Whether this cache was disposed of. */
  get disposed(): boolean {
    return this.#handle === undefined;
  }

  /** Lets go of the pages, which are freed once no fork and no queued work uses them. Idempotent. */
  dispose(): void {
    if (this.#handle) native.kvCacheDispose(this.#handle);
    this.#handle = undefined;
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

const ROPE = ['theta', 'dim', 'interleaved'] as const;
const RESIDENT = ['sink', 'window', 'pages'] as const;

/** What fork() hands to the constructor. */
class Forked {
  readonly #own = true;
  /** Asks no proxy. */
  static is = (value: unknown): value is Forked => isObject(value) && #own in value && value.#own;

  constructor(
    readonly of: KvCache,
    readonly handle: NativeCache,
  ) {}
}

function rotary(rope: { [name in (typeof ROPE)[number]]?: unknown }, headDim: number): Required<RopeOptions> {
  const call = 'KvCache: rope';
  const theta = finite(call, 'theta', rope.theta ?? 10000);
  if (theta <= 0) throw new AttentionError('ERR_OPTION', `${call}: theta is ${theta}; it must be above 0`);
  const dim = integer(call, 'dim', rope.dim ?? headDim, 2);
  if (dim > headDim || dim % 2 !== 0) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: dim is ${dim}; it must be an even number of at most headDim, ${headDim}`,
    );
  }
  return Object.freeze({ theta, dim, interleaved: boolean(call, 'interleaved', rope.interleaved ?? false) });
}

function residentOf(resident: { [name in (typeof RESIDENT)[number]]?: unknown }): Required<ResidentOptions> {
  const call = 'KvCache: resident';
  return Object.freeze({
    sink: integer(call, 'sink', resident.sink ?? 0, 0),
    window: integer(call, 'window', resident.window, 1),
    pages: integer(call, 'pages', resident.pages ?? 0, 0),
  });
}
