// npm run test:pack: what npm pack makes, as its users install it. Fetches other versions of Node from npm's registry.
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/pack/**/*.test.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 300_000, // the first run fetches
  },
});
