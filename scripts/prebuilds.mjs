// npm run prebuilds: makes prebuilds/, the binaries that npm pack puts into the package, with their licences and their
// manifest. Builds in build/prebuilds, so that the binaries of a checkout stay as they are.
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { inspect, kinds, refusals } from './elf.mjs';
import { licenses } from './licenses.mjs';

const help = `usage: npm run prebuilds -- [options]

Makes prebuilds/: the addon for linux-x64 and, where Debian's g++-aarch64-linux-gnu is installed, linux-arm64; the CUDA
library where nvcc is found; the licences of what they contain; manifest.json.

  --arch LIST  machine code of the CUDA library, as for build:cuda (for development; default: all)
  --addons     only the addons (scripts/reproduce.mjs wants them in CI, where there is no time for the CUDA library)
  --help
`;

const LIBRARY = 'libnode_attention_cuda.so';
const MISSING = 3; // exit status of scripts/cuda.mjs
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const prebuilds = join(root, 'prebuilds');
const options = readOptions();

if (options.help) {
  process.stdout.write(help);
  process.exit(0);
}
if (process.platform !== 'linux' || process.arch !== 'x64') fail('prebuilt binaries are made on linux-x64 only');

const cuda = options.addons ? undefined : buildCuda();
rmSync(prebuilds, { recursive: true, force: true });
const compilers = { x64: await prebuild('x64') };
if (spawnSync('aarch64-linux-gnu-g++', ['--version']).error) {
  console.log('linux-arm64 is left out: its cross compiler is missing; install it (Debian: g++-aarch64-linux-gnu)');
} else {
  compilers.arm64 = await prebuild('arm64', {
    toolchain: join(root, 'cmake/aarch64.cmake'),
    prefix: 'aarch64-linux-gnu-',
  });
}
writeFileSync(join(prebuilds, 'LICENSES.txt'), licenses(root, cuda));
const files = describe();
writeFileSync(
  join(prebuilds, 'manifest.json'),
  `${JSON.stringify({ version: version(), commit: commit(), files }, null, 2)}\n`,
);
judge();

function readOptions() {
  try {
    return parseArgs({ options: { arch: { type: 'string' }, addons: { type: 'boolean' }, help: { type: 'boolean' } } })
      .values;
  } catch (error) {
    console.error(`${error.message}\n\n${help}`);
    process.exit(2);
  }
}

function fail(sentence) {
  console.error(`prebuilds: ${sentence}`);
  process.exit(1);
}

/** The library of build:cuda, and what it was built with; undefined where it cannot be built. */
function buildCuda() {
  const args = [join(root, 'scripts/cuda.mjs'), ...(options.arch ? ['--arch', options.arch] : [])];
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' });
  if (status === MISSING) return undefined; // it has said what
  if (status !== 0) process.exit(1);
  return JSON.parse(readFileSync(join(root, 'build/cuda/found.json'), 'utf8'));
}

/** prebuilds/linux-ARCH. Returns what it was compiled with. */
async function prebuild(arch, { toolchain = '', prefix = '' } = {}) {
  const start = Date.now();
  console.log(`building the addon for linux-${arch}`);
  const folder = join(root, 'build/prebuilds', arch);
  const release = join(folder, 'build/Release');
  mkdirSync(release, { recursive: true });
  rmSync(join(release, LIBRARY), { force: true });
  // prebuildify takes what lies beside the addon along.
  if (cuda && arch === process.arch) copyFileSync(join(root, 'build/Release', LIBRARY), join(release, LIBRARY));
  process.env.NODE_ATTENTION_TOOLCHAIN = toolchain;
  try {
    await promisify(require('prebuildify'))({
      ...{ name: 'node-attention', platform: 'linux', arch, cwd: folder, out: root },
      ...{ napi: true, tagLibc: true, libc: 'glibc', strip: true, stripBin: `${prefix}strip` },
      targets: [{ runtime: 'node', target: process.versions.node }],
      nodeGyp: join(root, 'scripts/gyp-to-cmake.cjs'),
    });
  } catch (error) {
    fail(`the addon for linux-${arch} could not be built: ${error.message}`);
  }
  console.log(`built in ${((Date.now() - start) / 1000).toFixed(1)} s`);
  const [file] = readdirSync(join(folder, 'build/CMakeFiles'), { recursive: true }).filter((name) =>
    name.endsWith('CMakeCXXCompiler.cmake'),
  );
  const text = readFileSync(join(folder, 'build/CMakeFiles', file), 'utf8');
  return ['ID', 'VERSION']
    .map((key) => new RegExp(`set\\(CMAKE_CXX_COMPILER_${key} "(.*)"\\)`).exec(text)[1])
    .join(' ');
}

function version() {
  return JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version;
}

function commit() {
  const git = (...args) => execFileSync('git', args, { cwd: root, encoding: 'utf8' }).trim();
  return git('rev-parse', 'HEAD') + (git('status', '--porcelain') ? '-dirty' : '');
}

/** The manifest's `files`; lib/manifest.ts has its type. */
function describe() {
  const names = readdirSync(prebuilds, { recursive: true }).filter((name) => statSync(join(prebuilds, name)).isFile());
  return Object.fromEntries(
    names.sort().map((name) => {
      const data = readFileSync(join(prebuilds, name));
      const about = { sha256: createHash('sha256').update(data).digest('hex'), bytes: data.length };
      if (!kindOf(name)) return [name, about];
      about.build = /\d+\.\d+\.\d+[-.\w]*\+[0-9a-f]{12}(?=\0)/.exec(data.toString('latin1'))[0];
      about.compiler = compilers[/linux-(\w+)/.exec(name)[1]];
      about.needs = inspect(join(prebuilds, name)).needs;
      if (kindOf(name) === 'cuda') about.cuda = { version: cuda.nvcc, architectures: cuda.architectures };
      return [name, about];
    }),
  );
}

function kindOf(name) {
  if (name.endsWith('.node')) return 'addon';
  return name.endsWith(LIBRARY) ? 'cuda' : undefined;
}

/** Prints sizes and what is needed of a system; ends with 1 when a binary is not fit to be handed on. */
function judge() {
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
  let refused = [];
  for (const [name, { bytes, needs }] of Object.entries(files)) {
    const kind = kindOf(name);
    const budget = kind ? ` of at most ${megabytes(kinds[kind].most)}` : '';
    const versions = Object.entries(needs ?? {}).map(([library, number]) => `${library}_${number}`);
    console.log(
      `prebuilds/${name}: ${megabytes(bytes)}${budget}${versions.length ? `, needs ${versions.join(', ')}` : ''}`,
    );
    if (kind) refused = [...refused, ...refusals(join(prebuilds, name), kind)];
  }
  if (refused.length > 0) fail(`\n  ${refused.join('\n  ')}`);
}
