// SPDX-License-Identifier: Apache-2.0
/*
 * What the kernel does for a process, in the shape of lmbench: fork, exec, a shell, context switch, mmap, page fault,
 * system call. Static, and pinned to the last CPU it may use, so that it is the same program everywhere it runs.
 *
 * Prints the name and the nanoseconds of one operation, a line each: the median of BATCHES batches.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BATCHES 9
#define PAGE 4096
#define FAULT_BYTES (4L << 20)
#define FILE_BYTES (16L << 20)
#define STRIDE (16 * 1024)

static const char *self;
static int ping[2], pong[2];
static int file;

static void check(long result, const char *what)
{
	if (result >= 0) return;
	perror(what);
	exit(1);
}

static void wait_for(pid_t pid)
{
	int status;
	check(waitpid(pid, &status, 0), "waitpid");
	if (status != 0) check(-1, "child");
}

static void do_fork(long times)
{
	for (long i = 0; i < times; i++) {
		pid_t pid = fork();
		check(pid, "fork");
		if (pid == 0) _exit(0);
		wait_for(pid);
	}
}

static void spawn(const char *program, char *const *argv, long times)
{
	char *environment[] = {NULL};
	for (long i = 0; i < times; i++) {
		pid_t pid = fork();
		check(pid, "fork");
		if (pid == 0) {
			execve(program, argv, environment);
			_exit(1);
		}
		wait_for(pid);
	}
}

static void do_exec(long times)
{
	char *argv[] = {(char *)"micro", (char *)"exit", NULL};
	spawn(self, argv, times);
}

static void do_shell(long times)
{
	char *argv[] = {(char *)"sh", (char *)"-c", (char *)":", NULL};
	spawn("/bin/sh", argv, times);
}

static void do_switch(long times)
{
	char byte = 0;
	for (long i = 0; i < times; i++) {
		check(write(ping[1], &byte, 1), "write");
		check(read(pong[0], &byte, 1), "read");
	}
}

static void do_mmap(long times)
{
	for (long i = 0; i < times; i++) {
		char *at = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, file, 0);
		if (at == MAP_FAILED) check(-1, "mmap");
		for (long offset = 0; offset < FILE_BYTES; offset += STRIDE) (void)*(volatile char *)(at + offset);
		check(munmap(at, FILE_BYTES), "munmap");
	}
}

static void do_fault(long times)
{
	for (long left = times; left > 0; left -= FAULT_BYTES / PAGE) {
		char *at = mmap(NULL, FAULT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (at == MAP_FAILED) check(-1, "mmap");
		madvise(at, FAULT_BYTES, MADV_NOHUGEPAGE);
		for (long offset = 0; offset < FAULT_BYTES; offset += PAGE) *(volatile char *)(at + offset) = 1;
		check(munmap(at, FAULT_BYTES), "munmap");
	}
}

static void do_syscall(long times)
{
	for (long i = 0; i < times; i++) syscall(SYS_getppid);
}

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void measure(const char *name, void (*operation)(long), long times)
{
	double batches[BATCHES];
	operation(times);
	for (int i = 0; i < BATCHES; i++) {
		double start = now_ns();
		operation(times);
		batches[i] = (now_ns() - start) / (double)times;
	}
	qsort(batches, BATCHES, sizeof *batches, compare);
	printf("%s %.1f\n", name, batches[BATCHES / 2]);
}

static void pin(void)
{
	cpu_set_t all, one;
	check(sched_getaffinity(0, sizeof all, &all), "sched_getaffinity");
	CPU_ZERO(&one);
	for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--)
		if (CPU_ISSET(cpu, &all)) {
			CPU_SET(cpu, &one);
			break;
		}
	check(sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "exit") == 0) return 0;
	self = argv[0];
	pin();

	measure("syscall", do_syscall, 20000);
	measure("page-fault", do_fault, FAULT_BYTES / PAGE);

	file = memfd_create("micro", MFD_CLOEXEC);
	check(file, "memfd_create");
	check(ftruncate(file, FILE_BYTES), "ftruncate");
	char *at = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (at == MAP_FAILED) check(-1, "mmap");
	memset(at, 1, FILE_BYTES);
	check(munmap(at, FILE_BYTES), "munmap");
	measure("mmap", do_mmap, 10);
	close(file);

	check(pipe2(ping, O_CLOEXEC), "pipe2");
	check(pipe2(pong, O_CLOEXEC), "pipe2");
	pid_t echo = fork();
	check(echo, "fork");
	if (echo == 0) {
		char byte;
		close(ping[1]);
		while (read(ping[0], &byte, 1) == 1) check(write(pong[1], &byte, 1), "write");
		_exit(0);
	}
	measure("context-switch", do_switch, 2000);
	close(ping[1]);
	wait_for(echo);

	measure("fork", do_fork, 50);
	measure("exec", do_exec, 30);
	measure("shell", do_shell, 10);
	return 0;
}
