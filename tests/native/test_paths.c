/* SPDX-License-Identifier: Apache-2.0
 * test_paths - the paths of a protected VM's link are harmed under load, again and again and in every
 * manner: nothing is lost, nobody takes over, and a better path that heals is gone back to.
 *
 *   test_paths [ROUNDS [SEED]]     default 12, at random
 *
 * It ends with a line of how long the guest was silent to the outside, which is the price of a change.
 */
#include "hv/base/clock.h"
#include "tests/native/harm.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	HEARTBEAT_MS = 100,
	MISSED = 11,
	/* The peer is suspected after SUSPECT_MS, a path is given up after SILENCE_MS, and a link without a
	 * path after SUSPECT_MS. */
	SUSPECT_MS = HEARTBEAT_MS * (MISSED - 1),
	SILENCE_MS = SUSPECT_MS / 3,
	PROTECT_MS = 30000,
	TURN_MS =
		20000, /* for one change of paths, and for a cable that is plugged again */
	BACK_MS = 30000, /* for the way back: it must prove itself first */
	CALM_MS = 3000,	 /* then it stays there */
	ROUNDS = 12,
	ROUNDS_MAX = 1000,
	FLAPS = 4,
};
#define MS 1000000ull

struct paths {
	int in_use;
	char state[2][16];
	long failovers;
	uint64_t epoch, acked;
};

/* What must stay as it is, and what must only grow. */
struct fire {
	struct twohosts *p;
	int host;
	uint64_t term, switches, frames, n, epoch, acked;
	pid_t pid[2];
	double stall[ROUNDS_MAX]; /* ms */
	unsigned stalls;
	char when[96]; /* of the round that is under way */
};

static struct observed look(struct fire *f)
{
	struct observed o;

	observer_read(f->p->obs, &o);
	if (o.violations)
		th_fail(f->p, "%s: %s", f->when, o.first_violation);
	return o;
}

static uint64_t number(json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

static struct paths paths_of(struct fire *f)
{
	json_t *o = th_rheactl(f->p, f->host, "status"), *vm, *x;
	struct paths r = {.in_use = -1, .failovers = -1};
	const char *s;
	size_t i;

	vm = json_array_get(json_object_get(o, "vms"), 0);
	r.epoch = number(vm, "epoch");
	r.acked = number(vm, "acked");
	if (json_is_integer(json_object_get(vm, "link_failovers")))
		r.failovers = (long)number(vm, "link_failovers");
	json_array_foreach(json_object_get(vm, "link_paths"), i, x)
	{
		s = json_string_value(json_object_get(x, "state"));
		if (i < 2)
			(void)snprintf(r.state[i], sizeof(r.state[i]), "%s", s ? s : "?");
		if (json_is_true(json_object_get(x, "in_use")))
			r.in_use = (int)i;
	}
	json_decref(o);
	return r;
}

static void wait_path(struct fire *f, unsigned i, const char *state, unsigned limit_ms)
{
	uint64_t end = clock_mono_ns() + limit_ms * MS;
	struct paths now;

	do {
		now = paths_of(f);
		if (!strcmp(now.state[i], state))
			return;
		th_sleep_ms(5);
	} while (clock_mono_ns() < end);
	th_fail(f->p,
		"%s: path %u is not %s after %u ms but \"%s\" (the other is \"%s\")",
		f->when, i, state, limit_ms, now.state[i], now.state[!i]);
}

/* Until one is in use and the other ready; returns the one in use. */
static unsigned both_up(struct fire *f)
{
	uint64_t end = clock_mono_ns() + TURN_MS * MS;
	struct paths now;

	while (now = paths_of(f),
	       now.in_use < 0 || strcmp(now.state[!now.in_use], "ready") != 0) {
		if (clock_mono_ns() > end)
			th_fail(f->p, "%s: the paths are \"%s\" and \"%s\" after %d ms",
				f->when, now.state[0], now.state[1], TURN_MS);
		th_sleep_ms(5);
	}
	return (unsigned)now.in_use;
}

static void settle(struct fire *f, struct twohosts *p)
{
	struct vm_view v;
	struct observed o;

	*f = (struct fire){
		.p = p, .host = th_wait_protected(p, PROTECT_MS), .when = "at the start"};
	if (f->host < 0)
		th_fail(p, "not protected after %d ms", PROTECT_MS);
	for (int i = 0; i < 2; i++) {
		if (th_view(p, i, &v))
			th_fail(p, "host %s does not answer", p->host[i].name);
		f->pid[i] = v.pid;
		if (i == f->host)
			f->term = v.term;
	}
	both_up(f);
	o = look(f);
	f->switches = o.switches;
	f->frames = o.frames;
	f->n = o.last_n;
}

/* The same term, processes and host; the epochs went on; each count of the guest's came out, once and
 * in order. */
static void expect_same(struct fire *f)
{
	struct paths now = paths_of(f);
	struct observed o = look(f);
	struct vm_view v;

	if (o.switches != f->switches || o.last_host != f->host)
		th_fail(f->p, "%s: the VM moved", f->when);
	if (o.frames - f->frames != o.last_n - f->n)
		th_fail(f->p, "%s: %llu frames for %llu counts", f->when,
			(unsigned long long)(o.frames - f->frames),
			(unsigned long long)(o.last_n - f->n));
	if (now.epoch <= f->epoch || now.acked <= f->acked)
		th_fail(f->p, "%s: epoch %llu, acked %llu, after %llu and %llu", f->when,
			(unsigned long long)now.epoch, (unsigned long long)now.acked,
			(unsigned long long)f->epoch, (unsigned long long)f->acked);
	f->epoch = now.epoch;
	f->acked = now.acked;
	for (int i = 0; i < 2; i++) {
		if (th_view(f->p, i, &v))
			th_fail(f->p, "%s: host %s does not answer", f->when,
				f->p->host[i].name);
		if (v.pid != f->pid[i])
			th_fail(f->p, "%s: host %s has another rhea-vm", f->when,
				f->p->host[i].name);
		if (i == f->host && (v.term != f->term || !v.protected))
			th_fail(f->p, "%s: term %llu, state %s", f->when,
				(unsigned long long)v.term, v.state);
	}
}

/* Until the guest has spoken for a while after the harm: the longest silence since it began. */
static void note_stall(struct fire *f)
{
	uint64_t since = clock_mono_ns(), end = since + TURN_MS * MS, now;
	struct observed o;

	do {
		th_sleep_ms(1);
		o = look(f);
		now = clock_mono_ns();
		if (now > end)
			th_fail(f->p, "%s: no output any more", f->when);
	} while (o.last_ns < since + 2ull * SILENCE_MS * MS);
	if (f->stalls < ROUNDS_MAX)
		f->stall[f->stalls++] = (double)o.longest_ns / 1e6;
}

/* One path fails, the other serves. */
static void one_fails(struct fire *f, enum harm kind)
{
	unsigned i = both_up(f);
	long failovers = paths_of(f).failovers;

	th_sleep_ms(th_random(100)); /* anywhere within an epoch */
	harm_begin(f->p, i, kind);
	note_stall(f);
	wait_path(f, !i, "in-use", TURN_MS);
	if (paths_of(f).failovers <= failovers)
		th_fail(f->p, "%s: the failover is not counted", f->when);
	harm_end(f->p, i, kind);
}

/* One after the other fails, as soon as the one before is back. */
static void flap(struct fire *f, enum harm kind)
{
	unsigned i;

	for (unsigned k = 0; k < FLAPS; k++) {
		i = both_up(f);
		harm_begin(f->p, i, kind);
		wait_path(f, !i, "in-use", TURN_MS);
		harm_end(f->p, i, kind);
	}
	note_stall(f);
}

/* The time that it takes to do harm is part of it: on a busy machine that is not little. */
static void sleep_until(uint64_t ns)
{
	uint64_t now = clock_mono_ns();

	if (ns > now)
		th_sleep_ms((unsigned)((ns - now) / MS));
}

/* The path that was to take over fails at that, and both heal before the link is given up. */
static void fails_taking_over(struct fire *f, enum harm kind)
{
	unsigned i = both_up(f);
	uint64_t at = clock_mono_ns() + (SILENCE_MS * 2 / 3 + th_random(SILENCE_MS)) * MS;

	harm_begin(f->p, i, kind);
	sleep_until(at);
	harm_begin(f->p, !i, kind);
	sleep_until(at + th_random(SILENCE_MS / 3) * MS);
	harm_end(f->p, i, kind);
	harm_end(f->p, !i, kind);
	note_stall(f);
}

/* Neither works, for less than the time after which the link is given up. */
static void both_fail(struct fire *f, enum harm kind)
{
	uint64_t until = clock_mono_ns() + th_random(SUSPECT_MS * 9 / 20) * MS;

	harm_begin(f->p, 0, kind);
	harm_begin(f->p, 1, kind);
	sleep_until(until);
	harm_end(f->p, 0, kind);
	harm_end(f->p, 1, kind);
	note_stall(f);
}

static void one_round(struct fire *f, unsigned i)
{
	static const struct {
		const char *name;
		void (*run)(struct fire *f, enum harm kind);
	} plots[] = {{"", one_fails},
		     {"", one_fails},
		     {"", one_fails},
		     {"in turn, ", flap},
		     {"while taking over, ", fails_taking_over},
		     {"both, ", both_fail}};
	unsigned plot = th_random(sizeof(plots) / sizeof(plots[0]));
	enum harm kind = th_random(HARM_KINDS);
	double ms;

	(void)snprintf(f->when, sizeof(f->when), "round %u (%s%s)", i + 1,
		       plots[plot].name, harm_name(kind)); /* fits */
	both_up(f);
	observer_mark(f->p->obs);
	plots[plot].run(f, kind);
	both_up(f);
	expect_same(f);
	ms = f->stall[f->stalls - 1];
	printf("%s: %.1f ms\n", f->when, ms);
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void print_stalls(struct fire *f)
{
	qsort(f->stall, f->stalls, sizeof(f->stall[0]), by_size);
	printf("%u rounds of harm: no epoch lost, no takeover, term %llu as before; the guest was "
	       "silent for %.1f ms (p50), %.1f ms (p99), %.1f ms (longest); a path is given up "
	       "after %d ms, a link after %d ms\n",
	       f->stalls, (unsigned long long)f->term, f->stall[f->stalls / 2],
	       f->stall[(f->stalls - 1) * 99 / 100], f->stall[f->stalls - 1], SILENCE_MS,
	       SUSPECT_MS);
}

static void way_back(struct fire *f)
{
	uint64_t end;

	(void)snprintf(f->when, sizeof(f->when), "the way back"); /* fits */
	th_cut_path(f->p, 0, 1);
	wait_path(f, 1, "in-use", TURN_MS);
	th_cut_path(f->p, 0, 0);
	wait_path(f, 0, "in-use", BACK_MS);
	end = clock_mono_ns() + CALM_MS * MS;
	while (clock_mono_ns() < end) {
		if (paths_of(f).in_use != 0)
			th_fail(f->p, "%s: it did not stay on the better path", f->when);
		th_sleep_ms(50);
	}
	expect_same(f);
	printf("a better path that healed is in use again, and stays\n");
}

static void drill(struct fire *f, unsigned path, const char *harm)
{
	char cmd[128], want[16];
	const char *other;
	json_t *r;

	(void)snprintf(f->when, sizeof(f->when), "drill path %u %s", path,
		       harm); /* fits */
	(void)snprintf(cmd, sizeof(cmd), "drill run path v %u %s --for 0.7 | tail -n 1",
		       path, harm); /* fits */
	r = th_rheactl(f->p, f->host, cmd);
	other = json_string_value(json_object_get(r, "took_over"));
	(void)snprintf(want, sizeof(want), "%u (tcp", !path); /* fits */
	if (!json_is_true(json_object_get(r, "ok")) || number(r, "epochs_lost") != 0 ||
	    !other || strncmp(other, want, strlen(want)) != 0 || !number(r, "epochs") ||
	    number(r, "term_after") != f->term ||
	    json_real_value(json_object_get(r, "wait_ms")) <= 0 ||
	    json_real_value(json_object_get(r, "again_ms")) < 700)
		th_fail(f->p, "%s: %s", f->when, r ? json_dumps(r, 0) : "no report");
	printf("%s: output waited for %.1f ms\n", f->when,
	       json_real_value(json_object_get(r, "wait_ms")));
	json_decref(r);
	both_up(f);
	expect_same(f);
}

static int refused(struct fire *f, const char *cmd)
{
	json_t *r = th_rheactl(f->p, f->host, cmd);
	int yes = json_is_string(json_object_get(r, "error"));

	json_decref(r);
	return yes;
}

/* Who asked is killed: the harm ends all the same, in its time, and is on record. */
static void drill_without_asker(struct fire *f)
{
	uint64_t end = clock_mono_ns() + TURN_MS * MS;
	unsigned path = both_up(f);
	char cmd[160];
	json_t *r;

	(void)snprintf(f->when, sizeof(f->when), "a drill whose rheactl dies"); /* fits */
	(void)snprintf(cmd, sizeof(cmd),
		       "drill run path v %u stall --for 1.5 & sleep 0.2; "
		       "kill -KILL $!; true",
		       path); /* fits */
	r = th_rheactl(f->p, f->host, cmd);
	json_decref(r);
	wait_path(f, path, "down", TURN_MS);
	if (!refused(f, "drill run path v 0 cut"))
		th_fail(f->p, "%s: a second one was begun", f->when);
	wait_path(f, path, "ready", TURN_MS);
	(void)snprintf(
		cmd, sizeof(cmd),
		"events --count 100 v | grep \"drill path %u stall ended\" | tail -n 1",
		path); /* fits */
	while (!(r = th_rheactl(f->p, f->host, cmd))) {
		if (clock_mono_ns() > end)
			th_fail(f->p, "%s: its end is not on record", f->when);
		th_sleep_ms(20);
	}
	json_decref(r);
	if (!refused(f, "drill run path v 2 cut") ||
	    !refused(f, "drill run path v tcp cut") ||
	    !refused(f, "drill run path v 0 burn"))
		th_fail(f->p, "%s: nonsense was not refused", f->when);
	expect_same(f);
}

/* A process that is killed takes all of its paths along, and that is no harm to be outlived: the other one goes
 * on, with every count. */
static void killed(struct fire *f, int of_standby)
{
	struct observed o;

	settle(f, f->p);
	(void)snprintf(f->when, sizeof(f->when), "the %s's rhea-vm is killed",
		       of_standby ? "standby" : "primary"); /* fits */
	observer_mark(f->p->obs);
	if (kill(f->pid[of_standby ? !f->host : f->host], SIGKILL))
		th_fail(f->p, "%s: it is not there", f->when);
	note_stall(f);
	o = look(f);
	if (o.last_host != (of_standby ? f->host : !f->host) ||
	    o.switches - f->switches != !of_standby)
		th_fail(f->p, "%s: host %d speaks after %llu switches", f->when,
			o.last_host, (unsigned long long)(o.switches - f->switches));
	printf("%s: %.1f ms of silence\n", f->when, f->stall[0]);
}

/* Whichever two transports the paths have. */
static void two_paths(const char *name, const char *paths, unsigned rounds)
{
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=256 net=1 disk=1 pace=1000",
		.memory_mib = 256,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = HEARTBEAT_MS,
		.missed = MISSED,
		.networks = 2,
		.paths = paths,
	};
	static struct twohosts p;
	static struct fire f;

	th_up(&p, &opts);
	settle(&f, &p);
	printf("%s:\n", name);
	way_back(&f);
	if (rounds) {
		drill(&f, 0, "cut");
		drill(&f, 1, "stall");
		drill_without_asker(&f);
	}
	for (unsigned i = 0; i < rounds; i++)
		one_round(&f, i);
	if (rounds) {
		print_stalls(&f);
		killed(&f, 1);
		killed(&f, 0);
	}
	th_end(&p);
}

#define TCP_0                                                                      \
	"{ transport = \"tcp\"; streams = 3; address = { a = \"10.78.0.1:7700\"; " \
	"b = \"10.78.0.2:7700\"; }; }"
#define TCP_1                                                         \
	"{ transport = \"tcp\"; address = { a = \"10.79.0.1:7700\"; " \
	"b = \"10.79.0.2:7700\"; }; }"
#define DPDK_0                                                                            \
	"{ transport = \"dpdk\"; args = \"--vdev=net_af_packet0,iface=repl0 window=4\"; " \
	"address = { a = \"10.78.0.1:7702\"; b = \"10.78.0.2:7702\"; }; }"

int main(int argc, char **argv)
{
	unsigned n = ROUNDS;

	th_begin(argc, argv, &n);
	if (n > ROUNDS_MAX)
		return 2;
	two_paths("dpdk, then tcp", DPDK_0 ", " TCP_1, 0);
	two_paths("tcp twice", TCP_0 ", " TCP_1, n);
	return 0;
}
