/* SPDX-License-Identifier: Apache-2.0
 * test_calm - what is no failure moves no VM: epochs, pauses and reboots that last longer than the
 * silence after which a peer is suspected.
 *
 * Heartbeats run beside all of it, so neither host ever suspects the other.
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
	HEARTBEAT_MS = 50,
	MISSED = 5, /* suspected after 250 ms */
	EPOCH_US = 1500000,
	PAUSE_MS = 1000,
	PROTECT_MS = 20000,
	EPOCHS_MS = 7000,
	BOOTS = 3,
	BOOT_MS = 20000,
};

/* What must stay as it is. */
struct before {
	int host;
	uint64_t term, switches;
};

static struct observed look(struct twohosts *p, const char *when)
{
	struct observed o;

	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "%s: %s", when, o.first_violation);
	return o;
}

static struct before settle(struct twohosts *p, const char *when)
{
	struct before b = {.host = th_wait_protected(p, PROTECT_MS)};
	struct vm_view v;

	if (b.host < 0 || th_view(p, b.host, &v))
		th_fail(p, "%s: the VM is not protected after %d ms", when, PROTECT_MS);
	b.term = v.term;
	b.switches = look(p, when).switches;
	return b;
}

/* How often @host found its peer silent. */
static long losses(struct twohosts *p, int host)
{
	json_t *o = th_rheactl(p, host, "heartbeat");
	json_t *n = json_object_get(o, "losses");
	long v = json_is_integer(n) ? (long)json_integer_value(n) : -1;

	json_decref(o);
	return v;
}

static void expect_calm(struct twohosts *p, const struct before *b, const char *when)
{
	struct observed o = look(p, when);
	struct vm_view v;

	for (int i = 0; i < 2; i++)
		if (losses(p, i) != 0)
			th_fail(p, "%s: host %s heard no heartbeats", when,
				p->host[i].name);
	if (o.switches != b->switches || o.last_host != b->host)
		th_fail(p, "%s: the VM moved", when);
	if (th_view(p, b->host, &v) || v.term != b->term)
		th_fail(p, "%s: authority changed hands", when);
}

static void long_epochs(struct twohosts *p)
{
	struct before b = settle(p, "long epochs");
	uint64_t frames = look(p, "long epochs").frames;

	th_sleep_ms(EPOCHS_MS);
	expect_calm(p, &b, "long epochs");
	if (look(p, "long epochs").frames == frames)
		th_fail(p, "long epochs: no output was released");
	printf("epochs of %d ms: nobody was suspected\n", EPOCH_US / 1000);
}

static void reboots(struct twohosts *p)
{
	struct before b = settle(p, "reboots");
	uint64_t end = clock_mono_ns() + BOOT_MS * 1000000ull;
	uint64_t goal = look(p, "reboots").boots + BOOTS;

	while (look(p, "reboots").boots < goal) {
		if (clock_mono_ns() > end)
			th_fail(p, "reboots: the guest did not come up %d times", BOOTS);
		th_sleep_ms(5);
	}
	expect_calm(p, &b, "reboots");
	printf("%d reboots of a protected guest: nobody was suspected\n", BOOTS);
}

/* A pause that is as long as a host's death takes to be noticed: the engine was busy, and knows that
 * its host did not stand still. */
static void long_pause(struct twohosts *p)
{
	struct before b = settle(p, "a long pause");
	uint64_t end = clock_mono_ns() + PROTECT_MS * 1000000ull;
	char stall[32];

	(void)snprintf(stall, sizeof(stall), "paused+%d", PAUSE_MS);
	th_crash_at(p, b.host, stall);
	while (!th_crashed(p, b.host)) {
		if (clock_mono_ns() > end)
			th_fail(p, "a long pause: there was no epoch");
		th_sleep_ms(1);
	}
	th_sleep_ms(PAUSE_MS + 500);
	if (th_wait_protected(p, PROTECT_MS) != b.host)
		th_fail(p, "a long pause: not protected again where it ran");
	expect_calm(p, &b, "a long pause");
	printf("a pause of %d ms: the VM stayed where it was\n", PAUSE_MS);
}

int main(int argc, char **argv)
{
	struct th_opts opts = {
		.cmdline =
			"mode=counter dirty=64 net=1 disk=1 pace=1000 turns=3000 end=reset",
		.memory_mib = 512,
		.vcpus = 1,
		.interval_us = EPOCH_US,
		.heartbeat_ms = HEARTBEAT_MS,
		.missed = MISSED,
		.extra_vm = "min_interval_us = 1500000;",
	};
	static struct twohosts p;

	th_begin(argc, argv, NULL);
	th_up(&p, &opts);
	observer_allow_boots(p.obs);
	long_epochs(&p);
	reboots(&p);
	long_pause(&p);
	th_end(&p);
	return 0;
}
