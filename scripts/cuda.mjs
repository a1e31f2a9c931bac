// Builds the CUDA backend, libnode_attention_cuda.so, beside the addon. Needs nvcc but no GPU; see --help.
import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { fetchCutlass } from './cutlass.mjs';

const HELP = `Usage: npm run build:cuda [-- --arch LIST]

Builds libnode_attention_cuda.so, which npx node-attention doctor then finds. Needs nvcc 12.8 or newer (CUDACXX, PATH or
/usr/local/cuda) and the architecture headers of CUTLASS 4.2 or newer (CUTLASS_DIR, an installed Python package, or fetched).

  --arch LIST   only these architectures, comma-separated: 80, 89, 90a, 100, 120, ptx (default: all)
  --help        this text

Exit codes: 0 built, 1 a source does not compile or a kernel is refused, 2 nvcc or CUTLASS is missing.`;
const ARCHITECTURES = ['80', '89', '90a', '100', '120', 'ptx'];
const OLDEST = [12, 8];
/** Bytes that a kernel may spill. Hopper's kernels keep everything in registers, or their schedule is worth nothing. */
const MOST_SPILLS = { sm_90a: 0, others: 512 };

process.chdir(dirname(dirname(fileURLToPath(import.meta.url))));
const { help, arch } = readArguments();
if (help) {
  console.log(HELP);
  process.exit(0);
}
const nvcc = findNvcc();
const cutlass = fetchCutlass('build/cutlass');
if (cutlass.problem && !process.env.CUTLASS_DIR) missing(cutlass.problem);

const start = Date.now();
const build = 'build/cuda';
const configured = spawnSync(
  'cmake',
  [
    ...['-S', 'csrc/cuda', '-B', build, '-DCMAKE_BUILD_TYPE=Release', `-DNVCC=${nvcc}`],
    `-DNODE_ATTENTION_ARCHITECTURES=${arch.join(';')}`,
    ...(cutlass.headers ? [`-DNODE_ATTENTION_CUTLASS=${join(process.cwd(), cutlass.headers)}`] : []),
  ],
  { encoding: 'utf8' },
);
if (configured.error) missing('CMake is missing; install it (Debian, Fedora: cmake)');
if (configured.status !== 0) fail(`${configured.stdout}${configured.stderr}`);
await make();
const problems = readdirSync(build)
  .filter((file) => file.endsWith('.o.log'))
  .flatMap((file) => refusals(readFileSync(join(build, file), 'utf8')));
if (problems.length > 0) fail(problems.join('\n'));
mkdirSync('build/Release', { recursive: true });
copyFileSync(join(build, 'libnode_attention_cuda.so'), 'build/Release/libnode_attention_cuda.so');
console.log(`build/Release/libnode_attention_cuda.so: ${((Date.now() - start) / 1000).toFixed(0)} s`);

function missing(what) {
  console.error(`node-attention: ${what}. The package works on the CPU without it.`);
  process.exit(2);
}

function fail(text) {
  console.error(text);
  process.exit(1);
}

function readArguments() {
  try {
    const { values } = parseArgs({ options: { help: { type: 'boolean' }, arch: { type: 'string' } } });
    const chosen = values.arch?.split(',') ?? ARCHITECTURES;
    const unknown = chosen.find((one) => !ARCHITECTURES.includes(one));
    if (unknown === undefined) return { help: values.help, arch: chosen };
    return fail(`--arch: '${unknown}' is not known; use ${ARCHITECTURES.join(', ')}`);
  } catch (error) {
    return fail(`${error.message}\n\n${HELP}`);
  }
}

/** The newest that is found first: what the user names, what is on the path, what is in the usual place. */
function findNvcc() {
  const onPath = (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, 'nvcc'));
  const usual = existsSync('/usr/local') ? readdirSync('/usr/local').filter((name) => name.startsWith('cuda')) : [];
  const places = usual.sort().map((name) => join('/usr/local', name, 'bin/nvcc'));
  const found = [process.env.CUDACXX, ...onPath, ...places].find((path) => path && existsSync(path));
  const get = 'install the CUDA toolkit 13 (Debian: nvidia-cuda-toolkit, or cuda-toolkit-13-0 of NVIDIA)';
  if (!found) missing(`nvcc is missing; ${get} or set CUDACXX`);
  const { stdout = '' } = spawnSync(found, ['--version'], { encoding: 'utf8' });
  const [, major, minor] = (/release (\d+)\.(\d+)/.exec(stdout) ?? []).map(Number);
  if (!(major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]))) {
    missing(`${found} is CUDA ${major}.${minor}, older than ${OLDEST.join('.')}; ${get}`);
  }
  return found;
}

/** Builds, with a line for each file that is done. */
function make() {
  return new Promise((resolve) => {
    const child = spawn('cmake', ['--build', build, '--parallel', String(availableParallelism())]);
    let output = '';
    const take = (text) => {
      output += text;
      for (const line of String(text).split('\n')) {
        const [, percent, file] = /^\[ *(\d+)%\] (.*\.cu)$/.exec(line) ?? [];
        if (file) console.log(`${percent.padStart(3)} % ${file}`);
      }
    };
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    child.on('close', (status) => (status === 0 ? resolve() : fail(output)));
  });
}

/** What ptxas says against a file: messages on serialised wgmma or ignored setmaxnreg, and spills. */
function refusals(log) {
  const found = log.split('\n').filter((line) => /\(C75\d\d\)/.test(line));
  let kernel = '';
  let target = '';
  for (const line of log.split('\n')) {
    [, kernel = kernel, target = target] = /Compiling entry function '([^']+)' for '(sm_\w+)'/.exec(line) ?? [];
    const [, stores, loads] = /(\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line) ?? [];
    const most = MOST_SPILLS[target] ?? MOST_SPILLS.others;
    if (Number(stores) + Number(loads) > most) found.push(`${kernel} spills ${stores} + ${loads} bytes on ${target}`);
  }
  return found;
}
