/* SPDX-License-Identifier: Apache-2.0
 * test_crashpoints - real VM processes die at each named point of the commit path (those of a guest that
 * is saved: test_suspend).
 *
 * A primary that dies there: the other host goes on. A standby that dies there: the primary goes
 * on, and neither loses nor repeats anything. In each frame the observer compares the guest's
 * memory, its disk and the count that was last seen on the wire.
 *
 *   test_crashpoints [TIMES [SEED]]      default: 4 times each point
 */
#include "hv/base/clock.h"
#include "remus/crashpoint.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { GO_ON_MS = 10000, PROTECT_MS = 20000, ENOUGH = 50 };

static struct observed look(struct twohosts *p, const char *point)
{
	struct observed o;

	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "%s: %s", point, o.first_violation);
	return o;
}

static uint64_t deadline(unsigned ms)
{
	return clock_mono_ns() + (uint64_t)ms * 1000000;
}

static void wait_crash(struct twohosts *p, int host, const char *point)
{
	uint64_t end = deadline(GO_ON_MS);

	while (!th_crashed(p, host)) {
		if (clock_mono_ns() > end)
			th_fail(p, "%s: no process of host %s came there", point,
				p->host[host].name);
		th_sleep_ms(1);
	}
}

/* So many frames more from @host. */
static void wait_frames(struct twohosts *p, int host, const char *point)
{
	uint64_t end = deadline(GO_ON_MS), goal = look(p, point).from[host] + ENOUGH;

	while (look(p, point).from[host] < goal) {
		if (clock_mono_ns() > end)
			th_fail(p, "%s: the guest does not go on on host %s", point,
				p->host[host].name);
		th_sleep_ms(1);
	}
}

/* Whichever host goes on, it does so in a later term: what is told of it then is not old news. */
static void wait_term(struct twohosts *p, int host, uint64_t after, const char *point)
{
	uint64_t end = deadline(GO_ON_MS);
	struct vm_view v;

	while (th_view(p, host, &v) || v.term <= after) {
		if (clock_mono_ns() > end)
			th_fail(p, "%s: host %s won no later term", point,
				p->host[host].name);
		th_sleep_ms(1);
	}
}

static void one(struct twohosts *p, enum crash_point at)
{
	const char *point = crash_point_name(at);
	int primary = th_wait_protected(p, PROTECT_MS);
	int victim = at < CRASH_VERIFIED ? primary : !primary;
	struct observed before;
	struct vm_view v;

	if (primary < 0)
		th_fail(p, "before %s: the VM is not protected after %d ms", point,
			PROTECT_MS);
	if (th_view(p, primary, &v))
		th_fail(p, "before %s: host %s does not answer", point,
			p->host[primary].name);
	th_sleep_ms(th_random(40));
	before = look(p, point);
	th_crash_at(p, victim, point);
	wait_crash(p, victim, point);
	wait_term(p, !victim, v.term, point);
	wait_frames(p, !victim, point);
	if (victim == primary && look(p, point).switches != before.switches + 1)
		th_fail(p, "%s: the guest did not change hosts once", point);
	if (victim != primary && look(p, point).switches != before.switches)
		th_fail(p, "%s: the standby died and the guest moved", point);
}

int main(int argc, char **argv)
{
	unsigned times = 4;
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=64 net=1 disk=1 pace=500",
		.memory_mib = 32,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = 50,
		.missed = 5,
	};
	static struct twohosts p;

	th_begin(argc, argv, &times);
	th_up(&p, &opts);
	for (unsigned i = 0; i < times; i++)
		for (int at = 0; at < CRASH_HELD; at++)
			one(&p, (enum crash_point)at);
	printf("%u deaths at each of %d points, n=%llu\n", times, CRASH_HELD,
	       (unsigned long long)look(&p, "at the end").last_n);
	th_end(&p);
	return 0;
}
