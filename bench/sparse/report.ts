// From what was measured to what is printed.

import type { Row } from '../format';
import { type Column, columnsOf, percent, tableOf } from '../report';
import { growth, median } from '../statistics';
import type { Target } from '../targets';
import { densityText, PHASES, phaseName } from './cases';
import { ABOUT_KINDS, KINDS, type Phase } from './inputs';
import { type Judged, judgedIn } from './judged';
import { listsAll } from './listed';
import { type Found, foundIn, HEIGHT, NEEDLES } from './needles';
import { type Quality, TOP } from './quality';
import { selectorOf } from './selectors';
import { STEPS } from './steps';
import { DENSE_OVER_ATTENTION, GROWING, GROWTH_BUDGET, type GrowthOutcome } from './time';

/** The same selector, length and density on every kind of input. */
interface Group {
  selector: string;
  density: number;
  scored: number;
  members: Judged[];
}

function groupsOf(judged: readonly Judged[]): Group[] {
  const groups: Group[] = [];
  for (const each of judged) {
    const { selector, density, scored } = each;
    const group = groups.find((other) => other.selector === selector && other.density === density);
    if (group) group.members.push(each);
    else groups.push({ selector, density, scored, members: [each] });
  }
  return groups;
}

/** The kind on which a measure is worst. */
export function worstOf(members: readonly Judged[], badness: (quality: Quality) => number): Judged {
  return members.reduce((worst, each) => (badness(each.quality) > badness(worst.quality) ? each : worst));
}

const columns: Column<Group>[] = [
  ['selector', ({ selector }) => selector],
  ['density', ({ density }) => densityText(density)],
  ['measured', ({ members }) => rangeText(members.map(({ quality }) => quality.density))],
  ['keys scored', ({ scored }) => percent(1)(scored)],
  ...KINDS.map((kind): Column<Group> => {
    const own = ({ members }: Group) => members.find((each) => each.kind === kind)?.quality;
    return [`mass ${kind}`, (group) => own(group)?.mass.toFixed(3)];
  }),
  worst(
    'worst mass',
    ({ mass }) => -mass,
    ({ mass }) => mass.toFixed(3),
  ),
  worst(
    `worst recall@${TOP}`,
    ({ recall }) => -recall,
    ({ recall }) => recall.toFixed(3),
  ),
  worst(
    'worst output error',
    ({ error }) => error,
    ({ error }) => error.toFixed(3),
  ),
  [
    'MQAR',
    ({ members }) => percent(0)(members.find(({ quality }) => quality.accuracy !== undefined)?.quality.accuracy),
  ],
];

/** Of the same selector on several kinds of input: what it chooses there may not be the same share. */
function rangeText(shares: readonly number[]): string {
  const [least, most] = [Math.min(...shares), Math.max(...shares)].map((share) => percent(1)(share)!);
  return least === most ? least! : `${least} - ${most}`;
}

function worst(
  heading: string,
  badness: (quality: Quality) => number,
  text: (quality: Quality) => string,
): Column<Group> {
  return [
    heading,
    ({ members }) => {
      const found = worstOf(members, badness);
      return `${text(found.quality)} (${found.kind})`;
    },
  ];
}

/** A line for each selector, a column for each width. */
function needleTable(found: readonly Found[]): string {
  const lines = [...new Set(found.map(({ selector }) => selector))].map((selector) =>
    found.filter((each) => each.selector === selector),
  );
  const widths = [...new Set(found.map(({ test }) => test.width))].sort((a, b) => a - b);
  return tableOf<Found[]>(
    [
      ['selector', ([first]) => first!.selector],
      ['measured', (line) => rangeText(line.map(({ shown }) => shown))],
      ['keys scored', ([first]) => percent(1)(first!.scored)],
      ...widths.map(
        (width): Column<Found[]> => [
          `width ${width}`,
          (line) => percent(0)(line.find(({ test }) => test.width === width)?.rate),
        ],
      ),
    ],
    lines,
  );
}

/** What has no times: a table for each length and phase, and for each context with needles. */
function untimedTables(judged: readonly Judged[], found: readonly Found[]): string[] {
  const lengths = [...new Set(judged.map(({ keys }) => keys))];
  const quality = lengths.flatMap((keys) =>
    PHASES.flatMap((phase) => {
      const here = judged.filter((each) => each.keys === keys && each.phase === phase);
      return here.length === 0
        ? []
        : [`Quality, ${phaseName(phase)}, ${keys} keys\n\n${tableOf(columns, groupsOf(here))}`];
    }),
  );
  const contextOf = ({ test: { keys, density } }: Found) => `${keys} keys, ${densityText(density)}`;
  const needles = [...new Set(found.map(contextOf))].map((context) => {
    const table = needleTable(found.filter((each) => contextOf(each) === context));
    return `Needles found, ${phaseName('decode')}, ${context}\n\n${table}`;
  });
  return [...quality, ...needles];
}

/** The same of rows, of whichever runs they are. */
export const untimedText = (rows: readonly Row[]): string =>
  untimedTables(
    rows.flatMap((row) => judgedIn(row) ?? []),
    rows.flatMap((row) => foundIn(row) ?? []),
  ).join('\n\n');

export function printed(
  judged: readonly Judged[],
  timed: readonly Row[],
  grown: readonly Row[],
  found: readonly Found[] = [],
): string {
  const parts = untimedTables(judged, found);
  for (const data of new Set(timed.map((row) => row.case.data))) {
    const rows = timed.filter((row) => row.case.data === data);
    parts.push(`Time, ${data}\n\n${tableOf(columnsOf(rows), rows)}`);
  }
  if (grown.length > 0) parts.push(`Selecting for as many queries as keys\n\n${tableOf(columnsOf(grown), grown)}`);
  return [...parts, SPARSE_NOTES].join('\n\n');
}

const SPARSE_NOTES = `\
Every selector shows the first 64 keys and the last 256, and chooses the rest of the density; measured: what its plans
show, blocks being whole. mass: the share of dense
attention's softmax that falls on keys that are seen, the mean over queries; recall: of the ${TOP} keys with the largest
weights; output error: length of the difference from the dense output over the length of that. All against float64. keys
scored: vectors whose scores are computed to select, over the keys, by the definition of the selector; pages and pooled
blocks are besides made anew of all keys by every call, but not in times of decoding, over a cache that keeps them. Decoding: every query has a
choice of its own; prefill, the last 2048 queries or with --full 32768: 64 share one. MQAR: answers that are right, of questions with one place each. Needles: of ${NEEDLES}, those whose middle is seen;
each is a smooth hump of keys along the direction of one query, at a random place that not every plan shows, added to noise:
${HEIGHT} standard deviations of other keys' scores high in the middle, and half as high at half its width from there. Times:
ms is selection and attention together, beside either alone, dense attention and a window of as many keys; floor and GFLOP/s
are of attention alone. Steps of decoding: ${STEPS} of them, of which each appends its token, selects and attends, on a cache
that forgets them before it has the next turn.
Blocks listed: attention over a plan of random blocks of 64 keys unless said, and its time over that of dense attention times
their share; by query: each query has blocks of its own, elsewhere the 64 queries of a tile have the same.
${KINDS.map((kind) => `${kind}: ${ABOUT_KINDS[kind]}.`).join('\n')}`;

/** The densities that all lengths have; the longest of them is quoted. */
export function findingsOf(
  judged: readonly Judged[],
  growths: readonly Pick<GrowthOutcome, 'test' | 'samples' | 'planBytes' | 'memory'>[],
): { name: string; text: string }[] {
  const longest = Math.max(...judged.map(({ keys }) => keys));
  const density = Math.min(...judged.filter(({ keys }) => keys === longest).map((each) => each.density));
  const quoted = judged.filter((each) => each.keys === longest && each.density === density);
  const findings = groupsOf(quoted).map(({ selector, members }) => {
    const least = worstOf(members, ({ mass }) => -mass);
    const real = members.filter(({ kind }) => kind !== 'noise' && kind !== 'MQAR');
    const structured = real.length === 0 ? undefined : worstOf(real, ({ mass }) => -mass);
    const describe = ({ quality, kind, phase }: Judged) => `${quality.mass.toFixed(3)} (${kind}, ${phaseName(phase)})`;
    return {
      name: `${selector}, ${longest} keys, ${densityText(density)}`,
      text:
        `softmax mass at worst ${describe(least)}` +
        (structured ? `, of heads with structure and text ${describe(structured)}` : ''),
    };
  });
  if (growths.length < LEAST_LENGTHS) return findings;
  const loglinear = power(growths, ({ test }) => test.tokens * Math.log(test.tokens / GROWTH_BUDGET));
  return [
    ...findings,
    ...GROWING.map((selector, n) => {
      const time = power(growths, ({ samples }) => median(samples[n]!));
      const scored = power(growths, ({ test }) => scoredInAll(selector, test.tokens));
      const told = growths.filter(({ memory }) => memory[selector] !== undefined);
      const memory = told.length < LEAST_LENGTHS ? undefined : power(told, ({ memory }) => memory[selector]!);
      return {
        name: `growth of ${selector}`,
        text:
          `time with tokens to the power of ${time} over ${growths.length} lengths (vectors scored ` +
          `${scored}; T log(T / budget) ${loglinear}), ${memory === undefined ? '' : `memory of ${memory}, `}` +
          `plan of ${power(growths, ({ planBytes }) => planBytes[selector]!)}`,
      };
    }),
  ];
}

/** Fewer say nothing of growth. */
const LEAST_LENGTHS = 5;

/** The power of tokens with which something grows. */
const power = <T extends Pick<GrowthOutcome, 'test'>>(growths: readonly T[], of: (outcome: T) => number): string =>
  growth(growths.map((each) => [each.test.tokens, of(each)])).toFixed(2);

/** Tiles of queries of all positions, causal, whose vectors scored are added up. */
const SAMPLED = 512;

/** Vectors that are scored for as many queries as keys, but for a factor that all lengths have in common. */
function scoredInAll(selector: string, tokens: number): number {
  const places = Array.from({ length: SAMPLED }, (_, n) => ((n + 0.5) / SAMPLED) * tokens);
  const scored = places.map((keys) => selectorOf(selector).scored(keys, GROWTH_BUDGET));
  return tokens * scored.reduce((sum, each) => sum + each, 0);
}

/** Of rows with a selection: what rows of all lengths have in common. */
export const efficiencyName = ({ case: { data, mask } }: Row): string | undefined =>
  PHASES.some((phase) => phaseName(phase) === data) ? `${data} with ${mask}` : undefined;

const LONG = 131072;
const isTimed = ({ case: { data, mask, tokens } }: Row, phase: Phase) =>
  data === phaseName(phase) && mask.endsWith(` ${densityText(0.02)}`) && tokens >= LONG;

/** An estimate scores a mean of every block besides the keys that are seen, which are the 2 %. */
const estimates = ({ case: { mask } }: Row) => mask.includes(' + estimate ');

const keepsStages = ({ case: { data, mask, tokens } }: Row) =>
  data === `${STEPS} steps of decoding` && mask === `hip + state ${densityText(0.02)}` && tokens >= LONG;

export const TARGETS: Target<Row>[] = [
  {
    text: `decoding at ${LONG} keys and 2 %: attention 10 times as fast as dense`,
    figure: (row) => (isTimed(row, 'decode') && !estimates(row) ? row.figures?.[DENSE_OVER_ATTENTION] : undefined),
    atLeast: 10,
  },
  {
    text: `${STEPS} steps of decoding at ${LONG} keys and 2 %, stages kept: with selection 10 times as fast as dense`,
    figure: (row) => (keepsStages(row) ? row.ratios.dense?.median : undefined),
    atLeast: 10,
  },
  {
    text: `prefill at ${LONG} keys and 2 %: with selection 5 times as fast as dense`,
    figure: (row) => (isTimed(row, 'prefill') ? row.ratios.dense?.median : undefined),
    atLeast: 5,
  },
  {
    text: 'all blocks listed: at most 5 % slower than dense',
    figure: (row) => (listsAll(row) ? row.ratios.dense?.median : undefined),
    atLeast: 0.95,
  },
];
