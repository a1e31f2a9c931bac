// --compare: what got faster or slower between two result files, beyond the noise of their samples.

import { fullName, OWN, type ResultFile, type Row } from './format';
import { type Column, tableOf } from './report';
import { factor, type Interval, quantile } from './statistics';

export interface Change {
  suite: string;
  row: string;
  /** Time after over time before: above 1 is slower. */
  median: number;
  interval: Interval;
  /** The peer whose time in the same rounds was the measure; absent: the clock was. */
  by?: string;
}

export interface Comparison {
  faster: Change[];
  slower: Change[];
  /** Those slower than the limit, with their whole interval. */
  regressions: Change[];
  /** Rows in which neither can be told. */
  level: number;
  /** Rows of so few rounds that no change could be told, however large. */
  tooFew: string[];
  /** Rows whose output was right and is wrong now, and suites that end early now: regressions whatever the time. */
  broken: string[];
  /** Rows that one of the files alone has a time of. */
  onlyBefore: string[];
  onlyAfter: string[];
  /** What makes the files hard to compare. */
  doubts: string[];
}

/** Of so many rows, few are to be called changed by chance. */
const CONFIDENCE = 0.99;
/** Less than this is nobody's concern, however certain. */
const LEAST = 0.02;

/**
 * A row's change: by the clock, or, where both files have a peer of the same version in the same row, by the ratio to the
 * peer within rounds, which cancels what changed about the machine. Of several peers it is the steadiest over the rounds of
 * both files: which file a round is from must not matter for the choice, or chance would be called a change more often.
 */
function changeOf(suite: string, before: Row, after: Row, peers: readonly string[]): Change {
  const [from, to] = [before, after].map(({ samples }) => samples[OWN]!) as [number[], number[]];
  const byPeers = peers.flatMap((by) => {
    const [a, b] = [before.samples[by], after.samples[by]];
    return a && b ? [{ by, old: from.map((time, n) => time / a[n]!), now: to.map((time, n) => time / b[n]!) }] : [];
  });
  const spread = ({ old, now }: (typeof byPeers)[number]) =>
    quantile([...old, ...now], 0.75) / quantile([...old, ...now], 0.25);
  const [{ by, old, now } = { by: undefined, old: from, now: to }] = byPeers.sort((a, b) => spread(a) - spread(b));
  return { suite, row: fullName(after), ...factor(old, now, CONFIDENCE), by };
}

/** `limit`: a time longer by this share, beyond the noise, is a regression. */
export function compare(before: ResultFile, after: ResultFile, limit: number): Comparison {
  const result: Comparison = {
    faster: [],
    slower: [],
    regressions: [],
    level: 0,
    tooFew: [],
    broken: [],
    onlyBefore: [],
    onlyAfter: [],
    doubts: doubtsOf(before, after),
  };
  const timed = (file: ResultFile) =>
    new Map(
      file.suites.flatMap((suite) =>
        suite.rows
          .filter(({ samples }) => samples[OWN])
          .map((row) => [`${suite.suite}: ${fullName(row)}`, { suite, row }] as const),
      ),
    );
  const [olds, news] = [timed(before), timed(after)];
  const wrong = new Set(
    after.suites.flatMap(({ suite, rows }) =>
      rows
        .filter(({ faults = [] }) => faults.some(({ contestant }) => contestant === OWN))
        .map((row) => `${suite}: ${fullName(row)}`),
    ),
  );
  const gone = [...olds.keys()].filter((key) => !news.has(key));
  const whole = new Set(before.suites.filter(({ failure }) => failure === undefined).map(({ suite }) => suite));
  const ended = after.suites.filter(({ suite, failure }) => failure !== undefined && whole.has(suite));
  result.broken = [
    ...gone.filter((key) => wrong.has(key)),
    ...ended.map(({ suite, failure }) => `${suite} ended early, ${failure}`),
  ];
  result.onlyBefore = gone.filter((key) => !wrong.has(key));
  result.onlyAfter = [...news.keys()].filter((key) => !olds.has(key));
  for (const [key, { suite, row }] of news) {
    const old = olds.get(key);
    if (!old) continue;
    const [setsBefore, setsAfter] = [old.row.sets ?? 1, row.sets ?? 1];
    if (setsBefore !== setsAfter) {
      result.doubts.push(`sets of inputs of ${key}: ${setsBefore} before, ${setsAfter} after; not compared`);
      continue;
    }
    const versions = [old.suite.versions ?? {}, suite.versions ?? {}];
    const peers = Object.keys(row.samples).filter(
      (name) => PEERS[name] !== undefined && versions[0]![PEERS[name]!] === versions[1]![PEERS[name]!],
    );
    const change = changeOf(suite.suite, old.row, row, peers);
    const [from, to] = change.interval;
    if (to === Number.POSITIVE_INFINITY) result.tooFew.push(key);
    else if (from > 1 + LEAST) {
      result.slower.push(change);
      if (from > 1 + limit) result.regressions.push(change);
    } else if (to < 1 - LEAST) result.faster.push(change);
    else result.level++;
  }
  result.slower.sort((a, b) => b.median - a.median);
  result.faster.sort((a, b) => a.median - b.median);
  return result;
}

/** Contestants that are not this library, and the name of their version. */
const PEERS: { [contestant: string]: string } = {
  onnxruntime: 'onnxruntime-node',
  pytorch: 'pytorch',
  'pytorch-flex': 'pytorch',
  cudnn: 'cudnn',
  cutlass: 'cutlass',
  'flash-attn': 'flash-attn',
  'usearch exact': 'usearch',
  'usearch HNSW 512': 'usearch',
};

function doubtsOf(before: ResultFile, after: ResultFile): string[] {
  const doubts: string[] = [];
  const differ = (what: string, a: string | number | undefined, b: string | number | undefined) => {
    if (a !== b) doubts.push(`${what}: ${a ?? 'unknown'} before, ${b ?? 'unknown'} after`);
  };
  differ('processor', before.machine.cpu, after.machine.cpu);
  differ('processors', before.machine.processors, after.machine.processors);
  differ('Node', before.versions.node, after.versions.node);
  for (const suite of after.suites) {
    const old = before.suites.find((each) => each.suite === suite.suite);
    if (!old) continue;
    differ(`device of ${suite.suite}`, old.device, suite.device);
    for (const name of Object.keys({ ...old.versions, ...suite.versions })) {
      differ(`${name} of ${suite.suite}`, old.versions?.[name], suite.versions?.[name]);
    }
    if (old.failure !== undefined) doubts.push(`${suite.suite} ended early before, ${old.failure}`);
  }
  return doubts;
}

const columns: Column<Change>[] = [
  ['row', ({ suite, row }) => `${suite}: ${row}`],
  ['time x', ({ median }) => median.toFixed(3)],
  ['99 %', ({ interval: [from, to] }) => `${from.toFixed(3)} - ${to.toFixed(3)}`],
  ['by', ({ by }) => by ?? 'the clock'],
];

/** Of how many rows the times could be compared. */
export const told = ({ faster, slower, level }: Comparison): number => faster.length + slower.length + level;

export function comparisonText(comparison: Comparison, limit: number): string {
  const { faster, slower, regressions, level, tooFew, broken, onlyBefore, onlyAfter, doubts } = comparison;
  const list = (heading: string, changes: readonly Change[]) =>
    changes.length > 0 ? `${heading}\n${tableOf(columns, changes)}` : `${heading} none`;
  const alone = (heading: string, keys: readonly string[]) =>
    keys.length > 0 ? `${heading}\n${keys.map((key) => `  ${key}`).join('\n')}` : '';
  const percent = `${+(100 * limit).toFixed(1)} %`;
  return [
    doubts.map((doubt) => `differs: ${doubt}`).join('\n'),
    list('Slower:', slower),
    list('Faster:', faster),
    `${level} more without a change beyond the noise (99 % intervals by Mann and Whitney's exact test).`,
    alone('Too few rounds to tell a change; five in each file can:', tooFew),
    alone('REGRESSION: wrong or missing now, and right before:', broken),
    alone('Timed before only:', onlyBefore),
    alone('Timed after only:', onlyAfter),
    regressions.length > 0
      ? `REGRESSION: ${regressions.length} slower by more than ${percent}: ${regressions.map(({ row }) => row).join('; ')}`
      : told(comparison) === 0
        ? 'NOTHING COMPARED: no time of the one file could be set against one of the other.'
        : `No regression: of ${told(comparison)} times that tell, none is slower by more than ${percent}.`,
  ]
    .filter((part) => part !== '')
    .join('\n\n');
}
