// node scripts/reproduce.mjs [--addons]: builds the commit that prebuilds/ was built from once more, in another folder, without
// a compiler's cache, and compares the binaries. With --addons, all but the CUDA library, which takes minutes. Exit
// status: 0 identical, 1 different, 2 there is nothing to compare.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const addons = process.argv.includes('--addons');
const first = readManifest(root);
if (!first) refuse('there is no prebuilds/manifest.json: npm run prebuilds makes it');
if (first.commit.endsWith('-dirty')) refuse('prebuilds/ was built from changes that are not committed');

const scratch = mkdtempSync(join(tmpdir(), 'node-attention-again-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
const again = join(scratch, 'checkout');
run('git', ['clone', '--quiet', '--shared', '--no-checkout', root, again], root);
run('git', ['checkout', '--quiet', '--detach', first.commit], again);
symlinkSync(join(root, 'node_modules'), join(again, 'node_modules'));
if (existsSync(join(root, 'build/cutlass'))) {
  mkdirSync(join(again, 'build'));
  cpSync(join(root, 'build/cutlass'), join(again, 'build/cutlass'), { recursive: true });
}
run(process.execPath, ['scripts/prebuilds.mjs', ...(addons ? ['--addons'] : [])], again);

const second = readManifest(again);
let different = 0;
for (const [name, { sha256, build }] of Object.entries(first.files)) {
  if (!build || (addons && !name.endsWith('.node'))) continue;
  const same = second.files[name]?.sha256 === sha256;
  if (!same) different++;
  console.log(
    `${same ? 'identical' : 'DIFFERENT'} ${name}: ${sha256}${same ? '' : `, again ${second.files[name]?.sha256}`}`,
  );
}
process.exitCode = different === 0 ? 0 : 1;

function readManifest(folder) {
  const file = join(folder, 'prebuilds/manifest.json');
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined;
}

function refuse(sentence) {
  console.error(`reproduce: ${sentence}`);
  process.exit(2);
}

function run(command, args, cwd) {
  const env = { ...process.env, CCACHE_DISABLE: '1' };
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, env, encoding: 'utf8', maxBuffer: 1 << 28 });
  if (status === 0) return;
  console.error(`${stdout}${stderr}\nreproduce: ${command} ${args.join(' ')} failed`);
  process.exit(2);
}
