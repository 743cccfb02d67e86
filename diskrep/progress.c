/* SPDX-License-Identifier: Apache-2.0
 * progress - how far a sync is, for people.
 */
#include "diskrep/dr.h"

#include "hv/base/clock.h"

/* Under lock. */
static const char *state_of(const struct diskrep *dr)
{
	if (dr->mode == DR_ON)
		return "done";
	if (dr->mode == DR_OFF)
		return "none";
	return dr->compare.done ? "sending" : "comparing";
}

static void judge_speed(const struct diskrep *dr, struct diskrep_sync_stats *s)
{
	uint64_t now = clock_mono_ns(), ms = (now - dr->compare.began_ns) / 1000000;

	s->rate = s->eta_s = UINT64_MAX;
	if (dr->mode != DR_SYNC || !ms || !s->looked_bytes)
		return;
	s->rate = (uint64_t)((double)s->looked_bytes * 1000.0 / (double)ms);
	if (s->rate)
		s->eta_s = s->left_bytes / s->rate;
}

void diskrep_sync_stats(struct diskrep *dr, struct diskrep_sync_stats *out)
{
	const struct dr_activity *a = &dr->activity;
	const struct dr_compare *c = &dr->compare;

	pthread_mutex_lock(&dr->lock);
	*out = (struct diskrep_sync_stats){
		.state = state_of(dr),
		.partial = dr->resync.partial,
		.why = dr->resync.why ? dr->resync.why : "",
		.look_bytes = c->look * DR_CHUNK,
		.looked_bytes = c->looked * DR_CHUNK,
		.sent_bytes = dr->sync_sent,
		.left_bytes = (c->look - c->looked + dr->dirty_chunks) * DR_CHUNK,
		.limit = dr->pace.rate,
		.log = a->failed ? a->failed : a->ready && !a->act.off,
		.marked_chunks = act_count(&a->act),
		.active_extents = act_active(&a->act),
		.log_writes = a->syncs,
		.waited_writes = a->waited,
	};
	if (dr->mode == DR_OFF)
		out->left_bytes = 0;
	judge_speed(dr, out);
	pthread_mutex_unlock(&dr->lock);
}
