// What is said about samples.

export interface Summary {
  median: number;
  q1: number;
  q3: number;
  count: number;
}

/** From, to. */
export type Interval = [number, number];

/** The quantile at `share` of the way through the sorted samples, interpolated between neighbours. */
export function quantile(samples: readonly number[], share: number): number {
  if (samples.length === 0) throw new Error('no samples');
  const sorted = [...samples].sort((a, b) => a - b);
  const at = share * (sorted.length - 1);
  const below = sorted[Math.floor(at)]!;
  return below + (at - Math.floor(at)) * (sorted[Math.ceil(at)]! - below);
}

export const median = (samples: readonly number[]): number => quantile(samples, 0.5);

export function summarize(samples: readonly number[]): Summary {
  return {
    median: median(samples),
    q1: quantile(samples, 0.25),
    q3: quantile(samples, 0.75),
    count: samples.length,
  };
}

/**
 * How many times as long the first takes: the median over rounds of the ratio within each round. The two ran side by
 * side in a round, so what slowed the machine down for a while slowed both and cancels.
 */
export function medianRatio(times: readonly number[], of: readonly number[]): number {
  if (times.length !== of.length) throw new Error(`${times.length} rounds of one, ${of.length} of the other`);
  return median(times.map((time, round) => time / of[round]!));
}

/** How often the median of a distribution lies between the `outer`-th least and the `outer`-th most of so many samples. */
export function coverage(count: number, outer: number): number {
  let [tail, ways] = [0, 1];
  for (let below = 0; below < outer; below++) {
    tail += ways * 0.5 ** count;
    ways *= (count - below) / (below + 1);
  }
  return 1 - 2 * tail;
}

const CONFIDENCE = 0.95;

/** Whether an interval of so many samples can hold the median of their distribution as often as is said. */
export const tells = (count: number): boolean => coverage(count, 1) >= CONFIDENCE;

/**
 * Where the median of the distribution lies that samples are drawn from: between the two of them, as far inside as
 * covers it 95 times of 100, whatever the distribution. Fewer than six samples cannot say that (three: 75 of 100); for
 * them it is the least and the most.
 */
export function medianInterval(samples: readonly number[]): Interval {
  const sorted = [...samples].sort((a, b) => a - b);
  let outer = 1;
  while (coverage(sorted.length, outer + 1) >= CONFIDENCE) outer++;
  return [sorted[outer - 1]!, sorted.at(-outer)!];
}

/**
 * The distribution of Mann and Whitney's statistic (1947): of all pairs of one of `first` and one of `second` samples of
 * the same distribution, the chance that the first is the larger one in 0, 1, 2 ... of them.
 */
export function pairShares(first: number, second: number): number[] {
  let row: number[][] = Array.from({ length: second + 1 }, () => [1]); // of none of the first kind
  for (let i = 1; i <= first; i++) {
    const next: number[][] = [[1]];
    for (let j = 1; j <= second; j++) {
      // The largest of all is one of the first kind, larger than j, as often as it has members; else of the other.
      const shares = new Array<number>(i * j + 1).fill(0);
      for (const [pairs, share] of row[j]!.entries()) shares[pairs + j]! += (share * i) / (i + j);
      for (const [pairs, share] of next[j - 1]!.entries()) shares[pairs]! += (share * j) / (i + j);
      next.push(shares);
    }
    row = next;
  }
  return row[second]!;
}

/** Times over other times, each by each, and where the factor lies that the one distribution is the other stretched by. */
export interface Factor {
  /** The median of the ratios of all pairs (Hodges and Lehmann 1963). */
  median: number;
  /**
   * Between two of the sorted ratios, as far inside as covers the factor as often as is wanted, whatever the distribution
   * and however few samples: what Mann and Whitney's test, by all orders that samples can have, does not refuse.
   * From 0 to infinity where even the outermost do not cover it so often: for 99 of 100, with fewer than five of each.
   */
  interval: Interval;
}

export function factor(before: readonly number[], after: readonly number[], confidence: number): Factor {
  const ratios = before.flatMap((a) => after.map((b) => b / a)).sort((a, b) => a - b);
  const shares = pairShares(before.length, after.length);
  let outer = 0;
  for (let tail = shares[0]!; tail <= (1 - confidence) / 2; tail += shares[outer]!) outer++;
  const interval: Interval = outer === 0 ? [0, Number.POSITIVE_INFINITY] : [ratios[outer - 1]!, ratios.at(-outer)!];
  return { median: median(ratios), interval };
}

/** Lengths to see growth over: powers of two, `most` (its exponent) being the last with --full. */
export function growthLengths({ quick, full }: { quick: boolean; full: boolean }, most: number): number[] {
  const [first, last] = quick ? [11, 15] : [13, full ? most : 17];
  return Array.from({ length: last - first + 1 }, (_, n) => 2 ** (first + n));
}

/** How y grows with x: the exponent of the power that fits best. 1 is linear. */
export function growth(points: readonly (readonly [x: number, y: number])[]): number {
  const [x, y] = [0, 1].map((axis) => points.map((point) => Math.log(point[axis]!))) as [number[], number[]];
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const product = (a: number[], b: number[]) =>
    a.reduce((sum, value, i) => sum + (value - mean(a)) * (b[i]! - mean(b)), 0);
  return product(x, y) / product(x, x);
}
