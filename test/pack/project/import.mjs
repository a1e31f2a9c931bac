import * as library from 'node-attention';
import attend from './attend.js';

console.log(await attend(library));
