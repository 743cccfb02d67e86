/* SPDX-License-Identifier: Apache-2.0
 * host - makes the parts of rhead and brings their events to the VMs.
 */
#include "ctl/host.h"

#include "ctl/cmd.h"
#include "ctl/ctlsock.h"
#include "ctl/drill.h"
#include "ctl/drill_path.h"
#include "ctl/events.h"
#include "ctl/filework.h"
#include "ctl/follow.h"
#include "ctl/link.h"
#include "ctl/linktest.h"
#include "ctl/storer.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Pair machines number their requests upwards from 1. */
#define PROBE_ID UINT64_MAX

struct vmrun *host_find(struct host *h, const char *vm)
{
	int i = config_find_vm(h->cfg, vm);

	return i < 0 ? NULL : h->vm[i];
}

void host_watch_add(struct host *h, struct host_watch *w)
{
	w->next = h->watch;
	h->watch = w;
}

void host_watch_remove(struct host *h, struct host_watch *w)
{
	struct host_watch **p = &h->watch;

	while (*p && *p != w)
		p = &(*p)->next;
	if (*p)
		*p = w->next;
}

void host_changed(struct host *h, struct vmrun *v)
{
	struct host_watch *w, *next;

	for (w = h->watch; w; w = next) {
		next = w->next;
		w->fn(w->arg, v);
	}
}

static void note_arbiter(struct host *h, const struct arb_answer *ans)
{
	int was = host_arbiter_ok(h), first = !h->arb.answered_ns;

	h->arb.result = ans->result;
	h->arb.answered_ns = clock_mono_ns();
	memcpy(h->arb.why, ans->why, sizeof(h->arb.why));
	if (host_arbiter_ok(h) == was && !first)
		return;
	if (host_arbiter_ok(h)) {
		log_info("arbiter %s answers", arbiter_name(h->arbiter));
		events_add(h->events, NULL, UINT64_MAX, UINT64_MAX, "arbiter %s answers",
			   arbiter_name(h->arbiter));
	} else {
		log_warn("arbiter %s does not answer: %s", arbiter_name(h->arbiter),
			 ans->why);
		events_add(h->events, NULL, UINT64_MAX, UINT64_MAX,
			   "arbiter %s does not answer: %s", arbiter_name(h->arbiter),
			   ans->why);
	}
}

int host_arbiter_ok(const struct host *h)
{
	return h->cfg->arbiter.kind == CONFIG_ARBITER_MANUAL ||
	       (h->arb.answered_ns && h->arb.result != ARB_UNREACHABLE);
}

static void on_answer(void *arg, const struct arb_answer *ans)
{
	struct host *h = arg;
	struct vmrun *v = host_find(h, ans->vm);

	note_arbiter(h, ans);
	if (v && ans->id != PROBE_ID)
		vmrun_arbiter(v, ans);
}

/* Nobody asks the arbiter while all is well, so its silence would be noticed too late for
 * the operator to do something about it. */
static void on_probe(evutil_socket_t fd, short what, void *arg)
{
	struct host *h = arg;
	struct arb_request rq = {.is_read = 1, .id = PROBE_ID};

	memcpy(rq.vm, h->cfg->vms[0].name, sizeof(rq.vm));
	h->arb.asked_ns = clock_mono_ns();
	if (arbiter_submit(h->arbiter, &rq))
		log_ratelimited(LOG_LVL_WARN, 60000, "arbiter %s: its queue is full",
				arbiter_name(h->arbiter));
}

static void on_stored(void *arg, unsigned index, uint64_t id, int ok, const char *why)
{
	struct host *h = arg;

	vmrun_stored(h->vm[index], id, ok, why);
}

static void on_peer(void *arg, const struct hb_peer *peer)
{
	struct host *h = arg;
	struct pair_event ev = {.kind = PAIR_EV_PEER};

	if (!h->peer_up) {
		log_info("host %s is up", config_peer(h->cfg)->name);
		events_add(h->events, NULL, UINT64_MAX, UINT64_MAX, "host %s is up",
			   config_peer(h->cfg)->name);
	}
	h->peer_up = 1;
	h->peer_wall_delta_ns = peer->wall_delta_ns;
	for (unsigned i = 0; i < h->n_vms && i < peer->n_vms; i++) {
		ev.u.peer = peer->vms[i];
		vmrun_event(h->vm[i], &ev);
	}
}

static void on_lost(void *arg)
{
	struct host *h = arg;

	log_warn("host %s is silent on all paths", config_peer(h->cfg)->name);
	events_add(h->events, NULL, UINT64_MAX, UINT64_MAX,
		   "host %s is silent on all paths", config_peer(h->cfg)->name);
	h->peer_up = 0;
	for (unsigned i = 0; i < h->n_vms; i++)
		vmrun_simple(h->vm[i], PAIR_EV_PEER_LOST);
}

static void on_path(void *arg, unsigned path, int up)
{
	struct host *h = arg;
	const char *from = config_self(h->cfg)->heartbeat[path].text;
	const char *to = config_peer(h->cfg)->heartbeat[path].text;

	log_at(up ? LOG_LVL_INFO : LOG_LVL_WARN, "heartbeat path %s - %s is %s", from, to,
	       up ? "up" : "down");
	events_add(h->events, NULL, UINT64_MAX, UINT64_MAX,
		   "heartbeat path %s - %s is %s", from, to, up ? "up" : "down");
}

static void on_link(void *arg, const struct preface *p, int fd)
{
	struct vmrun *v = host_find(arg, p->vm);
	struct host *h = arg;

	if (p->kind == PREFACE_TEST) {
		linktest_incoming(h->linktest, p, fd);
		return;
	}
	if (v && p->kind == PREFACE_STREAM) {
		vmrun_stream(v, fd);
		return;
	}
	if (v && p->kind == PREFACE_FURTHER) {
		vmrun_further(v, p->term, fd);
		return;
	}
	if (v) {
		vmrun_incoming(v, p->term, fd);
		return;
	}
	log_ratelimited(LOG_LVL_WARN, 1000,
			"replication link for \"%s\", which is not in the config", p->vm);
	(void)close(fd); /* nothing was written through it */
}

/* Does an earlier path have the same addresses on both hosts? Then its listener serves both. */
static int listens_already(const struct config *cfg, unsigned i)
{
	for (unsigned k = 0; k < i; k++)
		if (!strcmp(cfg->paths[k].addr[cfg->self].text,
			    cfg->paths[i].addr[cfg->self].text) &&
		    !strcmp(cfg->paths[k].addr[cfg->peer].text,
			    cfg->paths[i].addr[cfg->peer].text))
			return 1;
	return 0;
}

static int make_listeners(struct host *h, struct err *err)
{
	const struct config *cfg = h->cfg;
	int rc = 0;

	for (unsigned i = 0; !rc && i < cfg->n_paths; i++)
		if (!listens_already(cfg, i))
			rc = link_listen(h->loop, &cfg->paths[i].addr[cfg->self],
					 &cfg->paths[i].addr[cfg->peer], on_link, h,
					 &h->listener[i], err);
	return rc;
}

static int make_dirs(struct host *h, struct err *err)
{
	if (mkdir(h->opts.run_dir, 0755) && errno != EEXIST)
		return err_sys(err, -errno, "make %s", h->opts.run_dir);
	return grant_dir_prepare(h->opts.state_dir, err);
}

static int make_stores(struct host *h, struct err *err)
{
	char path[PATH_MAX];
	int rc = make_dirs(h, err);

	if (!rc &&
	    snprintf(path, sizeof(path), "%s/events.db", h->opts.state_dir) >= PATH_MAX)
		rc = err_set(err, -ENAMETOOLONG, "%s: too long", h->opts.state_dir);
	if (!rc)
		rc = events_open(path, &h->events, err);
	if (!rc) {
		events_on_add(h->events, follow_tell, h);
		rc = storer_create(h->opts.state_dir, h->loop, on_stored, h, &h->storer,
				   err);
	}
	return rc ? rc : filework_create(h->loop, &h->files, err);
}

static int make_outside(struct host *h, struct err *err)
{
	const struct hb_events hbe = {
		.peer = on_peer, .lost = on_lost, .path = on_path, .arg = h};
	char path[PATH_MAX];
	int rc;

	rc = linktest_create(h, &h->linktest, err);
	if (rc)
		return rc;
	rc = hb_create(h->cfg, h->loop, &hbe, &h->hb, err);
	if (!rc)
		rc = arbiter_create(h->cfg, h->loop, on_answer, h, &h->arbiter, err);
	if (!rc)
		rc = make_listeners(h, err);
	if (!rc &&
	    snprintf(path, sizeof(path), "%s/rhead.sock", h->opts.run_dir) >= PATH_MAX)
		rc = err_set(err, -ENAMETOOLONG, "%s: too long", h->opts.run_dir);
	if (!rc)
		rc = ctlsock_create(h->loop, path, cmd_handle, h, &h->ctl, err);
	return rc;
}

static int make_vms(struct host *h, struct err *err)
{
	int rc = 0;

	for (h->n_vms = 0; !rc && h->n_vms < h->cfg->n_vms; h->n_vms += !rc) {
		rc = vmrun_create(h, h->n_vms, &h->vm[h->n_vms], err);
		if (rc)
			(void)err_ctx(err, "VM %s",
				      h->cfg->vms[h->n_vms].name); /* rc is returned */
	}
	return rc;
}

static int begin(struct host *h, struct err *err)
{
	static const struct timeval every = {.tv_sec = HOST_ARB_PROBE_MS / 1000,
					     .tv_usec = HOST_ARB_PROBE_MS % 1000 * 1000};

	h->probe = event_new(loop_base(h->loop), -1, EV_PERSIST, on_probe, h);
	if (!h->probe || event_add(h->probe, &every))
		return err_set(err, -ENOMEM, "out of memory");
	if (h->n_vms)
		event_active(h->probe, EV_TIMEOUT, 0);
	events_add(h->events, NULL, UINT64_MAX, UINT64_MAX,
		   "rhead " RHEA_VERSION " started");
	for (unsigned i = 0; i < h->n_vms; i++)
		vmrun_begin(h->vm[i]);
	return hb_start(h->hb, err);
}

int host_create(const struct config *cfg, struct loop *loop, const struct host_opts *opts,
		struct host **h_out, struct err *err)
{
	struct host *h = calloc(1, sizeof(*h));
	int rc;

	*h_out = NULL;
	if (!h)
		return err_set(err, -ENOMEM, "out of memory");
	h->cfg = cfg;
	h->loop = loop;
	h->opts = *opts;
	h->started_ns = clock_mono_ns();
	rc = make_stores(h, err);
	if (!rc)
		rc = make_outside(h, err);
	if (!rc)
		rc = make_vms(h, err);
	if (!rc)
		rc = begin(h, err);
	if (rc)
		host_destroy(h);
	else
		*h_out = h;
	return rc;
}

static void on_leave(evutil_socket_t fd, short what, void *arg)
{
	struct host *h = arg;

	loop_stop(h->loop);
}

void host_leave(struct host *h)
{
	static const struct timeval moment = {.tv_usec = HOST_LEAVE_MS * 1000};
	struct vmproc *p;

	if (h->leave)
		return;
	events_add(h->events, NULL, UINT64_MAX, UINT64_MAX,
		   "rhead ends, as it was told to");
	h->leave = evtimer_new(loop_base(h->loop), on_leave, h);
	if (!h->leave || event_add(h->leave, &moment))
		loop_stop(h->loop);
	/* Their ends come as events, which the next heartbeats tell. */
	for (unsigned i = 0; i < h->n_vms; i++) {
		p = vmrun_proc(h->vm[i]);
		if (p && vmproc_signal(p, SIGKILL))
			log_warn("rhea-vm %d could not be ended", (int)vmproc_pid(p));
	}
}

void host_destroy(struct host *h)
{
	if (!h)
		return;
	/* Clients and drills first: they hold on to the VMs. Then the VMs, so that the peer
	 * sees links and heartbeats end together. */
	ctlsock_destroy(h->ctl);
	drill_destroy(h->drill);
	drill_path_destroy(h->drill_path);
	filework_destroy(h->files);
	for (unsigned i = 0; i < h->n_vms; i++)
		vmrun_destroy(h->vm[i]);
	linktest_destroy(h->linktest);
	for (unsigned i = 0; i < CONFIG_LINKS_MAX; i++)
		link_listener_destroy(h->listener[i]);
	hb_destroy(h->hb);
	arbiter_destroy(h->arbiter);
	storer_destroy(h->storer);
	if (h->probe)
		event_free(h->probe);
	if (h->leave)
		event_free(h->leave);
	events_close(h->events);
	free(h);
}
