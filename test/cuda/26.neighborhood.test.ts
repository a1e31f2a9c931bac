// Neighborhoods on mma.sync.
import './support/ampere';
import { testNeighborhoods } from './support/neighborhood';

testNeighborhoods('neighborhoods', ['float16', 'bfloat16', 'float32'], [32, 72], 20);
