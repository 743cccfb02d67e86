/* SPDX-License-Identifier: Apache-2.0
 * pair_decide - what follows, in each state, from what is known now of VM, peer and arbiter.
 *
 * Events only note facts; everything that depends on more than one of them is decided here, by
 * level and not by edge, so that no order of events can leave the machine waiting for one that has
 * come already.
 */
#include "ctl/pair_machine.h"

#include "hv/base/log.h"

#include <stdio.h>

/* The longest that a guest that powered off may take to end its process. */
#define EXIT_NS 10000000000ull

int pm_peer_alive(const struct pair *p)
{
	return p->peer_up && pair_state_is_primary(p->peer.state) &&
	       p->peer.state != PAIR_YIELDING && p->peer.health != PAIR_VM_HUNG &&
	       p->peer.health != PAIR_VM_DEAD;
}

int pm_peer_owns(const struct pair *p, uint64_t term)
{
	return p->peer_up && pair_state_is_primary(p->peer.state) && p->peer.term &&
	       p->peer.term >= term;
}

int pm_handed_over(const struct pair *p, uint64_t term)
{
	return p->peer_up && p->peer.flags & PAIR_VIEW_HANDS_OVER &&
	       p->peer.term >= term && !p->rec.incomplete && !p->rec.behind;
}

int pm_is_armed(const struct pair *p)
{
	return p->engine == PAIR_ENG_ARMED || p->engine == PAIR_ENG_PROTECTED ||
	       p->engine == PAIR_ENG_UNLINKED;
}

static void start_vm(struct pair *p, enum pair_act_kind kind, struct pair_actions *out)
{
	struct pair_action *a = pm_emit(out, kind);

	a->u.vm.instance = ++p->instance;
	a->u.vm.term = p->term;
	a->u.vm.resume = kind == PAIR_DO_VM_BOOT && p->rec.saved;
	p->vm_up = 1;
	p->running = 0;
	p->engine = PAIR_ENG_NONE;
	p->health = PAIR_VM_NONE;
	p->epoch = UINT64_MAX;
	p->unlink_sent = p->link_given = p->all_here = 0;
	p->disk_bad = p->disk_told = 0;
	p->vm_started_at = p->now;
}

static void tell_vm(struct pair *p, enum pair_act_kind kind, struct pair_actions *out)
{
	struct pair_action *a = pm_emit(out, kind);

	a->u.vm.instance = p->instance;
	a->u.vm.term = p->term;
}

void pm_end_vm(struct pair *p, enum after_exit after, struct pair_actions *out,
	       const char *why)
{
	p->after_exit = after;
	if (p->state == PAIR_FENCED)
		return;
	p->was_activating = p->state == PAIR_ACTIVATING && p->grant_how == HOW_ACTIVATE;
	tell_vm(p, PAIR_DO_VM_FENCE, out);
	pm_set(p, PAIR_FENCED, out, "%s", why);
}

void pm_turn_off(struct pair *p, struct pair_actions *out, const char *why)
{
	p->stopped = 1;
	p->stopping = 0;
	p->rec.wanted = 0;
	p->want_store = 1;
	if (p->vm_up) {
		pm_end_vm(p, AFTER_OFF, out, why);
		return;
	}
	p->health = PAIR_VM_NONE;
	pm_set(p, PAIR_OFF, out, "%s", why);
}

static void note_followed(struct pair *p, uint64_t term)
{
	p->term = term;
	if (term > p->seen)
		p->seen = term;
	p->stopped = p->stopping = 0;
	p->rec = (struct pair_record){.term = term,
				      .epoch = p->epoch,
				      .wanted = 1,
				      .behind = p->rec.behind,
				      .incomplete = p->rec.incomplete};
	p->override_told = 1; /* an override of ours is overtaken */
	p->want_store = 1;
}

void pm_follow(struct pair *p, uint64_t term, struct pair_actions *out, const char *why)
{
	note_followed(p, term);
	if (p->vm_up)
		pm_end_vm(p, AFTER_STANDBY, out, why);
	else if (p->state != PAIR_STANDBY_EMPTY)
		pm_set(p, PAIR_STANDBY_EMPTY, out, "%s", why);
}

void pm_grant(struct pair *p, enum grant_how how, uint64_t term, int override,
	      struct pair_actions *out)
{
	p->term = term;
	if (term > p->seen)
		p->seen = term;
	p->stopped = 0;
	p->rec = (struct pair_record){.term = term,
				      .epoch = p->epoch,
				      .mine = 1,
				      .alone = 1,
				      .wanted = 1,
				      .override = override,
				      /* Nobody ran in the term that this one follows. */
				      .saved = how == HOW_BOOT && p->rec.saved &&
					       p->resume == PAIR_RESUME,
				      .behind = how == HOW_ACTIVATE && p->rec.behind,
				      .incomplete = p->rec.incomplete};
	p->want_store = 1;
	p->override_told = !override;
	p->grant_how = how;
	p->told = 0;
	pm_set(p, PAIR_ACTIVATING, out, "%s",
	       override ? "an operator's override" : "granted");
}

void pm_read(struct pair *p, struct pair_actions *out)
{
	struct pair_action *a = pm_emit(out, PAIR_DO_READ);

	p->arb_id = a->u.claim.id = ++p->next_id;
	p->arb_is_read = 1;
}

void pm_claim(struct pair *p, uint64_t from, int from_mine, uint64_t to, int force,
	      struct pair_actions *out)
{
	struct pair_action *a = pm_emit(out, PAIR_DO_CLAIM);

	p->arb_id = a->u.claim.id = ++p->next_id;
	p->arb_is_read = 0;
	a->u.claim.from = from;
	a->u.claim.from_mine = from_mine;
	a->u.claim.to = to;
	a->u.claim.force = force;
}

static int arbiter_free(const struct pair *p)
{
	return !p->arb_id && pm_due(p, p->arb_retry_at);
}

static void unlink_once(struct pair *p, struct pair_actions *out, const char *why)
{
	struct pair_action *a;

	if (p->unlink_sent)
		return;
	p->unlink_sent = 1;
	p->connecting = 0;
	a = pm_emit(out, PAIR_DO_UNLINK);
	(void)snprintf(a->u.unlink.why, sizeof(a->u.unlink.why), "%s",
		       why); /* truncation is fine */
}

static void in_off(struct pair *p, struct pair_actions *out)
{
	if (p->vm_up) {
		if (!p->state_until)
			p->state_until = p->state_since + EXIT_NS;
		else if (pm_due(p, p->state_until))
			tell_vm(p, PAIR_DO_VM_FENCE, out),
				p->state_until = p->now + EXIT_NS;
		return;
	}
	/* What is saved here is worth nothing once the peer's guest runs, and not before. */
	if (p->rec.saved && p->peer.state == PAIR_ACTIVATING)
		return;
	/* What the peer said before it heard of a stop in this term does not start it again. */
	if (pm_peer_owns(p, p->stopped ? p->term + 1 : p->term))
		pm_follow(p, p->peer.term, out, "the peer runs it");
}

static void in_starting(struct pair *p, struct pair_actions *out)
{
	if (pm_peer_owns(p, p->term))
		pm_follow(p, p->peer.term, out, "the peer runs it");
	else if (p->restarts > p->prm.max_restarts)
		pm_set(p, PAIR_FAILED, out,
		       "own VM ended %u times in a row; see its log, then start",
		       p->restarts);
	else if (arbiter_free(p) && pm_due(p, p->restart_at))
		pm_read(p, out);
}

static void in_yielding(struct pair *p, struct pair_actions *out)
{
	int eligible = p->peer_up && pair_state_is_eligible(p->peer.state) &&
		       p->peer.term == p->term;

	if (pm_peer_owns(p, p->term + 1)) {
		pm_follow(p, p->peer.term, out, "the peer took over");
		return;
	}
	if (eligible) {
		p->state_until = 0;
		return;
	}
	if (!p->state_until)
		p->state_until = p->now + (p->peer_up && p->term ? p->prm.grace_ns
								 : p->prm.yield_ns);
	if (!pm_due(p, p->state_until))
		return;
	p->yielded = 1;
	pm_set(p, PAIR_STARTING, out, "the peer %s",
	       p->peer_up ? "holds no commit" : "is silent");
}

static void in_activating(struct pair *p, struct pair_actions *out)
{
	static const enum pair_act_kind how_to[] = {
		[HOW_ALONE] = PAIR_DO_VM_ALONE, [HOW_ACTIVATE] = PAIR_DO_VM_ACTIVATE};

	/* The grant is on disk before our VM hears of it, so before the first frame leaves. */
	if (!pm_durable(p))
		return;
	if (!p->told && p->grant_how != HOW_BOOT) {
		p->told = 1;
		tell_vm(p, how_to[p->grant_how], out);
	} else if (!p->told && !p->vm_up) {
		p->told = 1;
		start_vm(p, PAIR_DO_VM_BOOT, out);
	}
	if (p->told && p->grant_how == HOW_ACTIVATE && p->engine == PAIR_ENG_EMPTY) {
		pm_note_behind(p, !p->all_here);
		pm_end_vm(p, AFTER_START, out, "the commit could not be loaded");
	} else if (p->told && (p->grant_how == HOW_ALONE ? p->engine == PAIR_ENG_ALONE
							 : p->running)) {
		/* A sync would overwrite disks that may be the later ones. All is durable in a moment; if it never
		 * is, a standby is wanted all the more. */
		if (p->rec.behind)
			p->connect_at = p->now + p->prm.yield_ns;
		pm_set(p, PAIR_RUNNING_ALONE, out, "the guest runs here, output passes");
	}
}

static void in_running_alone(struct pair *p, struct pair_actions *out)
{
	if (p->engine == PAIR_ENG_SYNCING || pm_is_armed(p)) {
		pm_set(p, PAIR_SYNCING, out, "a standby is being brought up");
		return;
	}
	/* Alone after a link: the engine says so only if no ARMED has left. */
	if (p->engine == PAIR_ENG_ALONE && p->kept != PAIR_KEPT_CONNECTED &&
	    !p->link_given)
		pm_note_alone(p, 1);
	pm_connect_standby(p, out);
}

static void in_syncing(struct pair *p, struct pair_actions *out)
{
	/* An engine that was believed to be alone has a link all the same. */
	if (p->rec.alone && p->engine != PAIR_ENG_ALONE) {
		pm_note_alone(p, 0);
		unlink_once(p, out, "the record on disk says that it is alone");
	}
	if (p->engine == PAIR_ENG_ALONE)
		pm_set(p, PAIR_RUNNING_ALONE, out,
		       "the standby was lost before its first commit");
	else if (p->engine == PAIR_ENG_PROTECTED)
		pm_set(p, PAIR_PROTECTED, out, "the standby has committed");
	else if (p->engine == PAIR_ENG_UNLINKED)
		pm_set(p, PAIR_UNLINKED, out, "the standby was lost, output waits");
	else if (!p->peer_up)
		unlink_once(p, out, "the peer is silent");
}

/* Has the peer's end of our link ended, by its own word? A link of several paths outlives the reset of all of them,
 * and would wait in vain for a process that is gone. Within a term a standby has only one link, so
 * neither state can be older than that. */
static const char *peer_let_go(const struct pair *p)
{
	if (p->peer.term != p->term)
		return NULL;
	if (p->peer.state == PAIR_STANDBY_SUSPECT)
		return "the standby's end of the link is over";
	if (p->peer.state == PAIR_STANDBY_EMPTY && p->peer_ready == p->term)
		return "the standby holds no commit any more";
	return NULL;
}

/* The disk here fails, and the guest's requests wait for somebody who can carry them out. */
static void leave_bad_disk(struct pair *p, struct pair_actions *out)
{
	if (p->please || p->disk_told || !p->peer_up ||
	    !pair_state_is_eligible(p->peer.state) || p->peer.term != p->term)
		return;
	if (p->disk_asked_at && p->now - p->disk_asked_at < p->prm.disk_again_ns) {
		p->disk_told = 1;
		pm_log(out, LOG_LVL_ERR,
		       "this host's disk fails, as it did before the other host's: the "
		       "guest is told");
		tell_vm(p, PAIR_DO_VM_DISK_ERRORS, out);
		return;
	}
	p->please = 1;
	p->disk_asked_at = p->now;
	pm_log(out, LOG_LVL_WARN,
	       "this host's disk fails: the standby is asked to take over");
}

static void in_protected(struct pair *p, struct pair_actions *out)
{
	if (p->disk_bad)
		leave_bad_disk(p, out);
	if (p->engine == PAIR_ENG_UNLINKED)
		pm_set(p, PAIR_UNLINKED, out, "the standby was lost, output waits");
	else if (!p->peer_up)
		unlink_once(p, out, "the peer is silent");
	else if (pair_state_is_standby(p->peer.state) && p->peer.health == PAIR_VM_HUNG)
		unlink_once(p, out, "the peer's VM hangs");
	else if (pair_state_is_standby(p->peer.state) && p->peer.health == PAIR_VM_DEAD)
		unlink_once(p, out, "the peer's VM ended");
	else if (peer_let_go(p))
		unlink_once(p, out, peer_let_go(p));
}

static void in_unlinked(struct pair *p, struct pair_actions *out)
{
	/* Its guest is saved and about to end: whoever takes over has a commit. */
	if (p->suspending >= PAIR_SAVED)
		return;
	if (arbiter_free(p))
		pm_claim(p, p->term, 1, p->term + 1, !p->override_told, out);
}

/* Nobody shows up as the primary: perhaps the term is ours without our knowing (a claim that
 * succeeded in an earlier life). */
static void recheck_owner(struct pair *p, struct pair_actions *out)
{
	if (pm_peer_owns(p, 0)) {
		p->state_until = 0;
	} else if (!p->state_until) {
		p->state_until = p->now + p->prm.yield_ns;
	} else if (pm_due(p, p->state_until) && arbiter_free(p)) {
		p->state_until = p->now + p->prm.yield_ns;
		pm_read(p, out);
	}
}

static void in_standby_empty(struct pair *p, struct pair_actions *out)
{
	if (p->engine == PAIR_ENG_SB_SYNCING || p->engine == PAIR_ENG_READY) {
		pm_set(p, PAIR_STANDBY_SYNCING, out, "the primary brings us up");
		return;
	}
	if (p->restarts > p->prm.max_restarts && !p->disk_failed) {
		pm_set(p, PAIR_FAILED, out,
		       "own VM ended %u times in a row; see its log, then start",
		       p->restarts);
		return;
	}
	if (p->health == PAIR_VM_HUNG) {
		pm_end_vm(p, AFTER_STANDBY, out, "own VM hangs");
		return;
	}
	if (pm_peer_owns(p, p->term + 1))
		note_followed(p, p->peer.term);
	if (pm_handed_over(p, p->term)) {
		if (p->vm_up)
			pm_end_vm(p, AFTER_START, out,
				  "the peer's disks are older than ours");
		else
			pm_set(p, PAIR_STARTING, out,
			       "the peer's disks are older than ours");
		return;
	}
	if (!p->vm_up && pm_due(p, p->restart_at))
		start_vm(p, PAIR_DO_VM_STANDBY, out);
	recheck_owner(p, out);
}

static void in_standby_syncing(struct pair *p, struct pair_actions *out)
{
	if (p->engine == PAIR_ENG_READY)
		pm_set(p, PAIR_STANDBY_READY, out,
		       "committed, and the primary's output waits for us");
	else if (p->engine == PAIR_ENG_EMPTY)
		pm_set(p, PAIR_STANDBY_EMPTY, out,
		       "the link was lost before the first commit");
	else if (p->health == PAIR_VM_HUNG)
		pm_end_vm(p, AFTER_STANDBY, out, "own VM hangs");
	else if (!p->peer_up)
		unlink_once(p, out, "the peer is silent");
}

/* READY and SUSPECT: is there a reason to claim? */
static const char *reason_to_claim(const struct pair *p)
{
	if (p->health == PAIR_VM_HUNG)
		return NULL; /* it could not be activated */
	if (!p->peer_up)
		return "the peer is silent";
	if (!pm_peer_alive(p))
		return "the peer's VM is dead or hangs";
	if (p->peer.flags & PAIR_VIEW_PLEASE && p->peer.term == p->term)
		return "the peer's operator asks us to take over";
	if (p->state == PAIR_STANDBY_SUSPECT && pm_due(p, p->state_until))
		return "the grace period is over";
	return NULL;
}

static void in_standby_ready(struct pair *p, struct pair_actions *out)
{
	const char *why = reason_to_claim(p);

	if (p->engine == PAIR_ENG_EMPTY) {
		pm_note_incomplete(p, 1); /* a commit was not applied to the end */
		pm_set(p, PAIR_STANDBY_EMPTY, out, "own VM holds no commit any more");
	} else if (why) {
		pm_set(p, PAIR_CLAIMING, out, "%s", why);
	} else if (p->engine == PAIR_ENG_LOST && p->state == PAIR_STANDBY_READY) {
		pm_set(p, PAIR_STANDBY_SUSPECT, out,
		       "the link was lost, the primary says it is well");
		p->state_until = p->now + p->prm.grace_ns;
	}
}

static void in_claiming(struct pair *p, struct pair_actions *out)
{
	if (p->engine == PAIR_ENG_EMPTY) {
		pm_note_incomplete(p, 1); /* a commit was not applied to the end */
		pm_set(p, PAIR_STANDBY_EMPTY, out, "own VM holds no commit any more");
	} else if (arbiter_free(p) && pm_durable(p)) {
		/* Durable: if rhead dies with the claim under way, and it succeeds, this image
		 * is all that is left, and must not be taken for an incomplete one. */
		pm_claim(p, p->term, 0, p->term + 1, 0, out);
	}
}

static void in_fenced(struct pair *p, struct pair_actions *out)
{
	if (p->after_exit != AFTER_OFF && pm_peer_owns(p, p->term + 1)) {
		note_followed(p, p->peer.term);
		p->after_exit = AFTER_STANDBY;
	}
	if (p->vm_up)
		return;
	switch ((enum after_exit)p->after_exit) {
	case AFTER_OFF:
		pm_set(p, PAIR_OFF, out, "own VM has ended");
		break;
	case AFTER_STANDBY:
		pm_set(p, PAIR_STANDBY_EMPTY, out, "own VM has ended");
		break;
	case AFTER_START:
		pm_set(p, PAIR_STARTING, out, "own VM has ended");
		break;
	case AFTER_OVERRIDE:
		pm_grant(p, HOW_BOOT, p->seen + PAIR_OVERRIDE_STEP, 1, out);
		break;
	}
}

/* An override is told to the arbiter as soon as that answers. */
static void tell_override(struct pair *p, struct pair_actions *out)
{
	if (!p->override_told && !p->prm.manual && p->rec.mine &&
	    p->state >= PAIR_ACTIVATING && p->state <= PAIR_PROTECTED && arbiter_free(p))
		pm_claim(p, 0, 0, p->term, 1, out);
}

/* The peer owns a later term, or (after two overrides) ours as well: whatever we hold is stale. */
static int overtaken(struct pair *p, struct pair_actions *out)
{
	enum pair_state s = p->state;

	if (s == PAIR_OFF || s == PAIR_FENCED || s == PAIR_FAILED ||
	    s == PAIR_STANDBY_EMPTY)
		return 0;
	if (pm_peer_owns(p, p->term + 1)) {
		pm_follow(p, p->peer.term, out, "the peer owns a later term");
		return 1;
	}
	if (s >= PAIR_ACTIVATING && s <= PAIR_HOLDING && pm_peer_owns(p, p->term) &&
	    !p->prm.preferred) {
		pm_log(out, LOG_LVL_ERR,
		       "both hosts hold term %llu by override: this one gives way",
		       (unsigned long long)p->term);
		pm_follow(p, p->peer.term, out, "the preferred host holds the same term");
		return 1;
	}
	return 0;
}

/* The guest is saved, on a standby as well, and that is on record here: only now may the standby forget
 * its commit. */
static void end_suspended(struct pair *p, struct pair_actions *out)
{
	if (p->suspending != PAIR_SAVED || !pm_durable(p) || !p->vm_up)
		return;
	p->suspending = PAIR_SUSPENDED;
	tell_vm(p, PAIR_DO_VM_SUSPENDED, out);
}

/* What our VM received is of an older term than the one that we know of by now (we were stopped,
 * or its word was slow): a commit of it must not be taken for one of the present term. */
static int outdated(struct pair *p, struct pair_actions *out)
{
	if (!pair_state_is_standby(p->state) || p->engine_term >= p->term ||
	    (p->engine != PAIR_ENG_SB_SYNCING && p->engine != PAIR_ENG_READY &&
	     p->engine != PAIR_ENG_LOST))
		return 0;
	pm_end_vm(p, AFTER_STANDBY, out, "what we received is of an older term");
	return 1;
}

/* The peer's guest was stopped on purpose in our term: there is nothing to take over. */
static int peer_stopped(struct pair *p, struct pair_actions *out)
{
	if (!pair_state_is_standby(p->state) || !p->peer_up ||
	    !(p->peer.flags & PAIR_VIEW_STOPPED) || p->peer.term < p->term ||
	    (p->hands_over && p->hands_over == p->term) ||
	    (p->state == PAIR_CLAIMING && p->arb_id))
		return 0;
	pm_turn_off(p, out, "stopped on the peer");
	return 1;
}

static void decide_state(struct pair *p, struct pair_actions *out)
{
	static void (*const in[])(struct pair *, struct pair_actions *) = {
		[PAIR_OFF] = in_off,
		[PAIR_STARTING] = in_starting,
		[PAIR_YIELDING] = in_yielding,
		[PAIR_ACTIVATING] = in_activating,
		[PAIR_RUNNING_ALONE] = in_running_alone,
		[PAIR_SYNCING] = in_syncing,
		[PAIR_PROTECTED] = in_protected,
		[PAIR_UNLINKED] = in_unlinked,
		[PAIR_HOLDING] = in_unlinked,
		[PAIR_STANDBY_EMPTY] = in_standby_empty,
		[PAIR_STANDBY_SYNCING] = in_standby_syncing,
		[PAIR_STANDBY_READY] = in_standby_ready,
		[PAIR_STANDBY_SUSPECT] = in_standby_ready,
		[PAIR_CLAIMING] = in_claiming,
		[PAIR_FENCED] = in_fenced,
		[PAIR_FAILED] = NULL,
	};
	_Static_assert(sizeof(in) / sizeof(in[0]) == PAIR_NSTATES,
		       "one function for each state");

	if (!overtaken(p, out) && !outdated(p, out) && !peer_stopped(p, out) &&
	    in[p->state])
		in[p->state](p, out);
}

static void store_record(struct pair *p, struct pair_actions *out)
{
	struct pair_action *a;

	if (!p->want_store || p->store_id || !pm_due(p, p->store_retry_at))
		return;
	a = pm_emit(out, PAIR_DO_STORE);
	p->want_store = 0;
	p->store_id = a->u.store.id = ++p->next_id;
	p->rec.epoch = p->epoch;
	a->u.store.record = p->rec;
}

void pm_decide(struct pair *p, struct pair_actions *out)
{
	enum pair_state before;
	int left = 6; /* no chain of states without a new fact is longer */

	do {
		before = p->state;
		decide_state(p, out);
	} while (p->state != before && --left);
	end_suspended(p, out);
	tell_override(p, out);
	pm_decide_kept(p, out);
	store_record(p, out);
}
