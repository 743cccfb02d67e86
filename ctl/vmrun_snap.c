/* SPDX-License-Identifier: Apache-2.0
 * vmrun_snap - a snapshot's way through its stages on one host, from when all is prepared.
 */
#include "ctl/vmrun_snapop.h"

#include "ctl/events.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "ctl/vmrun_impl.h"
#include "hv/base/log.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void snapop_give(struct snapop *o, void (*run)(struct filework_job *j),
		 void (*done)(struct filework_job *j))
{
	o->job.run = run;
	o->job.done = done;
	o->err = (struct err){0};
	o->working = 1;
	filework_give(o->v->h->files, &o->job);
}

void snapop_end(struct snapop *o)
{
	static const char *const peer[] = {[PEER_NONE] = "none",
					   [PEER_ASKED] = "failed",
					   [PEER_READY] = "failed",
					   [PEER_COMPLETE] = "complete",
					   [PEER_FAILED] = "failed"};
	struct vmrun *v = o->v;
	json_t *r;

	host_watch_remove(v->h, &o->watch);
	event_free(o->limit);
	v->snap = NULL;
	events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
		   o->why[0] ? "snapshot %s failed: %s" : "snapshot %s is made%s",
		   o->s.name, o->why);
	if (o->told) {
		r = json_pack("{s:s,s:I,s:s,s:s,s:b,s:s}", "name", o->s.name, "id",
			      (json_int_t)o->s.id, "peer", peer[o->peer], "peer_why",
			      o->peer_why, "memory", o->memory == MEM_SAVED, "memory_why",
			      o->memory_why);
		o->told(o->arg, o->why, r);
		json_decref(r);
	}
	free(o);
}

void snapop_tell_peer(struct snapop *o, const char *what, int ok, const char *why)
{
	vmrun_snap_tell_peer(o->v, json_pack("{s:s,s:I,s:b,s:s}", "snap", what, "id",
					     (json_int_t)o->s.id, "ok", ok, "why", why));
}

void snapop_set_limit(struct snapop *o, unsigned ms)
{
	const struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	if (event_add(o->limit, &t))
		log_err("%s: a timer could not be set: out of memory", o->v->cfg->name);
}

static void run_abandon(struct filework_job *j)
{
	struct snapop *o = (struct snapop *)j;

	o->rc = snap_abandon(&o->s, &o->err);
}

static void on_abandoned(struct filework_job *j)
{
	struct snapop *o = (struct snapop *)j;

	o->working = 0;
	if (o->rc)
		log_warn("%s: %s", o->v->cfg->name, o->err.msg);
	snapop_end(o);
}

/* It will not be made; @why is kept if it is the first reason. No job is under way. */
void snapop_abandon(struct snapop *o, const char *why)
{
	if (!o->why[0])
		(void)snprintf(o->why, sizeof(o->why), "%s", why); /* cutting is fine */
	if (o->mine && o->peer != PEER_NONE && o->peer != PEER_FAILED)
		snapop_tell_peer(o, "abandon", 0, o->why);
	else if (!o->mine && o->stage != ST_MAKE)
		snapop_tell_peer(o, "ready", 0, o->why);
	else if (!o->mine)
		snapop_tell_peer(o, "done", 0, o->why);
	vmrun_snap_tell(o->v, json_pack("{s:s}", "op", "snap-drop"), -1);
	(void)event_del(o->limit); /* not pending is fine */
	o->stage = ST_ABANDON;
	/* What has its names stays: it is shown as not complete, and can be deleted. */
	if (o->s.state == SNAP_PREPARED)
		snapop_give(o, run_abandon, on_abandoned);
	else
		snapop_end(o);
}

/* A memory that could not be saved: first it is not in the description any more. */
static void run_confirm(struct filework_job *j)
{
	struct snapop *o = (struct snapop *)j;
	char memory[PATH_MAX];

	memcpy(memory, o->s.memory, sizeof(memory));
	if (o->memory == MEM_FAILED)
		o->s.memory[0] = '\0';
	o->rc = snap_confirm(&o->s, &o->err);
	if (!o->rc && o->memory == MEM_FAILED && unlink(memory) && errno != ENOENT)
		log_warn("%s: %s: %s", o->v->cfg->name, memory, strerror(errno));
}

static void on_confirmed(struct filework_job *j)
{
	struct snapop *o = (struct snapop *)j;

	o->working = 0;
	if (o->rc)
		(void)snprintf(o->why, sizeof(o->why), "%s", o->err.msg); /* cut */
	if (!o->mine)
		snapop_tell_peer(o, "done", !o->rc, o->why);
	if (!o->mine || o->rc || o->gone || o->peer != PEER_READY) {
		snapop_end(o);
		return;
	}
	o->stage = ST_PEER;
	snapop_set_limit(o, o->memory ? SNAP_MEMORY_MS : SNAP_WAIT_MS);
	snapop_changed(o, o->v); /* the standby may be lost already */
}

/* The link is gone on which the peer would answer: each that ends takes its term with it. */
static int link_is_lost(const struct snapop *o)
{
	enum pair_state s = o->v->pair.state;

	return o->v->pair.term != o->s.term ||
	       (o->mine ? s != PAIR_PROTECTED
			: s == PAIR_RUNNING_ALONE || s == PAIR_STANDBY_EMPTY ||
				  s == PAIR_STANDBY_SYNCING);
}

/* It is made here; of the peer's nothing will be heard any more. */
static void give_up_peer(struct snapop *o, const char *why)
{
	o->peer = PEER_FAILED;
	(void)snprintf(o->peer_why, sizeof(o->peer_why), "%s", why); /* fits */
	snapop_end(o);
}

void snapop_changed(void *arg, struct vmrun *v)
{
	struct snapop *o = arg;
	enum pair_state s = v->pair.state;

	if (v != o->v || o->working)
		return;
	/* Its moment is everybody's if we run it with authority now. */
	if (o->stage == ST_SURE && o->memory != MEM_WAITED_FOR &&
	    (s == PAIR_RUNNING_ALONE || s == PAIR_PROTECTED)) {
		snapop_give(o, run_confirm, on_confirmed);
	} else if (!link_is_lost(o)) {
		return;
	} else if (o->mine && o->stage == ST_PEER) {
		give_up_peer(o, "the standby was lost meanwhile");
	} else if (o->mine && o->stage == ST_ASK) {
		snapop_abandon(o, "the standby was lost meanwhile");
	} else if (!o->mine && o->stage == ST_MAKE && !o->last_wait) {
		/* It may be among what was acknowledged and is being written. */
		o->last_wait = 1;
		snapop_set_limit(o, SNAP_LAST_MS);
	}
}

void snapop_limit(evutil_socket_t fd, short what, void *arg)
{
	struct snapop *o = arg;

	if (o->working)
		return;
	if (o->stage == ST_PEER)
		give_up_peer(o, "it does not answer");
	else if (o->stage == ST_ASK || !o->mine)
		snapop_abandon(o, "the other host does not answer");
}

void snapop_make(struct snapop *o)
{
	o->stage = ST_MAKE;
	if (o->mine)
		vmrun_snap_tell(
			o->v,
			json_pack("{s:s,s:I}", "op", "snap", "id", (json_int_t)o->s.id),
			-1);
}

static void run_switch(struct filework_job *j)
{
	struct snapop *o = (struct snapop *)j;

	o->rc = snap_switch(&o->s, &o->err);
}

static void on_switched(struct filework_job *j)
{
	struct snapop *o = (struct snapop *)j;
	struct vmrun *v = o->v;

	o->working = 0;
	if (o->rc)
		(void)snprintf(o->why, sizeof(o->why), "%s", o->err.msg); /* cut */
	if (o->gone) {
		snapop_end(o);
	} else if (o->rc == -EUCLEAN) {
		/* Its images have other names than it knows: it must not write them. */
		if (vmproc_signal(v->proc, SIGKILL))
			log_err("%s: rhea-vm cannot be ended", v->cfg->name);
	} else {
		vmrun_snap_tell(v,
				json_pack("{s:s,s:I,s:b}", "op", "snap-switched", "id",
					  (json_int_t)o->s.id, "ok", !o->rc),
				-1);
	}
}

void vmrun_snap_switch(struct vmrun *v, json_t *msg)
{
	json_t *epoch = json_object_get(msg, "epoch");
	struct snapop *o = v->snap;

	if (!o || o->s.id != snapop_id(msg) || o->stage != ST_MAKE || o->working) {
		/* Given up here meanwhile. */
		vmrun_snap_tell(v,
				json_pack("{s:s,s:I,s:b}", "op", "snap-switched", "id",
					  (json_int_t)snapop_id(msg), "ok", 0),
				-1);
		return;
	}
	(void)event_del(o->limit); /* not pending is fine */
	o->s.epoch =
		json_is_integer(epoch) ? (uint64_t)json_integer_value(epoch) : UINT64_MAX;
	snapop_give(o, run_switch, on_switched);
}

/* When all is known. */
static void confirm(struct snapop *o)
{
	if (o->sure && !o->working && o->memory != MEM_WAITED_FOR)
		snapop_give(o, run_confirm, on_confirmed);
	else
		snapop_changed(o, o->v);
}

void vmrun_snap_over(struct vmrun *v, json_t *msg)
{
	struct snapop *o = v->snap;

	if (!o || o->s.id != snapop_id(msg) || o->working || o->stage != ST_MAKE)
		return;
	if (!json_is_true(json_object_get(msg, "ok"))) {
		snapop_abandon(o, snapop_text(msg, "why"));
		return;
	}
	o->stage = ST_SURE;
	o->sure = json_is_true(json_object_get(msg, "sure"));
	confirm(o);
}

void vmrun_snap_memory(struct vmrun *v, json_t *msg)
{
	struct snapop *o = v->snap;
	int ok = json_is_true(json_object_get(msg, "ok"));

	if (!o || o->s.id != snapop_id(msg) || o->memory != MEM_WAITED_FOR)
		return;
	o->memory = ok ? MEM_SAVED : MEM_FAILED;
	(void)snprintf(o->memory_why, sizeof(o->memory_why), "%s",
		       snapop_text(msg, "why")); /* cutting is fine */
	if (o->stage == ST_SURE)
		confirm(o);
}

static void peer_ready(struct snapop *o, json_t *note)
{
	char why[300];

	if (o->stage != ST_ASK)
		return;
	(void)event_del(o->limit); /* not pending is fine */
	if (json_is_true(json_object_get(note, "ok"))) {
		o->peer = PEER_READY;
		snapop_make(o);
		return;
	}
	o->peer = PEER_FAILED;
	(void)snprintf(why, sizeof(why), "host %s: %s", config_peer(o->v->h->cfg)->name,
		       snapop_text(note, "why")); /* cutting is fine */
	snapop_abandon(o, why);
}

static void peer_done(struct snapop *o, json_t *note)
{
	o->peer = json_is_true(json_object_get(note, "ok")) ? PEER_COMPLETE : PEER_FAILED;
	(void)snprintf(o->peer_why, sizeof(o->peer_why), "%s",
		       snapop_text(note, "why")); /* cutting is fine */
	if (o->stage == ST_PEER)
		snapop_end(o);
}

void vmrun_peer_note(struct vmrun *v, json_t *msg)
{
	json_t *note = json_object_get(msg, "note");
	const char *what = snapop_text(note, "snap");
	struct snapop *o = v->snap && v->snap->s.id == snapop_id(note) ? v->snap : NULL;

	if (!strcmp(what, "prepare"))
		snapop_peer_prepare(v, note);
	else if (!strcmp(what, "ready") && o && o->mine)
		peer_ready(o, note);
	else if (!strcmp(what, "done") && o && o->mine)
		peer_done(o, note);
	else if (!strcmp(what, "abandon") && o && !o->mine && !o->working)
		snapop_abandon(o, snapop_text(note, "why"));
	else if (!strcmp(what, "list"))
		vmrun_snap_say_list(v, note);
	else if (!strcmp(what, "listed"))
		vmrun_snap_take_list(v, note);
	else if (!strcmp(what, "delete") || !strcmp(what, "deleted"))
		vmrun_snapdel_note(v, note, what);
}

void vmrun_snap_exited(struct vmrun *v)
{
	struct snapop *o = v->snap;

	vmrun_snap_take_list(v, NULL);
	vmrun_snapdel_exited(v);
	if (!o)
		return;
	o->gone = 1;
	if (!o->why[0] && o->stage != ST_PEER)
		(void)snprintf(o->why, sizeof(o->why),
			       "rhea-vm has ended meanwhile"); /* fits */
	if (o->working)
		return;
	if (o->stage == ST_PEER)
		snapop_end(o);
	else
		snapop_abandon(o, o->why);
}

void vmrun_snap_end(struct vmrun *v)
{
	struct snapop *o = v->snap;

	vmrun_snap_take_list(v, NULL);
	vmrun_snapdel_end(v);
	if (!o)
		return;
	host_watch_remove(v->h, &o->watch);
	event_free(o->limit);
	free(o);
	v->snap = NULL;
}
