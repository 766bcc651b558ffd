// SPDX-License-Identifier: Apache-2.0
/*
 * Idle processes with what the kernel needs to separate them, and nothing else: what a guest cannot be smaller than.
 *
 *   sleepers COUNT FIRST [CGROUP…]
 *
 * Runs `sleep` COUNT times. With directories of cgroup hierarchies each is in a cgroup of its own below them all, which
 * are numbered from FIRST on, and in new user, mount, pid, UTS, IPC, network, cgroup and time namespaces, with one mount.
 * Prints a line when all sleep; ends with its standard input, kills them, and removes the cgroups.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HIERARCHIES_MAX = 8, FIRST_XID = 30000 };

#define SPACES (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET)

static void must(int is_fine, const char *what)
{
	if (is_fine) return;
	fprintf(stderr, "cannot %s: %s\n", what, strerror(errno));
	kill(0, SIGTERM);
	_exit(1);
}

static void put(int directory, const char *path, const char *text)
{
	int fd = openat(directory, path, O_WRONLY | O_CLOEXEC);
	must(fd >= 0 && write(fd, text, strlen(text)) > 0, path);
	close(fd);
}

static int directory_open(const char *path)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	must(fd >= 0, path);
	return fd;
}

/* A copy of this process's mounts is a copy of one. */
static void leave_mounts(void)
{
	must(unshare(CLONE_NEWNS) == 0, "unshare");
	must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "make mounts private");
	must(mount("/", "/mnt", NULL, MS_BIND, NULL) == 0, "bind the root");
	must(chdir("/mnt") == 0 && syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0, "pivot");
}

static pid_t start(int number, int proc, int count, const int *hierarchies)
{
	char path[64], text[64];
	int gate[2];
	must(pipe2(gate, O_CLOEXEC) == 0, "make a pipe");
	if (count) must(unshare(CLONE_NEWTIME) == 0, "unshare"); /* what is born next is in it */
	struct clone_args args = { .flags = count ? SPACES : 0, .exit_signal = SIGCHLD };
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	must(pid >= 0, "clone");
	if (pid == 0) {
		char go;
		close(gate[1]);
		must(read(gate[0], &go, 1) == 1, "wait");
		if (count) must(unshare(CLONE_NEWCGROUP) == 0, "unshare");
		execlp("sleep", "sleep", "86400", NULL);
		must(0, "run sleep");
	}
	snprintf(text, sizeof text, "0 %d 65536", 65536 * (number + FIRST_XID));
	for (int i = 0; count && i < 2; i++) {
		snprintf(path, sizeof path, "%d/%s", pid, i ? "gid_map" : "uid_map");
		put(proc, path, text);
	}
	snprintf(text, sizeof text, "%d", pid);
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof path, "%d", number);
		must(mkdirat(hierarchies[i], path, 0755) == 0, path);
		strcat(path, "/cgroup.procs");
		put(hierarchies[i], path, text);
	}
	must(write(gate[1], "", 1) == 1, "let go");
	close(gate[0]);
	close(gate[1]);
	return pid;
}

int main(int argc, char **argv)
{
	char name[64];
	int done[2], hierarchies[HIERARCHIES_MAX], count = argc - 3;
	int size = argc > 2 ? atoi(argv[1]) : 0, first = argc > 2 ? atoi(argv[2]) : 0;
	pid_t *pids = calloc((size_t)size + 1, sizeof *pids);
	must(size > 0 && count <= HIERARCHIES_MAX && pids != NULL, "start: COUNT and FIRST are to be numbers");
	setpgid(0, 0);
	int proc = directory_open("/proc");
	for (int i = 0; i < count; i++) hierarchies[i] = directory_open(argv[i + 3]);
	leave_mounts();
	must(pipe2(done, O_CLOEXEC) == 0, "make a pipe");
	for (int i = 0; i < size; i++) pids[i] = start(first + i, proc, count, hierarchies);
	close(done[1]);
	while (read(done[0], name, sizeof name) > 0) continue;
	puts("all sleep");
	fflush(stdout);
	while (read(0, name, sizeof name) > 0) continue;
	for (int i = 0; i < size; i++) kill(pids[i], SIGKILL);
	for (int i = 0; i < size; i++) waitpid(pids[i], NULL, 0);
	for (int i = 0; i < size; i++) {
		snprintf(name, sizeof name, "%d", first + i);
		for (int j = 0; j < count; j++) unlinkat(hierarchies[j], name, AT_REMOVEDIR);
	}
	return 0;
}
