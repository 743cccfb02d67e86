/* SPDX-License-Identifier: Apache-2.0
 * vmm_slow - while the control thread does what may take minutes before a guest can run, rhead is told so.
 *
 * A journal to be replayed on a slow disk, or a large guest's saved memory, are read in one go, and no ping is
 * answered meanwhile. Nobody else could do it sooner: to be killed for it would mean to begin again.
 */
#include "ctl/vmm.h"

#include "hv/base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TELL_S = 1 };

struct vmm_slow {
	struct vmm *m;
	const char *what;
	pthread_mutex_t lock;
	pthread_cond_t ends;
	int ended;
	pthread_t thread;
};

static void *tell(void *arg)
{
	struct vmm_slow *s = arg;
	struct timespec next;

	(void)clock_gettime(CLOCK_MONOTONIC, &next); /* cannot fail */
	pthread_mutex_lock(&s->lock);
	while (!s->ended) {
		next.tv_sec += TELL_S;
		while (!s->ended &&
		       pthread_cond_timedwait(&s->ends, &s->lock, &next) != ETIMEDOUT)
			;
		if (!s->ended)
			vmm_tell(s->m,
				 json_pack("{s:s,s:s}", "ev", "busy", "what", s->what));
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static int wait_by_the_clock(pthread_cond_t *c)
{
	pthread_condattr_t a;
	int rc = pthread_condattr_init(&a);

	if (rc)
		return -rc;
	rc = pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	rc = rc ? rc : pthread_cond_init(c, &a);
	(void)pthread_condattr_destroy(&a); /* cannot fail */
	return -rc;
}

struct vmm_slow *vmm_slow_begin(struct vmm *m, const char *what)
{
	struct vmm_slow *s = calloc(1, sizeof(*s));
	int rc = s ? wait_by_the_clock(&s->ends) : -ENOMEM;

	if (rc)
		goto out;
	s->m = m;
	s->what = what;
	(void)pthread_mutex_init(&s->lock, NULL); /* cannot fail without attributes */
	rc = -pthread_create(&s->thread, NULL, tell, s);
	if (!rc)
		return s;
	(void)pthread_mutex_destroy(&s->lock); /* nobody holds it */
	(void)pthread_cond_destroy(&s->ends);  /* or waits */
out:
	log_warn("%s: rhead will not be told if it takes long: %s", what, strerror(-rc));
	free(s);
	return NULL;
}

void vmm_slow_end(struct vmm_slow *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->ended = 1;
	pthread_cond_signal(&s->ends);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL); /* ours, and joined by nobody else */
	(void)pthread_mutex_destroy(&s->lock);
	(void)pthread_cond_destroy(&s->ends);
	free(s);
}
