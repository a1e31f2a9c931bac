// f32 and f64 arithmetic against exact arithmetic rounded once, in every rounding mode.
import { describe, expect, test } from 'vitest';
import { cross, evaluate, load, type Width } from './support/evaluate';
import {
  decode,
  encode,
  F32,
  F64,
  type Format,
  f32Bits,
  f32Number,
  f64Bits,
  f64Number,
  floats,
  flush,
  MODES,
  type Mode,
  negate,
  over,
  plus,
  root,
  times,
  type Value,
} from './support/exact';

type Operation = (mode: Mode, a: Value, b: Value, c: Value) => Value;
const OPERATIONS: [string, { count: number; of: Operation }][] = Object.entries({
  add: { count: 2, of: (mode, a, b) => plus(a, b, mode) },
  sub: { count: 2, of: (mode, a, b) => plus(a, negate(b), mode) },
  mul: { count: 2, of: (_, a, b) => times(a, b) },
  fma: { count: 3, of: (mode, a, b, c) => plus(times(a, b), c, mode) },
  mad: { count: 3, of: (mode, a, b, c) => plus(times(a, b), c, mode) },
  div: { count: 2, of: (_, a, b) => over(a, b) },
  rcp: { count: 1, of: (_, a) => over({ negative: false, mantissa: 1n, exponent: 0 }, a) },
  sqrt: { count: 1, of: (_, a) => root(a) },
});
const ONE = 0x3f800000n;
const NAN = 0x7fffffffn;
const isNan = (v: bigint) => (v & 0x7fffffffn) > 0x7f800000n;
/** To [0, 1]; NaN gives +0. */
const saturated = (v: bigint) => (isNan(v) || v >= 0x80000000n ? 0n : v > ONE ? ONE : v);

// Pseudo-random bits, the same in every run.
function random(count: number): bigint[] {
  let state = 12345n;
  return Array.from({ length: count }, () => {
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n);
    return state ^ (state >> 29n);
  });
}
/** Numbers of about one, with all bits of the mantissa, so that sums cancel and products need rounding. */
function near(format: Format, count: number): bigint[] {
  const one = decodeOne(format);
  const spread = BigInt(format.mantissaBits + 2);
  const sign = BigInt(format.exponentBits + format.mantissaBits);
  return random(count).map((r) => {
    const mantissa = r & ((1n << BigInt(format.mantissaBits)) - 1n);
    const exponent = ((r >> 52n) % (2n * spread)) - spread;
    return ((r >> 63n) << sign) | (one + (exponent << BigInt(format.mantissaBits)) + mantissa);
  });
}
const decodeOne = (f: Format) => BigInt(2 ** (f.exponentBits - 1) - 1) << BigInt(f.mantissaBits);

function casesOf(format: Format, count: number): bigint[][] {
  const all = floats(format);
  const few = all.filter((_, i) => i % 3 === 1);
  const list = count === 3 ? cross(few, few, few) : cross(...Array.from({ length: count }, () => all));
  const r = near(format, 900);
  for (let i = 0; i + count <= r.length; i += count) list.push(r.slice(i, i + count));
  // Terms that nearly cancel, and products just beside the middle between two numbers.
  if (count === 3) {
    for (let i = 0; i + 2 < r.length; i += 2) {
      const [a, b] = [r[i]!, r[i + 1]!];
      const product = encode(format, negate(times(decode(format, a), decode(format, b))), 'rn');
      list.push([a, b, product], [a, b, product + 1n]);
    }
  }
  return list;
}
/** The operands of one case, of which there may be fewer. */
type Given = [bigint, bigint, bigint];
const hex = (v: bigint) => v.toString(16);
const operands = (count: number) => ['%a', '%b', '%c'].slice(0, count).join(', ');

/** Compares one instruction with the exact result; NaN of f64 may have any payload. */
function check(instruction: string, format: Format, cases: bigint[][], expected: (given: Given) => bigint): void {
  const width: Width = format === F64 ? 'b64' : 'b32';
  const count = cases[0]!.length;
  const inputs = Object.fromEntries(['a', 'b', 'c'].slice(0, count).map((name) => [name, width]));
  const { d } = evaluate(`${instruction} %d, ${operands(count)};`, inputs, { d: width }, cases);
  const show = (given: bigint[], result: bigint) =>
    `${instruction} ${given.map(hex)} -> ${format === F64 && decode(F64, result) === 'nan' ? 'nan' : hex(result)}`;
  const wrong = cases.flatMap((given, i) => {
    const [found, wanted] = [show(given, d[i]!), show(given, expected(given as Given))];
    return found === wanted ? [] : [`${found}, not ${wanted.split('-> ')[1]}`];
  });
  expect(wrong.slice(0, 5)).toEqual([]);
}

describe.each(OPERATIONS)('%s', (name, { count, of }) => {
  const apply = (format: Format, mode: Mode, given: bigint[]) => {
    const [a, b, c] = given.map((v) => decode(format, v)) as [Value, Value, Value];
    return encode(format, of(mode, a, b, c), mode);
  };
  test.each(MODES)('.%s.f32', (mode) => {
    check(`${name}.${mode}.f32`, F32, casesOf(F32, count), (given) => apply(F32, mode, given));
  });
  test.each(MODES)('.%s.f64', (mode) => {
    const cases = casesOf(F64, count);
    check(`${name}.${mode}.f64`, F64, cases, (given) => apply(F64, mode, given));
  });
  test.each(['rn', 'rm'] as const)('.%s.ftz.f32 takes and gives no denormal', (mode) => {
    check(`${name}.${mode}.ftz.f32`, F32, casesOf(F32, count), (given) =>
      flush(
        F32,
        apply(
          F32,
          mode,
          given.map((v) => flush(F32, v)),
        ),
      ),
    );
  });
  if (count > 1 && name !== 'div') {
    test('.sat stops at 0 and 1', () => {
      check(`${name}.rn.sat.f32`, F32, casesOf(F32, count), (given) => saturated(apply(F32, 'rn', given)));
      check(`${name}.rz.ftz.sat.f32`, F32, casesOf(F32, count), (given) =>
        saturated(
          flush(
            F32,
            apply(
              F32,
              'rz',
              given.map((v) => flush(F32, v)),
            ),
          ),
        ),
      );
    });
  }
  if (['add', 'sub', 'mul'].includes(name)) {
    test('without a mode rounds to nearest', () => {
      check(`${name}.f32`, F32, casesOf(F32, count), (given) => apply(F32, 'rn', given));
      check(`${name}.f64`, F64, casesOf(F64, count), (given) => apply(F64, 'rn', given));
    });
  }
  if (['add', 'sub', 'mul', 'fma'].includes(name)) {
    test('.f32x2 works on both halves', () => {
      const single = casesOf(F32, count).slice(0, 600);
      const cases = single.map((low, i) => low.map((v, j) => v | (single[(i * 7 + 3) % single.length]![j]! << 32n)));
      for (const [modifiers, mode] of [
        ['rn', 'rn'],
        ['rz', 'rz'],
        ['rp.ftz', 'rp'],
      ] as const) {
        const ftz = modifiers.endsWith('ftz') ? (v: bigint) => flush(F32, v) : (v: bigint) => v;
        const inputs = Object.fromEntries(['a', 'b', 'c'].slice(0, count).map((n) => [n, 'b64' as Width]));
        const { d } = evaluate(`${name}.${modifiers}.f32x2 %d, ${operands(count)};`, inputs, { d: 'b64' }, cases);
        const half = (given: bigint[]) => ftz(apply(F32, mode, given.map(ftz)));
        expect(d.map(hex)).toEqual(
          cases.map((given) =>
            hex(half(given.map((v) => v & 0xffffffffn)) | (half(given.map((v) => v >> 32n)) << 32n)),
          ),
        );
      }
    });
  }
});

describe('approximate division', () => {
  test('div.full and div.approx within 2 units, exact for special values', () => {
    for (const kind of ['full', 'approx', 'full.ftz', 'approx.ftz']) {
      const ftz = kind.endsWith('ftz') ? (v: bigint) => flush(F32, v) : (v: bigint) => v;
      const cases = casesOf(F32, 2).filter(([, b]) => Math.abs(f32Number(b!)) <= 2 ** 126 || kind.startsWith('full'));
      const { d } = evaluate(`div.${kind}.f32 %d, %a, %b;`, { a: 'b32', b: 'b32' }, { d: 'b32' }, cases);
      cases.forEach((given, i) => {
        const [a, b] = given.map((v) => decode(F32, ftz(v))) as [Value, Value];
        const exact = ftz(encode(F32, over(a, b), 'rn'));
        const found = d[i]!;
        const distance = found > exact ? found - exact : exact - found;
        expect(Number(distance), `${kind} ${given.map(hex)} -> ${hex(found)}`).toBeLessThanOrEqual(2);
      });
    }
  });
  test('div.approx by more than 2^126 is zero, of infinity NaN', () => {
    const cases = cross([ONE, 0x7f7fffffn, 0xc0000000n, 0x7f800000n], [0x7e800001n, 0x7f000000n, 0xff7fffffn]);
    const { d } = evaluate('div.approx.f32 %d, %a, %b;', { a: 'b32', b: 'b32' }, { d: 'b32' }, cases);
    expect(d.map((v) => (isNan(v) ? 'nan' : v & 0x7fffffffn))).toEqual(
      cases.map(([a]) => (a === 0x7f800000n ? 'nan' : 0n)),
    );
  });
});

describe('approximate functions', () => {
  // Results of PTX's approximations have errors up to 2^-20; these are to be within 2^-22 of the exact value.
  function compare(instruction: string, inputs: number[], exact: (x: number) => number): void {
    const { d } = evaluate(
      `${instruction} %d, %a;`,
      { a: 'b32' },
      { d: 'b32' },
      inputs.map((x) => [f32Bits(x)]),
    );
    inputs.forEach((given, i) => {
      const x = Math.fround(given);
      const wanted = exact(x);
      const found = f32Number(d[i]!);
      const message = `${instruction} ${x} -> ${found} instead of ${wanted}`;
      if (Number.isNaN(wanted)) expect(d[i], message).toBe(NAN);
      else if (!Number.isFinite(wanted) || wanted === 0) expect(Object.is(found, wanted), message).toBe(true);
      else expect(Math.abs(found - wanted), message).toBeLessThanOrEqual(Math.abs(wanted) * 2 ** -22 + 2 ** -149);
    });
  }
  const ordinary = [0, -0, 1, -1, 0.5, 2, 3.7, -3.7, 10.25, 100, 1e-3, -1e-3, 1e-10, 12345.678, 7e8];
  const special = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];
  const small = [2 ** -126, 2 ** -127, -(2 ** -127), 2 ** -149];

  test('ex2', () => {
    compare('ex2.approx.f32', [...ordinary, ...special, ...small, 127.5, 128, -126, -126.5, -140, -150, -160], (x) =>
      Math.fround(2 ** x),
    );
    const { d } = evaluate(
      'ex2.approx.ftz.f32 %d, %a;',
      { a: 'b32' },
      { d: 'b32' },
      [-126, -126.5, 2 ** -149].map((x) => [f32Bits(x)]),
    );
    expect(d.map(f32Number)).toEqual([2 ** -126, 0, 1]);
  });
  test('lg2', () => {
    compare('lg2.approx.f32', [...ordinary, ...special, ...small, 8, 3e38], (x) =>
      x === 0 ? Number.NEGATIVE_INFINITY : Math.log2(x),
    );
    compare('lg2.approx.ftz.f32', [2 ** -126, 2 ** -127], (x) =>
      x < 2 ** -126 ? Number.NEGATIVE_INFINITY : Math.log2(x),
    );
  });
  test('sin, cos, tanh', () => {
    const angles = ordinary.filter((x) => Math.abs(x) < 1e5);
    compare('sin.approx.f32', [...angles, ...special], Math.sin);
    compare('cos.approx.ftz.f32', [...angles, ...special], Math.cos);
    compare('sin.approx.ftz.f32', [2 ** -127, -(2 ** -127)], (x) => 0 * x);
    compare('tanh.approx.f32', [...ordinary, ...special], Math.tanh);
  });
  test('rsqrt, rcp and sqrt', () => {
    compare('rsqrt.approx.f32', [...ordinary, ...special, ...small], (x) => 1 / Math.sqrt(x));
    compare(
      'rsqrt.approx.ftz.f32',
      [2 ** -127, -(2 ** -127), 4],
      (x) => 1 / (Math.abs(x) < 2 ** -126 ? 0 * x : Math.sqrt(x)),
    );
    compare('rcp.approx.f32', [...ordinary, ...special, 2 ** 127], (x) => 1 / x);
    compare('rcp.approx.ftz.f32', [2 ** -127, -(2 ** -127), 2 ** 127, 4], (x) =>
      Math.abs(x) < 2 ** -126 ? 1 / (0 * x) : Math.abs(x) > 2 ** 126 ? 0 : 1 / x,
    );
    compare('sqrt.approx.f32', [...ordinary, ...special, ...small], Math.sqrt);
    compare('sqrt.approx.ftz.f32', [2 ** -127, -(2 ** -127), 9], (x) =>
      Math.abs(x) < 2 ** -126 ? 0 * x : Math.sqrt(x),
    );
  });
  test('the coarse f64 forms: upper half only', () => {
    const inputs = [1, 3, -7, 0.1, 1e300, 2 ** -1023, 0, Number.POSITIVE_INFINITY];
    const cases = inputs.map((x) => [f64Bits(x)]);
    const { d, e, f } = evaluate(
      'rcp.approx.ftz.f64 %d, %a; rsqrt.approx.ftz.f64 %e, %a; rsqrt.approx.f64 %f, %a;',
      { a: 'b64' },
      { d: 'b64', e: 'b64', f: 'b64' },
      cases,
    );
    const top = (v: number) => (v === 2 ** -1023 ? 0 : v);
    inputs.forEach((x, i) => {
      for (const [found, wanted] of [
        [d[i]!, 1 / top(x)],
        [e[i]!, 1 / Math.sqrt(top(x))],
      ] as const) {
        expect(found & 0xffffffffn).toBe(0n);
        if (Number.isNaN(wanted)) expect(f64Number(found)).toBeNaN();
        else if (!Number.isFinite(wanted) || wanted === 0) expect(f64Number(found)).toBe(wanted);
        else expect(Math.abs(f64Number(found) / wanted - 1)).toBeLessThan(2 ** -18);
      }
      const wanted = 1 / Math.sqrt(x);
      if (Number.isFinite(wanted) && wanted > 0) expect(Math.abs(f64Number(f[i]!) / wanted - 1)).toBeLessThan(2 ** -50);
      else expect(Object.is(f64Number(f[i]!), wanted)).toBe(true);
    });
  });
});

describe('min and max', () => {
  const list = [...floats(F32), 0xffc00001n];
  const cases = cross(list, list);
  // In the order of the numbers -0 is before +0, as ISA says of min and max.
  const key = (v: bigint, sign: bigint) => (v & sign ? -(v & (sign - 1n)) - 1n : v);
  const pick = (max: boolean, a: bigint, b: bigint, sign = 0x80000000n) =>
    key(a, sign) < key(b, sign) === max ? b : a;
  test.each([true, false])('of f32, max: %s', (max) => {
    const name = max ? 'max' : 'min';
    const general = (nan: boolean) => (a: bigint, b: bigint) => {
      if (isNan(a) && isNan(b)) return NAN;
      if (isNan(a) || isNan(b)) return nan ? NAN : isNan(a) ? b : a;
      return pick(max, a, b);
    };
    check(`${name}.f32`, F32, cases, ([a, b]) => general(false)(a, b));
    check(`${name}.NaN.f32`, F32, cases, ([a, b]) => general(true)(a, b));
    check(`${name}.ftz.f32`, F32, cases, ([a, b]) => general(false)(flush(F32, a), flush(F32, b)));
    check(`${name}.ftz.NaN.f32`, F32, cases, ([a, b]) => general(true)(flush(F32, a), flush(F32, b)));
    const numbers = cases.filter((c) => !c.some(isNan));
    check(
      `${name}.xorsign.abs.f32`,
      F32,
      numbers,
      ([a, b]) => pick(max, a & 0x7fffffffn, b & 0x7fffffffn) | ((a ^ b) & 0x80000000n),
    );
    expect(() =>
      check(
        `${name}.NaN.xorsign.abs.f32`,
        F32,
        [
          [NAN, ONE],
          [ONE, NAN],
        ],
        () => NAN,
      ),
    ).not.toThrow();
  });
  test.each([true, false])('of f64, max: %s', (max) => {
    const wide = cross(floats(F64), floats(F64));
    const bad = (v: bigint) => decode(F64, v) === 'nan';
    check(`${max ? 'max' : 'min'}.f64`, F64, wide, ([a, b]) => (bad(a) ? b : bad(b) ? a : pick(max, a, b, 1n << 63n)));
  });
});

describe('signs and tests', () => {
  test('neg, abs, copysign', () => {
    const one = floats(F32).map((a) => [a]);
    check('neg.f32', F32, one, ([a]) => a ^ 0x80000000n);
    check('neg.ftz.f32', F32, one, ([a]) => flush(F32, a) ^ 0x80000000n);
    check('abs.f32', F32, one, ([a]) => a & 0x7fffffffn);
    check('abs.ftz.f32', F32, one, ([a]) => flush(F32, a) & 0x7fffffffn);
    const wide = floats(F64).map((a) => [a]);
    check('neg.f64', F64, wide, ([a]) => a ^ (1n << 63n));
    check('abs.f64', F64, wide, ([a]) => a & ((1n << 63n) - 1n));
    check('copysign.f32', F32, cross(floats(F32), floats(F32)), ([a, b]) => (a & 0x80000000n) | (b & 0x7fffffffn));
    check(
      'copysign.f64',
      F64,
      cross(floats(F64), floats(F64)),
      ([a, b]) => (a & (1n << 63n)) | (b & ((1n << 63n) - 1n)),
    );
  });
  test('testp', () => {
    for (const [type, format, width] of [
      ['f32', F32, 'b32'],
      ['f64', F64, 'b64'],
    ] as const) {
      const list = floats(format);
      const exponent = ((1n << BigInt(format.exponentBits)) - 1n) << BigInt(format.mantissaBits);
      const fraction = (1n << BigInt(format.mantissaBits)) - 1n;
      const kinds: Record<string, (v: bigint) => boolean> = {
        finite: (v) => (v & exponent) !== exponent,
        infinite: (v) => (v & exponent) === exponent && (v & fraction) === 0n,
        number: (v) => (v & exponent) !== exponent || (v & fraction) === 0n,
        notanumber: (v) => (v & exponent) === exponent && (v & fraction) !== 0n,
        normal: (v) => (v & exponent) !== exponent && ((v & exponent) !== 0n || (v & fraction) === 0n),
        subnormal: (v) => (v & exponent) === 0n && (v & fraction) !== 0n,
      };
      for (const [kind, holds] of Object.entries(kinds)) {
        const { p } = evaluate(
          `testp.${kind}.${type} %p, %a;`,
          { a: width },
          { p: 'pred' },
          list.map((v) => [v]),
        );
        expect({ kind, p }).toEqual({ kind, p: list.map((v) => (holds(v) ? 1n : 0n)) });
      }
    }
  });
});

test('the rounding mode of one instruction is not that of the next', () => {
  const third = [f64Bits(1), f64Bits(3)];
  const { d, e } = evaluate(
    'div.rp.f64 %d, %a, %b; div.rn.f64 %e, %a, %b;',
    { a: 'b64', b: 'b64' },
    { d: 'b64', e: 'b64' },
    [third],
  );
  expect(e[0]).toBe(f64Bits(1 / 3));
  expect(d[0]).toBe(f64Bits(1 / 3) + 1n);
});

test.each([
  ['add.rna.f32 %r1, %r2, %r3;', /modifier \.rna/],
  ['add.ftz.f64 %l1, %l2, %l3;', /modifier \.ftz/],
  ['add.sat.f32x2 %l1, %l2, %l3;', /modifier \.sat/],
  ['add.cc.f32 %r1, %r2, %r3;', /modifier \.cc/],
  ['fma.f32 %r1, %r2, %r3, %r4;', /no rounding mode/],
  ['fma.rn.rz.f32 %r1, %r2, %r3, %r4;', /modifier \.rz/],
  ['div.f32 %r1, %r2, %r3;', /one of/],
  ['div.rn.approx.f32 %r1, %r2, %r3;', /one of/],
  ['div.f64 %l1, %l2, %l3;', /type or mode/],
  ['rcp.f32 %r1, %r2;', /one of/],
  ['rcp.approx.f64 %l1, %l2;', /type or mode/],
  ['sqrt.approx.f64 %l1, %l2;', /type or mode/],
  ['rsqrt.f32 %r1, %r2;', /without \.approx/],
  ['ex2.f32 %r1, %r2;', /without \.approx/],
  ['ex2.approx.f64 %l1, %l2;', /unknown form/],
  ['tanh.approx.ftz.f32 %r1, %r2;', /modifier \.ftz/],
  ['min.xorsign.f32 %r1, %r2, %r3;', /without \.abs/],
  ['min.NaN.f64 %l1, %l2, %l3;', /modifier \.NaN/],
  ['testp.zero.f32 %p1, %r2;', /type or mode/],
  ['copysign.f16 %h1, %h2, %h3;', /type or mode/],
])('%s is refused', (body, why) => {
  expect(() => load(body)).toThrow(why);
});
