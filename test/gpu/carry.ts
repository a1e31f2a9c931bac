// What travels to a bare machine: the files of the checkout that git does not ignore, and the folder build/gpu. In that
// folder lie Node and one archive of everything else, since each bundle repeats the matchers.

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

const MOST_BYTES = 64 * 2 ** 20;

/** Compresses what a command writes to its standard output, which runs in `folder`. Throws when either fails. */
export function compress(command: string, folder: string, file: string): void {
  const { status } = spawnSync('bash', ['-o', 'pipefail', '-c', `${command} | xz -T0 -9 >'${file}'`], {
    cwd: folder,
    stdio: 'inherit',
  });
  if (status !== 0) throw new Error(`${file} could not be written: ${command} | xz ended with status ${status}`);
}

export function sizeOf(path: string): number {
  if (!existsSync(path)) return 0; // git lists what was deleted, too
  if (!statSync(path).isDirectory()) return statSync(path).size;
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0);
}

/** Bytes of a checkout that travel beside what is carried. */
export function checkoutBytes(root: string): number {
  const listed = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '-z'], { cwd: root, encoding: 'utf8' });
  const files = new Set(listed.split('\0').filter(Boolean));
  return [...files].reduce((sum, name) => sum + sizeOf(join(root, name)), 0);
}

/** One line about what travels. Throws when it is more than can be carried. */
export function weigh(checkout: number, carried: number, most = MOST_BYTES): string {
  const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const line = `build/gpu ${mebibytes(carried)} and the checkout ${mebibytes(checkout)}: ${mebibytes(checkout + carried)}`;
  if (checkout + carried <= most) return line;
  const hint = 'scripts/gpu-pack --arch 90,90a packs a library for Hopper alone';
  throw new Error(`${line}, more than the ${mebibytes(most)} that can be carried; ${hint}`);
}
