// Whether a contestant computed attention at all: sampled rows against the float64 oracle of the tests, and no element
// anywhere that is not a number.

import { uniform } from '../test/support/numbers';
import { expected } from '../test/support/tolerance';
import { type Case, count, HEADS, sees } from './cases';
import type { Fault } from './format';
import type { Inputs } from './inputs';
import type { Contestant } from './measure';

const SAMPLES = 12;

interface Row {
  /** Of the queries of all sets and layers. */
  query: number;
  head: number;
  out: Float64Array;
  tolerance: number;
}

/** What sampled rows should be, and how far from it a float32 or bfloat16 evaluation may be (test/support/tolerance.ts). */
function expectedRows(test: Case, inputs: Inputs): Row[] {
  const { layers = 1 } = test;
  const [queries, keys] = [count(test.queries), count(test.keys)];
  const last = inputs.sets * layers * queries - 1;
  const random = uniform(1);
  return Array.from({ length: SAMPLES }, (_, n) => {
    // The first row and the last one, where masks, layers and sets end, and others.
    const query = n === 0 ? 0 : n === 1 ? last : Math.floor(random() * (last + 1));
    const head = n % HEADS;
    const seen: number[] = [];
    const first = Math.floor(query / queries) * keys; // of its layer
    for (let j = 0; j < keys; j++) if (sees(test, query % queries, j)) seen.push(first + j);
    const rows = (values: Float32Array, tokens: number[]) => ({
      shape: [1, tokens.length, 1, test.headDim],
      data: Float64Array.from({ length: tokens.length * test.headDim }, (_, i) => {
        const token = tokens[Math.floor(i / test.headDim)]!;
        return values[(token * HEADS + head) * test.headDim + (i % test.headDim)]!;
      }),
    });
    const { out, tolerance } = expected(
      { q: rows(inputs.q, [query]), k: rows(inputs.k, seen), v: rows(inputs.v, seen) },
      test.dtype,
    );
    return { query, head, out, tolerance: tolerance.out };
  });
}

/** What is wrong with an output; undefined if nothing is. */
function faultOf(
  output: ArrayLike<number>,
  rows: readonly Row[],
  { headDim }: Case,
  { q: { length } }: Inputs,
): string | undefined {
  if (output.length !== length) return `it has ${output.length} elements instead of ${length}`;
  const odd = firstOdd(output);
  if (odd !== -1) return `element ${odd} of all is ${output[odd]}`;
  for (const { query, head, out, tolerance } of rows) {
    const fault = faultOfRow(output, (query * HEADS + head) * headDim, out, tolerance);
    if (fault !== undefined) return `query ${query}, head ${head}, ${fault}`;
  }
  return undefined;
}

/** The first element that is no number, or -1. */
export function firstOdd(output: ArrayLike<number>): number {
  for (let i = 0; i < output.length; i++) if (!Number.isFinite(output[i])) return i; // a callback takes ten times as long
  return -1;
}

/** What is wrong with the elements from `at` on. */
export function faultOfRow(
  output: ArrayLike<number>,
  at: number,
  expected: ArrayLike<number>,
  tolerance: number,
): string | undefined {
  for (let c = 0; c < expected.length; c++) {
    const value = output[at + c]!;
    if (value === expected[c]! || Math.abs(value - expected[c]!) <= tolerance) continue; // infinities too
    return `element ${c} is ${value}; it must be within ${tolerance.toExponential(1)} of ${expected[c]!.toPrecision(9)}`;
  }
  return undefined;
}

function largestError(output: ArrayLike<number>, rows: readonly Row[], { headDim }: Case): number {
  let most = 0;
  for (const { query, head, out } of rows) {
    const at = (query * HEADS + head) * headDim;
    for (let c = 0; c < headDim; c++) most = Math.max(most, Math.abs(output[at + c]! - out[c]!));
  }
  return most;
}

export interface Examined {
  right: Contestant[];
  faults: Fault[];
  /** Of those that are right, the largest difference from float64 in the sampled rows; and the largest allowed there. */
  errors: { [contestant: string]: number };
  tolerance: number;
}

/** Has each contestant compute once on every set of inputs. The first is the one whose tolerance counts. */
export async function examine(contestants: readonly Contestant[], inputs: Inputs): Promise<Examined> {
  const examined: Examined = { right: [], faults: [], errors: {}, tolerance: 0 };
  const known = new Map<Case, Row[]>();
  for (const contestant of contestants) {
    const { name, test } = contestant;
    const rows = known.get(test) ?? expectedRows(test, inputs);
    if (known.size === 0) examined.tolerance = Math.max(...rows.map(({ tolerance }) => tolerance));
    known.set(test, rows);
    await contestant.run(inputs.sets);
    const output = await contestant.output();
    const fault = faultOf(output, rows, test, inputs);
    if (fault === undefined) {
      examined.right.push(contestant);
      examined.errors[name] = largestError(output, rows, test);
    } else examined.faults.push({ contestant: name, fault });
  }
  return examined;
}
