// What the benchmark of a GPU does through the addon: attention to keys that are chosen on the device.
// not on a device: the benchmark itself runs there
import './support/device'; // before node-attention
import { expect, it } from 'vitest';
import { HOSTED, makeCudaCase, OF_CHUNKS, SELECTORS } from '../../bench/cuda/cases';
import { DENSITY, measurePlans } from '../../bench/cuda/plans';
import { interpreted, launches, missing, title } from './support/device';

const sizes = { batch: 1, heads: 2, kvHeads: 1, queries: 1, keys: 16384, headDim: 128 };
const once = { rounds: 1, batchMs: 0, settleMs: 0, warmRuns: 1, patience: 1 };

it.skipIf(missing)(title('a chunk of which each query chooses, as it is measured'), async () => {
  const chunk = { ...sizes, queries: 100, selector: OF_CHUNKS } as const;
  const outcome = await measurePlans(makeCudaCase('causal', chunk), 'cuda', once);
  expect([outcome.faults, outcome.absent]).toEqual([[], []]);
  expect(outcome.contestants).toEqual(['node-attention', 'selection', 'attention', 'dense']);
  expect(outcome.shown!).toBeLessThan(2 * DENSITY);
});

it.skipIf(missing).each([...SELECTORS, ...HOSTED])(
  title('decoding with plans on a device, as it is measured: %s'),
  async (selector) => {
    const before = interpreted ? launches('copy_pages') : 0;
    const outcome = await measurePlans(makeCudaCase('decode', { ...sizes, selector }), 'cuda', once);
    expect([outcome.faults, outcome.absent]).toEqual([[], []]);
    expect(outcome.contestants).toEqual(['node-attention', 'selection', 'attention', 'dense']);
    expect(Math.abs(outcome.shown! - DENSITY)).toBeLessThan((3 * 16) / sizes.keys);
    if (interpreted) expect(launches('copy_pages') > before).toBe(selector === 'pages, resident');
  },
);
