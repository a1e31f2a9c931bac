// The bias benchmark compares what is the same: each contestant's result, on small cases.

import { describe, expect, it } from 'vitest';
import { type BiasCase, biasCases, denseBytes } from '../bench/bias/cases';
import { inputsOf, library, onnxruntime } from '../bench/bias/contestants';

describe('npm run bench -- bias', () => {
  it('has cases of different names, none of which needs more memory than there is', () => {
    for (const quick of [false, true]) {
      const cases = biasCases(quick);
      expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length);
      for (const one of cases) if (one.forms.includes('dense')) expect(denseBytes(one)).toBeLessThanOrEqual(2 ** 32);
    }
    const cloud = biasCases(false).find(({ name }) => name.startsWith('Point cloud'))!;
    expect(denseBytes(cloud)).toBeGreaterThan(33e9);
  });

  it.each([
    ['alibi', [50], true],
    ['relative', [4, 5], false],
  ] as const)('%s is the dense bias', async (form, tokens, causal) => {
    const test: BiasCase = {
      name: 'small',
      dtype: 'float32',
      batch: 1,
      tokens: [...tokens],
      heads: 3,
      headDim: 8,
      causal,
      forms: ['none', form, 'dense'],
      dense: form,
      onnxruntime: true,
    };
    const inputs = inputsOf(test);
    const all = [...test.forms.map((one) => library(one, test, inputs)), await onnxruntime(test, inputs, 1)];
    for (const contestant of all) expect(await contestant.run(2)).toHaveLength(2);
    const [none, formula, dense, peer] = await Promise.all(all.map((contestant) => contestant.output()));
    const apart = (a: Float32Array, b: Float32Array) =>
      a.reduce((most, x, n) => Math.max(most, Math.abs(x - b[n]!)), 0);
    expect(apart(formula!, dense!)).toBeLessThan(1e-6);
    expect(apart(peer!, dense!)).toBeLessThan(1e-5);
    expect(apart(none!, dense!)).toBeGreaterThan(1e-3);
    for (const contestant of all) await contestant.close();
  });
});
