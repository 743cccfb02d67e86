/* SPDX-License-Identifier: Apache-2.0
 * watch - the thread that looks at the clock.
 */
#include "remus/watch.h"

#include "hv/base/clock.h"

enum { TURNS_IN_LIMIT = 4 };

/* Is there a gap behind us? A @turn moves the tick, and so does who finds a gap. */
static int look(struct watch *w, int turn)
{
	uint64_t last = atomic_load(&w->tick_ns), now = clock_mono_ns();
	int gap = now > last && now - last > w->limit_ns;

	/* In this order: who sees the new tick also sees the gap before it. Two who saw the same
	 * gap count it twice, which is no harm: counts are only compared. */
	if (gap)
		atomic_fetch_add(&w->gaps, 1);
	/* The time that was judged, not a later one: a freeze in this line is found next time. */
	if ((gap || turn) && now > last)
		(void)atomic_compare_exchange_strong(&w->tick_ns, &last, now);
	return gap;
}

static void *watch_main(void *arg)
{
	struct watch *w = arg;
	uint64_t step = w->limit_ns / TURNS_IN_LIMIT, when;
	struct timespec ts;

	pthread_mutex_lock(&w->lock);
	while (!w->stop) {
		pthread_mutex_unlock(&w->lock);
		if (look(w, 1))
			w->on_gap(w->arg);
		when = clock_mono_ns() + step;
		ts = (struct timespec){.tv_sec = (time_t)(when / 1000000000),
				       .tv_nsec = (long)(when % 1000000000)};
		pthread_mutex_lock(&w->lock);
		/* Woken early or late: the next turn looks at the clock. */
		if (!w->stop)
			(void)pthread_cond_timedwait(&w->cond, &w->lock, &ts);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int watch_start(struct watch *w, uint64_t limit_ns, void (*on_gap)(void *arg), void *arg)
{
	pthread_condattr_t at;
	int rc;

	*w = (struct watch){.limit_ns = limit_ns, .on_gap = on_gap, .arg = arg};
	atomic_store(&w->tick_ns, clock_mono_ns());
	if (!limit_ns)
		return 0;
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_init(&at);
	pthread_condattr_setclock(&at, CLOCK_MONOTONIC);
	pthread_cond_init(&w->cond, &at);
	pthread_condattr_destroy(&at);
	rc = -pthread_create(&w->thread, NULL, watch_main, w);
	w->started = !rc;
	if (!rc)
		return 0;
	pthread_cond_destroy(&w->cond);
	pthread_mutex_destroy(&w->lock);
	return rc;
}

void watch_stop(struct watch *w)
{
	if (!w->started)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = 1;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL); /* ours, and joined by nobody else */
	w->started = 0;
	pthread_cond_destroy(&w->cond);
	pthread_mutex_destroy(&w->lock);
}

uint64_t watch_gaps(struct watch *w)
{
	if (w->limit_ns)
		(void)look(w, 0); /* its count is what is returned */
	return atomic_load(&w->gaps);
}
