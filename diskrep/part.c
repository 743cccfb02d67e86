/* SPDX-License-Identifier: Apache-2.0
 * part - disks as a participant in checkpoints.
 */
#include "diskrep/dr.h"
#include "diskrep/resync.h"

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
		act_first_epoch(&dr->activity.act);
		dr->mode = DR_ON;
	}
	pthread_mutex_unlock(&dr->lock);
	return rc;
}

/* Put the epoch's list where send finds it, and open the next one. */
static int seal(struct diskrep *dr, struct dr_list *l, uint64_t epoch, struct err *err)
{
	struct dr_list *next;
	int cut = 0;

	pthread_mutex_lock(&dr->lock);
	next = dr_list_get(dr, epoch + 1);
	l->epoch = epoch;
	if (next && !l->lost) {
		cut = dr_notes_capture(dr, l);
		dr_list_seal(dr, l);
		dr->open = next;
		l = NULL;
	}
	if (l && next)
		dr_list_recycle(dr, next);
	pthread_mutex_unlock(&dr->lock);
	if (cut)
		dr_notes_cut(dr, epoch);
	return l ? err_set(err, -ENOMEM, "no memory for what the disks wrote") : 0;
}

/* Before any state is captured, so that the device's has the new size, too. The machine has stopped already. */
static int dr_pause(void *self)
{
	dr_resize_switch(self, 1);
	return 0;
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
	if (l)
		l->epoch = epoch;
	if (l && !first)
		dr_resize_capture(dr, l);
	pthread_mutex_unlock(&dr->lock);
	if (!l)
		return err_set(err, first ? -ENOMEM : -EPROTO,
			       "disks: no list for epoch %llu",
			       (unsigned long long)epoch);
	if (first)
		rc = capture_first(dr, l, err);
	else if (dr_redo_capture(dr, l))
		rc = err_set(
			err, -EIO,
			"disks: what writes that failed here have left cannot be sent");
	else if (dr_verify_capture(dr, l))
		rc = err_set(err, -EIO, "disks: a chunk to be repaired cannot be read");
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
	dr_verify_committed(dr, epoch);
	dr_resize_committed(dr, epoch);
	l = dr_list_take(dr, epoch);
	wake = l && dr_unstall(dr);
	pthread_mutex_unlock(&dr->lock);
	dr_list_release(l);
	pthread_mutex_lock(&dr->lock);
	dr_list_recycle(dr, l);
	pthread_mutex_unlock(&dr->lock);
	if (wake)
		dr_wake(dr);
	dr_durable_committed(dr, epoch);
	dr_notes_committed(dr, epoch);
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
	dr->redo = (struct dr_redo){.n = 0};
	dr_durable_reset(dr);
	dr_marks_forget(dr);
	dr_digests_forget(dr);
	act_unlinked(&dr->activity.act);
	dr_verify_unlinked(dr);
	dr_resize_unlinked(dr);
	dr->verify.committed = 0;
	wake = dr_unstall(dr);
	pthread_mutex_unlock(&dr->lock);
	dr_list_free(open);
	dr_list_free(sealed);
	if (wake)
		dr_wake(dr);
	dr_notes_unlinked(dr);
}

static int peer_record(void *self, uint16_t type, const void *p, size_t len,
		       struct err *err)
{
	if (type == DR_REC_NOTE)
		return dr_notes_record(self, p, len, err);
	return type == DR_REC_DURABLE ? dr_durable_record(self, p, len, err)
				      : dr_peer_record(self, type, p, len, err);
}

static const struct part_ops part_ops = {
	.name = "disks",
	.kind = REC_KIND_DISK,
	.setup = part_no_setup,
	.greet = dr_greet,
	.sync_begin = dr_sync_begin,
	.sync_round = dr_sync_round,
	.ahead = part_no_ahead,
	.pause = dr_pause,
	.capture = dr_capture,
	.resume = part_no_resume,
	.send = dr_send,
	.committed = dr_committed,
	.peer_record = peer_record,
	.unlinked = dr_unlinked,
	.alone = part_no_event, /* unlinked let everything go already */
	.teardown = dr_unlinked,
};

struct part diskrep_part(struct diskrep *dr)
{
	return (struct part){.ops = &part_ops, .self = dr};
}
