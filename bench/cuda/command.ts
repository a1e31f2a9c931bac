// The GPU benchmark alone, for machines that have nothing but what scripts/gpu-pack carried there.

import { Command } from 'commander';
import { commandOf } from '../command';
import { cuda } from './main';

const program = new Command('bench');
program.addCommand(commandOf(cuda));
program.parse();
