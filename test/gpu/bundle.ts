// Bundles of tests and programs that run by plain Node, without what is installed here.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { build, type Plugin } from 'esbuild';
import { commit } from '../../bench/commit';

export const root = join(__dirname, '../..');
/** Files of a test folder with this remark are about this machine: the compiler, the interpreter. */
const NOT_HERE = '// not on a device';

/** Tests of single PTX instructions: test/ptx/10 to 46, but for those of the interpreter's schedules. */
const isProbe = (file: string): boolean => /^ptx\/(1|2[0-7]|3|4)/.test(file);

/** Test files for a device, below test/, in the order of their names. */
export function testFiles(): string[] {
  const here = (file: string) => readFileSync(join(root, 'test', file), 'utf8').includes(NOT_HERE);
  return ['cuda', 'gpu', 'ptx']
    .flatMap((folder) => readdirSync(join(root, 'test', folder)).map((name) => `${folder}/${name}`))
    .filter((file) => file.endsWith('.test.ts') && (!file.startsWith('ptx') || isProbe(file)) && !here(file))
    .sort();
}

/** Puts the device in the place of the interpreter. */
const replaying: Plugin = {
  name: 'replay',
  setup: ({ onResolve }) => onResolve({ filter: /\/interpreter$/ }, () => ({ path: join(root, 'test/gpu/replay.ts') })),
};

type Source = { entryPoints: string[] } | { stdin: { contents: string; resolveDir: string } };

async function bundle(source: Source, outfile: string, more: object = {}): Promise<void> {
  await build({
    ...source,
    ...more,
    outfile,
    bundle: true,
    minifyWhitespace: true, // most of each test is vitest's matchers
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    external: ['node-attention', 'koffi', 'node-gyp-build'],
    define: { 'process.env.NODE_ATTENTION_COMMIT': JSON.stringify(commit() ?? 'unknown') },
    logLevel: 'error',
    absWorkingDir: root,
  });
}

export const bundleProgram = (file: string, outfile: string): Promise<void> =>
  bundle({ entryPoints: [join(root, file)] }, outfile);

/** A test file, given below `folder`, that runs when it is loaded. */
export function bundleTest(file: string, outfile: string, folder = join(root, 'test')): Promise<void> {
  const contents = `import './${file}'; import { run } from 'vitest'; run({ replay: ${isProbe(file)} });`;
  return bundle({ stdin: { contents, resolveDir: folder } }, outfile, {
    alias: { vitest: join(root, 'test/gpu/runner.ts') },
    plugins: isProbe(file) ? [replaying] : [],
  });
}
