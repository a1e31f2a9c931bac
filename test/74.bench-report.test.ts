// What is made of results: rows, the page, the comparison of two files, the tables of the documentation; and the suites
// that the page is made from without a word on the command line.

import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { compare, comparisonText } from '../bench/compare';
import { allCudaCases } from '../bench/cuda/cases';
import { type Limits, measureInProcess } from '../bench/cuda/process';
import { casesLeft, earlierResult, joined } from '../bench/cuda/resume';
import {
  FORMAT,
  fullName,
  type Measured,
  makeRow,
  parseResults,
  type ResultFile,
  type Row,
  type Verdict,
} from '../bench/format';
import { chartsOf } from '../bench/html/charts';
import { page } from '../bench/html/page';
import { columnsOf, faultLines, tableOf } from '../bench/report';
import { NothingToMeasure, runSuites, type Suite, WHOLE_SUITE } from '../bench/session';
import { factor, pairShares } from '../bench/statistics';
import { suites } from '../bench/suites';
import { blocks, newest, update, withBlocks } from '../bench/tables';
import { uniform } from './support/numbers';

const root = join(__dirname, '..');
const folder = mkdtempSync(join(tmpdir(), 'node-attention-report-'));
afterAll(() => rmSync(folder, { recursive: true }));

const measured = (samples: Measured['samples'], more: Partial<Measured> = {}): Measured => ({
  name: 'float32 dense S=64 D=16',
  case: { mask: 'dense', dtype: 'float32', tokens: 64, headDim: 16, threads: 2 },
  samples,
  disturbed: 0,
  repeated: 0,
  ...more,
});

const fileOf = (rows: Row[], more: Partial<ResultFile> = {}): ResultFile => ({
  ...FORMAT,
  date: '2026-01-02T03:04:05.000Z',
  command: 'npm run bench --',
  machine: { cpu: 'a <processor>', processors: 2, memoryBytes: 2 ** 33, system: 'Linux' },
  versions: { node: 'v20.0.0' },
  suites: [
    {
      suite: 'cpu',
      about: 'About.',
      command: 'npm run bench -- cpu',
      versions: { pytorch: '2' },
      peaks: [
        { name: 'float32 generic', threads: 2, rate: 1e12, unit: 'FLOP/s' },
        { name: 'copy', threads: 2, rate: 2e10, unit: 'B/s' },
      ],
      rows,
      targets: [],
      notMeasured: [{ what: 'usearch', why: 'there is no retrieval' }],
    },
  ],
  ...more,
});

describe('the factor between two lists of times', () => {
  it('has the distribution of pairs that all orders of the samples have', () => {
    for (const [first, second] of [
      [1, 1],
      [3, 4],
      [5, 2],
      [4, 4],
    ] as const) {
      const counts = new Array<number>(first * second + 1).fill(0);
      for (let order = 0; order < 2 ** (first + second); order++) {
        // A bit for each sample, from the least to the largest: whether it is of the first kind.
        const kinds = Array.from({ length: first + second }, (_, n) => (order >> n) & 1);
        if (kinds.filter((kind) => kind === 1).length !== first) continue;
        let pairs = 0;
        for (const [n, kind] of kinds.entries()) {
          if (kind === 1) pairs += kinds.slice(0, n).filter((other) => other === 0).length;
        }
        counts[pairs]!++;
      }
      const orders = counts.reduce((sum, count) => sum + count);
      for (const [pairs, share] of pairShares(first, second).entries()) {
        expect(share).toBeCloseTo(counts[pairs]! / orders, 12);
      }
    }
    expect(pairShares(30, 30).reduce((sum, share) => sum + share)).toBeCloseTo(1, 12);
  });

  it('lies between the ratios that published tables say', () => {
    // Critical values of U, two-sided, 1 %: 2 for 6 and 6, 4 for 7 and 7, 0 for 5 and 5, none for 4 and 5.
    const sorted = (count: number) => Array.from({ length: count }, (_, n) => 10 + n);
    for (const [count, critical] of [
      [5, 0],
      [6, 2],
      [7, 4],
    ] as const) {
      const ratios = sorted(count).flatMap((a) => sorted(count).map((b) => b / a));
      ratios.sort((a, b) => a - b);
      const { interval } = factor(sorted(count), sorted(count), 0.99);
      expect(interval).toEqual([ratios[critical], ratios.at(-1 - critical)]);
    }
    expect(factor(sorted(4), sorted(5), 0.99).interval).toEqual([0, Number.POSITIVE_INFINITY]);
  });

  /** Times with noise that now and then is large, as others' work makes it. */
  const noisy = (random: () => number) => 10 * (1 + 0.1 * random()) * (random() < 0.15 ? 1 + random() : 1);
  const draw = (random: () => number, count: number, stretched = 1) =>
    Array.from({ length: count }, () => stretched * noisy(random));

  it.each([
    [5, 5],
    [6, 7],
    [7, 7],
    [8, 12],
  ])('of %d and %d rounds misses the truth once in a hundred times, no more', (before, after) => {
    const random = uniform(6);
    const shares = pairShares(before, after);
    // What can be reached by so many samples: whole orders only.
    let reached = 0;
    for (let tail = 0, n = 0; tail + shares[n]! <= 0.005; n++) {
      tail += shares[n]!;
      reached = 2 * tail;
    }
    const times = 3000;
    for (const truth of [1, 1.3]) {
      let missed = 0;
      for (let n = 0; n < times; n++) {
        const { interval } = factor(draw(random, before), draw(random, after, truth), 0.99);
        if (interval[0] > truth || interval[1] < truth) missed++;
      }
      const slack = 4 * Math.sqrt(reached / times); // standard deviations of a binomial
      expect(missed / times).toBeLessThan(reached + slack);
      expect(missed / times, 'and is no wider than need be').toBeGreaterThan(reached - slack);
    }
  });

  it('finds a change that is larger than the noise', () => {
    const random = uniform(7);
    const calm = (ms: number) => Array.from({ length: 7 }, () => ms * (1 + 0.1 * random()));
    const { median, interval } = factor(calm(10), calm(11.5), 0.99); // no time of the one is as long as one of the other
    expect(interval[0]).toBeGreaterThan(1);
    expect(interval[1]).toBeLessThan(1.15 * 1.1);
    expect(median).toBeGreaterThan(interval[0]);
    expect(median).toBeLessThan(interval[1]);
  });
});

describe('rows', () => {
  it('have all that follows from their samples', () => {
    const row = makeRow(
      measured(
        { 'node-attention': [1, 2, 3], peer: [2, 4, 9] },
        { flops: 1e9, floor: { ms: 0.5, bound: 'arithmetic' } },
      ),
    );
    expect(row.times['node-attention']).toMatchObject({ median: 2, count: 3 });
    expect(row.ratios.peer!.median).toBe(2);
    expect(row.ratios.peer!.interval).toEqual([2, 3]);
    expect(row).toMatchObject({ flopsPerSecond: 5e11, ofFloor: 0.25 });
    expect(fullName(row)).toBe('float32 dense S=64 D=16, 2 thr.');
  });

  it('say of few rounds that their interval is from the least to the most', () => {
    const table = (rounds: number) => {
      const times = Array.from({ length: rounds }, (_, n) => 10 + n);
      const rows = [makeRow(measured({ 'node-attention': times, peer: times.map((ms) => 2 * ms) }))];
      return tableOf(columnsOf(rows), rows);
    };
    expect(table(3)).toContain('10.0 - 12.0 (min-max)');
    expect(table(3)).toContain('2.00 - 2.00 (min-max)');
    expect(table(6)).toContain('10.0 - 15.0 |');
    expect(table(6)).not.toContain('min-max');
  });

  it('refuse zeros, what is no time, and rounds that are missing', () => {
    for (const odd of [0, Number.NaN, -1, Number.POSITIVE_INFINITY]) {
      expect(() => makeRow(measured({ 'node-attention': [1, odd] }))).toThrow(`has a time of ${odd} ms`);
    }
    expect(() => makeRow(measured({ 'node-attention': [1, 2], peer: [1] }))).toThrow('peer has 1 rounds');
    expect(() => makeRow(measured({ 'node-attention': [] }))).toThrow('0 rounds');
  });

  it('have no figure of a contestant whose output was wrong', () => {
    const row = makeRow(
      measured({ peer: [1, 2] }, { flops: 1e9, faults: [{ contestant: 'node-attention', fault: 'NaN' }] }),
    );
    expect(row).toMatchObject({ ratios: {}, flopsPerSecond: undefined });
    expect(faultLines([row])).toEqual(['WRONG OUTPUT: node-attention, float32 dense S=64 D=16, 2 thr.: NaN']);
  });
});

describe('result files', () => {
  it('of another form are refused in a sentence', () => {
    const file = fileOf([]);
    expect(parseResults(JSON.stringify(file), 'a.json')).toEqual(file);
    expect(() => parseResults('{', 'a.json')).toThrow('a.json is not JSON');
    expect(() => parseResults('{"rows":[]}', 'a.json')).toThrow('a.json is not a result file');
    expect(() => parseResults(JSON.stringify({ ...file, version: 9 }), 'a.json')).toThrow('has version 9');
  });
});

describe('the page', () => {
  const lengths = [64, 128].map((tokens) =>
    makeRow(
      measured(
        { 'node-attention': [1, 2, 3], 'pytorch<1>': [2, 4, 9] },
        {
          name: `float32 dense S=${tokens} & D=16`,
          case: { mask: 'a<b', dtype: 'float32', tokens, headDim: 16, threads: 2 },
          flops: 1e9,
          bytes: 1e6,
          quality: { sparsity: tokens / 256, recall: 0.9 },
          simulated: { bound: 3, reached: 2 },
          memory: { 'node-attention': 2 ** 21 },
          errors: { 'node-attention': 1e-6 },
        },
      ),
    ),
  );
  const html = page(fileOf(lengths));

  it('needs nothing but itself', () => {
    expect(/<script|<link|<img|<style >|@import|url\((?!#)/.exec(html)?.[0]).toBeUndefined();
    const links = [...html.matchAll(/(?:href|src)="([^"]*)"/g)].map(([, to]) => to!);
    expect(links.every((to) => to.startsWith('#'))).toBe(true);
    // The names of the formats that SVG is written in are no addresses that are opened.
    const addresses = [...html.matchAll(/https?:[^"\s<]*/g)].map(([address]) => address);
    expect(new Set(addresses)).toEqual(new Set(['http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink']));
  });

  it('has every chart that the rows can fill, the machine, the peaks and every case', () => {
    const titles = [...html.matchAll(/aria-label="([^"]*)"/g)].map(([, title]) => title!);
    expect(titles.map((title) => title.replace(/,? .*$/, ''))).toEqual(new Array(5).fill('cpu:'));
    for (const part of ['speed over length', 'over ours', 'roofline', 'recall over sparsity', 'the simulator'])
      expect(titles.join()).toContain(part);
    expect(html).toContain('a &lt;processor&gt;, 2 processors, 8.0 GiB');
    expect(html).toContain('1.00 TFLOP/s');
    expect(html).toContain('20.0 GB/s');
    for (const { name } of lengths) expect(html).toContain(`<td>${name.replace('&', '&amp;')}</td>`);
    for (const text of ['2.00 MiB', '1.0e-6', 'there is no retrieval']) expect(html).toContain(text);
  });

  it('joins no rows by a line that are about different things', () => {
    const row = (data: string | undefined, tokens: number, ms: number) =>
      makeRow(
        measured(
          { 'node-attention': [ms], peer: [2 * ms] },
          {
            name: `${data} ${tokens}`,
            case: { mask: 'hip 2 %', dtype: 'float32', tokens, headDim: 16, threads: 2, data },
            flops: 1e9,
            bytes: 1e6,
          },
        ),
      );
    const rows = ['decoding', 'prefill'].flatMap((data, n) => [64, 128].map((tokens) => row(data, tokens, 10 ** n)));
    const titles = (of: Row[]) =>
      [...page(fileOf(of)).matchAll(/aria-label="([^"]*)"/g)].map(([, title]) => title!.replace(/ \(.*$/, ''));
    expect(titles(rows)).toEqual([
      'cpu: speed over length, float32, headDim 16, decoding, 2 threads',
      'cpu: speed over length, float32, headDim 16, prefill, 2 threads',
      'cpu: time of peer over ours, float32, decoding, 2 threads',
      'cpu: time of peer over ours, float32, prefill, 2 threads',
      'cpu: roofline, 2 threads',
    ]);
    expect(titles([row(undefined, 64, 1), row(undefined, 128, 1)])[0]).toBe(
      'cpu: speed over length, float32, headDim 16, 2 threads',
    );
  });

  it('has a roof for what is read near a processor and for what is read far from it', () => {
    const file = fileOf(lengths);
    const footprints = [2 ** 18, 2 ** 20, 2 ** 29];
    file.suites[0]!.peaks.push(
      ...footprints.map((footprint, n) => ({
        name: `read ${footprint}`,
        threads: 2,
        rate: 1e11 / 4 ** n,
        unit: 'B/s' as const,
        footprint,
      })),
    );
    const chart = chartsOf(file.suites[0]!).find(({ title }) => title.includes('roofline'))!;
    expect(chart.title).toBe('cpu: roofline, 2 threads (memory: 6.3 GB/s)');
    expect(chart.svg).toContain(`read ${2 ** 18}`);
    expect(chart.svg).toContain(`read ${2 ** 29}`);
    expect(chart.svg).not.toContain(`read ${2 ** 20}`);
  });

  it('holds no chart of what was not measured, and no number that is none', () => {
    const bare = page(fileOf([makeRow(measured({ 'node-attention': [1, 2, 3] }))]));
    expect(bare).not.toContain('<svg');
    for (const text of [html, bare]) expect(/NaN|undefined|Infinity/.exec(text)?.[0]).toBeUndefined();
  });
});

describe('--compare', () => {
  const random = uniform(5);
  /** Times around `ms`, a percent of noise, on a machine that is `slow` times as slow in every round. */
  const rounds = (ms: number, slow = 1) => Array.from({ length: 9 }, () => ms * slow * (1 + 0.01 * (random() - 0.5)));
  const file = (own: number, peer?: number, slow = 1, more: Partial<ResultFile> = {}) =>
    fileOf(
      [makeRow(measured({ 'node-attention': rounds(own, slow), ...(peer ? { pytorch: rounds(peer, slow) } : {}) }))],
      more,
    );

  it('finds what got slower or faster beyond the noise', () => {
    expect(compare(file(10), file(10), 0.1)).toMatchObject({ slower: [], faster: [], regressions: [], level: 1 });
    const slower = compare(file(10), file(10.7), 0.1);
    expect(slower).toMatchObject({ slower: [{ row: 'float32 dense S=64 D=16, 2 thr.' }], regressions: [] });
    expect(slower.slower[0]!.median).toBeCloseTo(1.07, 2);
    const cold = file(12);
    cold.suites[0]!.rows[0]!.sets = 30; // inputs that no cache holds, where the other file has one set
    expect(compare(file(10), cold, 0.1)).toMatchObject({
      slower: [],
      level: 0,
      doubts: [expect.stringMatching(/^sets/)],
    });
    expect(compare(file(10), file(9), 0.1)).toMatchObject({ faster: [{ suite: 'cpu' }], level: 0 });
    expect(compare(file(10), file(12), 0.1).regressions.length).toBe(1);
    expect(compare(file(10), file(12), 0.3).regressions.length).toBe(0);
  });

  it('is not deceived by noise: an interval that reaches the limit is no regression', () => {
    const noisy = (...times: number[]) => fileOf([makeRow(measured({ 'node-attention': times }))]);
    const result = compare(noisy(10, 14, 9, 13, 11), noisy(12, 10, 16, 13, 9), 0.1);
    expect(result).toMatchObject({ regressions: [], slower: [], level: 1 });
  });

  const few = (ms: number) => fileOf([makeRow(measured({ 'node-attention': rounds(ms).slice(0, 4) }))]);

  it('says which rows have too few rounds to tell', () => {
    const result = compare(few(10), few(20), 0.1);
    const row = 'cpu: float32 dense S=64 D=16, 2 thr.';
    expect(result).toMatchObject({ regressions: [], slower: [], faster: [], level: 0, tooFew: [row] });
    expect(comparisonText(result, 0.1)).toContain(`five in each file can:\n  ${row}`);
    expect(comparisonText(result, 0.1)).toContain('NOTHING COMPARED');
  });

  it('calls no more than one row in a hundred changed by chance, with several peers to choose from', () => {
    const noise = (ms: number) => Array.from({ length: 6 }, () => ms * (1 + random()));
    const rows = () =>
      Array.from({ length: 4000 }, (_, n) =>
        makeRow(
          measured({ 'node-attention': noise(10), pytorch: noise(20), onnxruntime: noise(30) }, { name: `row ${n}` }),
        ),
      );
    const { slower, faster, level } = compare(fileOf(rows()), fileOf(rows()), 0.1);
    expect(slower.length + faster.length + level).toBe(4000);
    // Four standard deviations of a binomial; what lies within 2 % of the same is not called a change.
    expect(slower.length + faster.length).toBeLessThan(40 + 4 * Math.sqrt(40));
    expect(slower.length + faster.length).toBeGreaterThan(0);
  });

  it('measures by a peer of the same version, so that a slower machine is no regression', () => {
    const same = compare(file(10, 20), file(10, 20, 1.5), 0.1);
    expect(same).toMatchObject({ slower: [], level: 1 });
    const worse = compare(file(10, 20), file(12, 20, 1.5), 0.1);
    expect(worse.regressions).toMatchObject([{ by: 'pytorch' }]);
    expect(worse.regressions[0]!.median).toBeCloseTo(1.2, 2);
    const other = file(10, 20, 1.5);
    other.suites[0]!.versions = { pytorch: '3' };
    const clock = compare(file(10, 20), other, 0.1);
    expect(clock.regressions[0]!.by).toBeUndefined();
    expect(clock.doubts).toEqual(['pytorch of cpu: 2 before, 3 after']);
  });

  it('tells wrong outputs, and rows of one file alone', () => {
    const wrong = fileOf([makeRow(measured({}, { faults: [{ contestant: 'node-attention', fault: 'NaN' }] }))]);
    expect(compare(file(10), wrong, 0.1)).toMatchObject({ broken: ['cpu: float32 dense S=64 D=16, 2 thr.'], level: 0 });
    expect(compare(file(10), fileOf([]), 0.1)).toMatchObject({
      broken: [],
      onlyBefore: [expect.stringMatching(/^cpu: /)],
    });
    const ended = fileOf([]);
    ended.suites[0]!.failure = 'it fell';
    expect(compare(file(10), ended, 0.1).broken).toEqual(['cpu ended early, it fell']);
    expect(compare(ended, ended, 0.1)).toMatchObject({ broken: [], doubts: ['cpu ended early before, it fell'] });
    const text = comparisonText(compare(file(10), file(12), 0.1), 0.1);
    expect(text).toContain('REGRESSION: 1 slower by more than 10 %');
  });

  it('ends with its status', () => {
    const [old, slow] = [join(folder, 'old.json'), join(folder, 'slow.json')];
    writeFileSync(old, JSON.stringify(file(10)));
    writeFileSync(slow, JSON.stringify(file(13)));
    const bench = (...args: string[]) => {
      const tsx = join(__dirname, '../node_modules/tsx/dist/cli.mjs');
      return spawnSync(process.execPath, [tsx, join(__dirname, '../bench/main.ts'), ...args], { encoding: 'utf8' });
    };
    expect(bench('--compare', old, slow)).toMatchObject({ status: 1, stdout: expect.stringContaining('REGRESSION') });
    expect(bench('--compare', slow, old)).toMatchObject({
      status: 0,
      stdout: expect.stringContaining('No regression'),
    });
    const quick = join(folder, 'quick.json');
    writeFileSync(quick, JSON.stringify(few(10)));
    expect(bench('--compare', quick, quick)).toMatchObject({
      status: 2,
      stdout: expect.stringContaining('NOTHING COMPARED'),
    });
    expect(bench('--compare', old)).toMatchObject({ status: 1, stderr: expect.stringContaining('give two files') });
    const html = join(folder, 'page.html');
    expect(bench('report', old, slow, '--html', html)).toMatchObject({ status: 0, stderr: '' });
    const report = readFileSync(html, 'utf8');
    expect(report).toContain('float32 dense S=64 D=16');
    expect(report.split('a &lt;processor&gt;, 2 processors').length, 'each file says where it is from').toBe(3);
  });
});

describe('a run of suites', () => {
  const options = { quick: true, filter: '', threads: [1] };
  const suite = (name: string, more: Partial<Suite> = {}): { suite: Suite; options: typeof options } => ({
    options,
    suite: {
      name,
      about: 'About.',
      caseNames: () => ['a', 'b'],
      obstacle: () => undefined,
      steps: () => ['a', 'b'].map((name) => ({ name, seconds: 1 })),
      async run(_, progress) {
        for (const step of ['a', 'b']) progress.begin(step);
        return { suite: name, about: '', command: '', peaks: [], rows: [], targets: [], notMeasured: [] };
      },
      ...more,
    },
  });

  it('keeps what there is when a suite cannot run, finds nothing, or fails', async () => {
    const after: number[] = [];
    const file = await runSuites(
      [
        suite('works'),
        suite('cannot', { obstacle: () => 'there is no device' }),
        suite('finds nothing', { run: () => Promise.reject(new NothingToMeasure('it is broken')) }),
        suite('fails', { run: () => Promise.reject(new Error('it fell')) }),
        suite('is filtered out', { steps: () => [] }),
      ],
      'npm run bench --',
      ({ suites }) => after.push(suites.length),
    );
    expect(after).toEqual([1, 2, 3, 4, 4]);
    const whole = (why: string) => ({ notMeasured: [{ what: 'the whole suite', why }] });
    expect(file.suites).toMatchObject([
      { suite: 'works', notMeasured: [] },
      { suite: 'cannot', ...whole('there is no device') },
      { suite: 'finds nothing', ...whole('it is broken') },
      { suite: 'fails', failure: 'it fell' },
    ]);
    expect(parseResults(JSON.stringify(file), 'x')).toEqual(JSON.parse(JSON.stringify(file)));
  });

  it('hands over what a suite has found so far', async () => {
    const after: (string | undefined)[][] = [];
    const adds: Partial<Suite> = {
      run: async (_, { found }) => {
        const result = { ...fileOf([]).suites[0]!, suite: 'adds' };
        found({ ...result, text: 'some' });
        return { ...result, text: 'all' };
      },
    };
    await runSuites([suite('works'), suite('adds', adds)], 'npm run bench --', ({ suites }) =>
      after.push(suites.map(({ text }) => text)),
    );
    expect(after).toEqual([[undefined], [undefined, 'some'], [undefined, 'all']]);
  });

  it('ends with the first ^C, and says what did not begin', async () => {
    const interrupted = suite('interrupted', {
      async run(options, progress) {
        process.emit('SIGINT');
        return suite('x').suite.run(options, progress);
      },
    });
    const listeners = process.listenerCount('SIGINT');
    const file = await runSuites([interrupted, suite('next')], 'npm run bench --');
    expect(file.suites[1]).toMatchObject({ suite: 'next', failure: '(SIGINT): it did not begin', rows: [] });
    expect(process.listenerCount('SIGINT')).toBe(listeners);
  });
});

describe('the tables of the documentation', () => {
  it('say what bench/results says; npm run bench:tables writes them', () => {
    expect(update(true)).toEqual([]);
  });

  it('name commands that there are', () => {
    const known = [...suites.map(({ name }) => name), 'report'];
    for (const path of ['README.md', 'CONTRIBUTING.md', 'docs/performance.md', 'docs/guide/sparse-plans.md']) {
      const text = readFileSync(join(__dirname, '..', path), 'utf8');
      const named = [...text.matchAll(/bench -- ([a-z]\w*)/g)].map(([, name]) => name!);
      expect(named.length, path).toBeGreaterThan(0);
      expect(
        named.filter((name) => !known.includes(name)),
        path,
      ).toEqual([]);
    }
    const table = readFileSync(join(__dirname, '..', 'docs', 'performance.md'), 'utf8');
    for (const { name } of suites) expect(table).toContain(`\n| \`${name}\` | `);
  });

  it('take the newest measurement of each row, for each machine', () => {
    const row = (ms: number, name: string) => makeRow(measured({ 'node-attention': [ms] }, { name }));
    const first = fileOf([row(1, 'a'), row(2, 'b')]);
    const second = fileOf([row(3, 'b')], { date: '2026-02-02' });
    const elsewhere = fileOf([row(4, 'a')], { date: '2026-03-03', machine: { ...first.machine, cpu: 'another' } });
    const lacking = fileOf([row(5, 'a')], { machine: { ...first.machine, instructionSet: 'generic' } });
    const times = (files: ResultFile[], suite = 'cpu') =>
      newest(files, suite).map((sources) => sources.map(({ row }) => [row.name, row.times['node-attention']!.median]));
    expect(times([lacking, first, elsewhere, second])).toEqual([
      [
        ['a', 1],
        ['b', 3],
      ],
      [['a', 4]],
      [['a', 5]],
    ]);
    expect(times([first], 'cuda')).toEqual([]);
    const quick = fileOf([row(9, 'a')], { date: '2026-04-04', command: 'npm run bench -- --quick --json x.json' });
    expect(times([first, quick])[0]![0]).toEqual(['a', 1]);
  });

  it('say what any run of a suite found, the newest that did', () => {
    const row = (name: string) => makeRow(measured({ 'node-attention': [1] }, { name }));
    const run = (date: string, rows: Row[], verdicts: Verdict['verdict'][], text?: string): ResultFile => {
      const file = fileOf(rows, { date });
      const targets = verdicts.map((verdict, i) => ({
        text: `target ${i}`,
        verdict,
        rows: 1,
        reached: 1,
        disturbed: 0,
      }));
      const findings = rows.map(({ name }) => ({ name: `finding ${name}`, text: date }));
      return { ...file, suites: [{ ...file.suites[0]!, suite: 'gna', targets, findings, text }] };
    };
    const both = [
      run('2026-01-01', [row('a'), row('b')], ['missed', 'reached'], 'its own table'),
      run('2026-02-02', [row('b')], ['reached', 'not measured']),
    ];
    const { results } = blocks(both)['docs/results.md']!;
    expect(results).toContain('| target 0 | reached |');
    expect(results).toContain('| target 1 | reached |');
    expect(results).not.toMatch(/target 0.*target 0/s);
    expect(results).toContain('- finding a: 2026-01-01\n- finding b: 2026-02-02');
    expect(results).toContain('its own table');
    expect(results).toMatch(/2026-01-01\).* and .*\(2026-02-02/);
    const parts = ['a', 'b'].map((name) => run('2026-01-01', [row(name)], []));
    expect(blocks(parts)['docs/results.md']!.results).toContain('commit unknown (2026-01-01).');
  });

  it('judge all rows of a table, whichever runs they are from', () => {
    const row = (name: string, exact: number) => {
      const samples = { 'node-attention': [1], 'usearch exact': [exact] };
      return makeRow(measured(samples, { name, case: { mask: 'scan', dtype: 'float32', tokens: 64, headDim: 16 } }));
    };
    const run = (date: string, of: Row): ResultFile => {
      const file = fileOf([of], { date });
      const text = 'the scan: no slower than the exact search of usearch';
      const targets: Verdict[] = [{ text, verdict: 'reached', rows: 1, reached: 1, disturbed: 0 }];
      return { ...file, suites: [{ ...file.suites[0]!, suite: 'retrieval', targets }] };
    };
    const { results } = blocks([run('2026-01-01', row('a', 0.5)), run('2026-02-02', row('b', 2))])['docs/results.md']!;
    expect(results).toMatch(/exact search of usearch \| missed \| 1 of 2 \| 0.50 \(a\)/);
  });

  it('stand between their markers', () => {
    const text = 'x\n<!-- t:begin -->\nold\n<!-- t:end -->\ny';
    expect(withBlocks(text, 'f', { t: 'new' })).toBe('x\n<!-- t:begin -->\nnew\n<!-- t:end -->\ny');
    expect(() => withBlocks('x', 'f', { t: 'new' })).toThrow('f has no <!-- t:begin -->');
  });
});

describe('the GPU benchmark in several runs', () => {
  beforeAll(() => void vi.stubEnv('NODE_ATTENTION_COMMIT', 'a commit'));
  afterAll(() => void vi.unstubAllEnvs());

  const names = allCudaCases(false).map(({ name }) => name);
  const rows = (...of: number[]) => of.map((i) => makeRow(measured({ 'node-attention': [1] }, { name: names[i]! })));
  const { suites, ...rest } = fileOf([]);
  const command = 'npm run bench -- cuda';
  const suite = { ...suites[0]!, suite: 'cuda', command, device: 'an H200, sm_90a' };
  const path = join(folder, 'earlier.json');
  const write = (more: object = {}, of: object = {}) =>
    writeFileSync(
      path,
      JSON.stringify({ ...rest, commit: 'a commit', suites: [{ ...suite, rows: rows(0), ...of }], ...more }),
    );

  it('go on from a file of the same commit, command and device', () => {
    const rowsOf = (...args: Parameters<typeof earlierResult>) => earlierResult(...args)?.rows.length;
    expect(rowsOf(undefined, command)).toBeUndefined();
    expect(rowsOf(join(folder, 'nothing'), command)).toBeUndefined();
    write();
    expect(rowsOf(path, command)).toBe(1);
    expect(rowsOf(path, command, 'an H200')).toBe(1);
    expect(rowsOf(path, command, 'an A100')).toBeUndefined();
    expect(rowsOf(path, `${command} --quick`)).toBeUndefined();
    write({ commit: 'another' });
    expect(rowsOf(path, command)).toBeUndefined();
    write({}, { rows: [], notMeasured: [{ what: WHOLE_SUITE, why: 'there is no GPU' }] });
    expect(rowsOf(path, command), 'where there was nothing to measure').toBeUndefined();
    write({ commit: 'a commit+' });
    vi.stubEnv('NODE_ATTENTION_COMMIT', 'a commit+');
    expect(rowsOf(path, command), 'of a changed tree').toBeUndefined();
    vi.stubEnv('NODE_ATTENTION_COMMIT', 'a commit');
  });

  it('measure what is left, and last what took the process along', () => {
    const cases = allCudaCases(false).slice(0, 4);
    const earlier = { ...suite, rows: rows(2), notMeasured: [{ what: names[0]!, why: 'SIGSEGV' }] };
    expect(casesLeft(cases, earlier).map(({ name }) => name)).toEqual([names[1], names[3], names[0]]);
    expect(casesLeft(cases, undefined)).toEqual(cases);
  });

  it('are one result: rows in order and judged together, the best of each peak, the last of what was found', () => {
    const of = (rate: number, text: string, more: object) => ({
      ...suite,
      peaks: [{ name: 'copy', rate, unit: 'B/s' } as const],
      findings: [{ name: 'clocks after', text }],
      ...more,
    });
    const failed = [0, 3].map((i) => ({ what: names[i]!, why: 'SIGSEGV' }));
    const ratio = { cudnn: { median: 2, interval: [2, 2] as [number, number] } };
    const [first, second] = [rows(5, 1), rows(0)].map((all) => all.map((row) => ({ ...row, ratios: ratio })));
    const result = joined(
      of(5, 'old', { rows: first, notMeasured: failed, versions: { cudnn: '9' }, failure: 'early' }),
      of(3, 'new', { rows: second, notMeasured: [{ what: 'x', why: 'y' }], versions: { cutlass: '4' } }),
    );
    expect(result).toMatchObject({ peaks: [{ rate: 5 }], findings: [{ text: 'new' }] });
    expect(result.failure).toBeUndefined();
    expect(result.versions).toEqual({ cudnn: '9', cutlass: '4' });
    expect(result.rows.map(({ name }) => name)).toEqual([0, 1, 5].map((i) => names[i]));
    expect(result.targets[0]).toMatchObject({ rows: 3, reached: 3 });
    expect(result.notMeasured, 'but for what was measured since').toEqual([failed[1], { what: 'x', why: 'y' }]);
  });
});

describe('the process that measures on a GPU', () => {
  const child = join(folder, 'suite.cjs');
  writeFileSync(
    child,
    `process.once('message', async ({ cases, javascript }) => {
      const send = (message) => new Promise((sent) => process.send(message, sent));
      const ends = {
        crashes: () => process.abort(),
        fails: () => send({ fails: 'the context is gone' }).then(() => process.exit(1)),
        hangs: () => { for (;;); },
        waits: () => new Promise((resolve) => setTimeout(resolve, 60e3)),
      };
      if (cases[0] === 'unusable') return await send({ unusable: 'no device' }), process.disconnect();
      if (cases[0] === 'falls at once') process.exit(7);
      await send({ device: { name: 'a GPU' } });
      for (const name of cases) {
        await send({ begins: name });
        await ends[name.split(' ')[0]]?.();
        await send({ outcome: { test: { name } } });
      }
      if (javascript === 'crashes') process.abort();
      await send({ javascript: { device: javascript } });
      process.disconnect();
    });
    process.once('SIGINT', () => process.exit(1));`,
  );
  const measure = async (cases: string[], limits: Partial<Limits> = {}, more: object = {}) => {
    const begun: string[] = [];
    let found = 0;
    const done = await measureInProcess(
      { cases, javascript: 'cuda', ...more } as never,
      {},
      { begin: (name) => begun.push(name), found: (so) => (found = so.outcomes.length) },
      { step: 20, kill: 1, ...limits },
      child,
    );
    return { ...done, begun, found, outcomes: done.outcomes.map(({ test }) => test.name) };
  };

  it('is begun again behind a case that took it along', async () => {
    const cases = ['a', 'crashes', 'b', 'fails', 'c', 'hangs'];
    const done = await measure(cases, { step: 1.5 });
    expect(done).toMatchObject({ begun: cases, outcomes: ['a', 'b', 'c'], found: 3, javascript: { device: 'cuda' } });
    expect(done.failed).toEqual([
      { what: 'crashes', why: 'SIGABRT' },
      { what: 'fails', why: 'the context is gone' },
      { what: 'hangs', why: 'not done after 1.5 s' },
    ]);
    expect(done.ended).toBeUndefined();
  });

  it('is not begun again when it was no case that took it along', async () => {
    expect(await measure(['falls at once'])).toMatchObject({ begun: [], failed: [], ended: 'status 7' });
    const unusable = await measure(['unusable']);
    expect(unusable).toMatchObject({ unusable: 'no device', failed: [] });
    expect(unusable.ended).toBeUndefined();
    expect(await measure(['a'], {}, { javascript: 'crashes' })).toMatchObject({ outcomes: ['a'], ended: 'SIGABRT' });
  });

  it('is ended when time is over, even in a call that does not return, with what there is', async () => {
    for (const last of ['waits', 'hangs']) {
      const start = performance.now();
      const done = await measure(['a', last, 'b'], { all: 1 });
      expect(done).toMatchObject({ begun: ['a', last], outcomes: ['a'], failed: [], ended: '1 s are over' });
      expect(performance.now() - start).toBeLessThan(10e3);
    }
  });
});

describe('scripts/gpu-bench', () => {
  const bare = join(folder, 'bare');
  const results = join(bare, 'build/gpu-results/bench.json');
  const out = join(bare, 'out');
  const bench = (body: string, env: NodeJS.ProcessEnv, ...args: string[]) => {
    writeFileSync(
      join(bare, 'build/gpu-pack/bench/command.cjs'),
      `const { readFileSync, writeFileSync } = require('node:fs');
      const args = process.argv.slice(2);
      const of = (name) => args[args.lastIndexOf('--' + name) + 1];
      ${body}`,
    );
    return spawnSync(join(bare, 'scripts/gpu-bench'), args, {
      encoding: 'utf8',
      env: { ...process.env, OUT: '', ...env },
    });
  };
  const adds = `
    const before = require('node:fs').existsSync(of('resume')) ? readFileSync(of('resume'), 'utf8') : '';
    writeFileSync(of('json'), before + '"samples"');`;
  beforeAll(() => {
    for (const name of ['scripts', 'build/gpu', 'build/gpu-pack/bench'])
      mkdirSync(join(bare, name), { recursive: true });
    for (const name of ['gpu-bench', 'gpu-node'])
      copyFileSync(join(root, 'scripts', name), join(bare, 'scripts', name));
    writeFileSync(join(bare, 'build/gpu/pack.tar.xz'), '');
    const sum = spawnSync('cksum', { encoding: 'utf8', input: '' }).stdout;
    writeFileSync(join(bare, 'build/gpu-pack/unpacked'), sum);
  });

  it('goes on from its results in the tree, wherever they are written', () => {
    expect(bench(adds, {})).toMatchObject({ status: 0 });
    expect(readFileSync(results, 'utf8')).toBe('"samples"');
    mkdirSync(out);
    expect(bench(`${adds} process.exit(1)`, { OUT: out }).status, 'ended early').toBe(1);
    for (const file of [results, join(out, 'bench.json')])
      expect(readFileSync(file, 'utf8')).toBe('"samples""samples"');
    writeFileSync(join(out, 'carried.json'), 'x');
    expect(bench(adds, {}, '--resume', join(out, 'carried.json')).status).toBe(0);
    expect(readFileSync(results, 'utf8')).toBe('x"samples"');
  });

  it('passes on that there is nothing to measure, and keeps what there is', () => {
    expect(bench(`writeFileSync(of('json'), '{}'); process.exit(3)`, {}).status).toBe(3);
    expect(bench('process.exit(1)', {}).status).toBe(1);
    expect(readFileSync(results, 'utf8')).toBe('x"samples"');
  });
});
