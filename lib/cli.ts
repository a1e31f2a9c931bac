#!/usr/bin/env node
// npx node-attention <command>

import { Command } from 'commander';
import { addSimulate } from './cli/simulate';

const gibibytes = (bytes: number | undefined) => `${((bytes ?? 0) / 2 ** 30).toFixed(1)} GiB`;

/** Prints every backend with its reason code; exits with 1 when not even the CPU can be used. */
function doctor(): void {
  const { version } = require('../package.json') as { version: string };
  console.log(`node-attention ${version}, Node.js ${process.version}, ${process.platform}-${process.arch}`);
  let list: import('./devices').DeviceInfo[];
  try {
    list = (require('./index') as typeof import('./index')).devices();
  } catch (error) {
    console.log(`addon   load-failed: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
    return;
  }
  for (const row of list) {
    console.log(`${row.device.padEnd(7)} ${row.reason}: ${row.message}`);
    if (!row.usable) continue;
    const units = row.backend === 'cpu' ? 'threads' : 'multiprocessors';
    console.log(
      `        instruction set ${row.instructionSet}, ${row.threads} ${units}, ${gibibytes(row.memoryBytes)} of memory`,
    );
  }
  for (const name of ['NODE_ATTENTION_CPU', 'NODE_ATTENTION_THREADS', 'NODE_ATTENTION_DEVICE']) {
    console.log(`${name}${process.env[name] === undefined ? ' is not set' : `=${process.env[name]}`}`);
  }
  if (!list.some((row) => row.usable)) process.exitCode = 1;
}

const program = new Command('node-attention').description('Attention kernels for Node.js');
program.command('doctor').description('say which devices can be used, and why others cannot').action(doctor);
addSimulate(program);
program.parse();
