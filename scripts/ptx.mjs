// Builds what test/ptx needs into build/ptx: the PTX interpreter, the stand-in CUDA runtime and, where nvcc is found, the
// test kernels. CMake builds only what has changed. A machine that cannot build it runs the other tests without it.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(root, 'test/ptx');
const build = join(root, 'build/ptx');

if (process.platform !== 'linux') leaveOut('it runs on Linux only');
if (spawnSync('cmake', ['--version']).error) leaveOut('CMake is missing; install it (Debian, Fedora: cmake)');

const start = Date.now();
process.stdout.write('building the PTX interpreter ... ');
cmake(['-S', source, '-B', build, '-DCMAKE_BUILD_TYPE=Release']);
cmake(['--build', build, '--parallel', String(availableParallelism())]);
console.log(`${((Date.now() - start) / 1000).toFixed(1)} s`);
const missing = readFileSync(join(build, 'missing.txt'), 'utf8');
if (missing) console.log(`tests of CUDA code are left out: ${missing}`);

function cmake(args) {
  const { status, stdout, stderr } = spawnSync('cmake', args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (status === 0) return;
  console.log('failed');
  console.error(`${stdout}${stderr}`);
  process.exit(1);
}

function leaveOut(reason) {
  console.log(`test/ptx is left out: ${reason}.`);
  process.exit(0);
}
