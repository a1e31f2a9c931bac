// Uses node-attention as a user would: the addon, by one figure that any broken part would change, and each of the threads
// that start from files of the package.
const { rmSync } = require('node:fs');

module.exports = async function attend(library) {
  return (await runs(library)) && (await saves(library)) && (await factorizes(library)) && (await fits(library));
};

async function runs({ attention, causal, Tensor }) {
  const q = Tensor.randn([1, 33, 2, 16], { seed: 1 });
  const { out } = attention(q, q, q, { mask: causal() });
  const values = await out.read();
  return values.slice(0, 16).every((x, i) => Math.abs(x - q.data[i]) < 1e-6) && values.length === 33 * 2 * 16;
}

async function saves({ KvCache, Tensor }) {
  const cache = new KvCache({ batch: 1, kvHeads: 2, headDim: 16, capacity: 64 });
  const k = Tensor.randn([1, 33, 2, 16], { seed: 1 });
  cache.append(k, k);
  await cache.save('cache.safetensors');
  const { length } = await KvCache.load('cache.safetensors');
  rmSync('cache.safetensors');
  return length === 33;
}

async function factorizes({ factorizeBias, Tensor }) {
  const { relativeError } = await factorizeBias(Tensor.randn([8, 4], { seed: 1 }), { rank: 4 });
  return relativeError < 1e-6;
}

async function fits({ fitBias, Tensor }) {
  const points = Tensor.randn([20, 2], { seed: 1 });
  const { phiQ } = await fitBias(() => 1, { q: points, k: points, rank: 1, steps: 2 });
  return phiQ.shape.join() === '1,20,1,1';
}
