/* SPDX-License-Identifier: Apache-2.0
 * hotpages - which pages a guest writes in nearly every epoch, and what they held last.
 *
 * A page's first write after it was protected costs the guest a fault, which is some ten times
 * dearer than reading the page. So a page that was written HOT_AFTER times, no two of them further
 * apart than HOT_GAP epochs, is left writable, and each capture compares it with a copy from the
 * capture before: what differs is all that has to be kept and sent. A hot page without a
 * difference for HOT_IDLE epochs is an ordinary one again.
 */
#ifndef REMUS_HOTPAGES_H
#define REMUS_HOTPAGES_H

#include <stddef.h>
#include <stdint.h>

enum { HOT_AFTER = 4, HOT_GAP = 4, HOT_IDLE = 8, HOT_MAX = 1024 };

struct hot_slot {
	uint64_t page;
	uint8_t fresh; /* there is no copy yet */
	uint8_t idle;  /* captures in a row without a difference */
};

struct hot {
	uint64_t *map; /* a bit a page */
	uint8_t *
		streak; /* of a page: epochs in which it was written, none too far from the next */
	uint8_t *seen; /* the last of them, modulo 256: a guess that is wrong once in 256
			  * only makes a page hot sooner or later */
	uint16_t *slot_of; /* of a hot page */
	uint64_t pages;
	struct hot_slot slot[HOT_MAX];
	uint16_t free[HOT_MAX];
	size_t n;	 /* hot pages: so many slots are not free */
	uint8_t *copies; /* a page for each slot */
};

/* 0 or -ENOMEM; hot_fini() in either case. */
int hot_init(struct hot *h, uint64_t pages);
void hot_fini(struct hot *h);
void hot_clear(struct hot *h); /* no page is hot, nothing is known */

/* @page was written in @epoch (or is hot, and may have been). As often as one likes in an epoch.
 * 1 if it is to stay writable. */
int hot_touch(struct hot *h, uint64_t page, uint64_t epoch);

static inline int hot_is(const struct hot *h, uint64_t page)
{
	return (int)(h->map[page / 64] >> (page % 64) & 1);
}

/* Of a hot page. */
static inline struct hot_slot *hot_slot(struct hot *h, uint64_t page)
{
	return &h->slot[h->slot_of[page]];
}

/* Write what differs between @now and the slot's copy to @body (PW_BODY_MAX bytes, a body of
 * pagewords.h), and make the copy equal. Its length, 0: nothing differs. */
unsigned hot_compare(struct hot *h, struct hot_slot *s, const void *now, uint8_t *body);
/* It is compared soon. */
enum { HOT_FETCH = 512 }; /* bytes */
void hot_fetch(const struct hot *h, const struct hot_slot *s);
/* The slot's page as of the last capture; not if it is fresh. */
const void *hot_page(const struct hot *h, const struct hot_slot *s);
/* The first copy. */
void hot_copy(struct hot *h, struct hot_slot *s, const void *now);

#endif
