// The benchmark's own judgement: its statistics, its rounds, and that it does not time what computes something else.

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, expect, it } from 'vitest';
import {
  bytesOf,
  type Case,
  comparisonsOf,
  count,
  flopsOf,
  HEADS,
  type Kind,
  makeCase,
  sees,
  setsOf,
  shareOf,
} from '../bench/cases';
import { examine } from '../bench/check';
import { rowOf } from '../bench/cpu';
import { casesOf } from '../bench/families';
import { floorOf } from '../bench/floor';
import { makeRow, type Peak } from '../bench/format';
import { makeInputs } from '../bench/inputs';
import { watchLoad } from '../bench/load';
import { CAB_PATTERNS, cabCase, patternCase } from '../bench/masks/cases';
import { cabName, efficiencyLengths } from '../bench/masks/efficiency';
import { patterns } from '../bench/masks/patterns';
import { type Contestant, interleave, orderOf, quietest } from '../bench/measure';
import { readRate } from '../bench/peak';
import { library, paged } from '../bench/peers/library';
import { onnxruntime } from '../bench/peers/onnxruntime';
import { flexMask } from '../bench/peers/torch';
import { bytesInChild } from '../bench/resident';
import { coverage, medianInterval, medianRatio, quantile, summarize, tells } from '../bench/statistics';
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

  it('say between which samples the median lies, and of how many that can be said', () => {
    // By definition: of all ways in which samples fall below or above the median, those with `outer` or more on both sides.
    for (const count of [1, 3, 6, 9]) {
      for (const outer of [1, 2]) {
        let inside = 0;
        for (let way = 0; way < 2 ** count; way++) {
          const below = [...way.toString(2)].filter((bit) => bit === '1').length;
          if (below >= outer && count - below >= outer) inside++;
        }
        // With fewer samples than that on both sides, the two would change places.
        if (count >= 2 * outer) expect(coverage(count, outer)).toBeCloseTo(inside / 2 ** count, 12);
      }
    }
    expect(coverage(3, 1)).toBe(0.75);
    expect([1, 3, 5, 6, 7].map(tells)).toEqual([false, false, false, true, true]);
    expect(medianInterval([3, 1, 2])).toEqual([1, 3]);
    expect(medianInterval([5])).toEqual([5, 5]);
    expect(medianInterval([9, 8, 7, 6, 5, 4, 3, 2, 1])).toEqual([2, 8]); // 1 - 2 (1 + 9) / 512
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

  it('put each contestant into every place and behind every other, equally often', () => {
    for (let contestants = 1; contestants <= 13; contestants++) {
      const period = contestants % 2 === 1 ? 2 * contestants : contestants;
      const orders = Array.from({ length: period }, (_, round) => orderOf(contestants, round));
      const places = new Map<string, number>();
      const behind = new Map<string, number>();
      const add = (counts: Map<string, number>, key: string) => counts.set(key, (counts.get(key) ?? 0) + 1);
      for (const order of orders) {
        expect([...order].sort((a, b) => a - b)).toEqual([...order.keys()]);
        order.forEach((contestant, place) => {
          add(places, `${contestant} at ${place}`);
          if (place > 0) add(behind, `${contestant} behind ${order[place - 1]}`);
        });
      }
      const each = period / contestants;
      expect([...places.values()]).toEqual(new Array(contestants ** 2).fill(each));
      expect([...behind.values()]).toEqual(new Array(contestants * (contestants - 1)).fill(each));
    }
  });

  it('lets contestants take turns in such an order', async () => {
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

  it('has fewer of long runs, but two', async () => {
    const counted = async (mostMs: number, values: number[] = []) => {
      const { samples, repeated } = await interleave(
        [fake('5'), fake('7')],
        { ...plan, settleMs: 0, mostMs },
        loads(...values),
      );
      return [samples[1]!.length, repeated];
    };
    expect(await counted(1000)).toEqual([4, 0]);
    expect(await counted(36)).toEqual([3, 0]);
    expect(await counted(11)).toEqual([2, 0]);
    expect(await counted(11, [0.5, 0, 0.5])).toEqual([2, 2]); // each is repeated as often as one of more
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
    expect(quietest(rounds, 2).map(({ times }) => times[0])).toEqual([2, 9]);
  });

  it('are judged together until there is enough of them to tell the load', async () => {
    let watched = 0;
    const watch = (tellsAfterMs: number, ...values: number[]) => {
      watched = 0;
      return {
        tellsAfterMs,
        start: () => void watched++,
        stop: () => values.shift() ?? 0,
      };
    };
    const settled = { ...plan, settleMs: 20, patience: 10 };
    // As many rounds of some 20 ms as it takes, and those that are left over would be too few by themselves.
    const quiet = await interleave([fake('5')], settled, watch(200));
    expect([watched, quiet.disturbed, quiet.repeated]).toEqual([1, 0, 0]);
    expect(quiet.samples[0]!.length).toBeGreaterThanOrEqual(4);
    // A stretch in which others were busy is repeated whole.
    const busy = await interleave([fake('5')], settled, watch(200, 0.5));
    expect([watched, busy.disturbed]).toEqual([2, 0]);
    expect(busy.repeated).toBeGreaterThanOrEqual(4);
    // Without patience there are no more rounds than wanted.
    const hasty = await interleave([fake('5')], { ...settled, patience: 1 }, watch(1e6, 0.5));
    expect([watched, hasty.samples[0]!.length, hasty.disturbed]).toEqual([1, 4, 4]);
  });

  it.skipIf(process.platform !== 'linux')('see the work of others', async () => {
    const watch = watchLoad();
    const spin = `const end = Date.now() + 2000; while (Date.now() < end);`;
    const other = spawn(process.execPath, ['-e', spin], { stdio: 'ignore' });
    watch.start();
    await new Promise((done) => setTimeout(done, watch.tellsAfterMs));
    expect(watch.stop()).toBeGreaterThan(0.2); // it shares the machine with other tests
    other.kill();
    // 20 ms may be in or out of a count: beside 6 % of the time, that is little.
    expect(20 / watch.tellsAfterMs!).toBeLessThan(0.06 / 2);
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

  it('of every set of inputs are looked at, of which runs take one after the other', async () => {
    for (const [kind, dtype] of [
      ['decode', 'float32'],
      ['causal', 'bfloat16'],
    ] as const) {
      const each = makeCase(kind, dtype, 48, 16);
      const given = makeInputs(each, 3);
      const contestants = [library('node-attention', each, given), paged(each, given)];
      if (dtype === 'float32') contestants.push(await onnxruntime(each, given, 1));
      expect((await examine(contestants, given)).faults).toEqual([]);
      const [first] = contestants as [Contestant];
      const out = Float32Array.from(await first.output());
      expect(out.length).toBe(given.q.length);
      for (const contestant of contestants) await contestant.close();
      // One that always takes the first set, and one that leaves out the last.
      const set = out.length / 3;
      const lazy = Float32Array.from(out, (_, i) => out[i % set]!);
      const short = Float32Array.from(out, (x, i) => (i < 2 * set ? x : 0));
      const { faults } = await examine([fake('1', [], lazy, each), fake('2', [], short, each)], given);
      expect(faults.map(({ contestant }) => contestant)).toEqual(['1', '2']);
    }
    const pattern = patterns(130).find(({ name }) => name === 'uniform block sparse')!;
    const planned = { ...patternCase(pattern, 'float32', 130), headDim: 16 };
    const given = makeInputs(planned, 2);
    const contestant = library('node-attention', planned, given);
    expect((await examine([contestant], given)).faults).toEqual([]);
    await contestant.close();
  });

  it('are of numbers that differ from set to set, and are the same for any number of them', () => {
    const [one, three] = [makeInputs(test), makeInputs(test, 3)];
    expect([one.sets, three.sets, three.k.length]).toEqual([1, 3, 3 * one.k.length]);
    expect(three.q.subarray(0, one.q.length)).toEqual(one.q);
    expect(three.q.subarray(one.q.length, 2 * one.q.length)).not.toEqual(one.q);
    expect(three.k.subarray(0, one.q.length)).not.toEqual(one.q);
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

  it.skipIf(process.platform !== 'linux')('take memory that the system does not hide by taking back code', async () => {
    const bytes = 4 << 20;
    const beyond = await bytesInChild(join(__dirname, 'support/code-taken-back.ts'), { name: 'a buffer', bytes });
    expect(beyond).toBeGreaterThan(0.9 * bytes);
  });

  it.skipIf(process.platform !== 'linux')('take memory that a process of its own tells', async () => {
    const task = { family: 'cpu', quick: true, contestant: 'node-attention', threads: 1 } as const;
    const each = casesOf.cpu(true)[0]!;
    const bytes = await bytesInChild(join(__dirname, '../bench/memory.ts'), { ...task, name: each.name });
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
      const compared = Object.entries(comparisonsOf(each));
      expect(compared.map(([name]) => name)).toEqual(['dense']);
      const contestants = [
        library('node-attention', each, given),
        ...compared.map(([name, other]) => library(name, other, given)),
      ];
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

  it('are compared with everything, and with a causal mask that shows all of it', () => {
    const seen = (of: Case) => Array.from({ length: 96 ** 2 }, (_, n) => sees(of, Math.floor(n / 96), n % 96));
    for (const pattern of patterns(96)) {
      const own = patternCase(pattern, 'float32', 96);
      const { dense, causal } = comparisonsOf(own);
      expect(seen(dense!).every(Boolean)).toBe(true);
      const looksBack = seen(own).every((visible, n) => !visible || n % 96 <= Math.floor(n / 96));
      // A causal mask beside itself would say nothing.
      expect(causal !== undefined, pattern.name).toBe(looksBack && pattern.name !== 'causal');
      if (causal) expect(seen(causal)).toEqual(seen(patternCase(patterns(96)[1]!, 'float32', 96)));
    }
    expect(Object.keys(comparisonsOf(makeCase('window', 'float32', 512, 64)))).toEqual(['dense', 'causal']);
    expect(Object.keys(comparisonsOf(makeCase('neighborhood', 'float32', 512, 64)))).toEqual(['dense']);
    for (const kind of ['dense', 'causal', 'decode'] as const) {
      expect(comparisonsOf(makeCase(kind, 'float32', 512, 64))).toEqual({});
    }
    expect(comparisonsOf(cabCase('causal self', 'float32', 512))).toMatchObject({
      dense: { mask: { left: -1, right: 0 } },
    });
  });

  it('count only bytes of keys that a query sees', () => {
    for (const pattern of CAB_PATTERNS) {
      for (const tokens of [128, 512, 2048]) {
        const each = cabCase(pattern, 'bfloat16', tokens);
        const seen = new Set<number>();
        for (let i = 0; i < count(each.queries); i++) {
          for (let j = 0; j < tokens; j++) if (sees(each, i, j)) seen.add(j);
        }
        expect(bytesOf(each), each.name).toBe(2 * (count(each.queries) + seen.size) * HEADS * 64 * 2);
      }
    }
  });

  it('take turns with others until all inputs are larger than the caches of processors', () => {
    const decode = makeCase('decode', 'bfloat16', 512, 64);
    expect(setsOf(decode) * 2 * 513 * HEADS * 64 * 2).toBeGreaterThanOrEqual(2 ** 26);
    const huge = { ...decode, keys: [2 ** 24] };
    expect(setsOf(huge)).toBe(1);
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

  it('are those of memory beside those of time, where both were measured', () => {
    const sized = (tokens: number, own: number, dense: number) =>
      makeRow({ ...slower(tokens), memory: { 'node-attention': own, dense } });
    const found = (...rows: ReturnType<typeof row>[]) =>
      efficiencyLengths(rows, cabName).map(({ name, text }) => [name, text]);
    const name = 'float32 CAB causal self window, 1 thr.';
    const never = [name, 'not faster than dense at 512 keys, the most measured'];
    expect(found(sized(256, 100, 101), sized(512, 100, 200))).toEqual([
      never,
      [`${name}, memory`, 'smaller than dense from 512 keys'],
    ]);
    // Some percent are no difference.
    expect(found(sized(512, 100, 104))).toEqual([
      never,
      [`${name}, memory`, 'not smaller than dense at 512 keys, the most measured'],
    ]);
    expect(found(slower(512))).toEqual([never]);
  });
});

describe('floors', () => {
  const read = (footprint: number, rate: number): Peak => ({
    name: `read ${footprint}`,
    threads: 2,
    rate,
    unit: 'B/s',
    footprint,
  });
  const peaks: Peak[] = [
    { name: 'bfloat16 amx', threads: 2, rate: 6e12, unit: 'FLOP/s' },
    { name: 'exp avx512', threads: 2, rate: 1e10, unit: 'exp/s' },
    { name: 'copy', threads: 2, rate: 1e9, unit: 'B/s' },
    read(2 ** 18, 2e11),
    read(2 ** 22, 1e11),
    read(2 ** 26, 2e10),
    read(2 ** 29, 4e10), // when others used the machine at the one before
  ];
  const place = { peaks, instructionSet: 'amx', threads: 2 };

  it('are the longest of what arithmetic, exponentials and reading take', () => {
    const work = { flops: 6e9, dtype: 'bfloat16', exponentials: 1e6, bytes: 2 ** 18 };
    expect(floorOf(work, place)).toEqual({ ms: 1, bound: 'arithmetic' });
    expect(floorOf({ ...work, dtype: 'float32' }, place)).toEqual({ ms: 6, bound: 'arithmetic' }); // six products of parts
    expect(floorOf({ ...work, exponentials: 5e7 }, place)).toEqual({ ms: 5, bound: 'exp' });
    expect(floorOf({ ...work, bytes: 8e8 }, place)).toEqual({ ms: 20, bound: 'memory' });
    // As many bytes, but read again only after others that no cache holds.
    expect(floorOf({ bytes: 2 ** 18, footprint: 2 ** 30 }, place)).toEqual({ ms: 2 ** 18 / 4e7, bound: 'memory' });
    expect(floorOf({ bytes: 2 ** 18 }, place)).toEqual({ ms: 2 ** 18 / 2e8, bound: 'memory' });
  });

  it('are of what was measured, with as many threads', () => {
    expect(floorOf({ flops: 1, bytes: 1 }, { ...place, threads: 1 })).toBeUndefined();
    expect(floorOf({ flops: 6e9, dtype: 'bfloat16', bytes: 1 }, { ...place, peaks: peaks.slice(0, 1) })).toEqual({
      ms: 1,
      bound: 'arithmetic',
    });
    expect(floorOf({}, place)).toBeUndefined();
  });

  it('take the rate of the next smaller footprint, which no larger one exceeds', () => {
    const rate = (footprint: number) => readRate(peaks, footprint, 2);
    expect([1, 2 ** 18, 2 ** 20, 2 ** 22, 2 ** 23].map(rate)).toEqual([2e11, 2e11, 2e11, 1e11, 1e11]);
    expect([2 ** 26, 2 ** 28, 2 ** 40].map(rate)).toEqual([4e10, 4e10, 4e10]);
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
    const outcome = { test: each, threads: 1, instructionSet: 'amx', share, flops: 2e9, sets: 2, contestants, samples };
    const checked = { faults: [], absent: [], errors: {}, tolerance: 0, memory: {} };
    return rowOf({ ...outcome, ...checked, disturbed: 0, repeated: 0 }, [
      { name: 'float32 avx512', threads: 1, rate: 2e11, unit: 'FLOP/s' },
      { name: 'bfloat16 amx', threads: 1, rate: 3e12, unit: 'FLOP/s' },
      { name: 'exp avx512', threads: 1, rate: 1e11, unit: 'exp/s' },
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
      sets: 2,
      figures: { 'exp ms': (8 * 4096 ** 2) / 1e8 },
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

const python = spawnSync('python3', ['--version']).status === 0;

describe.skipIf(!python)('the process that PyTorch runs in (needs python3)', () => {
  const script = `
import runpy, sys
from unittest.mock import MagicMock

torch = MagicMock()
torch.from_file.return_value.view.return_value = [MagicMock()]
for name in "torch", "torch.nn", "torch.nn.functional":
    sys.modules[name] = torch
runpy.run_path(sys.argv.pop())`;

  /** How it ends, without PyTorch, after a request whose answer nobody reads. */
  const ended = async (request: object) => {
    const child = spawn('python3', ['-c', script, '1', join(__dirname, '../bench/peers/torch_peer.py')]);
    child.stdout.destroy();
    child.stdin.end(`${JSON.stringify(request)}\n`);
    const [stderr, [status]] = await Promise.all([text(child.stderr), once(child, 'close')]);
    return { status, stderr };
  };

  it('ends without a word when its parent has ended', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'node-attention-'));
    for (const file of ['q', 'k', 'v']) writeFileSync(join(folder, file), '');
    const sizes = { sets_count: 1, count: 1, batch: 1, heads: 1, head_dim: 1, queries: 1, keys: 1 };
    const request = { command: 'load', folder, dtype: 'float32', is_causal: false, mask: null, bias: null, ...sizes };
    expect(await ended({ ...request, name: 'any' })).toEqual({ status: 0, stderr: '' });
    rmSync(folder, { recursive: true });
  });

  it('says what else goes wrong', async () => {
    const { status, stderr } = await ended({ command: 'run', name: 'nothing', times: 1 });
    expect(status).toBe(1);
    expect(stderr).toContain("KeyError: 'nothing'");
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
