// scripts/gpu-verify where there is no GPU: what is carried, its parts, the runner that stands in for vitest, the replay of PTX tests on the
// functions of a driver, and its arguments.

import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { bundleProgram, bundleTest, root, testFiles } from './gpu/bundle';
import { checkoutBytes, compress, sizeOf, weigh } from './gpu/carry';
import { BUDGET_S, jobsOf } from './gpu/jobs';
import type { TestResult } from './gpu/runner';

const folder = mkdtempSync(join(tmpdir(), 'node-attention-verify-'));
symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
afterAll(() => rmSync(folder, { recursive: true }));

function runBundle(bundle: string, env: NodeJS.ProcessEnv = {}): (TestResult & { end?: boolean })[] {
  const report = `${bundle}.jsonl`;
  execFileSync(process.execPath, [bundle], { env: { ...process.env, ...env, NODE_ATTENTION_TEST_REPORT: report } });
  const lines = readFileSync(report, 'utf8').trim().split('\n');
  return lines.map((line) => JSON.parse(line)).filter(({ begins }) => begins === undefined);
}

describe('jobs', () => {
  const files = testFiles();
  const jobs = jobsOf(files);

  it('each fit into a call', () => {
    expect(new Set(jobs.map(({ name }) => name)).size).toBe(jobs.length);
    for (const { limitS } of jobs) expect(limitS).toBeLessThanOrEqual(BUDGET_S);
    expect(BUDGET_S).toBeLessThan(480);
  });

  it('are about the tests of the backend, and not about those of the interpreter', () => {
    expect(files).toContain('gpu/05.kernels.test.ts');
    expect(files).toContain('ptx/46.wgmma.test.ts');
    for (const name of ['05.parser', '28.schedule', '50.runtime', '70.gates']) {
      expect(files.join()).not.toContain(name);
    }
    expect(new Set(jobs.map(({ sanitizer }) => sanitizer))).toEqual(
      new Set([undefined, 'memcheck', 'racecheck', 'synccheck', 'initcheck']),
    );
  });
});

describe('the runner', () => {
  it('runs tests as vitest does, and reports each', async () => {
    const bundle = join(folder, 'sample.cjs');
    await bundleTest('sample.ts', bundle, join(root, 'test/fixtures'));
    const results = runBundle(bundle);
    expect(results.map(({ name, state }) => [name, state])).toEqual([
      ['a group > passes', 'passed'],
      ['a group > fails', 'failed'],
      ['a group > one is 1', 'passed'],
      ['a group > two is 2', 'passed'],
      ['a group > is left out', 'skipped'],
      ['a skipped group > is not run', 'skipped'],
      ['named x > throws and rejects', 'passed'],
      ['a group that cannot begin (before all)', 'failed'],
      ['a group that cannot begin > is skipped', 'skipped'],
      [undefined, undefined],
    ]);
    expect(results[1]!.message).toMatch(/expected \[ 1, 2 \] to deeply equal \[ 1, 3 \]/);
    expect(results.at(-1)!.end).toBe(true);

    const listed = execFileSync(process.execPath, [bundle, '--list'], { encoding: 'utf8' }).trim().split('\n');
    expect(listed.map((line) => JSON.parse(line)).filter(({ skipped }) => !skipped).length).toBe(6);
  });
});

const interpreter = join(root, 'build/ptx/libptx_interpreter.so');

describe.skipIf(!existsSync(interpreter))('the replay of PTX tests', () => {
  it('gives the results of the interpreter, through the functions of a driver', async () => {
    const build = join(root, 'build/ptx');
    const source = join(root, 'test/fixtures/replay_driver.c');
    const flags = ['-shared', '-fPIC', '-Wall', `-I${root}/test/ptx/interpreter`, `-L${build}`, `-Wl,-rpath,${build}`];
    execFileSync('cc', [...flags, source, '-lptx_interpreter', '-o', join(folder, 'libcuda.so.1')]);
    for (const file of ['ptx/26.atomic.test.ts', 'ptx/44.tensor-copy.test.ts']) {
      const bundle = join(folder, 'replay.cjs');
      await bundleTest(file, bundle);
      rmSync(`${bundle}.jsonl`, { force: true });
      const results = runBundle(bundle, { LD_LIBRARY_PATH: folder });
      expect(results.filter(({ state }) => state === 'failed')).toEqual([]);
      expect(results.filter(({ state }) => state === 'passed').length).toBeGreaterThan(20);
      for (const { state, message = '' } of results)
        if (state === 'skipped') expect(message).toMatch(/^(|it is about a .*)$/);
    }
  });
});

describe('what is carried', () => {
  it('is weighed together with the files of the checkout that git does not ignore', () => {
    const checkout = join(folder, 'checkout');
    const git = (...args: string[]) => execFileSync('git', args, { cwd: checkout });
    mkdirSync(join(checkout, 'build/gpu'), { recursive: true });
    git('init', '-q');
    const sizes = { tracked: 1000, deleted: 77, untracked: 200, ignored: 5000, 'build/gpu/a': 30_000 };
    for (const [name, bytes] of Object.entries(sizes)) writeFileSync(join(checkout, name), Buffer.alloc(bytes));
    writeFileSync(join(checkout, '.gitignore'), 'ignored\nbuild/\n');
    git('add', 'tracked', 'deleted', '.gitignore');
    rmSync(join(checkout, 'deleted'));
    const [tree, carried] = [checkoutBytes(checkout), sizeOf(join(checkout, 'build/gpu'))];
    expect([tree, carried]).toEqual([1000 + 200 + 15, 30_000]);
    expect(weigh(tree, carried, tree + carried)).toMatch(/MiB$/);
    expect(() => weigh(tree, carried, tree + carried - 1)).toThrow(/more than .* --arch 90,90a packs/);
  });

  it('names architectures that the build knows', () => {
    let message = '';
    try {
      weigh(1, 1, 0);
    } catch (error) {
      message = (error as Error).message;
    }
    const [, arch] = /--arch (\S+)/.exec(message)!;
    const args = [join(root, 'scripts/cuda.mjs'), '--arch', arch!, '--help'];
    expect(spawnSync(process.execPath, args, { encoding: 'utf8' })).toMatchObject({ status: 0, stderr: '' });
  });

  it('is refused when it could not be made whole', () => {
    expect(() => compress('printf a; false', folder, join(folder, 'half.xz'))).toThrow(/ended with status 1/);
  });

  it('is one archive, which a bare machine unpacks once, with a Node of its own', () => {
    const bare = join(folder, 'bare');
    for (const name of ['scripts', 'build/gpu', 'bin', 'tmp']) mkdirSync(join(bare, name), { recursive: true });
    for (const name of ['gpu-node', 'gpu-verify'])
      copyFileSync(join(root, 'scripts', name), join(bare, 'scripts', name));
    for (const name of ['bash', 'cat', 'chmod', 'cksum', 'dirname', 'mkdir', 'mv', 'rm', 'tar', 'xz'])
      symlinkSync(execFileSync('which', [name], { encoding: 'utf8' }).trim(), join(bare, 'bin', name));
    const run = () =>
      spawnSync(join(bare, 'scripts/gpu-verify'), ['--list'], {
        encoding: 'utf8',
        env: { PATH: join(bare, 'bin'), TMPDIR: join(bare, 'tmp') },
      });
    expect(run()).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/^build\/gpu is missing: run scripts\/gpu-pack/),
    });

    const made = join(bare, 'made');
    mkdirSync(made);
    const packed = (text: string) => {
      writeFileSync(join(made, 'verify.cjs'), text);
      compress('tar -cf - .', made, join(bare, 'build/gpu/pack.tar.xz'));
    };
    writeFileSync(join(made, 'node'), '#!/bin/bash\ntext=$(cat "$1")\nshift\necho "$text" "$@"');
    compress('cat node', made, join(bare, 'build/gpu/node.xz'));
    rmSync(join(made, 'node'));
    packed('the first');
    expect(run()).toMatchObject({ status: 0, stdout: 'the first --list\n' });
    writeFileSync(join(bare, 'build/gpu-pack/left'), 'what a run leaves there');
    expect(run().status).toBe(0);
    expect(readdirSync(join(bare, 'build/gpu-pack')).sort()).toEqual(['left', 'unpacked', 'verify.cjs']);
    packed('another');
    expect(run().stdout).toBe('another --list\n');
    expect(readdirSync(join(bare, 'build/gpu-pack')).sort()).toEqual(['unpacked', 'verify.cjs']);
  });
});

describe('scripts/gpu-pack', () => {
  const packing = (...args: string[]) =>
    spawnSync(
      process.execPath,
      [join(root, 'node_modules/tsx/dist/cli.mjs'), join(root, 'test/gpu/pack.ts'), ...args],
      {
        encoding: 'utf8',
      },
    );

  it('refuses arguments that it does not know', () => {
    expect(packing('--without', 'cublas')).toMatchObject({
      status: 1,
      stderr: "gpu-pack: --without: 'cublas' is none of cudnn, cutlass\n",
    });
    expect(packing('--fast')).toMatchObject({ status: 1, stderr: expect.stringContaining('--fast') });
  });
});

describe('scripts/gpu-verify', () => {
  const run = (script: string, ...args: string[]) =>
    spawnSync(join(root, 'scripts', script), args, {
      encoding: 'utf8',
      env: { ...process.env, NODE_ATTENTION_DEVICE: 'cpu' },
    });
  /** As on a machine that has the pack alone: nothing is brought up to date. */
  const verify = (...args: string[]) => run('gpu-node', join(root, 'build/gpu-pack/verify.cjs'), ...args);

  it('lists exactly what would run, without a GPU', () => {
    const { status, stdout } = run('gpu-verify', '--dry-run', '--filter', 'cuda/1');
    expect(status).toBe(0);
    const jobs = jobsOf(testFiles()).map(({ name }) => name);
    const listed = [...stdout.matchAll(/^(\S+) \(at most \d+ s\): /gm)].map(([, name]) => name);
    expect(listed).toEqual(jobs.filter((name) => name.startsWith('cuda/1')));
    expect(stdout).toMatch(/\n\d+ tests would run\n$/);
  });

  it('says that there is no GPU, and ends with its own status', () => {
    const { status, stdout } = verify();
    expect(status).toBe(3);
    expect(stdout).toMatch(/^gpu-verify: nothing to verify: .+\n$/);
  });

  it('loads the library that was packed, not that of a checkout which is not built', () => {
    const bare = join(folder, 'unbuilt');
    const [pack, copied] = [root, bare].map((place) => join(place, 'build/gpu-pack')) as [string, string];
    mkdirSync(copied, { recursive: true });
    copyFileSync(join(root, 'package.json'), join(bare, 'package.json'));
    for (const { name } of readdirSync(pack, { withFileTypes: true }).filter((each) => each.isFile()))
      copyFileSync(join(pack, name), join(copied, name));
    symlinkSync(join(pack, 'node_modules'), join(copied, 'node_modules'));
    const { status, stdout } = run('gpu-node', join(copied, 'verify.cjs'));
    expect([status, stdout]).toEqual([3, expect.stringMatching(/^gpu-verify: nothing to verify: /)]);
  });

  it('refuses arguments that it does not know', () => {
    expect(verify('--filter', 'x/y')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("no job contains 'x/y'"),
    });
    expect(verify('--seconds', 'x')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("'x' is not a number"),
    });
    expect(verify('--fast')).toMatchObject({ status: 2, stderr: expect.stringContaining('--fast') });
  });
});

describe('a run of scripts/gpu-verify', () => {
  const pack = join(folder, 'build/gpu-pack');
  const out = join(folder, 'out');
  const report = join(folder, 'build/gpu-results/verify.json');
  const ran = join(folder, 'ran');
  const program = (body: string) => `
    const fs = require('node:fs');
    const write = (line) => fs.appendFileSync(process.env.NODE_ATTENTION_TEST_REPORT, JSON.stringify(line) + '\\n');
    fs.appendFileSync(${JSON.stringify(ran)}, require('node:path').basename(__filename) + ' ');
    ${body}`;
  const passes = "write({ name: 'a', state: 'passed', ms: 1 }); write({ end: true });";
  const verify = (more: NodeJS.ProcessEnv, ...args: string[]) => {
    writeFileSync(ran, '');
    rmSync(out, { recursive: true, force: true }); // as before each command there
    mkdirSync(out);
    const env = { PATH: `${folder}:${process.env.PATH}`, OUT: out, NODE_ATTENTION_COMMIT: 'a commit', ...more };
    const { status, stdout } = spawnSync(process.execPath, [join(pack, 'verify.cjs'), ...args], {
      encoding: 'utf8',
      env,
    });
    return { status, stdout, ran: readFileSync(ran, 'utf8').trim() };
  };
  const reported = (file = report) =>
    JSON.parse(readFileSync(file, 'utf8')) as { missing: string[]; jobs: { job: string; results: TestResult[] }[] };

  beforeAll(async () => {
    const library = join(pack, 'node_modules/node-attention');
    mkdirSync(library, { recursive: true });
    writeFileSync(
      join(library, 'index.js'),
      "exports.devices = () => [{ backend: 'cuda', usable: true, device: 'cuda:0', name: 'a GPU' }];",
    );
    vi.stubEnv('NODE_ATTENTION_COMMIT', 'a commit'); // which the bundle is of
    await bundleProgram('test/gpu/verify.ts', join(pack, 'verify.cjs'));
    vi.unstubAllEnvs();
    writeFileSync(join(pack, 'tests.txt'), 'cuda/1.test.ts\ncuda/2.test.ts\ncuda/3.test.ts\ngpu/9.faults.test.ts\n');
    await bundleTest('faults.ts', join(pack, 'gpu-9.faults.cjs'), join(root, 'test/fixtures'));
    writeFileSync(join(pack, 'cuda-1.cjs'), program(passes));
    writeFileSync(join(pack, 'cuda-2.cjs'), program(passes));
    writeFileSync(join(pack, 'cuda-3.cjs'), program("write({ name: 'b', state: 'failed', ms: 1 }); process.abort();"));
    writeFileSync(join(pack, 'gpu-05.kernels.cjs'), program(passes));
    const skipTool = `#!/bin/bash\nwhile [ "$1" != "$NODE" ]; do shift; done\n`;
    writeFileSync(join(folder, 'compute-sanitizer'), `${skipTool}"$@" & echo $! >"$STARTED"; wait $!`, { mode: 0o755 });
  });
  const sanitizer = { NODE: process.execPath, STARTED: join(folder, 'started') };

  it('writes its report after each job, and goes on from there', () => {
    writeFileSync(join(pack, 'cuda-2.cjs'), program('setTimeout(() => {}, 60e3)'));
    const first = verify(sanitizer, '--filter', 'cuda/', '--seconds', '2');
    expect(first).toMatchObject({ status: 1, ran: 'cuda-1.cjs cuda-2.cjs' });
    expect(first.stdout).toContain(
      'no time was left of 2 s for cuda/2.test.ts\nno time was left of 2 s for cuda/3.test.ts',
    );
    expect(reported()).toMatchObject({
      missing: ['cuda/2.test.ts', 'cuda/3.test.ts'],
      jobs: [{ job: 'cuda/1.test.ts' }],
    });
    expect(reported(join(out, 'verify.json'))).toEqual(reported());

    // Ended from outside in the third job.
    writeFileSync(join(pack, 'cuda-2.cjs'), program(passes));
    const third = readFileSync(join(pack, 'cuda-3.cjs'), 'utf8');
    writeFileSync(join(pack, 'cuda-3.cjs'), program("process.kill(process.ppid, 'SIGKILL')"));
    expect(verify(sanitizer, '--filter', 'cuda/')).toMatchObject({ status: null, ran: 'cuda-2.cjs cuda-3.cjs' });
    expect(reported().missing).toEqual(['cuda/3.test.ts']);
    expect(reported(join(out, 'verify.json'))).toEqual(reported());

    writeFileSync(join(pack, 'cuda-3.cjs'), third);
    for (const ran of ['cuda-3.cjs', '']) {
      const last = verify(sanitizer, '--filter', 'cuda/');
      expect(last, 'a failure counts in every later run').toMatchObject({ status: 1, ran });
      expect(last.stdout).toMatch(/\n2 passed, 2 failed, 0 skipped\n$/);
    }
    expect(reported().missing).toEqual([]);
  });

  it('goes on behind a test that crashes, never ends or leaves the device unusable', () => {
    const file = join(folder, 'faults.json');
    expect(verify({}, '--filter', 'gpu/9', '--step', '2', '--json', file).status).toBe(1);
    const { results } = reported(file).jobs[0]!;
    const told = results.map(({ name, state, message }) => [name, state, ...(state === 'failed' ? [message] : [])]);
    expect(told.sort()).toEqual([
      ['a group > crashes', 'failed', 'ended early: SIGABRT'],
      ['a group > fails', 'failed', expect.stringMatching(/expected 1 to be 2/)],
      ['a group > is left out', 'skipped'],
      ['a group > loses the device', 'failed', expect.stringMatching(/^an illegal address/)],
      ['a group > never ends', 'failed', 'ended early: not done after 2 s'],
      ['a group > passes', 'passed'],
      ['another group > loses the context of the driver', 'failed', 'cuCtxSynchronize gave 700'],
      ['another group > passes', 'passed'],
    ]);
  });

  it('begins anew with another commit', () => {
    const { jobs } = reported();
    writeFileSync(report, JSON.stringify({ ...reported(), commit: 'another', jobs }));
    expect(verify(sanitizer, '--filter', 'cuda/').ran).toBe('cuda-1.cjs cuda-2.cjs cuda-3.cjs');
  });

  it('ends what compute-sanitizer started with it', () => {
    rmSync(report);
    writeFileSync(join(pack, 'gpu-05.kernels.cjs'), program('setTimeout(() => {}, 60e3)'));
    expect(verify(sanitizer, '--filter', 'memcheck', '--seconds', '2').stdout).toContain('for memcheck gpu/05');
    const pid = Number(readFileSync(sanitizer.STARTED, 'utf8'));
    expect(pid).toBeGreaterThan(0);
    const state = existsSync(`/proc/${pid}/stat`)
      ? readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]![0]
      : 'gone';
    expect(['gone', 'Z']).toContain(state);
  });
});
