// Checks of options and plain arguments, by name: a misspelled option is an error, never ignored.

import { AttentionError, type ErrorCode } from './errors';

export const isObject = (value: unknown): value is object => typeof value === 'object' && value !== null;

/** How a value looks in an error message. */
export function show(value: unknown, depth = 0): string {
  if (typeof value === 'string') return `'${value}'`;
  if (typeof value === 'bigint') return `${value}n`;
  if (Array.isArray(value)) {
    if (depth > 2) return '[...]';
    const entries = value.slice(0, 8).map((entry) => show(entry, depth + 1));
    return `[${entries.join(', ')}${value.length > 8 ? ', ...' : ''}]`;
  }
  if (value !== null && typeof value === 'object') return `a ${value.constructor?.name ?? 'object'}`;
  if (typeof value === 'function') return 'a function';
  return String(value);
}

/** The options given to `call`, as a plain object in which only the known names occur. */
export function options<K extends string>(
  call: string,
  given: unknown,
  known: readonly K[],
): { [name in K]?: unknown } {
  if (given === undefined) return {};
  if (given === null || typeof given !== 'object' || Array.isArray(given)) {
    throw new AttentionError('ERR_OPTION', `${call}: options must be an object, not ${show(given)}`);
  }
  for (const name of Object.keys(given)) {
    if ((known as readonly string[]).includes(name)) continue;
    const close = known.find((candidate) => candidate.toLowerCase() === name.toLowerCase());
    const fix = close ? `did you mean '${close}'?` : `known options are ${known.map((name) => show(name)).join(', ')}`;
    throw new AttentionError('ERR_OPTION', `${call}: option '${name}' is not known; ${fix}`);
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

/** A copy of a list of integers of at least `least`. */
export function integers(call: string, name: string, value: unknown, least: number, code: ErrorCode): number[] {
  if (!Array.isArray(value)) {
    throw new AttentionError(code, `${call}: ${name} is ${show(value)}; it must be an array of integers`);
  }
  return Array.from(value, (entry, i) => integer(call, `${name}[${i}]`, entry, least, code));
}
