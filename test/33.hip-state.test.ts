// hipPlan() with a state, as in decoding: which stages search anew, and what a plan has when they do not.

import { attention, causal, HipState, hipPlan, type SparsePlan, Stream, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';

const [heads, kvHeads, dim, capacity] = [4, 2, 16, 6000];
const tokens = Tensor.randn([1, capacity, kvHeads, dim], { seed: 1 });
const others = Tensor.randn([1, capacity, kvHeads, dim], { seed: 2 });
const queries = Tensor.randn([1, capacity, heads, dim], { seed: 3 });
const keys = (length: number, of = tokens) => of.slice([0, 1], [0, length], [0, kvHeads], [0, dim]);
const newest = (length: number, count = 1) => queries.slice([0, 1], [length - count, length], [0, heads], [0, dim]);
const options = { budget: 256, causal: true, always: { sink: 16, window: 64 } };

async function shown(plan: SparsePlan): Promise<Uint8Array> {
  await plan.validate();
  using dense = plan.toDense();
  return (await dense.read()) as Uint8Array;
}
const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;

it('refreshed in every call is none', async () => {
  using state = new HipState({ refresh: [1, 1, 1] });
  for (const [length, count] of [
    [4000, 1],
    [4001, 1],
    [4033, 1],
    [4100, 70],
    [3000, 70],
  ] as const) {
    const [q, k] = [newest(length, count), keys(length)];
    using a = hipPlan(q, k, { ...options, state });
    using b = hipPlan(q, k, options);
    expect(same(await shown(a), await shown(b)), `${length} keys`).toBe(true);
  }
  expect(state.runs).toEqual([5, 5, 5]);
});

it('lets stages search when it is their turn, and when an earlier one did', () => {
  using state = new HipState({ refresh: [6, 4, 1] });
  const before: number[][] = [];
  for (let step = 0; step < 13; step++) {
    using _ = hipPlan(newest(3000 + step), keys(3000 + step), { ...options, state });
    before.push(state.runs);
  }
  expect(before.map(([a, b, c]) => [a, b, c])).toEqual([
    [1, 1, 1],
    [1, 1, 2],
    [1, 1, 3],
    [1, 1, 4],
    [1, 2, 5],
    [1, 2, 6],
    [2, 3, 7],
    [2, 3, 8],
    [2, 4, 9],
    [2, 4, 10],
    [2, 4, 11],
    [2, 4, 12],
    [3, 5, 13],
  ]);
});

describe('between searches', () => {
  it('what was chosen stays, whatever q and k are, and what was appended is in the window', async () => {
    using state = new HipState({ refresh: [8, 8, 8] });
    const first = 3001;
    using start = hipPlan(newest(first), keys(first), { ...options, state });
    const chosen = await shown(start);
    for (let step = 1; step < 8; step++) {
      const length = first + 5 * step;
      const [q, k] = [newest(length), keys(length, others)];
      using plan = hipPlan(q, k, { ...options, state });
      const now = await shown(plan);
      for (let key = 0; key < length; key++) {
        const want = key < first ? chosen[key] : 1;
        if (now[key] !== want) expect(now[key], `key ${key} of ${length}`).toBe(want);
      }
    }
    expect(state.runs).toEqual([1, 1, 1]);
    const [q, k] = [newest(3040), keys(3040, others)];
    using anew = hipPlan(q, k, { ...options, state });
    using bare = hipPlan(q, k, options);
    expect(same(await shown(anew), await shown(bare))).toBe(true);
  });

  it('a later stage searches in what earlier ones have kept', async () => {
    using state = new HipState({ refresh: [100, 100, 1] });
    const [q, k, l] = [newest(5000), keys(5000), keys(5000, others)];
    const [before, here, there, bare] = [
      hipPlan(q, k, { ...options, state }),
      hipPlan(q, k, { ...options, state }),
      hipPlan(q, l, { ...options, state }),
      hipPlan(q, l, options),
    ];
    expect(same(await shown(before), await shown(here))).toBe(true);
    expect(same(await shown(here), await shown(there))).toBe(false);
    expect(same(await shown(there), await shown(bare))).toBe(false);
    // 1024 keys of chunks of 32 are what the second stage keeps: 256 of these were chosen, with any keys.
    const of = (a: Uint8Array) => {
      const chunks = new Set<number>();
      for (let key = 16; key < 4900; key++) if (a[key]) chunks.add(key >> 5);
      return chunks;
    };
    using wide = hipPlan(q, k, {
      ...options,
      budget: 1024,
      keyBlock: 32,
      stages: [{ chunk: 256, keep: 4096 }, { chunk: 32 }],
    });
    const allowed = of(await shown(wide));
    for (const chunk of of(await shown(there))) expect(allowed.has(chunk), `chunk ${chunk}`).toBe(true);
  });

  it('is dense when the budget is all keys', async () => {
    using state = new HipState();
    for (let length = 900; length < 910; length++) {
      const [q, k] = [newest(length), keys(length)];
      using plan = hipPlan(q, k, { ...options, budget: capacity, state });
      const results = [plan, causal()].map((mask) => attention(q, k, k, { mask }));
      const [a, b] = results.map(({ out, lse }) => Promise.all([out.read(), lse.read()]));
      expect(await a).toEqual(await b);
    }
  });
});

it('starts anew with fewer keys, other shapes and other options', () => {
  using state = new HipState({ refresh: [9, 9, 9] });
  const run = (length: number, count: number, given: object) => {
    using _ = hipPlan(newest(length, count), keys(length), { ...options, ...given, state });
    return state.runs[0];
  };
  expect(run(3000, 1, {})).toBe(1);
  expect(run(3001, 1, {})).toBe(1);
  expect(run(3000, 1, {})).toBe(2);
  expect(run(3001, 2, {})).toBe(3);
  expect(run(3001, 2, { budget: 512 })).toBe(4);
  expect(run(3001, 2, { budget: 512, share: 'all' })).toBe(5);
  expect(run(3001, 2, { budget: 512, share: 'all', estimate: true })).toBe(5);
});

it.each<[string, string, RegExp, () => unknown]>([
  ['no state', 'ERR_OPTION', /state is 5/, () => hipPlan(newest(9), keys(9), { budget: 8, state: 5 as never })],
  ['no refresh', 'ERR_OPTION', /refresh\[1\] is 0/, () => new HipState({ refresh: [3, 0] })],
  ['too many', 'ERR_OPTION', /1 to 8 numbers/, () => new HipState({ refresh: Array(9).fill(1) })],
  [
    'other stages',
    'ERR_OPTION',
    /2 numbers.*3 stages/,
    () => hipPlan(newest(900), keys(900), { budget: 8, state: new HipState({ refresh: [2, 1] }) }),
  ],
  [
    'another variant',
    'ERR_OPTION',
    /state is of variant/,
    () => hipPlan(newest(9), keys(9), { budget: 8, variant: 'hip1', state: new HipState() }),
  ],
  [
    'a disposed one',
    'ERR_DISPOSED',
    /^state, a HipState, was disposed of; make a new one$/,
    () => {
      const state = new HipState();
      state.dispose();
      state.dispose();
      return hipPlan(newest(900), keys(900), { budget: 8, state });
    },
  ],
  [
    'capture',
    'ERR_OPTION',
    /capture/,
    () => {
      using stream = new Stream();
      stream.capture(() => hipPlan(newest(900), keys(900), { budget: 8, state: new HipState(), stream }));
    },
  ],
])('refuses %s', (_, code, message, call) => {
  expect(call).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
});
