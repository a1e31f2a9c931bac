// How much of the machine's memory a process may use, from files as Linux has them.

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { devices } from 'node-attention';
import { afterAll, expect, test } from 'vitest';

const root = join(__dirname, '..');
const folder = mkdtempSync(join(tmpdir(), 'node-attention-'));
const program = join(folder, 'program');
execFileSync('c++', [
  '-std=c++17',
  ...['test/fixtures/host_memory.cc', 'csrc/core/host_memory.cc'].map((file) => join(root, file)),
  ...[`-I${root}/csrc`, '-o', program],
]);
afterAll(() => rmSync(folder, { recursive: true }));

/** What the program prints when the system says that; files are named without the first `/`. */
function printed(files: Record<string, string>, ...blocks: number[]): unknown {
  const made = mkdtempSync(join(folder, 'root-'));
  for (const [name, text] of Object.entries(files)) {
    const file = join(made, name);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
  return JSON.parse(execFileSync(program, [made, ...blocks.map(String)], { encoding: 'utf8' }));
}

/** MiB: in all, before a group is slowed down, and available. */
const seen = (files: Record<string, string>) => (printed(files) as number[]).map((each) => each / 2 ** 20);
/** Which blocks of so many bytes, one after the other, may be pinned. */
const granted = (files: Record<string, string>, ...blocks: number[]) => printed(files, ...blocks) as boolean[];

const mib = (count: number) => `${count * 2 ** 20}\n`;
const machine = {
  'proc/meminfo': `MemTotal:       ${4000 * 1024} kB\nMemFree:          1024 kB\nMemAvailable:   ${3000 * 1024} kB\n`,
};
/** Files of a control group of the second version, and of the first. */
const second = (group: string, limit: string, used: number, [inactive, active] = [0, 0]) => ({
  [`sys/fs/cgroup${group}/memory.max`]: limit,
  [`sys/fs/cgroup${group}/memory.current`]: mib(used),
  [`sys/fs/cgroup${group}/memory.stat`]: `anon 1\nfile 2\ninactive_file ${mib(inactive)}active_file ${mib(active)}`,
});
const high = (group: string, limit: string) => ({ [`sys/fs/cgroup${group}/memory.high`]: limit });
const first = (group: string, limit: string, used: number, [inactive, active] = [0, 0]) => ({
  [`sys/fs/cgroup/memory${group}/memory.limit_in_bytes`]: limit,
  [`sys/fs/cgroup/memory${group}/memory.usage_in_bytes`]: mib(used),
  [`sys/fs/cgroup/memory${group}/memory.stat`]: `inactive_file 1\ntotal_inactive_file ${mib(inactive)}total_active_file ${mib(active)}`,
});
const of = (...lines: string[]) => ({ 'proc/self/cgroup': lines.map((line) => `${line}\n`).join('') });

test.each<[string, Record<string, string>, number[]]>([
  ['a machine without control groups', machine, [4000, 4000, 3000]],
  ['a group without a limit', { ...machine, ...of('0::/a'), ...second('/a', 'max\n', 100) }, [4000, 4000, 3000]],
  ['a limit', { ...machine, ...of('0::/a'), ...second('/a', mib(2000), 500) }, [2000, 2000, 1500]],
  [
    'what a group is slowed down at',
    { ...machine, ...of('0::/a'), ...second('/a', 'max\n', 500), ...high('/a', mib(2000)) },
    [4000, 2000, 1500],
  ],
  [
    'a limit below what a group is slowed down at',
    { ...machine, ...of('0::/a'), ...second('/a', mib(1000), 500), ...high('/a', mib(2000)) },
    [1000, 1000, 500],
  ],
  [
    'a limit above what a group further up is slowed down at',
    {
      ...{ ...machine, ...of('0::/a/b'), ...second('/a/b', mib(1500), 5), ...high('/a/b', 'max\n') },
      ...{ ...second('/a', mib(1000), 200), ...high('/a', mib(900)) },
    },
    [1000, 900, 700],
  ],
  [
    'files that were read, which can be read again',
    { ...machine, ...of('0::/a'), ...second('/a', mib(2000), 1900, [1000, 400]) },
    [2000, 2000, 1500],
  ],
  ['a limit that is exceeded', { ...machine, ...of('0::/a'), ...second('/a', mib(2000), 2100) }, [2000, 2000, 0]],
  ['a limit above what is there', { ...machine, ...of('0::/a'), ...second('/a', mib(8000), 100) }, [4000, 4000, 3000]],
  [
    'a limit of a group further up',
    { ...machine, ...of('0::/a/b c/d'), ...second('/a/b c/d', mib(3000), 1), ...second('/a', mib(900), 200) },
    [900, 900, 700],
  ],
  [
    'a container that sees its own group as the first',
    { ...machine, ...of('0::/'), ...second('', mib(64), 4) },
    [64, 64, 60],
  ],
  [
    'a container that sees the names of others',
    { ...machine, ...of('0::/docker/1234'), ...second('', mib(64), 4) },
    [64, 64, 60],
  ],
  [
    'the first version',
    { ...machine, ...of('9:name=systemd:/a', '4:cpu,memory:/a', '0::/'), ...first('/a', mib(1000), 700, [100, 50]) },
    [1000, 1000, 450],
  ],
  [
    'the first version without a limit',
    { ...machine, ...of('4:memory:/a'), ...first('/a', '9223372036854771712\n', 700) },
    [4000, 4000, 3000],
  ],
  ['what is no list of groups', { ...machine, ...of('memory', '0::', ':', '1:memory:a') }, [4000, 4000, 3000]],
])('%s', (_, files, want) => {
  expect(seen(files)).toEqual(want);
});

test('of a system that says nothing all may be available', () => {
  const [total, limit, available] = seen({}) as [number, number, number];
  expect(total).toBeGreaterThan(0);
  expect([limit, available]).toEqual([total, total]);
});

const left = (available: number) => ({
  'proc/meminfo': `MemTotal: ${3200 * 1024} kB\nMemAvailable: ${available * 1024} kB\n`,
});
const MiB = 2 ** 20;

test('of what is available a share is left to others, the rest can be pinned', () => {
  // 100 MiB, one part in 32, are left.
  expect(granted(left(3000), 2900 * MiB, 2901 * MiB, 2900 * MiB)).toEqual([true, false, true]);
  expect(granted(left(99), 2 * MiB)).toEqual([false]);
});

test('small blocks are weighed once they come to 2 MiB, and then until they are granted', () => {
  expect(granted(left(99), MiB, MiB, MiB)).toEqual([true, false, false]);
  const many = Array.from({ length: 1000 }, () => 2 ** 16);
  expect(granted(left(99), ...many).filter(Boolean)).toHaveLength(31);
  expect(granted(left(101), ...many)).not.toContain(false);
});

test('devices() tells what this process may use', () => {
  const cpu = devices().find(({ device }) => device === 'cpu')!;
  expect(cpu.memoryBytes).toBeGreaterThan(2 ** 20);
  expect(cpu.memoryBytes).toBeLessThanOrEqual(totalmem());
});
