/* SPDX-License-Identifier: Apache-2.0
 * part_memory_encode - copied pages to records, by one thread or several.
 *
 * Theory of operation. Memory is divided among lanes by words of the bitmap, 64 pages each; a lane
 * has its own delta bases, batch and counts, so that lanes share nothing but the table of
 * equal pages and the lock under which a full batch goes out. The order of pages within an epoch
 * means nothing to the standby: each comes once. The sender's thread is the first lane; small
 * epochs it does alone, all lanes one after the other into one batch, because waking the
 * others would take longer.
 */
#include "remus/part_memory_priv.h"

#include "hv/base/err.h"
#include "hv/base/gang.h"
#include "hv/gm.h"
#include "remus/stream.h"
#include "replication/pagetwins.h"
#include "replication/pagewords.h"
#include "replication/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	BATCH_BYTES = 256 << 10, /* payload of one record, at most */
	TOGETHER_MIN = 512,	 /* pages; less is not worth waking anybody */
};

/* A quarter of the processors: the guest, and the one that sends, need theirs. */
static unsigned lanes_of_host(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN) / 4;

	return n < 1 ? 1 : n > MEM_LANES_MAX / 2 ? MEM_LANES_MAX / 2 : (unsigned)n;
}

int mem_encode_init(struct mem_part *m, size_t slots, unsigned lanes)
{
	int ok = 1;

	m->lanes = lanes ? lanes : lanes_of_host();
	pthread_mutex_init(&m->put_lock, NULL); /* default attributes: cannot fail */
	for (unsigned k = 0; k < m->lanes; k++) {
		struct lane *l = &m->lane[k];

		*l = (struct lane){.m = m, .k = k};
		l->cache = pc_cache_create(slots / m->lanes);
		l->batch = &l->own;
		ok = ok && l->cache;
	}
	m->twins = page_twins_create();
	return ok && m->twins ? gang_create(m->lanes - 1, &m->gang) : -ENOMEM;
}

void mem_encode_fini(struct mem_part *m)
{
	gang_destroy(m->gang);
	for (unsigned k = 0; k < m->lanes; k++) {
		pc_cache_destroy(m->lane[k].cache);
		buf_fini(&m->lane[k].own);
	}
	page_twins_destroy(m->twins);
	pthread_mutex_destroy(&m->put_lock);
}

void mem_encode_reset(struct mem_part *m)
{
	for (unsigned k = 0; k < m->lanes; k++) {
		pc_cache_clear(m->lane[k].cache);
		buf_reset(&m->lane[k].own);
	}
}

static int lane_flush(struct lane *l)
{
	struct mem_part *m = l->m;
	int rc = 0;

	pthread_mutex_lock(&m->put_lock);
	if (l->batch->len)
		rc = rec_put(l->sink, MEM_PAGES, l->epoch, l->batch->data, l->batch->len);
	pthread_mutex_unlock(&m->put_lock);
	buf_reset(l->batch);
	pthread_mutex_lock(&m->lock);
	pc_stats_move(&m->shown, &l->stats);
	pthread_mutex_unlock(&m->lock);
	return rc;
}

static int lane_flush_full(struct lane *l)
{
	return l->batch->len > BATCH_BYTES - PC_ITEM_MAX ? lane_flush(l) : 0;
}

/* The page's number among those of its lane, so that they do not get into each other's way in the
 * lane's cache. */
static uint64_t in_lane(const struct lane *l, uint64_t index)
{
	return index / 64 / l->m->lanes * 64 + index % 64;
}

int mem_lane_has(const struct lane *l, uint64_t index)
{
	return index / 64 % l->m->lanes == l->k;
}

int mem_lane_zero(struct lane *l, uint64_t index)
{
	static const uint8_t zero[GM_PAGE];
	int rc = pc_encode(l->batch, index, zero, NULL, &l->stats);

	return rc ? rc : lane_flush_full(l);
}

int mem_lane_send(struct lane *l, const struct pc_among *among, void **page)
{
	uint64_t key = in_lane(l, among->index[among->n]);
	int rc = pc_encode_among(l->batch, among, pc_cache_get(l->cache, key), &l->stats);

	if (rc)
		return rc;
	*page = pc_cache_swap(l->cache, key, *page);
	return lane_flush_full(l);
}

static void lane_run(struct lane *l)
{
	l->rc = l->m->lane_fn(l);
	l->rc = l->rc ? l->rc : lane_flush(l);
}

static void helper_run(void *arg, unsigned k)
{
	struct mem_part *m = arg;

	lane_run(&m->lane[k + 1]);
}

static int run_together(struct mem_part *m)
{
	int rc;

	gang_start(m->gang, helper_run, m);
	lane_run(&m->lane[0]);
	gang_wait(m->gang);
	rc = m->lane[0].rc;
	for (unsigned k = 1; k < m->lanes && !rc; k++)
		rc = m->lane[k].rc;
	return rc;
}

static int run_alone(struct mem_part *m)
{
	int rc = 0;

	for (unsigned k = 0; k < m->lanes && !rc; k++) {
		m->lane[k].batch = &m->lane[0].own;
		rc = m->lane_fn(&m->lane[k]);
	}
	for (unsigned k = m->lanes; k-- > 0;) {
		int r = rc ? rc : lane_flush(&m->lane[k]);

		m->lane[k].batch = &m->lane[k].own;
		rc = rc ? rc : r;
	}
	return rc;
}

int mem_lanes_run(struct mem_part *m, struct rec_sink *sink, uint64_t epoch, size_t pages,
		  mem_lane_fn *fn)
{
	m->lane_fn = fn;
	for (unsigned k = 0; k < m->lanes; k++) {
		m->lane[k].sink = sink;
		m->lane[k].epoch = epoch;
	}
	return pages >= TOGETHER_MIN ? run_together(m) : run_alone(m);
}

/* What changed in a hot page: as it is, or through the page itself if that may be shorter. */
static int send_hot(struct lane *l, const struct shot_hot *h, const uint8_t *body)
{
	uint64_t key = in_lane(l, h->index);
	const void *base = pc_cache_get(l->cache, key);
	struct pc_among alone = {.index = &h->index};
	const void *content;
	void *page;
	int rc;

	if (h->len > PC_WORDS_SMALL && base) {
		rc = page_pool_take(&l->m->pool, &page, 1);
		if (rc)
			return rc;
		memcpy(page, base, GM_PAGE);
		pc_apply(page, PC_PATCH, body, h->len);
		content = page;
		alone.content = &content;
		rc = mem_lane_send(l, &alone, &page);
		page_pool_give(&l->m->pool, &page, 1);
		return rc;
	}
	rc = pc_encode_words(l->batch, h->index, body, h->len, &l->stats);
	pc_cache_patch(l->cache, key, body, h->len);
	return rc ? rc : lane_flush_full(l);
}

/* Copies stay as they are until all lanes are through, in the cache or in the shot, because their
 * pages are compared with each other; hot pages, which give pages back, come after that. */
static int lane_cold(struct lane *l)
{
	struct mem_part *m = l->m;
	struct shot *s = m->sending;
	struct pc_among among = {.twins = s->n > 1 ? m->twins : NULL,
				 .content = (const void *const *)s->content,
				 .index = s->index};
	int rc = 0;

	for (; among.n < s->n && !rc; among.n++)
		if (mem_lane_has(l, s->index[among.n]))
			rc = mem_lane_send(l, &among, &s->page[among.n]);
	return rc;
}

static int lane_hot(struct lane *l)
{
	struct shot *s = l->m->sending;
	int rc = 0;

	for (size_t i = 0; i < s->n_hot && !rc; i++)
		if (s->hot[i].len && mem_lane_has(l, s->hot[i].index))
			rc = send_hot(l, &s->hot[i], s->body + i * PW_BODY_MAX);
	return rc;
}

static int send_shot(struct mem_part *m, struct rec_sink *sink, struct shot *s)
{
	int rc = 0;

	if (s->n_digests)
		rc = rec_put(sink, MEM_DIGESTS, s->epoch, s->digest,
			     s->n_digests * sizeof(s->digest[0]));
	if (rc)
		return rc;
	m->sending = s;
	memcpy(s->content, s->page, s->n * sizeof(*s->content));
	page_twins_clear(m->twins);
	rc = mem_lanes_run(m, sink, s->epoch, s->n, lane_cold);
	rc = rc ? rc : mem_lanes_run(m, sink, s->epoch, s->n_hot, lane_hot);
	m->sending = NULL;
	return rc;
}

int mem_send(void *self, uint64_t epoch, struct rec_sink *sink, struct err *err)
{
	struct mem_part *m = self;
	struct shot *s = shots_next(&m->shots);
	size_t n;
	int rc;

	if (!s || s->epoch != epoch) {
		if (s)
			mem_shot_put(m, s);
		return err_set(err, -EINVAL, "no capture of epoch %llu",
			       (unsigned long long)epoch);
	}
	n = s->n;
	rc = send_shot(m, sink, s);
	mem_shot_put(m, s);
	mem_settle(m, n);
	return rc ? err_sys(err, rc, "sending pages of epoch %llu",
			    (unsigned long long)epoch)
		  : 0;
}
