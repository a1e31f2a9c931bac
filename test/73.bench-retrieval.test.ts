// The benchmark of retrieval: that what is looked for is right, and that each contestant finds it.

import { describe, expect, it } from 'vitest';
import {
  bestOf,
  type Data,
  dataOf,
  GROUP,
  headOf,
  type RetrievalOptions,
  retrievalCases,
  SAMPLES,
  SEARCHES,
  searchedBy,
  TOP,
} from '../bench/retrieval/cases';
import { cacheOf, MOST_GRAPH, methodsFor, usearchExact, usearchVersion } from '../bench/retrieval/contestants';
import {
  DECODE_TARGETS,
  decodeCases,
  decodeData,
  decodeObstacle,
  decodeRows,
  HEADS,
  measureDecode,
  nearness,
  STEPS,
} from '../bench/retrieval/decode';
import { growthCases, growthFindings, growthRows, measureGrowth } from '../bench/retrieval/growth';
import { judgeFinder } from '../bench/retrieval/judge';
import { measureCase, retrieval, rowsOf } from '../bench/retrieval/main';
import { measureModel, modelCases, modelObstacle, modelRow } from '../bench/retrieval/model';
import { HEAD_DIM } from '../bench/sparse/heads';
import { suites } from '../bench/suites';
import { judgeBy } from '../bench/targets';
import { round } from './support/numbers';

const test = { name: 'small', kind: 'smooth', by: 'queries', keys: 1500 } as const;
const data = dataOf(test);

/** Finds what `change` makes of the right answers. */
const finder = (exact: boolean, change: (ids: number[]) => number[], of: Data = data) => ({
  exact,
  find: async (n: number) =>
    Array.from({ length: GROUP }, (_, head) => change([...of.top[n * GROUP + head]!].sort((a, b) => a - b))),
});

it('has cases of different names', () => {
  for (const [quick, full] of [
    [false, false],
    [true, false],
    [false, true],
  ] as const) {
    const options: RetrievalOptions = { quick, full, filter: '', threads: [] };
    const cases = [
      ...retrievalCases(options),
      ...decodeCases(options),
      ...growthCases(options),
      ...modelCases(options),
    ];
    const names = cases.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(Math.max(...cases.map(({ keys }) => keys))).toBe(quick ? 32768 : full ? 1048576 : 131072);
    expect(modelCases(options)).toHaveLength(full ? 1 : 0);
    expect(retrievalCases(options).map(({ kind }) => kind)).toContain('noise');
    expect(Math.max(...decodeCases(options).map(({ keys }) => keys))).toBe(quick ? 4096 : full ? 1048576 : 131072);
    if (full) expect(retrieval.caseNames()).toEqual(names);
    const stepsOf = (filter: string) => retrieval.steps({ ...options, filter }).map(({ name }) => name);
    expect(stepsOf('')).toEqual(names);
    expect(stepsOf('T=16384')).toEqual(names.filter((name) => name.includes('T=16384')));
    expect(stepsOf('decode')).toEqual(decodeCases(options).map(({ name }) => name));
    expect(stepsOf('look for keys')).toEqual(retrievalCases(options).map(({ name }) => name));
  }
  expect(suites.map(({ name }) => name)).toContain('retrieval');
  expect(methodsFor(MOST_GRAPH)).toContain('graph');
  expect(methodsFor(MOST_GRAPH + 1)).toEqual(methodsFor(MOST_GRAPH).filter((name) => name !== 'graph'));
});

describe('what is looked for', () => {
  it('has the largest products', () => {
    expect(data.top).toHaveLength(SEARCHES * GROUP);
    for (const query of [0, 41]) {
      const products = Array.from({ length: test.keys }, (_, key) => {
        let sum = 0;
        for (let c = 0; c < HEAD_DIM; c++) sum += data.q[query * HEAD_DIM + c]! * data.k[key * HEAD_DIM + c]!;
        return sum;
      });
      const order = [...products.keys()].sort((a, b) => products[b]! - products[a]!);
      expect(data.top[query]).toEqual(new Set(order.slice(0, TOP)));
      expect(data.least[query]!.product).toBeCloseTo(products[order[TOP - 1]!]!, 9);
      expect(data.least[query]!.slack).toBeLessThan(0.1);
    }
  });

  it('is near by keys', () => {
    const byKeys = dataOf({ ...test, by: 'keys' });
    const first = ({ k }: Data) => k.subarray(0, 10 * HEAD_DIM);
    expect(first(byKeys)).toEqual(first(data));
    // What is looked for is a key itself: it is among the best, and far above the others.
    const [best] = [...byKeys.top[5]!]
      .map((key) => {
        let apart = 0;
        for (let c = 0; c < HEAD_DIM; c++) apart += (byKeys.q[5 * HEAD_DIM + c]! - byKeys.k[key * HEAD_DIM + c]!) ** 2;
        return apart;
      })
      .sort((a, b) => a - b);
    expect(best).toBeLessThan(2 * HEAD_DIM * 0.35 ** 2);
  });

  it('is, of keys as good as each other, the first ones, and any of them is right', async () => {
    // Of key i the product with the query is i / 2, rounded down; the best 100 of 201 keys are 102 to 200 and one of three.
    const row = (x: number) => Float32Array.from({ length: HEAD_DIM }, (_, c) => (c === 0 ? x : 0));
    const k = new Float32Array(201 * HEAD_DIM);
    for (let key = 0; key < 201; key++) k.set(row(Math.floor(key / 2)), key * HEAD_DIM);
    k.copyWithin(0, 101 * HEAD_DIM, 102 * HEAD_DIM); // key 0 is as good as 100 and 101
    const q = row(1);
    const { top, least } = bestOf(q, k);
    const better = Array.from({ length: 99 }, (_, i) => 102 + i);
    expect(top).toEqual([new Set([...better, 0])]);
    for (const [tied, recall] of [
      [0, 1],
      [100, 1],
      [101, 1],
      [99, 0.99],
    ] as const) {
      const find = async () => [[...better, tied]];
      expect((await judgeFinder({ exact: false, find }, { k, q, least })).recall).toBe(recall);
    }
  });

  it('is in noise normal numbers that are independent of each other', () => {
    const noise = { kind: 'noise', by: 'queries', keys: 1500 } as const;
    const { k, v, q, samples, top } = dataOf(noise);
    expect([k.length, v.length, q.length]).toEqual([1500 * HEAD_DIM, 1500 * HEAD_DIM, SEARCHES * GROUP * HEAD_DIM]);
    expect([samples.length, top.length]).toEqual([SAMPLES * GROUP * HEAD_DIM, SEARCHES * GROUP]);
    // The variance and the correlation of keys that follow each other, of independent normal numbers.
    const mean = (of: (i: number) => number, n: number) => {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += of(i) / n;
      return sum;
    };
    expect(Math.abs(mean((i) => k[i]! ** 2, k.length) - 1)).toBeLessThan(6 * Math.sqrt(2 / k.length));
    const next = k.length - HEAD_DIM;
    expect(Math.abs(mean((i) => k[i]! * k[i + HEAD_DIM]!, next))).toBeLessThan(6 * Math.sqrt(1 / next));
    expect(searchedBy(noise)).toBe('noise, queries look for keys');
  });

  it('is in text the codes of what comes before', () => {
    const { k, v, q, samples, top } = dataOf({ kind: 'text', by: 'queries', keys: 1500 });
    expect([k.length, q.length, top.length]).toEqual([1500 * HEAD_DIM, SEARCHES * GROUP * HEAD_DIM, SEARCHES * GROUP]);
    expect(v.length % 1500).toBe(0);
    expect(samples).toHaveLength(SAMPLES * GROUP * HEAD_DIM);
    expect(headOf({ kind: 'text', by: 'queries', keys: 1500, samples: 9 }).samples).toHaveLength(9 * GROUP * HEAD_DIM);
    expect(samples.subarray(0, HEAD_DIM)).toEqual(k.subarray(0, HEAD_DIM));
    expect(samples.subarray(-HEAD_DIM)).toEqual(k.subarray(-HEAD_DIM));
  });
});

describe('a finder', () => {
  it('is judged by what it finds', async () => {
    expect(
      await judgeFinder(
        finder(true, (ids) => ids),
        data,
      ),
    ).toEqual({ recall: 1 });
    const absent = (ids: number[]) => [...Array(test.keys).keys()].find((key) => !ids.includes(key))!;
    const one = (ids: number[]) => [absent(ids), ...ids.slice(1)];
    expect(await judgeFinder(finder(false, one), data)).toEqual({ recall: 0.99 });
    expect((await judgeFinder(finder(true, one), data)).fault).toMatch(/^search 0, head 0: key \d+ has the product/);
    for (const [change, fault] of [
      [(ids: number[]) => [-1, ...ids.slice(1)], '-1 is no key'],
      [(ids: number[]) => [test.keys, ...ids.slice(1)], '1500 is no key'],
      [(ids: number[]) => [ids[1]!, ...ids.slice(1)], 'a key is there twice'],
    ] as const) {
      expect((await judgeFinder(finder(false, change), data)).fault).toContain(fault);
    }
  });

  it('of usearch has a version', () => {
    expect(usearchVersion()).toMatch(/^\d+\.\d+\.\d+$/);
  });

  it('of usearch that looks at all keys misses none', async () => {
    const { recall, fault } = await judgeFinder(usearchExact(data, 1), data);
    expect(fault).toBeUndefined();
    expect(recall).toBeGreaterThan(0.995); // float32 decides between products that are equal but for rounding
  });
});

it('measures all of them, and rows say so', async () => {
  const outcome = await measureCase(test, { rounds: 1, batchMs: 0, settleMs: 0, warmRuns: 1 }, 1);
  const rows = rowsOf(outcome, 1);
  expect(rows.map(({ case: { mask } }) => mask)).toEqual([
    'scan',
    'pages mean',
    'pages bounds',
    'clusters',
    'graph',
    'usearch exact',
    'usearch HNSW 512',
  ]);
  const [scan, mean, , , own, exact, graph] = rows as [(typeof rows)[0], ...typeof rows];
  for (const { faults } of rows) expect(faults).toEqual([]);
  expect(Object.keys(scan.ratios)).toEqual(['usearch exact', 'usearch HNSW 512', 'attend', 'dense']);
  expect(scan.figures!['recall@100']).toBeGreaterThan(0.995);
  expect(scan.figures!.touched).toBe(1);
  expect(mean!.figures!.touched).toBeLessThan(1);
  expect(mean!.figures!['dense over attend']).toBeGreaterThan(0);
  expect(scan.memory!['node-attention']).toBeGreaterThan(0);
  expect(own!.figures).toMatchObject({ 'recall@100': expect.any(Number), 'build ms': expect.any(Number) });
  expect(own!.memory!['node-attention']).toBeGreaterThan(SAMPLES * GROUP * HEAD_DIM * 4);
  expect(exact!.figures).toEqual({ 'recall@100': expect.any(Number) });
  const peaks = [{ name: 'read 1 MiB', threads: 1, rate: 1e9, unit: 'B/s' as const, footprint: 2 ** 20 }];
  const floors = rowsOf(outcome, 1, peaks).map(({ floor }) => floor);
  expect(floors[0]).toEqual({ ms: scan.memory!['node-attention']! / 1e6, bound: 'memory' });
  expect(floors.slice(1).every((floor) => floor === undefined)).toBe(true); // what they need not read, nobody knows
  expect(scan.case.data).toBe('smooth head, queries look for keys'); // whatever the length, so that charts join lengths
  expect(graph!.figures).toMatchObject({ 'build ms': expect.any(Number) });
  expect(Object.keys(graph!.samples)).toEqual(['usearch HNSW 512']);
  // What is wrong has no time.
  const wrong = { ...outcome, finders: outcome.finders.map((one) => ({ ...one, fault: 'it is wrong' })) };
  expect(rowsOf(wrong, 1)[5]).toMatchObject({ faults: [{ contestant: 'usearch exact', fault: 'it is wrong' }] });
});

it('searches a cache of the keys', async () => {
  const text = { name: 'text', kind: 'text', by: 'queries', keys: 1500 } as const;
  const outcome = await measureCase(text, { rounds: 1, batchMs: 0, settleMs: 0, warmRuns: 1 }, 1);
  const [scan] = rowsOf(outcome, 1);
  expect(scan!.faults).toEqual([]);
  expect(scan!.figures!['recall@100']).toBeGreaterThan(0.99); // but for rounding between keys that are nearly the same
  expect(scan!.case.data).toBe('text codes, queries look for keys');
  const cached = cacheOf(data);
  expect([cached.cache.length, cached.queries.length]).toEqual([test.keys, SEARCHES]);
  cached.close();
  expect(cached.cache.disposed).toBe(true);
});

const ONCE = { rounds: 1, batchMs: 0, settleMs: 0, warmRuns: 1, patience: 1 };

describe('growth', () => {
  it('has a row for each method', async () => {
    const outcome = await measureGrowth({ name: 'growth: small', keys: 1500 }, ONCE, 1);
    const rows = growthRows(outcome, 1);
    expect(rows.map(({ case: { mask } }) => mask)).toEqual(['scan', 'pages mean', 'pages bounds', 'clusters', 'graph']);
    for (const row of rows) {
      expect(Object.keys(row.ratios)).toEqual(['usearch exact', 'dense']);
      expect(row.figures!['build ms']).toBeGreaterThan(0);
      expect(row.memory!['node-attention']).toBeGreaterThan(0);
    }
  });

  it('is an exponent, over five lengths or more', () => {
    const outcomes = [1, 2, 4, 8, 16].map((keys) => ({
      test: { name: `${keys}`, keys },
      made: [{ name: 'scan', buildMs: keys ** 2, bytes: keys ** 0.5 } as const],
      contestants: ['dense', 'scan', ...(keys < 16 ? ['graph'] : [])],
      samples: [[3 * keys], [keys ** 1.5, keys ** 1.5], ...(keys < 16 ? [[keys]] : [])],
      disturbed: 0,
      repeated: 0,
    }));
    expect(growthFindings(outcomes)).toEqual([
      {
        name: 'growth of scan',
        text: 'time with keys to the power of 1.50 over 5 lengths, making the index of 2.00, its bytes of 0.50',
      },
      { name: 'growth of dense', text: 'time with keys to the power of 1.00 over 5 lengths' },
    ]);
    expect(growthFindings(outcomes.slice(1))).toEqual([]);
  });
});

describe('a model', () => {
  const small = { name: 'model: small', layers: 2, keys: 1500 };

  it('has a row of all its layers', async () => {
    const outcome = await measureModel(small, ONCE);
    const peaks = [{ name: 'read 1 MiB', threads: 1, rate: 1e9, unit: 'B/s' as const, footprint: 2 ** 20 }];
    const row = modelRow(outcome, peaks, 1);
    expect(row.faults).toEqual([]);
    expect(Object.keys(row.ratios)).toEqual(['dense']);
    expect(row.floor).toEqual({ ms: row.bytes! / 1e6, bound: 'memory' });
    expect(row.figures!['recall@100']).toBeGreaterThan(0.8); // as if keys were not rounded to int8
    expect(row.figures!.touched).toBe(1);
    expect(row.figures!['softmax mass']).toBeGreaterThan(0.1);
    // Dense attention rounds each key to bfloat16, by up to 2^-9 of it: scores of up to 5 by 1 % at most.
    expect(row.figures!['softmax mass']).toBeLessThan(1.01);
    expect(row.figures!['output error']).toBeGreaterThan(0);
    // Keys and values, of which each has a unit, and one segment of copies of each layer.
    const rows = 2 * 1500 * 8;
    expect(outcome.cacheBytes).toBeGreaterThanOrEqual(2 * rows * (HEAD_DIM + 4));
    expect(outcome.indexBytes).toBeGreaterThan(2 * 1024 * 8 * HEAD_DIM);
    for (const figure of ['fill ms', 'build ms', 'cache GiB']) expect(row.figures![figure]).toBeGreaterThan(0);

    // What is wrong has no time.
    const wrong = { ...outcome, contestants: ['dense'], samples: outcome.samples.slice(0, 1), fault: 'it is wrong' };
    const bad = modelRow(wrong, peaks, 1);
    expect(bad.faults).toEqual([{ contestant: 'node-attention', fault: 'it is wrong' }]);
    expect(Object.keys(bad.samples)).toEqual(['dense']);
    expect(bad.figures).not.toHaveProperty('recall@100');
  });

  it('is not measured where there is too little memory', () => {
    const [whole] = modelCases({ quick: false, full: true, filter: '', threads: [] });
    expect(modelObstacle(whole!, 18 * 2 ** 30)).toBeUndefined(); // caches of 8.25 GiB, copies of 4.14, and room
    expect(modelObstacle(whole!, 12 * 2 ** 30)).toMatch(
      /^it needs 1[67]\.\d GiB of memory, of which 12\.0 GiB are free$/,
    );
  });
});

describe('decoding', () => {
  it('is of numbers that bfloat16 has, with what each query looks for', async () => {
    const { k, v, q, top, least } = await decodeData({ kind: 'noise', keys: 300 });
    for (const values of [k, v, q]) expect([...values].every((x) => round('bfloat16', x) === x)).toBe(true);
    expect([k.length, v.length, q.length]).toEqual([300 * HEAD_DIM, 300 * HEAD_DIM, STEPS * HEADS * HEAD_DIM]);
    expect([top.length, least.length]).toEqual([STEPS * HEADS, STEPS * HEADS]);
    const variance = k.reduce((sum, x) => sum + x * x, 0) / k.length;
    expect(Math.abs(variance - 1)).toBeLessThan(6 * Math.sqrt(2 / k.length)); // that of normal numbers
  });

  it('by codes of text has as many steps as there are queries', async () => {
    const { k, v, q, top } = await decodeData({ kind: 'text', keys: 300 });
    expect([k.length, v.length / 300, q.length % (HEADS * HEAD_DIM)]).toEqual([300 * HEAD_DIM, 64, 0]);
    expect(top).toHaveLength(q.length / HEAD_DIM);
    const outcome = await measureDecode({ name: 'decode, text', kind: 'text', keys: 1500 }, ONCE);
    for (const row of decodeRows(outcome, [], 1)) expect(row.faults).toEqual([]);
  });

  it('is judged by what differs', () => {
    const all = [
      { out: Float64Array.of(3, 0), lse: Float64Array.of(1) },
      { out: Float64Array.of(0, 4), lse: Float64Array.of(2) },
    ];
    expect(nearness(all, all)).toEqual({ error: 0, mass: 1 });
    const half = [
      { out: Float64Array.of(3, 3), lse: Float64Array.of(1 - Math.LN2) },
      { out: Float64Array.of(0, 8), lse: Float64Array.of(2) },
    ];
    expect(nearness(half, all).error).toBeCloseTo(1, 12);
    expect(nearness(half, all).mass).toBeCloseTo(0.75, 12);
  });

  it('is not measured where there is too little memory', () => {
    expect(decodeObstacle({ keys: 1048576 }, 12 * 2 ** 30)).toBeUndefined();
    expect(decodeObstacle({ keys: 1048576 }, 8 * 2 ** 30)).toBe(
      'it needs 12.0 GiB of memory, of which 8.0 GiB are free',
    );
  });

  it('has a row for each method', async () => {
    const outcome = await measureDecode({ name: 'decode, small', kind: 'smooth', keys: 1500 }, ONCE);
    const estimates = ['pages mean, estimate', 'clusters, estimate'];
    const names = ['scan', 'pages mean', 'pages bounds', 'clusters', 'graph', ...estimates];
    expect(outcome.contestants).toEqual(['dense', ...names]);
    const peaks = [{ name: 'read 1 MiB', threads: 1, rate: 1e9, unit: 'B/s' as const, footprint: 2 ** 20 }];
    const rows = decodeRows(outcome, peaks, 1);
    expect(rows.map(({ case: { mask } }) => mask)).toEqual(names);
    const [scan, mean, , clusters, , , estimate] = rows as [(typeof rows)[0], ...typeof rows];
    for (const row of rows) {
      expect(row.faults).toEqual([]);
      expect(Object.keys(row.ratios)).toEqual(['dense']);
      expect(row.figures!['softmax mass']).toBeGreaterThan(0.1);
      expect(row.figures!['softmax mass']).toBeLessThan(1.001);
      expect(row.figures!['output error']).toBeGreaterThan(0);
      for (const figure of ['build ms', 'append ms']) expect(row.figures![figure]).toBeGreaterThan(0);
    }
    expect(scan.figures!['recall@100']).toBeGreaterThan(0.995);
    expect(scan.figures!.touched).toBe(1);
    for (const some of [mean, clusters, estimate]) expect(some!.figures!.touched).toBeLessThan(1);
    expect(estimate!.memory!['node-attention']).toBeGreaterThan(clusters!.memory!['node-attention']!);
    expect(estimate!.figures!['softmax mass']).toBeGreaterThan(clusters!.figures!['softmax mass']!);
    expect(scan.floor).toEqual({ ms: scan.memory!['node-attention']! / 1e6, bound: 'memory' });
    expect(scan.bytes).toBe(scan.memory!['node-attention']);
    expect(mean!.floor).toBeUndefined();

    // Targets are about long contexts, and pages' about what has structure.
    const verdicts = (of: typeof rows) => judgeBy(DECODE_TARGETS, of, ({ name }) => name).map(({ rows }) => rows);
    expect(verdicts(rows)).toEqual([0, 0, 0, 0]);
    const long = (name: string) => rows.map((row) => ({ ...row, name, case: { ...row.case, tokens: 131072 } }));
    expect(verdicts(long('decode, spiky T=131072'))).toEqual([1, 1, 1, 1]);
    expect(verdicts(long('decode, noise T=131072'))).toEqual([1, 1, 0, 0]);

    // What is wrong has no time.
    const wrong = {
      ...outcome,
      contestants: ['dense'],
      methods: outcome.methods.map((one) => ({ ...one, fault: 'it is wrong' })),
    };
    const [bad] = decodeRows(wrong, peaks, 1);
    expect(bad!.faults).toEqual([{ contestant: 'node-attention', fault: 'it is wrong' }]);
    expect(Object.keys(bad!.samples)).toEqual(['dense']);
    expect(bad!.figures).not.toHaveProperty('recall@100');
  });
});
