import { AttentionError } from 'node-attention';
import { expect } from 'vitest';

/** The error that a call throws. */
export function refusal(run: () => unknown): AttentionError {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(AttentionError);
    return error as AttentionError;
  }
  throw new Error('it was not refused');
}

/** Its code and message. */
export function refused(run: () => unknown): string {
  const { code, message } = refusal(run);
  return `${code} ${message}`;
}

/** The code of the error that a call throws; 'none' when it throws none. */
export function code(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return (error as AttentionError).code;
  }
  return 'none';
}
