// atom and red: every operation and type against what the ISA says of it, on one address from many lanes.
import { describe, expect, it } from 'vitest';
import { allocate, kernel, Ptx, SCHEDULES } from './support/interpreter';

const PARAMETERS = '.param .u64 cell, .param .u64 old';
const HEAD = `.reg .b64 %d<8>; .reg .b32 %r<8>; .reg .b16 %h<4>; .reg .pred %p<4>;
  ld.param.u64 %d0, [cell]; ld.param.u64 %d1, [old]; mov.u32 %r0, %tid.x;
  mul.wide.u32 %d2, %r0, 8; add.u64 %d1, %d1, %d2;`;

/** A cell that holds `start`, and what each thread got. */
function run(body: string, start: bigint, threads = 1, options = {}): { cell: bigint; old: bigint[] } {
  const cell = allocate(8);
  cell.writeBigUInt64LE(start);
  const old = allocate(8 * threads);
  new Ptx(kernel(PARAMETERS, HEAD + body)).launch('test', [cell, old], { block: [threads], ...options });
  return { cell: cell.readBigUInt64LE(), old: Array.from({ length: threads }, (_, i) => old.readBigUInt64LE(8 * i)) };
}

const M32 = 0xffffffffn;
const M64 = 0xffffffffffffffffn;
const f32 = (x: number) => BigInt(new Uint32Array(Float32Array.of(x).buffer)[0]!);
const f64 = (x: number) => new BigUint64Array(Float64Array.of(x).buffer)[0]!;

describe('operations', () => {
  it.each([
    ['add.u32', 32, 0xfffffffen, 5n, 3n],
    ['add.s32', 32, 5n, 0xfffffff0n, 0xfffffff5n],
    ['add.u64', 64, M64, 2n, 1n],
    ['add.f32', 32, f32(1.5), f32(0.1), f32(Math.fround(1.5 + Math.fround(0.1)))],
    ['add.f64', 64, f64(1.5), f64(0.1), f64(1.6)],
    ['min.u32', 32, 3n, 0xffffffffn, 3n],
    ['min.s32', 32, 3n, 0xffffffffn, 0xffffffffn],
    ['min.u64', 64, 3n, M64, 3n],
    ['min.s64', 64, 3n, M64, M64],
    ['max.u32', 32, 3n, 0xffffffffn, 0xffffffffn],
    ['max.s32', 32, 3n, 0xffffffffn, 3n],
    ['max.u64', 64, 3n, M64, M64],
    ['max.s64', 64, 3n, M64, 3n],
    ['and.b32', 32, 0xf0f0n, 0xff00n, 0xf000n],
    ['or.b32', 32, 0xf0f0n, 0xff00n, 0xfff0n],
    ['xor.b64', 64, 0xf0f0n, M64, M64 ^ 0xf0f0n],
    ['exch.b32', 32, 1n, 2n, 2n],
    ['exch.b64', 64, 1n, 2n, 2n],
    ['inc.u32', 32, 6n, 7n, 7n],
    ['inc.u32', 32, 7n, 7n, 0n],
    ['inc.u32', 32, 9n, 7n, 0n],
    ['dec.u32', 32, 7n, 7n, 6n],
    ['dec.u32', 32, 0n, 7n, 7n],
    ['dec.u32', 32, 9n, 7n, 7n],
    ['add.noftz.f16x2', 32, 0x3c003c00n, 0x40003c00n, 0x42004000n],
    ['add.noftz.bf16x2', 32, 0x3f803f80n, 0x40003f80n, 0x40404000n],
  ])('atom.global.%s', (operation, bits, start, operand, expected) => {
    const register = bits === 64 ? '%d3' : '%r3';
    const result = bits === 64 ? '%d4' : '%r4';
    const body = `mov.b${bits} ${register}, ${operand}; atom.global.${operation} ${result}, [%d0], ${register}; st.global.b${bits} [%d1], ${result};`;
    const mask = bits === 64 ? M64 : M32;
    const got = run(body, start);
    expect(got.cell & mask).toBe(expected);
    expect(got.old[0]).toBe(start);
    if (operation.startsWith('exch')) return;
    const reduced = run(
      body
        .replace(/atom\.global/, 'red.relaxed.gpu.global')
        .replace(/(red\S+) %\w+,/, '$1')
        .replace(/st\.global.*/, ''),
      start,
    );
    expect(reduced.cell & mask).toBe(expected);
  });

  it('cas writes only where it found what it expected', () => {
    const body = (expected: number) =>
      `mov.b32 %r3, ${expected}; mov.b32 %r5, 9; atom.cas.b32 %r4, [%d0], %r3, %r5; st.global.b32 [%d1], %r4;`;
    expect(run(body(4), 4n)).toEqual({ cell: 9n, old: [4n] });
    expect(run(body(5), 4n)).toEqual({ cell: 4n, old: [4n] });
  });

  it('writes no more than its type', () => {
    expect(run('mov.b32 %r3, 1; atom.global.add.u32 %r4, [%d0], %r3;', 0x1_ffff_ffffn).cell).toBe(0x1_0000_0000n);
  });
});

describe('many lanes on one address', () => {
  it.each(SCHEDULES)('each sees another state, seed $seed $asynchrony', (schedule) => {
    const body = 'mov.b32 %r3, 1; atom.global.add.u32 %r4, [%d0], %r3; st.global.b32 [%d1], %r4;';
    const { cell, old } = run(body, 10n, 96, schedule);
    expect(cell).toBe(106n);
    expect(old.map(Number).sort((a, b) => a - b)).toEqual(Array.from({ length: 96 }, (_, i) => 10 + i));
  });

  it('in shared memory, by a loop of cas', () => {
    const body = `.shared .align 4 .b32 sum; setp.eq.u32 %p1, %r0, 0; mov.b32 %r1, 0; @%p1 st.shared.b32 [sum], %r1; bar.sync 0;
      again: ld.shared.b32 %r2, [sum]; add.u32 %r3, %r2, %r0; atom.shared.cas.b32 %r4, [sum], %r2, %r3;
      setp.ne.u32 %p2, %r4, %r2; @%p2 bra again;
      bar.sync 0; ld.shared.b32 %r5, [sum]; @%p1 st.global.b32 [%d0], %r5;`;
    expect(run(body, 0n, 64).cell).toBe(2016n);
  });
});

it.each([
  'atom.global.mul.u32 %r4, [%d0], %r3;',
  'atom.global.add.b32 %r4, [%d0], %r3;',
  'atom.global.cas.b32 %r4, [%d0], %r3;',
  'atom.global.add.noftz.u32 %r4, [%d0], %r3;',
  'atom.global.add.f16x2 %r4, [%d0], %r3;',
  'atom.relaxed.acquire.gpu.global.add.u32 %r4, [%d0], %r3;',
  'red.global.add.u32 %r4, [%d0], %r3;',
])('%s is refused when it is loaded', (line) => {
  expect(() => new Ptx(kernel(PARAMETERS, HEAD + line))).toThrow(/not supported/);
});
