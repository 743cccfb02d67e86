/* SPDX-License-Identifier: Apache-2.0
 * diskrep - disks replicated in step with the checkpoints.
 *
 * Theory of operation. On the primary a filter sits between virtio-blk and the image. A write goes
 * to the local image and, the same bytes, to the list of the epoch in which it was submitted.
 * The standby stages the list and applies it to its own image, in order, after the common ack.
 * First sync: the standby tells a digest of each chunk of its image, the primary sends the chunks
 * that differ while the guest runs, and again those written meanwhile. A flush of the guest is a
 * flush of the local image; its effects leave only with the epoch's output.
 */
#ifndef DISKREP_DISKREP_H
#define DISKREP_DISKREP_H

#include <stddef.h>
#include <stdint.h>

#include "hv/blk.h"
#include "remus/participant.h"

struct diskrep;
struct diskrep_standby;
struct err;
struct loop;

enum { DR_CHUNK = 64 << 10, DR_DISKS_MAX = 8 };

struct diskrep_stats {
	uint64_t epoch_bytes;	/* written in the running epoch */
	uint64_t queued_bytes;	/* kept for epochs not yet committed */
	uint64_t sent_bytes, sync_left_bytes, chunks_sent, chunks_same;
};

/* @limit_bytes: kept in memory for uncommitted epochs; half of it asks for an early epoch, all of
 * it makes writes wait. */
int diskrep_create(size_t limit_bytes, struct loop *loop, struct epoch_trigger trigger,
		   struct diskrep **dr_out, struct err *err);
void diskrep_destroy(struct diskrep *dr);
/* Put it before @inner (takes it): *outer_out is what the device gets. @fd: the same image, for
 * reading while syncing (borrowed). */
int diskrep_add(struct diskrep *dr, struct blk inner, int fd, struct blk *outer_out, struct err *err);
struct part diskrep_part(struct diskrep *dr);
void diskrep_stats(struct diskrep *dr, struct diskrep_stats *out);

/* @fds: the images, in the primary's order (borrowed). */
int diskrep_standby_create(const int *fds, unsigned n, size_t stage_bytes,
			   struct diskrep_standby **s_out, struct err *err);
void diskrep_standby_destroy(struct diskrep_standby *s);
struct standby_part diskrep_standby_part(struct diskrep_standby *s);

#endif
