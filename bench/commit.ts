// Which commit is measured.

import { execFileSync } from 'node:child_process';

/** The commit that is measured, with `+` when files differ from it; undefined outside of a git checkout. */
export function commit(): string | undefined {
  const bundled = process.env.NODE_ATTENTION_COMMIT; // set when test/gpu/bundle.ts bundles this
  if (bundled !== undefined) return bundled;
  const git = (...args: string[]) =>
    execFileSync('git', args, { cwd: __dirname, encoding: 'utf8', stdio: 'pipe' }).trim();
  try {
    return git('rev-parse', 'HEAD') + (git('status', '--porcelain') === '' ? '' : '+');
  } catch {
    return undefined;
  }
}
