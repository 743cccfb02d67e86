/* SPDX-License-Identifier: Apache-2.0
 * hist - a log-linear histogram: 16 steps a power of two (6 % resolution), fixed size.
 *
 * One writer; readers of another thread may see a value that is being counted, never a
 * broken one.
 */
#ifndef HV_BASE_HIST_H
#define HV_BASE_HIST_H

#include <stdint.h>

enum { HIST_SUB = 16, HIST_BUCKETS = 61 * HIST_SUB };

struct hist {
	uint64_t count, sum, max;
	uint32_t bucket[HIST_BUCKETS];
};

void hist_add(struct hist *h, uint64_t v);
/* The value that a share @q (0..1) of all counted values does not exceed; the upper edge
 * of its bucket, at most the maximum. 0 when nothing was counted. */
uint64_t hist_quantile(const struct hist *h, double q);

#endif
