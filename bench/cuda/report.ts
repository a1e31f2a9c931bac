// From samples to the common form of results.

import { type Floor, fullName, makeRow, OWN, type Peak, type Row, type SuiteResult, type Verdict } from '../format';
import { SHOWN } from '../sparse/headings';
import { PUBLISHED_KEYS, publishedText } from '../sparse/published';
import type { Summary } from '../statistics';
import { judgeBy, type Target } from '../targets';
import { type CudaCase, keyBytes } from './cases';
import type { JavaScriptPath } from './javascript';
import type { Outcome } from './run';
import type { DeviceReport } from './suite';

const GIGABYTES = 'GB/s';
const OF_COPY = 'of copy';
const OF_MATRIX = 'of matrix peak';
const KEY_BYTES = 'bytes of keys and values';

/** The better of the two measured rates of matrix products. */
function matrixPeak({ matrixRate, torchMatrixRate }: DeviceReport): number | undefined {
  const rates = [matrixRate, torchMatrixRate].filter((rate) => rate !== undefined);
  return rates.length > 0 ? Math.max(...rates) : undefined;
}

/** The line of charts that a case belongs to: the batch of a prefill follows from its length. */
function maskOf({ kind, batch, heads, kvHeads, selector }: CudaCase): string {
  if (selector !== undefined) return `${kind}, ${selector}`;
  if (kind === 'decode') return `decode, batch ${batch}`;
  return heads === kvHeads ? kind : `${kind}, ${heads}/${kvHeads} heads`;
}

/** The row of an outcome. What the device could not tell is absent from it. */
export function rowOf(outcome: Outcome, device: DeviceReport): Row {
  const { test, contestants, samples, flops, bytes, faults, absent, errors, tolerance, differences, shown } = outcome;
  const { name, headDim, keys } = test;
  const peak = matrixPeak(device);
  const measured = {
    name,
    case: { mask: maskOf(test), dtype: 'bfloat16', tokens: keys, headDim },
    samples: Object.fromEntries(contestants.map((contestant, i) => [contestant, samples[i]!])),
    disturbed: outcome.disturbed,
    repeated: outcome.repeated,
    flops,
    bytes,
    floor: peak === undefined ? undefined : floorOf(outcome, peak, device.copyRate),
    errors,
    tolerance,
    faults,
    absent,
  };
  const row = makeRow(measured);
  if (test.selector !== undefined) return { ...row, figures: shown === undefined ? {} : { [SHOWN]: shown } };
  const seconds = row.times[OWN] && row.times[OWN].median / 1e3;
  if (!seconds) return row;
  return {
    ...row,
    figures: {
      [GIGABYTES]: bytes / seconds / 1e9,
      [OF_COPY]: bytes / seconds / device.copyRate,
      ...(peak === undefined ? {} : { [OF_MATRIX]: flops / seconds / peak }),
      ...Object.fromEntries(
        Object.entries(differences).map(([peer, difference]) => [`difference from ${peer}`, difference]),
      ),
      ...(test.kind === 'decode' ? { [KEY_BYTES]: keyBytes(test) } : {}),
    },
  };
}

function floorOf({ flops, bytes }: Outcome, peak: number, copyRate: number): Floor {
  const [arithmetic, memory] = [(1e3 * flops) / peak, (1e3 * bytes) / copyRate];
  return memory > arithmetic ? { ms: memory, bound: 'memory' } : { ms: arithmetic, bound: 'arithmetic' };
}

/** Below so many bytes of keys and values a decoding step is judged by the time above its floor instead. */
const STREAMING_BYTES = 256e6;
const ABOVE_FLOOR_US = 5;

/** Of a decoding row, the bytes of its keys and values. */
const decodeBytes = ({ figures }: Row) => figures?.[KEY_BYTES];

const targets: Target<Row>[] = [
  { text: 'at least as fast as cuDNN on every row', figure: ({ ratios }) => ratios.cudnn?.median, atLeast: 1 },
  {
    text: 'decode: 85 % of the copy bandwidth from 256 MB of keys and values on',
    figure: (row) => ((decodeBytes(row) ?? 0) >= STREAMING_BYTES ? row.figures?.[OF_COPY] : undefined),
    atLeast: 0.85,
  },
  {
    text: 'decode: within 5 us of the floor below that',
    figure: (row) =>
      (decodeBytes(row) ?? STREAMING_BYTES) < STREAMING_BYTES && row.floor && row.times[OWN]
        ? 1e3 * (row.times[OWN].median - row.floor.ms)
        : undefined,
    atMost: ABOVE_FLOOR_US,
  },
];

export const judgeCuda = (rows: readonly Row[]): Verdict[] => judgeBy(targets, rows, fullName);

/** The names of what was found there. */
export const FROM_JAVASCRIPT = ['calls from JavaScript', 'a step from JavaScript'];

/** All that the suite found, but for what its reader is told about it. */
export function suiteResult(
  device: DeviceReport,
  outcomes: readonly Outcome[],
  javascript: JavaScriptPath | undefined,
  clocks: readonly string[],
): Omit<SuiteResult, 'about' | 'command'> {
  const rows = outcomes.map((outcome) => rowOf(outcome, device));
  return {
    suite: 'cuda',
    device: deviceLine(device),
    versions: device.versions,
    peaks: peaksOf(device),
    rows,
    targets: judgeCuda(rows),
    findings: [
      ...(javascript ? javascriptLines(javascript).map((text, i) => ({ name: FROM_JAVASCRIPT[i]!, text })) : []),
      ...publishedFindings(rows),
      ...clocks.map((text, i) => ({ name: i === 0 ? 'clocks before' : 'clocks after', text })),
    ],
    notMeasured: device.notes.map((note) => {
      const [, what, why] = /^(.+?): (.+)$/s.exec(note)!;
      return { what: what!, why: why! };
    }),
  };
}

/** Where decoding with selection was measured with as many keys: what others have published, beside it. */
export function publishedFindings(rows: readonly Row[]): { name: string; text: string }[] {
  const ours = rows.filter(({ case: { tokens }, times, figures = {} }) => {
    return tokens === PUBLISHED_KEYS && times[OWN] && SHOWN in figures;
  });
  if (ours.length === 0) return [];
  const times = ours.map(({ case: { mask }, times }) => `${mask} ${(1e3 * times[OWN]!.median).toFixed(0)} us`);
  return [{ name: `decoding at ${PUBLISHED_KEYS} keys`, text: `${times.join(', ')}; published: ${publishedText()}` }];
}

export function peaksOf({ copyRate, copyRateByEvents, matrixRate, torchMatrixRate }: DeviceReport): Peak[] {
  const peaks: [string, number | undefined, Peak['unit']][] = [
    ["copy, by the backend's clock", copyRate, 'B/s'],
    ['copy, by CUDA events', copyRateByEvents, 'B/s'],
    ['bfloat16 matrix products', matrixRate, 'FLOP/s'],
    ["bfloat16 matrix products, PyTorch's", torchMatrixRate, 'FLOP/s'],
  ];
  return peaks.flatMap(([name, rate, unit]) => (rate === undefined ? [] : [{ name, rate, unit }]));
}

const deviceLine = ({ name, instructionSet, memoryBytes }: DeviceReport) =>
  `${name}, ${instructionSet}, ${(memoryBytes / 2 ** 30).toFixed(0)} GiB`;

function javascriptLines({ device, callsPerSecond, stepUs, graphStepUs }: JavaScriptPath): string[] {
  const time = ({ median, q1, q3 }: Summary) => `${median.toFixed(1)} us (${q1.toFixed(1)} - ${q3.toFixed(1)})`;
  return [
    `${device}, one decoding step, 64/8 heads, D=128: ${callsPerSecond.toFixed(0)} calls of attention() per second, enqueued`,
    `${time(stepUs)} from call to completion; ${time(graphStepUs)} replayed from a graph`,
  ];
}
