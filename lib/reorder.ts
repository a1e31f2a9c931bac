// Tokens of a grid in another order, for plans whose patterns are blocks only then.

import { type DType, dtypeIndex } from './dtype';
import { AttentionError } from './errors';
import { native } from './native';
import { integers, options, show } from './options';
import { product } from './simulate';
import { optionalStream, type Stream } from './stream';
import { makeTensor, type Tensor, tensorHandle } from './tensor';

const names = ['order', 'box', 'stream'] as const;

/** How {@link permuteTokens} orders the tokens of a grid. */
export interface PermuteOptions {
  /** The token axes from the outermost to the innermost; default: as they are. */
  order?: readonly number[];
  /** The extents of a box, one per token axis, each of which divides the axis; default: all 1. */
  box?: readonly number[];
  /** The stream that copies; default: as for `Tensor.to`. */
  stream?: Stream;
}

/** Options of {@link restoreTokens}: those of {@link permuteTokens}, and what the order does not tell. */
export interface RestoreOptions extends PermuteOptions {
  /** The extents of the token axes, in their own order. */
  shape: readonly number[];
}

/** One to three token axes: their extents, in which order they are walked, and in boxes of which extents. */
interface Walk {
  shape: number[];
  order: number[];
  box: number[];
}

function walkOf(call: string, shape: number[], order: unknown, box: unknown): Walk {
  const axes = shape.map((_, axis) => axis);
  const walk = {
    shape,
    order: order === undefined ? axes : integers(call, 'order', order, 0, 'ERR_OPTION'),
    box: box === undefined ? axes.map(() => 1) : integers(call, 'box', box, 1, 'ERR_OPTION'),
  };
  if (walk.order.length !== axes.length || axes.some((axis) => !walk.order.includes(axis))) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: order is ${show(walk.order)}; name each of the axes ${show(axes)} once`,
    );
  }
  if (walk.box.length !== axes.length) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: box has ${walk.box.length} extents; give one for each of the ${axes.length} token axes`,
    );
  }
  for (const axis of axes) {
    if (shape[axis]! % walk.box[axis]! === 0) continue;
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: box[${axis}] is ${walk.box[axis]}, which does not divide the ${shape[axis]} tokens of axis ${axis}; ` +
        'choose a divisor, or pad the axis',
    );
  }
  return walk;
}

/** A copy of the tensor with its axes in another order, as a tensor of that shape. */
function reordered(tensor: Tensor, axes: number[], shape: number[], stream: unknown): Tensor {
  using view = tensor.permute(...axes);
  const { dtype, device } = tensor;
  const handle = tensorHandle(view, 'tensor');
  return makeTensor(native.tensorTo(handle, dtypeIndex(dtype), device, optionalStream(stream), shape));
}

/** The tensor with the axes from `first` on as one, which takes a copy where they do not lie side by side. */
function joined(tensor: Tensor, first: number, front: number[], stream: unknown): Tensor {
  const { shape, strides } = tensor;
  const beside = shape.every(
    (_, axis) => axis < first || axis + 1 === shape.length || strides[axis] === strides[axis + 1]! * shape[axis + 1]!,
  );
  using whole = beside ? undefined : tensor.to({ dtype: tensor.dtype, stream: stream as Stream | undefined });
  return (whole ?? tensor).reshape([...front, product(shape.slice(first))]);
}

/**
 * Tokens of a grid as a sequence in another order, for patterns that are blocks only then: of a tensor
 * [batch, tokens..., heads, headDim] with one to three token axes a copy [batch, tokens, heads, headDim]. `order` says
 * which axis is walked slowest. With `box` the grid is cut into boxes, which are walked in that order, and so are the
 * tokens inside each: then a block of a plan of as many keys is a box, say in space and time.
 *
 * Without a mask, attention does not depend on the order of keys. Masks, plans and biases by position go by the new
 * order. {@link restoreTokens} leads back.
 *
 * @see PAROAttention (arXiv:2506.16054) for axes in another order; VMoBA (arXiv:2506.23858) for selecting boxes, which
 * is {@link pooledPlan} of tokens in this order.
 * @throws AttentionError ERR_OPTION; ERR_SHAPE for another number of axes, or a box that does not divide its axis; and
 * as `Tensor.to`.
 */
export function permuteTokens<D extends DType>(tensor: Tensor<D>, opts: PermuteOptions): Tensor<D> {
  const call = 'permuteTokens';
  tensorHandle(tensor, 'tensor'); // refuses what is none
  const { order, box, stream } = options(call, opts, names);
  const { shape } = tensor;
  if (shape.length < 4 || shape.length > 6) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: tensor has shape ${show(shape)}; it must be [batch, tokens..., heads, headDim] with one to three token axes`,
    );
  }
  const tokens = shape.slice(1, -2);
  const walk = walkOf(call, tokens, order, box);
  optionalStream(stream);
  const cut = tokens.flatMap((extent, axis) => [extent / walk.box[axis]!, walk.box[axis]!]);
  using row = joined(tensor, shape.length - 2, shape.slice(0, -2), stream);
  using split = row.reshape([shape[0]!, ...cut, product(shape.slice(-2))]);
  const axes = [
    0,
    ...walk.order.map((axis) => 1 + 2 * axis),
    ...walk.order.map((axis) => 2 + 2 * axis),
    1 + cut.length,
  ];
  return reordered(split, axes, [shape[0]!, product(tokens), ...shape.slice(-2)], stream) as Tensor<D>;
}

/**
 * Undoes {@link permuteTokens}: of `out` [batch, tokens, heads, headDim] or `lse` [batch, tokens, heads] a copy with the
 * token axes of `shape`, in their own order.
 *
 * @throws AttentionError ERR_OPTION; ERR_SHAPE where `shape` has not as many tokens; and as `Tensor.to`.
 */
export function restoreTokens<D extends DType>(tensor: Tensor<D>, opts: RestoreOptions): Tensor<D> {
  const call = 'restoreTokens';
  tensorHandle(tensor, 'tensor');
  const { order, box, stream, shape } = options(call, opts, [...names, 'shape']);
  const tokens = integers(call, 'shape', shape, 0, 'ERR_SHAPE');
  const [batch, count, ...rest] = tensor.shape;
  if (tokens.length < 1 || tokens.length > 3 || rest.length < 1 || rest.length > 2 || count !== product(tokens)) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: shape is ${show(tokens)} and tensor has shape ${show(tensor.shape)}; shape must have one to three axes ` +
        'and as many tokens as the tensor, [batch, tokens, heads] or [batch, tokens, heads, headDim]',
    );
  }
  const walk = walkOf(call, tokens, order, box);
  optionalStream(stream);
  const cut = [
    ...walk.order.map((axis) => tokens[axis]! / walk.box[axis]!),
    ...walk.order.map((axis) => walk.box[axis]!),
  ];
  using row = joined(tensor, 2, [batch!, count], stream);
  using split = row.reshape([batch!, ...cut, product(rest)]);
  const places = tokens.map((_, axis) => walk.order.indexOf(axis));
  const axes = [0, ...places.flatMap((place) => [1 + place, 1 + tokens.length + place]), 1 + cut.length];
  return reordered(split, axes, [batch!, ...tokens, ...rest], stream) as Tensor<D>;
}
