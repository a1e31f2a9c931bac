// What scripts/gpu-verify runs: jobs, a process each, and the parts that they are divided into.

export interface Job {
  name: string;
  /** The bundle of the test file that it runs. */
  bundle: string;
  /** Tests that it is about, by a part of their names; all of them unless given. */
  only?: string;
  /** It is ended, and has failed, after so many seconds. */
  limitS: number;
  /** The tool of compute-sanitizer that watches it. */
  sanitizer?: 'memcheck' | 'racecheck' | 'synccheck' | 'initcheck';
}

/** A part ends before this, whatever its jobs do: less than a device machine grants one command. */
export const PART_S = 460;

const TEST_LIMIT_S = 150;
const PROBE_LIMIT_S = 60; // one instruction at a time
const LIMITS: { [file: string]: number } = {
  'gpu/10.large.test.ts': PART_S,
  'gpu/20.soak.test.ts': 200,
  'gpu/30.churn.test.ts': 120,
  'gpu/40.sticky.test.ts': 60,
};
const SANITIZED = 'gpu/05.kernels.test.ts';
const SANITIZERS = { memcheck: 200, racecheck: 400, synccheck: 200, initcheck: 200 } as const;

export const bundleName = (file: string): string => file.replace('/', '-').replace(/\.test\.ts$/, '.cjs');

/** The jobs of the test files, given below test/ in the order of their names. */
export function jobsOf(files: readonly string[]): Job[] {
  const jobs: Job[] = files.map((file) => ({
    name: file,
    bundle: bundleName(file),
    limitS: LIMITS[file] ?? (file.startsWith('ptx/') ? PROBE_LIMIT_S : TEST_LIMIT_S),
  }));
  for (const [sanitizer, limitS] of Object.entries(SANITIZERS) as [keyof typeof SANITIZERS, number][]) {
    jobs.push({ name: `${sanitizer} ${SANITIZED}`, bundle: bundleName(SANITIZED), limitS, sanitizer });
  }
  return jobs;
}

/** Jobs, each in the first part that has room for its limit. */
export function partsOf(jobs: readonly Job[]): Job[][] {
  const parts: { jobs: Job[]; left: number }[] = [];
  for (const job of jobs) {
    let part = parts.find(({ left }) => left >= job.limitS);
    if (!part) {
      part = { jobs: [], left: PART_S };
      parts.push(part);
    }
    part.jobs.push(job);
    part.left -= job.limitS;
  }
  return parts.map(({ jobs }) => jobs);
}
