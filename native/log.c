/* SPDX-License-Identifier: Apache-2.0
 * Logs of guests that run detached: what comes out of their pipes goes, as records, into a file of bounded size with
 * one older file beside it. A guest that floods its log is slowed down by its full pipe, and nobody else is.
 */
#include "daemon.h"

#define TICK_BYTES (512u * 1024u)

static struct object *paused; /* logs that wait for the next tick */

static void file_open(struct object *o)
{
	struct stat st;
	o->fd = open(o->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	o->size = o->fd >= 0 && fstat(o->fd, &st) == 0 ? (uint64_t)st.st_size : 0;
}

void log_open(uint32_t id, const uint8_t *body, size_t len)
{
	struct log_request r;
	if (!log_parse(body, len, &r))
		return;
	struct object *o = object_add(id, OBJECT_LOG, -1);
	o->max_bytes = r.max_bytes;
	o->path = strdup(r.path);
	if (!o->path)
		die("open a log");
	file_open(o);
	for (int i = 0; i < 2; i++) {
		struct object *pipe = r.pipe[i] ? object_find(r.pipe[i]) : NULL;
		if (!pipe || pipe->kind != OBJECT_FD)
			continue;
		o->stdio[i + 1] = pipe->fd; /* moves here */
		pipe->fd = -1;
		object_drop(pipe);
		fcntl(o->stdio[i + 1], F_SETFL, fcntl(o->stdio[i + 1], F_GETFL) | O_NONBLOCK);
		watch(o->id | (i ? SOURCE_LOG_STDERR : 0), o->stdio[i + 1]);
	}
}

static void rotate(struct object *o)
{
	char older[PATH_MAX];
	if (snprintf(older, sizeof older, "%s.1", o->path) >= (int)sizeof older)
		return;
	close(o->fd);
	if (rename(o->path, older))
		unlink(o->path); /* bounded before complete */
	file_open(o);
}

static void pause_stream(struct object *o, int stream)
{
	if (!o->paused[1] && !o->paused[2]) {
		o->paused_next = paused;
		paused = o;
	}
	o->paused[stream] = true;
	epoll_ctl(d.epoll, EPOLL_CTL_DEL, o->stdio[stream], NULL);
}

void log_read(struct object *o, int stream)
{
	static uint8_t buf[64 * 1024];
	ssize_t n = read(o->stdio[stream], buf, sizeof buf);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		watched_close(&o->stdio[stream]);
		return;
	}
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	struct log_record head = { (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec, (uint32_t)n, (uint32_t)stream };
	if (o->fd < 0)
		file_open(o); /* could not be opened before */
	if (o->fd >= 0 && o->size && o->size + sizeof head + (size_t)n > o->max_bytes / 2)
		rotate(o); /* two files, each half of what the log may take */
	struct iovec parts[2] = { { &head, sizeof head }, { buf, (size_t)n } };
	ssize_t wrote = o->fd >= 0 ? writev(o->fd, parts, 2) : -1;
	if (wrote > 0 && wrote < (ssize_t)sizeof head + n && ftruncate(o->fd, (off_t)o->size) == 0)
		wrote = 0; /* disk full: no half records */
	o->size += wrote > 0 ? (uint64_t)wrote : 0;
	o->taken += (uint32_t)n;
	if (o->taken >= TICK_BYTES)
		pause_stream(o, stream);
}

bool log_tick(void)
{
	static int64_t last_ms;
	if (!paused || now_ms() - last_ms < LOG_TICK_MS)
		return paused;
	last_ms = now_ms();
	for (struct object *o; (o = paused);) {
		paused = o->paused_next;
		o->taken = 0;
		for (int stream = 1; stream <= 2; stream++)
			if (o->paused[stream]) {
				o->paused[stream] = false;
				watch(o->id | (stream == 2 ? SOURCE_LOG_STDERR : 0), o->stdio[stream]);
			}
	}
	return false;
}

void log_free(struct object *o)
{
	for (int stream = 1; stream <= 2; stream++) /* what the guest wrote last: a pipe holds at most 16 buffers of ours */
		for (int i = 0; i <= 16 && o->stdio[stream] >= 0; i++)
			log_read(o, stream);
	struct object **at = &paused;
	while (*at && *at != o)
		at = &(*at)->paused_next;
	if (*at)
		*at = o->paused_next;
	free(o->path);
}
