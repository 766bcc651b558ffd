/* SPDX-License-Identifier: Apache-2.0
 *
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

static bool immediate_errno(const struct step *s)
{
	return s->kind[4] == ARG_IMM && s->arg[4] > 0 && s->arg[4] < 4096;
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
		switch (s->kind[i]) {
		case ARG_IMM:
			break;
		case ARG_DATA:
			if (!fits(h, (uint32_t)s->arg[i], s->arg[i] >> 32))
				return "data argument outside the data area";
			break;
		case ARG_RESULT:
			if (s->arg[i] >= index)
				return "result of a later step";
			break;
		case ARG_IMPORT:
			if (s->arg[i] >= h->import_count)
				return "import that did not come";
			break;
		default:
			return "unknown argument kind";
		}
	}
	switch (s->op) {
	case OP_STORE:
	case OP_LOAD:
		if (!immediate_range(h, s, 0, 1) || (s->arg[1] != 4 && s->arg[1] != 8))
			return "store or load outside the data area";
		break;
	case OP_EXPECT_BYTES:
		if (!immediate_range(h, s, 0, 1) || s->kind[2] != ARG_IMM || !fits(h, s->arg[2], s->arg[1]))
			return "comparison outside the data area";
		return immediate_errno(s) ? NULL : "comparison without an errno";
	case OP_EXPECT:
		if (s->kind[1] != ARG_IMM || s->arg[1] > 2 || !immediate_errno(s))
			return "unknown comparison, or one without an errno";
		break;
	case OP_ITOA:
		if (!immediate_range(h, s, 0, 1) || s->arg[1] < 21)
			return "number does not fit where it is written";
		break;
	case OP_BROKER:
		if (s->kind[1] != ARG_DATA)
			return "handler outside the data area";
		break;
	default:
		break;
	}
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
	switch (s->kind[i]) {
	case ARG_DATA:
		return (uint64_t)(uintptr_t)(p->data + (uint32_t)s->arg[i]);
	case ARG_RESULT:
		return (uint64_t)p->results[s->arg[i]];
	case ARG_IMPORT:
		return (uint64_t)p->imports.fd[s->arg[i]];
	default:
		return s->arg[i];
	}
}

static int64_t itoa(uint8_t *to, uint64_t value)
{
	char digits[20];
	int n = 0;
	do
		digits[n++] = (char)('0' + value % 10);
	while (value /= 10);
	for (int i = 0; i < n; i++)
		to[i] = (uint8_t)digits[n - 1 - i];
	to[n] = 0;
	return n;
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
	switch (s->op) {
	case OP_STORE:
		value = (int64_t)program_value(p, s, 2);
		narrow = (int32_t)value;
		memcpy(p->data + s->arg[0], s->arg[1] == 4 ? (void *)&narrow : (void *)&value, s->arg[1]);
		return true;
	case OP_LOAD:
		memcpy(s->arg[1] == 4 ? (void *)&narrow : (void *)&value, p->data + s->arg[0], s->arg[1]);
		*result = s->arg[1] == 4 ? narrow : value;
		return true;
	case OP_EXPECT:
		*result = expect(p, s);
		return true;
	case OP_EXPECT_BYTES:
		*result = memcmp(p->data + s->arg[0], p->data + s->arg[2], s->arg[1]) ? -(int64_t)s->arg[4] : 0;
		return true;
	case OP_ITOA:
		*result = itoa(p->data + s->arg[0], program_value(p, s, 2));
		return true;
	case OP_JUMP:
		return true;
	default:
		return false;
	}
}

static bool rule_covers(const struct step *s, int64_t error)
{
	if (!s->only[0])
		return true;
	for (int i = 0; i < 4; i++)
		if (s->only[i] == error)
			return true;
	return false;
}

uint32_t program_next(const struct program *p, uint32_t i, int64_t result)
{
	const struct step *s = &p->steps[i];
	if (s->op == OP_JUMP || (s->op == OP_SPAWN && result == 0))
		return s->target;
	if (result >= 0 || result <= -4096 || s->op == OP_LOAD) /* what is loaded may be negative */
		return i + 1;
	if (s->rule == RULE_FAIL || !rule_covers(s, -result))
		return PROGRAM_FAILED;
	return s->rule == RULE_JUMP ? s->target : i + 1;
}
