/** /proc/diskstats of a guest. */
import type { DiskSample } from './sample.ts';

const SECTOR_BYTES = 512;

/**
 * Returns /proc/diskstats of a guest: the devices it used, by the names they have on the host. Times and merges are not
 * counted per guest.
 *
 * @param devices by major:minor
 */
export function formatDiskstats(hostText: string, devices: ReadonlyMap<string, DiskSample>): string {
  let text = '';
  for (const [, major = '', minor = '', name = ''] of hostText.matchAll(/^ *(\d+) +(\d+) (\S+)/gm)) {
    const device = devices.get(`${major}:${minor}`);
    if (device === undefined) continue;
    const { reads, readBytes, writes, writeBytes } = device;
    const sectors = (bytes: number): number => Math.floor(bytes / SECTOR_BYTES);
    text +=
      `${major.padStart(4)} ${minor.padStart(7)} ${name} ${reads} 0 ${sectors(readBytes)} 0 ` +
      `${writes} 0 ${sectors(writeBytes)} 0 0 0 0 0 0 0 0 0 0\n`;
  }
  return text;
}
