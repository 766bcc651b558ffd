/* SPDX-License-Identifier: Apache-2.0 */
#ifndef VSERVER_MESSAGES_H
#define VSERVER_MESSAGES_H
#include "wire.h"
#include <stdbool.h>
#include <string.h>
#include <sys/uio.h>
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
