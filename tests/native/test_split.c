/* SPDX-License-Identifier: Apache-2.0
 * test_split - two hosts that lose each other, the arbiter, or both, while both are
 * alive.
 *
 *   arbiter gone, peer there:   the VM goes on, protected
 *   peer gone, arbiter there:   exactly one host goes on
 *   both gone:                  neither lets output go; once the arbiter is back, exactly
 * one does
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PROTECT_MS = 20000, DECIDE_MS = 8000, WATCH_MS = 2500 };

static struct observed look(struct twohosts *p)
{
	struct observed o;

	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "%s", o.first_violation);
	return o;
}

static int protected_host(struct twohosts *p)
{
	int host = th_wait_protected(p, PROTECT_MS);

	if (host < 0)
		th_fail(p, "the VM is not protected after %d ms", PROTECT_MS);
	return host;
}

/* Frames come from one host only, and do come, for a while from when they first do. */
static int expect_exactly_one(struct twohosts *p, uint64_t after_frames)
{
	uint64_t end = clock_mono_ns() + (uint64_t)DECIDE_MS * 1000000;
	struct observed o, from;
	int host;

	do {
		o = look(p);
		if (clock_mono_ns() > end)
			th_fail(p, "nobody goes on after %d ms", DECIDE_MS);
		th_sleep_ms(5);
	} while (o.frames <= after_frames);
	th_sleep_ms(
		1500); /* let the loser find out; what it says meanwhile is seen below */
	from = look(p);
	host = from.last_host;
	th_sleep_ms(WATCH_MS);
	o = look(p);
	if (o.from[host] == from.from[host])
		th_fail(p, "host %s went on and then fell silent", p->host[host].name);
	if (o.from[!host] != from.from[!host])
		th_fail(p, "both hosts let output go");
	return host;
}

static void arbiter_gone(struct twohosts *p)
{
	int host = protected_host(p);
	struct observed before, after;

	(void)kill(p->etcd, SIGSTOP);
	before = look(p);
	th_sleep_ms(WATCH_MS);
	after = look(p);
	if (after.from[host] == before.from[host] ||
	    after.from[!host] != before.from[!host])
		th_fail(p, "the arbiter was gone, the peer was not: the VM should have "
			   "gone on");
	(void)kill(p->etcd, SIGCONT);
	if (protected_host(p) != host)
		th_fail(p, "the VM moved because the arbiter was gone");
	printf("arbiter gone, peer there: the VM went on, protected\n");
}

static void peer_gone(struct twohosts *p)
{
	struct observed before;
	int host;

	(void)protected_host(p);
	th_cut(p, 1);
	/* What was acknowledged before the cut may still be on its way out. */
	th_sleep_ms(100);
	before = look(p);
	host = expect_exactly_one(p, before.frames);
	th_cut(p, 0);
	printf("peer gone, arbiter there: host %s alone went on\n", p->host[host].name);
	(void)protected_host(p);
}

static void both_gone(struct twohosts *p)
{
	struct observed before, after;
	int host;

	(void)protected_host(p);
	(void)kill(p->etcd, SIGSTOP);
	th_cut(p, 1);
	th_sleep_ms(100);
	before = look(p);
	th_sleep_ms(WATCH_MS);
	after = look(p);
	if (after.frames != before.frames)
		th_fail(p, "neither peer nor arbiter, and yet %llu frames left",
			(unsigned long long)(after.frames - before.frames));
	printf("peer and arbiter gone: no output for %d ms\n", WATCH_MS);
	(void)kill(p->etcd, SIGCONT);
	host = expect_exactly_one(p, after.frames);
	printf("arbiter back: host %s alone went on\n", p->host[host].name);
	th_cut(p, 0);
	(void)protected_host(p);
}

int main(int argc, char **argv)
{
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=64 net=1 disk=1 pace=2000",
		.memory_mib = 32,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = 50,
		.missed = 5,
	};
	static struct twohosts p;

	th_begin(argc, argv, NULL);
	th_up(&p, &opts);
	arbiter_gone(&p);
	for (int i = 0; i < 3; i++)
		peer_gone(&p);
	for (int i = 0; i < 3; i++)
		both_gone(&p);
	th_end(&p);
	return 0;
}
