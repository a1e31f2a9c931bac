// What the project wants to reach, and whether it did.

import { fullName, type Row, type Verdict } from './format';

export interface Target<R> {
  text: string;
  /** The figure to judge, undefined for rows that the target is not about. */
  figure: (row: R) => number | undefined;
  /** What the figure must be. */
  atLeast?: number;
  atMost?: number;
}

/** The figure of a row: time over (time without the mask x share of tiles with a visible pair). */
export const OVER_TILES = 'over tiles';

const isDense = ({ case: { mask } }: Row) => mask === 'dense';
const isCausal = ({ case: { mask } }: Row) => mask === 'causal';
const sizeOf = ({ case: { tokens } }: Row) => tokens;

const targets: Target<Row>[] = [
  {
    text: 'float32 dense: 1.25 times ONNX Runtime from S=1024',
    figure: (row) => (isDense(row) && sizeOf(row) >= 1024 ? row.ratios.onnxruntime?.median : undefined),
    atLeast: 1.25,
  },
  {
    text: 'float32 causal: 4 times ONNX Runtime at S=4096',
    figure: (row) => (isCausal(row) && sizeOf(row) >= 4096 ? row.ratios.onnxruntime?.median : undefined),
    atLeast: 4,
  },
  ...(['float32', 'bfloat16'] as const).flatMap((dtype) =>
    (['dense', 'causal'] as const).flatMap((kind) =>
      [4096, 512].map((size) => {
        const atLeast = dtype === 'float32' ? 1.25 : 1.5;
        return {
          text: `${dtype} ${kind}: ${atLeast} times PyTorch ${size === 4096 ? 'at S=4096' : 'at every size measured'}`,
          figure: (row: Row) =>
            row.case.dtype === dtype && row.case.mask === kind && sizeOf(row) >= size
              ? row.ratios.pytorch?.median
              : undefined,
          atLeast,
        };
      }),
    ),
  ),
  { text: 'never slower than ONNX Runtime', figure: (row) => row.ratios.onnxruntime?.median, atLeast: 1 },
  { text: 'never slower than PyTorch', figure: (row) => row.ratios.pytorch?.median, atLeast: 1 },
  {
    text: 'windows and neighborhoods: at most 1.15 times (unmasked time x share of tiles visited)',
    figure: (row) => row.figures?.[OVER_TILES],
    atMost: 1.15,
  },
];

/** The targets of suite cpu. */
export const judge = (rows: readonly Row[]): Verdict[] => judgeBy(targets, rows, fullName);

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
