/** What a wait status says. */
import type { StopCause } from '../api/events.ts';
import type { LiveRecord } from './guest.ts';

const SIGHUP = 1;
const SIGINT = 2;

/** The exit code a shell would give for a wait status; null when nobody saw it. */
export function exitCode(waitStatus: number): number | null {
  if (waitStatus < 0) return null;
  const signal = waitStatus & 0x7f;
  return signal === 0 ? (waitStatus >> 8) & 0xff : 128 + signal;
}

/**
 * A process 1 ends by SIGINT when anybody in its pid namespace halts, by SIGHUP when anybody restarts (reboot(2), Linux
 * 3.4). Otherwise it cannot: it is out of reach of signals that it does not handle (pid_namespaces(7)).
 */
export function exitCodeOfInit(waitStatus: number): number | null {
  return waitStatus === SIGINT || waitStatus === SIGHUP ? 0 : exitCode(waitStatus);
}

/** Why a run ended, by the wait status of its process 1. */
export function causeOf(run: LiveRecord | undefined, waitStatus: number): StopCause {
  if (run?.stopAsked?.startsWith('health')) return 'unhealthy';
  if (run?.stopAsked) return 'stopped';
  if (waitStatus === SIGHUP) return 'rebooted';
  if (waitStatus === SIGINT) return 'halted';
  return waitStatus < 0 ? 'unknown' : 'exited';
}
