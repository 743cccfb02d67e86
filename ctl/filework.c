/* SPDX-License-Identifier: Apache-2.0
 * filework - a queue of jobs on files, and their thread.
 */
#include "ctl/filework.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct filework {
	struct loop *loop;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct filework_job *first, **tail;
	struct filework_job *over, **over_tail; /* until the loop has told them */
	int stopping;
};

static struct filework_job *take(struct filework_job **first, struct filework_job ***tail)
{
	struct filework_job *j = *first;

	if (j) {
		*first = j->next;
		j->next = NULL;
		if (!*first)
			*tail = first;
	}
	return j;
}

static void put(struct filework_job ***tail, struct filework_job *j)
{
	j->next = NULL;
	**tail = j;
	*tail = &j->next;
}

/* On the loop; posted once for each job. */
static void tell(void *arg)
{
	struct filework *w = arg;
	struct filework_job *j;

	pthread_mutex_lock(&w->lock);
	j = take(&w->over, &w->over_tail);
	pthread_mutex_unlock(&w->lock);
	if (j)
		j->done(j);
}

static void *work(void *arg)
{
	struct filework *w = arg;
	struct filework_job *j;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		while (!w->first && !w->stopping)
			pthread_cond_wait(&w->wake, &w->lock);
		j = take(&w->first, &w->tail);
		if (!j)
			break;
		pthread_mutex_unlock(&w->lock);
		j->run(j);
		pthread_mutex_lock(&w->lock);
		put(&w->over_tail, j);
		/* The answer is never lost: without memory to post it, try again. */
		while (!w->stopping && loop_post(w->loop, tell, w))
			log_ratelimited(LOG_LVL_ERR, 1000,
					"out of memory: an answer waits to be told");
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int filework_create(struct loop *loop, struct filework **out, struct err *err)
{
	struct filework *w = calloc(1, sizeof(*w));
	int rc;

	*out = NULL;
	if (!w)
		return err_set(err, -ENOMEM, "work on files: out of memory");
	w->loop = loop;
	w->tail = &w->first;
	w->over_tail = &w->over;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->wake, NULL);
	rc = -pthread_create(&w->thread, NULL, work, w);
	if (rc) {
		pthread_cond_destroy(&w->wake);
		pthread_mutex_destroy(&w->lock);
		free(w);
		return err_sys(err, rc, "work on files: thread");
	}
	*out = w;
	return 0;
}

void filework_destroy(struct filework *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stopping = 1;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL); /* ours, joined once */
	pthread_cond_destroy(&w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

void filework_give(struct filework *w, struct filework_job *j)
{
	pthread_mutex_lock(&w->lock);
	put(&w->tail, j);
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
}
