import type { Program } from './program.ts';

const NS_PER_MS = 1e6;

/** Adds the step that waits `ms` for what a program cannot be told of, as a rule between two tries; a signal ends it early. */
export function planWait(p: Program, ms: number, about: string): void {
  const time = p.struct('timespec', { tv_sec: Math.floor(ms / 1000), tv_nsec: (ms % 1000) * NS_PER_MS });
  p.sys('nanosleep', [time, 0], { about: `wait for ${about}, ${ms} ms`, ignore: ['EINTR'] });
}
