/* SPDX-License-Identifier: Apache-2.0
 * room - memory for what one epoch writes: taken piece by piece, given back at once (internal to diskrep).
 *
 * Theory of operation. Pieces are cut from blocks, and blocks go back to a pool when the epoch is in the
 * images. So an epoch costs no allocation for each of its writes, nor the page faults of memory that the
 * allocator gave back in between. The first block of an epoch is small, as most epochs are.
 *
 * A pool may be used by any threads, a room by one at a time.
 */
#ifndef DISKREP_ROOM_H
#define DISKREP_ROOM_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum {
	DR_ROOM_SMALL = 16 << 10,
	DR_ROOM_BLOCK = 256 << 10,
	DR_ROOM_SPARE = 32 << 20, /* bytes that a pool keeps */
};

struct dr_block {
	struct dr_block *next;
	size_t cap, len;
	_Alignas(16) uint8_t data[];
};

struct dr_pool {
	pthread_mutex_t lock;
	struct dr_block *small, *large; /* spare */
	size_t bytes;			/* of both */
};

struct dr_room {
	struct dr_block *first; /* the only one that has anything left */
};

void dr_pool_init(struct dr_pool *p);
void dr_pool_fini(struct dr_pool *p); /* all rooms were given back */
/* @len bytes in one piece, aligned to 16, good until dr_room_give(). NULL: out of memory. */
void *dr_room_take(struct dr_pool *p, struct dr_room *r, size_t len);
void dr_room_give(struct dr_pool *p, struct dr_room *r);

#endif
