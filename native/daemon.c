/* SPDX-License-Identifier: Apache-2.0
 *
 * syscalld: one per instance. Holds what must outlive vserverd (processes, clients, log pipes), runs programs in forked
 * workers, starts and restarts vserverd. It decides nothing: every object is made by a program or a client.
 */
#define _GNU_SOURCE
#include "daemon.h"
#include "machine.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sendfile.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

struct daemon d = { .epoll = -1, .control = -1, .listener = -1 };

_Noreturn void die(const char *what)
{
	dprintf(2, "vserver: cannot %s: %s\n", what, strerror(errno));
	exit(125);
}

/* ---- frames to vserverd: queued, so that a busy vserverd never blocks us ---- */

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
		if (out_cap > 256 * 1024) {
			free(out);
			out = NULL;
			out_cap = 0;
		}
	}
	struct epoll_event ev = { .events = EPOLLIN | (out_len ? EPOLLOUT : 0u), .data.u64 = SOURCE_CONTROL };
	if (d.control >= 0)
		epoll_ctl(d.epoll, EPOLL_CTL_MOD, d.control, &ev);
}

static void append(const void *bytes, size_t len)
{
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

static void up_ints(uint32_t type, uint64_t id, int count, ...)
{
	int32_t values[8];
	va_list list;
	va_start(list, count);
	for (int i = 0; i < count; i++)
		values[i] = va_arg(list, int32_t);
	va_end(list);
	up(type, id, &(struct iovec){ values, sizeof values[0] * (size_t)count }, 1);
}

/* ---- objects ---- */

static struct object **table;
static size_t table_cap, table_used;

static size_t slot_of(uint32_t id)
{
	return (id * 2654435761u) & (table_cap - 1);
}

struct object *object_find(uint32_t id)
{
	for (struct object *o = table_cap ? table[slot_of(id)] : NULL; o; o = o->next)
		if (o->id == id)
			return o;
	return NULL;
}

static void table_grow(void)
{
	struct object **old = table;
	size_t old_cap = table_cap;
	table_cap = old_cap ? old_cap * 2 : 64;
	table = calloc(table_cap, sizeof(void *));
	if (!table)
		die("grow the object table");
	for (size_t i = 0; i < old_cap; i++)
		for (struct object *o = old[i], *next; o; o = next) {
			next = o->next;
			o->next = table[slot_of(o->id)];
			table[slot_of(o->id)] = o;
		}
	free(old);
}

void watch(uint64_t source, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = source };
	if (epoll_ctl(d.epoll, EPOLL_CTL_ADD, fd, &ev))
		die("watch a file descriptor");
}

static void table_link(struct object *o)
{
	o->next = table[slot_of(o->id)];
	table[slot_of(o->id)] = o;
}

static void table_unlink(struct object *o)
{
	struct object **at = &table[slot_of(o->id)];
	while (*at != o)
		at = &(*at)->next;
	*at = o->next;
}

struct object *object_add(uint32_t id, uint32_t kind, int fd)
{
	struct object *o = object_find(id);
	if (o)
		object_drop(o);
	if (table_used >= table_cap)
		table_grow();
	o = calloc(1, sizeof *o);
	if (!o)
		die("make an object");
	*o = (struct object){ .id = id, .kind = kind, .fd = fd, .stdio = { -1, -1, -1 } };
	table_link(o);
	table_used++;
	return o;
}

/* Gives an object the id its owner knows it by. */
static void object_rename(struct object *o, uint32_t id)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = id };
	struct object *older = object_find(id);
	if (older)
		object_drop(older);
	table_unlink(o);
	o->id = id;
	table_link(o);
	epoll_ctl(d.epoll, EPOLL_CTL_MOD, o->fd, &ev);
}

void object_drop(struct object *o)
{
	table_unlink(o);
	table_used--;
	if (o->kind == OBJECT_LOG)
		log_free(o);
	if (o->fd >= 0)
		close(o->fd);
	for (int i = 0; i < 3; i++)
		if (o->stdio[i] >= 0)
			close(o->stdio[i]);
	free(o->reply);
	free(o);
}

static uint32_t own_id(void)
{
	static uint32_t next = FIRST_OWN_ID;
	while (object_find(next | FIRST_OWN_ID))
		next++;
	return next++ | FIRST_OWN_ID;
}

/* ---- processes ---- */

static void client_exit(struct object *client, int32_t code);

static int32_t code_of(int32_t status)
{
	return status < 0 ? 125 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void process_tell(struct object *o)
{
	up_ints(UP_EXIT, o->id, 1, o->status);
	struct object *c = o->bound ? object_find(o->bound) : NULL;
	if (c && c->kind == OBJECT_CLIENT)
		client_exit(c, code_of(o->status));
}

static void process_reap(struct object *o)
{
	siginfo_t info = { 0 };
	if (waitid(P_PIDFD, (id_t)o->fd, &info, WEXITED | WNOHANG) == 0 && info.si_pid == 0)
		return;
	epoll_ctl(d.epoll, EPOLL_CTL_DEL, o->fd, NULL);
	o->exited = true;
	o->status = info.si_pid == 0 ? -1 : info.si_code == CLD_EXITED ? (info.si_status & 0xff) << 8 : info.si_status & 0x7f;
	if (o->discard)
		object_drop(o);
	else if (!o->run)
		process_tell(o);
}

/* ---- workers: one run each ---- */

static void run_finish(struct object *w, uint32_t step, int32_t error, uint32_t role)
{
	uint32_t head[4] = { step, (uint32_t)error, role, error ? 0 : w->result_count };
	struct iovec parts[2] = { { head, sizeof head }, { w->reply, w->reply_len } };
	up(UP_DONE, w->run, parts, error ? 1 : 2);
	free(w->reply);
	w->reply = NULL;
	w->reply_len = 0;
	w->run = 0;
	w->done = false;
	for (uint32_t i = 0; i < w->spawned_count; i++) {
		struct object *o = object_find(w->spawned[i]);
		if (!o || o->kind != OBJECT_PROCESS)
			continue;
		o->run = 0;
		o->discard = error != 0;
		if (error)
			syscall(SYS_pidfd_send_signal, o->fd, SIGKILL, NULL, 0);
		if (o->exited && error)
			object_drop(o);
		else if (o->exited)
			process_tell(o);
	}
	w->spawned_count = 0;
}

static struct object *worker_fork(void)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return NULL;
	int big = 2 * (int)PROGRAM_MAX;
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
	pid_t pid = fork();
	if (pid == 0) {
		/* Nothing of syscalld's is open in a worker but its socket; 0..2 are taken, so that nothing lands there. */
		int sock = fcntl(pair[1], F_DUPFD_CLOEXEC, 3);
		if (sock != 3)
			dup3(sock, 3, O_CLOEXEC);
		close_range(4, ~0U, 0);
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);
		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		close(null);
		worker_main(3);
	}
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return NULL;
	}
	struct object *w = object_add(own_id(), OBJECT_WORKER, pair[0]);
	w->pid = pid;
	watch(w->id, w->fd);
	return w;
}

static void worker_end(struct object *w)
{
	kill(w->pid, SIGKILL);
	if (w->run)
		run_finish(w, w->fail_step, w->fail_error ? w->fail_error : w->done ? 0 : EIO, w->fail_role);
	waitpid(w->pid, NULL, 0);
	if (d.spare == w->id)
		d.spare = 0;
	object_drop(w);
}

static void worker_spawned(struct object *w, const struct worker_note *note, int pidfd)
{
	struct object *p = object_add(note->object, OBJECT_PROCESS, pidfd);
	p->pid = note->pid;
	p->run = w->run;
	watch(p->id, p->fd);
	if (w->spawned_count < SPAWNS_MAX)
		w->spawned[w->spawned_count++] = p->id;
}

static void worker_done(struct object *w, const struct worker_note *note, const void *reply, size_t len, struct fds *fds)
{
	for (uint32_t i = 0; i < fds->count; i++) {
		struct object *o = object_add(note->keep_object[i], note->keep_pid[i] ? OBJECT_PROCESS : OBJECT_FD, fds->fd[i]);
		o->pid = note->keep_pid[i];
		if (o->pid)
			watch(o->id, o->fd);
	}
	w->done = true;
	w->result_count = note->result_count;
	w->reply = malloc(len + 1);
	if (!w->reply)
		die("keep the results of a program");
	w->reply_len = len;
	memcpy(w->reply, reply, len);
	if (w->park)
		run_finish(w, 0, 0, 0);
}

static void worker_read(struct object *w)
{
	static _Alignas(8) uint8_t buf[sizeof(struct worker_note) + STEPS_MAX * 8 + PROGRAM_MAX];
	struct worker_note *note = (struct worker_note *)buf;
	struct fds fds;
	ssize_t n = message_receive(w->fd, buf, sizeof buf, &fds, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < (ssize_t)sizeof *note) {
		worker_end(w);
	} else if (note->kind == WORKER_SPAWNED && fds.count == 1) {
		worker_spawned(w, note, fds.fd[0]);
	} else if (note->kind == WORKER_DONE) {
		worker_done(w, note, buf + sizeof *note, (size_t)n - sizeof *note, &fds);
	} else if (note->kind == WORKER_FAILED && !w->fail_error) {
		w->fail_step = note->step;
		w->fail_error = note->error;
		w->fail_role = note->role;
	}
}

/* A worker waits before it is needed: its fork is off the path of the next operation. */
static struct object *worker_take(void)
{
	struct object *w = d.spare ? object_find(d.spare) : NULL;
	d.spare = 0;
	return w ? w : worker_fork();
}

static bool imports_find(const uint8_t *refs, uint32_t count, int *fds)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t ref[2];
		memcpy(ref, refs + i * 8, 8);
		struct object *o = object_find(ref[0]);
		if (!o || ref[1] > CLIENT_SOCKET)
			return false;
		fds[i] = o->kind == OBJECT_CLIENT && ref[1] < CLIENT_SOCKET ? o->stdio[ref[1]] : o->fd;
		if (fds[i] < 0)
			return false;
	}
	return true;
}

static void run(uint64_t id, const uint8_t *body, size_t len)
{
	uint32_t head[2]; /* worker, import count */
	int fds[IMPORTS_MAX];
	uint32_t refused[4] = { 0, EBADF, 0, 0 };
	struct iovec answer = { refused, sizeof refused };
	if (len >= 8)
		memcpy(head, body, 8);
	if (len < 8 || head[1] > IMPORTS_MAX || len < 8 + head[1] * 8 + sizeof(struct program_header) ||
	    !imports_find(body + 8, head[1], fds)) {
		up(UP_DONE, id, &answer, 1);
		return;
	}
	struct object *w = head[0] ? object_find(head[0]) : worker_take();
	if (!w || w->kind != OBJECT_WORKER) {
		up(UP_DONE, id, &answer, 1);
		return;
	}
	struct program_header program;
	body += 8 + head[1] * 8, len -= 8 + head[1] * 8;
	memcpy(&program, body, sizeof program);
	if (program.park && program.park != w->id)
		object_rename(w, program.park);
	w->run = id;
	w->park = program.park;
	if (message_send(w->fd, body, len, fds, head[1]) < 0) {
		w->fail_error = errno;
		worker_end(w);
		return;
	}
	struct object *spare = d.spare ? NULL : worker_fork();
	if (spare)
		d.spare = spare->id;
}

/* ---- clients ---- */

static void client_close(struct object *c)
{
	up_ints(UP_CLIENT_CLOSE, c->id, 0);
	object_drop(c);
}

static void client_exit(struct object *c, int32_t code)
{
	int32_t message[2] = { CLIENT_EXIT, code };
	message_send(c->fd, message, sizeof message, NULL, 0);
	client_close(c);
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

static void client_hello(struct object *c, const uint8_t *body, size_t len, const struct fds *fds)
{
	if (fds->count != 3 || c->stdio[0] >= 0) {
		client_close(c);
		return;
	}
	memcpy(c->stdio, fds->fd, sizeof c->stdio);
	struct iovec parts[2] = { { &c->pid, sizeof c->pid }, { (void *)body, len } };
	up(UP_CLIENT_OPEN, c->id, parts, 2);
}

static void client_detach(struct object *c, int master)
{
	struct object *o = object_add(own_id(), OBJECT_FD, master);
	fcntl(master, F_SETFL, fcntl(master, F_GETFL) | O_NONBLOCK);
	up_ints(UP_CLIENT_DETACH, c->id, 1, o->id);
}

static void client_read(struct object *c)
{
	static _Alignas(8) uint8_t buf[CLIENT_MESSAGE_MAX];
	struct fds fds;
	uint32_t type = 0;
	int32_t value = 0;
	ssize_t n = message_receive(c->fd, buf, sizeof buf, &fds, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n >= 4)
		memcpy(&type, buf, 4);
	if (n >= 8)
		memcpy(&value, buf + 4, 4);
	struct object *process = c->bound ? object_find(c->bound) : NULL;
	if (type == CLIENT_HELLO && n >= 12) {
		client_hello(c, buf + 4, (size_t)n - 4, &fds);
		return;
	}
	if (type == CLIENT_DETACH && fds.count == 1) {
		client_detach(c, fds.fd[0]);
		return;
	}
	for (uint32_t i = 0; i < fds.count; i++)
		close(fds.fd[i]);
	if (type == CLIENT_SIGNAL && process)
		syscall(SYS_pidfd_send_signal, process->fd, value, NULL, 0);
	else if (type == CLIENT_SIGNAL)
		up_ints(UP_CLIENT_SIGNAL, c->id, 1, value);
	else if (type == CLIENT_ACK)
		up_ints(UP_CLIENT_ACK, c->id, 0);
	else
		client_close(c);
}

static void client_out(struct object *c, const uint8_t *body, size_t len)
{
	static const uint32_t type = CLIENT_OUT;
	struct iovec iov[2] = { { (void *)&type, 4 }, { (void *)body, len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	/* vserverd waits for the acknowledgement of each piece, so one that does not fit means a client gone wrong. */
	if (sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		client_close(c);
}

/* ---- vserverd ---- */

static pid_t vserverd_pid;
static int64_t started_ms, backoff_ms;
static const char *vserverd_path, *root_path;

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void vserverd_start(void)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		die("make the control socket");
	started_ms = now_ms();
	vserverd_pid = fork();
	if (vserverd_pid < 0)
		die("fork vserverd");
	if (vserverd_pid == 0) {
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		int control = fcntl(pair[1], F_DUPFD, 3);
		dup2(control, 3);
		int null = open("/dev/null", O_RDONLY);
		int log = open("vserverd.log", O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(null, 0);
		dup2(log, 1);
		dup2(log, 2);
		close_range(4, ~0U, 0);
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		execl(vserverd_path, "vserverd", root_path, (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	d.control = pair[0];
	d.ready = false;
	watch(SOURCE_CONTROL, d.control);
}

/* The clients that vserverd was still serving are told; those bound to a process go on without it. */
static void clients_disappoint(void)
{
	static const char sorry[] = "vserver: cannot finish the command: found the control plane restarting; try again\n";
	uint8_t message[8 + sizeof sorry];
	uint32_t head[2] = { CLIENT_OUT, 2 };
	memcpy(message, head, 8);
	memcpy(message + 8, sorry, sizeof sorry - 1);
	for (size_t i = 0; i < table_cap; i++)
		for (struct object *o = table[i], *next; o; o = next) {
			next = o->next;
			if (o->kind != OBJECT_CLIENT || o->bound || o->stdio[0] < 0)
				continue;
			message_send(o->fd, message, 7 + sizeof sorry, NULL, 0);
			client_exit(o, 125);
		}
}

static void vserverd_ended(void)
{
	kill(vserverd_pid, SIGKILL);
	waitpid(vserverd_pid, NULL, 0);
	close(d.control);
	d.control = -1;
	out_sent = out_len = 0;
	if (d.stopping || (!d.ready && d.listener < 0)) /* asked to stop, or never came up */
		exit(d.stopping ? 0 : 125);
	d.ready = false;
	clients_disappoint();
	/* At once if it had run for a while, else later and later, up to 5 s. */
	int64_t lived_ms = now_ms() - started_ms;
	backoff_ms = lived_ms > 10000 ? 0 : backoff_ms ? backoff_ms * 2 : 50;
	if (backoff_ms > 5000)
		backoff_ms = 5000;
	started_ms = now_ms() + backoff_ms;
}

static void listen_for_clients(void)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX, .sun_path = "syscalld.sock" };
	d.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(at.sun_path);
	if (d.listener < 0 || bind(d.listener, (struct sockaddr *)&at, sizeof at) || chmod(at.sun_path, 0600) ||
	    listen(d.listener, 512))
		die("listen on syscalld.sock");
	watch(SOURCE_LISTENER, d.listener);
}

static void snapshot(void)
{
	d.ready = true;
	for (size_t i = 0; i < table_cap; i++)
		for (struct object *o = table[i]; o; o = o->next)
			if (o->kind != OBJECT_WORKER || o->id < FIRST_OWN_ID)
				up_ints(UP_OBJECT, o->id, 4, o->kind, o->pid, o->exited, o->status);
	up_ints(UP_SNAPSHOT_END, 0, 1, getpid());
	if (d.listener < 0)
		listen_for_clients();
}

static void bind_client(struct object *c, uint32_t process_id)
{
	struct object *process = object_find(process_id);
	if (!process || process->kind != OBJECT_PROCESS)
		return;
	c->bound = process_id;
	process->bound = c->id;
	if (process->exited)
		client_exit(c, code_of(process->status));
}

static void handle(const struct frame *f, const uint8_t *body)
{
	struct object *o = object_find((uint32_t)f->id);
	int32_t value = 0;
	if (f->len >= 4)
		memcpy(&value, body, 4);
	bool client = o && o->kind == OBJECT_CLIENT;
	switch (f->type) {
	case DOWN_RUN:
		run(f->id, body, f->len);
		break;
	case DOWN_DROP:
		if (o && o->kind == OBJECT_WORKER)
			worker_end(o);
		else if (o && o->kind == OBJECT_PROCESS && !o->exited)
			o->discard = true; /* still to be reaped */
		else if (o)
			object_drop(o);
		break;
	case DOWN_SIGNAL:
		if (o && o->kind == OBJECT_PROCESS && !o->exited)
			syscall(SYS_pidfd_send_signal, o->fd, value, NULL, 0);
		break;
	case DOWN_CLIENT_OUT:
		if (client)
			client_out(o, body, f->len);
		break;
	case DOWN_CLIENT_EXIT:
		if (client)
			client_exit(o, value);
		break;
	case DOWN_BIND:
		if (client)
			bind_client(o, (uint32_t)value);
		break;
	case DOWN_LOG:
		log_open((uint32_t)f->id, body, f->len);
		break;
	case DOWN_SHUTDOWN:
		d.stopping = true;
		break;
	case DOWN_READY:
		snapshot();
		break;
	default:
		break;
	}
}

/* Frames are handled where they lie in the receive buffer; what is incomplete moves to its front. */
static void control_read(void)
{
	static uint8_t *in;
	static size_t have, cap;
	if (cap - have < 64 * 1024) {
		cap = cap ? cap * 2 : 256 * 1024;
		in = realloc(in, cap);
		if (!in)
			die("grow the receive buffer");
	}
	ssize_t n = recv(d.control, in + have, cap - have, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		have = 0;
		vserverd_ended();
		return;
	}
	have += (size_t)n;
	size_t at = 0;
	struct frame f;
	while (have - at >= sizeof f) {
		memcpy(&f, in + at, sizeof f);
		if (have - at - sizeof f < f.len)
			break;
		handle(&f, in + at + sizeof f);
		at += sizeof f + f.len;
	}
	memmove(in, in + at, have - at);
	have -= at;
}

static void dispatch(const struct epoll_event *ev)
{
	if (ev->data.u64 == SOURCE_CONTROL) {
		if (ev->events & EPOLLOUT)
			control_flush();
		if (ev->events & ~(uint32_t)EPOLLOUT)
			control_read();
	} else if (ev->data.u64 == SOURCE_LISTENER) {
		if (d.ready)
			client_accept();
	} else {
		struct object *o = object_find((uint32_t)ev->data.u64);
		if (!o)
			return;
		if (o->kind == OBJECT_PROCESS)
			process_reap(o);
		else if (o->kind == OBJECT_WORKER)
			worker_read(o);
		else if (o->kind == OBJECT_CLIENT)
			client_read(o);
		else if (o->kind == OBJECT_LOG)
			log_read(o, ev->data.u64 & SOURCE_LOG_STDERR ? 2 : 1);
	}
}

static int wait_ms(void)
{
	if (d.control < 0) {
		int64_t left = started_ms - now_ms();
		return left > 0 ? (int)left : 0;
	}
	return log_paused() ? LOG_TICK_MS : -1;
}

static void loop(void)
{
	struct epoll_event events[64];
	for (;;) {
		int n = epoll_wait(d.epoll, events, 64, wait_ms());
		for (int i = 0; i < n; i++)
			dispatch(&events[i]);
		if (log_paused())
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
	int copy = memfd_create("vserver", MFD_ALLOW_SEALING);
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
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	if (chdir(run_dir))
		die("enter the run directory");
	int lock = open("syscalld.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK ? 0 : 125; /* another one is there or just starting */
	d.epoll = epoll_create1(EPOLL_CLOEXEC);
	vserverd_start();
	loop();
	return 0;
}

/* ---- messages with descriptors ---- */

ssize_t message_send(int sock, const void *bytes, size_t len, const int *fds, uint32_t fd_count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * IMPORTS_MAX)];
	} control;
	struct iovec iov = { (void *)bytes, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (fd_count) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
	}
	return sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

ssize_t message_receive(int sock, void *bytes, size_t len, struct fds *fds, int flags)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * IMPORTS_MAX)];
	} control;
	struct iovec iov = { bytes, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control };
	fds->count = 0;
	ssize_t n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return n;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			fds->count = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(fds->fd, CMSG_DATA(c), fds->count * sizeof(int));
		}
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		for (uint32_t i = 0; i < fds->count; i++)
			close(fds->fd[i]);
		fds->count = 0;
		errno = EMSGSIZE;
		return -1;
	}
	return n;
}
