// What the project wants to reach, and whether it did.

import type { Row } from './report';

export interface Target<R> {
  text: string;
  /** The figure to judge, undefined for rows that the target is not about. */
  figure: (row: R) => number | undefined;
  /** What the figure must be. */
  atLeast?: number;
  atMost?: number;
}

const isDense = ({ test: { kind } }: Row) => kind === 'dense';
const isCausal = ({ test: { kind } }: Row) => kind === 'causal';
const sizeOf = ({ test: { keys } }: Row) => keys.reduce((product, extent) => product * extent, 1);

const targets: Target<Row>[] = [
  {
    text: 'float32 dense: 1.25 times ONNX Runtime from S=1024',
    figure: (row) => (isDense(row) && sizeOf(row) >= 1024 ? row.faster.onnxruntime : undefined),
    atLeast: 1.25,
  },
  {
    text: 'float32 causal: 4 times ONNX Runtime at S=4096',
    figure: (row) => (isCausal(row) && sizeOf(row) >= 4096 ? row.faster.onnxruntime : undefined),
    atLeast: 4,
  },
  ...(['float32', 'bfloat16'] as const).flatMap((dtype) =>
    (['dense', 'causal'] as const).flatMap((kind) =>
      [4096, 512].map((size) => {
        const atLeast = dtype === 'float32' ? 1.25 : 1.5;
        return {
          text: `${dtype} ${kind}: ${atLeast} times PyTorch ${size === 4096 ? 'at S=4096' : 'at every size measured'}`,
          figure: (row: Row) =>
            row.test.dtype === dtype && row.test.kind === kind && sizeOf(row) >= size ? row.faster.pytorch : undefined,
          atLeast,
        };
      }),
    ),
  ),
  { text: 'never slower than ONNX Runtime', figure: (row) => row.faster.onnxruntime, atLeast: 1 },
  { text: 'never slower than PyTorch', figure: (row) => row.faster.pytorch, atLeast: 1 },
  {
    text: 'windows and neighborhoods: at most 1.15 times (unmasked time x share of tiles visited)',
    figure: (row) => row.overTiles,
    atMost: 1.15,
  },
];

export interface Verdict {
  text: string;
  verdict: 'reached' | 'missed' | 'not measured';
  /** Rows that the target is about, and those of them that reach it. */
  rows: number;
  reached: number;
  /** Rows that the target is about and in which others used the machine: no firm ground in either direction. */
  disturbed: number;
  worst?: { row: string; figure: number };
}

export const judge = (rows: readonly Row[]): Verdict[] =>
  judgeBy(targets, rows, ({ test, threads }) => `${test.name}, ${threads} thr.`);

export function judgeBy<R extends { disturbed: number }>(
  targets: readonly Target<R>[],
  rows: readonly R[],
  nameOf: (row: R) => string,
): Verdict[] {
  return targets.map(({ text, figure, atLeast = Number.NEGATIVE_INFINITY, atMost = Number.POSITIVE_INFINITY }) => {
    const judged = rows.flatMap((row) => {
      const value = figure(row);
      if (value === undefined) return [];
      return [{ row: nameOf(row), figure: value, disturbed: row.disturbed > 0 }];
    });
    const worst = judged.reduce<(typeof judged)[0] | undefined>((worst, each) => {
      if (!worst) return each;
      return (atMost === Number.POSITIVE_INFINITY ? each.figure < worst.figure : each.figure > worst.figure)
        ? each
        : worst;
    }, undefined);
    const reached = judged.filter(({ figure }) => figure >= atLeast && figure <= atMost).length;
    const verdict = judged.length === 0 ? 'not measured' : reached === judged.length ? 'reached' : 'missed';
    const disturbed = judged.filter((each) => each.disturbed).length;
    return {
      text,
      verdict,
      rows: judged.length,
      reached,
      disturbed,
      worst: worst && { row: worst.row, figure: worst.figure },
    };
  });
}
