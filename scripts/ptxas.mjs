// What ptxas -v says, and what of it is refused.
import { readFileSync } from 'node:fs';

const limits = JSON.parse(readFileSync(new URL('../kernels/spills.json', import.meta.url), 'utf8'));

/** Of each kernel registers and bytes of spills; and its messages on wgmma and setmaxnreg. */
export function readLog(text) {
  const kernels = [];
  for (const line of text.split('\n')) {
    const [, name] = /Compiling entry function '([^']+)'/.exec(line) ?? [];
    if (name) kernels.push({ name, registers: 0, spills: 0 });
    const kernel = kernels.at(-1);
    const [, stores, loads] = /(\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line) ?? [];
    if (stores && kernel) kernel.spills = Math.max(kernel.spills, Number(stores) + Number(loads));
    const [, registers] = /Used (\d+) registers/.exec(line) ?? [];
    if (registers && kernel) kernel.registers = Number(registers);
  }
  return { kernels, messages: text.split('\n').filter((line) => /\(C75\d\d\)/.test(line)) };
}

/** A log of several architectures, cut into those of each: { '80': text, ... } */
export function splitLog(text) {
  const logs = {};
  let current = '';
  let pending = '';
  for (const line of text.split('\n')) {
    const [, architecture] = /Compiling entry function '[^']+' for 'sm_(\w+)'/.exec(line) ?? [];
    if (architecture) current = architecture;
    if (!current) pending += `${line}\n`;
    else logs[current] = `${logs[current] ?? ''}${line}\n`;
  }
  for (const architecture of Object.keys(logs)) logs[architecture] = pending + logs[architecture];
  return logs;
}

/** How many bytes each kernel of a source may spill. */
export function mostSpills(source, architecture) {
  return architecture === '90a' ? 0 : (limits[source]?.[`sm_${architecture}`] ?? 0);
}

/**
 * What is refused in the logs of a source. On sm_90a nothing may spill, and none of the messages C75xx may come: they mean
 * that wgmma was serialised or setmaxnreg ignored. On others kernels/spills.json says how much a source may spill.
 */
export function refusals(source, logs) {
  return Object.entries(logs).flatMap(([architecture, text]) => {
    const { kernels, messages } = readLog(text);
    const most = mostSpills(source, architecture);
    const spilling = kernels.filter(({ spills }) => spills > most);
    return [
      ...(architecture === '90a' ? messages.map((line) => `ptxas: ${line.trim()}`) : []),
      ...spilling.map(
        ({ name, spills }) => `${name} spills ${spills} bytes on sm_${architecture}; ${most} are allowed`,
      ),
    ];
  });
}
