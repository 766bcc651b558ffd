/* SPDX-License-Identifier: Apache-2.0
 * Removes what is below a directory, in the presence of anything a guest can put there. Every step is relative to a
 * descriptor and crosses neither a link nor a mount, not even a bind mount of the same file system: RESOLVE_NO_XDEV
 * compares mounts, not st_dev (openat2(2), Linux 5.6). Whoever calls this has ended every process that can write there.
 */
#include "machine.h"
#include <dirent.h>
#include <linux/fs.h>
#include <linux/openat2.h>

#define LEVELS 32 /* what lies deeper moves up: a tree of any depth needs no more descriptors than this */

static struct level {
	int fd;
	bool changed;            /* something went away since the directory was read from its beginning */
	char name[NAME_MAX + 1]; /* in the level above */
} levels[LEVELS];

static int open_below(int dir, const char *name)
{
	struct open_how how = {
		.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	return (int)syscall(SYS_openat2, dir, name, &how, sizeof how);
}

/* Returns 0, ENOTEMPTY for a directory to be emptied first, or the errno. */
static int entry_remove(int dir, const struct dirent64 *entry)
{
	if (entry->d_type != DT_DIR && unlinkat(dir, entry->d_name, 0) == 0)
		return 0;
	/* EISDIR: the file system had not told the type. */
	if ((entry->d_type == DT_DIR || errno == EISDIR) && unlinkat(dir, entry->d_name, AT_REMOVEDIR) == 0)
		return 0;
	return errno == EBUSY ? EXDEV : errno; /* a mount point: named as openat2 names it */
}

/* Moves a subdirectory to the top under an unused name. */
static int move_up(int dir, const char *name, unsigned *counter)
{
	char unused[32];
	do {
		snprintf(unused, sizeof unused, ".vserver-removed-%u", (*counter)++);
		if (syscall(SYS_renameat2, dir, name, levels[0].fd, unused, RENAME_NOREPLACE) == 0)
			return 0;
	} while (errno == EEXIST);
	return errno == EBUSY ? EXDEV : errno;
}

int tree_remove(int dir)
{
	static _Alignas(struct dirent64) char buf[8192];
	unsigned counter = 0;
	int depth = 0, error = 0;
	levels[0] = (struct level){ .fd = open_below(dir, ".") };
	if (levels[0].fd < 0)
		return errno;
	while (!error) {
		struct level *at = &levels[depth];
		long n = syscall(SYS_getdents64, at->fd, buf, sizeof buf);
		if (n < 0) {
			error = errno;
		} else if (n == 0 && at->changed) {
			at->changed = false; /* read again: until nothing is there, whatever order the file system tells */
			error = lseek(at->fd, 0, SEEK_SET) < 0 ? errno : 0;
		} else if (n == 0 && depth == 0) {
			break;
		} else if (n == 0) {
			close(at->fd);
			depth--;
			error = unlinkat(levels[depth].fd, at->name, AT_REMOVEDIR) ? errno : 0;
		}
		const struct dirent64 *entry;
		for (long i = 0; i < n && !error; i += entry->d_reclen) {
			entry = (const struct dirent64 *)(buf + i);
			if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
				continue;
			error = entry_remove(at->fd, entry);
			if (error == ENOTEMPTY && depth + 1 == LEVELS) {
				error = move_up(at->fd, entry->d_name, &counter);
				levels[0].changed = true;
			} else if (error == ENOTEMPTY) {
				struct level *below = &levels[depth + 1];
				*below = (struct level){ .fd = open_below(at->fd, entry->d_name) };
				error = below->fd < 0 || lseek(at->fd, entry->d_off, SEEK_SET) < 0 ? errno : 0;
				snprintf(below->name, sizeof below->name, "%s", entry->d_name);
				depth += below->fd >= 0;
				at->changed = true;
				break; /* the buffer is the lower level's now */
			}
			at->changed |= !error;
		}
	}
	for (; depth >= 0; depth--)
		close(levels[depth].fd);
	return error;
}
