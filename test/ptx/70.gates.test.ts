// The static gates: what ptxas says and makes of the kernels passes, and what it should not say or make is refused.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { readLog } from '../../scripts/ptxas.mjs';
import { check, checkAll, disassembler, readPtx, readSass, violations } from './gates';

const BUILD = join(__dirname, '../../build/ptx');
const GATES = join(BUILD, 'gates');
const PTX = join(BUILD, 'ptx');
const HOPPER = join(PTX, 'compute_90a/hopper_attention.ptx');
const AMPERE = join(PTX, 'compute_80/ampere_attention.ptx');

const tool = existsSync(GATES) ? disassembler() : { problem: 'nvcc is missing, which compiles the kernels' };
const title = (name: string) => (tool.problem ? `${name} (skipped: ${tool.problem})` : name);

describe.skipIf(tool.problem)(title('machine code'), () => {
  const scratch = mkdtempSync(join(tmpdir(), 'gates-'));
  afterAll(() => rmSync(scratch, { recursive: true }));

  it('of every kernel passes', () => {
    const results = checkAll(GATES, PTX, tool.path!);
    expect(results.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['ampere_attention_80', 'hopper_attention_90a']),
    );
    for (const { name, problems } of results) expect(problems, name).toEqual([]);
  });

  it('holds the tensor-core instructions and copies that the kernels are made of', () => {
    const counts = (cubin: string) => {
      const { stdout } = spawnSync(tool.path!, [join(GATES, cubin)], { encoding: 'utf8', maxBuffer: 1 << 30 });
      return readSass(stdout);
    };
    const [hopper] = counts('hopper_attention_90a.cubin');
    // 8 steps of Q K^T and 8 of P V; Q, K and V in two halves each; O in two halves, in a loop or not
    expect(hopper!.counts.slice(0, 2)).toEqual([16, 6]);
    expect(hopper!.counts[2]).toBeGreaterThan(0);
    for (const kernel of counts('ampere_attention_80.cubin')) {
      for (const count of kernel.counts.slice(3)) expect(count, kernel.name).toBeGreaterThan(0);
    }
  });

  it('with forced spills is refused', () => {
    const source = join(scratch, 'spills.ptx');
    writeFileSync(source, readFileSync(AMPERE, 'utf8').replaceAll(/^\.maxntid .*$/gm, '.maxnreg 64'));
    const arguments_ = ['-v', '-arch=sm_80', source, '-o', join(scratch, 'spills.cubin')];
    const log = spawnSync('ptxas', arguments_, { encoding: 'utf8' });
    writeFileSync(join(scratch, 'spills.log'), log.stdout + log.stderr);
    expect(check(scratch, 'spills', source, tool.path!).join('\n')).toMatch(/ampere_kernelILi128.* spills \d+ bytes/);
  });

  it('of another source is refused', () => {
    copyFileSync(join(GATES, 'ampere_attention_80.cubin'), join(scratch, 'other.cubin'));
    copyFileSync(join(GATES, 'ampere_attention_80.log'), join(scratch, 'other.log'));
    expect(check(scratch, 'other', HOPPER, tool.path!)).toEqual([
      ...Array(4).fill(expect.stringMatching(/ampere_kernel.* is in the log of ptxas, but not in the PTX/)),
      expect.stringMatching(/hopper_kernel.* is not in the log of ptxas/),
      expect.stringMatching(/hopper_kernel.* is not in the machine code/),
    ]);
  });

  it('that is not there is refused', () => {
    expect(() => checkAll(mkdtempSync(join(scratch, 'empty-')), PTX, tool.path!)).toThrow(/holds no \.cubin file/);
  });

  it('that lacks instructions of its PTX is refused', () => {
    const path = join(scratch, 'more.ptx');
    const text = readFileSync(HOPPER, 'utf8');
    writeFileSync(path, `${text}\n// wgmma.mma_async.sync.aligned.m64n128k16`);
    expect(check(GATES, 'hopper_attention_90a', path, tool.path!)).toEqual([
      expect.stringMatching(/hopper_kernel.* has 16 GMMA in its machine code, but 17 wgmma.mma_async in its PTX/),
    ]);
  });
});

const BACKEND = join(BUILD, 'cuda/products');
const shipped = existsSync(join(BACKEND, 'gates'));

describe.skipIf(tool.problem || !shipped)(title('machine code of the CUDA backend'), () => {
  it('passes', { timeout: 300_000 }, () => {
    const results = checkAll(join(BACKEND, 'gates'), BACKEND, tool.path!);
    for (const { name, problems } of results) expect.soft(problems, name).toEqual([]);
  });

  // Which the counts above, equal in PTX and machine code, do not tell: that there is anything to count.
  it('is made of the tensor-core instructions that it is written for', () => {
    const kernels = (folder: string, prefix: string) =>
      readdirSync(join(BACKEND, folder))
        .filter((file) => file.startsWith(prefix))
        .flatMap((file) => readPtx(readFileSync(join(BACKEND, folder, file), 'utf8')));
    const hopper = kernels('compute_90a', 'kernels.attention.sm90.');
    const ampere = kernels('compute_80', 'kernels.attention.sm80.');
    expect(hopper.length * ampere.length).toBeGreaterThan(0);
    for (const { name, counts } of hopper) expect(Math.min(...counts.slice(0, 2)), name).toBeGreaterThan(0);
    for (const { name, counts } of ampere) expect(counts[3], name).toBeGreaterThan(0);
  });
});

describe('logs of ptxas', () => {
  const log = (registers: number, more = '') => `ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used ${registers} registers, used 1 barriers
${more}`;
  const judge = (text: string, threads: number, more = '') =>
    violations({
      log: readLog(text),
      ptx: readPtx(`.visible .entry k(.param .u64 a)\n.maxntid ${threads / 2}, 2, 1\n${more}\n{ ret; }`),
      sass: [{ name: 'k', counts: [0, 0, 0, 0, 0, 0] }],
    });

  it('are read', () => {
    expect(readLog(log(168))).toEqual({ kernels: [{ name: 'k', registers: 168, spills: 0 }], messages: [] });
    expect(judge(log(168), 384)).toEqual([]);
  });

  it('refuse more registers than the launch bound leaves', () => {
    expect(judge(log(169), 384)).toEqual(['k needs 169 registers; its launch bound allows 168']);
    expect(judge(log(255), 256)).toEqual([]);
    expect(judge(log(200), 128, '.minnctapersm 3')).toEqual(['k needs 200 registers; its launch bound allows 168']);
    expect(judge(log(256), 128)).toEqual(['k needs 256 registers; its launch bound allows 255']);
  });

  it('refuse fewer registers than setmaxnreg hands on to those that wait for them', () => {
    const changes = 'setmaxnreg.dec.sync.aligned.u32 40;\nsetmaxnreg.inc.sync.aligned.u32 232;';
    expect(judge(log(168), 384, changes)).toEqual([]);
    expect(judge(log(160), 384, changes)).toEqual([
      'k waits for ever: 160 registers of 384 threads are 61440, and after setmaxnreg it wants 64512',
    ]);
  });

  it.each([
    'ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ...',
    'ptxas info    : (C7519) Potential Performance Loss: warpgroup.arrive is injected in around line 1 ...',
  ])('refuse %s', (line) => {
    expect(judge(log(100, line), 384)).toEqual([`ptxas: ${line}`]);
  });
});
