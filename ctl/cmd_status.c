/* SPDX-License-Identifier: Apache-2.0
 * cmd_status - what this host knows about itself, its peer and its VMs, as JSON.
 *
 * {"host","peer","pair","version","uptime_s","peer_up","peer_clock_delta_us",
 *  "arbiter":{"kind","ok","age_ms","why"},
 *  "paths":[see cmd_heartbeat.c],
 *  "vms":[{"name","role":"primary"|"standby"|"none","state","health","term","epoch",
 *    "protected":b,"running":b,"pid","preferred":b,"engine",
 *    "acked","lag_epochs","held_bytes","held_frames",
 *    "plug":{"held_bytes","held_frames","released_frames","dropped_frames","late"}|null,
 *    "pause_us":{"p50","p99","max"},
 *    "ahead_us":{...},"commit_us":{...},"interval_us":{...},"dirty_pages":{...},"bytes_raw","bytes_sent",
 *    "sync_left","epochs","activate_us","staged_bytes","staged_max_bytes","staged_limit_bytes",
 *    "peer":{"state","role","health","term","epoch"}|null,
 *    "image_incomplete":b,"suspended":b,"link_failovers",
 *    "disk_sync":{"state":"none"|"comparing"|"sending"|"done","partial":b,"why","look_bytes","looked_bytes",
 *      "sent_bytes","left_bytes","rate"|null,"eta_s"|null,"limit",
 *      "log":{"state":1|0|-errno,"marked_bytes","active_extents","writes","waited"}}|null,
 *    "disks":[{"serial","format","read_only":b,"bytes","image_bytes","file_bytes","used_bytes","files","path"}]|null,
 *    "durable":{"state","epoch","journal_used","journal_size","lag_epochs","lag_ms"}|null,
 *    "link_paths":[{"transport","state":"down"|"connecting"|"ready"|"in-use","in_use":b,
 *      "since_ms","failed_in_use","heal_ms","wait_ms","drill":b,"why"}]|null,
 *    "disk_faults":[{"disk","errors","answered","waiting","last"}],
 *    "safe_to_lose":{HOST:{"safe":b,"why":s}, HOST:...}}]}
 * link_paths: wait_ms is how long until one that is down is tried again, or a ready one that is better than
 * that in use is gone back to, for which it must be alive for heal_ms; why is of the last failure.
 * durable: what the standby's disks would come back as after a power cut; lags behind what is committed,
 * told by the primary only; null: it has no journal, or nothing is known.
 * disks: bytes is what the guest has, image_bytes what its image has room for, file_bytes how long the image's file is and used_bytes
 * what that takes; files: of its chain.
 * disk_faults: of this host's images that gave errors: how many, how many of them the guest was told, how many of its
 * requests wait (for room, or for the other host to take over), and the last one.
 * plug: what of the output the kernel holds, of nets with vhost; held_* have it in.
 * disk_sync: told by the primary; partial: only chunks that either host has marked are compared, else why
 * not; limit: resync_rate, now. log: the activity log; 0: there is none.
 * image_incomplete: a first sync overwrites this host's disks, or was cut short: nothing boots from
 * them. suspended: the guest is saved on this host. staged: on a standby, memory taken by epochs that are not applied yet. What is not known now (a standby holds nothing, a hung process tells nothing) is null.
 */
#include "ctl/cmd.h"

#include "ctl/cmd_heartbeat.h"
#include "ctl/ctlsock.h"
#include "ctl/host.h"
#include "ctl/vmproc.h"
#include "ctl/vmrun.h"
#include "hv/base/clock.h"
#include "hv/base/loop.h"

#include <event2/event.h>
#include <stdlib.h>

enum { STATS_WAIT_MS = 200, WHY_MAX = 200 };

/* A status request that waits for the counters of the VMs. */
struct gather {
	struct host *h;
	struct ctl_conn *c;
	struct vmrun *only; /* "stats" of one VM; NULL: "status" */
	struct host_watch watch;
	struct event *limit;
	uint64_t want[CONFIG_VMS_MAX];
};

static json_t *null_if_none(uint64_t v)
{
	return v == UINT64_MAX ? json_null() : json_integer((json_int_t)v);
}

static json_t *arbiter_json(const struct host *h)
{
	uint64_t now = clock_mono_ns();

	return json_pack(
		"{s:s,s:b,s:o,s:s}", "kind", arbiter_name(h->arbiter), "ok",
		host_arbiter_ok(h), "age_ms",
		h->arb.answered_ns
			? json_integer((json_int_t)((now - h->arb.answered_ns) / 1000000))
			: json_null(),
		"why", h->arb.why);
}

static const char *role_name(enum pair_state s)
{
	return pair_state_is_primary(s)	  ? "primary"
	       : pair_state_is_standby(s) ? "standby"
					  : "none";
}

static json_t *peer_json(const struct host *h, const struct pair *p)
{
	if (!h->peer_up)
		return json_null();
	return json_pack("{s:s,s:s,s:s,s:I,s:o}", "state", pair_state_name(p->peer.state),
			 "role", role_name(p->peer.state), "health",
			 pair_health_name(p->peer.health), "term",
			 (json_int_t)p->peer.term, "epoch", null_if_none(p->peer.epoch));
}

/* The pair machine knows who holds a commit; that the survivor could win its claim is known
 * here. */
static json_t *safe_json(const struct host *h, const struct pair *p)
{
	char why_self[WHY_MAX] = "", why_peer[WHY_MAX] = "";
	int self = pair_safe_to_lose_self(p, why_self, sizeof(why_self));
	int peer = pair_safe_to_lose_peer(p, why_peer, sizeof(why_peer));
	int arb = host_arbiter_ok(h);
	static const char no_arb[] =
		"the arbiter does not answer, so nobody could be granted the VM";

	return json_pack("{s:{s:b,s:s},s:{s:b,s:s}}", config_self(h->cfg)->name, "safe",
			 self && arb, "why", self && !arb ? no_arb : why_self,
			 config_peer(h->cfg)->name, "safe", peer && arb, "why",
			 peer && !arb ? no_arb : why_peer);
}

/* Copy members of a counter object under the same names; what is not there is null. */
static void copy_members(json_t *to, json_t *from, const char *const *keys)
{
	for (; *keys; keys++) {
		json_t *v = json_object_get(from, *keys);

		json_object_set_new(to, *keys, v ? json_incref(v) : json_null());
	}
}

/* The paths of the link as rhea-vm says, with the addresses of the config. */
static void add_link_paths(json_t *o, const struct host *h, const struct vmrun *v)
{
	json_t *st = json_object_get(vmrun_stats(v), "paths"), *p;
	json_t *list = json_object_get(st, "list"), *n = json_object_get(st, "failovers");
	const struct config *cfg = h->cfg;
	size_t i;

	json_array_foreach(list, i, p)
	{
		if (i >= cfg->n_paths)
			break;
		json_object_set_new(p, "from",
				    json_string(cfg->paths[i].addr[cfg->self].text));
		json_object_set_new(p, "to",
				    json_string(cfg->paths[i].addr[cfg->peer].text));
	}
	json_object_set_new(o, "link_paths", list ? json_incref(list) : json_null());
	json_object_set_new(o, "link_failovers", n ? json_incref(n) : json_null());
}

/* The disks as rhea-vm says, with the paths of the config. */
static void add_disks(json_t *o, const struct vmrun *v)
{
	const struct config_vm *cfg = vmrun_config(v);
	json_t *list = json_object_get(vmrun_stats(v), "disk_list"), *d;
	size_t i;

	if (!vmrun_proc(v))
		list = NULL;
	json_array_foreach(list, i, d)
	{
		if (i < cfg->n_disks)
			json_object_set_new(d, "path", json_string(cfg->disks[i].path));
	}
	json_object_set_new(o, "disks", list ? json_incref(list) : json_null());
}

static void add_counters(json_t *o, const struct vmrun *v)
{
	static const char *const engine[] = {"acked",	     "bytes_raw",   "bytes_sent",
					     "sync_left",    "pause_us",    "ahead_us",
					     "commit_us",    "interval_us", "dirty_pages",
					     "early_epochs", NULL};
	static const char *const staged[] = {"staged_bytes", "staged_max_bytes",
					     "staged_limit_bytes", NULL};
	static const char *const sync[] = {"disk_sync", NULL};
	static const char *const durable[] = {"durable", "disk_faults", NULL};
	static const char *const held[] = {"held_bytes", "held_frames", "holding", "plug",
					   NULL};
	json_t *st = vmrun_stats(v), *pri = json_object_get(st, "primary");
	json_t *acked = json_object_get(pri, "acked"),
	       *epoch = json_object_get(pri, "epoch");
	json_int_t next = json_is_integer(acked) ? json_integer_value(acked) + 1 : 0;

	copy_members(o, pri, engine);
	copy_members(o, pri ? json_object_get(st, "netbuf") : NULL, held);
	copy_members(o, json_object_get(st, "standby"), staged);
	copy_members(o, pri ? st : NULL, sync);
	copy_members(o, st, durable);
	if (!pri)
		json_object_set(o, "acked",
				json_object_get(json_object_get(st, "standby"), "acked"));
	/* Epochs that ran and are not acked: the running one is not late. */
	json_object_set_new(o, "lag_epochs",
			    vmrun_pair(v)->state == PAIR_PROTECTED && pri
				    ? json_integer(json_integer_value(epoch) - next)
				    : json_null());
	json_object_set_new(o, "epochs",
			    pri ? json_incref(json_object_get(
					  json_object_get(pri, "pause_us"), "count"))
				: json_null());
}

static json_t *vm_json(const struct host *h, const struct vmrun *v)
{
	const struct pair *p = vmrun_pair(v);
	struct vmproc *proc = vmrun_proc(v);
	json_t *o;

	o = json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:o,s:b,s:b,s:b,s:o,s:I,s:b,s:b,s:o,s:o}",
		      "name", vmrun_config(v)->name, "role", role_name(p->state), "state",
		      pair_state_name(p->state), "health", pair_health_name(p->health),
		      "engine", pair_engine_name(p->engine), "term", (json_int_t)p->term,
		      "epoch", null_if_none(p->epoch), "protected",
		      p->state == PAIR_PROTECTED, "running", p->running, "preferred",
		      p->prm.preferred, "pid",
		      proc ? json_integer(vmproc_pid(proc)) : json_null(), "activate_us",
		      (json_int_t)vmrun_activate_us(v), "image_incomplete",
		      p->rec.incomplete, "suspended", p->rec.saved && !p->running, "peer",
		      peer_json(h, p), "safe_to_lose", safe_json(h, p));
	if (o) {
		add_counters(o, v);
		add_link_paths(o, h, v);
		add_disks(o, v);
	}
	return o;
}

static json_t *status_json(const struct host *h)
{
	json_t *vms = json_array();

	for (unsigned i = 0; i < h->n_vms; i++)
		if (json_array_append_new(vms, vm_json(h, h->vm[i]))) {
			json_decref(vms);
			return NULL;
		}
	return json_pack(
		"{s:s,s:s,s:s,s:s,s:I,s:b,s:o,s:o,s:o,s:o}", "host",
		config_self(h->cfg)->name, "peer", config_peer(h->cfg)->name, "pair",
		h->cfg->pair, "version", RHEA_VERSION, "uptime_s",
		(json_int_t)((clock_mono_ns() - h->started_ns) / 1000000000u), "peer_up",
		h->peer_up, "peer_clock_delta_us",
		h->peer_up ? json_integer((json_int_t)(h->peer_wall_delta_ns / 1000))
			   : json_null(),
		"arbiter", arbiter_json(h), "paths", cmd_heartbeat_paths(h), "vms", vms);
}

static void gather_free(struct gather *g)
{
	host_watch_remove(g->h, &g->watch);
	if (g->limit)
		event_free(g->limit);
	free(g);
}

static void gather_end(struct gather *g)
{
	struct ctl_conn *c = g->c;
	json_t *st = g->only ? vmrun_stats(g->only) : NULL;

	if (!g->only)
		ctl_end(c, status_json(g->h));
	else if (st && vmrun_stats_seq(g->only) >= g->want[0])
		ctl_end(c, json_incref(st));
	else
		ctl_error(
			c,
			"%s: rhea-vm does not answer; \"rheactl status\" says how it is",
			vmrun_config(g->only)->name);
	gather_free(g);
}

static int gather_done(const struct gather *g)
{
	if (g->only)
		return vmrun_stats_seq(g->only) >= g->want[0];
	for (unsigned i = 0; i < g->h->n_vms; i++)
		if (vmrun_stats_seq(g->h->vm[i]) < g->want[i])
			return 0;
	return 1;
}

static void on_change(void *arg, struct vmrun *v)
{
	if (gather_done(arg))
		gather_end(arg);
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	gather_end(arg);
}

static void on_gone(void *arg)
{
	gather_free(arg);
}

static void gather_start(struct host *h, struct ctl_conn *c, struct vmrun *only)
{
	static const struct timeval limit = {.tv_usec = STATS_WAIT_MS * 1000};
	struct gather *g = calloc(1, sizeof(*g));

	if (g) {
		g->h = h;
		g->c = c;
		g->only = only;
		g->watch = (struct host_watch){.fn = on_change, .arg = g};
		g->limit = evtimer_new(loop_base(h->loop), on_limit, g);
	}
	if (!g || !g->limit || event_add(g->limit, &limit)) {
		if (g)
			gather_free(g);
		ctl_error(c, "rhead: out of memory");
		return;
	}
	if (only)
		g->want[0] = vmrun_stats_ask(only);
	else
		for (unsigned i = 0; i < h->n_vms; i++)
			g->want[i] = vmrun_stats_ask(h->vm[i]);
	host_watch_add(h, &g->watch);
	ctl_async(c, on_gone, g);
	if (gather_done(g))
		gather_end(g);
}

void cmd_status(struct host *h, struct ctl_conn *c, json_t *req)
{
	gather_start(h, c, NULL);
}

void cmd_stats(struct host *h, struct ctl_conn *c, json_t *req)
{
	struct vmrun *v = cmd_vm(h, c, req);

	if (v && !vmrun_proc(v))
		ctl_error(c, "%s: no rhea-vm runs on this host now",
			  vmrun_config(v)->name);
	else if (v)
		gather_start(h, c, v);
}
