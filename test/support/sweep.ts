// Compares random problems with the oracle under the instruction set that the environment forces, which is read once
// when the library is loaded: test/20 and test/23 run this program once for each.
//   tsx test/support/sweep.ts any|decode RUNS SEED

import fc from 'fast-check';
import { devices } from 'node-attention';
import { attentionCase, decodeCase, problemOf } from './cases';
import { check } from './library';

const cases = process.argv[2] === 'decode' ? decodeCase : attentionCase;
const [runs, seed] = process.argv.slice(3).map(Number);
const used = devices().find(({ device }) => device === 'cpu')?.instructionSet;

async function main(): Promise<void> {
  if (used !== process.env.NODE_ATTENTION_CPU) {
    throw new Error(`asked for ${process.env.NODE_ATTENTION_CPU}, the library uses ${used}`);
  }
  await fc.assert(
    fc.asyncProperty(cases, (one) => check(problemOf(one), one.dtype, one.seed)),
    { numRuns: runs, seed },
  );
  console.log(`${used}: ${runs} problems agree`);
}

main().catch((error: unknown) => {
  for (let e = error; e instanceof Error; e = e.cause) console.error(e.message);
  process.exitCode = 1;
});
