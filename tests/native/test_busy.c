/* SPDX-License-Identifier: Apache-2.0
 * test_busy - other work wants all processors, and then some: nobody is suspected, and the VM stays
 * protected where it is. Default settings.
 *
 *   test_busy [SECONDS]      default: 15
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PROTECT_MS = 20000,
	SPINNERS_MAX = 256,
	LOOK_MS = 1000,
	EACH = 2 /* for a processor */
};

/* A process that never sleeps, and ends with this one. */
static pid_t spin(struct twohosts *p)
{
	pid_t pid = fork();

	if (pid < 0)
		th_fail(p, "fork");
	if (pid)
		return pid;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* cannot fail */
	for (volatile unsigned long n = 0;; n++)
		;
}

static void still_calm(struct twohosts *p, int host, uint64_t term)
{
	struct observed o;
	struct vm_view v;

	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "%s", o.first_violation);
	if (o.switches || o.last_host != host)
		th_fail(p, "the VM moved");
	if (th_view(p, host, &v))
		return; /* it is busy; the next look will tell */
	if (v.term != term || !v.protected)
		th_fail(p, "protection was lost: %s, term %llu", v.state,
			(unsigned long long)v.term);
}

static void saturate(struct twohosts *p, unsigned seconds)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int n = cpus * EACH < SPINNERS_MAX ? (int)cpus * EACH : SPINNERS_MAX;
	int host = th_protected(p, PROTECT_MS);
	uint64_t end, frames;
	pid_t pid[SPINNERS_MAX];
	struct observed o;
	struct vm_view v;

	if (th_view(p, host, &v))
		th_fail(p, "host %s does not answer", p->host[host].name);
	observer_read(p->obs, &o);
	frames = o.frames;
	end = clock_mono_ns() + seconds * 1000000000ull;
	for (int i = 0; i < n; i++)
		pid[i] = spin(p);
	while (clock_mono_ns() < end) {
		still_calm(p, host, v.term);
		th_sleep_ms(LOOK_MS);
	}
	for (int i = 0; i < n; i++) {
		(void)kill(pid[i], SIGKILL); /* a child of ours */
		th_reap(pid[i]);
	}
	/* However seldom the looks in between were answered: it is as it was. */
	if (th_wait_protected(p, PROTECT_MS) != host)
		th_fail(p, "not protected where it was");
	still_calm(p, host, v.term);
	observer_read(p->obs, &o);
	if (o.frames == frames)
		th_fail(p, "the guest said nothing all the time");
	printf("%u s with %d busy processes on %ld processors: calm, %llu frames\n",
	       seconds, n, cpus, (unsigned long long)(o.frames - frames));
}

int main(int argc, char **argv)
{
	unsigned seconds = 15;
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=64 net=1 disk=1 pace=1000",
		.memory_mib = 64,
		.vcpus = 1,
		.interval_us = 25000,
		.heartbeat_ms = 100,
		.missed = 3,
	};
	static struct twohosts p;

	th_begin(argc, argv, &seconds);
	th_up(&p, &opts);
	saturate(&p, seconds);
	th_end(&p);
	return 0;
}
