/* SPDX-License-Identifier: Apache-2.0
 * control - how soon an epoch may end because output waits for it.
 */
#include "remus/control.h"

enum { CALM = 8 }; /* of what is smaller than before, this part counts */

static uint64_t smooth(uint64_t was, uint64_t now)
{
	if (now >= was)
		return was ? was + (now - was) / 2 : now;
	return was - (was - now + CALM - 1) / CALM;
}

void control_pause(struct control *c, uint64_t ns)
{
	c->pause = smooth(c->pause, ns);
}

void control_commit(struct control *c, uint64_t ns)
{
	c->commit = smooth(c->commit, ns);
}

uint64_t control_gap(const struct control *c, const struct control_config *cfg)
{
	uint64_t gap = c->pause * 100 / cfg->overhead_cap;

	if (gap < cfg->min_interval)
		gap = cfg->min_interval;
	return gap < cfg->interval ? gap : cfg->interval;
}

uint64_t control_next(const struct control *c, const struct control_config *cfg,
		      uint64_t last_start, uint64_t output_since)
{
	uint64_t latest = last_start + cfg->interval, soonest, when;
	uint64_t cost = c->pause + c->commit;

	if (!output_since)
		return latest;
	soonest = last_start + control_gap(c, cfg);
	when = output_since;
	if (cfg->latency_target > cost)
		when += cfg->latency_target - cost;
	if (when < soonest)
		when = soonest;
	return when < latest ? when : latest;
}
