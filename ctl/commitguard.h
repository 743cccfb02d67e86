/* SPDX-License-Identifier: Apache-2.0
 * commitguard - whether a VM's commits suffer from what else goes over the wire. Pure.
 *
 * A VM may wait for its commits as long as four times its usual time, or an interval and
 * COMMITGUARD_SLACK_MS if that is longer. Once is a sign to send less: it may have been something else. More
 * than COMMITGUARD_STRIKES times, or so long that its peer might soon be suspected, is enough.
 */
#ifndef CTL_COMMITGUARD_H
#define CTL_COMMITGUARD_H

#include <stddef.h>
#include <stdint.h>

enum {
	COMMITGUARD_SLACK_MS = 20,
	COMMITGUARD_STRIKES = 4,
	COMMITGUARD_STRIKE_MS = 100, /* a stall counts once in this time */
};

enum commitguard_says { COMMITGUARD_STOP, COMMITGUARD_SLOWER, COMMITGUARD_GO };

/* How the VM does at one moment; counts since it began. */
struct commit_sample {
	int protected;
	uint64_t commits, commit_ns;
	uint64_t captured,
		acked; /* epochs captured; the last one acked, UINT64_MAX: none */
};

struct commitguard {
	uint64_t usual_ns;
	uint64_t limit_ns; /* longer is a strike */
	uint64_t end_ns;   /* longer is the end; UINT64_MAX: nobody suspects */
	unsigned strikes;
	uint64_t strike_ns; /* the last one */
	struct commit_sample first, last;
	uint64_t moved_ns; /* when an epoch was acked last, or none waited */
};

/* @suspect_us: after so long a silence the peer is suspected; 0: never. */
void commitguard_begin(struct commitguard *g, const struct commit_sample *s,
		       unsigned interval_us, unsigned suspect_us, uint64_t now);
/* STOP comes with the reason in @why. A VM that was not protected at the beginning never suffers. */
enum commitguard_says commitguard_look(struct commitguard *g,
				       const struct commit_sample *s, uint64_t now,
				       char *why, size_t room);
/* The mean commit between the beginning and the last look, ns; 0: there was none. */
uint64_t commitguard_mean(const struct commitguard *g);

#endif
