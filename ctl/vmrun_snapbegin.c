/* SPDX-License-Identifier: Apache-2.0
 * vmrun_snapbegin - the beginning of a snapshot: its files are prepared, here and on the peer's host.
 */
#include "ctl/vmrun_snapop.h"

#include "ctl/image_ops.h"
#include "ctl/vmrun.h"
#include "ctl/vmrun_impl.h"
#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The peer does the same before it is made here. */
static void ask_peer(struct snapop *o)
{
	const struct snap *s = &o->s;

	o->stage = ST_ASK;
	o->peer = PEER_ASKED;
	snapop_set_limit(o, SNAP_ASK_MS);
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
			snapop_tell_peer(o, "ready", 0, o->why);
		snapop_end(o);
		return;
	}
	give_children(o);
	if (o->gone) {
		snapop_abandon(o, "rhea-vm has ended meanwhile");
	} else if (!o->mine) {
		snapop_set_limit(o, SNAP_WAIT_MS);
		snapop_tell_peer(o, "ready", 1, "");
		snapop_make(o);
		snapop_changed(o, o->v); /* it may have been while this was prepared */
	} else if (o->v->pair.state == PAIR_PROTECTED) {
		ask_peer(o);
	} else {
		snapop_make(o);
	}
}

static struct snapop *op_new(struct vmrun *v, const char *name)
{
	struct snapop *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->v = v;
	o->limit = evtimer_new(loop_base(v->h->loop), snapop_limit, o);
	if (!o->limit) {
		free(o);
		return NULL;
	}
	o->watch = (struct host_watch){.fn = snapop_changed, .arg = o};
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
	snapop_give(o, run_prepare, on_prepared);
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

void snapop_peer_prepare(struct vmrun *v, json_t *note)
{
	const char *name = snapop_text(note, "name");
	struct snapop *o = NULL;

	if (!v->snap && !v->snapdel && snap_name_ok(name))
		o = op_new(v, name);
	if (!o) {
		vmrun_snap_tell_peer(
			v, json_pack("{s:s,s:I,s:b,s:s}", "snap", "ready", "id",
				     (json_int_t)snapop_id(note), "ok", 0, "why",
				     v->snap ? "a snapshot of it is being made there"
					     : "it cannot begin"));
		return;
	}
	o->s.id = snapop_id(note);
	o->s.with_memory = json_is_true(json_object_get(note, "memory"));
	o->s.created_ms = json_integer_value(json_object_get(note, "created_ms"));
	o->s.term = (uint64_t)json_integer_value(json_object_get(note, "term"));
	(void)snprintf(o->s.host, sizeof(o->s.host), "%s",
		       snapop_text(note, "host")); /* cutting is fine */
	snapop_give(o, run_prepare, on_prepared);
}
