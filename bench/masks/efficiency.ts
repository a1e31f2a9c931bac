// CAB's efficiency length: from which length on a sparse method beats a dense one.

import { OWN, type Row } from '../format';

export interface EfficiencyLength {
  /** 'float32 CAB causal self window, 2 thr.' */
  name: string;
  text: string;
}

/** Rows of the patterns of CAB that differ by length alone. */
export const cabName = ({ case: { dtype, mask, threads } }: Row): string | undefined =>
  mask.startsWith('CAB ') ? `${dtype} ${mask}, ${threads} thr.` : undefined;

/**
 * Of each group of rows that have a name in common and a contestant 'dense': the shortest measured length from which on,
 * to the longest, the sparse method is faster beyond the noise.
 */
export function efficiencyLengths(rows: readonly Row[], nameOf: (row: Row) => string | undefined): EfficiencyLength[] {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const name = nameOf(row);
    if (name === undefined || !row.samples[OWN] || !row.ratios.dense) continue;
    groups.set(name, [...(groups.get(name) ?? []), row]);
  }
  return [...groups].map(([name, group]) => {
    const sorted = [...group].sort((a, b) => a.case.tokens - b.case.tokens);
    const slower = sorted.map(({ ratios }) => ratios.dense!.interval[0] > 1).lastIndexOf(false);
    const first = sorted[slower + 1];
    const [least, most] = [sorted[0]!.case.tokens, sorted.at(-1)!.case.tokens];
    if (!first) return { name, text: `not faster than dense at ${most} keys, the most measured` };
    const text = slower === -1 ? `${least} keys or fewer, the least measured` : `${first.case.tokens} keys`;
    return { name, text: `faster than dense from ${text}` };
  });
}
