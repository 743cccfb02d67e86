/* SPDX-License-Identifier: Apache-2.0
 * watch - did this process stand still? A thread that does nothing but look at the clock.
 *
 * Theory of operation. A process that was stopped, or frozen with its host, for longer than its
 * peer waits must assume that the peer runs the guest by now. None of its working threads can
 * tell: each may rightly be busy for as long (a reboot clears all memory, and the checkpoint after
 * it copies all of it). So a thread of its own takes four turns in that time, and a gap between
 * two of them counts. Whoever asks looks at the clock himself too: after a freeze he may be
 * the first to run.
 */
#ifndef REMUS_WATCH_H
#define REMUS_WATCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct watch {
	uint64_t limit_ns;
	void (*on_gap)(void *arg);
	void *arg;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int started, stop;	  /* under lock */
	_Atomic uint64_t tick_ns; /* the last turn */
	_Atomic uint64_t gaps;	  /* turns that came late by more than the limit */
};

/* @limit_ns 0: there is never a gap. @on_gap is called on the watch's thread after each gap. 0 or
 * -errno of making the thread. */
int watch_start(struct watch *w, uint64_t limit_ns, void (*on_gap)(void *arg), void *arg);
/* Ends the thread; fine for one that was not started. */
void watch_stop(struct watch *w);
/* How many gaps there were, one that is just ending included. Any thread, while it is started. */
uint64_t watch_gaps(struct watch *w);

#endif
