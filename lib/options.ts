// Checks of options and plain arguments, by name: a misspelled option is an error, never ignored.

import { AttentionError, type ErrorCode } from './errors';

/** Whether a value is an object that can be looked into, which a revoked proxy cannot. */
export function isObject(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false;
  try {
    Array.isArray(value);
    return true;
  } catch {
    return false;
  }
}

export const isArray = (value: unknown): value is unknown[] => isObject(value) && Array.isArray(value);

const clipped = (text: string) => (text.length > 80 ? `${text.slice(0, 80)}...` : text);

function showObject(value: object, depth: number): string {
  if (!Array.isArray(value)) {
    const name: unknown = value.constructor?.name;
    return typeof name === 'string' ? `${/^[AEIO]/.test(name) ? 'an' : 'a'} ${clipped(name)}` : 'an object';
  }
  if (depth > 2) return '[...]';
  const shown = value.slice(0, 8).map((entry) => show(entry, depth + 1));
  return `[${shown.join(', ')}${value.length > 8 ? ', ...' : ''}]`;
}

/** How a value looks in an error message. Never throws, whatever the value's own getters do. */
export function show(value: unknown, depth = 0): string {
  if (typeof value === 'string') return `'${clipped(value)}'`;
  if (typeof value === 'bigint') return BigInt.asIntN(64, value) === value ? `${value}n` : 'a bigint beyond 64 bits';
  if (typeof value === 'function') return 'a function';
  if (typeof value !== 'object' || value === null) return clipped(String(value));
  try {
    return showObject(value, depth);
  } catch {
    return 'an object that cannot be read';
  }
}

/** Neither an array nor of a class, as a stream given in place of `{ stream }` is: its names would not be looked at. */
function isPlain(value: unknown): value is object {
  if (!isObject(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** The options given to `call`, as a plain object in which only the known names occur. */
export function options<K extends string>(
  call: string,
  given: unknown,
  known: readonly K[],
): { [name in K]?: unknown } {
  if (given === undefined) return {};
  if (!isPlain(given)) {
    throw new AttentionError('ERR_OPTION', `${call}: options must be a plain object, not ${show(given)}`);
  }
  for (const name of Object.keys(given)) {
    if ((known as readonly string[]).includes(name)) continue;
    const close = known.find((candidate) => candidate.toLowerCase() === name.toLowerCase());
    const fix = close ? `did you mean '${close}'?` : `known options are ${known.map((name) => show(name)).join(', ')}`;
    throw new AttentionError('ERR_OPTION', `${call}: option ${show(name)} is not known; ${fix}`);
  }
  const values: { [name in K]?: unknown } = {};
  for (const name of known) values[name] = (given as { [name in K]?: unknown })[name];
  return values;
}

export function integer(call: string, name: string, value: unknown, least: number, code: ErrorCode = 'ERR_OPTION') {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least) {
    throw new AttentionError(code, `${call}: ${name} is ${show(value)}; it must be an integer of at least ${least}`);
  }
  return value;
}

export function finite(call: string, name: string, value: unknown): number {
  if (typeof value !== 'number' || !Number.isFinite(value)) {
    throw new AttentionError('ERR_OPTION', `${call}: ${name} is ${show(value)}; it must be a finite number`);
  }
  return value;
}

export function boolean(call: string, name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') {
    throw new AttentionError('ERR_OPTION', `${call}: ${name} is ${show(value)}; it must be true or false`);
  }
  return value;
}

export function oneOf<T extends string>(call: string, name: string, value: unknown, allowed: readonly T[]): T {
  if (!(allowed as readonly unknown[]).includes(value)) {
    throw new AttentionError(
      'ERR_OPTION',
      `${call}: ${name} is ${show(value)}; use ${allowed.map((choice) => show(choice)).join(' or ')}`,
    );
  }
  return value as T;
}

const mostEntries = 65536;

/** What `each` makes of the entries of a list, holes included. */
export function entries<T>(
  call: string,
  name: string,
  list: readonly unknown[],
  each: (entry: unknown, i: number) => T,
  code: ErrorCode = 'ERR_OPTION',
): T[] {
  const { length } = list;
  if (length > mostEntries) {
    throw new AttentionError(code, `${call}: ${name} has ${length} entries; at most ${mostEntries} are possible`);
  }
  const results: T[] = [];
  for (let i = 0; i < length; i++) results.push(each(list[i], i));
  return results;
}

/** A copy of a list of integers of at least `least`. */
export function integers(call: string, name: string, value: unknown, least: number, code: ErrorCode): number[] {
  if (!isArray(value)) {
    throw new AttentionError(code, `${call}: ${name} is ${show(value)}; it must be an array of integers`);
  }
  return entries(call, name, value, (entry, i) => integer(call, `${name}[${i}]`, entry, least, code), code);
}
