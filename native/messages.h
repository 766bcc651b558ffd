/* SPDX-License-Identifier: Apache-2.0 */
#ifndef VSERVER_MESSAGES_H
#define VSERVER_MESSAGES_H
/* For all of us but abi.c: what more than one file needs of the system. */
#include "wire.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
struct fds {
	int fd[IMPORTS_MAX];
	uint32_t count;
};
/* One SEQPACKET message with descriptors; waits for room unless `flags` says MSG_DONTWAIT. */
ssize_t message_send(int sock, const struct iovec *parts, size_t count, const struct fds *fds, int flags);
/* -1 with errno, also when anything was cut off (EMSGSIZE): then no descriptor is left open. */
ssize_t message_receive(int sock, void *bytes, size_t len, struct fds *fds, int flags);
void fds_close(struct fds *fds);

/* The parsers. What they fill points into the bytes they were given; false: malformed, nothing of it is to be used. */
#define FRAME_MAX (1024u * 1024u)
enum frame_state { FRAME_INCOMPLETE, FRAME_COMPLETE, FRAME_TOO_LONG };
enum frame_state frame_parse(const uint8_t *bytes, size_t len, struct frame *f);
struct run_request {
	uint32_t worker, import_count, park;
	struct { uint32_t object, which; } import[IMPORTS_MAX];
	const uint8_t *program;
	size_t program_len;
};
bool run_parse(const uint8_t *bytes, size_t len, struct run_request *r);
struct log_request {
	uint64_t max_bytes;
	uint32_t pipe[2]; /* objects */
	const char *path;
};
bool log_parse(const uint8_t *bytes, size_t len, struct log_request *r);
struct client_request {
	uint32_t type;
	int32_t value;        /* CLIENT_SIGNAL */
	const uint8_t *hello; /* CLIENT_HELLO: what follows its type */
	size_t hello_len;
};
bool client_parse(const uint8_t *bytes, size_t len, uint32_t fd_count, struct client_request *r);
/* What a shell makes of a wait status; -1: unknown. */
int32_t exit_code(int32_t status);
/* Whether a note of `len` bytes with that many descriptors is whole. */
bool note_check(const struct worker_note *note, size_t len, uint32_t fd_count);
#endif
