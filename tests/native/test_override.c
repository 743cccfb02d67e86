/* SPDX-License-Identifier: Apache-2.0
 * test_override - what an operator's word may do, and what it may not.
 *
 *   primary dead, arbiter gone:   the standby waits; overridden, it goes on where the other was
 *   a first sync cut short:       no override boots from half an image; the owner starts it again
 *   both dead, arbiter gone:      overridden with --cold, the standby's host boots it
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROTECT_MS = 30000, STATE_MS = 20000, WATCH_MS = 2000, OVERRIDE_STEP = 1000 };

static struct observed look(struct twohosts *p)
{
	struct observed o;

	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "%s", o.first_violation);
	return o;
}

/* A guest that boots counts anew. */
static void observe_anew(struct twohosts *p)
{
	observer_stop(p->obs);
	p->obs = observer_start(p->ns_c, p->port[0], p->port[1]);
	if (!p->obs)
		th_fail(p, "the observer could not start");
}

static int protected_host(struct twohosts *p)
{
	int host = th_wait_protected(p, PROTECT_MS);

	if (host < 0)
		th_fail(p, "the VM is not protected after %d ms", PROTECT_MS);
	return host;
}

static void wait_state(struct twohosts *p, int host, const char *state)
{
	uint64_t end = clock_mono_ns() + (uint64_t)STATE_MS * 1000000;
	struct vm_view v;

	while (th_view(p, host, &v) || strcmp(v.state, state) != 0) {
		if (clock_mono_ns() > end)
			th_fail(p, "host %s is not %s after %d ms, but %s",
				p->host[host].name, state, STATE_MS, v.state);
		th_sleep_ms(5);
	}
}

static void wait_frames_from(struct twohosts *p, int host)
{
	uint64_t end = clock_mono_ns() + (uint64_t)STATE_MS * 1000000;
	uint64_t before = look(p).from[host];

	while (look(p).from[host] <= before + 10) {
		if (clock_mono_ns() > end)
			th_fail(p, "no frames from host %s after %d ms",
				p->host[host].name, STATE_MS);
		th_sleep_ms(5);
	}
}

static void kill_host(struct twohosts *p, int host)
{
	(void)kill(p->host[host].rhead, SIGKILL); /* its rhea-vm ends with it */
	th_reap(p->host[host].rhead);
	p->host[host].rhead = 0;
}

/* Nothing at all is said while nobody has the right to. */
static void expect_silence(struct twohosts *p, const char *when)
{
	uint64_t before = look(p).frames;

	th_sleep_ms(WATCH_MS);
	if (look(p).frames != before)
		th_fail(p, "%s, and yet frames left", when);
}

/* As an operator would type it: the exit status, and all that was printed. */
static int override(struct twohosts *p, int host, const char *more, char *text, int room)
{
	const char *out = getenv("B") ? getenv("B") : "build/out";
	char cmd[512];
	size_t len;
	FILE *f;
	int rc;

	(void)snprintf(
		cmd, sizeof(cmd),
		"timeout 40 %s/rheactl --socket %s failover v --override \"its plug "
		"was pulled\" %s 2>&1",
		out, p->host[host].sock, more);
	f = popen(cmd, "r");
	if (!f)
		th_fail(p, "popen failed");
	len = fread(text, 1, (size_t)room - 1, f);
	text[len] = '\0';
	rc = pclose(f);
	return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

static void expect_override(struct twohosts *p, int host, const char *more)
{
	struct vm_view before, after;
	char text[2048];

	if (th_view(p, host, &before))
		th_fail(p, "host %s does not answer", p->host[host].name);
	if (override(p, host, more, text, sizeof(text)))
		th_fail(p, "the override failed: %s", text);
	if (th_view(p, host, &after) || after.term < before.term + OVERRIDE_STEP)
		th_fail(p, "overridden from term %llu to %llu only",
			(unsigned long long)before.term, (unsigned long long)after.term);
	wait_frames_from(p, host);
}

static void standby_goes_on(struct twohosts *p)
{
	int dead = protected_host(p), host = !dead;
	char text[2048];

	if (!override(p, host, "", text, sizeof(text)) || !strstr(text, "is alive"))
		th_fail(p, "overridden although the peer is there: %s", text);
	(void)kill(p->etcd, SIGSTOP);
	kill_host(p, dead);
	wait_state(p, host, "claiming");
	expect_silence(p, "no arbiter, no word of an operator");
	expect_override(p, host, "");
	printf("primary dead, arbiter gone: host %s goes on by override\n",
	       p->host[host].name);
	(void)kill(p->etcd, SIGCONT);
	th_rhead_start(p, dead);
	if (protected_host(p) != host)
		th_fail(p, "the VM moved when its old host came back");
	(void)look(p);
	printf("and is protected by its old host\n");
}

static int is_incomplete(struct twohosts *p, int host)
{
	json_t *o = th_rheactl(p, host, "status");
	json_t *vm = json_array_get(json_object_get(o, "vms"), 0);
	int yes = json_is_true(json_object_get(vm, "image_incomplete"));

	json_decref(o);
	return yes;
}

/* Once the first commit is on its disks, a moment after it was acknowledged. */
static void wait_complete(struct twohosts *p, int host)
{
	uint64_t end = clock_mono_ns() + (uint64_t)STATE_MS * 1000000;

	while (is_incomplete(p, host)) {
		if (clock_mono_ns() > end)
			th_fail(p, "protected, and the image still counts as incomplete");
		th_sleep_ms(5);
	}
}

/* Until the sync overwrites its disks: before that, they are as whole as they were. */
static void wait_overwritten(struct twohosts *p, int host)
{
	uint64_t end = clock_mono_ns() + (uint64_t)STATE_MS * 1000000;
	int yes = 0;

	while (!yes) {
		json_t *o = th_rheactl(p, host, "status");
		json_t *vm = json_array_get(json_object_get(o, "vms"), 0);
		const char *state = json_string_value(
			json_object_get(json_object_get(vm, "durable"), "state"));

		yes = state && !strcmp(state, "syncing");
		json_decref(o);
		if (clock_mono_ns() > end)
			th_fail(p, "no sync of host %s's disks begins",
				p->host[host].name);
		th_sleep_ms(5);
	}
}

static void half_an_image(struct twohosts *p)
{
	int owner = protected_host(p), half = !owner;
	char text[2048];

	kill_host(p, half);
	wait_state(p, owner, "running-alone");
	th_rate(p, "1mbit"); /* a first sync takes many seconds */
	th_rhead_start(p, half);
	wait_state(p, half, "standby-syncing");
	wait_overwritten(p, half);
	if (!is_incomplete(p, half) || is_incomplete(p, owner))
		th_fail(p, "status does not say whose image is incomplete");
	kill_host(p, half);
	kill_host(p, owner);
	th_rate(p, NULL);
	th_rhead_start(p, half);
	wait_state(p, half, "standby-empty");
	if (!is_incomplete(p, half))
		th_fail(p, "status does not say that the image is incomplete");
	if (override(p, half, "--cold", text, sizeof(text)) != 1 ||
	    !strstr(text, "half written"))
		th_fail(p, "booted from half an image, or refused without a reason: %s",
			text);
	expect_silence(p, "half an image only");
	printf("a first sync cut short: %s", text);
	observe_anew(p);
	th_rhead_start(p, owner);
	if (protected_host(p) != owner)
		th_fail(p, "not the owner of the whole image runs it");
	wait_complete(p, half);
	wait_frames_from(p, owner);
	printf("its owner, host %s, starts it again\n", p->host[owner].name);
}

static void both_dead(struct twohosts *p)
{
	int owner = protected_host(p), host = !owner;
	char text[2048];

	wait_complete(p, host);
	kill_host(p, owner);
	kill_host(p, host);
	(void)kill(p->etcd, SIGSTOP);
	th_rhead_start(p, host);
	wait_state(p, host, "starting");
	if (override(p, host, "", text, sizeof(text)) != 1 || !strstr(text, "--cold"))
		th_fail(p, "a cold start without --cold: %s", text);
	observe_anew(p);
	expect_override(p, host, "--cold");
	printf("both dead, arbiter gone: host %s boots it by override\n",
	       p->host[host].name);
	th_rhead_start(p, owner);
	(void)kill(p->etcd, SIGCONT);
	if (protected_host(p) != host)
		th_fail(p, "the VM moved when its old host came back");
	(void)look(p);
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
	standby_goes_on(&p);
	half_an_image(&p);
	both_dead(&p);
	th_end(&p);
	return 0;
}
