// The PTX of kernels for tests of single instructions.

/** A kernel around a body: `.entry test` with the given parameters, for tests of single instructions. */
export function kernel(parameters: string, body: string, target = 'sm_90a'): string {
  return `.version 8.5\n.target ${target}\n.address_size 64\n.visible .entry test(${parameters})\n{\n${body}\n}\n`;
}
