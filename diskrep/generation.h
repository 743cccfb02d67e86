/* SPDX-License-Identifier: Apache-2.0
 * generation - which state a host's disk images are at.
 *
 * A base is a random number that the primary draws for each link and tells the standby before the
 * sync. From checkpoint 0 of that link on, both hosts' images "at (base, e)" are byte for byte the
 * same: the state at the end of epoch e. An image that is nobody's, or of which it is not known, is
 * at no generation.
 */
#ifndef DISKREP_GENERATION_H
#define DISKREP_GENERATION_H

#include <stdint.h>

enum { DR_BASE_LEN = 16 };

/* A base of zeroes: none. */
struct dr_generation {
	uint8_t base[DR_BASE_LEN];
	uint64_t epoch;
};

#endif
