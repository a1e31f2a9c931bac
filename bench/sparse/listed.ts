// What attention over a plan takes by the share of the blocks that it lists, up to all of them: beside dense attention.

import { attention, SparsePlan, Stream } from 'node-attention';
import { uniform } from '../../test/support/numbers';
import { floorOf } from '../floor';
import { type Fault, makeRow, OWN, type Peak, type Row } from '../format';
import { watchLoad } from '../load';
import { inTurn, interleave, type Measurement, type Plan, type Timed } from '../measure';
import { medianRatio } from '../statistics';
import { densityText, type ListedCase, phaseName } from './cases';
import { disposeData, faultOfLastRow, faultsOfRow, HEADS, KV_HEADS, makeData } from './data';
import { HEAD_DIM } from './heads';
import type { Phase } from './inputs';

const TILE = 64;
const BLOCK = 64;

interface List {
  /** Of the blocks, those that are listed. */
  share: number;
  /** Keys of a block. */
  block: number;
  /** Each query has blocks of its own, not each tile. */
  byQuery: boolean;
  name: string;
}

function listOf(share: number, { block = BLOCK, byQuery = false } = {}): List {
  const name = densityText(share) + (block === BLOCK ? '' : ` in blocks of ${block}`) + (byQuery ? ' by query' : '');
  return { share, block, byQuery, name };
}

const LISTS: { [phase in Phase]: readonly List[] } = {
  decode: [listOf(1)],
  prefill: [
    ...[0.25, 0.5, 0.75, 0.8, 0.9, 1].map((share) => listOf(share)),
    ...[16, 128].map((block) => listOf(1, { block })),
    ...[0.05, 0.25].map((share) => listOf(share, { byQuery: true })),
  ],
};

/** Those of a case, and dense attention. */
export const listedContestants = ({ phase }: ListedCase): number => LISTS[phase].length + 1;

export interface ListedOutcome extends Measurement {
  test: ListedCase;
  sets: number;
  /** In the order of `samples`: dense attention, and each share by its text. */
  contestants: string[];
  faults: Fault[];
}

/** In whole blocks. */
function shareOf({ share, block }: List, keys: number): number {
  const blocks = keys / block;
  return Math.max(1, Math.round(share * blocks)) / blocks;
}

/** For each tile of queries, or each query, that share of the blocks, at random, with the same number in each. */
function planOf(list: List, { queries, keys }: ListedCase): SparsePlan {
  const { byQuery, block: size } = list;
  const share = shareOf(list, keys);
  const random = uniform(31);
  const blocks = keys / size;
  const geometry = { queries, keys, queryTile: TILE, keyBlock: size };
  const lists = Array.from({ length: byQuery ? queries : Math.ceil(queries / TILE) }, () => {
    const order = Array.from({ length: blocks }, (_, block) => ({ block, key: random() })).sort(
      (a, b) => a.key - b.key,
    );
    const listed = order.slice(0, share * blocks).map(({ block }) => block);
    return listed.sort((a, b) => a - b);
  });
  if (!byQuery) return SparsePlan.fromBlocks(lists, geometry);
  const sets = lists.map((list) => new Set(list));
  return SparsePlan.fromPredicate((query, key) => sets[query]!.has(Math.floor(key / size)), geometry);
}

export async function measureListed(test: ListedCase, plan: Plan): Promise<ListedOutcome> {
  const { phase, queries, keys } = test;
  using stream = new Stream();
  const data = await makeData(phase, queries, keys, 1);
  const { sets, q, out, held, judged } = data;
  const plans: SparsePlan[] = [];
  const contestants: [string, Timed][] = [];
  const faults: Fault[] = [];
  for (const list of [undefined, ...LISTS[phase]]) {
    const mask = list && planOf(list, test);
    if (mask) plans.push(mask);
    const name = list?.name ?? 'dense';
    const run = inTurn(sets, async (set) => {
      const { cache, k, v } = held[set % held.length]!;
      const options = { mask, out: out[set]!, stream };
      const { lse } = cache ? attention(q[set]!, cache, options) : attention(q[set]!, k, v, options);
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

const LISTED = 'blocks listed';
const dataOf = ({ phase }: ListedCase) => (phase === 'decode' ? `${LISTED}, ${phaseName(phase)}` : LISTED);

/** Whether a row is of a plan that lists every block. */
export const listsAll = ({ case: { data, mask } }: Row): boolean =>
  data?.startsWith(LISTED) === true && mask.startsWith(`${densityText(1)} `);

export function listedRows(
  { test, sets, contestants, samples, faults, disturbed, repeated }: ListedOutcome,
  peaks: readonly Peak[],
  set: string,
  threads: number,
): Row[] {
  const samplesOf = (name: string): number[] | undefined => samples[contestants.indexOf(name)];
  const dense = samplesOf('dense');
  const { phase, queries, keys } = test;
  return LISTS[phase].map((list, n) => {
    const { name } = list;
    const share = shareOf(list, keys);
    const own = samplesOf(name);
    const pairs = share * HEADS * queries * keys;
    const flops = 4 * HEAD_DIM * pairs;
    const bytes = 2 * HEAD_DIM * 2 * (queries * HEADS + keys * KV_HEADS);
    return makeRow({
      name: `${test.name} ${name}`,
      case: {
        mask: `${name} listed`,
        dtype: 'bfloat16',
        tokens: keys,
        headDim: HEAD_DIM,
        threads,
        data: dataOf(test),
      },
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
