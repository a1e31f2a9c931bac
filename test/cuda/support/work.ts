// A stream that is at work while others look at what is queued behind that.

import { attention, type Stream, Tensor } from 'node-attention';
import { interpreted } from './device';

/** Keeps a stream at work for a while: far longer than enqueuing thousands of operations takes. */
export function work(stream: Stream): Promise<void> {
  const [tokens, heads] = interpreted ? [1024, 2] : [65536, 64];
  const x = Tensor.zeros([1, tokens, heads, 128], { dtype: 'bfloat16', device: 'cuda' });
  for (let i = 0; i < 2; i++) attention(x, x, x, { stream });
  return stream.record().done();
}
