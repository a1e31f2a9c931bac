// The neighborhood benchmark's own judgement: its cases, its baselines, its checks, and what it concludes.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { attention, type DeviceInfo } from 'node-attention';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseResults, type SuiteResult } from '../bench/format';
import { baseline, buildBaselines } from '../bench/gna/baselines';
import { describeSetting, gnaFlops, keysOf, makeCase, namedCases, simulationOf, sweepCases } from '../bench/gna/cases';
import { chooseDevice, commonRow, refusalOf } from '../bench/gna/main';
import { baselineMeans, printed, summarizeGna } from '../bench/gna/report';
import { jobs, type Turns } from '../bench/gna/suite';
import { dense, disposeTensors, judge, makeTensors, maskOf, sparse } from '../bench/gna/tensors';
import { growth } from '../bench/statistics';

const small = { batch: 1, heads: 3, headDim: 20 };

describe('cases', () => {
  it('are those of the published models, in full on a GPU', () => {
    const described = namedCases('cuda', false).map((test) => describeSetting(test));
    expect(described).toEqual([
      '32768 w2048 s1',
      '32768 w2048 s256',
      '32768 w2048 s2048',
      '256x256 w80x80 s1',
      '256x256 w80x80 s16x16',
      '30x48x80 w18x24x24 s1',
      '30x48x80 w18x24x24 s16x8x8',
      '16x44x80 w16x24x16 s1',
      '16x44x80 w16x24x16 s1x8x16',
      '16x44x80 w16x24x16 s16x8x16',
      '24x44x80 w-1x4x16 s1 d1x11x5',
      '24x44x80 w-1x12x16 s1x4x1 d1x1x5',
      '24x44x80 w-1x12x24 s1x4x8',
      '24x44x80 w-1x20x40 s1x4x8',
      '24x44x80 w-1x28x56 s1x4x8',
      '56x56 w7x7 s7x7',
      '56x56 w7x7 s1',
    ]);
    const flux = namedCases('cuda', false).find(({ name }) => name.includes('FLUX'))!;
    expect([flux.heads, flux.headDim]).toEqual([24, 128]);
  });

  it('have unique names, and bounds by the simulator', () => {
    for (const place of ['cpu', 'cuda'] as const) {
      const names = [...namedCases(place, false), ...sweepCases(place, false)].map(({ name }) => name);
      expect(new Set(names).size).toBe(names.length);
    }
    const blocked = namedCases('cpu', false).find(({ name }) => name.includes('s2048'))!;
    expect(simulationOf(blocked)).toMatchObject({ speedup: { sum: 16 }, tiles: { partial: 0 } });
    expect(gnaFlops(blocked)).toBe(4 * 32768 * 2048 * 128);
  });

  it('see what the definition says', () => {
    expect(keysOf({ shape: [6], window: [3] }, 0)).toEqual([0, 1, 2]);
    expect(keysOf({ shape: [6], window: [3], stride: [3] }, 5)).toEqual([3, 4, 5]);
    expect(keysOf({ shape: [3, 4], window: [-1, 2], dilation: [1, 2] }, 5)).toEqual([1, 3, 5, 7, 9, 11]);
  });
});

describe('outputs', () => {
  it('of this library pass, with stride and dilation, in a batch; those of another mask do not', async () => {
    const setting = { shape: [9, 14], window: [4, 3], stride: [2, 1], dilation: [1, 3] };
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const test = makeCase('x', setting, { ...small, batch: 2, dtype });
      const tensors = makeTensors(test, 'cpu', 3);
      const own = sparse(test, tensors);
      await own.run(tensors.sets - 1);
      expect((await judge(test, tensors)).fault, 'the last set was not used').toBeDefined();
      await own.run(1);
      const right = await judge(test, tensors);
      expect(right.fault).toBeUndefined();
      expect(right.error).toBeGreaterThan(0); // from float64
      expect(right.error).toBeLessThanOrEqual(right.tolerance);
      const { q, k, v, out } = tensors; // of all sets at once
      attention(q, k, v, { mask: maskOf({ ...test, window: [5, 3] }), out });
      const wrong = await judge(test, tensors);
      expect(wrong.fault).toMatch(/^batch \d, query \d+, head \d, element \d+ is/);
      expect(wrong.error).toBeGreaterThan(wrong.tolerance);
      disposeTensors(tensors);
    }
  });

  it('of a part of the queries stand for all in dense attention', async () => {
    const test = makeCase('x', { shape: [20000], window: [10] }, { dtype: 'bfloat16', batch: 1, heads: 1, headDim: 8 });
    const tensors = makeTensors(test, 'cpu', 3);
    const whole = dense(test, tensors);
    expect(whole.queries).toBeLessThan(20000);
    const start = performance.now();
    const [ms] = await whole.run(1);
    const wall = performance.now() - start;
    expect(ms).toBeGreaterThan(0);
    expect((ms! * whole.queries) / 20000).toBeLessThan(wall + 1); // what really ran took no longer than it seems
    await whole.run(tensors.sets - 1);
    expect(await whole.judge()).toMatchObject({ fault: undefined });
    whole.dispose();
    disposeTensors(tensors);
    const few = makeCase('x', { shape: [100], window: [10] }, { dtype: 'bfloat16', batch: 1, heads: 1, headDim: 8 });
    const others = makeTensors(few, 'cpu', 1);
    const all = dense(few, others);
    expect(all.queries).toBe(100);
    all.dispose();
    disposeTensors(others);
  });

  it('of dense attention are looked at too', async () => {
    const test = makeCase('x', { shape: [9, 14], window: [4, 3] }, { ...small, batch: 2, dtype: 'float32' });
    const tensors = makeTensors(test, 'cpu', 3);
    const whole = dense(test, tensors);
    expect((await whole.judge()).fault, 'it has not run').toBeDefined();
    await whole.run(tensors.sets);
    const { fault, error, tolerance } = await whole.judge();
    expect(fault).toBeUndefined();
    expect(error).toBeLessThanOrEqual(tolerance);
    whole.dispose();
    disposeTensors(tensors);
  });
});

describe('baselines', () => {
  beforeAll(buildBaselines);

  it.each([
    [[131], [12]], // a part of a tile at the end; an even window
    [[37], [37]],
    [
      [11, 29],
      [5, 8],
    ],
    [
      [25, 13],
      [25, 1],
    ],
  ])('compute neighborhood attention: %j, window %j', async (shape, window) => {
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const test = makeCase('x', { shape, window }, { ...small, dtype });
      const tensors = makeTensors(test, 'cpu', 3);
      for (const kind of ['naive', 'unfused'] as const) {
        const own = await baseline(kind, test, tensors, 2);
        await own.publish();
        expect((await judge(test, tensors)).fault, `${kind} has not run`).toBeDefined();
        await own.run(tensors.sets);
        await own.publish();
        expect((await judge(test, tensors)).fault, `${kind} ${dtype}`).toBeUndefined();
        const [queries, keys] = [shape, window].map((axes) => axes.reduce((a, b) => a * b));
        expect(own.bytes).toBe(queries! * small.heads * (small.headDim + keys!) * (dtype === 'float32' ? 4 : 2));
      }
      disposeTensors(tensors);
    }
  });
});

describe('conclusions', () => {
  const turns = (section: Turns['section'], name: string, times: Record<string, number[]>, setting = {}): Turns => ({
    section,
    test: makeCase(name, { shape: [32768], window: [2048], ...setting }, { dtype: 'float32', ...small }),
    contestants: Object.keys(times),
    sets: 2,
    samples: Object.values(times),
    denseQueries: 32768,
    faults: [],
    errors: Object.fromEntries(Object.keys(times).map((name) => [name, 1e-6])),
    tolerance: 1e-5,
    memory: {},
    disturbed: 0,
    repeated: 0,
  });

  it('have rows with a floor, bytes, errors and memory', () => {
    const own = { ...turns('named', 'a', { 'node-attention': [10], dense: [80] }), memory: { 'node-attention': 7 } };
    const [row] = summarizeGna({ turns: [own], memory: [] }, 'cpu', () => 100).rows;
    const pairs = 3 * 32768 * 2048;
    const place = {
      peaks: [
        { name: 'float32 avx2', threads: 2, rate: 1e11, unit: 'FLOP/s' as const },
        { name: 'exp avx2', threads: 2, rate: 1e10, unit: 'exp/s' as const },
      ],
      instructionSet: 'avx2',
      threads: 2,
    };
    expect(commonRow(row!, place)).toMatchObject({
      case: { data: 'named', threads: 2 },
      flops: 4 * pairs * 20,
      bytes: 4 * 32768 * 3 * 20 * 4,
      sets: 2,
      floor: { ms: expect.closeTo((1e3 * 4 * pairs * 20) / 1e11, 6), bound: 'arithmetic' },
      errors: { 'node-attention': 1e-6, dense: 1e-6 },
      tolerance: 1e-5,
      memory: { 'node-attention': 7 },
    });
    const slow = place.peaks.map((peak) => (peak.unit === 'exp/s' ? { ...peak, rate: 1e8 } : peak));
    expect(commonRow(row!, { ...place, peaks: slow }).floor!.bound).toBe('exp');
    expect(commonRow(row!, undefined)).toMatchObject({ floor: undefined, case: { threads: undefined } });
    const blocks = { ...turns('blocked', 'b', { blocked: [1], sliding: [2] }), memory: { blocked: 5, sliding: 6 } };
    const [compared] = summarizeGna({ turns: [blocks], memory: [] }, 'cpu', () => 100).rows;
    expect(commonRow(compared!, place)).toMatchObject({
      errors: { blocked: 1e-6, 'node-attention': 1e-6 },
      memory: { blocked: 5, 'node-attention': 6 },
    });
  });

  it('compare with the bounds in the rounds, and judge masks and none apart', () => {
    const aligned = turns('named', 'a', { 'node-attention': [10, 20], dense: [80, 160] }, { stride: [256] });
    const masked = turns('named', 'b', { 'node-attention': [10, 20], dense: [140, 280] });
    const slow = turns('sweep', 'c', { 'node-attention': [10, 20], dense: [9, 18] });
    const results = { turns: [aligned, masked, slow], memory: [] };
    const summary = summarizeGna(results, 'cpu', () => 100);
    const [first, second] = summary.rows;
    expect(first).toMatchObject({ speedup: 8, aligned: true, ofSum: 0.5, ofWorst: 0.5, ms: 15 });
    expect(first!.gflops).toBeCloseTo((4 * 3 * 32768 * 2048 * 20) / 15e6, 6);
    expect(first!.ofPeak).toBeCloseTo(first!.gflops! / 100, 9);
    expect(second).toMatchObject({ speedup: 14, aligned: false });
    expect(second!.ofSum).toBeCloseTo(14 / simulationOf(masked.test).speedup.sum, 9);
    expect(summary.slower).toEqual([{ name: slow.test.name, speedup: 0.9 }]);
    expect(summary.targets.map(({ verdict, rows }) => [verdict, rows])).toEqual([
      ['missed', 1],
      ['reached', 1],
    ]);
    const text = printed(results, summary);
    expect(text).toContain(`0.90x  ${slow.test.name}`);
    expect(text).toMatch(/of peak/);
    // Without a peak there is no share of one, and what was wrong has no figures at all.
    const wrong = {
      ...masked,
      contestants: ['dense'],
      samples: [[140]],
      faults: [{ contestant: 'node-attention', fault: 'x' }],
    };
    const rest = summarizeGna({ turns: [wrong], memory: [] }, 'cuda', () => undefined);
    expect(rest.rows[0]).toMatchObject({ ms: undefined, speedup: undefined, gflops: undefined, ofPeak: undefined });
    expect(rest.targets.every(({ verdict }) => verdict === 'not measured')).toBe(true);
  });

  it('judge a GPU by the length of the case', () => {
    const short = turns('named', 'a', { 'node-attention': [0.5], dense: [0.5 * 16 * 0.9] }, { stride: [256] });
    const long = turns('named', 'b', { 'node-attention': [5], dense: [5 * 16 * 0.9] }, { stride: [256] });
    const { targets } = summarizeGna({ turns: [short, long], memory: [] }, 'cuda', () => undefined);
    expect(targets.map(({ verdict, rows }) => [verdict, rows])).toEqual([
      ['missed', 1], // 95 % of a millisecond and more
      ['reached', 1], // 85 % of shorter ones
      ['not measured', 0],
      ['not measured', 0],
    ]);
  });

  it('tell linear from quadratic time, and flat memory from growing one', () => {
    const points = (power: number) => [1, 2, 4, 8].map((tokens) => [tokens, 3 * tokens ** power] as const);
    expect(growth(points(1))).toBeCloseTo(1, 9);
    expect(growth(points(2))).toBeCloseTo(2, 9);
    const time = [1024, 4096, 16384].map((shape) =>
      turns('tokens', 't', { 'node-attention': [shape / 100] }, { shape: [shape], window: [256] }),
    );
    const memory = [100, 104].map((bytes, n) => ({ test: time[n]!.test, bytes }));
    const flat = { turns: time, memory };
    expect(
      printed(
        flat,
        summarizeGna(flat, 'cpu', () => 1),
      ),
    ).toMatch(/power of 1\.000: linear[\s\S]*1\.04, flat/);
    const grown = { turns: time, memory: memory.map((one, n) => ({ ...one, bytes: 100 + 50 * n })) };
    expect(
      printed(
        grown,
        summarizeGna(grown, 'cpu', () => 1),
      ),
    ).toContain('1.50, NOT FLAT');
  });

  it('give gains over naive as the papers do, as geometric means', () => {
    const one = (name: string, naive: number, unfused: number, fused: number) =>
      turns('baselines', name, { 'node-attention': [fused], naive: [naive], unfused: [unfused] });
    expect(baselineMeans([one('a', 8, 4, 1), one('b', 8, 1, 4)])).toEqual([
      'float32, 1-D: unfused 300 %, fused 300 % over naive (geometric means)',
    ]);
  });
});

describe('npm run bench -- gna', () => {
  const folder = mkdtempSync(join(tmpdir(), 'node-attention-gna-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const bench = (...args: string[]) =>
    spawnSync(
      process.execPath,
      [require.resolve('tsx/cli'), join(__dirname, '../bench/main.ts'), 'gna', '--device', 'cpu', ...args],
      { encoding: 'utf8' },
    );

  it('measures, says so line by line, and writes all samples', () => {
    const file = join(folder, 'results.json');
    const { status, stdout, stderr } = bench('--quick', '--filter', 'Swin', '--json', file);
    expect({ status, lines: stderr.trim().split('\n') }).toEqual({
      status: 0,
      lines: [
        expect.stringMatching(/^1\/2 gna: bfloat16 Swin 56x56 w7x7 s7x7 H=4 D=32, about \d+ s left$/),
        expect.stringMatching(/^2\/2 gna: bfloat16 Swin 56x56 w7x7 s1 H=4 D=32, about \d+ s left$/),
      ],
    });
    expect(stdout).toMatch(/^Named cases$/m);
    expect(stdout).toMatch(/^Slower than dense attention$/m);
    const [{ rows, targets, peaks }] = parseResults(readFileSync(file, 'utf8'), file).suites as [SuiteResult];
    expect(rows.map(({ samples }) => Object.keys(samples))).toEqual(new Array(2).fill(['node-attention', 'dense']));
    expect(rows[0]!.simulated!.reached).toBe(rows[0]!.ratios.dense!.median);
    expect(targets).toHaveLength(2);
    const reads = peaks.filter(({ footprint }) => footprint !== undefined);
    expect(reads[0]).toMatchObject({ name: 'read 256 KiB', unit: 'B/s', footprint: 2 ** 18 });
    expect(reads.at(-1)!.footprint).toBeGreaterThanOrEqual(2 ** 29);
    // A cache beside the processor is faster than memory, and either is no slower than a GB/s, on any machine of today.
    expect(reads[0]!.rate).toBeGreaterThan(reads.at(-1)!.rate);
    for (const { rate } of peaks) expect(rate).toBeGreaterThan(1e9 / 2);
    for (const { floor, ofFloor, bytes, errors, memory, tolerance } of rows) {
      expect(floor!.ms).toBeGreaterThan(0);
      expect(ofFloor).toBeGreaterThan(0);
      expect(ofFloor).toBeLessThan(1);
      expect(bytes).toBe(4 * 56 * 56 * 4 * 32 * 2);
      for (const name of ['node-attention', 'dense']) expect(errors![name]).toBeLessThanOrEqual(tolerance!);
      if (process.platform === 'linux') expect(memory!['node-attention']).toBeGreaterThan(0);
    }
  });

  it('takes a GPU only if it takes neighborhoods, and says so if not', () => {
    const device = (name: string, usable = true): DeviceInfo => ({
      device: name as DeviceInfo['device'],
      backend: name === 'cpu' ? 'cpu' : 'cuda',
      usable,
      reason: 'ok',
      message: 'it is there',
    });
    const [cpu, gpu] = [device('cpu'), device('cuda')];
    const takes = () => undefined;
    const refuses = (name: string) => (name === 'cpu' ? undefined : 'neighborhoods do not run there');
    expect(chooseDevice(undefined, [cpu, gpu], takes)).toEqual({ info: gpu });
    expect(chooseDevice(undefined, [cpu, gpu], refuses)).toEqual({
      info: cpu,
      refused: 'neighborhoods do not run there',
    });
    expect(chooseDevice(undefined, [cpu, device('cuda', false)], refuses)).toEqual({ info: cpu });
    expect(chooseDevice('cpu', [cpu, gpu], refuses)).toEqual({ info: cpu });
    expect(() => chooseDevice('cuda', [cpu, gpu], refuses)).toThrow(
      "--device: 'cuda' cannot be used (neighborhoods do not run there)",
    );
    expect(refusalOf('cpu')).toBeUndefined();
  });

  it('has every kind of measurement', () => {
    const names = jobs({ device: 'cpu', quick: true, plan: { rounds: 1, batchMs: 1, settleMs: 0 }, threads: 1 });
    const kinds = names.map(({ name }) => /^(sweep|baselines|blocked|tokens|memory)/.exec(name)?.[1] ?? 'named');
    expect([...new Set(kinds)]).toEqual(['named', 'sweep', 'baselines', 'blocked', 'tokens', 'memory']);
  });

  it('refuses a filter that leaves nothing, and a device that is not there', () => {
    expect(bench('--filter', 'float8').stderr).toContain("no case contains 'float8'");
    const { status, stderr } = bench('--device', 'cuda:7');
    expect(stderr).toMatch(/error: --device: 'cuda:7' cannot be used \(.*\); try npx node-attention doctor/);
    expect(status).toBe(1);
  });
});
