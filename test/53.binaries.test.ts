// What binaries must be to run on every Linux that Node runs on (scripts/elf.mjs): that ours are, and that others are refused.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { compareVersions, inspect, limits, refusals } from '../scripts/elf.mjs';

const root = resolve(__dirname, '..');
const scratch = mkdtempSync(join(tmpdir(), 'node-attention-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** A shared library of this C code. */
function compile(code: string, ...flags: string[]): string {
  return compileTo('made.so', code, flags);
}

function compileTo(name: string, code: string, flags: string[]): string {
  const file = join(scratch, name);
  const args = ['-shared', '-fPIC', '-x', 'c', '-', '-x', 'none', '-o', file, ...flags];
  const { status, stderr } = spawnSync('cc', args, { input: code, encoding: 'utf8' });
  expect(status, stderr).toBe(0);
  return file;
}

const exported = '__attribute__((visibility("default")))';
const entry = `${exported} void *node_attention_backend(void) { return 0; }`;
const quiet = ['-fvisibility=hidden', '-Wl,-z,noexecstack'];
const libraries = ['-Wl,--no-as-needed', '-l:libdl.so.2', '-l:libpthread.so.0', '-l:librt.so.1'];
const good = [...quiet, '-Wl,-z,nodelete', ...libraries];

describe.runIf(process.platform === 'linux')('a binary', () => {
  it('that is as it should be is accepted', () => {
    expect(refusals(compile(entry, ...good), 'cuda')).toEqual([]);
  });

  it('is known by its newest symbols', () => {
    writeFileSync(join(scratch, 'one.map'), 'GLIBC_2.99 { made_up; };');
    const versions = `-Wl,--version-script=${join(scratch, 'one.map')}`;
    const library = compileTo('libmade_up.so', 'int made_up(void) { return 1; }', [versions]);
    const file = compile(`int made_up(void); ${entry} int use(void) { return made_up(); }`, ...good, library);
    expect(inspect(file).needs.GLIBC).toBe('2.99');
    expect(refusals(file, 'cuda')).toEqual([
      `made.so needs GLIBC_2.99, above ${limits.GLIBC}, for made_up: add it to csrc/linux/old_symbols.cc`,
      `made.so needs ${library}, which not every system has`,
    ]);
  });

  it.each<[string, string, string[], RegExp]>([
    ['an executable stack', entry, ['-Wl,-z,execstack'], /asks for an executable stack/],
    ['a search path', entry, ['-Wl,-rpath,/opt/lib'], /looks for libraries in \/opt\/lib/],
    ['an export too many', `${entry} ${exported} int more;`, [], /exports more, node_attention_backend, not/],
    ['no entry', 'int none;', [], /exports nothing, not node_attention_backend/],
    [
      'too many bytes',
      `${entry} __attribute__((used)) static char large[41000000] = {1};`,
      [],
      /has \d+ bytes, more than 40000000/,
    ],
  ])('with %s is refused', (_, code, flags, sentence) => {
    expect(refusals(compile(code, ...good, ...flags), 'cuda')).toEqual([expect.stringMatching(sentence)]);
  });

  it('that may be unloaded, or leaves out where functions were, is refused', () => {
    const sentences = refusals(compile(entry, ...quiet), 'cuda').join('\n');
    expect(sentences).toMatch(/may be unloaded while its threads run/);
    expect(sentences).toMatch(/does not name librt\.so\.1/);
  });

  it.each([
    ['2.9', '2.28', -1],
    ['2.28', '2.28', 0],
    ['3.4.21', '3.4.3', 1],
    ['2.3.4', '2.3', 1],
  ])('version %s compared with %s', (a, b, sign) => {
    expect(Math.sign(compareVersions(a, b))).toBe(sign);
  });
});

const release = join(root, 'build/Release');
const built =
  existsSync(join(root, 'build/CMakeCache.txt')) && readFileSync(join(root, 'build/CMakeCache.txt'), 'utf8');
const unfit = built ? '' : ' (skipped: CMake did not build it)';
const addon = join(release, 'node_attention.node');
const library = join(release, 'libnode_attention_cuda.so');
const unbuilt = existsSync(library) ? '' : ' (skipped: npm run build:cuda has not run)';

describe.runIf(process.platform === 'linux')('ours', () => {
  it.skipIf(unfit)(`the addon${unfit}`, () => {
    expect(refusals(addon, 'addon')).toEqual([]);
  });

  it.skipIf(unbuilt)(`the CUDA library${unbuilt}`, () => {
    expect(refusals(library, 'cuda')).toEqual([]);
  });
});
