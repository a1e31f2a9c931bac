// Barriers among the threads of a block, fences, deadlocks.
import { describe, expect, it } from 'vitest';
import { allocate, kernel, type LaunchOptions, Ptx, SCHEDULES } from './support/interpreter';

const OUT = '.param .u64 out';
const HEAD = `.reg .b64 %d<8>; .reg .b32 %r<16>; .reg .pred %p<8>; .shared .align 16 .b8 tile[1024];
  ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x; mul.wide.u32 %d1, %r0, 4; add.u64 %d1, %d1, %d0;
  shl.b32 %r10, %r0, 2; mov.u32 %r11, tile; add.u32 %r11, %r11, %r10;`;
const STORE = 'st.global.b32 [%d1], %r1;';

function run(body: string, threads: number, options: LaunchOptions = {}): number[] {
  const out = allocate(4 * threads).fill(0xcc);
  new Ptx(kernel(OUT, HEAD + body)).launch('test', [out], { block: [threads], ...options });
  return Array.from({ length: threads }, (_, i) => out.readUInt32LE(4 * i));
}
const each = (n: number, value: (i: number) => number) => Array.from({ length: n }, (_, i) => value(i));

describe.each(SCHEDULES)('seed $seed $asynchrony', (schedule) => {
  it.each(['bar.sync 0', 'barrier.sync 0', 'barrier.cta.sync.aligned 3', 'bar.sync 15, 160'])('%s', (barrier) => {
    // Rounds in which each thread reads what another warp wrote.
    const body = `mov.b32 %r1, %r0; mov.b32 %r2, 0;
      add.u32 %r3, %r0, 33; rem.u32 %r3, %r3, 160; shl.b32 %r3, %r3, 2; mov.u32 %r4, tile; add.u32 %r3, %r3, %r4;
      round: st.shared.b32 [%r11], %r1; ${barrier}; ld.shared.b32 %r1, [%r3]; ${barrier};
      add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, 5; @%p1 bra round; ${STORE}`;
    expect(run(body, 160, schedule)).toEqual(each(160, (i) => (i + 5 * 33) % 160));
  });

  it('producers arrive, consumers wait, on several barriers', () => {
    const body = `setp.lt.u32 %p1, %r0, 32; mov.b32 %r1, 0; mov.b32 %r2, 0; @!%p1 bra consumer;
      produce: bar.sync 2, 64; add.u32 %r3, %r2, %r0; st.shared.b32 [%r11], %r3; bar.arrive 1, 64;
      add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 7; @%p2 bra produce; bra end;
      consumer: bar.arrive 2, 64; bar.sync 1, 64; ld.shared.b32 %r3, [%r11+-128]; add.u32 %r1, %r1, %r3;
      add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 7; @%p2 bra consumer;
      end: ${STORE}`;
    expect(run(body, 64, schedule)).toEqual(each(64, (i) => (i < 32 ? 0 : 7 * (i - 32) + 21)));
  });

  it('bar.red counts and combines', () => {
    const body = `setp.lt.u32 %p1, %r0, 40; setp.lt.u32 %p2, %r0, 96;
      bar.red.popc.u32 %r1, 0, %p1; bar.red.and.pred %p3, 0, %p2; bar.red.or.pred %p4, 1, 96, !%p2; bar.red.and.pred %p5, 0, %p1;
      selp.b32 %r2, 1000, 0, %p3; add.u32 %r1, %r1, %r2; selp.b32 %r2, 2000, 0, %p4; add.u32 %r1, %r1, %r2;
      selp.b32 %r2, 4000, 0, %p5; add.u32 %r1, %r1, %r2; ${STORE}`;
    expect(run(body, 96, schedule)).toEqual(each(96, () => 1040));
  });

  it('a barrier of all is the same with and without their number', () => {
    const body = `st.shared.b32 [%r11], %r0; setp.lt.u32 %p1, %r0, 32; @%p1 bra first; bar.sync 0, 96; bra go;
      first: bar.sync 0; go: xor.b32 %r2, %r10, 128; setp.ge.u32 %p2, %r0, 64; @%p2 mov.b32 %r2, %r10;
      mov.u32 %r3, tile; add.u32 %r3, %r3, %r2; ld.shared.b32 %r1, [%r3]; ${STORE}`;
    expect(run(body, 96, schedule)).toEqual(each(96, (i) => (i < 64 ? i ^ 32 : i)));
  });

  it('warps that have exited are not waited for, nor is the missing part of the last', () => {
    const body = `setp.lt.u32 %p1, %r0, 32; @%p1 exit; st.shared.b32 [%r11], %r0; bar.sync 0;
      xor.b32 %r2, %r10, 132; mov.u32 %r3, tile; add.u32 %r3, %r3, %r2; mov.b32 %r1, 1; ${STORE}`;
    expect(run(body, 70, schedule)).toEqual(each(70, (i) => (i < 32 ? 0xcccccccc : 1)));
  });
});

it('bar.red gives the result of its own phase, though others have ended the next one', () => {
  // Warps 0 and 1 reduce; then 2 and 3 do, on the same barrier, as soon as warp 0 has left it.
  const body = `shr.u32 %r3, %r0, 5; mov.b32 %r1, 9; setp.lt.u32 %p1, %r3, 2; setp.eq.u32 %p2, %r3, 0; @!%p1 bra late;
    bar.red.popc.u32 %r1, 1, 64, %p1; @%p2 bar.arrive 2, 96; bra end;
    late: bar.sync 2, 96; bar.red.popc.u32 %r1, 1, 64, %p1; end: ${STORE}`;
  for (let seed = 0; seed < 100; seed++) expect(run(body, 128, { seed })).toEqual(each(128, (i) => (i < 64 ? 64 : 0)));
});

describe('misuse', () => {
  it('a deadlock names the line of every warp that waits', () => {
    const report = () => run('setp.lt.u32 %p1, %r0, 32;\n@%p1 bra a;\nbar.sync 1;\nexit;\na: bar.sync 2;', 96);
    expect(report).toThrow(/deadlock in block 0,0,0/);
    expect(report).toThrow(/warp 0 lanes 0xffffffff: line \d+: bar\.sync 2;/);
    expect(report).toThrow(/warp 1 lanes 0xffffffff: line \d+: bar\.sync 1;/);
    expect(report).toThrow(/warp 2 lanes 0xffffffff: line \d+: bar\.sync 1;/);
  });

  it.each([
    [
      'a number of threads that is no multiple of 32',
      'bar.sync 0, 33;',
      /33 threads at a barrier, which is no multiple of 32/,
    ],
    [
      'two numbers at one barrier',
      'setp.lt.u32 %p1, %r0, 32; @%p1 bra a; bar.sync 0, 96; a: bar.sync 0, 64;',
      /others expect/,
    ],
    ['a barrier that does not exist', 'mov.b32 %r1, 16; bar.sync %r1;', /there is no barrier 16/],
    ['one warp twice', 'bar.arrive 0, 96; bar.arrive 0, 96;', /arrives twice in one phase/],
  ])('%s', (_, body, message) => {
    expect(() => run(body, 64)).toThrow(message);
  });

  it.each([
    'bar.sync;',
    'bar.arrive 0;',
    'barrier.cluster.arrive;',
    'fence.sideways;',
    'setmaxnreg.inc.sync.aligned.u32 25;',
    'setmaxnreg.dec.sync.aligned.u32 16;',
  ])('%s is refused when it is loaded', (line) => {
    expect(() => new Ptx(kernel(OUT, HEAD + line))).toThrow(/not supported/);
  });

  it('a barrier left out between warps shows under some schedule', () => {
    const body = `st.shared.b32 [%r11], %r0; xor.b32 %r2, %r10, 128; mov.u32 %r3, tile; add.u32 %r3, %r3, %r2;
      ld.shared.b32 %r1, [%r3]; ${STORE}`;
    const right = each(64, (i) => i ^ 32);
    const results = SCHEDULES.map((schedule) => run(body, 64, schedule).every((x, i) => x === right[i]));
    expect(results).toContain(false);
  });
});

describe('fences', () => {
  it.each([
    'membar.cta;',
    'membar.gl;',
    'membar.sys;',
    'fence.acq_rel.gpu;',
    'fence.sc.cta;',
    'fence.proxy.async;',
    'fence.proxy.async.global;',
    'fence.proxy.async.shared::cta;',
    'fence.proxy.alias;',
    'fence.mbarrier_init.release.cluster;',
    'setmaxnreg.inc.sync.aligned.u32 240;',
    'griddepcontrol.wait;',
    'griddepcontrol.launch_dependents;',
    'nanosleep.u32 20;',
  ])('%s is taken', (line) => {
    expect(run(`mov.b32 %r1, 4; ${line} ${STORE}`, 1)).toEqual([4]);
  });

  const copy = (fence: string) => `mov.b32 %r1, 9; st.shared.b32 [%r11], %r1;
    ${fence}
    bar.sync 0; setp.eq.u32 %p1, %r0, 0; mov.u32 %r2, tile;
    @%p1 cp.async.bulk.global.shared::cta.bulk_group [%d0], [%r2], 256;
    @%p1 cp.async.bulk.commit_group; @%p1 cp.async.bulk.wait_group 0;`;

  it('of the proxy stand between stores and a bulk copy of what they wrote', () => {
    for (const schedule of SCHEDULES) {
      expect(run(copy('fence.proxy.async.shared::cta;'), 64, schedule)).toEqual(each(64, () => 9));
      for (const fence of [
        '',
        'fence.proxy.async.global;',
        'fence.acq_rel.gpu;',
        'setp.lt.u32 %p2, %r0, 32; @%p2 fence.proxy.async;',
      ]) {
        expect(() => run(copy(fence), 64, schedule)).toThrow(
          /line \d+: .*cp\.async\.bulk.*missing fence\.proxy\.async: reads shared address 0x4[08]0, which warp [01] wrote at line \d+: st\.shared/,
        );
      }
    }
  });
});
