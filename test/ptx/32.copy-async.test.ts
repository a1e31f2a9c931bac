// cp.async: copies to shared memory that complete when they are waited for, in groups or through an mbarrier.
import { describe, expect, it } from 'vitest';
import { type Asynchrony, kernel, Ptx, SCHEDULES } from './support/interpreter';
import { lanes, runLanes, type Snippet, words } from './support/lanes';

const BYTES = 16 * 32;
const POISON = 0xffffffff;
const LATE = { asynchrony: 'late' as Asynchrony };
const IMMEDIATE = { asynchrony: 'immediate' as Asynchrony };

const next = words(4);
const memory = Buffer.from(Uint32Array.from({ length: BYTES / 4 }, next).buffer);

/** %r0: where the lane's 16 bytes are in shared memory, which is POISON; %rd0: in global memory. */
const ADDRESSES = `mov.u32 %r1, sm; shl.b32 %r2, %lane, 4; add.u32 %r0, %r1, %r2; mov.u32 %r9, ${POISON};
  ${[0, 512, 1024, 1536].map((at) => `st.shared.v4.b32 [%r0+${at}], {%r9, %r9, %r9, %r9};`).join('\n')}
  bar.warp.sync -1; cvt.u64.u32 %rd0, %r2; add.u64 %rd0, %rd0, %global;`;
/** The lane's 16 bytes as four words, from word `first` of its outputs on. */
const READ = (at = 0, first = 0) =>
  [0, 1, 2, 3].map((i) => `ld.shared.b32 %d${first + i}, [%r0+${at + 4 * i}];`).join('\n');
const WAIT = 'cp.async.wait_all;\n';

const run = (body: string, more: Partial<Snippet> = {}) =>
  runLanes({ body: `${ADDRESSES}\n${body}`, memory, outputs: 4, shared: 2048, ...more });

/** The first `taken` bytes of a lane, zeros up to `bytes`, and poison after them. */
function expected(lane: number, bytes: number, taken = bytes): number[] {
  const block = Buffer.alloc(16, 0xff);
  block.fill(0, 0, bytes);
  memory.copy(block, 0, 16 * lane, 16 * lane + taken);
  return [0, 4, 8, 12].map((i) => block.readUInt32LE(i));
}

describe('a copy', () => {
  it.each([
    ['ca', 4],
    ['ca', 8],
    ['ca', 16],
    ['cg', 16],
  ])('.%s of %i bytes', (cache, bytes) => {
    for (const options of SCHEDULES) {
      for (const space of ['shared', 'shared::cta']) {
        const body = `cp.async.${cache}.${space}.global [%r0], [%rd0], ${bytes};\n${WAIT}${READ()}`;
        expect(run(body, { options })).toEqual(lanes((lane) => expected(lane, bytes)));
      }
    }
  });

  it('takes hints of caching and prefetching', () => {
    for (const hint of ['.L2::64B', '.L2::128B', '.L2::256B']) {
      const plain = `cp.async.cg.shared.global${hint} [%r0], [%rd0], 16;\n${WAIT}${READ()}`;
      expect(run(plain)).toEqual(lanes((lane) => expected(lane, 16)));
      const policy = `createpolicy.fractional.L2::evict_first.b64 %rd2, 1.0; mov.u32 %r5, 4;
        cp.async.ca.shared.global.L2::cache_hint${hint} [%r0], [%rd0], 8, %r5, %rd2;\n${WAIT}${READ()}`;
      expect(run(policy)).toEqual(lanes((lane) => expected(lane, 8, 4)));
    }
    const policy = `createpolicy.fractional.L2::evict_first.b64 %rd2, 1.0; cp.async.ca.shared.global.L2::cache_hint [%r0], [%rd0], 8, %rd2;\n${WAIT}${READ()}`;
    expect(run(policy)).toEqual(lanes((lane) => expected(lane, 8)));
  });

  it.each([4, 8, 16])('of %i bytes fills up with zeros what src-size leaves', (bytes) => {
    const body = `rem.u32 %r5, %lane, ${bytes + 1}; cp.async.ca.shared.global [%r0], [%rd0], ${bytes}, %r5;\n${WAIT}${READ()}`;
    expect(run(body)).toEqual(lanes((lane) => expected(lane, bytes, lane % (bytes + 1))));
    const constant = `cp.async.ca.shared.global [%r0], [%rd0], ${bytes}, 3;\n${WAIT}${READ()}`;
    expect(run(constant)).toEqual(lanes((lane) => expected(lane, bytes, 3)));
  });

  it('writes zeros alone where ignore-src holds', () => {
    const body = (not: string) =>
      `setp.lt.u32 %p1, %lane, 10; cp.async.cg.shared.global [%r0], [%rd0], 16, ${not}%p1;\n${WAIT}${READ()}`;
    expect(run(body(''))).toEqual(lanes((lane) => expected(lane, 16, lane < 10 ? 0 : 16)));
    expect(run(body('!'))).toEqual(lanes((lane) => expected(lane, 16, lane < 10 ? 16 : 0)));
  });

  it('touches nothing under a false guard', () => {
    const body = `setp.lt.u32 %p1, %lane, 10; @%p1 cp.async.cg.shared.global [%r0], [%rd0], 16;\n${WAIT}${READ()}`;
    expect(run(body)).toEqual(lanes((lane) => (lane < 10 ? expected(lane, 16) : [POISON, POISON, POISON, POISON])));
  });

  it('does not read a source of which nothing is taken', () => {
    for (const limit of ['0', '%p1']) {
      const body = `setp.eq.u32 %p1, %lane, %lane; cp.async.cg.shared.global [%r0], [%rd0+1048576], 16, ${limit};\n${WAIT}${READ()}`;
      expect(run(body)).toEqual(lanes(() => [0, 0, 0, 0]));
    }
  });

  it('is a fault beyond memory, unaligned, or when src-size exceeds its size', () => {
    for (const options of [IMMEDIATE, LATE]) {
      const fails = (instruction: string) => expect(() => run(instruction, { options }));
      fails('cp.async.cg.shared.global [%r0], [%rd0+16], 16;').toThrow(/cp\.async/);
      fails('cp.async.cg.shared.global [%r0], [%rd0+16], 16, 1;').toThrow(/cp\.async/);
      fails('cp.async.cg.shared.global [%r0+2048], [%rd0], 16;').toThrow(/cp\.async/);
      fails('cp.async.cg.shared.global [%r0+8], [%rd0], 16;').toThrow(/cp\.async/);
      fails('cp.async.ca.shared.global [%r0+2], [%rd0], 4;').toThrow(/cp\.async/);
      fails('cp.async.ca.shared.global [%r0], [%rd0+4], 8, 4;').toThrow(/aligned/);
      fails('cp.async.ca.shared.global [%r0], [%rd0+4], 16, 0;').toThrow(/aligned/);
      fails('cp.async.ca.shared.global [%r0], [%rd0], 8, 9;').toThrow(/src-size 9/);
    }
  });
});

describe('waiting', () => {
  /** Stage s: the lane's 16 bytes go to byte 512 s of shared memory, with `s + 1` words taken. */
  const stage = (s: number) => `cp.async.cg.shared.global [%r0+${512 * s}], [%rd0], 16, ${4 * (s + 1)};`;
  const readStages = [0, 1, 2].map((s) => READ(512 * s, 4 * s)).join('\n');
  /** Which stages have arrived at the time of reading. */
  function arrived(body: string, options: Snippet['options']): boolean[] {
    const result = run(`${body}\n${readStages}`, { outputs: 12, options });
    return [0, 1, 2].map((s) => {
      const parts = result.map((left) => left.slice(4 * s, 4 * s + 4));
      const here = lanes((lane) => expected(lane, 16, 4 * (s + 1)));
      const all = parts.every((part, lane) => part.every((word, i) => word === here[lane]?.[i]));
      const none = parts.every((part) => part.every((word) => word === POISON));
      expect(all !== none).toBe(true);
      return all;
    });
  }
  const COMMIT = 'cp.async.commit_group;';
  const groups = [0, 1, 2].map((s) => stage(s) + COMMIT).join('\n');

  it('late copies are not there without it; immediate ones are', () => {
    expect(arrived(groups, LATE)).toEqual([false, false, false]);
    expect(arrived(groups, IMMEDIATE)).toEqual([true, true, true]);
  });

  it.each([
    [0, [true, true, true]],
    [1, [true, true, false]],
    [2, [true, false, false]],
    [3, [false, false, false]],
    [9, [false, false, false]],
  ])('wait_group %i leaves as many of the last groups under way', (n, stages) => {
    expect(arrived(`${groups}\ncp.async.wait_group ${n};`, LATE)).toEqual(stages);
  });

  it('counts groups that are empty', () => {
    expect(
      arrived(`${stage(0)}${COMMIT}${stage(1)}${COMMIT}${COMMIT}\ncp.async.wait_group 1;${stage(2)}`, LATE),
    ).toEqual([true, true, false]);
  });

  it('wait_group is not for what was never committed; wait_all is', () => {
    const body = `${stage(0)}${COMMIT}${stage(1)}${stage(2)}`;
    expect(arrived(`${body}\ncp.async.wait_group 0;`, LATE)).toEqual([true, false, false]);
    expect(arrived(`${body}\ncp.async.wait_all;`, LATE)).toEqual([true, true, true]);
  });

  it('a group takes all copies since the one before', () => {
    expect(arrived(`${stage(0)}${stage(1)}${COMMIT}${stage(2)}${COMMIT}\ncp.async.wait_group 1;`, LATE)).toEqual([
      true,
      true,
      false,
    ]);
  });

  it('groups belong to each thread', () => {
    // Only even lanes wait.
    const body = `${stage(0)}${COMMIT} and.b32 %r5, %lane, 1; setp.eq.u32 %p1, %r5, 0; @%p1 cp.async.wait_group 0;\n${READ()}`;
    expect(run(body, { options: LATE })).toEqual(
      lanes((lane) => (lane % 2 ? [POISON, POISON, POISON, POISON] : expected(lane, 16, 4))),
    );
  });
});

describe('cp.async.mbarrier.arrive', () => {
  const COPY = 'cp.async.cg.shared.global [%r0], [%rd0], 16;';
  const init = (count: number) =>
    `setp.eq.u32 %p1, %lane, 0; @%p1 mbarrier.init.shared.b64 [sm+1024], ${count}; bar.warp.sync -1;`;
  const wait = 'SPIN: mbarrier.try_wait.parity.shared.b64 %p2, [sm+1024], 0; @!%p2 bra SPIN;';

  it('.noinc is an arrival of its own, after the copies before it', () => {
    for (const space of ['.shared', '.shared::cta']) {
      for (const options of SCHEDULES) {
        const body = `${init(32)}${COPY} cp.async.mbarrier.arrive.noinc${space}.b64 [sm+1024];\n${wait}\n${READ()}`;
        expect(run(body, { options })).toEqual(lanes((lane) => expected(lane, 16)));
      }
    }
  });

  it('takes a generic address', () => {
    const body = `mov.u64 %rd3, sm; cvta.shared.u64 %rd3, %rd3;
      ${init(32)}${COPY} cp.async.mbarrier.arrive.noinc.b64 [%rd3+1024];\n${wait}\n${READ()}`;
    expect(run(body)).toEqual(lanes((lane) => expected(lane, 16)));
    expect(() => run(`${init(32)} cp.async.mbarrier.arrive.noinc.b64 [%global];`)).toThrow(/not in shared memory/);
  });

  it('without .noinc first makes one more arrival pending, so that the count is for other arrivals', () => {
    for (const options of SCHEDULES) {
      const body = `${init(32)}${COPY} cp.async.mbarrier.arrive.shared.b64 [sm+1024];
        mbarrier.arrive.shared.b64 %rd4, [sm+1024];\n${wait}\n${READ()}`;
      expect(run(body, { options })).toEqual(lanes((lane) => expected(lane, 16)));
    }
    const alone = `${init(32)}${COPY} cp.async.mbarrier.arrive.shared.b64 [sm+1024];\n
      mbarrier.try_wait.parity.shared.b64 %p2, [sm+1024], 0; selp.u32 %d0, 1, 0, %p2;`;
    expect(run(alone, { outputs: 1 }).flat()).toEqual(lanes(() => 0));
  });

  it('does not wait for later copies', () => {
    const body = `${init(32)}${COPY} cp.async.mbarrier.arrive.noinc.shared.b64 [sm+1024];
      cp.async.cg.shared.global [%r0+512], [%rd0], 16;\n${wait}\n${READ()}\n${READ(512, 4)}`;
    expect(run(body, { options: LATE, outputs: 8 })).toEqual(
      lanes((lane) => [...expected(lane, 16), POISON, POISON, POISON, POISON]),
    );
  });
});

describe('the proxy', () => {
  it('is the generic one: a bulk copy needs a fence between', () => {
    const body = (fence: string) => `cp.async.cg.shared.global [%r0], [%rd0], 16;\n${WAIT}${fence}
      cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r0], 16;
      cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;`;
    for (const options of [IMMEDIATE, LATE]) {
      expect(() => run(body(''), { options })).toThrow(/fence\.proxy\.async|proxy/);
      expect(() => run(body('fence.proxy.async;'), { options })).not.toThrow();
    }
  });

  it('a fence before the copy has completed is too early', () => {
    const body = `cp.async.cg.shared.global [%r0], [%rd0], 16;\nfence.proxy.async;\n${WAIT}
      cp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r0], 16;
      cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;`;
    expect(() => run(body, { options: LATE })).toThrow(/proxy/);
  });
});

describe('forms that are refused when the module is loaded', () => {
  it.each([
    'cp.async.cg.shared.global [%r0], [%rd0], 8;',
    'cp.async.ca.shared.global [%r0], [%rd0], 2;',
    'cp.async.ca.shared.global [%r0], [%rd0], %r1;',
    'cp.async.ca.shared.global [%r0], [%rd0];',
    'cp.async.ca.shared.global [%r0], [%rd0], 4, 4, %rd1;',
    'cp.async.ca.shared.global.L2::cache_hint [%r0], [%rd0], 4;',
    'cp.async.ca.shared.global.L2::32B [%r0], [%rd0], 4;',
    'cp.async.shared.global [%r0], [%rd0], 4;',
    'cp.async.ca.global.shared [%rd0], [%r0], 4;',
    'cp.async.ca.shared::cluster.global [%r0], [%rd0], 4;',
    'cp.async.wait_group %r0;',
    'cp.async.wait_group;',
    'cp.async.wait_all 0;',
    'cp.async.commit_group.read;',
    'cp.async.mbarrier.arrive.noinc.shared.b32 [%r0];',
    'cp.async.mbarrier.arrive.shared::cluster.b64 [%r0];',
    'cp.sync.ca.shared.global [%r0], [%rd0], 4;',
  ])('%s', (instruction) => {
    expect(() => new Ptx(kernel('', `.reg .b32 %r<4>; .reg .b64 %rd<4>;\n${instruction}\nret;`))).toThrow(/line \d+/);
  });
});
