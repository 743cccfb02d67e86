/* SPDX-License-Identifier: Apache-2.0
 * part_memory_priv - what the files of the primary's memory participant share.
 */
#ifndef REMUS_PART_MEMORY_PRIV_H
#define REMUS_PART_MEMORY_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "hv/base/buf.h"
#include "remus/pagepool.h"
#include "remus/parts.h"
#include "replication/pagecodec.h"

/* What one capture took. The arrays have room for all of memory, so that nothing is allocated
 * while the guest stands; untouched parts of them cost address space only. */
struct shot {
	uint64_t epoch;
	size_t n;
	uint64_t *index;
	void **page;
	struct shot *next;
};

struct mem_part {
	struct gm *gm;
	uint64_t pages;
	uint64_t *todo; /* bitmap: the peer does not have these */
	struct page_pool pool;
	atomic_uint_fast64_t last_dirty;

	pthread_mutex_t lock; /* the queue, the free list, @shown */
	struct shot *head, **tail, *free;
	struct pc_stats shown;

	/* Sender only. */
	struct pc_cache *cache;
	struct buf batch;
	struct pc_stats stats;
	size_t peak; /* pages of recent captures */
	int first_round;
	int peer_fits; /* written by the receiver before the engine starts the sync */
};

/* part_memory.c; sender */
/* Append the page to the batch, as a delta if the peer is known to have it. */
int mem_encode(struct mem_part *m, struct rec_sink *sink, uint64_t epoch, uint64_t index,
	       const void *page);
/* Send a copy, which then is what the peer has: the cache takes it and gives another page, or
 * NULL, in its place. */
int mem_send_page(struct mem_part *m, struct rec_sink *sink, uint64_t epoch,
		  uint64_t index, void **page);
/* Put out the batch that is not full yet. */
int mem_flush(struct mem_part *m, struct rec_sink *sink, uint64_t epoch);
/* One spare shot, and spare pages for a capture like the recent ones and this of @dirty. */
void mem_settle(struct mem_part *m, size_t dirty);
/* How many bits of a bitmap over memory are set. */
size_t mem_bits(const uint64_t *map, uint64_t pages);

/* part_memory_sync.c: operations of part_ops */
int mem_sync_begin(void *self, struct rec_sink *sink, struct err *err);
int mem_sync_round(void *self, struct rec_sink *sink, uint64_t *left_out,
		   struct err *err);
int mem_peer_record(void *self, uint16_t type, const void *p, size_t len,
		    struct err *err);

#endif
