// node scripts/sanitize.mjs address|thread [vitest arguments]: builds the addon under a sanitizer, beside the ordinary
// build, and runs the tests that reach native code on it. Whatever the sanitizer reports fails the run.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';

const sanitizers = {
  address: {
    folder: 'build-asan',
    flags: 'address,undefined',
    runtime: 'libasan.so',
    // Node itself frees little at exit; a refused allocation is an error the tests expect, not a bug.
    options: { ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1', UBSAN_OPTIONS: 'print_stacktrace=1' },
  },
  thread: {
    folder: 'build-tsan',
    flags: 'thread',
    runtime: 'libtsan.so',
    // A report ends no process: which of them count is seen afterwards.
    options: { TSAN_OPTIONS: 'allocator_may_return_null=1:exitcode=0' },
  },
};

const [kind, ...vitestArguments] = process.argv.slice(2);
const { folder, flags, runtime, options } = sanitizers[kind];
const report = join(folder, 'report');

build();
prepareEnvironment();
await test();
showReports();

function build() {
  // node-gyp-build's own override looks for build/Release under the folder it is given.
  const jobs = String(availableParallelism());
  const define = `--CDNODE_ATTENTION_SANITIZE=${flags}`;
  const args = ['build', '--parallel', jobs, '--out', join(folder, 'build'), define];
  const { status, stdout, stderr } = spawnSync('node_modules/.bin/cmake-js', args, { encoding: 'utf8' });
  if (status === 0) return;
  console.error(stdout, stderr);
  process.exit(1);
}

// Inherited by the processes in which vitest runs tests, and by those that tests start. vitest's own process, which
// transforms sources on threads of uninstrumented Rust, stays outside.
function prepareEnvironment() {
  const file = spawnSync('c++', [`-print-file-name=${runtime}`], { encoding: 'utf8' }).stdout?.trim();
  if (!file || !existsSync(file)) {
    console.error(
      `node-attention: ${runtime} of GCC is missing; install g++ (Debian: g++; Fedora: ${runtime.slice(0, -3)}).`,
    );
    process.exit(1);
  }
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    if (name.startsWith('report.')) rmSync(join(folder, name));
  }
  process.env.NODE_ATTENTION_PREBUILD = resolve(folder);
  process.env.LD_PRELOAD = file;
  for (const [name, value] of Object.entries(options)) process.env[name] = `${value}:log_path=${resolve(report)}`;
}

async function test() {
  const { parseCLI, startVitest } = await import('vitest/node');
  const { filter, options } = parseCLI(['vitest', 'run', ...vitestArguments]);
  await startVitest('test', filter, {
    ...options,
    // timing; packaging and programs; what has builds of its own
    exclude: ['test/42.*', 'test/[5-9]*', 'test/cuda/**', 'test/pack/**', 'test/ptx/**'],
    typecheck: { enabled: false },
    testTimeout: 600_000,
  });
}

function showReports() {
  const names = readdirSync(folder).filter((name) => name.startsWith('report.'));
  const reports = names.flatMap((name) => ours(readFileSync(join(folder, name), 'utf8')));
  for (const text of reports) console.error(withSources(text));
  if (reports.length > 0) process.exitCode = 1;
}

// Node is not instrumented: ThreadSanitizer sees its locks but not its atomics, and finds races between threads of Node
// alone. Those of the addon have an access that the addon makes, itself or through the standard library.
function ours(text) {
  const access = /(read|write) of size .*\n(.*\((libtsan|libstdc\+\+|libc)\.so.*\n)*.*\(node_attention\.node\+/i;
  return kind === 'thread' ? text.split(/^={18}$/m).filter((race) => access.test(race)) : [text];
}

// GCC's runtime knows the names only of what was loaded before it looked up its first name, which Node's often is.
function withSources(text) {
  const addon = join(folder, 'build/Release/node_attention.node');
  return text.replace(/<null> <null> \(node_attention\.node\+(0x[0-9a-f]+)\)/g, (_, address) =>
    spawnSync('addr2line', ['-Cfipe', addon, address], { encoding: 'utf8' }).stdout.trim(),
  );
}
