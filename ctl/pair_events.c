/* SPDX-License-Identifier: Apache-2.0
 * pair_events - what people, our rhea-vm and the disk tell the pair state machine.
 */
#include "ctl/pair_machine.h"

#include "hv/base/log.h"

#include <stdio.h>

static const char *refuse_start(const struct pair *p, enum pair_resume resume)
{
	if (p->rec.saved && resume == PAIR_BOOT)
		return "its guest is suspended: resume it, or start it with --discard";
	if (!p->rec.saved && resume == PAIR_RESUME)
		return "no suspended guest is on this host";
	switch (p->state) {
	case PAIR_OFF:
	case PAIR_FAILED:
	case PAIR_STARTING:
	case PAIR_YIELDING:
		return NULL;
	default:
		return pair_state_is_standby(p->state)
			       ? "it belongs to the other host, this is its standby"
			       : "it is on already";
	}
}

static const char *refuse_stop(const struct pair *p, int kill)
{
	if (p->state == PAIR_OFF ||
	    (p->state == PAIR_FENCED && p->after_exit == AFTER_OFF))
		return "it is off already";
	if (pair_state_is_standby(p->state) && p->peer_up &&
	    pair_state_is_primary(p->peer.state))
		return "it runs on the other host; stop it there";
	if (pair_state_is_eligible(p->state))
		return "the other host may still run it; decide that first (failover)";
	if (!kill && p->suspending)
		return "it is being suspended";
	if (!kill && p->state == PAIR_FENCED)
		return "its process is being ended; try again";
	return NULL;
}

static const char *refuse_suspend(const struct pair *p)
{
	if (pair_state_is_standby(p->state))
		return "it runs on the other host; suspend it there";
	if (!p->running || (p->state != PAIR_RUNNING_ALONE && p->state != PAIR_SYNCING &&
			    p->state != PAIR_PROTECTED))
		return "it does not run here, or a change of authority is under way";
	return p->suspending || p->stopping ? "it is being suspended or stopped already"
					    : NULL;
}

static const char *refuse_failover(const struct pair *p)
{
	if (p->state == PAIR_STANDBY_READY || p->state == PAIR_STANDBY_SUSPECT)
		return NULL;
	if (p->state == PAIR_PROTECTED)
		return p->peer_up && pair_state_is_eligible(p->peer.state)
			       ? NULL
			       : "the standby is not ready";
	if (p->state == PAIR_CLAIMING)
		return "the arbiter is being asked already; with --override you vouch that the peer "
		       "is dead";
	return "there is no standby with a commit to fail over to";
}

static const char *refuse_override(const struct pair *p, int cold)
{
	if (p->state == PAIR_UNLINKED || p->state == PAIR_HOLDING ||
	    pair_state_is_eligible(p->state))
		return NULL;
	switch (p->state) {
	case PAIR_OFF:
	case PAIR_STARTING:
	case PAIR_YIELDING:
	case PAIR_STANDBY_EMPTY:
	case PAIR_FAILED:
		if (cold && p->rec.incomplete)
			return "a sync was cut short and left this host's disks half written; "
			       "only the other host has a whole image";
		return cold ? NULL
			    : "this host holds no commit; with --cold it boots from its disks";
	case PAIR_STANDBY_SYNCING:
		return "the first sync is under way; this host's disks are half written";
	default:
		return "it runs here already";
	}
}

int pair_accepts(const struct pair *p, const struct pair_event *ev, char *why,
		 unsigned room)
{
	const char *no = NULL;

	switch (ev->kind) {
	case PAIR_EV_START:
		no = refuse_start(p, ev->u.start.resume);
		break;
	case PAIR_EV_STOP:
	case PAIR_EV_KILL:
		no = refuse_stop(p, ev->kind == PAIR_EV_KILL);
		break;
	case PAIR_EV_SUSPEND:
		no = refuse_suspend(p);
		break;
	case PAIR_EV_FAILOVER:
		no = refuse_failover(p);
		break;
	case PAIR_EV_OVERRIDE:
		no = refuse_override(p, ev->u.override.cold);
		break;
	default:
		break;
	}
	if (room) /* truncation is fine */
		(void)snprintf(why, room, "%s", no ? no : "");
	return !no;
}

static void on_start(struct pair *p, int automatic, enum pair_resume resume,
		     struct pair_actions *out)
{
	if (p->state == PAIR_OFF || p->state == PAIR_FAILED)
		p->resume = resume;
	p->automatic = automatic && (p->state == PAIR_OFF || p->automatic);
	p->stopped = p->stopping = 0;
	if (p->state != PAIR_OFF && p->state != PAIR_FAILED)
		return;
	if (p->vm_up) { /* the last guest's process, on its way out */
		struct pair_action *a = pm_emit(out, PAIR_DO_VM_FENCE);

		a->u.vm.instance = p->instance;
		a->u.vm.term = p->term;
	}
	p->restarts = 0;
	p->restart_at = p->arb_retry_at = 0;
	p->restart_backoff = p->prm.backoff_min_ns;
	p->yielded = 0;
	p->rec.wanted = 1;
	p->want_store = 1;
	pm_set(p, PAIR_STARTING, out,
	       automatic ? "automatic start" : "an operator's start");
}

static void on_stop(struct pair *p, int kill, struct pair_actions *out)
{
	struct pair_action *a;

	if (kill || !p->vm_up || !p->running || p->state < PAIR_ACTIVATING ||
	    p->state > PAIR_HOLDING) {
		pm_turn_off(p, out, "an operator's stop");
		return;
	}
	p->stopping = 1;
	a = pm_emit(out, PAIR_DO_VM_POWERDOWN);
	a->u.vm.instance = p->instance;
	a->u.vm.term = p->term;
}

static void on_suspend(struct pair *p, struct pair_actions *out)
{
	struct pair_action *a = pm_emit(out, PAIR_DO_VM_SUSPEND);

	p->suspending = PAIR_SAVING;
	a->u.vm.instance = p->instance;
	a->u.vm.term = p->term;
}

static void on_failover(struct pair *p, struct pair_actions *out)
{
	if (p->state == PAIR_PROTECTED)
		p->please = 1;
	else
		pm_set(p, PAIR_CLAIMING, out, "an operator's failover");
}

static void on_override(struct pair *p, struct pair_actions *out)
{
	enum grant_how how = HOW_BOOT;

	p->resume = PAIR_DISCARD;
	if (p->state == PAIR_UNLINKED || p->state == PAIR_HOLDING)
		how = HOW_ALONE;
	else if (pair_state_is_eligible(p->state))
		how = HOW_ACTIVATE;
	pm_log(out, LOG_LVL_WARN,
	       "OVERRIDE: an operator vouches that the peer does not run it; term %llu without the "
	       "arbiter%s",
	       (unsigned long long)p->seen + PAIR_OVERRIDE_STEP,
	       how == HOW_BOOT ? ", cold from this host's disks" : "");
	if (how == HOW_BOOT && p->vm_up)
		pm_end_vm(p, AFTER_OVERRIDE, out, "an operator's override");
	else
		pm_grant(p, how, p->seen + PAIR_OVERRIDE_STEP, 1, out);
}

void pm_on_operator(struct pair *p, const struct pair_event *ev, struct pair_actions *out)
{
	char why[PAIR_LOG_MAX / 2];

	if (!pair_accepts(p, ev, why, sizeof(why))) {
		pm_log(out, LOG_LVL_WARN, "%s refused in state %s: %s",
		       pair_event_name(ev->kind), pair_state_name(p->state), why);
		return;
	}
	if (ev->kind == PAIR_EV_START)
		on_start(p, ev->u.start.automatic, ev->u.start.resume, out);
	else if (ev->kind == PAIR_EV_SUSPEND)
		on_suspend(p, out);
	else if (ev->kind == PAIR_EV_STOP || ev->kind == PAIR_EV_KILL)
		on_stop(p, ev->kind == PAIR_EV_KILL, out);
	else if (ev->kind == PAIR_EV_FAILOVER)
		on_failover(p, out);
	else
		on_override(p, out);
}

/* The first end after a good life is followed at once, later ones after a growing pause. */
static void count_restart(struct pair *p)
{
	uint64_t most;

	if (p->now - p->vm_started_at >= p->prm.stable_ns) {
		p->restarts = p->disk_failed = 0;
		p->restart_backoff = p->prm.backoff_min_ns;
	}
	p->disk_failed |= p->disk_bad && pair_state_is_standby(p->state);
	most = p->disk_failed ? p->prm.disk_backoff_ns : p->prm.backoff_max_ns;
	p->restart_at = p->now;
	if (p->restarts++) {
		p->restart_at += p->restart_backoff;
		p->restart_backoff *= 2;
		if (p->restart_backoff > most)
			p->restart_backoff = most;
	}
}

/* Our VM ended when its guest was saved. As long as the standby may hold a commit and our record may not
 * be on disk, that one goes on. */
static int ended_saved(struct pair *p, int armed)
{
	if (p->suspending == PAIR_SAVED && armed) {
		p->rec.saved = 0;
		p->rec.wanted = 1;
		p->want_store = 1;
		return 0;
	}
	return p->suspending >= PAIR_SAVED ||
	       (p->state == PAIR_ACTIVATING && p->rec.saved);
}

static void on_vm_exited(struct pair *p, struct pair_actions *out)
{
	int armed = p->state >= PAIR_PROTECTED ||
		    (p->state == PAIR_SYNCING && pm_is_armed(p));

	/* Granted, and it did not come to run: what was acked and not durable is lost with it. */
	if (((p->state == PAIR_ACTIVATING && p->grant_how == HOW_ACTIVATE) ||
	     (p->state == PAIR_FENCED && p->was_activating && p->rec.mine)) &&
	    !p->running)
		pm_note_behind(p, !p->all_here);
	p->vm_up = p->running = p->stopping = 0;
	p->engine = PAIR_ENG_NONE;
	p->unlink_sent = 0;
	p->link_given = 0;
	p->health = PAIR_VM_NONE;
	if (p->state < PAIR_ACTIVATING || p->state >= PAIR_FENCED)
		return;
	if (p->state == PAIR_ACTIVATING && p->grant_how == HOW_BOOT && !p->told)
		return; /* the one before it */
	if (ended_saved(p, armed)) {
		pm_turn_off(
			p, out,
			p->state == PAIR_ACTIVATING
				? "it could not be resumed, see its log; it stays suspended"
				: "the guest is saved");
		return;
	}
	p->health = PAIR_VM_DEAD;
	count_restart(p);
	if (pair_state_is_standby(p->state)) {
		if (p->state != PAIR_STANDBY_EMPTY)
			pm_set(p, PAIR_STANDBY_EMPTY, out, "own VM ended");
	} else if (armed) {
		pm_set(p, PAIR_YIELDING, out, "own VM ended, the peer may hold a commit");
	} else {
		p->yielded = 1;
		pm_set(p, PAIR_STARTING, out, "own VM ended");
	}
}

static void on_bye(struct pair *p, int saved, struct pair_actions *out)
{
	p->rec.bye = 1;
	p->rec.saved = saved;
	p->rec.behind = 0;
	if (p->state == PAIR_FENCED)
		p->want_store = 1;
	else
		pm_turn_off(p, out,
			    saved ? "the guest is saved"
				  : "the guest ended in good order");
}

/* The peer's heartbeat may have told before our VM that there is nothing to take over. */
static int is_told_off(const struct pair *p)
{
	return p->state == PAIR_FENCED && p->after_exit == AFTER_OFF && !p->rec.mine &&
	       p->engine_term == p->term;
}

static void on_vm_state(struct pair *p, const struct pair_event *ev,
			struct pair_actions *out)
{
	p->engine = ev->u.vm_state.engine;
	p->engine_term = ev->u.vm_state.term;
	p->unlink_sent = 0;
	p->link_given = 0;
	if (p->health == PAIR_VM_NONE)
		p->health = PAIR_VM_OK;
	/* With a disk that fails, a first commit is no good life yet: each end costs the primary a term. */
	if ((p->engine == PAIR_ENG_PROTECTED || p->engine == PAIR_ENG_READY) &&
	    !p->disk_failed) {
		p->restarts = 0;
		p->restart_backoff = p->connect_backoff = p->prm.backoff_min_ns;
	}
	if (ev->u.vm_state.bye && (pair_state_is_standby(p->state) || is_told_off(p))) {
		on_bye(p, ev->u.vm_state.saved, out);
	} else if (p->engine == PAIR_ENG_FENCED && p->state >= PAIR_ACTIVATING &&
		   p->state <= PAIR_HOLDING) {
		if (ev->u.vm_state.term > p->term)
			pm_follow(p, ev->u.vm_state.term, out,
				  "the peer showed a later term");
		else
			pm_end_vm(p, AFTER_START, out, "own VM was fenced");
	}
}

/* Only the store of this makes it so; end_suspended() waits for that. A VM that lost its standby meanwhile
 * stands until it is granted, and then goes on. */
static void on_saved(struct pair *p, int ok, struct pair_actions *out)
{
	if (p->suspending != PAIR_SAVING)
		return;
	ok = ok && p->state >= PAIR_RUNNING_ALONE && p->state <= PAIR_PROTECTED;
	p->suspending = ok ? PAIR_SAVED : PAIR_NOT_SUSPENDING;
	if (!ok) {
		pm_log(out, LOG_LVL_WARN, "it could not be suspended");
		return;
	}
	p->rec.saved = 1;
	p->rec.wanted = 0;
	p->want_store = 1;
}

static void on_running(struct pair *p)
{
	p->running = 1;
	if (p->health == PAIR_VM_NONE)
		p->health = PAIR_VM_OK;
	/* The file itself has said so since before the guest ran. */
	p->want_store |= p->rec.saved;
	p->rec.saved = 0;
}

static void on_poweroff(struct pair *p, struct pair_actions *out)
{
	if (p->state < PAIR_ACTIVATING || p->state > PAIR_HOLDING)
		return;
	p->stopped = 1;
	p->stopping = p->running = 0;
	p->rec.wanted = 0;
	p->want_store = 1;
	p->health = PAIR_VM_NONE;
	pm_set(p, PAIR_OFF, out,
	       p->rec.saved ? "the guest is saved" : "the guest powered off");
}

void pm_on_vm(struct pair *p, const struct pair_event *ev, struct pair_actions *out)
{
	if (!p->vm_up || ev->instance != p->instance)
		return;
	switch (ev->kind) {
	case PAIR_EV_VM_STATE:
		on_vm_state(p, ev, out);
		break;
	case PAIR_EV_VM_RUNNING:
		on_running(p);
		break;
	case PAIR_EV_VM_SAVED:
		on_saved(p, ev->u.saved.ok, out);
		break;
	case PAIR_EV_VM_POWEROFF:
		on_poweroff(p, out);
		break;
	case PAIR_EV_VM_CRASH:
		pm_log(out, LOG_LVL_ERR, "the guest crashed");
		p->health = PAIR_VM_DEAD;
		break;
	case PAIR_EV_VM_IMAGE:
		pm_note_incomplete(p, !ev->u.image.whole);
		p->all_here |= ev->u.image.all;
		if (ev->u.image.all && p->rec.behind) {
			pm_note_behind(p, 0);
			p->connect_at = p->now;
		}
		break;
	case PAIR_EV_VM_DISK:
		/* One that is well again is no reason to move any more; if the peer has begun, it may. */
		if (!ev->u.disk.bad && p->disk_bad)
			p->please = p->disk_told = 0;
		p->disk_bad = ev->u.disk.bad;
		break;
	case PAIR_EV_VM_HUNG:
		pm_log(out, LOG_LVL_WARN, "own VM does not answer");
		p->health = PAIR_VM_HUNG;
		break;
	case PAIR_EV_VM_ALIVE:
		if (p->health == PAIR_VM_HUNG)
			p->health = PAIR_VM_OK;
		break;
	case PAIR_EV_VM_EXITED:
		on_vm_exited(p, out);
		break;
	default:
		break;
	}
}

void pm_on_reverted(struct pair *p, const struct pair_event *ev)
{
	if ((p->state != PAIR_OFF && p->state != PAIR_FAILED) || p->vm_up || !p->rec.mine)
		return;
	p->want_store |= p->rec.saved != ev->u.saved.ok;
	p->rec.saved = ev->u.saved.ok;
}

void pm_on_stored(struct pair *p, const struct pair_event *ev, struct pair_actions *out)
{
	if (ev->u.stored.id != p->store_id)
		return;
	p->store_id = 0;
	if (ev->u.stored.ok)
		return;
	p->want_store = 1;
	p->store_retry_at = p->now + p->prm.retry_ns;
	pm_log(out, LOG_LVL_ERR, "the record could not be written; trying again");
}
