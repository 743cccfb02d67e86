/* SPDX-License-Identifier: Apache-2.0
 * arbiter - requests to the third party on worker threads, answers on the loop.
 */
#include "ctl/arbiter.h"

#include "ctl/mailbox.h"
#include "hv/base/err.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

const struct arbiter_ops *const arbiter_kinds[] = {
	[CONFIG_ARBITER_ETCD] = &arbiter_etcd,
	[CONFIG_ARBITER_MANUAL] = &arbiter_manual,
};

static const char *const result_names[] = {"value", "granted", "refused", "unreachable"};
_Static_assert(sizeof(result_names) / sizeof(result_names[0]) == ARB_UNREACHABLE + 1,
	       "one name for each result");

const char *arb_result_name(enum arb_result r)
{
	return result_names[r];
}

struct delivery {
	struct mail mail;
	struct arb_answer ans;
};

struct queued {
	struct queued *next;
	struct arb_request rq;
	struct delivery *out; /* allocated on submission, so that no answer can be lost */
};

struct arbiter {
	const struct arbiter_ops *ops;
	struct mailbox *answers;
	void (*on_answer)(void *arg, const struct arb_answer *ans);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct queued *head, **tail;
	unsigned n_queued;
	int stopping;
	struct worker {
		struct arbiter *a;
		void *state; /* the kind's own */
		pthread_t thread;
	} workers[ARB_WORKERS];
	unsigned n_workers; /* whose threads run */
};

static void drop_answer(struct mail *m)
{
	free(m);
}

static void deliver(void *arg, struct mail *m)
{
	struct arbiter *a = arg;
	struct delivery *d = (struct delivery *)m;

	a->on_answer(a->arg, &d->ans);
	free(d);
}

static struct queued *next_request(struct arbiter *a)
{
	struct queued *q = NULL;

	pthread_mutex_lock(&a->lock);
	while (!a->head && !a->stopping)
		pthread_cond_wait(&a->wake, &a->lock);
	if (!a->stopping) {
		q = a->head;
		a->head = q->next;
		if (!a->head)
			a->tail = &a->head;
		a->n_queued--;
	}
	pthread_mutex_unlock(&a->lock);
	return q;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct arbiter *a = w->a;
	struct arb_answer *ans;
	struct queued *q;

	while ((q = next_request(a))) {
		ans = &q->out->ans;
		if (q->rq.is_read)
			a->ops->read(w->state, &q->rq, ans);
		else
			a->ops->cas(w->state, &q->rq, ans);
		ans->id = q->rq.id;
		memcpy(ans->vm, q->rq.vm, sizeof(ans->vm));
		mailbox_put(a->answers, &q->out->mail);
		free(q);
	}
	return NULL;
}

static int start_workers(struct arbiter *a, const struct config *cfg, struct err *err)
{
	uint64_t nonce = 0;
	struct worker *w;
	int rc;

	if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
		return err_sys(err, -errno, "arbiter: no random numbers");
	for (unsigned i = 0; i < ARB_WORKERS; i++) {
		w = &a->workers[i];
		w->a = a;
		rc = a->ops->worker_open(cfg, nonce, &w->state, err);
		if (rc)
			return rc;
		rc = pthread_create(&w->thread, NULL, worker_main, w);
		if (rc) {
			a->ops->worker_close(w->state);
			return err_sys(err, -rc, "arbiter: no thread");
		}
		a->n_workers++;
	}
	return 0;
}

int arbiter_create(const struct config *cfg, struct loop *loop,
		   void (*on_answer)(void *arg, const struct arb_answer *ans), void *arg,
		   struct arbiter **a_out, struct err *err)
{
	struct arbiter *a = calloc(1, sizeof(*a));
	int rc;

	*a_out = NULL;
	if (!a)
		return err_set(err, -ENOMEM, "arbiter: out of memory");
	a->ops = arbiter_kinds[cfg->arbiter.kind];
	a->on_answer = on_answer;
	a->arg = arg;
	a->tail = &a->head;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->wake, NULL);
	rc = mailbox_create(loop, deliver, drop_answer, a, &a->answers, err);
	if (!rc)
		rc = start_workers(a, cfg, err);
	if (rc)
		arbiter_destroy(a);
	else
		*a_out = a;
	return rc;
}

void arbiter_destroy(struct arbiter *a)
{
	struct queued *q;

	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->stopping = 1;
	pthread_cond_broadcast(&a->wake);
	pthread_mutex_unlock(&a->lock);
	for (unsigned i = 0; i < a->n_workers; i++) {
		pthread_join(a->workers[i].thread, NULL);
		a->ops->worker_close(a->workers[i].state);
	}
	while ((q = a->head)) {
		a->head = q->next;
		free(q->out);
		free(q);
	}
	mailbox_destroy(a->answers);
	pthread_cond_destroy(&a->wake);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

int arbiter_submit(struct arbiter *a, const struct arb_request *rq)
{
	struct queued *q = calloc(1, sizeof(*q));
	int rc = -ENOMEM;

	if (q)
		q->out = calloc(1, sizeof(*q->out));
	if (!q || !q->out)
		goto out;
	q->rq = *rq;
	pthread_mutex_lock(&a->lock);
	if (a->n_queued < ARB_QUEUE_MAX) {
		*a->tail = q;
		a->tail = &q->next;
		a->n_queued++;
		pthread_cond_signal(&a->wake);
		rc = 0;
	} else {
		rc = -EAGAIN;
	}
	pthread_mutex_unlock(&a->lock);
out:
	if (rc && q) {
		free(q->out);
		free(q);
	}
	return rc;
}

const char *arbiter_name(const struct arbiter *a)
{
	return a->ops->name;
}
