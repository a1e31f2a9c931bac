// Logic, shifts, permutation, comparison, selection and moves, against the words of the PTX ISA.
import { describe, expect, test } from 'vitest';
import { cross, edges, evaluate, load, signed, unsigned, type Width } from './support/evaluate';
import { BF16, decode, type Exact, F16, F32, F64, type Format, floats, flush, type Value } from './support/exact';

type Bits = 16 | 32 | 64;
type Pair = [bigint, bigint];
const SIZES: Bits[] = [16, 32, 64];
const w = (bits: number) => `b${bits}` as Width;
const hex = (list: bigint[]) => list.map((v) => v.toString(16));

function check(
  body: string,
  sources: number[],
  bits: number,
  cases: bigint[][],
  expected: (...operands: bigint[]) => bigint,
): void {
  const inputs = Object.fromEntries(sources.map((source, i) => ['abcf'[i], w(source)]));
  const { d } = evaluate(body, inputs, { d: w(bits) }, cases);
  expect(cases.map((operands, i) => `${hex(operands)} -> ${d[i]!.toString(16)}`)).toEqual(
    cases.map((operands) => `${hex(operands)} -> ${unsigned(bits, expected(...operands)).toString(16)}`),
  );
}

const PREDICATES = cross([0n, 1n], [0n, 1n]);

describe('logic', () => {
  test('and, or, xor, not, cnot of bits', () => {
    for (const bits of SIZES) {
      const two = cross(edges(bits), edges(bits));
      const one = edges(bits).map((a) => [a]);
      check(`and.b${bits} %d, %a, %b;`, [bits, bits], bits, two, (a, b) => a & b);
      check(`or.b${bits} %d, %a, %b;`, [bits, bits], bits, two, (a, b) => a | b);
      check(`xor.b${bits} %d, %a, %b;`, [bits, bits], bits, two, (a, b) => a ^ b);
      check(`not.b${bits} %d, %a;`, [bits], bits, one, (a) => ~a);
      check(`cnot.b${bits} %d, %a;`, [bits], bits, one, (a) => (a === 0n ? 1n : 0n));
    }
  });
  test('and, or, xor, not and mov of predicates, negated ones too', () => {
    const { d, e, f, g, h } = evaluate(
      'and.pred %d, %a, !%b; or.pred %e, %a, %b; xor.pred %f, %a, %b; not.pred %g, %a; mov.pred %h, %b;',
      { a: 'pred', b: 'pred' },
      { d: 'pred', e: 'pred', f: 'pred', g: 'pred', h: 'pred' },
      PREDICATES,
    );
    expect(d).toEqual([0n, 0n, 1n, 0n]);
    expect(e).toEqual([0n, 1n, 1n, 1n]);
    expect(f).toEqual([0n, 1n, 1n, 0n]);
    expect(g).toEqual([1n, 1n, 0n, 0n]);
    expect(h).toEqual([0n, 1n, 0n, 1n]);
  });
  test('a predicate is written in guarded lanes only; mov.pred takes constants', () => {
    const { d, e } = evaluate(
      '@%a not.pred %d, %d; @!%a mov.pred %e, 0; @%a mov.pred %e, 1;',
      { a: 'pred', d: 'pred', e: 'pred' },
      { d: 'pred', e: 'pred' },
      cross([0n, 1n], [0n, 1n], [0n, 1n]),
    );
    expect(d).toEqual([0n, 0n, 1n, 1n, 1n, 1n, 0n, 0n]);
    expect(e).toEqual([0n, 0n, 0n, 0n, 1n, 1n, 1n, 1n]);
  });
  test('lop3 with every kind of table', () => {
    // The ISA: the table is the function applied to these three.
    const [ta, tb, tc] = [0xf0n, 0xccn, 0xaan];
    const functions: ((a: bigint, b: bigint, c: bigint) => bigint)[] = [
      (a, b, c) => (a & b) | c,
      (a, b, c) => a ^ b ^ c,
      (a, b, c) => (a & b & ~c) | (~a & c),
      (a) => ~a,
      () => 0n,
      () => -1n,
    ];
    for (const f of functions) {
      const table = unsigned(8, f(ta, tb, tc));
      const cases = cross(edges(32), edges(32).slice(5), edges(32).slice(8));
      check(`lop3.b32 %d, %a, %b, %c, ${table};`, [32, 32, 32], 32, cases, f);
    }
  });
  test('lop3 with a predicate', () => {
    const cases = cross([0n, 5n], [0n, 4n], [0n, 1n]);
    const { d, p, q, e } = evaluate(
      `lop3.or.b32 %d|%p, %a, %b, 0, 0xc0, %c; lop3.and.b32 %e|%q, %a, %b, 0, 0xc0, !%c;
       lop3.and.b32 _|%q, %a, %b, 0, 0xc0, !%c;`,
      { a: 'b32', b: 'b32', c: 'pred' },
      { d: 'b32', e: 'b32', p: 'pred', q: 'pred' },
      cases,
    );
    expect(d).toEqual(cases.map(([a, b]) => a & b));
    expect(e).toEqual(d);
    expect(p).toEqual(cases.map(([a, b, c]) => ((a & b) !== 0n || c === 1n ? 1n : 0n)));
    expect(q).toEqual(cases.map(([a, b, c]) => ((a & b) !== 0n && c === 0n ? 1n : 0n)));
  });
});

describe('shifts and bytes', () => {
  const amounts = [0n, 1n, 7n, 15n, 16n, 17n, 31n, 32n, 33n, 63n, 64n, 65n, 0x80000000n, 0xffffffffn];
  const least = (a: bigint, b: number) => (a < BigInt(b) ? a : BigInt(b));

  test('shl and shr clamp the amount', () => {
    for (const bits of SIZES) {
      const cases = cross(edges(bits), amounts);
      check(`shl.b${bits} %d, %a, %b;`, [bits, 32], bits, cases, (a, b) => a << least(b, bits));
      check(`shr.b${bits} %d, %a, %b;`, [bits, 32], bits, cases, (a, b) => a >> least(b, bits));
      check(`shr.u${bits} %d, %a, %b;`, [bits, 32], bits, cases, (a, b) => a >> least(b, bits));
      check(`shr.s${bits} %d, %a, %b;`, [bits, 32], bits, cases, (a, b) => signed(bits, a) >> least(b, bits));
    }
  });
  test('shf', () => {
    const cases = cross(edges(32).slice(5), edges(32).slice(5), amounts);
    const both = (a: bigint, b: bigint) => (b << 32n) | a;
    const inputs = [32, 32, 32];
    check('shf.l.wrap.b32 %d, %a, %b, %c;', inputs, 32, cases, (a, b, c) => (both(a, b) << (c & 31n)) >> 32n);
    check('shf.r.wrap.b32 %d, %a, %b, %c;', inputs, 32, cases, (a, b, c) => both(a, b) >> (c & 31n));
    check('shf.l.clamp.b32 %d, %a, %b, %c;', inputs, 32, cases, (a, b, c) => (both(a, b) << least(c, 32)) >> 32n);
    check('shf.r.clamp.b32 %d, %a, %b, %c;', inputs, 32, cases, (a, b, c) => both(a, b) >> least(c, 32));
  });

  const bytes = (a: bigint, b: bigint, chosen: number[]) => {
    // chosen: byte numbers, most significant first; with 8 added, the sign of that byte
    const all = (b << 32n) | a;
    return chosen.reduce((d, n) => {
      const byte = (all >> BigInt(8 * (n & 7))) & 0xffn;
      return (d << 8n) | (n & 8 ? (byte & 0x80n ? 0xffn : 0n) : byte);
    }, 0n);
  };
  const sources = cross([0x83827180n, 0x12345678n], [0x07f6e584n]);
  test('prmt', () => {
    const selectors = [0x3210n, 0x7654n, 0x0000n, 0x5410n, 0x7632n, 0xfedcn, 0xba98n, 0x8f07n, 0xdeadbeefn];
    const cases = cross(sources, selectors).map(([[a, b], c]) => [a, b, c]) as bigint[][];
    check('prmt.b32 %d, %a, %b, %c;', [32, 32, 32], 32, cases, (a, b, c) =>
      bytes(
        a,
        b,
        [12n, 8n, 4n, 0n].map((shift) => Number((c >> shift) & 15n)),
      ),
    );
  });
  test.each([
    [
      'f4e',
      [
        [3, 2, 1, 0],
        [4, 3, 2, 1],
        [5, 4, 3, 2],
        [6, 5, 4, 3],
      ],
    ],
    [
      'b4e',
      [
        [5, 6, 7, 0],
        [6, 7, 0, 1],
        [7, 0, 1, 2],
        [0, 1, 2, 3],
      ],
    ],
    [
      'rc8',
      [
        [0, 0, 0, 0],
        [1, 1, 1, 1],
        [2, 2, 2, 2],
        [3, 3, 3, 3],
      ],
    ],
    [
      'ecl',
      [
        [3, 2, 1, 0],
        [3, 2, 1, 1],
        [3, 2, 2, 2],
        [3, 3, 3, 3],
      ],
    ],
    [
      'ecr',
      [
        [0, 0, 0, 0],
        [1, 1, 1, 0],
        [2, 2, 1, 0],
        [3, 2, 1, 0],
      ],
    ],
    [
      'rc16',
      [
        [1, 0, 1, 0],
        [3, 2, 3, 2],
        [1, 0, 1, 0],
        [3, 2, 3, 2],
      ],
    ],
  ])('prmt.%s, the table of the ISA', (mode, table) => {
    const cases = sources.flatMap(([a, b]) => [0n, 1n, 2n, 3n, 5n, 0xfffffffen].map((c) => [a, b, c]));
    check(`prmt.b32.${mode} %d, %a, %b, %c;`, [32, 32, 32], 32, cases, (a, b, c) =>
      bytes(a, b, table[Number(c & 3n)]!),
    );
  });
});

// The order of two values: -1, 0, 1, or null when one is NaN.
function order(a: Value, b: Value): number | null {
  if (a === 'nan' || b === 'nan') return null;
  const rank = (v: Value) => (v === 'inf' ? 1 : v === '-inf' ? -1 : 0);
  if (rank(a) !== 0 || rank(b) !== 0) return Math.sign(rank(a) - rank(b));
  const number = (v: Exact) => (v.negative ? -v.mantissa : v.mantissa) << BigInt(v.exponent + 1200);
  const difference = number(a as Exact) - number(b as Exact);
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}
const ORDERED = {
  eq: (o: number) => o === 0,
  ne: (o: number) => o !== 0,
  lt: (o: number) => o < 0,
  le: (o: number) => o <= 0,
  gt: (o: number) => o > 0,
  ge: (o: number) => o >= 0,
};
type Ordered = keyof typeof ORDERED;
const NAMES = Object.keys(ORDERED) as Ordered[];
const holds = (name: string, o: number | null): boolean => {
  if (name === 'num') return o !== null;
  if (name === 'nan') return o === null;
  if (name in ORDERED) return o !== null && ORDERED[name as Ordered](o);
  return o === null || ORDERED[name.slice(0, 2) as Ordered](o);
};
const FLOAT_COMPARISONS = [...NAMES, ...NAMES.map((n) => `${n}u`), 'num', 'nan'];
const bit = (v: boolean) => (v ? 1n : 0n);

describe('setp', () => {
  const name = (i: number) => `p${i}`;
  /** All comparisons at once, each into a predicate of its own. */
  function compareAll(comparisons: string[], type: string, width: Width, cases: bigint[][]): bigint[][] {
    const outputs = Object.fromEntries(comparisons.map((_, i) => [name(i), 'pred' as Width]));
    const body = comparisons.map((c, i) => `setp.${c}.${type} %${name(i)}, %a, %b;`).join('\n');
    const result = evaluate(body, { a: width, b: width }, outputs, cases);
    return comparisons.map((_, i) => result[name(i)]!);
  }

  test('of integers', () => {
    for (const bits of SIZES) {
      const cases = cross(edges(bits), edges(bits));
      for (const [letter, extend] of [
        ['u', unsigned],
        ['s', signed],
      ] as const) {
        const results = compareAll(NAMES, `${letter}${bits}`, w(bits), cases);
        NAMES.forEach((n, i) => {
          expect(results[i]).toEqual(
            cases.map(([a, b]) =>
              bit(ORDERED[n](Number(extend(bits, a) > extend(bits, b)) - Number(extend(bits, a) < extend(bits, b)))),
            ),
          );
        });
      }
      const lower = compareAll(['lo', 'ls', 'hi', 'hs'], `u${bits}`, w(bits), cases);
      expect(lower).toEqual(compareAll(['lt', 'le', 'gt', 'ge'], `u${bits}`, w(bits), cases));
      const equal = compareAll(['eq', 'ne'], `b${bits}`, w(bits), cases);
      expect(equal).toEqual([cases.map(([a, b]) => bit(a === b)), cases.map(([a, b]) => bit(a !== b))]);
    }
  });

  test.each([
    ['f32', F32, 'b32', false],
    ['ftz.f32', F32, 'b32', true],
    ['f64', F64, 'b64', false],
    ['f16', F16, 'b16', false],
    ['ftz.f16', F16, 'b16', true],
    ['bf16', BF16, 'b16', false],
  ] as [string, Format, Width, boolean][])('of %s, ordered and unordered', (type, format, width, ftz) => {
    const list = floats(format).filter((_, i) => i % 2 === 0 || i < 4);
    const cases = cross(list, list);
    const read = (v: bigint) => decode(format, ftz ? flush(format, v) : v);
    const results = compareAll(FLOAT_COMPARISONS, type, width, cases);
    FLOAT_COMPARISONS.forEach((n, i) => {
      expect({ n, found: results[i] }).toEqual({
        n,
        found: cases.map(([a, b]) => bit(holds(n, order(read(a), read(b))))),
      });
    });
  });

  test('of packed halves: the second predicate is that of the upper ones', () => {
    for (const [type, format] of [
      ['f16x2', F16],
      ['bf16x2', BF16],
    ] as const) {
      const list = floats(format).filter((_, i) => i % 3 === 0);
      const cases = cross(list, list).map(([a, b]): Pair => [(b << 16n) | a, (a << 16n) | (a ^ 1n)]);
      const { p, q, r, s } = evaluate(
        `setp.lt.${type} %p|%q, %a, %b; setp.neu.and.${type} %r|%s, %a, %b, %c;`,
        { a: 'b32', b: 'b32', c: 'pred' },
        { p: 'pred', q: 'pred', r: 'pred', s: 'pred' },
        cases.map(([a, b], i) => [a, b, BigInt(i % 2)]),
      );
      const low = (n: string, [a, b]: Pair) =>
        holds(n, order(decode(format, a & 0xffffn), decode(format, b & 0xffffn)));
      const high = (n: string, [a, b]: Pair) => holds(n, order(decode(format, a >> 16n), decode(format, b >> 16n)));
      expect(p).toEqual(cases.map((c) => bit(low('lt', c))));
      expect(q).toEqual(cases.map((c) => bit(high('lt', c))));
      expect(r).toEqual(cases.map((c, i) => bit(low('neu', c) && i % 2 === 1)));
      expect(s).toEqual(cases.map((c, i) => bit(high('neu', c) && i % 2 === 1)));
    }
  });

  test('combined with a predicate; the second destination has the opposite comparison', () => {
    const cases = cross([1n, 2n], [1n, 2n], [0n, 1n]);
    const combine = {
      and: (x: boolean, c: boolean) => x && c,
      or: (x: boolean, c: boolean) => x || c,
      xor: (x: boolean, c: boolean) => x !== c,
    };
    for (const [name, f] of Object.entries(combine)) {
      const { p, q, r } = evaluate(
        `setp.lt.${name}.s32 %p|%q, %a, %b, %c; setp.lt.${name}.s32 %r, %a, %b, !%c;`,
        { a: 'b32', b: 'b32', c: 'pred' },
        { p: 'pred', q: 'pred', r: 'pred' },
        cases,
      );
      expect(p).toEqual(cases.map(([a, b, c]) => bit(f(a < b, c === 1n))));
      expect(q).toEqual(cases.map(([a, b, c]) => bit(f(!(a < b), c === 1n))));
      expect(r).toEqual(cases.map(([a, b, c]) => bit(f(a < b, c === 0n))));
    }
  });
  test('a sink in place of either destination', () => {
    const { p, q } = evaluate(
      'setp.lt.s32 %p|_, %a, 5; setp.lt.s32 _|%q, %a, 5;',
      { a: 'b32' },
      { p: 'pred', q: 'pred' },
      [[4n], [5n]],
    );
    expect([p, q]).toEqual([
      [1n, 0n],
      [0n, 1n],
    ]);
  });
});

describe('set, selp and slct', () => {
  test('set writes all ones or 1.0', () => {
    const cases = cross([1n, 2n], [1n, 2n], [0n, 1n]);
    const { d, e, f, g } = evaluate(
      `set.lt.u32.s32 %d, %a, %b; set.lt.f32.u32 %e, %a, %b; set.lt.and.s32.u32 %f, %a, %b, %c;
       set.ge.xor.f32.f32 %g, %a, %b, !%c;`,
      { a: 'b32', b: 'b32', c: 'pred' },
      { d: 'b32', e: 'b32', f: 'b32', g: 'b32' },
      cases,
    );
    expect(d).toEqual(cases.map(([a, b]) => (a < b ? 0xffffffffn : 0n)));
    expect(e).toEqual(cases.map(([a, b]) => (a < b ? 0x3f800000n : 0n)));
    expect(f).toEqual(cases.map(([a, b, c]) => (a < b && c === 1n ? 0xffffffffn : 0n)));
    expect(g).toEqual(cases.map(([a, b, c]) => (a >= b !== (c === 0n) ? 0x3f800000n : 0n)));
  });
  test('set of f16, bf16 and their pairs', () => {
    const list = [0n, 0x3c00n, 0xbc00n, 0x7e00n];
    const cases = cross(list, list, list, list).map(([a, b, c, d]): Pair => [a | (b << 16n), c | (d << 16n)]);
    const less = (a: bigint, b: bigint) => holds('lt', order(decode(F16, a), decode(F16, b)));
    const { d, e, f, g } = evaluate(
      `.reg .b16 %x<3>; mov.b32 {%x0, _}, %a; mov.b32 {%x1, _}, %b;
       set.lt.f16x2.f16x2 %d, %a, %b; set.lt.u32.f16x2 %e, %a, %b; set.lt.f16.f16 %f, %x0, %x1; set.lt.u16.f16 %g, %x0, %x1;`,
      { a: 'b32', b: 'b32' },
      { d: 'b32', e: 'b32', f: 'b16', g: 'b16' },
      cases,
    );
    const pair = (yes: bigint, [a, b]: Pair) =>
      (less(a & 0xffffn, b & 0xffffn) ? yes : 0n) | (less(a >> 16n, b >> 16n) ? yes << 16n : 0n);
    expect(d).toEqual(cases.map((c) => pair(0x3c00n, c)));
    expect(e).toEqual(cases.map((c) => pair(0xffffn, c)));
    expect(f).toEqual(cases.map((c) => pair(0x3c00n, c) & 0xffffn));
    expect(g).toEqual(cases.map((c) => pair(0xffffn, c) & 0xffffn));
    const bf = evaluate('set.gt.bf16x2.bf16x2 %d, %a, %b;', { a: 'b32', b: 'b32' }, { d: 'b32' }, [
      [0x3f803f80n, 0x40003f00n],
      [0x7fc0bf80n, 0x00000000n],
    ]);
    expect(hex(bf.d)).toEqual(['3f80', '0']);
  });
  test('selp of every size', () => {
    for (const bits of SIZES) {
      const types = [`b${bits}`, `u${bits}`, `s${bits}`, ...(bits === 16 ? [] : [`f${bits}`])];
      const cases = cross([edges(bits)[9]!], [edges(bits)[7]!], [0n, 1n]);
      for (const type of types) {
        const { d, e } = evaluate(
          `selp.${type} %d, %a, %b, %c; selp.${type} %e, %a, %b, !%c;`,
          { a: w(bits), b: w(bits), c: 'pred' },
          { d: w(bits), e: w(bits) },
          cases,
        );
        expect([d, e]).toEqual([cases.map(([a, b, c]) => (c ? a : b)), cases.map(([a, b, c]) => (c ? b : a))]);
      }
    }
    const { d } = evaluate('selp.s32 %d, -1, 7, %a;', { a: 'pred' }, { d: 'b32' }, [[0n], [1n]]);
    expect(d).toEqual([7n, 0xffffffffn]);
  });
  test('slct: by the sign, where -0 is not negative and NaN is', () => {
    const controls = [
      0n,
      1n,
      0x7fffffffn,
      0x80000000n,
      0x80000001n,
      0xffffffffn,
      0x7fc00000n,
      0xbf800000n,
      0x3f800000n,
    ];
    const cases = controls.map((c) => [c]);
    const { d, e, f, g } = evaluate(
      'slct.u32.s32 %d, 1, 2, %c; slct.b32.f32 %e, 1, 2, %c; slct.ftz.s64.f32 %f, 1, 2, %c; slct.u16.s32 %g, 1, 2, %c;',
      { c: 'b32' },
      { d: 'b32', e: 'b32', f: 'b64', g: 'b16' },
      cases,
    );
    const first = (yes: (c: bigint) => boolean) => controls.map((c) => (yes(c) ? 1n : 2n));
    const isNan = (c: bigint) => (c & 0x7fffffffn) > 0x7f800000n;
    expect(d).toEqual(first((c) => signed(32, c) >= 0n));
    expect(g).toEqual(d);
    expect(e).toEqual(first((c) => !isNan(c) && (c < 0x80000000n || c === 0x80000000n)));
    expect(f).toEqual(first((c) => !isNan(c) && (c < 0x80000000n || flush(F32, c) === 0x80000000n)));
  });
});

describe('mov', () => {
  test('of every type, and of constants', () => {
    for (const bits of SIZES) {
      const types = [`b${bits}`, `u${bits}`, `s${bits}`, ...(bits === 16 ? [] : [`f${bits}`])];
      for (const type of types)
        check(
          `mov.${type} %d, %a;`,
          [bits],
          bits,
          edges(bits).map((a) => [a]),
          (a) => a,
        );
      check(`mov.s${bits} %d, -2;`, [], bits, [[]], () => -2n);
    }
    check('mov.f32 %d, 0f3FC00000;', [], 32, [[]], () => 0x3fc00000n);
    check('mov.f32 %d, -1.5;', [], 32, [[]], () => 0xbfc00000n);
    check('mov.f64 %d, 0dBFF0000000000000;', [], 64, [[]], () => 0xbff0000000000000n);
  });
  test('a negative constant of 32 bits does not reach beyond them', () => {
    check('.reg .b32 %x; mov.s32 %x, -1; mov.b64 %d, {%x, 0};', [], 64, [[]], () => 0xffffffffn);
    check('mov.b64 %d, {-1, 5};', [], 64, [[]], () => 0x5ffffffffn);
    check('.reg .b32 %x; mov.s32 %x, -1; cvt.u64.u32 %d, %x;', [], 64, [[]], () => 0xffffffffn);
  });
  test('packing: the first element is the lowest', () => {
    const h = [0x1111n, 0x8222n, 0xf333n, 0x4444n];
    check('mov.b32 %d, {%a, %b};', [16, 16], 32, [h.slice(0, 2)], () => 0x82221111n);
    check('mov.b64 %d, {%a, %b};', [32, 32], 64, [[0x9abcdef0n, 0x81234567n]], () => 0x812345679abcdef0n);
    check('mov.b64 %d, {%a, %b, %c, %f};', [16, 16, 16, 16], 64, [h], () => 0x4444f33382221111n);
  });
  test('unpacking, with elements left out', () => {
    const { d, e } = evaluate('mov.b32 {%d, %e}, %a;', { a: 'b32' }, { d: 'b16', e: 'b16' }, [[0x82221111n]]);
    expect([d, e]).toEqual([[0x1111n], [0x8222n]]);
    const two = evaluate('mov.b64 {_, %e}, %a;', { a: 'b64' }, { e: 'b32' }, [[0x812345679abcdef0n]]);
    expect(two.e).toEqual([0x81234567n]);
    const four = evaluate('mov.b64 {%d, _, %e, %f}, %a;', { a: 'b64' }, { d: 'b16', e: 'b16', f: 'b16' }, [
      [0x4444f33382221111n],
    ]);
    expect([four.d, four.e, four.f]).toEqual([[0x1111n], [0xf333n], [0x4444n]]);
  });
  test('packing a register with itself, in guarded lanes only', () => {
    const cases = cross([0x12345678n], [0n, 1n]);
    const { d } = evaluate(
      '.reg .b16 %x, %y; mov.b32 %d, %a; mov.b32 {%x, %y}, %d; @%p mov.b32 %d, {%y, %x};',
      { a: 'b32', p: 'pred' },
      { d: 'b32' },
      cases,
    );
    expect(d).toEqual([0x12345678n, 0x56781234n]);
  });
  test('special registers are sources', () => {
    const { d } = evaluate(
      'mov.u32 %d, %laneid;',
      {},
      { d: 'b32' },
      Array.from({ length: 40 }, () => []),
    );
    expect(d).toEqual(Array.from({ length: 40 }, (_, i) => BigInt(i % 32)));
  });
});

describe('addresses', () => {
  test('isspacep, cvta and cvta.to', () => {
    const outputs = { g: 'pred', s: 'pred', l: 'pred', c: 'pred', back: 'pred', lback: 'pred' } as const;
    const result = evaluate(
      `.shared .align 8 .b8 buffer[64]; .local .align 8 .b8 own[16]; .reg .b64 %x<9>; .reg .pred %t;
       mov.u64 %x0, buffer; cvta.shared.u64 %x1, %x0; isspacep.shared %s, %x1; isspacep.shared::cta %c, %x1;
       cvta.to.shared.u64 %x2, %x1; setp.eq.u64 %back, %x2, %x0;
       mov.u64 %x3, own; cvta.local.u64 %x4, %x3; isspacep.local %l, %x4;
       cvta.to.local.u64 %x5, %x4; setp.eq.u64 %lback, %x5, %x3;
       cvta.to.global.u64 %x6, %in_0; cvta.global.u64 %x7, %x6; isspacep.global %g, %x7;
       isspacep.global %t, %x1; not.pred %t, %t; and.pred %s, %s, %t;
       isspacep.shared %t, %x4; not.pred %t, %t; and.pred %l, %l, %t;`,
      {},
      outputs,
      [[]],
    );
    expect(result).toEqual({ g: [1n], s: [1n], l: [1n], c: [1n], back: [1n], lback: [1n] });
  });
  test('a generic address of shared memory reads what the offset wrote', () => {
    const { d } = evaluate(
      `.shared .align 4 .b32 word; .reg .b64 %x; mov.u64 %x, word; cvta.shared.u64 %x, %x;
       st.shared.b32 [word], %a; ld.b32 %d, [%x];`,
      { a: 'b32' },
      { d: 'b32' },
      [[77n]],
    );
    expect(d).toEqual([77n]);
  });
  test('cvta.param: a parameter read through a generic address', () => {
    const { d } = evaluate(
      `.reg .b64 %x, %y; mov.b64 %x, in; cvta.param.u64 %y, %x; ld.u64 %d, [%y]; sub.u64 %d, %d, %in_0;`,
      {},
      { d: 'b64' },
      [[]],
    );
    expect(d).toEqual([0n]);
  });
  test('mapa and getctarank know the own block', () => {
    const { d, e, f } = evaluate(
      `.shared .align 4 .b32 word; .reg .b32 %x; .reg .b64 %y; mov.u32 %x, word; mapa.shared::cluster.u32 %d, %x, 0;
       sub.u32 %d, %d, %x; getctarank.shared::cluster.u32 %e, %x;
       cvt.u64.u32 %y, %x; cvta.shared.u64 %y, %y; mapa.u64 %f, %y, 0; sub.u64 %f, %f, %y;`,
      {},
      { d: 'b32', e: 'b32', f: 'b64' },
      [[]],
    );
    expect([d, e, f]).toEqual([[0n], [0n], [0n]]);
    expect(() => evaluate('mapa.shared::cluster.u32 %d, 1024, 1;', {}, { d: 'b32' }, [[]])).toThrow(/rank 1/);
    expect(() => evaluate('getctarank.u64 %d, %in_0;', {}, { d: 'b32' }, [[]])).toThrow(/outside shared memory/);
  });
});

test.each([
  ['and.u32 %r1, %r2, %r3;', /type or mode/],
  ['and.pred %p1, %r2, %p3;', /operand 2/],
  ['lop3.b32 %r1, %r2, %r3, %r4, %r5;', /table/],
  ['lop3.xor.b32 %r1|%p1, %r2, %r3, %r4, 1, %p2;', /modifier \.xor/],
  ['shl.u32 %r1, %r2, %r3;', /type or mode/],
  ['shf.l.b32 %r1, %r2, %r3, 3;', /type or mode/],
  ['prmt.b32.abc %r1, %r2, %r3, 3;', /modifier \.abc/],
  ['setp.lt.b32 %p1, %r2, %r3;', /this comparison/],
  ['setp.lo.s32 %p1, %r2, %r3;', /this comparison/],
  ['setp.equ.s32 %p1, %r2, %r3;', /this comparison/],
  ['setp.lt.ftz.s32 %p1, %r2, %r3;', /this comparison/],
  ['setp.s32 %p1, %r2, %r3;', /no comparison/],
  ['setp.lt.and.s32 %p1, %r2, %r3;', /operands/],
  ['set.lt.u64.s32 %l1, %r2, %r3;', /a result of type \.u64/],
  ['selp.b32 %r1, %r2, %r3, %r4;', /operand 4/],
  ['slct.b32.u32 %r1, %r2, %r3, %r4;', /decides by \.u32/],
  ['mov.b128 %l1, %l2;', /type \.b128/],
  ['mov.b32 %r1, {%h1, %h2, %h3};', /this vector/],
  ['mov.b16 %h1, {%h1, %h2, %h3, %h4};', /this vector/],
  ['mov.pred %p1, %r1;', /operand 2/],
  ['cvta.shared.u32 %r1, %r2;', /addresses of type \.u32/],
  ['cvta.u64 %l1, %l2;', /type or mode/],
  ['isspacep.const %p1, %l1;', /type or mode/],
])('%s is refused', (body, why) => {
  expect(() => load(body)).toThrow(why);
});
