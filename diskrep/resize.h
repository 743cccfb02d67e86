/* SPDX-License-Identifier: Apache-2.0
 * resize - a disk becomes larger while its guest runs (internal to diskrep).
 *
 * Theory of operation. Three sizes are told apart: what the image has (its file), what the disk has (the guest, the journal,
 * bitmaps, digests), and what either host's records on disk speak of. The image is never smaller than the disk. A disk grows in
 * this order, each step durable before the next:
 *
 *   1. the standby's image has the room (GROW, GROWN), reading as zeroes;
 *   2. this host's image has;
 *   3. in the pause of checkpoint E the disk has it, here and in the device's state; RESIZE is the last word of epoch E, and
 *      from E + 1 on the guest sees it and may write there;
 *   4. the standby's disk has it once E is acked; its journal says so with E itself, before any write of E + 1.
 *
 * The activity log here speaks of the new size between 2 and the first write that it permits there.
 *
 * What a crash leaves. Before 3 an image that is larger than its disk: with records of the old size that is the old disk, and a
 * guest that is booted from it has the new one, which no claim is about, so that the next standby is compared as a whole. After 3
 * and before E is acked the standby takes over with the old size, by its device state; what was written beyond it was never
 * committed. After the ack both have the new one. Doing all of it again is always right.
 *
 * Why images agree beyond the old end. Whoever makes room has zeroes there first: both hosts at 1 and 2, and a host that
 * comes back smaller when the primary greets (SIZES). Of what is written there afterwards each host has marks, as
 * everywhere. So a chunk beyond the old end is zeroes on both, or marked, and a claim about the smaller disk is as good for
 * the larger one.
 *
 * Without a standby the same, but for 1 and 4: the disk grows on the I/O thread. While a standby is brought up nothing grows.
 */
#ifndef DISKREP_RESIZE_H
#define DISKREP_RESIZE_H

#include <pthread.h>
#include <stdint.h>

#include "diskrep/diskrep.h"
#include "diskrep/image.h"

struct diskrep;
struct diskrep_standby;
struct dr_list;
struct drs_epoch;
struct err;
struct reader;
struct rec_sink;

enum dr_resize_step {
	RESIZE_IDLE,
	RESIZE_ASK,	 /* the next epoch asks the standby for room */
	RESIZE_ASKED,	 /* and has */
	RESIZE_ROOM,	 /* it has room, this host gets it */
	RESIZE_SWITCH,	 /* so has this host: at the next pause */
	RESIZE_SWITCHED, /* the guest has it; the standby with @epoch */
	RESIZE_OVER,
};

struct dr_resize {
	pthread_t thread;
	int have_thread, running, stop;
	pthread_cond_t news;
	/* Under lock. */
	enum dr_resize_step step;
	int standby; /* it has the room, on this link */
	uint64_t epoch;
	struct diskrep_resized result;
	void (*on_end)(void *arg, const struct diskrep_resized *r);
	void *arg;
};

/* The primary's side. Device lock: the guest's disk grows now, if it is time to: with a standby only while the guest is
 * @paused for a checkpoint. */
void dr_resize_switch(struct diskrep *dr, int paused);
/* Under lock. */
void dr_resize_capture(struct diskrep *dr, struct dr_list *l);
void dr_resize_committed(struct diskrep *dr, uint64_t epoch);
void dr_resize_unlinked(struct diskrep *dr);
int dr_grown_record(struct diskrep *dr, struct reader *r, struct err *err);
/* Of the greeting. No lock. */
int dr_sizes_put(struct diskrep *dr, struct rec_sink *sink);
void dr_resize_end(struct diskrep *dr); /* the thread; idempotent */

/* The standby's side: room is made on a thread of its own, because disks may be slow. */
struct drs_room {
	struct dr_image img;
	uint32_t disk;
	uint64_t from, bytes;
	int rc;
};

struct drs_grow {
	pthread_t thread;
	pthread_mutex_t lock;
	int have_thread; /* the receiver's */
	int running, wanted;
	struct drs_room room; /* wanted */
	struct drs_room done; /* not told yet; bytes 0: nothing */
};

/* The receiver's. */
void drs_grow_begin(struct diskrep_standby *s, uint32_t disk, uint64_t bytes);
int drs_grow_report(struct diskrep_standby *s, struct rec_sink *sink);
/* Until nobody works on an image beyond its disk any more. One thread. */
void drs_grow_wait(struct diskrep_standby *s);
int drs_sizes_record(struct diskrep_standby *s, struct reader *r, struct err *err);
/* @e was acked: the disks have the sizes that it ends with. */
void drs_resized(struct diskrep_standby *s, const struct drs_epoch *e);
/* The guest goes on here with disks of these sizes. Before its device state is loaded. */
int drs_take_sizes(struct diskrep_standby *s, struct err *err);

#endif
