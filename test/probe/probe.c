/* SPDX-License-Identifier: Apache-2.0
 *
 * What a hostile process tries, where a shell cannot: `probe VERB ARGUMENTS…`. Verbs print one object of JSON, whose
 * values are "ok", the name of an errno, or "signal N". Static, so that it runs in any guest. It is run by the security
 * tests, in guests and, for `pty`, `keyring` and `swap`, on the host. Nothing here harms a host that lets it through.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/quota.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

#ifndef SYS_quotactl_fd
#define SYS_quotactl_fd 443
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

static bool first = true;

/* errno as a name; the exit code of a child carries the number, 0 is success. */
static const char *outcome(int status)
{
	static char text[32];
	if (WIFSIGNALED(status)) {
		snprintf(text, sizeof text, "signal %d", WTERMSIG(status));
		return text;
	}
	if (WEXITSTATUS(status) == 0)
		return "ok";
	const char *name = strerrorname_np(WEXITSTATUS(status));
	snprintf(text, sizeof text, "%d", WEXITSTATUS(status));
	return name ? name : text;
}

static void print_text(const char *text)
{
	putchar('"');
	for (const unsigned char *c = (const unsigned char *)text; *c; c++)
		if (*c < 32 || *c == '"' || *c == '\\' || *c > 126)
			printf("\\u%04x", *c);
		else
			putchar(*c);
	putchar('"');
}

static void tell(const char *key, const char *value)
{
	printf(first ? "{" : ",");
	first = false;
	print_text(key);
	putchar(':');
	print_text(value);
}

static void tell_number(const char *key, long value)
{
	printf(first ? "{" : ",");
	first = false;
	print_text(key);
	printf(":%ld", value);
}

static void finish(void)
{
	puts(first ? "{}" : "}");
	fflush(stdout);
}

/* What it changes is gone with it. */
static int in_child(long (*attempt)(void))
{
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(10);
		errno = 0;
		_exit(attempt() < 0 ? (errno ? errno : 255) : 0);
	}
	int status = 0;
	if (pid < 0)
		return errno << 8;
	waitpid(pid, &status, 0);
	return status;
}

/* ---- try: one system call each ---- */

#define NAMESPACE(name, flag) \
	static long unshare_##name(void) { return unshare(flag); } \
	static long setns_##name(void) \
	{ \
		int fd = open("/proc/self/ns/" #name, O_RDONLY | O_CLOEXEC); \
		return setns(fd, 0); \
	}
NAMESPACE(user, CLONE_NEWUSER)
NAMESPACE(net, CLONE_NEWNET)
NAMESPACE(mnt, CLONE_NEWNS)
NAMESPACE(pid, CLONE_NEWPID)
NAMESPACE(uts, CLONE_NEWUTS)
NAMESPACE(ipc, CLONE_NEWIPC)
NAMESPACE(cgroup, CLONE_NEWCGROUP)
NAMESPACE(time, 0x80)

static long clone_user(void)
{
	long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		_exit(0);
	return pid;
}
struct clone_arguments {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};
static long clone3_with(uint64_t flags)
{
	struct clone_arguments arguments = { .flags = flags, .exit_signal = SIGCHLD };
	long pid = syscall(SYS_clone3, &arguments, sizeof arguments);
	if (pid == 0)
		_exit(0);
	return pid;
}
static long clone3_user(void) { return clone3_with(CLONE_NEWUSER); }
static long clone3_plain(void) { return clone3_with(0); }
static long mount_tmpfs(void) { return mount("none", "/tmp", "tmpfs", 0, NULL); }
static long mount_proc(void) { return mount("none", "/tmp", "proc", 0, NULL); }
static long mount_cgroup(void) { return mount("none", "/tmp", "cgroup", 0, "memory"); }
static long mount_cgroup2(void) { return mount("none", "/tmp", "cgroup2", 0, NULL); }
static long mount_bind(void) { return mount("/", "/mnt", NULL, MS_BIND, NULL); }
static long remount_root(void) { return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL); }
static long remount_proc_sys(void) { return mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND, NULL); }
static long mount_shared(void) { return mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL); }
static long umount_proc(void) { return umount2("/proc", MNT_DETACH); }
static long umount_mask(void) { return umount2("/proc/keys", MNT_DETACH); }
static long pivot(void) { return syscall(SYS_pivot_root, ".", "."); }
static long try_fsopen(void) { return syscall(SYS_fsopen, "tmpfs", 0); }
static long try_fspick(void) { return syscall(SYS_fspick, AT_FDCWD, "/", 0); }
static long try_open_tree(void) { return syscall(SYS_open_tree, AT_FDCWD, "/", 1); }
static long try_move_mount(void) { return syscall(SYS_move_mount, AT_FDCWD, "/proc", AT_FDCWD, "/tmp", 0); }
static long try_mount_setattr(void)
{
	uint64_t attributes[4] = { 0, 1, 0, 0 };
	return syscall(SYS_mount_setattr, AT_FDCWD, "/usr", 0, attributes, sizeof attributes);
}
static long key_get(void) { return syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0); }
static long key_add(void) { return syscall(SYS_add_key, "user", "probe", "x", 1, KEY_SPEC_PROCESS_KEYRING); }
static long key_request(void) { return syscall(SYS_request_key, "user", "canary", NULL, 0); }
static long bpf_map(void)
{
	uint32_t attributes[18] = { 2, 4, 4, 1 }; /* BPF_MAP_TYPE_ARRAY */
	return syscall(SYS_bpf, 0, attributes, sizeof attributes);
}
static long perf(void)
{
	uint32_t attributes[32] = { 1, 128, 0, 0 }; /* PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK */
	attributes[10] = 1 << 5 | 1 << 6; /* exclude_kernel, exclude_hv */
	return syscall(SYS_perf_event_open, attributes, 0, -1, -1, 0);
}
static long try_userfaultfd(void) { return syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */); }
static long io_uring(void)
{
	uint32_t parameters[30] = { 0 };
	return syscall(SYS_io_uring_setup, 1, parameters);
}
static long kexec(void) { return syscall(SYS_kexec_load, 0, 0, NULL, 0); }
static long init_module(void) { return syscall(SYS_init_module, "x", 1, ""); }
static long finit_module(void) { return syscall(SYS_finit_module, 0, "", 0); }
static long delete_module(void) { return syscall(SYS_delete_module, "dummy_that_is_not", O_NONBLOCK); }
static long shocker(void)
{
	struct { struct file_handle head; char bytes[128]; } handle = { .head = { .handle_bytes = 128 } };
	int id, root = open("/", O_RDONLY | O_DIRECTORY);
	if (name_to_handle_at(AT_FDCWD, "/usr", &handle.head, &id, 0) < 0) {
		/* As the original did it: inode 2, generation 0, of the file system behind a descriptor. */
		handle.head.handle_bytes = 8;
		handle.head.handle_type = 1;
		memcpy(handle.bytes, (uint32_t[2]){ 2, 0 }, 8);
	}
	return open_by_handle_at(root, &handle.head, O_RDONLY);
}
static long try_quotactl(void) { return syscall(SYS_quotactl, 0x80000100 /* Q_SYNC */, NULL, 0, NULL); }
static long try_quotactl_fd(void) { return syscall(SYS_quotactl_fd, 0, 0x80000100, 0, NULL); }
static long try_swapon(void) { return syscall(SYS_swapon, "/none", 0); }
static long try_swapoff(void) { return syscall(SYS_swapoff, "/none"); }
static long try_acct(void) { return syscall(SYS_acct, "/tmp"); }
static long set_time(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return clock_settime(CLOCK_REALTIME, &now);
}
static long kernel_log(void)
{
	char text[16];
	return syscall(SYS_syslog, 3, text, sizeof text);
}
static long try_vhangup(void) { return setsid(), syscall(SYS_vhangup); }
static long no_randomize(void) { return syscall(SYS_personality, 0x0040000); }
static long mknod_block(void) { return mknod("/tmp/probe-block", S_IFBLK | 0600, makedev(8, 0)); }
static long mknod_memory(void) { return mknod("/tmp/probe-memory", S_IFCHR | 0600, makedev(1, 1)); }
static long mknod_null(void) { return mknod("/tmp/probe-null", S_IFCHR | 0600, makedev(1, 3)); }
static long tiocsti(void) { return ioctl(0, TIOCSTI, "x"); }
static long tiocsti_high_bits(void) { return syscall(SYS_ioctl, 0, 0x100000000 | TIOCSTI, "x"); }
static long tioclinux(void) { return ioctl(0, TIOCLINUX, "\3"); }
static long ptrace_init(void) { return ptrace(PTRACE_SEIZE, 1, NULL, NULL); }
static long memory_of_init(void) { return open("/proc/1/mem", O_RDWR); }
#ifdef __x86_64__
static long try_iopl(void) { return syscall(SYS_iopl, 3); }
static long try_ioperm(void) { return syscall(SYS_ioperm, 0x80, 1, 1); }
#endif

static const struct {
	const char *name;
	long (*attempt)(void);
} attempts[] = {
#define NAMESPACES(name) { "unshare " #name, unshare_##name }, { "setns " #name, setns_##name }
	NAMESPACES(user), NAMESPACES(net), NAMESPACES(mnt), NAMESPACES(pid),
	NAMESPACES(uts), NAMESPACES(ipc), NAMESPACES(cgroup), NAMESPACES(time),
	{ "clone user", clone_user },
	{ "clone3 user", clone3_user },
	{ "clone3", clone3_plain },
	{ "mount tmpfs", mount_tmpfs },
	{ "mount proc", mount_proc },
	{ "mount cgroup", mount_cgroup },
	{ "mount cgroup2", mount_cgroup2 },
	{ "mount bind", mount_bind },
	{ "mount shared", mount_shared },
	{ "remount /", remount_root },
	{ "remount /proc/sys", remount_proc_sys },
	{ "umount /proc", umount_proc },
	{ "umount /proc/keys", umount_mask },
	{ "pivot_root", pivot },
	{ "fsopen", try_fsopen },
	{ "fspick", try_fspick },
	{ "open_tree", try_open_tree },
	{ "move_mount", try_move_mount },
	{ "mount_setattr", try_mount_setattr },
	{ "keyctl", key_get },
	{ "add_key", key_add },
	{ "request_key", key_request },
	{ "bpf", bpf_map },
	{ "perf_event_open", perf },
	{ "userfaultfd", try_userfaultfd },
	{ "io_uring_setup", io_uring },
	{ "kexec_load", kexec },
	{ "init_module", init_module },
	{ "finit_module", finit_module },
	{ "delete_module", delete_module },
	{ "open_by_handle_at", shocker },
	{ "quotactl", try_quotactl },
	{ "quotactl_fd", try_quotactl_fd },
	{ "swapon", try_swapon },
	{ "swapoff", try_swapoff },
	{ "acct", try_acct },
	{ "clock_settime", set_time },
	{ "syslog", kernel_log },
	{ "vhangup", try_vhangup },
	{ "personality", no_randomize },
	{ "mknod block", mknod_block },
	{ "mknod memory", mknod_memory },
	{ "mknod null", mknod_null },
	{ "tiocsti", tiocsti },
	{ "tiocsti high bits", tiocsti_high_bits },
	{ "tioclinux", tioclinux },
	{ "ptrace init", ptrace_init },
	{ "memory of init", memory_of_init },
#ifdef __x86_64__
	{ "iopl", try_iopl },
	{ "ioperm", try_ioperm },
#endif
};

/* try [NAME…]: all of them without names. */
static void verb_try(int argc, char **argv)
{
	for (size_t i = 0; i < COUNT(attempts); i++) {
		bool wanted = argc == 0;
		for (int k = 0; k < argc; k++)
			wanted |= strcmp(argv[k], attempts[i].name) == 0;
		if (wanted)
			tell(attempts[i].name, outcome(in_child(attempts[i].attempt)));
	}
}

/* ---- the other ABIs ---- */

#ifdef __x86_64__
#define X32 0x40000000

static long i386(long number, long a, long b, long c, long d)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(0) : "memory", "r8", "r9", "r10", "r11");
	result = (int)result;
	if (result < 0 && result > -4096) {
		errno = (int)-result;
		return -1;
	}
	return result;
}

static long call_number, call_argument;
static long call_i386(void) { return i386(call_number, call_argument, 0, 0, 0); }
static long call_x32(void) { return syscall(call_number, call_argument, 0, 0, 0, 0, 0); }

/* Calls with arguments of zero: a filter answers, or else the call itself does. */
static const struct {
	const char *name;
	long native, compat, argument;
} numbers[] = {
	{ "unshare", SYS_unshare, 310, CLONE_NEWUSER },
	{ "setns", SYS_setns, 346, -1 },
	{ "mount", SYS_mount, 21, 0 },
	{ "umount2", SYS_umount2, 52, 0 },
	{ "pivot_root", SYS_pivot_root, 217, 0 },
	{ "fsopen", SYS_fsopen, 430, 0 },
	{ "open_tree", SYS_open_tree, 428, -1 },
	{ "move_mount", SYS_move_mount, 429, -1 },
	{ "add_key", SYS_add_key, 286, 0 },
	{ "request_key", SYS_request_key, 287, 0 },
	{ "keyctl", SYS_keyctl, 288, 0 },
	{ "bpf", SYS_bpf, 357, 0 },
	{ "perf_event_open", SYS_perf_event_open, 336, 0 },
	{ "userfaultfd", SYS_userfaultfd, 374, 1 },
	{ "io_uring_setup", SYS_io_uring_setup, 425, 0 },
	{ "kexec_load", SYS_kexec_load, 283, 0 },
	{ "init_module", SYS_init_module, 128, 0 },
	{ "finit_module", SYS_finit_module, 350, -1 },
	{ "delete_module", SYS_delete_module, 129, 0 },
	{ "open_by_handle_at", SYS_open_by_handle_at, 342, -1 },
	{ "quotactl", SYS_quotactl, 131, 0 },
	{ "swapon", SYS_swapon, 87, 0 },
	{ "swapoff", SYS_swapoff, 115, 0 },
	{ "acct", SYS_acct, 51, -1 },
	{ "syslog", SYS_syslog, 103, 3 },
	{ "iopl", SYS_iopl, 110, 3 },
	{ "clone3", SYS_clone3, 435, 0 },
};

/* compat i386|x32 */
static void verb_compat(int argc, char **argv)
{
	bool is_x32 = argc > 0 && strcmp(argv[0], "x32") == 0;
	for (size_t i = 0; i < COUNT(numbers); i++) {
		call_number = is_x32 ? numbers[i].native | X32 : numbers[i].compat;
		call_argument = numbers[i].argument;
		tell(numbers[i].name, outcome(in_child(is_x32 ? call_x32 : call_i386)));
	}
	/* So that a kernel without the ABI is told from a filter. */
	call_number = is_x32 ? SYS_getppid | X32 : 64;
	tell("getppid", outcome(in_child(is_x32 ? call_x32 : call_i386)));
}
#else
static void verb_compat(int argc, char **argv)
{
	(void)argc, (void)argv;
}
#endif

#ifdef __x86_64__
/* ---- quotas ---- */

static bool quota_is_i386;

/* Below 4 GiB, as all of a static program is. */
static union {
	struct if_dqblk limits;
	struct if_nextdqblk next;
	char bytes[128];
} quota_block;

static void quota_call(const char *name, unsigned command, const char *special, unsigned id, void *argument)
{
	long result = quota_is_i386 ? i386(131, command, (long)special, id, (long)argument) :
				      syscall(SYS_quotactl, command, special, id, argument);
	tell(name, result < 0 ? strerrorname_np(errno) : "ok");
}

static void quota_fd_call(const char *name, int fd)
{
	long result = quota_is_i386 ? i386(443, fd, QCMD(Q_GETINFO, 0), 0, (long)&quota_block) :
				      syscall(SYS_quotactl_fd, fd, QCMD(Q_GETINFO, 0), 0, &quota_block);
	tell(name, result < 0 ? strerrorname_np(errno) : "ok");
}

static void quota_set(const char *name, unsigned id, unsigned valid)
{
	quota_block.limits = (struct if_dqblk){ .dqb_bhardlimit = 777, .dqb_valid = valid };
	quota_call(name, QCMD(Q_SETQUOTA, 0), "/dev/hdv1", id, &quota_block);
}

static void quota_next(const char *name, unsigned id)
{
	char text[32];
	memset(&quota_block, 0, sizeof quota_block);
	long result = quota_is_i386 ? i386(131, QCMD(Q_GETNEXTQUOTA, 0), (long)"/dev/hdv1", id, (long)&quota_block) :
				      syscall(SYS_quotactl, QCMD(Q_GETNEXTQUOTA, 0), "/dev/hdv1", id, &quota_block);
	snprintf(text, sizeof text, "%u", quota_block.next.dqb_id);
	tell(name, result < 0 ? strerrorname_np(errno) : text);
}

/* quota native|i386: quotactl(2) with what a guest may and may not ask. Limits user 4242. */
static void verb_quota(int argc, char **argv)
{
	const char *device = "/dev/hdv1";
	quota_is_i386 = argc > 0 && strcmp(argv[0], "i386") == 0;
	static const unsigned ids[] = { 0, 1000, 4242, 65535, 65536, 0x70000, 0xffff0000, 0xffffffff };
	char name[64];
	for (size_t i = 0; i < COUNT(ids); i++) {
		snprintf(name, sizeof name, "get %u", ids[i]);
		quota_call(name, QCMD(Q_GETQUOTA, 0), device, ids[i], &quota_block);
		snprintf(name, sizeof name, "get group %u", ids[i]);
		quota_call(name, QCMD(Q_GETQUOTA, 1), device, ids[i], &quota_block);
		if (ids[i] == 0 || ids[i] == 1000)
			continue;
		snprintf(name, sizeof name, "set %u", ids[i]);
		quota_set(name, ids[i], QIF_LIMITS);
	}
	quota_set("set what is used", 4242, QIF_ALL);
	memset(&quota_block, 0xff, sizeof quota_block);
	quota_call("get it again", QCMD(Q_GETQUOTA, 0), device, 4242, &quota_block);
	snprintf(name, sizeof name, "%llu %x", (unsigned long long)quota_block.limits.dqb_bhardlimit, quota_block.next.dqb_id);
	tell("limit, and what is behind", name);
	/* From the first of 256: of others Linux may pass over some (find_next_id, fs/quota/quota_tree.c). */
	quota_next("next 4096", 4096);
	quota_next("next 65536", 65536);
	quota_next("next of nobody", 0xffff0000);
	static const char *const others[] = { "/dev/vda", "/dev/hdv", "/dev/hdv11", "", "/", "/dev/null" };
	for (size_t i = 0; i < COUNT(others); i++) {
		snprintf(name, sizeof name, "on \"%s\"", others[i]);
		quota_call(name, QCMD(Q_GETQUOTA, 0), others[i], 0, &quota_block);
	}
	quota_call("on nothing", QCMD(Q_GETQUOTA, 0), NULL, 0, &quota_block);
	quota_call("on a bad pointer", QCMD(Q_GETQUOTA, 0), (char *)8, 0, &quota_block);
	quota_call("to a bad pointer", QCMD(Q_GETQUOTA, 0), device, getuid(), (void *)8);
	quota_call("from a bad pointer", QCMD(Q_SETQUOTA, 0), device, 4242, (void *)8);
	quota_call("project", QCMD(Q_GETQUOTA, 2), device, 0, &quota_block);
	quota_call("another type", QCMD(Q_GETQUOTA, 77), device, 0, &quota_block);
	quota_call("format", QCMD(Q_GETFMT, 0), device, 0, &quota_block);
	quota_call("information", QCMD(Q_GETINFO, 0), device, 0, &quota_block);
	quota_call("state", 0x580500, device, 0, &quota_block);
	quota_call("set information", QCMD(Q_SETINFO, 0), device, 0, &quota_block);
	quota_call("on", QCMD(Q_QUOTAON, 0), device, 2, "/aquota.user");
	quota_call("off", QCMD(Q_QUOTAOFF, 0), device, 0, NULL);
	quota_call("sync", QCMD(Q_SYNC, 0), device, 0, NULL);
	quota_call("sync of all", QCMD(Q_SYNC, 0), NULL, 0, NULL);
	quota_call("unknown", QCMD(0x8000ff, 0), device, 0, &quota_block);
	quota_call("of XFS", 0x580300, device, 0, &quota_block);
	quota_fd_call("fd of the root", open("/", O_RDONLY | O_CLOEXEC));
	quota_fd_call("fd of /proc", open("/proc", O_RDONLY | O_CLOEXEC));
	quota_fd_call("bad fd", 999);
	quota_fd_call("worse fd", -1);
}
#else
static void verb_quota(int argc, char **argv)
{
	(void)argc, (void)argv;
}
#endif

/* ---- sockets ---- */

static const struct {
	const char *name;
	int family, type, protocol;
} families[] = {
	{ "unix", AF_UNIX, SOCK_STREAM, 0 },
	{ "inet", AF_INET, SOCK_STREAM, 0 },
	{ "inet6", AF_INET6, SOCK_DGRAM, 0 },
	{ "netlink route", AF_NETLINK, SOCK_RAW, 0 },
	{ "netlink xfrm", AF_NETLINK, SOCK_RAW, 6 },
	{ "inet raw", AF_INET, SOCK_RAW, 1 },
	{ "packet", AF_PACKET, SOCK_RAW, 0 },
	{ "packet dgram", AF_PACKET, SOCK_DGRAM, 0 },
	{ "alg", AF_ALG, SOCK_SEQPACKET, 0 },
	{ "rxrpc", AF_RXRPC, SOCK_DGRAM, AF_INET },
	{ "rds", AF_RDS, SOCK_SEQPACKET, 0 },
	{ "vsock", AF_VSOCK, SOCK_STREAM, 0 },
	{ "key", AF_KEY, SOCK_RAW, 2 },
	{ "tipc", AF_TIPC, SOCK_SEQPACKET, 0 },
	{ "can", AF_CAN, SOCK_RAW, 1 },
	{ "bluetooth", AF_BLUETOOTH, SOCK_RAW, 1 },
	{ "x25", AF_X25, SOCK_SEQPACKET, 0 },
	{ "ax25", AF_AX25, SOCK_SEQPACKET, 0 },
	{ "appletalk", AF_APPLETALK, SOCK_DGRAM, 0 },
	{ "llc", AF_LLC, SOCK_STREAM, 0 },
	{ "pppox", AF_PPPOX, SOCK_STREAM, 0 },
	{ "smc", 43, SOCK_STREAM, 0 },
	{ "xdp", 44, SOCK_RAW, 0 },
	{ "kcm", 41, SOCK_DGRAM, 0 },
	{ "qipcrtr", 42, SOCK_DGRAM, 0 },
	{ "mctp", 45, SOCK_DGRAM, 0 },
	{ "nfc", AF_NFC, SOCK_SEQPACKET, 0 },
	{ "phonet", AF_PHONET, SOCK_DGRAM, 0 },
	{ "ieee802154", AF_IEEE802154, SOCK_DGRAM, 0 },
	{ "caif", AF_CAIF, SOCK_SEQPACKET, 0 },
};

static int family, type, protocol;
static long socket_native(void) { return syscall(SYS_socket, family, type, protocol); }
/* The kernel takes the family's lower 32 bits. */
static long socket_high_bits(void) { return syscall(SYS_socket, 0x100000000 | (unsigned)family, type, protocol); }
#ifdef __x86_64__
static long socket_i386(void) { return i386(359, family, type, protocol, 0); }
static long socket_call(void)
{
	/* Below 4 GiB, where the arguments of a 32-bit call are. */
	uint32_t *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	memcpy(low, (uint32_t[3]){ (uint32_t)family, (uint32_t)type, (uint32_t)protocol }, 12);
	return i386(102, 1, (long)low, 0, 0);
}
static long socketpair_call(void)
{
	uint32_t *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	memcpy(low, (uint32_t[4]){ (uint32_t)family, (uint32_t)type, (uint32_t)protocol, (uint32_t)(uintptr_t)(low + 8) }, 16);
	return i386(102, 8, (long)low, 0, 0);
}
static long socket_x32(void) { return syscall(SYS_socket | X32, family, type, protocol); }
#endif

/* sockets native|high-bits|i386|socketcall|socketpair|x32 */
static void verb_sockets(int argc, char **argv)
{
	const char *abi = argc > 0 ? argv[0] : "native";
	long (*attempt)(void) = strcmp(abi, "high-bits") == 0 ? socket_high_bits : socket_native;
#ifdef __x86_64__
	if (strcmp(abi, "i386") == 0)
		attempt = socket_i386;
	else if (strcmp(abi, "socketcall") == 0)
		attempt = socket_call;
	else if (strcmp(abi, "socketpair") == 0)
		attempt = socketpair_call;
	else if (strcmp(abi, "x32") == 0)
		attempt = socket_x32;
#endif
	for (size_t i = 0; i < COUNT(families); i++) {
		family = families[i].family;
		type = families[i].type;
		protocol = families[i].protocol;
		tell(families[i].name, outcome(in_child(attempt)));
	}
}

/* ---- sockets of the IP families ---- */

static const char *name_of(int error)
{
	return error == 0 ? "ok" : strerrorname_np(error);
}

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static const struct {
	const char *name;
	int family, type, protocol;
} inet[] = {
	{ "tcp", AF_INET, SOCK_STREAM, 0 },
	{ "tcp6", AF_INET6, SOCK_STREAM, 6 },
	{ "udp", AF_INET, SOCK_DGRAM, 17 },
	{ "udp6", AF_INET6, SOCK_DGRAM, 0 },
	{ "ping", AF_INET, SOCK_DGRAM, 1 },
	{ "ping6", AF_INET6, SOCK_DGRAM, 58 },
	{ "wrong protocol", AF_INET, SOCK_STREAM, 17 },
	{ "wrong family", AF_INET6, SOCK_DGRAM, 1 },
	{ "wrong type", AF_INET, 15, 0 },
	{ "wrong flags", AF_INET, SOCK_STREAM | 0x40000000, 0 },
	{ "mptcp", AF_INET, SOCK_STREAM, 262 },
	{ "sctp", AF_INET, SOCK_STREAM, 132 },
	{ "udplite", AF_INET6, SOCK_DGRAM, 136 },
	{ "raw", AF_INET, SOCK_RAW, 1 },
	{ "packet", AF_PACKET, SOCK_RAW, 0 },
	{ "netlink", AF_NETLINK, SOCK_RAW, 0 },
	{ "unix", AF_UNIX, SOCK_STREAM, 0 },
};

/* inet native|high-bits|i386|socketcall: the network namespace each socket is of, or why there is none */
static void verb_inet(int argc, char **argv)
{
	const char *abi = argc > 0 ? argv[0] : "native";
	long (*attempt)(void) = strcmp(abi, "high-bits") == 0 ? socket_high_bits : socket_native;
#ifdef __x86_64__
	if (strcmp(abi, "i386") == 0)
		attempt = socket_i386;
	else if (strcmp(abi, "socketcall") == 0)
		attempt = socket_call;
#endif
	for (size_t i = 0; i < COUNT(inet); i++) {
		family = inet[i].family;
		type = inet[i].type;
		protocol = inet[i].protocol;
		errno = 0;
		int fd = (int)attempt();
		char text[32];
		uint64_t cookie = 0;
		socklen_t len = sizeof cookie;
		if (fd < 0)
			snprintf(text, sizeof text, "%s", strerrorname_np(errno ? errno : -fd));
		else if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len))
			snprintf(text, sizeof text, "? %s", strerrorname_np(errno));
		else
			snprintf(text, sizeof text, "%llu", (unsigned long long)cookie);
		tell(inet[i].name, text);
		close(fd);
	}
}

static volatile long interrupts;
static void interrupt(int sig) { (void)sig, interrupts++; }

/* inet-call: flags and limits of socket(2), and signals meanwhile */
static void verb_inet_call(int argc, char **argv)
{
	static const int flags[] = { 0, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_CLOEXEC | SOCK_NONBLOCK };
	(void)argc, (void)argv;
	for (size_t i = 0; i < COUNT(flags); i++) {
		char name[16];
		int fd = socket(AF_INET, SOCK_STREAM | flags[i], 0);
		snprintf(name, sizeof name, "flags %zu", i);
		tell_number(name, (fcntl(fd, F_GETFD) & FD_CLOEXEC ? 1 : 0) | (fcntl(fd, F_GETFL) & O_NONBLOCK ? 2 : 0));
		close(fd);
	}
	int lowest = dup(0);
	close(lowest);
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	tell_number("above the lowest", fd - lowest);
	close(fd);
	struct rlimit old, limit;
	getrlimit(RLIMIT_NOFILE, &old);
	limit = old;
	limit.rlim_cur = (rlim_t)lowest;
	setrlimit(RLIMIT_NOFILE, &limit);
	tell("limit", name_of(socket(AF_INET, SOCK_STREAM, 0) < 0 ? errno : 0));
	setrlimit(RLIMIT_NOFILE, &old);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	tell("after the limit", name_of(fd < 0 ? errno : 0));
	close(fd);
	struct sigaction action = { .sa_handler = interrupt, .sa_flags = SA_RESTART };
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &(struct itimerval){ { 0, 50 }, { 0, 50 } }, NULL);
	long failures = 0;
	for (int i = 0; i < 5000; i++) {
		fd = socket(AF_INET, SOCK_DGRAM, 0);
		failures += fd < 0;
		close(fd);
	}
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	tell_number("failures", failures);
	tell("signals", interrupts > 10 ? "ok" : "too few");
	struct timespec from, to;
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (int i = 0; i < 5000; i++)
		close(socket(AF_INET, SOCK_DGRAM, 0));
	clock_gettime(CLOCK_MONOTONIC, &to);
	tell_number("ns", ((to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec) / 5000);
}

/* ---- memory and CPUs, by system calls ---- */

#ifdef __x86_64__
static bool is_i386;
#define CALL(native, compat, a, b, c) (is_i386 ? i386(compat, (long)(a), (long)(b), (long)(c), 0) : syscall(native, a, b, c))
#else
#define CALL(native, compat, a, b, c) syscall(native, a, b, c)
#endif
#define sysinfo_of(to) CALL(SYS_sysinfo, 116, to, 0, 0)
#define affinity_of(pid, len, to) CALL(SYS_sched_getaffinity, 242, pid, len, to)

struct sysinfo32 {
	int32_t uptime;
	uint32_t loads[3], totalram, freeram, sharedram, bufferram, totalswap, freeswap;
	uint16_t procs, pad;
	uint32_t totalhigh, freehigh, mem_unit;
	char rest[8];
};

/* measure native|i386: what sysinfo and sched_getaffinity tell, and how they fail */
static void verb_measure(int argc, char **argv)
{
	/* Two pages below 4 GiB, and nothing behind them. */
	char *low = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	char *end = low + 2 * 4096;
	munmap(end, 4096);
	memset(low, 0xee, 2 * 4096);
	bool narrow = argc > 0 && strcmp(argv[0], "i386") == 0;
#ifdef __x86_64__
	is_i386 = narrow;
#endif
	tell("sysinfo", name_of(sysinfo_of(low) ? errno : 0));
	struct sysinfo *info = (void *)low;
	struct sysinfo32 *info32 = (void *)low;
#define FIELD(f) ((unsigned long)(narrow ? info32->f : info->f))
	unsigned long unit = FIELD(mem_unit);
	tell_number("unit", (long)unit);
	tell_number("total", (long)(FIELD(totalram) * unit / 1024));
	tell_number("free", (long)(FIELD(freeram) * unit / 1024));
	tell_number("shared", (long)(FIELD(sharedram) * unit / 1024));
	tell_number("swap", (long)(FIELD(totalswap) * unit / 1024));
	tell_number("high", (long)(FIELD(totalhigh) + FIELD(freehigh)));
	tell_number("uptime", (long)FIELD(uptime));
	tell_number("load", (long)(FIELD(loads[0]) * 100 >> 16));
	tell_number("procs", (long)FIELD(procs));
	size_t size = narrow ? sizeof *info32 : sizeof *info;
	tell_number("behind", (unsigned char)low[size]);
	tell("to the end", name_of(sysinfo_of(end - size) ? errno : 0));
	tell("over the end", name_of(sysinfo_of(end - size + 8) ? errno : 0));
	tell("to nowhere", name_of(sysinfo_of(end) ? errno : 0));
	tell("to the kernel", name_of(sysinfo_of(-4096L) ? errno : 0));
	static const struct { const char *name; unsigned length; } lengths[] = {
		{ "4", 4 }, { "8", 8 }, { "12", 12 }, { "128", 128 }, { "1023", 1023 }, { "4096", 4096 }, { "65536", 65536 }, { "0", 0 }, { "3", 3 },
	};
	for (size_t i = 0; i < COUNT(lengths); i++) {
		char name[32];
		memset(low, 0, 4096);
		long n = affinity_of(0, lengths[i].length, low);
		snprintf(name, sizeof name, "%s bytes", lengths[i].name);
		tell(name, name_of(n < 0 ? errno : 0));
		snprintf(name, sizeof name, "%s bytes: written", lengths[i].name);
		tell_number(name, n);
		snprintf(name, sizeof name, "%s bytes: CPUs", lengths[i].name);
		tell_number(name, n < 0 ? 0 : CPU_COUNT_S((size_t)n, (cpu_set_t *)low));
	}
	static const struct { const char *name; int pid; } others[] = { { "of 1", 1 }, { "of nobody", 99999 }, { "of -1", -1 } };
	for (size_t i = 0; i < COUNT(others); i++) {
		memset(low, 0, 4096);
		long n = affinity_of(others[i].pid, 128, low);
		tell(others[i].name, name_of(n < 0 ? errno : 0));
		if (n >= 0)
			tell_number("CPUs of 1", CPU_COUNT_S((size_t)n, (cpu_set_t *)low));
	}
	memset(low, 0, 4096);
	tell_number("of itself by number", affinity_of(getpid(), 128, low) < 0 ? -1 : CPU_COUNT_S(128, (cpu_set_t *)low));
	tell("CPUs to nowhere", name_of(affinity_of(0, 128, end) < 0 ? errno : 0));
	CPU_ZERO((cpu_set_t *)low);
	CPU_SET(sched_getcpu(), (cpu_set_t *)low);
	sched_setaffinity(0, 128, (cpu_set_t *)low);
	memset(low, 0, 4096);
	tell_number("pinned", affinity_of(0, 128, low) < 0 ? -1 : CPU_COUNT_S(128, (cpu_set_t *)low));
}

/* measure-on MS: calls both over and over; how often they failed, and what the longest took */
static void verb_measure_on(int argc, char **argv)
{
	long ms = argc > 0 ? atol(argv[0]) : 1000, failures = 0, calls = 0, longest_ns = 0;
	struct timespec from, before, after;
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (;;) {
		struct sysinfo info = { 0 };
		cpu_set_t cpus;
		clock_gettime(CLOCK_MONOTONIC, &before);
		failures += sysinfo(&info) != 0 || info.totalram == 0;
		failures += syscall(SYS_sched_getaffinity, 0, sizeof cpus, &cpus) <= 0;
		clock_gettime(CLOCK_MONOTONIC, &after);
		long ns = (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
		longest_ns = ns > longest_ns ? ns : longest_ns;
		calls++;
		if ((after.tv_sec - from.tv_sec) * 1000 + (after.tv_nsec - from.tv_nsec) / 1000000 >= ms)
			break;
	}
	tell_number("failures", failures);
	tell_number("calls", calls);
	tell_number("longest ms", longest_ns / 1000000);
}

static void wait_for_file(const char *path)
{
	while (access(path, F_OK))
		usleep(1000);
}

/* recycled: one child asks by sysinfo(2) when there is /dev/shm/ask; each time there is /dev/shm/go another one is made,
 * with the same page, which it looks at when there is /dev/shm/look. */
static void verb_recycled(int argc, char **argv)
{
	(void)argc, (void)argv;
	unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(page, 0xee, 4096);
	signal(SIGCHLD, SIG_IGN);
	if (fork() == 0) {
		prctl(PR_SET_NAME, "asks");
		wait_for_file("/dev/shm/ask");
		_exit(sysinfo((struct sysinfo *)(void *)page) != 0);
	}
	for (pid_t child = 0; access("/dev/shm/look", F_OK); usleep(1000)) {
		if (access("/dev/shm/go", F_OK))
			continue;
		if (child)
			kill(child, SIGKILL);
		child = fork();
		if (child == 0) {
			prctl(PR_SET_NAME, "takes");
			wait_for_file("/dev/shm/look");
			long written = 0;
			for (size_t i = 0; i < 4096; i++)
				written += page[i] != 0xee;
			tell_number("written", written);
			finish();
			fflush(stdout);
			_exit(0);
		}
		unlink("/dev/shm/go");
	}
	wait(NULL);
	_exit(0);
}

/* ---- files ---- */

/* write PATH…: may they be opened for writing? Nothing is written. */
static void verb_write(int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		int fd = open(argv[i], O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
		tell(argv[i], name_of(fd < 0 ? errno : 0));
		close(fd);
	}
}

/* masked PATH…: "absent", "null" and "empty" for what covers it, "denied", or "seen". */
static void verb_masked(int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		struct stat st;
		const char *found = "seen";
		if (lstat(argv[i], &st) < 0) {
			found = errno == ENOENT ? "absent" : name_of(errno);
		} else if (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3)) {
			found = "null";
		} else if (S_ISDIR(st.st_mode)) {
			DIR *dir = opendir(argv[i]);
			int entries = 0;
			while (dir && readdir(dir))
				entries++;
			found = !dir ? name_of(errno) : entries > 2 ? "seen" : "empty";
			if (dir)
				closedir(dir);
		} else {
			char byte;
			int fd = open(argv[i], O_RDONLY | O_NONBLOCK);
			if (fd < 0)
				found = name_of(errno);
			else if (read(fd, &byte, 1) == 0)
				found = "empty";
			close(fd);
		}
		tell(argv[i], found);
	}
}

static int writable_count;

static void writable_below(int depth, const char *path)
{
	DIR *dir = opendir(path);
	struct statfs fs;
	struct dirent *entry;
	if (dir && statfs(path, &fs) == 0 && !(fs.f_flags & MS_RDONLY) && access(path, W_OK) == 0 && writable_count++ < 20)
		tell(path, "directory");
	while (dir && depth < 12 && (entry = readdir(dir))) {
		char below[4096];
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 || entry->d_type == DT_LNK)
			continue;
		snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
		if (entry->d_type == DT_DIR)
			writable_below(depth + 1, below);
		else if (faccessat(AT_FDCWD, below, W_OK, AT_EACCESS) == 0 && writable_count++ < 20)
			tell(below, "file");
	}
	if (dir)
		closedir(dir);
}

/* writable DIRECTORY…: the first files and directories below that may be written. */
static void verb_writable(int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		writable_below(0, argv[i]);
}

/* descriptors: what is open, and what it leads to. */
static void verb_descriptors(int argc, char **argv)
{
	(void)argc, (void)argv;
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		char target[4096];
		if (*entry->d_name == '.' || atoi(entry->d_name) == dirfd(dir))
			continue;
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);
		target[n < 0 ? 0 : n] = 0;
		tell(entry->d_name, target);
	}
}

/*
 * executables: of every process that runs the runtime's program, what stands in the way of writing that: "EACCES",
 * "sealed" for a memfd whose bytes cannot change, or "writable". ETXTBSY is no protection: it ends with the process.
 */
static void verb_executables(int argc, char **argv)
{
	(void)argc, (void)argv;
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		char path[300], target[4096];
		if (atoi(entry->d_name) <= 0)
			continue;
		snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
		/* Programs of the guest are its own to write; a link that cannot be read is of a process that is not. */
		ssize_t n = readlink(path, target, sizeof target - 1);
		target[n < 0 ? 0 : n] = 0;
		if (n >= 0 && !strstr(target, "syscalld") && !strstr(target, "memfd:"))
			continue;
		int reading = open(path, O_RDONLY | O_CLOEXEC);
		int seals = fcntl(reading, F_GET_SEALS);
		if (faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) < 0)
			tell(entry->d_name, name_of(errno));
		else
			tell(entry->d_name, seals >= 0 && (seals & F_SEAL_WRITE) ? "sealed" : "writable");
		close(reading);
	}
}

/* status: what the kernel says of this process's rights. */
static void verb_status(int argc, char **argv)
{
	(void)argc, (void)argv;
	FILE *file = fopen("/proc/self/status", "r");
	char line[1024];
	while (file && fgets(line, sizeof line, file)) {
		char *colon = strchr(line, ':');
		if (!colon || (strncmp(line, "Cap", 3) && strncmp(line, "NoNewPrivs", 10) && strncmp(line, "Seccomp:", 8) &&
			       strncmp(line, "Uid", 3) && strncmp(line, "Gid", 3) && strncmp(line, "Groups", 6)))
			continue;
		*colon++ = 0;
		for (char *c = colon; *c; c++)
			*c = *c == '\t' ? ' ' : *c == '\n' ? 0 : *c;
		while (*colon == ' ')
			colon++;
		while (*colon && colon[strlen(colon) - 1] == ' ')
			colon[strlen(colon) - 1] = 0;
		tell(line, colon);
	}
}

/* capability FILE: gives it inheritable file capabilities, all of them. */
static void verb_capability(int argc, char **argv)
{
	uint32_t value[5] = { 0x02000001 /* VFS_CAP_REVISION_2, effective */, 0, 0xffffffff, 0, 0x1ff };
	if (argc > 0)
		tell("set", name_of(setxattr(argv[0], "security.capability", value, sizeof value, 0) < 0 ? errno : 0));
}

/* escape PATH: leaves a chroot as root can, and looks for a path of the host. */
static void verb_escape(int argc, char **argv)
{
	struct stat st;
	mkdir("/tmp/probe-escape", 0700);
	tell("chroot", name_of(chroot("/tmp/probe-escape") < 0 ? errno : 0));
	for (int i = 0; i < 100; i++)
		if (chdir("..") < 0)
			break;
	tell("again", name_of(chroot(".") < 0 ? errno : 0));
	if (argc > 0)
		tell("host", name_of(lstat(argv[0], &st) < 0 ? errno : 0));
}

/* uncover PATH: takes its root away, comes in anew, and looks for a path of the host in all that was below. */
static void verb_uncover(int argc, char **argv)
{
	struct stat st;
	int mounts = open("/proc/self/ns/mnt", O_RDONLY);
	tell("umount", name_of(umount2("/", MNT_DETACH) < 0 ? errno : 0));
	tell("again", name_of(setns(mounts, CLONE_NEWNS) < 0 ? errno : 0));
	tell("write", name_of(mkdir("/probe", 0700) < 0 ? errno : 0));
	tell("proc", name_of(lstat("/proc/self", &st) < 0 ? errno : 0));
	DIR *root = opendir("/");
	bool found = argc > 0 && lstat(argv[0], &st) == 0;
	for (struct dirent *entry; argc > 0 && root && (entry = readdir(root)) != NULL;) {
		char path[4096];
		snprintf(path, sizeof path, "/%s%s", entry->d_name, argv[0]);
		found |= lstat(path, &st) == 0;
	}
	tell("host", found ? "ok" : "ENOENT");
}

/* swap A B SECONDS: exchanges two names over and over. */
static void verb_swap(int argc, char **argv)
{
	long count = 0, failed = 0;
	time_t end = time(NULL) + (argc > 2 ? atol(argv[2]) : 1);
	/* At the least as long as was said, and at the most that and a bit: the clock is asked now and then. */
	while (argc > 2 && time(NULL) <= end)
		for (int i = 0; i < 64; i++) {
			failed += renameat2(AT_FDCWD, argv[0], AT_FDCWD, argv[1], RENAME_EXCHANGE) < 0;
			count++;
		}
	tell_number("renames", count - failed);
}

/* ---- processes ---- */

static bool is_runtime(const char *pid)
{
	char path[300], exe[4096];
	snprintf(path, sizeof path, "/proc/%s/exe", pid);
	ssize_t n = readlink(path, exe, sizeof exe - 1);
	exe[n < 0 ? 0 : n] = 0;
	return strstr(exe, "syscalld") || strstr(exe, "memfd:");
}

/* spy SECONDS: looks at every process that comes, as long as it is not yet the guest's own. */
static void verb_spy(int argc, char **argv)
{
	long seen = 0, opened = 0, traced = 0;
	char leak[4096] = "";
	time_t end = time(NULL) + (argc > 0 ? atol(argv[0]) : 1);
	pid_t next = getpid();
	puts("spying");
	fflush(stdout);
	while (time(NULL) < end) {
		/* Pids are given in order, so the next ones are known. */
		for (pid_t pid = next + 1; pid < next + 8; pid++) {
			char text[16], path[64];
			snprintf(text, sizeof text, "%d", pid);
			snprintf(path, sizeof path, "/proc/%d", pid);
			if (access(path, F_OK) < 0)
				continue;
			seen++;
			snprintf(path, sizeof path, "/proc/%d/mem", pid);
			int fd = open(path, O_RDWR);
			if (fd >= 0 && is_runtime(text))
				opened++;
			close(fd);
			snprintf(path, sizeof path, "/proc/%d/fd", pid);
			DIR *dir = opendir(path);
			struct dirent *entry;
			while (dir && (entry = readdir(dir)))
				if (atoi(entry->d_name) > 2 && is_runtime(text)) {
					ssize_t n = readlinkat(dirfd(dir), entry->d_name, leak, sizeof leak - 1);
					leak[n < 0 ? 0 : n] = 0;
				}
			if (dir)
				closedir(dir);
			if (is_runtime(text) && ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0) {
				if (is_runtime(text))
					traced++;
				kill(pid, SIGKILL);
			}
			if (pid > next + 4)
				next = pid - 4;
		}
	}
	tell_number("seen", seen);
	tell_number("memory", opened);
	tell_number("traced", traced);
	tell("leak", leak);
}

/* forks COUNT: starts as many processes as it may, and keeps them a moment. */
static void verb_forks(int argc, char **argv)
{
	long count = 0, want = argc > 0 ? atol(argv[0]) : 0;
	int error = 0;
	for (; count < want; count++) {
		pid_t pid = fork();
		if (pid == 0) {
			pause();
			_exit(0);
		}
		if (pid < 0) {
			error = errno;
			break;
		}
	}
	tell_number("forks", count);
	tell("end", name_of(error));
}

/* bomb SECONDS: every process forks as fast as it can. */
static void verb_bomb(int argc, char **argv)
{
	time_t end = time(NULL) + (argc > 0 ? atol(argv[0]) : 1);
	while (time(NULL) < end)
		fork();
	_exit(0);
}

/* memory BYTES: touches so much. */
static void verb_memory(int argc, char **argv)
{
	size_t size = argc > 0 ? strtoull(argv[0], NULL, 10) : 0;
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	for (size_t i = 0; at != MAP_FAILED && i < size; i += 4096)
		at[i] = 1;
	tell("memory", at == MAP_FAILED ? name_of(errno) : "ok");
}

static void many(const char *name, long want, unsigned seconds, int (*make)(long))
{
	long count = 0;
	while (count < want && make(count) >= 0)
		count++;
	int error = errno;
	tell_number(name, count);
	tell("end", name_of(count < want ? error : 0));
	sleep(seconds);
}
static int make_pty(long i) { return (void)i, posix_openpt(O_RDWR | O_NOCTTY); }
static int make_inotify(long i) { return (void)i, inotify_init1(0); }
static int make_descriptor(long i) { return (void)i, dup(0); }
static int make_file(long i)
{
	char name[64];
	snprintf(name, sizeof name, "/dev/shm/flood-%ld", i);
	int fd = open(name, O_CREAT | O_WRONLY, 0600);
	close(fd);
	return fd;
}

/* It stays until it is removed, or its namespace goes. */
static int make_queue(long i)
{
	char name[64];
	snprintf(name, sizeof name, "queue-%ld", i);
	int fd = (int)syscall(SYS_mq_open, name, O_CREAT | O_RDWR, 0600, NULL);
	close(fd);
	return fd;
}

/* many ptys|inotify|descriptors|files|queues COUNT [SECONDS]: and holds them so long. */
static void verb_many(int argc, char **argv)
{
	long want = argc > 1 ? atol(argv[1]) : 0;
	if (argc > 0)
		many(argv[0], want, argc > 2 ? (unsigned)atol(argv[2]) : 0,
		     strcmp(argv[0], "ptys") == 0       ? make_pty
		     : strcmp(argv[0], "inotify") == 0  ? make_inotify
		     : strcmp(argv[0], "files") == 0    ? make_file
		     : strcmp(argv[0], "queues") == 0   ? make_queue
							: make_descriptor);
}

/* terminal: whose the terminal on descriptor 0 is. */
static void verb_terminal(int argc, char **argv)
{
	(void)argc, (void)argv;
	struct stat fd, pts;
	fstat(0, &fd);
	stat("/dev/pts", &pts);
	tell("terminal", !isatty(0) ? "none" : fd.st_dev == pts.st_dev ? "own" : "foreign");
	tell("tiocsti", outcome(in_child(tiocsti)));
	tell("tioclinux", outcome(in_child(tioclinux)));
}

/* ---- on the host ---- */

/* pty COMMAND…: runs it on a terminal and relays what comes; 125 when what was typed there came back. */
static void verb_pty(int argc, char **argv)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	if (argc == 0 || master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
		exit(124);
	pid_t pid = fork();
	if (pid == 0) {
		setsid();
		int slave = open(ptsname(master), O_RDWR);
		ioctl(slave, TIOCSCTTY, 0);
		for (int fd = 0; fd < 3; fd++)
			dup2(slave, fd);
		execvp(argv[0], argv);
		_exit(127);
	}
	char buffer[4096];
	ssize_t n;
	struct pollfd p = { .fd = master, .events = POLLIN };
	while (poll(&p, 1, 20000) > 0 && (n = read(master, buffer, sizeof buffer)) > 0)
		if (write(1, buffer, (size_t)n) < 0)
			break;
	int status = 0;
	waitpid(pid, &status, 0);
	exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* keyring COMMAND…: runs it in a new session keyring that holds a key "canary". */
static void verb_keyring(int argc, char **argv)
{
	syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	if (argc == 0 || syscall(SYS_add_key, "user", "canary", "secret", 6, KEY_SPEC_SESSION_KEYRING) < 0)
		exit(124);
	execvp(argv[0], argv);
	exit(127);
}

/* find-key: whether the session's keyring holds "canary". */
static void verb_find_key(int argc, char **argv)
{
	(void)argc, (void)argv;
	long key = syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "canary", 0);
	tell("canary", name_of(key < 0 ? errno : 0));
}

/* ---- limits: as much of each resource as there is ---- */

#define MIB (1024L * 1024)
#define TAKE_MAX 4096

static long *taken; /* shared with the child that takes */
static int ids[TAKE_MAX];

static long take(long (*one)(void))
{
	for (*taken = 0; *taken < TAKE_MAX; ++*taken)
		if (one() < 0)
			return -1;
	return 0;
}

static long fork_one(void)
{
	pid_t self = getpid(), pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* gone with who takes, unless that is gone already */
		while (getppid() == self)
			pause();
		_exit(0);
	}
	return pid;
}

static long map_one(int protection)
{
	return mmap(NULL, MIB, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED ? -1 : 0;
}
static long map_nothing(void) { return map_one(PROT_NONE); }
static long map_writable(void) { return map_one(PROT_READ | PROT_WRITE); }

static long touch_one(void)
{
	void *p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -1;
	memset(p, 1, MIB);
	return 0;
}

static long lock_one(void)
{
	static uint8_t *pages;
	long size = sysconf(_SC_PAGESIZE);
	if (!pages)
		pages = mmap(NULL, (size_t)(256 * size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return mlock(pages + *taken * size, (size_t)size);
}

static long open_one(void) { return open("/dev/null", O_RDONLY); }
static long socket_one(void) { return socket(*taken % 2 ? AF_INET6 : AF_INET, SOCK_STREAM, 0); }

static long share_one(void)
{
	return ids[*taken] = shmget(IPC_PRIVATE, (size_t)sysconf(_SC_PAGESIZE), 0600);
}
static long set_one(void) { return ids[*taken] = semget(IPC_PRIVATE, 1, 0600); }
static long sets_of_four(void) { return ids[*taken] = semget(IPC_PRIVATE, 4, 0600); }

static struct {
	long type;
	char text[100];
} parcel = { 1, "" };

/* Counts bytes, not queues. */
static long send_one(void)
{
	static int queues;
	if (queues > 0 && msgsnd(ids[queues - 1], &parcel, sizeof parcel.text, IPC_NOWAIT) == 0) {
		*taken += sizeof parcel.text - 1;
		return 0;
	}
	int id = msgget(IPC_PRIVATE, 0600);
	if (id >= 0)
		ids[queues++] = id, --*taken;
	return id;
}

static void forget_ids(void)
{
	for (int i = 0; i < TAKE_MAX; i++)
		if (ids[i] > 0 || i == 0) {
			shmctl(ids[i], IPC_RMID, NULL);
			semctl(ids[i], 0, IPC_RMID);
			msgctl(ids[i], IPC_RMID, NULL);
		}
}

static long take_processes(void) { return take(fork_one); }
static long take_space(void) { return take(map_nothing); }
static long take_locked(void) { return take(lock_one); }
static long take_memory(void) { return take(touch_one); }
static long take_anonymous(void) { return take(map_writable); }
static long take_files(void) { return take(open_one); }
static long take_sockets(void) { return take(socket_one); }

static long take_ids(long (*one)(void))
{
	memset(ids, 0, sizeof ids);
	long r = take(one);
	int error = errno;
	forget_ids();
	errno = error;
	return r;
}
static long take_queues(void) { return take_ids(send_one); }
static long take_shared(void) { return take_ids(share_one); }
static long take_sets(void) { return take_ids(set_one); }
static long take_semaphores(void) { return take_ids(sets_of_four); }

/* limits ROW…: what ends the taking of each, and how much there was: MiB, pages, pieces or bytes. */
static void verb_limits(int argc, char **argv)
{
	static const struct {
		const char *row;
		long (*attempt)(void);
	} rows[] = {
		{ "PROC", take_processes }, { "VM", take_space }, { "VML", take_locked }, { "RSS", take_memory },
		{ "ANON", take_anonymous }, { "FILES", take_files }, { "MSGQ", take_queues }, { "SHM", take_shared },
		{ "SEMA", take_sets }, { "SEMS", take_semaphores }, { "SOCK", take_sockets },
	};
	taken = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int k = 0; k < argc; k++)
		for (size_t i = 0; i < COUNT(rows); i++)
			if (strcmp(argv[k], rows[i].row) == 0) {
				tell(rows[i].row, outcome(in_child(rows[i].attempt)));
				char count[32];
				snprintf(count, sizeof count, "%s taken", rows[i].row);
				tell_number(count, *taken);
			}
}

/* hold: some of everything, until it is killed. */
static void verb_hold(int argc, char **argv)
{
	(void)argc, (void)argv;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int file = open("/tmp", O_RDONLY);
	int queue = msgget(IPC_PRIVATE, 0600);
	bool ok = shmget(IPC_PRIVATE, 3 * page, 0600) >= 0 && semget(IPC_PRIVATE, 5, 0600) >= 0 && semget(IPC_PRIVATE, 2, 0600) >= 0 &&
		  msgsnd(queue, &parcel, sizeof parcel.text, 0) == 0 && flock(file, LOCK_EX) == 0 &&
		  mlock(&parcel, sizeof parcel) == 0 && socket(AF_UNIX, SOCK_STREAM, 0) >= 0;
	puts(ok ? "ready" : strerror(errno));
	fflush(stdout);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(int, char **);
	} verbs[] = {
		{ "try", verb_try },
		{ "compat", verb_compat },
		{ "sockets", verb_sockets },
		{ "inet", verb_inet },
		{ "inet-call", verb_inet_call },
		{ "measure", verb_measure },
		{ "measure-on", verb_measure_on },
		{ "recycled", verb_recycled },
		{ "write", verb_write },
		{ "masked", verb_masked },
		{ "writable", verb_writable },
		{ "descriptors", verb_descriptors },
		{ "executables", verb_executables },
		{ "status", verb_status },
		{ "capability", verb_capability },
		{ "escape", verb_escape },
		{ "uncover", verb_uncover },
		{ "swap", verb_swap },
		{ "spy", verb_spy },
		{ "forks", verb_forks },
		{ "bomb", verb_bomb },
		{ "memory", verb_memory },
		{ "many", verb_many },
		{ "limits", verb_limits },
		{ "hold", verb_hold },
		{ "terminal", verb_terminal },
		{ "pty", verb_pty },
		{ "quota", verb_quota },
		{ "keyring", verb_keyring },
		{ "find-key", verb_find_key },
	};
	for (size_t i = 0; argc > 1 && i < COUNT(verbs); i++)
		if (strcmp(argv[1], verbs[i].name) == 0) {
			verbs[i].run(argc - 2, argv + 2);
			finish();
			return 0;
		}
	fprintf(stderr, "probe: no such verb\n");
	return 2;
}
