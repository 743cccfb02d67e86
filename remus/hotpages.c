/* SPDX-License-Identifier: Apache-2.0
 * hotpages - which pages a guest writes in nearly every epoch, and what they held last.
 */
#include "remus/hotpages.h"

#include "replication/pagecodec.h"
#include "replication/pagewords.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void free_all(struct hot *h)
{
	for (unsigned i = 0; i < HOT_MAX; i++)
		h->free[i] = (uint16_t)i;
	h->n = 0;
}

int hot_init(struct hot *h, uint64_t pages)
{
	*h = (struct hot){.pages = pages};
	h->map = calloc(pages / 64, sizeof(*h->map));
	h->streak = calloc(pages, 1);
	h->seen = calloc(pages, 1);
	h->slot_of = calloc(pages, sizeof(*h->slot_of));
	h->copies = aligned_alloc(PC_PAGE, (size_t)HOT_MAX * PC_PAGE);
	free_all(h);
	return h->map && h->streak && h->seen && h->slot_of && h->copies ? 0 : -ENOMEM;
}

void hot_fini(struct hot *h)
{
	free(h->map);
	free(h->streak);
	free(h->seen);
	free(h->slot_of);
	free(h->copies);
	h->map = NULL;
	h->streak = h->seen = h->copies = NULL;
	h->slot_of = NULL;
}

void hot_clear(struct hot *h)
{
	memset(h->map, 0, h->pages / 8);
	memset(h->streak, 0, h->pages);
	free_all(h);
}

static void count(struct hot *h, uint64_t page, uint8_t now)
{
	uint8_t last = h->seen[page];

	h->seen[page] = now;
	if (h->streak[page] && last == now)
		return;
	if (h->streak[page] && (uint8_t)(now - last) <= HOT_GAP) {
		if (h->streak[page] < UINT8_MAX)
			h->streak[page]++;
		return;
	}
	h->streak[page] = 1;
}

static void heat(struct hot *h, uint64_t page)
{
	uint16_t i = h->free[h->n++];

	h->map[page / 64] |= 1ull << (page % 64);
	h->slot_of[page] = i;
	h->slot[i] = (struct hot_slot){.page = page, .fresh = 1};
}

static void cool(struct hot *h, uint64_t page)
{
	h->map[page / 64] &= ~(1ull << (page % 64));
	h->streak[page] = 0;
	h->free[--h->n] = h->slot_of[page];
}

int hot_touch(struct hot *h, uint64_t page, uint64_t epoch)
{
	if (hot_is(h, page)) {
		if (hot_slot(h, page)->idle < HOT_IDLE)
			return 1;
		cool(h, page);
	}
	count(h, page, (uint8_t)epoch);
	if (h->streak[page] < HOT_AFTER || h->n == HOT_MAX)
		return 0;
	heat(h, page);
	return 1;
}

static uint8_t *copy_of(const struct hot *h, const struct hot_slot *s)
{
	return h->copies + (size_t)(s - h->slot) * PC_PAGE;
}

unsigned hot_compare(struct hot *h, struct hot_slot *s, const void *now, uint8_t *body)
{
	uint64_t mask[PW_WORDS / 64];
	unsigned len;

	if (!pw_diff(mask, now, copy_of(h, s))) {
		s->idle++;
		return 0;
	}
	s->idle = 0;
	len = pw_pack(body, mask, now);
	pw_apply(copy_of(h, s), body, len);
	return len;
}

void hot_fetch(const struct hot *h, const struct hot_slot *s)
{
	for (unsigned at = 0; at < HOT_FETCH; at += 64)
		__builtin_prefetch(copy_of(h, s) + at);
}

const void *hot_page(const struct hot *h, const struct hot_slot *s)
{
	return copy_of(h, s);
}

void hot_copy(struct hot *h, struct hot_slot *s, const void *now)
{
	memcpy(copy_of(h, s), now, PC_PAGE);
	s->fresh = 0;
}
