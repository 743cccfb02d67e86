/* SPDX-License-Identifier: Apache-2.0
 * observe - a client's eyes on the wire: every frame that the guest was allowed to say,
 * in order, with the host it came from.
 *
 * What must hold, whatever dies: the guest's counter only grows (a value seen twice means
 * that a frame had left before its checkpoint was safe and was said again by the other
 * host); every frame's memory and disk agree with its counter; a host that lost the VM is
 * silent from then on.
 */
#ifndef TESTS_NATIVE_OBSERVE_H
#define TESTS_NATIVE_OBSERVE_H

#include <stdint.h>

struct observer;

struct observed {
	uint64_t frames, last_n;
	uint64_t blocks;   /* of the guest's disks, as the last frame says; see proto.h */
	uint64_t from[2];  /* frames of each host */
	int last_host;	   /* 0, 1; -1: nothing seen yet */
	uint64_t last_ns;  /* CLOCK_MONOTONIC of the last frame */
	uint64_t switches; /* times the VM's frames changed hosts */
	uint64_t gap_ns;   /* silence before the last switch */
	uint64_t longest_ns; /* silence since observer_mark(), also one that goes on */
	uint64_t boots; /* times the guest was booted anew; a violation unless allowed */
	uint64_t violations;
	char first_violation[256];
};

/* Watch in network namespace @ns on the bridge ports of host 0 and host 1. Returns owned
 * or NULL (told on stderr). */
struct observer *observer_start(const char *ns, const char *port0, const char *port1);
void observer_stop(struct observer *o);
/* This guest reboots on purpose. */
void observer_allow_boots(struct observer *o);
/* From now on look for the longest silence anew. */
void observer_mark(struct observer *o);
void observer_read(struct observer *o, struct observed *out);

#endif
