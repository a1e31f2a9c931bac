// Static gates on CUDA kernels: what ptxas says of them, and which instructions it made. A kernel that spills, whose wgmma
// ptxas serialised, that needs more registers than its launch bound allows, or whose tensor-core code was compiled away
// runs slowly or not at all, and none of it shows without a device otherwise.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Command } from 'commander';
import { type Log, mostSpills, readLog } from '../../scripts/ptxas.mjs';

const ROOT = join(__dirname, '../..');
const DISASSEMBLER = 'nvidia-cuda-nvdisasm==13.5.37'; // on PyPI
const REGISTERS = 65536; // of a multiprocessor
const MOST_REGISTERS = 255; // of a thread
const WARPGROUP = 128; // threads

/** Instructions of PTX that must reach the machine code in the same number, and their names there. */
const COUNTED = [
  { ptx: /\bwgmma\.mma_async\.sync/g, sass: /^[HQI]GMMA$/, claimed: 'wgmma.mma_async', made: 'GMMA' },
  { ptx: /\bcp\.async\.bulk\.tensor\.\dd\.shared/g, sass: /^UTMALDG$/, claimed: 'tensor loads', made: 'UTMALDG' },
  { ptx: /\bcp\.async\.bulk\.tensor\.\dd\.global/g, sass: /^UTMASTG$/, claimed: 'tensor stores', made: 'UTMASTG' },
  { ptx: /\bmma\.sync/g, sass: /^[HIQ]MMA$/, claimed: 'mma.sync', made: 'MMA' },
  { ptx: /\bldmatrix\.sync/g, sass: /^LDSM$/, claimed: 'ldmatrix', made: 'LDSM' },
  { ptx: /\bcp\.async\.c[ag]\.shared/g, sass: /^LDGSTS$/, claimed: 'cp.async', made: 'LDGSTS' },
];

/** A kernel and how often it has each counted instruction. */
export interface Counts {
  name: string;
  threads?: number;
  /** Of a thread, after setmaxnreg: of the warpgroup that gives some away, and of each of the others. */
  changed?: { given: number; taken: number };
  counts: number[];
}

/** Of each kernel of a PTX text: the threads of its launch bounds, and how often it has each counted instruction. */
export function readPtx(text: string): Counts[] {
  const starts = [...text.matchAll(/\.entry\s+([\w$]+)/g)];
  return starts.map(({ 1: name, index }, i) => {
    const body = text.slice(index, starts[i + 1]?.index);
    const bound = /\.(?:max|req)ntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?/.exec(body);
    const block = bound ? bound.slice(1).reduce((product, n) => product * Number(n ?? 1), 1) : undefined;
    // Threads that must fit on a multiprocessor at once.
    const [, blocks] = /\.minnctapersm\s+(\d+)/.exec(body) ?? [];
    const threads = block && block * Number(blocks ?? 1);
    const registersAfter = (how: string) =>
      Number(new RegExp(`\\bsetmaxnreg\\.${how}\\.sync\\.aligned\\.u32\\s+(\\d+)`).exec(body)?.[1]);
    const [given, taken] = [registersAfter('dec'), registersAfter('inc')];
    const changed = given && taken ? { given, taken } : undefined;
    return { name: name!, threads, changed, counts: COUNTED.map(({ ptx }) => body.match(ptx)?.length ?? 0) };
  });
}

/** How often each kernel of a disassembled cubin has each counted instruction. */
export function readSass(text: string): Counts[] {
  return text
    .split(/^\.text\./m)
    .slice(1)
    .map((section) => {
      const name = /^[\w$]+/.exec(section)![0];
      const operations = [...section.matchAll(/^\s+\/\*[0-9a-f]+\*\/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)/gm)];
      return { name, counts: COUNTED.map(({ sass }) => operations.filter(([, op]) => sass.test(op!)).length) };
    });
}

interface Judged {
  log: Log;
  ptx: Counts[];
  sass: Counts[];
  /** Bytes that each kernel may spill. */
  spills?: number;
}

/** What is wrong, one sentence for each. */
export function violations({ log, ptx, sass, spills: allowed = 0 }: Judged): string[] {
  const problems = log.messages.map((line) => `ptxas: ${line.trim()}`);
  for (const { name, registers, spills } of log.kernels) {
    const { threads, changed } = ptx.find((kernel) => kernel.name === name) ?? {};
    const most = threads ? Math.min(MOST_REGISTERS, Math.floor(REGISTERS / threads / 8) * 8) : MOST_REGISTERS;
    if (!ptx.some((kernel) => kernel.name === name))
      problems.push(`${name} is in the log of ptxas, but not in the PTX`);
    if (spills > allowed) {
      const may = allowed === 0 ? 'it must keep everything in registers' : `${allowed} are allowed`;
      problems.push(`${name} spills ${spills} bytes; ${may}`);
    }
    if (threads && changed) {
      const needed = WARPGROUP * changed.given + (threads - WARPGROUP) * changed.taken;
      if (needed > registers * threads) {
        const text = `${registers} registers of ${threads} threads are ${registers * threads}`;
        problems.push(`${name} waits for ever: ${text}, and after setmaxnreg it wants ${needed}`);
      }
    }
    if (registers > most) problems.push(`${name} needs ${registers} registers; its launch bound allows ${most}`);
  }
  for (const { name, counts } of ptx) {
    if (!log.kernels.some((kernel) => kernel.name === name)) problems.push(`${name} is not in the log of ptxas`);
    const machine = sass.find((kernel) => kernel.name === name);
    if (!machine) {
      problems.push(`${name} is not in the machine code`);
      continue;
    }
    COUNTED.forEach(({ claimed, made }, i) => {
      if (machine.counts[i] === counts[i]) return;
      problems.push(
        `${name} has ${machine.counts[i]} ${made} in its machine code, but ${counts[i]} ${claimed} in its PTX`,
      );
    });
  }
  return problems;
}

/** nvdisasm, installed into the folder when it is not there; or why it cannot be. */
export function disassembler(folder = join(ROOT, 'build/ptx/venv')): { path?: string; problem?: string } {
  const python = join(folder, 'bin/python');
  const find = () => {
    const code = 'import site; print(site.getsitepackages()[0])';
    const packages = spawnSync(python, ['-c', code], { encoding: 'utf8' }).stdout?.trim();
    const path = packages ? join(packages, 'nvidia/cu13/bin/nvdisasm') : '';
    return existsSync(path) ? path : undefined;
  };
  const present = existsSync(python) ? find() : undefined;
  if (present) return { path: present };
  const made = spawnSync('python3', ['-m', 'venv', folder], { encoding: 'utf8' });
  if (made.status !== 0)
    return { problem: 'python3 with venv is missing (Debian: python3-venv), which nvdisasm comes by' };
  const { status, stderr } = spawnSync(python, ['-m', 'pip', 'install', '-q', DISASSEMBLER], { encoding: 'utf8' });
  if (status !== 0) return { problem: `pip cannot install ${DISASSEMBLER}: ${stderr.trim().split('\n').at(-1)}` };
  const path = find();
  if (!path) return { problem: `${DISASSEMBLER} holds no nvdisasm` };
  chmodSync(path, 0o755);
  return { path };
}

/** The violations of one kernel file: <name>.log and <name>.cubin in a folder, and its PTX. */
export function check(folder: string, name: string, ptxPath: string, nvdisasm: string, spills = 0): string[] {
  const { status, stdout, stderr } = spawnSync(nvdisasm, [join(folder, `${name}.cubin`)], {
    encoding: 'utf8',
    maxBuffer: 1 << 30,
  });
  if (status !== 0) return [`${name}.cubin cannot be disassembled: ${stderr}`];
  return violations({
    log: readLog(readFileSync(join(folder, `${name}.log`), 'utf8')),
    ptx: readPtx(readFileSync(ptxPath, 'utf8')),
    sass: readSass(stdout),
    spills,
  });
}

/**
 * Every kernel file of a folder: <source>_<architecture>.cubin, made of <ptx>/compute_<architecture>/<source>.ptx or of
 * that for compute_80. The dots of a source stand for slashes.
 */
export function checkAll(folder: string, ptxFolder: string, nvdisasm: string): { name: string; problems: string[] }[] {
  const names = readdirSync(folder)
    .filter((file) => file.endsWith('.cubin'))
    .map((file) => basename(file, '.cubin'));
  if (names.length === 0) throw new Error(`${folder} holds no .cubin file`);
  return names.map((name) => {
    const [, source, architecture] = /^(.*)_([0-9a-z]+)$/.exec(name) as unknown as [string, string, string];
    const places = [architecture, '80'].map((compute) => join(ptxFolder, `compute_${compute}`, `${source}.ptx`));
    const ptx = places.find(existsSync) ?? places[0]!;
    const spills = mostSpills(`${source.replaceAll('.', '/')}.cu`, architecture);
    return { name, problems: check(folder, name, ptx, nvdisasm, spills) };
  });
}

function main() {
  const program = new Command('tsx test/ptx/gates.ts')
    .description(
      'Checks what ptxas made of kernels: no spills beyond what kernels/spills.json allows, no C75xx message, registers within the launch bound and as many as setmaxnreg hands on, and as many tensor-core and copy instructions as the PTX has.',
    )
    .argument('[folder]', '<source>_<architecture>.cubin and .log files', join(ROOT, 'build/ptx/gates'))
    .option('--ptx <folder>', 'compute_<architecture>/<source>.ptx files', join(ROOT, 'build/ptx/ptx'))
    .parse();
  const [folder] = program.processedArgs as [string];
  if (!existsSync(folder)) program.error(`${folder} is missing; npm run test:ptx builds it where nvcc is found.`);
  const { path, problem } = disassembler();
  if (!path) return program.error(problem!);
  const results = checkAll(folder, program.opts<{ ptx: string }>().ptx, path);
  for (const { name, problems } of results) {
    console.log(`${name}: ${problems.length === 0 ? 'passed' : ''}`);
    for (const sentence of problems) console.log(`  ${sentence}`);
  }
  process.exitCode = results.every(({ problems }) => problems.length === 0) ? 0 : 1;
}

if (process.argv[1] === __filename) main();
