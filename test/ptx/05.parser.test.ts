// The text of a module: declarations, scopes, labels, constants, and what is refused with its line.
import { describe, expect, it } from 'vitest';
import { allocate, kernel, Ptx } from './support/interpreter';

function run(source: string, words = 8): Uint32Array {
  const out = allocate(words * 4);
  new Ptx(source).launch('test', [out], { block: [1] });
  return new Uint32Array(out.buffer, out.byteOffset, words);
}

const OUT = '.param .u64 out';
const HEAD = '.reg .b64 %o; ld.param.u64 %o, [out];';

describe('declarations', () => {
  it('tells registers of one name in nested scopes apart', () => {
    const out = run(
      kernel(
        OUT,
        `${HEAD} .reg .b32 %r<3>; mov.u32 %r1, 1;
         { .reg .b32 %r1; mov.u32 %r1, 7; st.global.u32 [%o], %r1; }
         { .reg .b32 %r1, x; mov.u32 x, 9; mov.u32 %r1, x; st.global.u32 [%o+4], %r1; }
         st.global.u32 [%o+8], %r1;`,
      ),
    );
    expect([...out.slice(0, 3)]).toEqual([7, 9, 1]);
  });

  it('takes directives that follow each other without a space', () => {
    expect(run(kernel(OUT, `${HEAD} .reg.b32 x;mov.u32 x, 3;st.global.u32 [%o], x;`))[0]).toBe(3);
  });

  it('lays out module variables with their initial values, and takes addresses with displacements', () => {
    const out = run(
      `.version 8.5 .target sm_80 .address_size 64
       .global .align 4 .u32 table[4] = {3, 0x10, 010, 4294967295};
       .const .align 8 .b8 bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
       .visible .entry test(${OUT}) {
         ${HEAD} .reg .b64 %a<3>; .reg .b32 %r<4>;
         mov.u64 %a1, table+4; cvta.global.u64 %a1, %a1;
         ld.u32 %r1, [%a1+-4]; st.global.u32 [%o], %r1;
         ld.u32 %r1, [%a1]; st.global.u32 [%o+4], %r1;
         ld.global.u32 %r1, [table+8]; st.global.u32 [%o+8], %r1;
         ld.global.u32 %r1, [table + 12]; st.global.u32 [%o+12], %r1;
         ld.const.u32 %r1, [bytes+4]; st.global.u32 [%o+16], %r1;
       }`,
    );
    expect([...out.slice(0, 5)]).toEqual([3, 16, 8, 4294967295, 0x08070605]);
  });

  it('places shared variables apart from each other and dynamic shared memory behind them', () => {
    const out = run(
      `.version 8.5 .target sm_90a .address_size 64
       .extern .shared .align 128 .b8 dynamic[];
       .visible .entry other() { .shared .align 4 .b8 mine[4000]; ret; }
       .visible .entry test(${OUT}) {
         .shared .align 4 .b8 a[12]; .shared .align 16 .b8 b[16];
         ${HEAD} .reg .b32 %r<4>;
         mov.u32 %r1, a; st.global.u32 [%o], %r1;
         mov.u32 %r1, b; st.global.u32 [%o+4], %r1;
         mov.u32 %r1, dynamic; st.global.u32 [%o+8], %r1;
       }`,
    );
    const [a, b, dynamic] = out;
    expect(b! - a!).toBeGreaterThanOrEqual(12);
    expect(b! % 16).toBe(0);
    expect(dynamic! - b!).toBeGreaterThanOrEqual(16);
    expect(dynamic! - b!).toBeLessThan(4000);
    expect(dynamic! % 128).toBe(0);
  });

  it('lays out parameters by their alignment', () => {
    const out = allocate(16);
    const source = kernel(
      `.param .u32 a, .param .u64 out, .param .align 16 .b8 c[20], .param .f32 d`,
      `.reg .b64 %o; .reg .b32 %r<3>; ld.param.u64 %o, [out];
       ld.param.u32 %r1, [a]; st.global.u32 [%o], %r1;
       ld.param.u32 %r1, [c+16]; st.global.u32 [%o+4], %r1;
       ld.param.f32 %r1, [d]; st.global.u32 [%o+8], %r1;`,
    );
    const c = Buffer.alloc(20);
    c.writeUInt32LE(77, 16);
    new Ptx(source).launch('test', [{ u32: 5 }, out, { bytes: c }, { f32: 1.5 }], { block: [1] });
    expect([out.readUInt32LE(0), out.readUInt32LE(4), out.readFloatLE(8)]).toEqual([5, 77, 1.5]);
  });
});

describe('literals', () => {
  it.each([
    ['0f3FC00000', 1.5],
    ['-0f3FC00000', -1.5],
    ['1.25', 1.25],
    ['-0.5', -0.5],
  ])('float %s', (text, value) => {
    const out = run(kernel(OUT, `${HEAD} .reg .f32 %f; mov.f32 %f, ${text}; st.global.f32 [%o], %f;`));
    expect(new Float32Array(out.buffer, out.byteOffset, 1)[0]).toBe(value);
  });

  it.each([
    ['0x1f', 31],
    ['017', 15],
    ['0b101', 5],
    ['42U', 42],
    ['-1', 0xffffffff],
    ['WARP_SZ', 32],
  ])('integer %s', (text, value) => {
    expect(run(kernel(OUT, `${HEAD} .reg .b32 %r; mov.u32 %r, ${text}; st.global.u32 [%o], %r;`))[0]).toBe(value);
  });
});

describe('text that is refused names its line', () => {
  it.each([
    ['an unknown instruction', 'frobnicate.b32 %r1, %r2;', /line 7: frobnicate\.b32 %r1, %r2;.*unknown instruction/],
    ['an unknown modifier', 'add.s32.sideways %r1, %r1, %r2;', /line 7: .*not supported/],
    ['an unknown register', 'mov.u32 %q1, 0;', /line 7: unknown register %q1/],
    ['a register beyond its range', 'mov.u32 %r3, 0;', /line 7: unknown register %r3/],
    ['an unknown label', 'bra nowhere;', /line 7: unknown name nowhere/],
    ['a missing semicolon', 'mov.u32 %r1, 0', /line 8: expected ';'/],
    ['an unknown directive', '.frob 1;', /line 7: unknown directive '\.frob'/],
    ['a wide register', '.reg .b128 %w;', /line 7: registers of 128 bits/],
    ['a cluster', '} .visible .entry two() .reqnctapercluster 2 {', /line 7: clusters of more than one block/],
  ])('%s', (_, line, message) => {
    expect(() => new Ptx(kernel('', `.reg .b32 %r<3>;\n${line}`))).toThrow(message);
  });

  it('a body that does not end', () => {
    expect(() => new Ptx('.version 8.5\n.target sm_80\n.address_size 64\n.entry test() {\n')).toThrow(/does not end/);
  });
});
