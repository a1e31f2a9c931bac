// Files of tensors in the safetensors format: the length of the header in 8 bytes, the header as JSON, the data. Here the
// header begins with its own SHA-256 and that of the data, at the same place in every file.

import { createHash } from 'node:crypto';
import { isObject } from './options';

/** A tensor of a file; the data of each follows that of the one before. */
export interface Entry {
  name: string;
  dtype: 'F32' | 'F16' | 'BF16' | 'I8';
  shape: number[];
  bytes: number;
}

/** What a header says of the tensors by name. */
export type Described = Record<string, unknown>;

/** Longer headers are refused: no cache that can be made has one of half that. */
const MOST_HEADER = 1 << 20;
const LENGTH = 8;
/** The longest beginning of a file, before its data. */
export const MOST_HEAD = LENGTH + MOST_HEADER;

const NO_DIGEST = '0'.repeat(64);
const BEFORE_OWN = '{"__metadata__":{"header_sha256":"';
const BEFORE_DATA = '","data_sha256":"';
const OWN = LENGTH + BEFORE_OWN.length;
const DATA = OWN + NO_DIGEST.length + BEFORE_DATA.length;

/** Where each tensor lies, as headers tell. */
export function describe(entries: readonly Entry[]): Described {
  let end = 0;
  const described: Described = {};
  for (const { name, dtype, shape, bytes } of entries) {
    const begin = end;
    end += bytes;
    described[name] = { dtype, shape, data_offsets: [begin, end] };
  }
  return described;
}

/** Of a head whose own digest is left out. */
const digestOf = (head: Uint8Array) => createHash('sha256').update(head).digest('hex');

/** All that comes before the data; as long for any digest. Data begins at a multiple of 8 bytes, which views of it need. */
export function makeHead(entries: readonly Entry[], metadata: Record<string, string>, dataDigest = NO_DIGEST): Buffer {
  const own = { header_sha256: NO_DIGEST, data_sha256: dataDigest };
  const json = JSON.stringify({ __metadata__: { ...own, ...metadata }, ...describe(entries) });
  const text = Buffer.from(json);
  const head = Buffer.alloc(LENGTH + Math.ceil(text.length / 8) * 8, ' ');
  head.writeBigUInt64LE(BigInt(head.length - LENGTH));
  text.copy(head, LENGTH);
  head.write(digestOf(head), OWN, 'latin1');
  return head;
}

/** What a file begins with. */
export interface Head {
  /** Where the data begins. */
  length: number;
  metadata: Record<string, string>;
  dataDigest: string;
  tensors: Described;
}

/** The text of what a header holds. */
function json(value: unknown): string {
  try {
    return JSON.stringify(value);
  } catch {
    return 'lists in lists, too deep to be told'; // the stack is not as deep
  }
}

/** Tells what was expected of a file, and what was found instead; does not return. */
export type Refuse = (expected: string, found: string) => never;

/**
 * Reads what comes before the data, of a file of `size` bytes that begins with `start`. Whatever is in a header whose digest
 * is right has still to be checked: anybody can compute it.
 */
export function readHead(start: Uint8Array, size: number, refuse: Refuse): Head {
  const bytes = Buffer.from(start.buffer, start.byteOffset, start.byteLength);
  if (bytes.length < LENGTH) refuse(`at least ${LENGTH} bytes, for the length of its header`, `${size}`);
  const length = bytes.readBigUInt64LE();
  if (length > MOST_HEADER) refuse(`a header of at most ${MOST_HEADER} bytes`, `${length} as its length`);
  const head = Buffer.from(bytes.subarray(0, LENGTH + Number(length)));
  if (head.length < LENGTH + Number(length)) refuse(`${LENGTH + Number(length)} bytes up to its data`, `${size}`);

  const text = head.toString('latin1', LENGTH);
  const [own, dataDigest] = [OWN, DATA].map((at) => text.slice(at - LENGTH, at - LENGTH + NO_DIGEST.length)) as [
    string,
    string,
  ];
  if (!text.startsWith(`${BEFORE_OWN}${own}${BEFORE_DATA}${dataDigest}"`)) {
    refuse('the checksums of a saved KvCache at the beginning of its header', JSON.stringify(text.slice(0, 60)));
  }
  head.write(NO_DIGEST, OWN, 'latin1');
  const digest = digestOf(head);
  if (own !== digest) refuse(`a header of SHA-256 ${own}`, digest);

  let header: unknown;
  try {
    header = JSON.parse(head.toString('utf8', LENGTH));
  } catch (error) {
    refuse('JSON as its header', (error as Error).message);
  }
  const { __metadata__: metadata, ...tensors } = header as Described; // an object, by how it begins
  if (!isObject(metadata)) refuse('an object as its metadata', json(metadata));
  for (const [name, value] of Object.entries(metadata)) {
    if (typeof value !== 'string') refuse(`a string as ${name} of its metadata`, json(value));
  }
  return { length: head.length, metadata: metadata as Record<string, string>, dataDigest, tensors };
}

/** Refuses a header that describes other tensors, or the same ones elsewhere. */
export function checkTensors(found: Described, entries: readonly Entry[], refuse: Refuse): void {
  const wanted = describe(entries);
  for (const name of new Set([...Object.keys(wanted), ...Object.keys(found)])) {
    const has = (of: Described) => (Object.hasOwn(of, name) ? json(of[name]) : 'none');
    if (has(wanted) !== has(found)) refuse(`${has(wanted)} as tensor '${name}'`, has(found));
  }
}
