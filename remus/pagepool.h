/* SPDX-License-Identifier: Apache-2.0
 * pagepool - spare pages, so that a capture takes memory without asking the allocator.
 *
 * Locked inside; the lock is held for a copy of pointers only.
 */
#ifndef REMUS_PAGEPOOL_H
#define REMUS_PAGEPOOL_H

#include <pthread.h>
#include <stddef.h>

struct page_pool {
	pthread_mutex_t lock;
	void **page;
	size_t n, cap;
};

void page_pool_init(struct page_pool *p);
void page_pool_fini(struct page_pool *p); /* frees what is in it */
/* Put @n pages into @out, new ones (4096 bytes, from pc_page_alloc) if there are too few. 0, or
 * -ENOMEM and none was taken. */
int page_pool_take(struct page_pool *p, void **out, size_t n);
/* Give pages back; NULLs are skipped. Those for which there is no room are freed. */
void page_pool_give(struct page_pool *p, void *const *page, size_t n);
/* Grow or shrink to about @want spare pages, and touch the new ones: not while the guest
 * stands still. Best effort. */
void page_pool_settle(struct page_pool *p, size_t want);

#endif
