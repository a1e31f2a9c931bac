// Floating-point formats computed with float64 arithmetic, apart from the library's own conversions, and random data.

export type Float = 'float32' | 'float16' | 'bfloat16';

/** Bits of the significand, and the exponents of the least normal and of the greatest numbers. */
export const formats: Record<Float, { precision: number; least: number; greatest: number }> = {
  float32: { precision: 24, least: -126, greatest: 127 },
  float16: { precision: 11, least: -14, greatest: 15 },
  bfloat16: { precision: 8, least: -126, greatest: 127 },
};

const float64 = new DataView(new ArrayBuffer(8));

function exponent(x: number): number {
  float64.setFloat64(0, x);
  return ((float64.getUint32(0) >>> 20) & 0x7ff) - 1023;
}

/** The distance between neighbouring numbers of a format at the magnitude of x. */
export function ulp(dtype: Float, x: number): number {
  const { precision, least } = formats[dtype];
  return 2 ** (Math.max(exponent(x), least) - precision + 1);
}

/** The most by which rounding changes a normal number, as a share of it. */
export const roundoff = (dtype: Float) => 2 ** -formats[dtype].precision;

/** The nearest number of a format, ties to even. */
export function round(dtype: Float, x: number): number {
  if (x === 0 || !Number.isFinite(x)) return x;
  const unit = ulp(dtype, x);
  const steps = Math.abs(x) / unit; // exact: unit is a power of two
  const below = Math.floor(steps);
  const up = steps - below > 0.5 || (steps - below === 0.5 && below % 2 === 1);
  const rounded = (below + (up ? 1 : 0)) * unit;
  return Math.sign(x) * (rounded >= 2 ** (formats[dtype].greatest + 1) ? Number.POSITIVE_INFINITY : rounded);
}

/** The value of the bits of a half type, from the definition of its format. */
export function fromBits(dtype: 'float16' | 'bfloat16', bits: number): number {
  const { precision, least, greatest } = formats[dtype];
  const steps = 2 ** (precision - 1);
  const sign = bits >= 0x8000 ? -1 : 1;
  const magnitude = bits & 0x7fff;
  const [field, fraction] = [Math.floor(magnitude / steps), magnitude % steps];
  if (field === greatest - least + 2) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (field === 0) return sign * fraction * 2 ** (least - precision + 1);
  return sign * (1 + fraction / steps) * 2 ** (field + least - 1);
}

const everyValue = (dtype: 'float16' | 'bfloat16') =>
  Float64Array.from({ length: 65536 }, (_, bits) => fromBits(dtype, bits));
const halves = { float16: everyValue('float16'), bfloat16: everyValue('bfloat16') };

/** The values of what `read()` or `data` gives. */
export function decode(dtype: Float, array: ArrayLike<unknown>): Float64Array {
  const numbers = array as ArrayLike<number>;
  if (dtype === 'float32' || !(array instanceof Uint16Array)) return Float64Array.from(numbers); // Float16Array too
  const values = halves[dtype];
  return Float64Array.from(array, (bits) => values[bits]!);
}

/** Uniform numbers in [0, 1) from a seed. */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A dense row-major array. */
export interface Values {
  shape: number[];
  data: Float64Array;
}

export const count = (shape: readonly number[]): number => shape.reduce((product, length) => product * length, 1);

/** Normal deviates that are numbers of `dtype`. */
export function normal(random: () => number, dtype: Float, shape: number[]): Values {
  const next = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return { shape, data: Float64Array.from({ length: count(shape) }, () => round(dtype, next())) };
}
