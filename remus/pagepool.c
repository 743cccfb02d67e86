/* SPDX-License-Identifier: Apache-2.0
 * pagepool - spare pages, so that a capture takes memory without asking the allocator.
 */
#include "remus/pagepool.h"

#include "replication/pagecodec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void page_pool_init(struct page_pool *p)
{
	*p = (struct page_pool){0};
	pthread_mutex_init(&p->lock, NULL); /* default attributes: cannot fail */
}

static void free_pages(void **page, size_t n)
{
	while (n--)
		pc_page_free(page[n]);
}

void page_pool_fini(struct page_pool *p)
{
	free_pages(p->page, p->n);
	free(p->page);
	pthread_mutex_destroy(&p->lock);
	*p = (struct page_pool){0};
}

int page_pool_take(struct page_pool *p, void **out, size_t n)
{
	size_t got;

	pthread_mutex_lock(&p->lock);
	got = p->n < n ? p->n : n;
	p->n -= got;
	if (got)
		memcpy(out, p->page + p->n, got * sizeof(*out));
	pthread_mutex_unlock(&p->lock);
	for (; got < n; got++) {
		out[got] = pc_page_alloc();
		if (!out[got]) {
			page_pool_give(p, out, got);
			return -ENOMEM;
		}
	}
	return 0;
}

/* Room for @n pages in all. Locked. */
static void make_room(struct page_pool *p, size_t n)
{
	size_t cap = p->cap ? p->cap : 1024;
	void **page;

	while (cap < n)
		cap *= 2;
	if (cap == p->cap)
		return;
	page = realloc(p->page, cap * sizeof(*page));
	if (!page)
		return; /* the caller frees what finds no place */
	p->page = page;
	p->cap = cap;
}

void page_pool_give(struct page_pool *p, void *const *page, size_t n)
{
	pthread_mutex_lock(&p->lock);
	make_room(p, p->n + n);
	for (size_t i = 0; i < n; i++) {
		if (p->n < p->cap && page[i])
			p->page[p->n++] = page[i];
		else
			pc_page_free(page[i]);
	}
	pthread_mutex_unlock(&p->lock);
}

static size_t spare(struct page_pool *p)
{
	size_t n;

	pthread_mutex_lock(&p->lock);
	n = p->n;
	pthread_mutex_unlock(&p->lock);
	return n;
}

enum { SETTLE_STEP = 64 }; /* pages moved under one hold of the lock */

void page_pool_settle(struct page_pool *p, size_t want)
{
	void *page[SETTLE_STEP];
	size_t have;

	for (have = spare(p); have < want; have += SETTLE_STEP) {
		for (size_t i = 0; i < SETTLE_STEP; i++) {
			page[i] = pc_page_alloc();
			if (page[i])
				memset(page[i], 0, PC_PAGE);
		}
		page_pool_give(p, page, SETTLE_STEP);
	}
	/* Shrinks late: a load that comes and goes should not cost the allocator each time. */
	while (spare(p) > 4 * want + SETTLE_STEP) {
		if (page_pool_take(p, page, SETTLE_STEP))
			return;
		free_pages(page, SETTLE_STEP);
	}
}
