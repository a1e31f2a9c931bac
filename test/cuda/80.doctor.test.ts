// npx node-attention doctor, where there is a driver: that of the stand-in, in processes of their own.
// not on a device

import { spawnSync } from 'node:child_process';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { interpreted, missing, standInEnvironment, title } from './support/device';

const root = resolve(__dirname, '../..');

function doctor(env: NodeJS.ProcessEnv) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'dist/cli.js'), 'doctor'], {
    encoding: 'utf8',
    env: { ...process.env, ...standInEnvironment, ...env },
  });
  return { status, text: `${stdout}${stderr}` };
}

describe.skipIf(missing || !interpreted)(title('doctor'), () => {
  it('shows a device with its name, architecture and memory', () => {
    const { status, text } = doctor({});
    expect(text).toMatch(/^cuda:0 +ok: .*stand-in for an H200/m);
    expect(text).toMatch(/instruction set sm_90, 132 multiprocessors, 8\.0 GiB of memory/);
    expect(text).not.toContain('cuda:1');
    expect(status).toBe(0);
  });

  it('shows each of two devices', () => {
    const env = { NODE_ATTENTION_STANDIN_DEVICES: '2', NODE_ATTENTION_STANDIN_CAPABILITY: '8.0' };
    const { text } = doctor(env);
    expect(text.match(/^cuda:[01] +ok: .*stand-in for an A100/gm)).toHaveLength(2);
    expect(text).toMatch(/instruction set sm_80, 108 multiprocessors/);
  });

  it('says that there is no device, and goes on with the CPU', () => {
    const { status, text } = doctor({ NODE_ATTENTION_STANDIN_DEVICES: '0' });
    expect(text).toMatch(/^cuda +no-device: /m);
    expect(text).toMatch(/^cpu +ok: /m);
    expect(status).toBe(0);
  });

  it('says that there is no driver', () => {
    const { status, text } = doctor({ LD_LIBRARY_PATH: '' });
    expect(text).toMatch(/^cuda +no-driver: /m);
    expect(status).toBe(0);
  });
});
