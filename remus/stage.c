/* SPDX-License-Identifier: Apache-2.0
 * stage - the pages of one epoch on the standby, from their arrival to their way into RAM.
 */
#include "remus/stage.h"

#include "hv/base/err.h"
#include "hv/base/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	BLOCK = 256 << 10,	/* most records are no longer */
	SPARE_BYTES = 64 << 20, /* kept for the next epochs */
	ITEMS_MIN = 1024,
};

static void blocks_free(struct stage_block *b)
{
	struct stage_block *next;

	for (; b; b = next) {
		next = b->next;
		free(b);
	}
}

void stage_fini(struct stage *st)
{
	blocks_free(st->block);
	free(st->item);
	*st = (struct stage){0};
}

void stage_spare_fini(struct stage_spare *sp)
{
	blocks_free(sp->block);
	*sp = (struct stage_spare){0};
}

static struct stage_block *block_take(struct stage_spare *sp, size_t len)
{
	struct stage_block *b = sp->block;
	size_t cap = len < BLOCK ? BLOCK : len;

	if (b && cap == BLOCK) {
		sp->block = b->next;
		sp->bytes -= b->cap;
		b->len = 0;
		return b;
	}
	b = malloc(sizeof(*b) + cap);
	if (b)
		*b = (struct stage_block){.cap = cap};
	return b;
}

void *stage_room(struct stage *st, struct stage_spare *sp, size_t len)
{
	struct stage_block *b = st->block;

	if (!b || len > b->cap - b->len) {
		b = block_take(sp, len);
		if (!b)
			return NULL;
		if (st->block) /* what is left of it is lost, and counts */
			st->held += st->block->cap - st->block->len;
		b->next = st->block;
		st->block = b;
	}
	b->len += len;
	st->held += len;
	return b->data + b->len - len;
}

int stage_is_last_room(const struct stage *st, const void *p, size_t len)
{
	const struct stage_block *b = st->block;

	return b && len <= b->len && p == b->data + b->len - len;
}

static int grow(struct stage *st)
{
	size_t cap = st->cap ? 2 * st->cap : ITEMS_MIN;
	struct staged *s = realloc(st->item, cap * sizeof(*s));

	if (!s)
		return -ENOMEM;
	st->item = s;
	st->cap = cap;
	return 0;
}

int stage_add(struct stage *st, struct stage_spare *sp, const struct pc_item *it)
{
	const void *data = it->data;
	void *room;

	if (st->n == st->cap && grow(st))
		return -ENOMEM;
	if (!it->lasting) {
		room = stage_room(st, sp, it->len);
		if (!room)
			return -ENOMEM;
		data = memcpy(room, it->data, it->len);
	}
	st->item[st->n++] = (struct staged){
		.index = it->index, .change = it->change, .len = it->len, .data = data};
	st->twins += it->change == PC_TWIN;
	st->held += sizeof(struct staged);
	return 0;
}

/* Which item replaces each page last. */
static void note_replaced(const struct stage *st, uint32_t *slot)
{
	for (size_t i = 0; i < st->n; i++)
		if (st->item[i].change == PC_REPLACE)
			slot[st->item[i].index] = (uint32_t)i;
}

static uint64_t twin_of(const struct staged *s)
{
	struct le64 v;

	memcpy(&v, s->data, sizeof(v));
	return le64_get(v);
}

int stage_resolve(struct stage *st, uint32_t *slot, struct err *err)
{
	const struct staged *other;
	uint64_t twin;

	if (!st->twins)
		return 0;
	if (st->n > UINT32_MAX)
		return err_set(err, -EBADMSG, "%zu pages in one epoch", st->n);
	note_replaced(st, slot);
	for (size_t i = 0; i < st->n; i++) {
		if (st->item[i].change != PC_TWIN)
			continue;
		twin = twin_of(&st->item[i]);
		other = slot[twin] < st->n ? &st->item[slot[twin]] : NULL;
		if (!other || other->index != twin || other->change != PC_REPLACE)
			return err_set(
				err, -EBADMSG,
				"page %llu is to be as page %llu, which did not come",
				(unsigned long long)st->item[i].index,
				(unsigned long long)twin);
		st->item[i].data = other->data;
		st->item[i].len = PC_PAGE;
	}
	/* Only now, so that none was found as the other page of another one. */
	for (size_t i = 0; i < st->n; i++)
		if (st->item[i].change == PC_TWIN)
			st->item[i].change = PC_REPLACE;
	st->twins = 0;
	return 0;
}

void stage_forget(struct stage *st, struct stage_spare *sp)
{
	struct stage_block *b;

	while ((b = st->block)) {
		st->block = b->next;
		if (b->cap != BLOCK || sp->bytes + b->cap > SPARE_BYTES) {
			free(b);
			continue;
		}
		b->next = sp->block;
		sp->block = b;
		sp->bytes += b->cap;
	}
	st->n = st->twins = st->held = 0;
}
