// scripts/gpu-verify: see --help. Runs on a bare machine, out of the folder that scripts/gpu-pack filled, with nothing but Node.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Job, jobsOf, PART_S, partsOf } from './jobs';
import type { TestResult } from './runner';

const HELP = `Usage: scripts/gpu-verify [--part N] [--json FILE] [--dry-run] [--list]

Runs every correctness test of the CUDA backend on the first real device, from what scripts/gpu-pack built. No network.
Divided into parts of less than ${PART_S} seconds each; a part can be run again at any time.

  --part N     only the N-th part
  --json FILE  a report of every test (default: gpu-verify.json, or gpu-verify-N.json, in $OUT where that is set)
  --dry-run    lists exactly what would run, test by test; needs no GPU
  --list       lists the parts and their jobs
  --help       this text

Exit codes: 0 all passed, 1 something failed, 2 wrong arguments, 3 there is no GPU.`;
const NO_DEVICE = 3;
/** What compute-sanitizer ends with when it found something. */
const SANITIZER_FOUND = 86;

const pack = __dirname;
const environment: NodeJS.ProcessEnv = { ...process.env, NODE_ATTENTION_TEST_DEVICE: 'real' };
const { dryRun, list, part, json } = readArguments();
const jobs = jobsOf(readFileSync(join(pack, 'tests.txt'), 'utf8').trim().split('\n'));
const parts = partsOf(jobs);
if (part !== undefined && !(part >= 1 && part <= parts.length)) usage(`--part: there are ${parts.length} parts`);
const chosen = part === undefined ? parts.map((_, i) => i + 1) : [part];
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
        part: { type: 'string' },
        json: { type: 'string' },
        'dry-run': { type: 'boolean', default: false },
        list: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    });
    if (values.help) process.exit(console.log(HELP) ?? 0);
    const number = values.part === undefined ? undefined : Number(values.part);
    if (number !== undefined && !Number.isSafeInteger(number)) usage(`--part: '${values.part}' is not a number`);
    return { dryRun: values['dry-run'], list: values.list, part: number, json: values.json };
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
  for (const number of chosen) {
    const jobs = parts[number - 1]!;
    const limit = jobs.reduce((sum, { limitS }) => sum + limitS, 0);
    console.log(`part ${number} of ${parts.length}, at most ${limit} s`);
    for (const job of jobs) {
      console.log(`  ${job.name} (at most ${job.limitS} s): ${commandOf(job).join(' ')}`);
      if (list) continue;
      for (const { name, skipped } of testsOf(job)) {
        console.log(`    ${name}${skipped ? ' (skipped)' : ''}`);
        if (!skipped) tests++;
      }
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
  part: number;
  seconds: number;
  results: TestResult[];
}

async function verify(): Promise<void> {
  const device = probe();
  console.log(device.text);
  if (!device.usable) process.exit(NO_DEVICE);
  const scratch = mkdtempSync(join(tmpdir(), 'gpu-verify-'));
  process.once('exit', () => rmSync(scratch, { recursive: true, force: true }));
  const reports: JobReport[] = [];
  for (const number of chosen) {
    for (const job of parts[number - 1]!) {
      const report = await runJob(job, number, join(scratch, `${reports.length}.jsonl`));
      reports.push(report);
      const counts = countOf([report]);
      console.log(`${job.name}: ${counts.text}, ${report.seconds.toFixed(1)} s`);
      for (const { name, state, message } of report.results) {
        if (state === 'failed') console.log(`  FAILED ${name}\n    ${message?.replaceAll('\n', '\n    ')}`);
      }
    }
  }
  const total = countOf(reports);
  const file = json ?? join(process.env.OUT ?? '.', part === undefined ? 'gpu-verify.json' : `gpu-verify-${part}.json`);
  const about = { date: new Date().toISOString(), command: process.argv.slice(1).join(' '), device: device.text };
  writeFileSync(file, `${JSON.stringify({ ...about, summary: total.text, jobs: reports }, null, 1)}\n`);
  console.log(total.text);
  process.exitCode = total.failed > 0 ? 1 : 0;
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
  if (!stdout.startsWith('{')) return { usable: false, text: `gpu-verify: the library cannot be loaded: ${stderr}` };
  const found = JSON.parse(stdout);
  if (!found.usable) return { usable: false, text: `gpu-verify: nothing to verify: ${found.message}` };
  return { usable: true, text: `${found.device}: ${found.name}, ${found.instructionSet}` };
}

async function runJob(job: Job, number: number, file: string): Promise<JobReport> {
  const [command, ...args] = commandOf(job) as [string, ...string[]];
  const start = performance.now();
  const report = (results: TestResult[]): JobReport => ({
    job: job.name,
    command: [command, ...args].join(' '),
    part: number,
    seconds: (performance.now() - start) / 1e3,
    results,
  });
  writeFileSync(file, '');
  const child = spawn(command, args, {
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...environment, NODE_ATTENTION_TEST_REPORT: file },
  });
  const ended = await endOf(child, job.limitS);
  if (ended === 'missing')
    return report([{ name: job.name, state: 'skipped', ms: 0, message: `there is no ${command}` }]);
  const lines = readFileSync(file, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  const results: TestResult[] = lines.filter(({ end }) => !end);
  const finished = lines.at(-1)?.end === true;
  const fail = (message: string) => results.push({ name: job.name, state: 'failed', ms: 0, message });
  if (ended === SANITIZER_FOUND && job.sanitizer) fail(`${job.sanitizer} found errors; they are above`);
  else if (ended !== 0 || !finished)
    fail(`ended early: ${ended === 'late' ? `not done after ${job.limitS} s` : ended}`);
  return report(results);
}

/** The status or signal that it ended with; 'late' when it had to be ended, 'missing' when there is no such program. */
async function endOf(child: ChildProcess, limitS: number): Promise<number | string> {
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL');
  }, 1e3 * limitS);
  try {
    const [code, signal] = await once(child, 'exit');
    return late ? 'late' : (code ?? signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 'missing';
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
