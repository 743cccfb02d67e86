/* SPDX-License-Identifier: Apache-2.0
 * pagetwins - which pages of an epoch have the same content as another one of it.
 *
 * Theory of operation. A direct-mapped table; an entry is one word, so that threads need no lock:
 * 32 bits of the page's digest and its number plus one. Who loses a race, or meets another page
 * in his place, overwrites it. The digest only says where to look: pages are compared.
 */
#include "replication/pagetwins.h"

#include "hv/base/xxh.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 1 << 14, PAGE = 4096 };

struct page_twins {
	atomic_int used; /* since the last clear */
	_Atomic uint64_t slot[SLOTS];
};

struct page_twins *page_twins_create(void)
{
	return calloc(1, sizeof(struct page_twins));
}

void page_twins_destroy(struct page_twins *t)
{
	free(t);
}

void page_twins_clear(struct page_twins *t)
{
	if (!atomic_exchange_explicit(&t->used, 0, memory_order_relaxed))
		return;
	for (size_t i = 0; i < SLOTS; i++)
		atomic_store_explicit(&t->slot[i], 0, memory_order_relaxed);
}

size_t page_twins_find(struct page_twins *t, const void *const *content, size_t n)
{
	uint64_t digest = XXH3_64bits(content[n], PAGE), seen, mine;
	_Atomic uint64_t *slot = &t->slot[digest % SLOTS];
	size_t other;

	if (n >= UINT32_MAX)
		return n; /* no room for its number */
	atomic_store_explicit(&t->used, 1, memory_order_relaxed);
	mine = (digest & ~(uint64_t)UINT32_MAX) | (n + 1);
	seen = atomic_load_explicit(slot, memory_order_relaxed);
	other = (size_t)(seen & UINT32_MAX) - 1;
	if (seen && !((seen ^ mine) >> 32) && other != n &&
	    memcmp(content[other], content[n], PAGE) == 0)
		return other;
	atomic_store_explicit(slot, mine, memory_order_relaxed);
	return n;
}
