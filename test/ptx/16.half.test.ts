// f16, bf16 and their pairs against exact arithmetic rounded once.
import { describe, expect, test } from 'vitest';
import { cross, evaluate, load, type Width } from './support/evaluate';
import {
  BF16,
  decode,
  encode,
  F16,
  F64,
  type Format,
  f64Bits,
  f64Number,
  floats,
  flush,
  negate,
  plus,
  times,
  type Value,
} from './support/exact';

const FORMATS: [string, Format][] = [
  ['f16', F16],
  ['bf16', BF16],
];
/** The operands of one case, of which there may be fewer. */
type Given = [bigint, bigint, bigint];
const hex = (v: bigint) => v.toString(16);
const NAN = 0x7fffn;
const isNan = (format: Format, v: bigint) => decode(format, v) === 'nan';

function random(count: number): bigint[] {
  let state = 987654321n;
  return Array.from({ length: count }, () => {
    state = BigInt.asUintN(64, state * 6364136223846793005n + 1442695040888963407n);
    return (state >> 33n) & 0xffffn;
  });
}
/** Special values in all combinations, then arbitrary ones, then third operands beside the product. */
function casesOf(format: Format, count: number): bigint[][] {
  const all = floats(format);
  const list = cross(...Array.from({ length: count }, () => (count === 3 ? all.filter((_, i) => i % 3 !== 2) : all)));
  const r = random(1500);
  for (let i = 0; i + count <= r.length; i += count) list.push(r.slice(i, i + count));
  if (count === 3) {
    for (let i = 0; i + 1 < r.length; i += 2) {
      const [a, b] = [r[i]!, r[i + 1]!];
      const product = encode(format, negate(times(decode(format, a), decode(format, b))), 'rn');
      list.push([a, b, product], [a, b, product & 0x83ffn]);
    }
  }
  return list;
}

/** Runs an instruction on single numbers and, with x2, on pairs of different cases. */
function check(name: string, type: string, cases: bigint[][], expected: (given: Given) => bigint): void {
  const count = cases[0]!.length;
  const names = ['a', 'b', 'c'].slice(0, count);
  const operands = names.map((n) => `%${n}`).join(', ');
  const inputs = (width: Width) => Object.fromEntries(names.map((n) => [n, width]));
  const wanted = cases.map((given) => expected(given as Given));
  const report = (found: bigint[], exact: bigint[]) =>
    found.flatMap((v, i) =>
      v === exact[i] ? [] : [`${name} ${cases[i]!.map(hex)} -> ${hex(v)}, not ${hex(exact[i]!)}`],
    );
  const single = evaluate(`${name}.${type} %d, ${operands};`, inputs('b16'), { d: 'b16' }, cases);
  expect(report(single.d, wanted).slice(0, 5)).toEqual([]);
  const other = (i: number) => (i * 13 + 5) % cases.length;
  const pairs = cases.map((given, i) => given.map((v, j) => v | (cases[other(i)]![j]! << 16n)));
  const double = evaluate(`${name}.${type}x2 %d, ${operands};`, inputs('b32'), { d: 'b32' }, pairs);
  expect(
    report(
      double.d,
      wanted.map((v, i) => v | (wanted[other(i)]! << 16n)),
    ).slice(0, 5),
  ).toEqual([]);
}

type Operation = (a: Value, b: Value, c: Value) => Value;
const OPERATIONS: [string, { count: number; of: Operation }][] = Object.entries({
  add: { count: 2, of: (a, b) => plus(a, b, 'rn') },
  sub: { count: 2, of: (a, b) => plus(a, negate(b), 'rn') },
  mul: { count: 2, of: times },
  fma: { count: 3, of: (a, b, c) => plus(times(a, b), c, 'rn') },
});

describe.each(OPERATIONS)('%s', (name, { count, of }) => {
  const apply = (format: Format) => (given: bigint[]) => {
    const [a, b, c] = given.map((v) => decode(format, v)) as [Value, Value, Value];
    return encode(format, of(a, b, c), 'rn');
  };
  test.each(FORMATS)('.rn.%s', (type, format) => {
    check(`${name}.rn`, type, casesOf(format, count), apply(format));
  });
  if (name !== 'fma') {
    test.each(FORMATS)('without a mode, %s', (type, format) => {
      check(name, type, casesOf(format, count), apply(format));
    });
  }
  test('.ftz.f16', () => {
    check(`${name}.rn.ftz`, 'f16', casesOf(F16, count), (given) =>
      flush(F16, apply(F16)(given.map((v) => flush(F16, v)))),
    );
  });
  const saturated = (v: bigint) => (v >= 0x8000n || isNan(F16, v) ? 0n : v > 0x3c00n ? 0x3c00n : v);
  test('.sat.f16', () => {
    check(`${name}.rn.sat`, 'f16', casesOf(F16, count), (given) => saturated(apply(F16)(given)));
    check(`${name}.rn.ftz.sat`, 'f16', casesOf(F16, count), (given) =>
      saturated(flush(F16, apply(F16)(given.map((v) => flush(F16, v))))),
    );
  });
  if (name === 'fma') {
    test.each(FORMATS)('.relu.%s: below zero is zero, NaN stays', (type, format) => {
      check('fma.rn.relu', type, casesOf(format, 3), (given) => {
        const v = apply(format)(given);
        return v >= 0x8000n ? 0n : v;
      });
    });
  }
});

test('fma rounds once where a product and a sum would round twice', () => {
  // 1 + 2^-10 squared is 1 + 2^-9 + 2^-20; less 1 + 2^-9 only the last term is left.
  const { d } = evaluate('fma.rn.f16 %d, %a, %a, %b;', { a: 'b16', b: 'b16' }, { d: 'b16' }, [[0x3c01n, 0xbc02n]]);
  expect(d).toEqual([0x0010n]);
});

describe.each(FORMATS)('%s', (type, format) => {
  const list = [...floats(format), 0xff81n];
  test('neg and abs', () => {
    const one = list.map((a) => [a]);
    check('neg', type, one, ([a]) => a ^ 0x8000n);
    check('abs', type, one, ([a]) => a & 0x7fffn);
    if (format === F16) {
      check('neg.ftz', type, one, ([a]) => flush(F16, a) ^ 0x8000n);
      check('abs.ftz', type, one, ([a]) => flush(F16, a) & 0x7fffn);
    }
  });
  test.each(['min', 'max'])('%s', (name) => {
    const cases = cross(list, list);
    const key = (v: bigint) => (v & 0x8000n ? -(v & 0x7fffn) - 1n : v);
    const pick = (a: bigint, b: bigint) => (key(a) < key(b) === (name === 'max') ? b : a);
    const general = (nan: boolean, a: bigint, b: bigint) => {
      const [x, y] = [isNan(format, a), isNan(format, b)];
      if ((x && y) || (nan && (x || y))) return NAN;
      return x ? b : y ? a : pick(a, b);
    };
    check(name, type, cases, ([a, b]) => general(false, a, b));
    check(`${name}.NaN`, type, cases, ([a, b]) => general(true, a, b));
    const numbers = cases.filter((c) => !c.some((v) => isNan(format, v)));
    check(`${name}.xorsign.abs`, type, numbers, ([a, b]) => pick(a & 0x7fffn, b & 0x7fffn) | ((a ^ b) & 0x8000n));
    check(`${name}.NaN.xorsign.abs`, type, cases, ([a, b]) => {
      const picked = general(true, a & 0x7fffn, b & 0x7fffn);
      return picked === NAN ? NAN : picked | ((a ^ b) & 0x8000n);
    });
    if (format === F16) {
      check(`${name}.ftz.NaN`, type, cases, ([a, b]) => general(true, flush(F16, a), flush(F16, b)));
    }
  });
  const all = Array.from({ length: 2048 }, (_, i) => [BigInt(i * 32 + 7)]);
  const number = (v: bigint) => {
    const value = decode(format, v);
    return typeof value === 'string'
      ? { nan: Number.NaN, inf: Number.POSITIVE_INFINITY, '-inf': Number.NEGATIVE_INFINITY }[value]
      : f64Number(encode(F64, value, 'rn'));
  };
  const nearest = (v: number) => encode(format, Number.isNaN(v) ? 'nan' : decode(F64, f64Bits(v)), 'rn');
  test('ex2', () => {
    const ftz = format === BF16;
    const zero = (v: bigint) => (ftz ? flush(BF16, v) : v);
    check(ftz ? 'ex2.approx.ftz' : 'ex2.approx', type, [...all, ...list.map((v) => [v])], ([a]) =>
      zero(nearest(2 ** number(zero(a)))),
    );
  });
  test('tanh', () => {
    check('tanh.approx', type, [...all, ...list.map((v) => [v])], ([a]) => nearest(Math.tanh(number(a))));
  });
});

test.each([
  ['add.rz.f16 %h1, %h2, %h3;', /modifier \.rz/],
  ['add.sat.bf16 %h1, %h2, %h3;', /modifier \.sat/],
  ['add.ftz.bf16x2 %r1, %r2, %r3;', /modifier \.ftz/],
  ['add.relu.f16 %h1, %h2, %h3;', /modifier \.relu/],
  ['fma.f16 %h1, %h2, %h3, %h4;', /no rounding mode/],
  ['fma.rn.sat.relu.f16 %h1, %h2, %h3, %h4;', /modifier \.relu/],
  ['fma.rn.oob.f16 %h1, %h2, %h3, %h4;', /modifier \.oob/],
  ['min.xorsign.f16 %h1, %h2, %h3;', /without \.abs/],
  ['ex2.approx.bf16 %h1, %h2;', /\.ftz is for bf16/],
  ['ex2.approx.ftz.f16 %h1, %h2;', /\.ftz is for bf16/],
  ['tanh.f16 %h1, %h2;', /without \.approx/],
  ['div.f16 %h1, %h2, %h3;', /unknown form/],
  ['sqrt.rn.f16 %h1, %h2;', /type or mode/],
])('%s is refused', (body, why) => {
  expect(() => load(body)).toThrow(why);
});
