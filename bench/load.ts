// How busy the machine is with the work of others: what all processors did (/proc/stat) less what our own processes did.

import { existsSync, readFileSync } from 'node:fs';

const TICK_MS = 10; // the kernel reports in hundredths of a second, whatever its own tick
const ROUNDING_MS = 2 * TICK_MS; // that may be in or out of each of two counts
/** Rounding is 2 % of this, which 6 % can be told by. */
const TELLS_AFTER_MS = 50 * ROUNDING_MS;

export interface LoadWatch {
  /** Begins a measurement, which `stop` ends. */
  start(): void;
  /** Processors that others kept busy since `start`, at least: 0.06 is 6 % of one. 0 where the system does not tell. */
  stop(): number;
  /** How long to watch for a figure that means something; 0 unless given. */
  tellsAfterMs?: number;
}

/** Watches for work other than this process's and that of the process `child`. */
export function watchLoad(child?: number): LoadWatch {
  if (!existsSync('/proc/stat')) return { start() {}, stop: () => 0 };
  const others = () => {
    const { user, system } = process.cpuUsage();
    return busyMs() - (user + system) / 1000 - (child === undefined ? 0 : processMs(child));
  };
  let begin = { time: 0, others: 0 };
  return {
    tellsAfterMs: TELLS_AFTER_MS,
    start() {
      begin = { time: performance.now(), others: others() };
    },
    stop: () => Math.max(0, (others() - begin.others - ROUNDING_MS) / (performance.now() - begin.time)),
  };
}

/** User, nice, system, interrupts and time stolen by other machines, of all processors; not idle or waiting for disks. */
function busyMs(): number {
  const fields = readFileSync('/proc/stat', 'utf8').split('\n', 1)[0]!.trim().split(/\s+/).slice(1, 9).map(Number);
  const [user, nice, system, , , irq, softirq, steal] = fields as [number, ...number[]];
  return (user + nice! + system! + irq! + softirq! + (steal ?? 0)) * TICK_MS;
}

function processMs(pid: number): number {
  const afterName = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '');
  const [user, system] = afterName.split(' ').slice(11, 13).map(Number) as [number, number];
  return (user + system) * TICK_MS;
}
