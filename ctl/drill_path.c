/* SPDX-License-Identifier: Apache-2.0
 * drill_path - do the deed to a path, watch, report.
 */
#include "ctl/drill_path.h"

#include "ctl/cmd.h"
#include "ctl/ctlsock.h"
#include "ctl/drill_note.h"
#include "ctl/events.h"
#include "ctl/host.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "hv/base/clock.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	FOR_DEFAULT_MS = 3000,
	FOR_MIN_MS = 1,
	FOR_MAX_MS = 60000,
	AFTER_MS = 30000, /* for the path to come back */
	DELAY_MAX_MS = 1000,
};

struct drill_path {
	struct host *h;
	struct ctl_conn *c; /* NULL: the client has left; the drill goes on to its end */
	struct vmrun *v;
	unsigned path;
	char name[96], harm[24];
	int must_move; /* the path was in use, and the harm is one that it cannot live with */
	int harmed, works;
	int took_over; /* a path's number; -1: none */
	unsigned for_ms;
	uint64_t began_ns, took_over_ns, again_ns; /* CLOCK_MONOTONIC; 0: not yet */
	uint64_t term_before;
	json_int_t wait_us, epochs; /* -1: not known */
	struct host_watch watch;
	struct event *limit;
	json_t *steps;
};

static double since_ms(const struct drill_path *d, uint64_t ns)
{
	return (double)(ns - d->began_ns) / 1e6;
}

static json_t *ms_or_null(const struct drill_path *d, uint64_t ns)
{
	return ns ? json_real(since_ms(d, ns)) : json_null();
}

static void name_path(const struct host *h, unsigned i, char *out, size_t room)
{
	const struct config *cfg = h->cfg;
	const struct config_path *p = &cfg->paths[i];

	(void)snprintf(out, room, "%u (%s, %s - %s)", i, p->transport,
		       p->addr[cfg->self].text,
		       p->addr[cfg->peer].text); /* cutting: fine */
}

static void drill_free(struct drill_path *d)
{
	host_watch_remove(d->h, &d->watch);
	if (d->h->drill_path == d)
		d->h->drill_path = NULL;
	if (d->limit)
		event_free(d->limit);
	json_decref(d->steps);
	free(d);
}

void drill_path_destroy(struct drill_path *d)
{
	if (d)
		drill_free(d); /* rhea-vm ends with us, and the harm with it */
}

static int is_protected(const struct drill_path *d)
{
	const struct pair *p = vmrun_pair(d->v);

	return p->state == PAIR_PROTECTED && p->term == d->term_before;
}

static json_t *report(struct drill_path *d, const char *why)
{
	const struct pair *p = vmrun_pair(d->v);
	char other[96] = "";
	int ok = !why[0] && is_protected(d);

	if (d->took_over >= 0)
		name_path(d->h, (unsigned)d->took_over, other, sizeof(other));
	return json_pack(
		"{s:s,s:s,s:b,s:s,s:s,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:I,s:I,s:s,s:O}",
		"drill", "path", "vm", vmrun_config(d->v)->name, "ok", ok, "path",
		d->name, "harm", d->harm, "harm_ms", (json_int_t)d->for_ms, "wait_ms",
		d->wait_us < 0 ? json_null() : json_real((double)d->wait_us / 1e3),
		"took_over", other[0] ? json_string(other) : json_null(), "took_over_ms",
		ms_or_null(d, d->took_over_ns), "epochs",
		d->epochs < 0 ? json_null() : json_integer(d->epochs), "epochs_lost",
		is_protected(d) ? json_integer(0) : json_null(), "again_ms",
		ms_or_null(d, d->again_ns), "term_before", (json_int_t)d->term_before,
		"term_after", (json_int_t)p->term, "why", why, "steps", d->steps);
}

static void finish(struct drill_path *d, const char *why)
{
	const struct pair *p = vmrun_pair(d->v);

	events_add(
		d->h->events, vmrun_config(d->v)->name, p->term, p->epoch,
		"drill path %u %s ended: the guest's output waited for %.1f ms at most%s%s",
		d->path, d->harm, (double)d->wait_us / 1e3, why[0] ? ", " : "", why);
	if (d->c)
		ctl_end(d->c, json_pack("{s:o}", "report", report(d, why)));
	drill_free(d);
}

static void look(struct drill_path *d)
{
	if (!is_protected(d))
		finish(d, "the VM did not stay protected");
	else if (d->harmed || !d->works)
		return;
	else if (d->must_move && d->took_over < 0)
		finish(d, "no other path took over");
	else
		finish(d, "");
}

static void on_change(void *arg, struct vmrun *v)
{
	struct drill_path *d = arg;

	if (v == d->v && !is_protected(d))
		look(d);
}

static void on_harm_end(struct drill_path *d, json_t *msg)
{
	d->harmed = 0;
	d->wait_us = json_integer_value(json_object_get(msg, "wait_us"));
	d->epochs = json_integer_value(json_object_get(msg, "epochs"));
	drill_note(d->c, d->v, d->steps, d->began_ns,
		   "the harm has ended: %" JSON_INTEGER_FORMAT
		   " epochs were committed under it",
		   d->epochs);
	if (d->works)
		d->again_ns = clock_mono_ns();
	look(d);
}

/* Everything that a path's state is told by is here; "connecting" is not told. */
static void on_path(struct drill_path *d, json_t *msg)
{
	const char *state = json_string_value(json_object_get(msg, "state"));
	const char *why = json_string_value(json_object_get(msg, "why"));
	unsigned i = (unsigned)json_integer_value(json_object_get(msg, "path"));
	int used = state && !strcmp(state, "in-use");

	drill_note(d->c, d->v, d->steps, d->began_ns, "path %u is %s%s%s", i,
		   state ? state : "?", why && why[0] ? ": " : "", why ? why : "");
	if (used && i != d->path && d->took_over < 0) {
		d->took_over = (int)i;
		d->took_over_ns = clock_mono_ns();
	}
	if (i != d->path)
		return;
	d->works = used || (state && !strcmp(state, "ready"));
	d->again_ns = d->works && !d->harmed ? clock_mono_ns() : 0;
	look(d);
}

void drill_path_event(struct host *h, struct vmrun *v, json_t *msg)
{
	struct drill_path *d = h->drill_path;
	const char *ev = json_string_value(json_object_get(msg, "ev"));

	if (!d || v != d->v || !ev)
		return;
	if (!strcmp(ev, "path"))
		on_path(d, msg);
	else
		on_harm_end(d, msg);
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	finish(arg, "the path did not work again in time");
}

static void on_gone(void *arg)
{
	struct drill_path *d = arg;

	d->c = NULL;
}

/* By number, or by a transport that only one has. -1: none, or several. */
static int find_path(const struct config *cfg, const char *name)
{
	int found = -1;

	for (unsigned i = 0; name && i < cfg->n_paths; i++) {
		if (name[0] == (char)('0' + i) && !name[1])
			return (int)i;
		if (strcmp(name, cfg->paths[i].transport) != 0)
			continue;
		if (found >= 0)
			return -1;
		found = (int)i;
	}
	return found;
}

/* The order to rhea-vm, owned, or NULL: there is no such harm. */
static json_t *make_order(const struct drill_path *d)
{
	json_t *o = json_pack("{s:s,s:i,s:i}", "op", "path-drill", "path", (int)d->path,
			      "for_ms", (int)d->for_ms);
	unsigned ms = 0;
	char end;

	if (!strcmp(d->harm, "cut")) {
		json_object_set_new(o, "cut_after", json_integer(1));
	} else if (!strcmp(d->harm, "stall")) {
		json_object_set_new(o, "stall_after", json_integer(1));
	} else if (sscanf(d->harm, "delay=%u%c", &ms, &end) == 1 && ms &&
		   ms <= DELAY_MAX_MS) {
		json_object_set_new(o, "delay_us", json_integer((json_int_t)ms * 1000));
	} else {
		json_decref(o);
		return NULL;
	}
	return o;
}

/* Would the link live without path @i, as far as was last heard? */
static int other_ready(const struct host *h, const struct vmrun *v, unsigned i)
{
	const char *s;

	for (unsigned k = 0; k < h->cfg->n_paths; k++) {
		s = vmrun_path_state(v, k);
		if (k != i && (!strcmp(s, "ready") || !strcmp(s, "in-use")))
			return 1;
	}
	return 0;
}

/* Why not, told to the client; 1: go. */
static int may_run(struct host *h, struct ctl_conn *c, struct vmrun *v, int path,
		   int force)
{
	const struct pair *p = vmrun_pair(v);
	const char *vm = vmrun_config(v)->name;

	if (h->drill || h->drill_path)
		ctl_error(c, "a drill is running already; wait for its end");
	else if (h->cfg->n_paths < 2)
		ctl_error(c, "there is only one path; \"drill run cut-link\" cuts it");
	else if (path < 0)
		ctl_error(
			c,
			"no such path, or several of that transport; give its number, 0 to %u",
			h->cfg->n_paths - 1);
	else if (!vmrun_proc(v) || p->state != PAIR_PROTECTED)
		ctl_error(
			c,
			"%s does not run protected on host %s (%s); run the drill where it does",
			vm, config_self(h->cfg)->name, pair_state_name(p->state));
	else if (!force && !other_ready(h, v, (unsigned)path))
		ctl_error(
			c,
			"no other path of %s is ready, so the link would break; --force does "
			"it all the same",
			vm);
	else
		return 1;
	return 0;
}

static struct drill_path *drill_new(struct host *h, struct vmrun *v, unsigned path,
				    json_t *req)
{
	const char *harm = json_string_value(json_object_get(req, "harm"));
	struct drill_path *d = calloc(1, sizeof(*d));
	const char *state = vmrun_path_state(v, path);

	if (!d)
		return NULL;
	*d = (struct drill_path){.h = h,
				 .v = v,
				 .path = path,
				 .harmed = 1,
				 .works = !strcmp(state, "in-use") ||
					  !strcmp(state, "ready"),
				 .took_over = -1,
				 .for_ms = (unsigned)cmd_int(req, "for_ms", FOR_MIN_MS,
							     FOR_MAX_MS, FOR_DEFAULT_MS),
				 .began_ns = clock_mono_ns(),
				 .term_before = vmrun_pair(v)->term,
				 .wait_us = -1,
				 .epochs = -1,
				 .steps = json_array()};
	(void)snprintf(d->harm, sizeof(d->harm), "%s",
		       harm ? harm : ""); /* refused then */
	d->must_move = !strcmp(state, "in-use") && strncmp(d->harm, "delay", 5) != 0;
	name_path(h, path, d->name, sizeof(d->name));
	d->watch = (struct host_watch){.fn = on_change, .arg = d};
	d->limit = evtimer_new(loop_base(h->loop), on_limit, d);
	if (d->steps && d->limit)
		return d;
	drill_free(d);
	return NULL;
}

static int begin(struct drill_path *d, struct ctl_conn *c)
{
	struct timeval limit = {.tv_sec = (d->for_ms + AFTER_MS) / 1000};
	json_t *order = make_order(d);
	int rc;

	if (!order) {
		ctl_error(c, "no such harm; there are cut, stall and delay=MS (1 to %d)",
			  DELAY_MAX_MS);
		return -EINVAL;
	}
	rc = vmproc_send(vmrun_proc(d->v), order, -1);
	if (rc || event_add(d->limit, &limit)) {
		ctl_error(c, "rhea-vm did not take the order (%s)",
			  rc ? strerror(-rc) : "out of memory");
		return -EIO;
	}
	return 0;
}

void drill_path_cmd(struct host *h, struct ctl_conn *c, json_t *req)
{
	int path = find_path(h->cfg, json_string_value(json_object_get(req, "path")));
	struct vmrun *v = cmd_vm(h, c, req);
	struct drill_path *d;

	if (!v || !may_run(h, c, v, path, json_is_true(json_object_get(req, "force"))))
		return;
	d = drill_new(h, v, (unsigned)path, req);
	if (!d) {
		ctl_error(c, "rhead: out of memory");
		return;
	}
	if (begin(d, c)) {
		drill_free(d);
		return;
	}
	d->c = c;
	h->drill_path = d;
	events_add(h->events, vmrun_config(v)->name, d->term_before, vmrun_pair(v)->epoch,
		   "drill path %u %s begins, for %u ms", d->path, d->harm, d->for_ms);
	ctl_async(c, on_gone, d);
	host_watch_add(h, &d->watch);
	drill_note(d->c, d->v, d->steps, d->began_ns, "%s: path %s, for %u ms", d->harm,
		   d->name, d->for_ms);
}
