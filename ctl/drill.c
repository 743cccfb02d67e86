/* SPDX-License-Identifier: Apache-2.0
 * drill - do the deed, watch, report.
 */
#include "ctl/drill.h"

#include "ctl/cmd.h"
#include "ctl/ctlsock.h"
#include "ctl/drill_note.h"
#include "ctl/drill_path.h"
#include "ctl/events.h"
#include "ctl/host.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "hv/base/clock.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIMIT_MS = 60000 };

struct deed {
	const char *name;
	int (*run)(struct drill *d);
	int moves; /* the VM must go on on the other host */
};

struct drill {
	struct host *h;
	struct ctl_conn *c; /* NULL: the client has left; the drill goes on to clean up */
	struct vmrun *v;
	const struct deed *deed;
	struct host_watch watch;
	struct event *limit;
	uint64_t began_ns, runs_ns, protected_ns; /* CLOCK_MONOTONIC; 0: not yet */
	uint64_t term_before, term_after;
	pid_t stopped; /* was SIGSTOPped; 0: none */
	int is_stopped, fault_on, runs_here;
	enum pair_state last, peer_last;
	json_t *steps;
};

static double since_ms(const struct drill *d, uint64_t ns)
{
	return (double)(ns - d->began_ns) / 1e6;
}

static int do_kill(struct drill *d)
{
	return vmproc_signal(vmrun_proc(d->v), SIGKILL);
}

static int do_stop(struct drill *d)
{
	int rc = vmproc_signal(vmrun_proc(d->v), SIGSTOP);

	if (!rc) {
		d->stopped = vmproc_pid(vmrun_proc(d->v));
		d->is_stopped = 1;
	}
	return rc;
}

static int set_cut(struct drill *d, int on)
{
	struct vmproc *p = vmrun_proc(d->v);

	d->fault_on = on;
	if (!p)
		return on ? -ESRCH : 0;
	return vmproc_send(p, json_pack("{s:s,s:i}", "op", "fault", "cut_after", on), -1);
}

static int do_cut(struct drill *d)
{
	return set_cut(d, 1);
}

static const struct deed deeds[] = {
	{"kill-vm", do_kill, 1}, {"stop-vm", do_stop, 1}, {"cut-link", do_cut, 0}};

/* Undo what would go on hurting. */
static void heal(struct drill *d)
{
	struct vmproc *p = vmrun_proc(d->v);

	if (d->is_stopped && p && vmproc_pid(p) == d->stopped &&
	    !vmproc_signal(p, SIGCONT))
		drill_note(d->c, d->v, d->steps, d->began_ns, "rhea-vm %d is continued",
			   (int)d->stopped);
	d->is_stopped = 0;
	if (d->fault_on && set_cut(d, 0))
		drill_note(
			d->c, d->v, d->steps, d->began_ns,
			"the fault could not be taken away: the process has to be restarted");
}

static void drill_free(struct drill *d)
{
	host_watch_remove(d->h, &d->watch);
	if (d->h->drill == d)
		d->h->drill = NULL;
	if (d->limit)
		event_free(d->limit);
	json_decref(d->steps);
	free(d);
}

void drill_destroy(struct drill *d)
{
	if (!d)
		return;
	d->c = NULL;
	heal(d);
	drill_free(d);
}

static json_t *ms_or_null(const struct drill *d, uint64_t ns)
{
	return ns ? json_real(since_ms(d, ns)) : json_null();
}

static const char *stopped_end(const struct drill *d)
{
	struct vmproc *p = vmrun_proc(d->v);

	if (!d->stopped)
		return NULL;
	return p && vmproc_pid(p) == d->stopped ? "still there" : "ended, fenced";
}

static json_t *report(struct drill *d, const char *why)
{
	const char *self = config_self(d->h->cfg)->name,
		   *peer = config_peer(d->h->cfg)->name;
	const char *end = stopped_end(d);
	int ok = d->runs_ns && d->protected_ns && (!d->deed->moves || !d->runs_here);

	return json_pack(
		"{s:s,s:s,s:b,s:s,s:o,s:o,s:s,s:o,s:I,s:o,s:o,s:s,s:O}", "drill",
		d->deed->name, "vm", vmrun_config(d->v)->name, "ok", ok, "from_host",
		self, "to_host",
		d->runs_ns ? json_string(d->runs_here ? self : peer) : json_null(),
		"gap_ms", ms_or_null(d, d->runs_ns), "gap_by",
		d->runs_here
			? "this host: from the deed until its guest ran with a new grant"
			: "this host: from the deed until the peer's heartbeat said that "
			  "the guest runs there",
		"protected_ms", ms_or_null(d, d->protected_ns), "term_before",
		(json_int_t)d->term_before, "term_after",
		d->term_after ? json_integer((json_int_t)d->term_after) : json_null(),
		"stopped_vm", end ? json_string(end) : json_null(), "why", why, "steps",
		d->steps);
}

static void finish(struct drill *d, const char *why)
{
	const struct pair *p = vmrun_pair(d->v);

	heal(d);
	events_add(d->h->events, vmrun_config(d->v)->name, p->term, p->epoch,
		   "drill %s ended: gap %.1f ms%s%s", d->deed->name,
		   d->runs_ns ? since_ms(d, d->runs_ns) : -1.0, why[0] ? ", " : "", why);
	if (d->c)
		ctl_end(d->c, json_pack("{s:o}", "report", report(d, why)));
	drill_free(d);
}

static int runs(enum pair_state s)
{
	return s == PAIR_RUNNING_ALONE || s == PAIR_SYNCING || s == PAIR_PROTECTED;
}

static void note_states(struct drill *d, const struct pair *p)
{
	const struct host *h = d->h;

	if (p->state != d->last)
		drill_note(d->c, d->v, d->steps, d->began_ns, "host %s: %s, term %llu",
			   config_self(h->cfg)->name, pair_state_name(p->state),
			   (unsigned long long)p->term);
	if (h->peer_up && p->peer.state != d->peer_last)
		drill_note(d->c, d->v, d->steps, d->began_ns, "host %s: %s, term %llu",
			   config_peer(h->cfg)->name, pair_state_name(p->peer.state),
			   (unsigned long long)p->peer.term);
	d->last = p->state;
	d->peer_last = p->peer.state;
}

static void note_runs(struct drill *d, int here, uint64_t term)
{
	d->runs_ns = clock_mono_ns();
	d->runs_here = here;
	d->term_after = term;
	drill_note(d->c, d->v, d->steps, d->began_ns,
		   "the guest runs on host %s in term %llu",
		   here ? config_self(d->h->cfg)->name : config_peer(d->h->cfg)->name,
		   (unsigned long long)term);
	heal(d);
}

static void on_change(void *arg, struct vmrun *v)
{
	struct drill *d = arg;
	const struct pair *p = vmrun_pair(d->v);
	int here = runs(p->state) && p->running && p->term > d->term_before;
	int there = d->h->peer_up && runs(p->peer.state) && p->peer.term > d->term_before;

	if (v != d->v)
		return;
	note_states(d, p);
	/* Each new link would be cut as well: one cut is the drill. */
	if (d->fault_on && p->state != PAIR_PROTECTED)
		heal(d);
	if (!d->runs_ns && (here || there))
		note_runs(d, here, here ? p->term : p->peer.term);
	if (!d->runs_ns)
		return;
	if ((here && p->state == PAIR_PROTECTED) ||
	    (there && p->peer.state == PAIR_PROTECTED)) {
		d->protected_ns = clock_mono_ns();
		drill_note(d->c, d->v, d->steps, d->began_ns, "protected again");
		finish(d, "");
	}
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	struct drill *d = arg;

	finish(d,
	       d->runs_ns ? "not protected again in time" : "nobody took over in time");
}

static void on_gone(void *arg)
{
	struct drill *d = arg;

	d->c = NULL;
}

static const struct deed *find_deed(const char *name)
{
	for (unsigned i = 0; name && i < sizeof(deeds) / sizeof(deeds[0]); i++)
		if (!strcmp(deeds[i].name, name))
			return &deeds[i];
	return NULL;
}

/* Why not, told to the client; 1: go. */
static int may_run(struct host *h, struct ctl_conn *c, struct vmrun *v, int force)
{
	const struct pair *p = vmrun_pair(v);
	const char *vm = vmrun_config(v)->name;
	char why[200] = "";

	if (h->drill || h->drill_path)
		ctl_error(c, "a drill is running already; wait for its end");
	else if (!vmrun_proc(v) || !pair_state_is_primary(p->state))
		ctl_error(c,
			  "%s does not run on host %s; run the drill where it runs%s%s",
			  vm, config_self(h->cfg)->name,
			  h->peer_up && pair_state_is_primary(p->peer.state) ? ": host "
									     : "",
			  h->peer_up && pair_state_is_primary(p->peer.state)
				  ? config_peer(h->cfg)->name
				  : "");
	else if (!force &&
		 (p->state != PAIR_PROTECTED ||
		  !pair_safe_to_lose_self(p, why, sizeof(why)) || !host_arbiter_ok(h)))
		ctl_error(
			c,
			"%s would not survive it now (%s%s%s); --force does it all the same",
			vm, pair_state_name(p->state), why[0] ? ", " : "",
			why[0]		     ? why
			: host_arbiter_ok(h) ? ""
					     : ", the arbiter does not answer");
	else
		return 1;
	return 0;
}

static struct drill *drill_new(struct host *h, struct ctl_conn *c, struct vmrun *v,
			       const struct deed *deed)
{
	static const struct timeval limit = {.tv_sec = LIMIT_MS / 1000};
	const struct pair *p = vmrun_pair(v);
	struct drill *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	*d = (struct drill){.h = h,
			    .c = c,
			    .v = v,
			    .deed = deed,
			    .term_before = p->term,
			    .last = p->state,
			    .peer_last = p->peer.state,
			    .steps = json_array()};
	d->watch = (struct host_watch){.fn = on_change, .arg = d};
	d->limit = evtimer_new(loop_base(h->loop), on_limit, d);
	if (!d->steps || !d->limit || event_add(d->limit, &limit)) {
		drill_free(d);
		return NULL;
	}
	return d;
}

void drill_cmd(struct host *h, struct ctl_conn *c, json_t *req)
{
	const char *what = json_string_value(json_object_get(req, "what"));
	const struct deed *deed = find_deed(what);
	struct vmrun *v;
	struct drill *d;
	int rc;

	if (!deed && !strcmp(what ? what : "", "path")) {
		drill_path_cmd(h, c, req);
		return;
	}
	v = cmd_vm(h, c, req);
	if (!v)
		return;
	if (!deed) {
		ctl_error(c,
			  "no such drill; there are kill-vm, stop-vm, cut-link and path");
		return;
	}
	if (!may_run(h, c, v, json_is_true(json_object_get(req, "force"))))
		return;
	d = drill_new(h, c, v, deed);
	if (!d) {
		ctl_error(c, "rhead: out of memory");
		return;
	}
	events_add(h->events, vmrun_config(v)->name, d->term_before, vmrun_pair(v)->epoch,
		   "drill %s begins", deed->name);
	h->drill = d;
	ctl_async(c, on_gone, d);
	host_watch_add(h, &d->watch);
	d->began_ns = clock_mono_ns();
	rc = deed->run(d);
	drill_note(d->c, d->v, d->steps, d->began_ns, "%s%s%s", deed->name,
		   rc ? " failed: " : "", rc ? strerror(-rc) : "");
	if (rc)
		finish(d, "the deed could not be done");
}
