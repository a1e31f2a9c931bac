// Prints the number of threads and digests of results without and with masks; test/24 runs this with several numbers of
// threads.

import { createHash, type Hash } from 'node:crypto';
import { attention, causal, devices, KvCache, KvIndex, neighborhood, Tensor } from 'node-attention';

async function main(): Promise<void> {
  const [plain, masked] = [createHash('sha256'), createHash('sha256')];
  const add = async (hash: Hash, tensor: Tensor) => {
    const { buffer, byteOffset, byteLength } = await tensor.read();
    hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  };
  for (const dtype of ['float32', 'float16', 'bfloat16'] as const) {
    const make = (tokens: number, heads: number, seed: number) => Tensor.randn([2, tokens, heads, 64], { seed, dtype });
    const [q, k, v] = [make(333, 4, 1), make(333, 2, 2), make(333, 2, 3)];
    const [one, many, more] = [make(1, 4, 4), make(3000, 2, 5), make(3000, 2, 6)];
    for (const [hash, { out, lse }] of [
      [plain, attention(q, k, v)],
      [plain, attention(one, many, more)], // one query, many keys: where a split over keys is tempting
      [masked, attention(q, k, v, { mask: causal() })],
      [masked, attention(q, k, v, { mask: neighborhood({ window: 31, stride: 4, dilation: 3 }) })],
    ] as const) {
      for (const tensor of [out, lse]) await add(hash, tensor);
    }
  }
  // Several tasks for each head, whose candidates differ from run to run.
  const cache = new KvCache({ batch: 1, kvHeads: 2, headDim: 512, capacity: 5000 });
  const keys = Tensor.randn([1, 5000, 2, 512], { seed: 7 });
  cache.append(keys, keys);
  const index = new KvIndex(cache);
  const { ids, scores } = index.search(Tensor.randn([1, 1, 6, 512], { seed: 8 }), 100);
  for (const tensor of [ids, scores]) await add(plain, tensor);
  console.log(
    `${devices().find(({ device }) => device === 'cpu')?.threads} ${plain.digest('hex')} ${masked.digest('hex')}`,
  );
}

void main();
