// npm run test:nodes: on every line of Node that is supported, what depends most on Node itself: workers that are
// terminated, exit, collection, a day's allocations, and some fuzzing. On the CPU and on the stand-in for a GPU.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { node, versions } from '../../scripts/nodes.mjs';
import { StandIn } from '../support/stand-in';

const root = resolve(__dirname, '../..');
const standIn = new StandIn();
standIn.install('device.c');
const scratch = mkdtempSync(join(tmpdir(), 'node-attention-nodes-'));
afterAll(() => {
  standIn.remove();
  rmSync(scratch, { recursive: true });
});

const environments = {
  cpu: {},
  cuda: { ...standIn.env, LD_LIBRARY_PATH: standIn.folder, FAKE_DEVICES: '2', FAKE_DELAY: '0' },
};
type Device = keyof typeof environments;
const devices = Object.keys(environments) as Device[];

describe.each(Object.keys(versions).map(Number))('Node %d', (line) => {
  let command: string;
  beforeAll(() => {
    command = node(line as keyof typeof versions);
  }, 300_000);

  // A process of Node 24 may never end when exit() comes while V8 compiles in the background: Node waits for that thread,
  // and the thread for a collection by the one that waits. No thread of the library has anything to do with it.
  const flags = ['--expose-gc', '--no-concurrent-sparkplug'];

  /** How a program ended; it has two minutes. */
  function run(device: Device, ...args: string[]) {
    const env = { ...process.env, ...environments[device] };
    const child = spawn(command, [...flags, ...args], { cwd: root, env, timeout: 120_000, killSignal: 'SIGKILL' });
    const ended = { code: null as number | null, signal: null as string | null, stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].on('data', (text) => {
        ended[name] += text;
      });
    }
    return new Promise<typeof ended>((resolve) => {
      child.once('close', (code, signal) => resolve({ ...ended, code, signal }));
    });
  }

  async function succeed(device: Device, ...args: string[]) {
    const { stdout, ...rest } = await run(device, ...args);
    expect(rest, rest.stderr).toEqual({ code: 0, signal: null, stderr: '' });
    console.log(`Node ${line}, ${device}: ${stdout.trim()}`);
  }

  test('is the version that was asked for', async () => {
    const { stdout } = await run('cpu', '-p', 'process.versions.node');
    expect(stdout.trim()).toBe(versions[line as keyof typeof versions]);
  });

  describe.each(devices)('%s', (device) => {
    test.each(['workers', 'reading', 'collect', 'churn'])(
      '%s',
      (name) => succeed(device, join(__dirname, 'programs.cjs'), name, device),
      150_000,
    );

    test.each(['public', 'addon'])(
      '%s functions, fuzzed',
      (level) => {
        const args = ['--import', 'tsx', 'test/fuzz/main.ts', level, '4000', String(line), join(scratch, level)];
        return succeed(device, ...args);
      },
      150_000,
    );
  });

  test.each(['exit', 'exit-while-awaiting', 'fall', 'await'])('ends at once: %s', async (way) => {
    const stdout = way === 'await' ? 'awaited\n' : '';
    expect(await run('cpu', 'test/fixtures/exit.cjs', way)).toEqual({ code: 3, signal: null, stdout, stderr: '' });
  });

  test.each(['exit', 'fall'])('ends at once, with work held for a device: %s', async (way) => {
    expect(await run('cuda', 'test/fixtures/device.cjs', way)).toEqual({
      code: 3,
      signal: null,
      stdout: '',
      stderr: '',
    });
  });

  test('an uncaught error is an error, not a crash', async () => {
    const { code, signal, stderr } = await run('cpu', 'test/fixtures/exit.cjs', 'throw');
    expect({ code, signal }).toEqual({ code: 1, signal: null });
    expect(stderr).toContain('deliberate');
  });
});
