/* SPDX-License-Identifier: Apache-2.0
 * pagewords - which words of a page changed, and those words alone.
 *
 * The body of a WORDS item (STREAM.md) is a row of runs: u16 with the first word's number in its
 * low 9 bits and the number of words less one in its upper 7, then the words' new content.
 */
#ifndef REPLICATION_PAGEWORDS_H
#define REPLICATION_PAGEWORDS_H

#include <stddef.h>
#include <stdint.h>

enum {
	PW_WORDS = 512, /* of 8 bytes, in a page */
	PW_RUN_MAX = 128,
	PW_BODY_MAX = PW_WORDS * 8 + PW_WORDS / 2 * 2, /* no mask needs more */
};

/* A bit for each word of two pages that differs; returns how many there are. */
unsigned pw_diff(uint64_t mask[PW_WORDS / 64], const void *a, const void *b);
/* The same, without the instructions that not every processor has; for tests. */
unsigned pw_diff_plain(uint64_t mask[PW_WORDS / 64], const void *a, const void *b);

/* Write the words of @page that @mask names to @dst, which has room for PW_BODY_MAX. Bytes written. */
unsigned pw_pack(uint8_t *dst, const uint64_t mask[PW_WORDS / 64], const void *page);

/* Is this a body? 1 or 0. Any bytes may come. */
int pw_check(const void *body, size_t len);
/* Put the words into @page. As often as one likes. Only what pw_check() has seen. */
void pw_apply(void *page, const void *body, size_t len);

#endif
