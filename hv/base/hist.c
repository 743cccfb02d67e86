/* SPDX-License-Identifier: Apache-2.0
 * hist - a log-linear histogram.
 */
#include "hv/base/hist.h"

#include <stddef.h>

static size_t bucket_of(uint64_t v)
{
	unsigned top;

	if (v < HIST_SUB)
		return v;
	top = 63u - (unsigned)__builtin_clzll(v);
	return (size_t)(top - 3) * HIST_SUB + ((v >> (top - 4)) & (HIST_SUB - 1));
}

static uint64_t upper_edge(size_t b)
{
	unsigned top;

	if (b < HIST_SUB)
		return b;
	top = (unsigned)(b / HIST_SUB) + 3;
	return ((uint64_t)(HIST_SUB + b % HIST_SUB) << (top - 4)) +
	       ((1ull << (top - 4)) - 1);
}

void hist_add(struct hist *h, uint64_t v)
{
	h->bucket[bucket_of(v)]++;
	h->count++;
	h->sum += v;
	if (v > h->max)
		h->max = v;
}

uint64_t hist_quantile(const struct hist *h, double q)
{
	uint64_t want = (uint64_t)(q * (double)h->count + 0.999999), seen = 0, edge;

	if (!h->count)
		return 0;
	if (!want)
		want = 1;
	for (size_t b = 0; b < HIST_BUCKETS; b++) {
		seen += h->bucket[b];
		if (seen >= want) {
			edge = upper_edge(b);
			return edge < h->max ? edge : h->max;
		}
	}
	return h->max;
}
