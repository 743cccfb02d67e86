/* SPDX-License-Identifier: Apache-2.0
 * schedule - when the next epoch starts and when pre-copy has done enough. Pure: time comes in
 * as a number, nothing is called.
 */
#ifndef REMUS_SCHEDULE_H
#define REMUS_SCHEDULE_H

#include <stdint.h>

#include "remus/control.h"

#define SCHED_NEVER UINT64_MAX /* only an event can change that */

struct sched {
	uint64_t now, last_start; /* ns on one clock; last_start 0: none yet */
	uint64_t output_since;	  /* somebody waits for this epoch to end; 0: nobody */
	unsigned inflight, max_inflight;
	int hurry; /* the guest has ended: the next epoch is the last */
};

/* When to start the next epoch: @s->now or earlier means at once. */
uint64_t sched_next(const struct sched *s, const struct control *c,
		    const struct control_config *cfg);

enum {
	SYNC_LEFT_OK = 4 << 20, /* bytes that checkpoint 0 may carry */
	SYNC_STALLED_MAX = 5,	/* rounds without progress */
};

struct sync_progress {
	uint64_t best; /* UINT64_MAX at first */
	unsigned stalled;
};

/* After a round that left @left bytes: 1 when another round would gain nothing that is worth
 * its traffic. A round is progress if it left SYNC_LEFT_OK less than any before. */
int sync_enough(struct sync_progress *s, uint64_t left);

#endif
