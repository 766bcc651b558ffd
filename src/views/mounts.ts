/**
 * The table of mounts (proc_pid_mounts(5)) as a guest with quotas for its users is shown it: quota tools look for a file system
 * that has quotas by its type, on a device that they name to the kernel.
 */

/** Options of a mount, and not of its file system (fs/proc_namespace.c). */
const OWN_OPTIONS = new Set(['ro', 'rw', 'nosuid', 'nodev', 'noexec', 'noatime', 'nodiratime', 'relatime']);

/**
 * Returns the table with another line for the root.
 *
 * @param text what the kernel tells of the guest
 * @param device what is told as the device of its root
 * @param quotas options that tell which quotas hold there
 */
export function formatMounts(text: string, device: string, quotas: readonly string[]): string {
  return text.replace(/^\S+ \/ \S+ (\S+)/m, (_line, options: string) => {
    const own = options.split(',').filter((option) => OWN_OPTIONS.has(option));
    return `${device} / ext4 ${[...own, ...quotas].join(',')}`;
  });
}
