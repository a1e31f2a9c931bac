// mbarrier: counts of arrivals and of bytes, phases, tokens, and what is refused.
import { describe, expect, it } from 'vitest';
import { allocate, kernel, type LaunchOptions, Ptx, SCHEDULES } from './support/interpreter';

const HEAD = `
  .shared .align 8 .b8 bar[64];
  .reg .b64 %d<12>; .reg .b32 %r<20>; .reg .pred %p<6>;
  ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x;`;

function run(body: string, words: number, options: LaunchOptions = {}): number[] {
  const out = allocate(words * 4);
  new Ptx(kernel('.param .u64 out', HEAD + body).replace('.version 8.5', '.version 8.6')).launch('test', [out], {
    block: [1],
    ...options,
  });
  return [...new Uint32Array(out.buffer, out.byteOffset, words)];
}

/** PTX that stores whether the phase of this parity is complete. */
const phase = (parity: number, word: number) => `
  mbarrier.test_wait.parity.shared::cta.b64 %p1, [bar], ${parity};
  selp.u32 %r19, 1, 0, %p1; st.global.u32 [%d0+${word * 4}], %r19;`;

/** For each parity, after each step, whether it counts as complete. */
function phases(init: string, steps: string[]): string[] {
  const body = steps.map((step, i) => step + phase(0, 2 * i) + phase(1, 2 * i + 1)).join('\n');
  const out = run(`${init}\n${body}`, 2 * steps.length);
  return steps.map((_, i) => `${out[2 * i]}${out[2 * i + 1]}`);
}
/** As phases() gives it: the first phase, of parity 0, is incomplete or just complete, and so on. */
const IN_EVEN = '01';
const IN_ODD = '10';

const init = (count: number, at = 'bar') => `mbarrier.init.shared::cta.b64 [${at}], ${count};`;

describe('arrivals', () => {
  it('complete a phase when as many have come as init said', () => {
    expect(
      phases(init(3), [
        '',
        'mbarrier.arrive.shared.b64 %d1, [bar];',
        'mbarrier.arrive.shared::cta.b64 _, [bar];',
        'mbarrier.arrive.release.cta.shared::cta.b64 %d1, [bar];',
        'mbarrier.arrive.relaxed.cluster.shared::cta.b64 %d1, [bar], 3;',
      ]),
    ).toEqual([IN_EVEN, IN_EVEN, IN_EVEN, IN_ODD, IN_EVEN]);
  });

  it('count as many as their operand says', () => {
    expect(
      phases(`${init(7)} mov.u32 %r1, 4;`, [
        'mbarrier.arrive.shared::cta.b64 %d1, [bar], 2;',
        'mbarrier.arrive.shared::cta.b64 _, [bar], %r1;',
        'mbarrier.arrive.shared::cta.b64 _, [bar], 1;',
        'mbarrier.arrive.noComplete.shared.b64 %d1, [bar], 6;',
        'mbarrier.arrive.shared.b64 %d1, [bar];',
      ]),
    ).toEqual([IN_EVEN, IN_EVEN, IN_ODD, IN_ODD, IN_EVEN]);
  });

  it('reach the largest count', () => {
    const most = 2 ** 20 - 1;
    expect(
      phases(init(most), [
        `mbarrier.arrive.shared::cta.b64 _, [bar], ${most - 1};`,
        'mbarrier.arrive.shared::cta.b64 _, [bar];',
      ]),
    ).toEqual([IN_EVEN, IN_ODD]);
  });

  it('return a token that knows what was pending before them', () => {
    const out = run(
      `${init(9)}
       mbarrier.arrive.shared::cta.b64 %d1, [bar];
       mbarrier.arrive.noComplete.shared::cta.b64 %d2, [bar], 3;
       mbarrier.arrive_drop.shared::cta.b64 %d3, [bar], 4;
       mbarrier.arrive.shared::cta.b64 %d4, [bar];
       mbarrier.arrive.shared::cta.b64 %d5, [bar];
       ${[1, 2, 3, 4, 5].map((i) => `mbarrier.pending_count.b64 %r1, %d${i}; st.global.u32 [%d0+${4 * i - 4}], %r1;`).join('\n')}`,
      5,
    );
    // The fourth completes the phase; the next has the four dropped arrivals fewer.
    expect(out).toEqual([9, 8, 5, 1, 5]);
  });

  it('of one warp all count', () => {
    const out = run(
      `setp.eq.u32 %p2, %r0, 0;
       @%p2 mbarrier.init.shared::cta.b64 [bar], 33;
       bar.sync 0;
       mbarrier.arrive.shared::cta.b64 _, [bar];
       bar.sync 0;
       ${phase(0, 0)}
       @%p2 mbarrier.arrive.shared::cta.b64 _, [bar];
       bar.sync 0;
       ${phase(0, 1)}`,
      2,
      { block: [32] },
    );
    expect(out).toEqual([0, 1]);
  });

  it('find the object by a generic address, and by one of the cluster', () => {
    expect(
      phases(
        `mov.u64 %d3, bar; cvta.shared.u64 %d4, %d3; mbarrier.init.b64 [%d4], 3;
         mov.u32 %r1, bar; mapa.shared::cluster.u32 %r2, %r1, 0;`,
        [
          'mbarrier.arrive.b64 %d1, [%d4];',
          'mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r2];',
          'mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r2], 1;',
        ],
      ),
    ).toEqual([IN_EVEN, IN_EVEN, IN_ODD]);
  });

  it('find the object at an offset', () => {
    const out = run(
      `mov.u32 %r1, bar; mbarrier.init.shared::cta.b64 [%r1+16], 1; mbarrier.init.shared::cta.b64 [bar], 1;
       mbarrier.arrive.shared::cta.b64 _, [bar+16];
       mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r1+16], 0;
       selp.u32 %r2, 1, 0, %p1; st.global.u32 [%d0], %r2; ${phase(0, 1)}`,
      2,
    );
    expect(out).toEqual([1, 0]);
  });
});

describe('arrive_drop', () => {
  it('arrives, and lowers the count of the phases that follow', () => {
    expect(
      phases(init(4), [
        'mbarrier.arrive_drop.shared::cta.b64 %d1, [bar];',
        'mbarrier.arrive.shared::cta.b64 _, [bar], 3;',
        'mbarrier.arrive_drop.release.cta.shared::cta.b64 _, [bar], 2;',
        'mbarrier.arrive.shared::cta.b64 _, [bar];',
        'mbarrier.arrive.shared::cta.b64 _, [bar];',
      ]),
    ).toEqual([IN_EVEN, IN_ODD, IN_ODD, IN_EVEN, IN_ODD]);
  });

  it('has forms with bytes, without completion, and for the cluster', () => {
    expect(
      phases(`${init(4)} mov.u32 %r1, bar; mapa.shared::cluster.u32 %r2, %r1, 0;`, [
        'mbarrier.arrive_drop.expect_tx.shared::cta.b64 %d1, [bar], 8;',
        'mbarrier.arrive_drop.noComplete.shared::cta.b64 %d1, [bar], 1;',
        'mbarrier.arrive_drop.shared::cluster.b64 _, [%r2];',
        'mbarrier.complete_tx.shared::cta.b64 [bar], 8;',
        'mbarrier.arrive.shared::cta.b64 _, [bar];',
        'mbarrier.arrive.shared::cta.b64 _, [bar];',
      ]),
    ).toEqual([IN_EVEN, IN_EVEN, IN_EVEN, IN_EVEN, IN_ODD, IN_EVEN]);
  });
});

describe('bytes', () => {
  it('hold a phase open until all have come', () => {
    expect(
      phases(init(1), [
        'mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 96;',
        'mbarrier.arrive.shared::cta.b64 _, [bar];',
        'mbarrier.complete_tx.shared::cta.b64 [bar], 64;',
        'mbarrier.complete_tx.relaxed.cluster.shared::cta.b64 [bar], 32;',
      ]),
    ).toEqual([IN_EVEN, IN_EVEN, IN_EVEN, IN_ODD]);
  });

  it('are expected by an arrival in one step', () => {
    expect(
      phases(`${init(2)} mov.u32 %r1, bar; mapa.shared::cluster.u32 %r2, %r1, 0; mov.u32 %r3, 48;`, [
        'mbarrier.arrive.expect_tx.shared::cta.b64 %d1, [bar], 16;',
        'mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r2], %r3;',
        'mbarrier.complete_tx.shared::cta.b64 [bar], 63;',
        'mbarrier.complete_tx.shared::cluster.b64 [%r2], 1;',
      ]),
    ).toEqual([IN_EVEN, IN_EVEN, IN_EVEN, IN_ODD]);
  });

  it('may come before they are expected', () => {
    expect(
      phases(init(1), [
        'mbarrier.complete_tx.shared::cta.b64 [bar], 1048575;',
        'mbarrier.expect_tx.shared::cta.b64 [bar], 1048575;',
        'mbarrier.arrive.shared::cta.b64 _, [bar];',
      ]),
    ).toEqual([IN_EVEN, IN_EVEN, IN_ODD]);
  });

  it('do not complete a phase without arrivals', () => {
    expect(
      phases(init(1), [
        'mbarrier.expect_tx.shared::cta.b64 [bar], 16; mbarrier.complete_tx.shared::cta.b64 [bar], 16;',
        'mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 0;',
      ]),
    ).toEqual([IN_EVEN, IN_ODD]);
  });
});

describe('waiting', () => {
  it('for the phase of a token', () => {
    const wait = (form: string, token: string, word: number, more = '') => `
      mbarrier.${form}.b64 %p1, [bar], ${token}${more};
      selp.u32 %r1, 1, 0, %p1; st.global.u32 [%d0+${4 * word}], %r1;`;
    const out = run(
      `${init(2)} mov.u32 %r2, 100;
       mbarrier.arrive.shared::cta.b64 %d1, [bar];
       ${wait('test_wait.shared::cta', '%d1', 0)} ${wait('try_wait.shared::cta', '%d1', 1, ', %r2')}
       mbarrier.arrive.shared::cta.b64 %d2, [bar];
       ${wait('test_wait.acquire.cta.shared::cta', '%d1', 2)} ${wait('try_wait.relaxed.cta.shared::cta', '%d2', 3)}
       mbarrier.arrive.shared::cta.b64 %d3, [bar];
       ${wait('test_wait.shared', '%d3', 4)} ${wait('try_wait.acquire.cluster.shared::cta', '%d2', 5)}`,
      6,
    );
    expect(out).toEqual([0, 0, 1, 1, 0, 1]);
  });

  it('for a parity, with a limit of time', () => {
    const out = run(
      `${init(1)}
       mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0, 1000;
       mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], 1, 1000;
       mbarrier.arrive.shared::cta.b64 _, [bar];
       mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p3, [bar], 0;
       mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p4, [bar], 1;
       ${[1, 2, 3, 4].map((i) => `selp.u32 %r1, 1, 0, %p${i}; st.global.u32 [%d0+${4 * i - 4}], %r1;`).join('\n')}`,
      4,
    );
    expect(out).toEqual([0, 1, 1, 0]);
  });

  it('answers each lane for its own object, and only lanes whose guard holds', () => {
    const out = run(
      `mov.u32 %r1, bar; shl.b32 %r2, %r0, 3; add.u32 %r1, %r1, %r2;
       mbarrier.init.shared::cta.b64 [%r1], 1;
       and.b32 %r3, %r0, 1; setp.eq.u32 %p1, %r3, 1;
       @%p1 mbarrier.arrive.shared::cta.b64 _, [%r1];
       setp.ne.u32 %p3, %r0, 99; setp.lt.u32 %p2, %r0, 6;
       @%p2 mbarrier.test_wait.parity.shared::cta.b64 %p3, [%r1], 0;
       selp.u32 %r4, 1, 0, %p3; mul.wide.u32 %d1, %r0, 4; add.u64 %d1, %d0, %d1; st.global.u32 [%d1], %r4;`,
      8,
      { block: [8] },
    );
    expect(out).toEqual([0, 1, 0, 1, 0, 1, 1, 1]);
  });

  it.each(SCHEDULES)('makes four warps take turns with a buffer, seed $seed $asynchrony', (schedule) => {
    // Each thread adds its neighbour's value of the round before, in other warps too; two barriers, eight rounds.
    const out = run(
      `.shared .align 4 .b8 data[512];
       setp.eq.u32 %p1, %r0, 0;
       @%p1 mbarrier.init.shared::cta.b64 [bar], 128;
       @%p1 mbarrier.init.shared::cta.b64 [bar+8], 128;
       bar.sync 0;
       mov.u32 %r1, data; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2;
       add.u32 %r4, %r2, 132; and.b32 %r4, %r4, 511; add.u32 %r4, %r4, %r1;
       mov.u32 %r5, %r0; mov.u32 %r6, 0;
       round:
       st.shared.u32 [%r3], %r5;
       mbarrier.arrive.shared::cta.b64 _, [bar];
       and.b32 %r7, %r6, 1;
       full:
       mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], %r7;
       @!%p2 bra full;
       ld.shared.u32 %r8, [%r4];
       mbarrier.arrive.shared::cta.b64 %d1, [bar+8];
       empty:
       mbarrier.test_wait.shared::cta.b64 %p2, [bar+8], %d1;
       @!%p2 bra empty;
       add.u32 %r5, %r5, %r8;
       add.u32 %r6, %r6, 1; setp.lt.u32 %p2, %r6, 8; @%p2 bra round;
       mul.wide.u32 %d2, %r0, 4; add.u64 %d2, %d0, %d2; st.global.u32 [%d2], %r5;`,
      128,
      { block: [128], ...schedule },
    );
    let expected = Array.from({ length: 128 }, (_, i) => i);
    for (let round = 0; round < 8; round++) {
      const before = expected;
      expected = before.map((value, i) => (value + (before[(i + 33) % 128] as number)) >>> 0);
    }
    expect(out).toEqual(expected);
  });
});

describe('inval', () => {
  it('frees the memory, also for another object', () => {
    const out = run(
      `${init(5)} mbarrier.arrive.shared::cta.b64 _, [bar];
       mbarrier.inval.shared::cta.b64 [bar]; mov.u32 %r1, 77; st.shared.u32 [bar], %r1;
       ld.shared.u32 %r2, [bar]; st.global.u32 [%d0], %r2;
       ${init(1)} ${phase(0, 1)} mbarrier.arrive.shared::cta.b64 _, [bar]; ${phase(0, 2)}`,
      3,
    );
    expect(out).toEqual([77, 0, 1]);
  });
});

describe('misuse is reported', () => {
  it.each([
    ['an object that is not initialised', 'mbarrier.arrive.shared::cta.b64 _, [bar];', /not initialised/],
    ['waiting without init', 'mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0;', /not initialised/],
    [
      'use after inval',
      `${init(1)} mbarrier.inval.shared::cta.b64 [bar]; mbarrier.arrive.shared::cta.b64 _, [bar];`,
      /not initialised/,
    ],
    ['init without inval', `${init(1)} ${init(1)}`, /initialised again/],
    ['a count of zero', init(0), /count of 0/],
    ['a count beyond 2^20 - 1', init(2 ** 20), /count of 1048576/],
    ['an arrival of zero', `${init(1)} mbarrier.arrive.shared::cta.b64 _, [bar], 0;`, /count of 0/],
    ['more arrivals than pending', `${init(2)} mbarrier.arrive.shared::cta.b64 _, [bar], 3;`, /only 2 are pending/],
    [
      'arrivals while only bytes are pending',
      `${init(1)} mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 16; mbarrier.arrive.shared::cta.b64 _, [bar];`,
      /only 0 are pending/,
    ],
    ['noComplete that completes', `${init(1)} mbarrier.arrive.noComplete.shared.b64 %d1, [bar], 1;`, /noComplete/],
    ['too many bytes', `${init(1)} mbarrier.expect_tx.shared::cta.b64 [bar], 1048576;`, /tx-count/],
    [
      'too many bytes together',
      `${init(1)} mbarrier.expect_tx.shared::cta.b64 [bar], 1048575; mbarrier.expect_tx.shared::cta.b64 [bar], 1;`,
      /tx-count/,
    ],
    ['a parity that is none', `${init(1)} mbarrier.test_wait.parity.shared::cta.b64 %p1, [bar], 2;`, /parity of 2/],
    ['a misaligned object', 'mbarrier.init.shared::cta.b64 [bar+4], 1;', /misaligned/],
    ['an object beyond shared memory', 'mbarrier.init.shared::cta.b64 [bar+64], 1;', /out of bounds/],
    ['an object in global memory', 'mbarrier.init.b64 [%d0], 1;', /not in shared memory/],
    [
      'an object that was written over',
      `${init(1)} mov.u32 %r1, 5; st.shared.u32 [bar+4], %r1; mbarrier.arrive.shared::cta.b64 _, [bar];`,
      /overwritten/,
    ],
    [
      'a phase that never completes',
      `${init(2)} mbarrier.arrive.shared::cta.b64 _, [bar];
       again: mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0; @!%p1 bra again;`,
      /deadlock[\s\S]*try_wait/i,
    ],
  ])('%s', (_, body, message) => {
    expect(() => run(body, 1)).toThrow(message);
  });

  it.each([
    ['a scope of the device', 'mbarrier.arrive.release.gpu.shared::cta.b64 _, [bar];'],
    ['acquire where one releases', 'mbarrier.arrive.acquire.cta.shared::cta.b64 _, [bar];'],
    ['a token from the cluster', 'mbarrier.arrive.shared::cluster.b64 %d1, [bar];'],
    ['waiting at the cluster', 'mbarrier.try_wait.parity.shared::cluster.b64 %p1, [bar], 0;'],
    ['a limit of time for test_wait', 'mbarrier.test_wait.parity.shared::cta.b64 %p1, [bar], 0, 10;'],
    ['another width', 'mbarrier.init.shared::cta.b32 [bar], 1;'],
    ['an unknown operation', 'mbarrier.depart.shared::cta.b64 [bar], 1;'],
  ])('an unknown form: %s', (_, body) => {
    expect(() => run(body, 1)).toThrow(/line \d+.*(not supported|unknown)/s);
  });
});
