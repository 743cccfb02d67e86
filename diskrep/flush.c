/* SPDX-License-Identifier: Apache-2.0
 * flush - flushes the images behind what the applier writes, and retires the journal with that.
 */
#include "diskrep/standby.h"

#include "hv/base/log.h"

#include <errno.h>
#include <time.h>

/* Under lock. Let more of it gather, unless somebody is in a hurry. */
static void gather(struct drs_flusher *f)
{
	struct journal *j = f->s->journal;
	long ms = j && journal_state(j) != JOURNAL_UNSAFE ? RETIRE_MS : FLUSH_MS;
	struct timespec ts;
	int r = 0;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
	ts.tv_sec += ms / 1000;
	ts.tv_nsec += ms % 1000 * 1000000L;
	ts.tv_sec += ts.tv_nsec / 1000000000;
	ts.tv_nsec %= 1000000000;
	while (!f->stop && !f->hurry && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&f->cond, &f->lock, &ts);
	f->hurry = 0;
}

static int sync_one(const struct diskrep_standby *s, unsigned i)
{
	int rc = s->io.ops->sync(s->io.self, i);

	if (rc)
		log_err("disk %u: flushing it failed; this host is no safe standby any more",
			i);
	return rc;
}

/* Under @turn: the kernel tells an error to one of those who flush, and what it told is noted before the next
 * one believes a success. */
static void note(struct drs_flusher *f, unsigned i, int rc)
{
	pthread_mutex_lock(&f->lock);
	if (rc && !f->failed)
		f->failed = rc;
	if (rc && !f->image_failed[i])
		f->image_failed[i] = rc;
	pthread_mutex_unlock(&f->lock);
}

int drs_flusher_sync(struct drs_flusher *f)
{
	int rc;

	pthread_mutex_lock(&f->turn);
	for (unsigned i = 0; i < f->s->n; i++)
		note(f, i, sync_one(f->s, i));
	pthread_mutex_lock(&f->lock);
	rc = f->failed;
	pthread_mutex_unlock(&f->lock);
	pthread_mutex_unlock(&f->turn);
	return rc;
}

static int is_abandoned(struct drs_flusher *f)
{
	int abandoned;

	pthread_mutex_lock(&f->lock);
	abandoned = f->abandoned;
	pthread_mutex_unlock(&f->lock);
	return abandoned;
}

/* No lock. Stops early when nobody is interested any more. */
static void sync_and_note(struct drs_flusher *f)
{
	pthread_mutex_lock(&f->turn);
	for (unsigned i = 0; i < f->s->n && !is_abandoned(f); i++)
		note(f, i, sync_one(f->s, i));
	pthread_mutex_unlock(&f->turn);
}

/* No lock. The images are flushed up to @spot. */
static void retire(struct diskrep_standby *s, const struct journal_spot *spot)
{
	int rc = journal_retire(s->journal, spot);

	if (rc)
		drs_applier_lose(&s->applier, rc);
	else
		drs_applier_retired(&s->applier);
}

/* No lock. From here on a guest's writes are in the images that no journal knows of. */
static int give_up_journal(struct diskrep_standby *s)
{
	int rc = journal_mark(s->journal, JOURNAL_OWNED, NULL);

	if (!rc) {
		drs_tell(s, DISKREP_ALL, "the guest's disks are this host's");
		return 0;
	}
	log_err("the disk journal cannot be retired: a flush of the guest's is not answered with "
		"success any more");
	drs_tell(s, DISKREP_TORN,
		 "the disk journal cannot be retired: the guest's flushes fail");
	return rc;
}

/* Under lock but for the waiting. */
static void one_turn(struct drs_flusher *f)
{
	struct diskrep_standby *s = f->s;
	struct journal_spot spot;
	int final = f->final, ok, any, rc = 0;

	f->dirty = 0;
	pthread_mutex_unlock(&f->lock);
	/* Before the flush begins: what is in the images by now is covered by it. */
	spot = drs_applier_spot(&s->applier, &any);
	sync_and_note(f);
	pthread_mutex_lock(&f->lock);
	ok = !f->failed && !f->abandoned;
	pthread_mutex_unlock(&f->lock);
	if (final)
		/* One that failed keeps the journal valid, for all images. */
		rc = ok ? give_up_journal(s) : -EIO;
	else if (ok && s->journal && spot.link)
		retire(s, &spot);
	else if (ok && any)
		drs_applier_retired(&s->applier);
	else if (!ok && !f->abandoned)
		drs_applier_fail(&s->applier, -EIO);
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; rc && i < s->n; i++)
		f->image_failed[i] = f->image_failed[i] ? f->image_failed[i] : rc;
	f->stop |= final;
}

static void *flusher_main(void *arg)
{
	struct drs_flusher *f = arg;

	pthread_mutex_lock(&f->lock);
	while (!f->stop || f->dirty) {
		if (!f->dirty) {
			pthread_cond_wait(&f->cond, &f->lock);
			continue;
		}
		gather(f);
		one_turn(f);
	}
	f->ended = 1;
	if (f->on_end)
		f->on_end(f->on_end_arg);
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

int drs_flusher_start(struct drs_flusher *f, struct diskrep_standby *s)
{
	pthread_condattr_t attr;
	int r;

	*f = (struct drs_flusher){.s = s};
	pthread_mutex_init(&f->turn, NULL);
	pthread_mutex_init(&f->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&f->cond, &attr);
	pthread_condattr_destroy(&attr);
	r = pthread_create(&f->thread, NULL, flusher_main, f);
	f->started = !r;
	return -r;
}

void drs_flusher_stop(struct drs_flusher *f)
{
	if (!f->started)
		return;
	pthread_mutex_lock(&f->lock);
	f->stop = 1;
	pthread_cond_signal(&f->cond);
	pthread_mutex_unlock(&f->lock);
	pthread_join(f->thread, NULL); /* a thread of our own, joined once */
	f->started = 0;
	pthread_cond_destroy(&f->cond);
	pthread_mutex_destroy(&f->lock);
	pthread_mutex_destroy(&f->turn);
}

void drs_flusher_finish(struct drs_flusher *f)
{
	pthread_mutex_lock(&f->lock);
	if (f->s->journal) {
		f->final = f->dirty = f->hurry = 1;
	} else {
		f->stop = f->abandoned = 1;
		f->dirty = 0;
	}
	pthread_cond_signal(&f->cond);
	pthread_mutex_unlock(&f->lock);
}

void drs_flusher_on_end(struct drs_flusher *f, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&f->lock);
	f->on_end = fn;
	f->on_end_arg = arg;
	pthread_mutex_unlock(&f->lock);
}

int drs_flusher_verdict(struct drs_flusher *f, unsigned i)
{
	int rc;

	pthread_mutex_lock(&f->lock);
	rc = f->image_failed[i];
	if (!rc && !f->ended)
		rc = -EAGAIN;
	pthread_mutex_unlock(&f->lock);
	return rc;
}

void drs_flusher_kick(struct drs_flusher *f, int hurry)
{
	pthread_mutex_lock(&f->lock);
	f->dirty = 1;
	f->hurry |= hurry;
	pthread_cond_signal(&f->cond);
	pthread_mutex_unlock(&f->lock);
}

int drs_flusher_failed(struct drs_flusher *f)
{
	int rc;

	pthread_mutex_lock(&f->lock);
	rc = f->failed;
	pthread_mutex_unlock(&f->lock);
	return rc;
}
