// What the tests of this folder run on: a real device in scripts/gpu-verify; elsewhere the CPU, with sizes that it can
// take, so that the tests themselves are known to be right before a GPU is at hand.

import { attention, type Device, Tensor, type TypedArray } from 'node-attention';
import { expect } from 'vitest';

export const real = process.env.NODE_ATTENTION_TEST_DEVICE === 'real';
export const device: Device = real ? 'cuda' : 'cpu';

/** The first on a real device, else the second. */
export const sized = <T>(onDevice: T, here: T): T => (real ? onDevice : here);

/** Bit for bit; the matchers take a second for a million elements. */
export function expectSame(got: TypedArray, want: TypedArray): void {
  const bytes = ({ buffer, byteOffset, byteLength }: TypedArray) => Buffer.from(buffer, byteOffset, byteLength);
  expect(bytes(got).equals(bytes(want))).toBe(true);
}

/** The output of attention; nothing of it stays on the device. */
export async function resultOf(q: Tensor, k: Tensor, v: Tensor): Promise<TypedArray> {
  const { out, lse } = attention(q, k, v);
  const values = await out.read();
  for (const tensor of [out, lse]) tensor.dispose();
  return values;
}

/** Until what was queued on the default stream is done and let go. */
export async function settled(): Promise<void> {
  const tensor = Tensor.zeros([1], { device });
  await tensor.read();
  tensor.dispose();
  await new Promise((resolve) => setTimeout(resolve, 50));
}
