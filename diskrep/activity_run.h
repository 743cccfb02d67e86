/* SPDX-License-Identifier: Apache-2.0
 * activity_run - the activity log of a running process: its thread, and what it means for the
 * filter (internal to diskrep).
 *
 * Theory of operation. A write that is not permitted yet leaves the I/O thread's way and waits in
 * the cold list; writes that do not overlap it go on. The thread takes all that is asked for meanwhile, writes it
 * with one fdatasync, and wakes the I/O loop, which tries the cold ones again. Nobody else waits for this
 * disk: not the loop, and no checkpoint.
 *
 * If the file cannot be written, the guest goes on without it, and the file is spoiled: see ACTIVITY.md.
 */
#ifndef DISKREP_ACTIVITY_RUN_H
#define DISKREP_ACTIVITY_RUN_H

#include <pthread.h>

#include "diskrep/activity.h"

struct blk_req;
struct diskrep;
struct dr_disk;

enum { ACT_TIDY_MS = 1000 };

/* Under the diskrep's lock, but for what only the thread has. */
struct dr_activity {
	struct act act;
	int ready;		 /* made: marks are kept */
	int fd;			 /* borrowed; -1: none */
	struct act_file file;	 /* the thread's, once it runs */
	struct act_batch *batch; /* likewise */
	pthread_t thread;
	pthread_cond_t work;
	int running, stop, kicked;
	uint64_t tidy_ns; /* the next act_tidy() */
	int failed;	  /* -errno; no log any more */
	int settled;	  /* what was taken over is in the images, or never will be */
	int sure;	  /* it was tried to flush it */
	uint64_t syncs, waited; /* batches; writes that waited for one */
	void (*on_failed)(void *arg, int rc, int spoiled);
	void *arg;
};

/* Under lock: something may be to be written. */
void dr_activity_kick(struct diskrep *dr);
/* Under lock: there is a log, and it says that what the journal held is this host's images still. */
int dr_may_recall(const struct diskrep *dr);
/* No lock. */
void dr_activity_close(struct diskrep *dr);
void dr_activity_end(struct diskrep *dr); /* the thread, and all memory; idempotent */
/* Under lock: may @r be given to the image? Else it has been asked for. */
int dr_activity_admit(struct dr_disk *d, const struct blk_req *r);
/* Under lock: it was written, and the standby has to hear of it once more, with the running epoch. */
void dr_activity_again(struct dr_disk *d, const struct blk_req *r);
/* Which chunks @r touches. */
void dr_chunks_of(const struct dr_disk *d, const struct blk_req *r, uint64_t *first_out,
		  uint64_t *count_out);
/* All epochs up to @epoch are on the standby's disks, whatever happens there. Any thread, no lock. */
void dr_durable(struct diskrep *dr, uint64_t epoch);
/* I/O thread: a flush of the guest, on its way. */
void dr_activity_flush(struct dr_disk *d, struct blk_req *r);

#endif
