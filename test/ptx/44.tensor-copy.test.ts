// cp.async.bulk.tensor: tiles of tensors of rank 1 to 5 to and from shared memory, swizzled or not, with fill and element
// strides; reductions; the checks of the tensor map's encoder.
import { describe, expect, it } from 'vitest';
import {
  allocate,
  kernel,
  type LaunchOptions,
  Ptx,
  SCHEDULES,
  type TensorMapOptions,
  tensorMap,
} from './support/interpreter';

const PARAMETERS = '.param .align 64 .b8 map[128], .param .u64 tensor, .param .u64 io';
const TILE_BYTES = 32768;

const HEAD = `
  .shared .align 1024 .b8 tile[${TILE_BYTES}]; .shared .align 8 .b8 bar[8];
  .reg .b64 %d<12>; .reg .b32 %r<24>; .reg .b16 %h<4>; .reg .pred %p<6>;
  mov.b64 %d0, map; ld.param.u64 %d1, [io]; cvta.param.u64 %d2, %d0;
  mov.u32 %r1, tile; mov.u32 %r2, bar;`;

/** Copies bytes of shared memory from %r1 on to the output, or the input there, 4 bytes at a time. */
const loop = (bytes: number, body: string, label: string) => `
  mov.u32 %r20, 0; mov.u64 %d10, %d1;
  ${label}: add.u32 %r21, %r1, %r20; ${body}
  add.u32 %r20, %r20, 4; add.u64 %d10, %d10, 4; setp.lt.u32 %p5, %r20, ${bytes}; @%p5 bra ${label};`;
const copyOut = (bytes: number) => loop(bytes, 'ld.shared.u32 %r22, [%r21]; st.global.u32 [%d10], %r22;', 'copy_out');
const copyIn = (bytes: number) => loop(bytes, 'ld.global.u32 %r22, [%d10]; st.shared.u32 [%r21], %r22;', 'copy_in');
const clear = (bytes: number) => loop(bytes, 'mov.u32 %r22, 0xeeeeeeee; st.shared.u32 [%r21], %r22;', 'clear');

const INIT = 'mbarrier.init.shared::cta.b64 [%r2], 1; fence.mbarrier_init.release.cluster; fence.proxy.async;';
const WAIT = 'wait: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0; @!%p1 bra wait;';
const expecting = (bytes: number) => `mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], ${bytes};`;
const coordinates = (at: number[]) => at.map((c, i) => `mov.b32 %r${10 + i}, ${c};`).join(' ');
const names = (at: number[]) => `{${at.map((_, i) => `%r${10 + i}`).join(', ')}}`;
const loadText = (at: number[], form = '') => `${coordinates(at)}
  cp.async.bulk.tensor.${at.length}d.shared::cluster.global${form}.mbarrier::complete_tx::bytes [%r1], [%d2, ${names(at)}], [%r2];`;
const storeText = (at: number[], operation = '', form = '') => `${coordinates(at)}
  cp.${operation && 'reduce.'}async.bulk.tensor.${at.length}d.global.shared::cta${operation}${form}.bulk_group [%d2, ${names(at)}], [%r1];
  cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;`;

function launch(
  body: string,
  options: TensorMapOptions,
  tensor: Buffer,
  io: Buffer,
  launchOptions: LaunchOptions = {},
) {
  const map = tensorMap(tensor, options);
  new Ptx(kernel(PARAMETERS, HEAD + body).replace('.version 8.5', '.version 8.6')).launch(
    'test',
    [{ bytes: map }, tensor, io],
    {
      block: [1],
      ...launchOptions,
    },
  );
}

const ELEMENT_BYTES: Record<number, number> = { 0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 5: 8, 6: 2, 7: 4, 8: 8, 9: 2 };
const SPAN = { none: 0, '32': 32, '64': 64, '128': 128 };

/** Where a byte of a dense tile lies, which starts at a multiple of 1024: 16-byte chunks of a row change places. */
function place(offset: number, swizzle: keyof typeof SPAN): number {
  const span = SPAN[swizzle];
  if (span === 0) return offset;
  // The pattern repeats after 8 rows of 128 bytes; in it chunk c of a 128-byte line r goes to c xor (r mod its size).
  const line = Math.floor(offset / 128);
  const chunk = Math.floor((offset % 128) / 16);
  const mask = span / 16 - 1;
  const low = (chunk & mask) ^ (line & mask);
  return line * 128 + ((chunk & ~mask) | low) * 16 + (offset % 16);
}

/** For each element of the box, in the order of shared memory: the byte offset in the tensor, or -1 out of bounds. */
function elements(options: TensorMapOptions, at: number[]): number[] {
  const size = ELEMENT_BYTES[options.type] as number;
  // Axis 0 has no element stride.
  const step = at.map((_, i) => (i === 0 ? 1 : (options.elementStrides?.[i] ?? 1)));
  const counts = options.box.map((b, i) => Math.ceil(b / (step[i] as number)));
  const result: number[] = [];
  const total = counts.reduce((a, b) => a * b, 1);
  for (let n = 0; n < total; n++) {
    let rest = n;
    let offset = 0;
    let inside = true;
    counts.forEach((count, axis) => {
      const coordinate = (at[axis] as number) + (rest % count) * (step[axis] as number);
      rest = Math.floor(rest / count);
      inside &&= coordinate >= 0 && coordinate < (options.extent[axis] as number);
      offset += coordinate * (axis === 0 ? size : (options.strides[axis - 1] as number));
    });
    result.push(inside ? offset : -1);
  }
  return result;
}

function randomTensor(options: TensorMapOptions): Buffer {
  const element = ELEMENT_BYTES[options.type] as number;
  const size = options.extent.reduce(
    (sum, extent, axis) => sum + (axis === 0 ? extent * element : (extent - 1) * (options.strides[axis - 1] as number)),
    0,
  );
  const tensor = allocate(size);
  let state = 12345;
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    tensor[i] = state >>> 24;
  }
  return tensor;
}

/** The bytes that a load leaves in shared memory; NaN fill is not handled here. */
function expectedTile(options: TensorMapOptions, at: number[], tensor: Buffer): Buffer {
  const size = ELEMENT_BYTES[options.type] as number;
  const found = elements(options, at);
  const tile = Buffer.alloc(found.length * size);
  found.forEach((from, i) => {
    for (let b = 0; b < size; b++) {
      tile[place(i * size + b, options.swizzle ?? 'none')] = from < 0 ? 0 : (tensor[from + b] as number);
    }
  });
  return tile;
}

function checkLoad(options: TensorMapOptions, at: number[], launchOptions: LaunchOptions = {}, form = ''): void {
  const tensor = randomTensor(options);
  const expected = expectedTile(options, at, tensor);
  const out = allocate(expected.byteLength);
  const body = `${INIT} ${expecting(expected.byteLength)} ${loadText(at, form)} ${WAIT} ${copyOut(expected.byteLength)}`;
  launch(body, options, tensor, out, launchOptions);
  expect(Buffer.compare(out, expected)).toBe(0);
}

function checkStore(options: TensorMapOptions, at: number[], launchOptions: LaunchOptions = {}, form = ''): void {
  const size = ELEMENT_BYTES[options.type] as number;
  const tensor = randomTensor(options);
  const found = elements(options, at);
  const tile = allocate(found.length * size);
  for (let i = 0; i < tile.byteLength; i++) tile[i] = (i * 29 + 5) & 255;
  const expected = Buffer.from(tensor);
  found.forEach((to, i) => {
    if (to < 0) return;
    for (let b = 0; b < size; b++) {
      expected[to + b] = tile[place(i * size + b, options.swizzle ?? 'none')] as number;
    }
  });
  const body = `${copyIn(tile.byteLength)} fence.proxy.async; ${storeText(at, '', form)}`;
  launch(body, options, tensor, tile, launchOptions);
  expect(Buffer.compare(tensor, expected)).toBe(0);
}

const RANKS: [string, TensorMapOptions, number[]][] = [
  ['rank 1, bytes', { type: 0, extent: [100], strides: [], box: [32] }, [16]],
  ['rank 1, doubles', { type: 8, extent: [40], strides: [], box: [256] }, [3]],
  ['rank 2, half', { type: 6, extent: [24, 10], strides: [64], box: [8, 4] }, [9, 3]],
  ['rank 2, 32-bit integers', { type: 2, extent: [12, 6], strides: [48], box: [4, 6] }, [5, 0]],
  ['rank 3, float', { type: 7, extent: [8, 5, 4], strides: [32, 160], box: [4, 3, 2] }, [2, 1, 1]],
  ['rank 3, strides that do not grow', { type: 9, extent: [8, 4, 3], strides: [48, 16], box: [8, 4, 3] }, [0, 0, 0]],
  ['rank 4, bfloat', { type: 9, extent: [16, 3, 4, 3], strides: [32, 96, 384], box: [8, 2, 3, 2] }, [4, 1, 0, 1]],
  [
    'rank 5, 16-bit integers',
    { type: 1, extent: [16, 3, 2, 3, 2], strides: [32, 96, 192, 576], box: [8, 2, 2, 2, 2] },
    [8, 1, 0, 1, 0],
  ],
];

const OUT_OF_BOUNDS: [string, TensorMapOptions, number[]][] = [
  ['beyond the end of the rows', { type: 6, extent: [20, 6], strides: [48], box: [16, 4] }, [12, 1]],
  ['beyond the last row', { type: 6, extent: [16, 6], strides: [32], box: [16, 4] }, [0, 4]],
  ['before the first element', { type: 6, extent: [16, 6], strides: [32], box: [16, 4] }, [-5, 0]],
  ['before the first row', { type: 7, extent: [8, 6], strides: [32], box: [8, 4] }, [0, -2]],
  ['everywhere around', { type: 7, extent: [3, 2, 2], strides: [16, 32], box: [8, 4, 4] }, [-2, -1, -1]],
  ['altogether', { type: 7, extent: [8, 4], strides: [32], box: [8, 4] }, [0, 4]],
  ['altogether, far away', { type: 7, extent: [8, 4], strides: [32], box: [8, 4] }, [-2147483648, 2147483647]],
  [
    'rank 5',
    { type: 9, extent: [8, 2, 2, 2, 2], strides: [16, 32, 64, 128], box: [8, 2, 2, 2, 2] },
    [-3, 1, -1, 1, -1],
  ],
];

const SWIZZLED: [string, TensorMapOptions, number[]][] = [
  ['32, half', { type: 6, extent: [16, 40], strides: [32], box: [16, 32], swizzle: '32' }, [0, 4]],
  ['64, bfloat', { type: 9, extent: [64, 30], strides: [128], box: [32, 20], swizzle: '64' }, [32, 5]],
  ['128, half', { type: 6, extent: [64, 40], strides: [128], box: [64, 24], swizzle: '128' }, [0, 8]],
  [
    '128, float, rank 3',
    { type: 7, extent: [64, 5, 6], strides: [256, 1280], box: [32, 5, 4], swizzle: '128' },
    [32, 0, 1],
  ],
  ['128, bytes', { type: 0, extent: [128, 20], strides: [128], box: [128, 16], swizzle: '128' }, [0, 2]],
  ['128, rows out of bounds', { type: 6, extent: [50, 10], strides: [112], box: [64, 16], swizzle: '128' }, [8, -3]],
];

const STRIDED: [string, TensorMapOptions, number[]][] = [
  ['every second row', { type: 7, extent: [8, 16], strides: [32], box: [8, 8], elementStrides: [1, 2] }, [0, 3]],
  [
    'every third row of a box that is no multiple',
    { type: 6, extent: [16, 20], strides: [32], box: [16, 8], elementStrides: [1, 3] },
    [0, 2],
  ],
  [
    'in two axes, into the outside',
    { type: 6, extent: [16, 10, 9], strides: [32, 320], box: [8, 6, 7], elementStrides: [1, 4, 8] },
    [4, 7, -1],
  ],
  [
    'the stride of axis 0 is ignored',
    { type: 7, extent: [16, 4], strides: [64], box: [8, 4], elementStrides: [2, 1] },
    [4, 0],
  ],
  [
    'swizzled',
    { type: 6, extent: [64, 64], strides: [128], box: [64, 32], elementStrides: [1, 2], swizzle: '128' },
    [0, 1],
  ],
];

describe.each([
  ['tiles', RANKS],
  ['out of bounds', OUT_OF_BOUNDS],
  ['swizzle', SWIZZLED],
  ['element strides', STRIDED],
] as [string, [string, TensorMapOptions, number[]][]][])('%s', (_, cases) => {
  it.each(cases)('load: %s', (_name, options, at) => checkLoad(options, at));
  it.each(cases)('store: %s', (_name, options, at) => checkStore(options, at));
});

describe.each(SCHEDULES)('seed $seed $asynchrony', (schedule) => {
  const [, options, at] = SWIZZLED[3] as [string, TensorMapOptions, number[]];
  it('loads', () => checkLoad(options, at, schedule, '.tile'));
  it('stores', () => checkStore(options, at, schedule, '.tile'));
});

describe('further forms', () => {
  it('fills with NaN', () => {
    for (const [type, isNan] of [
      [6, (b: Buffer, i: number) => (b.readUInt16LE(2 * i) & 0x7fff) > 0x7c00],
      [9, (b: Buffer, i: number) => (b.readUInt16LE(2 * i) & 0x7fff) > 0x7f80],
      [7, (b: Buffer, i: number) => Number.isNaN(b.readFloatLE(4 * i))],
      [8, (b: Buffer, i: number) => Number.isNaN(b.readDoubleLE(8 * i))],
    ] as [number, (b: Buffer, i: number) => boolean][]) {
      const size = ELEMENT_BYTES[type] as number;
      const options = { type, extent: [16, 3], strides: [16 * size], box: [16, 4], fillNaN: true };
      const tensor = allocate(48 * size);
      const out = allocate(64 * size);
      const at = [3, -1];
      launch(`${INIT} ${expecting(64 * size)} ${loadText(at)} ${WAIT} ${copyOut(64 * size)}`, options, tensor, out);
      const found = elements(options, at);
      expect(found.map((_, i) => isNan(out, i))).toEqual(found.map((from) => from < 0));
    }
  });

  it('copies at any multiple of 128 bytes, the pattern following the address', () => {
    const options: TensorMapOptions = { type: 6, extent: [64, 8], strides: [128], box: [64, 8], swizzle: '128' };
    const tensor = randomTensor(options);
    const out = allocate(1024 + 384);
    const body = `${clear(1408)} fence.proxy.async; ${INIT} ${expecting(1024)} add.u32 %r1, %r1, 384; ${loadText([0, 0])} ${WAIT}
      sub.u32 %r1, %r1, 384; ${copyOut(1408)}`;
    launch(body, options, tensor, out);
    const expected = Buffer.alloc(1408, 0xee);
    for (let i = 0; i < 1024; i++) expected[place(384 + i, '128')] = tensor[i] as number;
    expect(Buffer.compare(out, expected)).toBe(0);
  });

  it('takes hints, multicasts to itself, prefetches', () => {
    const options: TensorMapOptions = { type: 7, extent: [8, 4], strides: [32], box: [8, 4] };
    const tensor = randomTensor(options);
    const out = allocate(384);
    const body = `prefetch.tensormap [%d2]; prefetch.param.tensormap [%d0];
      ${INIT} ${expecting(384)} mov.b16 %h1, 1; createpolicy.fractional.L2::evict_last.b64 %d3, 1.0;
      cp.async.bulk.prefetch.tensor.2d.L2.global [%d2, {0, 0}];
      cp.async.bulk.prefetch.tensor.2d.L2.global.tile.L2::cache_hint [%d2, {0, 0}], %d3;
      cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint
        [%r1], [%d2, {0, 0}], [%r2], %h1, %d3;
      cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster
        [%r1+128], [%d2, {0, 0}], [%r2], %h1;
      cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint
        [%r1+256], [%d2, {0, 0}], [%r2], %d3;
      ${WAIT} ${copyOut(384)}`;
    launch(body, options, tensor, out);
    expect(Buffer.compare(out, Buffer.concat([tensor, tensor, tensor]))).toBe(0);
  });

  it('reads a tensor map that lies in global memory', () => {
    const options: TensorMapOptions = { type: 7, extent: [8, 4], strides: [32], box: [8, 4] };
    const tensor = randomTensor(options);
    const map = allocate(128);
    map.set(tensorMap(tensor, options));
    const out = allocate(128);
    const head = HEAD.replace('mov.b64 %d0, map;', '').replace('cvta.param.u64 %d2, %d0;', 'ld.param.u64 %d2, [map];');
    const source = kernel(
      '.param .u64 map, .param .u64 tensor, .param .u64 io',
      `${head} ${INIT} ${expecting(128)} ${loadText([0, 0])} ${WAIT} ${copyOut(128)}`,
    );
    new Ptx(source).launch('test', [map, tensor, out], { block: [1] });
    expect(Buffer.compare(out, tensor)).toBe(0);
  });

  it('reads the map when the copy is issued and the memory when it runs', () => {
    const options: TensorMapOptions = { type: 7, extent: [8, 4], strides: [32], box: [8, 4] };
    const tensor = randomTensor(options);
    const out = allocate(128);
    const before = Buffer.from(tensor);
    const body = `${copyIn(128)} fence.proxy.async; ${storeText([0, 0]).replace('cp.async.bulk.wait_group 0;', '')}
      mov.u32 %r3, 0; st.shared.u32 [%r1], %r3; fence.proxy.async; cp.async.bulk.wait_group.read 0;`;
    out.fill(0x11);
    launch(body, options, tensor, out, { asynchrony: 'late' });
    before.fill(0x11).fill(0, 0, 4);
    expect(Buffer.compare(tensor, before)).toBe(0);
  });
});

describe('reductions', () => {
  type Numbers = number[];
  /** A box of 8 x 4 elements of 32 bits at (2, 1) of a tensor of 8 x 4: only 6 x 3 are inside. */
  function reduce(operation: string, type: number, old: Numbers, given: Numbers): Numbers {
    const view = { 2: Uint32Array, 3: Int32Array, 7: Float32Array }[type] as never as typeof Float32Array;
    const tensor = allocate(128);
    const tile = allocate(128);
    new view(tensor.buffer, tensor.byteOffset, 32).set(old);
    new view(tile.buffer, tile.byteOffset, 32).set(given);
    const options = { type, extent: [8, 4], strides: [32], box: [8, 4] };
    launch(`${copyIn(128)} fence.proxy.async; ${storeText([2, 1], `.${operation}`)}`, options, tensor, tile);
    return [...new view(tensor.buffer, tensor.byteOffset, 32)];
  }
  const all = Array.from({ length: 32 }, (_, i) => i);
  const OPERATIONS: [string, number, (a: number, b: number) => number][] = [
    ['add', 7, (a, b) => a + b],
    ['add', 2, (a, b) => a + b],
    ['add', 3, (a, b) => a + b],
    ['min', 2, Math.min],
    ['max', 2, Math.max],
    ['min', 3, Math.min],
    ['max', 3, Math.max],
    ['inc', 2, (a, b) => (a >= b ? 0 : a + 1)],
    ['dec', 2, (a, b) => (a === 0 || a > b ? b : a - 1)],
    ['and', 2, (a, b) => a & b],
    ['or', 2, (a, b) => a | b],
    ['xor', 2, (a, b) => a ^ b],
  ];
  it.each(OPERATIONS)('%s, type %i', (operation, type, combine) => {
    const sign = type === 2 ? 1 : -1;
    const old = all.map((i) => (i % 3 === 0 ? sign : 1) * ((i * 7) % 13));
    const given = all.map((i) => (i % 2 === 0 ? sign : 1) * ((i * 5) % 11));
    const expected = [...old];
    for (let y = 0; y < 3; y++) {
      for (let x = 0; x < 6; x++) {
        const at = (y + 1) * 8 + x + 2;
        expected[at] = combine(old[at] as number, given[y * 8 + x] as number);
      }
    }
    expect(reduce(operation, type, old, given).map((v) => v + 0)).toEqual(expected.map((v) => v + 0));
  });

  it('add of bfloat, swizzled, rank 3', () => {
    const options: TensorMapOptions = {
      type: 9,
      extent: [32, 4, 2],
      strides: [64, 256],
      box: [32, 4, 2],
      swizzle: '64',
    };
    const tensor = allocate(512);
    const tile = allocate(512);
    const bits = (value: number) => new Uint32Array(Float32Array.of(value).buffer)[0] as number;
    for (let i = 0; i < 256; i++) {
      tensor.writeUInt16LE(bits(i % 16) >>> 16, 2 * i);
      tile.writeUInt16LE(bits((i >> 4) % 16) >>> 16, place(2 * i, '64'));
    }
    launch(`${copyIn(512)} fence.proxy.async; ${storeText([0, 0, 0], '.add', '.tile')}`, options, tensor, tile);
    const result = Array.from({ length: 256 }, (_, i) => tensor.readUInt16LE(2 * i));
    expect(result).toEqual(Array.from({ length: 256 }, (_, i) => bits((i % 16) + ((i >> 4) % 16)) >>> 16));
  });

  it('that do not exist are reported', () => {
    expect(() => reduce('and', 7, all, all)).toThrow(/no such reduction/);
    expect(() => reduce('inc', 3, all, all)).toThrow(/no such reduction/);
  });
});

describe('misuse is reported', () => {
  const OPTIONS: TensorMapOptions = { type: 7, extent: [8, 4], strides: [32], box: [8, 4] };
  const check = (body: string, message: RegExp, options = OPTIONS, tensorBytes = 128) => {
    const tensor = allocate(tensorBytes);
    expect(() => launch(body, options, tensor, allocate(128))).toThrow(message);
  };
  const LOAD = `${INIT} ${expecting(128)} ${loadText([0, 0])} ${WAIT}`;

  it('a tile that is not aligned to 128 bytes', () => {
    check(`add.u32 %r1, %r1, 64; ${LOAD}`, /shared address of a tile \d+ is not a multiple of 128/);
  });
  it('another rank than the map has', () => {
    check(`${INIT} ${loadText([0, 0, 0])}`, /rank 2/);
  });
  it('no map', () => {
    check(`mov.b64 %d2, %d1; ${LOAD}`, /no tensor map/);
    check(`add.u64 %d2, %d2, 4; ${LOAD}`, /misaligned/);
    check('prefetch.tensormap [%d1];', /no tensor map/);
  });
  it('a tensor that is larger than its memory', () => {
    check(LOAD, /global/, OPTIONS, 112);
    check(`${copyIn(128)} fence.proxy.async; ${storeText([0, 0])}`, /global/, OPTIONS, 112);
  });
  it('a tile beyond shared memory', () => {
    check(`add.u32 %r1, %r1, ${TILE_BYTES}; ${LOAD}`, /out of bounds/);
  });
  it('a store of what was not fenced', () => {
    check(`${copyIn(128)} ${storeText([0, 0])}`, /fence\.proxy\.async/);
  });
  it('half the bytes expected, or twice', () => {
    check(`${INIT} ${expecting(256)} ${loadText([0, 0])} ${WAIT}`, /deadlock/i);
    check(`${INIT} ${expecting(64)} ${loadText([0, 0])} ${WAIT}`, /deadlock/i);
  });
  it('rows narrower than the swizzle span', () => {
    check(LOAD, /narrower/, { ...OPTIONS, swizzle: '64' });
  });
  it.each([
    'cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%r1], [%d2, {0, 0, 0, 0}], [%r2], {%h1, %h2};',
    'cp.async.bulk.tensor.2d.shared::cluster.global.tile::gather4.mbarrier::complete_tx::bytes [%r1], [%d2, {0, 0, 0, 0, 0}], [%r2];',
    'cp.async.bulk.tensor.2d.global.shared::cta.tile::scatter4.bulk_group [%d2, {0, 0, 0, 0, 0}], [%r1];',
    'cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d2, {0}], [%r2];',
    'cp.async.bulk.tensor.6d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%d2, {0, 0}], [%r2];',
    'cp.async.bulk.tensor.2d.shared::cluster.global.bulk_group [%r1], [%d2, {0, 0}];',
    'cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%d2, {0, 0}], [%r1], %d3;',
    'cp.reduce.async.bulk.tensor.2d.global.shared::cta.bulk_group [%d2, {0, 0}], [%r1];',
    'tensormap.replace.tile.global_address.global.b1024.b64 [%d1], %d2;',
  ])('an unknown form: %s', (body) => {
    check(body, /line \d+.*(not supported)/s);
  });
});

describe('the encoder refuses', () => {
  const GOOD: TensorMapOptions = { type: 6, extent: [64, 16], strides: [128], box: [64, 8], swizzle: '128' };
  const memory = allocate(4096);
  it('nothing in what is right', () => {
    expect(tensorMap(memory, GOOD).byteLength).toBe(128);
    expect(tensorMap(memory, { ...GOOD, extent: [2 ** 32, 2 ** 32], strides: [2 ** 40 - 16] }).byteLength).toBe(128);
    expect(tensorMap(memory, { ...GOOD, box: [64, 256], elementStrides: [8, 8] }).byteLength).toBe(128);
  });
  it.each([
    ['an unknown type', { type: 10 }, /tensorDataType is 10/],
    ['an extent of zero', { extent: [64, 0] }, /globalDim\[1\] is 0/],
    ['an extent beyond 2^32', { extent: [2 ** 32 + 1, 1] }, /globalDim\[0\] is 4294967297/],
    ['a stride that is no multiple of 16', { strides: [136] }, /globalStrides\[0\] is 136.*multiple of 16/],
    ['a stride of 2^40', { strides: [2 ** 40] }, /globalStrides\[0\] is 1099511627776/],
    ['a box of zero', { box: [64, 0] }, /boxDim\[1\] is 0/],
    ['a box beyond 256', { box: [64, 257] }, /boxDim\[1\] is 257/],
    ['an element stride of zero', { elementStrides: [1, 0] }, /elementStrides\[1\] is 0/],
    ['an element stride beyond 8', { elementStrides: [1, 9] }, /elementStrides\[1\] is 9/],
    ['inner bytes that are no multiple of 16', { box: [12, 8] }, /boxDim\[0\] in bytes is 24.*multiple of 16/],
    ['inner bytes beyond the span 128', { box: [72, 8] }, /boxDim\[0\] in bytes is 144.*128/],
    ['inner bytes beyond the span 64', { box: [40, 8], swizzle: '64' }, /boxDim\[0\] in bytes is 80.*64/],
    ['inner bytes beyond the span 32', { box: [24, 8], swizzle: '32' }, /boxDim\[0\] in bytes is 48.*32/],
    ['NaN for integers', { type: 1, fillNaN: true }, /oobFill is 1/],
    [
      'rank 6',
      { extent: [8, 1, 1, 1, 1, 1], strides: [16, 16, 16, 16, 16], box: [8, 1, 1, 1, 1, 1] },
      /tensorRank is 6/,
    ],
  ] as [string, Partial<TensorMapOptions>, RegExp][])('%s', (_, change, message) => {
    expect(() => tensorMap(memory, { ...GOOD, ...change })).toThrow(message);
  });
  it('an address that is no multiple of 16', () => {
    expect(() => tensorMap(memory.subarray(8), GOOD)).toThrow(/globalAddress is \d+, but must be a multiple of 16/);
  });
});
