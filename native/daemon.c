/* SPDX-License-Identifier: Apache-2.0
 * syscalld: one per instance. Holds what must outlive vserverd (processes, clients, log pipes), runs programs in forked
 * workers, starts and restarts vserverd. It decides nothing: every object is made by a program or a client.
 */
#include "daemon.h"
#include "machine.h"
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/sendfile.h>

struct daemon d = { .epoll = -1, .control = -1, .listener = -1 };

_Noreturn void die(const char *what)
{
	dprintf(2, "vserver: cannot %s: %s\n", what, strerror(errno));
	exit(125);
}

/* Frames to vserverd: queued, so that a busy vserverd never blocks us. */
static uint8_t *out;
static size_t out_len, out_cap, out_sent;

static void control_flush(void)
{
	while (d.control >= 0 && out_sent < out_len) {
		ssize_t n = send(d.control, out + out_sent, out_len - out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n <= 0)
			break;
		out_sent += (size_t)n;
	}
	if (out_sent == out_len) {
		out_sent = out_len = 0;
		if (out_cap > 256 * 1024)
			free(out), out = NULL, out_cap = 0;
	}
	static bool polled;
	struct epoll_event ev = { .events = EPOLLIN | (out_len ? EPOLLOUT : 0u), .data.u64 = SOURCE_CONTROL };
	if (d.control >= 0 && (polled || out_len) && epoll_ctl(d.epoll, EPOLL_CTL_MOD, d.control, &ev) == 0)
		polled = out_len > 0;
}

static void append(const void *bytes, size_t len)
{
	if (out_len + len > out_cap && out_sent) {
		memmove(out, out + out_sent, out_len -= out_sent);
		out_sent = 0;
	}
	if (out_len + len > out_cap) {
		out_cap = (out_len + len) * 2 + 4096;
		uint8_t *bigger = realloc(out, out_cap);
		if (!bigger)
			die("grow the queue to vserverd");
		out = bigger;
	}
	memcpy(out + out_len, bytes, len);
	out_len += len;
}

/* Sends one frame up; each part is {pointer, length}. Lost when vserverd is not there: it asks for the snapshot. */
static void up(uint32_t type, uint64_t id, const struct iovec *parts, int count)
{
	struct frame f = { .type = type, .id = id };
	if (d.control < 0 || !d.ready)
		return;
	for (int i = 0; i < count; i++)
		f.len += (uint32_t)parts[i].iov_len;
	append(&f, sizeof f);
	for (int i = 0; i < count; i++)
		append(parts[i].iov_base, parts[i].iov_len);
	control_flush();
}

/* The same with one part, of 32-bit integers. */
#define up_ints(type, id, ...) \
	up(type, id, &(struct iovec){ (int32_t[]){ __VA_ARGS__ }, sizeof((int32_t[]){ __VA_ARGS__ }) }, 1)

/* By id: a few thousand objects on a busy host. */
#define BUCKETS 4096
static struct object *table[BUCKETS];

/* Where the pointer to an object is, or would be. */
static struct object **place_of(uint32_t id)
{
	struct object **at = &table[id % BUCKETS];
	while (*at && (*at)->id != id)
		at = &(*at)->next;
	return at;
}

struct object *object_find(uint32_t id)
{
	return *place_of(id);
}

void watch(uint64_t source, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = source };
	if (epoll_ctl(d.epoll, EPOLL_CTL_ADD, fd, &ev))
		die("watch a file descriptor");
}

/* By hand, as closing is not enough: a worker may still hold the same open file, and its events would go on. */
#define unwatch(fd) epoll_ctl(d.epoll, EPOLL_CTL_DEL, fd, NULL)

void watched_close(int *fd)
{
	if (*fd >= 0) {
		unwatch(*fd);
		close(*fd);
	}
	*fd = -1;
}

struct object *object_add(uint32_t id, uint32_t kind, int fd)
{
	struct object *o = object_find(id);
	if (o)
		object_drop(o);
	if (!(o = malloc(sizeof *o)))
		die("make an object");
	*o = (struct object){ .id = id, .kind = kind, .fd = fd, .stdio = { -1, -1, -1 } };
	return *place_of(id) = o;
}

/* Gives an object the id its owner knows it by. */
static void object_rename(struct object *o, uint32_t id)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = id };
	struct object *older = object_find(id);
	if (older)
		object_drop(older);
	*place_of(o->id) = o->next;
	o->id = id;
	o->next = NULL;
	*place_of(id) = o;
	epoll_ctl(d.epoll, EPOLL_CTL_MOD, o->fd, &ev);
}

void object_drop(struct object *o)
{
	*place_of(o->id) = o->next;
	if (o->kind == OBJECT_LOG)
		log_free(o);
	if (o->kind == OBJECT_WORKER)
		free(o->reply);
	watched_close(&o->fd);
	for (int i = 0; i < 3; i++)
		watched_close(&o->stdio[i]);
	free(o);
}

static uint32_t own_id(void)
{
	static uint32_t next = FIRST_OWN_ID;
	while (object_find(next | FIRST_OWN_ID))
		next++;
	return next++ | FIRST_OWN_ID;
}

/* Killed children of ours that are not waited for: one may hang in the kernel (in a guest's FUSE, say). */
static pid_t dying[1024];
static size_t dying_count;

static void reap_later(pid_t pid)
{
	if (dying_count < sizeof dying / sizeof *dying)
		dying[dying_count++] = pid; /* more than these stay zombies */
}

static void reap(void)
{
	for (size_t i = dying_count; i-- > 0;)
		if (waitpid(dying[i], NULL, WNOHANG) != 0)
			dying[i] = dying[--dying_count];
}

static void client_close(struct object *c)
{
	up(UP_CLIENT_CLOSE, c->id, NULL, 0);
	object_drop(c);
}

static void client_exit(struct object *c, int32_t code)
{
	int32_t message[2] = { CLIENT_EXIT, code };
	message_send(c->fd, &(struct iovec){ message, sizeof message }, 1, NULL, MSG_DONTWAIT);
	client_close(c);
}

static bool running(const struct object *o)
{
	return o && o->kind == OBJECT_PROCESS && !o->exited;
}

static void process_tell(struct object *o)
{
	up_ints(o->exited ? UP_EXIT : UP_ENDING, o->id, o->status);
	struct object *c = o->bound ? object_find(o->bound) : NULL;
	if (c && c->kind == OBJECT_CLIENT)
		client_exit(c, exit_code(o->status));
}

static void process_reap(struct object *o)
{
	siginfo_t info = { 0 };
	if (waitid(P_PIDFD, (id_t)o->fd, &info, WEXITED | WNOHANG) == 0 && info.si_pid == 0)
		return;
	unwatch(o->fd);
	o->exited = true;
	o->status = info.si_pid == 0 ? -1 : info.si_code == CLD_EXITED ? (info.si_status & 0xff) << 8 : info.si_status & 0x7f;
	if (o->discard)
		object_drop(o);
	else if (!o->run)
		process_tell(o);
}

/* A run that failed leaves nothing: what it kept is dropped, what it spawned is killed. */
static void run_finish(struct object *w, int32_t error)
{
	const struct worker_note *done = (const struct worker_note *)w->reply;
	uint32_t head[4] = { w->fail_step, (uint32_t)error, 0, error || !done ? 0 : done->result_count };
	struct iovec parts[2] = { { head, sizeof head } };
	if (!error && done)
		parts[1] = (struct iovec){ w->reply + sizeof *done, w->reply_len - sizeof *done };
	up(UP_DONE, w->run, parts, error || !done ? 1 : 2);
	for (uint32_t i = 0; error && done && i < done->keep_count; i++) {
		struct object *o = object_find(done->keep_object[i]);
		if (o && o != w)
			object_drop(o);
	}
	free(w->reply);
	w->reply = NULL;
	w->run = 0;
	for (uint32_t i = 0; i < w->spawned_count; i++) {
		struct object *o = object_find(w->spawned[i]);
		if (!o || o->kind != OBJECT_PROCESS)
			continue;
		o->run = 0;
		o->discard |= error != 0;
		if (error)
			syscall(SYS_pidfd_send_signal, o->fd, SIGKILL, NULL, 0);
		if (o->exited && o->discard)
			object_drop(o);
		else if (o->exited)
			process_tell(o);
	}
	w->spawned_count = 0;
}

static struct rlimit files_limit; /* as we got it: our own is higher */

static int nursery = -1;
static pid_t nursery_pid;

/* Workers are forked by a process that has next to nothing to copy and to close: a fork of our own would take the longer
 * the more objects there are, and leave each child a copy of what we write to later. They are our children all the same. */
static void nursery_start(void)
{
	int pair[2];
	watched_close(&nursery);
	if (nursery_pid)
		reap_later(nursery_pid);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) || (nursery_pid = fork()) < 0)
		die("fork");
	nursery = pair[0];
	if (nursery_pid) {
		close(pair[1]);
		return;
	}
	title_set("nursery");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup3(pair[1], 3, O_CLOEXEC); /* or it is 3: what is below is taken */
	syscall(SYS_close_range, 4, ~0U, 0);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0 || close(null) || setrlimit(RLIMIT_NOFILE, &files_limit))
		_exit(127);
	for (struct fds fds; message_receive(3, &nursery_pid, sizeof nursery_pid, &fds, 0) > 0; fds_close(&fds)) {
		struct clone_args args = { .flags = CLONE_PARENT };
		nursery_pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
		if (nursery_pid == 0) {
			title_set("worker");
			dup3(fds.fd[0], 3, O_CLOEXEC);
			syscall(SYS_close_range, 4, ~0U, 0); /* nothing is open in a worker but its socket */
			worker_main(3);
		}
		message_send(3, &(struct iovec){ &nursery_pid, sizeof nursery_pid }, 1, NULL, 0);
	}
	_exit(0);
}

static struct object *worker_fork(void)
{
	int pair[2];
	pid_t pid = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return NULL;
	int big = 2 * (int)PROGRAM_MAX;
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
	if (message_send(nursery, &(struct iovec){ &pid, sizeof pid }, 1, &(struct fds){ { pair[1] }, 1 }, 0) < 0 ||
	    message_receive(nursery, &pid, sizeof pid, &(struct fds){ 0 }, 0) != sizeof pid)
		nursery_start(); /* somebody killed it: the next one is there for the next call */
	close(pair[1]);
	if (pid < 0)
		return close(pair[0]), NULL;
	struct object *w = object_add(own_id(), OBJECT_WORKER, pair[0]);
	w->pid = pid;
	watch(w->id, w->fd);
	return w;
}

static void worker_end(struct object *w)
{
	if (w->pid) /* else somebody's child, which goes on: a guest's process 1 */
		kill(w->pid, SIGKILL);
	if (w->run)
		run_finish(w, w->fail_error ? w->fail_error : w->reply || !w->pid ? 0 : EIO);
	if (w->pid)
		reap_later(w->pid);
	object_drop(w);
}

/* A parked worker, in which nothing was left but descriptors, becomes as good as a new one; false: there are enough. */
static bool worker_free(struct object *w)
{
	if (w->run || w->fail_error || !w->pid || d.spare_end - d.spare_first == SPARES_MAX || send(w->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return false;
	object_rename(w, own_id());
	w->before = w->serial;
	d.spares[d.spare_end++ % SPARES_MAX] = w->id;
	return true;
}

static void worker_spawned(struct object *w, const struct worker_note *note, int pidfd)
{
	struct object *p = object_add(note->object, OBJECT_PROCESS, pidfd);
	p->pid = note->pid;
	p->run = w->run;
	watch(p->id, p->fd);
	if (w->spawned_count < SPAWNS_MAX) /* the machine refuses more */
		w->spawned[w->spawned_count++] = p->id;
}

static void worker_done(struct object *w, const struct worker_note *note, size_t len, const struct fds *fds)
{
	for (uint32_t i = 0; i < fds->count; i++) {
		int32_t pid = note->keep_pid[i];
		uint32_t kind = pid > 0 ? OBJECT_PROCESS : pid ? OBJECT_WORKER : OBJECT_FD;
		struct object *o = object_add(note->keep_object[i], kind, fds->fd[i]);
		o->pid = pid > 0 ? pid : 0;
		if (pid)
			watch(o->id, o->fd);
	}
	w->reply = malloc(len);
	if (!w->reply)
		die("keep the results of a program");
	w->reply_len = len;
	memcpy(w->reply, note, len);
	if (w->park && w->fail_error) /* a child of it failed before it was done */
		worker_end(w);
	else if (w->park)
		run_finish(w, 0);
}

static bool worker_read(struct object *w)
{
	static _Alignas(8) uint8_t buf[sizeof(struct worker_note) + STEPS_MAX * 8 + PROGRAM_MAX];
	struct worker_note *note = (struct worker_note *)buf;
	struct object *o;
	struct fds fds;
	ssize_t n = message_receive(w->fd, buf, sizeof buf, &fds, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0 || !note_check(note, (size_t)n, fds.count) || (note->kind == WORKER_DONE && w->reply)) {
		fds_close(&fds);
		worker_end(w);
	} else if (note->kind == WORKER_SPAWNED) {
		worker_spawned(w, note, fds.fd[0]);
	} else if (note->kind == WORKER_DONE) {
		worker_done(w, note, (size_t)n, &fds);
	} else if (note->kind == WORKER_FAILED && note->role && (!w->run || note->serial != w->serial)) {
		up_ints(UP_CHILD_FAILED, w->id, (int32_t)(note->serial - w->before), (int32_t)note->step, note->error);
	} else if (note->kind == WORKER_FAILED && !w->fail_error) {
		w->fail_step = note->step;
		w->fail_error = note->error;
	} else if (note->kind == WORKER_ENDED && running(o = object_find(note->object))) {
		o->ending = true, o->status = note->error;
		process_tell(o);
	}
	return true;
}

static struct object *worker_take(void)
{
	struct object *w = NULL;
	while (!w && d.spare_first != d.spare_end)
		w = object_find(d.spares[d.spare_first++ % SPARES_MAX]);
	return w || (w = worker_fork()) ? w : worker_fork(); /* again: somebody may have killed the first nursery */
}

static bool imports_find(const struct run_request *r, struct fds *fds)
{
	fds->count = r->import_count;
	for (uint32_t i = 0; i < r->import_count; i++) {
		struct object *o = object_find(r->import[i].object);
		uint32_t which = r->import[i].which;
		if (!o || which > CLIENT_SOCKET)
			return false;
		fds->fd[i] = o->kind == OBJECT_CLIENT && which < CLIENT_SOCKET ? o->stdio[which] : o->fd;
		if (fds->fd[i] < 0)
			return false;
	}
	return true;
}

static void run(uint64_t id, const uint8_t *body, size_t len)
{
	struct run_request r;
	struct fds fds;
	struct object *w = NULL;
	int error = 0;
	if (!run_parse(body, len, &r))
		error = EBADMSG;
	else if (!imports_find(&r, &fds))
		error = EBADF;
	else if (!(w = r.worker ? object_find(r.worker) : worker_take()))
		error = r.worker ? ESRCH : EAGAIN;
	else if (w->kind != OBJECT_WORKER)
		error = ESRCH;
	else if (w->run)
		error = EBUSY;
	if (error) {
		up_ints(UP_DONE, id, -1, error, 0, 0);
		return;
	}
	if (r.park && r.park != w->id)
		object_rename(w, r.park);
	w->run = id;
	w->park = r.park;
	w->serial++;
	if (message_send(w->fd, &(struct iovec){ (void *)r.program, r.program_len }, 1, &fds, MSG_DONTWAIT) < 0) {
		w->fail_error = errno;
		worker_end(w);
	}
}

static void client_accept(void)
{
	int fd = accept4(d.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;
	socklen_t len = sizeof peer;
	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) || peer.uid != 0) {
		close(fd);
		return;
	}
	struct object *c = object_add(own_id(), OBJECT_CLIENT, fd);
	c->pid = peer.pid;
	watch(c->id, c->fd);
}

/* Returns false if the client is too slow to take it. */
static bool client_write(struct object *c, const uint8_t *body, size_t len)
{
	static const uint32_t type = CLIENT_OUT;
	struct iovec parts[2] = { { (void *)&type, 4 }, { (void *)body, len } };
	return message_send(c->fd, parts, 2, NULL, MSG_DONTWAIT) >= 0;
}

/* For the client that vserverd was serving when it ended. */
static void client_disappoint(struct object *c)
{
	static const struct { uint32_t fd; char text[96]; } sorry = {
		2, "vserver: cannot finish the command: found the control plane restarting; try again\n"
	};
	client_write(c, (const uint8_t *)&sorry, sizeof sorry.fd + strlen(sorry.text));
	client_exit(c, 125);
}

static void client_hello(struct object *c, const struct client_request *r, struct fds *fds)
{
	if (c->stdio[0] >= 0) {
		fds_close(fds);
		client_close(c);
		return;
	}
	memcpy(c->stdio, fds->fd, sizeof c->stdio);
	if (!d.ready || d.stopping) {
		client_exit(c, EXIT_AGAIN);
		return;
	}
	struct iovec parts[2] = { { &c->pid, sizeof c->pid }, { (void *)r->hello, r->hello_len } };
	up(UP_CLIENT_OPEN, c->id, parts, 2);
}

static void client_detach(struct object *c, int master)
{
	struct object *o = object_add(own_id(), OBJECT_FD, master);
	fcntl(master, F_SETFL, fcntl(master, F_GETFL) | O_NONBLOCK);
	up_ints(UP_CLIENT_DETACH, c->id, o->id);
}

static void client_read(struct object *c)
{
	static uint8_t buf[CLIENT_MESSAGE_MAX];
	struct client_request r;
	struct fds fds;
	ssize_t n = message_receive(c->fd, buf, sizeof buf, &fds, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0 || !client_parse(buf, (size_t)n, fds.count, &r)) {
		fds_close(&fds);
		client_close(c);
		return;
	}
	struct object *process = c->bound ? object_find(c->bound) : NULL;
	if (r.type == CLIENT_HELLO)
		client_hello(c, &r, &fds);
	else if (r.type == CLIENT_DETACH)
		client_detach(c, fds.fd[0]);
	else if (r.type == CLIENT_ACK)
		up(UP_CLIENT_ACK, c->id, NULL, 0);
	else if (process)
		syscall(SYS_pidfd_send_signal, process->fd, r.value, NULL, 0);
	else {
		if (r.value > 0 && r.value < 64)
			c->signals |= 1ull << r.value;
		up_ints(UP_CLIENT_SIGNAL, c->id, r.value);
	}
}

#define BACKOFF_MAX_MS 5000

static pid_t vserverd_pid;
static int64_t started_ms, backoff_ms;
static const char *vserverd_path, *root_path;

int64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* stderr, vserverd's and once it is ready ours too: not the terminal or pipe of the client that started us. */
static void log_here(void)
{
	int log = open("vserverd.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (log >= 0)
		dup2(log, 2);
	close(log);
}

static void vserverd_start(void)
{
	int pair[2] = { -1, -1 };
	pid_t pid = -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0)
		pid = fork();
	started_ms = now_ms();
	if (pid < 0) { /* the guests live on; we try again */
		watched_close(&pair[0]);
		watched_close(&pair[1]);
		started_ms += BACKOFF_MAX_MS;
		return;
	}
	if (pid == 0) {
		int control = fcntl(pair[1], F_DUPFD, 3);
		dup2(control, 3);
		dup2(open("/dev/null", O_RDWR), 0);
		log_here();
		dup2(2, 1);
		syscall(SYS_close_range, 4, ~0U, 0);
		setrlimit(RLIMIT_NOFILE, &files_limit);
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		execl(vserverd_path, "vserverd", root_path, (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	vserverd_pid = pid;
	d.control = pair[0];
	d.ready = false;
	watch(SOURCE_CONTROL, d.control);
}

/* The first object that vserverd's end ends too: a client it was serving (those bound to a process go on without it),
 * or a worker with a run whose outcome nobody waits for. */
static struct object *dependent_find(void)
{
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct object *o = table[i]; o; o = o->next)
			if ((o->kind == OBJECT_CLIENT && !o->bound && o->stdio[0] >= 0) || (o->kind == OBJECT_WORKER && o->run))
				return o;
	return NULL;
}

static void vserverd_ended(void)
{
	kill(vserverd_pid, SIGKILL);
	reap_later(vserverd_pid);
	watched_close(&d.control);
	out_sent = out_len = 0;
	if (d.stopping || (!d.ready && d.listener < 0)) /* asked to stop, or never came up */
		exit(d.stopping ? 0 : 125);
	if (d.ready)
		unwatch(d.listener); /* who comes now waits there */
	d.ready = false;
	for (struct object *o; (o = dependent_find());)
		o->kind == OBJECT_WORKER ? worker_end(o) : client_disappoint(o);
	/* At once if it had run for a while, else later and later. */
	int64_t ended_ms = now_ms(), longer_ms = backoff_ms < BACKOFF_MAX_MS / 2 ? backoff_ms * 2 : BACKOFF_MAX_MS;
	backoff_ms = ended_ms - started_ms > 10000 ? 0 : backoff_ms ? longer_ms : 50;
	started_ms = ended_ms + backoff_ms;
}

static void listen_for_clients(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX, .sun_path = "syscalld.sock" };
	d.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(at.sun_path);
	if (d.listener < 0 || bind(d.listener, (struct sockaddr *)&at, sizeof at) || chmod(at.sun_path, 0600) ||
	    listen(d.listener, 512))
		die("listen on syscalld.sock");
	log_here();
}

static void snapshot(void)
{
	bool serving = d.ready;
	d.ready = true;
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct object *o = table[i]; o; o = o->next)
			if (o->kind != OBJECT_WORKER || o->id < FIRST_OWN_ID)
				up_ints(UP_OBJECT, o->id, o->kind, o->pid, o->exited, o->exited ? o->status : 0);
	up_ints(UP_SNAPSHOT_END, 0, getpid());
	if (d.listener < 0)
		listen_for_clients();
	if (!serving)
		watch(SOURCE_LISTENER, d.listener);
}

static void bind_client(struct object *c, uint32_t process_id)
{
	struct object *process = object_find(process_id);
	if (!process || process->kind != OBJECT_PROCESS)
		return;
	c->bound = process_id;
	process->bound = c->id;
	for (int sig = 1; sig < 64; sig++) /* the command may have run for a moment already */
		if (c->signals >> sig & 1)
			syscall(SYS_pidfd_send_signal, process->fd, sig, NULL, 0);
	if (process->exited || process->ending)
		client_exit(c, exit_code(process->status));
}

static void handle(const struct frame *f, const uint8_t *body)
{
	struct object *o = object_find((uint32_t)f->id);
	int32_t value = 0;
	if (f->len >= 4)
		memcpy(&value, body, 4);
	struct object *client = o && o->kind == OBJECT_CLIENT ? o : NULL, *process = running(o) ? o : NULL;
	if (f->type == DOWN_RUN)
		run(f->id, body, f->len);
	else if (o && o->kind == OBJECT_WORKER && (f->type == DOWN_DROP || (f->type == DOWN_FREE && !worker_free(o))))
		worker_end(o);
	else if (f->type == DOWN_DROP && process)
		process->discard = true; /* still to be reaped */
	else if (f->type == DOWN_DROP && o)
		object_drop(o);
	else if (f->type == DOWN_SIGNAL && process)
		syscall(SYS_pidfd_send_signal, process->fd, value, NULL, 0);
	else if (f->type == DOWN_CLIENT_OUT && !client)
		up(UP_CLIENT_ACK, f->id, NULL, 0);
	else if (f->type == DOWN_CLIENT_OUT && !client_write(client, body, f->len))
		client_close(client); /* vserverd waits for the acknowledgement of each piece: the client has gone wrong */
	else if (f->type == DOWN_CLIENT_EXIT && client)
		client_exit(client, value);
	else if (f->type == DOWN_BIND && client)
		bind_client(client, (uint32_t)value);
	else if (f->type == DOWN_LOG)
		log_open((uint32_t)f->id, body, f->len);
	else if (f->type == DOWN_READY)
		snapshot();
	else if (f->type == DOWN_SHUTDOWN) {
		d.stopping = true;
		watched_close(&d.listener); /* who comes now starts the next one */
		unlink("syscalld.sock");
	}
}

/* Frames are handled where they lie in the receive buffer; what is incomplete moves to its front. */
static void control_read(void)
{
	static uint8_t in[FRAME_MAX + 64 * 1024]; /* one of any length, and some more */
	static size_t have;
	ssize_t n = recv(d.control, in + have, sizeof in - have, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	have += n > 0 ? (size_t)n : 0;
	size_t at = 0;
	struct frame f;
	enum frame_state state;
	for (; (state = frame_parse(in + at, have - at, &f)) == FRAME_COMPLETE; at += sizeof f + f.len)
		handle(&f, in + at + sizeof f);
	memmove(in, in + at, have -= at);
	if (n <= 0 || state == FRAME_TOO_LONG) {
		have = 0;
		vserverd_ended();
	}
}

static void dispatch(const struct epoll_event *ev)
{
	if (ev->data.u64 == SOURCE_CONTROL) {
		if (ev->events & EPOLLOUT)
			control_flush();
		if (ev->events & ~(uint32_t)EPOLLOUT)
			control_read();
	} else if (ev->data.u64 == SOURCE_LISTENER) {
		client_accept();
	} else {
		struct object *o = object_find((uint32_t)ev->data.u64);
		if (!o)
			return;
		if (o->kind == OBJECT_PROCESS)
			process_reap(o);
		else if (o->kind == OBJECT_WORKER) /* all: a child's failure is told before its end */
			while (object_find((uint32_t)ev->data.u64) && worker_read(o))
				;
		else if (o->kind == OBJECT_CLIENT)
			client_read(o);
		else if (o->kind == OBJECT_LOG)
			log_read(o, ev->data.u64 & SOURCE_LOG_STDERR ? 2 : 1);
	}
}

static void loop(void)
{
	struct epoll_event events[64];
	for (;;) {
		int wait_ms = d.control < 0 || dying_count || d.spare_first == d.spare_end ? POLL_MS : log_tick() ? LOG_TICK_MS : -1;
		int n = epoll_wait(d.epoll, events, 64, wait_ms);
		for (int i = 0; i < n; i++)
			dispatch(&events[i]);
		/* A worker waits before it is needed: forked in a lull, it is in no operation's way. */
		struct object *spare = n == 0 && d.spare_first == d.spare_end ? worker_fork() : NULL;
		if (spare)
			d.spares[d.spare_end++ % SPARES_MAX] = spare->id;
		reap();
		log_tick();
		if (d.control < 0 && started_ms <= now_ms())
			vserverd_start();
	}
}

/* Runs from a sealed copy of ourselves in memory: what a guest could find of us through /proc is no file of the host
 * (CVE-2019-5736), and an upgrade may replace the file on disk. */
static void run_sealed(char **argv)
{
	if (fcntl(STDIN_FILENO, F_GET_SEALS) == SEALS)
		return;
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int copy = memfd_create("vserver", MFD_ALLOW_SEALING | MFD_CLOEXEC | 0x10U /* MFD_EXEC */);
	if (copy < 0 && errno == EINVAL) /* before Linux 6.3 */
		copy = memfd_create("vserver", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	struct stat st;
	if (self < 0 || copy < 0 || fstat(self, &st))
		die("copy our own program");
	for (off_t left = st.st_size; left > 0;) {
		ssize_t n = sendfile(copy, self, NULL, (size_t)left);
		if (n <= 0)
			die("copy our own program");
		left -= n;
	}
	if (fcntl(copy, F_ADD_SEALS, SEALS) || dup2(copy, STDIN_FILENO) < 0)
		die("seal our own program");
	char *env[] = { NULL };
	fexecve(STDIN_FILENO, argv, env);
	die("run our own program");
}

int daemon_main(char **argv)
{
	run_sealed(argv);
	const char *run_dir = argv[1];
	root_path = argv[2];
	vserverd_path = argv[3];
	umask(077);
	sigprocmask(SIG_SETMASK, &(sigset_t){ 0 }, NULL); /* the client that started us had blocked some */
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, sig == SIGPIPE || sig == SIGHUP ? SIG_IGN : SIG_DFL);
	getrlimit(RLIMIT_NOFILE, &files_limit);
	if (setrlimit(RLIMIT_NOFILE, &(struct rlimit){ FILES_MAX, FILES_MAX })) /* not allowed everywhere */
		setrlimit(RLIMIT_NOFILE, &(struct rlimit){ files_limit.rlim_max, files_limit.rlim_max });
	if (chdir(run_dir))
		die("enter the run directory");
	int waited_ms = 0, lock = open("syscalld.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock < 0)
		die("open syscalld.lock");
	while (flock(lock, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK)
			die("lock syscalld.lock");
		if (access("syscalld.sock", F_OK) == 0 || (waited_ms += POLL_MS) > AGAIN_MS)
			return 0; /* another one listens, or will, or whoever still wants one has started the next */
		poll(NULL, 0, POLL_MS); /* another one is coming up, or ending */
	}
	nursery_start();
	d.epoll = epoll_create1(EPOLL_CLOEXEC);
	vserverd_start();
	loop();
	return 0;
}
