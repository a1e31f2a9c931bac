// Biases: what is added to the scaled, capped scores. Values to pass to attention().

import { AttentionError } from './errors';
import type { NativeBias } from './native';
import { isObject, show } from './options';
import { type Tensor, tensorHandle } from './tensor';

/** The addon's form of a bias. */
export let nativeBias: (value: unknown, name: string) => NativeBias;

let makeBias: (tensor: Tensor, dense: boolean, call: string) => Bias;

/** What is added to the scores; made by {@link keyBias} and {@link denseBias}. */
export class Bias {
  static {
    nativeBias = (value, name) => {
      if (isObject(value) && #tensor in value)
        return { tensor: tensorHandle(value.#tensor, name), dense: value.#dense };
      throw new AttentionError('ERR_OPTION', `${name} is ${show(value)}; it must be a bias: keyBias() or denseBias()`);
    };
    makeBias = (tensor, dense, call) => {
      tensorHandle(tensor, `${call}: the tensor`);
      if (tensor.dtype !== 'float32') {
        throw new AttentionError('ERR_DTYPE', `${call}: the tensor is ${tensor.dtype}; it must be float32`);
      }
      const most = dense ? 4 : 3;
      if (tensor.shape.length < 1 || tensor.shape.length > most) {
        throw new AttentionError(
          'ERR_SHAPE',
          `${call}: the tensor has shape [${tensor.shape.join(', ')}]; it must have 1 to ${most} axes`,
        );
      }
      return new Bias(tensor, dense);
    };
  }

  readonly #tensor: Tensor;
  readonly #dense: boolean;

  private constructor(tensor: Tensor, dense: boolean) {
    this.#tensor = tensor;
    this.#dense = dense;
  }
}

/**
 * Adds a float32 value per key: `[Lk]`, `[batch, Lk]` or `[batch, heads, Lk]`.
 *
 * @throws AttentionError ERR_DTYPE for another element type, ERR_SHAPE for more axes.
 */
export function keyBias(tensor: Tensor): Bias {
  return makeBias(tensor, false, 'keyBias');
}

/**
 * Adds a float32 value per query and key, broadcast to `[batch, heads, Lq, Lk]`.
 *
 * @throws AttentionError ERR_DTYPE for another element type, ERR_SHAPE for more axes.
 */
export function denseBias(tensor: Tensor): Bias {
  return makeBias(tensor, true, 'denseBias');
}
