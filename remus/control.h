/* SPDX-License-Identifier: Apache-2.0
 * control - how soon an epoch may end because output waits for it. Pure: time comes in as a
 * number, nothing is called.
 *
 * Theory of operation. Two things are wanted: an answer should wait no longer than
 * latency_target, and the guest should stand still for no more than overhead_cap per cent of
 * the time. Each epoch costs a pause, so the cap says how far apart two starts must be: pause /
 * cap. Pauses of short epochs are short, which lets the next one come sooner, down to what a
 * pause costs at least; under load each pause copies more, the distance grows, and at the
 * configured interval it stops growing: that is how bulk traffic gets long epochs by itself.
 * What a commit takes is known from the last ones, so output that would be committed well
 * within the target waits for company before its epoch ends.
 *
 * Both are smoothed. A pause that grows counts at once, one that shrinks by an eighth of the
 * difference: so the distance cannot swing between two loads that alternate.
 */
#ifndef REMUS_CONTROL_H
#define REMUS_CONTROL_H

#include <stdint.h>

struct control_config {
	uint64_t interval;	 /* ns; an epoch never lasts longer for want of output */
	uint64_t min_interval;	 /* ns; nor do two start closer together */
	uint64_t latency_target; /* ns; 0: output never waits for company */
	unsigned
		overhead_cap; /* per cent of the time that the guest may stand, 1 to 100 */
};

struct control {
	uint64_t pause, commit; /* ns, smoothed; 0: not seen yet */
};

void control_pause(struct control *c, uint64_t ns);
void control_commit(struct control *c, uint64_t ns); /* from the capture to the ack */

/* Least time between the starts of two epochs, ns. */
uint64_t control_gap(const struct control *c, const struct control_config *cfg);
/* When to end the epoch that began at @last_start, given output since @output_since (0: none). */
uint64_t control_next(const struct control *c, const struct control_config *cfg,
		      uint64_t last_start, uint64_t output_since);

#endif
