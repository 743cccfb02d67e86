/* SPDX-License-Identifier: Apache-2.0
 * primary - the epoch engine on the host where the guest runs.
 *
 * States:
 *   ALONE      no standby; output passes (or, before authority, is held by its owner)
 *   SYNCING    a transport is attached, pre-copy runs; output still passes
 *   ARMED      checkpoint 0 was captured and output is held from then on; not yet acked
 *   PROTECTED  ACK(0) came: epochs flow
 *   UNLINKED   the link was lost when ARMED or PROTECTED: the guest runs, output is held until
 *              primary_alone() (a grant) or the process is fenced
 *   FENCED     the peer showed a higher term: the guest is paused for good
 */
#ifndef REMUS_PRIMARY_H
#define REMUS_PRIMARY_H

#include <stdint.h>

#include "hv/base/hist.h"
#include "remus/participant.h"

struct err;
struct primary;
struct tp;

enum primary_state {
	PRI_ALONE,
	PRI_SYNCING,
	PRI_ARMED,
	PRI_PROTECTED,
	PRI_UNLINKED,
	PRI_FENCED
};
const char *primary_state_name(enum primary_state s);

struct primary_config {
	const char *vm;
	unsigned interval_us; /* between the starts of two epochs */
	unsigned
		min_interval_us; /* a requested epoch comes no sooner after the last one */
	unsigned latency_target_us; /* control.h; 0: output never waits for company */
	unsigned overhead_cap;	    /* per cent, control.h; 0: no cap */
	unsigned
		max_inflight; /* epochs captured and not acked, at most; then the guest waits */
	/* If this process stood still for so long (stopped, frozen with its host), the peer may have
	 * taken over meanwhile, and an ack that waited in a buffer may not release anything any
	 * more: the link is given up. At most the time after which the peer suspects. 0: never. */
	unsigned frozen_us;
	/* Called on the engine's threads at each change of state; must not call the engine.
	 * UNLINKED and back to ALONE carry the reason. FENCED carries the peer's term. */
	void (*on_state)(void *arg, enum primary_state s, uint64_t term, const char *why);
	void *arg;
};

/* Where an epoch's time goes, in nanoseconds unless named otherwise. */
struct primary_stats {
	enum primary_state state;
	uint64_t term, epoch, acked; /* running epoch; last acked, UINT64_MAX: none */
	uint64_t bytes_raw, bytes_sent, pages_sent, early_epochs;
	uint64_t sync_left; /* bytes, while SYNCING */
	struct hist ahead, pause, stop, capture, resume, send, commit, interval;
	struct hist capture_part[8]; /* by index of the participant */
	struct hist dirty_pages;     /* a count, not a time */
};

/* @parts is copied, what it points to is borrowed. Starts the epoch thread. */
int primary_create(const struct primary_config *cfg, const struct part *parts, unsigned n,
		   struct primary **p_out, struct err *err);
/* Ends all threads; the guest is left as it is. NULL is fine. */
void primary_destroy(struct primary *p);
struct epoch_trigger primary_trigger(struct primary *p);

/* Bring a standby up over @tp (takes it), in @term. Only when ALONE: else -EBUSY and @tp is
 * closed. Returns at once; the rest is told by on_state. */
int primary_attach(struct primary *p, struct tp *tp, uint64_t term, struct err *err);
/* Give up the link now. Returns when nothing of it runs any more. */
void primary_detach(struct primary *p, const char *why);
/* A grant was won: @term is ours and nobody else may run. Releases what is held, on this thread,
 * before it returns. From UNLINKED (or ALONE, to take a new term) to ALONE. */
int primary_alone(struct primary *p, uint64_t term, struct err *err);
/* Run @fn with the guest paused between two epochs, in order with checkpoints. An operator's
 * reboot, resize or stop goes through here. Returns what @fn did, or -errno. */
int primary_between(struct primary *p, int (*fn)(void *arg), void *arg);
/* The guest has ended in good order: commit a last checkpoint, tell the standby BYE, detach. */
int primary_finish(struct primary *p, unsigned timeout_ms);
/* Stop the guest at a checkpoint and keep it there. @fn (epoch thread, the guest stands; @epoch: UINT64_MAX
 * when alone) may look at it, and calls it off by what it returns. Protected: that is the last checkpoint,
 * committed by the standby and its output released when this returns, and the standby was told to save
 * it. A link that syncs is given up first. 0, or -errno with @err: the guest runs on. Then one of the three
 * below. Pings, fence and detach are served meanwhile; reboot, stop and the like wait. */
int primary_hold(struct primary *p, int (*fn)(void *arg, uint64_t epoch), void *arg,
		 unsigned timeout_ms, struct err *err);
/* Has the standby saved it? 0; 1: there is none; -errno: no. */
int primary_hold_wait(struct primary *p, unsigned timeout_ms);
/* It is saved: the standby may forget its commit. The guest stands for good. 0, or -errno: it could not be told. */
int primary_hold_done(struct primary *p, unsigned timeout_ms);
/* The guest goes on. */
void primary_hold_end(struct primary *p);
/* Pause for good, drop nothing yet: participants' teardown does. Any thread. */
void primary_fence(struct primary *p, uint64_t term);
/* When the freeze watch was last asked about an ack, before it answered: what is committed in
 * consequence may leave only soon after that. CLOCK_MONOTONIC, ns. Within committed(). */
uint64_t primary_judged_ns(const struct primary *p);
void primary_stats(struct primary *p, struct primary_stats *out); /* any thread */

#endif
