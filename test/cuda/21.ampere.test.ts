// attention() on a CUDA device without wgmma: all types run on mma.sync there.
import './support/ampere';
import { testAttention } from './support/attention';

testAttention('attention on an Ampere device', 20);
