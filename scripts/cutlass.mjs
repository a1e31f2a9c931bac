// Fetches the architecture headers of CUTLASS, which the kernels include, as the wheel that carries them on PyPI.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const PACKAGE = 'nvidia-cutlass==4.2.0.0';
const SHA256 = 'f9599ada45c7bcb6bf53f7d3f0a7d154183e53451c01bfa59eecd37dd4a693f6';
const HEADERS = 'cutlass_library/source/include';

/** The include folder within `folder`, fetched when it is not there; or why it cannot be. */
export function fetchCutlass(folder) {
  const headers = join(folder, HEADERS);
  if (existsSync(join(headers, 'cutlass/version.h'))) return { headers };
  mkdirSync(folder, { recursive: true });
  const list = join(folder, 'requirements.txt');
  writeFileSync(list, `${PACKAGE} --hash=sha256:${SHA256}\n`);
  const pip = ['-m', 'pip', 'download', '-q', '--no-deps', '--require-hashes', '-r', list, '-d', folder];
  const fetched = spawnSync('python3', pip, { encoding: 'utf8' });
  if (fetched.error) return { problem: 'python3 is missing, which fetches CUTLASS (Debian: python3-pip)' };
  if (fetched.status !== 0) {
    return { problem: `CUTLASS cannot be fetched from PyPI: ${fetched.stderr.trim().split('\n').at(-1)}` };
  }
  const wheel = join(folder, 'nvidia_cutlass-4.2.0.0-py3-none-any.whl');
  const opened = spawnSync('python3', ['-m', 'zipfile', '-e', wheel, folder], { encoding: 'utf8' });
  if (opened.status !== 0) return { problem: `${wheel} cannot be opened: ${opened.stderr.trim().split('\n').at(-1)}` };
  return { headers };
}
