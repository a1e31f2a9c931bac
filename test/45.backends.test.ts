// How backends are found, refused and forced, each in a process of its own: the environment is read once.

import { execFile } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import * as path from 'node:path';
import { promisify } from 'node:util';
import { devices } from 'node-attention';
import { afterAll, describe, expect, test } from 'vitest';
import { StandIn } from './support/stand-in';

const run = promisify(execFile);
const root = path.join(__dirname, '..');
const standIn = new StandIn();

afterAll(() => standIn.remove());

const script = `
  const na = require('node-attention');
  let error;
  try { na.Tensor.zeros([1], { device: process.argv[1] }); } catch (caught) { error = { code: caught.code, message: caught.message }; }
  console.log(JSON.stringify({ devices: na.devices(), error }));
`;

/** devices() in a process with these variables, and the error of using the device. */
async function probe(env: Record<string, string>, device = 'cuda') {
  const { NODE_ATTENTION_CPU: _, NODE_ATTENTION_THREADS: __, ...inherited } = process.env;
  const { stdout } = await run(process.execPath, ['-e', script, device], {
    cwd: root,
    env: { ...inherited, ...standIn.env, ...env },
  });
  const { devices: list, error } = JSON.parse(stdout) as {
    devices: ReturnType<typeof devices>;
    error?: { code: string; message: string };
  };
  return { cpu: list.find((row) => row.backend === 'cpu')!, cuda: list.find((row) => row.backend === 'cuda')!, error };
}

describe('the CUDA backend', () => {
  const driver = { LD_LIBRARY_PATH: standIn.folder };

  test('without a driver', async () => {
    const { cuda, error } = await probe({});
    expect(cuda).toMatchObject({
      usable: false,
      reason: 'no-driver',
      message: expect.stringMatching(/libcuda\.so\.1/),
    });
    expect(error).toMatchObject({
      code: 'ERR_DEVICE',
      message: expect.stringMatching(/'cuda'.*no-driver.*use device 'cpu'/),
    });
  });

  test.each<[string, Record<string, string>, RegExp]>([
    ['disabled', { NODE_ATTENTION_DEVICE: 'cpu' }, /NODE_ATTENTION_DEVICE=cpu/],
    ['disabled', { NODE_ATTENTION_DEVICE: 'gpu' }, /NODE_ATTENTION_DEVICE=gpu is not known/],
    ['driver-too-old', { FAKE_DRIVER: '12040' }, /12\.4/],
    ['no-device', { FAKE_DEVICES: '0' }, /no device/],
    ['no-device', { FAKE_FAILURE: '100' }, /no device/],
    ['load-failed', { FAKE_FAILURE: '803' }, /cuInit gives error 803/],
    ['library-missing', {}, /libnode_attention_cuda\.so/],
  ])('%s', async (reason, env, message) => {
    const { cuda } = await probe({ ...driver, ...env });
    expect(cuda).toMatchObject({ usable: false, reason, message: expect.stringMatching(message) });
  });

  test.each<[string, string, RegExp]>([
    ['load-failed', '', /another version of the backend table/],
    ['load-failed', 'refuses', /of another build \(an earlier version\)/],
    ['load-failed', 'stale', /cuda\.so is of another build \(0\.0\.9\+0123456789ab\) than the addon .*build:cuda/],
    ['load-failed', 'size', /another version of the backend table/],
    ['driver-too-old', 'newer', /speaks CUDA 13\.0; install one for CUDA 14\.2/],
    ['unsupported-arch', 'empty', /sm_80/],
  ])('%s: a library that %s', async (reason, kind, message) => {
    standIn.install('backend.c');
    const { cuda } = await probe({ ...driver, ...(kind && { FAKE_BACKEND: kind }) });
    expect(cuda).toMatchObject({ usable: false, reason, message: expect.stringMatching(message) });
    rmSync(standIn.library);
  });

  test("a library that is somebody else's", async () => {
    standIn.install('driver.c');
    const { cuda } = await probe(driver);
    expect(cuda).toMatchObject({ reason: 'load-failed', message: expect.stringMatching(/is not the CUDA backend of/) });
    rmSync(standIn.library);
  });

  test('a library that is no library: the real text of dlopen', async () => {
    writeFileSync(standIn.library, 'not an ELF file');
    const { cuda } = await probe(driver);
    expect(cuda).toMatchObject({ reason: 'load-failed', message: expect.stringMatching(/file too short|invalid ELF/) });
    rmSync(standIn.library);
  });
});

describe('the CPU backend', () => {
  test('reports model, instruction set, threads and memory', () => {
    const cpu = devices().find((row) => row.backend === 'cpu')!;
    expect(cpu).toMatchObject({ device: 'cpu', usable: true, reason: 'ok' });
    expect(cpu.name).toMatch(/./);
    expect(['generic', 'avx2', 'avx512', 'amx']).toContain(cpu.instructionSet);
    expect(cpu.threads).toBeGreaterThan(0);
    expect(cpu.memoryBytes).toBeGreaterThan(2 ** 28);
  });

  test('obeys NODE_ATTENTION_CPU and NODE_ATTENTION_THREADS', async () => {
    const { cpu, error } = await probe({ NODE_ATTENTION_CPU: 'generic', NODE_ATTENTION_THREADS: '3' }, 'cpu');
    expect(cpu).toMatchObject({ instructionSet: 'generic', threads: 3 });
    expect(error).toBeUndefined();
  });

  test.each<[Record<string, string>, RegExp]>([
    [{ NODE_ATTENTION_CPU: 'sse' }, /NODE_ATTENTION_CPU=sse.*generic/],
    [{ NODE_ATTENTION_THREADS: '0' }, /NODE_ATTENTION_THREADS=0.*1 to 1024/],
    [{ NODE_ATTENTION_THREADS: 'two' }, /NODE_ATTENTION_THREADS=two/],
    [{ NODE_ATTENTION_THREADS: '2x' }, /NODE_ATTENTION_THREADS=2x/],
  ])('refuses %j', async (env, message) => {
    const { cpu, error } = await probe(env, 'cpu');
    expect(cpu).toMatchObject({ usable: false, message: expect.stringMatching(message) });
    expect(error).toMatchObject({ code: 'ERR_OPTION', message: expect.stringMatching(message) });
  });
});
