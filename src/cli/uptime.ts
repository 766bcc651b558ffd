import { formatDuration } from '../base/units.ts';
import { bootTimeSeconds, TICKS_PER_SECOND } from '../sys/process.ts';

/**
 * Seconds since a process started. By the clock that a change of the time of day does not touch.
 *
 * @param startTicks clock ticks after boot; negative when nobody saw the start: then 0
 */
export function secondsSince(startTicks: number, nowSeconds: number = bootTimeSeconds()): number {
  if (startTicks < 0) return 0;
  return Math.max(0, Math.floor(nowSeconds - startTicks / TICKS_PER_SECOND));
}

/** Formats a time span by its two largest units, for example `3d4h` or `12s`. */
export function formatSpan(seconds: number): string {
  if (seconds === 0) return '0s';
  const parts = formatDuration(seconds * 1000).match(/\d+[a-z]+/g) ?? [];
  return parts.slice(0, 2).join('');
}

/** Formats CPU time as ps(1) does, for example `0:07` or `1:02:33`. */
export function formatCpuTime(cpuMs: number): string {
  const seconds = Math.floor(cpuMs / 1000);
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const tail = String(rest).padStart(2, '0');
  return hours === 0 ? `${minutes}:${tail}` : `${hours}:${String(minutes).padStart(2, '0')}:${tail}`;
}
