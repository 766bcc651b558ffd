/* SPDX-License-Identifier: Apache-2.0
 * The syscall machine: executes a flat list of system calls. It knows no policy and parses no text; what a program
 * means is decided by the TypeScript that compiled it (src/sys/program.ts).
 */
#include "machine.h"

static struct {
	struct program p;
	int sock;                        /* reports go here; closed by exec (CLOEXEC) */
	uint32_t role;                   /* 0 worker, 1 child of it */
	uint32_t serial;                 /* of the program among those this worker got */
	uint32_t spawned;
	struct fds keep;
	struct worker_note done;         /* WORKER_DONE, filled by OP_KEEP */
} m;

static _Alignas(4096) uint8_t message[PROGRAM_MAX]; /* the program that runs */
static char *title;
static size_t title_len;

void title_init(int argc, char **argv)
{
	title = argv[0];
	title_len = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]) + 1;
}

void title_set(const char *name)
{
	strncpy(title, name, title_len - 1); /* fills with zeros */
	prctl(PR_SET_NAME, name);
}

static bool report(struct worker_note *note, struct iovec results, struct iovec slice, const struct fds *fds)
{
	note->serial = m.serial;
	return message_send(m.sock, (struct iovec[]){ { note, sizeof *note }, results, slice }, 3, fds, 0) >= 0;
}

static _Noreturn void fail(uint32_t step, int error)
{
	struct worker_note note = { .kind = WORKER_FAILED, .step = step, .error = error, .role = m.role };
	report(&note, (struct iovec){ 0 }, (struct iovec){ 0 }, NULL);
	_exit(1);
}

/* clone3. A worker's child becomes a child of syscalld (CLONE_PARENT), which learns its pidfd at once, so that no exit
 * is lost whatever happens to the worker. A child's child is an ordinary one. Returns 0 in the child. */
static int64_t spawn(uint64_t flags, int64_t cgroup, uint32_t object)
{
	int pidfd = -1;
	struct clone_args args = { .flags = flags };
	if (m.role == 0 && m.spawned == SPAWNS_MAX)
		return -E2BIG;
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
		struct worker_note note = { .kind = WORKER_SPAWNED, .object = object, .pid = (int32_t)pid };
		bool told = report(&note, (struct iovec){ 0 }, (struct iovec){ 0 }, &(struct fds){ { pidfd }, 1 });
		close(pidfd);
		m.spawned++;
		if (!told) {
			kill((pid_t)pid, SIGKILL);
			return -EIO;
		}
	}
	return pid;
}

/* The guest's init when it has none of its own: reaps orphans, passes signals on to the guest's command, and ends with
 * its status; the kernel then ends everything else in the pid namespace (pid_namespaces(7)). That takes a while: who has
 * the other end of socket `tell` hears of it before. */
static _Noreturn void fakeinit(pid_t command, int tell, uint32_t object)
{
	sigset_t all;
	memset(&all, 0xff, sizeof all); /* sigfillset leaves out what a libc wants for itself */
	sigprocmask(SIG_SETMASK, &all, NULL); /* blocked signals reach pid 1 even without a handler: signal.c sig_ignored() */
	title_set("init");
	madvise(message, sizeof message, MADV_DONTNEED); /* a thousand guests have a thousand of these */
	m.sock = dup2(tell, 0);
	syscall(SYS_close_range, m.sock + 1, ~0U, 0);
	for (int sig = 0;; sig = sigwaitinfo(&all, NULL)) {
		if (sig > 0 && sig != SIGCHLD)
			kill(command, sig);
		struct worker_note ended = { .kind = WORKER_ENDED, .object = object };
		pid_t pid; /* looked for before the first wait: a SIGCHLD from before the mask was set is lost */
		while ((pid = waitpid(-1, &ended.error, WNOHANG)) > 0)
			if (pid == command) {
				report(&ended, (struct iovec){ 0 }, (struct iovec){ 0 }, NULL);
				_exit(exit_code(ended.error));
			}
	}
}

static int64_t keep(const struct step *s)
{
	uint32_t i = m.keep.count;
	if (i == KEEPS_MAX || m.role != 0)
		return -E2BIG;
	m.keep.fd[i] = (int)program_value(&m.p, s, 0);
	m.done.keep_object[i] = (uint32_t)program_value(&m.p, s, 1);
	m.done.keep_pid[i] = (int32_t)program_value(&m.p, s, 2);
	m.done.keep_count = ++m.keep.count;
	return 0;
}

static _Noreturn void serve(int sock);
static void run_steps(void);

/* Answers for others: the descriptors that come over `control` are import 0 of the handler, a program, which runs
 * whenever one is readable. Ends when nobody has the other end of any of them nor of `control`. */
static _Noreturn void broker(int control, const void *handler, size_t len)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = control };
	struct fds fds;
	int epoll = epoll_create1(EPOLL_CLOEXEC), count = 1;
	title_set("broker");
	memmove(message, handler, len);
	madvise(message + len + -len % 4096, sizeof message - len - -len % 4096, MADV_DONTNEED); /* the worker's */
	if (len > HANDLER_MAX || program_decode(message, len, &m.p) || m.p.header->import_count != 1 ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, control, &ev))
		_exit(1);
	for (;;) {
		if (epoll_wait(epoll, &ev, 1, -1) < 1)
			continue;
		int fd = m.p.imports.fd[0] = ev.data.fd;
		if (fd != control && ev.events & EPOLLIN) {
			program_begin(&m.p);
			run_steps();
		} else if (fd == control && message_receive(control, &ev, sizeof ev, &fds, 0) > 0) {
			for (uint32_t i = 0; i < fds.count; i++, count++) {
				ev = (struct epoll_event){ .events = EPOLLIN, .data.fd = fds.fd[i] };
				epoll_ctl(epoll, EPOLL_CTL_ADD, fds.fd[i], &ev);
			}
		} else {
			epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
			close(fd);
			if (--count == 0)
				_exit(0);
		}
	}
}

static int64_t execute(const struct step *s)
{
	uint64_t a[6];
	int64_t result;
	if (program_compute(&m.p, s, &result))
		return result;
	for (int i = 0; i < 6; i++)
		a[i] = program_value(&m.p, s, i);
	switch (s->op) {
	case OP_SYSCALL:
		result = syscall(s->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
		return result == -1 ? -errno : result;
	case OP_SPAWN:
		return spawn(a[0], (int64_t)a[1], (uint32_t)a[2]);
	case OP_KEEP:
		return keep(s);
	case OP_EXIT:
		_exit((int)a[0]);
	case OP_FAKEINIT:
		fakeinit((pid_t)a[0], (int)a[1], (uint32_t)a[2]);
	case OP_REMOVE_TREE:
		return -tree_remove((int)a[0]);
	case OP_BROKER:
		broker((int)a[0], (void *)(uintptr_t)a[1], s->arg[1] >> 32);
	case OP_RELAY:
		relay_main((int)a[0], (int)a[1]);
	case OP_TAKE_PROGRAM:
		close(m.sock); /* from now on a worker of its own, still with a child's role */
		serve((int)a[0]);
	default:
		return -ENOSYS;
	}
}

/* Runs the steps of a decoded program from its first one. Returns when the last one is done. */
static void run_steps(void)
{
	for (uint32_t i = 0; i < m.p.header->step_count;) {
		int64_t result = execute(&m.p.steps[i]);
		m.p.results[i] = result;
		uint32_t next = program_next(&m.p, i, result);
		if (next == PROGRAM_FAILED)
			fail(i, (int)-result);
		i = next;
	}
}

/* Runs the programs that come from `sock`, until one does not park. */
static _Noreturn void serve(int sock)
{
	m.sock = sock, m.serial = 0;
	for (;;) {
		ssize_t n = message_receive(sock, message, sizeof message, &m.p.imports, 0);
		if (n <= 0)
			_exit(0);
		if (n == 1) { /* from now on for others: nothing is open but its socket, and nothing left of what it ran */
			syscall(SYS_close_range, sock + 1, ~0U, 0);
			madvise(message, sizeof message, MADV_DONTNEED);
			continue;
		}
		m.serial++;
		m.spawned = m.keep.count = 0;
		m.done = (struct worker_note){ .kind = WORKER_DONE };
		if (program_decode(message, (size_t)n, &m.p) || m.p.header->import_count != m.p.imports.count)
			fail(0, EBADMSG);
		const struct program_header *h = m.p.header;
		program_begin(&m.p);
		run_steps();
		if (m.role != 0)
			_exit(0);
		m.done.result_count = h->step_count;
		m.done.out_len = h->out_len;
		report(&m.done, (struct iovec){ m.p.results, h->step_count * sizeof m.p.results[0] },
		       (struct iovec){ m.p.data + h->out_off, h->out_len }, &m.keep);
		if (!h->park)
			_exit(0);
		fds_close(&m.keep);
		fds_close(&m.p.imports);
	}
}

_Noreturn void worker_main(int sock)
{
	/* Not dumpable: a guest that meets this process in its pid namespace can open none of its files and memory. */
	prctl(PR_SET_DUMPABLE, 0);
	signal(SIGPIPE, SIG_DFL); /* what syscalld ignores */
	signal(SIGHUP, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* an unused or half-done worker is worth nothing without syscalld */
	serve(sock);
}
