// cp.async.bulk and cp.reduce.async.bulk of plain memory, bulk groups, prefetches, and what is refused.
import { describe, expect, it } from 'vitest';
import { allocate, EITHER_WAY, kernel, type LaunchOptions, Ptx, SCHEDULES } from './support/interpreter';

const HEAD = `
  .shared .align 128 .b8 tile[1024]; .shared .align 8 .b8 bar[16];
  .reg .b64 %d<12>; .reg .b32 %r<20>; .reg .b16 %h<4>; .reg .pred %p<6>;
  ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; mov.u32 %r0, %tid.x;
  mov.u32 %r1, tile; mov.u32 %r2, bar;`;
const PARAMETERS = '.param .u64 in, .param .u64 out';

/** Runs with one thread; gives the output's bytes, which start as 0xcc. */
function run(body: string, input: Uint8Array, outBytes: number, options: LaunchOptions = {}): Uint8Array {
  const from = allocate(input.byteLength);
  from.set(input);
  const out = allocate(outBytes).fill(0xcc);
  new Ptx(kernel(PARAMETERS, HEAD + body).replace('.version 8.5', '.version 8.6')).launch('test', [from, out], {
    block: [1],
    ...options,
  });
  return new Uint8Array(out);
}

const INIT = 'mbarrier.init.shared::cta.b64 [%r2], 1; fence.mbarrier_init.release.cluster; fence.proxy.async;';
const WAIT = 'wait: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0; @!%p1 bra wait;';
const expecting = (bytes: number) => `mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], ${bytes};`;
/** In %d3. */
const POLICY = 'createpolicy.fractional.L2::evict_first.b64 %d3, 1.0;';
const STORED = 'cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;';
/** Shared memory to the output with plain instructions, word by word. */
const copyOut = (words: number, at = 0) =>
  Array.from(
    { length: words },
    (_, i) => `ld.shared.u32 %r9, [%r1+${at + 4 * i}]; st.global.u32 [%d1+${4 * i}], %r9;`,
  ).join('\n');
/** And the input there. */
const copyIn = (words: number, at = 0) =>
  Array.from(
    { length: words },
    (_, i) => `ld.global.u32 %r9, [%d0+${4 * i}]; st.shared.u32 [%r1+${at + 4 * i}], %r9;`,
  ).join('\n');

const bytes = (n: number) => Uint8Array.from({ length: n }, (_, i) => (i * 37 + 11) & 255);

describe.each(SCHEDULES)('copies, seed $seed $asynchrony', (schedule) => {
  it('global to shared memory', () => {
    const input = bytes(256);
    const out = run(
      `${INIT} ${expecting(160)}
       cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1+48], [%d0+16], 160, [%r2];
       ${WAIT} ${copyOut(40, 48)}`,
      input,
      160,
      schedule,
    );
    expect(out).toEqual(input.slice(16, 176));
  });

  it('waited for by a loop that only tests', () => {
    const input = bytes(16);
    const out = run(
      `${INIT} ${expecting(16)}
       cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d0], 16, [%r2];
       ${WAIT.replace('try_wait', 'test_wait')} ${copyOut(4)}`,
      input,
      16,
      schedule,
    );
    expect(out).toEqual(input);
  });

  it('several to one barrier, sizes in registers, with a cache policy and as a multicast to itself', () => {
    const input = bytes(256);
    const out = run(
      `${INIT} ${expecting(112)} mov.u32 %r3, 32; mov.b16 %h1, 1;
       ${POLICY}
       cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%r1], [%d0], %r3, [%r2], %d3;
       cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r1+32], [%d0+128], 16, [%r2], %h1;
       cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r1+48], [%d0+64], 64, [%r2];
       ${WAIT} ${copyOut(28)}`,
      input,
      112,
      schedule,
    );
    expect(out).toEqual(Uint8Array.from([...input.slice(0, 32), ...input.slice(128, 144), ...input.slice(64, 128)]));
  });

  it('shared to shared memory', () => {
    const input = bytes(64);
    const out = run(
      `${INIT} ${copyIn(16)} fence.proxy.async; ${expecting(64)}
       mapa.shared::cluster.u32 %r4, %r1, 0; mapa.shared::cluster.u32 %r5, %r2, 0;
       cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r4+256], [%r1], 64, [%r5];
       ${WAIT} ${copyOut(16, 256)}`,
      input,
      64,
      schedule,
    );
    expect(out).toEqual(input);
  });

  it('shared to global memory, in groups', () => {
    const input = bytes(128);
    const out = run(
      `${copyIn(32)} fence.proxy.async; ${POLICY}
       cp.async.bulk.global.shared::cta.bulk_group [%d1+16], [%r1], 64;
       cp.async.bulk.commit_group;
       cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%d1+96], [%r1+64], 32, %d3;
       cp.async.bulk.commit_group;
       cp.async.bulk.wait_group.read 1;
       cp.async.bulk.wait_group 0;`,
      input,
      144,
      schedule,
    );
    const expected = new Uint8Array(144).fill(0xcc);
    expected.set(input.slice(0, 64), 16);
    expected.set(input.slice(64, 96), 96);
    expect(out).toEqual(expected);
  });
});

describe('when copies take effect', () => {
  const REUSE = (wait: string) => `
    ${copyIn(4)} fence.proxy.async;
    cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], 16;
    cp.async.bulk.commit_group;
    ${wait}
    mov.u32 %r3, 0; st.shared.u32 [%r1], %r3; fence.proxy.async; cp.async.bulk.wait_group 0;`;

  it('sources may be reused after wait_group.read', () => {
    const input = bytes(16);
    for (const schedule of SCHEDULES) {
      expect(run(REUSE('cp.async.bulk.wait_group.read 0;'), input, 16, schedule)).toEqual(input);
    }
  });

  it('late copies show that the wait is missing', () => {
    expect(run(REUSE(''), bytes(16), 16, { asynchrony: 'late' })).not.toEqual(bytes(16));
    expect(run(REUSE('cp.async.bulk.wait_group.read 1;'), bytes(16), 16, { asynchrony: 'late' })).not.toEqual(
      bytes(16),
    );
  });

  it('late loads show that nobody waits for the barrier', () => {
    const body = `${INIT} ${expecting(16)}
      cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d0], 16, [%r2]; ${copyOut(4)}`;
    expect(run(body, bytes(16), 16, { asynchrony: 'late' })).toEqual(new Uint8Array(16).fill(0xff));
  });
});

type Values = number[] | bigint[];
type View = { from(values: never): ArrayBufferView; new (buffer: ArrayBuffer): ArrayLike<number | bigint> };
const f16 = (...values: number[]) => values; // bits, for Uint16Array

describe('reductions into global memory', () => {
  const cases: [string, View, Values, Values, Values][] = [
    ['add.u32', Uint32Array as never, [1, 0xffffffff, 5, 0], [2, 3, 0, 9], [3, 2, 5, 9]],
    ['add.s32', Int32Array as never, [1, -5, 0x7fffffff, 0], [2, 3, 1, -9], [3, -2, -0x80000000, -9]],
    ['min.u32', Uint32Array as never, [1, 0xffffffff, 5, 7], [2, 3, 0, 7], [1, 3, 0, 7]],
    ['min.s32', Int32Array as never, [1, -5, 5, -1], [2, 3, -6, -2], [1, -5, -6, -2]],
    ['max.u32', Uint32Array as never, [1, 0xffffffff, 5, 7], [2, 3, 0, 8], [2, 0xffffffff, 5, 8]],
    ['max.s32', Int32Array as never, [1, -5, 5, -1], [2, 3, -6, -2], [2, 3, 5, -1]],
    ['inc.u32', Uint32Array as never, [1, 9, 10, 0], [9, 9, 9, 0], [2, 0, 0, 0]],
    ['dec.u32', Uint32Array as never, [1, 0, 10, 9], [9, 9, 9, 9], [0, 9, 9, 8]],
    ['and.b32', Uint32Array as never, [12, 0xffffffff, 1, 6], [10, 0x80000001, 2, 6], [8, 0x80000001, 0, 6]],
    ['or.b32', Uint32Array as never, [12, 0, 1, 6], [10, 0x80000001, 2, 6], [14, 0x80000001, 3, 6]],
    ['xor.b32', Uint32Array as never, [12, 0xffffffff, 1, 6], [10, 1, 2, 6], [6, 0xfffffffe, 3, 0]],
    ['add.u64', BigUint64Array as never, [1n, 2n ** 64n - 1n], [2n ** 40n, 3n], [2n ** 40n + 1n, 2n]],
    ['min.u64', BigUint64Array as never, [1n, 2n ** 63n], [2n ** 40n, 3n], [1n, 3n]],
    ['max.u64', BigUint64Array as never, [1n, 2n ** 63n], [2n ** 40n, 3n], [2n ** 40n, 2n ** 63n]],
    ['min.s64', BigInt64Array as never, [1n, -(2n ** 63n)], [-(2n ** 40n), 3n], [-(2n ** 40n), -(2n ** 63n)]],
    ['max.s64', BigInt64Array as never, [1n, -(2n ** 63n)], [-(2n ** 40n), 3n], [1n, 3n]],
    [
      'and.b64',
      BigUint64Array as never,
      [0xff00000000000001n, 6n],
      [0x8100000000000003n, 5n],
      [0x8100000000000001n, 4n],
    ],
    ['or.b64', BigUint64Array as never, [2n ** 63n, 6n], [1n, 1n], [2n ** 63n + 1n, 7n]],
    ['xor.b64', BigUint64Array as never, [2n ** 63n, 6n], [2n ** 63n, 1n], [0n, 7n]],
    [
      'add.f32',
      Float32Array as never,
      [1, -2, 1e30, 0.1],
      [2, 0.5, 1e30, 0.2],
      [3, -1.5, 2e30, 0.1 + 0.2].map(Math.fround),
    ],
    ['add.f64', Float64Array as never, [0.1, -2], [0.2, 0.5], [0.1 + 0.2, -1.5]],
    // 1 + 2 = 3, 65504 + 32 overflows, 2048 + 1 is a tie, the smallest denormal twice; inf - inf and so on are not here
    [
      'add.noftz.f16',
      Uint16Array as never,
      f16(0x3c00, 0x7bff, 0x6800, 0x0001, 0xbc00, 0, 0, 0),
      f16(0x4000, 0x5000, 0x3c00, 0x0001, 0x3800, 0, 0, 0),
      f16(0x4200, 0x7c00, 0x6800, 0x0002, 0xb800, 0, 0, 0),
    ],
    [
      'add.noftz.bf16',
      Uint16Array as never,
      f16(0x3f80, 0x4380, 0xbf80, 0, 0, 0, 0, 0),
      f16(0x4000, 0x3f80, 0x3f00, 0, 0, 0, 0, 0),
      f16(0x4040, 0x4380, 0xbf00, 0, 0, 0, 0, 0),
    ],
    [
      'min.f16',
      Uint16Array as never,
      f16(0x3c00, 0xbc00, 0, 0, 0, 0, 0, 0),
      f16(0x4000, 0xc000, 0, 0, 0, 0, 0, 0),
      f16(0x3c00, 0xc000, 0, 0, 0, 0, 0, 0),
    ],
    [
      'max.f16',
      Uint16Array as never,
      f16(0x3c00, 0xbc00, 0, 0, 0, 0, 0, 0),
      f16(0x4000, 0xc000, 0, 0, 0, 0, 0, 0),
      f16(0x4000, 0xbc00, 0, 0, 0, 0, 0, 0),
    ],
    [
      'min.bf16',
      Uint16Array as never,
      f16(0x3f80, 0xbf80, 0, 0, 0, 0, 0, 0),
      f16(0x4000, 0xc000, 0, 0, 0, 0, 0, 0),
      f16(0x3f80, 0xc000, 0, 0, 0, 0, 0, 0),
    ],
    [
      'max.bf16',
      Uint16Array as never,
      f16(0x3f80, 0xbf80, 0, 0, 0, 0, 0, 0),
      f16(0x4000, 0xc000, 0, 0, 0, 0, 0, 0),
      f16(0x4000, 0xbf80, 0, 0, 0, 0, 0, 0),
    ],
  ];
  it.each(cases)('%s', (form, view, old, given, expected) => {
    // Input: what is reduced, then what lies in global memory before.
    const input = new Uint8Array(32);
    const put = (values: Values, at: number) => {
      const array = view.from(values as never);
      input.set(new Uint8Array(array.buffer, 0, 16), at);
    };
    put(given, 0);
    put(old, 16);
    for (const schedule of EITHER_WAY) {
      const out = run(
        `${copyIn(4)} fence.proxy.async;
         ${[0, 4, 8, 12].map((i) => `ld.global.u32 %r9, [%d0+${16 + i}]; st.global.u32 [%d1+${i}], %r9;`).join('\n')}
         cp.reduce.async.bulk.global.shared::cta.bulk_group.${form} [%d1], [%r1], 16; ${STORED}`,
        input,
        16,
        schedule,
      );
      expect([...Array.from(new view(out.slice().buffer))]).toEqual([...expected]);
    }
  });
});

describe('prefetches', () => {
  it('change nothing', () => {
    const out = run(
      `${POLICY} cp.async.bulk.prefetch.L2.global [%d0], 32;
       cp.async.bulk.prefetch.L2.global.L2::cache_hint [%d0+16], 16, %d3;`,
      bytes(32),
      16,
    );
    expect(out).toEqual(new Uint8Array(16).fill(0xcc));
  });
});

describe('misuse is reported', () => {
  const load = (to: string, from: string, size: number | string) =>
    `${INIT} ${expecting(16)} cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [${to}], [${from}], ${size}, [%r2]; ${WAIT}`;
  it.each([
    ['a size that is no multiple of 16', load('%r1', '%d0', 24), /size 24 is not a multiple of 16/],
    ['a source that is not aligned', load('%r1', '%d0+8', 16), /source address.*multiple of 16/],
    ['a destination that is not aligned', load('%r1+8', '%d0', 16), /destination address.*multiple of 16/],
    ['a source beyond its allocation', load('%r1', '%d0+64', 16), /global/],
    ['a source that ends beyond its allocation', load('%r1', '%d0+48', 32), /global/],
    ['a destination beyond shared memory', load('%r1+1040', '%d0', 16), /out of bounds/],
    [
      'a store beyond its allocation',
      `${copyIn(4)} fence.proxy.async; cp.async.bulk.global.shared::cta.bulk_group [%d1+16], [%r1], 16; ${STORED}`,
      /global/,
    ],
    [
      'a store of what was not fenced',
      `${copyIn(4)} cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], 16; ${STORED}`,
      /fence\.proxy\.async/,
    ],
    [
      'a barrier that is none',
      'cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d0], 16, [%r2];',
      /not initialised/,
    ],
    [
      'a multicast to others',
      `${INIT} mov.b16 %h1, 3;
       cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r1], [%d0], 16, [%r2], %h1;`,
      /multicast/,
    ],
    [
      'fewer bytes than expected',
      `${INIT} ${expecting(32)}
       cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d0], 16, [%r2]; ${WAIT}`,
      /deadlock/i,
    ],
  ])('%s', (_, body, message) => {
    for (const asynchrony of ['immediate', 'late'] as const) {
      expect(() => run(body, bytes(64), 16, { asynchrony })).toThrow(message);
    }
  });

  it.each([
    'cp.async.bulk.shared::cluster.global.bulk_group [%r1], [%d0], 16;',
    'cp.async.bulk.global.shared::cta.mbarrier::complete_tx::bytes [%d1], [%r1], 16, [%r2];',
    'cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%d1], [%r1], 16, %h1;',
    'cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%d1], [%r1], 16;',
    'cp.reduce.async.bulk.global.shared::cta.bulk_group.inc.s32 [%d1], [%r1], 16;',
    'cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f16 [%d1], [%r1], 16;',
    'cp.reduce.async.bulk.global.shared::cta.bulk_group.add.s64 [%d1], [%r1], 16;',
    'cp.reduce.async.bulk.global.shared::cta.bulk_group.min.f32 [%d1], [%r1], 16;',
    'cp.reduce.async.bulk.global.shared::cta.bulk_group.and.u32 [%d1], [%r1], 16;',
    'cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [%r1], [%r1+64], 16, [%r2];',
    'cp.async.bulk.wait_group.read;',
    'cp.async.bulk.wait_all;',
    'cp.async.bulk.commit_group 1;',
  ])('an unknown form: %s', (body) => {
    expect(() => run(body, bytes(16), 16)).toThrow(/line \d+.*not supported/s);
  });
});
