/* SPDX-License-Identifier: Apache-2.0
 * inherit - the guest's requests after a takeover, while the standby's threads still work for it.
 *
 * Theory of operation. The guest runs at once. Its requests wait until the applier has brought
 * all that was acked into the images: they would read what is stale, or get to the disk before
 * what they follow. That is over after one flush of the journal, if there is one.
 *
 * Its flushes wait for more: that the images were flushed and the journal retired, because a replay
 * would undo what the guest was promised. The flusher does that and then ends. The kernel also
 * tells a write-back error once for each open file, and the flusher may be the one that is told.
 * So a flush of the guest that the image has carried out is not answered before the flusher has
 * ended, and fails if any flush of that image has failed, now and ever after: what the disk
 * holds is not known any more. Once it has ended without a failure, flushes pass as if nothing was.
 */
#include "diskrep/dr.h"
#include "diskrep/standby.h"

#include <errno.h>

/* The standby's threads. */
static void on_news(void *arg)
{
	dr_wake(arg);
}

void diskrep_inherit(struct diskrep *dr, struct diskrep_standby *s)
{
	dr->heir_of = s;
	dr->settled = -EAGAIN;
	drs_flusher_on_end(&s->flusher, on_news, dr);
	drs_applier_on_settled(&s->applier, on_news, dr);
}

void dr_disinherit(struct diskrep *dr)
{
	if (!dr->heir_of)
		return;
	drs_flusher_on_end(&dr->heir_of->flusher, NULL, NULL);
	drs_applier_on_settled(&dr->heir_of->applier, NULL, NULL);
	dr->heir_of = NULL;
}

int dr_settled(struct diskrep *dr)
{
	if (dr->settled != -EAGAIN)
		return dr->settled;
	dr->settled = drs_applier_settled(&dr->heir_of->applier);
	if (dr->settled == -EAGAIN)
		return -EAGAIN;
	/* The activity log's thread waits for it, too. */
	pthread_mutex_lock(&dr->lock);
	dr->activity.settled = 1;
	dr_activity_kick(dr);
	pthread_mutex_unlock(&dr->lock);
	return dr->settled;
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
		status = drs_flusher_verdict(&dr->heir_of->flusher, q->disk->index);
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
