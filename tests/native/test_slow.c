/* SPDX-License-Identifier: Apache-2.0
 * test_slow - a standby that cannot follow slows the guest down, and that is all that it does.
 *
 * The guest writes far more than the wire can carry. Whatever the wire's speed: epochs grow, the VM
 * stays protected, in the same term, its output goes on, and what the standby stages stays below
 * its bound. With a fast wire again epochs are as frequent as before. Then the standby's process itself is
 * made to stutter, each stop shorter than what is suspected.
 *
 *   test_slow [SECONDS for each speed]      default: 3
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
	PROTECT_MS = 20000,
	SETTLE_MS = 20000,
	EPOCH_MS = 120000, /* the pages of one epoch as they are, at the slowest speed */
	LOOK_MS = 250,
	STUTTERS = 40,
	STUTTER_MS = 60
};

static struct observed look(struct twohosts *p, const char *when)
{
	struct observed o;

	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "%s: %s", when, o.first_violation);
	if (o.switches)
		th_fail(p, "%s: the VM moved", when);
	return o;
}

static json_int_t number(json_t *o, const char *key)
{
	json_t *v = json_object_get(o, key);

	return json_is_integer(v) ? json_integer_value(v) : -1;
}

static json_int_t acked(struct twohosts *p, int host, const char *when)
{
	json_t *st = th_rheactl(p, host, "--json status");
	json_int_t n = number(json_array_get(json_object_get(st, "vms"), 0), "acked");

	if (n < 0)
		th_fail(p, "%s: host %s does not say what is acked", when,
			p->host[host].name);
	json_decref(st);
	return n;
}

/* What the standby has staged, and its bound, as rheactl shows it. */
static void bounded(struct twohosts *p, int standby, const char *when, json_int_t *most)
{
	json_t *st = th_rheactl(p, standby, "--json status");
	json_t *vm = json_array_get(json_object_get(st, "vms"), 0);
	json_int_t max = number(vm, "staged_max_bytes"),
		   limit = number(vm, "staged_limit_bytes");

	if (limit <= 0 || max < 0 || max > limit)
		th_fail(p, "%s: %lld bytes staged, bound %lld", when, (long long)max,
			(long long)limit);
	*most = max;
	json_decref(st);
}

/* Still protected, in the same term, where it was. */
static void still(struct twohosts *p, int host, uint64_t term, const char *when)
{
	struct vm_view v;

	if (th_view(p, host, &v))
		th_fail(p, "%s: host %s does not answer", when, p->host[host].name);
	if (!v.protected || v.term != term)
		th_fail(p, "%s: protection was lost: %s, term %llu", when, v.state,
			(unsigned long long)v.term);
}

/* Epochs a second at this speed, protected all the while. */
static double at_speed(struct twohosts *p, int host, uint64_t term, const char *rate,
		       unsigned seconds)
{
	const char *name = rate ? rate : "full speed";
	uint64_t start, end;
	json_int_t staged, before;
	double per_s, worst = 0, took;

	th_rate(p, rate);
	before = acked(p, host, name);
	start = clock_mono_ns();
	end = start + seconds * UINT64_C(1000000000);
	struct observed first = look(p, name), o = first;

	/* However slow, something comes through: at least one frame in this time. */
	while (clock_mono_ns() < end || o.frames == first.frames) {
		if (clock_mono_ns() > end + EPOCH_MS * UINT64_C(1000000))
			th_fail(p, "%s: the guest says nothing any more", name);
		th_sleep_ms(LOOK_MS);
		still(p, host, term, name);
		o = look(p, name);
		if ((double)(clock_mono_ns() - o.last_ns) / 1e6 > worst)
			worst = (double)(clock_mono_ns() - o.last_ns) / 1e6;
	}
	took = (double)(clock_mono_ns() - start) / 1e9;
	per_s = (double)(acked(p, host, name) - before) / took;
	bounded(p, !host, name, &staged);
	printf("%-10s %7.1f epochs/s, %6.1f frames/s, silent for %.0f ms at most, %lld KiB "
	       "staged at most\n",
	       name, per_s, (double)(o.frames - first.frames) / took, worst,
	       (long long)staged / 1024);
	return per_s;
}

static void stutter(struct twohosts *p, int host, uint64_t term)
{
	struct vm_view there;

	if (th_view(p, !host, &there) || !there.pid)
		th_fail(p, "the standby has no process");
	for (unsigned i = 0; i < STUTTERS; i++) {
		if (kill(there.pid, SIGSTOP))
			th_fail(p, "the standby's process ended");
		th_sleep_ms(1 + th_random(STUTTER_MS));
		if (kill(there.pid, SIGCONT))
			th_fail(p, "the standby's process ended");
		th_sleep_ms(th_random(20));
		still(p, host, term, "a stuttering standby");
		(void)look(p, "a stuttering standby"); /* judges by itself */
	}
}

static void slow_down(struct twohosts *p, unsigned seconds)
{
	static const char *const rates[] = {"10mbit", "2mbit", "500kbit"};
	int host = th_wait_protected(p, PROTECT_MS);
	double full, slowest = 0, again;
	uint64_t end;
	struct vm_view v;

	if (host < 0 || th_view(p, host, &v))
		th_fail(p, "the VM is not protected");
	th_rate(p, "10gbit"); /* so that there is something to remove */
	full = at_speed(p, host, v.term, NULL, seconds);
	for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
		slowest = at_speed(p, host, v.term, rates[i], seconds);
	if (slowest > full / 2)
		th_fail(p, "the wire was never too slow: %.1f of %.1f epochs/s", slowest,
			full);
	end = clock_mono_ns() + SETTLE_MS * UINT64_C(1000000);
	again = at_speed(p, host, v.term, NULL, seconds);
	while (again < full / 3 && clock_mono_ns() < end) {
		th_rate(p, "10gbit");
		again = at_speed(p, host, v.term, NULL, 1);
	}
	if (again < full / 3)
		th_fail(p, "not as quick as before: %.1f of %.1f epochs/s", again, full);
	stutter(p, host, v.term);
}

int main(int argc, char **argv)
{
	unsigned seconds = 3;
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=2000 net=1 disk=1",
		.memory_mib = 64,
		.vcpus = 1,
		.interval_us = 25000,
		.heartbeat_ms = 100,
		.missed = 5,
	};
	static struct twohosts p;

	th_begin(argc, argv, &seconds);
	th_up(&p, &opts);
	slow_down(&p, seconds);
	th_end(&p);
	return 0;
}
