/* SPDX-License-Identifier: Apache-2.0
 * inherit - the guest's flushes after a takeover, and what the standby's flusher still learns.
 *
 * Theory of operation. The kernel tells a write-back error once for each open file. An fdatasync
 * of the flusher that is under way when the guest starts here may be the one that is told, and
 * the guest's next flush, of the same open file, would succeed: the guest would believe that
 * something is on the disk which is not. So a flush of the guest that the image has carried out is
 * not answered before the flusher has ended, which it does after the fdatasync at hand, and fails
 * if any fdatasync of that image has failed, now and ever after: what the disk holds is not known
 * any more. Once the flusher has ended without a failure, flushes pass as if nothing was.
 */
#include "diskrep/dr.h"
#include "diskrep/standby.h"

#include <errno.h>

/* The flusher's thread, at its end. */
static void on_ended(void *arg)
{
	dr_wake(arg);
}

void diskrep_inherit(struct diskrep *dr, struct diskrep_standby *s)
{
	dr->heir_of = &s->flusher;
	drs_flusher_on_end(&s->flusher, on_ended, dr);
}

static void answer(struct dr_req *q, int status)
{
	struct diskrep *dr = q->disk->dr;
	struct blk_req *outer = q->outer;

	q->next = dr->pool;
	dr->pool = q;
	outer->done(outer, status);
}

static void on_flushed(struct blk_req *r, int status)
{
	struct dr_req *q = (struct dr_req *)r;
	struct diskrep *dr = q->disk->dr;

	if (!status)
		status = drs_flusher_verdict(dr->heir_of, q->disk->index);
	if (status != -EAGAIN) {
		answer(q, status);
		return;
	}
	q->next = dr->flushes;
	dr->flushes = q;
}

void dr_flush(struct dr_disk *d, struct blk_req *outer)
{
	struct dr_req *q;

	if (!d->dr->heir_of) {
		d->inner.ops->submit(d->inner.self, outer);
		return;
	}
	q = dr_req_new(d, outer, on_flushed);
	if (!q)
		outer->done(outer, -ENOMEM);
	else
		d->inner.ops->submit(d->inner.self, &q->r);
}

void dr_flushes_answer(struct diskrep *dr)
{
	struct dr_req *q = dr->flushes;

	dr->flushes = NULL;
	while (q) {
		struct dr_req *next = q->next;

		/* Parks again if the flusher has not ended. */
		on_flushed(&q->r, 0);
		q = next;
	}
}

void dr_flushes_end(struct dr_disk *d)
{
	struct dr_req **at = &d->dr->flushes, *q;

	while ((q = *at)) {
		if (q->disk != d) {
			at = &q->next;
			continue;
		}
		*at = q->next;
		answer(q, -EIO);
	}
}
