/** Paths of /proc and /sys that a guest must not see, or not write: the lists of Docker and podman, and why. */

/** A path to cover. Absent paths are skipped: they depend on the kernel's configuration. */
export interface MaskedPath {
  /** Absolute, in the guest. May hold `*` for any one name below a directory. */
  readonly path: string;
  /** A file is covered by /dev/null, a directory by an empty read-only tmpfs; `either` is decided by looking. */
  readonly kind: 'file' | 'directory' | 'either';
  /** What it would give away. */
  readonly why: string;
}

/** A path that stays visible and is mounted read-only onto itself. */
export interface ReadOnlyPath {
  /** Absolute, in the guest. */
  readonly path: string;
  readonly kind: 'file' | 'directory';
  /** What writing there would do. */
  readonly why: string;
}

/** Covered in every guest. */
export const MASKED_PATHS: readonly MaskedPath[] = [
  { path: '/proc/acpi', kind: 'directory', why: "the host's firmware tables and wake-up devices" },
  {
    path: '/proc/asound',
    kind: 'directory',
    why: "the host's sound cards; their state tells what a user does",
  },
  {
    path: '/proc/interrupts',
    kind: 'file',
    why: 'counts per device: timing of keystrokes and packets of the host',
  },
  { path: '/proc/kcore', kind: 'file', why: 'memory of the kernel' },
  { path: '/proc/keys', kind: 'file', why: "names of keys that other processes' users hold" },
  { path: '/proc/latency_stats', kind: 'file', why: 'kernel stacks of all processes of the host' },
  {
    path: '/proc/sched_debug',
    kind: 'file',
    why: 'names of all processes of the host (moved to debugfs in 5.13)',
  },
  { path: '/proc/scsi', kind: 'directory', why: "adding and removing the host's disks" },
  { path: '/proc/timer_list', kind: 'file', why: 'kernel addresses and names of all processes of the host' },
  {
    path: '/sys/devices/system/cpu/cpu*/thermal_throttle',
    kind: 'directory',
    why: "a clock of the host's load",
  },
  {
    path: '/sys/devices/virtual/powercap',
    kind: 'directory',
    why: 'energy counters tell data of other processes (PLATYPUS, CVE-2020-8694)',
  },
  { path: '/sys/firmware', kind: 'directory', why: "the host's firmware variables and tables" },
  {
    path: '/sys/kernel/security',
    kind: 'directory',
    why: 'loading AppArmor policy from a namespace (CVE-2026-23405)',
  },
];

/** Read-only in every guest. */
export const READ_ONLY_PATHS: readonly ReadOnlyPath[] = [
  { path: '/proc/bus', kind: 'directory', why: "configuration of the host's PCI devices" },
  { path: '/proc/fs', kind: 'directory', why: "settings of the host's file systems" },
  { path: '/proc/irq', kind: 'directory', why: "which CPUs serve the host's interrupts" },
  {
    path: '/proc/sys',
    kind: 'directory',
    why: 'settings that are not separated, core_pattern and modprobe before all',
  },
  { path: '/proc/sysrq-trigger', kind: 'file', why: 'reboots or halts the host' },
];
