// What the tests of this folder run on: a real device in scripts/gpu-verify; elsewhere the CPU, with sizes that it can
// take, so that the tests themselves are known to be right before a GPU is at hand.

import type { Device } from 'node-attention';

export const real = process.env.NODE_ATTENTION_TEST_DEVICE === 'real';
export const device: Device = real ? 'cuda' : 'cpu';

/** The first on a real device, else the second. */
export const sized = <T>(onDevice: T, here: T): T => (real ? onDevice : here);
