/* SPDX-License-Identifier: Apache-2.0
 * hotpages - which pages a guest writes in nearly every epoch. Pure.
 *
 * A page's first write after it was protected costs the guest a fault, which is some ten times
 * dearer than copying the page. So a page that was written HOT_AFTER times, no two of them further
 * apart than HOT_GAP epochs, is left writable and is copied each time, until it turns out not to
 * have changed for a while.
 */
#ifndef REMUS_HOTPAGES_H
#define REMUS_HOTPAGES_H

#include <stddef.h>
#include <stdint.h>

enum { HOT_AFTER = 4, HOT_GAP = 4, HOT_IDLE = 8 /* epochs without a change, to cool */ };

struct hot {
	uint64_t *map; /* a bit a page */
	uint8_t *
		streak; /* epochs in which the page was written, none too far from the next */
	uint8_t *seen; /* the last of them, modulo 256: a guess that is wrong once in 256
			  * only makes a page hot sooner or later */
	uint64_t pages;
	size_t n, max; /* hot pages, at most */
};

/* 0 or -ENOMEM; hot_fini() in either case. */
int hot_init(struct hot *h, uint64_t pages, size_t max);
void hot_fini(struct hot *h);
void hot_clear(struct hot *h); /* no page is hot, nothing is known */

/* @page was written in @epoch (or is hot, and may have been). As often as one likes in an epoch.
 * 1 if it is to stay writable. */
int hot_touch(struct hot *h, uint64_t page, uint64_t epoch);
/* It did not change for HOT_IDLE epochs. */
void hot_cool(struct hot *h, uint64_t page);

static inline int hot_is(const struct hot *h, uint64_t page)
{
	return (int)(h->map[page / 64] >> (page % 64) & 1);
}

#endif
