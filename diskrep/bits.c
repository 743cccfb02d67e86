/* SPDX-License-Identifier: Apache-2.0
 * bits - a set of chunks with a summary above it.
 */
#include "diskrep/bits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int dr_bits_init(struct dr_bits *b, uint64_t size)
{
	*b = (struct dr_bits){.size = size, .words = size / 64 + (size % 64 != 0)};
	/* One more: an empty disk has a word, too. */
	b->word = calloc(b->words + 1, sizeof(*b->word));
	b->some = calloc(b->words / 64 + 1, sizeof(*b->some));
	if (b->word && b->some)
		return 0;
	dr_bits_fini(b);
	return -ENOMEM;
}

void dr_bits_fini(struct dr_bits *b)
{
	free(b->word);
	free(b->some);
	*b = (struct dr_bits){0};
}

void dr_bits_set_word(struct dr_bits *b, uint64_t w, uint64_t v)
{
	uint64_t bit = UINT64_C(1) << (w % 64);

	b->count -= (uint64_t)__builtin_popcountll(b->word[w]);
	b->count += (uint64_t)__builtin_popcountll(v);
	b->word[w] = v;
	if (v)
		b->some[w / 64] |= bit;
	else
		b->some[w / 64] &= ~bit;
}

uint64_t dr_bits_next_word(const struct dr_bits *b, uint64_t w)
{
	uint64_t left;

	for (; w < b->words; w = (w / 64 + 1) * 64) {
		left = b->some[w / 64] >> (w % 64);
		if (left)
			return w + (unsigned)__builtin_ctzll(left);
	}
	return b->words;
}

int dr_bits_grow(struct dr_bits *b, uint64_t size)
{
	struct dr_bits more;
	int rc;

	if (size <= b->size)
		return 0;
	rc = dr_bits_init(&more, size);
	if (rc)
		return rc;
	dr_bits_join(&more, b);
	dr_bits_fini(b);
	*b = more;
	return 0;
}

void dr_bits_clear(struct dr_bits *b)
{
	for (uint64_t w = 0; (w = dr_bits_next_word(b, w)) < b->words;)
		dr_bits_set_word(b, w, 0);
}

int dr_bits_has(const struct dr_bits *b, uint64_t i)
{
	return b->word[i / 64] >> (i % 64) & 1;
}

void dr_bits_add(struct dr_bits *b, uint64_t first, uint64_t count)
{
	uint64_t end = first + count;

	while (first < end) {
		uint64_t w = first / 64, at = first % 64;
		uint64_t n = end - first < 64 - at ? end - first : 64 - at;
		uint64_t run = n == 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1;

		dr_bits_set_word(b, w, b->word[w] | run << at);
		first += n;
	}
}

int dr_bits_take(struct dr_bits *b, uint64_t i)
{
	int was = dr_bits_has(b, i);

	if (was)
		dr_bits_set_word(b, i / 64, b->word[i / 64] & ~(UINT64_C(1) << (i % 64)));
	return was;
}

uint64_t dr_bits_next(const struct dr_bits *b, uint64_t i)
{
	uint64_t w = i / 64, left;

	if (i >= b->size)
		return b->size;
	left = b->word[w] >> (i % 64);
	if (left)
		return i + (unsigned)__builtin_ctzll(left);
	w = dr_bits_next_word(b, w + 1);
	return w < b->words ? w * 64 + (unsigned)__builtin_ctzll(b->word[w]) : b->size;
}

uint64_t dr_bits_run(const struct dr_bits *b, uint64_t i, uint64_t *first_out)
{
	uint64_t end;

	*first_out = end = dr_bits_next(b, i);
	while (end < b->size && dr_bits_has(b, end))
		end++;
	return end - *first_out;
}

void dr_bits_join(struct dr_bits *to, const struct dr_bits *from)
{
	for (uint64_t w = 0;
	     (w = dr_bits_next_word(from, w)) < from->words && w < to->words; w++)
		dr_bits_set_word(to, w,
				 to->word[w] | (from->word[w] & dr_bits_mask(to, w)));
}

uint64_t dr_bits_mask(const struct dr_bits *b, uint64_t w)
{
	uint64_t left = b->size - w * 64;

	return left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX;
}
