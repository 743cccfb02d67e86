/* SPDX-License-Identifier: Apache-2.0
 * primary_link - a link's life on the primary: start, failure, end, and what follows from it.
 */
#include "remus/primary_priv.h"

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "replication/transport.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How long the peer's last word is waited for after it closed the link on the sender. */
enum { LAST_WORD_MS = 100 };

static void give_up(struct link *l, const char *why, int peer_gone)
{
	struct primary *p = l->p;

	pthread_mutex_lock(&p->lock);
	if (!l->ended) {
		l->ended = 1;
		l->peer_gone = peer_gone;
		(void)snprintf(l->why, sizeof(l->why), "%s",
			       why); /* truncation is fine */
	}
	pthread_cond_signal(&l->to_sender);
	pthread_cond_signal(&p->wake);
	pthread_cond_broadcast(&p->done);
	pthread_mutex_unlock(&p->lock);
}

void link_fail(struct link *l, const char *why)
{
	give_up(l, why, 0);
	tp_shutdown(l->tp);
}

void link_fenced(struct link *l, uint64_t term)
{
	pthread_mutex_lock(&l->p->lock);
	if (term > l->fenced_by)
		l->fenced_by = term;
	pthread_mutex_unlock(&l->p->lock);
	link_fail(l, "the peer holds a higher term");
}

/* Not link_fail(): what the peer said before it went (an ack, FENCED) is still to be read. */
void link_peer_gone(struct link *l, const char *why)
{
	give_up(l, why, 1);
}

static void link_free(struct link *l)
{
	rec_stream_fini(&l->rs);
	tp_close(l->tp);
	pthread_cond_destroy(&l->to_sender);
	free(l);
}

static int threads_start(struct link *l, struct err *err)
{
	int r;

	r = pthread_create(&l->receiver, NULL, link_receiver, l);
	if (r)
		return err_sys(err, -r, "starting the receiver");
	l->have_receiver = 1;
	r = pthread_create(&l->sender, NULL, link_sender, l);
	if (r)
		return err_sys(err, -r, "starting the sender");
	l->have_sender = 1;
	return 0;
}

int link_start(struct primary *p, struct tp *tp, struct err *err)
{
	struct link *l = calloc(1, sizeof(*l));

	if (!l) {
		tp_close(tp);
		return err_set(err, -ENOMEM, "a link to the standby: out of memory");
	}
	l->p = p;
	l->tp = tp;
	l->gaps = watch_gaps(&p->watch);
	rec_stream_init(&l->rs, tp, p->term);
	pthread_cond_init(&l->to_sender, NULL); /* default attributes: cannot fail */
	hello_make(&l->hello, STREAM_PRIMARY, p->vm, p->kind, p->n);
	stats_link_new(p);
	p->last_start = 0;
	pthread_mutex_lock(&p->lock);
	p->link = l;
	pthread_mutex_unlock(&p->lock);
	primary_set_state(p, PRI_SYNCING, p->term, "a link to the standby is up");
	if (!threads_start(l, err))
		return 0;
	link_fail(l, err->msg);
	link_close(p);
	return err->code;
}

/* The peer closed first: let the receiver read to the end of what came, but not for long. */
static void hear_last_word(struct link *l)
{
	struct primary *p = l->p;
	uint64_t until = clock_mono_ns() + LAST_WORD_MS * 1000000ull;
	struct timespec ts = {.tv_sec = (time_t)(until / 1000000000),
			      .tv_nsec = (long)(until % 1000000000)};
	int r = 0;

	pthread_mutex_lock(&p->lock);
	while (l->peer_gone && l->have_receiver && !l->receiver_done && !r)
		r = pthread_cond_timedwait(&p->done, &p->lock, &ts);
	pthread_mutex_unlock(&p->lock);
}

static void threads_end(struct link *l)
{
	hear_last_word(l);
	tp_shutdown(l->tp);
	/* Joining threads of our own that nobody else joins cannot fail. */
	if (l->have_sender)
		pthread_join(l->sender, NULL);
	if (l->have_receiver)
		pthread_join(l->receiver, NULL);
}

static void tell_all(struct primary *p, int alone)
{
	for (unsigned i = 0; i < p->n; i++)
		p->part[i].ops->unlinked(p->part[i].self);
	for (unsigned i = 0; alone && i < p->n; i++)
		p->part[i].ops->alone(p->part[i].self);
}

/* Nobody else can be eligible if ARMED never left, or if the standby has confirmed that there
 * is nothing to take over. In all other cases only a grant frees what is held. */
static enum primary_state state_after(const struct link *l)
{
	if (l->fenced_by)
		return PRI_FENCED;
	return l->bye_done || !l->armed_maybe ? PRI_ALONE : PRI_UNLINKED;
}

void link_close(struct primary *p)
{
	struct link *l = p->link;
	enum primary_state next;

	threads_end(l);
	next = state_after(l);
	if (next == PRI_FENCED)
		epoch_pause_for_good(p);
	pthread_mutex_lock(&p->lock);
	p->link = NULL;
	pthread_mutex_unlock(&p->lock);
	tell_all(p, next == PRI_ALONE);
	log_set_epoch(~0ull);
	primary_set_state(p, next, next == PRI_FENCED ? l->fenced_by : p->term, l->why);
	link_free(l);
}
