// Selectors from their definitions, key by key in float64. Exact for small integers, and so are their ties.

export interface Rows {
  /** [tokens][headDim] of one head. */
  q: number[][];
  k: number[][];
}

export interface Selection {
  queryTile: number;
  keyBlock: number;
  budget: number; // blocks
  causal: boolean;
  sink: number;
  window: number;
}

const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, x, d) => sum + x * b[d]!, 0);
const mean = (rows: readonly number[][]) =>
  rows[0]!.map((_, d) => rows.reduce((sum, row) => sum + row[d]!, 0) / rows.length);

/** The queries of a tile, and the blocks that it always lists, may choose and has at all. */
function tileOf(heads: Rows[], s: Selection, tile: number) {
  const { q, k } = heads[0]!;
  const first = tile * s.queryTile;
  const end = Math.min(first + s.queryTile, q.length);
  const shift = k.length - q.length;
  const limit = s.causal ? Math.max(0, Math.min(k.length, end + shift)) : k.length;
  const always: number[] = [];
  const open: number[] = [];
  for (let block = 0; block * s.keyBlock < limit; block++) {
    let wanted = false;
    for (let key = block * s.keyBlock; key < Math.min((block + 1) * s.keyBlock, k.length); key++) {
      for (let query = first; query < end; query++) {
        const distance = query + shift - key;
        // In causal plans the last keys are those before the last query, whichever query they are seen by.
        wanted ||= key < s.sink;
        wanted ||= s.window > 0 && distance < s.window && (s.causal ? key <= end - 1 + shift : distance > -s.window);
      }
    }
    (wanted ? always : open).push(block);
  }
  return { first, end, limit, always, open };
}

function best<T>(items: T[], scores: number[], count: number): T[] {
  const order = items.map((_, i) => i).sort((a, b) => scores[b]! - scores[a]! || a - b);
  return order
    .slice(0, count)
    .sort((a, b) => a - b)
    .map((i) => items[i]!);
}

type Choose = (heads: Rows[], s: Selection, tile: ReturnType<typeof tileOf>) => number[];

/** The blocks of each tile; `heads` share them. */
export function select(heads: Rows[], s: Selection, choose: Choose): number[][] {
  return Array.from({ length: Math.ceil(heads[0]!.q.length / s.queryTile) }, (_, index) => {
    const tile = tileOf(heads, s, index);
    const chosen = tile.open.length <= s.budget ? tile.open : choose(heads, s, tile);
    return [...tile.always, ...chosen].sort((a, b) => a - b);
  });
}

/** The largest product of a key with any query. */
const top = (queries: number[][], key: readonly number[]) => Math.max(...queries.map((query) => dot(query, key)));

function groups(rows: number[][], size: number): number[][] {
  const list: number[][] = [];
  for (let i = 0; i < rows.length; i += size) list.push(mean(rows.slice(i, i + size)));
  return list;
}

export const hip =
  (stages: { chunk: number; keep: number }[], first: boolean): Choose =>
  (heads, s, { first: from, end, limit, open }) => {
    let chunks = [0];
    let size = Number.POSITIVE_INFINITY;
    stages.forEach(({ chunk, keep }, stage) => {
      const isLast = stage === stages.length - 1;
      const parts = chunks
        .flatMap((at) => {
          const list: number[] = [];
          for (let part = at; part < Math.min(at + size, limit); part += chunk) list.push(part);
          return list;
        })
        .filter((at) => open.some((block) => block * s.keyBlock >= at && block * s.keyBlock < at + chunk));
      size = chunk;
      const count = isLast ? s.budget : Math.ceil(keep / chunk);
      chunks = parts;
      if (parts.length <= count) return;
      const scores = parts.map((at) =>
        Math.max(
          ...heads.map(({ q, k }) => {
            const rows = q.slice(from, end);
            const queries = isLast ? rows : groups(rows, 4);
            let [left, right, score] = [at, Math.min(at + chunk, limit), Number.NEGATIVE_INFINITY];
            if (right - left === 1) return top(queries, k[left]!);
            while (right - left > 1) {
              const middle = Math.floor((left + right) / 2);
              const stands = (a: number, b: number) => (first ? a : Math.floor((a + b) / 2));
              const [x, y] = [top(queries, k[stands(left, middle)]!), top(queries, k[stands(middle, right)]!)];
              score = Math.max(score, x, y);
              if (x >= y) right = middle;
              else left = middle;
            }
            return score;
          }),
        ),
      );
      chunks = best(parts, scores, count);
    });
    return chunks.map((at) => at / s.keyBlock);
  };

export const bisection =
  (first: boolean): Choose =>
  (heads, s, { first: from, end, open }) => {
    let nodes = Array.from({ length: s.budget }, (_, i) => [
      Math.floor((i * open.length) / s.budget),
      Math.floor(((i + 1) * open.length) / s.budget),
    ]);
    while (nodes.some(([a, b]) => b! - a! > 1)) {
      const halves = nodes.flatMap(([a, b]) => {
        const middle = Math.floor((a! + b!) / 2);
        return b! - a! > 1
          ? [
              [a!, middle],
              [middle, b!],
            ]
          : [[a!, b!]];
      });
      const scores = halves.map(([a, b]) => {
        const block = open[first ? a! : Math.floor((a! + b!) / 2)]!;
        return Math.max(
          ...heads.map(({ q, k }) => {
            const key = Math.floor((block * s.keyBlock + Math.min((block + 1) * s.keyBlock, k.length)) / 2);
            return top(q.slice(from, end), k[key]!);
          }),
        );
      });
      nodes = best(halves, scores, s.budget);
    }
    return nodes.map(([a]) => open[a!]!);
  };

export type Pooling = 'mean' | 'max' | 'min' | 'bounds';

/** Of each column the largest element, or the least. */
const extreme = (rows: readonly number[][], pick: (...values: number[]) => number) =>
  rows[0]!.map((_, d) => pick(...rows.map((row) => row[d]!)));

/** What counts of the queries of a tile. */
const together = {
  each: (rows: number[][]) => rows,
  mean: (rows: number[][]) => [mean(rows)],
  max: (rows: number[][]) => [extreme(rows, Math.max)],
  min: (rows: number[][]) => [extreme(rows, Math.min)],
};

const pooledScores =
  (pooling: Pooling, counts: keyof typeof together) =>
  (heads: Rows[], s: Selection, { first, end, open }: ReturnType<typeof tileOf>): number[] =>
    open.map((block) =>
      Math.max(
        ...heads.map(({ q, k }) => {
          const keys = k.slice(block * s.keyBlock, (block + 1) * s.keyBlock);
          const [most, least] = [extreme(keys, Math.max), extreme(keys, Math.min)];
          const queries = together[counts](q.slice(first, end));
          if (pooling === 'bounds') {
            const bound = (query: number[]) =>
              query.reduce((sum, x, d) => sum + Math.max(x * most[d]!, x * least[d]!), 0);
            return Math.max(...queries.map(bound));
          }
          return top(queries, pooling === 'mean' ? mean(keys) : pooling === 'max' ? most : least);
        }),
      ),
    );

export const pooled =
  (pooling: Pooling, counts: keyof typeof together = 'each'): Choose =>
  (heads, s, tile) =>
    best(tile.open, pooledScores(pooling, counts)(heads, s, tile), s.budget);

/**
 * Of each tile, the blocks beyond the budget that count by means, as [block, level]: as many blocks of each level, from 1
 * on, as `levels` says.
 */
export function selectMeans(heads: Rows[], s: Selection, levels: number[]): [block: number, level: number][][] {
  const { q, k } = heads[0]!;
  return Array.from({ length: Math.ceil(q.length / s.queryTile) }, (_, index) => {
    const tile = tileOf(heads, s, index);
    const scores = pooledScores('mean', 'each')(heads, s, tile);
    const ranked = tile.open.map((_, i) => i).sort((a, b) => scores[b]! - scores[a]! || a - b);
    const last = s.causal ? tile.first + k.length - q.length : k.length; // key that the first query sees
    const rest = ranked
      .slice(s.budget)
      .map((i) => tile.open[i]!)
      .filter((block) => Math.min((block + 1) * s.keyBlock, k.length) - 1 <= last);
    const kinds = levels.flatMap((count, i) => Array.from({ length: count }, () => i + 1));
    return rest
      .slice(0, kinds.length)
      .map((block, i): [number, number] => [block, kinds[i]!])
      .sort(([a], [b]) => a - b);
  });
}
