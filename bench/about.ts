// What a result file says of the machine and the versions.

import { cpus, release, totalmem, type } from 'node:os';
import { commit } from './commit';

/** `versions` are those of peers, beside Node, this library and ONNX Runtime. */
export function about(versions: { [name: string]: string } = {}) {
  const version = (name: string): string => require(`${name}/package.json`).version;
  return {
    date: new Date().toISOString(),
    command: ['npm run bench --', ...process.argv.slice(2)].join(' '),
    commit: commit(),
    cpu: cpus()[0]?.model ?? 'unknown',
    processors: cpus().length,
    memoryBytes: totalmem(),
    system: `${type()} ${release()}`,
    versions: {
      node: process.version,
      'node-attention': version('node-attention'),
      'onnxruntime-node': version('onnxruntime-node'),
      ...versions,
    },
  };
}
