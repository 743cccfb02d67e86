/* SPDX-License-Identifier: Apache-2.0
 * standby - disks as a participant on the standby: staged epochs become the image.
 */
#include "diskrep/standby.h"

#include "diskrep/dr.h"
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
	int rc;

	forget_from(s, &s->first);
	drs_notes_forget(s);
	s->next = 0;
	s->roomed = NULL;
	s->based = 0;
	s->told = (struct diskrep_durable){.state = DISKREP_NOT_TOLD};
	/* The digests must be of what was acked on the last link. */
	rc = drs_applier_drain(&s->applier);
	if (rc)
		return err_set(
			err, -EIO,
			"disks: what was acknowledged before could not be written (%s)",
			strerror(-rc));
	return drs_hello(s, sink, err);
}

void drs_tell(struct diskrep_standby *s, enum diskrep_image image, const char *why)
{
	if (s->news.fn)
		s->news.fn(s->news.arg, image, why);
}

int drs_sync_begins(struct diskrep_standby *s, const uint8_t *base, struct err *err)
{
	uint64_t capacity[DR_DISKS_MAX] = {0};
	int rc;

	if (s->based)
		return 0;
	for (unsigned i = 0; i < s->n; i++)
		capacity[i] = s->img[i].capacity;
	if (s->journal)
		journal_sizes(s->journal, capacity);
	rc = s->journal ? journal_mark(s->journal, JOURNAL_SYNCING, base) : 0;
	if (rc)
		return err_sys(
			err, rc,
			"the disk journal cannot be written, so the images must not be");
	drs_applier_begin(&s->applier, !!s->journal);
	s->based = 1;
	return 0;
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
	static const uint8_t none[DR_BASE_LEN];
	struct diskrep_standby *s = self;
	struct drs_epoch *e = find(s, epoch);
	int rc = drs_flusher_failed(&s->flusher);

	rc = rc ? rc : drs_applier_failed(&s->applier);
	if (rc)
		return err_set(
			err, -EIO,
			"disks: what was acknowledged before could not be written (%s)",
			strerror(-rc));
	if (!e || !e->whole)
		return err_set(err, -EBADMSG,
			       "disk writes of epoch %llu are not complete",
			       (unsigned long long)epoch);
	/* Nothing was overwritten by pre-copy; from here on it will be by epochs. */
	rc = drs_sync_begins(s, none, err);
	if (rc)
		return rc;
	e->checked = 1;
	return 0;
}

static int report_durable(struct diskrep_standby *s, struct rec_sink *sink)
{
	struct diskrep_durable now;
	struct dr_wire_durable w;
	int same;

	diskrep_standby_durable(s, &now);
	same = now.state == s->told.state && now.epoch == s->told.epoch;
	s->told = now;
	if (same)
		return 0;
	w = (struct dr_wire_durable){
		.state = le32_of(s->journal ? (uint32_t)now.state : DR_DURABLE_ALL),
		.epoch = le64_of(now.epoch),
		.used = le64_of(now.used_bytes),
		.size = le64_of(now.size_bytes),
	};
	return rec_put(sink, DR_REC_DURABLE, REC_EPOCH_SYNC, &w, sizeof(w));
}

static int sp_report(void *self, struct rec_sink *sink)
{
	int rc = report_durable(self, sink);

	rc = rc ? rc : drs_verify_report(self, sink);
	rc = rc ? rc : drs_grow_report(self, sink);
	return rc ? rc : drs_notes_report(self, sink);
}

/* It was acked: from here on it belongs to the applier, and goes forward whatever becomes of the
 * link. */
static int sp_apply(void *self, uint64_t epoch, struct err *err)
{
	struct diskrep_standby *s = self;
	struct drs_epoch *e = s->first;
	int rc = 0;

	if (!e || e->epoch != epoch || !e->checked)
		return err_set(err, -EPROTO, "disk writes of epoch %llu are not next",
			       (unsigned long long)epoch);
	s->first = e->next;
	if (!s->first) {
		s->tail = &s->first;
		s->last = NULL;
	}
	/* Participants before this one have applied it. */
	drs_notes_reached(s, e);
	if (e->grow_bytes)
		drs_grow_begin(s, e->grow_disk, e->grow_bytes);
	drs_resized(s, e);
	drs_applier_add(&s->applier, e);
	/* What is to be compared with the primary's must be in the images first. */
	if (s->resync.verify.n)
		rc = drs_applier_drain(&s->applier);
	if (rc)
		return err_sys(err, rc, "disks: writing the images");
	drs_resync_applied(s, epoch);
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
	drs_applier_hasten(&s->applier);
}

static int sp_activate(void *self, struct err *err)
{
	struct diskrep_standby *s = self;
	int rc = drs_flusher_failed(&s->flusher);

	rc = rc ? rc : drs_applier_failed(&s->applier);
	forget_from(s, &s->first);
	if (rc)
		return err_sys(err, rc,
			       "disks: what was written before could not be flushed");
	rc = drs_take_sizes(s, err);
	if (rc)
		return rc;
	drs_applier_finish(&s->applier);
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
	.room = drs_room,
	.record = drs_record,
	.check = sp_check,
	.report = sp_report,
	.apply = sp_apply,
	.drop = sp_drop,
	.activate = sp_activate,
	.teardown = sp_teardown,
};

int diskrep_standby_sync(struct diskrep_standby *s)
{
	int rc = drs_applier_drain(&s->applier);

	return rc ? rc : drs_flusher_sync(&s->flusher);
}

struct standby_part diskrep_standby_part(struct diskrep_standby *s)
{
	return (struct standby_part){.ops = &standby_ops, .self = s};
}

void diskrep_standby_on_news(struct diskrep_standby *s, struct diskrep_news news)
{
	s->news = news;
}

void diskrep_standby_durable(struct diskrep_standby *s, struct diskrep_durable *out)
{
	*out = (struct diskrep_durable){.state = DISKREP_NO_JOURNAL, .epoch = UINT64_MAX};
	if (!s->journal)
		return;
	out->size_bytes = journal_size(s->journal);
	out->used_bytes = out->size_bytes - journal_room(s->journal);
	out->state = journal_state(s->journal);
	if (out->state != JOURNAL_LIVE)
		return;
	pthread_mutex_lock(&s->applier.lock);
	if (s->applier.any && s->applier.journaling)
		out->epoch = s->applier.committed;
	pthread_mutex_unlock(&s->applier.lock);
}

struct journal_found diskrep_standby_found(const struct diskrep_standby *s)
{
	return s->found;
}

static int open_journal(struct diskrep_standby *s, const struct diskrep_journal *jc,
			struct err *err)
{
	struct journal_disks d = {.vm = jc->vm, .n = s->n};
	int rc;

	s->found = (struct journal_found){.whole = -1};
	if (jc->fd < 0)
		return 0;
	for (unsigned i = 0; i < s->n; i++)
		d.capacity[i] = s->img[i].capacity;
	rc = journal_open(s->io, &d, jc->bytes, &s->journal, &s->found, err);
	/* An image may have grown since: its first part is what the journal speaks of. */
	for (unsigned i = 0; !rc && s->found.state == JOURNAL_LIVE && i < s->n; i++)
		dr_image_resize(&s->img[i], s->found.capacity[i]);
	return rc;
}

static int too_many(struct err *err)
{
	return err_set(err, -ENOSPC, "disk replication: more than %d disks",
		       DR_DISKS_MAX);
}

static int open_images(struct diskrep_standby *s, const struct img *imgs, unsigned n,
		       struct err *err)
{
	int rc;

	if (n > DR_DISKS_MAX)
		return too_many(err);
	for (s->n = 0; s->n < n; s->n++) {
		rc = dr_image_open(imgs[s->n], &s->img[s->n], err);
		if (rc)
			return err_ctx(err, "disk %u", s->n);
	}
	return 0;
}

static int start_threads(struct diskrep_standby *s, struct err *err)
{
	int rc = drs_flusher_start(&s->flusher, s);

	rc = rc ? rc : drs_applier_start(&s->applier, s);
	return rc ? err_sys(err, rc, "disk replication: starting its threads") : 0;
}

/* The images are exactly at this, if they are at anything: so nothing is marked. */
static struct dr_claim claim_of(const struct journal_found *f)
{
	struct dr_claim c = {0};

	if (f->whole == 1 && f->state == JOURNAL_LIVE)
		c = (struct dr_claim){.at = f->gen, .role = ACT_FOLLOWER};
	return c;
}

static int create(const struct img *imgs, unsigned n, size_t stage_bytes,
		  const struct diskrep_journal *jc, const struct dr_io *io,
		  struct diskrep_standby **s_out, struct err *err)
{
	struct diskrep_standby *s = calloc(1, sizeof(*s));
	int rc;

	*s_out = NULL;
	if (!s)
		return err_set(err, -ENOMEM, "disk replication: out of memory");
	drs_notes_init(s);
	pthread_mutex_init(&s->grow.lock, NULL); /* default attributes: cannot fail */
	s->stage_max = 2 * stage_bytes + DRS_SLACK;
	s->tail = &s->first;
	dr_pool_init(&s->pool);
	s->files = (struct dr_files){.img = s->img, .journal = jc->fd};
	s->io = io ? *io : dr_files_io(&s->files);
	s->room = malloc(DR_WRITE_MAX);
	rc = s->room ? open_images(s, imgs, n, err)
		     : err_set(err, -ENOMEM, "disk replication: out of memory");
	rc = rc ? rc : open_journal(s, jc, err);
	rc = rc ? rc : start_threads(s, err);
	if (rc) {
		diskrep_standby_destroy(s);
		return rc;
	}
	s->resync.found = claim_of(&s->found);
	*s_out = s;
	return 0;
}

static int imgs_of(const int *fds, unsigned n, struct img *img, struct err *err)
{
	if (n > DR_DISKS_MAX)
		return too_many(err);
	for (unsigned i = 0; i < n; i++)
		img[i] = img_of_fd(fds[i]);
	return 0;
}

int diskrep_standby_create_img(const struct img *imgs, unsigned n, size_t stage_bytes,
			       const struct diskrep_journal *journal,
			       struct diskrep_standby **s_out, struct err *err)
{
	return create(imgs, n, stage_bytes, journal, NULL, s_out, err);
}

int diskrep_standby_create_on(const int *fds, unsigned n, size_t stage_bytes,
			      const struct diskrep_journal *journal,
			      const struct dr_io *io, struct diskrep_standby **s_out,
			      struct err *err)
{
	struct img img[DR_DISKS_MAX];
	int rc = imgs_of(fds, n, img, err);

	*s_out = NULL;
	return rc ? rc : create(img, n, stage_bytes, journal, io, s_out, err);
}

int diskrep_standby_create(const int *fds, unsigned n, size_t stage_bytes,
			   const struct diskrep_journal *journal,
			   struct diskrep_standby **s_out, struct err *err)
{
	return diskrep_standby_create_on(fds, n, stage_bytes, journal, NULL, s_out, err);
}

void diskrep_standby_destroy(struct diskrep_standby *s)
{
	if (!s)
		return;
	drs_grow_wait(s);
	pthread_mutex_destroy(&s->grow.lock);
	drs_applier_stop(&s->applier);
	drs_flusher_stop(&s->flusher);
	drs_resync_reset(s);
	drs_verify_fini(s);
	if (s->applier.s)
		forget_from(s, &s->first);
	journal_close(s->journal);
	drs_notes_fini(s);
	dr_pool_fini(&s->pool);
	free(s->room);
	free(s);
}

int diskrep_recover(const int *fds, unsigned n, const struct diskrep_journal *journal,
		    struct journal_found *found_out, struct err *err)
{
	struct img img[DR_DISKS_MAX];
	int rc = imgs_of(fds, n, img, err);

	*found_out = (struct journal_found){.whole = -1};
	return rc ? rc : diskrep_recover_img(img, n, journal, found_out, err);
}

int diskrep_recover_img(const struct img *imgs, unsigned n,
			const struct diskrep_journal *jc, struct journal_found *found_out,
			struct err *err)
{
	struct diskrep_standby s = {.n = 0};
	int rc = open_images(&s, imgs, n, err);

	*found_out = (struct journal_found){.whole = -1};
	if (rc)
		return rc;
	s.files = (struct dr_files){.img = s.img, .journal = jc->fd};
	s.io = dr_files_io(&s.files);
	rc = open_journal(&s, jc, err);
	*found_out = s.found;
	if (!rc && s.journal && s.found.whole == 0)
		rc = err_set(err, -EUCLEAN,
			     "this host's disks hold no whole state of the guest: %s",
			     s.found.why[0] ? s.found.why : "a sync was cut short");
	/* Before the guest writes: no replay undoes that. */
	if (!rc && s.journal && journal_mark(s.journal, JOURNAL_OWNED, NULL))
		rc = err_set(err, -EIO, "the disk journal cannot be written");
	journal_close(s.journal);
	return rc;
}

void diskrep_recovered(struct diskrep *dr, const struct journal_found *found)
{
	dr->recovered = claim_of(found);
	/* The guest has all of its images, and what is beyond was never compared. */
	for (uint32_t i = 0; i < dr->disks; i++)
		if (found->capacity[i] != dr->disk[i].img.capacity)
			dr->recovered = (struct dr_claim){0};
}
