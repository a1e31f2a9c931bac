// node main.ts public|addon CALLS SEED LAST: that many calls in sequences, each on objects of its own. The call that is
// about to be made is always in the file LAST, so that whoever started this process knows what ended it. A refusal
// that is not an AttentionError, and memory that does not come back, end it with the shortest sequence that shows it.

import { openSync, writeSync } from 'node:fs';
import fc from 'fast-check';
import { AttentionError, devices, memoryStats } from 'node-attention';
import { addonCalls, addonPool, collectHandles, disposeHandles } from './addon';
import type { Call } from './call';
import { collect, disposePool, publicCalls, publicPool } from './public';
import { type Any, Pool, Thrown } from './value';

const [level, calls, seed, last] = [
  process.argv[2]!,
  Number(process.argv[3]),
  Number(process.argv[4]),
  process.argv[5]!,
];
const file = openSync(last, 'w');
const names = devices()
  .filter(({ usable }) => usable)
  .map(({ device }) => device as string);
const levels: Record<string, Any> = {
  public: { calls: publicCalls(names), fill: publicPool, keep: collect, dispose: disposePool },
  addon: { calls: addonCalls(names), fill: addonPool, keep: collectHandles, dispose: disposeHandles },
};
const { calls: arbitrary, fill, keep, dispose } = levels[level];

const codes = new Set(
  'SHAPE DTYPE DEVICE OPTION DISPOSED PENDING OUT_OF_MEMORY'.split(' ').map((name) => `ERR_${name}`),
);
const counts = { calls: 0, refused: 0 };

function note(call: Call): void {
  writeSync(file, `call ${counts.calls}: ${call.text}`.slice(0, 3999).padEnd(4000), 0);
}

/** Whether an error is one that a call may end with. The addon looks into proxies, the layer above it has done so. */
const expected = (error: Any): boolean =>
  error instanceof Thrown ||
  (/^KvCache\.(save|load): E/.test(error?.message) && error.syscall !== undefined) ||
  (level === 'addon' && error instanceof TypeError && /proxy that has been revoked/.test(error.message)) ||
  (error instanceof AttentionError && codes.has(error.code) && error.message.length > 0);

const live = () => names.map((name) => memoryStats(name as 'cpu')).map(({ live, bytes }) => `${live} (${bytes} bytes)`);

const atStart = String(live());

/** Waits until memory is what it was; false when it stays otherwise, long after any work has ended. */
async function backTo(memory: string, patience: number): Promise<boolean> {
  for (const begun = Date.now(); String(live()) !== memory; await new Promise((resolve) => setTimeout(resolve, 1))) {
    globalThis.gc?.();
    if (Date.now() - begun > patience) return false;
  }
  return true;
}

let leaked = false; // by an earlier sequence

async function sequence(given: Call[]): Promise<void> {
  const pool = new Pool();
  await backTo(atStart, leaked ? 100 : 5000);
  const before = String(live());
  fill(pool, names);
  const promises: Promise<unknown>[] = [];
  const check = (call: Call) => (error: unknown) => {
    counts.refused++;
    if (!expected(error)) throw new Error(`${call.text}: ${(error as Any)?.stack ?? String(error)}`);
  };
  // A function, and nothing of a promise but that it is kept: what is made can be collected at the end.
  const run = (call: Call) => {
    counts.calls++;
    note(call);
    try {
      const made = call.run(pool);
      if (made instanceof Promise) promises.push(made.then(() => {}, check(call)));
      else keep(pool, made, call.text);
    } catch (error) {
      check(call)(error);
    }
  };
  try {
    given.forEach(run);
  } finally {
    dispose(pool);
    await Promise.allSettled(promises);
  }
  await Promise.all(promises);
  if (await backTo(before, 5000)) return;
  leaked = true;
  throw new Error(`memory is ${live()}, and was ${before}`);
}

async function main(): Promise<void> {
  const sequences = fc.array(arbitrary as fc.Arbitrary<Call>, { minLength: 1, maxLength: 200, size: 'max' });
  for (let batch = 0; counts.calls < calls; batch++) {
    const property = fc.asyncProperty(sequences, sequence);
    await fc.assert(property, { seed: seed + batch, numRuns: 20, endOnFailure: false });
    globalThis.gc?.();
  }
  console.log(JSON.stringify(counts));
}

main().catch((error: unknown) => {
  for (let e = error as Any; e; e = e.cause) console.error(e.message ?? String(e));
  process.exitCode = 1;
});
