// The benchmark of needles: that they are what they are said to be, that the rates count them, that the report has them.

import { describe, expect, it } from 'vitest';
import { FORMAT, type ResultFile, type Row } from '../bench/format';
import { chartsOf } from '../bench/html/charts';
import { budgetOf, needleCases, type SparseOptions } from '../bench/sparse/cases';
import { HEAD_DIM } from '../bench/sparse/heads';
import { qualityRow } from '../bench/sparse/judged';
import { sparse } from '../bench/sparse/main';
import { type Found, findNeedles, foundIn, HEIGHT, NEEDLES, needleRow, needlesIn } from '../bench/sparse/needles';
import { printed } from '../bench/sparse/report';
import { ALWAYS } from '../bench/sparse/selectors';
import { blocks } from '../bench/tables';
import { options } from './support/sparse-bench';

describe('cases', () => {
  it('are widths of one context, with budgets that leave something to choose', () => {
    const widths = (each: SparseOptions) => needleCases(each).map(({ width }) => width);
    expect(widths(options())).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256]);
    expect(widths(options({ quick: true }))).toEqual([8, 128]);
    for (const { keys, density } of needleCases(options())) expect([keys, density]).toEqual([65536, 0.02]);
    for (const quick of [false, true]) {
      const cases = needleCases(options({ quick }));
      for (const { keys, density } of cases) expect(budgetOf(keys, density)).toBeGreaterThan(0);
      const steps = sparse.steps(options({ quick, filter: 'needles' }));
      expect(steps.map(({ name }) => name)).toEqual(cases.map(({ name }) => name));
    }
    expect(sparse.caseNames()).toEqual(expect.arrayContaining(needleCases(options()).map(({ name }) => name)));
    expect(sparse.about).toContain('needles, smooth humps of 1 to 256 keys');
  });
});

describe('needles', () => {
  const [keys, width] = [8192, 64];
  const { q, k, middles } = needlesIn(keys, width);
  const product = (n: number, key: number) => {
    let sum = 0;
    for (let c = 0; c < HEAD_DIM; c++) sum += q[n * HEAD_DIM + c]! * k[key * HEAD_DIM + c]!;
    return sum;
  };

  it('stand where not every plan shows them, in the same noise and places whatever their width', () => {
    expect(middles).toHaveLength(NEEDLES);
    for (const middle of middles) {
      expect(middle).toBeGreaterThanOrEqual(ALWAYS.sink);
      expect(middle).toBeLessThan(keys - ALWAYS.window);
    }
    const narrow = needlesIn(keys, 1);
    expect([narrow.middles, narrow.q]).toEqual([middles, q]);
    const reached = (key: number) => middles.some((middle) => Math.abs(key - middle) <= 2 * width);
    const away = Array.from({ length: keys }, (_, key) => key).find((key) => !reached(key))!;
    expect(narrow.k.slice(away * HEAD_DIM, (away + 1) * HEAD_DIM)).toEqual(
      k.slice(away * HEAD_DIM, (away + 1) * HEAD_DIM),
    );
  });

  it('have their height in the middle, half of it at half their width, and none far from there', () => {
    // The directions are orthogonal and of length 1, so other needles add nothing, and noise adds deviates of variance 1.
    for (const [distance, height] of [
      [0, HEIGHT],
      [width / 2, HEIGHT / 2],
      [-width / 2, HEIGHT / 2],
      [2 * width + 1, 0],
    ] as const) {
      const mean = middles.reduce((sum, middle, n) => sum + product(n, middle + distance), 0) / NEEDLES;
      expect(Math.abs(mean - height), `at ${distance}`).toBeLessThan(4 / Math.sqrt(NEEDLES));
    }
  });
});

describe('rates', () => {
  const [keys, density] = [8192, 0.1];
  const find = (width: number) => findNeedles({ name: `width ${width}`, keys, density, width });

  it('count the needles whose middle a plan shows', async () => {
    const [narrow, wide] = [await find(1), await find(128)];
    const names = ['hip', 'hip1', 'pages', 'pooled 16', 'pooled 64', 'streaming'];
    for (const found of [narrow, wide]) expect(found.map(({ selector }) => selector)).toEqual(names);
    const rateOf = (found: Found[], name: string) => found.find(({ selector }) => selector === name)!.rate;
    // A window shows the sink and, in blocks of 16, the keys from its first on.
    const first = keys - ALWAYS.window - budgetOf(keys, density);
    const local = needlesIn(keys, 1).middles.filter((middle) => middle >= 16 * Math.floor(first / 16)).length;
    for (const found of [narrow, wide]) expect(rateOf(found, 'streaming')).toBe(local / NEEDLES);
    for (const name of names.slice(0, -1)) {
      expect(rateOf(wide, name), name).toBeGreaterThan(rateOf(narrow, name));
      expect(rateOf(wide, name), name).toBeGreaterThan(local / NEEDLES);
    }
    expect(rateOf(wide, 'hip')).toBe(1); // what tree search takes for granted: neighbours are alike
    for (const { shown, selector } of wide) {
      // Budgets are rounded up to blocks of 64 at most, and so may be the keys that are always shown.
      expect(Math.abs(shown - density), selector).toBeLessThan((3 * 64) / keys);
    }
  });
});

describe('the report', () => {
  const tests = needleCases(options());
  const found = tests.flatMap((test, n) =>
    ['hip', 'streaming'].map((selector): Found => {
      const rate = selector === 'hip' ? (n + 1) / tests.length : 0;
      return { test, selector, rate, shown: 0.02, scored: selector === 'hip' ? 0.2 : 0 };
    }),
  );
  const rows = found.map(needleRow);

  it('has rows with width and rate', () => {
    expect(new Set(rows.map(({ name }) => name)).size).toBe(rows.length);
    expect(rows[0]).toMatchObject({
      name: 'needles: decoding T=65536 width 1 hip 2 %',
      case: { mask: 'hip', tokens: 65536, data: 'needles, decoding, 65536 keys, 2 %' },
      figures: { 'needle width': 1, 'found rate': 1 / 9, density: 0.02, 'keys scored': 0.2 },
    });
  });

  it('has a table of a line for each selector', () => {
    const text = printed([], [], [], found);
    expect(text).toContain('Needles found, decoding, 65536 keys, 2 %');
    expect(text).toMatch(/selector +\| measured \| keys scored \| width 1 \| width 2 \| .* \| width 256 \|/);
    expect(text).toMatch(/\| hip +\| +2\.0 % \| +20\.0 % \| +11 % \| +22 % \| .* \| +100 % \|/);
    expect(text).toMatch(/\| streaming +\| +2\.0 % \| +0\.0 % \| +0 % \| .* \| +0 % \|/);
    expect(text).not.toMatch(/NaN|undefined/);
    expect(printed([], [], [])).not.toContain('Needles found');
  });

  it('has that table beside those of other runs, in the joined results', () => {
    expect(rows.map(foundIn)).toEqual(found);
    const file = (date: string, rows: Row[], text: string): ResultFile => ({
      ...FORMAT,
      date,
      command: 'npm run bench -- sparse --json FILE',
      machine: { cpu: 'a processor', processors: 2, instructionSet: 'avx2', memoryBytes: 1, system: 'Linux' },
      versions: {},
      suites: [{ suite: 'sparse', about: '', command: '', peaks: [], rows, targets: [], notMeasured: [], text }],
    });
    const judged = {
      kind: 'text',
      phase: 'decode',
      keys: 8192,
      headDim: 128,
      selector: 'pages',
      density: 0.1,
      scored: 0.125,
      quality: { density: 0.1, mass: 0.75, recall: 0.5, error: 0.25 },
    } as const;
    const files = [
      file('2026-01-01', rows.slice(0, 4), 'Needles\n\n| of 2 widths |\n\nold notes'),
      file('2026-01-02', [qualityRow(judged)], 'Quality\n\n| its table |\n\nnew notes'),
      file('2026-01-03', rows.slice(4), ''),
    ];
    const { results } = blocks(files)['docs/results.md']!;
    const [text] = /```text\n(.*)\n```/s.exec(results!)!.slice(1);
    const needles = printed([], [], [], found).split('\n\nEvery selector')[0];
    expect(text).toMatch(/^Quality, decoding, 8192 keys\n\n/);
    expect(text!.endsWith(`${needles}\n\nnew notes`)).toBe(true);
    expect(text).toMatch(/\| pages +\| +10 % \| +10\.0 % \| +12\.5 % \|/);
    for (const gone of ['of 2 widths', 'its table', 'old notes']) expect(results).not.toContain(gone);
  });

  it('has a chart of rates over widths, and no other, of these rows', () => {
    const charts = chartsOf({ suite: 'sparse', about: '', command: '', peaks: [], rows, targets: [], notMeasured: [] });
    expect(charts.map(({ title }) => title)).toEqual([
      'sparse: found rate over needle width, needles, decoding, 65536 keys, 2 %',
    ]);
    for (const text of ['needle width (tokens)', 'hip', 'streaming']) expect(charts[0]!.svg).toContain(text);
    expect(charts[0]!.svg).not.toMatch(/NaN|undefined|Infinity/);
  });
});
