/* SPDX-License-Identifier: Apache-2.0
 * storer - a queue of grants and the thread that makes them durable.
 */
#include "ctl/storer.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* One request on its way: queued, stored by the thread, then posted to the loop. */
struct job {
	struct job *next;
	struct storer *s;
	struct store_request rq;
	struct err err;
	int rc;
};

struct storer {
	const char *dir;
	struct loop *loop;
	void (*done)(void *arg, unsigned index, uint64_t id, int ok, const char *why);
	void *arg;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct job *head, **tail;
	struct job *finished, **finished_tail; /* until the loop has told them */
	int stopping;
};

static struct job *take(struct job **head, struct job ***tail)
{
	struct job *j = *head;

	if (j) {
		*head = j->next;
		j->next = NULL;
		if (!*head)
			*tail = head;
	}
	return j;
}

static void put(struct job ***tail, struct job *j)
{
	j->next = NULL;
	**tail = j;
	*tail = &j->next;
}

/* On the loop. Each job finished is posted once, so there is one to take. */
static void tell(void *arg)
{
	struct storer *s = arg;
	struct job *j;

	pthread_mutex_lock(&s->lock);
	j = take(&s->finished, &s->finished_tail);
	pthread_mutex_unlock(&s->lock);
	if (!j)
		return;
	s->done(s->arg, j->rq.index, j->rq.id, !j->rc, j->rc ? j->err.msg : "");
	free(j);
}

static void *storer_main(void *arg)
{
	struct storer *s = arg;
	struct job *j;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (!s->head && !s->stopping)
			pthread_cond_wait(&s->wake, &s->lock);
		j = take(&s->head, &s->tail);
		if (!j)
			break;
		pthread_mutex_unlock(&s->lock);
		j->rc = grant_store(s->dir, j->rq.vm, &j->rq.grant, &j->err);
		pthread_mutex_lock(&s->lock);
		put(&s->finished_tail, j);
		/* The answer is never lost: without memory to post it, try again. */
		while (!s->stopping && loop_post(s->loop, tell, s))
			log_ratelimited(LOG_LVL_ERR, 1000,
					"out of memory: a grant waits to be told");
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int storer_create(const char *dir, struct loop *loop,
		  void (*done)(void *arg, unsigned index, uint64_t id, int ok,
			       const char *why),
		  void *arg, struct storer **s_out, struct err *err)
{
	struct storer *s = calloc(1, sizeof(*s));
	int rc;

	*s_out = NULL;
	if (!s)
		return err_set(err, -ENOMEM, "grants: out of memory");
	*s = (struct storer){.dir = dir, .loop = loop, .done = done, .arg = arg};
	s->tail = &s->head;
	s->finished_tail = &s->finished;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, NULL);
	rc = -pthread_create(&s->thread, NULL, storer_main, s);
	if (rc) {
		pthread_cond_destroy(&s->wake);
		pthread_mutex_destroy(&s->lock);
		free(s);
		return err_sys(err, rc, "grants: thread");
	}
	*s_out = s;
	return 0;
}

void storer_destroy(struct storer *s)
{
	struct job *j;

	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stopping = 1;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	while ((j = take(&s->finished, &s->finished_tail)))
		free(j);
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

int storer_submit(struct storer *s, const struct store_request *rq)
{
	struct job *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	j->s = s;
	j->rq = *rq;
	pthread_mutex_lock(&s->lock);
	put(&s->tail, j);
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	return 0;
}
