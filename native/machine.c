/* SPDX-License-Identifier: Apache-2.0
 *
 * The syscall machine: executes a flat list of system calls. It knows no policy and parses no text; what a program
 * means is decided by the TypeScript that compiled it (src/sys/program.ts).
 */
#define _GNU_SOURCE
#include "machine.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

/* ---- decoding ---- */

static bool fits(const struct program_header *h, uint64_t off, uint64_t len)
{
	return off <= h->data_len && len <= h->data_len - off;
}

static bool immediate_range(const struct program_header *h, const struct step *s, int off_arg, int len_arg)
{
	return s->kind[off_arg] == ARG_IMM && s->kind[len_arg] == ARG_IMM && fits(h, s->arg[off_arg], s->arg[len_arg]);
}

static const char *step_check(const struct program_header *h, const struct step *s, uint32_t index)
{
	if (s->op >= OP_COUNT)
		return "unknown operation";
	if (s->rule > RULE_JUMP)
		return "unknown failure rule";
	/* Forward only, so that every program ends; a jump may lead to the end, a child begins with a step. */
	bool jumps = s->op == OP_JUMP || s->op == OP_SPAWN || s->rule == RULE_JUMP;
	if (jumps && (s->target <= index || s->target > h->step_count - (s->op == OP_SPAWN)))
		return "jump target is not ahead";
	for (int i = 0; i < 6; i++) {
		switch (s->kind[i]) {
		case ARG_IMM:
			break;
		case ARG_DATA:
			if (!fits(h, (uint32_t)s->arg[i], s->arg[i] >> 32))
				return "data argument outside the data area";
			break;
		case ARG_RESULT:
			if (s->arg[i] >= index)
				return "result of a later step";
			break;
		case ARG_IMPORT:
			if (s->arg[i] >= h->import_count)
				return "import that did not come";
			break;
		default:
			return "unknown argument kind";
		}
	}
	switch (s->op) {
	case OP_STORE:
	case OP_LOAD:
		if (!immediate_range(h, s, 0, 1) || (s->arg[1] != 4 && s->arg[1] != 8))
			return "store or load outside the data area";
		break;
	case OP_EXPECT_BYTES:
		if (!immediate_range(h, s, 0, 1) || s->kind[2] != ARG_IMM || !fits(h, s->arg[2], s->arg[1]))
			return "comparison outside the data area";
		break;
	case OP_ITOA:
		if (!immediate_range(h, s, 0, 1) || s->arg[1] < 21)
			return "number does not fit where it is written";
		break;
	default:
		break;
	}
	return NULL;
}

const char *program_decode(void *buf, size_t len, struct program *p)
{
	struct program_header *h = buf;
	if (len < sizeof *h || len > PROGRAM_MAX)
		return "message too short or too long";
	if (h->magic != PROGRAM_MAGIC)
		return "not a program";
	if (h->step_count == 0 || h->step_count > STEPS_MAX || h->import_count > IMPORTS_MAX)
		return "too many or no steps or imports";
	uint64_t steps = (uint64_t)h->step_count * sizeof(struct step);
	uint64_t relocs = (uint64_t)h->reloc_count * sizeof(struct reloc);
	if (sizeof *h + steps + relocs + h->data_len != len)
		return "length does not match the header";
	if (!fits(h, h->out_off, h->out_len))
		return "slice outside the data area";
	p->header = h;
	p->steps = (struct step *)(h + 1);
	p->relocs = (struct reloc *)(p->steps + h->step_count);
	p->data = (uint8_t *)(p->relocs + h->reloc_count);
	if (h->data_len && p->data[h->data_len - 1])
		return "data area does not end with a zero byte";
	for (uint32_t i = 0; i < h->reloc_count; i++)
		if (!fits(h, p->relocs[i].at, 8) || !fits(h, p->relocs[i].target, 1))
			return "relocation outside the data area";
	for (uint32_t i = 0; i < h->step_count; i++) {
		const char *wrong = step_check(h, &p->steps[i], i);
		if (wrong)
			return wrong;
	}
	return NULL;
}

/* ---- execution ---- */

static struct {
	struct program p;
	int sock;                        /* reports go here; closed by exec (CLOEXEC) */
	uint32_t role;                   /* 0 worker, 1 child of it */
	int imports[IMPORTS_MAX];
	int64_t results[STEPS_MAX];
	int keep_fd[KEEPS_MAX];
	struct worker_note done;         /* WORKER_DONE, filled by OP_KEEP */
} m;

static char *title;
static size_t title_len;

void title_init(int argc, char **argv)
{
	title = argv[0];
	title_len = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]) + 1;
}

void title_set(const char *name)
{
	memset(title, 0, title_len);
	for (size_t i = 0; name[i] && i + 1 < title_len; i++)
		title[i] = name[i];
	prctl(PR_SET_NAME, name);
}

static void report(const struct worker_note *note, struct iovec results, struct iovec slice, const int *fds,
		   size_t fd_count)
{
	struct iovec iov[3] = { { (void *)note, sizeof *note }, results, slice };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * KEEPS_MAX)];
	} control;
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 3 };
	if (fd_count) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
	}
	while (sendmsg(m.sock, &msg, MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

static _Noreturn void fail(uint32_t step, int error)
{
	struct worker_note note = { .kind = WORKER_FAILED, .step = step, .error = error, .role = m.role };
	report(&note, (struct iovec){ 0 }, (struct iovec){ 0 }, NULL, 0);
	_exit(1);
}

static uint64_t value_of(const struct step *s, int i)
{
	switch (s->kind[i]) {
	case ARG_DATA:
		return (uint64_t)(uintptr_t)(m.p.data + (uint32_t)s->arg[i]);
	case ARG_RESULT:
		return (uint64_t)m.results[s->arg[i]];
	case ARG_IMPORT:
		return (uint64_t)m.imports[s->arg[i]];
	default:
		return s->arg[i];
	}
}

/* clone3. A worker's child becomes a child of syscalld (CLONE_PARENT), which learns its pidfd at once, so that no exit
 * is lost whatever happens to the worker. A child's child is an ordinary one. Returns 0 in the child. */
static int64_t spawn(const struct step *s)
{
	int pidfd = -1;
	int64_t cgroup = (int64_t)value_of(s, 1);
	struct clone_args args = { .flags = value_of(s, 0) };
	if (cgroup >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup;
	}
	if (m.role == 0) {
		args.flags |= CLONE_PARENT | CLONE_PIDFD;
		args.pidfd = (uint64_t)(uintptr_t)&pidfd;
	} else {
		args.exit_signal = SIGCHLD;
	}
	long pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		m.role = 1;
		return 0;
	}
	if (m.role == 0) {
		struct worker_note note = { .kind = WORKER_SPAWNED, .object = (uint32_t)value_of(s, 2), .pid = (int32_t)pid };
		report(&note, (struct iovec){ 0 }, (struct iovec){ 0 }, &pidfd, 1);
		close(pidfd);
	}
	return pid;
}

static void reset_signals(void)
{
	sigset_t none;
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The guest's init when it has none of its own: reaps orphans, passes signals on to the guest's command, and ends with
 * its status; the kernel then ends everything else in the pid namespace (pid_namespaces(7)). */
static _Noreturn void fakeinit(pid_t command)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL); /* blocked signals reach pid 1 even without a handler: signal.c sig_ignored() */
	title_set("init");
	close_range(0, ~0U, 0);
	for (;;) {
		siginfo_t info;
		int sig = sigwaitinfo(&all, &info);
		if (sig > 0 && sig != SIGCHLD)
			kill(command, sig);
		int status;
		pid_t pid;
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			if (pid == command)
				_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	}
}

static int64_t itoa(uint8_t *to, uint64_t value)
{
	char digits[20];
	int n = 0;
	do
		digits[n++] = (char)('0' + value % 10);
	while (value /= 10);
	for (int i = 0; i < n; i++)
		to[i] = (uint8_t)digits[n - 1 - i];
	to[n] = 0;
	return n;
}

static int64_t expect(const struct step *s)
{
	uint64_t have = value_of(s, 0), want = value_of(s, 2);
	bool holds = s->arg[1] == 0 ? have == want : s->arg[1] == 1 ? have != want : (have & value_of(s, 3)) == want;
	return holds ? 0 : -(int64_t)s->arg[4];
}

static int64_t execute(const struct step *s)
{
	switch (s->op) {
	case OP_SYSCALL: {
		long r = syscall(s->nr, value_of(s, 0), value_of(s, 1), value_of(s, 2), value_of(s, 3), value_of(s, 4),
				 value_of(s, 5));
		return r == -1 ? -errno : r;
	}
	case OP_SPAWN:
		return spawn(s);
	case OP_STORE: {
		uint64_t v = value_of(s, 2);
		uint32_t v32 = (uint32_t)v;
		memcpy(m.p.data + s->arg[0], s->arg[1] == 4 ? (void *)&v32 : (void *)&v, s->arg[1]);
		return 0;
	}
	case OP_LOAD: {
		int64_t v;
		int32_t v32;
		memcpy(s->arg[1] == 4 ? (void *)&v32 : (void *)&v, m.p.data + s->arg[0], s->arg[1]);
		return s->arg[1] == 4 ? v32 : v;
	}
	case OP_EXPECT:
		return expect(s);
	case OP_EXPECT_BYTES:
		return memcmp(m.p.data + s->arg[0], m.p.data + s->arg[2], s->arg[1]) ? -(int64_t)s->arg[4] : 0;
	case OP_ITOA:
		return itoa(m.p.data + s->arg[0], value_of(s, 2));
	case OP_JUMP:
		return 0;
	case OP_KEEP:
		if (m.done.keep_count == KEEPS_MAX || m.role != 0)
			return -E2BIG;
		m.keep_fd[m.done.keep_count] = (int)value_of(s, 0);
		m.done.keep_object[m.done.keep_count] = (uint32_t)value_of(s, 1);
		m.done.keep_pid[m.done.keep_count] = (int32_t)value_of(s, 2);
		m.done.keep_count++;
		return 0;
	case OP_EXIT:
		_exit((int)value_of(s, 0));
	case OP_RESET_SIGNALS:
		reset_signals();
		return 0;
	case OP_FAKEINIT:
		fakeinit((pid_t)value_of(s, 0));
	default:
		return -ENOSYS;
	}
}

static bool rule_covers(const struct step *s, int error)
{
	if (!s->only[0])
		return true;
	for (int i = 0; i < 4; i++)
		if (s->only[i] == error)
			return true;
	return false;
}

/* Runs the steps of a decoded program from its first one. Returns when the last one is done. */
static void run_steps(void)
{
	for (uint32_t i = 0; i < m.p.header->step_count;) {
		const struct step *s = &m.p.steps[i];
		int64_t r = execute(s);
		m.results[i] = r;
		if (s->op == OP_JUMP || (s->op == OP_SPAWN && r == 0)) {
			i = s->target;
			continue;
		}
		if (r < 0 && r > -4096) {
			if (s->rule == RULE_FAIL || !rule_covers(s, (int)-r))
				fail(i, (int)-r);
			if (s->rule == RULE_JUMP) {
				i = s->target;
				continue;
			}
		}
		i++;
	}
}

static ssize_t receive(void *buf, size_t len)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * IMPORTS_MAX)];
	} control;
	struct iovec iov = { buf, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control };
	ssize_t n;
	do
		n = recvmsg(m.sock, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0 || msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return -1;
	size_t count = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
			memcpy(m.imports, CMSG_DATA(c), count * sizeof(int));
		}
	struct program_header *h = buf;
	return (size_t)n >= sizeof *h && h->import_count != count ? -1 : n;
}

_Noreturn void worker_main(int sock)
{
	static _Alignas(8) uint8_t buf[PROGRAM_MAX];
	/* Not dumpable: a guest that meets this process in its pid namespace can open none of its files and memory. */
	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* an unused or half-done worker is worth nothing without syscalld */
	m.sock = sock;
	for (;;) {
		ssize_t n = receive(buf, sizeof buf);
		if (n < 0)
			_exit(0);
		m.done = (struct worker_note){ .kind = WORKER_DONE };
		if (program_decode(buf, (size_t)n, &m.p))
			fail(0, EBADMSG);
		struct program_header *h = m.p.header;
		for (uint32_t i = 0; i < h->reloc_count; i++) {
			uint64_t address = (uint64_t)(uintptr_t)(m.p.data + m.p.relocs[i].target);
			memcpy(m.p.data + m.p.relocs[i].at, &address, sizeof address);
		}
		memset(m.results, 0, h->step_count * sizeof m.results[0]);
		run_steps();
		if (m.role != 0)
			_exit(0);
		m.done.result_count = h->step_count;
		m.done.out_len = h->out_len;
		report(&m.done, (struct iovec){ m.results, h->step_count * sizeof m.results[0] },
		       (struct iovec){ m.p.data + h->out_off, h->out_len }, m.keep_fd, m.done.keep_count);
		if (!h->park)
			_exit(0);
		for (uint32_t i = 0; i < m.done.keep_count; i++)
			close(m.keep_fd[i]);
		for (uint32_t i = 0; i < h->import_count; i++)
			close(m.imports[i]);
	}
}
