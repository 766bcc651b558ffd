import { readFileSync } from 'node:fs';
import { parseCpuList } from '../spec/cpu-list.ts';

/** Returns the CPUs that the host runs on now. */
export function onlineCpus(): readonly number[] {
  return parseCpuList(readFileSync('/sys/devices/system/cpu/online', 'latin1'));
}
