// Needles: how often selectors find a hump of keys in noise, over its width. What is judged is the choice alone; no
// output is computed.

import { Tensor } from 'node-attention';
import { uniform } from '../../test/support/numbers';
import { makeRow, type Row } from '../format';
import { budgetOf, densityText, type NeedleCase, phaseName } from './cases';
import { FOUND_RATE, NEEDLE_WIDTH, SCORED, SHOWN } from './headings';
import { basis, filled, HEAD_DIM, noiseFrom, normals } from './heads';
import { densityIn } from './judged';
import { ALWAYS, selectorOf } from './selectors';

/** In one context, each for a query of its own. */
export const NEEDLES = 64;

/** The score of the middle of a needle, in standard deviations of the scores of other keys. */
export const HEIGHT = 8;

/** Those that choose by themselves, and the window. What is not chosen may be estimated, but that changes no choice. */
const SEEKERS = ['hip', 'hip1', 'pages', 'pooled 16', 'pooled 64', 'streaming'];

export interface Needles {
  /** [NEEDLES][HEAD_DIM]: the direction of each needle, of length 1 and orthogonal to all others. */
  q: Float32Array;
  /** [keys][HEAD_DIM] */
  k: Float32Array;
  /** The keys in the middle of the needles. */
  middles: number[];
}

/** A needle is as high as half of `HEIGHT` at half its width from the middle. Noise and places do not depend on it. */
export function needlesIn(keys: number, width: number): Needles {
  const random = uniform(7);
  const directions = basis(normals(random), HEAD_DIM).slice(0, NEEDLES);
  const k = filled(keys * HEAD_DIM, noiseFrom(random));
  // What every plan shows is no find.
  const open = keys - ALWAYS.sink - ALWAYS.window;
  const middles = directions.map(() => ALWAYS.sink + Math.floor(random() * open));
  for (const [n, direction] of directions.entries()) {
    const middle = middles[n]!;
    for (let t = Math.max(0, middle - 2 * width); t <= Math.min(keys - 1, middle + 2 * width); t++) {
      const height = HEIGHT * 2 ** -(((2 * (t - middle)) / width) ** 2);
      for (let c = 0; c < HEAD_DIM; c++) k[t * HEAD_DIM + c]! += height * direction[c]!;
    }
  }
  const q = new Float32Array(NEEDLES * HEAD_DIM);
  for (const [n, direction] of directions.entries()) q.set(direction, n * HEAD_DIM);
  return { q, k, middles };
}

/** What a selector finds of needles of one width. */
export interface Found {
  test: NeedleCase;
  selector: string;
  /** Of the needles, those whose middle is seen. */
  rate: number;
  /** Of the keys, those that are seen: rounded up to blocks. */
  shown: number;
  /** Vectors that were scored to select, over the keys. */
  scored: number;
}

/** All selectors on the same needles. Queries are heads, as in the quality of decoding: each has its own choice. */
export async function findNeedles(test: NeedleCase): Promise<Found[]> {
  const { keys, density, width } = test;
  const needles = needlesIn(keys, width);
  using q = Tensor.from(needles.q, [1, 1, NEEDLES, HEAD_DIM]);
  using k = Tensor.from(needles.k, [1, keys, 1, HEAD_DIM]);
  const budget = budgetOf(keys, density);
  const found: Found[] = [];
  for (const name of SEEKERS) {
    const selector = selectorOf(name);
    using plan = selector.plan({ q, k, keys, queries: 1, budget, share: 'none' });
    using dense = plan.toDense();
    const seen = (await dense.read()) as Uint8Array;
    const patterns = seen.length / keys; // a rule has one for all heads
    const hits = needles.middles.filter((middle, n) => seen[(n % patterns) * keys + middle] === 1);
    found.push({
      test,
      selector: name,
      rate: hits.length / NEEDLES,
      shown: await plan.density(),
      scored: selector.scored(keys, budget) / keys,
    });
  }
  return found;
}

export function needleRow({ test, selector, rate, shown, scored }: Found): Row {
  const { name, keys, density, width } = test;
  return makeRow({
    name: `${name} ${selector} ${densityText(density)}`,
    case: {
      mask: selector,
      dtype: 'float32',
      tokens: keys,
      headDim: HEAD_DIM,
      data: `needles, ${phaseName('decode')}, ${keys} keys, ${densityText(density)}`,
    },
    samples: {},
    disturbed: 0,
    repeated: 0,
    figures: { [NEEDLE_WIDTH]: width, [FOUND_RATE]: rate, [SHOWN]: shown, [SCORED]: scored },
  });
}

/** What a row says that `needleRow` made; undefined: it is another. */
export function foundIn(row: Row): Found | undefined {
  const { name, figures = {} } = row;
  if (!(NEEDLE_WIDTH in figures)) return undefined;
  const { tokens, mask } = row.case;
  const density = densityIn(row);
  return {
    test: {
      name: name.slice(0, name.lastIndexOf(` ${mask} `)),
      keys: tokens,
      density,
      width: figures[NEEDLE_WIDTH]!,
    },
    selector: mask,
    rate: figures[FOUND_RATE]!,
    shown: figures[SHOWN]!,
    scored: figures[SCORED]!,
  };
}
