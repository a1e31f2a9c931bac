// The words of plans, which nothing public gives or takes: from dist/, which is not carried to a device.

import { createRequire } from 'node:module';
import { type SparsePlan, Tensor } from 'node-attention';

const inside = createRequire(__filename);

/** Of each row the blocks that count by means, as [block, level], in the order in which they are listed. */
export async function meansOf(plan: SparsePlan): Promise<[block: number, level: number][][]> {
  if (plan.levels.length === 0) return [];
  const { native } = inside('../../dist/native.js');
  const { nativeMask } = inside('../../dist/masks.js');
  const { makeTensor } = inside('../../dist/tensor.js');
  using here = plan.to('cpu');
  const words = native.planWords(nativeMask(here, 'plan').plan);
  using first = makeTensor(words.offsets) as Tensor;
  using all = makeTensor(words.entries) as Tensor;
  const offsets = Array.from(await first.read(), Number);
  const entries = Array.from(await all.read(), Number);
  return offsets.slice(1).map((end, row) =>
    entries
      .slice(offsets[row], end)
      .map((word): [number, number] => [word & 0xffffff, (word >> 24) & 7])
      .filter(([, level]) => level > 0),
  );
}

/** A plan of one batch entry and pattern of words that may be wrong; `levels` is a mask of bits. */
export function planOfWords(
  offsets: number[],
  entries: number[],
  g: { queries: number; keys: number; queryTile: number; keyBlock: number; causal: boolean; levels: number },
): SparsePlan {
  const { native } = inside('../../dist/native.js');
  const { tensorHandle } = inside('../../dist/tensor.js');
  const { makePlan } = inside('../../dist/sparse_plan.js');
  const handle = (list: number[]) => tensorHandle(Tensor.from(Int32Array.from(list), [list.length]), 'words');
  const geometry = [1, 1, g.queries, g.keys, g.queryTile, g.keyBlock, Number(g.causal), 0, g.levels, 0];
  return makePlan(native.planOver(geometry, { offsets: handle(offsets), entries: handle(entries) }), 1);
}
