import { existsSync } from 'node:fs';
import { configDefaults, defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // scripts/ptx.mjs has said why when it could not build the interpreter.
    exclude: [
      ...configDefaults.exclude,
      'test/pack/**', // npm run test:pack
      ...(existsSync('build/ptx/libptx_interpreter.so') ? [] : ['test/ptx/**']),
    ],
    setupFiles: ['test/cuda/support/setup.ts'],
    pool: 'forks', // the addon on the main thread of its own process, with --expose-gc for the lifetime tests
    execArgv: ['--expose-gc'],
    fileParallelism: false, // the library uses all processors, and some tests measure time
    testTimeout: 300_000, // for what hangs; a slow machine interprets kernels for a minute
    typecheck: { enabled: true, include: ['test/**/*.test-d.ts'], tsconfig: 'tsconfig.test.json' },
  },
});
