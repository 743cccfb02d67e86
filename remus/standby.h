/* SPDX-License-Identifier: Apache-2.0
 * standby - the epoch engine on the host that can carry on.
 *
 * States:
 *   EMPTY     nothing received, or the link was lost before the first commit: never runs
 *   SYNCING   a link is attached, pre-copy comes in
 *   READY     checkpoint 0 was acked and the primary has said ARMED: eligible to be granted
 *   LOST      the link was lost when READY: still eligible
 *   ACTIVE    granted: the last acked checkpoint is applied; this host's guest may run. An
 *             older term is never acked again: its messages are answered with FENCED.
 */
#ifndef REMUS_STANDBY_H
#define REMUS_STANDBY_H

#include <stdint.h>

#include "hv/base/hist.h"
#include "remus/participant.h"

struct err;
struct standby;
struct tp;

enum standby_state { SB_EMPTY, SB_SYNCING, SB_READY, SB_LOST, SB_ACTIVE };
const char *standby_state_name(enum standby_state s);

struct standby_config {
	const char *vm;
	/* At each change of state, on the standby's threads; must not call the engine. @bye: the
	 * primary ended the guest in good order, there is nothing to take over; STANDBY_BYE_SAVED: it is
	 * saved, here too. */
	void (*on_state)(void *arg, enum standby_state s, uint64_t term, int bye,
			 const char *why);
	/* Receive thread; NULL: this host cannot. @epoch is applied, and nothing comes until the answer
	 * or until the primary gave it up: begin to save the guest as it is now, and answer by
	 * standby_saved(). Must not call the engine. 0, or -errno: that is the answer. */
	int (*on_save)(void *arg, uint64_t epoch);
	void *arg;
};
enum { STANDBY_BYE_SAVED = 2 };

struct standby_stats {
	enum standby_state state;
	uint64_t term, acked, applied; /* UINT64_MAX: none */
	uint64_t bytes_received;
	struct hist verify, apply; /* ns */
};

int standby_create(const struct standby_config *cfg, const struct standby_part *parts,
		   unsigned n, struct standby **s_out, struct err *err);
void standby_destroy(struct standby *s);
/* Listen to the primary of @term on @tp (takes it). From EMPTY only: a returning link means a
 * new sync. -EBUSY else, and @tp is closed. */
int standby_attach(struct standby *s, struct tp *tp, uint64_t term, struct err *err);
/* Drop the link; what was acked is applied to the end. */
void standby_detach(struct standby *s, const char *why);
/* A grant for @term was won. Ends the link (telling the old primary FENCED if it still listens),
 * finishes applying the last acked checkpoint, discards the rest. 0: ACTIVE, the machine may
 * be loaded and run. -EPERM when not READY or LOST: a standby without a commit never runs. */
int standby_activate(struct standby *s, uint64_t term, struct err *err);
/* What became of the save of @epoch: 0: it is on stable storage. Any thread but the engine's own. */
void standby_saved(struct standby *s, uint64_t epoch, int rc);
void standby_stats(struct standby *s, struct standby_stats *out);

#endif
