/* SPDX-License-Identifier: Apache-2.0
 * room - memory for what one epoch writes.
 */
#include "diskrep/room.h"

#include <stdlib.h>

enum { ALIGN = 16 };

void dr_pool_init(struct dr_pool *p)
{
	*p = (struct dr_pool){.bytes = 0};
	pthread_mutex_init(&p->lock, NULL); /* default attributes: cannot fail */
}

static void free_all(struct dr_block *b)
{
	struct dr_block *next;

	for (; b; b = next) {
		next = b->next;
		free(b);
	}
}

void dr_pool_fini(struct dr_pool *p)
{
	free_all(p->small);
	free_all(p->large);
	p->small = p->large = NULL;
	pthread_mutex_destroy(&p->lock);
}

/* The list of spare blocks of this size; NULL: such are not kept. */
static struct dr_block **spare(struct dr_pool *p, size_t cap)
{
	return cap == DR_ROOM_SMALL ? &p->small : cap == DR_ROOM_BLOCK ? &p->large : NULL;
}

static struct dr_block *block_new(struct dr_pool *p, size_t cap)
{
	struct dr_block *b = NULL, **at;

	pthread_mutex_lock(&p->lock);
	at = spare(p, cap);
	if (at && *at) {
		b = *at;
		*at = b->next;
		p->bytes -= cap;
	}
	pthread_mutex_unlock(&p->lock);
	if (!b)
		b = malloc(sizeof(*b) + cap);
	if (b)
		*b = (struct dr_block){.cap = cap};
	return b;
}

void *dr_room_take(struct dr_pool *p, struct dr_room *r, size_t len)
{
	struct dr_block *b = r->first;
	size_t cap = b ? DR_ROOM_BLOCK : DR_ROOM_SMALL;

	len = (len + ALIGN - 1) / ALIGN * ALIGN;
	if (!b || len > b->cap - b->len) {
		if (len > cap)
			cap = len > DR_ROOM_BLOCK ? len : DR_ROOM_BLOCK;
		b = block_new(p, cap);
		if (!b)
			return NULL;
		b->next = r->first;
		r->first = b;
	}
	b->len += len;
	return b->data + b->len - len;
}

void dr_room_give(struct dr_pool *p, struct dr_room *r)
{
	struct dr_block *b, *left = NULL, **at;

	pthread_mutex_lock(&p->lock);
	while ((b = r->first)) {
		r->first = b->next;
		at = spare(p, b->cap);
		if (!at || p->bytes + b->cap > DR_ROOM_SPARE)
			at = &left;
		else
			p->bytes += b->cap;
		b->next = *at;
		*at = b;
	}
	pthread_mutex_unlock(&p->lock);
	free_all(left);
}
