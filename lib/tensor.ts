import {
  arrayDType,
  arrayOver,
  arrayProperty,
  checkDType,
  type DType,
  type DTypeMap,
  type DTypeOf,
  dtypeIndex,
  dtypeNames,
  dtypes,
  elementBytes,
  isDType,
  type TypedArray,
} from './dtype';
import { AttentionError } from './errors';
import { type NativeExposure, type NativeTensor, native } from './native';
import { boolean, integer, integers, isObject, options, show } from './options';
import { optionalStream, type Stream } from './stream';

/** Where a tensor lives: 'cuda' is the first CUDA device. */
export type Device = 'cpu' | 'cuda' | `cuda:${number}`;

/** What `to` changes; what is left out stays. */
export interface ToOptions<D extends DType = DType> {
  /** Where the copy is to lie. */
  device?: Device;
  /** Element type of the copy. */
  dtype?: D;
  /** The stream that copies; the default stream of the target device unless given, or of the GPU that is copied from. */
  stream?: Stream;
}

/** The addon's tensor behind a Tensor; ERR_DISPOSED or ERR_OPTION when there is none. */
export let tensorHandle: (value: unknown, name: string) => NativeTensor;

/** The Tensor of a result of the addon. */
export let makeTensor: (handle: NativeTensor) => Tensor;

/**
 * The memory behind a tensor and all its views. JavaScript sees one ArrayBuffer for each allocation, made at the first
 * `data`. It is the user's own when the tensor wraps an array.
 */
interface Memory {
  buffer: ArrayBufferLike | undefined;
}

/**
 * Memory that a program moves into another ArrayBuffer may end up in another thread. Node does not tell the addon so,
 * which would free it with this thread.
 */
function watchMoves(buffer: ArrayBuffer, exposure: NativeExposure): void {
  for (const name of ['transfer', 'transferToFixedLength'] as const) {
    const move = (
      ArrayBuffer.prototype as unknown as Record<string, undefined | ((...args: unknown[]) => ArrayBuffer)>
    )[name];
    if (!move) continue;
    const watched = function (this: ArrayBuffer, ...args: unknown[]): ArrayBuffer {
      native.exposureMoved(exposure);
      return move.apply(this, args);
    };
    Object.defineProperty(buffer, name, { value: watched, writable: true, configurable: true });
  }
}

/** Empty buffers cannot be told from detached ones by their length. */
function isDetached(buffer: ArrayBufferLike): boolean {
  return (buffer as { detached?: boolean }).detached === true;
}

function checkShape(call: string, shape: unknown): number[] {
  return integers(call, 'shape', shape, 0, 'ERR_SHAPE');
}

/** A tensor of float32. */
export function checkFloat32(name: string, given: unknown): Tensor<'float32'> {
  tensorHandle(given, name);
  const tensor = given as Tensor;
  if (tensor.dtype === 'float32') return tensor as Tensor<'float32'>;
  throw new AttentionError(
    'ERR_DTYPE',
    `${name} is ${tensor.dtype}; it must be float32: convert it with to('float32')`,
  );
}

const deviceNames = "'cpu', 'cuda' or 'cuda:N'";

/** The name of a device that is there. */
export function checkDevice(call: string, device: unknown): Device {
  if (typeof device === 'string') return native.resolveDevice(device) as Device;
  throw new AttentionError('ERR_DEVICE', `${call}: device is ${show(device)}; use ${deviceNames}`);
}

/** What the name given to `to` stands for. One of nothing is refused as what it reads like. */
function targetOf(name: string): { dtype: string } | { device: string } {
  if (isDType(name)) return { dtype: name };
  if (/^(cpu|cuda(:\d+)?)$/.test(name)) return { device: name };
  const code = /^(u?int|b?float|bf|fp?)\d/i.test(name) ? 'ERR_DTYPE' : 'ERR_DEVICE';
  throw new AttentionError(
    code,
    `to: target is ${show(name)}; use a dtype, one of ${dtypeNames}, or a device, ${deviceNames}`,
  );
}

/** A tensor made on the CPU, moved to the device it is wanted on. */
function moved(onCpu: NativeTensor, dtype: DType, device: Device): NativeTensor {
  if (device === 'cpu') return onCpu;
  try {
    return native.tensorTo(onCpu, dtypeIndex(dtype), device, undefined);
  } finally {
    native.tensorDispose(onCpu);
  }
}

/**
 * A typed, strided array on a device. Its memory is freed when it has been disposed of (or collected), its views too,
 * and all operations that use it are done.
 *
 * Constructors on the CPU are complete when they return; operations are asynchronous, and so is what constructors do on
 * a GPU: on its default stream, so that whatever uses the tensor waits for it.
 */
export class Tensor<D extends DType = DType> {
  static {
    tensorHandle = (value, name) => {
      if (!isObject(value) || !(#handle in value)) {
        const shown = show(value);
        // One of two copies of the package in a process, or what becomes of a tensor that is posted to another thread.
        const whose = ['a Tensor', 'an Object'].includes(shown)
          ? ', made in this thread by this copy of the package'
          : '';
        throw new AttentionError('ERR_OPTION', `${name} is ${shown}; it must be a Tensor${whose}`);
      }
      return value.#use(name);
    };
    makeTensor = (handle) => new Tensor(handle, { buffer: undefined });
  }

  /** Element type. */
  readonly dtype: D;
  /** Length of each axis. */
  readonly shape: readonly number[];
  /** Distance between neighbours of each axis, in elements. */
  readonly strides: readonly number[];
  /** Where the elements lie. */
  readonly device: Device;

  #handle: NativeTensor | undefined;
  #memory: Memory;
  readonly #contiguous: boolean;

  private constructor(handle: NativeTensor, memory: Memory) {
    const info = native.tensorInfo(handle);
    this.dtype = dtypes[info.dtype] as D;
    this.shape = Object.freeze(info.shape);
    this.strides = Object.freeze(info.strides);
    this.device = info.device as Device;
    this.#contiguous = info.contiguous;
    this.#handle = handle;
    this.#memory = memory;
    Object.freeze(this); // its private state is not frozen
  }

  /**
   * A tensor of a copy of `data`, taken at call time. The element type follows the array; a Uint16Array holds the bits
   * of float16 or bfloat16 and needs `dtype`. Floating-point arrays are converted when `dtype` is another floating-point
   * type.
   *
   * @throws AttentionError ERR_SHAPE when `data` does not fit `shape`, ERR_DTYPE when it cannot be of `dtype`.
   */
  static from<A extends TypedArray>(
    data: A,
    shape: readonly number[],
    opts?: { dtype?: undefined; device?: Device },
  ): Tensor<DTypeOf<A>>;
  static from<D extends DType = DType>(
    data: TypedArray,
    shape: readonly number[],
    opts?: { dtype?: D; device?: Device },
  ): Tensor<D>;
  static from(data: TypedArray, shape: readonly number[], opts?: { dtype?: DType; device?: Device }): Tensor {
    const { dtype: wanted, device = 'cpu' } = options('Tensor.from', opts, ['dtype', 'device']);
    const given = wanted === undefined ? undefined : checkDType('Tensor.from', wanted);
    const own = arrayDType('Tensor.from', data, given);
    const dtype = given ?? own;
    const floating = (type: DType) => type === 'float32' || type === 'float16' || type === 'bfloat16';
    if (dtype !== own && !(floating(dtype) && floating(own))) {
      throw new AttentionError(
        'ERR_DTYPE',
        `Tensor.from: data holds ${own}, which is not converted to dtype '${dtype}'; use to('${dtype}') afterwards`,
      );
    }
    const lengths = checkShape('Tensor.from', shape);
    const place = checkDevice('Tensor.from', device);
    const onCpu = native.tensorFrom(data, dtypeIndex(own), lengths, dtypeIndex(dtype));
    return makeTensor(moved(onCpu, dtype, place));
  }

  /**
   * A tensor over the memory of a typed array, without a copy. The array must lie over a SharedArrayBuffer, which cannot
   * be detached; it is kept alive as long as an operation uses it. Operations on tensors that wrap parts of one buffer wait
   * for each other as if it were one tensor. What other threads write while an operation reads is theirs to order.
   *
   * @throws AttentionError ERR_OPTION for an array over an ArrayBuffer, ERR_SHAPE when `data` does not fit `shape`, ERR_DTYPE
   * when it does not hold `dtype`, ERR_DEVICE for another device than the CPU.
   */
  static wrap<A extends TypedArray>(
    data: A,
    shape: readonly number[],
    opts?: { dtype?: undefined; device?: 'cpu' },
  ): Tensor<DTypeOf<A>>;
  static wrap<D extends DType = DType>(
    data: TypedArray,
    shape: readonly number[],
    opts?: { dtype?: D; device?: 'cpu' },
  ): Tensor<D>;
  static wrap(data: TypedArray, shape: readonly number[], opts?: { dtype?: DType; device?: 'cpu' }): Tensor {
    const { dtype: wanted, device = 'cpu' } = options('Tensor.wrap', opts, ['dtype', 'device']);
    if (checkDevice('Tensor.wrap', device) !== 'cpu') {
      throw new AttentionError(
        'ERR_DEVICE',
        `Tensor.wrap: device is ${show(device)}; only 'cpu' memory can be wrapped`,
      );
    }
    const given = wanted === undefined ? undefined : checkDType('Tensor.wrap', wanted);
    const dtype = arrayDType('Tensor.wrap', data, given);
    if (given !== undefined && given !== dtype) {
      throw new AttentionError('ERR_DTYPE', `Tensor.wrap: data holds ${dtype}, not dtype '${given}'; use Tensor.from`);
    }
    const handle = native.tensorWrap(data, checkShape('Tensor.wrap', shape), dtypeIndex(dtype));
    return new Tensor(handle, { buffer: arrayProperty(data, 'buffer') });
  }

  /**
   * A tensor whose elements are not set. `pinned`, for the CPU alone, asks for memory that a GPU can copy from and to by
   * itself: faster, beside other work, and in a {@link Graph}. Where there is no usable GPU the memory is ordinary memory,
   * and everything else is the same.
   *
   * @throws AttentionError ERR_SHAPE for a shape that is none, ERR_DTYPE, ERR_DEVICE, ERR_OPTION for pinned memory of a GPU,
   * ERR_OUT_OF_MEMORY.
   */
  static empty<D extends DType>(
    shape: readonly number[],
    opts: { dtype: D; device?: Device; pinned?: boolean },
  ): Tensor<D> {
    const given = options('Tensor.empty', opts, ['dtype', 'device', 'pinned']);
    const dtype = checkDType('Tensor.empty', given.dtype);
    const device = checkDevice('Tensor.empty', given.device ?? 'cpu');
    const pinned = boolean('Tensor.empty', 'pinned', given.pinned ?? false);
    const lengths = checkShape('Tensor.empty', shape);
    return makeTensor(native.tensorCreate(lengths, dtypeIndex(dtype), device, pinned, false)) as Tensor<D>;
  }

  /**
   * A tensor of zeros, float32 unless `dtype` is given. On a GPU they are written by its default stream.
   *
   * @throws AttentionError ERR_SHAPE for a shape that is none, ERR_DTYPE, ERR_DEVICE, ERR_OUT_OF_MEMORY.
   */
  static zeros<D extends DType = 'float32'>(
    shape: readonly number[],
    opts?: { dtype?: D; device?: Device },
  ): Tensor<D> {
    const given = options('Tensor.zeros', opts, ['dtype', 'device']);
    const dtype = checkDType('Tensor.zeros', given.dtype ?? 'float32');
    const device = checkDevice('Tensor.zeros', given.device ?? 'cpu');
    const lengths = checkShape('Tensor.zeros', shape);
    return makeTensor(native.tensorCreate(lengths, dtypeIndex(dtype), device, false, true)) as Tensor<D>;
  }

  /**
   * A tensor of standard normal deviates, float32 unless `dtype` is given; the same for the same seed on every machine
   * and device. `seed` is an integer from 0 to 2^53 - 1.
   *
   * @throws AttentionError ERR_OPTION for another seed, ERR_DTYPE for integers, ERR_SHAPE, ERR_DEVICE, ERR_OUT_OF_MEMORY.
   */
  static randn<D extends 'float32' | 'float16' | 'bfloat16' = 'float32'>(
    shape: readonly number[],
    opts: { seed: number; dtype?: D; device?: Device },
  ): Tensor<D> {
    const given = options('Tensor.randn', opts, ['seed', 'dtype', 'device']);
    const seed = integer('Tensor.randn', 'seed', given.seed, 0);
    const dtype = checkDType('Tensor.randn', given.dtype ?? 'float32');
    const device = checkDevice('Tensor.randn', given.device ?? 'cpu');
    const onCpu = native.tensorRandn(checkShape('Tensor.randn', shape), seed, dtypeIndex(dtype));
    return makeTensor(moved(onCpu, dtype, device)) as Tensor<D>;
  }

  #use(name = 'this tensor'): NativeTensor {
    if (this.#handle) return this.#handle;
    throw new AttentionError('ERR_DISPOSED', `${name}, ${this.#describe()}, was disposed of; do so after its last use`);
  }

  #describe(): string {
    return `a ${this.dtype} Tensor [${this.shape.join(', ')}] on ${this.device}`;
  }

  #elements(): number {
    return this.shape.reduce((product, length) => product * length, 1);
  }

  /** Bytes of the elements of this view. */
  get byteLength(): number {
    return this.#elements() * elementBytes[this.dtype];
  }

  /** Whether this handle was disposed of. */
  get disposed(): boolean {
    return this.#handle === undefined;
  }

  /**
   * A view of another shape with as many elements.
   *
   * @throws AttentionError ERR_SHAPE for what is no list of integers of at least 0, for another number of elements, and when
   * the strides do not allow it without a copy; ERR_DISPOSED.
   */
  reshape(shape: readonly number[]): Tensor<D> {
    return new Tensor<D>(native.tensorReshape(this.#use(), checkShape('reshape', shape)), this.#memory);
  }

  /**
   * A view with its axes in another order: axis i of the result is axis `axes[i]` of this tensor.
   *
   * @throws AttentionError ERR_SHAPE unless each axis is named once.
   */
  permute(...axes: number[]): Tensor<D> {
    const order = integers('permute', 'axes', axes, 0, 'ERR_SHAPE');
    return new Tensor<D>(native.tensorPermute(this.#use(), order), this.#memory);
  }

  /**
   * A view of the elements from `start` up to, not including, `stop` of each axis; axes left out stay whole.
   *
   * @throws AttentionError ERR_SHAPE for a range that does not lie within its axis, or more ranges than axes.
   */
  slice(...ranges: (readonly [start: number, stop: number])[]): Tensor<D> {
    const pairs = ranges.map((range, axis) => {
      const pair = integers('slice', `range of axis ${axis}`, range, 0, 'ERR_SHAPE');
      if (pair.length === 2) return pair as [number, number];
      throw new AttentionError('ERR_SHAPE', `slice: range of axis ${axis} is ${show(range)}; it must be [start, stop]`);
    });
    const starts = pairs.map(([start]) => start);
    const stops = pairs.map(([, stop]) => stop);
    return new Tensor<D>(native.tensorSlice(this.#use(), starts, stops), this.#memory);
  }

  /**
   * A contiguous copy on another device or of another element type, made by a stream once the work that writes this
   * tensor is done. Always a new tensor. Integers saturate; NaN becomes 0 in an integer. Between the CPU and a GPU only a
   * stream of the GPU can copy; what comes to the CPU inside `capture` comes into pinned memory.
   *
   * @throws AttentionError ERR_DEVICE for a device that is not there or a stream that cannot copy, ERR_DTYPE for an element
   * type that there is not, ERR_OUT_OF_MEMORY.
   */
  to<E extends DType>(target: E | (ToOptions<E> & { dtype: E })): Tensor<E>;
  to(target: Device | (ToOptions & { dtype?: undefined })): Tensor<D>;
  to(target: Device | DType | ToOptions): Tensor;
  to(target: Device | DType | ToOptions): Tensor {
    const handle = this.#use();
    const wanted = typeof target === 'string' ? targetOf(target) : target;
    const given = options('to', wanted, ['device', 'dtype', 'stream']);
    const dtype = given.dtype === undefined ? this.dtype : checkDType('to', given.dtype);
    const device = given.device === undefined ? this.device : checkDevice('to', given.device);
    return makeTensor(native.tensorTo(handle, dtypeIndex(dtype), device, optionalStream(given.stream)));
  }

  /**
   * The elements as a zero-copy view of the tensor's memory, in the order of its axes. It stays valid after `dispose`,
   * until it is collected. Where the runtime refuses external buffers (Electron), each call gives a copy instead.
   *
   * @throws AttentionError ERR_DEVICE for memory of a GPU, ERR_PENDING while queued work still writes the tensor,
   * ERR_SHAPE when its elements do not lie side by side: `read()` serves in all three cases. The error of the work that
   * was to write the tensor, if that failed.
   */
  get data(): DTypeMap[D] {
    const handle = this.#use();
    if (this.device !== 'cpu') {
      throw new AttentionError('ERR_DEVICE', `data: the tensor is on ${this.device}; use read() or to('cpu')`);
    }
    if (native.tensorPending(handle)) {
      throw new AttentionError(
        'ERR_PENDING',
        `data: work still writes ${this.#describe()}; await read() or its stream`,
      );
    }
    if (!this.#contiguous) {
      throw new AttentionError(
        'ERR_SHAPE',
        `data: the elements of ${this.#describe()} do not lie side by side (strides [${this.strides.join(', ')}]); use read()`,
      );
    }
    let { buffer } = this.#memory;
    const offset = native.tensorByteOffset(handle);
    if (!buffer) {
      const memory = native.tensorMemory(handle);
      buffer = memory.buffer;
      if (memory.exposure) {
        this.#memory.buffer = buffer;
        watchMoves(memory.buffer, memory.exposure);
      }
    }
    const elements = this.#elements();
    if (buffer.byteLength < offset + elements * elementBytes[this.dtype] || isDetached(buffer)) {
      throw new AttentionError(
        'ERR_DISPOSED',
        `data: the ArrayBuffer of ${this.#describe()} was detached by JavaScript (transferred); use read()`,
      );
    }
    return arrayOver(this.dtype, buffer, offset, elements);
  }

  /**
   * A copy of the elements in the order of the axes, made once the work that writes the tensor is done. Rejects when that
   * work failed, or what it read was itself the result of failed work.
   */
  read(): Promise<DTypeMap[D]> {
    const { buffer, tensor } = native.tensorReadBack(this.#use());
    const elements = this.#elements();
    return native
      .tensorWritten(tensor)
      .then(() => arrayOver(this.dtype, buffer, 0, elements))
      .finally(() => native.tensorDispose(tensor));
  }

  /** Lets go of the memory, which is freed once queued work no longer uses it. Idempotent. */
  dispose(): void {
    if (this.#handle) native.tensorDispose(this.#handle);
    this.#handle = undefined;
    this.#memory = { buffer: undefined }; // views of the same memory have their own reference
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
