export type Kind = 'addon' | 'cuda';
export const limits: Record<string, string>;
export function compareVersions(a: string, b: string): number;
export function inspect(file: string): {
  bytes: number;
  exported: string[];
  needed: string[];
  needs: Record<string, string>;
};
export function refusals(file: string, kind: Kind): string[];
