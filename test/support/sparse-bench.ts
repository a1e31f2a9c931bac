import type { SparseOptions } from '../../bench/sparse/cases';

/** Options of the sparse benchmark: with two threads, and what is asked for. */
export const options = (more: Partial<SparseOptions> = {}): SparseOptions => ({
  quick: false,
  full: false,
  filter: '',
  threads: [2],
  ...more,
});
