/* SPDX-License-Identifier: Apache-2.0
 * deltapack - a page's sparse delta as an LZ4 block, written without LZ4's search.
 *
 * Theory of operation. In a delta only one thing repeats that is worth a match: zero bytes.
 * Where they are is known from a walk over 512 words, so no hash table is needed, which is most
 * of what LZ4 costs on a page. A stretch of zeroes becomes one zero literal and a match
 * at offset 1 for the rest; all else is literals. The block format (LZ4's lz4_Block_format.md)
 * asks that the last 5 bytes be literals and that no match begin in the last 12.
 */
#include "replication/deltapack.h"

#include <string.h>

enum {
	PAGE = 4096,
	WORDS = PAGE / 8,
	MATCH_MIN = 4,
	LAST_LITERALS = 5,
	LAST_START = PAGE - 12,
	NIBBLE = 15,
};

struct out {
	uint8_t *p, *end;
};

/* Lengths of 15 and more go on in bytes of 255. */
static void put_more(struct out *o, unsigned n)
{
	for (; n >= 255; n -= 255)
		*o->p++ = 255;
	*o->p++ = (uint8_t)n;
}

/* @lit literals from @src, then a match at offset 1 of @match bytes (0: none, the last sequence).
 * -1 when there is no room. */
static int put_sequence(struct out *o, const uint8_t *src, unsigned lit, unsigned match)
{
	unsigned code = match ? match - MATCH_MIN : 0;
	/* token, both lengths' extra bytes, literals, offset */
	size_t most = 1 + lit / 255 + 1 + code / 255 + 1 + lit + 2;

	if (most > (size_t)(o->end - o->p))
		return -1;
	*o->p++ = (uint8_t)((lit < NIBBLE ? lit : NIBBLE) << 4 |
			    (code < NIBBLE ? code : NIBBLE));
	if (lit >= NIBBLE)
		put_more(o, lit - NIBBLE);
	/* In whole 16s: what is too much is overwritten by what comes next. */
	for (unsigned i = 0; i < lit; i += 16)
		memcpy(o->p + i, src + i, 16);
	o->p += lit;
	if (!match)
		return 0;
	*o->p++ = 1;
	*o->p++ = 0;
	if (code >= NIBBLE)
		put_more(o, code - NIBBLE);
	return 0;
}

/* The stretch of zero bytes around the zero word @i: from *first_out to before *end_out.
 * Returns the first word that is not zero again. */
static unsigned stretch(const uint64_t *delta, unsigned i, unsigned *first_out,
			unsigned *end_out)
{
	unsigned j = i + 1;

	while (j < WORDS && !delta[j])
		j++;
	/* Words are little endian: their high zero bytes touch the stretch behind them. */
	*first_out = i * 8 - (i ? (unsigned)__builtin_clzll(delta[i - 1]) / 8 : 0);
	*end_out = j * 8 + (j < WORDS ? (unsigned)__builtin_ctzll(delta[j]) / 8 : 0);
	return j;
}

unsigned pc_delta_pack(uint8_t *dst, size_t room, const uint64_t *delta)
{
	const uint8_t *src = (const uint8_t *)delta;
	struct out o = {.p = dst, .end = dst + room};
	unsigned done = 0, first, end, i = 0;

	while (i < WORDS) {
		if (delta[i]) {
			i++;
			continue;
		}
		i = stretch(delta, i, &first, &end);
		first++; /* the literal that the match repeats */
		if (end > PAGE - LAST_LITERALS)
			end = PAGE - LAST_LITERALS;
		if (first > LAST_START || first + MATCH_MIN > end)
			continue;
		if (put_sequence(&o, src + done, first - done, end - first) < 0)
			return 0;
		done = end;
	}
	if (put_sequence(&o, src + done, PAGE - done, 0) < 0)
		return 0;
	return (unsigned)(o.p - dst);
}
