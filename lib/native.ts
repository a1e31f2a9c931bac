// The only file that knows the addon: what it exports, and how it is found and loaded.

import * as path from 'node:path';
import { AttentionError, type ErrorCode } from './errors';

const nodeGypBuild = require('node-gyp-build') as (folder: string) => unknown;

declare const brand: unique symbol;

/** Objects of the addon; opaque here. */
export interface NativeTensor {
  readonly [brand]: 'tensor';
}
export interface NativeExposure {
  readonly [brand]: 'exposure';
}
export interface NativeStream {
  readonly [brand]: 'stream';
}
export interface NativeEvent {
  readonly [brand]: 'event';
}
export interface NativeGraph {
  readonly [brand]: 'graph';
}

export interface NativeTensorInfo {
  shape: number[];
  strides: number[];
  dtype: number;
  device: string;
  contiguous: boolean;
}

/** A neighborhood with one value for all token axes or one for each; booleans are 0 and 1. */
export interface NativeNeighborhood {
  window: number[];
  stride: number[];
  dilation: number[];
  causal: number[];
  wrap: number[];
}

export type NativeMask = { left: number; right: number } | { settings: NativeNeighborhood[] };

export interface NativeBias {
  tensor: NativeTensor;
  dense: boolean;
}

export interface NativeAttention {
  q: NativeTensor;
  k: NativeTensor;
  v: NativeTensor;
  sinks: NativeTensor | undefined;
  extraK: NativeTensor | undefined;
  extraV: NativeTensor | undefined;
  cuQ: NativeTensor | undefined;
  cuK: NativeTensor | undefined;
  out: NativeTensor | undefined;
  masks: NativeMask[];
  biases: NativeBias[];
  scale: number | undefined;
  softcap: number | undefined;
  tf32: boolean;
  stream: NativeStream | undefined;
}

/** `out` is absent when the caller gave it. */
export interface NativeResult {
  out?: NativeTensor;
  lse: NativeTensor;
}

export interface NativeDevice {
  device: string;
  backend: string;
  usable: boolean;
  reason: string;
  message: string;
  name?: string;
  instructionSet?: string;
  threads?: number;
  memoryBytes?: number;
}

/**
 * The functions of csrc/addon; dtypes are indices into `dtypes` of dtype.ts. Whatever does not fit is refused with an
 * AttentionError. One thing cannot be seen: the buffer of `tensorReadBack` must not be given away until its tensor is written.
 */
export interface Addon {
  readonly version: string;
  setErrorClass(errorClass: new (code: ErrorCode, message: string) => Error): void;

  devices(): NativeDevice[];
  resolveDevice(name: string): string;
  memoryStats(device: string): { live: number; bytes: number; peakBytes: number; pooledBytes: number };

  tensorCreate(shape: number[], dtype: number, device: string, pinned: boolean, zeroed: boolean): NativeTensor;
  tensorFrom(data: ArrayBufferView, arrayDtype: number, shape: number[], dtype: number): NativeTensor;
  tensorWrap(data: ArrayBufferView, shape: number[], dtype: number): NativeTensor;
  tensorRandn(shape: number[], seed: number, dtype: number): NativeTensor;
  tensorReshape(tensor: NativeTensor, shape: number[]): NativeTensor;
  tensorPermute(tensor: NativeTensor, axes: number[]): NativeTensor;
  tensorSlice(tensor: NativeTensor, starts: number[], stops: number[]): NativeTensor;
  tensorInfo(tensor: NativeTensor): NativeTensorInfo;
  tensorMemory(tensor: NativeTensor): { buffer: ArrayBuffer; exposure?: NativeExposure };
  tensorByteOffset(tensor: NativeTensor): number;
  tensorPending(tensor: NativeTensor): boolean;
  tensorWritten(tensor: NativeTensor): Promise<void>;
  tensorTo(tensor: NativeTensor, dtype: number, device: string, stream: NativeStream | undefined): NativeTensor;
  tensorReadBack(tensor: NativeTensor): { buffer: ArrayBuffer; tensor: NativeTensor };
  tensorDispose(tensor: NativeTensor): void;
  exposureMoved(exposure: NativeExposure): void;

  streamCreate(device: string): NativeStream;
  streamSynchronize(stream: NativeStream): Promise<void>;
  streamRecord(stream: NativeStream): NativeEvent;
  streamWait(stream: NativeStream, event: NativeEvent): void;
  streamBeginCapture(stream: NativeStream): void;
  streamEndCapture(stream: NativeStream): NativeGraph;
  streamAbandonCapture(stream: NativeStream): void;
  streamDispose(stream: NativeStream): void;
  eventDone(event: NativeEvent): Promise<void>;
  eventElapsedMs(event: NativeEvent, later: NativeEvent): number;
  graphLaunch(graph: NativeGraph, stream: NativeStream): void;
  graphDispose(graph: NativeGraph): void;

  attention(call: NativeAttention): NativeResult;
  merge(
    parts: { out: NativeTensor; lse: NativeTensor }[],
    out: NativeTensor | undefined,
    stream: NativeStream | undefined,
  ): NativeResult;
}

/** The package's own folder: lib is compiled into dist. */
const root = path.join(__dirname, '..');

function load(): Addon {
  let addon: Addon;
  try {
    addon = nodeGypBuild(root) as Addon;
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new AttentionError(
      'ERR_BACKEND',
      `the native addon of node-attention cannot be loaded: ${text}. In a checkout, run 'npm run build'`,
      { cause },
    );
  }
  const { version } = require('../package.json') as { version: string };
  if (addon.version !== version) {
    throw new AttentionError(
      'ERR_BACKEND',
      `the native addon is of version ${addon.version} but the package is ${version}: rebuild it with 'npm run build'`,
    );
  }
  addon.setErrorClass(AttentionError);
  return addon;
}

export const native: Addon = load();
