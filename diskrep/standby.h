/* SPDX-License-Identifier: Apache-2.0
 * standby - the inside of a diskrep_standby (internal).
 *
 * Theory of operation. Records of an epoch are checked one by one as they come and staged in
 * memory; the image is not touched. The barrier closes the epoch; check() wants it there and
 * its counts right; apply() writes the epoch in order of submission. Pre-copy goes
 * straight into the image: until checkpoint 0 the image is nobody's, and the standby never
 * runs from it.
 *
 * What "durable" means. An ack says that the epoch is in this host's memory. Applying puts it
 * into the page cache; a flusher follows with fdatasync, at most FLUSH_EVERY_MS and the
 * duration of one fdatasync behind. What the guest flushed is thus on the primary's disk and in
 * the standby's memory when the world hears of it, and on both disks a little later. One
 * host may die at any moment. If the standby's power fails, its image is between two epochs: it
 * comes back as an empty standby and is compared as a whole. Activation does not wait for the
 * flusher: the guest's next flush is an fdatasync of the same image, which covers what was
 * applied before it, and hears of what the flusher heard (inherit.c). A failed fdatasync is remembered: nothing is acked and nothing activated
 * after it, because what the disk holds is not known any more.
 */
#ifndef DISKREP_STANDBY_H
#define DISKREP_STANDBY_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "diskrep/diskrep.h"
#include "diskrep/image.h"

struct err;
struct rec_sink;

enum {
	FLUSH_EVERY_MS = 100,
	DRS_SLACK = 64 << 20, /* see diskrep_standby_create() */
};

struct drs_entry {
	struct drs_entry *next;
	uint32_t disk;
	int erase; /* the range becomes zeroes; no bytes follow */
	uint64_t offset, len;
	uint8_t bytes[];
};

struct drs_epoch {
	struct drs_epoch *next;
	uint64_t epoch;
	struct drs_entry *first, **tail;
	uint32_t records;
	uint64_t bytes; /* of their payloads */
	size_t cost;	/* memory */
	int whole;	/* the barrier came and fits */
	int checked;
};

struct drs_flusher {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	const struct dr_image *img;
	unsigned n;
	int started, stop, dirty, hurry;
	int failed; /* -errno of the first fdatasync that failed; stays */
	int image_failed[DR_DISKS_MAX]; /* the same, of each image */
	int abandoned, ended;
	void (*on_end)(void *arg); /* the thread's last act; NULL: nobody asks */
	void *on_end_arg;
};

struct diskrep_standby {
	struct dr_image img[DR_DISKS_MAX];
	unsigned n;
	size_t stage_max, staged; /* bytes */
	struct drs_epoch *first, **tail, *last;
	uint64_t next; /* the epoch that may begin */
	uint8_t *room; /* DR_WRITE_MAX bytes to decompress into */
	struct drs_flusher flusher;
};

/* flush.c: any thread. */
int drs_flusher_start(struct drs_flusher *f, const struct dr_image *img, unsigned n);
void drs_flusher_stop(struct drs_flusher *f); /* after a last fdatasync; idempotent */
void drs_flusher_kick(struct drs_flusher *f, int hurry);
int drs_flusher_failed(struct drs_flusher *f); /* 0 or -errno */
/* No more fdatasync by it, without waiting for one under way. */
void drs_flusher_abandon(struct drs_flusher *f);
/* @fn is called on the flusher's thread, with its lock held, when it has ended for good; not any
 * more once NULL was set. To be set before it can end. */
void drs_flusher_on_end(struct drs_flusher *f, void (*fn)(void *arg), void *arg);
/* What is known of image @i: 0 if nothing has failed and nothing can any more, -EAGAIN before the
 * end, else the -errno of the fdatasync that failed. */
int drs_flusher_verdict(struct drs_flusher *f, unsigned i);
int drs_sync_all(
	const struct drs_flusher *f); /* fdatasync of all images, by the caller */

/* hello.c: digests of all chunks of all disks. */
int drs_hello(struct diskrep_standby *s, struct rec_sink *sink, struct err *err);

/* stage.c: one hostile record; checked, then staged or, in pre-copy, written. */
int drs_record(void *self, uint16_t type, uint64_t epoch, const void *p, size_t len,
	       struct err *err);
void drs_epoch_free(struct diskrep_standby *s, struct drs_epoch *e);

#endif
