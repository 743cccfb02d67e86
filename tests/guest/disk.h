/* SPDX-License-Identifier: Apache-2.0
 * disk - one block a turn and a header block, written, read back and checked (proto.h).
 */
#ifndef TESTS_GUEST_DISK_H
#define TESTS_GUEST_DISK_H

#include <stdint.h>

/* 0: there is no such device, or it is too small. */
int disk_open(void);
/* Turn @n (from 1): its block, then the header, in order; @flush them; then read the header and
 * an older block, which @pick chooses. Returns what the header holds; any other outcome is a
 * failed self-check. */
uint64_t disk_turn(uint64_t n, int flush, uint64_t pick);

#endif
