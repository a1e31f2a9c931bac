// Neighborhoods on mma.sync.
import './support/ampere';
import { testNeighborhoods } from './support/neighborhood';

testNeighborhoods('neighborhoods', {
  dtypes: ['float16', 'bfloat16', 'float32'],
  dims: [32, 72, 136],
  modified: true,
  runs: 4,
});
