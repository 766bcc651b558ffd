/**
 * The fence's alarm, a ring buffer of eBPF (Linux 5.8) that is written at each denial, so that nobody has to look from time to
 * time. The kernel shows it as pages: the position of whoever reads, that of the writers, and the contents.
 */
import type { Import, Program } from '../sys/program.ts';

const POLLIN = 1;
const PROT = { read: 1, write: 2 } as const;
const MAP_SHARED = 1;
const POSITION_BYTES = 8;

/** Adds the step that waits until something is in it; that stays there. */
export function planAlarmWait(p: Program, alarm: Import): void {
  const pollfd = p.data(8, 'pollfd');
  p.store(pollfd, alarm);
  p.put(pollfd.at(4), POLLIN, 2);
  p.sys('ppoll', [pollfd, 1, 0, 0, 0], { about: 'a denial' });
}

/** Adds the steps that empty it: who reads is then where the writers are. */
export function planAlarmReset(p: Program, alarm: Import): void {
  const { pageBytes } = p.abi;
  const about = 'the alarm';
  const reader = p.sys('mmap', [0, pageBytes, PROT.read + PROT.write, MAP_SHARED, alarm, 0], { about });
  const writers = p.sys('mmap', [0, pageBytes, PROT.read, MAP_SHARED, alarm, pageBytes], { about });
  const pair = p.data(8);
  p.sys('pipe2', [pair, p.flags('O_CLOEXEC')], { about });
  p.sys('write', [p.load(pair.at(4, 4)), writers, POSITION_BYTES], { about });
  p.sys('read', [p.load(pair.at(0, 4)), reader, POSITION_BYTES], { about });
}
