// The same on a device without wgmma: all types run on mma.sync there.
import './support/ampere';
import { testBiases } from './support/biases';

testBiases('biases on Ampere', ['float32']);
