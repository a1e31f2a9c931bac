// ONNX Runtime's fused attention, com.microsoft.MultiHeadAttention, float32. It takes [batch, tokens, heads * headDim],
// the layout of our inputs, and writes to memory given beforehand, as this library does here.

import { onnx } from 'onnx-proto';
import * as ort from 'onnxruntime-node';
import { type Case, count, HEADS } from '../cases';
import type { Inputs } from '../inputs';
import { type Contestant, inTurn } from '../measure';

export async function onnxruntime(test: Case, inputs: Inputs, threads: number): Promise<Contestant> {
  const { layers = 1 } = test;
  const { sets } = inputs;
  const session = await ort.InferenceSession.create(model(layers, test.kind === 'causal'), {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
  });
  const out = new Float32Array(inputs.q.length);
  const [queries, keys] = [count(test.queries), count(test.keys)];
  const calls = Array.from({ length: sets }, (_, set) => {
    const feeds: { [name: string]: ort.Tensor } = {};
    const fetches: { [name: string]: ort.Tensor } = {};
    for (let layer = 0; layer < layers; layer++) {
      const [part, parts] = [set * layers + layer, sets * layers];
      const tensor = (all: Float32Array, tokens: number) => {
        const values = all.subarray((part * all.length) / parts, ((part + 1) * all.length) / parts);
        return new ort.Tensor('float32', values, [1, tokens, HEADS * test.headDim]);
      };
      feeds[`q${layer}`] = tensor(inputs.q, queries);
      feeds[`k${layer}`] = tensor(inputs.k, keys);
      feeds[`v${layer}`] = tensor(inputs.v, keys);
      fetches[`out${layer}`] = tensor(out, queries);
    }
    return { feeds, fetches };
  });
  return {
    name: 'onnxruntime',
    test,
    run: inTurn(sets, async (set) => {
      const { feeds, fetches } = calls[set]!;
      await session.run(feeds, fetches);
    }),
    output: async () => out,
    close: () => session.release(),
  };
}

const FLOAT = 1; // TensorProto.DataType
const INT = 2; // AttributeProto.AttributeType

/** A model of a node for each layer, each with inputs of its own. */
function model(layers: number, causal: boolean): Uint8Array {
  const value = (name: string) => ({ name, type: { tensorType: { elemType: FLOAT } } });
  const attribute = (name: string, i: number) => ({ name, type: INT, i });
  const node = Array.from({ length: layers }, (_, layer) => ({
    opType: 'MultiHeadAttention',
    domain: 'com.microsoft',
    input: [`q${layer}`, `k${layer}`, `v${layer}`],
    output: [`out${layer}`],
    attribute: [attribute('num_heads', HEADS), attribute('unidirectional', causal ? 1 : 0)],
  }));
  const [input, output] = [node.flatMap((each) => each.input), node.flatMap((each) => each.output)];
  const graph = { name: 'attention', node, input: input.map(value), output: output.map(value) };
  const opsetImport = [
    { domain: '', version: 17 },
    { domain: 'com.microsoft', version: 1 },
  ];
  return onnx.ModelProto.encode(onnx.ModelProto.create({ irVersion: 10, opsetImport, graph })).finish();
}
