/* SPDX-License-Identifier: Apache-2.0
 * pair_arbiter - what the arbiter's answers mean to the pair state machine.
 */
#include "ctl/pair_machine.h"

#include "hv/base/log.h"

static void retry_later(struct pair *p)
{
	p->arb_retry_at = p->now + p->prm.retry_ns;
}

static int peer_may_hold_commit(const struct pair *p, uint64_t term)
{
	if (p->peer_up)
		return pair_state_is_eligible(p->peer.state) && p->peer.term == term;
	return !(p->rec.mine && p->rec.term == term && p->rec.alone);
}

/* STARTING, and the term is ours: claim the next one, unless a peer with a commit goes first. */
static void start_ours(struct pair *p, uint64_t term, int force, struct pair_actions *out)
{
	p->term = term;
	if (!p->yielded && peer_may_hold_commit(p, term))
		pm_set(p, PAIR_YIELDING, out, "the peer may hold a commit of term %llu",
		       (unsigned long long)term);
	else
		pm_claim(p, term, 1, term + 1, force, out);
}

static void start_with_value(struct pair *p, uint64_t term, int mine,
			     struct pair_actions *out)
{
	int peer_newer = !p->rec.mine && p->rec.term > term;

	if (p->rec.override && p->rec.mine && p->rec.term > term) {
		start_ours(p, p->rec.term, 1, out);
	} else if (mine && peer_newer) {
		pm_follow(p, p->rec.term, out,
			  "the peer's override is later than what the arbiter knows");
	} else if (p->rec.incomplete && (mine || !term)) {
		pm_follow(
			p, peer_newer ? p->rec.term : term, out,
			"a sync was cut short and left this host's disks half written: only "
			"the other host can start it");
		p->hands_over = mine && p->rec.behind ? term : 0;
	} else if (p->rec.behind && mine) {
		pm_follow(
			p, term, out,
			"this host's disks are those of a standby, at the last epoch that was "
			"durable: the other host's are later and start it");
		p->hands_over = term;
	} else if (!term) {
		p->term = 0;
		if (p->automatic && !p->prm.preferred && !p->yielded)
			pm_set(p, PAIR_YIELDING, out,
			       "first start: the preferred host goes first");
		else
			pm_claim(p, 0, 0, 1, 0, out);
	} else if (mine) {
		start_ours(p, term, 0, out);
	} else if (p->rec.bye && !p->rec.mine && p->rec.term == term && !p->automatic &&
		   !p->rec.incomplete) {
		/* Stopped in good order there, and all of it is here. */
		pm_claim(p, term, 0, term + 1, 0, out);
	} else if (pm_handed_over(p, term) && p->peer.term == term) {
		pm_claim(p, term, 0, term + 1, 0, out);
	} else if (p->rec.saved && p->resume == PAIR_RESUME && !pm_peer_owns(p, term)) {
		/* It may have been resumed there, and run: what is saved here is kept until that is known. */
		pm_turn_off(p, out, "the term is the other host's: resume it there");
	} else {
		pm_follow(p, term, out, "the term is the peer's");
	}
}

static void on_value(struct pair *p, uint64_t term, int mine, struct pair_actions *out)
{
	if (p->state == PAIR_STARTING) {
		start_with_value(p, term, mine, out);
	} else if (p->state == PAIR_STANDBY_EMPTY && mine && term >= p->term &&
		   !pm_peer_owns(p, term) && (p->rec.incomplete || p->rec.behind)) {
		if (term > p->term)
			pm_follow(p, term, out, "the term is ours, our disks are not");
		p->hands_over = p->rec.behind ? term : 0;
	} else if (p->state == PAIR_STANDBY_EMPTY && mine && term >= p->term &&
		   !pm_peer_owns(p, term)) {
		p->yielded = 1;
		if (p->vm_up)
			pm_end_vm(p, AFTER_START, out,
				  "the term is ours, and nobody runs it");
		else
			pm_set(p, PAIR_STARTING, out,
			       "the term is ours, and nobody runs it");
	}
}

/* Granted, and meanwhile our VM or the wish for it is gone: the term is ours all the same. */
static void granted_too_late(struct pair *p, uint64_t term, struct pair_actions *out)
{
	if (term <= p->term)
		return;
	p->term = term;
	p->rec = (struct pair_record){.term = term,
				      .mine = 1,
				      .alone = 1,
				      .wanted = !p->stopped,
				      .saved = p->rec.saved,
				      .behind = p->rec.behind,
				      .incomplete = p->rec.incomplete};
	p->want_store = 1;
	p->yielded = 1;
	if (p->state == PAIR_STANDBY_EMPTY && p->vm_up)
		pm_end_vm(p, AFTER_START, out, "granted after our commit was lost");
	else if (p->state == PAIR_STANDBY_EMPTY || p->state == PAIR_YIELDING)
		pm_set(p, PAIR_STARTING, out, "granted after our VM was lost");
	else if (p->state == PAIR_FENCED && p->after_exit == AFTER_STANDBY)
		p->after_exit = AFTER_START;
}

static void on_granted(struct pair *p, uint64_t term, struct pair_actions *out)
{
	if (term == p->term && p->rec.mine) { /* the arbiter was told our override */
		p->override_told = 1;
		return;
	}
	switch (p->state) {
	case PAIR_STARTING:
		pm_grant(p, HOW_BOOT, term, 0, out);
		break;
	case PAIR_UNLINKED:
	case PAIR_HOLDING:
		pm_grant(p, HOW_ALONE, term, 0, out);
		break;
	case PAIR_CLAIMING:
		pm_grant(p, HOW_ACTIVATE, term, 0, out);
		break;
	default:
		granted_too_late(p, term, out);
	}
}

static void refused_ours(struct pair *p, uint64_t term, struct pair_actions *out)
{
	if (p->state == PAIR_CLAIMING) {
		pm_end_vm(p, AFTER_START, out,
			  "the term was ours already, our commit is older");
		return;
	}
	/* An earlier life of ours took a step. Nobody else can have been granted since the term
	 * that we live in, so the next claim starts from there. */
	if (p->state == PAIR_UNLINKED || p->state == PAIR_HOLDING)
		p->term = term;
	else
		retry_later(p); /* STARTING reads again */
}

static void on_refused(struct pair *p, uint64_t term, int mine, struct pair_actions *out)
{
	int claiming = p->state == PAIR_UNLINKED || p->state == PAIR_HOLDING ||
		       p->state == PAIR_CLAIMING;

	if (term > p->term && mine && (claiming || p->state == PAIR_STARTING)) {
		refused_ours(p, term, out);
	} else if (term > p->term && !mine && p->state != PAIR_OFF &&
		   p->state != PAIR_FENCED && p->state != PAIR_FAILED) {
		pm_follow(p, term, out, "refused: the next term is the peer's");
	} else if (claiming) {
		retry_later(p);
		pm_log(out, LOG_LVL_ERR,
		       "the arbiter knows term %llu, older than ours (%llu): its data was "
		       "lost or put back; only an override helps",
		       (unsigned long long)term, (unsigned long long)p->term);
	} else if (p->state == PAIR_STARTING) {
		retry_later(p);
	}
	/* Else the answer came too late to mean anything, and must not delay the next claim. */
}

static void on_unreachable(struct pair *p, struct pair_actions *out)
{
	if (!p->no_arbiter)
		pm_log(out, LOG_LVL_WARN, "the arbiter does not answer");
	p->no_arbiter = 1;
	retry_later(p);
	if (p->state == PAIR_UNLINKED)
		pm_set(p, PAIR_HOLDING, out, "no arbiter: output waits");
	/* A standby stays with its claim, even when the primary turns out to be well: the claim may
	 * have succeeded, and then nobody but us can go on once the primary needs a new term. */
}

void pm_on_arbiter(struct pair *p, const struct pair_event *ev, struct pair_actions *out)
{
	uint64_t term = ev->u.arbiter.term;

	if (ev->u.arbiter.id != p->arb_id)
		return;
	p->arb_id = 0;
	if (ev->u.arbiter.result == PAIR_ARB_UNREACHABLE) {
		on_unreachable(p, out);
		return;
	}
	if (p->no_arbiter)
		pm_log(out, LOG_LVL_INFO, "the arbiter answers again");
	p->no_arbiter = 0;
	p->arb_retry_at = 0;
	if (term > p->seen)
		p->seen = term;
	if (ev->u.arbiter.result == PAIR_ARB_VALUE)
		on_value(p, term, ev->u.arbiter.mine, out);
	else if (ev->u.arbiter.result == PAIR_ARB_GRANTED)
		on_granted(p, term, out);
	else
		on_refused(p, term, ev->u.arbiter.mine, out);
}
