/* SPDX-License-Identifier: Apache-2.0
 * gang - a few threads that share a piece of work and then wait for the next one.
 */
#include "hv/base/gang.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>

struct member {
	struct gang *g;
	pthread_t thread;
	unsigned k;
};

struct gang {
	pthread_mutex_t lock;
	pthread_cond_t work, idle;
	gang_fn *fn;
	void *arg;
	uint64_t turn;	  /* counts pieces of work */
	unsigned working; /* that have not finished this one */
	int quit;
	unsigned n;
	struct member member[];
};

static void *member_main(void *arg)
{
	struct member *m = arg;
	struct gang *g = m->g;
	uint64_t seen = 0;

	pthread_mutex_lock(&g->lock);
	for (;;) {
		while (!g->quit && g->turn == seen)
			pthread_cond_wait(&g->work, &g->lock);
		if (g->turn == seen)
			break;
		seen = g->turn;
		pthread_mutex_unlock(&g->lock);
		g->fn(g->arg, m->k);
		pthread_mutex_lock(&g->lock);
		if (--g->working == 0)
			pthread_cond_signal(&g->idle);
	}
	pthread_mutex_unlock(&g->lock);
	return NULL;
}

static int members_start(struct gang *g, unsigned n)
{
	sigset_t all, old;
	int rc = 0;

	sigfillset(&all);
	/* The new threads inherit it; none of these calls can fail with valid arguments. */
	(void)pthread_sigmask(SIG_BLOCK, &all, &old);
	for (; g->n < n && !rc; g->n += !rc) {
		struct member *m = &g->member[g->n];

		*m = (struct member){.g = g, .k = g->n};
		rc = -pthread_create(&m->thread, NULL, member_main, m);
	}
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc;
}

int gang_create(unsigned n, struct gang **g_out)
{
	struct gang *g = calloc(1, sizeof(*g) + n * sizeof(g->member[0]));
	int rc;

	*g_out = NULL;
	if (!g)
		return -ENOMEM;
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->work, NULL);
	pthread_cond_init(&g->idle, NULL);
	rc = members_start(g, n);
	if (rc) {
		gang_destroy(g);
		return rc;
	}
	*g_out = g;
	return 0;
}

unsigned gang_size(const struct gang *g)
{
	return g->n;
}

void gang_start(struct gang *g, gang_fn *fn, void *arg)
{
	gang_wait(g);
	pthread_mutex_lock(&g->lock);
	g->fn = fn;
	g->arg = arg;
	g->turn++;
	g->working = g->n;
	pthread_cond_broadcast(&g->work);
	pthread_mutex_unlock(&g->lock);
}

void gang_wait(struct gang *g)
{
	pthread_mutex_lock(&g->lock);
	while (g->working)
		pthread_cond_wait(&g->idle, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

void gang_destroy(struct gang *g)
{
	if (!g)
		return;
	gang_wait(g);
	pthread_mutex_lock(&g->lock);
	g->quit = 1;
	pthread_cond_broadcast(&g->work);
	pthread_mutex_unlock(&g->lock);
	for (unsigned k = 0; k < g->n; k++)
		pthread_join(g->member[k].thread, NULL); /* ours, joined once */
	pthread_cond_destroy(&g->idle);
	pthread_cond_destroy(&g->work);
	pthread_mutex_destroy(&g->lock);
	free(g);
}
