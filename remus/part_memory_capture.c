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
 * Hot pages (hotpages.h) are never protected and therefore always dirty. They are compared in
 * the pause only; their number is bounded by what that may cost.
 */
#include "remus/part_memory_priv.h"

#include "hv/base/err.h"
#include "hv/gm.h"
#include "hv/vm.h"
#include "replication/pagewords.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	AHEAD_MIN = 1024, /* not worth a round: pages */
	AHEAD_LEFT = 256, /* few enough for the pause: pages */
	AHEAD_ROUNDS = 8,
	PIECE = 16, /* pages that one of several threads takes at a time */
};

/* Words of the bitmap over the words of a bitmap over memory. */
static uint64_t words_of_words(const struct mem_part *m)
{
	return (m->pages / 64 + 63) / 64;
}

int mem_capture_init(struct mem_part *m)
{
	int rc = hot_init(&m->hot, m->pages);

	m->words = calloc(words_of_words(m), sizeof(*m->words));
	m->protect = calloc(m->pages / 64, sizeof(*m->protect));
	m->touched = malloc(m->pages / 64 * sizeof(*m->touched));
	m->slot = calloc(m->pages, sizeof(*m->slot));
	m->again = malloc(m->pages * sizeof(*m->again));
	return !rc && m->words && m->protect && m->touched && m->slot && m->again
		       ? 0
		       : -ENOMEM;
}

void mem_capture_fini(struct mem_part *m)
{
	hot_fini(&m->hot);
	free(m->words);
	free(m->protect);
	free(m->touched);
	free(m->slot);
	free(m->again);
}

void mem_capture_reset(struct mem_part *m)
{
	uint64_t all = m->pages / 64;

	if (m->shot)
		mem_shot_put(m, m->shot);
	m->shot = NULL;
	m->verify.n = 0;
	hot_clear(&m->hot);
	/* Pre-copy keeps no account of words. */
	memset(m->words, 0xff, words_of_words(m) * sizeof(*m->words));
	if (all % 64)
		m->words[all / 64] = (1ull << all % 64) - 1;
}

int mem_is_listed(const struct mem_part *m, uint64_t index)
{
	uint32_t at = m->slot[index];

	return at < m->shot->n && m->shot->index[at] == index;
}

/* The page gets a place in the shot, or keeps the one that it has. */
static void list_page(struct mem_part *m, uint64_t index)
{
	struct shot *s = m->shot;

	if (mem_is_listed(m, index)) {
		m->again[m->n_again++] = m->slot[index];
		return;
	}
	m->slot[index] = (uint32_t)s->n;
	s->index[s->n++] = index;
}

/* Hot, and the guest stands: compared, unless there is nothing to compare with yet. */
static void list_hot(struct mem_part *m, uint64_t index)
{
	struct shot *s = m->shot;

	if (hot_slot(&m->hot, index)->fresh)
		list_page(m, index);
	else
		s->hot[s->n_hot++].index = index;
}

/* Bits of one word of the bitmap: those to protect go there. While the guest runs, hot pages stay
 * in the bitmap, because our own marks are in no other place any more. */
static void list_word(struct mem_part *m, uint64_t w, uint64_t epoch, int standing)
{
	uint64_t hot = 0;

	for (uint64_t x = m->todo[w]; x; x &= x - 1) {
		uint64_t index = w * 64 + (uint64_t)__builtin_ctzll(x);

		if (!hot_touch(&m->hot, index, epoch)) {
			list_page(m, index);
			continue;
		}
		hot |= x & -x;
		if (standing)
			list_hot(m, index);
	}
	m->protect[w] = m->todo[w] & ~hot;
	if (m->protect[w])
		m->touched[m->n_touched++] = (uint32_t)w;
	m->todo[w] = standing ? 0 : hot;
}

static void list_dirty(struct mem_part *m, uint64_t epoch, int standing)
{
	m->fresh = m->shot->n;
	m->n_again = m->n_touched = 0;
	for (uint64_t i = 0; i < words_of_words(m); i++) {
		uint64_t left = 0;

		for (uint64_t x = m->words[i]; x; x &= x - 1) {
			uint64_t w = i * 64 + (uint64_t)__builtin_ctzll(x);

			list_word(m, w, epoch, standing);
			if (m->todo[w])
				left |= x & -x;
		}
		m->words[i] = left;
	}
}

/* What list_dirty() found. */
static int protect_listed(struct mem_part *m)
{
	int rc = 0;

	if (m->n_touched)
		rc = gm_protect(m->gm, m->protect, m->touched[0],
				m->touched[m->n_touched - 1] + 1);
	for (size_t i = 0; i < m->n_touched; i++)
		m->protect[m->touched[i]] = 0;
	return rc;
}

/* The i-th page to copy: first those that are new in the shot. */
static void copy_page(struct mem_part *m, size_t i)
{
	const struct shot *s = m->shot;
	size_t n = s->n - m->fresh, at = i < n ? m->fresh + i : m->again[i - n];
	uint64_t index = s->index[at];
	const void *now = gm_base(m->gm) + index * GM_PAGE;

	memcpy(s->page[at], now, GM_PAGE);
	if (hot_is(&m->hot, index))
		hot_copy(&m->hot, hot_slot(&m->hot, index), now);
}

/* The processor looks ahead within a page, but not from one to the next. */
static void fetch_hot(struct mem_part *m, size_t i)
{
	uint64_t index = m->shot->hot[i].index;
	const uint8_t *now = gm_base(m->gm) + index * GM_PAGE;

	hot_fetch(&m->hot, hot_slot(&m->hot, index));
	for (unsigned at = 0; at < HOT_FETCH; at += 64)
		__builtin_prefetch(now + at);
}

static void compare_hot(struct mem_part *m, size_t i)
{
	struct shot_hot *h = &m->shot->hot[i];

	if (i + 1 < m->shot->n_hot)
		fetch_hot(m, i + 1);
	h->len = hot_compare(&m->hot, hot_slot(&m->hot, h->index),
			     gm_base(m->gm) + h->index * GM_PAGE,
			     m->shot->body + i * PW_BODY_MAX);
}

/* Pages [i, end) of those to copy, and behind them those to compare. */
static void copy_piece(struct mem_part *m, size_t i, size_t pages, size_t end)
{
	for (; i < end; i++) {
		if (i < pages)
			copy_page(m, i);
		else
			compare_hot(m, i - pages);
	}
}

/* Several threads at once. The first takes pieces from the front, the others from the back, so that
 * a page is mostly seen by the same processor, which may still have its copy in its cache. */
static void copy_some(void *arg, int helper)
{
	struct mem_part *m = arg;
	size_t pages = m->shot->n - m->fresh + m->n_again, n = pages + m->shot->n_hot;
	size_t pieces = (n + PIECE - 1) / PIECE, front = 0, piece, end;

	while (atomic_fetch_add(&m->taken, 1) < pieces) {
		piece = helper ? pieces - 1 - atomic_fetch_add(&m->taken_behind, 1)
			       : front++;
		end = (piece + 1) * PIECE < n ? (piece + 1) * PIECE : n;
		copy_piece(m, piece * PIECE, pages, end);
	}
}

/* List what is dirty, protect it, copy it. 0 or -errno. */
static int round_of(struct mem_part *m, uint64_t epoch, int standing, struct err *err)
{
	struct shot *s = m->shot;
	size_t n;
	int rc;

	list_dirty(m, epoch, standing);
	n = s->n - m->fresh;
	rc = protect_listed(m);
	if (rc) {
		s->n = m->fresh; /* what comes behind has no pages */
		return err_sys(err, rc, "protecting dirty pages");
	}
	rc = page_pool_take(&m->pool, s->page + m->fresh, n);
	if (rc) {
		s->n = m->fresh;
		return err_set(err, rc, "no memory to copy %zu dirty pages", n);
	}
	atomic_store(&m->taken, 0);
	atomic_store(&m->taken_behind, 0);
	if (standing && m->vm)
		vm_crew(m->vm, copy_some, m);
	else
		copy_some(m, 0);
	return 0;
}

static int look(struct mem_part *m, struct err *err)
{
	int rc = gm_peek(m->gm, m->todo, m->words);

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

	for (uint64_t i = 0; i < words_of_words(m); i++)
		for (uint64_t x = m->words[i]; x; x &= x - 1) {
			uint64_t w = i * 64 + (uint64_t)__builtin_ctzll(x);

			n += (size_t)__builtin_popcountll(m->todo[w] & ~m->hot.map[w]);
		}
	return n;
}

int mem_ahead(void *self, uint64_t epoch, struct err *err)
{
	struct mem_part *m = self;
	size_t least = SIZE_MAX, enough = AHEAD_MIN, left;
	int rc;

	mem_verify_read(m, epoch);
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
		rc = rc ? rc : round_of(m, epoch, 0, err);
		if (rc)
			return rc;
	}
	return 0;
}

/* Pages that changed, as far as that is known. */
static size_t changed(const struct shot *s)
{
	size_t n = s->n;

	for (size_t i = 0; i < s->n_hot; i++)
		n += s->hot[i].len != 0;
	return n;
}

int mem_capture(void *self, uint64_t epoch, struct err *err)
{
	struct mem_part *m = self;
	size_t n;
	int rc = open_shot(m, epoch, err);

	rc = rc ? rc : look(m, err);
	rc = rc ? rc : round_of(m, epoch, 1, err);
	if (rc)
		return rc;
	mem_verify_keep(m);
	n = changed(m->shot);
	shots_queue(&m->shots, m->shot);
	m->shot = NULL;
	atomic_store(&m->last_dirty, n);
	return (int)n;
}
