// What is said about samples.

export interface Summary {
  median: number;
  q1: number;
  q3: number;
  count: number;
}

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
