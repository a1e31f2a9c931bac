// node scripts/nvcc.mjs [--judge] SOURCE OBJECT PRODUCTS NVCC FLAGS...: compiles one .cu file and says how long it took.
// PRODUCTS gets the PTX (compute_80/NAME.ptx) and, of each architecture, machine code and log (gates/NAME_90a.cubin). With
// --judge, what ptxas says may end it. Run by cmake/cuda.cmake.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { refusals, splitLog } from './ptxas.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const strict = process.argv[2] === '--judge';
const [source, object, products, nvcc, ...flags] = process.argv.slice(strict ? 3 : 2);
const name = basename(object, '.o');
const [, compute] = /arch=compute_(\w+)/.exec(flags.join(' '));

mkdirSync(dirname(object), { recursive: true });
const scratch = mkdtempSync(`${object}-`);
process.on('exit', () => rmSync(scratch, { recursive: true }));

const start = Date.now();
const made = join(scratch, 'made.o');
const args = ['-MMD', '-MF', `${object}.d`, '-MT', object, '--keep', '--keep-dir', scratch, '-Xptxas', '-v'];
const { status, stdout, stderr, error } = spawnSync(nvcc, [...flags, ...args, '-c', join(root, source), '-o', made], {
  encoding: 'utf8',
  maxBuffer: 1 << 28,
});
if (status !== 0) fail(`${stdout ?? ''}${stderr ?? ''}${error?.message ?? ''}`);
const warnings = stderr.split('\n').filter((line) => /warning/i.test(line));
if (warnings.length > 0) console.log(warnings.join('\n'));

const logs = splitLog(stderr);
keep();
const problems = strict ? refusals(source, logs) : [];
if (problems.length > 0) fail(problems.map((sentence) => `${source}: ${sentence}`).join('\n'));
renameSync(made, object);
console.log(`compiled ${source}: ${((Date.now() - start) / 1000).toFixed(1)} s`);

// The PTX and the machine code; kept also when they are refused, to be looked at.
function keep() {
  const gates = join(products, 'gates');
  const ptx = join(products, `compute_${compute}`);
  for (const folder of [gates, ptx]) mkdirSync(folder, { recursive: true });
  const stem = basename(source, '.cu');
  cpSync(join(scratch, `${stem}.ptx`), join(ptx, `${name}.ptx`));
  for (const [architecture, text] of Object.entries(logs)) {
    const files = readdirSync(scratch);
    const cubin = [`${stem}.sm_${architecture}.cubin`, `${stem}.cubin`].find((file) => files.includes(file));
    cpSync(join(scratch, cubin), join(gates, `${name}_${architecture}.cubin`));
    writeFileSync(join(gates, `${name}_${architecture}.log`), text);
  }
}

function fail(text) {
  console.error(text);
  process.exit(1);
}
