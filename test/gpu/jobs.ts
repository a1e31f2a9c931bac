// What scripts/gpu-verify runs: jobs, a process each.

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

/** What a job's process ends with behind a test that left the device unusable: every later one would fail, too. */
export const LOST = 87;

/** How long a test may take at most. */
export const STEP_S = 60;

/** What a call may take: machines with a GPU are lent for minutes. No job has a longer limit. */
export const BUDGET_S = 460;

const TEST_LIMIT_S = 150;
const PROBE_LIMIT_S = 60; // one instruction at a time
const LIMITS: { [file: string]: number } = {
  'gpu/10.large.test.ts': BUDGET_S,
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
