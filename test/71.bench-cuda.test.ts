// The GPU benchmark where there is no GPU: its cases, its judgement of outputs, its driver on a stand-in device whose
// attention gives q, and what it says when there is nothing to measure.

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { toBfloat16 } from 'node-attention';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { buildCutlass, buildDriver, carriedCudaBench, cudaInclude, lacking } from '../bench/cuda/build';
import {
  allCudaCases,
  byWant,
  type CudaCase,
  cudaBytes,
  cudaFlops,
  keyBytes,
  makeCudaCase,
  OF_CHUNKS,
  ROTATE_BYTES,
  SELECTORS,
  setsOf,
} from '../bench/cuda/cases';
import { expectedRows, faultOf, largestDifference } from '../bench/cuda/check';
import { BASELINES, Driver, phaseOf } from '../bench/cuda/driver';
import { makeBlock } from '../bench/cuda/inputs';
import { measureJavaScript } from '../bench/cuda/javascript';
import { DENSITY, measurePlans, withoutAddon } from '../bench/cuda/plans';
import { LIMITS, measureInProcess } from '../bench/cuda/process';
import { judgeCuda, rowOf, suiteResult } from '../bench/cuda/report';
import { type Outcome, runCase } from '../bench/cuda/run';
import type { DeviceReport } from '../bench/cuda/suite';
import { TorchCuda } from '../bench/cuda/torch';
import { findCudnnHeaders } from '../bench/cudnn/headers';
import { faultLines } from '../bench/report';
import { StandIn } from './support/stand-in';

const root = join(__dirname, '..');
const small = makeCudaCase('causal', { batch: 2, heads: 4, kvHeads: 2, queries: 9, keys: 9, headDim: 16 });

describe('cases', () => {
  const cases = allCudaCases(false);

  it('are those of the grid', () => {
    const count = (kind: string) => cases.filter((test) => test.kind === kind).length;
    expect([count('dense'), count('causal'), count('decode')]).toEqual([28, 29, 23]);
    const chosen = (quick: boolean) => allCudaCases(quick).flatMap(({ selector, keys }) => (selector ? [keys] : []));
    const selected = (lengths: number[]) => lengths.flatMap((keys) => [keys, keys, keys]);
    expect(chosen(true)).toEqual([...selected([131072]), 32768]);
    expect(chosen(false)).toEqual([...selected([131072, 1048576]), 131072, 131072, 32768]);
    expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length);
    for (const { kind, batch, queries, heads, kvHeads, headDim, selector } of cases) {
      if (kind === 'decode' || selector) continue;
      expect(batch * queries).toBe(queries > 16384 ? queries : 16384);
      if (heads === kvHeads) expect(heads * headDim).toBe(2048);
      else expect([heads, kvHeads, headDim]).toEqual([64, 8, 128]);
    }
    const names = new Set(cases.map(({ name }) => name));
    for (const { name } of allCudaCases(true)) expect(names.has(name)).toBe(true);
  });

  it('count the work and the least bytes', () => {
    const [dense] = cases;
    expect(dense!.name).toBe('bfloat16 dense S=512 D=64 H=32 B=32');
    expect(cudaFlops(dense!)).toBe(4 * 32 * 32 * 512 * 512 * 64);
    expect(cudaFlops(small)).toBe(4 * 2 * 4 * ((9 * 10) / 2) * 16);
    const decode = cases.find(({ name }) => name === 'bfloat16 decode S=8192 D=128 H=64/8 B=1')!;
    expect(keyBytes(decode)).toBe(2 * 2 * 8192 * 8 * 128);
    expect(cudaBytes(decode)).toBe(keyBytes(decode) + 2 * 2 * 64 * 128 + 4 * 64);
  });

  it('rotate through more than a cache holds, and fit on a device', () => {
    for (const test of cases) {
      const bytes = cudaBytes(test) * setsOf(test, ROTATE_BYTES);
      expect(bytes).toBeGreaterThanOrEqual(256e6);
      expect(bytes).toBeLessThan(40e9);
    }
  });

  it('have an order in which they are wanted: a few of each kind first', () => {
    const wanted = byWant(cases);
    const names = (of: readonly CudaCase[]) => of.map(({ name }) => name).sort();
    expect(names(wanted)).toEqual(names(cases));
    const few = allCudaCases(true);
    expect(names(wanted.slice(0, few.length))).toEqual(names(few));
    const later = wanted.slice(few.length).map(({ headDim }) => headDim === 128);
    expect(later.indexOf(false)).toBe(later.lastIndexOf(true) + 1);
  });
});

describe('outputs', () => {
  const block = makeBlock(1009);
  const { batch, heads, kvHeads, queries, headDim } = small;
  const rows = expectedRows(small, block, 1);

  /** A plain evaluation, in float64, rounded to bfloat16. */
  function evaluate() {
    const phases = [0, 1, 2].map((tensor) => phaseOf(1, tensor, 1009));
    const out = new Float32Array(batch * queries * heads * headDim);
    const lse = new Float32Array(batch * queries * heads);
    for (let row = 0; row < lse.length; row++) {
      const head = row % heads;
      const query = Math.floor(row / heads) % queries;
      const b = Math.floor(row / heads / queries);
      const key = (j: number) => ((b * queries + j) * kvHeads + Math.floor(head / 2)) * headDim;
      const columns = Array.from({ length: headDim }, (_, c) => c);
      const weights = Array.from({ length: query + 1 }, (_, j) => {
        const dot = columns.reduce(
          (sum, c) => sum + block.at(phases[0]!, row * headDim + c) * block.at(phases[1]!, key(j) + c),
          0,
        );
        return Math.exp(dot / Math.sqrt(headDim));
      });
      const sum = weights.reduce((a, b) => a + b);
      lse[row] = Math.log(sum);
      for (const c of columns) {
        out[row * headDim + c] = weights.reduce((x, w, j) => x + (w / sum) * block.at(phases[2]!, key(j) + c), 0);
      }
    }
    return { out: toBfloat16(out), lse };
  }

  const right = evaluate();
  const changed = (change: (results: { out: Uint16Array; lse: Float32Array }) => void) => {
    const results = { out: right.out.slice(), lse: right.lse.slice() };
    change(results);
    return faultOf(results, rows, small, false);
  };

  it('that are right pass, with either layout of lse, and without one', () => {
    expect(faultOf(right, rows, small, false)).toBeUndefined();
    expect(faultOf({ out: right.out }, rows, small, false)).toBeUndefined();
    const headsFirst = new Float32Array(right.lse.length);
    right.lse.forEach((value, row) => {
      const [b, query, head] = [Math.floor(row / heads / queries), Math.floor(row / heads) % queries, row % heads];
      headsFirst[(b * heads + head) * queries + query] = value;
    });
    expect(faultOf({ ...right, lse: headsFirst }, rows, small, true)).toBeUndefined();
    expect(faultOf({ ...right, lse: headsFirst }, rows, small, false)).toMatch(/lse is/);
  });

  it('that are wrong are refused: of another set, a small error, NaN anywhere, a wrong lse', () => {
    expect(faultOf(right, expectedRows(small, block, 0), small, false)).toMatch(/^batch 0, query 0, head 0, element/);
    const last = right.out.length - 1; // of the last row, which is always sampled
    expect(changed(({ out }) => (out[last]! ^= 0x40))).toMatch(/^batch 1, query 8, head 3, element 15 is/);
    expect(changed(({ out }) => (out[last - headDim] = 0x7fc0))).toMatch(/infinite or not a number/);
    expect(changed(({ lse }) => (lse[0]! += 1e-3))).toMatch(/lse is/);
  });

  it('are compared with each other', () => {
    expect(largestDifference(right.out, right.out)).toBe(0);
    expect(largestDifference(Uint16Array.of(0x3f80, 0xbf80), Uint16Array.of(0x3f80, 0x4000))).toBe(3);
  });
});

const noCompiler = spawnSync('nvcc', ['--version']).error !== undefined;

describe.skipIf(noCompiler)(`driver${noCompiler ? ' (skipped: nvcc is missing)' : ''}`, () => {
  const standIn = new StandIn();
  afterAll(() => standIn.remove());
  const driver = new Driver(buildDriver());
  const block = makeBlock(1009);

  it('says why a library is no backend', () => {
    expect(() => driver.open('/no/such/library.so')).toThrow('/no/such/library.so');
    expect(() => driver.open(join(standIn.folder, 'libcuda.so.1'))).toThrow('node_attention_backend');
    standIn.install('device.c');
    driver.open(standIn.library);
    expect(driver.device()).toMatchObject({ name: 'stand-in 0', instructionSet: 'sm_90' });
  });

  it('puts the same numbers into tensors that the host expects there', () => {
    driver.problem(small, block.bits, 3, 6);
    driver.prepare('node-attention');
    expect(driver.run('node-attention', 2).length).toBe(2);
    for (const set of [0, 1, 2]) {
      const { out, lse } = driver.results(small, set);
      const phase = phaseOf(set, 0, 1009);
      expect(out).toEqual(toBfloat16(Float32Array.from({ length: out.length }, (_, i) => block.at(phase, i))));
      expect(lse.every((x) => x === 0)).toBe(true);
    }
    driver.poison();
    const { out, lse } = driver.results(small, 2);
    expect(out.every((bits) => bits === 0xffff) && lse.every(Number.isNaN)).toBe(true);
    driver.release();
  });

  it('refuses what it cannot do', () => {
    expect(() => driver.prepare('node-attention')).toThrow('there is no problem on the device');
    const huge = makeCudaCase('dense', { ...small, batch: 2 ** 20 });
    expect(() => driver.problem(huge, block.bits, 4, 4)).toThrow('the device is full');
    expect(() => driver.prepare('node-attention')).toThrow('there is no problem on the device');
    driver.problem(small, block.bits, 1, 1);
    for (const baseline of BASELINES) {
      expect(() => driver.prepare(baseline)).toThrow('not present');
      expect(() => driver.run(baseline, 1)).toThrow('it was not prepared');
    }
    expect(() => driver.openRuntime('/no/such/libcudart.so')).toThrow('/no/such/libcudart.so');
    expect(() => driver.openBaseline('cudnn', '/no/such/baseline.so', undefined)).toThrow('/no/such/baseline.so');
    expect(() => driver.matrix('/no/such/kernel')).toThrow('there is no CUDA runtime');
    driver.release();
  });

  it('times copies by the clock of the backend', () => {
    const { backend, events } = driver.copy(2 ** 16, 5);
    expect(backend).toBeGreaterThan(0);
    expect(events).toBeNaN();
  });

  const setting = {
    driver,
    block,
    rotateBytes: 1,
    plan: { rounds: 3, batchMs: 1, settleMs: 0 },
    rates: { copyRate: 1e3 },
  };

  it('refuses to time a wrong output', async () => {
    const outcome = await runCase(small, setting);
    expect(outcome.faults).toMatchObject([{ contestant: 'node-attention' }]);
    expect(outcome.absent).toEqual(BASELINES.map((contestant) => ({ contestant, fault: 'not present' })));
    expect([outcome.contestants, outcome.samples]).toEqual([[], []]);
  });

  it('checks each attention of the Python process, and lists what it does not take', async () => {
    // Answers as torch_peer.py does, and computes zeros.
    const python = join(standIn.folder, 'python');
    writeFileSync(
      python,
      `#!${process.execPath}
      let loads = 0;
      const answers = {
        contestants: () => ({ versions: { pytorch: '2.0', 'flash-attn': 'flash_attn 2' } }),
        block: () => ({}),
        load: ({ headDim }) => (headDim === 24 ? { error: 'out of memory' } : { loads: ++loads }),
        record: ({ contestant, causal }) => (contestant === 'flash-attn' && !causal ? { error: 'only causal' } : {}),
        run: ({ passes }) => ({ elapsed: new Array(passes).fill(loads) }),
        output: ({ path }) => (require('node:fs').writeFileSync(path, new Uint16Array(2 * 9 * 4 * 16)), {}),
      };
      require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
        const { command, ...request } = JSON.parse(line);
        console.log(JSON.stringify(answers[command](request)));
      });`,
      { mode: 0o755 },
    );
    const torch = await TorchCuda.start(python);
    expect(torch.versions).toEqual({ pytorch: '2.0', 'flash-attn': 'flash_attn 2' });
    const of = async (test: CudaCase) => {
      const { faults, absent } = await runCase(test, { ...setting, torch });
      const names = faults.map(({ contestant }) => contestant);
      return [names, absent.slice(BASELINES.length)];
    };
    expect(await of(small)).toEqual([['node-attention', 'pytorch', 'flash-attn'], []]);
    const { name, kind, ...sizes } = small;
    expect(await of(makeCudaCase('dense', sizes))).toEqual([
      ['node-attention', 'pytorch'],
      [{ contestant: 'flash-attn', fault: 'only causal' }],
    ]);
    const entrant = await torch.entrant('pytorch', small, block, 2, 2);
    expect(await entrant.run(3), 'two passes of two runs; loaded for each case once').toEqual([3, 3]);
    const full = makeCudaCase('causal', { ...small, headDim: 24 });
    expect((await of(full))[1]).toEqual(
      ['pytorch', 'flash-attn'].map((contestant) => ({ contestant, fault: 'out of memory' })),
    );
    await torch.close();
  });

  it('leaves nothing out when the device fails: a process begins behind that case', async () => {
    const names = allCudaCases(true)
      .slice(0, 3)
      .map(({ name }) => name);
    const missing = { missing: 'left out' };
    const done = await measureInProcess(
      {
        quick: true,
        cases: names,
        plan: setting.plan,
        driver: buildDriver(),
        peak: '/no/such/kernel',
        baselines: { cudnn: missing, cutlass: missing },
        backend: standIn.library,
        cudart: '/no/such/libcudart.so',
        cudnn: '',
      },
      { NODE_OPTIONS: '--import tsx', FAKE_DELAY: '0', FAKE_MEMORY: String(2 ** 20), FAKE_OPERATIONS: '50' },
      { begin() {}, found() {} },
      LIMITS,
    );
    const failed = done.failed.map(({ what }) => what);
    expect(failed.length).toBeGreaterThan(0);
    for (const { why } of done.failed) expect(why).toContain('illegal address');
    expect([...done.outcomes.map(({ test }) => test.name), ...failed].sort()).toEqual([...names].sort());
    expect(done.outcomes.at(-1)?.test.name, 'which the second process measured').toBe(names.at(-1));
    expect(done.ended).toBeUndefined();
  });

  it('goes on after a case that does not fit', async () => {
    const huge = makeCudaCase('dense', {
      ...small,
      batch: 1,
      heads: 1,
      kvHeads: 1,
      queries: 1,
      keys: 2 ** 22,
      headDim: 256,
    });
    const outcome = await runCase(huge, setting);
    expect(outcome.absent[0]).toEqual({ contestant: 'node-attention', fault: 'the device is full' });
  });
});

// The CUDA backend itself, on the stand-in runtime.
const standInDevice = join(root, 'build/ptx/cuda/libnode_attention_cuda.so');
const without = noCompiler || !existsSync(standInDevice);

describe.skipIf(without)(`the backend in the interpreter${without ? ' (skipped: it is not built)' : ''}`, () => {
  const block = makeBlock(1009);
  const setting = { block, rotateBytes: 1, plan: { rounds: 2, batchMs: 1, settleMs: 0 }, rates: { copyRate: 1e3 } };
  let driver: Driver;
  beforeAll(() => {
    process.env.NODE_ATTENTION_STANDIN_PTX = join(root, 'build/ptx/cuda/products');
    driver = new Driver(buildDriver());
    driver.open(standInDevice);
  });

  it.each([
    makeCudaCase('causal', { batch: 1, heads: 2, kvHeads: 1, queries: 150, keys: 150, headDim: 64 }),
    makeCudaCase('dense', { batch: 1, heads: 1, kvHeads: 1, queries: 130, keys: 130, headDim: 128 }),
    makeCudaCase('decode', { batch: 1, heads: 8, kvHeads: 1, queries: 1, keys: 700, headDim: 128 }),
  ])('is right, and timed: $name', async (test) => {
    const outcome = await runCase(test, { ...setting, driver });
    expect(outcome.faults).toEqual([]);
    expect(outcome.contestants).toEqual(['node-attention']);
    expect(outcome.absent).toEqual(BASELINES.map((contestant) => ({ contestant, fault: 'not present' })));
    expect(outcome.samples[0]!.every((ms) => ms > 0)).toBe(true);
  });

  it('takes turns with a baseline, whose output is checked too', async () => {
    const runtime = join(root, 'build/ptx/libcuda.so.1');
    const baseline = join(mkdtempSync(join(tmpdir(), 'node-attention-')), 'baseline.so');
    execFileSync('cc', ['-shared', '-fPIC', join(root, 'test/fixtures/baseline.c'), '-o', baseline]);
    driver.openRuntime(runtime);
    expect(driver.openBaseline('cudnn', baseline, runtime)).toBe(91900);
    rmSync(dirname(baseline), { recursive: true });
    driver.problem(small, block.bits, 2, 4);
    driver.prepare('cudnn');
    driver.poison();
    expect(driver.run('cudnn', 3).length).toBe(3);
    for (const set of [0, 1]) {
      const phase = phaseOf(set, 0, 1009);
      const { out } = driver.results(small, set);
      expect(out).toEqual(toBfloat16(Float32Array.from({ length: out.length }, (_, i) => block.at(phase, i))));
    }
    const { faults, contestants } = await runCase(small, { ...setting, driver });
    expect([faults.map(({ contestant }) => contestant), contestants]).toEqual([['cudnn'], ['node-attention']]);
    const untaken = makeCudaCase('dense', { ...small, headDim: 24 });
    const { absent } = await runCase(untaken, { ...setting, driver });
    expect(absent[0]).toEqual({ contestant: 'cudnn', fault: 'headDim 24 is not supported' });
    const [short, long] = [driver.copy(2 ** 12, 5), driver.copy(2 ** 24, 5)];
    for (const clock of ['backend', 'events'] as const) expect(long[clock], clock).toBeGreaterThan(short[clock]);
    expect(() => driver.matrix('/no/such/kernel')).toThrow();
  });

  describe("CUTLASS's example", () => {
    const folder = mkdtempSync(join(tmpdir(), 'node-attention-'));
    const runtime = join(root, 'build/ptx/libcuda.so.1');
    const baseline = join(folder, 'baseline.so');
    afterAll(() => rmSync(folder, { recursive: true }));
    beforeAll(() => {
      mkdirSync(join(folder, 'cutlass'));
      const version = ['MAJOR 4', 'MINOR 2', 'PATCH 1'].map((each) => `#define CUTLASS_${each}\n`);
      writeFileSync(join(folder, 'cutlass/version.h'), version.join(''));
      const sources = [
        join(root, 'bench/cutlass/baseline.cc'),
        join(root, 'test/fixtures/cutlass-kernels.cc'),
        runtime,
      ];
      const includes = [`-I${folder}`, '-isystem', cudaInclude()];
      execFileSync('c++', ['-std=c++17', '-shared', '-fPIC', '-Wall', ...includes, ...sources, '-o', baseline]);
      driver.openRuntime(runtime);
    });

    const shape = { batch: 2, heads: 2, kvHeads: 2, queries: 128, keys: 256, headDim: 64 };

    it('is run by the fastest of its kernels that can be launched', () => {
      expect(driver.openBaseline('cutlass', baseline, undefined)).toBe(40201);
      const test = makeCudaCase('dense', shape);
      driver.problem(test, block.bits, 2, 2);
      driver.prepare('cutlass');
      driver.poison();
      expect(driver.run('cutlass', 2).length).toBe(2);
      for (const set of [0, 1]) {
        const phase = phaseOf(set, 0, 1009); // that of q
        const { out } = driver.results(test, set);
        expect(out).toEqual(toBfloat16(Float32Array.from({ length: out.length }, (_, i) => block.at(phase, i))));
      }
      driver.release();
    });

    it.each([
      ['dense', { kvHeads: 1 }, 'the example has no query heads that share key heads'],
      ['decode', { queries: 1 }, 'the example takes multiples of 128 queries and keys'],
      ['dense', { keys: 200 }, 'the example takes multiples of 128 queries and keys'],
      ['causal', {}, "the example's causal mask is for as many queries as keys"],
      ['dense', { headDim: 96 }, 'headDim 64, 128 and 256 are compiled'],
      ['causal', { keys: 128 }, "the example's kernel cannot be launched"],
    ] as const)('says what it does not take: %s %o', (kind, more, sentence) => {
      driver.problem(makeCudaCase(kind, { ...shape, ...more }), block.bits, 1, 1);
      expect(() => driver.prepare('cutlass')).toThrow(sentence);
      driver.release();
    });

    it('needs a Hopper GPU', () => {
      const script = `const error = Buffer.alloc(256);
        require('koffi').load(${JSON.stringify(baseline)})
          .func('int baseline_open(const char*, void*, uint64_t)')(null, error, 256);
        console.log(error.toString('utf8', 0, error.indexOf(0)));`;
      const env = { ...process.env, LD_PRELOAD: runtime, NODE_ATTENTION_STANDIN_CAPABILITY: '8.0' };
      const said = execFileSync(process.execPath, ['-e', script], { cwd: root, encoding: 'utf8', env });
      expect(said).toBe('the example needs a GPU of compute capability 9.0; this one has 8.0\n');
    });
  });
});

describe('report', () => {
  const device: DeviceReport = {
    name: 'device',
    instructionSet: 'sm_90',
    memoryBytes: 2 ** 37,
    copyRate: 4e12,
    matrixRate: 7e14,
    torchMatrixRate: 8e14,
    versions: {},
    notes: ['cuDNN: it was not packed'],
  };
  const prefill = allCudaCases(false).find(({ name }) => name.startsWith('bfloat16 dense S=8192 D=128 H=64/8'))!;
  const outcome = (test = prefill, contestants = ['node-attention', 'cudnn'], samples = [[2], [3]]): Outcome => ({
    test,
    flops: 1e12,
    bytes: 4e9,
    sets: 2,
    runs: 2,
    contestants,
    samples,
    faults: [],
    absent: [],
    differences: {},
    errors: {},
    tolerance: 0,
    disturbed: 0,
    repeated: 0,
  });

  it('has a line over all lengths for each mask, and for each batch of decoding', () => {
    const lines = new Map<string, number>();
    for (const test of allCudaCases(false)) {
      const { mask, headDim } = rowOf(outcome(test), device).case;
      lines.set(`${mask}, D=${headDim}`, (lines.get(`${mask}, D=${headDim}`) ?? 0) + 1);
    }
    const masks = ['D=64', 'D=128', 'D=256', '64/8 heads, D=128'];
    const batches = [1, 8, 64].map((batch) => [`decode, batch ${batch}, D=128`, 5]);
    expect(Object.fromEntries(lines)).toEqual(
      Object.fromEntries([
        ...['dense', 'causal'].flatMap((kind) => masks.map((mask) => [`${kind}, ${mask}`, 7])),
        ...batches,
        ...['hip', 'hip + state', 'pages'].map((selector) => [`decode, ${selector}, D=128`, 2]),
        ...['pages, host', 'pages, resident'].map((selector) => [`decode, ${selector}, D=128`, 1]),
        ['causal, each query, D=128', 1],
      ]),
    );
  });

  it('compares with the better of the measured peaks', () => {
    const row = rowOf(outcome(), device);
    expect(row).toMatchObject({ flopsPerSecond: 5e14, floor: { ms: 1.25, bound: 'arithmetic' }, ofFloor: 0.625 });
    expect(row.figures).toEqual({ 'GB/s': 2000, 'of copy': 0.5, 'of matrix peak': 0.625 });
    expect(Object.keys(row.ratios)).toEqual(['cudnn']);
    expect(row.ratios.cudnn).toEqual({ median: 1.5, interval: [1.5, 1.5] });
    const unknown = rowOf(outcome(), { ...device, matrixRate: undefined, torchMatrixRate: undefined });
    expect(unknown).toMatchObject({ floor: undefined, ofFloor: undefined });
    expect(unknown.figures).toEqual({ 'GB/s': 2000, 'of copy': 0.5 });
  });

  it('says what was not present, wrong or not measured, and never a figure instead', () => {
    const wrong = { ...outcome(prefill, [], []), faults: [{ contestant: 'cudnn', fault: 'element 3 is 7' }] };
    const result = suiteResult({ ...device, copyRateByEvents: undefined }, [wrong], undefined, ['a', 'b']);
    expect(result.rows[0]).toMatchObject({ times: {}, ratios: {}, flopsPerSecond: undefined, ofFloor: undefined });
    expect(faultLines(result.rows)).toEqual([`WRONG OUTPUT: cudnn, ${prefill.name}: element 3 is 7`]);
    expect(result.peaks.map(({ name }) => name)).not.toContain('copy, by CUDA events');
    expect(result.notMeasured).toEqual([{ what: 'cuDNN', why: 'it was not packed' }]);
  });

  it('judges decoding by bandwidth from 256 MB on, by the time above the floor below', () => {
    const decode = (name: string) => allCudaCases(false).find((test) => test.name === name)!;
    const long = rowOf(outcome(decode('bfloat16 decode S=131072 D=128 H=64/8 B=1')), device);
    const short = rowOf(
      { ...outcome(decode('bfloat16 decode S=8192 D=128 H=64/8 B=1')), flops: 1, bytes: 8e9 },
      device,
    );
    const [cudnn, bandwidth, floor] = judgeCuda([long, short]);
    expect(cudnn).toMatchObject({ verdict: 'reached', rows: 2 });
    expect(bandwidth).toMatchObject({ verdict: 'missed', rows: 1, worst: { figure: 0.5 } });
    expect(floor).toMatchObject({ verdict: 'reached', rows: 1, worst: { figure: 0 } });
    expect(judgeCuda([]).map(({ verdict }) => verdict)).toEqual(new Array(3).fill('not measured'));
  });
});

describe('decoding with keys that a selector chooses', () => {
  const sizes = { batch: 1, heads: 8, kvHeads: 2, queries: 1, keys: 32768, headDim: 128 };
  const once = { rounds: 1, batchMs: 0, settleMs: 0, warmRuns: 1, patience: 1 };
  const device: DeviceReport = {
    name: 'd',
    instructionSet: 'i',
    memoryBytes: 1,
    copyRate: 1e9,
    versions: {},
    notes: [],
  };

  it.each(SELECTORS)('is right, and timed with selecting and without, on any device: %s', async (selector) => {
    const test = makeCudaCase('decode', { ...sizes, selector });
    const outcome = await measurePlans(test, 'cpu', once);
    expect([outcome.faults, outcome.absent]).toEqual([[], []]);
    expect(outcome.contestants).toEqual(['node-attention', 'selection', 'attention', 'dense']);
    for (const [ms] of outcome.samples) expect(ms).toBeGreaterThan(0);
    // In whole blocks of 16 keys at most, of what is chosen, of the sink and of the window.
    expect(Math.abs(outcome.shown! - DENSITY)).toBeLessThan((3 * 16) / sizes.keys);
    expect(outcome.flops).toBe(4 * 8 * 32768 * 128 * outcome.shown!);
    expect(outcome.bytes).toBe(keyBytes(test) * outcome.shown! + 8 * (2 * 2 * 128 + 4));
    const row = rowOf(outcome, device);
    expect(row).toMatchObject({
      name: `bfloat16 decode S=32768 D=128 H=8/2 B=1 ${selector}`,
      case: { mask: `decode, ${selector}`, tokens: 32768 },
      figures: { density: outcome.shown },
    });
    expect(Object.keys(row.ratios)).toEqual(['selection', 'attention', 'dense']);
  });

  it('is right for a chunk, of which each query chooses', async () => {
    const test = makeCudaCase('causal', { ...sizes, queries: 70, selector: OF_CHUNKS });
    const outcome = await measurePlans(test, 'cpu', once);
    expect([outcome.faults, outcome.absent]).toEqual([[], []]);
    expect([outcome.sets, outcome.runs, outcome.contestants.length]).toEqual([1, 1, 4]);
    const pairs = 70 * 32768 - (70 * 69) / 2;
    expect(outcome.flops).toBe(4 * 8 * pairs * 128 * outcome.shown!);
    expect(rowOf(outcome, device)).toMatchObject({
      name: 'bfloat16 causal Q=70 S=32768 D=128 H=8/2 B=1 each query',
      case: { mask: 'causal, each query', tokens: 32768 },
      figures: { density: outcome.shown },
    });
  });

  it('is not measured with a backend that the addon does not have', () => {
    const row = rowOf(withoutAddon(makeCudaCase('decode', { ...sizes, selector: 'hip' })), device);
    expect(row).toMatchObject({ times: {}, figures: {}, absent: [{ contestant: 'node-attention' }] });
    expect(judgeCuda([row]).every(({ verdict }) => verdict === 'not measured')).toBe(true);
  });

  it('has what is published beside it, where as many keys were measured', () => {
    const outcome = (keys: number): Outcome => ({
      ...withoutAddon(makeCudaCase('decode', { ...sizes, keys, selector: 'pages' })),
      contestants: ['node-attention'],
      samples: [[0.25]],
      absent: [],
      shown: DENSITY,
    });
    const findings = (keys: number) => suiteResult(device, [outcome(keys)], undefined, []).findings!;
    expect(findings(131072)).toEqual([]);
    const [found] = findings(1048576);
    expect(found!.name).toBe('decoding at 1048576 keys');
    expect(found!.text).toMatch(/^decode, pages 250 us; published: HiP 450 us, .* 234 us, .* 4645 us \(an RTX 4090,/);
    expect(found!.text).toContain('not measured here');
  });
});

describe('the path from JavaScript', () => {
  it('is measured on any device', async () => {
    const { callsPerSecond, stepUs, graphStepUs } = await measureJavaScript('cpu', true);
    for (const figure of [callsPerSecond, stepUs.median, graphStepUs.median]) expect(figure).toBeGreaterThan(0);
  });
});

describe('npm run bench -- cuda', () => {
  const bench = (...args: string[]) => {
    const tsx = join(__dirname, '../node_modules/tsx/dist/cli.mjs');
    const main = join(__dirname, '../bench/main.ts');
    const env = { ...process.env, NODE_ATTENTION_DEVICE: 'cpu' };
    return spawnSync(process.execPath, [tsx, main, 'cuda', ...args], { encoding: 'utf8', env });
  };

  it('says in a sentence that there is no GPU, and ends with its own status', () => {
    const { status, stdout, stderr } = bench('--quick');
    expect([status, stderr]).toEqual([3, '']);
    expect(stdout).toMatch(/^npm run bench -- cuda: nothing to measure: .+\n$/);
  });

  it('refuses a baseline and a time that are none, a filter that leaves nothing, a backend that is not there', () => {
    expect(bench('--without', 'cublas').stderr).toContain('Give cudnn or cutlass.');
    expect(bench('--seconds', '0').stderr).toContain('Give a number of seconds');
    expect(bench('--filter', 'float8').stderr).toContain("no case contains 'float8'");
    expect(bench('--backend', '/no/such/file').stderr).toContain('there is no file /no/such/file');
  });

  it('lists its cases', () => {
    const { status, stdout } = bench('--help');
    expect(status).toBe(0);
    for (const { name } of allCudaCases(false)) expect(stdout).toContain(name);
  });

  it.skipIf(noCompiler)('says that a CUTLASS has no example, and what would have it, or another one', () => {
    const folder = mkdtempSync(join(tmpdir(), 'node-attention-'));
    mkdirSync(join(folder, 'include/cute/arch'), { recursive: true });
    mkdirSync(join(folder, 'include/cutlass'));
    writeFileSync(join(folder, 'include/cutlass/version.h'), '#define CUTLASS_MAJOR 4\n#define CUTLASS_MINOR 2\n');
    vi.stubEnv('CUTLASS_DIR', folder);
    const without = buildCutlass(join(folder, 'build'));
    const example = join(folder, 'examples/88_hopper_fmha');
    mkdirSync(join(example, 'kernel'), { recursive: true });
    writeFileSync(join(example, 'kernel/fmha_kernel_builder.hpp'), '');
    const another = buildCutlass(join(folder, 'build'));
    vi.unstubAllEnvs();
    rmSync(folder, { recursive: true });
    expect(without).toEqual({
      missing:
        'this CUTLASS has no examples/88_hopper_fmha: set CUTLASS_DIR to a checkout of it, whose examples have it',
    });
    expect(another).toEqual({
      missing: expect.stringMatching(/^its example cannot be compiled: .*No such file or directory$/),
    });
    if ('missing' in another) expect(another.missing, 'a path of this machine').not.toMatch(/\s\//);
  });

  it('has every baseline in a pack, but for those that are left out in so many words', () => {
    const folder = mkdtempSync(join(tmpdir(), 'node-attention-'));
    writeFileSync(join(folder, 'libcutlass_baseline.so'), '');
    const packed = carriedCudaBench(folder, []);
    expect(lacking(packed, [])).toEqual(['without the baseline cudnn: it was not packed']);
    expect(lacking(packed, ['cudnn'])).toEqual([]);
    expect(carriedCudaBench(folder, ['cutlass']).baselines.cutlass).toEqual({ missing: 'left out (--without)' });
    rmSync(folder, { recursive: true });
  });

  it('names the headers that the cuDNN baseline lacks, and how to get them', () => {
    const found = findCudnnHeaders('/no/such/folder');
    if (typeof found === 'string') expect(found).toMatch(/missing; npx tsx bench\/cudnn\/fetch\.ts/);
    else for (const folder of found) expect(existsSync(folder)).toBe(true);
  });
});
