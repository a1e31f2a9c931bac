// A fault that only the end of the process heals, provoked on a real device by a kernel of the test's own: later calls on that
// device fail with the first cause, and everything else goes on. Last in its process.

import { AttentionError, attention, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { device, real } from './device';
import { driver, driverStatus, loadKernel, useDriver } from './driver';

const TRAP = `.version 8.0
.target sm_80
.address_size 64
.visible .entry trap_kernel()
{
  trap;
}
`;

describe.skipIf(!real)('after a fault of the device', () => {
  const make = (where: typeof device) => Tensor.randn([1, 9, 1, 64], { seed: 1, dtype: 'bfloat16', device: where });

  it('says the cause, at every later call, and the CPU goes on', async () => {
    const there = make(device);
    await attention(there, there, there).out.read();
    useDriver();
    driver('cuLaunchKernel', loadKernel(TRAP, 'trap_kernel').kernel, 1, 1, 1, 1, 1, 1, 0, null, null, null);
    expect(driverStatus('cuCtxSynchronize')).not.toBe(0);

    const failing = async () => attention(there, there, there).out.read();
    const errors: unknown[] = [];
    for (let call = 0; call < 5; call++) await failing().catch((error) => errors.push(error));
    expect(errors.length).toBe(5);
    for (const error of errors) {
      expect(error).toBeInstanceOf(AttentionError);
      expect(error).toMatchObject({ code: 'ERR_CUDA' });
    }
    expect(() => attention(there, there, there)).toThrow(AttentionError);
    expect((errors[4] as Error).message).toBe((errors[3] as Error).message);

    const here = make('cpu');
    const { out } = attention(here, here, here);
    expect((await out.read()).length).toBe(9 * 64);
    for (const tensor of [there, here, out]) tensor.dispose();
  });
});
