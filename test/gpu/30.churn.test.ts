// Memory that is taken and given back in every size and order, while work on it is queued.

import { attention, memoryStats, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { uniform } from '../support/numbers';
import { device, expectSame, resultOf, settled, sized } from './device';

describe('churn', () => {
  it('keeps data apart and gives everything back', async () => {
    const random = uniform(1);
    const before = memoryStats(device).live;
    const kept: { tensor: Tensor; value: number }[] = [];
    for (let step = 0; step < sized(3000, 200); step++) {
      if (kept.length > 40 || (kept.length > 0 && random() < 0.45)) {
        const [{ tensor, value }] = kept.splice(Math.floor(random() * kept.length), 1) as [(typeof kept)[0]];
        if (step % 8 === 0) expect((await tensor.read()).every((x) => x === value)).toBe(true);
        tensor.dispose();
        continue;
      }
      const count = Math.ceil(2 ** (random() * sized(22, 12)));
      const value = step;
      kept.push({ value, tensor: Tensor.from(new Float32Array(count).fill(value), [count], { device }) });
    }
    for (const { tensor, value } of kept) {
      expect((await tensor.read()).every((x) => x === value)).toBe(true);
      tensor.dispose();
    }
    await settled();
    expect(memoryStats(device).live).toBeLessThanOrEqual(before); // fewer: what the collector took in the meantime
  });

  it('disposes of inputs while they are in use', async () => {
    const make = (seed: number) => Tensor.randn([1, 333, 2, 64], { seed, dtype: 'bfloat16', device });
    const [q, k, v] = [make(1), make(2), make(3)];
    const want = await resultOf(q, k, v);
    for (let step = 0; step < sized(300, 30); step++) {
      const inputs = [q, k, v].map((tensor) => tensor.to(device)) as [Tensor, Tensor, Tensor];
      const { out, lse } = attention(...inputs);
      for (const tensor of [...inputs, lse]) tensor.dispose();
      // Whatever takes the memory that became free must not change the result.
      const others = [1, 2, 3].map(() => Tensor.zeros([1, 333, 2, 64], { device }));
      expectSame(await out.read(), want);
      for (const tensor of [...others, out]) tensor.dispose();
    }
    for (const tensor of [q, k, v]) tensor.dispose();
  });
});
