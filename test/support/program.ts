// Runs a TypeScript program of this folder in a process of its own, for what is read once when the library is loaded.

import { execFile } from 'node:child_process';
import { join } from 'node:path';

/** What the program printed, errors included, without stack traces. */
export function program(name: string, args: string[], env: NodeJS.ProcessEnv): Promise<string> {
  const command = [require.resolve('tsx/cli'), join(__dirname, name), ...args];
  return new Promise((resolve) => {
    execFile(process.execPath, command, { env: { ...process.env, ...env } }, (_error, stdout, stderr) => {
      const lines = (stdout + stderr).split('\n').filter((line) => !/^\s+at /.test(line));
      resolve(lines.join('\n').trim());
    });
  });
}
