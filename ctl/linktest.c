/* SPDX-License-Identifier: Apache-2.0
 * linktest - connects the paths that are to be measured, one after the other, and finds who measures.
 */
#include "ctl/linktest.h"

#include "ctl/cmd.h"
#include "ctl/cmd_heartbeat.h"
#include "ctl/config.h"
#include "ctl/ctlsock.h"
#include "ctl/host.h"
#include "ctl/link.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "ctl/vmrun_start.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	CONNECT_MS = 2000,
	ANSWER_MS = 15000, /* beyond twice the time of sending: handshakes, round trips */
	TESTER_HUNG_MS = 5000,
};

struct linktest {
	struct host *h;
	struct vmproc *tester; /* NULL: none lives */
	/* The test that somebody on this host wants; NULL: none is under way. */
	struct ctl_conn *c;
	struct vmrun *v;	    /* whose rhea-vm measures; NULL: the tester */
	const struct config_vm *vm; /* that it is about; NULL: there is none */
	unsigned ms, chosen, path;  /* chosen: a bit for each path that is left */
	uint64_t id;		    /* of the question that is open */
	struct link_connect *connect;
	struct event *limit;
	json_t *reports;
};

static void next_path(struct linktest *lt);

/* The tester. */

static void on_tester_event(void *arg, json_t *msg)
{
	const char *ev = json_string_value(json_object_get(msg, "ev"));
	const char *why = json_string_value(json_object_get(msg, "why"));

	if (ev && !strcmp(ev, "test"))
		linktest_event(arg, msg);
	else if (ev && !strcmp(ev, "error"))
		log_warn("link test: %s", why ? why : "?");
}

static void on_tester_hung(void *arg, unsigned ms)
{
	struct linktest *lt = arg;
	int rc =
		ms ? vmproc_signal(lt->tester, SIGKILL) : 0; /* 0 ms: it ends by itself */

	if (ms)
		log_warn("link test: its process does not answer: killed%s%s",
			 rc ? ": " : "", rc ? strerror(-rc) : "");
}

static void on_tester_revived(void *arg)
{
}

static void on_tester_exited(void *arg, int status)
{
	struct linktest *lt = arg;

	vmproc_destroy(lt->tester);
	lt->tester = NULL;
}

static const struct vmproc_ops tester_ops = {.event = on_tester_event,
					     .hung = on_tester_hung,
					     .revived = on_tester_revived,
					     .exited = on_tester_exited};

static int start_tester(struct linktest *lt, struct err *err)
{
	struct host *h = lt->h;
	struct vmproc_start st = {.program = h->opts.vm_program,
				  .vm = "link-test",
				  .ping_ms = h->cfg->heartbeat_interval_ms,
				  .hung_ms = TESTER_HUNG_MS};
	int rc;

	if (lt->tester)
		return 0;
	st.setup = vmrun_tester_setup(h, st.vm);
	rc = st.setup ? vmproc_spawn(h->loop, &st, &tester_ops, lt, &lt->tester, err)
		      : err_set(err, -ENOMEM, "link test: out of memory");
	json_decref(st.setup);
	return rc;
}

void linktest_yield(struct linktest *lt)
{
	vmproc_destroy(lt->tester);
	lt->tester = NULL;
}

/* Takes @msg; @fd is borrowed. To @v's rhea-vm if it has one, else to the tester. */
static int give(struct linktest *lt, struct vmrun *v, json_t *msg, int fd,
		struct err *err)
{
	int rc;

	if (v && vmrun_takes_tests(v)) {
		rc = vmproc_send(vmrun_proc(v), msg, fd);
	} else {
		rc = start_tester(lt, err);
		if (rc) {
			json_decref(msg);
			return rc;
		}
		rc = vmproc_send(lt->tester, msg, fd);
	}
	return rc ? err_sys(err, rc, "rhea-vm could not be told to test") : 0;
}

void linktest_incoming(struct linktest *lt, const struct preface *p, int fd)
{
	struct err err = {0};

	if (give(lt, host_find(lt->h, p->vm),
		 json_pack("{s:s,s:s,s:[s]}", "op", "test", "side", "server", "fds",
			   "link"),
		 fd, &err))
		log_ratelimited(LOG_LVL_WARN, 1000, "link test by the peer: %s", err.msg);
	(void)close(fd); /* rhea-vm has a copy of its own, or does not want it */
}

/* What somebody here wants. */

static void stop_waiting(struct linktest *lt)
{
	link_connect_cancel(lt->connect);
	lt->connect = NULL;
	(void)event_del(lt->limit); /* not pending is fine */
	lt->id++;		    /* what comes now is no answer any more */
}

static void finish(struct linktest *lt)
{
	const struct config *cfg = lt->h->cfg;
	struct ctl_conn *c = lt->c;
	const struct pair *p = lt->v ? vmrun_pair(lt->v) : NULL;
	json_t *reports = lt->reports;

	stop_waiting(lt);
	lt->c = NULL;
	lt->reports = NULL;
	ctl_end(c, json_pack("{s:b,s:s,s:s,s:o,s:b,s:b,s:o,s:o}", "ok", 1, "from",
			     config_self(cfg)->name, "to", config_peer(cfg)->name, "vm",
			     lt->vm ? json_string(lt->vm->name) : json_null(), "by_vm",
			     lt->v != NULL, "other_way",
			     p && pair_state_is_standby(p->state), "paths", reports,
			     "heartbeat", cmd_heartbeat_paths(lt->h)));
}

/* Path lt->path is done, with @msg or without it because of @why. */
static void path_done(struct linktest *lt, json_t *msg, const char *why)
{
	json_t *o = linktest_report(lt->h->cfg, lt->vm, lt->path, msg, why);

	stop_waiting(lt);
	/* A failed append leaves the list short, which people see. */
	json_array_append_new(lt->reports, o);
	next_path(lt);
}

void linktest_event(struct linktest *lt, json_t *msg)
{
	uint64_t id = (uint64_t)json_integer_value(json_object_get(msg, "id"));

	if (lt->c && id == lt->id)
		path_done(lt, msg, json_string_value(json_object_get(msg, "why")));
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	path_done(arg, NULL, "rhea-vm did not say how it went: see its log");
}

static void on_connected(void *arg, int fd, const char *why)
{
	struct linktest *lt = arg;
	struct err err = {0};
	int rc;

	lt->connect = NULL;
	if (fd < 0) {
		(void)err_set(&err, fd, "no connection to %s: %s",
			      lt->h->cfg->paths[lt->path].addr[lt->h->cfg->peer].text,
			      why); /* told below */
		path_done(lt, NULL, err.msg);
		return;
	}
	rc = give(lt, lt->v,
		  json_pack("{s:s,s:s,s:i,s:i,s:I,s:[s]}", "op", "test", "side", "client",
			    "path", (int)lt->path, "ms", (int)lt->ms, "id",
			    (json_int_t)lt->id, "fds", "link"),
		  fd, &err);
	(void)close(fd); /* rhea-vm has a copy of its own */
	if (rc)
		path_done(lt, NULL, err.msg);
}

static void next_path(struct linktest *lt)
{
	const struct config *cfg = lt->h->cfg;
	const unsigned ms = CONNECT_MS + 2 * lt->ms + ANSWER_MS;
	const struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	const struct config_path *p;
	struct err err = {0};

	if (!lt->chosen) {
		finish(lt);
		return;
	}
	lt->path = (unsigned)__builtin_ctz(lt->chosen);
	lt->chosen &= lt->chosen - 1;
	p = &cfg->paths[lt->path];
	ctl_send(lt->c, json_pack("{s:s,s:i,s:s}", "progress", "measuring", "path",
				  (int)lt->path, "transport", p->transport));
	if (event_add(lt->limit, &limit))
		path_done(lt, NULL, "out of memory");
	else if (link_connect(lt->h->loop, &p->addr[cfg->self], &p->addr[cfg->peer],
			      lt->vm ? lt->vm->name : "link-test", 0, PREFACE_TEST,
			      CONNECT_MS, on_connected, lt, &lt->connect, &err))
		path_done(lt, NULL, err.msg);
}

/* By number, or all of a transport. 0: there is none. */
static unsigned choose_paths(const struct config *cfg, const char *name)
{
	unsigned set = 0;
	char *end = NULL;
	unsigned long n;

	if (!name)
		return (1u << cfg->n_paths) - 1;
	n = strtoul(name, &end, 10);
	if (end != name && !*end)
		return n < cfg->n_paths ? 1u << n : 0;
	for (unsigned i = 0; i < cfg->n_paths; i++)
		if (!strcmp(cfg->paths[i].transport, name))
			set |= 1u << i;
	return set;
}

/* The one that is named, else a protected one, else one that has a rhea-vm at all. 0, or -1 after the
 * request was ended. */
static int choose_vm(struct linktest *lt, struct ctl_conn *c, json_t *req)
{
	struct host *h = lt->h;
	struct vmrun *v = NULL;
	unsigned i;

	lt->v = NULL;
	lt->vm = h->n_vms ? vmrun_config(h->vm[0]) : NULL;
	if (json_object_get(req, "vm")) {
		v = cmd_vm(h, c, req);
		if (!v)
			return -1;
	}
	for (i = 0; !v && i < h->n_vms; i++)
		if (vmrun_takes_tests(h->vm[i]) &&
		    vmrun_pair(h->vm[i])->state == PAIR_PROTECTED)
			v = h->vm[i];
	for (i = 0; !v && i < h->n_vms; i++)
		if (vmrun_takes_tests(h->vm[i]))
			v = h->vm[i];
	if (v)
		lt->vm = vmrun_config(v);
	if (v && vmrun_takes_tests(v))
		lt->v = v;
	return 0;
}

static void on_gone(void *arg)
{
	struct linktest *lt = arg;

	stop_waiting(lt);
	json_decref(lt->reports);
	lt->reports = NULL;
	lt->c = NULL;
}

void linktest_cmd(struct host *h, struct ctl_conn *c, json_t *req)
{
	const char *name = json_string_value(json_object_get(req, "path"));
	struct linktest *lt = h->linktest;
	unsigned chosen = choose_paths(h->cfg, name);

	if (lt->c) {
		ctl_error(c, "a link test is under way on this host: wait for its end");
		return;
	}
	if (!chosen) {
		ctl_error(
			c,
			"no path \"%.40s\" in the config: give its number (0 to %u) or its "
			"transport",
			name, h->cfg->n_paths - 1);
		return;
	}
	if (choose_vm(lt, c, req))
		return;
	lt->reports = json_array();
	if (!lt->reports) {
		ctl_error(c, "rhead: out of memory");
		return;
	}
	lt->c = c;
	lt->chosen = chosen;
	lt->ms = 1000 * (unsigned)cmd_int(req, "seconds", 1, LINKTEST_SECONDS_MAX, 1);
	ctl_async(c, on_gone, lt);
	next_path(lt);
}

int linktest_create(struct host *h, struct linktest **lt_out, struct err *err)
{
	struct linktest *lt = calloc(1, sizeof(*lt));

	*lt_out = NULL;
	if (!lt)
		return err_set(err, -ENOMEM, "out of memory");
	lt->h = h;
	lt->limit = evtimer_new(loop_base(h->loop), on_limit, lt);
	if (!lt->limit) {
		free(lt);
		return err_set(err, -ENOMEM, "out of memory");
	}
	*lt_out = lt;
	return 0;
}

void linktest_destroy(struct linktest *lt)
{
	if (!lt)
		return;
	stop_waiting(lt);
	linktest_yield(lt);
	event_free(lt->limit);
	json_decref(lt->reports);
	free(lt);
}
