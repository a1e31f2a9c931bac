// Uses node-attention as a user would; one figure that any broken part would change.
module.exports = async function attend({ attention, causal, Tensor }) {
  const q = Tensor.randn([1, 33, 2, 16], { seed: 1 });
  const { out } = attention(q, q, q, { mask: causal() });
  const values = await out.read();
  return values.slice(0, 16).every((x, i) => Math.abs(x - q.data[i]) < 1e-6) && values.length === 33 * 2 * 16;
};
