// Bytes that malloc has given out and not got back: exact, which resident memory is not. For programs of any Node.
const koffi = require('koffi');

const counters = [
  'arena',
  'ordblks',
  'smblks',
  'hblks',
  'hblkhd',
  'usmblks',
  'fsmblks',
  'uordblks',
  'fordblks',
  'keepcost',
];
koffi.struct('mallinfo2', Object.fromEntries(counters.map((name) => [name, 'size_t'])));
const mallinfo2 = koffi.load('libc.so.6').func('mallinfo2 mallinfo2()');

exports.allocated = () => {
  const { uordblks, hblkhd } = mallinfo2();
  return uordblks + hblkhd;
};
