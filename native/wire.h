/* SPDX-License-Identifier: Apache-2.0
 * Wire formats between the processes. All integers are in host byte order: every peer runs on the same machine.
 *
 *   vserver (client) ── SEQPACKET, run/syscalld.sock ──▶ syscalld ◀── STREAM, fd 3 ──▶ vserverd
 *                                                           │
 *                                                     SEQPACKET pair, one per worker
 *                                                           ▼
 *                                                        worker (forked child that runs syscall programs)
 *
 * TypeScript's side of these tables is src/sys/wire.ts and src/sys/program.ts; a test compares the numbers.
 */
#ifndef VSERVER_WIRE_H
#define VSERVER_WIRE_H
#include <stdint.h>

/* --- syscall programs: header | steps | relocations | data ------------------------------------------------------- */

#define PROGRAM_MAGIC 0x31505356u /* "VSP1" */
#define PROGRAM_MAX (160u * 1024u)
#define HANDLER_MAX (24u * 1024u)
#define STEPS_MAX 1024u
#define IMPORTS_MAX 24u
#define KEEPS_MAX 16u
#define SPAWNS_MAX 4u /* by the worker itself; children of children do not count */

struct program_header {      /* offset */
	uint32_t magic;      /*  0 */
	uint32_t step_count; /*  4 */
	uint32_t reloc_count;/*  8 */
	uint32_t data_len;   /* 12 */
	uint32_t import_count; /* 16  fds that come with the message */
	uint32_t out_off;    /* 20  slice of the data area returned when the worker is done */
	uint32_t out_len;    /* 24 */
	uint32_t park;       /* 28  object id: the worker stays, waiting for its next program; 0: it exits */
};

struct step {                /* offset */
	uint32_t op;         /*  0  enum op */
	uint32_t nr;         /*  4  OP_SYSCALL: system call number */
	uint8_t kind[6];     /*  8  enum arg_kind of each argument */
	uint8_t rule;        /* 14  enum rule */
	uint8_t pad;         /* 15 */
	uint32_t target;     /* 16  RULE_JUMP, OP_JUMP: step to go to (forward only); OP_SPAWN: first step of the child */
	int16_t only[4];     /* 20  errnos the rule is for; all zero: any errno */
	uint32_t pad2;       /* 28 */
	uint64_t arg[6];     /* 32 */
};                           /* 80 */

struct reloc {               /* data[at..at+8] = address of data[target] */
	uint32_t at, target;
};

enum arg_kind {
	ARG_IMM,             /* the value */
	ARG_DATA,            /* low 32 bits: offset into the data area; high 32 bits: length that must fit there */
	ARG_RESULT,          /* result of an earlier step */
	ARG_IMPORT,          /* file descriptor that came with the program */
};

enum rule { RULE_FAIL, RULE_IGNORE, RULE_JUMP };

enum op {
	OP_SYSCALL,
	OP_SPAWN,            /* clone3: a0 flags, a1 cgroup fd or -1, a2 object id of the process; target: child's first step */
	OP_STORE,            /* data[a0] = a2, a1 bytes wide (4 or 8) */
	OP_LOAD,             /* result = data[a0], a1 bytes wide (4 or 8), sign-extended */
	OP_EXPECT,           /* a1: 0 ==, 1 !=, 2 (a0 & a3) ==; compares a0 with a2; a4: errno reported when it does not hold */
	OP_EXPECT_BYTES,     /* data[a0..+a1] equals data[a2..+a1]; a4: errno otherwise */
	OP_ITOA,             /* writes a2 in decimal and a NUL at data[a0], a1 bytes there; result: digits */
	OP_JUMP,
	OP_KEEP,             /* the caller keeps fd a0 as object a1; a2: pid if it is a pidfd to watch, -1 if a worker's socket, else 0 */
	OP_EXIT,             /* ends this process with status a0 */
	OP_FAKEINIT,         /* becomes the guest's init: reaps, forwards signals to pid a0, ends with its status, which socket a1 (or -1) is told for object a2 */
	OP_REMOVE_TREE,      /* removes everything below directory fd a0; EXDEV when something is mounted there */
	OP_TAKE_PROGRAM,     /* goes on as a worker with its next program from socket a0; in a child, whose end others keep */
	OP_BROKER,           /* becomes a broker: runs the program a1 for each descriptor, its import 0, that came over socket a0 and is readable */
	OP_RELAY,            /* becomes the relay of the FUSE session on descriptor a0, for whoever connects to socket a1 */
	OP_COUNT
};

/* --- worker → syscalld ------------------------------------------------------------------------------------------- */

enum worker_message { WORKER_SPAWNED = 1, WORKER_DONE, WORKER_FAILED, WORKER_ENDED };

struct worker_note {
	uint32_t kind;       /* enum worker_message */
	uint32_t object;     /* SPAWNED: object id of the process, its pidfd rides along; ENDED: of the guest's process 1 */
	int32_t pid;         /* SPAWNED */
	uint32_t step;       /* FAILED */
	int32_t error;       /* FAILED: errno, positive; ENDED: wait status of its command */
	uint32_t role;       /* FAILED: 0 the worker, 1 a child */
	uint32_t serial;     /* of the program among those the worker got, from 1 */
	uint32_t keep_count; /* DONE: fds that ride along */
	uint32_t result_count, out_len; /* DONE: int64 results and then the slice follow */
	uint32_t keep_object[KEEPS_MAX];
	int32_t keep_pid[KEEPS_MAX];
};

/* --- vserverd ↔ syscalld: frames ---------------------------------------------------------------------------------- */

struct frame {
	uint32_t len;        /* bytes after this header */
	uint32_t type;       /* enum down or enum up */
	uint64_t id;         /* run, object or client the frame is about */
};

enum down {
	DOWN_RUN = 1,        /* id run; u32 worker object or 0, u32 n, n × {u32 object, u32 which}, program */
	DOWN_DROP,           /* id object: close it, forget it */
	DOWN_SIGNAL,         /* id process object; i32 signal */
	DOWN_CLIENT_OUT,     /* id client; u32 fd (1 or 2), bytes; answered by UP_CLIENT_ACK */
	DOWN_CLIENT_EXIT,    /* id client; i32 exit code */
	DOWN_BIND,           /* id client; u32 process object: its exit code and signals pass without vserverd */
	DOWN_LOG,            /* id log object; u64 max bytes, u32 stdout object, u32 stderr object, path, NUL */
	DOWN_SHUTDOWN,
	DOWN_READY,          /* vserverd serves: sends the snapshot, accepts clients */
	DOWN_FREE,           /* id worker: parked, it waits for anybody's program from now on */
};

enum up {
	UP_OBJECT = 101,     /* snapshot: id object; u32 kind, i32 pid, i32 exited, i32 wait status */
	UP_SNAPSHOT_END,     /* i32 pid of syscalld */
	UP_DONE,             /* id run; i32 step (-1: none was begun), i32 errno (0 done), u32 0, u32 n, n × i64 results, slice */
	UP_EXIT,             /* id process object; i32 wait status (-1: not our child, unknown) */
	UP_ENDING,           /* id process object: a process 1 whose command has ended; what else there is in its namespace is still going */
	UP_CLIENT_OPEN,      /* id client; i32 peer pid, hello payload */
	UP_CLIENT_ACK,
	UP_CLIENT_SIGNAL,    /* id client; i32 signal */
	UP_CLIENT_CLOSE,
	UP_CLIENT_DETACH,    /* id client; u32 object that now holds the pty master */
	UP_CHILD_FAILED,     /* id worker; u32 serial of its program that is over but for this child, u32 step, i32 errno */
};

enum object_kind { OBJECT_FD = 1, OBJECT_PROCESS, OBJECT_CLIENT, OBJECT_LOG, OBJECT_WORKER };

/* `which` of an import: file descriptors of a client. */
enum { CLIENT_STDIN, CLIENT_STDOUT, CLIENT_STDERR, CLIENT_SOCKET };

/* --- client ↔ syscalld: SEQPACKET messages, u32 type first -------------------------------------------------------- */

enum client_message {
	CLIENT_HELLO = 1,    /* c→s: u32 tty bits (1 stdin, 2 stdout, 4 stderr), u16 rows, u16 cols, cwd\0 argc u32 argv\0… env\0… + 3 fds */
	CLIENT_SIGNAL,       /* c→s: i32 signal */
	CLIENT_ACK,          /* c→s: output written */
	CLIENT_DETACH,       /* c→s: + pty master */
	CLIENT_OUT,          /* s→c: u32 fd, bytes */
	CLIENT_EXIT,         /* s→c: i32 exit code, or EXIT_AGAIN */
	CLIENT_PTY,          /* s→c: u32 flags (1: relay input) + pty master */
};
#define CLIENT_MESSAGE_MAX (128u * 1024u)
#define EXIT_AGAIN (-1) /* nothing was begun: the client connects anew */

/* Log records: a header, then the bytes as the guest wrote them. */
struct log_record {
	uint64_t time_ns;    /* CLOCK_REALTIME */
	uint32_t len;
	uint32_t stream;     /* 1 stdout, 2 stderr */
};
#endif
