// PTX text run by the interpreter, for tests: loads a module, launches a kernel on plain JavaScript buffers, and gives
// the report of a fault as an Error.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { type Asynchrony, asynchronyNumber, EITHER_WAY, SCHEDULES } from './schedules';

const LIBRARY = join(__dirname, '../../../build/ptx/libptx_interpreter.so');
if (!existsSync(LIBRARY)) throw new Error(`${LIBRARY} is missing; run "npm run test:ptx", which builds it.`);
const library = koffi.load(LIBRARY);
const load = library.func('void* ptx_load(const char* source, _Out_ uint8_t* error, size_t size)');
const unload = library.func('void ptx_unload(void* module)');
const memoryAdd = library.func('void ptx_memory_add(void* data, uint64_t bytes, int writable)');
const memoryRemove = library.func('void ptx_memory_remove(void* data)');
const launchKernel = library.func(
  'int ptx_launch(void* module, const char* kernel, uint32_t* grid, uint32_t* block, uint32_t shared, void* parameters, uint64_t bytes, uint64_t seed, int asynchrony, _Out_ uint8_t* error, size_t size)',
);
const parameterList = library.func(
  'int ptx_parameters(void* module, const char* kernel, _Out_ uint64_t* offsets, _Out_ uint64_t* sizes, int most, _Out_ uint64_t* bytes)',
);
const tensorMapEncode = library.func(
  'int ptx_tensor_map(_Out_ uint8_t* map, int type, uint32_t rank, void* address, uint64_t* extent, uint64_t* strides, uint32_t* box, uint32_t* elementStrides, int interleave, int swizzle, int fill, _Out_ uint8_t* error, size_t size)',
);

const ERROR_BYTES = 1 << 16;
const MOST_PARAMETERS = 64;

/** Memory of a kernel: an array that never moves, for as long as it is referenced. */
export type Memory = Buffer | Float32Array | Float64Array | Int32Array | Uint32Array | Uint16Array | BigUint64Array;

/** A value of exact width, for a kernel's parameter. Memory is passed as its address. */
export type Argument = Memory | { u32: number } | { f32: number } | { u64: bigint } | { bytes: Uint8Array };

export interface LaunchOptions {
  grid?: number[];
  block?: number[];
  dynamicShared?: number;
  seed?: number;
  asynchrony?: Asynchrony;
  /** What the kernel may access besides its arguments: the tensors that tensor maps describe. */
  memory?: Memory[];
}

export { kernel } from './kernel';
export { type Asynchrony, EITHER_WAY, SCHEDULES };

export class Ptx {
  readonly #module: unknown;

  /** Throws with the line when the text cannot be parsed or holds an instruction that nobody knows. */
  constructor(source: string) {
    const error = Buffer.alloc(ERROR_BYTES);
    this.#module = load(source, error, ERROR_BYTES);
    if (!this.#module) throw new Error(text(error));
  }

  /** Runs a kernel to its end; memory among the arguments may be accessed by it, nothing else. */
  launch(kernel: string, args: Argument[], options: LaunchOptions = {}): void {
    const parameters = this.#parameters(kernel, args);
    const memory = [...args.filter((arg): arg is Memory => ArrayBuffer.isView(arg)), ...(options.memory ?? [])];
    const error = Buffer.alloc(ERROR_BYTES);
    for (const m of memory) memoryAdd(m, m.byteLength, 1);
    try {
      const status = launchKernel(
        this.#module,
        kernel,
        dimensions(options.grid),
        dimensions(options.block ?? [32]),
        options.dynamicShared ?? 0,
        parameters,
        parameters.byteLength,
        options.seed ?? 0,
        asynchronyNumber(options.asynchrony ?? 'immediate'),
        error,
        ERROR_BYTES,
      );
      if (status !== 0) throw new Error(text(error));
    } finally {
      for (const m of memory) memoryRemove(m);
    }
  }

  dispose(): void {
    unload(this.#module);
  }

  #parameters(kernel: string, args: Argument[]): Buffer {
    const offsets = new BigUint64Array(MOST_PARAMETERS);
    const sizes = new BigUint64Array(MOST_PARAMETERS);
    const bytes = new BigUint64Array(1);
    const count = parameterList(this.#module, kernel, offsets, sizes, MOST_PARAMETERS, bytes) as number;
    if (count !== args.length) throw new Error(`kernel ${kernel} takes ${count} parameters, not ${args.length}`);
    const block = Buffer.alloc(Number(bytes[0]), 0xff);
    args.forEach((arg, i) => {
      const at = Number(offsets[i]);
      if (ArrayBuffer.isView(arg)) block.writeBigUInt64LE(address(arg), at);
      else if ('u32' in arg) block.writeUInt32LE(arg.u32 >>> 0, at);
      else if ('f32' in arg) block.writeFloatLE(arg.f32, at);
      else if ('u64' in arg) block.writeBigUInt64LE(arg.u64, at);
      else Buffer.from(arg.bytes).copy(block, at);
    });
    return block;
  }
}

/** The address that device code sees. */
export function address(memory: Memory): bigint {
  return koffi.address(memory);
}

/** A zeroed buffer that does not move and starts on a multiple of 1024. */
export function allocate(bytes: number): Buffer {
  const space = new ArrayBuffer(bytes + 1024);
  const start = Number(-address(Buffer.from(space)) & 1023n);
  return Buffer.from(space, start, bytes);
}

export interface TensorMapOptions {
  /** CUtensorMapDataType: 0 uint8, 1 uint16, 2 uint32, 3 int32, 6 float16, 7 float32, 8 float64, 9 bfloat16 */
  type: number;
  extent: number[];
  /** in bytes, of axes 1 and later */
  strides: number[];
  box: number[];
  elementStrides?: number[];
  swizzle?: 'none' | '32' | '64' | '128';
  fillNaN?: boolean;
}

/** The 128 bytes of a tensor map, as cuTensorMapEncodeTiled would make them. */
export function tensorMap(memory: Memory, options: TensorMapOptions): Uint8Array {
  const { type, extent, strides, box, swizzle = 'none' } = options;
  const map = Buffer.alloc(128);
  const error = Buffer.alloc(ERROR_BYTES);
  const status = tensorMapEncode(
    map,
    type,
    extent.length,
    memory,
    BigUint64Array.from(extent, BigInt),
    BigUint64Array.from(strides.length > 0 ? strides : [0], BigInt),
    Uint32Array.from(box),
    Uint32Array.from(options.elementStrides ?? extent.map(() => 1)),
    0,
    ['none', '32', '64', '128'].indexOf(swizzle),
    options.fillNaN ? 1 : 0,
    error,
    ERROR_BYTES,
  );
  if (status !== 0) throw new Error(text(error));
  return map;
}

function dimensions(given: number[] = []): Uint32Array {
  return Uint32Array.from([given[0] ?? 1, given[1] ?? 1, given[2] ?? 1]);
}

function text(buffer: Buffer): string {
  return buffer.toString('utf8', 0, buffer.indexOf(0));
}
