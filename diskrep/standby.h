/* SPDX-License-Identifier: Apache-2.0
 * standby - the inside of a diskrep_standby (internal).
 *
 * Theory of operation. Records of an epoch are checked one by one as they come and staged in
 * memory; the image is not touched. The barrier closes the epoch; check() wants it there and
 * its counts right; apply() hands it to the applier, a thread of its own. Pre-copy goes
 * straight into the image: until checkpoint 0 the image is nobody's, and the standby never
 * runs from it.
 *
 *   receiver: stage, check, ACK --apply--> applier: journal, flush it, write the images
 *                                                      |
 *                                             flusher: flush the images, retire the journal
 *
 * What "durable" means. An ack says that the epoch is in this host's memory. The applier takes all
 * that waits, COMMIT_MS after the first of it came, appends it to the journal and flushes that: now
 * it is durable here, which the primary is told with a later ack. Then it is written to the images,
 * in order of submission. The flusher follows, RETIRE_MS behind or as the journal fills, and
 * makes room in it. So after a power cut at any moment the images come to the end of exactly one
 * epoch, the durable one or one that was acked after it (journal.h), and that is what this host
 * claims when it meets the primary again (resync_standby.c). Without a journal the
 * applier writes the images at once and the flusher follows by FLUSH_MS; after a power cut they are
 * between two epochs. The primary is told that, and takes an ack for all there will be.
 *
 * Memory. What was acked and is not in the images counts against the staging limit. When that is
 * used up, the receiver waits for the applier: acks wait, and with them the primary's
 * own limit makes the guest's writes wait. The link stays.
 *
 * Taking over. The guest starts at once; what was acked is written to the images meanwhile, in the
 * usual order, and the guest's requests wait for that (filter.c), so that none reads what is stale
 * and none is on the disk before what it follows. The journal stays valid until the images are flushed.
 * Only then is a flush of the guest answered (inherit.c), so that a replay in between undoes nothing
 * that it was promised.
 *
 * Failures. If the journal cannot be written or is too small, it is marked unsafe, which is durable
 * before anything else is written to the images; the operator is told, and the standby goes on
 * without being durable. It tries again after AGAIN_MS, then ever more seldom: between two epochs the
 * images are flushed, and the journal begins anew there. If even the mark fails, or an image cannot be written
 * or flushed, this host is no standby any more: check() says -EIO, nothing is acked and nothing
 * activated after it, and DISKREP_LOST is told. Another process recovers the images by the journal, which
 * still has what they lack. After a takeover there is no other: what an image has no room for is
 * written again and again, and the guest waits.
 *
 * Locks: the applier's, for what is queued and staged; the flusher's; the journal's own. None is
 * held while another is taken, but for the journal's, which take none, and the flusher's @turn, which comes first.
 */
#ifndef DISKREP_STANDBY_H
#define DISKREP_STANDBY_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "diskrep/diskrep.h"
#include "diskrep/epoch.h"
#include "diskrep/image.h"
#include "diskrep/resize.h"
#include "diskrep/resync.h"
#include "diskrep/io.h"
#include "diskrep/journal.h"
#include "diskrep/notes.h"

struct err;
struct rec_sink;

enum {
	COMMIT_MS = 10,	      /* gather so long for one flush of the journal */
	COMMIT_IDLE_MS = 200, /* the same when nothing was written */
	COMMIT_BYTES = 8 << 20,
	RETIRE_MS = 1000,
	FLUSH_MS = 100,
	AGAIN_MS = 1000, /* when a failed journal is tried again; then twice that */
	AGAIN_MOST_MS = 60000,
	ROOM_MS = 500,	      /* an image without room likewise, always */
	DRS_SLACK = 64 << 20, /* see diskrep_standby_create() */
	DRS_SECTOR = 512,
};

struct drs_flusher {
	struct diskrep_standby *s;
	pthread_t thread;
	pthread_mutex_t turn; /* who flushes the images; taken before @lock */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int started, stop, dirty, hurry;
	int failed;			/* -errno of the first flush that failed; stays */
	int image_failed[DR_DISKS_MAX]; /* the same, of each image */
	int abandoned, ended;
	int final;		   /* one more, then the journal is not needed any more */
	void (*on_end)(void *arg); /* the thread's last act; NULL: nobody asks */
	void *on_end_arg;
};

struct drs_applier {
	struct diskrep_standby *s;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work, news;	 /* for the thread; for who waits for it */
	struct drs_epoch *first, **tail; /* acked */
	uint64_t queued_ns;		 /* when the first of them came */
	uint64_t need;			 /* journal bytes of them */
	int written;			 /* some of them change a disk */
	size_t staged; /* memory of all epochs, the receiver's included */
	int started, stop, hurry, busy;
	int final, settled; /* the guest may go on here; all is in the images */
	int failed;	    /* -errno: an epoch that was acked is not in the images */
	int lose;	/* -errno: the journal cannot be used, found by another thread */
	int journaling; /* the journal has all that is in the images */
	uint64_t again_ns, again_ms; /* when to try it again, once it has failed */
	int any;		     /* of this link was applied */
	uint64_t committed;	     /* last epoch in the journal; with @any */
	int told_whole;		     /* of this link */
	int tell_all; /* when all that was acked is durable: the link is lost */
	struct journal_spot spot; /* behind what is in the images */
	void (*on_settled)(void *arg);
	void *on_settled_arg;
};

struct diskrep_standby {
	struct dr_image img[DR_DISKS_MAX];
	uint64_t at_capacity
		[DR_DISKS_MAX]; /* of the disks, after the last epoch that was acked */
	unsigned n;
	size_t stage_max;			/* bytes */
	struct drs_epoch *first, **tail, *last; /* not acked */
	uint64_t next;				/* the epoch that may begin */
	struct dr_pool pool;
	const void
		*roomed; /* a record's payload is put there: in the last epoch's room */
	uint8_t *room;	 /* DR_WRITE_MAX bytes to decompress into, in pre-copy */
	struct dr_files files;
	struct dr_io io;
	struct journal *journal; /* NULL: none */
	struct journal_found found;
	int based; /* this link's base was told, or pre-copy began without one */
	struct diskrep_durable told; /* to the primary, last; the receiver's */
	struct diskrep_news news;
	struct drs_notes notes;
	struct drs_applier applier;
	struct drs_flusher flusher;
	struct drs_resync resync;
	struct drs_grow grow;
};

/* applier.c: any thread. */
int drs_applier_start(struct drs_applier *a, struct diskrep_standby *s);
void drs_applier_stop(struct drs_applier *a); /* after all that is queued; idempotent */
/* Takes @e. It was acked. */
void drs_applier_add(struct drs_applier *a, struct drs_epoch *e);
/* Wait until all is in the images. 0 or -errno. */
int drs_applier_drain(struct drs_applier *a);
int drs_applier_failed(struct drs_applier *a); /* 0 or -errno */
/* A new link: the journal is used (again) from here on. Nothing is queued. */
void drs_applier_begin(struct drs_applier *a, int journaling);
/* The link is lost: tell when all that was acked is durable. */
void drs_applier_hasten(struct drs_applier *a);
/* The guest goes on here: bring what is queued into the images, then on_settled. Not waited for. */
void drs_applier_finish(struct drs_applier *a);
/* @fn is called on the applier's thread, with its lock held; not any more once NULL was set. */
void drs_applier_on_settled(struct drs_applier *a, void (*fn)(void *arg), void *arg);
int drs_applier_settled(struct drs_applier *a); /* 0, -EAGAIN, or -errno: never */
/* The journal is of no use any more. */
void drs_applier_lose(struct drs_applier *a, int why);
/* An image cannot be flushed: what it holds is not known. */
void drs_applier_fail(struct drs_applier *a, int why);
/* The flusher begins: what will be in the images. */
struct journal_spot drs_applier_spot(struct drs_applier *a, int *any_out);
void drs_applier_retired(struct drs_applier *a); /* there is room in the journal */
/* @bytes more are staged; waits while only the applier is behind. 0, -ENOBUFS, -EIO. */
int drs_charge(struct drs_applier *a, size_t bytes, size_t max);
void drs_discharge(struct drs_applier *a, size_t bytes);

/* flush.c: any thread. */
int drs_flusher_start(struct drs_flusher *f, struct diskrep_standby *s);
void drs_flusher_stop(struct drs_flusher *f); /* after a last flush; idempotent */
void drs_flusher_kick(struct drs_flusher *f, int hurry);
int drs_flusher_failed(struct drs_flusher *f); /* 0 or -errno */
/* The guest goes on here, and all is in the images. With a journal: one more flush, then that
 * is retired for good. Else no more, without waiting for one under way. */
void drs_flusher_finish(struct drs_flusher *f);
/* @fn is called on the flusher's thread, with its lock held, when it has ended for good; not any
 * more once NULL was set. To be set before it can end. */
void drs_flusher_on_end(struct drs_flusher *f, void (*fn)(void *arg), void *arg);
/* What is known of image @i: 0 if nothing has failed and nothing can any more, -EAGAIN before the
 * end, else the -errno of what failed. */
int drs_flusher_verdict(struct drs_flusher *f, unsigned i);
/* Flush all images, by the caller. 0, or -errno, also of a flush before: what they hold is not known. */
int drs_flusher_sync(struct drs_flusher *f);

/* hello.c: digests of all chunks of all disks. */
int drs_hello(struct diskrep_standby *s, struct rec_sink *sink, struct err *err);

/* stage.c: one hostile record; checked, then staged or, in pre-copy, written. */
void *drs_room(void *self, uint16_t type, uint64_t epoch, size_t len);
int drs_record(void *self, uint16_t type, uint64_t epoch, const void *p, size_t len,
	       struct err *err);
void drs_epoch_free(struct diskrep_standby *s, struct drs_epoch *e);

/* standby.c. What has become of the images, for the operator. No lock held. */
void drs_tell(struct diskrep_standby *s, enum diskrep_image image, const char *why);
/* This link's images are about to be overwritten. @base: DR_BASE_LEN bytes. */
int drs_sync_begins(struct diskrep_standby *s, const uint8_t *base, struct err *err);

#endif
