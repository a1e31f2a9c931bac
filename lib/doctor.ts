// npx node-attention doctor

import * as path from 'node:path';
import { findAddon, packageFolder, packageVersion } from './binary';
import { verifyPrebuilds } from './manifest';

const VARIABLES = [
  'NODE_ATTENTION_CPU',
  'NODE_ATTENTION_THREADS',
  'NODE_ATTENTION_DEVICE',
  'NODE_ATTENTION_PREBUILD',
  'PREBUILDS_ONLY',
];

const gibibytes = (bytes: number | undefined) => `${((bytes ?? 0) / 2 ** 30).toFixed(1)} GiB`;

/** The system's C library, as far as Node knows it. */
function libc(): string {
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
  if (process.platform !== 'linux') return '';
  return header.glibcVersionRuntime ? `, glibc ${header.glibcVersionRuntime}` : ', a C library that is not glibc';
}

function list(title: string, lines: string[]): void {
  console.log(title);
  for (const line of lines) console.log(`        ${line}`);
}

/** Prints what is loaded, every backend with its reason code, and how each was found. False when something is wrong. */
export function doctor({ verify }: { verify: boolean }): boolean {
  console.log(
    `node-attention ${packageVersion}, Node.js ${process.version}, ${process.platform}-${process.arch}${libc()}`,
  );
  const search = findAddon();
  const usable = devices(search.file, search.steps);
  for (const name of VARIABLES) {
    console.log(`${name}${process.env[name] === undefined ? ' is not set' : `=${process.env[name]}`}`);
  }
  const sound = !verify || verified(search.file);
  return usable && sound;
}

/** False when not even the CPU can be used. */
function devices(file: string | undefined, steps: string[]): boolean {
  let native: typeof import('./native').native;
  try {
    native = (require('./native') as typeof import('./native')).native;
  } catch (error) {
    list(`addon   load-failed: ${error instanceof Error ? error.message : String(error)}`, steps);
    return false;
  }
  list(`addon   ok: ${file}, build ${native.build}`, steps);
  const rows = (require('./devices') as typeof import('./devices')).devices();
  for (const row of rows) {
    console.log(`${row.device.padEnd(7)} ${row.reason}: ${row.message}`);
    if (!row.usable) continue;
    const units = row.backend === 'cpu' ? 'threads' : 'multiprocessors';
    console.log(
      `        instruction set ${row.instructionSet}, ${row.threads} ${units}, ${gibibytes(row.memoryBytes)} of memory`,
    );
  }
  list('How the CUDA backend was looked for:', native.cudaSearch());
  return rows.some((row) => row.usable);
}

/** Whether the prebuilt files, and the addon that is loaded, are those of the manifest. */
function verified(file: string | undefined): boolean {
  const folder = path.join(process.env.NODE_ATTENTION_PREBUILD || packageFolder, 'prebuilds');
  const result = verifyPrebuilds(folder);
  if (!result) {
    console.log(`verify  ${path.join(folder, 'manifest.json')} is not there: nothing prebuilt to verify`);
    return false;
  }
  const { manifest, good, bad } = result;
  if (manifest.version !== packageVersion) {
    bad.push(`the manifest is of version ${manifest.version}, but the package is ${packageVersion}`);
  }
  if (file && !file.startsWith(path.resolve(folder) + path.sep))
    bad.push(`${file}, which is loaded, is not in the manifest`);
  list(`verify  ${bad.length === 0 ? 'ok' : 'FAILED'}: version ${manifest.version}, commit ${manifest.commit}`, [
    ...good.map((line) => `ok     ${line}`),
    ...bad.map((line) => `WRONG  ${line}`),
  ]);
  return bad.length === 0;
}
