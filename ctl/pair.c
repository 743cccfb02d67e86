/* SPDX-License-Identifier: Apache-2.0
 * pair - the state machine of one VM on one host: names, the table, the step.
 */
#include "ctl/pair.h"

#include "ctl/pair_machine.h"
#include "hv/base/log.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char *const state_names[] = {
	[PAIR_OFF] = "off",
	[PAIR_STARTING] = "starting",
	[PAIR_YIELDING] = "yielding",
	[PAIR_ACTIVATING] = "activating",
	[PAIR_RUNNING_ALONE] = "running-alone",
	[PAIR_SYNCING] = "syncing",
	[PAIR_PROTECTED] = "protected",
	[PAIR_UNLINKED] = "unlinked",
	[PAIR_HOLDING] = "holding",
	[PAIR_STANDBY_EMPTY] = "standby-empty",
	[PAIR_STANDBY_SYNCING] = "standby-syncing",
	[PAIR_STANDBY_READY] = "standby-ready",
	[PAIR_STANDBY_SUSPECT] = "standby-suspect",
	[PAIR_CLAIMING] = "claiming",
	[PAIR_FENCED] = "fenced",
	[PAIR_FAILED] = "failed",
};
static_assert(COUNT(state_names) == PAIR_NSTATES, "one name for each state");

static const char *const health_names[] = {[PAIR_VM_NONE] = "none",
					   [PAIR_VM_OK] = "ok",
					   [PAIR_VM_HUNG] = "hung",
					   [PAIR_VM_DEAD] = "dead"};
static_assert(COUNT(health_names) == PAIR_NHEALTH, "one name for each health");

/* As rhea-vm says them; a role and a state. */
static const struct {
	const char *role, *state;
} engine_names[] = {
	[PAIR_ENG_NONE] = {"none", "none"},
	[PAIR_ENG_ALONE] = {"primary", "alone"},
	[PAIR_ENG_SYNCING] = {"primary", "syncing"},
	[PAIR_ENG_ARMED] = {"primary", "armed"},
	[PAIR_ENG_PROTECTED] = {"primary", "protected"},
	[PAIR_ENG_UNLINKED] = {"primary", "unlinked"},
	[PAIR_ENG_FENCED] = {"primary", "fenced"},
	[PAIR_ENG_EMPTY] = {"standby", "empty"},
	[PAIR_ENG_SB_SYNCING] = {"standby", "syncing"},
	[PAIR_ENG_READY] = {"standby", "ready"},
	[PAIR_ENG_LOST] = {"standby", "lost"},
	[PAIR_ENG_ACTIVE] = {"standby", "active"},
};
static_assert(COUNT(engine_names) == PAIR_NENGINE, "one name for each engine state");

static const char *const event_names[] = {
	[PAIR_EV_TICK] = "tick",
	[PAIR_EV_START] = "start",
	[PAIR_EV_STOP] = "stop",
	[PAIR_EV_KILL] = "kill",
	[PAIR_EV_SUSPEND] = "suspend",
	[PAIR_EV_FAILOVER] = "failover",
	[PAIR_EV_OVERRIDE] = "override",
	[PAIR_EV_REVERTED] = "reverted",
	[PAIR_EV_PEER] = "peer",
	[PAIR_EV_PEER_LOST] = "peer-lost",
	[PAIR_EV_VM_STATE] = "vm-state",
	[PAIR_EV_VM_RUNNING] = "vm-running",
	[PAIR_EV_VM_POWEROFF] = "vm-poweroff",
	[PAIR_EV_VM_CRASH] = "vm-crash",
	[PAIR_EV_VM_IMAGE] = "vm-image",
	[PAIR_EV_VM_SAVED] = "vm-saved",
	[PAIR_EV_VM_DISK] = "vm-disk",
	[PAIR_EV_VM_HUNG] = "vm-hung",
	[PAIR_EV_VM_ALIVE] = "vm-alive",
	[PAIR_EV_VM_EXITED] = "vm-exited",
	[PAIR_EV_ARBITER] = "arbiter",
	[PAIR_EV_STORED] = "stored",
	[PAIR_EV_CONNECTED] = "connected",
	[PAIR_EV_CONNECT_FAILED] = "connect-failed",
	[PAIR_EV_INCOMING] = "incoming",
};
static_assert(COUNT(event_names) == PAIR_NEV, "one name for each event");

static const char *const action_names[] = {
	[PAIR_DO_LOG] = "log",
	[PAIR_DO_READ] = "read",
	[PAIR_DO_CLAIM] = "claim",
	[PAIR_DO_STORE] = "store",
	[PAIR_DO_VM_BOOT] = "vm-boot",
	[PAIR_DO_VM_STANDBY] = "vm-standby",
	[PAIR_DO_VM_ALONE] = "vm-alone",
	[PAIR_DO_VM_ACTIVATE] = "vm-activate",
	[PAIR_DO_VM_FENCE] = "vm-fence",
	[PAIR_DO_VM_POWERDOWN] = "vm-powerdown",
	[PAIR_DO_VM_SUSPEND] = "vm-suspend",
	[PAIR_DO_VM_SUSPENDED] = "vm-suspended",
	[PAIR_DO_VM_DISK_ERRORS] = "vm-disk-errors",
	[PAIR_DO_UNLINK] = "unlink",
	[PAIR_DO_CONNECT] = "connect",
	[PAIR_DO_LINK_GIVE] = "link-give",
	[PAIR_DO_LINK_CLOSE] = "link-close",
};
static_assert(COUNT(action_names) == PAIR_NACT, "one name for each action");

#define TO(s) (1u << PAIR_##s)
static const unsigned may_go[] = {
	[PAIR_OFF] = TO(STARTING) | TO(STANDBY_EMPTY) | TO(ACTIVATING) | TO(FENCED),
	[PAIR_STARTING] = TO(OFF) | TO(YIELDING) | TO(ACTIVATING) | TO(STANDBY_EMPTY) |
			  TO(FENCED) | TO(FAILED),
	[PAIR_YIELDING] =
		TO(OFF) | TO(STARTING) | TO(ACTIVATING) | TO(STANDBY_EMPTY) | TO(FENCED),
	[PAIR_ACTIVATING] = TO(OFF) | TO(STARTING) | TO(RUNNING_ALONE) |
			    TO(STANDBY_EMPTY) | TO(FENCED) | TO(FAILED),
	[PAIR_RUNNING_ALONE] =
		TO(OFF) | TO(STARTING) | TO(SYNCING) | TO(FENCED) | TO(FAILED),
	[PAIR_SYNCING] = TO(OFF) | TO(STARTING) | TO(YIELDING) | TO(RUNNING_ALONE) |
			 TO(PROTECTED) | TO(UNLINKED) | TO(FENCED) | TO(FAILED),
	[PAIR_PROTECTED] = TO(OFF) | TO(YIELDING) | TO(UNLINKED) | TO(FENCED),
	[PAIR_UNLINKED] =
		TO(OFF) | TO(YIELDING) | TO(ACTIVATING) | TO(HOLDING) | TO(FENCED),
	[PAIR_HOLDING] = TO(OFF) | TO(YIELDING) | TO(ACTIVATING) | TO(FENCED),
	[PAIR_STANDBY_EMPTY] = TO(OFF) | TO(STARTING) | TO(ACTIVATING) |
			       TO(STANDBY_SYNCING) | TO(FENCED) | TO(FAILED),
	[PAIR_STANDBY_SYNCING] =
		TO(STANDBY_EMPTY) | TO(STANDBY_READY) | TO(FENCED) | TO(FAILED),
	[PAIR_STANDBY_READY] = TO(STANDBY_EMPTY) | TO(STANDBY_SUSPECT) | TO(CLAIMING) |
			       TO(ACTIVATING) | TO(FENCED) | TO(FAILED),
	[PAIR_STANDBY_SUSPECT] = TO(STANDBY_EMPTY) | TO(CLAIMING) | TO(ACTIVATING) |
				 TO(FENCED) | TO(FAILED),
	[PAIR_CLAIMING] = TO(STANDBY_EMPTY) | TO(ACTIVATING) | TO(FENCED) | TO(FAILED),
	[PAIR_FENCED] =
		TO(OFF) | TO(STARTING) | TO(ACTIVATING) | TO(STANDBY_EMPTY) | TO(FAILED),
	[PAIR_FAILED] = TO(OFF) | TO(STARTING) | TO(ACTIVATING) | TO(FENCED),
};
static_assert(COUNT(may_go) == PAIR_NSTATES, "one row for each state");
static_assert(PAIR_NSTATES <= 32, "a row is a bit mask");

const char *pair_state_name(enum pair_state s)
{
	return pair_state_check(s) < 0 ? "?" : state_names[s];
}

int pair_state_check(unsigned v)
{
	return v < PAIR_NSTATES ? (int)v : -1;
}

const char *pair_health_name(enum pair_health h)
{
	return (unsigned)h < PAIR_NHEALTH ? health_names[h] : "?";
}

const char *pair_event_name(enum pair_ev_kind k)
{
	return (unsigned)k < PAIR_NEV ? event_names[k] : "?";
}

const char *pair_action_name(enum pair_act_kind k)
{
	return (unsigned)k < PAIR_NACT ? action_names[k] : "?";
}

const char *pair_engine_name(enum pair_engine e)
{
	return (unsigned)e < PAIR_NENGINE ? engine_names[e].state : "?";
}

enum pair_engine pair_engine_of(const char *role, const char *state)
{
	for (unsigned i = 1; role && state && i < COUNT(engine_names); i++)
		if (!strcmp(engine_names[i].role, role) &&
		    !strcmp(engine_names[i].state, state))
			return (enum pair_engine)i;
	return PAIR_ENG_NONE;
}

int pair_state_is_primary(enum pair_state s)
{
	return s >= PAIR_YIELDING && s <= PAIR_HOLDING;
}

int pair_state_is_eligible(enum pair_state s)
{
	return s >= PAIR_STANDBY_READY && s <= PAIR_CLAIMING;
}

int pair_state_is_standby(enum pair_state s)
{
	return s >= PAIR_STANDBY_EMPTY && s <= PAIR_CLAIMING;
}

struct pair_action *pm_emit(struct pair_actions *out, enum pair_act_kind kind)
{
	struct pair_action *a;

	assert(out->n < PAIR_ACTIONS_MAX);
	a = &out->list[out->n++];
	memset(a, 0, sizeof(*a));
	a->kind = kind;
	return a;
}

void pm_log(struct pair_actions *out, int level, const char *fmt, ...)
{
	struct pair_action *a = pm_emit(out, PAIR_DO_LOG);
	va_list ap;

	a->u.log.level = level;
	va_start(ap, fmt);
	(void)vsnprintf(a->u.log.text, sizeof(a->u.log.text), fmt,
			ap); /* truncation is fine */
	va_end(ap);
}

void pm_set(struct pair *p, enum pair_state to, struct pair_actions *out, const char *fmt,
	    ...)
{
	char why[PAIR_LOG_MAX / 2];
	va_list ap;

	assert(may_go[p->state] & 1u << to);
	va_start(ap, fmt);
	(void)vsnprintf(why, sizeof(why), fmt, ap); /* truncation is fine */
	va_end(ap);
	pm_log(out, LOG_LVL_INFO, "%s -> %s (term %llu): %s", state_names[p->state],
	       state_names[to], (unsigned long long)p->term, why);
	p->state = to;
	p->state_since = p->now;
	p->state_until = 0;
	if (to != PAIR_PROTECTED)
		p->please = 0;
	if (to < PAIR_RUNNING_ALONE || to > PAIR_HOLDING)
		p->suspending = PAIR_NOT_SUSPENDING;
}

struct pair_params pair_params_default(unsigned interval_ms, unsigned missed)
{
	const uint64_t ms = 1000000u;
	uint64_t lost = (uint64_t)interval_ms * missed * ms;

	return (struct pair_params){
		.grace_ns = 3 * interval_ms * ms,
		.yield_ns = 5000 * ms > 4 * lost ? 5000 * ms : 4 * lost,
		.retry_ns = 500 * ms,
		.backoff_min_ns = 200 * ms,
		.backoff_max_ns = 5000 * ms,
		.stable_ns = 30000 * ms,
		.max_restarts = 5,
		.disk_backoff_ns = 60000 * ms,
		.disk_again_ns = 600000 * ms,
	};
}

void pair_init(struct pair *p, const struct pair_params *prm,
	       const struct pair_record *rec)
{
	memset(p, 0, sizeof(*p));
	p->prm = *prm;
	p->epoch = UINT64_MAX;
	p->override_told = 1;
	p->connect_backoff = p->restart_backoff = prm->backoff_min_ns;
	if (!rec)
		return;
	p->rec = *rec;
	p->term = p->seen = rec->term;
	p->stopped = rec->term && !rec->wanted;
	p->override_told = !(rec->override && rec->mine);
}

void pair_step(struct pair *p, uint64_t now_ns, const struct pair_event *ev,
	       struct pair_actions *out)
{
	out->n = 0;
	if (now_ns > p->now)
		p->now = now_ns;
	switch (ev->kind) {
	case PAIR_EV_PEER:
		p->peer_up = 1;
		p->peer = ev->u.peer;
		if (p->peer.term > p->seen)
			p->seen = p->peer.term;
		if (pair_state_is_eligible(p->peer.state))
			p->peer_ready = p->peer.term;
		break;
	case PAIR_EV_PEER_LOST:
		p->peer_up = 0;
		break;
	case PAIR_EV_ARBITER:
		pm_on_arbiter(p, ev, out);
		break;
	case PAIR_EV_REVERTED:
		pm_on_reverted(p, ev);
		break;
	case PAIR_EV_STORED:
		pm_on_stored(p, ev, out);
		break;
	case PAIR_EV_CONNECTED:
	case PAIR_EV_CONNECT_FAILED:
	case PAIR_EV_INCOMING:
		pm_on_link(p, ev);
		break;
	case PAIR_EV_TICK:
	case PAIR_NEV:
		break;
	default:
		if (ev->kind >= PAIR_EV_VM_STATE && ev->kind <= PAIR_EV_VM_EXITED)
			pm_on_vm(p, ev, out);
		else
			pm_on_operator(p, ev, out);
	}
	pm_decide(p, out);
}

static void earlier(const struct pair *p, uint64_t at, uint64_t *best)
{
	if (at > p->now && (!*best || at < *best))
		*best = at;
}

/* What is due already was considered in the last step and waits for something else. */
uint64_t pair_deadline(const struct pair *p)
{
	uint64_t best = 0;

	earlier(p, p->state_until, &best);
	earlier(p, p->arb_retry_at, &best);
	earlier(p, p->store_retry_at, &best);
	earlier(p, p->restart_at, &best);
	earlier(p, p->connect_at, &best);
	return best;
}

struct pair_view pair_view(const struct pair *p)
{
	struct pair_view v = {.state = p->state,
			      .health = p->health,
			      .term = p->term,
			      .epoch = p->epoch};

	if (p->stopped)
		v.flags |= PAIR_VIEW_STOPPED;
	if (p->please)
		v.flags |= PAIR_VIEW_PLEASE;
	if (p->no_arbiter)
		v.flags |= PAIR_VIEW_NO_ARBITER;
	if (p->hands_over && p->hands_over == p->term && p->state == PAIR_STANDBY_EMPTY)
		v.flags |= PAIR_VIEW_HANDS_OVER;
	return v;
}

void pair_set_epoch(struct pair *p, uint64_t epoch)
{
	p->epoch = epoch;
}

static int answer(char *why, unsigned room, int yes, const char *text)
{
	if (room) /* truncation is fine */
		(void)snprintf(why, room, "%s", text);
	return yes;
}

int pair_safe_to_lose_peer(const struct pair *p, char *why, unsigned room)
{
	switch (p->state) {
	case PAIR_OFF:
		return answer(why, room, 1, "the VM is off");
	case PAIR_RUNNING_ALONE:
	case PAIR_SYNCING:
		return answer(why, room, 1, "it runs here and nobody else may");
	case PAIR_PROTECTED:
	case PAIR_STANDBY_READY:
		if (p->no_arbiter)
			return answer(why, room, 0,
				      "the arbiter does not answer: output would wait");
		return answer(why, room, 1,
			      p->state == PAIR_PROTECTED
				      ? "it runs here; the arbiter would let it go on"
				      : "a commit is here; the arbiter would start it");
	case PAIR_STANDBY_EMPTY:
	case PAIR_STANDBY_SYNCING:
		return answer(why, room, 0, "this host has no commit yet");
	default:
		return answer(why, room, 0, "a change of authority is under way");
	}
}

int pair_safe_to_lose_self(const struct pair *p, char *why, unsigned room)
{
	if (p->state == PAIR_OFF)
		return answer(why, room, 1, "the VM is off");
	if (!p->peer_up)
		return answer(why, room, 0, "the peer is silent");
	if (p->peer.flags & PAIR_VIEW_NO_ARBITER)
		return answer(why, room, 0, "the peer cannot reach the arbiter");
	if (p->state == PAIR_PROTECTED && p->peer.state == PAIR_STANDBY_READY)
		return answer(why, room, 1, "the peer has a commit and may take over");
	if (pair_state_is_standby(p->state) && pm_peer_alive(p))
		return answer(why, room, 1, "it runs on the peer");
	return answer(why, room, 0, "the peer has no commit");
}
