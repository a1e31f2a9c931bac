// Whether this machine has the memory that a case takes.

import { freemem } from 'node:os';

const GIB = 2 ** 30;

/** Why this machine cannot run now what takes so many bytes, in a sentence; undefined when it can. */
export function memoryObstacle(bytes: number, free = freemem()): string | undefined {
  if (free >= bytes) return undefined;
  return `it needs ${(bytes / GIB).toFixed(1)} GiB of memory, of which ${(free / GIB).toFixed(1)} GiB are free`;
}
