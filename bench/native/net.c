// SPDX-License-Identifier: Apache-2.0
/*
 * What the network does for a process: a stream, requests and answers, connections, many connections, socket(2).
 *
 *   net serve ADDRESS            serves all of it there until it is killed; says `ready`
 *   net client ADDRESS           for each line it reads does a batch of the kind that it names, and prints the
 *                                nanoseconds of one, and those that its own process used
 *   net drive ROUNDS KIND... , PIDS CLIENT... , PIDS CLIENT...
 *                                starts clients and lets them work in turns, one at a time; prints `client kind`, the
 *                                nanoseconds of one, and those that the client, its children and the processes PIDS (1,2,3) used
 *
 * Static, so that it is the same program everywhere it runs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { ECHO_PORT = 7100, SINK_PORT, ACCEPT_PORT };
#define MANY 1000
#define SOCKETS 500
#define STREAM_BYTES (48L << 20)
#define CHUNK (128 << 10)
#define CLIENTS_MAX 12

static struct sockaddr_in server = {.sin_family = AF_INET};
static char chunk[CHUNK];

static int check(int result, const char *what)
{
	if (result >= 0) return result;
	perror(what);
	exit(1);
}

static int open_socket(int type, int port)
{
	int s = check(socket(AF_INET, type, 0), "socket");
	server.sin_port = htons(port);
	return s;
}

static int connected(int type, int port)
{
	int s = open_socket(type, port), on = 1;
	check(connect(s, (struct sockaddr *)&server, sizeof server), "connect");
	if (type == SOCK_STREAM) setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return s;
}

/* ---- servers ---- */

static int listening(int type, int port)
{
	int s = open_socket(type, port), on = 1;
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	check(bind(s, (struct sockaddr *)&server, sizeof server), "bind");
	if (type == SOCK_STREAM) check(listen(s, 4096), "listen");
	return s;
}

/* Answers each byte with itself, on any number of connections. */
static void serve_echo(int l)
{
	int poll = check(epoll_create1(0), "epoll"), on = 1;
	struct epoll_event event = {.events = EPOLLIN, .data.fd = l}, ready[64];
	check(epoll_ctl(poll, EPOLL_CTL_ADD, l, &event), "epoll_ctl");
	for (;;) {
		int count = epoll_wait(poll, ready, COUNT(ready), -1);
		for (int i = 0; i < count; i++) {
			int fd = ready[i].data.fd;
			if (fd == l) {
				event.data.fd = accept(l, NULL, NULL);
				setsockopt(event.data.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
				epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
				continue;
			}
			ssize_t length = read(fd, chunk, sizeof chunk);
			if (length <= 0 || write(fd, chunk, length) != length) close(fd);
		}
	}
}

static void serve_datagrams(int s)
{
	struct sockaddr_in peer;
	for (;;) {
		socklen_t size = sizeof peer;
		ssize_t length = recvfrom(s, chunk, sizeof chunk, 0, (struct sockaddr *)&peer, &size);
		if (length >= 0) sendto(s, chunk, length, 0, (struct sockaddr *)&peer, size);
	}
}

static void serve_sink(int l)
{
	for (;;) {
		int fd = accept(l, NULL, NULL);
		while (read(fd, chunk, sizeof chunk) > 0)
			;
		close(fd);
	}
}

static void serve_accepts(int l)
{
	for (;;) close(accept(l, NULL, NULL));
}

static void raise_limit(void)
{
	struct rlimit files = {4096, 4096};
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
}

static void serve(void)
{
	static const struct {
		int type, port;
		void (*run)(int);
	} servers[] = {
		{SOCK_STREAM, ECHO_PORT, serve_echo},
		{SOCK_DGRAM, ECHO_PORT, serve_datagrams},
		{SOCK_STREAM, SINK_PORT, serve_sink},
		{SOCK_STREAM, ACCEPT_PORT, serve_accepts},
	};
	for (size_t i = 0; i < COUNT(servers); i++) {
		int s = listening(servers[i].type, servers[i].port);
		pid_t pid = check(fork(), "fork");
		if (pid > 0) continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		servers[i].run(s);
	}
	puts("ready");
	fclose(stdout);
	for (;;) pause();
}

/* ---- the client ---- */

static int echo_fd = -1, datagram_fd = -1, many[MANY];

static void ping(int fd)
{
	char byte = 1;
	check(write(fd, &byte, 1), "write");
	if (read(fd, &byte, 1) != 1) check(-1, "answer");
}

static void do_stream(long bytes)
{
	int s = connected(SOCK_STREAM, SINK_PORT);
	for (long left = bytes * 1024; left > 0; left -= CHUNK) {
		for (ssize_t at = 0; at < CHUNK;) at += check(write(s, chunk + at, CHUNK - at), "write");
	}
	shutdown(s, SHUT_WR);
	if (read(s, chunk, 1) != 0) check(-1, "end of stream");
	close(s);
}

static void do_requests(long times)
{
	if (echo_fd < 0) echo_fd = connected(SOCK_STREAM, ECHO_PORT);
	while (times-- > 0) ping(echo_fd);
}

static void do_datagrams(long times)
{
	struct timeval patience = {.tv_sec = 2};
	if (datagram_fd < 0) datagram_fd = connected(SOCK_DGRAM, ECHO_PORT);
	setsockopt(datagram_fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	while (times-- > 0) ping(datagram_fd);
}

static void do_connections(long times)
{
	/* A reset leaves nobody in TIME_WAIT, so that a long run does not run out of ports. */
	struct linger reset = {.l_onoff = 1};
	while (times-- > 0) {
		int s = connected(SOCK_STREAM, ACCEPT_PORT);
		if (read(s, chunk, 1) > 0) check(-1, "end of connection");
		setsockopt(s, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(s);
	}
}

static void do_many(long times)
{
	static int next;
	if (many[0] == 0)
		for (int i = 0; i < MANY; i++) many[i] = connected(SOCK_STREAM, ECHO_PORT);
	for (; times > 0; times--, next = (next + 1) % MANY) ping(many[next]);
}

static int made[SOCKETS];

static void do_sockets(long times)
{
	for (long i = 0; i < times; i++) made[i] = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
}

static void do_datagram_sockets(long times)
{
	for (long i = 0; i < times; i++) made[i] = check(socket(AF_INET, SOCK_DGRAM, 0), "socket");
}

static void close_sockets(void)
{
	for (int i = 0; i < SOCKETS; i++) close(made[i]);
}

static const struct {
	const char *name;
	void (*run)(long);
	long times;
	void (*after)(void); /* what is not timed */
} kinds[] = {
	{"stream", do_stream, STREAM_BYTES / 1024, NULL}, /* of one KiB */
	{"tcp-rr", do_requests, 1000, NULL},
	{"udp-rr", do_datagrams, 1000, NULL},
	{"connect", do_connections, 300, NULL},
	{"many", do_many, MANY, NULL},
	{"socket", do_sockets, SOCKETS, close_sockets},
	{"udp-socket", do_datagram_sockets, SOCKETS, close_sockets},
};

static double now(clockid_t clock)
{
	struct timespec at;
	clock_gettime(clock, &at);
	return at.tv_sec * 1e9 + at.tv_nsec;
}

static int client(void)
{
	char line[32];
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		for (size_t i = 0; i < COUNT(kinds); i++) {
			if (strcmp(kinds[i].name, line) != 0) continue;
			double at = now(CLOCK_MONOTONIC), used = now(CLOCK_PROCESS_CPUTIME_ID);
			kinds[i].run(kinds[i].times);
			printf("%.2f %.2f %ld\n", (now(CLOCK_MONOTONIC) - at) / kinds[i].times,
			       (now(CLOCK_PROCESS_CPUTIME_ID) - used) / kinds[i].times, kinds[i].times);
			fflush(stdout);
			if (kinds[i].after) kinds[i].after();
		}
	}
	return 0;
}

/* ---- the driver ---- */

struct child {
	pid_t pid;
	FILE *in, *out;
	const char *pids;
};

/* Nanoseconds that processes of one thread have used (Documentation/scheduler/sched-stats.rst). */
static double used_by(const char *pids)
{
	double sum = 0, used;
	char path[64], *end;
	for (long pid; (pid = strtol(pids, &end, 10)) > 0; pids = *end == ',' ? end + 1 : end) {
		snprintf(path, sizeof path, "/proc/%ld/schedstat", pid);
		FILE *file = fopen(path, "r");
		if (!file || fscanf(file, "%lf", &used) != 1) check(-1, path);
		fclose(file);
		sum += used;
	}
	return sum;
}

/* The same of the children of a process: a supervisor, of one that has it. */
static double used_by_children(pid_t pid)
{
	char path[64], pids[256] = "";
	snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
	FILE *file = fopen(path, "r");
	if (!file || !fgets(pids, sizeof pids, file)) *pids = 0;
	if (file) fclose(file);
	for (char *at = pids; (at = strchr(at, ' ')); at++) *at = at[1] ? ',' : 0;
	return used_by(pids);
}

static struct child start(const char *pids, char **argv)
{
	int in[2], out[2];
	check(pipe2(in, 02000000), "pipe"); /* O_CLOEXEC */
	check(pipe2(out, 02000000), "pipe");
	pid_t pid = check(fork(), "fork");
	if (pid == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execvp(argv[0], argv);
		check(-1, argv[0]);
	}
	close(in[0]);
	close(out[1]);
	return (struct child){pid, fdopen(in[1], "w"), fdopen(out[0], "r"), pids};
}

static int drive(int argc, char **argv)
{
	struct child children[CLIENTS_MAX];
	char line[64], **names = argv + 1;
	int count = 0, kind_count = 0;
	long rounds = atol(argv[0]);
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], ",") != 0) continue;
		if (kind_count == 0) kind_count = i - 1;
		argv[i] = NULL;
		if (i + 1 < argc && count < CLIENTS_MAX) count++;
	}
	for (int i = 1, child = 0; i < argc - 1 && child < count; i++)
		if (argv[i] == NULL) children[child++] = start(argv[i + 1], argv + i + 2);
	/* The first round warms up. */
	for (long round = -1; round < rounds; round++) {
		for (int k = 0; k < kind_count; k++) {
			for (int i = 0; i < count; i++) {
				struct child *it = &children[(i + round + 1) % count];
				double before = used_by(it->pids) + used_by_children(it->pid), wall, own;
				long times;
				fprintf(it->in, "%s\n", names[k]);
				fflush(it->in);
				if (!fgets(line, sizeof line, it->out)) check(-1, "a client ended");
				if (sscanf(line, "%lf %lf %ld", &wall, &own, &times) != 3) check(-1, line);
				double used = own + (used_by(it->pids) + used_by_children(it->pid) - before) / times;
				if (round >= 0) printf("%ld %s %.2f %.2f\n", it - children, names[k], wall, used);
			}
		}
	}
	for (int i = 0; i < count; i++) fclose(children[i].in);
	while (wait(NULL) > 0)
		;
	return 0;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	raise_limit();
	if (argc == 3 && inet_pton(AF_INET, argv[2], &server.sin_addr) == 1) {
		if (strcmp(argv[1], "serve") == 0) serve();
		if (strcmp(argv[1], "client") == 0) return client();
	}
	if (argc >= 4 && strcmp(argv[1], "drive") == 0) return drive(argc - 2, argv + 2);
	fputs("usage: net serve ADDRESS | net client ADDRESS | net drive ROUNDS KIND... , PIDS CLIENT...\n", stderr);
	return 2;
}
