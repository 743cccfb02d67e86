/* SPDX-License-Identifier: Apache-2.0
 * plug - output that never passes through this process is held by the kernel's plug qdisc instead.
 *
 * Theory of operation. Frames of a card that vhost-net serves go from the guest's ring to the tap, from
 * there, all of them, to an ifb device, whose queue is sch_plug; what leaves that appears as input of
 * the tap's bridge. The kernel's queue knows three parts: what may leave, ONE closed epoch, and the
 * epoch that is being said. So:
 *
 *   hold      at a checkpoint, with the guest and vhost standing still: the open part becomes the
 *             closed one. If there still is one, the kernel would mix them up: refused here, and by the
 *             engine, which has one epoch in flight at most for such a VM.
 *   release   on its ack: the closed part may leave.
 *   open      alone: all of it leaves, and nothing is held any more.
 *   drop      all of it is thrown away, and nothing passes any more. For good.
 *
 * It starts closed, with nothing let through. An error leaves things held: a hold that failed means
 * "not committed", a release that failed keeps the epoch closed, so that the next hold is refused.
 */
#ifndef NETBUF_PLUG_H
#define NETBUF_PLUG_H

#include <pthread.h>
#include <stdint.h>

struct err;

enum plug_op { PLUG_HOLD, PLUG_RELEASE, PLUG_OPEN, PLUG_DROP, PLUG_COUNT, PLUG_OPS };

/* Over all of a VM's plugged cards. */
struct plug_counts {
	uint64_t held_frames, held_bytes;
	uint64_t sent_frames;	 /* that left */
	uint64_t dropped_frames; /* a full queue's, or thrown away */
	uint64_t late; /* releases that were not out when the release returned */
};

/* Who can tell the kernel. */
struct plug_kernel {
	/* 0 or -errno; what it counted is written to *out in any case. @not_after_ns (monotonic, 0:
	 * no limit): a release is refused (-ESTALE) after that. Any thread, one at a time. */
	int (*tell)(void *self, enum plug_op op, uint64_t not_after_ns,
		    struct plug_counts *out);
	void *self;
};

/* Part of a netbuf; all zero means that there is none, and all calls do nothing. */
struct nb_plug {
	const struct plug_kernel *kernel; /* borrowed */
	pthread_mutex_t lock;
	int holding, pending, dropped;
	uint64_t epoch; /* the closed one, if pending */
	uint64_t refused;
	struct plug_counts counts; /* as told last */
};

void nb_plug_init(struct nb_plug *p);
void nb_plug_fini(struct nb_plug *p);

/* As the participant's capture, committed, alone and teardown; @stale_ns as in netbuf_set_stale(). */
int nb_plug_capture(struct nb_plug *p, uint64_t epoch, struct err *err);
void nb_plug_committed(struct nb_plug *p, uint64_t epoch, uint64_t stale_ns);
void nb_plug_alone(struct nb_plug *p);
void nb_plug_drop(struct nb_plug *p);
/* Asks the kernel unless somebody else does just now. Any thread. */
void nb_plug_counts(struct nb_plug *p, struct plug_counts *out);

#endif
