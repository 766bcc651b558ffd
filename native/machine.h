/* SPDX-License-Identifier: Apache-2.0 */
#ifndef VSERVER_MACHINE_H
#define VSERVER_MACHINE_H
#include "wire.h"
#include <stdbool.h>
#include <stddef.h>

/* A decoded program. Pointers lead into the message buffer. */
struct program {
	struct program_header *header;
	struct step *steps;
	struct reloc *relocs;
	uint8_t *data;
};

/* Checks every offset, index and count of a program message of `len` bytes at an 8-byte aligned `buf`; returns NULL
 * and fills `p`, or says what is wrong. A program that passes cannot make the machine read or write outside `buf`. */
const char *program_decode(void *buf, size_t len, struct program *p);

/* Body of a worker: takes program messages from `sock` until one does not park it. Never returns. */
_Noreturn void worker_main(int sock);

/* Text that `ps` shows for processes forked from us; set once in main. */
void title_init(int argc, char **argv);
void title_set(const char *name);
#endif
