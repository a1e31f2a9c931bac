// attention() on a CUDA device against the float64 oracle.
import { testAttention } from './support/attention';

testAttention('attention', 30);
