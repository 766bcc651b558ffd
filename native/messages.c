/* SPDX-License-Identifier: Apache-2.0
 * Messages of native/wire.h: sent and received with their descriptors, and taken apart. Nothing here has a state.
 */
#include "messages.h"

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * IMPORTS_MAX)];
};

ssize_t message_send(int sock, const struct iovec *parts, size_t count, const struct fds *fds, int flags)
{
	union control control;
	struct msghdr msg = { .msg_iov = (struct iovec *)parts, .msg_iovlen = count };
	if (fds && fds->count) {
		size_t len = sizeof(int) * fds->count;
		memset(&control, 0, sizeof control);
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(len);
		*CMSG_FIRSTHDR(&msg) = (struct cmsghdr){ .cmsg_len = CMSG_LEN(len), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds->fd, len);
	}
	return sendmsg(sock, &msg, MSG_NOSIGNAL | flags);
}

ssize_t message_receive(int sock, void *bytes, size_t len, struct fds *fds, int flags)
{
	union control control;
	struct iovec iov = { bytes, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control };
	fds->count = 0;
	ssize_t n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return n;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) { /* the kernel sends one at most */
			fds->count = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(fds->fd, CMSG_DATA(c), fds->count * sizeof(int));
		}
	if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		fds_close(fds);
		errno = EMSGSIZE;
		return -1;
	}
	return n;
}

void fds_close(struct fds *fds)
{
	for (uint32_t i = 0; i < fds->count; i++)
		close(fds->fd[i]);
	fds->count = 0;
}

enum frame_state frame_parse(const uint8_t *bytes, size_t len, struct frame *f)
{
	if (len < sizeof *f)
		return FRAME_INCOMPLETE;
	memcpy(f, bytes, sizeof *f);
	if (f->len > FRAME_MAX)
		return FRAME_TOO_LONG;
	return len - sizeof *f < f->len ? FRAME_INCOMPLETE : FRAME_COMPLETE;
}

bool run_parse(const uint8_t *bytes, size_t len, struct run_request *r)
{
	struct program_header header;
	uint32_t head[2];
	if (len < sizeof head)
		return false;
	memcpy(head, bytes, sizeof head);
	r->worker = head[0];
	r->import_count = head[1];
	bytes += sizeof head, len -= sizeof head;
	size_t imports = r->import_count * sizeof r->import[0];
	if (r->import_count > IMPORTS_MAX || len < imports + sizeof header || len - imports > PROGRAM_MAX)
		return false;
	memcpy(r->import, bytes, imports);
	r->program = bytes + imports;
	r->program_len = len - imports;
	memcpy(&header, r->program, sizeof header);
	r->park = header.park;
	return true;
}

bool log_parse(const uint8_t *bytes, size_t len, struct log_request *r)
{
	if (len < 18 || bytes[len - 1])
		return false;
	memcpy(&r->max_bytes, bytes, 8);
	memcpy(r->pipe, bytes + 8, 8);
	r->path = (const char *)bytes + 16;
	return true;
}

bool client_parse(const uint8_t *bytes, size_t len, uint32_t fd_count, struct client_request *r)
{
	*r = (struct client_request){ 0 };
	if (len < 4)
		return false;
	memcpy(&r->type, bytes, 4);
	r->hello = bytes + 4;
	r->hello_len = len - 4;
	if (len >= 8)
		memcpy(&r->value, bytes + 4, 4);
	return (r->type == CLIENT_HELLO && fd_count == 3 && len >= 4 + 12 + 1 && bytes[len - 1] == 0) || /* … argc, a directory */
	       (r->type == CLIENT_SIGNAL && fd_count == 0 && len == 8) || (r->type == CLIENT_ACK && fd_count == 0) ||
	       (r->type == CLIENT_DETACH && fd_count == 1);
}

bool note_check(const struct worker_note *note, size_t len, uint32_t fd_count)
{
	if (len < sizeof *note)
		return false;
	if (note->kind == WORKER_DONE)
		return note->keep_count <= KEEPS_MAX && fd_count == note->keep_count && note->result_count <= STEPS_MAX &&
		       len - sizeof *note == (uint64_t)note->result_count * 8 + note->out_len;
	return (note->kind == WORKER_SPAWNED && fd_count == 1) || (note->kind == WORKER_FAILED && fd_count == 0 && note->error > 0) ||
	       (note->kind == WORKER_ENDED && fd_count == 0);
}

int32_t exit_code(int32_t status)
{
	return status < 0 ? 125 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
