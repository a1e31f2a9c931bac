import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/nodes/all.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 60_000,
  },
});
