/* SPDX-License-Identifier: Apache-2.0
 * commitguard - compares a VM's commits with what is usual for it.
 */
#include "ctl/commitguard.h"

#include <stdio.h>

#define MS_NS 1000000ull

static uint64_t mean(uint64_t ns, uint64_t n)
{
	return n ? ns / n : 0;
}

void commitguard_begin(struct commitguard *g, const struct commit_sample *s,
		       unsigned interval_us, unsigned suspect_us, uint64_t now)
{
	uint64_t usual = mean(s->commit_ns, s->commits);
	uint64_t slack = interval_us * 1000ull + COMMITGUARD_SLACK_MS * MS_NS;
	uint64_t end = suspect_us * 1000ull / 2;

	*g = (struct commitguard){.usual_ns = usual,
				  .limit_ns = 4 * usual > slack ? 4 * usual : slack,
				  .end_ns = UINT64_MAX,
				  .first = *s,
				  .last = *s,
				  .moved_ns = now};
	if (suspect_us)
		g->end_ns = end > 2 * usual ? end : 2 * usual;
	if (g->limit_ns > g->end_ns)
		g->limit_ns = g->end_ns;
}

static enum commitguard_says judge(struct commitguard *g, uint64_t took, uint64_t now,
				   char *why, size_t room)
{
	if (took <= g->limit_ns)
		return COMMITGUARD_GO;
	if (!g->strikes || now - g->strike_ns >= COMMITGUARD_STRIKE_MS * MS_NS) {
		g->strikes++;
		g->strike_ns = now;
	}
	if (took <= g->end_ns && g->strikes <= COMMITGUARD_STRIKES)
		return COMMITGUARD_SLOWER;
	(void)snprintf(why, room,
		       "a commit of the VM took %.1f ms, usual are %.1f: it goes before",
		       (double)took / MS_NS,
		       (double)g->usual_ns / MS_NS); /* cutting is fine */
	return COMMITGUARD_STOP;
}

enum commitguard_says commitguard_look(struct commitguard *g,
				       const struct commit_sample *s, uint64_t now,
				       char *why, size_t room)
{
	uint64_t took =
		mean(s->commit_ns - g->last.commit_ns, s->commits - g->last.commits);
	/* acked + 1 is 0 for none. */
	int waits = s->captured > s->acked + 1;

	if (!g->first.protected)
		return COMMITGUARD_GO;
	if (!s->protected) {
		(void)snprintf(why, room, "the VM is not protected any more"); /* fits */
		return COMMITGUARD_STOP;
	}
	if (!waits || s->acked != g->last.acked)
		g->moved_ns = now;
	g->last = *s;
	if (took < now - g->moved_ns)
		took = now - g->moved_ns;
	return judge(g, took, now, why, room);
}

uint64_t commitguard_mean(const struct commitguard *g)
{
	return mean(g->last.commit_ns - g->first.commit_ns,
		    g->last.commits - g->first.commits);
}
