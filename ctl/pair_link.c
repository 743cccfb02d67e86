/* SPDX-License-Identifier: Apache-2.0
 * pair_link - how a link between the hosts comes to be: who connects, and what is on disk before
 * an engine gets it.
 */
#include "ctl/pair_machine.h"

void pm_note_alone(struct pair *p, int alone)
{
	p->want_store |= p->rec.alone != alone;
	p->rec.alone = alone;
}

void pm_note_incomplete(struct pair *p, int incomplete)
{
	p->want_store |= p->rec.incomplete != incomplete;
	p->rec.incomplete = incomplete;
}

void pm_note_behind(struct pair *p, int behind)
{
	p->want_store |= p->rec.behind != behind;
	p->rec.behind = behind;
}

void pm_connect_standby(struct pair *p, struct pair_actions *out)
{
	struct pair_action *a;

	/* A standby that lives in another term has not heard of ours and would refuse. */
	if (p->engine != PAIR_ENG_ALONE || p->stopping || p->suspending ||
	    p->connecting || p->kept || p->link_given || !pm_due(p, p->connect_at) ||
	    !p->peer_up || p->peer.state != PAIR_STANDBY_EMPTY ||
	    p->peer.health != PAIR_VM_OK || p->peer.term != p->term)
		return;
	a = pm_emit(out, PAIR_DO_CONNECT);
	a->u.link.primary = 1;
	a->u.link.term = p->connect_term = p->term;
	p->connecting = 1;
}

/* The driver keeps one socket, the newest: whatever is decided is about that one. */
static void note_kept(struct pair *p, enum pair_kept kept, uint64_t term)
{
	p->kept = kept;
	p->kept_term = term;
}

static void on_connect_end(struct pair *p, int connected)
{
	p->connecting = 0;
	p->connect_at = p->now + p->connect_backoff;
	p->connect_backoff *= 2;
	if (p->connect_backoff > p->prm.backoff_max_ns)
		p->connect_backoff = p->prm.backoff_max_ns;
	if (connected)
		note_kept(p, PAIR_KEPT_CONNECTED, p->connect_term);
}

void pm_on_link(struct pair *p, const struct pair_event *ev)
{
	if (ev->kind == PAIR_EV_INCOMING)
		note_kept(p, PAIR_KEPT_INCOMING, ev->u.term);
	else
		on_connect_end(p, ev->kind == PAIR_EV_CONNECTED);
}

/* The preface of an incoming link proves nothing: its term only counts if an authenticated heartbeat
 * says the same. A primary whose heartbeat is not here yet comes again. */
static int kept_is_wanted(const struct pair *p)
{
	if (p->kept_term != p->term)
		return 0;
	if (p->kept == PAIR_KEPT_CONNECTED)
		return p->state == PAIR_RUNNING_ALONE && p->engine == PAIR_ENG_ALONE &&
		       !p->stopping && !p->suspending;
	return p->state == PAIR_STANDBY_EMPTY && p->vm_up &&
	       p->engine == PAIR_ENG_EMPTY && p->health == PAIR_VM_OK &&
	       pm_peer_owns(p, p->term);
}

static void end_kept(struct pair *p, enum pair_act_kind kind, struct pair_actions *out)
{
	struct pair_action *a = pm_emit(out, kind);

	a->u.link.primary = p->kept == PAIR_KEPT_CONNECTED;
	a->u.link.term = p->kept_term;
	p->kept = PAIR_KEPT_NONE;
}

/* The order that survives a killed rhead: what the link may lead to is on disk, then our rhea-vm
 * gets it. */
void pm_decide_kept(struct pair *p, struct pair_actions *out)
{
	int primary = p->kept == PAIR_KEPT_CONNECTED;

	if (!p->kept)
		return;
	if (!kept_is_wanted(p)) {
		end_kept(p, PAIR_DO_LINK_CLOSE, out);
		return;
	}
	if (primary)
		pm_note_alone(p, 0);
	else {
		pm_note_incomplete(p, 1);
		pm_note_behind(p, 1);
		p->all_here = 0;
	}
	if (!pm_durable(p))
		return;
	end_kept(p, PAIR_DO_LINK_GIVE, out);
	p->link_given = primary;
}
