// ld and st in every state space, and the faults of bad accesses.
import { describe, expect, it } from 'vitest';
import { allocate, kernel, type LaunchOptions, Ptx } from './support/interpreter';

const OUT = '.param .u64 out';
const HEAD = `.reg .b64 %d<12>; .reg .b32 %r<12>; .reg .b16 %h<4>; .reg .f32 %f<4>; .reg .pred %p<4>;
  .shared .align 16 .b8 tile[64]; .local .align 16 .b8 own[32];
  ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x;`;

function run(
  body: string,
  words = 8,
  threads = 1,
  parameters = OUT,
  more: Parameters<Ptx['launch']>[1] = [],
  options: LaunchOptions = {},
): number[] {
  const out = allocate(4 * words).fill(0xcc);
  new Ptx(kernel(parameters, HEAD + body)).launch('test', [out, ...more], { block: [threads], ...options });
  return Array.from({ length: words }, (_, i) => out.readUInt32LE(4 * i));
}

describe('types', () => {
  // Memory holds 0x89abcdef_80ff7f01; what a load of each type gives in 64 bits.
  it.each([
    ['b8', 0x01n],
    ['u8', 0x01n],
    ['s8', 0x01n],
    ['b16', 0x7f01n],
    ['u16', 0x7f01n],
    ['s16', 0x7f01n],
    ['b32', 0x80ff7f01n],
    ['u32', 0x80ff7f01n],
    ['f32', 0x80ff7f01n],
    ['b64', 0x89abcdef80ff7f01n],
    ['u64', 0x89abcdef80ff7f01n],
    ['s64', 0x89abcdef80ff7f01n],
    ['f64', 0x89abcdef80ff7f01n],
  ])('ld.%s', (type, expected) => {
    const [low, high] = run(
      `mov.b64 %d1, 0x89abcdef80ff7f01; st.shared.b64 [tile], %d1;
       mov.b64 %d2, 0; ld.shared.${type} %d2, [tile]; st.global.b64 [%d0], %d2;`,
    );
    expect((BigInt(high!) << 32n) | BigInt(low!)).toBe(expected);
  });

  it('signed types are extended', () => {
    expect(
      run(
        `mov.b32 %r1, 0x8085; st.shared.b32 [tile], %r1;
         ld.shared.s8 %r2, [tile]; st.global.b32 [%d0], %r2;
         ld.shared.s16 %r2, [tile]; st.global.b32 [%d0+4], %r2;
         ld.shared.u8 %r2, [tile]; st.global.b32 [%d0+8], %r2;
         mov.b32 %r1, 0x80000000; st.shared.b32 [tile], %r1;
         ld.shared.s32 %d2, [tile]; st.global.b64 [%d0+16], %d2;`,
      ).slice(0, 6),
    ).toEqual([0xffffff85, 0xffff8085, 0x85, 0xcccccccc, 0x80000000, 0xffffffff]);
  });

  it('stores write as many bytes as they say, and no more', () => {
    expect(
      run(`mov.b32 %r1, 0x11223344;
       st.global.b8 [%d0], %r1; st.global.b16 [%d0+6], %r1; mov.b64 %d1, 0x5566778899aabbcc; st.global.b64 [%d0+8], %d1;`),
    ).toEqual([0xcccccc44, 0x3344cccc, 0x99aabbcc, 0x55667788, ...Array(4).fill(0xcccccccc)]);
  });

  it('vectors', () => {
    expect(
      run(
        `mov.b32 %r1, 1; mov.b32 %r2, 2; mov.b32 %r3, 3; mov.b32 %r4, 4;
         st.shared.v4.b32 [tile+16], {%r1, %r2, %r3, %r4};
         ld.shared.v2.b64 {%d1, %d2}, [tile+16]; st.global.v2.b64 [%d0], {%d2, %d1};
         ld.shared.v2.u16 {%h1, %h2}, [tile+20]; st.global.v2.b16 [%d0+16], {%h2, %h1};
         ld.shared.v4.b32 {%r5, _, %r6, _}, [tile+16]; st.global.v2.b32 [%d0+24], {%r6, %r5};`,
      ),
    ).toEqual([3, 4, 1, 2, 0x00020000, 0xcccccccc, 3, 1]);
  });
});

describe('spaces', () => {
  it('generic addresses reach shared, local and global memory and parameters', () => {
    expect(
      run(
        `mov.u64 %d1, tile; cvta.shared.u64 %d1, %d1; mov.b32 %r1, 7; st.b32 [%d1+4], %r1; ld.shared.b32 %r2, [tile+4];
         st.global.b32 [%d0], %r2;
         mov.u64 %d2, own; cvta.local.u64 %d2, %d2; st.b32 [%d2+8], %r1; ld.local.b32 %r3, [own+8]; st.b32 [%d0+4], %r3;
         mov.b64 %d3, number; cvta.param.u64 %d3, %d3; ld.b32 %r4, [%d3]; st.b32 [%d0+8], %r4;
         cvta.to.shared.u64 %d4, %d1; ld.shared.b32 %r5, [%d4+4]; st.b32 [%d0+12], %r5;`,
        4,
        1,
        `${OUT}, .param .u32 number`,
        [{ u32: 99 }],
      ),
    ).toEqual([7, 7, 99, 7]);
  });

  it('local memory is each thread its own, shared memory is one', () => {
    expect(
      run(
        `st.local.b32 [own+4], %r0; mov.b32 %r1, 5; @%p1 st.shared.b32 [tile], %r1;
         setp.eq.u32 %p2, %r0, 2; @%p2 st.shared.b32 [tile], %r0; bar.sync 0;
         ld.local.b32 %r2, [own+4]; ld.shared.b32 %r3, [tile]; mad.lo.u32 %r4, %r2, 100, %r3;
         mul.wide.u32 %d1, %r0, 4; add.u64 %d1, %d1, %d0; st.global.b32 [%d1], %r4;`.replace(
          '@%p1 st.shared.b32 [tile], %r1;',
          '',
        ),
        4,
        4,
      ),
    ).toEqual([2, 102, 202, 302]);
  });

  it('shared and local memory start as ones in every bit', () => {
    const body = 'ld.shared.b64 %d1, [tile+8]; ld.local.b64 %d2, [own]; st.global.v2.b64 [%d0], {%d1, %d2};';
    const interpreted: LaunchOptions = { asynchrony: 'immediate' }; // what a device has there is its own affair
    expect(run(body, 4, 1, OUT, [], interpreted)).toEqual(Array(4).fill(0xffffffff));
  });

  it('hints and orders of memory are taken', () => {
    expect(
      run(
        `ld.global.nc.L1::no_allocate.L2::128B.b32 %r1, [%d0]; ld.volatile.global.b32 %r2, [%d0]; ld.relaxed.gpu.global.b32 %r3, [%d0];
         ld.acquire.sys.b32 %r4, [%d0]; st.release.cta.shared.b32 [tile], %r4; st.global.cs.b32 [%d0+4], %r1;
         createpolicy.fractional.L2::evict_first.b64 %d1, 1.0; ld.global.L2::cache_hint.b32 %r5, [%d0], %d1;
         prefetch.global.L2 [%d0]; discard.global.L2 [%d0+128], 128; st.global.b32 [%d0+8], %r5;`,
        64,
      ).slice(0, 3),
    ).toEqual([0xcccccccc, 0xcccccccc, 0xcccccccc]);
  });
});

describe('faults name line, place and thread', () => {
  const tail = String.raw`\(block 0,0,0 warp 0 lane 0\)`;
  it.each([
    [
      'behind the end',
      'st.global.b32 [%d0+32], %r0;',
      /line 9: st\.global\.b32 \[%d0\+32\], %r0;.* out of bounds, 4 bytes behind the end of an allocation of 32 bytes/,
    ],
    ['half behind the end', 'ld.global.b64 %d1, [%d0+32];', /8 bytes behind the end/],
    [
      'far away',
      'mov.b64 %d1, 0x10; ld.global.b32 %r1, [%d1];',
      /address 0x10 is out of bounds, far from every allocation/,
    ],
    ['misaligned global', 'ld.global.b32 %r1, [%d0+2];', /misaligned address 0x/],
    ['a misaligned vector', 'ld.global.v2.b32 {%r1, %r2}, [%d0+4];', /misaligned address/],
    ['misaligned shared', 'ld.shared.b64 %d1, [tile+4];', /misaligned shared address/],
    [
      'shared memory that is not there',
      'ld.shared.b32 %r1, [tile+64];',
      /shared address 0x440 is out of bounds: the block has 64 bytes from 0x400/,
    ],
    ['shared address 0', 'mov.b32 %r1, 0; ld.shared.b32 %r2, [%r1];', /shared address 0x0 is out of bounds/],
    [
      'local memory that is not there',
      'st.local.b32 [own+32], %r0;',
      /address 32 is outside the 32 bytes of local memory/,
    ],
    [
      'a parameter that is written',
      'mov.b64 %d1, out; cvta.param.u64 %d1, %d1; st.b32 [%d1], %r0;',
      /writes to a parameter of the kernel/,
    ],
    [
      'a shared address taken for a global one',
      'mov.u64 %d1, tile; st.global.b32 [%d1], %r0;',
      /out of bounds, far from every allocation/,
    ],
  ])('%s', (_, body, message) => {
    const failing = () => run(`\n${body}`);
    expect(failing).toThrow(message);
    expect(failing).toThrow(new RegExp(tail));
  });

  it('names the lane that went astray', () => {
    const body = 'mul.wide.u32 %d1, %r0, 4; add.u64 %d1, %d1, %d0; st.global.b32 [%d1], %r0;';
    expect(() => run(body, 40, 64)).toThrow(/warp 1 lane 8\)/);
  });
});

describe('what is no form of ld or st is refused when it is loaded', () => {
  it.each([
    'ld.global.b128 %d1, [%d0];',
    'ld.global.v3.b32 {%r1, %r2, %r3}, [%d0];',
    'ld.global.v4.b32 {%r1, %r2}, [%d0];',
    'ld.shared.sideways.b32 %r1, [tile];',
    'ld.global.b32 %r1, %d0;',
    'discard.global.L2 [%d0], 64;',
    'prefetch.global.L1.L2 [%d0];',
    'st.global.v8.b64 [%d0], {%d1, %d1, %d1, %d1, %d1, %d1, %d1, %d1};',
  ])('%s', (line) => {
    expect(() => new Ptx(kernel(OUT, HEAD + line))).toThrow(/not supported/);
  });
});
