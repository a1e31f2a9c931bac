// Run by vitest before each test file: those of this folder find their device whatever they import first.
import { expect } from 'vitest';

if (/[\\/]test[\\/]cuda[\\/]/.test(expect.getState().testPath ?? '')) await import('./device');
