// npx tsx bench/cudnn/fetch.ts: downloads the wheels whose headers the cuDNN baseline is compiled with, and keeps the
// headers alone, in the build folder. Where the benchmark runs, cuDNN itself comes from an installed package (PyTorch
// brings it).

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fetchedTo } from './headers';

const WHEELS = [
  { name: 'nvidia-cudnn-frontend==1.32.0', keep: 'include/*' },
  { name: 'nvidia-cudnn-cu13==9.19.0.56', keep: 'nvidia/cudnn/include/*' },
  { name: 'nvidia-cuda-nvrtc==13.0.88', keep: 'nvidia/cu13/include/*' },
];

const target = fetchedTo(join(__dirname, '../../build/bench'));
const scratch = mkdtempSync(join(tmpdir(), 'node-attention-wheels-'));
process.once('exit', () => rmSync(scratch, { recursive: true }));
mkdirSync(target, { recursive: true });
for (const { name, keep } of WHEELS) {
  console.log(`${name} ...`);
  const folder = join(scratch, name.split('=')[0]!);
  run('python3', ['-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:', '-d', folder, name]);
  const [wheel] = readdirSync(folder);
  run('unzip', ['-q', '-o', join(folder, wheel!), keep, '-d', target]);
}
console.log(`headers of the cuDNN baseline: ${target}`);

function run(command: string, args: string[]): void {
  const { status, error } = spawnSync(command, args, { stdio: ['ignore', 'inherit', 'inherit'] });
  if (status === 0) return;
  console.error(`${command} ${args.join(' ')} failed${error ? `: ${error.message}` : ''}`);
  process.exit(1);
}
