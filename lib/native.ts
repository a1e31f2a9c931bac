// The only file that knows the addon: what it exports, and how it is loaded.

import * as path from 'node:path';
import { type AddonSearch, findAddon, packageVersion } from './binary';
import { AttentionError, type ErrorCode } from './errors';

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

export interface NativeCache {
  readonly [brand]: 'cache';
}
export interface NativeIndex {
  readonly [brand]: 'index';
}
export interface NativeHipState {
  readonly [brand]: 'hipState';
}
export interface NativePlan {
  readonly [brand]: 'plan';
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

export type NativeMask = { left: number; right: number } | { settings: NativeNeighborhood[] } | { plan: NativePlan };

/** What a sparse plan is for: [batch, patterns of heads, queries, keys, queryTile, keyBlock, causal, estimate, levels, complete]. */
export type NativeGeometry = number[];

/** Which of the tensors there are follows from the kind. */
export interface NativeBias {
  kind: 'key' | 'dense' | 'lowRank' | 'alibi' | 'distance' | 'relative';
  tensor: NativeTensor | undefined;
  query: NativeTensor | undefined;
  key: NativeTensor | undefined;
  step: number[] | undefined;
  path: 'auto' | 'matrix' | 'vector';
  heads: number[] | undefined;
}

/** A call of attention: k and v, or a cache. */
export type NativeAttention = [
  q: NativeTensor,
  k: NativeTensor | undefined,
  v: NativeTensor | undefined,
  cache: NativeCache | undefined,
  sinks: NativeTensor | undefined,
  extraK: NativeTensor | undefined,
  extraV: NativeTensor | undefined,
  cuQ: NativeTensor | undefined,
  cuK: NativeTensor | undefined,
  out: NativeTensor | undefined,
  masks: NativeMask[],
  biases: NativeBias[],
  scale: number | undefined,
  softcap: number | undefined,
  tf32: boolean,
  stream: NativeStream | undefined,
];

/** Without rotary embedding theta is 0. */
export interface NativeCacheOptions {
  batch: number;
  kvHeads: number;
  headDim: number;
  valueDim: number;
  pageSize: number;
  capacity: number;
  dtype: number;
  int8: boolean;
  device: string;
  theta: number;
  columns: number;
  interleaved: boolean;
  /** Of the resident part; all are 0 without one. */
  sink: number;
  window: number;
  pages: number;
}

/** Rows of a sequence of a cache, as they are stored: of values or keys, or of the units of int8. */
export interface NativeRows {
  sequence: number;
  /** Counts the heads of all tokens. */
  first: number;
  count: number;
  values: boolean;
  units: boolean;
}

/** An index by a mirror, whose rows are `block` keys each, or by a graph. */
export type NativeIndexOptions =
  | { block: number; bounds: boolean; clusters: boolean; probe: number }
  | { queries: NativeTensor; degree: number; effort: number };

/** A call of an index. */
export interface NativeRetrieve {
  q: NativeTensor;
  /** To attend also a list, with an entry for each key head. */
  top: number | number[];
  sink: number;
  window: number;
  scale: number | undefined;
  attend: boolean;
  estimate: boolean;
  stream: NativeStream | undefined;
  /** Of the CPU: for a cache with a resident part, and only for such. */
  search: NativeStream | undefined;
}

/** out and lse of a call that attends, inside capture with keys; else ids and scores. */
export interface NativeRetrieved {
  ids?: NativeTensor;
  scores?: NativeTensor;
  out?: NativeTensor;
  lse?: NativeTensor;
  touched: NativeTensor;
  keys?: NativeTensor;
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

/** The words of a plan; without offsets each row has as many. */
export interface NativePlanWords {
  offsets?: NativeTensor;
  entries: NativeTensor;
  bitmaps?: NativeTensor;
}

/** A call of a selector; numbers are checked, and what is left out is 0 or empty. */
export interface NativeSelect {
  q: NativeTensor;
  /** k, or a cache. */
  k: NativeTensor | undefined;
  cache: NativeCache | undefined;
  /** Index into na_selector. */
  selector: number;
  geometry: NativeGeometry;
  sink: number;
  window: number;
  budgets: number[];
  /** Keys beyond the budget that count by means of 2, 4, 8 ... */
  levels: number[];
  chunk: number[];
  keep: number[];
  first: boolean;
  /** Index into na_pooling. */
  pooling: number;
  /** Index into na_pooling, or -1. */
  queryPooling: number;
  perQuery: boolean;
  /** q and k have a row for each tile and block of the geometry. */
  pooled: boolean;
  scale: number;
  topP: number;
  threshold: number;
  state: NativeHipState | undefined;
  stream: NativeStream | undefined;
}

/**
 * The functions of csrc/addon; dtypes are indices into `dtypes` of dtype.ts. Whatever does not fit is refused with an
 * AttentionError. One thing cannot be seen: the buffer of `tensorReadBack` must not be given away until its tensor is written.
 */
export interface Addon {
  readonly version: string;
  /** The version, and a hash of the table between addon and backends. */
  readonly build: string;
  setErrorClass(errorClass: new (code: ErrorCode, message: string) => Error): void;

  devices(): NativeDevice[];
  /** How the CUDA backend was looked for, step by step. */
  cudaSearch(): string[];
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
  tensorTo(
    tensor: NativeTensor,
    dtype: number,
    device: string,
    stream: NativeStream | undefined,
    shape?: number[],
  ): NativeTensor;
  tensorReadBack(tensor: NativeTensor): { buffer: ArrayBuffer; tensor: NativeTensor };
  tensorDispose(tensor: NativeTensor): void;
  exposureMoved(exposure: NativeExposure): void;
  /** Frees the memory of an array at once, as if it had been transferred. */
  arrayDetach(data: ArrayBufferView): void;

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

  attention(...call: NativeAttention): NativeResult;
  select(call: NativeSelect): NativePlan;
  hipStateCreate(refresh: number[]): NativeHipState;
  hipStateRuns(state: NativeHipState): number[];
  hipStateDispose(state: NativeHipState): void;
  planBuild(
    geometry: NativeGeometry,
    offsets: NativeTensor,
    blocks: NativeTensor,
    stream: NativeStream | undefined,
  ): NativePlan;
  planOver(geometry: NativeGeometry, words: NativePlanWords): NativePlan;
  planCombine(a: NativePlan, b: NativePlan, union: boolean, stream: NativeStream | undefined): NativePlan;
  planReport(plan: NativePlan, stream: NativeStream | undefined): NativeTensor;
  planDense(plan: NativePlan, heads: number, stream: NativeStream | undefined): NativeTensor;
  planWords(plan: NativePlan): NativePlanWords;
  planInfo(plan: NativePlan): { geometry: NativeGeometry; bytes: number; device: string };
  planDispose(plan: NativePlan): void;
  merge(
    parts: { out: NativeTensor; lse: NativeTensor }[],
    out: NativeTensor | undefined,
    stream: NativeStream | undefined,
  ): NativeResult;

  kvCacheCreate(options: NativeCacheOptions): NativeCache;
  kvCacheAppend(
    cache: NativeCache,
    k: NativeTensor,
    v: NativeTensor,
    lengths: number[] | undefined,
    stream: NativeStream | undefined,
  ): void;
  kvCacheTruncate(cache: NativeCache, lengths: number[]): void;
  kvCacheRestore(cache: NativeCache, lengths: number[]): void;
  kvCacheCopyRows(
    cache: NativeCache,
    rows: NativeRows,
    write: boolean,
    bytes: NativeTensor,
    stream: NativeStream,
  ): void;
  kvCacheFork(cache: NativeCache): NativeCache;
  kvCacheLengths(cache: NativeCache): number[];
  kvCacheBytes(cache: NativeCache): number;
  kvCacheDeviceBytes(cache: NativeCache): number;
  kvCacheDispose(cache: NativeCache): void;

  kvIndexCreate(cache: NativeCache, options: NativeIndexOptions): NativeIndex;
  kvIndexRetrieve(index: NativeIndex, cache: NativeCache, call: NativeRetrieve): NativeRetrieved;
  kvIndexBytes(index: NativeIndex): number;
  kvIndexDispose(index: NativeIndex): void;
}

/** What to do about a file that is of no use. */
function advice({ file, shadowed }: AddonSearch): string {
  if (shadowed) return `It comes before ${shadowed}: delete ${path.dirname(path.dirname(file!))}, or build it anew`;
  return "Install the package anew; in a checkout, run 'npm run build'. 'npx node-attention doctor' says where it was looked for";
}

function refusal(sentence: string, search: AddonSearch, cause?: unknown): AttentionError {
  return new AttentionError('ERR_BACKEND', `${sentence}. ${advice(search)}`, { cause });
}

function load(): Addon {
  const search = findAddon();
  const { file } = search;
  if (!file) {
    const text = search.error!.message.trim();
    throw refusal(`the native addon of node-attention cannot be loaded: ${text}`, search, search.error);
  }
  let addon: Addon;
  try {
    addon = require(file) as Addon;
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw refusal(`the native addon of node-attention cannot be loaded: ${text}`, search, cause);
  }
  if (typeof addon?.build !== 'string') {
    throw refusal(
      `${file} is not the addon of node-attention ${packageVersion}: it bears no stamp of its build`,
      search,
    );
  }
  if (addon.version !== packageVersion) {
    throw refusal(`${file} is of version ${addon.version} but the package is ${packageVersion}`, search);
  }
  addon.setErrorClass(AttentionError);
  return addon;
}

export const native: Addon = load();
