// Schedules: that they differ where they may, and what they show.
import { describe, expect, it } from 'vitest';
import { allocate, kernel, Ptx, SCHEDULES } from './support/interpreter';

const PARAMETERS = '.param .u64 in, .param .u64 out';
const HEAD = `.reg .b64 %d<8>; .reg .b32 %r<12>; .reg .pred %p<4>; .shared .align 16 .b8 tile[512];
  ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 2;
  cvt.u64.u32 %d2, %r1; add.u64 %d3, %d1, %d2; add.u64 %d4, %d0, %d2; mov.u32 %r2, tile; add.u32 %r2, %r2, %r1;`;

function run(body: string, threads: number, schedule = {}): number[] {
  const input = allocate(4 * threads);
  for (let i = 0; i < threads; i++) input.writeUInt32LE(1000 + i, 4 * i);
  const out = allocate(4 * threads);
  new Ptx(kernel(PARAMETERS, HEAD + body)).launch('test', [input, out], { block: [threads], ...schedule });
  return Array.from({ length: threads }, (_, i) => out.readUInt32LE(4 * i));
}

describe('seeds', () => {
  // The order in which warps come to a counter.
  const order = (seed: number) => {
    const body = 'mov.b32 %r3, 1; atom.global.add.u32 %r4, [%d0], %r3; st.global.b32 [%d3], %r4;';
    return run(body, 128, { seed })
      .filter((_, i) => i % 32 === 0)
      .join();
  };

  it('without one, warps run in their order', () => {
    expect(order(0)).toBe([0, 1, 2, 3].map((w) => 1000 + 32 * w).join());
  });

  it('change the order of warps, and give the same order twice', () => {
    const orders = Array.from({ length: 20 }, (_, i) => order(i + 1));
    expect(new Set(orders).size).toBeGreaterThan(5);
    expect(Array.from({ length: 20 }, (_, i) => order(i + 1))).toEqual(orders);
    expect(orders.some((text) => !text.startsWith('1000'))).toBe(true);
  });

  it('end turns after one instruction, too', () => {
    // Two warps each write and read back one cell; that they are never interrupted between would be luck.
    const body = `shr.u32 %r3, %r0, 5; mov.u32 %r4, tile; mov.b32 %r6, 0; mov.b32 %r5, 0;
      again: st.shared.b32 [%r4], %r3; ld.shared.b32 %r7, [%r4]; setp.ne.u32 %p1, %r7, %r3; @%p1 add.u32 %r6, %r6, 1;
      add.u32 %r5, %r5, 1; setp.lt.u32 %p2, %r5, 50; @%p2 bra again; st.global.b32 [%d3], %r6;`;
    const interrupted = (seed: number) => run(body, 64, { seed }).some((n) => n > 0);
    expect(interrupted(0)).toBe(false);
    expect([1, 2, 3, 4, 5, 6].some(interrupted)).toBe(true);
  });
});

describe('asynchrony', () => {
  const copy = (wait: string) => `cp.async.ca.shared.global [%r2], [%d4], 4; cp.async.commit_group; ${wait}
    ld.shared.b32 %r5, [%r2]; st.global.b32 [%d3], %r5;`;
  const right = Array.from({ length: 32 }, (_, i) => 1000 + i);

  it('a copy that is waited for is right under every schedule', () => {
    for (const schedule of SCHEDULES) expect(run(copy('cp.async.wait_group 0;'), 32, schedule)).toEqual(right);
  });

  it('one that is not shows when copies are late, and not when they are immediate', () => {
    expect(run(copy(''), 32, { asynchrony: 'immediate' })).toEqual(right);
    expect(run(copy(''), 32, { asynchrony: 'late' })).toEqual(right.map(() => 0xffffffff));
    const random = Array.from({ length: 10 }, (_, i) => run(copy(''), 32, { seed: i + 1, asynchrony: 'random' }));
    expect(random.some((result) => result.includes(0xffffffff))).toBe(true);
    expect(random.some((result) => result.some((x) => x !== 0xffffffff))).toBe(true);
  });

  it('work that nobody waited for is done before the memory of the block goes', () => {
    const body = `st.shared.b32 [%r2], %r0; fence.proxy.async; bar.sync 0; setp.eq.u32 %p1, %r0, 0; mov.u32 %r3, tile;
      @%p1 cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r3], 128; @%p1 cp.async.bulk.commit_group;`;
    for (const schedule of SCHEDULES) expect(run(body, 32, schedule)).toEqual(right.map((x) => x - 1000));
  });
});
