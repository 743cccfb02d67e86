/* SPDX-License-Identifier: Apache-2.0
 * crashpoint - named places on the commit path where drills and tests may end the process.
 *
 * Nobody sets the hook in ordinary operation: a point then costs one load and one branch. A
 * test's hook raises SIGKILL, or calls back to see what was true at that moment.
 */
#ifndef REMUS_CRASHPOINT_H
#define REMUS_CRASHPOINT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum crash_point {
	/* primary */
	CRASH_BEFORE_PAUSE, /* the guest still runs */
	CRASH_PAUSED,	    /* the guest stands, nothing captured */
	CRASH_CAPTURED,	    /* all captured, the guest stands */
	CRASH_RESUMED,	    /* the guest runs, nothing sent */
	CRASH_SENDING,	    /* a participant's records are out, END is not */
	CRASH_END_SENT,	    /* END was flushed */
	CRASH_ACK_RECEIVED, /* nothing released */
	CRASH_RELEASING,    /* told one participant of the commit, not yet the next */
	CRASH_RELEASED,	    /* told all */
	/* standby */
	CRASH_VERIFIED, /* the checkpoint is whole, no ack was sent */
	CRASH_ACK_SENT, /* nothing applied */
	CRASH_APPLYING, /* one participant has applied, the next has not */
	CRASH_APPLIED,
	/* a guest that is saved; primary */
	CRASH_HELD,  /* it stands at the last checkpoint, committed; no file is whole */
	CRASH_SAVED, /* both files are, nothing is on record */
	CRASH_ON_RECORD, /* it is on record here, the standby still holds its commit */
	CRASH_FORGOTTEN, /* the standby has let go of its commit */
	/* standby */
	CRASH_COPY_SAVED, /* its file is whole, the primary does not know */
	/* who resumes it */
	CRASH_LOADED, /* nothing has changed on disk */
	CRASH_USED,   /* the file says that it ran, which it has not yet */
	/* a snapshot with memory; either host */
	CRASH_MEMORY_SAVED, /* its memory is in the file, rhead does not know */
	CRASH_POINTS
};

typedef void crash_hook_fn(enum crash_point at, uint64_t epoch);

extern _Atomic(crash_hook_fn *) crash_hook;

/* Set by tests and drills only; NULL takes it away. Any thread. */
static inline void crash_hook_set(crash_hook_fn *fn)
{
	atomic_store(&crash_hook, fn);
}

static inline void crash_at(enum crash_point at, uint64_t epoch)
{
	crash_hook_fn *fn = atomic_load_explicit(&crash_hook, memory_order_acquire);

	if (__builtin_expect(fn != NULL, 0))
		fn(at, epoch);
}

/* "end-sent" and the like; NULL when @at is none. */
const char *crash_point_name(enum crash_point at);
/* The point of that name, or -1. */
int crash_point_find(const char *name);

#endif
