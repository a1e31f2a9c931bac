export const versions: Record<number, string>;
export function npmProgram(): string;
export function node(line: number, arch?: string): string;
