// Every suite, in the order in which they run and are reported.

import { bias } from './bias/main';
import { cpu, masks } from './cpu';
import { cuda } from './cuda/main';
import { gna } from './gna/main';
import { retrieval } from './retrieval/main';
import type { Suite } from './session';
import { sparse } from './sparse/main';

export const suites: Suite[] = [cpu, masks, gna, bias, sparse, retrieval, cuda];
