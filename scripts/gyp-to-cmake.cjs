#!/usr/bin/env node
// prebuildify knows only node-gyp, but calls whatever program it is told, like this:
//   gyp-to-cmake.cjs rebuild --target=... --devdir=... --arch=x64 --release
// in the folder where it then looks for build/Release. This builds the checkout there with CMake, and compiles only what
// has changed. NODE_ATTENTION_TOOLCHAIN is a CMake toolchain file, for a processor that is not this one.
const { spawnSync } = require('node:child_process');
const { availableParallelism } = require('node:os');
const { dirname, join } = require('node:path');

const root = dirname(__dirname);
const toolchain = process.env.NODE_ATTENTION_TOOLCHAIN;
const args = [
  ...[require.resolve('cmake-js/bin/cmake-js', { paths: [root] }), 'build', '--config', 'Release'],
  ...['--directory', root, '--out', join(process.cwd(), 'build'), '--parallel', String(availableParallelism())],
  ...(toolchain ? [`--CDCMAKE_TOOLCHAIN_FILE=${toolchain}`] : []),
];
const { status, stdout, stderr, error } = spawnSync(process.execPath, args, { encoding: 'utf8', maxBuffer: 1 << 28 });
if (status !== 0) console.error(`${stdout ?? ''}${stderr ?? ''}${error?.message ?? ''}`);
process.exit(status ?? 1);
