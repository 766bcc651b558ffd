/* SPDX-License-Identifier: Apache-2.0 */
#ifndef VSERVER_DAEMON_H
#define VSERVER_DAEMON_H
#include "messages.h"

#define FIRST_OWN_ID 0x80000000u /* ids below are given by vserverd, from here on by syscalld (clients, workers) */

/* epoll sources that are no objects; object ids are 32 bits */
#define SOURCE_CONTROL (1ull << 32)
#define SOURCE_LISTENER (2ull << 32)
#define SOURCE_LOG_STDERR (1ull << 40) /* + object id: the second pipe of a log */

#define LOG_TICK_MS 50
#define POLL_MS 10 /* for what gives no event */
#define AGAIN_MS 2000 /* until a client that waits starts another syscalld */
#define FILES_MAX (1024u * 1024u)
#define SPARES_MAX 4
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

struct object {
	struct object *next;
	uint32_t id, kind;              /* enum object_kind */
	uint64_t run;                   /* PROCESS, WORKER: run that is not finished, else 0 */
	int fd;                         /* FD: it; PROCESS: pidfd; CLIENT, WORKER: socket; LOG: current file */
	pid_t pid;                      /* PROCESS, WORKER, CLIENT (peer) */
	int stdio[3];                   /* CLIENT: as passed; LOG: [1], [2] are the pipes */
	uint32_t bound;                 /* PROCESS: client that shares its fate; CLIENT: the process it is bound to */
	bool exited, ending, discard;   /* PROCESS */
	union {                         /* a thousand guests have a few thousand of these */
		int32_t status;         /* PROCESS: wait status; -1: unknown */
		uint64_t signals;       /* CLIENT: what came before it was bound, a bit each */
		struct {                /* WORKER */
			uint32_t park, serial, before; /* programs it got; of these for others */
			uint32_t fail_step;
			int32_t fail_error;     /* errno of the first failure, or 0 */
			uint32_t spawned[SPAWNS_MAX], spawned_count;
			uint8_t *reply;         /* WORKER_DONE has come: it and what followed */
			size_t reply_len;
		};
		struct {                /* LOG */
			char *path;
			struct object *paused_next;
			uint64_t max_bytes, size;
			uint32_t taken;         /* bytes in this tick */
			bool paused[3];         /* by stream: waits for the next tick */
		};
	};
};

struct daemon {
	int epoll, control, listener;
	bool ready;             /* vserverd has asked for the snapshot */
	bool stopping;
	uint32_t spares[SPARES_MAX], spare_first, spare_end; /* workers that wait for any program; a ring of ids, some gone */
};
extern struct daemon d;

_Noreturn void die(const char *what);

struct object *object_find(uint32_t id);
/* Adds an object, which owns `fd` from now on; an older one of that id is dropped. */
struct object *object_add(uint32_t id, uint32_t kind, int fd);
void object_drop(struct object *o);

int64_t now_us(void); /* CLOCK_MONOTONIC */
#define now_ms() (now_us() / 1000)
void watch(uint64_t source, int fd);
void watched_close(int *fd); /* and -1 instead */

/* log.c */
void log_open(uint32_t id, const uint8_t *body, size_t len);
void log_read(struct object *o, int stream);
bool log_tick(void); /* whether a log is paused */
void log_free(struct object *o);

int daemon_main(char **argv); /* argv: syscalld RUN_DIR ROOT VSERVERD */
int client_main(int argc, char **argv);
#endif
