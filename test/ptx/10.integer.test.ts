// Integer arithmetic: results in every lane against the words of the PTX ISA in big integers.
import { describe, expect, test } from 'vitest';
import { cross, edges, evaluate, load, signed, unsigned, type Width } from './support/evaluate';

type Bits = 16 | 32 | 64;
interface Type {
  name: string;
  bits: Bits;
  isSigned: boolean;
}
const TYPES: Type[] = ([16, 32, 64] as const).flatMap((bits) => [
  { name: `u${bits}`, bits, isSigned: false },
  { name: `s${bits}`, bits, isSigned: true },
]);
const value = (t: Type, bits: bigint) => (t.isSigned ? signed(t.bits, bits) : unsigned(t.bits, bits));
const width = (bits: number) => `b${bits}` as Width;
const clamp = (low: bigint, v: bigint, high: bigint) => (v < low ? low : v > high ? high : v);
const abs = (v: bigint) => (v < 0n ? -v : v);
const clamp32 = (v: bigint) => clamp(-(1n << 31n), v, (1n << 31n) - 1n);

/** One instruction with sources a, b, c of the given widths; compares d, of `bits` bits, with `expected`. */
function check(
  body: string,
  sources: number[],
  bits: number,
  cases: bigint[][],
  expected: (...operands: bigint[]) => bigint,
): void {
  const inputs: Record<string, Width> = {};
  sources.forEach((source, i) => {
    inputs['abcf'.charAt(i)] = width(source);
  });
  const { d } = evaluate(body, inputs, { d: width(bits) }, cases);
  const show = (operands: bigint[], result: bigint) =>
    `${operands.map((v) => v.toString(16))} -> ${result.toString(16)}`;
  expect(cases.map((operands, i) => show(operands, d[i]!))).toEqual(
    cases.map((operands) => show(operands, unsigned(bits, expected(...operands)))),
  );
}

/** The same for every type, with operands and result of the type. */
function checkTypes(
  name: string,
  count: number,
  types: Type[],
  expected: (t: Type, ...operands: bigint[]) => bigint,
): void {
  const operands = ['%a', '%b', '%c'].slice(0, count).join(', ');
  for (const t of types) {
    const lists = Array.from({ length: count }, (_, i) => (i < 2 ? edges(t.bits) : edges(t.bits).slice(4, 8)));
    check(
      `${name}.${t.name} %d, ${operands};`,
      lists.map(() => t.bits),
      t.bits,
      cross(...lists),
      (...given) => expected(t, ...given.map((v) => value(t, v))),
    );
  }
}

const SIGNED = TYPES.filter((t) => t.isSigned);
const WORDS = TYPES.filter((t) => t.bits !== 16);

describe('sums and products', () => {
  test('add and sub wrap', () => {
    checkTypes('add', 2, TYPES, (_, a, b) => a + b);
    checkTypes('sub', 2, TYPES, (_, a, b) => a - b);
  });
  test('add.sat.s32 and sub.sat.s32 stop at the limits', () => {
    const cases = cross(edges(32), edges(32));
    check('add.sat.s32 %d, %a, %b;', [32, 32], 32, cases, (a, b) => clamp32(signed(32, a) + signed(32, b)));
    check('sub.sat.s32 %d, %a, %b;', [32, 32], 32, cases, (a, b) => clamp32(signed(32, a) - signed(32, b)));
  });
  test('add of packed 16-bit halves does not carry from one into the other', () => {
    const cases = cross(edges(32), edges(32));
    const halves = (f: (a: bigint, b: bigint) => bigint) => (a: bigint, b: bigint) =>
      unsigned(16, f(unsigned(16, a), unsigned(16, b))) | (unsigned(16, f(a >> 16n, b >> 16n)) << 16n);
    for (const type of ['u16x2', 's16x2']) {
      check(
        `add.${type} %d, %a, %b;`,
        [32, 32],
        32,
        cases,
        halves((a, b) => a + b),
      );
    }
  });
  test('mul.lo, mul.hi and mul.wide', () => {
    checkTypes('mul.lo', 2, TYPES, (_, a, b) => a * b);
    checkTypes('mul.hi', 2, TYPES, (t, a, b) => (a * b) >> BigInt(t.bits));
    for (const t of TYPES.filter((type) => type.bits < 64)) {
      check(
        `mul.wide.${t.name} %d, %a, %b;`,
        [t.bits, t.bits],
        2 * t.bits,
        cross(edges(t.bits), edges(t.bits)),
        (a, b) => value(t, a) * value(t, b),
      );
    }
  });
  test('mad.lo, mad.hi and mad.wide', () => {
    checkTypes('mad.lo', 3, TYPES, (_, a, b, c) => a * b + c);
    checkTypes('mad.hi', 3, TYPES, (t, a, b, c) => ((a * b) >> BigInt(t.bits)) + c);
    for (const t of TYPES.filter((type) => type.bits < 64)) {
      const wide = t.bits === 16 ? 32 : 64;
      const cases = cross(edges(t.bits), edges(t.bits), edges(wide).slice(4, 8));
      check(
        `mad.wide.${t.name} %d, %a, %b, %c;`,
        [t.bits, t.bits, wide],
        wide,
        cases,
        (a, b, c) => value(t, a) * value(t, b) + c,
      );
    }
    check(
      'mad.wide.s32 %d, %a, -4, -8;',
      [32],
      64,
      edges(32).map((a) => [a]),
      (a) => signed(32, a) * -4n - 8n,
    );
    check(
      'mad.hi.sat.s32 %d, %a, %b, %c;',
      [32, 32, 32],
      32,
      cross(edges(32), edges(32), edges(32).slice(4, 8)),
      (a, b, c) => clamp32(((signed(32, a) * signed(32, b)) >> 32n) + signed(32, c)),
    );
  });
  test('mul24 and mad24 use the low 24 bits', () => {
    const operands = [...edges(32), 0x7fffffn, 0x800000n, 0xffffffn, 0x1000001n];
    for (const [name, low] of [
      ['u32', (v: bigint) => unsigned(24, v)],
      ['s32', (v: bigint) => signed(24, v)],
    ] as const) {
      const cases = cross(operands, operands, [5n, 0x80000000n]);
      const two = cross(operands, operands);
      check(`mul24.lo.${name} %d, %a, %b;`, [32, 32], 32, two, (a, b) => low(a) * low(b));
      check(`mul24.hi.${name} %d, %a, %b;`, [32, 32], 32, two, (a, b) => (low(a) * low(b)) >> 16n);
      check(`mad24.lo.${name} %d, %a, %b, %c;`, [32, 32, 32], 32, cases, (a, b, c) => low(a) * low(b) + c);
      check(`mad24.hi.${name} %d, %a, %b, %c;`, [32, 32, 32], 32, cases, (a, b, c) => ((low(a) * low(b)) >> 16n) + c);
    }
    check('mad24.hi.sat.s32 %d, %a, %b, %c;', [32, 32, 32], 32, cross(operands, operands, [0x7fffffffn]), (a, b, c) =>
      clamp32(((signed(24, a) * signed(24, b)) >> 16n) + signed(32, c)),
    );
  });
  test('div and rem truncate towards zero; by zero all bits are set', () => {
    checkTypes('div', 2, TYPES, (_, a, b) => (b === 0n ? -1n : a / b));
    checkTypes('rem', 2, TYPES, (_, a, b) => (b === 0n ? -1n : a % b));
  });
  test('sad', () => {
    checkTypes('sad', 3, TYPES, (_, a, b, c) => c + abs(a - b));
  });
});

describe('signs and limits', () => {
  test('neg and abs; the least number stays', () => {
    checkTypes('neg', 1, SIGNED, (_, a) => -a);
    checkTypes('abs', 1, SIGNED, (_, a) => abs(a));
  });
  test('min and max', () => {
    checkTypes('min', 2, TYPES, (_, a, b) => (a < b ? a : b));
    checkTypes('max', 2, TYPES, (_, a, b) => (a > b ? a : b));
  });
  test('min and max with .relu, and of packed halves', () => {
    const cases = cross(edges(32), edges(32));
    const low = (a: bigint, b: bigint) => (a < b ? a : b);
    const high = (a: bigint, b: bigint) => (a > b ? a : b);
    const relu = (v: bigint) => high(v, 0n);
    const halves =
      (extend: (bits: number, v: bigint) => bigint, f: (a: bigint, b: bigint) => bigint) => (a: bigint, b: bigint) =>
        unsigned(16, f(extend(16, a), extend(16, b))) |
        (unsigned(16, f(extend(16, a >> 16n), extend(16, b >> 16n))) << 16n);
    check('min.s32.relu %d, %a, %b;', [32, 32], 32, cases, (a, b) => relu(low(signed(32, a), signed(32, b))));
    check('min.relu.s32 %d, %a, %b;', [32, 32], 32, cases, (a, b) => relu(low(signed(32, a), signed(32, b))));
    check('max.relu.s32 %d, %a, %b;', [32, 32], 32, cases, (a, b) => relu(high(signed(32, a), signed(32, b))));
    check('min.u16x2 %d, %a, %b;', [32, 32], 32, cases, halves(unsigned, low));
    check('max.u16x2 %d, %a, %b;', [32, 32], 32, cases, halves(unsigned, high));
    check('min.s16x2 %d, %a, %b;', [32, 32], 32, cases, halves(signed, low));
    check('max.s16x2 %d, %a, %b;', [32, 32], 32, cases, halves(signed, high));
    check(
      'min.relu.s16x2 %d, %a, %b;',
      [32, 32],
      32,
      cases,
      halves(signed, (a, b) => relu(low(a, b))),
    );
    check(
      'max.relu.s16x2 %d, %a, %b;',
      [32, 32],
      32,
      cases,
      halves(signed, (a, b) => relu(high(a, b))),
    );
  });
});

describe('carry chains', () => {
  const numbers = [
    0n,
    1n,
    (1n << 32n) - 1n,
    1n << 32n,
    (1n << 64n) - 1n,
    1n << 127n,
    (1n << 128n) - 1n,
    0x123456789abcdef0n,
  ];
  const parts = (v: bigint, bits: number, count: number) =>
    Array.from({ length: count }, (_, i) => unsigned(bits, v >> BigInt(bits * i)));

  test('add.cc, addc.cc and addc: 128 bits from four words', () => {
    for (const type of ['u32', 's32']) {
      const body = `add.cc.${type} %d, %a0, %b0; addc.cc.${type} %e, %a1, %b1; addc.cc.${type} %f, %a2, %b2; addc.${type} %g, %a3, %b3;`;
      const inputs = Object.fromEntries(
        ['a0', 'a1', 'a2', 'a3', 'b0', 'b1', 'b2', 'b3'].map((n) => [n, 'b32' as Width]),
      );
      const cases = cross(numbers, numbers);
      const { d, e, f, g } = evaluate(
        body,
        inputs,
        { d: 'b32', e: 'b32', f: 'b32', g: 'b32' },
        cases.map(([a, b]) => [...parts(a, 32, 4), ...parts(b, 32, 4)]),
      );
      expect(cases.map((_, i) => [d[i], e[i], f[i], g[i]])).toEqual(cases.map(([a, b]) => parts(a + b, 32, 4)));
    }
  });
  test('sub.cc and subc: 128 bits from two long words', () => {
    const cases = cross(numbers, numbers);
    const { d, e } = evaluate(
      'sub.cc.u64 %d, %a0, %b0; subc.u64 %e, %a1, %b1;',
      { a0: 'b64', a1: 'b64', b0: 'b64', b1: 'b64' },
      { d: 'b64', e: 'b64' },
      cases.map(([a, b]) => [...parts(a, 64, 2), ...parts(b, 64, 2)]),
    );
    expect(cases.map((_, i) => [d[i], e[i]])).toEqual(cases.map(([a, b]) => parts(a - b, 64, 2)));
  });
  test('subc.cc hands the borrow on', () => {
    const cases = cross(numbers.slice(0, 5), numbers.slice(0, 5)).map(([a, b]): [bigint, bigint] => [a, b << 32n]);
    const { d, e, f } = evaluate(
      'sub.cc.s32 %d, %a0, %b0; subc.cc.s32 %e, %a1, %b1; subc.s32 %f, %a2, %b2;',
      { a0: 'b32', a1: 'b32', a2: 'b32', b0: 'b32', b1: 'b32', b2: 'b32' },
      { d: 'b32', e: 'b32', f: 'b32' },
      cases.map(([a, b]) => [...parts(a, 32, 3), ...parts(b, 32, 3)]),
    );
    expect(cases.map((_, i) => [d[i], e[i], f[i]])).toEqual(cases.map(([a, b]) => parts(a - b, 32, 3)));
  });
  test('after a subtraction the flag is set where there was no borrow', () => {
    // Not in the ISA: so nvcc's own division of unsigned __int128 reads it.
    const cases = cross([0n, 1n, 2n], [0n, 1n, 2n]);
    const { d, e } = evaluate(
      '.reg .b32 %x; sub.cc.u32 %x, %a, %b; addc.u32 %d, 0, 0; add.cc.u32 %x, %a, 0xffffffff; subc.u32 %e, %b, 0;',
      { a: 'b32', b: 'b32' },
      { d: 'b32', e: 'b32' },
      cases,
    );
    expect(d).toEqual(cases.map(([a, b]) => (a >= b ? 1n : 0n)));
    expect(e).toEqual(cases.map(([a, b]) => unsigned(32, a > 0n ? b : b - 1n)));
  });
  test('mad.cc and madc: a product of 64 by 64 bits from words', () => {
    const words = [0n, 1n, 0xffffffffn, 0x80000000n, 0xffffffffffffffffn, 0x9e3779b97f4a7c15n, 0x8000000000000000n];
    const cases = cross(words, words);
    const body = `
      mul.lo.u32 %d, %a0, %b0; mul.hi.u32 %e, %a0, %b0;
      mad.lo.cc.u32 %e, %a1, %b0, %e; madc.hi.u32 %f, %a1, %b0, 0;
      mad.lo.cc.u32 %e, %a0, %b1, %e; madc.hi.cc.u32 %f, %a0, %b1, %f; addc.u32 %g, 0, 0;
      mad.lo.cc.u32 %f, %a1, %b1, %f; madc.hi.u32 %g, %a1, %b1, %g;`;
    const { d, e, f, g } = evaluate(
      body,
      { a0: 'b32', a1: 'b32', b0: 'b32', b1: 'b32' },
      { d: 'b32', e: 'b32', f: 'b32', g: 'b32' },
      cases.map(([a, b]) => [...parts(a, 32, 2), ...parts(b, 32, 2)]),
    );
    expect(cases.map((_, i) => [d[i], e[i], f[i], g[i]])).toEqual(cases.map(([a, b]) => parts(a * b, 32, 4)));
  });
  test('mad.hi.cc and madc.lo.cc on 64 bits', () => {
    const words = edges(64);
    const cases = cross(words, words, [0n, 1n, (1n << 64n) - 1n]);
    const { d, e, f } = evaluate(
      'mad.hi.cc.u64 %d, %a, %b, %c; madc.lo.cc.u64 %e, %a, %b, %c; addc.u64 %f, 0, 0;',
      { a: 'b64', b: 'b64', c: 'b64' },
      { d: 'b64', e: 'b64', f: 'b64' },
      cases,
    );
    expect(cases.map((_, i) => [d[i], e[i], f[i]])).toEqual(
      cases.map(([a, b, c]) => {
        const first = ((a * b) >> 64n) + c;
        const second = unsigned(64, a * b) + c + (first >> 64n);
        return [unsigned(64, first), unsigned(64, second), second >> 64n];
      }),
    );
  });
  test('the flag is each lane its own, and stays where the guard is false', () => {
    // Odd lanes set the flag; then lanes below 16 clear it.
    const { d } = evaluate(
      `.reg .pred %low; .reg .b32 %odd, %x;
       and.b32 %odd, %a, 1; sub.u32 %odd, 0, %odd; add.cc.u32 %x, %odd, 1;
       setp.lt.u32 %low, %a, 16; @%low add.cc.u32 %x, 0, 0; addc.u32 %d, 0, 0;`,
      { a: 'b32' },
      { d: 'b32' },
      Array.from({ length: 32 }, (_, i) => [BigInt(i)]),
    );
    expect(d).toEqual(Array.from({ length: 32 }, (_, i) => (i >= 16 && i % 2 === 1 ? 1n : 0n)));
  });
});

describe('bits', () => {
  const bitLength = (v: bigint) => (v === 0n ? 0 : v.toString(2).length);
  const ones = (v: bigint) => [...v.toString(2)].filter((digit) => digit === '1').length;

  test('popc, clz and brev', () => {
    for (const bits of [32, 64] as const) {
      const cases = edges(bits).map((a) => [a]);
      check(`popc.b${bits} %d, %a;`, [bits], 32, cases, (a) => BigInt(ones(a)));
      check(`clz.b${bits} %d, %a;`, [bits], 32, cases, (a) => BigInt(bits - bitLength(a)));
      check(`brev.b${bits} %d, %a;`, [bits], bits, cases, (a) =>
        BigInt(`0b${[...a.toString(2).padStart(bits, '0')].reverse().join('')}`),
      );
    }
  });
  test('bfind and its shift amount', () => {
    for (const t of WORDS) {
      const cases = edges(t.bits).map((a) => [a]);
      const found = (a: bigint) => {
        const v = value(t, a);
        return BigInt(bitLength(v < 0n ? -v - 1n : v) - 1);
      };
      check(`bfind.${t.name} %d, %a;`, [t.bits], 32, cases, found);
      check(`bfind.shiftamt.${t.name} %d, %a;`, [t.bits], 32, cases, (a) =>
        found(a) < 0n ? -1n : BigInt(t.bits - 1) - found(a),
      );
    }
  });
  test('fns: the examples of the ISA, and what is not found', () => {
    const cases = [
      [0xaaaaaaaan, 3n, 1n, 3n],
      [0xaaaaaaaan, 3n, -1n, 3n],
      [0xaaaaaaaan, 2n, 1n, 3n],
      [0xaaaaaaaan, 2n, -1n, 1n],
      [0xaaaaaaaan, 3n, 0n, 3n],
      [0xaaaaaaaan, 2n, 0n, -1n],
      [0xaaaaaaaan, 0n, 16n, 31n],
      [0xaaaaaaaan, 0n, 17n, -1n],
      [0xffffffffn, 31n, -32n, 0n],
      [0xffffffffn, 31n, -0x80000000n, -1n],
    ];
    check(
      'fns.b32 %d, %a, %b, %c;',
      [32, 32, 32],
      32,
      cases.map((c) => c.slice(0, 3)),
      (...given) => cases.find((c) => given.every((v, i) => v === c[i]))![3]!,
    );
    expect(() => evaluate('fns.b32 %d, 1, 32, 1;', {}, { d: 'b32' }, [[]])).toThrow(/base of fns is 32/);
  });

  const positions = [0n, 1n, 5n, 15n, 16n, 31n, 32n, 33n, 63n, 64n, 200n, 255n, 256n, 261n];
  test('bfe fills with the sign of the field, also beyond the top', () => {
    for (const t of WORDS) {
      const cases = cross(
        [0n, 0xf0f0f0f0f0f0f0f0n, 0x0ff00ff00ff00ff0n, -1n].map((v) => unsigned(t.bits, v)),
        positions,
        positions,
      );
      check(`bfe.${t.name} %d, %a, %b, %c;`, [t.bits, 32, 32], t.bits, cases, (a, b, c) => {
        const pos = Number(b & 255n);
        const len = Number(c & 255n);
        const bit = (i: number) => (a >> BigInt(i)) & 1n;
        const sign = !t.isSigned || len === 0 ? 0n : bit(Math.min(pos + len - 1, t.bits - 1));
        let d = 0n;
        for (let i = 0; i < t.bits; i++) d |= (i < len && pos + i < t.bits ? bit(pos + i) : sign) << BigInt(i);
        return d;
      });
    }
  });
  test('bfi', () => {
    for (const bits of [32, 64] as const) {
      const cases = cross(
        edges(bits).slice(6, 10),
        [0n, 0x5555555555555555n].map((v) => unsigned(bits, v)),
        positions,
        positions,
      );
      check(`bfi.b${bits} %d, %a, %b, %c, %f;`, [bits, bits, 32, 32], bits, cases, (a, b, c, f) => {
        let d = b;
        for (let i = 0; i < Number(f & 255n) && Number(c & 255n) + i < bits; i++) {
          const at = BigInt(Number(c & 255n) + i);
          d = (d & ~(1n << at)) | (((a >> BigInt(i)) & 1n) << at);
        }
        return d;
      });
    }
  });
  test('bmsk', () => {
    const cases = cross(positions, positions);
    const mask = (start: bigint, count: bigint) => unsigned(32, ((1n << count) - 1n) << start);
    check('bmsk.wrap.b32 %d, %a, %b;', [32, 32], 32, cases, (a, b) => mask(a & 31n, b & 31n));
    check('bmsk.clamp.b32 %d, %a, %b;', [32, 32], 32, cases, (a, b) => (a >= 32n ? 0n : mask(a, b >= 32n ? 32n : b)));
    check('bmsk.wrap.b32 %d, 1, 2;', [], 32, [[]], () => 6n);
  });
  test('szext', () => {
    const cases = cross(edges(32), positions);
    for (const [name, extend] of [
      ['u32', unsigned],
      ['s32', signed],
    ] as const) {
      check(`szext.wrap.${name} %d, %a, %b;`, [32, 32], 32, cases, (a, b) => extend(Number(b & 31n), a));
      check(`szext.clamp.${name} %d, %a, %b;`, [32, 32], 32, cases, (a, b) => (b >= 32n ? a : extend(Number(b), a)));
    }
  });
});

describe('dot products', () => {
  const words = [0n, 0x01020304n, 0x7f80ff01n, 0xffffffffn, 0x80808080n, 0x8000ffffn];
  const field = (isSigned: boolean, bits: number, v: bigint, i: number) =>
    (isSigned ? signed : unsigned)(bits, v >> BigInt(bits * i));
  const kinds = cross(['u32', 's32'], ['u32', 's32']);

  test('dp4a', () => {
    for (const [ta, tb] of kinds) {
      check(
        `dp4a.${ta}.${tb} %d, %a, %b, %c;`,
        [32, 32, 32],
        32,
        cross(words, words, [0n, 0x7fffffffn, 0xffffffffn]),
        (a, b, c) =>
          [0, 1, 2, 3].reduce((sum, i) => sum + field(ta === 's32', 8, a, i) * field(tb === 's32', 8, b, i), c),
      );
    }
  });
  test('dp2a', () => {
    for (const [ta, tb] of kinds) {
      for (const [half, first] of [
        ['lo', 0],
        ['hi', 2],
      ] as const) {
        check(
          `dp2a.${half}.${ta}.${tb} %d, %a, %b, %c;`,
          [32, 32, 32],
          32,
          cross(words, words, [0n, 0x7fffffffn]),
          (a, b, c) =>
            [0, 1].reduce((sum, i) => sum + field(ta === 's32', 16, a, i) * field(tb === 's32', 8, b, first + i), c),
        );
      }
    }
  });
});

describe('lanes', () => {
  test('only lanes whose guard holds are written, also in a partial warp', () => {
    for (const threads of [1, 31, 32, 45, 96]) {
      const cases = Array.from({ length: threads }, (_, i): [bigint, bigint] => [BigInt(i), 1000n]);
      const { d } = evaluate(
        '.reg .pred %odd; .reg .b32 %x; and.b32 %x, %a, 1; setp.eq.u32 %odd, %x, 1; @!%odd add.u32 %d, %d, %a;',
        { a: 'b32', d: 'b32' },
        { d: 'b32' },
        cases,
      );
      expect(d).toEqual(cases.map(([a, before]) => (a % 2n === 1n ? before : before + a)));
    }
  });
  test('divergent lanes compute each their own', () => {
    const cases = Array.from({ length: 64 }, (_, i): [bigint] => [BigInt(i)]);
    const { d } = evaluate(
      `.reg .pred %odd; .reg .b32 %x; and.b32 %x, %a, 1; setp.eq.u32 %odd, %x, 1;
       @%odd bra ODD; mul.lo.u32 %d, %a, 3; bra END; ODD: sub.s32 %d, 0, %a; END:`,
      { a: 'b32' },
      { d: 'b32' },
      cases,
    );
    expect(d).toEqual(cases.map(([a]) => unsigned(32, a % 2n === 1n ? -a : 3n * a)));
  });
  test('a destination may be a source', () => {
    check(
      'mov.b32 %d, %a; add.u32 %d, %d, %d; mad.lo.u32 %d, %d, %d, %d;',
      [32],
      32,
      edges(32).map((a) => [a]),
      (a) => 2n * a * (2n * a) + 2n * a,
    );
  });
});

test.each([
  ['add.foo.u32 %r1, %r2, %r3;', /modifier \.foo/],
  ['add.sat.u32 %r1, %r2, %r3;', /type or mode/],
  ['add.cc.u16 %h1, %h2, %h3;', /type or mode/],
  ['sub.u16x2 %r1, %r2, %r3;', /type or mode/],
  ['add.b32 %r1, %r2, %r3;', /type or mode/],
  ['add %r1, %r2, %r3;', /no type/],
  ['mul.u32 %r1, %r2, %r3;', /type or mode/],
  ['mul.wide.u64 %l1, %l2, %l3;', /type or mode/],
  ['mul.lo.hi.u32 %r1, %r2, %r3;', /modifier \.hi/],
  ['neg.u32 %r1, %r2;', /type or mode/],
  ['min.relu.u32 %r1, %r2, %r3;', /type or mode/],
  ['popc.u32 %r1, %r2;', /type or mode/],
  ['add.u32 %r1, %r2;', /2 operands instead of 3/],
  ['add.u32 %p1, %r2, %r3;', /operand 1/],
  ['add.u32 %r1, %p2, %r3;', /operand 2/],
  ['add.u32 %r1|%p1, %r2, %r3;', /operand 1/],
  ['add.u32 {%r1, %r2}, %r2, %r3;', /operand 1/],
])('%s is refused with its line', (body, why) => {
  expect(() => load(body)).toThrow(why);
  expect(() => load(body)).toThrow(/line 7/);
});
