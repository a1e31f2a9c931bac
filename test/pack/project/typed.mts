import { type AttentionResult, attention, type DType, neighborhood, Tensor } from 'node-attention';

const q: Tensor<DType> = Tensor.randn([1, 8, 8, 2, 16], { seed: 1, dtype: 'float32' });
const { out, lse }: AttentionResult = attention(q, q, q, { mask: neighborhood({ window: [3, 3] }) });
const values = await out.read();
const shape: readonly number[] = lse.shape;
console.log(values.every(Number.isFinite) && shape.join() === '1,8,8,2');
