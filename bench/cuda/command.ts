// The GPU benchmark alone, for machines that have nothing but what scripts/gpu-pack carried there.

import { Command } from 'commander';
import { commandOf } from '../command';
import { cuda } from './main';

new Command('bench').addCommand(commandOf(cuda)).parse();
