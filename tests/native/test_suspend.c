/* SPDX-License-Identifier: Apache-2.0
 * test_suspend - a guest is saved on both hosts and goes on, on either, exactly where it was; whatever
 * dies at whatever point in between, it goes on somewhere, and never twice.
 *
 * In each turn the guest compares its memory, its disk and its count; the observer sees that no count
 * is ever said twice, and that it is never booted anew.
 *
 *   test_suspend [TIMES [SEED]]      default: once each
 */
#include "hv/base/clock.h"
#include "remus/crashpoint.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WAIT_MS = 20000, ENOUGH = 30, HEAD = 4096 };

static struct observed look(struct twohosts *p, const char *when)
{
	struct observed o;

	observer_read(p->obs, &o);
	if (o.violations)
		th_fail(p, "%s: %s", when, o.first_violation);
	return o;
}

static uint64_t deadline(void)
{
	return clock_mono_ns() + (uint64_t)WAIT_MS * 1000000;
}

/* Begin rheactl vm ... on @host. */
static pid_t begin(struct twohosts *p, int host, const char *what)
{
	const char *out = getenv("B") ? getenv("B") : "build/out";
	char cmd[512];
	pid_t pid;

	(void)snprintf(
		cmd, sizeof(cmd),
		"exec timeout 60 %s/rheactl --socket %s vm %s v >>%s/rheactl.log 2>&1",
		out, p->host[host].sock, what, p->dir); /* fits */
	pid = fork();
	if (!pid)
		execl("/bin/sh", "sh", "-c", cmd, NULL);
	if (pid <= 0)
		th_fail(p, "rheactl vm %s cannot be begun", what);
	return pid;
}

/* Its exit status. */
static int end(pid_t pid)
{
	int status;

	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status)
								    : -1;
}

static void must(struct twohosts *p, int host, const char *what, int status)
{
	int is = end(begin(p, host, what));

	if (is != status)
		th_fail(p, "vm %s on host %s: exit status %d, not %d", what,
			p->host[host].name, is, status);
}

static void wait_state(struct twohosts *p, int host, const char *state)
{
	uint64_t until = deadline();
	struct vm_view v = {0};

	while (th_view(p, host, &v) || strcmp(v.state, state) != 0 ||
	       (!strcmp(state, "off") && v.pid)) {
		if (clock_mono_ns() > until)
			th_fail(p, "host %s is %s, not %s", p->host[host].name, v.state,
				state);
		th_sleep_ms(2);
	}
}

/* So many more frames, from @host, or -1: from either. Returns who. */
static int goes_on(struct twohosts *p, int host, const char *when)
{
	struct observed was = look(p, when), is;
	uint64_t until = deadline(), more[2];

	for (;;) {
		is = look(p, when);
		for (int i = 0; i < 2; i++) {
			more[i] = is.from[i] - was.from[i];
			if (more[i] >= ENOUGH && (host < 0 || host == i))
				return i;
		}
		if (clock_mono_ns() > until)
			th_fail(p, "%s: the guest does not go on", when);
		th_sleep_ms(1);
	}
}

static int protected_on(struct twohosts *p, const char *when)
{
	int host = th_wait_protected(p, WAIT_MS);

	if (host < 0)
		th_fail(p, "%s: it is not protected", when);
	return goes_on(p, host, when);
}

static off_t file_size(struct twohosts *p, int host)
{
	char path[300];
	struct stat st;

	(void)snprintf(path, sizeof(path), "%s/state/v.saved", p->host[host].dir);
	return stat(path, &st) ? -1 : st.st_size;
}

static int is_saved(struct twohosts *p, int host)
{
	json_t *o = th_rheactl(p, host, "status");
	json_t *vm = json_array_get(json_object_get(o, "vms"), 0);
	int r = json_is_true(json_object_get(vm, "suspended"));

	json_decref(o);
	return r;
}

static void silent_while_off(struct twohosts *p)
{
	uint64_t n = look(p, "suspended").frames;

	th_sleep_ms(20);
	if (look(p, "suspended").frames != n)
		th_fail(p, "a suspended guest speaks");
}

/* Suspended where it runs, resumed @there (0: on the same host). */
static void once(struct twohosts *p, int there)
{
	int host = protected_on(p, "before a suspend");

	must(p, host, "suspend", 0);
	wait_state(p, host, "off");
	wait_state(p, !host, "off");
	silent_while_off(p);
	if (!is_saved(p, 0) || !is_saved(p, 1) || file_size(p, 0) <= HEAD ||
	    file_size(p, 1) <= HEAD)
		th_fail(p, "it is not saved on both hosts");
	must(p, host, "start", 1); /* it would lose the guest */
	must(p, there ? !host : host, "resume", 0);
	(void)goes_on(p, there ? !host : host, "resumed");
	if (protected_on(p, "resumed") != (there ? !host : host))
		th_fail(p, "resumed, it changed hosts");
	if (is_saved(p, 0) || is_saved(p, 1))
		th_fail(p, "it runs, and is said to be saved");
	must(p, host, "resume", 1);
}

/* Both hosts lose power while it is suspended. */
static void outage(struct twohosts *p)
{
	int host = protected_on(p, "before an outage");

	must(p, host, "suspend", 0);
	wait_state(p, !host, "off");
	th_hosts_end(p);
	th_rhead_start(p, 0);
	th_rhead_start(p, 1);
	wait_state(p, 0, "off");
	wait_state(p, 1, "off");
	silent_while_off(p);
	must(p, host, "resume", 0);
	(void)goes_on(p, host, "resumed after an outage");
}

/* Suspended with nobody to stand by. */
static void alone(struct twohosts *p)
{
	int host = protected_on(p, "before alone");
	pid_t other = p->host[!host].rhead;

	(void)kill(other, SIGKILL); /* it is our child */
	th_reap(other);
	p->host[!host].rhead = 0;
	wait_state(p, host, "running-alone");
	(void)goes_on(p, host, "alone");
	must(p, host, "suspend", 0);
	wait_state(p, host, "off");
	th_rhead_start(p, !host);
	if (is_saved(p, !host))
		th_fail(p, "a host that was away says that it has the guest");
	must(p, host, "resume", 0);
	(void)goes_on(p, host, "resumed alone");
}

/* Somebody dies at @at. Then it runs on the other host, or goes on here, or is suspended, and then it
 * is resumed. */
static void dies(struct twohosts *p, enum crash_point at, int resume_there)
{
	const char *point = crash_point_name(at);
	int host = protected_on(p, point), victim = at == CRASH_COPY_SAVED ? !host : host;
	uint64_t until = deadline();
	struct vm_view v[2] = {0};
	pid_t pid;

	th_crash_at(p, victim, point);
	pid = begin(p, host, "suspend");
	while (!th_crashed(p, victim)) {
		if (clock_mono_ns() > until)
			th_fail(p, "%s: nobody came there", point);
		th_sleep_ms(1);
	}
	(void)end(pid); /* it may have been done, or not */
	until = deadline();
	for (;;) {
		int known = !th_view(p, 0, &v[0]) && !th_view(p, 1, &v[1]);

		if (known && (v[0].protected || v[1].protected))
			break;
		if (known && !strcmp(v[0].state, "off") && !strcmp(v[1].state, "off") &&
		    !v[0].pid && !v[1].pid) {
			must(p, resume_there && is_saved(p, !host) ? !host : host,
			     "resume", 0);
			printf("%s: suspended\n", point);
			(void)protected_on(p, point);
			return;
		}
		if (clock_mono_ns() > until)
			th_fail(p, "%s: host a is %s, host b is %s", point, v[0].state,
				v[1].state);
		th_sleep_ms(2);
	}
	printf("%s: goes on on host %s\n", point, v[0].protected ? "a" : "b");
	(void)goes_on(p, v[0].protected ? 0 : 1, point);
}

/* Who resumes it dies before the guest's first instruction. */
static void dies_resuming(struct twohosts *p, enum crash_point at)
{
	const char *point = crash_point_name(at);
	int host = protected_on(p, point);

	must(p, host, "suspend", 0);
	wait_state(p, host, "off");
	th_crash_at(p, host, point);
	must(p, host, "resume", 1);
	if (!th_crashed(p, host) || !is_saved(p, host))
		th_fail(p, "%s: it was not resumed, and is not suspended", point);
	must(p, host, "resume", 0);
	(void)goes_on(p, host, point);
}

static void discard(struct twohosts *p)
{
	int host = protected_on(p, "before a discard");
	uint64_t boots;

	observer_allow_boots(p->obs);
	boots = look(p, "discard").boots;
	must(p, host, "suspend", 0);
	must(p, host, "start --discard", 0);
	(void)goes_on(p, host, "discard");
	if (look(p, "discard").boots != boots + 1 || file_size(p, host) >= 0)
		th_fail(p, "a start that discards did not");
}

static void all(struct twohosts *p)
{
	once(p, 0);
	once(p, 1);
	outage(p);
	alone(p);
	for (int at = CRASH_HELD; at <= CRASH_COPY_SAVED; at++)
		dies(p, (enum crash_point)at, at == CRASH_FORGOTTEN);
	dies_resuming(p, CRASH_LOADED);
}

int main(int argc, char **argv)
{
	unsigned times = 1;
	struct th_opts opts = {
		.cmdline = "mode=counter dirty=64 net=1 disk=1 flush=7 pace=500",
		.memory_mib = 32,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = 50,
		.missed = 5,
	};
	static struct twohosts p;
	uint64_t boots;

	th_begin(argc, argv, &times);
	th_up(&p, &opts);
	for (unsigned i = 0; i < times; i++)
		all(&p);
	discard(&p);
	/* A file that is used is no guest: it boots. */
	boots = look(&p, "used").boots;
	dies_resuming(&p, CRASH_USED);
	if (look(&p, "used").boots != boots + 1)
		th_fail(&p, "a guest ran twice from one file");
	printf("suspended and resumed, n=%llu\n",
	       (unsigned long long)look(&p, "at the end").last_n);
	th_end(&p);
	return 0;
}
