// Prints the largest element of the output where every key but one weighs 2^-140 of that one, whose value is 0, and the
// values of the others are as large as float32 goes: with one query, with a few and with many. test/24 runs it.

import { attention, devices, Tensor } from 'node-attention';

const KEYS = 40;
const DIM = 16;

/** [1, tokens, 1, DIM], whose first column is what `first` gives, all others 0. */
const columns = (tokens: number, first: (token: number) => number) =>
  Tensor.from(
    Float32Array.from({ length: tokens * DIM }, (_, n) => (n % DIM ? 0 : first(n / DIM))),
    [1, tokens, 1, DIM],
  );

async function main(): Promise<void> {
  const k = columns(KEYS, (key) => (key === 7 ? 0 : -140 * Math.LN2));
  const v = columns(KEYS, (key) => (key === 7 ? 0 : 3e38));
  const most: number[] = [];
  for (const queries of [1, 5, 70]) {
    const q = columns(queries, () => 1);
    const { out } = attention(q, k, v, { scale: 1 });
    most.push(Math.max(...((await out.read()) as Float32Array)));
  }
  const used = devices().find(({ device }) => device === 'cpu')!.instructionSet;
  console.log(`${used}: ${most.join(' ')}`);
}

main();
