// Static rules: a row has to list a block if, and only if, one of its queries wants one of the block's keys, by the
// definition of the rule for single tokens.

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import {
  attention,
  dilatedPlan,
  gridPlan,
  neighborhood,
  pagePlan,
  type RuleAlways,
  radialPlan,
  type SparsePlan,
  streamingPlan,
  Tensor,
  verticalSlashPlan,
} from 'node-attention';
import { describe, expect, it, vi } from 'vitest';
import { uniform } from './support/numbers';
import { sanitized } from './support/sanitizer';

/** Position of a query and key, both as keys are counted. */
type Wants = (position: number, key: number, head: number) => boolean;

async function expectBlocks(plan: SparsePlan, wants: Wants): Promise<void> {
  await plan.validate();
  using dense = plan.toDense();
  const got = await dense.read();
  const { queries, keys, queryTile, keyBlock, heads } = plan;
  const shift = keys - queries;
  for (let head = 0; head < heads; head++) {
    for (let first = 0; first < queries; first += queryTile) {
      const last = Math.min(first + queryTile, queries) - 1;
      for (let from = 0; from < keys; from += keyBlock) {
        const to = Math.min(from + keyBlock, keys) - 1;
        let wanted = false;
        for (let i = first; i <= last && !wanted; i++) {
          for (let j = from; j <= to && !wanted; j++) {
            wanted = (!plan.causal || j <= i + shift) && wants(i + shift, j, head);
          }
        }
        for (const [i, j] of [
          [first, from],
          [last, from],
          [last, to],
        ] as const) {
          const visible = !plan.causal || j <= i + shift;
          const shown = got[(head * queries + i) * keys + j];
          if (shown !== Number(wanted && visible)) {
            expect(shown, `head ${head}, query ${i}, key ${j}`).toBe(Number(wanted && visible));
          }
        }
      }
    }
  }
}

/** What every row of a rule may see besides. */
const ALWAYS = [{ sink: 9 }, { window: 20 }, { sink: 17, window: 1 }, { sink: 0, window: 1000 }];

const isAlways = ({ sink = 0, window = 0 }: RuleAlways, causal: boolean, p: number, j: number) =>
  j < sink || (j > p - window && (causal || j < p + window));

const sizes = [
  { queries: 200, keys: 200, queryTile: 16, keyBlock: 8 },
  { queries: 70, keys: 333, queryTile: 32, keyBlock: 16 },
  { queries: 1, keys: 150, queryTile: 64, keyBlock: 4 },
];

describe.each(sizes)('%j', (size) => {
  it.each([true, false])('streamingPlan, causal %s', async (causal) => {
    for (const [sink, window] of [
      [0, 1],
      [9, 40],
      [17, 0],
      [0, 1000],
    ] as const) {
      using plan = streamingPlan({ ...size, causal, sink, window });
      const wants: Wants = (p, j) => j < sink || (j > p - window && (causal || j < p + window));
      await expectBlocks(plan, wants);
    }
  });

  it.each([true, false])('streamingPlan of heads that differ, causal %s', async (causal) => {
    const [sinks, windows] = [
      [9, 0, 30],
      [1, 50, 0],
    ];
    for (const [sink, window] of [
      [sinks, windows],
      [sinks, 12],
      [5, windows],
    ] as const) {
      using plan = streamingPlan({ ...size, causal, heads: 3, batch: 2, sink, window });
      const of = (value: number | readonly number[], head: number) =>
        typeof value === 'number' ? value : value[head]!;
      await expectBlocks(plan, (p, j, head) => {
        const last = of(window, head);
        return j < of(sink, head) || (j > p - last && (causal || j < p + last));
      });
    }
  });

  it.each([true, false])('verticalSlashPlan, and what is seen always, causal %s', async (causal) => {
    for (const always of ALWAYS) {
      using plan = verticalSlashPlan({ ...size, causal, vertical: [77], slash: [60], always });
      await expectBlocks(plan, (p, j) => j === 77 || p - j === 60 || isAlways(always, causal, p, j));
      // As a selector has it that may choose nothing.
      using none = verticalSlashPlan({ ...size, causal, vertical: [], slash: [], always });
      using q = Tensor.zeros([1, size.queries, 1, 4]);
      using k = Tensor.zeros([1, size.keys, 1, 4]);
      const { queryTile, keyBlock } = size;
      const all = { sink: 0, window: 0, ...always };
      using chosen = pagePlan(q, k, { budget: 0, causal, queryTile, keyBlock, always: all });
      const [a, b] = await Promise.all([none, chosen].map((of) => of.toDense().read()));
      expect(a).toEqual(b);
    }
  });

  it('verticalSlashPlan', async () => {
    const vertical = [[0, 33], [149], []];
    const slash = [[0], [0, 64, 65], [100]];
    using plan = verticalSlashPlan({ ...size, causal: true, heads: 3, vertical, slash });
    await expectBlocks(plan, (p, j, head) => vertical[head]!.includes(j) || slash[head]!.includes(p - j));
    using shared = verticalSlashPlan({ ...size, heads: 2, vertical: [5], slash: [], causal: false });
    await expectBlocks(shared, (_, j) => j === 5);
  });

  it('verticalSlashPlan of lines in any order, also twice', async () => {
    const [vertical, slash] = [
      [90, 3, 4, 3, 33],
      [65, 0, 64, 0, 1],
    ];
    for (const causal of [true, false]) {
      using plan = verticalSlashPlan({ ...size, causal, vertical, slash });
      await expectBlocks(plan, (p, j) => vertical.includes(j) || slash.includes(p - j));
    }
  });

  it('verticalSlashPlan of many lines, some of them in one block', async () => {
    const random = uniform(29);
    for (const apart of [1, 2, 3, 7, 20, 40]) {
      const lines = (n: number) => Array.from({ length: n }, () => Math.floor(random() * n * apart));
      const [vertical, slash] = [lines(1 + Math.floor(40 / apart)), lines(1 + Math.floor(60 / apart))];
      for (const causal of [true, false]) {
        using plan = verticalSlashPlan({ ...size, causal, vertical, slash });
        await expectBlocks(plan, (p, j) => vertical.includes(j) || slash.includes(p - j));
      }
    }
  });

  it('dilatedPlan', async () => {
    using plan = dilatedPlan({ ...size, heads: 3, causal: true, sink: 3, window: 10 });
    const block = (x: number) => Math.floor(x / size.keyBlock);
    await expectBlocks(plan, (p, j) => {
      const distance = block(p) - block(j);
      // The blocks between those of a row's first and last query move along with the row.
      return j < 3 || (j > p - 10 && j <= p) || (distance > 0 && Number.isInteger(Math.log2(distance)));
    });
  });
});

it('a key behind the causal border brings no block, not even one that a row sees in part', async () => {
  const size = { queries: 40, keys: 40, queryTile: 16, keyBlock: 32 };
  using plan = verticalSlashPlan({ ...size, causal: true, vertical: [20], slash: [] });
  await expectBlocks(plan, (_, j) => j === 20);
  // The first row ends at 20, between a line and one of the next block.
  const apart = { queries: 32, keys: 37, queryTile: 16, keyBlock: 16 };
  using two = verticalSlashPlan({ ...apart, causal: true, vertical: [15, 25], slash: [] });
  await expectBlocks(two, (_, j) => j === 15 || j === 25);
});

it('verticalSlashPlan takes no longer for lines that are in no order: they are sorted once, not for every row', () => {
  const random = uniform(1);
  const sorted = Array.from({ length: 16000 }, (_, n) => 4 * n);
  const mixed = [...sorted];
  for (let n = mixed.length - 1; n > 0; n--) {
    const other = Math.floor(random() * (n + 1));
    [mixed[n], mixed[other]] = [mixed[other]!, mixed[n]!];
  }
  const size = { queries: 16384, keys: 65536, queryTile: 128, keyBlock: 2 };
  const spent = (vertical: number[]) => {
    const before = process.cpuUsage();
    using _ = verticalSlashPlan({ ...size, vertical, slash: [] });
    return process.cpuUsage(before).user;
  };
  spent(mixed);
  const least = (lines: number[]) => Math.min(...Array.from({ length: 3 }, () => spent(lines)));
  // To sort the 16000 ranges of a row takes 14 comparisons of each.
  expect(least(mixed) / least(sorted)).toBeLessThan(2);
});

it('verticalSlashPlan takes no time for each of the lines that lie in one block', () => {
  const size = { queries: 2 ** 18, keys: 2 ** 18, queryTile: 64, keyBlock: 128 };
  const [vertical, slash] = [2, 2].map((apart) => Array.from({ length: 65536 }, (_, n) => apart * n));
  const before = process.cpuUsage();
  using _ = verticalSlashPlan({ ...size, vertical: vertical!, slash: slash! });
  expect(process.cpuUsage(before).user / 1e6).toBeLessThan(1.5); // seconds: 2^30 lines for all rows take ten
});

it('verticalSlashPlan of hundreds of ranges in a row, in two orders', async () => {
  const [vertical, slash] = [4, 8].map((apart) => Array.from({ length: 300 }, (_, n) => apart * n));
  using plan = verticalSlashPlan({
    ...{ queries: 1, keys: 2401, queryTile: 16, keyBlock: 2 },
    ...{ vertical: vertical!, slash: slash! },
  });
  await expectBlocks(plan, (p, j) => vertical!.includes(j) || slash!.includes(p - j));
});

it('a list for all heads is not one for each', async () => {
  using plan = verticalSlashPlan({
    ...{ queries: 40, keys: 100, heads: 2, queryTile: 16, keyBlock: 2 },
    ...{ vertical: [7], slash: [[3], [50]] },
  });
  await expectBlocks(plan, (p, j, head) => j === 7 || p - j === [3, 50][head]);
});

describe('many blocks', () => {
  // V8 ends a process whose heap is full; no error can be caught.
  const run = (call: string) => {
    const program = `
      const { dilatedPlan, gridPlan, memoryStats, radialPlan, streamingPlan, verticalSlashPlan } = require('node-attention');
      const told = (make) => {
        try {
          return make().bytes;
        } catch ({ code, message }) {
          return { code, message };
        }
      };
      console.log(JSON.stringify(told(() => ${call})));`;
    const { stdout, stderr, status } = spawnSync(process.execPath, ['--max-old-space-size=32', '-e', program], {
      cwd: join(__dirname, '..'),
      encoding: 'utf8',
    });
    expect({ status, stderr: stderr.slice(-2000) }).toEqual({ status: 0, stderr: '' });
    return JSON.parse(stdout) as unknown;
  };

  it.each<[string, number, number]>([
    [
      'streamingPlan({ queries: 2 ** 17, keys: 2 ** 17, window: 2 ** 17, queryTile: 32, keyBlock: 64 })',
      2 ** 12,
      2 ** 23,
    ],
    ['streamingPlan({ queries: 16, keys: 16, heads: 2 ** 19, batch: 16, window: 16 })', 2 ** 23, 2 ** 23],
    [
      'verticalSlashPlan({ queries: 1, keys: 128, heads: 2 ** 14, keyBlock: 2, vertical: Array.from({ length: 32 }, (_, j) => 4 * j), slash: [] })',
      2 ** 14,
      2 ** 19,
    ],
  ])('take no room on the heap of V8: %s', (call, rows, blocks) => {
    expect(run(call)).toBe(4 * (rows + 1 + blocks));
  });

  it.each([
    'streamingPlan({ queries: 2 ** 20, keys: 2 ** 20, window: 2 ** 20, queryTile: 16, keyBlock: 16 })',
    'dilatedPlan({ queries: 2 ** 20, keys: 2 ** 20, window: 2 ** 20, queryTile: 16, keyBlock: 16 })',
    'verticalSlashPlan({ queries: 2 ** 16, keys: 2 ** 12, heads: 2 ** 12, queryTile: 16, keyBlock: 2, vertical: Array.from({ length: 2 ** 10 }, (_, j) => 4 * j), slash: [] })',
    'gridPlan({ shape: [2 ** 20], box: [2 ** 20], queryTile: 16, keyBlock: 16 })',
    'radialPlan({ frames: 2, tokensPerFrame: 2 ** 20, queryTile: 16, keyBlock: 16 })',
  ])('are refused before there is memory for them: %s', (call) => {
    const name = /^[\w.]+/.exec(call)![0];
    expect(run(call)).toEqual({
      code: 'ERR_OPTION',
      message: `${name}: the rows list more than 2147483645 blocks; use a larger keyBlock or queryTile, or show fewer keys`,
    });
  });

  it('are refused before there is time for what rows see', () => {
    const grid = '{ shape: [1024, 1024, 1024], box: [1, 1, 1], reach: [1023, 1023, 0] }';
    expect(run(`gridPlan(${grid})`)).toEqual({
      code: 'ERR_OPTION',
      message: expect.stringMatching(
        /^gridPlan: the rows see more than 268435456 ranges of keys; use a larger queryTile, or show fewer keys/,
      ),
    });
  });

  it.skipIf(sanitized)('leave nothing behind in a loop that does not return to the event loop', () => {
    const loop = `(() => {
      let [most, left] = [0, 0];
      for (let i = 0; i < 50; i++) {
        streamingPlan({ queries: 1, keys: 2 ** 25, sink: 2 ** 25, window: 0, keyBlock: 2 }).dispose();
        const { rss, arrayBuffers } = process.memoryUsage();
        most = Math.max(most, rss);
        left = Math.max(left, arrayBuffers + memoryStats().bytes);
      }
      return { bytes: [most, left] };
    })()`;
    const [most, left] = run(loop) as [number, number];
    // 50 plans of 64 MiB, of which there are two copies at a time, beside 50 MiB of Node.
    expect(most).toBeLessThan(2 ** 28);
    // Nothing is left to threads, of V8 or of the library, which others may hold up.
    expect(left).toBeLessThan(2 ** 20);
  });

  it('for which there is no memory are refused as such', () => {
    vi.stubGlobal(
      'Int32Array',
      class {
        constructor() {
          throw new RangeError('Array buffer allocation failed');
        }
      },
    );
    try {
      expect(() => streamingPlan({ queries: 64, keys: 64, window: 64 })).toThrow(
        expect.objectContaining({
          code: 'ERR_OUT_OF_MEMORY',
          message: expect.stringMatching(/^streamingPlan: no memory/),
        }),
      );
    } finally {
      vi.unstubAllGlobals();
    }
  });
});

describe('radialPlan', () => {
  it.each([
    { frames: 9, tokensPerFrame: 24 },
    { frames: 40, tokensPerFrame: 5 },
    { frames: 1, tokensPerFrame: 70 },
    { frames: 150, tokensPerFrame: 3 },
    { frames: 210, tokensPerFrame: 1 },
  ])('%j', async (video) => {
    const s = video.tokensPerFrame;
    for (const firstFrame of [true, false]) {
      using plan = radialPlan({ ...video, firstFrame, queryTile: 16, keyBlock: 4 });
      await expectBlocks(plan, (p, j) => {
        const [a, b] = [Math.floor(p / s), Math.floor(j / s)];
        const halved = 2 ** Math.floor(Math.log2(Math.max(Math.abs(a - b), 1)));
        const apart = Math.abs((p % s) - (j % s));
        if (firstFrame && b === 0) return true;
        if (halved <= s && apart + 1 <= s / halved) return true;
        return Math.abs(a - b) % Math.ceil(halved / s) === 0 && apart === 0;
      });
    }
  });
});

it.each([true, false])('radialPlan and gridPlan, and what is seen always, causal %s', async (causal) => {
  for (const always of ALWAYS) {
    const size = { queryTile: 16, keyBlock: 8, causal };
    for (const make of [
      (more: object) => radialPlan({ ...size, frames: 40, tokensPerFrame: 5, firstFrame: false, ...more }),
      (more: object) => gridPlan({ ...size, shape: [20, 16], box: [5, 16], ...more }),
    ]) {
      using plan = make({ always });
      using bare = make({});
      const { queries } = bare;
      const seen = await bare.toDense().read();
      // Blocks that the rule lists, and those of these keys.
      await expectBlocks(plan, (p, j) => seen[p * queries + j] === 1 || isAlways(always, causal, p, j));
    }
  }
});

it('radialPlan takes time by what it lists, not by pairs of frames', () => {
  const spent = (frames: number) => {
    const before = process.cpuUsage();
    using _ = radialPlan({ frames, tokensPerFrame: 8, queryTile: 128, keyBlock: 8 });
    return process.cpuUsage(before).user;
  };
  spent(1000);
  const least = (frames: number) => Math.min(...Array.from({ length: 3 }, () => spent(frames)));
  // With 4 times as many frames 4.6 times as many blocks are listed, of 16 times as many pairs.
  expect(least(8000) / least(2000)).toBeLessThan(9);
});

it('gridPlan takes time for boxes of tokens, not for each token', () => {
  const before = process.cpuUsage();
  using _ = gridPlan({ shape: [128, 128, 128], box: [1, 1, 1], reach: [1, 1, 127], queryTile: 128, keyBlock: 128 });
  expect(process.cpuUsage(before).user / 1e6).toBeLessThan(0.5); // seconds
});

describe('gridPlan', () => {
  it.each([
    { shape: [6, 8, 10], box: [2, 3, 4], reach: [1, 0, 1] },
    { shape: [20, 16], box: [5, 16] },
    { shape: [300], box: [32], reach: [1] },
    { shape: [4, 20, 20], box: [4, 20, 1] }, // 80 ranges for each row
    { shape: [30, 3, 2], box: [7, 2, 1], reach: [0, 0, 1] }, // several planes in a row
    { shape: [9, 13, 5], box: [2, 3, 5], reach: [1, 1, 0] },
    { shape: [9, 13, 5], box: [1, 6, 2], causal: true },
  ])('%j', async ({ shape, box, reach = [0, 0, 0], causal = false }) => {
    using plan = gridPlan({ shape, box, reach: reach.slice(0, shape.length), causal, queryTile: 16, keyBlock: 2 });
    const boxOf = (token: number) => {
      const at: number[] = [];
      for (let a = shape.length - 1; a >= 0; a--) {
        at[a] = Math.floor((token % shape[a]!) / box[a]!);
        token = Math.floor(token / shape[a]!);
      }
      return at;
    };
    await expectBlocks(plan, (p, j) => {
      const [x, y] = [boxOf(p), boxOf(j)];
      return x.every((at, a) => Math.abs(at - y[a]!) <= reach[a]!);
    });
  });

  it('is a neighborhood of whole strides where boxes are rows', async () => {
    const shape = [12, 8];
    using plan = gridPlan({ shape, box: [2, 8], queryTile: 16, keyBlock: 16 });
    using q = Tensor.randn([1, ...shape, 2, 16], { seed: 1 });
    const a = await attention(q, q, q, { mask: plan }).out.read();
    const b = await attention(q, q, q, { mask: neighborhood({ window: [2, 8], stride: [2, 8] }) }).out.read();
    expect(Math.max(...Array.from(a as Float32Array, (x, i) => Math.abs(x - Number(b[i]))))).toBeLessThan(2e-6);
  });
});

it.each<[string, RegExp, () => unknown]>([
  ['no window', /streamingPlan: window is undefined/, () => streamingPlan({ queries: 4, keys: 4 } as never)],
  [
    'numbers for other heads',
    /streamingPlan: window has 2 numbers; give one, or one per head: 3/,
    () => streamingPlan({ queries: 4, keys: 4, heads: 3, window: [1, 2] }),
  ],
  [
    'no sink of a head',
    /streamingPlan: sink\[1\] is -1/,
    () => streamingPlan({ queries: 4, keys: 4, heads: 2, sink: [1, -1], window: 1 }),
  ],
  [
    'lists of a dilated plan',
    /dilatedPlan: window is \[1\]/,
    () => dilatedPlan({ queries: 4, keys: 4, window: [1] as never }),
  ],
  [
    'half a key always',
    /radialPlan: always.window is 0.5/,
    () => radialPlan({ frames: 2, tokensPerFrame: 3, always: { window: 0.5 } }),
  ],
  [
    'more sinks',
    /gridPlan: always: option 'sinks'/,
    () => gridPlan({ shape: [4], box: [2], always: { sinks: 1 } as never }),
  ],
  [
    'no keys always',
    /verticalSlashPlan: always.sink is 'x'/,
    () => verticalSlashPlan({ queries: 4, keys: 4, vertical: [], slash: [], always: { sink: 'x' as never } }),
  ],
  [
    'queries of a video',
    /radialPlan: option 'queries'/,
    () => radialPlan({ frames: 2, tokensPerFrame: 3, queries: 6 } as never),
  ],
  [
    'lists for other heads',
    /vertical has 2 lists/,
    () => verticalSlashPlan({ queries: 4, keys: 4, heads: 3, vertical: [[1], [2]], slash: [] }),
  ],
  [
    'a negative distance',
    /slash\[0\] is -1/,
    () => verticalSlashPlan({ queries: 4, keys: 4, vertical: [], slash: [-1] }),
  ],
  ['axes', /shape has 2 axes, box 1/, () => gridPlan({ shape: [4, 4], box: [2] })],
  [
    'too long a video',
    /radialPlan: frames 65536 x tokensPerFrame 65536 makes 4294967296 tokens; at most 1073741824/,
    () => radialPlan({ frames: 65536, tokensPerFrame: 65536 }),
  ],
  [
    'too large a grid',
    /gridPlan: shape \[1048576, 2, 1024\] makes 2147483648 tokens/,
    () => gridPlan({ shape: [1048576, 2, 1024], box: [1, 1, 1] }),
  ],
  [
    'no lines',
    /vertical is 3; it must be a list/,
    () => verticalSlashPlan({ queries: 4, keys: 4, vertical: 3 } as never),
  ],
])('refuses %s', (_, message, call) => {
  expect(call).toThrow(expect.objectContaining({ code: 'ERR_OPTION', message: expect.stringMatching(message) }));
});
