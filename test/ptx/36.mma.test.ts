// mma.sync: every shape and type, against products of whole matrices.
//
// Where each element lies in the registers of the lanes is written here from the tables of the PTX ISA, one formula for
// each table. Matrices of small integers give exact results in every format, so that a wrong index shows; arbitrary
// numbers are compared within the bound of a float sum.
import { describe, expect, it } from 'vitest';
import { kernel, Ptx } from './support/interpreter';
import { lanes, runLanes, words } from './support/lanes';

type Index = (lane: number, i: number) => [row: number, column: number];
interface Fragments {
  a: Index;
  b: Index;
}

const group = (lane: number) => lane >> 2;
const inGroup = (lane: number) => lane % 4;

/** Rows and columns of a_i in A and of b_i in B; groupID and threadID_in_group as the ISA calls them. */
const FRAGMENTS: Record<string, Fragments> = {
  'm16n8k8 of 16 bits': {
    a: (lane, i) => [i === 0 || i === 1 ? group(lane) : group(lane) + 8, inGroup(lane) * 2 + (i & 1)],
    b: (lane, i) => [inGroup(lane) * 2 + i, group(lane)],
  },
  'm16n8k16 of 16 bits': {
    a: (lane, i) => [
      (0 <= i && i < 2) || (4 <= i && i < 6) ? group(lane) : group(lane) + 8,
      i < 4 ? inGroup(lane) * 2 + (i & 1) : inGroup(lane) * 2 + (i & 1) + 8,
    ],
    b: (lane, i) => [i < 2 ? inGroup(lane) * 2 + (i & 1) : inGroup(lane) * 2 + (i & 1) + 8, group(lane)],
  },
  'm16n8k4 of 32 bits': {
    a: (lane, i) => [i === 0 ? group(lane) : group(lane) + 8, inGroup(lane)],
    b: (lane) => [inGroup(lane), group(lane)],
  },
  'm16n8k8 of 32 bits': {
    a: (lane, i) => [
      i === 0 || i === 2 ? group(lane) : group(lane) + 8,
      i === 0 || i === 1 ? inGroup(lane) : inGroup(lane) + 4,
    ],
    b: (lane, i) => [i === 0 ? inGroup(lane) : inGroup(lane) + 4, group(lane)],
  },
  'm16n8k16 of 8 bits': {
    a: (lane, i) => [i < 4 ? group(lane) : group(lane) + 8, inGroup(lane) * 4 + (i & 3)],
    b: (lane, i) => [inGroup(lane) * 4 + i, group(lane)],
  },
  'm16n8k32 of 8 bits': {
    a: (lane, i) => [
      (0 <= i && i < 4) || (8 <= i && i < 12) ? group(lane) : group(lane) + 8,
      i < 8 ? inGroup(lane) * 4 + (i & 3) : inGroup(lane) * 4 + (i & 3) + 16,
    ],
    b: (lane, i) => [i < 4 ? inGroup(lane) * 4 + (i & 3) : inGroup(lane) * 4 + (i & 3) + 16, group(lane)],
  },
};
const ACCUMULATOR: Index = (lane, i) => [i < 2 ? group(lane) : group(lane) + 8, inGroup(lane) * 2 + (i & 1)];

/** The number that a code of a float format stands for. */
function floatValue(code: number, exponentBits: number, mantissaBits: number): number {
  const sign = code >>> (exponentBits + mantissaBits) ? -1 : 1;
  const exponent = (code >>> mantissaBits) & (2 ** exponentBits - 1);
  const mantissa = (code & (2 ** mantissaBits - 1)) / 2 ** mantissaBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  return exponent === 0 ? sign * mantissa * 2 ** (1 - bias) : sign * (1 + mantissa) * 2 ** (exponent - bias);
}

interface Format {
  bits: number;
  value: (code: number) => number;
  /** codes of any finite numbers whose products a float can hold */
  usable: (code: number) => boolean;
}
const float = (bits: number, exponentBits: number, usable: (code: number) => boolean): Format => ({
  bits,
  value: (code) => floatValue(code, exponentBits, bits - 1 - exponentBits),
  usable,
});
const exponentWithin = (code: number, from: number, to: number, low: number) => {
  const exponent = (code >>> low) & 0xff;
  return exponent >= from && exponent <= to;
};
const FORMATS: Record<string, Format> = {
  f16: float(16, 5, (code) => (code & 0x7c00) !== 0x7c00),
  bf16: float(16, 8, (code) => exponentWithin(code, 97, 157, 7)),
  // The lower 13 bits do not count.
  tf32: {
    bits: 32,
    value: (code) => floatValue((code & 0xffffe000) >>> 0, 8, 23),
    usable: (code) => exponentWithin(code, 97, 157, 23),
  },
  e4m3: float(8, 4, (code) => (code & 0x7f) !== 0x7f),
  e5m2: float(8, 5, (code) => (code & 0x7c) !== 0x7c),
  s8: { bits: 8, value: (code) => (code << 24) >> 24, usable: () => true },
  u8: { bits: 8, value: (code) => code, usable: () => true },
};
const format = (name: string) => FORMATS[name] as Format;
const half = (code: number) => floatValue(code, 5, 10);

type Matrix = number[][];
const matrix = (rows: number, columns: number, f: (i: number, j: number) => number): Matrix =>
  Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (__, j) => f(i, j)));
const at = (m: Matrix, [i, j]: [number, number]) => m[i]?.[j] ?? Number.NaN;

const f32Bits = (value: number) => new Uint32Array(new Float32Array([value]).buffer)[0] ?? 0;
const f32 = (bits: number) => new Float32Array(new Uint32Array([bits]).buffer)[0] ?? 0;

/** The first code of each small number, found by trying all codes. */
function codes(type: string, numbers: number[]): Map<number, number> {
  const { bits, value } = format(type);
  const found = new Map<number, number>();
  if (bits === 32) for (const n of numbers) found.set(n, f32Bits(n));
  else for (let code = 0; code < 2 ** bits; code++) if (!found.has(value(code))) found.set(value(code), code);
  return found;
}
const HALF_CODES = new Map(
  Array.from({ length: 65536 }, (_, code) => [half(code), code] as const)
    .filter(([, code]) => (code & 0x7c00) !== 0x7c00)
    .reverse(), // so that the code of 0 is that of +0
);
function halfCode(value: number): number {
  const code = HALF_CODES.get(value);
  if (code === undefined) throw new Error(`${value} is no half`);
  return code;
}

interface Case {
  shape: string;
  d: string;
  a: string;
  b: string;
  modifier?: string;
}

/** Packs the elements of one lane into words, the first in the lowest bits. */
function pack(elements: number[], bits: number): number[] {
  const perWord = 32 / bits;
  return Array.from({ length: elements.length / perWord }, (_, w) => {
    let word = 0n;
    for (let e = 0; e < perWord; e++) word |= BigInt(elements[w * perWord + e] ?? 0) << BigInt(e * bits);
    return Number(word);
  });
}

const registers = (name: string, from: number, count: number) =>
  `{${Array.from({ length: count }, (_, i) => `${name}${from + i}`).join(', ')}}`;

/** Runs one mma on matrices of codes; the result has the codes of D. */
function mma({ shape, d, a, b, modifier = '' }: Case, A: Matrix, B: Matrix, C: Matrix): Matrix {
  const depth = Number(shape.split('k')[1]);
  const { bits } = format(a);
  const place = FRAGMENTS[`${shape} of ${bits} bits`] as Fragments;
  const countA = (16 * depth) / 32;
  const countB = (8 * depth) / 32;
  const accumulatorBits = d === 'f16' ? 16 : 32;
  const inputs = lanes((lane) => [
    ...pack(
      Array.from({ length: countA }, (_, i) => at(A, place.a(lane, i))),
      bits,
    ),
    ...pack(
      Array.from({ length: countB }, (_, i) => at(B, place.b(lane, i))),
      bits,
    ),
    ...pack(
      [0, 1, 2, 3].map((i) => at(C, ACCUMULATOR(lane, i))),
      accumulatorBits,
    ),
  ]);
  const wordsA = (countA * bits) / 32;
  const wordsB = (countB * bits) / 32;
  const wordsC = (4 * accumulatorBits) / 32;
  const left = runLanes({
    body: `mma.sync.aligned.${shape}.row.col${modifier}.${d}.${a}.${b}.${d} ${registers('%d', 0, wordsC)},
      ${registers('%a', 0, wordsA)}, ${registers('%a', wordsA, wordsB)}, ${registers('%a', wordsA + wordsB, wordsC)};`,
    inputs,
    outputs: wordsC,
  });
  const D = matrix(16, 8, () => Number.NaN);
  for (let lane = 0; lane < 32; lane++) {
    for (let i = 0; i < 4; i++) {
      const [row, column] = ACCUMULATOR(lane, i);
      const word = left[lane]?.[accumulatorBits === 16 ? i >> 1 : i] ?? 0;
      (D[row] as number[])[column] = accumulatorBits === 16 ? (word >>> (16 * (i & 1))) & 0xffff : word;
    }
  }
  return D;
}

/** A * B + C of numbers, in double. */
function product(A: Matrix, B: Matrix, C: Matrix): Matrix {
  return C.map((row, i) =>
    row.map((c, j) => (A[i] ?? []).reduce((sum, x, k) => sum + x * (B[k]?.[j] ?? Number.NaN), c)),
  );
}
const map = (m: Matrix, f: (x: number) => number) => m.map((row) => row.map(f));

const FLOAT_CASES: Case[] = [
  { shape: 'm16n8k8', d: 'f32', a: 'f16', b: 'f16' },
  { shape: 'm16n8k16', d: 'f32', a: 'f16', b: 'f16' },
  { shape: 'm16n8k8', d: 'f16', a: 'f16', b: 'f16' },
  { shape: 'm16n8k16', d: 'f16', a: 'f16', b: 'f16' },
  { shape: 'm16n8k8', d: 'f32', a: 'bf16', b: 'bf16' },
  { shape: 'm16n8k16', d: 'f32', a: 'bf16', b: 'bf16' },
  { shape: 'm16n8k4', d: 'f32', a: 'tf32', b: 'tf32' },
  { shape: 'm16n8k8', d: 'f32', a: 'tf32', b: 'tf32' },
  ...['f16', 'f32'].flatMap((d) =>
    ['m16n8k16', 'm16n8k32'].flatMap((shape) =>
      ['e4m3', 'e5m2'].flatMap((a) => ['e4m3', 'e5m2'].map((b) => ({ shape, d, a, b }))),
    ),
  ),
  { shape: 'm16n8k32', d: 'f32', a: 'e4m3', b: 'e5m2', modifier: '.kind::f8f6f4' },
];
const INTEGER_CASES: Case[] = ['m16n8k16', 'm16n8k32'].flatMap((shape) =>
  ['s8', 'u8'].flatMap((a) =>
    ['s8', 'u8'].flatMap((b) => ['', '.satfinite'].map((modifier) => ({ shape, d: 's32', a, b, modifier }))),
  ),
);
const title = ({ shape, d, a, b, modifier = '' }: Case) => `${shape}${modifier}.${d}.${a}.${b}`;
const depthOf = ({ shape }: Case) => Number(shape.split('k')[1]);

describe.each(FLOAT_CASES.map((c) => [title(c), c] as const))('%s', (_, c) => {
  const depth = depthOf(c);

  it('puts every element where the ISA says: exact products of small integers', () => {
    const next = words(depth + c.a.length);
    const small = [-6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6];
    const number = () => small[next() % small.length] ?? 0;
    const codesA = codes(c.a, small);
    const codesB = codes(c.b, small);
    for (let round = 0; round < 4; round++) {
      const A = matrix(16, depth, number);
      const B = matrix(depth, 8, number);
      const C = matrix(16, 8, () => (next() % 200) - 100);
      const D = mma(
        c,
        map(A, (x) => codesA.get(x) ?? Number.NaN),
        map(B, (x) => codesB.get(x) ?? Number.NaN),
        map(C, c.d === 'f16' ? halfCode : f32Bits),
      );
      expect(map(D, c.d === 'f16' ? half : f32)).toEqual(map(product(A, B, C), (x) => x + 0));
    }
  });

  it('multiplies any finite numbers, denormal ones too, within the bound of a float sum', () => {
    const next = words(depth + 7);
    const code = (type: string) => {
      const { bits, usable } = format(type);
      for (;;) {
        const word = next();
        const candidate = bits === 32 ? word : word % 2 ** bits;
        if (usable(candidate)) return candidate;
      }
    };
    const A = matrix(16, depth, () => code(c.a));
    const B = matrix(depth, 8, () => code(c.b));
    const C = matrix(16, 8, () => (c.d === 'f16' ? code('f16') : f32Bits((next() - 2 ** 31) / 2 ** 20)));
    const D = mma(c, A, B, C);
    const numbers = [map(A, format(c.a).value), map(B, format(c.b).value), map(C, c.d === 'f16' ? half : f32)] as const;
    const exact = product(...numbers);
    const magnitude = product(...(numbers.map((m) => map(m, Math.abs)) as [Matrix, Matrix, Matrix]));
    for (let i = 0; i < 16; i++) {
      for (let j = 0; j < 8; j++) {
        const bound = (depth + 1) * 2 ** -23 * at(magnitude, [i, j]);
        const expected = at(exact, [i, j]);
        const result = at(D, [i, j]);
        if (c.d === 'f32') {
          expect(Math.abs(f32(result) - expected)).toBeLessThanOrEqual(bound);
        } else if (Math.abs(expected) - bound > 65520) {
          expect(result).toBe(expected < 0 ? 0xfc00 : 0x7c00);
        } else if (Math.abs(expected) + bound < 65520) {
          expect(Math.abs(half(result) - expected)).toBeLessThanOrEqual(
            bound + Math.max(2 ** -25, Math.abs(expected) * 2 ** -11),
          );
        }
      }
    }
  });
});

describe.each(INTEGER_CASES.map((c) => [title(c), c] as const))('%s', (_, c) => {
  it('is exact; what leaves 32 bits wraps or is clamped', () => {
    const depth = depthOf(c);
    const next = words(depth + 11);
    for (let round = 0; round < 4; round++) {
      const A = matrix(16, depth, () => next() & 0xff);
      const B = matrix(depth, 8, () => next() & 0xff);
      const C = matrix(16, 8, () => {
        const choice = next() % 4;
        return choice === 0 ? 0x7fffffff - (next() % 1000) : choice === 1 ? 0x80000000 + (next() % 1000) : next();
      });
      const D = mma(c, A, B, C);
      const exact = product(
        map(A, format(c.a).value),
        map(B, format(c.b).value),
        map(C, (x) => x | 0),
      );
      const limited = map(exact, (x) =>
        c.modifier === '.satfinite'
          ? Math.min(Math.max(x, -(2 ** 31)), 2 ** 31 - 1)
          : Number(BigInt.asIntN(32, BigInt(x))),
      );
      expect(map(D, (x) => x | 0)).toEqual(map(limited, (x) => x + 0));
      // The data do reach the limits.
      expect(exact.flat().some((x) => x > 2 ** 31 - 1) || exact.flat().some((x) => x < -(2 ** 31))).toBe(true);
    }
  });
});

describe('special values', () => {
  const c: Case = { shape: 'm16n8k16', d: 'f32', a: 'f16', b: 'f16' };
  const one = 0x3c00;
  const filled = (rows: number, columns: number, code: number, change: [number, number, number][]) =>
    matrix(rows, columns, (i, j) => change.find(([r, k]) => r === i && k === j)?.[2] ?? code);

  it('NaN is the canonical one and stays in its row or column; infinities follow IEEE', () => {
    const A = filled(16, 16, one, [
      [3, 5, 0x7e01],
      [4, 6, 0x7c00],
      [9, 7, 0xfc00],
    ]);
    const B = filled(16, 8, one, [
      [1, 2, 0xfe00],
      [6, 4, 0],
    ]);
    const D = mma(
      c,
      A,
      B,
      matrix(16, 8, () => f32Bits(1)),
    );
    for (let i = 0; i < 16; i++) {
      for (let j = 0; j < 8; j++) {
        const nan = i === 3 || j === 2 || (i === 4 && j === 4);
        const expected = nan ? 0x7fffffff : f32Bits(i === 4 ? Infinity : i === 9 ? -Infinity : j === 4 ? 16 : 17);
        expect(at(D, [i, j])).toBe(expected);
      }
    }
  });

  it('f16 accumulators round to nearest even and overflow to infinity', () => {
    const A = matrix(16, 16, (i, k) => (k === 0 ? halfCode(i) : 0));
    const B = matrix(16, 8, (k, j) => (k === 0 ? halfCode(j) : 0));
    const D = mma(
      { ...c, d: 'f16' },
      A,
      B,
      matrix(16, 8, (_, j) => (j < 4 ? halfCode(2048) : halfCode(65504))),
    );
    for (let i = 0; i < 16; i++) {
      for (let j = 0; j < 8; j++) {
        if (j < 4) {
          const half2 = (2048 + i * j) / 2;
          const even = half2 % 1 === 0 ? half2 : 2 * Math.round(half2 / 2);
          expect(half(at(D, [i, j]))).toBe(2 * even);
        } else {
          expect(at(D, [i, j])).toBe(i * j >= 16 ? 0x7c00 : 0x7bff);
        }
      }
    }
  });

  it('D may be C, and C may be numbers', () => {
    const body = (operands: string) =>
      `mov.b32 %r0, 0x3c003c00; mov.b32 %r1, 0x3c003c00; cvt.rn.f32.u32 %f0, %lane; mov.f32 %f1, 0f00000000; mov.f32 %f2, %f1; mov.f32 %f3, %f0;
       ${operands} mov.b32 %d0, %f0; mov.b32 %d1, %f1; mov.b32 %d2, %f2; mov.b32 %d3, %f3;`;
    const form = 'mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32';
    const list = '{%f0, %f1, %f2, %f3}';
    expect(
      runLanes({ body: body(`${form} ${list}, {%r0, %r1}, {%r0}, ${list};`), outputs: 4 }).map((w) => w.map(f32)),
    ).toEqual(lanes((lane) => [lane + 8, 8, 8, lane + 8]));
    expect(
      runLanes({
        body: body(`${form} ${list}, {%r0, %r1}, {%r0}, {0f3F800000, 0f00000000, 0fBF800000, 0f40000000};`),
        outputs: 4,
      }).map((w) => w.map(f32)),
    ).toEqual(lanes(() => [9, 8, 7, 10]));
  });

  it('A and B may be where D goes', () => {
    const body = `mov.b32 %d0, %a0; mov.b32 %d1, %a1; mov.b32 %d2, %a2;
      mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%d0, %d2}, {%d0, %d1}, {%d2}, {%a3, %a3};
      mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%d3, %d4}, {%a0, %a1}, {%a2}, {%a3, %a3};`;
    const next = words(21);
    const small = () => {
      const integer = () => halfCode((next() % 9) - 4);
      return integer() + integer() * 65536;
    };
    for (const result of runLanes({ body, inputs: lanes(() => [small(), small(), small(), 0]), outputs: 5 })) {
      expect([result[0], result[2]]).toEqual([result[3], result[4]]);
    }
  });
});

describe('faults and refused forms', () => {
  const good = 'mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%d0, %d1}, {%d0, %d1}, {%d0}, {%d0, %d1};';
  const run =
    (body: string, threads = 32) =>
    () =>
      runLanes({ body, outputs: 2, threads });

  it('all 32 lanes must execute it', () => {
    expect(run(good)).not.toThrow();
    expect(run(`setp.ne.u32 %p0, %lane, 31;\n@%p0 ${good}`)).toThrow(/guard/);
    expect(run(`setp.eq.u32 %p0, %lane, 31;\n@%p0 exit;\n${good}`)).toThrow(/32 lanes/);
    expect(run(good, 31)).toThrow(/32 lanes/);
  });

  it.each([
    'mma.sync.aligned.m8n8k4.row.col.f16.f16.f16.f16 {%r0, %r1}, {%r0, %r1}, {%r0, %r1}, {%r0, %r1};',
    'mma.sync.aligned.m16n8k8.col.col.f16.f16.f16.f16 {%r0, %r1}, {%r0, %r1}, {%r0}, {%r0, %r1};',
    'mma.sync.aligned.m16n8k8.row.row.f16.f16.f16.f16 {%r0, %r1}, {%r0, %r1}, {%r0}, {%r0, %r1};',
    'mma.sync.aligned.m16n8k8.row.col.f16.bf16.bf16.f16 {%r0, %r1}, {%r0, %r1}, {%r0}, {%r0, %r1};',
    'mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f16 {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0}, {%r0, %r1};',
    'mma.sync.aligned.m16n8k8.row.col.f16.f16.bf16.f16 {%r0, %r1}, {%r0, %r1}, {%r0}, {%r0, %r1};',
    'mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r0, %r1}, {%r0, %r1}, {%r0}, {%r0, %r1};',
    'mma.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%r0, %r1, %r2, %r3}, {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0, %r1, %r2, %r3};',
    'mma.sync.aligned.m16n8k8.row.col.satfinite.f16.f16.f16.f16 {%r0, %r1}, {%r0, %r1}, {%r0}, {%r0, %r1};',
    'mma.sync.aligned.m16n8k32.row.col.s32.s4.s4.s32 {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0}, {%r0, %r1, %r2, %r3};',
    'mma.sync.aligned.m16n8k16.row.col.f32.s8.s8.f32 {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0}, {%r0, %r1, %r2, %r3};',
    'mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.e3m2.e4m3.f32 {%r0, %r1, %r2, %r3}, {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0, %r1, %r2, %r3};',
    'mma.sync.aligned.m16n8k16.row.col.kind::f8f6f4.f32.f16.f16.f32 {%r0, %r1, %r2, %r3}, {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0, %r1, %r2, %r3};',
    'mma.m16n8k8.row.col.f16.f16.f16.f16 {%r0, %r1}, {%r0, %r1}, {%r0}, {%r0, %r1};',
    'mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r0, %r1}, {%r0, %r1}, {%r0}, {%r0, %r1}, {%r2};',
  ])('%s', (instruction) => {
    expect(() => new Ptx(kernel('', `.reg .b32 %r<9>;\n${instruction}\nret;`))).toThrow(/line \d+/);
  });
});
