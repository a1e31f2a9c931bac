// Quality as rows of results, and such rows as quality again: files have rows, tables are made of what they say.

import { makeRow, type Row } from '../format';
import { densityText, PHASES, phaseName } from './cases';
import { SCORED } from './headings';
import type { Kind, Phase } from './inputs';
import { type Quality, TOP } from './quality';

/** A selector on one kind of input. */
export interface Judged {
  kind: Kind;
  phase: Phase;
  keys: number;
  headDim: number;
  selector: string;
  density: number;
  /** Vectors that were scored to select, over the keys. */
  scored: number;
  quality: Quality;
}

const MASS = 'softmax mass';
const RECALL = `recall@${TOP}`;
const ERROR = 'output error';
const ACCURACY = 'MQAR accuracy';

export function qualityRow({ kind, phase, keys, headDim, selector, density, scored, quality }: Judged): Row {
  return makeRow({
    name: `${phaseName(phase)} ${kind} T=${keys} ${selector} ${densityText(density)}`,
    case: {
      mask: selector,
      dtype: 'float32',
      tokens: keys,
      headDim,
      data: `${kind}, ${phaseName(phase)}, ${keys} keys`,
    },
    samples: {},
    disturbed: 0,
    repeated: 0,
    faults: quality.fault === undefined ? [] : [{ contestant: 'node-attention', fault: quality.fault }],
    quality: measuresOf(quality),
    figures: { [SCORED]: scored },
  });
}

function measuresOf({ density, mass, recall, error, accuracy }: Quality): NonNullable<Row['quality']> {
  return {
    sparsity: 1 - density,
    [MASS]: mass,
    [RECALL]: recall,
    [ERROR]: error,
    ...(accuracy === undefined ? {} : { [ACCURACY]: accuracy }),
  };
}

/** The density that a selector was given, with which the names of rows end. */
export const densityIn = ({ name }: Row): number => Number(/([\d.]+) %$/.exec(name)![1]) / 100;

/** What a row says that `qualityRow` made; undefined: it is another. Faults are not in tables. */
export function judgedIn(row: Row): Judged | undefined {
  const { quality, figures } = row;
  if (!quality) return undefined;
  const { data, tokens, headDim, mask } = row.case;
  const [kind, phase] = data!.split(', ');
  return {
    kind: kind as Kind,
    phase: PHASES.find((each) => phaseName(each) === phase)!,
    keys: tokens,
    headDim,
    selector: mask,
    density: densityIn(row),
    scored: figures![SCORED]!,
    quality: {
      density: 1 - quality.sparsity,
      mass: quality[MASS]!,
      recall: quality[RECALL]!,
      error: quality[ERROR]!,
      accuracy: quality[ACCURACY],
    },
  };
}
