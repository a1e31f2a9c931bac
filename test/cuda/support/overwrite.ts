// What a cache holds, changed behind the back of all that is kept of it.
import { type KvCache, Tensor } from 'node-attention';
import { expect } from 'vitest';
import type { Addon, NativeCache, NativeTensor } from '../../../lib/native';
import { append, emptyTwin, type Sizes, type Twin, truncate } from '../../support/twin';

const { native } = require('../../../dist/native.js') as { native: Addon };
const { cacheHandle } = require('../../../dist/cache.js') as { cacheHandle(cache: KvCache): NativeCache };
const { tensorHandle } = require('../../../dist/tensor.js') as {
  tensorHandle(tensor: Tensor, name: string): NativeTensor;
};

/** Writes large numbers over keys and values of the first tokens of a sequence. */
function overwrite({ cache }: Twin, sizes: Sizes, sequence: number, tokens: number): void {
  const count = tokens * sizes.kvHeads;
  const stream = native.streamCreate(cache.device);
  for (const values of [false, true]) {
    const size = count * (values ? sizes.valueDim : sizes.headDim) * (sizes.dtype === 'float32' ? 4 : 2);
    using bytes = Tensor.from(new Uint8Array(size).fill(0x4f), [size]);
    const rows = { sequence, first: 0, count, values, units: false };
    native.kvCacheCopyRows(cacheHandle(cache), rows, true, tensorHandle(bytes, 'bytes'), stream);
  }
  native.streamDispose(stream);
}

/**
 * Has `check` look at a cache of two sequences, and at a fork, as they grow and shrink. What is kept of their first 512
 * and 256 tokens has to serve, since these are overwritten: so `check` must not look at them itself, by blocks of 32
 * keys. By blocks of 8, of which nothing is kept, it finds what they have become, and says so as in `found`.
 */
export async function checkKept(
  sizes: Sizes,
  random: () => number,
  check: (of: Twin, keyBlock: number) => Promise<void>,
  found?: RegExp,
): Promise<void> {
  const twin = emptyTwin(sizes, 2000, 'cuda');
  append(twin, sizes, [700, 256], random);
  await check(twin, 32);
  overwrite(twin, sizes, 0, 512);
  overwrite(twin, sizes, 1, 256);
  append(twin, sizes, [1, 300], random);
  await check(twin, 32);
  truncate(twin, [600, 511]);
  const fork: Twin = { cache: twin.cache.fork(), sequences: twin.sequences };
  append(fork, sizes, [3, 2], random);
  append(twin, sizes, [200, 1], random);
  for (const each of [fork, twin]) await check(each, 32);
  await expect(check(twin, 8)).rejects.toThrow(found);
  for (const { cache } of [fork, twin]) cache.dispose();
}
