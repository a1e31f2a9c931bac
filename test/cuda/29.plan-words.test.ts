// Words that only the addon accepts as a plan: the CPU and the device make the same of them, and touch nothing else.
// not on a device: it reaches into dist/, which is not carried there
import './support/device'; // before node-attention
import { createRequire } from 'node:module';
import { attention, type SparsePlan, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { uniform } from '../support/numbers';
import { missing, schedule, schedules, title } from './support/device';

const inside = createRequire(__filename);
const { native } = inside('../../dist/native.js');
const { tensorHandle } = inside('../../dist/tensor.js');
const { makePlan } = inside('../../dist/sparse_plan.js');

const [queries, keys, queryTile, keyBlock] = [70, 100, 32, 16];
const rows = 3;
const LEVELS = 2 | 8; // means of 2 and of 8 keys

/** Without offsets all rows have as many words. */
function planOf(offsets: number[] | undefined, entries: number[], causal: boolean, levels = LEVELS): SparsePlan {
  const words = (list: number[], shape = [list.length]) => Tensor.from(Int32Array.from(list), shape);
  const bits = uniform(3);
  const table = Array.from({ length: 2 * keyBlock }, () => bits() * 2 ** 32);
  const handles = {
    offsets: offsets && tensorHandle(words(offsets), 'offsets'),
    entries: tensorHandle(words(entries), 'entries'),
    bitmaps: tensorHandle(words(table, [2, keyBlock, 1]), 'bitmaps'),
  };
  return makePlan(
    native.planOver([1, 1, queries, keys, queryTile, keyBlock, Number(causal), 0, levels, 0], handles),
    1,
  );
}

const BITMAP = 2 << 27;
const PREDICATE = 1 << 27;
const TAIL = 3 << 27;
const NO_WORD = -3;

describe.skipIf(missing)(title('words of plans'), () => {
  const random = uniform(17);
  const some = (n: number) => Math.floor(random() * n);
  const chaos = (n: number) =>
    Array.from(
      { length: n },
      () =>
        [some(7), some(12), some(7) | (some(4) << 27), some(7) | (some(32) << 24), BITMAP | some(7), some(2 ** 32)][
          some(6)
        ]!,
    );
  it.each<[string, number[] | undefined, number[]]>([
    ['blocks that there are not', [0, 2, 4, 5], [0, 7, 1, 2 ** 24 - 1, 6 | TAIL]],
    ['bitmaps that there are not', [0, 3, 5, 7], [BITMAP, 2, 1, 3, BITMAP, BITMAP | 1, 1]],
    ['an index that looks like a bitmap', [0, 4, 4, 6], [BITMAP, BITMAP | 1, 1, 2, BITMAP | 2, 0]],
    [
      'full entries behind others, and kinds that are wrong',
      [0, 4, 6, 10],
      [6, 0, TAIL | 1, 2, 5, 6, BITMAP | 1, 1, 2, 3],
    ],
    ['spare bits', [0, 2, 3, 4], [1 << 29, 1, 1 << 31, 0]],
    [
      'levels that there are and others, of any kind and block, beside bitmaps',
      [0, 7, 15, 19],
      [
        ...[1 << 24, 1 | (2 << 24), 2 | (3 << 24), 5 | (1 << 24) | TAIL, 6 | (1 << 24) | TAIL, 3, 4 | (7 << 24)],
        ...[BITMAP | 1, 1 | (1 << 24), BITMAP | (1 << 24), 0, 2 | (1 << 24) | PREDICATE, BITMAP, 0, 3 | (3 << 24)],
        ...[3 | (1 << 24), 4 | (3 << 24) | (1 << 29), 4, 2 ** 24 - 1 + (1 << 24)],
      ],
    ],
    [
      'more than a warp reads at once',
      [0, 40, 73, 120],
      Array.from({ length: 60 }, (_, n) => [BITMAP | (n % 7), n % 3]).flat(),
    ],
    ['chance', [0, 30, 77, 130], chaos(130)],
    ['chance, again', [3, 3, 100, 129], chaos(129)],
    ['even rows', undefined, [0, 2, 6 | TAIL, 1, NO_WORD, NO_WORD, NO_WORD, NO_WORD, NO_WORD]],
    ['even rows with words behind their end', undefined, [0, NO_WORD, 2, NO_WORD, BITMAP | 1, 0, NO_WORD, NO_WORD, 1]],
    ['even rows of chance', undefined, chaos(3 * 45)],
    ['even rows of nothing', undefined, []],
  ])('%s', async (_, offsets, entries) => {
    expect(offsets?.length ?? rows + 1).toBe(rows + 1);
    const [q, k] = [queries, keys].map((n, seed) => Tensor.randn([1, n, 1, 16], { seed }));
    const [qd, kd] = [q!.to('cuda'), k!.to('cuda')];
    for (const causal of [false, true]) {
      using plan = planOf(offsets, entries, causal);
      using moved = plan.to('cuda');
      const here = attention(q!, k!, k!, { mask: plan });
      for (const one of schedules.slice(0, 2)) {
        schedule(one);
        const there = attention(qd, kd, kd, { mask: moved });
        for (const of of ['lse', 'out'] as const) {
          const [got, want] = [await there[of].read(), await here[of].read()];
          for (let i = 0; i < got.length; i++) {
            const [x, y] = [Number(got[i]), Number(want[i])];
            if (!Object.is(x, y)) expect(Math.abs(x - y), `${of}[${i}]: ${x}, not ${y}`).toBeLessThan(1e-4);
          }
        }
      }
    }
  });

  it('even rows go with other plans, bitmaps too', async () => {
    const entries = [0, BITMAP | 2, 1, NO_WORD, 3, 4, 5, TAIL | 6, BITMAP | 1, 0, BITMAP | 4, 0];
    using plan = planOf(undefined, entries, false, 0);
    using other = planOf([0, 2, 5, 6], [2, TAIL | 6, 4, BITMAP | 5, 1, 4], false, 0);
    await plan.validate();
    await other.validate();
    using moved = plan.to('cuda');
    using beside = other.to('cuda');
    for (const way of ['union', 'intersect'] as const) {
      using here = plan[way](other);
      using there = moved[way](beside);
      using back = there.to('cpu');
      expect(await back.toDense().read()).toEqual(await here.toDense().read());
    }
  });
});
