// npm run build:cuda: builds libnode_attention_cuda.so, the CUDA backend, beside the addon. Needs nvcc, CMake and the headers
// of CUTLASS, see cmake/toolkit.cmake, and no GPU. Only what has changed is compiled.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const MISSING = 3; // exit status

const help = `usage: npm run build:cuda -- [options]

Builds libnode_attention_cuda.so, the CUDA backend, beside the addon.

  --arch LIST  only this machine code, of 80, 89, 90, 90a, 100 and 120, like 80,90a (for development; default: all)
  --jobs N     files to compile at once (default: as many as there are processors)
  --force      compiles everything anew
  --check      builds nothing: says in one line whether the CUDA backend is there, and what is missing to build it
  --help

nvcc 12.8 or newer is looked for in CUDACXX, PATH and /usr/local/cuda*; CUTLASS 4.2 or newer in CUTLASS_DIR and in Python
packages, and is fetched into build/ where there is none. Exit status: 0 built, 1 failed, 2 wrong use, ${MISSING} something is missing.
`;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const build = join(root, 'build/cuda');
const library = join(addonFolder(), 'libnode_attention_cuda.so');
const options = readOptions();

if (options.help) {
  process.stdout.write(help);
  process.exit(0);
}
if (process.platform !== 'linux') missing('it runs on Linux only');
if (spawnSync('cmake', ['--version']).error) missing('CMake is missing: install it (Debian, Fedora: cmake)');
if (options.check) check();
if (options.force) rmSync(build, { recursive: true, force: true });

const start = Date.now();
const found = configure();
if (found.missing) missing(found.missing);
await compile();
console.log(`${relative(process.cwd(), library)}: ${((Date.now() - start) / 1000).toFixed(1)} s in all`);

function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        arch: { type: 'string', default: '80,89,90,90a,100,120' },
        jobs: { type: 'string', default: String(availableParallelism()) },
        force: { type: 'boolean' },
        check: { type: 'boolean' },
        help: { type: 'boolean' },
      },
    });
    const known = ['80', '89', '90', '90a', '100', '120'];
    const unknown = values.arch.split(',').find((name) => !known.includes(name));
    if (unknown !== undefined) throw new Error(`--arch ${unknown} is none of ${known.join(', ')}`);
    if (!/^[1-9]\d*$/.test(values.jobs)) throw new Error(`--jobs ${values.jobs} is not a number from 1 on`);
    return values;
  } catch (error) {
    console.error(`${error.message}\n\n${help}`);
    process.exit(2);
  }
}

/** Where the addon is: build/Release in a checkout, a folder of prebuilds/ in an installed package. */
function addonFolder() {
  const checkout = existsSync(join(root, 'scripts/setup.mjs'));
  try {
    if (!checkout) return dirname(createRequire(import.meta.url)('node-gyp-build').resolve(root));
  } catch {
    // There is none yet: it will be built.
  }
  return join(root, 'build/Release');
}

// Where nvcc is, CMake need not be asked: it would fetch what is missing besides.
function check() {
  if (existsSync(library)) process.exit(0);
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/local/cuda/bin` };
  const { missing: sentence } = spawnSync(process.env.CUDACXX ?? 'nvcc', ['--version'], { env }).error
    ? configure()
    : {};
  console.log(`built for the CPU alone: ${sentence ?? 'npm run build:cuda adds the CUDA backend'}`);
  process.exit(0);
}

function configure() {
  const cache = join(build, 'CMakeCache.txt');
  const home = existsSync(cache) && /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(readFileSync(cache, 'utf8'))?.[1];
  if (home && home !== join(root, 'csrc/cuda')) rmSync(build, { recursive: true }); // it was copied from another place
  mkdirSync(build, { recursive: true });
  const { status, stdout, stderr } = spawnSync(
    'cmake',
    [
      ...['-S', join(root, 'csrc/cuda'), '-B', build],
      `-DNODE=${process.execPath}`,
      `-DNODE_ATTENTION_OUTPUT=${dirname(library)}`,
      `-DNODE_ATTENTION_CUDA_ARCHITECTURES=${options.arch.replaceAll(',', ';')}`,
    ],
    { encoding: 'utf8' },
  );
  if (status !== 0) fail(`${stdout}${stderr}`);
  return JSON.parse(readFileSync(join(build, 'found.json'), 'utf8'));
}

/** One line for each file as it is done; the whole output only when something fails. */
async function compile() {
  const { cuda } = JSON.parse(readFileSync(join(root, 'sources.json'), 'utf8'));
  const files = cuda.kernels.length + cuda.hopper.length;
  console.log(
    `nvcc ${found.nvcc}, CUTLASS in ${found.cutlass}: ${files} files for ${options.arch}, ${options.jobs} at once`,
  );
  // What is wrong with other files is wanted too.
  const cache = readFileSync(join(build, 'CMakeCache.txt'), 'utf8');
  const goOn = /^CMAKE_GENERATOR:INTERNAL=Ninja/m.test(cache) ? ['-k', '0'] : ['-k'];
  const make = spawn('cmake', ['--build', build, '--parallel', options.jobs, '--', ...goOn], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  let line = '';
  const read = (text) => {
    output += text;
    const lines = (line + text).split('\n');
    line = lines.pop();
    for (const one of lines) if (/^compiled |warning/.test(one)) console.log(one.replace(/^compiled /, '  '));
  };
  make.stdout.setEncoding('utf8').on('data', read);
  make.stderr.setEncoding('utf8').on('data', read);
  const status = await new Promise((resolve) => make.on('close', resolve));
  if (status !== 0) fail(output);
}

function missing(sentence) {
  if (options.check) {
    console.log(`built for the CPU alone: ${sentence}`);
    process.exit(0);
  }
  console.error(`the CUDA backend cannot be built: ${sentence}`);
  process.exit(MISSING);
}

function fail(text) {
  console.error(text);
  console.error('the CUDA backend could not be built; the messages above say why.');
  process.exit(1);
}
