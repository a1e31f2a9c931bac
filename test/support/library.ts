// Runs a problem of the oracle through the library, and compares.

import {
  type AttentionOptions,
  alibi,
  attention,
  causal,
  type Device,
  denseBias,
  distanceBias,
  keyBias,
  lowRankBias,
  type Mask,
  neighborhood,
  relativePositionBias,
  Tensor,
  window,
} from 'node-attention';
import { count, decode, type Float, uniform, type Values } from './numbers';
import type { Axis, MaskSpec, PlanSpec, Problem, Result } from './oracle';
import { planOf } from './plans';
import { type Expected, expected } from './tolerance';

/** A view of a larger tensor; what lies around it is poison. */
export interface Embedded {
  view: Tensor;
  whole: Tensor;
  /** Where each element of the view lies in the larger tensor. */
  positions: Int32Array;
}

/**
 * A tensor of `values`, cut by slices and a permutation out of a larger tensor filled with `poison`. The last axis stays
 * last, as the contract asks for.
 */
export function embed(
  random: () => number,
  values: Values,
  dtype: Float,
  poison = Number.NaN,
  device: Device = 'cpu',
): Embedded {
  const { shape } = values;
  const leading = shape.slice(0, -1).map((_, axis) => axis);
  const order = leading.map((axis) => ({ axis, key: random() })).sort((a, b) => a.key - b.key);
  const axes = [...order.map(({ axis }) => axis), shape.length - 1]; // axis of the view at each axis of the whole
  const margin = () => Math.floor(random() * 2);
  const starts = axes.map(margin);
  const wholeShape = axes.map((axis, at) => starts[at]! + shape[axis]! + margin());
  const positions = new Int32Array(values.data.length);
  const index = shape.map(() => 0);
  for (let n = 0; n < positions.length; n++) {
    let at = 0;
    axes.forEach((axis, a) => {
      at = at * wholeShape[a]! + starts[a]! + index[axis]!;
    });
    positions[n] = at;
    for (let a = shape.length - 1; a >= 0 && ++index[a]! === shape[a]; a--) index[a] = 0;
  }
  const data = new Float32Array(count(wholeShape)).fill(poison);
  positions.forEach((at, n) => {
    data[at] = values.data[n]!;
  });
  const whole = Tensor.from(data, wholeShape, { dtype, device });
  const ranges = axes.map((axis, a) => [starts[a]!, starts[a]! + shape[axis]!] as const);
  const sliced = whole.slice(...ranges);
  const view = sliced.permute(...shape.map((_, axis) => axes.indexOf(axis)));
  sliced.dispose();
  return { view, whole, positions };
}

export const tensorOf = ({ data, shape }: Values, dtype: Float = 'float32', device: Device = 'cpu'): Tensor =>
  Tensor.from(Float32Array.from(data), shape, { dtype, device });

const setting = (axes: Axis[]) => ({
  window: axes.map((axis) => axis.window),
  stride: axes.map((axis) => axis.stride),
  dilation: axes.map((axis) => axis.dilation),
  causal: axes.map((axis) => axis.causal),
  wrap: axes.map((axis) => axis.wrap),
});

export function maskOf(spec: MaskSpec | { plan: PlanSpec }, device?: Device): Mask {
  if ('plan' in spec) return planOf(spec.plan, device);
  if (!('heads' in spec)) return spec.left === -1 && spec.right === 0 ? causal() : window(spec);
  return neighborhood(spec.heads.length === 1 ? setting(spec.heads[0]!) : spec.heads.map(setting));
}

const outShape = ({ q, v }: Problem) => [...q.shape.slice(0, -1), v.shape.at(-1)!];

/**
 * The library's result. With `embedSeed`, every tensor is a view of a larger one full of NaN, and `out` is such a view
 * too, full of NaN itself: what lies around it must not be touched.
 */
export async function run(
  problem: Problem,
  dtype: Float,
  embedSeed?: number,
  device: Device = 'cpu',
  precision?: AttentionOptions['precision'],
): Promise<Result> {
  const made: Tensor[] = [];
  const random = uniform(embedSeed ?? 0);
  const make = (values: Values, type: Float = dtype): Tensor => {
    if (embedSeed === undefined) {
      made.push(tensorOf(values, type, device));
    } else {
      const { view, whole } = embed(random, values, type, Number.NaN, device);
      made.push(whole, view);
    }
    return made.at(-1)!;
  };
  const options: AttentionOptions = { bias: [], precision };
  const biases = [];
  if (problem.masks) options.mask = problem.masks.map((mask) => maskOf(mask, device));
  if (problem.keyBias) biases.push(keyBias(make(problem.keyBias, 'float32')));
  if (problem.denseBias) {
    const { heads } = problem.denseBias;
    biases.push(denseBias(make(problem.denseBias, 'float32'), { heads }));
  }
  if (problem.lowRank) {
    const { q, k, path } = problem.lowRank;
    biases.push(lowRankBias(make(q, 'float32'), make(k, 'float32'), { path }));
  }
  if (problem.alibi) biases.push(alibi(problem.alibi.slopes && make(problem.alibi.slopes, 'float32')));
  if (problem.distance) {
    const { q, k, weight } = problem.distance;
    const given = { q: make(q, 'float32'), k: make(k, 'float32') };
    biases.push(distanceBias(weight ? { ...given, weight: make(weight, 'float32') } : given));
  }
  if (problem.relative) {
    const { table, dilation } = problem.relative;
    biases.push(relativePositionBias(make(table, 'float32'), { dilation }));
  }
  options.bias = biases;
  options.scale = problem.scale;
  options.softcap = problem.softcap;
  if (problem.sinks) options.sinks = make(problem.sinks, 'float32');
  if (problem.extra) options.extra = { k: make(problem.extra.k), v: make(problem.extra.v) };
  if (problem.cuSeqlens) {
    const offsets = (list: number[]) => Tensor.from(Int32Array.from(list), [list.length], { device });
    options.cuSeqlens = { q: offsets(problem.cuSeqlens.q), k: offsets(problem.cuSeqlens.k) };
    made.push(options.cuSeqlens.q, options.cuSeqlens.k);
  }
  let target: Embedded | undefined;
  const around = -1024; // a number of every type
  if (embedSeed !== undefined) {
    const shape = outShape(problem);
    const unset = { shape, data: new Float64Array(count(shape)).fill(Number.NaN) };
    target = embed(random, unset, dtype, around, device);
    options.out = target.view;
    made.push(target.view, target.whole);
  }
  const { out, lse } = attention(make(problem.q), make(problem.k), make(problem.v), options);
  made.push(out, lse);
  const result = { out: decode(dtype, await out.read()), lse: decode('float32', await lse.read()) };
  if (target) {
    if (out !== target.view) throw new Error('attention did not return the tensor given as out');
    const whole = decode(dtype, await target.whole.read());
    for (const at of target.positions) whole[at] = around;
    const touched = whole.findIndex((x) => x !== around);
    if (touched >= 0) throw new Error(`element ${touched} outside of out became ${whole[touched]}`);
  }
  for (const tensor of made) tensor.dispose();
  return result;
}

function compare(name: string, got: Float64Array, want: Float64Array, tolerance: number): void {
  if (got.length !== want.length) throw new Error(`${name} has ${got.length} elements, not ${want.length}`);
  let worst = -1;
  let most = 0;
  for (let i = 0; i < got.length; i++) {
    if (Object.is(got[i], want[i])) continue; // infinities too
    const error = Math.abs(got[i]! - want[i]!);
    if (error <= Math.max(tolerance, most)) continue; // false for NaN
    worst = i;
    most = error;
    if (Number.isNaN(error)) break;
  }
  if (worst >= 0) {
    throw new Error(
      `${name}[${worst}] is ${got[worst]}, expected ${want[worst]}: error ${most}, allowed ${tolerance} (${got.length} elements)`,
    );
  }
}

export function expectResult(got: Result, want: Expected): void {
  compare('lse', got.lse, want.lse, want.tolerance.lse);
  compare('out', got.out, want.out, want.tolerance.out);
}

/** What a device may give: CUDA devices multiply float32 as TF32. */
export function expectedOn(
  device: Device,
  problem: Problem,
  dtype: Float,
  precision?: AttentionOptions['precision'],
): Expected {
  const products = device === 'cpu' || dtype !== 'float32' ? 'exact' : precision === 'tf32' ? 'tf32' : '3xtf32';
  return expected(problem, dtype, products, undefined, device === 'cpu' ? 'exact' : '3xtf32');
}

/** Runs a problem and compares it with the oracle. */
export async function check(
  problem: Problem,
  dtype: Float = 'float32',
  embedSeed?: number,
  device: Device = 'cpu',
  precision?: AttentionOptions['precision'],
): Promise<void> {
  expectResult(await run(problem, dtype, embedSeed, device, precision), expectedOn(device, problem, dtype, precision));
}
