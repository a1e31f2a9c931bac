// wgmma: products of matrices whose layouts in shared memory and registers are written here from the specification, for
// every type, swizzle and majorness; chains, groups, and what is refused.
import { describe, expect, it } from 'vitest';
import { type Asynchrony, allocate, EITHER_WAY, kernel, Ptx, SCHEDULES } from './support/interpreter';

type Mode = 'none' | '32' | '64' | '128';
const MODES: Mode[] = ['none', '32', '64', '128'];
type Major = 'k' | 'mn';
type Element = 'f16' | 'bf16' | 'tf32' | 'e4m3' | 'e5m2' | 's8' | 'u8';

const BYTES: Record<Element, number> = { f16: 2, bf16: 2, tf32: 4, e4m3: 1, e5m2: 1, s8: 1, u8: 1 };
const SPAN: Record<Mode, number> = { none: 16, '32': 32, '64': 64, '128': 128 };
/** Bits 62 and 63 of a descriptor. */
const MODE_BITS: Record<Mode, bigint> = { none: 0n, '128': 1n, '64': 2n, '32': 3n };
const STEP_BYTES = 32; // of K in one instruction
const ROWS = 64;
const SHARED = 49152;
const B_AT = 16384; // A lies before it

const depthOf = (type: Element) => STEP_BYTES / BYTES[type];

// --- random numbers that a type holds exactly

let state = 1;
function random(below: number): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
}

/** [exponent bits, mantissa bits] and zero bits behind. */
const FLOATS: Partial<Record<Element, [number, number, number]>> = {
  f16: [5, 10, 0],
  bf16: [8, 7, 0],
  tf32: [8, 10, 13],
  e4m3: [4, 3, 0],
  e5m2: [5, 2, 0],
};

interface Value {
  value: number;
  bits: number;
}
function randomValue(type: Element): Value {
  const format = FLOATS[type];
  if (!format) {
    const bits = random(256);
    return { value: type === 's8' && bits > 127 ? bits - 256 : bits, bits };
  }
  const [exponentBits, mantissaBits, behind] = format;
  const sign = random(2);
  const exponent = random(4) - 2;
  const mantissa = random(2 ** mantissaBits);
  const bias = 2 ** (exponentBits - 1) - 1;
  const bits = ((sign * 2 ** exponentBits + exponent + bias) * 2 ** mantissaBits + mantissa) * 2 ** behind;
  return { value: (sign ? -1 : 1) * (1 + mantissa / 2 ** mantissaBits) * 2 ** exponent, bits };
}

type Matrix = Value[][]; // [row][k], for B [column][k]
const randomMatrix = (rows: number, depth: number, type: Element): Matrix =>
  Array.from({ length: rows }, () => Array.from({ length: depth }, () => randomValue(type)));

function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15));
}

// --- layouts in shared memory

interface Layout {
  major: Major;
  mode: Mode;
  /** Byte offsets as the descriptor has them. */
  leading: number;
  stride: number;
}

/** In 128-byte lines, chunk c of 16 bytes goes to c xor the line's number, within the bits of the mode. */
function swizzle(offset: number, mode: Mode): number {
  if (mode === 'none') return offset;
  const line = Math.floor(offset / 128);
  const mask = SPAN[mode] / 16 - 1;
  const chunk = Math.floor(offset / 16) % 8;
  return line * 128 + ((chunk & ~mask) + ((chunk & mask) ^ (line & mask))) * 16 + (offset % 16);
}

/** Where the element of a row (a column of B) and a k lies, before swizzling; k within what one descriptor reaches. */
function unswizzled(layout: Layout, type: Element, row: number, k: number): number {
  const size = BYTES[type];
  const span = SPAN[layout.mode];
  const { leading, stride } = layout;
  if (layout.major === 'k') {
    const byte = k * size;
    const inGroup = (row % 8) * span + Math.floor(row / 8) * stride;
    // Without swizzle the second 16 bytes are another core matrix; else a row is as long as the span.
    return layout.mode === 'none' ? inGroup + Math.floor(byte / 16) * leading + (byte % 16) : inGroup + byte;
  }
  const perSpan = span / size;
  const [rowStep, kStep] = layout.mode === 'none' ? [stride, leading] : [leading, stride];
  return (row % perSpan) * size + Math.floor(row / perSpan) * rowStep + (k % 8) * span + Math.floor(k / 8) * kStep;
}

/** How far the descriptor's start moves for the next instruction along K. */
function advance(layout: Layout, type: Element): number {
  if (layout.major === 'mn') return (depthOf(type) / 8) * (layout.mode === 'none' ? layout.leading : layout.stride);
  return layout.mode === 'none' ? 2 * layout.leading : STEP_BYTES;
}

/** A layout that keeps rows x (steps x 32 bytes) without overlap. `gap` makes both offsets larger than they need be. */
function layoutOf(major: Major, mode: Mode, type: Element, rows: number, steps: number, gap = 0): Layout {
  const span = SPAN[mode];
  const atom = 8 * span; // bytes; swizzled atoms stay aligned to it
  const extra = gap * (mode === 'none' ? 128 : atom);
  if (major === 'k') {
    if (mode === 'none') return { major, mode, leading: (rows / 8) * 128 + extra, stride: 128 };
    return { major, mode, leading: 16, stride: atom + extra };
  }
  const groups = (steps * depthOf(type)) / 8;
  if (mode === 'none') return { major, mode, leading: 128, stride: groups * 128 + extra };
  return { major, mode, leading: groups * atom + extra, stride: atom };
}

function placeMatrix(image: Buffer, at: number, matrix: Matrix, layout: Layout, type: Element): void {
  const depth = depthOf(type);
  matrix.forEach((line, row) => {
    line.forEach(({ bits }, k) => {
      const step = Math.floor(k / depth);
      const offset = at + step * advance(layout, type) + unswizzled(layout, type, row, k % depth);
      image.writeUIntLE(bits, swizzle(offset, layout.mode), BYTES[type]);
    });
  });
}

// --- fragments in registers, of one of 128 threads

/** Row and k of each element of A that a thread holds, in the order of its registers' bytes. */
function fragmentA(thread: number, type: Element): [number, number][] {
  const top = Math.floor(thread / 32) * 16 + Math.floor((thread % 32) / 4);
  const inGroup = thread % 4;
  const perRegister = 4 / BYTES[type];
  return Array.from({ length: 4 * perRegister }, (_, i) => {
    const register = Math.floor(i / perRegister);
    const row = register === 0 || register === 2 ? top : top + 8;
    const k = inGroup * perRegister + (i % perRegister) + (register >= 2 ? 4 * perRegister : 0);
    return [row, k] as [number, number];
  });
}

/** Row and column of each element of D that a thread holds. */
function fragmentD(thread: number, columns: number): [number, number][] {
  const top = Math.floor(thread / 32) * 16 + Math.floor((thread % 32) / 4);
  return Array.from({ length: columns / 2 }, (_, i) => {
    return [top + (i % 4 < 2 ? 0 : 8), Math.floor(i / 4) * 8 + (thread % 4) * 2 + (i & 1)] as [number, number];
  });
}

// --- a product

interface Product {
  a: Element;
  b: Element;
  sum: 'f32' | 'f16' | 's32';
  columns: number;
  steps?: number;
  layoutA?: [Major, Mode, number?] | 'registers';
  layoutB?: [Major, Mode, number?];
  /** scale-d of the first step; later steps add. */
  accumulate?: boolean;
  negateA?: boolean;
  negateB?: boolean;
  saturate?: boolean;
  /** In the kernel, between issue and the stores of the result; the default waits. */
  wait?: string;
  fence?: string;
  schedule?: { seed?: number; asynchrony?: Asynchrony };
}

const registerList = (name: string, count: number, first = 0) =>
  `{${Array.from({ length: count }, (_, i) => `%${name}${first + i}`).join(', ')}}`;

const WAIT = 'wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;';

function upperBits(layout: Layout): bigint {
  return (BigInt(layout.leading >> 4) << 16n) | (BigInt(layout.stride >> 4) << 32n) | (MODE_BITS[layout.mode] << 62n);
}

/** PTX that makes a descriptor of shared memory at an offset of `smem`. */
const descriptor = (register: string, at: number, upper: bigint) => `
  add.u32 %t1, %smem, ${at}; and.b32 %t1, %t1, 0x3ffff; shr.u32 %t1, %t1, 4; cvt.u64.u32 %${register}, %t1;
  or.b64 %${register}, %${register}, 0x${BigInt.asUintN(64, upper).toString(16)};`;

const PARAMETERS = '.param .u64 image, .param .u64 fragments, .param .u64 sums';
/** Declarations; shared memory filled with the image by ordinary stores. */
const HEAD = (sums: number, fence = 'fence.proxy.async;') => `
  .shared .align 1024 .b8 smem[${SHARED}];
  .reg .b32 %smem; .reg .b32 %t<12>; .reg .b32 %c<${sums + 1}>; .reg .b32 %a<16>;
  .reg .b64 %p_image, %p_a, %p_sums, %da, %db, %x<4>; .reg .pred %q, %yes, %no;
  ld.param.u64 %p_image, [image]; ld.param.u64 %p_a, [fragments]; ld.param.u64 %p_sums, [sums];
  mov.u32 %smem, smem; mov.u32 %t0, %tid.x; setp.ne.u32 %yes, 1, 0; setp.ne.u32 %no, 0, 0;
  and.b32 %t0, %t0, 127; shl.b32 %t2, %t0, 4;
  fill:
  cvt.u64.u32 %x0, %t2; add.u64 %x0, %p_image, %x0; add.u32 %t3, %smem, %t2;
  ld.global.v4.u32 {%t4, %t5, %t6, %t7}, [%x0]; st.shared.v4.u32 [%t3], {%t4, %t5, %t6, %t7};
  add.u32 %t2, %t2, 2048; setp.lt.u32 %q, %t2, ${SHARED}; @%q bra fill;
  ${fence} bar.sync 0;
  mul.wide.u32 %x1, %t0, ${4 * sums}; add.u64 %p_sums, %p_sums, %x1;
  mul.wide.u32 %x1, %t0, 16; add.u64 %p_a, %p_a, %x1;
  ${Array.from({ length: sums }, (_, i) => `ld.global.u32 %c${i}, [%p_sums+${4 * i}];`).join('\n')}`;
const TAIL = (sums: number) =>
  Array.from({ length: sums }, (_, i) => `st.global.u32 [%p_sums+${4 * i}], %c${i};`).join('\n');

function mma(p: Product, step: number, sums: number, a: string, transposed: string): string {
  const depth = depthOf(p.a);
  const floats = p.sum === 's32' ? '' : `, ${p.negateA ? -1 : 1}, ${p.negateB ? -1 : 1}${transposed}`;
  const scale = step > 0 || p.accumulate ? '%yes' : '%no';
  const form = `m64n${p.columns}k${depth}${p.saturate ? '.satfinite' : ''}.${p.sum}.${p.a}.${p.b}`;
  return `wgmma.mma_async.sync.aligned.${form} ${registerList('c', sums)}, ${a}, %db, ${scale}${floats};`;
}

/** Runs the product; sums before and after as numbers, [row][column], with what they must be. */
function product(p: Product): { result: number[][]; expected: number[][]; size: number[][] } {
  const steps = p.steps ?? 1;
  const depth = steps * depthOf(p.a);
  const a = randomMatrix(ROWS, depth, p.a);
  const b = randomMatrix(p.columns, depth, p.b);
  const inRegisters = p.layoutA === 'registers';
  const given = p.layoutA === undefined || p.layoutA === 'registers' ? undefined : p.layoutA;
  const [majorA, modeA, gapA] = given ?? (['k', '128'] as [Major, Mode, number?]);
  const [majorB, modeB, gapB] = p.layoutB ?? (['k', '128'] as [Major, Mode, number?]);
  const layoutA = layoutOf(majorA, modeA, p.a, ROWS, steps, gapA);
  const layoutB = layoutOf(majorB, modeB, p.b, p.columns, steps, gapB);

  const image = allocate(SHARED).fill(0xff);
  const fragments = allocate(steps * 2048);
  if (inRegisters) {
    for (let step = 0; step < steps; step++) {
      for (let thread = 0; thread < 128; thread++) {
        fragmentA(thread, p.a).forEach(([row, k], i) => {
          const { bits } = (a[row] as Value[])[step * depthOf(p.a) + k] as Value;
          fragments.writeUIntLE(bits, step * 2048 + thread * 16 + i * BYTES[p.a], BYTES[p.a]);
        });
      }
    }
  } else {
    placeMatrix(image, 0, a, layoutA, p.a);
  }
  placeMatrix(image, B_AT, b, layoutB, p.b);

  const sums = p.sum === 'f16' ? p.columns / 4 : p.columns / 2;
  const memory = allocate(128 * sums * 4);
  const at = (thread: number, i: number) => (p.sum === 'f16' ? thread * sums * 4 + 2 * i : (thread * sums + i) * 4);
  const read = (thread: number, i: number) =>
    p.sum === 'f16'
      ? halfToNumber(memory.readUInt16LE(at(thread, i)))
      : p.sum === 'f32'
        ? memory.readFloatLE(at(thread, i))
        : memory.readInt32LE(at(thread, i));
  const gatherSums = () => {
    const matrix = Array.from({ length: ROWS }, () => new Array<number>(p.columns).fill(Number.NaN));
    for (let thread = 0; thread < 128; thread++) {
      fragmentD(thread, p.columns).forEach(([row, column], i) => {
        (matrix[row] as number[])[column] = read(thread, i);
      });
    }
    return matrix;
  };
  for (let thread = 0; thread < 128; thread++) {
    for (let i = 0; i < p.columns / 2; i++) {
      const value = random(65) - 32;
      if (p.sum === 'f16') memory.writeUInt16LE(value === 0 ? 0 : smallHalf(value), at(thread, i));
      else if (p.sum === 'f32') memory.writeFloatLE(value, at(thread, i));
      else memory.writeInt32LE(p.saturate ? Math.sign(value) * (2 ** 31 - 20000) : value, at(thread, i));
    }
  }
  const before = gatherSums();

  const transposed =
    BYTES[p.a] !== 2 ? '' : `${inRegisters ? '' : `, ${majorA === 'mn' ? 1 : 0}`}, ${majorB === 'mn' ? 1 : 0}`;
  const loadA = Array.from({ length: inRegisters ? steps : 0 }, (_, step) => {
    return `ld.global.v4.u32 ${registerList('a', 4, 4 * step)}, [%p_a+${2048 * step}];`;
  });
  const body = Array.from({ length: steps }, (_, step) => {
    const makeA = inRegisters ? '' : descriptor('da', step * advance(layoutA, p.a), upperBits(layoutA));
    const makeB = descriptor('db', B_AT + step * advance(layoutB, p.b), upperBits(layoutB));
    return `${makeA} ${makeB} ${mma(p, step, sums, inRegisters ? registerList('a', 4, 4 * step) : '%da', transposed)}`;
  });
  const source = kernel(
    PARAMETERS,
    `${HEAD(sums, p.fence)} ${loadA.join('\n')} wgmma.fence.sync.aligned;
     ${body.join('\n')} ${p.wait ?? WAIT} ${TAIL(sums)}`,
  );
  new Ptx(source).launch('test', [image, fragments, memory], { block: [128], ...p.schedule });

  const sign = (p.negateA ? -1 : 1) * (p.negateB ? -1 : 1);
  const expected = before.map((line) => line.map((value) => (p.accumulate ? value : 0)));
  const size = expected.map((line) => line.map(Math.abs));
  for (let row = 0; row < ROWS; row++) {
    for (let column = 0; column < p.columns; column++) {
      for (let k = 0; k < depth; k++) {
        const term = (a[row] as Value[])[k]!.value * (b[column] as Value[])[k]!.value;
        (expected[row] as number[])[column]! += sign * term;
        (size[row] as number[])[column]! += Math.abs(term);
      }
    }
  }
  return { result: gatherSums(), expected, size };
}

/** A small integer as half. */
function smallHalf(value: number): number {
  const magnitude = Math.abs(value);
  const exponent = Math.floor(Math.log2(magnitude));
  return (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | ((magnitude / 2 ** exponent - 1) * 1024);
}

function check(p: Product): void {
  const { result, expected, size } = product(p);
  // Devices add products of 8-bit floats with fewer bits than the sums have.
  const narrow = BYTES[p.a] === 1 ? 5e-4 : 2e-6;
  const tolerance = p.sum === 's32' ? 0 : p.sum === 'f32' ? narrow : 1.5e-3 * (p.steps ?? 1);
  let worst = 0;
  for (let row = 0; row < ROWS; row++) {
    for (let column = 0; column < p.columns; column++) {
      let exact = (expected[row] as number[])[column] as number;
      if (p.saturate) exact = Math.min(Math.max(exact, -(2 ** 31)), 2 ** 31 - 1);
      const error = Math.abs(((result[row] as number[])[column] as number) - exact);
      const allowed = tolerance * ((size[row] as number[])[column] as number);
      worst = Math.max(worst, error <= allowed ? 0 : Number.isNaN(error) ? Number.POSITIVE_INFINITY : error);
    }
  }
  expect(worst).toBe(0);
}
function checkBoth(p: Product): void {
  for (const schedule of EITHER_WAY) check({ ...p, schedule });
}

// --- tests

const HALVES: Element[] = ['f16', 'bf16'];
const FP8: Element[] = ['e4m3', 'e5m2'];
const INTEGERS: Element[] = ['s8', 'u8'];
const TYPES: [Element, Element, Product['sum']][] = [
  ['f16', 'f16', 'f32'],
  ['f16', 'f16', 'f16'],
  ['bf16', 'bf16', 'f32'],
  ['tf32', 'tf32', 'f32'],
  ...FP8.flatMap((a) =>
    FP8.flatMap((b) => ['f32', 'f16'].map((sum) => [a, b, sum] as [Element, Element, Product['sum']])),
  ),
  ...INTEGERS.flatMap((a) => INTEGERS.map((b) => [a, b, 's32'] as [Element, Element, Product['sum']])),
];

describe.each(TYPES)('%s x %s to %s', (a, b, sum) => {
  const p = { a, b, sum, columns: 32 };
  it('both in shared memory, overwriting', () => checkBoth(p));
  it('both in shared memory, adding, four steps', () => checkBoth({ ...p, steps: 4, accumulate: true }));
  it('A in registers', () => checkBoth({ ...p, layoutA: 'registers', steps: 2 }));
  it('A in registers, adding', () => checkBoth({ ...p, layoutA: 'registers', accumulate: true }));
  it.each(MODES)('K-major with swizzle %s', (mode) => {
    const steps = mode === 'none' ? 4 : SPAN[mode] / STEP_BYTES;
    checkBoth({ ...p, layoutA: ['k', mode], steps });
    checkBoth({ ...p, layoutB: ['k', mode], steps });
    checkBoth({ ...p, layoutA: ['k', mode, 1], layoutB: ['k', mode, 1], steps: 1 });
  });
  if (sum !== 's32') {
    it.each([
      [true, false],
      [false, true],
      [true, true],
    ])('negated: A %s, B %s', (negateA, negateB) => checkBoth({ ...p, negateA, negateB, accumulate: true }));
  }
});

describe.each(HALVES)('layouts of %s', (type) => {
  const p: Product = { a: type, b: type, sum: 'f32', columns: 128, steps: 2 };
  describe.each(MODES)('swizzle %s', (mode) => {
    it('A with M contiguous', () => {
      checkBoth({ ...p, layoutA: ['mn', mode], columns: 16 });
      checkBoth({ ...p, layoutA: ['mn', mode, 1], columns: 16, steps: 1 });
    });
    it('B with N contiguous', () => {
      checkBoth({ ...p, layoutB: ['mn', mode] });
      checkBoth({ ...p, layoutB: ['mn', mode, 1], columns: 64 });
      checkBoth({ ...p, layoutB: ['mn', mode], columns: 24 });
    });
    it('B with N contiguous, A in registers', () => check({ ...p, layoutA: 'registers', layoutB: ['mn', mode] }));
    it('both with K outside', () => check({ ...p, layoutA: ['mn', mode], layoutB: ['mn', mode] }));
  });
});

describe('columns', () => {
  it.each([8, 16, 24, 64, 80, 104, 128, 176, 192, 256])('%i of bf16', (columns) => {
    checkBoth({ a: 'bf16', b: 'bf16', sum: 'f32', columns, accumulate: true });
  });
  it.each([8, 24, 48, 256])('%i of f16 to f16', (columns) => {
    checkBoth({ a: 'f16', b: 'f16', sum: 'f16', columns, accumulate: true });
  });
  it.each([8, 16, 24, 32, 48, 112, 256])('%i of s8', (columns) => {
    checkBoth({ a: 's8', b: 'u8', sum: 's32', columns, accumulate: true });
  });
  it('saturate when asked to', () => {
    checkBoth({ a: 'u8', b: 'u8', sum: 's32', columns: 16, accumulate: true, saturate: true });
    checkBoth({ a: 's8', b: 's8', sum: 's32', columns: 16, accumulate: true, saturate: true, layoutA: 'registers' });
  });
});

describe.each(SCHEDULES)('seed $seed $asynchrony', (schedule) => {
  const p: Product = { a: 'bf16', b: 'bf16', sum: 'f32', columns: 64, steps: 4, accumulate: true, schedule };
  it('a chain of four', () => check(p));
  it('A in registers', () => check({ ...p, layoutA: 'registers' }));
  it('each operation a group of its own, waited for one by one', () => {
    const one = 'wgmma.commit_group.sync.aligned;';
    check({ ...p, wait: `${one} wgmma.wait_group.sync.aligned 1; ${one} wgmma.wait_group.sync.aligned 0;` });
  });
});

describe('operations under way', () => {
  const P: Product = { a: 'f16', b: 'f16', sum: 'f32', columns: 16 };
  const equal = (wait: string, asynchrony: Asynchrony) => {
    const { result, expected, size } = product({ ...P, wait, schedule: { asynchrony } });
    return result.every((line, row) =>
      line.every((value, c) => Math.abs(value - expected[row]![c]!) <= 2e-6 * size[row]![c]!),
    );
  };
  it('are not done before a wait, when late', () => {
    expect(equal(WAIT, 'late')).toBe(true);
    expect(equal('', 'immediate')).toBe(true);
    expect(equal('', 'late')).toBe(false);
    expect(equal('wgmma.commit_group.sync.aligned;', 'late')).toBe(false);
    expect(equal('wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 1;', 'late')).toBe(false);
  });

  it('leave their sums as NaN, so that reading too early is seen', () => {
    const { result } = product({ ...P, accumulate: true, wait: '', schedule: { asynchrony: 'late' } });
    expect(result.flat().every(Number.isNaN)).toBe(true);
  });

  /** Two products of the same A and B in groups of their own: c0..7 and c8..15. */
  function twoGroups(between: string): number[][] {
    const image = allocate(SHARED).fill(0);
    const layout = layoutOf('k', '128', 'f16', 64, 1);
    const one = (rows: number, depth: number): Matrix =>
      Array.from({ length: rows }, () => Array.from({ length: depth }, () => ({ value: 1, bits: 0x3c00 })));
    placeMatrix(image, 0, one(64, 16), layout, 'f16');
    placeMatrix(image, B_AT, one(16, 16), layout, 'f16');
    const memory = allocate(128 * 16 * 4);
    const form = 'wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16';
    const second = registerList('c', 8, 8);
    const source = kernel(
      PARAMETERS,
      `${HEAD(16)} ${descriptor('da', 0, upperBits(layout))} ${descriptor('db', B_AT, upperBits(layout))}
       wgmma.fence.sync.aligned;
       ${form} ${registerList('c', 8)}, %da, %db, %no, 1, 1, 0, 0; wgmma.commit_group.sync.aligned;
       ${form} ${second}, %da, %db, %no, 1, -1, 0, 0; wgmma.commit_group.sync.aligned;
       ${between} ${TAIL(16)}`,
    );
    new Ptx(source).launch('test', [image, allocate(2048), memory], { block: [128], asynchrony: 'late' });
    const values = new Float32Array(memory.buffer, memory.byteOffset, 2048);
    return [0, 8].map((at) => [...new Set([...values].filter((_, i) => i % 16 >= at && i % 16 < at + 8))]);
  }
  it('are waited for by group, oldest first', () => {
    expect(twoGroups('wgmma.wait_group.sync.aligned 0;')).toEqual([[16], [-16]]);
    expect(twoGroups('wgmma.wait_group.sync.aligned 1;')).toEqual([[16], [Number.NaN]]);
    expect(twoGroups('wgmma.wait_group.sync.aligned 2;')).toEqual([[Number.NaN], [Number.NaN]]);
  });

  it('into registers that overlap otherwise are reported', () => {
    const overlapping = (count: number, first: number) =>
      `wgmma.mma_async.sync.aligned.m64n${2 * count}k16.f32.f16.f16 ${registerList('c', count, first)}, %da, %db, %no, 1, 1, 0, 0;`;
    const half = `wgmma.mma_async.sync.aligned.m64n16k16.f16.f16.f16 ${registerList('c', 4)}, %da, %db, %no, 1, 1, 0, 0;`;
    for (const second of [overlapping(8, 0), overlapping(4, 2), half]) {
      const layout = layoutOf('k', '128', 'f16', 64, 1);
      const source = kernel(
        PARAMETERS,
        `${HEAD(16)} ${descriptor('da', 0, upperBits(layout))} ${descriptor('db', B_AT, upperBits(layout))}
         wgmma.fence.sync.aligned; ${overlapping(4, 0)} ${second} ${WAIT}`,
      );
      const launch = () =>
        new Ptx(source).launch('test', [allocate(SHARED), allocate(2048), allocate(8192)], {
          block: [128],
          asynchrony: 'late',
        });
      expect(launch).toThrow(/overlap/);
    }
  });

  it('of two warpgroups are independent', () => {
    // Each warpgroup multiplies by the descriptor of its own half of A: ones or twos.
    const image = allocate(SHARED).fill(0);
    const layout = layoutOf('k', '32', 'f16', 64, 1);
    const filled = (rows: number, bits: number): Matrix =>
      Array.from({ length: rows }, () => Array.from({ length: 16 }, () => ({ value: 0, bits })));
    placeMatrix(image, 0, filled(64, 0x3c00), layout, 'f16');
    placeMatrix(image, 2048, filled(64, 0x4000), layout, 'f16');
    placeMatrix(image, B_AT, filled(8, 0x3c00), layout, 'f16');
    const source = kernel(
      PARAMETERS,
      `${HEAD(4)} ${descriptor('da', 0, upperBits(layout))} ${descriptor('db', B_AT, upperBits(layout))}
       mov.u32 %t8, %tid.x; shr.u32 %t8, %t8, 7; mul.wide.u32 %x2, %t8, 128; add.u64 %da, %da, %x2;
       mul.wide.u32 %x2, %t8, 2048; add.u64 %p_sums, %p_sums, %x2;
       wgmma.fence.sync.aligned;
       wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 ${registerList('c', 4)}, %da, %db, %no, 1, 1, 0, 0;
       ${WAIT} ${TAIL(4)}`,
    );
    for (const schedule of SCHEDULES) {
      const memory = allocate(4096);
      new Ptx(source).launch('test', [image, allocate(2048), memory], { block: [256], ...schedule });
      const values = new Float32Array(memory.buffer, memory.byteOffset, 1024);
      expect([...values]).toEqual(Array.from({ length: 1024 }, (_, i) => (i < 512 ? 16 : 32)));
    }
  });
});

describe('misuse is reported', () => {
  const LAYOUT = layoutOf('k', '128', 'f16', 64, 1);
  const FORM = 'wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16';
  const OPERATION = `${FORM} ${registerList('c', 4)}, %da, %db, %no, 1, 1, 0, 0;`;
  const MAKE = `${descriptor('da', 0, upperBits(LAYOUT))} ${descriptor('db', B_AT, upperBits(LAYOUT))}`;
  const FENCE = 'wgmma.fence.sync.aligned;';
  function launch(body: string, block = 128): void {
    const source = kernel(PARAMETERS, `${HEAD(4)} ${body}`);
    new Ptx(source).launch('test', [allocate(SHARED), allocate(2048), allocate(4096)], { block: [block] });
  }

  it('nothing in what is right', () => launch(`${MAKE} ${FENCE} ${OPERATION} ${WAIT}`));

  it.each([
    ['a base offset', `${MAKE} or.b64 %da, %da, 0x2000000000000; ${FENCE} ${OPERATION} ${WAIT}`, /base offset/],
    ['reserved bits', `${MAKE} or.b64 %db, %db, 0x1000000000000000; ${FENCE} ${OPERATION} ${WAIT}`, /reserved/],
    [
      'a matrix beyond shared memory',
      `${MAKE} ${descriptor('db', SHARED - 256, upperBits(LAYOUT))} ${FENCE} ${OPERATION} ${WAIT}`,
      /out of bounds/,
    ],
    [
      'descriptors that differ',
      `${MAKE} setp.eq.u32 %q, %t0, 70; @%q add.u64 %da, %da, 2; ${FENCE} ${OPERATION} ${WAIT}`,
      /same in all threads/,
    ],
    [
      'scale-d that differs',
      `${MAKE} setp.lt.u32 %q, %t0, 64; ${FENCE} ${OPERATION.replace('%no', '%q')} ${WAIT}`,
      /scale-d/,
    ],
    [
      'a guard that holds in some lanes',
      `${MAKE} setp.ne.u32 %q, %t0, 70; ${FENCE} @%q ${OPERATION} ${WAIT}`,
      /all 32 lanes/,
    ],
    [
      'warps that issue different operations',
      `${MAKE} setp.lt.u32 %q, %t0, 64; @%q bra other; ${OPERATION} bra end; other: ${OPERATION} end: ${WAIT}`,
      /different wgmma/,
    ],
    [
      'a warp that does not come',
      `${MAKE} setp.lt.u32 %q, %t0, 32; @%q bra end; ${FENCE} end:`,
      /deadlock[\s\S]*wgmma\.fence/i,
    ],
  ])('%s', (_, body, message) => {
    expect(() => launch(body)).toThrow(message);
  });

  it('a block without four warps', () => {
    expect(() => launch(`${MAKE} ${FENCE}`, 96)).toThrow(/four whole warps/);
  });

  it('shared memory that was written without fence.proxy.async', () => {
    const p: Product = { a: 'f16', b: 'f16', sum: 'f32', columns: 8, fence: '' };
    expect(() => check(p)).toThrow(/fence\.proxy\.async/);
  });

  const four = registerList('c', 4);
  const MMA = 'wgmma.mma_async.sync.aligned';
  it.each([
    `wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16 ${four}, %da, %db, %t0, 0, %no, 1, 1, 0, 0;`,
    `${MMA}.m64n8k256.s32.b1.b1.and.popc ${four}, %da, %db, %no;`,
    `${MMA}.m64n12k16.f32.f16.f16 ${four}, %da, %db, %no, 1, 1, 0, 0;`,
    `${MMA}.m64n264k16.f32.f16.f16 ${four}, %da, %db, %no, 1, 1, 0, 0;`,
    `${MMA}.m64n8k8.f32.f16.f16 ${four}, %da, %db, %no, 1, 1, 0, 0;`,
    `${MMA}.m64n40k32.s32.s8.s8 ${four}, %da, %db, %no;`,
    `${MMA}.m64n8k16.f32.f16.bf16 ${four}, %da, %db, %no, 1, 1, 0, 0;`,
    `${MMA}.m64n8k16.f16.bf16.bf16 {%c0, %c1}, %da, %db, %no, 1, 1, 0, 0;`,
    `${MMA}.m64n8k8.f16.tf32.tf32 {%c0, %c1}, %da, %db, %no, 1, 1;`,
    `${MMA}.m64n8k16.satfinite.f32.f16.f16 ${four}, %da, %db, %no, 1, 1, 0, 0;`,
    `${MMA}.m64n8k16.f32.f16.f16 {%c0, %c1}, %da, %db, %no, 1, 1, 0, 0;`,
    `${MMA}.m64n8k16.f32.f16.f16 ${four}, %da, %db, %no, 2, 1, 0, 0;`,
    `${MMA}.m64n8k16.f32.f16.f16 ${four}, %da, %db, %no, 1, 1, 0;`,
    `${MMA}.m64n8k16.f32.f16.f16 ${four}, %da, %db, %no, 1, 1, 0, -1;`,
    `${MMA}.m64n8k16.f32.f16.f16 ${four}, {%a0, %a1, %a2, %a3}, %db, %no, 1, 1, 0, 0;`,
    `${MMA}.m64n8k8.f32.tf32.tf32 ${four}, %da, %db, %no, 1, 1, 0, 0;`,
    `${MMA}.m64n8k32.s32.s8.s8 ${four}, %da, %db, %no, 1, 1;`,
    `${MMA.replace('.aligned', '')}.m64n8k16.f32.f16.f16 ${four}, %da, %db, %no, 1, 1, 0, 0;`,
    'wgmma.wait_group.sync.aligned;',
    'wgmma.commit_group.aligned;',
  ])('an unknown form: %s', (body) => {
    expect(() => launch(body)).toThrow(/line \d+.*not supported/s);
  });
});
