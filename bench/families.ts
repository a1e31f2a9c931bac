// The families of cases that suite.ts measures.

import { allCases, type Case } from './cases';
import { maskCases } from './masks/cases';

export type Family = 'cpu' | 'masks';

/** Every case of a family, or (`quick`) a few. */
export const casesOf: { [family in Family]: (quick: boolean) => Case[] } = { cpu: allCases, masks: maskCases };
