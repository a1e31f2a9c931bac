/** What went wrong, for programs; the message says it for people. */
export type ErrorCode =
  | 'ERR_SHAPE'
  | 'ERR_DTYPE'
  | 'ERR_DEVICE'
  | 'ERR_OPTION'
  | 'ERR_DISPOSED'
  | 'ERR_PENDING'
  | 'ERR_OUT_OF_MEMORY'
  | 'ERR_BACKEND'
  | 'ERR_CUDA';

/**
 * Every refusal of this package. Errors in arguments are thrown synchronously, before anything is enqueued; errors of
 * a device reject the promises that wait for its work. What a getter or proxy of the caller's own throws while an argument
 * is read is passed on as it is.
 */
export class AttentionError extends Error {
  /** What went wrong. */
  readonly code: ErrorCode;

  /** An error of a code; programs have no need to make one. */
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

// Of the class, not of each error: the addon makes errors without running the constructor.
Object.defineProperty(AttentionError.prototype, 'name', {
  value: 'AttentionError',
  writable: true,
  configurable: true,
});
