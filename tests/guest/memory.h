/* SPDX-License-Identifier: Apache-2.0
 * memory - the pages that a turn writes, and whether they still hold what turns wrote.
 */
#ifndef TESTS_GUEST_MEMORY_H
#define TESTS_GUEST_MEMORY_H

#include <stdint.h>

/* @set pages from MEMORY_AT on, of which each turn writes @dirty, round and round. */
#define MEMORY_AT 0x400000ull

/* Check what turn @n - (set / dirty) left in the pages of turn @n, write them whole, check
 * them. Returns what they hold. */
uint64_t memory_turn(uint64_t n, uint64_t dirty, uint64_t set);

/* For benchmarks: change @words words in each page of turn @n, with no check. */
void memory_dirty(uint64_t n, uint64_t dirty, uint64_t set, uint64_t words);

#endif
