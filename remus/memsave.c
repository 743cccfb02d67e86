/* SPDX-License-Identifier: Apache-2.0
 * memsave - who copies which page, and the walker that writes them all.
 */
#include "remus/memsave_priv.h"

#include "hv/base/err.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORD = 64 }; /* pages of one word, which the walker takes together */
_Static_assert((int)WORD == (int)SAVED_RUN, "a word's pages fit into one block");

int memsave_create(struct gm *gm, enum memsave_how how, int uffd, size_t copies_max,
		   struct memsave **m_out, struct err *err)
{
	struct memsave *m = calloc(1, sizeof(*m));

	*m_out = NULL;
	if (!m)
		return err_set(err, -ENOMEM, "saving memory: out of memory");
	m->gm = gm;
	m->how = how;
	m->pages = gm_pages(gm);
	m->uffd = uffd;
	m->stop_fd = -1;
	m->tail = &m->head;
	m->queue_max = copies_max / sizeof(struct memsave_copy) + 1;
	atomic_init(&m->left, m->pages);
	atomic_init(&m->off, 1);
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->room, NULL);
	pthread_cond_init(&m->news, NULL);
	m->claimed = calloc(m->pages / WORD, sizeof(*m->claimed));
	m->copied = calloc(m->pages / WORD, sizeof(*m->copied));
	if (!m->claimed || !m->copied) {
		memsave_destroy(m);
		return err_set(err, -ENOMEM, "saving memory: out of memory");
	}
	*m_out = m;
	return 0;
}

int memsave_arm(struct memsave *m)
{
	int rc;

	atomic_store(&m->off, 0);
	rc = m->how == MEMSAVE_PROTECTED ? memsave_protect(m) : 0;
	if (rc)
		atomic_store(&m->off, 1);
	return rc;
}

/* Room for one copy more: 0, or -ECANCELED. */
static int wait_room(struct memsave *m)
{
	int rc;

	pthread_mutex_lock(&m->lock);
	while (m->queued >= m->queue_max && !atomic_load(&m->off))
		pthread_cond_wait(&m->room, &m->lock);
	rc = atomic_load(&m->off) ? -ECANCELED : 0;
	m->queued += !rc;
	pthread_mutex_unlock(&m->lock);
	return rc;
}

static void fail(struct memsave *m, int rc)
{
	pthread_mutex_lock(&m->lock);
	m->failed = m->failed ? m->failed : rc;
	pthread_mutex_unlock(&m->lock);
	memsave_cancel(m);
}

static void copy_ahead(struct memsave *m, uint64_t page)
{
	struct memsave_copy *c;

	if (wait_room(m))
		return;
	c = malloc(sizeof(*c));
	if (!c) {
		fail(m, -ENOMEM);
		return;
	}
	c->next = NULL;
	c->page = page;
	memcpy(c->data, gm_base(m->gm) + page * GM_PAGE, GM_PAGE);
	pthread_mutex_lock(&m->lock);
	*m->tail = c;
	m->tail = &c->next;
	pthread_cond_signal(&m->news);
	pthread_mutex_unlock(&m->lock);
}

void memsave_touch(struct memsave *m, uint64_t page)
{
	uint64_t w = page / WORD, bit = 1ull << page % WORD;

	if (atomic_load(&m->off) || atomic_load(&m->copied[w]) & bit)
		return;
	if (!(atomic_fetch_or(&m->claimed[w], bit) & bit)) {
		copy_ahead(m, page);
		atomic_fetch_or(&m->copied[w], bit);
		return;
	}
	/* Somebody is at it: a few microseconds, unless his processor is taken away. */
	while (!(atomic_load(&m->copied[w]) & bit) && !atomic_load(&m->off))
		sched_yield();
}

static int is_zero(const uint8_t *page)
{
	return !page[0] && !memcmp(page, page + 1, GM_PAGE - 1);
}

/* Was it never written? Found out without making the kernel allocate it. The answer may be of an
 * earlier moment: a page that was written since was claimed by who wrote it. */
static int is_hole(struct memsave *m, uint64_t page)
{
	off_t from, to;

	if (page >= m->data_from && page < m->data_to)
		return 0;
	if (page < m->data_from && page >= m->data_to)
		return 1;
	from = lseek(gm_fd(m->gm), (off_t)(page * GM_PAGE), SEEK_DATA);
	if (from < 0 && errno == ENXIO) {
		m->data_from = m->pages;
		m->data_to = page;
		return 1;
	}
	to = from < 0 ? -1 : lseek(gm_fd(m->gm), from, SEEK_HOLE);
	if (to < 0)
		return 0; /* it is read, then */
	if ((uint64_t)from / GM_PAGE > page) {
		m->data_from = (uint64_t)from / GM_PAGE;
		m->data_to = page;
		return 1;
	}
	m->data_from = page;
	m->data_to = ((uint64_t)to + GM_PAGE - 1) / GM_PAGE;
	return 0;
}

/* Copy those of @mine that hold something. Returns them. */
static uint64_t copy_word(struct memsave *m, uint64_t w, uint64_t mine)
{
	uint64_t found = 0;

	for (unsigned i = 0; i < WORD; i++) {
		if (!(mine & 1ull << i) || is_hole(m, w * WORD + i))
			continue;
		memcpy(m->run + (size_t)i * GM_PAGE,
		       gm_base(m->gm) + (w * WORD + i) * GM_PAGE, GM_PAGE);
		found |= 1ull << i;
	}
	return found;
}

/* Neighbours go into one block; pages of zeroes are left out. */
static int write_word(struct memsave *m, struct saved_writer *out, uint64_t w,
		      uint64_t found)
{
	unsigned from = 0, n = 0;
	int rc = 0;

	for (unsigned i = 0; i <= WORD && !rc; i++) {
		const uint8_t *page = m->run + (size_t)i * GM_PAGE;

		if (i < WORD && found & 1ull << i && !is_zero(page)) {
			from = n++ ? from : i;
			continue;
		}
		if (n)
			rc = saved_put_pages(out, w * WORD + from, n,
					     m->run + (size_t)from * GM_PAGE);
		n = 0;
	}
	return rc;
}

/* Not those that somebody else has claimed: he may not have copied them yet, and does it himself. */
static void unprotect_word(struct memsave *m, uint64_t w, uint64_t mine)
{
	unsigned from, n;

	for (unsigned i = 0; i < WORD; i = from + n) {
		for (from = i; from < WORD && !(mine >> from & 1); from++)
			continue;
		for (n = 0; from + n < WORD && mine >> (from + n) & 1; n++)
			continue;
		if (n)
			memsave_unprotect(m, w * WORD + from, n);
	}
}

static int walk_word(struct memsave *m, struct saved_writer *out, uint64_t w)
{
	uint64_t mine = ~atomic_fetch_or(&m->claimed[w], UINT64_MAX), found;
	int rc;

	if (!mine)
		return 0;
	found = copy_word(m, w, mine);
	/* In this order: who waits for a page may write it once it is copied, and not before. */
	atomic_fetch_or(&m->copied[w], mine);
	if (m->how == MEMSAVE_PROTECTED)
		unprotect_word(m, w, mine);
	rc = write_word(m, out, w, found);
	atomic_fetch_sub(&m->left, (uint64_t)__builtin_popcountll(mine));
	return rc;
}

/* What was copied ahead; with @wait until there is something, or nothing will come. */
static int drain(struct memsave *m, struct saved_writer *out, int wait)
{
	struct memsave_copy *c, *list;
	size_t n = 0;
	int rc = 0;

	pthread_mutex_lock(&m->lock);
	while (wait && !m->head && !atomic_load(&m->off))
		pthread_cond_wait(&m->news, &m->lock);
	list = m->head;
	m->head = NULL;
	m->tail = &m->head;
	pthread_mutex_unlock(&m->lock);
	for (; (c = list); n++) {
		list = c->next;
		if (!rc && !is_zero(c->data))
			rc = saved_put_pages(out, c->page, 1, c->data);
		free(c);
	}
	if (!n)
		return 0;
	atomic_fetch_sub(&m->left, n);
	pthread_mutex_lock(&m->lock);
	m->queued -= n;
	pthread_cond_broadcast(&m->room);
	pthread_mutex_unlock(&m->lock);
	return rc;
}

/* Nothing need be copied any more, and nobody waits for it. */
static void let_go(struct memsave *m)
{
	pthread_mutex_lock(&m->lock);
	atomic_store(&m->off, 1);
	pthread_cond_broadcast(&m->room);
	pthread_cond_broadcast(&m->news);
	pthread_mutex_unlock(&m->lock);
}

void memsave_cancel(struct memsave *m)
{
	let_go(m);
}

int memsave_run(struct memsave *m, struct saved_writer *w, struct err *err)
{
	int rc = 0;

	for (uint64_t i = 0; i < m->pages / WORD && !rc && !atomic_load(&m->off); i++) {
		rc = drain(m, w, 0);
		rc = rc ? rc : walk_word(m, w, i);
	}
	while (!rc && atomic_load(&m->left) && !atomic_load(&m->off))
		rc = drain(m, w, 1);
	if (!rc && atomic_load(&m->left))
		rc = m->failed ? m->failed : -ECANCELED;
	let_go(m);
	memsave_unprotect_all(m);
	return rc ? err_sys(err, rc, "saving memory") : 0;
}

uint64_t memsave_left(const struct memsave *m)
{
	return atomic_load(&m->left);
}

void memsave_destroy(struct memsave *m)
{
	struct memsave_copy *c;

	if (!m)
		return;
	let_go(m);
	memsave_unprotect_all(m);
	while ((c = m->head)) {
		m->head = c->next;
		free(c);
	}
	pthread_cond_destroy(&m->room);
	pthread_cond_destroy(&m->news);
	pthread_mutex_destroy(&m->lock);
	free(m->claimed);
	free(m->copied);
	free(m);
}
