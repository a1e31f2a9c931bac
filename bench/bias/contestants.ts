// The contestants of a case: this library with each form of bias, and ONNX Runtime with the dense one.

import {
  alibi,
  attention,
  type Bias,
  causal,
  denseBias,
  distanceBias,
  fromBfloat16,
  lowRankBias,
  memoryStats,
  relativePositionBias,
  Stream,
  Tensor,
  toBfloat16,
} from 'node-attention';
import { onnx } from 'onnx-proto';
import * as ort from 'onnxruntime-node';
import { uniform } from '../../test/support/numbers';
import { alibiSlopes } from '../../test/support/oracle';
import { type Timed, timeRuns } from '../measure';
import type { BiasCase, Form } from './cases';

export interface Contestant extends Timed {
  name: string;
  form: Form;
  /** Bytes of the bias. */
  biasBytes: number;
  /** What the latest call took beside its inputs and its output; absent where the library does not tell. */
  callBytes?: number;
  /** The factors of a bias of low rank. */
  factors?: readonly [Tensor, Tensor];
  output(): Promise<Float32Array>;
  close(): Promise<void>;
}

export interface Inputs {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  /** Of the dense bias, [heads, tokens, tokens]. */
  dense: Float32Array | undefined;
  points: Float32Array;
  table: Float32Array;
}

const product = (lengths: readonly number[]) => lengths.reduce((a, b) => a * b, 1);

const tableShape = ({ heads, tokens }: BiasCase) => [heads, ...tokens.map((extent) => 2 * extent - 1)];

export function inputsOf(test: BiasCase): Inputs {
  const random = uniform(1);
  const numbers = (count: number) => Float32Array.from({ length: count }, () => 2 * random() - 1);
  const { batch, heads, headDim, tokens } = test;
  const length = product(tokens);
  const rows = () => {
    const values = numbers(batch * length * heads * headDim);
    return test.dtype === 'bfloat16' ? fromBfloat16(toBfloat16(values)) : values;
  };
  const [q, k, v] = [rows(), rows(), rows()];
  const inputs: Inputs = {
    q,
    k,
    v,
    dense: undefined,
    points: numbers(3 * length),
    table: numbers(product(tableShape(test))),
  };
  if (test.forms.includes('dense')) {
    inputs.dense = test.dense === undefined ? numbers(test.heads * length * length) : denseOf(test, test.dense, inputs);
  }
  return inputs;
}

function denseOf(test: BiasCase, form: 'alibi' | 'relative', inputs: Inputs): Float32Array {
  const length = product(test.tokens);
  const values = new Float32Array(test.heads * length * length);
  for (let h = 0; h < test.heads; h++) {
    for (let i = 0; i < length; i++) {
      const row = values.subarray((h * length + i) * length, (h * length + i + 1) * length);
      for (let j = 0; j < length; j++) row[j] = scoreBias(form, test, inputs, h, i, j);
    }
  }
  return values;
}

/** By definition: what a form by formula adds to the score of query i and key j of head h. */
export function scoreBias(
  form: 'alibi' | 'distance' | 'relative',
  { heads, tokens }: BiasCase,
  { points, table }: Inputs,
  h: number,
  i: number,
  j: number,
): number {
  if (form === 'alibi') return -slopesOf(heads)[h]! * Math.abs(i - j);
  if (form === 'distance')
    return -[0, 1, 2].reduce((sum, c) => sum + (points[3 * i + c]! - points[3 * j + c]!) ** 2, 0);
  const inner = tokens.at(-1)!;
  const [rows, columns] = [2 * tokens[0]! - 1, 2 * inner - 1];
  const down = Math.floor(i / inner) - Math.floor(j / inner) + tokens[0]! - 1;
  return table[(h * rows + down) * columns + (i % inner) - (j % inner) + inner - 1]!;
}

const slopes = new Map<number, number[]>();
const slopesOf = (heads: number) => slopes.get(heads) ?? slopes.set(heads, alibiSlopes(heads)).get(heads)!;

interface Made {
  bias: Bias | undefined;
  made: Tensor[];
  factors?: Contestant['factors'];
}

function biasOf(form: Form, test: BiasCase, inputs: Inputs): Made {
  const length = product(test.tokens);
  if (form === 'none') return { bias: undefined, made: [] };
  if (form === 'alibi') return { bias: alibi(), made: [] };
  if (form === 'distance') {
    const points = Tensor.from(inputs.points, [length, 3]);
    return { bias: distanceBias({ q: points, k: points }), made: [points] };
  }
  if (form === 'relative') {
    const table = Tensor.from(inputs.table, tableShape(test));
    return { bias: relativePositionBias(table), made: [table] };
  }
  if (form === 'dense') {
    const dense = Tensor.from(inputs.dense!, [1, test.heads, length, length]);
    return { bias: denseBias(dense), made: [dense] };
  }
  const rank = Number(form.slice(5));
  const factor = (seed: number) => Tensor.randn([1, length, test.heads, rank], { seed });
  const factors = [factor(1), factor(2)] as const;
  return { bias: lowRankBias(...factors), made: [...factors], factors };
}

export function library(form: Form, test: BiasCase, inputs: Inputs): Contestant {
  const shape = [test.batch, ...test.tokens, test.heads, test.headDim];
  const tensor = (values: Float32Array) =>
    test.dtype === 'float32'
      ? Tensor.from(values, shape)
      : Tensor.from(toBfloat16(values), shape, { dtype: test.dtype });
  const [q, k, v] = [tensor(inputs.q), tensor(inputs.k), tensor(inputs.v)];
  const { bias, made, factors } = biasOf(form, test, inputs);
  const out = Tensor.empty(shape, { dtype: test.dtype });
  const stream = new Stream();
  const options = { mask: test.causal ? causal() : undefined, bias, out, stream };
  const contestant: Contestant = {
    name: form,
    form,
    factors,
    biasBytes: made.reduce((sum, tensor) => sum + tensor.byteLength, 0),
    run: (times) =>
      timeRuns(times, async () => {
        const before = memoryStats().bytes;
        const { lse } = attention(q, k, v, options);
        contestant.callBytes = memoryStats().bytes - before;
        await stream.synchronize();
        lse.dispose();
      }),
    async output() {
      const values = await out.read();
      return test.dtype === 'float32' ? (values as Float32Array) : fromBfloat16(values as Uint16Array);
    },
    async close() {
      for (const resource of [q, k, v, out, ...made, stream]) resource.dispose();
    },
  };
  return contestant;
}

const FLOAT = 1; // TensorProto.DataType
const INT = 2; // AttributeProto.AttributeType

function model({ heads, causal }: BiasCase): Uint8Array {
  const value = (name: string) => ({ name, type: { tensorType: { elemType: FLOAT } } });
  const node = {
    opType: 'MultiHeadAttention',
    domain: 'com.microsoft',
    input: ['q', 'k', 'v', '', '', 'bias'],
    output: ['out'],
    attribute: [
      { name: 'num_heads', type: INT, i: heads },
      { name: 'unidirectional', type: INT, i: causal ? 1 : 0 },
    ],
  };
  const graph = { name: 'attention', node: [node], input: ['q', 'k', 'v', 'bias'].map(value), output: [value('out')] };
  const opsetImport = [
    { domain: '', version: 17 },
    { domain: 'com.microsoft', version: 1 },
  ];
  return onnx.ModelProto.encode(onnx.ModelProto.create({ irVersion: 10, opsetImport, graph })).finish();
}

/** com.microsoft.MultiHeadAttention with its attention_bias. */
export async function onnxruntime(test: BiasCase, inputs: Inputs, threads: number): Promise<Contestant> {
  const options = { intraOpNumThreads: threads, interOpNumThreads: 1 };
  const session = await ort.InferenceSession.create(model(test), options);
  const length = product(test.tokens);
  const shape = [test.batch, length, test.heads * test.headDim];
  const tensor = (values: Float32Array) => new ort.Tensor('float32', values, shape);
  const bias = new ort.Tensor('float32', inputs.dense!, [1, test.heads, length, length]);
  const feeds = { q: tensor(inputs.q), k: tensor(inputs.k), v: tensor(inputs.v), bias };
  const out = new Float32Array(inputs.q.length);
  const fetches = { out: tensor(out) };
  return {
    name: 'onnxruntime',
    form: 'dense',
    biasBytes: 4 * inputs.dense!.length,
    run: (times) =>
      timeRuns(times, async () => {
        await session.run(feeds, fetches);
      }),
    output: async () => out,
    close: () => session.release(),
  };
}
