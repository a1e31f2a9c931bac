// Which kernel runs: nothing falls back to a slower one unseen.
// not on a device: the stand-in tells what runs
import './support/device'; // before node-attention
import { type AttentionOptions, attention, keyBias, neighborhood, SparsePlan, Tensor, window } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { interpreted, lastKernel, missing, title } from './support/device';

const near = neighborhood({ window: 3 });
const plan = () => SparsePlan.fromBlocks([[0], [1]], { queries: 128, keys: 128, device: 'cuda' });

describe.skipIf(missing || !interpreted)(title('which kernel runs on Hopper'), () => {
  it.each<[string, number, 'float16' | 'bfloat16' | 'float32', string, () => AttentionOptions]>([
    ['sm90', 64, 'float16', 'a neighborhood', () => ({ mask: near })],
    ['sm90', 256, 'bfloat16', 'steps', () => ({ mask: neighborhood({ window: 3, dilation: [2, 1], wrap: true }) })],
    ['sm80', 64, 'float32', 'a neighborhood', () => ({ mask: near })],
    ['sm80', 36, 'float16', 'rows of 72 bytes', () => ({ mask: near })],
    ['sm80', 64, 'float16', 'a cap', () => ({ mask: near, softcap: 2 })],
    ['sm80', 64, 'float16', 'a bias', () => ({ mask: near, bias: keyBias(Tensor.zeros([128], { device: 'cuda' })) })],
    ['sm80', 64, 'float16', 'a scale of 0', () => ({ mask: near, scale: 0 })],
    ['sm80', 64, 'float16', 'a further window', () => ({ mask: [near, window({ left: 5, right: 5 })] })],
    ['sm80', 64, 'float16', 'a sparse plan', () => ({ mask: plan() })],
    ['sm80', 64, 'float16', 'few tokens to a group', () => ({ mask: neighborhood({ window: 1, dilation: [16, 1] }) })],
  ])('%s: headDim %i, %s, %s', async (kernel, headDim, dtype, _, options) => {
    const x = Tensor.zeros([1, 16, 8, 1, headDim], { dtype, device: 'cuda' });
    await attention(x, x, x, options()).out.read();
    expect(lastKernel()).toContain(`attention_${kernel}_kernel`);
  });
});
