// scripts/gpu-verify: see --help. Runs on a bare machine, out of the folder that scripts/gpu-pack filled, with nothing but Node.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { commit } from '../../bench/commit';
import { BUDGET_S, type Job, jobsOf, LOST, STEP_S } from './jobs';
import type { ReportLine, TestResult } from './runner';

const HELP = `Usage: scripts/gpu-verify [--filter TEXT] [--seconds N] [--step N] [--json FILE] [--dry-run] [--list]

Runs every correctness test of the CUDA backend on the first real device, from what scripts/gpu-pack built. No network.
It ends in time: jobs that no time is left for are named, and the same command makes them, and no other one again. A test
that crashes, never ends or leaves the device unusable has failed; those behind it run in another process.

  --filter TEXT  only jobs whose name contains this
  --seconds N    for all that it does (default: ${BUDGET_S})
  --step N       for each test at most, or a quarter of its job's time (default: ${STEP_S})
  --json FILE    the report of every test; a run of the same commit goes on from what is there, so carry it along
                 (default: build/gpu-results/verify.json; a copy goes to $OUT, where that is set)
  --dry-run      lists exactly what would run, test by test; needs no GPU
  --list         lists the jobs
  --help         this text

Exit codes: 0 all passed, 1 something failed or is missing, 2 wrong arguments, 3 there is no GPU.`;
const NO_DEVICE = 3;
/** What compute-sanitizer ends with when it found something. */
const SANITIZER_FOUND = 86;

const pack = __dirname;
const environment: NodeJS.ProcessEnv = {
  ...process.env,
  PATH: `${process.env.PATH}:/usr/local/cuda/bin`, // where compute-sanitizer is, if not on the PATH
  NODE_ATTENTION_TEST_DEVICE: 'real',
};
const { dryRun, list, filter, seconds, step, json } = readArguments();
const jobs = jobsOf(readFileSync(join(pack, 'tests.txt'), 'utf8').trim().split('\n')).filter(({ name }) =>
  name.includes(filter),
);
if (jobs.length === 0) usage(`--filter: no job contains '${filter}'`);
if (list || dryRun) show();
else verify().catch((error) => process.exit(console.error(error) ?? 1));

function usage(sentence: string): never {
  console.error(`gpu-verify: ${sentence}\n\n${HELP}`);
  process.exit(2);
}

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        filter: { type: 'string', default: '' },
        seconds: { type: 'string', default: String(BUDGET_S) },
        step: { type: 'string', default: String(STEP_S) },
        json: { type: 'string', default: join(pack, '../gpu-results/verify.json') },
        'dry-run': { type: 'boolean', default: false },
        list: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    });
    if (values.help) process.exit(console.log(HELP) ?? 0);
    const secondsOf = (name: 'seconds' | 'step') => {
      const seconds = Number(values[name]);
      return seconds > 0 ? seconds : usage(`--${name}: '${values[name]}' is not a number of seconds`);
    };
    return { ...values, dryRun: values['dry-run'], seconds: secondsOf('seconds'), step: secondsOf('step') };
  } catch (error) {
    return usage((error as Error).message);
  }
}

/** The tests of a job, by importing its file and running none of them. */
function testsOf(job: Job): { name: string; skipped: boolean }[] {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(pack, job.bundle), '--list'], {
    encoding: 'utf8',
    env: environment,
    maxBuffer: 1 << 28,
  });
  if (status !== 0) throw new Error(`${job.name} cannot be loaded: ${stderr}`);
  return stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line));
}

function show(): void {
  let tests = 0;
  for (const job of jobs) {
    console.log(`${job.name} (at most ${job.limitS} s): ${commandOf(job).join(' ')}`);
    if (list) continue;
    for (const { name, skipped } of testsOf(job)) {
      console.log(`  ${name}${skipped ? ' (skipped)' : ''}`);
      if (!skipped) tests++;
    }
  }
  if (!list) console.log(`${tests} tests would run`);
}

function commandOf({ bundle, sanitizer }: Job): string[] {
  const node = [process.execPath, '--expose-gc', join(pack, bundle)];
  if (sanitizer === undefined) return node;
  return ['compute-sanitizer', '--tool', sanitizer, '--error-exitcode', String(SANITIZER_FOUND), ...node];
}

interface JobReport {
  job: string;
  command: string;
  seconds: number;
  results: TestResult[];
}

interface Report {
  date: string;
  commit: string | undefined;
  command: string;
  device: string;
  summary: string;
  /** Jobs that no time was left for. */
  missing: string[];
  jobs: JobReport[];
}

async function verify(): Promise<void> {
  const end = performance.now() + 1e3 * seconds;
  const device = probe();
  console.log(device.text);
  if (!device.usable) process.exit(NO_DEVICE);
  const scratch = mkdtempSync(join(tmpdir(), 'gpu-verify-'));
  process.once('exit', () => rmSync(scratch, { recursive: true, force: true }));
  const reports = doneBefore(device.text);
  let missing = jobs.filter(({ name }) => !reports.some(({ job }) => job === name));
  if (reports.length > 0) console.log(`${reports.length} jobs are in ${json} already`);
  for (const job of missing) {
    const left = (end - performance.now()) / 1e3;
    const report = left > 0 ? await runJob(job, left, join(scratch, `${reports.length}.jsonl`)) : undefined;
    if (!report) break; // the next call begins with it
    reports.push(report);
    missing = missing.filter((each) => each !== job);
    console.log(`${job.name}: ${countOf([report]).text}, ${report.seconds.toFixed(1)} s`);
    for (const { name, state, message } of report.results) {
      if (state === 'failed') console.log(`  FAILED ${name}\n    ${message?.replaceAll('\n', '\n    ')}`);
    }
    save(device.text, reports, missing);
  }
  save(device.text, reports, missing);
  for (const { name } of missing) console.log(`no time was left of ${seconds} s for ${name}`);
  if (missing.length > 0) console.log(`${missing.length} jobs are missing: the same command makes them`);
  const total = countOf(reports);
  console.log(total.text);
  process.exitCode = total.failed > 0 || missing.length > 0 ? 1 : 0;
}

/** What an earlier run of this commit on such a device reported. Which changes a changed tree had, nobody knows. */
function doneBefore(device: string): JobReport[] {
  if (!existsSync(json) || commit()?.endsWith('+') !== false) return [];
  const before = JSON.parse(readFileSync(json, 'utf8')) as Report;
  return before.commit === commit() && before.device === device ? before.jobs : [];
}

/** After each job: whatever ends this process takes at most one job along. */
function save(device: string, reports: readonly JobReport[], missing: readonly Job[]): void {
  const report: Report = {
    date: new Date().toISOString(),
    commit: commit(),
    command: process.argv.slice(1).join(' '),
    device,
    summary: countOf(reports).text,
    missing: missing.map(({ name }) => name),
    jobs: [...reports],
  };
  mkdirSync(dirname(json), { recursive: true });
  writeFileSync(`${json}.new`, `${JSON.stringify(report, null, 1)}\n`);
  renameSync(`${json}.new`, json);
  if (process.env.OUT) copyFileSync(json, join(process.env.OUT, 'verify.json'));
}

function countOf(reports: readonly JobReport[]) {
  const all = reports.flatMap(({ results }) => results);
  const count = (wanted: TestResult['state']) => all.filter(({ state }) => state === wanted).length;
  const failed = count('failed');
  return { failed, text: `${count('passed')} passed, ${failed} failed, ${count('skipped')} skipped` };
}

/** What the library says of the first CUDA device, in a process of its own. */
function probe(): { usable: boolean; text: string } {
  const script = `const { devices } = require('node-attention');
    console.log(JSON.stringify(devices().find((device) => device.backend === 'cuda') ?? { message: 'there is no CUDA backend' }))`;
  const { stdout, stderr } = spawnSync(process.execPath, ['-e', script], { cwd: pack, encoding: 'utf8' });
  if (!stdout.startsWith('{')) throw new Error(`the library cannot be loaded: ${stderr}`);
  const found = JSON.parse(stdout);
  if (!found.usable) return { usable: false, text: `gpu-verify: nothing to verify: ${found.message}` };
  return { usable: true, text: `${found.device}: ${found.name}, ${found.instructionSet}` };
}

/** Undefined when the time that is left was over before the job's own limit. */
async function runJob(job: Job, left: number, file: string): Promise<JobReport | undefined> {
  const [command, ...args] = commandOf(job) as [string, ...string[]];
  const start = performance.now();
  const limitS = Math.min(job.limitS, left);
  const stepS = Math.min(step, job.limitS / 4); // several that never end leave time for others
  const passedS = () => (performance.now() - start) / 1e3;
  const failures: TestResult[] = [];
  const fail = (name: string, message: string) => failures.push({ name, state: 'failed', ms: 0, message });
  const report = (results: TestResult[]): JobReport => ({
    job: job.name,
    command: [command, ...args].join(' '),
    seconds: passedS(),
    results: [...results, ...failures],
  });
  writeFileSync(file, '');
  for (let first = 0; ; ) {
    // The leader of a group of processes: compute-sanitizer's Node is to end with it.
    const child = spawn(command, args, {
      stdio: ['ignore', 'inherit', 'inherit'],
      env: { ...environment, NODE_ATTENTION_TEST_REPORT: file, NODE_ATTENTION_TEST_FIRST: String(first) },
      detached: true,
    });
    const ended = await endOf(child, limitS - passedS(), stepS, file);
    if (ended === 'late' && left < job.limitS) return undefined;
    if (ended === 'missing')
      return report([{ name: job.name, state: 'skipped', ms: 0, message: `there is no ${command}` }]);
    const lines = readFileSync(file, 'utf8')
      .split('\n')
      .filter((line) => line.endsWith('}')) // one may be half a line
      .map((line): ReportLine => JSON.parse(line));
    const results = lines.filter((line) => 'state' in line);
    const last = lines.at(-1);
    const found = ended === SANITIZER_FOUND && job.sanitizer !== undefined;
    if (found) fail(job.name, `${job.sanitizer} found errors; they are above`);
    if (last && 'end' in last) {
      if (ended !== 0 && !found) fail(job.name, `ended early: ${ended}`);
      return report(results);
    }
    const began = lines.filter((line) => 'begins' in line).at(-1);
    const open = last === began ? began?.begins : undefined;
    const why = { late: `not done after ${job.limitS} s`, stuck: `not done after ${stepS} s` }[ended] ?? ended;
    if (open !== undefined || (ended !== LOST && !found)) fail(open ?? job.name, `ended early: ${why}`);
    if (ended === 'late' || began === undefined || began.number < first) return report(results);
    first = began.number + 1;
    appendFileSync(file, '\n');
  }
}

/**
 * The status or signal that it ended with; 'late' when it had to be ended after limitS seconds, 'stuck' when its report
 * did not grow for stepS of them, 'missing' when there is no such program.
 */
async function endOf(child: ChildProcess, limitS: number, stepS: number, file: string): Promise<number | string> {
  let reason: string | undefined;
  const endGroup = () => {
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // It has ended.
    }
  };
  // In a group of its own it is not told of what ends this process.
  const stop = () => {
    endGroup();
    process.exit(1);
  };
  const end = (why: string) => {
    reason ??= why;
    endGroup();
  };
  let [size, since] = [0, performance.now()];
  const look = () => {
    const now = statSync(file).size;
    if (now !== size) [size, since] = [now, performance.now()];
    else if (performance.now() - since > 1e3 * stepS) end('stuck');
  };
  const [timer, looking] = [setTimeout(() => end('late'), 1e3 * limitS), setInterval(look, 200)];
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, stop);
  try {
    const [code, signal] = await once(child, 'exit');
    return reason ?? code ?? signal;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 'missing';
    throw error;
  } finally {
    clearTimeout(timer);
    clearInterval(looking);
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(signal, stop);
  }
}
