/* SPDX-License-Identifier: Apache-2.0
 * The client: sends its command line, directory, environment and three descriptors to the control plane, starting that
 * if nobody listens; then relays signals, text, a terminal if there is one, and the exit code.
 */
#include "daemon.h"
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>

#define START_TIMEOUT_MS 30000
#define LULL_MS 50 /* until a terminal that nobody has open is looked at again */
#define DRAIN_MAX 1024 /* pieces of text that are still taken from the terminal of a command that has ended */

static int sock = -1, master = -1, unwritten; /* the errno of output that was lost */
static const char *root;
static char run_dir[PATH_MAX];
static int argc;
static char **argv;
static bool untouched; /* nothing went either way yet but the request */
static bool relay_input, raw;
static int signalled; /* the last signal we got; who was told to end begins nothing anew */
static struct termios cooked;
static uint8_t message[CLIENT_MESSAGE_MAX];

static void terminal_restore(void)
{
	if (raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &cooked);
	raw = false;
}

static _Noreturn void quit(int code)
{
	terminal_restore();
	exit(code);
}
static _Noreturn void refuse(const char *text)
{
	dprintf(2, "vserver: %s\n", text);
	quit(125);
}

static bool try_connect(void)
{
	/* Through the directory's descriptor: a path of any length fits into sun_path this way. */
	int dir = open(run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	if (dir < 0)
		return false;
	snprintf(at.sun_path, sizeof at.sun_path, "/proc/self/fd/%d/syscalld.sock", dir);
	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	bool reached = connect(sock, (struct sockaddr *)&at, sizeof at) == 0;
	close(dir);
	if (!reached)
		close(sock);
	return reached;
}

static void make_directories(char *path)
{
	for (char *p = path; (p = strchr(p + 1, '/')); *p = '/') {
		*p = 0;
		mkdir(path, 0755);
	}
	if (mkdir(path, 0700) && errno != EEXIST)
		die("make the run directory");
}

static void start(void)
{
	char self[PATH_MAX], vserverd[PATH_MAX + 32];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n < 0)
		die("find our own program");
	self[n] = 0;
	snprintf(vserverd, sizeof vserverd, "%.*s/../bin/vserverd", (int)(strrchr(self, '/') - self), self);
	make_directories(run_dir);
	pid_t pid = fork();
	if (pid < 0)
		die("start syscalld");
	if (pid == 0) {
		setsid();
		int null = open("/dev/null", O_RDWR);
		dup2(null, 0);
		dup2(null, 1);
		syscall(SYS_close_range, 3, ~0U, 0);
		/* A second fork: syscalld is nobody's child, and no zombie when it ends. What it has to say while it starts
		 * still goes to our stderr. */
		if (fork() == 0) {
			execl(self, "syscalld", run_dir, root, vserverd, (char *)NULL);
			_exit(127);
		}
		_exit(0);
	}
	waitpid(pid, NULL, 0);
}

static void reach(void)
{
	if (try_connect())
		return;
	if (geteuid() != 0)
		refuse("cannot reach the control plane: found an ordinary user; need root");
	for (int waited = 0; waited < START_TIMEOUT_MS; waited += 10) {
		if (waited % AGAIN_MS == 0) /* again and again: the one before may have found another one in its way that was just ending */
			start();
		if (try_connect())
			return;
		poll(NULL, 0, 10);
	}
	refuse("cannot start the control plane: found no answer in 30 s; see vserverd.log in the run directory");
}

static size_t add(size_t at, const void *bytes, size_t len)
{
	if (at + len > sizeof message)
		refuse("cannot send the command: found more than 128 KiB of arguments and environment");
	memcpy(message + at, bytes, len);
	return at + len;
}

/* Returns false if the control plane is just ending. */
static bool hello(void)
{
	struct { uint32_t type, terminals; uint16_t rows, cols; uint32_t count; } head = { .type = CLIENT_HELLO, .count = (uint32_t)argc };
	struct winsize size = { 0 };
	char cwd[PATH_MAX];
	for (int fd = 2; fd >= 0; fd--)
		if (isatty(fd)) {
			head.terminals |= 1u << fd;
			ioctl(fd, TIOCGWINSZ, &size);
		}
	head.rows = size.ws_row, head.cols = size.ws_col;
	size_t at = add(0, &head, sizeof head);
	if (!getcwd(cwd, sizeof cwd))
		strcpy(cwd, "/");
	at = add(at, cwd, strlen(cwd) + 1);
	for (int i = 0; i < argc; i++)
		at = add(at, argv[i], strlen(argv[i]) + 1);
	for (char **e = environ; *e; e++)
		at = add(at, *e, strlen(*e) + 1);
	int big = 2 * (int)CLIENT_MESSAGE_MAX;
	setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
	untouched = message_send(sock, &(struct iovec){ message, at }, 1, &(struct fds){ { 0, 1, 2 }, 3 }, MSG_DONTWAIT) >= 0;
	if (!untouched && errno != EPIPE && errno != ECONNRESET)
		die("send the command to the control plane");
	return untouched;
}

/* Hands the command to the control plane, or if that is just ending, to the next one. */
static void request(void)
{
	for (int tries = 0; tries < START_TIMEOUT_MS / 10; tries++) {
		close(sock);
		reach();
		if (hello())
			return;
		poll(NULL, 0, 10);
	}
	refuse("cannot send the command: found the control plane ending again and again");
}

static void send_int(uint32_t type, int32_t value)
{
	int32_t m[2] = { (int32_t)type, value };
	untouched = false;
	message_send(sock, &(struct iovec){ m, sizeof m }, 1, NULL, MSG_DONTWAIT);
}

static void write_all(int fd, const uint8_t *bytes, size_t len)
{
	while (len) {
		ssize_t n = write(fd, bytes, len);
		if (n < 0 && errno == EAGAIN) {
			struct pollfd p = { .fd = fd, .events = POLLOUT };
			poll(&p, 1, -1);
		} else if (n < 0 && errno != EINTR) {
			unwritten = fd == 1 && errno != EPIPE ? errno : unwritten;
			return;
		} else if (n > 0) {
			bytes += n, len -= (size_t)n;
		}
	}
}

static void resize(void)
{
	struct winsize size;
	for (int fd = 0; master >= 0 && fd < 3; fd++)
		if (isatty(fd) && ioctl(fd, TIOCGWINSZ, &size) == 0) {
			ioctl(master, TIOCSWINSZ, &size);
			return;
		}
}

static void terminal_start(int fd, bool input)
{
	master = fd, relay_input = input;
	resize();
	if (input && tcgetattr(STDIN_FILENO, &cooked) == 0) {
		struct termios t = cooked;
		cfmakeraw(&t);
		raw = tcsetattr(STDIN_FILENO, TCSADRAIN, &t) == 0;
	}
}

/* Returns false if nobody in the guest has the terminal open now; to close it would hang up who is just ending. */
static bool terminal_to_user(void)
{
	uint8_t buf[16 * 1024];
	ssize_t n = read(master, buf, sizeof buf);
	if (n > 0)
		write_all(isatty(1) || !isatty(2) ? 1 : 2, buf, (size_t)n); /* to the first of ours that is a terminal */
	return n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN));
}

/* Ctrl-P Ctrl-Q gives the terminal back to the control plane, which keeps it open. */
static void user_to_terminal(void)
{
	static bool armed;
	uint8_t buf[4096], out[sizeof buf + 1];
	size_t len = 0;
	ssize_t n = read(STDIN_FILENO, buf, sizeof buf);
	if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) {
		struct termios t;
		uint8_t eof = tcgetattr(master, &t) == 0 ? t.c_cc[VEOF] : 4;
		write_all(master, &eof, 1);
		relay_input = false;
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		if (armed && buf[i] == 17) {
			uint32_t type = CLIENT_DETACH;
			write_all(master, out, len);
			message_send(sock, &(struct iovec){ &type, sizeof type }, 1, &(struct fds){ { master }, 1 }, MSG_DONTWAIT);
			terminal_restore();
			dprintf(2, "\r\n[detached]\n");
			close(master), master = -1;
			return;
		}
		if (armed)
			out[len++] = 16;
		armed = buf[i] == 16 && raw;
		if (!armed)
			out[len++] = buf[i];
	}
	write_all(master, out, len);
}

static void from_control_plane(void)
{
	struct fds fds;
	uint32_t head[2] = { 0 };
	ssize_t n = message_receive(sock, message, sizeof message, &fds, 0);
	if (n < 0 && errno == ECONNRESET && untouched) /* it ended without having read the request */
		return request();
	if (n < 0 && (errno == EINTR || errno == ECONNRESET)) /* reset: it left something of ours unread; its last word is still there */
		return;
	if (n < 8)
		refuse("cannot finish the command: found the control plane gone");
	memcpy(head, message, 8);
	int code = (int)head[1];
	untouched = false;
	if (head[0] == CLIENT_OUT) {
		write_all((int)head[1], message + 8, (size_t)n - 8);
		send_int(CLIENT_ACK, 0);
	} else if (head[0] == CLIENT_PTY && fds.count == 1) {
		terminal_start(fds.fd[0], head[1] & 1);
	} else if (head[0] == CLIENT_EXIT && code == EXIT_AGAIN && !signalled) {
		request();
	} else if (head[0] == CLIENT_EXIT) {
		/* What the guest wrote last is still on its way; others in there may hold the terminal open for ever. */
		struct pollfd p = { .fd = master, .events = POLLIN };
		for (int i = 0; i < DRAIN_MAX && master >= 0 && poll(&p, 1, 50) > 0 && terminal_to_user(); i++)
			;
		if (unwritten && code == 0)
			errno = unwritten, die("write the output");
		quit(code == EXIT_AGAIN ? 128 + signalled : code);
	}
}

static void from_signals(int fd)
{
	static int interrupts;
	struct signalfd_siginfo info;
	if (read(fd, &info, sizeof info) != sizeof info)
		return;
	if (info.ssi_signo == SIGWINCH)
		resize();
	else
		send_int(CLIENT_SIGNAL, signalled = (int)info.ssi_signo);
	if (info.ssi_signo == SIGINT && ++interrupts == 3 && master < 0)
		refuse("cannot wait any longer: found three interrupts");
}

static int signals_open(void)
{
	static const int forwarded[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH };
	sigset_t set;
	sigemptyset(&set);
	for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++)
		sigaddset(&set, forwarded[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

int client_main(int count, char **words)
{
	char cwd[PATH_MAX], absolute[2 * PATH_MAX];
	for (int fd = 0; fd >= 0 && fd < 3;) /* none of ours may come in the place of one that the caller has closed */
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	root = getenv("VSERVER_ROOT") ?: "";
	argc = count - 1, argv = words + 1;
	while (argc > 0 && strncmp(argv[0], "--root", 6) == 0 && (argv[0][6] == '=' || !argv[0][6])) {
		int used = argv[0][6] ? 1 : 2;
		root = used == 1 ? argv[0] + 7 : argc > 1 ? argv[1] : "";
		if (!*root)
			refuse("cannot read the command line: found --root without a directory");
		argc -= used, argv += used;
	}
	if (*root && *root != '/') {
		if (!getcwd(cwd, sizeof cwd))
			die("find the current directory");
		snprintf(absolute, sizeof absolute, "%s/%s", cwd, root);
		root = absolute;
	}
	snprintf(run_dir, sizeof run_dir, *root ? "%s/run" : "/run/vserver", root);
	int signals = signals_open();
	request();
	for (bool lull = false;;) {
		struct pollfd p[4] = {
			{ .fd = sock, .events = POLLIN },
			{ .fd = signals, .events = POLLIN },
			{ .fd = lull ? -1 : master, .events = POLLIN },
			{ .fd = relay_input && master >= 0 ? STDIN_FILENO : -1, .events = POLLIN },
		};
		if (poll(p, 4, lull ? LULL_MS : -1) < 0 && errno != EINTR)
			die("wait");
		lull = p[2].revents && !terminal_to_user();
		if (p[0].revents)
			from_control_plane();
		if (p[1].revents)
			from_signals(signals);
		if (p[3].revents && master >= 0)
			user_to_terminal();
	}
}
