// Compares problems with extreme numbers with the oracle, under the instruction set that the environment forces, as
// sweep.ts does with random ones. Infinities must reach what plain arithmetic lets them reach and nothing else, and tiny
// and huge numbers must count as much as others. For bfloat16 only infinities are tried: AMX takes its denormals for 0.
//   tsx test/support/extremes.ts

import { devices } from 'node-attention';
import { expectResult, run } from './library';
import { type Float, normal, round, uniform, type Values } from './numbers';
import type { Problem } from './oracle';
import { type Expected, expected } from './tolerance';

const [queries, keys, dim] = [70, 150, 40];
const used = devices().find(({ device }) => device === 'cpu')?.instructionSet;
let problems = 0;

function ordinary(dtype: Float, scale?: number): Problem {
  const random = uniform(9);
  const make = (tokens: number) => normal(random, dtype, [1, tokens, 1, dim]);
  return { q: make(queries), k: make(keys), v: make(keys), scale };
}

/** Sets column 0 of the rows from `first` on, every one or only so many. */
function setColumn({ data }: Values, value: (old: number) => number, first = 0, rows = data.length / dim): void {
  for (let row = first; row < first + rows; row++) data[row * dim] = value(data[row * dim]!);
}

async function compare(name: string, dtype: Float, problem: Problem, want: Expected = expected(problem, dtype)) {
  try {
    expectResult(await run(problem, dtype), want);
  } catch (cause) {
    throw new Error(`${dtype} ${name}`, { cause });
  }
  problems++;
}

async function infinities(dtype: Float, scale: number): Promise<void> {
  const { NEGATIVE_INFINITY: below, NaN: nan } = Number;
  const away = scale < 0 ? -below : below; // what times a positive number is a score of minus infinity
  // A key with scores of minus infinity is not there. Half of the numbers are bfloat16, whose other parts are 0.
  const hidden = ordinary(dtype, scale);
  setColumn(hidden.q, (x) => round(dtype, Math.abs(x) + 0.5));
  setColumn(hidden.q, () => 0.5, 0, queries / 2);
  const without = expected(
    {
      ...hidden,
      keyBias: { shape: [keys], data: Float64Array.from({ length: keys }, (_, key) => (key === 77 ? below : 0)) },
    },
    dtype,
  );
  setColumn(hidden.k, () => away, 77, 1);
  await compare('key at minus infinity', dtype, hidden, without);

  // A query with such scores only has none.
  const blind = ordinary(dtype, scale);
  setColumn(blind.k, (x) => round(dtype, Math.abs(x) + 0.5));
  setColumn(blind.k, () => 0.5, 0, keys / 2);
  const others = expected(blind, dtype);
  others.out.fill(0, 33 * dim, 34 * dim);
  others.lse[33] = below;
  setColumn(blind.q, () => away, 33, 1);
  await compare('query at minus infinity', dtype, blind, others);

  // Infinity and NaN in V stay in their columns, and NaN in K is in every row.
  for (const x of [-below, below, nan]) {
    const spoilt = ordinary(dtype, scale);
    const want = expected(spoilt, dtype);
    setColumn({ shape: [], data: want.out }, () => x);
    setColumn(spoilt.v, () => x, 149, 1);
    await compare(`${x} in V`, dtype, spoilt, want);
  }
  const lost = ordinary(dtype, scale);
  const want = expected(lost, dtype);
  setColumn(lost.k, () => nan, 3, 1);
  await compare('NaN in K', dtype, lost, { ...want, out: want.out.fill(nan), lse: want.lse.fill(nan) });
}

async function magnitudes(dtype: Float, scale: number): Promise<void> {
  const scaled = (power: number) => {
    const problem = ordinary(dtype, scale);
    problem.v.data.forEach((x, i) => {
      problem.v.data[i] = round(dtype, x * 2 ** power);
    });
    return problem;
  };
  if (dtype === 'float16') return compare('denormal V', dtype, scaled(-16));
  await compare('tiny V', dtype, scaled(-110));
  // Sums that are denormal themselves may be zero.
  const want = expected(scaled(-130), dtype);
  want.tolerance.out = 2 ** -126;
  await compare('denormal V', dtype, scaled(-130), want);

  // One factor of a product tiny, the other huge; their parts would vanish or overflow.
  for (const power of [60, 75, 110, 120]) {
    for (const sign of [1, -1]) {
      const balanced = ordinary(dtype, scale);
      setColumn(balanced.q, (x) => round(dtype, Math.min(1.9, x) * 2 ** (sign * power)), 11);
      setColumn(balanced.k, (x) => round(dtype, Math.min(1.9, x) * 2 ** (-sign * power)));
      await compare(`products of 2^${power} and 2^-${power}`, dtype, balanced);
    }
  }

  // The largest float for a value, of a key that comes late and has most of the weight.
  const large = ordinary(dtype, scale);
  setColumn(large.v, () => (2 - 2 ** -23) * 2 ** 127, 140, 1);
  for (let c = 0; c < dim; c++) large.k.data[140 * dim + c] = 0;
  setColumn(large.q, () => 1);
  setColumn(large.k, () => Math.sign(scale) * 35, 140, 1);
  await compare('largest V', dtype, large);
}

async function main(): Promise<void> {
  if (used !== process.env.NODE_ATTENTION_CPU) {
    throw new Error(`asked for ${process.env.NODE_ATTENTION_CPU}, the library uses ${used}`);
  }
  for (const scale of [0.2, -0.2]) {
    for (const dtype of ['float32', 'float16', 'bfloat16'] as const) {
      await infinities(dtype, scale);
      if (dtype !== 'bfloat16') await magnitudes(dtype, scale);
    }
  }
  console.log(`${used}: ${problems} problems agree`);
}

main().catch((error: unknown) => {
  for (let e = error; e instanceof Error; e = e.cause) console.error(e.message);
  process.exitCode = 1;
});
