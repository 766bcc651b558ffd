/* SPDX-License-Identifier: Apache-2.0
 * Times open + read + close of files in turns, by one process or several at a time.
 *
 *     reads READERS ROUNDS GAP_US FILE…      prints for each reading: index of the file, nanoseconds
 *
 * The file "sysinfo" is that system call.
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int read_one(const char *file)
{
	static char buf[256 * 1024];
	if (strcmp(file, "sysinfo") == 0)
		return sysinfo((struct sysinfo *)(void *)buf);
	int fd = open(file, O_RDONLY);
	return fd < 0 || read(fd, buf, sizeof buf) < 0 || close(fd);
}

static void read_all(int rounds, unsigned gap_us, int count, char **files)
{
	uint64_t *took = calloc((size_t)rounds * (size_t)count, sizeof *took);
	if (!took)
		err(1, "memory");
	/* A warm-up, and then in turns of 20 of the same: as a reader that polls one file. */
	for (int round = -20; round < rounds; round += 20)
		for (int i = 0; i < count; i++)
			for (int n = 0; n < 20; n++) {
				if (gap_us)
					usleep(gap_us);
				uint64_t from = now_ns();
				if (read_one(files[i]))
					err(1, "%s", files[i]);
				if (round >= 0 && round + n < rounds)
					took[(round + n) * count + i] = now_ns() - from;
			}
	for (int i = 0; i < rounds * count; i++)
		printf("%d %llu\n", i % count, (unsigned long long)took[i]);
	fflush(stdout);
	free(took);
}

int main(int argc, char **argv)
{
	if (argc < 5)
		errx(2, "usage: reads READERS ROUNDS GAP_US FILE…");
	int readers = atoi(argv[1]), status, failed = 0;
	static char buffer[1 << 20];
	setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
	for (int i = 0; i < readers; i++)
		if (fork() == 0) {
			read_all(atoi(argv[2]), (unsigned)atoi(argv[3]), argc - 4, argv + 4);
			_exit(0);
		}
	while (wait(&status) > 0)
		failed |= status;
	return failed != 0;
}
