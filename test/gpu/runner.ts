// Stands in for vitest where there is none: on a bare machine with a GPU. scripts/gpu-pack bundles each test file with
// this in place of `vitest`, so that the very tests that run in the interpreter run there. Only what those tests use is
// here; the matchers are vitest's own.

import { appendFileSync } from 'node:fs';
import {
  ASYMMETRIC_MATCHERS_OBJECT,
  addCustomEqualityTesters,
  chai,
  customMatchers,
  GLOBAL_EXPECT,
  JestAsymmetricMatchers,
  JestChaiExpect,
  JestExtend,
  setState,
} from '@vitest/expect';
import { LOST } from './jobs';

export interface TestResult {
  name: string;
  state: 'passed' | 'failed' | 'skipped';
  ms: number;
  /** What was wrong, or why it was skipped. */
  message?: string;
}

/** A line of the report: that a test begins, what became of it, or that all are done. `number` counts all tests of a file. */
export type ReportLine = { begins: string; number: number } | TestResult | { end: true };

const isLost = (message: string) => /can do nothing more in this process|^cu\w+ gave 7\d\d$/.test(message);

type Body = (...args: never[]) => unknown;

interface Test {
  name: string;
  body: Body;
  skipped: boolean;
  group: Group;
  number: number;
}

class Group {
  readonly hooks: { [when in 'beforeAll' | 'afterAll' | 'beforeEach' | 'afterEach']: Body[] } = {
    beforeAll: [],
    afterAll: [],
    beforeEach: [],
    afterEach: [],
  };
  readonly parts: (Test | Group)[] = [];

  constructor(
    readonly name: string,
    readonly skipped: boolean,
    readonly parent?: Group,
  ) {}

  /** Outermost first. */
  get lineage(): Group[] {
    return [...(this.parent?.lineage ?? []), this];
  }
}

class LeftOut extends Error {}

/** Ends the test that calls it, which counts as skipped. */
export function leaveOut(why: string): never {
  throw new LeftOut(why);
}

/** Whether tests that were written for the interpreter run on a device, see replay.ts. */
let replaying = false;

const top = new Group('', false);
let current = top;
let declared = 0; // tests

function addGroup(name: string, body: Body, skipped: boolean): void {
  const group = new Group(name, skipped || current.skipped, current);
  current.parts.push(group);
  current = group;
  body();
  current = group.parent!;
}

function addTest(name: string, body: Body, skipped: boolean): void {
  current.parts.push({ name, body, skipped: skipped || current.skipped, group: current, number: declared++ });
}

/** A title of vitest: %s, %d, %i, %j, %o, %# and $name of the values it is for. */
function titleOf(name: string, values: readonly unknown[], index: number): string {
  let next = 0;
  const [first] = values;
  return name
    .replace(/\$([\w.]+)/g, (text, path: string) => {
      let value: unknown = first;
      for (const key of path.split('.')) value = (value as Record<string, unknown> | undefined)?.[key];
      return value === undefined ? text : String(value);
    })
    .replace(/%([sdifjo#%])/g, (_, kind: string) => {
      if (kind === '%') return '%';
      if (kind === '#') return String(index);
      const value = values[next++];
      return kind === 'j' || kind === 'o' || typeof value === 'object' ? JSON.stringify(value) : String(value);
    });
}

type Add = (name: string, body: Body, skipped: boolean) => void;

type Many = (list: readonly unknown[]) => (name: string, a: unknown, b?: unknown) => void;

interface Declaration {
  (name: string, a?: unknown, b?: unknown): void;
  each: Many;
  for: Many;
  skip: (name: string, a?: unknown, b?: unknown) => void;
  skipIf: (condition: unknown) => Declaration;
  runIf: (condition: unknown) => Declaration;
  todo: (name: string) => void;
}

/** `it` or `describe`: (name, body), (name, options, body) or (name, body, timeout); limits of time are the job's. */
function declaration(add: Add, skipped = false): Declaration {
  const bodyOf = (a: unknown, b: unknown) => (typeof a === 'function' ? a : b) as Body;
  const many =
    (spread: boolean) =>
    (list: readonly unknown[]) =>
    (name: string, a: unknown, b?: unknown): void => {
      list.forEach((item, i) => {
        const values = spread && Array.isArray(item) ? item : [item];
        const body = bodyOf(a, b) as (...args: unknown[]) => unknown;
        add(titleOf(name, values, i), () => body(...values), skipped);
      });
    };
  const declare = (name: string, a?: unknown, b?: unknown): void => add(name, bodyOf(a, b), skipped);
  return Object.assign(declare, {
    each: many(true),
    for: many(false),
    skip: (name: string, a?: unknown, b?: unknown): void => add(name, bodyOf(a, b), true),
    skipIf: (condition: unknown): Declaration => declaration(add, skipped || Boolean(condition)),
    runIf: (condition: unknown): Declaration => declaration(add, skipped || !condition),
    todo: (name: string) => add(name, () => {}, true),
  });
}

export const describe = declaration(addGroup);
export const it = declaration(addTest);
export const test = it;
export const beforeAll = (body: Body): unknown => current.hooks.beforeAll.push(body);
export const afterAll = (body: Body): unknown => current.hooks.afterAll.unshift(body);
export const beforeEach = (body: Body): unknown => current.hooks.beforeEach.push(body);
export const afterEach = (body: Body): unknown => current.hooks.afterEach.unshift(body);

chai.use(JestExtend);
chai.use(JestChaiExpect);
chai.use(JestAsymmetricMatchers);
type Global = typeof globalThis & Record<symbol, object>;
export const expect = Object.assign(
  (value: unknown, message?: string) => {
    // A function is expected to throw: what would be a report of the interpreter is the end of a device's context.
    if (replaying && typeof value === 'function') leaveOut('it is about a report of the interpreter');
    return chai.expect(value, message);
  },
  chai.expect,
  (globalThis as Global)[ASYMMETRIC_MATCHERS_OBJECT],
  { addEqualityTesters: addCustomEqualityTesters },
);
(globalThis as Global)[GLOBAL_EXPECT] = expect;
setState({ assertionCalls: 0, expectedAssertionsNumber: null, environment: 'node' } as never, expect as never);
(chai.expect as unknown as { extend(target: unknown, matchers: object): void }).extend(expect, customMatchers);

const nameOf = (part: Test): string =>
  [...part.group.lineage.map(({ name }) => name), part.name].filter(Boolean).join(' > ');

function* testsOf(group: Group): Generator<Test> {
  for (const part of group.parts) {
    if (part instanceof Group) yield* testsOf(part);
    else yield part;
  }
}

async function runTest(one: Test): Promise<void> {
  const groups = one.group.lineage;
  try {
    for (const group of groups) for (const hook of group.hooks.beforeEach) await hook();
    await one.body();
  } finally {
    for (const group of groups.reverse()) for (const hook of group.hooks.afterEach) await hook();
  }
}

async function runGroup(group: Group, first: number, report: (line: ReportLine) => void): Promise<void> {
  const wanted = [...testsOf(group)].some(({ skipped, number }) => !skipped && number >= first);
  const attempt = async (name: string, body: () => unknown): Promise<boolean> => {
    const start = performance.now();
    try {
      await body();
      return true;
    } catch (error) {
      const { stack, message } = error as Error;
      const state = error instanceof LeftOut ? 'skipped' : 'failed';
      report({ name, state, ms: performance.now() - start, message: message || stack });
      if (state === 'failed' && isLost(message)) process.exit(LOST);
      return false;
    }
  };
  const ready = !wanted || (await attempt(`${group.name} (before all)`, () => runHooks(group.hooks.beforeAll)));
  for (const part of group.parts) {
    if (part instanceof Group) {
      await runGroup(part, first, report);
      continue;
    }
    if (part.number < first) continue;
    const name = nameOf(part);
    if (part.skipped || !ready) {
      report({ name, state: 'skipped', ms: 0 });
      continue;
    }
    const start = performance.now();
    report({ begins: name, number: part.number });
    if (await attempt(name, () => runTest(part))) report({ name, state: 'passed', ms: performance.now() - start });
  }
  if (wanted) await attempt(`${group.name} (after all)`, () => runHooks(group.hooks.afterAll));
}

async function runHooks(hooks: Body[]): Promise<void> {
  for (const hook of hooks) await hook();
}

/**
 * `--list` prints the names of the tests, a line of JSON each. Otherwise they run, from NODE_ATTENTION_TEST_FIRST on, and
 * lines of JSON are appended to the file that NODE_ATTENTION_TEST_REPORT names, so that a crash loses nothing.
 */
export async function run({ replay = false } = {}): Promise<void> {
  replaying = replay;
  if (process.argv.includes('--list')) {
    for (const each of testsOf(top)) console.log(JSON.stringify({ name: nameOf(each), skipped: each.skipped }));
    process.exit(0);
  }
  const file = process.env.NODE_ATTENTION_TEST_REPORT!;
  const write = (line: ReportLine) => appendFileSync(file, `${JSON.stringify(line)}\n`);
  await runGroup(top, Number(process.env.NODE_ATTENTION_TEST_FIRST ?? 0), write);
  write({ end: true });
  process.exit(0);
}
