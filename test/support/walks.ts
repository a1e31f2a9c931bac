// Prints the number of threads and a digest of what walks through graphs find, which follows from all links on their way;
// test/29.graph runs this with several numbers of threads.

import { createHash } from 'node:crypto';
import { devices, KvCache, KvIndex, Tensor } from 'node-attention';

async function main(): Promise<void> {
  const hash = createHash('sha256');
  const cache = new KvCache({ batch: 2, kvHeads: 2, headDim: 16, capacity: 9000 });
  const queries = Tensor.randn([2, 150, 4, 16], { seed: 1 });
  // Few links and few keys in view: another link leads elsewhere.
  const index = new KvIndex(cache, { method: 'graph', queries, degree: 3, effort: 4 });
  for (const [seed, count] of [5000, 300, 3000].entries()) {
    const k = Tensor.randn([2, count, 2, 16], { seed: 10 + seed });
    cache.append(k, k, { lengths: [count, Math.floor(count / 2)] });
    for (let i = 0; i < 40; i++) {
      const { ids, scores } = index.search(Tensor.randn([2, 1, 4, 16], { seed: 100 * seed + i }), 20);
      for (const tensor of [ids, scores]) {
        const { buffer, byteOffset, byteLength } = await tensor.read();
        hash.update(new Uint8Array(buffer, byteOffset, byteLength));
      }
    }
    if (seed === 1) cache.truncate([4100, 1900]);
  }
  console.log(`${devices().find(({ device }) => device === 'cpu')?.threads} ${hash.digest('hex')}`);
}

void main();
