/* SPDX-License-Identifier: Apache-2.0
 * applier - the thread that brings acked epochs into the journal and from there into the images.
 */
#include "diskrep/standby.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Epochs that go together: into the journal with one flush, then into the images. */
struct batch {
	struct drs_epoch *first;
	uint64_t last, need;
};

static struct timespec at_ns(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / 1000000000),
				 .tv_nsec = (long)(ns % 1000000000)};
}

/* Under lock. Is it time to take what is queued? Without a journal nothing is gained by waiting. */
static int is_due(const struct drs_applier *a, uint64_t *until)
{
	unsigned ms = a->written ? COMMIT_MS : COMMIT_IDLE_MS;

	*until = a->queued_ns + ms * UINT64_C(1000000);
	return a->hurry || a->stop || a->final || !a->journaling || a->lose ||
	       a->need >= COMMIT_BYTES || clock_mono_ns() >= *until;
}

/* Under lock but for the waiting: until there is a batch to be made, or no more to come. */
static void await_work(struct drs_applier *a)
{
	uint64_t until;
	struct timespec ts;

	for (;;) {
		if (!a->first && (a->stop || a->final || a->lose))
			return;
		if (!a->first) {
			pthread_cond_wait(&a->work, &a->lock);
			continue;
		}
		if (is_due(a, &until))
			return;
		ts = at_ns(until);
		(void)pthread_cond_timedwait(&a->work, &a->lock,
					     &ts); /* looks again in any case */
	}
}

/* Under lock. As much as one batch takes, at least one epoch. */
static struct batch take_batch(struct drs_applier *a)
{
	uint64_t need, most = COMMIT_BYTES;
	struct drs_epoch *e, **tail;
	struct batch b = {.first = NULL};

	/* Half a ring, so that the flusher works on the other one. */
	if (a->journaling && journal_size(a->s->journal) / 2 < most)
		most = journal_size(a->s->journal) / 2;
	tail = &b.first;
	while ((e = a->first)) {
		need = journal_need(e);
		if (b.need && b.need + need > most)
			break;
		a->first = e->next;
		e->next = NULL;
		*tail = e;
		tail = &e->next;
		b.last = e->epoch;
		b.need += need;
		a->need -= need;
		/* What is later must not reach journal or images before it was made. */
		if (e->cut)
			break;
	}
	if (!a->first) {
		a->tail = &a->first;
		a->hurry = a->written = 0;
	}
	a->busy = 1;
	return b;
}

/* No lock. From here on the images get what the journal has not got, and the disk knows it. */
static void lose_journal(struct drs_applier *a, int why)
{
	struct diskrep_standby *s = a->s;
	char text[160];
	int rc, final;

	(void)snprintf(
		text, sizeof(text), /* fits */
		"the disk journal failed (%s): after a power cut this host's disks would have "
		"to be synced anew",
		why == -EFBIG ? "an epoch is larger than it" : strerror(-why));
	log_err("%s", text);
	rc = journal_mark(s->journal, JOURNAL_UNSAFE, NULL);
	pthread_mutex_lock(&a->lock);
	a->again_ns = clock_mono_ns() + a->again_ms * 1000000;
	a->again_ms = 2 * a->again_ms < AGAIN_MOST_MS ? 2 * a->again_ms : AGAIN_MOST_MS;
	a->journaling = 0;
	a->lose = 0;
	a->spot = (struct journal_spot){.link = 0};
	final = a->final;
	/* Who runs from here has no other choice than to go on; his flushes will fail. */
	if (rc && !final)
		a->failed = -EIO;
	pthread_mutex_unlock(&a->lock);
	if (rc)
		log_err("the disk journal cannot even be marked as not valid: %s",
			strerror(-rc));
	drs_tell(s, rc && !final ? DISKREP_LOST : DISKREP_TORN, text);
}

/* Under lock. */
static int is_time_again(const struct drs_applier *a)
{
	return a->s->journal && !a->journaling && a->any && !a->failed && !a->lose &&
	       !a->final && clock_mono_ns() >= a->again_ns;
}

/* No lock. The images are at the end of @b. Once they are flushed the journal may begin there; until that
 * is durable, nothing more is written to them. */
static void try_again(struct drs_applier *a, const struct batch *b)
{
	const struct drs_epoch *e = b->first;
	int rc = drs_flusher_sync(&a->s->flusher);

	if (rc) {
		drs_applier_fail(a, -EIO);
		return;
	}
	while (e->next)
		e = e->next;
	rc = journal_resume(a->s->journal, b->last, e->after);
	if (rc) {
		lose_journal(a, rc);
		return;
	}
	pthread_mutex_lock(&a->lock);
	a->journaling = 1;
	a->committed = b->last;
	pthread_mutex_unlock(&a->lock);
	log_info("the disk journal works again");
	drs_tell(a->s, DISKREP_WHOLE, "the disk journal works again");
}

/* No lock. 0, or why the journal cannot be used. */
static int await_room(struct drs_applier *a, uint64_t need)
{
	struct journal *j = a->s->journal;
	int rc = 0;

	if (need > journal_size(j))
		return -EFBIG;
	if (journal_room(j) < need)
		drs_flusher_kick(&a->s->flusher, 1);
	pthread_mutex_lock(&a->lock);
	while (!rc && journal_room(j) < need) {
		rc = a->failed ? a->failed : a->lose;
		if (!rc)
			pthread_cond_wait(&a->news, &a->lock);
	}
	rc = rc ? rc : a->lose;
	pthread_mutex_unlock(&a->lock);
	return rc;
}

/* No lock. The batch is durable in the journal when this returns 0. */
static int to_journal(struct drs_applier *a, const struct batch *b,
		      struct journal_spot *spot)
{
	struct journal *j = a->s->journal;
	int rc = await_room(a, b->need);

	for (struct drs_epoch *e = b->first; !rc && e; e = e->next)
		rc = journal_epoch(j, e, !e->next);
	return rc ? rc : journal_commit(j, spot);
}

/* No lock. The guest goes on here, there is no room for what it wrote before, and no other host. */
static int await_space(struct drs_applier *a, int rc)
{
	struct timespec ts;
	int wait;

	if (rc != -ENOSPC && rc != -EDQUOT)
		return 0;
	ts = at_ns(clock_mono_ns() + ROOM_MS * UINT64_C(1000000));
	pthread_mutex_lock(&a->lock);
	wait = a->final && !a->stop;
	if (wait)
		(void)pthread_cond_timedwait(&a->work, &a->lock,
					     &ts); /* tried again in any case */
	pthread_mutex_unlock(&a->lock);
	return wait;
}

static int to_image(struct drs_applier *a, const struct drs_entry *n)
{
	const struct dr_io *io = &a->s->io;
	int rc;

	if (n->resize)
		return 0; /* the image has the room already */
	do {
		rc = n->erase ? io->ops->erase(io->self, n->disk, n->offset, n->len)
			      : io->ops->write(io->self, n->disk, n->bytes, n->len,
					       n->offset);
		if (rc)
			log_ratelimited(LOG_LVL_ERR, 10000,
					"disk %u: writing the image: %s", n->disk,
					strerror(-rc));
	} while (rc && await_space(a, rc));
	return rc;
}

/* No lock. In order of submission. */
static int to_images(struct drs_applier *a, const struct batch *b)
{
	int rc = 0;

	for (struct drs_epoch *e = b->first; !rc && e; e = e->next)
		for (struct drs_entry *n = e->first; !rc && n; n = n->next)
			rc = to_image(a, n);
	return rc;
}

static void free_batch(struct diskrep_standby *s, struct batch *b)
{
	struct drs_epoch *e;

	while ((e = b->first)) {
		b->first = e->next;
		drs_epoch_free(s, e);
	}
}

/* No lock. The batch may be written to the images when this returns 0. */
static int journal_first(struct drs_applier *a, const struct batch *b,
			 struct journal_spot *spot)
{
	int why = to_journal(a, b, spot), rc = drs_applier_failed(a);

	if (!why || rc)
		return rc;
	*spot = (struct journal_spot){.link = 0};
	lose_journal(a, why);
	return drs_applier_failed(a);
}

/* Is it time to make room, rather than when it is full? */
static int is_filling(struct diskrep_standby *s)
{
	uint64_t size = s->journal ? journal_size(s->journal) : 0;

	return s->journal && size - journal_room(s->journal) > size / 4;
}

/* No lock. Without a journal, what is in the images outlives the process, if not the host. */
static void maybe_tell_all(struct drs_applier *a)
{
	int live = !a->s->journal || journal_state(a->s->journal) == JOURNAL_LIVE, tell;

	pthread_mutex_lock(&a->lock);
	tell = a->tell_all && live && a->any && !a->first && !a->busy && !a->failed &&
	       (a->journaling || !a->s->journal);
	if (tell)
		a->tell_all = 0;
	pthread_mutex_unlock(&a->lock);
	if (tell)
		drs_tell(a->s, DISKREP_ALL,
			 "all that was acknowledged is on this host's disks");
}

/* No lock. What was to be done when these epochs are in the images. */
static int after_images(struct diskrep_standby *s, const struct batch *b)
{
	int rc = 0;

	for (const struct drs_epoch *e = b->first; !rc && e; e = e->next)
		rc = drs_notes_applied(s, e);
	return rc;
}

/* No lock. With a guest that goes on here there is no other standby to be made. */
static void tell_lost(struct drs_applier *a, const char *why)
{
	int final;

	pthread_mutex_lock(&a->lock);
	final = a->final;
	pthread_mutex_unlock(&a->lock);
	drs_tell(a->s, final ? DISKREP_TORN : DISKREP_LOST, why);
}

/* Lock held, and let go of meanwhile. */
static void one_batch(struct drs_applier *a)
{
	struct diskrep_standby *s = a->s;
	struct batch b = take_batch(a);
	struct journal_spot spot = {.link = 0};
	int journaling = a->journaling, rc = a->failed, first = !a->any, again;

	pthread_mutex_unlock(&a->lock);
	if (!rc && journaling)
		rc = journal_first(a, &b, &spot);
	if (!rc) {
		rc = to_images(a, &b);
		/* Nobody else appends, or changes an image, meanwhile. */
		if (!rc && first && spot.link)
			journal_look(s->journal, &spot);
		rc = rc ? rc : after_images(s, &b);
		if (rc)
			tell_lost(a, "a disk image cannot be written");
	}
	pthread_mutex_lock(&a->lock);
	if (rc && !a->failed)
		a->failed = rc;
	if (!rc) {
		a->any = 1;
		a->spot = spot;
		a->committed = b.last;
	}
	again = is_time_again(a);
	pthread_mutex_unlock(&a->lock);
	if (again)
		try_again(a, &b);
	if (!rc)
		drs_flusher_kick(&s->flusher, first || is_filling(s));
	free_batch(s, &b);
	pthread_mutex_lock(&a->lock);
	a->busy = 0;
	pthread_cond_broadcast(&a->news);
	if (a->first || !a->tell_all)
		return;
	pthread_mutex_unlock(&a->lock);
	maybe_tell_all(a);
	pthread_mutex_lock(&a->lock);
}

/* Lock held, and let go of meanwhile. After a failure the journal is kept: the guest gets nothing but
 * errors here, and a recovery may have better luck with the image. */
static void settle(struct drs_applier *a)
{
	int tell = !a->s->journal && !a->told_whole && !a->failed, failed = a->failed, rc;

	pthread_mutex_unlock(&a->lock);
	/* Before the guest's first write. If it cannot be written, neither can it be retired, which is told. */
	rc = a->s->journal ? journal_dismiss(a->s->journal) : 0;
	if (rc)
		log_err("the disk journal: %s", strerror(-rc));
	if (!failed)
		drs_flusher_finish(&a->s->flusher);
	if (tell)
		drs_tell(a->s, DISKREP_ALL, "the guest's disks are this host's");
	pthread_mutex_lock(&a->lock);
	a->settled = 1;
	if (a->on_settled)
		a->on_settled(a->on_settled_arg);
}

static void *applier_main(void *arg)
{
	struct drs_applier *a = arg;

	pthread_mutex_lock(&a->lock);
	for (;;) {
		int why;

		await_work(a);
		why = a->lose;
		if (!a->first && !why)
			break;
		if (a->first) {
			one_batch(a);
			continue;
		}
		pthread_mutex_unlock(&a->lock);
		lose_journal(a, why);
		pthread_mutex_lock(&a->lock);
	}
	if (a->final)
		settle(a);
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

int drs_applier_start(struct drs_applier *a, struct diskrep_standby *s)
{
	pthread_condattr_t attr;
	int r;

	*a = (struct drs_applier){.s = s, .again_ms = AGAIN_MS};
	a->tail = &a->first;
	pthread_mutex_init(&a->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&a->work, &attr);
	pthread_cond_init(&a->news, &attr);
	pthread_condattr_destroy(&attr);
	r = pthread_create(&a->thread, NULL, applier_main, a);
	a->started = !r;
	return -r;
}

void drs_applier_stop(struct drs_applier *a)
{
	if (!a->started)
		return;
	pthread_mutex_lock(&a->lock);
	a->stop = 1;
	pthread_cond_signal(&a->work);
	pthread_mutex_unlock(&a->lock);
	pthread_join(a->thread, NULL); /* a thread of our own, joined once */
	a->started = 0;
}

void drs_applier_add(struct drs_applier *a, struct drs_epoch *e)
{
	pthread_mutex_lock(&a->lock);
	if (!a->first)
		a->queued_ns = clock_mono_ns();
	e->next = NULL;
	*a->tail = e;
	a->tail = &e->next;
	a->need += journal_need(e);
	a->written |= !!e->first;
	pthread_cond_signal(&a->work);
	pthread_mutex_unlock(&a->lock);
}

int drs_applier_drain(struct drs_applier *a)
{
	int rc;

	pthread_mutex_lock(&a->lock);
	while (a->first || a->busy) {
		a->hurry = 1;
		pthread_cond_signal(&a->work);
		pthread_cond_wait(&a->news, &a->lock);
	}
	rc = a->failed;
	pthread_mutex_unlock(&a->lock);
	return rc;
}

int drs_applier_failed(struct drs_applier *a)
{
	int rc;

	pthread_mutex_lock(&a->lock);
	rc = a->failed;
	pthread_mutex_unlock(&a->lock);
	return rc;
}

void drs_applier_begin(struct drs_applier *a, int journaling)
{
	pthread_mutex_lock(&a->lock);
	a->journaling = journaling;
	a->any = a->told_whole = a->tell_all = a->lose = 0;
	a->again_ms = AGAIN_MS;
	a->spot = (struct journal_spot){.link = 0};
	pthread_mutex_unlock(&a->lock);
}

void drs_applier_hasten(struct drs_applier *a)
{
	pthread_mutex_lock(&a->lock);
	a->tell_all = a->hurry = 1;
	pthread_cond_signal(&a->work);
	pthread_mutex_unlock(&a->lock);
	maybe_tell_all(a);
}

void drs_applier_finish(struct drs_applier *a)
{
	pthread_mutex_lock(&a->lock);
	a->final = 1;
	pthread_cond_signal(&a->work);
	pthread_mutex_unlock(&a->lock);
}

void drs_applier_on_settled(struct drs_applier *a, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&a->lock);
	a->on_settled = fn;
	a->on_settled_arg = arg;
	pthread_mutex_unlock(&a->lock);
}

int drs_applier_settled(struct drs_applier *a)
{
	int rc;

	pthread_mutex_lock(&a->lock);
	rc = a->failed ? a->failed : a->settled ? 0 : -EAGAIN;
	pthread_mutex_unlock(&a->lock);
	return rc;
}

void drs_applier_fail(struct drs_applier *a, int why)
{
	int tell;

	pthread_mutex_lock(&a->lock);
	tell = !a->final && !a->failed;
	/* Once the guest goes on here there is no way back; its flushes will fail. */
	if (a->final && a->journaling)
		a->lose = why;
	else if (tell)
		a->failed = why;
	pthread_cond_signal(&a->work);
	pthread_cond_broadcast(&a->news);
	pthread_mutex_unlock(&a->lock);
	if (tell)
		drs_tell(a->s, DISKREP_LOST, "a disk image cannot be flushed");
}

void drs_applier_lose(struct drs_applier *a, int why)
{
	pthread_mutex_lock(&a->lock);
	if (a->journaling)
		a->lose = why;
	pthread_cond_signal(&a->work);
	pthread_cond_broadcast(&a->news);
	pthread_mutex_unlock(&a->lock);
}

struct journal_spot drs_applier_spot(struct drs_applier *a, int *any_out)
{
	struct journal_spot spot;

	pthread_mutex_lock(&a->lock);
	spot = a->spot;
	*any_out = a->any;
	pthread_mutex_unlock(&a->lock);
	return spot;
}

void drs_applier_retired(struct drs_applier *a)
{
	int tell;

	pthread_mutex_lock(&a->lock);
	tell = !a->told_whole && !a->failed && (a->journaling || !a->s->journal);
	a->told_whole |= tell;
	pthread_cond_broadcast(&a->news);
	pthread_mutex_unlock(&a->lock);
	if (tell)
		drs_tell(a->s, DISKREP_WHOLE, "the first sync is on this host's disks");
	maybe_tell_all(a);
}

int drs_charge(struct drs_applier *a, size_t bytes, size_t max)
{
	int rc = 0;

	pthread_mutex_lock(&a->lock);
	while (a->staged >= max || bytes > max - a->staged) {
		if (!a->first && !a->busy)
			rc = -ENOBUFS;
		else if (a->failed)
			rc = -EIO;
		if (rc)
			break;
		/* Acks wait for the disks, and the guest for the acks. */
		a->hurry = 1;
		pthread_cond_signal(&a->work);
		pthread_cond_wait(&a->news, &a->lock);
	}
	if (!rc)
		a->staged += bytes;
	pthread_mutex_unlock(&a->lock);
	return rc;
}

void drs_discharge(struct drs_applier *a, size_t bytes)
{
	pthread_mutex_lock(&a->lock);
	a->staged -= bytes;
	pthread_mutex_unlock(&a->lock);
}
