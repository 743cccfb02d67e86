/* SPDX-License-Identifier: Apache-2.0
 * test_paths - the path in use is cut under load, again and again: nothing is lost, nobody takes over,
 * and a better path that heals is gone back to once.
 *
 *   test_paths [CUTS]     default 6
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
	MISSED = 6,
	PROTECT_MS = 30000,
	TURN_MS =
		20000, /* for one change of paths, and for a cable that is plugged again */
	BACK_MS = 30000, /* for the way back: it must prove itself first */
	CALM_MS = 3000,	 /* then it stays there */
	CUTS = 6,
};
#define MS 1000000ull

/* What must stay as it is. */
struct before {
	int host;
	uint64_t term, switches;
	pid_t pid[2];
};

struct paths {
	int in_use;
	char state[2][16];
	long failovers;
};

static struct observed look(struct twohosts *p, const char *when)
{
	struct observed o;

	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "%s: %s", when, o.first_violation);
	return o;
}

static struct paths paths_of(struct twohosts *p, int host)
{
	json_t *o = th_rheactl(p, host, "status"), *vm, *list, *x;
	struct paths r = {.in_use = -1, .failovers = -1};
	const char *s;
	size_t i;

	vm = json_array_get(json_object_get(o, "vms"), 0);
	list = json_object_get(vm, "link_paths");
	if (json_is_integer(json_object_get(vm, "link_failovers")))
		r.failovers =
			(long)json_integer_value(json_object_get(vm, "link_failovers"));
	json_array_foreach(list, i, x)
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

/* Until path @i is in @state, while the longest silence of the guest is noted. */
static void wait_path(struct twohosts *p, int host, unsigned i, const char *state,
		      unsigned limit_ms, const char *when)
{
	uint64_t end = clock_mono_ns() + limit_ms * MS;
	struct paths now;

	do {
		now = paths_of(p, host);
		if (!strcmp(now.state[i], state))
			return;
		th_sleep_ms(5);
	} while (clock_mono_ns() < end);
	th_fail(p, "%s: path %u is not %s after %u ms but \"%s\" (the other is \"%s\")",
		when, i, state, limit_ms, now.state[i], now.state[!i]);
}

static void both_ready(struct twohosts *p, int host, unsigned in_use, const char *when)
{
	wait_path(p, host, in_use, "in-use", TURN_MS, when);
	wait_path(p, host, !in_use, "ready", TURN_MS, when);
}

static struct before settle(struct twohosts *p)
{
	struct before b = {.host = th_wait_protected(p, PROTECT_MS)};
	struct vm_view v;

	if (b.host < 0)
		th_fail(p, "not protected after %d ms", PROTECT_MS);
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
}

/* Watch the guest's output for a while after the cut at @cut_ns, and until it flows. Returns the
 * longest silence in ms. */
static double stall(struct twohosts *p, uint64_t cut_ns, const char *when)
{
	uint64_t end = cut_ns + TURN_MS * MS, last = cut_ns, longest = 0, now;
	struct observed o;

	do {
		th_sleep_ms(1);
		o = look(p, when);
		now = clock_mono_ns();
		if (o.last_ns > last) {
			longest = o.last_ns - last > longest ? o.last_ns - last : longest;
			last = o.last_ns;
		}
		if (now > end)
			th_fail(p, "%s: no output after the cut", when);
		/* The silence may begin a little after the cut, with what was acked already. */
	} while (now < cut_ns + 2ull * HEARTBEAT_MS * MISSED * MS ||
		 now - last > HEARTBEAT_MS * MISSED * MS);
	return (double)longest / 1e6;
}

/* The session is the same one all the time, and counts each failure once. */
static void expect_failovers(struct twohosts *p, int host, long want, const char *when)
{
	long got = paths_of(p, host).failovers;

	if (got != want)
		th_fail(p, "%s: %ld failovers are counted, %ld happened", when, got,
			want);
}

static void way_back(struct twohosts *p, const struct before *b)
{
	const char *when = "the way back";
	uint64_t end;

	th_cut_path(p, 0, 1);
	wait_path(p, b->host, 1, "in-use", TURN_MS, when);
	th_cut_path(p, 0, 0);
	wait_path(p, b->host, 0, "in-use", BACK_MS, when);
	end = clock_mono_ns() + CALM_MS * MS;
	while (clock_mono_ns() < end) {
		if (paths_of(p, b->host).in_use != 0)
			th_fail(p, "%s: it did not stay on the better path", when);
		th_sleep_ms(50);
	}
	expect_failovers(p, b->host, 1, when);
	expect_same(p, b, when);
	printf("a better path that healed is in use again, and stays\n");
}

static void cuts(struct twohosts *p, const struct before *b, unsigned n)
{
	double worst = 0, sum = 0, ms;
	uint64_t at;
	char when[64];
	int path;

	for (unsigned i = 0; i < n; i++) {
		(void)snprintf(when, sizeof(when), "cut %u", i + 1); /* fits */
		path = paths_of(p, b->host).in_use;
		if (path < 0)
			th_fail(p, "%s: no path is in use", when);
		both_ready(p, b->host, (unsigned)path, when);
		th_sleep_ms(th_random(100)); /* anywhere within an epoch */
		at = clock_mono_ns();
		th_cut_path(p, (unsigned)path, 1);
		ms = stall(p, at, when);
		wait_path(p, b->host, (unsigned)!path, "in-use", TURN_MS, when);
		expect_failovers(p, b->host, (long)i + 2, when);
		expect_same(p, b, when);
		th_cut_path(p, (unsigned)path, 0);
		worst = ms > worst ? ms : worst;
		sum += ms;
	}
	printf("%u cuts of the path in use: no epoch lost, no takeover; longest stall %.1f ms, mean "
	       "%.1f ms\n",
	       n, worst, n ? sum / n : 0.0);
}

int main(int argc, char **argv)
{
	char guest[300], cwd[200];
	const char *out = getenv("B") ? getenv("B") : "build/out";
	unsigned n = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : CUTS;
	struct th_opts opts = {
		.guest = guest,
		.cmdline = "mode=counter dirty=64 net=1 disk=1 pace=1000",
		.memory_mib = 256,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = HEARTBEAT_MS,
		.missed = MISSED,
		.networks = 2,
		.paths = "{ transport = \"tcp\"; address = { a = \"10.78.0.1:7700\"; "
			 "b = \"10.78.0.2:7700\"; }; }, "
			 "{ transport = \"tcp\"; address = { a = \"10.79.0.1:7700\"; "
			 "b = \"10.79.0.2:7700\"; }; }",
	};
	static struct twohosts p;
	struct before b;

	setbuf(stdout, NULL);
	th_seed(clock_mono_ns() | 1);
	if (!getcwd(cwd, sizeof(cwd)))
		return 1;
	(void)snprintf(guest, sizeof(guest), "%s/%s/tests/guest/guest.elf", cwd, out);
	th_up(&p, &opts);
	b = settle(&p);
	both_ready(&p, b.host, 0, "at the start");
	way_back(&p, &b);
	cuts(&p, &b, n);
	th_down(&p);
	return 0;
}
