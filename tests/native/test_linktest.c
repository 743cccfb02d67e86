/* SPDX-License-Identifier: Apache-2.0
 * test_linktest - `rheactl link test` on two paths of known speed, and one by dpdk: what it says is so, and the
 * VM whose checkpoints go over the same wires loses nothing by it.
 *
 * Then without a VM: the testers that measure instead end by themselves, and make way for a VM that starts.
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	HEARTBEAT_MS = 100,
	MISSED =
		20, /* a path is given up after a third of that: not for a busy machine */
	PROTECT_MS = 30000,
	END_MS = 20000,
	SLOW_MBIT = 200,
	FAST_MBIT = 500,
	/* Per cent of the wire's speed that a measurement may say: payload only, on a busy machine. */
	LEAST = 55,
	MOST = 115,
	TRIES = 5,
};
#define MS 1000000ull

/* What must stay as it is. */
struct before {
	int host;
	uint64_t term, switches;
	pid_t pid[2];
};

/* Whoever reads the JSON form finds all this. */
static const char shape[] =
	".ok and .from != .to and (.heartbeat | length == 2) and "
	"([.paths[].transport] == [\"tcp\", \"tcp\", \"dpdk\"]) and "
	"([.paths[].loss.unit] == [\"segments\", \"segments\", \"frames\"]) and "
	"([.paths[] | .ok and .slices > 0 and .bytes_per_s > 0 and "
	"  .small.count > 0 and .small.p50_us > 0 and .small.p99_us >= .small.p50_us and "
	"  .page.count > 0 and .page.p50_us > 0 and .page.p99_us >= .page.p50_us and "
	"  .loss.sent > 0 and .loss.resent <= .loss.sent and "
	"  .carries.pages_raw > 0 and .carries.epoch_1000_raw.per_s > 0 and "
	"  (.carries.epoch_1000_raw.limit | . == \"bandwidth\" or . == \"latency\") and "
	"  (.verdict | . == \"good\" or . == \"late\") and (.verdict_text | length > 0)] | all)";
/* Beside a protected VM. */
static const char shape_vm[] =
	".by_vm and .vm == \"v\" and ([.paths[].in_use] == [true, false, false]) and "
	"([.paths[].beside_vm] | all)";
/* And this from the primary, which knows the VM's load. */
static const char shape_load[] =
	".other_way == false and ([.paths[] | .load.bytes_per_page > 0 and .load.dirty_p99 > 0 and "
	"  .carries.pages_encoded > .carries.pages_raw and .carries.epoch_1000_encoded.commit_ms > 0"
	"] | all)";
/* Without a VM. */
static const char shape_alone[] =
	".by_vm == false and ([.paths[] | .beside_vm == false and .load == null and "
	"  .stopped == \"\" and .carries.pages_encoded == null] | all)";

static struct observed look(struct twohosts *p, const char *when)
{
	struct observed o;

	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "%s: %s", when, o.first_violation);
	return o;
}

/* All paths are connected, and the first one is in use. */
static void all_paths(struct twohosts *p, int host)
{
	static const char *const want[] = {"in-use", "ready", "ready"};
	uint64_t end = clock_mono_ns() + PROTECT_MS * MS;
	json_t *o, *list, *path;
	const char *is;
	size_t i, good;

	do {
		o = th_rheactl(p, host, "status");
		list = json_object_get(json_array_get(json_object_get(o, "vms"), 0),
				       "link_paths");
		good = 0;
		json_array_foreach(list, i, path)
		{
			is = json_string_value(json_object_get(path, "state"));
			good += i < 3 && is && !strcmp(is, want[i]);
		}
		json_decref(o);
		if (good == 3)
			return;
		th_sleep_ms(5);
	} while (clock_mono_ns() < end);
	th_fail(p, "the paths are not all connected after %d ms", PROTECT_MS);
}

static struct before settle(struct twohosts *p)
{
	struct before b = {.host = th_wait_protected(p, PROTECT_MS)};
	struct vm_view v;

	if (b.host < 0)
		th_fail(p, "not protected after %d ms", PROTECT_MS);
	all_paths(p, b.host);
	for (int i = 0; i < 2; i++) {
		if (th_view(p, i, &v))
			th_fail(p, "host %s does not answer", p->host[i].name);
		b.pid[i] = v.pid;
		if (i == b.host)
			b.term = v.term;
	}
	b.switches = look(p, "settling").switches;
	return b;
}

static void expect_same(struct twohosts *p, const struct before *b, const char *when)
{
	struct observed o = look(p, when);
	struct vm_view v;
	json_t *st, *vm;

	if (o.switches != b->switches || o.last_host != b->host)
		th_fail(p, "%s: the VM moved", when);
	for (int i = 0; i < 2; i++) {
		if (th_view(p, i, &v))
			th_fail(p, "%s: host %s does not answer", when, p->host[i].name);
		if (v.pid != b->pid[i])
			th_fail(p, "%s: host %s has another rhea-vm", when,
				p->host[i].name);
		if (i == b->host && (v.term != b->term || !v.protected))
			th_fail(p, "%s: term %llu, state %s", when,
				(unsigned long long)v.term, v.state);
	}
	st = th_rheactl(p, b->host, "status");
	vm = json_array_get(json_object_get(st, "vms"), 0);
	if (json_integer_value(json_object_get(vm, "link_failovers")) != 0)
		th_fail(p, "%s: a path failed", when);
	json_decref(st);
}

/* jq finds @filter true of @o. */
static void expect_jq(struct twohosts *p, json_t *o, const char *filter, const char *when)
{
	char path[256], cmd[2048];

	(void)snprintf(path, sizeof(path), "%s/answer.json", p->dir);
	if (json_dump_file(o, path, JSON_INDENT(1)))
		th_fail(p, "%s: %s cannot be written", when, path);
	(void)snprintf(cmd, sizeof(cmd), "jq -e '%s' %s >/dev/null", filter, path);
	if (!system(cmd))
		return;
	(void)snprintf(cmd, sizeof(cmd), "cat %s >&2", path);
	(void)system(cmd); /* for who reads the failure */
	th_fail(p, "%s: the answer is not as it should be", when);
}

static json_t *test(struct twohosts *p, int host, const char *args, const char *when)
{
	json_t *o = th_rheactl(p, host, args);

	if (!json_is_true(json_object_get(o, "ok")))
		th_fail(p, "%s: no report", when);
	return o;
}

/* On a machine that has other things to do a VM's commits may be late for that, which ends a test early: then
 * it is done again. Returns owned. */
static json_t *test_whole(struct twohosts *p, int host, const char *args,
			  const char *when)
{
	json_t *o, *path;
	const char *why;
	size_t i;

	for (unsigned try = 0; try < TRIES; try++) {
		int stopped = 0;

		o = test(p, host, args, when);
		json_array_foreach(json_object_get(o, "paths"), i, path)
		{
			why = json_string_value(json_object_get(path, "stopped"));
			if (why && why[0])
				printf("%s: %s\n", when, why);
			stopped |= why && why[0];
		}
		if (!stopped)
			return o;
		json_decref(o);
	}
	th_fail(p, "%s: none of %d tests came to its end", when, TRIES);
}

static double mbit_of(json_t *o, unsigned i)
{
	json_t *path = json_array_get(json_object_get(o, "paths"), i);

	return json_number_value(json_object_get(path, "bytes_per_s")) * 8 / 1e6;
}

/* Nobody measures more than the wire carries; on a machine that has other things to do less may come out, and
 * then it is done again. Returns owned. */
static json_t *measure(struct twohosts *p, int host, const char *when)
{
	static const double wire[] = {SLOW_MBIT, FAST_MBIT};
	double is[2] = {0};
	json_t *o;

	for (unsigned try = 0; try < TRIES; try++) {
		o = test_whole(p, host, "link test v", when);
		expect_jq(p, o, shape, when);
		for (unsigned i = 0; i < 2; i++) {
			is[i] = mbit_of(o, i);
			if (is[i] > wire[i] * MOST / 100)
				th_fail(p,
					"%s: path %u carries %.0f Mbit/s, %.0f were measured",
					when, i, wire[i], is[i]);
		}
		printf("%s: %.0f Mbit/s of %.0f, %.0f of %.0f, %.0f by dpdk\n", when,
		       is[0], wire[0], is[1], wire[1], mbit_of(o, 2));
		if (is[0] >= wire[0] * LEAST / 100 && is[1] >= wire[1] * LEAST / 100)
			return o;
		json_decref(o);
	}
	th_fail(p, "%s: %d tests, and none measured %d %% of the wires' speeds", when,
		TRIES, LEAST);
}

static void beside_vm(struct twohosts *p)
{
	struct before b = settle(p);
	uint64_t frames = look(p, "before").frames;
	json_t *o;

	o = measure(p, b.host, "on the primary");
	expect_jq(p, o, shape_vm, "on the primary");
	expect_jq(p, o, shape_load, "on the primary");
	json_decref(o);
	expect_same(p, &b, "on the primary");
	o = test(p, !b.host, "link test", "on the standby");
	expect_jq(p, o, shape, "on the standby");
	expect_jq(p, o, shape_vm, "on the standby");
	expect_jq(p, o, ".other_way and ([.paths[].load] == [null, null, null])",
		  "on the standby");
	json_decref(o);
	o = test(p, b.host, "link test --path 1 --seconds 2", "one path");
	expect_jq(p, o, "[.paths[].index] == [1]", "one path");
	json_decref(o);
	o = test(p, b.host, "link test --path tcp", "one transport");
	expect_jq(p, o, "[.paths[].index] == [0, 1]", "one transport");
	json_decref(o);
	expect_same(p, &b, "all tests beside the VM");
	if (look(p, "after").frames <= frames)
		th_fail(p, "the guest said nothing meanwhile");
}

static void refusals(struct twohosts *p, int host)
{
	static const char *const bad[] = {"link test nobody", "link test --path 7",
					  "link test --path rdma"};
	json_t *o;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		o = th_rheactl(p, host, bad[i]);
		if (json_object_get(o, "ok"))
			th_fail(p, "\"%s\" was done", bad[i]);
		json_decref(o);
	}
}

/* No rhea-vm of any kind on either host. */
static void wait_no_process(struct twohosts *p, const char *what)
{
	uint64_t end = clock_mono_ns() + END_MS * MS;
	struct vm_view v[2];

	do {
		if (!th_view(p, 0, &v[0]) && !th_view(p, 1, &v[1]) && !v[0].pid &&
		    !v[1].pid)
			return;
		th_sleep_ms(20);
	} while (clock_mono_ns() < end);
	th_fail(p, "%s still lives after %d ms", what, END_MS);
}

/* Of any kind, as children of one host's rhead. */
static void expect_one_process(struct twohosts *p, int host, const char *when)
{
	char cmd[128];
	int n = -1;
	FILE *f;

	(void)snprintf(cmd, sizeof(cmd), "pgrep -c -P %d rhea-vm",
		       (int)p->host[host].rhead); /* fits */
	f = popen(cmd, "r");
	if (!f || fscanf(f, "%d", &n) != 1 || pclose(f) || n != 1)
		th_fail(p, "%s: host %s has %d processes for one VM", when,
			p->host[host].name, n);
}

static void without_vm(struct twohosts *p, int host)
{
	const char *when = "without a VM";
	json_t *o;

	json_decref(th_rheactl(p, host, "vm stop v --force"));
	wait_no_process(p, "the VM");
	o = measure(p, host, when);
	expect_jq(p, o, shape_alone, when);
	json_decref(o);
	wait_no_process(p, "a tester");
	/* They are there again, and make way. */
	json_decref(test(p, host, "link test --path dpdk", when));
	json_decref(th_rheactl(p, host, "vm start v"));
	host = th_wait_protected(p, PROTECT_MS);
	if (host < 0)
		th_fail(p, "not protected again after a test without the VM");
	expect_one_process(p, 0, when);
	expect_one_process(p, 1, when);
	all_paths(p, host);
	printf("testers end by themselves, and make way for a VM\n");
}

int main(int argc, char **argv)
{
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=64 net=1 disk=1 pace=1000",
		.memory_mib = 128,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = HEARTBEAT_MS,
		.missed = MISSED,
		.networks = 3,
		.paths =
			"{ transport = \"tcp\"; address = { a = \"10.78.0.1:7700\"; "
			"b = \"10.78.0.2:7700\"; }; }, "
			"{ transport = \"tcp\"; address = { a = \"10.79.0.1:7700\"; "
			"b = \"10.79.0.2:7700\"; }; }, "
			"{ transport = \"dpdk\"; args = \"--vdev=net_af_packet0,iface=repl2 "
			"window=4\"; address = { a = \"10.79.0.1:7702\"; "
			"b = \"10.79.0.2:7702\"; }; }",
	};
	static struct twohosts p;
	int host;

	th_begin(argc, argv, NULL);
	th_up(&p, &opts);
	th_rate_path(&p, 0, "200mbit", "64kb");
	th_rate_path(&p, 1, "500mbit", "128kb");
	host = th_wait_protected(&p, PROTECT_MS);
	beside_vm(&p);
	refusals(&p, host);
	observer_allow_boots(p.obs);
	without_vm(&p, host);
	th_end(&p);
	return 0;
}
