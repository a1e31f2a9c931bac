// What the predictions are worth: accuracy on several sets of tokens, two simple predictors to compare with, and the
// finding in one sentence.

import { CONTEXT } from './codes';
import type { Tokens } from './tokenize';

export interface Result {
  /** What this predictor was to see: the number of tokens, undefined for all. */
  width: number | undefined;
  /** Who chose them; a window of the last ones unless given. */
  selector?: string;
  /** Prediction i is for token i + 1. */
  predicted: Int32Array;
  seconds: number;
  /** Keys that a query saw, the mean over all queries. */
  seen: number;
}

/** How often the predictions are right, over those that `counts` selects; NaN when it selects none. */
export function accuracy(ids: Int32Array, predicted: Int32Array, counts: (i: number) => boolean = () => true): number {
  let right = 0;
  let all = 0;
  predicted.forEach((id, i) => {
    if (!counts(i)) return;
    all++;
    if (id === ids[i + 1]) right++;
  });
  return right / all;
}

/**
 * For every prediction, how many positions ago the last `length` tokens were seen before, -1 if never. Where the
 * distance is `width` or more, the key that remembers the place lies outside a window of that width.
 */
export function contextDistances(ids: Int32Array, length = CONTEXT): Int32Array {
  const last = new Map<string, number>();
  const distances = new Int32Array(ids.length - 1).fill(-1);
  for (let i = length - 1; i < distances.length; i++) {
    const context = ids.subarray(i - length + 1, i + 1).join();
    const before = last.get(context);
    // The place where the context ended at `before` is remembered by the key one position later.
    if (before !== undefined) distances[i] = i - before - 1;
    last.set(context, i);
  }
  return distances;
}

/** Predicts the token that was the most frequent so far. */
export function mostFrequent(ids: Int32Array, vocabularySize: number): Int32Array {
  const counts = new Int32Array(vocabularySize);
  let best = ids[0]!;
  return ids.subarray(0, -1).map((id) => {
    counts[id]!++;
    if (counts[id]! > counts[best]!) best = id;
    return best;
  });
}

/** Predicts what came after the last place with the same preceding tokens, for the longest context seen before. */
export function exactLookup(ids: Int32Array, longest = CONTEXT): Int32Array {
  const predicted = new Int32Array(ids.length - 1).fill(-1);
  for (let length = 1; length <= longest; length++) {
    const next = new Map<string, number>();
    for (let i = length - 1; i < predicted.length; i++) {
      const context = ids.subarray(i - length + 1, i + 1).join();
      predicted[i] = next.get(context) ?? predicted[i]!;
      next.set(context, ids[i + 1]!);
    }
  }
  return predicted;
}

/**
 * The table, and a sentence on each selector. `full` is the result that saw everything, `biased` the same with ALiBi if
 * wanted, `sparse` the others, the most tokens first.
 */
export function report(tokens: Tokens, full: Result, sparse: Result[], biased?: Result): string {
  const { ids, vocabulary, identifier } = tokens;
  const isIdentifier = (i: number) => identifier[ids[i + 1]!] === 1;
  const distances = contextDistances(ids);
  const selectors = new Set(sparse.map(({ selector = 'window' }) => selector));

  const losses = sparse.map((result) => {
    const { width, selector = 'window', predicted } = result;
    const isFar = (i: number) => distances[i]! >= width!;
    return {
      result,
      width: width!,
      selector,
      all: accuracy(ids, predicted),
      share: distances.reduce((count, _, i) => count + Number(isFar(i)), 0) / distances.length,
      far: accuracy(ids, predicted, isFar),
      farFull: accuracy(ids, full.predicted, isFar),
    };
  });
  const rows = [
    [
      '',
      'all tokens',
      'identifiers',
      'keys seen',
      'tokens/s',
      'far tokens',
      selectors.size > 1 ? 'right' : `${[...selectors][0] ?? 'window'} right`,
      'full right',
    ],
  ];
  const add = (name: string, predicted: Int32Array, ...more: string[]) =>
    rows.push([name, percent(accuracy(ids, predicted)), percent(accuracy(ids, predicted, isIdentifier)), ...more]);
  const addResult = (name: string, result: Result, ...more: string[]) =>
    add(name, result.predicted, count(Math.round(result.seen)), speed(result), ...more);
  addResult('full attention', full);
  if (biased) addResult('full with ALiBi', biased);
  for (const { result, width, selector, share, far, farFull } of losses) {
    addResult(`${selector} of ${count(width)}`, result, percent(share), percent(far), percent(farFull));
  }
  add(`exact lookup, last ${CONTEXT} or fewer`, exactLookup(ids));
  add('most frequent so far', mostFrequent(ids, vocabulary.length));

  const bound = [...selectors].some((selector) => selector !== 'window') ? 'number of tokens seen' : 'window';
  const lines = [
    table(rows),
    '',
    `Far: tokens whose preceding ${CONTEXT} tokens were last seen further back than the ${bound}.`,
  ];
  const narrowest = losses.at(-1)?.width;
  const whole = accuracy(ids, full.predicted);
  for (const { width, selector, all, share, far, farFull } of losses.filter(({ width }) => width === narrowest)) {
    const who = selector === 'window' ? 'A window' : `Selector ${selector}, with a budget`;
    const what = selector === 'window' ? 'the window' : 'that';
    lines.push(
      `${who} of ${count(width)} tokens gets ${percent(all)} of the tokens right, full attention ${percent(whole)}` +
        (share > 0
          ? `; of the ${percent(share)} whose context was last seen further back than ${what} it gets ${percent(far)} right, ` +
            `full attention ${percent(farFull)}.`
          : `, and no context was last seen further back than ${what}.`),
    );
  }
  return lines.join('\n');
}

/** What a decoder that saw `width` tokens predicted; see Decoded. */
export interface Retrieval {
  name: string;
  width: number | undefined;
  predicted: Int32Array;
  count: number;
  seconds: number;
  read: number;
}

/** The table and the sentence of decoders: of full attention, and of windows beside what was retrieved, widest first. */
export function reportRetrieval(
  { ids }: Tokens,
  { starts, size }: { starts: number[]; size: number },
  full: Retrieval,
  others: [window: Retrieval, retrieved: Retrieval][],
): string {
  const distances = contextDistances(ids);
  const decoded = (i: number) => full.predicted[i] !== -1;
  const narrowest = others.at(-1);
  const far = (i: number) => decoded(i) && distances[i]! >= (narrowest?.[0].width ?? Number.POSITIVE_INFINITY);
  const right = (of: Retrieval, counts = decoded) => percent(accuracy(ids, of.predicted, counts));
  const perSecond = ({ count, seconds }: Retrieval) => count / seconds;
  const rows = [full, ...others.flat()].map((of) => [
    of.name,
    right(of),
    right(of, far),
    count(Math.round(perSecond(of))),
    percent(of.read),
  ]);
  const lines = [
    `${count(full.count)} tokens in ${starts.length} stretches of ${size}, from position ${count(starts[0]!)} on`,
    '',
    table([['', 'all tokens', 'far tokens', 'tokens/s', 'keys read'], ...rows]),
  ];
  if (narrowest) {
    const [near, found] = narrowest;
    lines.push(
      '',
      `Far: tokens whose preceding ${CONTEXT} tokens were last seen ${count(near.width!)} or more tokens ago.`,
      `With ${found.name} tokens, ${right(found)} of all tokens are right and ${right(found, far)} of the far ones, with a window ` +
        `of as many ${right(near)} and ${right(near, far)}, with full attention ${right(full)} and ${right(full, far)}; it read ` +
        `${percent(found.read)} of the keys and was ${(perSecond(found) / perSecond(full)).toFixed(1)} times as fast as full attention.`,
    );
  }
  return lines.join('\n');
}

const count = (n: number) => n.toLocaleString('en-US');
const percent = (share: number) => (Number.isNaN(share) ? '-' : `${(share * 100).toFixed(1)} %`);
const speed = ({ predicted, seconds }: Result) => count(Math.round(predicted.length / seconds));

/** Columns padded to their widest cell: the first to the left, the others to the right. */
function table(rows: string[][]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  const line = (row: string[]) =>
    row.map((cell, c) => (c === 0 ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!))).join('   ');
  return rows.map(line).join('\n');
}
