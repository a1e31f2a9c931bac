// The benchmark's own judgement: its statistics, its rounds, and that it does not time what computes something else.

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { bytesOf, type Case, count, flopsOf, HEADS, type Kind, makeCase, sees, shareOf } from '../bench/cases';
import { examine } from '../bench/check';
import { rowOf } from '../bench/cpu';
import { casesOf } from '../bench/families';
import { makeRow } from '../bench/format';
import { makeInputs } from '../bench/inputs';
import { CAB_PATTERNS, cabCase, patternCase } from '../bench/masks/cases';
import { cabName, efficiencyLengths } from '../bench/masks/efficiency';
import { patterns } from '../bench/masks/patterns';
import { type Contestant, interleave, quietest } from '../bench/measure';
import { memoryOf } from '../bench/memory';
import { library, paged } from '../bench/peers/library';
import { onnxruntime } from '../bench/peers/onnxruntime';
import { flexMask } from '../bench/peers/torch';
import { medianRatio, quantile, summarize } from '../bench/statistics';
import { judge } from '../bench/targets';

describe('statistics', () => {
  it('interpolates quantiles, whatever the order', () => {
    expect(quantile([4, 1, 3, 2], 0)).toBe(1);
    expect(quantile([4, 1, 3, 2], 0.25)).toBe(1.75);
    expect(quantile([4, 1, 3, 2], 1)).toBe(4);
    expect(summarize([10, 9, 1, 2, 3])).toEqual({ median: 3, q1: 2, q3: 9, count: 5 });
    expect(summarize([7])).toEqual({ median: 7, q1: 7, q3: 7, count: 1 });
    expect(() => quantile([], 0.5)).toThrow('no samples');
  });

  it('takes ratios within rounds, so that a slow machine cancels', () => {
    // Twice as slow in every round, while the machine itself slows down tenfold after the first.
    expect(medianRatio([2, 20, 20], [1, 10, 10])).toBe(2);
    expect(medianRatio([1, 20, 30], [1, 10, 10])).toBe(2); // not 20 / 10 of the medians by luck: 1, 2, 3
    expect(() => medianRatio([1, 2], [1])).toThrow('2 rounds of one, 1 of the other');
  });
});

const test = makeCase('causal', 'float32', 64, 16);

/** Each run takes as long as its name says, and is written down. */
function fake(name: string, log: string[] = [], values: ArrayLike<number> = [], of: Case = test): Contestant {
  return {
    name,
    test: of,
    async run(times) {
      log.push(name);
      return new Array(times).fill(Number(name));
    },
    output: async () => values,
    close: async () => {},
  };
}

describe('rounds', () => {
  const plan = { rounds: 4, batchMs: 3, settleMs: 40 };
  const loads = (...values: number[]) => ({ start() {}, stop: () => values.shift() ?? 0 });

  it('lets contestants take turns in a rotating order', async () => {
    const log: string[] = [];
    const { samples, disturbed, repeated } = await interleave([fake('5', log), fake('7', log)], plan, loads());
    expect(log.join(' ')).toBe('5 7 5 7 7 5 5 7 7 5'); // the first two calibrate
    expect(samples).toEqual([new Array(4).fill(5), new Array(4).fill(7)]);
    expect([disturbed, repeated]).toEqual([0, 0]);
  });

  it('fills a batch with short runs, after one that warms the caches', async () => {
    const runs: number[] = [];
    const short = {
      ...fake('1'),
      async run(times: number) {
        runs.push(times);
        return new Array(times).fill(1);
      },
    };
    await interleave([short], { rounds: 2, batchMs: 3, settleMs: 0 }, loads());
    expect(runs).toEqual([3, 1, 3, 1, 3]);
  });

  it('repeats rounds in which others used the machine', async () => {
    const busy = await interleave([fake('5')], plan, loads(0.5, 0, 0.07, 0));
    expect([busy.samples[0]!.length, busy.disturbed, busy.repeated]).toEqual([4, 0, 2]);
  });

  it('keeps the quietest ones when there is no end of it, and says so', async () => {
    const values = [0.9, 0.3, 0, 0.8, 0.2, 0.7, 0.6, 0.5, 0.4, 0, 0.1, 0.95];
    const busy = await interleave([fake('5')], plan, loads(...values));
    expect([busy.samples[0]!.length, busy.disturbed, busy.repeated]).toEqual([4, 2, 8]);
    const rounds = values.map((load, n) => ({ load, times: [n] }));
    expect(quietest(rounds, 4).map(({ times }) => times[0])).toEqual([2, 4, 9, 10]); // in their order
  });
});

describe('outputs', () => {
  const inputs = makeInputs(test);

  it('of this library and of ONNX Runtime pass', async () => {
    for (const kind of ['dense', 'causal', 'decode'] as const) {
      const each = makeCase(kind, 'float32', 64, 16);
      const given = makeInputs(each);
      const contestants = [library('node-attention', each, given), await onnxruntime(each, given, 1)];
      const { right, faults } = await examine(contestants, given);
      for (const contestant of contestants) await contestant.close();
      expect(faults).toEqual([]);
      expect(right).toEqual(contestants);
    }
  });

  it('over the pages of a cache pass', async () => {
    for (const dtype of ['float32', 'bfloat16'] as const) {
      for (const kind of ['causal', 'decode'] as const) {
        const each = makeCase(kind, dtype, 130, 16);
        const given = makeInputs(each);
        const contestant = paged(each, given);
        expect((await examine([contestant], given)).faults).toEqual([]);
        await contestant.close();
      }
    }
  });

  it('of this library pass for every mask and element type', async () => {
    for (const dtype of ['float32', 'bfloat16'] as const) {
      for (const kind of ['window', 'neighborhood', 'neighborhood2d', 'strided2d'] as const) {
        const each = makeCase(kind, dtype, 64, 16);
        const given = makeInputs(each);
        const contestant = library('node-attention', each, given);
        expect((await examine([contestant], given)).faults).toEqual([]);
        await contestant.close();
      }
    }
  });

  it('of every layer are looked at', async () => {
    const each = { ...makeCase('decode layers', 'float32', 48, 16), layers: 3 };
    const given = makeInputs(each);
    const contestants = [library('node-attention', each, given), await onnxruntime(each, given, 1)];
    const { right, faults, errors, tolerance } = await examine(contestants, given);
    expect([right, faults]).toEqual([contestants, []]);
    for (const { name } of contestants) expect(errors[name]).toBeLessThanOrEqual(tolerance);
    const out = Float32Array.from(await contestants[0]!.output());
    for (const contestant of contestants) await contestant.close();
    expect(out.length).toBe(3 * HEADS * 16);
    // The last layer repeats the first, as a program with one cache for all layers would have it.
    out.copyWithin(2 * HEADS * 16, 0, HEADS * 16);
    const lazy = fake('1', [], out, each);
    expect((await examine([lazy], given)).faults).toMatchObject([{ contestant: '1' }]);
  });

  it.skipIf(process.platform !== 'linux')('take memory that a process of its own tells', async () => {
    const task = { family: 'cpu', quick: true, contestant: 'node-attention', threads: 1 } as const;
    const each = casesOf.cpu(true)[0]!;
    const bytes = await memoryOf({ ...task, test: each.name });
    // The output at least, and far less than all scores would take.
    expect(bytes).toBeGreaterThan(4 * HEADS * count(each.queries) * each.headDim * 0.9);
    expect(bytes).toBeLessThan(4 * HEADS * count(each.queries) * count(each.keys));
  });

  it('of the patterns pass, for lengths that are no multiple of a tile', async () => {
    for (const tokens of [384, 391]) {
      for (const pattern of patterns(tokens)) {
        const each = { ...patternCase(pattern, 'float32', tokens), headDim: 16 };
        const given = makeInputs(each);
        const contestant = library('node-attention', each, given);
        expect((await examine([contestant], given)).faults, pattern.name).toEqual([]);
        await contestant.close();
      }
    }
    expect(patterns(384).map(({ name }) => name)).toEqual([
      'full',
      'causal',
      'full sliding window',
      'causal sliding window',
      'full document',
      'causal document',
      'share question',
      'global sliding window',
      'causal blockwise',
      'prefix LM causal',
      'prefix LM document',
      'block causal document',
      'uniform block sparse',
      'variable block sparse',
    ]);
  });

  it('of windows in the four patterns of CAB pass, and so does what they are compared with', async () => {
    for (const pattern of CAB_PATTERNS) {
      const each = { ...cabCase(pattern, 'float32', 512), headDim: 16 };
      const given = makeInputs(each);
      const dense = { ...each, mask: each.dense ? { left: -1, right: 0 } : undefined };
      const contestants = [library('node-attention', each, given), library('dense', dense, given)];
      expect((await examine(contestants, given)).faults, pattern).toEqual([]);
      for (const contestant of contestants) await contestant.close();
    }
  });

  it('that are wrong are refused: another mask, a small error, NaN, nothing', async () => {
    const own = library('node-attention', test, inputs);
    await own.run(1);
    const out = Float32Array.from(await own.output());
    await own.close();
    const unmasked = library('unmasked', { ...test, mask: undefined }, inputs);
    const faulty = [
      { ...unmasked, test },
      fake(
        '1',
        [],
        out.map((x) => x + 1e-4),
      ),
      fake(
        '2',
        [],
        out.map((x, i) => (i === out.length - 1 ? Number.NaN : x)),
      ),
      fake('3', [], []),
    ];
    const { right, faults } = await examine([fake('0', [], out), ...faulty], inputs);
    await unmasked.close();
    expect(right.map(({ name }) => name)).toEqual(['0']);
    expect(faults.map(({ contestant }) => contestant)).toEqual(['unmasked', '1', '2', '3']);
    expect(faults[1]!.fault).toMatch(/^query 0, head 0, element 0 is \S+; it must be within \S+ of \S+$/);
    expect(faults[2]!.fault).toBe(`element ${out.length - 1} of all is NaN`);
    expect(faults[3]!.fault).toBe(`it has 0 elements instead of ${out.length}`);
  });
});

describe('shares', () => {
  const share = (kind: Kind, size: number) => shareOf(makeCase(kind, 'float32', size, 64));

  it('count pairs and tiles', () => {
    expect(share('dense', 512)).toEqual({ visible: 1, tiles: 1 });
    expect(share('causal', 512)).toEqual({ visible: 513 / 1024, tiles: 36 / 64 });
    // 64 keys back: a tile of 64 queries reaches into the tile before its own.
    expect(share('window', 512)).toEqual({ visible: (64 * 512 - (64 * 63) / 2) / 512 ** 2, tiles: 15 / 64 });
    // 16 keys of 64 on each axis. A tile of 8 queries sees 23, which lie in 3 tiles (2 where windows stop at the border).
    const { visible, tiles } = share('neighborhood2d', 4096);
    expect(visible).toBe(1 / 16);
    expect(tiles).toBeCloseTo((22 / 64) ** 2, 12);
  });

  it('of patterns are counted pair by pair', () => {
    const tokens = 256;
    for (const pattern of patterns(tokens)) {
      const each = patternCase(pattern, 'float32', tokens);
      let visible = 0;
      const seen = new Set<string>();
      for (let i = 0; i < tokens; i++) {
        for (let j = 0; j < tokens; j++) {
          if (!sees(each, i, j)) continue;
          visible++;
          seen.add(`${i >> 6} ${j >> 6}`);
        }
      }
      expect(shareOf(each), pattern.name).toEqual({ visible: visible / tokens ** 2, tiles: seen.size / 16 });
    }
  });

  it('give the work: 4 D operations for each visible pair and head', () => {
    const decode = makeCase('decode', 'float32', 512, 64);
    expect(flopsOf(decode, shareOf(decode))).toBe(4 * 8 * 512 * 64);
    const layers = makeCase('decode layers', 'float32', 512, 64);
    expect(flopsOf(layers, shareOf(layers))).toBe(32 * 4 * 8 * 512 * 64);
    expect(bytesOf(layers)).toBe(32 * 4 * 8 * 64 * 2 * (512 + 1));
    expect(flopsOf(test, shareOf(test))).toBe(4 * 8 * ((64 * 65) / 2) * 16);
  });
});

describe('efficiency lengths', () => {
  const row = (tokens: number, own: number[], dense: number[]) =>
    makeRow({
      name: `S=${tokens}`,
      case: { mask: 'CAB causal self window', dtype: 'float32', tokens, headDim: 64, threads: 1 },
      samples: { 'node-attention': own, dense },
      disturbed: 0,
      repeated: 0,
    });
  const faster = (tokens: number) => row(tokens, [1, 1, 1], [2, 2, 2]);
  const slower = (tokens: number) => row(tokens, [2, 2, 2], [1, 1, 1]);
  const unclear = (tokens: number) => row(tokens, [1, 1, 1], [2, 0.5, 2]);

  it('are the shortest from which on the sparse method wins, beyond the noise, to the end', () => {
    const length = (...rows: ReturnType<typeof row>[]) => {
      const [found, ...others] = efficiencyLengths(rows, cabName);
      expect([found!.name, others]).toEqual(['float32 CAB causal self window, 1 thr.', []]);
      return found!.text;
    };
    expect(length(faster(512), slower(128), slower(256))).toBe('faster than dense from 512 keys');
    expect(length(faster(128), unclear(256), faster(512), faster(1024))).toBe('faster than dense from 512 keys');
    expect(length(faster(128), slower(256))).toContain('not faster than dense at 256');
    expect(length(faster(128))).toContain('128 keys or fewer');
    expect(length(slower(128))).toContain('not faster than dense at 128');
    expect(efficiencyLengths([faster(128)], () => undefined)).toEqual([]);
  });
});

describe('masks for flex_attention', () => {
  it('say what the case says', () => {
    expect(flexMask(makeCase('dense', 'float32', 512, 64))).toBeUndefined();
    const cross = cabCase('causal cross', 'float32', 512);
    expect(flexMask(cross)).toEqual({ kind: 'windowed', left: 255, right: 0, offset: 384 });
    expect(flexMask(makeCase('strided2d', 'float32', 4096, 64))).toEqual({
      kind: 'neighboring',
      axes: new Array(2).fill({ extent: 64, window: 16, stride: 8 }),
    });
    const shared = patternCase(patterns(64).find(({ name }) => name === 'share question')!, 'float32', 64);
    const mask = flexMask(shared);
    if (mask?.kind !== 'ranged') throw new Error('not ranged');
    for (let i = 0; i < 64; i++) {
      for (let j = 0; j < 64; j++) {
        expect(mask.sets.some(({ from, to }) => j >= from[i]! && j < to[i]!)).toBe(sees(shared, i, j));
      }
    }
  });
});

describe('targets', () => {
  const row = (kind: Kind, contestants: string[], samples: number[][]) => {
    const each = makeCase(kind, 'float32', 4096, 64);
    const share = shareOf(each);
    const outcome = { test: each, threads: 1, instructionSet: 'amx', share, flops: 2e9, contestants, samples };
    const checked = { faults: [], absent: [], errors: {}, tolerance: 0, memory: {} };
    return rowOf({ ...outcome, ...checked, disturbed: 0, repeated: 0 }, [
      { name: 'float32 avx512', threads: 1, rate: 2e11, unit: 'FLOP/s' },
      { name: 'bfloat16 amx', threads: 1, rate: 3e12, unit: 'FLOP/s' },
      { name: 'exp avx512', threads: 1, rate: 1e9, unit: 'exp/s' },
    ]);
  };

  it('are judged by the worst row', () => {
    const rows = [
      row('dense', ['node-attention', 'onnxruntime'], [[10], [20]]),
      row('dense', ['node-attention', 'onnxruntime'], [[10], [9]]),
    ];
    expect(rows[0]).toMatchObject({
      flopsPerSecond: 2e11,
      floor: { ms: 4, bound: 'arithmetic' }, // six products of bfloat16 on AMX
      ofFloor: 0.4,
      ratios: { onnxruntime: { median: 2, interval: [2, 2] } },
      figures: { 'exp ms': (8 * 4096 ** 2) / 1e6 },
    });
    expect(rows[0]!.ratios.pytorch).toBeUndefined();
    const verdicts = judge(rows);
    expect(verdicts[0]).toMatchObject({ verdict: 'missed', rows: 2, reached: 1, worst: { figure: 0.9 } });
    expect(verdicts.at(-1)).toMatchObject({ verdict: 'not measured', rows: 0 });
    expect(judge([rows[0]!, { ...rows[0]!, disturbed: 3 }])[0]).toMatchObject({ rows: 2, reached: 2, disturbed: 1 });
    expect(judge(rows.slice(0, 1))[0]).toMatchObject({ verdict: 'reached', rows: 1, reached: 1 });
  });

  it('compare masks with the share of tiles of the unmasked time', () => {
    const { tiles } = shareOf(makeCase('window', 'float32', 4096, 64));
    const good = row('window', ['node-attention', 'dense'], [[110 * tiles], [100]]);
    const bad = row('window', ['node-attention', 'dense'], [[120 * tiles], [100]]);
    expect(good.figures?.['over tiles']).toBeCloseTo(1.1, 9);
    expect(judge([good]).at(-1)).toMatchObject({ verdict: 'reached' });
    expect(judge([good, bad]).at(-1)).toMatchObject({ verdict: 'missed', reached: 1 });
  });

  it('are not met by a contestant whose output was wrong', () => {
    const without = row('dense', ['onnxruntime'], [[9]]);
    expect(without.flopsPerSecond).toBeUndefined();
    expect(judge([without])[0]).toMatchObject({ verdict: 'not measured' });
  });
});

describe('npm run bench', () => {
  const bench = (...args: string[]) => {
    const tsx = join(__dirname, '../node_modules/tsx/dist/cli.mjs');
    const main = join(__dirname, '../bench/main.ts');
    return spawnSync(process.execPath, [tsx, main, 'cpu', ...args], { encoding: 'utf8' });
  };

  it('names the fix when there is no PyTorch', () => {
    const { status, stderr } = bench('--quick', '--torch', '/no/such/python');
    expect(status).toBe(1);
    expect(stderr).toContain("'/no/such/python' has no PyTorch");
    expect(stderr).toContain('/no/such/python -m pip install torch');
  });

  it('refuses a filter that leaves nothing, and thread counts that are none', () => {
    expect(bench('--filter', 'float8').stderr).toContain("no case contains 'float8'");
    expect(bench('--threads', '0').stderr).toContain('Give whole numbers of at least 1');
  });
});
