// Attention from its definition, one score at a time, in float64 or with every step rounded. Shares nothing with the
// library: the tests compare the two.

import type { Values } from './numbers';

/** One token axis of a neighborhood. */
export interface Axis {
  window: number; // -1: the extent
  stride: number;
  dilation: number;
  causal: boolean;
  wrap: boolean;
}

/** A sparse plan: lists of blocks of keys for tiles of queries, and perhaps holes in them. */
export interface PlanSpec {
  batch: number; // 1: all entries alike
  heads: number; // patterns of heads
  queries: number;
  keys: number;
  queryTile: number;
  keyBlock: number;
  causal: boolean;
  /** Blocks of each row: batch, head, tile. */
  lists: number[][];
  /**
   * Whether pairs of query and key are missing from the blocks, by {@link isHole}; or of query and block, most of them or
   * all but few.
   */
  holes: boolean | 'blocks' | 'most blocks';
  /** Whether other blocks count by their means, which is not said here: see withMeans() of plans.ts. */
  estimate?: boolean;
  /** Of each listed block: 0, or that it counts by means of 2^level keys, for which see withMeans() as well. */
  levels?: number[][];
  /** Whether the library gets the lists as tensors, which it does not read: it then knows of no plan that it is dense. */
  unread?: boolean;
}

const isHole = (query: number, key: number, head: number) => (query * 5 + key * 3 + head + (query & key)) % 7 < 3;

const isShown = (query: number, block: number, head: number) =>
  (query * 3 + block * 5 + head + (query & block)) % 7 < 2;

/** Each query sees two of 19 pairs of blocks. */
const isOfFew = (query: number, block: number, head: number) => (query * 7 + (block >> 1) * 11 + head) % 19 < 2;

const patternOf = (plan: PlanSpec, head: number, heads: number) => Math.floor(head / (heads / plan.heads));

/** The level of a block for query i of a head, or undefined where it is not listed. */
export function levelInPlan(
  plan: PlanSpec,
  batch: number,
  head: number,
  heads: number,
  i: number,
  block: number,
): number | undefined {
  const tiles = Math.ceil(plan.queries / plan.queryTile);
  const tile = Math.floor(i / plan.queryTile);
  const row = ((plan.batch === 1 ? 0 : batch) * plan.heads + patternOf(plan, head, heads)) * tiles + tile;
  const at = plan.lists[row]!.indexOf(block);
  return at < 0 ? undefined : (plan.levels?.[row]?.[at] ?? 0);
}

/** Whether query i of a head sees key j, out of `heads` query heads. */
export function seesInPlan(plan: PlanSpec, batch: number, head: number, heads: number, i: number, j: number): boolean {
  if (levelInPlan(plan, batch, head, heads, i, Math.floor(j / plan.keyBlock)) !== 0) return false;
  if (plan.causal && j > i + plan.keys - plan.queries) return false;
  const pattern = patternOf(plan, head, heads);
  if (plan.holes === 'blocks') return isShown(i, Math.floor(j / plan.keyBlock), pattern);
  if (plan.holes === 'most blocks') return isOfFew(i, Math.floor(j / plan.keyBlock), pattern);
  return !plan.holes || !isHole(i, j, pattern);
}

export type MaskSpec =
  | { left: number; right: number } // keys p - left ... p + right, -1 unlimited; causal is { left: -1, right: 0 }
  | { heads: Axis[][] }; // neighborhood: one list of axes for all heads, or one per query head

export interface Problem {
  q: Values; // [batch, tokens..., heads, headDim]
  k: Values;
  v: Values;
  masks?: (MaskSpec | { plan: PlanSpec })[];
  keyBias?: Values; // [Lk], [batch, Lk] or [batch, heads, Lk]
  denseBias?: Values & { heads?: number[] }; // broadcast to [batch, heads, Lq, Lk]; with `heads` for these alone
  lowRank?: { q: Values; k: Values; path?: 'matrix' | 'vector' }; // [batch or 1, L, heads or 1, R]
  alibi?: { slopes?: Values }; // [heads]
  distance?: { q: Values; k: Values; weight?: Values }; // [L, n] or [batch, L, n]; [heads] or [batch, Lq, heads]
  relative?: { table: Values; dilation: number[] }; // [heads or 1, 2 r + 1, ...]
  scale?: number;
  softcap?: number;
  sinks?: Values;
  extra?: { k: Values; v: Values };
  cuSeqlens?: { q: number[]; k: number[] };
}

export interface Result {
  out: Float64Array;
  lse: Float64Array;
}

const mod = (a: number, b: number) => ((a % b) + b) % b;

/** Whether query i sees key j along one axis: the definition of GNA in the contract. */
export function seesAlong(i: number, j: number, extent: number, axis: Axis): boolean {
  const { stride: s, dilation: d } = axis;
  const w = axis.window === -1 ? Math.floor(extent / d) : axis.window;
  if (i % d !== j % d) return false;
  const L = Math.ceil((extent - (i % d)) / d);
  const [x, y] = [Math.floor(i / d), Math.floor(j / d)];
  const first = Math.floor(x / s) * s;
  if (axis.causal) {
    const leader = Math.min(first + s - 1, L - 1);
    return y >= Math.max(leader - w + 1, 0) && y <= x;
  }
  const leader = Math.min(first + Math.floor(s / 2), L - 1);
  const start = leader - Math.floor(w / 2);
  if (axis.wrap) return mod(y - start, L) < w;
  const clamped = Math.min(Math.max(start, 0), L - w);
  return y >= clamped && y < clamped + w;
}

const tokenAxes = (values: Values) => values.shape.slice(1, -2);
const tokens = (values: Values) => tokenAxes(values).reduce((product, length) => product * length, 1);

/** Whether flat query i sees flat key j in a neighborhood on a grid: the conjunction over its axes. */
export function seesOnGrid(i: number, j: number, grid: number[], axes: Axis[]): boolean {
  for (let a = grid.length - 1; a >= 0; a--) {
    const extent = grid[a]!;
    if (!seesAlong(i % extent, j % extent, extent, axes[a]!)) return false;
    i = Math.floor(i / extent);
    j = Math.floor(j / extent);
  }
  return true;
}

/** What one sequence is: queries [q0, q1), keys [k0, k1). Without cuSeqlens there is one for all tokens. */
function sequences({ q, k, cuSeqlens }: Problem) {
  if (!cuSeqlens) return [{ q0: 0, q1: tokens(q), k0: 0, k1: tokens(k) }];
  return cuSeqlens.q.slice(1).map((q1, n) => ({
    q0: cuSeqlens.q[n]!,
    q1,
    k0: cuSeqlens.k[n]!,
    k1: cuSeqlens.k[n + 1]!,
  }));
}

/** An element of `values` broadcast to [batch, heads, Lq, Lk], given which of these its axes are. */
function broadcast(values: Values | undefined, axes: number[]): (index: number[]) => number {
  if (!values) return () => 0;
  return (index) => {
    let at = 0;
    values.shape.forEach((length, a) => {
      at = at * length + (length === 1 ? 0 : index[axes[a]!]!);
    });
    return values.data[at]!;
  };
}

/** The slopes of Press et al. 2022, as their section 3 and appendix put it: a geometric sequence. */
export function alibiSlopes(heads: number): number[] {
  const below = 2 ** Math.floor(Math.log2(heads));
  const first = 2 ** (-8 / below);
  const sequence = Array.from({ length: below }, (_, n) => first ** (n + 1));
  if (below === heads) return sequence;
  const next = alibiSlopes(2 * below).filter((_, n) => n % 2 === 0);
  return [...sequence, ...next.slice(0, heads - below)];
}

/** Flat `index` as coordinates. */
function coordinates(index: number, grid: number[]): number[] {
  const rest = grid.slice(1).reduce((product, length) => product * length, 1);
  if (grid.length === 1) return [index];
  return [Math.floor(index / rest), ...coordinates(index % rest, grid.slice(1))];
}

/** The roundings that a bias of low rank or a closed form takes. */
function biasSteps({ lowRank, alibi, distance }: Problem): number {
  return (lowRank?.q.shape[3] ?? 0) + (alibi ? 2 : 0) + (distance ? 2 * distance.q.shape.at(-1)! + 2 : 0);
}

/** What problems of low rank and closed form add to one score; `position` is that of the query among the keys j. */
function formulaBias(problem: Problem, heads: number, { step }: Arithmetic, largest: (x: number) => void) {
  const { lowRank, alibi, distance, relative } = problem;
  const slopes = alibi?.slopes ? [...alibi.slopes.data] : alibiSlopes(heads);
  const weight = broadcast(distance?.weight, distance?.weight?.shape.length === 1 ? [1] : [0, 2, 1]);
  const grid = tokenAxes(problem.q);
  const rows = (values: Values | undefined): ((index: number[]) => Float64Array) => {
    if (!values) return () => new Float64Array();
    const { shape, data } = values;
    const length = shape.at(-1)!;
    return (index) => {
      const at = shape.slice(0, -1).reduce((sum, extent, a) => sum * extent + (extent === 1 ? 0 : index[a]!), 0);
      return data.subarray(at * length, (at + 1) * length);
    };
  };
  const [phiQ, phiK, pointQ, pointK] = [lowRank?.q, lowRank?.k, distance?.q, distance?.k].map(rows);
  const point = (of: typeof pointQ, values: Values, b: number, token: number) =>
    of!(values.shape.length === 2 ? [token] : [b, token]);
  return (b: number, h: number, i: number, j: number, position: number, sequence: number): number => {
    let sum = 0;
    if (lowRank) {
      const y = phiK!([b, j, h]);
      phiQ!([b, i, h]).forEach((x, r) => {
        sum = step(sum + step(x * y[r]!));
        largest(sum);
      });
    }
    if (alibi) sum = step(sum - step(step(slopes[h]!) * Math.abs(position - j)));
    if (distance) {
      const [x, y] = [point(pointQ, distance.q, b, i), point(pointK, distance.k, b, j)];
      let squares = 0;
      x.forEach((_, c) => {
        squares = step(squares + step(step(x[c]! - y[c]!) ** 2));
      });
      sum = step(sum - step((distance.weight ? weight([b, h, i]) : 1) * squares));
    }
    if (relative) {
      const { shape, data } = relative.table;
      const one = grid.length === 1;
      const [x, y] = one ? [[position - sequence], [j - sequence]] : [coordinates(i, grid), coordinates(j, grid)];
      let at = shape[0] === 1 ? 0 : h;
      shape.slice(1).forEach((extent, a) => {
        const apart = Math.floor(x[a]! / relative.dilation[a]!) - Math.floor(y[a]! / relative.dilation[a]!);
        at = at * extent + Math.min(Math.max(apart + (extent - 1) / 2, 0), extent - 1);
      });
      sum = step(sum + data[at]!);
    }
    return sum;
  };
}

/** How sums are made and where they are rounded: exactly for the oracle, in low precision for the tolerance. */
export interface Arithmetic {
  /** The dot product of `length` elements from a[i] and b[j]. */
  dot(a: Float64Array, i: number, b: Float64Array, j: number, length: number): number;
  /** sums += p * the elements from v[j]. */
  accumulate(sums: Float64Array, p: number, v: Float64Array, j: number): void;
  step(x: number): number;
  probability(x: number): number;
  output(x: number): number;
}

const same = (x: number) => x;

const exact: Arithmetic = {
  dot(a, i, b, j, length) {
    let sum = 0;
    for (let c = 0; c < length; c++) sum += a[i + c]! * b[j + c]!;
    return sum;
  },
  accumulate(sums, p, v, j) {
    for (let c = 0; c < sums.length; c++) sums[c]! += p * v[j + c]!;
  },
  step: same,
  probability: same,
  output: same,
};

/**
 * `score` is the largest magnitude of a score, before and after cap and biases, and `steps` the number of roundings that
 * it takes.
 */
export function attend(problem: Problem, arithmetic = exact): Result & { score: number; steps: number } {
  const { q, k, v, masks = [], softcap, sinks, extra } = problem;
  const { dot, accumulate, step, probability, output } = arithmetic;
  const [batch, heads, dim] = [q.shape[0]!, q.shape.at(-2)!, q.shape.at(-1)!];
  const [kvHeads, vDim, Lq, Lk] = [k.shape.at(-2)!, v.shape.at(-1)!, tokens(q), tokens(k)];
  const scale = problem.scale ?? 1 / Math.sqrt(dim);
  const grid = tokenAxes(q);
  const keyBias = broadcast(problem.keyBias, [[3], [0, 3], [0, 1, 3]][(problem.keyBias?.shape.length ?? 1) - 1]!);
  const denseValues = broadcast(problem.denseBias, [0, 1, 2, 3].slice(4 - (problem.denseBias?.shape.length ?? 4)));
  const denseBias = ([b, h, i, j]: number[]) => {
    const place = problem.denseBias?.heads ? problem.denseBias.heads.indexOf(h!) : h!;
    return place < 0 ? 0 : denseValues([b!, place, i!, j!]);
  };
  const formula = problem.lowRank ?? problem.alibi ?? problem.distance ?? problem.relative;
  const biased = formula !== undefined || problem.keyBias !== undefined || problem.denseBias !== undefined;
  const n = extra ? extra.k.shape[1]! : 0;
  const out = new Float64Array(batch * Lq * heads * vDim);
  // Queries of no packed sequence see nothing.
  const lse = Float64Array.from(
    { length: batch * Lq * heads },
    (_, i) => sinks?.data[i % heads] ?? Number.NEGATIVE_INFINITY,
  );

  // Scores and places of the values of the keys that one query sees.
  const scores = new Float64Array(Lk + n);
  const places = new Int32Array(Lk + n);
  const sums = new Float64Array(vDim);
  let score = 0;
  const formulaOf = formulaBias(problem, heads, arithmetic, (x) => {
    if (Number.isFinite(x)) score = Math.max(score, Math.abs(x));
  });

  function scoreOf(query: number, keys: Float64Array, key: number): number {
    const scaled = step(dot(q.data, query * dim, keys, key * dim, dim) * scale);
    score = Math.max(score, Math.abs(scaled));
    return softcap === undefined ? scaled : step(softcap * step(Math.tanh(step(scaled / softcap))));
  }

  for (const { q0, q1, k0, k1 } of sequences(problem)) {
    for (let b = 0; b < batch; b++) {
      for (let h = 0; h < heads; h++) {
        const kvHead = Math.floor(h / (heads / kvHeads));
        for (let i = q0; i < q1; i++) {
          const query = (b * Lq + i) * heads + h;
          const position = i - q0 + (k1 - k0) - (q1 - q0) + k0;
          let seen = 0;
          for (let j = k0; j < k1; j++) {
            const visible = masks.every((mask) =>
              'plan' in mask
                ? seesInPlan(mask.plan, b, h, heads, i, j)
                : 'heads' in mask
                  ? seesOnGrid(i, j, grid, mask.heads[mask.heads.length === 1 ? 0 : h]!)
                  : (mask.left === -1 || j >= position - mask.left) &&
                    (mask.right === -1 || j <= position + mask.right),
            );
            if (!visible) continue;
            const place = (b * Lk + j) * kvHeads + kvHead;
            let own = scoreOf(query, k.data, place);
            if (biased) {
              const index = [b, h, i, j];
              own = step(step(own + keyBias(index)) + denseBias(index));
              if (formula) own = step(own + formulaOf(b, h, i, j, position, k0));
              if (Number.isFinite(own)) score = Math.max(score, Math.abs(own));
            }
            scores[seen] = own;
            places[seen++] = place;
          }
          const own = seen; // the keys after these are extra ones
          for (let j = 0; j < n; j++) {
            const place = (b * n + j) * kvHeads + kvHead;
            scores[seen] = scoreOf(query, extra!.k.data, place);
            places[seen++] = place;
          }
          const sink = sinks ? sinks.data[h]! : Number.NEGATIVE_INFINITY;
          let max = sink;
          for (let x = 0; x < seen; x++) max = Math.max(max, scores[x]!);
          if (max === Number.NEGATIVE_INFINITY) continue; // nothing seen: out 0, lse -Infinity
          let sum = step(Math.exp(step(sink - max)));
          for (let x = 0; x < seen; x++) {
            scores[x] = step(Math.exp(step(scores[x]! - max)));
            sum = step(sum + scores[x]!);
          }
          sums.fill(0);
          for (let x = 0; x < seen; x++) {
            const p = probability(step(scores[x]! / sum));
            const data = x < own ? v.data : extra!.v.data;
            if (p > 0) accumulate(sums, p, data, places[x]! * vDim);
          }
          for (let c = 0; c < vDim; c++) out[query * vDim + c] = output(sums[c]!);
          lse[query] = step(max + step(Math.log(sum)));
        }
      }
    }
  }
  return { out, lse, score, steps: dim + 3 + biasSteps(problem) };
}

/** The result over the union of disjoint sets of keys. */
export function mergeParts(parts: Result[]): Result {
  const rows = parts[0]!.lse.length;
  const dim = rows ? parts[0]!.out.length / rows : 0;
  const merged = { out: new Float64Array(rows * dim), lse: new Float64Array(rows).fill(Number.NEGATIVE_INFINITY) };
  for (let row = 0; row < rows; row++) {
    const max = Math.max(...parts.map(({ lse }) => lse[row]!));
    if (max === Number.NEGATIVE_INFINITY) continue;
    const weights = parts.map(({ lse }) => Math.exp(lse[row]! - max));
    const sum = weights.reduce((a, b) => a + b);
    parts.forEach(({ out }, n) => {
      if (weights[n] === 0) return;
      for (let c = 0; c < dim; c++) merged.out[row * dim + c]! += (weights[n]! / sum) * out[row * dim + c]!;
    });
    merged.lse[row] = max + Math.log(sum);
  }
  return merged;
}
