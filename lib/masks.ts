// Masks: which keys a query sees. Values to pass to attention().

import { AttentionError } from './errors';
import type { NativeMask, NativeNeighborhood } from './native';
import { boolean, entries, integer, isArray, isObject, options, show } from './options';

/** The addon's form of a mask. */
export let nativeMask: (value: unknown, name: string) => NativeMask;

let makeMask: (native: NativeMask) => Mask;

/** Which keys a query sees; made by {@link causal}, {@link window} and {@link neighborhood}, or a `SparsePlan`. */
export class Mask {
  static {
    nativeMask = (value, name) => {
      if (isObject(value) && #native in value) return value.#native;
      throw new AttentionError(
        'ERR_OPTION',
        `${name} is ${show(value)}; it must be a mask: causal(), window(), neighborhood() or a SparsePlan`,
      );
    };
    makeMask = (native) => new Mask(native);
  }

  readonly #native: NativeMask;

  /** Not to be called: masks are made by the functions of this package. */
  protected constructor(native: NativeMask) {
    this.#native = native;
  }
}

/**
 * Each query sees the keys up to its own position. With Lq queries and Lk keys, query i stands at i + Lk - Lq.
 */
export function causal(): Mask {
  return makeMask({ left: -1, right: 0 });
}

/**
 * The query at position p sees the keys p - left ... p + right, in tokens; -1 is unlimited. Query i stands at i + Lk - Lq.
 *
 * @throws AttentionError ERR_OPTION for what is no integer of at least -1.
 * @see Beltagy, Peters and Cohan 2020 (Longformer).
 */
export function window(opts: { left: number; right: number }): Mask {
  const { left, right } = options('window', opts, ['left', 'right']);
  return makeMask({ left: integer('window', 'left', left, -1), right: integer('window', 'right', right, -1) });
}

/** A value for all token axes, or one for each. */
export type PerAxis<T> = T | readonly T[];

/** Generalized neighborhood attention along each token axis. */
export interface NeighborhoodOptions {
  /**
   * Keys in a window; -1 is floor(extent / dilation), the most that there can be: the whole of a dilation group or, where the
   * dilation does not divide the extent, all but one key of the groups that are longer by one.
   */
  window: PerAxis<number>;
  /** Neighbouring queries that share one window, 1 (a sliding window) to `window` (blocks); default 1. */
  stride?: PerAxis<number>;
  /** Distance between neighbouring keys of a window; default 1. */
  dilation?: PerAxis<number>;
  /** Whether queries see no key behind their own position; default false. */
  causal?: PerAxis<boolean>;
  /** Whether the axis closes to a ring; default false. */
  wrap?: PerAxis<boolean>;
}

const mostAxes = 3;

function perAxis<T>(call: string, name: string, value: unknown, check: (name: string, value: unknown) => T): T[] {
  if (!isArray(value)) return [check(name, value)];
  if (value.length < 1 || value.length > mostAxes) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: ${name} is ${show(value)}; give one value, or one for each of 1 to ${mostAxes} token axes`,
    );
  }
  return Array.from(value, (entry, axis) => check(`${name}[${axis}]`, entry));
}

/** The settings of a neighborhood, checked as far as they can be without the extents of the axes. */
export function neighborhoodSetting(call: string, given: unknown): NativeNeighborhood {
  const names = ['window', 'stride', 'dilation', 'causal', 'wrap'] as const;
  const { window, stride = 1, dilation = 1, causal = false, wrap = false } = options(call, given, names);
  const size = (name: string, value: unknown) => integer(call, name, value, 1);
  const flag = (name: string, value: unknown) => Number(boolean(call, name, value));
  const native: NativeNeighborhood = {
    window: perAxis(call, 'window', window, (name, value) => (value === -1 ? -1 : size(name, value))),
    stride: perAxis(call, 'stride', stride, size),
    dilation: perAxis(call, 'dilation', dilation, size),
    causal: perAxis(call, 'causal', causal, flag),
    wrap: perAxis(call, 'wrap', wrap, flag),
  };
  const lists = Object.entries(native) as [string, number[]][];
  const [longest, { length: axes }] = lists.reduce((a, b) => (b[1].length > a[1].length ? b : a));
  for (const [name, values] of lists) {
    if (values.length !== 1 && values.length !== axes) {
      throw new AttentionError(
        'ERR_OPTION',
        `${call}: ${name} has ${values.length} values but ${longest} has ${axes}; give one value or one per axis`,
      );
    }
  }
  const at = (values: number[], axis: number) => (values.length === 1 ? values[0] : values[axis]) as number;
  for (let axis = 0; axis < axes; axis++) {
    const [w, s] = [at(native.window, axis), at(native.stride, axis)];
    if (w !== -1 && s > w) {
      throw new AttentionError(
        'ERR_OPTION',
        `${call}: stride ${s} of axis ${axis} exceeds its window ${w}; it must be in 1 ... ${w}`,
      );
    }
    if (at(native.causal, axis) && at(native.wrap, axis)) {
      throw new AttentionError(
        'ERR_OPTION',
        `${call}: axis ${axis} cannot both wrap and be causal; leave one of them out`,
      );
    }
  }
  return native;
}

/**
 * Generalized neighborhood attention (Hassani et al. 2025): along each token axis a query sees a window of keys around
 * its leader, the middle query of its stride group; windows shift inward at the borders. Several axes: a key must lie
 * in the window of each. A list gives one setting per query head.
 *
 * @throws AttentionError ERR_OPTION for settings that contradict each other; those that do not fit the token axes of a call
 * are refused by the call.
 */
export function neighborhood(opts: NeighborhoodOptions | readonly NeighborhoodOptions[]): Mask {
  if (!isArray(opts)) return makeMask({ settings: [neighborhoodSetting('neighborhood', opts)] });
  if (opts.length === 0) {
    throw new AttentionError('ERR_OPTION', 'neighborhood: the list of settings is empty; give one per query head');
  }
  const call = 'neighborhood';
  return makeMask({ settings: entries(call, 'the list', opts, (one) => neighborhoodSetting(call, one)) });
}
