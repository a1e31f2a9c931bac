import type { AttentionError } from 'node-attention';

/** The code of the error that a call throws; 'none' when it throws none. */
export function code(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return (error as AttentionError).code;
  }
  return 'none';
}
