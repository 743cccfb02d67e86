/* SPDX-License-Identifier: Apache-2.0
 * bits - a large set of small numbers (chunks of a disk) that is mostly empty: finding and
 * forgetting its members costs what it holds, not how large it could be.
 *
 * Not locked: one owner at a time. Numbers beyond the size are a bug of the caller.
 */
#ifndef DISKREP_BITS_H
#define DISKREP_BITS_H

#include <stdint.h>

struct dr_bits {
	uint64_t *word; /* a bit a member */
	uint64_t *some; /* a bit a word that is not 0 */
	uint64_t size;	/* members are below it */
	uint64_t words;
	uint64_t count; /* members */
};

/* Empty. 0 or -ENOMEM. */
int dr_bits_init(struct dr_bits *b, uint64_t size);
void dr_bits_fini(struct dr_bits *b); /* idempotent; also of zeroes */
void dr_bits_clear(struct dr_bits *b);
int dr_bits_has(const struct dr_bits *b, uint64_t i);
void dr_bits_add(struct dr_bits *b, uint64_t first, uint64_t count);
/* Was it there? */
int dr_bits_take(struct dr_bits *b, uint64_t i);
/* The first member at or after @i; @size if there is none. */
uint64_t dr_bits_next(const struct dr_bits *b, uint64_t i);
/* The run of members that begins at or after @i: *first_out (size: none), and its length. */
uint64_t dr_bits_run(const struct dr_bits *b, uint64_t i, uint64_t *first_out);
/* The set may have members up to @size, which is no less than before. 0 or -ENOMEM: it is as it was. */
int dr_bits_grow(struct dr_bits *b, uint64_t size);
/* @to gets all members of @from that are below its size. */
void dr_bits_join(struct dr_bits *to, const struct dr_bits *from);
/* All of it is in word @w: members beyond the size are left out. */
uint64_t dr_bits_mask(const struct dr_bits *b, uint64_t w);
void dr_bits_set_word(struct dr_bits *b, uint64_t w, uint64_t v);
/* The first word at or after @w that is not 0; @words if there is none. */
uint64_t dr_bits_next_word(const struct dr_bits *b, uint64_t w);

#endif
