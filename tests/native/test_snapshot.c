/* SPDX-License-Identifier: Apache-2.0
 * test_snapshot - snapshots of two VHD disks while the guest writes both and is protected: on both hosts they hold the same
 * bytes, of one moment; hosts die before, during and after; and the VM goes on.
 *
 * The guest's turn n writes a block and the header of disk 0, then of disk 1, and checks them. So at any one moment
 * the headers are n and n, or n and n - 1, and each disk has all blocks up to its header. The observer
 * sees whether the guest itself finds what it wrote, whoever runs it.
 *
 *   test_snapshot [ROUNDS [SEED]]
 */
#include "hv/base/clock.h"
#include "tests/guest/proto.h"
#include "tests/native/observe.h"
#include "tests/native/twohosts.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	PROTECT_MS = 20000,
	LEAST_FRAMES = 20,
	DISK_BYTES = 16 << 20,
	BLOCKS = DISK_BYTES / GP_BLOCK - 1,
	WORDS = GP_BLOCK / 8,
	DIE_MS = 60,
	STOP_MS = 30000,
};

static const char *rheactl;
static const char *const stem[2] = {"disk", "disk2"};

/* Of other kinds on either host. */
static void disk_command(char *out, size_t room)
{
	(void)snprintf(out, room,
		       "r='%s image' && case $PWD in "
		       "*/a) $r create d1.vhd --size 16M --type fixed && "
		       "$r clone d1.vhd disk.vhd && "
		       "$r create disk2.vhd --size 16M --type fixed ;; "
		       "*) $r create disk.vhd --size 16M --block-size 64K && "
		       "$r create disk2.vhd --size 16M ;; esac >/dev/null",
		       rheactl); /* fits */
}

static uint64_t *load(struct twohosts *p, const char *path)
{
	uint64_t *w = malloc(DISK_BYTES);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (!w || fd < 0 || read(fd, w, DISK_BYTES) != DISK_BYTES)
		th_fail(p, "%s cannot be read", path);
	close(fd);
	return w;
}

/* The block at @at holds turn @n, whole. */
static int holds(const uint64_t *w, uint64_t at, uint64_t n)
{
	for (uint64_t i = 0; i < WORDS; i++)
		if (w[at * WORDS + i] != (n ^ i))
			return 0;
	return 1;
}

/* The turn that the disk's header tells; all blocks before it are there. */
static uint64_t turn_of(struct twohosts *p, const uint64_t *w, const char *what)
{
	uint64_t n = w[0], first = n >= BLOCKS ? n - BLOCKS + 2 : 1;

	if (!n || !holds(w, 0, n))
		th_fail(p, "%s: its header is torn", what);
	for (uint64_t k = first; k <= n; k++)
		if (!holds(w, 1 + k % BLOCKS, k))
			th_fail(p, "%s: header %llu, but block %llu is not there", what,
				(unsigned long long)n, (unsigned long long)k);
	return n;
}

/* Snapshot @name of both hosts: whole, the same, of one moment. Returns the turn. */
static uint64_t compare(struct twohosts *p, const char *name)
{
	uint64_t turn[2], *w;
	char path[400];

	for (int d = 0; d < 2; d++) {
		for (int i = 0; i < 2; i++)
			if (th_sh("rm -f %s/s.raw && %s image convert %s/%s@%s.vhd "
				  "%s/s.raw >/dev/null",
				  p->host[i].dir, rheactl, p->host[i].dir, stem[d], name,
				  p->host[i].dir))
				th_fail(p, "%s: snapshot %s of %s cannot be read",
					p->host[i].name, name, stem[d]);
		if (th_sh("cmp %s/s.raw %s/s.raw", p->host[0].dir, p->host[1].dir))
			th_fail(p, "snapshot %s of %s is not the same on both hosts",
				name, stem[d]);
		(void)snprintf(path, sizeof(path), "%s/s.raw", p->host[0].dir); /* fits */
		w = load(p, path);
		turn[d] = turn_of(p, w, name);
		free(w);
	}
	if (turn[0] != turn[1] && turn[0] != turn[1] + 1)
		th_fail(p, "snapshot %s: disks of turns %llu and %llu", name,
			(unsigned long long)turn[0], (unsigned long long)turn[1]);
	return turn[1];
}

/* rheactl's answer is an object with this at its front, which is returned owned; else the test ends. */
static json_t *ask(struct twohosts *p, int host, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static json_t *ask(struct twohosts *p, int host, const char *fmt, ...)
{
	char words[256];
	va_list ap;
	json_t *o;

	va_start(ap, fmt);
	(void)vsnprintf(words, sizeof(words), fmt, ap); /* fits */
	va_end(ap);
	o = th_rheactl(p, host, words);
	if (!o)
		th_fail(p, "rheactl %s: no answer", words);
	return o;
}

static const char *text(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

/* What a death has broken off is given up after a while; until then another one is refused. */
static void create(struct twohosts *p, int host, const char *name)
{
	uint64_t end = clock_mono_ns() + STOP_MS * UINT64_C(1000000);
	char words[64];
	json_t *o;

	(void)snprintf(words, sizeof(words), "snapshot create v %s", name); /* fits */
	while (o = th_rheactl(p, host, words), !text(o, "peer")[0]) {
		if (clock_mono_ns() > end)
			th_fail(p, "rheactl %s: %s", words, text(o, "error"));
		json_decref(o);
		th_sleep_ms(50);
	}
	if (strcmp(text(o, "peer"), "complete") != 0)
		th_fail(p, "snapshot %s: peer %s: %s", name, text(o, "peer"),
			text(o, "peer_why"));
	json_decref(o);
}

static json_t *find(json_t *list, const char *name)
{
	json_t *s;
	size_t i;

	json_array_foreach(list, i, s) if (!strcmp(text(s, "name"), name)) return s;
	return NULL;
}

/* Is @name complete on both hosts, as @host lists them? */
static void expect_both(struct twohosts *p, int host, const char *name)
{
	json_t *o = ask(p, host, "snapshot list v");
	json_t *here = find(json_object_get(o, "snapshots"), name);
	json_t *there = find(json_object_get(o, "peer_snapshots"), name);

	if (!json_is_true(json_object_get(here, "complete")) ||
	    !json_is_true(json_object_get(there, "complete")))
		th_fail(p, "snapshot %s is not complete on both hosts (%s, %s)", name,
			text(here, "state"), text(there, "state"));
	if (!json_equal(json_object_get(here, "epoch"), json_object_get(there, "epoch")))
		th_fail(p, "snapshot %s: two moments", name);
	json_decref(o);
}

static void refused(struct twohosts *p, int host, const char *words)
{
	if (!th_sh("timeout 60 %s --socket %s %s >/dev/null 2>&1", rheactl,
		   p->host[host].sock, words))
		th_fail(p, "rheactl %s was not refused", words);
}

/* Taken while it is written, listed, cloned, and there after a takeover. */
static void one_round(struct twohosts *p, unsigned round)
{
	int host = th_protected(p, PROTECT_MS);
	char name[16];
	struct vm_view v;
	uint64_t turn;

	(void)snprintf(name, sizeof(name), "s%u", round); /* fits */
	th_goes_on(p, host, LEAST_FRAMES, PROTECT_MS);
	create(p, host, name);
	expect_both(p, host, name);
	expect_both(p, !host, name);
	th_goes_on(p, host, LEAST_FRAMES, PROTECT_MS);
	turn = compare(p, name);
	if (th_sh("cd %s && %s image clone disk@%s.vhd clone.vhd && %s image check "
		  "clone.vhd >/dev/null && rm clone.vhd",
		  p->host[host].dir, rheactl, name, rheactl))
		th_fail(p, "snapshot %s cannot be cloned", name);
	refused(p, host, "snapshot create v s0");
	refused(p, host, "snapshot create v ../evil");
	refused(p, !host, "snapshot create v other");
	if (th_view(p, host, &v) || kill(v.pid, SIGKILL))
		th_fail(p, "no process to kill");
	th_goes_on(p, !host, LEAST_FRAMES, PROTECT_MS);
	if (compare(p, name) != turn)
		th_fail(p, "snapshot %s has changed", name);
}

/* While the guest writes: one below another, then the one that is left; what both hold stays the same. */
static void delete_some(struct twohosts *p)
{
	int host = th_protected(p, PROTECT_MS);
	json_t *o;

	create(p, host, "low");
	th_goes_on(p, host, LEAST_FRAMES, PROTECT_MS);
	create(p, host, "high");
	th_goes_on(p, host, LEAST_FRAMES, PROTECT_MS);
	(void)compare(p, "high");
	for (unsigned i = 0; i < 2; i++) {
		o = ask(p, host, "snapshot delete v %s", i ? "high" : "low");
		if (strcmp(text(o, "peer"), "deleted") != 0)
			th_fail(p, "it is not deleted on the other host: %s %s",
				text(o, "peer"), text(o, "peer_why"));
		json_decref(o);
		th_goes_on(p, host, LEAST_FRAMES, PROTECT_MS);
		if (!i)
			(void)compare(p, "high");
		o = ask(p, host, "snapshot list v");
		if (find(json_object_get(o, "snapshots"), i ? "high" : "low") ||
		    find(json_object_get(o, "peer_snapshots"), i ? "high" : "low"))
			th_fail(p, "a deleted snapshot is listed");
		json_decref(o);
	}
	refused(p, host, "snapshot delete v high");
}

/* One of the hosts dies while one is made: it is on a host or it is not, and the VM goes on. */
static void die_in_it(struct twohosts *p, unsigned round)
{
	int host = th_protected(p, PROTECT_MS), victim = host ^ (int)th_random(2);
	struct vm_view v;
	json_t *o;
	pid_t pid;

	if (th_view(p, victim, &v))
		th_fail(p, "no process to kill");
	pid = fork();
	if (pid < 0)
		th_fail(p, "fork");
	if (!pid)
		_exit(th_sh("timeout 60 %s --socket %s snapshot create v d%u "
			    ">/dev/null 2>&1",
			    rheactl, p->host[host].sock, round)
			      ? 1
			      : 0);
	th_sleep_ms(th_random(DIE_MS));
	if (kill(v.pid, SIGKILL))
		th_fail(p, "no process to kill");
	th_reap(pid);
	host = th_protected(p, PROTECT_MS);
	th_goes_on(p, host, LEAST_FRAMES, PROTECT_MS);
	o = ask(p, host, "snapshot list v");
	for (int i = 0; i < 2; i++) {
		char name[16];
		json_t *s;

		(void)snprintf(name, sizeof(name), "d%u", round); /* fits */
		s = find(json_object_get(o, i ? "peer_snapshots" : "snapshots"), name);
		printf("%s: on %s %s\n", name, p->host[i ? !host : host].name,
		       s ? text(s, "state") : "nothing");
	}
	json_decref(o);
}

/* Off on both hosts, in good order. */
static void stop(struct twohosts *p)
{
	uint64_t end = clock_mono_ns() + (uint64_t)STOP_MS * 1000000;
	struct vm_view v;

	json_decref(th_rheactl(p, th_protected(p, PROTECT_MS),
			       "vm stop v")); /* awaited here */
	for (int i = 0; i < 2; i++)
		while (th_view(p, i, &v) || v.pid || strcmp(v.state, "off") != 0) {
			if (clock_mono_ns() > end)
				th_fail(p, "host %s is not off but %s", p->host[i].name,
					v.state);
			th_sleep_ms(5);
		}
}

/* Its disks are those of the snapshot again, and from there it is protected as before. */
static void go_back(struct twohosts *p)
{
	int host = th_protected(p, PROTECT_MS);

	create(p, host, "then");
	(void)compare(p, "then");
	th_goes_on(p, host, LEAST_FRAMES, PROTECT_MS);
	stop(p);
	refused(p, host, "snapshot revert v none --no-start");
	refused(p, !host, "snapshot revert v then --no-start");
	if (th_sh("timeout 60 %s --socket %s snapshot revert v then --no-start >/dev/null",
		  rheactl, p->host[host].sock))
		th_fail(p, "the VM's disks cannot be reverted");
	for (int d = 0; d < 2; d++)
		if (th_sh("cd %s && for i in %s@then %s; do %s image convert $i.vhd $i.raw "
			  ">/dev/null || exit 1; done; cmp %s@then.raw %s.raw && rm *.raw",
			  p->host[host].dir, stem[d], stem[d], rheactl, stem[d], stem[d]))
			th_fail(p, "%s is not what the snapshot holds", stem[d]);
	observer_allow_boots(p->obs);
	if (th_sh("timeout 60 %s --socket %s vm start v >/dev/null", rheactl,
		  p->host[host].sock))
		th_fail(p, "the VM cannot be started from the snapshot");
	if (th_protected(p, PROTECT_MS) != host)
		th_fail(p, "the VM was started elsewhere");
	th_goes_on(p, host, LEAST_FRAMES, PROTECT_MS);
	expect_both(p, host, "then");
}

/* A rhea-vm ends a moment after its rhead. */
static void wait_free(struct twohosts *p, int host, const char *file)
{
	char path[300];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s.vhd", p->host[host].dir,
		       file); /* fits */
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX))
		th_fail(p, "%s cannot be locked", path);
	close(fd);
}

/* Both hosts' chains are whole, and hold the same. */
static void compare_ends(struct twohosts *p)
{
	for (int d = 0; d < 2; d++) {
		for (int i = 0; i < 2; i++) {
			wait_free(p, i, stem[d]);
			if (th_sh("cd %s && %s image check %s.vhd >/dev/null && rm -f s.raw && %s "
				  "image convert %s.vhd s.raw >/dev/null",
				  p->host[i].dir, rheactl, stem[d], rheactl, stem[d]))
				th_fail(p, "host %s: %s is damaged", p->host[i].name,
					stem[d]);
		}
		if (th_sh("cmp %s/s.raw %s/s.raw", p->host[0].dir, p->host[1].dir))
			th_fail(p, "%s is not the same on both hosts", stem[d]);
	}
}

int main(int argc, char **argv)
{
	unsigned rounds = 2;
	char disk[1500];
	struct th_opts opts = {
		.cmdline =
			"mode=counter dirty=64 net=1 disk=2 flush=7 pace=1000 button=1",
		.memory_mib = 32,
		.vcpus = 1,
		.interval_us = 10000,
		.heartbeat_ms = 50,
		.missed = 5,
		.disk = disk,
		.two_vhd = 1,
	};
	static struct twohosts p;
	th_begin(argc, argv, &rounds);
	rheactl = th_built("rheactl");
	disk_command(disk, sizeof(disk));
	th_up(&p, &opts);
	for (unsigned r = 0; r < rounds; r++)
		one_round(&p, r);
	delete_some(&p);
	for (unsigned r = 0; r < rounds; r++)
		die_in_it(&p, r);
	go_back(&p);
	stop(&p);
	th_down(&p);
	compare_ends(&p);
	th_end(&p);
	printf("%u snapshots under load\n", rounds);
	return 0;
}
