// Biases of low rank and in closed form on a Hopper device: half types run on wgmma where queries are many.
import './support/device'; // before node-attention
import { testBiases } from './support/biases';

testBiases('biases on Hopper', ['bfloat16']);
