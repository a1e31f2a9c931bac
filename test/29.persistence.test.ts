// KvCache in files: what comes back, what the files look like to others, and what happens when something goes wrong.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import {
  type AttentionError,
  attention,
  causal,
  KvCache,
  type KvCacheOptions,
  memoryStats,
  Tensor,
} from 'node-attention';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Addon } from '../lib/native';
import { makeHead, readHead } from '../lib/safetensors';
import { count, decode, type Float, uniform } from './support/numbers';
import { code } from './support/refusal';
import { sanitized } from './support/sanitizer';

const folder = fs.mkdtempSync(join(tmpdir(), 'node-attention-cache-'));
afterAll(() => fs.rmSync(folder, { recursive: true }));
let files = 0;
const newFile = () => join(folder, `${files++}.safetensors`);
const leftovers = (of = folder) => fs.readdirSync(of).filter((name) => name.endsWith('.tmp'));

const FLOATS: Float[] = ['float32', 'float16', 'bfloat16'];
const SIZES: Record<string, number> = { F32: 4, F16: 2, BF16: 2, I8: 1 };

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const bytesOf = ({ data }: Tensor) => Buffer.from(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));

interface Described {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** What a promise is rejected with. */
const failure = async (promise: Promise<unknown>): Promise<AttentionError & NodeJS.ErrnoException> => {
  try {
    await promise;
  } catch (error) {
    return error as AttentionError & NodeJS.ErrnoException;
  }
  throw new Error('did not fail');
};

/** A file as the safetensors format is published, with all that it demands of one. */
function parse(bytes: Buffer) {
  const start = 8 + Number(bytes.readBigUInt64LE());
  expect(start).toBeLessThanOrEqual(bytes.length);
  const text = bytes.toString('utf8', 8, start);
  expect(text).toMatch(/^\{/);
  const { __metadata__: metadata, ...rest } = JSON.parse(text) as Record<string, unknown>;
  for (const value of Object.values(metadata as object)) expect(typeof value).toBe('string');
  const tensors = rest as unknown as Record<string, Described>;
  let end = 0; // of the one before: there are neither gaps nor overlaps
  for (const { dtype, shape, data_offsets: at } of Object.values(tensors)) {
    expect(at).toEqual([end, end + count(shape) * SIZES[dtype]!]);
    expect((start + at[0]) % SIZES[dtype]!).toBe(0);
    end = at[1];
  }
  expect(start + end).toBe(bytes.length);
  const data = bytes.subarray(start);
  const tensor = (name: string) => data.subarray(...tensors[name]!.data_offsets);
  return { start, metadata: metadata as Record<string, string>, tensors, data, tensor };
}

/** A cache beside what was appended to it: of each sequence the bytes of keys and values. */
interface Twin {
  cache: KvCache;
  sequences: { k: Buffer; v: Buffer }[];
}

let seed = 0;

function append({ cache, sequences }: Twin, lengths: number[]): void {
  const n = Math.max(...lengths);
  const { batch, kvHeads, headDim, valueDim, dtype } = cache;
  const [k, v] = [headDim, valueDim].map((columns) =>
    Tensor.randn([batch, n, kvHeads, columns], { seed: seed++, dtype }),
  ) as [Tensor, Tensor];
  cache.append(k, v, { lengths });
  lengths.forEach((length, b) => {
    const part = (tensor: Tensor) => {
      const all = bytesOf(tensor);
      const sequence = all.length / batch;
      return all.subarray(b * sequence, b * sequence + (n === 0 ? 0 : (sequence / n) * length));
    };
    const old = sequences[b]!;
    sequences[b] = { k: Buffer.concat([old.k, part(k)]), v: Buffer.concat([old.v, part(v)]) };
  });
  for (const tensor of [k, v]) tensor.dispose();
}

function truncate({ cache, sequences }: Twin, lengths: number[]): void {
  lengths.forEach((length, b) => {
    const { k, v } = sequences[b]!;
    const share = (bytes: Buffer) => bytes.subarray(0, (bytes.length / Math.max(1, cache.lengths[b]!)) * length);
    sequences[b] = { k: share(k), v: share(v) };
  });
  cache.truncate(lengths);
}

const emptyTwin = (options: KvCacheOptions): Twin => ({
  cache: new KvCache(options),
  sequences: Array.from({ length: options.batch }, () => ({ k: Buffer.alloc(0), v: Buffer.alloc(0) })),
});

/** Steps and their sizes, from the definition of int8 storage. */
function quantised(bytes: Buffer, dtype: Float, columns: number): { steps: Buffer; units: Buffer } {
  const copy = new Uint8Array(bytes).buffer;
  const values = decode(dtype, dtype === 'float32' ? new Float32Array(copy) : new Uint16Array(copy));
  const steps = new Int8Array(values.length);
  const units = new Float32Array(values.length / columns);
  units.forEach((_, row) => {
    const elements = values.subarray(row * columns, (row + 1) * columns);
    const unit = Math.fround(elements.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127);
    units[row] = unit;
    elements.forEach((x, d) => {
      const [exact, down] = [Math.fround(x / unit), Math.floor(Math.fround(x / unit))];
      const even = exact - down === 0.5 ? down + (down & 1) : Math.round(exact);
      steps[row * columns + d] = unit === 0 ? 0 : even;
    });
  });
  return { steps: Buffer.from(steps.buffer), units: Buffer.from(units.buffer) };
}

const settings = (cache: KvCache) => {
  const { batch, kvHeads, headDim, valueDim, pageSize, capacity, dtype, storage, device, rope, lengths } = cache;
  return { batch, kvHeads, headDim, valueDim, pageSize, capacity, dtype, storage, device, rope, lengths };
};

async function expectSame(a: KvCache, b: KvCache): Promise<void> {
  const { batch, kvHeads, headDim, dtype } = a;
  const q = Tensor.randn([batch, 2, kvHeads * 2, headDim], { seed: 99, dtype });
  const results = [a, b].map((cache) => attention(q, cache, { mask: causal() }));
  const [outA, outB] = await Promise.all(results.map(({ out }) => out.read()));
  const [lseA, lseB] = await Promise.all(results.map(({ lse }) => lse.read()));
  expect(outA).toEqual(outB);
  expect(lseA).toEqual(lseB);
  for (const { out, lse } of results) for (const tensor of [out, lse]) tensor.dispose();
  q.dispose();
}

describe('save and load', () => {
  const sizes = fc.record({
    batch: fc.integer({ min: 1, max: 3 }),
    kvHeads: fc.integer({ min: 1, max: 3 }),
    headDim: fc.integer({ min: 1, max: 40 }),
    valueDim: fc.integer({ min: 1, max: 40 }),
    pageSize: fc.constantFrom(1, 3, 8, 16, 64),
    capacity: fc.constantFrom(90, 1000),
    dtype: fc.constantFrom(...FLOATS),
    storage: fc.constantFrom(undefined, 'int8' as const),
    rope: fc.constantFrom(undefined, {}, { theta: 1 / 3, interleaved: true }),
  });

  it('bring back all of any cache', async () => {
    await fc.assert(
      fc.asyncProperty(sizes, fc.constantFrom(1, 5, 64), fc.integer(), async (given, pageSize, n) => {
        const random = uniform(n);
        const upTo = (most: number) => Math.floor(random() * (most + 1));
        const rope = given.headDim % 2 === 0 ? given.rope : undefined;
        const twin = emptyTwin({ ...given, rope });
        const { cache, sequences } = twin;
        const forks: KvCache[] = []; // with them, and by truncation, pages come to lie without order
        for (let round = 0; round < 4; round++) {
          append(
            twin,
            cache.lengths.map((length) => (random() < 0.2 ? 0 : upTo(Math.min(40, 90 - length)))),
          );
          if (random() < 0.5) forks.push(cache.fork());
          if (random() < 0.4) truncate(twin, cache.lengths.map(upTo));
        }
        const [first, second, third] = [newFile(), newFile(), newFile()];
        await cache.save(first);
        const bytes = fs.readFileSync(first);
        const { tensors, tensor, metadata, data } = parse(bytes);
        expect(metadata.data_sha256).toBe(sha256(data));
        const names = (suffix: string) => cache.lengths.flatMap((_, b) => [`k.${b}${suffix}`, `v.${b}${suffix}`]);
        expect(Object.keys(tensors)).toEqual([...(given.storage ? names('.scale') : []), ...names('')]);
        for (const [b, { k, v }] of sequences.entries()) {
          for (const [name, held, columns] of [
            ['k', k, given.headDim],
            ['v', v, given.valueDim],
          ] as const) {
            const { dtype, shape } = tensors[`${name}.${b}`]!;
            const own = { float32: 'F32', float16: 'F16', bfloat16: 'BF16' }[given.dtype];
            expect([dtype, shape]).toEqual([given.storage ? 'I8' : own, [cache.lengths[b], given.kvHeads, columns]]);
            if (name === 'k' && rope) continue; // rotated
            const { steps, units } = given.storage
              ? quantised(held, given.dtype, columns)
              : { steps: held, units: undefined };
            expect(tensor(`${name}.${b}`).equals(steps)).toBe(true);
            if (units) expect(tensor(`${name}.${b}.scale`).equals(units)).toBe(true);
          }
        }

        const same = await KvCache.load(first);
        expect(settings(same)).toEqual(settings(cache));
        await expectSame(same, cache);
        await same.save(second);
        expect(fs.readFileSync(second).equals(bytes)).toBe(true);
        const other = await KvCache.load(first, { pageSize, capacity: 90 });
        expect(settings(other)).toEqual({ ...settings(cache), pageSize, capacity: 90 });
        await other.save(third);
        expect(parse(fs.readFileSync(third)).data.equals(data)).toBe(true);
        // What comes later is the same too.
        const one = Tensor.randn([given.batch, 1, given.kvHeads, given.headDim], { seed: 7, dtype: given.dtype });
        const value = Tensor.randn([given.batch, 1, given.kvHeads, given.valueDim], { seed: 8, dtype: given.dtype });
        for (const each of [cache, same, other]) {
          each.truncate(89);
          each.append(one, value);
        }
        await expectSame(same, cache);
        for (const each of [cache, same, other, ...forks, one, value]) each.dispose();
      }),
      { numRuns: 40, seed: 29 },
    );
    expect(leftovers()).toEqual([]);
  });

  it('keep bits that are no numbers', async () => {
    const bits = Uint32Array.from({ length: 3 * 8 }, (_, n) =>
      n % 5 === 0 ? 0x7f800001 + n : Math.imul(n, 0x9e3779b1),
    );
    for (const storage of [undefined, 'int8'] as const) {
      using cache = new KvCache({ batch: 1, kvHeads: 1, headDim: 8, capacity: 3, ...(storage && { storage }) });
      const tensor = Tensor.from(new Float32Array(bits.buffer), [1, 3, 1, 8]);
      cache.append(tensor, tensor);
      const [file, again] = [newFile(), newFile()];
      await cache.save(file);
      using loaded = await KvCache.load(file);
      await loaded.save(again);
      const bytes = fs.readFileSync(file);
      if (!storage) expect(parse(bytes).tensor('k.0').equals(Buffer.from(bits.buffer))).toBe(true);
      expect(fs.readFileSync(again).equals(bytes)).toBe(true);
    }
  });

  it.each([
    { pageSize: 64, storage: undefined },
    { pageSize: 1, storage: undefined },
    { pageSize: 7, storage: 'int8' as const },
  ])('take as many pieces as there are: %o', async ({ pageSize, storage }) => {
    const twin = emptyTwin({
      batch: 2,
      kvHeads: 2,
      headDim: 128,
      valueDim: 96,
      capacity: 1 << 20,
      pageSize,
      ...(storage && { storage }),
    });
    // The sequences take turns, and give pages back in between, so that theirs lie in no order.
    for (const lengths of [
      [3000, 1000],
      [1, 5001],
      [4001, 2],
    ]) {
      append(twin, lengths);
      truncate(twin, [twin.cache.lengths[0]! - 1, twin.cache.lengths[1]! - 1]);
    }
    append(twin, [6000, 6000]);
    const file = newFile();
    await twin.cache.save(file);
    const { tensor, data } = parse(fs.readFileSync(file));
    expect(data.length).toBeGreaterThan(2 * 2 ** 22);
    for (const [b, { k, v }] of twin.sequences.entries()) {
      const held = (bytes: Buffer, columns: number) => (storage ? quantised(bytes, 'float32', columns).steps : bytes);
      expect(tensor(`k.${b}`).equals(held(k, 128))).toBe(true);
      expect(tensor(`v.${b}`).equals(held(v, 96))).toBe(true);
    }
    using loaded = await KvCache.load(file);
    const again = newFile();
    await loaded.save(again);
    expect(sha256(fs.readFileSync(again))).toBe(sha256(fs.readFileSync(file)));
    for (const name of [file, again]) fs.rmSync(name);
    twin.cache.dispose();
  });

  it('see the cache as it is at the call', async () => {
    const sizes = { batch: 1, kvHeads: 4, headDim: 64, capacity: 1 << 20, pageSize: 64 };
    const twin = emptyTwin(sizes);
    append(twin, [16384 + 10]);
    const expected = twin.sequences[0]!.k;
    const [first, second] = [newFile(), newFile()];
    const saved = twin.cache.save(first);
    append(twin, [100]); // into the last page, too
    const savedLater = twin.cache.save(second);
    twin.cache.truncate(0);
    append(twin, [5000]); // into pages that the first save still reads
    twin.cache.dispose();
    await Promise.all([saved, savedLater]);
    const [before, after] = [first, second].map((file) => parse(fs.readFileSync(file)));
    expect(before!.tensors['k.0']!.shape).toEqual([16394, 4, 64]);
    expect(before!.tensor('k.0').equals(expected)).toBe(true);
    expect(after!.tensors['k.0']!.shape).toEqual([16494, 4, 64]);
    expect(after!.tensor('k.0').subarray(0, expected.length).equals(expected)).toBe(true);
  });

  it('wait for what is still being appended', async () => {
    using cache = new KvCache({ batch: 1, kvHeads: 8, headDim: 64, capacity: 8192 });
    const x = Tensor.randn([1, 4096, 8, 64], { seed: 3 });
    const made = attention(x, x, x).out; // takes a while
    cache.append(made, x);
    const file = newFile();
    await cache.save(file);
    expect(parse(fs.readFileSync(file)).tensor('k.0').equals(bytesOf(made))).toBe(true);
  });

  it('replace a file, by relative paths too, and let both of two savers finish', async () => {
    const file = newFile();
    const caches = [10, 20].map((n) => {
      const twin = emptyTwin({ batch: 1, kvHeads: 1, headDim: 8, capacity: 20 });
      append(twin, [n]);
      return twin.cache;
    });
    const from = process.cwd();
    process.chdir(folder);
    try {
      await Promise.all(caches.map((cache) => cache.save(file.slice(folder.length + 1))));
    } finally {
      process.chdir(from);
    }
    const { length } = await KvCache.load(file);
    expect([10, 20]).toContain(length);
    await caches[0]!.save(file);
    expect((await KvCache.load(file)).length).toBe(10);
    expect(leftovers()).toEqual([]);
  });

  it.skipIf(sanitized)('need no second copy in memory (which sanitizers do)', async () => {
    const cache = new KvCache({ batch: 1, kvHeads: 8, headDim: 128, capacity: 1 << 20 });
    const tokens = Tensor.randn([1, 1024, 8, 128], { seed: 1 });
    for (let i = 0; i < 32; i++) cache.append(tokens, tokens);
    await expect(attention(Tensor.zeros([1, 1, 8, 128]), cache).out.read()).resolves.toBeDefined();
    const bytes = 32 * 1024 * 8 * 128 * 4 * 2; // 256 MiB
    const growth = async (work: Promise<unknown>, base = process.memoryUsage.rss()) => {
      let most = 0;
      const timer = setInterval(() => {
        most = Math.max(most, process.memoryUsage.rss() - base);
      }, 5);
      await work;
      clearInterval(timer);
      return most;
    };
    const file = newFile();
    expect(await growth(cache.save(file))).toBeLessThan(bytes / 2);
    cache.dispose();
    const held = memoryStats('cpu').bytes;
    let loaded: KvCache | undefined;
    const grown = await growth(
      KvCache.load(file).then((cache) => {
        loaded = cache;
      }),
    );
    expect(memoryStats('cpu').bytes - held).toBeLessThan(bytes * 1.01);
    expect(grown).toBeLessThan(bytes * 1.5); // itself
    loaded!.dispose();
    fs.rmSync(file);
  });

  const python = spawnSync('python3', ['-c', 'import safetensors, numpy']).status === 0;
  it.skipIf(!python)("are read by Python's safetensors (needs python3 with safetensors and numpy)", async () => {
    for (const [dtype, storage] of [
      ['float32', undefined],
      ['float16', undefined],
      ['float32', 'int8'],
    ] as const) {
      const twin = emptyTwin({
        batch: 2,
        kvHeads: 3,
        headDim: 5,
        valueDim: 7,
        capacity: 9,
        dtype,
        ...(storage && { storage }),
      });
      append(twin, [9, 0]);
      const file = newFile();
      await twin.cache.save(file);
      const script = `
import hashlib, json, sys
from safetensors import safe_open
with safe_open(sys.argv[1], framework='np') as f:
    tensors = {name: f.get_tensor(name) for name in f.keys()}
    print(json.dumps([f.metadata(), {n: [str(t.dtype), list(t.shape), hashlib.sha256(t.tobytes()).hexdigest()] for n, t in tensors.items()}]))`;
      const { stdout, stderr } = spawnSync('python3', ['-c', script, file], { encoding: 'utf8' });
      expect(stderr).toBe('');
      const { metadata, tensors, tensor } = parse(fs.readFileSync(file));
      const names = { F32: 'float32', F16: 'float16', I8: 'int8' } as Record<string, string>;
      const described = Object.entries(tensors).map(([name, { dtype, shape }]) => [
        name,
        [names[dtype], shape, sha256(tensor(name))],
      ]);
      expect(JSON.parse(stdout)).toEqual([metadata, Object.fromEntries(described)]);
      twin.cache.dispose();
    }
  });
});

describe('a file that is not as it was saved', () => {
  const file = newFile();
  let bytes: Buffer;

  /** What loading these bytes ends with: nothing of it stays. */
  async function refusal(altered: Uint8Array): Promise<string> {
    const path = newFile();
    fs.writeFileSync(path, altered);
    const before = memoryStats('cpu');
    const error = await failure(KvCache.load(path));
    const { live, bytes } = memoryStats('cpu');
    expect(live).toBeLessThanOrEqual(before.live); // what others left may have been collected
    expect(bytes).toBeLessThanOrEqual(before.bytes);
    expect([error.name, error.code]).toEqual(['AttentionError', 'ERR_OPTION']);
    expect(error.message).toContain(`KvCache.load: ${path}`);
    fs.rmSync(path);
    return error.message;
  }

  beforeAll(async () => {
    const options = { batch: 2, kvHeads: 2, headDim: 6, valueDim: 5, capacity: 40, pageSize: 4, rope: {} } as const;
    const twin = emptyTwin({ ...options, storage: 'int8', dtype: 'bfloat16' });
    append(twin, [23, 9]);
    await twin.cache.save(file);
    bytes = fs.readFileSync(file);
    twin.cache.dispose();
  });

  it('is refused when any byte before its data is another', () => {
    const { start } = parse(bytes);
    const refuse = (expected: string, found: string): never => {
      throw new Error(`expected ${expected}, found ${found}`);
    };
    expect(readHead(bytes, bytes.length, refuse).length).toBe(start);
    for (let at = 0; at < start; at++) {
      for (const change of [1, 0x20, 0x80, 0xff]) {
        const altered = Buffer.from(bytes);
        altered[at]! ^= change;
        expect(() => readHead(altered, altered.length, refuse), `byte ${at} ^ ${change}`).toThrow('expected ');
      }
    }
  });

  it('is refused when a byte of its header is another', async () => {
    const { start } = parse(bytes);
    for (let at = 0; at < start; at += at < 8 ? 1 : 37) {
      const altered = Buffer.from(bytes);
      altered[at]! ^= 1 << (at % 8);
      expect(await refusal(altered)).toMatch(/expected .*, found /);
    }
  });

  it('is refused when a byte of its data is another', async () => {
    const { start } = parse(bytes);
    const random = uniform(31);
    const positions = Array.from({ length: 24 }, () => start + Math.floor(random() * (bytes.length - start)));
    for (const at of [start, bytes.length - 1, ...positions]) {
      const altered = Buffer.from(bytes);
      altered[at]! ^= 1 + Math.floor(random() * 255);
      expect(await refusal(altered)).toMatch(/expected data of SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}$/);
    }
  });

  it('is refused when its end is missing, and when something follows', async () => {
    const { start } = parse(bytes);
    const random = uniform(37);
    const lengths = Array.from({ length: 12 }, () => Math.floor(random() * bytes.length));
    for (const length of [0, 1, 7, 8, 9, start - 1, start, start + 1, bytes.length - 1, ...lengths]) {
      expect(await refusal(bytes.subarray(0, length))).toMatch(/expected .*, found /);
    }
    for (const more of [1, 8, 100_000]) {
      const message = await refusal(Buffer.concat([bytes, Buffer.alloc(more)]));
      expect(message).toMatch(new RegExp(`expected ${bytes.length} bytes, found ${bytes.length + more}$`));
    }
  });

  it('is refused when it is something else', async () => {
    expect(await refusal(Buffer.alloc(64))).toMatch(/checksums of a saved KvCache/);
    expect(await refusal(Buffer.alloc(64, 0xff))).toMatch(
      /header of at most 1048576 bytes, found 18446744073709551615/,
    );
    expect(await refusal(Buffer.from('GGUF\0\0\0\0 and so on'))).toMatch(/bytes up to its data|header of at most/);
    const foreign = Buffer.from(
      '\x50\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.padEnd(88),
      'latin1',
    );
    expect(await refusal(Buffer.concat([foreign, Buffer.alloc(4)]))).toMatch(/checksums of a saved KvCache/);
    const error = await failure(KvCache.load('/dev/zero'));
    expect([error.code, error.message]).toEqual(['ERR_OPTION', expect.stringContaining('expected a file')]);
    expect((await failure(KvCache.load(folder))).code).toBe('ERR_OPTION');
  });

  interface Header {
    [name: string]: unknown;
  }

  /** The file with another header, whose checksum is right. */
  function resealed(text: (header: Header) => string): Buffer {
    const { start } = parse(bytes);
    const json = text(JSON.parse(bytes.toString('utf8', 8, start)));
    const own = /^\{"__metadata__":\{"header_sha256":"([0-9a-f]{64})"/.exec(json)![1]!;
    const blank = '0'.repeat(64);
    const header = Buffer.from(json.replace(own, blank).padEnd(Math.ceil(json.length / 8) * 8));
    const head = Buffer.concat([Buffer.alloc(8), header]);
    head.writeBigUInt64LE(BigInt(header.length));
    head.write(sha256(head), head.indexOf(blank));
    return Buffer.concat([head, bytes.subarray(start)]);
  }

  it('is the same when only its checksum was computed again', () => {
    expect(resealed((header) => JSON.stringify(header)).equals(bytes)).toBe(true);
  });

  it.each<[string, string[], unknown, RegExp]>([
    ['another shape', ['k.0', 'shape'], [22, 2, 6], /as tensor 'k\.0', found .*\[22,2,6\]/],
    ['a negative length', ['k.0', 'shape'], [-23, 2, 6], /as tensor 'k\.0'/],
    ['another type', ['k.0', 'dtype'], 'U8', /as tensor 'k\.0', found .*"U8"/],
    ['overlapping offsets', ['v.0', 'data_offsets'], [512, 742], /as tensor 'v\.0', found .*\[512,742\]/],
    ['offsets beyond the end', ['v.1', 'data_offsets', '1'], 2 ** 53, /as tensor 'v\.1'/],
    ['offsets that are no numbers', ['v.1', 'data_offsets'], ['0', null], /as tensor 'v\.1'/],
    ['a tensor less', ['v.1'], undefined, /as tensor 'v\.1', found none/],
    ['a tensor more', ['w'], { dtype: 'I8', shape: [0], data_offsets: [0, 0] }, /expected none as tensor 'w'/],
    ['a number as a tensor', ['k.0'], 7, /as tensor 'k\.0', found 7/],
    ['metadata that are numbers', ['__metadata__', 'batch'], 2, /a string as batch of its metadata, found 2/],
    ['no batch', ['__metadata__', 'batch'], undefined, /expected batch in its metadata, found none/],
    ['a batch of none', ['__metadata__', 'batch'], '0', /an integer as batch, found '0'/],
    ['too many sequences', ['__metadata__', 'batch'], '1025', /at most 1024 as batch/],
    ['half a head', ['__metadata__', 'kvHeads'], '1.5', /an integer as kvHeads, found '1\.5'/],
    ['other lengths', ['__metadata__', 'lengths'], '[24,8]', /as tensor 'k\.0\.scale'/],
    ['lengths that are no numbers', ['__metadata__', 'lengths'], '[24,"8"]', /an integer as lengths/],
    ['too few lengths', ['__metadata__', 'lengths'], '[32]', /a list of 2 as lengths/],
    ['lengths that are no JSON', ['__metadata__', 'lengths'], '[', /JSON as lengths/],
    ['overflowing lengths', ['__metadata__', 'lengths'], `[${2 ** 53 - 1},9]`, /as tensor 'k\.0\.scale'/],
    ['another storage', ['__metadata__', 'storage'], 'float32', /bfloat16 or int8 as storage/],
    ['another layout', ['__metadata__', 'kv_cache'], '2', /'1', the only layout that is known, as kv_cache/],
    ['a capacity below its lengths', ['__metadata__', 'capacity'], '20', /23 tokens/],
    ['pages that cannot be', ['__metadata__', 'pageSize'], String(2 ** 40), /pageSize is 1099511627776/],
    ['a rope that cannot be', ['__metadata__', 'rope'], '{"dim":7}', /dim is 7/],
    ['a rope of another kind', ['__metadata__', 'rope'], '[]', /rope: options must be/],
  ])('is refused with %s, though the checksum of its header is right', async (_, path, value, message) => {
    const altered = resealed((header) => {
      const last = path.at(-1)!;
      const place = path.slice(0, -1).reduce((at, name) => at[name] as Header, header);
      if (value === undefined) delete place[last];
      else place[last] = value;
      return JSON.stringify(header);
    });
    expect(await refusal(altered)).toMatch(message);
  });

  it('is refused when what is no header has a checksum that is right', async () => {
    const deep = `"k.0":${'['.repeat(1e5)}${']'.repeat(1e5)}`;
    const nested = resealed((header) => JSON.stringify(header).replace(/"k\.0":\{[^}]*\}/, deep));
    expect(await refusal(nested)).toMatch(/as tensor 'k\.0', found/);
    const open = resealed((header) => JSON.stringify(header).slice(0, -1));
    expect(await refusal(open)).toMatch(/JSON as its header/);
    const twice = resealed((header) => `${JSON.stringify(header).slice(0, -1)},"__metadata__":null}`);
    expect(await refusal(twice)).toMatch(/an object as its metadata, found null/);
  });

  it('is refused when a header claims more than the file has', async () => {
    const tokens = 2 ** 30;
    const metadata = { ...parse(bytes).metadata, batch: '1', capacity: String(tokens), lengths: `[${tokens}]` };
    const entries = [];
    for (const [name, dtype, columns] of [
      ['k.0.scale', 'F32', undefined],
      ['v.0.scale', 'F32', undefined],
      ['k.0', 'I8', 6],
      ['v.0', 'I8', 5],
    ] as const) {
      const shape = columns ? [tokens, 2, columns] : [tokens, 2];
      entries.push({ name, dtype, shape, bytes: count(shape) * SIZES[dtype]! });
    }
    const { header_sha256: _own, data_sha256: _data, ...rest } = metadata as Record<string, string>;
    expect(await refusal(makeHead(entries, rest))).toMatch(/expected \d{11} bytes, found \d{3,4}$/);
  });
});

describe('errors', () => {
  const small = () => {
    const twin = emptyTwin({ batch: 1, kvHeads: 1, headDim: 8, capacity: 20 });
    append(twin, [10]);
    return twin.cache;
  };

  it('in arguments are thrown at once', async () => {
    using cache = small();
    const file = newFile();
    await cache.save(file);
    for (const path of [undefined, '', 7, 'a\0b', Buffer.from(file), new URL(`file://${file}`)]) {
      expect(code(() => cache.save(path as string))).toBe('ERR_OPTION');
      expect(code(() => KvCache.load(path as string))).toBe('ERR_OPTION');
    }
    for (const [options, wanted] of [
      [{ capacity: 0 }, 'ERR_OPTION'],
      [{ pageSize: 1.5 }, 'ERR_OPTION'],
      [{ batch: 1 }, 'ERR_OPTION'],
      [7, 'ERR_OPTION'],
      [{ device: 'cuda:99' }, 'ERR_DEVICE'],
      [{ device: 3 }, 'ERR_DEVICE'],
    ] as const) {
      expect(code(() => KvCache.load(file, options as never))).toBe(wanted);
    }
    const disposed = small();
    disposed.dispose();
    expect(code(() => disposed.save(file))).toBe('ERR_DISPOSED');
    expect((await KvCache.load(file)).length).toBe(10);
  });

  it('in options that the file does not allow reject', async () => {
    using cache = small();
    const file = newFile();
    await cache.save(file);
    const { live } = memoryStats('cpu');
    const error = await failure(KvCache.load(file, { capacity: 9 }));
    expect([error.code, error.message]).toEqual([
      'ERR_OPTION',
      `KvCache.load: ${file}: capacity is 9; its longest sequence has 10 tokens`,
    ]);
    expect((await failure(KvCache.load(file, { pageSize: 2 ** 40 }))).code).toBe('ERR_OPTION');
    expect(memoryStats('cpu').live).toBeLessThanOrEqual(live);
    expect((await KvCache.load(file, { capacity: 10 })).capacity).toBe(10);
  });

  it('of the file system pass with their codes, and leave nothing behind', async () => {
    using cache = small();
    const file = newFile();
    await cache.save(file);
    const bytes = fs.readFileSync(file);
    const before = memoryStats('cpu').live;
    const inside = join(folder, 'folder');
    fs.mkdirSync(join(inside, 'full'), { recursive: true });
    for (const [work, wanted, call] of [
      [() => cache.save(join(folder, 'absent', 'file')), 'ENOENT', 'open'],
      [() => cache.save(join(file, 'file')), 'ENOTDIR', 'open'],
      [() => cache.save(inside), 'EISDIR', 'rename'],
      [() => cache.save(join(inside, 'x'.repeat(300))), 'ENAMETOOLONG', 'rename'],
      [() => KvCache.load(join(folder, 'absent')), 'ENOENT', 'open'],
      [() => KvCache.load(join(file, 'file')), 'ENOTDIR', 'open'],
    ] as const) {
      const error = await failure(work());
      expect([error.code, error.syscall]).toEqual([wanted, call]);
      expect(error.message).toMatch(new RegExp(`^KvCache\\.(save|load): ${wanted}: `));
      expect(error.errno).toBeLessThan(0);
    }
    expect([...leftovers(), ...leftovers(inside)]).toEqual([]);
    expect(memoryStats('cpu').live).toBeLessThanOrEqual(before);
    expect(fs.readFileSync(file).equals(bytes)).toBe(true);
  });

  it.skipIf(process.getuid?.() === 0)('of a folder that must not be written (needs to be no superuser)', async () => {
    using cache = small();
    const closed = join(folder, 'closed');
    fs.mkdirSync(closed, { mode: 0o555 });
    expect((await failure(cache.save(join(closed, 'file')))).code).toBe('EACCES');
  });

  // ThreadSanitizer keeps its own state in a file that is larger than the limit.
  it.skipIf(sanitized)('in the middle of a save leave the old file as it was (not under sanitizers)', async () => {
    using cache = small();
    const file = newFile();
    await cache.save(file);
    const program = `
      const { KvCache, Tensor } = require('node-attention');
      const cache = new KvCache({ batch: 1, kvHeads: 4, headDim: 64, capacity: 16384 });
      const tokens = Tensor.zeros([1, 16384, 4, 64]);
      cache.append(tokens, tokens);
      cache.save(process.argv[1]).catch((error) => console.log(error.message));`;
    // No file of this process may have more than 10,000 KiB.
    const shell = ['-c', 'ulimit -f 10000 && exec "$0" "$@"', process.execPath, '-e', program, file];
    const { stdout, stderr } = spawnSync('bash', shell, { cwd: resolve(__dirname, '..'), encoding: 'utf8' });
    expect([stdout, stderr]).toEqual(['KvCache.save: EFBIG: file too large, write\n', '']);
    expect(leftovers()).toEqual([]);
    expect((await KvCache.load(file)).length).toBe(10);
  });
});

describe('a process that ends while it saves', () => {
  const program = join(__dirname, 'fixtures', 'save.cjs');
  const own = fs.mkdtempSync(join(folder, 'ended-'));
  const file = join(own, 'cache.safetensors');

  it('leaves a whole file', async () => {
    const random = uniform(41);
    const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));
    // What a process that was ended leaves beside the file shows that it was saving.
    for (let round = 0; round < 4 || (leftovers(own).length === 0 && round < 20); round++) {
      const before = leftovers(own).length;
      const child = spawn(process.execPath, [program, file], { stdio: ['ignore', 'pipe', 'inherit'] });
      let output = '';
      const saved = new Promise<void>((resolve, reject) => {
        child.stdout.on('data', (text) => {
          output += text;
          resolve();
        });
        child.once('close', () => reject(new Error('it saved nothing')));
      });
      await saved;
      while (leftovers(own).length === before) await pause(1);
      await pause(random() * 20 * (round % 4));
      const closed = new Promise((resolve) => child.once('close', resolve));
      child.kill('SIGKILL');
      await closed;
      const reported = Number(output.trim().split('\n').at(-1));
      using cache = await KvCache.load(file);
      expect([reported, reported + 1]).toContain(cache.length);
    }
    expect(leftovers(own).length).toBeGreaterThan(0);
  });

  it('or a worker', async () => {
    const worker = new Worker(program, { argv: [file], stdout: true });
    await new Promise((resolve) => worker.stdout.once('data', resolve));
    const { length } = await KvCache.load(file);
    await worker.terminate();
    using cache = await KvCache.load(file);
    expect(cache.length).toBeGreaterThanOrEqual(length);
    const file2 = newFile();
    await cache.save(file2); // this thread goes on
    expect(fs.statSync(file2).size).toBe(fs.statSync(file).size);
  });
});

describe('rows below the public interface', () => {
  const { native } = require('../dist/native.js') as { native: Addon };
  const sizes = { batch: 2, kvHeads: 2, headDim: 8, valueDim: 6, pageSize: 3, capacity: 40, dtype: 0, int8: false };
  const make = (more: object = {}) =>
    native.kvCacheCreate({
      ...{ ...sizes, device: 'cpu', theta: 0, columns: 0, interleaved: false, sink: 0, window: 0, pages: 0 },
      ...more,
    });

  it('are refused where there are none, and in pages of others', () => {
    const stream = native.streamCreate('cpu');
    const cache = make();
    native.kvCacheRestore(cache, [5, 0]);
    expect(native.kvCacheLengths(cache)).toEqual([5, 0]);
    const bytes = native.tensorCreate([1000], 4, 'cpu', false, true);
    const floats = native.tensorCreate([1000], 0, 'cpu', false, true);
    const few = native.tensorCreate([2 * 32 - 1], 4, 'cpu', false, true);
    const apart = native.tensorSlice(native.tensorCreate([100, 10], 4, 'cpu', false, true), [0, 0], [100, 5]);
    const rows = { sequence: 0, first: 0, count: 2, values: false, units: false };
    const copy = (change: object, tensor = bytes, write = false) =>
      code(() => native.kvCacheCopyRows(cache, { ...rows, ...change }, write, tensor, stream));
    expect(copy({})).toBe('none');
    expect(copy({ first: 10, count: 0 })).toBe('none');
    expect(copy({ values: true, count: 10 }, bytes, true)).toBe('none');
    for (const change of [
      { sequence: -1 },
      { sequence: 2 },
      { sequence: 1 },
      { first: -1 },
      { first: 9 },
      { count: -1 },
      { count: 11 },
      { first: 2 ** 53 - 1, count: 2 ** 53 - 1 },
      { units: true },
    ]) {
      expect([change, copy(change)]).toEqual([change, 'ERR_OPTION']);
    }
    for (const tensor of [floats, few, apart]) expect(copy({}, tensor)).toBe('ERR_SHAPE');
    const fork = native.kvCacheFork(cache);
    expect(copy({}, bytes, true)).toBe('ERR_OPTION');
    expect(copy({}, bytes, false)).toBe('none');
    native.kvCacheDispose(fork);
    expect(copy({}, bytes, true)).toBe('none');
    expect(code(() => native.kvCacheRestore(cache, [1, 1]))).toBe('ERR_OPTION');
    native.streamBeginCapture(stream);
    expect(copy({})).toBe('ERR_OPTION');
    native.streamAbandonCapture(stream);
    for (const tensor of [bytes, floats, few, apart]) native.tensorDispose(tensor);
    native.kvCacheDispose(cache);
    native.streamDispose(stream);
  });

  it('that no memory can hold leave the cache empty', () => {
    const huge = { kvHeads: 65536, headDim: 512, valueDim: 512, batch: 1024, capacity: 2 ** 30 };
    for (const pageSize of [1, 1024, 2 ** 20]) {
      const cache = make({ ...huge, pageSize });
      for (const lengths of [new Array(1024).fill(2 ** 30), [2 ** 30, ...new Array(1023).fill(0)]]) {
        expect(code(() => native.kvCacheRestore(cache, lengths))).toBe('ERR_OUT_OF_MEMORY');
      }
      expect(native.kvCacheLengths(cache)).toEqual(new Array(1024).fill(0));
      expect(native.kvCacheBytes(cache)).toBe(0);
      native.kvCacheDispose(cache);
    }
    const cache = make();
    for (const lengths of [[1], [1, 2, 3], [-1, 0], [41, 0]]) {
      expect(code(() => native.kvCacheRestore(cache, lengths))).toBe('ERR_OPTION');
    }
    native.kvCacheDispose(cache);
  });
});
