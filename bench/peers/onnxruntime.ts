// ONNX Runtime's fused attention, com.microsoft.MultiHeadAttention, float32. It takes [batch, tokens, heads * headDim],
// the layout of our inputs, and writes to memory given beforehand, as this library does here.

import { onnx } from 'onnx-proto';
import * as ort from 'onnxruntime-node';
import { type Case, count, HEADS } from '../cases';
import type { Inputs } from '../inputs';
import { type Contestant, timeRuns } from '../measure';

export async function onnxruntime(test: Case, inputs: Inputs, threads: number): Promise<Contestant> {
  const session = await ort.InferenceSession.create(model(test.kind === 'causal'), {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
  });
  const tensor = (values: Float32Array, tokens: number) =>
    new ort.Tensor('float32', values, [1, tokens, HEADS * test.headDim]);
  const [queries, keys] = [count(test.queries), count(test.keys)];
  const feeds = { q: tensor(inputs.q, queries), k: tensor(inputs.k, keys), v: tensor(inputs.v, keys) };
  const out = new Float32Array(inputs.q.length);
  const fetches = { out: tensor(out, queries) };
  return {
    name: 'onnxruntime',
    test,
    run: (times) =>
      timeRuns(times, async () => {
        await session.run(feeds, fetches);
      }),
    output: async () => out,
    close: () => session.release(),
  };
}

const FLOAT = 1; // TensorProto.DataType
const INT = 2; // AttributeProto.AttributeType

/** A model of one node. */
function model(causal: boolean): Uint8Array {
  const value = (name: string) => ({ name, type: { tensorType: { elemType: FLOAT } } });
  const attribute = (name: string, i: number) => ({ name, type: INT, i });
  const node = {
    opType: 'MultiHeadAttention',
    domain: 'com.microsoft',
    input: ['q', 'k', 'v'],
    output: ['out'],
    attribute: [attribute('num_heads', HEADS), attribute('unidirectional', causal ? 1 : 0)],
  };
  const graph = { name: 'attention', node: [node], input: ['q', 'k', 'v'].map(value), output: [value('out')] };
  const opsetImport = [
    { domain: '', version: 17 },
    { domain: 'com.microsoft', version: 1 },
  ];
  return onnx.ModelProto.encode(onnx.ModelProto.create({ irVersion: 10, opsetImport, graph })).finish();
}
