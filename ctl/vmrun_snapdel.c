/* SPDX-License-Identifier: Apache-2.0
 * vmrun_snapdel - a snapshot is deleted while its VM runs, on this host and, by a note, on the standby's.
 *
 * Each host does it for itself: BEGIN (snapfile_delete.c), rhea-vm copies what is needed (vmm_snapleave.c), END. Notes are
 * {"snap":"delete","id":n,"name":s} and {"snap":"deleted","id":n,"ok":b,"why":s}; the id is the deletion's.
 */
#include "ctl/vmrun_snap.h"

#include "ctl/events.h"
#include "ctl/filework.h"
#include "ctl/host.h"
#include "ctl/snapfile.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "ctl/vmrun_impl.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/hex.h"
#include "hv/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RATE = 100 << 20 }; /* bytes a second, if the config says nothing of a resync's */

struct snapdel {
	struct filework_job job; /* first */
	struct vmrun *v;
	int mine;
	uint64_t id;
	struct snap s;
	struct snap_leave leave[CONFIG_DISKS_MAX];
	int rc;
	struct err err;
	int working, over, gone, absent; /* absent: this host has none of that name */
	char why[512];
	int peer; /* 1: is asked, 2: has deleted it, 3: had none, -1: failed */
	char peer_why[256];
	struct host_watch watch;
	snap_told_fn *told;
	void *arg;
};

static void give(struct snapdel *o, void (*run)(struct filework_job *j),
		 void (*done)(struct filework_job *j))
{
	o->job.run = run;
	o->job.done = done;
	o->err = (struct err){0};
	o->working = 1;
	filework_give(o->v->h->files, &o->job);
}

static void say(struct snapdel *o, const char *what, int ok, const char *why)
{
	vmrun_snap_tell(o->v,
			json_pack("{s:s,s:{s:s,s:I,s:s,s:b,s:b,s:s}}", "op", "peer-note",
				  "note", "snap", what, "id", (json_int_t)o->id, "name",
				  o->s.name, "ok", ok, "absent", o->absent, "why", why),
			-1);
}

static void end(struct snapdel *o)
{
	static const char *const peer[] = {"failed", "none", "failed", "deleted", "none"};
	struct vmrun *v = o->v;
	json_t *r;

	host_watch_remove(v->h, &o->watch);
	v->snapdel = NULL;
	if (!o->mine)
		say(o, "deleted", !o->why[0], o->why);
	if (o->absent && o->peer != 2 && !o->why[0])
		(void)snprintf(o->why, sizeof(o->why), "there is no snapshot %s",
			       o->s.name); /* fits */
	if (!o->absent)
		events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
			   "snapshot %s %s%s", o->s.name,
			   o->why[0] ? "cannot be deleted: " : "is deleted", o->why);
	if (o->told) {
		r = json_pack("{s:s,s:b,s:s,s:s}", "name", o->s.name, "here", !o->absent,
			      "peer", peer[o->peer + 1], "peer_why", o->peer_why);
		o->told(o->arg, o->why, r);
		json_decref(r);
	}
	free(o);
}

static void maybe_end(struct snapdel *o)
{
	if (o->over && o->peer != 1)
		end(o);
}

static void fail(struct snapdel *o, const char *why)
{
	(void)snprintf(o->why, sizeof(o->why), "%s", why); /* cutting is fine */
	o->over = 1;
	maybe_end(o);
}

static void run_end(struct filework_job *j)
{
	struct snapdel *o = (struct snapdel *)j;

	o->rc = snap_delete_end(&o->s, &o->err);
}

static void on_end(struct filework_job *j)
{
	struct snapdel *o = (struct snapdel *)j;

	o->working = 0;
	o->over = 1;
	if (o->rc)
		fail(o, o->err.msg);
	else
		maybe_end(o);
}

static json_t *parent_json(const struct snap_leave *l)
{
	char uuid[2 * VHD_UUID_LEN + 1];

	hex_put(uuid, l->parent_uuid, VHD_UUID_LEN);
	return l->has_parent ? json_pack("{s:s,s:s,s:s,s:I}", "uuid", uuid, "path",
					 l->parent, "relative", l->relative, "time",
					 (json_int_t)l->parent_time)
			     : json_null();
}

static void order(struct snapdel *o, unsigned i)
{
	const struct snap_leave *l = &o->leave[i];
	uint64_t rate = o->v->cfg->resync_rate ? o->v->cfg->resync_rate : RATE;
	char uuid[2 * VHD_UUID_LEN + 1];
	json_t *msg;

	hex_put(uuid, l->uuid, VHD_UUID_LEN);
	msg = json_pack("{s:s,s:I,s:i,s:s,s:I,s:o}", "op", "snap-leave", "id",
			(json_int_t)o->id, "disk", (int)o->s.disk[i].disk, "uuid", uuid,
			"rate", (json_int_t)rate, "parent", parent_json(l));
	if (l->fd >= 0 && json_object_set_new(msg, "fds", json_pack("[s]", "child")))
		log_err("out of memory"); /* rhea-vm refuses what lacks it */
	vmrun_snap_tell(o->v, msg, l->fd);
}

static void on_begun(struct filework_job *j)
{
	struct snapdel *o = (struct snapdel *)j;
	unsigned needed = 0;

	o->working = 0;
	o->absent = o->rc == -ENOENT && !o->s.n;
	if (o->absent || o->rc) {
		fail(o, o->absent ? "" : o->err.msg);
		return;
	}
	for (unsigned i = 0; i < o->s.n; i++) {
		if (o->leave[i].needed && o->v->proc && !o->gone)
			order(o, i);
		if (o->leave[i].fd >= 0)
			(void)close(o->leave[i].fd); /* rhea-vm has one of its own */
		needed += o->leave[i].needed ? 1 : 0;
	}
	if (needed && (!o->v->proc || o->gone))
		fail(o, "no rhea-vm runs here that could copy what is needed: start it");
	else if (needed)
		vmrun_snap_tell(o->v,
				json_pack("{s:s,s:I}", "op", "snap-leave-all", "id",
					  (json_int_t)o->id),
				-1);
	else
		give(o, run_end, on_end);
}

static void run_begin(struct filework_job *j)
{
	struct snapdel *o = (struct snapdel *)j;
	char name[SNAP_NAME_MAX];

	memcpy(name, o->s.name, sizeof(name));
	o->s.n = 0;
	o->rc = snap_load(o->v->cfg, name, &o->s, &o->err);
	memcpy(o->s.name, name, sizeof(name));
	if (!o->rc)
		o->rc = snap_delete_begin(&o->s, o->leave, &o->err);
}

/* A standby that is lost does not answer. */
static void on_change(void *arg, struct vmrun *v)
{
	struct snapdel *o = arg;

	if (v != o->v || o->peer != 1 || v->pair.state == PAIR_PROTECTED)
		return;
	o->peer = -1;
	(void)snprintf(o->peer_why, sizeof(o->peer_why),
		       "it was lost meanwhile"); /* fits */
	maybe_end(o);
}

static struct snapdel *op_new(struct vmrun *v, const char *name, uint64_t id)
{
	struct snapdel *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->v = v;
	o->id = id;
	(void)snprintf(o->s.name, sizeof(o->s.name), "%s", name); /* was looked at */
	o->watch = (struct host_watch){.fn = on_change, .arg = o};
	host_watch_add(v->h, &o->watch);
	v->snapdel = o;
	return o;
}

int vmrun_snap_delete(struct vmrun *v, const char *name, snap_told_fn *fn, void *arg,
		      const char **why_out)
{
	struct snapdel *o;

	*why_out = vmrun_disks_busy(v);
	if (*why_out)
		return -EBUSY;
	*why_out = "no snapshot has such a name";
	if (!snap_name_ok(name))
		return -EINVAL;
	*why_out = "rhead: out of memory";
	o = op_new(v, name, clock_real_ns());
	if (!o)
		return -ENOMEM;
	o->mine = 1;
	o->told = fn;
	o->arg = arg;
	if (v->pair.state == PAIR_PROTECTED && v->proc) {
		o->peer = 1;
		say(o, "delete", 1, "");
	}
	give(o, run_begin, on_begun);
	return 0;
}

void vmrun_snap_undeleted(struct vmrun *v, const void *arg)
{
	if (v->snapdel && v->snapdel->arg == arg)
		v->snapdel->told = NULL;
}

void vmrun_snap_left(struct vmrun *v, json_t *msg)
{
	struct snapdel *o = v->snapdel;
	const char *why = json_string_value(json_object_get(msg, "why"));

	if (!o || o->working || o->over ||
	    (uint64_t)json_integer_value(json_object_get(msg, "id")) != o->id)
		return;
	if (json_is_true(json_object_get(msg, "ok")))
		give(o, run_end, on_end);
	else
		fail(o, why && why[0] ? why : "it failed");
}

static void peer_asks(struct vmrun *v, json_t *note, const char *name)
{
	uint64_t id = (uint64_t)json_integer_value(json_object_get(note, "id"));
	struct snapdel *o = NULL;

	if (!v->snap && !v->snapdel && snap_name_ok(name))
		o = op_new(v, name, id);
	if (o)
		give(o, run_begin, on_begun);
	else
		vmrun_snap_tell(
			v,
			json_pack("{s:s,s:{s:s,s:I,s:b,s:s}}", "op", "peer-note", "note",
				  "snap", "deleted", "id", (json_int_t)id, "ok", 0, "why",
				  "a snapshot of it is being made or deleted there"),
			-1);
}

void vmrun_snapdel_note(struct vmrun *v, json_t *note, const char *what)
{
	const char *name = json_string_value(json_object_get(note, "name"));
	const char *why = json_string_value(json_object_get(note, "why"));
	struct snapdel *o = v->snapdel;

	if (!strcmp(what, "delete")) {
		peer_asks(v, note, name ? name : "");
		return;
	}
	if (!o || !o->mine || o->peer != 1 ||
	    (uint64_t)json_integer_value(json_object_get(note, "id")) != o->id)
		return;
	o->peer = json_is_true(json_object_get(note, "absent")) ? 3
		  : json_is_true(json_object_get(note, "ok"))	? 2
								: -1;
	(void)snprintf(o->peer_why, sizeof(o->peer_why), "%s",
		       why ? why : ""); /* cutting is fine */
	maybe_end(o);
}

void vmrun_snapdel_exited(struct vmrun *v)
{
	struct snapdel *o = v->snapdel;

	if (!o)
		return;
	o->gone = 1;
	o->peer = o->peer == 1 ? -1 : o->peer;
	if (!o->working && !o->over)
		fail(o, "rhea-vm has ended meanwhile; give it again");
	else
		maybe_end(o);
}

void vmrun_snapdel_end(struct vmrun *v)
{
	if (!v->snapdel)
		return;
	host_watch_remove(v->h, &v->snapdel->watch);
	free(v->snapdel);
	v->snapdel = NULL;
}

int vmrun_snap_hold(struct vmrun *v, int hold)
{
	if (hold && (v->snap || v->snapdel || v->snap_held))
		return -EBUSY;
	v->snap_held = hold;
	return 0;
}
