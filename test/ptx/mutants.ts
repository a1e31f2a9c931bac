// Deliberate bugs in the test kernels, each of which must be caught: by ptxas, by a fault of the interpreter, or by a wrong
// result under one of the schedules. Prints a table; --write puts it into README.md.
import { spawn, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { program } from 'commander';
import { type Case, caseOf, type Kind, runKernel } from './support/attention';
import { Ptx, SCHEDULES } from './support/interpreter';

interface Mutant {
  name: string;
  kind: Kind;
  file: string;
  from: string; // occurs exactly once in the file
  to: string;
}

const hopper = (name: string, from: string, to: string, file = 'hopper_attention.cu'): Mutant => ({
  name,
  kind: 'hopper',
  file,
  from,
  to,
});
const ampere = (name: string, from: string, to: string, file = 'ampere_attention.cu'): Mutant => ({
  name,
  kind: 'ampere',
  file,
  from,
  to,
});

const MUTANTS: Mutant[] = [
  hopper(
    'wrong stride in the descriptor of K',
    'matrix(k + at, 16, 8 * kRowBytes)',
    'matrix(k + at, 16, 4 * kRowBytes)',
  ),
  hopper('no swizzle in descriptors', 'const uint64_t swizzle = 1;', 'const uint64_t swizzle = 0;', 'ptx.h'),
  hopper(
    'wrong coordinate of a tensor copy',
    'barrier, kColumns, work.head, token, work.batch',
    'barrier, 0, work.head, token, work.batch',
  ),
  hopper(
    'no tail mask',
    'if (key >= keys || (causal && key > position)) scores[i]',
    'if (causal && key > position) scores[i]',
  ),
  hopper('causal mask off by one', 'key > position)) scores[i] =', 'key >= position)) scores[i] ='),
  hopper('shuffle left out', 'return combine(x, __shfl_xor_sync(0xffffffff, x, 2));', 'return x;'),
  hopper('output not rescaled', 'out[i] *= decay;', ''),
  hopper('no guard on rows of the LSE', 'lane % 4 == 0 && query < queries', 'lane % 4 == 0'),
  hopper('no wait for a full stage', 'barrier_wait(&shared.full[stage], round % 2);', ''),
  hopper('no wait for an empty stage', 'barrier_wait(&shared.empty[stage], (round + 1) % 2);', ''),
  hopper(
    'full barrier waited for in the wrong phase',
    'barrier_wait(&shared.full[stage], round % 2);',
    'barrier_wait(&shared.full[stage], (round + 1) % 2);',
  ),
  hopper('empty barrier that expects one warp too few', 'kConsumers * 4);', 'kConsumers * 4 - 1);'),
  hopper(
    'half the expected bytes',
    'barrier_expect(&shared.full[stage], 2 * kTileBytes);',
    'barrier_expect(&shared.full[stage], kTileBytes);',
  ),
  hopper(
    'stage released before its products are done',
    'multiply_values(out, scores, shared_address(shared.v[stage]));\n    if (lane == 0) barrier_arrive(&shared.empty[stage]);',
    'if (lane == 0) barrier_arrive(&shared.empty[stage]);\n    multiply_values(out, scores, shared_address(shared.v[stage]));',
  ),
  hopper('no wait for wgmma', 'asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");', '', 'ptx.h'),
  hopper(
    'wgmma may still run after the wait',
    'wgmma.wait_group.sync.aligned 0;',
    'wgmma.wait_group.sync.aligned 1;',
    'ptx.h',
  ),
  hopper('no fence before wgmma', 'asm volatile("wgmma.fence.sync.aligned;" ::: "memory");', '', 'ptx.h'),
  hopper(
    'no barrier after mbarrier.init',
    '  __syncthreads();\n  if (threadIdx.x < 128) {',
    '  if (threadIdx.x < 128) {',
  ),
  hopper('no proxy fence before the tensor store', '  fence_async();\n', ''),
  hopper('no barrier before the tensor store', '  named_barrier(1 + consumer, 128);\n', ''),
  ampere('no wait for cp.async', 'copy_async_wait<1>();', ''),
  ampere('waits for one group too few', 'copy_async_wait<1>();', 'copy_async_wait<2>();'),
  ampere('no barrier before a stage is read', '__syncthreads();  // what all threads copied is there', ''),
  ampere(
    'no barrier before a stage is overwritten',
    '__syncthreads();  // all have read the stage that the next round overwrites',
    '',
  ),
  ampere('V not transposed', 'load_matrix_transposed(b,', 'load_matrix(b,'),
  ampere(
    'swizzle of the copy differs from that of ldmatrix',
    'copy_async(chunk_address<kHeadDim>(tile, row, chunk), from, valid)',
    'copy_async(tile + (row * kChunks + chunk) * 16, from, valid)',
  ),
  ampere('no guard on rows of the copy', 'const bool valid = first + row < rows;', 'const bool valid = true;'),
  ampere('no guard on rows of the output', 'if (row[r] >= queries) continue;', ''),
];

const ROOT = join(__dirname, '../..');
const KERNELS = join(__dirname, 'kernels');
const BUILD = join(ROOT, 'build/ptx/mutants');
const ARCHITECTURE = { hopper: '90a', ampere: '80' };

// Many rounds of the ring with a tail; causal with several heads; queries in front that see nothing.
const CASES = [
  caseOf({ batch: 1, heads: 1, queries: 150, keys: 1300, headDim: 128, causal: false }, 1),
  caseOf({ batch: 1, heads: 2, queries: 150, keys: 300, headDim: 128, causal: true }, 2),
  caseOf({ batch: 2, heads: 1, queries: 200, keys: 77, headDim: 128, causal: true }, 3),
];

program
  .name('npm run test:ptx:mutants --')
  .description('Compiles the test kernels with one deliberate bug at a time, and shows what catches each.')
  .option('--write', 'put the table into test/ptx/README.md')
  .option('--only <text>', 'only the mutants whose names contain the text')
  .parse();
const options = program.opts<{ write?: boolean; only?: string }>();

main().catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});

async function main(): Promise<void> {
  if (spawnSync('nvcc', ['--version']).error) {
    console.log('nvcc is missing, without which kernels cannot be compiled; install the CUDA toolkit 12.8 or newer.');
    return;
  }
  rmSync(BUILD, { recursive: true, force: true });
  for (const kind of ['hopper', 'ampere'] as const) {
    const caught = await trial(kind, join(BUILD, kind));
    if (caught) throw new Error(`the ${kind} kernel fails without any bug put in: ${caught}`);
  }
  const wanted = MUTANTS.filter(({ name }) => name.includes(options.only ?? ''));
  const results = new Map<Mutant, string | undefined>();
  const queue = [...wanted];
  const work = async () => {
    for (let mutant = queue.shift(); mutant; mutant = queue.shift()) {
      results.set(mutant, await trial(mutant.kind, join(BUILD, String(MUTANTS.indexOf(mutant))), mutant));
      if (process.stderr.isTTY) process.stderr.write(`\r${results.size} of ${wanted.length} `);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  if (process.stderr.isTTY) process.stderr.write('\r');

  const row = (mutant: Mutant) => `| ${mutant.name} | ${mutant.kind} | ${results.get(mutant) ?? '**not caught**'} |`;
  const table = ['| deliberate bug | kernel | caught by |', '|---|---|---|', ...wanted.map(row)].join('\n');
  console.log(table);
  if (options.write) write(table);
  const alive = wanted.filter((mutant) => !results.get(mutant));
  console.log(`\n${wanted.length - alive.length} of ${wanted.length} caught`);
  if (alive.length > 0) process.exitCode = 1;
}

/** Compiles a kernel, with a mutant's bug put in, and runs it. What catches the bug, or undefined. */
async function trial(kind: Kind, folder: string, mutant?: Mutant): Promise<string | undefined> {
  mkdirSync(folder, { recursive: true });
  cpSync(KERNELS, folder, { recursive: true });
  if (mutant) {
    const path = join(folder, mutant.file);
    const parts = readFileSync(path, 'utf8').split(mutant.from);
    if (parts.length !== 2)
      throw new Error(`"${mutant.name}": its text occurs ${parts.length - 1} times in ${mutant.file}`);
    writeFileSync(path, parts.join(mutant.to));
  }
  const source = join(folder, `${kind}_attention.cu`);
  const ptx = join(folder, 'kernel.ptx');
  const architecture = ARCHITECTURE[kind];
  await run('nvcc', ['-std=c++17', '-O3', '-ptx', `-arch=compute_${architecture}`, source, '-o', ptx]);
  const messages = await run('ptxas', ['-v', `-arch=sm_${architecture}`, ptx, '-o', join(folder, 'kernel.cubin')]);
  const code = /\(C75\d\d\)/.exec(messages);
  if (code) return `ptxas, message ${code[0].slice(1, -1)}`;
  const text = readFileSync(ptx, 'utf8');
  const module = new Ptx(text);
  try {
    for (const of of CASES) {
      const caught = schedules(module, text, kind, of);
      if (caught) return caught;
    }
  } finally {
    module.dispose();
  }
  return undefined;
}

function schedules(module: Ptx, text: string, kind: Kind, of: Case): string | undefined {
  for (const schedule of SCHEDULES) {
    const under = `${schedule.asynchrony}, seed ${schedule.seed}`;
    try {
      if (runKernel(module, text, kind, of, schedule).problem()) return `wrong result (${under})`;
    } catch (error) {
      return `${summary((error as Error).message)} (${under})`;
    }
  }
  return undefined;
}

/** A report without lines and addresses. */
function summary(report: string): string {
  if (report.startsWith('deadlock')) return 'deadlock report';
  const [, what] = /-- (.*?) \(block/s.exec(report) ?? [];
  return (what ?? report)
    .replace(/ at line .*/s, '')
    .replace(/0x[0-9a-f]+/g, '...')
    .split(/[,:]/)
    .slice(0, 2)
    .join(',');
}

function run(command: string, args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data) => {
        text += data;
      });
    }
    child.on('error', reject);
    child.on('exit', (status) => {
      if (status === 0) resolve(text);
      else reject(new Error(`${command} ${args.join(' ')} failed:\n${text}`));
    });
  });
}

function write(table: string): void {
  const path = join(__dirname, 'README.md');
  const [begin, end] = ['<!-- mutants:begin -->', '<!-- mutants:end -->'];
  const text = readFileSync(path, 'utf8');
  const before = text.slice(0, text.indexOf(begin) + begin.length);
  writeFileSync(path, `${before}\n${table}\n${text.slice(text.indexOf(end))}`);
}
