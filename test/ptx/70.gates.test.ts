// The static gates (scripts/ptx-gates.mjs): the test kernels pass, and kernels that are bad on purpose are refused.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const ROOT = join(__dirname, '../..');
const BUILD = join(ROOT, 'build/ptx');
const built = existsSync(join(BUILD, 'gates/hopper_attention_90a.cubin'));
const HOPPER = { name: 'hopper_attention_90a', ptx: 'ptx/compute_90a/hopper_attention.ptx', architecture: 'sm_90a' };
const AMPERE = { name: 'ampere_attention_80', ptx: 'ptx/compute_80/ampere_attention.ptx', architecture: 'sm_80' };

function gates(folder: string) {
  const { status, stdout, stderr } = spawnSync('node', [join(ROOT, 'scripts/ptx-gates.mjs'), folder], {
    encoding: 'utf8',
  });
  return { status, output: `${stdout}${stderr}` };
}

describe.skipIf(!built)(built ? 'static gates' : 'static gates (skipped: nvcc is missing, for the kernels)', () => {
  let folder = '';
  let counts = true;
  let number = 0;

  // The log, machine code and PTX of a test kernel, in a folder of their own.
  function copy(of = HOPPER) {
    const to = join(folder, String(number++));
    mkdirSync(to);
    for (const kind of ['log', 'cubin']) {
      copyFileSync(join(BUILD, `gates/${of.name}.${kind}`), join(to, `${of.name}.${kind}`));
    }
    copyFileSync(join(BUILD, of.ptx), join(to, `${of.name}.ptx`));
    return to;
  }
  function edit(file: string, from: RegExp, to: string) {
    const text = readFileSync(file, 'utf8');
    const changed = text.replace(from, to);
    expect(changed).not.toBe(text);
    writeFileSync(file, changed);
  }

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'ptx-gates-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it('let the test kernels pass', ({ annotate }) => {
    const { status, output } = gates(join(BUILD, 'gates'));
    expect(status, output).toBe(0);
    counts = !output.includes('skipped');
    if (!counts) annotate(output);
  });

  it('refuse spills', () => {
    const to = copy(AMPERE);
    const args = ['-v', `-arch=${AMPERE.architecture}`, '-maxrregcount=64', join(BUILD, AMPERE.ptx)];
    // The launch bound is stronger than the option.
    const ptx = join(to, `${AMPERE.name}.ptx`);
    edit(ptx, /\.maxntid 128, 1, 1\n(\.minnctapersm \d+\n)?/g, '');
    const { stdout, stderr } = spawnSync('ptxas', [...args.slice(0, 3), ptx, '-o', join(to, `${AMPERE.name}.cubin`)], {
      encoding: 'utf8',
    });
    writeFileSync(join(to, `${AMPERE.name}.log`), `${stdout}${stderr}`);
    const { status, output } = gates(to);
    expect(status).toBe(1);
    expect(output).toMatch(/ampere_kernel\S*: spill stores of \d+ bytes, limit 0/);
    expect(output).toMatch(/ampere_kernel\S*: spill loads of \d+ bytes, limit 0/);
  });

  it('refuse serialised wgmma', () => {
    const to = copy();
    const message = 'ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized';
    edit(join(to, `${HOPPER.name}.log`), /(Compiling entry.*\n)/, `$1${message}\n`);
    const { status, output } = gates(to);
    expect(status).toBe(1);
    expect(output).toMatch(/hopper_kernel\S*: ptxas reports C7510/);
  });

  it('refuse more registers than the launch bound allows', () => {
    const to = copy();
    edit(join(to, `${HOPPER.name}.log`), /Used 168 registers/, 'Used 169 registers');
    const { status, output } = gates(to);
    expect(status).toBe(1);
    expect(output).toMatch(/hopper_kernel\S*: 169 registers, limit 168/);
  });

  it.each([
    [HOPPER, 'wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16', 'HGMMA'],
    [HOPPER, 'cp.async.bulk.tensor.4d.shared::cluster.global.tile', 'UTMALDG'],
    [HOPPER, 'cp.async.bulk.tensor.4d.global.shared::cta.tile', 'UTMASTG'],
    [AMPERE, 'mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32', 'HMMA'],
    [AMPERE, 'ldmatrix.sync.aligned.m8n8.x4.shared.b16', 'LDSM'],
    [AMPERE, 'cp.async.cg.shared.global', 'LDGSTS'],
  ] as const)('%o: refuse code that lacks one %s', (of, claim, opcode) => {
    if (!counts) return;
    const to = copy(of);
    edit(join(to, `${of.name}.ptx`), /^(\.minnctapersm.*\n)?\{/m, `$&\n${claim} {}, [x];`);
    const { status, output } = gates(to);
    expect(status).toBe(1);
    expect(output).toMatch(new RegExp(`: \\d+ ${opcode}, limit at least \\d+`));
  });

  it('refuse a kernel without PTX, and a folder without kernels', () => {
    const to = copy();
    rmSync(join(to, `${HOPPER.name}.ptx`));
    expect(gates(to)).toMatchObject({ status: 1, output: expect.stringContaining('its PTX is missing') });
    const empty = join(folder, 'empty');
    mkdirSync(empty);
    expect(gates(empty)).toMatchObject({ status: 1, output: expect.stringContaining('holds no kernel') });
  });
});
