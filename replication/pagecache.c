/* SPDX-License-Identifier: Apache-2.0
 * pagecache - what was sent last of each page, bounded and direct-mapped.
 */
#include "replication/pagecodec.h"
#include "replication/pagewords.h"

#include <stdlib.h>

struct slot {
	uint64_t index; /* NOBODY: the content means nothing */
	void *page;	/* kept for reuse even then */
};

struct pc_cache {
	size_t slots;
	struct slot slot[];
};

#define NOBODY UINT64_MAX

struct pc_cache *pc_cache_create(size_t slots)
{
	struct pc_cache *c;
	size_t size;

	if (__builtin_mul_overflow(slots, sizeof(struct slot), &size) ||
	    __builtin_add_overflow(size, sizeof(*c), &size))
		return NULL;
	c = malloc(size);
	if (!c)
		return NULL;
	c->slots = slots;
	for (size_t i = 0; i < slots; i++)
		c->slot[i] = (struct slot){.index = NOBODY};
	return c;
}

void pc_cache_destroy(struct pc_cache *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->slots; i++)
		pc_page_free(c->slot[i].page);
	free(c);
}

const void *pc_cache_get(const struct pc_cache *c, uint64_t index)
{
	const struct slot *s;

	if (!c->slots)
		return NULL;
	s = &c->slot[index % c->slots];
	return s->index == index ? s->page : NULL;
}

void *pc_cache_swap(struct pc_cache *c, uint64_t index, void *page)
{
	struct slot *s;
	void *old;

	if (!c->slots)
		return page;
	s = &c->slot[index % c->slots];
	old = s->page;
	*s = (struct slot){.index = index, .page = page};
	return old;
}

void pc_cache_patch(struct pc_cache *c, uint64_t index, const void *body, unsigned len)
{
	struct slot *s = c->slots ? &c->slot[index % c->slots] : NULL;

	if (s && s->index == index)
		pw_apply(s->page, body, len);
}

void pc_cache_clear(struct pc_cache *c)
{
	for (size_t i = 0; i < c->slots; i++)
		c->slot[i].index = NOBODY;
}

void *pc_page_alloc(void)
{
	return aligned_alloc(64, PC_PAGE);
}

void pc_page_free(void *page)
{
	free(page);
}
