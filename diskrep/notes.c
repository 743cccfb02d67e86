/* SPDX-License-Identifier: Apache-2.0
 * notes - the primary's: what waits for the next capture, and cuts.
 */
#include "diskrep/notes.h"

#include "diskrep/dr.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct dr_note *dr_note_new(const void *p, size_t len, int cut)
{
	struct dr_note *n = malloc(sizeof(*n) + len);

	if (!n)
		return NULL;
	*n = (struct dr_note){.len = (uint32_t)len, .cut = cut};
	if (len)
		memcpy(n->bytes, p, len);
	return n;
}

void dr_notes_free(struct dr_note *n)
{
	struct dr_note *next;

	for (; n; n = next) {
		next = n->next;
		free(n);
	}
}

static unsigned append(struct dr_note **at, struct dr_note *n)
{
	unsigned before = 0;

	for (; *at; before++)
		at = &(*at)->next;
	if (before < DR_NOTES_MAX)
		*at = n;
	return before;
}

void dr_notes_init(struct diskrep *dr)
{
	dr->notes.cut_epoch = UINT64_MAX;
}

void dr_notes_fini(struct diskrep *dr)
{
	dr_notes_free(dr->notes.first);
	dr_notes_free(dr->notes.cut);
	dr->notes.first = dr->notes.cut = NULL;
}

void diskrep_on_notes(struct diskrep *dr, const struct diskrep_notes *to)
{
	pthread_mutex_lock(&dr->lock);
	dr->notes.to = *to;
	pthread_mutex_unlock(&dr->lock);
}

int diskrep_note(struct diskrep *dr, const void *p, size_t len)
{
	struct dr_note *n = len && len <= DR_NOTE_MAX ? dr_note_new(p, len, 0) : NULL;
	int rc = n ? 0 : len && len <= DR_NOTE_MAX ? -ENOMEM : -EMSGSIZE;

	pthread_mutex_lock(&dr->lock);
	if (!rc && dr->mode != DR_ON)
		rc = -ENOTCONN;
	if (!rc && append(&dr->notes.first, n) == DR_NOTES_MAX)
		rc = -EAGAIN;
	pthread_mutex_unlock(&dr->lock);
	if (rc)
		free(n);
	return rc;
}

void dr_notes_cut(struct diskrep *dr, uint64_t epoch)
{
	struct diskrep_notes to;

	pthread_mutex_lock(&dr->lock);
	to = dr->notes.to;
	dr->notes.cut_epoch = epoch;
	pthread_mutex_unlock(&dr->lock);
	if (to.cut)
		to.cut(to.arg, epoch);
}

/* I/O thread, inside the guard: no capture goes on. A standby that came into step meanwhile has it made by the
 * next one. */
static void cut_here(void *arg)
{
	struct diskrep *dr = arg;
	struct dr_note *n = NULL;

	pthread_mutex_lock(&dr->lock);
	if (dr->mode != DR_ON) {
		n = dr->notes.cut;
		dr->notes.cut = NULL;
	}
	pthread_mutex_unlock(&dr->lock);
	if (n)
		dr_notes_cut(dr, UINT64_MAX);
	free(n);
}

static int post_cut(struct diskrep *dr)
{
	return loop_post(dr->loop, cut_here, dr);
}

int diskrep_cut(struct diskrep *dr, const void *p, size_t len)
{
	struct dr_note *n = len <= DR_NOTE_MAX ? dr_note_new(p, len, 1) : NULL;
	int rc = n ? 0 : len <= DR_NOTE_MAX ? -ENOMEM : -EMSGSIZE, on = 0;

	pthread_mutex_lock(&dr->lock);
	if (!rc && (dr->notes.cut || dr->notes.cut_epoch != UINT64_MAX))
		rc = -EBUSY;
	if (!rc && dr->heir_of && !dr->activity.settled)
		rc = -EAGAIN;
	if (!rc) {
		dr->notes.cut = n;
		on = dr->mode == DR_ON;
	}
	pthread_mutex_unlock(&dr->lock);
	if (!rc && on)
		dr->trigger.request(dr->trigger.arg, "a snapshot");
	else if (!rc)
		rc = post_cut(dr);
	else
		free(n);
	return rc;
}

int diskrep_cut_still(struct diskrep *dr)
{
	int rc = 0;

	pthread_mutex_lock(&dr->lock);
	if (dr->notes.cut || dr->notes.cut_epoch != UINT64_MAX)
		rc = -EBUSY;
	else if (dr->mode == DR_ON || (dr->heir_of && !dr->activity.settled))
		rc = -EAGAIN;
	pthread_mutex_unlock(&dr->lock);
	if (!rc)
		dr_notes_cut(dr, UINT64_MAX);
	return rc;
}

int dr_notes_capture(struct diskrep *dr, struct dr_list *l)
{
	struct dr_note **at = &l->notes;

	*at = dr->notes.first;
	dr->notes.first = NULL;
	while (*at)
		at = &(*at)->next;
	*at = dr->notes.cut;
	dr->notes.cut = NULL;
	return *at != NULL;
}

void dr_notes_committed(struct diskrep *dr, uint64_t epoch)
{
	struct diskrep_notes to = {0};

	pthread_mutex_lock(&dr->lock);
	if (dr->notes.cut_epoch <= epoch) {
		to = dr->notes.to;
		dr->notes.cut_epoch = UINT64_MAX;
	}
	pthread_mutex_unlock(&dr->lock);
	if (to.committed)
		to.committed(to.arg);
}

void dr_notes_unlinked(struct diskrep *dr)
{
	struct diskrep_notes to = {0};
	int late;

	pthread_mutex_lock(&dr->lock);
	dr_notes_free(dr->notes.first);
	dr->notes.first = NULL;
	late = dr->notes.cut != NULL;
	if (dr->notes.cut_epoch != UINT64_MAX)
		to = dr->notes.to;
	dr->notes.cut_epoch = UINT64_MAX;
	pthread_mutex_unlock(&dr->lock);
	if (to.lost)
		to.lost(to.arg);
	if (late && post_cut(dr))
		log_err("a snapshot waits for ever: out of memory");
}

int dr_notes_record(struct diskrep *dr, const void *p, size_t len, struct err *err)
{
	struct diskrep_notes to;

	if (!len || len > DR_NOTE_MAX)
		return err_set(err, -EBADMSG, "a note of %zu bytes", len);
	pthread_mutex_lock(&dr->lock);
	to = dr->notes.to;
	pthread_mutex_unlock(&dr->lock);
	if (to.peer)
		to.peer(to.arg, p, len);
	return 0;
}
