// npm run release -- patch|minor|major|X.Y.Z: bumps the version, writes the changelog, commits, builds, verifies and packs. Stops
// before anything leaves this machine, and says what is left to do. docs/releasing.md is for whoever runs it.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { npmProgram } from './nodes.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
process.chdir(root);
const [wanted, ...more] = process.argv.slice(2);
let committed = false;
const before = readJson('package.json').version;
const version = nextVersion();
const tag = `v${version}`;

check();
step('version and changelog');
quiet(process.execPath, [npmProgram(), 'version', version, '--no-git-tag-version', '--ignore-scripts']);
writeChangelog();
quiet('git', ['add', 'package.json', 'package-lock.json', 'CHANGELOG.md']);
quiet('git', ['commit', '--quiet', '-m', `Version ${version}`]);
committed = true;

step('binaries');
rmSync('build/prebuilds', { recursive: true, force: true });
loud(['run', '-s', 'prebuilds']);
checkManifest();
step('tests of the package');
loud(['run', '-s', 'test:pack']);
step('the same binaries once more');
visible(process.execPath, ['scripts/reproduce.mjs']);
step('verification');
visible(process.execPath, ['bin/node-attention.js', 'doctor', '--verify'], { PREBUILDS_ONLY: '1' });

step('package');
mkdirSync('build/release', { recursive: true });
const [packed] = JSON.parse(quiet(process.execPath, [npmProgram(), 'pack', '--json', '--ignore-scripts']));
const file = join('build/release', packed.filename);
renameSync(packed.filename, file);
console.log(`
${file}: ${(packed.size / 1e6).toFixed(1)} MB, ${packed.integrity}
Nothing has been published. When .ci/run passes on this commit:

  git tag ${tag} && git push origin HEAD ${tag}
  npm publish ${file}
`);
if (!readJson('package.json').repository) {
  console.log('package.json has no "repository": without one the links of README.md are dead on the page of npm');
}

function step(name) {
  console.log(`\n== ${name}`);
}

function refuse(sentence) {
  console.error(`release: ${sentence}${committed ? '. To take the version back: git reset --hard HEAD~1' : ''}`);
  process.exit(1);
}

function readJson(path) {
  return JSON.parse(readFileSync(path, 'utf8'));
}

function nextVersion() {
  const usage = 'usage: npm run release -- patch|minor|major|X.Y.Z';
  const [major, minor, patch] = before.split(/[.-]/).map(Number);
  const named = {
    patch: `${major}.${minor}.${patch + 1}`,
    minor: `${major}.${minor + 1}.0`,
    major: `${major + 1}.0.0`,
  };
  if (more.length > 0) refuse(usage);
  const next = named[wanted] ?? wanted;
  if (!/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(next ?? '')) refuse(usage);
  return next;
}

function check() {
  if (quiet('git', ['status', '--porcelain'])) refuse('there are changes that are not committed: commit or stash them');
  if (quiet('git', ['tag', '--list', tag])) refuse(`${tag} has been released already`);
}

/** The subjects of all commits since the last release, merges left out, above what the file holds. */
function writeChangelog() {
  const [last] = quiet('git', ['tag', '--list', 'v*', '--sort=-version:refname']).split('\n');
  const range = last ? [`${last}..HEAD`] : ['HEAD'];
  const subjects = quiet('git', ['log', '--no-merges', '--format=- %s', ...range]);
  const date = new Date().toISOString().slice(0, 10);
  const title = '# Changelog\n';
  const old = existsSync('CHANGELOG.md') ? readFileSync('CHANGELOG.md', 'utf8').replace(title, '') : '';
  writeFileSync('CHANGELOG.md', `${title}\n## ${version} (${date})\n\n${subjects}\n${old}`);
}

/** That nothing is missing which this machine could not build, and that all is of this commit. */
function checkManifest() {
  const { commit, files } = readJson('prebuilds/manifest.json');
  const head = quiet('git', ['rev-parse', 'HEAD']);
  if (commit !== head) refuse(`prebuilds/ is of ${commit}, not of ${head}`);
  const names = ['linux-x64/node-attention.glibc.node', 'linux-arm64/node-attention.glibc.node'];
  const library = 'linux-x64/libnode_attention_cuda.so';
  for (const name of [...names, library]) {
    if (!files[name]) refuse(`prebuilds/${name} was not built; the messages above say why`);
    if (!files[name].build.startsWith(`${version}+`)) refuse(`prebuilds/${name} is of build ${files[name].build}`);
  }
  console.log(`CUDA ${files[library].cuda.version}, machine code for ${files[library].cuda.architectures.join(', ')}`);
}

function loud(npmArguments) {
  visible(process.execPath, [npmProgram(), ...npmArguments]);
}

/** Runs it in sight. */
function visible(command, args, env = {}) {
  const { status } = spawnSync(command, args, { stdio: 'inherit', env: { ...process.env, ...env } });
  if (status !== 0) refuse(`${[command, ...args].join(' ')} failed`);
}

/** What it prints; it must succeed. */
function quiet(command, args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) refuse(`${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
  return stdout.trim();
}
