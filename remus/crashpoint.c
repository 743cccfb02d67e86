/* SPDX-License-Identifier: Apache-2.0
 * crashpoint - the hook and the names of the points.
 */
#include "remus/crashpoint.h"

#include <string.h>

_Atomic(crash_hook_fn *) crash_hook;

static const char *const names[] = {
	[CRASH_BEFORE_PAUSE] = "before-pause",
	[CRASH_PAUSED] = "paused",
	[CRASH_CAPTURED] = "captured",
	[CRASH_RESUMED] = "resumed",
	[CRASH_SENDING] = "sending",
	[CRASH_END_SENT] = "end-sent",
	[CRASH_ACK_RECEIVED] = "ack-received",
	[CRASH_RELEASING] = "releasing",
	[CRASH_RELEASED] = "released",
	[CRASH_VERIFIED] = "verified",
	[CRASH_ACK_SENT] = "ack-sent",
	[CRASH_APPLYING] = "applying",
	[CRASH_APPLIED] = "applied",
	[CRASH_HELD] = "held",
	[CRASH_SAVED] = "saved",
	[CRASH_ON_RECORD] = "on-record",
	[CRASH_FORGOTTEN] = "forgotten",
	[CRASH_COPY_SAVED] = "copy-saved",
	[CRASH_LOADED] = "loaded",
	[CRASH_USED] = "used",
	[CRASH_MEMORY_SAVED] = "memory-saved",
};
_Static_assert(sizeof(names) / sizeof(names[0]) == CRASH_POINTS, "a name for each point");

const char *crash_point_name(enum crash_point at)
{
	return (unsigned)at < CRASH_POINTS ? names[at] : NULL;
}

int crash_point_find(const char *name)
{
	for (int i = 0; i < CRASH_POINTS; i++)
		if (!strcmp(name, names[i]))
			return i;
	return -1;
}
