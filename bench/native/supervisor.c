// SPDX-License-Identifier: Apache-2.0
/*
 * The least that socket(2) takes when somebody else makes the socket: a supervisor that does nothing but wait for a call
 * (seccomp_unotify(2)), make a socket and put it into the caller. Prints, a line for each batch, the nanoseconds of one, and
 * those that both have used.
 *
 *   supervisor BATCHES
 */
#define _GNU_SOURCE
#include <errno.h>
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
#include <time.h>
#include <unistd.h>

#define SOCKETS 500
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

static long now(clockid_t clock)
{
	struct timespec at;
	check(clock_gettime(clock, &at), "clock_gettime");
	return at.tv_sec * 1000000000L + at.tv_nsec;
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
	int made[SOCKETS], ready[2];
	if (argc != 2) return 2;
	check(pipe(ready), "pipe");
	check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	/* The supervisor is forked without the filter: the listener is taken out of the caller. */
	pid_t caller = getpid(), pid = check(fork(), "fork");
	if (pid == 0) {
		int listener, pidfd = check(syscall(SYS_pidfd_open, caller, 0), "pidfd_open");
		if (read(ready[0], &listener, sizeof listener) != sizeof listener) exit(1);
		supervise(check(syscall(SYS_pidfd_getfd, pidfd, listener, 0), "pidfd_getfd"));
	}
	int listener = check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program), "seccomp");
	ioctl(listener, SET_FLAGS, SYNC_WAKE_UP);
	check(write(ready[1], &listener, sizeof listener), "write");
	clockid_t its;
	clock_getcpuclockid(pid, &its);
	for (long batch = atol(argv[1]); batch >= 0; batch--) {
		long before = now(CLOCK_MONOTONIC), used = now(its) + now(CLOCK_PROCESS_CPUTIME_ID);
		for (int i = 0; i < SOCKETS; i++) made[i] = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
		/* The first one warms up. */
		if (batch < atol(argv[1]))
			printf("%ld %ld\n", (now(CLOCK_MONOTONIC) - before) / SOCKETS,
			       (now(its) + now(CLOCK_PROCESS_CPUTIME_ID) - used) / SOCKETS);
		for (int i = 0; i < SOCKETS; i++) close(made[i]);
	}
	fflush(stdout);
	kill(pid, SIGKILL);
	return 0;
}
