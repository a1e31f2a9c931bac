// Floating point in exact arithmetic on big integers, rounded once in any mode: what instructions are compared with.

export interface Format {
  exponentBits: number;
  mantissaBits: number;
  nan: bigint;
}
export const F16: Format = { exponentBits: 5, mantissaBits: 10, nan: 0x7fffn };
export const BF16: Format = { exponentBits: 8, mantissaBits: 7, nan: 0x7fffn };
export const F32: Format = { exponentBits: 8, mantissaBits: 23, nan: 0x7fffffffn };
export const F64: Format = { exponentBits: 11, mantissaBits: 52, nan: 0x7ff8000000000000n };
export const E5M2: Format = { exponentBits: 5, mantissaBits: 2, nan: 0x7fn };

/** nearest even, towards zero, down, up, nearest with ties away from zero */
export type Mode = 'rn' | 'rz' | 'rm' | 'rp' | 'rna';
export const MODES: Mode[] = ['rn', 'rz', 'rm', 'rp'];

/** sign * mantissa * 2^exponent; a mantissa of zero keeps its sign */
export interface Exact {
  negative: boolean;
  mantissa: bigint;
  exponent: number;
}
export type Value = Exact | 'nan' | 'inf' | '-inf';

const bias = (f: Format) => 2 ** (f.exponentBits - 1) - 1;
const width = (f: Format) => 1 + f.exponentBits + f.mantissaBits;
const signBit = (f: Format) => 1n << BigInt(width(f) - 1);
const infinity = (f: Format) => ((1n << BigInt(f.exponentBits)) - 1n) << BigInt(f.mantissaBits);

export function decode(f: Format, bits: bigint): Value {
  const negative = (bits & signBit(f)) !== 0n;
  const magnitude = bits & (signBit(f) - 1n);
  if (magnitude > infinity(f)) return 'nan';
  if (magnitude === infinity(f)) return negative ? '-inf' : 'inf';
  const field = Number(magnitude >> BigInt(f.mantissaBits));
  const fraction = magnitude & ((1n << BigInt(f.mantissaBits)) - 1n);
  const mantissa = field === 0 ? fraction : fraction | (1n << BigInt(f.mantissaBits));
  return { negative, mantissa, exponent: Math.max(field, 1) - bias(f) - f.mantissaBits };
}

export function encode(f: Format, value: Value, mode: Mode): bigint {
  if (value === 'nan') return f.nan;
  if (value === 'inf') return infinity(f);
  if (value === '-inf') return infinity(f) | signBit(f);
  const { negative, mantissa, exponent } = value;
  const sign = negative ? signBit(f) : 0n;
  if (mantissa === 0n) return sign;
  const least = 1 - bias(f);
  const leading = mantissa.toString(2).length - 1 + exponent;
  let unit = Math.max(leading, least) - f.mantissaBits; // the exponent of the last kept bit
  const drop = unit - exponent;
  let kept = drop <= 0 ? mantissa << BigInt(-drop) : mantissa >> BigInt(drop);
  if (drop > 0) {
    const rest = 2n * (mantissa - (kept << BigInt(drop)));
    const one = 1n << BigInt(drop);
    const up = {
      rn: rest > one || (rest === one && (kept & 1n) === 1n),
      rna: rest >= one,
      rz: false,
      rm: negative && rest > 0n,
      rp: !negative && rest > 0n,
    }[mode];
    if (up) kept += 1n;
  }
  const implicit = 1n << BigInt(f.mantissaBits);
  if (kept === 2n * implicit) {
    kept = implicit;
    unit += 1;
  }
  if (kept < implicit) return sign | kept;
  const field = unit + f.mantissaBits + bias(f);
  if (field < 2 ** f.exponentBits - 1) return sign | ((BigInt(field) << BigInt(f.mantissaBits)) + kept - implicit);
  const inward = mode === 'rz' || (mode === 'rm' && !negative) || (mode === 'rp' && negative);
  return sign | (inward ? infinity(f) - 1n : infinity(f));
}

const isExact = (v: Value): v is Exact => typeof v !== 'string';
const isNegative = (v: Value) => (isExact(v) ? v.negative : v === '-inf');
const infinite = (negative: boolean): Value => (negative ? '-inf' : 'inf');
const toSigned = (v: Exact) => (v.negative ? -v.mantissa : v.mantissa);

export function negate(v: Value): Value {
  if (isExact(v)) return { ...v, negative: !v.negative };
  return v === 'nan' ? v : infinite(v === 'inf');
}

export function plus(a: Value, b: Value, mode: Mode): Value {
  if (a === 'nan' || b === 'nan') return 'nan';
  if (!isExact(a)) return isExact(b) || a === b ? a : 'nan';
  if (!isExact(b)) return b;
  const exponent = Math.min(a.exponent, b.exponent);
  const sum = (toSigned(a) << BigInt(a.exponent - exponent)) + (toSigned(b) << BigInt(b.exponent - exponent));
  if (sum !== 0n) return { negative: sum < 0n, mantissa: sum < 0n ? -sum : sum, exponent };
  // IEEE 754: a sum that is zero is +0, or -0 when rounding down, unless both terms have the same sign.
  return { negative: a.negative === b.negative ? a.negative : mode === 'rm', mantissa: 0n, exponent };
}

export function times(a: Value, b: Value): Value {
  if (a === 'nan' || b === 'nan') return 'nan';
  const negative = isNegative(a) !== isNegative(b);
  if (!isExact(a) || !isExact(b)) {
    const zero = (isExact(a) && a.mantissa === 0n) || (isExact(b) && b.mantissa === 0n);
    return zero ? 'nan' : infinite(negative);
  }
  return { negative, mantissa: a.mantissa * b.mantissa, exponent: a.exponent + b.exponent };
}

const EXTRA = 240; // bits of a quotient: more than any format, with a last bit that says whether it is inexact

export function over(a: Value, b: Value): Value {
  if (a === 'nan' || b === 'nan') return 'nan';
  const negative = isNegative(a) !== isNegative(b);
  if (!isExact(a)) return isExact(b) ? infinite(negative) : 'nan';
  if (!isExact(b)) return { negative, mantissa: 0n, exponent: 0 };
  if (b.mantissa === 0n) return a.mantissa === 0n ? 'nan' : infinite(negative);
  const scaled = a.mantissa << BigInt(EXTRA);
  const quotient = scaled / b.mantissa;
  const sticky = quotient * b.mantissa === scaled ? 0n : 1n;
  return { negative, mantissa: 2n * quotient + sticky, exponent: a.exponent - b.exponent - EXTRA - 1 };
}

export function root(a: Value): Value {
  if (a === 'nan' || a === '-inf') return 'nan';
  if (a === 'inf') return 'inf';
  if (a.mantissa === 0n) return a;
  if (a.negative) return 'nan';
  const odd = a.exponent & 1;
  const scaled = a.mantissa << BigInt(EXTRA + odd);
  let low = 0n;
  let high = 1n << BigInt(Math.ceil(scaled.toString(2).length / 2) + 1);
  while (high - low > 1n) {
    const middle = (low + high) >> 1n;
    if (middle * middle <= scaled) low = middle;
    else high = middle;
  }
  const sticky = low * low === scaled ? 0n : 1n;
  return { negative: false, mantissa: 2n * low + sticky, exponent: (a.exponent - odd - EXTRA) / 2 - 1 };
}

/** The integer nearest to a finite value in a mode, by the words of the rounding modes .rni, .rzi, .rmi and .rpi. */
export function toInteger(v: Exact, mode: Mode): bigint {
  if (v.exponent >= 0) return toSigned(v) << BigInt(v.exponent);
  const one = 1n << BigInt(-v.exponent);
  const value = toSigned(v);
  let floor = value / one;
  if (floor * one > value) floor -= 1n;
  const rest = value - floor * one;
  if (rest === 0n) return floor;
  const up = {
    rn: 2n * rest > one || (2n * rest === one && (floor & 1n) === 1n),
    rna: 2n * rest > one || (2n * rest === one && value > 0n),
    rz: value < 0n,
    rm: false,
    rp: true,
  }[mode];
  return up ? floor + 1n : floor;
}

export const fromInteger = (value: bigint): Exact => ({
  negative: value < 0n,
  mantissa: value < 0n ? -value : value,
  exponent: 0,
});

/** A denormal number replaced by a zero of its sign, as .ftz does. */
export function flush(f: Format, bits: bigint): bigint {
  return (bits & infinity(f)) === 0n ? bits & signBit(f) : bits;
}

/** Zeros, denormals, normal limits, infinities, NaN, and numbers whose results need rounding. */
export function floats(f: Format): bigint[] {
  const implicit = 1n << BigInt(f.mantissaBits);
  const one = BigInt(bias(f)) << BigInt(f.mantissaBits);
  const positive = [
    0n,
    1n,
    implicit / 2n + 1n,
    implicit - 1n,
    implicit,
    implicit + 1n,
    one - 1n,
    one,
    one + 1n,
    one + implicit / 2n,
    one + (implicit * 2n) / 3n,
    one + 2n * implicit - 1n,
    one - BigInt(f.mantissaBits + 1) * implicit,
    infinity(f) - 1n,
    infinity(f) - implicit / 2n,
    infinity(f),
  ];
  return [...positive, ...positive.map((v) => v | signBit(f)), infinity(f) + implicit / 2n];
}

export function f32Bits(value: number): bigint {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  return BigInt(view.getUint32(0));
}
export function f32Number(bits: bigint): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, Number(bits));
  return view.getFloat32(0);
}
export function f64Bits(value: number): bigint {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  return view.getBigUint64(0);
}
export function f64Number(bits: bigint): number {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, bits);
  return view.getFloat64(0);
}
