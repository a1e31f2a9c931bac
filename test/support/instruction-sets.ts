// The instruction sets of this machine, and the sweeps that each of them has to stand.

import { devices } from 'node-attention';
import { expect, it } from 'vitest';
import { program } from './program';

const order = ['generic', 'avx2', 'avx512', 'amx'];
const used = devices().find(({ device }) => device === 'cpu')?.instructionSet ?? '';

/** All that this machine has, up to the one that this process uses. */
export const instructionSets = order.slice(0, order.indexOf(used) + 1);

/** A test for each instruction set that so many problems of a kind agree with the oracle there, in a process of its own. */
export function itAgrees(title: string, kind: string, runs: number, seed: number, isas = instructionSets): void {
  it.each(isas)(
    `${title} with %s`,
    async (isa) => {
      const said = await program('sweep.ts', [kind, String(runs), String(seed)], { NODE_ATTENTION_CPU: isa });
      expect(said).toBe(`${isa}: ${runs} problems agree`);
    },
    600_000,
  );
}
