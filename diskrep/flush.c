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

int drs_sync_all(const struct drs_flusher *f)
{
	int rc = 0;

	for (unsigned i = 0; i < f->n; i++) {
		/* EROFS, EINVAL: nothing was written there, or it cannot be cached. */
		if (!fdatasync(f->img[i].fd) || errno == EROFS || errno == EINVAL)
			continue;
		rc = -errno;
		log_err("disk %u: fdatasync failed; this host is no safe standby any more",
			i);
	}
	return rc;
}

static void *flusher_main(void *arg)
{
	struct drs_flusher *f = arg;
	int rc;

	pthread_mutex_lock(&f->lock);
	while (!f->stop || f->dirty) {
		if (!f->dirty) {
			pthread_cond_wait(&f->cond, &f->lock);
			continue;
		}
		gather(f);
		f->dirty = 0;
		pthread_mutex_unlock(&f->lock);
		rc = drs_sync_all(f);
		pthread_mutex_lock(&f->lock);
		if (rc && !f->failed)
			f->failed = rc;
	}
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
	f->stop = 1;
	f->dirty = 0;
	pthread_cond_signal(&f->cond);
	pthread_mutex_unlock(&f->lock);
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
