/* SPDX-License-Identifier: Apache-2.0
 * vmrun_snaplist - the list of a VM's snapshots on this host, for the peer, and the peer's for us.
 */
#include "ctl/vmrun_snap.h"

#include "ctl/filework.h"
#include "ctl/host.h"
#include "ctl/snapfile.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun_impl.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

/* The peer's question. */
struct saying {
	struct filework_job job; /* first */
	struct host *h;
	struct vmrun *v;
	uint64_t id;
	json_t *list;
};

/* Ours. */
struct snaplist {
	struct vmrun *v;
	uint64_t id;
	snap_listed_fn *fn;
	void *arg;
	struct event *limit;
};

void vmrun_snap_tell(struct vmrun *v, json_t *msg, int fd)
{
	int rc = v->proc ? vmproc_send(v->proc, msg, fd) : -EPIPE;

	if (!v->proc)
		json_decref(msg);
	if (rc && rc != -EPIPE) /* its end is told */
		log_warn("%s: rhea-vm cannot be told of a snapshot: %s", v->cfg->name,
			 strerror(-rc));
}

void vmrun_snap_tell_peer(struct vmrun *v, json_t *note)
{
	vmrun_snap_tell(v, json_pack("{s:s,s:o}", "op", "peer-note", "note", note), -1);
}

json_t *vmrun_snaps_here(const struct config_vm *vm)
{
	struct snap **list;
	json_t *all = json_array();
	struct err err = {0};
	unsigned n;

	if (snap_list(vm, &list, &n, &err))
		return all; /* it can have none, which is no failure here */
	for (unsigned i = 0; i < n; i++)
		if (json_array_append_new(all, snap_json(list[i])))
			log_warn("%s: out of memory: a snapshot is not listed", vm->name);
	snap_list_free(list, n);
	return all;
}

static void run_say(struct filework_job *j)
{
	struct saying *y = (struct saying *)j;

	y->list = vmrun_snaps_here(y->v->cfg);
}

static void on_said(struct filework_job *j)
{
	struct saying *y = (struct saying *)j;

	/* Who does not get an answer says so. */
	vmrun_snap_tell_peer(y->v, json_pack("{s:s,s:I,s:o}", "snap", "listed", "id",
					     (json_int_t)y->id, "snapshots", y->list));
	free(y);
}

void vmrun_snap_say_list(struct vmrun *v, json_t *note)
{
	struct saying *y = calloc(1, sizeof(*y));

	if (!y)
		return; /* likewise */
	y->job = (struct filework_job){.run = run_say, .done = on_said};
	y->v = v;
	y->id = (uint64_t)json_integer_value(json_object_get(note, "id"));
	filework_give(v->h->files, &y->job);
}

void vmrun_snap_take_list(struct vmrun *v, json_t *note)
{
	struct snaplist *l = v->snaplist;
	json_t *list = json_object_get(note, "snapshots");

	if (!l ||
	    (note && (uint64_t)json_integer_value(json_object_get(note, "id")) != l->id))
		return;
	v->snaplist = NULL;
	event_free(l->limit);
	if (l->fn)
		l->fn(l->arg, json_is_array(list) ? list : NULL);
	free(l);
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	struct snaplist *l = arg;

	vmrun_snap_take_list(l->v, NULL);
}

int vmrun_snap_ask_list(struct vmrun *v, snap_listed_fn *fn, void *arg)
{
	static const struct timeval limit = {.tv_sec = SNAP_LIST_MS / 1000};
	static uint64_t ids;
	struct snaplist *l;

	if (v->snaplist)
		return -EBUSY;
	if (!v->proc)
		return -ENOTCONN;
	l = calloc(1, sizeof(*l));
	if (l)
		l->limit = evtimer_new(loop_base(v->h->loop), on_limit, l);
	if (!l || !l->limit || event_add(l->limit, &limit)) {
		if (l && l->limit)
			event_free(l->limit);
		free(l);
		return -ENOMEM;
	}
	l->v = v;
	l->id = ++ids;
	l->fn = fn;
	l->arg = arg;
	v->snaplist = l;
	/* Without an answer, the limit comes. */
	vmrun_snap_tell_peer(
		v, json_pack("{s:s,s:I}", "snap", "list", "id", (json_int_t)l->id));
	return 0;
}

void vmrun_snap_unlisted(struct vmrun *v, const void *arg)
{
	if (v->snaplist && v->snaplist->arg == arg)
		v->snaplist->fn = NULL;
}
