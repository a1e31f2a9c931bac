// What attention over a plan takes by the share of the blocks that it lists, up to all of them: beside dense attention.

import { attention, SparsePlan, Stream } from 'node-attention';
import { uniform } from '../../test/support/numbers';
import { floorOf } from '../floor';
import { type Fault, makeRow, OWN, type Peak, type Row } from '../format';
import { watchLoad } from '../load';
import { inTurn, interleave, type Measurement, type Plan, type Timed } from '../measure';
import { medianRatio } from '../statistics';
import { densityText, type ListedCase } from './cases';
import { disposeData, faultOfLastRow, faultsOfRow, HEADS, KV_HEADS, makeData } from './data';
import { HEAD_DIM } from './heads';

const BLOCK = 64;
/** By query: each of them has blocks of its own, not each tile. */
const LISTS = [
  ...[0.25, 0.5, 0.75, 0.8, 0.9, 1].map((share) => ({ share, byQuery: false })),
  ...[0.05, 0.25].map((share) => ({ share, byQuery: true })),
].map((list) => ({ ...list, name: densityText(list.share) + (list.byQuery ? ' by query' : '') }));

export interface ListedOutcome extends Measurement {
  test: ListedCase;
  sets: number;
  /** In the order of `samples`: dense attention, and each share by its text. */
  contestants: string[];
  faults: Fault[];
}

type List = (typeof LISTS)[number];

/** In whole blocks. */
function shareOf({ share }: List, tokens: number): number {
  const blocks = tokens / BLOCK;
  return Math.max(1, Math.round(share * blocks)) / blocks;
}

/** For each tile of queries, or each query, that share of the blocks, at random, with the same number in each. */
function planOf(list: List, tokens: number): SparsePlan {
  const { byQuery } = list;
  const share = shareOf(list, tokens);
  const random = uniform(31);
  const blocks = tokens / BLOCK;
  const geometry = { queries: tokens, keys: tokens, queryTile: BLOCK, keyBlock: BLOCK };
  const lists = Array.from({ length: byQuery ? tokens : blocks }, () => {
    const order = Array.from({ length: blocks }, (_, block) => ({ block, key: random() })).sort(
      (a, b) => a.key - b.key,
    );
    const listed = order.slice(0, share * blocks).map(({ block }) => block);
    return listed.sort((a, b) => a - b);
  });
  if (!byQuery) return SparsePlan.fromBlocks(lists, geometry);
  const sets = lists.map((list) => new Set(list));
  return SparsePlan.fromPredicate((query, key) => sets[query]!.has(Math.floor(key / BLOCK)), geometry);
}

export async function measureListed(test: ListedCase, plan: Plan): Promise<ListedOutcome> {
  const { tokens } = test;
  using stream = new Stream();
  const data = await makeData('prefill', tokens, tokens, 1);
  const { sets, q, out, held, judged } = data;
  const plans: SparsePlan[] = [];
  const contestants: [string, Timed][] = [];
  const faults: Fault[] = [];
  for (const list of [undefined, ...LISTS]) {
    const mask = list && planOf(list, tokens);
    if (mask) plans.push(mask);
    const name = list?.name ?? 'dense';
    const run = inTurn(sets, async (set) => {
      const { k, v } = held[set]!;
      const { lse } = attention(q[set]!, k, v, { mask, out: out[set]!, stream });
      await stream.synchronize();
      lse.dispose();
    });
    await run(sets);
    let fault: string | undefined;
    for (let set = 0; set < sets; set++) fault ??= await faultOfLastRow(q[set]!, out[set]!, judged, mask);
    if (fault === undefined) contestants.push([name, { run }]);
    else faults.push({ contestant: name, fault });
  }
  const measurement = await interleave(
    contestants.map(([, contestant]) => contestant),
    plan,
    watchLoad(),
  );
  for (const each of plans) each.dispose();
  disposeData(data);
  return { test, sets, contestants: contestants.map(([name]) => name), faults, ...measurement };
}

/** Time over that of dense attention times the share of the blocks. */
export const OVER_SHARE = 'over share of dense';

export function listedRows(
  { test, sets, contestants, samples, faults, disturbed, repeated }: ListedOutcome,
  peaks: readonly Peak[],
  set: string,
  threads: number,
): Row[] {
  const samplesOf = (name: string): number[] | undefined => samples[contestants.indexOf(name)];
  const dense = samplesOf('dense');
  const { tokens } = test;
  return LISTS.map((list, n) => {
    const { name } = list;
    const share = shareOf(list, tokens);
    const own = samplesOf(name);
    const pairs = share * HEADS * tokens ** 2;
    const flops = 4 * HEAD_DIM * pairs;
    const bytes = 2 * HEAD_DIM * 2 * tokens * (HEADS + KV_HEADS);
    return makeRow({
      name: `${test.name} ${name}`,
      case: { mask: `${name} listed`, dtype: 'bfloat16', tokens, headDim: HEAD_DIM, threads, data: 'blocks listed' },
      samples: { ...(own ? { [OWN]: own } : {}), ...(dense ? { dense } : {}) },
      disturbed,
      repeated,
      sets,
      flops,
      bytes,
      floor: floorOf(
        { flops, dtype: 'bfloat16', exponentials: pairs, bytes, footprint: sets * bytes },
        { peaks, instructionSet: set, threads },
      ),
      faults: faultsOfRow(faults, name, n === 0),
      figures: own && dense ? { [OVER_SHARE]: medianRatio(own, dense) / share } : {},
    });
  });
}
