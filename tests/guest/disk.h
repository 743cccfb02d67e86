/* SPDX-License-Identifier: Apache-2.0
 * disk - on each disk one block a turn and a header block, written, read back and checked (proto.h).
 */
#ifndef TESTS_GUEST_DISK_H
#define TESTS_GUEST_DISK_H

#include <stdint.h>

/* The first @n disks on the bus, 2 at most, with the last @scattered blocks of each for writes
 * that no other run repeats. 0: one of them is not there, or is too small. */
int disk_open(unsigned n, uint64_t scattered);
/* Turn @n (from 1): on each disk a scattered block, if there are such, its own block, then the
 * header, in order; @flush them; then read the header and an older block, which @pick chooses.
 * Returns what the header holds; any other outcome is a failed self-check. */
uint64_t disk_turn(uint64_t n, int flush, uint64_t pick);

/* The same for what the disks have got since they were opened: it reads as zeroes at first, and then each turn writes one
 * block of it. Returns how many blocks all of them have. */
uint64_t disk_grow_turn(uint64_t n, uint64_t pick);

/* For benchmarks: keep @depth requests of @bytes under way on the first disk, for ever. */
struct disk_load {
	int write, random;
	unsigned depth; /* DISK_DEPTH_MAX at most */
	uint64_t flush; /* after each so many requests; 0: never */
	uint64_t bytes; /* a multiple of 4096 */
};
enum { DISK_DEPTH_MAX = 16 };
/* Counts what is done in *done_out. */
void disk_load(const struct disk_load *l, volatile uint64_t *done_out);

#endif
