/* SPDX-License-Identifier: Apache-2.0 */
#ifndef VSERVER_MACHINE_H
#define VSERVER_MACHINE_H
#include "messages.h"
/* A decoded program. Pointers lead into the message buffer. */
struct program {
	struct program_header *header;
	struct step *steps;
	struct reloc *relocs;
	uint8_t *data;
	struct fds imports;
	int64_t results[STEPS_MAX];
};
/* Checks every offset, index and count of a program message of `len` bytes at an 8-byte aligned `buf`; returns NULL
 * and fills `p`, or says what is wrong. A program that passes cannot make the machine read or write outside `buf`;
 * that as many descriptors came as it says is for the caller to check. */
const char *program_decode(void *buf, size_t len, struct program *p);
/* Relocates the data area and clears the results: to be called before each run. */
void program_begin(struct program *p);
/* An argument of a step, resolved. */
uint64_t program_value(const struct program *p, const struct step *s, int i);
/* Executes a step that needs no system call; false: it does. */
bool program_compute(struct program *p, const struct step *s, int64_t *result);
/* The step after step i, which had that result (-errno: it failed). */
#define PROGRAM_FAILED UINT32_MAX
uint32_t program_next(const struct program *p, uint32_t i, int64_t result);
/* Removes everything below a directory, not the directory itself; returns 0 or an errno. EXDEV: something is mounted
 * there; it is still there and so is what it covers. Other files may be gone already. */
int tree_remove(int dir);
/* Body of a worker: takes program messages from `sock` until one does not park it. Never returns. */
_Noreturn void worker_main(int sock);
/* Body of a relay, with a non-blocking /dev/fuse and a listening socket. Ends with its file system. */
_Noreturn void relay_main(int fuse, int listener);
/* Text that `ps` shows for processes forked from us; set once in main. */
void title_init(int argc, char **argv);
void title_set(const char *name);
#endif
