// SPDX-License-Identifier: Apache-2.0
/*
 * The least that socket(2) takes when somebody else makes the socket: runs a command whose sockets are made by a supervisor, a
 * child of it, that does nothing but wait for a call (seccomp_unotify(2)), make a socket and put it into the caller.
 *
 *   supervisor COMMAND...
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SET_FLAGS _IOW('!', 4, unsigned long long) /* SECCOMP_IOCTL_NOTIF_SET_FLAGS, Linux 6.6 */
#define SYNC_WAKE_UP 1ULL

static int check(long result, const char *what)
{
	if (result >= 0) return (int)result;
	perror(what);
	exit(1);
}

static void supervise(int listener)
{
	struct sched_param priority = {0};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sched_setscheduler(0, SCHED_BATCH, &priority);
	for (;;) {
		struct seccomp_notif call = {0};
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call)) {
			if (errno == EINTR) continue;
			exit(0);
		}
		int made = socket((int)call.data.args[0], (int)call.data.args[1], (int)call.data.args[2]);
		struct seccomp_notif_addfd add = {.id = call.id, .srcfd = made, .flags = SECCOMP_ADDFD_FLAG_SEND};
		check(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add), "add");
		close(made);
	}
}

int main(int argc, char **argv)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
	int ready[2], taken[2];
	if (argc < 2) return 2;
	check(pipe2(ready, O_CLOEXEC), "pipe");
	check(pipe2(taken, O_CLOEXEC), "pipe");
	check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	/* The supervisor is forked without the filter: the listener is taken out of the caller. */
	pid_t caller = getpid();
	if (check(fork(), "fork") == 0) {
		int listener, pidfd = check(syscall(SYS_pidfd_open, caller, 0), "pidfd_open");
		if (read(ready[0], &listener, sizeof listener) != sizeof listener) exit(1);
		listener = check(syscall(SYS_pidfd_getfd, pidfd, listener, 0), "pidfd_getfd");
		check(write(taken[1], "", 1), "write");
		supervise(listener);
	}
	int listener = check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program), "seccomp");
	ioctl(listener, SET_FLAGS, SYNC_WAKE_UP);
	check(write(ready[1], &listener, sizeof listener), "write");
	/* The command does not keep it: by then the supervisor has to have it. */
	char done;
	check(read(taken[0], &done, 1), "read");
	execvp(argv[1], argv + 1);
	return check(-1, argv[1]);
}
