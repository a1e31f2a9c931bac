// A folder with a copy of the addon, a stand-in for the NVIDIA driver and room for a stand-in backend library, for
// processes that are started with its `env`. Each is compiled as the addon is: a sanitizer wants to see both.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sanitizer } from './sanitizer';

const root = join(__dirname, '..', '..');
/** What the addon is stamped with, as CMake makes it. */
export const stamp = (() => {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  const table = readFileSync(join(root, 'csrc/core/backend.h'));
  return `${version}+${createHash('sha256').update(table).digest('hex').slice(0, 12)}`;
})();
const flags = sanitizer ? [`-fsanitize=${sanitizer}`, '-g', '-O1'] : [];

export class StandIn {
  readonly folder = mkdtempSync(join(tmpdir(), 'node-attention-'));
  /** Where the addon looks for the library. */
  readonly library = join(this.folder, 'build', 'Release', 'libnode_attention_cuda.so');
  readonly env: Record<string, string> = { NODE_ATTENTION_PREBUILD: this.folder };

  constructor() {
    mkdirSync(join(this.folder, 'build', 'Release'), { recursive: true });
    const addon = join('build', 'Release', 'node_attention.node');
    copyFileSync(join(process.env.NODE_ATTENTION_PREBUILD ?? root, addon), join(this.folder, addon));
    this.#compile('driver.c', join(this.folder, 'libcuda.so.1'));
  }

  /** Puts the backend of a source in test/fixtures where the addon looks for it. */
  install(source: string): void {
    this.#compile(source, this.library);
  }

  remove(): void {
    rmSync(this.folder, { recursive: true });
  }

  #compile(source: string, output: string): void {
    const file = join(root, 'test', 'fixtures', source);
    const build = `-DNODE_ATTENTION_BUILD="${stamp}"`;
    execFileSync('cc', ['-shared', '-fPIC', '-pthread', build, ...flags, `-I${root}/csrc`, file, '-o', output]);
  }
}
