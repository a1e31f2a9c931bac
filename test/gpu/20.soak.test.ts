// Thousands of launches: graphs on two streams beside ordinary calls, always with the same result, bit for bit.

import { attention, causal, memoryStats, Stream, Tensor } from 'node-attention';
import { describe, expect, it } from 'vitest';
import { device, expectSame, resultOf, settled, sized } from './device';

const LAUNCHES = sized(2000, 20);

describe('soak', () => {
  const tensors = (seed: number) => {
    const make = (tokens: number, heads: number, n: number) =>
      Tensor.randn([1, tokens, heads, 64], { seed: seed + n, dtype: 'bfloat16', device });
    return [make(1, 8, 0), make(700, 2, 1), make(700, 2, 2)] as const;
  };

  it(`${LAUNCHES} launches of two graphs on two streams, and calls between them`, async () => {
    const streams = [new Stream(device), new Stream(device)];
    const problems = [tensors(1), tensors(10)];
    const wanted = [];
    for (const problem of problems) wanted.push(await resultOf(...problem));
    const outs = problems.map(([q]) => Tensor.empty(q.shape, { dtype: 'bfloat16', device }));
    const graphs = streams.map((stream, i) =>
      stream.capture(() => attention(...problems[i]!, { out: outs[i], stream }).lse.dispose()),
    );
    for (let launch = 0; launch < LAUNCHES; launch++) {
      graphs.forEach((graph, i) => {
        graph.launch(streams[i]!);
      });
      if (launch % 100 !== 0) continue;
      for (const [i, problem] of problems.entries()) {
        expectSame(await outs[i]!.read(), wanted[i]!);
        const { out, lse } = attention(...problem, { stream: streams[1 - i] });
        expectSame(await out.read(), wanted[i]!);
        for (const tensor of [out, lse]) tensor.dispose();
      }
    }
    for (const stream of streams) await stream.synchronize();
    for (const [i, out] of outs.entries()) expectSame(await out.read(), wanted[i]!);
    for (const resource of [...graphs, ...streams, ...outs, ...problems.flat()]) resource.dispose();
  });

  it('is the same from run to run', async () => {
    const make = (seed: number) => Tensor.randn([2, sized(1500, 100), 4, 128], { seed, dtype: 'bfloat16', device });
    const [q, k, v] = [make(20), make(21), make(22)];
    const run = async () => {
      const { out, lse } = attention(q, k, v, { mask: causal() });
      const results = [await out.read(), await lse.read()];
      for (const tensor of [out, lse]) tensor.dispose();
      return results;
    };
    const first = await run();
    for (let again = 0; again < sized(50, 5); again++) {
      for (const [i, part] of (await run()).entries()) expectSame(part, first[i]!);
    }
    for (const tensor of [q, k, v]) tensor.dispose();
  });

  it('leaves no memory behind', async () => {
    const before = memoryStats(device).live;
    const [q, k, v] = tensors(30);
    for (let call = 0; call < LAUNCHES; call++) {
      const { out, lse } = attention(q, k, v);
      if (call % 50 === 0) await out.read();
      for (const tensor of [out, lse]) tensor.dispose();
    }
    const stream = new Stream(device);
    await stream.synchronize();
    for (const resource of [q, k, v, stream]) resource.dispose();
    await settled();
    expect(memoryStats(device).live).toBeLessThanOrEqual(before); // fewer: what the collector took in the meantime
  });
});
