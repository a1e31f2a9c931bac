// Graphs of the device: what is captured runs at each launch, over the same memory.
import './support/device'; // before node-attention
import { AttentionError, attention, merge, Stream, Tensor } from 'node-attention';
import { describe, expect, test } from 'vitest';
import { interpreted, missing, title } from './support/device';

const ramp = (count: number, first: number) => Float32Array.from({ length: count }, (_, i) => first + i);

describe.skipIf(missing)(title('graphs'), () => {
  test('a launch copies what pinned memory holds by then', async () => {
    const stream = new Stream('cuda');
    const source = Tensor.empty([100], { dtype: 'float32', pinned: true });
    let there: Tensor | undefined;
    let halves: Tensor | undefined;
    source.data.set(ramp(100, 0));
    const graph = stream.capture(() => {
      there = source.to({ device: 'cuda', stream });
      halves = there.to({ dtype: 'float16', stream });
    });
    for (const first of [5, 70]) {
      source.data.set(ramp(100, first));
      graph.launch(stream);
      await stream.synchronize();
      expect(await there!.read()).toEqual(ramp(100, first));
      expect(await halves!.to('float32').read()).toEqual(ramp(100, first));
    }
    graph.dispose();
  });

  test('attention and merge give the same bits as without', async () => {
    const stream = new Stream('cuda');
    const [q, k] = [1, 2].map((seed) =>
      Tensor.randn([1, seed * 70 - 60, 2, 64], { seed, dtype: 'bfloat16', device: 'cuda' }),
    );
    const run = () => {
      const part = attention(q!, k!, k!, { stream });
      return merge([part, part], { stream });
    };
    const want = run();
    let made: ReturnType<typeof run> | undefined;
    const graph = stream.capture(() => {
      made = run();
    });
    graph.launch(stream);
    graph.launch(stream);
    expect(await made!.out.read()).toEqual(await want.out.read());
    expect(await made!.lse.read()).toEqual(await want.lse.read());
  });

  test('thousands of launches', async () => {
    const stream = new Stream('cuda');
    const source = Tensor.from(ramp(16, 1), [16], { device: 'cuda' });
    let made: Tensor | undefined;
    const graph = stream.capture(() => {
      made = source.to({ dtype: 'float32', stream });
    });
    const launches = interpreted ? 3000 : 20_000;
    for (let i = 0; i < launches; i++) graph.launch(stream);
    await stream.synchronize();
    expect(await made!.read()).toEqual(ramp(16, 1));
  });

  test('pageable memory is refused', () => {
    const stream = new Stream('cuda');
    const host = Tensor.from(ramp(4, 0), [4]);
    let error: unknown;
    try {
      stream.capture(() => host.to({ device: 'cuda', stream }));
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(AttentionError);
    expect(error).toMatchObject({ code: 'ERR_OPTION', message: expect.stringMatching(/pinned/) });
  });
});
