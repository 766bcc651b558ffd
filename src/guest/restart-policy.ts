/**
 * When a guest that has ended is started again: decisions alone, without clock and files.
 */
import type { StopCause } from '../api/events.ts';
import type { RestartPolicy } from './config-types.ts';

/** Who ran for so long had no trouble with starting: the delays begin anew, and tries count from the first. */
const SETTLED_MS = 10_000;

/** How a run ended. */
export interface EndedRun {
  readonly cause: StopCause;
  readonly exitCode: number | null;
  /** Its health check wants another run, whatever the policy. */
  readonly isRestartAsked: boolean;
  /** How long it ran. */
  readonly ranMs: number;
  /** How often the guest had been started again for it without having settled. */
  readonly restarts: number;
}

/** A start to come. */
export interface NextStart {
  readonly delayMs: number;
  /** The run's `restarts`. */
  readonly restarts: number;
}

/** Returns the start that follows a run; `exhausted`: one would follow but for `maxRetries`; undefined: none does. */
export function startAfter(policy: RestartPolicy, run: EndedRun): NextStart | 'exhausted' | undefined {
  if (!isToRunAgain(policy, run)) return undefined;
  return nextStart(policy, run.ranMs >= SETTLED_MS ? 0 : run.restarts);
}

/** Returns the start that follows one that failed; `restarts` counts that one too. */
export function startAfterFailure(
  policy: RestartPolicy,
  restarts: number,
): NextStart | 'exhausted' | undefined {
  return policy.policy === 'no' ? undefined : nextStart(policy, restarts);
}

function isToRunAgain(policy: RestartPolicy, { cause, exitCode, isRestartAsked }: EndedRun): boolean {
  switch (cause) {
    case 'stopped':
    case 'halted':
      return false;
    case 'rebooted':
      return policy.onReboot;
    case 'unhealthy':
      return isRestartAsked || policy.policy !== 'no';
    default:
      return policy.policy === 'on-failure' ? exitCode !== 0 : policy.policy !== 'no';
  }
}

/** Each delay is twice the one before, until `maxDelayMs`. */
function nextStart(
  { policy, maxRetries, delayMs, maxDelayMs }: RestartPolicy,
  restarts: number,
): NextStart | 'exhausted' {
  if (policy === 'on-failure' && maxRetries !== undefined && restarts >= maxRetries) return 'exhausted';
  return { delayMs: Math.min(delayMs * 2 ** restarts, maxDelayMs), restarts: restarts + 1 };
}
