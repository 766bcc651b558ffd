// SPDX-License-Identifier: Apache-2.0
/*
 * Times whole processes: spawn, exec, wait. A static program, so that what is timed is the command and not its parent.
 *
 *   timer ROUNDS WARMUPS [-o] [-g MILLISECONDS] [-f FILE] , COMMAND [ARGUMENT…] , COMMAND [ARGUMENT…] …
 *
 * Every round runs each command once, and begins with another one than the round before it unless -o is given. Prints
 * the number of the command and its nanoseconds, a line for each run after the warm-ups. Standard input and output of
 * the commands are /dev/null, descriptor 3 is FILE, opened anew for each. -g lets so much time pass before each. A
 * command that fails ends the program.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long run(char **command, posix_spawn_file_actions_t *actions)
{
	long long start = now_ns();
	pid_t pid;
	int status;
	int error = posix_spawnp(&pid, command[0], actions, NULL, command, environ);
	if (error) {
		fprintf(stderr, "cannot run \"%s\": %s\n", command[0], strerror(error));
		exit(1);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR) exit(1);
	long long end = now_ns();
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fprintf(stderr, "cannot time \"%s\": found wait status 0x%x; need 0\n", command[0], (unsigned)status);
		exit(1);
	}
	return end - start;
}

int main(int argc, char **argv)
{
	if (argc < 5) return 2;
	int rounds = atoi(argv[1]), warmups = atoi(argv[2]), at = 3, count = 0;
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	int turn = 1;
	if (strcmp(argv[at], "-o") == 0) {
		turn = 0;
		at++;
	}
	useconds_t gap_us = 0;
	if (strcmp(argv[at], "-g") == 0) {
		gap_us = (useconds_t)atoi(argv[at + 1]) * 1000;
		at += 2;
	}
	if (strcmp(argv[at], "-f") == 0) {
		posix_spawn_file_actions_addopen(&actions, 3, argv[at + 1], O_RDONLY, 0);
		at += 2;
	}
	char ***commands = calloc((size_t)argc, sizeof *commands);
	if (!commands) return 1;
	for (; at < argc; at++)
		if (strcmp(argv[at], ",") == 0) {
			argv[at] = NULL;
			commands[count++] = argv + at + 1;
		}
	if (count == 0) return 2;
	for (int round = -warmups; round < rounds; round++)
		for (int i = 0; i < count; i++) {
			int which = (i + turn * (round + warmups)) % count;
			if (gap_us > 0) usleep(gap_us);
			long long ns = run(commands[which], &actions);
			if (round >= 0) printf("%d %lld\n", which, ns);
		}
	return 0;
}
