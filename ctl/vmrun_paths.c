/* SPDX-License-Identifier: Apache-2.0
 * vmrun_paths - the paths of a VM's link, on rhead's side: connecting them, and telling of them.
 *
 * The first path of a link goes through the pair machine, because of what a link may lead to. A
 * further one leads to nothing new: rhea-vm asks for it, and lets it join only the session that it
 * has. So here sockets are only carried.
 */
#include "ctl/vmrun_impl.h"

#include "ctl/events.h"
#include "ctl/host.h"
#include "ctl/link.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum {
	CONNECT_MS = 2000,
	CONNECT_SEVERAL_MS = 500, /* when there is another path to try */
};

int vmrun_link_connect(struct vmrun *v, unsigned i, int further, uint64_t term,
		       link_connected_fn *fn, void *arg, struct link_connect **c_out,
		       struct err *err)
{
	const struct config *cfg = v->h->cfg;
	const struct config_path *p = &cfg->paths[i];

	return link_connect(v->h->loop, &p->addr[cfg->self], &p->addr[cfg->peer],
			    v->cfg->name, term, further,
			    cfg->n_paths > 1 ? CONNECT_SEVERAL_MS : CONNECT_MS, fn, arg,
			    c_out, err);
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

void vmrun_path_changed(struct vmrun *v, json_t *msg)
{
	const char *why = json_string_value(json_object_get(msg, "why"));
	const char *state = json_string_value(json_object_get(msg, "state"));
	const char *what = json_string_value(json_object_get(msg, "transport"));
	int i = (int)json_integer_value(json_object_get(msg, "path"));

	events_add(v->h->events, v->cfg->name, v->pair.term, v->pair.epoch,
		   "path %d (%s) is %s%s%s", i, what ? what : "?", state ? state : "?",
		   why && why[0] ? ": " : "", why ? why : "");
	host_changed(v->h, v);
}
