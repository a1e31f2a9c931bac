// The simulator against counting by the definition, and against published figures.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { AttentionError, simulateNeighborhood } from 'node-attention';
import { afterAll, describe, expect, it } from 'vitest';
import { version } from '../package.json';
import { axisSetting } from './support/cases';
import { type Axis, seesAlong } from './support/oracle';

interface Counts {
  visible: number;
  visited: number;
  full: number;
  worst: number;
  queryTiles: number;
  keyTiles: number;
}

/** One axis, pair by pair. Tiles are sets of tokens of one dilation group. */
function bruteForce(extent: number, axis: Axis, queryTile: number, keyTile: number): Counts {
  const group = (g: number) => Array.from({ length: extent }, (_, i) => i).filter((i) => i % axis.dilation === g);
  const tilesOf = (tile: number) =>
    Array.from({ length: axis.dilation }, (_, g) => group(g)).flatMap((tokens) =>
      Array.from({ length: Math.ceil(tokens.length / tile) }, (_, t) => tokens.slice(t * tile, (t + 1) * tile)),
    );
  const [queries, keys] = [tilesOf(queryTile), tilesOf(keyTile)];
  const counts = { visible: 0, visited: 0, full: 0, worst: 0, queryTiles: queries.length, keyTiles: keys.length };
  for (const tile of queries) {
    let own = 0;
    for (const against of keys) {
      const pairs = tile.flatMap((i) => against.map((j) => seesAlong(i, j, extent, axis)));
      const seen = pairs.filter(Boolean).length;
      counts.visible += seen;
      own += seen > 0 ? 1 : 0;
      counts.full += seen === pairs.length && against.length === keyTile ? 1 : 0;
    }
    counts.visited += own;
    counts.worst = Math.max(counts.worst, own);
  }
  return counts;
}

const product = (values: number[]) => values.reduce((a, b) => a * b, 1);

interface Counted {
  shape: number[];
  axes: Axis[];
  queryTile: number[];
  keyTile: number[];
}

const grid = fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 3 }).chain((shape) =>
  fc.record({
    shape: fc.constant(shape),
    axes: fc.tuple(...shape.map(axisSetting)) as fc.Arbitrary<Axis[]>,
    queryTile: fc.tuple(...shape.map(() => fc.integer({ min: 1, max: 9 }))) as fc.Arbitrary<number[]>,
    keyTile: fc.tuple(...shape.map(() => fc.integer({ min: 1, max: 9 }))) as fc.Arbitrary<number[]>,
  }),
);

/** One long axis with short windows and tiles, in which counts repeat many times over. */
const long = fc.integer({ min: 60, max: 240 }).chain((extent) =>
  fc.record({ window: fc.integer({ min: 1, max: 12 }), dilation: fc.integer({ min: 1, max: 2 }) }).chain((some) =>
    fc.record({
      shape: fc.constant<number[]>([extent]),
      axes: fc
        .record({ stride: fc.integer({ min: 1, max: some.window }), kind: fc.constantFrom('plain', 'causal', 'wrap') })
        .map(({ stride, kind }): Axis[] => [
          {
            ...some,
            stride,
            causal: kind === 'causal',
            wrap: kind === 'wrap' && extent % (some.dilation * stride) === 0,
          },
        ]),
      queryTile: fc.tuple(fc.integer({ min: 1, max: 5 })) as fc.Arbitrary<number[]>,
      keyTile: fc.tuple(fc.integer({ min: 1, max: 5 })) as fc.Arbitrary<number[]>,
    }),
  ),
);

/** A ring of which a window leaves out less than a stride, so that the queries of a tile share several pieces of it. */
const ring = fc
  .record({ stride: fc.integer({ min: 2, max: 12 }), groups: fc.integer({ min: 1, max: 5 }) })
  .chain(({ stride, groups }) =>
    fc.record({
      shape: fc.constant<number[]>([stride * groups]),
      axes: fc
        .integer({ min: Math.max(stride, stride * (groups - 1)), max: stride * groups })
        .map((window): Axis[] => [{ window, stride, dilation: 1, causal: false, wrap: true }]),
      queryTile: fc.tuple(fc.integer({ min: 1, max: 40 })) as fc.Arbitrary<number[]>,
      keyTile: fc.tuple(fc.integer({ min: 1, max: 9 })) as fc.Arbitrary<number[]>,
    }),
  );

describe('simulateNeighborhood', () => {
  it.each<[string, fc.Arbitrary<Counted>, number]>([
    ['grids', grid, 1000],
    ['long axes', long, 300],
    ['rings', ring, 500],
  ])('counts what the definition says of %s', (_, problems, numRuns) => {
    fc.assert(
      fc.property(problems, ({ shape, axes, queryTile, keyTile }) => {
        const counts = axes.map((axis, a) => bruteForce(shape[a]!, axis, queryTile[a]!, keyTile[a]!));
        const all = (name: keyof Counts) => product(counts.map((one) => one[name]));
        const tokens = product(shape);
        const settings = {
          window: axes.map(({ window }) => window),
          stride: axes.map(({ stride }) => stride),
          dilation: axes.map(({ dilation }) => dilation),
          causal: axes.map(({ causal }) => causal),
          wrap: axes.map(({ wrap }) => wrap),
        };
        expect(simulateNeighborhood({ shape, ...settings, queryTile, keyTile })).toEqual({
          queryTile,
          keyTile,
          tiles: {
            visited: all('visited'),
            full: all('full'),
            partial: all('visited') - all('full'),
            total: all('queryTiles') * all('keyTiles'),
          },
          speedup: {
            flops: tokens ** 2 / all('visible'),
            worstTile: tokens / (all('worst') * product(keyTile)),
            sum: (tokens * all('queryTiles')) / (all('visited') * product(keyTile)),
          },
        });
      }),
      { numRuns, seed: 28 },
    );
  });

  const hunyuan = { shape: [30, 48, 80], window: [18, 24, 24], queryTile: [4, 8, 8], keyTile: [2, 8, 8] };
  const flux = { shape: [256, 256], window: 80, queryTile: [16, 16], keyTile: [16, 8] };
  const cosmos = { shape: [16, 44, 80], window: [16, 24, 16], queryTile: [8, 4, 8], keyTile: [4, 4, 8] };

  it.each([
    ['HunyuanVideo, stride 1', { ...hunyuan, stride: 1 }, 3.27, 5.245],
    ['HunyuanVideo, stride 16 x 8 x 8', { ...hunyuan, stride: [16, 8, 8] }, 11.11, undefined],
    ['FLUX, stride 1', { ...flux, stride: 1 }, 6.095, 7.061],
    ['FLUX, stride 16 x 16', { ...flux, stride: 16 }, 10.24, undefined],
    ['Cosmos, stride 1', { ...cosmos, stride: 1 }, 5.238, 6.087],
    ['Cosmos, stride 16 x 8 x 16', { ...cosmos, stride: [16, 8, 16] }, 9.17, undefined],
  ])('gives the published bounds: %s', (_, options, worst, sum) => {
    const { speedup } = simulateNeighborhood(options);
    const digits = (x: number) => String(x).split('.')[1]!.length;
    expect(speedup.worstTile.toFixed(digits(worst))).toBe(String(worst));
    if (sum) expect(speedup.sum.toFixed(digits(sum))).toBe(String(sum));
  });

  it('a full window is dense attention, blocks need no mask', () => {
    expect(simulateNeighborhood({ shape: [256], window: -1, queryTile: [64], keyTile: [32] })).toMatchObject({
      tiles: { visited: 32, full: 32, partial: 0, total: 32 },
      speedup: { flops: 1, worstTile: 1, sum: 1 },
    });
    expect(
      simulateNeighborhood({ shape: [256], window: 64, stride: 64, queryTile: [64], keyTile: [32] }),
    ).toMatchObject({
      tiles: { visited: 8, full: 8, partial: 0, total: 32 },
      speedup: { flops: 4, worstTile: 4, sum: 4 },
    });
  });

  it('counts tiles that are given once', () => {
    // More than half of those that a call may look at.
    const options = { shape: [2 ** 24], window: 2 ** 22, queryTile: [1], keyTile: [64] };
    expect(simulateNeighborhood(options).tiles.total).toBe(2 ** 24 * 2 ** 18);
  });

  it('chooses tiles when none are given', () => {
    const chosen = simulateNeighborhood({ shape: [256, 256], window: 80 });
    expect(chosen.queryTile).toHaveLength(2);
    const worse = simulateNeighborhood({ shape: [256, 256], window: 80, queryTile: [16, 16], keyTile: [16, 16] });
    expect(chosen.speedup.sum).toBeGreaterThan(worse.speedup.sum);
  });

  it.each<[object, string, RegExp]>([
    [{ shape: [], window: 3 }, 'ERR_SHAPE', /one to three token axes/],
    [{ shape: [2, 2, 2, 2], window: 1 }, 'ERR_SHAPE', /4 axes/],
    [{ shape: [0], window: 1 }, 'ERR_SHAPE', /shape\[0\]/],
    [{ shape: [2 ** 20, 2 ** 20], window: 1 }, 'ERR_SHAPE', /2\^30/],
    [{ shape: [8], window: 9 }, 'ERR_OPTION', /window 9 .*axis 0.*extent 8: the window is at most 8/],
    [{ shape: [8], window: 4, dilation: 3 }, 'ERR_OPTION', /dilation 3 .* at most 2, or -1 for all/],
    [{ shape: [8], window: -1, dilation: 9 }, 'ERR_OPTION', /dilation 9 of axis 0 is not in 1 ... 8/],
    [
      { shape: [2 ** 30], window: 2 ** 29, queryTile: [1], keyTile: [1] },
      'ERR_OPTION',
      /tiles of 1 queries .* 1073741824 may differ, but at most 16777216 of all tiles are looked at; give larger tiles/,
    ],
    // Two dilation groups, each of half as many tiles.
    [
      { shape: [2 ** 30 - 1], window: 2 ** 27, dilation: 2, queryTile: [32], keyTile: [32] },
      'ERR_OPTION',
      /8388\d+ may differ, but at most 16777216 of all tiles/,
    ],
    [{ shape: [8], window: -1, stride: 9 }, 'ERR_OPTION', /stride 9.*1 \.\.\. 8/],
    [{ shape: [8], window: 4, stride: 3, wrap: true }, 'ERR_OPTION', /wraps/],
    [{ shape: [8, 8], window: [1, 1, 1] }, 'ERR_OPTION', /window has 3 values for 2/],
    [{ shape: [8], window: 3, queryTile: [2, 2] }, 'ERR_SHAPE', /queryTile has 2 axes/],
    [{ shape: [8], window: 3, keyTile: [0] }, 'ERR_SHAPE', /keyTile\[0\]/],
    [{ shape: [8], window: 3, tile: 4 }, 'ERR_OPTION', /'tile' is not known/],
  ])('refuses %j', (options, code, message) => {
    const call = () => simulateNeighborhood(options as never);
    expect(call).toThrow(AttentionError);
    expect(call).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
  });
});

it('npx node-attention --version says which it is', () => {
  const { stdout, status } = spawnSync(process.execPath, [join(__dirname, '../dist/cli.js'), '--version'], {
    encoding: 'utf8',
  });
  expect({ stdout, status }).toEqual({ stdout: `${version}\n`, status: 0 });
});

describe('npx node-attention simulate', () => {
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [join(__dirname, '../dist/cli.js'), 'simulate', ...args], { encoding: 'utf8' });

  it('prints candidates and recommends the smallest good stride', () => {
    const { stdout, status } = run('--shape', '32768', '--window', '2048', '--rows', '3');
    expect(status).toBe(0);
    const lines = stdout.trim().split('\n');
    expect(lines[2]).toMatch(/^256 +128 \/ 128 +6\.3 % +100 % +16\.00 +16\.00 +16\.00$/);
    expect(lines.slice(1)).toContainEqual(expect.stringMatching(/^1 +128 \/ 128 +6\.6 %/)); // sliding, whatever its rank
    expect(lines.at(-1)).toMatch(/^Recommended: stride 256 /);
  });

  it('tabulates strides and tiles', () => {
    const { stdout } = run('--shape', '64,64', '--window', '16', '--stride', '8', '--rows', '99');
    const tiles = stdout.split('\n').slice(2, 6);
    expect(tiles.map((line) => line.split(/ {2,}/)[1]).sort()).toEqual([
      '16x8 / 16x8',
      '8x16 / 8x16',
      '8x8 / 16x8',
      '8x8 / 8x16',
    ]);
    const own = run('--shape', '64,64', '--window', '16', '--stride', '8', '--query-tile', '8,8', '--key-tile', '4,4');
    expect(own.stdout.match(/8x8 \/ 4x4/g)).toHaveLength(1);
  });

  it('takes causal and wrapping axes', () => {
    const rows = (...args: string[]) => run('--shape', '32,32', '--window', '8', '--stride', '1', ...args).stdout;
    const shape = { shape: [32, 32], window: 8 };
    const flops = (options: object) => simulateNeighborhood({ ...shape, ...options }).speedup.flops.toFixed(2);
    expect(rows('--causal')).toContain(` ${flops({ causal: true })} `);
    expect(rows('--causal', '1,0')).toContain(` ${flops({ causal: [true, false] })} `);
    expect(flops({ causal: [true, false] })).not.toBe(flops({ causal: true }));
    // On a ring windows do not stop at a border, so that they meet fewer tiles there.
    const one = (options: object) => simulateNeighborhood({ ...shape, ...options, stride: 1 }).speedup.sum.toFixed(2);
    expect(rows('--wrap', '0,1')).toContain(` ${one({ wrap: [false, true] })} `);
    expect(one({ wrap: [false, true] })).not.toBe(one({}));
  });

  const stridesIn = (table: string) => [...table.matchAll(/^(\d\S*) +\S+ \/ /gm)].map(([, stride]) => stride);

  it('tries such strides of a ring as divide it', () => {
    const { stdout, stderr, status } = run('--shape', '30,12', '--window', '18,5', '--wrap', '1,0', '--rows', '99');
    expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
    const wanted = [1, 2].flatMap((x) => [1, 2, 4, 5].map((y) => `${x}x${y}`));
    expect([...new Set(stridesIn(stdout))].sort()).toEqual(wanted);
    expect(stdout).not.toContain('Left out');
    const spread = run('--shape', '36,36', '--window', '12', '--wrap', '--dilation', '3', '--rows', '99').stdout;
    const few = [1, 2, 4, 12];
    expect([...new Set(stridesIn(spread))].sort()).toEqual(few.flatMap((x) => few.map((y) => `${x}x${y}`)).sort());
    expect(run('--shape', '30,48,80', '--window', '18,24,24', '--wrap').status).toBe(0);
  });

  const long = ['--shape', String(2 ** 30), '--query-tile', '16', '--key-tile', '128', '--rows', '99'];

  it('leaves out a stride by which too many tiles differ', () => {
    // The window itself: 2^20 tiles of keys, and 16 tiles of queries for each, are a common multiple of it and the tiles.
    const { stdout, stderr, status } = run(...long, '--window', String(2 ** 21 + 1));
    expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
    expect(
      stridesIn(stdout)
        .map(Number)
        .sort((a, b) => a - b),
    ).toEqual(Array.from({ length: 22 }, (_, n) => 2 ** n));
    expect(stdout).toMatch(/^Left out: 1 of 23 settings, .*; give --stride/m);
  });

  it('looks at no more tiles of all strides than of one', () => {
    const { stdout, stderr, status } = run(...long, '--window', String(2 ** 24));
    expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
    // With each stride there are more than 2 * 2^24 / 16 of 2^24 tiles.
    expect(stridesIn(stdout).length).toBeLessThan(8);
    expect(stdout).toMatch(new RegExp(`^Left out: ${25 - stridesIn(stdout).length} of 25 settings`, 'm'));
  });

  describe('--svg', () => {
    const folder = mkdtempSync(join(tmpdir(), 'node-attention-svg-'));
    afterAll(() => rmSync(folder, { recursive: true }));
    const draw = (...args: string[]) => {
      const file = join(folder, 'chart.svg');
      const { stdout, stderr, status } = run(...args, '--svg', file);
      expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
      return { svg: readFileSync(file, 'utf8'), stdout };
    };
    const attributes = (svg: string, tag: RegExp) => [...svg.matchAll(tag)].map(([, value]) => Number(value));

    it('draws a point for every stride and marks the recommended one', () => {
      const { svg, stdout } = draw('--shape', '32768', '--window', '2048');
      const strides = Array.from({ length: 12 }, (_, n) => 2 ** n);
      const tips = [...svg.matchAll(/<title>stride (\d+): ([\d.]+) by the sum, ([\d.]+) by the worst tile/g)];
      expect(new Set(tips.map(([, stride]) => Number(stride)))).toEqual(new Set(strides));
      for (const [, stride, sum] of tips) {
        const { speedup } = simulateNeighborhood({ shape: [32768], window: 2048, stride: Number(stride) });
        expect(sum).toBe(speedup.sum.toFixed(2));
      }
      // Strides double from point to point, so points are equally far apart; a higher bound lies higher.
      const x = attributes(svg, /<circle class="setting" cx="([\d.]+)"/g).sort((a, b) => a - b);
      for (let i = 2; i < x.length; i++) expect(x[i]! - x[i - 1]!).toBeCloseTo(x[1]! - x[0]!, 0);
      const heights = [...svg.matchAll(/class="setting" cx="[\d.]+" cy="([\d.]+)".*?: ([\d.]+) by the sum/g)];
      for (const [, y, sum] of heights)
        for (const [, other, less] of heights) {
          if (Number(sum) > Number(less)) expect(Number(y)).toBeLessThanOrEqual(Number(other));
        }
      const [, recommended] = /Recommended: stride (\d+) /.exec(stdout)!;
      expect(svg).toContain(`>stride ${recommended}: 16.00x</text>`);
      expect(svg.match(/class="chosen"/g)).toHaveLength(1);
    });

    it('is well-formed and stays within its frame, for one setting and for many', () => {
      for (const args of [
        ['--shape', '16,44,80', '--window', '16,24,16', '--dilation', '1,1,2'],
        ['--shape', '7', '--window', '-1'],
      ]) {
        const { svg } = draw(...args);
        expect(svg).not.toMatch(/NaN|Infinity|undefined/);
        const open: string[] = [];
        for (const [, close, name, empty] of svg.matchAll(/<(\/?)([a-z]+)[^>]*?(\/?)>/g)) {
          if (close) expect(open.pop()).toBe(name);
          else if (!empty) open.push(name!);
        }
        expect(open).toEqual([]);
        const [, width, height] = /viewBox="0 0 (\d+) (\d+)"/.exec(svg)!;
        const inside = (values: number[], most: number) => values.every((value) => value > 0 && value < most);
        expect(inside(attributes(svg, / cx="(-?[\d.]+)"/g), Number(width))).toBe(true);
        expect(inside(attributes(svg, / cy="(-?[\d.]+)"/g), Number(height))).toBe(true);
      }
    });

    it('says when the file cannot be written', () => {
      const { stderr, status } = run('--shape', '64', '--window', '8', '--svg', join(folder, 'absent', 'chart.svg'));
      expect(stderr).toMatch(
        /^error: option '--svg <file>' argument '.*chart\.svg' cannot be written \(ENOENT\)\. Give a file/,
      );
      expect(status).toBe(1);
    });
  });

  it.each<[string[], RegExp]>([
    [['--shape', '8'], /required option '--window/],
    [['--shape', '8,x', '--window', '3'], /give whole numbers/],
    [['--shape', '8,8', '--window', '3', '--causal', '1,2'], /give 1 or 0 for each token axis/],
    [['--shape', '8,8,8,8', '--window', '3'], /one to three token axes/],
    [['--shape', '8', '--window', '9'], /window 9 .* extent 8/],
    [['--shape', '8,8,8', '--window', '3,3'], /--window has 2 values for 3 token axes; give one value or one per axis/],
    [['--shape', '8,8,8', '--window', '3', '--stride', '1,2'], /--stride has 2 values for 3 token axes/],
    [['--shape', '8,8', '--window', '3', '--dilation', '1,2,1'], /--dilation has 3 values for 2 token axes/],
    [['--shape', '8,8,8', '--window', '3', '--causal', '1,0'], /--causal has 2 values for 3 token axes/],
    [
      ['--shape', '8,8,8', '--window', '3', '--query-tile', '8'],
      /--query-tile has 1 values for 3 token axes; give one per axis/,
    ],
    [
      ['--shape', '8,8', '--window', '3', '--key-tile', '8,4,4'],
      /--key-tile has 3 values for 2 token axes; give one per axis/,
    ],
    [['--shape', '8,8', '--window', '0', '--wrap'], /window.* 0/],
    [['--shape', '8,8', '--window', '3', '--wrap', '--dilation', '0'], /dilation.* 0/],
    [['--shape', '8,8', '--window', '2', '--wrap', '--dilation', '3'], /extent 8 must be divisible by dilation 3/],
    [['--shape', '8', '--window', '4', '--wrap', '--stride', '3'], /axis 0 wraps/],
    [
      ['--shape', String(2 ** 30), '--window', String(2 ** 29), '--query-tile', '1', '--key-tile', '1'],
      /at most 16777216 of all tiles are looked at/,
    ],
    [['--shape', '', '--window', '3'], /give whole numbers/],
    [['--shape', '30,,80', '--window', '3'], /give whole numbers/],
    ...['3,4', '0', '-5', 'x', ''].map((rows): [string[], RegExp] => [
      ['--shape', '8', '--window', '3', '--rows', rows],
      /give a whole number of at least 1/,
    ]),
  ])('refuses %j', (args, message) => {
    const { stderr, status } = run(...args);
    expect(stderr).toMatch(message);
    expect(status).toBe(1);
  });
});
