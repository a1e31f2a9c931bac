// What others have published of decoding with selection, on devices of theirs.

/** Keys that the times are of. */
export const PUBLISHED_KEYS = 1048576;

const PUBLISHED = [
  { what: 'HiP', microseconds: 450 },
  { what: 'InfiniteHiP, stages kept', microseconds: 234 },
  { what: 'FlashAttention-2, dense', microseconds: 4645 },
];

const WHERE = 'an RTX 4090, other heads and densities: arXiv:2406.09827 and arXiv:2502.08910';

/** In one sentence. */
export const publishedText = (): string =>
  `${PUBLISHED.map(({ what, microseconds }) => `${what} ${microseconds} us`).join(', ')} (${WHERE}; not measured here)`;
