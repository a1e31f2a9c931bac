// Every suite, in the order in which they run and are reported.

import { cpu, masks } from './cpu';
import { cuda } from './cuda/main';
import { gna } from './gna/main';
import { retrieval } from './retrieval/main';
import type { Suite } from './session';

export const suites: Suite[] = [cpu, masks, gna, retrieval, cuda];
