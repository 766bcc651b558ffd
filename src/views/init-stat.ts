/**
 * /proc/1/stat of a guest. Process 1 is there before the guest's clock begins, as a context is made ahead of its start, and
 * the kernel tells a time before that as one far away: `ps` shows it. Here it starts with the clock.
 *
 * @see proc_pid_stat(5); fs/proc/array.c do_task_stat
 */

/** Places of what follows the name, from the state on. */
const FIELD = { state: 0, parent: 1, group: 2, session: 3, terminalGroup: 5, start: 19 } as const;
/** Addresses, as the kernel tells them to who may not trace a process: it says just whether it has memory. */
const HIDDEN: ReadonlyMap<number, string> = new Map([
  [23, '1'], // startcode
  [24, '1'], // endcode
  ...[25, 26, 27, 32, 42, 43, 44, 45, 46, 47, 48, 49].map((field) => [field, '0'] as const),
]);

/**
 * Returns what a guest reads of its process 1.
 *
 * @param hostText what the host reads of it
 */
export function formatInitStat(hostText: string, hostPid: number): string {
  const end = hostText.lastIndexOf(')');
  const fields = hostText
    .slice(end + 2)
    .trimEnd()
    .split(' ');
  // Of processes there it can name itself; others are the host's.
  const pid = (field: number, other: string): string => (fields[field] === String(hostPid) ? '1' : other);
  const own: ReadonlyMap<number, string> = new Map([
    ...HIDDEN,
    [FIELD.parent, '0'],
    [FIELD.group, pid(FIELD.group, '0')],
    [FIELD.session, pid(FIELD.session, '0')],
    [FIELD.terminalGroup, pid(FIELD.terminalGroup, '-1')],
    [FIELD.start, '0'],
  ]);
  const name = hostText.slice(hostText.indexOf('('), end + 1);
  return `1 ${name} ${fields.map((value, i) => own.get(i) ?? value).join(' ')}\n`;
}
