// Every function of the package, and every function of the addon below it, called with what fits and what does not, in
// processes of their own (test/fuzz): none crashes or hangs, each refusal is an AttentionError, and all memory comes
// back. NODE_ATTENTION_FUZZ_CALLS and NODE_ATTENTION_FUZZ_SEED ask for more calls, or others.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as api from 'node-attention';
import { afterAll, expect, test } from 'vitest';
import { called } from './fuzz/call';
import { publicCalls } from './fuzz/public';
import { sanitized } from './support/sanitizer';
import { StandIn } from './support/stand-in';

const calls = Number(process.env.NODE_ATTENTION_FUZZ_CALLS ?? (sanitized ? 8_000 : 110_000));
const seed = Number(process.env.NODE_ATTENTION_FUZZ_SEED ?? 1);
const patience = 60_000 + calls * 10; // milliseconds

const standIn = new StandIn();
standIn.install('device.c');
const folder = mkdtempSync(join(tmpdir(), 'node-attention-fuzz-'));
afterAll(() => {
  standIn.remove();
  rmSync(folder, { recursive: true });
});

/** How a process of so many calls ended, and the call that it made last. */
function fuzz(level: string, share: number, env: NodeJS.ProcessEnv = {}) {
  const last = join(folder, level);
  const wanted = Math.ceil(calls * share);
  const program = join(__dirname, 'fuzz', 'main.ts');
  const args = ['--expose-gc', '--import', 'tsx', program, level, String(wanted), String(seed), last];
  const child = spawn(process.execPath, args, {
    env: { ...process.env, ...env },
    timeout: patience,
    killSignal: 'SIGKILL',
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text) => {
      output += text;
    });
  }
  return new Promise<{ made: number; refused: number }>((resolve, reject) => {
    child.once('close', (code, signal) => {
      if (code === 0) {
        const counts = JSON.parse(output.trim().split('\n').at(-1)!);
        console.log(`${level}: ${counts.calls} calls, ${counts.refused} refused`);
        return resolve({ made: counts.calls, refused: counts.refused });
      }
      const ended = signal ?? `exit code ${code}`;
      reject(new Error(`${ended}, seed ${seed}, last ${readFileSync(last, 'utf8').trim()}\n${output}`));
    });
  });
}

const device = { ...standIn.env, LD_LIBRARY_PATH: standIn.folder, FAKE_DEVICES: '2', FAKE_DELAY: '0' };

test('every function of the package, and every member of its classes, is among the calls', () => {
  publicCalls(['cpu']);
  const members = (name: string, type: { prototype: object }) => [
    `new ${name}`,
    ...Reflect.ownKeys(type.prototype)
      .filter((key) => key !== 'constructor')
      .map((key) => `${name}.${String(key)}`),
    ...Object.getOwnPropertyNames(type)
      .filter((key) => typeof (type as never)[key] === 'function')
      .map((key) => `${name}.${key}`),
  ];
  const exported = Object.entries(api).flatMap(([name, value]: [string, unknown]) => {
    if (typeof value !== 'function') return [];
    return /^class\b/.test(String(value)) ? members(name, value as never) : [name];
  });
  const uncalled = exported.filter((name) => !called.has(name));
  expect(uncalled).toEqual(['new AttentionError', 'AttentionError.name']); // which nobody has to make
});

test.each([
  ['public', 0.45, {}],
  ['addon', 0.45, {}],
  ['public', 0.05, device],
  ['addon', 0.05, device],
])(
  '%s functions, a share of %d of the calls',
  async (level, share, env) => {
    const { made, refused } = await fuzz(level, share, env);
    expect(made).toBeGreaterThanOrEqual(calls * share);
    expect(refused).toBeGreaterThan(made * 0.2); // and not all of them were
    expect(refused).toBeLessThan(made * 0.9);
  },
  patience,
);
