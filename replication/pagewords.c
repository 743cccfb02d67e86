/* SPDX-License-Identifier: Apache-2.0
 * pagewords - which words of a page changed, and those words alone.
 *
 * Most of what an encoder does is to look at pages in which little changed: 8 KiB are read for
 * a few words. So this loop is written for the widest registers that are there.
 */
#include "replication/pagewords.h"

#include <immintrin.h>
#include <string.h>

enum { WORD = 8, GROUPS = PW_WORDS / 64, START_BITS = 9 };

static unsigned count(const uint64_t mask[GROUPS])
{
	unsigned n = 0;

	for (unsigned g = 0; g < GROUPS; g++)
		n += (unsigned)__builtin_popcountll(mask[g]);
	return n;
}

unsigned pw_diff_plain(uint64_t mask[GROUPS], const void *a, const void *b)
{
	const uint8_t *pa = a, *pb = b;

	for (unsigned g = 0; g < GROUPS; g++) {
		uint64_t m = 0;

		for (unsigned i = 0; i < 64; i++, pa += WORD, pb += WORD) {
			uint64_t wa, wb;

			memcpy(&wa, pa, WORD);
			memcpy(&wb, pb, WORD);
			m |= (uint64_t)(wa != wb) << i;
		}
		mask[g] = m;
	}
	return count(mask);
}

static __attribute__((target("avx2"))) unsigned diff_avx2(uint64_t mask[GROUPS],
							  const void *a, const void *b)
{
	const __m256i *pa = a, *pb = b;

	for (unsigned g = 0; g < GROUPS; g++) {
		uint64_t same = 0;

		for (unsigned i = 0; i < 64; i += 4) {
			__m256i eq = _mm256_cmpeq_epi64(_mm256_loadu_si256(pa++),
							_mm256_loadu_si256(pb++));
			unsigned bits =
				(unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(eq));

			same |= (uint64_t)bits << i;
		}
		mask[g] = ~same;
	}
	return count(mask);
}

unsigned pw_diff(uint64_t mask[GROUPS], const void *a, const void *b)
{
	if (__builtin_cpu_supports("avx2"))
		return diff_avx2(mask, a, b);
	return pw_diff_plain(mask, a, b);
}

static uint8_t *put_run(uint8_t *dst, unsigned start, unsigned n, const uint8_t *page)
{
	unsigned head = start | (n - 1) << START_BITS;

	*dst++ = (uint8_t)head;
	*dst++ = (uint8_t)(head >> 8);
	/* Most runs are one word; a call for each would cost more than the rest. */
	for (unsigned i = 0; i < n; i++) {
		memcpy(dst, page + (size_t)(start + i) * WORD, WORD);
		dst += WORD;
	}
	return dst;
}

/* Runs end at multiples of 64 words, so none is too long for its header. */
unsigned pw_pack(uint8_t *dst, const uint64_t mask[GROUPS], const void *page)
{
	uint8_t *p = dst;

	for (unsigned g = 0; g < GROUPS; g++) {
		uint64_t m = mask[g];

		while (m) {
			unsigned start = (unsigned)__builtin_ctzll(m);
			uint64_t rest = ~(m >> start);
			unsigned n = rest ? (unsigned)__builtin_ctzll(rest) : 64;

			p = put_run(p, g * 64 + start, n, page);
			m = start + n == 64 ? 0 : m >> (start + n) << (start + n);
		}
	}
	return (unsigned)(p - dst);
}

struct run {
	unsigned start, n;
};

static struct run run_at(const uint8_t *p)
{
	unsigned head = p[0] | (unsigned)p[1] << 8;

	return (struct run){.start = head & (PW_WORDS - 1),
			    .n = (head >> START_BITS) + 1};
}

int pw_check(const void *body, size_t len)
{
	const uint8_t *p = body;

	if (!len)
		return 0;
	while (len) {
		struct run r;
		size_t bytes;

		if (len < 2)
			return 0;
		r = run_at(p);
		bytes = 2 + (size_t)r.n * WORD;
		if (r.start + r.n > PW_WORDS || bytes > len)
			return 0;
		p += bytes;
		len -= bytes;
	}
	return 1;
}

void pw_apply(void *page, const void *body, size_t len)
{
	const uint8_t *p = body, *end = p + len;
	uint8_t *to = page;

	while (p < end) {
		struct run r = run_at(p);

		if (r.n == 1)
			memcpy(to + (size_t)r.start * WORD, p + 2, WORD);
		else
			memcpy(to + (size_t)r.start * WORD, p + 2, (size_t)r.n * WORD);
		p += 2 + (size_t)r.n * WORD;
	}
}
