/* SPDX-License-Identifier: Apache-2.0
 * Prints abi.json: what the headers of the machine it is built for say. TypeScript encodes kernel structures only from
 * this, so no architecture is special.
 */
#include "wire.h"
#include "abi-headers.h" /* names: abi-headers.def */

#ifdef __x86_64__ /* ARCH and AUDIT come from the Makefile */
#define COMPAT_ARCH "i386", AUDIT_ARCH_I386
#elif defined __s390x__
#define COMPAT_ARCH "s390", AUDIT_ARCH_S390
#endif
#define MNT_DETACH 2 /* include/linux/fs.h of the kernel; not in its exported headers */

struct named { const char *name; long long value; };
static const struct named syscalls[] = {
#include "abi-syscalls.h"
};
#ifdef COMPAT_ARCH
static const struct named compat[] = {
#include "abi-compat.h"
};
#endif
static const struct named constants[] = { /* names: abi.def */
#include "abi-constants.h"
};
static const struct named errnos[] = {
#include "abi-errnos.h"
};

static void list(const char *key, const struct named *n, size_t count)
{
	printf(",\n\"%s\": {", key);
	for (size_t i = 0; i < count; i++)
		printf("%s\"%s\":%lld", i ? "," : "", n[i].name, n[i].value);
	printf("}");
}
#define LIST(key, of) list(key, of, sizeof of / sizeof *of)

/* A structure: its size and where its fields are, {offset, bytes}. */
#define FIELD(type, f) printf(",\"%s\":[%zu,%zu]", #f, offsetof(type, f), sizeof ((type *)0)->f)
#define BEGIN(type, name) printf("%s\n  \"%s\":{\"size\":%zu", first ? "" : ",", name, sizeof(type)), first = 0
#define END() printf("}")

int main(void)
{
	uint16_t one = 1;
	int first = 1;
	printf("{\"arch\":\"%s\",\"auditArch\":%u,\"littleEndian\":%s,\"pointerBytes\":%zu,\"pageBytes\":%ld", ARCH,
	       (unsigned)AUDIT, *(uint8_t *)&one ? "true" : "false", sizeof(void *), sysconf(_SC_PAGESIZE));
	LIST("syscalls", syscalls);
	LIST("errnos", errnos);
	LIST("constants", constants);
#ifdef COMPAT_ARCH
	struct { const char *name; unsigned arch; } c = { COMPAT_ARCH };
	printf(",\n\"compat\": {\"arch\":\"%s\",\"auditArch\":%u", c.name, c.arch);
	LIST("syscalls", compat);
	printf("}");
#else
	printf(",\n\"compat\": null");
#endif
	printf(",\n\"structs\": {");
	/* structures: abi-structs.def */
#include "abi-structs.h"
	printf("\n}}\n");
	return 0;
}
