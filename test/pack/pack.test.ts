// The tarball of npm pack, installed by npm into empty projects where nothing can be built: no install scripts, and
// nothing but node on the PATH. On every line of Node that is supported.

import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { node, npmProgram, versions } from '../../scripts/nodes.mjs';

const root = resolve(__dirname, '../..');
const scratch = mkdtempSync(join(tmpdir(), 'node-attention-pack-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const tarball = join(scratch, 'node-attention.tgz');
const built = join(scratch, 'built'); // what TypeScript and esbuild make of the sources of a project
let files: string[];

/** A program, with nothing on the PATH but what is in the folder. */
function run(path: string, command: string, args: string[], cwd: string, env: NodeJS.ProcessEnv = {}) {
  const { NODE_ATTENTION_PREBUILD: _, NODE_OPTIONS: __, ...rest } = process.env;
  return spawnSync(command, args, { cwd, env: { ...rest, PATH: path, ...env }, encoding: 'utf8' });
}

/** Its output; it must succeed. */
function output({ status, stdout, stderr, error }: SpawnSyncReturns<string>): string {
  expect(status, `${stdout}${stderr}${error ?? ''}`).toBe(0);
  return stdout;
}

/** An empty project with the tarball installed, and how to run a Node of this line in it. */
class Project {
  readonly folder: string;
  readonly #node: string;
  readonly #path: string;
  readonly installation: SpawnSyncReturns<string>;

  constructor(line: number, name = `project-${line}`) {
    this.folder = join(scratch, name);
    this.#node = node(line);
    this.#path = join(this.folder, 'bin');
    mkdirSync(this.#path, { recursive: true });
    symlinkSync(this.#node, join(this.#path, 'node'));
    writeFileSync(join(this.folder, 'package.json'), '{ "private": true }');
    const install = ['install', '--ignore-scripts', '--prefer-offline', '--no-audit', tarball];
    this.installation = this.node([npmProgram(), ...install]);
    cpSync(join(__dirname, 'project'), this.folder, { recursive: true });
  }

  get installed(): string {
    return join(this.folder, 'node_modules/node-attention');
  }

  node(args: string[], env?: NodeJS.ProcessEnv): SpawnSyncReturns<string> {
    return run(this.#path, this.#node, args, this.folder, env);
  }
}

const tool = (name: string, args: string[], cwd: string) =>
  output(run(process.env.PATH!, process.execPath, [join(root, 'node_modules', name), ...args], cwd));

beforeAll(() => {
  const [pack] = JSON.parse(
    output(
      run(process.env.PATH!, process.execPath, [npmProgram(), 'pack', '--json', '--pack-destination', scratch], root),
    ),
  );
  files = pack.files.map((file: { path: string }) => file.path);
  renameSync(join(scratch, pack.filename), tarball);
  console.log(`the package: ${(pack.size / 1e6).toFixed(1)} MB, unpacked ${(pack.unpackedSize / 1e6).toFixed(1)} MB`);
});

describe('the tarball', () => {
  it('contains the binaries, their licences and their manifest', () => {
    expect(files.filter((name) => name.startsWith('prebuilds/')).sort()).toEqual(
      readdirSync(join(root, 'prebuilds'), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
        .sort(),
    );
    expect(files).toContain('prebuilds/linux-x64/node-attention.glibc.node');
    expect(files).toContain('prebuilds/LICENSES.txt');
    expect(files).toContain('prebuilds/manifest.json');
  });

  it('gives no package manager a reason to build', () => {
    expect(files).not.toContain('binding.gyp');
    expect(files.filter((name) => /(^|\/)(build|node_modules)\//.test(name))).toEqual([]);
  });
});

describe.each(Object.keys(versions).map(Number))('on Node %i', (line) => {
  let project: Project;
  beforeAll(() => {
    project = new Project(line);
  });

  it('is installed by npm with nothing but node on the PATH', () => {
    output(project.installation);
    expect(output(project.node(['-p', 'process.version']))).toBe(`v${versions[line]}\n`);
    expect(existsSync(join(project.installed, 'build'))).toBe(false);
    for (const command of ['cc', 'c++', 'gcc', 'cmake', 'make', 'python3', 'sh']) {
      expect(
        project.node(['-e', `process.exit(require('child_process').spawnSync('${command}').error ? 0 : 1)`]).status,
      ).toBe(0);
    }
  });

  it.each(['import.mjs', 'require.cjs', 'worker.mjs', 'fork.cjs'])('runs an attention from %s', (program) => {
    expect(output(project.node([program]))).toBe('true\n');
  });

  it.each(['bundler', 'nodenext'])('runs what TypeScript makes with the module resolution %s', (resolution) => {
    const made = join(built, `${resolution}.mjs`);
    if (!existsSync(made)) {
      symlinkSync(join(root, 'node_modules/@types'), join(project.folder, 'node_modules/@types'));
      const modules = resolution === 'bundler' ? ['--module', 'esnext'] : ['--module', 'nodenext'];
      const flags = [
        '--strict',
        '--target',
        'es2022',
        '--lib',
        'es2022,esnext.disposable',
        '--types',
        'node',
        ...modules,
      ];
      tool(
        'typescript/bin/tsc',
        [...flags, '--moduleResolution', resolution, '--outDir', built, 'typed.mts'],
        project.folder,
      );
      renameSync(join(built, 'typed.mjs'), made);
      rmSync(join(project.folder, 'node_modules/@types'));
    }
    copyFileSync(made, join(project.folder, 'typed.mjs'));
    expect(output(project.node(['typed.mjs']))).toBe('true\n');
  });

  // The recipes of docs/bundlers.md.
  it.each([
    ['the package external', ['--external:node-attention'], {}],
    [
      'the addon external',
      ['node_modules/node-attention/dist/*-worker.js'],
      { NODE_ATTENTION_PREBUILD: 'node_modules/node-attention' },
    ],
  ])('runs what esbuild makes with %s', (name, more, env) => {
    const made = join(built, name.replaceAll(' ', '-'));
    if (!existsSync(made)) {
      const bundle = ['--bundle', '--platform=node', '--target=node20', '--log-level=warning'];
      const places = ['--entry-names=[name]', `--outdir=${made}`];
      tool('esbuild/bin/esbuild', ['require.cjs', ...bundle, ...places, ...more], project.folder);
    }
    cpSync(made, join(project.folder, 'bundle'), { recursive: true });
    expect(output(project.node(['bundle/require.js'], env))).toBe('true\n');
    rmSync(join(project.folder, 'bundle'), { recursive: true });
  });

  it('verifies itself', () => {
    const text = output(project.node(['node_modules/node-attention/bin/node-attention.js', 'doctor', '--verify']));
    expect(text).toContain(join(project.installed, 'prebuilds/linux-x64/node-attention.glibc.node is taken'));
    expect(text).toMatch(/^verify +ok: /m);
    expect(text).not.toContain('WRONG');
  });

  it('reports what is left in build/ and shadows the prebuilt addon', () => {
    const stale = join(project.installed, 'build/Release/addon.node');
    mkdirSync(join(stale, '..'), { recursive: true });
    writeFileSync(stale, 'of another time');
    const { status, stderr } = project.node(['require.cjs']);
    expect(stderr).toContain(`${stale}: file too short`);
    expect(stderr).toContain(`delete ${join(project.installed, 'build')}`);
    expect(status).toBe(1);
    rmSync(join(project.installed, 'build'), { recursive: true });
    expect(output(project.node(['require.cjs']))).toBe('true\n');
  });
});

const qemu = 'qemu-aarch64-static';
const arm64 = existsSync(join(root, 'prebuilds/linux-arm64'))
  ? run(process.env.PATH!, qemu, ['--version'], root).error && ` (skipped: ${qemu} is missing)`
  : ' (skipped: its addon was not built)';

describe.skipIf(arm64)(`on linux-arm64, emulated${arm64 ?? ''}`, () => {
  it('runs an attention', () => {
    const project = join(scratch, 'project-22');
    const program = [...['-L', '/usr/aarch64-linux-gnu'], node(22, 'arm64'), 'require.cjs'];
    expect(output(run(process.env.PATH!, qemu, program, project))).toBe('true\n');
  });
});

describe('without a prebuilt addon', () => {
  let project: Project;
  beforeAll(() => {
    project = new Project(24, 'bare');
    rmSync(join(project.installed, 'prebuilds'), { recursive: true });
  });

  it('says what is missing', () => {
    const { status, stderr } = project.node(['require.cjs']);
    expect(stderr).toMatch(/No native build was found for platform=linux arch=x64 .*libc=glibc/);
    expect(status).toBe(1);
  });

  it('is built by cmake-js out of the installed package', { timeout: 600_000 }, () => {
    tool('cmake-js/bin/cmake-js', ['compile', '--parallel', '2'], project.installed);
    expect(output(project.node(['require.cjs']))).toBe('true\n');
  });
});
