/* SPDX-License-Identifier: Apache-2.0
 * test_asked - a protected guest asks for its reset or power-off, and its host dies when a
 * checkpoint holds the asking but nobody has acted: the other host goes on from there, and acts.
 *
 * How it is made sure that a checkpoint comes between: shortly before the guest asks, the next
 * checkpoint is delayed, for less than a freeze; what the guest asked for waits behind it. A guest
 * that runs past its own end says so (tests/guest/main.c).
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	TURNS = 2500, /* of 1 ms, until the guest asks */
	EARLY = 400,
	DELAY_MS = 1500, /* less than 4 heartbeats, or the link is given up */
	HEARTBEAT_MS = 500,
	PROTECT_MS = 20000,
	WAIT_MS = 15000,
	RESETS = 4,
};

static uint64_t deadline(unsigned ms)
{
	return clock_mono_ns() + (uint64_t)ms * 1000000;
}

static struct observed look(struct twohosts *p)
{
	struct observed o;

	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "%s", o.first_violation);
	return o;
}

/* The guest will ask soon, but not yet. */
static void await_eve(struct twohosts *p)
{
	uint64_t end = deadline(WAIT_MS), n;

	while ((n = look(p).last_n) < TURNS - EARLY || n > TURNS - EARLY / 2) {
		if (clock_mono_ns() > end)
			th_fail(p, "the guest does not come to its end");
		th_sleep_ms(1);
	}
}

static void await_crash_point(struct twohosts *p, int host)
{
	uint64_t end = deadline(WAIT_MS);

	while (!th_crashed(p, host)) {
		if (clock_mono_ns() > end)
			th_fail(p, "no checkpoint was taken on host %s",
				p->host[host].name);
		th_sleep_ms(1);
	}
}

/* Returns the host that died. */
static int die_with_the_asking_checkpointed(struct twohosts *p)
{
	char delay[32];
	int host;

	do {
		host = th_wait_protected(p, PROTECT_MS);
		if (host < 0)
			th_fail(p, "the VM is not protected after %d ms", PROTECT_MS);
		await_eve(p);
	} while (th_wait_protected(p, PROTECT_MS) != host);
	(void)snprintf(delay, sizeof(delay), "before-pause+%d", DELAY_MS);
	th_crash_at(p, host, delay);
	await_crash_point(p, host);
	th_crash_at(p, host, "end-sent");
	await_crash_point(p, host);
	return host;
}

static void up(struct twohosts *p, const char *end)
{
	static char cmdline[128];
	struct th_opts opts = {
		.cmdline = cmdline,
		.memory_mib = 32,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = HEARTBEAT_MS,
		.missed = 5,
	};

	(void)snprintf(cmdline, sizeof(cmdline),
		       "mode=counter dirty=16 net=1 disk=1 pace=1000 turns=%d end=%s",
		       TURNS, end);
	th_up(p, &opts);
}

static void resets(struct twohosts *p)
{
	up(p, "reset");
	observer_allow_boots(p->obs);
	for (int i = 0; i < RESETS; i++) {
		uint64_t end, boots;
		int host = die_with_the_asking_checkpointed(p);

		boots = look(p).boots;
		end = deadline(WAIT_MS);
		while (look(p).boots == boots || look(p).last_host == host) {
			if (clock_mono_ns() > end)
				th_fail(p, "host %s took over and forgot the reset",
					p->host[!host].name);
			th_sleep_ms(2);
		}
	}
	printf("%d resets asked for on one host were done on the other\n", RESETS);
	th_end(p);
}

static void power_off(struct twohosts *p)
{
	struct vm_view v;
	uint64_t end;
	int host;

	up(p, "off");
	host = die_with_the_asking_checkpointed(p);
	end = deadline(WAIT_MS);
	while (th_view(p, !host, &v) || strcmp(v.state, "off") != 0) {
		(void)look(p);
		if (clock_mono_ns() > end)
			th_fail(p, "host %s took over and forgot the power-off: it is %s",
				p->host[!host].name, v.state);
		th_sleep_ms(5);
	}
	if (v.term < 2)
		th_fail(p, "host %s did not take over first", p->host[!host].name);
	printf("a power-off asked for on one host was done on the other\n");
	th_end(p);
}

int main(int argc, char **argv)
{
	static struct twohosts p;

	th_begin(argc, argv, NULL);
	power_off(&p);
	resets(&p);
	return 0;
}
