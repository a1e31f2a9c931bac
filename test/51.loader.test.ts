// How the addon is found, and what is said of one that is of no use; each case in a process of its own.

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { StandIn, stamp } from './support/stand-in';

const root = resolve(__dirname, '..');
const scratch = mkdtempSync(join(tmpdir(), 'node-attention-'));
const standIn = new StandIn();
afterAll(() => {
  rmSync(scratch, { recursive: true });
  standIn.remove();
});

const ours = join(root, 'build/Release/node_attention.node');
const built = 'build/Release/node_attention.node';
const prebuilt = `prebuilds/${process.platform}-${process.arch}/node-attention.glibc.node`;
let folder: string;
let count = 0;

beforeEach(() => {
  folder = join(scratch, String(count++));
  mkdirSync(folder);
});

/** Puts a file into the folder: a copy of another, or text. */
function place(name: string, content: { copy: string } | string | Buffer): string {
  const file = join(folder, name);
  mkdirSync(dirname(file), { recursive: true });
  if (typeof content === 'object' && !Buffer.isBuffer(content)) copyFileSync(content.copy, file);
  else writeFileSync(file, content);
  return file;
}

/** The addon as if it were of another version, which has as many letters. */
function staleAddon(): Buffer {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const text = readFileSync(ours, 'latin1');
  const other = version.replace(/\d$/, (digit: string) => (digit === '9' ? '8' : '9'));
  return Buffer.from(text.replaceAll(`${version}\0`, `${other}\0`).replaceAll(`${version}+`, `${other}+`), 'latin1');
}

function run(args: string[], env: NodeJS.ProcessEnv = {}) {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, NODE_ATTENTION_PREBUILD: folder, ...env },
  });
  return { status, text: stdout + stderr };
}

const program = `
  try {
    const { attention, Tensor } = require('node-attention');
    const one = Tensor.from(new Float32Array([3]), [1, 1, 1, 1]);
    attention(one, one, one).out.read().then((values) => console.log('result', values[0]));
  } catch (error) {
    console.log(error.code, error.message);
  }`;
const load = (env?: NodeJS.ProcessEnv) => run(['-e', program], env).text;
const doctor = (args: string[] = [], env?: NodeJS.ProcessEnv) => run(['dist/cli.js', 'doctor', ...args], env);

describe('the addon', () => {
  it('is found in prebuilds/', () => {
    const file = place(prebuilt, { copy: ours });
    expect(load()).toBe('result 3\n');
    expect(doctor().text).toContain(`addon   ok: ${file}, build ${stamp}`);
    expect(doctor().text).toContain('build/Release holds no addon');
  });

  it('is found in a folder that is named relative to the current one', () => {
    place(prebuilt, { copy: ours });
    expect(load({ NODE_ATTENTION_PREBUILD: relative(root, folder) })).toBe('result 3\n');
  });

  it('of build/ comes before that of prebuilds/, unless PREBUILDS_ONLY is set, and doctor says so', () => {
    const first = place(built, { copy: ours });
    const second = place(prebuilt, { copy: ours });
    const { text } = doctor();
    expect(text).toContain(`${first} is taken`);
    expect(text).toContain(`${second} is passed over, since build/ comes first`);
    expect(doctor([], { PREBUILDS_ONLY: '1' }).text).toContain(`${second} is taken`);
  });

  it('of another version in build/ is refused by name, not passed over for the prebuilt one, nor loaded silently', () => {
    const stale = place(built, staleAddon());
    const shadowed = place(prebuilt, { copy: ours });
    const text = load();
    expect(text).toMatch(/^ERR_BACKEND .*is of version \S+ but the package is \S+\. It comes before/);
    expect(text).toContain(stale);
    expect(text).toContain(shadowed);
    expect(text).toContain(`delete ${join(folder, 'build')}`);
    const { status, text: report } = doctor();
    expect(report).toContain('load-failed');
    expect(report).toContain(`${shadowed} is passed over`);
    expect(status).toBe(1);
    rmSync(join(folder, 'build'), { recursive: true });
    expect(load()).toBe('result 3\n');
  });

  it('of somebody else is refused by name', () => {
    const source = 'void *napi_register_module_v1(void *env, void *exports) { return exports; }';
    const file = place(prebuilt, '');
    spawnSync('cc', ['-shared', '-fPIC', '-x', 'c', '-', '-o', file], { input: source });
    expect(load()).toContain(`ERR_BACKEND ${file} is not the addon of node-attention`);
  });

  it('that is missing: where it was looked for', () => {
    expect(load()).toMatch(/ERR_BACKEND .*No native build was found for platform=.*loaded from: /s);
    const { status, text } = doctor();
    expect(text).toContain(`${dirname(prebuilt)} holds no addon`);
    expect(text).toContain('no addon was found');
    expect(status).toBe(1);
  });

  it('for another C library is passed over', () => {
    const file = place(prebuilt.replace('glibc', 'musl'), { copy: ours });
    expect(doctor().text).toContain(`${file} is passed over: it is not the first, or not for this libc`);
  });
});

describe('doctor', () => {
  it('says how the CUDA backend was looked for, up to what was missing', () => {
    standIn.install('backend.c');
    const env = { ...standIn.env, LD_LIBRARY_PATH: standIn.folder, FAKE_BACKEND: 'empty', FAKE_DEVICES: '3' };
    const { text } = doctor([], env);
    const steps = text.slice(text.indexOf('How the CUDA backend')).split('\n').slice(1, 6);
    expect(steps.map((line) => line.trim())).toEqual([
      'NODE_ATTENTION_DEVICE is not set: a driver is looked for',
      `the driver is ${standIn.folder}/libcuda.so.1, for CUDA 13.0`,
      'it reports 3 devices',
      `${standIn.library} is of the addon's build, ${stamp}`,
      expect.stringMatching(/^no device has an architecture that /),
    ]);
    rmSync(standIn.library);
  });

  it('with NODE_ATTENTION_DEVICE=cpu looks for no driver', () => {
    const { text } = doctor([], { ...standIn.env, LD_LIBRARY_PATH: standIn.folder, NODE_ATTENTION_DEVICE: 'cpu' });
    const steps = text.slice(text.indexOf('How the CUDA backend')).split('\n').slice(1, 3);
    expect(steps.map((line) => line.trim())).toEqual([
      'NODE_ATTENTION_DEVICE=cpu keeps the CUDA backend closed',
      expect.stringMatching(/^NODE_ATTENTION_CPU/),
    ]);
  });
});

describe('doctor --verify', () => {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

  function manifest(names: string[], of = version): void {
    const files = Object.fromEntries(
      names.map((name) => {
        const data = readFileSync(join(folder, name));
        const sha256 = createHash('sha256').update(data).digest('hex');
        return [name.replace('prebuilds/', ''), { sha256, bytes: data.length }];
      }),
    );
    place('prebuilds/manifest.json', JSON.stringify({ version: of, commit: 'abc', files }));
  }

  it('accepts files that are what the manifest says', () => {
    place(prebuilt, { copy: ours });
    manifest([prebuilt]);
    const { status, text } = doctor(['--verify']);
    expect(text).toMatch(new RegExp(`^verify +ok: version ${version}, commit abc$`, 'm'));
    expect(status).toBe(0);
  });

  it.each<[string, () => void, RegExp]>([
    [
      'a file that was changed',
      () => place(prebuilt, Buffer.concat([readFileSync(ours), Buffer.from([0])])),
      /has been changed: its sha256 is/,
    ],
    ['a file that is missing', () => rmSync(join(folder, 'prebuilds/LICENSES.txt')), /LICENSES\.txt is missing/],
    ['a file too many', () => place('prebuilds/linux-x64/more.so', 'x'), /more\.so is not in the manifest/],
    ['another addon', () => place(built, { copy: ours }), /which is loaded, is not in the manifest/],
    [
      'another version',
      () => manifest([prebuilt, 'prebuilds/LICENSES.txt'], '0.0.9'),
      /the manifest is of version 0\.0\.9/,
    ],
    ['no manifest', () => rmSync(join(folder, 'prebuilds/manifest.json')), /manifest\.json is not there/],
  ])('refuses %s', (_, spoil, sentence) => {
    place(prebuilt, { copy: ours });
    place('prebuilds/LICENSES.txt', 'texts');
    manifest([prebuilt, 'prebuilds/LICENSES.txt']);
    expect(doctor(['--verify']).status).toBe(0);
    spoil();
    const { status, text } = doctor(['--verify']);
    expect(text).toMatch(sentence);
    expect(status).toBe(1);
  });
});
