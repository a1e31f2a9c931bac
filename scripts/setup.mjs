// Makes a checkout ready to use: dependencies, the native addon, the compiled TypeScript. Each is brought up to date
// only when what it is made from has changed; --force makes the last two anew. Needs nothing but Node itself, since
// npm's scripts run it before anything is installed.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const STAMP = 'build/setup.json'; // hashes of what the addon and dist/ were made from
const force = process.argv.includes('--force');

process.chdir(dirname(dirname(fileURLToPath(import.meta.url))));
checkNode();
installDependencies();
const stamp = readJson(STAMP) ?? {};
const addonInputs = ['csrc', 'cmake', 'CMakeLists.txt', 'binding.gyp', 'sources.json', 'package-lock.json'];
bringUpToDate('addon', 'build/Release/node_attention.node', addonInputs, buildAddon);
bringUpToDate('typescript', 'dist/index.js', ['lib', 'tsconfig.json', 'package-lock.json'], compileTypeScript);

function fail(sentence) {
  console.error(`node-attention: ${sentence}`);
  process.exit(1);
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  const old = major < 20 || (major === 20 && minor < 17);
  if (old) fail(`this is Node ${process.versions.node}; install Node 20.17 or newer (package nodejs).`);
}

function installDependencies() {
  const wanted = readJson('package-lock.json').packages;
  const installed = readJson('node_modules/.package-lock.json')?.packages ?? {};
  const missing = Object.entries(wanted).some(([path, { version, optional }]) => {
    return path !== '' && (installed[path] ? installed[path].version !== version : !optional);
  });
  if (!missing) return;
  const npm = process.env.npm_execpath;
  if (!npm && !find(['npm'])) fail('npm is missing; install it (Debian: npm; Fedora: nodejs-npm; macOS: node).');
  const [command, ...args] = npm ? [process.execPath, npm, 'ci'] : ['npm', 'ci'];
  run('installing dependencies', command, args);
}

function bringUpToDate(part, product, inputs, make) {
  const hash = hashOf(inputs);
  if (!force && existsSync(product) && stamp[part] === hash) return;
  make();
  stamp[part] = hash;
  mkdirSync(dirname(STAMP), { recursive: true });
  writeFileSync(STAMP, `${JSON.stringify(stamp)}\n`);
}

function buildAddon() {
  const compiler = process.env.CXX || find(['c++', 'g++', 'clang++']);
  const packages = 'Debian: g++; Fedora: gcc-c++; macOS: xcode-select --install';
  if (!compiler) fail(`a C++17 compiler is missing; install one (${packages}).`);
  if (!compiles(compiler)) fail(`${compiler} is older than GCC 11 or Clang 12; install a newer one (${packages}).`);
  if (force || builtElsewhere()) rmSync('build', { recursive: true, force: true });
  const make = find(['make']);
  if (hasCMake() && (make || find(['ninja']))) {
    const jobs = String(availableParallelism());
    runTool('building the addon with CMake', 'cmake-js/bin/cmake-js', ['build', '--parallel', jobs]);
  } else if (make && find(['python3'])) {
    runTool('building the addon with node-gyp', 'node-gyp/bin/node-gyp.js', ['rebuild', ...nodeHeaders()]);
  } else if (make) {
    fail('CMake 3.20 or newer is missing; install it (Debian, Fedora: cmake; macOS: brew install cmake).');
  } else {
    fail('make is missing; install it (Debian, Fedora: make; macOS: xcode-select --install).');
  }
}

function compileTypeScript() {
  rmSync('dist', { recursive: true, force: true });
  runTool('compiling TypeScript', 'typescript/bin/tsc', []);
}

// Whether the compiler knows every flag that this kind of CPU needs.
function compiles(compiler) {
  const x64 = process.arch === 'x64' ? Object.values(readJson('sources.json').cpu_isa).flatMap((isa) => isa.flags) : [];
  const args = ['-std=c++17', ...x64, '-fsyntax-only', '-x', 'c++', '-'];
  return spawnSync(compiler, args, { input: '#include <atomic>\n' }).status === 0;
}

function hasCMake() {
  const text = spawnSync('cmake', ['--version'], { encoding: 'utf8' }).stdout ?? '';
  const [, major, minor] = /version (\d+)\.(\d+)/.exec(text) ?? [];
  return Number(major) > 3 || (Number(major) === 3 && Number(minor) >= 20);
}

// CMake refuses a build folder that was copied from another place.
function builtElsewhere() {
  const cache = existsSync('build/CMakeCache.txt') ? readFileSync('build/CMakeCache.txt', 'utf8') : '';
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(cache)?.[1];
  return home !== undefined && home !== process.cwd();
}

// node-gyp downloads Node's headers unless told where they are; most installations have them beside the program.
function nodeHeaders() {
  const prefix = dirname(dirname(process.execPath));
  return existsSync(join(prefix, 'include/node/common.gypi')) ? [`--nodedir=${prefix}`] : [];
}

function hashOf(paths) {
  const hash = createHash('sha256');
  const visit = (path) => {
    if (statSync(path).isDirectory()) for (const name of readdirSync(path).sort()) visit(join(path, name));
    else hash.update(path).update('\0').update(readFileSync(path)).update('\0');
  };
  paths.forEach(visit);
  return hash.digest('hex');
}

function find(names) {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return names.find((name) => folders.some((folder) => existsSync(join(folder, name))));
}

function readJson(path) {
  return existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : undefined;
}

function runTool(what, path, args) {
  run(what, process.execPath, [join('node_modules', path), ...args]);
}

// One line while it works; the whole output only when it failed.
function run(what, command, args) {
  const start = Date.now();
  process.stdout.write(`${what} ... `);
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (status === 0) return console.log(`${((Date.now() - start) / 1000).toFixed(1)} s`);
  console.log('failed');
  console.error(`${stdout ?? ''}${stderr ?? ''}${error?.message ?? ''}`);
  fail(`${what} failed; the messages above say why.`);
}
