/* SPDX-License-Identifier: Apache-2.0 */
#ifndef VSERVER_FUZZ_H
#define VSERVER_FUZZ_H
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
/* Decodes and interprets a program at an 8-byte aligned address; returns NULL when its last step was reached. */
const char *interpret(void *message, size_t len);
#endif
