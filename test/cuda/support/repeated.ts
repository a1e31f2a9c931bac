// What comes out again bit for bit: under every schedule, in graphs, and whatever values hold that nobody sees.
import { attention, KvCache, type Mask, Stream, Tensor } from 'node-attention';
import { expect } from 'vitest';
import { run, tensorOf } from '../../support/library';
import { decode, type Float, normal, uniform } from '../../support/numbers';
import type { Problem } from '../../support/oracle';
import { schedule, schedules } from './device';

export const read = async ({ out, lse }: ReturnType<typeof attention>) => [await out.read(), await lse.read()] as const;

export async function checkSchedules(problem: Problem, dtype: Float, of = schedules): Promise<void> {
  let first: Awaited<ReturnType<typeof run>> | undefined;
  for (const one of of) {
    schedule(one);
    const got = await run(problem, dtype, undefined, 'cuda');
    first ??= got;
    expect(got).toEqual(first);
  }
}

/** With values of float16 that are others at each launch. */
export async function checkGraphs(problem: Problem, mask: Mask): Promise<void> {
  const [q, k] = [problem.q, problem.k].map((values) => tensorOf(values, 'float16', 'cuda'));
  const given = Tensor.empty(problem.v.shape, { dtype: 'float16', pinned: true });
  using stream = new Stream('cuda');
  let result: ReturnType<typeof attention> | undefined;
  using graph = stream.capture(() => {
    result = attention(q!, k!, given.to({ device: 'cuda', stream }), { mask, stream });
  });
  for (const seed of [3, 4]) {
    const other = Tensor.randn(problem.v.shape, { seed, dtype: 'float16' });
    given.data.set(other.data as Uint16Array);
    graph.launch();
    expect(await read(result!)).toEqual(await read(attention(q!, k!, other.to('cuda'), { mask })));
  }
}

/** Of 8 queries, none of which sees a key from `seen` on, or the mean of one. */
export async function checkUnseen(mask: Mask, keys: number, seen: number, dtype: Float): Promise<void> {
  const random = uniform(9);
  const [q, k, v] = [8, keys, keys].map((tokens) => normal(random, dtype, [1, tokens, 2, 8]));
  const poisoned = { ...v!, data: v!.data.map((x, i) => (i < seen * 2 * 8 ? x : Number.NaN)) };
  const [qd, kd, vd, bad] = [q, k, v, poisoned].map((values) => tensorOf(values!, dtype, 'cuda'));
  using cache = new KvCache({ batch: 1, kvHeads: 2, headDim: 8, capacity: keys, dtype, device: 'cuda' });
  cache.append(kd!, bad!);
  const want = await read(attention(qd!, kd!, vd!, { mask }));
  expect(decode(dtype, want[0]).every(Number.isFinite)).toBe(true);
  expect(await read(attention(qd!, kd!, bad!, { mask }))).toEqual(want);
  expect(await read(attention(qd!, cache, { mask }))).toEqual(want);
}
