/* SPDX-License-Identifier: Apache-2.0
 * Syscall programs as data: decoded, their arguments found, their steps followed. No system call is made here, so that
 * all of it can be fuzzed.
 */
#include "machine.h"

static bool fits(const struct program_header *h, uint64_t off, uint64_t len)
{
	return off <= h->data_len && len <= h->data_len - off;
}

static bool immediate_range(const struct program_header *h, const struct step *s, int off_arg, int len_arg)
{
	return s->kind[off_arg] == ARG_IMM && s->kind[len_arg] == ARG_IMM && fits(h, s->arg[off_arg], s->arg[len_arg]);
}

static const char *step_check(const struct program_header *h, const struct step *s, uint32_t index)
{
	if (s->op >= OP_COUNT)
		return "unknown operation";
	if (s->rule > RULE_JUMP)
		return "unknown failure rule";
	/* Forward only, so that every program ends; a jump may lead to the end, a child begins with a step. */
	bool jumps = s->op == OP_JUMP || s->op == OP_SPAWN || s->rule == RULE_JUMP;
	if (jumps && (s->target <= index || s->target > h->step_count - (s->op == OP_SPAWN)))
		return "jump target is not ahead";
	for (int i = 0; i < 6; i++) {
		if (s->kind[i] == ARG_DATA && !fits(h, (uint32_t)s->arg[i], s->arg[i] >> 32))
			return "data argument outside the data area";
		if (s->kind[i] == ARG_RESULT && s->arg[i] >= index)
			return "result of a later step";
		if (s->kind[i] == ARG_IMPORT && s->arg[i] >= h->import_count)
			return "import that did not come";
		if (s->kind[i] > ARG_IMPORT)
			return "unknown argument kind";
	}
	bool in_range = immediate_range(h, s, 0, 1), has_errno = s->kind[4] == ARG_IMM && s->arg[4] > 0 && s->arg[4] < 4096;
	if ((s->op == OP_STORE || s->op == OP_LOAD) && (!in_range || (s->arg[1] != 4 && s->arg[1] != 8)))
		return "store or load outside the data area";
	if (s->op == OP_EXPECT_BYTES && (!in_range || s->kind[2] != ARG_IMM || !fits(h, s->arg[2], s->arg[1])))
		return "comparison outside the data area";
	if ((s->op == OP_EXPECT_BYTES || s->op == OP_EXPECT) && !has_errno)
		return "comparison without an errno";
	if (s->op == OP_EXPECT && (s->kind[1] != ARG_IMM || s->arg[1] > 2))
		return "unknown comparison";
	if (s->op == OP_ITOA && (!in_range || s->arg[1] < 21))
		return "number does not fit where it is written";
	if (s->op == OP_BROKER && s->kind[1] != ARG_DATA)
		return "handler outside the data area";
	return NULL;
}

const char *program_decode(void *buf, size_t len, struct program *p)
{
	struct program_header *h = buf;
	if (len < sizeof *h || len > PROGRAM_MAX)
		return "message too short or too long";
	if (h->magic != PROGRAM_MAGIC)
		return "not a program";
	if (h->step_count == 0 || h->step_count > STEPS_MAX || h->import_count > IMPORTS_MAX)
		return "too many or no steps or imports";
	uint64_t steps = (uint64_t)h->step_count * sizeof(struct step);
	uint64_t relocs = (uint64_t)h->reloc_count * sizeof(struct reloc);
	if (sizeof *h + steps + relocs + h->data_len != len)
		return "length does not match the header";
	if (!fits(h, h->out_off, h->out_len))
		return "slice outside the data area";
	p->header = h;
	p->steps = (struct step *)(h + 1);
	p->relocs = (struct reloc *)(p->steps + h->step_count);
	p->data = (uint8_t *)(p->relocs + h->reloc_count);
	if (h->data_len && p->data[h->data_len - 1])
		return "data area does not end with a zero byte";
	for (uint32_t i = 0; i < h->reloc_count; i++)
		if (!fits(h, p->relocs[i].at, 8) || !fits(h, p->relocs[i].target, 1))
			return "relocation outside the data area";
	for (uint32_t i = 0; i < h->step_count; i++) {
		const char *wrong = step_check(h, &p->steps[i], i);
		if (wrong)
			return wrong;
	}
	return NULL;
}

void program_begin(struct program *p)
{
	for (uint32_t i = 0; i < p->header->reloc_count; i++) {
		uint64_t address = (uint64_t)(uintptr_t)(p->data + p->relocs[i].target);
		memcpy(p->data + p->relocs[i].at, &address, sizeof address);
	}
	memset(p->results, 0, p->header->step_count * sizeof p->results[0]);
}

uint64_t program_value(const struct program *p, const struct step *s, int i)
{
	uint64_t a = s->arg[i];
	return s->kind[i] == ARG_DATA ? (uint64_t)(uintptr_t)(p->data + (uint32_t)a) :
	       s->kind[i] == ARG_RESULT ? (uint64_t)p->results[a] :
	       s->kind[i] == ARG_IMPORT ? (uint64_t)p->imports.fd[a] : a;
}

static int64_t expect(const struct program *p, const struct step *s)
{
	uint64_t have = program_value(p, s, 0), want = program_value(p, s, 2);
	bool holds = s->arg[1] == 0 ? have == want : s->arg[1] == 1 ? have != want : (have & program_value(p, s, 3)) == want;
	return holds ? 0 : -(int64_t)s->arg[4];
}

bool program_compute(struct program *p, const struct step *s, int64_t *result)
{
	int64_t value = 0;
	int32_t narrow;
	*result = 0;
	if (s->op == OP_STORE) {
		value = (int64_t)program_value(p, s, 2);
		narrow = (int32_t)value;
		memcpy(p->data + s->arg[0], s->arg[1] == 4 ? (void *)&narrow : (void *)&value, s->arg[1]);
	} else if (s->op == OP_LOAD) {
		memcpy(s->arg[1] == 4 ? (void *)&narrow : (void *)&value, p->data + s->arg[0], s->arg[1]);
		*result = s->arg[1] == 4 ? narrow : value;
	} else if (s->op == OP_EXPECT) {
		*result = expect(p, s);
	} else if (s->op == OP_EXPECT_BYTES) {
		*result = memcmp(p->data + s->arg[0], p->data + s->arg[2], s->arg[1]) ? -(int64_t)s->arg[4] : 0;
	} else if (s->op == OP_ITOA) {
		*result = snprintf((char *)p->data + s->arg[0], s->arg[1], "%llu", (unsigned long long)program_value(p, s, 2));
	} else {
		return s->op == OP_JUMP;
	}
	return true;
}

uint32_t program_next(const struct program *p, uint32_t i, int64_t result)
{
	const struct step *s = &p->steps[i];
	if (s->op == OP_JUMP || (s->op == OP_SPAWN && result == 0))
		return s->target;
	if (result >= 0 || result <= -4096 || s->op == OP_LOAD) /* what is loaded may be negative */
		return i + 1;
	bool listed = !s->only[0] || s->only[0] == -result || s->only[1] == -result || s->only[2] == -result || s->only[3] == -result;
	if (s->rule == RULE_FAIL || !listed)
		return PROGRAM_FAILED;
	return s->rule == RULE_JUMP ? s->target : i + 1;
}
