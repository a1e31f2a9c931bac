// The relative position buckets of T5, as a table of relative positions.

import { type Bias, relativePositionBias } from './biases';
import { AttentionError } from './errors';
import { native } from './native';
import { boolean, integer, options } from './options';
import { checkFloat32, type Device, Tensor, tensorHandle } from './tensor';

/** Options of {@link bucketBias}. */
export interface BucketOptions {
  /**
   * The distance from which on all keys share the last bucket; default 128. The bias holds 2 maxDistance + 1 numbers for
   * each head, and at most 2^26 in all.
   */
  maxDistance?: number;
  /** Whether keys behind the query have buckets of their own (encoders), or all share the first one; default true. */
  bidirectional?: boolean;
  /** Where the bias is used; default 'cpu'. */
  device?: Device;
}

const call = 'bucketBias';
const mostEntries = 2 ** 26;

/** The elements of a table in their order, as they are now. */
function valuesOf(table: Tensor<'float32'>): Float32Array {
  if (table.device !== 'cpu') {
    throw new AttentionError('ERR_DEVICE', `${call}: table is on ${table.device}; copy it with to('cpu')`);
  }
  const [heads, step] = [table.shape[1]!, table.strides];
  if (step[0] !== heads || (step[1] !== 1 && heads > 1)) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: the elements of table do not lie side by side (strides [${step.join(', ')}]); copy it with to('float32')`,
    );
  }
  if (native.tensorPending(tensorHandle(table, call))) {
    throw new AttentionError('ERR_PENDING', `${call}: work still writes table; await its read() first`);
  }
  return table.data;
}

/** The bucket of a key that lies `offset` tokens behind the query. */
function bucketOf(offset: number, buckets: number, maxDistance: number, bidirectional: boolean): number {
  const side = bidirectional ? Math.floor(buckets / 2) : buckets;
  const first = bidirectional && offset > 0 ? side : 0;
  const distance = bidirectional ? Math.abs(offset) : Math.max(-offset, 0);
  const exact = Math.floor(side / 2);
  if (distance < exact) return first + distance;
  const share = Math.log2(distance / exact) / Math.log2(maxDistance / exact);
  return first + Math.min(exact + Math.floor(share * (side - exact)), side - 1);
}

/**
 * The position bias of T5: positions near the query have a bucket each, those farther away share buckets of growing
 * size. `table` is the model's embedding, float32 `[buckets, heads]` on the CPU, its elements side by side; its values are
 * read when the bias is made.
 *
 * @throws AttentionError ERR_OPTION for what is no tensor, or a `maxDistance` that is too small for the buckets or too
 * large; ERR_DTYPE for a table that is not float32; ERR_SHAPE for one of other axes, of too few buckets or too many
 * heads, or whose elements do not lie side by side; ERR_DEVICE for one that is not on the CPU, and for a `device` that is
 * not there; ERR_PENDING while work still writes it; ERR_DISPOSED, ERR_OUT_OF_MEMORY.
 * @see Raffel et al. 2020, Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer.
 */
export function bucketBias(table: Tensor, opts?: BucketOptions): Bias {
  const given = options(call, opts, ['maxDistance', 'bidirectional', 'device']);
  const tensor = checkFloat32(`${call}: table`, table);
  const bidirectional = boolean(call, 'bidirectional', given.bidirectional ?? true);
  const [buckets = 0, heads = 0] = tensor.shape;
  const least = bidirectional ? 4 : 2;
  if (tensor.shape.length !== 2 || heads < 1 || buckets < least) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: table has shape [${tensor.shape.join(', ')}]; it must be [buckets, heads] with ${least} buckets or more`,
    );
  }
  const exact = Math.floor((bidirectional ? Math.floor(buckets / 2) : buckets) / 2);
  const fewest = 2 * (exact + 1) + 1;
  if (heads * fewest > mostEntries) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: table has shape [${tensor.shape.join(', ')}]; ${heads} heads times the ${fewest} positions that so many ` +
        `buckets need are more than ${mostEntries}; use fewer heads or buckets`,
    );
  }
  const maxDistance = integer(call, 'maxDistance', given.maxDistance ?? 128, exact + 1);
  const extent = 2 * maxDistance + 1;
  if (heads * extent > mostEntries) {
    const most = Math.floor((mostEntries / heads - 1) / 2);
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: maxDistance is ${maxDistance}; for ${heads} heads it is at most ${most}`,
    );
  }
  const entries = valuesOf(tensor);
  const expanded = new Float32Array(heads * extent);
  for (let at = 0; at < extent; at++) {
    const bucket = bucketOf(maxDistance - at, buckets, maxDistance, bidirectional); // at - maxDistance is x - y
    for (let head = 0; head < heads; head++) expanded[head * extent + at] = entries[bucket * heads + head] as number;
  }
  const device = (given.device ?? 'cpu') as Device; // checked by Tensor.from
  return relativePositionBias(Tensor.from(expanded, [heads, extent], { device }));
}
