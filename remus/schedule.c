/* SPDX-License-Identifier: Apache-2.0
 * schedule - when the next epoch starts and when pre-copy has done enough.
 */
#include "remus/schedule.h"

uint64_t sched_next(const struct sched *s, const struct control *c,
		    const struct control_config *cfg)
{
	if (s->inflight >= s->max_inflight)
		return SCHED_NEVER;
	if (!s->last_start || s->hurry)
		return s->now;
	return control_next(c, cfg, s->last_start, s->output_since);
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
