/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target for all that reads what another process wrote. The first byte of an input says what the rest is: a program
 * ('P'), which is also interpreted with made-up results instead of system calls, or control frames. Every piece lies in
 * an allocation of its own size, so that ASan sees each byte too far.
 */
#include "fuzz.h"
#include "machine.h"
#include <stdlib.h>
#include <string.h>

static volatile uint8_t sink;

static void touch(const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sink ^= bytes[i];
}

static void *copy_of(const uint8_t *bytes, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	if (!copy)
		abort();
	return memcpy(copy, bytes, len);
}

/* The kernel may write wherever a system call's argument points. */
static int64_t made_up(const struct program *p, const struct step *s)
{
	for (int i = 0; i < 6; i++) {
		uint64_t value = program_value(p, s, i);
		if (s->kind[i] == ARG_DATA) {
			touch((uint8_t *)(uintptr_t)value, s->arg[i] >> 32);
			memset((uint8_t *)(uintptr_t)value, s->nr & 0xff, s->arg[i] >> 32);
		}
	}
	return s->nr & 1 ? -(int64_t)(s->nr % 200) : s->nr;
}

const char *interpret(void *message, size_t len)
{
	static struct program p;
	int64_t result;
	const char *wrong = program_decode(message, len, &p);
	if (wrong)
		return wrong;
	program_begin(&p);
	for (uint32_t i = 0, next; i < p.header->step_count; i = next) {
		if (!program_compute(&p, &p.steps[i], &result))
			result = made_up(&p, &p.steps[i]);
		p.results[i] = result;
		next = program_next(&p, i, result);
		if (next == PROGRAM_FAILED)
			return "a step failed";
		if (next <= i || next > p.header->step_count)
			abort();
	}
	touch(p.data + p.header->out_off, p.header->out_len);
	return NULL;
}

static void parse(const struct frame *f, const uint8_t *body)
{
	struct run_request run;
	struct log_request log;
	struct client_request client;
	if (run_parse(body, f->len, &run))
		touch(run.program, run.program_len);
	if (log_parse(body, f->len, &log))
		touch((const uint8_t *)log.path, strlen(log.path));
	if (client_parse(body, f->len, f->id % 5, &client))
		touch(client.hello, client.hello_len);
	if (note_check((const struct worker_note *)body, f->len, f->id % 5) && f->len > sizeof(struct worker_note))
		touch(body, f->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct frame f;
	if (len == 0)
		return 0;
	uint8_t *rest = copy_of(bytes + 1, len - 1);
	if (bytes[0] == 'P')
		interpret(rest, len - 1);
	for (size_t at = 0; bytes[0] != 'P' && frame_parse(rest + at, len - 1 - at, &f) == FRAME_COMPLETE;) {
		void *body = copy_of(rest + at + sizeof f, f.len);
		parse(&f, body);
		free(body);
		at += sizeof f + f.len;
	}
	free(rest);
	return 0;
}
