/* SPDX-License-Identifier: Apache-2.0
 * standby - disks as a participant on the standby: staged epochs become the image.
 */
#include "diskrep/standby.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "remus/participant.h"
#include "replication/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Free @e and all after it. @at: what points to it. */
static void forget_from(struct diskrep_standby *s, struct drs_epoch **at)
{
	struct drs_epoch *e, *last = NULL;

	while ((e = *at)) {
		*at = e->next;
		drs_epoch_free(s, e);
	}
	s->tail = at;
	for (e = s->first; e; e = e->next)
		last = e;
	s->last = last;
}

static int sp_hello(void *self, struct rec_sink *sink, struct err *err)
{
	struct diskrep_standby *s = self;

	forget_from(s, &s->first);
	s->next = 0;
	return drs_hello(s, sink, err);
}

static struct drs_epoch *find(struct diskrep_standby *s, uint64_t epoch)
{
	struct drs_epoch *e = s->first;

	while (e && e->epoch != epoch)
		e = e->next;
	return e;
}

static int sp_check(void *self, uint64_t epoch, struct err *err)
{
	struct diskrep_standby *s = self;
	struct drs_epoch *e = find(s, epoch);
	int rc = drs_flusher_failed(&s->flusher);

	if (rc)
		return err_set(err, -EIO,
			       "disks: what was written before could not be flushed (%s)",
			       strerror(-rc));
	if (!e || !e->whole)
		return err_set(err, -EBADMSG,
			       "disk writes of epoch %llu are not complete",
			       (unsigned long long)epoch);
	e->checked = 1;
	return 0;
}

static int apply_entry(struct diskrep_standby *s, const struct drs_entry *n)
{
	const struct dr_image *img = &s->img[n->disk];

	return n->erase ? dr_image_erase(img, n->offset, n->len)
			: dr_image_write(img, n->bytes, n->len, n->offset);
}

/* In order of submission, from the start: so that a second try after an error ends with the
 * same image. The epoch is only forgotten once all of it is written. */
static int sp_apply(void *self, uint64_t epoch, struct err *err)
{
	struct diskrep_standby *s = self;
	struct drs_epoch *e = s->first;
	int rc = 0;

	if (!e || e->epoch != epoch || !e->checked)
		return err_set(err, -EPROTO, "disk writes of epoch %llu are not next",
			       (unsigned long long)epoch);
	for (struct drs_entry *n = e->first; n; n = n->next) {
		rc = apply_entry(s, n);
		if (rc)
			return err_sys(err, rc, "disk %u: writing the image", n->disk);
	}
	if (e->first)
		drs_flusher_kick(&s->flusher, 0);
	s->first = e->next;
	if (!s->first) {
		s->tail = &s->first;
		s->last = NULL;
	}
	drs_epoch_free(s, e);
	return 0;
}

/* An epoch that was checked may have been acked, and then is still to be applied: it stays until
 * activate or the next hello. */
static void sp_drop(void *self)
{
	struct diskrep_standby *s = self;
	struct drs_epoch **at = &s->first;

	while (*at && (*at)->checked)
		at = &(*at)->next;
	forget_from(s, at);
}

static int sp_activate(void *self, struct err *err)
{
	struct diskrep_standby *s = self;
	int rc = drs_flusher_failed(&s->flusher);

	forget_from(s, &s->first);
	if (rc)
		return err_sys(err, rc,
			       "disks: what was written before could not be flushed");
	/* From here on the guest's own flushes cover what was applied, and must be the ones to hear
	 * of a write-back error: the kernel tells it once. */
	drs_flusher_abandon(&s->flusher);
	return 0;
}

static void sp_teardown(void *self)
{
	struct diskrep_standby *s = self;

	forget_from(s, &s->first);
}

static const struct standby_part_ops standby_ops = {
	.name = "disks",
	.kind = REC_KIND_DISK,
	.hello = sp_hello,
	.room = spart_no_room,
	.record = drs_record,
	.check = sp_check,
	.apply = sp_apply,
	.drop = sp_drop,
	.activate = sp_activate,
	.teardown = sp_teardown,
};

int diskrep_standby_sync(struct diskrep_standby *s)
{
	int rc = drs_flusher_failed(&s->flusher);

	return rc ? rc : drs_sync_all(&s->flusher);
}

struct standby_part diskrep_standby_part(struct diskrep_standby *s)
{
	return (struct standby_part){.ops = &standby_ops, .self = s};
}

static int open_images(struct diskrep_standby *s, const int *fds, unsigned n,
		       struct err *err)
{
	int rc;

	if (n > DR_DISKS_MAX)
		return err_set(err, -ENOSPC, "disk replication: more than %d disks",
			       DR_DISKS_MAX);
	for (s->n = 0; s->n < n; s->n++) {
		rc = dr_image_open(fds[s->n], &s->img[s->n], err);
		if (rc)
			return err_ctx(err, "disk %u", s->n);
	}
	s->room = malloc(DR_WRITE_MAX);
	if (!s->room)
		return err_set(err, -ENOMEM, "disk replication: out of memory");
	rc = drs_flusher_start(&s->flusher, s->img, s->n);
	return rc ? err_sys(err, rc, "disk replication: starting the flusher") : 0;
}

int diskrep_standby_create(const int *fds, unsigned n, size_t stage_bytes,
			   struct diskrep_standby **s_out, struct err *err)
{
	struct diskrep_standby *s = calloc(1, sizeof(*s));
	int rc;

	*s_out = NULL;
	if (!s)
		return err_set(err, -ENOMEM, "disk replication: out of memory");
	s->stage_max = 2 * stage_bytes + DRS_SLACK;
	s->tail = &s->first;
	rc = open_images(s, fds, n, err);
	if (rc) {
		diskrep_standby_destroy(s);
		return rc;
	}
	*s_out = s;
	return 0;
}

void diskrep_standby_destroy(struct diskrep_standby *s)
{
	if (!s)
		return;
	drs_flusher_stop(&s->flusher);
	forget_from(s, &s->first);
	free(s->room);
	free(s);
}
