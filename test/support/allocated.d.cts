/** Bytes that malloc has given out and not got back. */
export function allocated(): number;
