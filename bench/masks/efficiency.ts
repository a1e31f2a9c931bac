// CAB's efficiency length: from which length on a sparse method beats a dense one.

import { OWN, type Row } from '../format';

export interface EfficiencyLength {
  /** 'float32 CAB causal self window, 2 thr.' */
  name: string;
  text: string;
  /** The shortest measured length from which on, to the longest, the sparse method is faster beyond the noise. */
  length?: number;
}

/** Of each group of rows that differ by length alone and have a contestant 'dense'. */
export function efficiencyLengths(rows: readonly Row[]): EfficiencyLength[] {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    if (!row.case.mask.startsWith('CAB ') || !row.samples[OWN] || !row.ratios.dense) continue;
    const { dtype, mask, threads } = row.case;
    const name = `${dtype} ${mask}, ${threads} thr.`;
    groups.set(name, [...(groups.get(name) ?? []), row]);
  }
  return [...groups].map(([name, group]) => {
    const sorted = [...group].sort((a, b) => a.case.tokens - b.case.tokens);
    const slower = sorted.map(({ ratios }) => ratios.dense!.interval[0] > 1).lastIndexOf(false);
    const first = sorted[slower + 1];
    const [least, most] = [sorted[0]!.case.tokens, sorted.at(-1)!.case.tokens];
    if (!first) return { name, text: `not faster than dense at ${most} keys, the most measured` };
    const text = slower === -1 ? `${least} keys or fewer, the least measured` : `${first.case.tokens} keys`;
    return { name, text: `faster than dense from ${text}`, length: first.case.tokens };
  });
}
