// What a call costs from JavaScript: how many calls can be made in a second, and how long one step of decoding takes from the call to its
// completion, called and replayed as a graph. Not in the timed path of the other figures.

import { attention, Stream, Tensor } from 'node-attention';
import { type Summary, summarize } from '../statistics';

export interface JavaScriptPath {
  device: string;
  /** Calls of attention() per second, enqueued one behind the other. */
  callsPerSecond: number;
  /** Microseconds from call to completion of one decoding step. */
  stepUs: Summary;
  /** The same step replayed from a graph. */
  graphStepUs: Summary;
}

const HEADS = 64;
const KV_HEADS = 8;
const HEAD_DIM = 128;
const KEYS = 8192;

export async function measureJavaScript(device: string, quick: boolean): Promise<JavaScriptPath> {
  const place = { dtype: 'bfloat16', device } as const;
  const stream = new Stream(place.device as 'cuda');
  const make = (tokens: number, heads: number, seed: number) =>
    Tensor.randn([1, tokens, heads, HEAD_DIM], { ...place, seed } as { seed: number });
  const keys = quick ? KEYS / 16 : KEYS;
  const [q, k, v] = [make(1, HEADS, 1), make(keys, KV_HEADS, 2), make(keys, KV_HEADS, 3)];
  const out = Tensor.empty(q.shape, place as { dtype: 'bfloat16'; device: 'cuda' });
  const step = () => attention(q, k, v, { out, stream }).lse.dispose();
  const calls = quick ? 100 : 5000;
  const steps = quick ? 20 : 500;

  step();
  await stream.synchronize();
  const start = performance.now();
  for (let i = 0; i < calls; i++) step();
  const enqueued = performance.now() - start;
  await stream.synchronize();

  const stepUs = await timeSteps(steps, step, stream);
  const graph = stream.capture(() => step());
  const graphStepUs = await timeSteps(steps, () => graph.launch(stream), stream);
  graph.dispose();
  for (const resource of [q, k, v, out, stream]) resource.dispose();
  return { device, callsPerSecond: (1e3 * calls) / enqueued, stepUs, graphStepUs };
}

async function timeSteps(steps: number, step: () => void, stream: Stream): Promise<Summary> {
  const times: number[] = [];
  for (let i = 0; i < steps; i++) {
    const start = performance.now();
    step();
    await stream.synchronize();
    times.push(1e3 * (performance.now() - start));
  }
  return summarize(times);
}
