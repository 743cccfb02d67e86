/* SPDX-License-Identifier: Apache-2.0
 * part_memory_capture - which pages a checkpoint copies, and how many of them while the guest
 * still runs.
 *
 * Theory of operation. The copies of an epoch grow in one shot. Before the pause, rounds copy
 * what is dirty so far: protect, then copy, so that a page which the guest writes meanwhile is
 * dirty again and is copied once more into the same place, at the latest while the guest
 * stands. Looking how much is dirty costs the guest nothing, but each page that was copied and
 * is written again costs it a fault: so rounds begin only when the pause would be long, and
 * end when another one would not shorten it much.
 *
 * Hot pages (hotpages.h) are never protected and therefore always dirty. They are copied in
 * the pause only; their number is bounded by what that may cost.
 */
#include "remus/part_memory_priv.h"

#include "hv/base/err.h"
#include "hv/gm.h"
#include "hv/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	HOT_MAX = 1024,	  /* pages that are copied in each pause: about 0.2 ms of it */
	AHEAD_MIN = 1024, /* not worth a round: pages */
	AHEAD_LEFT = 256, /* few enough for the pause: pages */
	AHEAD_ROUNDS = 8,
	COPY_PIECE = 16, /* pages that one of several threads takes at a time */
};

int mem_capture_init(struct mem_part *m)
{
	int rc = hot_init(&m->hot, m->pages, HOT_MAX);

	m->protect = calloc(m->pages / 64, sizeof(*m->protect));
	m->slot = calloc(m->pages, sizeof(*m->slot));
	m->again = malloc(m->pages * sizeof(*m->again));
	m->idle = calloc(m->pages, 1);
	return !rc && m->protect && m->slot && m->again && m->idle ? 0 : -ENOMEM;
}

void mem_capture_fini(struct mem_part *m)
{
	hot_fini(&m->hot);
	free(m->protect);
	free(m->slot);
	free(m->again);
	free(m->idle);
}

void mem_capture_reset(struct mem_part *m)
{
	if (m->shot)
		mem_shot_put(m, m->shot);
	m->shot = NULL;
	hot_clear(&m->hot);
	memset(m->idle, 0, m->pages);
	pthread_mutex_lock(&m->lock);
	m->n_cool = 0;
	pthread_mutex_unlock(&m->lock);
}

void mem_capture_cool(struct mem_part *m, uint64_t index)
{
	pthread_mutex_lock(&m->lock);
	if (m->n_cool < MEM_COOL_MAX) /* else it will be found idle once more */
		m->cool[m->n_cool++] = index;
	pthread_mutex_unlock(&m->lock);
}

static void cool_down(struct mem_part *m)
{
	pthread_mutex_lock(&m->lock);
	for (size_t i = 0; i < m->n_cool; i++)
		hot_cool(&m->hot, m->cool[i]);
	m->n_cool = 0;
	pthread_mutex_unlock(&m->lock);
}

/* The page gets a place in the shot, or keeps the one that it has. */
static void list_page(struct mem_part *m, uint64_t index)
{
	struct shot *s = m->shot;
	uint32_t at = m->slot[index];

	if (at < s->n && s->index[at] == index) {
		m->again[m->n_again++] = at;
		return;
	}
	m->slot[index] = (uint32_t)s->n;
	s->index[s->n++] = index;
}

/* Bits of one word of the bitmap: those to protect go there. While the guest runs, hot pages stay
 * in the bitmap, because our own marks are in no other place any more. */
static void list_word(struct mem_part *m, uint64_t w, uint64_t epoch, int standing)
{
	uint64_t hot = 0;

	for (uint64_t x = m->todo[w]; x; x &= x - 1) {
		uint64_t index = w * 64 + (uint64_t)__builtin_ctzll(x);
		int is_hot = hot_touch(&m->hot, index, epoch);

		if (is_hot)
			hot |= x & -x;
		if (standing || !is_hot)
			list_page(m, index);
	}
	m->protect[w] = m->todo[w] & ~hot;
	m->todo[w] = standing ? 0 : hot;
}

static void list_dirty(struct mem_part *m, uint64_t epoch, int standing)
{
	m->fresh = m->shot->n;
	m->n_again = 0;
	for (uint64_t w = 0; w < m->pages / 64; w++)
		if (m->todo[w])
			list_word(m, w, epoch, standing);
}

/* The i-th page to copy: first those that are new in the shot. */
static void copy_page(const struct mem_part *m, size_t i)
{
	const struct shot *s = m->shot;
	size_t n = s->n - m->fresh, at = i < n ? m->fresh + i : m->again[i - n];

	memcpy(s->page[at], gm_base(m->gm) + s->index[at] * GM_PAGE, GM_PAGE);
}

/* Several threads at once. */
static void copy_some(void *arg)
{
	struct mem_part *m = arg;
	size_t n = m->shot->n - m->fresh + m->n_again, i, end;

	while ((i = atomic_fetch_add(&m->copied, COPY_PIECE)) < n) {
		end = i + COPY_PIECE < n ? i + COPY_PIECE : n;
		for (; i < end; i++)
			copy_page(m, i);
	}
}

/* List what is dirty, protect it, copy it. Number of pages or -errno. */
static int round_of(struct mem_part *m, uint64_t epoch, int standing, struct err *err)
{
	struct shot *s = m->shot;
	size_t n;
	int rc;

	list_dirty(m, epoch, standing);
	n = s->n - m->fresh;
	rc = gm_protect(m->gm, m->protect);
	memset(m->protect, 0, m->pages / 8);
	if (rc) {
		s->n = m->fresh; /* what comes behind has no pages */
		return err_sys(err, rc, "protecting dirty pages");
	}
	rc = page_pool_take(&m->pool, s->page + m->fresh, n);
	if (rc) {
		s->n = m->fresh;
		return err_set(err, rc, "no memory to copy %zu dirty pages", n);
	}
	atomic_store(&m->copied, 0);
	if (standing && m->vm)
		vm_crew(m->vm, copy_some, m);
	else
		copy_some(m);
	return (int)(n + m->n_again);
}

static int look(struct mem_part *m, struct err *err)
{
	int rc = gm_peek(m->gm, m->todo);

	return rc ? err_sys(err, rc, "reading the dirty log") : 0;
}

static int open_shot(struct mem_part *m, uint64_t epoch, struct err *err)
{
	if (!m->shot)
		m->shot = shots_get(&m->shots);
	if (!m->shot)
		return err_set(err, -ENOMEM, "no memory to list dirty pages");
	m->shot->epoch = epoch;
	return 0;
}

/* Dirty pages that a round could copy. */
static size_t cold_dirty(const struct mem_part *m)
{
	size_t n = 0;

	for (uint64_t w = 0; w < m->pages / 64; w++)
		if (m->todo[w])
			n += (size_t)__builtin_popcountll(m->todo[w] & ~m->hot.map[w]);
	return n;
}

int mem_ahead(void *self, uint64_t epoch, struct err *err)
{
	struct mem_part *m = self;
	size_t least = SIZE_MAX, enough = AHEAD_MIN, left;
	int rc;

	for (unsigned i = 0; i < AHEAD_ROUNDS; i++) {
		rc = look(m, err);
		if (rc)
			return rc;
		left = cold_dirty(m);
		/* A guest that writes as fast as we copy is not outrun. */
		if (left <= enough || left > least / 4 * 3)
			return 0;
		least = left;
		enough = AHEAD_LEFT;
		rc = open_shot(m, epoch, err);
		if (!rc)
			rc = round_of(m, epoch, 0, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int mem_capture(void *self, uint64_t epoch, struct err *err)
{
	struct mem_part *m = self;
	int rc = open_shot(m, epoch, err);

	if (rc)
		return rc;
	cool_down(m);
	rc = look(m, err);
	if (!rc)
		rc = round_of(m, epoch, 1, err);
	if (rc < 0)
		return rc;
	rc = (int)m->shot->n;
	shots_queue(&m->shots, m->shot);
	m->shot = NULL;
	atomic_store(&m->last_dirty, (uint64_t)rc);
	return rc;
}
