/* SPDX-License-Identifier: Apache-2.0
 * vmrun_snap - a snapshot's way through its stages on one host.
 */
#include "ctl/vmrun_snap.h"

#include "ctl/events.h"
#include "ctl/filework.h"
#include "ctl/host.h"
#include "ctl/image_ops.h"
#include "ctl/snapfile.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "ctl/vmrun_impl.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum stage {
	ST_PREPARE,
	ST_ASK,	 /* the peer */
	ST_MAKE, /* rhea-vm has it */
	ST_SURE,
	ST_PEER,
	ST_ABANDON,
};

enum memory { MEM_NONE, MEM_WAITED_FOR, MEM_SAVED, MEM_FAILED };
enum peer { PEER_NONE, PEER_ASKED, PEER_READY, PEER_COMPLETE, PEER_FAILED };

struct snapop {
	struct filework_job job; /* first */
	struct vmrun *v;
	int mine; /* asked for here, not by the peer */
	enum stage stage;
	struct snap s;
	int fd[CONFIG_DISKS_MAX], memory_fd;
	enum memory memory;
	enum peer peer;
	char why[512], peer_why[256], memory_why[256];
	struct event *limit;
	struct host_watch watch;
	snap_told_fn *told;
	void *arg;
	/* The job at hand. */
	int working, rc;
	struct err err;
	int gone; /* rhea-vm has ended */
	int last_wait;
	int sure; /* its moment is committed */
};

static void give(struct snapop *o, void (*run)(struct filework_job *j),
		 void (*done)(struct filework_job *j))
{
	o->job.run = run;
	o->job.done = done;
	o->err = (struct err){0};
	o->working = 1;
	filework_give(o->v->h->files, &o->job);
}

static void end(struct snapop *o)
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

static void tell_peer(struct snapop *o, const char *what, int ok, const char *why)
{
	vmrun_snap_tell_peer(o->v, json_pack("{s:s,s:I,s:b,s:s}", "snap", what, "id",
					     (json_int_t)o->s.id, "ok", ok, "why", why));
}

static void set_limit(struct snapop *o, unsigned ms)
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
	end(o);
}

/* It will not be made; @why is kept if it is the first reason. No job is under way. */
static void abandon(struct snapop *o, const char *why)
{
	if (!o->why[0])
		(void)snprintf(o->why, sizeof(o->why), "%s", why); /* cutting is fine */
	if (o->mine && o->peer != PEER_NONE && o->peer != PEER_FAILED)
		tell_peer(o, "abandon", 0, o->why);
	else if (!o->mine && o->stage != ST_MAKE)
		tell_peer(o, "ready", 0, o->why);
	else if (!o->mine)
		tell_peer(o, "done", 0, o->why);
	vmrun_snap_tell(o->v, json_pack("{s:s}", "op", "snap-drop"), -1);
	(void)event_del(o->limit); /* not pending is fine */
	o->stage = ST_ABANDON;
	/* What has its names stays: it is shown as not complete, and can be deleted. */
	if (o->s.state == SNAP_PREPARED)
		give(o, run_abandon, on_abandoned);
	else
		end(o);
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
		tell_peer(o, "done", !o->rc, o->why);
	if (!o->mine || o->rc || o->gone || o->peer != PEER_READY) {
		end(o);
		return;
	}
	o->stage = ST_PEER;
	set_limit(o, o->memory ? SNAP_MEMORY_MS : SNAP_WAIT_MS);
}

/* What the other host was asked for will not come: the link is gone on which it would have. */
static int is_cut_short(const struct snapop *o)
{
	enum pair_state s = o->v->pair.state;

	if (o->mine)
		return o->stage == ST_ASK && s != PAIR_PROTECTED;
	/* Each link that ends takes its term with it. */
	return o->stage == ST_MAKE && !o->last_wait &&
	       (o->v->pair.term != o->s.term || s == PAIR_RUNNING_ALONE ||
		s == PAIR_STANDBY_EMPTY || s == PAIR_STANDBY_SYNCING);
}

/* It is made here; of the peer's nothing will be heard any more. */
static void give_up_peer(struct snapop *o, const char *why)
{
	o->peer = PEER_FAILED;
	(void)snprintf(o->peer_why, sizeof(o->peer_why), "%s", why); /* fits */
	end(o);
}

static void on_change(void *arg, struct vmrun *v)
{
	struct snapop *o = arg;
	enum pair_state s = v->pair.state;

	if (v != o->v || o->working)
		return;
	/* Its moment is everybody's if we run it with authority now. */
	if (o->stage == ST_SURE && o->memory != MEM_WAITED_FOR &&
	    (s == PAIR_RUNNING_ALONE || s == PAIR_PROTECTED)) {
		give(o, run_confirm, on_confirmed);
	} else if (o->mine && o->stage == ST_PEER && s != PAIR_PROTECTED) {
		give_up_peer(o, "the standby was lost meanwhile");
	} else if (is_cut_short(o) && o->mine) {
		abandon(o, "the standby was lost meanwhile");
	} else if (is_cut_short(o)) {
		/* It may be among what was acknowledged and is being written. */
		o->last_wait = 1;
		set_limit(o, SNAP_LAST_MS);
	}
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	struct snapop *o = arg;

	if (o->working)
		return;
	if (o->stage == ST_PEER)
		give_up_peer(o, "it does not answer");
	else if (o->stage == ST_ASK || !o->mine)
		abandon(o, "the other host does not answer");
}

static void make(struct snapop *o)
{
	o->stage = ST_MAKE;
	if (o->mine)
		vmrun_snap_tell(
			o->v,
			json_pack("{s:s,s:I}", "op", "snap", "id", (json_int_t)o->s.id),
			-1);
}

/* The peer does the same before it is made here. */
static void ask_peer(struct snapop *o)
{
	const struct snap *s = &o->s;

	o->stage = ST_ASK;
	o->peer = PEER_ASKED;
	set_limit(o, SNAP_ASK_MS);
	vmrun_snap_tell_peer(o->v, json_pack("{s:s,s:I,s:s,s:s,s:I,s:I,s:i,s:b}", "snap",
					     "prepare", "id", (json_int_t)s->id, "name",
					     s->name, "host", s->host, "term",
					     (json_int_t)s->term, "created_ms",
					     (json_int_t)s->created_ms, "disks",
					     (int)s->n, "memory", s->with_memory));
}

static void run_prepare(struct filework_job *j)
{
	struct snapop *o = (struct snapop *)j;

	struct err more = {0};

	o->rc = snap_prepare(o->v->cfg, &o->s, o->fd, &o->err);
	if (o->rc || !o->s.with_memory)
		return;
	/* Its name is durable with the description's next store, and of no use before. */
	o->memory_fd = image_new_file(o->s.memory, &o->err);
	if (o->memory_fd >= 0)
		return;
	o->rc = o->memory_fd;
	for (unsigned i = 0; i < o->s.n; i++)
		(void)close(o->fd[i]); /* nothing that is kept was written through it */
	if (snap_abandon(&o->s, &more))
		log_warn("%s", more.msg);
}

static void give_children(struct snapop *o)
{
	if (o->s.with_memory) {
		vmrun_snap_tell(o->v,
				json_pack("{s:s,s:I,s:[s]}", "op", "snap-memory", "id",
					  (json_int_t)o->s.id, "fds", "memory"),
				o->memory_fd);
		(void)close(o->memory_fd); /* likewise */
		o->memory = MEM_WAITED_FOR;
	}
	for (unsigned i = 0; i < o->s.n; i++) {
		vmrun_snap_tell(o->v,
				json_pack("{s:s,s:I,s:i,s:[s]}", "op", "snap-child", "id",
					  (json_int_t)o->s.id, "disk",
					  (int)o->s.disk[i].disk, "fds", "child"),
				o->fd[i]);
		(void)close(o->fd[i]); /* rhea-vm has one of its own */
	}
}

static void on_prepared(struct filework_job *j)
{
	struct snapop *o = (struct snapop *)j;

	o->working = 0;
	if (o->rc) {
		(void)snprintf(o->why, sizeof(o->why), "%s", o->err.msg); /* cut */
		if (!o->mine)
			tell_peer(o, "ready", 0, o->why);
		end(o);
		return;
	}
	give_children(o);
	if (o->gone) {
		abandon(o, "rhea-vm has ended meanwhile");
	} else if (!o->mine) {
		set_limit(o, SNAP_WAIT_MS);
		tell_peer(o, "ready", 1, "");
		make(o);
		on_change(o, o->v); /* it may have been while this was prepared */
	} else if (o->v->pair.state == PAIR_PROTECTED) {
		ask_peer(o);
	} else {
		make(o);
	}
}

static struct snapop *op_new(struct vmrun *v, const char *name)
{
	struct snapop *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->v = v;
	o->limit = evtimer_new(loop_base(v->h->loop), on_limit, o);
	if (!o->limit) {
		free(o);
		return NULL;
	}
	o->watch = (struct host_watch){.fn = on_change, .arg = o};
	(void)snprintf(o->s.vm, sizeof(o->s.vm), "%s", v->cfg->name); /* fits */
	(void)snprintf(o->s.name, sizeof(o->s.name), "%s", name);     /* was looked at */
	host_watch_add(v->h, &o->watch);
	v->snap = o;
	return o;
}

static int begin_mine(struct vmrun *v, const char *name, int memory, snap_told_fn *fn,
		      void *arg, const char **why_out)
{
	struct snapop *o;

	*why_out = vmrun_disks_busy(v);
	if (*why_out)
		return -EBUSY;
	*why_out =
		"a snapshot's name is of up to 32 letters, digits, \".\", \"_\" and \"-\"";
	if (!snap_name_ok(name))
		return -EINVAL;
	*why_out = "rhead: out of memory";
	o = op_new(v, name);
	if (!o)
		return -ENOMEM;
	o->mine = 1;
	o->told = fn;
	o->arg = arg;
	o->s.with_memory = memory;
	o->s.id = clock_real_ns();
	o->s.created_ms = (int64_t)(o->s.id / 1000000);
	o->s.term = v->pair.term;
	(void)snprintf(o->s.host, sizeof(o->s.host), "%s",
		       config_self(v->h->cfg)->name); /* fits */
	give(o, run_prepare, on_prepared);
	return 0;
}

int vmrun_snap_create(struct vmrun *v, const char *name, snap_told_fn *fn, void *arg,
		      const char **why_out)
{
	return begin_mine(v, name, 0, fn, arg, why_out);
}

int vmrun_snap_create_memory(struct vmrun *v, const char *name, snap_told_fn *fn,
			     void *arg, const char **why_out)
{
	return begin_mine(v, name, 1, fn, arg, why_out);
}

void vmrun_snap_unasked(struct vmrun *v, const void *arg)
{
	if (v->snap && v->snap->arg == arg)
		v->snap->told = NULL;
}

static uint64_t id_of(json_t *o)
{
	return (uint64_t)json_integer_value(json_object_get(o, "id"));
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
		end(o);
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

	if (!o || o->s.id != id_of(msg) || o->stage != ST_MAKE || o->working) {
		/* Given up here meanwhile. */
		vmrun_snap_tell(v,
				json_pack("{s:s,s:I,s:b}", "op", "snap-switched", "id",
					  (json_int_t)id_of(msg), "ok", 0),
				-1);
		return;
	}
	(void)event_del(o->limit); /* not pending is fine */
	o->s.epoch =
		json_is_integer(epoch) ? (uint64_t)json_integer_value(epoch) : UINT64_MAX;
	give(o, run_switch, on_switched);
}

static const char *text_of(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

/* When all is known. */
static void confirm(struct snapop *o)
{
	if (o->sure && !o->working && o->memory != MEM_WAITED_FOR)
		give(o, run_confirm, on_confirmed);
	else
		on_change(o, o->v);
}

void vmrun_snap_over(struct vmrun *v, json_t *msg)
{
	struct snapop *o = v->snap;

	if (!o || o->s.id != id_of(msg) || o->working || o->stage != ST_MAKE)
		return;
	if (!json_is_true(json_object_get(msg, "ok"))) {
		abandon(o, text_of(msg, "why"));
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

	if (!o || o->s.id != id_of(msg) || o->memory != MEM_WAITED_FOR)
		return;
	o->memory = ok ? MEM_SAVED : MEM_FAILED;
	(void)snprintf(o->memory_why, sizeof(o->memory_why), "%s",
		       text_of(msg, "why")); /* cutting is fine */
	if (o->stage == ST_SURE)
		confirm(o);
}

static void peer_prepare(struct vmrun *v, json_t *note)
{
	const char *name = text_of(note, "name");
	struct snapop *o = NULL;

	if (!v->snap && !v->snapdel && snap_name_ok(name))
		o = op_new(v, name);
	if (!o) {
		vmrun_snap_tell_peer(
			v, json_pack("{s:s,s:I,s:b,s:s}", "snap", "ready", "id",
				     (json_int_t)id_of(note), "ok", 0, "why",
				     v->snap ? "a snapshot of it is being made there"
					     : "it cannot begin"));
		return;
	}
	o->s.id = id_of(note);
	o->s.with_memory = json_is_true(json_object_get(note, "memory"));
	o->s.created_ms = json_integer_value(json_object_get(note, "created_ms"));
	o->s.term = (uint64_t)json_integer_value(json_object_get(note, "term"));
	(void)snprintf(o->s.host, sizeof(o->s.host), "%s",
		       text_of(note, "host")); /* cutting is fine */
	give(o, run_prepare, on_prepared);
}

static void peer_ready(struct snapop *o, json_t *note)
{
	char why[300];

	if (o->stage != ST_ASK)
		return;
	(void)event_del(o->limit); /* not pending is fine */
	if (json_is_true(json_object_get(note, "ok"))) {
		o->peer = PEER_READY;
		make(o);
		return;
	}
	o->peer = PEER_FAILED;
	(void)snprintf(why, sizeof(why), "host %s: %s", config_peer(o->v->h->cfg)->name,
		       text_of(note, "why")); /* cutting is fine */
	abandon(o, why);
}

static void peer_done(struct snapop *o, json_t *note)
{
	o->peer = json_is_true(json_object_get(note, "ok")) ? PEER_COMPLETE : PEER_FAILED;
	(void)snprintf(o->peer_why, sizeof(o->peer_why), "%s",
		       text_of(note, "why")); /* cutting is fine */
	if (o->stage == ST_PEER)
		end(o);
}

void vmrun_peer_note(struct vmrun *v, json_t *msg)
{
	json_t *note = json_object_get(msg, "note");
	const char *what = text_of(note, "snap");
	struct snapop *o = v->snap && v->snap->s.id == id_of(note) ? v->snap : NULL;

	if (!strcmp(what, "prepare"))
		peer_prepare(v, note);
	else if (!strcmp(what, "ready") && o && o->mine)
		peer_ready(o, note);
	else if (!strcmp(what, "done") && o && o->mine)
		peer_done(o, note);
	else if (!strcmp(what, "abandon") && o && !o->mine && !o->working)
		abandon(o, text_of(note, "why"));
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
		end(o);
	else
		abandon(o, o->why);
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
