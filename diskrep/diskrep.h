/* SPDX-License-Identifier: Apache-2.0
 * diskrep - disks replicated in step with the checkpoints.
 *
 * Theory of operation. On the primary a filter sits between virtio-blk and the image. A write goes
 * to the local image and, the same bytes, to the list of the epoch in which it was submitted.
 * The standby stages the list and applies it to its own image, in order, after the common ack.
 * First sync: the standby tells a digest of each chunk of its image, the primary sends the chunks
 * that differ while the guest runs, and again those written meanwhile (dr.h says why none is
 * lost). A flush of the guest is a flush of the local image; its effects leave only with the
 * epoch's output (standby.h says what is durable when). An old primary that comes back as a
 * standby has written things that never were committed: the comparison of all chunks undoes
 * them, as it brings what is missing. The same after a power cut or a sync that was broken off:
 * an image is trusted only from checkpoint 0 of a link to the end of that link's process.
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
	uint64_t epoch_bytes;  /* written in the running epoch */
	uint64_t queued_bytes; /* kept for epochs not yet committed */
	uint64_t sent_bytes, sync_left_bytes, chunks_sent, chunks_same;
};

/* @limit_bytes: kept in memory for uncommitted epochs; half of it asks for an early epoch, all of
 * it makes writes wait. @loop: the I/O thread (borrowed), not running yet. */
int diskrep_create(size_t limit_bytes, struct loop *loop, struct epoch_trigger trigger,
		   struct diskrep **dr_out, struct err *err);
/* After the VM is gone (which closes the disks) and the loop has ended; before loop_destroy. NULL
 * is fine. */
void diskrep_destroy(struct diskrep *dr);
/* Put it before @inner (takes it, also when it fails): *outer_out is what the device gets. @fd:
 * the same image, for reading while syncing (borrowed). Before the VM starts. */
int diskrep_add(struct diskrep *dr, struct blk inner, int fd, struct blk *outer_out,
		struct err *err);
/* The guest may go on here from the images of @s (borrowed for as long as @dr lives): its flushes
 * then also hear of write-back errors that were told to @s. Before @s is activated. */
void diskrep_inherit(struct diskrep *dr, struct diskrep_standby *s);
struct part diskrep_part(struct diskrep *dr);
void diskrep_stats(struct diskrep *dr, struct diskrep_stats *out); /* any thread */

/* @fds: the images, in the primary's order (borrowed). @stage_bytes: the primary's limit_bytes.
 * Twice that and 64 MiB may be staged here: checkpoint 0 and requests in flight come on top of
 * what the primary's limit counts. Beyond it, the link is given up. */
int diskrep_standby_create(const int *fds, unsigned n, size_t stage_bytes,
			   struct diskrep_standby **s_out, struct err *err);
void diskrep_standby_destroy(struct diskrep_standby *s);
struct standby_part diskrep_standby_part(struct diskrep_standby *s);
/* Put all that was applied on stable storage, now. Blocks on the disks. 0, or -errno: it is not
 * known what the images hold. Any thread. */
int diskrep_standby_sync(struct diskrep_standby *s);

#endif
