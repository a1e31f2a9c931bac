export interface Log {
  kernels: { name: string; registers: number; spills: number }[];
  messages: string[];
}
export function readLog(text: string): Log;
export function splitLog(text: string): Record<string, string>;
export function mostSpills(source: string, architecture: string): number;
export function refusals(source: string, logs: Record<string, string>): string[];
