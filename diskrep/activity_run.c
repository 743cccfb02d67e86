/* SPDX-License-Identifier: Apache-2.0
 * activity_run - the activity log's thread, and the calls of who uses it.
 */
#include "diskrep/activity_run.h"

#include "diskrep/dr.h"
#include "diskrep/standby.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void dr_chunks_of(const struct dr_disk *d, const struct blk_req *r, uint64_t *first,
		  uint64_t *count)
{
	*first = r->offset / DR_CHUNK;
	*count = r->len ? (r->offset + r->len - 1) / DR_CHUNK - *first + 1 : 0;
	/* The device has checked it; the sets must hold whatever comes. */
	if (*first + *count > d->img.chunks)
		*count = *first < d->img.chunks ? d->img.chunks - *first : 0;
}

void dr_activity_kick(struct diskrep *dr)
{
	dr->activity.kicked = 1;
	pthread_cond_signal(&dr->activity.work);
}

int dr_activity_admit(struct dr_disk *d, const struct blk_req *r)
{
	struct diskrep *dr = d->dr;
	struct dr_activity *a = &dr->activity;
	uint64_t first, count;

	if (!a->ready)
		return 1;
	dr_chunks_of(d, r, &first, &count);
	if (act_admit(&a->act, d->index, first, count))
		return 1;
	a->waited++;
	dr_activity_kick(dr);
	return 0;
}

void dr_activity_again(struct dr_disk *d, const struct blk_req *r)
{
	uint64_t first, count;

	dr_chunks_of(d, r, &first, &count);
	if (d->dr->activity.ready)
		act_mark(&d->dr->activity.act, d->index, first, count);
}

void dr_durable(struct diskrep *dr, uint64_t epoch)
{
	struct act *act = &dr->activity.act;

	pthread_mutex_lock(&dr->lock);
	if (dr->mode == DR_ON && dr->activity.ready) {
		int news = act->have_next;

		act_durable(act, epoch, dr->open->epoch);
		if (news && !act->have_next)
			dr_activity_kick(dr);
	}
	pthread_mutex_unlock(&dr->lock);
}

int dr_may_recall(const struct diskrep *dr)
{
	const struct dr_activity *a = &dr->activity;

	return a->ready && a->fd >= 0 && !a->failed && !a->act.open &&
	       a->act.claim.role == ACT_NONE;
}

void dr_activity_close(struct diskrep *dr)
{
	pthread_mutex_lock(&dr->lock);
	if (dr->activity.ready)
		act_close(&dr->activity.act);
	dr_activity_kick(dr);
	pthread_mutex_unlock(&dr->lock);
}

static void on_flushed(struct blk_req *r, int status)
{
	struct dr_req *q = (struct dr_req *)r;
	struct diskrep *dr = q->disk->dr;
	struct blk_req *outer = q->outer;

	pthread_mutex_lock(&dr->lock);
	act_flushed(&dr->activity.act, q->disk->index, !status);
	pthread_mutex_unlock(&dr->lock);
	q->next = dr->pool;
	dr->pool = q;
	outer->done(outer, status);
}

/* What is in flight now is not covered, and stays loose. */
static int flush_begins(struct dr_disk *d)
{
	struct diskrep *dr = d->dr;
	uint64_t first, count;
	int counts;

	pthread_mutex_lock(&dr->lock);
	counts = act_flush_begins(&dr->activity.act, d->index);
	for (struct dr_req *q = dr->first; counts && q; q = q->next) {
		if (q->disk != d)
			continue;
		dr_chunks_of(d, &q->r, &first, &count);
		act_loose(&dr->activity.act, d->index, first, count);
	}
	pthread_mutex_unlock(&dr->lock);
	return counts;
}

void dr_activity_flush(struct dr_disk *d, struct blk_req *r)
{
	struct dr_req *q = d->dr->activity.ready ? dr_req_new(d, r, on_flushed) : NULL;

	if (q && !flush_begins(d)) {
		q->next = d->dr->pool;
		d->dr->pool = q;
		q = NULL;
	}
	/* Without memory it is a flush that proves nothing to us. */
	dr_flush(d, q ? &q->r : r);
}

/* Under lock but for the writing. */
static void write_batch(struct diskrep *dr)
{
	struct dr_activity *a = &dr->activity;
	int rc, spoiled;

	pthread_mutex_unlock(&dr->lock);
	rc = act_batch_write(&a->file, a->batch);
	spoiled = rc && !act_file_spoil(&a->file);
	pthread_mutex_lock(&dr->lock);
	a->syncs++;
	if (rc) {
		a->failed = rc;
		act_off(&a->act);
	} else {
		act_written(&a->act, a->batch);
	}
	pthread_mutex_unlock(&dr->lock);
	if (rc) {
		log_err("the disks' activity log cannot be written (%s): the guest goes "
			"on without it",
			strerror(-rc));
		if (a->on_failed)
			a->on_failed(a->arg, rc, spoiled);
	}
	dr_wake(dr);
	pthread_mutex_lock(&dr->lock);
}

/* What the standby's process has written may be sworn once it is on the disk. Under lock but for
 * the flush. */
static void make_sure(struct diskrep *dr)
{
	struct act *act = &dr->activity.act;
	int rc = 0;

	pthread_mutex_unlock(&dr->lock);
	if (dr->heir_of)
		rc = drs_applier_settled(&dr->heir_of->applier);
	for (uint32_t i = 0; !rc && i < dr->disks; i++)
		rc = dr_image_sync(&dr->disk[i].img);
	pthread_mutex_lock(&dr->lock);
	if (rc)
		log_warn("disks: what was taken over cannot be flushed (%s): the next "
			 "standby is compared as a whole",
			 strerror(-rc));
	else
		act_swear(act);
	dr->activity.sure = 1;
}

static void wait_for_work(struct diskrep *dr)
{
	struct dr_activity *a = &dr->activity;
	struct timespec ts = {.tv_sec = (time_t)(a->tidy_ns / 1000000000),
			      .tv_nsec = (long)(a->tidy_ns % 1000000000)};
	int r = 0;

	while (!a->kicked && !a->stop && !r)
		r = pthread_cond_timedwait(&a->work, &dr->lock, &ts);
	a->kicked = 0;
	if (clock_mono_ns() < a->tidy_ns)
		return;
	a->tidy_ns = clock_mono_ns() + ACT_TIDY_MS * UINT64_C(1000000);
	act_tidy(&a->act);
}

static void *activity_main(void *arg)
{
	struct diskrep *dr = arg;
	struct dr_activity *a = &dr->activity;

	pthread_mutex_lock(&dr->lock);
	while (!a->stop) {
		if (act_collect(&a->act, a->batch))
			write_batch(dr);
		else if (a->act.unsure && !a->sure && (!dr->heir_of || a->settled))
			make_sure(dr);
		else
			wait_for_work(dr);
	}
	pthread_mutex_unlock(&dr->lock);
	return NULL;
}

/* 0, or the reason why there is no log. */
static int load(struct diskrep *dr, const uint64_t *capacity, struct err *err)
{
	struct dr_activity *a = &dr->activity;
	struct dr_bits bitmap[DR_DISKS_MAX] = {0};
	struct act_head *h = calloc(1, sizeof(*h));
	const char *why = NULL;
	int rc = h ? 0 : -ENOMEM;

	rc = rc ? rc
		: act_file_init(&a->file, act_io_of(&a->fd), capacity, dr->disks, err);
	for (uint32_t i = 0; !rc && i < dr->disks; i++) {
		a->file.identity[i] = dr->disk[i].identity;
		rc = dr_bits_init(&bitmap[i], dr->disk[i].img.chunks);
	}
	rc = rc ? rc : act_file_load(&a->file, h, bitmap, &why);
	if (rc > 0) {
		log_info("disks: %s: the next comparison is a full one", why);
		for (uint32_t i = 0; i < dr->disks; i++)
			dr_bits_clear(&bitmap[i]);
		*h = (struct act_head){.open = 1};
		memcpy(h->capacity, a->file.capacity, sizeof(h->capacity));
		rc = act_file_format(&a->file);
	}
	if (!rc)
		act_load(&a->act, h, bitmap);
	for (uint32_t i = 0; i < dr->disks; i++)
		dr_bits_fini(&bitmap[i]);
	free(h);
	return rc;
}

void diskrep_identity(struct diskrep *dr, unsigned disk, uint64_t identity)
{
	dr->disk[disk].identity = identity;
}

int diskrep_activity(struct diskrep *dr, int fd,
		     void (*on_failed)(void *arg, int rc, int spoiled), void *arg,
		     struct err *err)
{
	struct dr_activity *a = &dr->activity;
	uint64_t capacity[DR_DISKS_MAX];
	int rc;

	for (uint32_t i = 0; i < dr->disks; i++)
		capacity[i] = dr->disk[i].img.capacity;
	a->fd = fd;
	a->on_failed = on_failed;
	a->arg = arg;
	a->batch = calloc(1, sizeof(*a->batch));
	rc = a->batch ? act_init(&a->act, capacity, dr->disks, ACT_SLOTS) : -ENOMEM;
	if (rc)
		return err_set(err, rc, "no memory for the disks' activity log");
	a->ready = 1;
	if (fd < 0)
		return 0;
	rc = load(dr, capacity, err);
	if (rc) {
		int spoiled = !act_file_spoil(&a->file);

		a->failed = rc;
		log_err("the disks' activity log cannot be used (%s)", strerror(-rc));
		if (on_failed)
			on_failed(arg, rc, spoiled);
	}
	return 0;
}

int diskrep_run(struct diskrep *dr, struct err *err)
{
	struct dr_activity *a = &dr->activity;
	int r;

	if (!a->ready || a->fd < 0 || a->failed)
		return 0;
	a->tidy_ns = clock_mono_ns() + ACT_TIDY_MS * UINT64_C(1000000);
	r = pthread_create(&a->thread, NULL, activity_main, dr);
	if (r)
		return err_sys(err, -r, "disks: a thread for the activity log");
	a->running = 1;
	return 0;
}

/* Under lock. The guest that starts here has disks of these sizes. 1: one is larger than what the log was written
 * for, with what nobody knows. */
static int take_disks(struct diskrep *dr)
{
	struct act *act = &dr->activity.act;
	int any = 0;

	for (uint32_t i = 0; i < dr->disks; i++) {
		if (act->capacity[i] == dr->disk[i].img.capacity)
			continue;
		any |= act->capacity[i] < dr->disk[i].img.capacity;
		/* Never more than it was made for, so there is memory for it. */
		(void)act_resize(act, i, dr->disk[i].img.capacity);
	}
	return any;
}

void diskrep_start(struct diskrep *dr)
{
	struct dr_activity *a = &dr->activity;
	const struct drs_resync *rs = dr->was_standby ? &dr->was_standby->resync : NULL;
	static const struct dr_claim none;

	pthread_mutex_lock(&dr->lock);
	if (a->ready && rs) {
		act_restart(&a->act, &rs->at);
	} else if (dr->recovered.role != ACT_NONE && dr_may_recall(dr)) {
		(void)take_disks(dr); /* the journal speaks of all of them */
		act_restart(&a->act, &dr->recovered);
		act_swear(&a->act);
	} else if (a->ready && take_disks(dr)) {
		act_restart(&a->act, &none);
	} else if (a->ready) {
		act_open(&a->act);
	}
	dr_activity_kick(dr);
	pthread_mutex_unlock(&dr->lock);
}

void diskrep_meet(struct diskrep *dr, struct diskrep_standby *s)
{
	s->resync.own = dr;
	dr->was_standby = s;
}

void dr_activity_end(struct diskrep *dr)
{
	struct dr_activity *a = &dr->activity;

	if (a->running) {
		pthread_mutex_lock(&dr->lock);
		a->stop = 1;
		pthread_cond_signal(&a->work);
		pthread_mutex_unlock(&dr->lock);
		pthread_join(a->thread, NULL); /* ours, and joined once: cannot fail */
	}
	a->running = 0;
	a->ready = 0;
	act_fini(&a->act);
	free(a->batch);
	a->batch = NULL;
}
