// Element types, the typed arrays that hold them, and conversions between half types and float32.

import { AttentionError } from './errors';
import { show } from './options';

/**
 * The array of float16 elements: Float16Array where the runtime has it (Node 24 and later), else the bits.
 *
 * @useDeclaredType
 */
export type Float16Elements = typeof globalThis extends { Float16Array: { prototype: infer T } } ? T : Uint16Array;

/** The typed array that holds each element type in JavaScript. bfloat16 has none: its bits lie in a Uint16Array. */
export interface DTypeMap {
  /** IEEE 754 binary32. */
  float32: Float32Array;
  /** IEEE 754 binary16. */
  float16: Float16Elements;
  /** The upper half of a float32; see {@link toBfloat16}. */
  bfloat16: Uint16Array;
  /** Signed, 32 bits. */
  int32: Int32Array;
  /** Unsigned, 8 bits. */
  uint8: Uint8Array;
  /** Signed, 64 bits. */
  int64: BigInt64Array;
}

/** Element types. */
export type DType = keyof DTypeMap;

/** Arrays that tensors are made of and read into. */
export type TypedArray = DTypeMap[DType];

/** The element type that an array says itself; a Uint16Array holds either half type. */
export type DTypeOf<A extends TypedArray> = A extends Float32Array
  ? 'float32'
  : A extends Int32Array
    ? 'int32'
    : A extends Uint8Array
      ? 'uint8'
      : A extends BigInt64Array
        ? 'int64'
        : DType;

/** In the order of na_dtype in csrc/core/backend.h. */
export const dtypes: readonly DType[] = ['float32', 'float16', 'bfloat16', 'int32', 'uint8', 'int64'];

/** For messages: what a caller may choose from. */
export const dtypeNames = dtypes.map((dtype) => show(dtype)).join(', ');

export const isDType = (value: unknown): value is DType => (dtypes as readonly unknown[]).includes(value);

export function checkDType(call: string, value: unknown): DType {
  if (isDType(value)) return value;
  throw new AttentionError('ERR_DTYPE', `${call}: dtype is ${show(value)}; use one of ${dtypeNames}`);
}

/** Of keys, values and queries. */
export type FloatDType = 'float32' | 'float16' | 'bfloat16';

export function checkFloat(call: string, value: unknown): FloatDType {
  if (value === 'float32' || value === 'float16' || value === 'bfloat16') return value;
  throw new AttentionError('ERR_DTYPE', `${call}: dtype is ${show(value)}; use 'float32', 'float16' or 'bfloat16'`);
}

export const dtypeIndex = (dtype: DType): number => dtypes.indexOf(dtype);

type ArrayClass = new (buffer: ArrayBufferLike, byteOffset: number, length: number) => TypedArray;

const runtimeFloat16Array = (globalThis as { Float16Array?: ArrayClass }).Float16Array;

const arrayClasses: Record<DType, ArrayClass> = {
  float32: Float32Array,
  float16: runtimeFloat16Array ?? (Uint16Array as ArrayClass),
  bfloat16: Uint16Array as ArrayClass,
  int32: Int32Array,
  uint8: Uint8Array,
  int64: BigInt64Array,
};

export const elementBytes: Record<DType, number> = {
  float32: 4,
  float16: 2,
  bfloat16: 2,
  int32: 4,
  uint8: 1,
  int64: 8,
};

export function arrayOver<D extends DType>(dtype: D, buffer: ArrayBufferLike, byteOffset: number, length: number) {
  return new arrayClasses[dtype](buffer, byteOffset, length) as DTypeMap[D];
}

/**
 * The element type of a typed array's own contents, given the type the caller wants a tensor of (if any).
 * A Uint16Array holds the bits of whichever half type is wanted, and must therefore be told.
 */
export function arrayDType(call: string, data: unknown, wanted: DType | undefined): DType {
  const own = ownDType(call, data, wanted);
  if (own) return own;
  throw new AttentionError(
    'ERR_DTYPE',
    `${call}: data is ${show(data)}; use a Float32Array, Float16Array, Uint16Array, Int32Array, Uint8Array or BigInt64Array`,
  );
}

function ownDType(call: string, data: unknown, wanted: DType | undefined): DType | undefined {
  const kind = arrayKind(data);
  if (kind === 'Float32Array') return 'float32';
  if (kind === 'Float16Array') return 'float16';
  if (kind === 'Int32Array') return 'int32';
  if (kind === 'Uint8Array') return 'uint8';
  if (kind === 'BigInt64Array') return 'int64';
  if (kind === 'Uint16Array') {
    if (wanted === 'float16' || wanted === 'bfloat16') return wanted;
    throw new AttentionError(
      'ERR_DTYPE',
      `${call}: a Uint16Array holds the bits of float16 or bfloat16 and dtype is ${show(wanted)}; pass { dtype: 'float16' } or { dtype: 'bfloat16' }`,
    );
  }
  return undefined;
}

const scratch = new DataView(new ArrayBuffer(4));

function floatBits(value: number): number {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
}

function bitsFloat(bits: number): number {
  scratch.setUint32(0, bits);
  return scratch.getFloat32(0);
}

function float16Bits(value: number): number {
  const bits = floatBits(value);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and more round to infinity
  // Below 2^-14, adding 0.5 in float32 rounds to a multiple of 2^-24, the step of subnormal halves.
  if (magnitude < 0x38800000) return sign | (floatBits(Math.fround(bitsFloat(magnitude) + 0.5)) - 0x3f000000);
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

function float16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0x1f) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * mantissa * 2 ** -24 : sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

function bfloat16Bits(value: number): number {
  const bits = floatBits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return ((bits >>> 16) | 0x40) & 0xffff; // stays NaN
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

const getterOf = (name: PropertyKey): ((this: unknown) => unknown) =>
  Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), name)!.get!;

/** A property of a typed array, whatever a program has put in front of it. */
export function arrayProperty<K extends 'buffer' | 'length'>(array: TypedArray, name: K): TypedArray[K] {
  return getterOf(name).call(array) as TypedArray[K];
}

/** The class of a typed array, also of another realm (vm, jest), whose classes are not ours; undefined for what is none. */
const arrayKind = (value: unknown) => getterOf(Symbol.toStringTag).call(value) as string | undefined;

function converted<From extends Float32Array | Uint16Array, To extends Float32Array | Uint16Array>(
  call: string,
  given: unknown,
  from: { new (): From; readonly name: string },
  to: new (length: number) => To,
  each: (value: number) => number,
): To {
  if (arrayKind(given) !== from.name) {
    throw new AttentionError('ERR_DTYPE', `${call}: the array is ${show(given)}; it must be a ${from.name}`);
  }
  const array = given as From;
  const results = new to(arrayProperty(array, 'length'));
  for (let i = 0; i < results.length; i++) results[i] = each(array[i] as number);
  return results;
}

/**
 * The bits of the nearest bfloat16 values, ties to even.
 *
 * @throws AttentionError ERR_DTYPE for what is no Float32Array.
 */
export function toBfloat16(values: Float32Array): Uint16Array {
  return converted('toBfloat16', values, Float32Array, Uint16Array, bfloat16Bits);
}

/**
 * The values of bfloat16 bits; exact.
 *
 * @throws AttentionError ERR_DTYPE for what is no Uint16Array.
 */
export function fromBfloat16(bits: Uint16Array): Float32Array {
  return converted('fromBfloat16', bits, Uint16Array, Float32Array, (half) => bitsFloat(half * 0x10000));
}

/**
 * The bits of the nearest float16 values (IEEE 754 binary16), ties to even.
 *
 * @throws AttentionError ERR_DTYPE for what is no Float32Array.
 */
export function toFloat16(values: Float32Array): Uint16Array {
  return converted('toFloat16', values, Float32Array, Uint16Array, float16Bits);
}

/**
 * The values of float16 bits; exact.
 *
 * @throws AttentionError ERR_DTYPE for what is no Uint16Array.
 */
export function fromFloat16(bits: Uint16Array): Float32Array {
  return converted('fromFloat16', bits, Uint16Array, Float32Array, float16Value);
}
