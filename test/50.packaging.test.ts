// What users get: the package from import and require, the addon's binary, the set-up of a checkout, the program.

import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = resolve(__dirname, '..');
const addon = join(root, 'build/Release/node_attention.node');
const scratch = mkdtempSync(join(tmpdir(), 'node-attention-'));
afterAll(() => rmSync(scratch, { recursive: true }));

function run(command: string, args: string[], cwd = root, env: NodeJS.ProcessEnv = {}): SpawnSyncReturns<string> {
  return spawnSync(command, args, { cwd, env: { ...process.env, ...env }, encoding: 'utf8' });
}

/** The output of a program that must succeed. */
function output(...args: Parameters<typeof run>): string {
  const { status, stdout, stderr, error } = run(...args);
  expect(status, stderr || String(error)).toBe(0);
  return stdout;
}

describe('the packed package', () => {
  const consumer = join(scratch, 'consumer');
  const installed = join(consumer, 'node_modules/node-attention');
  let files: string[];

  // Installed as npm would, but from local folders; the binary is the one of this checkout.
  beforeAll(() => {
    mkdirSync(installed, { recursive: true });
    const [pack] = JSON.parse(output('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', scratch]));
    files = pack.files.map((file: { path: string }) => file.path);
    output('tar', ['xf', join(scratch, pack.filename), '-C', installed, '--strip-components=1']);
    for (const name of ['node-gyp-build', 'commander', '@types', 'typescript', 'undici-types']) {
      symlinkSync(join(root, 'node_modules', name), join(consumer, 'node_modules', name));
    }
  });

  const program = `
    const t = attention(Tensor.from(new Float32Array([1]), [1, 1, 1, 1]), Tensor.from(new Float32Array([2]), [1, 1, 1, 1]),
      Tensor.from(new Float32Array([3]), [1, 1, 1, 1]));
    t.out.read().then((values) => console.log(values[0]));`;
  const env = { NODE_ATTENTION_PREBUILD: root };

  it.each([
    ['import', 'module', `import { attention, Tensor } from 'node-attention';`],
    ['require', 'commonjs', `const { attention, Tensor } = require('node-attention');`],
  ])('works from %s', (_, type, load) => {
    expect(output(process.execPath, [`--input-type=${type}`, '-e', load + program], consumer, env)).toBe('3\n');
  });

  it.each([
    ['import', 'mts', `import { Tensor, type DType } from 'node-attention';`],
    [
      'require',
      'cts',
      `import attention = require('node-attention');\nimport Tensor = attention.Tensor;\ntype DType = attention.DType;`,
    ],
  ])('has types from %s', (_, extension, load) => {
    const check = (use: string) => {
      writeFileSync(
        join(consumer, `use.${extension}`),
        `${load}\nconst t: Tensor<DType> = Tensor.zeros([1]);\n${use}\n`,
      );
      const flags = [
        '--noEmit',
        '--strict',
        '--module',
        'node16',
        '--target',
        'es2022',
        '--lib',
        'es2022,esnext.disposable',
      ];
      return run(
        process.execPath,
        [join(root, 'node_modules/typescript/bin/tsc'), ...flags, `use.${extension}`],
        consumer,
      );
    };
    expect(check('t.shape satisfies readonly number[];').stdout).toBe('');
    expect(check('t.shape satisfies string;').stdout).toContain(`use.${extension}(`);
  });

  it('holds what is needed to run and to build it, and nothing else', () => {
    const folders = new Set(files.map((file) => file.split('/')[0]));
    folders.delete('prebuilds'); // test/pack looks at what npm run prebuilds has made
    folders.delete('CHANGELOG.md'); // npm run release writes it
    expect([...folders].sort()).toEqual(
      [
        'CMakeLists.txt',
        'CONTRIBUTING.md',
        'LICENSE',
        'README.md',
        'bin',
        'cmake',
        'csrc',
        'dist',
        'docs',
        'examples',
        'kernels',
        'package.json',
        'scripts',
        'sources.json',
        'test',
      ].sort(),
    );
    expect(files.filter((file) => file.startsWith('test/'))).toEqual(['test/ptx/README.md']);
    expect(files).toContain('dist/index.d.ts');
    expect(files).toContain('csrc/core/backend.h');
    expect(files.filter((file) => file.startsWith('scripts/')).sort()).toEqual([
      'scripts/cuda.mjs',
      'scripts/nvcc.mjs',
      'scripts/ptxas.mjs',
    ]);
  });

  it('has the files that its pages link to', () => {
    const links = files
      .filter((file) => file.endsWith('.md'))
      .flatMap((page) =>
        [...readFileSync(join(installed, page), 'utf8').matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, target]) =>
          join(dirname(page), target!),
        ),
      );
    expect(links).toContain('docs/installation.md');
    expect(links.filter((target) => !files.includes(target))).toEqual([]);
  });

  it('can build the CUDA backend where there is nvcc, and says so', () => {
    const { cuda } = JSON.parse(readFileSync(join(installed, 'sources.json'), 'utf8'));
    const sources: string[] = [...cuda.host, ...cuda.kernels, ...cuda.hopper];
    expect(sources.filter((source) => !existsSync(join(installed, source)))).toEqual([]);
    const { status, stderr } = run('npm', ['run', '-s', 'build:cuda'], installed, { CUDACXX: '/no/nvcc' });
    expect(stderr).toMatch(/^the CUDA backend cannot be built: nvcc is missing: install CUDA 12\.8 .*CUDACXX.*\n$/);
    expect(status).toBe(3);
  });

  it('runs nothing when it is installed', () => {
    const { gypfile, scripts } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8'));
    expect(gypfile).toBe(false);
    expect(Object.keys(scripts).filter((name) => /install|^prepare$/.test(name))).toEqual([]);
  });
});

describe('a package without what it promises', () => {
  const checkout = join(scratch, 'checkout');
  const place = (...names: string[]) => {
    for (const name of names) {
      mkdirSync(dirname(join(checkout, name)), { recursive: true });
      writeFileSync(join(checkout, name), '');
    }
  };
  const pack = (...args: string[]) => run('npm', [...args, '--dry-run'], checkout);

  beforeAll(() => {
    for (const name of ['package.json', '.npmrc', 'scripts/prepack.mjs']) {
      mkdirSync(dirname(join(checkout, name)), { recursive: true });
      copyFileSync(join(root, name), join(checkout, name));
    }
  });

  // .npmrc has npm run no scripts, those of dependencies; publishing is told otherwise, packing has to be.
  it.each([
    ['published', ['publish']],
    ['packed', ['pack', '--ignore-scripts=false']],
  ])('is not %s', (_, command) => {
    rmSync(join(checkout, 'prebuilds'), { recursive: true, force: true });
    const { status, stderr } = pack(...command);
    expect(stderr).toContain(
      'the package would lack dist/index.js, prebuilds/manifest.json, prebuilds/LICENSES.txt, ' +
        'prebuilds/linux-x64/node-attention.glibc.node: make them with npm run prebuilds\n',
    );
    expect(status).not.toBe(0);
    place('dist/index.js', 'prebuilds/manifest.json', 'prebuilds/LICENSES.txt');
    expect(pack(...command).stderr).toContain('would lack prebuilds/linux-x64/node-attention.glibc.node: make them');
    rmSync(join(checkout, 'dist'), { recursive: true });
  });

  it('is packed with it', () => {
    place('dist/index.js', 'prebuilds/manifest.json', 'prebuilds/LICENSES.txt');
    place('prebuilds/linux-x64/node-attention.glibc.node');
    const { status, stderr } = pack('pack', '--ignore-scripts=false');
    expect(stderr).toContain('prebuilds/linux-x64/node-attention.glibc.node');
    expect(status).toBe(0);
  });
});

describe.runIf(process.platform === 'linux')('the addon', () => {
  it('exports nothing but its registration', () => {
    const symbols = output('nm', ['-D', '--defined-only', addon]).trim().split('\n');
    expect(symbols.map((line) => line.split(' ').at(-1)).sort()).toEqual([
      'napi_register_module_v1',
      'node_api_module_get_api_version_v1',
    ]);
  });

  it('asks for no executable stack and is never unloaded', () => {
    expect(output('readelf', ['-lW', addon])).toMatch(/GNU_STACK.* RW +0x/);
    expect(output('readelf', ['-dW', addon])).toMatch(/FLAGS_1.*NODELETE/);
  });

  // The linker keeps one copy of an inline function for all files: were it the one compiled for AVX-512, then a CPU
  // without AVX-512 would run it.
  it('shares no function between instruction sets', () => {
    const sets = JSON.parse(readFileSync(join(root, 'sources.json'), 'utf8')).cpu_isa;
    const objects = readdirSync(join(root, 'build'), { recursive: true, encoding: 'utf8' }).filter((path) =>
      Object.values<{ sources: string[] }>(sets).some((set) =>
        set.sources.some((source) => path.endsWith(`${source}.o`) || path.endsWith(source.replace(/cc$/, 'o'))),
      ),
    );
    expect(objects.length).toBeGreaterThanOrEqual(process.arch === 'x64' ? 5 : 1);
    for (const object of objects) {
      const weak = output('nm', ['-C', '--defined-only', join(root, 'build', object)])
        .split('\n')
        .filter((line) => /^\S+ [VWu] /.test(line));
      expect(weak, object).toEqual([]);
    }
  });
});

const backend = join(root, 'build/Release/libnode_attention_cuda.so');
const unbuilt = existsSync(backend) ? '' : ' (skipped: npm run build:cuda has not run)';

describe.skipIf(unbuilt)(`libnode_attention_cuda.so${unbuilt}`, () => {
  it('needs nothing that a machine without the toolkit lacks', () => {
    const needed = [...output('readelf', ['-dW', backend]).matchAll(/\(NEEDED\).*\[(.*)\]/g)].map(([, name]) => name);
    const everywhere = /^(lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)\.so\.\d+|ld-linux.*)$/;
    expect(needed.filter((name) => !everywhere.test(name!))).toEqual([]);
    expect(output('readelf', ['-dW', backend])).not.toMatch(/\((RPATH|RUNPATH|TEXTREL)\)/);
  });

  it('exports its entry alone, asks for no executable stack and is never unloaded', () => {
    const symbols = output('nm', ['-D', '--defined-only', backend]).trim().split('\n');
    expect(symbols.map((line) => line.split(' ').at(-1))).toEqual(['node_attention_backend']);
    expect(output('readelf', ['-lW', backend])).toMatch(/GNU_STACK.* RW +0x/);
    expect(output('readelf', ['-dW', backend])).toMatch(/FLAGS_1.*NODELETE/);
  });
});

describe('loading the addon', () => {
  it('reports what the dynamic linker says of a damaged file', () => {
    const folder = join(scratch, 'damaged');
    mkdirSync(join(folder, 'build/Release'), { recursive: true });
    writeFileSync(
      join(folder, 'build/Release/node_attention.node'),
      'no ELF file, but long enough to be read as one '.repeat(9),
    );
    const script = `try { require('node-attention') } catch (e) { console.log(e.name, e.code, e.message, e.cause.code) }`;
    const text = output(process.execPath, ['-e', script], root, { NODE_ATTENTION_PREBUILD: folder });
    expect(text).toContain('AttentionError ERR_BACKEND');
    expect(text).toContain(join(folder, 'build/Release/node_attention.node'));
    expect(text).toMatch(process.platform === 'linux' ? /invalid ELF header/ : /ERR_DLOPEN_FAILED/);

    const doctor = run(process.execPath, ['dist/cli.js', 'doctor'], root, { NODE_ATTENTION_PREBUILD: folder });
    expect(doctor.stdout).toContain('load-failed');
    expect(doctor.status).toBe(1);
  });
});

describe('doctor', () => {
  const doctor = (env: NodeJS.ProcessEnv) => run(process.execPath, ['dist/cli.js', 'doctor'], root, env);

  it('prints the processor, the instruction set and the threads', () => {
    const { stdout, status } = doctor({ NODE_ATTENTION_CPU: 'generic', NODE_ATTENTION_THREADS: '1' });
    expect(stdout).toMatch(/^cpu +ok: ./m);
    expect(stdout).toMatch(/instruction set generic, 1 thread/);
    expect(status).toBe(0);
  });

  it.each([{ NODE_ATTENTION_CPU: 'mmx' }, { NODE_ATTENTION_THREADS: '-3' }])('refuses %o', (env) => {
    const { stdout, status } = doctor(env);
    expect(stdout).toContain(Object.keys(env)[0]);
    expect(stdout).toContain(Object.values(env)[0]);
    expect(status).toBe(1);
  });
});

/** A copy of this checkout, without what is built. */
function copyTo(folder: string): void {
  for (const path of output('git', ['ls-files', '-co', '--exclude-standard', '-z']).split('\0').filter(Boolean)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    copyFileSync(join(root, path), join(folder, path));
  }
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
}

describe.runIf(process.platform === 'linux')('build:cuda', () => {
  const copy = join(scratch, 'cuda');
  beforeAll(() => copyTo(copy));
  const cuda = (args: string[], env: NodeJS.ProcessEnv = {}) => {
    const { status, stdout, stderr } = run(process.execPath, ['scripts/cuda.mjs', ...args], copy, env);
    return { status, text: stdout + stderr };
  };
  const nvcc = run('nvcc', ['--version']).status === 0;

  it('explains itself', () => {
    expect(cuda(['--help'])).toEqual({ status: 0, text: expect.stringMatching(/--arch.*CUTLASS_DIR.*Exit status/s) });
  });

  it.each([
    ['--arch', '70', /--arch 70 is none of 80, 89/],
    ['--jobs', 'all', /--jobs all/],
    ['--fast', '1', /--fast/],
  ])('refuses %s %s', (option, value, sentence) => {
    expect(cuda([option, value])).toEqual({ status: 2, text: expect.stringMatching(sentence) });
  });

  it.each<[string, NodeJS.ProcessEnv, RegExp]>([
    ['nvcc', { CUDACXX: '/no/nvcc' }, /nvcc is missing: install CUDA 12\.8 or newer/],
    ['CMake', { PATH: '/no' }, /CMake is missing: install it/],
  ])('says in one line that %s is missing, and the package is built without', (_, env, sentence) => {
    const built = cuda([], env);
    expect(built).toEqual({ status: 3, text: expect.stringMatching(sentence) });
    expect(built.text).toMatch(/^the CUDA backend cannot be built: .*\n$/);
    const checked = cuda(['--check'], env);
    expect(checked).toEqual({ status: 0, text: expect.stringMatching(sentence) });
    expect(checked.text).toMatch(/^built for the CPU alone: .*\n$/);
  });

  it('refuses an nvcc that is too old', () => {
    const old = join(scratch, 'nvcc');
    writeFileSync(old, '#!/bin/sh\necho Cuda compilation tools, release 12.4, V12.4.131\n', { mode: 0o755 });
    expect(cuda([], { CUDACXX: old })).toEqual({
      status: 3,
      text: expect.stringMatching(/nvcc is version 12\.4: install CUDA 12\.8/),
    });
  });

  it.runIf(nvcc)('refuses a CUTLASS_DIR that holds none', () => {
    expect(cuda([], { CUTLASS_DIR: '/no/cutlass' })).toEqual({
      status: 3,
      text: expect.stringMatching(/CUTLASS_DIR=\/no\/cutlass holds no CUTLASS 4\.2 or newer: .*pip install/),
    });
  });

  it.runIf(nvcc)('takes the headers from CUTLASS_DIR', () => {
    const folder = join(scratch, 'cutlass');
    mkdirSync(join(folder, 'include/cute/arch'), { recursive: true });
    mkdirSync(join(folder, 'include/cutlass'));
    const version = (minor: number) => {
      const text = `#define CUTLASS_MAJOR 4\n#define CUTLASS_MINOR ${minor}\n`;
      writeFileSync(join(folder, 'include/cutlass/version.h'), text);
      run('cmake', ['-S', 'csrc/cuda', '-B', join(scratch, 'cmake')], copy, { CUTLASS_DIR: folder });
      return JSON.parse(readFileSync(join(scratch, 'cmake/found.json'), 'utf8'));
    };
    expect(version(2)).toMatchObject({ missing: '', cutlass: join(folder, 'include') });
    expect(version(1).missing).toMatch(/holds no CUTLASS 4\.2/);
  });
});

describe('setup', () => {
  const copy = join(scratch, 'copy');
  const tools = join(scratch, 'tools');

  beforeAll(() => {
    copyTo(copy);
    mkdirSync(tools);
    symlinkSync(process.execPath, join(tools, 'node'));
  });

  /** Runs it where only `commands` can be found. */
  function setup(...commands: string[]): SpawnSyncReturns<string> {
    const folder = mkdtempSync(join(scratch, 'path-'));
    for (const command of commands) {
      const from = process.env.PATH!.split(delimiter).find((path) => existsSync(join(path, command)))!;
      symlinkSync(join(from, command), join(folder, command));
    }
    return run(process.execPath, ['scripts/setup.mjs'], copy, { PATH: folder, npm_execpath: '' });
  }

  const lines = (text: string) => text.split('\n').filter(Boolean);

  it.each([
    ['a C++ compiler', [], /C\+\+17 compiler is missing; install .*Debian: g\+\+; Fedora: gcc-c\+\+; macOS: /],
    ['CMake', ['c++', 'as', 'make'], /CMake .* is missing; install .*Debian, Fedora: cmake; macOS: /],
    ['make', ['c++', 'as', 'cmake'], /make is missing; install .*Debian, Fedora: make; macOS: /],
  ])('says in one sentence that %s is missing', (_, commands, sentence) => {
    const { status, stdout, stderr } = setup(...commands);
    expect(status).toBe(1);
    expect(lines(stdout + stderr)).toEqual([expect.stringMatching(sentence)]);
  });

  it('says in one sentence that npm is missing', () => {
    rmSync(join(copy, 'node_modules'));
    const { status, stderr } = setup('c++');
    symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
    expect(status).toBe(1);
    expect(lines(stderr)).toEqual([expect.stringMatching(/npm is missing; install .*Debian: npm; Fedora: nodejs-npm/)]);
  });

  it('does nothing when all is up to date, and only what has changed otherwise', () => {
    for (const folder of ['build/Release', 'dist']) cpSync(join(root, folder), join(copy, folder), { recursive: true });
    copyFileSync(join(root, 'build/setup.json'), join(copy, 'build/setup.json'));
    const built = () => statSync(join(copy, 'dist/index.js')).mtimeMs;
    const before = built();
    expect(setup()).toMatchObject({ status: 0, stdout: '', stderr: '' });
    expect(built()).toBe(before);

    appendFileSync(join(copy, 'lib/index.ts'), '// changed\n');
    expect(setup().stdout).toMatch(/^compiling TypeScript \.\.\. [\d.]+ s\n$/);
    expect(built()).toBeGreaterThan(before);
    expect(setup()).toMatchObject({ status: 0, stdout: '', stderr: '' });

    appendFileSync(join(copy, 'csrc/core/status.cc'), '// changed\n');
    expect(setup()).toMatchObject({ status: 1, stderr: expect.stringContaining('C++17 compiler') });
  });
});
