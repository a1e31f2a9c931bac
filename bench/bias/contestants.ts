// The contestants of a case: this library with each form of bias, ONNX Runtime with the dense one, and PyTorch with that and
// with forms by formula.

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
import { setsOfBytes } from '../cases';
import { blockOf, DIFFERENT, takingFrom } from '../inputs';
import { inTurn, type Timed } from '../measure';
import type { LoadRequest, TorchBias, TorchPeer } from '../peers/torch';
import { type BiasCase, denseBytes, type Form, tensorBytes } from './cases';

export interface Contestant extends Timed {
  name: string;
  form: Form;
  /** Bytes of one bias. */
  biasBytes: number;
  /** What the latest call took beside its inputs and its output; absent where the library does not tell. */
  callBytes?: number;
  /** The factors of a bias of low rank. */
  factors?: readonly [Tensor, Tensor];
  output(): Promise<Float32Array>;
  close(): Promise<void>;
}

export interface Inputs {
  /** Sets that take turns: each of q, k and v is [sets x batch, tokens, heads, headDim]. */
  sets: number;
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

export function inputsOf(test: BiasCase, sets = setsOfBytes(4 * tensorBytes(test))): Inputs {
  const random = uniform(1);
  const numbers = (count: number) => Float32Array.from({ length: count }, () => 2 * random() - 1);
  const { batch, heads, headDim, tokens } = test;
  const length = product(tokens);
  const each = sets * batch * length * heads * headDim;
  const take = takingFrom(blockOf(test.dtype, Math.min(DIFFERENT, 3 * each)));
  const inputs: Inputs = {
    sets,
    q: take(each),
    k: take(each),
    v: take(each),
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

/** A bias of so many bytes has copies until these hold as much as the sets do, or each set has one. */
const copiesOf = (bytes: number, { sets }: Inputs) => (bytes === 0 ? 1 : Math.min(sets, setsOfBytes(bytes)));

export function library(form: Form, test: BiasCase, inputs: Inputs): Contestant {
  const { sets } = inputs;
  const shape = [sets * test.batch, ...test.tokens, test.heads, test.headDim];
  const parts = (whole: Tensor) =>
    Array.from({ length: sets }, (_, set) => whole.slice([set * test.batch, (set + 1) * test.batch]));
  const tensor = (values: Float32Array) =>
    test.dtype === 'float32'
      ? Tensor.from(values, shape)
      : Tensor.from(toBfloat16(values), shape, { dtype: test.dtype });
  const wholes = [inputs.q, inputs.k, inputs.v].map(tensor);
  const [q, k, v] = wholes.map(parts) as [Tensor[], Tensor[], Tensor[]];
  const out = Tensor.empty(shape, { dtype: test.dtype });
  const outs = parts(out);
  const first = biasOf(form, test, inputs);
  const biasBytes = first.made.reduce((sum, tensor) => sum + tensor.byteLength, 0);
  const more = Array.from({ length: copiesOf(biasBytes, inputs) - 1 }, () => biasOf(form, test, inputs));
  const biases = [first, ...more];
  const stream = new Stream();
  const mask = test.causal ? causal() : undefined;
  const contestant: Contestant = {
    name: form,
    form,
    factors: first.factors,
    biasBytes,
    run: inTurn(sets, async (set) => {
      const { bias } = biases[set % biases.length]!;
      const before = memoryStats().bytes;
      const { lse } = attention(q[set]!, k[set]!, v[set]!, { mask, bias, out: outs[set]!, stream });
      contestant.callBytes = memoryStats().bytes - before;
      await stream.synchronize();
      lse.dispose();
    }),
    async output() {
      const values = await out.read();
      return test.dtype === 'float32' ? (values as Float32Array) : fromBfloat16(values as Uint16Array);
    },
    async close() {
      const made = biases.flatMap((each) => each.made);
      for (const resource of [...wholes, out, ...made, stream]) resource.dispose();
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
  const out = new Float32Array(inputs.q.length);
  const biases = Array.from(
    { length: copiesOf(denseBytes(test), inputs) },
    (_, copy) =>
      new ort.Tensor('float32', copy === 0 ? inputs.dense! : inputs.dense!.slice(), [1, test.heads, length, length]),
  );
  const calls = Array.from({ length: inputs.sets }, (_, set) => {
    const tensor = (all: Float32Array) => {
      const size = all.length / inputs.sets;
      return new ort.Tensor('float32', all.subarray(set * size, (set + 1) * size), shape);
    };
    const [q, k, v] = [inputs.q, inputs.k, inputs.v].map(tensor) as [ort.Tensor, ort.Tensor, ort.Tensor];
    return { feeds: { q, k, v, bias: biases[set % biases.length]! }, fetches: { out: tensor(out) } };
  });
  return {
    name: 'onnxruntime',
    form: 'dense',
    biasBytes: 4 * inputs.dense!.length,
    run: inTurn(inputs.sets, async (set) => {
      const { feeds, fetches } = calls[set]!;
      await session.run(feeds, fetches);
    }),
    output: async () => out,
    close: () => session.release(),
  };
}

/** The name of PyTorch with a form: flex_attention where that is a formula. */
export const torchName = (form: Form): string => (form === 'dense' ? 'pytorch' : `pytorch-flex ${form}`);

/** PyTorch's scaled_dot_product_attention with the dense bias, or its flex_attention with a formula. Throws why it cannot. */
export async function pytorch(form: Form, test: BiasCase, inputs: Inputs, peer: TorchPeer): Promise<Contestant> {
  const { q, k, v, dense, points, table, sets } = inputs;
  const length = product(test.tokens);
  const { bias, files, bytes } = (
    {
      dense: () => ({
        bias: { kind: 'dense', copies: copiesOf(denseBytes(test), inputs) },
        files: { dense: dense! },
        bytes: denseBytes(test),
      }),
      alibi: () => ({ bias: { kind: 'alibi', slopes: slopesOf(test.heads) }, files: {}, bytes: 0 }),
      distance: () => ({ bias: { kind: 'distance' }, files: { points }, bytes: points.byteLength }),
      relative: () => ({ bias: { kind: 'relative', extents: test.tokens }, files: { table }, bytes: table.byteLength }),
    } as { [form: string]: () => { bias: TorchBias; files: { [file: string]: Float32Array }; bytes: number } }
  )[form]!();
  const request: LoadRequest = {
    dtype: test.dtype,
    is_causal: test.causal,
    mask: null,
    bias,
    sets_count: sets,
    count: 1,
    batch: test.batch,
    heads: test.heads,
    head_dim: test.headDim,
    queries: length,
    keys: length,
  };
  const timed = await peer.load(torchName(form), request, { q, k, v, ...files });
  return { name: torchName(form), form, biasBytes: bytes, ...timed };
}
