// cvt between all types in every rounding mode, against exact arithmetic and the words of the PTX ISA.
import { describe, expect, test } from 'vitest';
import { cross, edges, evaluate, load, signed, unsigned, type Width } from './support/evaluate';
import {
  BF16,
  decode,
  E5M2,
  type Exact,
  encode,
  F16,
  F32,
  F64,
  type Format,
  f32Bits,
  f32Number,
  floats,
  flush,
  fromInteger,
  MODES,
  type Mode,
  toInteger,
  type Value,
} from './support/exact';

interface Integer {
  name: string;
  bits: number;
  isSigned: boolean;
}
const INTEGERS: Integer[] = [8, 16, 32, 64].flatMap((bits) => [
  { name: `u${bits}`, bits, isSigned: false },
  { name: `s${bits}`, bits, isSigned: true },
]);
const FLOATS = { f16: F16, bf16: BF16, f32: F32, f64: F64 };
type Float = keyof typeof FLOATS;
const bitsOf = (f: Format) => 1 + f.exponentBits + f.mantissaBits;
/** The registers that hold a type: 8 bits have none of their own. */
const register = (bits: number) => `b${Math.max(bits, 16)}` as Width;
const hex = (v: bigint) => v.toString(16);
const value = (t: Integer, bits: bigint) => (t.isSigned ? signed(t.bits, bits) : unsigned(t.bits, bits));
const least = (t: Integer) => (t.isSigned ? -(1n << BigInt(t.bits - 1)) : 0n);
const most = (t: Integer) => (1n << BigInt(t.bits - (t.isSigned ? 1 : 0))) - 1n;
/** Whether every number of the other type is one of this. */
const holdsAll = (t: Integer, other: Integer) => least(t) <= least(other) && most(other) <= most(t);
const clamp = (t: Integer, v: bigint) => (v < least(t) ? least(t) : v > most(t) ? most(t) : v);
/** A number of a type in a register of `width` bits. */
const stored = (width: number, v: bigint) => unsigned(Math.max(width, 16), v);

function check(
  instruction: string,
  from: Width,
  to: Width,
  cases: bigint[],
  expected: (source: bigint) => bigint,
): void {
  const { d } = evaluate(
    `${instruction} %d, %a;`,
    { a: from },
    { d: to },
    cases.map((v) => [v]),
  );
  const wrong = cases.flatMap((v, i) =>
    d[i] === expected(v) ? [] : [`${instruction} ${hex(v)} -> ${hex(d[i]!)}, not ${hex(expected(v))}`],
  );
  expect(wrong.slice(0, 5)).toEqual([]);
}

const integers = (bits: number) =>
  [...edges(bits === 8 ? 16 : (bits as 16 | 32 | 64)), 0x7fn, 0x80n, 0xffn, 0x8000n, 0x7fffn].map((v) =>
    unsigned(Math.max(16, bits), v),
  );

describe('integers to integers', () => {
  test.each(INTEGERS)('to $name: the low bits, extended by the sign of the type', (to) => {
    for (const from of INTEGERS) {
      check(`cvt.${to.name}.${from.name}`, register(from.bits), register(to.bits), integers(from.bits), (v) =>
        stored(to.bits, value(to, unsigned(to.bits, value(from, v)))),
      );
    }
  });
  test.each(INTEGERS)('to $name with .sat, where something can overflow', (to) => {
    for (const from of INTEGERS) {
      if (holdsAll(to, from)) {
        expect(() => load(`cvt.sat.${to.name}.${from.name} %r1, %r2;`)).toThrow(/nothing can overflow/);
        continue;
      }
      check(`cvt.sat.${to.name}.${from.name}`, register(from.bits), register(to.bits), integers(from.bits), (v) =>
        stored(to.bits, clamp(to, value(from, v))),
      );
    }
  });
  test('a destination wider than the type is extended', () => {
    const cases = integers(32);
    check('cvt.s8.s32', 'b32', 'b32', cases, (v) => unsigned(32, signed(8, v)));
    check('cvt.u8.s32', 'b32', 'b32', cases, (v) => unsigned(8, v));
    check('cvt.s16.s32', 'b32', 'b32', cases, (v) => unsigned(32, signed(16, v)));
    check('cvt.s16.s32', 'b32', 'b64', cases, (v) => unsigned(64, signed(16, v)));
  });
  test('what is read of a small signed result is only its type', () => {
    const { d } = evaluate('.reg .b16 %x; cvt.s16.s8 %x, %a; mov.b32 %d, {%x, %x};', { a: 'b16' }, { d: 'b32' }, [
      [0x0080n],
      [0x007fn],
    ]);
    expect(d.map(hex)).toEqual(['ff80ff80', '7f007f']);
  });
});

/** Values of a format at and beside integers, halves, and the limits of all integer types. */
function besideIntegers(f: Format): bigint[] {
  const halves = [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 7, 255, 511].map(
    (n): Exact => ({ ...fromInteger(BigInt(n)), exponent: -1 }),
  );
  const limits = [7, 8, 15, 16, 31, 32, 63, 64].flatMap((n) => [1n << BigInt(n), -(1n << BigInt(n))]).map(fromInteger);
  const around = [...halves, ...limits].flatMap((v) => {
    const bits = encode(f, v, 'rn');
    return [bits, bits + 1n, bits === 0n ? 0n : bits - 1n];
  });
  return [...around.filter((v) => decode(f, v) !== 'nan'), ...floats(f)];
}

describe('floats to integers', () => {
  test.each(INTEGERS)('to $name: rounded, held within the limits, NaN as the ISA says', (to) => {
    for (const [name, format] of Object.entries(FLOATS)) {
      if (name === 'bf16' && to.bits === 8) continue; // PTX has no such conversion
      for (const mode of MODES) {
        const limit = (v: Value): bigint => {
          // "Zero if source is not .f64 and destination is not .s64 nor .u64", else the top bit alone.
          if (v === 'nan') return name === 'f64' || to.bits === 64 ? value(to, 1n << BigInt(to.bits - 1)) : 0n;
          if (v === 'inf') return most(to);
          if (v === '-inf') return least(to);
          return clamp(to, toInteger(v, mode));
        };
        check(
          `cvt.${mode}i.${to.name}.${name}`,
          register(bitsOf(format)),
          register(to.bits),
          besideIntegers(format),
          (v) => stored(to.bits, limit(decode(format, v))),
        );
      }
    }
  });
  test('.ftz: a denormal f32 is zero before it is rounded; .sat changes nothing', () => {
    check('cvt.rpi.s32.f32', 'b32', 'b32', [1n, 0x80000001n], (v) => (v === 1n ? 1n : 0n));
    check('cvt.rpi.ftz.s32.f32', 'b32', 'b32', [1n, 0x80000001n], () => 0n);
    check('cvt.rzi.sat.u8.f32', 'b32', 'b16', [300, -5, 77.9].map(f32Bits), (v) =>
      f32Number(v) > 255 ? 255n : f32Number(v) < 0 ? 0n : 77n,
    );
  });
});

describe('integers to floats', () => {
  test.each(Object.entries(FLOATS))('to %s in every mode', (name, format) => {
    for (const from of INTEGERS) {
      if (name === 'bf16' && from.bits === 8) continue;
      // Numbers with more bits than the target, of which the last decide.
      const long = [24, 25, 26, 53, 54, 55, 62, 63].flatMap((n) =>
        [-1n, 1n, (1n << BigInt(n - 12)) + 1n, 1n << BigInt(n - 12)].map((d) => (1n << BigInt(n)) + d),
      );
      const cases = [...integers(from.bits), ...long, ...long.map((v) => -v)].map((v) => stored(from.bits, v));
      for (const mode of MODES) {
        check(`cvt.${mode}.${name}.${from.name}`, register(from.bits), register(bitsOf(format)), cases, (v) =>
          encode(format, fromInteger(value(from, v)), mode),
        );
      }
    }
  });
  test('.sat stops at 1', () => {
    check('cvt.rn.sat.f32.s32', 'b32', 'b32', integers(32), (v) => (signed(32, v) > 0n ? f32Bits(1) : 0n));
    check('cvt.rn.sat.f16.u16', 'b16', 'b16', integers(16), (v) => (v > 0n ? 0x3c00n : 0n));
  });
});

/** Values of one format beside the middles between values of another. */
function besideMiddles(from: Format, to: Format): bigint[] {
  const middles = floats(to).flatMap((v) => {
    const exact = decode(to, v);
    if (typeof exact === 'string') return [];
    return [0n, 1n, 2n, 3n].map((quarter) => ({
      ...exact,
      mantissa: 4n * exact.mantissa + quarter,
      exponent: exact.exponent - 2,
    }));
  });
  const around = middles.flatMap((v) => {
    const bits = encode(from, v, 'rz');
    return [bits, bits + 1n];
  });
  return [...around.filter((v) => decode(from, v) !== 'nan'), ...floats(from)];
}
const saturated = (f: Format, v: Value): Value => {
  const one: Exact = { negative: false, mantissa: 1n, exponent: 0 };
  if (v === 'nan' || v === '-inf') return { ...one, mantissa: 0n };
  if (v === 'inf') return one;
  const isAbove = encode(f, v, 'rz') > encode(f, one, 'rn');
  return v.negative ? { ...one, mantissa: 0n } : isAbove ? one : v;
};
const pairs = cross(Object.keys(FLOATS) as Float[], Object.keys(FLOATS) as Float[]);
const needsRounding = (to: Float, from: Float) => to !== from && bitsOf(FLOATS[to]) <= bitsOf(FLOATS[from]);

describe('floats to floats', () => {
  test.each(pairs.filter(([to, from]) => needsRounding(to, from)))('%s from %s in every mode', (to, from) => {
    const [d, s] = [FLOATS[to], FLOATS[from]];
    for (const mode of MODES) {
      check(`cvt.${mode}.${to}.${from}`, register(bitsOf(s)), register(bitsOf(d)), besideMiddles(s, d), (v) =>
        encode(d, decode(s, v), mode),
      );
      if (to === 'bf16' || from === 'bf16') continue;
      check(`cvt.${mode}.sat.${to}.${from}`, register(bitsOf(s)), register(bitsOf(d)), besideMiddles(s, d), (v) =>
        encode(d, saturated(s, decode(s, v)), mode),
      );
    }
  });
  test.each(pairs.filter(([to, from]) => bitsOf(FLOATS[to]) > bitsOf(FLOATS[from])))(
    '%s from %s is exact',
    (to, from) => {
      const [d, s] = [FLOATS[to], FLOATS[from]];
      const cases =
        bitsOf(s) === 16
          ? Array.from({ length: 65536 }, (_, i) => BigInt(i)).filter((_, i) => i % 7 === 0 || i < 1100)
          : floats(s);
      const numbers = cases.filter((v) => decode(s, v) !== 'nan');
      check(`cvt.${to}.${from}`, register(bitsOf(s)), register(bitsOf(d)), numbers, (v) =>
        encode(d, decode(s, v), 'rn'),
      );
      const { p } = evaluate(
        `.reg .${register(bitsOf(d))} %x; cvt.${to}.${from} %x, %a; setp.nan.${to} %p, %x, %x;`,
        { a: register(bitsOf(s)) },
        { p: 'pred' },
        cases.filter((v) => decode(s, v) === 'nan').map((v) => [v]),
      );
      expect(new Set(p)).toEqual(new Set([1n]));
    },
  );
  test.each(Object.entries(FLOATS))('%s to an integer of the same type', (name, format) => {
    const width = register(bitsOf(format));
    const sign = 1n << BigInt(bitsOf(format) - 1);
    for (const mode of MODES) {
      const numbers = besideIntegers(format).filter((v) => decode(format, v) !== 'nan');
      check(`cvt.${mode}i.${name}.${name}`, width, width, numbers, (v) => {
        const exact = decode(format, v);
        if (typeof exact === 'string') return v;
        return encode(format, fromInteger(toInteger(exact, mode)), 'rn') | (v & sign);
      });
    }
    const numbers = floats(format).filter((v) => decode(format, v) !== 'nan');
    check(`cvt.${name}.${name}`, width, width, numbers, (v) => v);
    if (name === 'bf16') return;
    check(`cvt.sat.${name}.${name}`, width, width, floats(format), (v) =>
      encode(format, saturated(format, decode(format, v)), 'rn'),
    );
  });
  test('.ftz makes a denormal f32 zero, read or written', () => {
    const tiny = [1n, 0x007fffffn, 0x80000001n, 0x00800000n];
    check('cvt.ftz.f32.f32', 'b32', 'b32', tiny, (v) => flush(F32, v));
    check('cvt.ftz.f64.f32', 'b32', 'b64', tiny, (v) => encode(F64, decode(F32, flush(F32, v)), 'rn'));
    check(
      'cvt.rn.ftz.f32.f64',
      'b64',
      'b32',
      tiny.map((v) => encode(F64, decode(F32, v), 'rn')),
      (v) => flush(F32, encode(F32, decode(F64, v), 'rn')),
    );
    check('cvt.rp.ftz.f16.f32', 'b32', 'b16', tiny, (v) => encode(F16, decode(F32, flush(F32, v)), 'rp'));
    check('cvt.ftz.f32.f16', 'b16', 'b32', [1n, 0x8001n], (v) => encode(F32, decode(F16, v), 'rn'));
    check('cvt.ftz.f32.bf16', 'b16', 'b32', [1n, 0x8001n, 0x80n], (v) =>
      flush(F32, encode(F32, decode(BF16, v), 'rn')),
    );
  });
  test.each([
    ['f16', F16],
    ['bf16', BF16],
  ] as [string, Format][])('%s from f32 with .relu and .satfinite', (to, format) => {
    const cases = besideMiddles(F32, format);
    const infinity = ((1n << BigInt(format.exponentBits)) - 1n) << BigInt(format.mantissaBits);
    const relu = (v: bigint) => (v >= 0x8000n ? 0n : v);
    const finite = (v: bigint) => ((v & 0x7fffn) === infinity ? v - 1n : v);
    for (const mode of ['rn', 'rz'] as const) {
      const rounded = (v: bigint) => encode(format, decode(F32, v), mode);
      check(`cvt.${mode}.relu.${to}.f32`, 'b32', 'b16', cases, (v) => relu(rounded(v)));
      check(`cvt.${mode}.satfinite.${to}.f32`, 'b32', 'b16', cases, (v) => finite(rounded(v)));
      check(`cvt.${mode}.relu.satfinite.${to}.f32`, 'b32', 'b16', cases, (v) => relu(finite(rounded(v))));
    }
  });
});

/** All finite numbers of fp8 by the definition of the format, and the nearest of them, ties to the even code. */
const E4M3 = Array.from({ length: 127 }, (_, code) => {
  const field = code >> 3;
  return field === 0 ? (code & 7) * 2 ** -9 : (8 + (code & 7)) * 2 ** (field - 10);
});
const E5M2_NUMBERS = Array.from({ length: 124 }, (_, code) => {
  const field = code >> 2;
  return field === 0 ? (code & 3) * 2 ** -16 : (4 + (code & 3)) * 2 ** (field - 17);
});
function toFp8(numbers: number[], x: number): bigint {
  if (Number.isNaN(x)) return 0x7fn;
  const sign = x < 0 || Object.is(x, -0) ? 0x80n : 0n;
  const magnitude = Math.min(Math.abs(x), numbers[numbers.length - 1]!);
  let best = 0;
  numbers.forEach((n, code) => {
    const [now, before] = [Math.abs(n - magnitude), Math.abs(numbers[best]! - magnitude)];
    if (now < before || (now === before && code % 2 === 0)) best = code;
  });
  return sign | BigInt(best);
}

describe('pairs', () => {
  /** Two sources of 32 bits, of which the first goes into the upper half. */
  function checkPair(
    instruction: string,
    to: Width,
    bits: number,
    cases: bigint[],
    single: (v: bigint) => bigint,
  ): void {
    const both = cases.map((v, i): [bigint, bigint] => [v, cases[(i * 7 + 3) % cases.length]!]);
    const { d } = evaluate(`${instruction} %d, %a, %b;`, { a: 'b32', b: 'b32' }, { d: to }, both);
    expect(both.map(([a, b], i) => `${hex(a)} ${hex(b)} -> ${hex(d[i]!)}`)).toEqual(
      both.map(([a, b]) => `${hex(a)} ${hex(b)} -> ${hex((single(a) << BigInt(bits)) | single(b))}`),
    );
  }
  test.each([
    ['f16', F16],
    ['bf16', BF16],
  ] as [string, Format][])('%sx2 from two f32', (to, format) => {
    const cases = besideMiddles(F32, format);
    const infinity = ((1n << BigInt(format.exponentBits)) - 1n) << BigInt(format.mantissaBits);
    for (const mode of ['rn', 'rz'] as Mode[]) {
      const rounded = (v: bigint) => encode(format, decode(F32, v), mode);
      checkPair(`cvt.${mode}.${to}x2.f32`, 'b32', 16, cases, rounded);
      checkPair(`cvt.${mode}.relu.${to}x2.f32`, 'b32', 16, cases, (v) => (rounded(v) >= 0x8000n ? 0n : rounded(v)));
      checkPair(`cvt.${mode}.satfinite.${to}x2.f32`, 'b32', 16, cases, (v) =>
        (rounded(v) & 0x7fffn) === infinity ? rounded(v) - 1n : rounded(v),
      );
    }
  });
  const beside = (numbers: number[]) =>
    [
      ...numbers,
      ...numbers.slice(1).map((n, i) => (n + numbers[i]!) / 2),
      460,
      464,
      470,
      60000,
      65536,
      3e38,
      1e-30,
      Number.POSITIVE_INFINITY,
    ]
      .flatMap((n) => [f32Bits(n), f32Bits(n) + (Number.isFinite(n) ? 1n : 0n), f32Bits(-n)])
      .concat([0x7fc00000n, 0xffc00001n]);
  test.each([
    ['e4m3', E4M3],
    ['e5m2', E5M2_NUMBERS],
  ] as [string, number[]][])('%sx2 from two f32', (name, numbers) => {
    const single = (v: bigint) => toFp8(numbers, f32Number(v));
    checkPair(`cvt.rn.satfinite.${name}x2.f32`, 'b16', 8, beside(numbers), single);
    checkPair(`cvt.rn.satfinite.relu.${name}x2.f32`, 'b16', 8, beside(numbers), (v) =>
      single(v) >= 0x80n ? 0n : single(v),
    );
  });
  test.each([
    ['e4m3', E4M3],
    ['e5m2', E5M2_NUMBERS],
  ] as [string, number[]][])('%sx2 from f16x2', (name, numbers) => {
    const halves = Array.from({ length: 4096 }, (_, i) => BigInt(i * 16 + (i % 16)));
    const number = (v: bigint) => f32Number(encode(F32, decode(F16, v), 'rn'));
    const single = (v: bigint) => toFp8(numbers, number(v));
    const other = (v: bigint) => (v * 31n + 9n) & 0xffffn;
    const cases = halves.map((v) => v | (other(v) << 16n));
    const pair = (v: bigint, f: (x: bigint) => bigint) => f(v & 0xffffn) | (f(v >> 16n) << 8n);
    check(`cvt.rn.satfinite.${name}x2.f16x2`, 'b32', 'b16', cases, (v) => pair(v, single));
    check(`cvt.rn.satfinite.relu.${name}x2.f16x2`, 'b32', 'b16', cases, (v) =>
      pair(v, (x) => (single(x) >= 0x80n ? 0n : single(x))),
    );
  });
  test('f16x2 from e4m3x2 and e5m2x2: all numbers', () => {
    const cases = Array.from({ length: 256 }, (_, i) => BigInt(i | (((i * 77 + 1) % 256) << 8)));
    const e4m3 = (v: bigint) => {
      const magnitude = Number(v & 0x7fn);
      if (magnitude === 0x7f) return 0x7fffn;
      return encode(F16, decode(F32, f32Bits(E4M3[magnitude]!)), 'rn') | ((v & 0x80n) << 8n);
    };
    const e5m2 = (v: bigint) => encode(F16, decode(E5M2, v), 'rn');
    const pair = (v: bigint, f: (x: bigint) => bigint) => f(v & 0xffn) | (f(v >> 8n) << 16n);
    const relu = (v: bigint) => (v >= 0x8000n ? 0n : v);
    check('cvt.rn.f16x2.e4m3x2', 'b16', 'b32', cases, (v) => pair(v, e4m3));
    check('cvt.rn.f16x2.e5m2x2', 'b16', 'b32', cases, (v) => pair(v, e5m2));
    check('cvt.rn.relu.f16x2.e4m3x2', 'b16', 'b32', cases, (v) => pair(v, (x) => relu(e4m3(x))));
  });
  test('cvt.pack saturates and puts together', () => {
    const list = [
      0n,
      5n,
      127n,
      128n,
      255n,
      256n,
      32767n,
      32768n,
      65535n,
      65536n,
      0x7fffffffn,
      0x80000000n,
      0xffffffffn,
      0xffffff80n,
      0xffff7fffn,
    ];
    for (const [name, t] of INTEGERS.filter((i) => i.bits === 16).map((i) => [i.name, i] as const)) {
      checkPair(`cvt.pack.sat.${name}.s32`, 'b32', 16, list, (v) => unsigned(16, clamp(t, signed(32, v))));
    }
    for (const [name, t] of INTEGERS.filter((i) => i.bits === 8).map((i) => [i.name, i] as const)) {
      const cases = cross(list, list.slice(0, 6), [0x12345678n]);
      const { d } = evaluate(
        `cvt.pack.sat.${name}.s32.b32 %d, %a, %b, %c;`,
        { a: 'b32', b: 'b32', c: 'b32' },
        { d: 'b32' },
        cases,
      );
      const part = (v: bigint) => unsigned(8, clamp(t, signed(32, v)));
      expect(d.map(hex)).toEqual(cases.map(([a, b]) => hex((0x5678n << 16n) | (part(a) << 8n) | part(b))));
    }
  });
});

test('tf32 keeps 10 bits of the mantissa, in the upper 19 bits', () => {
  // As f32 rounded at bit 13; a carry goes into the exponent.
  const short: Format = { exponentBits: 8, mantissaBits: 10, nan: 0n };
  const cases = [...floats(F32), ...besideMiddles(F32, short).map((v) => unsigned(32, v))].filter(
    (v) => decode(F32, v) !== 'nan',
  );
  const rounded = (mode: Mode) => (v: bigint) => encode(short, decode(F32, v), mode) << 13n;
  check('cvt.rna.tf32.f32', 'b32', 'b32', cases, rounded('rna'));
  check('cvt.rn.tf32.f32', 'b32', 'b32', cases, rounded('rn'));
  check('cvt.rz.tf32.f32', 'b32', 'b32', cases, rounded('rz'));
  check('cvt.rn.relu.tf32.f32', 'b32', 'b32', cases, (v) => (v >= 0x80000000n ? 0n : rounded('rn')(v)));
  check('cvt.rna.satfinite.tf32.f32', 'b32', 'b32', cases, (v) => {
    const result = rounded('rna')(v);
    return (result & 0x7fffffffn) === 0x7f800000n ? result - (1n << 13n) : result;
  });
  check('cvt.rna.tf32.f32', 'b32', 'b32', [0x7fc00000n, 0xff800001n], () => 0x7fffffffn);
});

test('only guarded lanes are converted', () => {
  const { d } = evaluate(
    '@%p cvt.rn.f32.s32 %d, %a; @!%p cvt.rzi.s32.f32 %d, %b;',
    { a: 'b32', b: 'b32', p: 'pred' },
    { d: 'b32' },
    Array.from({ length: 40 }, (_, i) => [BigInt(i), f32Bits(i + 0.75), BigInt(i % 3 === 0 ? 1 : 0)]),
  );
  expect(d).toEqual(Array.from({ length: 40 }, (_, i) => (i % 3 === 0 ? f32Bits(i) : BigInt(i))));
});

test.each([
  ['cvt.f16.f32 %h1, %r2;', /this rounding/],
  ['cvt.rni.f16.f32 %h1, %r2;', /this rounding/],
  ['cvt.s32.f32 %r1, %r2;', /this rounding/],
  ['cvt.rn.s32.f32 %r1, %r2;', /this rounding/],
  ['cvt.f32.s32 %r1, %r2;', /this rounding/],
  ['cvt.rn.u32.u64 %r1, %l2;', /this rounding/],
  ['cvt.rn.f64.f32 %l1, %r2;', /this rounding/],
  ['cvt.rna.f16.f32 %h1, %r2;', /this rounding/],
  ['cvt.rn.rz.f16.f32 %h1, %r2;', /modifier \.rz/],
  ['cvt.sat.bf16.bf16 %h1, %h2;', /\.sat with bf16/],
  ['cvt.rni.u8.bf16 %h1, %h2;', /bf16 with 8 bits/],
  ['cvt.rn.relu.f32.f64 %r1, %l2;', /\.relu or \.satfinite/],
  ['cvt.ftz.s32.u32 %r1, %r2;', /\.ftz without f32/],
  ['cvt.rn.b32.f32 %r1, %r2;', /to \.b32/],
  ['cvt.rm.f16x2.f32 %r1, %r2, %r3;', /type or rounding/],
  ['cvt.rn.sat.f16x2.f32 %r1, %r2, %r3;', /modifier of plain cvt/],
  ['cvt.rn.f16x2.f32 %r1, %r2;', /2 operands instead of 3/],
  ['cvt.rn.e4m3x2.f32 %h1, %r2, %r3;', /type or rounding/],
  ['cvt.rn.satfinite.e2m1x2.f32 %h1, %r2, %r3;', /type or rounding/],
  ['cvt.rs.f16x2.f32 %r1, %r2, %r3, %r4;', /type or rounding/],
  ['cvt.tf32.f32 %r1, %r2;', /type or mode/],
  ['cvt.rm.tf32.f32 %r1, %r2;', /type or mode/],
  ['cvt.pack.sat.u4.s32.b32 %r1, %r2, %r3, %r4;', /type or mode/],
  ['cvt.rn.bf16x2.e4m3x2 %r1, %h2;', /type or mode/],
])('%s is refused', (body, why) => {
  expect(() => load(body)).toThrow(why);
});
