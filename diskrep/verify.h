/* SPDX-License-Identifier: Apache-2.0
 * verify - are the standby's images what they should be? Asked online, chunk by chunk (internal to
 * diskrep).
 *
 * Theory of operation. A thread reads some chunks of our image and takes their digests while the guest runs. From
 * before it reads a chunk until the next checkpoint's capture, every write to that chunk is noticed when it is admitted. If
 * none came and none was in flight, the chunk had this content all the time, and so at the end of that epoch: the digest
 * goes with it. Else it is tried again, and counted as busy after VERIFY_TRIES: it was brought over anew each time.
 * The standby compares when it has applied that epoch and before it takes the next one, and tells what
 * differs with a later ack.
 *
 * Which of two images that differ is the right one nobody can tell; the guest sees the primary's. So
 * repair means that the standby gets our chunk: read while the guest stands still, in the place of a write of that
 * epoch, and applied like one.
 */
#ifndef DISKREP_VERIFY_H
#define DISKREP_VERIFY_H

#include <pthread.h>

#include "diskrep/bits.h"
#include "diskrep/diskrep.h"
#include "diskrep/image.h"

struct blk_req;
struct diskrep;
struct diskrep_standby;
struct dr_disk;
struct dr_list;
struct drs_resync;
struct err;
struct reader;
struct rec_sink;

enum {
	VERIFY_BATCH = 16, /* chunks an epoch */
	VERIFY_TRIES = 20,
	VERIFY_REPAIRS = 8, /* chunks an epoch */
	VERIFY_STAGED =
		8192, /* that a standby keeps for epochs not applied, and not told */
};

/* A digest on its way. */
struct dr_check {
	uint32_t disk;
	uint64_t chunk;
	struct dr_digest digest;
};

struct dr_verify {
	pthread_t thread;
	int have_thread, running, repair, stop;
	pthread_cond_t news;
	/* The batch at hand. Under lock, but for the digests while it is read. */
	struct dr_check batch[VERIFY_BATCH];
	uint8_t written[VERIFY_BATCH], tries[VERIFY_BATCH];
	unsigned n;
	int ready;	    /* read; the next capture takes it */
	uint64_t went;	    /* epoch + 1 of the last digests or repairs; 0: none */
	uint64_t committed; /* epoch + 1 */
	struct dr_bits bad[DR_DISKS_MAX]; /* still to be repaired */
	struct diskrep_verified result;
	void (*on_end)(void *arg, const struct diskrep_verified *r);
	void *arg;
};

/* Under lock. */
void dr_verify_written(struct dr_disk *d, const struct blk_req *r);
void dr_verify_committed(struct diskrep *dr, uint64_t epoch);
void dr_verify_unlinked(struct diskrep *dr);
int dr_verify_record(struct diskrep *dr, struct reader *r, struct err *err);
/* Captured: digests and repairs go with @l. The guest stands still; no lock. */
int dr_verify_capture(struct diskrep *dr, struct dr_list *l);
void dr_verify_end(struct diskrep *dr); /* the thread; idempotent */

/* The standby's side; the receive thread's. */
struct drs_check {
	uint64_t epoch;
	struct dr_check c;
};

struct drs_verify {
	struct drs_check *staged; /* VERIFY_STAGED of them; NULL: not yet asked */
	unsigned n;
	struct dr_check *bad; /* likewise; the digests are not used */
	unsigned bads;
};

int drs_verify_record(struct diskrep_standby *s, uint64_t epoch, struct reader *r,
		      struct err *err);
void drs_verify_applied(struct diskrep_standby *s, uint64_t epoch);
int drs_verify_report(void *self, struct rec_sink *sink);
void drs_verify_reset(struct diskrep_standby *s); /* a new link */
void drs_verify_fini(struct diskrep_standby *s);

#endif
