/* SPDX-License-Identifier: Apache-2.0
 * vmrun_paths - the paths of a VM's link, on rhead's side: connecting them, and telling of them.
 *
 * The first path of a link goes through the pair machine, because of what a link may lead to. A
 * further one leads to nothing new: rhea-vm asks for it, and lets it join only the session that it
 * has. So here sockets are only carried.
 */
#include "ctl/vmrun_impl.h"

#include "ctl/drill_path.h"
#include "ctl/events.h"
#include "ctl/host.h"
#include "ctl/link.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
	CONNECT_MS = 2000,
	CONNECT_SEVERAL_MIN_MS = 100, /* when there is another path to try */
	CONNECT_SEVERAL_MAX_MS = 500,
	CONNECT_PART = 3,
};

/* A path that takes longer than the silence that is a failure could not serve; and after a lost first
 * packet the kernel would wait for a second, which is longer than a link lives without a path. */
static unsigned connect_ms(const struct config *cfg)
{
	unsigned suspect = cfg->heartbeat_interval_ms * (cfg->heartbeat_missed - 1);
	unsigned ms = suspect / CONNECT_PART;

	if (cfg->n_paths == 1)
		return CONNECT_MS;
	ms = ms > CONNECT_SEVERAL_MIN_MS ? ms : CONNECT_SEVERAL_MIN_MS;
	return ms < CONNECT_SEVERAL_MAX_MS ? ms : CONNECT_SEVERAL_MAX_MS;
}

int vmrun_link_connect(struct vmrun *v, unsigned i, int further, uint64_t term,
		       link_connected_fn *fn, void *arg, struct link_connect **c_out,
		       struct err *err)
{
	const struct config *cfg = v->h->cfg;
	const struct config_path *p = &cfg->paths[i];

	return link_connect(v->h->loop, &p->addr[cfg->self], &p->addr[cfg->peer],
			    v->cfg->name, term, further ? PREFACE_FURTHER : PREFACE_LINK,
			    connect_ms(cfg), fn, arg, c_out, err);
}

/* An order about a path. A process that does not take it will ask again, or its link ends. */
static void say(struct vmrun *v, json_t *msg, int fd)
{
	int rc;

	if (!v->proc) {
		json_decref(msg);
		return;
	}
	rc = vmproc_send(v->proc, msg, fd);
	if (rc && rc != -EPIPE)
		log_ratelimited(LOG_LVL_WARN, 1000,
				"%s: rhea-vm could not be given a path: %s", v->cfg->name,
				strerror(-rc));
}

static void say_failed(struct vmrun *v, unsigned i, const char *why)
{
	say(v, json_pack("{s:s,s:i,s:s}", "op", "path", "path", (int)i, "why", why), -1);
}

static void on_connected(void *arg, int fd, const char *why)
{
	struct vmrun_path *p = arg;
	struct vmrun *v = p->v;

	p->connect = NULL;
	if (fd < 0) {
		say_failed(v, p->index, why);
		return;
	}
	say(v,
	    json_pack("{s:s,s:s,s:I,s:i,s:[s]}", "op", "path", "side", "primary", "term",
		      (json_int_t)v->pair.term, "path", (int)p->index, "fds", "link"),
	    fd);
	(void)close(fd); /* rhea-vm has a copy of its own */
}

void vmrun_want_path(struct vmrun *v, json_t *msg)
{
	unsigned i = (unsigned)json_integer_value(json_object_get(msg, "path"));
	struct err err = {0};
	struct vmrun_path *p;

	if (i >= v->h->cfg->n_paths)
		return;
	p = &v->path[i];
	link_connect_cancel(p->connect);
	*p = (struct vmrun_path){.v = v, .index = i};
	if (vmrun_link_connect(v, i, 1, v->pair.term, on_connected, p, &p->connect, &err))
		say_failed(v, i, err.msg);
}

void vmrun_paths_cancel(struct vmrun *v)
{
	for (unsigned i = 0; i < CONFIG_LINKS_MAX; i++) {
		link_connect_cancel(v->path[i].connect);
		v->path[i].connect = NULL;
	}
	for (unsigned i = 0; i < VMRUN_STREAMS_MAX; i++) {
		link_connect_cancel(v->stream[i].connect);
		v->stream[i].connect = NULL;
	}
}

static void say_stream(struct vmrun_stream *t, int fd, const char *why)
{
	if (fd >= 0)
		say(t->v,
		    json_pack("{s:s,s:s,s:I,s:[s]}", "op", "stream", "side", "primary",
			      "number", (json_int_t)t->number, "fds", "link"),
		    fd);
	else
		say(t->v,
		    json_pack("{s:s,s:s,s:I,s:s}", "op", "stream", "side", "primary",
			      "number", (json_int_t)t->number, "why", why),
		    -1);
}

static void on_stream(void *arg, int fd, const char *why)
{
	struct vmrun_stream *t = arg;

	t->connect = NULL;
	say_stream(t, fd, why);
	if (fd >= 0)
		(void)close(fd); /* rhea-vm has a copy of its own */
}

static struct vmrun_stream *free_stream(struct vmrun *v)
{
	for (unsigned i = 0; i < VMRUN_STREAMS_MAX; i++)
		if (!v->stream[i].connect)
			return &v->stream[i];
	return NULL;
}

void vmrun_want_streams(struct vmrun *v, json_t *msg)
{
	unsigned i = (unsigned)json_integer_value(json_object_get(msg, "path"));
	unsigned n = (unsigned)json_integer_value(json_object_get(msg, "n"));
	struct vmrun_stream none = {.v = v}, *t = &none;
	struct err err = {0};

	none.number = (uint64_t)json_integer_value(json_object_get(msg, "number"));
	if (i >= v->h->cfg->n_paths)
		return;
	for (; n && t; n--) {
		const struct config_path *p = &v->h->cfg->paths[i];

		t = free_stream(v);
		if (!t)
			break;
		*t = none;
		if (link_connect(v->h->loop, &p->addr[v->h->cfg->self],
				 &p->addr[v->h->cfg->peer], v->cfg->name, v->pair.term,
				 PREFACE_STREAM, connect_ms(v->h->cfg), on_stream, t,
				 &t->connect, &err))
			say_stream(t, -1, err.msg);
	}
	if (n)
		say_stream(&none, -1, "too many are being connected already");
}

void vmrun_stream(struct vmrun *v, int fd)
{
	if (!v->first_op)
		say(v,
		    json_pack("{s:s,s:s,s:[s]}", "op", "stream", "side", "standby", "fds",
			      "link"),
		    fd);
	(void)close(fd); /* rhea-vm has a copy of its own, or did not want it */
}

void vmrun_further(struct vmrun *v, uint64_t term, int fd)
{
	if (!v->first_op)
		say(v,
		    json_pack("{s:s,s:s,s:I,s:i,s:[s]}", "op", "path", "side", "standby",
			      "term", (json_int_t)term, "path", 0, "fds", "link"),
		    fd);
	(void)close(fd); /* rhea-vm has a copy of its own, or did not want it */
}

const char *vmrun_path_state(const struct vmrun *v, unsigned i)
{
	return i < CONFIG_LINKS_MAX ? v->path_state[i] : "";
}

void vmrun_path_changed(struct vmrun *v, json_t *msg)
{
	const char *why = json_string_value(json_object_get(msg, "why"));
	const char *state = json_string_value(json_object_get(msg, "state"));
	const char *what = json_string_value(json_object_get(msg, "transport"));
	int i = (int)json_integer_value(json_object_get(msg, "path"));

	if (i >= 0 && i < CONFIG_LINKS_MAX)
		(void)snprintf(v->path_state[i], sizeof(v->path_state[i]), "%s",
			       state ? state : ""); /* fits */
	events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
		   "path %d (%s) is %s%s%s", i, what ? what : "?", state ? state : "?",
		   why && why[0] ? ": " : "", why ? why : "");
	drill_path_event(v->h, v, msg);
	host_changed(v->h, v);
}
