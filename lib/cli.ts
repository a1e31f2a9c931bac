#!/usr/bin/env node
// npx node-attention <command>

import { Command } from 'commander';
import { packageVersion } from './binary';
import { addSimulate } from './cli/simulate';

const program = new Command('node-attention').description('Attention kernels for Node.js').version(packageVersion);
program
  .command('doctor')
  .description('say which devices can be used, why others cannot, and how addon and backends were found')
  .option('--verify', 'compare the prebuilt binaries with prebuilds/manifest.json')
  .action(({ verify }: { verify?: boolean }) => {
    const { doctor } = require('./doctor') as typeof import('./doctor');
    if (!doctor({ verify: verify ?? false })) process.exitCode = 1;
  });
addSimulate(program);
program.parse();
