/* SPDX-License-Identifier: Apache-2.0 */
#ifndef VSERVER_DAEMON_H
#define VSERVER_DAEMON_H
#include "wire.h"
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define SPAWNS_MAX 4u
#define FIRST_OWN_ID 0x80000000u /* ids below are given by vserverd, from here on by syscalld (clients, workers) */

/* epoll sources that are no objects; object ids are 32 bits */
#define SOURCE_CONTROL (1ull << 32)
#define SOURCE_LISTENER (2ull << 32)
#define SOURCE_LOG_STDERR (1ull << 40) /* + object id: the second pipe of a log */

#define LOG_TICK_MS 50
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

struct object {
	struct object *next;
	uint32_t id, kind;      /* enum object_kind */
	int fd;                 /* FD: it; PROCESS: pidfd; CLIENT, WORKER: socket; LOG: current file */
	pid_t pid;              /* PROCESS, WORKER, CLIENT (peer) */
	uint64_t run;           /* PROCESS, WORKER: run that is not finished, else 0 */
	/* PROCESS */
	bool exited, discard;
	int32_t status;         /* wait status; -1: unknown */
	uint32_t bound;         /* client that shares its fate; CLIENT: the process it is bound to */
	int stdio[3];           /* CLIENT: as passed; LOG: [1], [2] are the pipes */
	/* WORKER */
	bool done;
	uint32_t park, fail_step, fail_role, result_count;
	int32_t fail_error;     /* errno of the first failure, or 0 */
	uint32_t spawned[SPAWNS_MAX], spawned_count;
	uint8_t *reply;
	size_t reply_len;
	/* LOG */
	char *path;
	uint64_t max_bytes, size;
	uint32_t taken;         /* bytes in this tick */
	bool paused[3];         /* by stream: waits for the next tick */
};

struct daemon {
	int epoll, control, listener;
	bool ready;             /* vserverd has asked for the snapshot */
	bool stopping;
	uint32_t spare;         /* worker that waits for its first program, or 0 */
};
extern struct daemon d;

struct fds {
	int fd[IMPORTS_MAX];
	uint32_t count;
};

_Noreturn void die(const char *what);

struct object *object_find(uint32_t id);
/* Adds an object, which owns `fd` from now on; an older one of that id is dropped. */
struct object *object_add(uint32_t id, uint32_t kind, int fd);
void object_drop(struct object *o);

/* One SEQPACKET message with descriptors. receive: -1 with errno, also when anything was cut off (EMSGSIZE). */
ssize_t message_send(int sock, const void *bytes, size_t len, const int *fds, uint32_t fd_count);
ssize_t message_receive(int sock, void *bytes, size_t len, struct fds *fds, int flags);

void watch(uint64_t source, int fd);

/* log.c */
void log_open(uint32_t id, const uint8_t *body, size_t len);
void log_read(struct object *o, int stream);
bool log_paused(void);
void log_tick(void);
void log_free(struct object *o);

int daemon_main(char **argv); /* argv: syscalld RUN_DIR ROOT VSERVERD */
int client_main(int argc, char **argv);
#endif
