// What is measured: batch 1, 8 heads, as many key heads.

import { cpus } from 'node:os';
import { type MaskSpec, seesOnGrid } from '../test/support/oracle';
import type { Pattern } from './masks/patterns';
import { secondCacheBytes } from './peak';

export const HEADS = 8;

/** How many attentions a step of the decoding of a model has. */
export const LAYERS = 32;

export type Kind =
  | 'dense'
  | 'causal'
  | 'decode'
  | 'decode layers'
  | 'window'
  | 'neighborhood'
  | 'neighborhood2d'
  | 'strided2d';

export interface Case {
  name: string;
  kind: string;
  dtype: 'float32' | 'bfloat16';
  /** Token axes of the queries and of the keys. */
  queries: number[];
  keys: number[];
  headDim: number;
  mask?: MaskSpec;
  /** Instead of a mask: what is seen, and the calls that compute it. */
  pattern?: Pattern;
  /** With a mask or a pattern: what it is compared with. Else everything is seen. */
  dense?: 'causal';
  /** Of cases that differ by their length alone: where the mask begins to pay is looked for, in time and in memory. */
  byLength?: boolean;
  /** So many attentions with queries, keys and values of their own, enqueued in one go and awaited once. Absent: one. */
  layers?: number;
}

const SIZES = [512, 1024, 2048, 4096];
const HEAD_DIMS = [64, 128];
const DTYPES = ['float32', 'bfloat16'] as const;

const along = (window: number, stride = 1) => ({ window, stride, dilation: 1, causal: false, wrap: false });

export function makeCase(kind: Kind, dtype: Case['dtype'], size: number, headDim: number): Case {
  const grid = kind === 'neighborhood2d' || kind === 'strided2d';
  const side = Math.sqrt(size);
  const keys = grid ? [side, side] : [size];
  const masks: { [kind in Kind]?: MaskSpec } = {
    causal: { left: -1, right: 0 },
    window: { left: size / 8 - 1, right: 0 },
    neighborhood: { heads: [[along(size / 8)]] },
    neighborhood2d: { heads: [[along(side / 4), along(side / 4)]] },
    strided2d: { heads: [[along(side / 4, side / 8), along(side / 4, side / 8)]] },
  };
  const name = `${dtype} ${kind === 'decode layers' ? `decode x${LAYERS}` : kind} S=${keys.join('x')} D=${headDim}`;
  const queries = kind.startsWith('decode') ? [1] : keys;
  return {
    name,
    kind,
    dtype,
    queries,
    keys,
    headDim,
    mask: masks[kind],
    layers: kind === 'decode layers' ? LAYERS : undefined,
  };
}

/** Every case, or (`quick`) one of each kind. */
export function allCases(quick: boolean): Case[] {
  if (quick) {
    return [
      makeCase('dense', 'float32', 1024, 64),
      makeCase('causal', 'float32', 1024, 64),
      makeCase('decode', 'float32', 1024, 64),
      makeCase('decode layers', 'float32', 1024, 64),
      makeCase('dense', 'bfloat16', 1024, 64),
      makeCase('causal', 'bfloat16', 1024, 64),
      makeCase('window', 'float32', 1024, 64),
      makeCase('neighborhood', 'float32', 1024, 64),
      makeCase('strided2d', 'float32', 1024, 64),
    ];
  }
  const cases: Case[] = [];
  for (const kind of ['dense', 'causal', 'decode', 'window', 'neighborhood', 'neighborhood2d', 'strided2d'] as const) {
    for (const dtype of DTYPES) {
      for (const headDim of HEAD_DIMS) {
        const sizes = kind.endsWith('2d') ? [4096] : SIZES;
        for (const size of sizes) cases.push(makeCase(kind, dtype, size, headDim));
      }
    }
  }
  for (const dtype of DTYPES) {
    for (const size of SIZES) cases.push(makeCase('decode layers', dtype, size, 64));
    cases.push(makeCase('decode layers', dtype, SIZES.at(-1)!, 128));
  }
  return cases;
}

const CAUSAL: MaskSpec = { left: -1, right: 0 };

/**
 * What this library computes beside a case with a mask or a pattern, by the names of the contestants: the same without it,
 * and, where a causal mask would show all that it shows, with a causal mask, which a program would use in its place.
 */
export function comparisonsOf(test: Case): { [contestant: string]: Case } {
  const { mask, pattern, kind, dense } = test;
  if (!pattern && (!mask || kind === 'causal')) return {};
  const whole = { ...test, pattern: undefined, mask: undefined };
  const causal = { ...whole, mask: CAUSAL };
  if (dense === 'causal') return { dense: causal };
  const looksBack = pattern ? pattern.causal : mask && 'right' in mask && mask.right === 0;
  return looksBack ? { dense: whole, causal } : { dense: whole };
}

export const count = (axes: readonly number[]): number => axes.reduce((product, extent) => product * extent, 1);

/** Whether the flat query i sees the flat key j. */
export function sees({ queries, keys, mask, pattern }: Case, i: number, j: number): boolean {
  if (pattern) return pattern.ranges(i).some(([from, to]) => j >= from && j < to);
  if (!mask) return true;
  if ('heads' in mask) return seesOnGrid(i, j, keys, mask.heads[0]!);
  const position = i + count(keys) - count(queries);
  return (mask.left === -1 || j >= position - mask.left) && (mask.right === -1 || j <= position + mask.right);
}

/**
 * A tile of the share below: so many tokens along one axis, or along each of two. It is the block of queries that AVX-512
 * holds in registers, by as many keys; what executors in fact skip may be finer (16 by 16) or coarser.
 */
const TILE = { 1: 64, 2: 8 } as const;

export interface Share {
  /** Of all pairs of a query and a key, those that the mask lets see each other. */
  visible: number;
  /** Of all pairs of a query tile and a key tile, those with a visible pair of tokens. */
  tiles: number;
}

/** Masks are products over the axes, and so are their shares. */
export function shareOf({ keys, queries, mask, pattern }: Case): Share {
  const tile = TILE[keys.length as 1 | 2];
  const share = { visible: 1, tiles: 1 };
  if (pattern) return shareOfRanges(count(queries), count(keys), pattern.ranges, tile);
  if (!mask) return share;
  keys.forEach((extent, a) => {
    const length = queries[a]!;
    const along: Case['mask'] = 'heads' in mask ? { heads: [[mask.heads[0]![a]!]] } : mask;
    const axis = { queries: [length], keys: [extent], mask: along } as Case;
    const tiles = new Set<number>();
    let visible = 0;
    for (let i = 0; i < length; i++) {
      for (let j = 0; j < extent; j++) {
        if (!sees(axis, i, j)) continue;
        visible++;
        tiles.add(Math.floor(i / tile) * extent + Math.floor(j / tile));
      }
    }
    share.visible *= visible / (length * extent);
    share.tiles *= tiles.size / (Math.ceil(length / tile) * Math.ceil(extent / tile));
  });
  return share;
}

function shareOfRanges(queries: number, keys: number, ranges: Pattern['ranges'], tile: number): Share {
  const tiles = new Set<number>();
  let visible = 0;
  for (let i = 0; i < queries; i++) {
    for (const [from, to] of ranges(i)) {
      visible += to - from;
      if (to <= from) continue;
      for (let t = Math.floor(from / tile); t <= Math.floor((to - 1) / tile); t++) {
        tiles.add(Math.floor(i / tile) * keys + t);
      }
    }
  }
  const all = Math.ceil(queries / tile) * Math.ceil(keys / tile);
  return { visible: visible / (queries * keys), tiles: tiles.size / all };
}

/** Pairs of a query and a key that see each other, of all heads and layers. */
export function pairsOf({ queries, keys, layers = 1 }: Case, { visible }: Share): number {
  return layers * HEADS * count(queries) * count(keys) * visible;
}

/** Floating-point operations: two products, a multiplication and an addition each, for every visible pair. */
export const flopsOf = (test: Case, share: Share): number => 4 * pairsOf(test, share) * test.headDim;

/** Of q, k, v and the output with so many keys. */
function tensorBytes({ queries, headDim, dtype, layers = 1 }: Case, keys: number): number {
  const bytes = dtype === 'float32' ? 4 : 2;
  return layers * 2 * (count(queries) + keys) * HEADS * headDim * bytes;
}

/** The fewest bytes that have to be moved: every input that any query sees read once, the output written once. */
export function bytesOf(test: Case): number {
  const { queries, keys, mask } = test;
  const [all, first] = [count(keys), count(keys) - count(queries)];
  // Of windows over more keys than queries, the first keys may be seen by none.
  const unseen = mask && 'left' in mask && mask.left !== -1 ? Math.max(0, first - mask.left) : 0;
  return tensorBytes(test, all - unseen);
}

/**
 * What inputs take in turn hold together at least: more than the caches of processors by themselves, so that a run does not
 * find its own there. Of a last-level cache that many machines share, nobody knows how much is whose.
 */
const ROTATED_BYTES = Math.max(64 * 2 ** 20, Math.min(512 * 2 ** 20, 4 * secondCacheBytes() * cpus().length));

/** How many sets of so many bytes take turns; 1 where those of one run are as large. */
export const setsOfBytes = (bytes: number): number => Math.ceil(ROTATED_BYTES / bytes);

/** How many sets of inputs take turns. */
export const setsOf = (test: Case): number => setsOfBytes(tensorBytes(test, count(test.keys)));
