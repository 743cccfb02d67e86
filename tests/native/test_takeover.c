/* SPDX-License-Identifier: Apache-2.0
 * test_takeover - kills the primary again and again and watches from outside.
 *
 * Each round: wait until the VM is protected; at a random moment kill or stop the
 * primary's rhea-vm or rhead; the other host must go on; what was stopped is continued
 * and must find itself fenced; what was killed is started again; roles are swapped for
 * the next round.
 *
 *   test_takeover [ROUNDS [SEED [kill-vm | stop-host]]]
 *
 * default: 60 rounds; kill-vm, stop-host: nothing but that, stop-host with the default heartbeat
 */
#include "hv/base/clock.h"
#include "hv/base/hist.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TAKEOVER_MS = 8000, PROTECT_MS = 20000, FENCE_MS = 8000 };

enum deed { KILL_VM, STOP_VM, KILL_RHEAD, STOP_RHEAD, STOP_HOST, DEEDS };
static const char *const deed_name[] = {"SIGKILL rhea-vm", "SIGSTOP rhea-vm",
					"SIGKILL rhead", "SIGSTOP rhead", "SIGSTOP both"};

struct tally {
	struct hist gap[DEEDS]; /* microseconds of silence on the wire */
	unsigned fenced;
};

/* The guest's frames come from @host now. */
static void wait_frames_from(struct twohosts *p, int host, uint64_t since_frames)
{
	uint64_t end = clock_mono_ns() + (uint64_t)TAKEOVER_MS * 1000000;
	struct observed o;

	for (;;) {
		observer_read(p->obs, &o);
		if (o.violations)
			th_fail(p, "%s", o.first_violation);
		if (o.last_host == host && o.frames > since_frames)
			return;
		if (clock_mono_ns() > end)
			th_fail(p, "no frame from host %s after %d ms",
				p->host[host].name, TAKEOVER_MS);
		th_sleep_ms(1);
	}
}

static int gone(pid_t pid)
{
	return kill(pid, 0) && errno == ESRCH;
}

/* The stopped primary was continued: its VM process must end by itself (or by its rhead),
 * and say nothing any more. */
static void expect_fenced(struct twohosts *p, int host, pid_t vm, struct tally *t)
{
	uint64_t end = clock_mono_ns() + (uint64_t)FENCE_MS * 1000000;
	struct observed before, after;

	observer_read(p->obs, &before);
	while (!gone(vm)) {
		if (clock_mono_ns() > end)
			th_fail(p,
				"host %s: rhea-vm %d was continued after the takeover "
				"and still lives",
				p->host[host].name, (int)vm);
		th_sleep_ms(2);
	}
	observer_read(p->obs, &after);
	if (after.from[host] != before.from[host])
		th_fail(p, "host %s spoke after it had lost the VM", p->host[host].name);
	t->fenced++;
}

static void do_deed(struct twohosts *p, int host, enum deed d, pid_t vm)
{
	pid_t rhead = p->host[host].rhead;
	int rc = -1;

	switch (d) {
	case KILL_VM:
		rc = kill(vm, SIGKILL);
		break;
	case STOP_VM:
		rc = kill(vm, SIGSTOP);
		break;
	case KILL_RHEAD:
		rc = kill(rhead, SIGKILL);
		break;
	case STOP_RHEAD:
		rc = kill(rhead, SIGSTOP);
		break;
	case STOP_HOST: /* as when the whole host freezes: acks may wait in its sockets */
		rc = kill(vm, SIGSTOP) || kill(rhead, SIGSTOP) ? -1 : 0;
		break;
	case DEEDS:
		break;
	}
	if (rc)
		th_fail(p, "%s: %s", deed_name[d], strerror(errno));
}

static void undo_deed(struct twohosts *p, int host, enum deed d, pid_t vm,
		      struct tally *t)
{
	switch (d) {
	case STOP_VM:
		(void)kill(vm, SIGCONT); /* its own rhead may have ended it by now */
		expect_fenced(p, host, vm, t);
		break;
	case STOP_RHEAD:
		(void)kill(p->host[host].rhead, SIGCONT);
		expect_fenced(p, host, vm, t);
		break;
	case STOP_HOST:
		(void)kill(vm,
			   SIGCONT); /* it has the first word, before rhead can tell it */
		th_sleep_ms(th_random(20));
		(void)kill(p->host[host].rhead, SIGCONT);
		expect_fenced(p, host, vm, t);
		break;
	case KILL_RHEAD:
		th_reap(p->host[host].rhead);
		th_rhead_start(p, host);
		break;
	case KILL_VM:
	case DEEDS:
		break;
	}
}

static enum deed only = DEEDS; /* DEEDS: all in turn */

static void one_round(struct twohosts *p, unsigned round, struct tally *t)
{
	enum deed d = only < DEEDS ? only : (enum deed)(round % DEEDS);
	int host = th_wait_protected(p, PROTECT_MS);
	struct observed o;
	struct vm_view v;

	if (host < 0)
		th_fail(p, "round %u: the VM is not protected after %d ms", round,
			PROTECT_MS);
	if (th_view(p, host, &v) || !v.pid)
		th_fail(p, "round %u: host %s has no rhea-vm", round, p->host[host].name);
	th_sleep_ms(th_random(60));
	observer_read(p->obs, &o);
	do_deed(p, host, d, v.pid);
	wait_frames_from(p, !host, o.frames);
	observer_read(p->obs, &o);
	hist_add(&t->gap[d], o.gap_ns / 1000);
	undo_deed(p, host, d, v.pid, t);
	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "round %u (%s): %s", round, deed_name[d], o.first_violation);
	if ((round + 1) % 20 == 0)
		printf("%u rounds, n=%llu, %llu frames\n", round + 1,
		       (unsigned long long)o.last_n, (unsigned long long)o.frames);
}

#define TALKING "mode=counter dirty=64 net=1 disk=1 pace=500"

/* Two guests: one that says something all the time, so that most epochs end early and most of
 * its pages are hot; one that writes so much that pages are copied while it runs. The first one also
 * with its checkpoints in Ethernet frames of our own, by a port under DPDK. */
static const struct phase {
	const char *name, *cmdline;
	unsigned memory_mib, interval_us, rounds_of_10;
	const char *transport, *paths;
} phases[] = {
	{"talking", TALKING, 32, 10000, 7, NULL, NULL},
	{"writing", "mode=counter dirty=4000 net=1 disk=1", 64, 40000, 2, NULL, NULL},
	{"talking, dpdk", TALKING, 32, 10000, 1, "dpdk",
	 "{ transport = \"dpdk\"; args = \"--vdev=net_af_packet0,iface=repl1 window=4\"; "
	 "address = { a = \"10.78.0.1:7702\"; b = \"10.78.0.2:7702\"; }; }, "
	 "{ transport = \"tcp\"; address = { a = \"10.78.0.1:7700\"; "
	 "b = \"10.78.0.2:7700\"; }; }"},
};

/* Protected, and by what it was meant to be. */
static void expect_transport(struct twohosts *p, const char *name)
{
	int host = th_wait_protected(p, PROTECT_MS);
	uint64_t end = clock_mono_ns() + (uint64_t)PROTECT_MS * 1000000;
	json_t *st, *path;
	int used = 0;

	while (host >= 0 && !used && clock_mono_ns() < end) {
		st = th_rheactl(p, host, "--json status");
		path = json_array_get(
			json_object_get(json_array_get(json_object_get(st, "vms"), 0),
					"link_paths"),
			0);
		used = json_is_true(json_object_get(path, "in_use")) &&
		       !strcmp(json_string_value(json_object_get(path, "transport")),
			       name);
		json_decref(st);
		th_sleep_ms(50);
	}
	if (!used)
		th_fail(p, "the checkpoints do not go by %s", name);
}

static void run_phase(const struct phase *ph, unsigned rounds)
{
	struct th_opts opts = {
		.cmdline = ph->cmdline,
		.memory_mib = ph->memory_mib,
		.vcpus = 1,
		.interval_us = ph->interval_us,
		.heartbeat_ms = only == STOP_HOST ? 100 : 50,
		.missed = only == STOP_HOST ? 3 : 5,
	};
	static struct tally t;
	static struct twohosts p;

	if (!rounds)
		return;
	memset(&t, 0, sizeof(t));
	if (ph->transport) {
		opts.networks = 2;
		opts.paths = ph->paths;
	}
	th_up(&p, &opts);
	for (unsigned r = 0; r < rounds; r++) {
		if (ph->transport)
			expect_transport(&p, ph->transport);
		one_round(&p, r, &t);
	}
	printf("%s guest, %u rounds\n", ph->name, rounds);
	for (int d = 0; d < DEEDS; d++)
		printf("%-16s %4llu times, silence ms: p50 %.1f  p99 %.1f  max %.1f\n",
		       deed_name[d], (unsigned long long)t.gap[d].count,
		       (double)hist_quantile(&t.gap[d], 0.5) / 1e3,
		       (double)hist_quantile(&t.gap[d], 0.99) / 1e3,
		       (double)t.gap[d].max / 1e3);
	printf("%u stopped primaries found themselves fenced\n", t.fenced);
	th_end(&p);
}

int main(int argc, char **argv)
{
	unsigned rounds = 60;

	if (argc > 3)
		only = strcmp(argv[3], "kill-vm") != 0 ? STOP_HOST : KILL_VM;
	th_begin(argc, argv, &rounds);
	for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++)
		run_phase(&phases[i], rounds * phases[i].rounds_of_10 / 10);
	return 0;
}
