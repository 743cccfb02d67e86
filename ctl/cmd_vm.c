/* SPDX-License-Identifier: Apache-2.0
 * cmd_vm - commands that change a VM and wait until it is so: start, stop, suspend, resume, failover.
 *
 * Each tells the pair machine what the operator wants, then watches: a progress line at each
 * change of state, until the wish is fulfilled, has become impossible, or the time is over.
 * The wish itself is not taken back when the client leaves.
 */
#include "ctl/cmd.h"

#include "ctl/ctlsock.h"
#include "ctl/events.h"
#include "ctl/host.h"
#include "ctl/vmrun.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

enum {
	START_MS = 30000,
	STOP_MS = 120000,
	FAILOVER_MS = 30000,
	SUSPEND_MS = 3600000, /* all of memory goes to the disk */
	RESUME_MS = 600000,
	WAIT_MAX_MS = 24 * 3600 * 1000,
	WHY_MAX = 200,
	OVERRIDE_MIN = 8, /* characters: a sentence, not a key pressed by accident */
};

enum wish_state { WISH_OPEN, WISH_DONE, WISH_FAILED };

struct wait {
	struct host *h;
	struct ctl_conn *c;
	struct vmrun *v;
	struct host_watch watch;
	struct event *limit;
	enum wish_state (*judge)(const struct wait *w, const char **why_out);
	const char *what;
	enum pair_state last, peer_last;
	char doing[64];
	uint64_t term_before;
};

static void wait_free(struct wait *w)
{
	host_watch_remove(w->h, &w->watch);
	if (w->limit)
		event_free(w->limit);
	free(w);
}

static int runs(enum pair_state s)
{
	return s == PAIR_RUNNING_ALONE || s == PAIR_SYNCING || s == PAIR_PROTECTED;
}

static enum wish_state judge_start(const struct wait *w, const char **why_out)
{
	const struct pair *p = vmrun_pair(w->v);

	/* Back in OFF: the machine has said why it may not start here. */
	*why_out = vmrun_said(w->v);
	if (p->state == PAIR_STANDBY_EMPTY && p->rec.incomplete && !w->h->peer_up) {
		*why_out =
			"a sync was cut short and left this host's disks half written, and the "
			"other host, which has a whole image, is not heard";
		return WISH_FAILED;
	}
	if (p->state == PAIR_FAILED || (p->state == PAIR_OFF && w->last != PAIR_NSTATES))
		return WISH_FAILED;
	if (runs(p->state) && p->running)
		return WISH_DONE;
	return w->h->peer_up && runs(p->peer.state) ? WISH_DONE : WISH_OPEN;
}

static int is_off(enum pair_state s)
{
	return s == PAIR_OFF || s == PAIR_FAILED;
}

/* Off here, and its standby as well: what is done to its disks next finds nobody who has them open. */
static enum wish_state judge_stop(const struct wait *w, const char **why_out)
{
	const struct pair *p = vmrun_pair(w->v);

	if (p->vm_up || !is_off(p->state))
		return WISH_OPEN;
	return w->h->peer_up && !is_off(p->peer.state) &&
			       !pair_state_is_primary(p->peer.state)
		       ? WISH_OPEN
		       : WISH_DONE;
}

/* Off, and the standby has put it on record as well; or it goes on. */
static enum wish_state judge_suspend(const struct wait *w, const char **why_out)
{
	const struct pair *p = vmrun_pair(w->v);

	*why_out = vmrun_save_why(w->v);
	if (!p->suspending && runs(p->state) && p->running)
		return WISH_FAILED;
	if (p->state == PAIR_FAILED || pair_state_is_standby(p->state) ||
	    (p->state == PAIR_OFF && !p->rec.saved)) {
		*why_out =
			"it ended, or the other host took it over, before it was saved";
		return WISH_FAILED;
	}
	if (p->vm_up || p->state != PAIR_OFF || p->store_id || p->want_store)
		return WISH_OPEN;
	return w->h->peer_up && pair_state_is_standby(p->peer.state) ? WISH_OPEN
								     : WISH_DONE;
}

/* Done when somebody runs it in a later term. A primary that asks its standby ends as a
 * standby itself. */
static enum wish_state judge_failover(const struct wait *w, const char **why_out)
{
	const struct pair *p = vmrun_pair(w->v);

	if (runs(p->state) && p->running && p->term > w->term_before)
		return WISH_DONE;
	return w->h->peer_up && runs(p->peer.state) && p->peer.term > w->term_before
		       ? WISH_DONE
		       : WISH_OPEN;
}

static void finish(struct wait *w)
{
	const struct pair *p = vmrun_pair(w->v);
	const char *on = runs(p->state) ? config_self(w->h->cfg)->name
			 : w->h->peer_up && runs(p->peer.state)
				 ? config_peer(w->h->cfg)->name
				 : NULL;

	ctl_end(w->c, json_pack("{s:b,s:s,s:I,s:o}", "ok", 1, "state",
				pair_state_name(p->state), "term", (json_int_t)p->term,
				"runs_on", on ? json_string(on) : json_null()));
	wait_free(w);
}

static void look(struct wait *w)
{
	const struct pair *p = vmrun_pair(w->v);
	const char *why = "";

	switch (w->judge(w, &why)) {
	case WISH_DONE:
		finish(w);
		return;
	case WISH_FAILED:
		ctl_error(w->c, "%s %s: %s%s%s", w->what, vmrun_config(w->v)->name, why,
			  w->h->peer_up ? "; if it belongs there, do it on host " : "",
			  w->h->peer_up ? config_peer(w->h->cfg)->name : "");
		wait_free(w);
		return;
	case WISH_OPEN:
		break;
	}
	if (p->state == w->last && p->peer.state == w->peer_last &&
	    !strcmp(w->doing, vmrun_doing(w->v)))
		return;
	(void)snprintf(w->doing, sizeof(w->doing), "%s", vmrun_doing(w->v)); /* fits */
	w->last = p->state;
	w->peer_last = p->peer.state;
	ctl_send(w->c,
		 cmd_progress(w->v, "%s here%s%s, %s on %s", pair_state_name(p->state),
			      w->doing[0] ? ": " : "", w->doing,
			      w->h->peer_up ? pair_state_name(p->peer.state) : "unknown",
			      config_peer(w->h->cfg)->name));
}

static void on_change(void *arg, struct vmrun *v)
{
	struct wait *w = arg;

	if (v == w->v)
		look(w);
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	struct wait *w = arg;

	ctl_error(
		w->c,
		"%s %s: not done yet, it is %s; it goes on, watch \"rheactl status --watch\"",
		w->what, vmrun_config(w->v)->name,
		pair_state_name(vmrun_pair(w->v)->state));
	wait_free(w);
}

static void on_gone(void *arg)
{
	wait_free(arg);
}

/* Give @ev to the machine and wait for what @judge says. Ends the request. */
static void wish(struct host *h, struct ctl_conn *c, json_t *req, struct vmrun *v,
		 const struct pair_event *ev, const char *what, int limit_ms,
		 enum wish_state (*judge)(const struct wait *, const char **))
{
	int ms = (int)cmd_int(req, "timeout_ms", 1, WAIT_MAX_MS, limit_ms);
	const struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	struct wait *w = calloc(1, sizeof(*w));

	if (w)
		w->limit = evtimer_new(loop_base(h->loop), on_limit, w);
	if (!w || !w->limit || event_add(w->limit, &limit)) {
		if (w && w->limit)
			event_free(w->limit);
		free(w);
		ctl_error(c, "rhead: out of memory");
		return;
	}
	w->h = h;
	w->c = c;
	w->v = v;
	w->watch = (struct host_watch){.fn = on_change, .arg = w};
	w->judge = judge;
	w->what = what;
	w->last = w->peer_last = PAIR_NSTATES;
	w->term_before = vmrun_pair(v)->term;
	ctl_async(c, on_gone, w);
	/* Watching begins after the event: it may change the state more than once. */
	vmrun_event(v, ev);
	host_watch_add(h, &w->watch);
	look(w);
}

/* Would the machine act on it now? Else the request is ended with the reason. */
static int accepted(struct ctl_conn *c, const struct vmrun *v,
		    const struct pair_event *ev, const char *what)
{
	char why[WHY_MAX];

	if (pair_accepts(vmrun_pair(v), ev, why, sizeof(why)))
		return 1;
	ctl_error(c, "%s %s: %s", what, vmrun_config(v)->name, why);
	return 0;
}

void cmd_vm_start(struct host *h, struct ctl_conn *c, json_t *req)
{
	int discard = json_is_true(json_object_get(req, "discard"));
	const struct pair_event ev = {.kind = PAIR_EV_START,
				      .u.start.resume =
					      discard ? PAIR_DISCARD : PAIR_BOOT};
	struct vmrun *v = cmd_vm(h, c, req);

	if (!v || (vmrun_pair(v)->rec.saved && !accepted(c, v, &ev, "start")))
		return;
	wish(h, c, req, v, &ev, "start", START_MS, judge_start);
}

void cmd_vm_suspend(struct host *h, struct ctl_conn *c, json_t *req)
{
	const struct pair_event ev = {.kind = PAIR_EV_SUSPEND};
	struct vmrun *v = cmd_vm(h, c, req);
	const struct pair *p = v ? vmrun_pair(v) : NULL;

	if (!v || !accepted(c, v, &ev, "suspend"))
		return;
	events_add(h->events, vmrun_config(v)->name, p->term, p->epoch,
		   "operator: suspend");
	wish(h, c, req, v, &ev, "suspend", SUSPEND_MS, judge_suspend);
}

void cmd_vm_resume(struct host *h, struct ctl_conn *c, json_t *req)
{
	const struct pair_event ev = {.kind = PAIR_EV_START,
				      .u.start.resume = PAIR_RESUME};
	struct vmrun *v = cmd_vm(h, c, req);
	const struct pair *p = v ? vmrun_pair(v) : NULL;
	struct err err = {0};

	if (!v || !accepted(c, v, &ev, "resume"))
		return;
	if (vmrun_saved_check(v, &err)) {
		ctl_error(c, "resume %s: %s", vmrun_config(v)->name, err.msg);
		return;
	}
	events_add(h->events, vmrun_config(v)->name, p->term, p->epoch,
		   "operator: resume");
	wish(h, c, req, v, &ev, "resume", RESUME_MS, judge_start);
}

void cmd_vm_stop(struct host *h, struct ctl_conn *c, json_t *req)
{
	int force = json_is_true(json_object_get(req, "force"));
	const struct pair_event ev = {.kind = force ? PAIR_EV_KILL : PAIR_EV_STOP};
	struct vmrun *v = cmd_vm(h, c, req);
	const struct pair *p = v ? vmrun_pair(v) : NULL;

	if (!v)
		return;
	if (!force && h->peer_up && pair_state_is_standby(p->state) &&
	    pair_state_is_primary(p->peer.state)) {
		ctl_error(
			c,
			"%s runs on host %s: stop it there (or with --force, which ends it on both)",
			vmrun_config(v)->name, config_peer(h->cfg)->name);
		return;
	}
	events_add(h->events, vmrun_config(v)->name, p->term, p->epoch,
		   "operator: stop%s", force ? " by force" : "");
	wish(h, c, req, v, &ev, "stop", STOP_MS, judge_stop);
}

/* An override is authority given by a person: the words are kept, whoever they came from. */
static int override_ok(struct host *h, struct ctl_conn *c, struct vmrun *v,
		       const struct pair_event *ev, const char *words)
{
	const struct pair *p = vmrun_pair(v);
	char why[WHY_MAX];

	if (strlen(words) < OVERRIDE_MIN) {
		ctl_error(
			c,
			"--override wants a sentence that says how you know that host %s does not "
			"run %s (it is logged)",
			config_peer(h->cfg)->name, vmrun_config(v)->name);
		return 0;
	}
	if (h->peer_up) {
		ctl_error(
			c,
			"host %s is alive and says \"%s\": an override now could make two of %s; "
			"use failover without it",
			config_peer(h->cfg)->name, pair_state_name(p->peer.state),
			vmrun_config(v)->name);
		return 0;
	}
	if (!pair_accepts(p, ev, why, sizeof(why))) {
		ctl_error(c, "override of %s refused, it is %s here: %s",
			  vmrun_config(v)->name, pair_state_name(p->state), why);
		return 0;
	}
	events_add(h->events, vmrun_config(v)->name, p->term, p->epoch,
		   "operator's override: %s", words);
	return 1;
}

void cmd_failover(struct host *h, struct ctl_conn *c, json_t *req)
{
	const char *words = json_string_value(json_object_get(req, "override"));
	struct pair_event ev = {.kind = words ? PAIR_EV_OVERRIDE : PAIR_EV_FAILOVER};
	struct vmrun *v = cmd_vm(h, c, req);
	const struct pair *p = v ? vmrun_pair(v) : NULL;

	ev.u.override.cold = json_is_true(json_object_get(req, "cold"));
	if (!v || (words && !override_ok(h, c, v, &ev, words)))
		return;
	if (!words && p->state != PAIR_PROTECTED && !pair_state_is_eligible(p->state)) {
		ctl_error(c,
			  "%s is %s here: a failover needs it protected, on either host",
			  vmrun_config(v)->name, pair_state_name(p->state));
		return;
	}
	if (!words)
		events_add(h->events, vmrun_config(v)->name, p->term, p->epoch,
			   "operator: failover");
	wish(h, c, req, v, &ev, "failover of", FAILOVER_MS, judge_failover);
}
