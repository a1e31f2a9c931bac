// Which kernel runs: nothing falls back to a slower one unseen.
// not on a device: the stand-in tells what runs

import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { interpreted, missing, standInEnvironment, title } from './support/device';

const root = join(__dirname, '../..');

/** The kernel that runs first, which is made to fail for that, in a process of its own. */
async function firstKernel(headDim: number, dtype: string, call: string): Promise<string> {
  const program = `(async () => {
    const { attention, keyBias, neighborhood, Tensor, window } = require('node-attention');
    const driver = require('koffi').load(${JSON.stringify(join(root, 'build/ptx/libcuda.so.1'))});
    const x = Tensor.zeros([2, 90, 8, 1, ${headDim}], { dtype: '${dtype}', device: 'cuda' });
    const bias = Tensor.zeros([720], { device: 'cuda' });
    await x.read();
    driver.func('void standin_fail_next()')();
    try {
      await attention(x, x, x, ${call}).out.read();
    } catch {}
    console.log(driver.func('const char *standin_last_report()')());
  })()`;
  const env = { ...process.env, ...standInEnvironment };
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', program], { env, cwd: root });
  return stdout;
}

describe.skipIf(missing || !interpreted)(title('which kernel runs a neighborhood on Hopper'), () => {
  const near = 'neighborhood({ window: 3 })';
  it.each([
    ['sm90', 64, 'float16', `{ mask: ${near} }`],
    ['sm90', 256, 'bfloat16', `{ mask: neighborhood({ window: 3, dilation: [2, 1], wrap: true }) }`],
    ['sm80', 64, 'float32', `{ mask: ${near} }`],
    ['sm80', 36, 'float16', `{ mask: ${near} }`],
    ['sm80', 64, 'float16', `{ mask: ${near}, softcap: 2 }`],
    ['sm80', 64, 'float16', `{ mask: ${near}, bias: keyBias(bias) }`],
    ['sm80', 64, 'float16', `{ mask: ${near}, scale: 0 }`],
    ['sm80', 64, 'float16', `{ mask: [${near}, window({ left: 5, right: 5 })] }`],
    ['sm80', 64, 'float16', `{ mask: neighborhood({ window: 1, dilation: [9, 1] }) }`],
  ])('%s: headDim %i, %s, %s', async (kernels, headDim, dtype, call) => {
    expect(await firstKernel(headDim, dtype, call)).toMatch(new RegExp(`attention_${kernels}_kernel`));
  });
});
