// Whether a contestant added its bias: sampled rows against the float64 oracle of the tests.

import type { Tensor } from 'node-attention';
import type { Problem } from '../../test/support/oracle';
import { expected } from '../../test/support/tolerance';
import { count } from '../cases';
import { faultOfRow, firstOdd } from '../check';
import type { BiasCase } from './cases';
import { type Contestant, type Inputs, scoreBias } from './contestants';

const SAMPLES = 4;

export interface Judged {
  fault?: string;
  /** The largest difference from float64 in the sampled rows, and the largest that is allowed there. */
  error: number;
  tolerance: number;
}

/** Looks at the latest result of a contestant. */
export async function judgeOutput(contestant: Contestant, test: BiasCase, inputs: Inputs): Promise<Judged> {
  const { batch, tokens, heads, headDim, dtype, causal } = test;
  const length = count(tokens);
  const output = await contestant.output();
  const judged: Judged = { error: 0, tolerance: 0 };
  const odd = firstOdd(output);
  if (odd !== -1) return { ...judged, fault: `element ${odd} of all is ${output[odd]}` };
  for (let n = 0; n < Math.max(SAMPLES, inputs.sets); n++) {
    // The first row and the last one, and others; of each set one at least.
    const part = n % SAMPLES;
    const query = part === 0 ? 0 : part === 1 ? length - 1 : Math.floor((length * part) / SAMPLES) + part;
    const [entry, head] = [(n % inputs.sets) * batch + (n % batch), n % heads];
    const seen = causal ? query + 1 : length;
    const rows = (values: Float32Array, first: number, rowCount: number) => ({
      shape: [1, rowCount, 1, headDim],
      data: Float64Array.from({ length: rowCount * headDim }, (_, i) => {
        const token = entry * length + first + Math.floor(i / headDim);
        return values[(token * heads + head) * headDim + (i % headDim)]!;
      }),
    });
    const { out, tolerance } = expected(
      {
        q: rows(inputs.q, query, 1),
        k: rows(inputs.k, 0, seen),
        v: rows(inputs.v, 0, seen),
        ...(await biasOfRow(contestant, test, inputs, head, query, seen)),
      },
      dtype,
    );
    const at = ((entry * length + query) * heads + head) * headDim;
    for (let c = 0; c < headDim; c++) judged.error = Math.max(judged.error, Math.abs(output[at + c]! - out[c]!));
    judged.tolerance = Math.max(judged.tolerance, tolerance.out);
    const fault = faultOfRow(output, at, out, tolerance.out);
    judged.fault ??= fault && `batch ${entry}, query ${query}, head ${head}, ${fault}`;
  }
  return judged;
}

/** The bias of one query and the keys it sees, as the oracle takes it. */
async function biasOfRow(
  { form, factors }: Contestant,
  test: BiasCase,
  inputs: Inputs,
  head: number,
  query: number,
  seen: number,
): Promise<Pick<Problem, 'keyBias' | 'lowRank' | 'distance'>> {
  const length = count(test.tokens);
  if (form === 'none') return {};
  if (factors) {
    const part = async (factor: Tensor, from: number, to: number) => {
      const values = await factor.slice([0, 1], [from, to], [head, head + 1]).read();
      return { shape: [1, to - from, 1, factor.shape.at(-1)!], data: Float64Array.from(values as Float32Array) };
    };
    return { lowRank: { q: await part(factors[0], query, query + 1), k: await part(factors[1], 0, seen) } };
  }
  if (form === 'distance') {
    const points = (from: number, to: number) => ({
      shape: [to - from, 3],
      data: Float64Array.from(inputs.points.subarray(3 * from, 3 * to)),
    });
    return { distance: { q: points(query, query + 1), k: points(0, seen) } };
  }
  const first = (head * length + query) * length;
  const data =
    form === 'alibi' || form === 'relative'
      ? Float64Array.from({ length: seen }, (_, j) => scoreBias(form, test, inputs, head, query, j))
      : Float64Array.from(inputs.dense!.subarray(first, first + seen));
  return { keyBias: { shape: [seen], data } };
}
