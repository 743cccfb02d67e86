/* SPDX-License-Identifier: Apache-2.0
 * schedule - when the next epoch starts and when pre-copy has done enough.
 */
#include "remus/schedule.h"

uint64_t sched_next(const struct sched *s)
{
	uint64_t gap = s->interval;

	if (s->inflight >= s->max_inflight)
		return SCHED_NEVER;
	if (!s->last_start)
		return s->now;
	if (s->requested && s->min_interval < gap)
		gap = s->min_interval;
	return s->last_start + gap;
}

int sync_enough(struct sync_progress *s, uint64_t left)
{
	if (left <= SYNC_LEFT_OK)
		return 1;
	if (left < s->best && s->best - left >= SYNC_LEFT_OK) {
		s->best = left;
		s->stalled = 0;
		return 0;
	}
	return ++s->stalled >= SYNC_STALLED_MAX;
}
