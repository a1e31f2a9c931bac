// Takes the place of test/ptx/support/interpreter.ts where there is a real device: the tests of single instructions then ask the
// device what the interpreter is believed to do. Kernels are compiled by the driver; memory is copied there and back
// around each launch. Tests of what only the interpreter has (reports of faults, schedules) are left out.

import type { Argument, LaunchOptions, Memory, TensorMapOptions } from '../ptx/support/interpreter';
import { driver, loadKernel, useDriver } from './driver';
import { leaveOut } from './runner';

export type { Argument, Asynchrony, LaunchOptions, Memory, TensorMapOptions } from '../ptx/support/interpreter';
export { kernel } from '../ptx/support/kernel';

/** A device has the one that it has. */
export const SCHEDULES = [{}];
export const EITHER_WAY = [{}];

const ALIGNMENT = 1024;
const DYNAMIC_SHARED_ATTRIBUTE = 8;
/** CU_LAUNCH_PARAM_BUFFER_POINTER, _SIZE and _END, for parameters in one block. */
const [BUFFER_POINTER, BUFFER_SIZE, BUFFER_END] = [1n, 2n, 0n];

/** Where memory of the host lies on the device; for good, since tensor maps name it. */
const places = new WeakMap<ArrayBufferView, bigint>();

function placeOf(memory: Memory): bigint {
  let place = places.get(memory);
  if (place === undefined) {
    useDriver();
    const address = [0n];
    driver('cuMemAlloc_v2', address, memory.byteLength + ALIGNMENT);
    const start = BigInt(address[0]!);
    place = start + (-start & BigInt(ALIGNMENT - 1));
    places.set(memory, place);
  }
  return place;
}

export class Ptx {
  readonly #source: string;
  readonly #loaded = new Map<string, { module: unknown; kernel: unknown }>();

  constructor(source: string) {
    useDriver();
    this.#source = source;
  }

  launch(name: string, args: Argument[], options: LaunchOptions = {}): void {
    if (options.asynchrony !== undefined) leaveOut('it is about a schedule of the interpreter');
    const { kernel } = this.#kernel(name);
    const memory = [...args.filter((arg): arg is Memory => ArrayBuffer.isView(arg)), ...(options.memory ?? [])];
    const parameters = parameterBlock(kernel, args);
    for (const each of memory) if (each.byteLength) driver('cuMemcpyHtoD_v2', placeOf(each), each, each.byteLength);
    const [grid, block] = [options.grid ?? [], options.block ?? [32]];
    if (options.dynamicShared) driver('cuFuncSetAttribute', kernel, DYNAMIC_SHARED_ATTRIBUTE, options.dynamicShared);
    const sizes = [0, 1, 2].map((axis) => grid[axis] ?? 1).concat([0, 1, 2].map((axis) => block[axis] ?? 1));
    driver('cuLaunchKernel', kernel, ...sizes, options.dynamicShared ?? 0, null, null, extraOf(parameters));
    driver('cuCtxSynchronize');
    for (const each of memory) if (each.byteLength) driver('cuMemcpyDtoH_v2', each, placeOf(each), each.byteLength);
  }

  dispose(): void {
    for (const { module } of this.#loaded.values()) driver('cuModuleUnload', module);
    this.#loaded.clear();
  }

  #kernel(name: string) {
    let loaded = this.#loaded.get(name);
    if (!loaded) {
      loaded = loadKernel(this.#source, name);
      this.#loaded.set(name, loaded);
    }
    return loaded;
  }
}

function parameterBlock(kernel: unknown, args: readonly Argument[]): Buffer {
  const places = args.map((_, i) => {
    const [offset, size] = [[0], [0]];
    driver('cuFuncGetParamInfo', kernel, i, offset, size);
    return { offset: Number(offset[0]), size: Number(size[0]) };
  });
  const block = Buffer.alloc(Math.max(0, ...places.map(({ offset, size }) => offset + size)));
  args.forEach((arg, i) => {
    const at = places[i]!.offset;
    if (ArrayBuffer.isView(arg)) block.writeBigUInt64LE(placeOf(arg), at);
    else if ('u32' in arg) block.writeUInt32LE(arg.u32 >>> 0, at);
    else if ('f32' in arg) block.writeFloatLE(arg.f32, at);
    else if ('u64' in arg) block.writeBigUInt64LE(arg.u64, at);
    else Buffer.from(arg.bytes).copy(block, at);
  });
  return block;
}

let extra: { list: BigUint64Array; size: BigUint64Array; block: Buffer };

function extraOf(block: Buffer): BigUint64Array {
  const size = BigUint64Array.of(BigInt(block.length));
  const list = BigUint64Array.of(BUFFER_POINTER, addressOf(block), BUFFER_SIZE, addressOf(size), BUFFER_END);
  extra = { list, size, block }; // alive until the next launch
  return extra.list;
}

const addressOf = (memory: ArrayBufferView): bigint =>
  BigInt((require('koffi') as typeof import('koffi')).address(memory));

/** A zeroed buffer that starts on a multiple of 1024, as its place on the device does. */
export const allocate = (bytes: number): Buffer => Buffer.alloc(bytes);

export function tensorMap(memory: Memory, options: TensorMapOptions): Uint8Array {
  const { type, extent, strides, box, swizzle = 'none' } = options;
  const map = Buffer.alloc(128 + 64);
  const aligned = map.subarray(Number(-addressOf(map) & 63n)).subarray(0, 128);
  driver(
    'cuTensorMapEncodeTiled',
    aligned,
    type,
    extent.length,
    placeOf(memory),
    BigUint64Array.from(extent, BigInt),
    BigUint64Array.from(strides.length > 0 ? strides : [0], BigInt),
    Uint32Array.from(box),
    Uint32Array.from(options.elementStrides ?? extent.map(() => 1)),
    0,
    ['none', '32', '64', '128'].indexOf(swizzle),
    0,
    options.fillNaN ? 1 : 0,
  );
  return aligned;
}
