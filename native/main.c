/* SPDX-License-Identifier: Apache-2.0
 * One static binary, two programs: the client, which everybody calls, and syscalld, which the client starts. */
#include "daemon.h"
#include "machine.h"

int main(int argc, char **argv)
{
	const char *name = strrchr(argv[0], '/');
	title_init(argc, argv);
	return strcmp(name ? name + 1 : argv[0], "syscalld") == 0 && argc == 4 ? daemon_main(argv) : client_main(argc, argv);
}
