// scripts/release.mjs in a repository of its own, whose builds and tests are stand-ins that write down that they were run.

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeEach, expect, it } from 'vitest';

const root = resolve(__dirname, '..');
const scratch = mkdtempSync(join(tmpdir(), 'node-attention-'));
afterAll(() => rmSync(scratch, { recursive: true }));

let repository: string;
let count = 0;

function run(command: string, args: string[], env: NodeJS.ProcessEnv = {}) {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: repository,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  return { status, text: stdout + stderr };
}

const git = (...args: string[]) => run('git', ['-c', 'user.name=x', '-c', 'user.email=x@x', ...args]).text.trim();
const author = { GIT_AUTHOR_NAME: 'x', GIT_AUTHOR_EMAIL: 'x@x', GIT_COMMITTER_NAME: 'x', GIT_COMMITTER_EMAIL: 'x@x' };
const release = (args: string[], env: NodeJS.ProcessEnv = {}) =>
  run(process.execPath, ['scripts/release.mjs', ...args], { ...author, ...env });
const read = (name: string) => readFileSync(join(repository, name), 'utf8');
const steps = () => (existsSync(join(repository, 'log.txt')) ? read('log.txt').trim().split('\n') : []);

/** Writes down its name, makes a manifest, fails when FAIL names it. */
const standIn = `
const { appendFileSync, mkdirSync, writeFileSync } = require('node:fs');
const name = process.argv[2];
appendFileSync('log.txt', name + '\\n');
if (name === 'prebuilds') {
  const commit = require('node:child_process').execSync('git rev-parse HEAD', { encoding: 'utf8' }).trim();
  const build = require('./package.json').version + '+0123456789ab';
  const files = {
    'linux-x64/node-attention.glibc.node': { build },
    'linux-arm64/node-attention.glibc.node': { build },
    'linux-x64/libnode_attention_cuda.so': { build, cuda: { version: '13.0', architectures: ['80', '90a'] } },
  };
  delete files[process.env.OMIT];
  mkdirSync('prebuilds', { recursive: true });
  writeFileSync('prebuilds/manifest.json', JSON.stringify({ commit, files }));
}
process.exit(process.env.FAIL === name ? 1 : 0);`;

beforeEach(() => {
  repository = join(scratch, String(count++));
  for (const folder of ['scripts', 'bin']) mkdirSync(join(repository, folder), { recursive: true });
  for (const name of ['release.mjs', 'nodes.mjs'])
    copyFileSync(join(root, 'scripts', name), join(repository, 'scripts', name));
  const call = (name: string) => `import { spawnSync } from 'node:child_process';
    process.exit(spawnSync(process.execPath, ['stand-in.cjs', '${name}']).status);`;
  const about = { name: 'a-package', version: '0.1.0' };
  const scripts = { prebuilds: 'node stand-in.cjs prebuilds', 'test:pack': 'node stand-in.cjs test:pack' };
  const files: Record<string, string> = {
    'package.json': JSON.stringify({ ...about, type: 'module', repository: 'github:x/x', files: ['bin'], scripts }),
    'package-lock.json': JSON.stringify({ ...about, lockfileVersion: 3, packages: { '': about } }),
    '.gitignore': 'build/\nprebuilds/\nlog.txt\n',
    'stand-in.cjs': standIn,
    'scripts/reproduce.mjs': call('reproduce'),
    'bin/node-attention.js': call('doctor'),
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(repository, name), text);
  git('init', '-q', '-b', 'main');
  git('add', '-A');
  git('commit', '-qm', 'First work');
});

it('bumps, writes the changelog, builds, verifies, packs, and publishes nothing', () => {
  const { status, text } = release(['minor']);
  expect(status, text).toBe(0);
  expect(steps()).toEqual(['prebuilds', 'test:pack', 'reproduce', 'doctor']);
  expect(JSON.parse(read('package.json')).version).toBe('0.2.0');
  expect(JSON.parse(read('package-lock.json')).version).toBe('0.2.0');
  expect(read('CHANGELOG.md')).toMatch(/^# Changelog\n\n## 0\.2\.0 \(\d{4}-\d\d-\d\d\)\n\n- First work\n$/);
  expect(git('log', '-1', '--format=%s')).toBe('Version 0.2.0');
  expect(git('status', '--porcelain')).toBe('');
  expect(existsSync(join(repository, 'build/release/a-package-0.2.0.tgz'))).toBe(true);
  expect(text).toContain('Nothing has been published.');
  expect(text).toContain('npm publish build/release/a-package-0.2.0.tgz');
  expect(text).not.toContain('"repository"');
  expect(git('tag')).toBe('');
});

it('says that links of the page of npm need a repository', () => {
  const { repository: _, ...rest } = JSON.parse(read('package.json'));
  writeFileSync(join(repository, 'package.json'), JSON.stringify(rest));
  git('commit', '-qam', 'Without');
  expect(release(['minor']).text).toContain('package.json has no "repository"');
});

it('lists what came after the last release, above what was there', () => {
  release(['0.2.0-rc.1']);
  git('tag', 'v0.2.0-rc.1');
  writeFileSync(join(repository, 'new.txt'), '');
  git('add', '-A');
  git('commit', '-qm', 'More work');
  expect(release(['0.2.0']).status).toBe(0);
  expect(read('CHANGELOG.md').replace(/\(.*\)/g, '()')).toBe(
    '# Changelog\n\n## 0.2.0 ()\n\n- More work\n\n## 0.2.0-rc.1 ()\n\n- First work\n',
  );
});

it.each([
  ['no version', [], /usage: .*patch\|minor\|major\|X\.Y\.Z/],
  ['what is no version', ['1.2'], /usage/],
  ['changes that are not committed', ['patch'], /changes that are not committed/],
  ['a version that is out', ['patch'], /v0\.1\.1 has been released already/],
])('refuses %s before it changes anything', (name, args, sentence) => {
  if (name.startsWith('changes')) writeFileSync(join(repository, 'bin/more.js'), '');
  git('tag', 'v0.1.1');
  const head = git('rev-parse', 'HEAD');
  if (name.startsWith('changes')) git('tag', '-d', 'v0.1.1');
  const { status, text } = release(args);
  expect(text).toMatch(sentence);
  expect(status).toBe(1);
  expect(git('rev-parse', 'HEAD')).toBe(head);
  expect(steps()).toEqual([]);
});

it.each([
  ['linux-arm64/node-attention.glibc.node', ['prebuilds']],
  ['linux-x64/libnode_attention_cuda.so', ['prebuilds']],
])('does not go on without %s', (OMIT, done) => {
  const { status, text } = release(['patch'], { OMIT });
  expect(text).toContain(`prebuilds/${OMIT} was not built`);
  expect(status).toBe(1);
  expect(steps()).toEqual(done);
});

it.each(['prebuilds', 'test:pack', 'reproduce', 'doctor'])('packs nothing when %s fails', (FAIL) => {
  const { status, text } = release(['patch'], { FAIL });
  expect(status).toBe(1);
  expect(text).toContain('git reset --hard HEAD~1');
  expect(steps().at(-1)).toBe(FAIL);
  expect(existsSync(join(repository, 'build/release'))).toBe(false);
});
