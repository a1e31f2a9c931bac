// What lanes of a warp do together: shfl, vote, match, redux, elect, activemask, bar.warp.sync.
import { describe, expect, it } from 'vitest';
import { kernel, Ptx, SCHEDULES } from './support/interpreter';
import { LANES, lanes, runLanes, words } from './support/lanes';

const ALL = 0xffffffff;
const UNWRITTEN = 0xdeadbeef;
const GONE = 0xcccccccc;
const bits = (value: number) => new Uint32Array(new Float32Array([value]).buffer)[0] ?? 0;
const load = (body: string) =>
  new Ptx(kernel('', `.reg .b32 %r<9>; .reg .b64 %rd<4>; .reg .pred %p<4>;\n${body}\nret;`));

/** A predicate as a word. */
const asWord = (word: number, predicate: string) => `selp.u32 %d${word}, 1, 0, ${predicate};`;

/** From which lane the ISA's pseudo-code reads, and the predicate. */
function shuffle(mode: string, lane: number, b: number, c: number): [number, boolean] {
  const bval = b & 0x1f;
  const cval = c & 0x1f;
  const mask = (c >>> 8) & 0x1f;
  const maxLane = (lane & mask) | (cval & ~mask & 0x1f);
  const minLane = lane & mask;
  let j = 0;
  let inside = false;
  if (mode === 'up') {
    j = lane - bval;
    inside = j >= maxLane;
  } else if (mode === 'down') {
    j = lane + bval;
    inside = j <= maxLane;
  } else if (mode === 'bfly') {
    j = lane ^ bval;
    inside = j <= maxLane;
  } else {
    j = minLane | (bval & ~mask & 0x1f);
    inside = j <= maxLane;
  }
  return [inside ? j : lane, inside];
}

describe('shfl.sync', () => {
  const modes = ['up', 'down', 'bfly', 'idx'];

  it.each(modes)('%s reads from the lane that b and c give, in every lane its own', (mode) => {
    const next = words(1);
    for (let round = 0; round < 20; round++) {
      const inputs = lanes(() => [next(), next(), next()]);
      const result = runLanes({
        body: `shfl.sync.${mode}.b32 %d0|%p1, %a0, %a1, %a2, -1;\n${asWord(1, '%p1')}`,
        inputs,
        outputs: 2,
      });
      const expected = lanes((lane) => {
        const [from, inside] = shuffle(mode, lane, inputs[lane]?.[1] ?? 0, inputs[lane]?.[2] ?? 0);
        return [inputs[from]?.[0], inside ? 1 : 0];
      });
      expect(result).toEqual(expected);
    }
  });

  // The forms that CUDA's intrinsics emit for segments of 32, 16, 8, 4 and 2 lanes.
  it.each(modes)('%s stays within segments', (mode) => {
    for (const width of [2, 4, 8, 16, 32]) {
      const c = ((LANES - width) << 8) | (mode === 'up' ? 0 : 0x1f);
      for (let b = 0; b < 32; b++) {
        const result = runLanes({
          body: `mov.b32 %d0, %lane; shfl.sync.${mode}.b32 %d0, %d0, ${b}, ${c}, 0xffffffff;`,
          outputs: 1,
        });
        const within = (lane: number) => {
          const first = lane - (lane % width);
          if (mode === 'idx') return first + (b % width);
          const j = mode === 'up' ? lane - b : mode === 'down' ? lane + b : lane ^ b;
          return j >= first && j < first + width ? j : lane;
        };
        // A butterfly beyond its segment reads from lower segments: only the upper end is checked.
        const expected = mode === 'bfly' ? (lane: number) => shuffle(mode, lane, b, c)[0] : within;
        expect(result.flat()).toEqual(lanes(expected));
      }
    }
  });

  it('may write any of its own operands', () => {
    const inputs = lanes((lane) => [100 + lane, 31 - lane]);
    expect(
      runLanes({ body: 'shfl.sync.idx.b32 %a1, %a0, %a1, 31, -1; mov.b32 %d0, %a1;', inputs, outputs: 1 }).flat(),
    ).toEqual(lanes((lane) => 131 - lane));
    expect(
      runLanes({
        body: 'mov.b32 %r0, -1; shfl.sync.down.b32 %r0, %a0, 1, 31, %r0; mov.b32 %d0, %r0;',
        inputs,
        outputs: 1,
      }).flat(),
    ).toEqual(lanes((lane) => 100 + Math.min(lane + 1, 31)));
  });

  it('takes a number as the value', () => {
    expect(runLanes({ body: 'shfl.sync.idx.b32 %d0, -7, 3, 31, -1;', outputs: 1 }).flat()).toEqual(
      lanes(() => -7 >>> 0),
    );
  });

  it('works in two halves that have masks of their own, together or apart', () => {
    const inputs = lanes((lane) => [lane * 3, lane < 16 ? 0x0000ffff : 0xffff0000]);
    const expected = lanes((lane) => (lane ^ 5) * 3);
    expect(runLanes({ body: 'shfl.sync.bfly.b32 %d0, %a0, 5, 31, %a1;', inputs, outputs: 1 }).flat()).toEqual(expected);
    for (const options of SCHEDULES) {
      const body = `setp.lt.u32 %p0, %lane, 16;
        @%p0 bra LOW;
        shfl.sync.bfly.b32 %d0, %a0, 5, 31, 0xffff0000;
        bra END;
        LOW: shfl.sync.bfly.b32 %d0, %a0, 5, 31, 0x0000ffff;
        END:`;
      expect(runLanes({ body, inputs, outputs: 1, options }).flat()).toEqual(expected);
    }
  });

  it('waits for members that come later', () => {
    for (const options of SCHEDULES) {
      // Lane i goes around i + 1 times.
      const body = `mov.u32 %r0, 0;
        LOOP: add.u32 %r0, %r0, 1;
        setp.le.u32 %p0, %r0, %lane;
        @%p0 bra LOOP;
        shfl.sync.idx.b32 %d0, %r0, 31, 31, -1;`;
      expect(runLanes({ body, outputs: 1, options }).flat()).toEqual(lanes(() => 32));
    }
  });

  it('does not wait for lanes that have ended', () => {
    const body = `setp.ge.u32 %p0, %lane, 20;
      @%p0 exit;
      shfl.sync.bfly.b32 %d0, %lane, 3, 31, -1;`;
    expect(runLanes({ body, outputs: 1 }).flat()).toEqual(lanes((lane) => (lane < 20 ? lane ^ 3 : GONE)));
  });

  it('does not wait for lanes that the block never had', () => {
    const result = runLanes({ body: 'shfl.sync.bfly.b32 %d0, %thread, 1, 31, -1;', outputs: 1, threads: 40 });
    expect(result.flat()).toEqual(Array.from({ length: 40 }, (_, i) => i ^ 1));
  });

  it('may point outside of the members where the predicate is false', () => {
    const body = `setp.ge.u32 %p0, %lane, 8;
      @%p0 bra END;
      shfl.sync.down.b32 %d0|%p1, %lane, 4, 7, 0xff;
      ${asWord(1, '%p1')}
      END:`;
    expect(runLanes({ body, outputs: 2 })).toEqual(
      lanes((lane) => (lane >= 8 ? [UNWRITTEN, UNWRITTEN] : [lane < 4 ? lane + 4 : lane, lane < 4 ? 1 : 0])),
    );
  });

  it('is a fault where its meaning is undefined', () => {
    const run = (body: string) => () => runLanes({ body, outputs: 1 });
    const half = (instruction: string) => `setp.lt.u32 %p0, %lane, 16;\n@!%p0 bra END;\n${instruction}\nEND:`;
    expect(run(half('shfl.sync.down.b32 %d0, %lane, 1, 31, 0xffff;'))).toThrow(/reads from lane 16/);
    expect(run('setp.ge.u32 %p0, %lane, 20;\n@%p0 exit;\nshfl.sync.idx.b32 %d0, %lane, 25, 31, -1;')).toThrow(
      /reads from lane 25/,
    );
    expect(run('shfl.sync.idx.b32 %d0, %lane, 0, 31, 0x7fffffff;')).toThrow(/not in its own membermask/);
    expect(run('setp.ne.u32 %p0, %lane, 9;\n@%p0 shfl.sync.idx.b32 %d0, %lane, 0, 31, -1;')).toThrow(/guard/);
    expect(
      run('setp.eq.u32 %p0, %lane, 0; selp.b32 %r0, 1, 0xffffffff, %p0;\nshfl.sync.idx.b32 %d0, %lane, 0, 31, %r0;'),
    ).toThrow(/different membermasks/);
    // Lanes that end up at different instructions never meet.
    expect(
      run(
        'setp.lt.u32 %p0, %lane, 16;\n@%p0 bra LOW;\nshfl.sync.idx.b32 %d0, %lane, 0, 31, -1;\nbra END;\nLOW: shfl.sync.idx.b32 %d0, %lane, 1, 31, -1;\nEND:',
      ),
    ).toThrow(/shfl/);
  });
});

describe('vote.sync', () => {
  const masks = [0, ALL, 1, 0x80000000, 0x0000ffff, 0x12345678, 0xfffffffe];

  it('all, any, uni and ballot, of the predicate or its negation', () => {
    for (const mask of masks) {
      for (const not of ['', '!']) {
        const holds = not ? ~mask >>> 0 : mask;
        const result = runLanes({
          body: `setp.ne.u32 %p0, %a0, 0;
            vote.sync.all.pred %p1, ${not}%p0, -1; ${asWord(0, '%p1')}
            vote.sync.any.pred %p1, ${not}%p0, -1; ${asWord(1, '%p1')}
            vote.sync.uni.pred %p1, ${not}%p0, -1; ${asWord(2, '%p1')}
            vote.sync.ballot.b32 %d3, ${not}%p0, 0xffffffff;`,
          inputs: lanes((lane) => [(mask >>> lane) & 1]),
          outputs: 4,
        });
        const all = holds === ALL ? 1 : 0;
        const any = holds !== 0 ? 1 : 0;
        expect(result).toEqual(lanes(() => [all, any, all || !any ? 1 : 0, holds]));
      }
    }
  });

  it('counts only members that have not ended', () => {
    const body = `setp.ge.u32 %p0, %lane, 24;
      @%p0 exit;
      setp.lt.u32 %p1, %lane, 24;
      setp.lt.u32 %p2, %lane, 12;
      @!%p2 bra HIGH;
      vote.sync.all.pred %p3, %p1, 0xfff;
      vote.sync.ballot.b32 %d1, %p1, 0xfff;
      bra END;
      HIGH: vote.sync.all.pred %p3, %p1, 0xfffff000;
      vote.sync.ballot.b32 %d1, %p1, 0xfffff000;
      END: ${asWord(0, '%p3')}`;
    expect(runLanes({ body, outputs: 2 })).toEqual(
      lanes((lane) => (lane >= 24 ? [GONE, GONE] : [1, lane < 12 ? 0xfff : 0xfff000])),
    );
  });

  it('may write the predicate that it reads', () => {
    const body = `setp.eq.u32 %p0, %lane, 7; vote.sync.any.pred %p0, %p0, -1; ${asWord(0, '%p0')}`;
    expect(runLanes({ body, outputs: 1 }).flat()).toEqual(lanes(() => 1));
  });
});

describe('match.sync', () => {
  const next = words(2);
  const inputs = lanes(() => [next() % 3, next() % 2]);
  const equal = (lane: number, width: number) =>
    lanes((other) => other).reduce(
      (mask, other) =>
        inputs[other]?.[0] === inputs[lane]?.[0] && (width === 32 || inputs[other]?.[1] === inputs[lane]?.[1])
          ? mask + 2 ** other
          : mask,
      0,
    );

  it('any: the lanes with the same value, of 32 or 64 bits', () => {
    expect(runLanes({ body: 'match.any.sync.b32 %d0, %a0, -1;', inputs, outputs: 1 }).flat()).toEqual(
      lanes((lane) => equal(lane, 32)),
    );
    expect(
      runLanes({ body: 'mov.b64 %rd0, {%a0, %a1}; match.any.sync.b64 %d0, %rd0, -1;', inputs, outputs: 1 }).flat(),
    ).toEqual(lanes((lane) => equal(lane, 64)));
  });

  it('all: the members when all values are the same, else 0', () => {
    const run = (type: string, odd: number) =>
      runLanes({
        body: `mov.b64 %rd0, {%a0, %a1};
          match.all.sync.${type} %d0|%p0, ${type === 'b32' ? '%a0' : '%rd0'}, -1; ${asWord(1, '%p0')}
          match.all.sync.${type} %d2, ${type === 'b32' ? '%a0' : '%rd0'}, -1;`,
        inputs: lanes((lane) => [5, lane === odd ? 1 : 2]),
        outputs: 3,
      });
    expect(run('b32', 9)).toEqual(lanes(() => [ALL, 1, ALL]));
    expect(run('b64', -1)).toEqual(lanes(() => [ALL, 1, ALL]));
    expect(run('b64', 9)).toEqual(lanes(() => [0, 0, 0]));
  });

  it('within the members only', () => {
    const body = `and.b32 %r0, %lane, 1; setp.eq.u32 %p0, %r0, 1;
      selp.b32 %r1, 0xaaaaaaaa, 0x55555555, %p0;
      match.any.sync.b32 %d0, 1, %r1;
      match.all.sync.b32 %d1|%p1, %r0, %r1; ${asWord(2, '%p1')}`;
    expect(runLanes({ body, outputs: 3 })).toEqual(
      lanes((lane) => (lane % 2 ? [0xaaaaaaaa, 0xaaaaaaaa, 1] : [0x55555555, 0x55555555, 1])),
    );
  });
});

describe('redux.sync', () => {
  const next = words(3);
  const values = [lanes(() => next()), lanes((lane) => (lane === 13 ? 0x80000000 : next() >>> 1)), lanes(() => ALL)];
  const reduce = (list: number[], f: (a: bigint, b: bigint) => bigint, signed: boolean) => {
    const big = list.map((v) => (signed ? BigInt.asIntN(32, BigInt(v)) : BigInt(v)));
    return Number(BigInt.asUintN(32, big.reduce(f)));
  };
  const operations: [string, (a: bigint, b: bigint) => bigint][] = [
    ['add.u32', (a, b) => a + b],
    ['add.s32', (a, b) => a + b],
    ['min.u32', (a, b) => (a < b ? a : b)],
    ['min.s32', (a, b) => (a < b ? a : b)],
    ['max.u32', (a, b) => (a > b ? a : b)],
    ['max.s32', (a, b) => (a > b ? a : b)],
    ['and.b32', (a, b) => a & b],
    ['or.b32', (a, b) => a | b],
    ['xor.b32', (a, b) => a ^ b],
  ];

  it.each(operations)('%s', (operation, f) => {
    for (const list of values) {
      const inputs = list.map((v) => [v]);
      const whole = runLanes({ body: `redux.sync.${operation} %d0, %a0, -1;`, inputs, outputs: 1 });
      const expected = reduce(list, f, operation.endsWith('s32'));
      expect(whole.flat()).toEqual(lanes(() => expected));
      const parts = runLanes({
        body: `setp.lt.u32 %p0, %lane, 11; selp.b32 %r0, 0x7ff, 0xfffff800, %p0; redux.sync.${operation} %a0, %a0, %r0; mov.b32 %d0, %a0;`,
        inputs,
        outputs: 1,
      });
      const low = reduce(list.slice(0, 11), f, operation.endsWith('s32'));
      const high = reduce(list.slice(11), f, operation.endsWith('s32'));
      expect(parts.flat()).toEqual(lanes((lane) => (lane < 11 ? low : high)));
    }
  });

  it('min and max of f32, with .abs and .NaN', () => {
    const run = (operation: string, list: number[]) =>
      runLanes({
        body: `redux.sync.${operation}.f32 %d0, %a0, -1;`,
        inputs: list.map((v) => [bits(v)]),
        outputs: 1,
        target: 'sm_100a',
      })[17]?.[0];
    const plain = lanes((lane) => (lane - 20.5) * 3);
    expect(run('min', plain)).toBe(bits(-61.5));
    expect(run('max', plain)).toBe(bits(31.5));
    expect(run('min.abs', plain)).toBe(bits(1.5));
    expect(run('max.abs', plain)).toBe(bits(61.5));
    const withNaN = plain.map((v, lane) => (lane === 4 || lane === 0 ? Number.NaN : v));
    expect(run('max', withNaN)).toBe(bits(31.5));
    expect(run('max.NaN', withNaN)).toBe(0x7fffffff);
    expect(run('min.abs.NaN', withNaN)).toBe(0x7fffffff);
    expect(
      run(
        'min',
        lanes(() => Number.NaN),
      ),
    ).toBe(0x7fffffff);
    const zeros = lanes((lane) => (lane % 2 ? 0 : -0));
    expect(run('min', zeros)).toBe(0x80000000);
    expect(run('max', zeros)).toBe(0);
    expect(
      run(
        'max',
        lanes((lane) => (lane === 3 ? Number.POSITIVE_INFINITY : 1)),
      ),
    ).toBe(bits(Number.POSITIVE_INFINITY));
  });
});

describe('elect.sync', () => {
  it('elects one member, the same for all', () => {
    const body = `elect.sync %d0|%p0, -1; ${asWord(1, '%p0')} elect.sync _|%p0, -1; ${asWord(2, '%p0')}`;
    expect(runLanes({ body, outputs: 3 })).toEqual(lanes((lane) => [0, lane === 0 ? 1 : 0, lane === 0 ? 1 : 0]));
  });

  it('elects among the members that are alive', () => {
    const body = `setp.lt.u32 %p1, %lane, 6;
      @%p1 exit;
      elect.sync %d0|%p0, -1; ${asWord(1, '%p0')}`;
    const result = runLanes({ body, outputs: 2 });
    expect(result).toEqual(lanes((lane) => (lane < 6 ? [GONE, GONE] : [6, lane === 6 ? 1 : 0])));
  });
});

describe('activemask', () => {
  it('has the lanes that execute it', () => {
    expect(runLanes({ body: 'activemask.b32 %d0;', outputs: 1 }).flat()).toEqual(lanes(() => ALL));
    expect(runLanes({ body: 'setp.gt.u32 %p0, %lane, 27; @%p0 activemask.b32 %d0;', outputs: 1 }).flat()).toEqual(
      lanes((lane) => (lane > 27 ? 0xf0000000 : UNWRITTEN)),
    );
    const branch = 'setp.gt.u32 %p0, %lane, 3;\n@%p0 bra END;\nactivemask.b32 %d0;\nEND:';
    expect(runLanes({ body: branch, outputs: 1 }).flat()).toEqual(lanes((lane) => (lane > 3 ? UNWRITTEN : 0xf)));
  });
});

describe('bar.warp.sync', () => {
  it('keeps what lanes write before apart from what they read after', () => {
    for (const options of SCHEDULES) {
      // Odd lanes take a longer way before they write.
      const body = `mov.u32 %r0, sm; shl.b32 %r1, %lane, 2; add.u32 %r0, %r0, %r1;
        and.b32 %r2, %lane, 1; setp.eq.u32 %p0, %r2, 0;
        @%p0 bra WRITE;
        mov.u32 %r3, 0;
        LOOP: add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, %lane; @%p1 bra LOOP;
        WRITE: add.u32 %r4, %lane, 50; st.shared.u32 [%r0], %r4;
        bar.warp.sync -1;
        xor.b32 %r1, %r1, 4; mov.u32 %r0, sm; add.u32 %r0, %r0, %r1;
        ld.shared.u32 %d0, [%r0];`;
      expect(runLanes({ body, outputs: 1, options }).flat()).toEqual(lanes((lane) => (lane ^ 1) + 50));
    }
  });

  it('is a fault for a lane that is not a member', () => {
    expect(() => runLanes({ body: 'bar.warp.sync 0xfffeffff;', outputs: 1 })).toThrow(/membermask/);
  });

  it('reports a deadlock with its line when a member never comes', () => {
    const body = `setp.lt.u32 %p0, %lane, 16;\n@%p0 bra LOW;\nbar.warp.sync -1;\nLOW: bar.warp.sync -1;`;
    expect(() => runLanes({ body, outputs: 1 })).toThrow(/bar\.warp\.sync/);
  });
});

describe('forms that are refused when the module is loaded', () => {
  it.each([
    'shfl.idx.b32 %r0, %r1, 0, 31;',
    'shfl.sync.idx.b64 %r0, %r1, 0, 31, -1;',
    'shfl.sync.rotate.b32 %r0, %r1, 0, 31, -1;',
    'shfl.sync.idx.b32 %r0, %r1, 0, 31;',
    'vote.all.pred %p0, %p1;',
    'vote.ballot.b32 %r0, %p1;',
    'vote.sync.none.pred %p0, %p1, -1;',
    'vote.sync.all.pred %r0, %p1, -1;',
    'match.any.sync.b32 %r0|%p0, %r1, -1;',
    'match.any.sync.b16 %r0, %r1, -1;',
    'redux.sync.add.b32 %r0, %r1, -1;',
    'redux.sync.add.f32 %r0, %r1, -1;',
    'redux.sync.and.u32 %r0, %r1, -1;',
    'redux.sync.min.abs.s32 %r0, %r1, -1;',
    'redux.add.u32 %r0, %r1, -1;',
    'elect.sync.b32 %r0|%p0, -1;',
    'activemask.b64 %rd0;',
    'bar.warp.arrive -1;',
    'bar.warp.sync;',
  ])('%s', (instruction) => {
    expect(() => load(instruction)).toThrow(/line \d+/);
  });
});
