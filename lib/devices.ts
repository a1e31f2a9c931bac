import { AttentionError } from './errors';
import { native } from './native';
import { show } from './options';
import type { Device } from './tensor';

/** Why a backend can or cannot be used. */
export type DeviceReason =
  | 'ok'
  | 'no-driver'
  | 'driver-too-old'
  | 'no-device'
  | 'unsupported-arch'
  | 'library-missing'
  | 'load-failed'
  | 'disabled';

/** A device, or the reason why a backend has none. */
export interface DeviceInfo {
  /** The name to pass as `device`. */
  device: Device;
  /** The code that runs operations on it. */
  backend: 'cpu' | 'cuda';
  /** Whether tensors can be made on it. */
  usable: boolean;
  /** 'ok', or why it cannot be used. */
  reason: DeviceReason;
  /** The reason in a sentence, or the device's name. */
  message: string;
  /** Model of the processor or GPU; on usable devices, as are the fields below. */
  name?: string;
  /** Instruction set in use: 'generic', 'avx2', 'avx512', 'amx', or 'sm_90' and so on. */
  instructionSet?: string;
  /** Worker threads, or multiprocessors. */
  threads?: number;
  /** Memory of the machine or GPU, in bytes. */
  memoryBytes?: number;
}

/** Memory of the tensors of a device, over the whole process. */
export interface MemoryStats {
  /** Allocations (and wrapped buffers) that tensors or queued operations hold. */
  live: number;
  /** Bytes of library memory they hold; pinned memory counts for the CPU. */
  bytes: number;
  /** The most `bytes` has been. */
  peakBytes: number;
  /** Bytes kept for reuse. */
  pooledBytes: number;
}

/** Every backend, usable or not; looked for once, at the first call that needs a device. Throws nothing. */
export function devices(): DeviceInfo[] {
  return native.devices() as DeviceInfo[];
}

/**
 * Memory statistics of a device, 'cpu' unless given, in bytes.
 *
 * @throws AttentionError ERR_DEVICE for a device that is not there.
 */
export function memoryStats(device: Device = 'cpu'): MemoryStats {
  if (typeof device !== 'string') {
    throw new AttentionError('ERR_DEVICE', `memoryStats: device is ${show(device)}; use 'cpu', 'cuda' or 'cuda:N'`);
  }
  return native.memoryStats(device);
}
