// From samples to what is printed.

import { type Column, factor, optional, percent, tableOf } from '../report';
import { medianRatio, type Summary, summarize } from '../statistics';
import { judgeBy, type Target, type Verdict } from '../targets';
import { keyBytes } from './cases';
import type { JavaScriptPath } from './javascript';
import type { Outcome } from './run';
import type { DeviceReport } from './suite';

/** An outcome with all that follows from it. Absent figures: not measured. */
export interface Row extends Outcome {
  /** Milliseconds of a run of each contestant. */
  times: { [contestant: string]: Summary };
  tflops?: number;
  /** Bytes that must be moved at least, over the time. */
  bytesPerSecond?: number;
  /** Shares of the measured peaks. */
  ofMatrix?: number;
  ofCopy?: number;
  /** The least microseconds that either peak allows. */
  floorUs?: number;
  /** For each peer, how many times as long it takes. */
  faster: { [contestant: string]: number | undefined };
}

/** The better of the two measured rates of matrix products. */
export function matrixPeak({ matrixRate, torchMatrixRate }: DeviceReport): number | undefined {
  const rates = [matrixRate, torchMatrixRate].filter((rate) => rate !== undefined);
  return rates.length > 0 ? Math.max(...rates) : undefined;
}

export function rowOf(outcome: Outcome, device: DeviceReport): Row {
  const { contestants, samples, flops, bytes } = outcome;
  const times = Object.fromEntries(contestants.map((name, i) => [name, summarize(samples[i]!)]));
  const of = (name: string) => samples[contestants.indexOf(name)];
  const own = of('node-attention');
  const seconds = own && times['node-attention']!.median / 1e3;
  const peak = matrixPeak(device);
  const ratio = (peer: string) => (own && of(peer) ? medianRatio(of(peer)!, own) : undefined);
  return {
    ...outcome,
    times,
    tflops: seconds && flops / seconds / 1e12,
    bytesPerSecond: seconds && bytes / seconds,
    ofMatrix: seconds && peak && flops / seconds / peak,
    ofCopy: seconds && bytes / seconds / device.copyRate,
    floorUs: peak && 1e6 * Math.max(flops / peak, bytes / device.copyRate),
    faster: { cudnn: ratio('cudnn'), pytorch: ratio('pytorch') },
  };
}

const us = optional((ms) => (1e3 * ms).toPrecision(ms < 1 ? 4 : 5));

/** What stands where a peer has no time. */
function peer(name: string, cell: (row: Row) => string | undefined): (row: Row) => string {
  return (row) => cell(row) ?? (row.faults.some(({ contestant }) => contestant === name) ? 'wrong' : 'not present');
}

const columns: Column<Row>[] = [
  ['case', ({ test }) => test.name],
  ['us', ({ times }) => us(times['node-attention']?.median) ?? 'not measured'],
  ['quartiles', ({ times: { 'node-attention': own } }) => own && `${us(own.q1)} - ${us(own.q3)}`],
  ['TFLOP/s', ({ tflops }) => tflops?.toPrecision(4)],
  ['of peak', ({ ofMatrix }) => percent(0)(ofMatrix)],
  ['GB/s', ({ bytesPerSecond }) => optional((rate) => (rate / 1e9).toFixed(0))(bytesPerSecond)],
  ['of copy', ({ ofCopy }) => percent(0)(ofCopy)],
  ['floor us', ({ floorUs }) => floorUs?.toPrecision(4)],
  ['cuDNN us', peer('cudnn', ({ times }) => us(times.cudnn?.median))],
  ['faster', ({ faster }) => factor(faster.cudnn)],
  ['PyTorch us', peer('pytorch', ({ times }) => us(times.pytorch?.median))],
  ['faster', ({ faster }) => factor(faster.pytorch)],
];

export const cudaTable = (rows: readonly Row[]): string => tableOf(columns, rows);

export function cudaFaults(rows: readonly Row[]): string[] {
  return rows.flatMap(({ test, faults, absent }) => [
    ...faults.map(({ contestant, fault }) => `WRONG OUTPUT: ${contestant}, ${test.name}: ${fault}`),
    ...absent
      .filter(({ contestant }) => contestant === 'node-attention')
      .map(({ contestant, fault }) => `NOT RUN: ${contestant}, ${test.name}: ${fault}`),
  ]);
}

/** Below so many bytes of keys and values a decoding step is judged by the time above its floor instead. */
const STREAMING_BYTES = 256e6;
const ABOVE_FLOOR_US = 5;

const isDecode = ({ test }: Row) => test.kind === 'decode';
const streams = ({ test }: Row) => keyBytes(test) >= STREAMING_BYTES;

const targets: Target<Row>[] = [
  { text: 'at least as fast as cuDNN on every row', figure: ({ faster }) => faster.cudnn, atLeast: 1 },
  {
    text: 'decode: 85 % of the copy bandwidth from 256 MB of keys and values on',
    figure: (row) => (isDecode(row) && streams(row) ? row.ofCopy : undefined),
    atLeast: 0.85,
  },
  {
    text: 'decode: within 5 us of the floor below that',
    figure: (row) =>
      isDecode(row) && !streams(row) && row.floorUs !== undefined && row.times['node-attention']
        ? 1e3 * row.times['node-attention'].median - row.floorUs
        : undefined,
    atMost: ABOVE_FLOOR_US,
  },
];

export const judgeCuda = (rows: readonly Row[]): Verdict[] => judgeBy(targets, rows, ({ test }) => test.name);

export function deviceLines(device: DeviceReport): string[] {
  const { name, instructionSet, memoryBytes, copyRate, copyRateByEvents, matrixRate, torchMatrixRate } = device;
  const tera = optional((rate) => `${(rate / 1e12).toPrecision(4)} TFLOP/s`);
  const giga = optional((rate) => `${(rate / 1e9).toFixed(0)} GB/s`);
  const unknown = 'not measured';
  return [
    `${name}, ${instructionSet}, ${(memoryBytes / 2 ** 30).toFixed(0)} GiB`,
    `copy: ${giga(copyRate)} by the backend's clock, ${giga(copyRateByEvents) ?? unknown} by CUDA events`,
    `bfloat16 products: ${tera(matrixRate) ?? unknown}, PyTorch's ${tera(torchMatrixRate) ?? unknown}`,
    ...device.notes.map((note) => `left out: ${note}`),
  ];
}

export function javascriptLines({ device, callsPerSecond, stepUs, graphStepUs }: JavaScriptPath): string[] {
  const time = ({ median, q1, q3 }: Summary) => `${median.toFixed(1)} us (${q1.toFixed(1)} - ${q3.toFixed(1)})`;
  return [
    `From JavaScript (${device}, one decoding step, 64/8 heads, D=128):`,
    `  ${callsPerSecond.toFixed(0)} calls of attention() per second, enqueued`,
    `  ${time(stepUs)} from call to completion; ${time(graphStepUs)} replayed from a graph`,
  ];
}

export const CUDA_NOTES = `\
us: median of the rounds, by the device's clock, of graphs of runs over sets of tensors that together exceed the caches.
TFLOP/s counts 4 D operations for each visible pair of a query and a key; GB/s every input and output once. of peak, of
copy: of the rates measured here; floor: the larger of the times that the work would take at them. faster: median over
the rounds of the ratio within each round. Outputs are checked against a float64 reference before anything is timed.`;
