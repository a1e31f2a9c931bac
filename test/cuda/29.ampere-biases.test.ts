// Biases of low rank and by formula on mma.sync.
import './support/ampere';
import { testBiases } from './support/biases';

testBiases('biases on an Ampere device', 2);
