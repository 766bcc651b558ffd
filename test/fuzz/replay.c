/* SPDX-License-Identifier: Apache-2.0
 *
 * Gives files to the fuzz target where there is no libFuzzer. With -r, says whether each is a program that
 * decodes and runs to its end.
 */
#include "fuzz.h"
#include "machine.h"
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	static _Alignas(8) uint8_t bytes[8 + FRAME_MAX];
	bool run = argc > 1 && strcmp(argv[1], "-r") == 0;
	for (int i = 1 + run; i < argc; i++) {
		FILE *file = fopen(argv[i], "rb");
		size_t len = file ? fread(bytes + 7, 1, sizeof bytes - 7, file) : 0; /* what follows the first byte is aligned */
		if (!file || fclose(file) || len == 0)
			return 2;
		const char *wrong = run ? interpret(bytes + 8, len - 1) : NULL;
		if (run)
			printf("%s\n", wrong ? wrong : "ok");
		else
			LLVMFuzzerTestOneInput(bytes + 7, len);
		if (wrong)
			return 1;
	}
	return 0;
}
