// The relative position buckets of T5, as a table of relative positions.

import { type Bias, relativePositionBias } from './biases';
import { AttentionError } from './errors';
import { boolean, integer, options } from './options';
import { type Device, Tensor, tensorHandle } from './tensor';

/** Options of {@link bucketBias}. */
export interface BucketOptions {
  /** The distance from which on all keys share the last bucket; default 128. */
  maxDistance?: number;
  /** Whether keys behind the query have buckets of their own (encoders), or all share the first one; default true. */
  bidirectional?: boolean;
  /** Where the bias is used; default 'cpu'. */
  device?: Device;
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
 * size. `table` is the model's embedding, float32 `[buckets, heads]` on the CPU; its values are read when the bias is
 * made.
 *
 * @throws AttentionError ERR_PENDING while work still writes the table.
 * @see Raffel et al. 2020, Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer.
 */
export function bucketBias(table: Tensor, opts?: BucketOptions): Bias {
  const call = 'bucketBias';
  const given = options(call, opts, ['maxDistance', 'bidirectional', 'device']);
  tensorHandle(table, `${call}: table`);
  if (table.dtype !== 'float32') {
    throw new AttentionError('ERR_DTYPE', `${call}: table is ${table.dtype}; it must be float32`);
  }
  const bidirectional = boolean(call, 'bidirectional', given.bidirectional ?? true);
  const [buckets = 0, heads = 0] = table.shape;
  const least = bidirectional ? 4 : 2;
  if (table.shape.length !== 2 || heads < 1 || buckets < least) {
    throw new AttentionError(
      'ERR_SHAPE',
      `${call}: table has shape [${table.shape.join(', ')}]; it must be [buckets, heads] with ${least} buckets or more`,
    );
  }
  const exact = Math.floor((bidirectional ? Math.floor(buckets / 2) : buckets) / 2);
  const maxDistance = integer(call, 'maxDistance', given.maxDistance ?? 128, exact + 1);
  const entries = (table as Tensor<'float32'>).data;
  const extent = 2 * maxDistance + 1;
  const expanded = new Float32Array(heads * extent);
  for (let at = 0; at < extent; at++) {
    const bucket = bucketOf(maxDistance - at, buckets, maxDistance, bidirectional); // at - maxDistance is x - y
    for (let head = 0; head < heads; head++) expanded[head * extent + at] = entries[bucket * heads + head] as number;
  }
  const device = (given.device ?? 'cpu') as Device; // checked by Tensor.from
  return relativePositionBias(Tensor.from(expanded, [heads, extent], { device }));
}
