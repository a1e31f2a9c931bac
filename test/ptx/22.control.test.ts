// Branches, divergence, calls, and how kernels end.
import { describe, expect, it } from 'vitest';
import { allocate, kernel, Ptx, SCHEDULES } from './support/interpreter';

const OUT = '.param .u64 out';
const HEAD = `.reg .b64 %d<8>; .reg .b32 %r<16>; .reg .pred %p<8>; ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x;
  mul.wide.u32 %d1, %r0, 4; add.u64 %d1, %d1, %d0;`;
const STORE = 'st.global.b32 [%d1], %r1;';

function launch(source: string, threads: number, options = {}): number[] {
  const out = allocate(4 * threads).fill(0xcc);
  new Ptx(source).launch('test', [out], { block: [threads], ...options });
  return Array.from({ length: threads }, (_, i) => out.readUInt32LE(4 * i));
}
const run = (body: string, threads = 32, options = {}) => launch(kernel(OUT, HEAD + body), threads, options);
const lanes = (value: (i: number) => number, n = 32) => Array.from({ length: n }, (_, i) => value(i));

describe('divergence', () => {
  it('both sides of a branch run, each for its lanes, and meet again', () => {
    const body = `and.b32 %r2, %r0, 3; setp.eq.u32 %p1, %r2, 1; mov.b32 %r1, 0;
      @%p1 bra yes; add.u32 %r1, %r1, 10; bra meet;
      yes: add.u32 %r1, %r1, 20;
      meet: activemask.b32 %r3; add.u32 %r1, %r1, %r3; ${STORE}`;
    expect(run(body)).toEqual(lanes((i) => ((i % 4 === 1 ? 20 : 10) + 0xffffffff) >>> 0));
  });

  it('loops with another number of rounds in each lane', () => {
    const body = `mov.b32 %r1, 0; mov.b32 %r2, 0;
      again: setp.ge.u32 %p1, %r2, %r0; @%p1 bra done;
      add.u32 %r2, %r2, 1; add.u32 %r1, %r1, %r2; bra.uni again;
      done: ${STORE}`;
    expect(run(body.replace('bra.uni', 'bra'))).toEqual(lanes((i) => (i * (i + 1)) / 2));
  });

  it('nested branches, guards and negated guards', () => {
    const body = `and.b32 %r2, %r0, 1; setp.eq.u32 %p1, %r2, 0; setp.lt.u32 %p2, %r0, 16; mov.b32 %r1, 0;
      @%p1 bra even;
      @!%p2 bra upper; mov.b32 %r1, 1; bra join; upper: mov.b32 %r1, 2; join: bra meet;
      even: @%p2 add.u32 %r1, %r1, 3; @!%p2 add.u32 %r1, %r1, 4;
      meet: ${STORE}`;
    expect(run(body)).toEqual(lanes((i) => (i % 2 === 0 ? (i < 16 ? 3 : 4) : i < 16 ? 1 : 2)));
  });

  it('lanes that wait for others of their warp let them run', () => {
    // Lane 0 spins on an mbarrier at a lower address than the lanes that arrive.
    const body = `.shared .align 8 .b8 bar[8]; .reg .b64 %s; setp.eq.u32 %p1, %r0, 0; mov.b32 %r1, 0;
      @%p1 mbarrier.init.shared::cta.b64 [bar], 31; bar.sync 0;
      @!%p1 bra others;
      spin: mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], 0; @!%p2 bra spin; mov.b32 %r1, 1; bra meet;
      others: mbarrier.arrive.shared::cta.b64 %s, [bar]; mov.b32 %r1, 2;
      meet: ${STORE}`;
    for (const schedule of SCHEDULES) expect(run(body, 32, schedule)).toEqual(lanes((i) => (i === 0 ? 1 : 2)));
  });

  it('straight code behind a wait that once failed is progress, whatever the length of turns', () => {
    const body = `.shared .align 8 .b8 bar[16]; .reg .b64 %s; setp.eq.u32 %p1, %r0, 0; setp.lt.u32 %p3, %r0, 32;
      @%p1 mbarrier.init.shared::cta.b64 [bar], 32; @%p1 mbarrier.init.shared::cta.b64 [bar+8], 32; bar.sync 0;
      mov.b32 %r1, 0; mov.b32 %r2, 0;
      round: and.b32 %r3, %r2, 1; @!%p3 bra second;
      a: mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], %r3; @!%p2 bra a;
      ${'add.u32 %r1, %r1, 1;\n'.repeat(20)}
      mbarrier.arrive.shared::cta.b64 %s, [bar+8]; bra next;
      second: mbarrier.arrive.shared::cta.b64 %s, [bar];
      b: mbarrier.test_wait.parity.shared::cta.b64 %p2, [bar+8], %r3; @!%p2 bra b;
      ${'add.u32 %r1, %r1, 2;\n'.repeat(20)}
      next: add.u32 %r2, %r2, 1; setp.lt.u32 %p4, %r2, 6; @%p4 bra round; ${STORE}`;
    for (let seed = 0; seed < 60; seed++) {
      expect(run(body, 64, { seed })).toEqual(lanes((i) => (i < 32 ? 120 : 240), 64));
    }
  });

  it('a look at a barrier that finds it not complete is no deadlock when it lets others go on later', () => {
    const body = `.shared .align 8 .b8 bar[16]; .reg .b64 %s; setp.eq.u32 %p1, %r0, 0; setp.lt.u32 %p3, %r0, 32;
      @%p1 mbarrier.init.shared::cta.b64 [bar], 32; @%p1 mbarrier.init.shared::cta.b64 [bar+8], 32; bar.sync 0;
      mov.b32 %r1, 1; @!%p3 bra second;
      ${'add.u32 %r2, %r2, 1;\n'.repeat(7)}
      mbarrier.test_wait.parity.shared::cta.b64 %p2, [bar], 0;
      ${'add.u32 %r2, %r2, 1;\n'.repeat(7)}
      mbarrier.arrive.shared::cta.b64 %s, [bar+8];
      a: mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], 0; @!%p2 bra a; bra end;
      second:
      b: mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar+8], 0; @!%p2 bra b;
      mbarrier.arrive.shared::cta.b64 %s, [bar];
      end: ${STORE}`;
    for (let seed = 0; seed < 400; seed++) expect(run(body, 64, { seed })).toEqual(lanes(() => 1, 64));
  });

  it('lanes of one warp take a lock in turn, though those that spin stand at a lower address', () => {
    const body = `.shared .align 4 .b32 lock; .shared .align 4 .b32 sum; mov.b32 %r2, 0; setp.eq.u32 %p1, %r0, 0;
      @%p1 st.shared.b32 [lock], %r2; @%p1 st.shared.b32 [sum], %r2; bar.sync 0;
      again: atom.shared.cas.b32 %r3, [lock], 0, 1; setp.ne.u32 %p2, %r3, 0; @%p2 bra again;
      ld.shared.b32 %r1, [sum]; add.u32 %r4, %r1, 1; st.shared.b32 [sum], %r4; atom.shared.exch.b32 %r5, [lock], 0;
      ${STORE}`;
    for (const schedule of SCHEDULES) {
      const order = run(body, 64, schedule).sort((a, b) => a - b);
      expect(order).toEqual(lanes((i) => i, 64));
    }
  });
});

describe('calls', () => {
  const HEADER = '.version 8.5\n.target sm_90a\n.address_size 64\n';
  const entry = (body: string) => `.visible .entry test(${OUT}) {\n${HEAD}${body}\n}\n`;
  const source = (functions: string, body: string) => `${HEADER}${functions}\n${entry(body)}`;
  const ADD = `.func (.param .b32 sum) add(.param .b32 a, .param .b64 b) {
    .reg .b32 %r<4>; .reg .b64 %d<2>;
    ld.param.b32 %r1, [a]; ld.param.b64 %d1, [b]; cvt.u32.u64 %r2, %d1; add.u32 %r3, %r1, %r2; st.param.b32 [sum], %r3; ret; }`;
  const call = (to: string, a: string, b: string) => `{ .param .b32 x; .param .b64 y; .param .b32 z;
    st.param.b32 [x], ${a}; st.param.b64 [y], ${b}; call.uni (z), add, (x, y); ld.param.b32 ${to}, [z]; }`;

  it('pass parameters and results, from several places', () => {
    const body = `mov.b64 %d2, 100; ${call('%r1', '%r0', '%d2')} cvt.u64.u32 %d3, %r1; ${call('%r1', '%r1', '%d3')} ${STORE}`;
    expect(launch(source(ADD, body), 32)).toEqual(lanes((i) => 2 * (i + 100)));
  });

  it('in divergent code', () => {
    const body = `mov.b64 %d2, 5; setp.lt.u32 %p1, %r0, 7; mov.b32 %r1, 1; @%p1 bra skip;
      ${call('%r1', '%r0', '%d2').replace('.uni', '')} bra meet; skip: add.u32 %r1, %r1, 1; meet: ${STORE}`;
    expect(launch(source(ADD, body), 32)).toEqual(lanes((i) => (i < 7 ? 2 : i + 5)));
  });

  it('nest, and return early for some lanes', () => {
    const outer = `${ADD}\n.func (.param .b32 r) outer(.param .b32 v) {
      .reg .b32 %r<4>; .reg .b64 %d<2>; .reg .pred %p1;
      ld.param.b32 %r1, [v]; st.param.b32 [r], %r1; setp.gt.u32 %p1, %r1, 9; @%p1 ret;
      mov.b64 %d1, 1000; ${call('%r2', '%r1', '%d1')} st.param.b32 [r], %r2; }`;
    const body = `{ .param .b32 i; .param .b32 o; st.param.b32 [i], %r0; call (o), outer, (i); ld.param.b32 %r1, [o]; } ${STORE}`;
    expect(launch(source(outer, body), 32)).toEqual(lanes((i) => (i > 9 ? i : i + 1000)));
  });

  it('leave alone the registers of an entry that stands before, between or behind functions', () => {
    const declared = '.func (.param .b32 sum) add(.param .b32 a, .param .b64 b);';
    const body = `mov.b32 %r7, 9; mov.b32 %r15, 5; mov.b64 %d2, 100; setp.eq.u32 %p7, %r7, 9;
      ${call('%r1', '%r0', '%d2')} @%p7 add.u32 %r1, %r1, %r7; add.u32 %r1, %r1, %r15; ${STORE}`;
    const test = entry(body);
    const small = '.visible .entry small() { .reg .b32 %r<2>; mov.b32 %r1, 3; ret; }';
    const last = '.func last() { .reg .b32 %r<64>; .reg .pred %p<64>; mov.b32 %r40, 4; ret; }';
    for (const order of [
      [ADD, test],
      [declared, test, ADD],
      [ADD, small, last, test],
      [declared, small, test, last, ADD],
    ]) {
      expect(launch(`${HEADER}${order.join('\n')}`, 32)).toEqual(lanes((i) => i + 114));
    }
  });

  it('of themselves are refused', () => {
    const endless = '.func f() { call.uni f; ret; }';
    expect(() => launch(source(endless, 'call.uni f;'), 1)).toThrow(/recursion is not supported/);
  });

  it('with the wrong parameters are refused', () => {
    const parameters = '.param .b32 x; .param .b32 z; st.param.b32 [x], %r0;';
    for (const line of ['call (z), add, (x);', 'call add, (x, x);', 'call add;']) {
      expect(() => launch(source(ADD, `{ ${parameters} ${line} }`), 1)).toThrow(/another number of parameters/);
    }
    for (const line of ['call (%r1), add, (x, x);', 'call (z), add, (%r0, x);']) {
      expect(() => new Ptx(source(ADD, `{ ${parameters} ${line} }`))).toThrow(/no \.param variable/);
    }
  });

  it('through a register are refused when they are loaded', () => {
    expect(() => new Ptx(source('', 'call (%r1), %d1, (%r2);'))).toThrow(/indirect call/);
    expect(() => new Ptx(source('', 'brx.idx %r1, somewhere; somewhere:'))).toThrow(/indirect branch/);
  });
});

describe('the end', () => {
  it('ret and exit end lanes, others go on', () => {
    const body = `mov.b32 %r1, 1; ${STORE} setp.lt.u32 %p1, %r0, 4; setp.lt.u32 %p2, %r0, 8;
      @%p1 ret; mov.b32 %r1, 2; ${STORE} @%p2 exit; mov.b32 %r1, 3; ${STORE}`;
    expect(run(body)).toEqual(lanes((i) => (i < 4 ? 1 : i < 8 ? 2 : 3)));
  });

  it('trap is a fault', () => {
    expect(() => run('setp.eq.u32 %p1, %r0, 3; @%p1 trap;')).toThrow(/trap;.*stops itself.*lane 3/);
  });

  it('a loop that never ends is reported', () => {
    expect(() => run('for: add.u32 %r1, %r1, 1; bra for;', 1)).toThrow(
      /a block does not end: \d+ warp instructions\n {2}warp 0/,
    );
  }, 120_000);

  it('a block finds nothing in registers and predicates that blocks and kernels before it have left there', () => {
    const leave = `mov.b32 %r1, 7; mov.b32 %r15, 7; setp.eq.u32 %p1, %r1, 7; setp.eq.u32 %p7, %r1, 7;`;
    const source = `${kernel(
      OUT,
      `${HEAD} mov.u32 %r2, %ctaid.x; mad.wide.u32 %d1, %r2, 4, %d1;
      selp.b32 %r3, 1, 2, %p7; add.u32 %r1, %r15, %r3; ${STORE} ${leave}`,
    )}
      .visible .entry other() { .reg .b32 %r<64>; .reg .pred %p<64>; ${leave} mov.b32 %r63, %r1; ret; }`;
    const module = new Ptx(source);
    const fresh = [0, 1, 2].map(() => {
      module.launch('other', [], { block: [32] });
      const out = allocate(8).fill(0xcc);
      module.launch('test', [out], { grid: [2], block: [1] });
      return [out.readUInt32LE(0), out.readUInt32LE(4)];
    });
    // Every bit of a register is set; of predicates every other lane's.
    expect(fresh).toEqual([0, 1, 2].map(() => [1, 1]));
  });

  it('too many threads, none, and a grid of none are refused', () => {
    const module = new Ptx(`.version 8.5 .target sm_80 .address_size 64 .entry test() .maxntid 64, 1, 1 { ret; }`);
    expect(() => module.launch('test', [], { block: [65] })).toThrow(/65 threads in a block; it may have 1 to 64/);
    expect(() => module.launch('test', [], { block: [0] })).toThrow(/0 threads/);
    expect(() => module.launch('test', [], { grid: [0], block: [1] })).toThrow(/empty grid/);
    expect(() => module.launch('other', [], {})).toThrow(/takes -1 parameters|no kernel/);
  });
});
