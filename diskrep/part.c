/* SPDX-License-Identifier: Apache-2.0
 * part - disks as a participant in checkpoints.
 */
#include "diskrep/dr.h"

#include "hv/base/err.h"
#include "remus/participant.h"
#include "replication/record.h"

#include <errno.h>

/* The first checkpoint: what is still marked, then what is in flight with its own data. Only then
 * lists begin, so that nothing is in neither. The device lock is held. */
static int capture_first(struct diskrep *dr, struct dr_list *l, struct err *err)
{
	int rc = 0;

	if (!dr->rounds)
		return err_set(err, -EPROTO,
			       "disks were not synced before the first checkpoint");
	rc = dr_sync_rest(dr, l, err);
	pthread_mutex_lock(&dr->lock);
	for (struct dr_req *q = dr->first; !rc && q; q = q->next) {
		struct dr_entry e = dr_entry_of(q);

		dr_list_add(dr, l, &e);
	}
	if (!rc) {
		dr_marks_forget(dr);
		dr->mode = DR_ON;
	}
	pthread_mutex_unlock(&dr->lock);
	return rc;
}

/* Put the epoch's list where send finds it, and open the next one. */
static int seal(struct diskrep *dr, struct dr_list *l, uint64_t epoch, struct err *err)
{
	struct dr_list *next;

	pthread_mutex_lock(&dr->lock);
	next = dr_list_get(dr, epoch + 1);
	l->epoch = epoch;
	if (next && !l->lost) {
		dr_list_seal(dr, l);
		dr->open = next;
		l = NULL;
	}
	if (l && next)
		dr_list_recycle(dr, next);
	pthread_mutex_unlock(&dr->lock);
	return l ? err_set(err, -ENOMEM, "no memory for what the disks wrote") : 0;
}

static int dr_capture(void *self, uint64_t epoch, struct err *err)
{
	struct diskrep *dr = self;
	struct dr_list *l;
	int first, rc = 0, wake = 0;

	pthread_mutex_lock(&dr->lock);
	first = dr->mode == DR_SYNC;
	if (first && !dr->open)
		dr->open = dr_list_get(dr, epoch);
	l = dr->mode == DR_OFF ? NULL : dr->open;
	pthread_mutex_unlock(&dr->lock);
	if (!l)
		return err_set(err, first ? -ENOMEM : -EPROTO,
			       "disks: no list for epoch %llu",
			       (unsigned long long)epoch);
	if (first)
		rc = capture_first(dr, l, err);
	if (!rc)
		rc = seal(dr, l, epoch, err);
	pthread_mutex_lock(&dr->lock);
	wake = first && dr_unstall(dr);
	pthread_mutex_unlock(&dr->lock);
	if (wake)
		dr_wake(dr);
	return rc;
}

static int dr_send(void *self, uint64_t epoch, struct rec_sink *sink, struct err *err)
{
	struct diskrep *dr = self;
	struct dr_list *l;

	pthread_mutex_lock(&dr->lock);
	l = dr_list_find(dr, epoch);
	pthread_mutex_unlock(&dr->lock);
	/* A sealed list does not change, and it goes only after its ack or this thread's end. */
	if (!l)
		return err_set(err, -EPROTO, "disks: epoch %llu was not captured",
			       (unsigned long long)epoch);
	return dr_send_list(dr, l, sink, err);
}

static void dr_committed(void *self, uint64_t epoch)
{
	struct diskrep *dr = self;
	struct dr_list *l;
	int wake;

	pthread_mutex_lock(&dr->lock);
	l = dr_list_take(dr, epoch);
	wake = l && dr_unstall(dr);
	pthread_mutex_unlock(&dr->lock);
	dr_list_release(l);
	pthread_mutex_lock(&dr->lock);
	dr_list_recycle(dr, l);
	pthread_mutex_unlock(&dr->lock);
	if (wake)
		dr_wake(dr);
}

/* Nothing more will be committed to this peer; the next one is compared as a whole. */
static void dr_unlinked(void *self)
{
	struct diskrep *dr = self;
	struct dr_list *open, *sealed;
	int wake;

	dr_compare_end(dr);
	pthread_mutex_lock(&dr->lock);
	dr->mode = DR_OFF;
	open = dr->open;
	dr->open = NULL;
	sealed = dr_list_take(dr, UINT64_MAX);
	dr->queued = 0;
	dr_marks_forget(dr);
	dr_digests_forget(dr);
	wake = dr_unstall(dr);
	pthread_mutex_unlock(&dr->lock);
	dr_list_free(open);
	dr_list_free(sealed);
	if (wake)
		dr_wake(dr);
}

static const struct part_ops part_ops = {
	.name = "disks",
	.kind = REC_KIND_DISK,
	.setup = part_no_setup,
	.sync_begin = dr_sync_begin,
	.sync_round = dr_sync_round,
	.ahead = part_no_ahead,
	.pause = part_no_pause,
	.capture = dr_capture,
	.resume = part_no_resume,
	.send = dr_send,
	.committed = dr_committed,
	.peer_record = dr_peer_record,
	.unlinked = dr_unlinked,
	.alone = part_no_event, /* unlinked let everything go already */
	.teardown = dr_unlinked,
};

struct part diskrep_part(struct diskrep *dr)
{
	return (struct part){.ops = &part_ops, .self = dr};
}
