// CAB's efficiency length: from which length on a sparse method beats a dense one, in time and in memory.

import { OWN, type Row } from '../format';

export interface EfficiencyLength {
  /** 'float32 CAB causal self window, 2 thr.' */
  name: string;
  text: string;
}

/** Rows of the patterns of CAB that differ by length alone. */
export const cabName = ({ case: { dtype, mask, threads } }: Row): string | undefined =>
  mask.startsWith('CAB ') ? `${dtype} ${mask}, ${threads} thr.` : undefined;

/** Beyond this share, less memory is no matter of whole pages, and of what stacks and pools happen to take. */
const SURELY_LESS = 0.95;

interface Measure {
  /** Behind the name of the rows. */
  suffix: string;
  better: string;
  /** Whether the sparse method is better beyond the noise; undefined: not measured. */
  wins(row: Row): boolean | undefined;
}

const measures: Measure[] = [
  {
    suffix: '',
    better: 'faster',
    wins: ({ samples, ratios: { dense } }) => (samples[OWN] && dense ? dense.interval[0] > 1 : undefined),
  },
  {
    suffix: ', memory',
    better: 'smaller',
    wins({ memory = {} }) {
      const { [OWN]: own, dense } = memory;
      return own === undefined || dense === undefined ? undefined : own < SURELY_LESS * dense;
    },
  },
];

/**
 * Of each group of rows that have a name in common, for time and for memory where they have a contestant 'dense' with
 * either: the shortest measured length from which on, to the longest, the sparse method is better beyond the noise.
 */
export function efficiencyLengths(rows: readonly Row[], nameOf: (row: Row) => string | undefined): EfficiencyLength[] {
  return measures.flatMap(({ suffix, better, wins }) => {
    const groups = new Map<string, Row[]>();
    for (const row of rows) {
      const name = nameOf(row);
      if (name === undefined || wins(row) === undefined) continue;
      groups.set(name, [...(groups.get(name) ?? []), row]);
    }
    return [...groups].map(([name, group]) => {
      const sorted = [...group].sort((a, b) => a.case.tokens - b.case.tokens);
      const worse = sorted.map((row) => wins(row)).lastIndexOf(false);
      const first = sorted[worse + 1];
      const [least, most] = [sorted[0]!.case.tokens, sorted.at(-1)!.case.tokens];
      const which = `${name}${suffix}`;
      if (!first) return { name: which, text: `not ${better} than dense at ${most} keys, the most measured` };
      const text = worse === -1 ? `${least} keys or fewer, the least measured` : `${first.case.tokens} keys`;
      return { name: which, text: `${better} than dense from ${text}` };
    });
  });
}
