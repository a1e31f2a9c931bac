// Whether these tests run under a sanitizer (scripts/sanitize.mjs), which makes everything slow and keeps memory of its own.

/** The name that compilers have for it. */
export const sanitizer = { a: 'address', t: 'thread' }[/lib([at])san/.exec(process.env.LD_PRELOAD ?? '')?.[1] ?? ''];

export const sanitized = sanitizer !== undefined;
