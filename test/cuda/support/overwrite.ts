// What a cache holds, changed behind the back of all that is kept of it.
import { type KvCache, Tensor } from 'node-attention';
import type { Addon, NativeCache, NativeTensor } from '../../../lib/native';
import type { Sizes, Twin } from '../../support/twin';

const { native } = require('../../../dist/native.js') as { native: Addon };
const { cacheHandle } = require('../../../dist/cache.js') as { cacheHandle(cache: KvCache): NativeCache };
const { tensorHandle } = require('../../../dist/tensor.js') as {
  tensorHandle(tensor: Tensor, name: string): NativeTensor;
};

/** Writes large numbers over keys and values of the first tokens of a sequence. */
export function overwrite({ cache }: Twin, sizes: Sizes, sequence: number, tokens: number): void {
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
