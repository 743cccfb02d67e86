/* SPDX-License-Identifier: Apache-2.0
 * test_resize - disks grow under a guest that writes, protected and alone: it sees and uses what it got, finds it empty, and
 * has it after a takeover; a host that dies at any moment of it leaves the old size or the new one, and the same command
 * again makes it the new one; both hosts' disks are the same in the end.
 *
 *   test_resize [ROUNDS [SEED]]
 */
#include "hv/base/clock.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	PROTECT_MS = 20000,
	LEAST_FRAMES = 20,
	FIRST_MIB = 16, /* both disks */
	SMALL_MIB = 160,
	BLOCK = 4096,
	MIB_BLOCKS = (1 << 20) / BLOCK,
};

static const char *rheactl;
static struct twohosts p;

/* Raw is disk 0. Disk 1 is a dynamic VHD on a, whose table has no room to grow where it is; on b a fixed one that is alone with a
 * filler on a small file system, and has all of its own bytes. */
static struct th_opts options(void)
{
	static char disk[1500];

	(void)snprintf(disk, sizeof(disk),
		       "r='%s image create' && case $PWD in "
		       "*/a) $r disk.vhd --size %dM --block-size 64K ;; "
		       "*) mkdir small && mount -t tmpfs -o size=%dM none small && "
		       "$r small/disk.vhd --size %dM --type fixed && "
		       "dd if=/dev/zero of=small/disk.vhd bs=1M count=%d conv=notrunc "
		       "2>/dev/null && { dd if=/dev/zero of=small/filler bs=4k "
		       "2>/dev/null; ln -s small/disk.vhd disk.vhd; } ;; esac",
		       rheactl, FIRST_MIB, SMALL_MIB, FIRST_MIB, FIRST_MIB); /* fits */
	return (struct th_opts){
		.cmdline = "mode=counter dirty=64 net=1 disk=2 grow=1 flush=7 pace=2000",
		.memory_mib = 32,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = 50,
		.missed = 5,
		.disk = disk,
		.both_kinds = 1,
	};
}

static void look(struct observed *o)
{
	observer_read(p.obs, o);
	if (o->violations)
		th_fail(&p, "%s", o->first_violation);
}

/* The guest goes on, on @host, with disks of so many MiB together. */
static void await_size(int host, unsigned mib, const char *what)
{
	uint64_t end = clock_mono_ns() + (uint64_t)PROTECT_MS * 1000000, from;
	struct observed o;

	look(&o);
	from = o.from[host];
	while (o.from[host] < from + LEAST_FRAMES ||
	       o.blocks != (uint64_t)mib * MIB_BLOCKS) {
		if (clock_mono_ns() > end)
			th_fail(&p, "%s: host %s, %u MiB: the guest has %llu blocks",
				what, p.host[host].name, mib,
				(unsigned long long)o.blocks);
		th_sleep_ms(1);
		look(&o);
	}
}

/* 1: it is done, *standby says whether on both; 0: it was refused, and @why says what is in that. */
static int resize(int host, unsigned disk, unsigned mib, int *standby, const char **why)
{
	static char text[256];
	char args[128];
	json_t *o;
	int ok;

	(void)snprintf(args, sizeof(args), "disk resize v %u %uM", disk, mib); /* fits */
	o = th_rheactl(&p, host, args);
	(void)snprintf(text, sizeof(text), "%s",
		       json_string_value(json_object_get(o, "why"))
			       ? json_string_value(json_object_get(o, "why"))
			       : "no answer"); /* cutting is fine */
	*why = text;
	*standby = json_is_true(json_object_get(o, "standby"));
	ok = json_is_object(o) && !text[0];
	json_decref(o);
	return ok;
}

static void must_resize(int host, unsigned disk, unsigned mib, int on_both)
{
	const char *why;
	int standby;

	if (!resize(host, disk, mib, &standby, &why))
		th_fail(&p, "disk %u does not become %u MiB: %s", disk, mib, why);
	if (standby != on_both)
		th_fail(&p, "disk %u, %u MiB: the standby %s it", disk, mib,
			standby ? "has" : "has not");
}

static void must_refuse(int host, unsigned disk, unsigned mib, const char *words)
{
	const char *why;
	int standby;

	if (resize(host, disk, mib, &standby, &why) || !strstr(why, words))
		th_fail(&p, "disk %u to %u MiB: not refused because \"%s\" but \"%s\"",
			disk, mib, words, why);
}

static int protected_on(void)
{
	int host = th_wait_protected(&p, PROTECT_MS);

	if (host < 0)
		th_fail(&p, "the VM is not protected");
	return host;
}

/* All chunks of both hosts' disks are the same. */
static void verify(int host)
{
	json_t *o = th_rheactl(&p, host, "disk verify v");

	if (!json_is_object(o) || json_integer_value(json_object_get(o, "differ")) ||
	    json_string_length(json_object_get(o, "why")))
		th_fail(&p, "the disks differ, or could not be compared: %s",
			o ? json_dumps(o, JSON_COMPACT) : "no answer");
	json_decref(o);
}

static void kill_vm(int host)
{
	struct vm_view v;

	if (th_view(&p, host, &v) || !v.pid || kill(v.pid, SIGKILL))
		th_fail(&p, "no process to kill on host %s", p.host[host].name);
}

static int take_over(void)
{
	int host = protected_on();

	kill_vm(host);
	return !host;
}

static void remove_small(void)
{
	char cmd[400];

	(void)snprintf(cmd, sizeof(cmd), "umount -l %s/small && rm -rf %s", p.host[1].dir,
		       p.dir); /* fits */
	if (system(cmd))
		(void)fprintf(stderr, "%s/small is left\n", p.host[1].dir);
}

/* No room on the standby, then none where the guest runs: nothing has changed, and once there is some it grows. */
static void no_room(void)
{
	int host = protected_on(), small = 1;
	char path[1024];

	if (host == small)
		th_fail(&p, "the VM begins on the wrong host");
	must_refuse(host, 1, 30, "the standby has no room for it (No space left");
	await_size(host, 2 * FIRST_MIB, "refused");
	host = take_over();
	await_size(host, 2 * FIRST_MIB, "taken over by who has no room");
	protected_on();
	must_refuse(host, 1, 30, "this host has no room for it (No space left");
	await_size(host, 2 * FIRST_MIB, "refused again");
	(void)snprintf(path, sizeof(path), "%s/small/filler",
		       p.host[small].dir); /* fits */
	if (unlink(path))
		th_fail(&p, "%s cannot be removed", path);
	must_resize(host, 1, 30, 1);
	await_size(host, FIRST_MIB + 30, "with room");
	verify(host);
}

/* Both disks grow in step; then the other host has them, too. */
static void in_step(void)
{
	int host = protected_on();

	must_resize(host, 0, 24, 1);
	await_size(host, 24 + 30, "raw, in step");
	must_resize(host, 1, 40, 1);
	await_size(host, 24 + 40, "VHD, in step");
	must_resize(host, 1, 40, 1); /* again: nothing to do */
	must_refuse(host, 0, 23, "cannot become smaller");
	must_refuse(host, 1, 2040 * 1024 + 1, "size");
	verify(host);
	host = take_over();
	await_size(host, 24 + 40, "taken over");
}

/* While the other host is down; it is brought to that size when it returns, and then goes on with it. */
static void alone(void)
{
	int host = protected_on(), other = !host;

	if (kill(p.host[other].rhead, SIGKILL))
		th_fail(&p, "no rhead to kill");
	th_reap(p.host[other].rhead);
	p.host[other].rhead = 0;
	await_size(host, 24 + 40, "alone");
	must_resize(host, 0, 30, 0);
	must_resize(host, 1, 50, 0);
	await_size(host, 30 + 50, "grown alone");
	th_rhead_start(&p, other);
	if (protected_on() != host)
		th_fail(&p, "the VM has moved");
	verify(host);
	must_resize(host, 0, 32, 1);
	host = take_over();
	await_size(host, 32 + 50, "taken over by who was away");
}

/* rheactl in the background, and either host's rhea-vm dies at any moment. */
static void dies_meanwhile(unsigned round, unsigned *mib)
{
	int host = protected_on(), ran = host, victim = th_random(2) ? host : !host;
	unsigned disk = th_random(2), to = mib[disk] + 1 + th_random(4);
	char cmd[1200];
	struct observed o;
	pid_t child = fork();

	if (child < 0)
		th_fail(&p, "fork");
	(void)snprintf(cmd, sizeof(cmd),
		       "exec '%s' --socket %s disk resize v %u %uM >/dev/null 2>&1",
		       rheactl, p.host[host].sock, disk, to); /* fits */
	if (!child) {
		execl("/bin/sh", "sh", "-c", cmd, NULL);
		_exit(127);
	}
	th_sleep_ms(th_random(60)); /* any moment is right, that is the test */
	kill_vm(victim);
	th_reap(child);
	host = protected_on();
	look(&o);
	/* Whatever was left half done. */
	must_resize(host, disk, to, 1);
	mib[disk] = to;
	await_size(host, mib[0] + mib[1], "resized once more");
	verify(host);
	printf("round %u: disk %u, %u MiB, %s died\n", round, disk, to,
	       victim == ran ? "who ran it" : "the other");
}

int main(int argc, char **argv)
{
	unsigned rounds = 4;
	unsigned mib[2] = {32, 50};
	struct th_opts opts;

	th_begin(argc, argv, &rounds);
	rheactl = th_built("rheactl");
	opts = options();
	if (atexit(remove_small))
		return 1;
	th_up(&p, &opts);
	no_room();
	in_step();
	alone();
	for (unsigned r = 0; r < rounds; r++)
		dies_meanwhile(r, mib);
	printf("disks of %u and %u MiB\n", mib[0], mib[1]);
	th_down(&p); /* remove_small() removes the files */
	return 0;
}
