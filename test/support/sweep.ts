// Compares random problems with the oracle under the instruction set that the environment forces, which is read once
// when the library is loaded: test/20, test/23, test/27, test/29, test/31, test/32 and test/34 run this program once for
// each.
//   tsx test/support/sweep.ts any|decode|plan|estimate|levels|cached|retrieve|select RUNS SEED

import fc from 'fast-check';
import { devices } from 'node-attention';
import { cachedCase, checkCached } from './cached';
import { attentionCase, decodeCase, problemOf } from './cases';
import { check, expectedOn, expectResult, run } from './library';
import { estimateCase, estimateProblem, levelsCase, levelsProblem, planCase, planProblem, withMeans } from './plans';
import { checkClusters, checkRetrieval, checkRounding, retrievalCase } from './retrieval';
import { cases, checkLevels, checkSelector, sizes } from './selectors';

const kind = process.argv[2];
const [runs, seed] = process.argv.slice(3).map(Number);
const used = devices().find(({ device }) => device === 'cpu')?.instructionSet;

async function main(): Promise<void> {
  if (used !== process.env.NODE_ATTENTION_CPU) {
    throw new Error(`asked for ${process.env.NODE_ATTENTION_CPU}, the library uses ${used}`);
  }
  const property =
    kind === 'select'
      ? fc.asyncProperty(fc.constant([sizes[0]!, sizes[2]!]), async (all) => {
          for (const one of cases) for (const size of all) await checkSelector(one, size);
          for (const size of all) await checkLevels(size);
        })
      : kind === 'estimate'
        ? fc.asyncProperty(estimateCase, async (one) => {
            const problem = estimateProblem(one);
            const want = expectedOn('cpu', withMeans(problem, one.dtype), one.dtype);
            expectResult(await run(problem, one.dtype, one.seed), want);
          })
        : kind === 'levels'
          ? fc.asyncProperty(levelsCase, async (one) => {
              const { dtype, seed: embedSeed } = one.rest;
              const problem = levelsProblem(one);
              expectResult(await run(problem, dtype, embedSeed), expectedOn('cpu', withMeans(problem, dtype), dtype));
            })
          : kind === 'plan'
            ? fc.asyncProperty(planCase, (one) => check(planProblem(one), one.dtype, one.seed))
            : kind === 'cached'
              ? fc.asyncProperty(cachedCase, checkCached)
              : kind === 'retrieve'
                ? fc.asyncProperty(retrievalCase, checkRetrieval)
                : fc.asyncProperty(kind === 'decode' ? decodeCase : attentionCase, (one) =>
                    check(problemOf(one), one.dtype, one.seed),
                  );
  await fc.assert(property as fc.IAsyncProperty<unknown>, { numRuns: runs, seed });
  if (kind === 'retrieve') {
    await checkRounding();
    await checkClusters();
  }
  console.log(`${used}: ${runs} problems agree`);
}

main().catch((error: unknown) => {
  for (let e = error; e instanceof Error; e = e.cause) console.error(e.message);
  process.exitCode = 1;
});
