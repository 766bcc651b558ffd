/** How one error code shows on each front. */
export interface ErrorCodeInfo {
  /** HTTP status. */
  readonly status: number;
  /** Exit code of every verb but `run` and `exec`, which exit 125 for a failure of our own. */
  readonly exit: number;
  /** One line for the reference. */
  readonly meaning: string;
}

/** Every stable error code. A code is never renamed or given a second meaning; `docs/reference/errors.md` lists them. */
export const ERROR_CODES = {
  'abi-missing': { status: 500, exit: 1, meaning: 'the native part is not built' },
  'address-in-use': { status: 409, exit: 1, meaning: 'an address belongs to another network context' },
  'busybox-broken': { status: 409, exit: 1, meaning: 'the busybox of the host cannot be used in a guest' },
  'busybox-missing': { status: 409, exit: 1, meaning: 'the host has no static busybox for the template' },
  'cgroup-busy': { status: 409, exit: 1, meaning: "a guest's cgroup has processes that do not end" },
  'cgroup-io': { status: 500, exit: 1, meaning: 'the kernel refused to read or write a cgroup file' },
  'cgroup-missing': { status: 409, exit: 1, meaning: 'a guest has no cgroup, so it does not run' },
  'cgroup-not-prepared': { status: 500, exit: 1, meaning: 'the cgroups of this instance are not set up' },
  'cgroup2-missing': { status: 500, exit: 1, meaning: 'the host has no cgroup2 file system' },
  'command-not-executable': { status: 400, exit: 126, meaning: "a guest's command cannot be executed" },
  'command-not-found': { status: 400, exit: 127, meaning: 'a guest has no such command' },
  'comparison-too-long': {
    status: 500,
    exit: 70,
    meaning: 'a program compares more bytes than the machine takes, which is a bug',
  },
  'ebpf-jump': {
    status: 500,
    exit: 70,
    meaning: 'an eBPF program jumps too far, which is a bug',
  },
  'ebpf-label': {
    status: 500,
    exit: 70,
    meaning: 'an eBPF program jumps to a label that is nowhere, which is a bug',
  },
  'ebpf-map': {
    status: 500,
    exit: 70,
    meaning: 'an eBPF program names a map that is nowhere, which is a bug',
  },
  'ebpf-refused': {
    status: 500,
    exit: 70,
    meaning: 'the kernel refuses an eBPF program; the details have the words of its verifier',
  },
  'freeze-timeout': { status: 504, exit: 1, meaning: 'a guest did not freeze or thaw in time' },
  'guest-ephemeral': {
    status: 409,
    exit: 1,
    meaning: 'a guest has no configuration file, for it goes when it stops',
  },
  'guest-exists': { status: 409, exit: 1, meaning: 'a guest of that name exists already' },
  'guest-files-exist': { status: 409, exit: 1, meaning: 'the files of a guest are there already' },
  'guest-files-mounted': { status: 409, exit: 1, meaning: "something is mounted below a guest's files" },
  'guest-not-found': { status: 404, exit: 5, meaning: 'no guest has that name or xid' },
  'guest-paused': { status: 409, exit: 1, meaning: 'a guest is paused, and for that it has to run' },
  'guest-running': { status: 409, exit: 1, meaning: 'a guest runs, and for that it may not' },
  'guest-stopped': { status: 409, exit: 1, meaning: 'a guest does not run, and for that it has to' },
  'guests-running': { status: 409, exit: 1, meaning: 'guests run, so the control plane does not stop' },
  'host-not-merged': {
    status: 409,
    exit: 1,
    meaning: 'the host has no merged /usr, so its programs cannot be shown in a guest',
  },
  'id-not-mapped': { status: 500, exit: 70, meaning: "an id is outside the guest's range, which is a bug" },
  'invalid-address': {
    status: 400,
    exit: 2,
    meaning: 'an IP address cannot be read, or is of the wrong family',
  },
  'invalid-archive': { status: 400, exit: 2, meaning: 'an archive cannot be read as a root' },
  'invalid-capability': { status: 400, exit: 2, meaning: 'not a capability or not a set of capabilities' },
  'invalid-config': {
    status: 400,
    exit: 2,
    meaning: 'a guest configuration is not valid; the message gives file, line and column',
  },
  'invalid-name': { status: 400, exit: 2, meaning: 'not a guest name' },
  'invalid-network': { status: 400, exit: 2, meaning: 'not a network, which is an address and a prefix' },
  'invalid-rlimit': { status: 400, exit: 2, meaning: 'not a resource limit' },
  'invalid-rule': { status: 400, exit: 2, meaning: 'not a rule of a network policy' },
  'invalid-seccomp-profile': { status: 400, exit: 2, meaning: 'a seccomp profile cannot be read' },
  'invalid-signal': { status: 400, exit: 2, meaning: 'not a signal name or number' },
  'invalid-template': { status: 400, exit: 2, meaning: 'not a template or not a name of one' },
  'invalid-user': { status: 400, exit: 2, meaning: 'not a user or a group that the guest can have' },
  'invalid-user-database': {
    status: 400,
    exit: 2,
    meaning: "the guest's passwd or group file cannot be read",
  },
  'invalid-value': { status: 400, exit: 2, meaning: 'a size, duration, count or other value cannot be read' },
  'invalid-xid': { status: 400, exit: 2, meaning: 'not a context id, which is a number from 2 to 65535' },
  'label-not-placed': {
    status: 500,
    exit: 70,
    meaning: 'a program jumps to a label that is nowhere, which is a bug',
  },
  'limit-below-usage': { status: 409, exit: 1, meaning: 'a memory limit is below what the guest uses' },
  'malformed-kernel-text': {
    status: 500,
    exit: 1,
    meaning: 'a kernel file does not have its documented form',
  },
  'malformed-log': { status: 500, exit: 1, meaning: 'the log of a guest is damaged' },
  'mount-not-sealable': {
    status: 400,
    exit: 2,
    meaning: 'a guest could make writable what is mounted read-only there',
  },
  'mount-source-missing': { status: 400, exit: 2, meaning: 'the source of a mount is not on the host' },
  'network-not-shareable': {
    status: 400,
    exit: 2,
    meaning: 'a guest is to share a network that cannot be shared',
  },
  'network-shared': { status: 409, exit: 1, meaning: 'another guest uses the addresses of this one' },
  'no-client': {
    status: 500,
    exit: 70,
    meaning: 'a command needs the descriptors of a client and there is none, which is a bug',
  },
  'no-free-xid': { status: 409, exit: 1, meaning: 'every xid is in use' },
  'no-key': { status: 500, exit: 70, meaning: 'a template has no key, which is a bug' },
  'no-link-kind': {
    status: 409,
    exit: 1,
    meaning: 'the kernel has no interface that could show a guest its addresses',
  },
  'no-root': { status: 500, exit: 70, meaning: 'a start has no root to begin with, which is a bug' },
  'no-version': { status: 500, exit: 70, meaning: 'package.json has no version, which is a bug' },
  'not-a-root': { status: 400, exit: 2, meaning: 'an archive or directory does not have the form of a root' },
  'nul-in-text': { status: 500, exit: 70, meaning: 'a text for the kernel has a NUL in it, which is a bug' },
  'program-failed': { status: 500, exit: 1, meaning: 'a step of a syscall program failed' },
  'program-too-big': {
    status: 500,
    exit: 70,
    meaning: 'a program is larger than the machine takes, which is a bug',
  },
  'seccomp-filter-too-long': {
    status: 400,
    exit: 2,
    meaning: 'a seccomp profile makes a filter that is too long for the kernel',
  },
  'short-hello': { status: 500, exit: 70, meaning: "a client's request is too short, which is a bug" },
  'short-result': {
    status: 500,
    exit: 70,
    meaning: 'a host command reported less than its wait status, which is a bug',
  },
  'start-cancelled': { status: 409, exit: 1, meaning: 'a guest was stopped before it had started' },
  'syscalld-lost': { status: 503, exit: 1, meaning: 'syscalld ended while it was at work' },
  'template-changed': { status: 409, exit: 1, meaning: 'an archive changed while it was imported' },
  'template-missing': { status: 404, exit: 2, meaning: 'there is no such template' },
  'too-many-errnos': {
    status: 500,
    exit: 70,
    meaning: 'a step names more errnos than the machine takes, which is a bug',
  },
  'too-many-rules': {
    status: 400,
    exit: 2,
    meaning: 'more egress rules apply to one address than the fence takes',
  },
  'unknown-constant': {
    status: 500,
    exit: 70,
    meaning: 'the headers lack a constant that a program uses, which is a bug',
  },
  'unknown-errno': {
    status: 500,
    exit: 70,
    meaning: 'the headers lack an errno that a program uses, which is a bug',
  },
  'unknown-field': {
    status: 500,
    exit: 70,
    meaning: 'the headers lack a structure or field that a program uses, which is a bug',
  },
  'unknown-syscall': {
    status: 500,
    exit: 70,
    meaning: 'the headers lack a system call that a program uses, which is a bug',
  },
  usage: { status: 400, exit: 2, meaning: 'the command line does not fit the verb' },
  'user-not-found': { status: 400, exit: 2, meaning: 'the guest has no such user or group' },
  'xid-fixed': { status: 400, exit: 2, meaning: 'the xid of a guest cannot be changed' },
  'xid-in-use': { status: 409, exit: 1, meaning: 'another guest has that xid' },
} as const;
