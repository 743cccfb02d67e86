/* SPDX-License-Identifier: Apache-2.0
 * cmd_snap - commands about snapshots: create, delete, revert, list.
 */
#include "ctl/cmd.h"

#include "ctl/ctlsock.h"
#include "ctl/events.h"
#include "ctl/filework.h"
#include "ctl/host.h"
#include "ctl/snapfile.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "ctl/vmrun_snap.h"
#include "ctl/vmrun_start.h"
#include "hv/base/err.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Somebody who waits for the end of one that is made or deleted. */
struct wait {
	struct ctl_conn *c; /* NULL: the client has gone */
	struct vmrun *v;
};

static void on_over(void *arg, const char *why, json_t *result)
{
	struct wait *w = arg;

	if (why[0])
		ctl_error(w->c, "%s: %s", vmrun_config(w->v)->name, why);
	else
		ctl_end(w->c, json_pack("{s:O}", "snapshot", result));
	free(w);
}

static void on_wait_gone(void *arg)
{
	struct wait *w = arg;

	vmrun_snap_unasked(w->v, w);
	vmrun_snap_undeleted(w->v, w);
	free(w);
}

static void wish(struct host *h, struct ctl_conn *c, json_t *req,
		 int (*begin)(struct vmrun *v, const char *name, snap_told_fn *fn,
			      void *arg, const char **why_out),
		 const char *offline)
{
	const char *name = json_string_value(json_object_get(req, "name")), *why;
	struct vmrun *v = cmd_vm(h, c, req);
	struct wait *w;

	if (!v)
		return;
	if (!vmrun_pair(v)->running || !vmrun_proc(v)) {
		ctl_error(
			c,
			"%s does not run on host %s: do it where it runs, or, while it is "
			"off, %s",
			vmrun_config(v)->name, config_self(h->cfg)->name, offline);
		return;
	}
	w = calloc(1, sizeof(*w));
	if (!w) {
		ctl_error(c, "rhead: out of memory");
		return;
	}
	*w = (struct wait){.c = c, .v = v};
	if (begin(v, name ? name : "", on_over, w, &why)) {
		ctl_error(c, "%s: %s", vmrun_config(v)->name, why);
		free(w);
		return;
	}
	ctl_async(c, on_wait_gone, w);
}

void cmd_snap_create(struct host *h, struct ctl_conn *c, json_t *req)
{
	int memory = json_is_true(json_object_get(req, "memory"));

	wish(h, c, req, memory ? vmrun_snap_create_memory : vmrun_snap_create,
	     "with rheactl image snapshot");
}

void cmd_snap_delete(struct host *h, struct ctl_conn *c, json_t *req)
{
	wish(h, c, req, vmrun_snap_delete, "start it first");
}

/* Both hosts' lists; the peer's only if it is linked. */
struct list {
	struct filework_job job; /* first */
	struct host *h;
	struct ctl_conn *c; /* NULL: the client has gone */
	struct vmrun *v;
	json_t *here, *there;
	int asking, working;
};

static void list_step(struct list *l)
{
	if (l->asking || l->working)
		return;
	if (l->c)
		ctl_end(l->c, json_pack("{s:s,s:O,s:s,s:O}", "host",
					config_self(l->h->cfg)->name, "snapshots",
					l->here, "peer", config_peer(l->h->cfg)->name,
					"peer_snapshots", l->there));
	json_decref(l->here);
	json_decref(l->there);
	free(l);
}

static void run_list(struct filework_job *j)
{
	struct list *l = (struct list *)j;

	l->here = vmrun_snaps_here(vmrun_config(l->v));
}

static void on_listed_here(struct filework_job *j)
{
	struct list *l = (struct list *)j;

	l->working = 0;
	list_step(l);
}

static void on_listed_there(void *arg, json_t *snapshots)
{
	struct list *l = arg;

	l->asking = 0;
	l->there = snapshots ? json_incref(snapshots) : json_null();
	list_step(l);
}

static void on_list_gone(void *arg)
{
	((struct list *)arg)->c = NULL;
}

void cmd_snap_list(struct host *h, struct ctl_conn *c, json_t *req)
{
	struct vmrun *v = cmd_vm(h, c, req);
	struct list *l = v ? calloc(1, sizeof(*l)) : NULL;

	if (!v)
		return;
	if (!l) {
		ctl_error(c, "rhead: out of memory");
		return;
	}
	*l = (struct list){
		.job = {.run = run_list, .done = on_listed_here}, .h = h, .c = c, .v = v};
	ctl_async(c, on_list_gone, l);
	l->working = l->asking = 1;
	if ((vmrun_pair(v)->state != PAIR_PROTECTED &&
	     !pair_state_is_eligible(vmrun_pair(v)->state)) ||
	    vmrun_snap_ask_list(v, on_listed_there, l)) {
		l->asking = 0;
		l->there = json_null();
	}
	filework_give(h->files, &l->job);
}

struct revert {
	struct filework_job job; /* first */
	struct host *h;
	struct ctl_conn *c; /* NULL: the client has gone */
	struct vmrun *v;
	char name[SNAP_NAME_MAX];
	int rc, memory;
	struct err err;
};

/* Memory first: until the record says so, nobody believes that it is there. */
static void run_revert(struct filework_job *j)
{
	struct revert *w = (struct revert *)j;
	const struct config_vm *vm = vmrun_config(w->v);
	char journal[PATH_MAX], activity[PATH_MAX];
	struct snap *s = calloc(1, sizeof(*s));

	if (!s) {
		w->rc = err_set(&w->err, -ENOMEM, "out of memory");
		return;
	}
	w->rc = snap_load(vm, w->name, s, &w->err);
	if (!w->rc) {
		w->rc = vmrun_journal_path(w->h, vm, journal, sizeof(journal));
		w->rc = w->rc ? w->rc : vmrun_activity_path(w->h, vm, activity);
		w->rc = w->rc ? err_sys(&w->err, w->rc, "its journal") : 0;
		w->memory = !w->rc && s->memory[0];
		if (w->memory)
			w->rc = vmrun_saved_take(w->h, vm, s->memory, &w->err);
		w->rc = w->rc ? w->rc : snap_revert(s, journal, activity, &w->err);
	}
	free(s);
}

static void on_reverted(struct filework_job *j)
{
	struct revert *w = (struct revert *)j;
	const char *vm = vmrun_config(w->v)->name;

	(void)vmrun_snap_hold(w->v, 0); /* to let go never fails */
	if (!w->rc) {
		vmrun_reverted(w->v, w->memory);
		events_add(
			w->h->events, vm, vmrun_pair(w->v)->term, 0,
			w->memory
				? "operator: its disks and memory are back at snapshot %s"
				: "operator: its disks are back at snapshot %s",
			w->name);
	}
	if (w->c && w->rc)
		ctl_error(w->c, "%s: %s", vm, w->err.msg);
	else if (w->c)
		ctl_end(w->c, json_pack("{s:b,s:b}", "ok", 1, "memory", w->memory));
	free(w);
}

static void on_revert_gone(void *arg)
{
	((struct revert *)arg)->c = NULL;
}

/* Why its disks must not be taken back here and now; NULL: they may. */
static const char *not_now(const struct host *h, const struct vmrun *v)
{
	const struct pair *p = vmrun_pair(v);

	if (vmrun_proc(v) || (p->state != PAIR_OFF && p->state != PAIR_FAILED))
		return "stop it first";
	if (h->peer_up && p->peer.state != PAIR_OFF && p->peer.state != PAIR_FAILED)
		return "it is on, on the other host";
	if (p->rec.saved)
		return "it is suspended: resume it, or start it with --discard, first";
	return p->rec.mine ? NULL : "it ran on the other host last: do it there";
}

void cmd_snap_revert(struct host *h, struct ctl_conn *c, json_t *req)
{
	const char *name = json_string_value(json_object_get(req, "name")), *why;
	struct vmrun *v = cmd_vm(h, c, req);
	struct revert *w;

	if (!v)
		return;
	why = not_now(h, v);
	if (!why && (!name || !snap_name_ok(name)))
		why = "no snapshot has such a name";
	w = why ? NULL : calloc(1, sizeof(*w));
	if (w && vmrun_snap_hold(v, 1)) {
		why = "a snapshot of it is being made or deleted";
		free(w);
		w = NULL;
	}
	if (!w) {
		ctl_error(c, "%s: %s", vmrun_config(v)->name,
			  why ? why : "rhead: out of memory");
		return;
	}
	*w = (struct revert){
		.job = {.run = run_revert, .done = on_reverted}, .h = h, .c = c, .v = v};
	(void)snprintf(w->name, sizeof(w->name), "%s", name); /* was looked at */
	ctl_async(c, on_revert_gone, w);
	filework_give(h->files, &w->job);
}
