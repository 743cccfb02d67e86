/* SPDX-License-Identifier: Apache-2.0
 * hotpages - which pages a guest writes in nearly every epoch.
 */
#include "remus/hotpages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int hot_init(struct hot *h, uint64_t pages, size_t max)
{
	*h = (struct hot){.pages = pages, .max = max};
	h->map = calloc(pages / 64, sizeof(*h->map));
	h->streak = calloc(pages, 1);
	h->seen = calloc(pages, 1);
	return h->map && h->streak && h->seen ? 0 : -ENOMEM;
}

void hot_fini(struct hot *h)
{
	free(h->map);
	free(h->streak);
	free(h->seen);
	*h = (struct hot){0};
}

void hot_clear(struct hot *h)
{
	memset(h->map, 0, h->pages / 8);
	memset(h->streak, 0, h->pages);
	h->n = 0;
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

int hot_touch(struct hot *h, uint64_t page, uint64_t epoch)
{
	if (hot_is(h, page))
		return 1;
	count(h, page, (uint8_t)epoch);
	if (h->streak[page] < HOT_AFTER || h->n == h->max)
		return 0;
	h->map[page / 64] |= 1ull << (page % 64);
	h->n++;
	return 1;
}

void hot_cool(struct hot *h, uint64_t page)
{
	if (!hot_is(h, page))
		return;
	h->map[page / 64] &= ~(1ull << (page % 64));
	h->streak[page] = 0;
	h->n--;
}
