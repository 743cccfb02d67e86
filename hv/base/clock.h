/* SPDX-License-Identifier: Apache-2.0
 * clock - the two clocks that Rhea reads, in nanoseconds. Any thread.
 */
#ifndef HV_BASE_CLOCK_H
#define HV_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	(void)clock_gettime(id, &ts); /* cannot fail for the two ids used here */
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Never goes backwards; only differences mean something. */
static inline uint64_t clock_mono_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* Wall time, for people and for guests; nothing is decided by it. */
static inline uint64_t clock_real_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

#endif
