/* SPDX-License-Identifier: Apache-2.0
 * part_memory_priv - what the files of the primary's memory participant share.
 */
#ifndef REMUS_PART_MEMORY_PRIV_H
#define REMUS_PART_MEMORY_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "hv/base/buf.h"
#include "remus/hotpages.h"
#include "remus/pagepool.h"
#include "remus/parts.h"
#include "remus/shot.h"
#include "replication/pagecodec.h"

enum { MEM_LANES_MAX = 8 };

/* What one encoder has. */
struct lane {
	struct mem_part *m;
	unsigned k;
	struct pc_cache *cache; /* what the peer has, by the page's number in the lane */
	struct buf own, *batch; /* the batch: its own, or the one of all */
	struct pc_stats stats;	/* since the last flush */
	struct data_run {
		uint64_t from, to; /* a stretch of the memfd, as page numbers */
	} run;
	struct rec_sink *sink;
	uint64_t epoch;
	int rc;
};
typedef int mem_lane_fn(struct lane *l); /* 0 or -errno */

struct mem_part {
	struct gm *gm;
	struct vm *vm; /* NULL: nobody helps to copy */
	uint64_t pages;
	uint64_t *todo; /* bitmap: the peer does not have these */
	struct page_pool pool;
	struct shots shots;
	atomic_uint_fast64_t last_dirty;

	pthread_mutex_t lock; /* @shown */
	struct pc_stats shown;

	/* Epoch thread only (part_memory_capture.c), and sync_begin, which the engine keeps
	 * apart from it. */
	struct hot hot;
	uint64_t *words;   /* bitmap over the words of @todo: all that are not 0 */
	uint64_t *protect; /* bitmap: about to be protected; empty between two captures */
	uint32_t *touched; /* words of @protect that are not empty, in order */
	size_t n_touched;
	struct shot *shot; /* of the epoch that runs: what was copied ahead; or NULL */
	uint32_t *slot;	   /* of a page: where in @shot it may be */
	uint32_t *again;   /* slots whose pages were written since they were copied */
	size_t n_again, fresh; /* fresh: pages of @shot before those that are new now */
	atomic_size_t taken, taken_behind; /* pieces of work, in all and from the back */

	/* Epoch thread only (part_memory_verify.c). */
	struct {
		uint64_t interval, last; /* ns */
		uint64_t next;		 /* page */
		unsigned n;
		struct digest {
			uint64_t page, digest;
			int certain; /* of a copy, and not of what the guest may have changed */
		} digest[SHOT_DIGESTS];
	} verify;

	/* The sender, and who encodes for it (part_memory_encode.c). */
	unsigned lanes;
	struct lane lane[MEM_LANES_MAX];
	struct gang *gang; /* of the lanes but the first */
	mem_lane_fn *lane_fn;
	pthread_mutex_t put_lock; /* the sink */
	struct page_twins *twins;
	struct shot *sending;

	/* Sender only. */
	size_t peak; /* pages of recent captures */
	int first_round;
	int peer_fits; /* written by the receiver before the engine starts the sync */
};

/* part_memory_encode.c; sender */
int mem_encode_init(struct mem_part *m, size_t slots,
		    unsigned lanes); /* 0 or -errno; fini in either case */
void mem_encode_fini(struct mem_part *m);
void mem_encode_reset(struct mem_part *m); /* a new peer: it has nothing */
int mem_send(void *self, uint64_t epoch, struct rec_sink *sink, struct err *err);
/* Call @fn for each lane and put everything out; for many @pages all at once. */
int mem_lanes_run(struct mem_part *m, struct rec_sink *sink, uint64_t epoch, size_t pages,
		  mem_lane_fn *fn);
/* Within @fn: does the page belong to this lane? */
int mem_lane_has(const struct lane *l, uint64_t index);
/* Within @fn: a page that was never written and that the peer was told nothing of yet. */
int mem_lane_zero(struct lane *l, uint64_t index);
/* Within @fn: send a copy, *@page, which then is what the peer has: the cache takes it and gives
 * another page, or NULL, in its place. */
int mem_lane_send(struct lane *l, const struct pc_among *among, void **page);

/* part_memory.c; sender */
/* One spare shot, and spare pages for a capture like the recent ones and this of @dirty. */
void mem_settle(struct mem_part *m, size_t dirty);
/* A shot's pages to the pool, itself to the spare ones. Any thread. */
void mem_shot_put(struct mem_part *m, struct shot *s);
/* How many bits of a bitmap over memory are set. */
size_t mem_bits(const uint64_t *map, uint64_t pages);

/* part_memory_capture.c */
int mem_capture_init(struct mem_part *m); /* 0 or -ENOMEM; fini in either case */
void mem_capture_fini(struct mem_part *m);
void mem_capture_reset(
	struct mem_part *m); /* a new peer: nothing is hot, nothing ahead */
/* Operations of part_ops. */
int mem_ahead(void *self, uint64_t epoch, struct err *err);
int mem_capture(void *self, uint64_t epoch, struct err *err);

/* Is the page in the shot of the epoch that runs? */
int mem_is_listed(const struct mem_part *m, uint64_t index);

/* part_memory_verify.c; epoch thread */
/* Guest running, before @epoch is captured: digests of some pages as of the checkpoint before. */
void mem_verify_read(struct mem_part *m, uint64_t epoch);
/* Captured: those that are true go into the shot. */
void mem_verify_keep(struct mem_part *m);

/* part_memory_sync.c: the first stretch at or after @page that was ever written. Reading the rest
 * through the mapping would make the kernel allocate it. */
struct data_run mem_next_data(const struct mem_part *m, uint64_t page);
/* part_memory_sync.c: operations of part_ops */
int mem_sync_begin(void *self, struct rec_sink *sink, struct err *err);
int mem_sync_round(void *self, struct rec_sink *sink, uint64_t *left_out,
		   struct err *err);
int mem_peer_record(void *self, uint16_t type, const void *p, size_t len,
		    struct err *err);

#endif
