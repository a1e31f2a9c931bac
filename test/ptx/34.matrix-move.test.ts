// ldmatrix, stmatrix, movmatrix: 8x8 matrices of 16-bit elements between shared memory and registers.
import { describe, expect, it } from 'vitest';
import { kernel, Ptx } from './support/interpreter';
import { lanes, runLanes, words } from './support/lanes';

const SHARED = 4096;
const ROWS = SHARED / 16;

/** Each lane writes a part of `in memory` (the first SHARED bytes) to shared memory. */
const FILL = `shl.b32 %r0, %lane, 7; cvt.u64.u32 %rd0, %r0; add.u64 %rd0, %rd0, %global;
  mov.u32 %r1, sm; add.u32 %r0, %r0, %r1; mov.u32 %r2, 0;
  FILL: ld.global.b32 %r3, [%rd0]; st.shared.b32 [%r0], %r3;
  add.u64 %rd0, %rd0, 4; add.u32 %r0, %r0, 4; add.u32 %r2, %r2, 4;
  setp.lt.u32 %p0, %r2, 128; @%p0 bra FILL;
  bar.warp.sync -1;`;
/** ... and back, after a block of instructions. */
const DRAIN = FILL.replaceAll('FILL', 'DRAIN').replace(
  'ld.global.b32 %r3, [%rd0]; st.shared.b32 [%r0], %r3;',
  'ld.shared.b32 %r3, [%r0]; st.global.b32 [%rd0], %r3;',
);

function randomMemory(seed: number): Buffer {
  const next = words(seed);
  const space = Buffer.alloc(SHARED);
  for (let i = 0; i < SHARED; i += 4) space.writeUInt32LE(next(), i);
  return space;
}

/** The word that the ISA promises in lane `lane` for a matrix whose rows start at these bytes of shared memory. */
function fragment(memory: Buffer, rows: number[], lane: number, trans: boolean): number {
  const element = (row: number, column: number) => memory.readUInt16LE((rows[row] ?? 0) + 2 * column);
  const row = Math.floor(lane / 4);
  const column = 2 * (lane % 4);
  const low = trans ? element(column, row) : element(row, column);
  const high = trans ? element(column + 1, row) : element(row, column + 1);
  return low + high * 65536;
}

const list = (name: string, count: number) => `{${Array.from({ length: count }, (_, i) => `${name}${i}`).join(', ')}}`;

describe.each([1, 2, 4])('x%i', (count) => {
  describe.each(['', '.trans'])('%s', (trans) => {
    const next = words(count + trans.length);
    // Distinct rows in an order of no pattern; lanes whose address is not used get one that would be a fault.
    const rows = Array.from({ length: ROWS }, (_, i) => i).sort(() => (next() & 1 ? 1 : -1));
    const offsets = lanes((lane) => (lane < 8 * count ? (rows[lane] ?? 0) * 16 : 3));
    const inputs = offsets.map((offset) => [offset]);
    const memory = randomMemory(17 * count);
    const rowsOf = (matrix: number) => offsets.slice(8 * matrix, 8 * matrix + 8);
    const form = `sync.aligned.m8n8.x${count}${trans}`;

    const load = (instruction: string) =>
      runLanes({
        body: `${FILL}\nmov.u32 %r4, sm; add.u32 %r4, %r4, %a0;\n${instruction}`,
        inputs,
        memory,
        shared: SHARED,
        outputs: count,
      });
    const expected = lanes((lane) =>
      Array.from({ length: count }, (_, m) => fragment(memory, rowsOf(m), lane, trans !== '')),
    );

    it('ldmatrix gives each lane two neighbours of a row, or of a column', () => {
      expect(load(`ldmatrix.${form}.shared.b16 ${list('%d', count)}, [%r4];`)).toEqual(expected);
      expect(load(`ldmatrix.${form}.shared::cta.b16 ${list('%d', count)}, [%r4+0];`)).toEqual(expected);
    });

    it('ldmatrix takes generic addresses and the number before the shape', () => {
      expect(
        load(`cvt.u64.u32 %rd1, %r4; cvta.shared.u64 %rd1, %rd1; ldmatrix.${form}.b16 ${list('%d', count)}, [%rd1];`),
      ).toEqual(expected);
      expect(load(`ldmatrix.sync.aligned.x${count}${trans}.m8n8.shared.b16 ${list('%d', count)}, [%r4];`)).toEqual(
        expected,
      );
    });

    it('ldmatrix may overwrite its address', () => {
      const body = `mov.b32 %d0, %r4; ldmatrix.${form}.shared.b16 ${list('%d', count)}, [%d0];`;
      expect(load(body)).toEqual(expected);
    });

    it('stmatrix writes what ldmatrix would read, and nothing else', () => {
      const after = randomMemory(99);
      const values = lanes(() => Array.from({ length: count }, () => next()));
      runLanes({
        body: `${FILL}\nmov.u32 %r4, sm; add.u32 %r4, %r4, %a0;
          stmatrix.${form}.shared.b16 [%r4], ${list('%b', count)};\nbar.warp.sync -1;\n${DRAIN}`.replace(
          /%b(\d)/g,
          (_, i) => `%a${Number(i) + 1}`,
        ),
        inputs: lanes((lane) => [offsets[lane] ?? 0, ...(values[lane] ?? [])]),
        memory: after,
        shared: SHARED,
        outputs: 1,
      });
      const untouched = randomMemory(99);
      for (let m = 0; m < count; m++) {
        for (let lane = 0; lane < 32; lane++) {
          const row = Math.floor(lane / 4);
          const column = 2 * (lane % 4);
          const word = values[lane]?.[m] ?? 0;
          const put = (i: number, j: number, value: number) =>
            untouched.writeUInt16LE(value, (rowsOf(m)[i] ?? 0) + 2 * j);
          if (trans) {
            put(column, row, word & 0xffff);
            put(column + 1, row, word >>> 16);
          } else {
            put(row, column, word & 0xffff);
            put(row, column + 1, word >>> 16);
          }
        }
      }
      expect(after.equals(untouched)).toBe(true);
    });
  });
});

describe('movmatrix', () => {
  it('transposes', () => {
    const next = words(5);
    const inputs = lanes(() => [next()]);
    const element = (row: number, column: number) =>
      ((inputs[4 * row + (column >> 1)]?.[0] ?? 0) >>> (16 * (column & 1))) & 0xffff;
    const expected = lanes((lane) => {
      const row = lane >> 2;
      const column = 2 * (lane & 3);
      return [element(column, row) + element(column + 1, row) * 65536];
    });
    expect(runLanes({ body: 'movmatrix.sync.aligned.m8n8.trans.b16 %d0, %a0;', inputs, outputs: 1 })).toEqual(expected);
    expect(
      runLanes({ body: 'movmatrix.sync.aligned.m8n8.trans.b16 %a0, %a0; mov.b32 %d0, %a0;', inputs, outputs: 1 }),
    ).toEqual(expected);
  });
});

describe('faults', () => {
  const run =
    (instruction: string, options: { threads?: number } = {}) =>
    () =>
      runLanes({
        body: `mov.u32 %r4, sm; shl.b32 %r5, %lane, 4; add.u32 %r4, %r4, %r5;\n${instruction}`,
        outputs: 4,
        ...options,
      });
  const good = 'ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%d0, %d1, %d2, %d3}, [%r4];';

  it('of addresses: not a multiple of 16, beyond shared memory, elsewhere', () => {
    expect(run(good)).not.toThrow();
    expect(run(good.replace('%r4', '%r4+8'))).toThrow(/ldmatrix/);
    expect(run(good.replace('%r4', '%r4+1024'))).toThrow(/ldmatrix/);
    expect(run('stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r4+4], {%d0};')).toThrow(/stmatrix/);
    expect(run('stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r4+528], {%d0, %d1, %d2, %d3};')).toThrow(/stmatrix/);
    expect(run('ldmatrix.sync.aligned.m8n8.x1.b16 {%d0}, [%global];')).toThrow(/not in shared memory/);
  });

  it('of lanes: ended, never there, guarded, or elsewhere', () => {
    expect(run(`setp.eq.u32 %p0, %lane, 31;\n@%p0 exit;\n${good}`)).toThrow(/32 lanes/);
    expect(run(good, { threads: 48 })).toThrow(/32 lanes/);
    expect(run(`setp.ne.u32 %p0, %lane, 31;\n@%p0 ${good}`)).toThrow(/guard/);
    expect(run(`setp.ne.u32 %p0, %lane, 31;\n@!%p0 bra END;\n${good}\nEND: bar.warp.sync -1;`)).toThrow(
      /ldmatrix|bar\.warp/,
    );
    expect(run('setp.ne.u32 %p0, %lane, 31;\n@%p0 movmatrix.sync.aligned.m8n8.trans.b16 %d0, %d1;')).toThrow(/guard/);
  });
});

describe('forms that are refused when the module is loaded', () => {
  it.each([
    'ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r0}, [%r1];',
    'ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r0, %r2, %r3}, [%r1];',
    'ldmatrix.sync.aligned.m8n8.x1.shared.b8 {%r0}, [%r1];',
    'ldmatrix.sync.aligned.m8n8.x1.global.b16 {%r0}, [%r1];',
    'ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r0, %r2}, [%r1];',
    'ldmatrix.sync.aligned.m8n8.shared.b16 {%r0}, [%r1];',
    'ldmatrix.aligned.m8n8.x1.shared.b16 {%r0}, [%r1];',
    'stmatrix.sync.aligned.m16n8.x1.trans.shared.b8 [%r1], {%r0};',
    'stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r1], {%r0, %r2};',
    'movmatrix.sync.aligned.m8n8.b16 %r0, %r1;',
  ])('%s', (instruction) => {
    expect(() => new Ptx(kernel('', `.reg .b32 %r<9>;\n${instruction}\nret;`))).toThrow(/line \d+/);
  });
});
