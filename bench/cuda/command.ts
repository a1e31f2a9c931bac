// The GPU benchmark alone, for machines that have nothing but what scripts/gpu-pack carried there.

import { spawnSync } from 'node:child_process';
import { Command } from 'commander';
import { commandOf } from '../command';
import { cuda } from './main';
import { type RunPart, runParts } from './parts';

const program = new Command('bench');
program.addCommand(commandOf(cuda));
program
  .command('whole')
  .description(
    'The whole benchmark in parts (scripts/gpu-bench), within eight minutes. A second run makes only the parts that are missing.',
  )
  .requiredOption('--carried <folder>', 'what scripts/gpu-pack built for the benchmark')
  .requiredOption('--out <folder>', 'where the files of the parts go, and bench.json of all')
  .option('--torch <python>', 'also measure PyTorch, with this Python')
  .option('--quick', 'a handful of cases', false)
  .action(({ carried, out, torch, quick }: { carried: string; out: string; torch?: string; quick: boolean }) => {
    const options = [
      '--carried',
      carried,
      ...(torch === undefined ? [] : ['--torch', torch]),
      ...(quick ? ['--quick'] : []),
    ];
    const run: RunPart = (args, seconds) => {
      const limit = { timeout: Math.ceil(1e3 * seconds), killSignal: 'SIGINT' } as const;
      return spawnSync(process.execPath, [__filename, ...args], { stdio: 'inherit', ...limit }).status ?? 1;
    };
    process.exitCode = runParts(out, options, run, console.log);
  });
program.parse();
