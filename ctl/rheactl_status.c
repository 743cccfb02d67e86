/* SPDX-License-Identifier: Apache-2.0
 * rheactl_status - the state of this host and its VMs, and what may be lost.
 */
#include "ctl/rheactl.h"

#include "ctl/table.h"

#include <stdio.h>
#include <string.h>

enum { NUM = 32 };

static const char *yes(json_t *o, const char *key, const char *t, const char *f)
{
	return json_is_true(json_object_get(o, key)) ? t : f;
}

static void show_host(json_t *st)
{
	json_int_t up = json_integer_value(json_object_get(st, "uptime_s"));
	json_t *arb = json_object_get(st, "arbiter"), *delta;
	char age[NUM];

	printf("host %s, pair %s, rhead %s, up %" JSON_INTEGER_FORMAT "h%02dm%02ds\n",
	       rc_str(st, "host"), rc_str(st, "pair"), rc_str(st, "version"), up / 3600,
	       (int)(up / 60 % 60), (int)(up % 60));
	delta = json_object_get(st, "peer_clock_delta_us");
	if (json_is_true(json_object_get(st, "peer_up")))
		printf("peer %s: up, its clock %+.1f ms from ours\n", rc_str(st, "peer"),
		       (double)json_integer_value(delta) / 1e3);
	else
		printf("peer %s: NOT HEARD\n", rc_str(st, "peer"));
	if (!strcmp(rc_str(arb, "kind"), "manual"))
		printf("arbiter manual: an operator decides\n");
	else
		printf("arbiter %s: %s%s%s, asked %s ms ago\n", rc_str(arb, "kind"),
		       yes(arb, "ok", "answers", "DOES NOT ANSWER"),
		       json_is_true(json_object_get(arb, "ok")) ? "" : ": ",
		       json_is_true(json_object_get(arb, "ok")) ? "" : rc_str(arb, "why"),
		       fmt_int(json_object_get(arb, "age_ms"), age, sizeof(age)));
}

static void show_paths(json_t *st)
{
	static struct table t;
	char a[NUM], b[NUM];
	json_t *p;
	size_t i;

	memset(&t, 0, sizeof(t));
	table_head(&t, "PATH", 0);
	table_head(&t, "TO", 0);
	table_head(&t, "IS", 0);
	table_head(&t, "RTT", 1);
	table_head(&t, "LOST", 1);
	json_array_foreach(json_object_get(st, "paths"), i, p)
	{
		table_row(&t);
		table_add(&t, "%s", rc_str(p, "from"));
		table_add(&t, "%s", rc_str(p, "to"));
		table_add(&t, "%s", yes(p, "up", "up", "DOWN"));
		table_add(&t, "%s", fmt_us(json_object_get(p, "rtt_us"), a, sizeof(a)));
		table_add(&t, "%s", fmt_int(json_object_get(p, "lost"), b, sizeof(b)));
	}
	table_print(&t);
}

static void vm_row(struct table *t, json_t *vm)
{
	char a[NUM], b[NUM];
	json_t *pause = json_object_get(vm, "pause_us"),
	       *dirty = json_object_get(vm, "dirty_pages");

	table_row(t);
	table_add(t, "%s", rc_str(vm, "name"));
	table_add(t, "%s", rc_str(vm, "role"));
	table_add(t, "%s%s", rc_str(vm, "state"),
		  !strcmp(rc_str(vm, "health"), "hung") ? " HUNG" : "");
	table_add(t, "%s", fmt_int(json_object_get(vm, "term"), a, sizeof(a)));
	table_add(t, "%s", fmt_int(json_object_get(vm, "epoch"), a, sizeof(a)));
	table_add(t, "%s", fmt_int(json_object_get(vm, "lag_epochs"), a, sizeof(a)));
	table_add(t, "%s", fmt_bytes(json_object_get(vm, "held_bytes"), a, sizeof(a)));
	table_add(t, "%s", fmt_us(json_object_get(pause, "p50"), a, sizeof(a)));
	table_add(t, "%s", fmt_us(json_object_get(pause, "p99"), a, sizeof(a)));
	table_add(t, "%s/%s", fmt_int(json_object_get(dirty, "p50"), a, sizeof(a)),
		  fmt_int(json_object_get(dirty, "p99"), b, sizeof(b)));
	table_add(t, "%s", fmt_bytes(json_object_get(vm, "bytes_raw"), a, sizeof(a)));
	table_add(t, "%s", fmt_bytes(json_object_get(vm, "bytes_sent"), a, sizeof(a)));
	table_add(t, "%s", rc_str(json_object_get(vm, "peer"), "state"));
}

static void show_vms(json_t *st)
{
	static const struct {
		const char *text;
		int right;
	} head[] = {{"VM", 0},	  {"ROLE", 0},		{"STATE", 0}, {"TERM", 1},
		    {"EPOCH", 1}, {"LAG", 1},		{"HELD", 1},  {"PAUSE p50", 1},
		    {"p99", 1},	  {"DIRTY p50/p99", 1}, {"RAW", 1},   {"SENT", 1}};
	static struct table t;
	char on[64];
	json_t *vm;
	size_t i;

	memset(&t, 0, sizeof(t));
	for (i = 0; i < sizeof(head) / sizeof(head[0]); i++)
		table_head(&t, head[i].text, head[i].right);
	(void)snprintf(on, sizeof(on), "ON %s", rc_str(st, "peer")); /* names are short */
	table_head(&t, on, 0);
	json_array_foreach(json_object_get(st, "vms"), i, vm) vm_row(&t, vm);
	table_print(&t);
}

/* What becomes of a path that is not in use. */
static void add_next(struct table *t, json_t *p)
{
	json_int_t ms = json_integer_value(json_object_get(p, "wait_ms"));

	if (json_is_true(json_object_get(p, "drill")))
		table_add(t, "DRILL");
	else if (ms <= 0)
		table_add(t, "-");
	else
		table_add(t, "%s in %.1f s",
			  !strcmp(rc_str(p, "state"), "ready") ? "used" : "tried",
			  (double)ms / 1e3);
}

static void link_row(struct table *t, json_t *vm, json_t *p)
{
	char a[NUM], b[NUM];

	table_row(t);
	table_add(t, "%s", rc_str(vm, "name"));
	table_add(t, "%s", rc_str(p, "transport"));
	table_add(t, "%s", rc_str(p, "from"));
	table_add(t, "%s", rc_str(p, "to"));
	table_add(t, "%s", rc_str(p, "state"));
	table_add(t, "%lld",
		  (long long)json_integer_value(json_object_get(p, "since_ms")) / 1000);
	table_add(t, "%s", fmt_int(json_object_get(p, "failed_in_use"), a, sizeof(a)));
	table_add(t, "%s", fmt_int(json_object_get(vm, "link_failovers"), b, sizeof(b)));
	add_next(t, p);
	table_add(t, "%s", rc_str(p, "why"));
}

/* The paths of each VM's link, if there is a choice. */
static void show_links(json_t *st)
{
	static const struct {
		const char *text;
		int right;
	} head[] = {{"LINK", 0}, {"BY", 0},	     {"FROM", 0},   {"TO", 0},
		    {"PATH", 0}, {"FOR s", 1},	     {"FAILED", 1}, {"FAILOVERS", 1},
		    {"NEXT", 0}, {"LAST FAILURE", 0}};
	static struct table t;
	json_t *vm, *p, *list;
	size_t i, k, rows = 0;

	memset(&t, 0, sizeof(t));
	for (i = 0; i < sizeof(head) / sizeof(head[0]); i++)
		table_head(&t, head[i].text, head[i].right);
	json_array_foreach(json_object_get(st, "vms"), i, vm)
	{
		list = json_object_get(vm, "link_paths");
		if (json_array_size(list) < 2)
			continue;
		json_array_foreach(list, k, p) link_row(&t, vm, p);
		rows++;
	}
	if (!rows)
		return;
	table_print(&t);
	printf("\n");
}

static void show_images(json_t *st)
{
	json_t *vm;
	size_t i;

	json_array_foreach(json_object_get(st, "vms"), i, vm)
	{
		if (json_is_true(json_object_get(vm, "image_incomplete")))
			printf("%s: its disks on host %s are INCOMPLETE until a sync is through: nothing "
			       "boots from them\n",
			       rc_str(vm, "name"), rc_str(st, "host"));
		if (json_is_true(json_object_get(vm, "suspended")))
			printf("%s: its guest is suspended on host %s: rheactl vm resume %s\n",
			       rc_str(vm, "name"), rc_str(st, "host"),
			       rc_str(vm, "name"));
	}
}

/* A sync of disks that goes on, and a log that failed. */
static void show_disks(json_t *st)
{
	char left[NUM], rate[NUM], eta[NUM], sent[NUM];
	json_t *vm, *s;
	size_t i;

	json_array_foreach(json_object_get(st, "vms"), i, vm)
	{
		s = json_object_get(vm, "disk_sync");
		if (json_integer_value(
			    json_object_get(json_object_get(s, "log"), "state")) < 0)
			printf("%s: the disks' activity log on host %s has FAILED: the next return "
			       "after a crash is a full comparison\n",
			       rc_str(vm, "name"), rc_str(st, "host"));
		if (strcmp(rc_str(s, "state"), "comparing") != 0 &&
		    strcmp(rc_str(s, "state"), "sending") != 0)
			continue;
		printf("%s: disks are %s%s%s: %s left, %s sent, %s/s, ready in %s s\n",
		       rc_str(vm, "name"),
		       json_is_true(json_object_get(s, "partial"))
			       ? "compared where they were written"
			       : "compared as a whole",
		       rc_str(s, "why")[0] ? ", because " : "", rc_str(s, "why"),
		       fmt_bytes(json_object_get(s, "left_bytes"), left, sizeof(left)),
		       fmt_bytes(json_object_get(s, "sent_bytes"), sent, sizeof(sent)),
		       fmt_bytes(json_object_get(s, "rate"), rate, sizeof(rate)),
		       fmt_int(json_object_get(s, "eta_s"), eta, sizeof(eta)));
	}
}

/* How large the guest's disks are. */
static void show_sizes(json_t *st)
{
	char size[NUM];
	json_t *vm, *d;
	size_t i, k;

	json_array_foreach(json_object_get(st, "vms"), i, vm)
	{
		if (!json_array_size(json_object_get(vm, "disks")))
			continue;
		printf("%s: disks:", rc_str(vm, "name"));
		json_array_foreach(json_object_get(vm, "disks"), k, d) printf(
			"%s %s %s", k ? "," : "", rc_str(d, "serial"),
			fmt_bytes(json_object_get(d, "bytes"), size, sizeof(size)));
		printf("\n");
	}
}

/* What a standby's memory is used for beside the guest's own. */
static void show_staged(json_t *st)
{
	char now[NUM], most[NUM], limit[NUM];
	json_t *vm;
	size_t i;

	json_array_foreach(json_object_get(st, "vms"), i, vm)
	{
		if (!json_is_integer(json_object_get(vm, "staged_bytes")))
			continue;
		printf("%s: %s of epochs staged on host %s, %s at most so far, bound %s\n",
		       rc_str(vm, "name"),
		       fmt_bytes(json_object_get(vm, "staged_bytes"), now, sizeof(now)),
		       rc_str(st, "host"),
		       fmt_bytes(json_object_get(vm, "staged_max_bytes"), most,
				 sizeof(most)),
		       fmt_bytes(json_object_get(vm, "staged_limit_bytes"), limit,
				 sizeof(limit)));
	}
}

/* Which epoch the standby's disks would come back with after a power cut. */
static void show_durable(json_t *st)
{
	char epoch[NUM], lag[NUM], ms[NUM], used[NUM], size[NUM];
	json_t *vm, *d;
	size_t i;

	json_array_foreach(json_object_get(st, "vms"), i, vm)
	{
		d = json_object_get(vm, "durable");
		if (!json_is_object(d))
			continue;
		printf("%s: ", rc_str(vm, "name"));
		if (json_is_integer(json_object_get(d, "epoch")))
			printf("epoch %s is on the standby's disks",
			       fmt_int(json_object_get(d, "epoch"), epoch,
				       sizeof(epoch)));
		else
			printf("NOTHING is durable on the standby (%s)",
			       rc_str(d, "state"));
		if (json_is_integer(json_object_get(d, "lag_epochs")))
			printf(", %s epochs (%s ms) behind what is committed",
			       fmt_int(json_object_get(d, "lag_epochs"), lag,
				       sizeof(lag)),
			       fmt_int(json_object_get(d, "lag_ms"), ms, sizeof(ms)));
		printf("; journal %s of %s\n",
		       fmt_bytes(json_object_get(d, "journal_used"), used, sizeof(used)),
		       fmt_bytes(json_object_get(d, "journal_size"), size, sizeof(size)));
	}
}

/* This host's disks that gave errors. */
static void show_faults(json_t *st)
{
	char errors[NUM], answered[NUM];
	json_t *vm, *f;
	size_t i, k;

	json_array_foreach(json_object_get(st, "vms"), i, vm)
	{
		json_array_foreach(json_object_get(vm, "disk_faults"), k, f)
		{
			printf("%s: %s errors of a disk, the guest was told %s; the last: %s\n",
			       rc_str(vm, "name"),
			       fmt_int(json_object_get(f, "errors"), errors,
				       sizeof(errors)),
			       fmt_int(json_object_get(f, "answered"), answered,
				       sizeof(answered)),
			       rc_str(f, "last"));
			if (json_integer_value(json_object_get(f, "waiting")))
				printf("%s: THE GUEST WAITS for this disk\n",
				       rc_str(vm, "name"));
		}
	}
}

/* What the kernel's queue lost is the guest's loss, and should never be: said where it cannot be missed. */
static void show_plugs(json_t *st)
{
	json_t *vm, *plug;
	json_int_t dropped;
	size_t i;

	json_array_foreach(json_object_get(st, "vms"), i, vm)
	{
		plug = json_object_get(vm, "plug");
		dropped = json_integer_value(json_object_get(plug, "dropped_frames"));
		if (dropped > 0)
			printf("%s: the kernel's queue was full and dropped %" JSON_INTEGER_FORMAT
			       " of its frames\n",
			       rc_str(vm, "name"), dropped);
	}
}

static void show_safe(json_t *st, const char *host)
{
	json_t *vm, *s;
	size_t i;

	json_array_foreach(json_object_get(st, "vms"), i, vm)
	{
		s = rc_at(vm, "safe_to_lose", host);
		printf("safe to lose host %s now: %s: %s, because %s\n", host,
		       rc_str(vm, "name"), yes(s, "safe", "yes", "NO"), rc_str(s, "why"));
	}
}

static int show(struct rc *rc)
{
	int status;
	json_t *st = rc_ask(rc, json_pack("{s:s}", "cmd", "status"), &status);

	if (!st)
		return status;
	if (rc->json) {
		rc_print_json(st, rc->watch_s > 0);
	} else {
		show_host(st);
		printf("\n");
		show_paths(st);
		printf("\n");
		show_vms(st);
		printf("\n");
		show_links(st);
		show_sizes(st);
		show_disks(st);
		show_images(st);
		show_staged(st);
		show_durable(st);
		show_faults(st);
		show_plugs(st);
		show_safe(st, rc_str(st, "host"));
		show_safe(st, rc_str(st, "peer"));
	}
	json_decref(st);
	return RC_OK;
}

int rheactl_status(struct rc *rc, int argc, char **argv)
{
	static const struct option longs[] = {RC_OPTIONS, {NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "jw::s:h", longs, NULL)) != -1)
		if (rc_option(rc, c))
			return rc_usage("status [--watch[=SECONDS]]");
	if (optind != argc)
		return rc_usage("status takes no arguments");
	return rc_watch(rc, show);
}
