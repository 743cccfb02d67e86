/* SPDX-License-Identifier: Apache-2.0
 * flush - fdatasync behind what the standby applies, on a thread of its own.
 */
#include "diskrep/standby.h"

#include "hv/base/log.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

/* Under lock. Let more of it gather, unless somebody is in a hurry. */
static void gather(struct drs_flusher *f)
{
	struct timespec ts;
	int r = 0;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
	ts.tv_nsec += FLUSH_EVERY_MS * 1000000L;
	ts.tv_sec += ts.tv_nsec / 1000000000;
	ts.tv_nsec %= 1000000000;
	while (!f->stop && !f->hurry && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&f->cond, &f->lock, &ts);
	f->hurry = 0;
}

static int sync_one(const struct drs_flusher *f, unsigned i)
{
	int rc;

	/* EROFS, EINVAL: nothing was written there, or it cannot be cached. */
	if (!fdatasync(f->img[i].fd) || errno == EROFS || errno == EINVAL)
		return 0;
	rc = -errno;
	log_err("disk %u: fdatasync failed; this host is no safe standby any more", i);
	return rc;
}

int drs_sync_all(const struct drs_flusher *f)
{
	int rc = 0;

	for (unsigned i = 0; i < f->n; i++) {
		int one = sync_one(f, i);

		rc = one ? one : rc;
	}
	return rc;
}

/* Under lock but for the waiting. Stops early when nobody is interested any more. */
static void sync_and_note(struct drs_flusher *f)
{
	for (unsigned i = 0; i < f->n && !f->abandoned; i++) {
		int rc;

		pthread_mutex_unlock(&f->lock);
		rc = sync_one(f, i);
		pthread_mutex_lock(&f->lock);
		if (rc && !f->failed)
			f->failed = rc;
		if (rc && !f->image_failed[i])
			f->image_failed[i] = rc;
	}
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
		f->dirty = 0;
		sync_and_note(f);
	}
	f->ended = 1;
	if (f->on_end)
		f->on_end(f->on_end_arg);
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

int drs_flusher_start(struct drs_flusher *f, const struct dr_image *img, unsigned n)
{
	pthread_condattr_t attr;
	int r;

	*f = (struct drs_flusher){.img = img, .n = n};
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
}

void drs_flusher_abandon(struct drs_flusher *f)
{
	pthread_mutex_lock(&f->lock);
	f->stop = f->abandoned = 1;
	f->dirty = 0;
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
