/** Load averages as the kernel has them: exponentially damped over 1, 5 and 15 minutes. */

/** Over the last minute, 5 and 15 minutes. */
export type LoadAverages = readonly [number, number, number];

const SPANS_SECONDS = [60, 300, 900] as const;

/**
 * Returns the averages after a time in which `tasks` were running or in an uninterruptible sleep.
 *
 * @param before undefined: those of a guest that has just started
 */
export function nextLoad(before: LoadAverages | undefined, tasks: number, seconds: number): LoadAverages {
  const next = (span: number, i: number): number => {
    const kept = Math.exp(-seconds / span);
    return (before?.[i] ?? 0) * kept + tasks * (1 - kept);
  };
  return [next(SPANS_SECONDS[0], 0), next(SPANS_SECONDS[1], 1), next(SPANS_SECONDS[2], 2)];
}
