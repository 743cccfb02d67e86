/* SPDX-License-Identifier: Apache-2.0
 * primary_stats - where the time of an epoch goes.
 *
 * A lock of its own, taken while the guest runs: a reader never makes the guest wait.
 */
#include "remus/primary_priv.h"

void stats_epoch(struct primary *p, const struct epoch_times *t, uint64_t pages,
		 int early)
{
	struct primary_stats *s = &p->stats;

	pthread_mutex_lock(&p->stats_lock);
	hist_add(&s->ahead, t->start - t->ahead);
	hist_add(&s->pause, t->resumed - t->start);
	hist_add(&s->stop, t->stopped - t->start);
	hist_add(&s->capture, t->captured - t->stopped);
	hist_add(&s->resume, t->resumed - t->captured);
	for (unsigned i = 0; i < p->n; i++)
		hist_add(&s->capture_part[i], t->part[i + 1] - t->part[i]);
	if (p->last_start)
		hist_add(&s->interval, t->start - p->last_start);
	hist_add(&s->dirty_pages, pages);
	s->early_epochs += (uint64_t)early;
	pthread_mutex_unlock(&p->stats_lock);
}

void stats_sent(struct primary *p, uint64_t ns, uint64_t pages, uint64_t raw,
		uint64_t bytes)
{
	struct primary_stats *s = &p->stats;

	pthread_mutex_lock(&p->stats_lock);
	hist_add(&s->send, ns);
	s->pages_sent += pages;
	s->bytes_raw += raw;
	s->bytes_sent += bytes;
	pthread_mutex_unlock(&p->stats_lock);
}

void stats_committed(struct primary *p, uint64_t ns, uint64_t epoch)
{
	pthread_mutex_lock(&p->stats_lock);
	hist_add(&p->stats.commit, ns);
	p->stats.acked = epoch;
	pthread_mutex_unlock(&p->stats_lock);
}

void stats_sync_left(struct primary *p, uint64_t left)
{
	pthread_mutex_lock(&p->stats_lock);
	p->stats.sync_left = left;
	pthread_mutex_unlock(&p->stats_lock);
}

void stats_link_new(struct primary *p)
{
	pthread_mutex_lock(&p->stats_lock);
	p->stats.acked = UINT64_MAX;
	p->stats.sync_left = 0;
	pthread_mutex_unlock(&p->stats_lock);
}

void primary_stats(struct primary *p, struct primary_stats *out)
{
	enum primary_state state;
	uint64_t term, epoch;

	pthread_mutex_lock(&p->lock);
	state = p->state;
	term = p->term;
	epoch = p->link ? p->link->captured : 0;
	pthread_mutex_unlock(&p->lock);
	pthread_mutex_lock(&p->stats_lock);
	*out = p->stats;
	pthread_mutex_unlock(&p->stats_lock);
	out->state = state;
	out->term = term;
	out->epoch = epoch;
}
