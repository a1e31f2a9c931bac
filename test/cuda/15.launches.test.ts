// How much of a stream CUDA is given while the device is at work: it holds about a thousand launches, and makes the next
// one wait, whoever it is. A copy is one, and so are an event and a wait; an operation may take many.
import './support/device'; // before node-attention
import {
  attention,
  hipPlan,
  KvCache,
  merge,
  neighborhood,
  pooledPlan,
  SparsePlan,
  Stream,
  Tensor,
} from 'node-attention';
import { describe, expect, test } from 'vitest';
import { unreadPlan } from '../support/plans';
import { interpreted, longestQueue, missing, title } from './support/device';
import { work } from './support/work';

const ramp = (count: number) => Float32Array.from({ length: count }, (_, i) => i);
const zeros = (...shape: number[]) => Tensor.zeros(shape, { dtype: 'bfloat16', device: 'cuda' });

/** Neighborhoods of two and three tokens in turn, so that each head takes a kernel of its own. */
const alternating = (heads: number) => neighborhood(Array.from({ length: heads }, (_, i) => ({ window: 2 + (i % 2) })));

type Enqueue = (stream: Stream) => unknown;

function neighborhoods(): Enqueue {
  const [x, mask] = [zeros(1, 8, 40, 32), alternating(40)];
  return (stream) => attention(x, x, x, { mask, stream });
}

/** Operations of several launches, for which a function makes the inputs. */
const OPERATIONS: [string, () => Enqueue][] = [
  [
    'copies',
    () => {
      const x = zeros(8);
      return (stream) => x.to({ dtype: 'float16', stream });
    },
  ],
  [
    'copies of pageable memory',
    () => {
      const host = Tensor.from(ramp(8), [8]);
      return (stream) => host.to({ device: 'cuda', stream });
    },
  ],
  [
    'copies into pageable memory, of a view',
    () => {
      const x = zeros(4, 4).slice([0, 3], [0, 3]);
      return (stream) => x.to({ device: 'cpu', stream });
    },
  ],
  ['neighborhoods that differ from head to head', neighborhoods],
  [
    'tensors whose axes of tokens have no common stride',
    () => {
      const view = () => zeros(1, 3, 4, 1, 32).slice([0, 1], [0, 3], [0, 3], [0, 1], [0, 32]);
      const [x, out] = [view(), view()];
      return (stream) => attention(x, x, x, { out, stream });
    },
  ],
  [
    'keys in parts',
    () => {
      const [q, k] = [zeros(1, 1, 1, 32), zeros(1, 512, 1, 32)];
      return (stream) => attention(q, k, k, { stream });
    },
  ],
  [
    'keys beside others',
    () => {
      const x = zeros(1, 4, 1, 32);
      return (stream) => attention(x, x, x, { extra: { k: x, v: x }, stream });
    },
  ],
  [
    'a plan that estimates',
    () => {
      const x = zeros(1, 64, 1, 32);
      const blocks = [[0], [1], [2], [3]];
      const geometry = { queries: 64, keys: 64, queryTile: 16, keyBlock: 16, estimate: true };
      const mask = SparsePlan.fromBlocks(blocks, { ...geometry, device: 'cuda' });
      return (stream) => attention(x, x, x, { mask, stream });
    },
  ],
  [
    'a plan with levels',
    () => {
      const x = zeros(1, 64, 1, 32);
      const blocks = [[0], [1, 2], [2], [0, 3]];
      const geometry = { queries: 64, keys: 64, queryTile: 16, keyBlock: 16, levels: [[1], [0, 2], [3], [1, 2]] };
      const mask = SparsePlan.fromBlocks(blocks, { ...geometry, device: 'cuda' });
      return (stream) => attention(x, x, x, { mask, stream });
    },
  ],
  [
    'a selector that gives levels',
    () => {
      const x = zeros(1, 64, 1, 16);
      const options = { budget: 16, levels: [16, 0, 16], keyBlock: 16, always: { sink: 0, window: 0 } };
      return (stream) => pooledPlan(x, x, { ...options, stream });
    },
  ],
  [
    'a plan beside a neighborhood',
    () => {
      const x = zeros(1, 16, 1, 32);
      const plan = unreadPlan([[0]], { queries: 16, keys: 16, queryTile: 16, keyBlock: 16, device: 'cuda' });
      return (stream) => attention(x, x, x, { mask: [plan, neighborhood({ window: 3 })], stream });
    },
  ],
  [
    'a merge of many parts',
    () => {
      const x = zeros(1, 2, 1, 16);
      const part = attention(x, x, x);
      const parts = Array.from({ length: 50 }, () => part);
      return (stream) => merge(parts, { stream });
    },
  ],
  [
    'a cache that is appended to',
    () => {
      const x = zeros(600, 1, 1, 8);
      const cache = new KvCache({
        batch: 600,
        kvHeads: 1,
        headDim: 8,
        capacity: 600 * 160,
        dtype: 'bfloat16',
        device: 'cuda',
      });
      return (stream) => cache.append(x, x, { stream });
    },
  ],
  [
    'queries of many sequences that are rotated',
    () => {
      const x = zeros(1000, 1, 1, 8);
      const shape = { batch: 1000, kvHeads: 1, headDim: 8, capacity: 1000 * 160 };
      const cache = new KvCache({ ...shape, dtype: 'bfloat16', device: 'cuda', rope: { theta: 10000 } });
      cache.append(x, x);
      return (stream) => attention(x, cache, { stream });
    },
  ],
  [
    'a selector in stages',
    () => {
      const x = zeros(1, 64, 1, 16);
      return (stream) => hipPlan(x, x, { budget: 16, always: { sink: 0, window: 0 }, stream });
    },
  ],
  [
    'a selector that bisects',
    () => {
      const x = zeros(1, 64, 1, 16);
      return (stream) => hipPlan(x, x, { budget: 16, always: { sink: 0, window: 0 }, variant: 'hip1', stream });
    },
  ],
  [
    'a selector of means, for each query',
    () => {
      const x = zeros(1, 32, 1, 16);
      const options = { topP: 0.9, queries: 'own', keyBlock: 16, always: { sink: 0, window: 0 } } as const;
      return (stream) => pooledPlan(x, x, { ...options, stream });
    },
  ],
  [
    'a graph',
    () => {
      const x = zeros(8);
      const own = new Stream('cuda');
      const graph = own.capture(() => {
        for (let i = 0; i < 20; i++) x.to({ dtype: 'float16', stream: own });
      });
      return (stream) => graph.launch(stream);
    },
  ],
  [
    'waits for another stream',
    () => {
      const other = new Stream('cuda');
      work(other);
      return (stream) => stream.wait(other.record());
    },
  ],
];

describe.skipIf(missing)(title('launches that are pending'), () => {
  test('the event loop goes on behind operations of many launches', async () => {
    const [stream, enqueue] = [new Stream('cuda'), neighborhoods()];
    const begun = performance.now();
    const working = work(stream);
    for (let i = 0; i < 30; i++) enqueue(stream);
    const enqueued = performance.now() - begun;
    await working;
    expect(enqueued).toBeLessThan((performance.now() - begun) / 2);
    await stream.synchronize();
  });

  // How long the queue is, only the stand-in tells.
  test.skipIf(!interpreted).each(OPERATIONS)('are no more than 256: %s', async (_, prepare) => {
    const stream = new Stream('cuda');
    const enqueue = prepare();
    enqueue(stream);
    await stream.synchronize(); // nothing waits for the inputs from here on
    const working = work(stream);
    longestQueue();
    let longest = 0;
    // Until an operation is left to the stream's second thread.
    for (let i = 0, own = 1; i < 300 && own > 0; i++) {
      enqueue(stream);
      own = longestQueue();
      longest = Math.max(longest, own);
    }
    await working;
    await stream.synchronize();
    expect(longest).toBeLessThanOrEqual(256);
    expect(longest).toBeGreaterThan(128); // nor far fewer: what is counted is close to what there is
  });

  test.skipIf(!interpreted)('are as many as a graph holds where nothing else is', async () => {
    const [stream, x] = [new Stream('cuda'), zeros(8)];
    const graph = stream.capture(() => {
      for (let i = 0; i < 400; i++) x.to({ dtype: 'float16', stream });
    });
    for (let i = 0; i < 2; i++) {
      await stream.synchronize();
      longestQueue();
      graph.launch(stream);
      expect(longestQueue()).toBeGreaterThan(0); // by this thread: none has to wake another
    }
    await stream.synchronize();
  });

  test.skipIf(!interpreted)('are none of an operation that is more by itself', async () => {
    const stream = new Stream('cuda');
    const heads = 1100;
    const x = zeros(1, 8, heads, 16);
    await x.read();
    const working = work(stream);
    longestQueue();
    const { lse } = attention(x, x, x, { mask: alternating(heads), stream });
    expect(longestQueue()).toBeLessThan(10);
    await working;
    const seen = Array.from(((await lse.read()) as Float32Array).slice(0, 2), (one) => Math.round(Math.exp(one)));
    expect(seen).toEqual([2, 3]);
  });
});
