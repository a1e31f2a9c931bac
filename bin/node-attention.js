#!/usr/bin/env node
// npx node-attention. In a checkout, which has scripts/, what is out of date is set up first.
const { spawnSync } = require('node:child_process');
const { existsSync } = require('node:fs');
const { join } = require('node:path');

const setup = join(__dirname, '../scripts/setup.mjs');
if (existsSync(setup)) {
  const { status } = spawnSync(process.execPath, [setup], { stdio: 'inherit' });
  if (status !== 0) process.exit(1);
}
require('../dist/cli.js');
