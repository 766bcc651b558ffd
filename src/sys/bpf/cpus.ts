// SPDX-License-Identifier: MIT OR GPL-2.0-only
import { readFileSync } from 'node:fs';

/**
 * Returns how many values an element of a per-CPU map has: one for each CPU this machine may ever have.
 *
 * @param text content of /sys/devices/system/cpu/possible, for example `0-3` or `0,2-5`
 */
export function possibleCpus(
  text: string = readFileSync('/sys/devices/system/cpu/possible', 'utf8'),
): number {
  return text
    .trim()
    .split(',')
    .map((range) => {
      const [from = 0, to = from] = range.split('-').map(Number);
      return to - from + 1;
    })
    .reduce((sum, count) => sum + count, 0);
}
