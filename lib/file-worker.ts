// The thread that has the file of a cache: it writes or reads pieces of it, and computes the checksum of what passes. Its
// calls wait, which no other thread then need do.

import { createHash, randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { parentPort } from 'node:worker_threads';
import { reply } from './thread';

/** What the thread is asked to do, and what it answers. */
export type FileQuestion =
  /** A new file, in the folder of the one that `commit` is to replace with it. */
  | { do: 'create'; path: string }
  /** Writes the first bytes of the memory. */
  | { do: 'write'; memory: SharedArrayBuffer; bytes: number; position: number }
  /** Writes the beginning of the file, brings all of it to the disk, and gives it its name. */
  | { do: 'commit'; head: Uint8Array }
  /** Opens a file: an Opened. */
  | { do: 'open'; path: string; head: number }
  /** Reads into the memory: how many bytes, fewer at the end of the file. */
  | { do: 'read'; memory: SharedArrayBuffer; bytes: number; position: number }
  /** The SHA-256 of the pieces that were written or read, in hexadecimal digits; once. */
  | { do: 'digest' }
  /** Closes the file; one that was not committed is removed. */
  | { do: 'close' };

export interface Opened {
  /** Whether it is a file, and no folder or device. */
  regular: boolean;
  size: number;
  /** Its first bytes, as many as were asked for or there are. */
  head: Uint8Array;
}

let file: number | undefined;
let target: string;
let temporary: string | undefined; // until it has its name
const hash = createHash('sha256');

function write(data: Uint8Array, position: number): void {
  for (let done = 0; done < data.length; ) {
    done += fs.writeSync(file!, data, done, data.length - done, position + done);
  }
}

function read(data: Uint8Array, position: number): number {
  let done = 0;
  while (done < data.length) {
    const count = fs.readSync(file!, data, done, data.length - done, position + done);
    if (count === 0) break;
    done += count;
  }
  return done;
}

function close(): void {
  const [open, uncommitted] = [file, temporary];
  file = temporary = undefined;
  try {
    if (open !== undefined) fs.closeSync(open);
  } finally {
    if (uncommitted !== undefined) fs.unlinkSync(uncommitted);
  }
}

function create(of: string): void {
  target = of;
  const name = path.join(path.dirname(of), `.node-attention-${randomBytes(8).toString('hex')}.tmp`);
  file = fs.openSync(name, 'wx');
  temporary = name;
}

function commit(head: Uint8Array): void {
  write(head, 0);
  fs.fsyncSync(file!);
  const complete = file!;
  file = undefined;
  fs.closeSync(complete);
  const folder = openFolder(path.dirname(target));
  try {
    fs.renameSync(temporary!, target);
    temporary = undefined;
    if (folder !== undefined) fs.fsyncSync(folder); // the new name
  } catch (error) {
    const { syscall, code } = error as NodeJS.ErrnoException;
    if (syscall !== 'fsync' || code !== 'EINVAL') throw error; // not every file system can do that to a folder
  } finally {
    if (folder !== undefined) fs.closeSync(folder);
  }
}

/** A folder to be synchronised; undefined where that cannot be: on Windows, and where it may be written but not read. */
function openFolder(folder: string): number | undefined {
  if (process.platform === 'win32') return undefined;
  try {
    return fs.openSync(folder, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EACCES') return undefined;
    throw error;
  }
}

function open(of: string, most: number): Opened {
  file = fs.openSync(of, fs.constants.O_RDONLY | (fs.constants.O_NONBLOCK ?? 0)); // a pipe would wait for a writer
  const info = fs.fstatSync(file);
  if (!info.isFile()) return { regular: false, size: 0, head: new Uint8Array() };
  const head = new Uint8Array(Math.min(info.size, most));
  return { regular: true, size: info.size, head: head.subarray(0, read(head, 0)) };
}

function answer(question: FileQuestion): unknown {
  switch (question.do) {
    case 'create':
      return create(question.path);
    case 'write': {
      const data = Buffer.from(question.memory, 0, question.bytes);
      write(data, question.position);
      hash.update(data);
      return;
    }
    case 'commit':
      return commit(question.head);
    case 'open':
      return open(question.path, question.head);
    case 'read': {
      const data = Buffer.from(question.memory, 0, question.bytes);
      const count = read(data, question.position);
      hash.update(data.subarray(0, count));
      return count;
    }
    case 'digest':
      return hash.digest('hex');
    case 'close':
      return close();
  }
}

parentPort?.on('message', (question: FileQuestion) => parentPort?.postMessage(reply(() => answer(question))));
