/* SPDX-License-Identifier: Apache-2.0
 * pace - a sync that leaves something of disk and network to others.
 */
#include "diskrep/dr.h"

#include "hv/base/clock.h"

#include <time.h>

enum { LOOK_AGAIN_MS = 50, BURST_MS = 100 };

void diskrep_set_rate(struct diskrep *dr, uint64_t bytes)
{
	pthread_mutex_lock(&dr->lock);
	dr->pace.rate = bytes;
	dr->pace.next_ns = 0;
	pthread_mutex_unlock(&dr->lock);
}

/* How long to wait for the turn that began at @from; 0: go. */
static uint64_t due_in(struct diskrep *dr, uint64_t bytes, uint64_t now)
{
	struct dr_pace *p = &dr->pace;
	uint64_t wait = 0;

	pthread_mutex_lock(&dr->lock);
	if (p->rate && !dr->compare.stop) {
		/* What was not used is lost, but for a little. */
		if (p->next_ns + BURST_MS * UINT64_C(1000000) < now)
			p->next_ns = now;
		if (p->next_ns > now)
			wait = p->next_ns - now;
		else
			p->next_ns += bytes * UINT64_C(1000000000) / p->rate;
	}
	pthread_mutex_unlock(&dr->lock);
	return wait;
}

void dr_pace(struct diskrep *dr, uint64_t bytes)
{
	uint64_t wait;

	/* In short pieces: the rate may change, or the link end. */
	while ((wait = due_in(dr, bytes, clock_mono_ns()))) {
		struct timespec ts = {.tv_nsec = LOOK_AGAIN_MS * 1000000};

		if (wait < LOOK_AGAIN_MS * UINT64_C(1000000))
			ts.tv_nsec = (long)wait;
		(void)nanosleep(&ts, NULL); /* sooner is fine: it is asked again */
	}
}
