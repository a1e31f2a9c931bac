// A process that makes a buffer while the system takes back its code, and tells how much memory that took.

import { readFileSync } from 'node:fs';
import koffi from 'koffi';
import { answerBytes, bytesBeyond, resident } from '../../bench/resident';

const DONTNEED = 4; // read from the file again when they are wanted

answerBytes(async ({ bytes }: { bytes: number }) => {
  const madvise = koffi.load('libc.so.6').func('int madvise(uint64_t address, size_t length, int advice)');
  const code = readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(' r-xp ') && line.endsWith(process.execPath))
    .map((line) => line.split(' ')[0]!.split('-'))
    .map(([begin, end]) => [BigInt(`0x${begin}`), BigInt(`0x${end}`)] as const);
  const before = resident('VmRSS');
  let hidden = 0;
  let held: Buffer | undefined;
  const beyond = await bytesBeyond(async () => {
    for (const [begin, end] of code) if (madvise(begin, end - begin, DONTNEED) !== 0) throw new Error('madvise failed');
    hidden = before - resident('VmRSS');
    held = Buffer.alloc(bytes, 1);
  });
  if (hidden <= bytes || held?.length !== bytes)
    throw new Error(`${hidden} bytes of code were taken back, of ${bytes}`);
  return beyond;
});
