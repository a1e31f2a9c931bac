import { existsSync } from 'node:fs';
import { configDefaults, defineConfig } from 'vitest/config';

// Files that judge time, the use of processors or resident memory, or keep a queue full while they look at it. They run one
// after another, when all others have ended: those run side by side, as many as there are processors.
const alone = [
  'test/10.tensor.test.ts',
  'test/15.stream.test.ts',
  'test/29.clusters.test.ts', // promises itself all memory
  'test/29.needles.test.ts',
  'test/29.persistence.test.ts',
  'test/29.rules.test.ts',
  'test/38.head-policies.test.ts',
  'test/40.lifetime.test.ts',
  'test/42.event-loop.test.ts',
  'test/43.costs.test.ts',
  'test/46.device.test.ts',
  'test/7*.test.ts',
  'test/cuda/15.stream.test.ts',
  'test/cuda/32.resident.test.ts',
  'test/ptx/60.kernels.test.ts',
];

const settings = {
  setupFiles: ['test/cuda/support/setup.ts'],
  pool: 'forks' as const, // the addon on the main thread of its own process, with --expose-gc for the lifetime tests
  execArgv: ['--expose-gc'],
  // For what hangs; a slow machine interprets kernels for a minute.
  testTimeout: 300_000,
  hookTimeout: 300_000,
};

export default defineConfig({
  test: {
    ...settings,
    include: ['test/**/*.test.ts'],
    // scripts/ptx.mjs has said why when it could not build the interpreter.
    exclude: [
      ...configDefaults.exclude,
      'test/pack/**', // npm run test:pack
      ...(existsSync('build/ptx/libptx_interpreter.so') ? [] : ['test/ptx/**']),
    ],
    maxWorkers: '100%',
    typecheck: { enabled: true, include: ['test/**/*.test-d.ts'], tsconfig: 'tsconfig.test.json' },
  },
  plugins: [
    {
      name: 'alone',
      // Made here since entries of `projects` do not know what the command line excludes.
      async configureVitest({ project: { config }, injectTestProjects }) {
        const { exclude } = config;
        config.exclude = [...exclude, ...alone];
        await injectTestProjects({
          test: { ...settings, name: 'alone', include: alone, exclude, fileParallelism: false },
        });
      },
    },
  ],
});
