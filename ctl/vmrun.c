/* SPDX-License-Identifier: Apache-2.0
 * vmrun - events in: from the host, from rhea-vm, from timers, through the pair machine.
 */
#include "ctl/vmrun.h"

#include "ctl/console.h"
#include "ctl/drill_path.h"
#include "ctl/events.h"
#include "ctl/grant.h"
#include "ctl/host.h"
#include "ctl/link.h"
#include "ctl/linktest.h"
#include "ctl/vmproc.h"
#include "ctl/vmproto.h"
#include "ctl/vmrun_snap.h"
#include "ctl/vmrun_start.h"
#include "ctl/vmrun_impl.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void arm_deadline(struct vmrun *v)
{
	uint64_t at = pair_deadline(&v->pair), now = clock_mono_ns(), us;
	struct timeval tv;

	if (!at) {
		(void)event_del(v->deadline); /* not pending is fine */
		return;
	}
	/* Rounded up, so that the tick never comes a moment before it is due. */
	us = at > now ? (at - now + 999) / 1000 : 0;
	tv = (struct timeval){.tv_sec = (time_t)(us / 1000000),
			      .tv_usec = (suseconds_t)(us % 1000000)};
	if (event_add(v->deadline, &tv))
		log_err("%s: a timer could not be set: out of memory", v->cfg->name);
}

static void step(struct vmrun *v, const struct pair_event *ev)
{
	struct pair_actions acts;
	struct pair_view view;

	pair_step(&v->pair, clock_mono_ns(), ev, &acts);
	/* The peer learns first: what follows may take a moment. */
	view = pair_view(&v->pair);
	hb_set_vm(v->h->hb, v->index, &view);
	for (unsigned i = 0; i < acts.n; i++)
		vmrun_do(v, &acts.list[i]);
}

void vmrun_event(struct vmrun *v, const struct pair_event *ev)
{
	struct pair_event next;

	/* More answers than questions would be our own bug. */
	assert(v->queued < VMRUN_QUEUE_MAX);
	v->queue[v->queued++] = *ev;
	if (v->stepping)
		return;
	v->stepping = 1;
	while (v->queued) {
		next = v->queue[0];
		memmove(v->queue, v->queue + 1, --v->queued * sizeof(v->queue[0]));
		step(v, &next);
	}
	v->stepping = 0;
	arm_deadline(v);
	host_changed(v->h, v);
}

void vmrun_simple(struct vmrun *v, enum pair_ev_kind kind)
{
	struct pair_event ev = {.kind = kind, .instance = v->instance};

	vmrun_event(v, &ev);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	vmrun_simple(arg, PAIR_EV_TICK);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	vmrun_try_start(arg);
}

void vmrun_arbiter(struct vmrun *v, const struct arb_answer *ans)
{
	static const enum pair_arb_result result[] = {
		[ARB_VALUE] = PAIR_ARB_VALUE,
		[ARB_GRANTED] = PAIR_ARB_GRANTED,
		[ARB_REFUSED] = PAIR_ARB_REFUSED,
		[ARB_UNREACHABLE] = PAIR_ARB_UNREACHABLE,
	};
	struct pair_event ev = {.kind = PAIR_EV_ARBITER};

	ev.u.arbiter.id = ans->id;
	ev.u.arbiter.result = result[ans->result];
	ev.u.arbiter.term = ans->value.term;
	ev.u.arbiter.mine = !strcmp(ans->value.owner, config_self(v->h->cfg)->name);
	vmrun_event(v, &ev);
}

void vmrun_stored(struct vmrun *v, uint64_t id, int ok, const char *why)
{
	struct pair_event ev = {.kind = PAIR_EV_STORED};

	if (!ok) {
		log_ratelimited(LOG_LVL_ERR, 1000, "%s: the grant is not on disk: %s",
				v->cfg->name, why);
	}
	ev.u.stored.id = id;
	ev.u.stored.ok = ok;
	vmrun_event(v, &ev);
}

void vmrun_incoming(struct vmrun *v, uint64_t term, int fd)
{
	struct pair_event ev = {.kind = PAIR_EV_INCOMING};

	if (v->kept_fd >= 0)
		(void)close(v->kept_fd); /* the newer one counts */
	v->kept_fd = fd;
	ev.u.term = term;
	vmrun_event(v, &ev);
}

/* UINT64_MAX, "none yet", comes as -1. */
static uint64_t number(json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

static const char *text_of(json_t *msg, const char *key)
{
	const char *s = json_string_value(json_object_get(msg, key));

	return s ? s : "?";
}

static void on_state(struct vmrun *v, json_t *msg)
{
	const char *why = json_string_value(json_object_get(msg, "why"));
	struct pair_event ev = {.kind = PAIR_EV_VM_STATE, .instance = v->instance};
	const char *state = json_string_value(json_object_get(msg, "state"));

	ev.u.vm_state.engine =
		pair_engine_of(json_string_value(json_object_get(msg, "role")), state);
	ev.u.vm_state.term = number(msg, "term");
	if (ev.u.vm_state.engine == PAIR_ENG_SYNCING)
		v->try_path = 0; /* there is a link: the next one begins with the best */
	ev.u.vm_state.bye = json_is_true(json_object_get(msg, "bye"));
	ev.u.vm_state.saved = json_is_true(json_object_get(msg, "saved"));
	if (why && why[0])
		events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
			   "engine %s: %s", state ? state : "?", why);
	vmrun_event(v, &ev);
}

static void on_running(struct vmrun *v, json_t *msg)
{
	struct pair_event ev = {.kind = PAIR_EV_VM_RUNNING, .instance = v->instance};

	v->activate_us = number(msg, "activate_us");
	ev.u.term = number(msg, "term");
	events_add(v->h->events, v->cfg->name, ev.u.term, v->pair.epoch,
		   "the guest runs on this host, %llu.%03llu ms after it was told to",
		   (unsigned long long)(v->activate_us / 1000),
		   (unsigned long long)(v->activate_us % 1000));
	vmrun_event(v, &ev);
}

/* Whether this host's disks can be started from, and of which epoch they are. */
static void on_image(struct vmrun *v, json_t *msg)
{
	struct pair_event ev = {.kind = PAIR_EV_VM_IMAGE, .instance = v->instance};
	json_t *epoch = json_object_get(msg, "epoch");
	const char *why = json_string_value(json_object_get(msg, "why"));

	ev.u.image.whole = json_is_true(json_object_get(msg, "whole"));
	ev.u.image.all = json_is_true(json_object_get(msg, "all"));
	ev.u.image.epoch = json_is_integer(epoch) ? number(msg, "epoch") : UINT64_MAX;
	events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
		   "this host's disks %s: %s",
		   ev.u.image.whole ? "are whole" : "are NOT whole", why ? why : "");
	vmrun_event(v, &ev);
}

static void on_guest(struct vmrun *v, json_t *msg)
{
	const char *what = json_string_value(json_object_get(msg, "what"));
	const char *why = json_string_value(json_object_get(msg, "why"));
	int off = what && !strcmp(what, "poweroff");
	int suspended = what && !strcmp(what, "suspended");

	v->guest_ended = 1;
	events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
		   "the guest %s%s%s",
		   suspended ? "is suspended"
		   : off     ? "powered off"
			     : "crashed",
		   why && why[0] ? ": " : "", why ? why : "");
	vmrun_simple(v, off || suspended ? PAIR_EV_VM_POWEROFF : PAIR_EV_VM_CRASH);
}

static void on_ready(struct vmrun *v)
{
	int rc;

	if (!v->first_op)
		return;
	vmproc_busy(v->proc);
	rc = vmproc_send(v->proc,
			 json_pack("{s:s,s:I}", "op", v->first_op, "term",
				   (json_int_t)v->first_term),
			 -1);
	v->first_op = NULL;
	if (rc && rc != -EPIPE) /* -EPIPE: it has ended, which is told */
		log_err("%s: rhea-vm cannot be told what to do: %s", v->cfg->name,
			strerror(-rc));
}

static void on_pong(struct vmrun *v, json_t *msg)
{
	struct pair_view view;
	uint64_t epoch = number(msg, "epoch");

	v->doing[0] = 0;
	if (epoch == v->pair.epoch)
		return;
	pair_set_epoch(&v->pair, epoch);
	view = pair_view(&v->pair);
	hb_set_vm(v->h->hb, v->index, &view);
}

/* It answers no ping, and does not hang. */
static void on_busy(struct vmrun *v, json_t *msg)
{
	const char *what = text_of(msg, "what");

	vmproc_busy(v->proc);
	if (!strcmp(v->doing, what))
		return;
	(void)snprintf(v->doing, sizeof(v->doing), "%s", what); /* all are shorter */
	events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
		   "it takes its time: %s", v->doing);
	host_changed(v->h, v);
}

static void on_stats(struct vmrun *v, json_t *msg)
{
	json_decref(v->stats);
	v->stats = json_incref(json_object_get(msg, "stats"));
	v->stats_got = number(msg, "seq");
	host_changed(v->h, v);
}

static void on_event(void *arg, json_t *msg)
{
	const char *ev = json_string_value(json_object_get(msg, "ev"));
	struct vmrun *v = arg;

	if (!ev)
		return;
	if (!strcmp(ev, "pong"))
		on_pong(v, msg);
	else if (!strcmp(ev, "state"))
		on_state(v, msg);
	else if (!strcmp(ev, "stats"))
		on_stats(v, msg);
	else if (!strcmp(ev, "busy"))
		on_busy(v, msg);
	else if (!strcmp(ev, "running"))
		on_running(v, msg);
	else if (!strcmp(ev, "image"))
		on_image(v, msg);
	else if (!strcmp(ev, "guest"))
		on_guest(v, msg);
	else if (!strcmp(ev, "saved"))
		vmrun_saved(v, msg);
	else if (!strcmp(ev, "want-saved"))
		vmrun_want_saved(v);
	else if (!strcmp(ev, "ready"))
		on_ready(v);
	else if (!strcmp(ev, "want-path"))
		vmrun_want_path(v, msg);
	else if (!strcmp(ev, "want-streams"))
		vmrun_want_streams(v, msg);
	else if (!strcmp(ev, "path"))
		vmrun_path_changed(v, msg);
	else if (!strcmp(ev, "path-drill"))
		drill_path_event(v->h, v, msg);
	else if (!strcmp(ev, "test"))
		linktest_event(v->h->linktest, msg);
	else if (!strcmp(ev, "verified"))
		vmrun_take_verified(v, msg);
	else if (!strcmp(ev, "snap-switch"))
		vmrun_snap_switch(v, msg);
	else if (!strcmp(ev, "snap-memory"))
		vmrun_snap_memory(v, msg);
	else if (!strcmp(ev, "snap-over"))
		vmrun_snap_over(v, msg);
	else if (!strcmp(ev, "snap-left"))
		vmrun_snap_left(v, msg);
	else if (!strcmp(ev, "peer-note"))
		vmrun_peer_note(v, msg);
	else if (!strcmp(ev, "resized"))
		vmrun_take_resized(v, msg);
	else if (!strcmp(ev, "disk"))
		vmrun_take_disk(v, msg);
	else if (!strcmp(ev, "activity"))
		vmrun_activity_failed(v->h, v->cfg, v->pair.term, v->pair.epoch,
				      text_of(msg, "why"));
	else if (!strcmp(ev, "error"))
		events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
			   "rhea-vm gives up: %s",
			   json_string_value(json_object_get(msg, "why")));
	else
		log_ratelimited(LOG_LVL_WARN, 10000,
				"%s: rhea-vm said \"%s\", which is not known here",
				v->cfg->name, ev);
}

static void on_hung(void *arg, unsigned ms)
{
	struct vmrun *v = arg;

	/* It was told to end, or has told why it ends. */
	if (!ms && (v->guest_ended || v->pair.state == PAIR_FENCED))
		return;
	log_warn("%s: rhea-vm %d %s", v->cfg->name, (int)vmproc_pid(v->proc),
		 ms ? "does not answer" : "closed its socket: it is ending");
	events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
		   ms ? "rhea-vm has not answered for %u ms" : "rhea-vm is ending", ms);
	vmrun_simple(v, PAIR_EV_VM_HUNG);
}

static void on_revived(void *arg)
{
	struct vmrun *v = arg;

	log_info("%s: rhea-vm answers again", v->cfg->name);
	vmrun_simple(v, PAIR_EV_VM_ALIVE);
}

static void on_exited(void *arg, int status)
{
	struct vmrun *v = arg;
	char how[64];

	if (WIFSIGNALED(status))
		(void)snprintf(how, sizeof(how), "killed by signal %d (%s)",
			       WTERMSIG(status),
			       strsignal(WTERMSIG(status))); /* cutting is fine */
	else
		(void)snprintf(how, sizeof(how), "exit status %d%s", WEXITSTATUS(status),
			       WEXITSTATUS(status) == VMEXIT_DISK
				       ? " (this host's disk failed)"
				       : ""); /* fits */
	log_info("%s: rhea-vm ended: %s", v->cfg->name, how);
	events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
		   "rhea-vm ended: %s", how);
	vmrun_paths_cancel(v);
	vmproc_destroy(v->proc);
	v->proc = NULL;
	vmrun_clean(v->cfg);
	v->first_op = NULL;
	json_decref(v->stats);
	v->stats = NULL;
	vmrun_snap_exited(v);
	vmrun_simple(v, PAIR_EV_VM_EXITED);
}

const struct vmproc_ops vmrun_proc_ops = {
	.event = on_event, .hung = on_hung, .revived = on_revived, .exited = on_exited};

static int load_record(struct vmrun *v, struct grant *g, int *found_out, struct err *err)
{
	int rc = grant_load(v->h->opts.state_dir, v->cfg->name,
			    config_self(v->h->cfg)->name, g, err);

	*found_out = !rc;
	v->wanted_before = rc ? v->cfg->autostart : g->record.wanted;
	return rc == -ENOENT ? 0 : rc;
}

int vmrun_create(struct host *h, unsigned index, struct vmrun **v_out, struct err *err)
{
	struct vmrun *v = calloc(1, sizeof(*v));
	struct pair_params prm;
	struct grant g;
	int rc, found = 0;

	*v_out = NULL;
	if (!v)
		return err_set(err, -ENOMEM, "out of memory");
	v->h = h;
	v->index = index;
	v->cfg = &h->cfg->vms[index];
	v->kept_fd = -1;
	v->deadline = evtimer_new(loop_base(h->loop), on_deadline, v);
	v->retry = evtimer_new(loop_base(h->loop), on_retry, v);
	rc = v->deadline && v->retry ? load_record(v, &g, &found, err)
				     : err_set(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = vmrun_judge_image(v, &g, &found, err);
	if (!rc)
		rc = console_create(h->loop, &v->con, err);
	if (rc) {
		vmrun_destroy(v);
		return rc;
	}
	prm = pair_params_default(h->cfg->heartbeat_interval_ms,
				  h->cfg->heartbeat_missed);
	prm.preferred = v->cfg->host == h->cfg->self;
	prm.manual = h->cfg->arbiter.kind == CONFIG_ARBITER_MANUAL;
	pair_init(&v->pair, &prm, found ? &g.record : NULL);
	*v_out = v;
	return 0;
}

void vmrun_destroy(struct vmrun *v)
{
	if (!v)
		return;
	link_connect_cancel(v->connect);
	vmrun_paths_cancel(v);
	vmrun_snap_end(v);
	if (v->kept_fd >= 0)
		(void)close(v->kept_fd); /* nothing that matters was written through it */
	if (v->proc) {
		vmproc_destroy(v->proc);
		vmrun_clean(v->cfg);
	}
	console_destroy(v->con);
	if (v->deadline)
		event_free(v->deadline);
	if (v->retry)
		event_free(v->retry);
	json_decref(v->verified);
	json_decref(v->resized);
	json_decref(v->stats);
	free(v);
}

void vmrun_begin(struct vmrun *v)
{
	struct pair_view view = pair_view(&v->pair);
	struct pair_event ev = {.kind = PAIR_EV_START};

	hb_set_vm(v->h->hb, v->index, &view);
	ev.u.start.automatic = 1;
	ev.u.start.resume = v->pair.rec.saved ? PAIR_RESUME : PAIR_BOOT;
	if (v->wanted_before)
		vmrun_event(v, &ev);
}

const struct config_vm *vmrun_config(const struct vmrun *v)
{
	return v->cfg;
}

const struct pair *vmrun_pair(const struct vmrun *v)
{
	return &v->pair;
}

struct vmproc *vmrun_proc(const struct vmrun *v)
{
	return v->proc;
}

struct console *vmrun_console(const struct vmrun *v)
{
	return v->con;
}

const char *vmrun_said(const struct vmrun *v)
{
	return v->said;
}

const char *vmrun_doing(const struct vmrun *v)
{
	return v->doing;
}

uint64_t vmrun_activate_us(const struct vmrun *v)
{
	return v->activate_us;
}

int vmrun_takes_tests(const struct vmrun *v)
{
	return v->proc && !v->first_op && !vmproc_is_hung(v->proc);
}

uint64_t vmrun_stats_ask(struct vmrun *v)
{
	json_t *msg;

	if (!vmrun_takes_tests(v))
		return 0;
	msg = json_pack("{s:s,s:I}", "op", "stats", "seq",
			(json_int_t)v->stats_asked + 1);
	return vmproc_send(v->proc, msg, -1) ? 0 : ++v->stats_asked;
}

uint64_t vmrun_stats_seq(const struct vmrun *v)
{
	return v->stats_got;
}

json_t *vmrun_stats(const struct vmrun *v)
{
	return v->stats;
}
