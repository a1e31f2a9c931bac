// The common form of results: what every suite hands over, and what the report, the comparison and the tables of the
// documentation read.

import { type Interval, medianInterval, medianRatio, type Summary, summarize } from './statistics';

/** Raised whenever a reader of the version before could misread a file. */
export const FORMAT = { format: 'node-attention-bench', version: 1 } as const;

/** The name of this library among the contestants. */
export const OWN = 'node-attention';

export interface ResultFile {
  format: typeof FORMAT.format;
  version: typeof FORMAT.version;
  date: string;
  /** What was typed. */
  command: string;
  /** With `+` when files differed from it; absent outside of a git checkout. */
  commit?: string;
  machine: Machine;
  versions: { [name: string]: string };
  suites: SuiteResult[];
}

export interface Machine {
  cpu: string;
  processors: number;
  /** That this library used. */
  instructionSet?: string;
  memoryBytes: number;
  system: string;
}

export interface SuiteResult {
  suite: string;
  /** One sentence for a reader who does not know the suite. */
  about: string;
  /** What repeats it. */
  command: string;
  /** What it ran on, where that is not the processor; and what else takes part, by name. */
  device?: string;
  versions?: { [name: string]: string };
  /** Rates that no program can exceed on this machine, measured in the same run. */
  peaks: Peak[];
  rows: Row[];
  targets: Verdict[];
  /** Tables of its own, in plain text, where the suite has more to show than rows tell. */
  text?: string;
  /** What follows from several rows, such as the length from which on a sparse method is faster than a dense one. */
  findings?: { name: string; text: string }[];
  /** What a reader may look for and not find. */
  notMeasured: NotMeasured[];
  /** Why the suite ended early, or could not begin. Its rows, if any, count all the same. */
  failure?: string;
  /** Where it was measured, when a report is of several files. */
  origin?: Omit<ResultFile, 'suites'>;
}

export interface Peak {
  /** Such as 'float32 avx512', 'exp avx512', 'read 64 MiB', 'copy'. */
  name: string;
  threads?: number;
  /** Of a rate of reading: the bytes that are read over and over. */
  footprint?: number;
  /** Per second. */
  rate: number;
  unit: 'FLOP/s' | 'B/s' | 'exp/s';
}

export interface NotMeasured {
  what: string;
  why: string;
}

/** What is computed. Only what a chart or a filter needs; the name says the rest. */
export interface RowCase {
  /** The lines of charts: 'dense', 'causal', 'window' ... */
  mask: string;
  dtype: string;
  /** Keys that a query could see without a mask: the horizontal axis of charts. */
  tokens: number;
  headDim: number;
  threads?: number;
  /** What tells rows of one mask apart, such as what the inputs are like: each has charts of its own. Not the length. */
  data?: string;
}

/** What a suite measured; `makeRow` makes a row of it. */
export interface Measured {
  /** Unique in its suite, together with the number of threads. */
  name: string;
  case: RowCase;
  /** For each contestant whose output was right, the milliseconds of a run in each round; rounds are the same for all. */
  samples: { [contestant: string]: number[] };
  disturbed: number;
  repeated: number;
  /** Sets of inputs that take turns, so that a run does not find its own in the caches; 1: the same ones each time. */
  sets?: number;
  /** Floating-point operations that the result needs, and bytes that have to be moved at least. */
  flops?: number;
  bytes?: number;
  /** The least milliseconds that the measured peaks allow, and which peak it is that does. */
  floor?: Floor;
  /** Largest difference from the float64 reference in the checked elements, and the largest that is allowed. */
  errors?: { [contestant: string]: number };
  tolerance?: number;
  /** Bytes that a run takes beyond its inputs: the output and workspace. */
  memory?: { [contestant: string]: number };
  /** Contestants whose output was wrong, and who therefore have no time. */
  faults?: Fault[];
  /** Contestants that do not take the case, and why. */
  absent?: Fault[];
  /** What a sparse method computes: the share of scores left out, and how near the result is to the dense one. */
  quality?: { sparsity: number; [measure: string]: number };
  /** How many times faster than dense the simulator says it can be, and how many times it was. */
  simulated?: { bound: number; reached: number };
  /** Further figures of this suite, by the heading of their column. */
  figures?: { [heading: string]: number };
}

export interface Floor {
  ms: number;
  bound: 'arithmetic' | 'exp' | 'memory';
}

export interface Fault {
  contestant: string;
  fault: string;
}

/** A measurement with all that follows from its samples. What is absent was not measured; nothing is ever 0 for that. */
export interface Row extends Measured {
  /** Milliseconds, with the interval of the median: that of 95 %, or, of fewer than six rounds, from least to most. */
  times: { [contestant: string]: Summary & { interval: Interval } };
  /** How many times as long each other contestant takes: the median of the ratios within rounds, with its interval. */
  ratios: { [contestant: string]: { median: number; interval: Interval } };
  flopsPerSecond?: number;
  /** Floor over time: 1 is the fastest that can be. */
  ofFloor?: number;
}

export interface Verdict {
  text: string;
  verdict: 'reached' | 'missed' | 'not measured';
  /** Rows that the target is about, and those of them that reach it. */
  rows: number;
  reached: number;
  /** Rows that the target is about and in which others used the machine: no firm ground in either direction. */
  disturbed: number;
  worst?: { row: string; figure: number };
}

export function makeRow(measured: Measured): Row {
  const { name, samples, flops, floor } = measured;
  const own = samples[OWN];
  for (const [contestant, times] of Object.entries(samples)) {
    const odd = times.find((time) => !(time > 0 && Number.isFinite(time)));
    if (odd !== undefined) throw new Error(`${name}: ${contestant} has a time of ${odd} ms`);
    if (times.length === 0 || (own && times.length !== own.length)) {
      throw new Error(`${name}: ${contestant} has ${times.length} rounds`);
    }
  }
  const times = Object.fromEntries(
    Object.entries(samples).map(([contestant, each]) => [
      contestant,
      { ...summarize(each), interval: medianInterval(each) },
    ]),
  );
  const ratios: Row['ratios'] = {};
  for (const [contestant, each] of Object.entries(samples)) {
    if (!own || contestant === OWN) continue;
    const quotients = each.map((time, round) => time / own[round]!);
    ratios[contestant] = {
      median: medianRatio(each, own),
      interval: medianInterval(quotients),
    };
  }
  const ms = times[OWN]?.median;
  return {
    ...measured,
    times,
    ratios,
    flopsPerSecond: ms && flops && flops / (ms / 1e3),
    ofFloor: ms && floor && floor.ms / ms,
  };
}

/** A row's name with its number of threads. */
export const fullName = ({ name, case: { threads } }: Row): string =>
  threads === undefined ? name : `${name}, ${threads} thr.`;

/** The result file in a JSON text. Throws a sentence when it is none, or of another version. */
export function parseResults(text: string, path: string): ResultFile {
  let file: Partial<ResultFile>;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw new Error(`${path} is not JSON: ${(error as Error).message}`);
  }
  if (file?.format !== FORMAT.format) throw new Error(`${path} is not a result file of npm run bench`);
  if (file.version !== FORMAT.version) {
    throw new Error(`${path} has version ${file.version} of the form of results; this program reads ${FORMAT.version}`);
  }
  return file as ResultFile;
}
