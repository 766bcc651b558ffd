/* SPDX-License-Identifier: Apache-2.0
 * The relay has /dev/fuse, so that the end of either daemon is not felt by who reads. What it cannot answer goes to whoever
 * is connected to its socket, vserverd; it is kept until it is answered, and goes to the next one again. Texts of files are
 * told to all who read them while they hold; who has opened a file goes on with the text it began with.
 */
#include "daemon.h"
#include "machine.h"
#include <linux/fuse.h>

#define PATIENCE_MS 8000 /* then an old text has to do, or EIO: who is killed waits for its answer too */
#define HASTE_MS 1000    /* then an old text has to do for who has opened the file not to wait (O_NONBLOCK) */
#define AT_ONCE 64       /* requests, before it is looked whether others have something to say */
#define STAY_US 60       /* so long it is looked whether who was answered goes on: to be woken takes longer than the rest of a read */
#define TEXTS_MAX 8192   /* some 30 MiB: if guests keep more, by open files, what they have read may change before its end */

struct text {
	uint64_t node;
	int64_t until_ms;
	uint32_t refs, len, hold_ms;
	uint8_t bytes[];
};
struct request {
	struct request *next;
	int64_t since_ms;
	uint64_t sent; /* number of the connection it went to */
	bool ahead;    /* answered already: it is for whoever reads next */
	struct fuse_in_header head;
	union {
		struct fuse_read_in read; /* RELEASE begins alike */
		uint8_t bytes[FUSE_MIN_READ_BUFFER];
	};
};

static int fuse, peer = -1, waiting; /* how many of those that are kept somebody waits for */
static int64_t now, lost_ms;
static uint64_t connection, texts;
static struct request *kept;
#define is_hasty(r) ((r)->head.opcode == FUSE_READ && (r)->read.flags & O_NONBLOCK && !(r)->ahead)
static struct text *recent[4096]; /* by node; a handle, too, is a pointer to a text, and its address the kernel's name for it */
#define recent_of(node) (&recent[((node) ^ (node) >> 12) % (sizeof recent / sizeof *recent)])
static struct { struct fuse_out_header head; uint32_t hold_ms; uint8_t bytes[1024 * 1024]; } in;

static void *zeros(size_t len)
{
	void *p = calloc(1, len);
	if (!p)
		_exit(1);
	return p;
}

static void text_set(struct text **at, struct text *t)
{
	texts += t && t->refs++ == 0;
	if (*at && --(*at)->refs == 0)
		free(*at), texts--;
	*at = t;
}

static bool answer(const struct request *r, int error, const void *bytes, size_t len)
{
	struct fuse_out_header out = { .len = (uint32_t)(sizeof out + len), .error = -error, .unique = r->head.unique };
	return writev(fuse, (struct iovec[]){ { &out, sizeof out }, { (void *)bytes, len } }, 2) >= 0;
}

/* Answers a READ with the text its handle has; from the start of the file, with one that holds. */
static bool read_answer(const struct request *r, bool any_age)
{
	struct text *t = *recent_of(r->head.nodeid), **has = texts > TEXTS_MAX ? recent_of(r->head.nodeid) : (void *)(uintptr_t)r->read.fh;
	int64_t after_ms = any_age ? INT64_MIN : now;
	if ((!*has || r->read.offset == 0) && t && t->node == r->head.nodeid && t->until_ms > after_ms)
		text_set(has, t);
	if (!*has || (*has)->node != r->head.nodeid || (r->read.offset == 0 && (*has)->until_ms <= after_ms))
		return false;
	uint64_t from = r->read.offset < (*has)->len ? r->read.offset : (*has)->len, left = (*has)->len - from;
	answer(r, 0, (*has)->bytes + from, left < r->read.size ? left : r->read.size);
	return true;
}

/* Whether a file's text has been asked for by one of these; `ahead`: by one that nobody waits for. */
static bool is_asked(const struct request *r, uint64_t node, bool ahead)
{
	while (r && !(r->head.opcode == FUSE_READ && r->head.nodeid == node && r->ahead >= ahead))
		r = r->next;
	return r;
}

static void request_take(const struct request *r)
{
	struct text **has = (void *)(uintptr_t)r->read.fh;
	if (r->head.opcode == FUSE_OPEN) {
		struct fuse_open_out out = { .fh = (uintptr_t)(has = zeros(sizeof *has)), .open_flags = FOPEN_DIRECT_IO | FOPEN_NOFLUSH };
		if (!answer(r, 0, &out, sizeof out))
			free(has); /* who wanted it was killed */
	} else if (r->head.opcode == FUSE_READ && !(r->read.read_flags & FUSE_READ_LOCKOWNER)) {
		answer(r, EIO, NULL, 0); /* into the page cache, by splice(2) or mmap(2) */
	} else if (r->head.opcode == FUSE_RELEASE) {
		text_set(has, NULL), free(has);
		answer(r, 0, NULL, 0);
	} else if (r->head.opcode != FUSE_FORGET && r->head.opcode != FUSE_BATCH_FORGET) {
		bool told = r->head.opcode == FUSE_READ && read_answer(r, false), asked = is_asked(kept, r->head.nodeid, true);
		bool late = !told && is_hasty(r) && (asked || peer < 0) && read_answer(r, true);
		struct text *t = *recent_of(r->head.nodeid);
		/* Asked for before it is too old, so that who reads on and on never waits. */
		if ((told || late) && (asked || (told && (r->read.offset || t->until_ms - now > t->hold_ms / 2))))
			return;
		struct request *copy = zeros(offsetof(struct request, head) + r->head.len);
		memcpy(copy, r, offsetof(struct request, head) + r->head.len);
		copy->ahead = told || late;
		copy->since_ms = peer < 0 ? lost_ms : now;
		copy->next = kept, kept = copy;
	}
}

/* An answer of vserverd's: passed on as it is, but for a text, which comes with the milliseconds it holds before it. */
static bool answered(const struct request *r, size_t len)
{
	if (r->head.opcode != FUSE_READ || in.head.error || len < sizeof in.hold_ms)
		return answer(r, -in.head.error, &in.hold_ms, len);
	struct text *t = zeros(sizeof *t + len);
	/* What is ahead may have lain there. */
	*t = (struct text){ r->head.nodeid, (r->ahead ? r->since_ms : now) + in.hold_ms, 0, (uint32_t)(len - sizeof in.hold_ms), in.hold_ms };
	memcpy(t->bytes, in.bytes, t->len);
	text_set(recent_of(t->node), t);
	return r->ahead || read_answer(r, true);
}

static bool peer_read(void)
{
	if (poll(&(struct pollfd){ peer, POLLIN, 0 }, 1, 0) <= 0)
		return false;
	size_t len = recv(peer, &in.head, sizeof in.head, MSG_WAITALL) == sizeof in.head ? in.head.len - sizeof in.head : SIZE_MAX;
	if (len >= sizeof in.bytes || (len && recv(peer, &in.hold_ms, len, MSG_WAITALL) != (ssize_t)len))
		close(peer), peer = -1, lost_ms = now;
	for (struct request **at = &kept, *r; peer >= 0 && (r = *at); at = &r->next)
		if (r->head.unique == in.head.unique) {
			answered(r, len);
			*at = r->next, free(r);
			break;
		}
	return true;
}

/* What others have been told answers, or it gets too late; the rest goes to vserverd, one READ for all of the same file. */
static void kept_go_on(void)
{
	waiting = 0;
	for (struct request **at = &kept, *r; (r = *at);) {
		bool is_read = r->head.opcode == FUSE_READ, hasty = is_hasty(r), late = r->since_ms + PATIENCE_MS < now;
		bool old = late || (hasty && r->since_ms + HASTE_MS < now);
		bool told = (is_read && !r->ahead && read_answer(r, old)) || (late && (answer(r, EIO, NULL, 0), true));
		if (told && !(old && hasty)) {
			*at = r->next, free(r);
			continue;
		}
		r->ahead |= told; /* what comes yet is for the next */
		waiting += !r->ahead;
		bool joins = is_read && is_asked(r->next, r->head.nodeid, false);
		if (!joins && r->sent != connection && send(peer, &r->head, r->head.len, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
			r->sent = connection;
		at = &r->next;
	}
}

_Noreturn void relay_main(int dev, int listener)
{
	static struct request r;
	struct iovec to = { &r.head, sizeof r - offsetof(struct request, head) };
	title_set("relay");
	for (fuse = dev, lost_ms = now_ms();; kept_go_on()) {
		/* What nobody waits for is taken when somebody comes: vserverd would wake us where it runs, far from who reads. */
		struct pollfd p[] = { { fuse, POLLIN, 0 }, { peer, waiting ? POLLIN : 0, 0 }, { listener, POLLIN, 0 } };
		poll(p, 3, kept ? 500 : -1);
		if (p[0].revents & POLLERR)
			_exit(0); /* nobody has the file system any more */
		now = now_ms();
		while ((kept || p[1].revents) && peer_read())
			;
		for (int64_t i = 0, until_us = 0; i < AT_ONCE;)
			if (readv(fuse, &to, 1) > 0)
				now = now_ms(), request_take(&r), i++, until_us = r.head.opcode == FUSE_RELEASE || kept ? 0 : now_us() + STAY_US;
			else if (now_us() >= until_us || syscall(SYS_sched_yield))
				break;
		if (p[2].revents)
			close(peer), peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC), connection++;
	}
}
