/* SPDX-License-Identifier: Apache-2.0
 * notes_standby - the standby's: given on when their epoch is in the images, and what it answers.
 */
#include "diskrep/notes.h"

#include "diskrep/dr.h"
#include "diskrep/standby.h"
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "remus/participant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void drs_notes_init(struct diskrep_standby *s)
{
	pthread_mutex_init(&s->notes.lock, NULL); /* default attributes: cannot fail */
}

void drs_notes_forget(struct diskrep_standby *s)
{
	struct dr_note *n;

	pthread_mutex_lock(&s->notes.lock);
	n = s->notes.say;
	s->notes.say = NULL;
	pthread_mutex_unlock(&s->notes.lock);
	dr_notes_free(n);
}

void drs_notes_fini(struct diskrep_standby *s)
{
	drs_notes_forget(s);
	pthread_mutex_destroy(&s->notes.lock);
}

void diskrep_standby_on_notes(struct diskrep_standby *s,
			      const struct diskrep_standby_notes *to)
{
	s->notes.to = *to;
}

int diskrep_standby_note(struct diskrep_standby *s, const void *p, size_t len)
{
	struct dr_note *n = len && len <= DR_NOTE_MAX ? dr_note_new(p, len, 0) : NULL;
	struct dr_note **at = &s->notes.say;
	unsigned before = 0;

	if (!n)
		return len && len <= DR_NOTE_MAX ? -ENOMEM : -EMSGSIZE;
	pthread_mutex_lock(&s->notes.lock);
	for (; *at; before++)
		at = &(*at)->next;
	if (before < DR_NOTES_MAX)
		*at = n;
	pthread_mutex_unlock(&s->notes.lock);
	if (before < DR_NOTES_MAX)
		return 0;
	free(n);
	return -EAGAIN;
}

int drs_notes_record(struct diskrep_standby *s, struct drs_epoch *e, struct reader *r,
		     struct err *err)
{
	uint32_t flags = rd_u32(r), len = rd_u32(r);
	struct dr_note *n, **at = &e->notes;
	unsigned before = 0;
	int rc;

	if (r->failed || flags & ~(uint32_t)DR_NOTE_CUT || len > DR_NOTE_MAX ||
	    rd_left(r) != len || (!flags && !len))
		return err_set(err, -EBADMSG, "disk record: a note is not valid");
	for (; *at; before++)
		at = &(*at)->next;
	if (before > DR_NOTES_MAX || e->cut)
		return err_set(err, -EBADMSG,
			       "disk record: too many notes, or one after a cut");
	rc = drs_charge(&s->applier, sizeof(*n) + len, s->stage_max);
	if (rc)
		return err_sys(err, rc, "keeping a note");
	n = dr_note_new(rd_take(r, len), len, flags & DR_NOTE_CUT);
	if (!n) {
		drs_discharge(&s->applier, sizeof(*n) + len);
		return err_set(err, -ENOMEM, "no memory for a note");
	}
	e->cost += sizeof(*n) + len;
	e->cut = n->cut;
	*at = n;
	return 0;
}

void drs_notes_reached(struct diskrep_standby *s, const struct drs_epoch *e)
{
	const struct diskrep_standby_notes *to = &s->notes.to;

	for (const struct dr_note *n = e->notes; n && to->applied; n = n->next)
		if (n->cut)
			to->applied(to->arg, e->epoch, n->bytes, n->len);
}

static int flush_images(struct diskrep_standby *s)
{
	int rc = 0, r;

	for (unsigned i = 0; i < s->n; i++) {
		r = s->io.ops->sync(s->io.self, i);
		if (r)
			log_err("disk %u: flushing the image: %s", i, strerror(-r));
		rc = rc ? rc : r;
	}
	return rc;
}

int drs_notes_applied(struct diskrep_standby *s, const struct drs_epoch *e)
{
	const struct diskrep_standby_notes *to = &s->notes.to;
	int rc;

	for (const struct dr_note *n = e->notes; n; n = n->next) {
		/* What is cut off here must not need the journal any more. */
		rc = n->cut ? flush_images(s) : 0;
		if (rc)
			return rc;
		if (n->cut && to->cut)
			rc = to->cut(to->arg, e->epoch, n->bytes, n->len);
		if (rc)
			return rc;
		if (!n->cut && to->peer)
			to->peer(to->arg, n->bytes, n->len);
	}
	return 0;
}

int drs_notes_report(struct diskrep_standby *s, struct rec_sink *sink)
{
	struct dr_note *all, *n;
	int rc = 0;

	pthread_mutex_lock(&s->notes.lock);
	all = s->notes.say;
	s->notes.say = NULL;
	pthread_mutex_unlock(&s->notes.lock);
	for (n = all; !rc && n; n = n->next)
		rc = rec_put(sink, DR_REC_NOTE, REC_EPOCH_SYNC, n->bytes, n->len);
	dr_notes_free(all);
	return rc;
}
