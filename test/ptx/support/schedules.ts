// In which order the interpreter runs warps, and when asynchronous work takes effect.

/** At once, as late as waits allow, or either. */
export type Asynchrony = 'immediate' | 'late' | 'random';

export interface Schedule {
  seed: number;
  asynchrony: Asynchrony;
}

/** Several schedules, adversarial each in its own way: a kernel must give the same result under all of them. */
export const SCHEDULES: Schedule[] = [
  { seed: 0, asynchrony: 'immediate' },
  { seed: 0, asynchrony: 'late' },
  ...[1, 2, 3].map((seed) => ({ seed, asynchrony: 'immediate' as const })),
  ...[4, 5].map((seed) => ({ seed, asynchrony: 'late' as const })),
  ...[6, 7].map((seed) => ({ seed, asynchrony: 'random' as const })),
];

/** One with each kind of asynchrony that is not chance, for what must not depend on it either. */
export const EITHER_WAY: Pick<Schedule, 'asynchrony'>[] = [{ asynchrony: 'immediate' }, { asynchrony: 'late' }];

/** The interpreter's own numbers of them. */
export const asynchronyNumber = (asynchrony: Asynchrony): number => ({ immediate: 0, late: 1, random: 2 })[asynchrony];
